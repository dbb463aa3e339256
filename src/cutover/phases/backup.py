"""Save what is there before anything moves, and prove that it can be brought back.

Four things are kept, because each brings back something that the others do not: a snapshot of every collection (its checksum
compared, kept in the state folder), a snapshot of the container where its storage can take one (quick, but gone with the
container), a protected backup of the container that prunes nothing (proved by restoring it under a scratch id, which is removed
again), and a record of what a restore does not bring back: backup jobs, pool, access rules, HA, replication, aliases.

What the last run kept, and the word that names its archive, are in :mod:`cutover.state.backup_manifest`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutover.core import events, files
from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.journal import now
from cutover.core.text import counted
from cutover.core.units import GIB
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.proxmox import identity, privileges, references, scratch, storages, vzdump
from cutover.qdrant import snapshots
from cutover.state import backup_manifest

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.qdrant.client import Qdrant
    from cutover.site.schema import Site

#: The container's own snapshot, and what Proxmox keeps with it: by that it is known, since anybody may choose the same name.
SNAPSHOT, TAKEN_FOR = "before_move", "before the move to the new server"
TASK_SECONDS = 1800.0


def speaks_against(context: Context, facts: references.Facts, *, begun: bool) -> list[str]:
    """Why the container cannot be backed up so that a restore brings everything back, as sentences.

    ``begun``: Proxmox still makes a backup of ours, whose lock and whose snapshot on its way speak against nothing.
    """
    old = context.site.guests.old
    said = []
    if facts.config.get("lock") and not begun:
        said.append(f"{old} is locked ({facts.config['lock']}): something else works on it.")
    said += [f"Of {old}, {one}." for one in vzdump.left_out(facts.config)]
    there = _snapshot_row(context) if _can_snapshot(context) else {}
    if there.get("snapstate") and not begun:
        how = f"remove it with `pct delsnapshot {old.vmid} {SNAPSHOT} --force` in the host's shell"
        said.append(f"The snapshot {SNAPSHOT} of {old} was begun and never completed: {how}.")
    elif there and (description := _description(there)) != TAKEN_FOR:
        whose = f"its description is {description!r}" if description else "it has no description"
        said.append(
            f"{old} has a snapshot {SNAPSHOT} that this tool did not take ({whose}), and its own needs that name: "
            f"ask who took it, and remove it with `pct delsnapshot {old.vmid} {SNAPSHOT}` where nobody needs it."
        )
    said += [f"{old} is not the guest that is meant: {one}." for one in identity.not_meant(context, old)]
    said += context.proxmox.no_quorum()
    said += [f"The token {context.proxmox.token} lacks {one}." for one in privileges.missing(context, "backup")]
    if not str(facts.config.get("unprivileged", "0")).startswith("1"):
        said.append(f"{old} is privileged, and Proxmox lets no token restore such a container (it needs Sys.Modify on /).")
    return said


def _storages(context: Context, mode: vzdump.Mode) -> storages.Verdict:
    """Whether the storages can take the archive, where it is still to be made, and one more copy of the container."""
    old = context.site.guests.old
    new = [] if vzdump.find(context, old, backup_manifest.PURPOSE) is not None else [old]
    return storages.judge(context, [old], new, twice=mode == "suspend")


def _done(context: Context) -> dict[str, Any] | None:
    """The manifest, where everything in it is still there."""
    kept = backup_manifest.manifest(context)
    if kept is None:
        return None
    archive = vzdump.find(context, context.site.guests.old, backup_manifest.PURPOSE)
    if archive is None or archive.volid != kept["archive"]["volid"]:
        return None
    return None if backup_manifest.lost(context, kept) else kept


def _begun(context: Context) -> list[str]:
    """The tasks of a backup of ours that Proxmox still carries out, because the run that began it was ended."""
    if not any(events.not_seen_done(context.journal.acts(act)) for act in ("vzdump.make", "backup.snapshot")):
        return []
    return list(context.proxmox.running_tasks(("vzdump", "vzsnapshot"), context.site.guests.old.vmid))


@dataclass(frozen=True, kw_only=True)
class BackupPlan(Plan):
    """``kept``: the manifest of the backup that is there already; otherwise ``facts`` of the container and how it is backed up.

    ``begun``: the tasks of a backup of ours that Proxmox still makes; what is to do is planned anew when they have ended.
    """

    kept: Mapping[str, Any] | None = None
    facts: references.Facts | None = None
    mode: vzdump.Mode = "snapshot"
    begun: Sequence[str] = ()


def plan(context: Context) -> BackupPlan:
    """What would be saved. Refused where a backup would not hold everything; empty where one is there already."""
    if (kept := _done(context)) is not None:
        return BackupPlan(kept=kept)
    old, site = context.site.guests.old, context.site
    begun = _begun(context)  # before its lock is looked at, which may go at any moment
    facts = references.collect(context, old)
    against = [f"{old} does not exist."] if facts is None else speaks_against(context, facts, begun=bool(begun))
    mode: vzdump.Mode = "snapshot" if against else _mode(context)
    seen = storages.Verdict() if against else _storages(context, mode)
    against += seen.against
    if against:
        raise Refused(f"{old} is not backed up: {' '.join(against)}", "Remove the reason and run the command again.")
    if begun:
        return BackupPlan(sentences=[Sentence(f"Wait for the backup of {old} that was begun, then go on")], begun=begun)
    names = context.old.collections()
    count = f"{counted(len(names), 'collection')} ({', '.join(names)})"
    found = [
        Sentence(
            f"Take a snapshot of {count} of {context.old.name}, and keep them in {backup_manifest.folder(context)}",
            "Files in the state folder",
        ),
        Sentence(f"Write down what a restore of {old} does not bring back", "A file in the state folder"),
    ]
    if _can_snapshot(context):
        found.append(Sentence(f"Take the snapshot {SNAPSHOT} of {old}", f"A snapshot of {old}", "Delete it in Proxmox"))
    elif mode == "suspend":
        found.append(Sentence(_freezes(context), f"{old} does not answer for that time", "None"))
    found += [
        Sentence(
            f"Back {old} up to storage {site.proxmox.storages.backup}, protected, removing no other backup",
            "One archive",
            "Take its protection away and delete it in Proxmox",
        ),
        Sentence(f"Restore it as LXC {site.proxmox.scratch_vmid}, compare, and remove that again", "Nothing that stays"),
    ]
    found += [Sentence(f"Not seen beforehand: {one}; a storage that runs full is noticed") for one in seen.unsure]
    return BackupPlan(sentences=found, facts=facts, mode=mode)


def _mode(context: Context) -> vzdump.Mode:
    """How Proxmox will back the old server up; it falls back to suspend by itself where it cannot take a snapshot."""
    running = context.proxmox.status(context.site.guests.old).get("status") == "running"
    return "suspend" if running and not _can_snapshot(context) else "snapshot"


def _freezes(context: Context) -> str:
    """What a backup costs where the storage takes no snapshots, as a sentence."""
    old = context.site.guests.old
    return (
        f"The storage of {old} takes no snapshots, so it is backed up in mode suspend: it is frozen while what changed during a "
        "first copy is copied once more, and nobody can read from or write to it for that time"
    )


def _can_snapshot(context: Context) -> bool:
    """Whether every mount point's storage can take a snapshot. (One folder of the host in the container forbids it.)"""
    answer = dict(context.proxmox.get(f"{context.proxmox.of(context.site.guests.old)}/feature", feature="snapshot"))
    return bool(int(answer.get("hasFeature") or 0))


def do(context: Context, planned: BackupPlan) -> Outcome:
    """Save, prove, write the manifest. Run again it continues; when everything is there it does nothing."""
    old = context.site.guests.old
    if planned.kept is not None:
        there = f"{planned.kept['archive']['volid']} and {len(planned.kept['collections'])} snapshots"
        return Outcome(False, [f"The backup of {planned.kept['at']} is there: {there}."], facts=dict(planned.kept))
    for upid in planned.begun:
        context.ui.say(f"A backup of {old} was begun already; waiting for it.")
        context.proxmox.wait_task(upid, deadline=vzdump.DUMP_SECONDS)
    if planned.begun:
        return do(context, plan(context))
    facts, mode = planned.facts, planned.mode
    if facts is None:
        raise Refused(f"{old} does not exist.")
    if mode == "suspend":
        context.confirm.to(f"{_freezes(context)}. Back it up so?")
    identity.remember(context, old)
    snapshots.remove_left(context, "backup.qdrant", context.old)
    said: list[str] = []
    at = now()
    with context.guard.act("backup.record", f"Write down what a restore of {old} does not bring back") as act:
        record = backup_manifest.folder(context) / "record.json"
        told = context.credentials.redact_tree(json.loads(json.dumps(facts.as_json(), default=str)))
        _write(record, json.dumps(told, indent=1, ensure_ascii=False))
        act.after = str(record)
    said.append(f"Written down in {record}.")
    collections = [_save(context, name) for name in context.old.collections()]
    where = "kept on the server" if any(not c["file"] for c in collections) else f"kept in {backup_manifest.folder(context)}"
    said.append(f"A snapshot of each of {len(collections)} collections was taken, its checksum compared, and {where}.")
    said += _snapshot(context)
    config = context.proxmox.config(old)
    archive = vzdump.make(context, old, purpose=backup_manifest.PURPOSE, mode=mode)
    proofs = vzdump.verify(context, old, archive, config)
    proofs += scratch.try_restore(context, old, archive, config)
    said += [f"Proved: {proof}." for proof in proofs]
    kept = {
        "at": at, "guest": str(old), "archive": archive.as_json(), "collections": collections, "aliases": context.old.aliases(),
        "proofs": proofs, "snapshot": SNAPSHOT if _has_snapshot(context) else None,
    }  # fmt: skip
    with context.guard.act("backup.manifest", "Write the manifest of the backup") as act:
        _write(backup_manifest.folder(context) / "manifest.json", json.dumps(kept, indent=1, ensure_ascii=False, default=str))
        act.after = {"archive": archive.volid}
    with suppress(CutoverError):  # what an earlier backup left there has this one in its place
        kept_there = [str(one["name"]) for one in collections if not one["file"]]
        snapshots.remove_left(context, "backup.qdrant", context.old, stay=kept_there)
    return Outcome(True, said, f"The archive stays until somebody unprotects and deletes {archive.volid}.", kept)


def _snapshot(context: Context) -> list[str]:
    """The container's own snapshot, where its storage can."""
    old, api = context.site.guests.old, context.proxmox
    if not _can_snapshot(context):
        return [f"The storage of {old} takes no snapshots, so there is only the archive."]
    if _has_snapshot(context):
        return [f"The snapshot {SNAPSHOT} of {old} is there."]
    what = f"Taking the snapshot {SNAPSHOT} of {old}"
    with context.guard.act("backup.snapshot", f"Take the snapshot {SNAPSHOT} of {old}") as act:
        api.do_task(
            "POST", f"{api.of(old)}/snapshot", kind="vzsnapshot", vmid=old.vmid, what=what, deadline=TASK_SECONDS,
            snapname=SNAPSHOT, description=TAKEN_FOR,
        )  # fmt: skip
        act.after = SNAPSHOT
    if not _has_snapshot(context):
        raise Failed(f"{what}: the task ended well, but Proxmox does not list it.", "Look at it in Proxmox.")
    return [f"The snapshot {SNAPSHOT} of {old} was taken."]


def _has_snapshot(context: Context) -> bool:
    row = _snapshot_row(context)
    complete = bool(row) and not row.get("snapstate")
    return complete and _description(row) == TAKEN_FOR


def _description(row: Mapping[str, Any]) -> str:
    return str(row.get("description", "")).strip()


def _snapshot_row(context: Context) -> Mapping[str, Any]:
    rows = context.proxmox.list(f"{context.proxmox.of(context.site.guests.old)}/snapshot")
    return next((row for row in rows if row.get("name") == SNAPSHOT), {})


# -- collections ---------------------------------------------------------------------------------


def _save(context: Context, collection: str) -> dict[str, Any]:
    """Snapshot one collection and bring it home; what an earlier run brought home completely is not taken again."""
    earlier = next(
        (
            entry.after
            for entry in reversed(context.journal.acts("backup.collection"))
            if entry.kind == "done" and isinstance(entry.after, dict) and entry.after.get("collection") == collection
        ),
        None,
    )
    if earlier is not None and earlier.get("file") and _sound(backup_manifest.folder(context) / str(earlier["file"]), earlier):
        return dict(earlier)
    old = context.old
    info = old.info(collection)
    with (
        snapshots.taken(context, "backup.qdrant", old, collection) as made,
        context.guard.act("backup.collection", f"Keep the snapshot of collection {collection}") as act,
    ):
        kept: dict[str, Any] = {
            "collection": collection, "name": made.name, "size": made.size, "checksum": made.checksum,
            "points": old.count(collection), "config": info.get("config"), "schema": info.get("payload_schema"), "file": None,
        }  # fmt: skip
        files.private_folder(backup_manifest.folder(context))
        made.stays = shutil.disk_usage(backup_manifest.folder(context)).free < 2 * made.size + GIB
        if made.stays:
            context.ui.say(
                f"{backup_manifest.folder(context)} has no room for the snapshot of {collection}; it is left on {old.name}."
            )
        else:
            kept["file"], kept["sha256"] = _bring_home(context, old, kept)
        act.after = kept
    return kept


def _bring_home(context: Context, old: Qdrant, kept: Mapping[str, Any]) -> tuple[str, str]:
    """Download a snapshot, compare its checksum, and read it once to its end: (file name, SHA-256)."""
    place = backup_manifest.folder(context) / "qdrant"
    files.private_folder(place)
    file = place / f"{hashlib.sha256(str(kept['collection']).encode()).hexdigest()[:8]}-{Path(str(kept['name'])).name}"
    unfinished = file.with_suffix(".part")
    sha = _store(context, old.download(str(kept["collection"]), str(kept["name"])), unfinished, kept)
    if kept["checksum"] and sha != kept["checksum"]:
        unfinished.unlink()
        raise Failed(
            f"The snapshot of {kept['collection']} arrived from {old.name} with checksum {sha[:12]}; there it has "
            f"{kept['checksum'][:12]}.",
            "Run the command again; if it happens again, look at the disks of both machines.",
        )
    if not _readable(unfinished):
        raise Failed(f"The snapshot of {kept['collection']} from {old.name} is not a readable archive.", "Run the command again.")
    unfinished.replace(file)
    return str(file.relative_to(backup_manifest.folder(context))), sha


def _store(context: Context, chunks: Iterable[bytes], path: Path, kept: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    with (
        files.fresh(path) as out,
        context.ui.progress(f"Keeping {kept['collection']}", kept["size"] or None, "B") as advance,
    ):
        for chunk in chunks:
            out.write(chunk)
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _readable(path: Path) -> bool:
    """Whether the snapshot, which is a tar archive, can be read to its end."""
    try:
        with tarfile.open(path, "r:") as tar:
            return sum(1 for _ in tar) > 0
    except (tarfile.TarError, OSError, EOFError):
        return False


def _sound(path: Path, kept: Mapping[str, Any]) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == kept.get("sha256")


def _write(path: Path, text: str) -> None:
    """A file that is there whole or not at all, readable by its owner only."""
    files.private_folder(path.parent)
    files.replace(path, text + "\n")


def _step(site: Site) -> Step:
    guests = site.guests
    return Step(
        title="Save what is there",
        does=f"Takes a checked snapshot of every collection and a protected backup of {guests.old}, and proves that it can "
        "be restored by restoring it under a scratch id.",
        needs=f"Room on storage {site.proxmox.storages.backup}; the free id {site.proxmox.scratch_vmid}.",
        changes="Adds snapshots and one backup. The scratch guest is removed again.",
        undo="The backup is kept; delete it by hand when it is no longer wanted.",
        criteria=("B1", "E4"),
    )


PHASE = Phase(
    name="backup",
    help="Take snapshots of the data and a backup of the old guest, and prove it by a test restore.",
    operation=Operation(plan, do),
    step=_step,
    instead_of_undo="A backup is kept; delete it by hand when it is no longer wanted.",
    privileges="backup",
)
