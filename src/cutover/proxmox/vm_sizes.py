"""What the VM has, what waits and what is wanted, and every reason not to resize it as it is now. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.proxmox import drives, replacing
from cutover.proxmox import vm as vm_state

if TYPE_CHECKING:
    from cutover.site.schema import Guest, Sizes


def refusals(vm: Guest, state: vm_state.State, wanted: Sizes, disk: str, *, undoing: bool = False) -> list[str]:
    """Every reason not to resize this VM as it is now, as sentences. Pure.

    ``undoing`` leaves out what only concerns growing.
    """
    config, said = state.config, replacing.held(vm, state.config, state.status)
    cores, memory, size = vm_state.sizes_of(config, disk)
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
    options = drives.drive(state.config, disk)
    if not options:
        said.append(f"{vm} has no disk {disk}.")
    elif options.get("media") == "cdrom" or options["volume"].startswith("/"):
        said.append(f"{disk} of {vm} is {options['volume']}, not a disk that Proxmox can grow.")
    elif drives.disk_bytes(state.config, disk) is None:
        said.append(f"Proxmox does not say how large {disk} of {vm} is: `qm disk rescan --vmid {vm.vmid}` in the host's shell.")
    elif size > wanted.disk_gb:
        said.append(f"{disk} of {vm} has {size} GB already, more than the {wanted.disk_gb} GB wanted; a disk cannot shrink.")
    if memory > wanted.memory_mb or cores > wanted.cores:
        said.append(f"{vm} has {cores} cores and {memory} MB already, more than wanted; site.yaml does not describe it any more.")
    if size < wanted.disk_gb and state.snapshots:
        said.append(
            f"{vm} has the snapshot {', '.join(state.snapshots)}: not every storage can grow a disk with snapshots, and a "
            "rollback would take the disk back. Delete it, or grow the disk first."
        )
    if not {"1", "enabled=1"} & set(str(state.config.get("agent", "0")).split(",")):
        said.append(f"{vm} has no guest agent configured, without which the file system inside cannot be grown or proved.")
    return said


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
