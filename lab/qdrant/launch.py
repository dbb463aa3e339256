"""Starts a lab Qdrant as a process of its own: `server(folder, "127.10.0.152", 6333, api_key=...).start()`.

One process per server, because the engine keeps Python's lock while it works. The folder holds `storage`, `snapshots`,
the log and the file of faults, so that a second start finds what the first one left.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

from lab.processes import Process, Ready

ROOT = Path(__file__).resolve().parents[2]


def argv() -> list[str]:
    """The command that stands for Qdrant's program."""
    return [sys.executable, "-m", "lab.qdrant"]


def environment(
    folder: Path,
    host: str,
    port: int,
    *,
    api_key: str = "",
    read_only_api_key: str = "",
    apply_delay_ms: float | None = None,
    version: str = "",
    extra: dict[str, str] | None = None,
) -> dict[str, str]:
    """The variables of one server. The repository's root is put on PYTHONPATH, so any working folder will do."""
    env = {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "QDRANT__SERVICE__HOST": host,
        "QDRANT__SERVICE__HTTP_PORT": str(port),
        "QDRANT__SERVICE__API_KEY": api_key,
        "QDRANT__SERVICE__READ_ONLY_API_KEY": read_only_api_key,
        "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
        "QDRANT__STORAGE__SNAPSHOTS_PATH": str(folder / "snapshots"),
        "LAB_QDRANT_SWITCHES": str(folder / "switches.json"),
    }
    if apply_delay_ms is not None:
        env["LAB_QDRANT_APPLY_DELAY_MS"] = str(apply_delay_ms)
    if version:
        env["LAB_QDRANT_VERSION"] = version
    return env | (extra or {})


def server(folder: Path, host: str, port: int, **options: Any) -> Process:
    """A server that is ready when `/readyz` answers 200; `options` are those of `environment`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Process(
        argv(),
        log=folder / "qdrant.log",
        env=environment(folder, host, port, **options),
        cwd=ROOT,
        ready=answering(host, port),
        name=f"qdrant {host}:{port}",
    )


def answering(host: str, port: int) -> Ready:
    """Ready when Qdrant's own probe says so."""
    url = f"http://{host}:{port}/readyz"

    def ready() -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return None if answer.status == 200 else f"{url} answers {answer.status}"
        except (OSError, http.client.HTTPException) as error:  # a port above 32767 can even meet itself
            return f"{url} does not answer ({error})"

    return ready


def switch(folder: Path, **values: Any) -> None:
    """Turn faults of a running server on (see `server.Switches`); without values all are off again."""
    path = folder / "switches.json"
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)
