"""Every write operation names its records, or says that it could not."""

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.qdrant.affected import Affected, Chosen, Depth, affected_by
from cutover.qdrant.routes import is_read, path_of, route

UUID = "550e8400-e29b-41d4-a716-446655440000"
BY_FILTER = {"filter": {"must": [{"key": "lang", "match": {"value": "de"}}]}}


def of(method: Any, uri: Any, body: Any = None) -> Any:
    return affected_by(method, uri, b"" if body is None else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("method", "rest", "body", "ids"),
    [
        ("PUT", "points?wait=true", {"points": [{"id": 1, "vector": [1]}, {"id": UUID, "vector": [1]}]}, {1, UUID}),
        ("PUT", "points", {"batch": {"ids": [3, 4], "vectors": [[1], [2]], "payloads": [{}, None]}}, {3, 4}),
        ("PUT", "points", {"points": [{"id": 5, "vector": {}}], "update_filter": {"must": []}}, {5}),
        ("POST", "points/delete", {"points": [6, UUID.upper()]}, {6, UUID}),
        ("POST", "points/delete", {"points": [UUID.replace("-", ""), "urn:uuid:" + UUID]}, {UUID}),
        ("POST", "points/payload", {"payload": {"a": 1}, "points": [7], "key": "deep"}, {7}),
        ("PUT", "points/payload", {"payload": {"a": 1}, "points": [8]}, {8}),
        ("POST", "points/payload/delete", {"keys": ["a"], "points": [9]}, {9}),
        ("POST", "points/payload/clear", {"points": [10]}, {10}),
        ("PUT", "points/vectors", {"points": [{"id": 11, "vector": {"a": [1]}}]}, {11}),
        ("POST", "points/vectors/delete", {"points": [12], "vector": ["a"]}, {12}),
        ("POST", "points/delete", {"points": [2**64 - 1]}, {2**64 - 1}),
        (
            "POST",
            "points/batch",
            {
                "operations": [
                    {"upsert": {"points": [{"id": 1, "vector": [1]}]}},
                    {"upsert": {"batch": {"ids": [2], "vectors": [[1]]}}},
                    {"delete": {"points": [3]}},
                    {"set_payload": {"payload": {}, "points": [4]}},
                    {"overwrite_payload": {"payload": {}, "points": [5]}},
                    {"delete_payload": {"keys": [], "points": [6]}},
                    {"clear_payload": {"points": [7]}},
                    {"update_vectors": {"points": [{"id": 8, "vector": [1]}]}},
                    {"delete_vectors": {"points": [9], "vector": ["a"]}},
                ]
            },
            set(range(1, 10)),
        ),
    ],
)
def test_operations_that_name_records(method: Any, rest: Any, body: Any, ids: Any) -> None:
    found = of(method, f"/collections/docs/{rest}", body)
    assert found == Affected("docs", frozenset(ids), in_steps=rest == "points/batch")


@pytest.mark.parametrize(
    ("method", "rest", "body", "depth"),
    [
        ("POST", "points/delete", BY_FILTER, Depth.IDS),
        ("POST", "points/payload", {"payload": {}, **BY_FILTER}, Depth.PAYLOAD),
        ("PUT", "points/payload", {"payload": {}, **BY_FILTER}, Depth.PAYLOAD),
        ("POST", "points/payload/delete", {"keys": [], **BY_FILTER}, Depth.PAYLOAD),
        ("POST", "points/payload/clear", BY_FILTER, Depth.PAYLOAD),
        ("POST", "points/vectors/delete", {"vector": ["a"], **BY_FILTER}, Depth.EVERYTHING),
        ("POST", "points/batch", {"operations": [{"delete": BY_FILTER}, {"clear_payload": BY_FILTER}]}, Depth.PAYLOAD),
    ],
)
def test_operations_that_choose_by_filter_name_the_filter(method: Any, rest: Any, body: Any, depth: Any) -> None:
    found = of(method, f"/collections/docs/{rest}", body)
    chosen = Chosen('{"must":[{"key":"lang","match":{"value":"de"}}]}', depth)
    assert found == Affected("docs", filters=(chosen,), in_steps=rest == "points/batch", why=found.why)
    assert "filter" in found.why


def test_equal_filters_are_equal_whatever_the_order_of_their_words() -> None:
    there = of(
        "POST", "/collections/c/points/delete", {"filter": {"must": [{"match": {"value": "ä"}, "key": "a"}], "should": None}}
    )
    back = of(
        "POST", "/collections/c/points/delete", {"filter": {"should": None, "must": [{"key": "a", "match": {"value": "ä"}}]}}
    )
    assert there.filters == back.filters


@pytest.mark.parametrize(
    ("method", "rest", "body", "depth"),
    [
        ("POST", "points/truncated", None, None),
        ("PUT", "points", {"something": "new"}, Depth.EVERYTHING),
        ("PUT", "points", None, Depth.EVERYTHING),
        ("PUT", "points", {"points": [{"id": -1}]}, Depth.EVERYTHING),
        ("PUT", "points", {"points": [{"id": True}]}, Depth.EVERYTHING),
        ("PUT", "points", {"points": [{"id": "no uuid"}]}, Depth.EVERYTHING),
        ("POST", "points/batch", {"operations": [{"invented": {"points": [1]}}]}, Depth.EVERYTHING),
        ("POST", "points/delete", {}, Depth.EVERYTHING),
        ("POST", "points/delete", {"filter": "all"}, Depth.EVERYTHING),
        ("PUT", "snapshots/recover", {"location": "x"}, Depth.EVERYTHING),
        ("PUT", "vectors/b", {"size": 4}, Depth.EVERYTHING),
    ],
)
def test_what_names_no_records_means_the_whole_collection_or_a_refusal(method: Any, rest: Any, body: Any, depth: Any) -> None:
    found = of(method, f"/collections/docs/{rest}", body)
    if depth is None:
        assert found.refuse
    else:
        assert (found.whole, bool(found.why)) == (depth, True)


def test_a_body_is_read_as_the_client_sent_it_compressed() -> None:
    body = json.dumps({"points": [1, 2]}).encode()
    for packed in (gzip.compress(body), zlib.compress(body)):
        assert affected_by("POST", "/collections/c/points/delete", packed).ids == {1, 2}
    assert affected_by("POST", "/collections/c/points/delete", b"\x28\xb5\x2f\xfd strange").whole is Depth.EVERYTHING


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("PUT", "/collections/docs"),
        ("DELETE", "/collections/docs"),
        ("PATCH", "/collections/docs"),
        ("PUT", "/collections/docs/index?wait=true"),
        ("DELETE", "/collections/docs/index/lang"),
        ("DELETE", "/collections/docs/vectors/a"),
    ],
)
def test_changes_of_schema_are_marked(method: Any, uri: Any) -> None:
    assert of(method, uri).schema
    assert of("POST", "/collections/aliases", {"actions": []}).aliases


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("PUT", "/quotas"),
        ("POST", "/collections/docs/cluster"),
        ("PUT", "/collections/docs/shards"),
        ("POST", "/collections/docs/shards/delete"),
        ("POST", "/cluster/recover"),
        ("POST", "/collections/docs/some/future/operation"),
        ("BREW", "/collections/docs/points"),
    ],
)
def test_what_is_not_followed_refuses_the_move(method: Any, uri: Any) -> None:
    assert of(method, uri).refuse


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        ("POST", "/collections/docs/snapshots"),
        ("DELETE", "/collections/docs/snapshots/x.snapshot"),
        ("POST", "/snapshots"),
        ("POST", "/collections/docs/points/scroll"),
        ("POST", "/collections/docs/points"),
        ("GET", "/collections/docs"),
    ],
)
def test_reads_and_snapshot_files_touch_nothing(method: Any, uri: Any) -> None:
    assert of(method, uri).nothing


@pytest.mark.parametrize("uri", ["//collections//docs//points/", "/collections/%64ocs/points?x=/y", "/collections/docs/points//"])
def test_spellings_of_a_path_that_qdrant_accepts(uri: Any) -> None:
    assert path_of(uri).text == "/collections/docs/points"
    assert of("PUT", uri, {"points": [{"id": 1}]}) == Affected("docs", frozenset({1}))
    assert is_read("POST", uri)
    assert not is_read("PUT", uri)


def test_routes_are_named_as_telemetry_counts_them(recorded: Any) -> None:
    lines = recorded("qdrant-1.18.3.jsonl")
    at = next(i for i, line in enumerate(lines) if line["path"] == "/telemetry")
    counted = set(lines[at]["answer"]["result"]["requests"]["rest"]["responses"])
    seen = {route(line["method"], line["path"]) for line in lines[:at] if line["server"] == "source"}
    # Routes that exist nowhere and requests that were counted after the answer was made are not in it.
    assert counted <= seen | {"GET /telemetry"}


def test_every_recorded_write_is_understood(recorded: Any) -> None:
    for exchange in recorded("qdrant-1.18.3.jsonl"):
        if is_read(exchange["method"], exchange["path"]) or exchange["status"] != 200:
            continue
        body = b"" if exchange["body"] is None else json.dumps(exchange["body"]).encode()
        found = affected_by(exchange["method"], exchange["path"], body)
        assert not found.refuse, exchange["note"]
        assert "could not be read" not in found.why, exchange["note"]


@given(st.binary(max_size=200), st.sampled_from(["points", "points/delete", "points/batch", "points/payload"]))
def test_odd_bodies_never_raise_and_are_never_overlooked(body: Any, rest: Any) -> None:
    found = affected_by("POST" if rest != "points" else "PUT", f"/collections/c/{rest}", body)
    assert found.whole or found.ids or found.filters or found.refuse or b"[]" in body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["points", "filter", "batch", "ids", "id"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_odd_json_never_raises(value: Any) -> None:
    for rest in ("points/delete", "points/batch", "points/vectors"):
        affected_by("POST", f"/collections/c/{rest}", json.dumps(value).encode())
