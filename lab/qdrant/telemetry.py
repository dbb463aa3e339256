"""Counts every answer by endpoint and status, as `/telemetry` and `/metrics` of a Qdrant server report them.

The endpoint is the route's template (`PUT /collections/{collection_name}/points`), and only requests that matched a
route are counted. `/telemetry` lists all endpoints; `/metrics` only those that read or write points.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import Storage

Json = Any
BUCKETS = ("0.001", "0.005", "0.01", "0.02", "0.05", "0.1", "0.5", "1", "5", "10", "50")
_C = "/collections/{collection_name}"
IN_METRICS = frozenset(
    _C + rest
    for rest in (
        "/index",
        "/points",
        "/points/batch",
        "/points/count",
        "/points/delete",
        "/points/discover",
        "/points/discover/batch",
        "/points/facet",
        "/points/payload",
        "/points/payload/clear",
        "/points/payload/delete",
        "/points/query",
        "/points/query/batch",
        "/points/query/groups",
        "/points/recommend",
        "/points/recommend/batch",
        "/points/recommend/groups",
        "/points/scroll",
        "/points/search",
        "/points/search/batch",
        "/points/search/groups",
        "/points/search/matrix/offsets",
        "/points/search/matrix/pairs",
        "/points/vectors",
        "/points/vectors/delete",
        "/vectors/{vector_name}",
    )
)


class Count:
    """How often one endpoint answered with one status, and how long it took (seconds)."""

    __slots__ = ("buckets", "count", "longest", "shortest", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.shortest = float("inf")
        self.longest = 0.0
        self.buckets = [0] * len(BUCKETS)

    def add(self, seconds: float) -> None:
        """Count one answer."""
        self.count += 1
        self.total += seconds
        self.shortest = min(self.shortest, seconds)
        self.longest = max(self.longest, seconds)
        for index in range(len(BUCKETS) - 1, -1, -1):
            if seconds > _LIMITS[index]:
                break
            self.buckets[index] += 1


_LIMITS = tuple(float(limit) for limit in BUCKETS)


class Telemetry:
    """The counters of one server process; a restart begins at zero, as the real one does."""

    def __init__(self, version: str) -> None:
        self.id = str(uuid.uuid4())
        self._began = time.monotonic()
        self.version = version
        self.startup = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        self.counts: dict[tuple[str, str], dict[int, Count]] = {}
        self.snapshots_created: dict[str, int] = {}

    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def add(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one answer."""
        by_status = self.counts.get((method, endpoint))
        if by_status is None:
            by_status = self.counts[method, endpoint] = {}
        count = by_status.get(status)
        if count is None:
            count = by_status[status] = Count()
        count.add(seconds)

    def report(self, storage: Storage, grpc: dict[str, dict[str, int]]) -> Json:
        """`GET /telemetry`."""
        return {
            "id": self.id,
            "app": {"name": "qdrant", "version": self.version, "startup": self.startup},
            "collections": {"number_of_collections": len(storage.collections)},
            "cluster": {"enabled": False, "resharding_enabled": False},
            "requests": {
                "rest": {
                    "responses": {
                        f"{method} {endpoint}": {
                            str(status): {
                                "count": one.count,
                                "avg_duration_micros": round(one.total / one.count * 1e6, 4),
                            }
                            for status, one in by_status.items()
                        }
                        for (method, endpoint), by_status in self.counts.items()
                    }
                },
                "grpc": {
                    "responses": {
                        method: {code: {"count": count, "avg_duration_micros": 300.0} for code, count in by_code.items()}
                        for method, by_code in grpc.items()
                    }
                },
            },
        }

    def metrics(self, storage: Storage) -> str:
        """`GET /metrics`, in the text format of Prometheus."""
        out: list[str] = []

        def family(name: str, help_text: str, kind: str, rows: list[tuple[str, Any]]) -> None:
            if rows:
                out.append(f"# HELP {name} {help_text}")
                out.append(f"# TYPE {name} {kind}")
                out.extend(f"{name}{labels} {value}" for labels, value in rows)

        names = sorted(storage.collections)
        points = {name: storage.collections[name].points_count() for name in names}
        vectors = [(name, vector) for name in names for vector in storage.collections[name].vector_names()]

        def per_collection(value: Any) -> list[tuple[str, Any]]:
            return [(f'{{id="{name}"}}', value(name)) for name in names]

        info = f'{{name="qdrant",version="{self.version}"}}'
        family("app_info", "information about qdrant server", "gauge", [(info, 1)])
        family("app_status_recovery_mode", "features enabled in qdrant server", "gauge", [("", 0)])
        family("collections_total", "number of collections", "gauge", [("", len(names))])
        total = sum(points[name] for name, _ in vectors)
        family("collections_vector_total", "total number of vectors in all collections", "gauge", [("", total)])
        family(
            "collection_vectors",
            "amount of vectors grouped by vector name",
            "gauge",
            [(f'{{collection="{name}",vector="{vector}"}}', points[name]) for name, vector in vectors],
        )
        family(
            "collection_points",
            "approximate amount of points per collection",
            "gauge",
            per_collection(points.__getitem__),
        )
        family(
            "snapshot_recovery_running",
            "amount of snapshot recovery operations currently running",
            "gauge",
            per_collection(lambda name: int(storage.collections[name].recovering)),
        )
        family(
            "snapshot_created_total",
            "total amount of snapshots created",
            "counter",
            per_collection(lambda name: self.snapshots_created.get(name, 0)),
        )
        family(
            "collection_update_queue_length",
            "number of pending operations in update queues per collection",
            "gauge",
            per_collection(lambda name: storage.collections[name].queue_length()),
        )
        family(
            "collection_update_queue_deferred_points",
            "number of points currently hidden during read operations as they're not yet optimized",
            "gauge",
            per_collection(lambda _: 0),
        )
        family("cluster_enabled", "is cluster support enabled", "gauge", [("", 0)])
        rows = [
            (f'method="{method}",endpoint="{endpoint}",status="{status}"', status, one)
            for (method, endpoint), by_status in self.counts.items()
            if endpoint in IN_METRICS
            for status, one in by_status.items()
        ]
        timed = [(labels, one) for labels, status, one in rows if status == 200]
        family(
            "rest_responses_total",
            "total number of responses",
            "counter",
            [(f"{{{labels}}}", one.count) for labels, _, one in rows],
        )
        durations: tuple[tuple[str, str, Callable[[Count], float]], ...] = (
            ("avg", "average", lambda one: one.total / one.count),
            ("min", "minimum", lambda one: one.shortest),
            ("max", "maximum", lambda one: one.longest),
        )
        for word, text, value in durations:
            family(
                f"rest_responses_{word}_duration_seconds",
                f"{text} response duration",
                "gauge",
                [(f"{{{labels}}}", round(value(one), 9)) for labels, one in timed],
            )
        name = "rest_responses_duration_seconds"
        if timed:
            out += [f"# HELP {name} response duration histogram", f"# TYPE {name} histogram"]
        for labels, one in timed:
            for limit, count in zip((*BUCKETS, "+Inf"), (*one.buckets, one.count), strict=True):
                out.append(f'{name}_bucket{{{labels},le="{limit}"}} {count}')
            out.append(f"{name}_sum{{{labels}}} {round(one.total, 9)}")
            out.append(f"{name}_count{{{labels}}} {one.count}")
        return "\n".join(out) + "\n"
