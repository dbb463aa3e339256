"""What a server counts, and who of it was not this tool."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.qdrant import counters
from cutover.qdrant.client import Qdrant
from cutover.qdrant.counters import Use, grown, last_used, used
from cutover.replication.left_behind import UseWatch, Watched, sentence
from tests.support.qdrant_pair import pair_of_servers

SEARCH, COUNT = "POST /collections/{}/points/search", "POST /collections/{}/points/count"


def telemetry(rest: dict[str, dict[str, Any]] | None = None, grpc: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"app": {"startup": "t"}, "requests": {"rest": {"responses": rest or {}}, "grpc": {"responses": grpc or {}}}}


def answered(count: int, **more: Any) -> dict[str, Any]:
    return {"200": {"count": count, **more}}


def test_real_telemetry_is_read(recorded: Any) -> None:
    found = used(next(e["answer"]["result"] for e in recorded("qdrant-1.18.3.jsonl") if e["path"] == "/telemetry"))
    assert found[SEARCH] == 1
    assert found["PUT /collections/{}/points"] == 6
    assert not any("healthz" in route or "/telemetry" in route for route in found)
    assert found["GET /collections"] == 1, "two more were turned away with 401"


@pytest.mark.parametrize("braces", ["{collection_name}", "{name}", "{}"])
def test_releases_name_the_same_route_with_other_braces(braces: str) -> None:
    assert used(telemetry({f"POST /collections/{braces}/points/search": answered(2)})) == {SEARCH: 2}


@pytest.mark.parametrize(
    ("rest", "grpc"),
    [
        ({"GET /metrics": answered(9)}, {}),
        ({"GET /readyz": answered(9), "GET /telemetry": answered(3), "GET /": answered(1)}, {}),
        ({}, {"/qdrant.Qdrant/HealthCheck": {"0": {"count": 5}}, "/grpc.health.v1.Health/Check": {"0": {"count": 5}}}),
        (
            {SEARCH: {"401": {"count": 5}, "403": {"count": 2}}},
            {"/qdrant.Points/Search": {"16": {"count": 5}, "7": {"count": 1}}},
        ),
    ],
    ids=["metrics", "probes", "gRPC probes", "turned away"],
)
def test_monitoring_and_whoever_is_turned_away_are_no_applications(rest: dict[str, Any], grpc: dict[str, Any]) -> None:
    assert grown(telemetry(), telemetry(rest, grpc), Counter()) == []


@pytest.mark.parametrize(
    "grpc", ["Search", "SearchBatch", "Scroll", "Query", "QueryBatch", "Get", "Count", "Facet", "Recommend", "Discover", "Upsert"]
)
def test_every_grpc_method_counts_reads_and_writes(grpc: str) -> None:
    (use,) = grown(telemetry(), telemetry(grpc={f"/qdrant.Points/{grpc}": {"0": {"count": 4}}}), Counter())
    assert str(use) == f"gRPC qdrant.Points/{grpc} (4 times)"


def test_what_was_counted_long_ago_does_not_grow() -> None:
    before = telemetry({SEARCH: answered(10)}, {"/qdrant.Points/Upsert": {"0": {"count": 900}}})
    assert grown(before, before, Counter()) == []


def test_an_answer_with_an_error_is_a_use_as_well() -> None:
    """A search in a collection that is not there any more comes from an application that knows this address."""
    assert grown(telemetry(), telemetry({SEARCH: {"404": {"count": 0, "fail_count": 2}}}), Counter()) == [Use(SEARCH, 2)]


def test_the_last_answer_is_named_where_the_server_says_it() -> None:
    after = telemetry({SEARCH: answered(3, last_responded="2026-11-30T10:00:00Z")})
    assert last_used(after) == {SEARCH: "2026-11-30T10:00:00Z"}
    assert "the last one at 2026-11-30T10:00:00Z" in sentence(
        "the old server", Watched(3.0, grown(telemetry(), after, Counter()))
    )


COUNTS = st.dictionaries(
    st.sampled_from([SEARCH, COUNT, "GET /collections/{}", "PUT /collections/{}/points"]), st.integers(0, 50)
)


@given(COUNTS, COUNTS, COUNTS)
def test_nobody_is_invented_and_nobody_is_missed(before: dict[str, int], ours: dict[str, int], theirs: dict[str, int]) -> None:
    after = Counter(before) + Counter(ours) + Counter(theirs)
    one, other = (telemetry({route: answered(n) for route, n in counts.items()}) for counts in (before, after))
    found = {use.route: use.count for use in grown(one, other, Counter(ours))}
    assert found == {route: number for route, number in theirs.items() if number}


def test_everything_that_the_client_asks_is_known_to_be_ours(tmp_path: Any) -> None:
    """Every read and write that the tool sends, against the counters of a server."""
    with pair_of_servers(tmp_path) as pair:
        server: Qdrant = pair.old
        watch = UseWatch(server)
        name = "docs #1"
        with pair.guard.act("test", "Ask everything"):
            server.ask("PUT", "/collections/docs%20%231", {"vectors": {"size": 2, "distance": "Dot"}})
            for asked in (server.collections, server.aliases, server.try_writing, server.telemetry, server.largest_body):
                asked()
            for read in (server.info, server.count, server.shard_keys, server.snapshots):
                read(name)
            server.upsert(name, [{"id": 1, "vector": [1, 2], "payload": {}}])
            server.page(name, None, 10)
            server.records(name, [1])
            server.sample(name, 1)
            made = server.create_snapshot(name)["name"]
            assert b"".join(server.download(name, made))
            server.delete_snapshot(name, made)
            server.create_index(name, "a.b", "keyword")
            server.delete_index(name, "a.b")
            server.barrier([name])
            server.patch(name, {"optimizers_config": {"indexing_threshold": 5000}})
            server.delete(name, [1])
            server.delete_collection(name)
            server.answer_to("GET", "/collections", key="nobody's")
        assert watch.look().uses == []
        stranger = Qdrant(server.url, pair.guard, key="full-key-of-the-pair")
        stranger.collections()
        assert [str(use) for use in watch.look().uses] == ["GET /collections (once)"]
    assert counters.normal("a {b} c") == "a {} c"
