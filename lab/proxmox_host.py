"""A Proxmox host with the plan's site on it and nothing else: for what concerns only guests, sizes, backups and rights.

The guests have machines (folders that start, stop, are saved and restored) without services. The whole lab, where the
machines have services, is `lab.lab`.
"""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.ui import Confirmation, ConfirmedInAdvance, SilentUi, Ui
from cutover.site.load import load
from cutover.site.schema import Site
from lab.machines import Machine, Machines
from lab.processes import Process, listening
from lab.proxmox import LabPve, furnish

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site.yaml"
_numbers = itertools.count(1)


class Host:
    """The host, its machines, and runs against it. `site` is the plan's with this host's address."""

    def __init__(self, folder: Path, *, qdrant: bool = False) -> None:
        """``qdrant``: the old server's machine really runs one, at ``site.qdrant.old_url``."""
        self.folder = folder
        self.machines = Machines()
        plan = load(SITE)
        # There is no vLLM and no Nginx on a host alone; whoever asks for them asks this machine.
        self.site = plan.model_copy(
            update={
                "vllm": plan.vllm.model_copy(update={"public_url": "http://127.0.0.1:9"}),
                "nginx": plan.nginx.model_copy(update={"shell": ["false"]}),
            }
        )
        for guest in self.site.guests.all():
            kind = "lxc" if guest.kind == "lxc" else "qemu"
            machine = Machine(
                guest.vmid, "lxc" if kind == "lxc" else "qemu", guest.name, guest.address, folder / "guests" / str(guest.vmid)
            )
            machine.root.mkdir(parents=True)
            (machine.root / "data").mkdir()
            (machine.root / "data" / "records").write_text(f"records of {guest.name}\n")
            self.machines.add(machine)
        self.keys = {"QDRANT_API_KEY": secrets.token_hex(8), "QDRANT_READ_ONLY_API_KEY": secrets.token_hex(8)}
        if qdrant:
            self._run_qdrant()
        self.pve = LabPve(folder / "pve", self.machines, host="127.0.0.1", port=0)
        self.token = furnish(self.pve, self.site)
        self.root = "root@pam!lab"
        self.pve.add_token(self.root, "22222222-2222-4222-8222-222222222222", privsep=False)
        self.runs: list[Context] = []

    def _run_qdrant(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        root = self.machines[952].root
        env = {
            "QDRANT__SERVICE__HOST": "127.0.0.1", "QDRANT__SERVICE__HTTP_PORT": str(port), "LAB_QDRANT_OUTLIVE_PARENT": "1",
            "QDRANT__SERVICE__API_KEY": self.keys["QDRANT_API_KEY"],
            "QDRANT__SERVICE__READ_ONLY_API_KEY": self.keys["QDRANT_READ_ONLY_API_KEY"],
            "QDRANT__STORAGE__STORAGE_PATH": str(root / "storage"), "QDRANT__STORAGE__SNAPSHOTS_PATH": str(root / "snapshots"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
        }  # fmt: skip
        self.machines[952].services.append(
            Process([sys.executable, "-m", "lab.qdrant"], env=env, cwd=ROOT, log=self.folder / "qdrant.log",
                    ready=listening("127.0.0.1", port))
        )  # fmt: skip
        url = {"old_url": f"http://127.0.0.1:{port}"}
        self.site = self.site.model_copy(update={"qdrant": self.site.qdrant.model_copy(update=url)})

    def start(self) -> None:
        self.machines.start()
        self.pve.serve()
        proxmox = self.site.proxmox.model_copy(update={"url": self.pve.url, "ca_file": str(self.pve.certificate)})
        self.site = self.site.model_copy(update={"proxmox": proxmox})

    def stop(self) -> None:
        for run in self.runs:
            run.close()
        self.pve.close()
        self.machines.stop(hard=True)

    @property
    def state_dir(self) -> Path:
        """Where the operator's journal is."""
        return self.folder / "state"

    def run(
        self,
        *,
        execute: bool = False,
        confirm: Confirmation | None = None,
        ui: Ui | None = None,
        token: str | None = None,
        site: Site | None = None,
        state: str = "state",
    ) -> Context:
        """A run of a command as ``token``; all runs share one journal unless ``state`` names another folder."""
        for other in self.runs:
            other.close()
        name = token or self.token
        keys = {"PROXMOX_TOKEN_ID": name, "PROXMOX_TOKEN_SECRET": self.pve.apitokens[name], **self.keys}
        made = Context(
            site or self.site,
            Credentials.from_env(keys),
            self.folder / state,
            execute=execute,
            ui=ui or SilentUi(),
            confirm=confirm or ConfirmedInAdvance(),
        )
        self.runs.append(made)
        made.proxmox.poll = 0.02
        return made


@contextmanager
def host(folder: Path, *, qdrant: bool = False) -> Iterator[Host]:
    """A running host for the length of a block."""
    made = Host(folder / f"host-{os.getpid()}-{next(_numbers)}", qdrant=qdrant)
    made.start()
    try:
        yield made
    finally:
        made.stop()
