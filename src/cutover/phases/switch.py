"""Switch: move the traffic to the new server without one failed request and without one lost write.

Everything slow happens before: catching up and comparing every record. Then writes are held for a moment (reads never wait),
the last writes are brought over, the touched records, counts, settings, indexes and aliases are compared, one flag is set on
the Nginx host, and the writes go on, to the new server. The hold has a budget, ``limits.hold_seconds``: where the proof is not
there in time it ends on the old side and nothing has happened. From then on the old server is kept up to date, so that
``back`` loses nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.journal import utc
from cutover.core.text import counted
from cutover.gate import doorway
from cutover.gate.interface import OTHER, Flags, Side
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.qdrant import access
from cutover.replication import hold, switchover
from cutover.replication.follower import Round
from cutover.replication.position import Position, left_out

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site


@dataclass(frozen=True, kw_only=True)
class MovePlan(Plan):
    """``flags``: the gate's, as they were when this was planned."""

    flags: Flags


def plan(context: Context) -> MovePlan:
    """What would be done; empty when the new server serves already and nothing is recorded."""
    flags = context.gate.state()
    if flags.side == "old":
        _refuse_other_answers(context, flags)
    return plan_move(context, "new", flags)


def _refuse_other_answers(context: Context, flags: Flags) -> None:
    """Refused where applications would be turned away, answered otherwise, or strangers let in, from the moment of the switch."""
    found = access.objections_now(context.old, context.new, context.site, context.credentials)
    access.refuse(found, doing="The traffic was not moved")
    if flags.recording and (otherwise := context.gate.worker.foreseen()):
        raise Refused(
            f"The traffic was not moved: {' '.join(otherwise)}",
            f"{context.new.name.capitalize()} answers otherwise than {context.old.name}; make it the same in its compose file.",
        )


def do(context: Context, planned: MovePlan) -> Outcome:
    """Move the traffic to the new server."""
    return move(context, "switch", "new", planned.flags)


def plan_move(context: Context, to: Side, flags: Flags) -> MovePlan:
    """The plan of a move in either direction; :class:`Refused` where writes are not recorded."""
    source, target = switchover.server(context, OTHER[to]), switchover.server(context, to)
    if flags.side == to:
        left = [Sentence("End the hold that an interrupted run left behind", "Nginx host: one flag file")] if flags.held else []
        round_ = Sentence(f"Bring what {target.name} received to {source.name}", source.name)
        return MovePlan(sentences=[*left, round_] if flags.recording else [], flags=flags)
    if not flags.recording:
        raise Refused(
            f"Writes are not recorded, so they cannot be followed{f': {flags.lost}' if flags.lost else ''}.",
            "Begin with `copy`."
            if to == "new"
            else "`follow` compares everything anew and opens the way back again."
            if flags.lost
            else "The way back was given up; only the backup is left.",
        )
    saved = Position.load(switchover.position_path(context))
    sentences = [
        Sentence(f"Bring {target.name} up to date and compare {_compares(context, saved)}, while applications go on"),
        *(Sentence(f"Leave out what {target.name} does not take: {one}") for one in (left_out(saved) if saved else [])),
        Sentence(
            f"Hold writes (at most {context.site.limits.hold_seconds:g} s), bring over the last ones, compare, "
            f"and send requests to {target.name}",
            "Nginx host: one flag file",
            "`cutover back`" if to == "new" else "`cutover switch`",
        ),
        Sentence(f"Keep {source.name} up to date from then on", source.name),
    ]
    return MovePlan(sentences=sentences, flags=flags)


def _compares(context: Context, saved: Position | None) -> str:
    """What a move would compare now; whether that is enough turns out when both servers are asked what they counted."""
    at = None if saved is None or context.prove_all else saved.proofs.oldest(saved.proofs.collections)
    if at is None or time.time() - at > context.site.limits.proof_hours * 3600:
        return "everything"
    return f"what was written since {utc(at)}, or everything where that comparison does not count any more"


def _after_the_move(context: Context, verb: str, serving: str) -> Round:
    """The first round in the other direction. That it fails does not undo the move, and must not look like a refusal of it."""
    try:
        return switchover.after_the_move(context, verb)
    except CutoverError as error:
        raise Failed(
            f"{serving.capitalize()} serves, but the other server could not be brought up to date: {error.sentence}",
            f"{error.hint} What is written is recorded; `cutover follow` goes on.".strip(),
        ) from error


def move(context: Context, verb: str, to: Side, flags: Flags) -> Outcome:
    """Move the traffic in either direction; see the module's first paragraph."""
    target = switchover.server(context, to)
    if flags.side == to and not flags.recording:
        return Outcome(False, [f"{target.name.capitalize()} serves already, and nothing is recorded."])
    if flags.side == to:
        hold.end_abandoned(context, verb)
        last = _after_the_move(context, verb, target.name)
        return Outcome(False, [f"{target.name.capitalize()} serves already."], facts={"late": last.late})
    before, again = (context.gate.answers_to_users(writes=False) for _ in range(2))
    moved, proved = switchover.move(context, verb, to)
    last = _after_the_move(context, verb, target.name)
    try:
        now = context.gate.answers_to_users(writes=False)
    except CutoverError as error:
        raise Failed(f"{target.name.capitalize()} serves, but not through Nginx: {error.sentence}", error.hint) from error
    if otherwise := doorway.differences(*map(doorway.mattering, (before, again, now))):
        raise Failed(
            f"{target.name.capitalize()} serves, and users are answered otherwise: {' '.join(otherwise)}",
            f"Nothing is lost, and {'`back`' if to == 'new' else '`switch`'} moves the traffic back.",
        )
    left = switchover.server(context, OTHER[to])
    counts = (
        ""
        if moved.counts
        else " Exact counts were left out there, because they take too long; every record had been compared just before."
    )
    return Outcome(
        changed=True,
        sentences=[
            f"{target.name.capitalize()} serves. Writes were held for {moved.held:.2f} s.{counts}",
            _brought(moved.records),
            *switchover.stood_on(proved),
            *(f"{target.name.capitalize()} does not take this, so it was left out: {one}." for one in moved.left_out),
            *switchover.exceptions({**proved, "left_out": []}),
            f"{left.name.capitalize()} is kept up to date, so that nothing is lost on the way back.",
        ],
        undo="`cutover back`" if to == "new" else "`cutover switch`",
        facts={
            "held_seconds": moved.held,
            "steps": moved.steps,
            "attempts": moved.attempts,
            "records_in_hold": moved.records,
            "counts_in_hold": moved.counts,
            "late_writes": last.late,
            "left_out": moved.left_out,
            "proved": proved,
        },
    )


def _brought(records: int) -> str:
    if not records:
        return "No record had to be brought over in that time."
    return f"{counted(records, 'record')} had to be brought over and compared in that time."


def _step(site: Site) -> Step:
    limits = site.limits
    return Step(
        title="Move the traffic",
        does=f"Holds writes (at most {limits.hold_seconds:g} s), brings over the last ones, proves that both servers are the "
        "same, and lets Nginx ask the new one. If the proof is not there in time, nothing has happened.",
        needs="A finished copy.",
        changes="One flag file on the Nginx host. From then on the old server is kept up to date.",
        undo="`cutover back` moves the traffic back and loses nothing.",
        criteria=("C4", "C5", "D1", "D3", "E5"),
    )


PHASE = Phase(
    name="switch",
    help="Move the traffic to the new server.",
    operation=Operation(plan, do),
    step=_step,
    instead_of_undo="Use `cutover back`.",
    probed=True,
)
