"""The gate on a host that has only busybox: its shell, its small tools, and nothing of GNU's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.gate.test_controller import UPSERT, Stage
from tests.support.gateway import gateway, until

BUSYBOX = shutil.which("busybox")


def only_busybox(folder: Path) -> list[str]:
    """What leads to busybox' shell, with nothing but its applets to be found by name."""
    folder.mkdir(mode=0o755)
    for name in subprocess.run([str(BUSYBOX), "--list"], capture_output=True, text=True, check=True).stdout.split():
        (folder / name).symlink_to(str(BUSYBOX))
    if not (folder / "su").exists():  # Debian leaves it out of its busybox, Alpine does not
        (folder / "su").symlink_to("/bin/su")
    return ["/usr/bin/env", "-i", f"PATH={folder}"]


def _in_seconds(stage: Stage) -> dict[str, tuple[Any, ...]]:
    """The operator's files; busybox keeps times in whole seconds."""
    return {path: (*facts[:4], facts[4] // 10**9) for path, facts in stage.files().items()}


@pytest.mark.skipif(BUSYBOX is None, reason="busybox is not installed here")
def test_a_whole_evening_on_busybox(tmp_path: Path) -> None:
    with gateway(with_gate=False) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            gate = stage.client(shell=only_busybox(way.host.root / "busybox"))
            assert gate.shell.read("readlink -f /proc/$$/exe").text == str(Path(str(BUSYBOX)).resolve())
            files = _in_seconds(stage)
            gate.install()
            gate.start_recording()
            sent = {f"{UPSERT}&n={n}": os.urandom(size) for n, size in enumerate((0, 1, 70_000))}
            for uri, body in sent.items():
                stage.put(body, path=uri)
            until(lambda: len(gate.read_log(0)) == len(sent), "every write in the log")
            entries = list(gate.read_log(0))
            assert {entry.uri: body for entry, body in gate.bodies(entries)} == sent
            gate.forget_bodies(entries)
            assert list(way.bodies.iterdir()) == []
            gate.hold(1.2)
            gate.drain(1.0)
            gate.point_to_new()
            assert stage.put().json()["side"] == "new"
            assert gate.contradiction() == ""
            gate.hold(0.3)
            until(lambda: not gate.state().held, "the end of a hold that nobody ends")
            gate.hold(1.2)
            gate.point_to_old()
            assert stage.put().json()["side"] == "old"
            gate.stop_recording()
            assert gate.state().free_mb > 0
            gate.remove()
            assert _in_seconds(stage) == files
