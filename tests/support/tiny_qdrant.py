"""The least that a deployment's proof asks of Qdrant: ready, a version, and a key that is enforced.

Run as a program; it takes the real server's environment variables and keeps one file in its storage, so that a test
can see whether the data survived.
"""

import json
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer

ENV = os.environ
STORAGE = Path(ENV["QDRANT__STORAGE__STORAGE_PATH"])
#: Like the real server, which does not start with a setting that it cannot read.
LIMIT = int(ENV.get("QDRANT__SERVICE__MAX_REQUEST_SIZE_MB", "32"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def do_GET(self) -> None:
        keys = {ENV.get("QDRANT__SERVICE__API_KEY"), ENV.get("QDRANT__SERVICE__READ_ONLY_API_KEY")} - {None, ""}
        if self.path == "/":
            self.answer(200, {"title": "qdrant - vector search engine", "version": ENV.get("LAB_QDRANT_VERSION", "0.0.0")})
        elif self.path == "/readyz":
            self.answer(200, "all shards are ready")
        elif keys and self.headers.get("api-key") not in keys:
            self.answer(401, "Must provide an API key or an Authorization bearer token")
        elif self.path.endswith("/shards/0/snapshot"):  # for who may write
            writes = not keys or self.headers.get("api-key") == ENV.get("QDRANT__SERVICE__API_KEY")
            self.answer(404 if writes else 403, {"status": {"error": "Not found" if writes else "Forbidden"}, "time": 0.0})
        elif self.path == "/collections":
            names = [{"name": file.name} for file in sorted(STORAGE.iterdir())]
            self.answer(200, {"result": {"collections": names}, "status": "ok", "time": 0.0})
        else:
            self.answer(404, "")

    def do_PUT(self) -> None:
        (STORAGE / self.path.rsplit("/", 1)[1]).touch()
        self.answer(200, {"result": True, "status": "ok", "time": 0.0})

    def answer(self, status: int, what: object) -> None:
        body = (what if isinstance(what, str) else json.dumps(what)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(what, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingTCPServer):
    """Not the one of http.server: that looks up the name of its own address when it binds."""

    allow_reuse_address = daemon_threads = True


if __name__ == "__main__":
    address = (ENV["QDRANT__SERVICE__HOST"], int(ENV["QDRANT__SERVICE__HTTP_PORT"]))
    Server(address, Handler).serve_forever()
