"""Waiting for a server that the lab does not start itself: what looks after it does."""

from __future__ import annotations

from cutover.core.wait import Not, wait_until
from lab.processes import Ready


def wait_for(ready: Ready, *, deadline: float, what: str) -> None:
    """Wait for what is not this lab's own process to start. Raises :class:`TimedOut` with the last reason."""

    def is_ready() -> bool | Not:
        why = ready()
        return Not(why) if why is not None else True

    wait_until(is_ready, deadline=deadline, what=what)
