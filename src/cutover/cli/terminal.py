"""How a run looks and asks on a terminal: results on stdout, progress and questions on stderr.

Names and texts that come from servers are shown without control characters, so that nothing a server answers can move the
cursor or recolour the screen. Colours follow NO_COLOR and are off where nobody looks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from cutover.core.credentials import Credentials
from cutover.core.errors import Refused
from cutover.core.text import for_log, spoken
from cutover.core.ui import Advance, ConfirmedInAdvance

#: Seconds after which something that goes on is shown to who waits for it.
PATIENCE = 2.0
#: Seconds between two lines of progress where nobody looks at a terminal.
LINE_EVERY = 30.0


class _Steady(Console):
    """Goes on in silence when nobody reads any more (``| head``, a closed window): what is said must not end what is done."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def marked(mark: str, text: Text, *, indent: int = 0, style: str = "") -> Padding:
    """A text behind a mark; what wraps stays behind the mark, and words stay whole."""
    hanging = Table.grid(padding=(0, 1, 0, 0))
    hanging.add_column(no_wrap=True)
    hanging.add_column(overflow="fold")  # a digest is shown whole
    hanging.add_row(Text(mark, style=style), text)
    return Padding(hanging, (0, 0, 0, indent))


class Lines:
    """Progress where nobody looks at a terminal: a line every half minute, with what is left at this pace."""

    def __init__(
        self,
        say: Callable[[str], None],
        what: str,
        total: int | None,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._what, self._total, self._unit, self._clock = say, what, total, unit, clock
        self._began = self._said = clock()
        self._done = 0

    def __call__(self, done: int) -> None:
        self._done += done
        now = self._clock()
        if now - self._said < LINE_EVERY or not self._done:
            return
        self._said = now
        rate = self._done / (now - self._began)
        left = f", about {spoken((self._total - self._done) / rate)} left" if self._total and self._total > self._done else ""
        of = f" of {self._total}" if self._total else ""
        self._say(f"{self._what}: {self._done}{of} {self._unit}, {rate:,.0f} a second{left}.")


class Terminal:
    """What a person sees meanwhile: one line a step, a bar for long work when a person looks."""

    def __init__(self, credentials: Credentials, *, quiet: bool = False, plain: bool = False) -> None:
        """``quiet``: only errors are shown. ``plain``: no colours, bars or moving lines, as in a pipe."""
        self._credentials = credentials
        self._quiet = quiet
        # Where a person looks, lines break between words; in a file or a pipe a line is a line.
        looked_at = sys.stderr.isatty() and not plain
        # Text is text: in a fingerprint `:AB:` is no picture.
        self.err = _Steady(
            stderr=True, highlight=False, emoji=False, soft_wrap=not looked_at, force_terminal=False if plain else None
        )
        #: Who also hears what is said (a log).
        self.also: Callable[[str], None] = lambda _: None
        self._moving: Status | None = None
        self._busy = False

    def use(self, credentials: Credentials) -> None:
        """Take these keys out of what is shown."""
        self._credentials = credentials

    def shown(self, text: str) -> str:
        """What may be shown of a text: no secrets, no control characters, no markup."""
        return escape(for_log(self._credentials.redact(text)))

    def say(self, sentence: str) -> None:
        """One line on stderr."""
        self.also(sentence)
        if self._quiet:
            return
        if self.err.is_terminal:
            self.err.print(marked("·", Text.from_markup(self.shown(sentence), emoji=False), style="dim"))
        else:
            self.err.print(f"· {self.shown(sentence)}")

    @contextmanager
    def looking(self) -> Iterator[Callable[[str], None]]:
        """One line that says what is looked at, gone when the results come; lines where nobody looks at a terminal."""
        if self._quiet or not self.err.is_terminal:
            yield self.say
            return
        self._busy = True
        try:
            with self.err.status("") as status:
                yield lambda sentence: status.update(self.shown(sentence))
        finally:
            self._busy = False

    def waits(self, of: tuple[str, str, float, float] | None) -> None:
        """What is waited for longer than :data:`PATIENCE`, why, and how long it may still take; gone when it has come."""
        if of is None:
            if self._moving is not None:
                self._moving.stop()
                self._moving = None
            return
        what, reason, so_far, most = of
        if so_far < PATIENCE or self._busy or self._quiet or not self.err.is_terminal:
            return
        said = self.shown(f"{what}: {reason} ({so_far:.0f} s so far, {most:.0f} s at most)")
        if self._moving is None:
            self._moving = self.err.status(said)
            self._moving.start()
        else:
            self._moving.update(said)

    @contextmanager
    def progress(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        """A bar with the time that is left while a person looks, where it takes longer than :data:`PATIENCE`; a line now and then
        otherwise.
        """
        if self._quiet:
            yield lambda _done: None
            return
        if not self.err.is_terminal:
            yield Lines(self.say, what, total, unit)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self.shown(unit)),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        began = time.monotonic()
        bar = Progress(*columns, console=self.err, transient=True)
        task = bar.add_task(self.shown(what), total=total)

        def advance(done: int) -> None:
            bar.advance(task, done)
            if time.monotonic() - began > PATIENCE and not bar.live.is_started and not self._busy:
                self.waits(None)
                self._busy = True
                bar.start()

        try:
            yield advance
        finally:
            if bar.live.is_started:
                bar.stop()
                self._busy = False


class AskingTerminal(ConfirmedInAdvance):
    """Asks the person at the terminal, unless it was confirmed on the command line."""

    def __init__(self, terminal: Terminal, *names: str, yes: bool) -> None:
        super().__init__(*names, yes=yes)
        self._terminal = terminal

    def to(self, question: str) -> None:
        """Yes or no; no terminal and no ``--yes`` is a no."""
        if not self.yes and sys.stdin.isatty():
            self._terminal.err.print(f"{self._terminal.shown(question)} [b]\\[y/N][/b] ", end="")
            if sys.stdin.readline().strip().lower() in {"y", "yes"}:
                return
            raise Refused("Not done: the answer was not yes.")
        super().to(question)

    def by_name(self, name: str, what_is_lost: str) -> None:
        """The name, typed exactly; ``--yes`` alone is never enough."""
        if name not in self.names and sys.stdin.isatty():
            self._terminal.err.print(f"[b]{self._terminal.shown(what_is_lost)}[/b]")
            self._terminal.err.print(f"Type [b]{self._terminal.shown(name)}[/b] to go on: ", end="")
            if sys.stdin.readline().strip() == name:
                return
            raise Refused(f"Not done: what was typed is not the name {name}.")
        super().by_name(name, what_is_lost)
