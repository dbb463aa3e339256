"""Snapshots of collections that are needed for a moment only: journaled, and removed again whatever becomes of what they are for.

A snapshot is as large as its collection and lies on the disk of a server that is in use; the old one serves everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.errors import CutoverError, Failed

if TYPE_CHECKING:
    from cutover.qdrant import Qdrant
    from cutover.run import Run

STAYS = "snapshot.stays"


@dataclass
class Taken:
    """A snapshot of ``collection``: name, size in bytes, SHA-256 where the server says one. One that ``stays`` is not removed."""

    collection: str
    name: str
    size: int
    checksum: str | None
    stays: bool = False


@contextmanager
def taken(run: Run, verb: str, source: Qdrant, collection: str) -> Iterator[Taken]:
    """Take a snapshot for the length of a block.

    What could not be removed then, because the server or this process is gone, the next run removes (:func:`remove_left`).
    """
    known = {"collection": collection, "snapshots": [one["name"] for one in source.snapshots(collection)]}
    with run.door.act(f"{verb}.snapshot", _words(collection, source), before=known) as act:
        made = source.create_snapshot(collection)
        act.after = {"collection": collection, "snapshot": made["name"], "size": made.get("size")}
        if made["name"] not in {one["name"] for one in source.snapshots(collection)}:
            act.after = None  # whatever there is has another name
            raise Failed(
                f"{source.name.capitalize()} said that it took a snapshot of {collection}, and does not list it.",
                "Look at that server, then run the command again.",
            )
    snapshot = Taken(collection, str(made["name"]), int(made.get("size") or 0), made.get("checksum"))
    try:
        yield snapshot
    except BaseException:
        with suppress(CutoverError):  # what failed first is what has to be said
            _remove(run, verb, source, collection, snapshot.name)
        raise
    if snapshot.stays:
        run.journal.note(STAYS, f"The snapshot {snapshot.name} stays on {source.name}", snapshot=snapshot.name)
    else:
        _remove(run, verb, source, collection, snapshot.name)


def remove_left(run: Run, verb: str, source: Qdrant, *, stayed: bool = False) -> None:
    """Remove the snapshots that an interrupted run left on a server; what may be another's is only named.

    ``stayed``: also those that were to stay, by who takes them anew.
    """
    entries = run.journal.entries()
    ends = {e.of: e for e in entries if e.of is not None}
    gone = {e.what.split()[3] for e in entries if e.kind == "done" and e.act.endswith(".remove-snapshot")}
    gone |= set() if stayed else {e.extra["snapshot"] for e in entries if e.act == STAYS}
    ours: dict[str, str] = {}  # by name
    unsure: list[tuple[str, set[str]]] = []  # the collection, and what there was before
    for intent in entries:
        if intent.kind != "intent" or not intent.act.endswith(".snapshot") or "snapshots" not in (intent.before or {}):
            continue
        collection, end = intent.before["collection"], ends.get(intent.seq)
        if intent.what != _words(collection, source):
            continue  # of the other server
        if end is not None and end.after:
            ours[end.after["snapshot"]] = collection
        else:
            unsure.append((collection, set(intent.before["snapshots"])))
    left = {name: collection for name, collection in ours.items() if name not in gone}
    if not left and not unsure:
        return
    there = {
        collection: {one["name"] for one in source.snapshots(collection)}
        for collection in source.collections()
        if collection in {*left.values(), *(name for name, _ in unsure)}
    }
    for name, collection in left.items():
        if name in there.get(collection, ()):
            _remove(run, verb, source, collection, name)
    for collection, before in unsure:
        if new := sorted(there.get(collection, set()) - before - gone - set(ours)):
            run.voice.say(
                f"A command was interrupted while it took a snapshot of {collection}. If nobody else made these on "
                f"{source.name}, they can be deleted: {', '.join(new)}."
            )


def _words(collection: str, source: Qdrant) -> str:
    return f"Take a snapshot of {collection} on {source.name}"


def _remove(run: Run, verb: str, source: Qdrant, collection: str, name: str) -> None:
    with run.door.act(f"{verb}.remove-snapshot", f"Remove the snapshot {name} on {source.name}"):
        source.delete_snapshot(collection, name)
