"""What the gate records on the Nginx host: which writes there were, which are under way, and their bodies.

The log itself is understood in :mod:`cutover.gate.write_log`; here it is fetched, and given back to the disk when it is not
needed any more.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cutover.core.errors import CutoverError, Refused
from cutover.core.wait import Not, wait_until
from cutover.gate import write_log
from cutover.gate.bodies import PIECE, Bodies
from cutover.gate.folder import LEAST_FREE_MB, Folder, synced
from cutover.gate.interface import Written
from cutover.gate.nginx_host import BEGAN
from cutover.gate.write_log import BEGIN_ANEW, Damaged, Write

#: Where so much of the log is not needed any more, its room is given back.
TRIM = 16 << 20


class Records:
    """The log and the bodies in the gate's folder."""

    def __init__(self, folder: Folder, bodies: Bodies) -> None:
        self._folder, self.bodies = folder, bodies
        self._shell, self._cd = folder.shell, folder.cd
        self.anew()

    def anew(self) -> None:
        """Forget what was read: the log begins anew, or was removed."""
        self._under_way = write_log.UnderWay()
        self._lost: list[Write] = []
        self._trimmed = 0

    def emptied(self) -> str:
        """A script for the gate's folder that removes what was recorded, all but the log itself."""
        return f"{self.bodies.emptied()} && rm -f log/start log/ended log/watch log/watched log/watched.new"

    def drain(self, deadline: float) -> None:
        """Wait until every write that had passed before the hold has its line in the log; TimedOut otherwise.

        A write of an nginx process that died is not waited for; :meth:`read_log` then says that nobody knows of it.
        """
        began = time.monotonic()

        def drained() -> bool | Not:
            self._catch_up()
            passed = self._under_way.passed
            if passed and time.monotonic() - began > 0.2:
                self._bury()
                passed = self._under_way.passed
            if not passed:
                return True
            oldest = passed[0]
            return Not(f"{len(passed)} under way, the oldest is {oldest.method} {oldest.uri.split('?')[0]}")

        wait_until(drained, deadline=deadline, what="The end of the writes that had passed before the hold", every=0.005)
        free = self._folder.free_mb()
        if 0 <= free < LEAST_FREE_MB:
            raise Refused(
                f"The disk of {self._shell.where} is full ({free} MB left), so the log may lack writes.",
                "Make room there.",
            )

    def under_way(self) -> Sequence[Written]:
        """Writes that had passed and were not over when the log was last read."""
        return self._under_way.passed

    def _catch_up(self) -> None:
        if self._under_way.offset == 0:
            self._under_way.offset = self._trimmed = self._log_start()
        for start, data in self._pieces(self._under_way.offset):
            self._under_way.feed(write_log.lines(data, start))

    def _bury(self) -> None:
        """Take the writes of dead nginx processes out of those under way."""
        found = self._under_way.processes
        if not found:
            return
        # Numbers come again, at the latest when the host was restarted; when a process began tells them apart.
        pids = " ".join(map(str, sorted(found)))
        script = f"[ -d /proc/self ] || exit 1\n{BEGAN}for pid in {pids}; do echo $pid $(began $pid); done"
        said = (
            line.split() for line in self._shell.output(script, "The processes of nginx cannot be seen").decode().splitlines()
        )
        began = {int(words[0]): int(words[1]) if len(words) > 1 else None for words in said if words}
        self._lost += self._under_way.died(began)

    def _pieces(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """(position, complete lines) from a position to the end of the log."""
        while True:
            answer = self._shell.read(
                f"{self._cd}[ ! -f log/ended ] || exit 6\n"
                f"s=$(wc -c 2>/dev/null < log/writes.jsonl); [ ${{s:-0}} -ge {offset} ] || exit 7\n"
                f"[ -f log/writes.jsonl ] || exit 0\ntail -c +{offset + 1} log/writes.jsonl | head -c {PIECE}"
            )
            if answer.code == 6:
                why = self._folder.state().lost or "recording was ended meanwhile"
                raise Damaged(f"{why[0].upper()}{why[1:]}. What was written since is in no record.", BEGIN_ANEW)
            if answer.code == 7:
                raise Damaged(
                    "The gate's log is shorter than what was read of it: it was cut or replaced, so it does not say everything.",
                    BEGIN_ANEW,
                )
            if answer.code not in {0, 9}:
                raise CutoverError(f"The gate's log on {self._shell.where} cannot be read: {answer.reason}.")
            data = answer.out[: answer.out.rfind(b"\n") + 1]
            if not data:
                return
            yield offset, data
            offset += len(data)
            if len(answer.out) < PIECE:
                return

    def log_end(self) -> int:
        """Position just after the last complete line."""
        read = self._shell.output(
            f"{self._cd}[ -f log/writes.jsonl ] || exit 0\ns=$(wc -c < log/writes.jsonl); b=$((s > 65536 ? s - 65536 : 0))\n"
            "echo $b; tail -c +$((b + 1)) log/writes.jsonl",
            f"The gate's log on {self._shell.where} cannot be read",
        )
        start, _, data = read.partition(b"\n")
        return int(start or 0) + data.rfind(b"\n") + 1

    def read_parts(self, from_offset: int) -> Iterator[Sequence[Written]]:
        """The writes that ended, from a position on, some megabytes of the log at a time: nobody without a key decides how much
        memory that takes. Last come those whose nginx process died with them, until forgotten.
        """
        if self._under_way.offset < from_offset:
            self._catch_up()
        end, ended = from_offset, write_log.Ended(self._under_way.began(from_offset))
        for start, data in self._pieces(from_offset):
            read = list(write_log.lines(data, start))
            if start <= self._under_way.offset:
                self._under_way.feed(read)
            if found := list(ended.of(read)):
                end = found[-1].offset
                yield found
        if self._under_way.passed:
            self._bury()
        if self._lost:
            yield [replace(lost, offset=end) for lost in self._lost]

    def read_log(self, from_offset: int) -> Sequence[Written]:
        """The same all at once."""
        return [write for part in self.read_parts(from_offset) for write in part]

    def nobody_waits(self) -> bool | Not:
        """A write that was held looks again every 200 ms. Held once more before it does, it would wait for two holds."""
        self._catch_up()
        if self._under_way.waiting:
            self._bury()
        waiting = len(self._under_way.waiting)
        return Not(f"{waiting} have not looked again") if waiting else True

    def nothing_open(self) -> bool | Not:
        self._catch_up()
        self._bury()
        return Not(f"{len(self._under_way.open)} are not over") if self._under_way.open else True

    def forget_bodies(self, entries: Iterable[Written]) -> None:
        """Remove bodies that both servers have."""
        entries = list(entries)
        # Another run of this tool finds a lost write again, and then needs its body.
        self.bodies.remove(entry.body for entry in entries if entry.body and entry.side != "unknown")
        followed = {replace(entry, offset=0) for entry in entries if isinstance(entry, Write) and entry.side == "unknown"}
        self._lost = [lost for lost in self._lost if replace(lost, offset=0) not in followed]
        if entries:
            self._trim(max(entry.offset for entry in entries))

    def _log_start(self) -> int:
        """Where the log begins: what stood before has been given back to the disk."""
        script = f"cat {shlex.quote(self._folder.path)}/log/start 2>/dev/null || echo 0"
        return int(self._shell.output(script, f"The gate's log on {self._shell.where} cannot be read") or 0)

    def _trim(self, needed_from: int) -> None:
        """Give back the room of the log's beginning. Positions stay: the file gets a hole, and nginx goes on appending.

        A write that is still under way keeps its line. Where the file system cannot make holes, the log just grows.
        """
        if needed_from - self._trimmed < TRIM:
            return
        self._catch_up()
        if any(write.offset <= needed_from for write in self._under_way.open):
            return
        # First say it, then do it: the other way round an interruption would leave a log that begins with nothing.
        self._folder.change(
            f"command -v fallocate >/dev/null 2>&1 || exit 0\n"
            f"echo {needed_from} > log/.start && mv log/.start log/start && {synced('log/start')} "
            f"&& {{ fallocate -p -o 0 -l {needed_from // 4096 * 4096} log/writes.jsonl 2>/dev/null || rm -f log/start; }}",
            "give back the beginning of the log",
        )
        self._trimmed = needed_from
