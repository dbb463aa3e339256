"""The pytest plugin of the suite: loaded early, so that its options are known before any file is collected.

It chooses where the features run (the lab by default), collects what every scenario did for the acceptance report, and takes
scenarios that cannot be shown here out of the run, with the reason.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from acceptance import beside, reporting
from acceptance.criteria import CRITERIA
from acceptance.lint import TAGS
from acceptance.report import GROUND
from acceptance.reporting import RUN, criterion_of, finish, start
from cutover.checks.registry import Moment
from cutover.core.errors import CutoverError
from cutover.report.model import NOT_ALLOWED, NOT_ON_CONTAINERS, ONLY_LAB, Place, Report
from cutover.site.load import load
from lab.network_guard import keep_inside

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = [
    "acceptance.fixtures",
    "steps.trust",
    "steps.access",
    "steps.data",
    "steps.left_behind",
    "steps.traffic",
    "steps.watch",
    "steps.nginx",
    "steps.portainer",
    "steps.proxmox",
    "steps.site_file",
    "steps.vllm",
    "steps.availability",
    "steps.dns_firewall",
    "steps.decommission",
]

#: How often Python looks for garbage in this process: with thousands of tests in memory its own pace costs a tenth of the processor time.
SELDOM = (50_000, 20, 50)
_REPORT = pytest.StashKey[Report]()
#: As header and report say it.
_EMBEDDED = "processes of this machine, with real nginx, Knot DNS, Compose and Qdrant's engine"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("acceptance")
    group.addoption("--target", choices=("lab", "live"), default="lab", help="where the features run (default: lab)")
    group.addoption(
        "--lab", choices=("embedded", "containers", "auto"), default="embedded",
        help="what the lab stands on: processes (default), real containers, or containers where Docker answers",
    )  # fmt: skip
    site, state = os.environ.get("CUTOVER_SITE") or ROOT / "site.yaml", os.environ.get("CUTOVER_STATE_DIR") or ROOT / ".state"
    group.addoption("--site", default=str(site), help="site file of a live run (default: CUTOVER_SITE, or site.yaml)")
    group.addoption("--state-dir", default=str(state), help="where its journal is (default: CUTOVER_STATE_DIR, or .state)")
    group.addoption("--allow-changes", metavar="SITE", default="", help="let a live run change things; SITE is the site's name")
    group.addoption("--moment", choices=[str(m) for m in Moment], default="", help="facts of this moment (default: by the state)")
    group.addoption(
        "--daily",
        action="store_true",
        help="on containers, only what is tagged for them (@containers): the rest is for the night",
    )
    group.addoption("--thorough", action="store_true", help="run what is left for the night, too (@slow)")
    group.addoption("--report", metavar="FOLDER", default="", help="write acceptance.md, .html and .json there")


def pytest_configure(config: pytest.Config) -> None:
    gc.set_threshold(*SELDOM)
    for name, criterion in CRITERIA.items():
        config.addinivalue_line("markers", f"{name}: {criterion.sentence}")
    for line in (
        *(f"{tag}: {meaning}" for tag, meaning in TAGS.items()),
        "fact: asks one fact of the live site",
        "long: takes long for a test of every day, so it begins first and nobody waits for it at the end",
        "engine: uses the machine's Docker engine, which features may be shown on meanwhile, so it comes last",
    ):
        config.addinivalue_line("markers", line)
    if config.getoption("--thorough"):
        from hypothesis import settings

        settings.register_profile("thorough", max_examples=1000)
        settings.load_profile("thorough")
    target = config.getoption("--target")
    name = "lab"
    if target == "lab":
        keep_inside()
    else:
        try:
            name = load(Path(config.getoption("--site"))).name
        except CutoverError as error:
            raise pytest.UsageError(str(error)) from None
        allowed = config.getoption("--allow-changes")
        if allowed and allowed != name:
            raise pytest.UsageError(f"--allow-changes names {allowed!r}, but the site is called {name!r}; nothing was contacted.")
    start(config)
    beside.share(config)
    # Not in pytest_plugins: this module imports it, and then it could not be rewritten any more.
    config.pluginmanager.register(reporting, "acceptance-report")
    config.stash[GROUND] = config.stash[RUN].facts
    if target == "lab":
        config.stash[GROUND].update(ground(config.getoption("--lab")))


def ground(asked: str) -> dict[str, str]:
    """What the lab will stand on, and why not on containers where that was to be found out."""
    if asked == "embedded":
        return {"ground": _EMBEDDED}
    from lab.containers import host

    reason = host.why_not()
    if reason and asked == "containers":
        raise pytest.UsageError(f"--lab containers: {reason}.")
    return {"ground": _EMBEDDED, "not on containers": reason} if reason else {"ground": "containers"}


def pytest_report_header(config: pytest.Config) -> list[str]:
    target = config.getoption("--target")
    allowed = config.getoption("--allow-changes") or "no"
    said = [f"target: {target}, changes allowed: {'yes (lab)' if target == 'lab' else allowed}"]
    if target == "live":
        name = load(Path(config.getoption("--site"))).name
        said.append(f"site: {name}, journal in {config.getoption('--state-dir')}")
    return said + [f"{name}: {value}" for name, value in config.stash[GROUND].items()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a live target only features run; what may not be done there is skipped with the reason, so it shows as *not shown*."""
    if config.getoption("--target") == "lab":
        elsewhere = set()
        if place(config) == "container lab":
            daily = config.getoption("--daily")
            elsewhere = {item for item in items if daily and criterion_of(item) and not item.get_closest_marker("containers")}
            for item in elsewhere:
                item.add_marker(pytest.mark.skip(reason=NOT_ON_CONTAINERS))
        if not config.getoption("--thorough"):
            slow = [item for item in items if item.get_closest_marker("slow") and item not in elsewhere]
            items[:] = [item for item in items if item not in slow]
            config.hook.pytest_deselected(items=slow)
        facts = [item for item in items if item.get_closest_marker("fact")]
        items[:] = [item for item in items if not item.get_closest_marker("fact")]
        config.hook.pytest_deselected(items=facts)
        items.sort(key=lambda item: bool(item.get_closest_marker("engine")) - bool(item.get_closest_marker("long")))
        return
    others = [item for item in items if not criterion_of(item)]
    items[:] = [item for item in items if criterion_of(item)]
    config.hook.pytest_deselected(items=others)
    allowed = config.getoption("--allow-changes")
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=ONLY_LAB))
        elif item.get_closest_marker("changes") and not allowed:
            item.add_marker(pytest.mark.skip(reason=NOT_ALLOWED))


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests, which live until the end


def place(config: pytest.Config) -> Place:
    """Where this run shows what it shows."""
    if config.getoption("--target") == "live":
        return "live"
    return "container lab" if config.stash[GROUND].get("ground", "").startswith("containers") else "embedded lab"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        reporting.hand_over(session.config)
    elif session.config.stash[RUN].evidence:
        session.config.stash[_REPORT] = finish(session.config, place(session.config))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash.get(_REPORT, None)
    if report is not None:
        terminalreporter.section("acceptance criteria")
        terminalreporter.write_line(report.headline())
        terminalreporter.write_line(report.summary())
        if "tried" in report.runs[0].facts:
            terminalreporter.write_line(f"Tried: {report.runs[0].facts['tried']}.")
        for row in report.rows():
            if row.verdict == "not met":
                terminalreporter.write_line(f"  {row.criterion.id} not met: {row.reason}")
