"""Giving way: while the server that serves is slow for others, the tool's own work waits.

A small read goes through Nginx, as an application's would, a few times a second. Where it takes longer than ``limits.slow_ms``,
and longer than twice what it took before the work began, whatever asks :meth:`Throttle.give_way` between two pieces of its work
waits; never longer than a moment for each piece, because a server that is always slow has to be moved as well.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cutover.core.errors import CutoverError
from cutover.qdrant.looking import some

if TYPE_CHECKING:
    from cutover.context import Context

#: Seconds between two reads; how many of them make a judgement; the longest wait of one piece of work.
EVERY, LAST, LONGEST = 0.2, 5, 1.0


def why_slow(before: Sequence[float], last: Sequence[float], slow_ms: float) -> str:
    """Why others are served too slowly, a clause; empty where they are not. Times in seconds: before the work, and the last."""
    if not before or not last:
        return ""
    usual, now = statistics.median(before) * 1000, statistics.median(last) * 1000
    if now <= slow_ms or now <= 2 * usual:
        return ""
    return f"a small read through Nginx takes {now:.0f} ms, and took {usual:.0f} ms before (limits.slow_ms is {slow_ms:g})"


class Throttle:
    """``with Throttle(read, 50) as throttle: ... throttle.give_way()``. ``read`` is the small read; it may fail."""

    def __init__(
        self, read: Callable[[], object], slow_ms: float, say: Callable[[str], None] = lambda _s: None, *, every: float = EVERY
    ) -> None:
        self._read, self._slow_ms, self._say, self._every = read, slow_ms, say, every
        self._before: list[float] = []
        self._last: deque[float] = deque(maxlen=LAST)
        self._over, self._changed = threading.Event(), threading.Condition()
        self._thread: threading.Thread | None = None
        self.reason = ""
        """Why work waits now, a clause; empty where it does not."""
        self.waited = 0.0
        """Seconds that work waited in all, side by side counted once each."""

    @classmethod
    def of(cls, context: Context, *, every: float = EVERY) -> Throttle:
        """For the site's serving server, through Nginx."""
        names: list[str] = []

        def read() -> None:
            names[:] = names or context.public.collections() or [""]
            if names[0]:
                some(context.public, names[0], 1)

        return cls(read, context.site.limits.slow_ms, context.ui.say, every=every)

    def __enter__(self) -> Self:
        self._before = [took for _ in range(LAST) if (took := self._ask()) is not None]
        self._thread = threading.Thread(target=self._watch, daemon=True, name="asks how fast others are served")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        with self._changed:
            self.reason = ""
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)

    def give_way(self) -> None:
        """Wait while others are served too slowly, a moment at most."""
        if not self.reason or self._over.is_set():
            return
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self.reason, LONGEST)
            self.waited += time.monotonic() - began

    def _ask(self) -> float | None:
        began = time.monotonic()
        try:
            self._read()
        except CutoverError:
            return None  # whoever needs the server notices that it does not answer
        return time.monotonic() - began

    def _watch(self) -> None:
        said = False
        while not self._over.wait(self._every):
            with suppress(Exception):  # nothing that happens here may stop the work
                took = self._ask()
                if took is not None:
                    self._last.append(took)
                reason = why_slow(self._before, self._last if len(self._last) == LAST else (), self._slow_ms)
                with self._changed:
                    self.reason = "" if self._over.is_set() else reason
                    self._changed.notify_all()
                if reason and not said:
                    self._say(f"Giving way to applications: {reason}.")
                    said = True
