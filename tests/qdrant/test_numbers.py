"""Numbers of payloads: what a real server makes of them, and that two servers may have rewritten them at other times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.qdrant.compare import compare_answers
from cutover.qdrant.numbers import read, settled, settled_in

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "qdrant-1.18.3-numbers.json").read_text())


def test_numbers_are_read_as_a_real_server_reads_them() -> None:
    """It reads what was sent, stores that as text, and reads it again for every answer."""
    wrong = [(sent, told) for sent, told in RECORDED if read(repr(read(sent))) != float(told)]
    assert wrong == []
    assert sum(read(sent) != float(sent) for sent, _ in RECORDED) > 20, "most of them are those that it reads otherwise"


@given(st.floats(-1e307, 1e307))
def test_what_a_server_makes_of_a_number_by_rewriting_it_is_the_same_number(number: float) -> None:
    once = read(repr(number))
    assert settled(once) == settled(number) == settled(read(repr(once)))
    assert abs(settled(number) - number) <= 1e-12 * abs(number) or abs(number) < 1e-300


@pytest.mark.parametrize("number", [0.1, -1.5, 52.520006599999995, 1732960354.123456, 1e15, 0.30000000000000004])
def test_common_numbers_stay_as_they_are(number: float) -> None:
    assert settled(number) == number


def _answer(payload: Any) -> bytes:
    return json.dumps({"result": [{"id": 1, "payload": payload, "vector": {}}], "status": "ok"}).encode()


@pytest.mark.parametrize(
    ("mine", "theirs", "field"),
    [
        ({"p": 1.114e-20}, {"p": 1.1140000000000001e-20}, ""),
        ({"p": [{"q": 2.268e36}]}, {"p": [{"q": 2.2679999999999998e36}]}, ""),
        ({"p": 1.114e-20, "zero": -0.0}, {"p": 1.1140000000000001e-20, "zero": -0.0}, ""),
        ({"p": 1.114e-20, "zero": -0.0}, {"p": 1.1140000000000001e-20, "zero": 0.0}, "zero"),
        ({"p": 1.114e-20}, {"p": 1.115e-20}, "p"),
        ({"p": 1}, {"p": 1.0}, "p"),
        ({"p": 1.114e-20, "n": None}, {"p": 1.1140000000000001e-20}, "n"),
        ({"p": 1.114e-20, "t": "a"}, {"p": 1.1140000000000001e-20, "t": ["a"]}, "t"),
    ],
)
def test_only_the_last_digit_of_such_a_number_is_no_difference(mine: Any, theirs: Any, field: str) -> None:
    found = compare_answers("docs", _answer(mine), _answer(theirs), [1])
    assert [d.detail for d in found] == ([f"field {field}"] if field else [])


def test_text_and_whole_numbers_are_left_alone() -> None:
    assert settled_in({"a": ["1.114e-20", 2**70, True, None]}) == {"a": ["1.114e-20", 2**70, True, None]}
