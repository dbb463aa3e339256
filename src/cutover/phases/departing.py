"""What goes with the old guests: whose addresses they are, and which firewall rules and names are theirs alone.

The journal says what was agreed to, and never what is true: it is a file, and may be old, another's or written by hand. So an
address counts as a guest's where Proxmox says so now, or where it is the one of ``site.yaml``, and it was agreed to as well. What
an address leads to is read anew each time, and only what was shown in the question that the operator answered is removed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused
from cutover.dns.names import Found
from cutover.dns.records import Record, belonging
from cutover.proxmox import firewall, identity, scratch
from cutover.state import approvals

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox.references import Facts
    from cutover.site.schema import Guest


@dataclass(frozen=True)
class Scope:
    """What this command saw: the addresses of each guest by id, and the ids that other guests have by now.

    ``shown`` is what was in the question; None before anything was asked.
    """

    addresses: Mapping[int, frozenset[str]]
    reused: frozenset[int] = frozenset()
    shown: Along | None = None


def not_meant(context: Context, guest: Guest, facts: Facts, agreed: approvals.Approval | None) -> list[str]:
    """In which ways what has the guest's id is not the one of ``site.yaml``, or not the approved one."""
    changed = agreed.identity.differences(facts.identity) if agreed is not None else []
    planned = identity.not_as_planned(guest, context.site.proxmox.node, facts.identity, facts.addresses)
    # Of an approved one, the name that site.yaml has for its address may have gone with it.
    return changed or [*planned, *(identity.unresolved(guest) if agreed is None else [])]


def scope(context: Context, facts: Mapping[int, Facts]) -> Scope:
    """Whose the addresses are, by what was just read (``facts``) and ``site.yaml``; of those agreed to where anything was."""
    found: dict[int, frozenset[str]] = {}
    reused = set()
    for guest in context.site.guests.to_decommission():
        here, agreed = facts.get(guest.vmid), approvals.approval(context, guest)
        told = frozenset(here.addresses if here is not None else ())
        if agreed is not None:
            told = (told | set(identity.resolved(guest.address))) & set(agreed.addresses)
        found[guest.vmid] = told
        if here is None and identity.read(context, guest) is not None:
            reused.add(guest.vmid)
    return Scope(found, frozenset(reused))


def going(context: Context, guests: Sequence[Guest], within: Scope) -> firewall.Going:
    """These guests as the firewall module has to know them."""
    vmids = frozenset(g.vmid for g in guests)
    addresses = frozenset(address for vmid in vmids for address in within.addresses.get(vmid, ()))
    later = frozenset(g.vmid for g in context.site.guests.to_decommission() if not approvals.completed(context, g)) - vmids
    trial = scratch.left_over(context)  # a copy of one of them, with its rules, from an interrupted test restore
    return firewall.Going((vmids - within.reused) | ({trial} if trial else set()), addresses, later)


@dataclass(frozen=True)
class Along:
    """What goes with some guests: firewall entries as sentences, and records by place, name, type and value."""

    entries: tuple[str, ...]
    names: tuple[tuple[str, str, str, str], ...]

    @classmethod
    def of(cls, removal: firewall.Removal, names: Found | None) -> Along:
        """What these two remove."""
        records = names.records if names is not None else ()
        return cls(tuple(firewall.sentences(removal)), tuple((where, *record.key()) for where, record in records))

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return {"firewall": list(self.entries), "names": [list(key) for key in self.names]}

    def sentences(self) -> list[str]:
        """What goes, for people."""
        return [*self.entries, *(f"record {Record(name, kind, value)} at {where}" for where, name, kind, value in self.names)]

    def without(self, known: Along) -> Along:
        """What is in here and not in ``known``."""
        return Along(
            tuple(one for one in self.entries if one not in known.entries),
            tuple(key for key in self.names if key not in known.names),
        )


def unasked(context: Context, now: Along, within: Scope) -> list[str]:
    """What would go now and was not there when the guests were approved, or was not in the question; sentences.

    An address is free while its guest is down, and whoever gets it brings rules and names of his own.
    """
    notes = [approvals.last(context, g.vmid, "decommission.approved", "note") for g in context.site.guests.to_decommission()]
    agreed = [note.extra["shown"] for note in notes if note is not None and "shown" in note.extra]
    known = Along(
        tuple(sentence for one in agreed for sentence in one["firewall"]),
        tuple((str(w), str(n), str(k), str(v)) for one in agreed for w, n, k, v in one["names"]),
    )
    new = now.without(known).sentences() if agreed else []
    new += now.without(within.shown).sentences() if within.shown is not None else []
    return [
        f"It was not there when the old servers were approved, so another machine may have one of their addresses "
        f"now: {sentence}. "
        "Look whose it is; if it is nobody's, remove it by hand."
        for sentence in dict.fromkeys(new)
    ]


def unproved(context: Context, rules: firewall.Firewall, within: Scope, begun: Collection[Mapping[str, Any]]) -> list[str]:
    """Firewall entries that stay because only the journal says that their address was an old guest's, as sentences."""
    guests = context.site.guests.to_decommission()
    agreed = [(g, approvals.approval(context, g)) for g in guests]
    only = frozenset(address for _, one in agreed if one is not None for address in one.addresses)
    proved = going(context, guests, within)
    if only <= proved.addresses:
        return []
    wider = firewall.Going(proved.vmids, proved.addresses | only, proved.later)
    known = firewall.sentences(firewall.resolve(rules, proved, list(begun)).removal)
    more = firewall.sentences(firewall.resolve(rules, wider, list(begun)).removal)
    return [f"{one} (only the journal says that its address was theirs)" for one in more if one not in known]


def not_theirs(
    rules: firewall.Firewall, gone: firewall.Going, undo: Sequence[Mapping[str, Any]], names: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What undo records would put back and no removal of these guests would have taken away, as sentences. Pure."""
    found = [sentence for record in undo for sentence in firewall.not_theirs(rules, gone, record, undo)]
    for record in names:
        try:
            listed = [Record(**{k: v for k, v in one.items() if k != "provider"}) for one in record["records"]]
            found += [f"record {one}" for one in listed if one not in belonging(listed, gone.addresses).records]
        except (KeyError, TypeError, ValueError, AttributeError):
            found.append("a record of names that cannot be read")
    return found


def only_theirs(foreign: Sequence[str]) -> None:
    """:class:`Refused` where an undo record of the journal holds what is not the guests'."""
    if foreign:
        raise Refused(
            f"The journal would put back what never was the old servers': {'; '.join(foreign)}. Nothing was put back.",
            "undo-decommission.json beside the journal says what was there; put it back by hand, if it is missing.",
        )
