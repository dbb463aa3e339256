"""What makes a feature file good enough to be a criterion: rules that pytest-bdd does not check by itself.

A scenario without steps passes silently, and undefined criteria stay unnoticed; so every rule of the house is checked here,
each mistake with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gherkin.parser import Parser

from acceptance.criteria import CRITERIA

#: Tags with a meaning, besides the ids of criteria. Each is explained in features/README.md.
TAGS = {
    "lab": "can only be shown in the lab, because it needs something to be broken",
    "changes": "changes the servers it runs against",
    "slow": "left for the night: it shows at every point what others of its rule show at some",
    "containers": "also shown on real containers every day, where Docker answers",
}
MOST_STEPS = 7
MOST_BACKGROUND = 4

_NOT_FOR_READERS = {
    "an address": re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b|https?://|localhost"),
    "JSON": re.compile(r"[{}]|\[\s*\""),
    "a shell command or path": re.compile(r"(^|\s)(/[a-z]+/[a-z]|\.\/|sudo |curl |nginx -|qm |pct )"),
    "the first person": re.compile(r"\b(I|my|we|our)\b"),
    "a pause instead of a fact": re.compile(r"\b(sleep|wait \d+)\b", re.IGNORECASE),
}


@dataclass(frozen=True)
class Fault:
    """One mistake in a feature file."""

    file: str
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.sentence}"


def lint(folder: Path) -> list[Fault]:
    """All mistakes in all features of a folder, and criteria that no Rule shows."""
    faults: list[Fault] = []
    names: dict[str, str] = {}
    shown: dict[str, list[str]] = {}
    for path in sorted(folder.glob("**/*.feature")):
        text = path.read_text(encoding="utf-8")
        try:
            document = Parser().parse(text)
        except Exception as error:  # the parser's errors have no common public base
            faults.append(Fault(path.name, 1, f"cannot be parsed: {str(error).splitlines()[-1]}"))
            continue
        faults += _feature(path.name, document["feature"], names, shown)
    for criterion in CRITERIA.values():
        scenarios = shown.get(criterion.id, [])
        if len(scenarios) < 2:
            said = "no Rule shows it" if not scenarios else "it needs one scenario that holds and one that is refused or detected"
            faults.append(Fault("features", 0, f"{criterion.id} ({criterion.sentence}): {said}"))
    return faults


def _feature(file: str, feature: Any, names: dict[str, str], shown: dict[str, list[str]]) -> Iterator[Fault]:
    if feature is None:
        yield Fault(file, 1, "has no Feature")
        return
    if not feature["description"].strip():
        yield Fault(file, feature["location"]["line"], "the Feature does not say why it matters")
    for child in feature["children"]:
        if "scenario" in child:
            yield Fault(file, child["scenario"]["location"]["line"], "the scenario stands outside of a Rule")
        elif "background" in child:
            yield from _background(file, child["background"])
        else:
            yield from _rule(file, child["rule"], names, shown)


def _background(file: str, background: Any) -> Iterator[Fault]:
    if len(background["steps"]) > MOST_BACKGROUND:
        yield Fault(file, background["location"]["line"], f"the Background has more than {MOST_BACKGROUND} steps")
    yield from _words(file, background["steps"])


def _rule(file: str, rule: Any, names: dict[str, str], shown: dict[str, list[str]]) -> Iterator[Fault]:
    line = rule["location"]["line"]
    ids = [t["name"][1:] for t in rule["tags"] if t["name"][1:] in CRITERIA]
    yield from _tags(file, rule["tags"])
    if len(ids) != 1:
        yield Fault(file, line, "a Rule has exactly one criterion's id as tag")
        return
    if rule["name"] != CRITERIA[ids[0]].sentence:
        yield Fault(file, line, f"the Rule is not the sentence of {ids[0]}: {CRITERIA[ids[0]].sentence!r}")
    for child in rule["children"]:
        if "background" in child:
            yield from _background(file, child["background"])
            continue
        scenario = child["scenario"]
        shown.setdefault(ids[0], []).append(scenario["name"])
        yield from _scenario(file, scenario, names)


def _scenario(file: str, scenario: Any, names: dict[str, str]) -> Iterator[Fault]:
    line, name, steps = scenario["location"]["line"], scenario["name"], scenario["steps"]
    if name in names:
        yield Fault(file, line, f"the name stands in {names[name]} too: {name!r}")
    names[name] = f"{file}:{line}"
    if not name:
        yield Fault(file, line, "the scenario has no name")
    if not steps:
        yield Fault(file, line, f"{name!r} has no steps, so it would pass without showing anything")
    if len(steps) > MOST_STEPS:
        yield Fault(file, line, f"{name!r} has {len(steps)} steps, at most {MOST_STEPS}")
    kinds = [_kind(steps, i) for i in range(len(steps))]
    whens = sum(1 for i, kind in enumerate(kinds) if kind == "When" and (i == 0 or kinds[i - 1] != "When"))
    if steps and whens != 1:
        yield Fault(file, line, f"{name!r} has {whens} Whens; it needs exactly one")
    if steps and "Then" not in kinds:
        yield Fault(file, line, f"{name!r} has no Then, so it shows nothing")
    yield from _tags(file, scenario["tags"])
    yield from _words(file, steps)


def _kind(steps: Any, index: int) -> str:
    for step in reversed(steps[: index + 1]):
        word: str = step["keyword"].strip()
        if word in {"Given", "When", "Then"}:
            return word
    return ""


def _tags(file: str, tags: Any) -> Iterator[Fault]:
    for tag in tags:
        name = tag["name"][1:]
        if name not in TAGS and name not in CRITERIA:
            yield Fault(
                file, tag["location"]["line"], f"the tag @{name} has no meaning here; known are {', '.join(sorted(TAGS))}"
            )


def _words(file: str, steps: Any) -> Iterator[Fault]:
    for step in steps:
        for what, pattern in _NOT_FOR_READERS.items():
            if pattern.search(step["text"]):
                yield Fault(file, step["location"]["line"], f"the step has {what}: {step['text']!r}")
