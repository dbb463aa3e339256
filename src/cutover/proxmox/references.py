"""What else in Proxmox knows a guest: what deleting it would take along, what forbids deleting it, and what stays behind.

``purge`` is more than its name says: it takes a guest out of its backup jobs, and a job that had no other guest disappears as a
whole. Access rules, the pool and the guest's own firewall file go in any case. Volumes in mount points, used or not, go too,
whether or not any backup holds them; so whatever no backup would hold is a reason to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError
from cutover.proxmox import drives, identity, inventory, privileges, scratch, vzdump
from cutover.proxmox.identity import Identity

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Guest

_OWNED = re.compile(r"(?:vm|subvol|base|basevol)-(\d+)-")


def _owners(volume: str) -> list[int]:
    """The guests in a volume's name: its owner last; before it, of a linked clone, the one that it was made from. Pure."""
    return [int(found) for found in _OWNED.findall(volume.partition(":")[2])]


@dataclass(frozen=True)
class Facts:
    """Everything about one guest before anything is done to it. All of it JSON."""

    guest: str
    identity: Identity
    status: str
    addresses: tuple[str, ...]
    config: Mapping[str, Any]
    snapshots: tuple[str, ...]
    jobs: tuple[Mapping[str, Any], ...]
    ha: tuple[Mapping[str, Any], ...]
    replication: tuple[Mapping[str, Any], ...]
    pools: tuple[str, ...]
    acl: tuple[Mapping[str, Any], ...]
    own_firewall: Mapping[str, Any]
    later: Mapping[str, Any] = field(repr=False, default_factory=dict)
    """``config`` with what waits for the next start."""
    others: Mapping[int, Mapping[str, Any]] = field(repr=False, default_factory=dict)
    elsewhere: Mapping[int, tuple[str, ...]] = field(repr=False, default_factory=dict)
    """Addresses of the other guests, as Proxmox knows them by configuration and from inside."""

    def as_json(self) -> dict[str, Any]:
        """The record of what a restore does not bring back, and of what was there. Without the other guests."""
        return {
            "guest": self.guest,
            "identity": self.identity.as_json(),
            "status": self.status,
            "addresses": list(self.addresses),
            "config": dict(self.config),
            "snapshots": list(self.snapshots),
            "backup_jobs": [dict(j) for j in self.jobs],
            "ha": [dict(h) for h in self.ha],
            "replication": [dict(r) for r in self.replication],
            "pools": list(self.pools),
            "acl": [dict(a) for a in self.acl],
            "own_firewall": dict(self.own_firewall),
        }


def refusals(facts: Facts, *, deleting: bool = False, addresses: Collection[str] = ()) -> list[str]:
    """Why this guest must not be deleted now, one sentence each. Pure.

    ``deleting`` says that this tool has begun to delete it: the lock that Proxmox leaves then is its own. ``addresses`` are those
    that it had when it was approved; while it is down, somebody else may have got them.
    """
    config, vmid = facts.config, facts.identity.vmid
    found = []
    if facts.identity.kind != "lxc":
        found.append("it is a VM, and this command deletes containers only")
    if int(config.get("protection") or 0):
        found.append("somebody protected it; ask them, and take the protection away in Proxmox")
    if config.get("lock") and not (deleting and config["lock"] == "destroyed"):
        found.append(f"it is locked ({config['lock']}): something is working on it")
    if int(config.get("template") or 0):
        found.append("it is a template")
    found += [f"HA manages it ({row.get('sid')}); remove it from HA first" for row in facts.ha]
    found += vzdump.left_out(config)
    found += [
        f"{key} ({value}) would be deleted with it, and no backup holds it"
        for key, value in sorted({**facts.later, **config}.items())
        if re.fullmatch(r"unused\d+", key) or (key.startswith("mp") and key not in config)
    ]
    for key, value in vzdump.volumes(config).items():
        owner = _owners(drives.options(value)["volume"])
        if owner and owner[-1] != vmid:
            found.append(f"{key} is a volume of guest {owner[-1]}, not its own")
    for other, theirs in sorted(facts.others.items()):
        for key, value in sorted(theirs.items()):
            text = str(value)
            if vmid in _owners(text.split(",", maxsplit=1)[0]) and re.fullmatch(
                r"(rootfs|mp|unused|scsi|virtio|sata|ide)\d*", key
            ):
                what = "is a linked clone of it" if "base" in text.split(",", maxsplit=1)[0] else "uses a volume of it"
                found.append(f"guest {other} {what} ({key}: {text.split(',', maxsplit=1)[0]})")
    for who, taken in sorted(facts.elsewhere.items()):
        both = {*facts.addresses, *addresses} & set(taken)
        if both:
            found.append(f"guest {who} has its address {', '.join(sorted(both))} too")
    return found


def goes_along(facts: Facts, going: Collection[int] = ()) -> list[str]:
    """What the deletion takes along, one sentence each. Pure. ``going`` are all guests that leave: a job of theirs alone goes."""
    vmid = str(facts.identity.vmid)
    leaving = {vmid, *map(str, going)}
    found = []
    for job in facts.jobs:
        if vmid in re.split(r"[,; ]+", str(job.get("exclude") or "")):
            found.append(f"backup job {job.get('id')} no longer excludes it")
        if vmid not in re.split(r"[,; ]+", str(job.get("vmid") or "")):
            continue
        left = [v for v in re.split(r"[,; ]+", str(job.get("vmid") or "")) if v and v not in leaving]
        found.append(
            f"backup job {job.get('id')} no longer names it"
            if left
            else f"backup job {job.get('id')} disappears, because it names nobody who stays"
        )
    found += [f"replication job {job.get('id')} is removed" for job in facts.replication]
    found += [f"its place in pool {pool}" for pool in facts.pools]
    found += [f"the access rule {row.get('roleid')} for {row.get('ugid')} on /vms/{vmid}" for row in facts.acl]
    found += [f"its snapshot {name}" for name in facts.snapshots]
    rules = len(facts.own_firewall.get("rules") or ())
    found += [f"its own {rules} firewall rule{'' if rules == 1 else 's'} (in the final backup)"] if rules else []
    return found


def stays(facts: Facts) -> list[str]:
    """What stays behind on purpose, or because Proxmox does not know of it. Pure."""
    script = facts.config.get("hookscript")
    found = [f"its hook script {script}"] if script else []
    found += [f"the copies of its volumes that {job.get('id')} made on node {job.get('target')}" for job in facts.replication]
    macs = ", ".join(facts.identity.macs) or "no MAC address"
    return [*found, f"what this tool cannot see: DHCP reservations ({macs}), monitoring, backups elsewhere, known_hosts"]


@dataclass(frozen=True)
class Surroundings:
    """What Proxmox says about all guests at one moment, so that several can be judged with one look."""

    configs: Mapping[int, Mapping[str, Any]]
    pools: Mapping[str, frozenset[int]]
    jobs: Sequence[Mapping[str, Any]]
    ha: Sequence[Mapping[str, Any]]
    replication: Sequence[Mapping[str, Any]]
    acl: Sequence[Mapping[str, Any]]
    addresses: Mapping[int, tuple[str, ...]]


def look(session: ProxmoxSession) -> Surroundings:
    """Read what concerns all guests. The scratch guest of an interrupted test restore of ours is nobody's neighbour."""
    proxmox, own = session.proxmox, scratch.left_over(session)
    rows = [row for row in proxmox.guests() if int(row["vmid"]) != own]
    for row in rows:
        identity.need_read(row)  # what it has of another guest (a volume, an address) would not be seen
    return Surroundings(
        configs={int(r["vmid"]): proxmox.get(f"nodes/{r['node']}/{r['type']}/{r['vmid']}/config") for r in rows},
        pools={str(p["poolid"]): _members(proxmox.get("pools", poolid=p["poolid"])) for p in proxmox.list("pools")},
        jobs=proxmox.list("cluster/backup"),
        ha=proxmox.list("cluster/ha/resources"),
        replication=proxmox.list("cluster/replication"),
        acl=proxmox.list("access/acl"),
        addresses={one.vmid: identity.clean(one.addresses) for one in inventory.look(proxmox, rows)},
    )


def collect(session: ProxmoxSession, guest: Guest, seen: Surroundings | None = None) -> Facts | None:
    """Read everything about a guest; None where nothing has its id. ``seen`` is a look that was just taken."""
    proxmox = session.proxmox
    here = identity.read(session, guest)
    if here is None:
        return None
    seen = seen or look(session)
    row, config, found = here
    vmid = guest.vmid
    folder = f"nodes/{row['node']}/{row['type']}/{vmid}"
    running = row.get("status") == "running"
    interfaces = proxmox.get(f"{folder}/interfaces") if running and row["type"] == "lxc" else None
    addresses = tuple(sorted({*found.addresses, *identity.seen_addresses(interfaces, config)}))
    return Facts(
        guest=str(guest),
        identity=found,
        status=str(row.get("status")),
        addresses=addresses,
        config={k: v for k, v in config.items() if k != "digest"},
        snapshots=tuple(str(s["name"]) for s in proxmox.list(f"{folder}/snapshot") if s.get("name") != "current"),
        jobs=tuple(j for j in seen.jobs if _names(j, vmid)),
        ha=tuple(h for h in seen.ha if str(h.get("sid", "")).rsplit(":", 1)[-1] == str(vmid)),
        replication=tuple(r for r in seen.replication if str(r.get("guest")) == str(vmid)),
        pools=tuple(pool for pool, members in sorted(seen.pools.items()) if vmid in members),
        acl=tuple(a for a in seen.acl if a.get("path") == f"/vms/{vmid}"),
        own_firewall={
            "options": _plain(proxmox.get(f"{folder}/firewall/options")),
            "rules": [_plain(r) for r in proxmox.list(f"{folder}/firewall/rules")],
            "aliases": [_plain(a) for a in proxmox.list(f"{folder}/firewall/aliases")],
            "ipset": [_plain(s) for s in proxmox.list(f"{folder}/firewall/ipset")],
        },
        later=seen.configs.get(vmid, {}),
        others={other: theirs for other, theirs in seen.configs.items() if other != vmid},
        elsewhere={other: theirs for other, theirs in seen.addresses.items() if other != vmid},
    )


def _members(pool: Any) -> frozenset[int]:
    content = pool[0] if isinstance(pool, list) else pool
    return frozenset(int(m["vmid"]) for m in content.get("members", ()) if m.get("vmid") is not None)


def _names(job: Mapping[str, Any], vmid: int) -> bool:
    return any(str(vmid) in re.split(r"[,; ]+", str(job.get(key) or "")) for key in ("vmid", "exclude"))


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in (entry or {}).items() if k not in {"digest", "pos"}}


def left_behind(session: ProxmoxSession, vmid: int) -> list[str]:
    """Volumes that still carry a deleted guest's id, except its backups: listed, never deleted, they may be somebody's.

    For a storage whose volumes the token may not see, a sentence that says so; it is only told, so nothing fails because of it.
    """
    try:
        node, held = session.proxmox.node_of(vmid), privileges.held_by(session)
        rows = session.proxmox.list(f"nodes/{node}/storage")
        return sorted({one for row in rows for one in _left_on(session, node, row, vmid, held)})
    except CutoverError as error:
        return [f"nobody knows what of it is left, because the storages cannot be looked at: {error.sentence.rstrip('.')}"]


def _left_on(
    session: ProxmoxSession, node: str, storage: Mapping[str, Any], vmid: int, held: Callable[[str], frozenset[str]]
) -> list[str]:
    name = str(storage["storage"])
    wanted = sorted(set(str(storage.get("content", "")).split(",")) & {"images", "rootdir"})
    if wanted and "Datastore.Allocate" not in held(f"/storage/{name}") and "VM.Config.Disk" not in held(f"/vms/{vmid}"):
        # Proxmox hides what a token may not see, so an empty list would say nothing.
        why = "because this token cannot see volumes there"
        return [f"nobody knows what of it is left on {name}, {why}: `pvesm list {name} --vmid {vmid}` in the host's shell"]
    path = f"nodes/{node}/storage/{name}/content"
    return [str(one["volid"]) for kind in wanted for one in session.proxmox.list(path, content=kind, vmid=vmid)]
