"""Is this still the guest that was approved? Ids are reused, so an id alone never is.

A guest is held to be the same while its kind, node, name, MAC addresses, root volume and static addresses are. The identity is
taken when the operator approves, kept in the journal, and compared again right before anything is deleted.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cutover.proxmox import vzdump

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest


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

    def differences(self, now: Identity) -> list[str]:
        """In which ways ``now`` is not this guest, one phrase each. Pure."""
        words = {
            "kind": "kind",
            "node": "node",
            "name": "name",
            "macs": "MAC address",
            "rootfs": "root volume",
            "addresses": "address",
        }
        return [
            f"its {word} is {_shown(getattr(now, field))} and was {_shown(getattr(self, field))}"
            for field, word in words.items()
            if getattr(self, field) != getattr(now, field)
        ]


def _shown(value: object) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def of(row: Mapping[str, Any], config: Mapping[str, Any]) -> Identity:
    """The identity that a row of ``cluster/resources`` and a configuration describe. Pure."""
    nets = networks(config)
    rootfs = vzdump.options(str(config["rootfs"]))["volume"] if config.get("rootfs") else ""
    return Identity(
        "lxc" if row.get("type") == "lxc" else "vm",
        int(row["vmid"]),
        str(row.get("node", "")),
        str(config.get("hostname") or config.get("name") or row.get("name") or ""),
        tuple(sorted(net["hwaddr"].upper() for net in nets if net.get("hwaddr"))),
        rootfs,
        static_addresses(config),
    )


def networks(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """``net0``, ``net1`` ... of a container's configuration as mappings."""
    found = [str(value) for key, value in sorted(config.items()) if re.fullmatch(r"net\d+", key)]
    return [dict(part.split("=", 1) for part in value.split(",") if "=" in part) for value in found]


def static_addresses(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses that a container's configuration states, without prefix lengths."""
    stated = [net[key] for net in networks(config) for key in ("ip", "ip6") if "/" in net.get(key, "")]
    return clean(stated)


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
    try:
        return clean([str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)])
    except OSError:
        return ()


def not_as_planned(guest: Guest, node: str, found: Identity, addresses: Sequence[str], named: Sequence[str]) -> list[str]:
    """In which ways a guest is not the one of ``site.yaml``. Pure.

    ``addresses`` is what it has (none known where it is stopped and takes them by DHCP), ``named`` what ``site.yaml`` says.
    """
    wrong = []
    if found.kind != guest.kind:
        wrong.append(f"it is a {found.kind}, not a {guest.kind}")
    if found.node != node:
        wrong.append(f"it is on node {found.node}, not on {node}")
    if found.name != guest.name:
        wrong.append(f"its name is {found.name}, not {guest.name}")
    if not named:
        wrong.append(f"its address {guest.address} in site.yaml cannot be resolved; write the address itself there")
    elif addresses and not set(named) & set(addresses):
        wrong.append(f"its address is {', '.join(addresses)}, not {', '.join(named)}")
    return wrong


def read(context: Context, guest: Guest) -> tuple[Mapping[str, Any], Mapping[str, Any], Identity] | None:
    """(row of the list, configuration, identity) of whatever has the guest's id now, or None where nothing has it."""
    row = next((row for row in context.proxmox.guests() if int(row["vmid"]) == guest.vmid), None)
    if row is None:
        return None
    folder = f"nodes/{row['node']}/{row['type']}/{row['vmid']}"
    config = context.proxmox.get(f"{folder}/config", **({"current": 1} if row["type"] == "qemu" else {}))
    # The cluster's list says at once that a guest is there, but how it is only every ten seconds or so.
    row = {**row, "status": context.proxmox.get(f"{folder}/status/current").get("status")}
    return row, config, of(row, config)
