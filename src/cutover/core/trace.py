"""What is sent to servers and how they answer, told to whoever wants to see it (``--verbose``, ``--log``).

A line has no bodies, headers or queries, because keys stand there; the listener takes known keys out of the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str], None]
_LISTENERS: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` every line while the block lasts. It is called from any thread."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


class Asked:
    """One question to a server: made when it is sent, and :meth:`answered` in a word or two; nobody need listen."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()

    def answered(self, how: str) -> None:
        """Tell it, with how long it took."""
        if _LISTENERS:
            took = (time.monotonic() - self._began) * 1000
            line = " ".join(f"{self._what} -> {how}".split())
            for listener in tuple(_LISTENERS):
                listener(f"{line} ({took:.0f} ms)")
