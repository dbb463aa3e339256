"""What the hostile senders send, and how a run is judged. A run itself takes minutes and is done every night."""

from __future__ import annotations

import random

from lab.load import Report
from tools import hostile


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
        errors=["boom"], load=Report(failed=1, lost=2),
    )  # fmt: skip
    assert len(bad.wrong(600, 600)) == 9
