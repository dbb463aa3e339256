"""What was seen in a soak (:mod:`tools.soak`), how it is judged, and the numbers for people."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from lab.load import Report


@dataclass
class Sample:
    """One look. ``writes`` and ``seconds``: how many recorded writes the other server lacks, and how old the oldest of them is."""

    at: float
    writes: int
    seconds: float
    memory: float
    record: float
    bodies: int
    happening: str


@dataclass
class Happened:
    """``seconds``: until the watch was up to date again. ``failed``: requests of the application that failed until then."""

    at: float
    what: str
    seconds: float
    said: str = ""
    failed: int = 0


@dataclass
class Result:
    """What was seen. Sizes in MB, times in seconds."""

    minutes: float = 0.0
    servers: str = ""
    samples: list[Sample] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    stood_on: int = 0
    errors: list[str] = field(default_factory=list)
    compared: int = 0
    different: list[str] = field(default_factory=list)
    state_folder: list[float] = field(default_factory=list)
    processor: float = 0.0
    load: Report | None = None

    def quiet(self) -> list[Sample]:
        """The looks while nothing happened."""
        return [one for one in self.samples if not one.happening]

    def memory(self) -> tuple[float, float, float]:
        """Of the watch that ran longest without being started again: the medians of its first and last third, and the most.

        Not a single look: while it compares everything, which it does behind a power cut, it takes half as much again.
        """
        lives: list[list[float]] = [[]]
        for one in self.samples:
            if one.memory:
                lives[-1].append(one.memory)
            elif lives[-1]:
                lives.append([])
        longest = max(lives, key=len)
        settled = longest[60:] or longest or [0.0]
        third = max(1, len(settled) // 3)
        return statistics.median(settled[:third]), statistics.median(settled[-third:]), max(longest or [0.0])

    def wrong(self, memory: float, record: float, behind: float) -> list[str]:
        """What is not as it should be, as sentences."""
        load = self.load or Report()
        first, last, most = self.memory()
        found = [f"{one}" for one in self.errors]
        found += [f"{load.failed} requests of the application failed"] if load.failed else []
        found += [f"{load.lost} acknowledged writes were lost"] if load.lost else []
        found += [f"both servers differ: {one}" for one in self.different]
        found += [f"the watch had {most:.0f} MB of memory"] if most > memory else []
        found += [f"the watch's memory grew from {first:.0f} to {last:.0f} MB"] if last > first * 1.5 + 10 else []
        most_record = max((one.record for one in self.samples), default=0.0)
        found += [f"the record took {most_record:.0f} MB on the Nginx host"] if most_record > record else []
        late = [one.seconds for one in self.quiet()]
        found += [f"nothing happened, and a write waited {max(late):.1f} s"] if late and max(late) > behind else []
        return found + ([] if self.samples and self.compared else ["nothing was watched, or nothing compared"])


def lines(result: Result) -> list[str]:
    """The numbers for people."""
    quiet, (first, last, most) = result.quiet(), result.memory()
    seconds = sorted(one.seconds for one in quiet) or [0.0]
    writes = sorted(one.writes for one in quiet) or [0]
    records = [one.record for one in result.samples] or [0.0]
    median = statistics.median
    said = [
        f"{result.minutes:g} min of the watch on Qdrant {result.servers}; {len(result.samples)} looks, in {len(quiet)} nothing happened.",
        f"  behind then: median {median(seconds):.2f}, 99 of 100 below {seconds[int(len(seconds) * 0.99)]:.2f}, at most {seconds[-1]:.2f} s",
        f"  and: median {median(writes):.0f}, at most {writes[-1]} writes",
        f"  memory of its longest life: {first:.0f} MB in its first third, {last:.0f} in its last, at most {most:.0f}",
        f"  its processor in that life: {result.processor:.0f} s",
        f"  the record on the Nginx host: median {median(records):.2f}, at most {max(records):.2f} MB",
        f"  the state folder: {' to '.join(f'{one:.1f}' for one in result.state_folder)} MB",
    ]
    for what in dict.fromkeys(one.what for one in result.happened):
        times = [one.seconds for one in result.happened if one.what == what]
        worst = max((s.seconds for s in result.samples if s.happening == what), default=0.0)
        times_said = f"{len(times)} time{'s' if len(times) > 1 else ''}"
        after = f"up to date again after {min(times):.1f} to {max(times):.1f} s, behind at most {worst:.1f} s"
        said.append(f"  {what}, {times_said}: {after}")
    held = result.held or [0.0]
    moves = f"  {len(result.held)} moves, {result.stood_on} of them on what the watch had compared"
    said.append(f"{moves}; holds {min(held):.2f} to {max(held):.2f} s")
    return [*said, f"  the application: {result.load}", f"  in the end {result.compared:,} records of both servers compared"]
