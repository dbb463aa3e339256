"""Make room on the new server's VM: cores, memory and disk on the host, then the file system inside, proved from inside.

Three things decide the order. A disk grows while the VM runs, cores and memory only at its next start: so one reboot, which is
announced and asked for. What Proxmox shows by default is the configuration *with* what is still pending: so what the VM runs
with is asked for, and what it sees is asked from inside. And a disk cannot shrink: so sizes are absolute, never "+32G", and
going back gives cores and memory back but leaves the disk grown, unless somebody names a snapshot and what it would lose.

What speaks against it is in ``proxmox/vm_sizes.py``, what happens inside in ``proxmox/vm_inside.py``, the reboot in
``vm_restart.py``; ``vm.seen_inside`` is the proof of criterion B2.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.checks import host
from cutover.core.errors import Failed
from cutover.core.units import GIB
from cutover.phases import vm_restart
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.proxmox import drives, identity, privileges, vm_inside, vm_sizes
from cutover.proxmox import vm as vm_state

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest, Site, Sizes

#: How long another one's hold on the configuration is waited for. (Proxmox itself waits 10 s.)
BUSY_SECONDS = 60.0
#: The part of a disk's new room that a file system shows at least as its own: the rest is its reserve and its tables.
LEAST_OF_ROOM = 0.75


# -- the phase -----------------------------------------------------------------------------------


_HINT = "Remove the reason and run the command again."


def _speaks_against(context: Context, state: vm_state.State, *, undoing: bool = False) -> list[str]:
    """Why the VM is not resized, at most one sentence with every reason."""
    vm, resize = context.site.guests.new, context.site.resize
    wanted = resize.before if undoing else resize.after
    said = [f"{vm} is not the guest that is meant: {one}." for one in identity.not_meant(context, vm)]
    said += vm_sizes.refusals(vm, state, wanted, resize.disk, undoing=undoing)
    if not state.running and not undoing:
        said.append(f"{vm} is not running: its inside can be neither grown nor proved.")
    said += context.proxmox.no_quorum()
    short = privileges.missing(context, "resize")
    said += [f"The token {context.proxmox.token} lacks {one}." for one in short]
    count = "is a reason" if len(said) == 1 else f"are {len(said)} reasons"
    return [f"{vm} is not resized; there {count}: " + " ".join(said)] if said else []


@dataclass(frozen=True, kw_only=True)
class ResizePlan(Plan):
    """``state`` and ``inside``: the VM as it is seen from outside and from inside; ``inside`` is None where it was not asked."""

    state: vm_state.State
    inside: vm_state.Inside | None = None


def plan(context: Context) -> ResizePlan:
    """What would be done now, with a table of what is and every reason against it; empty where there is nothing to do."""
    vm, resize = context.site.guests.new, context.site.resize
    state = vm_state.look(context)
    if vm_restart.reboot_begun(context) and vm_restart.coming_up(context, state):
        return ResizePlan(sentences=[Sentence(f"Wait for the reboot of {vm} that was begun, then go on")], state=state)
    rows = vm_sizes.table(state, resize.after, resize.disk)
    overview: dict[str, Any] = {"guest": str(vm), "table": [vars(row) for row in rows]}
    if against := _speaks_against(context, state):
        return ResizePlan(refusals=against, hint=_HINT, overview=overview, state=state)
    inside = vm_state.seen_inside(context)
    overview["inside"] = vm_state.facts(inside)
    missing = vm_state.not_yet(inside, resize.after, resize.mount_point)
    if not any(row.differs for row in rows) and not missing:
        return ResizePlan(overview=overview, state=state, inside=inside)
    if any(row.differs for row in rows) and (room := host.room(context)).ok is not True:
        # A1 once more: the host may have filled up since it was checked.
        return ResizePlan(refusals=[room.sentence], hint=room.hint, overview=overview, state=state)
    reasons, unseen = vm_inside.growable(context, inside) if _has_to_grow(rows, inside, resize) else ([], [])
    if reasons:
        against = [f"{vm} is not resized: {' '.join(reasons)}"]
        return ResizePlan(refusals=against, hint=_HINT, overview=overview, state=state)
    sentences = [
        Sentence(
            f"Set {row.name} of {vm} from {row.now} to {row.wanted}{row.unit}"
            + (f" ({row.pending} waits for the next start already)" if row.pending != row.now else ""),
            changes=f"{row.name} of {vm}",
            undo="stays grown: a disk cannot shrink" if row.what.startswith("disk") else "set back by `cutover undo resize`",
        )
        for row in rows
        if row.differs
    ]
    if any(row.differs for row in rows[:2]):
        sentences.append(
            Sentence(
                f"Reboot {vm} once: every container on it is away meanwhile, at most {context.site.limits.reboot_seconds:g} s.",
                changes=f"{vm} is rebooted",
            )
        )
    sentences += [Sentence(f"Not seen beforehand: {one}; it is asked inside before the disk grows.") for one in unseen]
    if any("disk" in one or "file system" in one for one in missing):
        sentences.append(
            Sentence(
                f"Grow {inside.fs.fs_type} at {resize.mount_point} inside {vm} from {inside.fs.size / GIB:.1f} GB to its disk's "
                "size, and prove it from inside.",
                changes=f"partition and file system of {inside.fs.name} inside {vm}",
                undo="stays grown",
            )
        )
    return ResizePlan(sentences=sentences, overview=overview, state=state, inside=inside)


def _has_to_grow(rows: Sequence[vm_sizes.Row], inside: vm_state.Inside, resize: Any) -> bool:
    """Whether the disk or the file system inside is smaller than wanted."""
    small = any("disk" in one or "file system" in one for one in vm_state.not_yet(inside, resize.after, resize.mount_point))
    return small or any(row.differs for row in rows if row.what.startswith("disk"))


def do(context: Context, planned: ResizePlan) -> Outcome:
    """Resize, reboot once, grow inside, prove. Run again, it continues where it was; when all is there it does nothing."""
    vm, resize = context.site.guests.new, context.site.resize
    wanted = resize.after
    if vm_restart.await_begun(context) or planned.inside is None:
        planned = plan(context)
        planned.need_no_refusal()
    before, earlier = planned.state, vm_restart.left_to_compare(context)
    seen = planned.inside or vm_state.seen_inside(context)
    if not planned.sentences:
        if earlier is not None:
            return Outcome(True, vm_restart.compared(context, earlier))
        return Outcome(False, [f"{vm} sees {wanted.cores} cores, {wanted.memory_mb} MB and {wanted.disk_gb} GB already."])
    said: list[str] = []
    if _has_to_grow(vm_sizes.table(before, wanted, resize.disk), seen, resize):
        vm_inside.need_growable(context, seen)
    identity.remember(context, vm)
    said += _set_sizes(context, before, wanted)
    said += _grow_disk(context, wanted.disk_gb, seen.fs.size)
    state = vm_state.look(context)
    if vm_state.sizes_of(state.config, resize.disk)[:2] != (wanted.cores, wanted.memory_mb):
        said += vm_restart.reboot(context)
    elif earlier is not None:
        said += vm_restart.compared(context, earlier)
    state = vm_state.look(context)
    cores, memory, size = vm_state.sizes_of(state.config, resize.disk)
    if (cores, memory, size) != (wanted.cores, wanted.memory_mb, wanted.disk_gb):
        raise Failed(f"{vm} runs with {cores} cores, {memory} MB and {size} GB after its reboot.", "Look at it in Proxmox.")
    small = vm_state.seen_inside(context)
    if vm_state.not_yet(small, wanted, resize.mount_point):
        with context.guard.act("resize.grow-inside", f"Grow the file system inside {vm}", before=vm_state.facts(small)) as act:
            grown = vm_inside.grow_inside(context)
            act.after = grown
        if grown:
            said.append(f"Inside it, the file system was given the new room ({', '.join(one.split(':')[0] for one in grown)}).")
        _note_filled(context, wanted)
    inside = vm_state.seen_inside(context)
    missing = vm_state.not_yet(inside, wanted, resize.mount_point)
    if missing:
        raise Failed(f"{vm} was resized, but {'; '.join(missing)}.", "Look inside the VM, then run the command again.")
    said.append(
        f"{vm} itself sees {inside.cores} cores, {inside.memory_mb} MB and a file system of {inside.fs.size / GIB:.1f} GB on its "
        f"{wanted.disk_gb} GB disk."
    )
    return Outcome(
        True, said, "`cutover undo resize` sets cores and memory back; the disk stays grown.", {"inside": vm_state.facts(inside)}
    )


def _note_filled(context: Context, wanted: Sizes) -> None:
    """Write down how large the file system shows itself now that every program inside said that it has all of its disk.

    Not where it did not grow with its disk: then something else than a reserve keeps it small.
    """
    now = vm_state.seen_inside(context)
    if now.disk_bytes is None or now.disk_bytes < wanted.disk_gb * GIB:
        return
    begun = [e.before for e in context.journal.acts("resize.disk") if e.kind == "intent" and "fs_bytes" in (e.before or {})]
    if begun:
        room, grew = now.disk_bytes - begun[-1]["gb"] * GIB, now.fs.size - begun[-1]["fs_bytes"]
        if grew < room * LEAST_OF_ROOM:
            return
    about = {"fs_bytes": now.fs.size, "disk_bytes": now.disk_bytes}
    context.journal.note(vm_state.FILLED, f"The file system inside {context.site.guests.new} has all of its disk", **about)


def _set_sizes(context: Context, state: vm_state.State, wanted: Sizes) -> list[str]:
    """Cores and memory, with the digest of what was looked at, so that somebody else's change in between is not lost."""
    vm, api, disk = context.site.guests.new, context.proxmox, context.site.resize.disk
    cores, memory, _ = vm_state.sizes_of(state.config, disk)
    change: dict[str, int] = {}
    if vm_state.mib(state.pending.get("cores") or cores) != wanted.cores:
        change["cores"] = wanted.cores
    if vm_state.mib(state.pending.get("memory") or memory) != wanted.memory_mb:
        change["memory"] = wanted.memory_mb
    if not change:
        return []
    what = f"Set {vm} to {wanted.cores} cores and {wanted.memory_mb} MB from its next start on"
    with context.guard.act(
        "resize.sizes", what, before={"cores": cores, "memory": memory, "pending": dict(state.pending)}
    ) as act:
        # Somebody else's short hold on the configuration passes; a change of it in that time is caught by the digest.
        api.retry_while_locked(
            lambda: api.change("PUT", f"{api.of(vm)}/config", digest=state.config.get("digest"), **change),
            deadline=BUSY_SECONDS,
            what=f"Setting cores and memory of {vm}",
        )
        now = vm_state.look(context)
        act.after = {"pending": dict(now.pending)}
    return [f"{vm} has {wanted.cores} cores and {wanted.memory_mb} MB from its next start on."]


def _grow_disk(context: Context, wanted_gb: int, fs_bytes: int) -> list[str]:
    """The disk, by its absolute size: asking twice for 132 GB is harmless, asking twice for 32 more would not be."""
    vm, api, disk = context.site.guests.new, context.proxmox, context.site.resize.disk
    config = api.config(vm)
    size = (drives.disk_bytes(config, disk) or 0) // GIB
    if size >= wanted_gb:
        return []
    what = f"Grow disk {disk} of {vm} from {size} to {wanted_gb} GB"
    before = {"disk": disk, "gb": size, "value": str(config[disk]), "fs_bytes": fs_bytes}
    with context.guard.act("resize.disk", what, before=before) as act:
        api.do_task(
            "PUT", f"{api.of(vm)}/resize", kind="resize", vmid=vm.vmid, what=what, deadline=vm_restart.TASK_SECONDS,
            disk=disk, size=f"{wanted_gb}G", digest=config.get("digest"),
        )  # fmt: skip
        now = (drives.disk_bytes(api.config(vm), disk) or 0) // GIB
        act.after = {"gb": now}
        if now != wanted_gb:
            raise Failed(f"The task ended well, but disk {disk} of {vm} has {now} GB.", "Look at it in Proxmox.")
    return [f"Disk {disk} of {vm} was grown from {size} to {wanted_gb} GB."]


# -- the way back --------------------------------------------------------------------------------


def plan_undo(context: Context) -> ResizePlan:
    """What `undo` would do now: cores and memory; what happens to the disk is said."""
    vm, resize = context.site.guests.new, context.site.resize
    state = vm_state.look(context)
    against = _speaks_against(context, state, undoing=True)
    cores, memory, size = vm_state.sizes_of(state.config, resize.disk)
    sentences = []
    if {"cores", "memory"} & set(state.pending):
        sentences.append(Sentence(f"Take back what waits for the next start of {vm}; no reboot is needed for that."))
    if not state.running:
        sentences.append(Sentence(f"Start {vm} with its old sizes; it is not running", f"{vm} runs"))
    elif (cores, memory) != (resize.before.cores, resize.before.memory_mb):
        sentences.append(
            Sentence(
                f"Set {vm} from {cores} cores and {memory} MB to {resize.before.cores} cores and {resize.before.memory_mb} MB, "
                "and reboot it once.",
                changes=f"cores and memory of {vm}; it is rebooted",
            )
        )
    if sentences and size > resize.before.disk_gb:
        sentences.append(Sentence(_disk_stays(vm, size, resize.before.disk_gb)))
    return ResizePlan(sentences=sentences, refusals=against, hint=_HINT, state=state)


def _disk_stays(vm: Guest, size: int, before: int) -> str:
    return (
        f"The disk of {vm} stays at {size} GB: a disk cannot shrink. Only a snapshot from before could bring {before} GB back, "
        "and it would take every write since with it."
    )


def undo(context: Context, planned: ResizePlan) -> Outcome:
    """Give cores and memory back: reverted where they only wait, with a second reboot where they apply. The disk stays grown."""
    vm, resize, api = context.site.guests.new, context.site.resize, context.proxmox
    waited = True
    with suppress(Failed):  # a VM that does not come up with its new size is what this is for
        waited = vm_restart.await_begun(context)
    if waited:
        planned = plan_undo(context)
        planned.need_no_refusal()
    state = planned.state
    said: list[str] = []
    ours = {"cores": resize.before.cores, "memory": resize.before.memory_mb}
    waiting = sorted(key for key in ours if key in state.pending and vm_state.mib(state.pending[key]) != ours[key])
    if waiting:
        what = f"Take back the waiting change of {' and '.join(waiting)} of {vm}"
        with context.guard.act("resize.revert", what, before={"pending": dict(state.pending)}) as act:
            api.change("PUT", f"{api.of(vm)}/config", revert=",".join(waiting), digest=state.config.get("digest"))
            state = vm_state.look(context)
            act.after = {"pending": dict(state.pending)}
        said.append(what + "; no reboot was needed.")
    cores, memory, size = vm_state.sizes_of(state.config, resize.disk)
    if (cores, memory) != (resize.before.cores, resize.before.memory_mb) or not state.running:
        said += _set_sizes(context, state, resize.before)
        said += vm_restart.reboot(context) if state.running else vm_restart.start(context)
        cores, memory, size = vm_state.sizes_of(vm_state.look(context).config, resize.disk)
        if (cores, memory) != (resize.before.cores, resize.before.memory_mb):
            raise Failed(f"{vm} runs with {cores} cores and {memory} MB after its start.", "Look at it in Proxmox.")
        inside = vm_state.seen_inside(context)
        if inside.cores != resize.before.cores:
            raise Failed(f"{vm} itself sees {inside.cores} cores.", "Look at it in Proxmox.")
        said.append(f"{vm} itself sees {inside.cores} cores and {inside.memory_mb} MB.")
    if not said:
        return Outcome(False, [f"{vm} has {cores} cores and {memory} MB already."])
    if size > resize.before.disk_gb:
        said.append(_disk_stays(vm, size, resize.before.disk_gb))
    return Outcome(True, said)


def _step(site: Site) -> Step:
    guests = site.guests
    before, after = site.resize.before, site.resize.after
    return Step(
        title=f"Make room on {guests.new}",
        does=f"{before.cores} to {after.cores} cores, {before.memory_mb} to {after.memory_mb} MB, "
        f"{before.disk_gb} to {after.disk_gb} GB, grown inside the guest and proved from there.",
        needs=f"One reboot of {guests.new}: everything on it is away for that time.",
        changes="Cores, memory and disk of the VM.",
        undo="`cutover undo resize` gives cores and memory back with a second reboot; a disk cannot shrink and stays.",
        criteria=("B2", "B3", "E2"),
    )


PHASE = Phase(
    name="resize",
    help="Give the new VM its cores, memory and disk, and prove it from inside the guest.",
    operation=Operation(plan, do),
    step=_step,
    undo=Operation(plan_undo, undo),
    privileges="resize",
    probed=True,
)
