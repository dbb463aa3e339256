"""Waiting for a fact with a deadline.

Nothing in this project sleeps and hopes. A wait names what it waits for, asks again until the fact is there, and when
the deadline passes it ends with the last reason why it was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from cutover.core.errors import CutoverError

T = TypeVar("T")
#: Told while something is waited for: what, why not yet, seconds so far and at most; and ``None`` when that has ended.
Observer = Callable[[tuple[str, str, float, float] | None], None]
_OBSERVERS: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tell ``observer`` of every wait while the block lasts. What it cannot show is nobody's failure."""
    _OBSERVERS.append(observer)
    try:
        yield
    finally:
        _OBSERVERS.remove(observer)


def _tell(of: tuple[str, str, float, float] | None) -> None:
    for observer in tuple(_OBSERVERS):
        with suppress(Exception):
            observer(of)


@dataclass(frozen=True)
class Not:
    """ "Not yet", with the reason that a reader would want to see when the deadline passes."""

    reason: str


class TimedOut(CutoverError):
    """The deadline passed; the sentence ends with the last reason."""


def wait_until(fact: Callable[[], T | Not], *, deadline: float, what: str, every: float = 0.1) -> T:
    """Ask ``fact`` until it returns something other than :class:`Not`, at most ``deadline`` seconds.

    ``fact`` is asked at least once, and once more after the deadline has passed while it was being waited for, so
    that an answer that arrived during the last pause is not thrown away. Exceptions of ``fact`` pass through.
    """
    began = time.monotonic()
    end = began + deadline
    try:
        while True:
            late = time.monotonic() >= end
            found = fact()
            if not isinstance(found, Not):
                return found
            if late:
                within = round(deadline, 1 if deadline >= 1 else 3)
                msg = f"{what} did not happen within {within:g} s: {found.reason.rstrip('.')}."
                raise TimedOut(msg)
            _tell((what, found.reason, time.monotonic() - began, deadline))
            time.sleep(max(0.0, min(every, end - time.monotonic())))
    finally:
        _tell(None)
