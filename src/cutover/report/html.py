"""The acceptance report as one HTML page: no network, no script, readable in the dark, on a phone and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from cutover import __version__
from cutover.core.text import plain
from cutover.report.chart import BIN, Move, describe, svg
from cutover.report.model import MARK, PLACES, Evidence, Place, Report, Row, Run, headline, said_of_waiver, summary

#: More pictures than these say nothing new.
MOST_PICTURES = 3

STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--soft:#575757;--paper:#fff;--raised:#f5f5f3;--line:#d6d6d2;
--met:#0b6b2e;--un:#a8071a;--open:#7a4d00;--old:#3d6fb4;--new:#c2571a;--wait:#6b6b6b;--hold:#f3e7b8}
@media screen and (prefers-color-scheme:dark){:root{--ink:#ececea;--soft:#b3b3ae;--paper:#141413;--raised:#20201e;--line:#3f3f3b;
--met:#74d391;--un:#ff9a93;--open:#e6b84f;--old:#7fb0f0;--new:#f09a5b;--wait:#a5a5a0;--hold:#443c18}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;color:var(--ink);background:var(--paper);
max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .4rem;text-wrap:balance}
h2{font-size:1.15rem;margin:2.2rem 0 .4rem}h3{font-size:1rem;margin:1.2rem 0 .2rem}
p{margin:.3rem 0}a{color:inherit}
.verdict{border-left:.5rem solid;padding:.2rem 0 .2rem 1rem}
.verdict.met{border-color:var(--met)}.verdict.not-met{border-color:var(--un)}.verdict.not-shown{border-color:var(--open)}
.soft{color:var(--soft)}
.runs{width:100%;border-collapse:collapse;margin:1rem 0;font-size:.9rem}
.runs th,.runs td{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;border-top:1px solid var(--line);
overflow-wrap:anywhere}
.runs th{font-weight:600}.runs thead th{white-space:nowrap}
.runs th .soft{font-weight:400}.runs.stack td:nth-child(2){white-space:nowrap}
.runs .n{text-align:right;padding-right:1.5rem;white-space:nowrap}
time{white-space:nowrap}code{font:.92em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
ul.rows{list-style:none;margin:0;padding:0}
.row{border-top:1px solid var(--line);padding:.65rem 0;display:grid;
grid-template-columns:7rem 2.4rem minmax(0,1fr);gap:.2rem .7rem}
.v{font-weight:600;white-space:nowrap}.met>.v,.is-met{color:var(--met)}.not-met>.v,.is-not-met{color:var(--un)}
.not-shown>.v,.is-not-shown{color:var(--open)}
.id{font-variant-numeric:tabular-nums;color:var(--soft)}
.why{overflow-wrap:anywhere}.not-met .why{border-left:.2rem solid var(--un);padding-left:.6rem}
.where{font-size:.88rem;color:var(--soft)}.where>span{margin-right:1rem;display:inline-block}
details{margin-top:.3rem}summary{cursor:pointer;color:var(--soft);font-size:.9rem;padding:.15rem 0}
.ev{margin:.4rem 0 .8rem}.ev ol{margin:.15rem 0;padding-left:1.6rem;font-size:.92rem}
figure{margin:1rem 0;background:var(--raised);padding:1rem;border-radius:.4rem}
figure h3{margin:0 0 .4rem}figure svg{width:100%;height:auto;display:block;font-size:13px}figcaption{margin-top:.5rem}
svg text{fill:var(--ink)}svg text.soft{fill:var(--soft)}svg .grid{stroke:var(--line)}svg .axis{stroke:var(--soft)}
svg .old{fill:var(--old)}svg .new{fill:var(--new)}svg .wait{fill:var(--wait)}svg .hold{fill:var(--hold)}
svg .switch{stroke:var(--ink);stroke-width:2}
.wide{overflow-x:auto}.wide table{min-width:24rem}
@media(max-width:44rem){body{padding:1rem .8rem 3rem}h1{font-size:1.3rem}
.row{grid-template-columns:auto 1fr}.row>div{grid-column:1/-1}
.runs.stack,.runs.stack tbody,.runs.stack tr,.runs.stack td,.runs.stack th{display:block;padding-right:0}
.runs.stack thead{position:absolute;left:-999rem}.runs.stack td{border:0;padding:.05rem 0}
.runs.stack tr{border-top:1px solid var(--line);padding:.4rem 0}.runs.stack tbody th{border:0;padding:0}
.runs.stack td[data-of]:before{content:attr(data-of) ": ";color:var(--soft)}
figure{padding:.6rem}figure svg{min-width:34rem}}
@media print{html{font-size:12px}body{max-width:none;padding:0;font-size:1rem}
h2{break-after:avoid}.row,figure,.runs tr{break-inside:avoid}
details{display:none}figure{border:1px solid var(--line);background:none}*{print-color-adjust:exact}
@page{margin:16mm 14mm}}
"""


def e(text: object) -> str:
    """A text as it stands on the page: no tag, no entity, no sign that turns the direction of writing."""
    return escape(plain(str(text)))


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole file with these pieces of a body; ``style`` is what it needs beyond :data:`STYLE`."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{e(title)}</title><style>{STYLE}{style}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def page(report: Report) -> str:
    """The whole page."""
    found = report.rows()
    newest = max(report.runs, key=lambda r: r.started, default=None)
    site = next((r.site for r in report.runs if r.place == "live"), newest.site if newest else "")
    worst = "not-met" if any(r.verdict == "not met" and not r.waived for r in found) else ""
    worst = worst or ("not-shown" if any(r.verdict == "not shown" and not r.waived for r in found) else "met")
    body = [
        f"<header><div class='verdict {worst}'><h1>{e(headline(found))}</h1>",
        f"<p>{e(summary(found, report.site))}</p></div>",
        _runs(report.runs),
        "</header><main>",
        *_trouble(found, report),
    ]
    chapter = ""
    for row in found:
        if row.criterion.chapter != chapter:
            if chapter:
                body.append("</ul>")
            chapter = row.criterion.chapter
            body.append(f"<h2>{e(chapter)}</h2><ul class=rows>")
        body.append(_row(row, report, newest))
    body.append("</ul>")
    body += _pictures(report.runs)
    body.append(_key())
    body.append(f"</main><footer class=soft>Made by cutover {e(__version__)}.</footer>")
    return document(f"Acceptance of {site or 'the move'}", body)


def _time(at: str) -> str:
    short = at.replace("T", " ")[:16] + "Z" if at else ""
    return f"<time datetime='{e(at)}'>{e(short)}</time>" if at else ""


def _runs(runs: Sequence[Run]) -> str:
    lines = []
    for run in sorted(runs, key=lambda r: (PLACES.index(r.place), r.started)):
        cells = (
            ("site", e(run.site)),
            ("commit", f"<code>{e(run.commit)}</code>"),
            ("when", f"{_time(run.started)} to {_time(run.ended)}"),
            ("by", e(run.by)),
        )
        facts = "".join(f"<div class=soft>{e(k)}: {e(v)}</div>" for k, v in run.facts.items())
        lines.append(
            f"<tr><th scope=row>{e(run.place)}{facts}</th>" + "".join(f"<td data-of={k}>{v}</td>" for k, v in cells) + "</tr>"
        )
    head = "".join(f"<th scope=col>{name}</th>" for name in ("where", "site", "commit", "when (UTC)", "by"))
    images: dict[str, list[str]] = {}
    for run in runs:
        if run.image and run.place not in images.setdefault(run.image, []):
            images[run.image].append(run.place)
    of = [
        f"<p class=soft>Image{'' if len(images) == 1 else ' ' + e(', '.join(p))}: <code>{e(i)}</code></p>"
        for i, p in images.items()
    ]
    return f"<table class='runs stack'><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>{''.join(of)}"


def _trouble(found: Sequence[Row], report: Report) -> list[str]:
    """What is not met, once more and first: it is what the reader has come for."""
    unmet = [r for r in found if r.verdict == "not met"]
    if not unmet:
        return []
    said = "".join(
        f"<li><a href='#{e(r.criterion.id)}'>{e(r.criterion.id)}</a> {e(r.criterion.sentence)}<br>"
        f"<span class=soft>{e(str(r.where))}: {e(r.reason)} {e(said_of_waiver(r, report.today))}</span></li>"
        for r in unmet
    )
    return [f"<h2>What is not met</h2><ul>{said}</ul>"]


def _row(row: Row, report: Report, newest: Run | None) -> str:
    kind = row.verdict.replace(" ", "-")
    criterion = row.criterion
    parts = [
        f"<li class='row {kind}' id='{e(criterion.id)}'>",
        f"<span class=v><span aria-hidden=true>{MARK[row.verdict]}</span> {row.verdict}</span>",
        f"<span class=id>{e(criterion.id)}</span><div><div>{e(criterion.sentence)}</div>",
    ]
    if row.verdict != "met":
        parts.append(f"<div class=why>{e(_sentence(row.reason))}</div>")
    if waiver := said_of_waiver(row, report.today):
        parts.append(f"<div class=why><b>{e(waiver)}</b></div>")
    chips = []
    for place, shown in row.places.items():
        other = f", at commit {shown.commit}" if newest is not None and shown.commit != newest.commit else ""
        when = f" {_time(shown.at)}{e(other)}" if shown.verdict != "not shown" else ""
        chips.append(
            f"<span>{e(place)}: <span class=is-{shown.verdict.replace(' ', '-')}>"
            f"<span aria-hidden=true>{MARK[shown.verdict]}</span> {shown.verdict}</span>{when}</span>"
        )
    parts.append(f"<div class=where>{''.join(chips)}</div>")
    total = sum(len(one) for one in row.evidence.values())
    if total:
        parts.append(f"<details><summary>What was shown for {e(criterion.id)} ({total})</summary>")
        for place, evidence in row.evidence.items():
            parts += [_evidence(place, one) for one in evidence]
        parts.append("</details>")
    parts.append("</div></li>")
    return "".join(parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


_OUTCOMES = {"passed": ("is-met", "shown"), "failed": ("is-not-met", "failed"), "skipped": ("is-not-shown", "left out"),
             "unclear": ("is-not-shown", "could not be evaluated")}  # fmt: skip


def _evidence(place: Place, one: Evidence) -> str:
    style, word = _OUTCOMES[one.outcome]
    took = f" in {one.seconds:.1f} s" if one.seconds >= 0.05 else ""
    said = [f"<div class=ev><p>{e(one.name)} <span class={style}>{word}</span> <span class=soft>{e(place)}{took}</span></p>"]
    if one.steps:
        failed = f"<li><b>{e(one.sentence)}</b></li>" if one.outcome == "failed" and one.sentence not in one.steps else ""
        said.append("<ol>" + "".join(f"<li>{e(step)}</li>" for step in one.steps) + failed + "</ol>")
    elif one.sentence:
        said.append(f"<p>{e(one.sentence)}</p>")
    if one.reason:
        said.append(f"<p class=soft>{e(_sentence(one.reason))}</p>")
    return "".join([*said, "</div>"])


def _pictures(runs: Sequence[Run]) -> list[str]:
    drawn: list[tuple[Run, dict[str, Any]]] = [(run, move) for run in runs for move in run.moves]
    # The newest with the most traffic: the live site's first, then the busiest.
    drawn.sort(key=lambda one: (PLACES.index(one[0].place), -sum(one[1]["old"]) - sum(one[1]["new"])))
    if not drawn:
        return []
    parts = ["<h2>The move, as it was recorded</h2>"]
    for number, (run, data) in enumerate(drawn[:MOST_PICTURES]):
        move = Move.from_json(data)
        parts.append(
            f"<figure><h3>{e(move.title)} <span class=soft>({e(run.place)})</span></h3>"
            f"<div class=wide tabindex=0 role=region aria-label='Picture of move {number + 1}'>{svg(move, f'm{number}')}</div>"
            f"<figcaption>{e(describe(move))}</figcaption>{_numbers(move)}</figure>"
        )
    return parts


def _numbers(move: Move) -> str:
    lines = [
        f"<tr><th scope=row class=n>{at * BIN:.1f} s</th>"
        + "".join(f"<td class=n>{n}</td>" for n in (old, new, waiting))
        + "</tr>"
        for at, (old, new, waiting) in enumerate(zip(move.old, move.new, move.waiting, strict=True))
    ]
    head = "".join(f"<th scope=col class=n>{n}</th>" for n in ("from", "old server", "new server", "writes waiting"))
    return (
        "<details><summary>The numbers of this picture, for each tenth of a second</summary><table class=runs>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></details>"
    )


def _key() -> str:
    return (
        "<h2>How to read this page</h2><p><b>Met</b>: everything of the criterion that was to be shown there was shown. "
        "<b>Not met</b>: one sentence did not hold; the page names it and the reason. <b>Not shown</b>: it was not asked, was "
        "left out, or could not be answered; it never counts as met. No place speaks for another: what a lab shows is not shown "
        "on the live site. Times are UTC.</p>"
    )
