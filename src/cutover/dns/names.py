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

import ipaddress
import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.tsig
import dns.tsigkeyring
import dns.update
import dns.xfr
import dns.zone

from cutover.core.credentials import Credentials, cut
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused, Unreachable, WrongUsage
from cutover.core.http import Tls, session
from cutover.core.wait import Not, wait_until
from cutover.core.write_guard import WriteGuard
from cutover.site import schema as settings

ANSWER_SECONDS = 10.0
#: How long after an update the server may take to serve what it accepted.
SETTLE_SECONDS = 10.0
ADDRESS_TYPES = {"A", "AAAA"}
#: Of a signed zone; the server makes them anew after every change.
_MADE_BY_THE_SERVER = {"RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "CDS", "CDNSKEY"}


@dataclass(frozen=True, order=True)
class Record:
    """One record: absolute lower-case name, type, value as text. ``raw`` is the provider's own form, ``ttl`` is in seconds."""

    name: str
    type: str
    value: str
    ttl: int = 0
    zone: str = ""
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.name.rstrip('.')} {self.type} {self.value.rstrip('.')}"

    def key(self) -> tuple[str, str, str]:
        """What the record is, without how long it is cached."""
        return self.name, self.type, self.value


def absolute(name: str) -> str:
    """A name with its final dot, in lower case."""
    return name.strip().rstrip(".").lower() + "."


def pointer(address: str) -> str:
    """The reverse name of an address."""
    return ipaddress.ip_address(address).reverse_pointer + "."


# -- deciding -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """``records`` go; ``mentions`` are sentences about what stays although it names them."""

    records: tuple[Record, ...]
    mentions: tuple[str, ...]


def belonging(records: Sequence[Record], addresses: Iterable[str]) -> Selection:
    """Which records belong to these addresses alone. Pure."""
    wanted = {ipaddress.ip_address(a.split("/")[0]) for a in addresses}
    pointers = {pointer(str(a)) for a in wanted}

    def ours(record: Record) -> bool:
        try:
            return record.type in ADDRESS_TYPES and ipaddress.ip_address(record.value) in wanted
        except ValueError:
            return False

    chosen = [r for r in records if ours(r) or (r.type == "PTR" and r.name in pointers)]
    alive = {r.name for r in records if r.type in ADDRESS_TYPES and not ours(r)}
    gone = {r.name for r in chosen if r.type in ADDRESS_TYPES} - alive
    half = {r.name for r in chosen if r.type in ADDRESS_TYPES} & alive
    aliases = [r for r in records if r.type == "CNAME"]
    while True:
        more = [r for r in aliases if r not in chosen and absolute(r.value) in gone and r.name not in alive]
        if not more:
            break
        chosen += more
        gone |= {r.name for r in more}
    mentions = [f"{name.rstrip('.')} keeps its other addresses" for name in sorted(half)]
    mentions += [f"{r}: stays, because the name it leads to keeps another address" for r in aliases if absolute(r.value) in half]
    for record in records:
        if record in chosen or record.type in ADDRESS_TYPES | {"CNAME"} | _MADE_BY_THE_SERVER:
            continue
        words = {absolute(word) for word in record.value.replace('"', " ").split()}
        if words & gone or any(str(a) in record.value.replace('"', " ").replace(":", " ").split() for a in wanted):
            mentions.append(f"{record}: points to a server that is to be deleted; change it by hand")
    return Selection(tuple(sorted(set(chosen))), tuple(mentions))


# -- providers ------------------------------------------------------------------------------------


class Provider(Protocol):
    """One place where names stand."""

    title: str
    by_hand: bool

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        """Everything it can show; where it cannot list, at least what concerns these addresses and names."""

    def cautions(self) -> list[str]:
        """What it could not see, as sentences."""

    def delete(self, records: Sequence[Record]) -> None:
        """Delete exactly these, which it has just listed."""

    def put_back(self, records: Sequence[Record]) -> None:
        """Add exactly these; those that are there already are left alone."""


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
        return _resolve(self._place.server)

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        found: list[Record] = []
        for zone in self._zones:
            if zone in self._blind:
                continue
            try:
                found += self._transfer(zone)
                self._given.add(zone)
            except _TransferRefused as error:
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
            dns.query.inbound_xfr(self._address, content, query, port=self._place.port, timeout=ANSWER_SECONDS, lifetime=60)
        except dns.tsig.PeerBadKey as error:
            # Knot says "bad key" of a key that it knows, where that key may update but not transfer.
            raise _TransferRefused(_tsig(error)) from None
        except dns.tsig.PeerError as error:
            raise CutoverError(f"{self.title} did not accept the TSIG key: {_tsig(error)}.", _KEY) from None
        except dns.xfr.TransferError as error:
            said = f"it says {dns.rcode.to_text(error.rcode)}"
            if error.rcode in _NO_TRANSFER:
                raise _TransferRefused(said) from None
            raise Unreachable(f"{self.title} gave no transfer of zone {zone}: {said}.") from None
        except _NO_ANSWER as error:
            raise Unreachable(f"{self.title} gave no transfer of zone {zone}: {_said(error)}.") from None
        for name, ttl, rdata in content.iterate_rdatas():
            found.append(Record(absolute(name.to_text()), dns.rdatatype.to_text(rdata.rdtype), _value(rdata), ttl, zone))
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
        _must_know(answer, self.title, name)
        return [
            Record(absolute(rrset.name.to_text()), dns.rdatatype.to_text(rrset.rdtype), _value(rdata), rrset.ttl, zone)
            for rrset in answer.answer
            if absolute(rrset.name.to_text()) == name and dns.rdatatype.to_text(rrset.rdtype) == kind
            for rdata in rrset
        ]

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
            raise Unreachable(f"{self.title} cannot be reached at port {self._place.port}: {_said(error)}.") from None
        with wire:
            wire.setblocking(False)
            try:
                return dns.query.tcp(message, self._address, timeout=ANSWER_SECONDS, port=self._place.port, sock=wire)
            except dns.tsig.PeerError as error:
                raise Refused(f"{self.title} did not accept the TSIG key: {_tsig(error)}.", _KEY) from None
            except _NO_ANSWER as error:
                said = f"{self.title} gave no answer that can be used to: {what} ({_said(error)})."
                if writes:
                    raise OutcomeUnknown(said, _LOOKS) from None
                raise Unreachable(said) from None


#: A connection that ended, and an answer that is none (ValueError: dnspython's own, of a few parts of a message).
_NO_ANSWER = (OSError, EOFError, ValueError, dns.exception.DNSException)
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


class _TransferRefused(Exception):
    pass


def _must_know(answer: dns.message.Message, who: str, name: str, *, may_refuse: bool = False) -> None:
    """That there is no such name is an answer; that the server cannot say is none."""
    if answer.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN, *([dns.rcode.REFUSED] if may_refuse else [])}:
        raise Unreachable(f"{who} does not say what it has for {name}: {dns.rcode.to_text(answer.rcode())}.")


def _value(rdata: dns.rdata.Rdata) -> str:
    text = rdata.to_text()
    return absolute(text) if dns.rdatatype.to_text(rdata.rdtype) in {"CNAME", "PTR", "NS"} else text


def _said(error: BaseException) -> str:
    if isinstance(error, (TimeoutError, dns.exception.Timeout)):
        return f"no answer within {ANSWER_SECONDS:g} s"
    if isinstance(error, EOFError):
        return "the connection was closed"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".").lower()


def _tsig(error: BaseException) -> str:
    return _TSIG_SAYS_NO.get(type(error).__name__, type(error).__name__)


def _resolve(server: str) -> str:
    try:
        return str(socket.getaddrinfo(server, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        raise Unreachable(f"The name server {server} has no address here.") from None


class Pihole:
    """Pi-hole v6. Its lists are lines: ``10.0.0.5 name alias`` and ``alias,target``; pointers follow from them."""

    by_hand = False

    def __init__(self, place: settings.Pihole, credentials: Credentials, guard: WriteGuard) -> None:
        self.title = f"Pi-hole {place.url}"
        self._url = place.url
        self._credentials = credentials
        # Logging in and out changes nothing but the list of sessions.
        self._http = session(
            guard,
            is_read=lambda method, path: method == "GET" or path.split("?")[0] == "/api/auth",
            tls=Tls(ca_file=Path(place.ca_file) if place.ca_file else None),
        )

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        del addresses, names
        with self._signed_in():
            hosts = self._call("GET", "/api/config/dns/hosts")["config"]["dns"]["hosts"]
            aliases = self._call("GET", "/api/config/dns/cnameRecords")["config"]["dns"]["cnameRecords"]
        found = []
        for line in hosts:
            address, *called = line.split("#")[0].split()
            found += [Record(absolute(name), _kind(address), address, raw=line) for name in called]
        for line in aliases:
            parts = [part.strip() for part in line.split(",")]
            ttl = int(parts.pop()) if len(parts) > 2 and parts[-1].isdigit() else 0
            found += [Record(absolute(alias), "CNAME", absolute(parts[-1]), ttl, raw=line) for alias in parts[:-1]]
        return sorted(found)

    def cautions(self) -> list[str]:
        return []

    def delete(self, records: Sequence[Record]) -> None:
        self._each("DELETE", records)

    def put_back(self, records: Sequence[Record]) -> None:
        there = {r.raw for r in self.records((), ())}
        self._each("PUT", [r for r in records if r.raw not in there])

    def _each(self, method: str, records: Sequence[Record]) -> None:
        with self._signed_in():
            for raw in dict.fromkeys(r.raw for r in records):
                part = "cnameRecords" if any(r.type == "CNAME" for r in records if r.raw == raw) else "hosts"
                self._call(method, f"/api/config/dns/{part}/{quote(raw, safe='')}")

    def _signed_in(self) -> _Session:
        return _Session(self)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, self._url + path, json=body)
        if answer.status_code == 401:
            raise Refused(f"{self.title} did not accept the password.", "Check PIHOLE_PASSWORD (an app password works).")
        if answer.status_code >= 400:
            raise Refused(
                f"{self.title} answered {answer.status_code} to {method} {path}: {_error_of(answer)}.",
                "An app password may change settings only where webserver.api.app_sudo is on."
                if answer.status_code == 403
                else "",
            )
        return answer.json() if answer.content else None


class _Session:
    """Pi-hole has few seats for sessions: give it back."""

    def __init__(self, pihole: Pihole) -> None:
        self._pihole = pihole

    def __enter__(self) -> None:
        password = self._pihole._credentials.need("PIHOLE_PASSWORD")
        granted = self._pihole._call("POST", "/api/auth", {"password": password})["session"]
        if not granted.get("valid"):
            raise Refused(f"{self._pihole.title} did not accept the password.", "Check PIHOLE_PASSWORD.")
        if granted.get("sid"):
            self._pihole._http.headers["X-FTL-SID"] = granted["sid"]

    def __exit__(self, *_: object) -> None:
        with suppress(CutoverError):  # it ends by itself; what was done is done
            self._pihole._call("DELETE", "/api/auth")
        self._pihole._http.headers.pop("X-FTL-SID", None)


class Adguard:
    """AdGuard Home's DNS rewrites: domain and answer, where an answer is an address or another name."""

    by_hand = False

    def __init__(self, place: settings.Adguard, credentials: Credentials, guard: WriteGuard) -> None:
        self.title = f"AdGuard Home {place.url}"
        self._url = place.url
        self._credentials = credentials
        self._http = session(guard, tls=Tls(ca_file=Path(place.ca_file) if place.ca_file else None))

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        del addresses, names
        found = []
        for entry in self._call("GET", "/control/rewrite/list"):
            answer, raw = str(entry["answer"]), json.dumps(entry, sort_keys=True)
            if answer in ADDRESS_TYPES:
                continue  # "keep the upstream's answer of this type"
            kind = _kind(answer)
            found.append(Record(absolute(entry["domain"]), kind, absolute(answer) if kind == "CNAME" else answer, raw=raw))
        return sorted(found)

    def cautions(self) -> list[str]:
        return []

    def delete(self, records: Sequence[Record]) -> None:
        for record in records:
            entry = json.loads(record.raw)
            self._call("POST", "/control/rewrite/delete", {"domain": entry["domain"], "answer": entry["answer"]})

    def put_back(self, records: Sequence[Record]) -> None:
        there = {r.key() for r in self.records((), ())}
        for record in records:
            if record.key() not in there:
                self._call("POST", "/control/rewrite/add", json.loads(record.raw))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        self._http.auth = (self._credentials.need("ADGUARD_USER"), self._credentials.need("ADGUARD_PASSWORD"))
        answer = self._http.request(method, self._url + path, json=body)
        if answer.status_code in {401, 403}:
            raise Refused(f"{self.title} did not accept the user or password.", "Check ADGUARD_USER and ADGUARD_PASSWORD.")
        if answer.status_code >= 400:
            raise Refused(f"{self.title} answered {answer.status_code} to {method} {path}: {cut(answer.text.strip(), 200)}.")
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else None


def _kind(value: str) -> str:
    try:
        return "A" if ipaddress.ip_address(value).version == 4 else "AAAA"
    except ValueError:
        return "CNAME"


def _error_of(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return cut(answer.text.strip(), 200)


class ReportOnly:
    """A name server that is changed by hand: it is only asked."""

    by_hand = True

    def __init__(self, place: settings.ReportOnly, credentials: Credentials, guard: WriteGuard) -> None:
        del credentials, guard
        self.title = f"name server {place.server}"
        self._place = place

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        found = [r for a in addresses for r in self._ask(pointer(a), "PTR")]
        asked = {absolute(r.value) for r in found} | {absolute(n) for n in names}
        return sorted({*found, *(r for name in asked for kind in ("A", "AAAA", "CNAME") for r in self._ask(name, kind))})

    def cautions(self) -> list[str]:
        return [f"{self.title} can only be asked: names that nobody named cannot be seen there"]

    def delete(self, records: Sequence[Record]) -> None:
        raise Refused(f"{self.title} is changed by hand: {', '.join(map(str, records))}.")

    def put_back(self, records: Sequence[Record]) -> None:
        self.delete(records)

    def _ask(self, name: str, kind: str) -> list[Record]:
        server = _resolve(self._place.server)
        try:
            answer = dns.query.tcp(dns.message.make_query(name, kind), server, port=self._place.port, timeout=ANSWER_SECONDS)
        except _NO_ANSWER as error:
            raise Unreachable(f"{self.title} did not answer for {name}: {_said(error)}.") from None
        # A server of a few zones refuses questions about all others, such as those for addresses.
        _must_know(answer, self.title, name, may_refuse=True)
        return [
            Record(absolute(rrset.name.to_text()), dns.rdatatype.to_text(rrset.rdtype), _value(rdata), rrset.ttl)
            for rrset in answer.answer
            if dns.rdatatype.to_text(rrset.rdtype) == kind
            for rdata in rrset
        ]


_PROVIDERS: Mapping[str, Any] = {"rfc2136": Rfc2136, "pihole": Pihole, "adguard": Adguard, "report": ReportOnly}


# -- all of them together -------------------------------------------------------------------------


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

    def __init__(self, places: Sequence[Any], credentials: Credentials, guard: WriteGuard) -> None:
        self.providers: list[Provider] = [_PROVIDERS[place.kind](place, credentials, guard) for place in places]
        self._guard = guard

    def find(self, addresses: Sequence[str], names: Sequence[str] = ()) -> Found:
        """What belongs to these addresses, everywhere. ``names`` help where a place cannot list its records."""
        listed = [(p, r) for p in self.providers for r in p.records(addresses, names)]
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
        fresh = self.find(planned.addresses, names)
        listed = {(p.title, r.key()) for p in self.providers for r in p.records(planned.addresses, names)}
        still = [(t, r) for t, r in planned.records if (t, r.key()) in listed]
        allowed = {(t, r.key()): r for t, r in fresh.records}
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
