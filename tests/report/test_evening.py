"""The page for who decides: only what the journal has, in the order in which it happened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cutover import __version__
from cutover.cli.app import app
from cutover.core.journal import Entry
from cutover.report import evening
from cutover.report.model import Report

ROOT = Path(__file__).resolve().parents[2]
STEPS = [("check", "Look"), ("resize", "Give the VM more room"), ("switch", "Move the traffic"), ("back", "Go back"), ("finish", "Give up the way back")]  # fmt: skip
MEANWHILE = "Meanwhile vLLM (asked 40 times) and Portainer (asked 40 times) were as before."


def journal(*lines: tuple[str, str, str] | tuple[str, str, str, dict[str, Any]]) -> list[Entry]:
    """(seconds after eight as ``mm:ss.s``, kind, act, more) each; an outcome is that of the newest intent of its act."""
    entries: list[Entry] = []
    for at, kind, act, *more in lines:
        of = next((one.seq for one in reversed(entries) if one.act == act and one.kind == "intent"), None)
        fields = {"what": act, **(more[0] if more else {})}
        entries.append(Entry(len(entries) + 1, f"2026-11-30T20:{at}Z", kind, act, of=None if kind in {"intent", "note"} else of, **fields))  # type: ignore[arg-type] # fmt: skip
    return entries


EVENING = journal(
    ("00:00.000", "intent", "resize.reboot"),
    ("00:41.000", "done", "resize.reboot"),
    (
        "01:00.000",
        "note",
        "resize.finished",
        {"what": f"VM 1001 has 6 cores from its next start on.\nIt sees 6 cores.\n{MEANWHILE}", "extra": {"changed": True}},
    ),
    ("30:00.000", "intent", "switch.hold"),
    ("30:00.100", "done", "switch.hold"),
    ("30:00.300", "intent", "switch.point"),
    ("30:00.310", "done", "switch.point"),
    ("30:00.480", "intent", "switch.release"),
    ("30:00.510", "done", "switch.release"),
    ("31:00.000", "note", "switch.finished", {"what": "The new server serves.", "extra": {"changed": True}}),
)


def test_what_happened_what_was_felt_and_what_is_left() -> None:
    made = evening.of("home-lab", EVENING, STEPS)
    assert made.verdict == "The traffic moved to the new server; the old server is kept up to date, so the way back is open."
    assert [(one.step, one.end, one.seconds) for one in made.happened] == [
        ("resize", "finished", 60.0),
        ("switch", "finished", 60.0),
    ]
    assert [much for much, _ in made.felt] == ["0.41 s", "41 s", "nothing else"]
    assert made.left == ["Go back", "Give up the way back"]
    assert "<p>It sees 6 cores.</p>" in evening.page(made)


def test_a_gate_that_was_put_in_again_has_to_be_taken_out_again() -> None:
    entries = journal(("00:00.000", "note", "settle.finished"), ("01:00.000", "note", "gate.finished"))
    assert evening.of("home-lab", entries, [("gate", "Put in"), ("settle", "Take out")]).left == ["Take out"]


@pytest.mark.parametrize(
    ("entries", "verdict", "ok"),
    [
        ([], "The traffic has not moved: the old server serves.", True),
        (EVENING[:4], "A step was interrupted: switch.hold.", False),
        ([*EVENING, *journal(("40:00.000", "note", "back.finished"))], "The traffic moved back to the old server.", False),
        ([*EVENING, *journal(("40:00.000", "note", "finish.given-up"))], "The traffic moved to the new server; the way back was given up on purpose.", True),
    ],
)  # fmt: skip
def test_the_verdict_is_what_the_journal_says(entries: list[Entry], verdict: str, ok: bool) -> None:
    made = evening.of("home-lab", entries, STEPS)
    assert (made.verdict, made.ok) == (verdict, ok)


def test_a_step_that_did_not_come_to_its_end_is_said() -> None:
    made = evening.of("home-lab", EVENING[:4], STEPS)
    assert [(one.step, one.end) for one in made.happened] == [("resize", "finished"), ("switch", "ended")]


def test_where_nobody_was_watched_nothing_is_claimed() -> None:
    assert evening.of("home-lab", [], STEPS).felt == [("not known", "nobody was asked whether vLLM and Portainer answered")]


def test_what_others_wrote_stays_text() -> None:
    entries = [*EVENING[:-1], dataclasses.replace(EVENING[-1], what="<script>alert(1)</script>\x1b[2J")]
    page = evening.page(evening.of("<b>", entries, STEPS, "<i>"))
    assert "<script" not in page
    assert "<b>" not in page.replace("<b>Move", "").replace("<b>Give", "")
    assert "\x1b" not in page


def test_the_command_writes_it_from_the_journal_with_the_version(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    opened = Entry(1, "2026-11-30T19:00:00.000Z", "opened", "journal", "x", extra={"site": "home-lab", "format": 1})
    lines = [opened, *(dataclasses.replace(one, seq=one.seq + 1, of=one.of and one.of + 1) for one in EVENING)]
    (state / "journal.jsonl").write_text("".join(json.dumps(vars(one)) + "\n" for one in lines))
    words = ["report", "--site", str(ROOT / "site.yaml"), "--state-dir", str(state), "--into", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    page = (tmp_path / "out/evening.html").read_text(encoding="utf-8")
    assert f"cutover {__version__}" in page
    assert "0.41 s" in page
    assert Report([], []).data()["tool"] == f"cutover {__version__}"
