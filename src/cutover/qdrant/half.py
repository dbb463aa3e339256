"""Vectors stored in half precision with cosine distance, in a form that comes out as it is stored.

Qdrant makes such a vector one long and rounds each number to 16 bits. The rounded one is a little too long or too short, so
written back as it was read it is stretched once more, and some numbers come out a step off. But a vector that is one long and
rounds to the stored one exists, because that is what was stored. So each number is moved within what its rounding took, until the
whole is one long; a vector that is one long Qdrant leaves as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

#: Qdrant leaves a vector alone whose squared length is nearer to one than 1e-6, reckoned with 32 bits.
NEAR = 1e-7
#: The share of a step that a number may be moved; at half a step it would round to the next one.
_SHARE = 0.499


def restored(vector: Any) -> Any | None:
    """What to write so that ``vector`` (a list of numbers, or of such lists) is stored again; None where nothing does that."""
    if vector and isinstance(vector[0], list):
        rows = [one_long(row) for row in vector]
        return None if None in rows else rows
    return one_long(vector)


def one_long(stored: Sequence[float]) -> list[float] | None:
    """A vector of length one whose numbers round to the stored ones; None where there is none. All zeros stay so."""
    length = math.sqrt(math.fsum(x * x for x in stored))
    if length == 0:
        return list(stored)
    ranges = [_range(abs(x)) for x in stored]

    def moved(factor: float) -> list[float]:
        return [math.copysign(min(max(abs(x) * factor, low), high), x) for x, (low, high) in zip(stored, ranges, strict=True)]

    low, high, factor = 0.0, 2.0, 1 / length
    for _ in range(60):
        found = moved(factor)
        squared = math.fsum(x * x for x in found)
        if abs(squared - 1) < NEAR:
            return found
        low, high = (factor, high) if squared < 1 else (low, factor)
        factor = (low + high) / 2
    return None


def _range(size: float) -> tuple[float, float]:
    """What rounds to this number of 16 bits, its sign aside."""
    mantissa, exponent = math.frexp(size)
    step = math.ldexp(1.0, max(exponent - 11, -24))
    below = step / 2 if mantissa == 0.5 and exponent > -13 else step  # below a power of two the steps are half as long
    return max(0.0, size - _SHARE * below), size + _SHARE * step
