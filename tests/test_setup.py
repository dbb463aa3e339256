"""What the launchers install is what the lock files name, and nothing that is fetched behind their back."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_package_can_clone_something_while_it_is_built(tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/words\ngit clone https://127.0.0.1:1/compose {tmp_path}/clone 2> {tmp_path}/said\ntrue\n'
    )
    python.chmod(0o755)
    script = f"source {ROOT}/scripts/setup.sh; prepare_python runtime"
    subprocess.run(["bash", "-euc", script], env={"CUTOVER_VENV": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True, timeout=30)
    assert "--require-hashes" in (tmp_path / "words").read_text()
    assert "transport 'https' not allowed" in (tmp_path / "said").read_text()
