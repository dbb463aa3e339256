"""The unit file of the watch, and what the service manager is told."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cutover.cli import terminal, watching


def test_the_unit_names_this_installation_and_what_it_may_write(tmp_path: Path) -> None:
    odd = tmp_path / "a site" / "100%"
    text = watching.unit(odd / "site.yaml", odd / ".state")
    assert f"ExecStart={sys.executable} -m cutover follow --watch --execute --site '" in text
    assert "100%%" in text and "ReadWritePaths=" in text and "\\x20site" in text
    assert "KEY=" not in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "qdrant-cutover.service"
    file.write_text(watching.unit(tmp_path / "site.yaml", tmp_path / ".state"))
    said = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, file.name in said.stderr) == (0, False), said.stderr


def test_the_service_manager_is_told_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching.to_systemd("READY=1")  # nobody started this as a service
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        watching.to_systemd("READY=1\nSTATUS=all is well")
        assert manager.recv(200) == b"READY=1\nSTATUS=all is well"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    watching.to_systemd("STOPPING=1")


def test_progress_without_a_terminal_is_a_line_now_and_then_with_what_is_left() -> None:
    at = [0.0]
    said: list[str] = []
    advance = terminal.Lines(said.append, "Comparing docs", 1000, "records", clock=lambda: at[0])
    for now, done in ((1.0, 100), (40.0, 300), (41.0, 100), (100.0, 500)):
        at[0] = now
        advance(done)
    assert said == [
        "Comparing docs: 400 of 1000 records, 10 a second, about 60 s left.",
        "Comparing docs: 1000 of 1000 records, 10 a second.",
    ]
