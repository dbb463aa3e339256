"""What speaks against putting a guest back as a backup or a snapshot holds it: the state of the guest, and what would be lost.

Proxmox says most of this only inside the task, and some of it not at all: a restore over a container deletes every volume that it
has, also those that the archive does not hold. So it is asked before the guest is stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutover.core.journal import utc
from cutover.proxmox import drives, storages, vzdump

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.proxmox.vzdump import Archive
    from cutover.site.schema import Guest


def held(guest: Guest, config: Mapping[str, Any], status: Mapping[str, Any]) -> list[str]:
    """Why a guest must not be changed as a whole now, as sentences: lock, template, HA. Pure.

    ``config`` is what it runs with, ``status`` is ``status/current``.
    """
    said = []
    if config.get("lock"):
        said.append(f"{guest} is locked ({config['lock']}): something else works on it.")
    if str(config.get("template") or 0) not in {"0", "", "false"}:
        said.append(f"{guest} is a template.")
    if dict(status.get("ha") or {}).get("managed"):
        sid = f"{'ct' if guest.kind == 'lxc' else 'vm'}:{guest.vmid}"
        said.append(
            f"{guest} is managed by HA, which would start or move it while it is being changed: take it out with "
            f"`ha-manager remove {sid}` in the host's shell, and put it in again afterwards."
        )
    return said


def not_in_backup(config: Mapping[str, Any], later: Mapping[str, Any], archived: Mapping[str, Any]) -> dict[str, str]:
    """The volumes of a container that no archive brings back, by their key: mount points, unused ones, ones that wait. Pure.

    ``later`` is the configuration with what waits for the next start, ``archived`` the one inside the archive. An archive holds
    the root, and each mount point that was marked for backup when it was made. A volume that waits to take another's place has
    the same key as that; it is called ``pending KEY``.
    """
    kept = {_place(value) for key, value in vzdump.volumes(archived).items() if key == "rootfs" or _saved(value)}
    found = {}
    now = {drives.options(str(value))["volume"] for value in config.values()}
    for key, value in sorted([*config.items(), *later.items()]):
        if not re.fullmatch(r"rootfs|(mp|unused)\d+", key):
            continue
        volume = drives.options(str(value))["volume"]
        replaces = key in config and volume not in now
        if not volume.startswith("/") and (replaces or key.startswith("unused") or _place(str(value)) not in kept):
            found[f"pending {key}" if replaces else key] = volume
    return found


def _saved(value: str) -> bool:
    return drives.options(value).get("backup") == "1"


def _place(value: str) -> str:
    """Where inside a container a volume is mounted."""
    return drives.options(value).get("mp", "/")


def over(session: ProxmoxSession, guest: Guest, archive: Archive) -> list[str]:
    """Why an archive must not be restored over the container that is there, as sentences. Reads only."""
    api = session.proxmox
    config, later = api.config(guest), api.record(f"{api.of(guest)}/config")
    said = held(guest, config, api.status(guest))
    if int(config.get("protection") or 0):
        said.append(f"Somebody protected {guest}: ask them, and take the protection away in Proxmox.")
    lost = not_in_backup(config, later, vzdump.archived(session, guest, archive))
    first = "take that change of the configuration back, or restart the container so that it has it, and run this again"
    said += [
        f"{key} of {guest} ({volume}) would be deleted, and the backup of {utc(archive.ctime)} does not hold it: "
        + (
            f"{first}."
            if key.startswith("pending ")
            else f"give it to another guest first (`pct move-volume {guest.vmid} {key} --target-vmid ID`)."
        )
        for key, volume in lost.items()
    ]
    return said


def room(session: ProxmoxSession, guest: Guest, archive: Archive, node: str) -> storages.Verdict:
    """Whether the storage that restores go to can take what the archive holds, on the node where it is restored. Reads only.

    Also which of its settings have to be given back by hand.
    """
    config = vzdump.archived(session, guest, archive)
    inside = storages.held({}, config)
    said = storages.restorable(session, node, storages.Held(archive.size, inside.most), f"what is restored of {guest}")
    if raw := sorted(key for key in config if key.startswith("lxc.")):
        where = f"/etc/pve/lxc/{guest.vmid}.conf"
        said.by_hand.append(f"put {', '.join(raw)} back into {where}: Proxmox restores them for root at the host's shell alone")
    return said
