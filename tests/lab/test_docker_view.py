"""The Docker engine as a real Portainer of the lab sees it: only what is the VM's, as large as the VM, and broken where asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from docker.errors import APIError, ImageNotFound

from lab.containers.docker_view import View
from lab.containers.portainer import IMAGE, available, need_possible
from lab.lab import NotShownHere

LABELS = {"lab": "1"}
MADE = {"Labels": {"com.docker.compose.project": "qdrant"}}


def view(folder: Path, **knobs: object) -> View:
    (folder / "knobs.json").write_text(json.dumps(knobs))
    (folder / "machine.json").write_text(json.dumps({"cores": 6, "memory_mb": 10240}))
    return View("", LABELS, folder / "knobs.json", folder / "machine.json")


@pytest.mark.parametrize("given", [{}, {"name": ["x"]}, {"label": ["a=b"]}, {"label": {"a=b": True}}])
@pytest.mark.parametrize("path", ["/v1.41/containers/json", "/volumes", "/v1.47/networks"])
def test_lists_show_what_is_the_vms(tmp_path: Path, path: str, given: dict[str, object]) -> None:
    target = urlsplit(view(tmp_path).target("GET", f"{path}?all=1&filters={quote(json.dumps(given))}"))
    assert target.path == path
    query = parse_qs(target.query)
    filters = json.loads(query["filters"][0])
    assert query["all"] == ["1"]
    assert filters["label"]["lab=1"] is True
    assert ("a=b" in filters["label"]) is ("label" in given)
    assert ("name" in filters) is ("name" in given)


def test_what_is_asked_by_name_is_passed_on_as_it_is(tmp_path: Path) -> None:
    for method, target in (("GET", "/v1.41/containers/c/json"), ("POST", "/v1.41/containers/create?name=c"), ("GET", "/_ping")):
        assert view(tmp_path).target(method, target) == target


def test_what_is_made_gets_the_labels_and_is_broken_where_asked(tmp_path: Path) -> None:
    body = json.dumps(MADE).encode()
    made = json.loads(view(tmp_path).body("/v1.41/containers/create", body))
    assert made == {"Labels": {**MADE["Labels"], **LABELS}}
    assert json.loads(view(tmp_path, crash="qdrant").body("/v1.41/containers/create", body))["Entrypoint"] == ["false"]
    assert "Healthcheck" in json.loads(view(tmp_path, unhealthy="qdrant").body("/v1.41/containers/create", body))
    assert "Healthcheck" not in json.loads(view(tmp_path, unhealthy="other").body("/v1.41/containers/create", body))
    assert view(tmp_path).body("/v1.41/exec/1/start", b"x") == b"x"


def test_a_registry_that_is_away_says_so_for_looking_and_pulling(tmp_path: Path) -> None:
    look, pull = ("/v1.41/distribution/r/q:v1/json", ""), ("/v1.41/images/create", "fromImage=r%2Fq&tag=v1")
    assert [view(tmp_path).refused(*one) for one in (look, pull)] == [None, None]
    for one in (look, pull):
        assert (view(tmp_path, registry_down=True).refused(*one) or (0,))[0] == 500
        assert (view(tmp_path, unpullable=["r/q:v1"]).refused(*one) or (0,))[0] == 404
    here = ("/v1.41/images/r/q:v1@sha256:0/json", "")  # by another machine's container
    assert view(tmp_path).refused(*here) is None
    assert (view(tmp_path, registry_down=True).refused(*here) or (0,))[0] == 404


def test_the_engine_is_as_large_as_the_vm(tmp_path: Path) -> None:
    told = json.loads(view(tmp_path).answer("/info", b'{"NCPU": 64, "MemTotal": 1, "Containers": 3}'))
    assert (told["NCPU"], told["MemTotal"], told["Containers"]) == (6, 10 << 30, 3)


def test_what_portainer_cannot_be_told_is_not_shown_there() -> None:
    need_possible({"crash": "qdrant", "registry_down": True, "version": "2.23.0"}, IMAGE)
    with pytest.raises(NotShownHere, match="cannot be told to be of another version and never finish; the stand-in"):
        need_possible({"version": "2.45.1", "stuck_deploying": True}, IMAGE)


def test_a_portainer_that_cannot_be_pulled_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(error: Exception) -> Any:
        def ask(_: str) -> None:
            raise error

        return ask

    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    images = SimpleNamespace(get=raises(ImageNotFound("none")), pull=raises(APIError("x", explanation="no such host")))
    engine: Any = SimpleNamespace(images=images)
    assert available(engine, IMAGE) == ("", f"the stand-in for its API, because {IMAGE} could not be pulled: no such host")
    images.get = lambda _: None
    assert available(engine, IMAGE) == (IMAGE, f"Portainer itself, {IMAGE}")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert available(engine, IMAGE)[0] == ""
