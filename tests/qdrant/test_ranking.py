"""Ties are no difference; everything else is one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.qdrant.ranking import same_ranking


@pytest.mark.parametrize(
    ("one", "other", "limit"),
    [
        ([(1, 0.9), (2, 0.5), (3, 0.5)], [(1, 0.9), (3, 0.5), (2, 0.5)], None),
        ([(1, 0.9), (2, 0.5)], [(1, 0.9), (3, 0.5)], 2),
        ([(1, 0.0), (2, 0.0)], [(8, 0.0), (9, -0.0)], 2),
        ([(1, 0.7071067), (2, 0.7071068)], [(2, 0.70710684), (1, 0.70710677)], None),
        ([("a", None), ("b", None)], [("b", None), ("a", None)], None),
        ([], [], 10),
        ([(1, 0.0), (2, 4.0), (3, 4.0)], [(1, 0.0), (3, 4.0), (2, 4.0)], None),
    ],
    ids=["order", "cut at the limit", "zero vectors", "last bits", "no numbers", "nothing", "distances"],
)
def test_ties_are_no_difference(one: Any, other: Any, limit: int | None) -> None:
    assert same_ranking(one, other, limit=limit)


@pytest.mark.parametrize(
    ("one", "other", "limit"),
    [
        ([(1, 0.9), (2, 0.5)], [(2, 0.9), (1, 0.5)], None),
        ([(1, 0.9), (2, 0.5)], [(1, 0.9), (2, 0.4)], None),
        ([(1, 0.9), (2, 0.5)], [(1, 0.9), (3, 0.5)], None),
        ([(1, 0.9), (2, 0.5)], [(1, 0.9)], None),
        ([(1, 0.9), (2, 0.5), (3, 0.1)], [(1, 0.9), (4, 0.5), (3, 0.1)], 3),
        ([(1, 0.5)], [("1", 0.5)], None),
        ([(1, 0.5)], [(1, None)], None),
    ],
    ids=["exchanged", "score", "another record", "fewer", "above the cut", "kind of id", "no number"],
)
def test_another_answer_is_one(one: Any, other: Any, limit: int | None) -> None:
    assert not same_ranking(one, other, limit=limit)


SCORES = st.dictionaries(st.integers(0, 99), st.sampled_from([0.0, 0.25, 0.5, 1.0, -3.0]), min_size=1, max_size=30)


def ranked(scores: dict[int, float], seed: int, limit: int) -> list[tuple[int, float]]:
    """As a server would rank them: ties in any order, the rest cut off."""
    rows = list(scores.items())
    random.Random(seed).shuffle(rows)
    return sorted(rows, key=lambda row: -row[1])[:limit]


@given(SCORES, st.integers(), st.integers(), st.integers(1, 30))
def test_two_servers_with_the_same_records_never_differ(scores: dict[int, float], one: int, other: int, limit: int) -> None:
    assert same_ranking(ranked(scores, one, limit), ranked(scores, other, limit), limit=limit)


@given(SCORES, st.integers(), st.integers(0, 29))
def test_one_score_that_changed_is_seen(scores: dict[int, float], seed: int, which: int) -> None:
    changed = dict(scores)
    key = list(scores)[which % len(scores)]
    changed[key] += 10.0
    limit = len(scores)
    assert not same_ranking(ranked(scores, seed, limit), ranked(changed, seed, limit))
