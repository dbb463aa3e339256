"""The lab's name server is a real one: it starts fast, takes signed updates, and does not outlive its parent."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.tsigkeyring
import dns.update
import pytest

from cutover.core.wait import Not, wait_until
from lab.dns import NameServer, NotInstalled, program, reverse_zone
from tests.support.own_network import address

try:
    program()
except NotInstalled as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

ADDRESS, NAMED, ADDED = address(53), address(152), address(9)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NameServer]:
    made = NameServer(tmp_path / ("deep" * 20), ADDRESS, 5353, entries=[("qdrant", "A", NAMED)], reverse=[(NAMED, "qdrant")])
    made.start()
    yield made
    made.kill()


def update(server: NameServer, *, secret: str | None = None) -> dns.rcode.Rcode:
    keyring = dns.tsigkeyring.from_text({server.key_name: ("hmac-sha256", secret or server.key_secret)})
    message = dns.update.UpdateMessage(server.zone, keyring=keyring, keyname=dns.name.from_text(server.key_name))
    message.add("added", 60, "A", ADDED)
    return dns.query.tcp(message, ADDRESS, port=5353, timeout=5).rcode()


def test_it_serves_both_zones(server: NameServer) -> None:
    assert server.entries() == [
        (f"{ipaddress.ip_address(NAMED).reverse_pointer}.", "PTR", "qdrant.home.arpa."),
        ("ns.home.arpa.", "A", ADDRESS),
        ("qdrant.home.arpa.", "A", NAMED),
    ]


def test_a_signed_update_survives_a_power_cut(server: NameServer) -> None:
    assert update(server) == dns.rcode.NOERROR
    server.kill()
    server.start()
    assert ("added.home.arpa.", "A", ADDED) in server.entries()


def test_an_update_with_another_key_is_refused(server: NameServer) -> None:
    with pytest.raises(dns.tsig.PeerBadSignature):
        update(server, secret="c29tZXRoaW5nIGVsc2UgZW50aXJlbHk=")
    assert len(server.entries()) == 3


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    program_text = (
        "import sys, time; from pathlib import Path; from lab.dns import NameServer\n"
        f"s = NameServer(Path({str(tmp_path)!r}), {address(54)!r}); s.start()\n"
        "print(s._process.pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", program_text], stdout=subprocess.PIPE, cwd=root, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool | Not:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return True if state == "Z" else Not(f"process {child} is in state {state}")

    assert wait_until(gone, deadline=10, what="The name server's end")


def test_the_reverse_zone_of_an_address() -> None:
    assert reverse_zone("10.0.0.152/24") == "0.0.10.in-addr.arpa."
