"""Follow: keep the server that does not serve up to date, until told otherwise.

While nobody runs this, writes pile up on the Nginx host, recorded and safe; the way back then takes the longer to open. Every
``copy``, ``switch``, ``back`` and ``finish`` does these rounds by itself first. With ``--watch`` it goes on until it is stopped,
and compares a little all the time, so that a move can stand on that (:mod:`cutover.replication.watch`).

Where the new server serves and following has become impossible (a damaged record, a change that cannot be followed, a difference
that nothing explains), this opens the way back again: it records anew, compares everything, and replaces what differs on the old
server, once the operator has typed the site's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import Failed, Refused
from cutover.core.text import counted
from cutover.gate.interface import OTHER, Flags, Side
from cutover.gate.write_log import Damaged
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence
from cutover.replication import switchover
from cutover.replication.position import CannotFollow, Position
from cutover.replication.watch import Watch, WatchState

if TYPE_CHECKING:
    from cutover.context import Context


@dataclass(frozen=True, kw_only=True)
class FollowPlan(Plan):
    """``side`` serves. ``anew``: why the old server cannot be followed by what is recorded, a sentence; empty where it can."""

    side: Side
    anew: str = ""


def plan(context: Context) -> FollowPlan:
    """What would be done; :class:`Refused` where nothing is recorded."""
    flags = context.gate.state()
    side = flags.side
    source, target = switchover.server(context, side), switchover.server(context, OTHER[side])
    if side == "new" and (why := _why_anew(context, flags)):
        sentences = [
            Sentence(f"Record every write anew, because {target.name} cannot be brought up to date by what is recorded: {why}"),
            Sentence(f"Compare everything, and replace what differs on {target.name}", target.name, "None"),
        ]
        return FollowPlan(sentences=sentences, side=side, anew=why)
    if not flags.recording:
        why = f": {flags.lost}" if flags.lost else ""
        raise Refused(f"Writes are not recorded, so there is nothing to follow{why}.", "Begin with `copy`.")
    return FollowPlan(sentences=[Sentence(f"Bring what {source.name} received to {target.name}", target.name)], side=side)


def do(context: Context, planned: FollowPlan) -> Outcome:
    """One round. Ends cleanly on Ctrl-C: a round that was interrupted is done again."""
    if planned.anew:
        return _anew(context, planned.anew)
    try:
        return _round(context, planned.side)
    except (CannotFollow, Damaged) as error:
        if planned.side == "old":
            raise
        return _anew(context, error.sentence)


def watch(context: Context, *, tell: Callable[[WatchState], None], wait: Callable[[float], bool]) -> Outcome:
    """Rounds until ``wait``, which is given the seconds until the next one, says so. See :mod:`cutover.replication.watch`."""
    watching = Watch(
        context, tell=tell, wait=wait, broken=lambda flags: _why_anew(context, flags) if flags.side == "new" else ""
    )  # fmt: skip
    watching.run()
    watching.seen.waiting_for = ""
    return Outcome(bool(watching.lines), [f"Stopped after {counted(watching.rounds, 'round')}: {watching.seen.line()}."])


def _round(context: Context, side: Side) -> Outcome:
    following = switchover.follower(context, side, "follow")
    with context.guard.act("follow.rounds", f"Keep {following.target.name} up to date") as act:
        done = following.round()
        following.bring_by_snapshot()
        act.after = {"rounds": 1, "writes": done.lines, "records": done.records, "late": done.late}
        if why := context.gate.contradiction():
            raise Failed(
                f"{why} Writes may reach the wrong server and are not recorded.",
                "`cutover gate` leads every request through the gate again; then `follow`.",
            )
        following.note_ahead()
    said = [f"{following.target.name.capitalize()} is up to date: {done.lines} writes, {done.records} records."]
    return Outcome(bool(done.lines), [*said, *switchover.exceptions({"left_out": following.left_out()})], facts=act.after)


def _why_anew(context: Context, flags: Flags) -> str:
    """Why the old server cannot be followed any more while the new one serves, a sentence; empty where it can."""
    entries = context.journal.entries()
    if events.given_up(entries):
        return ""  # on purpose: nothing is recorded, and this says so
    if not flags.recording:
        return f"Nothing is recorded{f': {flags.lost}' if flags.lost else ''}."
    try:
        found = Position.load(switchover.position_path(context))
        for _ in context.gate.read_parts(found.offset if found is not None else 0):
            pass  # it can be read
    except (CannotFollow, Damaged) as error:
        return error.sentence
    if found is None:
        return "Its replication position is missing."
    differed = events.last_comparison_differed(entries)
    return found.doubt or ("When both were last compared, they differed." if differed else "")


def _anew(context: Context, why: str) -> Outcome:
    proved = switchover.begin_anew(context, "follow", why)
    return Outcome(
        changed=True,
        sentences=[
            f"{proved['records']} records in {proved['collections']} collections are on both servers, bit by bit the same.",
            f"The way back is open again; what differed on {context.old.name} was replaced.",
        ],
        facts=proved,
    )


PHASE = Phase(
    name="follow",
    help="Bring the server that does not serve up to date: once, or with --watch until it is stopped.",
    operation=Operation(plan, do),
    instead_of_undo="It only brings over what was written; `cutover undo copy` empties the new server.",
)
