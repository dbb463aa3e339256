"""Inside the VM: whether its file system can follow a disk that grows, and growing it, through the guest agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutover.core.errors import Failed, OutcomeUnknown, Refused
from cutover.proxmox import agent, guest_disk
from cutover.proxmox import vm as vm_state
from cutover.proxmox.answers import ProxmoxRefused

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession


#: What the programs say, by exit code, when there is nothing left to do: growpart's NOCHANGE, lvextend's "matches existing size".
_NOTHING_TO_DO = {"growpart": (1, "NOCHANGE"), "lvextend": (5, "matches existing size")}


def _agent_may_execute(session: ProxmoxSession) -> bool:
    """Whether the agent runs programs at all; some distributions forbid it."""
    vm, api = session.site.guests.new, session.proxmox
    told = dict(api.get(f"{api.of(vm)}/agent/info")).get("result") or {}
    listed = {str(c.get("name")): c.get("enabled") for c in told.get("supported_commands") or []}
    return listed.get("guest-exec", True) is not False


def growable(session: ProxmoxSession, inside: vm_state.Inside) -> tuple[list[str], list[str]]:
    """Whether the file system can follow its disk when that grows: (what speaks against it, what cannot be seen). Reads only."""
    vm, disk = session.site.guests.new, session.site.resize.disk
    unseen: list[str] = []
    where: guest_disk.Place | None = None
    missing: list[str] = []
    try:
        read = agent.reader(session.proxmox, vm)
        where = guest_disk.place(read, inside.fs)
        if where is None:
            unseen.append(f"how the disk of {vm} is divided")
        # One that is not there as a file may be somewhere else; growpart has this one place.
        if "growpart" in guest_disk.needed(inside.fs, where) and read("/usr/bin/growpart") is None:
            missing.append("growpart")
    except Refused as error:
        unseen.append(f"how the disk of {vm} is divided ({error.sentence.rstrip('.')})")
    against = guest_disk.cannot_grow(inside.fs, where, disk) + guest_disk.not_installed(missing)
    if not _agent_may_execute(session):
        against.append("its guest agent does not run programs: allow guest-exec in its configuration (block-rpcs, allow-rpcs)")
    return [f"{vm} cannot be grown inside: {one}." for one in against], unseen


def need_growable(session: ProxmoxSession, inside: vm_state.Inside) -> None:
    """Ask inside, with programs that change nothing, what files alone did not tell; :class:`Refused` before the disk grows."""
    vm, resize = session.site.guests.new, session.site.resize

    def read(path: str) -> str | None:
        shown = _exec(session, ["cat", path])
        return shown.out if shown.code == 0 else None

    what = f"Look whether {resize.mount_point} inside {vm} can be grown"
    with session.guard.act("resize.look-inside", what, passing=True) as act:
        try:
            where = guest_disk.place(agent.reader(session.proxmox, vm), inside.fs)
        except Refused:
            where = guest_disk.place(read, inside.fs)
        names = guest_disk.needed(inside.fs, where)
        asked = _exec(session, ["sh", "-c", f'for p in {" ".join(names)}; do command -v "$p" >/dev/null || echo "$p"; done'])
        against = guest_disk.cannot_grow(inside.fs, where, resize.disk)
        against += guest_disk.not_installed([name for name in asked.out.split() if name in names])
        act.after = {"against": against}
    if against:
        raise Refused(f"{vm} cannot be grown inside: {'; '.join(against)}.", "Nothing was changed.")


def _layout(session: ProxmoxSession) -> guest_disk.Layout:
    vm, mount = session.site.guests.new, session.site.resize.mount_point
    asked = _exec(session, guest_disk.LSBLK)
    if asked.code != 0:
        raise Failed(f"lsblk inside {vm} failed: {asked.said}.")
    return guest_disk.layout(asked.out, mount, zfs=vm_state.seen_inside(session).fs.fs_type == "zfs")


def grow_inside(session: ProxmoxSession) -> list[str]:
    """Let the file system inside the VM use all of its disk. Sentences about what was done. Needs an open act."""
    vm, mount = session.site.guests.new, session.site.resize.mount_point
    found, pool, vdev = _layout(session), "", ""
    if found.fs_type == "zfs_member":
        pool = vm_state.seen_inside(session).fs.name.partition("/")[0]
        devices = guest_disk.vdevs(_exec(session, ["zpool", "list", "-vHP", pool]).out)
        if len(devices) != 1:
            raise Failed(
                f"The pool {pool} inside {vm} has {len(devices)} devices, and this tool grows pools of one.", "Grow it by hand."
            )
        vdev = devices[0]
    done = []
    for argv in guest_disk.commands(found, mount, pool, vdev):
        program = argv[0]
        result = _exec(session, argv)
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


def _exec(session: ProxmoxSession, argv: Sequence[str]) -> agent.Ended:
    """Run a program inside, once more where its answer was lost: everything that is run here can be run again without harm."""
    vm, name = session.site.guests.new, argv[0]
    try:
        try:
            result = agent.run(session.proxmox, vm, argv)
        except OutcomeUnknown:
            result = agent.run(session.proxmox, vm, argv)
    except ProxmoxRefused as error:
        if "has been disabled" in error.sentence or "not allowed" in error.sentence:
            hint = "Allow guest-exec in the agent's configuration (block-rpcs, allow-rpcs), or grow the file system by hand."
            raise Failed(f"The guest agent of {vm} does not run programs.", hint) from None
        raise
    if result.code == agent.NOT_FOUND:
        package = f" ({guest_disk.PACKAGES[name]})" if name in guest_disk.PACKAGES else ""
        raise Failed(f"{name} is not installed inside {vm}.", f"Install it{package} and run the command again.")
    return result
