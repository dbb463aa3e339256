"""Whether the storages of site.yaml can take backups of guests, and each of these restored on trial.

Proxmox tells most of this only inside the task that writes: that a storage is not there on the guest's node, takes no backups, is
full, or keeps no more protected backups of a guest. So it is asked before anything is changed. What nobody knows beforehand, how
much a stopped container or a mount point really holds, is said as that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused
from cutover.core.units import GIB
from cutover.proxmox import drives, privileges, vzdump

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Guest

#: How many protected backups of a guest a storage keeps for a token that may not do more, unless its settings say otherwise.
PROTECTED = 5


@dataclass(frozen=True)
class Held:
    """What a backup of a container may hold, in bytes: at least, and at most (None: a volume has no size)."""

    least: int
    most: int | None


def held(status: Mapping[str, Any], config: Mapping[str, Any]) -> Held:
    """What a backup of a container holds, as far as Proxmox tells. Pure.

    It says of a running container how much its root volume holds. Of a stopped one it says 0, and of mount points nothing: then
    a volume holds at most its size.
    """
    root = int(status.get("disk") or 0) if status.get("status") == "running" else 0
    sizes: list[int | None] = []
    for key, value in vzdump.volumes(config).items():
        parts = drives.options(value)
        if key == "rootfs" and root:
            sizes.append(root)
        elif key == "rootfs" or parts.get("backup") == "1":
            sizes.append(drives.size_bytes(parts["size"]) if parts.get("size") else None)
    return Held(root, _sum(sizes))


def _sum(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return None if None in known else sum(one for one in known if one is not None)


@dataclass
class Verdict:
    """``against``: sentences that speak against writing there. ``unsure``: phrases about what cannot be seen beforehand.

    ``by_hand``: what the operator has to do afterwards, imperative phrases.
    """

    against: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)

    def room(self, storage: str, free: int | None, wanted: Held, reserve: int, what: str) -> None:
        """Judge whether ``free`` bytes are enough for ``wanted`` and the reserve (bytes). ``what`` is to be written."""
        if free is None:
            self.unsure.append(f"how much storage {storage} has free")
        elif free < wanted.least + reserve:
            needs = f"up to {wanted.least / GIB:.1f} GB plus " if wanted.least else "more than "
            needs += f"the reserve of {reserve / GIB:g} GB"
            if not reserve:
                needs = f"at least {wanted.least / GIB:.1f} GB"
            self.against.append(f"Storage {storage} has {free / GIB:.1f} GB free, and {what} needs {needs}.")
        elif wanted.most is None or free < wanted.most + reserve:
            most = "a size that nobody knows" if wanted.most is None else f"up to {wanted.most / GIB:.1f} GB"
            self.unsure.append(f"whether {what} ({most}) fits into the {free / GIB:.1f} GB that storage {storage} has free")


def judge(session: ProxmoxSession, guests: Sequence[Guest], new: Sequence[Guest], *, twice: bool = False) -> Verdict:
    """Whether backups of ``guests`` can be made and each restored on trial. Reads only.

    ``new`` are those of which an archive is still to be made. ``twice``: the backup storage needs the room of one twice at once,
    because mode suspend copies the files beside the archive first.
    """
    names, api, said = session.site.proxmox.storages, session.proxmox, Verdict()
    reserve = session.site.limits.disk_reserve_gb * GIB
    by_node: dict[str, list[Guest]] = {}
    for guest in guests:
        by_node.setdefault(api.node_of(guest.vmid), []).append(guest)
    for node, here in by_node.items():
        known = {guest.vmid: held(api.status(guest), api.config(guest)) for guest in here}
        dumped = [known[guest.vmid] for guest in here if guest in new]
        if dumped:
            what = f"the backup of {', '.join(str(guest) for guest in here if guest in new)}"
            # What is backed up to a Proxmox Backup Server is copied on the node first.
            beside = twice and _settings(session).get("type") != "pbs"
            if twice and not beside:
                said.unsure.append(f"whether the copy that mode suspend makes first fits into /var/tmp of node {node}")
            archives = [*dumped, *(dumped if beside else [])]
            wanted = Held(sum(one.least for one in archives), _sum(one.most for one in archives))
            free = _free(session, node, names.backup, "backup", said)
            said.room(names.backup, free, wanted, reserve, what + (", copied once beside it," if beside else ""))
        largest = max(here, key=lambda guest: known[guest.vmid].most or 2**63)
        free = _free(session, node, names.restore, "rootdir", said)
        said.room(names.restore, free, known[largest.vmid], reserve, f"{largest} restored on trial")
    if new and not any(one.startswith(f"Storage {names.backup} ") for one in said.against):
        most = _most_protected(session)
        for guest in new:
            said.against += _no_more_protected(session, guest, most)
    said.against = list(dict.fromkeys(said.against))
    return said


def restorable(session: ProxmoxSession, node: str, wanted: Held, what: str) -> Verdict:
    """Whether ``what`` can be restored on a node for good. Reads only. No reserve is asked for: it is needed more than that."""
    said, storage = Verdict(), session.site.proxmox.storages.restore
    said.room(storage, _free(session, node, storage, "rootdir", said), wanted, 0, what)
    return said


def away(found: Mapping[str, Any], storage: str, node: str) -> str:
    """Why a storage cannot be used on a node now, by its ``status`` there, as a phrase; empty where it can. Pure."""
    if "enabled" in found and not int(found["enabled"] or 0):
        return f"storage {storage} is disabled, or its settings leave node {node} out (`pvesm status --storage {storage}`)"
    if "active" in found and not int(found["active"] or 0):
        return f"storage {storage} is not active on node {node}: Proxmox cannot reach it now"
    return ""


def _free(session: ProxmoxSession, node: str, storage: str, content: str, said: Verdict) -> int | None:
    """Bytes free, None where Proxmox does not say; what else speaks against the storage goes to ``said``."""
    try:
        found = session.proxmox.record(f"nodes/{node}/storage/{storage}/status")
    except Refused as error:
        said.against.append(f"Storage {storage} cannot be used on node {node}: {error.sentence.rstrip('.')}.")
        return None
    kinds = [kind for kind in str(found.get("content") or "").split(",") if kind]
    if kinds and content not in kinds:
        what = "backups" if content == "backup" else "volumes of containers"
        said.against.append(f"Storage {storage} takes no {what} (its content is {', '.join(kinds)}).")
    if why := away(found, storage, node):
        said.against.append(f"S{why[1:]}.")
        return None
    return None if found.get("avail") is None or not found.get("total") else int(found["avail"])


def _settings(session: ProxmoxSession) -> Mapping[str, Any]:
    """The settings of the backup storage, as far as the token may see them."""
    storage = session.site.proxmox.storages.backup
    return next((row for row in session.proxmox.list("storage") if row.get("storage") == storage), {})


def _most_protected(session: ProxmoxSession) -> int:
    """How many protected backups of a guest the backup storage keeps; negative where there is no limit."""
    storage = session.site.proxmox.storages.backup
    unlimited = "Datastore.Allocate" in privileges.held_by(session)(f"/storage/{storage}")
    return int(_settings(session).get("max-protected-backups", -1 if unlimited else PROTECTED))


def _no_more_protected(session: ProxmoxSession, guest: Guest, most: int) -> list[str]:
    """Why the backup storage takes no more protected backup of a guest, where it does not."""
    storage = session.site.proxmox.storages.backup
    there = [archive for archive in vzdump.listed(session, guest.vmid) if archive.protected]
    if most < 0 or len(there) < most:
        return []
    names = ", ".join(archive.volid for archive in there)
    said = f"Storage {storage} keeps at most {most} protected backups of {guest} and has {len(there)} ({names}): "
    return [said + "take the protection of one away that is no longer wanted, or raise max-protected-backups."]
