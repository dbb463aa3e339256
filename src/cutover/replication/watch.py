"""Following until it is stopped: the other server stays seconds behind, and the proof that both are the same stays young.

Every second what was written is brought over, which also keeps the record on the Nginx host small. In between a little is
compared, never for more than a fifth of the time and less while applications are served slowly: first what was written since it
was compared, then the range of ids whose comparison is the oldest. What an operator would want to know at once is looked for all
the time: writers that go round Nginx, a configuration of Nginx that leads past the gate, a disk that is full, a server that does
not answer, records that differ. Each is said when it begins and when it has ended, stands in the status line meanwhile, and in
``watch.json`` in the state folder, which `status` reads.

It never moves the traffic and repairs nothing but by following. Another command that wants to work gets the journal from it, and
the watch goes on behind it, in whichever direction the traffic flows by then. Where nobody can follow any more (recording was
ended, a record is damaged, a server is away) it says so, and waits until somebody has mended that. Killed at any moment it loses
nothing: what is known is in the replication position.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from cutover.core import events, files, stored
from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.core.journal import utc
from cutover.core.stored import Time
from cutover.core.text import counted, spoken
from cutover.core.threads import side_by_side
from cutover.gate.watch import RESERVE_MB
from cutover.gate.write_log import BEGIN_ANEW, Damaged
from cutover.qdrant import compare, schema
from cutover.qdrant.affected import PointId
from cutover.qdrant.client import NotThere
from cutover.qdrant.pages import Limits, Size
from cutover.replication import bypass, left_behind, proof, switchover
from cutover.replication.position import CannotFollow
from cutover.replication.throttle import Throttle

if TYPE_CHECKING:
    from pathlib import Path

    from cutover.context import Context
    from cutover.gate.interface import Flags
    from cutover.replication.standing import Following

#: What the journal calls it.
WATCHES = "follow.watch"
#: The kind of what is wrong where nobody can follow any more.
STOPPED = "following"
#: The kinds of what may be wrong, the most urgent first.
URGENT = (STOPPED, "nginx", "server", "room", "disk", "difference", "schema", "bypass", "used")
#: Seconds between two rounds; at most so much of them is spent comparing.
EVERY, SHARE = 1.0, 0.2
#: Seconds between two looks at the counters, at Nginx, and at the disk of the server that is kept up to date.
LOOK_AT_COUNTERS, LOOK_AT_NGINX, LOOK_AT_DISK = 5.0, 10.0, 60.0
#: Seconds until a server is asked again without which nothing can be begun.
UNREACHABLE = 5.0
#: Seconds until it is tried again where nobody can follow: a setting may have been put back without a command of this tool.
STOPPED_FOR = 300.0
#: Seconds between two small reads that tell how fast applications are served.
PROBE = 1.0
#: Free room on the Nginx host below which it is said, megabytes; some time before recording is ended for want of it.
LITTLE_ROOM_MB = 2 * RESERVE_MB
#: A comparison is made again when it has lasted this share of ``limits.proof_hours``.
AGAIN_AFTER = 1 / 8
#: Seconds between two lines of the journal that everything is the same.
NOTE_EVERY = 3600.0
#: Collections whose records are counted in one look, for how much of all was compared.
COUNTED = 50
#: Looks, each after a round that brought nothing over for the record, after which a difference is one.
LOOKS = 4


@dataclass
class WatchState:
    """What the watch knows, as `status` reads it. Times in seconds since 1970; ``proved`` from 0 to 1."""

    __pydantic_config__: ClassVar = stored.STRICT

    at: Time = 0.0
    side: str = "old"
    target: str = ""
    behind_writes: int = 0
    behind_seconds: float = 0.0
    writes_per_second: float = 0.0
    proved: float = 0.0
    oldest_proof: Time | None = None
    waiting_for: str = ""
    wrong: dict[str, str] = field(default_factory=dict)
    """What is wrong now, by kind: a sentence each."""

    def line(self) -> str:
        """Everything in one line."""
        behind = f"{counted(self.behind_writes, 'write')}, {self.behind_seconds:.1f} s behind"
        rate = f"{self.writes_per_second:.1f} writes/s"
        proved = f"{self.proved * 100:.0f} % compared"
        if self.oldest_proof is not None:
            proved = f"all compared, the oldest part {spoken(self.at - self.oldest_proof)} ago"
        parts = [f"{self.target} is {behind}", rate, proved]
        if STOPPED in self.wrong or not self.target:
            parts = []  # as long as nobody follows nobody knows
        attention = [
            f"ATTENTION: {self.wrong[kind].rstrip('.')}" for kind in sorted(self.wrong, key=[*URGENT, *self.wrong].index)
        ]
        return "; ".join([*attention, *parts, *([f"waiting for {self.waiting_for}"] if self.waiting_for else [])])


def seen_path(context: Context) -> Path:
    """Where the watch says what it knows."""
    return context.state_dir / "watch.json"


def last_seen(context: Context) -> WatchState | None:
    """What a watch that works now knows; None where there is none."""
    try:
        found = stored.read(WatchState, seen_path(context))
    except (OSError, ValueError):
        return None
    return found if context.journal.held_by_another() and time.time() - found.at < 60 else None


class Watch:
    """One watch. ``tell`` gets the status after every round; ``wait`` waits so many seconds, and says whether to stop.
    ``broken`` says, before the first round, why the other server cannot be brought up to date by what is recorded; a sentence.
    """

    def __init__(
        self, context: Context, *, tell: Callable[[WatchState], None], wait: Callable[[float], bool],
        broken: Callable[[Flags], str] = lambda _: "",
    ) -> None:  # fmt: skip
        self._context, self._tell, self._wait, self._broken = context, tell, wait, broken
        self.seen = WatchState()
        self.rounds = self.lines = self.records = 0
        self._due: dict[str, float] = {}
        self._looks: dict[tuple[str, PointId], int] = {}
        self._written_at: list[tuple[float, int]] = []
        self._noted = 0.0
        self._schema_looks = 0
        self._used: left_behind.UseWatch | None = None
        self._used_before = False
        self._sizes: dict[str, Size] = {}
        self._counts: dict[str, int] = {}
        self._passed: dict[str, int] = {}

    def run(self) -> None:
        """Until ``wait`` says so. :class:`Refused` where nothing is recorded, and nothing was lost by that."""
        self._context.journal.lock(gives_way=True)
        while True:
            try:
                if self._until_wanted():
                    return
            except (CannotFollow, Damaged) as error:
                self.wrong(STOPPED, f"{error.sentence} {error.hint}")
                if self._rest("somebody who mends that", STOPPED_FOR):
                    return
            except Unreachable as error:
                self.wrong("server", error.sentence)
                if self._rest("an answer", UNREACHABLE):
                    return
            if not self._context.journal.wanted():
                continue
            self._context.ui.say("Giving way to another command.")
            if self._stand_aside():
                return
            self._context.ui.say("Going on.")

    def _rest(self, waiting_for: str, seconds: float) -> bool:
        """Wait so long, or until another command wants to work; whether this has to stop."""
        self.seen.waiting_for = waiting_for
        until = time.monotonic() + seconds
        while True:
            self._show()
            if self._wait(min(EVERY, seconds)):
                return True
            if self._context.journal.wanted() or time.monotonic() >= until:
                return False

    def _until_wanted(self) -> bool:
        """Follow until this has to stop (True) or another command wants to work (False)."""
        context = self._context
        flags = context.gate.state()
        if not self.rounds and (why := self._broken(flags)):
            raise CannotFollow(f"The old server cannot be brought up to date by what is recorded: {why}", BEGIN_ANEW)
        if flags.lost:
            raise Damaged(f"Nothing is recorded: {flags.lost}.", BEGIN_ANEW)
        if not flags.recording and self.rounds:
            context.ui.say("Nothing is recorded any more, so there is nothing to follow.")
            return True
        if not flags.recording:
            raise Refused("Writes are not recorded, so there is nothing to follow.", "Begin with `copy`.")
        following = switchover.follower(context, flags.side, "follow")
        self.seen.side, self.seen.target = flags.side, following.target.name
        self._due, self._looks, self._used = {}, {}, None
        self._sizes, self._counts, self._passed = {}, {}, {}
        if not following.standing.watches:
            following.standing.begin()
        with (
            Throttle.of(context, every=PROBE) as throttle,
            context.guard.act(WATCHES, f"Keep {following.target.name} up to date", passing=True) as act,
        ):
            while True:
                began = time.monotonic()
                try:
                    self._round(following)
                    self._look(following)
                    self._prove(following, throttle)
                except (CannotFollow, Damaged):
                    raise
                except CutoverError as error:
                    self.wrong("server", error.sentence)
                else:
                    self.wrong("server", "")
                act.after = {"rounds": self.rounds, "writes": self.lines, "records": self.records}
                self._say(following, throttle)
                if self._wait(max(0.05, EVERY - (time.monotonic() - began))):
                    with suppress(CutoverError):
                        following.standing.look()  # so that the next command can go on from here
                    return True
                if context.journal.wanted():
                    with suppress(CutoverError):
                        following.standing.look()
                    return False

    def _stand_aside(self) -> bool:
        """Let another command work; whether this has to stop meanwhile."""
        context = self._context
        context.close()
        self.seen.waiting_for = "another command"
        while True:
            if self._wait(0.2):
                return True
            if context.journal.wanted():
                continue
            with suppress(Refused):
                context.journal.lock(gives_way=True)
                return False

    # -- what is wrong ----------------------------------------------------------------------------
    def wrong(self, kind: str, sentence: str) -> None:
        """Something is wrong from now on, or not any more (empty). Said when it begins, changes, and ends."""
        before = self.seen.wrong.pop(kind, "")
        if sentence:
            self.seen.wrong[kind] = sentence
        if sentence != before:
            self._context.ui.say(f"{time.strftime('%H:%M:%S')} {f'ATTENTION: {sentence}' if sentence else f'Over: {before}'}")

    # -- a round ----------------------------------------------------------------------------------
    def _round(self, following: Following) -> None:
        at = time.time()
        last = following.round()
        following.bring_by_snapshot()
        self.wrong(STOPPED, "")
        # What was written again is not what was seen to differ before: only what stays so without being written is a difference.
        self._looks = {(name, one): n for (name, one), n in self._looks.items() if one not in last.ids.get(name, ())}
        self.rounds, self.lines, self.records = self.rounds + 1, self.lines + last.lines, self.records + last.records
        self._written_at = [(then, n) for then, n in self._written_at if then > at - 10] + [(at, last.lines)]
        self.seen.behind_writes, self.seen.behind_seconds = 0, time.time() - at

    def _is_due(self, what: str, every: float) -> bool:
        if time.monotonic() < self._due.get(what, 0.0):
            return False
        self._due[what] = time.monotonic() + every
        return True

    def _look(self, following: Following) -> None:
        context = self._context
        if self._is_due("counters", LOOK_AT_COUNTERS):
            self.wrong("bypass", following.standing.look())
        if self.seen.side == "new" and self._is_due("use", context.site.limits.bypass_watch_seconds):
            self._look_for_use(following)
        if self._is_due("nginx", LOOK_AT_NGINX):
            why = context.gate.contradiction()
            self.wrong("nginx", f"{why} Run `gate --execute` at once." if why else "")
            free = context.gate.state().free_mb
            little = f"The disk of the Nginx host has {free} MB left; below {RESERVE_MB} MB recording ends."
            self.wrong("room", little if 0 <= free < LITTLE_ROOM_MB else "")
            self._look_at_names(following)
        if self._is_due("disk", LOOK_AT_DISK):
            try:
                switchover.need_one_that_writes(context, "follow", following.target)
            except Refused as error:
                self.wrong("disk", error.sentence)
            else:
                self.wrong("disk", "")

    def _look_for_use(self, following: Following) -> None:
        """Who goes on using the server that was left behind. Of its requests those of this process are known, and not those of a
        `check` beside it; so it is said when it is seen twice, one look after the other.
        """
        said = ""
        if self._used is not None:
            with suppress(bypass.Restarted):
                said = left_behind.sentence(following.target.name, self._used.look())
            self.wrong("used", f"{said}." if said and self._used_before else "")
        self._used_before = bool(said)
        self._used = left_behind.UseWatch(following.target)

    # -- the proof --------------------------------------------------------------------------------
    def _prove(self, following: Following, throttle: Throttle) -> None:
        began = time.monotonic()

        def enough() -> bool:
            throttle.give_way()
            return time.monotonic() - began > EVERY * SHARE or self._context.journal.wanted()

        proofs = following.position.proofs
        names = following.source.collections()
        for name in set(proofs.collections) - set(names):
            proofs.forget(name, "it is gone")
            self._looks = {key: looks for key, looks in self._looks.items() if key[0] != name}
        for name, ids in proofs.written.items():
            self._compare_written(following, name, list(ids)[: compare.MOST_BY_ID])
            if enough():
                return
        while (found := proofs.next(names)) is not None:
            name, first, end, when = found
            again = self._context.site.limits.proof_hours * 3600 * AGAIN_AFTER
            if when is not None and time.time() - when < again:
                break
            at = time.time()
            try:
                size = self._size(following, name)
                part, rest = compare.compare_part(following.source, following.target, name, first, end, enough, size)
            except NotThere:
                names = [one for one in names if one != name]  # deleted meanwhile, which the log will say; or it is a difference
                continue
            proofs.compared(name, first, end if rest is None else rest, at)
            if first is None and not proof.compare_settings(following, [name]):
                proofs.same_settings([name])
            different = {d.where for d in proof.not_left_out(following, part.differences)}
            proofs.wrote(name, different)
            if part.count > len(part.differences):
                proofs.forget(name, f"{part.count} records differ")
            self._passed[name] = self._passed.get(name, 0) + part.records
            if enough():
                break
        self._note(following)

    def _size(self, following: Following, name: str) -> Size:
        """How many records of a collection are read at a time; learnt once, because each look is short."""
        if name not in self._sizes:
            self._sizes[name] = Size(compare.MOST, Limits.of(following.source.info(name)))
        return self._sizes[name]

    def _share(self, following: Following, names: list[str]) -> float:
        """How much of all records was compared and still counts, from 0 to 1; of a collection that is begun about how much."""
        proofs, records, compared = following.position.proofs, 0, 0
        unknown = [name for name in names if name not in self._counts]
        self._counts |= compare.counts_of(following.source, unknown[:COUNTED])  # of the others at the next looks
        for name in names:
            count = self._counts.get(name, 0)
            whole = name in proofs.collections and proofs.collections[name].oldest is not None
            records += count
            compared += count if whole else min(count, self._passed.get(name, 0)) if name in proofs.collections else 0
        known = len(names) - len(unknown[COUNTED:])
        return compared / records * known / len(names) if records else 1.0

    def _compare_written(self, following: Following, name: str, ids: list[PointId]) -> None:
        """Records that were written, or were seen to differ. One that stays different without being written is a difference."""
        try:
            left = compare.compare_ids(following.source, following.target, name, ids, size=following.learnt(name))
        except NotThere:
            return
        differing = {d.where: d for d in proof.not_left_out(following, left) if d.kind != "collection"}
        following.position.proofs.same(name, [one for one in ids if one not in differing])
        for one in ids:
            self._looks[name, one] = self._looks.get((name, one), 0) + 1 if one in differing else 0
            if not self._looks[name, one]:
                del self._looks[name, one]
        real = [d for one, d in differing.items() if self._looks.get((name, one), 0) >= LOOKS]
        said = f"Both servers differ: {compare.summary(real)}." if real else ""
        if said and "difference" not in self.seen.wrong:
            self._noted = 0.0
            self._context.journal.note(events.differed_in("follow"), compare.summary(real, 20), count=len(real))
        if said or (self.seen.wrong.get("difference") and not self._looks):
            self.wrong("difference", said)

    def _note(self, following: Following) -> None:
        """Say in the journal, now and then, that everything is the same: `status` reads it there."""
        proofs = following.position.proofs
        oldest = proofs.oldest(following.source.collections())
        if oldest is None or proofs.written or time.time() - self._noted < NOTE_EVERY:
            return
        mine, theirs = side_by_side([partial(schema.schema_of, one) for one in (following.source, following.target)])
        if not self._schema(schema.compare_schemas(mine, theirs)):
            self._noted = time.time()
            said = f"Both servers hold the same; the oldest part was compared at {utc(oldest)}"
            self._context.journal.note(events.proved_by("follow"), said)

    def _look_at_names(self, following: Following) -> None:
        both = ((one.collections(), one.aliases()) for one in (following.source, following.target))
        (mine, my_aliases), (theirs, their_aliases) = both
        self._schema(schema.compare_names(mine, my_aliases, theirs, their_aliases))

    def _schema(self, differences: list[compare.Difference]) -> bool:
        """What differs besides records, and stays so: what was made a moment ago is brought over by the next round."""
        self._schema_looks = self._schema_looks + 1 if differences else 0
        if not differences or self._schema_looks >= LOOKS:
            self.wrong("schema", f"Both servers differ: {compare.summary(differences)}." if differences else "")
        return bool(differences)

    # -- what is said -----------------------------------------------------------------------------
    def _say(self, following: Following, throttle: Throttle) -> None:
        proofs = following.position.proofs
        now = time.time()
        with suppress(CutoverError):
            names = following.source.collections()
            self.seen.proved, self.seen.oldest_proof = self._share(following, names), proofs.oldest(names)
        since = max(1.0, now - self._written_at[0][0]) if self._written_at else 1.0
        self.seen.writes_per_second = sum(n for _, n in self._written_at) / since
        if self.seen.wrong.get("server"):
            self.seen.waiting_for = "an answer"
            self.seen.behind_seconds = now - following.position.at
            with suppress(CutoverError):
                parts = self._context.gate.read_parts(following.position.offset)
                self.seen.behind_writes = sum(bool(one.side) for part in parts for one in part)
        else:
            self.seen.waiting_for = f"applications ({throttle.reason})" if throttle.reason else "writes"
        self._show()

    def _show(self) -> None:
        self.seen.at = time.time()
        with suppress(OSError):  # a full disk is said by who has to write
            files.replace(seen_path(self._context), json.dumps(asdict(self.seen)))
        self._tell(self.seen)
