"""Which name servers know the guests that leave, in which zones, and by which way their records can be changed.

Asked are those that Proxmox' node, the Nginx host and this machine use, and those that the operator names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.reversename
import requests

from cutover.core import http
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError
from cutover.core.write_guard import WriteGuard
from cutover.discovery.facts import Found
from cutover.site.schema import in_url, is_ip

_PATIENCE = 2.0


def servers_in(resolv_conf: str) -> tuple[list[str], list[str]]:
    """(name servers, search domains) of a resolv.conf, without what only its own machine can ask. Pure."""
    servers, domains = [], []
    for line in resolv_conf.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1 and not words[1].startswith(("127.", "::1", "fe80")):
            servers.append(words[1])
        elif words[:1] in (["search"], ["domain"]):
            domains += words[1:]
    return servers, domains


def own() -> str:
    """The resolv.conf of the operator's own machine."""
    try:
        return Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def say(
    asked: Iterable[str], domains: Iterable[str], guests: Sequence[tuple[str, str]], credentials: Credentials, found: Found
) -> None:
    """The servers (``host`` or ``host:port``) that know one of ``guests`` (name, address), for ``dns`` of ``site.yaml``."""
    tried, rows, silent = [], [], []
    for server, port in dict.fromkeys(map(_split, asked)):
        text = server if port == 53 else f"{in_url(server)}:{port}"
        tried.append(text)
        known = _known(server, port, guests, list(dict.fromkeys(domains)))
        if known is None:
            silent.append(text)
        elif known.names:
            rows.append(_row(server, port, known, credentials))
    if rows and silent:
        found.notes.append(f"{', '.join(silent)} did not answer, so nobody knows whether a guest that leaves is named there.")
    if rows:
        found.add("dns", rows, "name servers that know the guests by name or address", chosen=True)
    elif not tried or silent:
        why = f"{', '.join(silent)} did not answer" if silent else "no name server is known"
        found.gap("dns", why, "cat /etc/resolv.conf")
    else:
        found.add(
            "dns",
            [],
            f"{' and '.join(tried)} {'knows' if len(tried) == 1 else 'know'} no name of a guest that leaves",
            chosen=True,
        )


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return text.strip("[]"), 53


def _ask(server: str, port: int, name: dns.name.Name, kind: str) -> dns.message.Message | None:
    from cutover.dns.asking import resolve

    try:
        return dns.query.udp(dns.message.make_query(name, kind), resolve(server), port=port, timeout=_PATIENCE)
    except (dns.exception.DNSException, OSError, ValueError, OverflowError, CutoverError):  # the last but one: of the port
        return None


@dataclass(frozen=True)
class _Known:
    """What a server knows of the guests: whether it has any, in which zones, and whether it is their own server.

    One of a list of hosts (dnsmasq, Pi-hole) has names, and no zone that they are in.
    """

    names: bool
    zones: Sequence[str]
    authoritative: bool


def _known(server: str, port: int, guests: Sequence[tuple[str, str]], domains: Sequence[str]) -> _Known | None:
    """What a server knows of the guests; None where it does not answer."""
    zones: set[str] = set()
    authoritative, heard = False, False
    more = set(domains)
    questions = [(dns.reversename.from_address(address), "PTR") for _, address in guests if is_ip(address)]
    for name, kind in questions:
        answer = _ask(server, port, name, kind)
        if answer is None and not heard:
            return None
        heard = True
        for rrset in answer.answer if answer is not None else ():
            authoritative |= bool(answer.flags & dns.flags.AA) if answer is not None else False
            zones.add(_zone(server, port, name))
            more |= {item.target.parent().to_text() for item in rrset if rrset.rdtype == dns.rdatatype.PTR}
    for label, address in guests:
        for domain in more:
            try:
                name = dns.name.from_text(label, dns.name.from_text(domain))
            except dns.exception.DNSException:  # a line of a resolv.conf may say anything
                continue
            answer = _ask(server, port, name, "AAAA" if ":" in address else "A")
            heard |= answer is not None
            if answer is not None and answer.answer:
                authoritative |= bool(answer.flags & dns.flags.AA)
                zones.add(_zone(server, port, name))
    return _Known(bool(zones), sorted(zone for zone in zones if zone), authoritative) if heard else None


def _zone(server: str, port: int, name: dns.name.Name) -> str:
    """The zone that a name is in, by its SOA."""
    answer = _ask(server, port, name, "SOA")
    for section in (answer.answer, answer.authority) if answer is not None else ():
        for rrset in section:
            if rrset.rdtype == dns.rdatatype.SOA:
                return rrset.name.to_text(omit_final_dot=True)
    return ""


def _row(server: str, port: int, known: _Known, credentials: Credentials) -> dict[str, Any]:
    for kind, path in (("pihole", "/api/auth"), ("adguard", "/control/status")):
        for scheme in ("https", "http"):
            url = f"{scheme}://{in_url(server)}"
            if _is(f"{url}{path}", kind):
                return {"kind": kind, "url": url} | ({"insecure": True} if scheme == "http" else {})
    if known.authoritative and known.zones and credentials.get("DNS_TSIG_NAME"):
        return {"kind": "rfc2136", "server": server, "port": port, "zones": list(known.zones)}
    return {"kind": "report", "server": server, "port": port}


def _is(url: str, kind: str) -> bool:
    try:
        with http.session(WriteGuard(), timeout=(1.0, _PATIENCE)) as session:
            answer = session.get(url)
            said = answer.json() if kind == "pihole" else {}
    except (CutoverError, requests.RequestException, ValueError):
        return False
    if kind == "pihole":
        return isinstance(said, dict) and "session" in said
    return answer.status_code in {200, 401, 403} and "adguard" in (answer.text + str(answer.headers)).lower()
