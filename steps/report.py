"""The acceptance report: one row per criterion - met, not met, or not shown and why not.

Built on pytest-bdd's public hooks only. From one model it writes ``acceptance.md``, ``acceptance.html`` (one file, no network,
prints well) and ``acceptance.json``. A criterion is *met* when every scenario of its Rule that was to run passed, *not met* when
one failed, and *not shown* when none ran or one was skipped.
"""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from steps.criteria import CRITERIA

Verdict = Literal["met", "not met", "not shown"]


@dataclass
class Scenario:
    """One scenario as it ran. ``reason`` is why it failed or was skipped; ``sentence`` the step that failed."""

    criterion: str
    name: str
    outcome: Literal["passed", "failed", "skipped"] = "skipped"
    sentence: str = ""
    reason: str = ""
    steps: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Report:
    """Everything that the three files say."""

    site: str
    target: str
    commit: str
    scenarios: list[Scenario] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"))
    facts: dict[str, str] = field(default_factory=dict)

    def verdict(self, criterion: str) -> tuple[Verdict, str]:
        """What is known of a criterion, with the reason where it is not met."""
        mine = [s for s in self.scenarios if s.criterion == criterion]
        if not mine:
            return "not shown", "no scenario of it ran"
        for one in mine:
            if one.outcome == "failed":
                return "not met", f"{one.name}: {one.sentence}. {one.reason}".strip()
        for one in mine:
            if one.outcome == "skipped":
                return "not shown", f"{one.name}: {one.reason or 'skipped'}"
        return "met", f"{len(mine)} scenarios"

    def summary(self) -> str:
        """The verdict in one sentence."""
        verdicts = [self.verdict(c)[0] for c in CRITERIA]
        met, unmet, open_ = (verdicts.count(v) for v in ("met", "not met", "not shown"))
        where = "in the lab" if self.target == "lab" else f"on {self.site}"
        return f"{met} of {len(CRITERIA)} criteria shown {where}; {unmet} not met; {open_} not shown."

    def data(self) -> dict[str, Any]:
        """The report for machines."""
        rows = []
        for criterion in CRITERIA.values():
            verdict, reason = self.verdict(criterion.id)
            rows.append(
                asdict(criterion)
                | {
                    "verdict": verdict,
                    "reason": reason,
                    "scenarios": [asdict(s) for s in self.scenarios if s.criterion == criterion.id],
                }
            )
        return {
            "summary": self.summary(), "site": self.site, "target": self.target, "commit": self.commit,
            "started": self.started, "facts": self.facts, "criteria": rows,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write the three files."""
        (folder / "acceptance.json").write_text(json.dumps(self.data(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "acceptance.md").write_text(markdown(self.data()), encoding="utf-8")
        (folder / "acceptance.html").write_text(page(self.data()), encoding="utf-8")


_MARK = {"met": "✔", "not met": "✘", "not shown": "○"}


def markdown(data: dict[str, Any]) -> str:
    """The report as Markdown, for a job summary."""
    lines = [
        f"# {data['summary']}",
        "",
        f"Site **{data['site']}** · target **{data['target']}** · commit `{data['commit']}` · {data['started']}",
    ]
    chapter = ""
    for row in data["criteria"]:
        if row["chapter"] != chapter:
            chapter = row["chapter"]
            lines += ["", f"## {chapter}", "", "| | id | criterion | |", "|---|---|---|---|"]
        said = "" if row["verdict"] == "met" else f"**{row['verdict']}**: {_cell(row['reason'])}"
        lines.append(f"| {_MARK[row['verdict']]} | {row['id']} | {_cell(row['sentence'])} | {said} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").split())


_STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--soft:#595959;--paper:#fff;--line:#d4d4d4;--met:#0b6b2e;--un:#a8071a;--open:#7a4d00}
@media(prefers-color-scheme:dark){:root{--ink:#ececec;--soft:#b0b0b0;--paper:#161616;--line:#3d3d3d;--met:#6fd08c;--un:#ff8f8f;
--open:#e3b341}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.1rem;margin:2rem 0 .25rem}
.facts{color:var(--soft);overflow-wrap:anywhere}
.row{border-top:1px solid var(--line);padding:.5rem 0;display:grid;grid-template-columns:6.5rem 2.5rem 1fr;gap:.5rem}
.v{font-weight:600}.met{color:var(--met)}.not-met{color:var(--un)}.not-shown{color:var(--open)}
.why{color:var(--soft);overflow-wrap:anywhere}details{margin-top:.25rem}summary{cursor:pointer;color:var(--soft)}
ul{margin:.25rem 0;padding-left:1.25rem}
@media(max-width:40rem){.row{grid-template-columns:1fr}}
@media print{body{margin:0;max-width:none;font-size:11pt}.row{break-inside:avoid}details{display:none}}
"""


def page(data: dict[str, Any]) -> str:
    """The report as one HTML page that needs nothing else."""
    e = html.escape
    body = [
        f"<h1>{e(data['summary'])}</h1>",
        (
            f"<p class=facts>Site {e(data['site'])} · target {e(data['target'])} · commit {e(data['commit'])} · "
            f"<time datetime='{e(data['started'])}'>{e(data['started'])}</time>"
        ),
        *(f"<br>{e(k)}: {e(v)}" for k, v in data["facts"].items()),
        "</p>",
    ]
    chapter = ""
    for row in data["criteria"]:
        if row["chapter"] != chapter:
            chapter = row["chapter"]
            body.append(f"<h2>{e(chapter)}</h2>")
        verdict = row["verdict"]
        body.append(
            f"<div class=row><span class='v {verdict.replace(' ', '-')}'>{_MARK[verdict]} {verdict}</span>"
            f"<span>{row['id']}</span><div>{e(row['sentence'])}"
        )
        if verdict != "met":
            body.append(f"<div class=why>{e(row['reason'])}</div>")
        if row["scenarios"]:
            body.append(f"<details><summary>{len(row['scenarios'])} scenarios</summary>")
            for scenario in row["scenarios"]:
                body.append(f"<p>{e(scenario['name'])}: <b>{scenario['outcome']}</b></p><ul>")
                body += [f"<li>{e(step)}</li>" for step in scenario["steps"]]
                body.append("</ul>")
            body.append("</details>")
        body.append("</div></div>")
    title = f"Acceptance of {data['site']}"
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{e(title)}</title><style>{_STYLE}</style></head><body><main>" + "\n".join(body) + "</main></body></html>\n"
    )
