"""Which recorded writes can be sent together when they are sent again, so that a backlog takes minutes and not hours.

Two writes disturb each other when they name the same record of the same collection: then the later one has to come later. Writes
that name different records do not, in whatever order they arrive. So a run of writes falls into layers: each write stands in the
first layer after those of every earlier write that names one of its records. What stands in one layer names different records
throughout; it is sent in as few requests as possible, side by side. A write that looks at the state first (a filter, a condition,
an alias, a collection) is in no run: it is sent alone, when everything before it has been answered.

All of this is pure; :mod:`cutover.replication.resend` sends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from cutover.qdrant.affected import Affected, PointId
from cutover.qdrant.routes import path_of
from cutover.replication.again import Step

#: Records, and bytes, of one request. More records do not make it faster; the bytes are well below what Qdrant takes.
MOST_RECORDS, MOST_BYTES = 256, 4 << 20

#: What an operation on records is called in a batch, by its method and the rest of its path.
_IN_A_BATCH = {
    "PUT points": "upsert",
    "POST points/delete": "delete",
    "POST points/payload": "set_payload",
    "PUT points/payload": "overwrite_payload",
    "POST points/payload/delete": "delete_payload",
    "POST points/payload/clear": "clear_payload",
    "PUT points/vectors": "update_vectors",
    "POST points/vectors/delete": "delete_vectors",
}
#: Of these, two with nothing but a list of records are one with both lists.
_LISTS = frozenset({"upsert", "delete", "clear_payload", "update_vectors"})


class Named(NamedTuple):
    """A step that only names records: of which collection, and which."""

    step: Step
    collection: str
    ids: frozenset[PointId]


def named(step: Step, what: Affected, collection: str) -> Named | None:
    """The step with what it names; None where it has to be sent alone. ``what`` it does, to what is now ``collection``."""
    if step.looks or what.filters or what.whole or what.schema or what.aliases or what.refuse or not what.collection:
        return None
    return Named(step, collection, what.ids)


def layers(run: Sequence[Named]) -> list[list[Named]]:
    """The run in layers: within one no record is named twice, and the writes of a record are in the order of the run."""
    found: list[list[Named]] = []
    last: dict[tuple[str, PointId], int] = {}
    for one in run:
        keys = [(one.collection, record) for record in one.ids]
        at = max((last[key] + 1 for key in keys if key in last), default=0)
        if at == len(found):
            found.append([])
        found[at].append(one)
        last |= dict.fromkeys(keys, at)
    return found


class Request(NamedTuple):
    """A request that does what several steps do; ``steps`` in their order, for when it is refused."""

    step: Step
    steps: list[Named]


def requests_of(layer: Iterable[Named]) -> list[Request]:
    """The requests that do what a layer does, and may be sent side by side."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[list[Named]]] = {}
    room: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[int, int]] = {}
    for one in layer:
        # By name and not by collection: a request says the name that the application said.
        key = path_of(one.step.path).collection, tuple(sorted(one.step.params.items()))
        size = len(one.step.body or b"")
        records, weight = room.get(key, (0, 0))
        if key not in groups or records + len(one.ids) > MOST_RECORDS or weight + size > MOST_BYTES:
            groups.setdefault(key, []).append([])
            records, weight = 0, 0
        groups[key][-1].append(one)
        room[key] = records + len(one.ids), weight + size
    return [_request(name, dict(params), several) for (name, params), lists in groups.items() for several in lists]


def _request(name: str, params: Mapping[str, str], several: list[Named]) -> Request:
    if len(several) == 1:
        return Request(several[0].step, several)
    operations: list[tuple[str, Any]] = []
    for one in several:
        for kind, content in _operations(one.step):
            before = next((c for k, c in operations if k == kind and kind in _LISTS and _only_a_list(c)), None)
            if before is not None and _only_a_list(content):
                before["points"].extend(content["points"])
            else:
                operations.append((kind, content))
    body = json.dumps({"operations": [{k: c} for k, c in operations]}, ensure_ascii=False, separators=(",", ":")).encode()
    path = f"/collections/{quote(name, safe='')}/points/batch"
    return Request(Step("POST", path, params, body, looks=False), several)


def _operations(step: Step) -> list[tuple[str, Any]]:
    document = json.loads(step.body or b"{}")
    rest = path_of(step.path).rest
    if rest == "points/batch":
        return [(kind, content) for one in document["operations"] for kind, content in one.items()]
    return [(_IN_A_BATCH[f"{step.method} {rest}"], document)]


def _only_a_list(content: Any) -> bool:
    return isinstance(content, dict) and set(content) == {"points"} and isinstance(content["points"], list)
