"""Whether two answers to a search are the same answer. Pure.

Records with equal scores come in any order, and where a limit cuts through them, any of them come. Scores themselves are sums of
rounded numbers, whose last bits depend on the processor's instructions (a VM without AVX adds in another order than its host), so
scores that close are equal too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

RELATIVE, ABSOLUTE = 1e-5, 1e-6

Scored = tuple[Any, float | None]
"""A record's id and its score; Qdrant writes a score that is no number as null."""


def same_ranking(one: Sequence[Scored], other: Sequence[Scored], *, limit: int | None = None) -> bool:
    """Whether both rank alike, each in the order in which the server gave it.

    ``limit``: how many were asked for; None where none could be cut off.
    """
    if len(one) != len(other) or not all(_equal(a[1], b[1]) for a, b in zip(one, other, strict=True)):
        return False
    if not one:
        return True
    begins = [n for n in range(len(one)) if n == 0 or not (_tied(one, n) or _tied(other, n))]
    for begin, end in zip(begins, [*begins[1:], len(one)], strict=True):
        if end == len(one) == limit:
            return True  # which of the last ones that are equal is named is no one's promise
        if {_key(record) for record, _ in one[begin:end]} != {_key(record) for record, _ in other[begin:end]}:
            return False
    return True


def _tied(ranked: Sequence[Scored], n: int) -> bool:
    return _equal(ranked[n - 1][1], ranked[n][1])


def _equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _key(record: Any) -> str:
    return f"{type(record).__name__} {record}"
