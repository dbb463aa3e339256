"""The site's Git server: bare repositories behind Git's own ``git http-backend``.

``python -m lab.git --root FOLDER --host 127.1.0.20 --port 8418`` serves every bare repository in FOLDER over HTTP, as
a Git host does: anyone may read, and pushing (or, with ``--private``, reading) needs the user and token that stand in the
environment as GIT_USERNAME and GIT_TOKEN. :class:`Repository` is what a person with a keyboard does to such a repository:
commit, tag, revert.

Not modelled: a web page, pull requests, branch protection, SSH, large files.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hmac
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from lab.http_server import HttpServer

_NAME, _MAIL = "Site operator", "operator@site.example"
#: A person of the lab. Fixed dates would make equal commits equal; real ones are what a Git host has.
_PERSON = {
    "GIT_AUTHOR_NAME": _NAME,
    "GIT_AUTHOR_EMAIL": _MAIL,
    "GIT_COMMITTER_NAME": _NAME,
    "GIT_COMMITTER_EMAIL": _MAIL,
}

GIT_SECONDS = 30


def quiet_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which Git reads no configuration of this machine and never asks for a password."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LANG") if name in os.environ}
    return {
        **kept,
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **(extra or {}),
    }


def _counted(data: bytes) -> bytes:
    """Data as ``git fast-import`` takes it: its length, and what it is."""
    return b"data %d\n%b\n" % (len(data), data)


class Repository:
    """A bare repository on disk, with the few things that people do to one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, branch: str = "main") -> Repository:
        """An empty bare repository whose default branch is ``branch``; pushes over HTTP are allowed to who may push."""
        subprocess.run(
            ["git", "init", "--quiet", "--bare", "--template=", f"--initial-branch={branch}", str(path)],
            check=True, timeout=GIT_SECONDS, env=quiet_environment(),
        )  # fmt: skip
        made = cls(path)
        with (path / "config").open("a", encoding="utf-8") as config:
            # Git hosts hand out any commit that a branch or tag reaches; plain Git only the tips.
            config.write("[http]\n\treceivepack = true\n[uploadpack]\n\tallowReachableSHA1InWant = true\n")
        return made

    def _git(self, *words: str, data: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", "--git-dir", str(self.path), *words],
            input=data, capture_output=True, timeout=GIT_SECONDS, check=False,
            env=quiet_environment(_PERSON),
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"git {' '.join(words)}: {done.stderr.decode().strip()}")
        return done.stdout.decode().strip()

    def commit(self, files: Mapping[str, str | bytes | PurePath | None], message: str, branch: str = "main") -> str:
        """Commit ``files`` (path -> text or bytes; a path makes a link to it, None deletes) on top of ``branch``; answers the new commit's id."""
        parent = self.head(branch)
        stream = [
            f"commit refs/heads/{branch}\nmark :1\ncommitter {_NAME} <{_MAIL}> now\n".encode(),
            _counted(f"{message}\n".encode()),
        ]
        stream += [f"from {parent}\n".encode()] if parent else []
        for path, content in files.items():
            if content is None:
                stream.append(f"D {path}\n".encode())
                continue
            mode = "120000" if isinstance(content, PurePath) else "100644"
            data = content if isinstance(content, bytes) else str(content).encode()
            stream += [f"M {mode} inline {path}\n".encode(), _counted(data)]
        # One process instead of six and two for each file: a run of the tests makes hundreds of commits.
        return self._git("fast-import", "--quiet", "--date-format=now", data=b"".join([*stream, b"\nget-mark :1\n"]))

    def revert(self, branch: str = "main") -> str:
        """What ``git revert HEAD`` does: a new commit with the files of the one before the last."""
        head, before = self.head(branch), self._git("rev-parse", f"refs/heads/{branch}^")
        made = self._git("commit-tree", f"{before}^{{tree}}", "-p", head, "-m", f"Revert {head[:8]}")
        self._git("update-ref", f"refs/heads/{branch}", made)
        return made

    def head(self, branch: str = "main") -> str:
        """The branch's commit, or an empty string where there is none."""
        with contextlib.suppress(OSError):  # where Git keeps it until it packs its references
            return (self.path / "refs" / "heads" / branch).read_text(encoding="ascii").strip()
        try:
            return self._git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")
        except RuntimeError:
            return ""

    def point(self, ref: str, commit: str) -> None:
        """Make ``ref`` (``refs/tags/...`` or ``refs/heads/...``) point to ``commit``."""
        self._git("update-ref", ref, commit)

    def annotate(self, name: str, commit: str) -> None:
        """Make a tag that is an object of its own, with a message."""
        self._git("tag", "--annotate", "--message", name, name, commit)

    def read(self, commit: str, path: str) -> str:
        """A file's text at a commit."""
        done = subprocess.run(
            ["git", "--git-dir", str(self.path), "show", f"{commit}:{path}"],
            capture_output=True, timeout=GIT_SECONDS, check=True, env=quiet_environment(),
        )  # fmt: skip
        return done.stdout.decode()


class _Backend(BaseHTTPRequestHandler):
    """One request: a CGI call of ``git http-backend``."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # header and body in one packet: two would wait for each other (Nagle and delayed acknowledgement)
    server: GitServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _known(self) -> str | None:
        """The authenticated user, None for a stranger."""
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic" or self.server.token is None:
            return None
        user, _, token = base64.b64decode(given).decode(errors="replace").partition(":")
        return user if hmac.compare_digest(token, self.server.token) else None

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self._body()
        user = self._known()
        pushes = "service=git-receive-pack" in parts.query or parts.path.endswith("/git-receive-pack")
        if user is None and (pushes or self.server.private):
            self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"authentication required\n")
            return
        environment = quiet_environment(
            {
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GATEWAY_INTERFACE": "CGI/1.1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": unquote(parts.path),
                "QUERY_STRING": parts.query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_ADDR": self.client_address[0],
                **({"REMOTE_USER": user} if user else {}),
                **_PERSON,
            }
        )
        done = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=environment, timeout=GIT_SECONDS, check=False
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        self._answer(status if head else 500, headers, answer or done.stderr)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        sys.stderr.write(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}\n")


class GitServer(HttpServer):
    """Every bare repository below ``root``, over HTTP."""

    def __init__(self, root: Path, host: str, port: int, *, token: str | None = None, private: bool = False) -> None:
        self.root, self.token, self.private = root, token, private
        super().__init__((host, port), _Backend)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="The lab's Git server.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--private", action="store_true", help="reading needs the token as well")
    given = parser.parse_args(argv)
    server = GitServer(given.root, given.host, given.port, token=os.environ.get("GIT_TOKEN") or None, private=given.private)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"serving {given.root} on http://{given.host}:{given.port}/", flush=True)
    server.serve_forever(poll_interval=0.2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
