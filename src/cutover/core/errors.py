"""What can go wrong, sorted by what the operator has to believe afterwards.

Every error carries one sentence (what was wrong and where) and, where there is one, a hint (what to do instead). The
exit code says what is true now: 0 done or nothing to do, 1 a check failed and nothing changed, 2 wrong usage or
site.yaml, 3 something changed and then it failed (run the same command again), 4 nobody knows what happened (look
before acting).
"""

from __future__ import annotations


class CutoverError(Exception):
    """An outcome that an operator reads. ``exit_code`` is the command's exit code."""

    exit_code = 1

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".rstrip()


class Refused(CutoverError):
    """A check failed or a rail held; nothing was changed."""

    exit_code = 1


class WrongUsage(CutoverError):
    """The command line, site.yaml or the environment is wrong; nothing was contacted."""

    exit_code = 2


class Failed(CutoverError):
    """Something was changed and a later step failed; running the command again continues."""

    exit_code = 3


class OutcomeUnknown(CutoverError):
    """A change was sent and its answer never came: it may or may not have happened. Never retried blindly."""

    exit_code = 4


class Unreachable(CutoverError):
    """A server could not be reached, or answered something that is not its API. The request did not change anything."""

    exit_code = 1


class WritesRefused(CutoverError):
    """Something tried to change a system without ``--execute`` (or outside a journaled act). Nothing was sent."""

    exit_code = 1
