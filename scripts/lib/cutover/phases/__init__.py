"""The steps of the plan, one module each.

A phase has ``plan(run)``, which only reads and says what would be done as sentences; ``do(run)``, which acts through
the door, proves its own result and can be run again; and, where there is a way back, ``undo(run)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

from cutover.errors import CutoverError, Failed, OutcomeUnknown

if TYPE_CHECKING:
    from cutover.run import Run

P = ParamSpec("P")


@dataclass(frozen=True)
class Sentence:
    """One thing that a phase would do: the act, what it changes, and how it is undone."""

    text: str
    changes: str = ""
    undo: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a phase did. ``changed`` is False where there was nothing to do; ``facts`` is for machines (``--json``)."""

    changed: bool
    sentences: Sequence[str] = ()
    undo: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


class Phase(Protocol):
    """What the modules of this package offer."""

    def plan(self, run: Run) -> Sequence[Sentence]:
        """What would be done now; empty where there is nothing to do. Reads only."""

    def do(self, run: Run) -> Outcome:
        """Do it, prove it. Raises :class:`cutover.errors.CutoverError` with what is true afterwards."""


def says_what_changed(work: Callable[Concatenate[Run, P], Outcome]) -> Callable[Concatenate[Run, P], Outcome]:
    """Let no error after a change say that nothing was changed: a refusal, or a server that is away, is :class:`Failed` then."""

    @functools.wraps(work)
    def told(run: Run, /, *arguments: P.args, **named: P.kwargs) -> Outcome:
        before = run.door.changes
        try:
            return work(run, *arguments, **named)
        except (Failed, OutcomeUnknown):
            raise
        except CutoverError as error:
            if run.door.changes == before:
                raise
            raise Failed(error.sentence, error.hint or "Run the same command again: it goes on from what is true.") from None

    return told
