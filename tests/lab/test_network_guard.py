"""The tests' own process reaches this machine and nothing else (:mod:`lab.network_guard`)."""

from __future__ import annotations

import socket
import subprocess

import pytest
import requests

from lab.network_guard import here


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.200.0.152", "::1", "198.18.4.101", "198.19.0.2", "0.0.0.0", "", None, "localhost", b"127.0.0.2"]
)
def test_of_this_machine(host: object) -> None:
    assert here(host)


@pytest.mark.parametrize("host", ["10.0.0.152", "8.8.8.8", "fd00::1", "nginx.home.arpa", b"pve.home.arpa", "localhost.example"])
def test_not_of_this_machine(host: object) -> None:
    assert not here(host)


def test_nobody_is_asked_for_a_name() -> None:
    with pytest.raises(socket.gaierror, match=r"a test asked for 'nowhere\.invalid'"):
        socket.getaddrinfo("nowhere.invalid", 80)


def test_nobody_is_reached() -> None:
    """240.0.0.0/4 has no way to anywhere, should the guard be gone."""
    with pytest.raises(requests.ConnectionError, match=r"240\.0\.0\.1', which is not of this machine"):
        requests.get("http://240.0.0.1/", timeout=2)
    with socket.socket() as one, pytest.raises(OSError, match=r"a test wanted to reach 240\.0\.0\.1"):
        one.connect(("240.0.0.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, pytest.raises(OSError, match="a test wanted to reach"):
        one.sendto(b"x", ("240.0.0.1", 53))


def test_no_shell_is_opened_elsewhere() -> None:
    with pytest.raises(OSError, match=r"a test wanted a shell elsewhere: ssh root@nowhere\.invalid true"):
        subprocess.run(["ssh", "root@nowhere.invalid", "true"], check=False)
