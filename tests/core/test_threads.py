"""Several questions at once."""

from __future__ import annotations

import time
from functools import partial

import pytest

from cutover.core.threads import side_by_side


def test_after_an_error_no_other_task_is_begun() -> None:
    """A server that is gone is not asked once more for each of a thousand collections."""
    begun: list[int] = []

    def task(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise LookupError(number)
        time.sleep(0.02)

    with pytest.raises(LookupError):
        side_by_side([partial(task, number) for number in range(1000)], threads=2)
    assert len(begun) < 1000
