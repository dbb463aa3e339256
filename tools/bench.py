"""How long things take, side by side, from one run: the copy against its alternatives, the hold at several sizes, the proof, and
what the gate costs per request.

``./scripts/bench`` runs it. Without further words it brings its own two servers; with ``--old`` and ``--new`` it runs against two
that are given, for example real ones (keys from QDRANT_API_KEY and QDRANT_READ_ONLY_API_KEY). Both must be empty: everything is made
and removed again. Nginx is always a local one. Every measurement is bounded; ``--sizes`` and ``--seconds`` say how much is done.
Ratios carry over to other machines, absolute times do not; on small machines the load generator takes its share.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from cutover import runner
from cutover.context import Context
from cutover.core.errors import CutoverError
from cutover.core.ui import ConfirmedInAdvance
from cutover.qdrant import compare
from cutover.replication import switchover
from lab.lab import Lab, new_folder
from lab.load import Load

NAME = "bench"


@dataclass
class Row:
    """One measured number."""

    what: str
    value: float
    unit: str
    remark: str = ""


class Bench:
    """The servers, the gate between them, and the numbers."""

    def __init__(self, lab: Lab, size: int, seconds: float, storage: Path | None) -> None:
        self.lab, self.dimensions, self.seconds, self.storage = lab, size, seconds, storage
        self.rows: list[Row] = []

    def add(self, what: str, value: float, unit: str, remark: str = "") -> None:
        self.rows.append(Row(what, round(value, 4), unit, remark))

    @contextmanager
    def run(self) -> Iterator[Context]:
        run = self.lab.run(execute=True, confirm=ConfirmedInAdvance(self.lab.site.name))
        try:
            yield run
        finally:
            run.close()

    def does(self, verb: str, *, undo: bool = False) -> dict[str, Any]:
        with self.run() as run:
            result = runner.carry_out(verb, run, undo=undo)
        return dict(result.outcome.facts) if result.outcome is not None else {}

    # -- records --------------------------------------------------------------------------------------
    def fill(self, count: int) -> None:
        """Add random records until there are ``count``."""
        dice = random.Random(count)
        with self.run() as run, run.guard.act("bench.fill", f"Fill {count} records"):
            if NAME not in run.old.collections():
                settings = {"vectors": {"size": self.dimensions, "distance": "Cosine"}, "hnsw_config": {"m": 8}}
                run.old.ask("PUT", f"/collections/{NAME}", settings)
            for at in range(run.old.count(NAME), count, 500):
                part = range(at, min(count, at + 500))
                run.old.upsert(
                    NAME,
                    [
                        {"id": i, "vector": [round(dice.gauss(0, 1), 4) for _ in range(self.dimensions)], "payload": {"n": i}}
                        for i in part
                    ],
                )

    # -- the copy -------------------------------------------------------------------------------------
    def copies(self, count: int) -> None:
        """Snapshot and recovery, a plain copy of the files, and the client library's migration."""
        with self.run() as run, run.guard.act("bench.copy", f"Copy {count} records in several ways"):
            began = time.monotonic()
            facts = switchover.base_copy(run, "bench", run.old, run.new, NAME) or {}
            self.add(
                f"copy of {count}: snapshot and recovery (this tool)",
                time.monotonic() - began,
                "s",
                f"{(facts['bytes'] or 0) / 1e6:.0f} MB",
            )
            compared = compare.compare_collection(run.old, run.new, NAME)
            self.add(
                f"proof of {count}, bit by bit",
                compared.seconds,
                "s",
                f"{compared.rate:,.0f} records/s, {compared.count} differences",
            )
            run.new.delete_collection(NAME)
            if self.storage is not None:
                with tempfile.TemporaryDirectory() as folder:
                    began = time.monotonic()
                    shutil.copytree(self.storage, Path(folder) / "copy")
                    self.add(
                        f"copy of {count}: plain copy of the files",
                        time.monotonic() - began,
                        "s",
                        "the server has to be stopped for it",
                    )
            began = time.monotonic()
            problem = self._migrate(run)
            self.add(
                f"copy of {count}: QdrantClient.migrate",
                time.monotonic() - began,
                "s",
                problem or "no aliases, no proof, writes meanwhile are missed",
            )
            run.new.delete_collection(NAME)

    @staticmethod
    def _migrate(run: Context) -> str:
        from qdrant_client import QdrantClient

        key = run.credentials.get("QDRANT_API_KEY")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source, target = (QdrantClient(url=s.url, api_key=key, timeout=600) for s in (run.old, run.new))
            try:
                source.migrate(target, collection_names=[NAME], batch_size=500)
            except Exception as error:  # its own words are the result
                return f"failed: {str(error).splitlines()[0][:80]}"
            finally:
                source.close()
                target.close()
        return ""

    # -- the hold -------------------------------------------------------------------------------------
    def holds(self, count: int) -> None:
        """There and back under load, with ``count`` records on both servers: applications behind the operator's server, as they
        are, and at the gate's own address, as if it stood in that server's place.
        """
        gate = f"http://{self.lab.site.nginx.gate_address}"
        for name, url in (("", self.lab.site.qdrant.public_url), (", applications at the gate itself", gate)):
            load = Load(url, self.lab.keys.qdrant, self.lab.folder / "load", writers=2, readers=1, pace=0.004)
            load.start()
            self.does("copy")
            held = []
            try:
                for verb in ("switch", "back"):
                    load.wait_for(100)
                    held.append(self.does(verb)["held_seconds"])
                load.wait_for(100)
            finally:
                report = load.stop()
            self.does("copy", undo=True)
            said = f"{report.requests} requests, {report.failed} failed, {report.lost} lost"
            self.add(f"hold with {count} records{name}: there / back", max(held), "s", " / ".join(f"{h:.3f}" for h in held))
            self.add(f"longest wait of a write with {count} records{name}", report.longest_write, "s", said)

    # -- the gate -------------------------------------------------------------------------------------
    def gate(self) -> None:
        """One client, reads and writes in turn: straight to Qdrant and through the operator's server, before the gate and with it."""
        site = self.lab.site
        direct, public, gate = site.qdrant.old_url, site.qdrant.public_url, f"http://{site.nginx.gate_address}"

        def nothing() -> None:
            """Nothing changes before this row."""

        ways: list[tuple[str, str, Callable[[], object]]] = [
            ("straight to Qdrant", direct, nothing),
            ("through the operator's server, before the gate", public, nothing),
            ("straight to Qdrant, once more", direct, lambda: self.does("gate")),
            ("through the gate alone", gate, nothing),
            ("through the operator's server and the gate", public, nothing),
            ("through the operator's server and the gate, recording", public, self._record),
        ]
        for name, url, before in ways:
            before()
            read, write = _latency(url, self.lab.keys.qdrant, self.dimensions, self.seconds)
            self.add(f"a read {name}, median", read * 1000, "ms")
            self.add(f"a write {name}, median", write * 1000, "ms")
        with self.run() as run, run.guard.act("bench.stop", "Stop recording"):
            run.gate.stop_recording()

    def _record(self) -> None:
        with self.run() as run, run.guard.act("bench.record", "Record"):
            run.gate.start_recording()


def _latency(url: str, key: str, dimensions: int, seconds: float) -> tuple[float, float]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
    headers = {"api-key": key, "Content-Type": "application/json"}
    took: dict[bool, list[float]] = {True: [], False: []}
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        vector = [0.1 + number % 7] * dimensions
        for write in (False, True):
            body: dict[str, Any] = {"points": [{"id": number % 100, "vector": vector}]} if write else {"ids": [number % 100]}
            path = f"/collections/{NAME}/points" + ("?wait=true" if write else "")
            began = time.monotonic()
            connection.request("PUT" if write else "POST", path, body=json.dumps(body), headers=headers)
            answer = connection.getresponse()
            answer.read()
            took[write].append(time.monotonic() - began)
            if answer.status != 200:
                raise SystemExit(f"{path} was answered {answer.status}")
    connection.close()
    return statistics.median(took[False]), statistics.median(took[True])


def _given(lab: Lab, old: str, new: str) -> None:
    """Let the lab's Nginx and site name two servers that are given."""
    before = f"{lab.network.address(152)}:6333"
    file = Path(lab.nginx.server_file)
    file.write_text(file.read_text().replace(before, urlsplit(old).netloc))
    guests = {
        role: getattr(lab.site.guests, role).model_dump() | {"address": urlsplit(url).hostname}
        for role, url in (("old", old), ("new", new))
    }
    lab.change_site(qdrant={"old_url": old, "new_url": new}, guests=guests)
    key = os.environ.get("QDRANT_API_KEY", "")
    lab.keys = replace(lab.keys, qdrant=key, qdrant_read_only=os.environ.get("QDRANT_READ_ONLY_API_KEY", key))


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 when everything was measured."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--old", help="URL of a real source server; it must be empty, and on another address than --new")
    parser.add_argument("--new", help="URL of a real target server; it must be empty")
    parser.add_argument("--storage", type=Path, help="the source's folder of collections, for comparing with a plain copy")
    parser.add_argument("--sizes", default="1000,5000", help="numbers of records (default: %(default)s)")
    parser.add_argument("--dimensions", type=int, default=128, help="of every vector (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of the gate (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the same as data")
    options = parser.parse_args(argv)
    if bool(options.old) != bool(options.new):
        parser.error("give both --old and --new, or neither")
    sizes = sorted(int(s) for s in options.sizes.split(","))
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        Path(folder).chmod(0o755)
        lab = Lab(new_folder(Path(folder)), records=False)
        if options.old:
            _given(lab, options.old, options.new)
        own = None if options.old else lab.new_qdrant()
        with lab:
            try:
                if own is not None:
                    own.start()
                storage = options.storage or (None if options.old else lab.disk(952) / "qdrant" / "storage")
                bench = Bench(lab, options.dimensions, options.seconds, storage)
                _refuse_full_servers(bench)
                _measure(bench, sizes, console)
            except CutoverError as error:
                console.print(f"[red]{error}[/red]")
                return error.exit_code
            finally:
                if own is not None:
                    own.kill()
    if options.json:
        print(json.dumps([vars(row) for row in bench.rows], indent=1))
        return 0
    table = Table("what", "", "", "remark", box=None, padding=(0, 2, 0, 0))
    for row in bench.rows:
        table.add_row(row.what, f"{row.value:,.3f}", row.unit, row.remark)
    wide = Console()
    wide.width = max(wide.width, 140)  # a number that is cut off is no number
    wide.print(table)
    return 0


def _refuse_full_servers(bench: Bench) -> None:
    from cutover.core.errors import Refused

    with bench.run() as run:
        for server in (run.old, run.new):
            if server.collections():
                raise Refused(f"{server.url} is not empty.", "The bench fills and empties both servers: give it empty ones.")


def _measure(bench: Bench, sizes: list[int], console: Console) -> None:
    try:
        bench.fill(sizes[0])
        with console.status("The gate ..."):
            bench.gate()
        for count in sizes:
            with console.status(f"{count} records ..."):
                bench.fill(count)
                bench.copies(count)
                bench.holds(count)
    finally:
        with bench.run() as run, run.guard.act("bench.clear", "Remove what the bench made"):
            for server in (run.old, run.new):
                for name in server.collections():
                    server.delete_collection(name)


if __name__ == "__main__":
    sys.exit(main())
