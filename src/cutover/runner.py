"""Carrying out a step of the plan: the one function that the command line, the features and the rehearsal call.

The plan is made once, from what is true now. Without ``--execute`` it is only shown; with it the phase carries out that plan
through the guard and proves its result, and the journal gets a line that the step is complete. Meanwhile the neighbours are asked
whether they notice anything (see :mod:`cutover.availability`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cutover import availability
from cutover.core.errors import CutoverError
from cutover.error_boundary import error_boundary
from cutover.phases import registry
from cutover.phases.phase import Outcome, Plan

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.replication.watch import WatchState


@dataclass(frozen=True)
class Result:
    """What a verb showed and did. ``outcome`` is None when nothing was to be done or ``--execute`` was not given."""

    verb: str
    plan: Plan
    outcome: Outcome | None


def plan(verb: str, context: Context, *, undo: bool = False) -> Plan:
    """What the verb would do now, and what speaks against it. Reads only."""
    operation = registry.operation(verb, undo=undo)
    with error_boundary(context):
        planned: Plan = operation.plan(context)
        return planned


def carry_out(verb: str, context: Context, *, undo: bool = False) -> Result:
    """Make the plan of a verb once and, where the run may change something, carry out that plan.

    Raises :class:`cutover.core.errors.CutoverError`, also without ``--execute`` where the verb would be refused; its exit code
    says what is true afterwards.
    """
    operation, phase = registry.operation(verb, undo=undo), registry.phase(verb)
    planned = plan(verb, context, undo=undo)
    watch: availability.Watch | None = None
    with error_boundary(context):
        planned.need_no_refusal()
        if not context.execute:
            return Result(verb, planned, None)
        try:
            with availability.watching(context, f"undo {verb}" if undo else verb) as watch:
                outcome = operation.do(context, planned)
        except CutoverError:
            for warning in watch.warnings() if watch else ():
                context.ui.say(warning)
            raise
        outcome = _with(outcome, watch)
        # A step that has to wait (the soak time) is not complete yet; it is run again.
        end = "undone" if undo else "waiting" if "waiting_until" in outcome.facts else "finished"
        until = {key: outcome.facts[key] for key in ("waiting_until",) if key in outcome.facts}
        said = "\n".join(outcome.sentences)
        context.journal.note(f"{verb}.{end}", said, changed=outcome.changed, probed=phase.probed, **until)
    return Result(verb, planned, outcome)


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


def watch(context: Context, *, tell: Callable[[WatchState], None], wait: Callable[[float], bool]) -> Outcome:
    """Follow until ``wait`` says so. It may go on for weeks, so neighbours are not asked meanwhile: nothing is moved."""
    from cutover.phases import follow

    with error_boundary(context):
        return follow.watch(context, tell=tell, wait=wait)
