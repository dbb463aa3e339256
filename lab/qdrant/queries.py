"""Searches: what `points/query`, `points/search` and their kin ask, as requests of the engine over all shards.

Across several shards the hits are merged by score. A fusion of prefetches is computed per shard and then merged, which
the real server does globally: ranks of fused searches over several shards may differ from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import qdrant_edge as edge

from . import settings, translate
from .errors import BodyError, NotFound, ValidationError, WrongInput, from_engine
from .store import Collection, Storage

Json = Any


def search_as_query(body: Json) -> Json:
    """The older `points/search` request as a `points/query` request."""
    vector = body.get("vector")
    if vector is None:
        raise BodyError("missing field `vector`")
    if body.get("limit") is None:
        raise BodyError("missing field `limit`")
    query = {name: one for name, one in body.items() if name != "vector"}
    if isinstance(vector, dict):
        return query | {"query": vector["vector"], "using": vector["name"]}
    return query | {"query": vector}


def recommend_as_query(body: Json) -> Json:
    """The older `points/recommend` request as a `points/query` request."""
    asked = {name: body[name] for name in ("positive", "negative", "strategy") if body.get(name) is not None}
    rest = {name: one for name, one in body.items() if name not in ("positive", "negative", "strategy")}
    return rest | {"query": {"recommend": asked}}


class _Inputs:
    """Turns ids given in a query into their vectors, and remembers them: a point is not its own neighbour."""

    def __init__(self, storage: Storage, collection: Collection, using: str, lookup: Json) -> None:
        self.source = storage.get(lookup["collection"]) if lookup else collection
        self.vector_name = (lookup or {}).get("vector") or using
        self.own = not lookup
        self.seen: list[int | str] = []

    def vector(self, value: Json) -> Any:
        if isinstance(value, list):
            return value
        if isinstance(value, dict):
            return translate.vector_in(value)
        identifier = translate.point_id(value)
        records = self.source.retrieve([identifier], False, [self.vector_name])
        if not records:
            raise NotFound(f"No point with id {identifier} found")
        found = records[0].vector
        vector = found.get(self.vector_name) if isinstance(found, dict) else found
        if vector is None:
            raise NotFound(f"Not existing vector name error: {self.vector_name}", status=400)
        if self.own:
            self.seen.append(identifier)
        return vector

    def vectors(self, values: Json) -> list[Any]:
        return [self.vector(one) for one in (values if isinstance(values, list) else [values])]


def _scoring(query: Json, using: str, inputs: _Inputs, limit: int) -> Any:
    name = using or None
    fusion: Any = edge.Fusion  # its variants are missing from the stubs
    if query is None:
        return None
    if not isinstance(query, dict) or "indices" in query:
        return edge.Query.Nearest(inputs.vector(query), name)
    if "nearest" in query:
        nearest = inputs.vector(query["nearest"])
        if query.get("mmr"):
            diversity = query["mmr"].get("diversity")
            candidates = query["mmr"].get("candidates_limit") or limit
            return edge.Mmr(nearest, 1 - (0.5 if diversity is None else diversity), candidates, name)
        return edge.Query.Nearest(nearest, name)
    if "recommend" in query:
        return _recommend(query["recommend"], name, inputs)
    if "discover" in query:
        one = query["discover"]
        return edge.Query.Discover(edge.DiscoverQuery(inputs.vector(one["target"]), _pairs(one["context"], inputs)), name)
    if "context" in query:
        return edge.Query.Context(edge.ContextQuery(_pairs(query["context"], inputs)), name)
    if "order_by" in query:
        return translate.order_by(query["order_by"])
    if "sample" in query:
        return edge.Sample.Random
    if "fusion" in query or "rrf" in query:
        if query.get("fusion") == "dbsf":
            return fusion.Dbsf()
        return fusion.Rrf((query.get("rrf") or {}).get("k") or 2)
    if "formula" in query:
        raise WrongInput("this stand-in does not compute formulas")
    raise BodyError("Expected some form of vector, id, or a type of query")


def _pairs(value: Json, inputs: _Inputs) -> list[Any]:
    pairs = value if isinstance(value, list) else [value]
    return [edge.ContextPair(inputs.vector(one["positive"]), inputs.vector(one["negative"])) for one in pairs]


def _recommend(value: Json, name: str | None, inputs: _Inputs) -> Any:
    positive = inputs.vectors(value.get("positive") or [])
    negative = inputs.vectors(value.get("negative") or [])
    strategy = value.get("strategy") or "average_vector"
    if strategy == "best_score":
        return edge.Query.RecommendBestScore(edge.RecommendQuery(positive, negative), name)
    if strategy == "sum_scores":
        return edge.Query.RecommendSumScores(edge.RecommendQuery(positive, negative), name)
    if not positive:
        raise WrongInput("Positive vectors should not be empty with `average` strategy")
    target = np.mean(np.asarray(positive, dtype=np.float32), axis=0)
    if negative:
        target = target + target - np.mean(np.asarray(negative, dtype=np.float32), axis=0)
    return edge.Query.Nearest(target.tolist(), name)


def _prefetches(storage: Storage, collection: Collection, value: Json) -> list[Any]:
    result = []
    for one in value if isinstance(value, list) else [value]:
        using = one.get("using") or translate.DEFAULT_VECTOR
        inputs = _Inputs(storage, collection, using, one.get("lookup_from"))
        limit = one.get("limit") or 10
        result.append(
            edge.Prefetch(
                limit=limit,
                query=_scoring(one.get("query"), using, inputs, limit),
                prefetches=_prefetches(storage, collection, one.get("prefetch") or []),
                params=translate.search_params(one.get("params")),
                filter=_without(translate.filter_in(one.get("filter")), inputs.seen),
                score_threshold=one.get("score_threshold"),
            )
        )
    return result


def _without(filter_: Any, identifiers: list[int | str]) -> Any:
    if not identifiers:
        return filter_
    absent = edge.HasIdCondition(set(identifiers))
    return edge.Filter(must=[filter_] if filter_ is not None else None, must_not=[absent])


def run(
    storage: Storage, collection: Collection, body: Json, most: int | None = None, request_name: str = "internal"
) -> list[Json]:
    """The hits of one `points/query` request; `most` replaces its limit (used for groups)."""
    if not isinstance(body, dict):
        raise BodyError("invalid type: expected struct QueryRequest")
    limit = most or (10 if body.get("limit") is None else body["limit"])
    if not isinstance(limit, int) or limit < 1:
        raise ValidationError(f"[{request_name}.limit: value {limit} invalid, must be 1 or larger]")
    collection.must_be_there()
    offset = body.get("offset") or 0
    using = body.get("using") or translate.DEFAULT_VECTOR
    with_payload = translate.payload_selector(body.get("with_payload"), default=False)
    with_vector = translate.vector_selector(body.get("with_vector", body.get("with_vectors")))
    inputs = _Inputs(storage, collection, using, body.get("lookup_from"))
    scoring = _scoring(body.get("query"), using, inputs, limit)
    several = len(collection.shards) > 1
    try:
        request = edge.QueryRequest(
            limit=limit + offset if several else limit,
            offset=0 if several else offset,
            query=scoring,
            prefetches=_prefetches(storage, collection, body.get("prefetch") or []),
            with_vector=with_vector,
            with_payload=with_payload,
            filter=_without(translate.filter_in(body.get("filter")), inputs.seen),
            score_threshold=body.get("score_threshold"),
            params=translate.search_params(body.get("params")),
        )
        hits = [hit for shard in collection.shards for hit in shard.engine.query(request)]
    except (TypeError, ValueError) as error:
        raise BodyError(str(error).splitlines()[0]) from error
    except Exception as error:
        raise from_engine(error) from error
    if several:
        _sort(hits, scoring, settings.dense(collection.config).get(using, {}).get("distance"))
        hits = hits[offset : offset + limit]
    return translate.scored_out(hits, with_payload is not False, with_vector is not False)


def _sort(hits: list[Any], scoring: Any, distance: str | None) -> None:
    if isinstance(scoring, edge.OrderBy):
        hits.sort(key=lambda hit: hit.order_value, reverse=scoring.direction == edge.Direction.Desc)
    elif scoring is None:
        hits.sort(key=lambda hit: translate.id_order(translate.id_out(hit.id)))
    else:
        nearest_first = distance in ("Euclid", "Manhattan") and not isinstance(scoring, edge.Fusion)
        hits.sort(key=lambda hit: hit.score, reverse=not nearest_first)


def groups(storage: Storage, collection: Collection, body: Json) -> Json:
    """`points/query/groups`: the best hits for each value of a payload field."""
    if "group_by" not in body:
        raise BodyError("missing field `group_by`")
    key = body["group_by"]
    limit, group_size = body.get("limit") or 10, body.get("group_size") or 3
    asked = body | {"with_payload": True, "offset": 0}
    found: dict[Json, list[Json]] = {}
    shown = translate.payload_selector(body.get("with_payload"), default=False) is not False
    for hit in run(storage, collection, asked, most=max(100, limit * group_size * 20)):
        value = (hit["payload"] or {}).get(key)
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, (str, int)) or (one not in found and len(found) >= limit):
                continue
            rows = found.setdefault(one, [])
            if len(rows) < group_size:
                rows.append(hit if shown else {name: part for name, part in hit.items() if name != "payload"})
    return {"groups": [{"id": value, "hits": rows} for value, rows in found.items()]}


def facet(collection: Collection, body: Json) -> Json:
    """`facet`: how often each value of an indexed payload field occurs."""
    limit = body.get("limit") or 10
    request = edge.FacetRequest(body["key"], limit, bool(body.get("exact", False)), translate.filter_in(body.get("filter")))
    counts: dict[Json, int] = {}
    try:
        for shard in collection.shards:
            for hit in shard.engine.facet(request).hits:
                counts[hit.value] = counts.get(hit.value, 0) + hit.count
    except Exception as error:
        raise from_engine(error) from error
    best = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:limit]
    return {"hits": [{"value": value, "count": count} for value, count in best]}
