"""Snapshots that are needed for a moment only, of collections or single shards: journaled, and removed again whatever happens.

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
    """A snapshot of ``collection``, or of one ``shard`` of it: name, size in bytes, SHA-256 where the server says one. One that
    ``stays`` is not removed.
    """

    collection: str
    shard: int | None
    name: str
    size: int
    checksum: str | None
    stays: bool = False

    def __str__(self) -> str:
        return _of(self.collection, self.shard)


@contextmanager
def taken(session: Session, verb: str, source: Qdrant, collection: str, shard: int | None = None) -> Iterator[Taken]:
    """Take a snapshot for the length of a block.

    What could not be removed then, because the server or this process is gone, the next command removes that looks for
    such (:func:`remove_left`).
    """
    there = sorted(source.snapshot_names(collection, shard))
    known = {"collection": collection, "shard": shard, "snapshots": there}

    def take() -> dict[str, Any] | Not:
        # Qdrant names them by the second: a second one in the same takes the place of the first, which may be another's.
        made = source.create_snapshot(collection, shard)
        return Not(f"{made['name']} was there before") if made["name"] in there else made

    with session.guard.act(f"{verb}.snapshot", _words(collection, source, shard), before=known) as act:
        made = wait_until(take, deadline=5, what=f"A snapshot of {_of(collection, shard)} on {source.name}", every=1.0)
        name = made["name"]
        act.after = {"collection": collection, "snapshot": name, "size": made.get("size")}
        if name not in source.snapshot_names(collection, shard):
            act.after["snapshot"] = None  # it has another name, or there is none
            raise Failed(
                f"{source.name.capitalize()} said that it took a snapshot of {_of(collection, shard)}, and does not list it.",
                "Look at that server, then run the command again.",
            )
    snapshot = Taken(collection, shard, name, int(made.get("size") or 0), made.get("checksum"))
    try:
        yield snapshot
    except BaseException:
        with suppress(CutoverError):  # what failed first is what has to be said
            _remove(session, verb, source, collection, shard, name)
        raise
    if snapshot.stays:
        session.journal.note(STAYS, f"The snapshot {name} stays on {source.name}", snapshot=name)
    else:
        _remove(session, verb, source, collection, shard, name)


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
    ours: dict[str, tuple[str, int | None, int, object]] = {}  # by name: the collection, the shard, when, and its size
    unsure: dict[int, tuple[str, int | None, set[str]]] = {}  # by intent: the collection, the shard, and what there was before
    for intent in entries:
        if intent.kind != "intent" or not intent.act.endswith(".snapshot") or "snapshots" not in (intent.before or {}):
            continue
        collection, shard, end = intent.before["collection"], intent.before.get("shard"), ends.get(intent.seq)
        if intent.what != _words(collection, source, shard):
            continue  # of the other server
        if end is not None and (name := (end.after or {}).get("snapshot")):
            ours[name] = collection, shard, end.seq, end.after.get("size")
        elif intent.seq not in named and (end is None or end.kind == "unknown" or end.after):
            unsure[intent.seq] = collection, shard, set(intent.before["snapshots"])
    for name, (collection, shard, taken_at, size) in ours.items():
        if name in staying or done.get(name, 0) >= taken_at:
            continue
        # The name says which second it was taken in, and so may be another's: the journal is of before, or was edited.
        if (name, size) in source.snapshot_sizes(collection, shard).items():
            _remove(session, verb, source, collection, shard, name)
    for seq, (collection, shard, before) in unsure.items():
        # A name comes again within a second, so what is known of one counts only where it is of later than this intent.
        known = {one for one, removed_at in done.items() if removed_at > seq} | {one for one, own in ours.items() if own[2] > seq}
        new = ", ".join(sorted(source.snapshot_names(collection, shard) - before - staying - known))
        said = (
            f"A snapshot of {_of(collection, shard)} was begun, and nobody knows whether it is there. "
            f"If nobody else made these on {source.name}, they can be deleted: {new}."
        )
        if new:
            session.ui.say(said)
            session.journal.note(NAMED, said, of=seq)


def _removed(what: str) -> str:
    """The snapshot's name in the words of :func:`_remove`. It begins with a collection's name, which may hold anything."""
    return what.removeprefix("Remove the snapshot ").rpartition(" on ")[0]


def _of(collection: str, shard: int | None) -> str:
    return collection if shard is None else f"shard {shard} of {collection}"


def _words(collection: str, source: Qdrant, shard: int | None = None) -> str:
    return f"Take a snapshot of {_of(collection, shard)} on {source.name}"


def _remove(session: Session, verb: str, source: Qdrant, collection: str, shard: int | None, name: str) -> None:
    with session.guard.act(f"{verb}.remove-snapshot", f"Remove the snapshot {name} on {source.name}"):
        source.delete_snapshot(collection, name, shard)
