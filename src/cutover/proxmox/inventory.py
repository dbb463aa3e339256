"""Every guest of the cluster that our key may see, with every address that Proxmox knows of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError
from cutover.proxmox import identity

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox


@dataclass(frozen=True)
class FoundGuest:
    """A guest as Proxmox has it. ``addresses`` with where each is from.

    ``silent``: nobody inside could be asked, and it runs or may run. ``unread``: its node does not answer, so not even its
    configuration is known.
    """

    vmid: int
    kind: str
    name: str
    node: str
    running: bool
    addresses: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False
    unread: bool = False

    def __str__(self) -> str:
        return f"{'LXC' if self.kind == 'lxc' else 'VM'} {self.vmid} ({self.name})"


def look(proxmox: Proxmox, rows: Sequence[Mapping[str, Any]] | None = None) -> list[FoundGuest]:
    """Every guest of the cluster that we may see, with every address that Proxmox knows of it. ``rows``: asked a moment ago."""
    found = []
    for row in proxmox.guests() if rows is None else rows:
        vmid, kind = int(row["vmid"]), "lxc" if row.get("type") == "lxc" else "vm"
        running = row.get("status") == "running"
        path = f"nodes/{row['node']}/{'lxc' if kind == 'lxc' else 'qemu'}/{vmid}"
        addresses = dict.fromkeys(identity.static_addresses(row.get("config") or {}), "its configuration")
        # Of a guest whose node does not answer nobody knows whether it runs, and with which address.
        silent = "unread" in row
        if running:
            try:
                inside = _interfaces(proxmox, path, kind)
            except CutoverError:
                silent = not addresses
            else:
                addresses.update(dict.fromkeys(inside, "its own interfaces"))
        found.append(
            FoundGuest(vmid, kind, str(row.get("name") or ""), str(row.get("node")), running, addresses, silent, "unread" in row)
        )
    return found


def _interfaces(proxmox: Proxmox, path: str, kind: str) -> list[str]:
    """The addresses that a running guest has, from inside; not those that every machine has."""
    if kind == "lxc":
        rows = proxmox.list(f"{path}/interfaces")
    else:
        rows = dict(proxmox.get(f"{path}/agent/network-get-interfaces")).get("result") or []
    return [
        str(entry["ip-address"])
        for row in rows
        if row.get("name") != "lo"
        for entry in row.get("ip-addresses") or _before_9(row)
        if not ipaddress.ip_address(str(entry["ip-address"]).split("%")[0]).is_link_local
    ]


def _before_9(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """What older versions say of a container's interface: one address of each kind, with its prefix."""
    return [{"ip-address": str(row[key]).split("/")[0]} for key in ("inet", "inet6") if row.get(key)]
