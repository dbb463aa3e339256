"""Following: bringing one server up to date with the writes that the other one received.

Nginx records every write. A round reads the new lines of that record, asks :mod:`cutover.qdrant.affected` which records they
named, reads those from the server that serves, *as they are now*, and writes them to the other one; what is not there any more is
deleted there. It is state, not replay: the order of writes does not matter and repeating a round is harmless, so a tool that
was killed simply starts again where the last finished round ended.

The order inside a round is what makes it right: first the log, then a barrier, then the records. A write sent without waiting
is acknowledged before it is applied; without the barrier it could be read in its old state, and nothing in the log would ever
say so again.

Writes that choose their records by a filter are followed as exactly: the other server is asked which records it means, before
anything of the round is applied (:mod:`cutover.qdrant.matching` says why that is complete). Where it cannot be asked, because
what it would answer may not be what the source meant (indexes changed meanwhile), or too many match, the whole collection is
compared and what differs is repaired. Changes of settings, indexes and aliases are brought over as the state they led to. What
cannot be followed ends in a refusal that says why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cutover.core import files
from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.interface import Gate, Side, Written
from cutover.gate.write_log import BEGIN_ANEW
from cutover.qdrant import compare, records
from cutover.qdrant.affected import Depth, PointId, Touched, had_no_effect, refused_before, touched
from cutover.qdrant.client import Answered, NotThere, Qdrant, points_of, side_by_side, vectors_of
from cutover.qdrant.compare import Difference
from cutover.qdrant.matching import MOST_MATCHES, matching
from cutover.qdrant.pages import Limits, Size
from cutover.qdrant.routes import path_of

__all__ = ["Follower", "Position", "Round", "TooMuchForAHold", "touched"]

#: Lines of the record that are worked off at a time, and the records and filters they may name; bounds memory.
LINES, NAMED = 5_000, 200_000
#: Records that are read and written back at a time.
BY_ID = 500
#: Records a second that are brought over, a low estimate; decides how many a filter may match inside a hold.
BROUGHT = 3_000
#: Ids of finished rounds that the proof inside a hold looks at once more.
RECENT = 5_000
#: After this many rounds without a recorded write a difference is real.
QUIET_ROUNDS = 4
#: Ids written since the switch that are remembered, to tell a late write from a conflict.
REMEMBERED = 20_000
#: Records per second of a comparison, low estimates; decides what may be compared inside a hold.
RATE = {Depth.IDS: 100_000, Depth.PAYLOAD: 20_000, Depth.EVERYTHING: 5_000}

_OTHER: dict[Side, Side] = {"old": "new", "new": "old"}
#: Qdrant refused the request before doing anything.
_NOT_DONE = frozenset({400, 401, 403, 405, 409, 411, 413, 415, 422})
#: The same where a request consists of several steps: it was not even begun.
_NOT_BEGUN = frozenset({401, 405, 411, 413, 415})


class TooMuchForAHold(CutoverError):
    """Writes arrived that can only be followed while writes are not held."""


class CannotFollow(Refused):
    """A change was made that this tool does not follow; the sentence names it."""


@dataclass
class Position:
    """How far the other server is up to date. Saved after every round, so that a killed run goes on from there.

    ``offset`` is the position in the gate's log; ``holders`` remembers every collection an alias has pointed to, because a
    recorded write may have used the alias before it moved. ``moved`` holds ids written since the last switch.
    """

    side: Side = "old"
    offset: int = 0
    holders: dict[str, list[str]] = field(default_factory=dict)
    at: float = 0.0
    """When everything recorded so far was last on both servers; seconds since 1970."""
    moved: dict[str, list[PointId]] = field(default_factory=dict)
    moved_overflow: bool = False
    late: int = 0
    conflicts: int = 0
    replayed: int = 0
    """Up to where writes were sent once more, without the server that had them; see :mod:`cutover.replication.replay`.
    Following does not count that, because what was never acknowledged may have happened as well."""
    part: int = 0
    """How many steps of the first write after ``replayed`` were sent as well."""
    alone: bool = False
    """The server that serves from then on was brought up to date from the records, without the other one."""
    doubt: str = ""
    """Why the other server is not the copy that this position takes it for; empty where it is."""
    schema_at: dict[str, int] = field(default_factory=dict)
    """Up to where in the log indexes or settings of a collection were changed: a write that began before may have chosen its
    records by other indexes than the other server has now."""
    left_out: dict[str, list[tuple[PointId, str]]] = field(default_factory=dict)
    """Records that the other server does not take, with the reason; it holds what it had. By collection."""

    @classmethod
    def load(cls, path: Path) -> Position | None:
        """The saved position; None where there is none."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            found.left_out = {name: [(one, why) for one, why in left] for name, left in found.left_out.items()}
            return found
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise CannotFollow(f"{path} is not readable.", f"Delete it. {BEGIN_ANEW}") from None

    def save(self, path: Path) -> None:
        """Replace the file in one step; on the disk when this returns."""
        files.private_folder(path.parent)
        files.replace(path, json.dumps(asdict(self)))


@dataclass
class Work:
    """What the recorded writes of one batch ask for, by real collection names."""

    ids: dict[str, set[PointId]] = field(default_factory=dict)
    filters: dict[str, dict[str, Depth]] = field(default_factory=dict)
    whole: dict[str, Depth] = field(default_factory=dict)
    schema: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    """Collections that somebody asked to delete: only these may be deleted on the other server."""
    aliases: bool = False
    reasons: list[str] = field(default_factory=list)

    @property
    def collections(self) -> set[str]:
        return {*self.ids, *self.filters, *self.whole}

    @property
    def weight(self) -> int:
        """How much it names, in records; a filter counts by its length."""
        filters = sum(1 + len(text) // 64 for of_name in self.filters.values() for text in of_name)
        return sum(map(len, self.ids.values())) + filters

    def compare(self, name: str, depth: Depth) -> None:
        """The whole collection has to be compared, at least so deep."""
        self.whole[name] = max(self.whole.get(name, Depth.NOTHING), depth)

    def add(self, found: Touched, names: Iterable[str]) -> None:
        """Add one write's answer for every collection its name may have meant."""
        for name in names:
            if found.ids:
                self.ids.setdefault(name, set()).update(found.ids)
            for text, depth in found.filters:
                of_name = self.filters.setdefault(name, {})
                of_name[text] = max(of_name.get(text, Depth.NOTHING), depth)
            if found.whole:
                self.compare(name, found.whole)
            if found.schema:
                self.schema.add(name)
        self.aliases = self.aliases or found.aliases
        if found.why and found.why not in self.reasons:
            self.reasons.append(found.why)


@dataclass
class Round:
    """What one round did. ``ids`` are the records that were brought over, by collection."""

    lines: int = 0
    seconds: float = 0.0
    ids: dict[str, set[PointId]] = field(default_factory=dict)
    compared: list[compare.Compared] = field(default_factory=list)
    asked: int = 0
    """Filters that the other server was asked, equal ones once."""
    schema: bool = False
    changed: set[str] = field(default_factory=set)
    """Collections that were made, deleted, or got other settings or indexes."""
    late: int = 0

    @property
    def records(self) -> int:
        return sum(len(ids) for ids in self.ids.values())


def happened(entry: Written, found: Touched) -> bool:
    """Whether a recorded write can have changed anything. Pure.

    A write that names records counts unless it was refused before it was begun, because Qdrant may have applied a part of it;
    one that names none is not counted when Qdrant refused it before doing anything. A batch, or several changes of aliases,
    may have been refused in the middle.
    """
    if refused_before(entry.status, in_steps=found.in_steps):
        return False
    return bool(found.ids) or entry.status not in (_NOT_BEGUN if found.in_steps else _NOT_DONE)


def alias_moves(body: bytes) -> list[tuple[str, str]]:
    """(alias, collection or alias it took over) for every alias that a request created or renamed."""
    moves: list[tuple[str, str]] = []
    for action in json.loads(body)["actions"]:
        for kind, content in action.items():
            if kind == "create_alias":
                moves.append((content["alias_name"], content["collection_name"]))
            elif kind == "rename_alias":
                moves.append((content["new_alias_name"], content["old_alias_name"]))
    return moves


class Follower:
    """Keeps ``target`` up to date with what ``source``, the server behind the gate, received.

    ``copy_collection(name)`` makes a collection on the target from a snapshot. ``may_replace`` says whether it may be used on
    a collection that is there already; not after the switch, when the target is the way back. The caller keeps an act open.
    """

    def __init__(
        self,
        gate: Gate,
        source: Qdrant,
        target: Qdrant,
        position: Position,
        path: Path,
        *,
        copy_collection: Callable[[str], None],
        may_replace: bool,
        say: Callable[[str], None] = lambda _s: None,
    ) -> None:
        self.gate, self.source, self.target = gate, source, target
        self.position, self.path = position, path
        self.copy_collection = copy_collection
        self.may_replace = may_replace
        self.say = say
        self._recent: dict[tuple[str, PointId], None] = {}
        #: Collections whose settings, indexes or aliases changed since all of them were compared.
        self._changed: set[str] = set()
        #: How often a collection was copied by snapshot, which makes an earlier proof of it void.
        self.copies = 0
        self._bodies_to_forget: list[Written] = []
        self._names: set[str] = set()
        self._sizes: dict[tuple[str, str], Size] = {}
        #: Collections through whose queue on the target every write has passed that another process may have left there.
        self._settled: set[str] = set()
        #: What the writes of the last batch named or chose. From Qdrant 1.19 on a filter is turned into ids when the write
        #: arrives and not when it is applied, so it may have meant a record as it was before it was read.
        self._before: dict[str, set[PointId]] = {}
        #: Called with the lines of every batch, before their bodies and lines may be given back to the disk.
        self.observers: list[Callable[[Sequence[Written]], None]] = []

    # -- a round ----------------------------------------------------------------------------------
    def round(self, *, held: bool = False, budget: float = 0.0) -> Round:
        """Bring over what was recorded since the last round.

        ``held``: writes are held, so nothing slow may happen; :class:`TooMuchForAHold` is raised instead, with nothing
        lost: the position stays where it was. ``budget`` is how many seconds may be used for comparisons then.
        """
        for server in (self.source, self.target):
            server.patient = not held
        try:
            return self._round(held=held, budget=budget)
        finally:
            for server in (self.source, self.target):
                server.patient = True

    def _round(self, *, held: bool, budget: float) -> Round:
        began, at, done = time.monotonic(), time.time(), Round()
        entries = self.gate.read_log(self.position.offset)
        aliases, names = side_by_side([self.source.aliases, self.source.collections])
        self._remember(aliases)
        self._names = set(names)
        if not held:
            self._try_left_out(set(names))
        # One barrier for all of these lines: every one of them was acknowledged before it.
        passed: set[str] = set()
        ends = began + budget if held else None
        rest: Sequence[Written] = entries
        while rest:
            work, taken = self._take(rest[:LINES])
            batch, rest = rest[:taken], rest[taken:]
            for observe in self.observers:
                observe(batch)
            self._batch(batch, work, done, passed, ends=ends, budget=budget)
            self.position.offset = batch[-1].offset
            if not held:
                self.position.save(self.path)
                self.gate.forget_bodies(batch)
        if held:
            self._bodies_to_forget += entries
        elif self._bodies_to_forget:
            self.gate.forget_bodies(self._bodies_to_forget)
            self._bodies_to_forget = []
        done.lines = len(entries)
        done.seconds = time.monotonic() - began
        self.position.at = at
        self.position.save(self.path)
        return done

    def _take(self, entries: Sequence[Written]) -> tuple[Work, int]:
        """What the first of these lines ask for, and how many lines that are: as many as name a bounded number of records."""
        work = Work()
        # Of a write whose nginx process died nobody knows where it went; reading its records as they are now is harmless.
        mine = {self.position.side, "unknown"}
        ours = [(i, e) for i, e in enumerate(entries) if e.side in mine and not had_no_effect(e.method, e.uri, e.status)]
        for (i, _), (entry, body) in zip(ours, self.gate.bodies([e for _, e in ours]), strict=False):
            self._add(work, entry, body)
            if work.weight > NAMED:
                return work, i + 1
        return work, len(entries)

    def _batch(
        self, batch: Sequence[Written], work: Work, done: Round, passed: set[str], *, ends: float | None, budget: float
    ) -> None:
        held = ends is not None
        late = [e for e in batch if e.side == _OTHER[self.position.side]]
        if late:
            if held:
                raise TooMuchForAHold("A write that had been sent long ago has just reached the server left behind.")
            done.late += self._bring_late(self._work(late), work)
        there = self._names if held else set(self.source.collections())
        schema = work.schema or work.gone or any(c not in there for c in work.collections)
        if schema and held:
            raise TooMuchForAHold(f"While writes were held, {'; '.join(work.reasons) or 'a collection changed'}.")
        # The target still has the state of the last round, and may be asked only as long as it has.
        done.asked += self._ask(work, there, ends, budget)
        # Before settings and indexes are read as well: an index that was only acknowledged is not listed yet.
        fresh = ((work.collections | work.schema) & there) - passed
        self.source.barrier(fresh)
        passed |= fresh
        if schema:
            self._bring_schema(work, there)
            done.schema = True
            done.changed |= work.schema | work.gone | (work.collections - there)
            self.position.schema_at |= dict.fromkeys(work.schema & there, batch[-1].offset)
        if work.aliases:
            self.bring_aliases()
            done.schema = True
        self._changed |= done.changed
        for name in work.collections & there:
            ids = work.ids.get(name, set())
            self._bring_ids(name, {*ids, *self._before.get(name, set())} if name in work.filters else ids, ends)
            done.ids.setdefault(name, set()).update(ids)
            self._note_recent(name, ids)
        for name, depth in work.whole.items():
            if name in there:
                if held:
                    self._must_fit(name, depth, budget, work.reasons)
                with suppress(NotThere):  # it was deleted meanwhile; the log will say so
                    done.compared.append(self.mend(name, depth, done))
        self._before = work.ids
        self._note_moved(work)

    def _ask(self, work: Work, there: set[str], ends: float | None, budget: float) -> int:
        """Ask the target which records the filters meant, and add them to ``work.ids``; returns how many were asked.

        Where the answer may be another than the source's was, the whole collection is to be compared instead.
        """
        asked = 0
        for name, filters in work.filters.items():
            deepest = max(filters.values())
            if name not in there or work.whole.get(name, Depth.NOTHING) >= deepest:
                continue
            if name in work.schema or name in work.gone or not self._alike(name):
                work.compare(name, deepest)
                continue
            if name not in self._settled:
                self.target.barrier([name])
                self._settled.add(name)
            most = int(budget * BROUGHT) if ends is not None else MOST_MATCHES
            try:
                found = matching(self.target, name, list(filters), self._size(name, "match"), most=most, ends=ends)
            except Unreachable as error:
                if ends is not None and time.monotonic() >= ends:
                    raise TooMuchForAHold(f"While writes were held, {'; '.join(work.reasons)}: {error.sentence}") from error
                raise
            asked += len(filters) - len(found.unasked)
            if found.too_many and ends is not None:
                raise TooMuchForAHold(f"While writes were held, {'; '.join(work.reasons)}: that were more than {most} records.")
            if found.too_many:
                work.compare(name, deepest)
                continue
            for text in found.unasked:
                work.compare(name, filters[text])
            work.ids.setdefault(name, set()).update(found.ids)
        return asked

    def _alike(self, name: str) -> bool:
        """Whether both servers have the same indexes of a collection, so that a filter means the same on both."""
        try:
            mine, theirs = side_by_side([lambda: self.source.info(name), lambda: self.target.info(name)])
        except NotThere:
            return False
        return _indexes(mine) == _indexes(theirs)

    def _size(self, name: str, what: str) -> Size:
        """How much of a collection is asked for at a time, as far as this object has learnt it."""
        if (name, what) not in self._sizes:
            limits = Limits.of(self.target.info(name) if what == "match" else self.source.info(name))
            self._sizes[name, what] = Size(10_000 if what == "match" else BY_ID, limits)
        return self._sizes[name, what]

    def _work(self, entries: Sequence[Written]) -> Work:
        work = Work()
        counted = [entry for entry in entries if not had_no_effect(entry.method, entry.uri, entry.status)]
        for entry, body in self.gate.bodies(counted) if counted else ():
            self._add(work, entry, body)
        return work

    def _add(self, work: Work, entry: Written, body: bytes) -> None:
        found = touched(entry.method, entry.uri, body)
        if found.nothing or not happened(entry, found):
            return
        if found.refuse:
            raise CannotFollow(
                f"{found.refuse} (recorded at {_clock(entry.at)}).",
                f"Let that change end. {BEGIN_ANEW}",
            )
        if found.aliases and not found.collection:
            self._alias_request(body, work)
        itself = entry.method.upper() in {"PUT", "DELETE"} and not path_of(entry.uri).rest
        # Creating and deleting mean the name itself, whatever an alias of that name points to; all else may mean either.
        names = {found.collection} if itself else self._meant_by(found.collection)
        work.add(found, names)
        for name in names:
            if found.filters and entry.began < self.position.schema_at.get(name, 0):
                work.compare(name, max(depth for _, depth in found.filters))
        if itself and entry.method.upper() == "DELETE":
            work.gone.add(found.collection)

    def _meant_by(self, name: str) -> set[str]:
        """The collections a name in a request may have meant: itself, or all that an alias has pointed to."""
        held = set(self.position.holders.get(name, []))
        return held | ({name} if name and (not held or name in self._names) else set())

    def _alias_request(self, body: bytes, work: Work) -> None:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            for alias, took in alias_moves(body):
                for name in {took, *self.position.holders.get(took, [])}:
                    _put(self.position.holders, alias, name)
            return
        for name in self.source.collections():
            work.whole[name] = Depth.EVERYTHING

    def _remember(self, aliases: Mapping[str, str]) -> None:
        for alias, collection in aliases.items():
            _put(self.position.holders, alias, collection)

    # -- records ----------------------------------------------------------------------------------
    def _bring_ids(self, collection: str, ids: Iterable[PointId], ends: float | None = None) -> None:
        def in_time() -> None:
            if ends is not None and time.monotonic() > ends:
                raise TooMuchForAHold("While writes were held, more records were written than can be brought over in time.")

        chosen = set(ids)
        if not chosen:
            return
        try:
            size = self._size(collection, "bring")
        except NotThere:
            return  # deleted meanwhile; the log will say so
        left = records.bring(self.source, self.target, collection, chosen, size, go_on=in_time)
        before = [one for one in self.position.left_out.pop(collection, []) if one[0] not in chosen]
        if left or before:
            self.position.left_out[collection] = [*before, *((one.id, one.why) for one in left)]

    def _try_left_out(self, there: set[str]) -> None:
        """What was not taken may be by now; and who serves may have changed since, so that it is written the other way."""
        for name, left in list(self.position.left_out.items()):
            if name in there:
                self._bring_ids(name, [one for one, _ in left])
            else:
                del self.position.left_out[name]

    def bring_by_snapshot(self) -> bool:
        """Copy again the collections with records that are not taken one by one, where they may be replaced; whether any was."""
        names = sorted(self.position.left_out) if self.may_replace else []
        for name in names:
            self.say(f"Copying {name} again by snapshot: {'; '.join(self.left_out([name]))}.")
            self._copy(name)
            self.position.save(self.path)
        return bool(names)

    def left_out(self, names: Iterable[str] | None = None) -> list[str]:
        """What the target does not have as the source has it, and why; a sentence each, the first few by id."""
        return left_out(self.position, names)

    def _copy(self, name: str) -> None:
        self.position.left_out.pop(name, None)
        self._sizes = {key: size for key, size in self._sizes.items() if key[0] != name}
        self._settled.discard(name)
        self.copies += 1
        self.copy_collection(name)

    def mend(self, collection: str, depth: Depth, done: Round | None = None) -> compare.Compared:
        """Compare a whole collection and bring over whatever differs."""
        before: set[PointId] = set()
        while True:
            compared = compare.compare_collection(self.source, self.target, collection, depth=depth)
            wrong = {d.where for d in compared.differences}
            self._bring_ids(collection, wrong)
            self._note_recent(collection, wrong)
            if done is not None:
                done.ids.setdefault(collection, set()).update(wrong)
            # Of more differences than are kept the rest is found by looking again, as long as that finds others.
            if compared.count <= len(compared.differences) or wrong <= before:
                return compared
            before = wrong

    def _must_fit(self, collection: str, depth: Depth, budget: float, reasons: Sequence[str]) -> None:
        try:
            needed = self.target.count(collection) / RATE[depth]
        except NotThere:
            return
        if needed > budget:
            raise TooMuchForAHold(f"While writes were held, {'; '.join(reasons)}: comparing all takes about {needed:.1f} s.")

    def _note_recent(self, collection: str, ids: Iterable[PointId]) -> None:
        kept = self._recent
        for one in ids:
            kept.pop((collection, one), None)
            kept[collection, one] = None
        for old in list(kept)[: max(0, len(kept) - RECENT)]:
            del kept[old]

    @property
    def recent(self) -> dict[str, set[PointId]]:
        """The records of finished rounds that were brought over last, in all not more than ``RECENT``."""
        found: dict[str, set[PointId]] = {}
        for name, one in self._recent:
            found.setdefault(name, set()).add(one)
        return found

    def _note_moved(self, work: Work) -> None:
        position = self.position
        if position.moved_overflow:
            return
        for name, ids in work.ids.items():
            position.moved[name] = list({*position.moved.get(name, []), *ids})
        if work.whole or sum(map(len, position.moved.values())) > REMEMBERED:
            position.moved_overflow, position.moved = True, {}

    # -- late writes ------------------------------------------------------------------------------
    def _bring_late(self, late: Work, work: Work) -> int:
        """Writes that reached the server left behind after the switch: acknowledged to somebody, so they must not be lost.

        Both versions of every such record are kept in ``late-writes.jsonl``. A record that was not written on the serving
        server since the switch gets the late version; one that was is a conflict: the newer server's version stands.
        """
        if late.filters or late.whole or late.schema or late.aliases:
            raise CannotFollow(
                f"After the switch {self.target.name} was changed in a way that names no records: {'; '.join(late.reasons)}.",
                f"{self.source.name.capitalize()} serves. {BEGIN_ANEW}",
            )
        kept = self.path.with_name(LATE_WRITES)
        count = 0
        self.target.barrier(late.ids)
        for name, ids in late.ids.items():
            here, there = _by_id(self.source, name, ids), _by_id(self.target, name, ids)
            now_written = {*self.position.moved.get(name, []), *work.ids.get(name, set())}
            differing = [one for one in ids if here.get(one) != there.get(one)]
            unsure = self.position.moved_overflow or name in work.whole or name in work.filters
            clash = [o for o in differing if o in now_written or unsure]
            mine, theirs = self.source.name, self.target.name
            keep_lines(
                kept,
                [
                    {"collection": name, "id": o, "conflict": o in clash, mine: here.get(o), theirs: there.get(o)}
                    for o in differing
                ],
            )
            theirs_now = [one for one in differing if one not in clash]
            records.bring(self.target, self.source, name, theirs_now, self._size(name, "bring"))
            work.ids.setdefault(name, set()).update(clash)
            self.position.conflicts += len(clash)
            count += len(differing)
            if differing:
                self.say(
                    f"{len(differing)} late writes to {self.target.name} were brought over"
                    + (f", {len(clash)} of them conflict with newer ones: both versions are in {kept}" if clash else "")
                    + "."
                )
        self.position.late += count
        return count

    # -- schema -----------------------------------------------------------------------------------
    def bring_aliases(self) -> None:
        """Make the target's aliases what the source's are now, in one request."""
        mine, theirs = self.source.aliases(), self.target.aliases()
        self._remember(mine)
        actions: list[dict[str, Any]] = [
            {"delete_alias": {"alias_name": a}} for a in theirs if mine.get(a) != theirs[a]
        ] + [
            {"create_alias": {"alias_name": a, "collection_name": c}} for a, c in mine.items() if theirs.get(a) != c
        ]  # fmt: skip
        if actions:
            # What was made only a moment ago, or is gone by now, is for the next round.
            there = set(self.target.collections())
            actions = [one for one in actions if one.get("create_alias", {}).get("collection_name") in {None, *there}]
        if actions:
            self.target.change_aliases(actions)

    def _bring_schema(self, work: Work, there: set[str]) -> None:
        """Make settings and indexes of the target what they are on the source now."""
        for name in sorted(work.schema | {c for c in work.collections if c not in there}):
            on_target = name in self.target.collections()
            if name not in there:
                if on_target and name in work.gone:
                    self.target.delete_collection(name)
                self.position.schema_at.pop(name, None)
                continue
            if not on_target:
                self.say(f"Copying {name}, which was created meanwhile.")
                self.target.free_name(name)
                self._copy(name)
                continue
            with suppress(NotThere):  # it was deleted meanwhile; the log will say so
                self._bring_settings(name, gone=name in work.gone)
        self.bring_aliases()

    def _bring_settings(self, name: str, *, gone: bool) -> None:
        mine, theirs = self.source.info(name), self.target.info(name)
        if mine["config"] != theirs["config"]:
            with suppress(Answered):
                self.target.patch(name, patch_for(mine["config"]))
            theirs = self.target.info(name)
            left = compare.compare_schemas(_only(name, mine), _only(name, theirs))
            left = [d for d in left if d.kind == "setting"]
            if left:
                self._replace(name, f"settings of {name} were changed ({compare.summary(left, 2)})", gone=gone)
                return
        indexes, others = _indexes(mine), _indexes(theirs)
        for field_ in sorted({*indexes, *others}):
            if indexes.get(field_) == others.get(field_):
                continue
            if field_ in others:
                self.target.delete_index(name, field_)
            if field_ in indexes:
                self.target.create_index(name, field_, index_schema(indexes[field_]))

    def _replace(self, name: str, why: str, *, gone: bool) -> None:
        # What somebody asked to delete before it was made anew is nobody's way back any more.
        if not self.may_replace and not gone:
            raise CannotFollow(
                f"On {self.source.name} {why}, which {self.target.name} cannot be brought to record by record.",
                f"{self.source.name.capitalize()} serves, and the way back is closed until {name} has the settings from before. "
                "Or let `follow` copy it anew; it asks first.",
            )
        self.say(f"Copying {name} again: {why}.")
        self._copy(name)

    def bring_everything(self) -> None:
        """Make the target what the source is now, by comparing everything: for when the records do not say where to look."""
        there, others = set(self.source.collections()), set(self.target.collections())
        self.source.barrier(there)
        self._bring_schema(Work(schema=there | others, gone=others - there), there)
        for name in sorted(there & set(self.source.collections())):
            while (found := self.mend(name, Depth.EVERYTHING)).count > len(found.differences):
                self.say(f"{name}: {found.count} records differed.")

    # -- proof ------------------------------------------------------------------------------------
    def prove_everything(
        self,
        *,
        threads: int = 4,
        settle: float = 5.0,
        progress: Callable[[str, int], Any] = lambda _name, _count: nullcontext(lambda _done: None),
    ) -> tuple[list[compare.Compared], list[Difference]]:
        """Compare everything bit by bit while applications go on writing.

        Records that differ because they are being written at this moment are among the recorded ones and are brought over by
        the next rounds; what still differs after ``settle`` seconds without being written is a real difference. Returns what
        was compared and the real differences; nothing is repaired except by following. ``progress(collection, records)`` is
        a context manager that gives a function to call with the number of records compared.
        """
        names = self.source.collections()
        compared: list[compare.Compared] = []
        open_: dict[str, dict[PointId, Difference]] = {}
        for name in names:
            try:
                with progress(name, self.source.count(name)) as advance:
                    one = compare.compare_collection(self.source, self.target, name, threads=threads, advance=advance)
            except NotThere:
                continue  # the comparison of the schemas names it
            compared.append(one)
            if one.count > len(one.differences):
                return compared, one.differences
            open_[name] = {d.where: d for d in one.differences}

        quiet = 0
        seen: list[Difference] | None = None
        rest: list[Difference] = []

        def settled() -> list[Difference] | Not:
            nonlocal quiet, seen, rest
            followed = self.round()
            quiet = 0 if followed.lines else quiet + 1
            for name, wrong in open_.items():
                for one in followed.ids.get(name, set()):
                    wrong.pop(one, None)
                left = compare.compare_ids(self.source, self.target, name, list(wrong), size=self._learnt(name))
                # Where the collection is gone by now, the comparison of the schemas names it.
                open_[name] = {d.where: d for d in self._not_left_out(left) if d.kind != "collection"}
            now = compare.compare_schemas(compare.schema_of(self.source), compare.schema_of(self.target))
            # A collection that lives for a moment is on one server only, and at every look another one: what was changed
            # since the look before is no difference yet.
            lasting = [d for d in now if seen is None or (d in seen and not _explained(d, followed))]
            first, seen = seen is None, now
            rest = [d for wrong in open_.values() for d in wrong.values()] + lasting
            # Where nobody writes, a difference does not go away by waiting.
            return Not(compare.summary(rest)) if rest and (first or quiet < QUIET_ROUNDS) else rest

        with suppress(TimedOut):
            # Where nothing differs there is nothing to wait for: the first look ends it.
            wait_until(settled, deadline=settle, what="The same data on both servers", every=0.3)
        if not rest:
            self._changed.clear()
        return compared, rest

    def _not_left_out(self, differences: Iterable[Difference]) -> list[Difference]:
        left = {(name, one) for name, several in self.position.left_out.items() for one, _ in several}
        return [d for d in differences if (d.collection, d.where) not in left]

    def _learnt(self, name: str) -> Size | None:
        return self._sizes.get((name, "bring"))

    def prove_quickly(self, ids: Mapping[str, set[PointId]], *, counts: bool, timeout: float) -> list[Difference]:
        """The proof inside a hold: the touched records bit by bit, names, aliases, and of what was touched since everything was
        compared the settings and (``counts``) exact counts. How many collections or records there are does not matter.
        """
        limit = (2.0, timeout)
        chosen = {name: set(several) for name, several in ids.items() if several}
        for name, several in self.recent.items():
            chosen.setdefault(name, set()).update(several)

        def names() -> list[Difference]:
            both = side_by_side([f for s in (self.source, self.target) for f in (s.collections, s.aliases)])
            (mine, my_aliases), (theirs, their_aliases) = both[:2], both[2:]
            return compare.compare_names(mine, my_aliases, theirs, their_aliases)

        def settings(name: str) -> list[Difference]:
            schemas = [compare.schema_of(server, [name], aliases=False) for server in (self.source, self.target)]
            return compare.compare_schemas(*schemas)

        def records(name: str) -> list[Difference]:
            found = compare.compare_ids(self.source, self.target, name, chosen[name], size=self._learnt(name), timeout=limit)
            return self._not_left_out(found)

        def numbers(name: str) -> list[Difference]:
            return compare.compare_counts(self.source, self.target, [name], timeout=limit)

        tasks: list[Callable[[], list[Difference]]] = [names]
        tasks += [partial(settings, name) for name in sorted({*ids, *self._changed})]
        tasks += [partial(records, name) for name in chosen]
        # What is left out may be missing, and then it counts.
        tasks += [partial(numbers, name) for name in chosen if counts and name not in self.position.left_out]
        return [d for found in side_by_side(tasks) for d in found]


def _explained(difference: Difference, followed: Round) -> bool:
    """Whether a round brought over a change of what differs in settings, indexes, aliases, or in being there at all."""
    if difference.kind == "alias":
        return followed.schema
    name = difference.collection if difference.kind != "collection" else difference.where
    return name in followed.changed


def left_out(position: Position, names: Iterable[str] | None = None, shown: int = 3) -> list[str]:
    """What the server that does not serve does not have as the other one has it, and why; a sentence a collection."""
    said = []
    for name in sorted(position.left_out if names is None else names):
        several = position.left_out.get(name, [])
        named = ", ".join(f"{one} ({why})" for one, why in several[:shown])
        more = f" and {len(several) - shown} more" if len(several) > shown else ""
        if several:
            said.append(f"record{'s' if len(several) > 1 else ''} {named}{more} of {name}")
    return said


def patch_for(config: Mapping[str, Any]) -> dict[str, Any]:
    """A PATCH that gives a collection these settings, as far as Qdrant lets them be changed."""
    params = config.get("params", {})
    named = vectors_of(params)
    changeable = ("hnsw_config", "quantization_config", "on_disk")
    changes: dict[str, Any] = {
        "hnsw_config": config.get("hnsw_config"),
        "optimizers_config": {k: v for k, v in (config.get("optimizer_config") or {}).items() if v is not None},
        "quantization_config": config.get("quantization_config") or "Disabled",
        "params": {
            k: params[k]
            for k in ("replication_factor", "write_consistency_factor", "read_fan_out_factor", "on_disk_payload")
            if params.get(k) is not None
        },
        "vectors": {n: {k: v[k] for k in changeable if v.get(k) is not None} for n, v in named.items()},
        "sparse_vectors": params.get("sparse_vectors"),
        "strict_mode_config": config.get("strict_mode_config"),
        "metadata": config.get("metadata"),
    }
    return {k: v for k, v in changes.items() if v}


def index_schema(described: Mapping[str, Any]) -> Any:
    """What creates the payload index that a collection describes: its parameters, or its type alone."""
    params = described.get("params")
    return {k: v for k, v in params.items() if v is not None} if params else described["data_type"]


def _indexes(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    schema = info.get("payload_schema") or {}
    return {name: {k: v for k, v in one.items() if k != "points"} for name, one in schema.items()}


def _only(name: str, info: Mapping[str, Any]) -> compare.Schema:
    return compare.Schema({name: info["config"]}, {name: _indexes(info)}, {})


def _by_id(server: Qdrant, collection: str, ids: Iterable[PointId]) -> dict[PointId, Any]:
    chosen = list(ids)
    found: dict[PointId, Any] = {}
    for i in range(0, len(chosen), 500):
        with suppress(NotThere):
            found |= {r["id"]: r for r in points_of(server.records(collection, chosen[i : i + 500]))}
    return found


def _put(holders: dict[str, list[str]], alias: str, collection: str) -> None:
    if collection not in holders.setdefault(alias, []):
        holders[alias].append(collection)


#: In the state folder: writes that reached the server left behind, one a line.
LATE_WRITES = "late-writes.jsonl"


def keep_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file for people; on the disk when this returns. Without lines there is no file."""
    if not lines:
        return
    files.private_folder(path.parent)
    files.append(path, "".join(json.dumps(line) + "\n" for line in lines))


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%SZ", time.gmtime(at))
