"""vLLM's stand-in speaks like vLLM, and the client tells "untouched" from "answers, but is another one"."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from cutover.checks.vllm import untouched
from cutover.core.credentials import Credentials
from cutover.core.errors import Refused, Unreachable
from cutover.core.journal import Journal
from cutover.core.write_guard import WriteGuard
from cutover.site.schema import Vllm as Settings
from cutover.vllm import Portrait, Vllm
from lab.processes import Process, listening
from tests.support.own_network import address

HOST, PORT = address(81), 8000
URL = f"http://{HOST}:{PORT}"
ROOT = Path(__file__).resolve().parents[1]


def served(folder: Path, *words: str, port: int = PORT) -> Process:
    return Process(
        [sys.executable, "-m", "lab.vllm", "--host", HOST, "--port", str(port), *words],
        env={"VLLM_API_KEY": "let-me-in", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        log=folder / "vllm.log",
        ready=listening(HOST, port),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = served(tmp_path_factory.mktemp("vllm"))
    process.start()
    yield process
    process.stop()


def client(key: str = "let-me-in", *, model: str | None = None, port: int = PORT) -> Vllm:
    return Vllm(Settings(public_url=f"http://{HOST}:{port}", model=model), Credentials({"VLLM_API_KEY": key}), WriteGuard(None))


def ask(path: str, body: Any = None, **more: Any) -> requests.Response:
    headers = {"Authorization": "Bearer let-me-in"}
    return requests.request("POST" if body else "GET", URL + path, json=body, headers=headers, timeout=5, **more)


def test_the_api_has_vllms_shape(server: Process) -> None:
    card = ask("/v1/models").json()["data"][0]
    assert (card["object"], card["owned_by"]) == ("model", "vllm")
    assert requests.get(f"{URL}/health", timeout=5).content == b""
    assert requests.get(f"{URL}/v1/models", timeout=5).json() == {"error": "Unauthorized"}
    chat = ask("/v1/chat/completions", {"model": card["id"], "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
    assert chat.json()["choices"][0]["message"]["role"] == "assistant"
    assert chat.json()["usage"]["completion_tokens"] == 3
    wrong = ask("/v1/completions", {"model": "else", "prompt": "hi"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (404, "The model `else` does not exist.")
    assert ask("/v1/completions", {"model": card["id"]}).status_code == 400
    assert ask("/nothing").json() == {"detail": "Not Found"}


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_says_the_same_as_one_answer(server: Process, chat: bool) -> None:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    body = {"max_tokens": 7, **({"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"})}
    whole = ask(path, body).json()["choices"][0]
    lines = [line for line in ask(path, {**body, "stream": True}).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    parts = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    text = "".join(part["delta"]["content"] if chat else part["text"] for part in parts)
    assert text == (whole["message"]["content"] if chat else whole["text"])
    assert [part["finish_reason"] for part in parts] == [None] * 6 + ["length"]


def test_a_portrait_is_the_same_twice(server: Process) -> None:
    first, second = client().portrait(), client().portrait()
    assert first.differences(second) == []
    assert first.answer
    assert Portrait.from_json(json.loads(json.dumps(first.as_json()))) == first


def test_what_is_wrong_is_said(server: Process) -> None:
    with pytest.raises(Refused, match="did not accept the key"):
        client("wrong").models()
    with pytest.raises(Unreachable, match="answered 404 to POST /v1/completions: The model `else` does not exist"):
        client(model="else").complete()
    with pytest.raises(Unreachable, match="connection refused"):
        client(port=8999).healthy()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Portrait(("b",), "1", 5.0, "x"), "it served a and serves b now"),
        (Portrait(("a",), "2", 5.0, "x"), "it was version 1 and is 2 now"),
        (Portrait(("a",), "1", 9.0, "x"), "it was restarted"),
        (Portrait(("a",), "1", 5.0, "y"), "it answers the same question differently"),
        (Portrait(("a",), None, None, None), None),
    ],
)
def test_differences(now: Portrait, said: str | None) -> None:
    assert Portrait(("a",), "1", 5.0, "x").differences(now) == ([said] if said else [])


def test_the_check_remembers_and_detects_a_restart_with_another_model(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "lab")
    settings = Settings(public_url=f"http://{HOST}:8001")
    run: Any = SimpleNamespace(vllm=client(port=8001), journal=journal, execute=True, site=SimpleNamespace(vllm=settings))
    process = served(tmp_path, port=8001)
    process.start()
    try:
        assert untouched(run).ok
        assert "the same answer" in untouched(run).sentence
    finally:
        process.stop()
    other = served(tmp_path, "--model", "lab/other", port=8001)
    other.start()
    try:
        found = untouched(run)
        assert found.ok is False
        assert "it served lab/parrot-1b and serves lab/other now; it was restarted" in found.sentence
    finally:
        other.stop()
