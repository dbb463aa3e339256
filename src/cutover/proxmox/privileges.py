"""The rights that each step needs on Proxmox, and the commands that give exactly these.

One token per step, so that the key of the audit cannot reboot anything and the key of the resize cannot delete anything.
Two properties of Proxmox decide how the commands look: a rule on a deeper path *replaces* the rules above it, so a role on
``/vms/1001`` has to be given together with the audit role; and a token has at most its user's rights, so both get them.
The privileges' names are those of Proxmox VE 9 (8 has ``VM.Monitor`` where 9 has ``VM.GuestAgent.*``).

What others call: ``privileges.missing(context, "resize")`` (sentences) and ``privileges.commands(site, "resize")``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from cutover.core.errors import CutoverError, Refused, Unreachable

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Guest, Site

Step = Literal["check", "backup", "resize", "rollback", "restore", "decommission"]
STEPS: tuple[Step, ...] = get_args(Step)

#: What reading needs, everywhere: guests, their agents, storages, jobs, HA, replication, pools, access rules, firewall.
AUDIT = frozenset({"Sys.Audit", "VM.Audit", "VM.GuestAgent.Audit", "Datastore.Audit", "Pool.Audit", "SDN.Audit"})

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


def role_of(step: Step, path: str) -> str:
    """The name of the role that a step gets on a path. It says what it is for and never shifts. Pure."""
    return f"{_roles_of(step)}{path.replace('/', '.') if path != '/' else '.root'}"


def _roles_of(step: Step) -> str:
    return f"Cutover{step.capitalize()}"


def commands(site: Site, step: Step, user: str = "cutover@pve", more: Iterable[Need] = ()) -> list[str]:
    """The commands that make the token of a step, for the shell of the Proxmox host. Pure.

    Pasted again they mend: a user, a token and a pool that are there are kept, a role gets exactly its privileges, and roles of
    this step that the plan no longer knows (of an earlier site.yaml, of an earlier version) are deleted with the rules that give
    them. ``more`` are needs that only the host itself shows (:func:`on_site`).
    """
    token = f"{user}!{step}"
    wanted = _merged([*needs(site, step), *more])
    lines = [f"pveum user add {user}", f"pveum user token add {user} {step} --privsep 1"]
    for need in wanted:
        if need.path == f"/pool/{SCRATCH_POOL}":
            lines.append(f"pveum pool add {SCRATCH_POOL}")
        role, privileges = role_of(step, need.path), " ".join(sorted(need.privileges))
        lines.append(f"pveum role add {role} --privs '{privileges}' || pveum role modify {role} --privs '{privileges}'")
        lines.append(f"pveum acl modify {need.path} --users {user} --tokens '{token}' --roles {role}")
    kept = "|".join(re.escape(role_of(step, need.path)) for need in wanted)
    lines.append(
        f"pveum role list --output-format json | grep -oE '\"{_roles_of(step)}[^\"]*\"' | tr -d '\"' | grep -vxE '{kept}'"
        " | xargs -r -n1 pveum role delete"
    )
    return lines


def lacking(
    site: Site, step: Step, held: Callable[[str], frozenset[str]], more: Iterable[Need] = (), only: Container[str] | None = None
) -> list[str]:
    """What a token lacks for a step, one sentence per path, or ``only`` on these. ``held`` gives the privileges on a path."""
    sentences = []
    for need in _merged([*needs(site, step), *more]):
        if only is not None and need.path not in only:
            continue
        short = need.privileges - held(need.path)
        if short:
            sentences.append(f"{', '.join(sorted(short))} on {need.path} ({need.why})")
    return sentences


def too_much(site: Site, held: Mapping[str, frozenset[str]], more: Iterable[Need] = ()) -> list[str]:
    """What a token can do beyond every step of the plan, one sentence per path. Pure. ``held`` is path -> privileges.

    Everything counts that is more than looking. What it has below a path because it has it there is said once, for that path.
    """
    wanted: dict[str, frozenset[str]] = {}
    for need in [*(need for step in STEPS for need in needs(site, step)), *more]:
        wanted[need.path] = wanted.get(need.path, frozenset()) | need.privileges
    beyond: dict[str, frozenset[str]] = {}
    for path, privileges in held.items():
        allowed = frozenset().union(*(p for other, p in wanted.items() if other == path or _above(other, path)))
        beyond[path] = frozenset(name for name in privileges - allowed if not name.endswith(".Audit"))
    sentences = []
    for path in sorted(beyond):
        above = frozenset().union(*(p for other, p in beyond.items() if _above(other, path)))
        if extra := beyond[path] - above:
            sentences.append(f"{', '.join(sorted(extra))} on {path}")
    return sentences


def taken_away(site: Site, rules: Iterable[Mapping[str, Any]], token: str) -> list[str]:
    """The commands that take rules away which give a token more than the plan's. Pure. ``rules`` as ``access/acl`` lists them."""
    user = token.partition("!")[0]
    ours = {role_of(step, need.path) for step in STEPS for need in needs(site, step)}
    return [
        f"pveum acl delete {rule['path']} --{rule['type']}s '{rule['ugid']}' --roles {rule['roleid']}"
        for rule in rules
        if rule.get("ugid") in {user, token} and rule.get("type") in {"user", "token"} and rule.get("roleid") not in ours
    ]


# -- what only the host itself shows ----------------------------------------------------------------


def on_site(session: ProxmoxSession, step: Step) -> list[Need]:
    """What a step needs besides, as the host's guests and networks are now. Reads only.

    The storage on which the VM's disk really lies; the bridges and VNets of the guests that are restored; whatever is restored
    privileged; the VNets whose rules name what goes. Proxmox says these only inside its tasks, or in the middle of a step.
    """
    found: list[Need] = []
    guests, api = session.site.guests, session.proxmox

    def add(path: str, why: str, *names: str) -> None:
        found.append(Need(path, frozenset(names), why))

    if step == "resize":
        volume = str(_config(session, guests.new).get(session.site.resize.disk) or "")
        if ":" in volume:
            add(f"/storage/{volume.partition(':')[0]}", "to grow the disk", "Datastore.AllocateSpace")
    if step in {"backup", "restore", "decommission"}:
        restored = guests.to_decommission() if step == "decommission" else [guests.old]
        zones = {str(row["vnet"]): str(row.get("zone")) for row in _vnets(session)}
        for guest in restored:
            config = _config(session, guest)
            for bridge in sorted(set(re.findall(r"bridge=([\w.-]+)", " ".join(str(v) for v in config.values())))):
                why = f"to connect what is restored of {guest} to {bridge}"
                add(f"/sdn/zones/{zones.get(bridge, 'localnetwork')}/{bridge}", why, "SDN.Use")
            if config and not int(config.get("unprivileged") or 0) and guest.kind == "lxc":
                add("/", f"to restore {guest}, which is privileged", "Sys.Modify")
    if step == "decommission":
        words = {g.address for g in guests.to_decommission()} | {str(g.vmid) for g in guests.to_decommission()}
        for row in _vnets(session):
            rules = api.list(f"cluster/sdn/vnets/{row['vnet']}/firewall/rules")
            if any(_may_name(rule, words) for rule in rules):
                path = f"/sdn/zones/{row.get('zone')}/{row['vnet']}"
                add(path, f"to change the firewall rules of VNet {row['vnet']}", "SDN.Allocate")
        found += _replaced(session, {need.path for need in needs(session.site, step)})
    return found


def on_site_if_asked(session: ProxmoxSession) -> dict[Step, list[Need]] | None:
    """:func:`on_site` of every step; None where there is no token yet, or Proxmox does not answer it."""
    try:
        return {step: on_site(session, step) for step in STEPS}
    except CutoverError:
        return None


def _replaced(session: ProxmoxSession, known: Iterable[str]) -> list[Need]:
    """Guests and nodes that have firewall rules, and an access rule of their own that replaces what we have above."""
    token = session.proxmox.token
    mine = {
        str(row.get("path")) for row in session.proxmox.list("access/acl") if row.get("ugid") in {token, token.partition("!")[0]}
    }
    found = []
    for place in session.proxmox.places():
        path = f"/vms/{place.vmid}"
        if path in mine - set(known) and session.proxmox.find(f"{place.path}/firewall/rules"):
            found.append(Need(path, frozenset({"VM.Config.Network"}), "to change its firewall rules"))
    nodes = [path for path in sorted(mine - set(known)) if re.fullmatch(r"/nodes/[^/]+", path)]
    return found + [
        Need(path, frozenset({"Sys.Modify"}), "to change its firewall rules")
        for path in nodes
        if session.proxmox.find(f"{path[1:]}/firewall/rules")
    ]


def _config(session: ProxmoxSession, guest: Guest) -> Mapping[str, Any]:
    try:
        return session.proxmox.config(guest)
    except Refused:
        return {}  # gone, or hidden: what else is asked says so


def _vnets(session: ProxmoxSession) -> list[dict[str, Any]]:
    """The VNets that are applied; those that are not have no rules yet. Hosts without SDN have none."""
    try:
        return [row for row in session.proxmox.list("cluster/sdn/vnets", running=1) if row.get("vnet")]
    except (Refused, Unreachable):
        return []


def _may_name(rule: Mapping[str, Any], words: Iterable[str]) -> bool:
    """Whether a rule names one of these, directly or by a name that may stand for one."""
    text = f"{rule.get('source') or ''},{rule.get('dest') or ''}"
    parts = [part for part in text.split(",") if part]
    return rule.get("type") == "group" or any(part in words or not part[0].isdigit() or "guest-ipam" in part for part in parts)


def held_by(session: ProxmoxSession) -> Callable[[str], frozenset[str]]:
    """What the run's own token has on a path, asked once per path."""
    known: dict[str, frozenset[str]] = {}

    def held(path: str) -> frozenset[str]:
        if path not in known:
            answer = session.proxmox.get("access/permissions", path=path) or {}
            # 0 stands for a right that a pool gives: it holds here as any other, and is not handed on.
            known[path] = frozenset(answer.get(path) or {})
        return known[path]

    return held


def missing(session: ProxmoxSession, step: Step) -> list[str]:
    """What the run's token lacks for a step, as sentences."""
    return lacking(session.site, step, held_by(session), on_site(session, step))
