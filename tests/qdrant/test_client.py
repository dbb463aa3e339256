"""The Qdrant client, against the real engine."""

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cutover.checks.qdrant import alike
from cutover.core.errors import Unreachable, WritesRefused
from cutover.core.write_guard import WriteGuard
from cutover.qdrant.client import Answered, NotThere, Qdrant
from cutover.qdrant.counters import writes_counted
from tests.support.qdrant_pair import KEY, READ_KEY, pair_of_servers, scroll


@pytest.fixture(scope="module")
def servers(tmp_path_factory: Any) -> Any:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def pair(servers: Any) -> Any:
    servers.clear()
    with servers.guard.act("test", "Fill"):
        servers.old.ask("PUT", "/collections/docs", {"vectors": {"size": 4, "distance": "Dot"}})
        servers.old.create_index("docs", "lang", "keyword")
        servers.old.upsert("docs", [{"id": i, "vector": [i, 1, -0.0, 0.1], "payload": {"lang": "de"}} for i in range(300)])
        yield servers


def test_reads_need_no_permission_and_writes_do(pair: Any) -> None:
    closed = Qdrant(pair.old.url, WriteGuard(None), key=READ_KEY)
    assert closed.count("docs") == 300
    with pytest.raises(WritesRefused):
        closed.delete("docs", [1])
    assert pair.old.count("docs") == 300


def test_the_read_only_key_reads_and_qdrant_itself_refuses_it_to_write(pair: Any) -> None:
    reader = Qdrant(pair.old.url, pair.guard, key=READ_KEY, name="the old server")
    assert reader.version() == pair.old.version()
    with pytest.raises(Answered) as refused:
        reader.delete("docs", [1])
    assert refused.value.status == 403
    assert "the old server" in str(refused.value)


def test_a_wrong_key_is_named_without_being_shown(pair: Any) -> None:
    stranger = Qdrant(pair.old.url, pair.guard, key="not-the-key")
    with pytest.raises(Answered, match="401") as refused:
        stranger.collections()
    assert "not-the-key" not in str(refused.value)
    assert "QDRANT_API_KEY" in refused.value.hint


def test_a_server_that_is_not_there_is_unreachable_and_nothing_happened(pair: Any) -> None:
    nobody = Qdrant("http://127.0.0.1:1", pair.guard, key=KEY)
    with pytest.raises(Unreachable):
        nobody.upsert("docs", [{"id": 1, "vector": [1, 1, 1, 1]}])


def test_scrolling_gives_every_record_once_in_order(pair: Any) -> None:
    ids = [record["id"] for record in scroll(pair.old, "docs", limit=7, vectors=False)]
    assert ids == list(range(300))


def test_a_snapshot_makes_the_same_collection_on_the_other_server(pair: Any) -> None:
    made = pair.old.create_snapshot("docs")
    url = pair.old.snapshot_url("docs", made["name"])
    with pytest.raises(Answered, match="401"):
        pair.new.recover("docs", url, checksum=made["checksum"], source_key=None)
    with pytest.raises(Answered, match="checksum"):
        pair.new.recover("docs", url, checksum="0" * 64, source_key=READ_KEY)
    assert pair.new.collections() == []
    pair.new.recover("docs", url, checksum=made["checksum"], source_key=READ_KEY)
    assert pair.new.count("docs") == 300
    assert pair.new.info("docs")["payload_schema"].keys() == {"lang"}
    pair.old.delete_snapshot("docs", made["name"])
    pair.old.delete_snapshot("docs", made["name"])
    assert made["name"] not in {one["name"] for one in pair.old.snapshots("docs")}


def test_downloaded_bytes_are_the_snapshot(pair: Any) -> None:
    made = pair.old.create_snapshot("docs")
    assert sum(map(len, pair.old.download("docs", made["name"]))) == made["size"]


def test_the_barrier_returns_only_when_acknowledged_writes_are_applied(pair: Any) -> None:
    pair.switch("old", apply_delay_ms=50)
    for attempt in range(10):
        ids = random.sample(range(300), 100)
        body = {"payload": {"attempt": attempt}, "points": ids}
        pair.old.ask("PUT", "/collections/docs/points/payload", body)  # acknowledged, not yet applied
        pair.old.barrier(["docs"])
        found = pair.old.ask("POST", "/collections/docs/points", {"ids": ids, "with_payload": True})
        assert {record["payload"]["attempt"] for record in found} == {attempt}


def test_a_large_write_is_split(pair: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("cutover.qdrant.client.MAX_BODY", 2000)
    pair.old.upsert("docs", [{"id": i, "vector": [1, 1, 1, 1], "payload": {"text": "x" * 300}} for i in range(20)])
    assert pair.old.count("docs") == 300
    assert pair.old.sent["PUT /collections/{collection_name}/points"] > 5


def test_own_writes_can_be_told_from_those_of_others(pair: Any) -> None:
    before = writes_counted(pair.old.telemetry())
    sent = pair.old.sent.copy()
    pair.old.delete("docs", [1, 2])
    stranger = Qdrant(pair.old.url, pair.guard, key=KEY)
    stranger.delete("docs", [3])
    counted = writes_counted(pair.old.telemetry()) - before
    ours = pair.old.sent - sent
    name = "POST /collections/{collection_name}/points/delete"
    assert counted[name, 200] == 2
    assert ours[name] == 1


def test_missing_things_are_not_there(pair: Any) -> None:
    with pytest.raises(NotThere):
        pair.old.info("nowhere")
    pair.old.delete_collection("nowhere")
    pair.old.barrier(["nowhere"])


def test_a_server_says_how_much_it_takes_in_one_request(pair: Any) -> None:
    assert pair.old.largest_body() == 32 * 1024 * 1024


def test_what_two_servers_do_not_say_of_themselves_is_named(pair: Any) -> None:
    site = SimpleNamespace(qdrant=SimpleNamespace(version=pair.old.version()))
    found = alike(cast("Any", SimpleNamespace(old=pair.old, new=pair.new, site=site)))
    assert found.ok is True
    assert "Not compared: what new collections get where they leave it open (strict mode, storage)" in found.sentence
    assert "keys that this tool was not given" in found.sentence
    assert "the largest request" not in found.sentence, "both say how much they take"


def test_whether_a_server_can_write_is_tried_in_some_of_many_collections(pair: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("cutover.qdrant.client.TRIED_AT_MOST", 2)
    for number in range(5):
        pair.old.ask("PUT", f"/collections/more-{number}", {"vectors": {"size": 1, "distance": "Dot"}})
    sent = pair.old.sent.copy()
    pair.old.try_writing()
    assert (pair.old.sent - sent)["POST /collections/{collection_name}/points/delete"] == 2
