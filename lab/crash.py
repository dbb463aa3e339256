"""An operator whose computer dies: carries out a verb and is killed at the n-th line of the journal.

``python -m lab.crash`` is started by tests as a process of its own. With ``--before`` it dies just before the line would be
written (the act is done, its outcome is not yet on disk), otherwise just after (the intent is on disk, the act has not begun). The
points are counted, not listed, so a new step is covered by the day it is written. Exits 0 when there was no such line any more.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cutover import runner
from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError
from cutover.core.journal import Journal
from cutover.core.ui import ConfirmedInAdvance
from cutover.site.load import load


def die_at(line: int, *, before: bool, act: str = "") -> None:
    """Arrange the death of this process at a line of the journal, counted from its start; with ``act``, only lines of that act count."""
    write = Journal._write
    count = 0

    def counted(self: Journal, *args: Any, **rest: Any) -> Any:
        nonlocal count
        meant = not act or act in args
        count += meant
        here = meant and count == line
        if here and before:
            os.kill(os.getpid(), signal.SIGKILL)
        entry = write(self, *args, **rest)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

    Journal._write = counted  # type: ignore[method-assign]


def main() -> int:
    """Carry out the verb; the exit code is the command's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("--undo", action="store_true")
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--agree", action="append", default=[])
    parser.add_argument("--at", type=int, default=0, help="die at this line of the journal; 0: live")
    parser.add_argument("--before", action="store_true")
    parser.add_argument("--act", default="", help="of the lines of this act only")
    options = parser.parse_args()
    die_at(options.at, before=options.before, act=options.act)
    confirm = ConfirmedInAdvance(*options.agree)
    run = Context(load(options.site), Credentials.from_env(), options.state_dir, execute=True, confirm=confirm)
    run.proxmox.poll = 0.05
    try:
        runner.carry_out(options.verb, run, undo=options.undo)
    except CutoverError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        run.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
