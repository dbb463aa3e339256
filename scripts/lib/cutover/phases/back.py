"""Back: return the traffic to the old server, with everything that was written since.

The same move with the servers exchanged. Recording never stopped and the old server was kept up to date, so going back loses
nothing and takes as long as the switch did. Where the new server is gone, nothing can be read from it any more; then what it
acknowledged is sent to the old one once more, from the records on the Nginx host (see :mod:`cutover.replay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutover import moving, replay
from cutover.errors import Refused
from cutover.follow import CannotFollow
from cutover.gatelog import Damaged
from cutover.phases import Outcome, Sentence
from cutover.phases.switch import move, plan_move
from cutover.replay import Account, counted

if TYPE_CHECKING:
    from cutover.run import Run


def plan(run: Run) -> Sequence[Sentence]:
    """What would be done; empty when the old server serves."""
    flags = run.gate.state()
    if replay.unfinished(run, flags.side, flags.recording):
        return [Sentence("Stop recording and remove what was recorded", "Nginx host: log and bodies of writes", "None")]
    if flags.side == "old" or not flags.recording or not (reason := replay.gone(run.new)):
        return plan_move(run, "old")
    found = _account(run)
    first, *rest = found.sentences(run.old.name, run.new.name)
    return [
        Sentence(f"{reason} {first}", run.old.name, "None"),
        *(Sentence(one) for one in rest),
        Sentence(
            f"Hold writes for a moment, send the last ones, and send requests to {run.old.name}", "Nginx host: one flag file"
        ),
        Sentence("Stop recording and remove what was recorded", "Nginx host: log and bodies of writes", "None"),
    ]


def do(run: Run) -> Outcome:
    """Move the traffic to the old server."""
    flags = run.gate.state()
    if replay.unfinished(run, flags.side, flags.recording):
        return Outcome(True, [f"{run.old.name.capitalize()} serves.", *replay.end(run), _AFTER])
    if flags.side == "old" or not flags.recording or not (reason := replay.gone(run.new)):
        return move(run, "back", "old")
    return _without_the_new_one(run, reason)


_AFTER = "The new one is not followed any more; nothing is recorded. `copy` begins anew when it is there again."


def _account(run: Run) -> Account:
    try:
        found = replay.look(run, moving.position(run, "new"))
    except (CannotFollow, Damaged) as error:
        raise Refused(
            f"{run.new.name.capitalize()} does not answer, and what was recorded does not say everything: {error.sentence}",
            f"Start {run.new.name} again, then `follow`: without it {run.old.name} cannot be brought up to date.",
        ) from error
    if found.cannot:
        raise Refused(
            f"{run.new.name.capitalize()} does not answer, and not everything that was recorded can be done again on "
            f"{run.old.name}: {'; '.join(found.cannot[:3])}.",
            f"Start {run.new.name} again, then `back`.",
        )
    return found


def _without_the_new_one(run: Run, reason: str) -> Outcome:
    run.old.collections()  # the one that is needed has to answer, before anybody is asked anything
    found = _account(run)
    kept = replay.keep_overlaps(run, found.overlapping, anew=True)
    said = ". ".join(found.sentences(run.old.name, run.new.name))
    run.consent.by_name(run.site.name, f"{reason} {said}.{f' Which overlapped is in {kept}.' if found.overlapping else ''}")
    moving.end_abandoned_hold(run, "back")
    moving.need_one_that_writes(run, "back", run.old)
    done = replay.rescue(run, found, moving.position(run, "new"))
    sentences = [
        f"{run.old.name.capitalize()} serves. Writes were held for {done.held:.2f} s.",
        f"{counted(done.replayed, 'acknowledged write')} sent to it once more; nothing could be compared with {run.new.name}.",
    ]
    if done.overlapping:
        sentences.append(f"The order of {done.overlapping} writes was not known; they are in {kept}.")
    if done.refused:
        path = run.state_dir / replay.REFUSED
        sentences.append(f"{done.refused} of them {run.old.name} answered with an error; they are in {path}.")
    if done.under_way:
        sentences.append(
            f"{counted(done.under_way, 'write')} still waited for {run.new.name}, and nobody was told of their success. "
            "Keep it off until Nginx was restarted: what it answered after all would be on it alone."
        )
    return Outcome(True, [*sentences, *replay.end(run), _AFTER], facts=vars(done))
