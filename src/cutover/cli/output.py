"""What a command prints: results on stdout, for people as lines and tables, or all of it as one JSON object."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutover.cli.terminal import Terminal, marked
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError
from cutover.core.journal import now
from cutover.core.notify import Notifier

#: Characters of a terminal's line within which a sentence can be read.
LEAST_WIDTH = 20


@dataclass
class Output:
    """What one command prints: for people on stdout, or everything as one JSON object."""

    credentials: Credentials
    terminal: Terminal
    as_json: bool
    out: Console
    data: dict[str, Any]
    notices: Notifier = field(default_factory=Notifier)

    @classmethod
    def of(cls, verb: str, as_json: bool, execute: bool = False, *, plain: bool = False) -> Output:
        credentials = Credentials.from_env()
        if isinstance(sys.stdout, TextIOWrapper):  # JSON is UTF-8; and no mark or name that cannot be shown ends a command
            sys.stdout.reconfigure(encoding="utf-8" if as_json else None, errors="backslashreplace")
        out = Console(
            highlight=False, emoji=False, soft_wrap=plain or not sys.stdout.isatty(), force_terminal=False if plain else None,
        )  # fmt: skip
        terminal = Terminal(credentials, quiet=as_json, plain=plain)
        return cls(credentials, terminal, as_json, out, {"verb": verb, "executed": execute})

    def use(self, credentials: Credentials) -> None:
        """Go on with other keys, such as were typed: they are taken out of everything that is shown from now on."""
        self.credentials = credentials
        self.terminal.use(credentials)

    def line(self, text: str = "", style: str = "", *, indent: int = 0, mark: str = "") -> None:
        """One line for people, after a ``mark``; on a terminal what wraps stays indented, in a pipe a line is a line."""
        if self.as_json:
            return
        shown = Text.from_markup(self.terminal.shown(text), style=style, emoji=False)
        if self.out.is_terminal and mark:
            self.out.print(marked(mark, shown, indent=indent, style=style))
        elif self.out.is_terminal:
            self.out.print(Padding(shown, (0, 0, 0, indent)))
        else:
            self.out.print(" " * indent, f"{mark} " if mark else "", shown, sep="")

    def rows(self, rows: Sequence[Sequence[tuple[str, str]]]) -> None:
        """Rows of cells (text, style): columns on a terminal, in a pipe a line a row."""
        if self.as_json or not rows:
            return
        if not self.out.is_terminal:
            widths = [max(len(row[at][0]) for row in rows) for at in range(len(rows[0]) - 1)]
            for row in rows:
                cells = [text.ljust(width) for (text, _), width in zip(row, [*widths, 0], strict=True)]
                self.line(" ".join(" ".join(cells).split("\n")))
            return
        names = max(sum(len(text) + 2 for text, _ in row[:-1]) for row in rows)
        if self.out.width - names < LEAST_WIDTH:  # what is said stands below its name
            for row in rows:
                for at, (text, style) in enumerate(row):
                    self.line(text, style, indent=2 * min(at, 1))
            return
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for last in [False] * (len(rows[0]) - 1) + [True]:
            table.add_column(no_wrap=not last, overflow="fold")
        for row in rows:
            table.add_row(*(Text.from_markup(self.terminal.shown(text), style=style, emoji=False) for text, style in row))
        self.out.print(table)

    def again_and_again(self, look: Callable[[], list[str]], seconds: float) -> None:
        """Show what ``look`` says, again every so many seconds; where nobody looks at a terminal, only when it is otherwise."""
        shown: list[str] = []
        while True:
            try:
                lines = look()
            except CutoverError as error:
                lines = [str(error)]
            if self.out.is_terminal:
                self.out.clear()
                self.line(f"{now()}, every {seconds:g} s, until Ctrl-C", "dim")
            if self.out.is_terminal or lines != shown:
                for line in lines:
                    self.line(line)
            shown = lines
            time.sleep(seconds)

    def whole(self, text: str) -> None:
        """A line to copy: never broken, however narrow the terminal is."""
        if not self.as_json:
            self.out.print(self.terminal.shown(text), soft_wrap=True)

    def table(self, rows: Sequence[Sequence[str]], titles: Sequence[str]) -> None:
        """A small table; the first column is text, the others stand to the right."""
        if self.as_json:
            return
        made = Table(box=None, padding=(0, 3, 0, 0), show_header=True, header_style="dim")
        for number, title in enumerate(titles):
            made.add_column(title, justify="right" if number else "left")
        for row in rows:
            made.add_row(*(self.terminal.shown(cell) for cell in row))
        self.out.print(Padding(made, (0, 0, 1, 2)))
