"""Take the disk's size back, by rolling the VM back to a snapshot from before it grew. Not part of any ordinary way back.

A disk cannot shrink, so `cutover undo resize` leaves it grown. Whoever wants it small again has one way, a snapshot of the VM
that was taken before the resize; and that takes everything with it that was written to the VM since, on every disk. So this is
a command of its own, it says what is lost and from when on, and it wants the VM's name typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import Refused
from cutover.core.journal import utc
from cutover.core.units import GIB
from cutover.phases import vm_restart
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence
from cutover.proxmox import drives, identity, power, privileges, replacing
from cutover.proxmox import vm as vm_state

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.core.journal import Entry


def _newest_from_before(context: Context) -> tuple[str, dict[str, Any]] | None:
    """The newest snapshot in which the disk has its old size, and the configuration in it; None where the disk is not grown.

    :class:`Refused` where none is, or where a newer one hangs on it.
    """
    vm, api, site = context.site.guests.new, context.proxmox, context.site.resize
    now = drives.disk_bytes(api.config(vm), site.disk) or 0
    if now <= site.before.disk_gb * GIB:
        return None
    rows = sorted(api.list(f"{api.of(vm)}/snapshot"), key=lambda row: int(row.get("snaptime") or 0), reverse=True)
    for row in rows:
        if row.get("name") == "current" or row.get("snapstate"):
            continue
        config = dict(api.get(f"{api.of(vm)}/snapshot/{row['name']}/config"))
        size = drives.disk_bytes(config, site.disk)
        if size is None or size > site.before.disk_gb * GIB:
            continue
        name = str(row["name"])
        if newer := [str(one["name"]) for one in rows if one.get("parent") == name and one["name"] != "current"]:
            raise Refused(
                f"The snapshot {', '.join(newer)} is newer than {name}; a rollback would strand or lose it.", "Delete it first."
            )
        return name, {**config, "snaptime": row.get("snaptime")}
    raise Refused(
        f"{vm} has no snapshot in which {site.disk} has {site.before.disk_gb} GB, so its size cannot be taken back.",
        "The disk stays grown; on thin storage the room that nobody uses costs little.",
    )


def _begun(context: Context) -> Entry | None:
    """The rollback that an earlier run began, where it did not see its end; None otherwise."""
    return events.not_seen_done(context.journal.acts("resize.rollback"))


def _task(context: Context) -> str | None:
    """The task of that rollback, running or ended; None where Proxmox lists none."""
    begun, vm = _begun(context), context.site.guests.new
    since = float((begun.before or {}).get("there") or 0) if begun is not None else 0.0
    tasks = context.proxmox.tasks("qmrollback", vm.vmid) if since else []
    return next((str(task["upid"]) for task in tasks if float(task.get("starttime") or 0) >= since), None)


def _see_end(context: Context, upid: str) -> Outcome:
    """Wait for the rollback that was begun, and until the VM runs; it is started where nothing starts it."""
    vm, api, begun = context.site.guests.new, context.proxmox, _begun(context)
    before = dict(begun.before or {}) if begun is not None else {}
    context.ui.say(f"{vm} is being rolled back already; waiting for that.")
    with context.guard.act("resize.rollback", f"See that {vm} is rolled back", before=before) as act:
        api.wait_task(upid, deadline=vm_restart.TASK_SECONDS).must(f"Rolling {vm} back", warnings=True)
        vm_restart.up(context)
        cores, memory, size = vm_state.sizes_of(api.config(vm), context.site.resize.disk)
        act.after = {"cores": cores, "memory": memory, "disk_gb": size}
    said = f"{vm} was rolled back by the run that was interrupted: {cores} cores, {memory} MB, {size} GB."
    return Outcome(True, [said])


@dataclass(frozen=True, kw_only=True)
class RollbackPlan(Plan):
    """``snapshot``: the one to roll back to, which was taken at ``since``, and what that would lose, the beginning of a sentence.

    ``task``: the rollback that an earlier run began. Neither: the disk is not grown.
    """

    snapshot: str = ""
    since: str = ""
    lost: str = ""
    task: str | None = None


def plan(context: Context) -> RollbackPlan:
    """Which snapshot, and what it would lose."""
    vm = context.site.guests.new
    if (task := _task(context)) is not None:
        wait = Sentence(f"Wait for the rollback of {vm} that was begun, and until it runs", f"{vm} runs", "None")
        return RollbackPlan(sentences=[wait], task=task)
    found = _newest_from_before(context)
    if found is None:
        return RollbackPlan()
    _need_no_refusal(context)
    name, config = found
    since = utc(int(config["snaptime"])) if config["snaptime"] else "it was taken"
    disks = ", ".join(drives.disks(config))
    lost = f"Everything written to {vm} since {since}, on {disks}, and every change of its settings since then"
    roll = Sentence(f"Cut {vm} off, roll it back to snapshot {name} and start it. {lost} would be lost.", f"All of {vm}", "None")
    return RollbackPlan(sentences=[roll], snapshot=name, since=since, lost=lost)


def _need_no_refusal(context: Context) -> None:
    """:class:`Refused` with what speaks against rolling the VM back as it is now."""
    vm, api = context.site.guests.new, context.proxmox
    if wrong := identity.not_meant(context, vm):
        raise Refused(f"{vm} is not the guest that is meant: {'; '.join(wrong)}.", "Look at it in Proxmox.")
    if against := [*api.no_quorum(), *replacing.held(vm, api.config(vm), api.status(vm))]:
        raise Refused(" ".join(against), "Remove the reason and run the command again.")
    if short := privileges.missing(context, "rollback"):
        raise Refused(f"The token {api.token} lacks {'; '.join(short)}.", "`cutover rights` has the commands that give them.")


def do(context: Context, planned: RollbackPlan) -> Outcome:
    """Roll back, once the VM's name was typed: cores, memory and every other setting go back with the disk."""
    vm, api = context.site.guests.new, context.proxmox
    if planned.task is not None:
        return _see_end(context, planned.task)
    if not planned.snapshot:
        return Outcome(False, [f"The disk of {vm} has its old size already."])
    context.confirm.by_name(vm.name, planned.lost + " would be lost, and the VM would be cut off as by a power failure.")
    there = float(api.record(f"nodes/{api.node_of(vm.vmid)}/time")["time"])
    before = {"config": dict(api.config(vm)), "snapshot": planned.snapshot, "there": there}
    with context.guard.act("resize.rollback", f"Roll {vm} back to snapshot {planned.snapshot}", before=before) as act:
        limits = context.site.limits
        power.roll_back(api, vm, planned.snapshot, deadline=vm_restart.TASK_SECONDS, start_deadline=limits.reboot_seconds)
        cores, memory, size = vm_state.sizes_of(api.config(vm), context.site.resize.disk)
        act.after = {"cores": cores, "memory": memory, "disk_gb": size}
    return Outcome(
        True, [f"{vm} is as it was at {planned.since}: {cores} cores, {memory} MB, {size} GB. {planned.lost} is lost."]
    )


PHASE = Phase(
    name="rollback",
    help="Roll the new VM back to a snapshot from before its disk grew: what was written since is lost.",
    operation=Operation(plan, do),
    instead_of_undo="What was written since that snapshot is lost.",
    privileges="rollback",
)
