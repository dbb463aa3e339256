"""Inside a VM: where a file system lies, whether it can be given a larger disk, and with which programs.

A disk that has grown and a file system that cannot follow is the worst of both, because a disk never shrinks again. So whether it
can is decided before the disk grows, from what the guest agent reads of the kernel's own files: the partitions with their places,
what is swapped to, what a device mapper's device is. Reading these changes nothing, so it is done in a dry run as well.

Deciding is pure: :func:`cannot_grow`, :func:`commands`, :func:`layout`. Sizes are bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutover.core.errors import Refused
from cutover.core.units import MIB

SECTOR = 512
#: A partition with less than this behind it has all of its disk.
SLACK = 64 * MIB
#: What is grown, and the program that does it. (What else is mounted at the place is refused.)
PROGRAMS = {"ext2": "resize2fs", "ext3": "resize2fs", "ext4": "resize2fs", "xfs": "xfs_growfs", "btrfs": "btrfs", "zfs": "zpool"}
#: What is grown on a logical volume.
_ON_LVM = frozenset({"ext2", "ext3", "ext4", "xfs"})
GROWN = "ext4, XFS, btrfs, ZFS on one partition, and ext4 or XFS on LVM"

#: Reads a file inside the VM: its text, or None where it is not there.
Reader = Callable[[str], str | None]


@dataclass(frozen=True)
class Mounted:
    """A mounted file system as the guest agent lists it. ``devices`` are the partitions that it lies on, as far as known."""

    mount: str
    fs_type: str
    name: str
    size: int
    devices: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()


def mounted(systems: Iterable[Mapping[str, Any]], mount: str) -> Mounted | None:
    """The file system at ``mount`` in an answer to ``get-fsinfo``, or None. Pure."""
    found = next((fs for fs in systems if fs.get("mountpoint") == mount), None)
    if found is None:
        return None
    disks = [disk for disk in found.get("disk") or [] if isinstance(disk, dict)]
    return Mounted(
        mount,
        str(found.get("type") or ""),
        str(found.get("name") or ""),
        int(found.get("total-bytes") or 0),
        tuple(dict.fromkeys(str(disk["dev"]) for disk in disks if disk.get("dev"))),
        tuple(dict.fromkeys(str(disk.get("serial") or "") for disk in disks)),
    )


@dataclass(frozen=True)
class Part:
    """A partition, or a whole disk where ``name`` is the disk's. ``what`` is what it is used for, where that is known."""

    name: str
    start: int
    size: int
    what: str = ""

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True)
class Place:
    """Where a file system lies: its disk with that disk's size, its partition (None: the disk itself), and the other ones."""

    disk: str
    size: int
    part: Part | None
    others: tuple[Part, ...] = ()
    mapper: str = ""
    """What the device mapper makes of it: ``LVM``, ``CRYPT`` or another word; empty where it lies on the partition itself."""
    volumes: int = 0
    """Bytes of the other logical volumes in its volume group."""

    @property
    def beside(self) -> int:
        """How many bytes of the disk belong to other partitions and other logical volumes."""
        return sum(part.size for part in self.others) + self.volumes

    @property
    def unused(self) -> int:
        """How many bytes of the disk lie behind the last partition and belong to nobody."""
        last = max([p.end for p in (self.part, *self.others) if p is not None], default=self.size)
        return max(0, self.size - last)


def disk_of(name: str, known: Iterable[str]) -> str:
    """The disk of a partition (``sda1``, ``nvme0n1p2``) among the kernel's names; the name itself where it is a disk. Pure."""
    able = [disk for disk in known if disk != name and re.fullmatch(re.escape(disk) + r"p?\d+", name)]
    return max(able, key=len, default=name)


def place(read: Reader, fs: Mounted) -> Place | None:
    """Where a file system lies, read from the kernel's files inside; None where they do not tell."""
    table = read("/proc/partitions")
    if table is None:
        return None
    names = [words[3] for line in table.splitlines() if len(words := line.split()) == 4 and words[0].isdigit()]
    device = fs.devices[0].removeprefix("/dev/") if fs.devices else ""
    if not device and fs.fs_type == "zfs":
        sized = [(int(w[2]), w[3]) for line in table.splitlines() if len(w := line.split()) == 4 and w[0].isdigit()]
        device = max((s for s in sized if disk_of(s[1], names) != s[1]), default=(0, ""))[1]
    if device not in names:
        return None
    disk = disk_of(device, names)
    swaps = {line.split()[0].removeprefix("/dev/") for line in (read("/proc/swaps") or "").splitlines()[1:] if line.split()}
    parts = {}
    for name in names:
        if disk_of(name, names) == disk and name != disk:
            start, size = _number(read, name, "start"), _number(read, name, "size")
            if start is None or size is None:
                return None
            parts[name] = Part(name, start, size, "swap" if name in swaps else "")
    whole = _number(read, disk, "size")
    if whole is None:
        return None
    mapper, volumes = "", 0
    if fs.name.startswith(("dm-", "mapper/")) or (fs.name and fs.name not in names and fs.fs_type != "zfs"):
        uuids = {name: (read(f"/sys/class/block/{name}/dm/uuid") or "").strip() for name in names if name.startswith("dm-")}
        kinds = {uuid.partition("-")[0] for uuid in uuids.values()}
        group = uuids.get(fs.name, "")[:36]
        # What LVM uses for itself (pools, snapshots) has a word behind its id, and lies inside what is counted.
        beside = [
            name for name, uuid in uuids.items() if re.fullmatch(r"LVM-\w+", uuid) and uuid[:36] == group and name != fs.name
        ]
        volumes = sum(_number(read, name, "size") or 0 for name in beside)
        mapper = "CRYPT" if "CRYPT" in kinds else "LVM" if kinds == {"LVM"} else " and ".join(sorted(kinds)) or "device mapper"
    elif fs.name.startswith("md"):
        mapper = "RAID"
    return Place(disk, whole, parts.get(device), tuple(p for name, p in parts.items() if name != device), mapper, volumes)


def _number(read: Reader, name: str, what: str) -> int | None:
    text = (read(f"/sys/class/block/{name}/{what}") or "").strip()
    return int(text) * SECTOR if text.isdigit() else None


def cannot_grow(fs: Mounted, where: Place | None, drive: str) -> list[str]:
    """Why the file system cannot take the room that its disk ``drive`` (scsi0) would get, as sentences. Pure."""
    said = []
    if fs.fs_type not in PROGRAMS:
        said.append(f"the file system at {fs.mount} is {fs.fs_type or 'unknown'}; this tool grows {GROWN}")
    if len({disk_of(d, {re.sub(r"p?\d+$", "", d) for d in fs.devices}) for d in fs.devices}) > 1 or len(fs.devices) > 1:
        said.append(f"{fs.mount} is spread over {', '.join(fs.devices)}")
    told = [serial for serial in fs.serials if "drive-" in serial]
    if told and not any(serial.endswith(f"drive-{drive}") for serial in told):
        on = ", ".join(serial.rpartition("drive-")[2] for serial in told)
        said.append(f"{fs.mount} lies on disk {on}, and it is {drive} that would grow")
    if where is None:
        return said
    if where.mapper and where.mapper != "LVM":
        what = {"CRYPT": "an encrypted device", "RAID": "a RAID"}.get(where.mapper, where.mapper)
        said.append(f"{fs.mount} lies on {what}, which this tool does not grow")
    elif where.mapper and fs.fs_type in PROGRAMS and fs.fs_type not in _ON_LVM:
        said.append(f"{fs.mount} is {fs.fs_type} on LVM; this tool grows {GROWN}")
    part = where.part
    if part is None:
        return said
    behind = [p for p in where.others if p.start >= part.end]
    if behind:
        shown = ", ".join(f"{p.name} ({p.what or 'another partition'})" for p in sorted(behind, key=lambda p: p.start))
        said.append(
            f"{shown} {'stands' if len(behind) == 1 else 'stand'} behind {part.name} on the disk, so that cannot grow: move or "
            "remove it by hand first (swap can be a file instead)"
        )
    elif any(p.start < part.start and p.size <= 2 * SECTOR for p in where.others):
        said.append(f"{part.name} lies inside an extended partition, which this tool does not grow")
    return said


def needed(fs: Mounted, where: Place | None) -> list[str]:
    """The programs that growing needs inside the VM. Pure."""
    names = ["lsblk"] if where is not None and where.part is None else ["lsblk", "growpart"]
    if where is not None and where.mapper == "LVM":
        names += ["pvresize", "lvextend"]
    return [*names, PROGRAMS[fs.fs_type]] if fs.fs_type in PROGRAMS else names


#: Where to get what is missing.
PACKAGES = {
    "growpart": "package cloud-guest-utils or cloud-utils-growpart",
    "xfs_growfs": "package xfsprogs",
    "btrfs": "package btrfs-progs",
}


def not_installed(names: Sequence[str]) -> list[str]:
    """Sentences about programs that are not there. Pure."""
    return [f"{name} is not installed inside it{f' ({PACKAGES[name]})' if name in PACKAGES else ''}" for name in names]


# -- growing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where a file system lies: its block devices from the disk down, each as lsblk names it. Sizes in bytes.

    ``partition`` and ``number`` are empty where it lies on the disk itself, ``volume`` where it is on no logical volume.
    """

    disk: str
    disk_size: int
    partition: str
    number: str
    partition_size: int
    fs_device: str
    fs_type: str
    volume: str = ""
    others: tuple[tuple[str, int, str], ...] = ()


LSBLK = ["lsblk", "--json", "--bytes", "--output", "NAME,PATH,TYPE,SIZE,FSTYPE,MOUNTPOINT"]


def layout(lsblk: str, mount: str, *, zfs: bool = False) -> Layout:
    """Read ``lsblk --json --bytes`` output: where the file system at ``mount`` lies. Pure. :class:`Refused` if not simple.

    ZFS mounts no block device: with ``zfs`` the only partition that is part of a pool is meant.
    """
    found: list[Layout] = []
    for disk in json.loads(lsblk).get("blockdevices", []):
        for part in (disk, *(disk.get("children") or [])):
            for device in (part, *(part.get("children") or [])):
                if device is not part and part is disk and device.get("type") == "part":
                    continue
                wanted = device.get("fstype") == "zfs_member" if zfs else device.get("mountpoint") == mount
                if wanted:
                    found.append(_laid_out(disk, part, device, mount))
    if len(found) > 1:
        raise Refused(f"{mount} lies on more than one device.", "Grow it by hand.")
    if not found:
        raise Refused(f"lsblk inside the VM shows nothing mounted at {mount}.", "Correct resize.mount_point in site.yaml.")
    return found[0]


def _laid_out(disk: Mapping[str, Any], part: Mapping[str, Any], device: Mapping[str, Any], mount: str) -> Layout:
    if part.get("type") not in {"part", "disk"} or (device is not part and device.get("type") != "lvm"):
        raise Refused(f"{mount} lies on a {device.get('type')}, which this tool does not grow.", "Grow it by hand.")
    whole = part is disk
    number = re.search(r"(\d+)$", str(part["name"]))
    others = tuple(
        (str(p["name"]), int(p["size"]), str(p.get("fstype") or ""))
        for p in disk.get("children") or []
        if p is not part and not whole
    )
    return Layout(
        _path(disk), int(disk["size"]), "" if whole else _path(part), "" if whole or not number else number[1], int(part["size"]),
        _path(device), str(device.get("fstype") or ""), _path(device) if device is not part else "", others,
    )  # fmt: skip


def _path(device: Mapping[str, Any]) -> str:
    return str(device.get("path") or f"/dev/{device['name']}")


def commands(found: Layout, mount: str, pool: str = "", vdev: str = "") -> list[list[str]]:
    """The programs that let the file system use all of its disk, in order. Pure. Each can be run again without harm.

    ``pool`` and ``vdev``: the ZFS pool and the device as the pool names it.
    """
    steps = [["growpart", found.disk, found.number]] if found.partition else []
    if found.volume:
        if found.fs_type not in _ON_LVM:
            raise Refused(f"{mount} is {found.fs_type} on LVM; this tool grows {GROWN}.", "Grow it by hand.")
        steps.append(["pvresize", found.partition or found.disk])
        # Not with "-r": where a killed run has extended the volume only, lvextend has nothing to do and leaves it at that.
        steps.append(["lvextend", "-l", "+100%FREE", found.volume])
    if found.fs_type in {"ext2", "ext3", "ext4"}:
        steps.append(["resize2fs", found.fs_device])
    elif found.fs_type == "xfs":
        steps.append(["xfs_growfs", mount])
    elif found.fs_type == "btrfs":
        steps.append(["btrfs", "filesystem", "resize", "max", mount])
    elif found.fs_type == "zfs_member" and pool and vdev:
        steps.append(["zpool", "online", "-e", pool, vdev])
    else:
        raise Refused(f"The file system at {mount} is {found.fs_type or 'unknown'}; this tool grows {GROWN}.", "Grow it by hand.")
    return steps


def vdevs(listing: str) -> list[str]:
    """The devices of a pool in the output of ``zpool list -vHP POOL``. Pure."""
    return [
        words[0] for line in listing.splitlines() if line.startswith("\t") and (words := line.split()) and words[0][:1] == "/"
    ]


def in_the_way(found: Layout) -> list[str]:
    """The partitions that could stand behind ours, where the disk has room that the partition does not use. Pure."""
    used = found.partition_size + sum(size for _, size, _ in found.others)
    if found.disk_size - used < SLACK:
        return []
    return [f"{name} ({fs or 'no file system'})" for name, _, fs in found.others if fs != "vfat"]
