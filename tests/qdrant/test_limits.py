"""What stands against a move, and who goes round Nginx."""

from collections import Counter
from typing import Any, ClassVar, cast

import pytest

from cutover.gate.write_log import Write
from cutover.qdrant.counters import Use, writes_counted
from cutover.qdrant.limits import bytes_needed, defaults_differ, reasons_against
from cutover.qdrant.routes import route
from cutover.replication.bypass import Watch, by_route, unexplained


def info(**params: Any) -> Any:
    return {"config": {"params": {"vectors": {"size": 4, "distance": "Dot"}, **params}}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (info(), ""),
        (info(sharding_method="auto", shard_number=4), ""),
        (info(sharding_method="custom"), "custom shards"),
        (info(vectors={"size": 4, "distance": "Cosine"}), ""),
        (info(vectors={"size": 4, "distance": "Dot", "datatype": "float16"}), ""),
        (info(vectors={"a": {"size": 4, "distance": "Cosine", "datatype": "float16"}}), ""),
        (info(vectors={"size": 4, "distance": "Dot", "datatype": "uint8"}), ""),
        (info(vectors={"size": 4, "distance": "Dot", "datatype": "turbo4"}), "turbo4"),
        (info(sparse_vectors={"s": {}}), ""),
        (info(sparse_vectors={"s": {"index": {"datatype": "float16"}}}), ""),
        (info(sparse_vectors={"s": {"index": {"datatype": "uint8"}}}), "sparse vector s of docs is indexed as uint8"),
    ],
)
def test_what_cannot_be_moved_is_named(found: Any, words: Any) -> None:
    reasons = reasons_against("docs", found)
    assert bool(reasons) == bool(words)
    assert words in "".join(reasons)


def test_shard_keys_are_custom_shards_whatever_the_settings_say() -> None:
    assert reasons_against("docs", info(), ["tenant"])


def test_a_write_that_neither_nginx_nor_we_sent_is_unexplained() -> None:
    put, delete = "PUT /collections/{collection_name}/points", "POST /collections/{collection_name}/points/delete"
    counted, passed, sent = Counter({put: 10, delete: 3, "gRPC qdrant.Points/Upsert": 1}), Counter({put: 9}), Counter({delete: 3})
    assert unexplained(counted, passed, sent) == [Use(put, 1), Use("gRPC qdrant.Points/Upsert", 1)]
    assert unexplained(Counter({put: 1}), Counter({put: 5}), sent) == []


def test_telemetry_is_read_as_the_server_answers_it(recorded: Any) -> None:
    telemetry = next(e["answer"]["result"] for e in recorded("qdrant-1.18.3.jsonl") if e["path"] == "/telemetry")
    counted = by_route(writes_counted(telemetry))
    assert counted["PUT /collections/{collection_name}/points"] == 6
    assert counted["POST /collections/{collection_name}/points/delete"] == 3
    assert not any("scroll" in name or "count" in name or name.startswith("GET") or "snapshots" in name for name in counted)
    assert not any(name.startswith("gRPC") for name in counted)


def test_other_configuration_is_named() -> None:
    assert defaults_differ({"app": {"jwt_rbac": True}}, {"app": {"jwt_rbac": False}}) == ["jwt_rbac: True and False"]


def test_room_is_reckoned_generously() -> None:
    assert bytes_needed(info(), 1000, 100) == 2 * 1000 * (300 + 100 + 16)
    assert bytes_needed(info(vectors={"a": {"size": 100, "datatype": "uint8"}}, sparse_vectors={"s": {}}), 1, 0) == 2 * (
        300 + 100 + 1000
    )


@pytest.mark.parametrize("braces", ["{name}", "{collection_name}"])
def test_a_write_is_counted_under_the_name_of_its_route_whatever_a_release_calls_the_collection_in_it(braces: str) -> None:
    """Seen on 1.15.5, which says {name}: every write that passed Nginx was taken for one that went round it."""
    passed = [
        ("PUT", "/collections/docs/points?wait=true"),
        ("POST", "/collections/docs/points/batch"),
        ("POST", "/collections/docs/points/payload/clear"),
        ("PUT", "/collections/docs"),
        ("DELETE", "/collections/docs/index/lang"),
    ]
    templates = [
        f"PUT /collections/{braces}/points",
        f"POST /collections/{braces}/points/batch",
        f"POST /collections/{braces}/points/payload/clear",
        f"PUT /collections/{braces}",
        f"DELETE /collections/{braces}/index/{{field_name}}",
    ]
    telemetry = {"requests": {"rest": {"responses": {one: {"200": {"count": 1}} for one in templates}}}}
    counted = by_route(writes_counted(telemetry))
    assert counted == Counter(route(method, uri) for method, uri in passed)


def test_what_was_refused_in_front_is_no_write_past_nginx() -> None:
    telemetry = {
        "requests": {"rest": {"responses": {"DELETE /collections/{name}/index": {"405": {"count": 2}, "401": {"count": 1}}}}}
    }
    assert not +by_route(writes_counted(telemetry))


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PROPFIND"])
@pytest.mark.parametrize(
    "name",
    ["unknown", "/unknown", "/collections/{collection_name}/points/{id}", "/cluster/peer/{peer_id}", "/cluster/metadata/keys/{key}",
     "/collections/{collection_name}/shards/{shard}/points", "/collections/{collection_name}/shards/{shard}/snapshots/{snapshot}"],
)  # fmt: skip
def test_what_is_no_route_of_qdrants_counts_as_nobodys_write(method: str, name: str) -> None:
    """Whoever has no key, or the one that only reads, could otherwise make it look as if somebody wrote past Nginx, and stop a
    move: 1.18.3 counts `PUT .../points/7`, which it does not have, under the route of GET."""
    assert not writes_counted({"requests": {"rest": {"responses": {f"{method} {name}": {"404": {"count": 3}}}}}})


def test_what_was_refused_explains_nobody_elses_write() -> None:
    """The same is left out on both sides, or refused writes that pass Nginx would hide one that does not."""

    class Server:
        sent: ClassVar[Counter[str]] = Counter()
        counted = 0

        def telemetry(self, **_: int) -> Any:
            by_status = {"403": {"count": 1}, "200": {"count": self.counted}}
            return {"app": {}, "requests": {"rest": {"responses": {"PUT /collections/{name}/points": by_status}}}}

    class Gate:
        def log_end(self) -> int:
            return 0

        def read_parts(self, offset: int) -> Any:
            return [[Write(1, 1.0, "PUT", "/collections/a/points", 403, "old", "")]]

    server = Server()
    watch = Watch(cast("Any", Gate()), cast("Any", server), "old")
    server.counted = 1
    assert [str(one) for one in watch.look(patience=0)] == ["PUT /collections/{collection_name}/points (once)"]


@pytest.mark.parametrize(
    ("method", "uri", "counted"),
    [("PUT", "/collections/docs/%70oints", "PUT unknown"), ("POST", "/%63ollections/docs/points/delete", "POST unknown"),
     ("PUT", "/collections/d%6Fcs/points", "PUT /collections/{collection_name}/points"),
     ("PUT", "/collections/docs/points/%70ayload", "PUT /collections/{collection_name}/points/{id}"),
     ("POST", "/collections/docs/points/%64elete", "POST /collections/{collection_name}/points/{id}"),
     ("POST", "/collections/docs/points/payload/%63lear", "POST unknown"), ("POST", "/collections/docs/points/%73croll", "POST /collections/{collection_name}/points/{id}"),
     ("DELETE", "/collections/docs/index/l%61bel", "DELETE /collections/{collection_name}/index/{field_name}"),
     ("POST", "/collections/%61liases", "POST /collections/{collection_name}"),
     ("PUT", "/collections/docs/snapshots/%72ecover", "PUT /collections/{collection_name}/snapshots/{snapshot_name}"),
     ("POST", "/collections/docs/shards/%30/cleanup", "POST /collections/{collection_name}/shards/{shard}/cleanup")],
)  # fmt: skip
def test_a_write_that_spells_its_route_with_an_escape_is_explained_by_its_line(method: str, uri: str, counted: str) -> None:
    """As 1.18.3 counts them: a client that escapes more than it has to would stop a move, as would a read that nobody records."""
    responses = {counted: {"200": {"count": 1}}}
    found = by_route(writes_counted({"requests": {"rest": {"responses": responses}}}))
    assert not unexplained(found, Counter([route(method, uri)]), Counter())
    reads = route("POST", "/collections/docs/points/%73croll")
    assert not writes_counted({"requests": {"rest": {"responses": {reads: {"200": {"count": 1}}}}}})
