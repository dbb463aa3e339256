"""Giving way to applications: when, why, and never for good."""

from __future__ import annotations

import pytest

from cutover.core.errors import Unreachable
from cutover.replication import throttle
from cutover.replication.throttle import Throttle, why_slow


@pytest.mark.parametrize(
    ("before", "last", "slow"),
    [
        ([0.005] * 5, [0.2] * 5, True),
        ([0.005] * 5, [0.04] * 5, False),  # slower than before, and below what is felt
        ([0.15] * 5, [0.2] * 5, False),  # it was slow before this tool came
        ([0.005] * 5, [0.2, 0.004, 0.004, 0.004, 0.2], False),  # one slow read is no slow server
        ([], [0.2] * 5, False),
        ([0.005] * 5, [], False),
    ],
)
def test_work_waits_where_reads_are_slow_and_were_not_before(before: list[float], last: list[float], slow: bool) -> None:
    said = why_slow(before, last, 50.0)
    assert bool(said) is slow
    assert not slow or said == "a small read through Nginx takes 200 ms, and took 5 ms before (limits.slow_ms is 50)"


def test_work_goes_on_where_the_server_stays_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "LONGEST", 0.01)
    slow = Throttle(lambda: None, 50.0)
    slow.reason = "it is slow"
    slow.give_way()
    assert slow.waited > 0


def test_a_read_that_fails_holds_nothing_up() -> None:
    def read() -> None:
        raise Unreachable("nobody answers")

    with Throttle(read, 0.001) as throttle:
        throttle.give_way()
    assert (throttle.reason, throttle.waited) == ("", 0.0)
