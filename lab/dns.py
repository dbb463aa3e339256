"""The lab's name server: a real Knot DNS with signed updates, a forward and a reverse zone.

Knot is Debian's package ``knot``; it runs without privileges on a port above 1024, keeps everything below its folder and takes
RFC 2136 updates and zone transfers from whoever has the lab's TSIG key. What is not modelled: secondaries, DNSSEC, and name
servers that refuse zone transfers to update keys (``transfer=False`` gives that one).
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update
import dns.xfr
import dns.zone

from lab.processes import Process

Entry = tuple[str, str, str]
"""(name, type, value); names relative to the forward zone unless they end with a dot"""

SECONDS_TO_LIVE = 300


class NotInstalled(Exception):
    """The name server's program is not on this machine."""


def program() -> str:
    """Where knotd is; :class:`NotInstalled` with what to install."""
    found = shutil.which("knotd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotInstalled("The lab needs Knot DNS: install Debian's package `knot`.")
    return found


def reverse_zone(network: str) -> str:
    """The reverse zone of an IPv4 /24, such as ``0.10.127.in-addr.arpa.``"""
    address = ipaddress.ip_network(network, strict=False).network_address
    return ".".join(reversed(str(address).split(".")[:3])) + ".in-addr.arpa."


class NameServer:
    """One Knot. ``start`` and ``stop`` make it a service of a machine; ``entries`` answers what it serves now."""

    def __init__(
        self,
        folder: Path,
        address: str,
        port: int = 5353,
        *,
        zone: str = "home.arpa.",
        network: str | None = None,
        entries: Iterable[Entry] = (),
        reverse: Iterable[tuple[str, str]] = (),
        transfer: bool = True,
    ) -> None:
        """``reverse`` are (address, name) pairs; ``network`` is the /24 of the reverse zone (default: that of ``address``)."""
        self.folder = folder
        self.address = address
        self.port = port
        self.zone = zone
        self.reverse = reverse_zone(network or f"{address}/24")
        self.key_name = "cutover-lab."
        self.key_secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self._entries = list(entries)
        self._pointers = list(reverse)
        self._transfer = transfer
        self._process: Process | None = None
        self._short: tempfile.TemporaryDirectory[str] | None = None

    # -- a service ----------------------------------------------------------------------------------
    def start(self) -> None:
        """Write the zones (the first time) and run the server until it answers for them."""
        if self._process is None:
            self._write()
            self._process = Process(
                [program(), "-c", self.folder / "knot.conf"],
                log=self.folder / "knot.log",
                cwd=self.folder,
                ready=self._answers,
                ready_within=10,
                name="knotd",
            )
        self._process.start()

    def stop(self, grace: float = 5.0) -> None:
        """End it; the zones stay as they are."""
        if self._process is not None:
            self._process.stop(grace)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    # -- what it serves -------------------------------------------------------------------------------
    @property
    def zones(self) -> list[str]:
        """Forward and reverse."""
        return [self.zone, self.reverse]

    def entries(self) -> list[tuple[str, str, str]]:
        """Every record of both zones as (absolute name, type, value), sorted, without SOA and NS. By zone transfer."""
        keyring = dns.tsigkeyring.from_text({self.key_name: ("hmac-sha256", self.key_secret)})
        found = []
        for zone in self.zones:
            content = dns.zone.Zone(zone, relativize=False)
            query, _ = dns.xfr.make_query(content, keyring=keyring, keyname=dns.name.from_text(self.key_name))
            dns.query.inbound_xfr(self.address, content, query, port=self.port, lifetime=10)
            for name, _, rdata in content.iterate_rdatas():
                kind = dns.rdatatype.to_text(rdata.rdtype)
                if kind not in {"SOA", "NS"}:
                    found.append((name.to_text(), kind, rdata.to_text()))
        return sorted(found)

    def make(self, entries: Iterable[Entry]) -> None:
        """Make it serve exactly these (absolute name, type, value), as :meth:`entries` answered them."""
        now, wanted = set(self.entries()), set(entries)
        keyring = dns.tsigkeyring.from_text({self.key_name: ("hmac-sha256", self.key_secret)})
        for zone in self.zones:
            update = dns.update.UpdateMessage(zone, keyring=keyring, keyname=dns.name.from_text(self.key_name))
            for name, kind, value in now - wanted:
                if name.endswith(f".{zone}"):
                    update.delete(name, kind, value)
            for name, kind, value in wanted - now:
                if name.endswith(f".{zone}"):
                    update.add(name, SECONDS_TO_LIVE, kind, value)
            if update.update and dns.query.tcp(update, self.address, port=self.port, timeout=10).rcode() != 0:
                raise RuntimeError(f"{self.address} does not serve {zone} as it should")

    def _answers(self) -> str | None:
        for zone in self.zones:
            question = dns.message.make_query(zone, "SOA")
            try:
                answer = dns.query.udp(question, self.address, port=self.port, timeout=0.1)
            except (OSError, dns.exception.DNSException) as error:
                return f"{self.address}:{self.port} does not answer for {zone} ({type(error).__name__})"
            if not answer.answer:
                return f"{self.address}:{self.port} does not serve {zone} yet"
        return None

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        head = f"@ {SECONDS_TO_LIVE} SOA ns.{self.zone} hostmaster.{self.zone} 1 3600 600 86400 60\n"
        head += f"@ {SECONDS_TO_LIVE} NS ns.{self.zone}\n"
        forward = [*self._entries, ("ns", "A", self.address)]
        lines = "".join(f"{name} {SECONDS_TO_LIVE} {kind} {value}\n" for name, kind, value in forward)
        (self.folder / "forward.zone").write_text(f"$ORIGIN {self.zone}\n{head}{lines}")
        pointers = "".join(
            f"{ipaddress.ip_address(address).reverse_pointer}. {SECONDS_TO_LIVE} PTR {self._absolute(name)}\n"
            for address, name in self._pointers
        )
        (self.folder / "reverse.zone").write_text(f"$ORIGIN {self.reverse}\n{head}{pointers}")
        config = self.folder / "knot.conf"
        config.touch(mode=0o600)
        (self.folder / "db").mkdir(exist_ok=True)
        config.write_text(
            f"""
server:
    rundir: "{self.folder}"
    listen: {self.address}@{self.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{self._socket()}"
database:
    storage: "{self.folder}/db"
    journal-db-max-size: 16M
    kasp-db-max-size: 5M
    timer-db-max-size: 1M
log:
  - target: stdout
    any: info
key:
  - id: {self.key_name}
    algorithm: hmac-sha256
    secret: {self.key_secret}
acl:
  - id: updates
    key: {self.key_name}
    action: {"[update, transfer]" if self._transfer else "update"}
template:
  - id: default
    storage: "{self.folder}"
    acl: updates
    zonefile-sync: 0
    journal-max-usage: 4M
zone:
  - domain: {self.zone}
    file: forward.zone
  - domain: {self.reverse}
    file: reverse.zone
"""
        )

    def _socket(self) -> Path:
        """Where Knot's control socket goes: a socket's path may have 107 characters at most."""
        beside = self.folder / "knot.sock"
        if len(str(beside)) < 100:
            return beside
        self._short = tempfile.TemporaryDirectory(prefix="lab-dns-")
        return Path(self._short.name) / "knot.sock"

    def _absolute(self, name: str) -> str:
        return name if name.endswith(".") else f"{name}.{self.zone}"
