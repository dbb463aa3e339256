"""Back: return the traffic to the old server, with everything that was written since.

The same move with the servers exchanged. Recording never stopped and the old server was kept up to date, so going back loses
nothing and takes as long as the switch did. Where the new server is gone, nothing can be read from it any more; then what it
acknowledged is sent to the old one once more, from the records on the Nginx host (see :mod:`cutover.replication.replay`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.core.errors import Refused
from cutover.core.text import counted
from cutover.gate.write_log import Damaged
from cutover.phases.phase import Operation, Outcome, Phase, Sentence
from cutover.phases.switch import MovePlan, move, plan_move
from cutover.qdrant import access
from cutover.replication import hold, replay, switchover
from cutover.replication.account import Account, keep_doubt, look
from cutover.replication.position import CannotFollow
from cutover.replication.resend import REFUSED

if TYPE_CHECKING:
    from cutover.context import Context


@dataclass(frozen=True, kw_only=True)
class PlanWithoutNew(MovePlan):
    """A way back that the new server has no part in any more. ``gone``: why nothing can be read from it, a sentence.

    ``account``: what is sent to the old server once more then; None where only recording is left to stop.
    """

    gone: str = ""
    account: Account | None = None


def plan(context: Context) -> MovePlan:
    """What would be done; empty when the old server serves."""
    flags = context.gate.state()
    last = Sentence("Stop recording and remove what was recorded", "Nginx host: log and bodies of writes", "None")
    if replay.unfinished(context, flags.side, flags.recording):
        return PlanWithoutNew(sentences=[last], flags=flags)
    if flags.side == "old" or not flags.recording or not (reason := replay.gone(context.new)):
        if flags.side == "new":
            _refuse_lost_access(context)
        return plan_move(context, "old", flags)
    context.old.collections()  # the one that is needed has to answer, before anybody is asked anything
    found = _account(context)
    first, *rest = found.sentences(context.old.name, context.new.name)
    sentences = [
        Sentence(f"{reason} {first}", context.old.name, "None"),
        *(Sentence(one) for one in rest),
        Sentence(
            f"Hold writes for a moment, send the last ones, and send requests to {context.old.name}", "Nginx host: one flag file"
        ),
        last,
    ]
    return PlanWithoutNew(sentences=sentences, flags=flags, gone=reason, account=found)


def do(context: Context, planned: MovePlan) -> Outcome:
    """Move the traffic to the old server."""
    if not isinstance(planned, PlanWithoutNew):
        return move(context, "back", "old", planned.flags)
    if planned.account is not None:
        return _without_the_new_one(context, planned.gone, planned.account)
    return Outcome(True, [f"{context.old.name.capitalize()} serves.", *replay.end(context), _AFTER])


def _refuse_lost_access(context: Context) -> None:
    """Refused where applications that the new server lets in would be turned away from the moment of the move."""
    here, there = (access.access_of(server, context.credentials) for server in (context.new, context.old))
    found = access.lost(here, there, names=(context.new.name, context.old.name))
    access.refuse(found, doing="The traffic was not moved back")


_AFTER = "The new one is not followed any more; nothing is recorded. `copy` begins anew when it is there again."


def _account(context: Context) -> Account:
    try:
        found = look(context, switchover.position(context, "new"))
    except (CannotFollow, Damaged) as error:
        raise Refused(
            f"{context.new.name.capitalize()} does not answer, and what was recorded does not say everything: {error.sentence}",
            f"Start {context.new.name} again, then `follow`: without it {context.old.name} cannot be brought up to date.",
        ) from error
    if found.cannot:
        raise Refused(
            f"{context.new.name.capitalize()} does not answer, and not everything that was recorded can be done again on "
            f"{context.old.name}: {'; '.join(found.cannot[:3])}.",
            f"Start {context.new.name} again, then `back`.",
        )
    return found


def _without_the_new_one(context: Context, reason: str, found: Account) -> Outcome:
    position = switchover.position(context, "new")
    # What an earlier run found out while it sent the first of them is found out no more.
    kept = keep_doubt(context, found.doubtful, anew=position.replayed <= position.offset and not position.part)
    said = ". ".join(found.sentences(context.old.name, context.new.name))
    context.confirm.by_name(context.site.name, f"{reason} {said}.{f' Which these are is in {kept}.' if found.doubtful else ''}")
    hold.end_abandoned(context, "back")
    switchover.need_one_that_writes(context, "back", context.old)
    done = replay.rescue(context, found, position)
    sentences = [
        f"{context.old.name.capitalize()} serves. Writes were held for {done.held:.2f} s.",
        (
            f"{counted(done.replayed, 'acknowledged write')} sent to it once more; nothing could be compared with "
            f"{context.new.name}."
        ),
    ]
    if done.overlapping:
        sentences.append(
            f"The order of {done.overlapping} writes was not known, and it matters: look at {found.overlaps_shown}. "
            f"The writes are in {kept}."
        )
    if done.refused:
        path = context.state_dir / REFUSED
        sentences.append(f"{done.refused} of them {context.old.name} answered with an error; they are in {path}.")
    if done.under_way:
        sentences.append(
            f"{counted(done.under_way, 'write')} still waited for {context.new.name} and was never acknowledged. "
            "Keep it off until Nginx was restarted: what it answered after all would be on it alone."
        )
    return Outcome(True, [*sentences, *replay.end(context), _AFTER], facts=vars(done))


PHASE = Phase(
    name="back",
    help="Move the traffic back to the old server, with everything written since.",
    operation=Operation(plan, do),
    instead_of_undo="Use `cutover switch`.",
    probed=True,
)
