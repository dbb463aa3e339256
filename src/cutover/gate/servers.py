"""A server by its addresses and names, as configurations write them. Nothing here touches a host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

#: Who a name is: its addresses, empty where nobody knows.
Resolve = Callable[[str], Collection[str]]


@dataclass(frozen=True)
class Server:
    """A server by its addresses and names, and its port."""

    hosts: frozenset[str]
    port: int

    @classmethod
    def of(cls, netloc: str, resolve: Resolve = lambda _: ()) -> Server:
        """From ``host:port``; without a port it is 80."""
        host, port = split(netloc)
        return cls(frozenset({plain(host), *map(plain, resolve(host) if not is_ip(host) else ())}), port or 80)


def split(netloc: str) -> tuple[str, int]:
    """Host and port of ``host:port``; 0 where there is none."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", netloc)
    return (found[1], int(found[2] or 0)) if found else (netloc, 0)


def plain(host: str) -> str:
    """An address or name in one spelling."""
    host = host.strip("[]").lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_ip(host: str) -> bool:
    """Whether it is an address and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
