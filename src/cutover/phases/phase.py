"""What a step of the plan is: one object per module of this package, from which everything else derives what it needs.

The command line takes the name and the help from it, ``cutover plan`` the sentences, the rights its token, the availability
probes whether neighbours have to answer meanwhile. To add a step: one module with a ``PHASE``, and one line in
:mod:`cutover.phases.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox import privileges
    from cutover.site.schema import Site


@dataclass(frozen=True)
class Sentence:
    """One thing that a phase would do: the act, what it changes, and how it is undone. ``refused``: a reason why it would not."""

    text: str
    changes: str = ""
    undo: str = ""
    refused: bool = False


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


@dataclass(frozen=True)
class Phase:
    """A step of the plan.

    ``plan`` only reads and says what would be done, nothing where there is nothing to do; it raises
    :class:`cutover.core.errors.Refused` where the step would be refused. ``do`` acts, proves its own result and can be run again.
    """

    name: str
    help: str
    plan: Callable[[Context], Sequence[Sentence]]
    do: Callable[[Context], Outcome]
    #: The step as ``cutover plan`` tells it; None for what is no part of the ordinary evening.
    step: Callable[[Site], Step] | None = None
    undo: Callable[[Context], Outcome] | None = None
    plan_undo: Callable[[Context], Sequence[Sentence]] | None = None
    #: What to do instead, where there is no undo.
    instead_of_undo: str = ""
    #: A table to show before the plan: rows of what, now, pending and wanted.
    overview: Callable[[Context], dict[str, Any]] | None = None
    #: Whose rights on Proxmox it needs (:func:`cutover.proxmox.privileges.needs`); None where it does not act there.
    privileges: privileges.Step | None = None
    #: Whether it moves traffic or changes Nginx or the new server, so that the neighbours have to be seen answering meanwhile.
    probed: bool = False
