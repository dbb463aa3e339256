"""The gate in an Nginx that runs in a container, whose server file is mounted by itself: it cannot be renamed over."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from cutover.core.wait import Not, wait_until
from lab.containers import host, images
from lab.containers.lab import turn as the_engine
from lab.echo import Echo
from lab.nginx import MAIN, QDRANT, nginx_binary
from tests.gate.test_controller import Stage
from tests.support.gateway import ADDRESS, NEW, OLD, free_port, session, until

pytestmark = [pytest.mark.skipif(bool(host.why_not()), reason=host.why_not() or "Docker answers"), pytest.mark.engine]
FOLDERS = " ".join(f"/srv/{name}" for name in ("run", "var/log/nginx", "var/cache/nginx"))


@pytest.fixture
def turn() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def way(turn: ExitStack) -> Iterator[Any]:
    """What the gate's tests have of a host, of a container: where its servers are, and how one gets into it."""
    folder, binary = Path(tempfile.mkdtemp(prefix="gate-")), str(nginx_binary())
    folder.chmod(0o755)
    old, new = Echo("old", OLD, free_port(OLD)), Echo("new", NEW, free_port(NEW))
    port, gate_port = free_port(), free_port()
    main = MAIN.format(user="user www-data;\n", workers=2, root="/srv").replace("conf.d/*.conf", "/etc/nginx/conf.d/*.conf")
    (folder / "nginx.conf").write_text(main)
    (folder / "default.conf").write_text(QDRANT.format(address=ADDRESS, port=port, old=old.address))
    (folder / "gate").mkdir(mode=0o755)
    mounts = {
        "nginx.conf": "/etc/nginx/nginx.conf:ro",
        "default.conf": "/etc/nginx/conf.d/default.conf",
        "gate": "/var/lib/qdrant-gate",
    }
    turn.enter_context(the_engine())
    engine = docker.from_env()
    turn.callback(engine.close)
    container = engine.containers.run(
        images.base_image(engine),
        ["sh", "-c", f"mkdir -p {FOLDERS}; exec {binary} -c /etc/nginx/nginx.conf -g 'daemon off;'"],
        network_mode="host",
        volumes=[f"{folder}/{name}:{to}" for name, to in mounts.items()],
        detach=True,
        labels={host.LABEL: host.owner()},
    )
    where = ["-H", os.environ["DOCKER_HOST"]] if "DOCKER_HOST" in os.environ else []
    facts = {
        "shell": ["docker", *where, "exec", "-i", str(container.id)],
        "binary": binary,
        "main_config": "/etc/nginx/nginx.conf",
        "http_folder": "/etc/nginx/conf.d",
        "gate_folder": "/var/lib/qdrant-gate",
        "gate_address": f"{ADDRESS}:{gate_port}",
        "worker_user": "www-data",
        "reload": [binary, "-c", "/etc/nginx/nginx.conf", "-s", "reload"],
    }
    try:
        old.start()
        new.start()
        yield SimpleNamespace(
            folder=folder, old=old, new=new, url=f"http://{ADDRESS}:{port}", host=SimpleNamespace(facts=lambda: facts)
        )
    finally:
        container.remove(force=True)
        old.stop()
        new.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_whole_evening_in_a_container(way: Any, tmp_path: Path) -> None:
    def answers() -> bool | Not:
        try:
            with session() as client:
                return client.get(way.url, timeout=2).status_code == 200 or Not("another answer")
        except OSError as error:
            return Not(str(error))

    wait_until(answers, deadline=30, what="Nginx in its container")
    file = way.folder / "default.conf"
    before, stage = file.read_bytes(), Stage(way, tmp_path)
    with stage.stack:
        gate = stage.gate
        gate.install()
        assert gate.installer.addresses.gate.encode() in file.read_bytes(), "written in place: the file outside is the one inside"
        gate.start_recording()
        stage.put(b"recorded")
        until(lambda: len(gate.read_log(0)) == 1, "the write in the log")
        assert [body for _, body in gate.bodies(gate.read_log(0))] == [b"recorded"]
        gate.hold(1.2)
        gate.point_to_new()
        assert stage.put().json()["side"] == "new"
        assert gate.contradiction() == ""
        gate.hold(1.2)
        gate.point_to_old()
        gate.stop_recording()
        gate.remove()
        assert file.read_bytes() == before
        assert stage.put().json()["side"] == "old"
        assert gate.state().installed is False
