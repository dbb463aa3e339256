"""The lab's machines: what a guest of the hypervisor is made of here - a folder and the services that live in it.

The stand-in for Proxmox turns a machine on and off through this registry, so stopping a guest really stops its
processes, a snapshot really holds its files, and a deleted guest's data is really gone. What is not modelled: a kernel,
memory and CPU time; a disk that can be full or fail only where one is mounted (:mod:`lab.disks`).
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

Kind = Literal["lxc", "qemu"]


@runtime_checkable
class Service(Protocol):
    """Something that runs while its machine does. `lab.processes.Process` is one."""

    def start(self) -> None: ...

    def stop(self, grace: float = ...) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Machine:
    """One guest: its id, kind, name and address, the folder that is its disk, and its services in starting order.

    `running` is the machine's own switch: a machine without services can be on. `on_start` is called with the machine
    before its services are started (to make services from what its disk holds, as Docker does after a boot).
    `boots` counts starts, so that a test can see that a reboot happened.
    """

    vmid: int
    kind: Kind
    name: str
    address: str
    root: Path
    services: list[Service] = field(default_factory=list)
    running: bool = False
    boots: int = 0
    on_start: Callable[[Machine], None] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def start(self) -> None:
        """Turn the machine on; returns when all services are ready. Does nothing when it is on."""
        with self._lock:
            if self.running:
                return
            self.root.mkdir(parents=True, exist_ok=True)
            if self.on_start is not None:
                self.on_start(self)
            try:
                for service in self.services:
                    service.start()
            except BaseException:
                self._down(hard=True, grace=0)
                raise
            self.running = True
            self.boots += 1

    def stop(self, *, hard: bool = False, grace: float = 10.0) -> None:
        """Turn the machine off: services are asked to end in reverse order, or all cut off at once with `hard`."""
        with self._lock:
            self._down(hard=hard, grace=grace)
            self.running = False

    def _down(self, *, hard: bool, grace: float) -> None:
        for service in reversed(self.services):
            if hard:
                service.kill()
            else:
                service.stop(grace)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing in the machine moves for the length of the block: its files are those of one moment."""
        with self._lock:
            paused = [service for service in self.services if hasattr(service, "pause")]
            try:
                for service in paused:
                    service.pause()
                yield
            finally:
                for service in paused:
                    service.resume()  # type: ignore[attr-defined]

    def save(self, folder: Path) -> None:
        """Copy the machine's disk to `folder` (replaced), as it is at one moment."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        with self.frozen():
            subprocess.run(["cp", "-a", "--reflink=auto", f"{self.root}/.", str(folder)], check=True, timeout=120)

    def restore(self, folder: Path) -> None:
        """Make the machine's disk what `folder` holds; the machine has to be off."""
        if self.running:
            raise RuntimeError(f"Machine {self.vmid} is running: its disk cannot be replaced. Stop it first.")
        self.erase()
        self.root.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--reflink=auto", f"{folder}/.", str(self.root)], check=True, timeout=120)

    def erase(self) -> None:
        """Empty the machine's disk. The folder itself stays, so that services with it as working directory can start."""
        if self.root.exists():
            for entry in self.root.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


class Machines:
    """All machines of one lab, by id. Iterates in order of id."""

    def __init__(self) -> None:
        self._machines: dict[int, Machine] = {}

    def __iter__(self) -> Iterator[Machine]:
        return iter([self._machines[vmid] for vmid in sorted(self._machines)])

    def __contains__(self, vmid: int) -> bool:
        return vmid in self._machines

    def __getitem__(self, vmid: int) -> Machine:
        return self._machines[vmid]

    def get(self, vmid: int) -> Machine | None:
        return self._machines.get(vmid)

    def add(self, machine: Machine) -> Machine:
        if machine.vmid in self._machines:
            raise ValueError(f"There is already a machine {machine.vmid}.")
        self._machines[machine.vmid] = machine
        return machine

    def remove(self, vmid: int) -> Machine:
        """Forget a machine: it is cut off and its disk emptied. Returns what was removed."""
        machine = self._machines.pop(vmid)
        machine.stop(hard=True)
        machine.erase()
        return machine

    def start(self) -> None:
        """Turn every machine on, in order of id."""
        for machine in self:
            machine.start()

    def stop(self, *, hard: bool = False, grace: float = 5.0) -> None:
        """Turn every machine off."""
        for machine in reversed(list(self)):
            machine.stop(hard=hard, grace=grace)
