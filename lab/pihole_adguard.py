"""Stand-ins for Pi-hole v6 and AdGuard Home: as much of their APIs as changing local names needs.

Pi-hole: log in and out (``/api/auth``), ``dns.hosts`` and ``dns.cnameRecords`` as lists of lines, PUT and DELETE of one line.
AdGuard Home: basic authentication, ``/control/rewrite/{list,add,delete}``. Not modelled: sessions that expire, limits of seats,
answering DNS questions, every other setting.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from lab.http_server import HttpServer


class _Front:
    """A small HTTP server on a loopback address, for the length of a block."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        front = self
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                front.requests.append(f"{self.command} {self.path}")
                status, answer = front.answer(self.command, self.path, dict(self.headers), body)
                text = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                if answer is not None:
                    self.send_header("Content-Type", "application/json")
                if status != 204:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = _any

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HttpServer((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_address[1]}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def __enter__(self) -> Any:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Pihole(_Front):
    """``hosts`` and ``aliases`` are its two lists."""

    def __init__(self, password: str, hosts: list[str], aliases: list[str]) -> None:
        super().__init__()
        self.password = password
        self.lists = {"hosts": list(hosts), "cnameRecords": list(aliases)}
        self.seats: set[str] = set()

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        sid = headers.get("X-FTL-SID", "")
        if (method, path) == ("POST", "/api/auth"):
            if body.get("password") != self.password:
                return 401, {"session": {"valid": False, "sid": None, "message": "password incorrect"}}
            sid = secrets.token_hex(8)
            self.seats.add(sid)
            return 200, {"session": {"valid": True, "sid": sid, "csrf": "x", "validity": 1800, "message": "password correct"}}
        if sid not in self.seats:
            return 401, {"error": {"key": "unauthorized", "message": "Unauthorized", "hint": None}}
        if (method, path) == ("DELETE", "/api/auth"):
            self.seats.discard(sid)
            return 204, None
        parts = path.removeprefix("/api/config/dns/").split("/", 1)
        known = self.lists.get(parts[0])
        if known is None:
            return 404, {"error": {"key": "not_found", "message": "Not found", "hint": path}}
        if method == "GET":
            return 200, {"config": {"dns": {parts[0]: known}}}
        line = unquote(parts[1])
        if method == "PUT":
            if line in known:
                return 400, {
                    "error": {"key": "bad_request", "message": "Item already present", "hint": "Uniqueness of items is enforced"}
                }
            known.append(line)
            return 201, {}
        if line not in known:
            return 404, {"error": {"key": "not_found", "message": "Item not found", "hint": line}}
        known.remove(line)
        return 204, None


class Adguard(_Front):
    """``rewrites`` is its list of domain and answer."""

    def __init__(self, user: str, password: str, rewrites: list[dict[str, Any]]) -> None:
        super().__init__()
        self.rewrites = list(rewrites)
        self._expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != self._expected:
            return 401, {"message": "Unauthorized"}
        if (method, path) == ("GET", "/control/rewrite/list"):
            return 200, self.rewrites
        if (method, path) == ("POST", "/control/rewrite/add"):
            self.rewrites.append(body)
            return 200, None
        if (method, path) == ("POST", "/control/rewrite/delete"):
            self.rewrites = [r for r in self.rewrites if (r["domain"], r["answer"]) != (body["domain"], body["answer"])]
            return 200, None
        return 404, {"message": "not found"}
