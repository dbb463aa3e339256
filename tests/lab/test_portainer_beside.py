"""What a real Portainer 2.23.0 shows to others than its administrator, makes of values, and does beside itself: held to recordings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.portainer.obstacles import collided, in_words
from cutover.portainer.stack import PROJECT, SERVICE, name_of, of_service
from cutover.portainer.variables import arriving
from lab.portainer import PORTAINERS_HOME
from tests.support.vm1001 import VIEWER, Vm1001

RECORDED = "portainer-2.23.0-beside.jsonl"
Exchanges = list[dict[str, Any]]
STRANGER = "ptr_" + "s" * 40


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    keys = [
        {"key": "ptr_" + "k" * 40, "user": "cutover", "role": 1},
        {"key": VIEWER, "user": "viewer", "role": 2},
        {"key": STRANGER, "user": "viewer", "role": 2, "environment": False},
    ]
    made = Vm1001(tmp_path_factory.mktemp("vm"), api_keys=keys)
    with made.up():
        made.merge()
        yield made


def made(vm: Vm1001, name: str, file: str, reference: str, env: list[dict[str, str]]) -> Any:
    body = {
        "Name": name, "RepositoryURL": vm.site.portainer.repository, "RepositoryReferenceName": reference, "ComposeFile": file,
        "Env": env,
    }  # fmt: skip
    return vm.ask("POST", "/api/stacks/create/standalone/repository?endpointId=1", body)


@pytest.mark.parametrize(("note", "key"), [("without", STRANGER), ("with", VIEWER)])
def test_who_is_no_administrator_is_shown_what_the_real_one_shows(
    vm: Vm1001, recorded: Callable[[str], Exchanges], note: str, key: str
) -> None:
    env = [{"name": n, "value": "x"} for n in ("QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY")]
    there = {s["Name"]: s["Id"] for s in vm.ask("GET", "/api/stacks").json()}
    if "qdrant" not in there:
        answer = made(vm, "qdrant", "stacks/qdrant/docker-compose.yml", "refs/heads/main", env)
        assert answer.status_code == 200, answer.text
        there["qdrant"] = answer.json()["Id"]
    compared = 0
    for one in recorded(RECORDED):
        if one["note"] != f"as a user {note} access to the environment":
            continue
        path = re.sub(r"/stacks/\d+", f"/stacks/{there['qdrant']}", one["path"])
        ours = vm.ask(one["method"], path, one["body"], key=key)
        assert ours.status_code == one["status"], (one["method"], path, ours.text)
        if one["status"] >= 400 and one["method"] == "GET":
            assert ours.json() == one["answer"], path
        elif one["status"] == 200 and isinstance(one["answer"], list):
            assert bool(ours.json()) == bool(one["answer"]), path
        elif one["path"].endswith("/docker/volumes"):
            assert ours.json() == one["answer"]
        compared += 1
    assert compared >= 15


def test_a_value_becomes_what_the_real_one_makes_of_it(vm: Vm1001, recorded: Callable[[str], Exchanges]) -> None:
    text = (
        "services:\n  a:\n    image: prom/node-exporter:v1.8.2\n    environment: {KEY: '${KEY:?set KEY}', AFTER: '${AFTER-}'}\n"
    )
    vm.repository.commit({"other.yml": text}, "Other", branch="other")
    compared = 0
    for one in recorded(RECORDED):
        if not one["note"].startswith("a value"):
            continue
        env = one["body"]["Env"]
        answer = made(vm, "other", "other.yml", "refs/heads/other", env)
        assert answer.status_code == one["status"], (env, answer.text)
        sent = {pair["name"]: pair["value"] for pair in env}
        if one["status"] == 200:
            found = vm.ask("GET", "/api/endpoints/1/docker/containers/other-a-1/json").json()["Config"]["Env"]
            real = dict(entry.split("=", 1) for entry in one["container_got"])
            assert {e for e in found if e.startswith(("KEY=", "AFTER="))} == set(one["container_got"]), env
            # The tool says the same beforehand, but for what comes out of Portainer's own environment.
            told = arriving(sent)
            assert told is not None
            assert told == real or PORTAINERS_HOME in real["KEY"]
            assert vm.ask("DELETE", f"/api/stacks/{answer.json()['Id']}?endpointId=1").status_code == 204
        compared += 1
    assert compared >= 12


def test_a_container_that_is_replaced_is_known_with_the_one_that_replaces_it(recorded: Callable[[str], Exchanges]) -> None:
    rows = next(e["answer"] for e in recorded(RECORDED) if e["note"] == "containers while one is replaced")
    own = of_service(rows, "qdrant", "qdrant")
    assert name_of(own[0]) == "qdrant-qdrant-1"
    assert re.fullmatch(r"[0-9a-f]{12}_qdrant-qdrant-1", name_of(own[1]))
    assert {(row["Labels"][PROJECT], row["Labels"][SERVICE]) for row in own} == {("qdrant", "qdrant")}


def test_what_went_wrong_is_understood(recorded: Callable[[str], Exchanges]) -> None:
    said = {
        e["note"]: f"{e['answer'].get('message', '')} {e['answer'].get('details', '')}"
        for e in recorded(RECORDED)
        if e["status"] >= 400
    }
    assert collided(said["redeploy beside a webhook"])
    assert not any(collided(text) for note, text in said.items() if "beside" not in note)
    assert "no such repository, or it is private" in in_words(said["a repository that is not there"])
    assert "no such tag or digest" in in_words(said["a digest that is not there"])
    assert "no such tag or digest" in in_words(said["a tag that the registry does not have"])


def test_without_docker_the_answer_is_the_recorded_one(tmp_path: Path, recorded: Callable[[str], Exchanges]) -> None:
    real = [e for e in recorded(RECORDED) if e["note"] == "without Docker"]
    assert real
    vm = Vm1001(tmp_path)
    with vm.up():
        vm.knobs(docker_down=True)
        for one in real:
            ours = vm.ask(one["method"], one["path"])
            assert ours.status_code == one["status"], (one["path"], ours.text)
            assert set(ours.json()) == set(one["answer"])
            assert ours.json()["message"] == one["answer"]["message"]
