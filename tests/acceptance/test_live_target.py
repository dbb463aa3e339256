"""A run against a live site with keys that can only read: it changes nothing anywhere, and says of every criterion what it knows.

The live site is a lab here, so that every server can be looked at afterwards; the run itself does not know.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests

from acceptance.criteria import CRITERIA
from cutover.checks import baseline
from cutover.core.credentials import NAMES
from cutover.core.errors import Refused
from cutover.core.journal import Journal
from cutover.qdrant.access import Caller, Right
from cutover.report import chart as picture_of
from cutover.report.model import BY_LOOKING
from lab.lab import ROOT, Lab, new_folder
from lab.operator import Operator
from lab.state_snapshot import differences, picture

pytestmark = pytest.mark.slow


@dataclass
class Looked:
    """What came of the run."""

    code: int
    output: str
    rows: dict[str, dict[str, Any]]
    changed: list[str]
    writes: list[tuple[str, str]]
    data: dict[str, Any]


@pytest.fixture(scope="module")
def site(lab_parent: Path) -> Iterator[Lab]:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        yield lab


def environment(lab: Lab) -> dict[str, str]:
    """The keys that can only read: the audit's token, Qdrant's read-only key. No key for names, no key that writes."""
    assert lab.pve is not None
    token = next(name for name in lab.pve.apitokens if name.endswith("!check"))
    mine = {k: v for k, v in os.environ.items() if k not in NAMES}
    return mine | {
        "PROXMOX_TOKEN_ID": token,
        "PROXMOX_TOKEN_SECRET": lab.pve.apitokens[token],
        "PORTAINER_API_KEY": lab.keys.portainer,
        "QDRANT_READ_ONLY_API_KEY": lab.keys.qdrant_read_only,
        "VLLM_API_KEY": lab.keys.vllm,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
    }


@pytest.fixture(scope="module")
def looked(site: Lab, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    folder = tmp_path_factory.mktemp("live")
    assert site.pve is not None
    before, asked = picture(site), len(site.pve.writes())
    words = ["--target", "live", "--site", str(site.site_file), "--state-dir", str(folder / "state"), "--report", str(folder)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "tests/test_features.py", "tests/test_live_facts.py"],
        cwd=ROOT, env=environment(site), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    report = folder / "acceptance.json"
    assert report.exists(), run.stdout[-3000:] + run.stderr[-3000:]
    data = json.loads(report.read_text())
    rows = {row["id"]: row for row in data["criteria"]}
    return Looked(run.returncode, run.stdout, rows, differences(before, picture(site)), site.pve.writes()[asked:], data)


def test_nothing_is_changed_on_any_server(looked: Looked) -> None:
    assert looked.changed == []
    assert looked.writes == []


def test_it_looked_at_the_site(looked: Looked) -> None:
    """So that "nothing changed" does not mean "nothing was asked"."""
    passed = [e for e in looked.data["runs"][0]["evidence"] if e["outcome"] == "passed"]
    assert len(passed) > 8, looked.output[-3000:]
    assert looked.data["runs"][0]["place"] == "live"


def test_every_criterion_is_met_not_met_or_not_shown_with_the_reason(looked: Looked) -> None:
    assert set(looked.rows) == set(CRITERIA)
    for name, row in looked.rows.items():
        assert row["verdict"] in {"met", "not met", "not shown"}
        assert row["reason"], name
        assert row["verdict"] != "met" or row["where"] == "live"


def test_what_needs_an_act_is_never_met_by_looking(looked: Looked) -> None:
    assert {n for n, row in looked.rows.items() if row["verdict"] == "met"} <= BY_LOOKING


@pytest.mark.parametrize("criterion", ["A1", "A2", "A3", "A5", "A6", "D1"])
def test_what_can_be_read_before_the_move_is_decided(looked: Looked, criterion: str) -> None:
    assert looked.rows[criterion]["verdict"] in {"met", "not met"}, looked.rows[criterion]["reason"]


def test_scenarios_that_break_or_change_something_are_left_out_with_that_reason(looked: Looked) -> None:
    reasons = {e["reason"] for e in looked.data["runs"][0]["evidence"] if e["outcome"] == "skipped"}
    assert any("--allow-changes was not given" in r for r in reasons)
    assert any("something has to be broken" in r for r in reasons)


def test_another_name_than_the_sites_allows_nothing(site: Lab) -> None:
    words = ["--target", "live", "--site", str(site.site_file), "--allow-changes", "another-site"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "tests/test_live_facts.py"],
        cwd=ROOT, env=environment(site), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 4
    assert "nothing was contacted" in run.stderr


# -- the baseline -----------------------------------------------------------------------------------------------------
def test_the_baseline_is_kept_without_changing_anything_and_holds(site: Lab) -> None:
    assert site.pve is not None
    before, asked = picture(site), len(site.pve.writes())
    run = site.run(execute=False)
    try:
        kept = baseline.take(run)
        found = baseline.compare(run, kept)
    finally:
        run.close()
    assert not kept.missing
    assert [(title, f.sentence) for _, title, f in found if f.ok is not True] == []
    assert (baseline.path_of(run).stat().st_mode & 0o777) == 0o600
    assert (differences(before, picture(site)), site.pve.writes()[asked:]) == ([], [])
    text = baseline.path_of(run).read_text()
    assert not [name for name, value in site.env.items() if name not in {"PROXMOX_TOKEN_ID", "DNS_TSIG_NAME"} and value in text]


def test_what_changed_without_the_plan_is_named(lab_parent: Path) -> None:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        run = lab.run(execute=False)
        kept = baseline.take(run)
        # As an old server without keys would have been.
        kept = replace(kept, parts={**kept.parts, "who is let in": dict.fromkeys(Caller, Right.WRITES)})
        _disturb(lab)
        found = {title: f for _, title, f in baseline.compare(run, kept)}
        run.close()
    wrong = {title for title, f in found.items() if f.ok is False}
    said = "\n".join(f.sentence for f in found.values())
    assert wrong == {
        "Qdrant gives the answers of before the move",
        "Qdrant lets in whom it let in before the move",
        "Nginx differs from before only by the gate",
        "The guests differ from before only by the plan",
    }, said
    for expected in (
        "current",
        "a caller without a key may read and write before, and is not let in now",
        "somebody.conf",
        "801.memory",
    ):
        assert expected in said, said


def _disturb(lab: Lab) -> None:
    """Somebody deletes an alias, adds an Nginx file, and gives vLLM's guest less memory."""
    assert lab.pve is not None
    alias = {"actions": [{"delete_alias": {"alias_name": "current"}}]}
    answer = requests.post(
        f"{lab.site.qdrant.old_url}/collections/aliases", json=alias, headers={"api-key": lab.keys.qdrant}, timeout=20
    )
    assert answer.status_code == 200
    (Path(lab.site.nginx.http_folder) / "somebody.conf").write_text("# nothing\n")
    guest = next(one for one in lab.pve.cts if one.vmid == lab.site.guests.vllm.vmid)
    guest.config["memory"] = 1024


def test_a_baseline_is_not_taken_after_a_change(site: Lab, tmp_path: Path) -> None:
    run = replace(site.run(execute=False), state_dir=tmp_path)
    journal = Journal(tmp_path, site.site.name)
    journal.intent("resize.sizes", "Something")
    journal.unlock()
    with pytest.raises(Refused, match="was changed at"):
        baseline.take(run)
    assert baseline.load(run) is None


def test_after_the_move_only_what_the_plan_named_differs_from_the_baseline(lab_parent: Path) -> None:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        operator = Operator(lab)
        looking = operator.run(execute=False)
        kept = baseline.take(looking)
        looking.close()
        for verb in ("backup", "resize", "deploy", "gate", "copy", "switch"):
            operator.does(verb)
        answer = requests.post(
            f"{lab.site.qdrant.public_url}/collections/digits/points/payload?wait=true",
            json={"payload": {"seen": True}, "points": list(range(900))}, headers={"api-key": lab.keys.qdrant}, timeout=20,
        )  # fmt: skip
        assert answer.status_code == 200
        looking = operator.run(execute=False)
        found = {title: f for _, title, f in baseline.compare(looking, kept)}
        drawn = picture_of.recorded(looking)
        with pytest.raises(Refused, match="was changed at"):
            baseline.take(looking)
        looking.close()
    assert [(title, f.sentence) for title, f in found.items() if f.ok is not True] == []
    assert [(move.title, move.reads, sum(move.new) > 0) for move in drawn] == [
        ("The traffic moves to the new server", False, True)
    ]
    assert "were changed meanwhile and left out" in found["Qdrant gives the answers of before the move"].sentence
    assert "but for the address that leads to Qdrant" in found["Nginx differs from before only by the gate"].sentence
    assert "differ as planned" in found["The guests differ from before only by the plan"].sentence


def test_the_command_keeps_the_baseline_with_keys_that_only_read(site: Lab, tmp_path: Path) -> None:
    assert site.pve is not None
    asked = len(site.pve.writes())
    words = ["check", "--moment", "before", "--site", str(site.site_file), "--state-dir", str(tmp_path), "--json"]
    run = subprocess.run(
        [sys.executable, "-c", "from cutover.cli.app import app; app()", *words],
        cwd=tmp_path, env=environment(site), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = json.loads(run.stdout)
    assert "was kept in" in said["baseline"], said
    assert "names" in said["baseline"]  # the zone is only listed with the key for names
    assert sorted(one["criterion"] for one in said["checks"] if one["ok"] is False) == []
    assert site.pve.writes()[asked:] == []
