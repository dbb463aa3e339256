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

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cutover.core.errors import Unreachable
from cutover.core.threads import side_by_side
from cutover.gate.interface import OTHER, Gate, Written
from cutover.qdrant import compare, records
from cutover.qdrant import schema as qdrant_schema
from cutover.qdrant.affected import Depth, PointId
from cutover.qdrant.client import NotThere, Qdrant
from cutover.qdrant.matching import MOST_MATCHES, matching
from cutover.qdrant.pages import Limits, Size
from cutover.replication import schema
from cutover.replication.hold import TooMuchForAHold
from cutover.replication.late_writes import bring_late
from cutover.replication.position import CannotFollow, Position, left_out
from cutover.replication.work import Reading, Work

#: Lines of the record that are worked off at a time; bounds memory, with `work.NAMED`.
LINES = 20_000
#: Records that are read and written back at a time.
BY_ID = 500
#: Records a second that are brought over, a low estimate; decides how many a filter may match inside a hold.
BROUGHT = 3_000
#: Ids of finished rounds that the proof inside a hold looks at once more.
RECENT = 5_000
#: Ids written since the switch that are remembered, to tell a late write from a conflict.
REMEMBERED = 20_000
#: Records per second of a comparison, low estimates; decides what may be compared inside a hold.
RATE = {Depth.IDS: 100_000, Depth.PAYLOAD: 20_000, Depth.EVERYTHING: 5_000}


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


class Uncompared(NamedTuple):
    """How often a collection was copied by snapshot, and how many records were brought over and are recent no more."""

    copies: int
    passed_by: int


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
        self._reading = Reading(gate, source, position)
        self._recent: dict[tuple[str, PointId], None] = {}
        #: Collections whose settings, indexes or aliases changed since all of them were compared.
        self.changed: set[str] = set()
        #: How often a collection was copied by snapshot, which makes an earlier proof of it void.
        self.copies = 0
        self._passed_by = 0
        self._bodies_to_forget: list[Written] = []
        self._sizes: dict[tuple[str, str], Size] = {}
        #: Collections through whose queue on the target every write has passed that another process may have left there.
        self._settled: set[str] = set()
        #: What the writes of the last batch named or chose. From Qdrant 1.19 on a filter is turned into ids when the write
        #: arrives and not when it is applied, so it may have meant a record as it was before it was read.
        self._before: dict[str, set[PointId]] = {}
        #: Records that this round brought over, by collection; None where it copied a whole one.
        self._reached: dict[str, set[PointId]] | None = {}
        #: Called with the lines of every batch, before their bodies and lines may be given back to the disk.
        self.observers: list[Callable[[Sequence[Written]], None]] = []
        #: Called before the position is saved.
        self.before_saving: list[Callable[[], None]] = []

    def save(self) -> None:
        """Save the position, and what was compared, as of now."""
        for tell in self.before_saving:
            tell()
        self.position.save(self.path)

    # -- a round ----------------------------------------------------------------------------------
    def round(self, *, held: bool = False, budget: float = 0.0) -> Round:
        """Bring over what was recorded since the last round.

        ``held``: writes are held, so nothing slow may happen; :class:`TooMuchForAHold` is raised instead, with nothing
        lost: the position stays where it was. ``budget`` is how many seconds may be used for comparisons then. The caller
        saves, beside what else it does.
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
        self._reached = {}
        parts = iter(self.gate.read_parts(self.position.offset))
        for entries in chain([next(parts, ())], parts):  # settings and aliases are looked at also where nothing was written
            self._part(entries, done, ends=began + budget if held else None, budget=budget)
            done.lines += len(entries)
        if not held and self._bodies_to_forget:
            self.gate.forget_bodies(self._bodies_to_forget)
            self._bodies_to_forget = []
        done.seconds = time.monotonic() - began
        self.position.at = at
        if held or (self.position.ahead is None and self._reached == {}):
            self.position.ahead = self.position.offset  # nothing was written meanwhile, or nothing was brought over
        elif self.position.ahead is None and self._reached is not None and sum(map(len, self._reached.values())) <= RECENT:
            self.position.ahead_ids = {name: list(ids) for name, ids in self._reached.items()}
        if not held:
            self.save()
        return done

    def _part(self, entries: Sequence[Written], done: Round, *, ends: float | None, budget: float) -> None:
        """Bring over what these lines ask for. What is asked of the servers here comes after they were read."""
        held = ends is not None
        aliases, names = side_by_side([self.source.aliases, self.source.collections])
        self._reading.remember(aliases)
        self._reading.names = set(names)
        for name in list(self.position.unfinished):
            self._finish_copy(name, there=name in names, held=held)
        if not held and self.position.left_out:
            self.reaching_ahead()
            self._try_left_out(set(names))
        # One barrier for all of these lines: every one of them was acknowledged before it.
        passed: set[str] = set()
        rest: Sequence[Written] = entries
        while rest:
            work, taken = self._reading.take(rest[:LINES])
            batch, rest = rest[:taken], rest[taken:]
            for observe in self.observers:
                observe(batch)
            if work.collections and not held:
                self.reaching_ahead()
            self._batch(batch, work, done, passed, ends=ends, budget=budget)
            self.position.offset = batch[-1].offset
            if not held:
                self.save()
                self.gate.forget_bodies(batch)
        if held:
            self._bodies_to_forget += entries

    def reaching_ahead(self) -> None:
        """Note that from here on the target may hold what no finished round has read; to be called before a hold as well."""
        if self.position.ahead is not None or self.position.ahead_ids is not None:
            self.position.ahead = self.position.ahead_ids = None
            self.position.save(self.path)

    def note_ahead(self) -> None:
        """Note how far the last round reached ahead of its lines. For who does no other round soon: that notes it by itself."""
        if self.position.ahead is None:
            self.position.ahead = self.gate.log_end()
            self.save()

    def _batch(
        self, batch: Sequence[Written], work: Work, done: Round, passed: set[str], *, ends: float | None, budget: float
    ) -> None:
        held = ends is not None
        late = [e for e in batch if e.side == OTHER[self.position.side]]
        if late:
            if held:
                raise TooMuchForAHold("A write that had been sent long ago has just reached the server left behind.")
            done.late += self._bring_late(late, work)
        there = self._reading.names if held else set(self.source.collections())
        remade = work.schema or work.gone or any(c not in there for c in work.collections)
        if remade and held:
            raise TooMuchForAHold(f"While writes were held, {'; '.join(work.reasons) or 'a collection changed'}.")
        # The target still has the state of the last round, and may be asked only as long as it has.
        done.asked += self._ask(work, there, ends, budget)
        # Before settings and indexes are read as well: an index that was only acknowledged is not listed yet.
        fresh = ((work.collections | work.schema) & there) - passed
        self.source.barrier(fresh)
        passed |= fresh
        if remade:
            self._bring_schema(work, there)
            done.schema = True
            done.changed |= work.schema | work.gone | (work.collections - there)
            self.position.proofs.same_settings(done.changed, same=False)
            self.position.schema_at |= dict.fromkeys(work.schema & there, batch[-1].offset)
        if work.aliases:
            self.bring_aliases()
            done.schema = True
        self.changed |= done.changed
        brought = {name: set(work.ids.get(name, ())) for name in work.collections & there}
        for name in brought.keys() & work.filters:
            brought[name] |= self._before.get(name, set())
        side_by_side([partial(self._bring_ids, name, ids, ends) for name, ids in brought.items()])
        for name, several in brought.items():
            ids = work.ids.get(name, set())
            done.ids.setdefault(name, set()).update(ids)
            self._note_recent(name, ids, held=held)
            self.position.proofs.wrote(name, several)
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
        return qdrant_schema.indexes(mine) == qdrant_schema.indexes(theirs)

    def _size(self, name: str, what: str) -> Size:
        """How much of a collection is asked for at a time, as far as this object has learnt it."""
        if (name, what) not in self._sizes:
            limits = Limits.of(self.target.info(name) if what == "match" else self.source.info(name))
            self._sizes[name, what] = Size(10_000 if what == "match" else BY_ID, limits)
        return self._sizes[name, what]

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
        if self._reached is not None:
            self._reached.setdefault(collection, set()).update(chosen)
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
        names = sorted(set(self.position.left_out) - set(self.unreadable())) if self.may_replace else []
        for name in names:
            self.say(f"Copying {name} again by snapshot: {'; '.join(self.left_out([name]))}.")
            self._copy(name)
            self.save()
        return bool(names)

    def unreadable(self) -> dict[str, list[PointId]]:
        """Records, by collection, that the source itself cannot read: nothing brings them, a snapshot neither."""
        left = self.position.left_out.items()
        found = {name: [one for one, why in several if why.startswith(records.UNREADABLE)] for name, several in left}
        return {name: ids for name, ids in found.items() if ids}

    def left_out(self, names: Iterable[str] | None = None) -> list[str]:
        """What the target does not have as the source has it, and why; a sentence each, the first few by id."""
        return left_out(self.position, names)

    def _copy(self, name: str) -> None:
        self.position.left_out.pop(name, None)
        self._reached = None
        self._sizes = {key: size for key, size in self._sizes.items() if key[0] != name}
        self._settled.discard(name)
        self.copies += 1
        self.position.proofs.forget(name, "it was copied anew")
        self.position.unfinished = [*{*self.position.unfinished, name}]
        self.save()  # killed while it copies, nothing else says that what is there is not all
        self.copy_collection(name)
        self.position.unfinished.remove(name)

    def _finish_copy(self, name: str, *, there: bool, held: bool) -> None:
        if held:
            raise TooMuchForAHold(f"The copy of {name} to {self.target.name} did not end.")
        if there:
            self.say(f"Copying {name} again, because its copy did not end.")
            self._copy(name)
        else:
            self.position.unfinished.remove(name)

    def mend(self, collection: str, depth: Depth, done: Round | None = None) -> compare.Compared:
        """Compare a whole collection and bring over whatever differs."""
        before: set[PointId] = set()
        self.position.proofs.forget(collection, "it was written in a way that names no records")
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

    def learn(self, name: str, config: Mapping[str, Any]) -> None:
        """Know a collection by its settings, so that they need not be asked for when it is written to, perhaps within a hold."""
        self._sizes.setdefault((name, "bring"), Size(BY_ID, Limits.of({"config": config})))

    def learnt(self, name: str) -> Size | None:
        """How much of a collection can be read at a time, where that is known by now."""
        return self._sizes.get((name, "bring"))

    def _must_fit(self, collection: str, depth: Depth, budget: float, reasons: Sequence[str]) -> None:
        try:
            needed = self.target.count(collection) / RATE[depth]
        except NotThere:
            return
        if needed > budget:
            raise TooMuchForAHold(f"While writes were held, {'; '.join(reasons)}: comparing all takes about {needed:.1f} s.")

    def _note_recent(self, collection: str, ids: Iterable[PointId], *, held: bool = False) -> None:
        kept = self._recent
        for one in ids:
            kept.pop((collection, one), None)
            kept[collection, one] = None
        # Within a hold nothing makes room: what was brought over right before it is compared in it.
        for old in list(kept)[: 0 if held else max(0, len(kept) - RECENT)]:
            del kept[old]
            self._passed_by += 1

    @property
    def uncompared(self) -> Uncompared:
        """Changes where something was brought over that the proof inside a hold does not look at. Then what was written since
        everything was compared has to be compared before a hold.
        """
        return Uncompared(self.copies, self._passed_by)

    def proved(self, name: str, ids: Iterable[PointId]) -> None:
        """These are the same on both, so they are recent no more."""
        for one in ids:
            self._recent.pop((name, one), None)

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

    def _bring_late(self, late: Sequence[Written], work: Work) -> int:
        return bring_late(
            self.source,
            self.target,
            self.position,
            self._reading.of(late),
            work,
            folder=self.path.parent,
            size_of=partial(self._size, what="bring"),
            say=self.say,
        )

    # -- schema -----------------------------------------------------------------------------------
    def bring_aliases(self) -> None:
        """Make the target's aliases what the source's are now."""
        self._reading.remember(schema.bring_aliases(self.source, self.target))

    def _bring_schema(self, work: Work, there: set[str]) -> None:
        """Make settings and indexes of the target what they are on the source now."""
        for name in sorted(work.schema | {c for c in work.collections if c not in there}):
            on_target = name in self.target.collections()
            if name not in there:
                self.position.proofs.forget(name, "it was deleted")
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
                if why := schema.bring_settings(self.source, self.target, name):
                    self._replace(name, why, gone=name in work.gone)
        self.bring_aliases()

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
