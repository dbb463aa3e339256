"""vLLM: what its users see through Nginx while the operator works."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from pytest_bdd import given, parsers, then

from cutover.checks.registry import ask, registered
from cutover.checks.vllm import remembered
from cutover.core.wait import Not, wait_until
from lab.lab import Lab
from lab.operator import Operator


@dataclass
class Users:
    """People who ask vLLM the same question again and again."""

    url: str
    key: str
    answers: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        wait_until(lambda: len(self.answers) >= 3 or Not(f"{self.failures}"), deadline=20, what="The first answers of vLLM")

    def _ask(self) -> None:
        session = requests.Session()
        session.trust_env = False
        body = {"prompt": "What is a vector?", "max_tokens": 5, "temperature": 0}
        while not self._over.wait(0.01):
            try:
                answer = session.post(
                    f"{self.url}/v1/completions", json=body, headers={"Authorization": f"Bearer {self.key}"}, timeout=10
                )
                answer.raise_for_status()
                self.answers.append(answer.json()["choices"][0]["text"])
            except (requests.RequestException, KeyError, ValueError) as error:
                self.failures.append(str(error))

    def end(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(15)


@pytest.fixture
def vllm_users(lab: Lab) -> Iterator[Users]:
    made = Users(lab.site.vllm.public_url, lab.keys.vllm)
    yield made
    made.end()


@given("users ask vLLM through Nginx all the time")
def _users_ask(vllm_users: Users, operator: Operator) -> None:
    _look(operator)
    vllm_users.begin()


@given("the operator looked at vLLM before the move")
def _look(operator: Operator) -> None:
    """Looked with the right to keep what was seen."""
    with closing(operator.run(execute=True)) as run:
        (check,) = (c for c in registered() if c.criterion == "D3" and "untouched" in c.title)
        found = ask(check, run)
        assert found.ok, found.sentence
        assert remembered(run) is not None


@given(parsers.parse("meanwhile vLLM {event}"))
def _meanwhile(lab: Lab, event: str) -> None:
    machine = lab.machines[lab.site.guests.vllm.vmid]
    machine.stop()
    if event == "stopped":
        return
    service: Any = machine.services[0]
    service.argv += ["--model", "lab/other"] if event == "got another model" else []
    machine.start()


@then("vLLM answered every question, always the same")
def _answered_all(vllm_users: Users) -> None:
    vllm_users.end()
    assert vllm_users.failures == []
    assert len(vllm_users.answers) > 20, "nobody asked while traffic moved"
    assert len(set(vllm_users.answers)) == 1


@then("vLLM is what it was")
def _is_what_it_was(operator: Operator) -> None:
    _look(operator)
