"""Another proxy in front (HAProxy): the tool puts the gate into an Nginx behind it, and the operator points the proxy there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import requests

from cutover.core.errors import Refused
from lab.processes import Process, listening
from tests.gate.test_controller import UPSERT, Stage
from tests.gate.test_field_inputs import shaped
from tests.support.gateway import ADDRESS, free_port

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")
TEXT = """\
defaults
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend qdrant
    bind {address}:{port}
    default_backend qdrant
backend qdrant
    server one {to}
"""


class Proxy:
    """HAProxy, as an operator points it."""

    def __init__(self, folder: Path) -> None:
        self.port, self.file, self.folder = free_port(), folder / "haproxy.cfg", folder
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    def points_to(self, address: str) -> None:
        self.stop()
        self.file.write_text(TEXT.format(address=ADDRESS, port=self.port, to=address))
        self.process = Process(
            [str(HAPROXY), "-db", "-f", self.file],
            log=self.folder / "haproxy.log",
            cwd=Path("/"),
            ready=listening(ADDRESS, self.port),
            name="haproxy",
        )
        self.process.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(2.0)


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed here")
def test_it_is_pointed_by_hand_and_back(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    with shaped("server { listen A; return 204; }", tmp_path) as way:
        stage = Stage(way, tmp_path, public=proxy.url)
        with stage.stack:
            stage.stack.callback(proxy.stop)
            proxy.points_to(way.old.address)
            files, gate, told = stage.files(), stage.client(edit=False), []

            def does_as_told(said: str) -> None:
                told.append(said)
                proxy.points_to(way.host.gate_address)

            gate.proof.tell = does_as_told
            assert gate.install().changed
            assert f"pass its requests to http://{way.host.gate_address} instead of http://{way.old.address}" in told[0]
            assert gate.contradiction() == ""
            gate.hold(1.2)
            gate.point_to_new()
            assert requests.put(f"{proxy.url}{UPSERT}", data=b"{}", timeout=5).json()["side"] == "new"
            gate.hold(1.2)
            gate.point_to_old()
            with pytest.raises(Refused, match="still passes its requests to the gate"):
                gate.remove()
            proxy.points_to(way.old.address)
            gate.remove()
            assert requests.put(f"{proxy.url}{UPSERT}", data=b"{}", timeout=5).json()["side"] == "old"
            assert {k: v[0] for k, v in stage.files().items()} == {k: v[0] for k, v in files.items()}
