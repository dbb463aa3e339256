"""The hold: for a moment writes wait at Nginx, and within that moment the traffic is moved, or nothing has happened.

`switch`, `back` and the way back from the records alone use the same one. It has a budget, ``limits.hold_seconds``: the Nginx
host ends it by itself after that time, also where this tool was killed, and then refuses the flag. So whoever moves the traffic
asks :meth:`Hold.left` before anything that takes time, and :meth:`Hold.point` last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cutover.core.errors import CutoverError, Refused

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.gate.interface import Side

#: A held write looks again every 200 ms, so it waits up to that much longer than the hold, and a little to be answered.
LOOKS_AGAIN = 0.25
#: Kept for setting the flag, which the Nginx host refuses when the hold was over by its clock.
RESERVE = 0.15


class TooMuchForAHold(CutoverError):
    """Writes arrived that can only be followed while writes are not held."""


def budget(context: Context) -> float:
    """Seconds that a hold may take, so that no write waits longer than ``limits.hold_seconds``."""
    return context.site.limits.hold_seconds - LOOKS_AGAIN


@dataclass
class Hold:
    """Writes wait from the beginning of the block to its end.

    ``step`` is the step of the plan that holds, for the journal; ``serving`` and ``other`` name the two servers. ``steps`` says
    when each part of the work was done, ``held`` how long all of it took, in seconds.
    """

    context: Context
    step: str
    serving: str
    other: str
    steps: dict[str, float] = field(default_factory=dict)
    held: float = 0.0
    _began: float = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        try:
            with self.context.guard.act(f"{self.step}.hold", "Hold writes", before={"serves": self.serving}, passing=True):
                self.context.gate.hold(budget(self.context))
                # The time counts from the moment at which the hold was seen to be in force.
                self._began = time.monotonic()
        except BaseException:
            release(self.context, self.step)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        release(self.context, self.step)
        self.held = self.lap("released")

    def seconds(self) -> float:
        """How long writes have been held."""
        return time.monotonic() - self._began

    def left(self, reserve: float = RESERVE) -> float:
        """Seconds that are left for what comes next; :class:`TooMuchForAHold` where there are none."""
        rest = budget(self.context) - reserve - self.seconds()
        if rest <= 0:
            raise TooMuchForAHold(f"The proof was not there within {budget(self.context):.2f} s.")
        return rest

    def lap(self, name: str) -> float:
        """Note that a part of the work is done; returns the seconds since the hold began."""
        self.steps[name] = round(self.seconds(), 4)
        return self.steps[name]

    def point(self, to: Side) -> None:
        """Move the traffic. :class:`TooMuchForAHold`, with nothing changed, where the Nginx host has ended the hold already."""
        gate = self.context.gate
        with self.context.guard.act(
            f"{self.step}.point", f"Send requests to {self.other}", before={"serves": self.serving}
        ) as act:
            try:
                (gate.point_to_new if to == "new" else gate.point_to_old)()
            except Refused as error:
                raise TooMuchForAHold(error.sentence) from error
            act.after = {"serves": self.other}
            self.lap("pointed")


def release(context: Context, step: str) -> None:
    """End the hold. That it cannot be ended is said, but is no failure: it ends by itself."""
    try:
        with context.guard.act(f"{step}.release", "End the hold", passing=True):
            context.gate.release()
    except CutoverError as error:
        context.ui.say(f"The hold could not be ended from here ({error.sentence}); the Nginx host ends it by itself.")


def end_abandoned(context: Context, step: str) -> None:
    """End a hold that a killed run left behind. The Nginx host does so itself after a moment; this does not wait for it."""
    if context.gate.state().held:
        with context.guard.act(f"{step}.release", "End the hold that an interrupted run left behind", passing=True):
            context.gate.release()
