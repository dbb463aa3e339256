"""The acceptance report as Markdown, for the summary of a job."""

from __future__ import annotations

import re

from cutover.core.text import for_markdown
from cutover.report.model import MARK, Report, headline, said_of_waiver, summary


def markdown(report: Report) -> str:
    """The report as Markdown, for the summary of a job."""
    found = report.rows()
    lines = [f"# {_cell(headline(found))}", "", _cell(summary(found, report.site)), ""]
    lines += ["| where | site | commit | image | from | to | by |", "|---|---|---|---|---|---|---|"]
    for run in report.runs:
        texts = [_cell(text) for text in (run.place, run.site, run.started, run.ended, run.by)]
        lines.append("| " + " | ".join([*texts[:2], _code(run.commit), _code(run.image), *texts[2:]]) + " |")
    for run in report.runs:
        lines += [f"\n{_cell(run.place)}, {_cell(name)}: {_cell(said)}" for name, said in run.facts.items()]
    chapter = ""
    for row in found:
        if row.criterion.chapter != chapter:
            chapter = row.criterion.chapter
            lines += ["", f"## {_cell(chapter)}", "", "| | id | criterion | where | why |", "|---|---|---|---|---|"]
        why = [] if row.verdict == "met" else [f"**{row.verdict}**: {_cell(row.reason)}"]
        if waived := said_of_waiver(row, report.today):
            why.append(f"*{_cell(waived)}*")
        where = ", ".join(f"{place} {MARK[shown.verdict]}" for place, shown in row.places.items())
        of = f"{_cell(row.criterion.id)} | {_cell(row.criterion.sentence)}"
        lines.append(f"| {MARK[row.verdict]} | {of} | {where} | {'<br>'.join(why)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return for_markdown(text)


def _code(text: str) -> str:
    """A commit or an image as code; nothing can be escaped there, so only their signs are shown."""
    return f"`{re.sub(r'[^A-Za-z0-9.:/@+_-]', '?', text)}`" if text else ""
