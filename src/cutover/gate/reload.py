"""Testing and reloading an Nginx, and what a reload costs its users.

A reload is not free: a request that an application sends on a kept-alive connection just while the old process closes it is lost
(measured: a handful in tens of thousands under full load). Moving the traffic itself never reloads.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

from cutover.core.errors import Refused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.nginx_host import PATH, Facts, Inspector, emerg

if TYPE_CHECKING:
    from cutover.gate.folder import Folder
    from cutover.site.schema import Nginx

#: The first nginx that keeps connections for a while when it is reloaded (`keepalive_min_timeout`).
KEEPS_CONNECTIONS = (1, 27, 4)


class Reload:
    """Reloads the Nginx of one host."""

    def __init__(self, nginx: Nginx, folder: Folder, host: Inspector) -> None:
        self._nginx, self._folder, self._host = nginx, folder, host

    def test(self) -> None:
        """That nginx accepts what is on the disk; :class:`Refused` otherwise."""
        tested = self._folder.shell.read(f"{PATH}{self._host.command} -t")
        if tested.code != 0:
            raise Refused(f"nginx does not accept the configuration: {emerg(tested)}.")

    def cost(self, facts: Facts) -> str:
        """What a reload of this nginx costs users, as a sentence."""
        version = facts.built().version
        if version >= KEEPS_CONNECTIONS and any(d.name == "keepalive_min_timeout" for d in facts.configuration.walk()):
            return "No request is lost: this nginx keeps connections for a while (`keepalive_min_timeout`)."
        known = "" if version < KEEPS_CONNECTIONS else " `keepalive_min_timeout 3s;` in your server block avoids it."
        return f"A request on a connection that an old process closes in that moment is lost: a handful under full load.{known}"

    def runs(self) -> bool:
        """Whether this nginx runs."""
        try:
            return bool(self._host.workers())
        except Refused:
            return False

    def now(self) -> None:
        """Reload, and wait until no process takes in requests with the configuration from before.

        For about 0.1 s old and new workers both do, so one answer of a new one does not show that it is over.
        """
        before = {pid for pid, ending in self._host.workers().items() if not ending}
        words = " ".join(map(shlex.quote, self._nginx.reload))
        self._folder.change(f"{PATH}{words} >&2", "reload nginx", 60)

        def taken_over() -> bool | Not:
            old = before & {pid for pid, ending in self._host.workers().items() if not ending}
            return Not(f"processes {sorted(old)} still work with the configuration from before") if old else True

        wait_until(taken_over, deadline=15, what="The reload of nginx")

    def wait_for_old_processes(self, deadline: float = 3.0) -> None:
        """Processes from before end with their last request; a slow one is left, recording waits for it."""

        def gone() -> bool | Not:
            older = [pid for pid, ending in self._host.workers().items() if ending]
            return Not(f"processes {older} still serve") if older else True

        with suppress(TimedOut):
            wait_until(gone, deadline=deadline, what="The end of the processes from before")
