"""What is seen of vLLM and Portainer while a step is carried out: judged without servers, and asked of small ones."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cutover import availability
from cutover.availability import PORTAINER, VLLM, Answer, announced, judge
from cutover.context import Context
from cutover.core import events
from cutover.core.credentials import Credentials
from cutover.core.errors import OutcomeUnknown, Refused
from cutover.core.journal import Entry
from cutover.core.wait import Not, wait_until
from cutover.site.load import load
from lab.http_server import HttpServer
from lab.lab import ROOT


def at(second: int) -> str:
    return f"2026-11-28T20:{31 + second // 60:02}:{second % 60:02}.000Z"


def answers(who: str, step: str, seconds: range, *, wrong: range = range(0)) -> list[Answer]:
    said = "connection refused."
    return [Answer(at(s), step, at(seconds[0]), who, 20 + s % 12, said if s in wrong else "") for s in seconds]


def journal(*lines: tuple[int, str, str], **extra: Any) -> list[Entry]:
    return [
        Entry(n, at(s), kind, act, act, extra={"changed": True, "probed": True} if kind == "note" else {})  # type: ignore[arg-type]
        for n, (s, kind, act) in enumerate(lines, start=1)
    ]


SWITCHED = journal((30, "note", "switch.finished"))
RESIZED = journal((10, "intent", "resize.reboot"), (20, "done", "resize.reboot"), (40, "note", "resize.finished"))


# -- judging ----------------------------------------------------------------------------------------------------------
def test_all_right_says_how_often_when_and_how_fast() -> None:
    found = judge(VLLM, answers(VLLM, "switch", range(30)), SWITCHED)
    assert found.ok is True
    assert found.sentence == (
        "vLLM was asked 30 times between 2026-11-28T20:31:00Z and 2026-11-28T20:31:29Z, during `switch`; every answer was right, "
        "the slowest took 31 ms."
    )


def test_one_wrong_answer_is_enough_and_is_named() -> None:
    found = judge(VLLM, answers(VLLM, "switch", range(30), wrong=range(7, 8)), SWITCHED)
    assert found.ok is False
    assert "1 of 30 answers was wrong, the first at 2026-11-28T20:31:07Z in `switch`: connection refused." in found.sentence


def test_of_several_the_last_one_is_named_too() -> None:
    found = judge(VLLM, answers(VLLM, "switch", range(30), wrong=range(7, 9)), SWITCHED)
    assert "2 of 30 answers were wrong" in found.sentence
    assert "the last at 2026-11-28T20:31:08Z" in found.sentence


def test_a_wrong_answer_stays_wrong_whatever_came_later() -> None:
    again = answers(VLLM, "gate", range(5), wrong=range(2, 3)) + answers(VLLM, "switch", range(20, 30))
    assert judge(VLLM, again, SWITCHED).ok is False


def test_a_move_that_nobody_watched_shows_nothing() -> None:
    found = judge(VLLM, answers(VLLM, "copy", range(30)), SWITCHED)
    assert found.ok is None
    assert "Nobody asked vLLM during `switch`" in found.sentence
    assert judge(VLLM, [], []).ok is None


# -- the announced restart --------------------------------------------------------------------------------------------
def test_the_announced_restart_is_a_gap_of_portainer_only() -> None:
    gap = range(11, 26)
    found = judge(PORTAINER, answers(PORTAINER, "resize", range(40), wrong=gap), RESIZED)
    assert found.ok is True
    assert found.sentence.endswith("It was away for at most 16 s with the announced restart of its server.")
    assert judge(VLLM, answers(VLLM, "resize", range(40), wrong=gap), RESIZED).ok is False


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (range(5, 6), "before it was announced"),
        (range(30, 31), "after Portainer was back"),
    ],
)
def test_what_happens_outside_of_the_restart_counts(wrong: range, what: str) -> None:
    assert judge(PORTAINER, answers(PORTAINER, "resize", range(40), wrong=wrong), RESIZED).ok is False, what


def test_a_right_answer_while_it_shuts_down_does_not_end_the_gap() -> None:
    found = answers(PORTAINER, "resize", range(40), wrong=range(14, 23))
    assert announced(found, RESIZED) == found[14:23]


def test_a_restart_in_which_the_tool_died_ends_with_the_first_right_answer_of_the_next_step() -> None:
    entries = journal((10, "intent", "resize.reboot"), (90, "note", "resize.finished"))
    died = answers(PORTAINER, "resize", range(20), wrong=range(12, 20))
    again = answers(PORTAINER, "resize", range(60, 90), wrong=range(60, 64))
    assert judge(PORTAINER, died + again, entries).ok is True
    later = answers(PORTAINER, "resize", range(60, 90), wrong=range(80, 81))
    assert judge(PORTAINER, died + later, entries).ok is False


def test_a_question_that_was_under_way_when_the_restart_began_belongs_to_it() -> None:
    hung = Answer(at(9), "resize", at(0), PORTAINER, 10_000, "no answer within 10 s.")
    assert announced([hung], RESIZED) == [hung]


def test_the_sentence_of_a_step_names_the_gap() -> None:
    watch = availability.Watch("resize", at(0), answers(VLLM, "resize", range(40)))
    watch.answers += answers(PORTAINER, "resize", range(40), wrong=range(11, 26))
    watch.expected = announced(watch.answers, RESIZED)
    assert watch.said() == [
        "Meanwhile vLLM (asked 40 times) and Portainer (asked 40 times, away for at most 16 s with the announced restart) were as before."
    ]
    assert watch.warnings() == []
    watch.expected = []
    assert watch.said() == []
    assert len(watch.warnings()) == 1


# -- asking -----------------------------------------------------------------------------------------------------------
class Small(BaseHTTPRequestHandler):
    """vLLM's models, as long as it is well."""

    well, models, asked = True, ["a"], 0

    def do_GET(self) -> None:
        Small.asked += 1
        self._send({"data": [{"id": m} for m in Small.models]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send({"choices": [{"text": "two"}]})

    def _send(self, body: Any) -> None:
        self.send_response(200 if Small.well else 502)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setattr(availability, "EVERY", 0.02)
    Small.well, Small.models, Small.asked = True, ["a"], 0
    server = HttpServer(("127.0.0.1", 0), Small)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = load(ROOT / "site.yaml")
    vllm = site.vllm.model_copy(update={"public_url": f"http://127.0.0.1:{server.server_port}"})
    made = Context(site.model_copy(update={"vllm": vllm}), Credentials({}), tmp_path / "state", execute=True)
    yield made
    made.close()
    server.shutdown()
    server.server_close()


def asked(more: int) -> None:
    goal = Small.asked + more
    wait_until(lambda: Small.asked >= goal or Not(f"{Small.asked}"), deadline=10, what="Questions")


def test_every_answer_is_written_and_who_cannot_be_asked_is_named(run: Context) -> None:
    with availability.watching(run, "gate") as watch:
        asked(3)
    kept = availability.load(run)
    assert {a.who for a in kept} == {VLLM}
    assert len(kept) >= 3
    assert not any(a.wrong for a in kept)
    assert watch.warnings() == []
    (gap,) = watch.gaps()
    assert gap.startswith("Portainer was not asked meanwhile: ")
    assert "PORTAINER_API_KEY" in gap


@pytest.mark.parametrize("trouble", ["away", "another model"])
def test_a_moment_of_trouble_is_said_noted_and_does_not_stop_the_step(run: Context, trouble: str) -> None:
    with availability.watching(run, "gate") as watch:
        asked(2)
        Small.well, Small.models = trouble != "away", ["a" if trouble == "away" else "b"]
        asked(2)
        Small.well, Small.models = True, ["a"]
        asked(2)
    (said,) = watch.warnings()
    assert ("answered 502" if trouble == "away" else "It served a and serves b now") in said
    (note,) = (e for e in run.journal.entries() if e.act == events.NEIGHBOUR_WRONG)
    assert note.extra["who"] == VLLM
    assert judge(VLLM, availability.load(run), run.journal.entries()).ok is False


def test_it_ends_with_the_step_also_where_that_fails(run: Context) -> None:
    with pytest.raises(Refused), availability.watching(run, "gate"):
        asked(1)
        raise Refused("no")
    assert not [t for t in threading.enumerate() if t.name.startswith("asks ")]
    many = Small.asked
    assert len(availability.load(run)) >= 2
    assert Small.asked == many


def test_a_line_that_a_crash_tore_is_cut_off_and_one_inside_is_refused(run: Context) -> None:
    with availability.watching(run, "gate"):
        asked(1)
    path = availability.path_of(run)
    whole = len(availability.load(run))
    with path.open("ab") as file:
        file.write('{"at": "20 ü'.encode()[:-1])
    assert len(availability.load(run)) == whole
    with availability.watching(run, "copy"):
        asked(1)
    assert len(availability.load(run)) > whole
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(Refused, match=r"meanwhile\.jsonl:1: this line of the record is not readable"):
        availability.load(run)


def test_a_journal_that_cannot_be_written_hides_no_failure_of_the_step(run: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutcomeUnknown), availability.watching(run, "gate"):
        asked(1)
        Small.well = False
        asked(1)
        monkeypatch.setattr("cutover.core.journal.files.append", full)
        raise OutcomeUnknown("nobody knows")


def test_a_record_that_cannot_be_written_is_said(run: Context) -> None:
    run.journal.lock()
    availability.path_of(run).mkdir()
    with availability.watching(run, "gate") as watch:
        asked(1)
    assert any("could not be written down" in gap for gap in watch.gaps())
