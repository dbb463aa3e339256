"""The guests: whether each is the one that the plan names, and whether the address that traffic will go to is one machine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import Unreachable
from cutover.proxmox import identity, inventory

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest


def owner_trouble(seen: Sequence[inventory.FoundGuest], wanted: Guest, address: str, host: Sequence[str] = ()) -> list[str]:
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
    seen = inventory.look(context.proxmox)
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


@check(
    "A3", "Every server is the one that the plan names: id, kind, name, address", moments={Moment.BEFORE, Moment.BEFORE_DELETING}
)
def as_named(context: Context) -> Finding:
    """All mismatches at once."""
    from cutover.state.approvals import approval

    seen = inventory.look(context.proxmox)
    said: list[str] = []
    unknown: list[str] = []
    for guest in context.site.guests.all():
        if approval(context, guest) is not None:
            continue  # decommissioning compares it with what was approved; it is stopped, and may be gone by now
        own = next((one for one in seen if one.vmid == guest.vmid), None)
        if own is None:
            said.append(f"{guest} does not exist")
            continue
        if own.unread:
            unknown.append(f"{guest} is on node {own.node}, which does not answer")
            continue
        wrong = identity.not_as_planned(guest, context.proxmox.node, own, own.addresses)
        said += [f"{guest}: {', '.join(wrong)}"] if wrong else []
        unknown += [f"{guest}: {one}" for one in identity.unresolved(guest)]
        if not wrong and not own.addresses:
            unknown.append(f"{guest} does not say which address it has")
    if said:
        return Finding(
            False, f"Not every server is the one that the plan names: {'; '.join(said)}.", "Correct site.yaml, or look again."
        )
    if unknown:
        return Finding(None, f"Not every server could be compared with the plan: {'; '.join(unknown)}.")
    return Finding(True, f"All {len(context.site.guests.all())} servers are those that the plan names.")
