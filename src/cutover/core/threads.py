"""Several questions at once, whose answers are needed together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any


def side_by_side(tasks: Sequence[Any], threads: int = 8) -> list[Any]:
    """Run the tasks in threads and return their results in order. After an error no other task is begun, and it is raised when
    those under way have ended: a server that is gone is not asked a thousand times.
    """
    if len(tasks) <= 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(max_workers=min(threads, len(tasks))) as pool:
        waiting = [pool.submit(task) for task in tasks]
        try:
            wait(waiting, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [one.result() for one in waiting]  # they begin in this order, so the error comes before what was not begun
