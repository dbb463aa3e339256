"""Who still uses the server that was left behind (criterion D5).

Once Nginx sends everything to the other server, every request that the one behind still answers comes from somebody who goes
round Nginx: by its own address, or through gRPC, which Nginx was never asked to pass on. Such a client reads old data without an
error, until its server is deleted. Qdrant counts every request by route, so what grows over a watch and was not sent by this tool
is such a client; probes of a monitoring system and callers that are turned away are none. Before the switch only gRPC can be told
apart in this way: reads by REST come through Nginx as well, which keeps no list of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.qdrant import counters
from cutover.qdrant.counters import Use
from cutover.qdrant.routes import is_grpc_write
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
    last: str = ""
    """When the last request of that kind was answered, RFC 3339; empty where the server does not say."""


class UseWatch:
    """Watches one server from now on."""

    def __init__(self, server: Qdrant) -> None:
        self.server = server
        self._began = time.monotonic()
        self._sent = server.sent.copy()
        self._before: dict[str, Any] | None = None
        with suppress(Unreachable):  # nobody can use it now; whether that stays so is asked at the end
            self._before = server.telemetry(details=0)

    def look(self) -> Watched:
        """Who used it since. Raises Restarted."""
        seconds = time.monotonic() - self._began
        try:
            after = self.server.telemetry(details=0)
        except Unreachable:
            return Watched(seconds, silent=True)
        if self._before is None or after["app"].get("startup") != self._before["app"].get("startup"):
            raise Restarted
        uses = counters.grown(self._before, after, counters.less(self.server.sent, self._sent))
        last = counters.last_used(self.server.telemetry()) if uses else {}
        return Watched(seconds, [replace(use, last=last.get(use.route, "")) for use in uses])

    def look_after(self, seconds: float) -> Watched:
        """The same, when the watch has lasted this long."""
        if self._before is not None:
            time.sleep(max(0.0, seconds - (time.monotonic() - self._began)))  # the length of the watch is the fact
        return self.look()


def watch(server: Qdrant, seconds: float) -> Watched:
    """Who used the server within these seconds. A server that does not answer is not waited for. Raises Restarted."""
    return UseWatch(server).look_after(seconds)


def watch_grpc(server: Qdrant, seconds: float, *, writes: bool = False) -> Watched:
    """Who used gRPC within these seconds (``writes``: only who wrote). 0 s where nobody ever did since the server was started.

    Raises Restarted; Unreachable where the server does not answer.
    """
    now = server.telemetry()
    ever = {route for route in counters.used(now) if _is_grpc(route, writes)}
    if not ever:
        return Watched(0.0)
    seen = UseWatch(server).look_after(seconds)
    uses = [use for use in seen.uses if _is_grpc(use.route, writes)]
    return Watched(
        seen.seconds, uses, last=max((at for route, at in counters.last_used(now).items() if route in ever), default="")
    )


def _is_grpc(route: str, writes: bool) -> bool:
    return route.startswith(counters.GRPC) and (not writes or is_grpc_write(route))


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
        raise Refused(
            f"{name.capitalize()} was restarted meanwhile, so its request counters say nothing.", "Run it again."
        ) from None
    if said := sentence(name, seen):
        raise Refused(f"{doing}: {said}.", HOW_TO_FIND)


def glance(context: Context) -> str:
    """Who uses the old server right now, a sentence without its full stop; empty where nobody was seen, or nothing can be said.

    Another command of this tool that works meanwhile would be taken for an application, so beside one nothing is said.
    """
    if not context.execute and context.journal.held_by_another():
        return ""
    try:
        seen = watch(context.old, min(GLANCE_SECONDS, context.site.limits.bypass_watch_seconds))
    except (Restarted, CutoverError, KeyError):
        return ""
    return sentence(context.old.name, seen)
