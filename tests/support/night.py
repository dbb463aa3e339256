"""Tables whose every row starts a server or kills a run: some rows are tried for every change, the others every night."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def every_nth_by_day(rows: Iterable[Any], nth: int) -> list[Any]:
    """The rows of a table for ``parametrize``; all but the first and every ``nth`` after it are left for the night."""
    found = []
    for number, row in enumerate(rows):
        values = row if isinstance(row, tuple) else (row,)
        found.append(row if number % nth == 0 else pytest.param(*values, marks=pytest.mark.slow))
    return found
