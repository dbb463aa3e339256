"""What runs beside the tests - the linters, the same features on real containers - and is one of the run's processes until it ends.

``scripts/test`` starts it, and names the file that it writes to and keeps locked. As long as that is locked the last of pytest's
processes waits, so that as many work as were asked for; what was said beside stands before pytest's own last line.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

#: The variable that names the file; a pytest that a test starts knows nothing of it.
FILE = "TESTS_BESIDE"


def ended(file: Path) -> str:
    """What was said beside, once it has ended."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        fcntl.flock(opened, fcntl.LOCK_SH)
        return opened.read()


class LastProcess:
    """The last of pytest's processes, which begins when what runs beside has ended."""

    def __init__(self, file: Path) -> None:
        self._file: Path | None = file

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            ended(file)


class Whole:
    """The process that shows what the others did."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("linters, and what was shown on real containers")
        terminalreporter.write_line(ended(self._file).strip() or "The linters found nothing; there are no containers here.")


def share(config: pytest.Config) -> None:
    """Let this process do its part."""
    name = os.environ.get(FILE, "")
    worker = getattr(config, "workerinput", None)
    if worker is not None or not config.getoption("numprocesses", None):
        os.environ.pop(FILE, None)
    if not name:
        return
    if worker is None:
        config.pluginmanager.register(Whole(Path(name)), "beside")
    elif 1 < worker["workercount"] == int(worker["workerid"].removeprefix("gw")) + 1:
        config.pluginmanager.register(LastProcess(Path(name)), "beside")
