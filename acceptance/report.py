"""What the suite tells the acceptance report: the criteria, who ran it and of what, and scenarios that did not run.

The report itself is :mod:`cutover.report.model`, so that the command line can merge reports without the suite.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gherkin.parser import Parser

from acceptance.criteria import CRITERIA
from cutover.core.journal import utc
from cutover.report import model
from cutover.report.model import OF_THE_NIGHT, Evidence, Place, Run

ROOT = Path(__file__).resolve().parent.parent

#: What the lab stands on in this run, for the header and the report; the plugin decides it, a ground adds what it knows.
GROUND = pytest.StashKey[dict[str, str]]()

#: The criteria as the report lists them.
CATALOGUE = [model.Criterion(c.id, c.chapter, c.sentence, bool(c.plan)) for c in CRITERIA.values()]


@dataclass(frozen=True)
class Known:
    """A scenario that a feature has, whether it runs or not."""

    criterion: str
    name: str
    file: str
    line: int
    slow: bool = False


def known(folder: Path) -> Iterator[Known]:
    """Every scenario of every Rule that is a criterion's. A feature that cannot be parsed is the linter's business."""
    for path in sorted(folder.glob("**/*.feature")):
        try:
            feature: Any = Parser().parse(path.read_text(encoding="utf-8"))["feature"]
        except Exception:  # the parser's errors have no common public base
            continue
        for rule in (child["rule"] for child in (feature or {"children": []})["children"] if "rule" in child):
            ids = [tag["name"][1:] for tag in rule["tags"] if tag["name"][1:] in CRITERIA]
            for scenario in (child["scenario"] for child in rule["children"] if "scenario" in child):
                for criterion in ids[:1]:
                    rows = scenario["examples"]
                    slow = "@slow" in _tags(feature, rule, scenario) or (bool(rows) and all("@slow" in _tags(r) for r in rows))
                    yield Known(criterion, scenario["name"], path.name, scenario["location"]["line"], slow)


def _tags(*nodes: Any) -> set[str]:
    return {tag["name"] for node in nodes for tag in node["tags"]}


def complete(run: Run, seen: set[tuple[str, int]], scenarios: Sequence[Known]) -> None:
    """Add every scenario that was not part of the run as left out, so that a part of a Rule never passes for the whole."""
    run.evidence += [
        # Of an outline none of its rows is meant: what differs is called by its kind.
        Evidence(
            one.criterion,
            re.sub(r"<([^<>]+)>", r"\1", one.name),
            "skipped",
            reason=OF_THE_NIGHT if one.slow else "it did not run",
        )
        for one in scenarios
        if (one.file, one.line) not in seen
    ]


def begin(place: Place, site: str, image: str) -> Run:
    """A run that begins now, by whoever runs this process."""
    return Run(place=place, site=site, commit=commit(), image=image, started=now(), by=_who())


def now() -> str:
    """UTC, RFC 3339, to the second."""
    return utc(time.time())


def _who() -> str:
    actor = os.environ.get("GITHUB_ACTOR")
    if actor:
        job = "/".join(os.environ.get(n, "") for n in ("GITHUB_REPOSITORY", "GITHUB_RUN_ID"))
        return f"{actor} (workflow {job})"
    try:
        return f"{getpass.getuser()} on {socket.gethostname()}"
    except (OSError, KeyError):
        return "unknown"


def commit() -> str:
    """The commit that is being tested, with a plus where the work tree differs from it."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git on this machine
            return ""

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else "")
