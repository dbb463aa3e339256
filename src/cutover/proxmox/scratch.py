"""The trial restore: an archive is restored under the site's scratch id, looked at, and removed again.

The scratch guest is the one guest that this tool deletes without asking, so it has to be the one that this tool made. What says
so is in Proxmox and not in a file here: its notes hold a mark that was drawn by lot and journaled before the restore was asked
for, and once it was seen its MAC addresses and its root volume are journaled and must not have changed since. A journal alone,
old, copied or written by hand, makes no guest ours.

What others call::

    proofs = scratch.try_restore(run, guest, archive, config)     # sentences; the scratch guest is removed again
    scratch.left_over(run) -> int | None                          # the scratch id, where an interrupted run left its guest
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Failed, OutcomeUnknown, Refused
from cutover.proxmox import identity, vzdump
from cutover.proxmox.identity import Identity
from cutover.proxmox.privileges import SCRATCH_POOL
from cutover.proxmox.tasks import task_state

if TYPE_CHECKING:
    from cutover.core.journal import Entry
    from cutover.proxmox.client import ProxmoxSession
    from cutover.proxmox.tasks import TaskEnd
    from cutover.proxmox.vzdump import Archive
    from cutover.site.schema import Guest

_MARK = re.compile(r"cutover [^\n]+ trial restore [0-9a-f]{32}")


def try_restore(session: ProxmoxSession, guest: Guest, archive: Archive, config: Mapping[str, Any]) -> list[str]:
    """Restore the archive under the site's scratch id, compare, and remove that again. Sentences of proof.

    The restored guest gets other MAC addresses, and is started only without network, to see its file system mounted. Only a
    scratch guest that this tool made is removed; any other guest with that id is a refusal. :class:`Failed` where what came back
    is not what was saved, also where the storage ran full below it: the restore itself does not notice that.
    """
    scratch = session.site.proxmox.scratch_vmid
    place = ("lxc", scratch)
    _await_scratch(session)
    _remove_scratch(session, left_over=True)
    written = vzdump.read_log(archive.log or vzdump.log_of(session, guest, archive), session.site.proxmox.storages.backup).written
    _need_room(session, guest, written)
    proofs: list[str] = []
    # Where that pool is, rights on it outlive the scratch guest; where it is not, the token needs them on the id.
    pool = SCRATCH_POOL if any(p.get("poolid") == SCRATCH_POOL for p in session.proxmox.list("pools")) else None
    mark = f"cutover {session.site.name} trial restore {secrets.token_hex(16)}"
    with session.guard.act(
        "vzdump.test-restore",
        f"Restore {archive.volid} as LXC {scratch} to see that it can be restored",
        before={"scratch": scratch, "archive": archive.volid, "hostname": str(config.get("hostname") or ""), "mark": mark},
    ) as act:
        try:
            end = session.proxmox.do_task(
                "POST",
                f"nodes/{session.proxmox.node_of(guest.vmid)}/lxc",
                kind="vzrestore",
                vmid=scratch,
                what=f"Restoring {archive.volid} as LXC {scratch}",
                deadline=vzdump.RESTORE_SECONDS,
                ostemplate=archive.volid,
                restore=1,
                storage=session.site.proxmox.storages.restore,
                unique=1,
                pool=pool,
                description=mark,
            )
            found = session.proxmox.config(place)
            who = identity.of({"type": "lxc", "vmid": scratch, "node": session.site.proxmox.node}, found)
            session.journal.note("vzdump.scratch-seen", f"LXC {scratch} has {who.rootfs}", mark=mark, identity=who.as_json())
            proofs += _whole(session, guest, end, written)
            proofs += _mounts(session, place)
            act.after = vzdump.shape(found)
        except OutcomeUnknown:
            _say_locked(session)
            raise
        except (Failed, Refused) as error:
            _remove_scratch(session, left_over=True)
            raise Failed(
                f"The backup {archive.volid} of {guest} could not be restored: {error.sentence}", "Make a new one."
            ) from None
        wrong = vzdump.differences(vzdump.shape(config), vzdump.shape(found))
    _remove_scratch(session, left_over=False)
    if wrong:
        raise Failed(f"The backup {archive.volid} of {guest} came back different: {'; '.join(wrong)}.", "Make a new one.")
    same = f"it was restored as LXC {scratch}, with {', '.join(vzdump.volumes(found))} of the same size, and removed again"
    return [same, *proofs]


def was_restored(session: ProxmoxSession, archive: Archive) -> bool:
    """Whether Proxmox lists a restore of this very archive as the scratch guest that ended well. Its log names the archive."""
    tasks = session.proxmox.tasks("vzrestore", session.site.proxmox.scratch_vmid)
    wanted = f"'{archive.volid}'"
    return any(
        float(task.get("starttime") or 0) >= archive.ctime
        and task_state(task.get("status")) in {"ok", "warnings"}
        and any(wanted in line for line in session.proxmox.task_log(str(task["upid"])))
        for task in tasks
    )


def _await_scratch(session: ProxmoxSession) -> None:
    """Wait for what an interrupted run began with the scratch guest and Proxmox still carries out; its lock is no foreign one."""
    scratch = session.site.proxmox.scratch_vmid
    for upid in session.proxmox.running_tasks(("vzrestore", "vzstart", "vzstop", "vzdestroy"), scratch):
        session.ui.say(f"A task of an earlier run still works on the scratch guest LXC {scratch}; waiting for it.")
        session.proxmox.wait_task(upid, deadline=vzdump.RESTORE_SECONDS)
    _say_locked(session)


def _say_locked(session: ProxmoxSession) -> None:
    """:class:`Failed` where a restore of ours was killed on the host: what it leaves only the host's shell can remove."""
    scratch = session.site.proxmox.scratch_vmid
    if begun(session) is None:
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
    read = vzdump.restored_bytes(end.log)
    if not written or not read:
        return ["the logs do not say how many bytes went in and came out, so nobody compared how many bytes these are"]
    if read != written:
        raise Failed(f"{read} bytes came out of the archive, and {written} went in")
    return [f"{read} bytes went into the archive and came out of it"]


def _mounts(session: ProxmoxSession, place: tuple[str, int]) -> list[str]:
    """Start the restored guest without network, so that its file system is mounted, and stop it again; a sentence of proof."""
    api, scratch = session.proxmox, place[1]
    config = api.config(place)
    if script := config.get("hookscript"):
        # It came with the archive, runs as root on the host, and only root may take it away.
        return [f"its file system was not mounted, because starting it would run its hook script {script} on the host"]
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
    """Remove the scratch guest, where there is one; :class:`Refused` where it is not the one that this tool made."""
    scratch = session.site.proxmox.scratch_vmid
    there = session.proxmox.guest(scratch)
    if there is None:
        return
    identity.need_read(there)
    if wrong := not_ours(begun(session), there):
        raise Refused(
            f"The scratch id {scratch} is taken by {there.get('type')} {there.get('name')}, which this tool did not make: "
            f"{wrong}.",
            "Name a free id as proxmox.scratch_vmid in site.yaml. If it is left of a trial restore, delete it in Proxmox.",
        )
    if there.get("status") == "running" and not _started_by_us(session):
        raise Refused(f"The scratch guest {scratch} is running; somebody started it.", "Stop it if it is not needed.")
    which = " left over from an interrupted run" if left_over else ""
    with session.guard.act(
        "vzdump.scratch-removed", f"Remove the scratch guest LXC {scratch}{which}", before={"scratch": scratch}
    ):
        if int((there.get("config") or {}).get("protection") or 0):
            # The guest that was saved is protected, and the archive says so.
            session.proxmox.change("PUT", session.proxmox.of(("lxc", scratch)) + "/config", protection=0)
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


# -- whose it is ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A trial restore that was begun: the mark that its guest has, and what the guest was when it was seen (None: not seen)."""

    mark: str
    hostname: str
    seen: Identity | None = None


def begun(session: ProxmoxSession) -> Trial | None:
    """The last trial restore, where the journal does not say that its guest was removed since."""
    return last_trial(session.journal.entries(), session.site.proxmox.scratch_vmid)


def last_trial(entries: Sequence[Entry], scratch: int) -> Trial | None:
    """The same of these lines of a journal, oldest first. Pure."""
    seen: Any = None
    for entry in reversed(entries):
        if entry.act == "vzdump.scratch-removed" and entry.kind == "done":
            return None
        if entry.act == "vzdump.scratch-seen" and seen is None:
            seen = entry.extra
        if entry.act == "vzdump.test-restore" and entry.kind == "intent":
            before = entry.before if isinstance(entry.before, dict) else {}
            mark, hostname = str(before.get("mark") or ""), str(before.get("hostname") or "")
            if before.get("scratch") != scratch or not _MARK.fullmatch(mark):
                return None
            try:
                known = Identity.from_json(seen["identity"]) if seen is not None and seen.get("mark") == mark else None
            except (KeyError, TypeError, ValueError):  # a line that nobody of us wrote
                return None
            return Trial(mark, hostname, known)
    return None


def not_ours(trial: Trial | None, there: Mapping[str, Any]) -> str:
    """Why what has the scratch id (a row of :meth:`Proxmox.guest`) is not what ``trial`` made; empty where it is. Pure."""
    config = there.get("config") or {}
    if trial is None or there.get("type") != "lxc" or str(config.get("description") or "").strip() != trial.mark:
        return "its notes do not hold the mark of a trial restore that was begun here"
    found = identity.of(there, config)
    if trial.hostname and found.name != trial.hostname:
        return f"its name was {trial.hostname}"
    return "; ".join(trial.seen.differences(found, identity.ITS_OWN)) if trial.seen is not None else ""


def left_over(session: ProxmoxSession) -> int | None:
    """The scratch guest's id, where an interrupted run of ours left it behind."""
    trial = begun(session)
    there = session.proxmox.guest(session.site.proxmox.scratch_vmid) if trial is not None else None
    return None if there is None or not_ours(trial, there) else session.site.proxmox.scratch_vmid
