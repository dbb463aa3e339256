"""Sending recorded writes to the old server once more, in the order in which they ended.

Killed at any line it may be begun again. Writes that name their records only set or remove what they name, so sending all of
them again from an earlier position leads to the same state. What looks at the state first (a filter, a condition, an alias, a
collection that is made or deleted) does not: there everything before it is applied and confirmed first, and the position is saved
before and after each single step, so that at most the last one is sent twice, which changes nothing either. Writes that name
different records are sent together (:mod:`cutover.replication.together`). Where the order of two is not known, the old server is
asked whether it matters (:mod:`cutover.replication.order`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cutover.core.errors import Failed, OutcomeUnknown
from cutover.core.journal import utc
from cutover.core.threads import side_by_side
from cutover.gate.interface import BODY_MOST, TOO_LARGE
from cutover.gate.write_log import Write
from cutover.qdrant.affected import Affected, PointId, affected_by
from cutover.qdrant.client import LONG, Answered
from cutover.qdrant.routes import path_of
from cutover.replication import switchover
from cutover.replication.account import Account, described, keep_doubt
from cutover.replication.again import Step, steps_of
from cutover.replication.late_writes import keep_lines
from cutover.replication.order import Order
from cutover.replication.position import Position
from cutover.replication.together import Named, Request, layers, named, requests_of

if TYPE_CHECKING:
    from cutover.context import Context

#: Steps, and bytes of them, that are looked at together, and requests that are sent side by side.
RUN, RUN_BYTES, SIDE_BY_SIDE = 2_000, 16 << 20, 4
#: Qdrant's words for "not like this": the old server was in another state. Noted, and gone on.
_NOTED = frozenset({400, 404, 409, 422})
#: In the state folder: what the old server answered with an error, one a line.
REFUSED = "replay-refused.jsonl"


def resend(context: Context, position: Position, found: Account) -> int:
    """Send the writes to the old server once more, in their order. Returns how many of them it answered with an error.

    The caller keeps an act open. Killed at any point, it goes on from the saved position.
    """
    if position.replayed < position.offset:
        position.replayed, position.part = position.offset, 0  # following brought over more than was replayed before
    done_before, writes = position.part, found.writes
    with context.ui.progress(f"Bringing {context.old.name} up to date", len(writes), "writes") as advance:
        sender = _Sender(context, position, found, advance)
        for entry, (_, body) in zip(writes, context.gate.bodies(writes), strict=True):
            if body == TOO_LARGE:
                raise Failed(
                    f"The write {entry.method} {path_of(entry.uri).text} of {utc(entry.at)} has over {BODY_MOST >> 20} MB "
                    "and is not sent again from the records.",
                    f"Send it to {context.old.name} from where it came, or go back while the new server can be read.",
                )
            what = affected_by(entry.method, entry.uri, body)
            steps = steps_of(entry.method, entry.uri, body, what)
            for number, step in enumerate(steps):
                if number >= done_before:  # else it was done by a run before this one
                    its = what if len(steps) == 1 else affected_by(step.method, step.path, step.body or b"")
                    sender.add(step, its, entry, body, number + 1)
            done_before = 0
            sender.ended(entry)
        sender.flush()
    position.replayed, position.part = max(position.replayed, found.end), 0
    found.seen.sent = position.replayed
    position.save(switchover.position_path(context))
    return sender.refused


class _Sender:
    """Sends steps in order, together those that cannot disturb each other, and saves how far it came.

    A run of steps that only name records may be sent once more from its beginning; so the position is saved after each run, and
    before and after each step that looks at the state.
    """

    def __init__(self, context: Context, position: Position, found: Account, advance: Callable[[int], None]) -> None:
        self._context, self._position, self._advance = context, position, advance
        self._seen = found.seen
        self._order = Order(context.old, found.seen.rivals, position, self._doubt)
        self._aliases: dict[str, str] | None = None
        self._run: list[Named] = []
        self._from: dict[int, tuple[Write, bytes]] = {}
        self._bytes, self._ended = 0, 0
        self._reached = position.replayed, position.part
        self.refused = 0

    def add(self, step: Step, what: Affected, entry: Write, body: bytes, part: int) -> None:
        """The next step, and ``what`` it may change; with it ``part`` steps of the write are done."""
        if self._aliases is None:
            self._aliases = self._context.old.aliases()
        name = self._aliases.get(what.collection, what.collection)
        one = None if self._order.passes(entry, step, what, name) else named(step, what, name)
        if one is None:
            self.flush()
            self._order.before(entry, what, name)
            self._alone(step, entry, body)
            self._order.after(entry, name)
            if not what.ids and not what.filters:
                self._aliases = None  # it may have changed them
        else:
            self._run.append(one)
            self._from[id(step)] = entry, body
            self._bytes += len(step.body or b"")
        self._reached = self._reached[0], part
        if one is None or len(self._run) >= RUN or self._bytes >= RUN_BYTES:
            self.flush()

    def ended(self, entry: Write) -> None:
        """All steps of a write were added."""
        self._reached = entry.offset, 0
        self._ended += 1

    def flush(self) -> None:
        """Send what was added. When this returns it is done, and saved."""
        for layer in layers(self._run):
            side_by_side([partial(self._together, request) for request in requests_of(layer)], SIDE_BY_SIDE)
        self._run, self._from, self._bytes = [], {}, 0
        if (self._position.replayed, self._position.part) != self._reached:
            self._position.replayed, self._position.part = self._reached
            self._position.save(switchover.position_path(self._context))
        self._advance(self._ended)
        self._ended = 0

    def _together(self, request: Request) -> None:
        if len(request.steps) == 1:
            self._alone(request.step, *self._from[id(request.step)])
        elif _send(self._context, request.step) is not None:
            half = len(request.steps) // 2  # which of them was refused, and what it is told, is known when it is alone
            for part in (request.steps[:half], request.steps[half:]):
                for smaller in requests_of(part):
                    self._together(smaller)

    def _doubt(self, entry: Write, rival: Write | None, name: str, records: set[PointId]) -> None:
        writes = [entry] if rival is None else [rival, entry]
        words = [f"{name} {one}" for one in sorted(records, key=str)] or [f"{name} records chosen by what they hold"]
        self._seen.note(writes, words)
        keep_doubt(self._context, writes, words)

    def _alone(self, step: Step, entry: Write, body: bytes) -> None:
        if (reason := _send(self._context, step)) is not None:
            with _LOCK:
                self.refused += 1
                keep_lines(self._context.state_dir / REFUSED, [{**described(entry, body), "answered": reason}])


_LOCK = threading.Lock()


def _send(context: Context, step: Step) -> str | None:
    """Send one step; what the old server said where it was an error that only tells of another state."""
    try:
        context.old.raw(step.method, step.path, step.body, params=step.params, timeout=LONG)
    except Answered as error:
        if error.status in _NOTED:
            return error.sentence
        raise
    except OutcomeUnknown as error:
        # Once more is harmless here; whether it is there at all is for the next run to find out.
        raise Failed(error.sentence, "Run `back` again when it answers: it goes on with exactly this write.") from error
    return None
