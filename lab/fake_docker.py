"""What Docker is on the lab's VM: containers that are processes.

An image is a name with a digest and the command that stands for its program; a container runs that command with the
compose file's environment, on the address and port that it publishes, with its named volumes as folders. Health checks
are the file's own, really run. Stopping, killing, restart policies and a reboot behave as with dockerd: what ran comes
back when its policy says so, what was removed is gone, and volumes stay until they are deleted by name.

Not modelled: isolation (capabilities, read-only roots, users and limits are recorded and shown, not enforced), networks
(containers do not talk to each other), image layers, more than one published port per container, swarm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.processes import Process

SERVER_VERSION, API_VERSION, MIN_API_VERSION, COMPOSE_VERSION = "27.3.1", "1.47", "1.24", "2.29.2"
ENGINE_ID = "CB7R:CIRE:GOIK:JD7Z:RRO7:CM7X:MOYJ:VEBN:TRKN:TSJK:6EHT:4LH2"
TICK = 0.1
#: For so long the knob ``stop_held`` keeps a container from ending.
STOP_HELD_SECONDS = 120.0
NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


class EngineError(Exception):
    """An answer of the engine: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def seconds(text: str | float | None, default: float) -> float:
    """A Compose duration in seconds."""
    if not text:
        return default
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(n) * units[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", str(text))) or default


@dataclass(frozen=True)
class Image:
    """An image that exists somewhere. ``command`` replaces the image's program; ``environment`` is what it brings.

    ``volumes`` says which environment variable tells the program where a mount point is (the real one has the path
    built in), ``listen`` which variables tell it where to listen.
    """

    name: str
    tag: str
    digest: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    listen: tuple[str, str] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Image:
        known = {**facts, "command": tuple(facts["command"])}
        if known.get("listen"):
            known["listen"] = tuple(known["listen"])
        return cls(**known)

    @property
    def id(self) -> str:
        """The image's own id, which is not the digest that a registry knows it by."""
        return "sha256:" + hashlib.sha256(self.digest.encode()).hexdigest()

    def answers_to(self, reference: str) -> bool:
        name, tag, digest = taken_apart(reference)
        return reference == self.id or (name == self.name and (digest == self.digest if digest else tag == self.tag))


def taken_apart(reference: str) -> tuple[str, str, str]:
    """name, tag, digest. As in Docker a tag counts for nothing beside a digest, and no tag is ``latest``."""
    rest, _, digest = reference.partition("@")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, ""
    return head, "" if digest else (tag or "latest"), digest


@dataclass
class Container:
    """What the engine keeps of one container; everything in here survives a reboot."""

    id: str
    name: str
    image: str
    image_id: str
    labels: dict[str, str]
    environment: dict[str, str]
    command: list[str]
    mounts: dict[str, str]
    network: str
    published: list[dict[str, str]]
    restart: str
    health: dict[str, Any]
    host: dict[str, Any]
    grace: float
    created: str = field(default_factory=now)
    state: str = "created"
    started_at: str = "0001-01-01T00:00:00Z"
    finished_at: str = "0001-01-01T00:00:00Z"
    exit_code: int = 0
    restarts: int = 0
    stopped_by_hand: bool = False
    health_status: str = ""
    failing: int = 0
    health_log: list[dict[str, Any]] = field(default_factory=list)


class Engine:
    """One Docker engine: images, containers, networks, volumes, in ``folder``.

    ``address`` is the VM's own address; publishing to another one fails as it does with Docker. ``local`` are the
    images that are there, ``registry`` those that can be pulled. ``patience`` caps a health check's interval (seconds).
    ``behind``: where something of the lab stands at a published address, the address at which the process really listens.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str,
        images: Iterable[Image] = (),
        pulled: Iterable[str] = (),
        cores: int = 4,
        memory_mb: int = 8192,
        patience: float = 0.5,
        knobs: Mapping[str, Any] | None = None,
        behind: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.address = folder, address
        self.behind = dict(behind or {})
        self.known = list(images)
        self.cores, self.memory = cores, memory_mb * 2**20
        self.patience = patience
        self.knobs: Mapping[str, Any] = knobs if knobs is not None else {}
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.here: set[str] = {image.id for image in self.known if f"{image.name}:{image.tag}" in set(pulled)}
        self._processes: dict[str, Process] = {}
        self._watchers: dict[str, threading.Event] = {}
        self._lock = threading.RLock()
        self._closed = False
        self._ended: float | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    # -- state ------------------------------------------------------------------------------------
    def _load(self) -> None:
        file = self.folder / "engine.json"
        if not file.exists():
            for name in ("bridge", "host", "none"):
                self._network(name, {}, driver="null" if name == "none" else name)
            return
        kept = json.loads(file.read_text())
        self.containers = {facts["id"]: Container(**facts) for facts in kept["containers"]}
        self.volumes, self.networks = kept["volumes"], kept["networks"]
        self.here |= set(kept["images"])

    def save(self) -> None:
        with self._lock:
            kept = {
                "containers": [asdict(container) for container in list(self.containers.values())],
                "volumes": self.volumes,
                "networks": self.networks,
                "images": sorted(self.here),
            }
            file = self.folder / "engine.json"
            try:
                file.with_suffix(".new").write_text(json.dumps(kept))
                file.with_suffix(".new").replace(file)
            except OSError as error:  # of a full disk dockerd says so in its log, and goes on
                print(f"{file} cannot be written: {error}", file=sys.stderr, flush=True)

    def boot(self) -> None:
        """What dockerd does when the machine comes up: bring back what its restart policy brings back."""
        for container in list(self.containers.values()):
            was_running = container.state in {"running", "restarting"}
            comes_back = container.restart == "always" or (
                container.restart == "unless-stopped" and not container.stopped_by_hand
            )
            if was_running or container.state == "exited":
                container.state, container.health_status = "exited", ""
            if comes_back and container.started_at > "0002":
                container.restarts = 0
                with contextlib.suppress(EngineError):
                    self.start(container)
        self.save()

    def shut_down(self) -> None:
        """What dockerd does when the machine goes down: stop every container, remembering that it ran."""
        self._closed = True
        going = [(self.containers[key], process) for key, process in list(self._processes.items())]
        threads = []
        for container, process in going:
            self._watchers.get(container.id, threading.Event()).set()
            threads.append(threading.Thread(target=process.stop, args=(container.grace,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for container, process in going:
            container.state, container.finished_at = "exited", now()
            container.exit_code = max(process.exit_code or 0, 0)
        self.save()

    @property
    def away(self) -> bool:
        """Whether it was stopped in the middle of a deployment (knob ``docker_ends``). When the knob is gone it starts again, and
        brings back the containers that their policy brings back.
        """
        with self._lock:
            over = self._ended is not None and time.monotonic() - self._ended >= 1.0  # a real one takes longer
            if over and "docker_ends" not in self.knobs:
                self._ended, self._closed = None, False
                self.boot()
            return self._ended is not None

    def _ends_here(self, moment: str) -> None:
        """``systemctl stop docker`` where the knob names this moment of a deployment: ``created`` or ``removed``."""
        if self.knobs.get("docker_ends") == moment:
            self._ended = time.monotonic()
            self.shut_down()
            raise EngineError(500, f"{NO_DAEMON}\n")

    # -- images -----------------------------------------------------------------------------------
    def image(self, reference: str) -> Image:
        """An image that is here."""
        for image in self.known:
            if image.id in self.here and image.answers_to(reference):
                return image
        raise EngineError(404, f"No such image: {reference}")

    def in_registry(self, reference: str) -> Image:
        """An image that can be pulled; the knob ``registry`` lists what the registry does not give out."""
        name, tag, digest = taken_apart(reference)
        first = name.split("/")[0]
        host = first if "/" in name and ("." in first or ":" in first) else "registry-1.docker.io"
        strange = host != "registry-1.docker.io" and not any(i.name.startswith(f"{host}/") for i in self.known)
        if strange or self.knobs.get("registry_down"):
            raise EngineError(500, f'Get "https://{host}/v2/": dial tcp: lookup {host} no such host')
        for image in self.known:
            if image.answers_to(reference) and f"{image.name}:{image.tag}" not in self.knobs.get("unpullable", []):
                return image
        raise EngineError(
            404, f"manifest for {name}{'@' + digest if digest else ':' + tag} not found: manifest unknown: manifest unknown"
        )

    def pull(self, reference: str) -> Image:
        image = self.in_registry(reference)
        with self._lock:
            self.here.add(image.id)
        self.save()
        return image

    # -- networks and volumes ---------------------------------------------------------------------
    def _network(self, name: str, labels: Mapping[str, str], driver: str = "bridge") -> None:
        self.networks.setdefault(
            name,
            {"Name": name, "Id": secrets.token_hex(32), "Created": now(), "Scope": "local", "Driver": driver,
             "EnableIPv6": False, "Internal": False, "Attachable": False, "Ingress": False, "ConfigOnly": False,
             "Options": {}, "Labels": dict(labels)},
        )  # fmt: skip

    def volume_folder(self, name: str) -> Path:
        return self.folder / "volumes" / name / "_data"

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        with self._lock:
            self.volume_folder(name).mkdir(parents=True, exist_ok=True)
            self.volumes.setdefault(
                name,
                {"CreatedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "Driver": "local",
                 "Labels": dict(labels) or None, "Mountpoint": f"/var/lib/docker/volumes/{name}/_data", "Name": name,
                 "Options": None, "Scope": "local"},
            )  # fmt: skip

    def volume(self, name: str) -> dict[str, Any]:
        if name not in self.volumes:
            raise EngineError(404, f"get {name}: no such volume")
        return self.volumes[name]

    def remove_volume(self, name: str) -> None:
        self.volume(name)
        users = [c.id for c in list(self.containers.values()) if name in c.mounts.values()]
        if users:
            raise EngineError(409, f"remove {name}: volume is in use - [{', '.join(users)}]")
        with self._lock:
            del self.volumes[name]
        shutil.rmtree(self.volume_folder(name).parent, ignore_errors=True)
        self.save()

    # -- containers -------------------------------------------------------------------------------
    def find(self, key: str) -> Container:
        for container in list(self.containers.values()):
            if container.name == key or container.id.startswith(key):
                return container
        raise EngineError(404, f"No such container: {key}")

    def of_project(self, project: str) -> list[Container]:
        return [c for c in list(self.containers.values()) if c.labels.get("com.docker.compose.project") == project]

    def running(self, container: Container) -> bool:
        process = self._processes.get(container.id)
        return process is not None and process.alive

    def _claim(self, container: Container) -> tuple[str, int] | None:
        """The address and port that the container publishes; EngineError where Docker could not bind it."""
        for port in container.published:
            host, number = port["HostIp"] or self.address, int(port["HostPort"])
            where = f"driver failed programming external connectivity on endpoint {container.name} ({container.id}): "
            if host == "0.0.0.0":
                host = self.address
            if host != self.address:
                raise EngineError(
                    500,
                    f"{where}Error starting userland proxy: listen tcp4 {host}:{number}: bind: cannot assign requested address",
                )
            for other in list(self.containers.values()):
                taken = [(p["HostIp"] or self.address, int(p["HostPort"])) for p in other.published]
                if other is not container and self.running(other) and (host, number) in taken:
                    raise EngineError(500, f"{where}Bind for {host}:{number} failed: port is already allocated")
            host = self.behind.get(host, host)
            # A process that was killed a moment ago may still be going away; anything that stays is someone else's.
            deadline = time.monotonic() + 1.0
            while True:
                with socket.socket() as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        trial.bind((host, number))
                        break
                    except OSError:
                        if time.monotonic() > deadline:
                            raise EngineError(
                                500,
                                f"{where}Error starting userland proxy: listen tcp4 {host}:{number}: bind: address already in use",
                            ) from None
                time.sleep(TICK)
            return host, number
        return None

    def start(self, container: Container) -> None:
        with self._lock:
            if self.running(container):
                return
            container.stopped_by_hand = False
            listen = self._claim(container)
            self._launch(container, listen)
        self.save()

    def _launch(self, container: Container, listen: tuple[str, int] | None) -> None:
        image = self.image(container.image_id)
        home = self.folder / "containers" / container.id
        environment = {**image.environment, **container.environment}
        for target, variable in image.volumes.items():
            name = container.mounts.get(target)
            place = self.volume_folder(name) if name else home / "layer" / target.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            environment[variable] = str(place)
        if image.listen and listen:
            environment[image.listen[0]], environment[image.listen[1]] = listen[0], str(listen[1])
        for name in ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV"):
            if name in os.environ:
                environment.setdefault(name, os.environ[name])
        if "QDRANT_INIT_FILE_PATH" in environment:
            environment["QDRANT_INIT_FILE_PATH"] = str(home / "initialized")
        command = [word.replace("{python}", sys.executable) for word in image.command]
        if self.knobs.get("crash") and container.labels.get("com.docker.compose.project") == self.knobs["crash"]:
            command = ["/bin/false"]
        home.mkdir(parents=True, exist_ok=True)
        process = Process(command, log=home / "log", env=environment, name=container.name)
        process.start()
        self._processes[container.id] = process
        container.state, container.started_at, container.exit_code = "running", now(), 0
        container.health_status = "starting" if container.health else ""
        container.failing, container.health_log = 0, []
        stop = threading.Event()
        self._watchers[container.id] = stop
        threading.Thread(target=self._watch, args=(container, process, stop, listen), daemon=True).start()

    def _watch(self, container: Container, process: Process, stop: threading.Event, listen: tuple[str, int] | None) -> None:
        """Run the health check while the container runs; restart it when its process ends by itself."""
        check = container.health
        every = min(seconds(check.get("interval"), 30.0), self.patience) if check else 0.0
        due, begun = time.monotonic() + every, time.monotonic()
        while process.alive and not stop.wait(TICK):
            if check and time.monotonic() >= due:
                self._probe(container, check, listen, time.monotonic() - begun < seconds(check.get("start_period"), 0.0))
                due = time.monotonic() + every
        if stop.is_set() or self._closed:
            return
        with self._lock:
            if stop.is_set() or self._processes.get(container.id) is not process:
                return
            process.stop(0)
            code = process.exit_code or 0
            container.exit_code, container.finished_at = (128 - code if code < 0 else code), now()
            container.state, container.health_status = "exited", "unhealthy" if check else ""
            again = container.restart in {"always", "unless-stopped"} or (container.restart == "on-failure" and code != 0)
            if again:
                container.state = "restarting"
        self.save()
        if again and not stop.wait(min(0.1 * 2**container.restarts, 2.0)):
            with self._lock:
                if not stop.is_set() and not self._closed:
                    container.restarts += 1
                    try:
                        self._launch(container, self._claim(container))
                    except (EngineError, OSError):
                        container.state = "exited"

    def _probe(self, container: Container, check: Mapping[str, Any], listen: tuple[str, int] | None, starting: bool) -> None:
        test = list(check.get("test") or [])
        kind, words = (test[0], test[1:]) if test else ("NONE", [])
        if kind == "NONE":
            return
        words = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        if listen:
            # Inside the container its port is on 127.0.0.1; as a process it has the published address.
            inside = container.host["target"]
            words = [w.replace(f"127.0.0.1/{inside}", f"{listen[0]}/{listen[1]}")
                      .replace(f"127.0.0.1:{inside}", f"{listen[0]}:{listen[1]}")
                      .replace(f"localhost:{inside}", f"{listen[0]}:{listen[1]}") for w in words]  # fmt: skip
        begun = now()
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds(check.get("timeout"), 30.0))
            code, output = done.returncode, (done.stdout + done.stderr)[-400:]
        except subprocess.TimeoutExpired:
            code, output = -1, f"Health check exceeded timeout ({check.get('timeout')})"
        except OSError as error:
            code, output = 126, str(error)
        if self.knobs.get("unhealthy") and container.labels.get("com.docker.compose.project") == self.knobs["unhealthy"]:
            code, output, starting = 1, "the health check failed", False
        container.health_log = [*container.health_log, {"Start": begun, "End": now(), "ExitCode": code, "Output": output}][-5:]
        if code == 0:
            container.failing, container.health_status = 0, "healthy"
        elif not (starting and container.health_status == "starting"):
            container.failing += 1
            if container.failing >= int(check.get("retries") or 3):
                container.health_status = "unhealthy"

    def stop(self, container: Container, *, by_hand: bool = True) -> None:
        if (watcher := self._watchers.get(container.id)) is not None:
            watcher.set()
        with self._lock:
            process = self._processes.pop(container.id, None)
        if process is not None:
            until = time.monotonic() + STOP_HELD_SECONDS
            while self.knobs.get("stop_held") and time.monotonic() < until:  # a large database takes its time
                time.sleep(TICK)
            process.stop(container.grace)
            code = process.exit_code or 0
            container.exit_code = 128 - code if code < 0 else code
        container.state = "exited" if container.state != "created" else "created"
        container.finished_at, container.health_status = now(), "unhealthy" if container.health else ""
        container.stopped_by_hand = by_hand
        self.save()

    def remove(self, container: Container) -> None:
        self.stop(container)
        with self._lock:
            self.containers.pop(container.id, None)
        shutil.rmtree(self.folder / "containers" / container.id, ignore_errors=True)
        self.save()

    def run(self, name: str, image: str, *, restart: str = "always", volumes: Mapping[str, str] | None = None,
            labels: Mapping[str, str] | None = None) -> Container:  # fmt: skip
        """``docker run --detach``: how containers come to be that belong to no stack."""
        found = self.pull(image)
        for volume in (volumes or {}).values():
            self.create_volume(volume, {})
        container = Container(
            id=secrets.token_hex(32), name=name, image=image, image_id=found.id, labels=dict(labels or {}), environment={},
            command=[], mounts=dict(volumes or {}), network="bridge", published=[], restart=restart, health={},
            host={"target": 0, "memory": 0, "cpus": 0}, grace=10.0,
        )  # fmt: skip
        self.create(container)
        self.start(container)
        return container

    # -- compose ----------------------------------------------------------------------------------
    def pull_all(self, config: Mapping[str, Any]) -> None:
        """``compose pull``."""
        for name, service in config["services"].items():
            self._pull_for(name, service["image"])

    def _pull_for(self, service: str, reference: str) -> None:
        try:
            self.pull(reference)
        except EngineError as error:
            raise EngineError(
                500, f" {service} Pulling \n {service} Error {error.message}\nError response from daemon: {error.message}\n"
            ) from None

    def up(self, config: Mapping[str, Any], *, project: str, folder: str, file: str, force: bool) -> None:
        """``compose up --detach``: returns when containers have *started*. EngineError with what Compose prints."""
        for name, service in config["services"].items():
            try:
                self.image(service["image"])
            except EngineError:
                self._pull_for(name, service["image"])
        labels = {"com.docker.compose.project": project, "com.docker.compose.version": COMPOSE_VERSION}
        self._network(f"{project}_default", {**labels, "com.docker.compose.network": "default"})
        for key, volume in (config.get("volumes") or {}).items():
            if (volume or {}).get("external"):
                if volume["name"] not in self.volumes:
                    raise EngineError(500, f'external volume "{volume["name"]}" not found\n')
                continue
            digest = hashlib.sha256(json.dumps(volume, sort_keys=True).encode()).hexdigest()
            extra = {"com.docker.compose.volume": key, "com.docker.compose.config-hash": digest}
            self.create_volume(volume["name"], {**labels, **extra})
        for name, service in config["services"].items():
            self._converge(name, service, config, project, {**labels, "com.docker.compose.oneoff": "False"}, folder, file, force)
        self.save()

    def _converge(self, name: str, service: Mapping[str, Any], config: Mapping[str, Any], project: str,
                  labels: Mapping[str, str], folder: str, file: str, force: bool) -> None:  # fmt: skip
        image = self.image(service["image"])
        digest = hashlib.sha256((json.dumps(service, sort_keys=True) + image.id).encode()).hexdigest()
        old = [c for c in self.of_project(project) if c.labels.get("com.docker.compose.service") == name]
        if old and old[0].labels.get("com.docker.compose.config-hash") == digest and not force:
            if not self.running(old[0]):
                self._start_for(old[0])
            return
        cpus = float(service.get("cpus") or 0)
        if cpus > self.cores:
            raise EngineError(
                500,
                f"Error response from daemon: range of CPUs is from 0.01 to {self.cores}.00, as there are only {self.cores} CPUs available\n",
            )
        container = self._made(name, service, config, project, image, {
            **labels, "com.docker.compose.service": name, "com.docker.compose.config-hash": digest,
            "com.docker.compose.project.working_dir": folder, "com.docker.compose.project.config_files": f"{folder}/{file}",
            "com.docker.compose.container-number": "1", **({"com.docker.compose.replace": old[0].id} if old else {}),
        })  # fmt: skip
        final = container.name
        if len(old) > 1:  # Compose 2.29.2 removes the one and gives its name to the next at the same time
            left = next(one for one in old if not self.running(one))
            self.remove(left)
            raise EngineError(
                500,
                f'Error response from daemon: Conflict. The container name "/{left.name}" is already in use by container "{left.id}". '
                "You have to remove (or rename) that container to be able to reuse that name.\n",
            )
        if old:
            container.name = f"{old[0].id[:12]}_{final}"
        self.create(container)
        self._ends_here("created")
        for one in old:
            self.remove(one)
        self._ends_here("removed")
        with self._lock:
            if container.id not in self.containers:
                raise EngineError(500, f"Error response from daemon: No such container: {container.id}\n")
            container.name = final
        self._start_for(container)

    def create(self, container: Container) -> None:
        """``POST /containers/create``: it is there, and does not run. A name is one container's at a time."""
        with self._lock:
            for other in list(self.containers.values()):
                if other.name == container.name:
                    raise EngineError(
                        500,
                        f'Error response from daemon: Conflict. The container name "/{container.name}" is already in use by container '
                        f'"{other.id}". You have to remove (or rename) that container to be able to reuse that name.\n',
                    )
            self.containers[container.id] = container
        self.save()

    def _start_for(self, container: Container) -> None:
        try:
            self.start(container)
        except EngineError as error:
            raise EngineError(
                500, f" Container {container.name}  Starting\nError response from daemon: {error.message}\n"
            ) from None

    def _made(self, name: str, service: Mapping[str, Any], config: Mapping[str, Any], project: str, image: Image,
              labels: Mapping[str, str]) -> Container:  # fmt: skip
        mounts = {}
        for mount in service.get("volumes") or []:
            if mount["type"] == "volume" and mount.get("source"):
                mounts[mount["target"]] = config["volumes"][mount["source"]]["name"]
            elif mount["type"] == "volume":
                anonymous = secrets.token_hex(32)
                self.create_volume(anonymous, {"com.docker.volume.anonymous": ""})
                mounts[mount["target"]] = anonymous
        ports = service.get("ports") or []
        environment = {k: str(v) for k, v in (service.get("environment") or {}).items() if v is not None}
        return Container(
            id=secrets.token_hex(32),
            name=service.get("container_name") or f"{project}-{name}-1",
            image=service["image"],
            image_id=image.id,
            labels=dict(labels),
            environment=environment,
            command=list(service.get("command") or []),
            mounts=mounts,
            network=f"{project}_default",
            published=[
                {"HostIp": p.get("host_ip", ""), "HostPort": str(p["published"]), "Target": str(p["target"])}
                for p in ports if p.get("published")
            ],
            restart=service.get("restart") or "no",
            health=dict(service.get("healthcheck") or {}),
            host={
                "target": ports[0]["target"] if ports else 0,
                "memory": int(service.get("mem_limit") or 0),
                "reservation": int(service.get("mem_reservation") or 0),
                "cpus": int(float(service.get("cpus") or 0) * 1e9),
                "read_only": bool(service.get("read_only")),
                "cap_drop": service.get("cap_drop"),
                "security": service.get("security_opt"),
                "pids": int(service.get("pids_limit") or 0),
                "ulimits": [
                    {"Name": name, "Soft": (pair := v if isinstance(v, dict) else {"soft": v, "hard": v})["soft"], "Hard": pair["hard"]}
                    for name, v in (service.get("ulimits") or {}).items()
                ],
                "log": service.get("logging") or {},
                "tmpfs": dict((entry.partition(":")[::2]) for entry in service.get("tmpfs") or []),
                "user": service.get("user") or "",
                "grace": service.get("stop_grace_period") is not None,
            },
            grace=seconds(service.get("stop_grace_period"), 10.0),
        )  # fmt: skip

    def down(self, project: str) -> None:
        """``compose down --remove-orphans``: containers and networks go, volumes stay. Compose leaves a network that others use."""
        for container in self.of_project(project):
            self.remove(container)
        if self.knobs.get("network_used"):
            return
        with self._lock:
            for name in [n for n, net in self.networks.items() if net["Labels"].get("com.docker.compose.project") == project]:
                del self.networks[name]
        self.save()

    # -- what the API shows -----------------------------------------------------------------------
    def row(self, container: Container) -> dict[str, Any]:
        """A line of GET /containers/json."""
        state = container.state
        status = {"running": "Up 1 second", "created": "Created"}.get(state, f"Exited ({container.exit_code}) 1 second ago")
        if container.health_status and state == "running":
            status += (
                f" (health: {container.health_status})"
                if container.health_status == "starting"
                else f" ({container.health_status})"
            )
        ports = [
            {"IP": p["HostIp"] or "0.0.0.0", "PrivatePort": int(p["Target"]), "PublicPort": int(p["HostPort"]), "Type": "tcp"}
            for p in container.published if state == "running"
        ]  # fmt: skip
        return {
            "Id": container.id, "Names": [f"/{container.name}"], "Image": container.image, "ImageID": container.image_id,
            "Command": " ".join(container.command), "Created": int(_stamp(container.created)), "Ports": ports,
            "Labels": container.labels, "State": state, "Status": status,
            "HostConfig": {"NetworkMode": container.network},
            "NetworkSettings": {"Networks": {container.network: {}}}, "Mounts": self._mounts(container),
        }  # fmt: skip

    def _mounts(self, container: Container) -> list[dict[str, Any]]:
        return [
            {"Type": "volume", "Name": name, "Source": f"/var/lib/docker/volumes/{name}/_data", "Destination": target,
             "Driver": "local", "Mode": "z", "RW": True, "Propagation": ""}
            for target, name in container.mounts.items()
        ]  # fmt: skip

    def inspect(self, container: Container) -> dict[str, Any]:
        """GET /containers/{id}/json."""
        process = self._processes.get(container.id)
        state: dict[str, Any] = {
            "Status": container.state, "Running": container.state == "running", "Paused": False,
            "Restarting": container.state == "restarting", "OOMKilled": False, "Dead": False,
            "Pid": (process.pid if process else None) or 0, "ExitCode": container.exit_code, "Error": "",
            "StartedAt": container.started_at, "FinishedAt": container.finished_at,
        }  # fmt: skip
        if container.health:
            state["Health"] = {
                "Status": container.health_status or "starting", "FailingStreak": container.failing, "Log": container.health_log,
            }  # fmt: skip
        bindings: dict[str, Any] = {}
        for port in container.published:
            bindings.setdefault(f"{port['Target']}/tcp", []).append({k: port[k] for k in ("HostIp", "HostPort")})
        host = container.host
        return {
            "Id": container.id, "Created": container.created, "Path": (container.command or [""])[0],
            "Args": container.command[1:], "State": state, "Image": container.image_id, "Name": f"/{container.name}",
            "RestartCount": container.restarts, "Driver": "overlay2", "Platform": "linux",
            "HostConfig": {
                "NetworkMode": container.network, "PortBindings": bindings, "RestartPolicy": {"Name": container.restart, "MaximumRetryCount": 0},
                "Memory": host.get("memory", 0), "MemoryReservation": host.get("reservation", 0), "NanoCpus": host.get("cpus", 0),
                "ReadonlyRootfs": host.get("read_only", False), "CapDrop": host.get("cap_drop"), "SecurityOpt": host.get("security"),
                "Privileged": False, "PidsLimit": host.get("pids") or None, "Ulimits": host.get("ulimits") or [],
                "CapAdd": None, "Tmpfs": host.get("tmpfs") or {},
                "LogConfig": {
                    "Type": (host.get("log") or {}).get("driver", "json-file"), "Config": (host.get("log") or {}).get("options") or {},
                },
            },
            "Mounts": self._mounts(container),
            "Config": {
                "Image": container.image, "Env": [f"{k}={v}" for k, v in container.environment.items()], "Cmd": container.command,
                "Labels": container.labels, "Healthcheck": self._healthcheck(container.health), "User": host.get("user", ""),
                **({"StopTimeout": int(container.grace)} if host.get("grace") else {}),
            },
            "NetworkSettings": {"Ports": bindings if container.state == "running" else {}, "Networks": {container.network: {}}},
        }  # fmt: skip

    @staticmethod
    def _healthcheck(said: Mapping[str, Any]) -> dict[str, Any] | None:
        """As Docker keeps it: times in billionths of a second."""
        if not said:
            return None
        times = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod", "start_interval": "StartInterval"}
        shown = {docker: int(seconds(said[name], 0.0) * 1e9) for name, docker in times.items() if said.get(name)}
        test = said.get("test")
        retries = {"Retries": int(said["retries"])} if said.get("retries") else {}
        return {"Test": test if isinstance(test, list) else ["CMD-SHELL", test], **shown, **retries}

    def update(self, container: Container, body: Mapping[str, Any]) -> None:
        """``POST /containers/{id}/update``: limits and restart policy of a container that goes on running."""
        with self._lock:
            for name, ours in (
                ("Memory", "memory"),
                ("MemoryReservation", "reservation"),
                ("NanoCpus", "cpus"),
                ("PidsLimit", "pids"),
            ):
                if body.get(name):
                    container.host[ours] = int(body[name])
            if policy := (body.get("RestartPolicy") or {}).get("Name"):
                container.restart = policy
        self.save()

    def shown_image(self, image: Image) -> dict[str, Any]:
        """GET /images/{reference}/json."""
        return {
            "Id": image.id, "RepoTags": [f"{image.name}:{image.tag}"], "RepoDigests": [f"{image.name}@{image.digest}"],
            "Architecture": "amd64", "Os": "linux", "Size": 0,
        }  # fmt: skip

    def stats(self, container: Container) -> dict[str, Any]:
        """GET /containers/{id}/stats?stream=false: the memory that its process has."""
        process = self._processes.get(container.id)
        used = 0
        if process and process.pid:
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
                used = int(found[1]) * 1024 if found else 0
        limit = container.host.get("memory") or self.memory
        return {"name": f"/{container.name}", "id": container.id,
                "memory_stats": {"usage": used, "limit": limit, "stats": {"inactive_file": 0}}}  # fmt: skip

    def info(self) -> dict[str, Any]:
        """GET /info."""
        states = [container.state for container in list(self.containers.values())]
        return {
            "ID": ENGINE_ID, "Containers": len(states), "ContainersRunning": states.count("running"), "ContainersPaused": 0,
            "ContainersStopped": len(states) - states.count("running"), "Images": len(self.here), "Driver": "overlay2",
            "LoggingDriver": "json-file", "CgroupVersion": "2", "OperatingSystem": "Debian GNU/Linux 13 (trixie)",
            "OSType": "linux", "Architecture": "x86_64", "NCPU": self.cores, "MemTotal": self.memory,
            "SystemTime": now(), "DockerRootDir": "/var/lib/docker", "Name": "portainer", "ServerVersion": SERVER_VERSION,
            "LiveRestoreEnabled": False, "Swarm": {"LocalNodeState": "inactive"},
        }  # fmt: skip

    def log(self, container: Container, tail: int) -> bytes:
        """GET /containers/{id}/logs in Docker's framing."""
        file = self.folder / "containers" / container.id / "log"
        lines: Sequence[bytes] = file.read_bytes().splitlines(keepends=True)[-tail:] if file.exists() else []
        return b"".join(b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line for line in lines)


def _stamp(text: str) -> float:
    return datetime.strptime(text[:26], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
