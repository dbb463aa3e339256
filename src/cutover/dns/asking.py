"""Asking a name server: what counts as an answer, and why there was none."""

from __future__ import annotations

import socket

import dns.exception
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype

from cutover.core.errors import Unreachable
from cutover.dns.records import Record, absolute

ANSWER_SECONDS = 10.0
#: A connection that ended, and an answer that is none (ValueError: dnspython's own, of a few parts of a message).
NO_ANSWER = (OSError, EOFError, ValueError, dns.exception.DNSException)


def must_know(answer: dns.message.Message, who: str, name: str, *, may_refuse: bool = False) -> None:
    """That there is no such name is an answer; that the server cannot say is none."""
    if answer.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN, *([dns.rcode.REFUSED] if may_refuse else [])}:
        raise Unreachable(f"{who} does not say what it has for {name}: {dns.rcode.to_text(answer.rcode())}.")


def value_of(rdata: dns.rdata.Rdata) -> str:
    """The value of a record; a name in it is absolute and in lower case."""
    text = rdata.to_text()
    return absolute(text) if dns.rdatatype.to_text(rdata.rdtype) in {"CNAME", "PTR", "NS"} else text


def records_of(answer: dns.message.Message, kind: str, zone: str = "") -> list[Record]:
    """The records of one type that are in an answer, whatever name they have: a server follows aliases by itself."""
    return [
        Record(absolute(rrset.name.to_text()), kind, value_of(rdata), rrset.ttl, zone)
        for rrset in answer.answer
        if dns.rdatatype.to_text(rrset.rdtype) == kind
        for rdata in rrset
    ]


def reason(error: BaseException) -> str:
    """Why there was no answer, in words."""
    if isinstance(error, (TimeoutError, dns.exception.Timeout)):
        return f"no answer within {ANSWER_SECONDS:g} s"
    if isinstance(error, EOFError):
        return "the connection was closed"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".").lower()


def resolve(server: str) -> str:
    """The address of a name server."""
    try:
        return str(socket.getaddrinfo(server, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        raise Unreachable(f"The name server {server} has no address here.") from None
