"""What a run says while it works, and what it asks.

Phases do not print. They speak through a :class:`Ui` and ask through a :class:`Confirmation`; the command line, the
rehearsal and the tests each bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from cutover.core.errors import Refused

Advance = Callable[[int], None]


class Ui(Protocol):
    """Where progress goes."""

    def say(self, sentence: str) -> None:
        """One sentence about what is happening."""

    def looking(self) -> AbstractContextManager[Callable[[str], None]]:
        """Around many short looks, each of interest only while it goes on: ``with ui.looking() as at: at("A1")``."""

    def progress(self, what: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """Around long work: ``with ui.progress("Comparing", 1000, "records") as advance: advance(10)``."""


class SilentUi:
    """Says nothing; keeps the sentences for whoever wants to read them."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        """Keep the sentence."""
        self.sentences.append(sentence)

    @contextmanager
    def looking(self) -> Iterator[Callable[[str], None]]:
        """Keep these sentences, too."""
        yield self.say

    @contextmanager
    def progress(self, what: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Count nothing."""
        del what, total, unit
        yield lambda _done: None


class Confirmation(Protocol):
    """Who is asked before something is lost."""

    def to(self, question: str) -> None:
        """Ask yes or no; :class:`Refused` on no."""

    def by_name(self, name: str, what_is_lost: str) -> None:
        """Ask for ``name``, typed, after saying what will be lost; :class:`Refused` on anything else."""


class ConfirmedInAdvance:
    """Confirmed in advance: everything that only asks yes or no, and the destruction of exactly these names."""

    def __init__(self, *names: str, yes: bool = True) -> None:
        self.names = set(names)
        self.yes = yes
        self.asked: list[str] = []

    def to(self, question: str) -> None:
        """Yes, unless it was made with ``yes=False``."""
        self.asked.append(question)
        if not self.yes:
            raise Refused(f"Not done: this was not confirmed. {question}", "Answer y at a terminal, or give --yes.")

    def by_name(self, name: str, what_is_lost: str) -> None:
        """Only for the names that were given."""
        self.asked.append(what_is_lost)
        if name not in self.names:
            raise Refused(
                f"Not done: confirm by typing the name {name}. {what_is_lost}",
                f"Type it at a terminal, or give --yes-destroy {name}.",
            )
