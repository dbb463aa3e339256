"""Snapshots of collections that are needed for a moment only: journaled, and removed again whatever becomes of what they are for.

A snapshot is as large as its collection and lies on the disk of a server that is in use; the old one serves everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError, Failed
from cutover.core.wait import Not, wait_until

if TYPE_CHECKING:
    from cutover.core.session import Session
    from cutover.qdrant.client import Qdrant

STAYS = "snapshot.stays"
NAMED = "snapshot.named"


@dataclass
class Taken:
    """A snapshot of ``collection``: name, size in bytes, SHA-256 where the server says one. One that ``stays`` is not removed."""

    collection: str
    name: str
    size: int
    checksum: str | None
    stays: bool = False


@contextmanager
def taken(session: Session, verb: str, source: Qdrant, collection: str) -> Iterator[Taken]:
    """Take a snapshot for the length of a block.

    What could not be removed then, because the server or this process is gone, the next command removes that looks for
    such (:func:`remove_left`).
    """
    known = {"collection": collection, "snapshots": sorted(source.snapshot_names(collection))}

    def take() -> dict[str, Any] | Not:
        # Qdrant names them by the second: a second one in the same takes the place of the first, which may be another's.
        made = source.create_snapshot(collection)
        return Not(f"{made['name']} was there before") if made["name"] in known["snapshots"] else made

    with session.guard.act(f"{verb}.snapshot", _words(collection, source), before=known) as act:
        made = wait_until(take, deadline=5, what=f"A snapshot of {collection} on {source.name}", every=1.0)
        name = made["name"]
        act.after = {"collection": collection, "snapshot": name, "size": made.get("size")}
        if name not in source.snapshot_names(collection):
            act.after["snapshot"] = None  # it has another name, or there is none
            raise Failed(
                f"{source.name.capitalize()} said that it took a snapshot of {collection}, and does not list it.",
                "Look at that server, then run the command again.",
            )
    snapshot = Taken(collection, name, int(made.get("size") or 0), made.get("checksum"))
    try:
        yield snapshot
    except BaseException:
        with suppress(CutoverError):  # what failed first is what has to be said
            _remove(session, verb, source, collection, name)
        raise
    if snapshot.stays:
        session.journal.note(STAYS, f"The snapshot {name} stays on {source.name}", snapshot=name)
    else:
        _remove(session, verb, source, collection, name)


def remove_left(session: Session, verb: str, source: Qdrant, *, stay: Collection[str] | None = None) -> None:
    """Remove the snapshots that interrupted commands left on a server. What may be another's is only named, once.

    Those that were to stay do so, or of them only the names in ``stay``.
    """
    entries = session.journal.entries()
    ends = {e.of: e for e in entries if e.of is not None}
    # By name, when: a name can come again within a second.
    removals = (e for e in entries if e.kind == "done" and e.act.endswith(".remove-snapshot"))
    done = {removed: e.seq for e in removals if (removed := _removed(e.what))}
    staying = {e.extra["snapshot"] for e in entries if e.act == STAYS} if stay is None else set(stay)
    named = {e.extra["of"] for e in entries if e.act == NAMED}
    ours: dict[str, tuple[str, int, object]] = {}  # by name: the collection, when, and its size
    unsure: dict[int, tuple[str, set[str]]] = {}  # by intent: the collection, and what there was before
    for intent in entries:
        if intent.kind != "intent" or not intent.act.endswith(".snapshot") or "snapshots" not in (intent.before or {}):
            continue
        collection, end = intent.before["collection"], ends.get(intent.seq)
        if intent.what != _words(collection, source):
            continue  # of the other server
        if end is not None and (name := (end.after or {}).get("snapshot")):
            ours[name] = collection, end.seq, end.after.get("size")
        elif intent.seq not in named and (end is None or end.kind == "unknown" or end.after):
            unsure[intent.seq] = collection, set(intent.before["snapshots"])
    for name, (collection, taken_at, size) in ours.items():
        if name in staying or done.get(name, 0) >= taken_at:
            continue
        # The name says which second it was taken in, and so may be another's: the journal is of before, or was edited.
        if (name, size) in source.snapshot_sizes(collection).items():
            _remove(session, verb, source, collection, name)
    for seq, (collection, before) in unsure.items():
        new = ", ".join(sorted(source.snapshot_names(collection) - before - set(done) - staying - set(ours)))
        said = (
            f"A snapshot of {collection} was begun, and nobody knows whether it is there. If nobody else made these on "
            f"{source.name}, they can be deleted: {new}."
        )
        if new:
            session.ui.say(said)
            session.journal.note(NAMED, said, of=seq)


def _removed(what: str) -> str:
    """The snapshot's name in the words of :func:`_remove`. It begins with a collection's name, which may hold anything."""
    return what.removeprefix("Remove the snapshot ").rpartition(" on ")[0]


def _words(collection: str, source: Qdrant) -> str:
    return f"Take a snapshot of {collection} on {source.name}"


def _remove(session: Session, verb: str, source: Qdrant, collection: str, name: str) -> None:
    with session.guard.act(f"{verb}.remove-snapshot", f"Remove the snapshot {name} on {source.name}"):
        source.delete_snapshot(collection, name)
