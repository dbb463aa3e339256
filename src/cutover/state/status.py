"""Where the move is: planned, copying, ready, moving, watching, finished or unknown.

Derived, never stored: from the gate's flags on the Nginx host, from the journal, and from how far the other server is up to
date. Every answer ends with three lines: what is true now, on whom or what it waits, and what the operator can do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cutover.core import events
from cutover.core.errors import CutoverError
from cutover.core.journal import Entry, utc
from cutover.core.text import counted, spoken
from cutover.gate.write_log import Damaged
from cutover.replication import left_behind, switchover, watch
from cutover.replication.position import CannotFollow, Position

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.gate.folder import State
    from cutover.gate.interface import Flags

Name = Literal["planned", "copying", "ready", "moving", "watching", "finished", "unknown"]

#: What may be done in each state; before the copy and after the end it is what the journal does not know as done (:func:`_can`).
YOU_CAN: dict[Name, tuple[str, ...]] = {
    "planned": ("check", "backup", "resize", "deploy", "gate", "copy"),
    "copying": ("copy (goes on where it was)", "undo copy"),
    "ready": ("switch", "follow", "undo copy"),
    "moving": ("status",),
    "watching": ("back", "follow", "finish"),
    "finished": ("decommission", "settle"),
    "unknown": ("status, after looking at what the reason names",),
}

NOTHING_MORE = "nothing more: the plan is carried out"


@dataclass(frozen=True)
class Status:
    """The answer. ``behind_seconds``: how old the state is that the other server holds; None where nothing is followed."""

    state: Name
    since: str
    reason: str
    now: str
    waiting_for: str
    you_can: Sequence[str]
    can_switch: bool = False
    can_go_back: bool = False
    behind_writes: int | None = None
    behind_seconds: float | None = None
    used: str = ""
    """Who uses the server that was left behind, a sentence without its full stop; empty where nobody was seen."""
    watch: str = ""
    """What `follow --watch` says, where it is running; empty where it is not."""

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            f"{self.state} (since {self.since}): {self.reason}" if self.since else f"{self.state}: {self.reason}",
            *([f"Attention:   {self.used}."] if self.used else []),
            f"Now:         {self.now}",
            *([f"Watch:       {self.watch}."] if self.watch else []),
            f"Waiting for: {self.waiting_for}",
            f"You can:     {', '.join(self.you_can)}",
        ]


@dataclass(frozen=True)
class StatusFacts:
    """What is known of the world; from it :func:`judge` decides, without asking anybody."""

    flags: Flags | None
    gate_problem: str
    entries: Sequence[Entry]
    position: Position | None
    behind_writes: int | None
    now: float
    folder: str = ""
    used: str = ""
    damage: str = ""
    """Why it cannot be known how far the other server is up to date, a sentence."""
    watch: str = ""
    contradicts: str = ""
    """Why Nginx does not do what the gate's flags say, a sentence: the flags are not believed then."""

    @property
    def doubt(self) -> str:
        """Why the other server is not a copy that can be brought up to date; empty where it is."""
        return (self.damage or (self.position.doubt if self.position is not None else "")).rstrip(".")


def status(context: Context, *, glance: bool = False) -> Status:
    """Look and judge. Reads only. ``glance``: watch for some seconds who uses the server that was left behind."""
    flags: State | None = None
    problem = ""
    try:
        flags = context.gate.state()
    except CutoverError as error:
        problem = str(error)
    contradicts = ""
    if flags is not None:
        with suppress(CutoverError):  # an nginx that cannot be asked contradicts nothing
            if flags.installed or context.gate.installer.leads_here():
                contradicts = context.gate.contradiction()
    position, behind, damage = None, None, ""
    try:
        position = Position.load(switchover.position_path(context))
        if flags is not None and flags.recording and position is not None:
            behind = sum(bool(one.side) for part in context.gate.read_parts(position.offset) for one in part)
    except (CannotFollow, Damaged) as error:
        damage = error.sentence
    used = left_behind.glance(context) if glance and flags is not None and flags.side == "new" else ""
    folder = str(context.state_dir)
    return judge(
        StatusFacts(
            flags,
            problem,
            context.journal.entries(),
            position,
            behind,
            time.time(),
            folder,
            used,
            damage,
            watch=watched.line() if (watched := watch.last_seen(context)) is not None else "",
            contradicts=contradicts,
        )
    )


def judge(seen: StatusFacts) -> Status:
    """The state of the move. Pure."""
    entries = seen.entries
    last = entries[-1].at if entries else ""
    interrupted_act = events.last_open(entries)
    if seen.watch and interrupted_act is not None and interrupted_act.act == watch.WATCHES:
        interrupted_act = None
    if seen.flags is None:
        if not events.copy_begun(entries):
            says = f"nothing was copied yet, says the journal{f' in {seen.folder}' if seen.folder else ''}"
            return _status(
                "planned", last, says, f"Nginx could not be asked which server serves: {seen.gate_problem}", "your decision", seen
            )
        return _status("unknown", last, seen.gate_problem, "Nginx could not be asked which server serves.", "Nginx", seen)
    side, held = seen.flags.side, seen.flags.held
    serves, lost = f"The {side} server serves", f" ({seen.flags.lost})" if seen.flags.lost else ""
    if seen.contradicts:
        other = (
            "the old server still gets writes: they are missing on the new one" if side == "new" else "writes may pass unrecorded"
        )
        lost = events.lost_with_the_gate(entries, side, seen.flags.recording)
        return _status(
            "unknown", last, seen.contradicts.rstrip("."),
            f"EMERGENCY: {lost or f'the flags say that the {side} server serves, but {other}.'}",
            "your decision: `cutover gate` leads every request through the gate again; then `follow`", seen,
        )  # fmt: skip
    if held:
        acting = interrupted_act.what if interrupted_act is not None else "a move"
        return _status(
            "moving", last, f"writes are held ({acting})", f"{serves}; writes wait.",
            "the move; a hold that was abandoned ends by itself within seconds", seen,
        )  # fmt: skip
    behind = _behind(seen)
    interrupted = f"; interrupted while: {interrupted_act.what}" if interrupted_act is not None else ""
    if side == "new":
        since = events.last_at(entries, events.POINTED_TO_NEW) or last
        if not seen.flags.recording:
            given_up = events.given_up(entries)
            reason = f"the traffic moved and nothing is recorded{lost}; `follow` begins anew"
            reason = "the way back was given up" if given_up else reason
            gone = "; the old guests were given back" if events.finished(entries, "decommission") else ""
            return _status("finished", since, f"{reason}{interrupted}", f"{serves}{gone}.", _waits_at_the_end(seen), seen)
        if seen.doubt:
            return _status(
                "watching", since, f"the traffic moved to the new server, and the way back is broken: {seen.doubt}",
                f"{serves}; the old one is not up to date.",
                "your decision: `follow` compares everything anew and opens it again, `finish` gives it up", seen,
            )  # fmt: skip
        late = ""
        if seen.position is not None and seen.position.conflicts:
            late = f" {seen.position.conflicts} late writes conflict with newer ones; see late-writes.jsonl."
        return _status(
            "watching", since, "the traffic moved to the new server",
            f"{serves}; the old one {behind}.{late}", "your decision: `back` while it is wanted, `finish` when it is not", seen,
        )  # fmt: skip
    if not seen.flags.recording:
        if events.copy_begun(entries):
            return _status(
                "unknown", last, f"a copy was begun, but nothing is recorded{lost}",
                f"{serves}; what was written since is not known.", "your decision: `copy` begins again", seen,
            )  # fmt: skip
        if events.went_back_from_records(entries):
            return _status(
                "planned", last, "the new server was gone, and the old one was brought up to date from the records",
                f"{serves}; the new one is not followed.", "your decision: `copy`, when the new server is there again", seen,
            )  # fmt: skip
        return _status("planned", last, "nothing was copied yet", f"{serves}.", "your decision", seen)
    if seen.position is not None and seen.position.alone and seen.position.side == "new":
        return _status(
            "unknown", last, "the traffic was moved without the new server, and the tool ended before it had cleaned up",
            f"{serves}; the new one is not followed.", "your decision: `back` once more", seen,
        )  # fmt: skip
    if seen.doubt:
        return _status(
            "unknown",
            last,
            seen.doubt,
            f"{serves}; the new one is not up to date.",
            "your decision: `undo copy`, then `copy`",
            seen,
        )
    proved = events.proved_at(entries)
    if not proved:
        return _status(
            "copying", events.last_at(entries, events.COPY_RECORDS) or last, f"the copy is not complete{interrupted}",
            f"{serves}; writes are recorded.", "`copy` to end, or to be run again", seen,
        )  # fmt: skip
    return _status(
        "ready", proved, f"both servers held the same data at {proved}{interrupted}",
        f"{serves}; the new one {behind}.", "your decision: `switch`", seen,
    )  # fmt: skip


def _status(state: Name, since: str, reason: str, now: str, waiting: str, seen: StatusFacts) -> Status:
    return Status(
        state=state,
        since=since,
        reason=reason,
        now=now,
        waiting_for=waiting,
        you_can=_can(state, seen.entries),
        can_switch=state == "ready",
        can_go_back=state == "watching" and not seen.doubt,
        behind_writes=seen.behind_writes,
        behind_seconds=_age(seen),
        used=seen.used,
        watch=seen.watch,
    )


def _can(state: Name, entries: Sequence[Entry]) -> tuple[str, ...]:
    """What may be done: in the plan's order, without the steps that are done; `check` and `copy` are always worth offering."""
    if state not in {"planned", "finished"}:
        return YOU_CAN[state]
    left = tuple(step for step in YOU_CAN[state] if step in {"check", "copy"} or events.finished(entries, step) is None)
    return left or (NOTHING_MORE,)


def _waits_at_the_end(seen: StatusFacts) -> str:
    """On what the last steps wait: the time in which the site lives without the old guests, the operator, or nothing."""
    if _can("finished", seen.entries) == (NOTHING_MORE,):
        return "nothing"
    until = events.waits_until(seen.entries, "decommission")
    if until > utc(seen.now):
        return f"the time that the site has to live without the old guests, until {until}; then `decommission` again"
    return "your decision" + (": `decommission` again, the time without the old guests is over" if until else "")


def _age(seen: StatusFacts) -> float | None:
    if seen.position is None or seen.behind_writes is None:
        return None
    return 0.0 if not seen.behind_writes else max(0.0, round(seen.now - seen.position.at, 1))


def _behind(seen: StatusFacts) -> str:
    age = _age(seen)
    if age is None:
        return "is not followed"
    if not seen.behind_writes:
        return "has everything that was written"
    writes = counted(seen.behind_writes, "write")
    return f"is {writes} and {spoken(age)} behind (recorded; `follow` brings them over)"
