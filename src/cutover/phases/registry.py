"""The steps of the plan, in its order, then the two for emergencies."""

from __future__ import annotations

from typing import Any

from cutover.core.errors import WrongUsage
from cutover.phases import (
    back,
    backup,
    copy,
    decommission,
    deploy,
    finish,
    follow,
    gate,
    resize,
    restore,
    rollback,
    settle,
    switch,
)
from cutover.phases.phase import Operation, Phase

PHASES: tuple[Phase, ...] = (
    backup.PHASE,
    resize.PHASE,
    deploy.PHASE,
    gate.PHASE,
    copy.PHASE,
    switch.PHASE,
    follow.PHASE,
    back.PHASE,
    finish.PHASE,
    decommission.PHASE,
    settle.PHASE,
    restore.PHASE,
    rollback.PHASE,
)
NAMES = tuple(phase.name for phase in PHASES)
UNDOABLE = tuple(phase.name for phase in PHASES if phase.undo is not None)


def phase(name: str) -> Phase:
    """The step of this name; :class:`WrongUsage` where there is none."""
    found = next((one for one in PHASES if one.name == name), None)
    if found is None:
        raise WrongUsage(f"{name!r} is not a step of the plan.", f"The steps are {', '.join(NAMES)}.")
    return found


def operation(name: str, *, undo: bool = False) -> Operation[Any]:
    """What the step does, or what undoes it; :class:`WrongUsage` with what to do instead where it cannot be undone."""
    if not undo:
        return phase(name).operation
    if name not in NAMES:
        raise WrongUsage(f"{name!r} is not a step of the plan.", f"Steps that can be undone are {', '.join(UNDOABLE)}.")
    found = phase(name)
    if found.undo is None:
        raise WrongUsage(f"`{name}` has no undo of its own.", found.instead_of_undo)
    return found.undo
