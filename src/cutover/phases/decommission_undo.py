"""The way back of a decommissioning: the record of what was there, and giving what still exists back to its users."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core import files
from cutover.core.errors import Refused
from cutover.core.wait import Not, wait_until
from cutover.phases import departing
from cutover.phases.phase import Outcome, Plan, Sentence
from cutover.proxmox import firewall, identity, inventory, power, privileges, references, replacing, vzdump
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


def tasks_begun(context: Context, guest: Guest) -> Sequence[str]:
    """What an earlier run began with this guest and Proxmox still carries out: its locks are no foreign ones."""
    if approvals.approval(context, guest) is None or approvals.completed(context, guest):
        return []
    return context.proxmox.running_tasks(("vzshutdown", "vzstart", "vzdump", "vzdestroy"), guest.vmid)


def await_begun(context: Context, guests: Sequence[Guest]) -> bool:
    """Wait for these tasks; whether there were any."""
    waited = False
    for guest in guests:
        for upid in tasks_begun(context, guest):
            context.ui.say(f"A task of an earlier run still works on {guest}; waiting for it.")
            context.proxmox.wait_task(upid, deadline=vzdump.DUMP_SECONDS)
            waited = True
    return waited


def restart(context: Context, guest: Guest, act: str) -> None:
    with context.guard.act(act, f"Start {guest} again", before={"vmid": guest.vmid}):
        power.turn(context.proxmox, guest, "start", deadline=STOP_SECONDS)
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


def _gone_ones(context: Context, there: Sequence[Approved]) -> list[tuple[Guest, str]]:
    """The guests that were deleted and are not ``there`` again, each with its final backup."""
    rows = {row["vmid"]: row for row in undo_record(context)["guests"]}
    again = {guest.vmid for guest, _ in there}
    gone = [g for g in context.site.guests.to_decommission() if rows[g.vmid]["gone"] and g.vmid not in again]
    return [(guest, str(rows[guest.vmid]["backup"])) for guest in gone]


def _taken_along(context: Context, guest: Guest, agreed: approvals.Approval) -> str:
    """What the deletion of a guest that is there again took along and its backup does not hold, for the end of a sentence."""
    if not approvals.deleted(context, guest):
        return ""
    before = agreed.facts
    lost = [f"backup job {job.get('id')}" for job in before["backup_jobs"]]
    lost += [f"replication job {job.get('id')}" for job in before["replication"]]
    lost += [f"pool {pool}" for pool in before["pools"]]
    lost += [f"snapshot {name}" for name in before["snapshots"]]
    lost += ["its access rules"] if before["acl"] else []
    return f", except for what its deletion took along: {', '.join(lost)}" if lost else ""


#: A guest, and what was known of it when it was approved.
Approved = tuple["Guest", approvals.Approval]


@dataclass(frozen=True, kw_only=True)
class GiveBackPlan(Plan):
    """``removed`` is put back, ``there`` are started again; ``others`` have the id of one by now, as sentences."""

    removed: Sequence[Removed]
    there: Sequence[Approved]
    others: Sequence[str]


def plan_undo(context: Context) -> GiveBackPlan:
    """What giving them back to their users would do. Reads only."""
    waiting = _not_put_back(context)
    departing.only_theirs(_foreign(context, waiting))
    there, others = _still_there(context)
    if not any(tasks_begun(context, guest) for guest, _ in there):  # those are waited for
        _need_startable(context, there)
    found = [Sentence(f"Start {guest} again") for guest, _ in there]
    for guest, rules, names in waiting:
        if rules:
            found.append(Sentence(f"Put the firewall entries of {guest} back in their places"))
        if names:
            found.append(Sentence(f"Put the names of {guest} back"))
    found += [Sentence(f"Leave {other}") for other in others]
    found += [Sentence(f"By hand: restore {guest} from {backup}") for guest, backup in _gone_ones(context, there)]
    return GiveBackPlan(sentences=found, removed=waiting, there=there, others=others)


def _still_there(context: Context) -> tuple[list[Approved], list[str]]:
    """The approved guests that exist, also again, and those ids that another guest has by now, as sentences."""
    there: list[Approved] = []
    others: list[str] = []
    for guest in context.site.guests.to_decommission():
        agreed = approvals.approval(context, guest)
        here = identity.read(context, guest) if agreed is not None else None
        if agreed is None or here is None:
            continue
        # Another address is still the same guest; so is what was restored from its backup, on a new volume.
        asked = {*identity.WORDS} - ({"addresses", "rootfs"} if approvals.deleted(context, guest) else {"addresses"})
        if wrong := agreed.identity.differences(here[2], asked):
            others.append(f"{guest} as it is: it is not the guest that was approved: {'; '.join(wrong)}")
        else:
            there.append((guest, agreed))
    return there, others


def _need_startable(context: Context, there: Sequence[Approved]) -> None:
    """:class:`Refused` where Proxmox would not start a guest again, or another guest runs with its address by now."""
    stopped = [(guest, agreed) for guest, agreed in there if _is_to_start(context, guest, agreed)]
    if not stopped:
        return
    # The access rules on a guest went with it, so what was restored has none until somebody gives them again.
    paths = {f"/vms/{guest.vmid}" for guest, _ in stopped}
    lacking = privileges.lacking(context.site, "decommission", privileges.held_by(context), only=paths)
    again = "`cutover rights` has the commands that give it again"
    against = [*context.proxmox.no_quorum(), *(f"The token lacks {one}; {again}." for one in lacking)]
    neighbours = inventory.look(context.proxmox)
    for guest, agreed in stopped:
        against += replacing.held(guest, context.proxmox.config(guest), context.proxmox.status(guest))
        against += [
            f"{other} runs with the address {address} of {guest}."
            for other in neighbours
            for address in agreed.addresses
            if other.running and other.vmid != guest.vmid and address in other.addresses
        ]
    if against:
        raise Refused(f"They are not given back: {' '.join(against)}", "Remove the reason and run the command again.")


def _is_to_start(context: Context, guest: Guest, agreed: approvals.Approval) -> bool:
    return agreed.facts["status"] == "running" and context.proxmox.status(guest).get("status") != "running"


def undo(context: Context, planned: GiveBackPlan) -> Outcome:
    """Put names and firewall entries back, start what still exists, withdraw its approval; name the backups of deleted ones.

    Done twice it is done once: what is there is not made again, and what was put back and changed by others since is theirs.
    """
    said: list[str] = []
    if await_begun(context, context.site.guests.to_decommission()):
        planned = plan_undo(context)
    begun = firewall.interrupted(context.journal.entries())
    for guest, rules, names in planned.removed:
        for entry in rules:
            firewall.restore(context.proxmox, context.guard, entry, begun)
        for entry in names:
            context.dns.put_back(entry)
        said.append(f"Firewall entries and names of {guest} are back.")
    if planned.removed:
        context.journal.note("decommission.put-back", "The firewall entries and names that were removed are back")
    gone = _gone_ones(context, planned.there)
    for guest, agreed in planned.there:
        lost = _taken_along(context, guest, agreed)
        _as_before(context, guest, agreed)
        said.append(f"{guest} is as it was{lost}.")
    changed = bool(said)
    said += [f"Left {other}." for other in planned.others]
    said += [f"{guest} was deleted: restore it from {backup}." for guest, backup in gone]
    return Outcome(changed, said or ["There is nothing to undo."])


def _as_before(context: Context, guest: Guest, agreed: approvals.Approval) -> None:
    """Let a guest start with the host again and start it, where it did and ran; withdraw its approval."""
    if agreed.facts["config"].get("onboot") and not int(context.proxmox.config(guest).get("onboot") or 0):
        with context.guard.act("decommission.autostart", f"Let {guest} start with the host again", before={"vmid": guest.vmid}):
            context.proxmox.change("PUT", f"{context.proxmox.of(guest)}/config", onboot=1)
    if _is_to_start(context, guest, agreed):
        restart(context, guest, "decommission.start-again")
    context.journal.note("decommission.withdrawn", f"{guest} is not to be deleted", vmid=guest.vmid)
