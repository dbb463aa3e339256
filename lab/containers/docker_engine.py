"""The Docker engine of VM 1001 when it is a real one: what the Portainer stand-in deploys to and shows through its proxy.

Stacks are brought up and down by the real Compose, with the file as it was cloned. Beside it goes a second file that adds the
lab's labels and nothing else. The VM shows what carries its label and nothing else of this machine's engine. Shutting the VM down stops its
containers; when it comes up, those come back whose restart policy says so, as the engine of a machine that was rebooted does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from lab.containers import host
from lab.fake_docker import EngineError, taken_apart

PROJECT = "com.docker.compose.project"
UP_SECONDS, DOWN_SECONDS = 300, 180
LABELS_FILE = "lab-labels.json"


@dataclass(frozen=True)
class ContainerState:
    """A container as it is now. ``health_status`` is empty where it has no health check."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    health_status: str


@dataclass(frozen=True)
class RealImage:
    """An image that is here, or that the registry gives out."""

    id: str
    name: str
    digest: str


@contextlib.contextmanager
def _as_engine_errors() -> Any:
    try:
        yield
    except APIError as error:
        raise EngineError(error.status_code or 500, str(error.explanation or error)) from None
    except (DockerException, OSError) as error:
        raise EngineError(500, str(error)) from None


class DockerEngine:
    """The part of this machine's Docker that is VM 1001's; the same calls as :class:`lab.fake_docker.Engine`."""

    def __init__(
        self,
        compose_folder: Path,
        *,
        owner: str,
        compose: str,
        cores: int,
        memory_mb: int,
        knobs: Mapping[str, Any],
        client: docker.DockerClient | None = None,
    ) -> None:
        self.compose_folder, self.compose = compose_folder, compose
        self.labels = {host.LABEL: owner, host.MACHINE: "1001"}
        self.cores, self.memory = cores, memory_mb * 2**20
        self.knobs = knobs
        self.client = client or host.client()
        self.api = self.client.api
        self._filter = {"label": [f"{host.LABEL}={owner}", f"{host.MACHINE}=1001"]}
        self._deploying = threading.RLock()

    # -- life of the VM ---------------------------------------------------------------------------
    def boot(self) -> None:
        """What ran, or should always run, comes back; what was stopped by hand was removed by Compose and cannot."""
        for found in self._inspected():
            policy = found["HostConfig"]["RestartPolicy"]["Name"]
            if policy in {"always", "unless-stopped"} and not found["State"]["Running"]:
                with contextlib.suppress(APIError):
                    self.api.start(found["Id"])

    def shut_down(self) -> None:
        """Stop every container, each with its own grace."""
        threads = [threading.Thread(target=self._stop, args=(found,)) for found in self._inspected() if found["State"]["Running"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _stop(self, found: Mapping[str, Any]) -> None:
        grace = found["Config"].get("StopTimeout") or 10
        with contextlib.suppress(APIError):
            self.api.stop(found["Id"], timeout=grace)

    # -- containers -------------------------------------------------------------------------------
    def _rows(self) -> list[dict[str, Any]]:
        with _as_engine_errors():
            rows: list[dict[str, Any]] = self.api.containers(all=True, filters=self._filter)
        return rows

    def _inspected(self) -> list[dict[str, Any]]:
        found = []
        for row in self._rows():
            with contextlib.suppress(NotFound):
                found.append(self.api.inspect_container(row["Id"]))
        return found

    @property
    def containers(self) -> dict[str, ContainerState]:
        return {
            found["Id"]: ContainerState(
                found["Id"], found["Name"].lstrip("/"), found["Config"]["Labels"] or {}, found["State"]["Status"],
                (found["State"].get("Health") or {}).get("Status", ""),
            )
            for found in self._inspected()
        }  # fmt: skip

    def find(self, key: str) -> ContainerState:
        for container in self.containers.values():
            if container.name == key or container.id.startswith(key):
                return container
        raise EngineError(404, f"No such container: {key}")

    def of_project(self, project: str) -> list[ContainerState]:
        return [container for container in self.containers.values() if container.labels.get(PROJECT) == project]

    def row(self, container: ContainerState) -> dict[str, Any]:
        for row in self._rows():
            if row["Id"] == container.id:
                return row
        raise EngineError(404, f"No such container: {container.id}")

    def inspect(self, container: ContainerState) -> dict[str, Any]:
        with _as_engine_errors():
            found: dict[str, Any] = self.api.inspect_container(container.id)
        return found

    def update(self, container: ContainerState, body: Mapping[str, Any]) -> None:
        with _as_engine_errors():
            self.api.update_container(container.id, mem_limit=body.get("Memory"), memswap_limit=body.get("MemorySwap"))

    def stats(self, container: ContainerState) -> dict[str, Any]:
        with _as_engine_errors():
            found: dict[str, Any] = self.api.stats(container.id, stream=False, one_shot=True)
        return found

    def log(self, container: ContainerState, tail: int) -> bytes:
        with _as_engine_errors():
            lines = self.api.logs(container.id, tail=tail).splitlines(keepends=True)
        return b"".join(b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line for line in lines)

    def run(self, name: str, image: str, *, volumes: Mapping[str, str] | None = None, **_: Any) -> None:
        """``docker run --detach``: how containers come to be that belong to no stack."""
        with _as_engine_errors():
            for volume in (volumes or {}).values():
                self.api.create_volume(volume, labels=self.labels)
            self.client.containers.run(
                image, ["sleep", "infinity"], name=name, detach=True, labels=self.labels, restart_policy={"Name": "always"},
                volumes={volume: {"bind": target, "mode": "rw"} for target, volume in (volumes or {}).items()}, init=True,
            )  # fmt: skip

    # -- compose ----------------------------------------------------------------------------------
    def _compose(self, *words: str, folder: Path | None, seconds: int) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), **host.where()}
        home = folder or self.compose_folder
        try:
            done = subprocess.run(
                [self.compose, *words], capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL,
                cwd=home if home.exists() else None, env={**environment, "HOME": "/nonexistent", "COMPOSE_PROGRESS": "plain"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise EngineError(500, f"docker-compose did not end within {seconds} s") from None
        if done.returncode != 0:
            said = done.stderr
            if folder is not None:
                said = said.replace(str(folder), f"/data/compose/{folder.name}")
            raise EngineError(500, said)

    def _files(self, config: Mapping[str, Any], project: str, folder: Path, file: str) -> list[str]:
        """The cloned file, the one that adds the lab's labels, and the variables."""
        labelled = {
            "services": {name: {"labels": self.labels, **self._broken(project)} for name, service in config["services"].items()},
            "networks": {
                name: {"labels": self.labels}
                for name, network in (config.get("networks") or {"default": {}}).items()
                if not (network or {}).get("external")
            },
            "volumes": {
                name: {"labels": self.labels}
                for name, volume in (config.get("volumes") or {}).items()
                if not (volume or {}).get("external")
            },
        }
        (folder / LABELS_FILE).write_text(json.dumps(labelled))
        words = ["-f", str(folder / file), "-f", str(folder / LABELS_FILE)]
        return [*words, "--env-file", str(folder / "stack.env")] if (folder / "stack.env").exists() else words

    def _broken(self, project: str) -> dict[str, Any]:
        """What a scenario wants to go wrong with the project's containers."""
        said: dict[str, Any] = {}
        if self.knobs.get("crash") == project:
            said["entrypoint"] = ["false"]
        if self.knobs.get("unhealthy") == project:
            said["healthcheck"] = {"test": ["CMD", "false"], "interval": "500ms", "retries": 1, "start_period": "0s"}
        return said

    def up(self, config: Mapping[str, Any], *, project: str, folder: str, file: str, force: bool) -> None:
        """``docker-compose up -d``, as Portainer runs it: it returns when containers have started, not when they are healthy."""
        here = self.compose_folder / Path(folder).name
        if self.knobs.get("registry_down") or self.knobs.get("unpullable"):
            for service in config["services"].values():
                self.pull(service["image"])
        words = [
            *self._files(config, project, here, file),
            "--project-name",
            project,
            "up",
            "-d",
            *(["--force-recreate"] if force else []),
        ]
        with self._deploying:
            self._compose(*words, folder=here, seconds=UP_SECONDS)

    def down(self, project: str) -> None:
        """``docker-compose down --remove-orphans``: containers and networks go, volumes stay."""
        with self._deploying:
            self._compose("--project-name", project, "down", "--remove-orphans", folder=None, seconds=DOWN_SECONDS)

    # -- images -----------------------------------------------------------------------------------
    def pull_all(self, config: Mapping[str, Any]) -> None:
        """``docker-compose pull``."""
        for name, service in config["services"].items():
            try:
                self.pull(service["image"])
            except EngineError as error:
                said = f" {name} Pulling \n {name} Error {error.message}\nError response from daemon: {error.message}\n"
                raise EngineError(500, said) from None

    def in_registry(self, reference: str) -> RealImage:
        name, tag, _ = taken_apart(reference)
        if self.knobs.get("registry_down"):
            registry = name.split("/")[0]
            raise EngineError(500, f'Get "http://{registry}/v2/": dial tcp: lookup {registry}: no such host')
        if f"{name}:{tag}" in self.knobs.get("unpullable", []):
            raise EngineError(404, f"manifest for {reference} not found: manifest unknown: manifest unknown")
        with _as_engine_errors():
            found = self.api.inspect_distribution(reference)  # type: ignore[no-untyped-call]
        return RealImage("", name, found["Descriptor"]["digest"])

    def pull(self, reference: str) -> RealImage:
        name, tag, digest = taken_apart(reference)
        if not digest and (found := self._here(reference)):  # what was made here is in no registry
            return found
        self.in_registry(reference)
        with _as_engine_errors():
            for line in self.api.pull(name, digest or tag, stream=True, decode=True):
                if "error" in line:
                    raise EngineError(500, str(line["error"]))
        return self.image(reference)

    def _here(self, reference: str) -> RealImage | None:
        try:
            found = self.api.inspect_image(reference)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return None
        digest = next((entry.partition("@")[2] for entry in found["RepoDigests"] or ()), "")
        return RealImage(found["Id"], taken_apart(reference)[0], digest)

    def image(self, reference: str) -> RealImage:
        with _as_engine_errors():
            found = self._here(reference)
        if found is None or self.knobs.get("registry_down"):  # what is here then is another machine's
            raise EngineError(404, f"No such image: {reference}")
        return found

    def shown_image(self, image: RealImage) -> dict[str, Any]:
        with _as_engine_errors():
            found: dict[str, Any] = self.api.inspect_image(image.id)  # type: ignore[no-untyped-call]
        return found

    @property
    def known(self) -> list[RealImage]:
        """The images of the VM's containers."""
        return [RealImage(i, "", "") for i in sorted({row["ImageID"] for row in self._rows()})]

    @property
    def here(self) -> set[str]:
        return {image.id for image in self.known}

    # -- networks and volumes ---------------------------------------------------------------------
    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        with _as_engine_errors():
            found = self.api.networks()
        mine = self.labels.items()
        return {
            n["Name"]: n for n in found if n["Name"] in {"bridge", "host", "none"} or mine <= (n.get("Labels") or {}).items()
        }  # fmt: skip

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        with _as_engine_errors():
            found = self.api.volumes(filters=self._filter)["Volumes"] or []
        return {volume["Name"]: volume for volume in found}

    def volume(self, name: str) -> dict[str, Any]:
        found = self.volumes.get(name)
        if found is None:
            raise EngineError(404, f"get {name}: no such volume")
        return found

    def remove_volume(self, name: str) -> None:
        self.volume(name)
        with _as_engine_errors():
            self.api.remove_volume(name)

    # -- what the API shows -----------------------------------------------------------------------
    def info(self) -> dict[str, Any]:
        with _as_engine_errors():
            found: dict[str, Any] = self.api.info()
        states = [row["State"] for row in self._rows()]
        running = states.count("running")
        return found | {
            "Containers": len(states), "ContainersRunning": running, "ContainersStopped": len(states) - running,
            "NCPU": self.cores, "MemTotal": self.memory, "Name": "portainer",
        }  # fmt: skip

    def version(self) -> dict[str, Any]:
        with _as_engine_errors():
            found: dict[str, Any] = self.api.version()
        return found
