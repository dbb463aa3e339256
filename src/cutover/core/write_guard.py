"""The one guard through which anything is changed.

Reading needs no permission. A change is an *act*: it is named, its intent is in the journal before anything is sent,
and its outcome after. Clients ask the guard before every request that writes; where no act is open, nothing is sent.
Without ``--execute`` the guard lets nothing through and no act can be opened, so showing a plan cannot change anything, whatever
the code does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cutover.core.errors import CutoverError, OutcomeUnknown, WritesRefused
from cutover.core.journal import Entry, Journal


@dataclass
class Act:
    """An act under way; set ``after`` to what was seen when it was done."""

    intent: Entry
    after: Any = None


class WriteGuard:
    """Open with a journal, closed without one.

    An act is open for all threads of the process, because a copy writes from several. ``changed`` is what was changed first, in
    words, and stays empty as long as no server has carried anything out.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._acts = 0
        self._lasting = 0
        self._changed_before = ""
        self._lock = threading.Lock()
        self.changed = ""
        self._heard: dict[str, tuple[float, str]] = {}

    @property
    def is_open(self) -> bool:
        """Whether this command may change anything (``--execute``)."""
        return self._journal is not None

    @contextmanager
    def act(self, name: str, what: str, *, before: Any = None, passing: bool = False) -> Iterator[Act]:
        """Carry out one change. ``name`` is for machines (``resize.memory``), ``what`` for people, ``before`` for the
        undo. ``passing``: what it changes ends by itself or only keeps up with what is there (a hold, a round of following), so
        that somebody who is refused afterwards can be told that nothing was changed.

        Raises :class:`WritesRefused` without ``--execute``. An :class:`OutcomeUnknown` inside is journaled as *unknown*,
        any other error as *failed*; a process that is killed inside leaves an intent without outcome.
        """
        if self._journal is None:
            raise WritesRefused(f"Not done without --execute: {what}.")
        act = Act(self._journal.intent(name, what, before))
        with self._lock:
            self._acts += 1
            if not passing and not self._lasting:
                self._changed_before = self.changed
            self._lasting += not passing
        try:
            yield act
        except OutcomeUnknown as error:
            with suppress(CutoverError):  # a journal that cannot be written must not hide what happened; its intent stays open
                self._journal.unknown(act.intent, str(error))
            raise
        except BaseException as error:
            with suppress(CutoverError):
                self._journal.failed(act.intent, str(error) or type(error).__name__, act.after)
            raise
        else:
            self._journal.done(act.intent, act.after)
        finally:
            with self._lock:
                self._acts -= 1
                self._lasting -= not passing

    def happened(self, request: str) -> None:
        """Called by every client when a change was carried out, or may have been."""
        with self._lock:
            if self._lasting and not self.changed:
                self.changed = request

    def taken_back(self) -> None:
        """Called by who made everything as it was before the act that is open."""
        with self._lock:
            self.changed = self._changed_before

    def hears(self, request: str, server: str) -> None:
        """Called by every client whose answers are taken apart, when it was answered."""
        with self._lock:
            self._heard[server] = (time.monotonic(), request)

    @property
    def heard(self) -> list[str]:
        """The request that was answered last, with those to other servers that were answered less than a second before it.

        Two are compared by asking both at once.
        """
        with self._lock:
            latest = sorted(self._heard.values(), reverse=True)
        return [request for at, request in latest if at > latest[0][0] - 1.0]

    def require(self, request: str) -> None:
        """Called by every client before it sends a change; :class:`WritesRefused` where no act is open."""
        if self._journal is None:
            raise WritesRefused(f"Not sent without --execute: {request}.")
        if self._acts == 0:
            raise WritesRefused(f"Not sent, because it is not part of a journaled act: {request}.")
