"""The unit file of the watch, and what the service manager is told."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cutover.cli import watching


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
