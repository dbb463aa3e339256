"""Follow: keep the server that does not serve up to date, until told otherwise.

While nobody runs this, writes pile up on the Nginx host, recorded and safe; the way back then takes the longer to open. Every
``copy``, ``switch``, ``back`` and ``finish`` does these rounds by itself first. With ``--watch`` it goes on until it is stopped,
and compares a little all the time, so that a move can stand on that (:mod:`cutover.replication.watch`).

Where the new server serves and following has become impossible (a damaged record, a change that cannot be followed, a difference
that nothing explains), this opens the way back again: it records anew, compares everything, and replaces what differs on the old
server, once the operator has typed the site's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import Failed, Refused
from cutover.gate.interface import OTHER, Flags, Side
from cutover.gate.write_log import Damaged
from cutover.phases.phase import Outcome, Phase, Sentence
from cutover.replication import switchover
from cutover.replication.position import CannotFollow, Position
from cutover.replication.watch import Seen, Watch

if TYPE_CHECKING:
    from cutover.context import Context


def plan(context: Context) -> Sequence[Sentence]:
    """What would be done."""
    flags = context.gate.state()
    side = flags.side
    source, target = switchover.server(context, side), switchover.server(context, OTHER[side])
    if side == "new" and (why := _why_anew(context, flags)):
        return [
            Sentence(f"Record every write anew, because {target.name} cannot be brought up to date by what is recorded: {why}"),
            Sentence(f"Compare everything, and replace what differs on {target.name}", target.name, "None"),
        ]
    return [Sentence(f"Bring what {source.name} received to {target.name}", target.name)]


def do(context: Context, *, seconds: float = 0.0, every: float = 1.0) -> Outcome:
    """One round, or rounds for ``seconds``. Ends cleanly on Ctrl-C: a round that was interrupted is done again."""
    flags = context.gate.state()
    if flags.side == "new" and (why := _why_anew(context, flags)):
        return _anew(context, why)
    if not flags.recording:
        why = f": {flags.lost}" if flags.lost else ""
        raise Refused(f"Writes are not recorded, so there is nothing to follow{why}.", "Begin with `copy`.")
    try:
        return _rounds(context, flags.side, seconds, every)
    except (CannotFollow, Damaged) as error:
        if flags.side == "old":
            raise
        return _anew(context, error.sentence)


def watch(context: Context, *, tell: Callable[[Seen], None], wait: Callable[[float], bool]) -> Outcome:
    """Rounds until ``wait``, which is given the seconds until the next one, says so. See :mod:`cutover.replication.watch`."""
    flags = context.gate.state()
    if flags.side == "new" and (why := _why_anew(context, flags)):
        raise Refused(
            f"{context.old.name.capitalize()} cannot be brought up to date by what is recorded: {why}",
            "Run `follow` once: it compares everything anew, and asks before it replaces anything.",
        )
    watching = Watch(context, tell=tell, wait=wait)
    watching.run()
    return Outcome(bool(watching.lines), [f"Stopped after {watching.rounds} rounds: {watching.seen.line()}."])


def _rounds(context: Context, side: Side, seconds: float, every: float) -> Outcome:
    following = switchover.follower(context, side, "follow")
    end, rounds, lines, records, late = time.monotonic() + seconds, 0, 0, 0, 0
    with context.guard.act("follow.rounds", f"Keep {following.target.name} up to date") as act:
        while True:
            last = following.round()
            following.bring_by_snapshot()
            rounds, lines, records, late = rounds + 1, lines + last.lines, records + last.records, late + last.late
            act.after = {"rounds": rounds, "writes": lines, "records": records, "late": late}
            if why := context.gate.contradiction():
                raise Failed(
                    f"{why} Writes may reach the wrong server and are not recorded.",
                    "`cutover gate` leads every request through the gate again; then `follow`.",
                )
            rest = end - time.monotonic()
            if rest <= 0:
                following.note_ahead()
                break
            time.sleep(min(every, rest))
    said = [f"{following.target.name.capitalize()} is up to date: {lines} writes, {records} records."]
    return Outcome(bool(lines), [*said, *switchover.exceptions({"left_out": following.left_out()})], facts=act.after)


def _why_anew(context: Context, flags: Flags) -> str:
    """Why the old server cannot be followed any more while the new one serves, a sentence; empty where it can."""
    entries = context.journal.entries()
    if events.given_up(entries):
        return ""  # on purpose: nothing is recorded, and this says so
    if not flags.recording:
        return f"Nothing is recorded{f': {flags.lost}' if flags.lost else ''}."
    try:
        found = Position.load(switchover.position_path(context))
        context.gate.read_log(found.offset if found is not None else 0)
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
    plan=plan,
    do=do,
    instead_of_undo="It only brings over what was written; `cutover undo copy` empties the new server.",
)
