"""The register of checks: one function, one fact, one criterion of the plan.

The command line, the features and the acceptance report all run these. A check has the moments at which it is worth
asking (before anything, at the switch, after it, before something is deleted). It answers with a :class:`Finding`:
met, not met, or ``None`` when it could not be evaluated, which never counts as good.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cutover import checks
from cutover.core.errors import CutoverError, WrongUsage
from cutover.error_boundary import error_boundary

if TYPE_CHECKING:
    from cutover.context import Context


class Moment(StrEnum):
    """When a check is asked."""

    BEFORE = "before"
    AT_SWITCH = "at-switch"
    AFTER = "after"
    BEFORE_DELETING = "before-deleting"


@dataclass(frozen=True)
class Finding:
    """What a check found. ``ok`` None: it could not be evaluated. ``hint``: what to do; ``facts``: for machines."""

    ok: bool | None
    sentence: str
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A registered check. ``criterion`` is its id in the plan."""

    criterion: str
    title: str
    moments: frozenset[Moment]
    ask: Callable[[Context], Finding]


_REGISTER: list[Check] = []


def check(
    criterion: str, title: str, *, moments: Iterable[Moment] = (Moment.BEFORE,)
) -> Callable[[Callable[[Context], Finding]], Callable[[Context], Finding]]:
    """Register a function as the check of ``criterion``; ``title`` is the fact, as a sentence."""

    def register(ask: Callable[[Context], Finding]) -> Callable[[Context], Finding]:
        _REGISTER.append(Check(criterion, title, frozenset(moments), ask))
        return ask

    return register


def registered() -> list[Check]:
    """Every check, in order of criterion, so that a failure is always reported the same way."""
    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return sorted(_REGISTER, key=lambda c: (c.criterion, c.title))


def chosen(moment: Moment | None = None, criteria: Sequence[str] = ()) -> list[Check]:
    """The checks of a moment and of these criteria (default: all); :class:`WrongUsage` where that is none."""
    wanted, known = [name.upper() for name in criteria], sorted({one.criterion for one in registered()})
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise WrongUsage(
            f"There is no check of {', '.join(unknown)}. There are checks of {', '.join(known)}.",
            "Other criteria are shown by their scenarios only; see features/README.md.",
        )
    found = [c for c in registered() if (moment is None or moment in c.moments) and (not wanted or c.criterion in wanted)]
    if not found:
        raise WrongUsage(f"Nothing is asked about {', '.join(wanted)} at the moment {moment}.", "Leave --moment out.")
    return found


def ask_all(context: Context, *, moment: Moment | None = None, criteria: Sequence[str] = ()) -> list[tuple[Check, Finding]]:
    """Ask every check of a moment and of these criteria (default: all)."""
    return [(one, ask(one, context)) for one in chosen(moment, criteria)]


def ask(one: Check, context: Context) -> Finding:
    """Ask one check; an error of the question itself is *could not be evaluated*, with its sentence."""
    try:
        with error_boundary(context):
            return one.ask(context)
    except CutoverError as error:
        return Finding(None, error.sentence, error.hint)
