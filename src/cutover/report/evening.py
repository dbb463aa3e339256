"""The page for who decides: what was done and when, what users felt of it, and what is left. Made from the journal alone.

One HTML file without network or script, for a screen, a phone or the browser's print. It claims what the journal has: where
nobody was watched, it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cutover import __version__
from cutover.core import events
from cutover.core.journal import Entry, seconds
from cutover.core.text import spoken
from cutover.report.html import document, e


@dataclass(frozen=True)
class Happened:
    """One time that a step was carried out. ``end``: ``finished``, ``undone``, ``waiting``, or ``ended`` (interrupted).

    ``began`` and ``at`` are UTC, RFC 3339; ``said`` are the sentences of its outcome.
    """

    step: str
    title: str
    began: str
    at: str
    end: str
    said: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return between(self.began, self.at)


@dataclass(frozen=True)
class Evening:
    """What the page says."""

    site: str
    verdict: str
    ok: bool
    happened: Sequence[Happened] = ()
    felt: Sequence[tuple[str, str]] = ()
    left: Sequence[str] = ()
    criteria: str = ""


def between(began: str, ended: str) -> float:
    """Seconds between two times of the journal."""
    return seconds(ended) - seconds(began)


def of(site: str, entries: Sequence[Entry], steps: Sequence[tuple[str, str]], criteria: str = "") -> Evening:
    """What a journal tells. Pure. ``steps``: (command, title) of the plan in its order; ``criteria``: the report's verdict."""
    titles = dict(steps)
    happened = _happened(entries, titles)
    verdict, ok = _verdict(entries)
    done = set(events.all_finished(entries))
    recorded = {name for name, _ in steps if name != "check"}
    left = [title for name, title in steps if name in recorded - done]
    return Evening(site, verdict, ok, happened, _felt(entries, happened), left, criteria)


def _happened(entries: Sequence[Entry], titles: dict[str, str]) -> list[Happened]:
    found: list[Happened] = []
    began: dict[str, str] = {}
    for entry in entries:
        step, _, what = entry.act.partition(".")
        if step not in titles:
            continue
        if entry.kind == "note" and what in {"finished", "undone", "waiting"}:
            said = [line for line in entry.what.splitlines() if line.strip()]
            if entry.extra.get("changed", True):
                found.append(Happened(step, titles[step], began.get(step, entry.at), entry.at, what, said))
            began.pop(step, None)
        else:
            began.setdefault(step, entry.at)
    for step, at in began.items():
        last = next(entry for entry in reversed(entries) if entry.act.startswith(f"{step}."))
        found.append(
            Happened(step, titles[step], at, last.at, "ended", [f"It did not come to its end: {last.reason or last.what}."])
        )
    return sorted(found, key=lambda one: one.began)


def _verdict(entries: Sequence[Entry]) -> tuple[str, bool]:
    side, given_up = events.last_move(entries), events.given_up(entries)
    interrupted = events.last_open(entries)
    if interrupted is not None:
        return f"A step was interrupted: {interrupted.what}.", False
    if events.finished(entries, "decommission"):
        return "The move is complete: the new server serves, and the old servers are given back.", True
    if side == "new":
        way = "the way back was given up on purpose" if given_up else "the old server is kept up to date, so the way back is open"
        return f"The traffic moved to the new server; {way}.", True
    if side == "old":
        return "The traffic moved back to the old server.", False
    return "The traffic has not moved: the old server serves.", not entries


def _felt(entries: Sequence[Entry], happened: Sequence[Happened]) -> list[tuple[str, str]]:
    """(how long or how often, what it was) for everything that users could have noticed."""
    rows: list[tuple[str, str]] = []
    holding: dict[str, str] = {}
    for entry in entries:
        step, _, what = entry.act.partition(".")
        if what == "hold" and entry.kind == "done":
            holding[step] = entry.at
        elif what == "release" and entry.kind == "done" and step in holding:
            waited = between(holding.pop(step), entry.at)
            rows.append((f"{waited:.2f} s", f"writes waited while the traffic moved ({step}, {clock(entry.at)}); reads did not"))
    begun = {entry.seq: entry for entry in entries if entry.act == events.REBOOTED and entry.kind == "intent"}
    for entry in entries:
        if entry.act == events.REBOOTED and entry.kind == "done" and entry.of in begun:
            away = between(begun[entry.of].at, entry.at)
            rows.append((f"{away:.0f} s", f"the new server's machine restarted, with what else runs there ({clock(entry.at)})"))
    wrong = [entry for entry in entries if entry.act == events.NEIGHBOUR_WRONG]
    rows += [(clock(entry.at), entry.what) for entry in wrong]
    watched = [line for one in happened for line in one.said if line.startswith("Meanwhile ")]
    if watched and not wrong:
        rows.append(("nothing else", f"vLLM and Portainer were asked during {len(watched)} steps and answered as before"))
    elif not watched:
        rows.append(("not known", "nobody was asked whether vLLM and Portainer answered"))
    return rows


def clock(at: str) -> str:
    """``2026-01-01T20:15:00.123Z`` as ``2026-01-01 20:15``."""
    return at.replace("T", " ")[:16]


_MORE = """
.line{list-style:none;margin:1rem 0;padding:0}
.line li{display:grid;grid-template-columns:8.5rem 5rem minmax(0,1fr);gap:.1rem .8rem;
padding:.55rem 0;border-top:1px solid var(--line);break-inside:avoid}
.line b{font-weight:600}.line .n{text-align:right;color:var(--soft);white-space:nowrap}.line p{color:var(--soft);font-size:.92rem}
.felt dt{font-weight:600;font-variant-numeric:tabular-nums}
.felt{display:grid;grid-template-columns:8.5rem minmax(0,1fr);gap:.35rem .8rem}
.felt dd{margin:0}footer{margin-top:2.5rem;color:var(--soft);font-size:.85rem;border-top:1px solid var(--line);padding-top:.5rem}
@media(max-width:44rem){.line li,.felt{grid-template-columns:1fr}.line .n{text-align:left}.felt dd{margin-bottom:.5rem}}
"""


def page(evening: Evening) -> str:
    """The whole page."""
    kind = "met" if evening.ok else "not-shown"
    body = [f"<header><div class='verdict {kind}'><h1>{e(evening.verdict)}</h1>"]
    body.append(f"<p class=soft>Qdrant of {e(evening.site)}. Times are UTC.</p>")
    if evening.criteria:
        body.append(f"<p>{e(evening.criteria)}</p>")
    body.append("</div></header><main><h2>What happened</h2>")
    body.append("<ol class=line>" + "".join(map(_row, evening.happened)) + "</ol>" if evening.happened else "<p>Nothing yet.</p>")
    body.append("<h2>What users felt</h2><dl class=felt>")
    body += [f"<dt>{e(much)}</dt><dd>{e(what)}</dd>" for much, what in evening.felt]
    body.append("</dl><h2>What is left</h2>")
    left = "".join(f"<li>{e(one)}</li>" for one in evening.left)
    body.append(f"<ul>{left}</ul>" if left else "<p>Nothing: the plan is carried out.</p>")
    body.append(f"</main><footer>Made from the journal by cutover {e(__version__)}.</footer>")
    return document(f"The move of {evening.site}", body, _MORE)


#: Which sentence of a step is shown, where it is not the first: that of a backup says where it was written down, and the last one
#: of resize says what size was proved.
_TELLS = {"backup": 1, "resize": -1}


def _row(one: Happened) -> str:
    mark = {"finished": "", "undone": " (undone)", "waiting": " (waits)", "ended": " (interrupted)"}[one.end]
    lines = [line for line in one.said if not line.startswith("Meanwhile ")]
    first = next(iter(lines[_TELLS.get(one.step, 0) :] or lines), "") if one.end == "finished" else next(iter(lines), "")
    return (
        f"<li><time datetime='{e(one.began)}'>{e(clock(one.began))}</time><span class=n>{e(spoken(one.seconds))}</span>"
        f"<div><b>{e(one.title)}{mark}</b><p>{e(first)}</p></div></li>"
    )
