"""Testing and reloading an Nginx, and what a reload costs its users.

A reload is not free: an old worker closes the connections that clients keep, and a request that is on its way on one of them in
that moment is lost. Measured with clients that never pause: one request a kept connection at most. Moving the traffic never
reloads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from cutover.core.errors import Failed, Refused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.nginx_conf import Configuration, Directive
from cutover.gate.nginx_host import PATH, Facts, Inspector, emerg
from cutover.gate.servers import split
from cutover.gate.ways import Ways

if TYPE_CHECKING:
    from cutover.gate.folder import Folder
    from cutover.site.schema import Nginx

#: The first nginx that keeps connections for a while when it is reloaded (`keepalive_min_timeout`).
KEEPS_CONNECTIONS = (1, 27, 4)
#: How long an operator is waited for who reloads, or puts the address in, by hand.
BY_HAND_SECONDS = 600.0


def closes_none(passing: Sequence[Directive], version: tuple[int, ...]) -> str:
    """Why a reload closes no connection that a client keeps: the directive; empty where it does. Pure."""
    for name in ("keepalive_timeout", *(["keepalive_min_timeout"] if version >= KEEPS_CONNECTIONS else [])):
        found = [one.inherited_word(name) for one in passing]
        zero = [re.fullmatch(r"0+(ms|[smhd])?", value) is not None for value in found]
        if found and (all(zero) if name == "keepalive_timeout" else all(found) and not any(zero)):
            return f"{name} {found[0]}"
    return ""


def ports(passing: Iterable[Directive]) -> set[int]:
    """The TCP ports on which clients reach these directives."""
    found: set[int] = set()
    for one in passing:
        for block in one.chain():
            if block.name == "server":
                said = [d.words[1].text for d in block.block or [] if d.name == "listen" and len(d.words) > 1]
                for text in said or ["80"]:
                    if not text.startswith("unix:"):
                        found.add(int(text) if text.isdigit() else split(text)[1] or 80)
    return found


class Reload:
    """Reloads the Nginx of one host."""

    def __init__(self, nginx: Nginx, folder: Folder, host: Inspector, tell: Callable[[str], None]) -> None:
        self._nginx, self._folder, self._host, self._tell = nginx, folder, host, tell
        self.by_hand, self.seconds = not nginx.reload, 15.0

    def test(self) -> None:
        """That nginx accepts what is on the disk; :class:`Refused` otherwise."""
        tested = self._folder.shell.read(f"{PATH}{self._host.command} -t")
        if tested.code != 0:
            raise Refused(f"nginx does not accept the configuration: {emerg(tested)}.")

    def cost(self, facts: Facts, ways: Ways) -> str:
        """What a reload costs users at this moment, as a sentence. ``ways``: what passes their requests on."""
        version = facts.built().version
        passing = _passing(facts.configuration, ways)
        if not passing:
            return "No request to Qdrant is lost: none comes through this Nginx's own servers."
        if none := closes_none(passing, version):
            return f"No request is lost (`{none}`)."
        kept = self._host.connections(ports(passing))
        known = " `keepalive_min_timeout 3s;` in your server block avoids it." if version >= KEEPS_CONNECTIONS else ""
        if not kept:
            return f"No client has a connection open at this moment; a request on one that is kept by then may be lost.{known}"
        return (
            f"Clients have {kept} connection{'s' if kept > 1 else ''} open at this moment, and a request sent on one just "
            f"while the old process closes it is lost: one a connection at most.{known}"
        )

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
        log = self._host.complaints()[0]
        before = {pid for pid, ending in self._host.workers().items() if not ending}
        if self.by_hand:
            self._tell("Reload Nginx now, when it suits you. Waiting for it.")
        else:
            words = " ".join(map(shlex.quote, self._nginx.reload))
            self._folder.change(f"{PATH}{words} >&2", "reload nginx", 60)

        def taken_over() -> bool | Not:
            old = before & {pid for pid, ending in self._host.workers().items() if not ending}
            return Not(f"processes {sorted(old)} still work with the configuration from before") if old else True

        try:
            wait_until(taken_over, deadline=BY_HAND_SECONDS if self.by_hand else self.seconds, what="The reload of nginx")
        except TimedOut as error:
            why = self._host.complaints(log)[1]
            raise Failed(
                f"{error.sentence} Nginx says: {why}." if why else error.sentence,
                "site.yaml says `reload: []`: you reload Nginx." if self.by_hand else "",
            ) from None

    def wait_for_old_processes(self, deadline: float = 3.0) -> None:
        """Processes from before end with their last request; a slow one is left, recording waits for it."""

        def gone() -> bool | Not:
            older = [pid for pid, ending in self._host.workers().items() if ending]
            return Not(f"processes {older} still serve") if older else True

        with suppress(TimedOut):
            wait_until(gone, deadline=deadline, what="The end of the processes from before")


def _passing(configuration: Configuration, ways: Ways) -> list[Directive]:
    """The directives that were found to pass requests on."""
    where = set(ways.passing)
    return [one for one in configuration.walk() if one.name == "proxy_pass" and one.where in where]
