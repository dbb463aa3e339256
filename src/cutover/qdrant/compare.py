"""The one place that knows what "the same data" means.

Two servers hold the same data when they have the same collections with the same settings, payload indexes and aliases, and
every record is there on both with the same payload and the same vectors, bit by bit. ``points_count`` is never believed: it is
an estimate that legitimately differs. Records are compared by reading both servers in order of id side by side; where both
answer the same bytes nothing more needs to be looked at, otherwise the records are compared one by one and every difference
is named: missing, extra, vector, payload, setting, index, alias.

A full comparison runs while applications go on writing, so a record may differ because it is being written at this moment.
Such differences must be among the recorded writes and must vanish when followed; :mod:`cutover.replication.follower` settles
that.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from cutover.core.threads import side_by_side
from cutover.qdrant.affected import Depth, PointId
from cutover.qdrant.client import Answered, NotThere, Qdrant, TooLarge
from cutover.qdrant.numbers import settled_in
from cutover.qdrant.pages import THREADS, Limits, Size, broken, in_pieces, parts_may_do
from cutover.qdrant.records import unsayable

Kind = Literal["missing", "extra", "vector", "payload", "setting", "index", "alias", "collection"]

#: Most records in a page, and most that are asked for by id at a time.
MOST, MOST_BY_ID = 10_000, 500
#: A collection with so many records is compared in one piece, others beside it.
SMALL = 2_000
#: So many small ones are begun before what was found is looked at.
SIDE_BY_SIDE = 64
#: More differences than this are counted, not kept.
KEPT = 100_000

_NEGATIVE_ZERO = re.compile(rb"-0\.0(?![0-9])")
_AFTER_RESULT = re.compile(rb',\s*"status"\s*:(?!.*,\s*"status"\s*:)', re.DOTALL)  # the last one: payloads may have one, too
_NEXT = re.compile(rb'"next_page_offset"\s*:\s*(null|\d+|"[^"]*")\s*\}\s*$')


class Difference(NamedTuple):
    """One difference. ``where`` is a record's id or a setting's name; seen from the server that was copied from:
    *missing* is there and not on the other, *extra* is only on the other.
    """

    kind: Kind
    collection: str
    where: PointId | str
    detail: str = ""

    def __str__(self) -> str:
        place = f"of {self.collection}" if self.collection else ""
        more = f": {self.detail}" if self.detail else ""
        match self.kind:
            case "missing":
                return f"record {self.where} {place} is missing{more}"
            case "extra":
                return f"record {self.where} {place} is there in excess{more}"
            case "vector" | "payload":
                return f"record {self.where} {place} differs in its {self.kind}{more}"
            case "index":
                return f"index {self.where} {place} differs{more}"
            case "alias":
                return f"alias {self.where} differs{more}"
            case "collection":
                return f"collection {self.where} differs{more}"
            case _:
                return f"setting {self.where} {place} differs{more}"


_COUNTED = {
    "missing": ("record missing", "records missing"),
    "extra": ("record in excess", "records in excess"),
    "vector": ("record differs in its vector", "records differ in their vectors"),
    "payload": ("record differs in its payload", "records differ in their payload"),
    "setting": ("setting differs", "settings differ"),
    "index": ("index missing or different", "indexes missing or different"),
    "alias": ("alias missing or different", "aliases missing or different"),
    "collection": ("collection missing or in excess", "collections missing or in excess"),
}


def summary(differences: Sequence[Difference], shown: int = 5) -> str:
    """The differences in one sentence: how many of each kind, and the first few by name."""
    kinds = Counter(d.kind for d in differences)
    counted = ", ".join(f"{n} {_COUNTED[kind][n != 1]}" for kind, n in sorted(kinds.items()))
    named = "; ".join(str(d) for d in differences[:shown])
    more = f"; and {len(differences) - shown} more" if len(differences) > shown else ""
    return f"{counted} ({named}{more})"


# -- records ------------------------------------------------------------------------------------------
def _literal(text: str) -> tuple[str]:
    return (text,)


_UUID = re.compile(r"[0-9a-f-]{36}")


def records_in(page: bytes, exact: bool) -> tuple[list[dict[str, Any]], PointId | None]:
    """The records of an answer and where the next page begins.

    ``exact`` keeps numbers with a fraction as text, which tells -0.0 from 0.0 (comparing floats does not).
    """
    # NaN is not equal to itself; as text it is.
    found = json.loads(page, parse_float=_literal if exact else None, parse_constant=_literal)["result"]
    records, following = (found["points"], found["next_page_offset"]) if isinstance(found, dict) else (found, None)
    if not all(isinstance(r["id"], int) or _UUID.fullmatch(r["id"]) for r in records):
        raise ValueError("there is an id that can be none")  # another server would be asked for it, and blamed
    return records, following


def order(point: PointId) -> tuple[int, int | str]:
    """The key by which ids are in Qdrant's order of ids: numbers ascending, then UUIDs."""
    return (0, point) if isinstance(point, int) else (1, point)


def _canonical(payload: Any) -> str:
    """Payload as text in which the order of keys does not matter and 1, 1.0 and true stay different."""
    return json.dumps(payload or {}, sort_keys=True)


def compare_record(collection: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[Difference]:
    """How two versions of one record differ. A missing payload and an empty one are the same to Qdrant; and so are numbers that
    it makes of one another (:mod:`cutover.qdrant.numbers`).
    """
    if mine.get("vector") != theirs.get("vector"):
        yield Difference("vector", collection, mine["id"], _vector_names(mine.get("vector"), theirs.get("vector")))
    left, right = mine.get("payload") or {}, theirs.get("payload") or {}
    if left != right or _canonical(left) != _canonical(right):
        left, right = settled_in(left), settled_in(right)
        keys = sorted(k for k in {*left, *right} if _canonical({0: left.get(k)}) != _canonical({0: right.get(k)}))
        keys = keys or sorted(k for k in {*left, *right} if (k in left) != (k in right))
        if keys:
            yield Difference("payload", collection, mine["id"], "field " + ", ".join(keys[:5]))


def _vector_names(mine: Any, theirs: Any) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return "vector " + ", ".join(sorted(n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n)))
    return ""


def compare_answers(collection: str, mine: bytes, theirs: bytes, ids: Sequence[PointId]) -> list[Difference]:
    """Compare two lists of the records ``ids``, as two servers answered them."""
    if _same_bytes(mine, theirs):
        return []
    exact = bool(_NEGATIVE_ZERO.search(mine) or _NEGATIVE_ZERO.search(theirs))
    left = {r["id"]: r for r in records_in(mine, exact)[0]}
    right = {r["id"]: r for r in records_in(theirs, exact)[0]}
    found: list[Difference] = []
    for one in ids:
        if one in left and one in right:
            found += compare_record(collection, left[one], right[one])
        elif one in left:
            found.append(Difference("missing", collection, one))
        elif one in right:
            found.append(Difference("extra", collection, one))
    return found


def _result_bytes(answer: bytes) -> bytes | None:
    """The answer up to the end of its result; None when it is not built the way Qdrant 1.18 builds it."""
    if not answer.startswith(b'{"result"'):
        return None
    tail = max(0, len(answer) - 200)
    match = _AFTER_RESULT.search(answer, tail)
    return answer[: match.start()] if match else None


def _same_bytes(mine: bytes, theirs: bytes) -> bool:
    left = _result_bytes(mine)
    return left is not None and left == _result_bytes(theirs)


@dataclass
class Compared:
    """What a comparison of a whole collection found. ``count`` is exact also where ``differences`` was cut off."""

    collection: str
    records: int = 0
    seconds: float = 0.0
    count: int = 0
    differences: list[Difference] = field(default_factory=list)
    unsayable: list[PointId] = field(default_factory=list)
    """Records of the source with a vector that JSON cannot carry, or that it cannot read, as far as they are kept."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, found: Sequence[Difference]) -> None:
        with self._lock:
            self.count += len(found)
            self.differences += found[: max(0, KEPT - len(self.differences))]

    def cannot_be_written(self, ids: Sequence[PointId]) -> None:
        with self._lock:
            self.unsayable += ids[: max(0, KEPT - len(self.unsayable))]

    def passed(self, records: int) -> None:
        with self._lock:
            self.records += records


def compare_collections(
    source: Qdrant,
    target: Qdrant,
    counts: Mapping[str, int],
    *,
    advance: Callable[[int], None] = lambda _n: None,
) -> Iterator[Compared]:
    """Compare every record of some collections, of which ``counts`` says about how many records they have: large ones one after
    the other, by ranges of ids, small ones side by side. One that is deleted meanwhile is left out.
    """

    def one(name: str, threads: int = THREADS) -> Compared | None:
        try:
            return compare_collection(source, target, name, threads=threads, advance=advance)
        except NotThere:
            return None

    small = [name for name, count in counts.items() if count <= SMALL]
    for at in range(0, len(small), SIDE_BY_SIDE):
        yield from filter(None, side_by_side([partial(one, name, 1) for name in small[at : at + SIDE_BY_SIDE]], THREADS))
    for name in counts:
        if counts[name] > SMALL and (found := one(name)) is not None:
            yield found


def compare_collection(
    source: Qdrant,
    target: Qdrant,
    collection: str,
    *,
    depth: Depth = Depth.EVERYTHING,
    threads: int = THREADS,
    advance: Callable[[int], None] = lambda _n: None,
) -> Compared:
    """Compare every record of a collection on two servers, by ranges of ids in parallel. Memory is bounded by the pages.

    What of the source's records cannot be written back is found on the way (``unsayable``). Reads about 12,000 records of 384
    dimensions a second and processor; ids alone 300,000.
    """
    payload, vectors = depth >= Depth.PAYLOAD, depth >= Depth.EVERYTHING
    size = Size(MOST, Limits.of(source.info(collection)))
    result, began = Compared(collection), time.monotonic()
    bounds = _ranges(source, collection, threads)

    def one_range(start: PointId | None, end: PointId | None) -> None:
        _compare_range(source, target, collection, start, end, size, payload, vectors, result, advance)

    side_by_side([lambda s=s, e=e: one_range(s, e) for s, e in bounds], threads)
    result.seconds = time.monotonic() - began
    return result


def readable(server: Qdrant, collection: str, one: PointId) -> bool:
    """Whether the server can read a record that it has."""
    try:
        server.records(collection, [one])
    except Answered as error:
        if not broken(error):
            raise
        return False
    return True


def compare_part(
    source: Qdrant,
    target: Qdrant,
    collection: str,
    start: PointId | None,
    end: PointId | None,
    enough: Callable[[], bool],
    size: Size,
) -> tuple[Compared, PointId | None]:
    """Compare some of the records of [start, end), in one thread, until it is ``enough``; at least a page (``size``).

    Returns what was found, and from which id on nothing was compared; None where all was.
    """
    result, began = Compared(collection), time.monotonic()
    rest = _compare_range(source, target, collection, start, end, size, True, True, result, lambda _n: None, enough)
    result.seconds = time.monotonic() - began
    return result, rest


def _ranges(source: Qdrant, collection: str, threads: int) -> list[tuple[PointId | None, PointId | None]]:
    """Ranges of ids with about the same number of records each: [start, end)."""
    found = sorted(set(source.sample(collection, 32 * threads)), key=order) if threads > 1 else []
    if len(found) < 16 * threads:
        return [(None, None)]
    cuts: list[PointId | None] = [None, *(found[len(found) * i // threads] for i in range(1, threads)), None]
    return list(pairwise(cuts))


def _compare_range(
    source: Qdrant,
    target: Qdrant,
    collection: str,
    start: PointId | None,
    end: PointId | None,
    size: Size,
    payload: bool,
    vectors: bool,
    result: Compared,
    advance: Callable[[int], None],
    enough: Callable[[], bool] = lambda: False,
) -> PointId | None:
    """Compare the records of [start, end). Returns where it ended because it was ``enough``; None where all were compared."""
    cursor = start

    def read(limit: int, *, payload: bool) -> list[bytes]:
        both = [partial(s.page, collection, cursor, limit, payload=payload, vectors=vectors) for s in (source, target)]
        return side_by_side(both, 2)

    while True:
        if cursor is not start and enough():
            return cursor
        limit = size.now
        try:
            pages = read(limit, payload=payload)
        except (Answered, TooLarge) as error:
            if not parts_may_do(error) or (limit == 1 and not (payload and broken(error))):
                raise
            if limit > 1:
                size.halve(limit)
                continue
            # This record, or the next one, which is read as well to say where the next page begins, has a payload that the
            # server cannot read: the rest of it is compared, and the payload by itself.
            pages = read(1, payload=False)
            here = [r["id"] for r in records_in(pages[0], exact=False)[0]]
            result.cannot_be_written([one for one in here if not readable(source, collection, one)])
            result.add([d for d in compare_ids(source, target, collection, here) if d.kind == "payload"])
        if vectors and (odd := unsayable(pages[0])):
            result.cannot_be_written(odd)
        following = _next_of_same(pages)
        if following is not None and (end is None or order(following) < order(end)):
            size.learn(limit, len(pages[0]))
            result.passed(limit)
            advance(limit)
            cursor = following
            continue
        exact = any(_NEGATIVE_ZERO.search(page) for page in pages)
        done, cursor, found, seen = _join(collection, pages, exact, end)
        size.learn(seen, len(pages[0]))
        result.add(found)
        result.passed(seen)
        advance(seen)
        if done:
            return None


def _next_of_same(pages: Sequence[bytes]) -> PointId | None:
    """Where the next page begins, when both answers are the same bytes and there is a next page."""
    left = _result_bytes(pages[0])
    if left is None or left != _result_bytes(pages[1]):
        return None
    match = _NEXT.search(left, max(0, len(left) - 200))
    following: PointId | None = json.loads(match[1]) if match else None
    return following


def _join(
    collection: str, pages: Sequence[bytes], exact: bool, end: PointId | None
) -> tuple[bool, PointId | None, list[Difference], int]:
    """Compare two pages that begin at the same id, as far as both reach. Returns (finished, next id, found, records)."""
    records, following = zip(*(records_in(page, exact) for page in pages), strict=True)
    # Both pages are complete below the smaller of the two ids at which they stop.
    stops = [order(n) for n in following if n is not None] + ([order(end)] if end is not None else [])
    stop = min(stops, default=(2, 0))
    sides = [{r["id"]: r for r in page if order(r["id"]) < stop} for page in records]
    found: list[Difference] = []
    for one in sorted({*sides[0], *sides[1]}, key=order):
        if one not in sides[1]:
            found.append(Difference("missing", collection, one))
        elif one not in sides[0]:
            found.append(Difference("extra", collection, one))
        else:
            found += compare_record(collection, sides[0][one], sides[1][one])
    finished = stop == (2, 0) or (end is not None and stop == order(end))
    return finished, None if finished else stop[1], found, len(sides[0])


def compare_ids(
    source: Qdrant,
    target: Qdrant,
    collection: str,
    ids: Iterable[PointId],
    *,
    size: Size | None = None,
    timeout: tuple[float, float] | None = None,
) -> list[Difference]:
    """Compare exactly these records on both servers, as they are now. ``size``: how many at a time, as far as it was learnt."""
    size = size or Size(MOST_BY_ID)

    def one_chunk(chunk: list[PointId]) -> list[Difference]:
        def read(*, payload: bool) -> list[bytes]:
            return side_by_side(
                [partial(s.records, collection, chunk, payload=payload, timeout=timeout) for s in (source, target)], 2
            )

        try:
            try:
                answers = read(payload=True)
            except Answered as error:
                if len(chunk) > 1 or not broken(error):
                    raise
                answers = read(payload=False)
        except NotThere as error:
            return [Difference("collection", "", collection, error.reason)]
        size.learn(len(chunk), len(answers[0]))
        return compare_answers(collection, answers[0], answers[1], chunk)

    return [d for found in in_pieces(list(ids), size, one_chunk) for d in found]


def compare_counts(
    source: Qdrant, target: Qdrant, collections: Sequence[str], *, timeout: tuple[float, float] | None = None
) -> list[Difference]:
    """Exact numbers of records on both servers."""
    tasks = [partial(count_of, s, c, timeout=timeout) for c in collections for s in (source, target)]
    numbers = side_by_side(tasks)
    found = []
    for name, mine, theirs in zip(collections, numbers[::2], numbers[1::2], strict=True):
        if mine != theirs:
            words = ["it is not there" if n is None else f"{n} records" for n in (mine, theirs)]
            found.append(Difference("collection", "", name, " and ".join(words)))
    return found


def count_of(server: Qdrant, collection: str, *, timeout: tuple[float, float] | None = None) -> int | None:
    """The exact number of records; None where there is no such collection (any more)."""
    try:
        return server.count(collection, timeout=timeout)
    except NotThere:
        return None


def counts_of(server: Qdrant, collections: Sequence[str]) -> dict[str, int]:
    """The exact numbers of records; what is deleted meanwhile is left out."""
    numbers = side_by_side([partial(count_of, server, name) for name in collections])
    return {name: number for name, number in zip(collections, numbers, strict=True) if number is not None}
