"""What a request to Qdrant does: read, write points, change a schema, or neither.

Qdrant's REST interface has about a hundred routes, and the method alone does not say which of them write:
``POST /collections/docs/points`` reads records by id, ``PUT`` on the same path writes them. This table is the
single answer to "is this a write?" and "which route is this?" in the tool; Nginx's gate carries the same rule as a
regular expression. Everything that is not known to read counts as a write: holding a read for a moment is harmless,
letting a write through is not.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

_READING_POST = re.compile(
    r"^/collections/[^/]+/(points(/(scroll|count|search(/(batch|groups|matrix/(pairs|offsets)))?"
    r"|recommend(/(batch|groups))?|discover(/batch)?|query(/(batch|groups))?))?"
    r"|facet|shards/[0-9]+/points(/(scroll|count))?)$"
)

_GRPC_WRITES = frozenset(
    {
        "Points/" + name
        for name in [
            "Upsert",
            "Delete",
            "UpdateVectors",
            "DeleteVectors",
            "SetPayload",
            "OverwritePayload",
            "DeletePayload",
            "ClearPayload",
            "CreateFieldIndex",
            "DeleteFieldIndex",
            "CreateVectorName",
            "DeleteVectorName",
            "UpdateBatch",
        ]
    }
    | {
        "Collections/" + name
        for name in [
            "Create",
            "Update",
            "Delete",
            "UpdateAliases",
            "UpdateCollectionClusterSetup",
            "CreateShardKey",
            "DeleteShardKey",
        ]
    }
)

# Writes that leave every record, setting and alias as it was: files on disk, log levels, lists of advice.
_LEAVES_DATA_ALONE = re.compile(
    r"^(POST|DELETE) (/collections/[^/]+)?(/shards/[0-9]+)?/snapshots(/[^/]+)?$|^POST /logger$|^DELETE /issues$"
    r"|^PATCH /debugger$|^POST /audit/logs$|^POST /collections/[^/]+/shards/[0-9]+/snapshot/partial/create$"
)
#: How Qdrant counts what is no route of its own, and what spells a word of one with an escape.
UNKNOWN = "unknown"
_UPLOADS = re.compile(r"/snapshots/upload$")


class Path(NamedTuple):
    """A request path as Qdrant sees it: no query, no doubled or trailing slashes, percent-encoding undone."""

    segments: tuple[str, ...]

    @property
    def text(self) -> str:
        return "/" + "/".join(self.segments)

    @property
    def collection(self) -> str:
        """The collection (or alias) named in the path; empty when none is. A collection may be called `aliases`, too: only
        POST on that path means the aliases.
        """
        return self.segments[1] if len(self.segments) >= 2 and self.segments[0] == "collections" else ""

    @property
    def rest(self) -> str:
        """What follows the collection's name, for example ``points/payload``."""
        return "/".join(self.segments[2:])


def path_of(uri: str) -> Path:
    """Reads a request line's URI the way Qdrant does (it accepts doubled and trailing slashes)."""
    return Path(tuple(map(unquote, _as_sent(uri))))


def _as_sent(uri: str) -> list[str]:
    raw = uri.split("?", 1)[0].split("#", 1)[0]
    raw = re.sub(r"^[a-z]+://[^/]*", "", raw)
    return [segment for segment in raw.split("/") if segment]


def is_read(method: str, uri: str) -> bool:
    """True when the request cannot change anything on the server, however it is answered."""
    if method.upper() in {"GET", "HEAD", "OPTIONS"}:
        return True
    return method.upper() == "POST" and bool(_READING_POST.match(path_of(uri).text))


def leaves_data_alone(method: str, uri: str) -> bool:
    """True for writes that touch no record, setting or alias: snapshot files, log levels, advice lists."""
    text = path_of(uri).text
    return bool(_LEAVES_DATA_ALONE.match(f"{method.upper()} {text}")) and not _UPLOADS.search(text)


def route(method: str, uri: str) -> str:
    """The route in the form Qdrant's telemetry counts it, e.g. ``PUT /collections/{collection_name}/points``.

    It looks for the route by the address as it was sent, though it serves the one that is meant: a word with an escape in it
    counts as a name where one could stand, and else as ``unknown`` (1.18.3).
    """
    parts = _as_sent(uri)
    if parts[:1] == ["collections"] and len(parts) >= 2 and (parts[1:] != ["aliases"] or method.upper() != "POST"):
        parts[1] = "{collection_name}"
        if len(parts) == 4 and parts[2] == "points" and (method.upper() == "GET" or "%" in parts[3]):
            parts[3] = "{id}"
        if len(parts) >= 4 and parts[2] == "index":
            parts[3] = "{field_name}"
            del parts[4:]
        if len(parts) == 4 and parts[2] == "vectors":
            parts[3] = "{vector_name}"
        if len(parts) >= 4 and parts[2] == "shards" and (parts[3].isdigit() or ("%" in parts[3] and len(parts) > 4)):
            parts[3] = "{shard}"
        if parts[-2:-1] == ["snapshots"] and parts[-1] not in {"upload", "recover"}:
            parts[-1] = "{snapshot_name}"
    elif parts[:1] == ["snapshots"] and len(parts) == 2:
        parts[1] = "{snapshot_name}"
    elif parts[:3] == ["cluster", "metadata", "keys"] and len(parts) == 4:
        parts[3] = "{key}"
    elif parts[:2] == ["cluster", "peer"] and len(parts) == 3:
        parts[2] = "{peer_id}"
    if any("%" in part for part in parts):
        return f"{method.upper()} {UNKNOWN}"
    return f"{method.upper()} /{'/'.join(parts)}"


def is_grpc_write(method: str) -> bool:
    """Whether a gRPC method as telemetry names it (``/qdrant.Points/Upsert``) changes records or schema."""
    return method.rsplit("qdrant.", 1)[-1] in _GRPC_WRITES
