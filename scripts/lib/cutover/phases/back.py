"""Back: return the traffic to the old server, with everything that was written since.

The same move with the servers exchanged. Recording never stopped and the old server was kept up to date, so going back loses
nothing and takes as long as the switch did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutover.phases import Outcome, Sentence
from cutover.phases.switch import move, plan_move

if TYPE_CHECKING:
    from cutover.run import Run


def plan(run: Run) -> Sequence[Sentence]:
    """What would be done; empty when the old server serves."""
    return plan_move(run, "old")


def do(run: Run) -> Outcome:
    """Move the traffic to the old server."""
    return move(run, "back", "old")
