"""Who still uses the server that was left behind (criterion D5).

Once Nginx sends everything to the other server, every request that the one behind still answers comes from somebody who goes round
Nginx: by its own address, or through gRPC, which Nginx was never asked to pass on. He reads old data without an error, until his
server is deleted. Qdrant counts every request by route, so what grows over a watch and was not sent by this tool is such a client;
probes of a monitoring system and callers that are turned away are none. Before the switch only gRPC can be told apart in this
way: reads by REST come through Nginx as well, which keeps no list of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.qdrant import counters
from cutover.qdrant.counters import Use
from cutover.replication.bypass import Restarted

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.qdrant.client import Qdrant

#: `status` is asked often and by people who wait: it looks this long at most.
GLANCE_SECONDS = 3.0
HOW_TO_FIND = (
    "Point them to Nginx (gRPC clients to REST), or stop them. On the old server's host `ss -tn state established "
    "'( sport = :6333 or sport = :6334 )'` shows their addresses."
)


@dataclass(frozen=True)
class Watched:
    """What a watch saw. ``silent``: the server does not answer, so nobody can use it."""

    seconds: float
    uses: Sequence[Use] = ()
    silent: bool = False

    def grpc(self) -> list[Use]:
        """Only what came through gRPC."""
        return [use for use in self.uses if use.route.startswith(counters.GRPC)]


class UseWatch:
    """Watches one server from now on."""

    def __init__(self, server: Qdrant) -> None:
        self.server = server
        self._began = time.monotonic()
        self._sent = server.sent.copy()
        self._before: dict[str, Any] | None = None
        try:
            self._before = server.telemetry()
        except Unreachable:
            pass  # nobody can use it now; whether that stays so is asked at the end

    def look(self) -> Watched:
        """Who used it since. Raises Restarted."""
        seconds = time.monotonic() - self._began
        try:
            after = self.server.telemetry()
        except Unreachable:
            return Watched(seconds, silent=True)
        if self._before is None or after["app"].get("startup") != self._before["app"].get("startup"):
            raise Restarted
        sent = self.server.sent.copy()
        sent.subtract(self._sent)
        return Watched(seconds, counters.grown(self._before, after, sent))

    def look_after(self, seconds: float) -> Watched:
        """The same, when the watch has lasted this long."""
        time.sleep(max(0.0, seconds - (time.monotonic() - self._began)))  # the length of the watch is the fact
        return self.look()


def watch(server: Qdrant, seconds: float) -> Watched:
    """Who used the server within these seconds. A server that does not answer is not waited for. Raises Restarted."""
    begun = UseWatch(server)
    return Watched(0.0, silent=True) if begun._before is None else begun.look_after(seconds)  # noqa: SLF001


def sentence(name: str, seen: Watched) -> str:
    """Who was seen, for a person; empty where nobody was."""
    if not seen.uses:
        return ""
    last = max(use.last for use in seen.uses)
    at = f"; the last one at {last}" if last else ""
    return (
        f"Within {seen.seconds:.0f} s somebody used {name} without going through Nginx: {', '.join(map(str, seen.uses))}{at}. "
        "What is read there is not kept up to date for long, and the server will be deleted"
    )


def refuse(context: Context, begun: UseWatch, *, doing: str) -> None:
    """:class:`Refused` while somebody uses the old server. The watch lasts ``limits.bypass_watch_seconds`` at least."""
    name = begun.server.name
    try:
        seen = begun.look_after(context.site.limits.bypass_watch_seconds)
    except Restarted:
        raise Refused(f"{name.capitalize()} was restarted meanwhile, so its request counters say nothing.", "Run it again.") from None
    if said := sentence(name, seen):
        raise Refused(f"{doing}: {said}.", HOW_TO_FIND)


def glance(context: Context) -> str:
    """A sentence for `status` after the switch; empty where nobody was seen, or nothing can be said."""
    try:
        seen = watch(context.old, min(GLANCE_SECONDS, context.site.limits.bypass_watch_seconds))
    except (Restarted, CutoverError):
        return ""
    return sentence(context.old.name, seen)
