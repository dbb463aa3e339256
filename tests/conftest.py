"""Fixtures that unit tests of several systems share."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No example of a property may take 0.2 s only: on a busy machine any may, and nothing is measured here.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

RECORDED = Path(__file__).resolve().parent / "recorded"


@pytest.fixture(scope="session")
def recorded_folder() -> Path:
    """The folder of exchanges recorded from real servers; stand-ins are held to them."""
    return RECORDED


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], list[dict[str, Any]]]:
    """Read one file of recorded exchanges: `recorded("qdrant-1.18.3.jsonl")` is a list of exchanges, in order."""

    def read(name: str) -> list[dict[str, Any]]:
        with gzip.open(RECORDED / f"{name}.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]

    return read
