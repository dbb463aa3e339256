"""Replay: the way back when the new server is gone, from the records on the Nginx host alone.

Following reads records as they are on the server that serves. Where that one is gone its writes are still there: Nginx kept the
line and the body of each. Here they are sent to the old server once more, those that were acknowledged, in the order in which
they ended (:mod:`cutover.replication.resend`). That order is the true one for any two writes that did not overlap in time. Of
those that did, nobody knows it any more: two that name one record are named before anything is done, and around those that chose
records by what they hold the old server is asked whether it matters.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import CutoverError, Failed, Unreachable
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.interface import Side
from cutover.qdrant.client import Qdrant
from cutover.replication import switchover
from cutover.replication.account import Account, described, keep_doubt, look
from cutover.replication.hold import Hold, TooMuchForAHold, budget
from cutover.replication.late_writes import LATE_WRITES, keep_lines
from cutover.replication.overlaps import Overlaps
from cutover.replication.position import Position
from cutover.replication.resend import resend

if TYPE_CHECKING:
    from cutover.context import Context

#: A server that says nothing at all for this many seconds is gone.
GONE_AFTER = 6.0
#: More acknowledged writes than this are replayed before the hold, not in it.
MOST_IN_A_HOLD = 50
#: Seconds of a hold for the writes that had passed. The server that should answer them is gone, so they may never end.
DRAIN = 0.5


def gone(server: Qdrant, seconds: float = GONE_AFTER) -> str:
    """Why this server cannot be asked, in words; empty as soon as it answers anything, whatever it is."""
    last = ""

    def answers() -> bool | Not:
        nonlocal last
        try:
            server.raw("GET", "/", timeout=(2.0, 5.0))
        except Unreachable as error:
            last = error.sentence
            return Not(last.rstrip("."))
        except CutoverError:
            pass  # an error is an answer
        return True

    with suppress(TimedOut):
        wait_until(answers, deadline=seconds, what="An answer", every=0.5)
        return ""
    return last


@dataclass
class Rescued:
    """How it went."""

    replayed: int = 0
    refused: int = 0
    overlapping: int = 0
    under_way: int = 0
    held: float = 0.0


def rescue(context: Context, found: Account, position: Position) -> Rescued:
    """Bring the old server up to date from the records and move the traffic there; the operator agreed to it."""
    done = Rescued()
    with context.guard.act(
        "back.replay",
        f"Bring {context.old.name} up to date from the recorded writes, without {context.new.name}",
        before=_facts(found),
    ) as act:
        done.refused += resend(context, position, found)
        done.replayed += len(found.writes)
        act.after = {"writes": done.replayed, "refused": done.refused}
    for _ in range(switchover.ATTEMPTS):
        if not gone(context.new, 0):
            raise Failed(f"{context.new.name.capitalize()} answers again.", "Run `back` again: then both can be compared.")
        with suppress(TooMuchForAHold):
            return _move(context, position, done, found.seen)
        with context.guard.act("back.replay", f"Bring {context.old.name} up to date with what was recorded meanwhile"):
            _replay_rest(context, position, done, found.seen, most=None)
    raise Failed(
        f"The traffic was not moved: {switchover.ATTEMPTS} times the last writes did not fit into a hold.",
        "Run `back` again in a quieter moment, or raise limits.hold_seconds.",
    )


def _move(context: Context, position: Position, done: Rescued, seen: Overlaps) -> Rescued:
    with Hold(context, "back", context.new.name, context.old.name) as hold:
        with context.guard.act("back.last-writes", f"Bring the last acknowledged writes to {context.old.name}"):
            try:
                context.gate.drain(min(DRAIN, budget(context) / 2))
            except TimedOut:
                # Sent to a server that is gone. Whoever waits for them was promised nothing.
                done.under_way = len(context.gate.under_way())
            _replay_rest(context, position, done, seen, most=MOST_IN_A_HOLD)
            hold.left()
            # Before the flag: from then on the other direction cannot be followed.
            position.alone = True
            position.save(switchover.position_path(context))
        hold.point("old")
    done.held = hold.held
    return done


def _replay_rest(context: Context, position: Position, done: Rescued, seen: Overlaps, most: int | None) -> None:
    """What the new server acknowledged since: it may have answered for a moment, while the operator was being asked."""
    named = {write.offset for write in seen.writes()}
    rest = look(context, position, seen)
    if late := [write for write in rest.overlapping if write.offset not in named]:
        keep_doubt(context, late)  # nobody can be asked about them any more, but whoever looks finds them
    if rest.cannot:
        raise Failed(f"Meanwhile something was recorded that cannot be sent again: {rest.cannot[0]}.", "Look at `status`.")
    if most is not None and len(rest.writes) > most:
        raise TooMuchForAHold(f"{len(rest.writes)} writes were recorded meanwhile.")
    done.refused += resend(context, position, rest)
    done.replayed += len(rest.writes)
    done.overlapping = len(seen.writes())


def unfinished(context: Context, side: Side, recording: bool) -> bool:
    """Whether a replay moved the traffic and was killed before recording ended."""
    found = Position.load(switchover.position_path(context)) if recording and side == "old" else None
    return found is not None and found.alone and found.side == "new"


def end(context: Context) -> list[str]:
    """After the move: nothing can be followed from here, so recording ends, and `copy` may begin anew.

    Returns sentences about writes that the new server acknowledged after all, when the traffic had left it.
    """
    path = switchover.position_path(context)
    position = Position.load(path) or Position(side="new")
    late = look(context, position).writes
    kept = context.state_dir / LATE_WRITES
    keep_lines(kept, [described(entry, body) for entry, body in context.gate.bodies(late)])
    with context.guard.act("back.stop-recording", "Stop recording and remove what was recorded"):
        # The note first: without it, a recording that has ended looks like one that somebody lost.
        context.journal.note(
            events.BACK_FROM_RECORDS,
            f"{context.old.name} serves; it was brought up to date from the recorded writes, without {context.new.name}",
        )
        context.gate.stop_recording(deadline=5.0)  # what waits for a server that is gone may not end at all
        path.unlink(missing_ok=True)
    return [f"{len(late)} writes were acknowledged by {context.new.name} at the last moment; they are in {kept}."] if late else []


def _facts(found: Account) -> dict[str, Any]:
    return {
        "writes": len(found.writes),
        "since": found.since,
        "overlapping": len(found.overlapping),
        "unacknowledged": found.unacknowledged,
    }
