"""What a collection is created with: the request's words, completed by the defaults that Qdrant 1.18 reports.

A collection's settings are kept as the JSON that `GET /collections/{name}` answers, because that is what is compared,
carried in snapshots and patched. The engine's own objects are derived from it.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import qdrant_edge as edge

from .errors import BodyError, ValidationError, WrongInput
from .translate import DATATYPES, DEFAULT_VECTOR, DISTANCES

Json = Any
Config = dict[str, Json]

HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0, "on_disk": False}
OPTIMIZERS = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
    "prevent_unoptimized": None,
}
WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}


def _given(value: Json) -> dict[str, Json]:
    return {name: one for name, one in (value or {}).items() if one is not None}


def new(body: Json) -> Config:
    """The settings of a collection created with `body`."""
    if not isinstance(body, dict):
        raise BodyError("invalid type: expected struct CreateCollection")
    vectors = body.get("vectors")
    if vectors is not None:
        _check_sizes(vectors)
    if vectors is not None and not _vectors_are_good(vectors):
        raise BodyError("data did not match any variant of untagged enum VectorsConfig")
    hnsw = _given(body.get("hnsw_config"))
    if hnsw.get("ef_construct", 4) < 4:
        raise ValidationError(f"[hnsw_config.ef_construct: value {hnsw['ef_construct']} invalid, must be 4 or larger]")
    if hnsw.get("m", 0) < 0:
        raise BodyError(f"invalid value: integer `{hnsw['m']}`, expected usize")
    shards = 1 if body.get("shard_number") is None else body["shard_number"]
    if not isinstance(shards, int) or shards < 1:
        raise ValidationError(f"[shard_number: value {shards} invalid, must be 1 or larger]")
    params: dict[str, Json] = {
        "vectors": _reported(vectors or {}),
        "shard_number": shards,
        "replication_factor": body.get("replication_factor") or 1,
        "write_consistency_factor": body.get("write_consistency_factor") or 1,
        "on_disk_payload": body.get("on_disk_payload") if body.get("on_disk_payload") is not None else True,
    }
    if body.get("sharding_method"):
        params["sharding_method"] = body["sharding_method"]
    if body.get("sparse_vectors"):
        params["sparse_vectors"] = without_nulls(body["sparse_vectors"])
    wal = WAL | {"wal_capacity_mb": int(os.environ.get("QDRANT__STORAGE__WAL__WAL_CAPACITY_MB", "32"))}
    config: Config = {
        "params": params,
        "hnsw_config": HNSW | _given(body.get("hnsw_config")),
        "optimizer_config": OPTIMIZERS | _given(body.get("optimizers_config")),
        "wal_config": wal | _given(body.get("wal_config")),
        "quantization_config": body.get("quantization_config"),
    }
    for extra in ("strict_mode_config", "metadata"):
        if body.get(extra):
            config[extra] = without_nulls(body[extra]) if extra == "strict_mode_config" else body[extra]
    return config


def patched(config: Config, body: Json) -> Config:
    """The settings after `PATCH /collections/{name}` with `body`."""
    if not isinstance(body, dict):
        raise BodyError("invalid type: expected struct UpdateCollection")
    result = copy.deepcopy(config)
    result["optimizer_config"] |= _given(body.get("optimizers_config"))
    result["hnsw_config"] |= _given(body.get("hnsw_config"))
    result["params"] |= _given(body.get("params"))
    if body.get("quantization_config") is not None:
        quantization = body["quantization_config"]
        result["quantization_config"] = None if quantization == "Disabled" else quantization
    for name, change in (body.get("vectors") or {}).items():
        vectors = result["params"]["vectors"]
        target = vectors if name == DEFAULT_VECTOR and isinstance(vectors.get("size"), int) else vectors.get(name)
        if target is None:
            raise WrongInput(f"Not existing vector name error: {name}")
        _merge(target, change)
    for name, change in (body.get("sparse_vectors") or {}).items():
        one = (result["params"].get("sparse_vectors") or {}).get(name)
        if one is None:
            raise WrongInput(f"Not existing vector name error: {name}")
        _merge(one, change)
    if body.get("strict_mode_config") is not None:
        result["strict_mode_config"] = result.get("strict_mode_config", {}) | _given(body["strict_mode_config"])
    if body.get("metadata") is not None:
        result["metadata"] = without_nulls(result.get("metadata", {}) | body["metadata"])  # null takes a key out
    return result


#: Parameters of payload indexes that are reported even when they were not given.
_INDEX_DEFAULTS: dict[str, dict[str, Json]] = {
    "integer": {"lookup": None, "range": None, "is_principal": None},
    "float": {"is_principal": None},
    "datetime": {"is_principal": None},
    "text": {"tokenizer": "word"},
}


def index_params(schema: Json) -> Json:
    """A payload index as `payload_schema` and snapshots show it: its type's name, or its parameters."""
    if not isinstance(schema, dict):
        return schema
    given = _given(schema)
    return {"type": given.pop("type")} | _INDEX_DEFAULTS.get(schema["type"], {}) | given


def without_nulls(value: Json) -> Json:
    """The same JSON without the fields that are null."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return value


def _reported(vectors: Json) -> Json:
    """Vector settings as they are reported: without what was not given, and without empty HNSW settings."""
    found = without_nulls(vectors)
    for one in [found, *found.values()]:
        if isinstance(one, dict) and one.get("hnsw_config") == {}:
            del one["hnsw_config"]
    return found


def _merge(settings: dict[str, Json], change: dict[str, Json]) -> None:
    for name, value in _given(change).items():
        if isinstance(value, dict) and isinstance(settings.get(name), dict) and name != "quantization_config":
            _merge(settings[name], value)
        elif name == "quantization_config" and value == "Disabled":
            settings.pop(name, None)
        else:
            settings[name] = value


def _check_sizes(vectors: Json) -> None:
    if not isinstance(vectors, dict):
        return
    for name, one in ({"": vectors} if isinstance(vectors.get("size"), int) else vectors).items():
        size = one.get("size") if isinstance(one, dict) else None
        if isinstance(size, int) and size > 65536:
            place = f"vectors.{name}.size" if name else "vectors.size"
            raise ValidationError(f"[{place}: value {size} invalid, must be from 1 to 65536]")


def custom_sharding(config: Config) -> bool:
    """Whether records are spread by shard keys that the client names."""
    return bool(config["params"].get("sharding_method") == "custom")


def _is_vector(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("size"), int)
        and 1 <= value["size"] <= 65536
        and value.get("distance") in DISTANCES
        and (value.get("datatype") or "float32") in DATATYPES
    )


def _vectors_are_good(value: Json) -> bool:
    return _is_vector(value) or (isinstance(value, dict) and all(_is_vector(one) for one in value.values()))


def dense(config: Config) -> dict[str, dict[str, Json]]:
    """The dense vectors by name; the unnamed one is `""`."""
    vectors = config["params"].get("vectors") or {}
    return {DEFAULT_VECTOR: vectors} if "size" in vectors and isinstance(vectors["size"], int) else vectors


def sparse(config: Config) -> dict[str, dict[str, Json]]:
    """The sparse vectors by name."""
    return config["params"].get("sparse_vectors") or {}


#: The engine wants one vector at least; a collection without any gets this one, which nobody can name.
_NO_VECTOR = "\x1f"


def engine_config(config: Config) -> edge.EdgeConfig:
    """The engine's configuration of one shard. What the engine has no word for stays in the reported settings only."""
    vectors = {name: _engine_vector(one) for name, one in dense(config).items()}
    sparse_vectors = {name: _engine_sparse(one) for name, one in sparse(config).items()}
    if not vectors and not sparse_vectors:
        sparse_vectors = {_NO_VECTOR: _engine_sparse({})}
    optimizers = config["optimizer_config"]
    return edge.EdgeConfig(
        vectors=vectors,
        sparse_vectors=sparse_vectors,
        on_disk_payload=config["params"].get("on_disk_payload"),
        hnsw_config=_engine_hnsw(HNSW | config["hnsw_config"]),
        quantization_config=_engine_quantization(config.get("quantization_config")),
        optimizers=edge.EdgeOptimizersConfig(
            deleted_threshold=optimizers.get("deleted_threshold"),
            vacuum_min_vector_number=optimizers.get("vacuum_min_vector_number"),
            default_segment_number=optimizers.get("default_segment_number"),
            indexing_threshold=optimizers.get("indexing_threshold"),
        ),
        max_search_threads=1,
    )


def _engine_hnsw(value: dict[str, Json]) -> Any:
    return edge.HnswIndexConfig(
        m=value["m"],
        ef_construct=value["ef_construct"],
        full_scan_threshold=value["full_scan_threshold"],
        max_indexing_threads=value.get("max_indexing_threads") or 0,
        on_disk=value.get("on_disk"),
        payload_m=value.get("payload_m"),
    )


def engine_datatype(value: Json) -> Any:
    """A storage type of vectors by its name in the API."""
    return DATATYPES[value] if value else None


def engine_multivector(value: Json) -> Any:
    """`multivector_config` as the engine takes it (there is one way to compare: the best match of each)."""
    return edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim) if value else None


def engine_modifier(value: Json) -> Any:
    """`modifier` of a sparse vector as the engine takes it."""
    return edge.Modifier.Idf if value == "idf" else None


def _engine_vector(value: dict[str, Json]) -> Any:
    hnsw = value.get("hnsw_config")
    return edge.EdgeVectorParams(
        size=value["size"],
        distance=DISTANCES[value["distance"]],
        on_disk=value.get("on_disk"),
        multivector_config=engine_multivector(value.get("multivector_config")),
        datatype=engine_datatype(value.get("datatype")),
        quantization_config=_engine_quantization(value.get("quantization_config")),
        hnsw_config=_engine_hnsw(HNSW | _given(hnsw)) if hnsw else None,
    )


def _engine_sparse(value: dict[str, Json]) -> Any:
    index = value.get("index") or {}
    return edge.EdgeSparseVectorParams(
        full_scan_threshold=index.get("full_scan_threshold"),
        on_disk=index.get("on_disk"),
        modifier=engine_modifier(value.get("modifier")),
        datatype=engine_datatype(index.get("datatype")),
    )


def _engine_quantization(value: Json) -> Any:
    if not isinstance(value, dict):
        return None
    if "scalar" in value:
        one = value["scalar"]
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, one.get("quantile"), one.get("always_ram"))
    if "product" in value:
        one = value["product"]
        ratio = getattr(edge.CompressionRatio, str(one["compression"]).upper())
        return edge.ProductQuantizationConfig(ratio, one.get("always_ram"))
    if "binary" in value:
        return edge.BinaryQuantizationConfig(value["binary"].get("always_ram"))
    return None
