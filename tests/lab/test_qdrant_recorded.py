"""Every exchange recorded from a real Qdrant 1.18.3 is put to the lab's server, in order, and the answers are compared.

Compared are the status, the kind of content, the shape of the answer (keys, types, lengths), every word of a refusal,
and the values of what is read: the same points, payloads, vectors to the bit, scores, schema and settings. What cannot
be the same (times, names made of times, sizes, ids of a process) is put aside by name.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from lab.processes import running
from lab.qdrant import launch

Json = Any
FILE, OF_SHARDS = "qdrant-1.18.3.jsonl", "qdrant-1.18.3-shards.jsonl"
KEYS = {"full": "full-key", "read-only": "read-key", "wrong": "no-key"}

#: Exchanges that the lab's server does not serve, by their note, with the reason. None at the moment.
NOT_SERVED: dict[str, str] = {}

#: Keys of answers whose values differ by nature; their types are still compared.
ASIDE = {
    "time",
    "segments_count",  # the engine begins with one segment per shard, the server with one per core
    "indexed_vectors_count",
    "wal_capacity_mb",  # the recording server was configured with 1
    "peer_id",
}
#: Paths whose values are not compared at all, only their shape (keys of maps that name files, counters, ids).
SHAPE_ONLY = re.compile(r"/telemetry|/metrics|/partial/manifest|/snapshots")


@dataclass
class Pair:
    """The two servers of the recording, and what their names and checksums are here."""

    urls: dict[str, str]
    snapshots: dict[str, Path]
    here: dict[str, str] = field(default_factory=dict)

    def localized(self, text: str) -> str:
        """A recorded path or body with the addresses, names and checksums of this run."""
        for recorded, local in self.here.items():
            text = text.replace(recorded, local)
        return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("replay")
    ports = {name: free_port() for name in ("source", "target")}
    servers = {
        name: launch.server(folder / name, "127.0.0.1", port, api_key="full-key", read_only_api_key="read-key")
        for name, port in ports.items()
    }
    with running(*servers.values()):
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        yield Pair(urls, {name: folder / name / "snapshots" for name in ports}, {"http://127.0.0.1:46333": urls["source"]})


def differences(real: Json, ours: Json, where: str, *, values: bool) -> Iterator[str]:
    """What differs between a recorded answer and ours, in keys, types, lengths and (unless put aside) values."""
    if isinstance(real, dict) and isinstance(ours, dict):
        if where.endswith((".responses", ".file_versions")) or (where.endswith(".result") and not values and _uuids(real)):
            if _uuids(real) and real:
                real, ours = {"x": next(iter(real.values()))}, {"x": next(iter(ours.values()), None)}
            else:
                return  # keyed by what happened; looked at in its own test
        if real.keys() != ours.keys():
            yield f"{where}: only real {sorted(real.keys() - ours.keys())}, only ours {sorted(ours.keys() - real.keys())}"
            return
        for key in real:
            yield from differences(real[key], ours[key], f"{where}.{key}", values=values and key not in ASIDE)
    elif isinstance(real, list) and isinstance(ours, list):
        if len(real) != len(ours):
            yield f"{where}: {len(real)} entries, ours {len(ours)}"
        for index, (one, other) in enumerate(zip(real, ours, strict=False)):
            yield from differences(one, other, f"{where}[{index}]", values=values)
    elif _kind(real) != _kind(ours) or (values and real != ours):
        yield f"{where}: {real!r}, ours {ours!r}"


def _uuids(value: dict[str, Json]) -> bool:
    return all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", key) for key in value)


def _kind(value: Json) -> type:
    return float if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


def put(pair: Pair, exchange: dict[str, Json], snapshot: Callable[[], bytes]) -> requests.Response:
    """Send one recorded request to the server that stands for the recorded one."""
    headers = {"api-key": KEYS[exchange["key"]]} if exchange["key"] in KEYS else {}
    url = pair.urls[exchange["server"]] + pair.localized(exchange["path"])
    if "/snapshots/upload" in exchange["path"]:
        name, data = ("x.snapshot", b"no tar at all " * 100) if "garbage" in exchange["note"] else ("docs.snapshot", snapshot())
        return requests.post(url, files={"snapshot": (name, data)}, headers=headers, timeout=60)
    text: str | None = None
    if exchange["body"] is not None:
        body = exchange["body"]
        text = pair.localized(body if isinstance(body, str) else json.dumps(body))
        headers["Content-Type"] = "application/json"
    return requests.request(exchange["method"], url, data=text, headers=headers, timeout=60)


@pytest.mark.parametrize("file", [FILE, OF_SHARDS])
def test_every_recorded_exchange_is_answered_as_by_the_real_server(
    pair: Pair, recorded: Callable[[str], list[dict[str, Json]]], file: str
) -> None:
    wrong: list[str] = []
    taken: list[bytes] = []
    for number, exchange in enumerate(recorded(file)):
        note = exchange["note"]
        if note in NOT_SERVED:
            continue
        answer = put(pair, exchange, lambda: taken[0])
        at = f"{number} {note}: {exchange['method']} {exchange['path']}"
        if answer.status_code != exchange["status"]:
            wrong.append(f"{at}: status {exchange['status']}, ours {answer.status_code} {answer.text[:200]}")
            continue
        if exchange["answer"] is None:  # nothing but its status
            wrong += [f"{at}: nothing, ours {answer.text}"] if answer.content else []
            continue
        kind = answer.headers.get("content-type")
        if kind != exchange["content_type"]:
            wrong.append(f"{at}: content {exchange['content_type']}, ours {kind}")
        real = json.loads(pair.localized(json.dumps(exchange["answer"])))
        if isinstance(real, str):
            if exchange["path"] != "/metrics" and real != answer.text:
                wrong.append(f"{at}: {real!r}, ours {answer.text!r}")
            continue
        ours = answer.json()
        if isinstance(real.get("status"), dict):  # a refusal: every word counts
            # The recording's place of snapshots, of whichever server it speaks.
            here = pair.snapshots[exchange["server"]].resolve()
            real_text = real["status"]["error"].replace('"/qdrant/snapshots', f'"{here}')
            if real_text != ours["status"]["error"]:
                wrong.append(f"{at}: {real_text!r}, ours {ours['status']['error']!r}")
        else:
            wrong += differences(real, ours, at + " answer", values=not SHAPE_ONLY.search(exchange["path"]))
        if note in ("snapshot", "full snapshot", "snapshot 0", "snapshot 1"):
            for key in ("name", "checksum"):
                pair.here[exchange["answer"]["result"][key]] = ours["result"][key]
        if note == "snapshot":
            url = f"{pair.urls['source']}/collections/docs/snapshots/{ours['result']['name']}"
            taken.append(requests.get(url, headers={"api-key": "read-key"}, timeout=60).content)
    assert not wrong, "\n".join(wrong)


def test_telemetry_counts_the_same_requests_as_the_real_server(
    tmp_path: Path, recorded: Callable[[str], list[dict[str, Json]]]
) -> None:
    """The counters are what tells a client that goes round the proxy: endpoint, status and number have to be equal."""
    port = free_port()
    exchanges = [one for one in recorded(FILE) if one["server"] == "source"]
    url = f"http://127.0.0.1:{port}"
    both = {"api_key": "full-key", "read_only_api_key": "read-key"}
    with running(launch.server(tmp_path, "127.0.0.1", port, **both)):
        pair = Pair({"source": url}, {})
        for exchange in exchanges:
            answer = put(pair, exchange, bytes)
            if exchange["path"] in ("/telemetry", "/metrics"):
                real, ours = _counts(exchange["answer"]), _counts(answer.json() if "tele" in exchange["path"] else answer.text)
                if exchange["path"] == "/telemetry":  # the recorder asked these before it began to record
                    for probe in ("GET /", "GET /healthz", "GET /livez", "GET /readyz"):
                        real.pop(probe, None)
                        ours.pop(probe, None)
                assert ours == real
                if exchange["path"] == "/metrics":
                    families = [line for line in exchange["answer"].splitlines() if line.startswith("# TYPE rest_")]
                    assert set(families) <= set(answer.text.splitlines())
                    return


def _counts(report: Json) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    if isinstance(report, str):
        pattern = r'^rest_responses_total\{method="(\w+)",endpoint="([^"]+)",status="(\d+)"\} (\d+)$'
        for method, endpoint, status, count in re.findall(pattern, report, re.MULTILINE):
            found.setdefault(f"{method} {endpoint}", {})[status] = int(count)
        return found
    for name, by_status in report["result"]["requests"]["rest"]["responses"].items():
        found[name] = {status: one["count"] for status, one in by_status.items()}
    return found


def test_a_snapshot_of_a_real_server_can_be_restored(
    tmp_path: Path, recorded_folder: Path, recorded: Callable[[str], list[dict[str, Json]]]
) -> None:
    source = recorded_folder / "docs-1.18.3.snapshot"
    if not source.is_file():
        pytest.skip("the recorded snapshot is not beside this checkout")
    port = free_port()
    url = f"http://127.0.0.1:{port}/collections/docs"
    with running(launch.server(tmp_path, "127.0.0.1", port)):
        with source.open("rb") as file:
            answer = requests.post(f"{url}/snapshots/upload", files={"snapshot": ("docs.snapshot", file)}, timeout=60)
        assert answer.json()["result"] is True, answer.text
        count = requests.post(f"{url}/points/count", json={"exact": True}, timeout=10).json()["result"]["count"]
        assert count == 55
        asked = {"ids": [0, 1, 60], "with_payload": True, "with_vector": True}
        points = {point["id"]: point for point in requests.post(f"{url}/points", json=asked, timeout=10).json()["result"]}
        page = next(one for one in recorded(FILE) if one["note"] == "scroll first")["answer"]["result"]["points"]
        assert points[0]["vector"] == page[0]["vector"]
        assert points[1] == page[1]
        schema = requests.get(url, timeout=10).json()["result"]["payload_schema"]
        assert {name: one["data_type"] for name, one in schema.items()} == {"lang": "keyword", "n": "integer"}
