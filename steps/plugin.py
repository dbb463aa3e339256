"""The pytest plugin of the suite: loaded early, so that its options are known before any file is collected.

It chooses where the features run (the lab by default), collects what every scenario did for the acceptance report, and takes
scenarios that cannot be shown here out of the run, with the reason.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from cutover.errors import CutoverError
from cutover.site import load
from steps.criteria import CRITERIA
from steps.report import GROUND, Report, Scenario

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = [
    "steps.fixtures",
    "steps.trust",
    "steps.records",
    "steps.traffic",
    "steps.proxy",
    "steps.stack",
    "steps.hypervisor",
]

_REPORT = pytest.StashKey[Report]()
_NOW = pytest.StashKey[Scenario]()
_SINCE = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("acceptance")
    group.addoption("--target", choices=("lab", "live"), default="lab", help="where the features run (default: lab)")
    group.addoption(
        "--lab", choices=("embedded", "containers", "auto"), default="embedded",
        help="what the lab stands on: processes (default), real containers, or containers where Docker answers",
    )  # fmt: skip
    group.addoption("--site", default=str(ROOT / "site.yaml"), help="site file of a live run")
    group.addoption("--state-dir", default=str(ROOT / ".state"), help="where the journal of a live site is")
    group.addoption("--allow-changes", metavar="SITE", default="", help="let a live run change things; SITE is the site's name")
    group.addoption("--report", metavar="FOLDER", default="", help="write acceptance.md, .html and .json there")


def pytest_configure(config: pytest.Config) -> None:
    for name, criterion in CRITERIA.items():
        config.addinivalue_line("markers", f"{name}: {criterion.sentence}")
    for line in (
        "lab: can only be shown in the lab, because something has to be broken for it",
        "changes: changes the servers that it runs against",
        "slow: takes more than half a minute",
    ):
        config.addinivalue_line("markers", line)
    target = config.getoption("--target")
    name = "lab"
    if target == "live":
        try:
            name = load(Path(config.getoption("--site"))).name
        except CutoverError as error:
            raise pytest.UsageError(str(error)) from None
        allowed = config.getoption("--allow-changes")
        if allowed and allowed != name:
            raise pytest.UsageError(f"--allow-changes names {allowed!r}, but the site is called {name!r}; nothing was contacted.")
    config.stash[_REPORT] = Report(site=name, target=target, commit=commit())
    config.stash[GROUND] = config.stash[_REPORT].facts
    if target == "lab":
        config.stash[GROUND].update(ground(config.getoption("--lab")))


def ground(asked: str) -> dict[str, str]:
    """What the lab will stand on, and why not on containers where that was to be found out."""
    if asked == "embedded":
        return {"ground": "embedded"}
    from steps.lab.containers import host

    reason = host.why_not()
    if reason and asked == "containers":
        raise pytest.UsageError(f"--lab containers: {reason}.")
    return {"ground": "embedded", "not on containers": reason} if reason else {"ground": "containers"}


def commit() -> str:
    """The commit that is being tested, with a plus where the work tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if git("status", "--porcelain") else "")


def pytest_report_header(config: pytest.Config) -> list[str]:
    target = config.getoption("--target")
    allowed = config.getoption("--allow-changes") or "no"
    said = [f"target: {target}, changes allowed: {'yes (lab)' if target == 'lab' else allowed}"]
    return said + [f"{name}: {value}" for name, value in config.stash[GROUND].items()]


def pytest_bdd_before_scenario(request: pytest.FixtureRequest, feature: Any, scenario: Any) -> None:
    ids = [tag for tag in (scenario.rule.tags if scenario.rule else ()) if tag in CRITERIA]
    request.node.stash[_NOW] = Scenario(criterion=ids[0] if ids else "", name=scenario.name)
    request.node.stash[_SINCE] = time.monotonic()


def pytest_bdd_after_step(request: pytest.FixtureRequest, step: Any) -> None:
    request.node.stash[_NOW].steps.append(f"{step.keyword} {step.name}")


def pytest_bdd_step_error(request: pytest.FixtureRequest, step: Any, exception: Exception) -> None:
    now = request.node.stash[_NOW]
    now.sentence, now.reason = f"{step.keyword} {step.name}", _first_line(exception)


def pytest_bdd_step_func_lookup_error(request: pytest.FixtureRequest, step: Any, exception: Exception) -> None:
    now = request.node.stash[_NOW]
    now.sentence, now.reason = f"{step.keyword} {step.name}", "nobody has said yet what this sentence means"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "setup" and not report.passed and _is_scenario(item):
        # The stage could not be set: the scenario never began, which is not a pass.
        now = Scenario(criterion=_criterion(item), name=item.name, sentence="the stage could not be set")
        now.outcome = "skipped" if report.skipped else "failed"
        now.reason = _first_line(call.excinfo.value) if call.excinfo else ""
        item.config.stash[_REPORT].scenarios.append(now)
    elif call.when == "call" and _NOW in item.stash:
        now = item.stash[_NOW]
        now.outcome = report.outcome
        now.seconds = round(time.monotonic() - item.stash[_SINCE], 2)
        if call.excinfo is not None and not now.reason:
            now.reason = _first_line(call.excinfo.value)
        item.config.stash[_REPORT].scenarios.append(now)
    return report


def _is_scenario(item: pytest.Item) -> bool:
    return bool(_criterion(item))


def _criterion(item: pytest.Item) -> str:
    return next((m.name for m in item.iter_markers() if m.name in CRITERIA), "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a live target only features run; what may not be done there is skipped with the reason, so it shows as *not shown*."""
    if config.getoption("--target") == "lab":
        return
    others = [item for item in items if not _is_scenario(item)]
    items[:] = [item for item in items if _is_scenario(item)]
    config.hook.pytest_deselected(items=others)
    allowed = config.getoption("--allow-changes")
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason="can only be shown in the lab"))
        elif item.get_closest_marker("changes") and not allowed:
            item.add_marker(pytest.mark.skip(reason="changes things, and --allow-changes was not given"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.getoption("--report")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        session.config.stash[_REPORT].write(Path(folder))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash[_REPORT]
    if report.scenarios:
        terminalreporter.section("acceptance criteria")
        terminalreporter.write_line(report.summary())
        for name in CRITERIA:
            verdict, reason = report.verdict(name)
            if verdict == "not met":
                terminalreporter.write_line(f"  {name} not met: {reason}")
