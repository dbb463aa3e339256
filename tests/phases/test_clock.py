"""The clock of the operator's computer is set again and again while the plan is carried out: no step goes by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from cutover.core import journal
from cutover.core.journal import Journal
from cutover.state.status import status
from lab.lab import Lab, new_folder
from lab.operator import Operator
from lab.state_snapshot import differences, picture

#: What no undo takes away: volumes are removed by who types their names, a disk does not shrink, and a backup is kept.
KEPT = ("docker.volumes", "guests.1001.config.scsi0", "firewall.backups")


@pytest.fixture
def lab(lab_parent: Path) -> Iterator[Lab]:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed-of-few") as made:
        yield made


class Clock:
    """A clock that is right, two hours ahead and two hours behind, at every third time that somebody asks it.

    The servers that are processes of their own, and Proxmox, keep their time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self._right = 0, False
        self._hours = cycle([0, 2, -2])
        real, clock = time.time, self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.now(tz) + timedelta(seconds=clock.ahead())

        monkeypatch.setattr(time, "time", lambda: real() + self.ahead())
        monkeypatch.setattr(journal, "datetime", Moved)

    def ahead(self) -> float:
        """Seconds."""
        if self._right:
            return 0.0
        self.asked += 1
        return next(self._hours) * 3600.0

    @contextmanager
    def right(self) -> Iterator[None]:
        """Who looks at the lab has a clock of their own."""
        self._right = True
        yield
        self._right = False


@pytest.mark.slow
def test_a_clock_that_is_set_at_every_point_changes_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, before = Operator(lab), picture(lab)
    clock = Clock(monkeypatch)
    for verb in ("backup", "resize", "deploy", "gate", "copy", "switch", "follow"):
        done = operator.does(verb)
        if verb == "switch":
            assert done.outcome is not None
            assert 0 < done.outcome.facts["held_seconds"] < 10
        looking = lab.run(execute=False)
        assert status(looking).state != "unknown", verb
        looking.close()
    with clock.right():
        moved = picture(lab)
    assert moved["new"] == moved["old"]
    operator.does("back")
    for verb in ("copy", "gate", "deploy", "resize"):
        operator.does(verb, undo=True)
    with clock.right():
        left = differences(before, picture(lab))
    assert [one for one in left if not one.startswith(KEPT)] == []
    at = [entry.at for entry in Journal(lab.state_dir, lab.site.name).entries()]
    assert at != sorted(at), "the journal goes by the lines, not by their times"
