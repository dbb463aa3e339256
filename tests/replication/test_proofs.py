"""What earlier comparisons are worth: ranges and their times, what was written since, and what still counts. Pure."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cutover.replication import proofs, switchover
from cutover.replication.proofs import Counted, Proofs, Proved, covered

HOUR = 3600.0


def _times(ranges: Any, ids: range) -> list[float | None]:
    """When each id was compared, read from ranges."""
    return [next((at for first, at in reversed(ranges) if first is None or first <= one), None) for one in ids]


@given(seed=st.integers(0, 10**9), count=st.integers(1, 12))
def test_ranges_say_of_every_id_when_it_was_compared_last(seed: int, count: int) -> None:
    dice, ids = random.Random(seed), range(20)
    ranges: list[tuple[Any, float | None]] = []
    known: list[float | None] = [None] * len(ids)
    for at in range(1, count + 1):
        first = dice.choice([None, *ids])
        end = dice.choice([None, *(one for one in ids if one > (first if first is not None else 0))])
        ranges = covered(ranges, first, end, float(at))
        for one in ids:
            if (first is None or one >= first) and (end is None or one < end):
                known[one] = float(at)
        assert _times(ranges, ids) == known
        assert ranges[0][0] is None
        assert all(left[1] != right[1] for left, right in pairwise(ranges))


def test_the_range_to_compare_next_is_the_oldest_and_before_it_what_never_was() -> None:
    found = Proofs({"a": Proved([(None, 5.0), (10, 3.0), (20, 9.0)]), "b": Proved([(None, 4.0)])})
    assert found.next(["a", "b"]) == ("a", 10, 20, 3.0)
    assert found.next(["a", "b", "c"]) == ("c", None, None, None)
    assert found.next([]) is None
    assert (found.oldest(["a", "b"]), found.oldest(["a", "c"])) == (3.0, None)


def test_what_was_written_since_is_remembered_until_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "WRITTEN", 5)
    found = Proofs({"a": Proved([(None, 1.0)]), "b": Proved([(None, 1.0)])})
    found.wrote("a", [1, 2, 2])
    found.wrote("c", [1])
    assert found.written == {"a": {1, 2}}
    found.same("a", [1])
    assert found.written == {"a": {2}}
    found.wrote("b", range(5))
    assert found.missing(["a", "b"], 2.0, 1) == {"b": "b has to be compared again: too much was written since"}


@pytest.mark.parametrize(
    ("ranges", "now", "reason"),
    [
        ([(None, 0.0)], HOUR, ""),
        ([(None, 0.0)], 25 * HOUR, "25.0 h old, and limits.proof_hours is 24"),
        ([(None, 0.0), (7, 24 * HOUR)], 25 * HOUR, "25.0 h old"),
        ([(None, 5 * HOUR)], HOUR, "-4.0 h old"),  # a clock that was set back
        ([(None, 0.0), (7, None)], HOUR, "was not compared as a whole"),
        ([], HOUR, "was not compared as a whole"),
    ],
)
def test_only_a_young_comparison_of_everything_counts(ranges: Any, now: float, reason: str) -> None:
    found = Proofs({"a": Proved(ranges)}).missing(["a"], now, 24.0)
    assert found == {} if not reason else reason in found["a"]


def test_it_is_saved_and_read_as_it_was() -> None:
    found = Proofs(
        {"a": Proved([(None, 1.0), ("0-f", None)], [7])}, {"old": Counted("then", {"PUT /x": 3}, {}, {"PUT /x": 1})}, "w"
    )
    assert TypeAdapter(Proofs).validate_json(json.dumps(found, default=vars)) == found


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("The new server was restarted", "as a whole, because the new server was restarted."),
        ("It is not known what both servers had counted", "because it is not known what"),
        ("The-docs has to be compared again: it was copied anew", "because The-docs has to be"),
    ],
)
def test_a_reason_goes_on_with_the_sentence_and_a_collection_keeps_its_name(why: str, said: str) -> None:
    facts = {"why_compared": why, "records": 3, "collections": 1}
    assert said in " ".join(switchover.stood_on(facts))
