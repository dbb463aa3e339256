"""Settings, payload indexes and aliases of a collection, brought over as the state they led to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cutover.qdrant import compare, schema
from cutover.qdrant.client import Answered, Qdrant, vectors_of

#: Settings that a collection can only be given when it is there.
_READS = ("read_fan_out_factor", "read_fan_out_delay_ms")


def bring_aliases(source: Qdrant, target: Qdrant) -> dict[str, str]:
    """Make the target's aliases what the source's are now, in one request; returns them."""
    mine, theirs = source.aliases(), target.aliases()
    actions: list[dict[str, Any]] = [
        {"delete_alias": {"alias_name": a}} for a in theirs if mine.get(a) != theirs[a]
    ] + [
        {"create_alias": {"alias_name": a, "collection_name": c}} for a, c in mine.items() if theirs.get(a) != c
    ]  # fmt: skip
    if actions:
        # What was made only a moment ago, or is gone by now, is for the next round.
        there = set(target.collections())
        actions = [one for one in actions if one.get("create_alias", {}).get("collection_name") in {None, *there}]
    if actions:
        target.change_aliases(actions)
    return mine


def make_alike(mine: Mapping[str, Any], shards: Sequence[int], target: Qdrant, name: str) -> str:
    """Make a collection on the target, without records, with the settings and payload indexes of ``mine`` and with these shards.

    Returns why that is not possible, in words without a full stop; empty where it was. Then something may be there, and is of
    no use.
    """
    try:
        target.create_collection(name, creation_of(mine["config"]))
        for field, index in schema.indexes(mine).items():
            target.create_index(name, field, index_schema(index))
        left = _give_settings(mine, target, name)
    except Answered as error:
        if error.status >= 500:
            raise
        return error.reason
    if left:
        return f"Qdrant does not give it these settings ({left})"
    return "" if target.shards(name) == list(shards) else "Qdrant gives it other shards"


def bring_settings(source: Qdrant, target: Qdrant, name: str) -> str:
    """Give a collection of the target the settings and payload indexes it has on the source. Raises NotThere.

    Returns why that is not possible, in words without a full stop; empty where it was.
    """
    left = _give_settings(source.info(name), target, name)
    return f"settings of {name} were changed ({left})" if left else ""


def _give_settings(mine: Mapping[str, Any], target: Qdrant, name: str) -> str:
    """Returns what could not be made the same, in words; where it is nothing, payload indexes are the same as well."""
    theirs = target.info(name)
    if mine["config"] != theirs["config"]:
        with suppress(Answered):
            target.patch(name, patch_for(mine["config"], theirs["config"]))
        theirs = target.info(name)
        left = schema.compare_schemas(_only(name, mine), _only(name, theirs))
        if left := [d for d in left if d.kind == "setting"]:
            return compare.summary(left, 2)
    wanted, others = schema.indexes(mine), schema.indexes(theirs)
    for field in sorted({*wanted, *others}):
        if wanted.get(field) == others.get(field):
            continue
        if field in others:
            target.delete_index(name, field)
        if field in wanted:
            target.create_index(name, field, index_schema(wanted[field]))
    return ""


def creation_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What creates a collection with these settings but for its strict mode, which may forbid payload indexes that it has."""
    others = {k: v for k, v in config.items() if k not in {"params", "optimizer_config", "strict_mode_config"}}
    changes = {**config.get("params", {}), **others, "optimizers_config": config.get("optimizer_config")}
    return {k: v for k, v in changes.items() if v is not None}


def patch_for(config: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """A PATCH that gives a collection these settings instead of those ``there``, as far as Qdrant lets them be changed."""
    params = config.get("params", {})
    named = vectors_of(params)
    changeable = ("hnsw_config", "on_disk")
    off = "Disabled"  # what is left out stays as it was
    changes: dict[str, Any] = {
        "hnsw_config": config.get("hnsw_config"),
        "optimizers_config": {k: v for k, v in (config.get("optimizer_config") or {}).items() if v is not None},
        "quantization_config": config.get("quantization_config") or off,
        "params": {
            k: params[k]
            for k in (*_READS, "replication_factor", "write_consistency_factor", "on_disk_payload")
            if params.get(k) is not None
        },
        "vectors": {
            n: {
                "quantization_config": v.get("quantization_config") or off,
                **{k: v[k] for k in changeable if v.get(k) is not None},
            }
            for n, v in named.items()
        },
        "sparse_vectors": params.get("sparse_vectors"),
        "strict_mode_config": config.get("strict_mode_config"),
        "metadata": {**dict.fromkeys(there.get("metadata") or {}), **(config.get("metadata") or {})},
    }
    return {k: v for k, v in changes.items() if v}


def index_schema(described: Mapping[str, Any]) -> Any:
    """What creates the payload index that a collection describes: its parameters, or its type alone."""
    params = described.get("params")
    return {k: v for k, v in params.items() if v is not None} if params else described["data_type"]


def _only(name: str, info: Mapping[str, Any]) -> schema.Schema:
    return schema.Schema({name: info["config"]}, {name: schema.indexes(info)}, {})
