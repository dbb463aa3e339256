"""The names of the old servers: every place where names stand can be read before anything is deleted (criterion F5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.proxmox import identity

if TYPE_CHECKING:
    from cutover.context import Context


@check("F5", "It is known where the names of the old servers stand", moments={Moment.BEFORE_DELETING})
def readable(context: Context) -> Finding:
    """Every name server of site.yaml answers, and says what belongs to the old servers."""
    guests = context.site.guests.to_decommission()
    if not context.dns.providers:
        return Finding(True, "site.yaml names no name server, so there are no names to remove.")
    addresses = [address for guest in guests for address in identity.resolved(guest.address)]
    found = context.dns.find(addresses, [guest.name for guest in guests])
    places = ", ".join(provider.title for provider in context.dns.providers)
    facts = {"records": len(found.records), "by_hand": list(found.by_hand), "mentions": list(found.mentions)}
    return Finding(True, f"{len(found.records)} records belong to the old servers ({places}).", facts=facts)
