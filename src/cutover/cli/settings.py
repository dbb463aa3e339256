"""What is said before the verb and holds for every command: where keys lie, how much is said, and who else is told."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cutover.core import files, trace, wait
from cutover.core.credentials import NAMES
from cutover.core.errors import WrongUsage
from cutover.core.journal import now
from cutover.core.key_files import Gathered, gather
from cutover.core.notify import Notifier
from cutover.core.shell import words
from cutover.core.text import for_log

if TYPE_CHECKING:
    from cutover.cli.output import Output


@dataclass(frozen=True)
class Settings:
    """The options before the verb."""

    env_file: Path | None = None
    verbose: bool = False
    log: Path | None = None
    plain: bool = False
    notify_command: str = ""
    way_back_minutes: float = 10.0

    @classmethod
    def current(cls) -> Settings:
        """Those of the command that runs; the usual ones where none does (a test that calls a function)."""
        return _CURRENT.get() or cls()

    def apply(self) -> None:
        """Let the command that follows have them."""
        _CURRENT.set(self)

    def keys(self) -> Gathered:
        """The keys from everywhere."""
        return gather(self.env_file)

    @contextmanager
    def told(self, output: Output) -> Iterator[None]:
        """Show every request while the block lasts, where that was asked for, and keep it in the log."""
        with ExitStack() as stack:
            stack.enter_context(wait.observed(output.terminal.waits))
            if self.verbose:
                stack.enter_context(
                    trace.listening(lambda line: output.terminal.err.print(f"[dim]» {output.terminal.shown(line)}[/dim]"))
                )
            if self.log is not None:
                keep = _Log(self.log, output)
                stack.enter_context(trace.listening(keep.line))
                output.terminal.also = keep.line
            yield

    @contextmanager
    def notices(self, output: Output) -> Iterator[Notifier]:
        """Whoever is told what happens; nobody where nothing was named. What was told is sent when the block ends."""
        keys = output.credentials
        command = words(self.notify_command, "--notify-command")
        made = Notifier(keys.get("NOTIFY_URL"), command, keys, output.terminal.say)
        try:
            yield made
        finally:
            made.close()


_CURRENT: ContextVar[Settings | None] = ContextVar("settings", default=None)


class _Log:
    """A file for the operator alone, a line an event: ``2026-01-01T20:00:00.000Z what``. A log that cannot grow stops nothing."""

    def __init__(self, path: Path, output: Output) -> None:
        self._path, self._output = path, output
        try:
            files.append(path, "", sync=False)
        except OSError as error:
            raise WrongUsage(f"The log {path} cannot be written: {files.why(error)}.", "Name another one after --log.") from None

    def line(self, text: str) -> None:
        """Add one line."""
        with suppress(OSError):
            files.append(self._path, f"{now()} {for_log(self._output.credentials.redact(text))}\n", sync=False)


def plain_asked() -> bool:
    """Whether nothing but lines is wanted: ``--plain``, or a terminal that can no more (``TERM=dumb``)."""
    return Settings.current().plain or os.environ.get("TERM") == "dumb"


def exports(keys: Gathered, step: str) -> Iterator[str]:
    """Lines to fill in, for a shell or for a file that ``--env-file`` reads; no value of a key that is set is shown."""
    yield "# Fill in what your site has and leave the rest out. As a file (chmod 600) it is read by --env-file."
    for name, meaning in NAMES.items():
        if name in keys.origin:
            yield f"# {name} is set (from {keys.origin[name]})"
            continue
        value = f"cutover@pve!{step}" if name == "PROXMOX_TOKEN_ID" else ""
        yield f"export {name}={shlex.quote(value)}  # {meaning}"
