"""The workflows and what else GitHub, Renovate and Portainer read: clean for every linter, and built as we promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cutover.core.credentials import NAMES
from tools.bundle import ROOT, Linter, linters, workflows

FLOWS = {file.stem: YAML(typ="safe").load(file.read_text(encoding="utf-8")) for file in workflows()}


def named(name: str) -> Linter:
    linter = next(one for one in linters() if one.name.startswith(name))
    if linter.program is None:
        pytest.skip(f"{linter.words[0]} is not installed (package {linter.package})")
    return linter


@pytest.mark.parametrize("linter", linters(), ids=lambda linter: linter.name)
def test_what_others_read_from_here_is_clean(linter: Linter) -> None:
    if linter.program is None:
        pytest.skip(f"{linter.words[0]} is not installed (package {linter.package})")
    clean, said = linter.run()
    assert clean, said


BROKEN = [
    ("zizmor", "acceptance", '[ -n "$CHANGES" ]', '[ -n "${{ inputs.changes }}" ]'),
    ("zizmor", "check", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
    ("zizmor", "deploy", "permissions: {}", "permissions: write-all"),
    ("zizmor", "deploy", "          persist-credentials: false\n", "          fetch-depth: 1\n"),
    ("zizmor", "deploy", "contents: read # the checkout, where the repository is private", "contents: write"),
    ("actionlint", "check", "matrix.ground }}", "matrix.place }}"),
    ("actionlint", "deploy", "qdrant-site]", "qdrant-cite]"),
    ("schema of workflows", "check", "runs-on:", "run-on:"),
    ("every job has a time limit", "check", "    timeout-minutes: 30\n", ""),
]


@pytest.mark.parametrize(("linter", "flow", "before", "after"), BROKEN)
def test_the_linters_see_what_is_wrong(tmp_path: Path, linter: str, flow: str, before: str, after: str) -> None:
    text = (ROOT / f".github/workflows/{flow}.yml").read_text(encoding="utf-8")
    assert before in text
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / f"{flow}.yml").write_text(text.replace(before, after), encoding="utf-8")
    (tmp_path / ".github/actionlint.yaml").write_bytes((ROOT / ".github/actionlint.yaml").read_bytes())
    clean, said = named(linter).run(folder / f"{flow}.yml")
    assert not clean, said


def _jobs() -> list[Any]:
    return [pytest.param(job, id=f"{flow}-{name}") for flow, tree in FLOWS.items() for name, job in tree["jobs"].items()]


@pytest.mark.parametrize("flow", FLOWS)
def test_actions_are_pinned_to_a_commit_with_its_version_beside_it(flow: str) -> None:
    text = (ROOT / f".github/workflows/{flow}.yml").read_text(encoding="utf-8")
    for line in re.findall(r"uses: (.+)", text):
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) or line.startswith("./"), line


@pytest.mark.parametrize("flow", FLOWS)
def test_a_workflow_begins_without_rights_and_never_runs_twice_at_once(flow: str) -> None:
    assert FLOWS[flow]["permissions"] == {}
    assert FLOWS[flow]["concurrency"]["group"]
    assert "pull_request_target" not in FLOWS[flow]["on"]


@pytest.mark.parametrize("job", _jobs())
def test_a_job_may_only_read(job: dict[str, Any]) -> None:
    if "gh release create" in str(job):  # the one that publishes; it runs nothing of this repository, and a person lets it
        assert job["environment"] == "release"
        assert not any("checkout" in step.get("uses", "") or "scripts/" in step.get("run", "") for step in job["steps"])
        assert set(job["permissions"]) == {"contents", "actions", "id-token", "attestations"}
        return
    assert job["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("job", _jobs())
def test_keys_and_the_sites_network_are_only_behind_an_environment(job: dict[str, Any]) -> None:
    reaches_site = "self-hosted" in job.get("runs-on", "")
    has_keys = "secrets." in str(job)
    assert "environment" in job or not (reaches_site or has_keys)


def test_no_expression_stands_in_a_command() -> None:
    for tree in FLOWS.values():
        for job in tree["jobs"].values():
            for step in job.get("steps", []):
                assert "${{" not in step.get("run", "")


def test_only_a_merge_deploys_and_only_a_person_starts_the_acceptance() -> None:
    assert FLOWS["deploy"]["on"]["push"]["branches"] == ["main"]
    assert set(FLOWS["deploy"]["on"]) == {"push", "workflow_dispatch"}
    assert set(FLOWS["acceptance"]["on"]) == {"workflow_dispatch"}
    assert FLOWS["acceptance"]["on"]["workflow_dispatch"]["inputs"]["changes"]["default"] == ""


def test_a_deployment_waits_for_the_checks_of_the_merged_commit() -> None:
    jobs = FLOWS["deploy"]["jobs"]
    assert jobs["deploy"]["needs"] == "check"
    assert jobs["check"]["uses"] == "./.github/workflows/check.yml"
    assert "workflow_call" in FLOWS["check"]["on"]


def test_what_a_change_does_not_wait_for_is_tried_every_night() -> None:
    """Each file with something slow in it: by its name, or by a run of all of them that does not leave it out."""
    slow = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("*.py")
        if re.search(r"mark\.slow|import every_nth_by_day", file.read_text())
    }
    if any("@slow" in file.read_text(encoding="utf-8") for file in (ROOT / "features").glob("*.feature")):
        slow.add("tests/test_features.py")
    assert len(slow) > 5
    (job,) = FLOWS["thorough"]["jobs"].values()
    assert "schedule" in FLOWS["thorough"]["on"]
    (run,) = [step["run"] for step in job["steps"] if "--thorough -m slow" in step.get("run", "")]
    parts = [re.sub(r" --report.*", "", words).split() for words in re.findall(r"set -- ([^;]+) ;;", run)]
    assert len(parts) == len(job["strategy"]["matrix"]["part"])
    (left_out,) = [words[1] for words in parts if words[0] == "--ignore"]
    named = {word for words in parts for word in words if word.endswith(".py")}
    assert {file for file in slow if file.startswith(f"{left_out}/")} == named
    assert "tests/*" not in run and "-k" not in run


def test_a_deployment_and_an_acceptance_run_never_meet() -> None:
    groups = [FLOWS[flow]["concurrency"] for flow in ("deploy", "acceptance")]
    assert groups[0]["group"] == groups[1]["group"]
    assert not any(group["cancel-in-progress"] for group in groups)


def test_the_keys_have_the_names_that_the_tool_reads() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in workflows())
    given = set(re.findall(r"(\w+): \$\{\{ secrets\.(\w+) \}\}", text))
    assert given
    assert all(name == secret and name in NAMES for name, secret in given)
    acceptance = (ROOT / ".github/workflows/acceptance.yml").read_text(encoding="utf-8")
    assert set(NAMES) <= set(re.findall(r"secrets\.(\w+)", acceptance))


def test_a_refused_deployment_says_why_in_its_summary() -> None:
    """What was refused is said on stderr."""
    (run,) = [step["run"] for step in FLOWS["deploy"]["jobs"]["deploy"]["steps"] if "cutover deploy" in step.get("run", "")]
    assert "2>&1 | tee" in run


@pytest.mark.parametrize("flow", ["deploy", "acceptance"])
def test_both_flows_look_at_the_same_journal(flow: str) -> None:
    (job,) = [job for job in FLOWS[flow]["jobs"].values() if "environment" in job]
    (env,) = [step["env"] for step in job["steps"] if "CUTOVER_STATE_DIR" in step.get("env", {})]
    assert env["CUTOVER_STATE_DIR"] == "${{ vars.CUTOVER_STATE_DIR || '/var/lib/qdrant-cutover' }}"


def test_a_live_run_looks_where_the_environment_says(tmp_path: Path) -> None:
    env = os.environ | {"CUTOVER_STATE_DIR": str(tmp_path / "state"), "CUTOVER_SITE": str(tmp_path / "other.yaml")}
    (tmp_path / "other.yaml").write_text((ROOT / "site.yaml").read_text().replace("name: home-lab", "name: elsewhere"))
    words = ["--target", "live", "--collect-only", "-p", "no:cacheprovider", "tests/test_live_facts.py"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert f"site: elsewhere, journal in {tmp_path / 'state'}" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["--target", "live", "tests/test_features.py"], ["prepare test git"]),
        (["--target=live", "--report", "live"], ["prepare test git"]),
        (["tests", "-k", "live"], ["prepare dev nginx knotd git busybox", "actionlint"]),
    ],
    ids=" ".join,
)
def test_looking_at_the_live_site_needs_no_servers_of_the_lab(tmp_path: Path, words: list[str], needs: list[str]) -> None:
    scripts = tmp_path / "scripts"
    (tmp_path / "venv/bin").mkdir(parents=True)
    scripts.mkdir()
    (scripts / "test").write_bytes((ROOT / "scripts/test").read_bytes())
    (scripts / "setup.sh").write_text(
        f'ROOT={tmp_path}\nVENV={tmp_path}/venv\nprepare() {{ echo "prepare $*"; }}\nprepare_actionlint() {{ echo actionlint; }}\n'
    )
    python = tmp_path / "venv/bin/python"
    python.write_text('#!/bin/sh\necho ran "$@"\n')
    python.chmod(0o755)
    ended = subprocess.run(["bash", str(scripts / "test"), *words], capture_output=True, text=True, timeout=10, check=True)
    assert ended.stdout.splitlines() == [*needs, f"ran -m pytest {' '.join(words)}"]


def test_renovate_finds_the_image_in_the_site_file() -> None:
    import json

    renovate = json.loads((ROOT / ".github/renovate.json").read_text(encoding="utf-8"))
    site = (ROOT / "site.yaml").read_text(encoding="utf-8")
    stack = (ROOT / "stacks/qdrant/docker-compose.yml").read_text(encoding="utf-8")
    found = [
        re.search(pattern.replace("(?<", "(?P<"), site)
        for manager in renovate["customManagers"]
        for pattern in manager["matchStrings"]
    ]
    image, version = found
    assert image is not None
    assert version is not None
    assert image["currentValue"] == f"v{version['currentValue']}"
    assert f"{image['depName']}:{image['currentValue']}@{image['currentDigest']}" in stack
    assert renovate["minimumReleaseAge"] == "7 days"
