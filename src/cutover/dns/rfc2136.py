"""A name server that takes signed dynamic updates (RFC 2136): BIND, Knot, PowerDNS, Technitium, Windows.

All records of one zone go in one update, whose prerequisites say what the records are right now: if somebody changes one in
between, the server refuses the whole update. Nothing ever deletes a whole name.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update
import dns.xfr
import dns.zone

from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, OutcomeUnknown, Refused, Unreachable, WrongUsage
from cutover.core.wait import Not, wait_until
from cutover.core.write_guard import WriteGuard
from cutover.dns import asking
from cutover.dns.asking import NO_ANSWER, must_know, reason, records_of, resolve, value_of
from cutover.dns.records import ADDRESS_TYPES, Record, absolute, pointer
from cutover.site import schema as settings

#: How long after an update the server may take to serve what it accepted.
SETTLE_SECONDS = 10.0
#: What a server says that gives its zones to nobody, or not to this key.
_NO_TRANSFER = {dns.rcode.REFUSED, dns.rcode.NOTAUTH, dns.rcode.NOTIMP, dns.rcode.FORMERR}
_LOOKS = "Run the command again: it looks first."
_KEY = "Check DNS_TSIG_NAME and DNS_TSIG_SECRET, and what the server lets this key do."
_SAYS_NO: Mapping[int, str] = {
    dns.rcode.REFUSED: "this key may not update it",
    dns.rcode.NOTAUTH: "it is not its primary server, or this key may not update it",
    dns.rcode.NOTZONE: "a name is outside the zone",
    dns.rcode.NOTIMP: "it takes no updates",
}
_TSIG_SAYS_NO = {
    "PeerBadKey": "it does not know the key, or the key may not do this",
    "PeerBadSignature": "the signature is wrong",
    "PeerBadTime": "its clock and ours differ by more than five minutes",
}


class TransferRefused(Exception):
    """The server gives this zone to nobody, or not to this key."""


def _tsig(error: BaseException) -> str:
    return _TSIG_SAYS_NO.get(type(error).__name__, type(error).__name__)


class Rfc2136:
    """A name server that takes signed dynamic updates."""

    by_hand = False

    def __init__(self, place: settings.Rfc2136, credentials: Credentials, guard: WriteGuard) -> None:
        self.title = f"name server {place.server}"
        self._place = place
        self._zones = [absolute(zone) for zone in place.zones]
        self._credentials = credentials
        self._guard = guard
        self._blind: set[str] = set()
        self._given: set[str] = set()

    @cached_property
    def _key(self) -> tuple[dns.name.Name, dict[dns.name.Name, Any]]:
        name = self._credentials.need("DNS_TSIG_NAME")
        secret = self._credentials.need("DNS_TSIG_SECRET")
        algorithm = "hmac-sha256"
        if ":" in name:  # as dig and nsupdate write it: hmac-sha512:name
            algorithm, name = name.split(":", 1)
        try:
            return dns.name.from_text(name), dns.tsigkeyring.from_text({name: (algorithm, secret)})
        except (ValueError, dns.exception.DNSException):
            raise WrongUsage("DNS_TSIG_SECRET is not base64, or DNS_TSIG_NAME is not [algorithm:]name.") from None

    @cached_property
    def _address(self) -> str:
        return resolve(self._place.server)

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        found: list[Record] = []
        for zone in self._zones:
            if zone in self._blind:
                continue
            try:
                found += self._transfer(zone)
                self._given.add(zone)
            except TransferRefused as error:
                # Questions alone would miss aliases that were seen before, and they would be left behind in silence.
                if zone in self._given:
                    raise Unreachable(f"{self.title} gave zone {zone} a moment ago, and now refuses it ({error}).") from None
                self._blind.add(zone)
        if self._blind:
            found += [r for r in self._ask_for(addresses, names) if r.zone in self._blind]
        return sorted(set(found))

    def cautions(self) -> list[str]:
        return [
            f"{self.title} refuses a zone transfer (AXFR) of {zone.rstrip('.')}: aliases (CNAME) there are not seen "
            f"unless site.yaml names them"
            for zone in sorted(self._blind)
        ]

    def _transfer(self, zone: str) -> list[Record]:
        keyname, keyring = self._key
        found: list[Record] = []
        content = dns.zone.Zone(zone, relativize=False)
        query, _ = dns.xfr.make_query(content, keyring=keyring, keyname=keyname)
        try:
            dns.query.inbound_xfr(
                self._address, content, query, port=self._place.port, timeout=asking.ANSWER_SECONDS, lifetime=60
            )
        except dns.tsig.PeerBadKey as error:
            # Knot says "bad key" of a key that it knows, where that key may update but not transfer.
            raise TransferRefused(_tsig(error)) from None
        except dns.tsig.PeerError as error:
            raise CutoverError(f"{self.title} did not accept the TSIG key: {_tsig(error)}.", _KEY) from None
        except dns.xfr.TransferError as error:
            said = f"it says {dns.rcode.to_text(error.rcode)}"
            if error.rcode in _NO_TRANSFER:
                raise TransferRefused(said) from None
            raise Unreachable(f"{self.title} gave no transfer of zone {zone}: {said}.") from None
        except NO_ANSWER as error:
            raise Unreachable(f"{self.title} gave no transfer of zone {zone}: {reason(error)}.") from None
        for name, ttl, rdata in content.iterate_rdatas():
            found.append(Record(absolute(name.to_text()), dns.rdatatype.to_text(rdata.rdtype), value_of(rdata), ttl, zone))
        return found

    def _ask_for(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        """What questions alone can find: pointers, the names they give, and the guests' own names in every zone."""
        found = [r for a in addresses for r in self._ask(pointer(a), "PTR")]
        asked = {absolute(r.value) for r in found}
        asked |= {absolute(n) for n in names if "." in n} | {
            absolute(f"{n}.{z}") for n in names for z in self._zones if "." not in n
        }
        for name in sorted(asked):
            for kind in ("A", "AAAA", "CNAME"):
                found += self._ask(name, kind)
        return found

    def _ask(self, name: str, kind: str) -> list[Record]:
        zone = max((z for z in self._zones if name == z or name.endswith("." + z)), key=len, default=None)
        if zone is None:
            return []
        answer = self._send(dns.message.make_query(name, kind), f"ask for {name} {kind}")
        must_know(answer, self.title, name)
        return [record for record in records_of(answer, kind, zone) if record.name == name]

    def delete(self, records: Sequence[Record]) -> None:
        there = self._listed(records)
        for zone in sorted({r.zone for r in records}):
            mine = [r for r in records if r.zone == zone]
            update = self._update(zone)
            for name, kind in sorted({(r.name, r.type) for r in mine}):
                # The prerequisite names the whole set of values, as RFC 2136 section 2.4.2 wants it.
                for value in sorted({r.value for r in there if (r.name, r.type) == (name, kind)}):
                    update.present(name, kind, value)
            for record in mine:
                update.delete(record.name, record.type, record.value)
            self._carry_out(update, zone, f"delete {len(mine)} records of zone {zone}")
        self._settled(lambda now: [r for r in records if r.key() in now], records, "are still served")

    def put_back(self, records: Sequence[Record]) -> None:
        there = {r.key() for r in self._listed(records)}
        missing = [r for r in records if r.key() not in there]
        for zone in sorted({r.zone for r in missing}):
            update = self._update(zone)
            mine = [r for r in missing if r.zone == zone]
            for record in mine:
                if record.type == "CNAME":
                    update.absent(record.name)  # an alias cannot stand beside anything else
            for record in mine:
                update.add(record.name, record.ttl or 300, record.type, record.value)
            self._carry_out(update, zone, f"add {len(mine)} records to zone {zone}")
        self._settled(lambda now: [r for r in records if r.key() not in now], records, "are not served")

    def _listed(self, records: Sequence[Record]) -> list[Record]:
        addresses = [r.value for r in records if r.type in ADDRESS_TYPES]
        return self.records(addresses, [r.name for r in records])

    def _settled(self, wrong: Any, records: Sequence[Record], what: str) -> None:
        def fact() -> bool | Not:
            left = wrong({r.key() for r in self._listed(records)})
            return True if not left else Not(f"{', '.join(map(str, left))} {what}")

        wait_until(fact, deadline=SETTLE_SECONDS, what=f"The change at {self.title}", every=0.2)

    def _update(self, zone: str) -> dns.update.UpdateMessage:
        keyname, keyring = self._key
        return dns.update.UpdateMessage(zone, keyring=keyring, keyname=keyname)

    def _carry_out(self, update: dns.update.UpdateMessage, zone: str, what: str) -> None:
        self._guard.require(f"DNS UPDATE of zone {zone} at {self._place.server}: {what}")
        try:
            answer = self._send(update, what, writes=True)
            code = answer.rcode()
            if not answer.had_tsig:
                said = f"{self.title} was to {what}, and the answer ({dns.rcode.to_text(code)}) is not signed with the key"
                raise OutcomeUnknown(f"{said}, so nobody knows whether it is the server's.", _LOOKS)
            if code == dns.rcode.SERVFAIL:
                # Also what a secondary says that passed the update on, and has not heard of it again (RFC 2136, section 6).
                raise OutcomeUnknown(f"{self.title} failed while it was to {what}; nobody knows whether it did.", _LOOKS)
        except OutcomeUnknown:
            self._guard.happened(f"{what} at {self.title}")
            raise
        if code == dns.rcode.NOERROR:
            self._guard.happened(f"{what} at {self.title}")
            return
        if code in {dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN}:
            raise Refused(
                f"{self.title} did not {what}: a record was changed since it was read. Nothing of that zone was changed.",
                "Run the command again: it reads anew.",
            )
        said = _SAYS_NO.get(code, dns.rcode.to_text(code))
        raise Refused(f"{self.title} did not {what}: {said}. Nothing of that zone was changed.")

    def _send(self, message: dns.message.Message, what: str, *, writes: bool = False) -> dns.message.Message:
        try:
            wire = socket.create_connection((self._address, self._place.port), timeout=5)
        except OSError as error:
            raise Unreachable(f"{self.title} cannot be reached at port {self._place.port}: {reason(error)}.") from None
        with wire:
            wire.setblocking(False)
            try:
                return dns.query.tcp(message, self._address, timeout=asking.ANSWER_SECONDS, port=self._place.port, sock=wire)
            except dns.tsig.PeerError as error:
                raise Refused(f"{self.title} did not accept the TSIG key: {_tsig(error)}.", _KEY) from None
            except NO_ANSWER as error:
                said = f"{self.title} gave no answer that can be used to: {what} ({reason(error)})."
                if writes:
                    raise OutcomeUnknown(said, _LOOKS) from None
                raise Unreachable(said) from None
