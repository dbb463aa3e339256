"""The way back of a decommissioning: the record of what was there, and giving what still exists back to its users."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core import files
from cutover.core.wait import Not, wait_until
from cutover.phases import departing
from cutover.phases.phase import Outcome, Plan, Sentence
from cutover.proxmox import firewall, identity, references
from cutover.state import approvals

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest

#: How long a guest may take to stop or to start, seconds.
STOP_SECONDS = 180


def wait_for(context: Context, guest: Guest, status: str) -> None:
    def fact() -> bool | Not:
        now = str(context.proxmox.status(guest).get("status"))
        return True if now == status else Not(f"it is {now}")

    wait_until(fact, deadline=60, what=f"{guest} being {status}", every=context.proxmox.poll)


def restart(context: Context, guest: Guest, act: str) -> None:
    with context.guard.act(act, f"Start {guest} again", before={"vmid": guest.vmid}):
        context.proxmox.do_task(
            "POST",
            f"{context.proxmox.of(guest)}/status/start",
            kind="vzstart",
            vmid=guest.vmid,
            what=f"Starting {guest}",
            deadline=STOP_SECONDS,
        )
        wait_for(context, guest, "running")


def undo_record(context: Context) -> dict[str, Any]:
    """Everything that was there before, per guest: facts, firewall, names, final backup. JSON."""
    found = []
    for guest in context.site.guests.to_decommission():
        agreed = approvals.approval(context, guest)
        lines = approvals.lines(context, guest.vmid)
        backup = approvals.last(context, guest.vmid, "decommission.backup", "note")
        found.append(
            {
                "guest": str(guest),
                "vmid": guest.vmid,
                "before": agreed.facts if agreed is not None else None,
                "backup": backup.extra["archive"]["volid"] if backup is not None else None,
                "firewall": [e.extra["undo"] for e in lines if e.act == "decommission.firewall.planned"],
                "names": [e.extra["undo"] for e in lines if e.act == "decommission.dns.planned"],
                "gone": approvals.completed(context, guest),
            }
        )
    return {"site": context.site.name, "guests": found}


def write_undo(context: Context) -> None:
    told = json.dumps(context.credentials.redact_tree(undo_record(context)), indent=1, ensure_ascii=False)
    files.replace(context.state_dir / "undo-decommission.json", told + "\n")  # the computer may die here, too


#: A guest, and the undo records of its firewall entries and of its names.
Removed = tuple["Guest", list[Mapping[str, Any]], list[Mapping[str, Any]]]


def _not_put_back(context: Context) -> list[Removed]:
    """Of each guest the undo records of firewall entries and of names that were not put back since, newest guest first."""
    last = max((e.seq for e in context.journal.acts("decommission.put-back") if e.kind == "note"), default=0)
    found = []
    for guest in reversed(context.site.guests.to_decommission()):
        lines = [e for e in approvals.lines(context, guest.vmid) if e.seq > last]
        rules = [e.extra["undo"] for e in reversed(lines) if e.act == "decommission.firewall.planned"]
        names = [e.extra["undo"] for e in lines if e.act == "decommission.dns.planned"]
        if rules or names:
            found.append((guest, rules, names))
    return found


def _foreign(context: Context, waiting: Sequence[Removed]) -> list[str]:
    """What the journal's undo records would put back that no removal of the plan's guests took away, as sentences."""
    if not waiting:
        return []
    guests = context.site.guests.to_decommission()
    there = [g for g in guests if identity.read(context, g) is not None]
    seen = references.look(context) if there else None
    facts = {g.vmid: here for g in there if (here := references.collect(context, g, seen)) is not None}
    return departing.not_theirs(
        firewall.read(context.proxmox),
        departing.going(context, guests, departing.scope(context, facts)),
        [record for _, rules, _ in waiting for record in rules],
        [record for _, _, names in waiting for record in names],
    )


def _gone_ones(context: Context) -> list[tuple[Guest, str]]:
    """The guests that were deleted, each with its final backup."""
    rows = {row["vmid"]: row for row in undo_record(context)["guests"]}
    return [(g, str(rows[g.vmid]["backup"])) for g in context.site.guests.to_decommission() if rows[g.vmid]["gone"]]


@dataclass(frozen=True, kw_only=True)
class GiveBackPlan(Plan):
    """``removed`` is put back, ``there`` are started again."""

    removed: Sequence[Removed]
    there: Sequence[Guest]


def plan_undo(context: Context) -> GiveBackPlan:
    """What giving them back to their users would do. Reads only."""
    waiting = _not_put_back(context)
    departing.only_theirs(_foreign(context, waiting))
    there = _still_there(context)
    found = [Sentence(f"Start {guest} again") for guest in there]
    for guest, rules, names in waiting:
        if rules:
            found.append(Sentence(f"Put the firewall entries of {guest} back in their places"))
        if names:
            found.append(Sentence(f"Put the names of {guest} back"))
    found += [Sentence(f"By hand: restore {guest} from {backup}") for guest, backup in _gone_ones(context)]
    return GiveBackPlan(sentences=found, removed=waiting, there=there)


def _still_there(context: Context) -> list[Guest]:
    guests = context.site.guests.to_decommission()
    return [
        g
        for g in guests
        if approvals.approval(context, g) is not None
        and identity.read(context, g) is not None
        and not approvals.deleted(context, g)
    ]


def undo(context: Context, planned: GiveBackPlan) -> Outcome:
    """Put names and firewall entries back, start what still exists, withdraw its approval; name the backups of deleted ones.

    Done twice it is done once: what is there is not made again, and what was put back and changed by others since is theirs.
    """
    said: list[str] = []
    begun = firewall.interrupted(context.journal.entries())
    for guest, rules, names in planned.removed:
        for entry in rules:
            firewall.restore(context.proxmox, context.guard, entry, begun)
        for entry in names:
            context.dns.put_back(entry)
        said.append(f"Firewall entries and names of {guest} are back.")
    if planned.removed:
        context.journal.note("decommission.put-back", "The firewall entries and names that were removed are back")
    for guest in planned.there:
        _as_before(context, guest)
        said.append(f"{guest} is as it was.")
    changed = bool(said)
    said += [f"{guest} was deleted: restore it from {backup}." for guest, backup in _gone_ones(context)]
    return Outcome(changed, said or ["There is nothing to undo."])


def _as_before(context: Context, guest: Guest) -> None:
    """Let a guest start with the host again and start it, where it did and ran; withdraw its approval."""
    agreed = approvals.approval(context, guest)
    if agreed is None:
        return
    if agreed.facts["config"].get("onboot") and not int(context.proxmox.config(guest).get("onboot") or 0):
        with context.guard.act("decommission.autostart", f"Let {guest} start with the host again", before={"vmid": guest.vmid}):
            context.proxmox.change("PUT", f"{context.proxmox.of(guest)}/config", onboot=1)
    if agreed.facts["status"] == "running" and context.proxmox.status(guest).get("status") != "running":
        restart(context, guest, "decommission.start-again")
    context.journal.note("decommission.withdrawn", f"{guest} is not to be deleted", vmid=guest.vmid)
