"""What "the same data" means: each difference is found and named, and equal data is never called different."""

import json
import math
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.qdrant import compare, schema
from cutover.qdrant.affected import Depth
from cutover.qdrant.compare import Difference, compare_answers
from cutover.qdrant.pages import Limits, Size
from cutover.qdrant.schema import Schema, compare_schemas
from tests.support.qdrant_pair import READ_KEY, pair_of_servers, scroll


def answer(*records: Any) -> Any:
    return json.dumps({"result": list(records), "status": "ok", "time": 0.1}).encode()


def scrolled(*records: Any, following: Any = None) -> Any:
    return json.dumps({"result": {"points": list(records), "next_page_offset": following}, "status": "ok", "time": 0.1}).encode()


@pytest.mark.parametrize(
    ("mine", "theirs", "kinds"),
    [
        ({"vector": [1.5, 2.5]}, {"vector": [1.5, 2.5]}, []),
        ({"vector": [0.1]}, {"vector": [0.10000001]}, ["vector"]),
        ({"vector": [0.0]}, {"vector": [-0.0]}, ["vector"]),
        ({"vector": {"a": [1.0], "b": [2.0]}}, {"vector": {"b": [2.0], "a": [1.0]}}, []),
        ({"vector": {"a": [1.0]}}, {"vector": {"a": [1.0], "b": [2.0]}}, ["vector"]),
        ({"vector": {"s": {"indices": [1], "values": [0.5]}}}, {"vector": {"s": {"indices": [2], "values": [0.5]}}}, ["vector"]),
        ({"vector": [[1.0], [2.0]]}, {"vector": [[2.0], [1.0]]}, ["vector"]),
        ({"payload": {"a": 1, "b": 2}}, {"payload": {"b": 2, "a": 1}}, []),
        ({"payload": {}}, {}, []),
        ({"payload": {"a": 1}}, {"payload": {"a": 1.0}}, ["payload"]),
        ({"payload": {"a": 1}}, {"payload": {"a": True}}, ["payload"]),
        ({"payload": {"a": "1"}}, {"payload": {"a": 1}}, ["payload"]),
        ({"payload": {"a": None}}, {"payload": {}}, ["payload"]),
        ({"payload": {"a": [1, 2]}}, {"payload": {"a": [2, 1]}}, ["payload"]),
        ({"payload": {"a": 9007199254740993}}, {"payload": {"a": 9007199254740992}}, ["payload"]),
        ({"payload": {"a": -0.0}}, {"payload": {"a": 0.0}}, ["payload"]),
        ({"payload": {"a": ["-0.0"]}}, {"payload": {"a": -0.0}}, ["payload"]),
        ({"payload": {"a": {"b": [{}]}}}, {"payload": {"a": {"b": [{"c": None}]}}}, ["payload"]),
    ],
)
def test_two_versions_of_a_record(mine: Any, theirs: Any, kinds: Any) -> None:
    pages = answer({"id": 1} | mine), answer({"id": 1} | theirs)
    assert [d.kind for d in compare_answers("docs", *pages, [1])] == kinds


@pytest.mark.parametrize("one", ["x", "009d9326-e980-4a43-81a5-55d1db21c784\x1b[2J", None, 1.5, ["1"]])
def test_an_id_that_can_be_none_is_not_passed_on(one: Any) -> None:
    """The other server would be asked for it, and blamed for its answer."""
    page = json.dumps({"result": {"points": [{"id": one, "payload": {}}], "next_page_offset": None}}).encode()
    with pytest.raises((ValueError, TypeError)):
        compare.records_in(page, False)


def test_missing_and_extra_records_are_named() -> None:
    found = compare_answers("docs", answer({"id": 1}, {"id": 2}), answer({"id": 2}, {"id": 3}), [1, 2, 3, 4])
    assert found == [Difference("missing", "docs", 1), Difference("extra", "docs", 3)]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def exact(value: Any) -> Any:
    """An independent idea of sameness: type and text of every leaf."""
    if isinstance(value, dict):
        return {k: exact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [exact(v) for v in value]
    return (type(value).__name__, repr(value))


@given(st.dictionaries(st.text(max_size=2), values, max_size=3), st.dictionaries(st.text(max_size=2), values, max_size=3))
def test_payloads_are_equal_exactly_when_they_are_the_same(left: Any, right: Any) -> None:
    for other in (left, right):
        pages = answer({"id": 1, "payload": left}), answer({"id": 1, "payload": other})
        assert (not compare_answers("docs", *pages, [1])) == (exact(left) == exact(other))


ids = st.integers(0, 60) | st.integers(0, 15).map(lambda n: str(uuid.UUID(int=n)))


@given(st.dictionaries(ids, st.integers(0, 2)), st.dictionaries(ids, st.integers(0, 2)), st.integers(1, 5))
def test_a_whole_comparison_finds_exactly_what_differs(left: Any, right: Any, limit: Any) -> None:
    """Two made-up servers that only know how to page; every size of page must find the same differences."""

    class Pages:
        def __init__(self, content: Any) -> None:
            self.content = sorted(
                ({"id": k, "payload": {"v": v}, "vector": [1.0]} for k, v in content.items()),
                key=lambda r: compare.order(r["id"]),
            )

        def page(self, _collection: Any, offset: Any, count: Any, **_rest: Any) -> Any:
            rest = [r for r in self.content if offset is None or compare.order(r["id"]) >= compare.order(offset)]
            following = rest[count]["id"] if len(rest) > count else None
            return scrolled(*rest[:count], following=following)

    result, size = compare.Compared("docs"), Size(limit)
    one: Any = Pages(left)
    other: Any = Pages(right)
    cut = 30
    for start, end in ((None, cut), (cut, None)):
        compare._compare_range(one, other, "docs", start, end, size, True, True, result, lambda _n: None)
    expected = {("missing", k) for k in left.keys() - right.keys()} | {("extra", k) for k in right.keys() - left.keys()}
    expected |= {("payload", k) for k in left.keys() & right.keys() if left[k] != right[k]}
    assert {(d.kind, d.where) for d in result.differences} == expected
    assert result.count == len(expected)
    assert result.records == len(left)


def test_schemas_are_compared_by_setting_index_and_alias() -> None:
    one = Schema(
        {"a": {"params": {"x": 1, "y": {"z": 2}}}, "b": {}}, {"a": {"lang": {"data_type": "keyword"}}, "b": {}}, {"now": "a"}
    )
    two = Schema({"a": {"params": {"x": 1, "y": {"z": 3}}}, "c": {}}, {"a": {}, "c": {}}, {"now": "c"})
    assert [(d.kind, d.where) for d in compare_schemas(one, two)] == [
        ("setting", "params.y.z"),
        ("index", "lang"),
        ("collection", "b"),
        ("collection", "c"),
        ("alias", "now"),
    ]
    assert compare_schemas(one, one) == []


# -- on servers -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def servers(tmp_path_factory: Any) -> Any:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


KINDS: dict[str, tuple[dict[str, Any], Callable[[int], Any]]] = {
    "plain": ({"vectors": {"size": 4, "distance": "Cosine"}}, lambda i: [0.1 * i, 1, -0.5, 3]),
    "many": (
        {"vectors": {"a": {"size": 3, "distance": "Dot"}, "m": {"size": 2, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}, "sparse_vectors": {"s": {}}},
        lambda i: {"a": [i, -0.0, 1], "m": [[1.5, i + 0.5], [0.5, 0.25]], "s": {"indices": [i, i + 7], "values": [0.1, 0.2]}} if i % 3 else {"a": [i, 0, 1]},
    ),
    "half, cosine": (
        {"vectors": {"a": {"size": 5, "distance": "Cosine", "datatype": "float16"}, "m": {"size": 3, "distance": "Cosine", "datatype": "float16", "multivector_config": {"comparator": "max_sim"}}}},
        lambda i: {"a": [math.sin(i * k) for k in range(1, 6)], "m": [[math.sin(i * k), math.cos(i + k), 0.1] for k in range(1 + i % 3)]},
    ),
    "half": ({"vectors": {"size": 4, "distance": "Dot", "datatype": "float16"}}, lambda i: [0.1 * i, 1 / 3, -0.0, 3]),
    "bytes": ({"vectors": {"size": 4, "distance": "Dot", "datatype": "uint8"}}, lambda i: [i % 255, 0, 255, 3]),
    "quantized": ({"vectors": {"size": 8, "distance": "Euclid"}, "quantization_config": {"scalar": {"type": "int8"}}}, lambda i: [0.1 * i] * 8),
}  # fmt: skip


@pytest.fixture(params=sorted(KINDS))
def copied(servers: Any, request: Any) -> Any:
    """A collection of each kind, copied by snapshot, with UUID ids and records without payload."""
    servers.clear()
    settings, vector = KINDS[request.param]
    with servers.guard.act("test", "Fill"):
        servers.old.ask("PUT", "/collections/c", settings)
        records = [{"id": i, "vector": vector(i), "payload": {"n": i, "big": 2**60 + i, "f": 0.1 * i}} for i in range(1, 200)]
        records += [{"id": str(uuid.UUID(int=i << 100)), "vector": vector(i)} for i in range(1, 100)]
        servers.old.upsert("c", records)
        made = servers.old.create_snapshot("c")
        servers.new.recover("c", servers.old.snapshot_url("c", made["name"]), checksum=made["checksum"], source_key=READ_KEY)
        yield servers


def test_a_copy_is_the_same_bit_by_bit(copied: Any) -> None:
    found = compare.compare_collection(copied.old, copied.new, "c")
    assert (found.records, found.count) == (298, 0)
    assert compare.compare_counts(copied.old, copied.new, ["c"]) == []
    assert compare_schemas(schema.schema_of(copied.old), schema.schema_of(copied.new)) == []


def test_records_read_and_written_back_are_the_same_bit_by_bit(copied: Any) -> None:
    from cutover.qdrant.records import bring

    ids = [r["id"] for r in scroll(copied.old, "c", vectors=False)]
    copied.new.delete("c", ids)
    assert compare.compare_collection(copied.old, copied.new, "c").count == 298
    assert bring(copied.old, copied.new, "c", ids, Size(500, Limits.of(copied.old.info("c")))) == []
    assert compare.compare_collection(copied.old, copied.new, "c").differences == []


def test_what_was_changed_on_one_side_is_found_and_named(copied: Any) -> None:
    uuid5 = str(uuid.UUID(int=5 << 100))
    copied.new.delete("c", [17, uuid5])
    copied.new.ask("POST", "/collections/c/points/payload?wait=true", {"payload": {"n": 1.0}, "points": [1]})
    copied.old.delete("c", [42])
    found = {(d.kind, d.where) for d in compare.compare_collection(copied.old, copied.new, "c").differences}
    assert found == {("missing", 17), ("missing", uuid5), ("payload", 1), ("extra", 42)}
    assert {d.where for d in compare.compare_collection(copied.old, copied.new, "c", depth=Depth.IDS).differences} == {
        17,
        uuid5,
        42,
    }
    assert {d.kind for d in compare.compare_ids(copied.old, copied.new, "c", [17, 1, 42, 2])} == {"missing", "payload", "extra"}
    assert compare.compare_counts(copied.old, copied.new, ["c"])


def test_a_payload_that_looks_like_the_end_of_an_answer_is_compared_too() -> None:
    """`status` is what many a payload calls a field, and what follows the result in every answer of Qdrant."""

    def answer(status: str) -> bytes:
        payload = f'{{"a":1,"status":"{status}"}}'
        return f'{{"result":[{{"id":1,"payload":{payload},"vector":[1.0,2.0]}}],"status":"ok","time":0.0001}}'.encode()

    found = compare.compare_answers("docs", answer("open"), answer("paid"), [1])
    assert [(d.kind, d.where, d.detail) for d in found] == [("payload", 1, "field status")]


def test_small_collections_are_compared_with_few_requests_and_their_differences_named(copied: Any) -> None:
    copied.new.delete("c", [17])
    sent = copied.old.sent.copy()
    (found,) = compare.compare_collections(copied.old, copied.new, {"c": 298, "gone": 3})
    assert (found.records, [(d.kind, d.where) for d in found.differences]) == (298, [("missing", 17)])
    asked = copied.old.sent - sent
    assert asked["POST /collections/{collection_name}/points/query"] == 0, "where to cut is asked of large ones alone"
    assert asked["POST /collections/{collection_name}/points/scroll"] == 3, "16 records, 64, and all others"
