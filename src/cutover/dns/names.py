"""The names of the guests that leave: found, deleted one exact record at a time, and put back if need be.

Proxmox knows nothing of names outside its own SDN, so they stand wherever the site keeps them: on a server that takes signed
dynamic updates (RFC 2136: BIND, Knot, PowerDNS, Technitium, Windows), in Pi-hole v6, in AdGuard Home, or somewhere that is
changed by hand, where this module only says what should go.

What belongs to a guest is decided by its **addresses**, never by its name alone (:func:`belonging`, pure): address records with
one of them, pointers of them, and aliases (CNAME) that lead to nothing else. A name that also has another address keeps that one;
whatever merely mentions a name that goes (MX, SRV, TXT, a pointer elsewhere) is reported and left alone.

A deletion names name, type and value. With RFC 2136 all records of one zone go in one update, whose prerequisites say what the
records are right now: if somebody changes one in between, the server refuses the whole update. Nothing ever deletes a whole name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.credentials import Credentials
from cutover.core.errors import Failed, Refused
from cutover.core.write_guard import WriteGuard
from cutover.dns.records import Provider, Record, belonging

if TYPE_CHECKING:
    from cutover.site.schema import DnsProvider


def _provider(place: DnsProvider, credentials: Credentials, guard: WriteGuard) -> Provider:
    """Where names stand. Imported here: dnspython is a tenth of what every command costs until it begins."""
    if place.kind == "pihole":
        from cutover.dns.pihole import Pihole

        return Pihole(place, credentials, guard)
    if place.kind == "adguard":
        from cutover.dns.adguard import Adguard

        return Adguard(place, credentials, guard)
    if place.kind == "report":
        from cutover.dns.manual import ReportOnly

        return ReportOnly(place, credentials, guard)
    from cutover.dns.rfc2136 import Rfc2136

    return Rfc2136(place, credentials, guard)


@dataclass(frozen=True)
class Found:
    """What belongs to a set of addresses: (provider's title, record) pairs that go, records for somebody's hands, mentions."""

    addresses: tuple[str, ...]
    records: tuple[tuple[str, Record], ...]
    by_hand: tuple[str, ...]
    mentions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan, and at the same time the undo record."""
        return {
            "addresses": list(self.addresses),
            "records": [{"provider": title, **asdict(record)} for title, record in self.records],
            "by_hand": list(self.by_hand),
            "mentions": list(self.mentions),
        }


class Names:
    """All places of ``site.yaml`` where names stand."""

    def __init__(self, places: Sequence[DnsProvider], credentials: Credentials, guard: WriteGuard) -> None:
        self.providers: list[Provider] = [_provider(place, credentials, guard) for place in places]
        self._guard = guard

    def find(self, addresses: Sequence[str], names: Sequence[str] = ()) -> Found:
        """What belongs to these addresses, everywhere. ``names`` help where a place cannot list its records."""
        return self._belonging(addresses, self._listed(addresses, names))

    def _listed(self, addresses: Sequence[str], names: Sequence[str]) -> list[tuple[Provider, Record]]:
        return [(p, r) for p in self.providers for r in p.records(addresses, names)]

    def _belonging(self, addresses: Sequence[str], listed: Sequence[tuple[Provider, Record]]) -> Found:
        chosen = belonging([r for _, r in listed], addresses)
        going = set(chosen.records)
        pairs = [(p, r) for p, r in listed if r in going]
        return Found(
            tuple(addresses),
            tuple(sorted((p.title, r) for p, r in pairs if not p.by_hand)),
            tuple(f"{r} at {p.title}" for p, r in pairs if p.by_hand),
            (*chosen.mentions, *(c for p in self.providers for c in p.cautions())),
        )

    def delete(self, planned: Found, names: Sequence[str] = ()) -> list[Record]:
        """Delete what was planned and is still there; :class:`Refused` where it is there but no longer belongs to the addresses.

        Safe to repeat. Answers what was deleted now.
        """
        names = [*names, *(r.name for _, r in planned.records)]  # an alias, too, where a place cannot list its records
        listed = self._listed(planned.addresses, names)
        there = {(p.title, r.key()) for p, r in listed}
        still = [(t, r) for t, r in planned.records if (t, r.key()) in there]
        allowed = {(t, r.key()): r for t, r in self._belonging(planned.addresses, listed).records}
        for where, record in still:
            if (where, record.key()) not in allowed:
                raise Refused(
                    f"{record} at {where} was changed since it was planned: it leads elsewhere too. Nothing was deleted.",
                    "Run the command again: it plans anew.",
                )
        done: list[Record] = []
        for provider in self.providers:
            mine = [allowed[t, r.key()] for t, r in still if t == provider.title]
            if not mine:
                continue
            what = f"Delete {len(mine)} records at {provider.title}: {', '.join(map(str, mine))}"
            with self._guard.act(
                "decommission.dns.delete", what, before=[{"provider": provider.title, **asdict(r)} for r in mine]
            ):
                provider.delete(mine)
            done += mine
        left = {(t, r.key()) for t, r in self.find(planned.addresses, names).records} & {(t, r.key()) for t, r in still}
        if left:
            raise Failed(f"{len(left)} records are still there after they were deleted: {sorted(left)}.")
        return done

    def put_back(self, record: Mapping[str, Any]) -> None:
        """Put the records of :meth:`Found.as_json` back. Safe to repeat."""
        for provider in self.providers:
            mine = [
                Record(**{k: v for k, v in r.items() if k != "provider"})
                for r in record["records"]
                if r["provider"] == provider.title
            ]
            if mine:
                with self._guard.act("undo.dns", f"Put back {len(mine)} records at {provider.title}"):
                    provider.put_back(mine)
