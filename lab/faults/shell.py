"""A wire (:mod:`lab.faults.proxy`) in front of a shell on another host: what stands where `ssh root@nginx` would.

The tool runs a command prefix with ``sh`` behind it and keeps that session (:mod:`cutover.core.shell`). Here the prefix is a program that
hands its three streams to the lab and ends as the lab says; the lab runs the ``sh``, one command after the other, and can break each.
A command is known by how it begins. Whether it only reads nobody says in that language, so it is taken from its words.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

from lab.faults.proxy import ESCAPES, Call, Wires, end_listening, serve_each

#: What the tool writes behind every command, with a new word each time.
_END = re.compile(rb"\nprintf '\\n%s %d\\n' ([0-9a-f]{32}) \$\?; printf '\\n%s\\n' \1 >&2\n\Z")
_CHANGES = re.compile(r"\b(rm|mv|mkdir|cp|ln|chmod|rmdir|fallocate|reload)\b|true >|printf .*> ")
_SHOWN = 80

_PROGRAM = """\
#!{python} -IS
import socket, sys
wire = socket.socket(socket.AF_UNIX)
wire.connect("\\0{name}")
socket.send_fds(wire, [b"x"], [0, 1, 2])
end = wire.recv(1)
sys.exit(end[0] if end else 255)
"""


@dataclass
class _Streams:
    """The tool's side of one session."""

    control: socket.socket
    to_us: int
    out: int
    err: int

    def end(self, code: int, said: bytes = b"") -> None:
        """The session is over; nothing more comes. Safe to repeat."""
        with contextlib.suppress(OSError):
            if said:
                os.write(self.err, said)
        for stream in (self.to_us, self.out, self.err):
            with contextlib.suppress(OSError):
                os.close(stream)
        self.to_us = self.out = self.err = -1
        with contextlib.suppress(OSError):
            self.control.send(bytes([code]))
        self.control.close()


class ShellWire:
    """``program`` is the prefix for site.yaml. ``forget`` is what is left out of commands: the lab's own folder."""

    def __init__(self, wires: Wires, server: str, folder: Path, *, forget: str = "") -> None:
        self._wires, self.server, self._forget = wires, server, forget
        self.program = folder / "to-nginx"
        self._away = folder / "to-nginx.away"
        self._name = f"cutover-lab-{uuid.uuid4().hex}"
        self._listener: socket.socket | None = None
        self._lock = threading.RLock()

    def start(self) -> None:
        """Make the program, and wait for whoever runs it."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"\0{self._name}")
        self._listener.listen(16)
        self.program.write_text(_PROGRAM.format(python=sys.executable, name=self._name))
        self.program.chmod(0o755)
        serve_each(self._listener, self._serve)

    def look(self) -> None:
        """Let the program be there, or not."""
        with self._lock:
            gone = self._wires.connection_fault(self.server) == "not there"
            here, there = (self.program, self._away) if gone else (self._away, self.program)
            if here.exists():
                here.rename(there)

    def stop(self) -> None:
        if self._listener is not None:
            end_listening(self._listener)

    def _serve(self, control: socket.socket) -> None:
        _, (to_us, out, err), _, _ = socket.recv_fds(control, 1, 3)
        tool = _Streams(control, to_us, out, err)
        if self._wires.connection_fault(self.server):
            tool.end(255, b"ssh: connect to host nginx port 22: Connection refused\n")
            return
        shell = subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        try:
            with contextlib.suppress(OSError):
                self._session(tool, shell)
        finally:
            tool.end(0)
            for pipe in (shell.stdin, shell.stdout, shell.stderr):
                if pipe is not None:
                    pipe.close()
            shell.wait(30)

    def _session(self, tool: _Streams, shell: subprocess.Popen[bytes]) -> None:
        while (command := _command(tool.to_us)) is not None:
            fault = self._wires.passes(self._call(command[1]))
            self.look()
            if self._wires.connection_fault(self.server):
                tool.end(255, b"Connection to nginx closed by remote host.\n")
                return
            if fault == "reset":
                tool.end(143)
                return
            if fault == "hang":
                while os.read(tool.to_us, 1 << 16):
                    pass
                return
            word = command[0]
            out, err, code = (b"", b"sh: Permission denied", 1) if fault == "exit code 1" else _run(shell, *command)
            if fault == "lost":
                tool.end(255, b"Timeout, server nginx not responding.\n")
                return
            if fault == "half a body":
                _write(tool.out, out[: len(out) // 2])
                tool.end(255, b"Timeout, server nginx not responding.\n")
                return
            if fault in {"empty", "garbage"}:
                out = ESCAPES.encode() * 3 if fault == "garbage" else b""
            _write(tool.out, out + f"\n{word} {code}\n".encode())
            _write(tool.err, err + f"\n{word}\n".encode())

    def _call(self, raw: bytes) -> Call:
        script = shlex.split(raw.split(b" ) </dev/null\n", 1)[0].decode(errors="replace").removeprefix("( "))[1]
        reads = _CHANGES.search(script) is None
        said = re.sub(r"(?m)^export LC_ALL=C$|^PATH=\S+$|^cd \S+ \|\| exit \d+$", "", script)
        said = said.replace(self._forget, "") if self._forget else said
        said = re.sub(r"\b[0-9a-f]{12,}\b|\d+", "{n}", " ".join(said.split()))
        said = re.sub(r"(\{n\} )+\{n\}", "{n}", said)
        return Call(self.server, "run", said[:_SHOWN] or "true", reads)


def _command(stream: int) -> tuple[str, bytes] | None:
    """(word, everything) of the next command; None where there is none any more."""
    got = bytearray()
    while (end := _END.search(got[-200:])) is None:
        piece = os.read(stream, 1 << 20)
        if not piece:
            return None
        got += piece
    return end[1].decode(), bytes(got)


def _run(shell: subprocess.Popen[bytes], word: str, command: bytes) -> tuple[bytes, bytes, int]:
    """What a command printed, and its exit code."""
    assert shell.stdin is not None and shell.stdout is not None and shell.stderr is not None
    _write(shell.stdin.fileno(), command)
    marks = {shell.stdout.fileno(): f"\n{word} ".encode(), shell.stderr.fileno(): f"\n{word}\n".encode()}
    got = {stream: bytearray() for stream in marks}
    with selectors.DefaultSelector() as ready:
        missing = set(marks)
        for stream in missing:
            ready.register(stream, selectors.EVENT_READ)
        while missing:
            for key, _ in ready.select():
                piece = os.read(key.fd, 1 << 20)
                if not piece:
                    raise BrokenPipeError
                got[key.fd] += piece
                if marks[key.fd] in got[key.fd][-len(piece) - 64 :] and got[key.fd].endswith(b"\n"):
                    missing.discard(key.fd)
                    ready.unregister(key.fd)
    out, err = (bytes(got[stream]) for stream in marks)
    at = out.rfind(f"\n{word} ".encode())
    return out[:at], err[: err.rfind(f"\n{word}\n".encode())], int(out[at + len(word) + 2 :])


def _write(stream: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(stream, rest) :]
