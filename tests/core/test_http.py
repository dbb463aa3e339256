"""What a server answered, as the rest of the tool has it (:mod:`cutover.core.http`)."""

from __future__ import annotations

import copy
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from cutover.core import http
from cutover.core.errors import OutcomeUnknown, Unreachable
from cutover.core.http import Lacks, fields, session
from cutover.core.journal import Journal
from cutover.core.write_guard import WriteGuard


@dataclass
class _Outcome:
    evidence: Any


def test_an_answer_can_be_part_of_what_is_printed() -> None:
    said = fields({"guests": [{"vmid": 952, "status": {"state": "running"}}]}, "Proxmox")
    for copied in (asdict(_Outcome([said]))["evidence"][0], copy.deepcopy(said), json.loads(json.dumps(said))):
        assert copied == said


def test_a_field_that_is_missing_is_missed_in_words() -> None:
    said = fields({"guests": [{"vmid": 952}]}, "Proxmox, asked GET /cluster/resources,")
    with pytest.raises(Lacks, match="Proxmox, asked GET /cluster/resources, did not include 'status' in its response"):
        said["guests"][0]["status"]


# -- a kept connection ------------------------------------------------------------------------------------------------
@contextmanager
def closing(answers: list[int]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers so many requests on each connection in turn, and closes it when the next one has come."""
    asked: list[bytes] = []
    open_: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        for count in answers:
            connection, _ = listening.accept()
            open_.append(connection)
            with connection:
                for number in range(count + 1):
                    got = connection.recv(1 << 16)
                    if not got:
                        break
                    asked.append(got.split(b" ")[0])
                    if number < count:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        server = threading.Thread(target=serve, args=(listening,), daemon=True)
        server.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x", asked
        for connection in open_[-1:]:
            with suppress(OSError):  # the server has closed it itself
                connection.shutdown(socket.SHUT_RDWR)
        server.join(10)


def nobody_waits(url: str) -> None:
    """Take the connection that the server would still answer on."""
    with socket.create_connection(("127.0.0.1", int(url.split(":")[2].removesuffix("/x")))):
        pass


def test_who_reads_asks_again_where_a_kept_connection_is_closed_just_then(tmp_path: Path) -> None:
    with closing([1, 1]) as (url, asked):
        http = session(WriteGuard(Journal(tmp_path, "kept")))
        assert [http.get(url).status_code for _ in range(2)] == [200, 200]
        http.close()
    assert asked == [b"GET"] * 3


def test_who_reads_asks_again_only_once(tmp_path: Path) -> None:
    with closing([1, 0, 0]) as (url, asked):
        asking = session(WriteGuard(Journal(tmp_path, "kept")))
        asking.get(url)
        with pytest.raises(Unreachable, match="closed the connection without an answer"):
            asking.get(url)
        assert asked == [b"GET"] * 3
        asking.close()
        nobody_waits(url)


def test_who_writes_never_asks_again(tmp_path: Path) -> None:
    guard = WriteGuard(Journal(tmp_path, "kept"))
    with closing([1, 1]) as (url, asked):
        http = session(guard)
        http.get(url)
        with pytest.raises(OutcomeUnknown), guard.act("x", "X"):
            http.put(url, json={})
        nobody_waits(url)
    assert asked == [b"GET", b"PUT"]


def test_who_keeps_no_connection_hears_of_every_one_that_ends(tmp_path: Path) -> None:
    with closing([0]) as (url, asked):
        http = session(WriteGuard(Journal(tmp_path, "kept")), headers={"Connection": "close"})
        with pytest.raises(Unreachable):
            http.get(url)
        assert asked == [b"GET"]


# -- TLS that does not come about --------------------------------------------------------------------------------------
def test_a_server_that_ends_while_tls_is_agreed_on_is_not_one_with_a_wrong_certificate() -> None:
    """A server that is just being stopped does that."""
    with closing([0]) as (url, _), pytest.raises(Unreachable) as told:
        session(WriteGuard()).get(url.replace("http:", "https:"))
    assert "the server ended the connection before TLS was agreed on" in str(told.value)
    assert "certificate" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
            "the server ended the connection before TLS was agreed on.",
        ),
        (
            ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)"),
            "the server ended the connection before TLS was agreed on.",
        ),
        (ssl.SSLError(1, "[SSL] internal"), "no TLS was agreed on with the server"),
    ],
)
def test_only_a_certificate_that_was_looked_at_is_called_not_accepted(error: ssl.SSLError, sentence: str) -> None:
    told = http._tls_sentence(requests.exceptions.SSLError(error))
    assert told.startswith(sentence)
    assert "certificate" not in told


def test_a_certificate_for_another_name_is_not_mended_by_its_ca_file() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "IP address mismatch, certificate is not valid for '10.0.0.2'."
    told = http._tls_sentence(requests.exceptions.SSLError(error))
    assert told.endswith("is not valid for '10.0.0.2'). Write the name that it is for into site.yaml, or pin its fingerprint.")
