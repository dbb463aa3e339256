"""The container ground: the shipped stack by real Compose on real Docker, and nothing left behind, however a run ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from cutover import runner
from cutover.core.wait import Not, wait_until
from lab.containers import host
from lab.containers.lab import Bridges, ContainerLab, NoContainers, turn
from lab.fake_docker import EngineError
from lab.lab import ROOT, new_folder
from lab.network import Network

needs_docker = pytest.mark.skipif(bool(host.why_not()), reason=host.why_not() or "Docker answers")
LABS = """
import sys, time
from pathlib import Path
from lab.containers.lab import ContainerLab
with ContainerLab(Path(sys.argv[1]), records=False) as lab:
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[docker.DockerClient]:
    if request.config.getoption("--lab") != "embedded":  # one lab at a time on one engine
        request.getfixturevalue("_container_turns").close()
    with turn(), contextlib.closing(host.client()) as client:
        host.sweep(client)
        yield client


# -- without Docker -------------------------------------------------------------------------------------------------------


def test_why_there_are_no_containers_is_said_plainly() -> None:
    code = "from lab.containers import host; print(host.why_not())"
    env = {**os.environ, "DOCKER_HOST": "unix:///nonexistent/docker.sock", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.startswith(("no Docker engine answers here", "there is no docker command here"))


def test_asking_for_containers_where_there_are_none_is_refused() -> None:
    words = ["-m", "pytest", "--lab", "containers", "--co", "-q", "tests/site/test_schema.py"]
    env = {**os.environ, "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--lab containers: " in done.stderr


def test_the_sites_addresses_and_image_become_the_labs() -> None:
    held = Network.take()
    try:
        bridges = Bridges(held.number, held._held, {"qdrant/qdrant:": "127.0.0.5:5000/qdrant/qdrant:", "sha256:aa": "sha256:bb"})
        n = held.number
        assert bridges.replace('"10.0.0.101:6333:6333"') == f'"198.18.{n}.101:6333:6333"'
        assert bridges.replace("image: qdrant/qdrant:v1@sha256:aa") == "image: 127.0.0.5:5000/qdrant/qdrant:v1@sha256:bb"
        assert bridges.replace("image: other/qdrant/qdrant:v1") == "image: other/qdrant/qdrant:v1"
        assert bridges.address(53) == f"127.{n}.0.53"
    finally:
        held.give_back()


def test_a_process_is_known_by_more_than_its_number() -> None:
    assert host.alive(host.owner())
    assert not host.alive(f"{os.getpid()}-1")
    assert not host.alive("999999999-gone")


# -- nothing stays behind -------------------------------------------------------------------------------------------------


@pytest.mark.engine
@needs_docker
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "when"), [(signal.SIGKILL, "half"), (signal.SIGTERM, "ready"), (signal.SIGINT, "ready")], ids=str
)
def test_an_interrupted_run_leaves_nothing(engine: docker.DockerClient, lab_parent: Path, how: int, when: str) -> None:
    before = host.inventory(engine)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LABS), str(new_folder(lab_parent))],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        if when == "half":
            wait_until(
                lambda: len(host.inventory(engine)["containers"]) > len(before["containers"]) or Not("no container yet"),
                deadline=180, what="the first container",
            )  # fmt: skip
        else:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        child.send_signal(how)
        child.wait(60)
    finally:
        child.kill()
    wait_until(
        lambda: host.inventory(engine) == before or Not(f"there are {host.inventory(engine)}"),
        deadline=60, what="the engine to be as before",
    )  # fmt: skip


@pytest.mark.engine
@needs_docker
def test_what_a_dead_lab_left_is_removed_and_a_living_ones_is_not(engine: docker.DockerClient) -> None:
    mine, dead = host.owner(), "999999999-gone"
    kept = engine.volumes.create("lab-test-kept", labels={host.LABEL: mine})
    try:
        engine.volumes.create("lab-test-left", labels={host.LABEL: dead})
        engine.networks.create("lab-test-left", labels={host.LABEL: dead})
        host.sweep(engine)
        assert not any(host.made_by(engine, dead).values())
        assert [volume.name for volume in host.made_by(engine, mine)["volumes"]] == ["lab-test-kept"]
    finally:
        kept.remove()


@pytest.mark.engine
@needs_docker
def test_a_volume_of_somebody_else_is_never_used(engine: docker.DockerClient, lab_parent: Path) -> None:
    theirs = engine.volumes.create("qdrant_storage")
    try:
        with pytest.raises(NoContainers, match="volume qdrant_storage"):
            ContainerLab(new_folder(lab_parent))
        assert engine.volumes.get("qdrant_storage").id == theirs.id
    finally:
        theirs.remove()


# -- the stack ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="class")
def ground(lab_parent: Path, request: pytest.FixtureRequest) -> Iterator[ContainerLab]:
    """A lab whose stack is deployed and serves."""
    if request.config.getoption("--lab") != "embedded":
        request.getfixturevalue("_container_turns").close()
    with turn(), contextlib.closing(host.client()) as client:
        host.sweep(client)
        before = host.inventory(client)
        with ContainerLab(new_folder(lab_parent)) as lab:
            for verb in ("deploy", "gate", "copy", "switch"):
                outcome = carry_out(lab, verb).outcome
                assert outcome is not None
                assert outcome.changed
            yield lab
        assert host.inventory(client) == before


def carry_out(lab: ContainerLab, verb: str) -> runner.Result:
    run = lab.run(execute=True)
    try:
        return runner.carry_out(verb, run)
    finally:
        run.close()


def inspected(lab: ContainerLab, name: str = "qdrant-qdrant-1") -> dict[str, Any]:
    found: dict[str, Any] = lab.engine.api.inspect_container(name)
    return found


def asked(lab: ContainerLab, path: str, *, key: str | None = None) -> requests.Response:
    headers = {"api-key": key} if key else {}
    return requests.get(lab.site.qdrant.new_url + path, headers=headers, timeout=10)


def healthy(lab: ContainerLab) -> bool | Not:
    status = inspected(lab)["State"]["Health"]["Status"]
    return status == "healthy" or Not(f"it is {status}")


@pytest.mark.engine
@needs_docker
@pytest.mark.slow
class TestTheShippedStack:
    def test_it_is_deployed_by_compose_and_proved(self, ground: ContainerLab) -> None:
        wait_until(lambda: healthy(ground), deadline=60, what="a healthy container")
        found = inspected(ground)
        assert found["Config"]["Image"] == ground.site.qdrant.image
        assert found["Config"]["Labels"]["com.docker.compose.project"] == "qdrant"
        assert found["State"]["Health"]["Status"] == "healthy"

    def test_the_file_is_the_one_that_ships(self, ground: ContainerLab) -> None:
        shipped = (ROOT / "stacks/qdrant/docker-compose.yml").read_text(encoding="utf-8")
        run = ground.run()
        try:
            stack = run.portainer.stack("qdrant")
            assert stack is not None
            fetched = run.portainer.stack_file(stack)
        finally:
            run.close()
        different = [pair for pair in zip(shipped.splitlines(), fetched.splitlines(), strict=True) if pair[0] != pair[1]]
        assert all(any(known in one for known in ("image:", "10.0.0.101", "nofile:")) for one, _ in different)

    def test_docker_gives_it_what_the_file_says(self, ground: ContainerLab) -> None:
        given = inspected(ground)["HostConfig"]
        assert given["ReadonlyRootfs"] is True
        assert given["CapDrop"] == ["ALL"]
        assert given["SecurityOpt"] == ["no-new-privileges:true"]
        assert given["RestartPolicy"]["Name"] == "unless-stopped"
        assert (given["Memory"], given["MemoryReservation"], given["NanoCpus"]) == (3072 << 20, 2048 << 20, 2 * 10**9)
        assert given["PidsLimit"] == 1024
        at = ground.network.address(101)
        assert given["PortBindings"] == {"6333/tcp": [{"HostIp": at, "HostPort": "6333"}]}

    def test_its_programs_cannot_be_changed(self, ground: ContainerLab) -> None:
        container = ground.engine.containers.get("qdrant-qdrant-1")
        assert container.exec_run(["touch", "/qdrant/new"]).exit_code != 0
        assert container.exec_run(["touch", "/qdrant/storage/new"]).exit_code == 0

    def test_qdrant_is_process_one(self, ground: ContainerLab) -> None:
        container = ground.engine.containers.get("qdrant-qdrant-1")
        first = str(container.exec_run(["cat", "/proc/1/cmdline"]).output)
        assert "entrypoint" not in first
        assert "bash" not in first

    def test_it_answers_only_to_its_key(self, ground: ContainerLab) -> None:
        assert asked(ground, "/collections").status_code == 401
        assert asked(ground, "/collections", key=ground.keys.qdrant).ok
        assert asked(ground, "/readyz").ok

    def test_the_traffic_moves_to_it(self, ground: ContainerLab) -> None:
        at = f"{ground.site.qdrant.public_url}/collections"
        through = requests.get(at, headers={"api-key": ground.keys.qdrant}, timeout=10).json()["result"]
        assert {one["name"] for one in through["collections"]} == {"digits", "mixed"}
        assert (ground.nginx.gate_folder / "flags/new").exists()

    @pytest.mark.parametrize("hard", [False, True], ids=["a restart", "a power cut"])
    def test_it_comes_back_with_its_data_after(self, ground: ContainerLab, hard: bool) -> None:
        vm, before = ground.machines[1001], inspected(ground)
        wait_until(lambda: healthy(ground), deadline=60, what="a healthy container")
        vm.stop(hard=hard)
        assert not inspected(ground)["State"]["Running"]
        with pytest.raises(requests.ConnectionError):
            asked(ground, "/readyz")
        vm.start()
        wait_until(lambda: healthy(ground), deadline=60, what="a healthy container")
        assert inspected(ground)["Id"] == before["Id"]
        points = asked(ground, "/collections/digits", key=ground.keys.qdrant).json()["result"]["points_count"]
        assert points == 1797

    def test_a_container_without_a_restart_policy_stays_down(self, ground: ContainerLab) -> None:
        lost = ground.engine.containers.run(
            ground.images.base, ["sleep", "600"], detach=True, name=f"lab-{ground.network.number}-lost", init=True,
            labels={host.LABEL: ground.owner, host.MACHINE: "1001"},
        )  # fmt: skip
        ground.machines[1001].stop()
        ground.machines[1001].start()
        lost.reload()
        assert lost.status == "exited"
        lost.remove()

    def test_the_report_says_what_it_was_shown_on(self, ground: ContainerLab) -> None:
        assert ground.facts["ground"].startswith("containers (Docker ")
        assert ("made here" in ground.facts["Qdrant"]) == (ground.images.kind == "built")
        assert ground.facts["Portainer"].startswith(("Portainer itself, ", "the stand-in for its API, because "))


@pytest.mark.engine
@needs_docker
def test_portainer_shows_only_what_is_the_vms(engine: docker.DockerClient, tmp_path: Path) -> None:
    from lab.containers.docker_engine import DockerEngine

    vm = DockerEngine(tmp_path, owner=host.owner(), compose="docker-compose", cores=4, memory_mb=8192, knobs={})
    theirs = engine.volumes.create("lab-test-theirs")
    try:
        assert vm.volumes == {}
        with pytest.raises(EngineError):
            vm.remove_volume("lab-test-theirs")
        assert set(vm.networks) == {"bridge", "host", "none"}
    finally:
        theirs.remove()
