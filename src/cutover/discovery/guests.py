"""The guests of the plan, their nodes, addresses and sizes, and the storages: what Proxmox says.

A guest is found by what the operator or an earlier ``site.yaml`` says, else by its name where one guest alone has it, else by the
id that the plan names. Names come before ids, because an id says nothing about what is in a guest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError, Refused
from cutover.core.units import GIB
from cutover.discovery.facts import Found
from cutover.proxmox import identity, inventory, vm
from cutover.proxmox.inventory import FoundGuest

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox

#: Kind, id and name of the plan's guests.
PLAN: Mapping[str, tuple[str, int, str]] = {
    "nginx": ("lxc", 101, "nginx"),
    "vllm": ("lxc", 801, "vllm"),
    "old": ("lxc", 952, "qdrant"),
    "new": ("vm", 1001, "portainer"),
}
LEGACY = (950, 951, 953)
#: The parts that only a guest of the plan's kind can have: a container is restored and deleted, a VM made larger.
OF_ITS_KIND = frozenset({"old", "new"})
SCRATCH = 9952
LIST = "pvesh get /cluster/resources --type vm"

#: The guest that has a part in the move, and how that is known.
Part = tuple[FoundGuest, str]


@dataclass(frozen=True)
class Guests:
    """Every guest, and which of them has which part in the plan, with who says so."""

    seen: Sequence[FoundGuest]
    roles: Mapping[str, Part]
    legacy: Sequence[Part]
    configs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    wished: Mapping[str, str] = field(default_factory=dict)
    undecided: Mapping[str, Sequence[FoundGuest]] = field(default_factory=dict)
    """Of a part that no guest has: those that could have it."""

    def nobody(self, role: str) -> str:
        """Why no guest has a part, a clause."""
        kind, vmid, name = PLAN[role]
        could = self.undecided.get(role) or candidates(self.seen, role, self.wished)
        if len(could) > 1:
            return f"{', '.join(map(str, could))} could be it; say which with --guest {role}=ID"
        needed = "LXC" if kind == "lxc" else "VM"
        if role in self.wished:
            if others := [guest for guest in self.seen if _is(guest, self.wished[role])]:
                return f"{', '.join(map(str, others))} cannot be it, which has to be {'an' if kind == 'lxc' else 'a'} {needed}"
            return f"no guest that the token may see is called {self.wished[role]} or has that id"
        return f"no {needed} that the token may see is called {name}, and {vmid} is none"

    def address(self, role: str) -> str:
        """The address of a part's guest; empty where nobody knows it."""
        return self.address_of(self.roles[role][0])[0] if role in self.roles else ""

    def address_of(self, guest: FoundGuest) -> tuple[str, str]:
        """(the address by which others reach a guest, who says so): what it was given, else one in a network of its node."""
        given = identity.static_addresses(self.configs.get(guest.vmid, {}))
        known = [address.split("%")[0] for address in guest.addresses]
        near = [one for one in known if any(ipaddress.ip_address(one) in network for network in self.networks)]
        known.sort(key=lambda one: (":" in one, one.startswith("172.")))  # Docker's own networks last
        first = next(iter([*given, *near, *known]), "")
        return first, guest.addresses.get(first, "its configuration") if first else ""

    def owner(self, addresses: Iterable[str]) -> FoundGuest | None:
        """The guest that has one of these addresses."""
        wanted = set(addresses)
        return next((guest for guest in self.seen if wanted & set(guest.addresses)), None)


def assign(seen: Sequence[FoundGuest], wished: Mapping[str, str]) -> tuple[dict[str, Part], list[Part]]:
    """Which guest has which part (parts that no guest has are missing), and the legacy ones. Pure. ``wished``: ids or names."""
    roles: dict[str, Part] = {}
    for role, (kind, vmid, name) in PLAN.items():
        if role in wished:
            found = candidates(seen, role, wished)
            source = "you"
        else:
            fits = [guest for guest in seen if guest.kind == kind]
            named = candidates(seen, role, wished)
            by_id = [guest for guest in named or fits if guest.vmid == vmid]
            found = by_id or (named if len(named) == 1 else [])
            source = "its name" if found and found[0] in named else f"the plan's id; its name is not {name}, so look twice"
        if len(found) == 1:
            roles[role] = (found[0], source)
    taken = {guest.vmid for guest, _ in roles.values()}
    wanted = wished["legacy"].split(",") if "legacy" in wished else [str(vmid) for vmid in LEGACY]
    said = "you" if "legacy" in wished else "the plan's id"
    legacy = [
        (guest, said)
        for guest in seen
        if {str(guest.vmid), guest.name} & {one.strip() for one in wanted if one.strip()}
        and guest.vmid not in taken
        and (guest.kind == "lxc" or "legacy" in wished)
    ]
    return roles, legacy


def candidates(seen: Sequence[FoundGuest], role: str, wished: Mapping[str, str]) -> list[FoundGuest]:
    """The guests that are called as the operator says, else as in the plan. Pure."""
    kind, _, name = PLAN[role]
    fits = [guest for guest in seen if guest.kind == kind]
    if role in wished:
        return [guest for guest in (fits if role in OF_ITS_KIND else seen) if _is(guest, wished[role])]
    return [guest for guest in fits if guest.name == name] or [guest for guest in fits if name in guest.name]


def _is(guest: FoundGuest, said: str) -> bool:
    return said in {str(guest.vmid), guest.name}


def look(api: Proxmox, wished: Mapping[str, str]) -> Guests:
    """Ask Proxmox for every guest. :class:`Refused` where it shows none: then nobody knows what is there."""
    rows = api.guests()
    if not rows:
        raise Refused(
            f"Proxmox shows no guest to the token {api.token}, so nothing can be found out.",
            "Give it PVEAuditor on / with propagation; a token with privilege separation needs that itself, beside its user.",
        )
    seen = inventory.look(api, rows)
    configs = {int(row["vmid"]): row.get("config") or {} for row in rows}
    networks = []
    for node in sorted({guest.node for guest in seen}):
        try:
            bridges = api.list(f"nodes/{node}/network")
        except CutoverError:
            continue
        networks += [ipaddress.ip_interface(str(row["cidr"])).network for row in bridges if row.get("cidr")]
    return Guests(seen, *assign(seen, wished), configs, networks, wished)


def say(guests: Guests, api: Proxmox, found: Found) -> None:
    """Everything of ``site.yaml`` that Proxmox knows."""
    new = guests.roles.get("new")
    node = new[0].node if new else next(iter(sorted({guest.node for guest in guests.seen})), "")
    found.add("proxmox.node", node, f"where {new[0]} is" if new else "the first node of the cluster")
    for role in PLAN:
        if role in guests.roles:
            guest, source = guests.roles[role]
            _say_guest(f"guests.{role}", guests, guest, source, node, found)
        else:
            found.gap(f"guests.{role}", guests.nobody(role), LIST)
    rows = [_guest(guests, guest, node) for guest, _ in guests.legacy]
    if all(row.get("address") for row in rows):
        said = "guests with the plan's ids" if guests.legacy and guests.legacy[0][1] != "you" else "you"
        found.add("guests.legacy", rows, f"{said}; they are deleted in the end, so look twice" if rows else "no guest has them")
    else:
        mute = ", ".join(str(guest) for guest, _ in guests.legacy if not guests.address_of(guest)[0])
        found.gap("guests.legacy", f"{mute} does not say which address it has", f"pct config {guests.legacy[0][0].vmid}")
    taken = {guest.vmid for guest in guests.seen}
    free = next(vmid for vmid in range(SCRATCH, SCRATCH + len(taken) + 1) if vmid not in taken)
    found.add("proxmox.scratch_vmid", free, "no guest has it", chosen=True)
    _say_storages(api, node, found)
    _say_sizes(guests, found)
    _say_name(api, found, node)


def _guest(guests: Guests, guest: FoundGuest, node: str) -> dict[str, Any]:
    address, _ = guests.address_of(guest)
    row: dict[str, Any] = {"vmid": guest.vmid, "kind": guest.kind, "name": guest.name, "address": address}
    return row | ({"node": guest.node} if guest.node != node else {})


def _say_guest(where: str, guests: Guests, guest: FoundGuest, source: str, node: str, found: Found) -> None:
    row = _guest(guests, guest, node)
    if row["address"]:
        found.add(where, row, f"Proxmox by {source}, its address by {guests.address_of(guest)[1]}")
    else:
        inside = "pct exec" if guest.kind == "lxc" else "qm guest cmd"
        tell = f"{inside} {guest.vmid} {'-- ip address' if guest.kind == 'lxc' else 'network-get-interfaces'}"
        found.gap(where, f"{guest} does not say which address it has (start it, or its guest agent)", tell)


def _say_storages(api: Proxmox, node: str, found: Found) -> None:
    rows = [row for row in api.list(f"nodes/{node}/storage") if row.get("active", 1) and row.get("enabled", 1)]
    for use, content in (("backup", "backup"), ("restore", "rootdir")):
        fit = [row for row in rows if content in str(row.get("content", "")).split(",")]
        fit.sort(key=lambda row: int(row.get("avail") or 0), reverse=True)
        if fit:
            first, *others = fit
            room = f"{int(first.get('avail') or 0) / GIB:.0f} GiB free" if first.get("avail") else "room unknown"
            rest = f"; {', '.join(str(row['storage']) for row in others)} would do as well" if others else ""
            found.add(
                f"proxmox.storages.{use}", str(first["storage"]), f"storage that takes {content}, {room}{rest}",
                also=[str(row["storage"]) for row in others],
            )  # fmt: skip
        else:
            found.gap(
                f"proxmox.storages.{use}",
                f"no storage of {node} that the token may see takes {content}",
                f"pvesm status --content {content}",
            )


def _say_sizes(guests: Guests, found: Found) -> None:
    """The VM's sizes now, and with what the old server's guest has on top: that is what moves into it."""
    if "new" not in guests.roles:
        found.gap("resize.before", "the VM is not known", LIST)
        found.gap("resize.after", "the VM is not known", LIST)
        return
    new, config = guests.roles["new"][0], guests.configs.get(guests.roles["new"][0].vmid, {})
    disk = identity.boot_disk(config)
    if not disk:
        found.gap("resize.disk", f"{new} shows no disk", f"qm config {new.vmid}")
        return
    found.add("resize.disk", disk, f"the disk from which {new} boots")
    names = ("cores", "memory_mb", "disk_gb")
    before = dict(zip(names, vm.sizes_of(config, disk), strict=True))
    found.add("resize.before", before, f"what {new} has now")
    if "old" not in guests.roles:
        found.gap("resize.after", "the guest whose work moves there is not known", LIST)
        return
    old = guests.roles["old"][0]
    more = dict(zip(names, vm.sizes_of(guests.configs.get(old.vmid, {}), "rootfs"), strict=True))
    after = {name: before[name] + more[name] for name in names}
    found.add("resize.after", after, f"that, and what {old} has", chosen=True)


def _say_name(api: Proxmox, found: Found, node: str) -> None:
    rows = api.list("cluster/status")
    cluster = next((str(row["name"]) for row in rows if row.get("type") == "cluster"), "")
    found.add("name", cluster or node, "the cluster's name" if cluster else "the node's name", chosen=True)
