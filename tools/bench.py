"""How long things take, side by side, from one run: the copy against its alternatives, the hold at several sizes and with many
collections, the proof against plain scrolling, a move that stands on an earlier comparison against one that does not, what an
application notices of a copy, sending a backlog again, and what the gate costs per request.

``./scripts/bench`` runs it. Without further words it brings its own two servers; with ``--old`` and ``--new`` it runs against two
that are given, for example real ones (keys from QDRANT_API_KEY and QDRANT_READ_ONLY_API_KEY). Both must be empty: everything is made
and removed again. Nginx is always a local one. Every measurement is bounded; ``--sizes`` and ``--seconds`` say how much is done.
Ratios carry over to other machines, absolute times do not; on small machines the load generator takes its share. With ``--apart``
the old server, Nginx and the load have the first half of the processors and the new server and the tool the other, as two machines
would (servers that are given: start them with ``taskset``); disks are shared all the same.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from cutover import runner
from cutover.context import Context
from cutover.core.errors import CutoverError, Refused
from cutover.core.threads import side_by_side
from cutover.core.ui import ConfirmedInAdvance
from cutover.core.wait import Not, wait_until
from cutover.gate.write_log import Write
from cutover.qdrant import compare
from cutover.replication import resend, switchover
from cutover.replication.account import Account
from cutover.replication.base_copy import base_copy
from cutover.replication.position import Position
from lab.lab import Lab, new_folder
from lab.load import Load
from tools import felt
from tools.felt import Writes

NAME = "bench"
#: Records a request of the bench carries.
BATCH = 500
#: Records of each of many collections, and dimensions of theirs; mean seconds between two writes of each of two writers to them.
FEW_RECORDS, FEW_DIMENSIONS, PACE_OF_MANY = 300, 32, 0.02
#: Seconds.
A_MINUTE = 60.0
#: What is said of a program that did not end in time.
ENDED = "ended after two minutes"
#: What somebody without this tool would write: from, to, collection, records a request; a process of its own, which can be ended.
MIGRATE = """
import os, sys
from qdrant_client import QdrantClient
source, target = (QdrantClient(url=url, api_key=os.environ["QDRANT_API_KEY"] or None, timeout=600) for url in sys.argv[1:3])
source.migrate(target, collection_names=[sys.argv[3]], batch_size=int(sys.argv[4]))
"""


@dataclass
class Row:
    """One measured number."""

    what: str
    value: float
    unit: str
    remark: str = ""


class Cores:
    """Which processors the two machines have that are imagined. Threads and processes that are started keep what holds then."""

    def __init__(self, apart: bool) -> None:
        there = sorted(os.sched_getaffinity(0))
        half = (len(there) + 1) // 2 if apart else 0
        self.old, self.new = set(there[:half] or there), set(there[half:] or there)

    def move(self, to: set[int]) -> None:
        """The calling thread, and what it starts, runs on these from now on."""
        os.sched_setaffinity(0, to)


class Bench:
    """The servers, the gate between them, and the numbers."""

    def __init__(self, lab: Lab, options: argparse.Namespace, storage: Path | None, cores: Cores) -> None:
        self.lab, self.dimensions, self.seconds, self.storage = lab, options.dimensions, options.seconds, storage
        self.migration, self.graph, self.cores = options.migration, options.graph, cores
        self.rows: list[Row] = []

    def add(self, what: str, value: float, unit: str, remark: str = "") -> None:
        row = Row(what, round(value, 4), unit, remark)
        self.rows.append(row)
        print(f"{row.what}: {row.value:,.3f} {row.unit}  {row.remark}", file=sys.stderr, flush=True)  # a long run may be ended

    @contextmanager
    def run(self) -> Iterator[Context]:
        with closing(self.lab.run(execute=True, confirm=ConfirmedInAdvance(self.lab.site.name))) as run:
            yield run

    def does(self, verb: str, *, undo: bool = False, prove_all: bool = False) -> dict[str, Any]:
        with self.run() as run:
            run.prove_all = prove_all
            result = runner.carry_out(verb, run, undo=undo)
        return dict(result.outcome.facts) if result.outcome is not None else {}

    # -- records --------------------------------------------------------------------------------------
    def fill(self, count: int) -> None:
        """Add random records until there are ``count``, and wait until the server has built what it builds."""
        from numpy.random import default_rng

        dice = default_rng(count)
        with self.run() as run, run.guard.act("bench.fill", f"Fill {count} records"):
            if NAME not in run.old.collections():
                vectors = {"size": self.dimensions, "distance": "Cosine"}
                run.old.ask("PUT", f"/collections/{NAME}", {"vectors": vectors, "hnsw_config": {"m": self.graph}})
            for at in range(run.old.count(NAME), count, BATCH):
                ids = range(at, min(count, at + BATCH))
                drawn = dice.standard_normal((len(ids), self.dimensions)).round(4).tolist()
                run.old.upsert(NAME, [{"id": i, "vector": v, "payload": {"n": i}} for i, v in zip(ids, drawn, strict=True)])

            def built() -> bool | Not:
                state = run.old.info(NAME)["status"]
                return state == "green" or Not(f"{NAME} is {state}")

            wait_until(built, deadline=7200, what="the search index of what was filled in")

    # -- the copy -------------------------------------------------------------------------------------
    def copies(self, count: int) -> None:
        """Snapshot and recovery, a plain copy of the files, and the client library's migration."""
        with self.run() as run, run.guard.act("bench.copy", f"Copy {count} records in several ways"):
            began = time.monotonic()
            facts = base_copy(run, "bench", run.old, run.new, NAME) or {}
            self.add(
                f"copy of {count}: snapshot and recovery (this tool)",
                time.monotonic() - began,
                "s",
                f"{(facts['bytes'] or 0) / 1e6:.0f} MB",
            )
            began = time.process_time()
            compared = compare.compare_collection(run.old, run.new, NAME)
            own = (time.process_time() - began) / count * 1e6
            self.add(
                f"proof of {count}, bit by bit",
                compared.seconds,
                "s",
                f"{compared.records / (compared.seconds or 1):,.0f} records/s, {compared.count} differences; {own:.0f} µs of processor a record in the tool",
            )
            self._scrolls(run, count)
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
            others = [("QdrantClient.migrate", self._migrate)]
            others += [("qdrant/migration", self._migration)] if self.migration else []
            for name, copy in others:
                began = time.monotonic()
                problem = copy(run)
                took = time.monotonic() - began
                there = run.new.count(NAME) if NAME in run.new.collections() else 0
                remark = f"{there} records; no aliases, no proof, writes meanwhile are missed"
                if problem == ENDED and there:
                    took, remark = took * count / there, f"reckoned from the first {there:,} {remark.partition(' ')[2]}"
                elif problem:
                    remark = problem
                elif there != count:
                    remark = f"NOT ALL: {remark}"
                self.add(f"copy of {count}: {name}", took, "s", remark)
                if NAME in run.new.collections():
                    run.new.delete_collection(NAME)

    def _scrolls(self, run: Context, count: int) -> None:
        """What comparing costs with the client library: read both servers page by page and compare the records, a minute at most."""
        from qdrant_client import QdrantClient

        key = run.credentials.get("QDRANT_API_KEY")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = [QdrantClient(url=s.url, api_key=key, timeout=600) for s in (run.old, run.new)]
        at: list[Any] = [None, None]
        began, seen, differ = time.monotonic(), 0, 0
        while (took := time.monotonic() - began) < A_MINUTE:
            pages = [
                one.scroll(NAME, offset=offset, limit=1000, with_payload=True, with_vectors=True)
                for one, offset in zip(both, at, strict=True)
            ]
            seen += len(pages[0][0])
            differ += sum(a != b for a, b in zip(pages[0][0], pages[1][0], strict=True))
            at = [page[1] for page in pages]
            if at[0] is None:
                took = time.monotonic() - began
                break
        rate = seen / took
        said = f"{rate:,.0f} records/s, {differ} differences" + ("" if seen == count else f"; reckoned from the first {seen:,}")
        self.add(f"proof of {count}: QdrantClient.scroll of both", count / rate, "s", said)

    @staticmethod
    def _migrate(run: Context) -> str:
        """The client library's migration, two minutes at most; what went wrong, in its own words."""
        words = [sys.executable, "-W", "ignore", "-c", MIGRATE, run.old.url, run.new.url, NAME, str(BATCH)]
        return _two_minutes(words, os.environ | {"QDRANT_API_KEY": run.credentials.get("QDRANT_API_KEY") or ""})

    def _migration(self, run: Context) -> str:
        """The program of qdrant/migration, over gRPC at the next port of each server, two minutes at most."""
        if run.credentials.get("QDRANT_API_KEY"):
            return "not run: it takes keys in its arguments only, which everybody on the machine can read"
        words = [self.migration, "qdrant", f"--migration.batch-size={BATCH}", "--migration.restart"]
        for side, server in (("source", run.old), ("target", run.new)):
            parts = urlsplit(server.url)
            words += [f"--{side}.url=http://{parts.hostname}:{(parts.port or 80) + 1}", f"--{side}.collection={NAME}"]
        return _two_minutes(words, dict(os.environ))

    def gently(self, count: int, rounds: int = 3) -> None:
        """The slowest write of an application to the collection that is copied, part by part, and without a copy as long."""
        url, key = self.lab.site.qdrant.public_url, self.lab.keys.qdrant
        writes = Writes(url, key, [NAME], self.dimensions, count, lambda: self.cores.move(self.cores.old))
        with self.run() as run, run.guard.act("bench.gently", f"Copy {count} records while somebody writes"), writes:
            found = felt.felt(run, writes, NAME, self.seconds, rounds)
        for what, value, said in felt.rows(found):
            self.add(f"{count} records: {what}", value, "times" if "as often" in what else "ms", said)

    # -- the hold -------------------------------------------------------------------------------------
    def _applications(self, url: str) -> Load:
        """Applications that read and write there from now on."""
        load = Load(url, self.lab.keys.qdrant, self.lab.folder / "load", writers=2, readers=1, pace=0.004)
        self.cores.move(self.cores.old)
        load.start()
        self.cores.move(self.cores.new)
        return load

    def holds(self, count: int) -> None:
        """There and back under load of applications at the gate's own address, as if it stood in the operator's server's place."""
        load = self._applications(f"http://{self.lab.site.nginx.gate_address}")
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
        what = f"with {count} records, applications at the gate itself"
        said = f"{report.requests} requests, {report.failed} failed, {report.lost} lost"
        self.add(f"hold {what}: there / back", max(held), "s", " / ".join(f"{h:.3f}" for h in held))
        self.add(f"longest wait of a write {what}", report.longest_write, "s", said)

    def moves_of_many(self, what: str, names: list[str]) -> None:
        """The same moves, while others write all over the collections."""
        url, key = self.lab.site.qdrant.public_url, self.lab.keys.qdrant
        with Writes(
            url, key, names, FEW_DIMENSIONS, FEW_RECORDS, lambda: self.cores.move(self.cores.old), PACE_OF_MANY
        ) as writes:
            began = time.monotonic()
            self.moves(f"{what}, all of them written to")
            times = writes.between(began, time.monotonic())
        said = f"{len(times)} writes, {len(times) / (time.monotonic() - began):.0f} a second, none failed"
        self.add(f"longest wait of a write to one of {what}", max(times), "s", said)

    def moves(self, what: str) -> None:
        """There and back under load, twice: on the comparison before, and comparing everything."""
        load = self._applications(self.lab.site.qdrant.public_url)
        load.wait_for(300)
        began = time.monotonic()
        self.does("copy")
        self.add(f"copy with {what}", time.monotonic() - began, "s", "as applications see it: with catching up and the proof")
        held, took, steps = list[float](), list[float](), dict[float, dict[str, float]]()
        try:
            for verb, prove_all in (("switch", False), ("back", False), ("switch", True), ("back", True)):
                load.wait_for(100)
                began = time.monotonic()
                facts = self.does(verb, prove_all=prove_all)
                took.append(time.monotonic() - began)
                held.append(facts["held_seconds"])
                steps[held[-1]] = facts["steps"]
            load.wait_for(100)
        finally:
            report = load.stop()
        self.does("copy", undo=True)
        said = f"{report.requests} requests, {report.failed} failed, {report.lost} lost"
        parts = ", ".join(f"{step} {at:.3f}" for step, at in steps[max(held)].items())
        each = " / ".join(f"{h:.3f}" for h in held)
        self.add(f"hold with {what}, four moves", max(held), "s", f"{each}; the longest: {parts}")
        self.add(f"longest wait of a write with {what}", report.longest_write, "s", said)
        self.add(f"move with {what}, on the comparison before", max(took[:2]), "s", " / ".join(f"{t:.1f}" for t in took[:2]))
        self.add(f"move with {what}, comparing everything", max(took[2:]), "s", " / ".join(f"{t:.1f}" for t in took[2:]))

    def with_collections(self, count: int) -> list[str]:
        """Small collections beside the large one, until there are ``count``; their names."""
        from numpy.random import default_rng

        names = [f"many-{number:04d}" for number in range(1, count)]

        def make(name: str) -> None:
            drawn = default_rng(len(name)).standard_normal((FEW_RECORDS, FEW_DIMENSIONS)).round(4).tolist()
            run.old.ask("PUT", f"/collections/{name}", {"vectors": {"size": FEW_DIMENSIONS, "distance": "Cosine"}})
            run.old.create_index(name, "n", "integer")
            run.old.upsert(name, [{"id": i, "vector": v, "payload": {"n": i}} for i, v in enumerate(drawn)])

        with self.run() as run, run.guard.act("bench.collections", f"Make {count} collections"):
            there = set(run.old.collections())
            side_by_side([partial(make, name) for name in names if name not in there], 4)
        return names

    # -- a backlog ------------------------------------------------------------------------------------
    def replays(self, count: int) -> None:
        """Send a recorded backlog to a server again: one write at a time, and together."""
        for what, run_length, several in (("one at a time", 1, min(count, 1000)), ("together", resend.RUN, count)):
            took = self._replay(run_length, several)
            self.add(f"sending {several} recorded writes again, {what}", took, "s", f"{several / took:,.0f} writes/s")

    def _replay(self, run_length: int, count: int) -> float:
        dice, lines, bodies = random.Random(count), list[Write](), dict[str, bytes]()
        for number in range(count):
            record = dice.randrange(max(1, number // 2 + 1))
            vector = [round(dice.gauss(0, 1), 4) for _ in range(self.dimensions)]
            method, rest, body = dice.choice(
                [
                    ("PUT", "points", {"points": [{"id": record, "vector": vector, "payload": {"n": number}}]}),
                    ("PUT", "points", {"points": [{"id": number, "vector": vector, "payload": {"n": number}}]}),
                    ("POST", "points/delete", {"points": [number + count]}),
                ]
            )
            lines.append(Write(number + 1, 0.0, method, f"/collections/{NAME}/{rest}?wait=true", 200, "new", str(number), number))
            bodies[str(number)] = json.dumps(body).encode()
        before, resend.RUN = resend.RUN, run_length
        try:
            with self.run() as run, run.guard.act("bench.replay", "Send a backlog again"):
                if NAME in run.old.collections():
                    run.old.delete_collection(NAME)
                run.old.ask("PUT", f"/collections/{NAME}", {"vectors": {"size": self.dimensions, "distance": "Cosine"}})
                run.gate.bodies = lambda entries: ((e, bodies[e.body]) for e in entries)  # type: ignore[method-assign]
                began = time.monotonic()
                resend.resend(run, Position("new"), Account(writes=lines, end=count))
                took = time.monotonic() - began
                switchover.position_path(run).unlink(missing_ok=True)
                run.old.delete_collection(NAME)
        finally:
            resend.RUN = before
        return took

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


def _two_minutes(words: list[str], environment: dict[str, str]) -> str:
    """Run a program that copies, two minutes at most; what went wrong, in its own words, :data:`ENDED`, or nothing."""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=2 * A_MINUTE)
    except subprocess.TimeoutExpired:
        return ENDED
    said = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    return "" if ended.returncode == 0 else f"failed: {' '.join(said[-1:])[:80]}"


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
    lab.change_site(limits={"slow_ms": 50.0})
    key = os.environ.get("QDRANT_API_KEY", "")
    access = {} if key else {"access": "open"}
    lab.change_site(qdrant={"old_url": old, "new_url": new} | access, guests=guests)
    lab.keys = replace(lab.keys, qdrant=key, qdrant_read_only=os.environ.get("QDRANT_READ_ONLY_API_KEY", key))


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 0 when everything was measured."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--old", help="URL of a real source server; it must be empty, and on another address than --new")
    parser.add_argument("--new", help="URL of a real target server; it must be empty")
    parser.add_argument("--storage", type=Path, help="the source's folder of collections, for comparing with a plain copy")
    parser.add_argument("--sizes", default="1000,5000", help="numbers of records (default: %(default)s)")
    parser.add_argument("--dimensions", type=int, default=128, help="of every vector (default: %(default)s)")
    parser.add_argument("--graph", type=int, default=8, help="m of the search index; 0 builds none (default: %(default)s)")
    parser.add_argument("--apart", action="store_true", help="share out the processors as if there were two machines")
    parser.add_argument(
        "--migration", help="the program of qdrant/migration, for comparing with it; real servers without keys only"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of the gate (default: %(default)s)")
    parser.add_argument("--collections", default="", help="numbers of collections for further moves, such as 100,1000")
    parser.add_argument("--backlog", type=int, default=0, help="number of recorded writes that are sent again")
    parser.add_argument("--json", action="store_true", help="the same as data")
    options = parser.parse_args(argv)
    if bool(options.old) != bool(options.new):
        parser.error("give both --old and --new, or neither")
    sizes = sorted(int(s) for s in options.sizes.split(","))
    collections = sorted(int(s) for s in options.collections.split(",") if s)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        Path(folder).chmod(0o755)
        lab = Lab(new_folder(Path(folder)), records=False)
        if options.old:
            _given(lab, options.old, options.new)
        own = None if options.old else lab.new_qdrant()
        cores = Cores(options.apart)
        cores.move(cores.old)
        with lab:
            cores.move(cores.new)
            storage = options.storage or (None if options.old else lab.disk(952) / "qdrant" / "storage")
            bench, code = Bench(lab, options, storage, cores), 0
            try:
                if own is not None:
                    own.start()
                _refuse_full_servers(bench)
                _measure(bench, sizes, collections, options.backlog, console)
            except CutoverError as error:
                console.print(f"[red]{error}[/red]")
                code = error.exit_code
            except KeyboardInterrupt:
                code = 130
            finally:
                if own is not None:
                    own.kill()
    if options.json:
        print(json.dumps([vars(row) for row in bench.rows], indent=1))
        return code
    table = Table("what", "", "", "remark", box=None, padding=(0, 2, 0, 0))
    for row in bench.rows:  # also of a run that was ended: what was measured is true
        table.add_row(row.what, f"{row.value:,.3f}", row.unit, row.remark)
    wide = Console()
    wide.width = max(wide.width, 140)  # a number that is cut off is no number
    wide.print(table)
    return code


def _refuse_full_servers(bench: Bench) -> None:
    with bench.run() as run:
        for server in (run.old, run.new):
            if server.collections():
                raise Refused(f"{server.url} is not empty.", "The bench fills and empties both servers: give it empty ones.")


def _measure(bench: Bench, sizes: list[int], collections: list[int], backlog: int, console: Console) -> None:
    try:
        bench.fill(sizes[0])
        with console.status("The gate ..."):
            bench.gate()
        for count in sizes:
            with console.status(f"{count} records ..."):
                bench.fill(count)
                bench.gently(count)
                bench.moves(f"{count} records")
                if count == sizes[0]:
                    bench.holds(count)
                bench.copies(count)
        if collections:  # what a move of many costs is not what the largest of them adds
            with bench.run() as run, run.guard.act("bench.smaller", "Remove the largest collection"):
                run.old.delete_collection(NAME)
            bench.fill(sizes[0])
        for count in collections:
            with console.status(f"{count} collections ..."):
                names = bench.with_collections(count)
                bench.moves(f"{count} collections")
                if names:
                    bench.moves_of_many(f"{count} collections", names)
        if backlog:
            with console.status("A backlog ..."):
                bench.replays(backlog)
    finally:
        with bench.run() as run, run.guard.act("bench.clear", "Remove what the bench made"):
            for server in (run.old, run.new):
                for name in server.collections():
                    server.delete_collection(name)


if __name__ == "__main__":
    sys.exit(main())
