"""An application: it reads and writes through Nginx all the time and knows what Qdrant promised it.

A process of its own, as applications are. Writers use upserts, overwrites, payload changes, vector updates, deletes and batches,
with and without waiting, each on its own ids, and keep the last state that was acknowledged for every id. Readers search, scroll
and count. When it is told to stop it finishes what is under way and then audits: every id must be exactly what was acknowledged
last. A request that fails in any way is counted. Of the ids of a failed write nothing new was promised: they must be what was
acknowledged last, or what one of the failed writes since would have made of them. Nothing is retried: an application that retries would hide what it should show.

With ``library`` there is one writer and reader each of the client library that applications use, the synchronous and the
asynchronous one, beside the raw requests that it cannot make.

`Load` starts and stops it; `python -m lab.load` is the process. It does not model gRPC, TLS or several collections.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import select
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cutover.core.wait import Not, wait_until
from lab.processes import Process

ROOT = Path(__file__).resolve().parents[1]
SIZE = 16
COLLECTION = "orders"
ALIAS = "orders-now"


@dataclass(frozen=True)
class Report:
    """What the application saw. Times in seconds; `lost` counts acknowledged writes that were not there afterwards."""

    requests: int = 0
    failed: int = 0
    writes: int = 0
    audited: int = 0
    lost: int = 0
    unsure: int = 0
    longest_write: float = 0.0
    longest_read: float = 0.0
    median_write: float = 0.0
    seconds: float = 0.0
    failures: Sequence[str] = field(default_factory=list)
    wrong: Sequence[str] = field(default_factory=list)
    by_operation: Mapping[str, int] = field(default_factory=dict)
    #: For each tenth of a second in which something was answered: when it began (seconds since 1970), reads, writes, failed
    #: requests, and the longest time that a write took.
    series: Sequence[tuple[float, int, int, int, float]] = ()

    def __str__(self) -> str:
        said = (
            f"{self.requests} requests, {self.failed} failed; {self.audited} records audited, {self.lost} lost; "
            f"longest wait of a write {self.longest_write:.3f} s"
        )
        return said + "".join(f"\n  failed: {f}" for f in self.failures) + "".join(f"\n  lost: {w}" for w in self.wrong)


class Load:
    """Start, watch and stop the application. `url` is Qdrant through Nginx."""

    def __init__(
        self,
        url: str,
        key: str,
        folder: Path,
        *,
        writers: int = 3,
        readers: int = 2,
        pace: float = 0.002,
        seed: int = 1,
        records: int = 500,
        by_filter: bool = False,
        library: bool = False,
    ) -> None:
        self._report = folder / "report.json"
        self._progress = folder / "progress.json"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for old in (self._report, self._progress):
            old.unlink(missing_ok=True)
        settings = {
            "url": url,
            "folder": str(folder),
            "writers": writers,
            "readers": readers,
            "pace": pace,
            "seed": seed,
            "records": records,
            "by_filter": by_filter,
            "library": library,
        }
        self.process = Process(
            [sys.executable, "-m", "lab.load"],
            env={
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
                "LOAD": json.dumps(settings),
                "LOAD_KEY": key,
            },
            cwd=ROOT,
            log=folder / "load.log",
            ready=self._ready,
            name="the application",
        )

    def _ready(self) -> str | None:
        return None if self._progress.exists() else "it has not begun"

    def start(self) -> None:
        """Make the collection where it is missing, fill it, and begin."""
        self.process.start()

    def so_far(self) -> Mapping[str, int]:
        """`requests`, `writes` and `failed` until a moment ago."""
        found: dict[str, int] = json.loads(self._progress.read_text())
        return found

    def wait_for(self, more: int, *, deadline: float = 60.0) -> None:
        """Wait until `more` requests have been answered from now on."""
        begin = self.so_far()["requests"]

        def answered() -> bool | Not:
            now = self.so_far()["requests"]
            return True if now >= begin + more else Not(f"{now - begin} of {more} requests were answered")

        wait_until(answered, deadline=deadline, what=f"{more} more requests of the application")

    def stop(self, *, within: float = 60.0) -> Report:
        """Let it finish what is under way, audit, and say what it saw."""
        self.process.stop(grace=within)
        if not self._report.exists():
            raise AssertionError(f"The application ended without a report:\n{self.process.tail()}")
        return Report(**json.loads(self._report.read_text()))


# -- the process ----------------------------------------------------------------------------------------
class _Client:
    """One keep-alive connection."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._headers = {"api-key": key, "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """(status, answer); a broken connection is (0, reason)."""
        try:
            self._forget_closed()
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
                self._connection.connect()
            data = None if body is None else json.dumps(body).encode()
            self._connection.request(method, path, body=data, headers=self._headers)
            answer = self._connection.getresponse()
            content = answer.read()
            if answer.will_close:
                self._connection.close()
                self._connection = None
        except (OSError, http.client.HTTPException) as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return 0, f"{type(error).__name__}: {error}".encode()
        return answer.status, content

    def _forget_closed(self) -> None:
        """Leave a connection that the server closed while it was idle, as urllib3, httpx and Go's client do before a request.

        A connection that closes just after this look still fails the request: that is not hidden.
        """
        if self._connection is not None and self._connection.sock is not None:
            readable, _, _ = select.select([self._connection.sock], [], [], 0)
            if readable:
                self._connection.close()
                self._connection = None


class _Application:
    def __init__(self, settings: Mapping[str, Any], key: str) -> None:
        self.settings, self.key = settings, key
        self.folder = Path(settings["folder"])
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.requests = self.failed = self.writes = 0
        self.failures: list[str] = []
        self.write_times: list[float] = []
        self.longest_read = 0.0
        self.by_operation: dict[str, int] = {}
        self.promised: dict[int | str, tuple[list[float], dict[str, Any]] | None] = {}
        #: What failed writes would have made of an id, since it was promised something whole.
        self.unsure: dict[int | str, list[tuple[list[float], dict[str, Any]] | None]] = {}
        self.series: dict[int, list[float]] = {}

    # -- counting -----------------------------------------------------------------------------------
    def _ask(self, client: _Client, name: str, method: str, path: str, body: Any, *, write: bool) -> bool:
        began = time.monotonic()
        status, answer = client.ask(method, path, body)
        return self._count(
            name, f"{method} {path}", began, status == 200, f"{status} {answer[:200].decode(errors='replace')}", write
        )

    def _count(self, name: str, what: str, began: float, good: bool, said: str, write: bool) -> bool:
        took = time.monotonic() - began
        with self.lock:
            self.requests += 1
            self.by_operation[name] = self.by_operation.get(name, 0) + 1
            if write:
                self.writes += 1
                self.write_times.append(took)
            else:
                self.longest_read = max(self.longest_read, took)
            tenth = self.series.setdefault(int(time.time() * 10), [0, 0, 0, 0.0])
            tenth[1 if write else 0] += 1
            tenth[2] += not good
            tenth[3] = max(tenth[3], round(took, 4) if write else 0.0)
            if not good:
                self.failed += 1
                if len(self.failures) < 10:
                    self.failures.append(f"{time.strftime('%H:%M:%S')} {what} after {took:.3f} s: {said}")
        return good

    # -- writers ------------------------------------------------------------------------------------
    def prepare(self) -> None:
        client = _Client(self.settings["url"], self.key)
        status, _ = client.ask("GET", f"/collections/{COLLECTION}")
        if status == 404:
            made = [
                client.ask("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": SIZE, "distance": "Dot"}}),
                client.ask("PUT", f"/collections/{COLLECTION}/index?wait=true", {"field_name": "state", "field_schema": "keyword"}),
                client.ask("POST", "/collections/aliases", {"actions": [{"create_alias": {"collection_name": COLLECTION, "alias_name": ALIAS}}]}),
            ]  # fmt: skip
            assert [status for status, _ in made] == [200, 200, 200], made

    def ids(self, writer: int) -> list[int | str]:
        """The ids of one writer; nobody else writes them."""
        number = int(self.settings["records"])
        made: list[int | str] = [writer * 1_000_000 + i for i in range(number * 3 // 4)]
        made += [str(uuid.UUID(int=(writer + 1) << 64 | i)) for i in range(number // 4)]
        return made

    def write(self, writer: int) -> None:
        dice = random.Random(int(self.settings["seed"]) * 1000 + writer)
        client, ids = _Client(self.settings["url"], self.key), self.ids(writer)
        names = (COLLECTION, ALIAS)
        number = 0
        while not self.done.is_set():
            number += 1
            known = [i for i in dice.sample(ids, min(len(ids), 40)) if self.promised.get(i) is not None and i not in self.unsure]
            name, method, rest, body, after = self._choose(dice, ids, known, f"{writer}-{number}")
            wait = dice.choice(["?wait=true", "?wait=false", ""])
            path = f"/collections/{dice.choice(names)}/{rest}{wait}"
            if self._ask(client, name, method, path, body, write=True):
                self.promised.update(after)
                # A whole new state was promised, so an earlier doubt is over.
                for i in after if name in {"upsert", "batch-form", "delete"} else ():
                    self.unsure.pop(i, None)
            else:
                for i, state in after.items():
                    self.unsure.setdefault(i, []).append(state)
            self._pace(dice)

    def _choose(
        self, dice: random.Random, ids: list[Any], known: list[Any], mark: str
    ) -> tuple[str, str, str, Any, dict[Any, Any]]:
        """(operation, method, path, body, what it promises)."""

        def vector() -> list[float]:
            return [dice.randint(-512, 512) / 64 for _ in range(SIZE)]  # exact in 32 bits

        def payload() -> dict[str, Any]:
            return {
                "mark": mark,
                "state": dice.choice(["new", "paid", "sent"]),
                "amount": dice.randint(0, 2**53),
                "rest": {"x": [1.5, None]},
            }

        kind = dice.choices(
            ["upsert", "batch-form", "set", "overwrite", "drop-key", "clear", "vector", "delete", "batch"],
            [30, 8, 15, 8, 6, 3, 8, 12, 10],
        )[0]
        if not known and kind not in {"upsert", "batch-form"}:
            kind = "upsert"
        if kind in {"upsert", "batch-form"}:
            after = {i: (vector(), payload()) for i in dice.sample(ids, dice.choice([1, 1, 1, 2, 8]))}
            if kind == "upsert":
                records = [{"id": i, "vector": v, "payload": p} for i, (v, p) in after.items()]
                return kind, "PUT", "points", {"points": records}, after
            columns = {"ids": list(after), "vectors": [v for v, _ in after.values()], "payloads": [p for _, p in after.values()]}
            return kind, "PUT", "points", {"batch": columns}, after
        some = known[: dice.choice([1, 1, 2, 5])]
        state = {i: self.promised[i] for i in some}
        if kind == "set":
            return (
                kind,
                "POST",
                "points/payload",
                {"payload": {"mark": mark}, "points": some},
                {i: (s[0], s[1] | {"mark": mark}) for i, s in state.items() if s},
            )
        if kind == "overwrite":
            fresh = payload()
            return (
                kind,
                "PUT",
                "points/payload",
                {"payload": fresh, "points": some},
                {i: (s[0], fresh) for i, s in state.items() if s},
            )
        if kind == "drop-key":
            body = {"keys": ["rest"], "points": some}
            return (
                kind,
                "POST",
                "points/payload/delete",
                body,
                {i: (s[0], {k: v for k, v in s[1].items() if k != "rest"}) for i, s in state.items() if s},
            )
        if kind == "clear":
            return kind, "POST", "points/payload/clear", {"points": some}, {i: (s[0], {}) for i, s in state.items() if s}
        if kind == "vector":
            fresh_vectors = {i: vector() for i in some}
            body = {"points": [{"id": i, "vector": v} for i, v in fresh_vectors.items()]}
            return kind, "PUT", "points/vectors", body, {i: (fresh_vectors[i], s[1]) for i, s in state.items() if s}
        if kind == "delete":
            return kind, "POST", "points/delete", {"points": some}, dict.fromkeys(some)
        one, fresh_vector, fresh = some[0], vector(), payload()
        operations = [
            {"upsert": {"points": [{"id": one, "vector": fresh_vector, "payload": fresh}]}},
            {"set_payload": {"payload": {"mark": "batch"}, "points": [one]}},
            *([{"delete": {"points": some[1:]}}] if some[1:] else []),
        ]
        return (
            kind,
            "POST",
            "points/batch",
            {"operations": operations},
            {one: (fresh_vector, fresh | {"mark": "batch"}), **dict.fromkeys(some[1:])},
        )

    def _pace(self, dice: random.Random) -> None:
        pace = float(self.settings["pace"])
        if pace:
            self.done.wait(dice.random() * 2 * pace)

    # -- readers ------------------------------------------------------------------------------------
    def read(self, reader: int) -> None:
        dice = random.Random(77_000 + reader)
        client = _Client(self.settings["url"], self.key)
        while not self.done.is_set():
            at = f"/collections/{dice.choice([COLLECTION, ALIAS])}/points"
            name, path, body = dice.choice(
                [
                    ("search", f"{at}/query", {"query": [dice.random() for _ in range(SIZE)], "limit": 5}),
                    ("scroll", f"{at}/scroll", {"limit": 5, "offset": dice.randint(0, 1000)}),
                    ("retrieve", at, {"ids": dice.sample(self.ids(0), 3)}),
                    ("count", f"{at}/count", {"exact": True, "filter": {"must": [{"key": "state", "match": {"value": "paid"}}]}}),
                ]
            )
            self._ask(client, name, "POST", path, body, write=False)
            self._pace(dice)

    # -- the client library -------------------------------------------------------------------------
    def _settle(self, good: bool, after: Mapping[int | str, tuple[list[float], dict[str, Any]] | None]) -> None:
        """What a whole new state of these ids was promised, or is in doubt since a write failed."""
        for i, state in after.items():
            if good:
                self.promised[i] = state
                self.unsure.pop(i, None)
            else:
                self.unsure.setdefault(i, []).append(state)

    def _turn(self, dice: random.Random, ids: Sequence[int | str], mark: str) -> tuple[str, dict[int | str, Any]]:
        """(operation, what it promises) of one turn of a client library."""
        kind = dice.choice(["upsert", "upsert", "delete", "search", "scroll"])
        some = dice.sample(list(ids), dice.choice([1, 2, 5]))
        if kind == "upsert":
            return kind, {i: ([dice.randint(-512, 512) / 64 for _ in range(SIZE)], {"mark": mark, "state": "new"}) for i in some}
        return kind, dict.fromkeys(some) if kind == "delete" else {}

    def use_library(self, writer: int) -> None:
        """Read and write with ``QdrantClient``."""
        from qdrant_client import QdrantClient, models

        client = QdrantClient(url=self.settings["url"], api_key=self.key, check_compatibility=False, timeout=30)
        dice, ids, number = random.Random(55_000 + writer), self.ids(writer), 0
        while not self.done.is_set():
            number += 1
            kind, after = self._turn(dice, ids, f"{writer}-{number}")
            began, said = time.monotonic(), ""
            try:
                if kind == "upsert":
                    points = [models.PointStruct(id=i, vector=v, payload=p) for i, (v, p) in after.items()]
                    client.upsert(ALIAS, points, wait=dice.choice([True, False]))
                elif kind == "delete":
                    client.delete(COLLECTION, models.PointIdsList(points=list(after)))
                elif kind == "search":
                    client.query_points(ALIAS, [dice.random() for _ in range(SIZE)], limit=5)
                else:
                    client.scroll(COLLECTION, limit=5)
            except Exception as error:  # whatever a client raises is what its application sees
                said = f"{type(error).__name__}: {str(error)[:200]}"
            good = self._count(f"client {kind}", f"QdrantClient {kind}", began, not said, said, bool(after))
            self._settle(good, after)
            self._pace(dice)

    def use_async_library(self, writer: int) -> None:
        """Read and write with ``AsyncQdrantClient``, three requests at a time."""
        asyncio.run(self._use_async_library(writer))

    async def _use_async_library(self, writer: int) -> None:
        from qdrant_client import AsyncQdrantClient, models

        client = AsyncQdrantClient(url=self.settings["url"], api_key=self.key, check_compatibility=False, timeout=30)
        ids = self.ids(writer)

        async def turn(dice: random.Random, mine: Sequence[int | str], mark: str) -> None:
            kind, after = self._turn(dice, mine, mark)
            began, said = time.monotonic(), ""
            try:
                if kind == "upsert":
                    points = [models.PointStruct(id=i, vector=v, payload=p) for i, (v, p) in after.items()]
                    await client.upsert(COLLECTION, points, wait=dice.choice([True, False]))
                elif kind == "delete":
                    await client.delete(ALIAS, models.PointIdsList(points=list(after)))
                elif kind == "search":
                    await client.query_points(COLLECTION, [dice.random() for _ in range(SIZE)], limit=5)
                else:
                    await client.scroll(ALIAS, limit=5)
            except Exception as error:  # whatever a client raises is what its application sees
                said = f"{type(error).__name__}: {str(error)[:200]}"
            good = self._count(f"async {kind}", f"AsyncQdrantClient {kind}", began, not said, said, bool(after))
            self._settle(good, after)

        async def task(number: int) -> None:
            dice, mine, turns = random.Random(66_000 + number), ids[number::3], 0  # no id in two tasks
            while not self.done.is_set():
                turns += 1
                await turn(dice, mine, f"{writer}-{number}-{turns}")
                await asyncio.sleep(dice.random() * 2 * float(self.settings["pace"]))

        await asyncio.gather(*(task(number) for number in range(3)))
        await client.close()

    # -- the whole life -----------------------------------------------------------------------------
    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.done.set())
        self.prepare()
        threads = [threading.Thread(target=self.write, args=(i,), daemon=True) for i in range(int(self.settings["writers"]))]
        threads += [threading.Thread(target=self.read, args=(i,), daemon=True) for i in range(int(self.settings["readers"]))]
        if self.settings["library"]:
            writers = int(self.settings["writers"])
            threads.append(threading.Thread(target=self.use_library, args=(writers,), daemon=True))
            threads.append(threading.Thread(target=self.use_async_library, args=(writers + 1,), daemon=True))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while not self.done.wait(0.1):
            self._tell("progress.json", {"requests": self.requests, "writes": self.writes, "failed": self.failed})
        for thread in threads:
            thread.join(timeout=40)
        seconds = time.monotonic() - began
        wrong = self.audit()
        times = sorted(self.write_times) or [0.0]
        report = Report(
            requests=self.requests,
            failed=self.failed,
            writes=self.writes,
            audited=len(self.promised),
            lost=len(wrong),
            unsure=len(self.unsure),
            longest_write=round(times[-1], 4),
            longest_read=round(self.longest_read, 4),
            median_write=round(times[len(times) // 2], 5),
            seconds=round(seconds, 2),
            failures=self.failures,
            wrong=wrong[:10],
            by_operation=self.by_operation,
            series=[(at / 10, int(r), int(w), int(f), longest) for at, (r, w, f, longest) in sorted(self.series.items())],
        )
        self._tell("report.json", vars(report))

    def _tell(self, name: str, what: Any) -> None:
        fresh = self.folder / (name + ".new")
        fresh.write_text(json.dumps(what))
        fresh.replace(self.folder / name)

    def audit(self) -> list[str]:
        """Every id must be exactly what was acknowledged last."""
        client = _Client(self.settings["url"], self.key)
        nobody = [str(uuid.uuid4()) for _ in range(64)]
        status, answer = client.ask("POST", f"/collections/{COLLECTION}/points/delete?wait=true", {"points": nobody})
        if status != 200:
            return [f"the audit could not be made: {status} {answer[:200]!r}"]
        wrong = []
        known = list(self.promised)
        for at in range(0, len(known), 200):
            part = known[at : at + 200]
            status, answer = client.ask(
                "POST", f"/collections/{COLLECTION}/points", {"ids": part, "with_payload": True, "with_vector": True}
            )
            if status != 200:
                return [f"the audit could not be made: {status} {answer[:200]!r}"]
            found = {r["id"]: (r["vector"], r.get("payload") or {}) for r in json.loads(answer)["result"]}
            wrong += [
                f"{i}: promised {self.promised[i]}, found {found.get(i)}"
                for i in part
                if found.get(i) not in [self.promised[i], *self.unsure.get(i, [])]
            ]
        return wrong


def before_fork(env: Mapping[str, str]) -> None:
    """Import the client library once for all that will use it."""
    if json.loads(env["LOAD"])["library"]:
        import qdrant_client  # noqa: F401


def main() -> None:
    """Be the application that the environment describes, until it is told to stop."""
    _Application(json.loads(os.environ["LOAD"]), os.environ["LOAD_KEY"]).run()


if __name__ == "__main__":
    main()
