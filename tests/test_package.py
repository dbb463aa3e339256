"""Installed as a package, outside of this repository, the tool has what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What the wheel holds, put where an installer would put it."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, tmp_path / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in wheel.get("force-include", {}).items():
        put = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        put(ROOT / source, tmp_path / target)
    return tmp_path


def run(installed: Path, code: str) -> str:
    env = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env=env, capture_output=True, text=True, timeout=120, check=True
    ).stdout


def test_the_gates_files_are_in_it(installed: Path) -> None:
    code = "from cutover.gate import templates as g; print(g.SHIPPED, g.NAME, len(g.render(folder=g.FOLDER, old=g.OLD, new=g.NEW).checksum))"
    folder, *names = run(installed, code).split()
    assert Path(folder).is_relative_to(installed)
    assert names == ["qdrant-gate.conf", "16"]


def test_the_command_is_called_cutover(installed: Path) -> None:
    module, _, name = PROJECT["project"]["scripts"]["cutover"].partition(":")
    said = run(installed, f"import sys; sys.argv = ['cutover', '--version']; from {module} import {name}; {name}()")
    assert said.strip() == PROJECT["project"]["version"]
