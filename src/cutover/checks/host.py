"""The Proxmox host: whether it has room for the larger VM, and whether our key may do what the plan needs and no more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import Refused, Unreachable
from cutover.core.units import GIB, MIB
from cutover.proxmox import drives, privileges, storages
from cutover.proxmox import vm as vm_state

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Limits, Sizes

#: A thin pool whose metadata is this full needs a person first: a full one stops every guest on it.
METADATA_FULL = 0.8


@dataclass(frozen=True)
class Room:
    """What the host has and what it has promised. Bytes. ``promised_*`` count every guest, this VM as it is now."""

    cpus: int
    memory_total: int
    memory_available: int
    promised_memory: int
    storage: str
    storage_kind: str
    storage_total: int
    storage_available: int
    promised_disk: int
    metadata: float = 0.0
    #: Memory available on the roomiest other node, where HA may have to start the VM there; None where HA does not manage it.
    elsewhere: int | None = None
    #: Why the storage cannot be used at all now, as a phrase.
    storage_away: str = ""
    #: What Proxmox did not say, as phrases. A number that is missing is not zero.
    unknown: tuple[str, ...] = ()


def strains(room: Room, before: tuple[int, int, int], wanted: Sizes, limits: Limits) -> list[str]:
    """Why the host could not carry the larger VM without strain, as sentences. Pure. ``before``: cores, MiB, GiB now."""
    cores, memory, disk = before
    more_memory, more_disk = (wanted.memory_mb - memory) * MIB, (wanted.disk_gb - disk) * GIB
    reserve, disk_reserve = limits.memory_reserve_mb * MIB, limits.disk_reserve_gb * GIB
    said = []
    if wanted.cores > cores and wanted.cores > room.cpus:
        said.append(f"the host has {room.cpus} CPU threads, and a VM with {wanted.cores} cores would not start")
    if more_memory > 0 and room.memory_available < more_memory + reserve:
        said.append(
            f"{room.memory_available / MIB:.0f} MB of memory are available, and {more_memory / MIB:.0f} MB more plus the reserve "
            f"of {limits.memory_reserve_mb} MB are needed"
        )
    if more_memory > 0 and room.promised_memory + more_memory > room.memory_total - reserve:
        said.append(
            f"running guests would be promised {(room.promised_memory + more_memory) / MIB:.0f} MB of the host's "
            f"{room.memory_total / MIB:.0f} MB, which leaves less than the reserve of {limits.memory_reserve_mb} MB"
        )
    if more_disk > 0 and room.storage_away:
        said.append(room.storage_away)
    elif more_disk > 0 and room.storage_available < more_disk + disk_reserve:
        said.append(
            f"storage {room.storage} has {room.storage_available / GIB:.0f} GB free, and {more_disk / GIB:.0f} GB more plus the "
            f"reserve of {limits.disk_reserve_gb} GB are needed"
        )
    if more_disk > 0 and room.storage_total and room.storage_kind in {"lvmthin", "zfspool", "rbd"}:
        ratio = (room.promised_disk + more_disk) / room.storage_total
        if ratio > limits.overcommit:
            said.append(
                f"storage {room.storage} would have promised {ratio:.2f} times its size, and {limits.overcommit:g} are allowed"
            )
    if room.elsewhere is not None and room.elsewhere < wanted.memory_mb * MIB + reserve:
        said.append(
            f"HA may have to start it on another node, and the roomiest has {room.elsewhere / MIB:.0f} MB available for a VM of "
            f"{wanted.memory_mb} MB"
        )
    if more_disk > 0 and room.metadata > METADATA_FULL:
        said.append(f"the metadata of {room.storage}'s thin pool is {room.metadata:.0%} full")
    return said


def promised_disk(configs: Iterable[Mapping[str, Any]], storage: str) -> int:
    """Bytes that the volumes of these configurations have on a storage, as if all were full. Pure."""
    total = 0
    for config in configs:
        for key in config:
            if re.fullmatch(r"(rootfs|mp\d+|scsi\d+|virtio\d+|sata\d+|ide\d+|efidisk0|tpmstate0)", key):
                options = drives.drive(config, key)
                if options["volume"].startswith(storage + ":") and "size" in options and options.get("media") != "cdrom":
                    total += drives.size_bytes(str(options["size"]))
    return total


def look(context: Context) -> Room:
    """Ask the host."""
    api, vm = context.proxmox, context.site.guests.new
    node = api.node_of(vm.vmid)
    status = dict(api.get(f"nodes/{node}/status"))
    memory = status.get("memory") or {}
    everybody = api.guests()
    guests = [row for row in everybody if row["node"] == node]
    config = api.config(vm)
    storage = drives.drive(config, context.site.resize.disk).get("volume", "").split(":")[0]
    if not storage or "total" not in memory:
        raise Unreachable(f"Proxmox does not say where {context.site.resize.disk} of {vm} lies, or how much memory its host has.")
    place = dict(api.get(f"nodes/{node}/storage/{storage}/status"))
    # On a storage that nodes share, the guests of all of them have their disks.
    users = everybody if int(place.get("shared") or 0) else guests
    away = storages.away(place, storage, node)
    unknown = [f"how much {storage} has free"] if place.get("avail") is None or not place.get("total") else []
    unknown += [f"what guest {row['vmid']} on {row['node']} has of {storage}" for row in users if "config" not in row]
    unknown += [
        f"how much memory guest {row['vmid']} was promised"
        for row in guests
        if row["status"] != "stopped" and (row["status"] != "running" or not row.get("maxmem"))
    ]
    configs = [row["config"] for row in users if "config" in row]
    metadata = 0.0
    if place.get("type") == "lvmthin":
        # The list needs only the right to look; the entry of one storage needs the right to allocate.
        settings: dict[str, Any] = next((row for row in api.list("storage") if row.get("storage") == storage), {})
        for pool in api.list(f"nodes/{node}/disks/lvmthin"):
            if (pool.get("vg"), pool.get("lv")) == (settings.get("vgname"), settings.get("thinpool")):
                metadata = int(pool.get("metadata_used") or 0) / max(1, int(pool.get("metadata_size") or 1))
    elsewhere = None
    if dict(api.status(vm).get("ha") or {}).get("managed"):
        elsewhere, silent = _elsewhere(context, node)
        unknown += [f"how much memory node {name} has" for name in silent]
    total = int(memory["total"])
    cpus = int((status.get("cpuinfo") or {}).get("cpus") or 0)
    if not cpus:
        unknown.append("how many CPU threads the host has")
    available = _available(memory)
    if available is None:
        unknown.append("how much memory the host has available")
    return Room(
        cpus, total, available or 0, sum(int(row.get("maxmem") or 0) for row in guests if row["status"] == "running"),
        storage, str(place.get("type") or ""), int(place.get("total") or 0), int(place.get("avail") or 0),
        promised_disk(configs, storage), metadata, elsewhere, away, tuple(unknown),
    )  # fmt: skip


def _available(memory: Mapping[str, Any]) -> int | None:
    """Bytes; ``available`` is new in Proxmox VE 9, and before, free memory is the cautious reading. None: not said. Pure."""
    said = memory.get("available", memory.get("free"))
    return None if said is None else int(said)


def _elsewhere(context: Context, node: str) -> tuple[int, list[str]]:
    """(bytes of memory available on the roomiest other node that answers, the nodes that are up and did not say)."""
    most, silent = 0, []
    for row in context.proxmox.list("nodes"):
        if row["node"] == node or row.get("status") == "offline":
            continue
        try:
            free = _available(dict(context.proxmox.get(f"nodes/{row['node']}/status")).get("memory") or {})
        except (Refused, Unreachable):
            free = None
        if free is None:
            silent.append(str(row["node"]))
        else:
            most = max(most, free)
    return most, silent


@check("A1", "The host can give the new server's VM its new resources without strain", moments={Moment.BEFORE})
def room(context: Context) -> Finding:
    """Memory, CPU threads and disk, each with the reserves of site.yaml."""
    site, vm = context.site, context.site.guests.new
    found = look(context)
    before = vm_state.sizes_of(context.proxmox.config(vm), site.resize.disk)
    said = strains(found, before, site.resize.after, site.limits)
    facts = dict(vars(found)) | {"now": before}
    if said:
        return Finding(
            False, f"The host has no room for the larger {vm}: {'; '.join(said)}.", "Free some, or plan smaller sizes.", facts
        )
    if found.unknown:
        return Finding(
            None, f"Nobody knows whether the host has room for the larger {vm}: Proxmox does not say {', '.join(found.unknown)}.",
            "Look whether pvestatd runs on every node and all nodes are up, then check again.", facts,
        )  # fmt: skip
    return Finding(
        True,
        f"The host has room for the larger {vm}: {found.memory_available / GIB:.1f} GB of memory are available, {found.cpus} CPU "
        f"threads, and {found.storage_available / GIB:.0f} GB on storage {found.storage}.",
        facts=facts,
    )


def _how_to_take_away(context: Context, token: str) -> str:
    away = privileges.taken_away(context.site, context.proxmox.list("access/acl"), token)
    paste = f"Paste into the host's shell: {'; '.join(away)}; then the" if away else "Paste the"
    return f"{paste} commands of `cutover rights`, which give one token per step exactly its rights."


@check("A6", "Our key on Proxmox can do what the plan needs, and no more", moments={Moment.BEFORE})
def key(context: Context) -> Finding:
    """Which steps the token of this run may do, and what it may do beyond all of them."""
    held = privileges.held_by(context)
    more = {step: privileges.on_site(context, step) for step in privileges.STEPS}
    short = {step: privileges.lacking(context.site, step, held, more[step]) for step in privileges.STEPS}
    token = context.proxmox.token
    can = [step for step, lacks in short.items() if not lacks]
    commands = {s: privileges.commands(context.site, s, more=more[s]) for s in privileges.STEPS}
    facts = {"token": token, "can": can, "lacks": short, "commands": commands}
    answer = dict(context.proxmox.get("access/permissions") or {})
    everywhere = {path: frozenset(dict(held_there)) for path, held_there in answer.items()}
    extra = privileges.too_much(context.site, everywhere, [need for needs in more.values() for need in needs])
    if short["check"]:
        return Finding(
            False,
            f"The token {token} cannot even look at everything: it lacks {'; '.join(short['check'])}.",
            "Paste into the host's shell: " + "; ".join(commands["check"]),
            facts,
        )
    if extra:
        return Finding(
            False,
            f"The token {token} may do more than any step of the plan needs: {'; '.join(extra)}.",
            _how_to_take_away(context, token),
            facts,
        )
    cannot = [step for step in privileges.STEPS if step not in can]
    rest = f" For {', '.join(cannot)} it lacks rights." if cannot else ""
    return Finding(True, f"The token {token} has the rights for {', '.join(can)}, and none beyond the plan.{rest}", facts=facts)
