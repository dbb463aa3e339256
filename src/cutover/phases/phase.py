"""The steps of the plan, one module each.

A phase has ``plan(run)``, which only reads and says what would be done as sentences; ``do(run)``, which acts through
the door, proves its own result and can be run again; and, where there is a way back, ``undo(run)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cutover.context import Context


@dataclass(frozen=True)
class Sentence:
    """One thing that a phase would do: the act, what it changes, and how it is undone."""

    text: str
    changes: str = ""
    undo: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a phase did. ``changed`` is False where there was nothing to do; ``facts`` is for machines (``--json``).

    ``warnings`` are what went wrong beside the step: the step itself is done.
    """

    changed: bool
    sentences: Sequence[str] = ()
    undo: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


class Phase(Protocol):
    """What the modules of this package offer."""

    def plan(self, context: Context) -> Sequence[Sentence]:
        """What would be done now; empty where there is nothing to do. Reads only."""

    def do(self, context: Context) -> Outcome:
        """Do it, prove it. Raises :class:`cutover.core.errors.CutoverError` with what is true afterwards."""
