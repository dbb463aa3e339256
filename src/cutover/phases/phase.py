"""What a step of the plan is: one object per module of this package, from which everything else derives what it needs.

The command line takes the name and the help from it, ``cutover plan`` the sentences, the rights its token, the availability
probes whether neighbours have to answer meanwhile. To add a step: one module with a ``PHASE``, and one line in
:mod:`cutover.phases.registry`; CONTRIBUTING.md says what else speaks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cutover.core.errors import Refused

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox import privileges
    from cutover.site.schema import Site


@dataclass(frozen=True)
class Sentence:
    """One thing that a phase would do: the act, what it changes, and how it is undone."""

    text: str
    changes: str = ""
    undo: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a step would do now, from one look: it is shown, and carried out as it is.

    No ``sentences`` and no ``refusals``: there is nothing to do. ``refusals`` are what speaks against it where the plan can be
    told all the same; ``hint`` says what to do about them. ``overview`` is for machines (``--json``); its ``table`` has rows of
    what, now, pending and wanted. A step whose act needs more of what was seen has a plan of its own with that.
    """

    sentences: Sequence[Sentence] = ()
    refusals: Sequence[str] = ()
    hint: str = ""
    overview: Mapping[str, Any] = field(default_factory=dict)

    def need_no_refusal(self) -> None:
        """:class:`Refused` with every reason, where there is one."""
        if self.refusals:
            raise Refused("\n".join(self.refusals), self.hint)


@dataclass(frozen=True)
class Outcome:
    """What a phase did. ``changed`` is False where there was nothing to do; ``facts`` is for machines (``--json``).

    ``warnings`` are what went wrong beside the step: the step itself is done.
    """

    changed: bool
    sentences: Sequence[str] = ()
    undo: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Step:
    """How the plan tells of a phase, with the site's own numbers. ``criteria`` are the ids that show that it worked."""

    title: str
    does: str
    needs: str
    changes: str
    undo: str
    criteria: tuple[str, ...]


PlanT = TypeVar("PlanT", bound=Plan)


@dataclass(frozen=True)
class Operation(Generic[PlanT]):
    """A plan and what carries it out.

    ``plan`` only reads; it raises :class:`cutover.core.errors.Refused` where the step would be refused and nothing can be
    planned. ``do`` is given that plan, acts, proves its own result and can be run again.
    """

    plan: Callable[[Context], PlanT]
    do: Callable[[Context, PlanT], Outcome]


@dataclass(frozen=True)
class Phase:
    """A step of the plan: what it does, and where there is one what undoes it."""

    name: str
    help: str
    operation: Operation[Any]
    #: The step as ``cutover plan`` tells it; None for what is no part of the ordinary evening.
    step: Callable[[Site], Step] | None = None
    undo: Operation[Any] | None = None
    #: What to do instead, where there is no undo.
    instead_of_undo: str = ""
    #: Whose rights on Proxmox it needs (:func:`cutover.proxmox.privileges.needs`); None where it does not act there.
    privileges: privileges.Step | None = None
    #: Whether it moves traffic or changes Nginx or the new server, so that the neighbours have to be seen answering meanwhile.
    probed: bool = False
