"""Delete one old guest as its final backup holds it, with the firewall rules and names that are its alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Failed, Refused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases import decommission_survey as survey
from cutover.phases import departing
from cutover.phases.decommission_undo import write_undo
from cutover.phases.departing import Along, Scope
from cutover.proxmox import activity, firewall, identity, references, scratch, vzdump
from cutover.state import approvals, soak

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest

DELETE_SECONDS = 1800.0
#: How often a guest that is used again and again is backed up anew in one run.
BACKUPS = 3


def give_back(context: Context, guest: Guest, within: Scope) -> tuple[list[str], str | None]:
    """Sentences, and until when to wait where somebody used the guest meanwhile (nothing of it is deleted then), else None."""
    agreed = approvals.approval(context, guest)
    if agreed is None:
        raise Refused(
            f"{guest} was not approved; nothing of it was deleted.", "Run `cutover decommission --execute`: it asks for its name."
        )
    said: list[str] = []
    if identity.read(context, guest) is not None and not approvals.deleted(context, guest):
        waiting = _delete_as_backed_up(context, guest, agreed, said, within)
        if waiting is not None:
            return said, waiting
    else:
        _see_deleted(context, guest)
    _forget_names_that_waited(context, guest, within)
    left = references.left_behind(context, guest.vmid)
    note = approvals.last(context, guest.vmid, "decommission.backup", "note")
    kept = note.extra["archive"]["volid"] if note is not None else "unknown"
    context.journal.note("decommission.gone", f"{guest} is given back", vmid=guest.vmid, left_behind=left, backup=kept)
    write_undo(context)
    sentence = f"{guest} is deleted; its final backup is {kept}."
    return [sentence, *said, *(f"Left behind, for you to judge: {volume}." for volume in left)], None


def _delete_as_backed_up(
    context: Context, guest: Guest, agreed: approvals.Approval, said: list[str], within: Scope
) -> str | None:
    """F6: delete the guest as its final backup holds it. Until when to wait, where somebody needed it meanwhile; else None.

    Whether it was used since is asked last of all, right before the deletion: backing up, restoring on trial and putting rules
    and names away take as long as they take, and somebody may have started it in that time.
    """
    for _ in range(BACKUPS):
        _unchanged(context, guest, agreed)
        archive = _final_backup(context, guest, agreed)
        said += _forget(context, guest, within)
        _unchanged(context, guest, agreed)
        vzdump.verify(context, guest, archive, agreed.facts["config"])
        used = activity.since(context, guest, archive.ctime)
        if not used:
            _delete(context, guest, agreed, archive)
            return None
        context.ui.say(f"{used}; it is backed up anew.")
        said.append(f"{used}, so that backup is not its final one.")
        soak.see_stopped(context, guest)
        waiting = soak.soaking(context, [guest])
        if waiting is not None:
            return waiting
    raise Failed(
        f"{guest} was not deleted: it was used again after each of {BACKUPS} final backups.",
        "Find out who starts it; `cutover undo decommission` gives it back.",
    )


def _unchanged(context: Context, guest: Guest, agreed: approvals.Approval) -> None:
    """F4: the guest is the approved one, stopped, and nothing new speaks against deleting it."""
    here = references.collect(context, guest)
    if here is None:
        raise Failed(f"{guest} disappeared while it was being given back.", "Look in Proxmox who deleted it.")
    wrong = departing.not_meant(context, guest, here, agreed)
    wrong += survey.speaks_against(context, guest, here, agreed)
    wrong += [f"it is {here.status}"] if here.status != "stopped" else []
    if not approvals.deletion_begun(context, guest):
        wrong += _other_volumes(agreed.facts["config"], here.config)
    if wrong:
        raise Refused(f"{guest} was not deleted: {'; '.join(wrong)}.", "Look at it, then run the command again.")


def _other_volumes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Volumes that the guest got since it was approved: they would be deleted, and nobody agreed to that."""
    was, there = vzdump.volumes(then), vzdump.volumes(now)
    return [f"it has the volume {there[key]} as {key} since" for key in sorted(set(there) - set(was))]


def _final_backup(context: Context, guest: Guest, agreed: approvals.Approval) -> vzdump.Archive:
    """F3: a protected backup of the guest as it is now, that was restored on trial once."""
    # One that was made before somebody started the guest once more lacks what was written then.
    fresh = activity.unchanged_from(context.proxmox.tasks(vmid=guest.vmid))
    _let_pass(context, fresh)
    archive = vzdump.make(context, guest, purpose=agreed.purpose, mode="stop", after=fresh)
    proofs = vzdump.verify(context, guest, archive, agreed.facts["config"])
    known = approvals.last(context, guest.vmid, "decommission.backup", "note")
    seen = known is not None and known.extra.get("archive") == archive.as_json()
    if seen and scratch.was_restored(context, archive):  # the journal says that it came back the same, Proxmox that it came back
        return archive
    proofs += scratch.try_restore(context, guest, archive, agreed.facts["config"])
    context.journal.note("decommission.backup", f"{guest}: {'; '.join(proofs)}", vmid=guest.vmid, archive=archive.as_json())
    return archive


def _let_pass(context: Context, moment: float) -> None:
    """Wait until Proxmox' clock, which has whole seconds, is past the second in which the guest was used last."""

    def passed() -> bool | Not:
        return True if soak.their_time(context) >= moment else Not("that second is not over")

    with suppress(TimedOut):  # a clock that was set back; then the backup does not count and that is said
        wait_until(passed, deadline=1.5, what="The second", every=context.proxmox.poll)


def _up_to(context: Context, guest: Guest) -> list[Guest]:
    """The guest and those that are gone already: a rule about two of them goes with the second."""
    return [g for g in context.site.guests.to_decommission() if approvals.completed(context, g) or g.vmid == guest.vmid]


def _forget(context: Context, guest: Guest, within: Scope) -> list[str]:
    """F5: remove the firewall rules and names that are this guest's alone. Rules before the guest; see the firewall module."""
    going = departing.going(context, _up_to(context, guest), within)
    rules = firewall.read(context.proxmox)
    removal = firewall.resolve(rules, going, survey.begun(context)).removal
    names = [g.name for g in _up_to(context, guest)]
    found = context.dns.find(sorted(going.addresses), names)
    if unasked := departing.unasked(context, Along.of(removal, found), within):
        raise Refused("; ".join(unasked))
    if removal:
        context.journal.note(
            "decommission.firewall.planned",
            f"{guest}: {len(firewall.sentences(removal))} firewall entries go",
            vmid=guest.vmid,
            undo=firewall.undo_record(rules, removal),
        )
        write_undo(context)
        firewall.carry_out(context.proxmox, context.guard, rules, removal)
    if found.records:
        count = f"{guest}: {len(found.records)} records go"
        context.journal.note("decommission.dns.planned", count, vmid=guest.vmid, undo=found.as_json())
        write_undo(context)
        context.dns.delete(found, names)
    said = [f"Removed: {sentence}." for sentence in firewall.sentences(removal)]
    return said + [f"Removed: record {record}." for _, record in found.records]


def _forget_names_that_waited(context: Context, guest: Guest, within: Scope) -> None:
    """Aliases and sets that the guest's own rules used; they could not go before it."""
    rules = firewall.read(context.proxmox)
    removal = firewall.resolve(rules, departing.going(context, _up_to(context, guest), within), survey.begun(context)).removal
    if unasked := departing.unasked(context, Along.of(removal, None), within):
        raise Refused("; ".join(unasked))
    if removal:
        undo = firewall.undo_record(rules, removal)
        context.journal.note("decommission.firewall.planned", f"{guest}: names that had to wait", vmid=guest.vmid, undo=undo)
        firewall.carry_out(context.proxmox, context.guard, rules, removal)


def _delete(context: Context, guest: Guest, agreed: approvals.Approval, archive: vzdump.Archive) -> None:
    before = {"vmid": guest.vmid, "identity": agreed.identity.as_json(), "backup": archive.volid}
    context.ui.say(f"Deleting {guest}.")
    with context.guard.act("decommission.delete", f"Delete {guest}", before=before) as act:
        # Not "destroy-unreferenced-disks": on storage that two clusters share it would free somebody else's volumes.
        context.proxmox.do_task(
            "DELETE",
            context.proxmox.of(guest),
            kind="vzdestroy",
            vmid=guest.vmid,
            what=f"Deleting {guest}",
            deadline=DELETE_SECONDS,
            purge=1,
        )
        if identity.read(context, guest) is not None:
            raise Failed(
                f"Proxmox says that {guest} was deleted, and still lists it.",
                "Look at it in Proxmox, then run the command again.",
            )
        act.after = {"vmid": guest.vmid, "gone": True}


def _see_deleted(context: Context, guest: Guest) -> None:
    """The deletion was interrupted after it happened: write down that it was seen."""
    if not approvals.deleted(context, guest):
        with context.guard.act("decommission.delete", f"See that {guest} is deleted", before={"vmid": guest.vmid}) as act:
            act.after = {"vmid": guest.vmid, "gone": True}
