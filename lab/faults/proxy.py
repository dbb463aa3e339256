"""Between the tool and the servers: wires that can break exactly one call.

Each server of the lab can be put behind a :class:`Wire`, a small proxy that the site's address leads to. All wires of a lab share
:class:`Wires`, which keeps the list of calls that went through and knows which call is to be broken, how, and from which time on.
Nothing of the tool is patched: it talks to an address of its site.yaml, and what comes back is what a broken network, a reverse
proxy, a wrong server or a liar would send. Of the server whose call is to be broken each connection has one request, so that a
fault never meets the next call by accident.

What is not modelled: HTTP/2, pipelining, requests whose body is sent after ``Expect: 100-continue``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Address = tuple[str, int]
IsRead = Callable[[str, str], bool]

#: What an answer of somebody else looks like: a reverse proxy's page, with something in it that must not reach a person.
HTML = b"<html><head><title>Bad Gateway</title></head><body><center><h1>Oops</h1></center><hr>proxy/1.0</body></html>"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x1b[31m"
#: A fault ends by itself after so many broken calls, or so many seconds: an outage, not the end of the world. Without an
#: end, whoever waits for a fact with a deadline would wait for all of it, which says nothing more.
MOST_HITS = 6
MOST_SECONDS = 2.0

_STATUS = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 429: "Too Many Requests",
           500: "Internal Server Error", 502: "Bad Gateway"}  # fmt: skip
#: A fault of one call. The first list never reaches the server; the second is carried out, and the answer suffers.
BEFORE = ("reset", "401", "403", "404", "409", "429", "500", "502", "hang")
AFTER = ("lost", "half a body", "wrong type", "null", "other shape", "empty", "huge", "deep", "escapes")
#: A fault of the connection: who connects meets it before any request.
CONNECTION = ("refused", "expired certificate", "another's certificate")
FAULTS = (*CONNECTION, *BEFORE, *AFTER, "slow")
#: The same of who speaks DNS (:mod:`lab.faults.dns`) or is a shell on another host (:mod:`lab.faults.shell`).
DNS_BEFORE = ("reset", "rcode REFUSED", "rcode SERVFAIL", "rcode NOTAUTH", "TSIG BADKEY", "TSIG BADSIG", "TSIG BADTIME", "hang")
DNS_AFTER = ("lost", "half a body", "failed afterwards", "unsigned", "bad signature", "garbage")
DNS_FAULTS = ("refused", *DNS_BEFORE, *DNS_AFTER)
SHELL_BEFORE = ("reset", "exit code 1", "hang")
SHELL_AFTER = ("lost", "half a body", "empty", "garbage")
SHELL_FAULTS = ("not there", "refused", *SHELL_BEFORE, *SHELL_AFTER)
ANY_CONNECTION = (*CONNECTION, "not there")
#: What happens to a server itself while it has the call: killed as the kernel does it for memory, and started again by whoever looks
#: after it; its disk full; or read-only, as the kernel makes one that has errors. The lab says what it can do to which server
#: (:attr:`Wires.happenings`).
DISK_FAULTS = ("disk full", "disk read-only")
SERVER_BEFORE = ("killed", *DISK_FAULTS)
SERVER_AFTER = ("killed afterwards",)
SERVER_FAULTS = (*SERVER_BEFORE, *SERVER_AFTER)
EVERY_FAULT = tuple(dict.fromkeys((*FAULTS, *DNS_FAULTS, *SHELL_FAULTS, *SERVER_FAULTS)))
#: How long a slow server takes for one answer; none is slow for longer than an outage lasts.
SLOW_SECONDS = 0.7

_PARTS = (
    (r"UPID:[^/]+", "{task}"),
    (r"(?<=/collections/)(?!aliases)[^/]+(?=/|$)", "{collection}"),
    (r"(?<=/snapshots/)(?!upload|recover)[^/]+", "{snapshot}"),
    (r"(?<=/volumes/)[^/]+", "{volume}"),
    (r"(?<=/images/)(?!create).+(?=/json)", "{image}"),
    (r"(?<=/distribution/).+(?=/json)", "{image}"),
    (r"(?<=/content/)[^/]+", "{volume}"),
    (r"\b[0-9a-f]{12,64}\b", "{id}"),
    (r"(?<=/)\d+(?=/|$)", "{number}"),
)


@dataclass(frozen=True)
class Call:
    """One kind of call: the server, and method and path without what differs from run to run."""

    server: str
    method: str
    path: str
    reads: bool

    @classmethod
    def of(cls, server: str, method: str, target: str, is_read: IsRead) -> Call:
        """From a request line."""
        path = target.split("?", maxsplit=1)[0]
        reads = is_read(method, target)
        for pattern, part in _PARTS:
            path = re.sub(pattern, part, path)
        return cls(server, method, path, reads)

    def __str__(self) -> str:
        return f"{self.server}: {self.method} {self.path}"


@dataclass
class Broken:
    """What is broken: ``fault`` of ``call``, from its ``nth`` time on (counted from 1)."""

    call: Call
    fault: str
    nth: int = 1
    #: For a fault of the connection: the server's requests before it.
    after: int = 0
    hits: int = 0
    since: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the outage has lasted long enough."""
        return self.hits >= MOST_HITS or bool(self.since and time.monotonic() - self.since > MOST_SECONDS)


class AnyWire(Protocol):
    """What stands between the tool and one server, whatever language they speak."""

    def start(self) -> None: ...

    def look(self) -> None:
        """Be there, or not, as the fault says."""

    def stop(self) -> None: ...


@dataclass
class Wires:
    """All wires of a lab: the calls that went through, and what is to be broken."""

    seen: list[Call] = field(default_factory=list)
    broken: Broken | None = None
    wires: list[AnyWire] = field(default_factory=list)
    #: By server and fault: lets it happen, and answers how it ends.
    happenings: dict[tuple[str, str], Callable[[], Callable[[], None]]] = field(default_factory=dict)
    _ends: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)
    _could_not: BaseException | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def wire(self, server: str, here: Address, there: Address, **rest: Any) -> Wire:
        """Put a wire in front of a server that speaks HTTP."""
        wire = Wire(self, server, here, there, **rest)
        self.wires.append(wire)
        return wire

    def forget(self) -> None:
        """Begin to count anew; nothing is broken."""
        self.mend()
        with self._lock:
            self.seen.clear()

    def arm(self, broken: Broken) -> None:
        """Break a call from now on."""
        self.forget()
        with self._lock:
            self.broken = broken
        for wire in self.wires:  # without our lock: a wire takes its own first, then asks us
            wire.look()

    def mend(self) -> None:
        """Everything works again."""
        with self._lock:
            self.broken = None
            ends, self._ends = self._ends, {}
            could_not, self._could_not = self._could_not, None
        for end in ends.values():
            end()
        if could_not is not None:
            raise RuntimeError("what was to happen to a server could not be done") from could_not
        for wire in self.wires:
            wire.look()

    def can(self, server: str, fault: str) -> bool:
        """Whether the lab can let this happen to that server."""
        return fault not in SERVER_FAULTS or (server, fault) in self.happenings

    def happen(self, server: str, fault: str) -> None:
        """Let something happen to a server, until :meth:`mend`."""
        with self._lock:
            if self.broken is None or self.broken.fault != fault:
                return  # it was mended meanwhile
            if (server, fault) not in self._ends or fault not in DISK_FAULTS:
                try:
                    self._ends[server, fault] = self.happenings[server, fault]()
                except BaseException as error:  # here it would only end a connection, as the fault does
                    self._could_not = error
                    raise

    def passes(self, call: Call) -> str:
        """Note a call; the fault that it meets, or nothing."""
        with self._lock:
            self.seen.append(call)
            broken = self.broken
            if broken is None or broken.fault in ANY_CONNECTION:
                return ""
            if broken.call != call or self.seen.count(call) < broken.nth or broken.over:
                return ""
            broken.hits += 1
            broken.since = broken.since or time.monotonic()
            return broken.fault

    def count(self, server: str) -> int:
        """How many calls a server has had."""
        with self._lock:
            return sum(call.server == server for call in self.seen)

    def spares(self, server: str) -> bool:
        """Whether nothing of a server is to be broken."""
        broken = self.broken
        return broken is None or broken.call.server != server

    def connection_fault(self, server: str) -> str:
        """The fault that whoever connects to a server meets now."""
        with self._lock:
            broken = self.broken
            if broken is None or broken.fault not in ANY_CONNECTION or broken.call.server != server:
                return ""
            if self.count(server) < broken.after or broken.over:
                return ""
            broken.since = broken.since or time.monotonic()
            return broken.fault

    def stop(self) -> None:
        """Take all wires away."""
        for wire in self.wires:
            wire.stop()


def serve_each(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Give every connection to ``serve``, in a thread of its own, until :func:`end_listening`."""

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def end_listening(listener: socket.socket) -> None:
    """Close a listener; the thread that waits for connections ends."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes it
    listener.close()


class Wire:
    """One proxy: listens ``here``, leads ``there``. ``mine`` tells the tool's requests from those of others.

    ``certificates`` are TLS contexts by fault, the ordinary one under the empty name; without them it is plain HTTP.
    ``follows``: it listens only while something listens there, as the server itself would.
    """

    def __init__(
        self, wires: Wires, server: str, here: Address, there: Address, *, is_read: IsRead, host: str = "",
        certificates: Mapping[str, ssl.SSLContext] | None = None, follows: bool = False,
    ) -> None:  # fmt: skip
        self._wires, self.server, self.here, self.there = wires, server, here, there
        self._is_read, self._host, self._follows = is_read, host, follows
        self._certificates = dict(certificates or {})
        #: Connections that were answered and may be asked again.
        self._kept: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._lock = threading.RLock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to listen, and to look whether to."""
        self.look()
        threading.Thread(target=self._watch, daemon=True, name=f"wire-{self.server}").start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.look()

    def look(self) -> None:
        """Listen, or not: as the server behind does, and as the fault says."""
        with self._lock:
            wanted = not self._ended.is_set() and self._wires.connection_fault(self.server) != "refused"
            if wanted and self._follows:
                wanted = _listens(self.there)
            if wanted and self._listener is None:
                listener = socket.socket()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(self.here)
                listener.listen(128)
                self._listener = listener
                serve_each(listener, self._serve)
            elif not wanted and self._listener is not None:
                listener, self._listener = self._listener, None
                end_listening(listener)
            if not (wanted and self._wires.spares(self.server)):
                for connection in self._kept:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._ended.set()
        self.look()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            stack.callback(lambda: connection.close())  # noqa: PLW0108 - by then it may be the TLS one
            if self._certificates:
                fault = self._wires.connection_fault(self.server)
                context = self._certificates.get(fault, self._certificates[""])
                connection = context.wrap_socket(connection, server_side=True)
            stack.callback(lambda: self._keep(connection, False))
            while self._exchange(connection):
                self._keep(connection, True)
                self.look()  # the fault may have begun meanwhile

    def _keep(self, connection: socket.socket, yes: bool) -> None:
        with self._lock:
            (self._kept.add if yes else self._kept.discard)(connection)

    def _exchange(self, client: socket.socket) -> bool:
        """Answer one request; whether the connection may be asked again."""
        head, body = _read_request(client)
        self._keep(client, False)
        if not head:
            return False
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        headers = _headers(head)
        fault = ""
        if not self._host or headers.get("host", "").split(":")[0] == self._host:
            fault = self._wires.passes(Call.of(self.server, method, target, self._is_read))
            self.look()  # a fault of the connection may begin with the next one
        if fault in BEFORE:
            self._break(client, fault)
            return False
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
            fault = ""
        if fault in SERVER_BEFORE:
            self._wires.happen(self.server, fault)
            fault = ""
        answer = self._forward(head, body)
        if fault in SERVER_AFTER:
            self._wires.happen(self.server, fault)
        if answer is None or fault in {"lost", *SERVER_AFTER}:
            reset(client)
            return False
        keep = self._wires.spares(self.server)
        self._reply(client, answer, fault, keep=keep)
        return keep

    def _break(self, client: socket.socket, fault: str) -> None:
        if fault == "reset":
            reset(client)
        elif fault == "hang":
            wait_for_the_end(client)
        elif fault == "502":
            client.sendall(_joined("HTTP/1.1 502 Bad Gateway", {"Content-Type": "text/html"}, HTML))
        else:
            told = "Broken on purpose"
            body = json.dumps({"message": told, "status": {"error": told}, "data": None}).encode()
            line = f"HTTP/1.1 {fault} {_STATUS[int(fault)]}"
            client.sendall(_joined(line, {"Content-Type": "application/json"}, body))

    def _forward(self, head: bytes, body: bytes) -> bytes | None:
        lines = [line for line in head.split(b"\r\n")
                 if not line.lower().startswith((b"connection:", b"accept-encoding:", b"transfer-encoding:", b"content-length:"))]  # fmt: skip
        lines += [b"Connection: close", b"Accept-Encoding: identity"]
        if body or lines[0].startswith((b"POST", b"PUT", b"PATCH")):
            lines.append(f"Content-Length: {len(body)}".encode())
        try:
            server = socket.create_connection(self.there, timeout=5)
        except OSError:
            return None
        try:
            server.settimeout(120)
            server.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            got = bytearray()
            while piece := server.recv(1 << 18):
                got += piece
            return bytes(got) or None
        except OSError:
            return None
        finally:
            server.close()

    def _reply(self, client: socket.socket, answer: bytes, fault: str, *, keep: bool) -> None:
        line, headers, body = _split(answer)
        if fault == "half a body":
            client.sendall(_joined(line, headers, body, send=len(body) // 2))
            return
        if fault == "wrong type":
            client.sendall(_joined("HTTP/1.1 200 OK", {"Content-Type": "text/html"}, HTML))
            return
        if fault == "huge":
            with contextlib.suppress(OSError):
                client.sendall(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{"result": "')
                for _ in range(64):
                    client.sendall(b"x" * (1 << 20))
            return
        if fault:
            headers, body = {"Content-Type": "application/json"}, _lie(fault, body)
        client.sendall(_joined(line, headers, body, keep=keep))


def _lie(fault: str, body: bytes) -> bytes:
    """Another answer in place of this one: of the same envelope where it has one."""
    if fault == "deep":
        return b"[" * 200_000 + b"]" * 200_000
    if fault == "empty":
        return b"{}"
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    envelope = next((key for key in ("data", "result") if isinstance(told, dict) and key in told), None)
    inner = told[envelope] if envelope else told
    if fault == "escapes":
        return json.dumps(_with_escapes(told)).encode()
    lie: Any = None
    if fault == "other shape":
        lie = ["x", None, 7] if isinstance(inner, dict) else {"x": None} if isinstance(inner, list) else [inner]
    return json.dumps({**told, envelope: lie} if envelope else lie).encode()


def _with_escapes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_escapes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_escapes(inner) for inner in value]
    return value + ESCAPES if isinstance(value, str) else value


def reset(client: socket.socket) -> None:
    """End a connection as a host does that has forgotten it."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def wait_for_the_end(client: socket.socket) -> None:
    """Say nothing until the other side gives up."""
    client.settimeout(20)
    with contextlib.suppress(OSError):
        client.recv(1)


def _read_request(client: socket.socket) -> tuple[bytes, bytes]:
    got = bytearray()
    while b"\r\n\r\n" not in got:
        piece = client.recv(1 << 16)
        if not piece:
            return b"", b""
        got += piece
    head, _, rest = bytes(got).partition(b"\r\n\r\n")
    headers = _headers(head)
    if headers.get("transfer-encoding") == "chunked":
        raw = bytearray(rest)
        while not raw.endswith(b"0\r\n\r\n"):
            raw += client.recv(1 << 16)
        return head, _dechunked(bytes(raw))
    size = int(headers.get("content-length") or 0)
    body = bytearray(rest)
    while len(body) < size:
        piece = client.recv(1 << 18)
        if not piece:
            return b"", b""
        body += piece
    return head, bytes(body)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _split(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    """(status line, headers, body) of a whole answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = _headers(head)
    if headers.pop("transfer-encoding", "") == "chunked":
        body = _dechunked(body)
    return head.split(b"\r\n", 1)[0].decode("latin-1"), headers, body


def _dechunked(raw: bytes) -> bytes:
    found, at = bytearray(), 0
    while at < len(raw):
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end].split(b";")[0], 16)
        if size == 0:
            break
        found += raw[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return bytes(found)


def _joined(line: str, headers: Mapping[str, str], body: bytes, send: int | None = None, *, keep: bool = False) -> bytes:
    kept = {k: v for k, v in headers.items() if k not in {"connection", "content-length", "keep-alive"}}
    end = "keep-alive" if keep else "close"
    shown = [line, *(f"{name}: {value}" for name, value in kept.items()), f"Content-Length: {len(body)}", f"Connection: {end}"]
    return "\r\n".join(shown).encode("latin-1") + b"\r\n\r\n" + (body if send is None else body[:send])


def _listens(there: Address) -> bool:
    """Whether something listens at an address of this machine, without connecting to it.

    Where something does, nobody can be bound there as well (socket(7), SO_REUSEADDR); this costs some microseconds,
    the kernel's table of connections (/proc/net/tcp) some milliseconds while thousands of closed ones are in it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that starts just now is not in its way
        try:
            probe.bind(there)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def contexts(ordinary: tuple[Path, Path], **by_fault: tuple[Path, Path]) -> dict[str, ssl.SSLContext]:
    """TLS contexts from (certificate, key) files: the ordinary one, and one for each fault of a certificate."""

    def context(files: tuple[Path, Path]) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*map(str, files))
        return made

    return {"": context(ordinary), **{name.replace("_", " "): context(files) for name, files in by_fault.items()}}


def kinds(seen: Iterable[Call]) -> list[Call]:
    """The kinds of calls, in the order in which they were first made."""
    return list(dict.fromkeys(seen))
