"""The site without the old servers: Qdrant answers through Nginx, and it is the new server that answers (criterion F2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.qdrant.client import points_of
from cutover.qdrant.looking import some

if TYPE_CHECKING:
    from cutover.context import Context

#: Applications go on writing while two servers are asked one after the other; a difference that stays this long is one.
SETTLE_SECONDS = 5.0
SAMPLE = 20


@check("F2", "Qdrant answers through Nginx without the old server", moments={Moment.BEFORE_DELETING})
def answers_without(context: Context) -> Finding:
    """Nginx sends to the new server, and every collection and alias gives the same records there and through Nginx."""
    if context.gate.state().side != "new":
        return Finding(False, "Nginx still sends traffic to the old server.", "`cutover switch` comes first.")
    names = sorted({*context.new.collections(), *context.new.aliases()})

    def same() -> bool | Not:
        if sorted({*context.public.collections(), *context.public.aliases()}) != names:
            return Not("the collections differ")
        for name in names:
            pages = [points_of(some(server, name, SAMPLE)) for server in (context.public, context.new)]
            if pages[0] != pages[1]:
                return Not(f"the records of {name} differ")
        return True

    try:
        wait_until(same, deadline=SETTLE_SECONDS, what="The same answers", every=0.2)
    except TimedOut as late:
        return Finding(False, f"Through Nginx Qdrant does not answer what the new server holds: {late.sentence}")
    return Finding(True, f"{len(names)} collections and aliases answer through Nginx from {context.new.name}.")
