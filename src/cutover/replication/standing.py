"""Whether a move can stand on what was compared before (:mod:`cutover.replication.proofs`), and keeping that true meanwhile.

Both servers' counters are watched without a gap from one command to the next: each goes on where the one before it ended. What
cannot be explained, a restart, or a command that was killed between a write of its own and writing that down, and the earlier
comparisons do not count any more: then everything is compared, as without them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cutover.core.journal import utc
from cutover.gate.interface import OTHER
from cutover.replication import bypass
from cutover.replication.follower import Follower
from cutover.replication.proofs import Counted, Proved

if TYPE_CHECKING:
    from cutover.qdrant.affected import PointId
    from cutover.qdrant.client import Qdrant

#: Routes of writers round Nginx that are named.
SHOWN = 3


class Standing:
    """Watches both servers for one command. Made before the command's first round, because each of them sends something."""

    def __init__(self, following: Follower) -> None:
        self._following = following
        serving = following.position.side
        self._servers: dict[str, Qdrant] = {serving: following.source, OTHER[serving]: following.target}
        self._watches: dict[str, bypass.Watch] = {}
        following.before_saving.append(self.note)
        saved = following.position.proofs.servers
        if set(saved) == set(self._servers):
            for side, since in saved.items():
                self._watch(side, since)
        else:
            following.position.proofs.forget_all("It is not known what both servers had counted.")

    def _watch(self, side: str, since: Counted | None = None) -> None:
        self._watches[side] = bypass.Watch(self._following.gate, self._servers[side], side, self._following, since=since)

    def note(self) -> None:
        """Write down where the watches stand; done before every saving of the replication position."""
        self._following.position.proofs.servers = {side: watch.stands() for side, watch in self._watches.items()}
        for server in self._servers.values():
            server.accounted = server.sent.copy()

    def begin(self) -> None:
        """Watch from now on, whatever was before; before everything is compared."""
        for watch in self._watches.values():
            watch.end()
        self._watches = {}
        self._following.position.proofs.forget_all("")
        for side in self._servers:
            self._watch(side)

    @property
    def watches(self) -> bool:
        """Whether both servers are watched; where that is not so nothing that is compared will count."""
        return bool(self._watches)

    def expect(self, names: Iterable[str]) -> None:
        """These collections are going to be compared as a whole: from now on it is remembered what is written to them."""
        for name in names:
            self._following.position.proofs.collections[name] = Proved()

    def look(self, patience: float = 3.0) -> str:
        """Look at both servers' counters now; why earlier comparisons do not count any more, a sentence, empty where they do."""
        said = ""
        for side, watch in self._watches.items():
            name = self._servers[side].name
            try:
                found = watch.look(patience=patience)
            except bypass.Restarted:
                said = f"{name.capitalize()} was restarted."
                break
            if found:
                more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                said = f"{name.capitalize()} counted writes that did not pass Nginx: {', '.join(map(str, found[:SHOWN]))}{more}."
                break
            watch.begin_anew()
        if said:
            self.begin()
            self._following.position.proofs.why = said
        self._following.save()
        return said

    def since(self, hours: float, now: Callable[[], float] = time.time) -> tuple[dict[str, set[PointId]], str]:
        """What a move has to compare of the collections whose comparison still counts: the records written since. And why the
        others have to be compared as a whole, a clause; empty where there are no others.
        """
        proofs = self._following.position.proofs
        if not self._watches:
            proofs.forget_all(proofs.why)  # nobody watched meanwhile
        names = self._following.source.collections()
        missing = proofs.missing(names, now(), hours)
        written = proofs.written
        return {name: written.get(name, set()) for name in names if name not in missing}, next(iter(missing.values()), "")

    def proved(self, names: Iterable[str], at: float) -> None:
        """Everything of these collections was compared from ``at`` on; what was written meanwhile is remembered."""
        proofs = self._following.position.proofs
        for name in names:
            if name in proofs.collections:  # else more was written meanwhile than is remembered, or it was copied anew
                proofs.compared(name, None, None, at)

    def oldest_of(self, names: Iterable[str]) -> str:
        """When what was compared first of these collections was; RFC 3339, empty where not all was."""
        found = self._following.position.proofs.oldest(names)
        return utc(found) if found is not None else ""


class Following(Follower):
    """A follower that keeps account of what earlier comparisons are worth."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self.standing = Standing(self)
