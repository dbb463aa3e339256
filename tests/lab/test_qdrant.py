"""What the lab's Qdrant does as a real one does, beyond the words of single answers: order, survival, copies."""

from __future__ import annotations

import hashlib
import http.client
import math
import random
import socket
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from lab.processes import Process, running
from lab.qdrant import launch

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

Json = Any
KEY, READ_KEY = "full-key", "read-key"


class Api:
    """A few words of REST for the tests."""

    def __init__(self, folder: Path, **options: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process = launch.server(folder, "127.0.0.1", self.port, api_key=KEY, read_only_api_key=READ_KEY, **options)
        self.session = requests.Session()
        self.session.headers["api-key"] = KEY

    def ask(self, method: str, path: str, body: Json = None, status: int = 200, **options: Any) -> Json:
        answer = self.session.request(method, self.url + path, json=body, timeout=60, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        found = answer.json()
        return found["result"] if status < 300 else found["status"]["error"]

    def upsert(self, collection: str, points: list[Json], *, wait: bool = True) -> Json:
        return self.ask("PUT", f"/collections/{collection}/points?wait={str(wait).lower()}", {"points": points})

    def everything(self, collection: str) -> dict[Any, Json]:
        found: dict[Any, Json] = {}
        offset = None
        while True:
            asked = {"limit": 100, "offset": offset, "with_vector": True}
            page = self.ask("POST", f"/collections/{collection}/points/scroll", asked)
            found.update({point["id"]: point for point in page["points"]})
            offset = page["next_page_offset"]
            if offset is None:
                return found

    def count(self, collection: str) -> int:
        return int(self.ask("POST", f"/collections/{collection}/points/count", {"exact": True})["count"])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    one = Api(tmp_path / "one")
    with running(one.process):
        yield one


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Api]:
    one = Api(tmp_path / "other")
    with running(one.process):
        yield one


SMALL = {"vectors": {"size": 2, "distance": "Dot"}}


def small(number: int, mark: int = 0) -> Json:
    return {"id": number, "vector": [1.0, 0.5], "payload": {"mark": mark}}


def marks(api: Api, ids: list[int]) -> list[int]:
    found = api.ask("POST", "/collections/c/points", {"ids": ids, "with_payload": True})
    return [point["payload"]["mark"] for point in found]


# --- the queue ---------------------------------------------------------------------------------------------------


def test_a_write_is_acknowledged_before_it_can_be_read_and_an_empty_queue_says_nothing(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL)
    api.upsert("c", [small(1, mark=1)])
    launch.switch(api.folder, apply_delay_ms=60_000)
    assert api.upsert("c", [small(1, mark=2)], wait=False)["status"] == "acknowledged"
    assert api.ask("GET", "/collections/c")["update_queue"]["length"] == 0  # it does not count the one being applied
    assert marks(api, [1]) == [1]
    api.upsert("c", [small(2, mark=2)], wait=False)
    assert api.ask("GET", "/collections/c")["update_queue"]["length"] == 1


def test_a_waiting_delete_of_ids_that_do_not_exist_is_a_barrier(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL)
    api.upsert("c", [small(1, mark=1)])
    launch.switch(api.folder, apply_delay_ms=300)
    for mark in range(2, 12):
        api.upsert("c", [small(1, mark=mark)], wait=False)
    assert marks(api, [1]) == [1]
    api.ask("POST", "/collections/c/points/delete?wait=true", {"points": [999_999]})
    assert marks(api, [1]) == [11]


def test_with_four_shards_one_id_is_no_barrier_and_many_ids_are(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL | {"shard_number": 4})
    ids = list(range(40))
    api.upsert("c", [small(number, mark=1) for number in ids])
    cluster = api.ask("GET", "/collections/c/cluster")
    assert [shard["points_count"] > 0 for shard in cluster["local_shards"]] == [True] * 4
    launch.switch(api.folder, apply_delay_ms=500)
    api.upsert("c", [small(number, mark=2) for number in ids], wait=False)
    api.ask("POST", "/collections/c/points/delete?wait=true", {"points": [999_999]})
    api.upsert("c", [small(number, mark=3) for number in ids], wait=False)
    assert set(marks(api, ids)) == {1, 2} or set(marks(api, ids)) == {2}, "one shard at least was waited for"
    launch.switch(api.folder, apply_delay_ms=500)
    nobody = [10_000_000 + number for number in range(64)]
    api.ask("POST", "/collections/c/points/delete?wait=true", {"points": nobody})
    assert marks(api, ids) == [3] * len(ids)


def test_scroll_over_several_shards_is_in_order_and_complete(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL | {"shard_number": 3})
    names = sorted(str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(30))
    api.upsert("c", [small(number) for number in range(95)] + [small(0) | {"id": name} for name in names])
    assert list(api.everything("c")) == list(range(95)) + names
    asked = {"limit": 7, "filter": {"must": [{"has_id": [1, 50, 94, *names[:2]]}]}}
    page = api.ask("POST", "/collections/c/points/scroll", asked)
    assert [point["id"] for point in page["points"]] == [1, 50, 94, *names[:2]]


def test_a_write_that_some_shards_refuse_is_done_on_the_others(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL | {"shard_number": 3})
    api.upsert("c", [small(number) for number in range(20)])
    asked = {"payload": {"mark": 5}, "points": [*range(20), 777]}
    refusal = api.ask("POST", "/collections/c/points/payload?wait=true", asked, status=404)
    assert refusal.startswith("Not found: 1 out of 3 shards failed")
    assert marks(api, list(range(20))).count(5) > 5


# --- survival ----------------------------------------------------------------------------------------------------


def prepare(api: Api) -> Json:
    api.ask("PUT", "/collections/c", SMALL | {"hnsw_config": {"m": 8}, "metadata": {"owner": "lab"}})
    api.ask("PUT", "/collections/c/index?wait=true", {"field_name": "mark", "field_schema": "integer"})
    api.ask("PATCH", "/collections/c", {"optimizers_config": {"indexing_threshold": 123}})
    actions = [{"create_alias": {"collection_name": "c", "alias_name": "current"}}]
    api.ask("POST", "/collections/aliases", {"actions": actions})
    api.upsert("c", [small(number, mark=number) for number in range(50)])
    return api.ask("GET", "/collections/c")


def test_everything_is_there_after_a_restart(api: Api) -> None:
    before = prepare(api)
    points = api.everything("c")
    api.process.stop()
    assert api.process.exit_code == 0
    api.process.start()
    assert api.ask("GET", "/collections/current") == before
    assert api.everything("c") == points
    assert api.ask("GET", "/aliases")["aliases"] == [{"alias_name": "current", "collection_name": "c"}]


@pytest.mark.parametrize("shards", [1, 3])
def test_nothing_that_was_acknowledged_is_lost_by_a_kill(api: Api, shards: int) -> None:
    api.ask("PUT", "/collections/c", SMALL | {"shard_number": shards})
    api.upsert("c", [small(number, mark=1) for number in range(30)])
    launch.switch(api.folder, apply_delay_ms=600_000)
    api.upsert("c", [small(number, mark=2) for number in range(20)], wait=False)
    api.ask("POST", "/collections/c/points/payload", {"payload": {"mark": 3}, "points": [0, 1]})
    batch = [{"delete": {"points": [29]}}, {"upsert": {"points": [small(100, mark=4)]}}]
    api.ask("POST", "/collections/c/points/batch", {"operations": batch})
    assert marks(api, [0, 5, 29]) == [1, 1, 1], "nothing is applied yet"
    api.process.kill()
    api.process.start()
    assert marks(api, [0, 1, 5, 19, 20, 28, 29, 100]) == [3, 3, 2, 2, 1, 1, 4]
    api.upsert("c", [small(0, mark=9)])
    api.process.kill()
    api.process.start()
    assert marks(api, [0, 1]) == [9, 3], "what waited once is not applied a second time over newer writes"


def test_a_stop_lets_the_running_request_finish(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL)
    launch.switch(api.folder, apply_delay_ms=400)
    api.upsert("c", [small(1, mark=1)], wait=False)
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    body = '{"points": [{"id": 2, "vector": [1, 2], "payload": {"mark": 2}}]}'
    headers = {"api-key": KEY, "Content-Type": "application/json"}
    connection.request("PUT", "/collections/c/points?wait=true", body, headers)
    for _ in range(200):  # the request is inside when it stands in the queue behind the first one
        if api.ask("GET", "/collections/c")["update_queue"]["length"] == 1:
            break
    api.session.close()
    api.process.stop()
    assert connection.getresponse().status == 200
    launch.switch(api.folder)
    api.process.start()
    assert marks(api, [1, 2]) == [1, 2]


# --- copies ------------------------------------------------------------------------------------------------------

RICH = {
    "vectors": {
        "plain": {"size": 6, "distance": "Cosine"},
        "half": {"size": 6, "distance": "Dot", "datatype": "float16"},
        "byte": {"size": 6, "distance": "Euclid", "datatype": "uint8"},
        "many": {"size": 4, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}},
        "small": {"size": 6, "distance": "Dot", "on_disk": True},
    },
    "sparse_vectors": {"words": {"modifier": "idf"}},
    "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
    "on_disk_payload": False,
}


def rich_points(count: int) -> list[Json]:
    dice = random.Random(7)

    def floats(size: int) -> list[float]:
        return [dice.uniform(-1, 1) for _ in range(size)]

    points = []
    for number in range(count):
        vector: dict[str, Json] = {
            "plain": floats(6),
            "half": floats(6),
            "byte": [dice.randrange(256) for _ in range(6)],
            "many": [floats(4) for _ in range(1 + number % 3)],
            "small": [value * 1e-7 for value in floats(6)],
            "words": {"indices": dice.sample(range(10_000), 5), "values": floats(5)},
        }
        if number % 5 == 0:
            del vector["half"]
        payload = {"n": number, "big": 2**63 + number, "text": "Grüße \u0000 🙂", "deep": {"list": [None, True, 1.5e-9, {}]}}
        identifier: Json = number if number % 2 else str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        points.append({"id": identifier, "vector": vector, "payload": payload})
    return points


@pytest.mark.parametrize("shards", [1, 2])
def test_a_snapshot_carries_every_bit_to_another_server(api: Api, other: Api, shards: int) -> None:
    api.ask("PUT", "/collections/rich", RICH | {"shard_number": shards})
    for field, schema in (("n", {"type": "integer", "lookup": True, "range": True}), ("text", "keyword")):
        api.ask("PUT", "/collections/rich/index?wait=true", {"field_name": field, "field_schema": schema})
    points = rich_points(60)
    api.upsert("rich", points)
    launch.switch(api.folder, apply_delay_ms=600_000)
    api.upsert("rich", [{"id": 1001, "vector": {"plain": [1, 2, 3, 4, 5, 6]}, "payload": {"n": -1}}], wait=False)
    taken = api.ask("POST", "/collections/rich/snapshots")
    location = f"{api.url}/collections/rich/snapshots/{taken['name']}"
    asked = {"location": location, "checksum": taken["checksum"], "api_key": READ_KEY}
    assert other.ask("PUT", "/collections/rich/snapshots/recover?wait=true", asked) is True

    before, after = api.everything("rich"), other.everything("rich")
    assert len(before) == 61, "the snapshot holds the write that was only acknowledged"
    assert before == after
    for vector in (point["vector"] for point in before.values()):
        for value in vector["plain"]:
            assert struct.unpack("<f", struct.pack("<f", value))[0] == pytest.approx(value, rel=1e-7)
    ours, theirs = (one.ask("GET", "/collections/rich") for one in (api, other))
    assert {**ours, "update_queue": 0} == {**theirs, "update_queue": 0}
    assert theirs["payload_schema"]["n"]["points"] == 61

    changed = points[1] | {"payload": {"n": 4711}}
    other.upsert("rich", [changed])  # a restored collection takes newer writes
    assert other.ask("GET", f"/collections/rich/points/{changed['id']}")["payload"] == {"n": 4711}
    other.process.kill()
    other.process.start()
    assert other.ask("GET", f"/collections/rich/points/{changed['id']}")["payload"] == {"n": 4711}
    assert other.count("rich") == 61


def test_a_scroll_written_back_keeps_every_bit(api: Api) -> None:
    """Records read over REST and written to another collection are the same there, as measured on the real server."""
    for name in ("rich", "again"):
        api.ask("PUT", f"/collections/{name}", RICH)
    api.upsert("rich", rich_points(60))
    before = api.everything("rich")
    api.upsert("again", [{key: point[key] for key in ("id", "vector", "payload")} for point in before.values()])
    assert api.everything("again") == before


def test_a_refused_or_broken_recovery_changes_nothing(api: Api, other: Api) -> None:
    prepare(api)
    taken = api.ask("POST", "/collections/c/snapshots")
    other.ask("PUT", "/collections/c", SMALL | {"vectors": {"size": 3, "distance": "Dot"}})
    other.upsert("c", [{"id": 1, "vector": [1, 2, 3]}])
    asked = {"location": f"{api.url}/collections/c/snapshots/{taken['name']}", "api_key": KEY}
    recover = "/collections/c/snapshots/recover"
    assert "not compatible" in other.ask("PUT", recover, asked, status=400)
    assert "checksum mismatch" in other.ask("PUT", recover, asked | {"checksum": "0" * 64}, status=400)
    api.process.stop()
    assert "error sending request" in other.ask("PUT", recover, asked, status=500)
    assert other.count("c") == 1
    assert not list((other.folder / "storage" / "tmp").iterdir())


def test_an_upload_is_checked_before_it_is_kept(api: Api) -> None:
    prepare(api)
    taken = api.ask("POST", "/collections/c/snapshots")
    data = api.session.get(f"{api.url}/collections/c/snapshots/{taken['name']}", timeout=10).content
    url = f"{api.url}/collections/copy/snapshots/upload"
    refused = api.session.post(url, files={"snapshot": ("c.snapshot", data)}, params={"checksum": "0" * 64}, timeout=20)
    assert refused.status_code == 400
    assert "Checksum mismatch" in refused.json()["status"]["error"]
    assert not (api.folder / "snapshots" / "copy").exists()
    parts = {"snapshot": ("c.snapshot", data)}
    done = api.session.post(url, files=parts, params={"checksum": taken["checksum"]}, timeout=20)
    assert done.json()["result"] is True
    assert api.everything("copy") == api.everything("c")


def test_settings_that_were_not_given_are_reported_with_their_defaults(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL)
    for field, schema in (
        ("when", {"type": "datetime", "on_disk": True}),
        ("words", {"type": "text"}),
        ("tenant", {"type": "keyword", "is_tenant": True}),
        ("number", {"type": "integer"}),
    ):
        api.ask("PUT", "/collections/c/index?wait=true", {"field_name": field, "field_schema": schema})
    shown = {name: one["params"] for name, one in api.ask("GET", "/collections/c")["payload_schema"].items()}
    assert shown == {
        "when": {"type": "datetime", "is_principal": None, "on_disk": True},
        "words": {"type": "text", "tokenizer": "word"},
        "tenant": {"type": "keyword", "is_tenant": True},
        "number": {"type": "integer", "lookup": None, "range": None, "is_principal": None},
    }


def test_a_refused_alias_action_leaves_what_was_done_before_it(api: Api) -> None:
    """As the real 1.18 does: readers see all actions at once, but a refusal in the middle takes nothing back."""
    api.ask("PUT", "/collections/c", SMALL)
    actions = [
        {"create_alias": {"collection_name": "c", "alias_name": "first"}},
        {"create_alias": {"collection_name": "nope", "alias_name": "second"}},
        {"create_alias": {"collection_name": "c", "alias_name": "third"}},
    ]
    api.ask("POST", "/collections/aliases", {"actions": actions}, status=404)
    assert [one["alias_name"] for one in api.ask("GET", "/aliases")["aliases"]] == ["first"]


def test_a_recovery_without_waiting_is_accepted_and_done(api: Api, other: Api) -> None:
    prepare(api)
    taken = api.ask("POST", "/collections/c/snapshots")
    asked = {"location": f"{api.url}/collections/c/snapshots/{taken['name']}", "api_key": KEY}
    answer = other.session.put(f"{other.url}/collections/c/snapshots/recover?wait=false", json=asked, timeout=10)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")

    def reason() -> str:  # that the collection is listed says nothing: it is, before its records are there
        counted = other.session.post(f"{other.url}/collections/c/points/count", json={"exact": True}, timeout=10)
        return "" if counted.ok and counted.json()["result"]["count"] == 50 else counted.text

    deadline = time.monotonic() + 20
    while why := reason():
        assert time.monotonic() < deadline, f"the accepted recovery was never done: {why}"


def test_a_download_can_be_resumed_and_has_the_announced_checksum(api: Api) -> None:
    prepare(api)
    taken = api.ask("POST", "/collections/c/snapshots")
    url = f"{api.url}/collections/c/snapshots/{taken['name']}"
    first = api.session.get(url, headers={"Range": "bytes=0-999"}, timeout=10)
    rest = api.session.get(url, headers={"Range": "bytes=1000-"}, timeout=10)
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.headers["Content-Range"] == f"bytes 0-999/{taken['size']}"
    assert len(first.content) == 1000
    assert hashlib.sha256(first.content + rest.content).hexdigest() == taken["checksum"]
    assert api.session.get(url, headers={"Range": f"bytes={taken['size']}-"}, timeout=10).status_code == 416


def test_a_full_snapshot_names_collections_and_aliases(api: Api, tmp_path: Path) -> None:
    import io
    import json
    import tarfile

    prepare(api)
    taken = api.ask("POST", "/snapshots")
    data = api.session.get(f"{api.url}/snapshots/{taken['name']}", timeout=10).content
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.extractfile("config.json")
        assert member is not None
        config = json.load(member)
        assert config["collections_aliases"] == {"current": "c"}
        assert config["collections_mapping"]["c"] in tar.getnames()


# --- keys, limits, connections -----------------------------------------------------------------------------------


def test_the_read_only_key_reads_everything_and_changes_nothing(api: Api) -> None:
    prepare(api)
    api.session.headers["api-key"] = READ_KEY
    assert api.count("c") == 50
    assert api.ask("POST", "/collections/c/points/query", {"query": [1, 1], "limit": 2})["points"]
    forbidden = "Forbidden: Global manage access is required"
    for method, path, body in (
        ("PUT", "/collections/c/points?wait=true", {"points": [small(1)]}),
        ("POST", "/collections/c/points/delete?wait=true", {"points": [1]}),
        ("POST", "/collections/c/points/batch", {"operations": [{"delete": {"points": [1]}}]}),
        ("PUT", "/collections/c/index", {"field_name": "x", "field_schema": "keyword"}),
        ("POST", "/collections/aliases", {"actions": []}),
        ("DELETE", "/collections/c", None),
        ("POST", "/snapshots", None),
    ):
        assert api.ask(method, path, body, status=403) == forbidden
    api.session.headers.update({"api-key": "", "Authorization": f"Bearer {KEY}"})
    del api.session.headers["api-key"]
    assert api.ask("DELETE", "/collections/c") is True


def test_an_idle_connection_is_closed_after_five_seconds(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        started = time.monotonic()
        assert connection.recv(4096) == b""
        assert time.monotonic() - started >= 4


def test_a_json_body_above_the_limit_is_refused(tmp_path: Path) -> None:
    api = Api(tmp_path, extra={"QDRANT__SERVICE__MAX_REQUEST_SIZE_MB": "1"})
    with running(api.process):
        api.ask("PUT", "/collections/c", SMALL)
        body = {"points": [small(1) | {"payload": {"text": "x" * 1_200_000}}]}
        answer = api.session.put(f"{api.url}/collections/c/points", json=body, timeout=20)
        assert answer.status_code == 400
        assert "larger than allowed (limit: 1048576 bytes)" in answer.json()["status"]["error"]


# --- faults ------------------------------------------------------------------------------------------------------


def test_faults_can_be_switched_on_and_off(api: Api) -> None:
    api.ask("PUT", "/collections/c", SMALL)
    endpoint = "/collections/{collection_name}/points"
    launch.switch(api.folder, fail=[{"method": "PUT", "endpoint": endpoint, "status": 503, "text": "no"}])
    assert api.ask("PUT", "/collections/c/points?wait=true", {"points": [small(1)]}, status=503) == "no"
    assert api.count("c") == 0
    launch.switch(api.folder, fail=[{"method": "PUT", "endpoint": endpoint, "drop": "before"}])
    with pytest.raises(requests.ConnectionError):
        api.upsert("c", [small(1)])
    assert api.count("c") == 0
    launch.switch(api.folder, fail=[{"method": "PUT", "endpoint": endpoint, "drop": "after"}])
    with pytest.raises(requests.ConnectionError):
        api.upsert("c", [small(1)])
    assert api.count("c") == 1, "the outcome was unknown to the client, and it was done"
    launch.switch(api.folder, lose_writes=True)
    assert api.upsert("c", [small(2)])["status"] == "completed"
    launch.switch(api.folder)
    assert api.count("c") == 1


def test_custom_shard_keys_and_grpc_requests_are_reported(api: Api) -> None:
    """What a move has to refuse can be seen: custom sharding in `/cluster`, gRPC clients in `/telemetry`."""
    api.ask("PUT", "/collections/c", SMALL)
    api.ask("PUT", "/collections/keyed", SMALL | {"sharding_method": "custom"})
    key = {"shard_key": "tenant-1"}
    assert "Distributed mode disabled" in api.ask("PUT", "/collections/keyed/shards", key, status=400)
    launch.switch(api.folder, distributed=True)
    api.ask("PUT", "/collections/keyed/shards", key)
    api.ask("PUT", "/collections/keyed/points?wait=true", {"points": [small(1)]} | key)
    assert "not specified" in api.ask("PUT", "/collections/keyed/points", {"points": [small(1)]}, status=400)
    api.process.stop()
    api.process.start()
    shard = api.ask("GET", "/collections/keyed/cluster")["local_shards"][0]
    assert (shard["shard_key"], shard["points_count"]) == ("tenant-1", 1)
    assert api.ask("GET", "/collections/keyed")["config"]["params"]["sharding_method"] == "custom"
    assert "shard_key" not in api.ask("GET", "/collections/c/cluster")["local_shards"][0]
    launch.switch(api.folder, grpc={"/qdrant.Points/Upsert": {"0": 3}})
    grpc = api.ask("GET", "/telemetry")["requests"]["grpc"]["responses"]
    assert grpc["/qdrant.Points/Upsert"]["0"]["count"] == 3


# --- the official client -----------------------------------------------------------------------------------------


def client(api: Api) -> QdrantClient:
    from qdrant_client import QdrantClient  # a second of a processor, and each process of a run reads this file

    return QdrantClient(url=api.url, api_key=KEY, timeout=30, check_compatibility=False)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_official_client_works_with_it(api: Api, other: Api) -> None:
    from qdrant_client import models

    ours, theirs = client(api), client(other)
    ours.create_collection(
        "docs",
        vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE),
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    ours.create_payload_index("docs", "lang", models.PayloadSchemaType.KEYWORD, wait=True)
    ours.upload_points(
        "docs",
        [
            models.PointStruct(
                id=number, vector=[math.sin(number), 1, 0, number % 3], payload={"lang": "de" if number % 2 else "en"}
            )
            for number in range(1, 301)
        ],
        wait=True,
    )
    german = models.Filter(must=[models.FieldCondition(key="lang", match=models.MatchValue(value="de"))])
    hits = ours.query_points("docs", query=[1.0, 0.0, 0.0, 0.0], query_filter=german, limit=5, with_payload=True).points
    assert len(hits) == 5
    assert all((hit.payload or {})["lang"] == "de" for hit in hits)
    assert hits[0].score >= hits[-1].score
    neighbours = ours.query_points("docs", query=7, limit=3).points
    assert 7 not in [hit.id for hit in neighbours]
    fused = ours.query_points(
        "docs",
        prefetch=[models.Prefetch(query=[1.0, 0, 0, 0], limit=20), models.Prefetch(query=[0, 0, 0, 1.0], limit=20)],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        limit=4,
    )
    assert len(fused.points) == 4
    assert len(ours.query_batch_points("docs", [models.QueryRequest(query=[1.0, 0, 0, 0], limit=2)] * 3)) == 3
    page, following = ours.scroll("docs", limit=10, with_vectors=True)
    assert ([record.id for record in page], following) == (list(range(1, 11)), 11)
    assert ours.facet("docs", "lang").hits[0].count == 150
    assert ours.count("docs", german, exact=True).count == 150
    groups = ours.query_points_groups("docs", "lang", query=[1.0, 0, 0, 0], limit=2, group_size=2).groups
    assert sorted(str(group.id) for group in groups) == ["de", "en"]
    ours.update_collection_aliases(
        [models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name="docs", alias_name="current"))]
    )
    ours.delete("current", points_selector=german, wait=True)
    assert ours.get_collection("current").points_count == 150
    ours.migrate(theirs, ["docs"])
    assert theirs.count("docs").count == 150
    schema = theirs.get_collection("docs").payload_schema
    assert schema["lang"].data_type == models.PayloadSchemaType.KEYWORD
