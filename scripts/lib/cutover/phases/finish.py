"""Finish: give up the way back on purpose.

Until now the old server received everything the new one did. Before the old guests can be decommissioned somebody has to say
that going back is no longer wanted: everything is compared once more, recording stops, and what was recorded is removed. It is
asked for by name, because after it a way back that keeps new writes no longer exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutover import moving
from cutover.errors import Refused
from cutover.phases import Outcome, Sentence

if TYPE_CHECKING:
    from cutover.run import Run


def plan(run: Run) -> Sequence[Sentence]:
    """What would be done; empty when it was done."""
    flags = run.gate.state()
    if flags.side == "new" and not flags.recording:
        return []
    return [
        Sentence(f"Bring {run.old.name} up to date and compare everything once more"),
        Sentence("Stop recording and remove what was recorded", "Nginx host: log and bodies of writes", "None"),
    ]


def do(run: Run) -> Outcome:
    """Compare once more, then stop recording. Asks for the site's name."""
    flags = run.gate.state()
    if flags.side != "new":
        raise Refused("The old server serves, so there is no way back to give up.", "`switch` comes first.")
    if not flags.recording:
        _note(run)
        return Outcome(False, ["The way back was given up already."])
    moving.end_abandoned_hold(run, "finish")
    following = moving.follower(run, "new", "finish")
    moving.catch_up(run, "finish", following)
    proved = moving.prove(run, "finish", following)
    run.consent.by_name(
        run.site.name,
        f"The way back will be lost: {run.old.name} will no longer receive what is written, and `back` will not be possible.",
    )
    with run.door.act("finish.stop-recording", "Stop recording and remove what was recorded"):
        run.gate.stop_recording()
        moving.position_path(run).unlink(missing_ok=True)
    _note(run)
    return Outcome(
        changed=True,
        sentences=[
            f"{proved['records']} records were the same on both servers when recording stopped.",
            f"{run.old.name.capitalize()} is not kept up to date any more; {run.new.name} serves.",
        ],
        facts=proved,
    )


def _note(run: Run) -> None:
    if not any(e.act == "finish.given-up" for e in run.journal.entries()):
        run.journal.note("finish.given-up", "The way back was given up on purpose")
