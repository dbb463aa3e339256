"""A backup that can be relied on: made, found, read, and restored once to see that it can be.

Proxmox says "OK" in ways that are not a backup: the call answers the word ``OK`` instead of a task when the guest is on another
node; a task ends with warnings; mount points without ``backup=1`` are left out (and deleted with the guest all the same); an
archive may be unreadable. So nothing here believes an answer. :func:`make` follows the task and finds the archive in the
storage; :func:`verify` reads the log, the entry and the configuration inside the archive; :func:`try_restore` restores it to a
free id, compares, and removes that again.

What others call::

    archive = vzdump.make(run, guest, purpose="final", mode="stop")      # Archive; found again instead of made twice
    proofs  = vzdump.verify(run, guest, archive, config)                 # sentences; Refused where the archive is not one
    proofs += vzdump.try_restore(run, guest, archive, config)           # sentences; the scratch guest is removed again
    vzdump.find(run, guest, purpose) -> Archive | None                   # what an earlier run made
    vzdump.left_out(config) -> list[str]                                 # pure: volumes that no backup would hold

``purpose`` is a word that, with the site and the guest, names one backup for good: it stands in the archive's note, and whoever
asks for the same purpose again gets the same archive. Backups are made with ``protected=1`` (nothing prunes them) and
``remove=0`` (they prune nothing).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from cutover.core.errors import Failed, OutcomeUnknown, Refused, Unreachable
from cutover.proxmox import privileges
from cutover.proxmox.client import TaskEnd, why
from cutover.proxmox.privileges import SCRATCH_POOL

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Guest

Mode = Literal["snapshot", "suspend", "stop"]
#: A backup of a large guest takes long, and one that has to wait for another one's lock waits up to three hours.
DUMP_SECONDS = 4 * 3600.0
RESTORE_SECONDS = 2 * 3600.0

_ARCHIVE = re.compile(r"creating vzdump archive '([^']+)'")
_PBS = re.compile(r"creating Proxmox Backup Server archive '([^']+)'")
_INCLUDED = re.compile(r"including mount point (\S+)")
_EXCLUDED = re.compile(r"excluding (?:\S+ )*?mount point (\S+)")
_TOTAL = re.compile(r"Total bytes (?:written|read): (\d+)")
_VOLUME_KEY = re.compile(r"^(rootfs|mp\d+)$")


@dataclass(frozen=True)
class Archive:
    """One archive as the storage lists it. ``size`` in bytes, ``ctime`` in seconds since 1970.

    ``node`` has it (of a shared storage any node). ``verified`` is what a Proxmox Backup Server found when it read it again:
    ``ok``, ``failed``, or empty.
    """

    volid: str
    size: int
    ctime: int
    note: str
    protected: bool
    node: str = ""
    verified: str = ""
    log: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """For the journal and for plans; without the log."""
        return {k: v for k, v in asdict(self).items() if k != "log"}


@dataclass(frozen=True)
class Report:
    """What a vzdump log says."""

    archive: str | None
    included: tuple[str, ...]
    excluded: tuple[str, ...]
    errors: tuple[str, ...]
    written: int = 0
    """Bytes that went into the archive, 0 where the log does not tell."""
    suspended: bool = False
    """Whether the guest was frozen, because its storage takes no snapshots."""


def read_log(lines: Iterable[str], storage: str) -> Report:
    """The facts in a vzdump log. Pure. ``archive`` is the volume id, or None where the log names none."""
    archive: str | None = None
    included: list[str] = []
    excluded: list[str] = []
    errors: list[str] = []
    written, suspended = 0, False
    lines = list(lines)
    for line in lines:
        suspended |= "suspending guest" in line or "trying 'suspend' mode" in line
        if found := _TOTAL.search(line):
            written = int(found[1])
        if found := _ARCHIVE.search(line):
            archive = f"{storage}:backup/{found[1].rsplit('/', 1)[-1]}"
        elif found := _PBS.search(line):
            archive = f"{storage}:backup/{found[1]}"
        elif found := _EXCLUDED.search(line):
            excluded.append(found[1])
        elif found := _INCLUDED.search(line):
            included.append(found[1])
        elif line.startswith("ERROR:"):
            errors.append(line.removeprefix("ERROR:").strip())
    if errors:  # the reason is often in another line
        errors = [why(lines)]
    return Report(archive, tuple(included), tuple(excluded), tuple(errors), written, suspended)


def restored_bytes(lines: Iterable[str]) -> int:
    """How many bytes a restore read from its archive, 0 where its log does not tell. Pure."""
    return next((int(found[1]) for line in lines if (found := _TOTAL.search(line))), 0)


def volumes(config: Mapping[str, Any]) -> dict[str, str]:
    """``rootfs`` and ``mp0``, ``mp1`` ... of a container's configuration, with their values."""
    return {key: str(value) for key, value in sorted(config.items()) if _VOLUME_KEY.match(key)}


def options(value: str) -> dict[str, str]:
    """``local-lvm:vm-952-disk-0,size=32G`` as a mapping; the volume itself under ``volume``."""
    first, *rest = value.split(",")
    pairs = [(part.split("=", 1)[0], part.split("=", 1)[1]) for part in rest if "=" in part]
    return {"volume": first.removeprefix("volume="), **dict(pairs)}


def left_out(config: Mapping[str, Any]) -> list[str]:
    """Mount points that no backup would hold, each with the reason. Pure. (Mount points are left out unless ``backup=1``.)"""
    found = []
    for key, value in volumes(config).items():
        parts = options(value)
        if parts["volume"].startswith("/"):
            found.append(f"{key} is a folder or device of the host ({parts['volume']}), which no backup holds")
        elif key != "rootfs" and parts.get("backup") != "1":
            found.append(f"{key} ({parts['volume']}) is not marked for backup, and would be deleted with the guest")
    return found


def shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration a restore must bring back: name, sizes and mount points; not volume ids, MACs or state."""
    kept: dict[str, Any] = {
        k: str(config[k]) for k in ("hostname", "arch", "ostype", "unprivileged", "cores", "memory", "swap") if k in config
    }
    for key, value in volumes(config).items():
        parts = options(value)
        kept[key] = {name: parts[name] for name in ("size", "mp") if name in parts}
    return kept


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Where two shapes differ, one sentence each."""
    keys = sorted({*expected, *found})
    return [
        f"{k} is {found.get(k, 'absent')} instead of {expected.get(k, 'absent')}" for k in keys if expected.get(k) != found.get(k)
    ]


def note(site: str, vmid: int, purpose: str) -> str:
    """The note that makes a backup recognisable. One line: storages list only the first."""
    return f"cutover {site} {vmid} {purpose}"


# -- making and finding ---------------------------------------------------------------------------


def listed(session: ProxmoxSession, vmid: int) -> list[Archive]:
    """The backups of a guest in the site's backup storage, newest first.

    Those of a guest that is gone are looked for on every node, because a storage of one name may be another one on each.
    """
    storage, nodes = session.site.proxmox.storages.backup, _nodes_of(session, vmid)
    found: dict[str, Archive] = {}
    silent: list[str] = []
    for node in nodes:
        try:
            rows = session.proxmox.list(f"nodes/{node}/storage/{storage}/content", content="backup", vmid=vmid)
        except Unreachable as error:
            silent.append(f"node {node} does not answer ({error.sentence.rstrip('.')})")
            continue
        except Refused as error:
            if len(nodes) == 1 or "is not available on node" not in error.sentence:
                raise Refused(
                    f"The backups on storage {storage} cannot be listed: {error.sentence}",
                    error.hint or f"Look at storage {storage} in Proxmox, and at proxmox.storages.backup in site.yaml.",
                ) from None
            continue
        for row in rows:
            if int(row.get("vmid") or vmid) == vmid:
                one = _archive(row, node)
                found.setdefault(one.volid, one)
    lacks = _hidden(session, vmid)
    if not found and (lacks or silent):
        why = [f"the token {session.proxmox.token} lacks {lacks}, and Proxmox hides from it what it may not see"] if lacks else []
        raise Refused(
            f"Nobody knows whether there is a backup of guest {vmid} on {storage}: {'; '.join([*why, *silent])}.",
            "`cutover rights` has the commands that give these rights." if lacks else "Bring that node back.",
        )
    return sorted(found.values(), key=lambda archive: archive.ctime, reverse=True)


def _nodes_of(session: ProxmoxSession, vmid: int) -> list[str]:
    """The node of a guest; of one that is gone every node, the site's first."""
    own = session.proxmox.node_of(vmid)
    if any(place.vmid == vmid for place in session.proxmox.places(fresh=False)):
        return [own]
    others = {str(row["node"]) for row in session.proxmox.list("nodes")} - {own}
    return [own, *sorted(others)]


def _archive(row: Mapping[str, Any], node: str) -> Archive:
    return Archive(
        str(row["volid"]),
        int(row.get("size") or 0),
        int(row.get("ctime") or 0),
        str(row.get("notes") or "").split("\n")[0],
        bool(int(row.get("protected") or 0)),
        node,
        str(dict(row.get("verification") or {}).get("state") or ""),
    )


def _hidden(session: ProxmoxSession, vmid: int) -> str:
    """Why the token would not see backups of a guest, where it would not."""
    storage = f"/storage/{session.site.proxmox.storages.backup}"
    held = privileges.held_by(session)
    if "Datastore.Allocate" in held(storage):
        return ""
    wanted = {storage: "Datastore.AllocateSpace", f"/vms/{vmid}": "VM.Backup"}
    return " and ".join(f"{right} on {path}" for path, right in wanted.items() if right not in held(path))


def find(session: ProxmoxSession, guest: Guest, purpose: str, *, after: float = 0.0) -> Archive | None:
    """The newest archive that an earlier run made for this purpose, and ``after`` this moment (by Proxmox' clock), or None."""
    wanted = note(session.site.name, guest.vmid, purpose)
    return next((one for one in listed(session, guest.vmid) if one.note == wanted and one.ctime >= after), None)


def make(
    session: ProxmoxSession,
    guest: Guest,
    *,
    purpose: str,
    mode: Mode,
    accept: Sequence[str] = (),
    deadline: float = DUMP_SECONDS,
    after: float = 0.0,
) -> Archive:
    """Back the guest up, protected and pruning nothing; the archive of the same purpose where there is one already.

    ``after``: an archive that is older (by Proxmox' clock) does not count, because the guest was started since.
    ``accept`` names mount points (``mp0``) whose absence from the archive is agreed to. ``deadline`` is in seconds. Raises
    :class:`Failed` where the task failed, warned, left something out or left no archive, :class:`OutcomeUnknown` where it still
    runs or nobody knows.
    """
    what = f"Backing up {guest}"
    storage = session.site.proxmox.storages.backup
    existing = find(session, guest, purpose, after=after)
    if existing is None:
        running = _running(session, guest)
        if running is not None:
            session.ui.say(f"A backup of {guest} is under way already; waiting for it.")
            session.proxmox.wait_task(running, deadline=deadline)
            existing = find(session, guest, purpose, after=after)
    if existing is None:
        session.ui.say(f"{what} (mode {mode}) to storage {storage}; another backup on the host would be waited for.")
        with session.guard.act("vzdump.make", what, before={"vmid": guest.vmid, "purpose": purpose, "storage": storage}) as act:
            # Proxmox answers "OK" instead of a task when the guest is on another node; start_task takes that as a failure.
            end = session.proxmox.do_task(
                "POST",
                f"nodes/{session.proxmox.node_of(guest.vmid)}/vzdump",
                kind="vzdump",
                vmid=guest.vmid,
                what=what,
                deadline=deadline,
                storage=storage,
                mode=mode,
                compress="zstd",
                protected=1,
                remove=0,
                notes_template=note(session.site.name, guest.vmid, purpose),
            )
            existing = _in_storage(session, guest, read_log(end.log, storage))
            act.after = existing.as_json()
    log = _log_of(session, guest, existing)
    _made_well(session, guest, existing, log, accept)
    return replace(existing, log=log)


def _log_of(session: ProxmoxSession, guest: Guest, archive: Archive) -> tuple[str, ...]:
    """The log of the task that made an archive, empty where it is gone; :class:`Failed` where the task did not end well."""
    storage = session.site.proxmox.storages.backup
    for task in session.proxmox.tasks("vzdump", guest.vmid):
        log = session.proxmox.task_log(str(task["upid"]))
        if read_log(log, storage).archive == archive.volid:
            session.proxmox.wait_task(str(task["upid"]), deadline=DUMP_SECONDS).must(f"Backing up {guest}")
            return log
    return ()


def _made_well(session: ProxmoxSession, guest: Guest, archive: Archive, log: Sequence[str], accept: Sequence[str]) -> None:
    """An archive counts when its task ended well and left nothing out, also when an earlier run started it."""
    if not log:
        known = [
            e.after.get("volid") for e in session.journal.acts("vzdump.make") if e.kind == "done" and isinstance(e.after, dict)
        ]
        if archive.volid in known:
            return
        raise Failed(
            f"Nobody knows how the backup {archive.volid} of {guest} ended: its task's log is gone.",
            "Look at it in Proxmox; delete it there if in doubt, and run again.",
        )
    report = read_log(log, session.site.proxmox.storages.backup)
    if report.errors:
        raise Failed(f"Backing up {guest}: {report.errors[0]}.", f"Delete {archive.volid} in Proxmox and run again.")
    missing = [point for point in report.excluded if point not in accept]
    if missing:
        raise Failed(
            f"The backup {archive.volid} of {guest} leaves out {', '.join(missing)}.",
            "Set backup=1 on these mount points, or move what is on them; then delete that archive and run again.",
        )


def _running(session: ProxmoxSession, guest: Guest) -> str | None:
    return next(iter(session.proxmox.running_tasks(("vzdump",), guest.vmid)), None)


def _in_storage(session: ProxmoxSession, guest: Guest, report: Report) -> Archive:
    """The entry of the archive that the log names. "No error" is not a backup: the entry is."""
    if report.errors:
        raise Failed(f"Backing up {guest}: {report.errors[0]}.")
    if report.archive is None:
        raise Failed(f"Backing up {guest}: the task's log names no archive.")
    found = next((archive for archive in listed(session, guest.vmid) if archive.volid == report.archive), None)
    if found is None:
        raise Failed(f"Backing up {guest}: the log names {report.archive}, but the storage does not list it.")
    return found


# -- proving --------------------------------------------------------------------------------------


def verify(session: ProxmoxSession, guest: Guest, archive: Archive, config: Mapping[str, Any]) -> list[str]:
    """Look at the archive: listed, not empty, protected, readable, and of this guest as configured. Sentences of proof.

    ``config`` is the guest's configuration as it was before the backup. :class:`Refused` where the archive does not hold it.
    """
    found = next((one for one in listed(session, guest.vmid) if one.volid == archive.volid), None)
    if found is None:
        raise Refused(f"The backup {archive.volid} of {guest} is not in the storage.", "Make a new one.")
    if found.size <= 0:
        raise Refused(f"The backup {archive.volid} of {guest} is empty.", "Delete it in Proxmox and make a new one.")
    if not found.protected:
        raise Refused(
            f"The backup {archive.volid} of {guest} is not protected, so a schedule may delete it.",
            "Protect it in Proxmox.",
        )
    if found.verified == "failed":
        raise Refused(
            f"The Proxmox Backup Server read the backup {archive.volid} of {guest} again and found it damaged.", "Make a new one."
        )
    try:
        text = str(session.proxmox.get(f"nodes/{found.node}/vzdump/extractconfig", volume=archive.volid))
    except (Refused, Unreachable) as error:
        raise Refused(f"The backup {archive.volid} of {guest} cannot be read: {error.sentence}", "Make a new one.") from None
    inside = parse_config(text)
    wrong = differences(shape(config), shape(inside))
    if wrong:
        raise Refused(f"The backup {archive.volid} is not {guest} as it is configured: {'; '.join(wrong)}.", "Make a new one.")
    state = f"{archive.volid} is listed with {found.size / 2**20:.1f} MiB, protected, and its configuration is that of {guest}"
    return [state]


def parse_config(text: str) -> dict[str, str]:
    """The current section of a guest's configuration file. Pure. Snapshots and comments are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("["):
            break
        if ":" in line and not line.startswith("#"):
            key, value = line.split(":", 1)
            found[key.strip()] = value.strip()
    return found


def try_restore(
    session: ProxmoxSession, guest: Guest, archive: Archive, config: Mapping[str, Any], *, deadline: float = RESTORE_SECONDS
) -> list[str]:
    """Restore the archive under the site's scratch id, compare, and remove that again. Sentences of proof.

    The restored guest gets other MAC addresses, and is started only without network, to see its file system mounted. Only a
    scratch guest that this tool made is removed; any other guest with that id is a refusal. :class:`Failed` where what came back
    is not what was saved, also where the storage ran full below it: the restore itself does not notice that.
    """
    scratch = session.site.proxmox.scratch_vmid
    place = ("lxc", scratch)
    _await_scratch(session)
    _remove_scratch(session, left_over=True)
    written = read_log(archive.log or _log_of(session, guest, archive), session.site.proxmox.storages.backup).written
    _need_room(session, guest, written)
    proofs: list[str] = []
    # Where that pool is, rights on it outlive the scratch guest; where it is not, the token needs them on the id.
    pool = SCRATCH_POOL if any(p.get("poolid") == SCRATCH_POOL for p in session.proxmox.list("pools")) else None
    with session.guard.act(
        "vzdump.test-restore",
        f"Restore {archive.volid} as LXC {scratch} to see that it can be restored",
        before={"scratch": scratch, "archive": archive.volid, "hostname": str(config.get("hostname") or "")},
    ) as act:
        try:
            end = session.proxmox.do_task(
                "POST",
                f"nodes/{session.proxmox.node_of(guest.vmid)}/lxc",
                kind="vzrestore",
                vmid=scratch,
                what=f"Restoring {archive.volid} as LXC {scratch}",
                deadline=deadline,
                ostemplate=archive.volid,
                restore=1,
                storage=session.site.proxmox.storages.restore,
                unique=1,
                pool=pool,
            )
            found = session.proxmox.config(place)
            proofs += _whole(session, guest, end, written)
            proofs += _mounts(session, place)
            act.after = shape(found)
        except OutcomeUnknown:
            _say_locked(session)
            raise
        except (Failed, Refused) as error:
            _remove_scratch(session, left_over=True)
            raise Failed(
                f"The backup {archive.volid} of {guest} could not be restored: {error.sentence}", "Make a new one."
            ) from None
        wrong = differences(shape(config), shape(found))
    _remove_scratch(session, left_over=False)
    if wrong:
        raise Failed(f"The backup {archive.volid} of {guest} came back different: {'; '.join(wrong)}.", "Make a new one.")
    same = f"it was restored as LXC {scratch}, with {', '.join(volumes(found))} of the same size, and removed again"
    return [same, *proofs]


def _await_scratch(session: ProxmoxSession) -> None:
    """Wait for what an interrupted run began with the scratch guest and Proxmox still carries out; its lock is no foreign one."""
    scratch = session.site.proxmox.scratch_vmid
    for upid in session.proxmox.running_tasks(("vzrestore", "vzstart", "vzstop", "vzdestroy"), scratch):
        session.ui.say(f"A task of an earlier run still works on the scratch guest LXC {scratch}; waiting for it.")
        session.proxmox.wait_task(upid, deadline=RESTORE_SECONDS)
    _say_locked(session)


def _say_locked(session: ProxmoxSession) -> None:
    """:class:`Failed` where a restore of ours was killed on the host: what it leaves only the host's shell can remove."""
    scratch = session.site.proxmox.scratch_vmid
    if _ours(session, scratch) is None:
        return
    config = session.proxmox.find(session.proxmox.of(("lxc", scratch)) + "/config")
    if isinstance(config, dict) and config.get("lock") == "create":
        raise Failed(
            f"The test restore as LXC {scratch} was killed on the Proxmox host and left a guest that is locked (create).",
            f"In the shell of the Proxmox host: `pct unlock {scratch}`, then `pct destroy {scratch}`; then run this again.",
        )


#: A storage with less than this part free is full: what was written to it last may be lost without anybody having said so.
_FULL = 0.005


def _need_room(session: ProxmoxSession, guest: Guest, needed: int) -> None:
    """:class:`Refused` where the storage has no room for a second copy of the guest (``needed`` bytes; 0: not known)."""
    storage, (free, _) = session.site.proxmox.storages.restore, _space(session, guest)
    reserve = session.site.limits.disk_reserve_gb * 2**30 if needed else 0
    if free is not None and free < needed + reserve:
        raise Refused(
            f"Storage {storage} has {free / 2**30:.1f} GB free; restoring {guest} on trial needs {needed / 2**30:.1f} GB and the "
            f"reserve of {session.site.limits.disk_reserve_gb} GB.",
            "Make room there, or name another storage as proxmox.storages.restore in site.yaml.",
        )


def _space(session: ProxmoxSession, guest: Guest) -> tuple[int | None, int]:
    """(free, total) bytes of the storage that restores of a guest go to, on its node; free is None where it is not told."""
    node, storage = session.proxmox.node_of(guest.vmid), session.site.proxmox.storages.restore
    found = session.proxmox.record(f"nodes/{node}/storage/{storage}/status")
    free, total = found.get("avail"), int(found.get("total") or 0)
    return (None if free is None or not total else int(free)), total


def _whole(session: ProxmoxSession, guest: Guest, end: TaskEnd, written: int) -> list[str]:
    """That as many bytes came out of the archive as went in, and that the storage did not run full meanwhile."""
    free, total = _space(session, guest)
    if free is not None and free <= total * _FULL:
        storage = session.site.proxmox.storages.restore
        raise Failed(
            f"storage {storage} is full ({free / 2**20:.0f} MiB free), so what was restored to it may be damaged although the "
            "restore ended well"
        )
    read = restored_bytes(end.log)
    if not written or not read:
        return ["the logs do not say how many bytes went in and came out, so nobody compared how many bytes these are"]
    if read != written:
        raise Failed(f"{read} bytes came out of the archive, and {written} went in")
    return [f"{read} bytes went into the archive and came out of it"]


def _mounts(session: ProxmoxSession, place: tuple[str, int]) -> list[str]:
    """Start the restored guest without network, so that its file system is mounted, and stop it again; a sentence of proof."""
    api, scratch = session.proxmox, place[1]
    config = api.config(place)
    unplugged = {key: _unplugged(str(value)) for key, value in config.items() if re.fullmatch(r"net\d+", key)}
    # It has the name and the address of the guest that was saved, and starts with the host as that did.
    api.change("PUT", f"{api.of(place)}/config", onboot=0, digest=config.get("digest"), **unplugged)
    api.do_task(
        "POST", f"{api.of(place)}/status/start", kind="vzstart", vmid=scratch, what=f"Mounting LXC {scratch}", deadline=300
    )
    used = int(api.status(place).get("disk") or 0)
    api.do_task("POST", f"{api.of(place)}/status/stop", kind="vzstop", vmid=scratch, what=f"Stopping LXC {scratch}", deadline=300)
    shown = f", with {used / 2**20:.0f} MiB in it" if used else ""
    return [f"started without network, its file system was mounted{shown}"]


def _unplugged(net: str) -> str:
    """A network card without its cable. Pure."""
    return ",".join([part for part in net.split(",") if not part.startswith("link_down=")] + ["link_down=1"])


def _remove_scratch(session: ProxmoxSession, *, left_over: bool) -> None:
    """Remove the scratch guest, where there is one and our journal says that we restored it and have not removed it."""
    scratch = session.site.proxmox.scratch_vmid
    there = session.proxmox.guest(scratch)
    if there is None:
        return
    ours = _ours(session, scratch)
    if (
        ours is None
        or there.get("type") != "lxc"
        or (there.get("name") and ours.get("hostname") and there["name"] != ours["hostname"])
    ):
        raise Refused(
            f"The scratch id {scratch} is taken by {there.get('type')} {there.get('name')}, which this tool did not make.",
            "Name a free id as proxmox.scratch_vmid in site.yaml.",
        )
    if there.get("status") == "running" and not _started_by_us(session):
        raise Refused(f"The scratch guest {scratch} is running; somebody started it.", "Stop it if it is not needed.")
    which = " left over from an interrupted run" if left_over else ""
    with session.guard.act(
        "vzdump.scratch-removed", f"Remove the scratch guest LXC {scratch}{which}", before={"scratch": scratch}
    ):
        session.proxmox.do_task(
            "DELETE",
            session.proxmox.of(("lxc", scratch)),
            kind="vzdestroy",
            vmid=scratch,
            what=f"Removing the scratch guest LXC {scratch}",
            deadline=600,
            force=1 if there.get("status") == "running" else None,
        )


def _started_by_us(session: ProxmoxSession) -> bool:
    """Whether a running scratch guest is one that an interrupted run of ours mounted: then it has no network."""
    config = session.proxmox.config(("lxc", session.site.proxmox.scratch_vmid))
    nets = [str(value) for key, value in config.items() if re.fullmatch(r"net\d+", key)]
    return all("link_down=1" in net for net in nets)


def left_over(session: ProxmoxSession) -> int | None:
    """The scratch guest's id where an interrupted run of ours left it behind."""
    scratch = session.site.proxmox.scratch_vmid
    return scratch if _ours(session, scratch) is not None else None


def _ours(session: ProxmoxSession, scratch: int) -> Mapping[str, Any] | None:
    """What we restored under the scratch id last, where the journal does not say that it was removed since."""
    for entry in reversed(session.journal.entries()):
        if entry.act == "vzdump.scratch-removed" and entry.kind == "done":
            return None
        if entry.act == "vzdump.test-restore" and entry.kind == "intent":
            before: Mapping[str, Any] = entry.before or {}
            return before if before.get("scratch") == scratch else None
    return None
