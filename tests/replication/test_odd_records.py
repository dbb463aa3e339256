"""What the source holds and the target does not take like anything else: numbers without a word, records larger than a request,
limits of strict mode. Each is brought, or named; none stops the other records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.qdrant import client, compare, looking
from cutover.qdrant.client import Answered
from cutover.qdrant.pages import Limits, Size
from cutover.qdrant.records import bring, sayable_in_json, unsayable
from cutover.replication.follower import Follower
from cutover.replication.position import Position
from cutover.replication.proof import prove_everything, prove_quickly, prove_recent
from tests.support.qdrant_pair import READ_KEY, Pair, pair_of_servers

C = "odd"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    servers.clear()
    with servers.guard.act("test", "Fill"):
        yield servers


def fill(pair: Pair, records: list[dict[str, Any]], **settings: Any) -> None:
    pair.old.ask("PUT", f"/collections/{C}", {"vectors": {"size": 2, "distance": "Dot"}, **settings})
    for one in records:
        # As an application sends it; 1e39 is no number of 32 bits, and Qdrant stores Inf.
        pair.old.ask("PUT", f"/collections/{C}/points", json.dumps({"points": [one]}).encode(), params={"wait": "true"})
    copied(pair)


def copied(pair: Pair) -> None:
    made = pair.old.create_snapshot(C)
    if C in pair.new.collections():
        pair.new.delete_collection(C)
    pair.new.recover(C, pair.old.snapshot_url(C, made["name"]), checksum=made["checksum"], source_key=READ_KEY)


class Nothing:
    """A gate that recorded nothing."""

    def read_parts(self, _offset: int) -> list[Any]:
        return []


def following(pair: Pair, tmp_path: Path, *, may_replace: bool, copy: Callable[[str], None] | None = None) -> Follower:
    gate: Any = Nothing()
    again = copy or (lambda _name: copied(pair))
    return Follower(
        gate, pair.old, pair.new, Position(), tmp_path / "follow.json", copy_collection=again, may_replace=may_replace
    )


def same(pair: Pair) -> None:
    assert compare.compare_collection(pair.old, pair.new, C).differences == []


def test_a_vector_with_inf_is_the_same_on_both_after_a_snapshot_and_its_payload_is_followed(pair: Pair) -> None:
    fill(pair, [{"id": 7, "vector": [1e39, 1]}, {"id": 8, "vector": [1, 1]}])
    found = compare.compare_collection(pair.old, pair.new, C)
    assert (found.differences, found.unsayable) == ([], [7])
    pair.old.overwrite_payload(C, 7, {"a": None, "b": "Infinity"})
    pair.old.overwrite_payload(C, 8, {"a": 1})
    assert bring(pair.old, pair.new, C, [7, 8], Size(500)) == []
    same(pair)


def test_a_vector_with_inf_that_was_written_since_is_named_and_brought_by_snapshot(pair: Pair, tmp_path: Path) -> None:
    fill(pair, [{"id": i, "vector": [i, 1]} for i in range(5)])
    bad = {"points": [{"id": 3, "vector": [1e39, 1], "payload": {"x": 1}}, {"id": 4, "vector": [9, 9]}]}
    pair.old.ask("PUT", f"/collections/{C}/points", json.dumps(bad).encode(), params={"wait": "true"})
    follower = following(pair, tmp_path, may_replace=True)
    follower._bring_ids(C, [3, 4])
    (said,) = follower.left_out()
    assert "record 3 " in said
    assert "Inf or NaN" in said
    assert C in said
    assert prove_everything(follower)[1] == [], "what is left out is named, and is no difference that nothing explains"
    assert follower.bring_by_snapshot()
    assert follower.left_out() == []
    same(pair)


def test_on_the_way_back_it_is_left_out_and_said_and_stands_in_nobodys_way(pair: Pair, tmp_path: Path) -> None:
    fill(pair, [{"id": i, "vector": [i, 1]} for i in range(5)])
    bad = {"points": [{"id": 3, "vector": [1e39, 1]}, {"id": 9, "vector": [1e39, 1]}]}
    pair.old.ask("PUT", f"/collections/{C}/points", json.dumps(bad).encode(), params={"wait": "true"})
    follower = following(pair, tmp_path, may_replace=False)
    follower._bring_ids(C, [3, 9])
    assert not follower.bring_by_snapshot()
    assert prove_everything(follower)[1] == []
    assert prove_quickly(follower, {C: {3, 9}}, counts=True, timeout=5) == []
    follower.position.save(tmp_path / "saved.json")
    loaded = Position.load(tmp_path / "saved.json")
    assert loaded == follower.position
    # Another one that differs is a difference all the same.
    pair.new.overwrite_payload(C, 1, {"tampered": True})
    assert [d.where for d in prove_everything(follower)[1]] == [1]
    pair.new.overwrite_payload(C, 1, {})
    # It is written anew as something that can be said, or goes: then nothing is left out any more.
    pair.old.upsert(C, [{"id": 3, "vector": [3, 3]}])
    pair.old.delete(C, [9])
    follower.round()
    assert follower.left_out() == []
    same(pair)


@pytest.mark.slow
def test_a_record_larger_than_a_request_is_written_in_parts(pair: Pair) -> None:
    fill(pair, [{"id": 1, "vector": [1, 1]}, {"id": 2, "vector": [2, 2]}])
    for part in range(4):
        pair.old.set_payload(C, 1, {f"field {part}": "ü" * (5 << 20), f"more {part}": [part]})
    pair.old.set_payload(C, 2, {"small": True})
    assert len(pair.old.records(C, [1])) > 40_000_000
    with pytest.raises(Answered):  # as a whole no server takes it
        pair.new.upsert(C, [{"id": 1, "vector": [1, 1], "payload": client.points_of(pair.old.records(C, [1]))[0]["payload"]}])
    assert bring(pair.old, pair.new, C, [1, 2], Size(500)) == []
    same(pair)
    found = looking.look_through(pair.old, C, float("inf"))
    assert (found.records, found.whole, found.large) == (2, True, [1])


def test_what_was_brought_lately_is_compared_before_a_hold_and_what_differs_stays_for_it(pair: Pair, tmp_path: Path) -> None:
    fill(pair, [{"id": i, "vector": [i, 1]} for i in range(5)])
    follower = following(pair, tmp_path, may_replace=True)
    pair.old.overwrite_payload(C, 2, {"a": 1})
    follower._bring_ids(C, [1, 2, 3])
    follower._note_recent(C, [1, 2, 3])
    pair.new.overwrite_payload(C, 2, {"a": 2})
    prove_recent(follower)
    assert follower.recent == {C: {2}}


def test_pages_are_measured_and_halved_and_memory_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    several = {"vectors": {"size": 64, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}
    pair.old.ask("PUT", f"/collections/{C}", several)
    for low in range(0, 60, 10):
        rows = [[float(i + k) / 7 for k in range(64)] for i in range(200)]
        pair.old.upsert(C, [{"id": i, "vector": rows[: 1 + 3 * i], "payload": {"i": i}} for i in range(low, low + 10)])
    copied(pair)
    monkeypatch.setattr(client, "MOST_BYTES", 600_000)
    largest = 0
    plain = pair.old._records

    def seen(*args: Any) -> bytes:
        nonlocal largest
        answer = plain(*args)
        largest = max(largest, len(answer))
        return answer

    monkeypatch.setattr(pair.old, "_records", seen)
    assert compare.compare_collection(pair.old, pair.new, C, threads=1).records == 60
    pair.new.delete(C, range(60))
    assert bring(pair.old, pair.new, C, range(60), Size(500)) == []
    assert 100_000 < largest <= 600_000
    monkeypatch.undo()
    same(pair)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_query_limit": 1000},
        {"max_query_limit": 7},
        {"upsert_max_batchsize": 3},
        {"max_query_limit": 1, "upsert_max_batchsize": 1},
        {"max_points_count": 60},
        {"read_rate_limit": 30, "write_rate_limit": 18, "max_query_limit": 20},
    ],
)
def test_the_limits_of_strict_mode_are_kept(pair: Pair, limits: dict[str, Any]) -> None:
    fill(pair, [])
    pair.old.upsert(C, [{"id": i, "vector": [i, 1], "payload": {"n": i}} for i in range(60)])
    copied(pair)
    for server in (pair.old, pair.new):
        server.patch(C, {"strict_mode_config": {"enabled": True, **limits}})
    pair.old.delete(C, range(50, 60))
    for low in (60, 63, 66):
        for one in range(low, min(low + 3, 68)):
            pair.old.upsert(C, [{"id": one, "vector": [one, 2]}])
    info = pair.old.info(C)
    assert Limits.of(info).query == limits.get("max_query_limit")
    assert {d.where for d in compare.compare_collection(pair.old, pair.new, C).differences} == {*range(50, 60), *range(60, 68)}
    assert bring(pair.old, pair.new, C, range(68), Size(500, Limits.of(info))) == []
    same(pair)


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"end": True}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


def test_a_payload_nested_deeper_than_a_record_may_be_is_written_alone(pair: Pair) -> None:
    fill(pair, [{"id": 1, "vector": [1, 1]}, {"id": 2, "vector": [2, 2], "payload": {"x": 1}}])
    pair.old.set_payload(C, 1, nested(125))
    with pytest.raises(Answered, match="recursion limit"):
        pair.new.upsert(C, [{"id": 1, "vector": [1, 1], "payload": nested(125)}])
    assert bring(pair.old, pair.new, C, [1, 2], Size(500)) == []
    same(pair)


def test_a_record_that_its_own_server_cannot_read_is_named_and_stands_in_no_others_way(pair: Pair, tmp_path: Path) -> None:
    fill(pair, [{"id": i, "vector": [i, 1]} for i in range(1, 41)])
    path = {"key": ".".join("b" * 150), "payload": {"x": 1}, "points": [7]}
    pair.old.upsert(C, [{"id": i, "vector": [i, 2]} for i in (6, 8)])
    with pytest.raises(Answered, match="500"):  # it stores that all the same, and from then on takes no write at all
        pair.old.ask("POST", f"/collections/{C}/points/payload", path, params={"wait": "true"})
    follower = following(pair, tmp_path, may_replace=True)
    follower._bring_ids(C, range(1, 41))
    (said,) = follower.left_out()
    assert "record 7 (the server itself cannot read its payload" in said
    assert follower.unreadable() == {C: [7]}
    assert not follower.bring_by_snapshot(), "no snapshot brings it"
    compared, differences = prove_everything(follower)
    assert (compared[0].records, compared[0].unsayable, differences) == (40, [7], [])
    assert prove_quickly(follower, {C: {6, 7, 8}}, counts=True, timeout=5) == []
    assert looking.look_through(pair.old, C, float("inf")).unreadable == [7]
    assert json.loads(looking.some(pair.old, C, 100))["result"]["points"]


def test_numbers_that_a_server_rewrites_are_followed_and_no_difference(pair: Pair) -> None:
    fill(pair, [{"id": i, "vector": [i, 1], "payload": {"p": float(f"{i}.{i * 77}e-{20 + i}")}} for i in range(1, 60)])
    assert bring(pair.old, pair.new, C, range(1, 60), Size(500)) == []
    assert bring(pair.old, pair.new, C, range(1, 60), Size(500)) == []
    same(pair)


def test_a_limit_that_is_off_is_none() -> None:
    assert Limits.of({"config": {"strict_mode_config": {"enabled": False, "max_query_limit": 1}}}) == Limits()
    assert Limits.of({"config": {}}) == Limits()


def test_what_json_can_say() -> None:
    assert sayable_in_json([1.0, 2])
    assert sayable_in_json({"": [1.0], "size": {"indices": [1], "values": [2.0]}, "m": [[1.0], [2.0]]})
    assert sayable_in_json({})
    assert sayable_in_json(None)
    for odd in ([None, 1], [float("inf")], {"m": [[1.0], [None]]}, {"s": {"indices": [1], "values": [float("nan")]}}):
        assert not sayable_in_json(odd)


def test_who_asks_more_often_than_allowed_waits_as_long_as_the_server_says_and_inside_a_hold_not_at_all(pair: Pair) -> None:
    fill(pair, [])
    pair.old.patch(C, {"strict_mode_config": {"enabled": True, "read_rate_limit": 60}})
    for _ in range(62):
        pair.old.count(C)
    pair.old.patient = False
    try:
        with pytest.raises(Answered, match=r"[Rr]ate limit"):
            for _ in range(62):
                pair.old.count(C)
    finally:
        pair.old.patient = True


@pytest.mark.parametrize(
    ("answer", "taken_apart"),
    [
        (b'{"id":1,"payload":{"a":null,"b":"NaN"},"vector":[1.0,2.0]}', False),
        (b'{"id":1,"payload":{},"vector":[1.0,null]}', True),
        (b'{"id":1,"payload":{"a":null},"vector":{"v":[null,1.0]}}', True),
        (b'{"id":1,"payload":null,"vector":[1.0, -Infinity]}', True),
    ],
)
def test_only_a_list_that_may_hold_no_number_is_taken_apart(answer: bytes, taken_apart: bool) -> None:
    page = b'{"result":{"points":[' + answer + b'],"next_page_offset":null},"status":"ok","time":0.1}'
    assert unsayable(page) == ([1] if taken_apart else [])
