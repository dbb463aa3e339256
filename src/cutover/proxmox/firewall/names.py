"""What a source or destination of a rule stands for: names followed to addresses, and whose these are."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cutover.proxmox.firewall.rules import CLUSTER, Firewall, title

_ALIAS = re.compile(r"^(?P<scope>dc/|guest/)?(?P<name>[A-Za-z][A-Za-z0-9_-]+)$")
_SET = re.compile(r"^\+(?P<scope>dc/|guest/|sdn/)?(?P<name>[A-Za-z][A-Za-z0-9_-]+)$")


@dataclass(frozen=True)
class Span:
    """All addresses from ``first`` to ``last`` of one IP version, both included."""

    version: int
    first: int
    last: int


def span(text: str) -> Span | None:
    """An address, network or range as Proxmox writes them; None where it is something else."""
    try:
        if "-" in text:
            one, two = (ipaddress.ip_address(part.strip()) for part in text.split("-", 1))
            return Span(one.version, int(one), int(two)) if one.version == two.version else None
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None
    return Span(network.version, int(network.network_address), int(network.broadcast_address))


def _hosts(addresses: Iterable[str]) -> frozenset[tuple[int, int]]:
    parsed = (ipaddress.ip_address(address.split("/")[0]) for address in addresses)
    return frozenset((address.version, int(address)) for address in parsed)


@dataclass(frozen=True)
class Going:
    """The guests that leave: their ids and addresses (without prefix length).

    ``later`` are those that leave after them and are still there: their own rules are no concern of anybody who stays, but go
    with their file (and into their final backup before), so nothing is taken out of them and no name that they use goes yet.
    """

    vmids: frozenset[int]
    addresses: frozenset[str]
    later: frozenset[int] = frozenset()

    def only(self, spans: Sequence[Span] | None) -> bool:
        """Whether there is at least one address and every one belongs to a departing guest."""
        hosts = _hosts(self.addresses)
        return bool(spans) and all(self._inside(s, hosts) == s.last - s.first + 1 for s in spans or ())

    def touched(self, spans: Sequence[Span] | None) -> bool:
        """Whether any address belongs to a departing guest."""
        hosts = _hosts(self.addresses)
        return any(self._inside(s, hosts) for s in spans or ())

    @staticmethod
    def _inside(s: Span, hosts: frozenset[tuple[int, int]]) -> int:
        return sum(1 for version, host in hosts if version == s.version and s.first <= host <= s.last)


Name = tuple[str, str, str]
"""("alias" | "set", base, name)"""


@dataclass(frozen=True)
class Meaning:
    """What a reference stands for: its addresses (None = cannot be known here) and the names it goes through."""

    spans: tuple[Span, ...] | None
    through: frozenset[Name] = frozenset()
    guest: int | None = None


def meaning(firewall: Firewall, base: str, text: str) -> Meaning:
    """Follow ``source``, ``dest`` or a set's member, seen from ``base``, to addresses. Bare names: guest, then datacenter."""
    found = _SET.match(text)
    if found:
        if found["scope"] == "sdn/":
            owner = re.match(r"^guest-ipam-(\d+)$", found["name"])
            return Meaning(None, guest=int(owner[1]) if owner else None)
        for where in _scopes(base, found["scope"]):
            known = firewall.sets.get(where, {}).get(found["name"])
            if known is None:
                continue
            parts = [meaning(firewall, where, str(m["cidr"])) for m in known["members"]]
            through = frozenset({("set", where, found["name"])}).union(*(p.through for p in parts))
            positive = [p for p, m in zip(parts, known["members"], strict=True) if not int(m.get("nomatch") or 0)]
            if any(p.spans is None for p in positive):
                return Meaning(None, through)
            return Meaning(tuple(s for p in positive for s in p.spans or ()), through)
        return Meaning(None)
    found = _ALIAS.match(text)
    if found:
        for where in _scopes(base, found["scope"]):
            alias = firewall.aliases.get(where, {}).get(found["name"].lower())
            if alias is not None:
                one = span(str(alias["cidr"]))
                return Meaning((one,) if one else None, frozenset({("alias", where, found["name"].lower())}))
        return Meaning(None)
    spans = [span(part) for part in text.split(",")]
    return Meaning(None) if any(s is None for s in spans) else Meaning(tuple(s for s in spans if s is not None))


def _scopes(base: str, prefix: str | None) -> tuple[str, ...]:
    if prefix == "dc/":
        return (CLUSTER,)
    if prefix == "guest/":
        return (base,)
    return (base,) if base == CLUSTER else (base, CLUSTER)


def prefix_of(base: str) -> str:
    return "dc/" if base == CLUSTER else "guest/"


def named(name: Name) -> str:
    return f"{'Alias' if name[0] == 'alias' else 'IP set'} {name[2]} of {title(name[1])}"
