"""Numbers keep their bits on the way out: every 32-bit float is answered as a decimal that reads back as itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.qdrant import translate


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_any_32_bit_float_reads_back_as_itself(values: list[float]) -> None:
    answered = translate.shortest(values)
    assert answered.astype(np.float32).tobytes() == np.asarray(values, dtype=np.float32).tobytes()
    for value in values:
        assert np.float32(translate.shortest_one(value)) == np.float32(value)


def test_usual_components_are_answered_in_the_shortest_decimal() -> None:
    """The shortest decimal that is the same 32-bit float, as the real server prints it (not the 64-bit expansion)."""
    values = np.random.default_rng(3).uniform(-1, 1, 20_000).astype(np.float32)
    answered = translate.shortest(values.astype(np.float64))
    expected = [float(str(value)) for value in values]
    differing = [(a, b) for a, b in zip(answered.tolist(), expected, strict=True) if a != b]
    assert all(len(repr(a)) <= len(repr(b)) for a, b in differing), differing[:5]
    assert max(len(repr(abs(a))) for a in answered.tolist() if abs(a) > 1e-3) <= 13


@pytest.mark.parametrize(("value", "order"), [(0, (0, 0)), (2**64 - 1, (0, 2**64 - 1)), ("a", (1, "a"))])
def test_ids_are_ordered_numbers_first(value: int | str, order: tuple[int, int | str]) -> None:
    assert translate.id_order(value) == order
