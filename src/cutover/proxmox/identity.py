"""Is this still the guest that was approved? Ids are reused, so an id alone never is.

A guest is held to be the same while its kind, name, MAC addresses, root volume and static addresses are; it may move to another
node of the cluster. The identity is
taken when the operator approves, kept in the journal, and compared again right before anything is deleted.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cutover.core.errors import Unreachable
from cutover.proxmox import drives

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Guest


#: What makes a guest the same, by its field.
WORDS = {"kind": "kind", "name": "name", "macs": "MAC address", "rootfs": "root volume", "addresses": "address"}
#: What no other guest has.
ITS_OWN = ("macs", "rootfs")


@dataclass(frozen=True)
class Identity:
    """What a guest is. ``addresses`` are those that its configuration states; addresses by DHCP are not part of it."""

    kind: str
    vmid: int
    node: str
    name: str
    macs: tuple[str, ...]
    rootfs: str
    addresses: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return {**asdict(self), "macs": list(self.macs), "addresses": list(self.addresses)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Identity:
        """From the journal."""
        return cls(**{**data, "macs": tuple(data["macs"]), "addresses": tuple(data["addresses"])})

    def differences(self, now: Identity, fields: Collection[str] = tuple(WORDS)) -> list[str]:
        """In which ways, or which of these, ``now`` is not this guest, one phrase each. Pure."""
        return [
            f"its {word} is {_shown(getattr(now, field))} and was {_shown(getattr(self, field))}"
            for field, word in WORDS.items()
            if field in fields and getattr(self, field) != getattr(now, field)
        ]


def _shown(value: object) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def of(row: Mapping[str, Any], config: Mapping[str, Any]) -> Identity:
    """The identity that a guest's place (type, vmid, node) and its configuration describe. Pure."""
    nets = networks(config)
    root = config.get("rootfs") or config.get(boot_disk(config))
    rootfs = drives.options(str(root))["volume"] if root else ""
    return Identity(
        "lxc" if row.get("type") == "lxc" else "vm",
        int(row["vmid"]),
        str(row.get("node", "")),
        str(config.get("hostname") or config.get("name") or row.get("name") or ""),
        tuple(sorted(mac.upper() for net in nets for mac in (net.get("hwaddr") or _model_mac(net),) if mac)),
        rootfs,
        static_addresses(config),
    )


def boot_disk(config: Mapping[str, Any]) -> str:
    """The disk that a VM boots from, by its boot order; else its first one."""
    disks = drives.disks(config)
    order = re.search(r"order=([\w;]+)", str(config.get("boot") or ""))
    ordered = [key for key in (order[1].split(";") if order else []) if key in disks]
    return (ordered or disks or [""])[0]


def _model_mac(net: Mapping[str, str]) -> str:
    """A VM's network card is written as ``virtio=BC:24:...``."""
    return next((value for value in net.values() if re.fullmatch(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", value)), "")


def networks(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """``net0``, ``net1`` ... of a container's configuration as mappings."""
    found = [str(value) for key, value in sorted(config.items()) if re.fullmatch(r"net\d+", key)]
    return [dict(part.split("=", 1) for part in value.split(",") if "=" in part) for value in found]


def static_addresses(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses that a configuration states (``net0`` of containers, ``ipconfig0`` of VMs), without prefix lengths. Pure."""
    stated = [str(value) for key, value in config.items() if re.fullmatch(r"(net|ipconfig)\d+", key)]
    return clean(found[1] for value in stated for found in re.finditer(r"(?:^|,)ip6?=([^,/]+)/\d+", value))


def clean(addresses: Iterable[str]) -> tuple[str, ...]:
    """Addresses without prefix lengths, sorted, without loopback ones of the guest itself and link-local ones."""
    found = set()
    for text in addresses:
        try:
            address = ipaddress.ip_address(text.split("/")[0])
        except ValueError:
            continue
        if not address.is_link_local and str(address) not in {"127.0.0.1", "::1"}:
            found.add(str(address))
    return tuple(sorted(found))


def seen_addresses(interfaces: Sequence[Mapping[str, Any]] | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses that a running container has on the interfaces that Proxmox gave it. Pure.

    What it made itself (docker0, a bridge, a tunnel) has addresses that other machines have as well, so they are not its name.
    """
    nets = networks(config)
    given = {net["name"] for net in nets if net.get("name")} | {net["hwaddr"].lower() for net in nets if net.get("hwaddr")}
    found: list[str] = []
    for one in interfaces or ():
        if given & {str(one.get("name")), str(one.get("hwaddr") or "").lower()}:
            found += [str(one[key]) for key in ("inet", "inet6") if one.get(key)]
            # The two fields above hold one address each; newer versions list all of them.
            found += [str(entry["ip-address"]) for entry in one.get("ip-addresses") or () if entry.get("ip-address")]
    return clean(found)


def resolved(host: str) -> tuple[str, ...]:
    """The addresses of ``site.yaml``'s word for a guest: an address as it is, a name by this machine's resolver."""
    with suppress(ValueError):
        return clean([str(ipaddress.ip_address(host))])
    try:
        return clean([str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)])
    except OSError:
        return ()


class Described(Protocol):
    """A guest as far as ``site.yaml`` names it. ``kind`` is ``lxc`` or ``vm``."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def node(self) -> str: ...


_KINDS = {"lxc": "an LXC", "vm": "a VM"}


def not_named(guest: Guest, found: Described) -> list[str]:
    """In which ways a guest has not the kind and name of ``site.yaml``. Pure."""
    wrong = []
    if found.kind != guest.kind:
        wrong.append(f"it is {_KINDS.get(found.kind, found.kind)}, not {_KINDS[guest.kind]}")
    if found.name != guest.name:
        wrong.append(f"its name is {found.name or 'unknown'}, not {guest.name}")
    return wrong


def not_as_planned(guest: Guest, node: str, found: Described, addresses: Collection[str]) -> list[str]:
    """In which ways a guest is not the one of ``site.yaml``: kind, name, node, address. See :func:`unresolved` as well.

    ``addresses`` is what it has (none known where it is stopped and takes them by DHCP), ``node`` the site's.
    """
    wrong, named = not_named(guest, found), resolved(guest.address)
    if found.node != (guest.node or node):
        may = f"`node: {found.node}` under it in site.yaml says that it may be"
        wrong.append(f"it is on node {found.node}, not on {guest.node or node} ({may})")
    if named and addresses and not set(named) & set(addresses):
        wrong.append(f"its address is {', '.join(sorted(addresses))}, not {', '.join(named)}")
    return wrong


def unresolved(guest: Guest) -> list[str]:
    """That nobody knows which address ``site.yaml`` means, where its word for it is a name that stands for nothing here."""
    if resolved(guest.address):
        return []
    return [f"its address {guest.address} in site.yaml cannot be resolved; write the address itself there"]


def need_read(row: Mapping[str, Any], name: str = "") -> None:
    """:class:`Unreachable` where the node of a guest (a row of :meth:`Proxmox.guests`) did not answer: nothing is known of it."""
    if "unread" in row:
        name = name or f"Guest {row['vmid']}"
        raise Unreachable(
            f"{name} on node {row['node']} cannot be looked at: {row['unread']}",
            "Bring its node back, or look at the guest in Proxmox; a node that is gone for good is removed from the cluster.",
        )


def read(session: ProxmoxSession, guest: Guest) -> tuple[Mapping[str, Any], Mapping[str, Any], Identity] | None:
    """(row of :meth:`Proxmox.guests`, configuration, identity) of whatever has the guest's id now; None where nothing has it."""
    row = session.proxmox.guest(guest.vmid)
    if row is None:
        return None
    need_read(row, str(guest))
    config: Mapping[str, Any] = row["config"]
    return row, config, of(row, config)


# -- the guest that is meant, in every phase -------------------------------------------------------


def not_meant(session: ProxmoxSession, guest: Guest) -> list[str]:
    """In which ways what has the guest's id now is not the guest of ``site.yaml``, or not the one that was changed before.

    Kind and name are those of ``site.yaml``; the MAC addresses and the root volume are those that it had when this tool changed
    it first (see :func:`remember`), because another machine under the same id and name is another machine.
    """
    here = read(session, guest)
    if here is None:
        return ["it does not exist"]
    found, known = here[2], remembered(session, guest)
    wrong = not_named(guest, found)
    if known is not None and found.kind == guest.kind:
        wrong += known.differences(found, ITS_OWN)
    return wrong


def remembered(session: ProxmoxSession, guest: Guest) -> Identity | None:
    """The guest's identity when this tool changed it last, or None."""
    notes = [e for e in session.journal.acts("identity.seen") if e.kind == "note" and e.extra.get("vmid") == guest.vmid]
    return Identity.from_json(notes[-1].extra["identity"]) if notes else None


def remember(session: ProxmoxSession, guest: Guest) -> None:
    """Write down who the guest is, before it is changed for the first time, and after a restore, which makes new volumes."""
    here = read(session, guest)
    if here is None:
        return
    found, known = here[2], remembered(session, guest)
    if known is None or known.differences(found):
        session.journal.note(
            "identity.seen", f"{guest} is {found.name} with {found.rootfs}", vmid=guest.vmid, identity=found.as_json()
        )
