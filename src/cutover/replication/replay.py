"""Replay: the way back when the new server is gone, from the records on the Nginx host alone.

Following reads records as they are on the server that serves. Where that one is gone its writes are still there: Nginx kept the
line and the body of each. Here they are sent to the old server once more, those that were acknowledged, in the order in which
they ended. That order is the true one for any two writes that did not overlap in time; of those that did, nobody knows it any
more, and they are named before anything is done.

A replay may be killed at any line and begun again. Writes that name their records only set or remove what they name, so sending
all of them again from an earlier position leads to the same state. What looks at the state first (a filter, a condition, an
alias, a collection that is made or deleted) does not: there the position is saved before and after each single step, so that at
most the last one is sent twice, which changes nothing either. Writes that name different records are sent together
(:mod:`cutover.replication.together`).
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from cutover.core import events
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Unreachable
from cutover.core.text import counted
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.interface import BODY_MOST, OTHER, TOO_LARGE, Side, Written
from cutover.gate.write_log import Write
from cutover.qdrant.affected import NotUnderstood, PointId, Touched, touched, unpacked
from cutover.qdrant.client import LONG, Answered, Qdrant, side_by_side
from cutover.qdrant.routes import path_of
from cutover.replication import switchover
from cutover.replication.hold import Hold, TooMuchForAHold, budget
from cutover.replication.late_writes import LATE_WRITES, keep_lines
from cutover.replication.position import Position
from cutover.replication.together import Named, Request, Step, layers, named, requests_of
from cutover.replication.work import alias_moves

if TYPE_CHECKING:
    from cutover.context import Context

#: A server that says nothing at all for this many seconds is gone.
GONE_AFTER = 6.0
#: Steps, and bytes of them, that are looked at together, and requests that are sent side by side.
RUN, RUN_BYTES, SIDE_BY_SIDE = 2_000, 16 << 20, 4
#: More acknowledged writes than this are replayed before the hold, not in it.
MOST_IN_A_HOLD = 50
#: Seconds of a hold for the writes that had passed. The server that should answer them is gone, so they may never end.
DRAIN = 0.5
#: Qdrant's words for "not like this": the old server was in another state. Noted, and gone on.
_NOTED = frozenset({400, 404, 409, 422})
#: In the state folder: what the old server answered with an error, one a line.
REFUSED = "replay-refused.jsonl"
#: There as well: writes whose order nobody knows.
OVERLAPS = "replay-overlaps.jsonl"
_CHOOSES = ("filter", "update_filter", "update_mode")


# -- what a recorded write is, sent again -------------------------------------------------------------
def steps_of(method: str, uri: str, body: bytes) -> list[Step]:
    """The requests that do what a recorded write did; none where it left all data alone. Pure.

    :class:`NotUnderstood` where the same request would not do the same again.
    """
    found, path, verb = touched(method, uri, body), path_of(uri), method.upper()
    if found.nothing:
        return []
    if found.refuse:
        raise NotUnderstood(found.refuse)
    if path.rest.startswith(("snapshots/", "shards/")) or path.rest == "truncate_unapplied_wal":
        raise NotUnderstood(f"{verb} {path.text} took what is on the new server, or on another one")
    document: Any = None
    if body:
        try:
            document = json.loads(unpacked(body))
        except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:
            raise NotUnderstood(f"the body of {verb} {path.text} cannot be read ({error})") from None
    params = {k: v for k, v in parse_qsl(uri.partition("?")[2], keep_blank_values=True) if k not in {"wait", "timeout"}}
    if path.rest:
        params["wait"] = "true"  # so that the order holds, and the answer says that it was applied
    where = "/" + "/".join(quote(one, safe="") for one in path.segments)

    def step(content: bytes | None, *, looks: bool) -> Step:
        return Step(verb, where, params, content, looks)

    if found.aliases and not found.collection:
        # One at a time: a whole list of them may not be repeated, each single one may.
        return [step(_bytes({"actions": [action]}), looks=True) for action in document["actions"]]
    if path.rest == "points/batch":
        # One at a time: where the old server refuses one, Qdrant would leave out the rest.
        return [step(_bytes({"operations": [one]}), looks=any(map(_looks, one.values()))) for one in document["operations"]]
    looks = not path.rest.startswith("points") or _looks(document)
    return [step(unpacked(body) if body else None, looks=looks)]


def _looks(content: Any) -> bool:
    return not isinstance(content, dict) or any(content.get(word) is not None for word in _CHOOSES)


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


# -- what the records say -----------------------------------------------------------------------------
class Overlaps:
    """Finds writes that were under way at the same time and name the same record. Fed in the order in which they ended."""

    def __init__(self) -> None:
        self._last: dict[str, dict[PointId | None, list[Write]]] = {}
        self._found: dict[int, Write] = {}
        self._names: dict[str, None] = {}
        self._end = 0

    def add(self, entry: Write, what: Touched, meant: Iterable[str]) -> None:
        if entry.offset <= self._end:
            return  # a look before this one has seen it, and what it read was not sent
        self._end = entry.offset
        everything = bool(what.filters or what.whole or what.schema or what.aliases)
        for name in meant:
            of_name = self._last.setdefault(name, {})
            # None stands for "may be any record".
            ids: set[PointId | None] = {*what.ids, *([None] if everything else [])}
            for one in {*of_name} if everything else {*ids, None}:
                for other in reversed(of_name.get(one, [])):
                    if other.offset <= entry.began:
                        break
                    self._found |= {other.offset: other, entry.offset: entry}
                    shown = "records chosen by what they hold" if one is None and everything else ""
                    self._names[f"{name} {shown or _shown(one, what.ids)}"] = None
            for one in ids:
                of_name.setdefault(one, []).append(entry)

    def writes(self) -> list[Write]:
        return [self._found[offset] for offset in sorted(self._found)]

    def names(self) -> list[str]:
        return list(self._names)


@dataclass
class Account:
    """What can be brought back from the records, and what cannot be known of it. ``overlaps`` are (collection, id) in words."""

    writes: list[Write] = field(default_factory=list)
    since: float = 0.0
    unacknowledged: int = 0
    end: int = 0
    cannot: list[str] = field(default_factory=list)
    unsure: list[Write] = field(default_factory=list)
    """Writes that chose records by what they hold, where the old server may hold a later state of some records already."""
    #: What later looks go on with, so that overlaps across looks are found.
    seen: Overlaps = field(default_factory=Overlaps)

    @property
    def overlapping(self) -> list[Write]:
        """Writes whose order nobody knows, of this look and of those before it."""
        return self.seen.writes()

    @property
    def overlaps(self) -> list[str]:
        """What they overlap on."""
        return self.seen.names()

    def sentences(self, old: str, new: str) -> list[str]:
        """What an operator has to know before it is begun."""
        count = len(self.writes)
        are = "are" if count != 1 else "is"
        what = f"{counted(count, 'recorded write')} that {new} acknowledged since {_clock(self.since)}"
        said = [f"{what} {are} sent to {old} once more, in the order in which they ended"]
        if self.overlapping:
            shown = ", ".join(self.overlaps[:5]) + (f" and {len(self.overlaps) - 5} more" if len(self.overlaps) > 5 else "")
            said.append(
                f"{len(self.overlapping)} of them were under way at the same time as another on the same records, so their order "
                f"is not known: {shown}"
            )
        if self.unsure:
            said.append(
                f"{counted(len(self.unsure), 'write')} chose records by what they hold, and {old} may hold a later state of some "
                "of them already, so they may mean other records there"
            )
        if self.unacknowledged:
            said.append(f"{counted(self.unacknowledged, 'write')} left out, because they were never acknowledged")
        said.append(f"Nothing can be compared with {new}")
        return said


def acknowledged(entry: Write) -> bool:
    """Whether an application was told that this write succeeded."""
    return 200 <= entry.status < 300


def account(
    entries: Iterable[tuple[Write, bytes]],
    holders: Mapping[str, Sequence[str]],
    since: float,
    side: Side = "new",
    *,
    replayed: int = 0,
    ahead: int | None = 0,
    seen: Overlaps | None = None,
) -> Account:
    """Read the records, in the order of the log. Changes nothing but ``seen``. ``holders`` is what every alias has pointed to.

    What ended before the position ``replayed`` was sent by a run before this one; it counts only where another overlaps with it.
    ``ahead``: what began before it may be on the old server already, of single records (:class:`Position`).
    """
    found = Account(since=since, seen=seen or Overlaps())
    known = {alias: set(names) for alias, names in holders.items()}
    for entry, body in entries:
        found.end = max(found.end, entry.offset)
        what = touched(entry.method, entry.uri, body)
        if what.nothing or entry.side not in {side, OTHER[side], "unknown"}:
            continue
        if not acknowledged(entry):
            found.unacknowledged += entry.offset > replayed
            continue
        found.seen.add(entry, what, _meant(what, body, known))
        if entry.side != side or entry.offset <= replayed:
            continue  # it is on the old server already
        try:
            steps_of(entry.method, entry.uri, body)
        except NotUnderstood as error:
            found.cannot.append(f"{error} (recorded {_clock(entry.at)})")
        found.writes.append(entry)
        if (what.filters or what.whole) and (ahead is None or entry.began < ahead):
            found.unsure.append(entry)
    found.since = since or (found.writes[0].at if found.writes else 0.0)
    return found


def _meant(what: Touched, body: bytes, known: dict[str, set[str]]) -> set[str]:
    """The collections a write may have meant; aliases that it makes are remembered."""
    if what.collection:
        return {what.collection, *known.get(what.collection, ())}
    meant: set[str] = set()
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        for alias, took in alias_moves(body):
            known.setdefault(alias, set()).update({took, *known.get(took, ())})
            meant |= {alias, *known[alias]}
    return meant


def _shown(one: PointId | None, ids: Iterable[PointId]) -> str:
    return str(one if one is not None else next(iter(ids), "as a whole"))


# -- acting -------------------------------------------------------------------------------------------
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


def look(context: Context, position: Position, seen: Overlaps | None = None) -> Account:
    """What the records say since a position. Reads only. ``seen``: of a look before this one, of which this is the rest."""
    # Without it also what was replayed before is read: another write may have been under way at the same time.
    start = position.offset if seen is None else max(position.offset, position.replayed)
    entries = [e for e in context.gate.read_log(start) if e.side]
    holders = {alias: [name] for alias, name in context.old.aliases().items()}
    for alias, names in position.holders.items():
        holders[alias] = [*holders.get(alias, []), *names]
    replayed = max(position.offset, position.replayed)
    return account(
        _only_acknowledged_have_bodies(context, entries), holders, position.at, replayed=replayed, ahead=position.ahead, seen=seen
    )


def _only_acknowledged_have_bodies(context: Context, entries: Sequence[Any]) -> Iterator[tuple[Any, bytes]]:
    """The entries with the bodies of those that count; the others are only counted, so theirs are not fetched."""
    chosen = iter(context.gate.bodies([e for e in entries if acknowledged(e)]))
    for entry in entries:
        yield next(chosen) if acknowledged(entry) else (entry, b"")


def keep_overlaps(context: Context, writes: Sequence[Write], *, anew: bool) -> Path:
    """Write down which writes overlapped, one a line, in the state folder. ``anew``: instead of what a look before found."""
    path = context.state_dir / OVERLAPS
    if anew:
        path.unlink(missing_ok=True)
    keep_lines(path, [_described(entry, body) for entry, body in context.gate.bodies(writes)])
    return path


def replay(context: Context, position: Position, found: Account) -> int:
    """Send the writes to the old server once more, in their order. Returns how many of them it answered with an error.

    The caller keeps an act open. Killed at any point, it goes on from the saved position.
    """
    if position.replayed < position.offset:
        position.replayed, position.part = position.offset, 0  # following brought over more than was replayed before
    done_before, writes = position.part, found.writes
    with context.ui.progress(f"Bringing {context.old.name} up to date", len(writes), "writes") as advance:
        sender = _Sender(context, position, advance)
        for entry, body in context.gate.bodies(writes):
            if body == TOO_LARGE:
                raise Failed(
                    f"The write {entry.method} {path_of(entry.uri).text} of {_clock(entry.at)} has over {BODY_MOST >> 20} MB "
                    "and is not sent again from the records.",
                    f"Send it to {context.old.name} from where it came, or go back while the new server can be read.",
                )
            steps = steps_of(entry.method, entry.uri, body)
            for number, step in enumerate(steps):
                if number >= done_before:  # else it was done by a run before this one
                    sender.add(step, entry, body, number + 1)
            done_before = 0
            sender.ended(entry)
        sender.flush()
    position.replayed, position.part = max(position.replayed, found.end), 0
    position.save(switchover.position_path(context))
    return sender.refused


class _Sender:
    """Sends steps in order, together those that cannot disturb each other, and saves how far it came.

    A run of steps that only name records may be sent once more from its beginning; so the position is saved after each run, and
    before and after each step that looks at the state.
    """

    def __init__(self, context: Context, position: Position, advance: Callable[[int], None]) -> None:
        self._context, self._position, self._advance = context, position, advance
        self._aliases: dict[str, str] | None = None
        self._run: list[Named] = []
        self._from: dict[int, tuple[Written, bytes]] = {}
        self._bytes, self._ended = 0, 0
        self._reached = position.replayed, position.part
        self.refused = 0

    def add(self, step: Step, entry: Written, body: bytes, part: int) -> None:
        """The next step; with it ``part`` steps of the write are done."""
        if self._aliases is None:
            self._aliases = self._context.old.aliases()
        one = named(step, self._aliases)
        if one is None:
            self.flush()
            self._alone(step, entry, body)
            self._aliases = None
        else:
            self._run.append(one)
            self._from[id(step)] = entry, body
            self._bytes += len(step.body or b"")
        self._reached = self._reached[0], part
        if one is None or len(self._run) >= RUN or self._bytes >= RUN_BYTES:
            self.flush()

    def ended(self, entry: Written) -> None:
        """All steps of a write were added."""
        self._reached = entry.offset, 0
        self._ended += 1

    def flush(self) -> None:
        """Send what was added. When this returns it is done, and saved."""
        for layer in layers(self._run):
            side_by_side([partial(self._together, request) for request in requests_of(layer)], SIDE_BY_SIDE)
        self._run, self._from, self._bytes = [], {}, 0
        if (self._position.replayed, self._position.part) != self._reached:
            self._position.replayed, self._position.part = self._reached
            self._position.save(switchover.position_path(self._context))
        self._advance(self._ended)
        self._ended = 0

    def _together(self, request: Request) -> None:
        if len(request.steps) == 1:
            self._alone(request.step, *self._from[id(request.step)])
        elif _send(self._context, request.step) is not None:
            half = len(request.steps) // 2  # which of them was refused, and what it is told, is known when it is alone
            for part in (request.steps[:half], request.steps[half:]):
                for smaller in requests_of(part):
                    self._together(smaller)

    def _alone(self, step: Step, entry: Written, body: bytes) -> None:
        if (reason := _send(self._context, step)) is not None:
            with _LOCK:
                self.refused += 1
                keep_lines(self._context.state_dir / REFUSED, [{**_described(entry, body), "answered": reason}])


_LOCK = threading.Lock()


def _send(context: Context, step: Step) -> str | None:
    """Send one step; what the old server said where it was an error that only tells of another state."""
    try:
        context.old.raw(step.method, step.path, step.body, params=step.params, timeout=LONG)
    except Answered as error:
        if error.status in _NOTED:
            return error.sentence
        raise
    except OutcomeUnknown as error:
        # Once more is harmless here; whether it is there at all is for the next run to find out.
        raise Failed(error.sentence, "Run `back` again when it answers: it goes on with exactly this write.") from error
    return None


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
    done = Rescued(overlapping=len(found.overlapping))
    with context.guard.act(
        "back.replay",
        f"Bring {context.old.name} up to date from the recorded writes, without {context.new.name}",
        before=_facts(found),
    ) as act:
        done.refused += replay(context, position, found)
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
        keep_overlaps(context, late, anew=False)  # nobody can be asked about them any more, but whoever looks finds them
        done.overlapping += len(late)
    if rest.cannot:
        raise Failed(f"Meanwhile something was recorded that cannot be sent again: {rest.cannot[0]}.", "Look at `status`.")
    if most is not None and len(rest.writes) > most:
        raise TooMuchForAHold(f"{len(rest.writes)} writes were recorded meanwhile.")
    done.refused += replay(context, position, rest)
    done.replayed += len(rest.writes)


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
    keep_lines(kept, [_described(entry, body) for entry, body in context.gate.bodies(late)])
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


def _described(entry: Any, body: bytes) -> dict[str, Any]:
    return {
        "at": _clock(entry.at),
        "method": entry.method,
        "uri": entry.uri,
        "body": body.decode(errors="replace"),
    }


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
