"""A backup that can be relied on: made, found, read, and restored once to see that it can be.

Proxmox says "OK" in ways that are not a backup: the call answers the word ``OK`` instead of a task when the guest is on another
node; a task ends with warnings; mount points without ``backup=1`` are left out (and deleted with the guest all the same); an
archive may be unreadable. So nothing here believes an answer. :func:`make` follows the task and finds the archive in the
storage; :func:`verify` reads the log, the entry and the configuration inside the archive. Whether it can be restored, the trial
restore shows (:mod:`cutover.proxmox.scratch`).

What others call::

    archive = vzdump.make(run, guest, purpose="final", mode="stop")      # Archive; found again instead of made twice
    proofs  = vzdump.verify(run, guest, archive, config)                 # sentences; Refused where the archive is not one
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

from cutover.core.errors import Failed, Refused, Unreachable
from cutover.proxmox import drives, privileges
from cutover.proxmox.tasks import why

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


def read_log(lines: Iterable[str], storage: str) -> Report:
    """The facts in a vzdump log. Pure. ``archive`` is the volume id, or None where the log names none."""
    archive: str | None = None
    included: list[str] = []
    excluded: list[str] = []
    errors: list[str] = []
    written = 0
    lines = list(lines)
    for line in lines:
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
    return Report(archive, tuple(included), tuple(excluded), tuple(errors), written)


def restored_bytes(lines: Iterable[str]) -> int:
    """How many bytes a restore read from its archive, 0 where its log does not tell. Pure."""
    return next((int(found[1]) for line in lines if (found := _TOTAL.search(line))), 0)


def volumes(config: Mapping[str, Any]) -> dict[str, str]:
    """``rootfs`` and ``mp0``, ``mp1`` ... of a container's configuration, with their values."""
    return {key: str(value) for key, value in sorted(config.items()) if _VOLUME_KEY.match(key)}


def left_out(config: Mapping[str, Any]) -> list[str]:
    """Mount points that no backup would hold, each with the reason. Pure. (Mount points are left out unless ``backup=1``.)"""
    found = []
    for key, value in volumes(config).items():
        parts = drives.options(value)
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
        parts = drives.options(value)
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
    after: float = 0.0,
) -> Archive:
    """Back the guest up, protected and pruning nothing; the archive of the same purpose where there is one already.

    ``after``: an archive that is older (by Proxmox' clock) does not count, because the guest was started since. Raises
    :class:`Failed` where the task failed, warned, left something out or left no archive, :class:`OutcomeUnknown` where it still
    runs or nobody knows.
    """
    what = f"Backing up {guest}"
    storage = session.site.proxmox.storages.backup
    existing = find(session, guest, purpose, after=after)
    if existing is None:
        for upid in session.proxmox.running_tasks(("vzdump",), guest.vmid):
            session.ui.say(f"A backup of {guest} is under way already; waiting for it.")
            session.proxmox.wait_task(upid, deadline=DUMP_SECONDS)
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
                deadline=DUMP_SECONDS,
                warnings=False,
                storage=storage,
                mode=mode,
                compress="zstd",
                protected=1,
                remove=0,
                notes_template=note(session.site.name, guest.vmid, purpose),
            )
            existing = _in_storage(session, guest, read_log(end.log, storage))
            act.after = existing.as_json()
    log = log_of(session, guest, existing)
    _made_well(session, guest, existing, log)
    return replace(existing, log=log)


def log_of(session: ProxmoxSession, guest: Guest, archive: Archive) -> tuple[str, ...]:
    """The log of the task that made an archive, empty where it is gone; :class:`Failed` where the task did not end well."""
    storage = session.site.proxmox.storages.backup
    for task in session.proxmox.tasks("vzdump", guest.vmid):
        log = session.proxmox.task_log(str(task["upid"]))
        if read_log(log, storage).archive == archive.volid:
            session.proxmox.wait_task(str(task["upid"]), deadline=DUMP_SECONDS).must(f"Backing up {guest}")
            return log
    return ()


def _made_well(session: ProxmoxSession, guest: Guest, archive: Archive, log: Sequence[str]) -> None:
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
    if report.excluded:
        raise Failed(
            f"The backup {archive.volid} of {guest} leaves out {', '.join(report.excluded)}.",
            "Set backup=1 on these mount points, or move what is on them; then delete that archive and run again.",
        )


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
    wrong = differences(shape(config), shape(archived(session, guest, found)))
    if wrong:
        raise Refused(f"The backup {archive.volid} is not {guest} as it is configured: {'; '.join(wrong)}.", "Make a new one.")
    state = f"{archive.volid} is listed with {found.size / 2**20:.1f} MiB, protected, and its configuration is that of {guest}"
    return [state]


def archived(session: ProxmoxSession, guest: Guest, archive: Archive) -> dict[str, str]:
    """The configuration inside an archive; :class:`Refused` where it cannot be read."""
    try:
        text = str(session.proxmox.get(f"nodes/{archive.node}/vzdump/extractconfig", volume=archive.volid))
    except (Refused, Unreachable) as error:
        raise Refused(f"The backup {archive.volid} of {guest} cannot be read: {error.sentence}", "Make a new one.") from None
    return parse_config(text)


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
