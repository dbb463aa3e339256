"""The compose file that ships: as site.yaml says, accepted by the real Compose, and every rule about it can be broken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cutover.core.errors import Refused
from cutover.portainer import compose, compose_file, shipped
from cutover.site import load as site_load
from cutover.site import schema

ROOT = Path(__file__).parents[2]
KEYS = {"QDRANT_API_KEY": "write", "QDRANT_READ_ONLY_API_KEY": "read"}


@pytest.fixture(scope="module")
def ours() -> schema.Site:
    return site_load.load(ROOT / "site.yaml")


@pytest.fixture(scope="module")
def text(ours: schema.Site) -> str:
    return (ROOT / ours.portainer.compose_file).read_text()


def test_the_file_that_ships_says_what_site_yaml_says(text: str, ours: schema.Site) -> None:
    file = compose_file.read(text)
    assert compose_file.mistakes(file, ours) == []
    assert str(file.image) == ours.qdrant.image
    assert [f"http://{p.address}:{p.published}" for p in file.ports] == [ours.qdrant.new_url]
    assert {m.target: m.volume for m in file.mounts} == {
        "/qdrant/storage": "qdrant_storage", "/qdrant/snapshots": "qdrant_snapshots"
    }  # fmt: skip
    assert set(file.required) == set(KEYS)
    assert file.memory == 3072 << 20


def test_the_file_that_ships_says_what_a_site_with_an_ipv6_address_says(ours: schema.Site) -> None:
    new = ours.guests.new.model_copy(update={"address": "fd00::1"})
    six = ours.model_copy(
        update={
            "guests": ours.guests.model_copy(update={"new": new}),
            "qdrant": ours.qdrant.model_copy(update={"new_url": "http://[fd00::1]:6333"}),
        }
    )
    assert compose_file.mistakes(compose_file.read(shipped.compose_file(six)), six) == []


def test_compose_accepts_the_file_with_both_keys(text: str) -> None:
    assert compose_file.compose_says(text, KEYS) is None


@pytest.mark.parametrize("name", KEYS)
def test_compose_refuses_the_file_without_a_key(text: str, name: str) -> None:
    said = compose_file.compose_says(text, {k: v for k, v in KEYS.items() if k != name})
    assert said is not None
    assert f"required variable {name} is missing a value: set {name} in the environment variables" in said
    assert name in compose_file.read(text).missing({k: v for k, v in KEYS.items() if k != name})


def test_the_real_binary_is_called_not_the_script_that_hides_failures() -> None:
    binary = compose.binary()
    assert binary is not None
    assert subprocess.run([*binary, "-f", "/nonexistent.yml", "config"], capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("v1.18.3@sha256:0bd98fa7977f1e75694779359ca4e212822e5a71334e28421182f72f209d5286", "latest", "is not pinned"),
        ("v1.18.3@", "v1.18.4@", "site.yaml says"),
        ('"10.0.0.101:6333:6333"', '"6333:6333"', "published to every address"),
        ('"10.0.0.101:6333:6333"', '"0.0.0.0:6333:6333"', "published to every address"),
        ('"10.0.0.101:6333:6333"', '"10.0.0.152:6333:6333"', "site.yaml expects 10.0.0.101:6333"),
        ('"10.0.0.101:6333:6333"', '"10.0.0.101:6333:6333"\n      - "10.0.0.101:6334:6334"', "gRPC (6334)"),
        ("ports:\n", 'expose: ["6333"]\n    x-ports:\n', "Port 6333 is not published"),
        ("- qdrant_storage:/qdrant/storage\n", "- ./data:/qdrant/storage\n", "mounted from the host"),
        ("- qdrant_snapshots:/qdrant/snapshots", "- qdrant_snapshots:/elsewhere", "Nothing is mounted at /qdrant/snapshots"),
        ("    name: qdrant_storage\n", "", "no fixed `name:`"),
        ("- qdrant_storage:/qdrant/storage\n", "- qdrant_storage:/qdrant/storage:z,ro\n", "mounted read-only"),
        ("- qdrant_snapshots:/qdrant/snapshots\n",
         "- {type: volume, source: qdrant_snapshots, target: /qdrant/snapshots, read_only: true}\n", "mounted read-only"),
        ("- qdrant_storage:/qdrant/storage\n",
         "- qdrant_storage:/qdrant/./storage/\n      - qdrant_snapshots:/qdrant/storage/collections\n", "would not see what it has"),
        ("    restart:", "    deploy: {replicas: 2}\n    restart:", "may only be 1 "),
        ("${QDRANT_API_KEY:?", "${QDRANT_API_KEY:-", "does not insist on its variable"),
        ("API_KEY: ${QDRANT_API_KEY:?set QDRANT_API_KEY in the environment variables of this stack in Portainer}",
         "API_KEY: hunter2", "A key in Git is no secret"),
        ("read_only: true", "read_only: false", "writable"),
        ("cap_drop: [ALL]", "cap_drop: [ALL]\n    cap_add: [NET_RAW]", "keeps capabilities"),
        ('security_opt: ["no-new-privileges:true"]', "privileged: true", "takes the walls"),
        ("restart: unless-stopped", "restart: on-failure", "after a reboot"),
        ("stop_grace_period: 60s", "stop_grace_period: 10s", "before it has finished"),
        ('command: ["./qdrant"]', 'command: ["./entrypoint.sh"]', "would not receive the signal"),
        ("        - bash\n", "        - curl\n", "curl or wget"),
        ("        max-size: 10m\n", "", "without a bound"),
        ("mem_limit: 3072m", "mem_limit: 10240m", "leaves nothing"),
        ("    mem_limit: 3072m\n", "", "no memory limit"),
        ("    restart:", "    container_name: qdrant\n    restart:", "container_name"),
        ("    restart:", "    env_file: stack.env\n    restart:", "env_file"),
        ("    restart:", "    build: .\n    restart:", "`build`"),
        ("services:\n", "services:\n  web:\n    image: web:1\n", "runs web as well"),
    ],
)  # fmt: skip
def test_a_dangerous_change_is_named(text: str, ours: schema.Site, was: str, becomes: str, said: str) -> None:
    assert was in text
    found = compose_file.mistakes(compose_file.read(text.replace(was, becomes, 1)), ours)
    assert any(said in mistake for mistake in found), found


def test_a_site_that_lets_everybody_in_has_no_keys_in_its_file(text: str, ours: schema.Site) -> None:
    open_site = ours.model_copy(update={"qdrant": ours.qdrant.model_copy(update={"access": "open"})})
    found = compose_file.mistakes(compose_file.read(text), open_site)
    assert [mistake.split()[0] for mistake in found] == ["QDRANT__SERVICE__API_KEY", "QDRANT__SERVICE__READ_ONLY_API_KEY"]
    without = "".join(line for line in text.splitlines(keepends=True) if "_API_KEY: ${" not in line)
    assert compose_file.mistakes(compose_file.read(without), open_site) == []
    assert len(compose_file.mistakes(compose_file.read(without), ours)) == 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("services:\n  qdrant: [\n", "line 3 is not valid YAML"),
        ("a: b: c\n", "line 1 is not valid YAML"),
        ("services:\n  other:\n    image: x\n", "has no service 'qdrant'"),
        ("", "has no service 'qdrant'"),
        ("services: {qdrant: }", "has no service 'qdrant'"),
    ],
)
def test_an_unreadable_file_is_refused_with_its_line(broken: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        compose_file.read(broken)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("ports: 5", "`services.qdrant.ports` has to be a list"),
        ("deploy: two", "`services.qdrant.deploy` has to be a mapping"),
        ("healthcheck: true", "`services.qdrant.healthcheck` has to be a mapping"),
        ("healthcheck: {test: [CMD, 5]}", "`services.qdrant.healthcheck.test` has to be a list of texts"),
        ("logging: {options: small}", "`services.qdrant.logging.options` has to be a mapping"),
        ("environment: open", "`services.qdrant.environment` has to be a mapping"),
        ("security_opt: 5", "`services.qdrant.security_opt` has to be a list"),
        ("cap_drop: 5", "`services.qdrant.cap_drop` has to be a list"),
        ("image: x\nvolumes: [qdrant_storage]", "`volumes` has to be a mapping"),
        ("image: x\nvolumes: {qdrant_storage: here}", "`volumes.qdrant_storage` has to be a mapping"),
    ],
)
def test_a_part_of_another_kind_is_refused_with_its_line(broken: str, said: str, ours: schema.Site) -> None:
    with pytest.raises(Refused, match=rf", line [34]: {said}"):
        compose_file.mistakes(compose_file.read(f"services:\n  qdrant:\n    {broken}\n"), ours)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("qdrant/qdrant:v1@sha256:ab", ("qdrant/qdrant", "v1", "sha256:ab")),
        ("127.0.0.1:5000/site/qdrant", ("127.0.0.1:5000/site/qdrant", "", "")),
        ("registry:5000/q:1", ("registry:5000/q", "1", "")),
        ("qdrant@sha256:ab", ("qdrant", "", "sha256:ab")),
    ],
)
def test_image_references_are_taken_apart(reference: str, parts: tuple[str, str, str]) -> None:
    image = compose_file.Image.parse(reference)
    assert (image.name, image.tag, image.digest) == parts
    assert str(image) == reference


def test_a_compose_that_cannot_run_on_this_machine_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "docker" else None)
    assert compose.binary() == ["/usr/bin/docker", "compose"]


def test_the_same_is_asked_once_and_again_where_it_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, program = tmp_path / "asked", tmp_path / "compose"
    program.write_text(f'#!/bin/sh\necho >>{asked}\necho "{{}}"\n[ "$GOOD" = yes ]\n')
    program.chmod(0o755)
    monkeypatch.setattr(compose, "binary", lambda: [str(program)])

    def times(good: str, **changes: str) -> int:
        before = asked.read_text().count("\n") if asked.exists() else 0
        answers = {compose.config("x", "p", variables={"GOOD": good, **changes}) for _ in range(2)}
        assert {answer.code == 0 for answer in answers} == {good == "yes"}
        return asked.read_text().count("\n") - before

    assert times("yes") == 1
    assert times("yes", OTHER="value") == 1
    assert times("no") == 2


def test_a_service_whose_name_is_a_number_is_named(text: str, ours: schema.Site) -> None:
    said = compose_file.mistakes(compose_file.read(text.replace("services:\n", "services:\n  1: {image: x}\n")), ours)
    assert any(one.startswith("The file runs 1 as well") for one in said)
