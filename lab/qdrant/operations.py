"""The writes of the API as operations of the engine, cut by shard.

A write is named as in `POST /collections/{c}/points/batch` (`upsert`, `delete`, `set_payload` ...). What is checked here
is refused before anything is queued, as the real server does it.
"""

from __future__ import annotations

import zlib
from typing import Any

import qdrant_edge as edge

from . import settings
from .errors import BadRequest, BodyError, FormatError, ValidationError
from .translate import (
    DISTANCES,
    check_vectors,
    filter_in,
    index_schema,
    point_id,
    point_ids,
    vectors_in,
)

Json = Any
#: One list of engine operations per shard that the write reaches.
ByShard = dict[int, list[Any]]

KINDS = (
    "upsert",
    "delete",
    "update_vectors",
    "delete_vectors",
    "set_payload",
    "overwrite_payload",
    "delete_payload",
    "clear_payload",
)


def shard_of(identifier: int | str, shards: int) -> int:
    """Which shard holds the point. The real server spreads ids over a hash ring; any even spread behaves the same."""
    return zlib.crc32(str(identifier).encode()) % shards if shards > 1 else 0


def build(kind: str, body: Json, config: settings.Config, shards: int) -> ByShard:
    """The engine operations of one write, by shard. Raises the refusal of a write that makes no sense."""
    if not isinstance(body, dict):
        raise FormatError(_SHAPELESS[kind]) if kind in _SHAPELESS else BodyError(f"invalid type: expected a {kind} request")
    try:
        return _BUILDERS[kind](body, config, shards)
    except KeyError as error:
        missing = f"missing field `{error.args[0]}`"
        raise (FormatError(missing) if kind == "upsert" else BodyError(missing)) from error
    except FormatError as error:
        if kind == "delete":
            raise FormatError(_SHAPELESS[kind]) from error
        if kind == "upsert":  # the real server looks at a point twice and then no longer knows the place
            raise FormatError(str(error)) from error
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(str(error).splitlines()[0]) from error


#: What is answered to a body that has none of the shapes of a request.
_SHAPELESS = {
    "upsert": "Invalid PointInsertOperations format",
    "delete": "data did not match any variant of untagged enum PointsSelector",
}


def _by_shard(identifiers: list[int | str], shards: int) -> dict[int, list[int | str]]:
    if shards == 1:
        return {0: identifiers}
    result: dict[int, list[int | str]] = {}
    for one in identifiers:
        result.setdefault(shard_of(one, shards), []).append(one)
    return result


def _rows(body: dict[str, Json]) -> list[tuple[Json, Json, Json]]:
    if "points" in body:
        return [(row["id"], row["vector"], row.get("payload")) for row in body["points"]]
    if "batch" not in body:
        raise FormatError(_SHAPELESS["upsert"])
    batch = body["batch"]
    identifiers, vectors, payloads = batch["ids"], batch["vectors"], batch.get("payloads") or [None] * len(batch["ids"])
    if isinstance(vectors, dict):
        names = list(vectors)
        vectors = [{name: vectors[name][at] for name in names} for at in range(len(identifiers))]
    if not len(identifiers) == len(vectors) == len(payloads):
        text = f"number of ids and vectors must be equal ({len(identifiers)} != {len(vectors)})"
        raise ValidationError(f"[batch.batch: {text}]")
    return list(zip(identifiers, vectors, payloads, strict=True))


def _upsert(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    sizes = {name: one["size"] for name, one in settings.dense(config).items()}
    rows = _rows(body)
    if not rows:
        raise BadRequest("Empty update request")
    points: dict[int, list[Any]] = {}
    for at, (raw_id, raw_vector, payload) in enumerate(rows):
        identifier = point_id(raw_id)
        vector = vectors_in(raw_vector)
        check_vectors(vector, sizes, at)
        if payload is not None and not isinstance(payload, dict):
            kind = "sequence" if isinstance(payload, list) else type(payload).__name__
            raise BodyError(f"invalid type: {kind}, expected a map")
        points.setdefault(shard_of(identifier, shards), []).append(edge.Point(identifier, vector, payload))
    condition = filter_in(body.get("update_filter"))
    mode = {
        "insert_only": edge.UpdateMode.InsertOnly,
        "update_only": edge.UpdateMode.UpdateOnly,
    }.get(body.get("update_mode") or "")
    return {
        shard: [
            edge.UpdateOperation.upsert_points(some, condition, mode)
            if condition or mode
            else edge.UpdateOperation.upsert_points(some)
        ]
        for shard, some in points.items()
    }


def _update_vectors(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    if not body["points"]:
        raise ValidationError("[points: must specify points to update]")
    points: dict[int, list[Any]] = {}
    for row in body["points"]:
        identifier = point_id(row["id"])
        vector = vectors_in(row["vector"])
        points.setdefault(shard_of(identifier, shards), []).append(edge.PointVectors(identifier, vector))
    condition = filter_in(body.get("update_filter"))
    return {shard: [edge.UpdateOperation.update_vectors(some, condition)] for shard, some in points.items()}


def _selected(body: dict[str, Json], shards: int, by_ids: Any, by_filter: Any) -> ByShard:
    """Operations on the points that a request selects: by ids (only their shards), or by filter (every shard)."""
    if body.get("points") is not None:
        identifiers = point_ids(body["points"])
        if not identifiers:
            raise BadRequest("Empty update request")
        return {shard: [by_ids(some)] for shard, some in _by_shard(identifiers, shards).items()}
    if body.get("filter") is not None:
        condition = filter_in(body["filter"])
        return {shard: [by_filter(condition)] for shard in range(shards)}
    raise FormatError("Either list of point ids or filter must be provided")


def _delete(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    make = edge.UpdateOperation
    return _selected(body, shards, make.delete_points, make.delete_points_by_filter)


def _delete_vectors(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    names: list[str] = body.get("vector") or body.get("vectors") or []
    if not names:
        raise ValidationError("[vector: must specify vector names to delete]")
    make = edge.UpdateOperation
    return _selected(
        body,
        shards,
        lambda some: make.delete_vectors(some, names),
        lambda condition: make.delete_vectors_by_filter(condition, names),
    )


def _set_payload(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    payload, key, make = body["payload"], body.get("key"), edge.UpdateOperation
    return _selected(
        body,
        shards,
        lambda some: make.set_payload(some, payload, key),
        lambda condition: make.set_payload_by_filter(condition, payload, key),
    )


def _overwrite_payload(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    payload, key, make = body["payload"], body.get("key"), edge.UpdateOperation
    return _selected(
        body,
        shards,
        lambda some: make.overwrite_payload(some, payload, key),
        lambda condition: make.overwrite_payload_by_filter(condition, payload, key),
    )


def _delete_payload(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    keys, make = body["keys"], edge.UpdateOperation
    return _selected(
        body,
        shards,
        lambda some: make.delete_payload(some, keys),
        lambda condition: make.delete_payload_by_filter(condition, keys),
    )


def _clear_payload(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    make = edge.UpdateOperation
    return _selected(body, shards, make.clear_payload, make.clear_payload_by_filter)


def _create_index(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    make, field, schema = edge.UpdateOperation, body["field_name"], index_schema(body.get("field_schema"))
    # Two operations, as the real server does it: an index of another kind goes first.
    return {shard: [make.delete_field_index(field), make.create_field_index(field, schema)] for shard in range(shards)}


def _delete_index(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    make, field = edge.UpdateOperation, body["field_name"]
    # Twice, as the real server does it (and counts it): once for the settings, once for the shard.
    return {shard: [make.delete_field_index(field), make.delete_field_index(field)] for shard in range(shards)}


def _create_vector(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    name, make = body["name"], edge.UpdateOperation
    if "dense" in body:
        one = body["dense"]
        operation = make.create_dense_vector(
            name,
            one["size"],
            DISTANCES[one["distance"]],
            settings.engine_multivector(one.get("multivector_config")),
            settings.engine_datatype(one.get("datatype")),
        )
    else:
        one = body["sparse"] or {}
        operation = make.create_sparse_vector(
            name, settings.engine_modifier(one.get("modifier")), settings.engine_datatype(one.get("datatype"))
        )
    return {shard: [operation, operation] for shard in range(shards)}  # counted twice, like an index


def _delete_vector(body: dict[str, Json], config: settings.Config, shards: int) -> ByShard:
    operation = edge.UpdateOperation.delete_vector_name(body["name"])
    return {shard: [operation, operation] for shard in range(shards)}


_BUILDERS = {
    "upsert": _upsert,
    "delete": _delete,
    "update_vectors": _update_vectors,
    "delete_vectors": _delete_vectors,
    "set_payload": _set_payload,
    "overwrite_payload": _overwrite_payload,
    "delete_payload": _delete_payload,
    "clear_payload": _clear_payload,
    "create_index": _create_index,
    "delete_index": _delete_index,
    "create_vector": _create_vector,
    "delete_vector": _delete_vector,
}
