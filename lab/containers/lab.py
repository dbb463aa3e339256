"""The lab on real containers: :class:`lab.lab.Lab` with another ground under the servers that a container can be.

One at a time on one Docker engine: the stack's volumes have fixed names, as on the site. What is already there under those names
and was not made by a lab is never touched; the lab refuses to start instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, cast

import docker
from docker.errors import APIError, DockerException
from docker.types import IPAMConfig, IPAMPool

from cutover.core.wait import Not, wait_until
from lab.containers import host, images, portainer
from lab.containers.docker_engine import DockerEngine
from lab.containers.service import ContainerNginx, ContainerService
from lab.lab import QDRANT_PORT, ROOT, Lab, NotShownHere, new_folder, python_process
from lab.machines import Machine, Service
from lab.network import Network
from lab.nginx import NginxHost
from lab.processes import Process

#: Last part of a machine's address -> its subnet of 16 addresses. The bridge's side of this machine has the machine's address.
BRIDGES = {11: 0, 20: 16, 81: 80, 101: 96, 152: 144}
#: Servers that are processes on this ground too and that no container talks to stay on loopback.
LOOPBACK = {2, 5, 53}
#: Another Portainer than the pinned one, by any reference that this engine has or can pull.
OTHER_PORTAINER = "LAB_PORTAINER_IMAGE"
NAMES = {"qdrant_storage", "qdrant_snapshots"}
PROJECTS = {"qdrant", "monitoring"}


class NoContainers(RuntimeError):
    """There is no container ground here; the sentence says why."""


@dataclass
class Bridges(Network):
    """198.18.N.0/24 with a bridge for each machine, and 127.N.0.0/24 for the rest."""

    replaced: dict[str, str] = field(default_factory=dict)

    def address(self, last: int) -> str:
        return f"127.{self.number}.0.{last}" if last in LOOPBACK else f"198.18.{self.number}.{last}"

    def replace(self, text: str) -> str:
        """The site's addresses, and its image, by the lab's."""
        for old, new in self.replaced.items():
            text = re.sub(rf"(?<![\w./:-]){re.escape(old)}", new, text)
        return re.sub(r"\b10\.0\.0\.(\d+)", lambda found: self.address(int(found[1])), text)

    def bridge(self, last: int) -> str:
        return f"lab-{self.number}-{last}"

    def build(self, engine: docker.DockerClient, owner: str) -> None:
        """Make the bridges."""
        for last, first in BRIDGES.items():
            pool = IPAMPool(subnet=f"198.18.{self.number}.{first}/28", gateway=self.address(last))
            engine.networks.create(
                self.bridge(last), driver="bridge", ipam=IPAMConfig(pool_configs=[pool]), labels={host.LABEL: owner}
            )


class VirtualMachine:
    """VM 1001: the process that is Portainer, and the containers that the engine runs for it. One ends with the other."""

    def __init__(self, portainer: Process, owner: str) -> None:
        self._portainer = portainer
        self._filter = {"label": [f"{host.LABEL}={owner}", f"{host.MACHINE}=1001"]}

    @property
    def process(self) -> Process:
        return self._portainer

    def start(self) -> None:
        self._portainer.start()

    def stop(self, grace: float = 30.0) -> None:
        """Shut down: Portainer's process stops the containers before it ends."""
        self._portainer.stop(max(grace, 30.0))

    def kill(self) -> None:
        """A power cut."""
        self._portainer.kill()
        self._each("kill", "running")

    def pause(self) -> None:
        self._portainer.pause()
        self._each("pause", "running")

    def resume(self) -> None:
        self._each("unpause", "paused")
        self._portainer.resume()

    def _each(self, verb: str, state: str) -> None:
        with contextlib.suppress(DockerException), contextlib.closing(host.client()) as engine:
            for container in engine.containers.list(filters={**self._filter, "status": state}):
                with contextlib.suppress(APIError):
                    getattr(container, verb)()


class ContainerLab(Lab):
    """The plan's site on real containers. :class:`NoContainers` where that cannot be."""

    ground = "containers"

    def __init__(self, folder: Path, **options: Any) -> None:
        if reason := host.why_not():
            raise NoContainers(reason)
        self.engine = host.client()
        self.owner = host.owner()
        host.sweep(self.engine)
        if others := host.in_the_way(self.engine, NAMES, PROJECTS):
            raise NoContainers(
                f"this Docker engine has {', '.join(others)}, which the lab's stack would share: another lab is running, or they "
                "are yours; the lab touches neither"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._keeper = host.Keeper(self.owner)
        self._images: images.Images | None = None
        self._services: list[ContainerService] = []
        try:
            super().__init__(folder, **options)
        except BaseException:
            self._clear()
            raise

    @property
    def images(self) -> images.Images:
        """What its containers are made of."""
        assert self._images is not None
        return self._images

    @property
    def facts(self) -> dict[str, str]:
        """What a report says about this ground."""
        version = self.engine.version()
        said = {"ground": f"containers (Docker {version['Version']})", "Qdrant": self.images.sentence}
        said["Portainer"] = self._portainer_is[1]
        if self._most_files is not None:
            said["not as in the file"] = f"open files: this machine lets a container have {self._most_files}"
        return said

    def take_network(self) -> Network:
        held = Network.take()
        network = Bridges(held.number, held._held)
        pinned = images.pinned((ROOT / "site.yaml").read_text(encoding="utf-8"))
        self._images = images.prepare(self.engine, pinned, self.folder, network.address(5))
        names = [reference.partition("@")[0].rpartition(":")[0] + ":" for reference in (pinned, self._images.qdrant)]
        digests = [reference.partition("@")[2] for reference in (pinned, self._images.qdrant)]
        # Apart, so that a merge which changes one of the two is that merge here as well.
        network.replaced = {f"{names[0]}": names[1], digests[0]: digests[1]} if names[0] != names[1] else {}
        self._most_files = _most_files(self._images.base)
        if self._most_files is not None:  # what this machine cannot give a container is less in the lab's file
            network.replaced["nofile: 65536"] = f"nofile: {self._most_files}"
        network.build(self.engine, self.owner)
        return network

    def _service(self, name: str, command: list[str], *, vmid: int, image: str = "", **facts: Any) -> ContainerService:
        last = {101: 11, 952: 152, 1001: 101}[vmid]
        assert isinstance(self.network, Bridges)
        made = ContainerService(
            name, image or self.images.base, command, owner=self.owner, vmid=vmid, network=self.network.bridge(last), **facts
        )
        self._services.append(made)
        return made

    def nginx_host(self) -> NginxHost:
        at = self.network.address
        return ContainerNginx(
            self.disk(101),
            make=partial(self._service),
            name=f"lab-{self.network.number}-nginx",
            address=at(11),
            old=f"{at(152)}:{QDRANT_PORT}",
            vllm=f"{at(81)}:8000",
        )

    def old_qdrant(self) -> Service:
        disk = self.disk(952) / "qdrant"
        environment = {
            "QDRANT__SERVICE__API_KEY": self.keys.qdrant,
            "QDRANT__SERVICE__READ_ONLY_API_KEY": self.keys.qdrant_read_only,
            "QDRANT_INIT_FILE_PATH": "/tmp/.qdrant-initialized",
        }
        return self._service(
            f"lab-{self.network.number}-qdrant",
            ["./qdrant"],
            vmid=952,
            image=self.images.qdrant,
            ports={QDRANT_PORT: (self.network.address(152), QDRANT_PORT)},
            folders={disk / "storage": "/qdrant/storage", disk / "snapshots": "/qdrant/snapshots"},
            environment=environment,
        )

    @cached_property
    def _portainer_is(self) -> tuple[str, str]:
        return _portainer(os.environ.get(OTHER_PORTAINER) or portainer.IMAGE)

    def need_own_qdrant(self) -> None:
        raise NotShownHere("an image of Qdrant cannot be told to misbehave like this; the lab's own process can")

    def forget_restart(self, vm: Machine, stack: str) -> None:
        labels, never = [f"{host.LABEL}={self.owner}", f"com.docker.compose.project={stack}"], cast("Any", {"Name": "no"})
        for container in self.engine.containers.list(all=True, filters={"label": labels}):
            container.update(restart_policy=never)

    def need_own_nginx(self) -> None:
        raise NotShownHere("`init` looks for Nginx here or by SSH, and this ground's is in a container; the lab's own is here")

    def idle_stack(self, service: str) -> str:
        command = f"image: {self.images.base}\n    command: [sleep, infinity]"
        return f"services:\n  {service}:\n    {command}\n    init: true\n    restart: always\n"

    def portainer_config(self) -> dict[str, Any]:
        return {
            "docker": {"owner": self.owner, "environment": host.where()},
            "images": [],
            "containers": {f"lab-{self.network.number}-portainer": self.images.base},
            "stacks": {"monitoring": self.idle_stack("node")},
        }

    def _portainer(self) -> list[Service]:
        if not self._portainer_is[0]:
            return [VirtualMachine(process, self.owner) for process in super()._portainer() if isinstance(process, Process)]
        return [self._portainer_itself(self._portainer_is[0])]

    def _portainer_itself(self, image: str) -> Service:
        at, sockets, knobs = self.network.address, self.folder / "docker", self.disk(1001) / "portainer"
        for folder in (sockets, knobs):
            folder.mkdir(parents=True, exist_ok=True)
        certificate, key = self.authority.issue("portainer", at(101))
        password, file = secrets.token_hex(16), sockets / "password"
        file.touch(mode=0o600)
        file.write_text(password)
        engine = DockerEngine(knobs, owner=self.owner, compose="", cores=0, memory_mb=0, knobs={}, client=self.engine)
        config = portainer.view_config(
            self.folder / "docker.json", sockets=sockets, engine=host.socket(), labels=engine.labels,
            knobs=knobs / "knobs.json", machine=self.folder / "hardware-1001.json",
        )  # fmt: skip
        inside = {"cert": f"{portainer.CERTIFICATES}/{certificate.name}", "key": f"{portainer.CERTIFICATES}/{key.name}"}
        words = [f"--ssl{name}={path}" for name, path in inside.items()]
        service = self._service(
            f"lab-{self.network.number}-portainer",
            [*words, f"--admin-password-file={portainer.SOCKETS}/password", "--http-disabled", "--log-level=WARN", "--log-mode=NOCOLOR"],
            vmid=1001, image=image, restart="always", ports={portainer.PORT: (at(101), portainer.PORT)},
            folders={sockets: portainer.SOCKETS, certificate.parent: portainer.CERTIFICATES},
        )  # fmt: skip
        view = python_process(
            "lab.containers.docker_view", "--config", str(config), folder=self._logs, name="docker-view", env={},
            ready=lambda: None if (sockets / "docker.sock").exists() else "there is no socket yet",
        )  # fmt: skip
        return portainer.PortainerVm(
            service, view, engine, url=self.site.portainer.url, authority=self.authority.file, password=password,
            stacks={"monitoring": self.idle_stack("node")}, environment=self.site.portainer.environment, furnished=self._keys_of_portainer,
        )  # fmt: skip

    def _keys_of_portainer(self, administrator: str, viewer: str) -> None:
        self.keys = replace(self.keys, portainer=administrator, portainer_viewer=viewer)

    def knobs(self, **settings: Any) -> None:
        if self._portainer_is[0]:
            portainer.need_possible(settings, self._portainer_is[0])
        super().knobs(**settings)

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self._clear()

    def _clear(self) -> None:
        with contextlib.suppress(DockerException):
            host.remove_all(self.engine, self.owner)
        if self._images is not None:
            with contextlib.suppress(DockerException):
                images.forget(self.engine, self._images)
            if self._images.registry is not None:
                self._images.registry.kill()
        self._keeper.close()
        for service in self._services:
            service.close()
        self.engine.close()


@cache
def _portainer(wanted: str) -> tuple[str, str]:
    """Asked once: where no registry answers, finding that out takes its time."""
    with contextlib.closing(host.client()) as engine:
        return portainer.available(engine, wanted)


@cache
def _most_files(image: str) -> int | None:
    """Asked once: it takes a container."""
    with contextlib.closing(host.client()) as engine:
        return host.most_files(engine, image)


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Whoever uses the engine waits for each other, also in other processes: for as long as somebody shows features on it."""
    images.cache_folder().mkdir(parents=True, exist_ok=True)
    with (images.cache_folder() / "tests.lock").open("w") as lock:

        def free() -> bool | Not:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Not("others use it")
            return True

        wait_until(free, deadline=3600, what="the Docker engine to be free")
        yield


class Turns:
    """Labs on one engine, one after the other: the one that scenarios share gives way to one of a scenario's own."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._shared: ContainerLab | None = None
        self._turn = contextlib.ExitStack()
        self.facts: dict[str, str] = {}

    def shared(self) -> ContainerLab:
        if self._shared is None:
            self.close()
            self._shared = self._made()
        return self._shared

    def own(self) -> ContainerLab:
        """A new lab, which the caller stops."""
        self.close()
        return self._made()

    def _made(self) -> ContainerLab:
        self._turn.enter_context(turn())
        lab = ContainerLab(new_folder(self._parent), seed=self._parent / "seed")
        lab.start()
        self.facts = lab.facts
        return lab

    def close(self) -> None:
        """Let others have the engine; a lab of a scenario's own was stopped before."""
        if self._shared is not None:
            self._shared.stop()
            self._shared = None
        self._turn.close()
