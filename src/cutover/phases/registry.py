"""The steps of the plan, in its order, then the two for emergencies: each is the ``PHASE`` of the module of its name.

A module is imported when its step is asked for, because all of them cost as much as everything else until a command begins.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cutover.core.errors import WrongUsage
from cutover.phases.phase import Operation, Phase

NAMES = (
    "backup", "resize", "deploy", "gate", "copy", "switch", "follow", "back", "finish", "decommission", "settle",
    "restore", "rollback",
)  # fmt: skip


def phase(name: str) -> Phase:
    """The step of this name; :class:`WrongUsage` where there is none."""
    if name not in NAMES:
        raise WrongUsage(f"{name!r} is not a step of the plan.", f"The steps are {', '.join(NAMES)}.")
    found: Phase = import_module(f"cutover.phases.{name}").PHASE
    return found


def phases() -> list[Phase]:
    """All of them."""
    return [phase(name) for name in NAMES]


def undoable() -> list[str]:
    """The names of those that can be undone."""
    return [one.name for one in phases() if one.undo is not None]


def operation(name: str, *, undo: bool = False) -> Operation[Any]:
    """What the step does, or what undoes it; :class:`WrongUsage` with what to do instead where it cannot be undone."""
    if not undo:
        return phase(name).operation
    if name not in NAMES:
        raise WrongUsage(f"{name!r} is not a step of the plan.", f"Steps that can be undone are {', '.join(undoable())}.")
    found = phase(name)
    if found.undo is None:
        raise WrongUsage(f"`{name}` has no undo of its own.", found.instead_of_undo)
    return found.undo
