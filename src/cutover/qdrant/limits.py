"""What cannot be moved safely, and why; and what makes two servers alike. Pure: facts in, sentences out.

Said before anything starts, because each of these would otherwise end in data that silently differs: custom shards are restored
empty through the interface of Qdrant 1.18, some storage formats lose bits in a round trip, and gRPC writes cannot be recorded by
Nginx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutover.qdrant.client import vectors_of

#: Ways of storing vectors that survive being read and written back, bit by bit (measured).
_EXACT = {None, "float32", "float16", "uint8"}
#: Indexes of sparse vectors that score the same whatever order and segments they were built in (measured on 1.18.3, 60 searches:
#: with uint8 every one scored otherwise, and 9 ranked otherwise). The records themselves survive with all of them.
_SAME_SCORES = {None, "float32", "float16"}
#: Bytes of a collection's name: with them its snapshot's file, NAME-PEER-TIME.snapshot.checksum, has a name a disk takes.
LONGEST_NAME = 195


def reasons_against(name: str, info: Mapping[str, Any], shard_keys: Sequence[Any] = ()) -> list[str]:
    """Why this collection cannot be moved; empty when it can."""
    params = info["config"]["params"]
    found = []
    if (size := len(name.encode())) > LONGEST_NAME:
        found.append(f"the name {name} is {size} bytes long, and the file of its snapshot would have a name longer than 255")
    if params.get("sharding_method") not in (None, "auto") or shard_keys:
        found.append(f"{name} has custom shards, which Qdrant restores empty from a snapshot")
    for vector, one in vectors_of(params).items():
        which = f"vector {vector} of {name}" if vector else f"{name}"
        kind = one.get("datatype")
        if kind not in _EXACT:
            found.append(f"{which} is stored as {kind}, which does not survive being read and written back")
    for vector, one in (params.get("sparse_vectors") or {}).items():
        kind = ((one or {}).get("index") or {}).get("datatype")
        if kind not in _SAME_SCORES:
            why = "so that what it scores depends on how its index was built, and both servers would answer otherwise"
            found.append(f"sparse vector {vector} of {name} is indexed as {kind}, {why}")
    return found


def bytes_needed(info: Mapping[str, Any], count: int, payload: float) -> int:
    """About how many bytes a collection of ``count`` records takes on disk while it is being recovered. Generous.

    Vectors, their links in the search index, ``payload`` bytes a record; twice, because segments are rewritten.
    """
    params = info["config"]["params"]
    width = {"float16": 2, "uint8": 1}
    size = 300.0 + payload + 1000 * len(params.get("sparse_vectors") or {})
    for one in vectors_of(params).values():
        size += int(one["size"]) * width.get(one.get("datatype") or "", 4) * (8 if one.get("multivector_config") else 1)
    return int(2 * count * size)


#: What a server fills in where a collection left something open. Both must fill in the same.
def defaults_differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two servers' telemetry shows them configured differently (seen with details_level 3, where they show it)."""
    mine, theirs = _settings(old), _settings(new)
    return [
        f"{key}: {mine.get(key)} and {theirs.get(key)}" for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)
    ]


def _settings(telemetry: Mapping[str, Any]) -> dict[str, Any]:
    app = telemetry.get("app", {})
    found = {f"features.{k}": v for k, v in (app.get("features") or {}).items()}
    found["jwt_rbac"] = app.get("jwt_rbac")
    found["distributed"] = (telemetry.get("cluster") or {}).get("enabled")
    return found
