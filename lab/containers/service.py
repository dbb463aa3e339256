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
    """One container; a :class:`lab.machines.Service`. ``ports`` are container port -> (address, port) of this machine."""

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
    ) -> None:
        self.name = name
        self._folders = dict(folders)
        first = next(iter(ports.values()))
        self._ready = ready or listening(*first)
        self._container = DockerContainer(image)
        self._container.with_name(name).with_command(list(command))
        for variable, value in (environment or {}).items():
            self._container.with_env(variable, value)
        for folder, inside in folders.items():
            self._container.with_volume_mapping(str(folder), inside, "rw")
        published: dict[str, Any] = {f"{inside}/tcp": outside for inside, outside in ports.items()}
        self._container.ports = published
        self._container.with_kwargs(network=network, labels={host.LABEL: owner, host.MACHINE: str(vmid)}, init=False)
        self._made = False

    @property
    def container(self) -> Any:
        """The SDK's view of the container."""
        return self._container.get_wrapped_container()

    def start(self) -> None:
        """Create or start it; returns when it answers."""
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        if self._made:
            self.container.start()
        else:
            self._container.start()
            self._made = True
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
        return super().facts() | {"shell": ["docker", "exec", "-i", self._name]}

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
