"""Translates between the JSON of Qdrant's REST API and the objects of its engine: ids, vectors, filters, queries.

Numbers keep their bits: the engine stores 32-bit floats, and what is answered is the shortest decimal that reads back
as the same 32-bit float, as the real server prints it.
"""

from __future__ import annotations

import struct
import uuid
from typing import Any

import numpy as np
import qdrant_edge as edge

from .errors import BodyError, ValidationError, WrongInput

Json = Any
DEFAULT_VECTOR = ""

DISTANCES = {name: getattr(edge.Distance, name) for name in ("Cosine", "Euclid", "Dot", "Manhattan")}
DATATYPES = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
_NO_CONDITION = (
    'Expected some form of condition, which can be a field condition (like {"key": ..., "match": ... }), or some other '
    "mentioned in the documentation: https://qdrant.tech/documentation/concepts/filtering/#filtering-conditions"
)
FILTER_FIELDS = ("should", "min_should", "must", "must_not")


# --- ids ---------------------------------------------------------------------------------------------------------


def point_id(value: Json) -> int | str:
    """An id of the API as the engine takes it: an unsigned integer, or a UUID in its canonical form."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise BodyError(f"value {value} is not a valid point ID, valid values are either an unsigned integer or a UUID")


def point_ids(values: Json) -> list[int | str]:
    """A list of ids of the API."""
    if not isinstance(values, list):
        raise BodyError("invalid type: expected a sequence of point IDs")
    return [point_id(value) for value in values]


def id_out(value: Any) -> int | str:
    """An id of the engine as the API answers it."""
    return value if isinstance(value, int) else str(value)


def id_order(value: int | str) -> tuple[int, Any]:
    """Sort key of ids in scroll order: numbers ascending, then UUIDs."""
    return (0, value) if isinstance(value, int) else (1, value)


# --- vectors -----------------------------------------------------------------------------------------------------


def shortest(values: Any) -> Any:
    """32-bit floats (any shape) as the 64-bit floats whose shortest decimal is also the shortest for 32 bits."""
    wide = np.asarray(values, dtype=np.float64)
    narrow = wide.astype(np.float32)
    result = wide.copy()
    magnitude = np.abs(wide)
    todo = (magnitude > 1e-5) & (magnitude < 1e6)
    rare = ~todo & (magnitude > 0)
    exponent = np.zeros(wide.shape, dtype=np.float64)
    np.log10(magnitude, out=exponent, where=todo)
    exponent = np.floor(exponent)
    for digits in (9, 8, 7, 6):
        scale = np.power(10.0, np.clip(digits - 1 - exponent, 0, 15))
        rounded = np.rint(np.where(todo, wide, 0.0) * scale) / scale
        good = todo & (rounded.astype(np.float32) == narrow)
        result[good] = rounded[good]
        todo = good
    if rare.any():
        result[rare] = [float(str(one)) for one in narrow[rare]]
    return result


def shortest_one(value: float) -> float:
    """One 32-bit float (a score) as the 64-bit float with the shortest decimal that reads back the same."""
    try:
        bits = struct.pack("<f", value)
    except (OverflowError, struct.error):
        return value
    for digits in (6, 7, 8):
        rounded = float(f"{value:.{digits}g}")
        if struct.pack("<f", rounded) == bits:
            return rounded
    return float(f"{value:.9g}")


def _floats(value: Json) -> bool:
    return isinstance(value, list) and (not value or isinstance(value[0], (int, float)))


def vector_in(value: Json) -> Any:
    """One named vector: dense, sparse or a list of vectors."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and "indices" in value and "values" in value:
        return edge.SparseVector(value["indices"], value["values"])
    raise BodyError("data did not match any variant of untagged enum Vector")


def vectors_in(value: Json) -> Any:
    """The `vector` of a point: the default vector, or a dict by name."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return {name: vector_in(one) for name, one in value.items()}
    raise BodyError("data did not match any variant of untagged enum VectorStruct")


def check_vectors(value: Any, sizes: dict[str, int], at: int) -> None:
    """Refuse a vector of a wrong size before anything is written. Like the real server, unknown names are let through
    here: they are refused when the write is applied, which with `wait=false` nobody learns. `at` is the point's place
    in the request."""
    named = value.items() if isinstance(value, dict) else ((DEFAULT_VECTOR, value),)
    for name, one in named:
        if isinstance(one, edge.SparseVector) and len(set(one.indices)) < len(one.indices):
            raise ValidationError(f"[points[{at}].vector.?.indices: Validation error: must be unique [{{}}]]")
        if not isinstance(one, list):
            continue
        if not one:
            raise ValidationError(f"[points[{at}].vector.vector: dense vector must not be empty]")
        rows = [one] if _floats(one) else one
        for row in rows:
            if not isinstance(row, list):
                raise BodyError("data did not match any variant of untagged enum VectorStruct")
            if name in sizes and len(row) != sizes[name]:
                raise WrongInput(f"Vector dimension error: expected dim: {sizes[name]}, got {len(row)}")


def vector_out(value: Any) -> Json:
    """What the engine stores, as the API answers it."""
    if value is None:
        return {}
    if isinstance(value, list):
        return shortest(value).tolist() if value else []
    if isinstance(value, edge.SparseVector):
        return {"indices": value.indices, "values": shortest(value.values).tolist()}
    return {name: vector_out(one) for name, one in value.items()}


def records_out(records: list[Any], with_payload: bool, with_vector: bool) -> list[dict[str, Json]]:
    """A page of records as the API answers it. Dense pages are converted in one go: they are the bulk of a scroll."""
    vectors: list[Json] = []
    if with_vector:
        raw = [record.vector for record in records]
        if raw and all(isinstance(one, list) and len(one) == len(raw[0]) and _floats(one) for one in raw) and raw[0]:
            vectors = shortest(raw).tolist()
        else:
            vectors = [vector_out(one) for one in raw]
    page: list[dict[str, Json]] = []
    for index, record in enumerate(records):
        out: dict[str, Json] = {"id": id_out(record.id)}
        if with_payload:
            out["payload"] = record.payload or {}
        if with_vector:
            out["vector"] = vectors[index]
        order_value = record.order_value
        if order_value is not None:
            out["order_value"] = order_value
        page.append(out)
    return page


def scored_out(points: list[Any], with_payload: bool, with_vector: bool) -> list[dict[str, Json]]:
    """Hits of a search as the API answers them."""
    page: list[dict[str, Json]] = []
    for point in points:
        out: dict[str, Json] = {
            "id": id_out(point.id),
            "version": point.version + 1,  # the server counts operations from 1
            "score": shortest_one(point.score),
        }
        if with_payload:
            out["payload"] = point.payload or {}
        if with_vector:
            out["vector"] = vector_out(point.vector)
        if point.order_value is not None:
            out["order_value"] = point.order_value
        page.append(out)
    return page


def payload_selector(value: Json, default: bool) -> Any:
    """`with_payload` as the engine takes it."""
    if value is None:
        return default
    if isinstance(value, (bool, list)):
        return value
    if isinstance(value, dict):
        if "include" in value:
            return edge.PayloadSelector.Include(value["include"])
        if "exclude" in value:
            return edge.PayloadSelector.Exclude(value["exclude"])
    raise BodyError("data did not match any variant of untagged enum WithPayloadInterface")


def vector_selector(value: Json) -> Any:
    """`with_vector` as the engine takes it."""
    if value is None:
        return False
    if isinstance(value, (bool, list)):
        return value
    raise BodyError("data did not match any variant of untagged enum WithVector")


# --- filters -----------------------------------------------------------------------------------------------------


def filter_in(value: Json) -> Any:
    """A filter of the API as the engine takes it."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BodyError("invalid type: expected struct Filter")
    for field in value:
        if field not in FILTER_FIELDS:
            expected = ", ".join(f"`{name}`" for name in FILTER_FIELDS)
            raise BodyError(f"unknown field `{field}`, expected one of {expected}")
    minimum = value.get("min_should")
    return edge.Filter(
        must=_conditions(value.get("must")),
        should=_conditions(value.get("should")),
        must_not=_conditions(value.get("must_not")),
        min_should=edge.MinShould(_conditions(minimum["conditions"]) or [], minimum["min_count"]) if minimum else None,
    )


def _conditions(value: Json) -> list[Any] | None:
    if value is None:
        return None
    return [_condition(one) for one in (value if isinstance(value, list) else [value])]


_FIELD_CONDITIONS = (
    "match",
    "range",
    "geo_bounding_box",
    "geo_radius",
    "geo_polygon",
    "values_count",
    "is_empty",
    "is_null",
)


def _condition(value: Json) -> Any:
    if not isinstance(value, dict):
        raise BodyError(_NO_CONDITION)
    if "has_id" in value:
        return edge.HasIdCondition(set(point_ids(value["has_id"])))
    if "has_vector" in value:
        return edge.HasVectorCondition(value["has_vector"])
    if "nested" in value:
        return edge.NestedCondition(value["nested"]["key"], filter_in(value["nested"]["filter"]))
    if isinstance(value.get("is_empty"), dict):
        return edge.IsEmptyCondition(value["is_empty"]["key"])
    if isinstance(value.get("is_null"), dict):
        return edge.IsNullCondition(value["is_null"]["key"])
    if "key" in value:
        if not any(value.get(field) is not None for field in _FIELD_CONDITIONS):
            raise ValidationError(
                "[scroll_request.filter.must[0].__all__: Validation error: At least one field condition must be specified [{}]]"
            )
        return edge.FieldCondition(
            value["key"],
            match=_match(value.get("match")),
            range=_range(value.get("range")),
            geo_bounding_box=_box(value.get("geo_bounding_box")),
            geo_radius=_circle(value.get("geo_radius")),
            geo_polygon=_polygon(value.get("geo_polygon")),
            values_count=edge.ValuesCount(**value["values_count"]) if value.get("values_count") else None,
            is_empty=value.get("is_empty"),
            is_null=value.get("is_null"),
        )
    if any(field in value for field in FILTER_FIELDS):
        return filter_in(value)
    raise BodyError(_NO_CONDITION)


def _match(value: Json) -> Any:
    if value is None:
        return None
    variants = {
        "value": edge.MatchValue,
        "text": edge.MatchText,
        "text_any": edge.MatchTextAny,
        "phrase": edge.MatchPhrase,
        "any": edge.MatchAny,
        "except": edge.MatchExcept,
    }
    for name, make in variants.items():
        if isinstance(value, dict) and name in value:
            try:
                return make(value[name])
            except (TypeError, ValueError):
                break
    raise BodyError("data did not match any variant of untagged enum MatchInterface")


def _range(value: Json) -> Any:
    if value is None:
        return None
    bounds = {name: value[name] for name in ("gte", "gt", "lte", "lt") if value.get(name) is not None}
    if any(isinstance(bound, str) for bound in bounds.values()):
        return edge.RangeDateTime(**bounds)
    return edge.RangeFloat(**bounds)


def _place(value: Json) -> Any:
    return edge.GeoPoint(lon=value["lon"], lat=value["lat"])


def _box(value: Json) -> Any:
    return edge.GeoBoundingBox(_place(value["top_left"]), _place(value["bottom_right"])) if value else None


def _circle(value: Json) -> Any:
    return edge.GeoRadius(_place(value["center"]), value["radius"]) if value else None


def _polygon(value: Json) -> Any:
    if not value:
        return None
    return edge.GeoPolygon(
        [_place(one) for one in value["exterior"]["points"]],
        [[_place(one) for one in line["points"]] for line in value.get("interiors") or []],
    )


# --- queries -----------------------------------------------------------------------------------------------------


def search_params(value: Json) -> Any:
    """`params` of a query. Fields that this engine does not know are left out."""
    if not value:
        return None
    quantization = value.get("quantization")
    return edge.SearchParams(
        hnsw_ef=value.get("hnsw_ef"),
        exact=bool(value.get("exact", False)),
        quantization=edge.QuantizationSearchParams(
            ignore=bool(quantization.get("ignore", False)),
            rescore=quantization.get("rescore"),
            oversampling=quantization.get("oversampling"),
        )
        if quantization
        else None,
        indexed_only=bool(value.get("indexed_only", False)),
    )


def order_by(value: Json) -> Any:
    """`order_by` of a scroll or a query."""
    if value is None:
        return None
    if isinstance(value, str):
        return edge.OrderBy(value)
    direction = {"asc": edge.Direction.Asc, "desc": edge.Direction.Desc}.get(value.get("direction") or "asc")
    return edge.OrderBy(value["key"], direction, value.get("start_from"))


# --- payload indexes -----------------------------------------------------------------------------------------------

_SCHEMA_TYPES = {
    "keyword": (edge.PayloadSchemaType.Keyword, edge.KeywordIndexParams),
    "integer": (edge.PayloadSchemaType.Integer, edge.IntegerIndexParams),
    "float": (edge.PayloadSchemaType.Float, edge.FloatIndexParams),
    "geo": (edge.PayloadSchemaType.Geo, edge.GeoIndexParams),
    "text": (edge.PayloadSchemaType.Text, edge.TextIndexParams),
    "bool": (edge.PayloadSchemaType.Bool, edge.BoolIndexParams),
    "datetime": (edge.PayloadSchemaType.Datetime, edge.DatetimeIndexParams),
    "uuid": (edge.PayloadSchemaType.Uuid, edge.UuidIndexParams),
}


def index_schema(value: Json) -> Any:
    """`field_schema` as the engine takes it: a type's name, or its parameters."""
    if isinstance(value, str) and value in _SCHEMA_TYPES:
        return _SCHEMA_TYPES[value][0]
    if isinstance(value, dict) and value.get("type") in _SCHEMA_TYPES:
        given = {name: one for name, one in value.items() if name != "type" and one is not None}
        if "tokenizer" in given:
            given["tokenizer"] = getattr(edge.TokenizerType, str(given["tokenizer"]).capitalize())
        if value["type"] == "text":  # language packs change what matches, not what is stored: left to the real server
            given.pop("stopwords", None)
            given.pop("stemmer", None)
        try:
            return _SCHEMA_TYPES[value["type"]][1](**given)
        except TypeError as error:
            raise BodyError(f"data did not match any variant of untagged enum PayloadFieldSchema ({error})") from error
    raise BodyError("data did not match any variant of untagged enum PayloadFieldSchema")
