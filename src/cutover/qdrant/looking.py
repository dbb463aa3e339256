"""Looking at the records of one server: the first ones, or all of them for such as a request cannot carry."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from cutover.qdrant.affected import PointId
from cutover.qdrant.client import MAX_BODY, Answered, NotThere, Qdrant, TooLarge
from cutover.qdrant.compare import MOST, readable, records_in
from cutover.qdrant.pages import Limits, Size, broken, parts_may_do
from cutover.qdrant.records import unsayable


def some(server: Qdrant, collection: str, how_many: int) -> bytes:
    """The first records of a collection without their vectors, fewer where its strict mode does not allow so many."""
    while True:
        try:
            return server.page(collection, None, how_many, vectors=False)
        except (Answered, TooLarge) as error:
            if isinstance(error, NotThere) or not parts_may_do(error):
                raise
            if how_many == 1 and not broken(error):
                raise
            if how_many == 1:
                return server.page(collection, None, 1, payload=False, vectors=False)
            how_many //= 2


@dataclass
class Looked:
    """What was seen of a collection's records: how many, whether that were all, and those that are not written like others."""

    records: int = 0
    whole: bool = False
    unsayable: list[PointId] = field(default_factory=list)
    unreadable: list[PointId] = field(default_factory=list)
    large: list[PointId] = field(default_factory=list)


def look_through(server: Qdrant, collection: str, end: float) -> Looked:
    """Look through all records until ``end`` (monotonic) for such as JSON, or a single request, does not carry."""
    found, size, cursor = Looked(), Size(MOST, Limits.of(server.info(collection))), None
    while time.monotonic() < end:
        asked = size.now
        try:
            page = server.page(collection, cursor, asked)
        except (Answered, TooLarge) as error:
            if isinstance(error, NotThere) or not parts_may_do(error) or (asked == 1 and not broken(error)):
                raise
            if asked > 1:
                size.halve(asked)
                continue
            page = server.page(collection, cursor, 1, payload=False)
            here = [r["id"] for r in records_in(page, exact=False)[0]]
            found.unreadable += [one for one in here if not readable(server, collection, one)]
        records, cursor = records_in(page, exact=False)
        size.learn(len(records), len(page))
        found.records += len(records)
        found.unsayable += unsayable(page)
        if len(page) > MAX_BODY:
            found.large += [r["id"] for r in records if len(json.dumps(r, ensure_ascii=False).encode()) > MAX_BODY]
        if cursor is None:
            found.whole = True
            break
    return found
