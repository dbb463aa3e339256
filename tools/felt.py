"""What an application notices of a copy: writes to the collection that is copied, timed one by one, and the copy part by part."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from cutover.context import Context
from cutover.qdrant import snapshots
from cutover.replication.base_copy import base_copy

#: Mean seconds between two writes of a writer.
PACE = 0.004
WITHOUT = "without a copy"
TAKING = "while a collection is made anew and the old server takes its snapshot"
FETCHING = "while the new server fetches and recovers it"
WHOLE = "while a snapshot of the whole collection is taken, for comparison"


class Writes:
    """``with Writes(...) as writes: ... writes.between(began, end)``. One writer waits for its writes to be applied, one does not.

    ``first`` is called in each writer's thread before it begins. ``pace``: mean seconds between two writes of each.
    """

    def __init__(
        self,
        url: str,
        key: str,
        collections: Sequence[str],
        dimensions: int,
        records: int,
        first: Callable[[], None],
        pace: float = PACE,
    ) -> None:
        self._parts, self._records, self._first, self._pace = urlsplit(url), records, first, pace
        self._headers = {"api-key": key, "Content-Type": "application/json"}
        self._paths = [f"/collections/{name}/points?wait=" for name in collections]
        dice = random.Random(records)
        self._vectors = [json.dumps([round(dice.gauss(0, 1), 4) for _ in range(dimensions)]) for _ in range(20)]
        self._over, self._times = threading.Event(), list[tuple[float, float]]()
        self._failed: list[BaseException] = []
        self._threads = [threading.Thread(target=self._write, args=(wait,), daemon=True) for wait in ("true", "false")]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._failed and error is None:
            raise self._failed[0]

    def between(self, began: float, end: float) -> list[float]:
        """Seconds of each write that was under way then (monotonic), and has ended."""
        return [took for at, took in self._times if at < end and at + took > began]

    def _write(self, wait: str) -> None:
        try:
            self._first()
            dice = random.Random(wait)
            line = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port or 80, timeout=60)
            while not self._over.wait(dice.random() * 2 * self._pace):
                record = f'{{"id":{dice.randrange(self._records)},"vector":{dice.choice(self._vectors)}}}'
                began = time.monotonic()
                line.request("PUT", dice.choice(self._paths) + wait, body=f'{{"points":[{record}]}}', headers=self._headers)
                answer = line.getresponse()
                answer.read()
                self._times.append((began, time.monotonic() - began))
                if answer.status != 200:
                    raise SystemExit(f"A write was answered {answer.status}.")
            line.close()
        except BaseException as error:
            self._failed.append(error)


@dataclass
class Felt:
    """Of one part of a copy: the slowest write each time, and all writes, in seconds."""

    slowest: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ordered = sorted(self.writes) or [0.0]
        each = " / ".join(f"{one * 1000:.0f}" for one in self.slowest)
        return f"each time {each}; 99 % within {ordered[len(ordered) * 99 // 100] * 1000:.0f} ms, {len(self.writes)} writes"


def felt(run: Context, writes: Writes, collection: str, seconds: float, rounds: int) -> Mapping[str, Felt]:
    """Copy a collection several times, timed in its two parts; before each for as long as nothing is copied (at first ``seconds``),
    and after each, for comparison, one snapshot of the whole collection.
    """
    found: dict[str, Felt] = {}

    def part(name: str, began: float) -> float:
        end = time.monotonic()
        time.sleep(0.5)  # what was under way ends, and is no part of the next
        here, seen = found.setdefault(name, Felt()), writes.between(began, end)
        here.slowest.append(max(seen, default=0.0))
        here.writes.extend(seen)
        return time.monotonic()

    for _ in range(rounds):
        at = time.monotonic()
        time.sleep(seconds)
        began = at = part(WITHOUT, at)

        def between() -> None:
            nonlocal at
            at = part(TAKING, at)

        base_copy(run, "bench", run.old, run.new, collection, between)
        at = part(FETCHING, at)
        seconds = at - began
        with snapshots.taken(run, "bench", run.old, collection):
            at = part(WHOLE, at)
        run.new.delete_collection(collection)
    return found


def rows(found: Mapping[str, Felt]) -> Sequence[tuple[str, float, str]]:
    """(what, the slowest write in milliseconds, the rest of it in words); the last two are how many times as long that is."""
    said = [(f"slowest write {name}", max(one.slowest) * 1000, str(one)) for name, one in found.items()]
    usual = _middle(found[WITHOUT].slowest)
    copy = _middle([max(each) for each in zip(found[TAKING].slowest, found[FETCHING].slowest, strict=True)])
    return [
        *said,
        ("slowest write with a copy, as often as without", copy / usual, "medians of the slowest of each time"),
        (
            "slowest write with a snapshot of the whole collection, as often as without",
            _middle(found[WHOLE].slowest) / usual,
            "which is not used",
        ),
    ]


def _middle(several: Sequence[float]) -> float:
    return sorted(several)[len(several) // 2]
