"""One whole lab: the plan's site on a loopback network, with every server of the plan.

Real ones where they can be had (Nginx, the Qdrant engine, Knot DNS, Git, Compose), stand-ins where they cannot (Proxmox, Portainer's
API, vLLM). The lab writes the ``site.yaml`` of its site - the shipped one with the addresses replaced - and gives the keys as an
environment, so that the same commands work against it as against any other site.
"""

from __future__ import annotations

import json
import os
import secrets as random_secrets
import sys
import unittest
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.ui import Confirmation, ConfirmedInAdvance, SilentUi, Ui
from cutover.site.load import load
from cutover.site.schema import Guest, Site
from lab import data
from lab.dns import NameServer, reverse_zone
from lab.git import Repository
from lab.machines import Kind, Machine, Machines, Service
from lab.network import Authority, Network
from lab.nginx import NginxHost
from lab.portainer import idle_image, qdrant_image
from lab.processes import Process, Ready, listening
from lab.qdrant.launch import answering
from lab.qdrant.sparse import copy_tree

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox
    from lab.proxmox import LabPve

ROOT = Path(__file__).resolve().parents[1]
QDRANT_PORT = 6333


@dataclass(frozen=True)
class Keys:
    """The secrets of one lab; new ones each time."""

    qdrant: str
    qdrant_read_only: str
    portainer: str
    vllm: str
    #: The access token of a user of Portainer who is no administrator.
    portainer_viewer: str

    @classmethod
    def make(cls) -> Keys:
        """Random keys."""
        new = random_secrets.token_hex
        return cls(new(16), new(16), f"ptr_{new(16)}", new(16), f"ptr_{new(16)}")


def python_process(
    module: str, *words: str, folder: Path, name: str, env: Mapping[str, str], host: str = "", port: int = 0, ready: Ready | None = None
) -> Process:  # fmt: skip
    """A stand-in of this package as a process, ready when it listens at ``host:port``, or by ``ready``."""
    return Process(
        [sys.executable, "-m", module, *words],
        env={
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
            "PYTHONUNBUFFERED": "1",
            **env,
        },
        cwd=ROOT,
        log=folder / f"{name}.log",
        ready=ready or listening(host, port),
        name=name,
    )


class NotShownHere(unittest.SkipTest):
    """A scenario needs something of the lab that is not to be had on this ground; the sentence says what."""


class _LabRun(Context):
    """A run whose Proxmox client asks often: tasks of the lab take a moment, not minutes."""

    @cached_property
    def proxmox(self) -> Proxmox:
        made: Proxmox = Context.__dict__["proxmox"].func(self)
        made.poll = 0.05
        return made


class Lab:
    """The plan's site, alive. ``with Lab(folder) as lab: ...`` starts everything and leaves nothing behind."""

    ground = "embedded"
    #: Where Proxmox and Portainer are heard without TLS as well, for who stands between (:mod:`lab.faults.proxy`).
    plain_port: int | None = None

    def __init__(
        self,
        folder: Path,
        *,
        records: bool = True,
        seed: Path | None = None,
        portainer: str = "2.23.0",
        qdrant: Path | None = None,
    ) -> None:
        """``seed`` is a folder where the old server's storage is kept between labs, so that it is filled only once. ``qdrant``:
        Qdrant's own program, which both servers are then; otherwise they are the lab's.
        """
        self.folder = folder
        self.network = self.take_network()
        self.keys = Keys.make()
        self.machines = Machines()
        self.infrastructure: list[Any] = []
        self.pve: LabPve | None = None
        self.operator_token = ""
        self._records = records
        self._seed = seed
        self._qdrant_program = qdrant
        self._portainer_version = portainer
        self._logs = folder / "logs"
        self.state_dir = folder / "state"
        self._write_site()

    # -- what another ground does differently (see lab.containers) ------------------------------
    def take_network(self) -> Network:
        """Addresses that nobody else has."""
        return Network.take()

    def nginx_host(self) -> NginxHost:
        """The host that users come in by."""
        at = self.network.address
        return NginxHost(self.disk(101), address=at(11), old=f"{at(152)}:{QDRANT_PORT}", vllm=f"{at(81)}:8000")

    def fill(self) -> None:
        """Give the old server its records."""
        data.fill(self.site.qdrant.old_url, self.keys.qdrant)

    def portainer_config(self) -> dict[str, Any]:
        """What the stand-in for VM 1001 is told beyond the usual."""
        return {}

    def need_own_qdrant(self) -> None:
        """:class:`NotShownHere` where the old server is not the lab's own process, which can be told to misbehave."""

    def forget_restart(self, vm: Machine, stack: str) -> None:
        """Let nothing start a stack's containers any more, while the VM is off."""
        for file in vm.root.rglob("engine.json"):
            kept = json.loads(file.read_text())
            for container in kept["containers"]:
                if container["labels"].get("com.docker.compose.project") == stack:
                    container["restart"] = "no"
            file.write_text(json.dumps(kept))

    def need_own_nginx(self) -> None:
        """:class:`NotShownHere` where Nginx is not on the machine that the tool runs on."""

    def idle_stack(self, service: str) -> str:
        """The compose file of a stack of somebody else, whose only service does nothing."""
        return f"services:\n  {service}:\n    image: prom/node-exporter:v1.8.2\n    restart: always\n"

    # -- the site ---------------------------------------------------------------------------------
    def _write_site(self) -> None:
        from ruamel.yaml import YAML

        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority.make(self.folder / "tls")
        at = self.network.address
        yaml = YAML(typ="rt")
        tree = yaml.load(self.network.replace((ROOT / "site.yaml").read_text(encoding="utf-8")))
        tree["name"] = f"lab-{self.network.number}"
        tree["proxmox"] |= {"url": f"https://{at(2)}:8006", "ca_file": str(self.authority.file)}
        for role, last in (("nginx", 11), ("vllm", 81)):
            tree["guests"][role]["address"] = at(last)
        for guest in tree["guests"]["legacy"]:
            guest["address"] = at(guest["vmid"] - 800)
        tree["qdrant"]["public_url"] = f"http://{at(11)}:{QDRANT_PORT}"
        self.nginx = self.nginx_host()
        self.disk(101).mkdir(parents=True)
        self.nginx.prepare()
        tree["nginx"] |= self.nginx.facts()
        tree["portainer"] |= {
            "ca_file": str(self.authority.file),
            "repository": f"http://{at(20)}:8418/site.git",
            "auto_update": {"mode": "polling", "interval": "5m"},
        }
        tree["vllm"]["public_url"] = f"http://{at(11)}:8000"
        tree["dns"] = [
            {
                "kind": "rfc2136",
                "server": at(53),
                "port": 5353,
                "zones": ["home.arpa", reverse_zone(f"{at(0)}/24").rstrip(".")],
            }
        ]
        tree["limits"] |= {"bypass_watch_seconds": 1.0, "soak_hours": 0.0, "reboot_seconds": 60.0, "deploy_seconds": 60.0}
        tree["limits"]["slow_ms"] = 60_000.0  # nobody gives way because the machine of the tests is busy
        self.site_file = self.folder / "site.yaml"
        with self.site_file.open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
        self.site: Site = load(self.site_file)

    def disk(self, vmid: int) -> Path:
        """The folder that is a guest's disk."""
        return self.folder / "guests" / str(vmid)

    def change_site(self, **parts: Mapping[str, Any] | list[Any]) -> Site:
        """Change fields of the lab's site file: ``change_site(limits={"soak_hours": 1.0})``. A list is replaced."""
        from ruamel.yaml import YAML

        yaml = YAML(typ="rt")
        tree = yaml.load(self.site_file.read_text(encoding="utf-8"))
        for part, fields in parts.items():
            tree[part] = fields if isinstance(fields, list) else tree[part] | fields
        with self.site_file.open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
        self.site = load(self.site_file)
        return self.site

    # -- the servers ------------------------------------------------------------------------------
    def qdrant_env(self, host: str, folder: Path) -> dict[str, str]:
        """The real server's environment variables for a Qdrant whose data is in ``folder``."""
        return {
            "QDRANT__SERVICE__HOST": host,
            "QDRANT__SERVICE__HTTP_PORT": str(QDRANT_PORT),
            "QDRANT__SERVICE__API_KEY": self.keys.qdrant,
            "QDRANT__SERVICE__READ_ONLY_API_KEY": self.keys.qdrant_read_only,
            "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(folder / "snapshots"),
            "LAB_QDRANT_OUTLIVE_PARENT": "1",  # the lab ends its processes itself, whichever thread started them
        }

    def old_qdrant(self) -> Service:
        """The process of the old server."""
        host = self.network.address(152)
        env = self.qdrant_env(host, self.disk(952) / "qdrant")
        return self._qdrant("qdrant-952", host, env)

    def new_qdrant(self, folder: Path | None = None, **env: str) -> Process:
        """A Qdrant where the stack's container would answer, without the rest of the deployment; whoever starts it ends it."""
        host = self.network.address(101)
        env = self.qdrant_env(host, folder or self.disk(1001) / "qdrant") | env
        return self._qdrant("qdrant-new", host, env)

    def _qdrant(self, name: str, host: str, env: dict[str, str]) -> Process:
        program = self._qdrant_program
        if program is None:
            return python_process("lab.qdrant", folder=self._logs, name=name, env=env, host=host, port=QDRANT_PORT)
        folder = Path(env["QDRANT__STORAGE__STORAGE_PATH"]).parent
        folder.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in env.items() if name.startswith("QDRANT__")}
        env |= {"QDRANT__STORAGE__TEMP_PATH": str(folder / "temp"), "QDRANT__TELEMETRY_DISABLED": "true"}
        return Process(
            [program.resolve()],
            env=env,
            cwd=folder,
            log=self._logs / f"{name}.log",
            name=name,
            ready=answering(host, QDRANT_PORT),
        )

    def _build(self) -> None:
        at = self.network.address
        vllm = python_process(
            "lab.vllm", "--host", at(81), "--port", "8000",
            folder=self._logs, name="vllm", env={"VLLM_API_KEY": self.keys.vllm}, host=at(81), port=8000,
        )  # fmt: skip
        guests = self.site.guests
        bodies: list[tuple[Guest, list[Service]]] = [
            (guests.nginx, [self.nginx]),
            (guests.vllm, [vllm]),
            (guests.old, [self.old_qdrant()]),
            (guests.new, [*self._portainer()]),
            *((guest, []) for guest in guests.legacy),
        ]
        for guest, services in bodies:
            kind: Kind = "lxc" if guest.kind == "lxc" else "qemu"
            self.machines.add(Machine(guest.vmid, kind, guest.name, guest.address, self.disk(guest.vmid), services))
        self.names = NameServer(
            self.folder / "dns",
            at(53),
            network=f"{at(0)}/24",
            entries=[(g.name, "A", g.address) for g in guests.all()] + [("vectors", "CNAME", "qdrant.home.arpa.")],
            reverse=[(g.address, f"{g.name}.home.arpa.") for g in guests.all()],
        )
        self.infrastructure = [self.names, self._git()]

    def _git(self) -> Process:
        root = self.folder / "git"
        root.mkdir(exist_ok=True)
        self.repository = Repository.create(root / "site.git")
        compose = self.network.replace((ROOT / "stacks/qdrant/docker-compose.yml").read_text(encoding="utf-8"))
        self.repository.commit({"stacks/qdrant/docker-compose.yml": compose}, "The stack as it ships")
        host = self.network.address(20)
        return python_process(
            "lab.git", "--root", str(root), "--host", host, "--port", "8418",
            folder=self._logs, name="git", env={}, host=host, port=8418,
        )  # fmt: skip

    def _portainer(self) -> list[Service]:
        """Portainer and Docker of the VM; what is in the VM's folder is on its disk."""
        host, disk = self.network.address(101), self.disk(1001)
        certificate, key = self.authority.issue("portainer", host)
        config: dict[str, Any] = {
            "host": host,
            "port": 9443,
            "plain_port": self.plain_port,
            "address": host,
            "certificate": str(certificate),
            "key": str(key),
            "state": str(disk / "portainer"),
            "version": self._portainer_version,
            "patience": 0.2,
            "machine": str(self.folder / "hardware-1001.json"),
            "api_keys": [
                {"key": self.keys.portainer, "user": "cutover", "role": 1},
                {"key": self.keys.portainer_viewer, "user": "viewer", "role": 2},
            ],
            "images": [
                qdrant_image(self.site.qdrant.image, LAB_QDRANT_OUTLIVE_PARENT="1"),
                idle_image("prom/node-exporter", "v1.8.2"),
                idle_image("portainer/portainer-ce", "2.23.0"),
            ],
            "containers": {"portainer": "portainer/portainer-ce:2.23.0"},
            "stacks": {"monitoring": self.idle_stack("node")},
        }
        config |= self.portainer_config()
        file = self.folder / "vm-1001.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(config))
        return [
            python_process(
                "lab.portainer", "--config", str(file),
                folder=self._logs, name="portainer", env={}, host=host, port=9443,
            )
        ]  # fmt: skip

    def _start_proxmox(self) -> LabPve:
        from lab.firewall_fixtures import furnish_firewall
        from lab.proxmox import LabPve, furnish

        pve = LabPve(
            self.folder / "pve", self.machines, host=self.network.address(2), port=8006, node=self.site.proxmox.node,
            plain_port=self.plain_port,
        )  # fmt: skip
        pve.hardware[self.site.guests.new.vmid] = self.folder / "hardware-1001.json"
        self.operator_token = furnish(pve, self.site)
        furnish_firewall(pve, self.site)
        pve.serve()
        self.change_site(proxmox={"ca_file": str(pve.certificate)})
        return pve

    def knobs(self, **settings: Any) -> None:
        """Make Portainer or Docker of the VM misbehave (see :mod:`lab.portainer`); without settings, as usual."""
        (self.disk(1001) / "portainer" / "knobs.json").write_text(json.dumps(settings))

    # -- life -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Start everything; when this returns, every server answers."""
        try:
            self._build()
            if self._seed is not None and self._seed.exists():
                copy_tree(self._seed, self.disk(952) / "qdrant" / "storage")
            with ThreadPoolExecutor(8) as together:
                for started in [together.submit(one.start) for one in (*self.infrastructure, *self.machines)]:
                    started.result()
            if self._records and not (self._seed is not None and self._seed.exists()):
                self.fill()
                if self._seed is not None:
                    self.machines[952].stop()
                    copy_tree(self.disk(952) / "qdrant" / "storage", self._seed)
                    self.machines[952].start()
            self.pve = self._start_proxmox()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything, at once."""
        if self.pve is not None:
            self.pve.close()
            self.pve = None
        for machine in self.machines:
            machine.stop(hard=True)
        for service in self.infrastructure:
            service.kill() if isinstance(service, Process) else service.stop()
        self.nginx.end_watch()
        self.network.give_back()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- the operator's view ----------------------------------------------------------------------
    @property
    def env(self) -> dict[str, str]:
        """The keys, as the operator's environment has them."""
        return {
            "PROXMOX_TOKEN_ID": self.operator_token,
            "PROXMOX_TOKEN_SECRET": self.pve.apitokens[self.operator_token] if self.pve is not None else "",
            "PORTAINER_API_KEY": self.keys.portainer,
            "QDRANT_API_KEY": self.keys.qdrant,
            "QDRANT_READ_ONLY_API_KEY": self.keys.qdrant_read_only,
            "VLLM_API_KEY": self.keys.vllm,
            "DNS_TSIG_NAME": self.names.key_name,
            "DNS_TSIG_SECRET": self.names.key_secret,
        }

    def run(self, *, execute: bool = False, confirm: Confirmation | None = None, ui: Ui | None = None) -> Context:
        """A run of a command on this site, as the command line makes it."""
        credentials = Credentials.from_env(self.env)
        return _LabRun(
            self.site, credentials, self.state_dir, execute=execute, confirm=confirm or ConfirmedInAdvance(), ui=ui or SilentUi()
        )


def new_folder(parent: Path) -> Path:
    """A folder for one lab; short, because Unix sockets' paths are."""
    return parent / f"lab-{uuid.uuid4().hex[:8]}"
