"""What a server holds besides records, settings, payload indexes and aliases, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutover.core.threads import side_by_side
from cutover.qdrant.client import NotThere, Qdrant
from cutover.qdrant.compare import Difference


@dataclass(frozen=True)
class Schema:
    """Everything a server holds besides records: settings and indexes per collection, and aliases."""

    config: Mapping[str, Mapping[str, Any]]
    indexes: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, str]


def schema_of(server: Qdrant, only: Sequence[str] | None = None, *, aliases: bool = True) -> Schema:
    """Read the schema of a server, or of some collections. One that is deleted meanwhile is left out."""

    def one(name: str) -> dict[str, Any] | None:
        try:
            return server.info(name)
        except NotThere:
            return None

    names = server.collections() if only is None else only
    *infos, found = side_by_side([*(lambda n=n: one(n) for n in names), server.aliases if aliases else dict])
    there = {name: info for name, info in zip(names, infos, strict=True) if info is not None}
    return Schema(
        config={name: info["config"] for name, info in there.items()},
        indexes={name: indexes(info) for name, info in there.items()},
        aliases=found,
    )


def indexes(info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A collection's payload indexes by field, with type and parameters; the number of points in one is an estimate."""
    found = info.get("payload_schema") or {}
    return {field: {k: v for k, v in one.items() if k != "points"} for field, one in found.items()}


def compare_names(
    mine: Sequence[str], my_aliases: Mapping[str, str], theirs: Sequence[str], their_aliases: Mapping[str, str]
) -> list[Difference]:
    """How the collections and aliases of two servers differ, by their names alone. Pure."""
    nothing: dict[str, dict[str, Any]] = {name: {} for name in {*mine, *theirs}}
    schemas = (({n: nothing[n] for n in names}, aliases) for names, aliases in ((mine, my_aliases), (theirs, their_aliases)))
    return compare_schemas(*(Schema(names, names, aliases) for names, aliases in schemas))


def compare_schemas(mine: Schema, theirs: Schema) -> list[Difference]:
    """How the schema of the server that was copied (``theirs``) differs from the one copied from. Pure."""
    found: list[Difference] = []
    for name in sorted({*mine.config, *theirs.config}):
        if name not in theirs.config:
            found.append(Difference("collection", "", name, "it is missing"))
        elif name not in mine.config:
            found.append(Difference("collection", "", name, "it is there in excess"))
        else:
            found += _settings(name, "", mine.config[name], theirs.config[name])
            for index in sorted({*mine.indexes[name], *theirs.indexes[name]}):
                left, right = mine.indexes[name].get(index), theirs.indexes[name].get(index)
                if left != right:
                    detail = "it is missing" if right is None else "it is there in excess" if left is None else ""
                    found.append(Difference("index", name, index, detail or f"{left} and {right}"))
    for alias in sorted({*mine.aliases, *theirs.aliases}):
        left_alias, right_alias = mine.aliases.get(alias), theirs.aliases.get(alias)
        if left_alias != right_alias:
            detail = f"{left_alias or 'nothing'} and {right_alias or 'nothing'}"
            found.append(Difference("alias", "", alias, detail))
    return found


def _settings(collection: str, path: str, mine: Any, theirs: Any) -> list[Difference]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        found: list[Difference] = []
        for key in sorted({*mine, *theirs}):
            found += _settings(collection, f"{path}.{key}".lstrip("."), mine.get(key), theirs.get(key))
        return found
    if mine != theirs or type(mine) is not type(theirs):
        return [Difference("setting", collection, path, f"{mine} and {theirs}")]
    return []
