"""Names of departing guests: found by address, deleted exactly, put back exactly, on real and imitated name servers."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dns.name
import dns.query
import dns.tsigkeyring
import dns.update
import pytest

from cutover.checks import baseline
from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.errors import OutcomeUnknown, Refused, Unreachable, WritesRefused
from cutover.core.journal import Journal
from cutover.core.write_guard import WriteGuard
from cutover.dns.names import Names
from cutover.dns.records import Record, belonging
from cutover.site import load as site_load
from cutover.site import schema
from lab.dns import NameServer, NotInstalled, program
from lab.pihole_adguard import Adguard, Pihole
from tests.support.own_network import address


def without_knot() -> bool:
    try:
        return not program()
    except NotInstalled:
        return True


knot = pytest.mark.skipif(without_knot(), reason="Knot DNS is not installed (Debian's package `knot`)")

OURS, OTHER, NS = address(152), address(81), address(53)


# -- deciding -------------------------------------------------------------------------------------


def record(text: str) -> Record:
    name, kind, value = text.split(" ", 2)
    return Record(f"{name}.", kind, value if kind in {"A", "AAAA", "TXT", "MX"} else f"{value}.")


@pytest.mark.parametrize(
    ("records", "going", "mentioned"),
    [
        (["q.lan A 10.0.0.152", "v.lan A 10.0.0.81"], ["q.lan A 10.0.0.152"], 0),
        (["q.lan AAAA fd00::0152"], ["q.lan AAAA fd00::0152"], 0),
        (["a.lan CNAME b.lan", "b.lan CNAME q.lan", "q.lan A 10.0.0.152"], 3, 0),
        (["a.lan CNAME q.lan", "q.lan A 10.0.0.152", "q.lan A 10.0.0.7"], ["q.lan A 10.0.0.152"], 2),
        (["152.0.0.10.in-addr.arpa PTR whatever.lan"], 1, 0),
        (["7.0.0.10.in-addr.arpa PTR q.lan", "q.lan A 10.0.0.152"], ["q.lan A 10.0.0.152"], 1),
        (["lan MX 10 q.lan.", "q.lan A 10.0.0.152"], ["q.lan A 10.0.0.152"], 1),
        (['lan TXT "v=spf1 ip4:10.0.0.152 -all"'], [], 1),
        (["x.lan CNAME y.lan", "y.lan A 10.0.0.81"], [], 0),
        (["lan NS q.lan", "q.lan A 10.0.0.152", "lan NSEC q.lan"], ["q.lan A 10.0.0.152"], 1),
        (["q.lan A 10.0.0.15", "15.0.0.10.in-addr.arpa PTR q.lan"], [], 0),
    ],
)
def test_records_belong_by_their_addresses_alone(records: list[str], going: list[str] | int, mentioned: int) -> None:
    known = [record(r) for r in records]
    found = belonging(known, ["10.0.0.152", "fd00::152"])
    expected = known[:going] if isinstance(going, int) else [record(r) for r in going]
    assert sorted(found.records) == sorted(expected)
    assert len(found.mentions) == mentioned


# -- a real server --------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NameServer]:
    made = NameServer(
        tmp_path / "dns",
        NS,
        entries=[
            ("qdrant", "A", OURS),
            ("qdrant", "TXT", '"the old one"'),
            ("vectors", "CNAME", "qdrant"),
            ("both", "A", OURS),
            ("both", "A", OTHER),
            ("vllm", "A", OTHER),
            ("llm", "CNAME", "vllm"),
        ],
        reverse=[(OURS, "qdrant"), (OTHER, "vllm")],
    )
    made.start()
    yield made
    made.kill()


def names(server: NameServer, state: Path, *, execute: bool = True, key: str | None = None) -> Names:
    place = schema.Rfc2136(kind="rfc2136", server=NS, port=server.port, zones=[z.rstrip(".") for z in server.zones])
    credentials = Credentials({"DNS_TSIG_NAME": server.key_name, "DNS_TSIG_SECRET": key or server.key_secret})
    return Names([place], credentials, WriteGuard(Journal(state, "lab") if execute else None))


def change(server: NameServer, name: str, kind: str, value: str) -> None:
    keyring = dns.tsigkeyring.from_text({server.key_name: ("hmac-sha256", server.key_secret)})
    message = dns.update.UpdateMessage(server.zone, keyring=keyring, keyname=dns.name.from_text(server.key_name))
    message.add(name, 300, kind, value)
    assert dns.query.tcp(message, NS, port=server.port, timeout=5).rcode() == 0


@knot
def test_exactly_the_guests_records_go_and_come_back(server: NameServer, tmp_path: Path) -> None:
    before = server.entries()
    site_names = names(server, tmp_path)
    planned = site_names.find([OURS])
    assert [str(r) for _, r in planned.records] == [
        f"{ipaddress.ip_address(OURS).reverse_pointer} PTR qdrant.home.arpa",
        f"both.home.arpa A {OURS}",
        f"qdrant.home.arpa A {OURS}",
        "vectors.home.arpa CNAME qdrant.home.arpa",
    ]
    site_names.delete(planned)
    gone = {r.key() for _, r in planned.records}
    assert server.entries() == [entry for entry in before if entry not in gone]
    assert site_names.delete(planned) == []
    undo = json.loads(json.dumps(planned.as_json()))
    site_names.put_back(undo)
    assert server.entries() == before
    site_names.put_back(undo)
    assert server.entries() == before


@knot
def test_without_execute_nothing_is_sent(server: NameServer, tmp_path: Path) -> None:
    before = server.entries()
    site_names = names(server, tmp_path, execute=False)
    with pytest.raises(WritesRefused):
        site_names.delete(site_names.find([OURS]))
    with pytest.raises(WritesRefused):
        site_names.providers[0].delete([r for _, r in site_names.find([OURS]).records])
    assert server.entries() == before


@knot
def test_a_record_changed_since_the_plan_is_refused(server: NameServer, tmp_path: Path) -> None:
    site_names = names(server, tmp_path)
    planned = site_names.find([OURS])
    change(server, "qdrant", "A", OTHER)
    with pytest.raises(Refused, match=r"vectors\.home\.arpa CNAME .* leads elsewhere too"):
        site_names.delete(planned)
    assert len(server.entries()) == 11


@knot
def test_a_change_between_look_and_update_is_refused_by_the_server(server: NameServer, tmp_path: Path) -> None:
    site_names = names(server, tmp_path)
    provider: Any = site_names.providers[0]
    planned = [r for _, r in site_names.find([OURS]).records if r.type == "A"]
    looked = provider.records([OURS], [])
    change(server, "qdrant", "A", OTHER)
    before = server.entries()
    provider.records = lambda *_: looked  # what it saw a moment ago
    with pytest.raises(Refused, match="was changed since it was read"), site_names._guard.act("test", "Delete"):
        provider.delete(planned)
    assert server.entries() == before


@knot
def test_a_wrong_key_is_named(server: NameServer, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="did not accept the TSIG key: the signature is wrong"):
        names(server, tmp_path, key="bm90IHRoZSBrZXk=").find([OURS])


@knot
def test_without_zone_transfers_the_guests_names_are_still_found(tmp_path: Path) -> None:
    server = NameServer(
        tmp_path / "dns",
        NS,
        5354,
        entries=[("qdrant", "A", OURS), ("vectors", "CNAME", "qdrant")],
        reverse=[(OURS, "qdrant")],
        transfer=False,
    )
    server.start()
    try:
        site_names = names(server, tmp_path)
        found = site_names.find([OURS], ["vectors"])
        assert len(found.records) == 3
        assert sum("aliases (CNAME) there are not seen unless site.yaml names them" in m for m in found.mentions) == 2
        assert len(site_names.delete(found, ["vectors"])) == 3
        assert site_names.find([OURS], ["vectors"]).records == ()
    finally:
        server.kill()


def test_a_server_that_is_away_or_silent(tmp_path: Path) -> None:
    silent = socket.create_server((NS, 0))
    port = silent.getsockname()[1]

    def hang_up() -> None:
        connection, _ = silent.accept()
        connection.recv(2)
        connection.close()

    threading.Thread(target=hang_up, daemon=True).start()
    place = schema.Rfc2136(kind="rfc2136", server=NS, port=port, zones=["home.arpa"])
    credentials = Credentials({"DNS_TSIG_NAME": "k", "DNS_TSIG_SECRET": "bm90IHRoZSBrZXk="})
    site_names = Names([place], credentials, WriteGuard(Journal(tmp_path, "lab")))
    provider: Any = site_names.providers[0]
    update = provider._update("home.arpa.")
    with pytest.raises(OutcomeUnknown, match="gave no answer"), site_names._guard.act("test", "x"):
        provider._carry_out(update, "home.arpa.", "delete 1 records")
    silent.close()
    with pytest.raises(Unreachable, match="cannot be reached"), site_names._guard.act("test", "x"):
        provider._carry_out(update, "home.arpa.", "delete 1 records")


def str_of(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)


# -- the two home servers ---------------------------------------------------------------------------


def test_pihole_lines_go_and_come_back(tmp_path: Path) -> None:
    hosts = ["10.0.0.152 qdrant.lan qdrant", "10.0.0.81 vllm.lan", "# printers"]
    with Pihole("secret-word", hosts, ["vectors.lan,qdrant.lan,300", "llm.lan,vllm.lan"]) as pihole:
        place = schema.Pihole(kind="pihole", url=pihole.url)
        site_names = Names([place], Credentials({"PIHOLE_PASSWORD": "secret-word"}), WriteGuard(Journal(tmp_path, "lab")))
        planned = site_names.find(["10.0.0.152"])
        assert len(planned.records) == 3
        site_names.delete(planned)
        assert pihole.lists == {"hosts": ["10.0.0.81 vllm.lan", "# printers"], "cnameRecords": ["llm.lan,vllm.lan"]}
        site_names.put_back(json.loads(json.dumps(planned.as_json())))
        assert sorted(pihole.lists["hosts"]) == sorted(hosts)
        assert len(pihole.lists["cnameRecords"]) == 2
        assert not pihole.seats, "every session is given back"
        wrong = Names([place], Credentials({"PIHOLE_PASSWORD": "other"}), WriteGuard(None))
        with pytest.raises(Refused, match="did not accept the password"):
            wrong.find(["10.0.0.152"])


def test_adguard_rewrites_go_and_come_back(tmp_path: Path) -> None:
    rewrites = [
        {"domain": "qdrant.lan", "answer": "10.0.0.152", "enabled": True},
        {"domain": "vectors.lan", "answer": "qdrant.lan", "enabled": False},
        {"domain": "vllm.lan", "answer": "10.0.0.81", "enabled": True},
        {"domain": "*.lan", "answer": "A", "enabled": True},
    ]
    with Adguard("admin", "secret-word", rewrites) as adguard:
        place = schema.Adguard(kind="adguard", url=adguard.url)
        credentials = Credentials({"ADGUARD_USER": "admin", "ADGUARD_PASSWORD": "secret-word"})
        site_names = Names([place], credentials, WriteGuard(Journal(tmp_path, "lab")))
        planned = site_names.find(["10.0.0.152"])
        site_names.delete(planned)
        assert adguard.rewrites == rewrites[2:]
        site_names.put_back(json.loads(json.dumps(planned.as_json())))
        assert sorted(adguard.rewrites, key=str_of) == sorted(rewrites, key=str_of)
        closed = Names([place], credentials, WriteGuard(None))
        with pytest.raises(WritesRefused):
            closed.delete(closed.find(["10.0.0.152"]))


@knot
def test_a_place_changed_by_hand_is_only_reported(server: NameServer, tmp_path: Path) -> None:
    place = schema.ReportOnly(kind="report", server=NS, port=server.port)
    site_names = Names([place], Credentials({}), WriteGuard(Journal(tmp_path, "lab")))
    found = site_names.find([OURS])
    assert found.records == ()
    assert f"qdrant.home.arpa A {OURS} at name server {NS}" in found.by_hand
    assert site_names.delete(found) == []


@knot
def test_the_baseline_asks_for_addresses_where_site_yaml_has_names(server: NameServer, tmp_path: Path) -> None:
    shipped = site_load.load(Path(__file__).resolve().parents[2] / "site.yaml")
    place = schema.ReportOnly(kind="report", server=NS, port=server.port)
    old = shipped.guests.old.model_copy(update={"address": OURS})
    guests = shipped.guests.model_copy(update={"old": old})
    run = Context(shipped.model_copy(update={"dns": [place], "guests": guests}), Credentials({}), tmp_path)
    assert f"qdrant.home.arpa A {OURS}" in baseline._names(run)


def test_a_record_survives_json() -> None:
    one = Record("a.lan.", "A", "10.0.0.1", 60, "lan.", "raw")
    assert Record(**json.loads(json.dumps(asdict(one)))) == one
