"""The whole move as numbered steps: what each needs, what it changes, and how it is undone.

This is the page an operator reads before the evening of the move; ``cutover plan`` prints it with the site's own
numbers and marks what the journal says is done.
"""

from __future__ import annotations

from collections.abc import Sequence

from cutover.core import events
from cutover.core.journal import Journal
from cutover.phases.phase import Step
from cutover.phases.registry import phases
from cutover.site.schema import Site


def _check(site: Site) -> Step:
    guests = site.guests
    return Step(
        title="Look before anything is touched",
        does=f"Asks whether the host has room, whether {guests.new.address} is {guests.new} and nothing else, whether every "
        "write goes through Nginx, whether both servers are alike, and what could not be moved safely.",
        needs="Read-only keys.",
        changes="Nothing.",
        undo="Nothing to undo.",
        criteria=("A1", "A2", "A3", "A4", "A5", "A6", "A7", "D1", "D2", "D3"),
    )


def steps(site: Site) -> list[tuple[str, Step]]:
    """(command, step) of the plan for a site, in order: looking first, and taking the gate out last."""
    return [("check", _check(site)), *((one.name, one.step(site)) for one in phases() if one.step is not None)]


def progress(site: Site, journal: Journal) -> Sequence[tuple[str, Step, str | None]]:
    """(command, step, when it was completed) of every step of the plan."""
    entries = journal.entries()
    return [(name, step, events.finished(entries, name)) for name, step in steps(site)]
