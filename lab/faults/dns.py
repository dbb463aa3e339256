"""A wire (:mod:`lab.faults.proxy`) in front of a name server: RFC 2136 updates, zone transfers and questions, over TCP.

The tool asks by TCP alone, one question a connection, so nothing of UDP is here. The wire knows the key, as the server does: what
it answers in the server's place is signed, and a refusal looks like one of BIND's or Knot's.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Any

import dns.exception
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype

from lab.faults.proxy import DNS_BEFORE, Address, Call, Wire, Wires, reset, wait_for_the_end


class DnsWire(Wire):
    """Between the tool and one name server. ``keyring`` is what the server knows of keys."""

    def __init__(self, wires: Wires, server: str, here: Address, there: Address, keyring: Mapping[Any, Any]) -> None:
        super().__init__(wires, server, here, there, is_read=lambda *_: True)
        self._keyring = dict(keyring)

    def _exchange(self, client: socket.socket) -> bool:
        asked = _receive(client)
        if not asked:
            return False
        question = self._read(asked)
        fault = self._wires.passes(_call(self.server, question))
        self.look()
        if fault in DNS_BEFORE:
            self._refuse(client, question, fault)
            return False
        answers = self._ask_there(asked, question)
        if not answers or fault == "lost":
            reset(client)
            return False
        self._answer(client, question, answers, fault)
        return False

    def _read(self, wire: bytes) -> dns.message.Message:
        try:
            return dns.message.from_wire(wire, keyring=self._keyring)
        except dns.exception.DNSException:
            return dns.message.from_wire(wire, keyring=False)  # signed by somebody else, or with another clock

    def _refuse(self, client: socket.socket, question: dns.message.Message, fault: str) -> None:
        if fault == "reset":
            reset(client)
        elif fault == "hang":
            wait_for_the_end(client)
        else:
            _send(client, _no(question, fault))

    def _ask_there(self, asked: bytes, question: dns.message.Message) -> list[bytes]:
        """The server's answer; that of a transfer may be several messages, the last of which ends with the SOA once more."""
        answers: list[bytes] = []
        with contextlib.suppress(OSError), socket.create_connection(self.there, timeout=5) as server:
            server.settimeout(30)
            _send(server, asked)
            soas = 0
            while answer := _receive(server):
                answers.append(answer)
                read = dns.message.from_wire(answer, keyring=False, xfr=True)
                soas += sum(len(rrset) for rrset in read.answer if rrset.rdtype == dns.rdatatype.SOA)
                if question.question[0].rdtype != dns.rdatatype.AXFR or soas > 1 or read.rcode() != dns.rcode.NOERROR:
                    break
        return answers

    def _answer(self, client: socket.socket, question: dns.message.Message, answers: list[bytes], fault: str) -> None:
        *earlier, last = answers
        if fault == "half a body":
            client.sendall(b"".join(map(_framed, earlier)) + _framed(last)[: 2 + len(last) // 2])
            return
        if fault == "failed afterwards":
            # What a secondary says that passed the update on to the primary, and has not heard of it again.
            answers = [_no(question, "rcode SERVFAIL")]
        elif fault == "unsigned":
            answers = [_unsigned(answer) for answer in answers]
        elif fault == "bad signature":
            answers = [*earlier, last[:-7] + bytes([last[-7] ^ 1]) + last[-6:]]  # the last byte of the signature
        elif fault == "garbage":
            answers = [b"\x1b[31m\xff\xfe" * 20]
        for answer in answers:
            _send(client, answer)


def _call(server: str, question: dns.message.Message) -> Call:
    first = question.question[0]
    zone = "{reverse zone}" if first.name.to_text().endswith("in-addr.arpa.") else first.name.to_text()
    if question.opcode() == dns.opcode.UPDATE:
        return Call(server, "UPDATE", zone, reads=False)
    if first.rdtype == dns.rdatatype.AXFR:
        return Call(server, "AXFR", zone, reads=True)
    return Call(server, "QUERY", dns.rdatatype.to_text(first.rdtype), reads=True)


def _no(question: dns.message.Message, fault: str) -> bytes:
    """A refusal: a code, or a complaint about the signature."""
    what, code = fault.split(" ")
    answer = dns.message.make_response(question, tsig_error=dns.rcode.from_text(code) if what == "TSIG" else 0)
    answer.set_rcode(dns.rcode.NOTAUTH if what == "TSIG" else dns.rcode.from_text(code))
    return bytes(answer.to_wire())


def _unsigned(answer: bytes) -> bytes:
    read = dns.message.from_wire(answer, keyring=False, xfr=True)
    read.tsig = None
    return bytes(read.to_wire(max_size=65535))


def _framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def _send(wire: socket.socket, message: bytes) -> None:
    wire.sendall(_framed(message))


def _receive(wire: socket.socket) -> bytes:
    """One message; nothing where the other side has ended before it was whole."""
    head = _exactly(wire, 2)
    return _exactly(wire, struct.unpack("!H", head)[0]) if head else b""


def _exactly(wire: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        piece = wire.recv(size - len(got))
        if not piece:
            return b""
        got += piece
    return bytes(got)
