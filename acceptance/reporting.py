"""How the suite collects what every scenario did, for the acceptance report. Built on pytest-bdd's public hooks only.

A scenario that was skipped, deselected, never began or never ran is *left out*, with the reason; it is never a pass.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from acceptance import counters
from acceptance.criteria import CRITERIA
from acceptance.live_site import LiveSite
from acceptance.report import CATALOGUE, ROOT, Known, begin, complete, known, now
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError
from cutover.core.journal import Journal
from cutover.gate.write_log import lines
from cutover.report import chart
from cutover.report.files import waivers_of, write
from cutover.report.model import Evidence, Place, Report, Run
from cutover.site.load import load

RUN = pytest.StashKey[Run]()
_SEEN = pytest.StashKey[set[tuple[str, int]]]()
_NOW = pytest.StashKey[Evidence]()
_SINCE = pytest.StashKey[float]()
_ACTORS = pytest.StashKey[dict[str, Any]]()


def start(config: pytest.Config) -> None:
    """Begin the report of this run; called when the options are known to be right."""
    live = config.getoption("--target") == "live"
    site = load(Path(config.getoption("--site")) if live else ROOT / "site.yaml")
    run = config.stash[RUN] = begin("live" if live else "embedded lab", site.name if live else "lab", site.qdrant.image)
    if insecure := site.insecure():
        run.facts["insecure"] = " ".join(insecure)
    config.stash[_SEEN] = set()


def criterion_of(item: pytest.Item) -> str:
    """The criterion that a test is about; empty for a unit test."""
    return next((m.name for m in item.iter_markers() if m.name in CRITERIA), "")


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """What the report will say of this test; for tests that are not scenarios."""
    made = Evidence(criterion=criterion_of(request.node), name=request.node.name, kind="fact")
    request.node.stash[_NOW], request.node.stash[_SINCE] = made, time.monotonic()
    return made


# -- scenarios --------------------------------------------------------------------------------------------------------
def pytest_bdd_before_scenario(request: pytest.FixtureRequest, feature: Any, scenario: Any) -> None:
    ids = [tag for tag in (scenario.rule.tags if scenario.rule else ()) if tag in CRITERIA]
    request.node.stash[_NOW] = Evidence(criterion=ids[0] if ids else "", name=scenario.name)
    request.node.stash[_SINCE] = time.monotonic()
    request.node.stash[_ACTORS] = {}
    request.config.stash[_SEEN].add((Path(feature.filename).name, scenario.line_number))


def pytest_bdd_after_step(request: pytest.FixtureRequest, step: Any, step_func_args: dict[str, Any]) -> None:
    request.node.stash[_NOW].steps.append(f"{step.keyword} {step.name}")
    request.node.stash[_ACTORS].update({k: v for k, v in step_func_args.items() if k in {"application", "operator"}})


def pytest_bdd_step_error(request: pytest.FixtureRequest, step: Any, exception: Exception) -> None:
    one = request.node.stash[_NOW]
    one.sentence, one.reason = f"{step.keyword} {step.name}", _first_line(exception)


def pytest_bdd_step_func_lookup_error(request: pytest.FixtureRequest, step: Any, exception: Exception) -> None:
    one = request.node.stash[_NOW]
    one.sentence, one.reason = f"{step.keyword} {step.name}", "nobody has said yet what this sentence means"


def pytest_bdd_after_scenario(request: pytest.FixtureRequest, feature: Any, scenario: Any) -> None:
    with suppress(OSError, ValueError, KeyError, CutoverError, AttributeError):
        request.config.stash[RUN].moves += moves_of(**request.node.stash[_ACTORS])


def moves_of(operator: Any = None, application: Any = None) -> list[dict[str, Any]]:
    """The moves of a scenario in which an application read and wrote, from what the lab's servers recorded."""
    if operator is None or application is None or application.report is None:
        return []
    lab = operator.lab
    log = Path(lab.site.nginx.gate_folder) / "log" / "writes.jsonl"
    entries = Journal(lab.state_dir, lab.site.name).entries()
    samples = [chart.Sample(*one) for one in application.report.series]
    return [m.as_json() for m in chart.moves(entries, list(lines(log.read_bytes(), 0)), samples)]


def _first_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return in_words(first) if isinstance(error, AssertionError) else first


def in_words(said: str) -> str:
    """A reason that is a sentence; what an assertion without words of its own says is code, and is put into words."""
    if not said.startswith("assert ") and said != "AssertionError":
        return said
    claim = said.removeprefix("assert ").removeprefix("AssertionError")
    if claim in {"", "False", "None", "not True", "0", "[]", "{}", "set()"} or claim.startswith("<"):
        return "it is not so"
    found, equals, wanted = claim.partition(" == ")
    if equals:
        return f"found {found}, expected {wanted}"
    found, inside, wanted = claim.partition(" in ")
    if inside and not found.startswith("not "):
        return f"{found} is not in {wanted}"
    return f"it is not so: {claim}"


# -- outcomes ---------------------------------------------------------------------------------------------------------
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call":
        counters.tried(counters.RANDOM, counters.examples(getattr(item, "hypothesis_statistics", "")))
    criterion = criterion_of(item)
    if not criterion:
        return report
    seen = item.config.stash[RUN].evidence
    if call.when == "setup" and not report.passed:
        # The stage could not be set: the scenario never began, which is not a pass.
        one = Evidence(criterion=criterion, name=_name(item), kind="fact" if item.get_closest_marker("fact") else "scenario")
        one.outcome = "skipped" if report.skipped else "failed"
        one.sentence = "" if report.skipped else "The stage could not be set"
        one.reason = _first_line(call.excinfo.value) if call.excinfo else ""
        seen.append(one)
        _note_as_seen(item)
    elif call.when == "call":
        one = item.stash.get(_NOW, None) or Evidence(criterion=criterion, name=_name(item))
        one.seconds = round(time.monotonic() - item.stash[_SINCE], 2) if _SINCE in item.stash else 0.0
        if one.outcome != "unclear":
            one.outcome = report.outcome
        if call.excinfo is not None and not one.reason:
            one.reason = _first_line(call.excinfo.value)
        seen.append(one)
    elif call.when == "teardown" and report.failed:
        reason = _first_line(call.excinfo.value) if call.excinfo else ""
        seen.append(Evidence(criterion, _name(item), "failed", sentence="It could not be tidied up", reason=reason))
    return report


def _scenario(item: pytest.Item) -> Known | None:
    """The scenario that a test carries out: pytest-bdd says "feature: scenario" in the function's docstring."""
    said = getattr(getattr(item, "function", None), "__doc__", None) or ""
    return next((one for one in _known() if said.endswith(f": {one.name}")), None)


def _name(item: pytest.Item) -> str:
    found = _scenario(item)
    if found:
        # An outline's row: pytest-bdd hands the row's cells over as this parameter.
        row = getattr(getattr(item, "callspec", None), "params", {}).get("_pytest_bdd_example", {})
        return re.sub(r"<([^<>]+)>", lambda match: str(row.get(match[1], match[0])), found.name)
    callspec = getattr(item, "callspec", None)
    return str(callspec.id if callspec is not None else item.name)


def _note_as_seen(item: pytest.Item) -> None:
    """So that a scenario that was skipped is not also said not to have run."""
    if found := _scenario(item):
        item.config.stash[_SEEN].add((found.file, found.line))


@cache
def _known() -> tuple[Known, ...]:
    return tuple(known(ROOT / "features"))


# -- several processes ------------------------------------------------------------------------------------------------
def hand_over(config: pytest.Config) -> None:
    """A worker of pytest-xdist gives what it saw to the process that writes the report."""
    run = config.stash[RUN]
    ran: set[tuple[str, int]] = config.stash[_SEEN]
    config.workeroutput["acceptance"] = json.dumps(  # type: ignore[attr-defined]
        {
            "evidence": [asdict(one) for one in run.evidence],
            "moves": run.moves,
            "seen": sorted(ran),
            "tried": dict(counters.TRIED),
        }
    )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker saw. Of one that died nothing is known: its scenarios are left out, which is not a pass."""
    given = getattr(node, "workeroutput", {}).get("acceptance")
    if given is not None:
        taken = json.loads(given)
        run = node.config.stash[RUN]
        run.evidence += [Evidence(**one) for one in taken["evidence"]]
        run.moves += taken["moves"]
        counters.TRIED.update(taken["tried"])
        seen: set[tuple[str, int]] = node.config.stash[_SEEN]
        seen.update((file, line) for file, line in taken["seen"])


# -- writing ----------------------------------------------------------------------------------------------------------
def report_of(config: pytest.Config, place: Place) -> Report:
    """The report of this run. A broken waivers file is said in the report, not hidden and not fatal."""
    run = config.stash[RUN]
    run.place = place
    run.ended = now()
    if said := counters.sentence():
        run.facts["tried"] = said
    waivers = []
    try:
        waivers = waivers_of(Path(config.getoption("--site")).parent / "waivers.yaml", CRITERIA)
    except CutoverError as error:
        run.facts["waivers"] = str(error)
    return Report(CATALOGUE, [run], waivers)


def _draw(config: pytest.Config, run: Run) -> None:
    """The site's own moves, where it made some and they are still recorded."""
    site = LiveSite(load(Path(config.getoption("--site"))), Path(config.getoption("--state-dir")))
    looking = site.run()
    try:
        entries = looking.journal.entries()
        if entries:
            run.facts["journal"] = f"{looking.journal.path}: {entries[-1].seq} lines, the last of {entries[-1].at}"
        run.moves += [move.as_json() for move in chart.recorded(looking)]
    except CutoverError as error:
        run.facts["picture of the move"] = f"could not be drawn: {error.sentence}"
    finally:
        looking.close()


def finish(config: pytest.Config, place: Place) -> Report:
    """Complete the report and write its files where that was asked for. Secrets of the environment are taken out."""
    run = config.stash[RUN]
    complete(run, config.stash[_SEEN], _known())
    if place == "live":
        _draw(config, run)
    redact = Credentials.from_env().redact
    for one in run.evidence:
        one.name, one.sentence, one.reason = redact(one.name), redact(one.sentence), redact(one.reason)
    report = report_of(config, place)
    folder = config.getoption("--report")
    if folder:
        write(report, Path(folder))
    return report
