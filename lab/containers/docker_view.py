"""The Docker engine of this machine as VM 1001 sees it: a socket for a real Portainer, which believes that the engine is its own.

``python -m lab.containers.docker_view --config FILE.json`` passes requests on. What is made through it gets the lab's labels, and
lists show only what has them, so that nothing else of this machine's engine is seen, and all of it is removed when the lab ends.
The engine has the cores and the memory that the hypervisor gave the VM. Knobs that concern Docker and the registry are those of
the stand-in (:mod:`lab.portainer`): ``crash``, ``unhealthy``, ``registry_down``, ``unpullable``, ``docker_down``.

A connection carries one request: each is told to close, so that only heads have to be understood.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

PROJECT = "com.docker.compose.project"
KNOBS = frozenset({"crash", "unhealthy", "registry_down", "unpullable", "docker_down"})
_MOST_HEAD = 1 << 16


class View:
    """What is changed on the way: ``labels`` of what is the VM's, and the files that say what the VM is and what is broken."""

    def __init__(self, engine: str, labels: Mapping[str, str], knobs: Path, machine: Path) -> None:
        self.engine, self.labels = engine, dict(labels)
        self._knobs, self._machine = knobs, machine

    @property
    def knobs(self) -> dict[str, Any]:
        return _read(self._knobs)

    def target(self, method: str, target: str) -> str:
        """The request's target; of a list only what is the VM's."""
        parts = urlsplit(target)
        if method != "GET" or not re.fullmatch(r"(/v[\d.]+)?/(containers/json|volumes|networks)", parts.path):
            return target
        query = parse_qs(parts.query)
        filters = {
            name: dict.fromkeys(given, True) if isinstance(given, list) else dict(given)
            for name, given in json.loads((query.get("filters") or ["{}"])[0]).items()
        }
        filters.setdefault("label", {}).update({f"{name}={value}": True for name, value in self.labels.items()})
        return f"{parts.path}?{urlencode({**query, 'filters': [json.dumps(filters)]}, doseq=True, quote_via=quote)}"

    def body(self, path: str, body: bytes) -> bytes:
        """The request's body; with the labels where something is made."""
        if not re.fullmatch(r"(/v[\d.]+)?/(containers|networks|volumes)/create", path):
            return body
        told = json.loads(body or b"{}")
        told["Labels"] = {**(told.get("Labels") or {}), **self.labels}
        knobs, project = self.knobs, told["Labels"].get(PROJECT)
        if project and knobs.get("crash") == project:
            told["Entrypoint"] = ["false"]
        if project and knobs.get("unhealthy") == project:
            told["Healthcheck"] = {"Test": ["CMD", "false"], "Interval": 500_000_000, "Retries": 1, "StartPeriod": 1_000_000}
        return json.dumps(told).encode()

    def refused(self, path: str, query: str) -> tuple[int, str] | None:
        """What the engine says where the registry cannot be reached, or does not have an image.

        While it cannot, the VM has no image either: those that are here are other machines'.
        """
        given = parse_qs(query)
        if (found := re.fullmatch(r"(?:/v[\d.]+)?/images/(.+)/json", path)) and self.knobs.get("registry_down"):
            return 404, f"No such image: {unquote(found[1])}"
        if found := re.fullmatch(r"(?:/v[\d.]+)?/distribution/(.+)/json", path):
            name = unquote(found[1])
        elif re.fullmatch(r"(/v[\d.]+)?/images/create", path):
            tag = (given.get("tag") or [""])[0]
            name = (given.get("fromImage") or [""])[0] + (f"{'@' if ':' in tag else ':'}{tag}" if tag else "")
        else:
            return None
        if self.knobs.get("registry_down"):
            registry = name.split("/")[0]
            return 500, f'Get "http://{registry}/v2/": dial tcp: lookup {registry}: no such host'
        if any(name.startswith(missing) for missing in self.knobs.get("unpullable", [])):
            return 404, f"manifest for {name} not found: manifest unknown: manifest unknown"
        return None

    def answer(self, path: str, answer: bytes) -> bytes:
        """The answer's body; the engine is as large as the VM."""
        machine = _read(self._machine)
        told = json.loads(answer)
        if machine:
            told |= {"NCPU": int(machine["cores"]), "MemTotal": int(machine["memory_mb"]) << 20, "Name": "portainer"}
        return json.dumps(told).encode()


def _read(file: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return told


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._pass_on()

    def _pass_on(self) -> None:
        view, client = self.server.view, self.request
        head, rest = _head(client)
        if not head or view.knobs.get("docker_down"):
            return
        method, target, _ = head[0].split(" ", 2)
        parts = urlsplit(target)
        if refusal := view.refused(parts.path, parts.query):
            self._say(refusal[0], json.dumps({"message": refusal[1]}).encode())
            return
        fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:]}
        upgrade = "upgrade" in fields
        sized = "content-length" in fields
        if sized:
            length = int(fields["content-length"])
            while len(rest) < length and (more := client.recv(65536)):
                rest += more
            rest = view.body(parts.path, rest)
            fields["content-length"] = str(len(rest))
        if not upgrade:
            fields["connection"] = "close"
        info = re.fullmatch(r"(/v[\d.]+)?/info", parts.path) is not None
        lines = [f"{method} {view.target(method, target)} HTTP/1.{0 if info else 1}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(view.engine)
            engine.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + rest)
            if info:
                whole = b"".join(iter(lambda: engine.recv(65536), b""))
                self._say(200, view.answer(parts.path, whole.partition(b"\r\n\r\n")[2]))
                return
            if upgrade or not sized:
                threading.Thread(target=_copy, args=(client, engine), daemon=True).start()
            _copy(engine, client)

    def _say(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.request.sendall(head.encode() + body)


def _head(client: socket.socket) -> tuple[list[str], bytes]:
    """(lines of the head, what came after it); no lines where the client went away."""
    read = b""
    while b"\r\n\r\n" not in read:
        more = client.recv(65536)
        if not more or len(read) > _MOST_HEAD:
            return [], b""
        read += more
    head, _, rest = read.partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, where: str, view: View) -> None:
        self.view = view
        super().__init__(where, _Handler)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    told = json.loads(parser.parse_args().config.read_text())
    view = View(told["engine"], told["labels"], Path(told["knobs"]), Path(told["machine"]))
    with _Server(told["socket"], view) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
