"""What a recorded write is, sent again: the requests that do what it did. All of it is pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

from cutover.qdrant.affected import Affected, NotUnderstood, unpacked
from cutover.qdrant.routes import path_of

_CHOOSES = ("filter", "update_filter", "update_mode")


@dataclass(frozen=True)
class Step:
    """One request. ``looks``: what it does depends on what is there, so nothing may have come after it when it is repeated."""

    method: str
    path: str
    params: Mapping[str, str]
    body: bytes | None
    looks: bool


def steps_of(method: str, uri: str, body: bytes, found: Affected) -> list[Step]:
    """The requests that do what a recorded write did; none where it left all data alone. ``found``: what it may change. Pure.

    :class:`NotUnderstood` where the same request would not do the same again.
    """
    path, verb = path_of(uri), method.upper()
    if found.nothing:
        return []
    if found.refuse:
        raise NotUnderstood(found.refuse)
    if path.rest.startswith(("snapshots/", "shards/")) or path.rest == "truncate_unapplied_wal":
        raise NotUnderstood(f"{verb} {path.text} took what is on the new server, or on another one")
    document: Any = None
    if body:
        try:
            document = json.loads(unpacked(body))
        except (ValueError, OSError, EOFError, RecursionError, zlib.error) as error:
            raise NotUnderstood(f"the body of {verb} {path.text} cannot be read ({error})") from None
    params = {k: v for k, v in parse_qsl(uri.partition("?")[2], keep_blank_values=True) if k not in {"wait", "timeout"}}
    if path.rest:
        params["wait"] = "true"  # so that the order holds, and the answer says that it was applied
    where = "/" + "/".join(quote(one, safe="") for one in path.segments)

    def step(content: bytes | None, *, looks: bool) -> Step:
        return Step(verb, where, params, content, looks)

    if found.aliases and not found.collection:
        # One at a time: a whole list of them may not be repeated, each single one may.
        return [step(_bytes({"actions": [action]}), looks=True) for action in document["actions"]]
    if path.rest == "points/batch":
        # One at a time: where the old server refuses one, Qdrant would leave out the rest.
        return [step(_bytes({"operations": [one]}), looks=any(map(_looks, one.values()))) for one in document["operations"]]
    looks = not path.rest.startswith("points") or _looks(document)
    return [step(unpacked(body) if body else None, looks=looks)]


def _looks(content: Any) -> bool:
    return not isinstance(content, dict) or any(content.get(word) is not None for word in _CHOOSES)


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()
