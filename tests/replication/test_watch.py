"""The watch, as far as it can be asked without servers; with them it is in the features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutover.core.errors import Refused, Unreachable
from cutover.core.ui import SilentUi
from cutover.gate.write_log import Damaged
from cutover.qdrant import compare
from cutover.qdrant.compare import Difference
from cutover.replication import watch as watching
from cutover.replication.follower import Round
from cutover.replication.position import CannotFollow, Position
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
    seen.oldest_proof, seen.wrong["used"], seen.wrong["room"] = 400.0, "It is used.", "The disk is full."
    assert seen.line().startswith("ATTENTION: The disk is full; ATTENTION: It is used; the new server is 1 write")
    assert "all compared, the oldest part 10 min ago" in seen.line()


# -- where nobody can follow ---------------------------------------------------------------------------


class Night:
    """A watch that goes through ``happens``, one at each beginning: an error, or whether it is stopped then."""

    def __init__(self, happens: list[Any], tmp_path: Path, wanted_after: int) -> None:
        self.ui, self.told, self.waits = SilentUi(), list[WatchState](), 0
        self.given = False

        def wanted() -> bool:
            return not self.given and self.waits >= wanted_after

        def lock(*, gives_way: bool) -> None:
            assert gives_way

        def release() -> None:
            self.given = True

        journal = SimpleNamespace(lock=lock, wanted=wanted)
        context: Any = SimpleNamespace(ui=self.ui, journal=journal, close=release, state_dir=tmp_path)
        self.watch = Watch(context, tell=lambda seen: self.told.append(replace(seen, wrong=dict(seen.wrong))), wait=self._wait)

        def until_wanted() -> bool:
            found = happens.pop(0)
            if isinstance(found, Exception):
                raise found
            return bool(found)

        self.watch._until_wanted = until_wanted  # type: ignore[method-assign]
        self.left = happens

    def _wait(self, _seconds: float) -> bool:
        self.waits += 1
        assert self.waits < 50, self.ui.sentences
        return False


DAMAGED = Damaged("Recording was ended.", "Run `copy`.")


@pytest.mark.parametrize("error", [DAMAGED, CannotFollow("It cannot be followed.", "Run `copy`.")])
def test_what_cannot_be_followed_is_said_until_another_command_mended_it(tmp_path: Path, error: Exception) -> None:
    """It does not end: who starts it again would do so for ever, and wake somebody each time."""
    night = Night([error, True], tmp_path, wanted_after=7)
    night.watch.run()
    assert (night.left, night.given, night.waits >= 7) == ([], True, True)
    assert night.ui.sentences[0].endswith("Run `copy`."), night.ui.sentences
    assert len(night.ui.sentences) == 3, "said once, and that it gave way and went on"
    said = night.ui.sentences[0].partition(" ")[2].rstrip(".")
    assert night.told[0].line() == f"{said}; waiting for somebody who mends that"


def test_a_server_that_is_away_from_the_beginning_keeps_no_other_command_from_working(tmp_path: Path) -> None:
    """`back` without the new server is needed right then; and who starts this wants to know that it runs."""
    night = Night([Unreachable("The new server does not answer.", "Start it."), True], tmp_path, wanted_after=1)
    night.watch.run()
    assert (night.given, night.left) == (True, [])
    assert night.told[0].line() == "ATTENTION: The new server does not answer; waiting for an answer"


@pytest.mark.parametrize("error", [Unreachable("It is away.", "Start it."), CannotFollow("It is away.", "Start it.")])
def test_what_may_be_over_is_tried_again_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    for name in ("UNREACHABLE", "STOPPED_FOR"):
        monkeypatch.setattr(watching, name, 0.0)
    night = Night([error] * 3 + [True], tmp_path, wanted_after=40)
    night.watch.run()
    (said,) = night.ui.sentences
    assert (night.left, night.given) == ([], False)
    assert said.partition(" ")[2].startswith("ATTENTION: It is away.")


@pytest.mark.parametrize(
    ("lost", "rounds", "ends"),
    [("the disk ran full", 0, Damaged), ("the disk ran full", 9, Damaged), ("", 0, Refused), ("", 9, None)],
)
def test_a_recording_that_was_lost_is_waited_for_and_one_that_was_ended_on_purpose_is_not(
    stage: Stage, lost: str, rounds: int, ends: type[Exception] | None
) -> None:
    stage.watch._context.gate = SimpleNamespace(  # type: ignore[assignment]
        state=lambda: SimpleNamespace(lost=lost, recording=False, side="old")
    )
    stage.watch.rounds = rounds
    if ends is None:
        assert stage.watch._until_wanted()
    else:
        with pytest.raises(ends, match="recorded"):
            stage.watch._until_wanted()


def test_how_much_is_compared_is_known_without_counting_all_collections_at_once(stage: Stage, monkeypatch: Any) -> None:
    asked: list[int] = []

    def counts(_: Any, names: list[str]) -> dict[str, int]:
        asked.append(len(names))
        return dict.fromkeys(names, 10)

    monkeypatch.setattr(compare, "counts_of", counts)
    names = [f"more-{number}" for number in range(2 * watching.COUNTED)]
    for name in names[: watching.COUNTED]:
        stage.following.position.proofs.collections[name] = Proved([(None, 1.0)])
    shares = [stage.watch._share(stage.following, names) for _ in range(3)]
    assert asked == [watching.COUNTED, watching.COUNTED, 0]
    assert shares == [0.5, 0.5, 0.5], "what was not counted yet is not taken for compared"
