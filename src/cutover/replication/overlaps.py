"""Which recorded writes were in flight at the same time as another, so that their order is not known. All of it is pure.

Of two writes that did not overlap in time the log has the order: one had ended before the other began. Of two that did, it may
have been either. That only matters where both did something to one record. Which records a write names is in its body. Which ones
it chose by what they hold depends on the state, so for those this module only says which pairs have to be looked at
(:attr:`Overlaps.rivals`); :mod:`cutover.replication.order` asks the old server when they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from cutover.gate.write_log import Write
from cutover.qdrant.affected import Affected, PointId
from cutover.qdrant.routes import path_of


@dataclass(frozen=True, slots=True)
class Rival:
    """A write that chose records by filters while another was in flight. ``filters`` are JSON."""

    write: Write
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ended:
    write: Write
    what: Affected
    asks_for: int
    """Equal where two writes ask for the same."""

    @property
    def everything(self) -> bool:
        return bool(self.what.whole or self.what.schema or self.what.aliases)

    @property
    def only_deletes(self) -> bool:
        return path_of(self.write.uri).rest == "points/delete"


class Overlaps:
    """Finds writes that were in flight at the same time. Fed in the order in which they ended."""

    def __init__(self) -> None:
        #: By the position of a write: those that chose by filters meanwhile, and may have come before it or after it.
        self.rivals: dict[int, list[Rival]] = {}
        #: Up to here in the log writes were sent already, so nothing can be asked around them any more.
        self.sent = 0
        self._ended: dict[str, list[_Ended]] = {}
        self._found: dict[int, Write] = {}
        self._names: dict[str, None] = {}
        self._end = 0

    def add(self, entry: Write, what: Affected, body: bytes, meant: Iterable[str]) -> None:
        """The next write that ended. ``meant``: the collections, and aliases, that it may have meant."""
        if entry.offset <= self._end:
            return  # a look before this one has seen it, and what it read was not sent
        self._end = entry.offset
        path = path_of(entry.uri)
        params = frozenset(one for one in parse_qsl(entry.uri.partition("?")[2]) if one[0] not in {"wait", "timeout"})
        this = _Ended(entry, what, hash((entry.method.upper(), path.text, params, body)))
        for name in meant:
            of_name = self._ended.setdefault(name, [])
            for other in reversed(of_name):
                if other.write.offset <= entry.began:
                    break
                if other.asks_for != this.asks_for and not (other.only_deletes and this.only_deletes):
                    self._judge(name, other, this)
            of_name.append(this)

    def _judge(self, name: str, one: _Ended, two: _Ended) -> None:
        if one.everything or two.everything:
            # A setting or an index changes no record: only what chose by it may have chosen others.
            changes, other = (one, two) if one.everything else (two, one)
            if other.everything or changes.what.whole or changes.what.aliases or other.what.filters:
                self._unknown(name, one, two, "as a whole" if not other.what.filters else "records chosen by what they hold")
            return
        for record in one.what.ids & two.what.ids:
            self._unknown(name, one, two, record)
        for chooses, other in ((one, two), (two, one)):
            if not chooses.what.filters:
                continue
            if one.write.offset <= self.sent:
                self._unknown(name, one, two, "records chosen by what they hold")
                return
            rivals = self.rivals.setdefault(other.write.offset, [])
            if all(known.write != chooses.write for known in rivals):
                rivals.append(Rival(chooses.write, tuple(chosen.filter for chosen in chooses.what.filters)))

    def note(self, writes: Iterable[Write], names: Iterable[str]) -> None:
        """What was found out when they were sent."""
        self._found |= {write.offset: write for write in writes}
        self._names |= dict.fromkeys(names)

    def _unknown(self, name: str, one: _Ended, two: _Ended, record: PointId) -> None:
        self.note([one.write, two.write], [f"{name} {record}"])

    def writes(self) -> list[Write]:
        """The writes of which it is known by now that they meet another on a record, in an order that nobody knows."""
        return [self._found[offset] for offset in sorted(self._found)]

    def names(self) -> list[str]:
        """What those meet on: collection and record, in words."""
        return list(self._names)

    def asked(self) -> int:
        """How many writes have something to be asked around them."""
        return len({*self.rivals, *(rival.write.offset for several in self.rivals.values() for rival in several)})
