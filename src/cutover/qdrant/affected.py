"""Which records a recorded write may have changed.

Nginx records every write: its method, its address and its body. To bring the other server up to date the tool does
not repeat those writes; it only needs to know *which records* they named, and reads those as they are now. This module
is that question, answered for every write operation Qdrant has. It is generous by design: a record too many costs a
moment, a record too few would be a lost write. Where a write chooses its records by a filter, the answer is that
filter, which :mod:`cutover.qdrant.matching` asks the other server; where it cannot be understood, the answer is "compare the
whole collection"; where it changes something this tool does not follow, the answer is a reason to refuse the move. It
never answers "nothing" for something it did not understand.
"""

from __future__ import annotations

import json
import re
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from cutover.qdrant.routes import is_read, leaves_data_alone, path_of

PointId = int | str

MAX_U64 = 2**64 - 1
#: More than that is not unpacked; Qdrant itself takes 32 MB unless it was told otherwise.
UNPACKED_MOST = 64 << 20

#: Refused by the server in front of what would have been done: who asks, in what form, and how much of it.
IN_FRONT = frozenset({401, 405, 411, 413, 415})
#: Refused before anything was done where a request is one step; of several, those before may be done.
_IN_ONE_STEP = frozenset({403, 429})


#: What changes the server itself, in the releases that are known. Elsewhere there is nothing that could have happened.
_CHANGES_THE_SERVER = re.compile(r"^/(cluster|locks|snapshots|quota|storage)(/|$)|^/collections/[^/]+/(cluster|shards)(/|$)")


class Depth(IntEnum):
    """How much of a whole collection has to be compared after a write whose records are not known."""

    NOTHING = 0
    IDS = 1
    """Records may be gone (a delete by filter): comparing the ids finds them."""
    PAYLOAD = 2
    """Payloads may have changed: ids and payloads are compared, vectors are not read."""
    EVERYTHING = 3


class Chosen(NamedTuple):
    """A filter by which a write chose its records: JSON in one form, so that equal filters are equal text."""

    filter: str
    depth: Depth
    """How deep the whole collection has to be compared where the filter cannot be asked."""


@dataclass(frozen=True)
class Affected:
    """What one write may have changed.

    ``collection`` is the name in the request's path, which may be an alias. ``filters`` chose records besides ``ids``;
    ``whole`` says how deep the whole collection must be compared because neither is known. ``schema`` marks a change of
    settings, indexes, named vectors, or of the collection as such; ``aliases`` a change of aliases. ``refuse`` is a reason,
    in words, why the move cannot go on by following.
    """

    collection: str = ""
    ids: frozenset[PointId] = field(default_factory=frozenset)
    filters: tuple[Chosen, ...] = ()
    whole: Depth = Depth.NOTHING
    schema: bool = False
    aliases: bool = False
    in_steps: bool = False
    """Qdrant does this in several steps, and one that it refuses leaves those before it done."""
    refuse: str = ""
    why: str = ""

    @property
    def nothing(self) -> bool:
        return not (self.ids or self.filters or self.whole or self.schema or self.aliases or self.refuse)


class NotUnderstood(ValueError):
    """The body is not one of the forms Qdrant accepts for this operation."""


def point_id(value: Any) -> PointId:
    """A point id in the form Qdrant returns it: an unsigned 64-bit number or a lower-case hyphenated UUID.

    Qdrant accepts UUIDs in several spellings (upper case, no hyphens, ``urn:uuid:``) and stores one.
    """
    if isinstance(value, bool):
        raise NotUnderstood(f"{value!r} is not a point id")
    if isinstance(value, int) and 0 <= value <= MAX_U64:
        return value
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise NotUnderstood(f"{value!r} is not a point id")


def affected_by(method: str, uri: str, body: bytes) -> Affected:
    """What the write ``method uri`` with this body may have changed. Pure; never raises for odd input."""
    if is_read(method, uri) or leaves_data_alone(method, uri):
        return Affected()
    path, verb = path_of(uri), method.upper()
    if path.text == "/collections/aliases" and verb == "POST":
        return Affected(aliases=True, in_steps=True, why="aliases were changed")
    name = path.collection
    if not name:
        return Affected(refuse=f"{verb} {path.text} changes the server itself, which is not followed")
    operation = f"{verb} {path.rest}" if path.rest else verb
    if operation in _POINT_OPERATIONS:
        return _points(name, operation, body)
    if operation in {"PUT", "DELETE"}:
        what = "created" if verb == "PUT" else "deleted"
        return Affected(name, whole=Depth.EVERYTHING, schema=True, aliases=True, why=f"collection {name} was {what}")
    if operation == "PATCH":
        return Affected(name, schema=True, in_steps=True, why=f"settings of {name} were changed")
    if verb in {"PUT", "DELETE"} and path.rest.split("/")[0] == "index":
        return Affected(name, schema=True, why=f"payload indexes of {name} were changed")
    if verb in {"PUT", "DELETE"} and len(path.segments) == 4 and path.segments[2] == "vectors":
        return Affected(name, whole=Depth.EVERYTHING, schema=True, why=f"named vectors of {name} were changed")
    if path.rest.endswith(("snapshots/recover", "snapshots/upload", "partial/recover", "partial/recover_from")):
        return Affected(name, whole=Depth.EVERYTHING, schema=True, why=f"{name} was restored from a snapshot")
    if path.rest == "truncate_unapplied_wal":
        return Affected(name, whole=Depth.EVERYTHING, why=f"unapplied writes of {name} were dropped")
    return Affected(name, refuse=f"{operation} on collection {name} is not an operation that can be followed")


def had_no_effect(method: str, uri: str, status: int) -> bool:
    """Whether a write can have changed nothing, as its status says; decided without its body. Pure.

    Who has no key must not decide what is read here. A route that Qdrant does not have is refused whatever the reason, as
    long as it is the client's mistake.
    """
    if is_read(method, uri) or leaves_data_alone(method, uri) or status in IN_FRONT:
        return True
    if 0 < status < 400:
        return False
    known = affected_by(method, uri, b"")
    if known.refuse and not _CHANGES_THE_SERVER.match(path_of(uri).text):
        # No route of Qdrant's, so no failure on the way there can hide that something happened: a server that is being restarted
        # (502), or one that stumbles over what was sent (500), must not let somebody without a key end the following.
        return True
    if not 400 <= status < 500:
        return False
    if known.refuse:
        return status not in {408, 499}  # these tell of a connection, not of an answer
    return refused_before(status, in_steps=known.in_steps)


def refused_before(status: int, *, in_steps: bool) -> bool:
    """Whether a status says that nothing of a write was begun, whatever it was. Pure."""
    return status in IN_FRONT or (status in _IN_ONE_STEP and not in_steps)


def _points(name: str, operation: str, body: bytes) -> Affected:
    try:
        document = json.loads(unpacked(body))
        found = _Found()
        _POINT_OPERATIONS[operation](document, found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError, EOFError, zlib.error) as error:
        why = f"a body of {operation} on {name} could not be read ({error})"[:200]
        return Affected(name, whole=Depth.EVERYTHING, in_steps=operation == "POST points/batch", why=why)
    why = f"{operation} on {name} chose its records by a filter" if found.filters else ""
    chosen = tuple(Chosen(*one) for one in found.filters.items())
    return Affected(name, frozenset(found.ids), chosen, in_steps=operation == "POST points/batch", why=why)


def unpacked(body: bytes) -> bytes:
    """Qdrant accepts compressed bodies; the recorded file holds what the client sent.

    :class:`NotUnderstood` where more than :data:`UNPACKED_MOST` comes out of it: a megabyte can mean gigabytes.
    """
    packed = body[:2] == b"\x1f\x8b" or (body[:1] == b"\x78" and len(body) > 2 and (body[0] * 256 + body[1]) % 31 == 0)
    if not packed:
        return body
    found = bytearray()
    while body:
        member = zlib.decompressobj(wbits=47)  # gzip or zlib, by its head
        found += member.decompress(body, UNPACKED_MOST + 1 - len(found))
        if len(found) > UNPACKED_MOST:
            raise NotUnderstood(f"it unpacks to more than {UNPACKED_MOST >> 20} MB")
        if not member.eof:
            raise NotUnderstood("it ends in the middle")
        body = member.unused_data
    return bytes(found)


class _Found:
    def __init__(self) -> None:
        self.ids: set[PointId] = set()
        self.filters: dict[str, Depth] = {}

    def add(self, values: Any) -> None:
        self.ids.update(point_id(value) for value in _listed(values))

    def choose(self, chosen: Any, depth: Depth) -> None:
        if not isinstance(chosen, dict):
            raise NotUnderstood("a filter was expected")
        text = json.dumps(chosen, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.filters[text] = max(self.filters.get(text, Depth.NOTHING), depth)


def _listed(values: Any) -> Iterator[Any]:
    if not isinstance(values, list):
        raise NotUnderstood("a list was expected")
    return iter(values)


def _records(document: Any, found: _Found) -> None:
    """Upsert in both forms (``points`` and column-wise ``batch``); with a condition, the ids still bound it."""
    forms = 0
    if document.get("points") is not None:
        found.add([record["id"] for record in _listed(document["points"])])
        forms += 1
    if document.get("batch") is not None:
        found.add(document["batch"]["ids"])
        forms += 1
    if not forms:
        raise NotUnderstood("neither points nor batch")


def _chosen(depth: Depth) -> Any:
    """Operations that choose records by ``points`` or by ``filter`` (or, to be safe, by both)."""

    def read(document: Any, found: _Found) -> None:
        if document.get("points") is None and document.get("filter") is None:
            raise NotUnderstood("neither points nor filter")
        if document.get("points") is not None:
            found.add(document["points"])
        if document.get("filter") is not None:
            found.choose(document["filter"], depth)

    return read


def _batch(document: Any, found: _Found) -> None:
    for operation in _listed(document["operations"]):
        for kind, content in operation.items():
            if kind not in _IN_A_BATCH:
                raise NotUnderstood(f"unknown operation {kind!r} in a batch")
            _IN_A_BATCH[kind](content, found)


_IN_A_BATCH = {
    "upsert": _records,
    "delete": _chosen(Depth.IDS),
    "set_payload": _chosen(Depth.PAYLOAD),
    "overwrite_payload": _chosen(Depth.PAYLOAD),
    "delete_payload": _chosen(Depth.PAYLOAD),
    "clear_payload": _chosen(Depth.PAYLOAD),
    "update_vectors": _records,
    "delete_vectors": _chosen(Depth.EVERYTHING),
}

_POINT_OPERATIONS = {
    "PUT points": _records,
    "POST points/delete": _IN_A_BATCH["delete"],
    "POST points/payload": _IN_A_BATCH["set_payload"],
    "PUT points/payload": _IN_A_BATCH["overwrite_payload"],
    "POST points/payload/delete": _IN_A_BATCH["delete_payload"],
    "POST points/payload/clear": _IN_A_BATCH["clear_payload"],
    "PUT points/vectors": _records,
    "POST points/vectors/delete": _IN_A_BATCH["delete_vectors"],
    "POST points/batch": _batch,
}
