"""Following: what recorded writes ask for, and that a round brings exactly that. The gate is played from a list of lines."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from cutover.core.errors import Refused
from cutover.core.ui import SilentUi
from cutover.gate.write_log import Write
from cutover.qdrant import compare, records, schema
from cutover.qdrant.affected import Affected, Depth
from cutover.qdrant.client import Answered, Qdrant
from cutover.replication import follower, proof, switchover, work
from cutover.replication.follower import Follower
from cutover.replication.hold import TooMuchForAHold
from cutover.replication.position import CannotFollow, Position
from cutover.replication.proof import few, prove_everything, prove_quickly, shorten_the_hold
from cutover.replication.schema import index_schema, patch_for
from cutover.replication.work import alias_moves, happened
from tests.support.qdrant_pair import KEY, pair_of_servers, scroll


@dataclass
class Record:
    """The gate's log and bodies as a list: what Nginx would have written down. It says nothing about holding or switching."""

    lines: list[Write] = field(default_factory=list)
    content: dict[str, bytes] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)

    def add(self, side: Any, method: Any, uri: Any, body: Any = None, status: Any = 200) -> Any:
        name = f"{len(self.lines):010d}" if body is not None else ""
        self.content[name] = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.lines.append(Write(100 * (len(self.lines) + 1), time.time(), method, uri, status, side, name))

    def began_just_before(self) -> None:
        """The last write began when the one before had ended."""
        self.lines[-1] = replace(self.lines[-1], began=self.lines[-1].offset - 10)

    def log_end(self) -> int:
        return self.lines[-1].offset if self.lines else 0

    def read_log(self, from_offset: Any) -> Any:
        return [line for line in self.lines if line.offset > from_offset]

    def read_parts(self, from_offset: Any) -> Any:
        return iter([self.read_log(from_offset)])

    def bodies(self, entries: Any) -> Any:
        return ((entry, self.content[entry.body]) for entry in entries)

    def forget_bodies(self, entries: Any) -> Any:
        self.forgotten += [entry.body for entry in entries]


class Application:
    """Writes to the serving server and has it written down, as the gate does."""

    def __init__(self, server: Any, record: Any, side: Any) -> None:
        self.server, self.record, self.side = server, record, side

    def __call__(self, method: Any, uri: Any, body: Any = None) -> Any:
        path, _, query = uri.partition("?")
        status = 200
        try:
            self.server.ask(method, path, body, params=dict(p.split("=") for p in query.split("&")) if query else None)
        except Answered as error:
            status = error.status
        self.record.add(self.side, method, uri, body, status)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: Any) -> Any:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@dataclass
class Stage:
    old: object
    new: object
    record: Record
    follower: Follower
    write: Application


@pytest.fixture
def stage(servers: Any, tmp_path: Any) -> Any:
    servers.clear()
    old, new = servers.old, servers.new
    with servers.guard.act("test", "Fill and follow"):
        for server in (old, new):
            server.ask("PUT", "/collections/docs", {"vectors": {"size": 2, "distance": "Dot"}})
            server.upsert("docs", [{"id": i, "vector": [i, 1], "payload": {"n": i}} for i in range(200)])
            server.change_aliases([{"create_alias": {"alias_name": "now", "collection_name": "docs"}}])
        record: Any = Record()

        def copy(name: Any) -> Any:
            made = old.create_snapshot(name)
            if name in new.collections():
                new.delete_collection(name)
            new.recover(name, old.snapshot_url(name, made["name"]), checksum=made["checksum"], source_key="read-key-of-the-pair")

        follower = Follower(record, old, new, Position(), tmp_path / "follow.json", copy_collection=copy, may_replace=True)
        yield Stage(old, new, record, follower, Application(old, record, "old"))


def test_what_may_be_on_the_other_server_before_its_line_was_read_is_known(stage: Any) -> None:
    """A record is read as it is, not as the line left it; a way back from the records has to know how far that reaches."""
    stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"tag": "a"}, "points": [1]})
    saved: list[Any] = []
    plain: Any = stage.old.records

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        saved.append(Position.load(stage.follower.path))
        vars(stage.old).pop("records")
        stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"tag": "b"}, "points": [1]})
        return plain(*args, **kwargs)

    stage.old.records = meanwhile
    stage.follower.round()
    stage.follower.note_ahead()
    assert (saved[0].ahead, saved[0].offset) == (None, 0), "a tool that is killed here leaves word of it"
    found: Any = Position.load(stage.follower.path)
    assert (found.offset, found.ahead) == (100, 200)
    assert json.loads(stage.new.records("docs", [1]))["result"][0]["payload"]["tag"] == "b"
    stage.follower.round()
    stage.follower.round()
    found = Position.load(stage.follower.path)
    assert (found.offset, found.ahead) == (200, 200), "who goes on has read so far by itself"


def same(stage: Any) -> Any:
    assert schema.compare_schemas(schema.schema_of(stage.old), schema.schema_of(stage.new)) == []
    for name in stage.old.collections():
        assert compare.compare_collection(stage.old, stage.new, name).differences == []


def test_every_kind_of_write_is_brought_over(stage: Any) -> None:
    at = "/collections/now/points"
    for method, uri, body in [
        ("PUT", f"{at}?wait=true", {"points": [{"id": 500, "vector": [1, 2], "payload": {"a": -0.0}}]}),
        ("PUT", at, {"batch": {"ids": [501, 1], "vectors": [[1, 2], [3, 4]]}}),
        ("POST", f"{at}/payload", {"payload": {"x": 1}, "points": [2]}),
        ("PUT", f"{at}/payload", {"payload": {"y": 2**63}, "points": [3]}),
        ("POST", f"{at}/payload/delete", {"keys": ["n"], "points": [4]}),
        ("POST", f"{at}/payload/clear", {"points": [5]}),
        ("PUT", f"{at}/vectors", {"points": [{"id": 6, "vector": [9, 9]}]}),
        ("POST", f"{at}/delete", {"points": [7, 12345]}),
        (
            "POST",
            f"{at}/batch",
            {"operations": [{"delete": {"points": [8]}}, {"set_payload": {"payload": {"z": 1}, "points": [9]}}]},
        ),
    ]:
        stage.write(method, uri, body)
    done = stage.follower.round()
    assert done.ids["docs"] >= {500, 501, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12345}
    assert stage.follower.round().lines == 0
    same(stage)


def test_a_write_that_was_only_acknowledged_is_not_read_too_early(stage: Any, servers: Any) -> None:
    servers.switch("old", apply_delay_ms=100)
    for attempt in range(5):
        ids = random.sample(range(200), 50)
        stage.write("PUT", "/collections/docs/points/payload", {"payload": {"attempt": attempt}, "points": ids})
        stage.follower.round()
        assert compare.compare_ids(stage.old, stage.new, "docs", ids) == []


def test_a_round_that_was_interrupted_is_done_again_without_harm(stage: Any, tmp_path: Any) -> None:
    stage.write("POST", "/collections/docs/points/delete?wait=true", {"points": [1, 2, 3]})
    stage.follower.round()
    again = Follower(
        stage.record, stage.old, stage.new, Position(), tmp_path / "other.json", copy_collection=print, may_replace=False
    )
    again.round()
    same(stage)
    saved = Position.load(tmp_path / "other.json")
    assert saved is not None
    assert saved.offset == stage.record.lines[-1].offset
    assert stage.record.forgotten


BELOW_50 = {"filter": {"must": [{"key": "n", "range": {"lt": 50}}]}}


def test_writes_by_filter_are_followed_without_comparing_everything(stage: Any) -> None:
    above = {"must": [{"key": "n", "range": {"gt": 150}}]}
    stage.write("POST", "/collections/docs/points/delete?wait=true", BELOW_50)
    for value in (1, 2):  # equal filters are asked once
        stage.write("POST", "/collections/now/points/payload?wait=true", {"payload": {"q": value}, "filter": above})
    done = stage.follower.round()
    assert (done.compared, done.asked) == ([], 2)
    assert done.ids["docs"] == {*range(50), *range(151, 200)}
    same(stage)


def test_a_filter_that_matched_only_in_between_is_followed_by_the_write_that_made_it_match(stage: Any) -> None:
    """The other server never held what the second filter matched; but the record is known by the first write."""
    stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"n": 1000}, **BELOW_50})
    between = {"filter": {"must": [{"key": "n", "match": {"value": 1000}}]}}
    stage.write("POST", "/collections/docs/points/payload?wait=false", {"payload": {"seen": True}, **between})
    stage.write("PUT", "/collections/docs/points?wait=true", {"points": [{"id": 900, "vector": [1, 1], "payload": {"n": 1000}}]})
    stage.write("POST", "/collections/docs/points/delete?wait=false", between)
    stage.follower.round()
    same(stage)
    assert stage.new.count("docs") == 150


def test_where_indexes_changed_meanwhile_everything_is_compared(stage: Any) -> None:
    """A filter over text means another thing with an index than without one."""
    words = {"points": [{"id": i, "vector": [i, 1], "payload": {"t": t}} for i, t in enumerate(["cat", "catalogue", "a cat"])]}
    stage.write("PUT", "/collections/docs/points?wait=true", words)
    stage.follower.round()
    cat = {"filter": {"must": [{"key": "t", "match": {"text": "cat"}}]}}
    stage.write("PUT", "/collections/docs/index?wait=true", {"field_name": "t", "field_schema": "text"})
    stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"q": 1}, **cat})
    stage.write("DELETE", "/collections/docs/index/t?wait=true")
    stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"r": 1}, **cat})
    done = stage.follower.round()
    assert (len(done.compared), done.asked) == (1, 0)
    same(stage)
    # A write that was under way when an index was changed may end in a later round.
    stage.write("POST", "/collections/docs/points/delete?wait=true", cat)
    done = stage.follower.round()
    assert (len(done.compared), done.asked) == (1, 0)
    stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"s": 1}, **BELOW_50})
    stage.record.began_just_before()
    done = stage.follower.round()
    assert (done.compared, done.asked) == ([], 1)
    same(stage)


def test_a_filter_that_matches_more_than_fits_into_memory_means_comparing(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "MOST_MATCHES", 20)
    stage.write("POST", "/collections/docs/points/delete?wait=true", BELOW_50)
    done = stage.follower.round()
    assert [(c.count, c.collection) for c in done.compared] == [(50, "docs")]
    same(stage)


def test_a_filter_that_the_other_server_does_not_answer_means_comparing(stage: Any) -> None:
    strict = {"enabled": True, "unindexed_filtering_retrieve": False}
    stage.write("PATCH", "/collections/docs", {"strict_mode_config": strict})
    stage.follower.round()
    stage.write("POST", "/collections/docs/points/delete?wait=true", BELOW_50)
    stage.record.began_just_before()
    done = stage.follower.round()
    assert [c.count for c in done.compared] == [50]
    same(stage)


def test_more_records_are_named_than_are_worked_off_at_a_time(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "NAMED", 30)
    for low in range(0, 200, 20):
        chosen = {"filter": {"must": [{"key": "n", "range": {"gte": low, "lt": low + 20}}]}}
        stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"n": low + 21, "b": low}, **chosen})
        ids = list(range(low, low + 20))
        stage.write("POST", "/collections/docs/points/payload?wait=false", {"payload": {"c": low}, "points": ids})
    batches: list[int] = []
    stage.follower.observers.append(lambda lines: batches.append(len(lines)))
    stage.follower.round()
    assert sum(batches) == 20
    assert len(batches) >= 5
    same(stage)


def test_inside_a_hold_a_filter_is_followed_where_it_fits_and_ends_the_hold_where_not(stage: Any) -> None:
    stage.write("POST", "/collections/docs/points/delete?wait=true", BELOW_50)
    with pytest.raises(TooMuchForAHold, match="filter"):
        stage.follower.round(held=True, budget=0.0001)
    assert stage.follower.position.offset == 0
    done = stage.follower.round(held=True, budget=0.5)
    assert (done.compared, done.asked) == ([], 1)
    same(stage)


def test_inside_a_hold_what_can_only_be_compared_ends_it_when_that_would_take_too_long(stage: Any) -> None:
    stage.write("PUT", "/collections/docs/points?wait=true", {"points": []})
    stage.record.add("old", "PUT", "/collections/docs/points", b"not json")
    with pytest.raises(TooMuchForAHold, match="could not be read"):
        stage.follower.round(held=True, budget=0.0001)
    assert stage.follower.position.offset == 0
    stage.follower.round(held=True, budget=0.5)
    same(stage)


def test_indexes_settings_aliases_and_collections_are_brought_as_they_are_now(stage: Any) -> None:
    stage.write(
        "PUT",
        "/collections/docs/index?wait=true",
        {"field_name": "n", "field_schema": {"type": "integer", "lookup": True, "range": True}},
    )
    stage.write("PUT", "/collections/docs/index?wait=true", {"field_name": "gone", "field_schema": "keyword"})
    stage.write("DELETE", "/collections/docs/index/gone?wait=true")
    stage.write("PATCH", "/collections/docs", {"optimizers_config": {"indexing_threshold": 12345}})
    stage.write("PUT", "/collections/other", {"vectors": {"size": 3, "distance": "Cosine"}})
    stage.write("PUT", "/collections/other/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3]}]})
    stage.write(
        "POST",
        "/collections/aliases",
        {
            "actions": [
                {"delete_alias": {"alias_name": "now"}},
                {"create_alias": {"alias_name": "now", "collection_name": "other"}},
            ]
        },
    )
    stage.follower.round()
    same(stage)
    stage.write("DELETE", "/collections/other")
    stage.follower.round()
    assert stage.new.collections() == ["docs"]
    same(stage)


def test_a_write_through_an_alias_that_has_moved_since_is_not_missed(stage: Any) -> None:
    stage.write("PUT", "/collections/other", {"vectors": {"size": 2, "distance": "Dot"}})
    stage.follower.round()
    stage.write("PUT", "/collections/now/points?wait=true", {"points": [{"id": 777, "vector": [1, 1]}]})
    stage.write(
        "POST", "/collections/aliases", {"actions": [{"create_alias": {"alias_name": "now", "collection_name": "other"}}]}
    )
    stage.follower.round()
    same(stage)


def test_a_collection_is_never_deleted_that_nobody_asked_to_delete(stage: Any) -> None:
    stage.new.ask("PUT", "/collections/theirs", {"vectors": {"size": 2, "distance": "Dot"}})
    stage.write("PUT", "/collections/docs/index?wait=true", {"field_name": "n", "field_schema": "integer"})
    stage.follower.round()
    assert "theirs" in stage.new.collections()


def test_what_is_not_followed_refuses_with_its_name_and_loses_nothing(stage: Any) -> None:
    stage.record.add("old", "PUT", "/quotas", {"enabled": True})
    with pytest.raises(CannotFollow, match="quotas"):
        stage.follower.round()
    assert stage.follower.position.offset == 0


def test_a_collection_with_other_vectors_is_not_replaced_on_the_way_back(stage: Any) -> None:
    stage.follower.may_replace = False
    stage.write("PUT", "/collections/docs/vectors/more?wait=true", {"dense": {"size": 5, "distance": "Dot"}})
    with pytest.raises(CannotFollow, match="settings of docs were changed"):
        stage.follower.round()
    stage.follower.may_replace = True
    stage.follower.round()
    same(stage)


def test_a_late_write_is_brought_over_and_a_conflict_keeps_both_versions(stage: Any, tmp_path: Any) -> None:
    """The traffic moved to the new server; two writes that had been sent long ago reach the old one."""
    follower = Follower(
        stage.record, stage.new, stage.old, Position(side="new"), tmp_path / "late.json", copy_collection=print, may_replace=False
    )
    late = Application(stage.old, stage.record, "old")
    on_new = Application(stage.new, stage.record, "new")
    on_new("POST", "/collections/docs/points/payload?wait=true", {"payload": {"who": "new"}, "points": [10]})
    follower.round()
    late("POST", "/collections/docs/points/payload?wait=true", {"payload": {"who": "late"}, "points": [10, 11]})
    assert follower.round().late == 2
    payload = {r["id"]: r["payload"] for r in scroll(stage.new, "docs", vectors=False)}
    assert payload[11]["who"] == "late"
    assert payload[10]["who"] == "new"
    same(stage)
    kept = [json.loads(line) for line in (tmp_path / "late-writes.jsonl").read_text().splitlines()]
    assert {(k["id"], k["conflict"]) for k in kept} == {(10, True), (11, False)}
    assert {kept[0]["the old server"]["payload"]["who"], kept[0]["the new server"]["payload"].get("who")} & {"late"}
    assert follower.position.conflicts == 1


def test_a_late_write_that_was_only_acknowledged_is_not_looked_for_too_early(stage: Any, servers: Any, tmp_path: Any) -> None:
    """The server left behind has said yes, and has not applied it yet."""
    follower = Follower(
        stage.record, stage.new, stage.old, Position(side="new"), tmp_path / "late.json", copy_collection=print, may_replace=False
    )
    servers.switch("old", apply_delay_ms=200)
    Application(stage.old, stage.record, "old")(
        "POST", "/collections/docs/points/payload", {"payload": {"who": "late"}, "points": [11]}
    )
    assert follower.round().late == 1
    servers.switch("old")
    assert {r["id"]: r["payload"] for r in scroll(stage.new, "docs", vectors=False)}[11]["who"] == "late"


def test_everything_is_proved_while_somebody_writes(stage: Any) -> None:
    stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"busy": 1}, "points": [1, 2, 3]})
    compared, differences = prove_everything(stage.follower)
    assert differences == []
    assert sum(c.records for c in compared) == 200


def several(stage: Any, count: int) -> list[str]:
    """More collections, the same on both."""
    names = [f"more-{number}" for number in range(count)]
    for name in names:
        for server in (stage.old, stage.new):
            server.ask("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
            server.upsert(name, [{"id": 1, "vector": [1, 1]}])
    return names


def test_a_proof_shows_one_progress_for_all_and_looks_again_only_at_what_differed(stage: Any) -> None:
    several(stage, 4)
    stage.new.create_index("more-0", "n", "integer")
    shown: list[Any] = []

    @contextmanager
    def progress(what: str, records: int) -> Iterator[Any]:
        shown.append((what, records))
        yield shown.append

    asked: list[str] = []
    with counting(stage, asked):
        _, differences = prove_everything(stage.follower, progress=progress)
    assert [(d.kind, d.collection) for d in differences] == [("index", "more-0")]
    assert shown[0] == ("5 collections", 204)
    assert sum(shown[1:]) == 204
    settings = Counter(one.removeprefix("GET /collections/") for one in asked if one.startswith("GET /collections/"))
    assert settings["more-0"] > 2 * settings["more-1"], "one look says that the others are the same"


def test_a_collection_that_is_written_to_for_the_first_time_within_a_hold_is_known_by_then(stage: Any) -> None:
    (name,) = several(stage, 1)
    assert prove_everything(stage.follower)[1] == []
    stage.write("PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 2, "vector": [2, 2]}]})
    asked: list[str] = []
    with counting(stage, asked):
        assert stage.follower.round(held=True, budget=1.0).ids == {name: {2}}
    assert f"GET /collections/{name}" not in asked


def test_what_was_brought_over_right_before_a_hold_is_compared_in_it(stage: Any, monkeypatch: Any) -> None:
    """However much is written in it; and where more was brought over before than is compared in it, that is known."""
    monkeypatch.setattr(follower, "RECENT", 5)
    before = stage.follower.uncompared
    for first, held in ((1, False), (11, True)):
        several_records = [{"id": one, "vector": [one, 2]} for one in range(first, first + 4)]
        stage.write("PUT", "/collections/docs/points?wait=true", {"points": several_records})
        stage.follower.round(held=held, budget=2.0)
    assert stage.follower.recent == {"docs": {1, 2, 3, 4, 11, 12, 13, 14}}
    assert stage.follower.uncompared == before
    stage.write("PUT", "/collections/docs/points?wait=true", {"points": [{"id": 21, "vector": [1, 2]}]})
    stage.follower.round()
    assert len(stage.follower.recent["docs"]) == 5
    assert stage.follower.uncompared != before


@pytest.mark.parametrize(
    ("written", "left"),
    [([4, 3, 3], 3), ([4, 3, 1], 1), ([4, 4], 4), ([1], 1)],
    ids=["as long as they become fewer", "until there are few", "not where they do not", "once where there are few"],
)
def test_what_is_written_before_a_hold_is_compared_before_it(stage: Any, written: list[int], left: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(proof, "FEW", 1)
    names = several(stage, max(written))
    rounds, read = iter(written), stage.record.read_parts

    def meanwhile(offset: int) -> Any:
        for name in names[: next(rounds)]:
            stage.write("PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 2, "vector": [2, 2]}]})
        return read(offset)

    stage.record.read_parts = meanwhile
    last = shorten_the_hold(stage.follower)
    assert next(rounds, None) is None
    assert len(last.ids) == len(stage.follower.recent) == left
    assert few(stage.follower, {}) == (left == 1)


def test_catching_up_shows_how_much_of_the_record_is_brought_over(stage: Any) -> None:
    shown: list[Any] = []

    class Shows(SilentUi):
        @contextmanager
        def progress(self, what: str, total: int | None, unit: str) -> Iterator[Any]:
            shown.append((what, total, unit))
            yield shown.append

    context: Any = SimpleNamespace(gate=stage.record, ui=Shows())
    for number in range(30):
        stage.record.add("old", "POST", "/collections/docs/points/delete", {"points": [1000 + number]})
    with switchover._shown(context, stage.follower):
        stage.record.add("old", "POST", "/collections/docs/points/delete", {"points": [2000]})
        stage.follower.round()
    assert shown == [("Bringing the new server up to date", 3, "kB of the record"), 3]
    assert stage.follower.observers == []


def test_a_round_brings_collections_over_side_by_side(stage: Any, monkeypatch: Any) -> None:
    names = several(stage, 2)
    for name in names:
        stage.write("PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 2, "vector": [2, 2]}]})
    meet, bring = threading.Barrier(2), records.bring

    def together(*words: Any, **named: Any) -> Any:
        meet.wait(60)  # one after the other they would not meet
        return bring(*words, **named)

    monkeypatch.setattr(records, "bring", together)
    assert stage.follower.round().ids == {name: {2} for name in names}
    same(stage)


def test_a_change_that_nobody_recorded_is_a_difference(stage: Any) -> None:
    stage.new.delete("docs", [42])
    stage.old.ask("POST", "/collections/docs/points/payload?wait=true", {"payload": {"secret": 1}, "points": [43]})
    _, differences = prove_everything(stage.follower)
    assert {(d.kind, d.where) for d in differences} == {("missing", 42), ("payload", 43)}
    quick = prove_quickly(stage.follower, {"docs": {42}}, counts=True, timeout=5)
    assert {d.kind for d in quick} == {"missing", "collection"}


# -- pure -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "found", "counts"),
    [
        (200, Affected("c", whole=Depth.IDS), True),
        (400, Affected("c", whole=Depth.IDS), False),
        (403, Affected("c", schema=True), False),
        (500, Affected("c", whole=Depth.IDS), True),
        (499, Affected("c", whole=Depth.IDS), True),
        (404, Affected("c", ids=frozenset({1})), True),
        (400, Affected("c", ids=frozenset({1})), True),
    ],
)
def test_which_answers_mean_that_something_may_have_happened(status: Any, found: Any, counts: Any) -> None:
    assert happened(Write(1, 0.0, "POST", "/", status, "old", ""), found) is counts


def test_alias_moves_are_read_from_the_request() -> None:
    actions = [
        {"create_alias": {"collection_name": "a", "alias_name": "x"}},
        {"rename_alias": {"old_alias_name": "x", "new_alias_name": "y"}},
        {"delete_alias": {"alias_name": "z"}},
    ]
    assert alias_moves(json.dumps({"actions": actions}).encode()) == [("x", "a"), ("y", "x")]


def test_settings_and_indexes_are_written_as_qdrant_takes_them() -> None:
    config = {
        "params": {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}, "on_disk_payload": True, "replication_factor": 1},
        "hnsw_config": {"m": 8},
        "optimizer_config": {"indexing_threshold": 5, "memmap_threshold": None},
        "quantization_config": None,
    }
    assert patch_for(config, {"metadata": {"owner": "somebody"}}) == {
        "hnsw_config": {"m": 8},
        "optimizers_config": {"indexing_threshold": 5},
        "quantization_config": "Disabled",
        "params": {"replication_factor": 1, "on_disk_payload": True},
        "vectors": {"": {"on_disk": True, "quantization_config": "Disabled"}},
        "metadata": {"owner": None},
    }
    assert index_schema({"data_type": "keyword"}) == "keyword"
    assert index_schema({"data_type": "integer", "params": {"type": "integer", "range": True, "on_disk": None}}) == {
        "type": "integer",
        "range": True,
    }


def test_a_damaged_position_is_named_and_not_guessed(tmp_path: Any) -> None:
    (tmp_path / "follow.json").write_text("{")
    with pytest.raises(Refused, match="not readable"):
        Position.load(tmp_path / "follow.json")
    assert Position.load(tmp_path / "absent.json") is None


def test_position_survives_saving(tmp_path: Any) -> None:
    position = Position(side="new", offset=7, holders={"now": ["a", "b"]}, moved={"docs": [1, "x"]})
    position.save(tmp_path / "p.json")
    assert Position.load(tmp_path / "p.json") == position


def test_a_collection_that_gave_its_name_to_an_alias_is_gone_on_the_other_server_too(stage: Any) -> None:
    """How a collection is replaced the first time without changing its users: build, delete, point the old name."""
    vectors = {"vectors": {"size": 2, "distance": "Dot"}}
    stage.write("PUT", "/collections/docs_v2", vectors)
    stage.write("PUT", "/collections/docs_v2/points?wait=true", {"points": [{"id": 1, "vector": [7, 7], "payload": {"v": 2}}]})
    stage.write("DELETE", "/collections/docs")
    swap = {"create_alias": {"alias_name": "docs", "collection_name": "docs_v2"}}
    stage.write("POST", "/collections/aliases", {"actions": [swap]})
    stage.write("PUT", "/collections/docs/points?wait=true", {"points": [{"id": 2, "vector": [8, 8]}]})
    stage.follower.round()
    assert stage.new.aliases() == {"docs": "docs_v2"}
    same(stage)


def test_a_collection_that_took_the_name_of_an_alias_does_not_overwrite_what_the_alias_meant(stage: Any) -> None:
    stage.write("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "now"}}]})
    stage.write("PUT", "/collections/now", {"vectors": {"size": 2, "distance": "Dot"}})
    stage.write("PUT", "/collections/now/points?wait=true", {"points": [{"id": 1, "vector": [7, 7]}]})
    stage.follower.round()
    assert stage.new.count("docs") == 200
    assert stage.new.collections() == ["docs", "now"]
    same(stage)


def test_an_index_that_was_only_acknowledged_is_not_looked_at_too_early(stage: Any, servers: Any) -> None:
    servers.switch("old", apply_delay_ms=200)
    stage.write("PUT", "/collections/docs/index", {"field_name": "n", "field_schema": "integer"})
    stage.follower.round()
    servers.switch("old")
    assert "n" in stage.new.info("docs")["payload_schema"]
    same(stage)


def test_a_batch_that_was_refused_in_the_middle_is_followed_up_to_there(stage: Any) -> None:
    few, others = ({"must": [{"key": "n", "range": {"gte": n, "lt": n + 3}}]} for n in (0, 3))
    operations = [{"delete": {"filter": few}}, {"delete_vectors": {"filter": others, "vector": ["no-such-vector"]}}]
    stage.write("POST", "/collections/docs/points/batch?wait=true", {"operations": operations})
    assert stage.record.lines[-1].status == 400
    assert stage.old.count("docs") == 197
    stage.follower.round()
    same(stage)


def test_changes_of_aliases_that_were_refused_in_the_middle_are_followed_up_to_there(stage: Any) -> None:
    first = {"create_alias": {"alias_name": "then", "collection_name": "docs"}}
    taken = {"create_alias": {"alias_name": "docs", "collection_name": "docs"}}
    stage.write("POST", "/collections/aliases", {"actions": [first, taken]})
    assert stage.record.lines[-1].status == 409
    assert "then" in stage.old.aliases()
    stage.follower.round()
    same(stage)


def test_a_collection_that_was_deleted_and_made_anew_with_other_vectors_is_replaced_on_the_way_back_too(stage: Any) -> None:
    stage.follower.may_replace = False
    stage.write("DELETE", "/collections/docs")
    stage.write("PUT", "/collections/docs", {"vectors": {"size": 3, "distance": "Dot"}})
    stage.write("PUT", "/collections/docs/points?wait=true", {"points": [{"id": 1, "vector": [7, 7, 7]}]})
    stage.follower.round()
    same(stage)


def test_collections_that_live_for_a_moment_stop_nothing_and_are_gone_on_the_other_server(stage: Any, servers: Any) -> None:
    """As chat front ends make them: one for every conversation, and two that come again and again."""
    stop, made = threading.Event(), 0
    application = Application(Qdrant(stage.old.url, servers.guard, key=KEY), stage.record, "old")
    empty = {"vectors": {"size": 2, "distance": "Dot"}}

    def chat() -> None:
        nonlocal made
        while not stop.is_set():
            name = f"chat-{made}" if made % 2 else f"again-{made % 4}"
            application("PUT", f"/collections/{name}", empty)
            application("PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 1, "vector": [1, made]}]})
            alias = {"create_alias": {"alias_name": "latest", "collection_name": name}}
            application("POST", "/collections/aliases", {"actions": [alias]})
            stop.wait(0.05)
            application("DELETE", f"/collections/{name}")
            made += 1

    def copy(name: Any) -> Any:
        try:
            snapshot = stage.old.create_snapshot(name)
            stage.new.delete_collection(name)
            url = stage.old.snapshot_url(name, snapshot["name"])
            stage.new.recover(name, url, checksum=snapshot["checksum"], source_key="read-key-of-the-pair")
        except Answered:
            if name in stage.old.collections():
                raise
            stage.new.delete_collection(name)

    stage.follower.copy_collection = copy
    thread = threading.Thread(target=chat)
    thread.start()
    try:
        for _ in range(3):
            stage.follower.round()
            _, differences = prove_everything(stage.follower)
            assert differences == []
    finally:
        stop.set()
        thread.join()
    stage.follower.round()
    assert made > 5
    assert stage.new.collections() == ["docs"]
    assert prove_everything(stage.follower)[1] == []
    same(stage)


def test_a_copy_that_did_not_end_is_made_again(stage: Any, tmp_path: Any) -> None:
    """What is there then has its settings, and looks like a collection whose records are in no line."""
    copy = stage.follower.copy_collection

    def killed(name: str) -> None:
        stage.new.delete_collection(name)
        stage.new.create_collection(name, {"vectors": {"size": 3, "distance": "Dot"}})
        raise KeyboardInterrupt

    stage.write("DELETE", "/collections/docs")
    stage.write("PUT", "/collections/docs", {"vectors": {"size": 3, "distance": "Dot"}})
    stage.write("PUT", "/collections/docs/points?wait=true", {"points": [{"id": 1, "vector": [1, 2, 3]}]})
    stage.follower.copy_collection = killed
    with pytest.raises(KeyboardInterrupt):
        stage.follower.round()
    saved = Position.load(stage.follower.path)
    assert saved is not None
    assert saved.unfinished == ["docs"]
    saved.offset = stage.record.log_end()  # as where the lines that led to the copy name no record
    again = Follower(stage.record, stage.old, stage.new, saved, tmp_path / "follow.json", copy_collection=copy, may_replace=True)
    with pytest.raises(TooMuchForAHold):
        again.round(held=True, budget=1.0)
    again.round()
    assert saved.unfinished == []
    assert prove_everything(again)[1] == []


def test_what_is_asked_inside_a_hold_does_not_grow_with_the_number_of_collections(stage: Any) -> None:
    asked: list[list[str]] = []
    for more in (1, 12):
        for number in range(more):
            name = f"other-{more}-{number}"
            for server in (stage.old, stage.new):
                server.ask("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Dot"}})
                server.upsert(name, [{"id": 1, "vector": [1, 1]}])
        stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"more": more}, "points": [1]})
        stage.follower.round()
        assert prove_everything(stage.follower)[1] == []
        stage.write("POST", "/collections/docs/points/payload?wait=true", {"payload": {"more": more}, "points": [2]})
        asked.append([])
        with counting(stage, asked[-1]):
            done = stage.follower.round(held=True, budget=1.0)
            assert prove_quickly(stage.follower, done.ids, counts=True, timeout=5) == []
    assert sorted(asked[0]) == sorted(asked[1])
    # What differs is found as before: a record, a number, a setting of what was written, a name, an alias.
    stage.new.delete("docs", [2])
    stage.new.delete_collection("other-1-0")
    stage.new.create_index("docs", "n", "integer")
    stage.new.change_aliases([{"delete_alias": {"alias_name": "now"}}])
    found = prove_quickly(stage.follower, {"docs": {2}}, counts=True, timeout=5)
    assert {(d.kind, d.where) for d in found} == {
        ("missing", 2),
        ("collection", "docs"),
        ("collection", "other-1-0"),
        ("index", "n"),
        ("alias", "now"),
    }


@contextmanager
def counting(stage: Any, asked: list[str]) -> Iterator[None]:
    plain = {server: server.raw for server in (stage.old, stage.new)}
    try:
        for server, raw in plain.items():

            def seen(method: str, path: str, *rest: Any, _raw: Any = raw, **more: Any) -> Any:
                asked.append(f"{method} {path}")
                return _raw(method, path, *rest, **more)

            server.raw = seen
        yield
    finally:
        for server in plain:
            del server.raw
