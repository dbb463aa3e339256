"""Half precision with cosine distance: what is written comes out as it was stored."""

from __future__ import annotations

import math
import random
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cutover.qdrant import half

NUMBERS = st.floats(-1, 1, width=32, allow_subnormal=False)


def rounded(vector: list[float]) -> list[float]:
    """To 16 bits, to the nearest, to even."""
    return list(struct.unpack(f"{len(vector)}e", struct.pack(f"{len(vector)}e", *vector)))


def stored(vector: list[float]) -> list[float]:
    """As Qdrant stores it."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return rounded(vector if abs(length**2 - 1) <= 1e-6 else [x / length for x in vector])


@given(st.lists(NUMBERS, min_size=3, max_size=200))
def test_it_is_stored_again_as_it_was(vector: list[float]) -> None:
    assume(any(abs(x) > 1e-3 for x in vector))
    before = stored(vector)
    written = half.one_long(before)
    assume(written is not None)  # all of them may have been rounded as far as it goes
    assert written is not None
    assert abs(math.fsum(x * x for x in written) - 1) < half.NEAR
    assert stored(written) == before


def test_without_it_some_come_out_a_step_off() -> None:
    chance = random.Random(3)
    vectors = [stored([chance.uniform(-1, 1) for _ in range(4)]) for _ in range(2000)]
    off = [v for v in vectors if stored(v) != v]
    assert len(off) > 20, "about one of thirty"
    assert [stored(half.one_long(v) or []) for v in off] == off


def test_what_is_no_vector_of_length_one() -> None:
    assert half.restored([0.0, 0.0]) == [0.0, 0.0]
    assert half.restored([[0.0], [1.0]]) == [[0.0], [1.0]]
    assert half.restored([0.5, 0.5]) is None
    assert half.restored([[1.0, 0.0], [0.5, 0.5]]) is None
    assert half.one_long([-1.0, 0.0]) == [-1.0, 0.0]


@pytest.mark.parametrize("size", [1.0, 0.5, 2**-14, 2**-24, 0.7998046875])
def test_what_is_within_its_range_rounds_to_it(size: float) -> None:
    low, high = half._range(size)
    assert rounded([low, high]) == [size, size]
    assert rounded([max(0.0, size - 1.01 * (size - low) / 0.499 * 0.5), size + 1.01 * (high - size) / 0.499 * 0.5]) != [
        size,
        size,
    ]
