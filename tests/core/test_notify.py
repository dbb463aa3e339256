"""Notifications: what happens is told to a real HTTP receiver or a real command, without keys, and never stops anything."""

from __future__ import annotations

import json
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cutover.core import notify
from cutover.core.credentials import Credentials
from cutover.core.errors import WrongUsage
from cutover.core.journal import Journal
from cutover.core.notify import EVENTS, Notifier

SECRET = "hush-hush-0123"


class Receiver:
    """A webhook; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.got: queue.Queue[dict[str, Any]] = queue.Queue()
        self.status = 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.put(json.loads(body) | {"_type": self.headers["Content-Type"]})
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/{SECRET}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def all(self) -> list[dict[str, Any]]:
        return [self.got.get_nowait() for _ in range(self.got.qsize())]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def notifier(url: str | None, *command: str) -> tuple[Notifier, list[str]]:
    said: list[str] = []
    made = Notifier(url, command, Credentials({"QDRANT_API_KEY": SECRET, "NOTIFY_URL": url or ""}), said.append)
    made.site = "home-lab"
    return made, said


def test_the_journal_s_news_reach_a_webhook_without_keys(receiver: Receiver, tmp_path: Path) -> None:
    told, said = notifier(receiver.url)
    journal = Journal(tmp_path / "state", "home-lab")
    journal.heard = told.heard
    journal.done(journal.intent("switch.hold", "Hold writes"))
    journal.failed(journal.intent("follow.rounds", "Keep it up to date"), f"a record cannot be read: {SECRET}")
    journal.done(journal.intent("resize.memory", "Set the memory"))
    journal.note("switch.finished", "The new server serves.")
    told.tell("refused", "A difference: caf\udce9/7.", "switch")
    told.close()
    got = receiver.all()
    assert [(one["event"], one["step"]) for one in got] == [
        ("hold taken", "switch"), ("follow stopped", "follow"), ("step finished", "switch"), ("refused", "switch"),
    ]  # fmt: skip
    assert all(one["event"] in EVENTS and one["site"] == "home-lab" and one["_type"] == "application/json" for one in got)
    assert SECRET not in json.dumps(got)
    assert got[1]["sentence"] == "a record cannot be read: <secret>"
    assert got[3]["sentence"] == "A difference: caf\udce9/7."
    assert said == []


def test_a_way_back_that_gets_old_is_told_once_until_it_is_young_again(receiver: Receiver) -> None:
    told, _ = notifier(receiver.url)
    for seconds in (None, 30.0, 700.0, 900.0, 0.0, 601.0):
        told.way_back(seconds, 10.0)
    told.close()
    assert [one["sentence"].split(";")[0] for one in receiver.all()] == [
        "The old server is 12 minutes behind", "The old server is 10 minutes behind",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_webhook_that_does_not_take_it_is_said_once_and_is_not_followed_elsewhere(receiver: Receiver, status: int) -> None:
    receiver.status = status
    told, said = notifier(receiver.url)
    told.tell("refused", "one")
    told.tell("refused", "two")
    told.close()
    assert [one["sentence"] for one in receiver.all()] == ["one", "two"]
    assert said == [f"A notification could not be sent (the webhook answered {status}); the work goes on."]


def test_a_webhook_that_is_not_there_is_said_without_its_address() -> None:
    told, said = notifier(f"http://127.0.0.1:9/{SECRET}")
    told.tell("refused", "one")
    told.close()
    assert said == ["A notification could not be sent (it cannot be reached); the work goes on."]


@pytest.fixture
def trickle() -> Iterator[tuple[str, list[bytes]]]:
    """A webhook that answers a byte at a time, after what is in the list, and never comes to an end."""
    first: list[bytes] = []
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"".join(first))
                while not over.wait(0.05):
                    connection.sendall(b"X")

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://somebody:{SECRET}@127.0.0.1:{server.getsockname()[1]}/hook", first
    over.set()
    server.close()
    thread.join()


def test_a_webhook_whose_answer_never_ends_is_said_and_not_only_one_that_is_silent(
    trickle: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "SECONDS", 0.3)
    told, said = notifier(trickle[0])
    told.tell("refused", "one")
    told.close()
    assert said == ["A notification could not be sent (no answer within 0.3 s); the work goes on."]


def test_what_a_webhook_says_after_it_took_a_message_is_not_waited_for(
    trickle: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LAST_SECONDS", 2.0)
    url, first = trickle
    first.append(b"\r\n")
    told, said = notifier(url)
    told.tell("refused", "one")
    told.close()
    assert said == []
    assert told._worker is not None
    assert not told._worker.is_alive()


def test_messages_that_were_left_when_the_command_ended_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "LAST_SECONDS", 0.2)
    told, said = notifier(None, "sleep", "0.4")
    told.tell("refused", "one")
    told.tell("refused", "two")
    told.close()
    assert said == ["A notification could not be sent (not all were taken within 0.2 s); the work goes on."]
    assert told._worker is not None
    told._worker.join()


def test_a_command_that_leaves_something_running_was_told() -> None:
    told, said = notifier(None, "sh", "-c", "sleep 2 & exit 0")
    begun = time.monotonic()
    told.tell("refused", "one")
    told.close()
    assert time.monotonic() - begun < 2
    assert said == []


def test_a_command_gets_json_on_its_input_and_no_key_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", SECRET)
    code = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + repr(dict(os.environ)))"
    told, said = notifier(None, sys.executable, "-c", code, str(tmp_path / "got"))
    told.tell("step finished", f"The new server serves {SECRET}.", "switch")
    told.close()
    text = (tmp_path / "got").read_text()
    assert json.loads(text.partition("}")[0] + "}")["sentence"] == "The new server serves <secret>."
    assert SECRET not in text
    assert said == []


@pytest.mark.parametrize("command", [["/none/there"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_a_command_that_fails_is_said(command: list[str]) -> None:
    told, said = notifier(None, *command)
    told.tell("refused", "one")
    told.close()
    assert len(said) == 1
    assert "no such file or directory" in said[0] or "ended with exit code 3" in said[0]


@pytest.mark.parametrize("url", ["ftp://x/y", "x", "file:///etc/passwd", "https://", "http://[::1/x", "http://x:port/y"])
def test_what_is_no_webhook_is_refused_before_anything_is_done(url: str) -> None:
    with pytest.raises(WrongUsage, match="NOTIFY_URL is no http or https address"):
        notifier(url)


def test_nobody_is_told_unless_the_operator_says_so(tmp_path: Path) -> None:
    told, _ = notifier(None)
    told.tell("refused", "one")
    assert not told.on
    assert not any(thread.name == "notifications" for thread in threading.enumerate())
    told.close()
