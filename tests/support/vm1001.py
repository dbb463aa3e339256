"""For tests of one part: VM 1001 (Portainer and Docker) and the Git server, without the rest of the lab.

The Qdrant in it is :mod:`tests.support.tiny_qdrant`, which only knows how to be healthy and to ask for its key.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.ui import ConfirmedInAdvance
from cutover.site import load as sites
from lab.git import Repository
from lab.network import Network
from lab.portainer import idle_image, qdrant_image
from lab.processes import Process, listening

ROOT = Path(__file__).resolve().parents[2]
KEY = "ptr_" + "k" * 40
VIEWER = "ptr_" + "v" * 40
QDRANT_KEY, QDRANT_READ_KEY = "the-write-key-of-the-lab", "the-read-key-of-the-lab"
NEWER = "qdrant/qdrant:v1.18.4@sha256:" + "4" * 64


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate for an address, as Portainer makes itself one; certificate file and key file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "portainer")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(start).not_valid_after(start + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "tls.crt", folder / "tls.key"


class Vm1001:
    """The VM, its Git server, and a site.yaml that fits them."""

    def __init__(self, folder: Path, *, version: str = "2.23.0", **config: Any) -> None:
        self.folder = folder
        self.runs: list[Context] = []
        self._network = Network.take()
        self.net = self._network.number
        self.address, self.git_address = f"127.{self.net}.0.101", f"127.{self.net}.0.20"
        crt, key = certificate(folder, self.address)
        self.site = sites.parse(self._site(crt))
        self.repository = Repository.create(folder / "git" / "site.git")
        self.config = {
            "host": self.address, "port": 9443, "address": self.address, "certificate": str(crt), "key": str(key),
            "state": str(folder / "vm"), "version": version, "patience": 0.1,
            "machine": {"cores": 6, "memory_mb": 10240},
            "api_keys": [{"key": KEY, "user": "cutover", "role": 1}, {"key": VIEWER, "user": "viewer", "role": 2}],
            "images": [
                self._tiny(self.site.qdrant.image), self._tiny(NEWER),
                idle_image("prom/node-exporter", "v1.8.2"), idle_image("portainer/portainer-ce", "2.23.0"),
            ],
            "containers": {"portainer": "portainer/portainer-ce:2.23.0"},
            "stacks": {"monitoring": "services:\n  node:\n    image: prom/node-exporter:v1.8.2\n    restart: always\n"},
            **config,
        }  # fmt: skip
        (folder / "vm.json").write_text(json.dumps(self.config))
        env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        self.vm = Process(
            [sys.executable, "-m", "lab.portainer", "--config", folder / "vm.json"],
            log=folder / "vm.log", env=env, cwd=ROOT, ready=listening(self.address, 9443), name="VM 1001",
        )  # fmt: skip
        self.git = Process(
            [sys.executable, "-m", "lab.git", "--root", folder / "git", "--host", self.git_address,
             "--port", "8418"],
            log=folder / "git.log", env={**env, "GIT_TOKEN": "git-token-of-the-lab"}, cwd=ROOT,
            ready=listening(self.git_address, 8418), name="Git",
        )  # fmt: skip

    @staticmethod
    def _tiny(reference: str) -> dict[str, Any]:
        return {**qdrant_image(reference), "command": ["{python}", "-S", str(ROOT / "tests/support/tiny_qdrant.py")]}

    def _site(self, crt: Path) -> str:
        text = (ROOT / "site.yaml").read_text().replace("10.0.0.", f"127.{self.net}.0.")
        text = text.replace("https://git.home.arpa/infra/qdrant-cutover.git", f"http://{self.git_address}:8418/site.git")
        head, portainer, rest = text.partition("portainer:\n  url")
        text = head + portainer + rest.replace("ca_file: null", f"ca_file: {crt}", 1)
        # No Nginx here, and nothing that leaves this machine: its names may exist where the tests run.
        text = text.replace("shell: [ssh, root@nginx.home.arpa]", "shell: []")
        for name, last in (
            ("nginx", 11),
            ("vllm", 81),
            ("pve", 2),
            ("ns", 53),
            ("legacy-950", 150),
            ("legacy-951", 151),
            ("legacy-953", 153),
        ):
            text = text.replace(f"{name}.home.arpa", f"127.{self.net}.0.{last}")
        text = text.replace("gate_folder: /var/lib/qdrant-gate", f"gate_folder: {self.folder}/gate")
        return text.replace("deploy_seconds: 600", "deploy_seconds: 20")

    # -- what people do ---------------------------------------------------------------------------
    def compose(self, *changes: tuple[str, str]) -> str:
        """The file that ships, with this lab's addresses, and changed."""
        text = (ROOT / "stacks/qdrant/docker-compose.yml").read_text().replace("10.0.0.", f"127.{self.net}.0.")
        for was, becomes in changes:
            assert was in text, was
            text = text.replace(was, becomes)
        return text

    def merge(self, *changes: tuple[str, str], message: str = "Change the stack") -> str:
        """Merge a change of the compose file; answers the commit."""
        return self.repository.commit({"stacks/qdrant/docker-compose.yml": self.compose(*changes)}, message)

    def knobs(self, **knobs: Any) -> None:
        """Set the stand-in's knobs (all others are off)."""
        file = self.folder / "vm" / "knobs.json"
        file.with_suffix(".new").write_text(json.dumps(knobs))
        file.with_suffix(".new").replace(file)

    def reboot(self, *, power_cut: bool = False) -> None:
        if power_cut:
            self.vm.kill()
        else:
            self.vm.stop(grace=20)
        self.vm.start()

    def ask(self, method: str, path: str, body: Any = None, key: str | None = KEY) -> requests.Response:
        """A bare request, as recorded ones were made."""
        return requests.request(
            method, f"https://{self.address}:9443{path}", json=body, timeout=30, verify=str(self.folder / "tls.crt"),
            headers={"X-API-Key": key} if key else {},
        )  # fmt: skip

    def run(
        self, *, execute: bool = True, credentials: Mapping[str, str] | None = None, confirm: ConfirmedInAdvance | None = None
    ) -> Context:
        """A run of the tool against this VM."""
        given = {
            "PORTAINER_API_KEY": KEY, "QDRANT_API_KEY": QDRANT_KEY, "QDRANT_READ_ONLY_API_KEY": QDRANT_READ_KEY,
            **(credentials or {}),
        }  # fmt: skip
        confirm = confirm or ConfirmedInAdvance(yes=True)
        self.runs.append(Context(self.site, Credentials.from_env(given), self.folder / "state", execute=execute, confirm=confirm))
        return self.runs[-1]

    def close_runs(self) -> None:
        """Give back the journals of runs that a failed test left behind."""
        while self.runs:
            self.runs.pop().close()

    @contextlib.contextmanager
    def up(self) -> Iterator[Vm1001]:
        try:
            self.git.start()
            self.vm.start()
            yield self
        finally:
            self.vm.stop(grace=10)
            self.git.stop(grace=2)
            self._network.give_back()
