"""Writes that reach the server left behind after the traffic moved, because they were sent long before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cutover.core import files
from cutover.gate.write_log import BEGIN_ANEW
from cutover.qdrant import records
from cutover.qdrant.affected import PointId
from cutover.qdrant.client import NotThere, Qdrant, points_of
from cutover.qdrant.pages import Size
from cutover.replication.position import CannotFollow, Position
from cutover.replication.work import Work

#: In the state folder: writes that reached the server left behind, one a line.
LATE_WRITES = "late-writes.jsonl"


def bring_late(
    source: Qdrant,
    target: Qdrant,
    position: Position,
    late: Work,
    work: Work,
    *,
    folder: Path,
    size_of: Callable[[str], Size],
    say: Callable[[str], None],
) -> int:
    """Bring over what the target (left behind) received after the switch: acknowledged to somebody, so not to be lost.

    Both versions of every such record are kept in ``late-writes.jsonl``. A record that was not written on the serving
    server since the switch gets the late version; one that was is a conflict: the newer server's version stands.
    """
    if late.filters or late.whole or late.schema or late.aliases:
        raise CannotFollow(
            f"After the switch {target.name} was changed in a way that names no records: {'; '.join(late.reasons)}.",
            f"{source.name.capitalize()} serves. {BEGIN_ANEW}",
        )
    kept = folder / LATE_WRITES
    count = 0
    target.barrier(late.ids)
    for name, ids in late.ids.items():
        here, there = _by_id(source, name, ids), _by_id(target, name, ids)
        now_written = {*position.moved.get(name, []), *work.ids.get(name, set())}
        differing = [one for one in ids if here.get(one) != there.get(one)]
        unsure = position.moved_overflow or name in work.whole or name in work.filters
        clash = [o for o in differing if o in now_written or unsure]
        mine, theirs = source.name, target.name
        keep_lines(
            kept,
            [{"collection": name, "id": o, "conflict": o in clash, mine: here.get(o), theirs: there.get(o)} for o in differing],
        )
        theirs_now = [one for one in differing if one not in clash]
        records.bring(target, source, name, theirs_now, size_of(name))
        work.ids.setdefault(name, set()).update(clash)
        position.proofs.wrote(name, ids)
        position.conflicts += len(clash)
        count += len(differing)
        if differing:
            say(
                f"{len(differing)} late writes to {target.name} were brought over"
                + (f", {len(clash)} of them conflict with newer ones: both versions are in {kept}" if clash else "")
                + "."
            )
    position.late += count
    return count


def _by_id(server: Qdrant, collection: str, ids: Iterable[PointId]) -> dict[PointId, Any]:
    chosen = list(ids)
    found: dict[PointId, Any] = {}
    for i in range(0, len(chosen), 500):
        with suppress(NotThere):
            found |= {r["id"]: r for r in points_of(server.records(collection, chosen[i : i + 500]))}
    return found


def keep_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file for people; on the disk when this returns. Without lines there is no file."""
    if not lines:
        return
    files.private_folder(path.parent)
    files.append(path, "".join(json.dumps(line) + "\n" for line in lines))
