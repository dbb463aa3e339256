"""From recorded writes to the work of a round: which records, filters and collections have to be looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cutover.core.journal import utc
from cutover.gate.interface import Gate, Written
from cutover.gate.write_log import BEGIN_ANEW
from cutover.qdrant.affected import Affected, Depth, PointId, affected_by, had_no_effect, refused_before
from cutover.qdrant.client import Qdrant
from cutover.qdrant.routes import path_of
from cutover.replication.position import CannotFollow, Position

#: Records and filters that the lines worked off at a time may name; bounds memory.
NAMED = 200_000
#: What else (:func:`refused_before`) says that a request of one step, which names no records, did nothing.
_NOT_DONE = frozenset({400, 409, 422})


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

    def add(self, found: Affected, names: Iterable[str]) -> None:
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


def happened(entry: Written, found: Affected) -> bool:
    """Whether a recorded write can have changed anything. Pure.

    A write that names records counts unless it was refused before it was begun, because Qdrant may have applied a part of it;
    one that names none is not counted when Qdrant refused it before doing anything. A batch, or several changes of aliases,
    may have been refused in the middle.
    """
    if refused_before(entry.status, in_steps=found.in_steps):
        return False
    return bool(found.ids) or found.in_steps or entry.status not in _NOT_DONE


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


class Reading:
    """Reads recorded lines for a follower; remembers in ``position`` which collections an alias has pointed to.

    ``names`` are the collections of the source at the beginning of the round.
    """

    def __init__(self, gate: Gate, source: Qdrant, position: Position) -> None:
        self.gate, self.source, self.position = gate, source, position
        self.names: set[str] = set()

    def take(self, entries: Sequence[Written]) -> tuple[Work, int]:
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

    def of(self, entries: Sequence[Written]) -> Work:
        work = Work()
        counted = [entry for entry in entries if not had_no_effect(entry.method, entry.uri, entry.status)]
        for entry, body in self.gate.bodies(counted) if counted else ():
            self._add(work, entry, body)
        return work

    def _add(self, work: Work, entry: Written, body: bytes) -> None:
        found = affected_by(entry.method, entry.uri, body)
        if found.nothing or not happened(entry, found):
            return
        if found.refuse and 0 < entry.status < 400:
            raise CannotFollow(
                f"{found.refuse} (recorded at {utc(entry.at)}).",
                f"Let that change end. {BEGIN_ANEW}",
            )
        if found.refuse:
            self._look(work, found, entry)
            return
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

    def _look(self, work: Work, found: Affected, entry: Written) -> None:
        """Nobody knows whether it was done, and who has no key can bring that about: what both servers hold says it."""
        for name in [found.collection] if found.collection else self.source.collections():
            work.compare(name, Depth.EVERYTHING)
            work.schema.add(name)
        work.aliases = True
        why = f"{entry.method} {path_of(entry.uri).text} was answered {entry.status}, so nobody knows whether it was done"
        if why not in work.reasons:
            work.reasons.append(why)

    def _meant_by(self, name: str) -> set[str]:
        """The collections a name in a request may have meant: itself, or all that an alias has pointed to."""
        held = set(self.position.holders.get(name, []))
        return held | ({name} if name and (not held or name in self.names) else set())

    def _alias_request(self, body: bytes, work: Work) -> None:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            for alias, took in alias_moves(body):
                for name in {took, *self.position.holders.get(took, [])}:
                    _put(self.position.holders, alias, name)
            return
        for name in self.source.collections():
            work.whole[name] = Depth.EVERYTHING

    def remember(self, aliases: Mapping[str, str]) -> None:
        for alias, collection in aliases.items():
            _put(self.position.holders, alias, collection)


def _put(holders: dict[str, list[str]], alias: str, collection: str) -> None:
    if collection not in holders.setdefault(alias, []):
        holders[alias].append(collection)
