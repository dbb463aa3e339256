"""A server of the lab that is a container: the same starting, stopping and pausing as a process of the embedded ground.

Stopping keeps the container, as an LXC keeps what it is; what the machine's disk holds is a folder here, mounted into it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from testcontainers.core.container import DockerContainer

from cutover.core.wait import Not, wait_until
from lab.containers import host
from lab.nginx import NginxHost
from lab.processes import Ready, listening

DEADLINE = 60.0


class ContainerService:
    """One container; a :class:`lab.machines.Service`. ``ports`` are container port -> (address, port) of this machine.

    ``env`` may be changed while it is stopped: then it is made anew.
    """

    def __init__(
        self,
        name: str,
        image: str,
        command: Sequence[str],
        *,
        owner: str,
        vmid: int,
        network: str,
        ports: Mapping[int, tuple[str, int]],
        folders: Mapping[Path, str],
        environment: Mapping[str, str] | None = None,
        ready: Ready | None = None,
        restart: str = "no",
    ) -> None:
        self.name = name
        self._folders = dict(folders)
        first = next(iter(ports.values()))
        self._ready = ready or listening(*first)
        self.env = dict(environment or {})
        self._image, self._command = image, list(command)
        self._published: dict[str, Any] = {f"{inside}/tcp": outside for inside, outside in ports.items()}
        self._rest: dict[str, Any] = {
            "network": network, "labels": {host.LABEL: owner, host.MACHINE: str(vmid)}, "init": False, "restart_policy": {"Name": restart},
        }  # fmt: skip
        self._made_with: dict[str, str] | None = None
        self._container: DockerContainer | None = None

    @property
    def _made(self) -> bool:
        return self._made_with is not None

    def _make(self) -> None:
        """A container of what is wanted now; its disk is a folder here, so a new one has the same data."""
        if self._made:
            self.container.remove(force=True)
        self.close()
        made = DockerContainer(self._image)
        made.with_name(self.name).with_command(self._command).with_kwargs(**self._rest)
        for variable, value in self.env.items():
            made.with_env(variable, value)
        for folder, inside in self._folders.items():
            made.with_volume_mapping(str(folder), inside, "rw")
        made.ports = self._published
        self._container = made
        made.start()
        self._made_with = dict(self.env)

    @property
    def container(self) -> Any:
        """The SDK's view of the container."""
        assert self._container is not None
        return self._container.get_wrapped_container()

    def close(self) -> None:
        """Let go of the connections to Docker, which each container has of its own."""
        if self._container is not None:
            self._container.get_docker_client().client.close()

    def start(self) -> None:
        """Create or start it; returns when it answers."""
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        if self._made_with == self.env:
            self.container.start()
        else:
            self._make()
        try:
            wait_until(self._answers, deadline=DEADLINE, what=f"the container {self.name} to answer")
        except Exception as error:
            raise RuntimeError(f"{error} Its log ends with: {self.log()[-800:]}") from error

    def _answers(self) -> bool | Not:
        self.container.reload()
        if self.container.status not in {"running", "created"}:
            raise RuntimeError(f"The container {self.name} is {self.container.status}.")
        reason = self._ready()
        return Not(reason) if reason else True

    def log(self) -> str:
        return str(self.container.logs(tail=50).decode(errors="replace")) if self._made else ""

    def stop(self, grace: float = 10.0) -> None:
        if self._made:
            self.container.stop(timeout=max(1, round(grace)))

    def kill(self) -> None:
        if self._made:
            with contextlib.suppress(APIError, NotFound):
                self.container.kill()

    def pause(self) -> None:
        if self._made:
            with contextlib.suppress(APIError):
                self.container.pause()

    def resume(self) -> None:
        if self._made:
            with contextlib.suppress(APIError):
                self.container.unpause()


class ContainerNginx(NginxHost):
    """The Nginx host as a container. Its disk is a folder here, at the same path inside; the tool reaches it by ``docker exec``."""

    def __init__(self, root: Path, *, make: Callable[..., ContainerService], name: str, **facts: Any) -> None:
        super().__init__(root, **facts)
        self._make, self._name = make, name
        self._service: ContainerService | None = None

    @property
    def gate_address(self) -> str:
        """Inside the container, as on a host of its own."""
        return f"127.0.0.1:{self.gate_port}"

    def facts(self) -> dict[str, object]:
        """As an operator reaches a container: a prefix that leads into it."""
        return super().facts() | {"shell": self.shell}

    def listen(self, port: int) -> str:
        return str(port)

    @property
    def shell(self) -> list[str]:
        return ["docker", "exec", "-i", self._name]

    def _write(self, file: Path, text: str) -> None:  # type: ignore[override]
        # Inside, the address that users come in by is not this machine's; Docker brings them from there.
        NginxHost._write(file, text.replace(f"listen {self.address}:", "listen "))

    def start(self) -> None:
        self.prepare()
        if self._service is None:
            self._service = self._make(
                self._name,
                [self.binary, "-c", str(self.main_config), "-p", str(self.root), "-g", "daemon off;"],
                vmid=101,
                ports={self.port: (self.address, self.port), self.vllm_port: (self.address, self.vllm_port)},
                folders={self.root: str(self.root)},
            )
        self._service.start()

    def stop(self, grace: float = 5.0) -> None:
        if self._service is not None:
            self._service.stop(grace)

    def kill(self) -> None:
        if self._service is not None:
            self._service.kill()

    def pause(self) -> None:
        if self._service is not None:
            self._service.pause()

    def resume(self) -> None:
        if self._service is not None:
            self._service.resume()
