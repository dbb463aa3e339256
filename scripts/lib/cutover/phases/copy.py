"""Copy: make the new server the same as the old one while applications go on reading and writing.

Recording is switched on first, then every collection is copied by snapshot (with its built search index, which nothing that
copies record by record keeps), aliases are made, what was written meanwhile is followed, and at the end everything is compared
bit by bit. Nothing is asked of the applications and nothing is taken from the old server but reads, snapshots, and deletes of
ids that do not exist. Run again, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutover import bypass, movable, moving, serving, snapshots
from cutover.errors import Failed, Refused, Unreachable
from cutover.follow import Position
from cutover.phases import Outcome, Sentence
from cutover.qdrant import Answered, Qdrant, need_same_version, writes_counted

if TYPE_CHECKING:
    from cutover.run import Run


def plan(run: Run) -> Sequence[Sentence]:
    """What would be copied."""
    names = run.old.collections()
    done = _copied(run)
    sentences = []
    if not run.gate.state().recording:
        sentences.append(Sentence("Record every write that passes Nginx", "Nginx host: log and bodies of writes", _UNDO))
    for name in names:
        if name not in done:
            count = run.old.count(name)
            sentences.append(Sentence(f"Copy {name} ({count} records) by snapshot", f"{run.new.name}: collection {name}", _UNDO))
    sentences.append(Sentence("Make the aliases, and bring over what is written meanwhile", f"{run.new.name}", _UNDO))
    sentences.append(Sentence("Compare every record, setting, index and alias bit by bit"))
    return sentences


_UNDO = "`cutover undo copy` removes the copied collections and stops recording"


def do(run: Run) -> Outcome:
    """Copy, follow, prove. Refused with the reason where something cannot be moved safely; nothing is changed then."""
    flags = run.gate.state()
    if flags.side != "old":
        raise Refused("The new server serves already; there is nothing to copy to it.", "Look at `status`.")
    refuse_unsafe(run)
    try:
        return _copy(run, flags.recording)
    except (Answered, Unreachable) as error:
        raise Failed(
            f"The copy was interrupted: {error.sentence}",
            f"{error.hint} {run.old.name.capitalize()} serves as before; run `copy` again to go on.".strip(),
        ) from error
    except Refused as error:
        if not run.gate.state().recording:
            raise
        # Recording is on and collections are there: that is not "nothing was changed".
        raise Failed(error.sentence, error.hint) from error


def _copy(run: Run, recording: bool) -> Outcome:
    begun = Position.load(moving.position_path(run)) if recording else None
    if begun is None or begun.side != "old":
        moving.position_path(run).unlink(missing_ok=True)  # of an earlier recording, whose log is gone
        with run.door.act("copy.record", "Record every write that passes Nginx", before={"recording": recording}):
            run.gate.start_recording()
        # The note first: the position says that this was done, and must not say so of copies from an earlier recording.
        run.journal.note("copy.begun", "Recording is on; what was copied before does not count")
        # Written before the first snapshot: whatever is recorded from here on is followed.
        Position(holders={alias: [name] for alias, name in run.old.aliases().items()}).save(moving.position_path(run))
    snapshots.remove_left(run, "copy", run.old)
    copied: dict[str, Any] = {}
    done = _copied(run)
    there = run.new.collections()
    for name in run.old.collections():
        if name in done and name in there:
            continue
        copied[name] = moving.base_copy(run, "copy", run.old, run.new, name)
        run.journal.note("copy.copied", f"{name} was copied", collection=name)
    following = moving.follower(run, "old", "copy")
    with run.door.act("copy.aliases", f"Make the aliases on {run.new.name}"):
        following.bring_aliases()
    moving.catch_up(run, "copy", following)
    watch = bypass.Watch(run.gate, run.old, "old", following)
    try:
        proved = moving.prove(run, "copy", following)
    except Refused:
        moving.refuse_bypass(run, "copy", watch, run.old.name)
        raise
    moving.refuse_bypass(run, "copy", watch, run.old.name)
    size = sum(c["bytes"] or 0 for c in copied.values())
    return Outcome(
        changed=True,
        sentences=[
            f"{proved['records']} records in {proved['collections']} collections are on both servers, bit by bit the same"
            + (f"; {size / 1e6:.1f} MB were copied." if copied else "."),
            "Applications still use the old server; writes are recorded and can be followed.",
        ],
        undo=_UNDO,
        facts={"copied": copied, **proved},
    )


def plan_undo(run: Run) -> Sequence[Sentence]:
    """What undoing would remove."""
    there, recording = _there(run), run.gate.state().recording
    ours = sorted(_ours(run)) if there is not None else []
    if not ours and not recording:
        return []
    return [
        Sentence("Stop recording and remove what was recorded"),
        *(Sentence(f"Remove the copy of {name} on {run.new.name}", f"{run.new.name}: collection {name}") for name in ours),
    ]


def undo(run: Run) -> Outcome:
    """Stop recording, and remove what was copied. Refused where users are, or may be, on the new server.

    A new server that does not answer is no reason to go on recording: what is on it stays, and is said.
    """
    there, flags, ours = _there(run), run.gate.state(), _ours(run)
    if not flags.recording and not ours:
        return Outcome(changed=False, sentences=[f"Nothing of a copy is on {run.new.name}, and nothing is recorded."])
    serving.need_old_serves(run)
    moving.tidy(run, "copy")
    # First what can be refused: as long as nothing was removed, a refusal is one.
    if flags.installed:  # also where nothing is recorded: bodies may be left of a run that was killed here
        with run.door.act("copy.stop-recording", "Stop recording and remove what was recorded"):
            run.gate.stop_recording()
            moving.position_path(run).unlink(missing_ok=True)
    if there is None:
        raise Failed(
            f"Nothing is recorded any more, but {run.new.name} does not answer: what was copied to it is still there.",
            "Run `undo copy` again when it answers, or remove its volumes with `undo deploy`.",
        )
    try:
        for name in sorted(ours):  # also what is not listed: removing it again does no harm, and a list can be wrong
            with run.door.act("copy.remove", f"Remove {name} on {run.new.name}", before={"collection": name}):
                run.new.delete_collection(name)
    except (Answered, Unreachable) as error:
        raise Failed(f"Recording was stopped, but not every copy was removed: {error.sentence}", error.hint) from error
    removed, absent = ", ".join(sorted(ours & there)), ", ".join(sorted(ours - there))
    sentences = [f"Removed from {run.new.name}: {removed or 'nothing'}."]
    sentences += [f"It did not list {absent} before; it was asked to remove that as well."] if absent else []
    return Outcome(changed=True, sentences=sentences)


def _there(run: Run) -> set[str] | None:
    """The collections of the new server; None where it does not answer."""
    try:
        return set(run.new.collections())
    except Unreachable:
        return None


def refuse_unsafe(run: Run) -> None:
    """Refused, with every reason, where something cannot be moved safely."""
    need_same_version(run.old, run.new)
    reasons = unsafe(run)
    if reasons:
        raise Refused(f"Not begun: {'; '.join(reasons)}.", "Remove these reasons first; nothing was changed.")


def unsafe(run: Run) -> list[str]:
    """Every reason against moving, in words."""
    reasons: list[str] = []
    if run.secrets.get("QDRANT_READ_ONLY_API_KEY") is None:
        reasons.append("there is no read-only key (QDRANT_READ_ONLY_API_KEY), with which the new server fetches the snapshots")
    servers = [run.old, *([run.new] if _answers(run.new) else [])]
    clustered = [s.name for s in servers if (s.ask("GET", "/cluster") or {}).get("status") == "enabled"]
    reasons += [f"{name} is part of a cluster, which this tool does not move" for name in clustered]
    for name in run.old.collections():
        reasons += movable.reasons_against(name, run.old.info(name), run.old.shard_keys(name))
    grpc = movable.grpc_writes(writes_counted(run.old.telemetry()))
    if grpc:
        counted = ", ".join(f"{method} {number} times" for method, number in sorted(grpc.items()))
        reasons.append(f"applications write to {run.old.name} through gRPC ({counted} since it was started)")
    strangers = sorted(set(run.new.collections()) - _ours(run)) if run.new in servers else []
    if strangers:
        reasons.append(f"{run.new.name} already has data that this tool did not copy: {', '.join(strangers)}")
    return reasons


def _answers(server: Qdrant) -> bool:
    """Whether the server runs; before the deployment the new one does not."""
    try:
        server.version()
    except Unreachable:
        return False
    return True


def _ours(run: Run) -> set[str]:
    """Collections on the new server that this tool made there, finished or not, and has not removed again."""
    found: set[str] = set()
    removing: dict[int, str] = {}
    for entry in run.journal.entries():
        if entry.kind == "intent" and entry.act.endswith(".recover"):
            found.add(entry.before["collection"])
        elif entry.kind == "intent" and entry.act == "copy.remove":
            removing[entry.seq] = entry.before["collection"]
        elif entry.kind == "done" and entry.act == "copy.remove":
            # Whatever has this name from now on is somebody else's.
            found.discard(removing.get(entry.of or 0, ""))
    return found


def _copied(run: Run) -> set[str]:
    """Collections whose copy is complete and was begun after recording."""
    found: set[str] = set()
    for entry in run.journal.entries():
        if entry.act in {"copy.begun", "copy.undone"}:
            found.clear()
        elif entry.act == "copy.copied":
            found.add(entry.extra["collection"])
    return found
