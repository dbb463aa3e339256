"""Writers that go round Nginx.

A write that reaches Qdrant without passing the gate is not recorded, so following would miss it. Qdrant counts every request
it answers, by route; the gate's log has a line for every write that passed it; this tool knows what it sent itself. What
Qdrant counted and neither of them explains came from somebody else. The same counters show gRPC writes, which Nginx cannot
record at all.

A watch begins with the log and then the counters, and ends with the counters and then the log, so the log's window is the
larger one: nothing that passed the gate can be taken for a bypass. A single write round Nginx can hide behind writes that
pass at that very moment; a writer that goes on cannot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.interface import Gate, Written
from cutover.qdrant.affected import had_no_effect
from cutover.qdrant.client import Qdrant
from cutover.qdrant.counters import GRPC, Use, less, writes_counted
from cutover.qdrant.routes import route
from cutover.replication.proofs import Counted

if TYPE_CHECKING:
    from cutover.replication.follower import Follower


def unexplained(counted: Counter[str], passed: Counter[str], sent: Counter[str]) -> list[Use]:
    """What a server counted beyond what passed the gate and what this tool sent, by route. Pure."""
    found = []
    for name in sorted(counted):
        explained = 0 if name.startswith(GRPC) else passed[name] + sent[name]
        if counted[name] > explained:
            found.append(Use(name, counted[name] - explained))
    return found


def by_route(counted: Counter[tuple[str, int]]) -> Counter[str]:
    """Counters per route, all statuses together: a client that broke off is logged with another status than Qdrant's."""
    found: Counter[str] = Counter()
    for (name, _), number in counted.items():
        found[name] += number
    return found


class Restarted(Exception):
    """The server was restarted during the watch, so its counters say nothing."""


class Watch:
    """Watches one server from now on. ``side`` is its name in the gate's log. The gate must be recording.

    ``follower``: who reads the log anyway. Lines that both servers have are given back to the disk by it, so a watch that
    lasts longer than a round has to look over its shoulder instead of reading the log a second time.

    ``since``: where an earlier watch ended, at the follower's replication position; this one goes on there.
    """

    def __init__(
        self,
        gate: Gate,
        server: Qdrant,
        side: str,
        follower: Follower | None = None,
        *,
        since: Counted | None = None,
    ) -> None:
        self._gate, self._server, self._side, self._follower = gate, server, side, follower
        self._passed: Counter[str] = Counter()
        #: Of these, those that ended after the server was last asked what it had counted.
        self._after: Counter[str] = Counter()
        if follower is not None:
            follower.observers.append(self.see)
        if since is not None and follower is not None:
            self._offset = follower.position.offset
            self._sent = less(server.accounted, Counter(since.sent))
            self._startup: Any = since.startup
            self._counted = Counter(since.counted)
            self._passed.update(since.passed)
        else:
            self._offset = gate.log_end()
            self._sent = server.sent.copy()
            began = server.telemetry(details=0)
            self._startup = began["app"].get("startup")
            self._counted = by_route(writes_counted(began))

    def see(self, entries: Sequence[Written]) -> None:
        """Count the lines that are new to this watch."""
        for entry in entries:
            mine = entry.offset > self._offset and entry.side in {self._side, "unknown"}
            if mine and not had_no_effect(entry.method, entry.uri, entry.status):  # as the counters are read
                name = route(entry.method, entry.uri)
                self._passed[name] += 1
                self._after[name] += 1
        self._offset = max([self._offset, *(entry.offset for entry in entries)])

    def look(self, *, patience: float = 3.0) -> list[Use]:
        """Writes that went round Nginx since the watch began. Raises Restarted.

        ``patience``: seconds to wait for the log lines of requests that are just ending. With a follower, its rounds are done.
        """
        self._after = Counter()
        now = self._server.telemetry(details=0)
        if now["app"].get("startup") != self._startup:
            raise Restarted
        self._now = by_route(writes_counted(now))
        counted = less(self._now, self._counted)
        self._sent_now = self._server.sent.copy()
        sent = less(self._sent_now, self._sent)

        def explained() -> bool | Not:
            if self._follower is not None:
                self._follower.round()
            else:
                for part in self._gate.read_parts(self._offset):
                    self.see(part)
            found = unexplained(counted, self._passed, sent)
            return Not(", ".join(map(str, found))) if found else True

        with suppress(TimedOut):
            wait_until(explained, deadline=patience, what="An explanation of every write")
        return unexplained(counted, self._passed, sent)

    def stands(self) -> Counted:
        """Where the watch is now, for one that goes on there."""
        sent = less(self._server.sent, self._sent)
        return Counted(str(self._startup), dict(self._counted), dict(self._passed), {k: n for k, n in sent.items() if n})

    def begin_anew(self) -> None:
        """After a look that found nothing: watch from there, so that no old line can explain a later write.

        A write whose line was there before the server was asked had been counted by then.
        """
        used, sent = less(self._now, self._counted), less(self._sent_now, self._sent)
        left = {name: min(self._passed[name] - (used[name] - sent[name]), number) for name, number in self._after.items()}
        self._counted, self._sent = self._now, self._sent_now
        self._passed = Counter({name: number for name, number in left.items() if number > 0})

    def end(self) -> None:
        """Look no more over the follower's shoulder."""
        if self._follower is not None and self.see in self._follower.observers:
            self._follower.observers.remove(self.see)
