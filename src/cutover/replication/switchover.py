"""What ``copy``, ``switch``, ``back`` and ``finish`` share: where the move is, who follows whom, and the move itself.

Which server serves is decided by the gate alone (a flag on the Nginx host that survives a reboot). Everything else is derived
from that flag, the journal and a small file that says how far the other server is up to date, so a tool that was killed at
any point finds its way by looking.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import CutoverError, OutcomeUnknown, Refused, Unreachable
from cutover.core.threads import side_by_side
from cutover.core.wait import TimedOut
from cutover.gate.interface import OTHER, Side, Written
from cutover.qdrant import compare, schema, snapshots
from cutover.qdrant.affected import PointId
from cutover.qdrant.client import Answered, Qdrant
from cutover.qdrant.records import NO_NUMBER
from cutover.replication import bypass, proof
from cutover.replication.base_copy import base_copy
from cutover.replication.follower import Follower, Round
from cutover.replication.hold import Hold, TooMuchForAHold, budget, end_abandoned
from cutover.replication.position import CannotFollow, Position
from cutover.replication.standing import Following
from cutover.replication.throttle import Throttle

if TYPE_CHECKING:
    from cutover.context import Context

#: Exact counts are made inside the hold when they take at most this share of it; they are what grows with the collection.
SHARE_OF_COUNTS = 0.1
#: A round during a move is "short" after at most this many rounds, or the writers are faster than following.
ROUNDS = 60
ATTEMPTS = 5
#: Records that are named in a report, of those that only a snapshot brings.
SHOWN = 20
#: How often collections are copied once more while catching up, for records that are not taken one by one.
COPIES = 3


def position_path(context: Context) -> Path:
    """Where it stands how far the other server is up to date."""
    return context.state_dir / "follow.json"


def position(context: Context, side: Side) -> Position:
    """How far the server that does not serve is up to date; turned round where the traffic moved since it was saved."""
    found = Position.load(position_path(context))
    if found is None and side == "new":
        raise CannotFollow(
            "It is not known how far the old server is up to date: its replication position is missing.",
            "`follow` compares everything anew.",
        )
    if found is None:
        raise Refused("There is no copy to go on with.", "Begin with `copy`.")
    if found.doubt:
        raise CannotFollow(
            f"{server(context, OTHER[side]).name.capitalize()} is not up to date: {found.doubt}",
            "`follow` compares everything anew.",
        )
    if found.side == side:
        found.alone = False  # the traffic was not moved then
    elif found.alone:
        raise Refused(
            "The old server was brought up to date from the recorded writes, without the new server, so the new one "
            "cannot be followed from here.",
            "Run `back` again to end that; then `copy` begins anew.",
        )
    if found.side != side:
        # The tool ended between setting the flag and saving this. The offset was saved inside the hold, so every line
        # after it is either of the server that serves now or a late write.
        found.side, found.moved, found.moved_overflow = side, {}, False
    return found


def server(context: Context, side: Side) -> Qdrant:
    """The server of a side."""
    return context.old if side == "old" else context.new


def follower(context: Context, side: Side, verb: str) -> Following:
    """Who brings the other server up to date with what the serving one (``side``) receives."""
    tidy(context, verb)
    return _follower(context, verb, side, position(context, side), may_replace=side == "old")


def tidy(context: Context, verb: str) -> None:
    """Remove the snapshots that interrupted commands left. That it cannot be done now stands in nobody's way."""
    for one in (context.old, context.new):
        with suppress(CutoverError):
            snapshots.remove_left(context, verb, one)


def _follower(context: Context, verb: str, side: Side, found: Position, *, may_replace: bool) -> Following:
    source, target = server(context, side), server(context, OTHER[side])

    def copy_collection(name: str) -> None:
        base_copy(context, verb, source, target, name)

    return Following(
        context.gate,
        source,
        target,
        found,
        position_path(context),
        copy_collection=copy_collection,
        may_replace=may_replace,
        say=context.ui.say,
    )


def need_one_that_writes(context: Context, verb: str, target: Qdrant, meanwhile: str = "") -> None:
    """Refused where a server that is to serve cannot write to its disk. Leaves nothing on it. ``meanwhile``: who serves."""
    try:
        with context.guard.act(f"{verb}.try", f"Try whether {target.name} can write to its disk", passing=True):
            target.try_writing()
    except Answered as error:
        if error.status < 500:
            raise  # a key, or a limit: no disk
        raise Refused(
            f"{target.name.capitalize()} cannot write: {error.sentence}",
            f"{meanwhile} Look at the disk of {target.name}, then run `{verb}` again.".strip(),
        ) from error
    except OutcomeUnknown as error:  # whatever became of it, it leaves nothing
        raise Unreachable(error.sentence, error.hint) from error


def catch_up(context: Context, verb: str, following: Follower, give_way: Callable[[], None] = lambda: None) -> Round:
    """Rounds until one is short (``limits.round_seconds``) and the next would not be shorter; returns the last one.

    ``give_way`` is called before each, and waits while applications are served too slowly.
    """
    limit = context.site.limits.round_seconds
    with (
        context.guard.act(f"{verb}.catch-up", f"Bring {following.target.name} up to date", passing=True) as act,
        _shown(context, following),
    ):
        total = Counter[str]()
        before, copies = float("inf"), 0
        for _ in range(ROUNDS):
            give_way()
            last = following.round()
            total.update(rounds=1, lines=last.lines, records=last.records)
            if last.seconds <= limit and not last.compared and (not last.lines or last.seconds > 0.8 * before):
                if copies < COPIES and following.bring_by_snapshot():
                    before, copies = float("inf"), copies + 1
                    continue
                act.after = dict(total)
                break
            before = last.seconds
        else:
            raise _too_slow(following, last)
    if following.may_replace and following.unreadable():
        raise Refused(
            f"{'; '.join(following.left_out(following.unreadable()))}. No copy can hold that.",
            f"Delete those records on {following.source.name}, or overwrite their payload; then run this again.",
        )
    return last


@contextmanager
def _shown(context: Context, following: Follower) -> Iterator[None]:
    """Show how much of what was recorded until now is brought over."""
    began = at = following.position.offset // 1000
    end = context.gate.log_end() // 1000
    what = f"Bringing {following.target.name} up to date"
    with context.ui.progress(what, max(0, end - began), "kB of the record") as advance:

        def see(entries: Sequence[Written]) -> None:
            nonlocal at
            now = min(end, max(entry.offset for entry in entries) // 1000)
            if now > at:
                advance(now - at)
                at = now

        following.observers.append(see)
        try:
            yield
        finally:
            following.observers.remove(see)


def _too_slow(following: Follower, last: Round) -> Refused:
    return Refused(
        f"{following.target.name} does not catch up: after {ROUNDS} rounds one still takes {last.seconds:.1f} s "
        f"for {last.lines} writes.",
        "Applications write faster than can be followed; wait for a quieter hour, or raise limits.round_seconds.",
    )


def prove(
    context: Context, verb: str, following: Following, *, since: Mapping[str, set[PointId]] | None = None
) -> dict[str, Any]:
    """Compare everything while applications write; Refused with the differences by name. Returns what was compared.

    ``since``: of these collections only these records; an earlier comparison of them still counts.
    """
    began, at, standing = time.monotonic(), time.time(), following.standing
    if not since:
        standing.begin()
    whole = [name for name in following.source.collections() if name not in (since or {})]
    standing.expect(whole)
    with (
        Throttle.of(context) as throttle,
        context.guard.act(
            f"{verb}.prove", f"Compare {following.source.name} and {following.target.name} bit by bit", passing=True
        ) as act,
    ):
        compared, differences = proof.prove_everything(
            following,
            since=since,
            progress=lambda what, count: context.ui.progress(f"Comparing {what}", count, "records"),
            give_way=throttle.give_way,
        )
        records = sum(c.records for c in compared)
        seconds = time.monotonic() - began
        facts: dict[str, Any] = {"records": records, "collections": len(compared), "seconds": round(seconds, 3)}
        facts |= {"gave_way_seconds": round(throttle.waited, 1)} if throttle.waited else {}
        if since:
            facts |= {"stood_on": standing.oldest_of(since), "compared_since": sum(map(len, since.values()))}
        facts |= {"left_out": said} if (said := following.left_out()) else {}
        # Taken by snapshot so far; a later change of them on the way back would be left out.
        odd = {one.collection: one.unsayable for one in compared if one.unsayable}
        facts |= {"only_by_snapshot": {name: ids[:SHOWN] for name, ids in odd.items()}} if odd else {}
        act.after = {**facts, "differences": len(differences)}
    if differences:
        context.journal.note(events.differed_in(verb), compare.summary(differences, 20), count=len(differences))
        raise Differ(
            f"{following.source.name} and {following.target.name} do not hold the same data: {compare.summary(differences)}.",
            _remedy(following),
        )
    standing.proved(whole, at)
    _look_at_counters(context, verb, following)
    same = f"{records} records in {len(compared)} collections are the same, bit by bit"
    if since:
        same = f"{facts['compared_since']} records written since {facts['stood_on']} are the same, bit by bit"
        same += f", and {records} in {len(compared)} other collections" if compared else ""
    context.journal.note(events.proved_by(verb), same, **facts)
    context.ui.say(f"{same} ({seconds:.1f} s).")
    return facts


def _look_at_counters(context: Context, verb: str, following: Following) -> None:
    """Whether what was compared before still counts, as far as both servers' counters say."""
    what = "Look whether both servers counted anything that did not pass Nginx"
    with context.guard.act(f"{verb}.counted", what, passing=True):  # it goes on following meanwhile
        following.standing.look()


def _prove_since(context: Context, verb: str, following: Following, *, again: bool = False) -> dict[str, Any]:
    """Compare what was written since all was compared, where that still counts; everything else as a whole. ``again``: everything
    was, where that was asked for.
    """
    if not following.position.proofs.collections:
        return prove(context, verb, following)
    _look_at_counters(context, verb, following)
    since, why = following.standing.since(context.site.limits.proof_hours)
    if context.prove_all and not again:
        since, why = {}, "that was asked for"
    facts = prove(context, verb, following, since=since)
    return {**facts, "why_compared": why} if why else facts


def stood_on(facts: Mapping[str, Any]) -> list[str]:
    """On which comparison a move stood, in sentences."""
    said = []
    if at := facts.get("stood_on"):
        count = facts["compared_since"]
        written = f"{count} record{'s' if count != 1 else ''} written since {'were' if count != 1 else 'was'} compared"
        said.append(f"It stood on the comparison begun at {at}: no writer went round Nginx since, and {written}.")
    if why := facts.get("why_compared"):
        many = f"{facts['records']} records in {facts['collections']} collections"
        # It may begin with the name of a collection, whose letters are its own.
        clause = why[0].lower() + why[1:] if why.startswith(("The ", "It ")) else why
        said.append(f"{many} were compared as a whole, because {clause}.")
    return said


def exceptions(facts: Mapping[str, Any]) -> list[str]:
    """Sentences on what a proof (:func:`prove`) leaves out, or may leave out later."""
    said = [f"Left out, because the other server does not take it: {one}." for one in facts.get("left_out", [])]
    for name, ids in facts.get("only_by_snapshot", {}).items():
        shown = ", ".join(map(str, ids[:5])) + (" and others" if len(ids) > 5 else "")
        said.append(
            f"Record{'s' if len(ids) > 1 else ''} {shown} of {name}: {NO_NUMBER}. Only a snapshot brings that, and a vector "
            "like that which is written after the switch will be left out on the way back."
        )
    return said


def _remedy(following: Follower) -> str:
    anew = (
        "Undo the copy and make it again."
        if following.position.side == "old"
        else f"`follow` compares everything anew, and asks before it replaces what {following.target.name} holds."
    )
    return (
        f"{following.source.name} serves, nothing was moved. These differences are not among the writes that passed Nginx: "
        f"somebody changed one of the servers directly, or the copy is damaged. {anew}"
    )


def refuse_bypass(context: Context, verb: str, watch: bypass.Watch, name: str) -> None:
    """Refused where somebody wrote to a server without passing Nginx since the watch began."""
    try:
        with context.guard.act(
            f"{verb}.watch", f"Look whether anybody writes to {name} without going through Nginx", passing=True
        ):
            found = watch.look()
    except bypass.Restarted:
        raise Refused(f"{name} was restarted meanwhile, so its request counters say nothing.", "Run it again.") from None
    if found:
        raise Refused(
            f"Somebody writes to {name} without going through Nginx: {', '.join(map(str, found))}.",
            "Point that writer to Nginx (and gRPC writers to REST), or stop it; then run this again.",
        )


class Differ(CannotFollow):
    """Both servers were compared, and what is recorded does not explain the difference."""


@dataclass
class Moved:
    """How a move went. Times in seconds."""

    held: float = 0.0
    lines: int = 0
    records: int = 0
    attempts: int = 0
    counts: bool = True
    left_out: list[str] = field(default_factory=list)
    """What the server that serves now does not have as the other one had it; a sentence each."""
    steps: dict[str, float] = field(default_factory=dict)


def move(context: Context, verb: str, to: Side) -> tuple[Moved, dict[str, Any]]:
    """Move the traffic: catch up, prove everything, then hold, last round, proof, flag, release.

    Raises Refused where a difference, a bypass or too many writes stop it: then the traffic is where it was. Killed at any
    point, the hold ends by itself, either side serves, and running the verb again finishes it.
    """
    side = OTHER[to]
    end_abandoned(context, verb)
    following = follower(context, side, verb)
    need_one_that_writes(context, verb, following.target, f"{following.source.name.capitalize()} goes on serving.")
    catch_up(context, verb, following)
    watches = [
        (bypass.Watch(context.gate, following.source, side, following), following.source.name),
        (bypass.Watch(context.gate, following.target, to, following), following.target.name),
    ]
    compared = following.uncompared
    try:
        facts = _prove_since(context, verb, following)
    except Refused:
        # Who goes round Nginx is the better explanation of a difference.
        for watch, name in watches:
            refuse_bypass(context, verb, watch, name)
        raise
    for watch, name in watches:
        refuse_bypass(context, verb, watch, name)
    reason: CutoverError | None = None
    for attempt in range(1, ATTEMPTS + 1):
        # Where time was short once, counting stays outside.
        last = catch_up(context, verb, following)
        counts = attempt == 1 and _counting_fits(following, last.ids, budget(context) * SHARE_OF_COUNTS)
        _shorten(context, verb, following)
        if (now := following.uncompared) != compared:
            # Of what is compared whole anew the outcome speaks; else of what all stood on.
            again = _prove_since(context, verb, following, again=True)
            facts, compared = (again if now.copies != compared.copies else facts), now
            _shorten(context, verb, following)
        try:
            moved = _move_within_a_hold(context, verb, following, to, counts)
        except (TooMuchForAHold, TimedOut) as error:
            reason = error
            context.ui.say(f"The hold was ended on {following.source.name}: {error.sentence} Trying again.")
            continue
        moved.attempts = attempt
        return moved, facts
    assert reason is not None
    raise Refused(
        f"The traffic was not moved: {reason.sentence}",
        f"{ATTEMPTS} times the proof was not there in time, and {following.source.name} goes on serving. "
        "Try in a quieter hour, or raise limits.hold_seconds.",
    )


def _shorten(context: Context, verb: str, following: Follower) -> None:
    with context.guard.act(f"{verb}.catch-up", f"Bring {following.target.name} up to date", passing=True):
        proof.shorten_the_hold(following)


def _counting_fits(following: Follower, names: Iterable[str], share: float) -> bool:
    began = time.monotonic()
    compare.compare_counts(following.source, following.target, sorted(names))
    return time.monotonic() - began <= share


def _move_within_a_hold(context: Context, verb: str, following: Follower, to: Side, counts: bool) -> Moved:
    moved = Moved()
    serving = following.source.name
    following.reaching_ahead()  # killed within the hold, the last round may have been brought over and not be saved
    with Hold(context, verb, serving, following.target.name) as hold:
        with context.guard.act(f"{verb}.last-round", "Bring over the last writes and compare them", passing=True) as act:
            context.gate.drain(hold.left())
            hold.lap("drained")
            last = following.round(held=True, budget=hold.left() / 2)
            moved.lines, moved.records, moved.left_out = last.lines, last.records, following.left_out()
            moved.counts = counts and proof.few(following, last.ids)
            hold.lap("followed")
            if moved.left_out and following.may_replace:
                what = "; ".join(moved.left_out)
                raise TooMuchForAHold(f"Only a snapshot can bring this, and it was written just now: {what}.")
            try:
                left = hold.left()
                differences, _ = side_by_side(
                    [
                        lambda: proof.prove_quickly(following, last.ids, counts=moved.counts, timeout=left),
                        following.save,  # has to be there before the flag: from then on every line is of the other server
                    ]
                )
            except CutoverError as error:
                hold.left()
                raise Refused(f"The proof could not be made: {error.sentence}", f"{serving} goes on serving.") from error
            hold.lap("proved")
            act.after = {"lines": last.lines, "records": last.records, "differences": len(differences)}
        if differences:
            hold.left()  # writes that go on are no difference
            raise Differ(
                f"{serving} and {following.target.name} do not hold the same data: {compare.summary(differences)}.",
                _remedy(following),
            )
        hold.left(reserve=0.05)
        hold.point(to)
    moved.held, moved.steps = hold.held, hold.steps
    return moved


def after_the_move(context: Context, verb: str) -> Round:
    """The first round in the other direction: brings late writes over, and shows that the way back is open."""
    side = context.gate.state().side
    following = follower(context, side, verb)
    following.position.save(position_path(context))
    with context.guard.act(f"{verb}.feed", f"Keep {following.target.name} up to date"):
        done = following.round()
        following.note_ahead()
        return done


def begin_anew(context: Context, verb: str, why: str) -> dict[str, Any]:
    """Open the way back again after the switch, where the records cannot: record anew, compare everything, replace what differs.

    Asks for the site's name, because what the old server holds otherwise is lost. Run again it begins from the start.
    """
    differing = schema.compare_schemas(schema.schema_of(context.new), schema.schema_of(context.old))
    shown = f" Other than records, that is: {compare.summary(differing, 10)}." if differing else ""
    context.confirm.by_name(
        context.site.name,
        f"{context.old.name.capitalize()} cannot be brought up to date by what is recorded: {why} Everything is compared with "
        f"{context.new.name}, and what differs on {context.old.name} is replaced or removed.{shown} "
        "Until that has ended there is no way back.",
    )
    end_abandoned(context, verb)
    path = position_path(context)
    start = Position("new", doubt=why, ahead=None, holders={alias: [name] for alias, name in context.new.aliases().items()})
    with context.guard.act(f"{verb}.record", "Record every write anew", before={"why": why}):
        start.save(path)  # first: from here on nobody may take the old server for a copy
        context.gate.start_recording()
        start.save(path)
    with context.guard.act(f"{verb}.mend", f"Make {context.old.name} what {context.new.name} is, by comparing everything"):
        anew = _follower(context, verb, "new", start, may_replace=True)
        anew.bring_everything()
        anew.bring_by_snapshot()
        start.doubt = ""
        start.save(path)
    following = follower(context, "new", verb)
    catch_up(context, verb, following)
    return prove(context, verb, following)
