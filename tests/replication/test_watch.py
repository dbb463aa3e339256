"""The watch, as far as it can be asked without servers; with them it is in the features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cutover.core.ui import SilentUi
from cutover.qdrant import compare
from cutover.qdrant.compare import Difference
from cutover.replication import watch as watching
from cutover.replication.follower import Round
from cutover.replication.position import Position
from cutover.replication.proofs import Proved
from cutover.replication.watch import Watch, WatchState


class Stage:
    """A watch over a record that always differs; ``written`` is what each round brings over."""

    def __init__(self) -> None:
        self.ui, self.noted = SilentUi(), list[str]()
        journal = SimpleNamespace(note=lambda act, *_, **__: self.noted.append(act))
        context: Any = SimpleNamespace(ui=self.ui, journal=journal)
        self.watch = Watch(context, tell=lambda _: None, wait=lambda _: True)
        self.written: dict[str, set[Any]] = {}
        position = Position()
        position.proofs.collections["docs"] = Proved([(None, 1.0)], [7])
        self.following: Any = SimpleNamespace(
            source=None,
            target=None,
            position=position,
            learnt=lambda _: None,
            bring_by_snapshot=lambda: False,
            round=lambda: Round(lines=len(self.written), ids=self.written),
        )

    def looks(self, times: int) -> str:
        for _ in range(times):
            self.watch._round(self.following)
            self.watch._compare_written(self.following, "docs", [7])
        return self.watch.seen.wrong.get("difference", "")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(compare, "compare_ids", lambda *_, **__: [Difference("payload", "docs", 7)])
    return Stage()


def test_a_record_that_stays_different_without_being_written_is_said_once(stage: Stage) -> None:
    assert stage.looks(watching.LOOKS - 1) == ""
    assert "Both servers differ: 1 record differs in its payload" in stage.looks(3)
    assert len(stage.ui.sentences) == len(stage.noted) == 1


def test_a_record_that_is_written_all_the_time_is_no_difference(stage: Stage) -> None:
    """It may be seen half way every time: the newer version is not followed yet."""
    stage.written = {"docs": {7}}
    assert stage.looks(5 * watching.LOOKS) == ""
    assert stage.noted == []


def test_the_line_says_where_it_stands_and_first_what_is_wrong() -> None:
    seen = WatchState(at=1000.0, target="the new server", behind_writes=1, behind_seconds=0.25, writes_per_second=3.0, proved=0.4)
    seen.waiting_for = "writes"
    assert seen.line() == "the new server is 1 write, 0.2 s behind; 3.0 writes/s; 40 % compared; waiting for writes"
    seen.oldest_proof, seen.wrong["room"] = 400.0, "The disk is full."
    assert seen.line().startswith("ATTENTION: The disk is full; the new server is 1 write")
    assert "all compared, the oldest part 10 min ago" in seen.line()
