"""The Nginx host of the lab (LXC 101): a real nginx with its own folder, on unprivileged ports.

Before anything is installed it is what an operator of such a site has: one server file that proxies Qdrant to the old
server and one that proxies vLLM. Its folders mirror Debian's (``etc/nginx/conf.d``, ``snippets``, ``var/lib``), so the
files that ship are used as they are, with folder and addresses replaced. Started by root it runs its workers as
``www-data`` where that user can reach the folder; ``blind`` then takes the flags from the workers' sight. Not modelled:
systemd, log rotation, TLS.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.processes import Process, listening

MAIN = """\
{user}worker_processes {workers};
pid {root}/run/nginx.pid;
error_log {root}/var/log/nginx/error.log warn;

events {{
    worker_connections 1024;
}}

http {{
    access_log {root}/var/log/nginx/access.log;
    client_body_temp_path {root}/var/cache/nginx/body;
    proxy_temp_path {root}/var/cache/nginx/proxy;
    fastcgi_temp_path {root}/var/cache/nginx/fastcgi;
    uwsgi_temp_path {root}/var/cache/nginx/uwsgi;
    scgi_temp_path {root}/var/cache/nginx/scgi;
    default_type application/octet-stream;
    gzip on;

    include conf.d/*.conf;
}}
"""

QDRANT = """\
# Qdrant for the applications.
server {{
    listen {address}:{port};
    keepalive_requests 100000;

    location / {{
        proxy_pass http://{old};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        client_max_body_size 64m;   # imports
    }}
}}
"""

VLLM = """\
# vLLM for the applications; answers are streamed.
server {{
    listen {address}:{port};

    location / {{
        proxy_pass http://{vllm};
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_buffering off;
        proxy_read_timeout 1h;
    }}
}}
"""


def nginx_binary() -> str | None:
    """Where nginx is on this machine; None when it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _reaches(user: str, folder: Path) -> bool:
    """Whether a user can stat what is in a folder; only root can ask for others."""
    account = pwd.getpwnam(user)
    asked = subprocess.run(
        ["test", "-d", f"{folder}/."],
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
        check=False,
        timeout=10,
    )
    return asked.returncode == 0


def worker_user_for(folder: Path) -> str:
    """The user that workers get here: ``www-data`` under root where it can reach the folder, else whoever we are."""
    me = pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() != 0:
        return me
    for user in ("www-data", "nginx", "nobody"):
        with contextlib.suppress(KeyError):
            if _reaches(user, folder):
                return user
    return me


class NginxHost:
    """The Nginx host. ``old`` and ``vllm`` are ``host:port``; ``root`` is its disk. A :class:`Service` of its machine."""

    def __init__(
        self,
        root: Path,
        *,
        address: str,
        old: str,
        vllm: str | None = None,
        port: int = 6333,
        vllm_port: int = 8000,
        gate_port: int = 6339,
        workers: int = 2,
        binary: str | None = None,
    ) -> None:
        self.root = root
        self.address = address
        self.port = port
        self.vllm_port = vllm_port
        self.gate_port = gate_port
        found = binary or nginx_binary()
        if found is None:
            raise RuntimeError("nginx is not installed on this machine: apt-get install nginx")
        self.binary = found
        self._old, self._vllm, self._workers = old, vllm, workers
        self.etc = root / "etc" / "nginx"
        self.main_config = self.etc / "nginx.conf"
        self.http_folder = self.etc / "conf.d"
        self.server_file = self.http_folder / "qdrant.conf"
        self.gate_folder = root / "var" / "lib" / "qdrant-gate"
        self.worker_user = ""
        self._process: Process | None = None
        self.keeps = False  # the configuration was written by somebody else
        self.listens = True  # somebody listens where the lab's server does

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def gate_address(self) -> str:
        """Where the gate listens once it is in: beside the operator's servers, on an address that only this machine has."""
        return f"{self.address}:{self.gate_port}"

    def listen(self, port: int) -> str:
        """What a `listen` directive says so that users reach a port of this host."""
        return f"{self.address}:{port}"

    @property
    def shell(self) -> list[str]:
        """The prefix that leads a command to this host."""
        return []

    @property
    def reload(self) -> list[str]:
        """The command that makes this nginx read its configuration again."""
        return [self.binary, "-c", str(self.main_config), "-s", "reload"]

    def facts(self) -> dict[str, object]:
        """The part ``nginx`` of a site.yaml for this host."""
        return {
            "shell": self.shell,
            "binary": self.binary,
            "main_config": str(self.main_config),
            "http_folder": str(self.http_folder),
            "server_file": str(self.server_file),
            "gate_folder": str(self.gate_folder),
            "gate_address": self.gate_address,
            "worker_user": self.worker_user,
            "reload": self.reload,
        }

    def prepare(self) -> None:
        """Write the host's configuration as it is before anything is installed; keeps what is there already."""
        for folder in ("etc/nginx/conf.d", "etc/nginx/snippets", "run", "var/log/nginx", "var/cache/nginx", "var/lib"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self.worker_user = self.worker_user or worker_user_for(self.root)
        if self.keeps:
            return
        user = f"user {self.worker_user};\n" if os.getuid() == 0 else ""
        self._write(self.main_config, MAIN.format(user=user, workers=self._workers, root=self.root))
        self._write(self.server_file, QDRANT.format(address=self.address, port=self.port, old=self._old))
        if self._vllm is not None:
            self._write(self.http_folder / "vllm.conf", VLLM.format(address=self.address, port=self.vllm_port, vllm=self._vllm))

    @staticmethod
    def _write(file: Path, text: str) -> None:
        if not file.exists():
            file.write_text(text)

    def start(self) -> None:
        """Start the master; returns when users can connect."""
        self.prepare()
        if self._process is None:
            self._process = Process(
                [self.binary, "-c", self.main_config, "-p", self.root, "-g", "daemon off;"],
                log=self.root / "var/log/nginx/console.log",
                cwd=Path("/"),
                ready=listening(self.address, self.port) if self.listens else self._has_begun,
                name="nginx",
            )
        self._process.start()

    def _has_begun(self) -> str | None:
        pid = self.root / "run/nginx.pid"
        return None if pid.exists() and pid.read_text().strip() else f"{pid} is not written"

    def stop(self, grace: float = 5.0) -> None:
        if self._process is not None:
            self._process.stop(grace)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def end_watch(self) -> None:
        """End the loop that watches recorded writes (:mod:`cutover.gate.watch`): it outlives nginx, but not its host."""
        with contextlib.suppress(OSError):  # its disk may be full, read-only or gone
            (self.gate_folder / "log" / "watch").unlink()

    def pause(self) -> None:
        if self._process is not None:
            self._process.pause()

    def resume(self) -> None:
        if self._process is not None:
            self._process.resume()

    @property
    def process(self) -> Process:
        """The running master."""
        assert self._process is not None, "nginx was not started"
        return self._process

    def errors(self) -> str:
        """The error log so far."""
        log = self.root / "var/log/nginx/error.log"
        return log.read_text() if log.exists() else ""

    @property
    def can_be_blinded(self) -> bool:
        """Whether the workers are somebody else than we, so that a folder can be closed to them alone."""
        return os.getuid() == 0 and self.worker_user != "root"

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Take the gate's folder from the workers' sight, as a folder above it that was made with umask 077 does."""
        if not self.can_be_blinded:
            raise RuntimeError("The workers run as we do, so nothing can be closed to them alone.")
        above = self.gate_folder.parent
        before = above.stat().st_mode
        above.chmod(0o700)
        try:
            yield
        finally:
            above.chmod(before)
