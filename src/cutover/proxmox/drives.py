"""A volume as a guest's configuration writes it: a mount point of a container, a drive of a VM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cutover.core import units
from cutover.core.errors import Refused


def options(value: str) -> dict[str, str]:
    """``local-lvm:vm-952-disk-0,size=32G`` as a mapping; the volume itself under ``volume``."""
    first, *rest = value.split(",")
    return {"volume": first.removeprefix("volume=").removeprefix("file="), **dict(p.split("=", 1) for p in rest if "=" in p)}


def drive(config: Mapping[str, Any], name: str) -> dict[str, str]:
    """The options of a configuration's drive; empty where there is no such drive."""
    return options(str(config[name])) if name in config else {}


def disks(config: Mapping[str, Any]) -> list[str]:
    """The names of a VM's disks, without CD drives."""
    names = (key for key in sorted(config) if re.fullmatch(r"(scsi|virtio|sata|ide)\d+", key))
    return [name for name in names if "media=cdrom" not in str(config[name])]


def size_bytes(text: str) -> int:
    """``100G`` in bytes; :class:`Refused` where it is no size."""
    size = units.size_bytes(text)
    if size is None:
        raise Refused(f"Proxmox shows the size {text!r}, which is not a size this tool knows.")
    return size


def disk_bytes(config: Mapping[str, Any], name: str) -> int | None:
    """The size of a drive, or None where it has none."""
    size = drive(config, name).get("size")
    return None if size is None else size_bytes(size)
