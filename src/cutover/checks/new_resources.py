"""What was saved, and what the new server's VM has: asked again whenever somebody wants to know, not only when it was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import Refused
from cutover.core.units import GIB
from cutover.proxmox import vm as vm_state
from cutover.proxmox import vzdump
from cutover.state import backup_manifest

if TYPE_CHECKING:
    from cutover.context import Context


@check(
    "B1",
    "A backup of the old server exists, is protected, and was proved restorable",
    moments={Moment.AT_SWITCH, Moment.AFTER},
)
def saved(context: Context) -> Finding:
    """The manifest, the archive in the storage, and the snapshots in the state folder."""
    old, kept = context.site.guests.old, backup_manifest.manifest(context)
    if kept is None:
        return Finding(False, f"There is no complete backup of {old}.", "Run `cutover backup`.")
    try:
        archive = vzdump.find(context, old, backup_manifest.PURPOSE)
    except Refused as hidden:
        if old.vmid in {place.vmid for place in context.proxmox.places()}:
            return Finding(None, hidden.sentence, hidden.hint)
        archive = None  # the rights on its backups went with it
    if archive is None and old.vmid not in {place.vmid for place in context.proxmox.places()}:
        return Finding(
            None,
            f"{old} is deleted, and with it the right to see its backups; {kept['archive']['volid']} was proved on {kept['at']}.",
            "Its final backup was proved before it was deleted: `cutover history`.",
        )
    if archive is None or archive.volid != kept["archive"]["volid"]:
        return Finding(
            False,
            f"The backup {kept['archive']['volid']} is no longer in storage {context.site.proxmox.storages.backup}, or hidden.",
            "Run `cutover backup` again; `cutover check` says whether the token may see backups.",
        )
    if not archive.protected or archive.size <= 0:
        return Finding(
            False, f"The backup {archive.volid} is not protected, or empty.", "Protect it in Proxmox, or make a new one."
        )
    if lost := backup_manifest.lost(context, kept):
        return Finding(
            False,
            f"The snapshots of {', '.join(lost)} are gone from {backup_manifest.folder(context)}, or cut off there.",
            "Run `cutover backup` again.",
        )
    count = len(kept["collections"])
    return Finding(
        True,
        f"The backup of {kept['at']} is there, protected, and was restored on trial; snapshots of {count} collections are kept.",
        facts={"archive": archive.as_json(), "proofs": kept["proofs"]},
    )


@check("B2", "The new server's VM itself sees its new size", moments={Moment.AT_SWITCH, Moment.AFTER})
def resized(context: Context) -> Finding:
    """From inside, through the guest agent; and that nothing waits for a next start."""
    vm, site = context.site.guests.new, context.site.resize
    inside = vm_state.seen_inside(context)
    missing = vm_state.not_yet(inside, site.after, site.mount_point)
    waiting = [str(row["key"]) for row in context.proxmox.pending(vm)]
    if missing:
        return Finding(False, f"{vm} has not its new size: {'; '.join(missing)}.", "Run `cutover resize`.")
    if waiting:
        return Finding(False, f"A change of {', '.join(waiting)} waits for the next start of {vm}.", "Look at it in Proxmox.")
    return Finding(
        True,
        f"{vm} itself sees {inside.cores} cores, {inside.memory_mb} MB and {inside.fs.size / GIB:.1f} GB of file system.",
        facts=vm_state.facts(inside),
    )
