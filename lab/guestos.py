"""What runs inside a virtual machine, as far as the guest agent can see it: disks, partitions, file systems, CPUs, memory.

The model answers the handful of programs that the resize runs through the agent (lsblk, growpart, resize2fs, xfs_growfs,
pvresize, lvextend, cat of sysfs) with the output and the exit codes of the real ones. It computes from a small
description of the disk layout; nothing is executed. Not modelled: data on the file systems, metadata overhead other
than a flat one, other programs (they end with code 127).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

MIB = 1024**2
GIB = 1024**3
#: What a file system keeps for itself: about what XFS takes, or ext4 with few inodes; ext4's defaults take 1.6 %.
OVERHEAD = 0.003
#: Where the first partition begins, and what a GPT keeps at the end of the disk.
FIRST, LAST = MIB, 34 * 512

FsType = Literal["ext4", "xfs", "btrfs", "zfs_member", "ntfs", "swap", "LVM2_member", "crypto_LUKS", "vfat", ""]
#: What ext4's defaults keep for root and for its tables: the agent leaves both out.
EXT4_KEEPS = 0.0635


@dataclass
class Volume:
    """A logical volume: name as device mapper shows it (vg-root), size, file system and where it is mounted."""

    name: str
    size: int
    fs: FsType
    mount: str = ""
    fs_size: int = 0
    kind: str = "lvm"
    keeps: float | None = None

    def __post_init__(self) -> None:
        self.fs_size = self.fs_size or self.size


@dataclass
class Partition:
    """A partition: number, first byte, size, file system, where it is mounted; for LVM the volumes in it."""

    number: int
    start: int
    size: int
    fs: FsType
    mount: str = ""
    fs_size: int = 0
    volumes: list[Volume] = field(default_factory=list)
    pool: str = ""
    """The dataset of a ZFS pool that is mounted."""
    keeps: float | None = None
    """The part that the file system does not show: reserves, tables, other datasets of a pool. None: as it is by default."""

    def __post_init__(self) -> None:
        self.fs_size = self.fs_size or self.size

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass
class Disk:
    """A disk as the guest names it (sda), and the drive of the VM's configuration that it is (scsi0)."""

    device: str
    drive: str
    partitions: list[Partition]

    def behind(self, number: int) -> list[Partition]:
        """The partitions that begin after this one ends."""
        this = self.partition(number)
        return sorted((p for p in self.partitions if p.start >= this.end), key=lambda p: p.start)

    def partition(self, number: int) -> Partition:
        return next(p for p in self.partitions if p.number == number)


def plain_root(size: int, *, fs: FsType = "ext4", device: str = "sda", drive: str = "scsi0") -> Disk:
    """The layout of a cloud image: a small boot partition in front, the root file system last, all of the disk used."""
    boot = Partition(15, FIRST, 127 * MIB, "vfat", "/boot/efi")
    return Disk(device, drive, [boot, Partition(1, boot.end, size - boot.end - LAST, fs, "/")])


def swap_behind_root(size: int, *, device: str = "sda", drive: str = "scsi0") -> Disk:
    """The layout that Debian's installer makes: swap is the last partition, so root cannot simply grow."""
    root = Partition(1, FIRST, size - 2 * GIB - FIRST - LAST, "ext4", "/")
    return Disk(device, drive, [root, Partition(5, root.end, 2 * GIB, "swap")])


def lvm_root(size: int, *, fs: FsType = "ext4", device: str = "sda", drive: str = "scsi0") -> Disk:
    """Root on a logical volume that fills the only physical volume (Ubuntu's server installer, RHEL)."""
    boot = Partition(2, FIRST, GIB, "ext4", "/boot")
    rest = size - boot.end - LAST
    return Disk(device, drive, [boot, Partition(3, boot.end, rest, "LVM2_member", volumes=[Volume("vg0-root", rest, fs, "/")])])


def debian_lvm(size: int, *, device: str = "sda", drive: str = "scsi0") -> Disk:
    """What Debian's installer makes with LVM: a boot partition, and swap on a volume of its own in front of nothing."""
    boot = Partition(2, FIRST, 2 * GIB, "ext4", "/boot")
    rest, swap = size - boot.end - LAST, 8 * GIB
    volumes = [Volume("debian--vg-root", rest - swap, "ext4", "/"), Volume("debian--vg-swap_1", swap, "swap")]
    return Disk(device, drive, [boot, Partition(3, boot.end, rest, "LVM2_member", volumes=volumes)])


def encrypted_root(size: int, *, device: str = "sda", drive: str = "scsi0") -> Disk:
    """Root inside LUKS on the last partition."""
    boot = Partition(1, FIRST, GIB, "ext4", "/boot")
    rest = size - boot.end - LAST
    inside = Volume("sda2_crypt", rest, "ext4", "/", kind="crypt")
    return Disk(device, drive, [boot, Partition(2, boot.end, rest, "crypto_LUKS", volumes=[inside])])


def zfs_root(size: int, *, device: str = "sda", drive: str = "scsi0") -> Disk:
    """Root on a ZFS pool of one partition, the last one (Proxmox' and Ubuntu's installers)."""
    boot = Partition(2, FIRST, 512 * MIB, "vfat", "/boot/efi")
    return Disk(
        device, drive, [boot, Partition(3, boot.end, size - boot.end - LAST, "zfs_member", "/", pool="rpool/ROOT/debian")]
    )


@dataclass
class GuestOs:
    """The inside of one VM. `sizes` (drive -> bytes) is refreshed from the VM's configuration before each answer."""

    disks: list[Disk]
    address: str = ""
    name: str = ""
    exec_blocked: bool = False
    files_blocked: bool = False
    missing: set[str] = field(default_factory=set)
    """Programs that are not installed, by base name."""
    commands: list[list[str]] = field(default_factory=list)
    """Every command that was run, oldest first."""
    sizes: dict[str, int] = field(default_factory=dict)
    cores: int = 1
    memory: int = GIB

    # -- what the agent's own calls answer ---------------------------------------------------------------------

    def filesystems(self) -> list[dict[str, Any]]:
        """guest-get-fsinfo: total-bytes is the file system, not the disk."""
        found = []
        for disk in self.disks:
            where = {"bus-type": "scsi", "bus": 0, "target": 0, "unit": 0, "serial": f"0QEMU_QEMU_HARDDISK_drive-{disk.drive}"}
            for part in disk.partitions:
                held: list[tuple[str, Partition | Volume]] = [(part.pool or f"{disk.device}{part.number}", part)]
                for name, one in [*held, *((self._mapped(volume), volume) for volume in part.volumes)]:
                    fs, mount, size = one.fs, one.mount, one.fs_size
                    if mount:
                        keeps = one.keeps if one.keeps is not None else EXT4_KEEPS if fs == "ext4" else OVERHEAD
                        found.append(
                            {
                                "name": name,
                                "mountpoint": mount,
                                "type": fs.removesuffix("_member"),
                                "total-bytes": int(size * (1 - keeps)),
                                "used-bytes": size // 10,
                                # Of a pool's devices the agent knows nothing.
                                "disk": [] if part.pool else [{**where, "dev": f"/dev/{disk.device}{part.number}"}],
                            }
                        )
        return found

    def _volumes(self) -> list[Volume]:
        return [volume for disk in self.disks for part in disk.partitions for volume in part.volumes]

    def _mapped(self, volume: Volume) -> str:
        """A volume as the kernel names it."""
        return f"dm-{self._volumes().index(volume)}"

    def read_file(self, path: str) -> str | None:
        """A file as far as the resize reads any: what the kernel says of block devices, and whether programs are there."""
        parts = [(disk, part) for disk in self.disks for part in disk.partitions]
        names = {disk.device: (0, self.sizes[disk.drive]) for disk in self.disks}
        names |= {f"{disk.device}{part.number}": (part.start, part.size) for disk, part in parts}
        names |= {self._mapped(volume): (0, volume.size) for volume in self._volumes()}
        if path == "/proc/partitions":
            rows = [f"   8 {n:8d} {size // 1024:10d} {name}" for n, (name, (_, size)) in enumerate(sorted(names.items()))]
            return "\n".join(["major minor  #blocks  name", "", *rows, ""])
        if path == "/proc/swaps":
            swaps: list[tuple[str, Partition | Volume]] = [
                (f"{disk.device}{part.number}", part) for disk, part in parts if part.fs == "swap"
            ]
            swaps += [(self._mapped(volume), volume) for volume in self._volumes() if volume.fs == "swap"]
            used = [f"/dev/{name}   partition {one.size // 1024} 0 -2" for name, one in swaps]
            return "\n".join(["Filename Type Size Used Priority", *used, ""])
        if (match := re.fullmatch(r"/sys/class/block/([\w-]+)/(start|size)", path)) and match[1] in names:
            start, size = names[match[1]]
            return f"{(start if match[2] == 'start' else size) // 512}\n"
        if match := re.fullmatch(r"/sys/class/block/(dm-\d+)/dm/uuid", path):
            found = next((v for v in self._volumes() if self._mapped(v) == match[1]), None)
            kind = {"lvm": "LVM-0123456789abcdef", "crypt": "CRYPT-LUKS2-0123456789abcdef-sda2_crypt"}
            return None if found is None else kind[found.kind] + "\n"
        return "#!/bin/sh\n" if path == "/usr/bin/growpart" and "growpart" not in self.missing else None

    def vcpus(self) -> list[dict[str, Any]]:
        return [{"logical-id": n, "online": True, "can-offline": n > 0} for n in range(self.cores)]

    def memory_blocks(self) -> list[dict[str, Any]]:
        return [{"phys-index": n, "online": True, "can-offline": True} for n in range(self.memory // self.memory_block_size())]

    @staticmethod
    def memory_block_size() -> int:
        return 128 * MIB

    def interfaces(self) -> list[dict[str, Any]]:
        lo = {"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}
        eth = {"ip-address": self.address, "ip-address-type": "ipv4", "prefix": 24}
        return [
            {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [lo]},
            {"name": "eth0", "hardware-address": "bc:24:11:00:10:01", "ip-addresses": [eth] if self.address else []},
        ]

    # -- programs ------------------------------------------------------------------------------------------------

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        """Run a program: (exit code, standard output, standard error)."""
        if argv[:2] == ["/bin/sh", "-c"] and argv[2].endswith('exec "$@"'):
            code, out, err = self.run(argv[4:])
            return (code, out, f"sh: 1: exec: {argv[4]}: not found") if code == 127 else (code, out, err)
        self.commands.append(list(argv))
        program = argv[0].rsplit("/", 1)[-1]
        if program == "sh" and argv[1] == "-c":
            return self._shell(argv[2])
        handler = getattr(self, "_" + program.replace("-", "_"), None)
        if handler is None or program in self.missing:
            return 127, "", f"Failed to execute child process “{argv[0]}” (No such file or directory)"
        result: tuple[int, str, str] = handler(argv[1:])
        return result

    def _lsblk(self, arguments: list[str]) -> tuple[int, str, str]:
        devices = []
        for disk in self.disks:
            children: list[dict[str, Any]] = []
            for part in sorted(disk.partitions, key=lambda p: p.number):
                entry = self._row(f"{disk.device}{part.number}", "part", part.size, part.fs, part.mount)
                if part.volumes:
                    entry["children"] = [self._row(v.name, v.kind, v.size, v.fs, v.mount) for v in part.volumes]
                children.append(entry)
            devices.append({**self._row(disk.device, "disk", self.sizes[disk.drive], "", ""), "children": children})
        return 0, json.dumps({"blockdevices": devices}), ""

    @staticmethod
    def _row(name: str, kind: str, size: int, fs: str, mount: str) -> dict[str, Any]:
        mapped = name if kind not in {"lvm", "crypt"} else f"mapper/{name}"
        mounted = "[SWAP]" if fs == "swap" else None if fs == "zfs_member" else mount or None
        return {"name": name, "path": f"/dev/{mapped}", "type": kind, "size": size, "fstype": fs or None, "mountpoint": mounted}

    def _shell(self, script: str) -> tuple[int, str, str]:
        """`command -v` of one program, or the loop that names those that are missing."""
        if match := re.fullmatch(r"command -v (\S+)", script):
            there = self._installed(match[1].rsplit("/", 1)[-1])
            return (0, match[1] + "\n", "") if there else (127, "", "")
        match = re.fullmatch(r'for p in ([\w ]*); do command -v "\$p" >/dev/null \|\| echo "\$p"; done', script)
        if match is None:
            return 2, "", f"sh: not a script that the lab knows: {script}"
        return 0, "".join(f"{name}\n" for name in match[1].split() if not self._installed(name)), ""

    def _installed(self, program: str) -> bool:
        return program not in self.missing and hasattr(self, "_" + program.replace("-", "_"))

    def _btrfs(self, arguments: list[str]) -> tuple[int, str, str]:
        for part in (part for disk in self.disks for part in disk.partitions):
            if arguments == ["filesystem", "resize", "max", part.mount] and part.fs == "btrfs":
                part.fs_size = part.size
                return 0, f"Resize device id 1 (/dev/sda{part.number}) from old to max\n", ""
        return 1, "", "ERROR: not a btrfs filesystem"

    def _zpool(self, arguments: list[str]) -> tuple[int, str, str]:
        for disk in self.disks:
            for part in disk.partitions:
                pool = part.pool.partition("/")[0]
                vdev = f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-{disk.drive}-part{part.number}"
                if pool and arguments == ["list", "-vHP", pool]:
                    return 0, f"{pool}\t{part.fs_size}\t1G\t-\n\t{vdev}\t{part.fs_size}\t-\tONLINE\n", ""
                if pool and arguments == ["online", "-e", pool, vdev]:
                    part.fs_size = part.size
                    return 0, "", ""
        return 1, "", "cannot open: no such pool"

    def _cat(self, arguments: list[str]) -> tuple[int, str, str]:
        lines = []
        for path in arguments:
            text = self.read_file(path)
            if text is None:
                return 1, "", f"cat: {path}: No such file or directory"
            lines.append(text)
        return 0, "".join(lines), ""

    def _growpart(self, arguments: list[str]) -> tuple[int, str, str]:
        dry = "--dry-run" in arguments
        device, number = [word for word in arguments if not word.startswith("-")]
        disk = next((d for d in self.disks if f"/dev/{d.device}" == device), None)
        if disk is None or int(number) not in {p.number for p in disk.partitions}:
            return 2, "", f"FAILED: failed to get start and end for {device}{number}"
        part = disk.partition(int(number))
        behind = disk.behind(part.number)
        limit = behind[0].start if behind else self.sizes[disk.drive] - LAST
        # growpart leaves less than a mebibyte alone ("fudge").
        if limit - part.end < MIB:
            return 1, f"NOCHANGE: partition {number} is size {part.size // 512}. it cannot be grown\n", ""
        old, new = part.size // 512, (limit - part.start) // 512
        text = f"partition={number} start={part.start // 512} old: size={old} end={part.end // 512} new: size={new}"
        if dry:
            return 0, f"CHANGE: {text}\n", ""
        part.size = limit - part.start
        return 0, f"CHANGED: {text}\n", ""

    def _holder(self, path: str) -> Partition | Volume | None:
        for disk in self.disks:
            for part in disk.partitions:
                if path == f"/dev/{disk.device}{part.number}":
                    return part
                for volume in part.volumes:
                    if path in (f"/dev/mapper/{volume.name}", "/dev/" + volume.name.replace("-", "/", 1)):
                        return volume
        return None

    def _resize2fs(self, arguments: list[str]) -> tuple[int, str, str]:
        holder = self._holder(arguments[0])
        if holder is None or holder.fs != "ext4":
            return 1, "", f"resize2fs: Bad magic number in super-block while trying to open {arguments[0]}"
        if holder.fs_size == holder.size:
            return 0, "", f"The filesystem is already {holder.size // 4096} (4k) blocks long.  Nothing to do!"
        holder.fs_size = holder.size
        return 0, f"The filesystem on {arguments[0]} is now {holder.size // 4096} (4k) blocks long.\n", ""

    def _xfs_growfs(self, arguments: list[str]) -> tuple[int, str, str]:
        for disk in self.disks:
            for part in disk.partitions:
                holders: list[Partition | Volume] = [part, *part.volumes]
                for holder in holders:
                    if holder.mount == arguments[0] and holder.fs == "xfs":
                        grew = holder.fs_size != holder.size
                        holder.fs_size = holder.size
                        return 0, "data blocks changed\n" if grew else "data size unchanged, skipping\n", ""
        return 1, "", f"xfs_growfs: {arguments[0]} is not a mounted XFS filesystem"

    def _pvresize(self, arguments: list[str]) -> tuple[int, str, str]:
        holder = self._holder(arguments[0])
        if not isinstance(holder, Partition) or holder.fs != "LVM2_member":
            return 5, "", f"Failed to find physical volume {arguments[0]}."
        holder.fs_size = holder.size
        return 0, f'  Physical volume "{arguments[0]}" changed\n  1 physical volume(s) resized or updated\n', ""

    def _lvextend(self, arguments: list[str]) -> tuple[int, str, str]:
        path = arguments[-1]
        for disk in self.disks:
            for part in disk.partitions:
                volume = self._holder(path)
                if isinstance(volume, Volume) and volume in part.volumes:
                    free = part.fs_size - sum(other.size for other in part.volumes)
                    if free <= 0:
                        # As lvm2 does: nothing to extend is an error of its own (code 5).
                        return 5, "", f"  New size ({volume.size // (4 * MIB)} extents) matches existing size."
                    volume.size += free
                    if "-r" in arguments or "--resizefs" in arguments:
                        volume.fs_size = volume.size
                    return 0, f"  Logical volume {path} successfully resized.\n", ""
        return 5, "", f"  Failed to find logical volume {path}"
