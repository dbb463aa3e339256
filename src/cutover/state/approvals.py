"""What the operator approved to be decommissioned, and how far that is: asked of the journal, never stored elsewhere."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused
from cutover.proxmox.identity import Identity

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.core.journal import Entry
    from cutover.site.schema import Guest


@dataclass(frozen=True)
class Approval:
    """What the operator agreed to: this guest, with these addresses. ``purpose`` names its final backup."""

    at: str
    identity: Identity
    addresses: tuple[str, ...]
    facts: Mapping[str, Any]
    purpose: str


#: What in the journal says that a guest is down: that we stopped it, or that we saw it stopped.
DOWN = frozenset({"decommission.stop", "decommission.seen-stopped"})


def _vmid(entry: Entry) -> int | None:
    for place in (entry.extra, entry.before, entry.after):
        if isinstance(place, dict) and "vmid" in place:
            return place["vmid"] if isinstance(place["vmid"], int) else None
    return None


def lines(context: Context, vmid: int) -> list[Entry]:
    """The journal's lines about this guest since its approval was last withdrawn, oldest first."""
    found: list[Entry] = []
    intents: dict[int, int | None] = {}
    for entry in context.journal.acts("decommission"):
        if entry.kind == "intent":
            intents[entry.seq] = _vmid(entry)
        about = intents.get(entry.of) if entry.of is not None else _vmid(entry)
        if about != vmid:
            continue
        if entry.act == "decommission.withdrawn":
            found = []
        else:
            found.append(entry)
    return found


def last(context: Context, vmid: int, act: str, *kinds: str) -> Entry | None:
    return next((e for e in reversed(lines(context, vmid)) if e.act == act and e.kind in kinds), None)


def approval(context: Context, guest: Guest) -> Approval | None:
    """What was agreed to for this guest, or None."""
    note = last(context, guest.vmid, "decommission.approved", "note")
    if note is None:
        return None
    try:
        facts = note.extra["facts"]
        addresses = tuple(str(ipaddress.ip_address(one)) for one in facts["addresses"])
        return Approval(note.at, Identity.from_json(facts["identity"]), addresses, facts, f"final-{note.seq}")
    except (KeyError, TypeError, ValueError):
        raise Refused(
            f"Line {note.seq} of the journal should be what was approved for {guest}, and is not.",
            "`cutover undo decommission` withdraws it; the next run asks anew.",
        ) from None


def deletion_begun(context: Context, guest: Guest) -> bool:
    """Whether this tool sent the deletion of this guest."""
    return last(context, guest.vmid, "decommission.delete", "intent") is not None


def deleted(context: Context, guest: Guest) -> bool:
    """Whether the journal says that the deletion was seen to have happened."""
    return last(context, guest.vmid, "decommission.delete", "done") is not None


def completed(context: Context, guest: Guest) -> bool:
    """Whether nothing is left to do for this guest."""
    return last(context, guest.vmid, "decommission.gone", "note") is not None
