"""Bring the old container back from its backup - when that is necessary, and only then.

A restore loses everything that was written since the backup, so the usual way back is another one: `cutover back` moves the
traffic to the old server, which has been kept up to date. A restore is for a container that is gone, or that does not come up
any more. Where it still answers this refuses; where it is only stopped it is started; where it is overwritten, its name has to
be typed after reading from when on everything would be lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import CutoverError, Failed, Refused, Unreachable
from cutover.core.journal import utc
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence
from cutover.proxmox import identity, inventory, power, privileges, replacing, vzdump
from cutover.qdrant.client import Answered
from cutover.state import backup_manifest

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox import storages
    from cutover.proxmox.tasks import TaskEnd
    from cutover.proxmox.vzdump import Archive


def _row(context: Context) -> dict[str, Any] | None:
    """What has the old server's id, asked on its node."""
    vmid = context.site.guests.old.vmid
    return context.proxmox.guest(vmid)


def _answers(context: Context) -> bool:
    """Whether something alive is there. A wrong key is an answer: nobody overwrites a living server because of that.

    Only the way from here may be broken, so where Nginx sends its users to it, it is asked through Nginx as well.
    """
    try:
        context.old.collections()
    except Unreachable:
        return _serves_users(context)
    except CutoverError:
        return True
    return True


def _serves_users(context: Context) -> bool:
    try:
        if context.gate.state().side != "old":
            return False
        context.public.collections()
    except Answered as error:
        return error.status < 500  # above that it is Nginx that says it got no answer
    except CutoverError:
        return False
    return True


def newest(context: Context) -> Archive:
    """The newest backup of the old server that this tool made; :class:`Refused` where there is none."""
    old = context.site.guests.old
    own = vzdump.note(context.site.name, old.vmid, "")
    found = [archive for archive in vzdump.listed(context, old.vmid) if archive.note.startswith(own)]
    if not found:
        raise Refused(
            f"There is no backup of {old} that this tool made.", f"Look at storage {context.site.proxmox.storages.backup}."
        )
    return found[0]


def _begun(context: Context) -> Mapping[str, Any] | None:
    """What an earlier run was about to restore when it was ended, where it could not see that to the end; None otherwise."""
    intent = events.not_seen_done(context.journal.acts("restore.guest"))
    before = intent.before if intent is not None else None
    return before if isinstance(before, dict) and before.get("archive") else None


def _await_begun(context: Context) -> TaskEnd | None:
    """How the restore ended that an earlier run began, waited for; None where none was begun, or nobody knows of its task."""
    old, api, begun = context.site.guests.old, context.proxmox, _begun(context)
    if begun is None:
        return None
    tasks = [t for t in api.tasks("vzrestore", old.vmid) if float(t.get("starttime") or 0) >= float(begun.get("there") or 0)]
    if not tasks:
        return None
    if not tasks[0].get("endtime"):
        context.ui.say(f"{old} is being restored already; waiting for that.")
    return api.wait_task(str(tasks[0]["upid"]), deadline=vzdump.RESTORE_SECONDS)


def _running_restore(context: Context) -> bool:
    """Whether Proxmox restores the old server right now, as an earlier run began it."""
    return _begun(context) is not None and bool(context.proxmox.running_tasks(("vzrestore",), context.site.guests.old.vmid))


def _not_locked(context: Context) -> None:
    """:class:`Refused` where a restore was killed on the host: what it leaves only the host's shell can unlock."""
    old = context.site.guests.old
    config = context.proxmox.find(f"{context.proxmox.of(old)}/config") if _begun(context) is not None else None
    if isinstance(config, dict) and config.get("lock") == "create":
        raise Refused(
            f"The restore of {old} was killed on the Proxmox host and left a guest that is locked (create).",
            f"In the shell of the Proxmox host: `pct unlock {old.vmid}`, then `pct destroy {old.vmid}`; then run this again.",
        )


def _rules(context: Context) -> tuple[dict[str, Any] | None, Archive, storages.Verdict]:
    """What is there, what would be restored, and whether it may be; :class:`Refused` where it is not necessary or not possible.

    A guest that is only stopped is started first, so what speaks against restoring it refuses nothing yet.
    """
    _not_locked(context)
    old, row = context.site.guests.old, _row(context)
    if row is not None and _answers(context):
        raise Refused(
            f"{old} runs and answers, so nothing has to be restored; a restore would lose what was written since the backup.",
            "To move the traffic back to it, use `cutover back`.",
        )
    if row is not None and (row.get("type") != "lxc" or row.get("name") != old.name):
        raise Refused(
            f"The id {old.vmid} belongs to {row.get('type')} {row.get('name')} now, which is not {old}.",
            "Nothing is overwritten. Correct guests.old in site.yaml, or free that id.",
        )
    if row is not None and (wrong := identity.not_meant(context, old)):
        raise Refused(
            f"{old} is not the guest that is meant: {'; '.join(wrong)}.",
            "Nothing is overwritten. Compare guests.old in site.yaml with Proxmox.",
        )
    if lost := context.proxmox.no_quorum():
        raise Refused(lost[0])
    short = privileges.missing(context, "restore")
    if short:
        gone = "" if row is not None else " With a deleted guest Proxmox deletes the access rules on its id."
        raise Refused(
            f"The token {context.proxmox.token} lacks {'; '.join(short)}.{gone}",
            "`cutover rights` has the commands that give them.",
        )
    archive = newest(context)
    _address_free(context)
    seen = _verdict(context, row, archive)
    if seen.against and (row is None or row.get("status") == "running" or row.get("lock")):
        raise Refused(f"{old} is not restored: {' '.join(seen.against)}", "Remove the reason and run the command again.")
    return row, archive, seen


def _verdict(context: Context, row: Mapping[str, Any] | None, archive: Archive) -> storages.Verdict:
    """Whether the archive may, and can, be restored in the place of what is there."""
    old = context.site.guests.old
    over = replacing.over(context, old, archive) if row is not None else []
    room = replacing.room(context, old, archive, archive.node if row is None else str(row["node"]))
    return replace(room, against=[*over, *room.against])


def _address_free(context: Context) -> None:
    """Nobody else has taken the container's address meanwhile."""
    old = context.site.guests.old
    others = [guest for guest in inventory.look(context.proxmox) if guest.vmid != old.vmid and guest.running]
    taken = [str(guest) for guest in others if old.address in guest.addresses]
    if taken:
        raise Refused(f"{', '.join(taken)} has the address {old.address} now; two machines would answer there.", "Free it first.")


@dataclass(frozen=True, kw_only=True)
class RestorePlan(Plan):
    """``row``: what has the old server's id. ``archive``: what would be restored; None while Proxmox restores one already."""

    row: Mapping[str, Any] | None = None
    archive: Archive | None = None


def plan(context: Context) -> RestorePlan:
    """What a restore would do now."""
    old = context.site.guests.old
    if _running_restore(context):
        return RestorePlan(sentences=[Sentence(f"Wait for the restore of {old} that was begun, then start it", f"{old} runs")])
    row, archive, seen = _rules(context)
    found = []
    if row is not None and row.get("status") != "running":
        found.append(Sentence(f"Start {old}, which is only stopped; if it answers then, nothing is restored", f"{old} runs"))
        if seen.against:
            found.append(Sentence(f"It will not be restored: {' '.join(seen.against)}"))
            return RestorePlan(sentences=found, row=row, archive=archive)
    elif row is not None:
        found.append(Sentence(f"Stop {old}, which runs and does not answer", f"{old} is stopped"))
    found.append(
        Sentence(
            f"Restore {old} from {archive.volid} of {utc(archive.ctime)}, and start it",
            f"{old}; lost is {_lost(context, row, archive)}",
            "None",
        )
    )
    found += [Sentence(f"Not seen beforehand: {one}") for one in seen.unsure]
    found += [Sentence(f"By hand afterwards: {one}") for one in seen.by_hand]
    return RestorePlan(sentences=found, row=row, archive=archive)


def _lost(context: Context, row: Mapping[str, Any] | None, archive: Archive) -> str:
    """What a restore destroys, as a phrase."""
    lost = f"everything written to it since {utc(archive.ctime)}"
    if row is None:
        return lost
    rows = context.proxmox.list(f"{context.proxmox.of(context.site.guests.old)}/snapshot")
    snapshots = [str(one["name"]) for one in rows if one.get("name") != "current"]
    return lost + (f", and its snapshots {', '.join(snapshots)}" if snapshots else "")


def do(context: Context, planned: RestorePlan) -> Outcome:
    """Start it where that is enough, else restore it; proved by its collections."""
    old = context.site.guests.old
    begun, end = _begun(context), _await_begun(context)
    if begun is not None and end is not None:
        if end.state == "ok" and _row(context) is not None:
            return _go_on(context, begun)
        _not_locked(context)
        context.ui.say(f"The restore of {old} that was begun did not end well: {end.reason()}.")
    if planned.archive is None:
        planned = plan(context)
    row, archive = planned.row, planned.archive
    if archive is None:
        raise Refused(f"{old} is still being restored.", "Run the command again when that has ended.")
    said: list[str] = []
    if row is not None and row.get("status") != "running":
        _start(context)
        if _came_up(context):
            return Outcome(
                True, [f"{old} was only stopped. It runs and answers again; nothing was restored and nothing is lost."]
            )
        said.append(f"{old} was started and does not answer.")
        if against := _verdict(context, row, archive).against:
            raise Failed(f"{said[0]} It is not restored: {' '.join(against)}", "Look inside it.")
    if row is not None:
        lost = f"{old} would be overwritten by its backup of {utc(archive.ctime)}: lost is {_lost(context, row, archive)}."
        context.confirm.by_name(old.name, lost)
        _stop(context)
    _restore(context, archive, over=row is not None)
    said += _up_again(context, archive.ctime)
    return Outcome(True, said, facts={"archive": archive.as_json()})


def _go_on(context: Context, begun: Mapping[str, Any]) -> Outcome:
    """The restore that an earlier run began has ended well: write that down, start the guest and compare."""
    old, archive = context.site.guests.old, str(begun["archive"])
    with context.guard.act("restore.guest", f"See that {old} is restored from {archive}", before=dict(begun)) as act:
        act.after = {"archive": archive}
    said = [f"{old} was restored from {archive} by the run that was interrupted."]
    return Outcome(True, [*said, *_up_again(context, int(begun.get("ctime") or 0))], facts={"archive": archive})


def _restore(context: Context, archive: Archive, *, over: bool) -> None:
    old, api = context.site.guests.old, context.proxmox
    node = api.node_of(old.vmid) if over else archive.node
    there = float(api.record(f"nodes/{node}/time")["time"])
    before = {"exists": over, "archive": archive.volid, "ctime": archive.ctime, "there": there}
    with context.guard.act("restore.guest", f"Restore {old} from {archive.volid}", before=before) as act:
        api.do_task(
            "POST",
            f"nodes/{node}/lxc",
            kind="vzrestore",
            vmid=old.vmid,
            what=f"Restoring {old}",
            deadline=vzdump.RESTORE_SECONDS,
            ostemplate=archive.volid,
            restore=1,
            storage=context.site.proxmox.storages.restore,
            force=1 if over else None,
        )
        act.after = {"archive": archive.volid}


def _up_again(context: Context, ctime: int) -> list[str]:
    """Start the restored guest where it does not run, and compare what came back."""
    old, api = context.site.guests.old, context.proxmox
    identity.remember(context, old)
    if api.status(old).get("status") != "running":
        _start(context)
    if not _came_up(context):
        raise Failed(f"{old} was restored and started, but Qdrant on it does not answer at {context.old.url}.", "Look inside it.")
    back = f"{old} is back as it was at {utc(ctime)}; what was written to it since is lost."
    return [back, *_compared(context)]


def _start(context: Context) -> None:
    old, api = context.site.guests.old, context.proxmox
    with context.guard.act("restore.start", f"Start {old}"):
        power.turn(api, old, "start", deadline=300)


def _stop(context: Context) -> None:
    old, api = context.site.guests.old, context.proxmox
    if api.status(old).get("status") == "running":
        with context.guard.act("restore.stop", f"Stop {old}"):
            power.turn(api, old, "stop", deadline=300)


def _came_up(context: Context) -> bool:
    def answers() -> bool | Not:
        return True if _answers(context) else Not("no answer")

    try:
        return wait_until(answers, deadline=context.site.limits.reboot_seconds, what="Qdrant's answer", every=0.3)
    except TimedOut:
        return False


def _compared(context: Context) -> list[str]:
    """What came back against what was written down, and what a restore never brings back."""
    said = []
    kept = backup_manifest.manifest(context)
    if kept is not None:
        there = set(context.old.collections())
        missing = [one["collection"] for one in kept["collections"] if one["collection"] not in there]
        if missing:
            raise Failed(
                f"The restored server lacks the collections {', '.join(missing)}.", "Its snapshots are in the state folder."
            )
        said.append(f"All {len(kept['collections'])} collections of the backup are there.")
    path = backup_manifest.folder(context) / "record.json"
    if path.is_file():
        try:
            record = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):  # the server is back; that is not undone by a file about it
            return [*said, f"{path} is not readable, so nobody knows what a restore did not bring back."]
        lost = [name for name in ("backup_jobs", "ha", "replication", "pools", "acl", "snapshots") if record.get(name)]
        if lost:
            said.append(f"A restore does not bring back its {', '.join(lost).replace('_', ' ')}: {path} has them.")
    return said


PHASE = Phase(
    name="restore",
    help="Bring the old guest back from its backup, where nothing else helps: what was written since is lost.",
    operation=Operation(plan, do),
    instead_of_undo="What was written since that backup is lost; another backup can be restored.",
    privileges="restore",
)
