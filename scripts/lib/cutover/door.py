"""The one door through which anything is changed.

Reading needs no permission. A change is an *act*: it is named, its intent is in the journal before anything is sent,
and its outcome after. Clients ask the door before every request that writes; where no act is open, nothing is sent.
Without ``--execute`` the door is closed and no act can be opened, so showing a plan cannot change anything, whatever
the code does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cutover.errors import DoorClosed, OutcomeUnknown
from cutover.journal import Entry, Journal


@dataclass
class Act:
    """An act under way; set ``after`` to what was seen when it was done."""

    intent: Entry
    after: Any = None


class Door:
    """Open with a journal, closed without one.

    An act is open for all threads of the process, because a copy writes from several.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal
        self._acts = 0
        #: Changes that were sent and not refused, or whose answer was lost.
        self.changes = 0
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether this command may change anything (``--execute``)."""
        return self._journal is not None

    @contextmanager
    def act(self, name: str, what: str, *, before: Any = None) -> Iterator[Act]:
        """Carry out one change. ``name`` is for machines (``resize.memory``), ``what`` for people, ``before`` for the
        undo.

        Raises :class:`DoorClosed` without ``--execute``. An :class:`OutcomeUnknown` inside is journaled as *unknown*,
        any other error as *failed*; a process that is killed inside leaves an intent without outcome.
        """
        if self._journal is None:
            raise DoorClosed(f"Not done without --execute: {what}.")
        act = Act(self._journal.intent(name, what, before))
        with self._lock:
            self._acts += 1
        try:
            yield act
        except OutcomeUnknown as error:
            self._journal.unknown(act.intent, str(error))
            raise
        except BaseException as error:
            self._journal.failed(act.intent, str(error) or type(error).__name__, act.after)
            raise
        else:
            self._journal.done(act.intent, act.after)
        finally:
            with self._lock:
                self._acts -= 1

    def require(self, request: str) -> None:
        """Called by every client before it sends a change; :class:`DoorClosed` where no act is open."""
        if self._journal is None:
            raise DoorClosed(f"Not sent without --execute: {request}.")
        if self._acts == 0:
            raise DoorClosed(f"Not sent, because it is not part of a journaled act: {request}.")
        with self._lock:
            self.changes += 1

    def refused(self) -> None:
        """Called by a client when the change that it asked for last was refused as a whole, or never got there."""
        with self._lock:
            self.changes -= 1
