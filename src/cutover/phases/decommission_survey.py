"""Before an old guest is stopped or deleted: who it is, what goes with it, and everything that speaks against it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutover.checks import registry
from cutover.checks.registry import Moment
from cutover.core import events
from cutover.core.errors import Refused, Unreachable
from cutover.dns.names import Found
from cutover.proxmox import activity, firewall, identity, privileges, references, storages, vzdump
from cutover.state import approvals, soak

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox.references import Facts
    from cutover.site.schema import Guest


def validated(context: Context) -> None:
    """F1: the way back was given up on purpose, and traffic goes to the new server; :class:`Refused` otherwise."""
    if events.finished(context.journal.entries(), "finish") is None:
        raise Refused(
            "Nothing is deleted while the way back is open: the move was not finished.",
            "Watch the new server, then `cutover finish`.",
        )
    if context.gate.state().side != "new":
        raise Refused(
            "Nginx still sends traffic to the old server; it must not be deleted.", "`cutover switch`, then `cutover finish`."
        )


def site_works(context: Context) -> None:
    """Ask the checks that have to hold before something is deleted. What cannot be evaluated is not good."""
    for check, finding in registry.ask_all(context, moment=Moment.BEFORE_DELETING):
        if finding.ok is not True:
            raise Refused(f"{check.criterion}: {finding.sentence}", finding.hint)


def take(context: Context) -> tuple[dict[int, Facts], list[str]]:
    """(facts of every guest that is still there, everything that speaks against going on). Reads only."""
    found: dict[int, Facts] = {}
    against: list[str] = []
    seen = references.look(context)
    against += _unseen(context)
    for guest in context.site.guests.to_decommission():
        facts = None if approvals.deleted(context, guest) else references.collect(context, guest, seen)
        agreed = approvals.approval(context, guest)
        if facts is None:
            if not approvals.deletion_begun(context, guest):
                against.append(f"{guest} does not exist, and this tool did not delete it.")
            continue
        found[guest.vmid] = facts
        if agreed is not None:
            wrong = agreed.identity.differences(facts.identity)
            reason = f"{guest} is not the guest that was approved on {agreed.at}"
        else:
            wrong = identity.not_as_planned(guest, context.site.proxmox.node, facts.identity, facts.addresses)
            wrong += identity.unresolved(guest)
            reason = f"{guest} is not the guest of site.yaml"
            if not wrong and not facts.addresses and identity.networks(facts.config):
                against.append(
                    f"{guest}: Proxmox knows no address of it, so its firewall rules and DNS names cannot be found: start "
                    "it, or write its address into its configuration."
                )
        against += [f"{reason}: {references.in_words(wrong)}."] if wrong else []
        against += [f"{guest}: {sentence}." for sentence in speaks_against(context, guest, facts, agreed)]
        against += _running_again(context, guest, facts)
    if not any(approvals.deletion_begun(context, guest) for guest in context.site.guests.to_decommission()):
        # Deleting a guest takes the rights on its id along, so this can only be asked before the first one.
        against += [f"The token lacks {sentence}." for sentence in privileges.missing(context, "decommission")]
    return found, against


def _unseen(context: Context) -> list[str]:
    """What Proxmox would not tell later, in the middle: the time on it, and who used a guest."""
    found: list[str] = []
    for guest in context.site.guests.to_decommission():
        try:
            soak.their_time(context)
            activity.may_see(context, guest.vmid)
            context.proxmox.tasks(vmid=guest.vmid, limit=1)
        except (Refused, Unreachable) as error:
            found.append(error.sentence)
    return list(dict.fromkeys(found))


def room(context: Context, facts: Mapping[int, Facts]) -> storages.Verdict:
    """Whether the storages can take the final backups that are still to be made, all of them before the first deletion."""
    left = [g for g in context.site.guests.to_decommission() if g.vmid in facts and facts[g.vmid].identity.kind == "lxc"]
    new = []
    for guest in left:
        agreed = approvals.approval(context, guest)
        if agreed is None or vzdump.find(context, guest, agreed.purpose) is None:
            new.append(guest)
    return storages.judge(context, left, new)


def speaks_against(context: Context, guest: Guest, facts: Facts, agreed: approvals.Approval | None) -> list[str]:
    addresses = agreed.addresses if agreed is not None else ()
    return references.refusals(facts, deleting=approvals.deletion_begun(context, guest), addresses=addresses)


def _running_again(context: Context, guest: Guest, facts: Facts) -> list[str]:
    if facts.status != "running":
        return []
    acts = [
        e
        for e in approvals.lines(context, guest.vmid)
        if e.act in {*approvals.DOWN, "decommission.start-again"} and e.kind in {"done", "note"}
    ]
    if not acts or acts[-1].act not in approvals.DOWN:
        return []
    since = f"{guest} is running again, although it was stopped on {acts[-1].at}: somebody needs it."
    return [f"{since} Find out who. Stopping it in Proxmox begins the soak time anew; `cutover undo decommission` gives it back."]


def going(context: Context, guests: Sequence[Guest], facts: Mapping[int, Facts]) -> firewall.Going:
    addresses: set[str] = set()
    for guest in guests:
        agreed = approvals.approval(context, guest)
        addresses |= set(agreed.addresses) if agreed is not None else set()
        if agreed is None and guest.vmid in facts:
            addresses |= set(facts[guest.vmid].addresses)
    vmids = frozenset(g.vmid for g in guests)
    later = frozenset(g.vmid for g in context.site.guests.to_decommission() if not approvals.completed(context, g)) - vmids
    scratch = vzdump.left_over(context)  # a copy of one of them, with its rules, from an interrupted test restore
    return firewall.Going(vmids | ({scratch} if scratch else set()), frozenset(addresses), later)


def keys(names: Found) -> list[list[str]]:
    """Records as the journal keeps them for a comparison: where, name, type and value."""
    return [[where, *record.key()] for where, record in names.records]


def unasked(context: Context, removal: firewall.Removal, names: Found) -> list[str]:
    """Firewall entries and names that would go now and were not there when the guests were approved, one sentence each.

    An address is free while its guest is down, and whoever gets it brings rules and names of his own.
    """
    notes = [approvals.last(context, g.vmid, "decommission.approved", "note") for g in context.site.guests.to_decommission()]
    shown = [note.extra["shown"] for note in notes if note is not None and "shown" in note.extra]
    if not shown:
        return []
    rules = {sentence for one in shown for sentence in one["firewall"]}
    records = {tuple(key) for one in shown for key in one["names"]}
    new = [sentence for sentence in firewall.sentences(removal) if sentence not in rules]
    new += [f"record {record} at {where}" for where, record in names.records if (where, *record.key()) not in records]
    return [
        f"It was not there when the old servers were approved, so another machine may have one of their addresses "
        f"now: {sentence}. "
        "Look whose it is; if it is nobody's, remove it by hand."
        for sentence in new
    ]


def begun(context: Context) -> list[Mapping[str, Any]]:
    """The undo records of firewall removals that were begun."""
    return [e.extra["undo"] for e in context.journal.acts("decommission.firewall.planned")]
