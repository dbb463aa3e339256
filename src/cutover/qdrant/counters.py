"""What a Qdrant server counts: the requests that it answered, by route, and when it answered the last one. Pure.

Telemetry names a route by its template, whose braces differ between releases, so they are all written ``{}`` here. gRPC methods
are called ``gRPC qdrant.Points/Search``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cutover.qdrant import routes
from cutover.qdrant.affected import had_no_effect

GRPC = "gRPC "
#: What looks after a server and asks it for no data: no application.
_MONITORING = re.compile(
    r"GET (/|/healthz|/livez|/readyz|/metrics|/telemetry|/cluster(/.*)?|/issues|/dashboard.*|/logger|/profiler/.*)$"
    r"|gRPC (qdrant\.Qdrant/HealthCheck|grpc\.health\.v1\.Health/.*|grpc\.reflection\..*|qdrant\.QdrantInternal/.*)$"
)
#: Statuses of a caller that was turned away: REST 401 and 403; gRPC 7 (permission denied) and 16 (unauthenticated).
_TURNED_AWAY = {(False, 401), (False, 403), (True, 7), (True, 16)}


@dataclass(frozen=True)
class Use:
    """Requests on one route. ``last``: when the last one was answered, RFC 3339, empty where the server does not say."""

    route: str
    count: int
    last: str = ""

    def __str__(self) -> str:
        return f"{self.route} ({'once' if self.count == 1 else f'{self.count} times'})"


def normal(route: str) -> str:
    """The same route written in the same way."""
    return re.sub(r"\{[^{}]*\}", "{}", route)


def _rows(telemetry: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    requests = telemetry.get("requests") or {}
    for kind, prefix in (("rest", ""), ("grpc", GRPC)):
        for route, by_status in ((requests.get(kind) or {}).get("responses") or {}).items():
            for status, numbers in by_status.items():
                yield normal(prefix + (route.lstrip("/") if prefix else route)), int(status), numbers


def used(telemetry: Mapping[str, Any]) -> Counter[str]:
    """Requests of applications that were answered since the server was started, by route: not turned away, no monitoring."""
    found: Counter[str] = Counter()
    for route, status, numbers in _rows(telemetry):
        if not _MONITORING.match(route) and (route.startswith(GRPC), status) not in _TURNED_AWAY:
            found[route] += int(numbers.get("count") or 0) + int(numbers.get("fail_count") or 0)
    return found


def last_used(telemetry: Mapping[str, Any]) -> dict[str, str]:
    """When each route was answered last, where the server says so."""
    found: dict[str, str] = {}
    for route, status, numbers in _rows(telemetry):
        if (at := str(numbers.get("last_responded") or "")) and (route.startswith(GRPC), status) not in _TURNED_AWAY:
            found[route] = max(found.get(route, ""), at)
    return found


def less(one: Counter[str], other: Counter[str]) -> Counter[str]:
    """By how much one counts more than the other; below 0 where less."""
    found = one.copy()
    found.subtract(other)
    return found


def grown(before: Mapping[str, Any], after: Mapping[str, Any], sent: Counter[str]) -> list[Use]:
    """What was asked between two looks by anybody but this tool, which sent ``sent`` (by route) meanwhile."""
    counted = less(used(after), used(before))
    ours: Counter[str] = Counter()
    for route, number in sent.items():
        ours[normal(route)] += number
    last = last_used(after)
    return [
        Use(route, number - ours[route], last.get(route, ""))
        for route, number in sorted(counted.items())
        if number > ours[route] and number > 0
    ]


def writes_counted(telemetry: Mapping[str, Any]) -> Counter[tuple[str, int]]:
    """Writes of data or schema that the server answered since it started: (route, status) -> number; gRPC as ``gRPC ...``."""
    found: Counter[tuple[str, int]] = Counter()
    requests_ = telemetry.get("requests", {})
    for name, by_status in (requests_.get("rest") or {}).get("responses", {}).items():
        method, _, path = name.partition(" ")
        if path.strip("/") == routes.UNKNOWN or (method == "POST" and re.search(r"/points/\{id\}$", path)):
            continue  # no route that writes; but one that reads may be spelt so, and what passes Nginx to read is in no record
        # A template's braces match like a name does, except for the shard's number. What stands in them differs between
        # releases: {name} up to 1.15, {collection_name} since.
        path = re.sub(r"\{shard(_id)?\}", "0", path)
        for status, numbers in by_status.items():
            # A method that a route does not have is counted under whatever route its address looks like, and may be sent with the
            # key that only reads: nothing was written there either.
            if not had_no_effect(method, path, int(status)):
                found[routes.route(method, path), int(status)] += int(numbers.get("count", 0))
    for name, by_status in (requests_.get("grpc") or {}).get("responses", {}).items():
        if routes.is_grpc_write(name):
            for status, numbers in by_status.items():
                found[f"gRPC {name.lstrip('/')}", int(status)] += int(numbers.get("count", 0))
    return found
