"""Finish: give up the way back on purpose.

Until now the old server received everything the new one did. Before the old guests can be decommissioned somebody has to say
that going back is no longer wanted: everything is compared once more, recording stops, and what was recorded is removed. It is
asked for by name, because after it a way back that keeps new writes no longer exists. A way back that is broken can be given
up as well; then it is said that the old server is not up to date, and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import CutoverError, Refused
from cutover.gate.write_log import Damaged
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.replication import hold, left_behind, replay, switchover
from cutover.replication.position import CannotFollow, Position

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site


def plan(context: Context) -> Plan:
    """What would be done; empty when it was done."""
    flags = context.gate.state()
    if flags.side != "new":
        raise Refused("The old server serves, so there is no way back to give up.", "`switch` comes first.")
    if not flags.recording:
        return Plan()
    if used := left_behind.glance(context):
        raise Refused(f"The way back would not be given up: {used}.", left_behind.HOW_TO_FIND)
    return Plan(
        sentences=[
            Sentence(f"Bring {context.old.name} up to date and compare everything once more"),
            Sentence("Stop recording and remove what was recorded", "Nginx host: log and bodies of writes", "None"),
        ]
    )


def do(context: Context, planned: Plan) -> Outcome:
    """Compare once more, then stop recording. Asks for the site's name."""
    if not planned.sentences:
        left = Position.load(switchover.position_path(context))
        if left is not None and left.doubt:  # not given up: `follow` was interrupted while it began anew
            context.confirm.by_name(context.site.name, f"{_not_up_to_date(context, left.doubt)} `back` will not be possible.")
        _note(context, left.doubt if left is not None else "")
        return Outcome(False, ["The way back was given up already."])
    watch = left_behind.UseWatch(context.old)
    hold.end_abandoned(context, "finish")
    proved, why = _up_to_date(context)
    left_behind.refuse(context, watch, doing="The way back was not given up")
    lost = (
        f"The way back will be lost: {context.old.name} will no longer receive what is written, and `back` will not be possible."
    )
    context.confirm.by_name(
        context.site.name, " ".join([_not_up_to_date(context, why), *switchover.exceptions(proved), lost]).strip()
    )
    with context.guard.act("finish.stop-recording", "Stop recording and remove what was recorded"):
        context.gate.stop_recording()
        switchover.position_path(context).unlink(missing_ok=True)
    _note(context, why)
    return Outcome(
        changed=True,
        sentences=[
            _not_up_to_date(context, why) or f"{proved['records']} records were the same on both servers when recording stopped.",
            *switchover.exceptions(proved),
            f"{context.old.name.capitalize()} is not kept up to date any more; {context.new.name} serves.",
        ],
        facts=proved,
    )


def _up_to_date(context: Context) -> tuple[dict[str, Any], str]:
    """What was compared; and why the old server is not up to date, a sentence, where it cannot be. It may be given up even so."""
    try:
        following = switchover.follower(context, "new", "finish")
        switchover.catch_up(context, "finish", following)
        return switchover.prove(context, "finish", following), ""
    except (CannotFollow, Damaged) as error:
        return {}, error.sentence
    except CutoverError:
        # That the old server is gone is no reason to go on recording for it.
        if why := replay.gone(context.old):
            return {}, why
        raise


def _not_up_to_date(context: Context, why: str) -> str:
    return f"{context.old.name.capitalize()} is NOT up to date: {why}" if why else ""


def _note(context: Context, why: str) -> None:
    if not events.given_up(context.journal.entries()):
        context.journal.note(events.GIVEN_UP, f"The way back was given up on purpose. {_not_up_to_date(context, why)}".strip())


def _step(site: Site) -> Step:
    guests = site.guests
    return Step(
        title="Give up the way back",
        does="Compares everything once more, then stops bringing writes to the old server. Asks for the site's name.",
        needs="Days of watching, as many as you like.",
        changes="Recording stops; recorded writes are removed.",
        undo=f"None that keeps new writes; {guests.old} can still be restored from its backup.",
        criteria=("F1",),
    )


PHASE = Phase(
    name="finish",
    help="Give up the way back on purpose: the old server is not kept up to date any more.",
    operation=Operation(plan, do),
    step=_step,
    instead_of_undo="The way back was given up on purpose.",
)
