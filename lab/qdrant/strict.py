"""A collection's strict mode: the limits within which a request is answered at all.

Modelled are those that stand in the way of whoever reads or writes a whole collection: how many records a request may ask for
or bring, how many a minute, how many the collection may hold, exact searches and counts, and filters: on fields without an
index, with many conditions, with long ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from .errors import BadRequest, ServiceError
from .store import Collection

Json = Any
_POINTS = "/collections/{collection_name}/points"
_READS = frozenset({_POINTS, f"{_POINTS}/scroll", f"{_POINTS}/query", f"{_POINTS}/search", f"{_POINTS}/count"})
MINUTE = 60.0


class RateLimited(ServiceError):
    """429: more requests a minute than the collection allows."""

    status = 429
    prefix = "Rate limiting exceeded: "


def check(method: str, template: str, body: Json, collection: Collection) -> None:
    """Refuse a request that a collection's strict mode does not allow."""
    strict = collection.config.get("strict_mode_config") or {}
    if not strict.get("enabled") or not template.startswith(_POINTS) or not isinstance(body, dict):
        return
    reads = method == "POST" and template in _READS
    kind = "read" if reads else "write"
    if (rate := strict.get(f"{kind}_rate_limit")) is not None:
        _count(collection, kind, rate)
    if reads:
        _most("limit", body.get("limit"), strict.get("max_query_limit"), "limit")
        exact = body.get("exact", True) if template.endswith("/count") else (body.get("params") or {}).get("exact")
        if strict.get("search_allow_exact") is False and exact:
            _refuse("Exact search disabled!", "Set exact=false.")
    if method == "PUT" and template == _POINTS:
        brought = len(body.get("points") or (body.get("batch") or {}).get("ids") or [])
        _most("upsert", brought, strict.get("upsert_max_batchsize"), "upsert limit")
        if (most := strict.get("max_points_count")) is not None:
            ids = [one["id"] for one in body.get("points") or []] or (body.get("batch") or {}).get("ids") or []
            more = len(ids) - len(collection.retrieve(ids, with_payload=False, with_vector=False))
            if more and collection.count(None, exact=True) + more > most:
                _refuse(f"Max points count limit of {most} reached", "Delete some points from the collection")
    conditions = list(_conditions(body.get("filter")))
    if (most := strict.get("filter_max_conditions")) is not None and len(conditions) > most:
        _refuse(f"Filter condition limit reached ({len(conditions)} > {most})", "Reduce the amount of conditions of your filter.")
    if (most := strict.get("condition_max_size")) is not None:
        for one in conditions:
            if (size := _size(one)) > most:
                _refuse(f"Condition size limit reached ({size} > {most})", "Reduce the size of your condition.")
    if strict.get(f"unindexed_filtering_{'retrieve' if reads else 'update'}") is False:
        for key in _keys(body.get("filter")):
            if key not in collection.schema:
                _refuse(
                    f'Index required but not found for "{key}" of one of the following types: [keyword]',
                    "Create an index for this key or use a different filter.",
                )


def _most(name: str, asked: Any, limit: int | None, words: str) -> None:
    if limit is not None and isinstance(asked, int) and asked > limit:
        _refuse(f'Limit exceeded {asked} > {limit} for "{words}"', f'Reduce the "{words}" parameter to or below {limit}.')


def _refuse(error: str, solution: str) -> None:
    raise BadRequest(f"{error}. Help: {solution}")


def _count(collection: Collection, kind: str, rate: int) -> None:
    """A bucket that fills evenly: as many requests as it holds at once, then one every minute / rate."""
    now = time.monotonic()
    tokens, at = collection.rates.get(kind, (float(rate), now))
    tokens = min(float(rate), tokens + (now - at) * rate / MINUTE)
    if tokens < 1:
        wait = (1 - tokens) * MINUTE / rate
        collection.rates[kind] = tokens, now
        error = RateLimited(f"{kind.capitalize()} rate limit exceeded: Operation requires 1 tokens. Retry after {wait:.0f}s")
        error.headers = {"Retry-After": str(max(1, round(wait)))}
        raise error
    collection.rates[kind] = tokens - 1, now


def _conditions(chosen: Json) -> Iterator[Json]:
    """The conditions of a filter, those of filters within it as well."""
    for name in ("must", "should", "must_not"):
        several = (chosen or {}).get(name) or []
        for one in several if isinstance(several, list) else [several]:
            yield from _conditions(one) if {*one} & {"must", "should", "must_not"} else [one]


def _size(condition: Json) -> int:
    match = condition.get("match") or {}
    return max(len(condition.get("has_id") or []), len(match.get("any") or []), len(match.get("except") or []))


def _keys(chosen: Json) -> Iterator[str]:
    if isinstance(chosen, list):
        for one in chosen:
            yield from _keys(one)
    elif isinstance(chosen, dict):
        if isinstance(chosen.get("key"), str):
            yield chosen["key"]
        for name, one in chosen.items():
            if name in {"must", "should", "must_not", "min_should", "conditions", "nested", "filter"}:
                yield from _keys(one)
