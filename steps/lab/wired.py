"""A lab in which every server is behind a wire (:mod:`steps.lab.wires`), so that any call to it can be broken."""

from __future__ import annotations

import copy
import hashlib
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cutover.http import reads_by_method
from cutover.routes import is_read as qdrant_reads
from steps.lab import data
from steps.lab.lab import QDRANT_PORT, Lab, python_process
from steps.lab.machines import Service
from steps.lab.wires import Wires, contexts

#: Where a server really is, as the last part of its address: those of the site are the wires'.
_OLD, _NEW = 162, 161
_PROXMOX, _PORTAINER, _GIT, _PUBLIC, _VLLM = 172, 171, 170, 111, 181


def _asks(method: str, path: str) -> bool:
    return method == "GET" or path.split("?", maxsplit=1)[0] == "/v1/completions"


class WiredLab(Lab):
    """The plan's site, every server behind a wire. Proxmox is known by its authority, Portainer by its fingerprint."""

    def __init__(self, folder: Path, **rest: Any) -> None:
        self.wires = Wires()
        super().__init__(folder, **rest)

    def old_qdrant(self) -> Service:
        """The old server, at another address than the one that everybody knows."""
        host = self.network.address(_OLD)
        env = self.qdrant_env(host, self.disk(952) / "qdrant")
        return python_process("steps.lab.qdrant", folder=self._logs, name="qdrant-952", env=env, host=host, port=QDRANT_PORT)

    def fill(self) -> None:
        """Fewer records than elsewhere: every one of hundreds of steps looks at all of them several times."""
        data.fill(self.site.qdrant.old_url, self.keys.qdrant, digits=200, mixed=60)

    def portainer_config(self) -> dict[str, Any]:
        """The new server as well."""
        return {"behind": {self.network.address(101): self.network.address(_NEW)}}

    def _build(self) -> None:
        super()._build()
        at, wire = self.network.address, self.wires.wire
        wire("the old server", (at(152), 6333), (at(_OLD), 6333), is_read=qdrant_reads, host=at(152))
        wire("the new server", (at(101), 6333), (at(_NEW), 6333), is_read=qdrant_reads, host=at(101), follows=True)
        wire("Qdrant through Nginx", (at(_PUBLIC), 6333), (at(11), 6333), is_read=_public_reads)
        wire("vLLM", (at(_VLLM), 8000), (at(11), 8000), is_read=_asks)
        wire("Git", (at(_GIT), 8418), (at(20), 8418), is_read=_git_reads)
        wire("Proxmox", (at(_PROXMOX), 8006), (at(2), 8006), is_read=reads_by_method, upstream_tls=True,
             certificates=self._certificates("proxmox", at(_PROXMOX)))  # fmt: skip
        wire("Portainer", (at(_PORTAINER), 9443), (at(101), 9443), is_read=reads_by_method, upstream_tls=True,
             certificates=self._certificates("portainer", at(_PORTAINER)))  # fmt: skip
        for one in self.wires.wires:
            one.start()

    def _certificates(self, name: str, address: str) -> dict[str, ssl.SSLContext]:
        from steps.lab.network import Authority

        stranger = Authority.make(self.folder / "tls" / "stranger")
        return contexts(
            self.authority.issue(f"wire-{name}", address),
            **{
                "expired_certificate": self.authority.issue(f"wire-{name}-expired", address, expired=True),
                "another's_certificate": stranger.issue(f"wire-{name}-stranger", address),
            },
        )

    def start(self) -> None:
        super().start()
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
            # Nobody waits here for what was broken on purpose.
            limits={"deploy_seconds": 8.0, "reboot_seconds": 8.0},
        )
        self.wires.forget()

    def stop(self) -> None:
        self.wires.stop()
        super().stop()


def _public_reads(method: str, path: str) -> bool:
    return path.startswith("/qdrant-gate/") or qdrant_reads(method, path)


def _git_reads(method: str, path: str) -> bool:
    return method == "GET" or path.split("?", maxsplit=1)[0].endswith("git-upload-pack")


def keep(lab: Lab) -> Callable[[], None]:
    """Remember what the hypervisor has of guests and storages, and the journal; calling the answer brings that back.

    For a step that has no way back of its own, or not of everything. Nobody uses the hypervisor meanwhile.
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

    def back() -> None:
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
