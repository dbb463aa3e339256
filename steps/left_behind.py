"""Steps about the server that was left behind: who uses it by its own address, through gRPC, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

import pytest
import requests
from pytest_bdd import given, then, when

from cutover.state import status as state
from lab.lab import Lab
from lab.operator import Operator
from steps.data import _restart_old

_SEARCH = ("POST", "/collections/digits/points/search", {"vector": [1.0] * 64, "limit": 3})
_WRITE = ("PUT", "/collections/digits/points?wait=true", {"points": [{"id": 1_000_000, "vector": [1.0] * 64}]})
_READ = ("GET", "/collections/digits/points/7", None)


@dataclass
class Clients:
    """Whoever asks a server again and again, each in a thread of his own, until the scenario ends."""

    done: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self, url: str, key: str | None, method: str, path: str, body: object) -> None:
        """Ask until the end; returns when the first answer came."""
        first = threading.Event()

        def ask() -> None:
            session = requests.Session()
            session.headers.update({"api-key": key} if key else {})
            while not self.done.wait(0.05):
                with suppress(requests.RequestException):
                    session.request(method, url + path, json=body, timeout=10)
                    first.set()

        self.threads.append(threading.Thread(target=ask, daemon=True))
        self.threads[-1].start()
        assert first.wait(10), f"{url} does not answer"


@pytest.fixture
def clients() -> Iterator[Clients]:
    made = Clients()
    yield made
    made.done.set()
    for thread in made.threads:
        thread.join(10)


@given("somebody keeps writing to the old server without Nginx")
def _writes(lab: Lab, clients: Clients) -> None:
    clients.begin(lab.site.qdrant.old_url, lab.keys.qdrant, *_WRITE)


@given("somebody keeps searching the old server without Nginx")
def _searches(lab: Lab, clients: Clients) -> None:
    clients.begin(lab.site.qdrant.old_url, lab.keys.qdrant, *_SEARCH)


@given("somebody keeps reading records of the old server without Nginx")
def _reads(lab: Lab, clients: Clients) -> None:
    clients.begin(lab.site.qdrant.old_url, lab.keys.qdrant_read_only, *_READ)


@given("somebody uses gRPC to search the old server without Nginx")
def _searches_by_grpc(lab: Lab) -> None:
    _counts_grpc(lab, grpc_per_second={"/qdrant.Points/Search": 20})


@given("applications wrote to the old server through gRPC a year ago")
def _grpc_long_ago(lab: Lab) -> None:
    _counts_grpc(lab, grpc={"/qdrant.Points/Upsert": {"0": 3}})


def _counts_grpc(lab: Lab, **switches: object) -> None:
    file = lab.folder / "old-switches.json"
    file.write_text(json.dumps(switches))
    _restart_old(lab, LAB_QDRANT_SWITCHES=str(file))


@given("somebody monitors the old server, and somebody without a key is turned away")
def _monitors(lab: Lab, clients: Clients) -> None:
    for path in ("/metrics", "/telemetry", "/readyz"):
        clients.begin(lab.site.qdrant.old_url, lab.keys.qdrant_read_only, "GET", path, None)
    clients.begin(lab.site.qdrant.old_url, None, *_SEARCH)


@when("the operator gives up the way back")
def _gives_up(lab: Lab, operator: Operator) -> None:
    operator.agrees_to.add(lab.site.name)
    operator.tries("finish")


@then("the status names whoever is there")
def _status_names(operator: Operator) -> None:
    with closing(operator.run(execute=False)) as run:
        found = state.status(run, glance=True)
    assert "somebody used the old server without going through Nginx" in "\n".join(found.lines())


@then("it is done")
def _is_done(operator: Operator) -> None:
    assert operator.error is None, str(operator.error)
