"""What a reload costs is said of the servers that users of Qdrant come in by, and of this nginx."""

from __future__ import annotations

import pytest

from cutover.gate import templates
from cutover.gate.nginx_conf import Directive, assembled
from cutover.gate.reload import closes_none, ports
from cutover.gate.templates import Build

OLDER, NEWER = (1, 22, 1), (1, 31, 4)


def _passing(http: str, server: str = "", location: str = "") -> list[Directive]:
    text = f"http {{ {http} server {{ listen 8443 ssl; listen [::]:6333; {server} location / {{ {location} proxy_pass http://q; }} }} }}"
    found = assembled("/etc/nginx/nginx.conf", {"/etc/nginx/nginx.conf": text})
    return [one for one in found.walk() if one.name == "proxy_pass"]


@pytest.mark.parametrize(
    ("http", "server", "location", "version", "said"),
    [
        ("", "", "", NEWER, ""),
        ("keepalive_timeout 65;", "", "", NEWER, ""),
        ("keepalive_timeout 0;", "", "", OLDER, "keepalive_timeout 0"),
        ("keepalive_timeout 0;", "keepalive_timeout 65;", "", OLDER, ""),
        ("", "keepalive_timeout 65;", "keepalive_timeout 0s;", OLDER, "keepalive_timeout 0s"),
        ("keepalive_min_timeout 3s;", "", "", NEWER, "keepalive_min_timeout 3s"),
        ("keepalive_min_timeout 3s;", "", "", OLDER, ""),
        ("keepalive_min_timeout 3s;", "keepalive_min_timeout 0;", "", NEWER, ""),
        ("server { listen 1; keepalive_min_timeout 3s; }", "", "", NEWER, ""),
    ],
)
def test_no_request_is_lost_only_where_no_connection_is_closed(
    http: str, server: str, location: str, version: tuple[int, ...], said: str
) -> None:
    assert closes_none(_passing(http, server, location), version) == said


def test_one_server_of_several_that_closes_them_is_enough() -> None:
    assert closes_none([*_passing("keepalive_timeout 0;"), *_passing("")], OLDER) == ""


def test_the_connections_of_every_port_of_theirs_count() -> None:
    assert ports(_passing("")) == {8443, 6333}


@pytest.mark.parametrize(
    ("version", "said", "there"), [(NEWER, [], True), (NEWER, ["keepalive_min_timeout"], False), (OLDER, [], False)]
)
def test_the_gate_lets_a_later_reload_close_none_where_nginx_can_and_nobody_said_otherwise(
    version: tuple[int, ...], said: list[str], there: bool
) -> None:
    text = templates.render(folder="/srv/gate", old="10.0.0.1:1", new="10.0.0.2:1", build=Build(version, "", said)).text
    assert ("\nkeepalive_min_timeout 3s;" in text) is there
