"""Fixtures that unit tests of several systems share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No example of a property may take 0.2 s only: on a busy machine any may, and nothing is measured here.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "recorded"


@pytest.fixture(scope="session")
def recorded_folder() -> Path:
    """The folder of exchanges recorded from real servers; the test is skipped where it is not beside the checkout."""
    if not RECORDED.is_dir():
        pytest.skip("the recorded exchanges are not beside this checkout")
    return RECORDED


@pytest.fixture(scope="session")
def recorded(recorded_folder: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Read one file of recorded exchanges: `recorded("qdrant-1.18.3.jsonl")` is a list of exchanges, in order."""

    def read(name: str) -> list[dict[str, Any]]:
        path = recorded_folder / name
        if not path.is_file():
            pytest.skip(f"the recorded exchanges {name} are not beside this checkout")
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]

    return read
