"""`follow --watch` for an hour, while an application reads and writes and whatever can happen at night happens.

``./scripts/soak --minutes 60`` brings Nginx, two servers (``--qdrant PROGRAM``: real ones) and an application. The watch, and
every command beside it, is the command line as a process of its own. While it watches, one thing after the other happens: it is
killed and started again as its unit would, it is stopped and it stands still; the server that does not serve loses its power;
the serving one does not answer for a second; Nginx is reloaded; the disk under the gate's folder is full for a moment; and the
traffic moves there and back. Behind each of them it has to be up to date again.

Every second it is looked, from outside, how far the other server is behind, how much memory the watch has, and how much room the
record takes on the Nginx host. In the end both servers are compared bit by bit. It ends with 0 when no request of the application
failed, no acknowledged write was lost, both servers are the same, and the watch came back behind everything that happened.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cutover import runner
from cutover.core.errors import CutoverError
from cutover.core.ui import ConfirmedInAdvance
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate import write_log
from cutover.gate.watch import RESERVE_MB
from cutover.qdrant import compare, schema
from cutover.replication.position import CannotFollow, Position
from lab.disks import Disk, NoMount, disk
from lab.lab import ROOT, Lab, new_folder
from lab.load import Load
from lab.processes import Process
from tools import usage
from tools.soak_result import Happened, Result, Sample, lines

#: The file system under the gate's folder; recording ends where less than RESERVE_MB of it is free.
GATE_DISK_MB = 640
#: Seconds until the watch has to be up to date again behind whatever happened.
PATIENCE = 120.0
BULK = "bulk"


class Soak:
    """The lab, the application, the watch, the operator, and what happens to them."""

    def __init__(self, lab: Lab, new: Process, gate_disk: Disk | None, options: argparse.Namespace, say: Callable[[str], None]):
        self.lab, self.new, self.gate_disk, self.options = lab, new, gate_disk, options
        self._say = say
        self.result = Result(minutes=options.minutes)
        self._happening = ""
        self._over = threading.Event()
        self.load = Load(
            lab.site.qdrant.public_url, lab.keys.qdrant, lab.folder / "load",
            writers=2, readers=2, pace=options.load_pace, library=True,
        )  # fmt: skip

    def say(self, sentence: str) -> None:
        self._say(f"{time.strftime('%H:%M:%S')} {sentence}")

    # -- the command line -------------------------------------------------------------------------
    def _words(self, *words: str) -> list[str]:
        options = ["--site", str(self.lab.site_file), "--state-dir", str(self.lab.state_dir)]
        # With -u, so that the lab starts it as users do, and does not fork it: its memory is looked at.
        return [sys.executable, "-u", "-m", "cutover", *words, *options]

    def _env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(ROOT / "src"), **self.lab.env}

    def command(self, *words: str) -> dict[str, Any]:
        """One command of the operator, with ``--json``; what it printed. :class:`CutoverError` where it did not end with 0."""
        env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | self._env()
        done = subprocess.run(
            self._words(*words, "--json"), env=env, cwd=self.lab.folder, capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode != 0:
            raise CutoverError(f"{words[0]} ended with {done.returncode}: {' '.join(done.stderr.split())}")
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def start_watch(self) -> None:
        """As the unit does; ready when it has gone round once."""
        began, seen = time.time(), self.lab.state_dir / "watch.json"

        def ready() -> str | None:
            with suppress(OSError, ValueError):
                if float(json.loads(seen.read_text())["at"]) >= began:
                    return None
            return "it has not gone round"

        self.watch = Process(
            self._words("follow", "--watch", "--execute"), env=self._env(), cwd=self.lab.folder, ready=ready, ready_within=PATIENCE,
            log=self.lab.folder / "logs" / "watch.log", name="follow --watch",
        )  # fmt: skip
        self.watch.start()

    def does(self, verb: str) -> None:
        """A step before the watch begins."""
        with closing(self.lab.run(execute=True, confirm=ConfirmedInAdvance(self.lab.site.name))) as run:
            runner.carry_out(verb, run)

    # -- what is seen -----------------------------------------------------------------------------
    def behind(self) -> tuple[int, float]:
        """(recorded writes that the other server lacks, age of the oldest of them in seconds), from the files alone."""
        position = Position.load(self.lab.state_dir / "follow.json")
        if position is None:
            return 0, 0.0
        log = self.lab.nginx.gate_folder / "log" / "writes.jsonl"
        with log.open("rb") as file:
            file.seek(position.offset)
            data = file.read()
        ended = [one for one in write_log.Ended().of(write_log.lines(data, position.offset)) if one.side]
        return len(ended), max(0.0, time.time() - ended[0].at) if ended else 0.0

    def look(self) -> None:
        """One sample."""
        happening = self._happening
        writes, seconds = 0, 0.0
        with suppress(OSError, CannotFollow, write_log.Damaged):  # a disk that is full, or a copy that begins
            writes, seconds = self.behind()
        record, bodies = usage.disk(self.lab.nginx.gate_folder / "log")
        room, bodies = usage.disk(self.lab.nginx.gate_folder / "bodies")
        memory = usage.memory(self.watch.pid)
        self.result.samples.append(
            Sample(round(time.time(), 2), writes, round(seconds, 3), round(memory, 1), round(record + room, 3), bodies, happening)
        )

    @contextmanager
    def looked(self) -> Iterator[None]:
        """Look once a second, and say where it stands once a minute."""

        def look() -> None:
            while not self._over.wait(1.0):
                self.look()
                if len(self.result.samples) % 60 == 0:
                    last = self.result.samples[-60:]
                    seen, so_far = json.loads((self.lab.state_dir / "watch.json").read_text()), self.load.so_far()
                    self.say(
                        f"behind: median {statistics.median(one.seconds for one in last):.1f}, at most "
                        f"{max(one.seconds for one in last):.1f} s and {max(one.writes for one in last)} writes; memory "
                        f"{last[-1].memory:.0f} MB; record {last[-1].record:.2f} MB, at most {max(s.record for s in last):.2f}; "
                        f"{so_far['requests']} requests, {so_far['failed']} failed; {100 * seen['proved']:.0f} % compared"
                    )

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def up_to_date(self) -> None:
        """Wait until the watch has gone round from now on, says nothing wrong, and is up to date."""
        began = time.time()

        def so() -> bool | Not:
            if not self.watch.alive:
                return Not(f"the watch has ended with {self.watch.exit_code}: {self.watch.tail(3)}")
            try:
                seen = json.loads((self.lab.state_dir / "watch.json").read_text())
                writes, seconds = self.behind()
            except (OSError, ValueError, CutoverError) as error:
                return Not(str(error))
            if seen["at"] < began or seen["waiting_for"] == "another command":
                return Not("it has not gone round")
            if seen["wrong"]:
                return Not("; ".join(seen["wrong"].values()))
            return seconds <= self.options.behind or Not(f"{writes} writes, the oldest {seconds:.1f} s old")

        wait_until(so, deadline=PATIENCE, what="The watch", every=0.1)

    # -- what happens -----------------------------------------------------------------------------
    @property
    def side(self) -> str:
        """Who serves."""
        return "new" if (self.lab.nginx.gate_folder / "flags" / "new").exists() else "old"

    def server(self, side: str) -> Process:
        """The process of one of the two servers."""
        if side == "new":
            return self.new
        found = self.lab.machines[self.lab.site.guests.old.vmid].services[0]
        assert isinstance(found, Process)
        return found

    def _kill_the_watch(self) -> str:
        self.watch.kill()
        time.sleep(self.options.restart)  # RestartSec of its unit
        self.start_watch()
        return ""

    def _stop_the_watch(self) -> str:
        self.watch.stop(grace=60)
        if self.watch.exit_code != 0:
            raise CutoverError(f"stopped, the watch ended with {self.watch.exit_code}: {self.watch.tail(3)}")
        time.sleep(self.options.restart)
        self.start_watch()
        return ""

    def _cut_the_power(self) -> str:
        other = self.server("old" if self.side == "new" else "new")
        other.kill()
        time.sleep(self.options.restart)
        other.start()
        return ""

    def _pause(self, process: Process, seconds: float) -> str:
        process.pause()
        time.sleep(seconds)
        process.resume()
        return ""

    def _reload(self) -> str:
        subprocess.run(self.lab.nginx.reload, check=True, capture_output=True, timeout=60)
        return ""

    def _fill_the_disk(self) -> str:
        """Recording ends before a write would fail. With room again the operator begins anew, as the watch says."""
        assert self.gate_disk is not None
        self.gate_disk.fill((RESERVE_MB // 2) * usage.MB)
        try:
            said = self._says("following")
        finally:
            self.gate_disk.clear()
        self.begin_anew()
        return said

    def _says(self, kind: str) -> str:
        """What the watch says is wrong, once it does."""

        def so() -> str | Not:
            with suppress(OSError, ValueError):
                return json.loads((self.lab.state_dir / "watch.json").read_text())["wrong"].get(kind) or Not("nothing is wrong")
            return Not("it has not gone round")

        return wait_until(so, deadline=PATIENCE, what=f"The watch's word that something is wrong ({kind})")

    def begin_anew(self) -> None:
        """What the watch advises where it cannot follow any more; it goes on behind that."""
        if self.side == "old":
            self.command("copy", "--execute")
        else:
            self.command("follow", "--execute", "--yes-destroy", self.lab.site.name)

    def _move(self) -> str:
        """The traffic moves to the other server, beside the watch."""
        verb = "switch" if self.side == "old" else "back"
        facts = self.command(verb, "--execute")["outcome"]["facts"]
        self.result.held.append(round(float(facts["held_seconds"]), 3))
        proved = facts["proved"]
        self.result.stood_on += "stood_on" in proved
        why = f"stood on {proved['stood_on']}" if "stood_on" in proved else f"everything compared: {proved.get('why_compared')}"
        return f"{verb}, held {self.result.held[-1]:.2f} s, {why}"

    def all_of_it(self, until: float) -> None:
        """One thing after the other until the time is over; the traffic ends where it began."""
        half, number = time.monotonic() + (until - time.monotonic()) / 2, 0
        dice = random.Random(self.options.seed)
        while time.monotonic() < until:
            time.sleep(min(self.options.every * (0.5 + dice.random()), max(0.0, until - time.monotonic())))
            (what, happens), number = HAPPENS[number % len(HAPPENS)], number + 1
            if time.monotonic() > until or (what in ENDS and time.monotonic() > half):
                continue
            if what == "the gate's disk is full" and self.gate_disk is None:
                continue
            self.one(what, happens)
        if self.side == "new":
            self.one("a move", Soak._move)

    def one(self, what: str, happens: Callable[[Soak], str]) -> None:
        """Let one thing happen and wait until the watch is up to date again."""
        self._happening, began, failed = what, time.time(), self.load.so_far()["failed"]
        said = ""
        try:
            said = happens(self)
            self.up_to_date()
        except (CutoverError, TimedOut, AssertionError, OSError) as error:
            self.result.errors.append(f"{what}: {error}")
            with suppress(Exception):  # the others are to be seen as well
                self.begin_anew()
                if not self.watch.alive:
                    self.start_watch()
        finally:
            time.sleep(1.0)
            self._happening = ""
        failed = self.load.so_far()["failed"] - failed
        self.result.happened.append(Happened(round(began, 1), what, round(time.time() - began - 1, 1), said, failed))
        wrong = f" WRONG: {self.result.errors[-1]}" if self.result.errors and self.result.errors[-1].startswith(what) else ""
        self.say(
            f"{what}: {time.time() - began - 1:.1f} s until up to date. {said}{f' {failed} FAILED' if failed else ''}{wrong}"
        )

    # -- all of it --------------------------------------------------------------------------------
    def fill(self) -> None:
        """Records that nobody writes, so that there is something to compare again and again."""
        dice, records = random.Random(self.options.seed), self.options.records
        with closing(self.lab.run(execute=True)) as run, run.guard.act("soak.fill", f"Fill {records} records"):
            run.old.ask("PUT", f"/collections/{BULK}", {"vectors": {"size": 128, "distance": "Cosine"}})
            for at in range(0, records, 500):
                part = range(at, min(at + 500, records))
                vectors = ([dice.uniform(-1, 1) for _ in range(128)] for _ in part)
                run.old.upsert(BULK, [{"id": i, "vector": v, "payload": {"n": i}} for i, v in zip(part, vectors, strict=True)])

    def run(self) -> Result:
        """All of it."""
        self.fill()
        self.does("gate")
        # Two servers and an application share this machine: a round takes longer than on a site.
        self.lab.change_site(limits={"round_seconds": 2.0, "slow_ms": 50.0})
        self.load.start()
        try:
            self.does("copy")
            self.start_watch()
            try:
                self.result.state_folder.append(round(usage.disk(self.lab.state_dir)[0], 2))
                with self.looked():
                    self.up_to_date()
                    self.all_of_it(time.monotonic() + self.options.minutes * 60)
                    self.result.processor = round(usage.processor(self.watch.pid), 1)
            finally:
                self.result.load = self.load.stop(within=120)
            self.watch.stop(grace=60)
            self.result.state_folder.append(round(usage.disk(self.lab.state_dir)[0], 2))
            self.compare()
        finally:
            self.watch.kill()
        return self.result

    def compare(self) -> None:
        """Both servers, bit by bit, once everything was brought over."""
        self.does("follow")
        with closing(self.lab.run()) as run:
            self.result.servers = str(run.old.telemetry()["app"].get("version", ""))
            for name in run.old.collections():
                found = compare.compare_collection(run.old, run.new, name)
                self.result.compared += found.records
                self.result.different += [compare.summary(found.differences)] if found.count else []
            differ = schema.compare_schemas(schema.schema_of(run.old), schema.schema_of(run.new))
            self.result.different += [compare.summary(differ)] if differ else []


#: What happens, in this order, again and again; each says what there is to say of it.
HAPPENS: list[tuple[str, Callable[[Soak], str]]] = [
    ("the watch is killed", Soak._kill_the_watch),
    ("the other server loses its power", Soak._cut_the_power),
    ("a move", Soak._move),
    ("Nginx is reloaded", Soak._reload),
    ("the serving server stands still for a second", lambda soak: soak._pause(soak.server(soak.side), 1.0)),
    ("the watch stands still", lambda soak: soak._pause(soak.watch, soak.options.restart)),
    ("a move", Soak._move),
    ("the gate's disk is full", Soak._fill_the_disk),
    ("the watch is stopped", Soak._stop_the_watch),
]
#: What ends the watch's process comes in the first half alone, so that the second half shows whether its memory grows.
ENDS = ("the watch is killed", "the watch is stopped")


def main(argv: list[str] | None = None) -> int:
    """Watch for a while and say what came of it; 0 when all was as it should be."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=5.0, help="how long (default: %(default)s)")
    add("--qdrant", type=Path, help="Qdrant's own program, for both servers; otherwise they are the lab's")
    add("--every", type=float, default=45.0, help="seconds between two things that happen (default: %(default)s)")
    add("--restart", type=float, default=5.0, help="seconds that what was ended stays away (default: %(default)s)")
    add("--records", type=int, default=20_000, help="that nobody writes (default: %(default)s)")
    add("--load-pace", type=float, default=0.2, help="seconds between two requests of each of the application's threads")
    add("--behind", type=float, default=5.0, help="seconds that a write may wait where nothing happens (default: %(default)s)")
    add("--memory", type=float, default=300.0, help="MB that the watch may have (default: %(default)s)")
    add("--record", type=float, default=64.0, help="MB that the record may take on the Nginx host (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the pauses (default: %(default)s)")
    add("--json", action="store_true", help="the numbers and every look as data")
    options = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing stays mounted
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        lab = Lab(new_folder(Path(folder)), qdrant=options.qdrant)
        small = None
        try:
            small = stack.enter_context(disk(lab.nginx.gate_folder.parent, GATE_DISK_MB * usage.MB))
        except NoMount as reason:
            say(f"The disk under the gate's folder will not be full: no file system can be mounted here: {reason}")
        new = lab.new_qdrant()
        with lab:
            new.start()
            try:
                result = Soak(lab, new, small, options, say).run()
            finally:
                new.kill()
    wrong = result.wrong(options.memory, options.record, options.behind)
    if options.json:
        print(json.dumps(asdict(result) | {"wrong": wrong}, indent=1))
        return int(bool(wrong))
    print("\n".join(lines(result)))
    print("\n".join(f"WRONG: {one}" for one in wrong) or "All was as it should be.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
