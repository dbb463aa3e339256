"""Which records a filter meant: asked of the server that is being brought up to date, before anything is applied to it.

That server still has the state of the last round, and that is what makes the answer complete. Of all writes since then that
touched a record, the first one either named it, or had a filter that matches what the other server still holds; and each later
one touched a record that is known by then. So the records that match now, and those that writes named, are all that can have
changed.

Filters are asked together, because each request may mean reading a whole collection: a record is wanted that matches any of them.
Where that is refused, for one of them or for their number, they are asked in halves.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cutover.core.threads import side_by_side
from cutover.qdrant.affected import PointId
from cutover.qdrant.client import Answered, Qdrant, TooLarge
from cutover.qdrant.pages import Size, less_may_do

#: Filters in one request, and the bytes they may take.
TOGETHER, TOGETHER_BYTES = 64, 1 << 20
#: When more records match, comparing the whole collection costs no more, and takes no memory.
MOST_MATCHES = 200_000


@dataclass
class Matches:
    """The records that match any filter; and the filters that could not be asked, each with the reason."""

    ids: set[PointId] = field(default_factory=set)
    unasked: dict[str, str] = field(default_factory=dict)
    too_many: bool = False
    """More than was asked for match; ``ids`` is cut off."""


def matching(
    server: Qdrant,
    collection: str,
    filters: Sequence[str],
    size: Size,
    *,
    most: int,
    ends: float | None = None,
) -> Matches:
    """Ask ``server`` which records of a collection match the filters (JSON). ``ends``: by when (monotonic), or it is an error."""
    found, lock = Matches(), threading.Lock()

    def ask(group: Sequence[str]) -> None:
        try:
            _pages(server, collection, group, size, found, lock, most, ends)
        except (Answered, TooLarge) as error:
            if not less_may_do(error) and not (isinstance(error, Answered) and error.status in {408, 500}):
                raise
            if len(group) == 1:
                found.unasked[group[0]] = error.sentence
                return
            ask(group[: len(group) // 2])
            ask(group[len(group) // 2 :])

    side_by_side([lambda g=g: ask(g) for g in _groups(filters)], 4)
    return found


def _groups(filters: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    size = TOGETHER_BYTES
    for one in filters:
        alone = not any(json.loads(one).values())  # it matches all there is, which no union makes better
        if alone or not groups or len(groups[-1]) >= TOGETHER or size + len(one) > TOGETHER_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size = TOGETHER_BYTES if alone else size + len(one)
    return groups


def _pages(
    server: Qdrant,
    collection: str,
    group: Sequence[str],
    size: Size,
    found: Matches,
    lock: threading.Lock,
    most: int,
    ends: float | None,
) -> None:
    union: Any = json.loads(group[0]) if len(group) == 1 else {"should": [json.loads(one) for one in group]}
    offset: PointId | None = None
    while not found.too_many:
        timeout = None if ends is None else (2.0, max(0.05, ends - time.monotonic()))
        asked = size.now
        try:
            page = server.page(collection, offset, asked, payload=False, vectors=False, filter_=union, timeout=timeout)
        except (Answered, TooLarge) as error:
            if asked == 1 or not less_may_do(error) or len(group) > 1:
                raise
            size.halve(asked)
            continue
        told = json.loads(page)["result"]
        size.learn(len(told["points"]), len(page))
        with lock:
            found.ids.update(one["id"] for one in told["points"])
            found.too_many = len(found.ids) > most
        offset = told["next_page_offset"]
        if offset is None:
            return
