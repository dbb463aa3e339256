"""Who may work on a site: one command at a time, and one that gives way to the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cutover.core import journal
from cutover.core.errors import Refused
from cutover.core.journal import Journal
from cutover.core.wait import Not, wait_until


def test_a_process_that_gives_way_is_waited_for_and_stays_away_until_the_other_has_ended(tmp_path: Path) -> None:
    watcher, other = Journal(tmp_path, "home"), Journal(tmp_path, "home")
    watcher.lock(gives_way=True)
    assert not watcher.wanted()

    def gives_way() -> None:
        wait_until(lambda: watcher.wanted() or Not("nobody asks"), deadline=60, what="A question for the journal", every=0.01)
        watcher.unlock()

    with ThreadPoolExecutor() as pool:
        given = pool.submit(gives_way)
        other.lock()
        given.result()
    assert watcher.wanted()
    with pytest.raises(Refused, match="Another command is working"):
        watcher.lock(gives_way=True)
    with pytest.raises(Refused, match="Another command is working"):  # the one that has it gives way to nobody
        Journal(tmp_path, "home").lock()
    other.unlock()
    assert not watcher.wanted()
    watcher.lock(gives_way=True)
    watcher.unlock()


def test_who_asks_a_process_that_does_not_give_way_in_time_is_refused_and_asks_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "GIVEN_WITHIN", 0.0)
    watcher, other = Journal(tmp_path, "home"), Journal(tmp_path, "home")
    watcher.lock(gives_way=True)
    with pytest.raises(Refused, match="gives way to other commands"):
        other.lock()
    assert not watcher.wanted()
