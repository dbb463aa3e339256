"""What runs, compared with the file: against a container that the real Compose made of the shipped file on a real Docker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from cutover.portainer import running, variables

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"QDRANT_API_KEY": "the-write-key-of-the-lab", "QDRANT_READ_ONLY_API_KEY": "the-read-key-of-the-lab"}
IMAGE = {"Config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": None}}


@pytest.fixture(scope="module")
def config() -> Mapping[str, Any]:
    return variables.resolve((ROOT / "stacks/qdrant/docker-compose.yml").read_text(encoding="utf-8"), KEYS).config


@pytest.fixture
def container(recorded_folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((recorded_folder / "docker-20.10.24-container.json").read_text(encoding="utf-8"))
    return found


def test_what_compose_made_of_the_shipped_file_is_what_the_file_says(
    config: Mapping[str, Any], container: dict[str, Any]
) -> None:
    assert running.differences(config, "qdrant", container, IMAGE) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("HostConfig.Memory", 1 << 30, "memory limit is 1024 MB, and 3072 MB in the file"),
        ("HostConfig.Memory", 0, "memory limit is none"),
        ("HostConfig.MemoryReservation", 0, "reserved memory is none"),
        ("HostConfig.NanoCpus", 500_000_000, "share of the cores is 0.5, and 2 in the file"),
        ("HostConfig.PidsLimit", None, "limit of processes is none"),
        ("HostConfig.Ulimits", [], "limit nofile is none, and 65536 to 65536 in the file"),
        ("HostConfig.RestartPolicy", {"Name": "no"}, "restart policy is no, and unless-stopped in the file"),
        ("HostConfig.ReadonlyRootfs", False, "root file system is writable"),
        ("HostConfig.CapDrop", None, "dropped capabilities is none, and ALL"),
        ("HostConfig.CapAdd", ["CAP_SYS_ADMIN"], "added capabilities is SYS_ADMIN, and none"),
        ("HostConfig.SecurityOpt", None, "security options is none"),
        ("HostConfig.Privileged", True, "privilege is True"),
        ("HostConfig.Devices", [{"PathOnHost": "/dev/sda"}], "device is /dev/sda, and none"),
        ("HostConfig.Tmpfs", {}, "folder in memory is none, and /tmp"),
        ("HostConfig.LogConfig.Config", {}, "log is not the one in the file"),
        (
            "HostConfig.PortBindings",
            {"6333/tcp": [{"HostIp": "", "HostPort": "6333"}], "6334/tcp": [{"HostIp": "10.0.0.101", "HostPort": "6334"}]},
            "published port is 10.0.0.101:6334 for 6334, every address:6333 for 6333",
        ),
        ("Mounts", [], "volume is none, and qdrant_snapshots at /qdrant/snapshots, qdrant_storage at /qdrant/storage"),
        ("Mounts", [{"Type": "bind", "Source": "/", "Destination": "/host"}], "folder of the host is / at /host"),
        ("NetworkSettings.Networks", {"host": {}}, "network is host, and qdrant_default"),
        ("Config.Cmd", ["./entrypoint.sh"], "command is not the one in the file"),
        ("Config.Entrypoint", ["sh"], "entrypoint is not the image's"),
        ("Config.StopTimeout", 10, "time to stop is 10 s, and 60 s in the file"),
        ("Config.Healthcheck", {"Test": ["NONE"]}, "health check is not the one in the file"),
        ("Config.Env", [], "variable QDRANT__SERVICE__API_KEY is not set, and it is in the file"),
    ],
)
def test_each_difference_is_named(config: Mapping[str, Any], container: dict[str, Any], path: str, value: Any, said: str) -> None:
    *outer, last = path.split(".")
    reduce(lambda at, key: at[key], outer, container)[last] = value
    assert any(said in found for found in running.differences(config, "qdrant", container, IMAGE))


def test_another_value_and_a_variable_too_many_are_named_without_the_value(
    config: Mapping[str, Any], container: dict[str, Any]
) -> None:
    container["Config"]["Env"] = [
        entry.replace(KEYS["QDRANT_API_KEY"], "another-key")
        for entry in (*container["Config"]["Env"], "QDRANT__CLUSTER__ENABLED=true")
    ]
    found = running.differences(config, "qdrant", container, IMAGE)
    assert found == [
        "its variable QDRANT__SERVICE__API_KEY has another value than the file gives it",
        "its variable QDRANT__CLUSTER__ENABLED is set, and not in the file",
    ]
    assert not any(key in " ".join(found) for key in ("another-key", *KEYS.values()))


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("      driver: json-file\n", ""),  # Docker's own
        ('      QDRANT__TELEMETRY_DISABLED: "true"\n', '      QDRANT__TELEMETRY_DISABLED: "true"\n      TZ:\n'),
        ("stop_grace_period: 60s", "stop_grace_period: 60.5s"),
    ],
)
def test_what_the_file_leaves_to_docker_is_no_difference(container: dict[str, Any], was: str, becomes: str) -> None:
    """Otherwise a file that every check lets pass is deployed, taken for another one, and taken back."""
    text = (ROOT / "stacks/qdrant/docker-compose.yml").read_text(encoding="utf-8")
    assert was in text
    config = variables.resolve(text.replace(was, becomes), KEYS).config
    assert running.differences(config, "qdrant", container, IMAGE) == []
    if "TZ" in becomes:
        container["Config"]["Env"].append("TZ")
    assert running.differences(config, "qdrant", container, IMAGE) == []


def test_another_log_driver_is_named(config: Mapping[str, Any], container: dict[str, Any]) -> None:
    container["HostConfig"]["LogConfig"]["Type"] = "none"
    assert running.differences(config, "qdrant", container, IMAGE) == ["its log driver is none, and json-file in the file"]
