"""A server that loses its power while the operator works: at the n-th line of the journal, and back after a moment.

As in :mod:`lab.crash` the points are counted, not listed. The line is on the disk when the power goes, so an intent's act meets a
server that is not there, and an outcome's next act one that is just coming back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from cutover.context import Context
from cutover.core.journal import Entry, Journal
from lab.machines import Machine
from lab.processes import listening
from lab.wait import wait_for

#: How long the server is away: longer than it takes to ask it once, shorter than anybody waits.
AWAY_SECONDS = 0.4


class PowerCut:
    """Cuts the power of a machine at a line of the journal; ``happened`` says whether there was such a line.

    ``ports`` are those on which it may serve: a container is back a moment after its machine.
    """

    def __init__(self, machine: Machine, line: int, ports: Sequence[int] = ()) -> None:
        self._machine, self._line = machine, line
        self._ready = [listening(machine.address, port) for port in ports]
        self._count = 0
        self._back: threading.Thread | None = None

    @property
    def happened(self) -> bool:
        """Whether the run came to that line."""
        return self._back is not None

    def prepare(self, run: Context) -> None:
        """Let this run's journal count its lines."""
        if run.execute:
            journal = _Counted(run.state_dir, run.site.name, redact=run.credentials.redact)
            journal.written = self._written
            journal.lock()
            run.__dict__["journal"] = journal  # in place of the one that would be made when it is first needed

    def _written(self) -> None:
        self._count += 1
        if self._count == self._line:
            self._ready = [ready for ready in self._ready if ready() is None]
            self._machine.stop(hard=True)
            self._back = threading.Thread(target=self._on_again, name="power")
            self._back.start()

    def _on_again(self) -> None:
        threading.Event().wait(AWAY_SECONDS)
        self._machine.start()

    def wait(self) -> None:
        """Return when the machine is back, and serves as it did."""
        if self._back is not None:
            self._back.join(60)
            assert not self._back.is_alive(), f"{self._machine.name} does not come back"
            for ready in self._ready:
                wait_for(ready, deadline=20, what=f"The return of {self._machine.name}")


class _Counted(Journal):
    """A journal that tells of every line."""

    written: Any = staticmethod(lambda: None)

    def _write(self, *words: Any, **rest: Any) -> Entry:
        entry = super()._write(*words, **rest)
        self.written()
        return entry
