"""A record, which of them belong to some addresses, and what a place where records stand can do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

ADDRESS_TYPES = {"A", "AAAA"}
#: Of a signed zone; the server makes them anew after every change.
_MADE_BY_THE_SERVER = {"RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "CDS", "CDNSKEY"}


@dataclass(frozen=True, order=True)
class Record:
    """One record: absolute lower-case name, type, value as text. ``raw`` is the provider's own form, ``ttl`` is in seconds."""

    name: str
    type: str
    value: str
    ttl: int = 0
    zone: str = ""
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.name.rstrip('.')} {self.type} {self.value.rstrip('.')}"

    def key(self) -> tuple[str, str, str]:
        """What the record is, without how long it is cached."""
        return self.name, self.type, self.value


def absolute(name: str) -> str:
    """A name with its final dot, in lower case."""
    return name.strip().rstrip(".").lower() + "."


def pointer(address: str) -> str:
    """The reverse name of an address."""
    return ipaddress.ip_address(address).reverse_pointer + "."


@dataclass(frozen=True)
class Selection:
    """``records`` go; ``mentions`` are sentences about what stays although it names them."""

    records: tuple[Record, ...]
    mentions: tuple[str, ...]


def belonging(records: Sequence[Record], addresses: Iterable[str]) -> Selection:
    """Which records belong to these addresses alone. Pure."""
    wanted = {ipaddress.ip_address(a.split("/")[0]) for a in addresses}
    pointers = {pointer(str(a)) for a in wanted}

    def ours(record: Record) -> bool:
        try:
            return record.type in ADDRESS_TYPES and ipaddress.ip_address(record.value) in wanted
        except ValueError:
            return False

    chosen = [r for r in records if ours(r) or (r.type == "PTR" and r.name in pointers)]
    alive = {r.name for r in records if r.type in ADDRESS_TYPES and not ours(r)}
    gone = {r.name for r in chosen if r.type in ADDRESS_TYPES} - alive
    half = {r.name for r in chosen if r.type in ADDRESS_TYPES} & alive
    aliases = [r for r in records if r.type == "CNAME"]
    while True:
        more = [r for r in aliases if r not in chosen and absolute(r.value) in gone and r.name not in alive]
        if not more:
            break
        chosen += more
        gone |= {r.name for r in more}
    mentions = [f"{name.rstrip('.')} keeps its other addresses" for name in sorted(half)]
    mentions += [f"{r}: stays, because the name it leads to keeps another address" for r in aliases if absolute(r.value) in half]
    for record in records:
        if record in chosen or record.type in ADDRESS_TYPES | {"CNAME"} | _MADE_BY_THE_SERVER:
            continue
        words = {absolute(word) for word in record.value.replace('"', " ").split()}
        if words & gone or any(str(a) in record.value.replace('"', " ").replace(":", " ").split() for a in wanted):
            mentions.append(f"{record}: points to a server that is to be deleted; change it by hand")
    return Selection(tuple(sorted(set(chosen))), tuple(mentions))


def kind_of(value: str) -> str:
    """The type of a record with this value: of an address, or of an alias."""
    try:
        return "A" if ipaddress.ip_address(value).version == 4 else "AAAA"
    except ValueError:
        return "CNAME"


class Provider(Protocol):
    """One place where names stand."""

    title: str
    by_hand: bool

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        """Everything it can show; where it cannot list, at least what concerns these addresses and names."""

    def cautions(self) -> list[str]:
        """What it could not see, as sentences."""

    def delete(self, records: Sequence[Record]) -> None:
        """Delete exactly these, which it has just listed."""

    def put_back(self, records: Sequence[Record]) -> None:
        """Add exactly these; those that are there already are left alone."""
