"""How a soak is judged, and a short one. A long one takes an hour."""

from __future__ import annotations

import pytest

from lab.load import Report
from tools import soak
from tools.soak_result import Happened, Result, Sample, lines


def _looks(memory: list[float], **more: float) -> list[Sample]:
    fields = {"writes": 0, "seconds": 0.1, "record": 0.5, "bodies": 3} | more
    return [Sample(at=float(at), memory=mb, happening="", **fields) for at, mb in enumerate(memory)]  # type: ignore[arg-type]


def test_a_soak_is_right_only_where_nothing_came_of_it() -> None:
    good = Result(samples=_looks([80.0] * 100), compared=100, load=Report(requests=100))
    assert good.wrong(300, 64, 5) == []
    grown = [100.0] * 70 + [400.0] * 20
    bad = Result(
        samples=_looks(grown, record=70, seconds=6), errors=["a move: it ended with 3"], different=["1 record differs"],
        load=Report(failed=1, lost=2),
    )  # fmt: skip
    said = bad.wrong(300, 64, 5)
    assert len(said) == 9, said
    assert "the watch's memory grew from 100 to 400 MB" in said


def test_what_waits_while_something_happens_is_no_fault() -> None:
    looks = _looks([80.0] * 3)
    looks[1].seconds, looks[1].happening = 40.0, "the watch is killed"
    assert Result(samples=looks, compared=1).wrong(300, 64, 5) == []


def test_memory_is_that_of_the_life_that_lasted_longest() -> None:
    """After a kill it begins anew; what it takes in its first minute it may keep."""
    result = Result(samples=_looks([90.0] * 10 + [0.0] * 3 + [50.0] * 60 + [70.0, 75.0, 71.0] + [0.0] + [60.0]))
    assert result.memory() == (70.0, 71.0, 75.0)
    assert Result(samples=_looks([75.0] * 300 + [120.0])).memory() == (75.0, 75.0, 120.0), "one look is no growth"


def test_the_numbers_are_told_also_where_there_are_none() -> None:
    assert len(lines(Result())) >= 10
    happened = [Happened(1.0, "a move", 4.0), Happened(2.0, "a move", 5.0)]
    said = lines(Result(samples=_looks([80.0]), happened=happened, held=[0.1, 0.2], stood_on=1, load=Report()))
    assert any("a move, 2 times: up to date again after 4.0 to 5.0 s" in one for one in said), said


@pytest.mark.slow
def test_a_watch_comes_back_behind_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    """A minute and a half; an hour is ``./scripts/soak --minutes 60``."""
    code = soak.main(["--minutes", "1.5", "--every", "4", "--restart", "1", "--records", "2000", "--behind", "60"])
    said = capsys.readouterr().out
    assert (code, "0 lost" in said) == (0, True), said
