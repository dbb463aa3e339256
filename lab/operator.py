"""The operator: who carries out the verbs of the plan, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cutover import runner
from cutover.core.errors import CutoverError
from cutover.core.ui import ConfirmedInAdvance, SilentUi
from cutover.runner import Result

if TYPE_CHECKING:
    from cutover.context import Context
    from lab.lab import Lab


class Listening(SilentUi):
    """Hears the tool's first sentence, and lets something happen at that moment; the tool waits as long."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens: Callable[[], None] | None = happens

    def say(self, sentence: str) -> None:
        super().say(sentence)
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()


@dataclass
class Operator:
    """Someone at the keyboard. A refusal is kept in ``error`` for the Then to look at; ``said`` is what was shown meanwhile.

    ``agrees_to`` are the names that this operator types when asked for them. ``happens`` happens once, while a verb is carried out.
    """

    lab: Lab
    agrees_to: set[str] = field(default_factory=set)
    says_yes: bool = True
    result: Result | None = None
    error: CutoverError | None = None
    said: list[str] = field(default_factory=list)
    happens: Callable[[], None] | None = None
    #: Called with every run before anything is done with it.
    prepare: Callable[[Context], None] = lambda run: None

    def run(self, *, execute: bool = True) -> Context:
        """A run as the command line makes it."""
        ui = Listening(self.happens) if execute and self.happens is not None else SilentUi()
        self.said = ui.sentences
        run = self.lab.run(execute=execute, confirm=ConfirmedInAdvance(*self.agrees_to, yes=self.says_yes), ui=ui)
        self.prepare(run)
        return run

    def tries(self, verb: str, *, execute: bool = True, undo: bool = False) -> None:
        """Carry out a verb; what goes wrong is kept."""
        self.result, self.error = None, None
        run = self.run(execute=execute)
        try:
            self.result = runner.carry_out(verb, run, undo=undo)
        except CutoverError as error:
            self.error = error
        finally:
            run.close()

    def does(self, verb: str, *, undo: bool = False) -> Result:
        """Carry out a verb that has to work; for the stage of a scenario."""
        self.tries(verb, undo=undo)
        assert self.error is None, f"{verb}: {self.error}"
        assert self.result is not None
        return self.result

    def was_refused(self) -> CutoverError:
        """The refusal, for its sentence."""
        outcome = self.result.outcome if self.result is not None else None
        assert self.error is not None, (
            f"Nothing was refused. The tool said: {' '.join(outcome.sentences) if outcome else 'nothing'}"
        )
        return self.error
