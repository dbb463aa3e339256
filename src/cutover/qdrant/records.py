"""Bringing records from one server to the other, as they are now, and naming those that cannot be brought so.

A record is read and written back whole. Where that is refused it is tried in smaller company, then alone, then in parts:
vectors first, payload a few fields at a time, because Qdrant bounds the size of a request and not that of a record. What REST
cannot carry at all is a vector with a number that JSON has no word for (Inf, NaN). Of such a record the payload can still be
brought where the other server has the vector already; else it is named, and only a snapshot of its collection brings it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from cutover.core.errors import OutcomeUnknown
from cutover.qdrant import half
from cutover.qdrant.affected import PointId
from cutover.qdrant.client import Answered, NotThere, Qdrant, points_of
from cutover.qdrant.pages import Size, broken, in_pieces, less_may_do

#: Bytes of a request that carries a part of a record.
PART = 8 * 1024 * 1024
#: A smaller record is not refused for its size.
LARGE = 1024 * 1024
NO_NUMBER = "its vector holds a number that JSON cannot carry (Inf or NaN)"
NOT_AS_STORED = "its vector is stored in half precision and would come out a step off"
#: Neither can such a record be recovered from a snapshot (seen on 1.18.3).
UNREADABLE = "the server itself cannot read its payload"
#: More records that a server cannot read are no matter of records.
MOST_UNREADABLE = 100
#: How Qdrant refuses a body that is nested too deeply; a payload alone is nested less than in its record.
_TOO_DEEP = "recursion limit"


class Left(NamedTuple):
    """A record that could not be brought, and why."""

    id: PointId
    why: str


def bring(
    source: Qdrant,
    target: Qdrant,
    collection: str,
    ids: Iterable[PointId],
    size: Size,
    *,
    go_on: Callable[[], object] = lambda: None,
) -> list[Left]:
    """Write the records ``ids`` to the target as they are on the source now; delete those that are not there.

    Returns those that it does not take; of them it keeps what it had. ``go_on`` is called before each piece, and may raise.
    A collection that is deleted meanwhile is no error: the log will say so.
    """
    left: dict[PointId, str] = {}
    lock = threading.Lock()

    def piece(part: list[PointId]) -> None:
        go_on()
        try:
            try:
                answer = source.records(collection, part)
            except Answered as error:
                if len(part) > 1 or not broken(error) or len(left) >= MOST_UNREADABLE:
                    raise
                with lock:
                    left[part[0]] = f"{UNREADABLE}: {' '.join(error.reason.split())}"
                return
            found = points_of(answer)
            size.learn(len(found), len(answer))
            # First what goes: a collection may be allowed so many records and no more.
            target.delete(collection, set(part) - {record["id"] for record in found})
            refused = write(target, collection, found, size.limits.halves)
        except NotThere:
            return
        with lock:
            left.update(refused)

    chosen = list(ids)
    in_pieces(chosen, size, piece)
    if left and len(left) < len(chosen):
        # A limit on the whole collection may have stood in the way of one piece until another had deleted.
        again, left = list(left), {}
        in_pieces(again, size, piece)
    return [Left(*one) for one in left.items()]


def write(
    target: Qdrant, collection: str, records: Iterable[Mapping[str, Any]], halves: Collection[str] = ()
) -> dict[PointId, str]:
    """Write records as Qdrant answered them. Returns those that were not written, with the reason.

    ``halves``: names of vectors that are stored in half precision with cosine distance.
    """
    sayable, refused = [], dict[PointId, str]()
    for record in records:
        if sayable_in_json(record.get("vector")):
            written = as_written(record)
            if halves and not _restore(written, halves):
                refused[record["id"]] = NOT_AS_STORED
            else:
                sayable.append(written)
        elif why := _payload_alone(target, collection, record):
            refused[record["id"]] = why
    return refused | _upsert(target, collection, sayable)


def as_written(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as Qdrant answers it, in the form in which it is written; an absent payload or vector is written as empty."""
    return {"id": record["id"], "payload": record.get("payload") or {}, "vector": record.get("vector") or {}}


def _restore(record: dict[str, Any], halves: Collection[str]) -> bool:
    """Put the vectors ``halves`` into the form in which they come out as they are; whether that is possible."""
    vector = record["vector"]
    several = vector if isinstance(vector, dict) else {"": vector}
    found = {name: half.restored(of_name) for name, of_name in several.items() if name in halves and of_name}
    record["vector"] = several | found if isinstance(vector, dict) else found.get("", vector)
    return None not in found.values()


def sayable_in_json(vector: Any) -> bool:
    """Whether every number of a vector is one. Qdrant answers Inf and NaN as null."""
    if isinstance(vector, dict):
        return all(map(sayable_in_json, vector.values()))
    if isinstance(vector, list):
        if vector and isinstance(vector[0], list):
            return all(map(sayable_in_json, vector))
        return None not in vector and all(map(math.isfinite, vector))
    return True


def _payload_alone(target: Qdrant, collection: str, record: Mapping[str, Any]) -> str:
    """Bring the payload of a record whose vector cannot be said, where the target has that vector; why not, otherwise."""
    there = points_of(target.records(collection, [record["id"]]))
    if not there or json.dumps(there[0].get("vector"), sort_keys=True) != json.dumps(record.get("vector"), sort_keys=True):
        return NO_NUMBER
    try:
        return _payload(target, collection, record["id"], record.get("payload") or {})
    except Answered as error:
        if not less_may_do(error):
            raise
        return error.reason


def _upsert(target: Qdrant, collection: str, records: list[dict[str, Any]]) -> dict[PointId, str]:
    if not records:
        return {}
    alone = len(records) == 1
    try:
        target.upsert(collection, records)
        return {}
    except (Answered, OutcomeUnknown) as error:
        large = len(json.dumps(records[0], ensure_ascii=False).encode()) > LARGE if alone else True
        large = large or _TOO_DEEP in _reason(error)
        # A server may also close the connection while a body comes that is larger than it takes.
        if isinstance(error, NotThere) or not (less_may_do(error) or (isinstance(error, OutcomeUnknown) and large)):
            raise
        if not alone:
            half = len(records) // 2
            return _upsert(target, collection, records[:half]) | _upsert(target, collection, records[half:])
        if not large:
            return {records[0]["id"]: _reason(error)}
        why = _in_parts(target, collection, records[0])
        return {records[0]["id"]: why} if why else {}


def _reason(error: Answered | OutcomeUnknown) -> str:
    return (error.reason if isinstance(error, Answered) else error.sentence).rstrip(".")


def _in_parts(target: Qdrant, collection: str, record: Mapping[str, Any]) -> str:
    """Write one large record in several requests; why that is refused, or nothing. The target serves nobody meanwhile."""
    one, vector = record["id"], record["vector"]
    try:
        if isinstance(vector, dict):
            target.upsert(collection, [{"id": one, "vector": {}, "payload": {}}])
            for name, of_name in vector.items():
                target.update_vectors(collection, [{"id": one, "vector": {name: of_name}}])
        else:
            target.upsert(collection, [{"id": one, "vector": vector, "payload": {}}])
        return _payload(target, collection, one, record["payload"])
    except (Answered, OutcomeUnknown) as error:
        if isinstance(error, Answered) and not less_may_do(error):
            raise
        return f"the server does not take it in parts either: {_reason(error)}"


def _payload(target: Qdrant, collection: str, one: PointId, payload: Mapping[str, Any]) -> str:
    """Make this the payload of a record that is there, a few fields at a time; why it cannot be, or nothing."""
    parts: list[dict[str, Any]] = [{}]
    weight = 0
    for key, value in payload.items():
        size = len(json.dumps([key, value], ensure_ascii=False).encode())
        if parts[-1] and weight + size > PART:
            parts.append({})
            weight = 0
        parts[-1][key] = value
        weight += size
    target.overwrite_payload(collection, one, parts[0])
    for part in parts[1:]:
        target.set_payload(collection, one, part)
    return ""


def unsayable(answer: bytes) -> list[PointId]:
    """The records in an answer whose vector holds a number that JSON cannot carry."""
    if not any(_in_a_list(answer, word) for word in (b"null", b"NaN", b"Infinity")):
        return []
    return [record["id"] for record in points_of(answer) if not sayable_in_json(record.get("vector"))]


def _in_a_list(answer: bytes, word: bytes) -> bool:
    """Whether the word may stand in a list, as a vector is one. ``"field":null`` is common in payloads, and no reason to take
    millions of records apart.
    """
    # Looking for one byte is many times as fast as looking for a word, and this is most of what a proof costs the tool.
    if word[:1] not in answer:
        return False
    at = answer.find(word)
    while at >= 0:
        if answer[max(0, at - 2) : at].rstrip()[-1:] in {b",", b"[", b"-"}:
            return True
        at = answer.find(word, at + len(word))
    return False
