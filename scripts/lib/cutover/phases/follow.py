"""Follow: keep the server that does not serve up to date, until told otherwise.

While nobody runs this, writes pile up on the Nginx host, recorded and safe; the way back then takes the longer to open. Every
``copy``, ``switch``, ``back`` and ``finish`` does these rounds by itself first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cutover import moving
from cutover.errors import Refused
from cutover.phases import Outcome, Sentence

if TYPE_CHECKING:
    from cutover.run import Run


def plan(run: Run) -> Sequence[Sentence]:
    """What would be done."""
    side = run.gate.state().side
    source, target = moving.server(run, side), moving.server(run, moving.OTHER[side])
    return [Sentence(f"Bring what {source.name} received to {target.name}", target.name)]


def do(run: Run, *, seconds: float = 0.0, every: float = 1.0) -> Outcome:
    """One round, or rounds for ``seconds``. Ends cleanly on Ctrl-C: a round that was interrupted is done again."""
    flags = run.gate.state()
    if not flags.recording:
        raise Refused("Writes are not recorded, so there is nothing to follow.", "Begin with `copy`.")
    following = moving.follower(run, flags.side, "follow")
    end, rounds, lines, records, late = time.monotonic() + seconds, 0, 0, 0, 0
    with run.door.act("follow.rounds", f"Keep {following.target.name} up to date") as act:
        while True:
            last = following.round()
            rounds, lines, records, late = rounds + 1, lines + last.lines, records + last.records, late + last.late
            act.after = {"rounds": rounds, "writes": lines, "records": records, "late": late}
            rest = end - time.monotonic()
            if rest <= 0:
                break
            time.sleep(min(every, rest))
    return Outcome(
        bool(lines), [f"{following.target.name.capitalize()} is up to date: {lines} writes, {records} records."], facts=act.after
    )
