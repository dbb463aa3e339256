"""The site without the old servers: Qdrant answers through Nginx, and it is the new server that answers (criterion F2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks import Finding, Moment, check
from cutover.qdrant import points_of
from cutover.waiting import Not, TimedOut, wait_until

if TYPE_CHECKING:
    from cutover.run import Run

#: Applications go on writing while two servers are asked one after the other; a difference that stays this long is one.
SETTLE_SECONDS = 5.0
SAMPLE = 20


@check("F2", "Qdrant answers through Nginx without the old server", moments={Moment.BEFORE_DELETING})
def answers_without(run: Run) -> Finding:
    """Nginx sends to the new server, and every collection and alias gives the same records there and through Nginx."""
    if run.gate.state().side != "new":
        return Finding(False, "Nginx still sends traffic to the old server.", "`cutover switch` comes first.")
    names = sorted({*run.new.collections(), *run.new.aliases()})

    def same() -> bool | Not:
        if sorted({*run.public.collections(), *run.public.aliases()}) != names:
            return Not("the collections differ")
        for name in names:
            pages = [points_of(server.page(name, None, SAMPLE, vectors=False)) for server in (run.public, run.new)]
            if pages[0] != pages[1]:
                return Not(f"the records of {name} differ")
        return True

    try:
        wait_until(same, deadline=SETTLE_SECONDS, what="The same answers", every=0.2)
    except TimedOut as late:
        return Finding(False, f"Through Nginx Qdrant does not answer what the new server holds: {late.sentence}")
    return Finding(True, f"{len(names)} collections and aliases answer through Nginx from {run.new.name}.")
