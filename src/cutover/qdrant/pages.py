"""How much is asked of a Qdrant server at a time, and written to it.

What a record weighs is measured, not guessed from the schema: the first pages are small, and each answer says how many records
the next one may hold. What a collection's strict mode allows is kept to; what a server refuses, or answers with more than a few
pages' worth, is asked for again in halves. So memory is bounded by ``client.MOST_BYTES`` for every request under way (a single
record may be larger), whatever the records are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cutover.core.errors import CutoverError
from cutover.core.threads import side_by_side
from cutover.qdrant.client import Answered, TooLarge, vectors_of

T = TypeVar("T")

#: About this many bytes are asked for at a time: large enough to be quick, small enough to stay out of the way.
PAGE_BYTES = 4 * 1024 * 1024
#: Records of the first page, before anything was measured.
FIRST = 16
#: Pieces that are worked on side by side.
THREADS = 4
#: Qdrant did not do what was asked, as it was asked; less at a time may be done.
_REFUSALS = frozenset({400, 403, 413, 422})


@dataclass(frozen=True)
class Limits:
    """What a collection's strict mode allows in one request, in records (None where there is no limit); and what has to be known
    of its vectors when records are written.
    """

    query: int | None = None
    upsert: int | None = None
    condition: int | None = None
    """Values in one condition of a filter."""
    exact: bool = True
    """Whether exact searches are answered."""
    halves: frozenset[str] = frozenset()
    """Names of vectors that come out as they are only in another form (:mod:`cutover.qdrant.half`); one without a name is ''."""
    idf: frozenset[str] = frozenset()
    """Names of sparse vectors whose scores depend on all records, those included that are deleted and not yet swept out."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Limits:
        """Read from what Qdrant says of a collection."""
        vectors = vectors_of(info["config"].get("params") or {})
        halves = {n for n, v in vectors.items() if v.get("datatype") == "float16" and v.get("distance") == "Cosine"}
        sparse = (info["config"].get("params") or {}).get("sparse_vectors") or {}
        strict = info["config"].get("strict_mode_config") or {}
        if not strict.get("enabled"):
            strict = {}
        return cls(
            query=strict.get("max_query_limit"),
            upsert=strict.get("upsert_max_batchsize"),
            condition=strict.get("condition_max_size"),
            exact=strict.get("search_allow_exact") is not False,
            halves=frozenset(halves),
            idf=frozenset(n for n, v in sparse.items() if (v or {}).get("modifier") == "idf"),
        )


def less_may_do(error: CutoverError) -> bool:
    """Whether a request that ended so may succeed when it asks for less, or carries less."""
    return isinstance(error, TooLarge) or (isinstance(error, Answered) and error.status in _REFUSALS)


def broken(error: CutoverError) -> bool:
    """Whether the server failed at a read, which one record alone may cause: a payload nested deeper than it can read."""
    return isinstance(error, Answered) and error.status == 500


def parts_may_do(error: CutoverError) -> bool:
    """Whether a part of what was read may do: it was too much, or one record among it cannot be read."""
    return less_may_do(error) or broken(error)


class Size:
    """How many records make up about ``PAGE_BYTES``, learnt from the answers. Shared by threads."""

    def __init__(self, most: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.most = max(1, min(most, self.limits.query or most))
        self.now = min(FIRST, self.most)

    def learn(self, records: int, size: int) -> None:
        """An answer of ``size`` bytes held ``records`` records. Grows slowly, because the next ones may be larger."""
        if records > 0 and size > 0:
            self.now = max(1, min(self.most, PAGE_BYTES * records // size, 4 * self.now))

    def halve(self, asked: int) -> None:
        """``asked`` records at a time were too many."""
        self.now = max(1, min(self.now, asked // 2))


def in_pieces(items: Sequence[Any], size: Size, do: Callable[[list[Any]], T]) -> list[T]:
    """``do`` for all items, as many at a time as ``size`` says, in threads; halved where a part may do.

    The first error that halving does not cure is raised, when the pieces under way have ended.
    """
    lock, done, at, failed = threading.Lock(), list[T](), 0, False

    def one(part: list[Any]) -> None:
        try:
            found = do(part)
        except (Answered, TooLarge) as error:
            if len(part) == 1 or not parts_may_do(error):
                raise
            size.halve(len(part))
            half = len(part) // 2
            one(part[:half])
            one(part[half:])
            return
        with lock:
            done.append(found)

    def work() -> None:
        nonlocal at, failed
        while True:
            with lock:
                part = [] if failed else list(items[at : at + size.now])
                at += len(part)
            if not part:
                return
            try:
                one(part)
            except BaseException:
                failed = True
                raise

    side_by_side([work] * max(1, min(THREADS, -(-len(items) // size.now))), THREADS)
    return done
