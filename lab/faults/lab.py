"""A lab in which every server is behind a wire (:mod:`lab.faults.proxy`), so that any call to it can be broken."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dns.tsigkeyring
import requests

from cutover.core.http import reads_by_method
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.qdrant.routes import is_read as qdrant_reads
from lab import data
from lab.disks import Disk, NoMount, disk, failing_disk
from lab.faults.dns import DnsWire
from lab.faults.proxy import Wires, contexts
from lab.faults.shell import ShellWire
from lab.lab import QDRANT_PORT, Lab, python_process
from lab.machines import Service
from lab.processes import listening, who_listens
from lab.wait import wait_for

#: Where a server really is, as the last part of its address: those of the site are the wires'.
_OLD, NEW = 162, 161
_PROXMOX, _PORTAINER, _GIT, _PUBLIC, _VLLM, _NAMES = 172, 171, 170, 111, 181, 173

#: The disk of each of the two servers' guests, and how long a killed service is away.
DISK_BYTES = 512 << 20
RESTART_SECONDS = 0.5


def _asks(method: str, path: str) -> bool:
    return method == "GET" or path.split("?", maxsplit=1)[0] == "/v1/completions"


class WiredLab(Lab):
    """The plan's site, every server behind a wire. Proxmox is known by its authority, Portainer by its fingerprint."""

    plain_port = 8080

    def __init__(self, folder: Path, **rest: Any) -> None:
        self.wires = Wires()
        self._mounts = contextlib.ExitStack()
        super().__init__(folder, **rest)

    def old_qdrant(self) -> Service:
        """The old server, at another address than the one that everybody knows."""
        host = self.network.address(_OLD)
        env = self.qdrant_env(host, self.disk(952) / "qdrant")
        return python_process("lab.qdrant", folder=self._logs, name="qdrant-952", env=env, host=host, port=QDRANT_PORT)

    def fill(self) -> None:
        """Fewer records than elsewhere: every one of hundreds of steps looks at all of them several times."""
        data.fill(self.site.qdrant.old_url, self.keys.qdrant, digits=200, mixed=60)

    def portainer_config(self) -> dict[str, Any]:
        """The new server as well."""
        return {"behind": {self.network.address(101): self.network.address(NEW)}}

    def _build(self) -> None:
        super()._build()
        at, wire = self.network.address, self.wires.wire
        wire("the old server", (at(152), 6333), (at(_OLD), 6333), is_read=qdrant_reads, host=at(152))
        wire("the new server", (at(101), 6333), (at(NEW), 6333), is_read=qdrant_reads, host=at(101), follows=True)
        wire("Qdrant through Nginx", (at(_PUBLIC), 6333), (at(11), 6333), is_read=_public_reads)
        wire("vLLM", (at(_VLLM), 8000), (at(11), 8000), is_read=_asks)
        wire("Git", (at(_GIT), 8418), (at(20), 8418), is_read=_git_reads)
        wire("Proxmox", (at(_PROXMOX), 8006), (at(2), self.plain_port), is_read=reads_by_method,
             certificates=self._certificates("proxmox", at(_PROXMOX)))  # fmt: skip
        wire("Portainer", (at(_PORTAINER), 9443), (at(101), self.plain_port), is_read=reads_by_method,
             certificates=self._certificates("portainer", at(_PORTAINER)))  # fmt: skip
        keys = dns.tsigkeyring.from_text({self.names.key_name: ("hmac-sha256", self.names.key_secret)})
        names = (at(_NAMES), self.names.port), (at(53), self.names.port)
        self.wires.wires.append(DnsWire(self.wires, "the name server", *names, keys))
        self.shell = ShellWire(self.wires, "the Nginx host", self.folder, forget=str(self.folder))
        self.wires.wires.append(self.shell)
        for one in self.wires.wires:
            one.start()

    def _certificates(self, name: str, address: str) -> dict[str, ssl.SSLContext]:
        from lab.network import Authority

        stranger = Authority.make(self.folder / "tls" / "stranger")
        return contexts(
            self.authority.issue(f"wire-{name}", address),
            **{
                "expired_certificate": self.authority.issue(f"wire-{name}-expired", address, expired=True),
                "another's_certificate": stranger.issue(f"wire-{name}-stranger", address),
            },
        )

    def start(self) -> None:
        try:
            self._troubles()
        except BaseException:
            self._mounts.close()
            raise
        super().start()  # stops everything where it fails
        try:
            self._settle()
        except BaseException:
            self.stop()
            raise

    def _settle(self) -> None:
        at = self.network.address
        served = (self.folder / "tls" / "wire-portainer.crt").read_text()
        pinned = hashlib.sha256(ssl.PEM_cert_to_DER_cert(served)).hexdigest()
        self.change_site(
            proxmox={"url": f"https://{at(_PROXMOX)}:8006", "ca_file": str(self.authority.file)},
            portainer={
                "url": f"https://{at(_PORTAINER)}:9443",
                "ca_file": None,
                "fingerprint": pinned,
                "repository": f"http://{at(_GIT)}:8418/site.git",
            },
            qdrant={"public_url": f"http://{at(_PUBLIC)}:6333"},
            vllm={"public_url": f"http://{at(_VLLM)}:8000"},
            nginx={"shell": [str(self.shell.program)]},
            dns=[{**place.model_dump(mode="json"), "server": at(_NAMES)} for place in self.site.dns],
            # Nobody waits here for what was broken on purpose.
            limits={"deploy_seconds": 8.0, "reboot_seconds": 8.0},
        )
        self.wires.forget()

    def _troubles(self) -> None:
        """What can happen to the two servers themselves; to their disks only where a file system can be mounted."""
        for server, vmid, kill in (("the old server", 952, self._kill_old), ("the new server", 1001, self._kill_new)):
            can = self.wires.happenings
            can[server, "killed"] = can[server, "killed afterwards"] = kill
            with contextlib.suppress(NoMount):
                made = self._a_disk(self.disk(vmid))
                can[server, "disk full"] = partial(self._fills, vmid, made)
                if made.image is not None:
                    can[server, "disk read-only"] = partial(self._fails, vmid, made)

    def _a_disk(self, path: Path) -> Disk:
        """One that can fail, where this machine has such."""
        with contextlib.suppress(NoMount):
            return self._mounts.enter_context(failing_disk(path, DISK_BYTES))
        return self._mounts.enter_context(disk(path, DISK_BYTES))

    def _fills(self, vmid: int, full: Disk) -> Callable[[], None]:
        """Full until somebody makes room. A server that it killed (it writes to its files through memory) is started again."""
        machine = self.machines[vmid]
        full.fill()

        def make_room() -> None:
            full.clear()
            if machine.running:
                for service in machine.services:
                    service.start()
                self._is_back(self.network.address(_OLD if vmid == 952 else NEW))

        return make_room

    def _fails(self, vmid: int, failing: Disk) -> Callable[[], None]:
        """Read-only until somebody starts the guest again."""
        machine = self.machines[vmid]
        failing.fail()

        def start_again() -> None:
            running = machine.running  # the step may have stopped it, or removed it
            machine.stop(hard=True)
            failing.repair()
            if running:
                machine.start()
                self._is_back(self.network.address(_OLD if vmid == 952 else NEW))

        return start_again

    def _is_back(self, host: str) -> None:
        with contextlib.suppress(TimedOut):  # the step may have removed it
            wait_for(listening(host, QDRANT_PORT), deadline=5, what="its return")

    def _kill_old(self) -> Callable[[], None]:
        """As the kernel does it for memory; what looks after the service starts it again."""
        machine = self.machines[952]
        service = machine.services[0]
        service.kill()
        again = threading.Timer(RESTART_SECONDS, lambda: service.start() if machine.running else None)
        again.start()
        return again.join

    def _kill_new(self) -> Callable[[], None]:
        """The same; the restart policy of the stack brings it back."""
        host = self.network.address(NEW)
        ready = listening(host, QDRANT_PORT)

        def kill() -> bool:
            found = who_listens(host, QDRANT_PORT)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return bool(found)

        # It may be down already, by the same fault, or just come back.
        wait_for(lambda: None if kill() or ready() else "a server listens there, and was not found", deadline=5, what="Its end")

        return partial(self._is_back, host)

    def stop(self) -> None:
        try:
            self.wires.mend()
            self.wires.stop()
            super().stop()
        finally:
            self._mounts.close()


def _public_reads(method: str, path: str) -> bool:
    return path.startswith("/qdrant-gate/") or qdrant_reads(method, path)


def _git_reads(method: str, path: str) -> bool:
    return method == "GET" or path.split("?", maxsplit=1)[0].endswith("git-upload-pack")


def keep(lab: Lab, *, whole: bool = False) -> Callable[[], None]:
    """Remember what the hypervisor has of guests and storages, and the journal; calling the answer brings that back.

    For a step that has no way back of its own, or not of everything. ``whole``: the rest as well, for what is given up for good -
    guests that will be deleted with their disks, the firewall, rights, names, and Nginx. Nobody uses them meanwhile.
    """
    pve = lab.pve
    assert pve is not None
    guests = {g.vmid: (copy.deepcopy(dict(g.config)), copy.deepcopy(dict(g.snapshots))) for g in (*pve.vms, *pve.cts)}
    inside = {vm.vmid: copy.deepcopy(vm.guest_os) for vm in pve.vms}
    storages = copy.deepcopy(pve.storages)
    state = lab.folder / "kept-state"
    shutil.rmtree(state, ignore_errors=True)
    if lab.state_dir.exists():
        shutil.copytree(lab.state_dir, state)
    rest = _keep_the_rest(lab) if whole else partial(_without_snapshots, lab)

    def back() -> None:
        rest()
        for guest in (*pve.vms, *pve.cts):
            if guest.vmid in guests:
                config, snapshots = copy.deepcopy(guests[guest.vmid])
                guest.config.clear()
                guest.config.update(config)
                guest.snapshots.clear()
                guest.snapshots.update(snapshots)
                if guest.vmid in inside:
                    guest.guest_os = copy.deepcopy(inside[guest.vmid])
        for name, store in storages.items():
            pve.storages[name].clear()
            pve.storages[name].update(copy.deepcopy(store))
        shutil.rmtree(lab.state_dir, ignore_errors=True)
        if state.exists():
            shutil.copytree(state, lab.state_dir)

    return back


def _without_snapshots(lab: Lab) -> None:
    """The old server keeps none between the cells of the matrix, which has looked at them before."""
    with requests.Session() as session, contextlib.suppress(requests.ConnectionError):
        session.headers["api-key"] = lab.keys.qdrant
        base = f"{lab.site.qdrant.old_url}/collections"
        for one in session.get(base, timeout=20).json()["result"]["collections"]:
            for kept in (f"{base}/{one['name']}/snapshots", f"{base}/{one['name']}/shards/0/snapshots"):
                for snapshot in session.get(kept, timeout=20).json()["result"]:
                    session.delete(f"{kept}/{snapshot['name']}", timeout=20).raise_for_status()


#: What of the hypervisor goes with a deleted guest, beside the guest itself.
_GOES_ALONG = ("acl_rows", "backup_jobs", "replication", "ha_rules", "pools", "pool_info", "_fw_state")


def _keep_the_rest(lab: Lab) -> Callable[[], None]:
    pve = lab.pve
    assert pve is not None
    leaving = [guest.vmid for guest in lab.site.guests.to_decommission()]
    containers = list(pve.cts)
    facts = {name: copy.deepcopy(getattr(pve, name)) for name in _GOES_ALONG}
    tasks, log = dict(pve.tasks), list(pve.tasklog)
    bodies = {vmid: lab.machines[vmid] for vmid in leaving}
    running = {vmid for vmid, machine in bodies.items() if machine.running}
    kept = lab.folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    for vmid, machine in bodies.items():
        machine.save(kept / str(vmid))
    nginx = [lab.nginx.etc, lab.nginx.gate_folder]
    for folder in nginx:
        if folder.exists():
            _mirror(folder, kept / folder.name)
    names = lab.names.entries()

    def back() -> None:
        wait_until(
            lambda: Not(f"{len(left)} run") if (left := [t for t in pve.tasklog if t["status"] == "running"]) else True,
            deadline=60,
            what="The end of the hypervisor's tasks",
        )
        for name, value in facts.items():
            setattr(pve, name, copy.deepcopy(value))
        pve.tasks, pve.tasklog = dict(tasks), list(log)
        pve.cts[:] = containers
        for vmid, machine in bodies.items():
            if not (machine.running and vmid in lab.machines):
                machine.stop(hard=True)
                machine.restore(kept / str(vmid))
            pve._shelf.pop(vmid, None)
            if vmid not in lab.machines:
                lab.machines.add(machine)
        for guest in containers:
            guest.lock = None
            if guest.vmid in running:
                guest.status = "running"
                lab.machines[guest.vmid].start()
        if any(_differs(folder, kept / folder.name) for folder in nginx):
            lab.nginx.stop()
            for folder in nginx:
                _mirror(kept / folder.name, folder)
            lab.nginx.start()
        lab.names.make(names)

    return back


def _differs(one: Path, other: Path) -> bool:
    """Whether two folders hold something else, looking at links as links."""
    compared = subprocess.run(["diff", "-rq", "--no-dereference", one, other], capture_output=True, check=False, timeout=60)
    return compared.returncode != 0


def _mirror(folder: Path, into: Path) -> None:
    """Make ``into`` what ``folder`` is, with owners, modes and times; nothing where that is not there."""
    shutil.rmtree(into, ignore_errors=True)
    if folder.exists():
        into.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", folder, into], check=True, timeout=60)
