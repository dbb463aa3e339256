"""Where the move is, judged from what was seen; nobody is asked."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from cutover.core import events
from cutover.core.journal import Entry
from cutover.replication import preflight
from cutover.replication.position import Position
from cutover.state.status import StatusFacts, judge


@dataclass(frozen=True)
class Flags:
    side: str = "old"
    held: bool = False
    recording: bool = True
    lost: str = ""


def journal(*acts: Any) -> Any:
    """Lines of a journal: `act` is a finished act, `act!` a note, `act...` an act without outcome."""
    lines: list[Entry] = []
    for act in acts:
        seq = len(lines) + 1
        if act.endswith("!"):
            lines.append(Entry(seq, f"t{seq}", "note", act[:-1], "said"))
        else:
            lines.append(Entry(seq, f"t{seq}", "intent", act.removesuffix("..."), f"Do {act.removesuffix('...')}"))
            if not act.endswith("..."):
                lines.append(Entry(seq + 1, f"t{seq + 1}", "done", act, "said", of=seq))
    return lines


def seen(flags: Any, *acts: Any, behind: Any = 0, position: Any = None, problem: Any = "") -> Any:
    return StatusFacts(flags, problem, journal(*acts), position or Position(at=940.0), behind, 1000.0)


COPIED = ("copy.record", "copy.begun!", "copy.recover", "copy.copied!")
READY = (*COPIED, "copy.prove", "copy.proved!")


@pytest.mark.parametrize(
    ("flags", "acts", "state"),
    [
        (Flags(recording=False), (), "planned"),
        (Flags(), COPIED, "copying"),
        (Flags(), (*COPIED, "copy.recover..."), "copying"),
        (Flags(), READY, "ready"),
        (Flags(), (*READY, "switch.proved!", "switch.differences!"), "copying"),
        (Flags(held=True), (*READY, "switch.hold", "switch.last-round..."), "moving"),
        (Flags(side="new"), (*READY, "switch.point"), "watching"),
        (Flags(side="new"), (*READY, "switch.point..."), "watching"),
        (Flags(), (*READY, "switch.point", "back.proved!", "back.point"), "ready"),
        (Flags(side="new", recording=False), (*READY, "switch.point", "finish.given-up!"), "finished"),
        (Flags(recording=False), READY, "unknown"),
        (Flags(recording=False), (*READY, "copy.remove", "copy.stop-recording", "copy.undone!"), "planned"),
        (None, READY, "unknown"),
        (None, (), "planned"),
    ],
)
def test_the_state_follows_from_the_gate_and_the_journal(flags: Any, acts: Any, state: Any) -> None:
    assert judge(seen(flags, *acts)).state == state


@pytest.mark.parametrize(("side", "then"), [("old", "`copy` begins again"), ("new", "`follow` begins anew")])
def test_a_recording_that_ended_for_want_of_room_is_said(side: str, then: str) -> None:
    flags = Flags(side=side, recording=False, lost="recording was ended at noon, because the disk of the Nginx host ran full")
    said = " ".join(judge(seen(flags, *READY)).lines())
    assert "nothing is recorded (recording was ended at noon, because the disk of the Nginx host ran full)" in said
    assert then in said


def test_the_lines_say_now_waiting_for_and_what_can_be_done() -> None:
    lines = judge(seen(Flags(side="new"), *READY, "switch.point", behind=12)).lines()
    assert (
        lines[1]
        == "Now:         The new server serves; the old one is 12 writes and 60 s behind (recorded; `follow` brings them over)."
    )
    assert lines[2].startswith("Waiting for: your decision")
    assert lines[3] == "You can:     back, follow, finish"


def test_an_interrupted_act_is_named() -> None:
    assert "interrupted while: Do copy.recover" in judge(seen(Flags(), *COPIED, "copy.recover...")).reason


def test_what_may_be_done_is_data_too() -> None:
    assert judge(seen(Flags(), *READY)).can_switch
    assert not judge(seen(Flags(), *COPIED)).can_switch
    assert judge(seen(Flags(side="new"), *READY)).can_go_back


def test_the_age_of_the_way_back_is_spoken_in_the_right_unit() -> None:
    said = judge(seen(Flags(side="new"), *READY, behind=1, position=Position(at=1000.0 - 7300))).now
    assert "is 1 write and 2.0 h behind" in said


def test_conflicts_are_not_kept_quiet() -> None:
    position = Position(conflicts=2)
    assert "2 late writes conflict" in judge(seen(Flags(side="new"), *READY, position=position)).now


def test_a_way_back_that_is_broken_is_not_shown_as_open() -> None:
    moved = (*READY, "switch.point", "switch.finished!")
    for found in (
        judge(replace(seen(Flags("new"), *moved), damage="The log is damaged.")),
        judge(seen(Flags("new"), *moved, position=Position("new", doubt="The log was damaged."))),
    ):
        assert (found.state, found.can_go_back) == ("watching", False)
        assert "damaged" in found.reason and "`follow` compares everything anew" in found.waiting_for
    found = judge(replace(seen(Flags(), *READY), damage="The log is damaged."))
    assert (found.state, found.can_switch) == ("unknown", False)
    assert found.waiting_for == "your decision: `undo copy`, then `copy`"


def test_after_going_back_without_the_new_server_nothing_is_followed_and_a_copy_can_begin() -> None:
    alone = (*READY, "switch.point", "switch.finished!", "back.point")
    between = judge(seen(Flags(), *alone, position=Position("new", alone=True)))
    assert (between.state, between.waiting_for) == ("unknown", "your decision: `back` once more")
    found = judge(seen(Flags(recording=False), *alone, "back.alone!", "back.finished!"))
    assert (found.state, found.now) == ("planned", "The old server serves; the new one is not followed.")
    again = judge(seen(Flags(), *alone, "back.alone!", "copy.record", "copy.begun!"))
    assert again.state == "copying"
    assert events.went_back_from_records(journal(*alone, "back.alone!"))
    assert not events.went_back_from_records(journal(*alone, "back.alone!", "copy.begun!"))


def test_what_was_proved_of_a_copy_ends_with_it() -> None:
    assert events.proved_at(journal(*READY))
    for end in ("copy.undone!", "copy.begun!", "follow.differences!"):
        assert events.proved_at(journal(*READY, end)) == ""


def test_a_copy_is_ours_until_somebody_saw_that_it_is_gone() -> None:
    """`undo copy` removes what is ours, and nothing else on the new server."""

    def ours(act: str, kind: Any, **outcome: Any) -> set[str]:
        about = {"collection": "docs", "on": "the new server"}
        lines = [
            Entry(1, "t1", "intent", "copy.recover", "Recover", before=about),
            Entry(2, "t2", "done", "copy.recover", "Recover", of=1),
            Entry(3, "t3", "intent", act, "Do it", before=about),
            Entry(4, "t4", kind, act, "Do it", of=3, **outcome),
        ]
        known = SimpleNamespace(journal=SimpleNamespace(entries=lambda: lines), new=SimpleNamespace(name="the new server"))
        return preflight.ours(known)  # type: ignore[arg-type]

    gone = {"collection": "docs", "absent": True}
    for act in ("copy.remove", "copy.remove-part"):
        assert [ours(act, kind) for kind in ("done", "failed", "unknown")] == [set(), {"docs"}, {"docs"}]
    for act in ("copy.make-empty", "copy.recover"):
        assert ours(act, "failed", after=gone) == set()
        assert ours(act, "failed") == ours(act, "unknown") == {"docs"}


def test_before_the_copy_the_preparation_that_is_left_is_offered_in_the_plans_order() -> None:
    fresh = judge(seen(Flags(recording=False)))
    assert fresh.you_can == ("check", "backup", "resize", "deploy", "gate", "copy")
    later = judge(seen(Flags(recording=False), "backup.finished!", "resize.finished!", "resize.undone!"))
    assert later.you_can == ("check", "resize", "deploy", "gate", "copy")


def test_at_the_end_what_is_left_of_the_plan_is_offered_and_then_nothing() -> None:
    ended = (*READY, "switch.point", "finish.given-up!")
    found = judge(seen(Flags(side="new", recording=False), *ended))
    assert found.you_can == ("decommission", "settle")
    found = judge(seen(Flags(side="new", recording=False), *ended, "decommission.finished!", "settle.finished!"))
    assert found.lines()[1:] == [
        "Now:         The new server serves; the old guests were given back.",
        "Waiting for: nothing",
        "You can:     nothing more: the plan is carried out",
    ]


def test_the_time_without_the_old_guests_is_what_is_waited_for() -> None:
    ended = (*READY, "switch.point", "finish.given-up!")
    waiting = journal(*ended, "decommission.stop", "decommission.waiting!")
    waiting[-1].extra["waiting_until"] = "1970-01-01T01:00:00Z"
    at = replace(seen(Flags(side="new", recording=False)), entries=waiting)
    assert judge(at).waiting_for == (
        "the time that the site has to live without the old guests, until 1970-01-01T01:00:00Z; then `decommission` again"
    )
    later = judge(replace(at, now=7200.0))
    assert later.waiting_for == "your decision: `decommission` again, the time without the old guests is over"
    undone = judge(replace(at, entries=[*waiting, *journal("decommission.undone!")]))
    assert (undone.waiting_for, undone.you_can) == ("your decision", ("decommission", "settle"))


def test_a_deletion_that_was_interrupted_is_named() -> None:
    found = judge(seen(Flags(side="new", recording=False), *READY, "switch.point", "finish.given-up!", "decommission.delete..."))
    assert found.reason == "the way back was given up; interrupted while: Do decommission.delete"


def test_an_act_that_was_interrupted_before_the_last_one_is_not_named() -> None:
    assert "interrupted" not in judge(seen(Flags(), "resize.reboot...", *COPIED)).reason
