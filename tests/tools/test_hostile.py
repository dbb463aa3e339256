"""What the hostile senders send, and how a run is judged. A run itself takes minutes and is done every night."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from cutover.gate.write_log import Write
from lab.load import Report
from tools import hostile, hostile_forms, hostile_trying


def test_what_is_sent_is_of_every_kind_and_never_fails_to_be_made() -> None:
    dice = random.Random(1)
    made = [hostile.request(dice, ["read-only"]) for _ in range(600)]
    assert {kind for _, kind in made} == {"length", "chunked", "both", "twice", "wrong", "odd chunked"}
    heads = [data.split(b"\r\n\r\n")[0] for data, _ in made]
    assert any(b"api-key: read-only" in head for head in heads) and any(b"api-key" not in head for head in heads)
    for form in (b"HTTP/1.0", b"%2f", b"\xff", b"X-Qdrant-Gate", b"gzip", b"deflate", b"Transfer-Encoding: chunked"):
        assert any(form in head for head in heads), form
    assert not any(b"api-key: lab" in head for head in heads)


def test_a_run_is_right_only_where_nothing_came_of_it() -> None:
    good = hostile.Result(hostile={"401": 10}, moves=2, load=Report(requests=100))
    assert good.wrong(600, 600) == []
    bad = hostile.Result(
        hostile={}, moves=0, folder_most=700, tool_memory=700, nginx_memory=700, anew=["Nothing is recorded."],
        errors=["boom"], load=Report(failed=1, lost=2), forms_wrong=["smuggled: lost"], forms_differ=3,
    )  # fmt: skip
    assert len(bad.wrong(600, 600)) == 11


def test_every_odd_form_has_a_name_and_records_of_its_own_and_the_key() -> None:
    made = hostile_forms.forms("the-key", 10**6)
    assert len(made) > 500 and len({form.name for form in made}) == len(made) == len({form.at for form in made})
    sent = [b"".join(piece for piece in form.pieces if isinstance(piece, bytes)) for form in made]
    assert sum(b"the-key" in data for data in sent) > 500, "refused for want of a key would show nothing"
    kinds = (b"Transfer-Encoding: chunked\r\nContent-Length", b"HTTP2-Settings", b"Upgrade: websocket", b"application/grpc", b"Expect: 100-continue",
             b"PUT http://q/", b"CONNECT ", b"TRACE ", b"%2570", b"//collections", b"/./", b";x=1", b";a=b\r\n", b"\r\n b\r\n", b"\nHost", b"PRI * HTTP/2.0")  # fmt: skip
    assert [kind for kind in kinds if not any(kind in data for data in sent)] == []


def test_a_write_that_was_done_and_is_not_on_record_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, lost, early, refused = hostile_forms.forms("k", 0)[:4]
    there: dict[int, Any] = {}
    written = [Write(1, 1.0, "PUT", "/collections/odd/points", 200, "old", "b")]

    class Gate:
        def log_end(self) -> int:
            return 0

        def drain(self, deadline: float) -> None:
            there.update({form.at: {"id": form.at} for form in (recorded, lost)})

        def read_log(self, offset: int) -> list[Write]:
            return written

        def bodies(self, entries: list[Write]) -> Iterator[tuple[Write, bytes]]:
            return iter([(written[0], hostile_forms.records(recorded.at, early.at))])

    def ask(method: str, path: str, body: Any) -> Any:
        return [there[one] for one in body["ids"] if one in there]

    @contextmanager
    def hold() -> Iterator[None]:
        there[early.at] = {"id": early.at}
        yield

    monkeypatch.setattr(hostile_trying, "send", lambda *_: "said")
    monkeypatch.setattr(hostile_trying, "HELD", 0.0)
    monkeypatch.setattr(hostile_trying, "LOOKS_AGAIN", 0.0)
    trying = hostile_trying.Trying(cast("Any", Gate()), ask, ask, {False: ("", 0), True: ("", 0)})
    came = [one.came for one in trying.each([recorded, lost, early, refused], hold=hold)]
    assert came == ["recorded", "lost", "in the hold", "refused"]
