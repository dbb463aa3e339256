"""Take the disk's size back, by rolling the VM back to a snapshot from before it grew. Not part of any ordinary way back.

A disk cannot shrink, so `cutover undo resize` leaves it grown. Whoever wants it small again has one way, a snapshot of the VM
that was taken before the resize; and that takes everything with it that was written to the VM since, on every disk. So this is
a command of its own, it says what is lost and from when on, and it wants the VM's name typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.core.errors import Refused
from cutover.phases import resize
from cutover.phases.phase import Outcome, Phase, Sentence
from cutover.proxmox import identity, privileges
from cutover.proxmox import vm as vm_state

if TYPE_CHECKING:
    from cutover.context import Context


def snapshot(context: Context) -> str | None:
    """The newest snapshot in which the disk has its old size; None where it is not grown. :class:`Refused` where none is."""
    vm, api, site = context.site.guests.new, context.proxmox, context.site.resize
    now = vm_state.disk_bytes(api.config(vm), site.disk) or 0
    if now <= site.before.disk_gb * vm_state.GIB:
        return None
    rows = sorted(api.list(f"{api.of(vm)}/snapshot"), key=lambda row: int(row.get("snaptime") or 0), reverse=True)
    for row in rows:
        if row.get("name") == "current" or row.get("snapstate"):
            continue
        config = dict(api.get(f"{api.of(vm)}/snapshot/{row['name']}/config"))
        size = vm_state.disk_bytes(config, site.disk)
        if size is not None and size <= site.before.disk_gb * vm_state.GIB:
            return str(row["name"])
    raise Refused(
        f"{vm} has no snapshot in which {site.disk} has {site.before.disk_gb} GB, so its size cannot be taken back.",
        "The disk stays grown; on thin storage the room that nobody uses costs little.",
    )


def plan(context: Context) -> list[Sentence]:
    """Which snapshot, and what it would lose."""
    vm, name = context.site.guests.new, snapshot(context)
    if name is None:
        return []
    if wrong := identity.not_meant(context, vm):
        raise Refused(f"{vm} is not the guest that is meant: {'; '.join(wrong)}.", "Look at it in Proxmox.")
    short = privileges.missing(context, "rollback")
    if short:
        raise Refused(
            f"The token {context.proxmox.token} lacks {'; '.join(short)}.", "`cutover rights` has the commands that give them."
        )
    lost = resize.lost_by(context, name)
    return [
        Sentence(f"Cut {vm} off, roll it back to snapshot {name} and start it. {lost} would be lost.", f"All of {vm}", "None")
    ]


def do(context: Context) -> Outcome:
    """Roll back, once the VM's name was typed."""
    name = snapshot(context)
    if name is None:
        return Outcome(False, [f"The disk of {context.site.guests.new} has its old size already."])
    return resize.roll_disk_back(context, name)


PHASE = Phase(
    name="rollback",
    help="Roll the new VM back to a snapshot from before its disk grew: what was written since is lost.",
    plan=plan,
    do=do,
    instead_of_undo="What was written since that snapshot is lost.",
    privileges="rollback",
)
