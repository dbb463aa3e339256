"""The guests: whether each is the one that the plan names, and whether the address that traffic will go to is one machine's."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import CutoverError, Unreachable

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest


@dataclass(frozen=True)
class Seen:
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


def configured(config: Mapping[str, Any]) -> list[str]:
    """The fixed addresses that a guest's configuration gives it (net0 of containers, ipconfig0 of VMs). Pure."""
    found = []
    for key, value in sorted(config.items()):
        if re.fullmatch(r"(net|ipconfig)\d+", key):
            found += [match[1] for match in re.finditer(r"(?:^|,)ip6?=([^,/]+)/\d+", str(value))]
    return found


def look(context: Context) -> list[Seen]:
    """Every guest of the cluster that we may see, with every address that Proxmox knows of it."""
    found = []
    for row in context.proxmox.guests():
        vmid, kind = int(row["vmid"]), "lxc" if row.get("type") == "lxc" else "vm"
        running = row.get("status") == "running"
        path = f"nodes/{row['node']}/{'lxc' if kind == 'lxc' else 'qemu'}/{vmid}"
        addresses = dict.fromkeys(configured(row.get("config") or {}), "its configuration")
        # Of a guest whose node does not answer nobody knows whether it runs, and with which address.
        silent = "unread" in row
        if running:
            try:
                inside = _interfaces(context, path, kind)
            except CutoverError:
                silent = not addresses
            else:
                addresses.update(dict.fromkeys(inside, "its own interfaces"))
        found.append(
            Seen(vmid, kind, str(row.get("name") or ""), str(row.get("node")), running, addresses, silent, "unread" in row)
        )
    return found


def _interfaces(context: Context, path: str, kind: str) -> list[str]:
    """The addresses that a running guest has, from inside; not those that every machine has."""
    if kind == "lxc":
        rows = context.proxmox.list(f"{path}/interfaces")
    else:
        rows = dict(context.proxmox.get(f"{path}/agent/network-get-interfaces")).get("result") or []
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


def resolved(address: str) -> frozenset[str]:
    """An address as addresses: itself, or what its name stands for; empty where the name stands for nothing."""
    try:
        return frozenset({str(ipaddress.ip_address(address))})
    except ValueError:
        try:
            return frozenset(str(info[4][0]) for info in socket.getaddrinfo(address, None))
        except OSError:
            return frozenset()


def owner_trouble(seen: Sequence[Seen], wanted: Guest, address: str, host: Sequence[str] = ()) -> list[str]:
    """What speaks against ``wanted`` being the only machine with ``address``, as sentences. Pure."""
    said = []
    if address in host:
        said.append(f"the Proxmox host itself has {address}")
    holders = [guest for guest in seen if address in guest.addresses]
    too = " as well" if len(holders) > 1 else ""
    said += [f"{guest} has {address}{too} (in {guest.addresses[address]})" for guest in holders if guest.vmid != wanted.vmid]
    if wanted.vmid not in {guest.vmid for guest in holders}:
        own = next((guest for guest in seen if guest.vmid == wanted.vmid), None)
        has = "does not exist" if own is None else f"has {', '.join(sorted(own.addresses)) or 'no address that Proxmox knows'}"
        said.append(f"{wanted} {has}, not {address}")
    return said


@check("A2", "Exactly one machine has the address that Nginx will be pointed to, and it is the new server's VM",
       moments={Moment.BEFORE, Moment.AT_SWITCH})  # fmt: skip
def one_owner(context: Context) -> Finding:
    """Every guest's configuration and interfaces, and the host's own addresses."""
    wanted, address = context.site.guests.new, context.site.guests.new.address
    seen = look(context)
    own = next((guest for guest in seen if guest.vmid == wanted.vmid), None)
    if own is not None and own.running and not own.addresses:
        return Finding(
            None, f"{wanted} does not say which address it has.", "Start the guest agent in it (qemu-guest-agent, agent=1)."
        )
    host, mute = _nodes_addresses(context)
    said = owner_trouble(seen, wanted, address, host)
    facts = {str(guest.vmid): dict(guest.addresses) for guest in seen}
    if said:
        hint = f"Nothing is pointed to {address} until one machine has it. Mind that the id of a guest is no part of its address."
        return Finding(False, f"{address} is not {wanted} alone: {'; '.join(said)}.", hint, facts)
    unread = [f"{guest.vmid} on node {guest.node}" for guest in seen if guest.unread] + [f"node {node} itself" for node in mute]
    if unread:
        return Finding(
            None, f"Nobody knows whether {wanted} alone has {address}: {', '.join(unread)} cannot be asked.",
            "Bring these nodes back, or remove them from the cluster.", facts,
        )  # fmt: skip
    silent = [str(guest) for guest in seen if guest.silent]
    rest = f" {', '.join(silent)} could not be asked." if silent else ""
    return Finding(True, f"Of {len(seen)} guests, only {wanted} has {address}.{rest}", facts=facts)


def _nodes_addresses(context: Context) -> tuple[list[str], list[str]]:
    """(the addresses of every node of the cluster, the nodes that do not answer)."""
    found, mute = [], []
    for node in sorted({str(row["node"]) for row in context.proxmox.list("nodes")} | {context.proxmox.node}):
        try:
            rows = context.proxmox.list(f"nodes/{node}/network")
        except Unreachable:
            mute.append(node)
            continue
        found += [str(row.get("address") or str(row.get("cidr") or "").split("/")[0]) for row in rows]
    return [address for address in found if address], mute


def mismatches(seen: Sequence[Seen], wanted: Guest, node: str) -> list[str]:
    """Where a guest is not the one that the plan names. Pure."""
    found = next((guest for guest in seen if guest.vmid == wanted.vmid), None)
    if found is None:
        return [f"{wanted} does not exist"]
    said = []
    if found.kind != wanted.kind:
        said.append(f"{wanted.vmid} is {'an LXC' if found.kind == 'lxc' else 'a VM'}, the plan says {wanted.kind.upper()}")
    if found.name != wanted.name:
        said.append(f"{wanted.vmid} is called {found.name}, the plan says {wanted.name}")
    if found.node != (wanted.node or node):
        said.append(f"{wanted} is on node {found.node}, the plan says {wanted.node or node}")
    return said


@check(
    "A3", "Every server is the one that the plan names: id, kind, name, address", moments={Moment.BEFORE, Moment.BEFORE_DELETING}
)
def as_named(context: Context) -> Finding:
    """All mismatches at once."""
    from cutover.phases.decommission import approval

    seen = look(context)
    said: list[str] = []
    unknown: list[str] = []
    for guest in context.site.guests.all():
        if approval(context, guest) is not None:
            continue  # decommissioning compares it with what was approved; it is stopped, and may be gone by now
        own = next((one for one in seen if one.vmid == guest.vmid), None)
        if own is not None and own.unread:
            unknown.append(f"{guest} is on node {own.node}, which does not answer")
            continue
        wrong = mismatches(seen, guest, context.proxmox.node)
        said += wrong
        if wrong or own is None:
            continue
        means = resolved(guest.address)
        if not means:
            unknown.append(f"the name {guest.address} of {guest} stands for no address")
        elif not own.addresses:
            unknown.append(f"{guest} does not say which address it has")
        elif not means & set(own.addresses):
            said.append(f"{guest} has {', '.join(sorted(own.addresses))}, the plan says {guest.address}")
    if said:
        return Finding(
            False, f"Not every server is the one that the plan names: {'; '.join(said)}.", "Correct site.yaml, or look again."
        )
    if unknown:
        return Finding(None, f"Not every server could be compared with the plan: {'; '.join(unknown)}.")
    return Finding(True, f"All {len(context.site.guests.all())} servers are those that the plan names.")
