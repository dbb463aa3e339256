"""Every criterion, broken once, turns exactly itself to *not met*, and the report names the cause.

In two ways. Quickly: the features that ship (every day one of them), carried out by steps that do nothing, where one scenario of one
criterion fails. And truly (``--thorough``): the tool's own code is broken, and the real scenarios run against the lab (see :mod:`tools.sabotage`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acceptance.criteria import CRITERIA
from acceptance.plugin import pytest_plugins as real_steps
from acceptance.report import CATALOGUE
from cutover.report.model import Evidence, Report, Run
from lab.lab import ROOT
from tools import sabotage

HOLLOW = """\
import os
import pytest
from pytest_bdd import given, parsers, scenarios, then, when
from acceptance.reporting import criterion_of

scenarios(os.environ["FEATURES"])

@given(parsers.re(".*"))
def _given(): pass

@when(parsers.re(".*"))
def _when(): pass

@then(parsers.re(".*"))
def _then(request):
    if os.environ.get("BROKEN"):
        raise AssertionError(f"{criterion_of(request.node)} was broken on purpose")
"""


def _reported(folder: Path, *words: str, **env: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--report", str(folder / "out"), *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"} | env,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    file = folder / "out" / "acceptance.json"
    assert file.exists(), ran.stdout[-3000:] + ran.stderr[-2000:]
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


# -- quickly ----------------------------------------------------------------------------------------------------------
def hollow(folder: Path, features: Path) -> dict[str, Run]:
    """Features that ship, with steps that do nothing: one run in which all is well, one in which every scenario fails."""
    (folder / "test_hollow.py").write_text(HOLLOW)
    words = [str(folder / "test_hollow.py"), "--thorough", "--rootdir", str(folder), "-c", str(ROOT / "pyproject.toml")]
    words += ["-pno:hypothesispytest", "--assert=plain"]  # nothing here needs either, and both take seconds
    words += [f"-pno:{name}" for name in real_steps]  # the real steps are not looked through for every sentence
    runs = {}
    for name, env in (("well", {}), ("broken", {"BROKEN": "1"})):
        (data,) = _reported(folder / name, *words, FEATURES=str(features), **env)["runs"]
        evidence = [Evidence(**one) for one in data.pop("evidence")]
        runs[name] = Run(**data, evidence=evidence)
    return runs


@pytest.mark.parametrize("features", ["08_gitops.feature", pytest.param("", id="all of them", marks=pytest.mark.slow)])
def test_one_broken_scenario_turns_exactly_its_criterion(tmp_path: Path, features: str) -> None:
    """Each scenario of each criterion in turn; in one test, because what it looks at takes half a minute to make."""
    runs = hollow(tmp_path, ROOT / "features" / features)
    well, broken = runs["well"], runs["broken"]
    rows = Report(CATALOGUE, [well], []).rows()
    criteria = {one.criterion for one in broken.evidence if one.outcome == "failed"}
    assert criteria == ({"H1", "H2"} if features else set(CRITERIA))
    assert criteria == {row.criterion.id for row in rows if row.verdict == "met"}, "where nothing is broken"
    for at, bad in enumerate(broken.evidence):
        if bad.outcome == "skipped":  # of another feature
            continue
        mixed = [bad if n == at else one for n, one in enumerate(well.evidence)]
        assert bad.name == well.evidence[at].name
        run = Run(**{**vars(well), "evidence": mixed})
        unmet = [row for row in Report(CATALOGUE, [run], []).rows() if row.verdict == "not met"]
        assert [row.criterion.id for row in unmet] == [bad.criterion]
        (row,) = unmet
        assert row.reason.endswith(f"– {bad.criterion} was broken on purpose."), row.reason
        assert row.reason.startswith(f"{bad.name}: Then "), row.reason


# -- truly ------------------------------------------------------------------------------------------------------------
def test_every_criterion_is_broken_once() -> None:
    assert [fault.criterion for fault in sabotage.FAULTS] == list(CRITERIA)


def test_what_is_broken_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in sabotage.FAULTS:
        sabotage.put_in(fault, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("fault", sabotage.FAULTS, ids=lambda fault: f"{fault.criterion}: {fault.what}")
def test_a_tool_that_breaks_its_promise_is_found_out(fault: sabotage.Fault, tmp_path: Path) -> None:
    told = _reported(tmp_path, "-p", "tools.sabotage", "--sabotage", fault.criterion, "tests/test_features.py")
    rows = {row["id"]: row for row in told["criteria"]}
    assert [name for name, row in rows.items() if row["verdict"] == "not met"] == [fault.criterion]
    assert fault.cause in rows[fault.criterion]["reason"], rows[fault.criterion]["reason"]
    passed = {one["criterion"] for one in told["runs"][0]["evidence"] if one["outcome"] == "passed"}
    assert len(passed - {fault.criterion}) >= 7, passed
