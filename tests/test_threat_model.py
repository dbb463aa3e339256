"""Every row of the pages that name tests says which test shows it, and that test is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("threat-model", "proxmox")
ROWS = [
    pytest.param(line, id=f"{page}-{number}")
    for page in PAGES
    for number, line in enumerate((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines(), start=1)
    if line.startswith("| ") and not line.endswith(" shown by |")
]


@pytest.mark.parametrize("page", PAGES)
def test_there_are_rows(page: str) -> None:
    assert len([one for one in ROWS if str(one.id).startswith(page)]) > 15


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_what_shows_it(row: str) -> None:
    shown = row.rstrip("| ").rsplit("|", 1)[-1]
    named = re.findall(r"`(tests/[^`]+)`", shown)
    assert named or "it is said, not shown" in shown, "no test"
    for one in named:
        path, _, name = one.partition("::")
        assert (ROOT / path).exists(), path
        assert not name or f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), one


def test_what_runs_every_night_is_what_security_md_says() -> None:
    night = (ROOT / ".github/workflows/attacks.yml").read_text(encoding="utf-8")
    said = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for path in set(re.findall(r"tests/\S+\.py", said)):
        assert path in night, path
    assert "./scripts/hostile" in night and "./scripts/hostile" in said
