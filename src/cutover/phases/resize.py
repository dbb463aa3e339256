"""Make room on the new server's VM: cores, memory and disk on the host, then the file system inside, proved from inside.

Three things decide the order. A disk grows while the VM runs, cores and memory only at its next start: so one reboot, which is
announced and asked for. What Proxmox shows by default is the configuration *with* what is still pending: so what the VM runs
with is asked for, and what it sees is asked from inside. And a disk cannot shrink: so sizes are absolute, never "+32G", and
going back gives cores and memory back but leaves the disk grown, unless somebody names a snapshot and what it would lose.

What others call: ``plan(run)``, ``do(run)``, ``plan_undo(run)``, ``undo(run)``, ``roll_disk_back(run, snapshot)``;
``refusals(...)`` and ``table(...)`` are pure; ``seen_inside(run)`` is the proof of criterion B2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases.phase import Outcome, Phase, Sentence, Step
from cutover.portainer.client import Picture, differences
from cutover.proxmox import guest_disk, identity, privileges
from cutover.proxmox import vm as vm_state
from cutover.proxmox.client import AgentResult, ProxmoxRefused

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest, Site, Sizes

TASK_SECONDS = 600.0
#: How long another one's hold on the configuration is waited for. (Proxmox itself waits 10 s.)
BUSY_SECONDS = 60.0


# -- what is there -------------------------------------------------------------------------------


# -- what speaks against it ----------------------------------------------------------------------


def refusals(vm: Guest, state: vm_state.State, wanted: Sizes, disk: str, *, undoing: bool = False) -> list[str]:
    """Every reason not to resize this VM as it is now, as sentences. Pure.

    ``undoing`` leaves out what only concerns growing.
    """
    config, said = state.config, []
    cores, memory, size = vm_state.sizes_of(config, disk)
    if config.get("lock"):
        said.append(f"{vm} is locked ({config['lock']}): something else works on it.")
    if _on(config.get("template")):
        said.append(f"{vm} is a template.")
    if dict(state.status.get("ha") or {}).get("managed"):
        said.append(f"{vm} is managed by HA, which would start or move it while it is being changed.")
    ours = {"cores": wanted.cores, "memory": wanted.memory_mb}
    for key, value in sorted(state.pending.items()):
        if key not in ours or value is None or (vm_state.mib(value) != ours[key] and not undoing):
            what = "its removal" if value is None else f"{value}"
            said.append(f"A change of {key} ({what}) waits for the next start of {vm} already; a reboot would apply it too.")
    if str(config.get("sockets", 1)) != "1":
        said.append(
            f"{vm} has {config['sockets']} sockets, so {wanted.cores} cores are {wanted.cores * int(config['sockets'])} CPUs."
        )
    if "vcpus" in config:
        said.append(f"vcpus={config['vcpus']} is set: {vm} would start with that many CPUs whatever its cores.")
    numas = sorted(key for key in config if re.fullmatch(r"numa\d+", key))
    if numas and memory != wanted.memory_mb:
        said.append(f"{', '.join(numas)} divide the memory by hand: with another memory {vm} would not start.")
    if str(config.get("hugepages", "")):
        said.append(
            f"hugepages={config['hugepages']} is set: the memory has to be free in pages of that size, which this "
            f"tool cannot check."
        )
    balloon = config.get("balloon")
    if balloon is not None and 0 < int(balloon) < wanted.memory_mb:
        said.append(
            f"balloon={balloon} is set: {vm} would start with {wanted.memory_mb} MB and be pulled down to {balloon} MB at once. "
            f"Set balloon to {wanted.memory_mb} or remove it."
        )
    if config.get("args"):
        said.append(f"{vm} has args of its own for kvm, which may contradict the new sizes.")
    if undoing:
        return said
    if float(config.get("cpulimit") or 0) and float(config["cpulimit"]) < wanted.cores:
        said.append(f"cpulimit={config['cpulimit']} is set: {wanted.cores} cores would get the time of {config['cpulimit']}.")
    if config.get("affinity"):
        said.append(f"{vm} is bound to CPUs {config['affinity']}; more cores would share these.")
    return said + _about_disk(vm, state, wanted, disk, size, cores, memory)


def _about_disk(vm: Guest, state: vm_state.State, wanted: Sizes, disk: str, size: int, cores: int, memory: int) -> list[str]:
    said = []
    options = vm_state.drive(state.config, disk)
    if not options:
        said.append(f"{vm} has no disk {disk}.")
    elif options.get("media") == "cdrom" or options["volume"].startswith("/"):
        said.append(f"{disk} of {vm} is {options['volume']}, not a disk that Proxmox can grow.")
    elif size > wanted.disk_gb:
        said.append(f"{disk} of {vm} has {size} GB already, more than the {wanted.disk_gb} GB wanted; a disk cannot shrink.")
    if memory > wanted.memory_mb or cores > wanted.cores:
        said.append(f"{vm} has {cores} cores and {memory} MB already, more than wanted; site.yaml does not describe it any more.")
    if size < wanted.disk_gb and state.snapshots:
        said.append(
            f"{vm} has the snapshot {', '.join(state.snapshots)}: not every storage can grow a disk with snapshots, and a "
            "rollback would take the disk back. Delete it, or grow the disk first."
        )
    if not str(state.config.get("agent", "0")).startswith(("1", "enabled=1")):
        said.append(f"{vm} has no guest agent configured, without which the file system inside cannot be grown or proved.")
    return said


def _on(value: Any) -> bool:
    return str(value or 0) not in {"0", "", "false"}


@dataclass(frozen=True)
class Row:
    """A line of the plan's table. ``now`` is what the VM runs with, ``pending`` what it would start with."""

    what: str
    now: str
    pending: str
    wanted: str

    @property
    def differs(self) -> bool:
        return self.now != self.wanted

    @property
    def name(self) -> str:
        """Without its unit."""
        return self.what.partition(" (")[0]

    @property
    def unit(self) -> str:
        """As it stands behind a number."""
        unit = self.what.partition(" (")[2].rstrip(")")
        return f" {unit}" if unit else ""


def table(state: vm_state.State, wanted: Sizes, disk: str) -> list[Row]:
    """What is, what waits, and what is wanted. Pure."""
    cores, memory, size = vm_state.sizes_of(state.config, disk)
    return [
        Row("cores", str(cores), str(state.pending.get("cores") or cores), str(wanted.cores)),
        Row("memory (MB)", str(memory), str(state.pending.get("memory") or memory), str(wanted.memory_mb)),
        Row(f"disk {disk} (GB)", str(size), str(size), str(wanted.disk_gb)),
    ]


# -- what the VM itself sees ---------------------------------------------------------------------


# -- growing inside ------------------------------------------------------------------------------

#: What the programs say, by exit code, when there is nothing left to do: growpart's NOCHANGE, lvextend's "matches existing size".
_NOTHING_TO_DO = {"growpart": (1, "NOCHANGE"), "lvextend": (5, "matches existing size")}


def _agent_may_execute(context: Context) -> bool:
    """Whether the agent runs programs at all; some distributions forbid it."""
    vm, api = context.site.guests.new, context.proxmox
    told = dict(api.get(f"{api.of(vm)}/agent/info")).get("result") or {}
    listed = {str(c.get("name")): c.get("enabled") for c in told.get("supported_commands") or []}
    return listed.get("guest-exec", True) is not False


def growable(context: Context, inside: vm_state.Inside) -> tuple[list[str], list[str]]:
    """Whether the file system can follow its disk when that grows: (what speaks against it, what cannot be seen). Reads only."""
    vm, disk = context.site.guests.new, context.site.resize.disk
    unseen: list[str] = []
    where: guest_disk.Place | None = None
    missing: list[str] = []
    try:
        read = vm_state.reader(context)
        where = guest_disk.place(read, inside.fs)
        if where is None:
            unseen.append(f"how the disk of {vm} is divided")
        if "growpart" in guest_disk.needed(inside.fs, where) and read("/usr/bin/growpart") is None:
            missing.append("growpart")
    except Refused as error:
        unseen.append(f"how the disk of {vm} is divided ({error.sentence.rstrip('.')})")
    against = guest_disk.cannot_grow(inside.fs, where, disk) + guest_disk.not_installed(missing)
    if not _agent_may_execute(context):
        against.append("its guest agent does not run programs: allow guest-exec in its configuration (block-rpcs, allow-rpcs)")
    return [f"{vm} cannot be grown inside: {one}." for one in against], unseen


def _need_growable(context: Context, inside: vm_state.Inside) -> None:
    """Ask inside, with programs that change nothing, what files alone did not tell; :class:`Refused` before the disk grows."""
    vm, resize = context.site.guests.new, context.site.resize

    def read(path: str) -> str | None:
        shown = _exec(context, ["/bin/cat", path])
        return shown.out if shown.code == 0 else None

    what = f"Look whether {resize.mount_point} inside {vm} can be grown"
    with context.guard.act("resize.look-inside", what, passing=True) as act:
        try:
            where = guest_disk.place(vm_state.reader(context), inside.fs)
        except Refused:
            where = guest_disk.place(read, inside.fs)
        names = guest_disk.needed(inside.fs, where)
        asked = _exec(context, ["/bin/sh", "-c", f'for p in {" ".join(names)}; do command -v "$p" >/dev/null || echo "$p"; done'])
        against = guest_disk.cannot_grow(inside.fs, where, resize.disk)
        against += guest_disk.not_installed([name for name in asked.out.split() if name in names])
        act.after = {"against": against}
    if against:
        raise Refused(f"{vm} cannot be grown inside: {'; '.join(against)}.", "Nothing was changed.")


def _layout(context: Context) -> guest_disk.Layout:
    vm, mount = context.site.guests.new, context.site.resize.mount_point
    asked = _exec(context, guest_disk.LSBLK)
    if asked.code != 0:
        raise Failed(f"lsblk inside {vm} failed: {asked.said}.")
    return guest_disk.layout(asked.out, mount, zfs=vm_state.seen_inside(context).fs_type == "zfs")


def grow_inside(context: Context) -> list[str]:
    """Let the file system inside the VM use all of its disk. Sentences about what was done. Needs an open act."""
    vm, mount = context.site.guests.new, context.site.resize.mount_point
    found, pool, vdev = _layout(context), "", ""
    if found.fs_type == "zfs_member":
        pool = vm_state.seen_inside(context).device.partition("/")[0]
        devices = guest_disk.vdevs(_exec(context, ["/usr/sbin/zpool", "list", "-vHP", pool]).out)
        if len(devices) != 1:
            raise Failed(
                f"The pool {pool} inside {vm} has {len(devices)} devices, and this tool grows pools of one.", "Grow it by hand."
            )
        vdev = devices[0]
    done = []
    for argv in guest_disk.commands(found, mount, pool, vdev):
        program = argv[0].rsplit("/", 1)[-1]
        result = _exec(context, argv)
        code, word = _NOTHING_TO_DO.get(program, (-1, ""))
        if result.code == code and word in result.out + result.err:
            if program == "growpart" and (behind := guest_disk.in_the_way(found)):
                raise Failed(
                    f"The disk of {vm} has grown, but partition {found.partition} cannot: {', '.join(behind)} stands behind it.",
                    "Move or remove that partition by hand (swap can be a file instead), then run the command again.",
                )
            continue
        if result.code != 0:
            raise Failed(f"`{' '.join(argv)}` inside {vm} failed: {result.said}.", "Look inside the VM, then run again.")
        done.append(f"{program}: {result.said.rstrip('.')}")
    return done


def _exec(context: Context, argv: Sequence[str]) -> AgentResult:
    """Run a program inside, once more where its answer was lost: everything that is run here can be run again without harm."""
    try:
        return _exec_once(context, argv)
    except OutcomeUnknown:
        return _exec_once(context, argv)


def _exec_once(context: Context, argv: Sequence[str]) -> AgentResult:
    vm = context.site.guests.new
    name = argv[0].rsplit("/", 1)[-1]
    package = f" ({guest_disk.PACKAGES[name]})" if name in guest_disk.PACKAGES else ""
    missing = Failed(f"{name} is not installed inside {vm}.", f"Install it{package} and run the command again.")
    try:
        return context.proxmox.agent_exec(vm, argv)
    except OutcomeUnknown as error:
        # Of a program that is not there the agent says so in a way that Proxmox passes on as 596 "Broken pipe", every time.
        if "596" in error.sentence and argv[0] != "/bin/sh":
            asked = context.proxmox.agent_exec(vm, ["/bin/sh", "-c", f"command -v {argv[0]}"])
            if asked.code != 0:
                raise missing from None
        raise
    except ProxmoxRefused as error:
        if "has been disabled" in error.sentence or "not allowed" in error.sentence:
            hint = "Allow guest-exec in the agent's configuration (block-rpcs, allow-rpcs), or grow the file system by hand."
            raise Failed(f"The guest agent of {vm} does not run programs.", hint) from None
        if "No such file" in error.sentence:
            raise missing from None
        raise


# -- the phase -----------------------------------------------------------------------------------


def _need_no_refusal(context: Context, state: vm_state.State, *, undoing: bool = False) -> None:
    vm, resize = context.site.guests.new, context.site.resize
    wanted = resize.before if undoing else resize.after
    said = [f"{vm} is not the guest that is meant: {one}." for one in identity.not_meant(context, vm)]
    said += refusals(vm, state, wanted, resize.disk, undoing=undoing)
    if not state.running and not undoing:
        said.append(f"{vm} is not running: its inside can be neither grown nor proved.")
    short = privileges.missing(context, "resize")
    said += [f"The token {context.proxmox.token} lacks {one}." for one in short]
    if said:
        count = "is a reason" if len(said) == 1 else f"are {len(said)} reasons"
        raise Refused(f"{vm} is not resized; there {count}: " + " ".join(said), "Remove the reason and run the command again.")


def overview(context: Context) -> dict[str, Any]:
    """The plan as data: what is, what waits, what is wanted, what the VM sees itself, and what speaks against it. Reads only."""
    vm, resize, state = context.site.guests.new, context.site.resize, vm_state.look(context)
    try:
        inside: dict[str, Any] = vm_state.facts(vm_state.seen_inside(context))
    except CutoverError as error:
        inside = {"unknown": error.sentence}
    return {
        "guest": str(vm),
        "table": [vars(row) for row in table(state, resize.after, resize.disk)],
        "inside": inside,
        "against": [
            *(f"{vm} is not the guest that is meant: {one}." for one in identity.not_meant(context, vm)),
            *refusals(vm, state, resize.after, resize.disk),
        ],
    }


def plan(context: Context) -> list[Sentence]:
    """What would be done now. :class:`Refused` with every reason against it; empty where there is nothing to do."""
    vm, resize = context.site.guests.new, context.site.resize
    state = vm_state.look(context)
    if _reboot_begun(context) and _coming_up(context, state):
        return [Sentence(f"Wait for the reboot of {vm} that was begun, then go on")]
    _need_no_refusal(context, state)
    rows = table(state, resize.after, resize.disk)
    inside = vm_state.seen_inside(context)
    missing = vm_state.not_yet(inside, resize.after, resize.mount_point)
    if not any(row.differs for row in rows) and not missing:
        return []
    if any(row.differs for row in rows):
        _need_room(context)
    against, unseen = growable(context, inside) if _has_to_grow(rows, inside, resize) else ([], [])
    if against:
        raise Refused(f"{vm} is not resized: {' '.join(against)}", "Remove the reason and run the command again.")
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
                f"Grow {inside.fs_type} at {resize.mount_point} inside {vm} from {inside.fs_bytes / vm_state.GIB:.1f} "
                f"GB to its disk's "
                "size, and prove it from inside.",
                changes=f"partition and file system of {inside.device} inside {vm}",
                undo="stays grown",
            )
        )
    return sentences


def _has_to_grow(rows: Sequence[Row], inside: vm_state.Inside, resize: Any) -> bool:
    """Whether the disk or the file system inside is smaller than wanted."""
    small = any("disk" in one or "file system" in one for one in vm_state.not_yet(inside, resize.after, resize.mount_point))
    return small or any(row.differs for row in rows if row.what.startswith("disk"))


def _need_room(context: Context) -> None:
    """Criterion A1 is asked again right before the change: the host may have filled up since the plan was read."""
    from cutover.checks.host import room

    found = room(context)
    if found.ok is not True:
        raise Refused(found.sentence, found.hint)


def do(context: Context) -> Outcome:
    """Resize, reboot once, grow inside, prove. Run again, it continues where it was; when all is there it does nothing."""
    vm, resize = context.site.guests.new, context.site.resize
    wanted = resize.after
    _await_begun(context)
    earlier = _left_to_compare(context)
    if not plan(context):
        if earlier is not None:
            return Outcome(True, _compared(context, earlier))
        return Outcome(False, [f"{vm} sees {wanted.cores} cores, {wanted.memory_mb} MB and {wanted.disk_gb} GB already."])
    before, seen = vm_state.look(context), vm_state.seen_inside(context)
    said: list[str] = []
    if _has_to_grow(table(before, wanted, resize.disk), seen, resize):
        _need_growable(context, seen)
    identity.remember(context, vm)
    said += _set_sizes(context, before, wanted)
    said += _grow_disk(context, wanted.disk_gb)
    state = vm_state.look(context)
    if vm_state.sizes_of(state.config, resize.disk)[:2] != (wanted.cores, wanted.memory_mb):
        said += _reboot(context)
    elif earlier is not None:
        said += _compared(context, earlier)
    state = vm_state.look(context)
    cores, memory, size = vm_state.sizes_of(state.config, resize.disk)
    if (cores, memory, size) != (wanted.cores, wanted.memory_mb, wanted.disk_gb):
        raise Failed(f"{vm} runs with {cores} cores, {memory} MB and {size} GB after its reboot.", "Look at it in Proxmox.")
    if vm_state.not_yet(vm_state.seen_inside(context), wanted, resize.mount_point):
        with context.guard.act(
            "resize.grow-inside", f"Grow the file system inside {vm}", before=vm_state.facts(vm_state.seen_inside(context))
        ) as act:
            grown = grow_inside(context)
            act.after = grown
        if grown:
            said.append(f"Inside it, the file system was given the new room ({', '.join(one.split(':')[0] for one in grown)}).")
    inside = vm_state.seen_inside(context)
    missing = vm_state.not_yet(inside, wanted, resize.mount_point)
    if missing:
        raise Failed(f"{vm} was resized, but {'; '.join(missing)}.", "Look inside the VM, then run the command again.")
    said.append(
        f"{vm} itself sees {inside.cores} cores, {inside.memory_mb} MB and a file system of "
        f"{inside.fs_bytes / vm_state.GIB:.1f} GB "
        f"on its {wanted.disk_gb} GB disk."
    )
    return Outcome(
        True, said, "`cutover undo resize` sets cores and memory back; the disk stays grown.", {"inside": vm_state.facts(inside)}
    )


def _not_grown(before: vm_state.Inside, after: vm_state.Inside, wanted: Sizes) -> list[str]:
    """What a disk got and its file system did not, as sentences. Pure. (Some of it the file system keeps to itself.)"""
    if before.disk_bytes is None or after.disk_bytes is None:
        return []
    room = after.disk_bytes - before.disk_bytes + (before.unused or 0)
    grew = after.fs_bytes - before.fs_bytes
    if room <= guest_disk.SLACK or grew >= room * (1 - vm_state.FS_TOLERANCE) - guest_disk.SLACK:
        return []
    return [
        (
            f"its disk got {room / vm_state.GIB:.1f} GB more and the file system {max(grew, 0) / vm_state.GIB:.1f} GB of "
            f"the {wanted.disk_gb} GB"
        )
    ]


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


def _grow_disk(context: Context, wanted_gb: int) -> list[str]:
    """The disk, by its absolute size: asking twice for 132 GB is harmless, asking twice for 32 more would not be."""
    vm, api, disk = context.site.guests.new, context.proxmox, context.site.resize.disk
    config = api.config(vm)
    size = (vm_state.disk_bytes(config, disk) or 0) // vm_state.GIB
    if size >= wanted_gb:
        return []
    what = f"Grow disk {disk} of {vm} from {size} to {wanted_gb} GB"
    with context.guard.act("resize.disk", what, before={"disk": disk, "gb": size, "value": str(config[disk])}) as act:
        api.do_task(
            "PUT", f"{api.of(vm)}/resize", kind="resize", vmid=vm.vmid, what=what, deadline=TASK_SECONDS,
            disk=disk, size=f"{wanted_gb}G", digest=config.get("digest"),
        )  # fmt: skip
        now = (vm_state.disk_bytes(api.config(vm), disk) or 0) // vm_state.GIB
        act.after = {"gb": now}
        if now != wanted_gb:
            raise Failed(f"The task ended well, but disk {disk} of {vm} has {now} GB.", "Look at it in Proxmox.")
    return [f"Disk {disk} of {vm} was grown from {size} to {wanted_gb} GB."]


def _reboot(context: Context) -> list[str]:
    """One reboot, announced and asked for, with a look at what runs on the VM before and after (criterion B3)."""
    vm, limit = context.site.guests.new, context.site.limits.reboot_seconds
    before = _picture(context)
    blind = "" if before is not None else " Portainer could not be asked what runs there, so nobody compares it afterwards."
    context.confirm.to(f"Reboot {vm} now? Every container on it is away meanwhile, at most {limit:g} s.{blind}")
    facts = None if before is None else before.as_facts()
    with context.guard.act(events.REBOOTED, f"Reboot {vm}", before={"picture": facts}) as act:
        context.proxmox.reboot(vm, deadline=limit)
        act.after = "up"
    return [f"{vm} was rebooted.", *_compared(context, before)]


def _reboot_begun(context: Context) -> bool:
    """Whether this tool was ended during a reboot, so that Proxmox may still be at it."""
    lines = context.journal.acts(events.REBOOTED)
    last = next((e for e in reversed(lines) if e.kind == "intent"), None)
    # Whoever stops the tool while it waits leaves a "failed", and Proxmox goes on all the same.
    return last is not None and not any(e.of == last.seq and e.kind == "done" for e in lines)


def _coming_up(context: Context, state: vm_state.State) -> bool:
    """Whether the VM goes down or comes up right now: a task of it runs, or it is off, or its agent does not answer yet."""
    vm, api = context.site.guests.new, context.proxmox
    if api.running_tasks(("qmreboot", "qmstart", "qmshutdown"), vm.vmid):
        return True
    if not state.running:
        # What could not be started does not come up by itself.
        return not api.start_failed(vm)
    try:
        api.get(f"{api.of(vm)}/agent/info")
    except CutoverError:
        return True
    return False


def _await_begun(context: Context) -> None:
    """Wait for what an earlier run began and Proxmox still carries out: a disk that grows, a reboot."""
    vm, api, limit = context.site.guests.new, context.proxmox, context.site.limits.reboot_seconds
    for upid in api.running_tasks(("resize",), vm.vmid):
        context.ui.say(f"The disk of {vm} is being grown already; waiting for that.")
        api.wait_task(upid, deadline=TASK_SECONDS)
    if _reboot_begun(context) and _coming_up(context, vm_state.look(context)):
        context.ui.say(f"{vm} is being rebooted already; waiting for that.")
        with context.guard.act("resize.reboot-awaited", f"Wait for the reboot of {vm} that was begun", passing=True) as act:
            api.await_reboot(vm, deadline=limit)
            act.after = "up"


def _start(context: Context) -> list[str]:
    """Start a VM that did not come up, and look whether what ran on it before runs again."""
    vm, api, limit = context.site.guests.new, context.proxmox, context.site.limits.reboot_seconds
    with context.guard.act("resize.start", f"Start {vm}") as act:
        api.start(vm, deadline=limit)
        act.after = "up"
    return [f"{vm} was started.", *_compared(context, _left_to_compare(context))]


def _picture(context: Context) -> Picture | None:
    """What runs on the VM; None where Portainer cannot be asked."""
    try:
        return context.portainer.picture()
    except CutoverError as error:
        context.ui.say(f"Portainer could not be asked what runs on {context.site.guests.new}: {error.sentence}")
        return None


def _compared(context: Context, before: Picture | None) -> list[str]:
    """Wait until everything that ran before runs again as it was; :class:`Failed` names what does not."""
    vm, limit = context.site.guests.new, context.site.limits.reboot_seconds
    if before is None:
        return ["What runs on it could not be compared: look at it in Portainer."]

    def all_back() -> bool | Not:
        try:
            # No stack is left out of the comparison: a name that no stack can have.
            changed = differences(before, context.portainer.picture(), ours="/", restarted=True)
        except CutoverError as error:
            return Not(error.sentence)
        return Not(" ".join(changed).rstrip(".")) if changed else True

    try:
        wait_until(all_back, deadline=limit, what=f"Everything on {vm} being back as it was", every=0.5)
    except TimedOut as late:
        raise Failed(late.sentence, "Look at it in Portainer; then run the command again.") from None
    context.journal.note(events.COMPARED_AFTER_REBOOT, f"Everything on {vm} is back as it was")
    containers, stacks = _count(len(before.containers), "container"), _count(len(before.stacks), "stack")
    return [f"Everything on it is back as it was: {containers}, {stacks}."]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _left_to_compare(context: Context) -> Picture | None:
    """The picture from before a reboot, where an earlier run was ended before it could compare."""
    for entry in reversed(context.journal.entries()):
        if entry.act == events.COMPARED_AFTER_REBOOT:
            return None
        if entry.act == events.REBOOTED and entry.kind == "intent":
            facts = (entry.before or {}).get("picture")
            return None if facts is None else Picture.from_facts(facts)
    return None


# -- the way back --------------------------------------------------------------------------------


def plan_undo(context: Context) -> list[Sentence]:
    """What `undo` would do now: cores and memory; what happens to the disk is said."""
    vm, resize = context.site.guests.new, context.site.resize
    state = vm_state.look(context)
    _need_no_refusal(context, state, undoing=True)
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
    return sentences


def _disk_stays(vm: Guest, size: int, before: int) -> str:
    return (
        f"The disk of {vm} stays at {size} GB: a disk cannot shrink. Only a snapshot from before could bring {before} GB back, "
        "and it would take every write since with it."
    )


def undo(context: Context) -> Outcome:
    """Give cores and memory back: reverted where they only wait, with a second reboot where they apply. The disk stays grown."""
    vm, resize, api = context.site.guests.new, context.site.resize, context.proxmox
    with suppress(Failed):  # a VM that does not come up with its new size is what this is for
        _await_begun(context)
    state = vm_state.look(context)
    _need_no_refusal(context, state, undoing=True)
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
        said += _reboot(context) if state.running else _start(context)
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


def roll_disk_back(context: Context, snapshot: str) -> Outcome:
    """Roll the VM back to a snapshot from before the resize, which takes the disk's size back, and every write since with it.

    Asks for the VM's name, typed, after saying what would be lost. Also reverts cores, memory and every other setting.
    """
    vm, api = context.site.guests.new, context.proxmox
    rows = {str(row["name"]): row for row in api.list(f"{api.of(vm)}/snapshot")}
    if snapshot not in rows or snapshot == "current":
        known = ", ".join(sorted(set(rows) - {"current"})) or "none"
        raise Refused(f"{vm} has no snapshot {snapshot!r}.", f"Its snapshots: {known}.")
    newer = [name for name, row in rows.items() if row.get("parent") == snapshot and name != "current"]
    if newer:
        raise Refused(
            f"The snapshot {', '.join(newer)} is newer than {snapshot}; a rollback would strand or lose it.", "Delete it first."
        )
    if wrong := identity.not_meant(context, vm):
        raise Refused(f"{vm} is not the guest that is meant: {'; '.join(wrong)}.", "Look at it in Proxmox.")
    since, lost = _when(rows[snapshot].get("snaptime")), lost_by(context, snapshot)
    context.confirm.by_name(vm.name, lost + " would be lost, and the VM would be cut off as by a power failure.")
    with context.guard.act(
        "resize.rollback", f"Roll {vm} back to snapshot {snapshot}", before={"config": dict(api.config(vm))}
    ) as act:
        api.roll_back(vm, snapshot, deadline=TASK_SECONDS, start_deadline=context.site.limits.reboot_seconds)
        cores, memory, size = vm_state.sizes_of(api.config(vm), context.site.resize.disk)
        act.after = {"cores": cores, "memory": memory, "disk_gb": size}
    return Outcome(True, [f"{vm} is as it was at {since}: {cores} cores, {memory} MB, {size} GB. {lost} is lost."])


def lost_by(context: Context, snapshot: str) -> str:
    """What a rollback to this snapshot would lose, as the beginning of a sentence."""
    vm, api = context.site.guests.new, context.proxmox
    rows = {str(row["name"]): row for row in api.list(f"{api.of(vm)}/snapshot")}
    old = dict(api.get(f"{api.of(vm)}/snapshot/{snapshot}/config"))
    disks = [key for key in old if re.fullmatch(r"(scsi|virtio|sata|ide)\d+", key) and "media=cdrom" not in str(old[key])]
    return (
        f"Everything written to {vm} since {_when(rows[snapshot].get('snaptime'))}, on {', '.join(sorted(disks))}, "
        "and every change of its settings since then"
    )


def _when(seconds: Any) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else "it was taken"


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
    plan=plan,
    do=do,
    step=_step,
    undo=undo,
    plan_undo=plan_undo,
    overview=overview,
    privileges="resize",
    probed=True,
)
