"""Whether the order of writes matters where nobody knows it: asked of the old server, around the writes that are sent to it.

A write that chose its records by a filter was in flight together with another. Which of the two came first matters for a record
that the other one touched, and only if the filter matches that record in one of the states between which it may have come. All
writes before are applied and confirmed then, and none after, so the old server has exactly these states: right before the
other write, and right after it. Or the filter was sent before, and it matters for what it chose then. Where nothing is met in
either way, both orders lead to the same, whatever else was in flight: each such pair is looked at, and what touched a record is
in one known order then. Else the order in which the writes ended is kept, and the records are named.

The same question answers another doubt. Following reads records as they are, so a record of the last round may already be in a
later state than the log's position says (:attr:`cutover.replication.position.Position.ahead`). A filter that is sent again and
matches none of those does what it did then. A write that replaces such a record as a whole makes its state known again; one
that changes a part of it leaves it in doubt for the filters after it.

And a write that was in flight where following stopped may have come before one that was followed, which then chose by what it had
done, and nobody could know: its records are in doubt, whatever they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cutover.gate.write_log import Write
from cutover.qdrant.affected import Affected, PointId
from cutover.qdrant.client import NotThere, Qdrant
from cutover.qdrant.matching import matching
from cutover.qdrant.pages import Limits, Size
from cutover.qdrant.routes import path_of
from cutover.replication.again import Step
from cutover.replication.overlaps import Rival
from cutover.replication.position import Position

#: Records in one condition on ids, and records of one write that are asked about.
IDS, MOST = 5_000, 50_000
#: Operations after which a record is as they say, whatever it was.
_REPLACES = frozenset({"upsert", "delete"})


class Order:
    """Asks around the steps that are sent. ``tell`` is told of every doubt before the write is sent that might hide it: the
    write, the one that it meets (or None), the collection, and the records; without records it is not known which.
    """

    def __init__(
        self,
        server: Qdrant,
        rivals: Mapping[int, list[Rival]],
        position: Position,
        tell: Callable[[Write, Write | None, str, set[PointId]], None],
    ) -> None:
        self._server, self._rivals, self._tell = server, rivals, tell
        self._choosing = {rival.write.offset for several in rivals.values() for rival in several}
        self._followed, self._begun = position.offset, position.replayed
        #: By the position of a write that was sent: the records that it touched; None where that is not known.
        self._did: dict[int, set[PointId] | None] = {}
        self._in_the_middle = position.part > 0
        self._until = position.ahead
        self._ahead = {name: set(ids) for name, ids in (position.ahead_ids or {}).items()}
        # A run before this one may have sent anything to them.
        begun = position.replayed > position.offset or position.part
        self._in_part: dict[str, set[PointId]] = {name: set(ids) for name, ids in self._ahead.items()} if begun else {}
        self._sizes: dict[str, Size] = {}
        self._touched: set[PointId] = set()

    def passes(self, entry: Write, step: Step, what: Affected, name: str) -> bool:
        """A step comes next in the order. Whether it has to be sent alone, because something is asked around it."""
        doubted = self._ahead.get(name, set())
        if self._in_the_middle:  # what a run before this one sent of it is not known
            self._did[entry.offset], self._in_the_middle = None, False
        if what.ids and entry.began < self._followed:
            self._tell(entry, None, name, set(what.ids))
        if doubted and self._in_window(entry) and what.ids:
            met = doubted & what.ids
            if _replaces(step):
                doubted -= met
                self._in_part.get(name, set()).difference_update(met)
            elif met:
                self._in_part.setdefault(name, set()).update(met)
        return bool(self._rivals.get(entry.offset)) or bool(what.filters and doubted and self._in_window(entry))

    def before(self, entry: Write, what: Affected, name: str) -> None:
        """Ask in the state before the step."""
        filters = [chosen.filter for chosen in what.filters]
        if filters and self._in_window(entry) and (doubted := self._ahead.get(name)):
            met = self._matching(name, filters, doubted)
            if met is None or (met := met | self._in_part.get(name, set())):
                self._tell(entry, None, name, met or set())
        early = bool(filters) and entry.began < self._followed
        if entry.offset not in self._rivals and entry.offset not in self._choosing and not early:
            return
        chosen = self._matching(name, filters) if filters else set()
        if early and (chosen is None or chosen):
            self._tell(entry, None, name, chosen or set())
        self._touched = set(what.ids) | (chosen or set())
        did = self._did.setdefault(entry.offset, set())
        self._did[entry.offset] = None if did is None or chosen is None else did | self._touched
        if entry.offset not in self._rivals:
            return
        for rival in self._rivals[entry.offset]:
            if rival.write.offset < entry.offset and (met := self._met_before(rival.write)):
                self._tell(entry, rival.write, name, met)
        if unknown := self._in_part.get(name, set()) & what.ids:
            for rival in self._rivals[entry.offset]:
                self._tell(entry, rival.write, name, unknown)
        if chosen is None:
            for rival in self._rivals[entry.offset]:
                self._tell(entry, rival.write, name, set())
        self._meet(entry, name)

    def after(self, entry: Write, name: str) -> None:
        """Ask in the state after it."""
        if entry.offset in self._rivals:
            self._meet(entry, name)

    def _meet(self, entry: Write, name: str) -> None:
        for rival in self._rivals[entry.offset] if self._touched else []:
            met = self._matching(name, rival.filters, self._touched)
            if met is None or met:
                self._tell(entry, rival.write, name, met or set())

    def _met_before(self, rival: Write) -> set[PointId]:
        """The records of this step that a write before it may have chosen."""
        did = self._did.get(rival.offset, None if rival.offset <= self._begun else set())
        return set(self._touched) if did is None else self._touched & did

    def _in_window(self, entry: Write) -> bool:
        return self._until is None or entry.began < self._until

    def _matching(self, name: str, filters: Sequence[str], among: set[PointId] | None = None) -> set[PointId] | None:
        """The records that match any of the filters, of all or of some; None where that is not to be had."""
        asked = list(filters)
        if among is not None:
            if len(among) > MOST:
                return None
            ids = sorted(among, key=str)
            asked = [_narrowed(one, ids[i : i + IDS]) for one in asked for i in range(0, len(ids), IDS)]
        try:
            if name not in self._sizes:
                self._sizes[name] = Size(10_000, Limits.of(self._server.info(name)))
            found = matching(self._server, name, asked, self._sizes[name], most=MOST)
        except NotThere:
            return set()  # no record of it can match
        if among is not None and found.unasked and not found.too_many:
            # Strict mode may allow a filter, and not a list of ids beside it.
            plain = self._matching(name, filters)
            return None if plain is None else plain & among
        return None if found.unasked or found.too_many else found.ids


def _narrowed(filter_: str, ids: list[PointId]) -> str:
    chosen: Any = json.loads(filter_)
    conditions = [chosen] if any(chosen.values()) else []
    return json.dumps({"must": [*conditions, {"has_id": ids}]})


def _replaces(step: Step) -> bool:
    if step.looks or not step.body:
        return False
    rest = path_of(step.path).rest
    if rest == "points/batch":
        return set(json.loads(step.body)["operations"][0]) <= _REPLACES
    return (step.method, rest) in {("PUT", "points"), ("POST", "points/delete")}
