"""What the tests of the gate share: a real nginx with the gate's files in it, in front of two servers that echo."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from cutover.core.wait import Not, wait_until
from cutover.gate import templates
from lab.echo import Echo
from lab.nginx import NginxHost, nginx_binary

ADDRESS = "127.0.0.1"
OLD, NEW = "127.0.0.152", "127.0.0.101"


def free_port(address: str = ADDRESS) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def session() -> requests.Session:
    """A client that ignores the machine's proxies."""
    made = requests.Session()
    made.trust_env = False
    return made


class Gateway:
    """nginx in front of an old and a new echo server. ``with_gate`` puts the files in as an operator would by hand."""

    def __init__(self, folder: Path, *, with_gate: bool, write: Callable[[Gateway], dict[str, str]] | None = None) -> None:
        self.old = Echo("old", OLD, free_port(OLD))
        self.new = Echo("new", NEW, free_port(NEW))
        self.host = NginxHost(folder, address=ADDRESS, port=free_port(), gate_port=free_port(), old=self.old.address)
        self.http = session()
        self.with_gate = with_gate
        self.values: dict[str, str] = {}
        self._write = write

    @property
    def url(self) -> str:
        """Where requests are sent: the gate itself where it was put in by hand, else the operator's server."""
        return f"http://{self.host.gate_address}" if self.with_gate else self.host.url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def flags(self) -> Path:
        return self.host.gate_folder / "flags"

    @property
    def bodies(self) -> Path:
        return self.host.gate_folder / "bodies"

    @property
    def log(self) -> Path:
        return self.host.gate_folder / "log" / "writes.jsonl"

    def start(self) -> None:
        self.old.start()
        self.new.start()
        self.host.prepare()
        if self.with_gate:
            self.put_gate()
        if self._write is not None:
            self.values = self._write(self)
            self.host.keeps = True
        self.host.start()

    def put_gate(self, *, again: bool = False, said: Collection[str] = ()) -> None:
        """The gate's file, and its address in the operator's; ``said``: directives in `http`; ``again``: only the file."""
        for part in ("flags", "log"):
            (self.host.gate_folder / part).mkdir(parents=True, exist_ok=True)
        build = templates.Build.read(
            subprocess.run([self.host.binary, "-V"], capture_output=True, text=True, check=True).stderr, said
        )
        file = templates.render(
            folder=str(self.host.gate_folder),
            old=self.old.address,
            new=self.new.address,
            address=self.host.gate_address,
            build=build,
        )
        (self.host.http_folder / templates.NAME).write_text(file.text)
        if again:
            return
        text = self.host.server_file.read_text()
        self.host.server_file.write_text(text.replace(self.old.address, self.host.gate_address))

    def stop(self) -> None:
        self.host.stop()
        self.host.end_watch()
        self.old.stop()
        self.new.stop()
        self.http.close()

    # --- the flags, as an operator would set them with touch and rm

    def set(self, flag: str) -> None:
        (self.flags / flag).touch()

    def unset(self, flag: str) -> None:
        (self.flags / flag).unlink(missing_ok=True)

    def clear(self) -> None:
        """No flag, nothing recorded, nothing remembered; after the last line of what was asked before."""
        until(lambda: len(self.lines("begin")) <= len(self.lines("end")), "The end of what was asked before")
        for flag in ("hold", "new", "record", "probe"):
            self.unset(flag)
        if self.log.exists():
            self.log.write_text("")
        for body in self.bodies.glob("*"):
            body.unlink()
        self.old.asked.clear()
        self.new.asked.clear()

    def lines(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log so far; a line appears just after its answer, so ask through `logged` for one that must come."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [line for line in found if name is None or line["n"] == name]

    def logged(self, count: int, name: str = "end", deadline: float = 5.0) -> list[dict[str, Any]]:
        def enough() -> list[dict[str, Any]] | Not:
            lines = self.lines(name)
            return lines if len(lines) >= count else Not(f"the log has {len(lines)} of {count} lines {name!r}")

        return wait_until(enough, deadline=deadline, what="The line in the gate's log", every=0.01)

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("state").json()
        return answer

    def ask(self, question: str, url: str = "") -> requests.Response:
        """Ask the gate what the tool asks; one that was put in by hand has the word that ships."""
        kept = self.host.gate_folder / "token"
        asking = {"X-Qdrant-Gate": f"{question} {kept.read_text() if kept.exists() else templates.TOKEN}"}
        return self.http.get(f"{url or self.url}/", headers=asking, timeout=5)

    def reload(self) -> None:
        subprocess.run(self.host.reload, check=True, timeout=10, capture_output=True)

    def raw(self, data: bytes, *, timeout: float = 5.0) -> bytes:
        """Send these bytes as they are and read until the server closes."""
        with socket.create_connection((ADDRESS, self.port), timeout=timeout) as line:
            line.sendall(data)
            found = b""
            while chunk := line.recv(65536):
                found += chunk
        return found


@contextmanager
def gateway(
    *, with_gate: bool = True, write: Callable[[Gateway], dict[str, str]] | None = None, wait: bool = True
) -> Iterator[Gateway]:
    """A running one in a folder of its own, which other users can reach (the workers are not root).

    ``write`` gives it another configuration; ``wait``: until somebody listens where the lab's would.
    """
    if nginx_binary() is None:
        pytest.skip("nginx is not installed here (apt-get install nginx)")
    folder = Path(tempfile.mkdtemp(prefix="gate-"))
    folder.chmod(0o755)
    made = Gateway(folder, with_gate=with_gate, write=write)
    made.host.listens = wait
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def until(fact: Any, what: str, deadline: float = 5.0) -> None:
    """Wait until ``fact()`` is true."""
    start = time.monotonic()
    wait_until(
        lambda: True if fact() else Not(f"not after {time.monotonic() - start:.1f} s"), deadline=deadline, what=what, every=0.01
    )
