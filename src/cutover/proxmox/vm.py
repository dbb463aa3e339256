"""The new server's VM: what Proxmox runs it with, what waits for its next start, and what it sees itself from inside."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused
from cutover.core.units import GIB, MIB
from cutover.proxmox import agent, drives, guest_disk
from cutover.proxmox.answers import ProxmoxRefused

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Sizes


#: A file system keeps something for itself and partitions stand in front of it: this much less than the disk is still all of it.
#: (ext4 leaves out its tables and the twentieth that it keeps for root.)
FS_TOLERANCE = 0.08


#: The journal's note that the file system was grown to all of its disk, and how large it shows itself then.
FILLED = "resize.filled"


@dataclass(frozen=True)
class State:
    """The VM as Proxmox shows it: ``config`` is what it runs with, ``pending`` what waits for its next start."""

    config: Mapping[str, Any]
    pending: Mapping[str, Any]
    status: Mapping[str, Any]
    snapshots: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self.status.get("status") == "running"


def look(session: ProxmoxSession) -> State:
    """Ask Proxmox about the VM."""
    vm = session.site.guests.new
    api = session.proxmox
    rows = api.pending(vm)
    names = [str(row["name"]) for row in api.list(f"{api.of(vm)}/snapshot") if row.get("name") != "current"]
    pending = {str(row["key"]): None if row.get("delete") else row.get("pending") for row in rows}
    return State(api.config(vm), pending, api.status(vm), tuple(names))


def mib(value: Any) -> int:
    """A number of cores or of MiB as a configuration writes it, ``current=8192`` as well."""
    return int(str(value).removeprefix("current=").split(",")[0])


def sizes_of(config: Mapping[str, Any], disk: str) -> tuple[int, int, int]:
    """(cores, memory in MiB, disk in GiB) that a configuration says; a missing number is Proxmox's default."""
    return int(config.get("cores", 1)), mib(config.get("memory", 512)), (drives.disk_bytes(config, disk) or 0) // GIB


@dataclass(frozen=True)
class Inside:
    """What the guest agent says: CPUs online, memory in MiB, and the file system at the mount point.

    ``where`` it lies, None where the kernel's files inside cannot be read. ``filled``: how large the file system showed itself
    when it was last grown to all of that disk, or 0.
    """

    cores: int
    memory_mb: int
    fs: guest_disk.Mounted
    where: guest_disk.Place | None = None
    filled: int = 0

    @property
    def disk_bytes(self) -> int | None:
        """The disk below the file system as the VM sees it."""
        return self.where.size if self.where is not None else None

    @property
    def unused(self) -> int:
        """What of that disk belongs to no partition, as far as known."""
        return self.where.unused if self.where is not None else 0

    @property
    def beside(self) -> int:
        """What of it other partitions and volumes have, as far as known."""
        return self.where.beside if self.where is not None else 0


def seen_inside(session: ProxmoxSession) -> Inside:
    """Ask the guest agent. Installed memory is counted in blocks, so that ballooning cannot hide or feign it."""
    vm, api = session.site.guests.new, session.proxmox
    mount = session.site.resize.mount_point

    def ask(command: str) -> Any:
        return dict(api.get(f"{api.of(vm)}/agent/{command}")).get("result")

    try:
        cpus = [cpu for cpu in ask("get-vcpus") or [] if cpu.get("online")]
        blocks = [block for block in ask("get-memory-blocks") or [] if block.get("online")]
        size = int((ask("get-memory-block-info") or {}).get("size") or 0)
        systems = ask("get-fsinfo") or []
    except ProxmoxRefused as error:
        raise Refused(
            f"{vm} cannot be asked from inside: {error.sentence}",
            "Install and start qemu-guest-agent in the VM, and set agent=1.",
        ) from None
    found = guest_disk.mounted(systems, mount)
    if found is None:
        raise Refused(f"Nothing is mounted at {mount} inside {vm}.", "Correct resize.mount_point in site.yaml.")
    where = None
    with suppress(Refused):  # then the file system's own size has to do
        where = guest_disk.place(agent.reader(api, vm), found)
    filled = _filled(session, where.size if where is not None else None)
    return Inside(len(cpus), len(blocks) * size // MIB, found, where, filled)


def _filled(session: ProxmoxSession, disk: int | None) -> int:
    """How large the file system showed itself when it was grown to all of a disk of this size; 0 where that is not known."""
    notes = [e.extra for e in session.journal.acts(FILLED) if e.kind == "note" and e.extra.get("disk_bytes") == disk]
    return int(notes[-1]["fs_bytes"]) if notes else 0


def not_yet(inside: Inside, wanted: Sizes, mount: str) -> list[str]:
    """What the VM does not see of what was wanted, as sentences. Pure.

    A file system says less than its disk has (an ext4 that fills 132 GiB says 123, one with a larger reserve less, and the other
    datasets of a ZFS pool have their share), so the disk and what of it is unused are what counts. The file system has to have
    most of what is not other partitions' and volumes', or what it had when the programs inside had grown it.
    """
    said = []
    if inside.cores != wanted.cores:
        said.append(f"it sees {inside.cores} cores instead of {wanted.cores}")
    # A kernel keeps a little memory out of its blocks at boot on some machines: one block of 128 MB may be missing.
    if not wanted.memory_mb - 128 <= inside.memory_mb <= wanted.memory_mb + 128:
        said.append(f"it sees {inside.memory_mb} MB of memory instead of {wanted.memory_mb}")
    if inside.disk_bytes is not None and inside.disk_bytes < wanted.disk_gb * GIB:
        said.append(f"it sees a disk of {inside.disk_bytes / GIB:.1f} GB instead of {wanted.disk_gb} GB")
    elif inside.unused > guest_disk.SLACK:
        said.append(f"{inside.unused / GIB:.1f} GB of its {wanted.disk_gb} GB disk belong to no partition")
    least = int((wanted.disk_gb * GIB - inside.beside) * (1 - FS_TOLERANCE))
    if inside.fs.size < (min(least, inside.filled) or least):
        said.append(f"the file system at {mount} has {inside.fs.size / GIB:.1f} GB of the {wanted.disk_gb} GB disk")
    return said


def facts(inside: Inside) -> dict[str, Any]:
    return {
        "cores": inside.cores, "memory_mb": inside.memory_mb, "fs_bytes": inside.fs.size, "fs_type": inside.fs.fs_type,
        "device": inside.fs.name, "disk_bytes": inside.disk_bytes,
    }  # fmt: skip
