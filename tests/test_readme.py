"""Every command of the README is run by a test: here, where it needs no site, or where the table says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from cutover.phases import registry

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?s)```sh\n(.+?)```", README)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
ELSEWHERE = {
    "./scripts/rehearse": "tests/tools/test_rehearsal.py",
    "./scripts/test": "tests/test_setup.py",  # what it sets up; what runs this test is it
    "uv tool install .": "tests/test_package.py",  # the wheel that it builds
    "cutover init": "tests/phases/test_evening.py",
    "cutover check --moment before": "tests/phases/test_evening.py",
}


def test_every_command_in_a_block_is_run_as_it_stands_there(tmp_path: Path) -> None:
    here = [command for command in COMMANDS if command not in ELSEWHERE]
    assert set(COMMANDS) == {*here, *ELSEWHERE}
    assert all((ROOT / place).is_file() for place in ELSEWHERE.values())
    (tmp_path / "site.yaml").write_bytes((ROOT / "site.yaml").read_bytes())
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "cutover").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cutover "$@"\n')
    (bin_ / "cutover").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUTOVER_", "QDRANT_", "PROXMOX_"))}
    env = kept | {"PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        ["sh", "-eux"], input="\n".join(here), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "keys.env").stat().st_mode & 0o777 == 0o600
    assert "The plan for home-lab" in done.stdout


def test_every_command_in_a_sentence_exists() -> None:
    named = set(re.findall(r"`cutover ([a-z]+)", README)) | {"finish", "decommission", "settle"}
    evening = re.search(r"The evening is (.+?), each with", README, re.DOTALL)
    assert evening is not None
    steps = re.findall(r"`(?:cutover )?([a-z]+)`", evening[1])
    assert steps == [name for name in registry.NAMES if name in steps]
    assert named - set(registry.NAMES) <= {"status", "report"}


def test_the_picture_is_of_these_commands() -> None:
    picture = (ROOT / "docs/terminal.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    for words in ("cutover switch --execute", "Writes were held for", "Waiting for:", "cutover back --execute"):
        assert words in picture, words


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            file, _, head = target.partition("#")
            text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
            assert (ROOT / file).exists(), target
            assert not head or f"## {head.replace('-', ' ')}" in text.lower(), target
