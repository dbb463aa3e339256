"""Every row of docs/threat-model.md says which test shows it, and that test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not re.match(r"\| (key or file|what they could send) \|", line)
]


def test_there_are_rows() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=[re.sub(r"\W+", "-", row.split("|")[1])[:40] for row in ROWS])
def test_a_row_names_what_shows_it(row: str) -> None:
    shown = row.rstrip("| ").rsplit("|", 1)[-1]
    named = re.findall(r"`(tests/[^`]+)`", shown)
    assert named or "it is said, not shown" in shown, "no test"
    for path in named:
        assert (ROOT / path).exists(), path


def test_what_runs_every_night_is_what_security_md_says() -> None:
    night = (ROOT / ".github/workflows/attacks.yml").read_text(encoding="utf-8")
    said = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for path in set(re.findall(r"tests/\S+\.py", said)):
        assert path in night, path
    assert "./scripts/hostile" in night and "./scripts/hostile" in said
