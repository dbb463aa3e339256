"""Copy: make the new server the same as the old one while applications go on reading and writing.

Recording is switched on first, then every collection is made with its settings and filled from snapshots of its shards (with the
built search index, which nothing that copies record by record keeps), aliases are made, what was written meanwhile is followed,
and at the end everything is compared bit by bit. Nothing is asked of applications and nothing is taken from the old server but
reads, snapshots, and deletes of ids that do not exist. Run again, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import Failed, Refused, Unreachable
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.qdrant import snapshots
from cutover.qdrant.client import Answered, NotThere, Qdrant
from cutover.replication import bypass, preflight, serving, switchover
from cutover.replication.base_copy import base_copy
from cutover.replication.position import Position
from cutover.replication.throttle import Throttle

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site


@dataclass(frozen=True, kw_only=True)
class CopyPlan(Plan):
    """``recording``: writes are recorded already, by a copy that was begun."""

    recording: bool


def plan(context: Context) -> CopyPlan:
    """What would be copied. :class:`Refused`, with every reason, where something cannot be moved safely."""
    flags = context.gate.state()
    if flags.side != "old":
        raise Refused("The new server serves already; there is nothing to copy to it.", "Look at `status`.")
    preflight.refuse_unsafe(context)
    names = context.old.collections()
    done = preflight.copied(context)
    sentences = []
    if not flags.recording:
        sentences.append(Sentence("Record every write that passes Nginx", "Nginx host: log and bodies of writes", _UNDO))
    sentences += [
        Sentence(f"Copy {name} ({count} records) by snapshot", f"{context.new.name}: collection {name}", _UNDO)
        for name in names
        if name not in done and (count := _count(context.old, name)) is not None
    ]
    sentences.append(Sentence("Make the aliases, and bring over what is written meanwhile", f"{context.new.name}", _UNDO))
    sentences.append(Sentence("Compare every record, setting, index and alias bit by bit"))
    return CopyPlan(sentences=sentences, recording=flags.recording)


_UNDO = "`cutover undo copy` removes the copied collections and stops recording"


def do(context: Context, planned: CopyPlan) -> Outcome:
    """Copy, follow, prove."""
    try:
        return _copy(context, planned.recording)
    except (Answered, Unreachable) as error:
        raise Failed(
            f"The copy was interrupted: {error.sentence}",
            f"{error.hint} {context.old.name.capitalize()} serves as before; run `copy` again to go on.".strip(),
        ) from error
    except Refused as error:
        if not context.gate.state().recording:
            raise
        # Recording is on and collections are there: that is not "nothing was changed".
        raise Failed(error.sentence, error.hint) from error


def _copy(context: Context, recording: bool) -> Outcome:
    begun = Position.load(switchover.position_path(context)) if recording else None
    if begun is None or begun.side != "old":
        switchover.position_path(context).unlink(missing_ok=True)  # of an earlier recording, whose log is gone
        with context.guard.act(events.COPY_RECORDS, "Record every write that passes Nginx", before={"recording": recording}):
            context.gate.start_recording()
        # The note first: the position says that this was done, and must not say so of copies from an earlier recording.
        context.journal.note(events.COPY_BEGUN, "Recording is on; what was copied before does not count")
        # Written before the first snapshot: whatever is recorded from here on is followed.
        Position(holders={alias: [name] for alias, name in context.old.aliases().items()}).save(switchover.position_path(context))
    snapshots.remove_left(context, "copy", context.old)
    copied: dict[str, Any] = {}
    done = preflight.copied(context)
    there = context.new.collections()
    with Throttle.of(context) as throttle:
        for name in context.old.collections():
            if name in done and name in there:
                continue
            throttle.give_way()
            one = base_copy(context, "copy", context.old, context.new, name, throttle.give_way)
            if one is None:
                continue  # deleted meanwhile
            copied[name] = one
            context.journal.note(events.COPIED, f"{name} was copied", collection=name)
        following = switchover.follower(context, "old", "copy")
        with context.guard.act("copy.aliases", f"Make the aliases on {context.new.name}"):
            following.bring_aliases()
        switchover.catch_up(context, "copy", following, throttle.give_way)
    watch = bypass.Watch(context.gate, context.old, "old", following)
    try:
        proved = switchover.prove(context, "copy", following)
    except Refused:
        switchover.refuse_bypass(context, "copy", watch, context.old.name)
        raise
    switchover.refuse_bypass(context, "copy", watch, context.old.name)
    size = sum(c["bytes"] or 0 for c in copied.values())
    return Outcome(
        changed=True,
        sentences=[
            f"{proved['records']} records in {proved['collections']} collections are on both servers, bit by bit the same"
            + (f"; {size / 1e6:.1f} MB were copied." if copied else "."),
            *switchover.exceptions(proved),
            "Applications still use the old server; writes are recorded and can be followed.",
        ],
        undo=_UNDO,
        facts={"copied": copied, **proved},
    )


def _count(server: Qdrant, name: str) -> int | None:
    """The number of records; None where the collection was deleted meanwhile."""
    try:
        return server.count(name)
    except NotThere:
        return None


@dataclass(frozen=True, kw_only=True)
class CopyUndoPlan(Plan):
    """``ours``: the copies to remove. ``there``: what the new server lists; None where it does not answer.

    ``others``: what only the journal calls a copy, which stays. ``installed``: there is a gate, so something may be recorded.
    """

    ours: AbstractSet[str] = frozenset()
    others: AbstractSet[str] = frozenset()
    there: AbstractSet[str] | None = None
    installed: bool = False


def plan_undo(context: Context) -> CopyUndoPlan:
    """What undoing would remove. :class:`Refused` where users are, or may be, on the new server."""
    there, flags = _there(context), context.gate.state()
    ours, others = _ours(context, there) if flags.recording or preflight.ours(context) else (set(), set())
    if not flags.recording and not ours:
        return CopyUndoPlan()
    serving.need_old_serves(context)
    sentences = [Sentence("Stop recording and remove what was recorded")]
    if there is None:
        sentences.append(Sentence(f"Leave what was copied to {context.new.name}, which does not answer"))
    else:
        sentences += [
            Sentence(f"Remove the copy of {name} on {context.new.name}", f"{context.new.name}: collection {name}")
            for name in sorted(ours)
        ]
        sentences += [Sentence(f"Leave: {sentence}") for sentence in _left(context, others)]
    return CopyUndoPlan(sentences=sentences, ours=ours, others=others, there=there, installed=flags.installed)


def _ours(context: Context, there: set[str] | None) -> tuple[set[str], set[str]]:
    """(copies that are removed, what only the journal calls one): a copy is of a collection that the old server has.

    The journal is a file, and may be old, edited or of another site.
    """
    said, has = preflight.ours(context), set(context.old.collections())
    return said & has, (said - has) & (there or set())


def _left(context: Context, others: AbstractSet[str]) -> list[str]:
    return [
        f"{name} on {context.new.name}, which {context.old.name} does not have; delete it by hand if nobody needs it"
        for name in sorted(others)
    ]


def undo(context: Context, planned: CopyUndoPlan) -> Outcome:
    """Stop recording, and remove what was copied.

    A new server that does not answer is no reason to go on recording: what is on it stays, and is said.
    """
    if not planned.sentences:
        return Outcome(changed=False, sentences=[f"Nothing of a copy is on {context.new.name}, and nothing is recorded."])
    there, ours = planned.there, planned.ours
    switchover.tidy(context, "copy")
    # First what can be refused: as long as nothing was removed, a refusal is one.
    if planned.installed:  # also where nothing is recorded: bodies may be left of a run that was killed here
        with context.guard.act(events.COPY_STOPS_RECORDING, "Stop recording and remove what was recorded"):
            context.gate.stop_recording()
            switchover.position_path(context).unlink(missing_ok=True)
    if there is None:
        raise Failed(
            f"Nothing is recorded any more, but {context.new.name} does not answer: what was copied to it is still there.",
            "Run `undo copy` again when it answers, or remove its volumes with `undo deploy`.",
        )
    try:
        for name in sorted(ours):  # also what is not listed: removing it again does no harm, and a list can be wrong
            with context.guard.act("copy.remove", f"Remove {name} on {context.new.name}", before={"collection": name}):
                context.new.delete_collection(name)
    except (Answered, Unreachable) as error:
        raise Failed(f"Recording was stopped, but not every copy was removed: {error.sentence}", error.hint) from error
    removed, absent = ", ".join(sorted(ours & there)), ", ".join(sorted(ours - there))
    sentences = [f"Removed from {context.new.name}: {removed or 'nothing'}."]
    sentences += [f"It did not list {absent} before; it was asked to remove that as well."] if absent else []
    sentences += [f"Left: {sentence}." for sentence in _left(context, planned.others)]
    return Outcome(changed=True, sentences=sentences)


def _there(context: Context) -> set[str] | None:
    """The collections of the new server; None where it does not answer."""
    try:
        return set(context.new.collections())
    except Unreachable:
        return None


def _step(_site: Site) -> Step:
    return Step(
        title="Copy, and keep up",
        does="Records every write, copies every collection by snapshot, brings over what was written meanwhile, and compares "
        "everything bit by bit. No request fails; where both servers share a disk, writes may wait somewhat longer.",
        needs="Room on the new server; the read-only key.",
        changes="Collections and aliases on the new server; recorded writes on the Nginx host.",
        undo="`cutover undo copy` empties the new server again and stops recording.",
        criteria=("A7", "C3"),
    )


PHASE = Phase(
    name="copy",
    help="Copy everything to the new server and keep up with what is written.",
    operation=Operation(plan, do),
    step=_step,
    undo=Operation(plan_undo, undo),
)
