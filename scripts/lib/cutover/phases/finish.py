"""Finish: give up the way back on purpose.

Until now the old server received everything the new one did. Before the old guests can be decommissioned somebody has to say
that going back is no longer wanted: everything is compared once more, recording stops, and what was recorded is removed. It is
asked for by name, because after it a way back that keeps new writes no longer exists. A way back that is broken can be given
up as well; then it is said that the old server is not up to date, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cutover import moving, replay
from cutover.errors import CutoverError, Refused
from cutover.follow import CannotFollow, Position
from cutover.gatelog import Damaged
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
        left = Position.load(moving.position_path(run))
        if left is not None and left.doubt:  # not given up: `follow` was interrupted while it began anew
            run.consent.by_name(run.site.name, f"{_not_up_to_date(run, left.doubt)} `back` will not be possible.")
        _note(run, left.doubt if left is not None else "")
        return Outcome(False, ["The way back was given up already."])
    moving.end_abandoned_hold(run, "finish")
    proved, why = _up_to_date(run)
    lost = f"The way back will be lost: {run.old.name} will no longer receive what is written, and `back` will not be possible."
    run.consent.by_name(run.site.name, f"{_not_up_to_date(run, why)} {lost}".strip())
    with run.door.act("finish.stop-recording", "Stop recording and remove what was recorded"):
        run.gate.stop_recording()
        moving.position_path(run).unlink(missing_ok=True)
    _note(run, why)
    return Outcome(
        changed=True,
        sentences=[
            _not_up_to_date(run, why) or f"{proved['records']} records were the same on both servers when recording stopped.",
            f"{run.old.name.capitalize()} is not kept up to date any more; {run.new.name} serves.",
        ],
        facts=proved,
    )


def _up_to_date(run: Run) -> tuple[dict[str, Any], str]:
    """What was compared; and why the old server is not up to date, a sentence, where it cannot be. It may be given up even so."""
    try:
        following = moving.follower(run, "new", "finish")
        moving.catch_up(run, "finish", following)
        return moving.prove(run, "finish", following), ""
    except (CannotFollow, Damaged) as error:
        return {}, error.sentence
    except CutoverError:
        # That the old server is gone is no reason to go on recording for it.
        if why := replay.gone(run.old):
            return {}, why
        raise


def _not_up_to_date(run: Run, why: str) -> str:
    return f"{run.old.name.capitalize()} is NOT up to date: {why}" if why else ""


def _note(run: Run, why: str = "") -> None:
    if not any(e.act == "finish.given-up" for e in run.journal.entries()):
        run.journal.note("finish.given-up", f"The way back was given up on purpose. {_not_up_to_date(run, why)}".strip())
