"""The rights that each step needs on Proxmox, and the commands that give exactly these.

One token per step, so that the key of the audit cannot reboot anything and the key of the resize cannot delete anything.
Two properties of Proxmox decide how the commands look: a rule on a deeper path *replaces* the rules above it, so a role on
``/vms/1001`` has to be given together with the audit role; and a token has at most its user's rights, so both get them.
The privileges' names are those of Proxmox VE 9 (8 has ``VM.Monitor`` where 9 has ``VM.GuestAgent.*``).

What others call: ``rights.missing(run, "resize")`` (sentences) and ``rights.commands(site, "resize")``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site

Step = Literal["check", "backup", "resize", "rollback", "restore", "decommission"]
STEPS: tuple[Step, ...] = ("check", "backup", "resize", "rollback", "restore", "decommission")

#: What reading needs, everywhere: guests, their agents, storages, jobs, HA, replication, pools, access rules, firewall.
AUDIT = frozenset({"Sys.Audit", "VM.Audit", "VM.GuestAgent.Audit", "Datastore.Audit", "Pool.Audit", "SDN.Audit"})

#: Not needed by any step, and each enough to take over the host: worth a word when a token has one.
DANGEROUS = frozenset({
    "Permissions.Modify", "User.Modify", "Realm.Allocate", "Realm.AllocateUser", "Group.Allocate", "Sys.Console", "Sys.PowerMgmt",
    "Sys.Incoming", "Sys.AccessNetwork", "VM.Console", "VM.Migrate", "VM.Clone", "VM.Replicate", "Datastore.Allocate",
    "Datastore.AllocateTemplate", "SDN.Allocate", "Mapping.Modify", "Pool.Allocate", "VM.Config.HWType", "VM.Config.Cloudinit",
})  # fmt: skip


#: The pool of the scratch guest. Deleting a guest takes the access rules on its id with it, so a right on the id itself would be
#: gone after the first test restore; a right on a pool stays.
SCRATCH_POOL = "cutover-scratch"


@dataclass(frozen=True)
class Need:
    """Privileges on a path, and what they are for."""

    path: str
    privileges: frozenset[str]
    why: str


def needs(site: Site, step: Step) -> list[Need]:
    """What a step needs, the audit's rights included. Pure; one entry per path."""
    guests, storages = site.guests, site.proxmox.storages
    found = [Need("/", AUDIT, "to look at everything before anything is changed")]

    def add(path: str, why: str, *privileges: str) -> None:
        found.append(Need(path, frozenset(privileges), why))

    def restoring(to: Iterable[int]) -> None:
        for vmid in to:
            add(f"/vms/{vmid}", "to restore under this id and remove it again", "VM.Allocate")
        add(f"/storage/{storages.restore}", "to restore to it", "Datastore.AllocateSpace")
        add("/sdn/zones/localnetwork", "to connect the restored guest to its bridge", "SDN.Use")

    if step in {"backup", "decommission"}:
        for guest in guests.to_decommission() if step == "decommission" else [guests.old]:
            add(f"/vms/{guest.vmid}", f"to back up {guest} and read its backups", "VM.Backup")
        add(f"/storage/{storages.backup}", "to write backups", "Datastore.AllocateSpace")
        pool = f"/pool/{SCRATCH_POOL}"
        add(pool, "to restore on trial into this pool and remove that again", "VM.Allocate")
        add(pool, "to mount what was restored, without network", "VM.PowerMgmt", "VM.Config.Network", "VM.Config.Options")
        restoring([])
    if step == "backup":
        add(f"/vms/{guests.old.vmid}", f"to take a snapshot of {guests.old}", "VM.Snapshot")
    if step == "resize":
        path = f"/vms/{guests.new.vmid}"
        add(path, "to set cores, memory and disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Disk")
        add(path, "to reboot it once", "VM.PowerMgmt")
        add(path, "to grow the file system inside it", "VM.GuestAgent.Unrestricted")
        add(f"/storage/{storages.restore}", "to grow the disk", "Datastore.AllocateSpace")
    if step == "rollback":
        path = f"/vms/{guests.new.vmid}"
        add(
            path,
            "to roll it back to a snapshot and start it, which loses what was written since",
            "VM.Snapshot.Rollback",
            "VM.PowerMgmt",
        )
    if step == "restore":
        path = f"/vms/{guests.old.vmid}"
        add(path, f"to read backups of {guests.old} and restore it", "VM.Backup", "VM.Allocate", "VM.PowerMgmt")
        add(f"/storage/{storages.backup}", "to read backups", "Datastore.AllocateSpace")
        restoring([])
    if step == "decommission":
        for guest in guests.to_decommission():
            add(f"/vms/{guest.vmid}", f"to stop, protect and delete {guest}", "VM.PowerMgmt", "VM.Config.Options", "VM.Allocate")
        add("/", "to change firewall rules of the cluster and its nodes", "Sys.Modify")
        add("/vms", "to change firewall rules of other guests", "VM.Config.Network")
        for guest in (guests.nginx, guests.vllm, guests.new):
            # A rule that another step gives on the guest itself would replace the one above.
            add(f"/vms/{guest.vmid}", "to change its firewall rules", "VM.Config.Network")
    return _merged(found)


def _merged(found: Iterable[Need]) -> list[Need]:
    """One entry per path. What holds on a path above holds below, because a deeper rule replaces it."""
    paths: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {}
    for need in found:
        privileges, why = paths.get(need.path, (frozenset(), ()))
        paths[need.path] = (privileges | need.privileges, (*why, need.why) if need.why not in why else why)
    for path, (privileges, why) in list(paths.items()):
        above = frozenset().union(*(p for other, (p, _) in paths.items() if _above(other, path)))
        paths[path] = (privileges | above, why)
    return [Need(path, privileges, "; ".join(why)) for path, (privileges, why) in sorted(paths.items())]


def _above(path: str, other: str) -> bool:
    return path != other and (path == "/" or other.startswith(path + "/"))


def commands(site: Site, step: Step, user: str = "cutover@pve") -> list[str]:
    """The commands that make the token of a step, for the shell of the Proxmox host. Pure."""
    token = f"{user}!{step}"
    lines = [f"pveum user add {user}", f"pveum user token add {user} {step} --privsep 1"]
    for number, need in enumerate(needs(site, step)):
        if need.path == f"/pool/{SCRATCH_POOL}":
            lines.append(f"pveum pool add {SCRATCH_POOL}")
        role = f"Cutover{step.capitalize()}{number}"
        lines.append(f"pveum role add {role} --privs '{' '.join(sorted(need.privileges))}'")
        lines.append(f"pveum acl modify {need.path} --users {user} --tokens '{token}' --roles {role}")
    return lines


def lacking(site: Site, step: Step, held: Callable[[str], frozenset[str]]) -> list[str]:
    """What a token lacks for a step, one sentence per path. ``held`` gives the privileges on a path."""
    sentences = []
    for need in needs(site, step):
        short = need.privileges - held(need.path)
        if short:
            sentences.append(f"{', '.join(sorted(short))} on {need.path} ({need.why})")
    return sentences


def too_much(site: Site, held: Mapping[str, frozenset[str]]) -> list[str]:
    """What a token has beyond every step of the plan, one sentence per path. ``held`` is path -> privileges."""
    wanted: dict[str, frozenset[str]] = {}
    for step in STEPS:
        for need in needs(site, step):
            wanted[need.path] = wanted.get(need.path, frozenset()) | need.privileges
    sentences = []
    for path, privileges in sorted(held.items()):
        allowed = frozenset().union(*(p for other, p in wanted.items() if other == path or _above(other, path)))
        extra = (privileges - allowed) & (DANGEROUS if allowed else privileges)
        if extra:
            sentences.append(f"{', '.join(sorted(extra))} on {path}")
    return sentences


def held_by(context: Context) -> Callable[[str], frozenset[str]]:
    """What the run's own token has on a path, asked once per path."""
    known: dict[str, frozenset[str]] = {}

    def held(path: str) -> frozenset[str]:
        if path not in known:
            answer = context.proxmox.get("access/permissions", path=path) or {}
            known[path] = frozenset(name for name, on in (answer.get(path) or {}).items() if int(on or 0) >= 0)
        return known[path]

    return held


def missing(context: Context, step: Step) -> list[str]:
    """What the run's token lacks for a step, as sentences."""
    return lacking(context.site, step, held_by(context))
