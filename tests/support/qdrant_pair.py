"""Two Qdrant servers for unit tests: the real engine behind REST, one process each, and clients that may write."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.journal import Journal
from cutover.core.ui import SilentUi
from cutover.core.write_guard import WriteGuard
from cutover.qdrant.client import Qdrant
from cutover.site import load as site_load
from lab.processes import Process, listening, running

ROOT = Path(__file__).resolve().parents[2]
KEY, READ_KEY = "full-key-of-the-pair", "read-key-of-the-pair"
#: Real servers may be used instead: OLD_QDRANT_URL and NEW_QDRANT_URL, with the two keys above.
REAL = tuple(os.environ.get(name, "") for name in ("OLD_QDRANT_URL", "NEW_QDRANT_URL"))


@dataclass
class Pair:
    """Two servers, clients for them, and an open door."""

    old: Qdrant
    new: Qdrant
    guard: WriteGuard
    journal: Journal
    folder: Path
    processes: list[Process]

    def switch(self, name: str, **faults: object) -> None:
        """Turn faults of one server on (see the lab's Qdrant); without any, off. Real servers have none."""
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "switches.json").write_text(json.dumps(faults))

    def clear(self) -> None:
        self.switch("old")
        self.switch("new")
        with self.guard.act("test.clear", "Remove everything"):
            for server in (self.old, self.new):
                for name in server.collections():
                    server.delete_collection(name)


def scroll(server: Qdrant, collection: str, *, limit: int = 1000, payload: bool = True, vectors: bool = True) -> Iterator[Any]:
    """Every record, in order of id."""
    offset = None
    while True:
        found = json.loads(server.page(collection, offset, limit, payload=payload, vectors=vectors))["result"]
        yield from found["points"]
        offset = found["next_page_offset"]
        if offset is None:
            return


def server(folder: Path, address: str, port: int = 6333, **env: str) -> Process:
    """A Qdrant of the lab at an address."""
    return Process(
        [sys.executable, "-m", "lab.qdrant"],
        env={
            "PYTHONPATH": str(ROOT),
            "QDRANT__SERVICE__HOST": address,
            "QDRANT__SERVICE__HTTP_PORT": str(port),
            "QDRANT__SERVICE__API_KEY": KEY,
            "QDRANT__SERVICE__READ_ONLY_API_KEY": READ_KEY,
            "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(folder / "snapshots"),
            "LAB_QDRANT_SWITCHES": str(folder / "switches.json"),
            **env,
        },
        log=folder / "log",
        ready=listening(address, port),
        name=f"Qdrant {address}",
    )


@contextmanager
def pair_of_servers(folder: Path) -> Iterator[Pair]:
    """Two fresh servers for the length of a block."""
    net = f"127.{100 + os.getpid() % 100}.{1 + os.getpid() // 100 % 250}"  # never .0: those are the labs'
    addresses = [f"{net}.152", f"{net}.101"]
    processes = [server(folder / name, address) for name, address in zip(("old", "new"), addresses, strict=True)]
    journal = Journal(folder / "state", "pair")
    guard = WriteGuard(journal)
    urls = REAL if all(REAL) else tuple(f"http://{a}:6333" for a in addresses)
    old, new = (Qdrant(u, guard, key=KEY, name=f"the {n} server") for u, n in zip(urls, ("old", "new"), strict=True))
    with running(*([] if all(REAL) else processes)):
        pair = Pair(old, new, guard, journal, folder, processes)
        pair.clear()
        yield pair


@contextmanager
def operating(pair: Pair, folder: Path) -> Iterator[Context]:
    """The tool between the two servers, which are empty, with users at the old one; it may write."""
    pair.clear()
    site = site_load.load(ROOT / "site.yaml")
    urls = {"old_url": pair.old.url, "new_url": pair.new.url, "public_url": pair.old.url}
    site = site.model_copy(update={"qdrant": site.qdrant.model_copy(update=urls)})
    credentials = Credentials({"QDRANT_API_KEY": KEY, "QDRANT_READ_ONLY_API_KEY": READ_KEY})
    context = Context(site, credentials, folder, execute=True, ui=SilentUi())
    yield context
    context.close()
