"""Steps about records: what both servers hold, damage to one of them, and what cannot be moved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from pytest_bdd import given, parsers, then, when

from cutover.checks import registry
from cutover.checks.registry import Check, Finding
from lab.lab import Lab
from lab.operator import Operator
from lab.processes import Process
from lab.state_snapshot import differences, records


# -- the stage ----------------------------------------------------------------------------------------
@pytest.fixture
def new_server(lab: Lab) -> Iterator[Process]:
    """A Qdrant where the stack's container would answer, without the rest of the deployment."""
    made = lab.new_qdrant(LAB_QDRANT_SWITCHES=str(lab.folder / "new-switches.json"))
    yield made
    made.kill()


@pytest.fixture
def both_run(lab: Lab, operator: Operator, new_server: Process) -> None:
    """Both servers answer, and Nginx has the gate."""
    del lab
    new_server.start()
    operator.does("gate")


@pytest.fixture
def both_same(both_run: None, operator: Operator) -> None:
    """The copy was made and proved."""
    del both_run
    operator.does("copy")


@given("both servers run")
def _both_run(both_run: None) -> None:
    del both_run


@given("both servers hold the same data")
def _both_same(both_same: None) -> None:
    del both_same


@given(parsers.parse("both servers run, the new one with release {release}"))
def _other_release(new_server: Process, operator: Operator, release: str) -> None:
    new_server.env["LAB_QDRANT_VERSION"] = release
    new_server.start()
    operator.does("gate")


@given("both servers run an old release")
def _old_release(lab: Lab, new_server: Process, operator: Operator) -> None:
    _restart_old(lab, LAB_QDRANT_VERSION="1.9.7")
    new_server.env["LAB_QDRANT_VERSION"] = "1.9.7"
    new_server.start()
    operator.does("gate")


@given(parsers.parse("both servers run, the new one with room for requests of {size:d} MB"))
def _other_limit(new_server: Process, operator: Operator, size: int) -> None:
    new_server.env["QDRANT__SERVICE__MAX_REQUEST_SIZE_MB"] = str(size)
    new_server.start()
    operator.does("gate")


@when("the operator makes the copy")
def _makes_the_copy(operator: Operator) -> None:
    operator.tries("copy")


@when("the other server is brought up to date")
def _brought_up_to_date(operator: Operator) -> None:
    operator.does("follow")


@when("the operator undoes the copy, makes it again and moves the traffic")
def _copies_again(operator: Operator) -> None:
    operator.does("copy", undo=True)
    operator.does("copy")
    operator.does("switch")


# -- looking ------------------------------------------------------------------------------------------
@dataclass
class Checked:
    """What the last check found."""

    finding: Finding | None = None


@pytest.fixture
def checked() -> Checked:
    return Checked()


#: How a sentence names a check of the register.
_CHECKS = {
    "every write passes Nginx": ("A4", "gate"),
    "no application uses gRPC": ("A4", "gRPC"),
    "both servers are alike": ("A5", "alike"),
    "nothing stands against the move": ("A7", "against"),
    "Qdrant answers as before": ("D1", "same results"),
    "the host has room": ("A1", ""),
    "the new address is one machine's": ("A2", ""),
    "every server is the one the plan names": ("A3", "Every server"),
    "the site file says what the servers say": ("A3", "site.yaml says"),
    "the key of the host is right": ("A6", "Proxmox"),
    "the old server is saved": ("B1", ""),
    "the new server has its size": ("B2", ""),
    "the merged file may run": ("B4", ""),
    "Portainer runs what was merged": ("C1", ""),
    "the container comes back after a restart": ("C2", ""),
    "applications are let in as before": ("D4", ""),
    "nobody uses the server that was left behind": ("D5", "Nobody uses"),
    "Portainer is as before": ("D2", "as before"),
    "Portainer answered all the time": ("D2", "all the time"),
    "new merges are followed": ("H1", ""),
    "vLLM is untouched": ("D3", "untouched"),
    "vLLM answered all the time": ("D3", "all the time"),
    "the names of the old servers are known": ("F5", ""),
    "the site works without the old server": ("F2", ""),
}


@when(parsers.parse("the operator checks that {what}"))
def _operator_checks(operator: Operator, checked: Checked, what: str) -> None:
    criterion, words = _CHECKS[what]
    with closing(operator.run(execute=False)) as run:
        found: list[Check] = [c for c in registry.registered() if c.criterion == criterion and words in c.title]
        assert len(found) == 1, found
        checked.finding = registry.ask(found[0], run)


@then("the check is met")
def _check_is_met(checked: Checked, request: pytest.FixtureRequest) -> None:
    assert checked.finding is not None
    if checked.finding.ok is None and request.config.getoption("--target") == "live":
        pytest.skip(f"could not be evaluated: {checked.finding.sentence}")  # on the lab it has to be
    assert checked.finding.ok is True, f"{checked.finding.sentence} {checked.finding.hint}"


@then(parsers.parse('the check is not met because "{reason}"'))
def _check_is_not_met(checked: Checked, reason: str) -> None:
    assert checked.finding is not None
    assert checked.finding.ok is False, checked.finding.sentence
    assert reason in checked.finding.sentence, checked.finding.sentence


@then(parsers.parse('the check could not be evaluated because "{reason}"'))
def _check_is_open(checked: Checked, reason: str) -> None:
    assert checked.finding is not None
    assert checked.finding.ok is None, checked.finding.sentence
    assert reason in checked.finding.sentence, checked.finding.sentence


@then("both servers hold the same records, settings, indexes and aliases")
def _same_by_another_eye(lab: Lab, operator: Operator) -> None:
    """Compared by the lab's own reading of both servers, not by the tool's."""
    operator.does("follow")
    old, new = (records(lab, url) for url in (lab.site.qdrant.old_url, lab.site.qdrant.new_url))
    assert old["digits"]["records"] > 1000
    assert differences(old, new) == []


@then("the new server is empty")
def _new_server_is_empty(lab: Lab) -> None:
    assert set(records(lab, lab.site.qdrant.new_url)) <= {"aliases"}


@then("the same searches give the same results as before")
def _same_searches(lab: Lab) -> None:
    """Exact searches of digits, asked of the old server and through Nginx."""
    at = "/collections/current/points/query"
    for query in (1, 500, 1796):
        body = {"query": query, "limit": 10, "params": {"exact": True}, "with_payload": True, "with_vector": True}
        answers = [_ask(lab, url, "POST", at, body) for url in (lab.site.qdrant.old_url, lab.site.qdrant.public_url)]
        assert answers[0]["points"] == answers[1]["points"]
        assert len(answers[0]["points"]) == 10


# -- damage -------------------------------------------------------------------------------------------
def _ask(lab: Lab, url: str, method: str, path: str, body: Any = None) -> Any:
    headers = {"api-key": lab.keys.qdrant}
    answer = requests.request(method, url + path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:200]}"
    return answer.json()["result"]


_POINTS = "/collections/digits/points"
_DAMAGE: dict[str, tuple[str, str, Any]] = {
    "an altered vector": ("PUT", f"{_POINTS}/vectors?wait=true", {"points": [{"id": 7, "vector": [9.0] * 64}]}),
    "an altered payload": ("POST", f"{_POINTS}/payload?wait=true", {"payload": {"label": 99}, "points": [7]}),
    "a missing record": ("POST", f"{_POINTS}/delete?wait=true", {"points": [7]}),
    "an extra record": ("PUT", f"{_POINTS}?wait=true", {"points": [{"id": 999_999, "vector": [1.0] * 64}]}),
    "a missing index": ("DELETE", "/collections/digits/index/label?wait=true", None),
    "a missing alias": ("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "current"}}]}),
    "another setting": ("PATCH", "/collections/digits", {"optimizers_config": {"indexing_threshold": 777}}),
}


@given(parsers.re("the new server has (?P<damage>an? (altered|missing|extra) .*|another setting)"))
def _damage(lab: Lab, damage: str) -> None:
    _ask(lab, lab.site.qdrant.new_url, *_DAMAGE[damage])


@given("every payload on the new server was changed behind the tool's back")
def _every_payload_changed(lab: Lab) -> None:
    everything = {"payload": {"label": -1}, "filter": {"must": [{"key": "label", "range": {"gte": 0}}]}}
    _ask(lab, lab.site.qdrant.new_url, "POST", f"{_POINTS}/payload?wait=true", everything)


@when("applications delete and change records by a filter, add an index and move an alias")
def _changes_without_ids(lab: Lab) -> None:
    url = lab.site.qdrant.public_url
    for method, path, body in (
        ("POST", f"{_POINTS}/delete?wait=true", {"filter": {"must": [{"key": "label", "match": {"value": 3}}]}}),
        ("POST", f"{_POINTS}/payload", {"payload": {"seen": 1}, "filter": {"must": [{"key": "label", "match": {"value": 5}}]}}),
        ("PUT", "/collections/digits/index?wait=true", {"field_name": "seen", "field_schema": "integer"}),
        ("DELETE", "/collections/digits/index/parity?wait=true", None),
        ("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "current"}}]}),
        ("POST", "/collections/aliases", {"actions": [{"create_alias": {"collection_name": "mixed", "alias_name": "current"}}]}),
        ("PATCH", "/collections/digits", {"optimizers_config": {"indexing_threshold": 7000}}),
        ("PUT", "/collections/fresh", {"vectors": {"size": 4, "distance": "Dot"}}),
        ("PUT", "/collections/fresh/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}),
    ):
        _ask(lab, url, method, path, body)


# -- obstacles ----------------------------------------------------------------------------------------
def _restart_old(lab: Lab, **env: str) -> None:
    lab.need_own_qdrant()
    machine = lab.machines[952]
    for service in machine.services:
        if isinstance(service, Process):
            service.env |= env
    machine.stop()
    machine.start()


def _custom_shards(lab: Lab) -> None:
    settings = {"vectors": {"size": 4, "distance": "Dot"}, "sharding_method": "custom"}
    _ask(lab, lab.site.qdrant.old_url, "PUT", "/collections/tenants", settings)


def _grpc(lab: Lab) -> None:
    switches = lab.folder / "old-switches.json"
    switches.write_text(json.dumps({"grpc_per_second": {"/qdrant.Points/Upsert": 20}}))
    _restart_old(lab, LAB_QDRANT_SWITCHES=str(switches))


_OBSTACLES: dict[str, Callable[[Lab], None]] = {
    "a collection with custom shards": _custom_shards,
    "writers that use gRPC": _grpc,
}


@given(parsers.parse("the old server has {obstacle}"))
def _obstacle(lab: Lab, obstacle: str) -> None:
    _OBSTACLES[obstacle](lab)


@given("applications write to the old server through gRPC")
def _applications_use_grpc(lab: Lab) -> None:
    _grpc(lab)


@given("the new server already has a collection of somebody else")
def _strangers_collection(lab: Lab) -> None:
    _ask(lab, lab.site.qdrant.new_url, "PUT", "/collections/theirs", {"vectors": {"size": 4, "distance": "Dot"}})


@then("that collection is still there")
def _still_there(lab: Lab) -> None:
    assert _ask(lab, lab.site.qdrant.new_url, "GET", "/collections/theirs/exists") == {"exists": True}


@given("there is no read-only key")
def _no_read_only_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {k: v for k, v in lab.env.items() if k != "QDRANT_READ_ONLY_API_KEY"}
    monkeypatch.setattr(type(lab), "env", property(lambda _self: env))


@given("the new server cannot store anything")
def _no_room(lab: Lab) -> None:
    _new_server_fails(
        lab, "PUT", "/collections/{collection_name}/shards/{shard}/snapshots/recover", "No space left on device (os error 28)"
    )


@given("the disk of the new server has become read-only")
def _read_only(lab: Lab) -> None:
    """What it has mapped it goes on writing to, and says yes; a file it cannot make (seen with the engine on ext4)."""
    _new_server_fails(lab, "POST", "/collections/aliases", "Read-only file system (os error 30)")


def _new_server_fails(lab: Lab, method: str, endpoint: str, reason: str) -> None:
    fault = {"method": method, "endpoint": endpoint, "status": 500, "text": f"Service internal error: {reason}"}
    (lab.folder / "new-switches.json").write_text(json.dumps({"fail": [fault]}))


@then("the copy can be made once there is room")
def _room_again(lab: Lab, operator: Operator) -> None:
    (lab.folder / "new-switches.json").write_text("{}")
    operator.does("copy")
