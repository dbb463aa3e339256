"""Carrying out a step of the plan: the one function that the command line, the features and the rehearsal call.

Without ``--execute`` a verb only shows its plan. With it, the plan is made again from what is true now, the phase
acts through the door and proves its result, and the journal gets a line that the step is complete. Meanwhile the neighbours are
asked whether they notice anything (see :mod:`cutover.availability`).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cutover import availability
from cutover.core.errors import CutoverError, WrongUsage
from cutover.error_boundary import error_boundary
from cutover.phases.phase import Outcome, Sentence

if TYPE_CHECKING:
    from cutover.context import Context

#: The verbs that carry out a phase, in the plan's order, then the two for emergencies; each is a module of ``cutover.phases``.
PHASES = (
    "backup",
    "resize",
    "deploy",
    "gate",
    "copy",
    "switch",
    "follow",
    "back",
    "finish",
    "decommission",
    "settle",
    "restore",
    "rollback",
)


@dataclass(frozen=True)
class Result:
    """What a verb showed and did. ``outcome`` is None when nothing was to be done or ``--execute`` was not given."""

    verb: str
    plan: Sequence[Sentence]
    outcome: Outcome | None


def phase(verb: str) -> Any:
    """The module of a phase."""
    if verb not in PHASES:
        raise WrongUsage(f"{verb!r} is not a step of the plan.", f"The steps are {', '.join(PHASES)}.")
    return importlib.import_module(f"cutover.phases.{verb}")


def can_undo(verb: str) -> bool:
    """Whether the phase has a way back of its own."""
    return hasattr(phase(verb), "undo")


def plan(verb: str, context: Context, *, undo: bool = False) -> Sequence[Sentence]:
    """What the verb would do now. Reads only."""
    if undo and verb not in PHASES:
        able = ", ".join(one for one in PHASES if can_undo(one))
        raise WrongUsage(f"{verb!r} is not a step of the plan.", f"Steps that can be undone are {able}.")
    module = phase(verb)
    if undo and not hasattr(module, "undo"):
        raise WrongUsage(f"`{verb}` has no undo of its own.", _OTHER_WAY.get(verb, ""))
    with error_boundary(context):
        if not undo:
            return list(module.plan(context))
        return list(module.plan_undo(context)) if hasattr(module, "plan_undo") else [Sentence(f"Undo `{verb}`.")]


_OTHER_WAY = {
    "backup": "A backup is kept; delete it by hand when it is no longer wanted.",
    "switch": "Use `cutover back`.",
    "follow": "It only brings over what was written; `cutover undo copy` empties the new server.",
    "back": "Use `cutover switch`.",
    "finish": "The way back was given up on purpose.",
    "settle": "Edit the address in Nginx's configuration by hand, as before the gate.",
    "restore": "What was written since that backup is lost; another backup can be restored.",
    "rollback": "What was written since that snapshot is lost.",
}


def carry_out(verb: str, context: Context, *, undo: bool = False) -> Result:
    """Show what a verb would do and, where the run may change something, do it.

    Raises :class:`cutover.core.errors.CutoverError`; its exit code says what is true afterwards.
    """
    sentences = plan(verb, context, undo=undo)
    if not context.execute:
        return Result(verb, sentences, None)
    module = phase(verb)
    watch: availability.Watch | None = None
    with error_boundary(context):
        try:
            with availability.watching(context, f"undo {verb}" if undo else verb) as watch:
                outcome: Outcome = module.undo(context) if undo else module.do(context)
        except CutoverError:
            for warning in watch.warnings() if watch else ():
                context.ui.say(warning)
            raise
        outcome = _with(outcome, watch)
        # A step that has to wait (the soak time) is not complete yet; it is run again.
        end = "undone" if undo else "waiting" if "waiting_until" in outcome.facts else "finished"
        context.journal.note(f"{verb}.{end}", "\n".join(outcome.sentences), changed=outcome.changed)
    return Result(verb, sentences, outcome)


def _with(outcome: Outcome, watch: availability.Watch) -> Outcome:
    """The outcome with what was seen of the neighbours; where nothing was changed only what is wrong is said."""
    if not outcome.changed:
        return replace(outcome, warnings=[*outcome.warnings, *watch.warnings()])
    return replace(
        outcome,
        sentences=[*outcome.sentences, *watch.said()],
        facts={**outcome.facts, "meanwhile": watch.facts()},
        warnings=[*outcome.warnings, *watch.warnings(), *watch.gaps()],
    )
