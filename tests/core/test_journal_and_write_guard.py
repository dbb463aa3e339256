"""The journal and the door: intent before the act, an outcome after it, and nothing without --execute."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cutover.core import events, http
from cutover.core.credentials import Credentials
from cutover.core.errors import OutcomeUnknown, Refused, Unreachable, WritesRefused
from cutover.core.journal import Journal, read
from cutover.core.write_guard import WriteGuard
from lab.http_server import HttpServer


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path, "home", redact=lambda text: text.replace("hush-hush", "<secret>"))
    journal.lock()
    return journal


def kinds(journal: Journal) -> list[str]:
    return [e.kind for e in Journal(journal.path.parent, "home").entries()]


def test_intent_is_on_disk_before_the_act(journal: Journal) -> None:
    with WriteGuard(journal).act("resize.cores", "Set 6 cores", before={"cores": 4}) as act:
        line = json.loads(journal.path.read_text().splitlines()[-1])
        assert (line["kind"], line["act"], line["before"]) == ("intent", "resize.cores", {"cores": 4})
        act.after = {"cores": 6}
    assert journal.acts("resize.cores")[-1].after == {"cores": 6}
    assert kinds(journal) == ["opened", "intent", "done"]


@pytest.mark.parametrize(
    ("error", "kind"), [(OutcomeUnknown("lost"), "unknown"), (Refused("no"), "failed"), (KeyboardInterrupt(), "failed")]
)
def test_every_end_of_an_act_is_written(journal: Journal, error: BaseException, kind: str) -> None:
    with pytest.raises(type(error)), WriteGuard(journal).act("x", "X"):
        raise error
    assert kinds(journal)[-1] == kind
    assert not events.open_intents(journal.entries())


def test_a_torn_last_line_is_cut_off_and_a_broken_one_is_refused(journal: Journal) -> None:
    journal.intent("x", "X")
    journal.unlock()
    with journal.path.open("a") as file:
        file.write('{"seq": 3, "kind": "do')
    again = Journal(journal.path.parent, "home")
    assert [e.act for e in events.open_intents(again.entries())] == ["x"]
    again.lock()
    again.note("y", "Y")
    assert [e.seq for e in Journal(journal.path.parent, "home").entries()] == [1, 2, 3]
    again.unlock()
    lines = journal.path.read_text().splitlines()
    journal.path.write_text("\n".join([lines[0], "not json", *lines[1:]]) + "\n")
    with pytest.raises(Refused, match=r"journal\.jsonl:2: this line"):
        Journal(journal.path.parent, "home")


def test_a_name_that_is_no_utf8_is_kept_as_it_is(journal: Journal) -> None:
    """A file of Nginx's may be called in any bytes."""
    journal.note("x", "conf.d/caf\udce9.conf")
    assert Journal(journal.path.parent, "home").entries()[-1].what == "conf.d/caf\udce9.conf"


_GOOD = {"seq": 2, "at": "2026-01-01T00:00:00.000Z", "kind": "done", "act": "x", "what": "X", "of": 1}


_ODD: list[dict[str, object]] = [
    {"kind": "dream"}, {"extra": 1}, {"at": 5}, {"at": "t"}, {"at": "2026-13-45T00:00:00Z"}, {"at": "2026-01-01T00:00:00"}, {"act": None},
    {"what": {}}, {"reason": []}, {"of": "1"}, {"of": -1}, {"seq": True}, {"seq": 0}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("line", ["\xff", "[" * 100_000, *(json.dumps(_GOOD | odd) for odd in _ODD)], ids=range(len(_ODD) + 2))
def test_a_line_that_is_none_of_ours_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "journal.jsonl").write_text(line + "\n", encoding="latin-1")
    with pytest.raises(Refused, match=r"journal\.jsonl:1: this line"):
        Journal(tmp_path, "home")


def test_where_the_journal_cannot_be_written_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, real = os.open("/dev/full", os.O_WRONLY), os.write
    monkeypatch.setattr("os.write", lambda _handle, data: real(full, data))
    journal, done = Journal.__new__(Journal), []
    vars(journal).update(path=tmp_path / "journal.jsonl", _site="home", _redact=str, _lock_file=0, _entries=[])
    with pytest.raises(Refused, match=r"cannot be written \(no space left on device\)"), WriteGuard(journal).act("x", "X"):
        done.append("x")
    assert done == []


def test_a_line_that_was_written_by_half_does_not_stay(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, room = journal.path.read_bytes(), os.write, [10]

    def until_the_disk_is_full(handle: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[: room.pop()])

    monkeypatch.setattr(os, "write", until_the_disk_is_full)
    with pytest.raises(Refused, match="no space left"):
        journal.note("x", "X")
    assert journal.path.read_bytes() == before


def test_a_second_operator_is_refused(journal: Journal) -> None:
    with pytest.raises(Refused, match="Another command is working on this site"):
        Journal(journal.path.parent, "home").lock()
    journal.unlock()
    Journal(journal.path.parent, "home").lock()


def test_a_journal_of_another_site_is_refused(journal: Journal) -> None:
    with pytest.raises(Refused, match="belongs to site 'home'"):
        Journal(journal.path.parent, "office")


def test_secrets_never_reach_the_file(journal: Journal) -> None:
    journal.intent("x", "Use hush-hush", before={"key": "hush-hush"})
    assert "hush-hush" not in journal.path.read_text()
    assert (journal.path.stat().st_mode & 0o777) == 0o600


@pytest.fixture
def server() -> object:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            seen.append(f"{self.command} {self.path}")
            if self.path == "/break":
                self.connection.close()
                return
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Set-Cookie", "csrf=1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_DELETE = _any

        def log_message(self, *args: object) -> None:
            del args

    made = HttpServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", seen
    made.shutdown()
    made.server_close()


def test_the_door_is_below_every_client(server: tuple[str, list[str]], journal: Journal) -> None:
    url, seen = server
    closed, opened = WriteGuard(), WriteGuard(journal)
    assert http.session(closed).get(url + "/a").status_code == 200
    with pytest.raises(WritesRefused, match="--execute"):
        http.session(closed).put(url + "/a")
    with pytest.raises(WritesRefused, match="not part of a journaled act"):
        http.session(opened).delete(url + "/a")
    with opened.act("x", "X"):
        http.session(opened).post(url + "/a")
    assert seen == ["GET /a", "POST /a"]


def test_redirects_and_cookies_are_not_followed(server: tuple[str, list[str]]) -> None:
    url, _ = server
    session = http.session(WriteGuard())
    session.get(url + "/a")
    assert not session.cookies
    assert session.get(url + "/moved").status_code == 302


def test_what_can_be_believed_after_an_error(server: tuple[str, list[str]], journal: Journal) -> None:
    url, _ = server
    session, guard = http.session(WriteGuard(journal)), WriteGuard(journal)
    session = http.session(guard)
    with pytest.raises(Unreachable):
        session.get(url + "/break")
    with pytest.raises(OutcomeUnknown, match="the request was sent, and its answer was lost"), guard.act("x", "X"):
        session.put(url + "/break")
    with pytest.raises(Unreachable, match="connection refused"), guard.act("x", "X"):
        session.put("http://127.0.0.1:9/")
    assert [k for k in kinds(journal) if k not in {"opened", "intent"}] == ["unknown", "failed"]


@pytest.mark.parametrize("secret", ["2026", "1234", 'quo"te\\back', "pässwörd", "note"])
def test_a_secret_of_any_form_is_kept_out_and_breaks_no_line(tmp_path: Path, secret: str) -> None:
    journal = Journal(tmp_path, "lab", redact=Credentials({"PIHOLE_PASSWORD": secret}).redact)
    act = journal.intent("dns.delete", "Delete", before={"size": 12345, "said": [f"the word is {secret}"]})
    journal.failed(act, f"{secret} is wrong")
    journal.note("dns.seen", "Seen")
    found = list(read(journal.path, "lab"))
    assert [e.kind for e in found] == ["opened", "intent", "failed", "note"]
    assert found[1].before == {"size": 12345, "said": ["the word is <secret>"]}
    assert found[2].reason == "<secret> is wrong"
    assert all(re.fullmatch(r"\d{4}-\d\d-.*Z", e.at) for e in found)


@pytest.mark.parametrize("content", [b"\xff\xfe{}\n", b"[1]\n", b'{"seq":1,"at":"x","kind":"opened","extra":[]}\n'])
def test_a_journal_that_is_none_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(content)
    with pytest.raises(Refused, match=r"journal\.jsonl:1: this line of the journal is not readable"):
        Journal(tmp_path, "lab")


def test_a_state_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"file/state/journal.jsonl cannot be written \(not a directory\); nothing was done"):
        Journal(tmp_path / "file" / "state", "lab").lock()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "lab")
    journal.note("x", "before")
    before = journal.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refused, match=r"cannot be written \(no space left on device\)"):
        journal.note("x", "after")
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
