"""What earlier comparisons are worth: which records were compared when, and what has to hold for that to be enough for a move.

A comparison of everything stays true as long as three things hold. Whatever was written since passed Nginx, so it is known by
name, was brought over, and is compared once more. Nobody wrote to either server past Nginx, which their request counters show.
And neither server was restarted, because then its counters begin anew and its disk may hold something else. All of this is kept
with the replication position and saved with it in one step, so it cannot speak of another position than the one it belongs to.

Each collection is proved by ranges of ids, so that following can prove a little at a time, the oldest range first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from cutover.core.stored import STRICT, Time
from cutover.qdrant.affected import PointId
from cutover.qdrant.compare import order

#: Ids that were written since their proof and are remembered, of all collections together; of more, whole collections are
#: compared again.
WRITTEN = 20_000


@dataclass
class Counted:
    """What one server had counted when all of it was explained; by route. ``startup`` is when it was started, by its own word.

    ``passed`` are the writes that passed the gate, and ``sent`` what this tool sent, since then.
    """

    __pydantic_config__: ClassVar = STRICT

    startup: str = ""
    counted: dict[str, int] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)


@dataclass
class Proved:
    """What was compared of one collection: ``ranges`` of ids as (first id, when), the last one without an end; seconds since
    1970. The first id of a collection is None. Where ``ranges`` is empty, or ``None`` stands for a time, nothing counts.
    """

    __pydantic_config__: ClassVar = STRICT

    ranges: list[tuple[PointId | None, Time | None]] = field(default_factory=list)
    written: list[PointId] = field(default_factory=list)
    """Records that were written since, and not compared since."""
    settings: bool = False
    """Whether its settings and payload indexes were the same, and nobody changed them since."""

    def __post_init__(self) -> None:
        firsts = [first for first, _ in self.ranges]
        if firsts[:1] not in ([], [None]) or not all(_less(one, other) for one, other in pairwise(firsts)):
            raise ValueError("The ranges do not go from the first id to the last.")

    @property
    def oldest(self) -> float | None:
        """When the range was compared whose comparison is the oldest; None where not all was."""
        times = [at for _, at in self.ranges]
        known = [at for at in times if at is not None]
        return min(known) if known and len(known) == len(times) else None


@dataclass
class Proofs:
    """All of it, as it is saved. ``servers`` are ``old`` and ``new``."""

    __pydantic_config__: ClassVar = STRICT

    collections: dict[str, Proved] = field(default_factory=dict)
    servers: dict[str, Counted] = field(default_factory=dict)
    why: str = ""
    """Why the last proof was given up, a sentence; for people."""

    # -- what happens to it -----------------------------------------------------------------------
    def wrote(self, name: str, ids: Iterable[PointId]) -> None:
        """Records of a collection may be other ones now."""
        found = self.collections.get(name)
        if found is None or not found.ranges:
            return
        found.written = list({*found.written, *ids})
        if sum(len(one.written) for one in self.collections.values()) > WRITTEN:
            self.forget(max(self.collections, key=lambda one: len(self.collections[one].written)), "too much was written since")

    def forget(self, name: str, why: str) -> None:
        """What was compared of a collection does not count any more."""
        if self.collections.pop(name, None) is not None:
            self.why = f"{name} has to be compared again: {why}."

    def forget_all(self, why: str) -> None:
        """No comparison counts any more."""
        if self.collections:
            self.why = why
        self.collections = {}

    def compared(self, name: str, first: PointId | None, end: PointId | None, at: float) -> None:
        """The records from ``first`` to just before ``end`` (None: to the last one) were the same at ``at``."""
        found = self.collections.setdefault(name, Proved())
        found.ranges = covered(found.ranges, first, end, at)

    def same_settings(self, names: Iterable[str], *, same: bool = True) -> None:
        """The settings and payload indexes of these collections were the same just now; or (not ``same``) were changed."""
        for name in names:
            if found := self.collections.get(name):
                found.settings = same

    def same(self, name: str, ids: Iterable[PointId]) -> None:
        """These records of a collection were the same just now."""
        if found := self.collections.get(name):
            gone = set(ids)
            found.written = [one for one in found.written if one not in gone]

    # -- what it says -----------------------------------------------------------------------------
    @property
    def settled(self) -> set[str]:
        """The collections whose settings were compared and not changed since."""
        return {name for name, one in self.collections.items() if one.settings}

    @property
    def written(self) -> dict[str, set[PointId]]:
        """What was written since it was proved, by collection."""
        return {name: set(one.written) for name, one in self.collections.items() if one.written}

    def oldest(self, names: Iterable[str]) -> float | None:
        """When what was compared first of these collections was; None where not all was compared."""
        times = [self.collections[name].oldest if name in self.collections else None for name in names]
        known = [at for at in times if at is not None]
        return min(known) if known and len(known) == len(times) else None

    def next(self, names: Iterable[str]) -> tuple[str, PointId | None, PointId | None, float | None] | None:
        """The range to compare next: what was never compared, else the oldest. (collection, first id, end, when)."""
        best: tuple[float, str, int] | None = None
        for name in names:
            ranges = self.collections[name].ranges if name in self.collections else []
            for at, (_, when) in enumerate(ranges or [(None, None)]):
                key = (when or 0.0, name, at)
                best = key if best is None or key < best else best
        if best is None:
            return None
        _, name, at = best
        ranges = (self.collections[name].ranges if name in self.collections else []) or [(None, None)]
        end = ranges[at + 1][0] if at + 1 < len(ranges) else None
        return name, ranges[at][0], end, ranges[at][1]

    def missing(self, names: Iterable[str], now: float, hours: float) -> dict[str, str]:
        """The collections that have to be compared as a whole, each with the reason, a clause; none where a move can stand on
        what was compared.
        """
        found: dict[str, str] = {}
        for name in names:
            at = self.collections[name].oldest if name in self.collections else None
            if at is None:
                found[name] = (self.why or "it was not compared as a whole").rstrip(".")
            elif not 0 <= now - at <= hours * 3600:
                found[name] = f"its oldest comparison is {(now - at) / 3600:.1f} h old, and limits.proof_hours is {hours:g}"
        return found


def covered(
    ranges: Iterable[tuple[PointId | None, float | None]], first: PointId | None, end: PointId | None, at: float
) -> list[tuple[PointId | None, float | None]]:
    """The ranges with [first, end) compared at ``at``. Pure; neighbours of the same time become one."""
    before = list(ranges) or [(None, None)]
    found: list[tuple[PointId | None, float | None]] = [one for one in before if _less(one[0], first)]
    found.append((first, at))
    if end is not None:
        rest = [one for one in before if one[0] is not None and not _less(one[0], end)]
        if not rest or rest[0][0] != end:
            # The range in which `end` lies goes on with its own time.
            found.append((end, next(when for start, when in reversed(before) if not _less(end, start))))
        found += rest
    merged: list[tuple[PointId | None, float | None]] = []
    for one in found:
        if not merged or merged[-1][1] != one[1]:
            merged.append(one)
    return merged


def _less(one: PointId | None, other: PointId | None) -> bool:
    """In Qdrant's order; None is before every id."""
    if other is None:
        return False
    return one is None or order(one) < order(other)
