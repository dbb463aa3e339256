"""What is made of the servers' answers: which guest is which, where users come in, and what of a file is changed."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from ruamel.yaml import YAML

from cutover.core.credentials import Credentials
from cutover.core.errors import Refused, Unreachable, WrongUsage
from cutover.core.shell import Answer
from cutover.discovery import edit, guests, names, nginx, portainer, survey, trust
from cutover.discovery.facts import Fact, Found, differences
from cutover.gate import nginx_conf
from cutover.portainer import obstacles
from cutover.portainer.client import ADMINISTRATOR
from cutover.portainer.stack import Stack
from cutover.proxmox.inventory import FoundGuest
from cutover.site.load import WrongSite, load

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "site.yaml").read_text(encoding="utf-8")


def seen(vmid: int, name: str, kind: str = "lxc", *addresses: str) -> FoundGuest:
    return FoundGuest(vmid, kind, name, "pve", running=True, addresses=dict.fromkeys(addresses, "its own interfaces"))


class TestWhichGuestIsWhich:
    def test_a_name_that_one_guest_alone_has_comes_before_an_id(self) -> None:
        roles, legacy = guests.assign(
            [seen(101, "postgres"), seen(207, "nginx-edge"), seen(310, "vllm"), seen(400, "qdrant"), seen(952, "mail"), seen(1001, "docker", "vm")],
            {},
        )  # fmt: skip
        assert {role: guest.vmid for role, (guest, _) in roles.items()} == {"nginx": 207, "vllm": 310, "old": 400, "new": 1001}
        assert "look twice" in roles["new"][1]
        assert legacy == []

    def test_of_several_with_the_name_the_plans_id_counts_and_else_nobody_is_chosen(self) -> None:
        roles, _ = guests.assign([seen(952, "qdrant"), seen(12, "qdrant"), seen(13, "nginx"), seen(14, "nginx")], {})
        assert {role: guest.vmid for role, (guest, _) in roles.items()} == {"old": 952}

    def test_what_the_operator_says_counts(self) -> None:
        everybody = [seen(952, "qdrant"), seen(12, "vectors"), seen(950, "keep-me"), seen(13, "cache")]
        roles, legacy = guests.assign(everybody, {"old": "vectors", "legacy": "13"})
        assert roles["old"][0].vmid == 12
        assert [guest.vmid for guest, _ in legacy] == [13]

    def test_a_virtual_machine_with_a_legacy_id_is_not_one_that_is_deleted(self) -> None:
        assert guests.assign([seen(950, "important", "vm"), seen(951, "old-stuff")], {})[1] == [
            (seen(951, "old-stuff"), "the plan's id")
        ]

    @pytest.mark.parametrize(
        ("addresses", "config", "wanted"),
        [
            (["172.17.0.1", "10.1.2.3"], {}, "10.1.2.3"),
            (["fd00::5", "10.9.0.4"], {}, "10.9.0.4"),
            (["10.1.2.3", "192.168.7.7"], {"net0": "name=eth0,ip=192.168.7.7/24"}, "192.168.7.7"),
            (["fd00::5"], {}, "fd00::5"),
            ([], {}, ""),
        ],
    )
    def test_its_address_is_the_given_one_or_one_in_its_nodes_network(
        self, addresses: list[str], config: Any, wanted: str
    ) -> None:
        guest = seen(1, "a", "vm", *addresses)
        known = guests.Guests([guest], {}, [], {1: config}, [ipaddress.ip_network("10.1.2.0/24")])
        assert known.address_of(guest)[0] == wanted


class EmptyProxmox:
    """Answers as Proxmox answers a token without rights: with nothing, and no error."""

    token = "cutover@pve!read"

    def guests(self) -> list[Any]:
        return []


class TestWhoIsNotThere:
    def test_a_token_that_sees_nothing_is_named_and_not_an_empty_site(self) -> None:
        with pytest.raises(Refused, match="shows no guest to the token cutover@pve!read"):
            guests.look(EmptyProxmox(), {})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("everybody", "wished", "said"),
        [
            ([seen(12, "qdrant"), seen(13, "qdrant")], {}, "LXC 12 (qdrant), LXC 13 (qdrant) could be it; say which"),
            ([seen(12, "a"), seen(13, "a")], {"old": "a"}, "LXC 12 (a), LXC 13 (a) could be it; say which with --guest old=ID"),
            ([seen(952, "qdrant")], {"old": "vectors"}, "no guest that the token may see is called vectors or has that id"),
            ([seen(12, "mail")], {}, "no LXC that the token may see is called qdrant, and 952 is none"),
            ([seen(12, "vectors", "vm")], {"old": "vectors"}, "VM 12 (vectors) cannot be it, which has to be an LXC"),
        ],
    )
    def test_why_no_guest_has_a_part_is_said_as_it_is(self, everybody: Any, wished: dict[str, str], said: str) -> None:
        known = guests.Guests(everybody, *guests.assign(everybody, wished), wished=wished)
        assert "old" not in known.roles
        assert said in known.nobody("old")


class TestSeveralQdrantsBehindOneNginx:
    """``survey._with_qdrant`` says which guest is the old server, ``survey._say_nginx`` which Qdrant of it."""

    @staticmethod
    def passing(*qdrants: nginx.Qdrant) -> Any:
        return SimpleNamespace(qdrants=qdrants)

    def test_none_is_chosen_and_a_guest_that_only_has_the_plans_id_is_not_either(self) -> None:
        one, other, mail = seen(400, "vectors", "lxc", "10.0.0.4"), seen(401, "rag", "lxc", "10.0.0.5"), seen(952, "mail")
        known = guests.Guests([one, other, mail], *guests.assign([one, other, mail], {}))
        running = self.passing(nginx.Qdrant("10.0.0.4:6333", one, "1.18.3"), nginx.Qdrant("10.0.0.5:6333", other, "1.18.3"))
        now = survey._with_qdrant(known, [running], survey.Wishes())
        assert "old" not in now.roles
        assert now.nobody("old").startswith("LXC 400 (vectors), LXC 401 (rag) could be it")
        assert survey._with_qdrant(known, [running], survey.Wishes({"old": "952"})) is known

    def test_after_the_move_the_new_server_does_not_become_the_old_one(self) -> None:
        everybody = [seen(1001, "portainer", "vm", "10.0.0.9")]
        known = guests.Guests(everybody, *guests.assign(everybody, {}))
        running = self.passing(nginx.Qdrant("10.0.0.9:6333", everybody[0], "1.18.3"))
        assert survey._with_qdrant(known, [running], survey.Wishes()) is known

    @pytest.mark.parametrize(
        ("written", "taken", "noted"),
        [("", "10.0.0.4:6333", True), ("http://10.0.0.4:7333", "10.0.0.4:7333", False), ("http://a:9", "10.0.0.4:6333", True)],
    )
    def test_of_two_in_one_guest_the_one_in_the_file_counts_and_else_both_are_named(
        self, written: str, taken: str, noted: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = seen(952, "qdrant", "lxc", "10.0.0.4")
        known = guests.Guests([one], *guests.assign([one], {}))
        running = self.passing(*(nginx.Qdrant(f"10.0.0.4:{port}", one, "1.18.3") for port in (6333, 7333)))
        said: list[str] = []
        monkeypatch.setattr(nginx, "say", lambda _, __, qdrant, ___: said.append(qdrant.netloc))
        found = Found()
        survey._say_nginx([running], known, SimpleNamespace(where="it"), found, written)  # type: ignore[arg-type]
        assert said == [taken]
        assert [("10.0.0.4:6333, 10.0.0.4:7333" in note) for note in found.notes] == [True] * noted


@pytest.mark.parametrize(
    ("started", "build", "main", "reload"),
    [
        ("nginx", "--prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf", "/etc/nginx/nginx.conf", []),
        ("/opt/nginx/sbin/nginx", "--prefix=/opt/nginx", "/opt/nginx/conf/nginx.conf", []),
        ("nginx -p /srv/web", "--prefix=/opt/nginx", "/srv/web/conf/nginx.conf", ["-c", "/srv/web/conf/nginx.conf"]),
        ("nginx -c etc/n.conf", "--prefix=/opt/nginx --conf-path=conf/n.conf", "/opt/nginx/etc/n.conf", ["-c", "/opt/nginx/etc/n.conf"]),
        ("nginx -g daemon off;", "--with-http_ssl_module", "/usr/local/nginx/conf/nginx.conf", []),
    ],
)  # fmt: skip
def test_the_file_of_an_nginx_is_where_it_was_built_or_started_to_have_it(
    started: str, build: str, main: str, reload: list[str]
) -> None:
    class OneNginx:
        def read(self, script: str) -> Answer:
            return Answer(
                f"configure arguments: {build}\n".encode() if "-V" in script else f"nginx: master process {started}".encode(),
                "",
                0,
            )

    shell: Any = OneNginx()
    ((binary, said, prefix),) = nginx._masters(shell)
    settings = nginx._settings(shell, binary, said, prefix)
    assert (settings.main_config, settings.reload) == (main, [binary, *reload, "-s", "reload"])


class TestWhereUsersComeIn:
    @pytest.mark.parametrize(
        ("server", "urls"),
        [
            ("listen 6333; location / { proxy_pass http://10.0.0.5:6333; }", ["http://10.0.0.1:6333"]),
            ("listen 10.0.0.9:80; location / { proxy_pass http://10.0.0.5:6333; }", ["http://10.0.0.9"]),
            ("location / { proxy_pass http://10.0.0.5:6333; }", ["http://10.0.0.1"]),
            (
                "listen 443 ssl; listen [::]:443 ssl; server_name _ q.example.org; location / { proxy_pass http://10.0.0.5:6333; }",
                ["https://q.example.org", "https://10.0.0.1"],
            ),
            ("listen 80; location /qdrant/ { proxy_pass http://10.0.0.5:6333/; }", ["http://10.0.0.1/qdrant"]),
            ("listen unix:/run/q.sock; listen *:8080; location / { proxy_pass http://10.0.0.5:6333; }", ["http://10.0.0.1:8080"]),
            ("listen 80; location ~ ^/c { proxy_pass http://10.0.0.5:6333; }", ["http://10.0.0.1"]),
        ],
    )
    def test_listen_name_and_path_make_the_address(self, server: str, urls: list[str]) -> None:
        text = f"http {{ server {{ {server} }} }}"
        configuration = nginx_conf.assembled("/n.conf", {"/n.conf": text})
        assert list(dict.fromkeys(nginx._urls(configuration, ["/n.conf:1"], "10.0.0.1"))) == urls

    def test_the_gate_that_is_in_nginx_already_is_no_way_of_its_own(self) -> None:
        files = {
            "/n.conf": "http { include /c/*.conf; }",
            "/c/qdrant.conf": "server { listen 6333; location / { proxy_pass http://127.0.0.1:6339; } }",
            "/c/qdrant-gate.conf": "map $http_host $h { x 10.0.0.5:6333; }\n"
            "server { listen 127.0.0.1:6339; location / { proxy_pass http://10.0.0.5:6333; } }",
        }
        found = nginx.ways_to("10.0.0.5:6333", nginx_conf.assembled("/n.conf", files), lambda _: ())
        assert [one.passing for one in found] == [[], ["/c/qdrant.conf:1"]]
        assert [one.refused + one.notes for one in found] == [[], []]

    def test_upstreams_are_targets_as_well(self) -> None:
        text = "http { upstream q { server 10.0.0.5:6333; } server { location / { proxy_pass http://q; } } }"
        assert "10.0.0.5:6333" in nginx._targets(nginx_conf.assembled("/n.conf", {"/n.conf": text}))


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("git@github.com:you/site.git", "https://github.com/you/site.git"),
        ("ssh://git@git.home.arpa:2222/infra/site.git", "https://git.home.arpa/infra/site.git"),
        ("ssh://git@git.home.arpa/infra/site.git", "https://git.home.arpa/infra/site.git"),
        ("https://me:hush@git.home.arpa/a.git", "https://git.home.arpa/a.git"),
        ("http://10.0.0.20:8418/site.git", "http://10.0.0.20:8418/site.git"),
        ("ssh://git.home.arpa/infra/site.git", "https://git.home.arpa/infra/site.git"),
        ("ssh://me:hush@git.home.arpa/a.git", "https://git.home.arpa/a.git"),
        ("/srv/git/site.git", ""),
    ],
)
def test_a_remote_for_ssh_is_one_for_https_and_no_password_stays(remote: str, url: str) -> None:
    assert portainer.over_https(remote) == url


@pytest.mark.parametrize(
    ("origin", "said"),
    [("", "is no clone of a repository"), ("file://me:hush@a/b", "cannot pull from file://a/b, where the clone")],
)
def test_where_a_clone_is_from_that_portainer_cannot_pull_is_said(
    origin: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portainer, "_origin", lambda _: origin)
    found = Found()
    portainer.say_repository(None, found, Credentials({}), tmp_path, "")
    (gap,) = found.gaps
    assert said in gap.source


@pytest.mark.parametrize("login", ["me:hush", ":hush", "hush", "me:hu@sh"])
def test_a_password_in_an_address_stays_with_who_wrote_it(login: str, tmp_path: Path) -> None:
    """In the stack that somebody made by hand, after ``--repository``, and in a file: no sentence and no file has it."""
    url = f"https://{login}@127.0.0.1:9/a.git"
    shown = {"Id": 1, "Name": "qdrant", "GitConfig": {"URL": url, "ReferenceName": "refs/heads/main", "ConfigFilePath": "a.yml"}}
    stack = Stack.of(shown)
    for there, said in ((stack, ""), (None, url)):
        found = Found()
        portainer.say_repository(there, found, Credentials({}), tmp_path, said)
        assert found.get("portainer.repository") == "https://127.0.0.1:9/a.git"
        assert "hu" not in f"{found.facts}{found.notes}"
    (tmp_path / "site.yaml").write_text(SHIPPED, encoding="utf-8")
    reason = obstacles.not_ours(stack, load(tmp_path / "site.yaml"))
    assert "follows https://127.0.0.1:9/a.git, with a user or a password in that address, site.yaml says" in reason
    written = re.sub(r"repository: \S+", f"repository: {url}", SHIPPED, count=1)
    (tmp_path / "site.yaml").write_text(written, encoding="utf-8")
    with pytest.raises(WrongSite, match=r"without user, found 'https://127\.0\.0\.1:9/a\.git'") as wrong:
        load(tmp_path / "site.yaml")
    assert "hu" not in str(wrong.value)
    with pytest.raises(WrongUsage):
        survey.with_scheme(url, 9443)


def test_a_resolver_that_only_its_own_machine_can_ask_is_left_out() -> None:
    text = "nameserver 127.0.0.53\nnameserver 10.0.0.53\n# nameserver 1.1.1.1\nsearch home.arpa lan\n"
    assert names.servers_in(text) == (["10.0.0.53"], ["home.arpa", "lan"])


class OfARole:
    """Portainer as it answers a user who may use no environment: with an empty list, and no error."""

    def __init__(self, role: int) -> None:
        self._role = role

    def environments(self) -> list[dict[str, Any]]:
        return []

    def need_sight(self) -> None:
        if self._role != ADMINISTRATOR:
            raise Refused("The access token's user 'viewer' is not an administrator of Portainer.")


@pytest.mark.parametrize(
    ("role", "said"),
    [(1, "Portainer has none"), (2, "The access token's user 'viewer' is not an administrator of Portainer"), (3, "The access")],
)
def test_an_environment_that_is_hidden_from_the_token_is_not_said_to_be_none(role: int, said: str, tmp_path: Path) -> None:
    found = Found()
    portainer.say(lambda _: OfARole(role), found, Credentials({}), tmp_path, "")  # type: ignore[arg-type, return-value]
    (gap,) = [one for one in found.gaps if one.name == "portainer.environment"]
    assert gap.source.startswith(said)


class NameServer:
    """Says what it is told to; nothing at all where that is nothing. It has no zone, as a list of hosts has none."""

    def __init__(self, records: dict[tuple[str, str], str], *, silent: bool = False) -> None:
        self._records, self._silent = records, silent
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            asked, who = self._socket.recvfrom(4096)
            if not asked:
                return
            answer = dns.message.make_response(dns.message.from_wire(asked))
            question = answer.question[0]
            key = (question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype))
            if key in self._records:
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", key[1], self._records[key]))
            if not self._silent:
                self._socket.sendto(answer.to_wire(), who)


QDRANT_BY_NAME = {("qdrant.home.arpa", "A"): "10.0.0.52"}


def of_name_servers(*asked: str, domains: tuple[str, ...] = ("home.arpa",)) -> Found:
    found = Found()
    keys = Credentials({"DNS_TSIG_NAME": "key", "DNS_TSIG_SECRET": "c2VjcmV0LXNlY3JldA=="})
    names.say(asked, domains, [("qdrant", "10.0.0.52")], keys, found)
    return found


class TestWhoKnowsTheGuestsByName:
    @pytest.mark.parametrize("records", [QDRANT_BY_NAME, {("52.0.0.10.in-addr.arpa", "PTR"): "qdrant.home.arpa."}])
    def test_a_list_of_hosts_without_a_zone_knows_them_as_well(self, records: dict[tuple[str, str], str]) -> None:
        with NameServer(records) as one, NameServer({}) as other:
            (row,) = of_name_servers(one.at, other.at, one.at).get("dns")
        assert (row["kind"], f"{row['server']}:{row['port']}") == ("report", one.at)

    def test_one_that_does_not_answer_is_named_beside_one_that_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "_PATIENCE", 0.3)
        with NameServer(QDRANT_BY_NAME) as one, NameServer({}, silent=True) as mute:
            found = of_name_servers(one.at, mute.at)
        assert len(found.get("dns")) == 1
        assert found.notes == [f"{mute.at} did not answer, so nobody knows whether a guest that leaves is named there."]

    def test_a_search_domain_that_dns_cannot_have_is_passed_over(self) -> None:
        with NameServer(QDRANT_BY_NAME) as one:
            assert of_name_servers(one.at, domains=("a..b", "x" * 64, "home.arpa")).get("dns")

    def test_a_pi_hole_at_an_ipv6_address_is_asked_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(names, "_is", lambda url, kind: url == "http://[fd00::53]/api/auth" and kind == "pihole")
        row = names._row("fd00::53", 53, names._Known(True, (), False), Credentials({}))
        assert row == {"kind": "pihole", "url": "http://[fd00::53]", "insecure": True}

    def test_a_port_that_there_cannot_be_does_not_answer(self) -> None:
        (gap,) = of_name_servers("127.0.0.1:99999").gaps
        assert gap.source == "127.0.0.1:99999 did not answer"

    def test_one_server_written_twice_is_one(self) -> None:
        with NameServer(QDRANT_BY_NAME) as one:
            assert len(of_name_servers(one.at, f"[127.0.0.1]:{one.at.rpartition(':')[2]}").get("dns")) == 1


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("pve", "https://pve:8006"), ("10.0.0.2", "https://10.0.0.2:8006"), ("pve:443", "https://pve:443"),
        ("https://pve.home.arpa", "https://pve.home.arpa"), ("https://pve:8006/", "https://pve:8006"),
    ],
)  # fmt: skip
def test_an_address_may_be_typed_short(said: str, url: str) -> None:
    assert survey.with_scheme(said, 8006) == url


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("https://pve:8006/#v1:0:=node%2Fpve:4", "https://pve:8006"), ("pve/#v1:0", "https://pve:8006"),
        (" pve ", "https://pve:8006"), ("fd00::1", "https://[fd00::1]:8006"), ("[fd00::1]:443", "https://[fd00::1]:443"),
    ],
)  # fmt: skip
def test_an_address_may_be_taken_from_a_browser_and_an_ipv6_one_be_bare(said: str, url: str) -> None:
    assert survey.with_scheme(said, 8006) == url


@pytest.mark.parametrize(
    "said", ["[::1", "pve:port", "pve:99999", "https://", "ftp://pve", "p ve", "me:hush@pve", "https://me:hush@pve"]
)
def test_what_is_no_address_is_said_without_a_password_in_it(said: str) -> None:
    with pytest.raises(WrongUsage, match="is not the address of a server") as refused:
        survey.with_scheme(said, 8006)
    assert "hush" not in str(refused.value)


def test_a_name_that_dns_cannot_have_cannot_be_reached() -> None:
    with pytest.raises(Unreachable, match="cannot be reached"):
        trust.fingerprint("https://a..b:1")


class TestTheFile:
    def test_the_template_has_the_fields_of_the_file_that_ships(self) -> None:
        """The values of a clone's own file are its operator's."""

        def fields(node: Any) -> Any:
            return {key: fields(inner) for key, inner in node.items()} if isinstance(node, dict) else None

        ours, shipped = (YAML(typ="safe").load(text) for text in (survey.template(), SHIPPED))
        assert fields(ours) == fields(shipped)

    def test_only_the_value_is_changed_and_a_line_says_who_told_it(self) -> None:
        fact = Fact(("resize", "before"), {"cores": 3, "memory_mb": 1, "disk_gb": 2}, "what VM 7 has now")
        made = edit.change(SHIPPED, [fact])
        added = "  # found: what VM 7 has now\n  before: {cores: 3, memory_mb: 1, disk_gb: 2}\n"
        assert made == SHIPPED.replace("  before: {cores: 4, memory_mb: 8192, disk_gb: 100}\n", added)
        assert edit.change(made, [fact]) == made

    @pytest.mark.parametrize(
        ("where", "value"),
        [
            ("dns", []), ("dns", [{"kind": "report", "server": "10.0.0.1"}, {"kind": "report", "server": "::1"}]),
            ("guests.legacy", [{"vmid": 7, "kind": "lxc", "name": "a", "address": "10.0.0.9"}]), ("guests.legacy", []),
            ("guests.old.node", "pve2"), ("proxmox.insecure", True), ("nginx.shell", ["ssh", "root@x", "101", "--", "a b", "#"]),
            ("proxmox.ca_file", "/etc/: #x"), ("name", "null"), ("portainer.auto_update", {"mode": "none"}), ("new.part", 1),
            ("qdrant.version", "1.20.0"), ("resize.after.cores", 12), ("limits.overcommit", 1.5), ("name", "ünicode"), ("name", "1e3"),
        ],
    )  # fmt: skip
    def test_every_kind_of_value_is_read_back_as_it_was_meant(self, where: str, value: Any) -> None:
        path = tuple(where.split("."))
        made = edit.change(SHIPPED, [Fact(path, value, "somebody")])
        node, expected = YAML(typ="safe").load(made), YAML(typ="safe").load(SHIPPED)
        inner = expected
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
        assert node == expected
        assert made.count("#") >= SHIPPED.count("#") + 1, "a comment was lost"

    def test_a_gap_is_marked_with_the_command_and_no_value(self) -> None:
        found = Found()
        found.gap("qdrant.image", "no registry answers", "docker buildx imagetools inspect qdrant/qdrant")
        text = survey.fresh(found, "2026-01-01")
        assert (
            "  # GAP: no registry answers. This would tell: docker buildx imagetools inspect qdrant/qdrant\n  image: null\n"
            in text
        )

    def test_a_file_that_says_the_same_in_other_words_is_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda name, *_, **__: [(0, 0, 0, "", ("10.0.0.7" if name == "q.lan" else name, 0))]
        )
        found = Found()
        found.add("guests.old", {"vmid": 952, "kind": "lxc", "name": "qdrant", "address": "10.0.0.7"}, "Proxmox")
        found.add("portainer.url", "https://p:9443", "you")
        found.add("name", "chosen-otherwise", "the cluster's name", chosen=True)
        tree = {"guests": {"old": {"vmid": 952, "kind": "lxc", "name": "qdrant", "address": "q.lan", "node": "pve"}}}
        assert differences(found, {**tree, "portainer": {"url": "https://p:9443/"}, "name": "home"}) == []
        tree["guests"]["old"]["address"] = "10.0.0.8"
        apart, *missing = differences(found, tree)
        assert [one.fact.name for one in missing] == ["portainer.url", "name"], "a gap is filled, also by a choice"
        assert str(apart) == "guests.old is address 10.0.0.8 in site.yaml and address 10.0.0.7 by Proxmox"

    def test_the_order_of_guests_and_a_name_that_nobody_can_resolve_are_none_either(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nobody(*_: object, **__: object) -> None:
            raise OSError

        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        found = Found()
        rows = [{"vmid": 950, "address": "10.0.0.50"}, {"vmid": 951, "address": "10.0.0.51"}]
        found.add("guests.legacy", rows, "the plan's ids")
        written = [{"vmid": 951, "address": "b.home.arpa"}, {"vmid": 950, "address": "10.0.0.50"}]
        assert differences(found, {"guests": {"legacy": written}}) == []
        written_for_an_id = [{"vmid": "nobody.home.arpa", "address": "10.0.0.51"}, written[1]]
        assert len(differences(found, {"guests": {"legacy": written_for_an_id}})) == 1
        assert len(differences(found, {"guests": {"legacy": [written[1], {"vmid": 952, "address": "10.0.0.51"}]}})) == 1
