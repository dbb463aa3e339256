"""A picture of a move: requests per second by server, the writes that had to wait, and the moment of the switch.

Drawn from what was recorded and nothing else. The journal says when writes were held and when the flag was set; the gate's log
says which server answered each write, and which writes waited; the application of the lab says how many requests it was answered
in each tenth of a second. Reads are not in the gate's log: they follow the flag, so a read counts for the server that served when
it was answered. Without an application's own record, as on the live site, the picture shows writes alone, and says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any

from cutover.core.journal import Entry, Journal, seconds
from cutover.gate.write_log import Line, lines

if TYPE_CHECKING:
    from cutover.context import Context

#: Width of a bar in seconds, and what is shown before and after the hold.
BIN = 0.1
AROUND = 2.5
#: How much of the gate's log is fetched for a picture of a live site.
LOG_BYTES = 20_000_000


@dataclass(frozen=True)
class Sample:
    """What an application was answered in one tenth of a second that begins at ``at`` (seconds since 1970)."""

    at: float
    reads: int
    writes: int
    failed: int
    longest: float = 0.0


@dataclass(frozen=True)
class Move:
    """One move. Lists have one number per bar, from ``began`` on; ``hold``, ``switch`` and ``release`` are seconds after it."""

    title: str
    began: float
    hold: float
    switch: float
    release: float
    old: Sequence[int]
    new: Sequence[int]
    waiting: Sequence[int]
    failed: int | None
    longest: float | None
    reads: bool

    def as_json(self) -> dict[str, Any]:
        """For ``acceptance.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Move:
        """From ``acceptance.json``."""
        return cls(**data)


@dataclass(frozen=True)
class _Hold:
    title: str
    to_new: bool
    begin: float
    switch: float
    end: float


def moves(entries: Iterable[Entry], log: Sequence[Line], samples: Sequence[Sample] = ()) -> list[Move]:
    """Every move of the traffic that the journal knows and that something was recorded of. Pure."""
    found = (_drawn(hold, log, samples) for hold in _holds(entries))
    return [move for move in found if sum(move.old) + sum(move.new) > 0]


def _holds(entries: Iterable[Entry]) -> list[_Hold]:
    holds: list[_Hold] = []
    begin = switch = 0.0
    for entry in entries:
        verb, _, act = entry.act.rpartition(".")
        if verb not in {"switch", "back"} or entry.kind not in {"done", "intent"}:
            continue
        at = seconds(entry.at)
        if act == "hold" and entry.kind == "done":
            begin, switch = at, 0.0
        elif act == "point" and entry.kind == "done":
            switch = at
        elif act == "release" and entry.kind == "done" and begin and switch:
            title = "The traffic moves to the new server" if verb == "switch" else "The traffic goes back to the old server"
            holds.append(_Hold(title, verb == "switch", begin, switch, at))
            begin = switch = 0.0
    return holds


def _drawn(hold: _Hold, log: Sequence[Line], samples: Sequence[Sample]) -> Move:
    began = int((hold.begin - AROUND) / BIN) * BIN
    bars = int((hold.end + AROUND - began) / BIN)
    old, new, waiting = [0] * bars, [0] * bars, [0] * bars

    def bar(at: float) -> int | None:
        found = int((at - began) / BIN)
        return found if 0 <= found < bars else None

    held: dict[str, float] = {}
    for line in log:
        if line.kind == "held":
            held.setdefault(line.id, line.at)
        elif line.kind in {"passed", "end"} and line.id in held:
            for at in range(max(0, int((held.pop(line.id) - began) / BIN)), min(bars, int((line.at - began) / BIN) + 1)):
                waiting[at] += 1
        where = bar(line.at)
        if line.kind == "end" and line.write is not None and where is not None and line.write.side in {"old", "new"}:
            (old if line.write.side == "old" else new)[where] += 1
    inside = [s for s in samples if bar(s.at) is not None]
    for sample in inside:
        where = bar(sample.at)
        assert where is not None
        served_by_new = (sample.at >= hold.switch) == hold.to_new
        (new if served_by_new else old)[where] += sample.reads
    return Move(
        title=hold.title,
        began=round(began, 3),
        hold=round(hold.begin - began, 3),
        switch=round(hold.switch - began, 3),
        release=round(hold.end - began, 3),
        old=old,
        new=new,
        waiting=waiting,
        failed=sum(s.failed for s in inside) if inside else None,
        longest=max((s.longest for s in inside), default=None),
        reads=bool(inside),
    )


def recorded(context: Context) -> list[Move]:
    """The moves of a live site, as far as the last ``LOG_BYTES`` of the gate's log reach back. Reads only."""
    entries = Journal(context.state_dir, context.site.name).entries()
    if not _holds(entries) or not context.gate.state().installed:
        return []
    log = shlex.quote(f"{context.site.nginx.gate_folder}/log/writes.jsonl")
    found = context.gate.shell.read(f"[ ! -f {log} ] || tail -c {LOG_BYTES} {log}")
    # The first line may be cut; the last one is only read when it is complete.
    data = found.out if len(found.out) < LOG_BYTES else found.out.partition(b"\n")[2]
    return moves(entries, list(lines(data, 0)))


# -- drawing ----------------------------------------------------------------------------------------------------------
_WIDTH, _LEFT, _RIGHT, _TOP, _PLOT, _GAP, _STRIP = 760, 56, 12, 64, 170, 34, 44


def svg(move: Move, name: str) -> str:
    """The picture as SVG that takes its colours from the page; ``name`` makes its ids unique."""
    bars = len(move.old)
    wide = (_WIDTH - _LEFT - _RIGHT) / bars
    totals = [a + b for a, b in zip(move.old, move.new, strict=True)]
    top = _round_up(max([*totals, 1]) / BIN)
    most = max([*move.waiting, 1])
    base, strip = _TOP + _PLOT, _TOP + _PLOT + _GAP + _STRIP

    def x(second: float) -> float:
        return round(_LEFT + second / BIN * wide, 1)

    def high(count: int) -> float:
        return round(count / BIN / top * _PLOT, 1)

    height = strip + 44
    parts = [
        f"<svg viewBox='0 0 {_WIDTH} {height}' role=img aria-labelledby='{name}-t {name}-d'>",
        f"<title id='{name}-t'>{escape(move.title)}</title><desc id='{name}-d'>{escape(describe(move))}</desc>",
        _rect("hold", x(move.hold), _TOP - 8, max(1.0, x(move.release) - x(move.hold)), strip - _TOP + 8),
    ]
    for share in (0.5, 1.0):
        y = base - _PLOT * share
        parts.append(f"<line class=grid x1={_LEFT} x2={_WIDTH - _RIGHT} y1={y} y2={y}></line>")
        parts.append(f"<text class=soft x={_LEFT - 6} y={y + 4} text-anchor=end>{top * share:g}</text>")
    parts.append(f"<text class=soft x={_LEFT - 6} y={base + 4} text-anchor=end>0</text>")
    for at in range(bars):
        left, width = round(_LEFT + at * wide + 0.4, 1), round(max(wide - 0.8, 0.5), 1)
        first, second = high(move.old[at]), high(move.new[at])
        if first:
            parts.append(_rect("old", left, base - first, width, first))
        if second:
            parts.append(_rect("new", left, base - first - second, width, second))
        if move.waiting[at]:
            tall = round(move.waiting[at] / most * _STRIP, 1)
            parts.append(_rect("wait", left, strip - tall, width, tall))
    parts += [
        f"<line class=axis x1={_LEFT} x2={_WIDTH - _RIGHT} y1={base} y2={base}></line>",
        f"<line class=axis x1={_LEFT} x2={_WIDTH - _RIGHT} y1={strip} y2={strip}></line>",
        f"<line class=switch x1={x(move.switch)} x2={x(move.switch)} y1={_TOP - 26} y2={strip}></line>",
        f"<text class=soft x={_LEFT - 44} y=16>{'requests' if move.reads else 'writes'} answered per second</text>",
        f"<text x={x(move.switch) + 5} y={_TOP - 18}>switch</text>",
        f"<text x={x(move.hold) - 6} y={_TOP - 18} text-anchor=end>writes held {move.release - move.hold:.2f} s</text>",
    ]
    parts += [
        _rect("old", 270, 5, 12, 12),
        "<text x=288 y=16>old server</text>",
        _rect("new", 380, 5, 12, 12),
        "<text x=398 y=16>new server</text>",
        f"<text class=soft x={_LEFT - 44} y={base + _GAP - 8}>writes waiting, at most {max(move.waiting, default=0)}</text>",
    ]
    for second in range(int(bars * BIN) + 1):
        parts.append(f"<line class=axis x1={x(second)} x2={x(second)} y1={strip} y2={strip + 5}></line>")
        parts.append(f"<text class=soft x={x(second)} y={strip + 20} text-anchor=middle>{second} s</text>")
    return "".join([*parts, "</svg>"])


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f"<rect class={kind} x={x:.1f} y={y:.1f} width={width:.1f} height={height:.1f}></rect>"


def describe(move: Move) -> str:
    """The picture in words."""
    last_old = sum(move.old)
    what = "requests" if move.reads else "writes"
    began = datetime.fromtimestamp(move.began, UTC).strftime("%H:%M:%S UTC on %Y-%m-%d")
    words = [
        f"The picture begins at {began}.",
        f"In {len(move.old) * BIN:.1f} s the old server answered {last_old} {what} and the new one {sum(move.new)}.",
        f"Writes were held for {move.release - move.hold:.2f} s; at most {max(move.waiting, default=0)} waited at a time.",
    ]
    if move.failed is not None:
        words.append(f"{move.failed} requests failed.")
    if move.longest is not None:
        words.append(f"The longest write took {move.longest:.2f} s.")
    if not move.reads:
        words.append("Reads are not recorded, and never wait.")
    return " ".join(words)


def _round_up(value: float) -> float:
    step = 1.0
    while True:
        for factor in (1, 2, 4, 5, 10):
            if step * factor >= value:
                return step * factor
        step *= 10
