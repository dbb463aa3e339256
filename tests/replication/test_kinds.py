"""Collections of every kind that Qdrant makes, from the copy to the answers: the same steps for each, and none may stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.checks import baseline
from cutover.checks.qdrant import _answers_differ
from cutover.context import Context
from cutover.qdrant import limits
from cutover.qdrant.access import Caller, Right
from cutover.qdrant.schema import compare_schemas, schema_of
from cutover.replication import schema
from cutover.replication.base_copy import base_copy
from cutover.replication.follower import Follower
from cutover.replication.position import Position
from cutover.replication.proof import prove_everything, prove_quickly
from tests.replication.test_follower import Record
from tests.support.qdrant_pair import Pair, operating, pair_of_servers

RECORDS = 40
PLAIN = {"vectors": {"size": 4, "distance": "Cosine"}}
SPARSE = {"sparse_vectors": {"words": {"modifier": "idf"}}}
SEVERAL = {"size": 2, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}
SCALAR = {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}}

#: What `PUT /collections/{name}` says.
KINDS: dict[str, dict[str, Any]] = {
    "scalar quantization": PLAIN | {"quantization_config": SCALAR},
    "product quantization": PLAIN | {"quantization_config": {"product": {"compression": "x4"}}},
    "binary quantization": PLAIN | {"quantization_config": {"binary": {"encoding": "two_bits"}}},
    "quantization of one vector": {"vectors": {"a": PLAIN["vectors"] | {"quantization_config": SCALAR}, "b": SEVERAL}},
    "on disk": {"vectors": PLAIN["vectors"] | {"on_disk": True}, "on_disk_payload": True, "hnsw_config": {"on_disk": True}},
    "shards, replicas, log": PLAIN
    | {"shard_number": 3, "write_consistency_factor": 1, "wal_config": {"wal_capacity_mb": 1, "wal_segments_ahead": 1}},
    "words beside vectors": {"vectors": {"": PLAIN["vectors"], "c": SEVERAL}, **SPARSE},
    "words on disk": {
        "sparse_vectors": {"words": {"index": {"on_disk": True, "full_scan_threshold": 10, "datatype": "float16"}}}
    },
    "half precision": {"vectors": PLAIN["vectors"] | {"datatype": "float16"}},
    "bytes": {"vectors": {"size": 4, "distance": "Euclid", "datatype": "uint8"}},
    "no vectors": {},
    "graph by tenant": PLAIN | {"hnsw_config": {"m": 0, "payload_m": 16}},
}
#: Limits of strict mode, those together that do not hide one another. Each alone was shown on a real 1.18.3.
STRICT: dict[str, dict[str, Any]] = {
    "searches": {"search_allow_exact": False, "search_max_hnsw_ef": 4, "search_max_oversampling": 1.0, "max_timeout": 1},
    "pages": {"max_query_limit": 5, "upsert_max_batchsize": 2, "max_points_count": RECORDS + 5},
    "filters": {"filter_max_conditions": 1, "condition_max_size": 4, "unindexed_filtering_retrieve": False,
                "unindexed_filtering_update": False},
    "sizes": {"max_collection_vector_size_bytes": 16 * (RECORDS + 5), "max_collection_payload_size_bytes": 100_000,
              "max_payload_index_count": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def context(servers: Pair, tmp_path: Path) -> Iterator[Context]:
    with operating(servers, tmp_path) as made:
        yield made


def record(number: int, settings: dict[str, Any]) -> dict[str, Any]:
    vectors = settings.get("vectors") or {}
    vectors = {"": vectors} if "size" in vectors else vectors
    made: dict[str, Any] = {}
    for name, one in vectors.items():
        row = [float((number * (k + 3)) % 17 + 1) for k in range(one["size"])]
        made[name] = [row, row[::-1]] if "multivector_config" in one else row
    for name in settings.get("sparse_vectors", {}):
        made[name] = {"indices": [number % 7, 9 + number % 3], "values": [1.0, 0.5 + number % 2]}
    return {"id": number, "vector": made[""] if set(made) == {""} else made, "payload": {"tag": f"t{number % 3}", "n": number}}


CASES = [pytest.param(settings, {}, id=kind) for kind, settings in KINDS.items()]
CASES += [pytest.param(PLAIN, one, id=f"strict: {name}") for name, one in STRICT.items()]


@pytest.mark.parametrize(("settings", "strict"), CASES)
def test_a_collection_of_any_kind_is_copied_followed_proved_and_answers(
    context: Context, settings: dict[str, Any], strict: dict[str, Any]
) -> None:
    old, new, name = context.old, context.new, "kind"
    with context.guard.act("test", "Fill"):
        old.ask("PUT", f"/collections/{name}", settings)
        old.create_index(name, "tag", "keyword")
        old.upsert(name, [record(i, settings) for i in range(RECORDS)])
        if strict:
            old.patch(name, {"strict_mode_config": {"enabled": True, **strict}})
    assert limits.reasons_against(name, old.info(name), old.shard_keys(name)) == []
    assert base_copy(context, "copy", old, new, name)
    assert not any("one snapshot of all" in said for said in context.ui.sentences)  # type: ignore[attr-defined]

    log: Any = Record()
    path = context.state_dir / "follow.json"
    follower = Follower(log, old, new, Position(), path, copy_collection=print, may_replace=False)
    with context.guard.act("test", "Write and follow"):
        follower.round()
        for method, rest, body in (
            ("PUT", "points", {"points": [record(100, settings)]}),
            ("PUT", "points", {"points": [record(3, settings) | {"payload": {"tag": "other"}}]}),
            ("POST", "points/payload", {"payload": {"more": [1, {"a": None}]}, "points": [5, 6]}),
            ("POST", "points/delete", {"filter": {"must": [{"key": "tag", "match": {"value": "t1"}}]}}),
            ("POST", "points/delete", {"points": [7]}),
        ):
            old.raw(method, f"/collections/{name}/{rest}", body, params={"wait": "true"})
            log.add("old", method, f"/collections/{name}/{rest}?wait=true", body)
        done = follower.round()
        assert done.ids[name] >= {100, 3, 5, 6, 7, 1, 4}
        assert follower.left_out() == []
        compared, differences = prove_everything(follower)
        assert differences == []
        assert compared[0].records > 20
        assert prove_quickly(follower, done.ids, counts=True, timeout=5) == []

    told = baseline._qdrant(context)
    found = baseline._same_answers(context, told)
    assert found.ok, found.sentence
    asked = [question for one in told["collections"].values() for question in one["questions"]]
    assert bool(asked) is bool(settings)
    assert _answers_differ(old, new, name, lambda _name: set()) == ""


#: What `PUT /collections/{name}/index` says of a field, from the commonest to the oddest.
INDEXES: list[Any] = [
    *("keyword", "integer", "float", "geo", "text", "bool", "datetime", "uuid"),
    {"type": "keyword", "is_tenant": True, "on_disk": True},
    {"type": "integer", "lookup": True, "range": False},
    {"type": "integer", "is_principal": True, "on_disk": True},
    {"type": "float", "is_principal": True},
    {"type": "datetime", "is_principal": True, "on_disk": True},
    {"type": "uuid", "is_tenant": True},
    {"type": "geo", "on_disk": True},
    {"type": "bool", "on_disk": True},
    {"type": "text", "tokenizer": "prefix", "min_token_len": 2, "max_token_len": 9, "lowercase": False},
    {"type": "text", "tokenizer": "multilingual", "on_disk": True},
    {"type": "text", "tokenizer": "whitespace", "phrase_matching": True, "ascii_folding": True},
    {"type": "text", "tokenizer": "word", "stopwords": {"languages": ["english"], "custom": ["qdrant"]},
     "stemmer": {"type": "snowball", "language": "english"}},
    {"type": "text", "stopwords": "german"},
    {"type": "keyword", "enable_hnsw": False},
]  # fmt: skip

#: What `PATCH /collections/{name}` says, one after another.
CHANGES: list[dict[str, Any]] = [
    {"optimizers_config": {"indexing_threshold": 500, "max_segment_size": 9000, "deleted_threshold": 0.3}},
    {"optimizers_config": {"max_optimization_threads": 1, "prevent_unoptimized": True}},
    {"hnsw_config": {"m": 8, "ef_construct": 50, "inline_storage": True}},
    {"quantization_config": SCALAR},
    {"quantization_config": {"binary": {}}},
    {"quantization_config": "Disabled"},
    {"vectors": {"a": {"quantization_config": SCALAR, "on_disk": True, "hnsw_config": {"m": 5}}}},
    {"vectors": {"a": {"quantization_config": "Disabled", "on_disk": False}}},
    {"sparse_vectors": {"words": {"index": {"on_disk": True, "full_scan_threshold": 100}}}},
    {"params": {"on_disk_payload": False, "read_fan_out_factor": 1}},
    {"strict_mode_config": {"enabled": True, "max_query_limit": 50}},
    {"strict_mode_config": {"enabled": False}},
    {"metadata": {"owner": "somebody"}},
    {"metadata": {"owner": None}},
]  # fmt: skip


def test_every_index_and_setting_is_brought_over_as_it_is(context: Context) -> None:
    old, new, name = context.old, context.new, "kind"
    settings: dict[str, Any] = {"vectors": {"a": PLAIN["vectors"]}, **SPARSE}
    with context.guard.act("test", "Fill"):
        for server in (old, new):
            server.ask("PUT", f"/collections/{name}", settings)
        wrong: list[str] = []
        for one in INDEXES:
            old.create_index(name, "f", one)
            if (said := schema.bring_settings(old, new, name)) or not same(old, new):
                wrong.append(f"index {one}: {said} {compare_schemas(schema_of(old), schema_of(new))}")
            old.delete_index(name, "f")
        for one in CHANGES:
            old.patch(name, one)
            if (said := schema.bring_settings(old, new, name)) or not same(old, new):
                wrong.append(f"change {one}: {said} {compare_schemas(schema_of(old), schema_of(new))}")
    assert wrong == []


def same(old: Any, new: Any) -> bool:
    return compare_schemas(schema_of(old), schema_of(new)) == []


def test_who_was_let_in_before_the_move_is_compared_with_who_is_now(context: Context) -> None:
    """As it is kept, in JSON: the same is met, and a door that has closed or opened is named with who felt it."""
    kept = json.loads(json.dumps(baseline._access(context)))
    found = baseline._same_access(context, kept)
    assert found.ok and "a caller with QDRANT_READ_ONLY_API_KEY: may only read" in found.sentence, found
    for caller, right in ((Caller.KEYLESS, Right.WRITES), (Caller.READ_ONLY, Right.WRITES), (Caller.FULL, Right.OUT)):
        found = baseline._same_access(context, {**kept, caller: right})
        assert not found.ok and f"{caller} {right} before" in found.sentence, found
    found = baseline._same_access(context, {**kept, Caller.ALT: Right.WRITES})
    assert found.ok and f"the key was not given both times: {Caller.ALT}" in found.sentence, found
