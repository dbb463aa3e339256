"""Writes by filter, without pause and of every kind, followed while they go on by a tool that is killed: nothing may differ.

What is random is told by its seed. `CUTOVER_FILTER_SEEDS` and `CUTOVER_FILTER_SECONDS` make it longer.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.gate.write_log import Write
from cutover.qdrant import compare, schema
from cutover.qdrant.client import Answered, Qdrant
from cutover.replication.follower import Follower
from cutover.replication.position import Position
from tests.support.night import every_nth_by_day
from tests.support.qdrant_pair import KEY, Pair, pair_of_servers

SEEDS = int(os.environ.get("CUTOVER_FILTER_SEEDS") or 4)
SECONDS = float(os.environ.get("CUTOVER_FILTER_SECONDS") or 4)
RECORDS, TAGS = 1500, 12
POINTS = "/collections/{}/points"


class Killed(BaseException):
    """The tool ended here."""


class Log:
    """The gate's record, written by one thread and read by another."""

    def __init__(self) -> None:
        self.lines: list[Write] = []
        self.content: dict[str, bytes] = {}

    def end(self) -> int:
        return self.lines[-1].offset if self.lines else 0

    def log_end(self) -> int:
        return self.end()

    def add(self, began: int, method: str, uri: str, body: Any, status: int) -> None:
        name = f"{len(self.lines):08d}"
        self.content[name] = b"" if body is None else json.dumps(body).encode()
        self.lines.append(Write(100 * (len(self.lines) + 1), time.time(), method, uri, status, "old", name, began + 1))

    def read_log(self, from_offset: int) -> list[Write]:
        return self.lines[from_offset // 100 : len(self.lines)]

    def read_parts(self, from_offset: int) -> list[list[Write]]:
        return [self.read_log(from_offset)]

    def bodies(self, entries: Any) -> Iterator[tuple[Write, bytes]]:
        return ((entry, self.content[entry.body]) for entry in entries)

    def forget_bodies(self, entries: Any) -> None:
        pass


class Application:
    """Writes what applications write, by filter more often than not."""

    def __init__(self, server: Qdrant, log: Log, seed: int, *, indexes: bool) -> None:
        self.server, self.log, self.random, self.indexes = server, log, random.Random(seed), indexes
        self.by_filter = 0

    def vector(self) -> dict[str, Any]:
        r = self.random
        found = {"": [round(r.uniform(-1, 1), 3) for _ in range(4)], "side": [r.uniform(-1, 1), r.uniform(-1, 1)]}
        return {name: found[name] for name in r.choice([["", "side"], [""], ["side"]])}

    def payload(self) -> dict[str, Any]:
        r = self.random
        found: dict[str, Any] = {"tag": f"t{r.randrange(TAGS)}", "n": r.randrange(500)}
        several: list[dict[str, Any]] = r.sample(
            [
                {"extra": {"a": r.randrange(5)}},
                {"extra": None},
                {"many": [{"k": r.randrange(4), "v": r.randrange(4)} for _ in range(r.randrange(3))]},
                {"when": f"2026-0{r.randrange(1, 10)}-11T10:00:00Z"},
                {"where": {"lon": r.uniform(-5, 5), "lat": r.uniform(-5, 5)}},
                {"text": " ".join(r.choices(["cat", "catalogue", "dog", "Dog", "ä"], k=3))},
            ],
            2,
        )
        for more in several:
            found |= more
        return found

    def one_filter(self) -> dict[str, Any]:
        r = self.random
        low, tag = r.randrange(500), f"t{r.randrange(TAGS)}"
        return r.choice(
            [
                {"must": [{"key": "tag", "match": {"value": tag}}, {"key": "n", "range": {"lt": low}}]},
                {"must": [{"key": "n", "range": {"gte": low, "lt": low + 9}}]},
                {"must_not": [{"key": "tag", "match": {"any": [f"t{i}" for i in range(TAGS - 1)]}}]},
                {"must": [{"is_empty": {"key": "extra"}}, {"key": "n", "range": {"lt": 20}}]},
                {"must": {"is_null": {"key": "extra"}}, "must_not": [{"key": "n", "range": {"gt": 60}}]},
                {"should": [{"has_id": [r.randrange(RECORDS)]}, {"key": "extra.a", "match": {"value": 9}}]},
                {"must": [{"nested": {"key": "many", "filter": {"must": [{"key": "k", "match": {"value": 1}},
                                                                         {"key": "v", "match": {"value": 2}}]}}}]},
                {"must": [{"key": "many", "values_count": {"gte": 2}}, {"key": "n", "range": {"gte": low, "lt": low + 60}}]},
                {"must": [{"key": "when", "range": {"gte": "2026-08-01T00:00:00Z"}}, {"key": "tag", "match": {"value": tag}}]},
                {"must": [{"key": "where", "geo_radius": {"center": {"lon": 0, "lat": 0}, "radius": 90_000.0}}]},
                {"must": [{"key": "text", "match": {"text": "cat"}}, {"key": "tag", "match": {"value": tag}}]},
                {"must": [{"has_vector": "side"}, {"key": "n", "range": {"gte": low, "lt": low + 20}}]},
                {"min_should": {"conditions": [{"key": "tag", "match": {"value": tag}}, {"key": "n", "range": {"lt": 90}},
                                               {"key": "extra.a", "match": {"value": 3}}], "min_count": 2}},
            ]
        )  # fmt: skip

    def ids(self) -> list[int]:
        return [self.random.randrange(RECORDS) for _ in range(self.random.randrange(1, 5))]

    def chosen(self) -> dict[str, Any]:
        if self.random.random() < 0.2:
            return {"points": self.ids()}
        self.by_filter += 1
        return {"filter": self.one_filter()}

    def points(self) -> dict[str, Any]:
        return {"points": [{"id": i, "vector": self.vector(), "payload": self.payload()} for i in self.ids()]}

    def operation(self) -> tuple[str, dict[str, Any]]:
        r = self.random
        kind = r.choice(["upsert"] * 4 + ["set", "set", "deep", "overwrite", "keys", "clear", "delete", "vectors", "update"])
        match kind:
            case "upsert":
                return "upsert", self.points() | ({"update_filter": self.one_filter()} if r.random() < 0.2 else {})
            case "set":
                return "set_payload", {"payload": self.payload(), **self.chosen()}
            case "deep":
                return "set_payload", {"payload": {"b": r.randrange(9)}, "key": "extra", **self.chosen()}
            case "overwrite":
                return "overwrite_payload", {"payload": self.payload(), **self.chosen()}
            case "keys":
                return "delete_payload", {"keys": ["extra", "tag"], **self.chosen()}
            case "clear":
                return "clear_payload", self.chosen()
            case "delete":
                return "delete", self.chosen()
            case "vectors":
                return "delete_vectors", {"vector": ["side"], **self.chosen()}
            case _:
                return "update_vectors", {"points": [{"id": i, "vector": {"side": [1, 2]}} for i in self.ids()]}

    def write(self) -> None:
        r, where = self.random, POINTS.format(self.random.choice(["docs", "now"]))
        wait = f"?wait={r.choice(['true', 'false'])}"
        if self.indexes and r.random() < 0.01:
            field = r.choice(["text", "n", "tag"])
            schema = {"text": "text", "n": "integer", "tag": "keyword"}[field]
            where = where.removesuffix("/points")
            if r.random() < 0.5:
                return self.send("PUT", f"{where}/index{wait}", {"field_name": field, "field_schema": schema})
            return self.send("DELETE", f"{where}/index/{field}{wait}", None)
        if r.random() < 0.15:
            operations = [{kind: body} for kind, body in (self.operation() for _ in range(r.randrange(1, 5)))]
            return self.send("POST", f"{where}/batch{wait}", {"operations": operations})
        kind, body = self.operation()
        method, path = {
            "upsert": ("PUT", ""),
            "delete": ("POST", "/delete"),
            "set_payload": ("POST", "/payload"),
            "overwrite_payload": ("PUT", "/payload"),
            "delete_payload": ("POST", "/payload/delete"),
            "clear_payload": ("POST", "/payload/clear"),
            "update_vectors": ("PUT", "/vectors"),
            "delete_vectors": ("POST", "/vectors/delete"),
        }[kind]
        return self.send(method, f"{where}{path}{wait}", body)

    def send(self, method: str, uri: str, body: Any) -> None:
        began, status = self.log.end(), 200
        try:
            path, _, query = uri.partition("?")
            self.server.ask(method, path, body, params={"wait": query.removeprefix("wait=")})
        except Answered as error:
            status = error.status
        self.log.add(began, method, uri, body, status)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


def dying(server: Qdrant, after: int) -> Callable[[], None]:
    """Have the tool end at a request to this server; returns what ends that."""
    plain, lock, left = server.raw, threading.Lock(), after

    def raw(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        with lock:
            left -= 1
        if left < 0:
            raise Killed
        return plain(*args, **kwargs)

    server.raw = raw  # type: ignore[method-assign]
    return lambda: vars(server).pop("raw", None) and None


@pytest.mark.parametrize("seed", every_nth_by_day(range(SEEDS), 4))
def test_nothing_differs_however_records_were_chosen_and_wherever_the_tool_was_killed(
    servers: Pair, tmp_path: Path, seed: int
) -> None:
    servers.clear()
    old, new, log, chance = servers.old, servers.new, Log(), random.Random(1000 + seed)
    writers = Qdrant(old.url, servers.guard, key=KEY)
    indexes = bool(seed % 2)
    with servers.guard.act("test", "Write and follow"):
        for server in (old, new):
            vectors = {name: {"size": size, "distance": "Dot"} for name, size in (("", 4), ("side", 2))}
            server.ask("PUT", "/collections/docs", {"vectors": vectors, "shard_number": 1 + seed % 3 // 2})
            server.change_aliases([{"create_alias": {"alias_name": "now", "collection_name": "docs"}}])
            server.create_index("docs", "tag", "keyword")
            if not indexes:
                server.create_index("docs", "text", "text")
        application = Application(writers, log, seed, indexes=indexes)
        stop, end = threading.Event(), time.monotonic() + SECONDS

        def writing() -> None:
            while not stop.is_set():
                application.write()

        def follower() -> Follower:
            position = Position.load(tmp_path / "follow.json") or Position(holders={"now": ["docs"]})
            return Follower(log, old, new, position, tmp_path / "follow.json", copy_collection=print, may_replace=True)  # type: ignore[arg-type]

        thread = threading.Thread(target=writing)
        thread.start()
        following, rounds, kills, compared, asked = follower(), 0, 0, 0, 0
        try:
            while time.monotonic() < end:
                revive = dying(chance.choice([old, new]), chance.randrange(1, 25)) if chance.random() < 0.4 else None
                try:
                    done = following.round()
                    rounds, compared, asked = rounds + 1, compared + len(done.compared), asked + done.asked
                except Killed:
                    kills += 1
                if revive is not None:
                    revive()
                    following = follower()
        finally:
            stop.set()
            thread.join()
        last = following.round(held=not indexes, budget=60)
        differing = compare.compare_collection(old, new, "docs").differences
        shown = (
            f"seed {seed}: {len(log.lines)} writes ({application.by_filter} by filter), {rounds} rounds, {kills} kills, "
            f"{asked + last.asked} filters asked, {compared} comparisons, last {last.lines} writes in {last.seconds:.2f} s, "
            f"{old.count('docs')} records, {len(differing)} different"
        )
        print(shown)
        assert differing == [], shown
        assert schema.compare_schemas(schema.schema_of(old), schema.schema_of(new)) == []
        assert application.by_filter > 50
        assert asked > 50 or indexes
        if not indexes:
            assert compared == 0, "what can be asked is not compared"
