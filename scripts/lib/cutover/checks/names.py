"""The names of the old servers: every place where names stand can be read before anything is deleted (criterion F5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks import Finding, Moment, check
from cutover.phases import identity

if TYPE_CHECKING:
    from cutover.run import Run


@check("F5", "It is known where the names of the old servers stand", moments={Moment.BEFORE_DELETING})
def readable(run: Run) -> Finding:
    """Every name server of site.yaml answers, and says what belongs to the old servers."""
    guests = run.site.guests.to_decommission()
    if not run.dns.providers:
        return Finding(True, "site.yaml names no name server, so there are no names to remove.")
    addresses = [address for guest in guests for address in identity.resolved(guest.address)]
    found = run.dns.find(addresses, [guest.name for guest in guests])
    places = ", ".join(provider.title for provider in run.dns.providers)
    facts = {"records": len(found.records), "by_hand": list(found.by_hand), "mentions": list(found.mentions)}
    return Finding(True, f"{len(found.records)} records belong to the old servers ({places}).", facts=facts)
