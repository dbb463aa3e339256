"""A Proxmox host with the plan's site on it and nothing else: for what concerns only guests, sizes, backups and rights.

The guests have machines (folders that start, stop, are saved and restored) without services. The whole lab, where the
machines have services, is `steps.lab.lab`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutover.run import Run
from cutover.secrets import Secrets
from cutover.site import Site, load
from cutover.voice import Given, Silent
from steps.lab.machines import Machine, Machines
from steps.lab.proxmox import LabPve, furnish

SITE = Path(__file__).resolve().parents[2] / "site.yaml"
_numbers = itertools.count(1)


class Host:
    """The host, its machines, and runs against it. `site` is the plan's with this host's address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines = Machines()
        self.site = load(SITE)
        for guest in self.site.guests.all():
            kind = "lxc" if guest.kind == "lxc" else "qemu"
            machine = Machine(
                guest.vmid, "lxc" if kind == "lxc" else "qemu", guest.name, guest.address, folder / "guests" / str(guest.vmid)
            )
            machine.root.mkdir(parents=True)
            (machine.root / "data").mkdir()
            (machine.root / "data" / "records").write_text(f"records of {guest.name}\n")
            self.machines.add(machine)
        self.pve = LabPve(folder / "pve", self.machines, host="127.0.0.1", port=0)
        self.token = furnish(self.pve, self.site)
        self.root = "root@pam!lab"
        self.pve.add_token(self.root, "22222222-2222-4222-8222-222222222222", privsep=False)
        self.runs: list[Run] = []

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

    def run(
        self, *, execute: bool = False, token: str | None = None, consent: Given | None = None, site: Site | None = None,
        state: str | None = None,
    ) -> Run:  # fmt: skip
        """A run of a command as `token`; all runs share one journal unless `state` names another folder."""
        for other in self.runs:
            other.close()
        name = token or self.token
        secrets = Secrets.from_env({"PROXMOX_TOKEN_ID": name, "PROXMOX_TOKEN_SECRET": self.pve.apitokens[name]})
        made = Run(
            site or self.site, secrets, self.folder / (state or "state"), execute=execute, voice=Silent(),
            consent=consent or Given(yes=True),
        )  # fmt: skip
        self.runs.append(made)
        made.proxmox.poll = 0.02
        return made


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    """A running host for the length of a block."""
    made = Host(folder / f"host-{os.getpid()}-{next(_numbers)}")
    made.start()
    try:
        yield made
    finally:
        made.stop()
