"""The lab's records: real ones, of every kind that a move usually loses.

* ``digits``: the 1,797 handwritten digits that scikit-learn ships, 64 pixels each as vector, the label as payload, with payload
  indexes, a setting that differs from the default, and the alias ``current``.
* ``mixed``: named and sparse vectors, UUID ids, points without payload or without one of their vectors.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import random
import uuid
from pathlib import Path
from typing import Any

import requests

DIGITS = "digits"
MIXED = "mixed"
ALIAS = "current"


def fill(url: str, key: str, *, digits: int = 1797, mixed: int = 300) -> None:
    """Create both collections on the server at ``url`` and wait until everything is applied."""
    session = requests.Session()
    session.headers["api-key"] = key

    def call(method: str, path: str, body: dict[str, Any]) -> None:
        answer = session.request(method, url + path, json=body, timeout=60)
        if answer.status_code != 200:
            raise RuntimeError(f"{method} {path} of the lab's data: {answer.status_code} {answer.text[:200]}")

    call(
        "PUT",
        f"/collections/{DIGITS}",
        {
            "vectors": {"size": 64, "distance": "Euclid"},
            "hnsw_config": {"m": 24},
            "optimizers_config": {"indexing_threshold": 5000},
        },
    )
    call("PUT", f"/collections/{DIGITS}/index?wait=true", {"field_name": "label", "field_schema": "integer"})
    call("PUT", f"/collections/{DIGITS}/index?wait=true", {"field_name": "parity", "field_schema": "keyword"})
    points = list(_digits(digits))
    for start in range(0, len(points), 500):
        call("PUT", f"/collections/{DIGITS}/points?wait=true", {"points": points[start : start + 500]})
    call(
        "PUT",
        f"/collections/{MIXED}",
        {
            "vectors": {"text": {"size": 16, "distance": "Cosine"}, "image": {"size": 8, "distance": "Dot"}},
            "sparse_vectors": {"words": {}},
        },
    )
    call("PUT", f"/collections/{MIXED}/points?wait=true", {"points": list(_mixed(mixed))})
    call(
        "POST",
        "/collections/aliases",
        {"actions": [{"create_alias": {"collection_name": DIGITS, "alias_name": ALIAS}}]},
    )


def _digits(count: int) -> list[dict[str, Any]]:
    # The file alone, without the library: importing that takes a second and a half of a processor, and each process fills a server.
    found = importlib.util.find_spec("sklearn")
    assert found is not None and found.submodule_search_locations
    file = Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with gzip.open(file, "rt", encoding="ascii") as lines:
        rows = [[float(word) for word in line.split(",")] for line in itertools.islice(lines, count)]
    return [
        {"id": i, "vector": pixels, "payload": {"label": int(label), "parity": "odd" if label % 2 else "even"}}
        for i, (*pixels, label) in enumerate(rows)
    ]


def _mixed(count: int) -> list[dict[str, Any]]:
    rng = random.Random(952)
    made: list[dict[str, Any]] = []
    for i in range(count):
        vector: dict[str, Any] = {"text": [rng.uniform(-1, 1) for _ in range(16)]}
        if i % 3:
            vector["image"] = [rng.uniform(-1, 1) for _ in range(8)]
        if i % 4 == 0:
            places = sorted(rng.sample(range(1000), 5))
            vector["words"] = {"indices": places, "values": [rng.uniform(0, 3) for _ in places]}
        point: dict[str, Any] = {"id": str(uuid.UUID(int=rng.getrandbits(128), version=4)), "vector": vector}
        if i % 5:
            point["payload"] = {"n": i, "title": f"page {i}", "tags": ["a", "b"][: i % 3], "nested": {"deep": [i, None, True]}}
        made.append(point)
    return made
