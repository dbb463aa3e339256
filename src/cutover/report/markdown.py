"""The acceptance report as Markdown, for the summary of a job."""

from __future__ import annotations

import re

from cutover.core.text import for_markdown
from cutover.report.model import MARK, Report, headline, said_of_waiver, summary


def markdown(report: Report) -> str:
    """The report as Markdown, for the summary of a job."""
    found = report.rows()
    lines = [f"# {for_markdown(headline(found))}", "", for_markdown(summary(found, report.site)), ""]
    lines += ["| where | site | commit | image | from | to | by |", "|---|---|---|---|---|---|---|"]
    for run in report.runs:
        texts = [for_markdown(text) for text in (run.place, run.site, run.started, run.ended, run.by)]
        lines.append("| " + " | ".join([*texts[:2], _code(run.commit), _code(run.image), *texts[2:]]) + " |")
    for run in report.runs:
        lines += [f"\n{for_markdown(run.place)}, {for_markdown(name)}: {for_markdown(said)}" for name, said in run.facts.items()]
    chapter = ""
    for row in found:
        if row.criterion.chapter != chapter:
            chapter = row.criterion.chapter
            lines += ["", f"## {for_markdown(chapter)}", "", "| | id | criterion | where | why |", "|---|---|---|---|---|"]
        why = [] if row.verdict == "met" else [f"**{row.verdict}**: {for_markdown(row.reason)}"]
        if waived := said_of_waiver(row, report.today):
            why.append(f"*{for_markdown(waived)}*")
        where = ", ".join(f"{place} {MARK[shown.verdict]}" for place, shown in row.places.items())
        of = f"{for_markdown(row.criterion.id)} | {for_markdown(row.criterion.sentence)}"
        lines.append(f"| {MARK[row.verdict]} | {of} | {where} | {'<br>'.join(why)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """A commit or an image as code; nothing can be escaped there, so only their signs are shown."""
    return f"`{re.sub(r'[^A-Za-z0-9.:/@+_-]', '?', text)}`" if text else ""
