"""The acceptance report: each criterion's verdict and its cause, merging without hiding, waivers, and pages that people can read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from acceptance.criteria import CRITERIA
from acceptance.report import CATALOGUE, Known, complete, known
from cutover.core.errors import WrongUsage
from cutover.core.journal import Entry
from cutover.gate.write_log import Line, Write
from cutover.report import chart
from cutover.report.files import read, waivers_of, write
from cutover.report.html import page
from cutover.report.markdown import markdown
from cutover.report.model import (
    NOT_ALLOWED,
    NOT_ON_CONTAINERS,
    OF_THE_NIGHT,
    ONLY_LAB,
    Evidence,
    Place,
    Report,
    Run,
    Waiver,
    judge,
    merge,
)

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 11, 24)
IMAGE = "qdrant/qdrant:v1@sha256:" + "0" * 64


def run(place: Place = "embedded lab", at: str = "2026-11-24T10:00:00Z", *evidence: Evidence, site: str = "home-lab") -> Run:
    return Run(
        place=place, site=site, commit="abc123", image=IMAGE, started=at, ended=at, by="ann on desk", evidence=list(evidence)
    )


def passed(criterion: str, name: str = "It holds", kind: str = "scenario") -> Evidence:
    return Evidence(criterion, name, "passed", kind, steps=["Given a site", "Then it holds"])  # type: ignore[arg-type]


def failed(criterion: str, reason: str = "3 records differ") -> Evidence:
    return Evidence(criterion, "It holds", "failed", sentence="Then it holds", reason=reason, steps=["Given a site"])


def skipped(criterion: str, reason: str) -> Evidence:
    return Evidence(criterion, "Another", "skipped", reason=reason)


def everything(place: Place = "embedded lab", at: str = "2026-11-24T10:00:00Z") -> Run:
    return run(place, at, *(passed(c, f"{c} holds") for c in CRITERIA))


def report(*runs: Run, waivers: tuple[Waiver, ...] = ()) -> Report:
    return Report(CATALOGUE, list(runs), waivers, TODAY)


# -- one verdict ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "criterion", "evidence", "verdict", "said"),
    [
        ("embedded lab", "A1", [], "not shown", "no scenario of it ran"),
        ("embedded lab", "A1", [passed("A1"), passed("A1")], "met", "2 examples"),
        ("embedded lab", "A1", [passed("A1"), failed("A1")], "not met", "3 records differ"),
        ("embedded lab", "A1", [passed("A1"), skipped("A1", "no Docker answers")], "not shown", "no Docker answers"),
        ("embedded lab", "A1", [Evidence("A1", "Room", "unclear", reason="no answer")], "not shown", "no answer"),
        ("embedded lab", "A1", [passed("A1"), skipped("A1", OF_THE_NIGHT)], "met", "1 example left for the night"),
        ("embedded lab", "A1", [skipped("A1", OF_THE_NIGHT)], "not shown", "--thorough"),
        ("container lab", "C1", [passed("C1"), skipped("C1", NOT_ON_CONTAINERS)], "met", "1 example shown"),
        ("container lab", "A1", [skipped("A1", NOT_ON_CONTAINERS)], "not shown", NOT_ON_CONTAINERS),
        ("container lab", "C1", [passed("C1"), skipped("C1", "it did not run")], "not shown", "it did not run"),
        ("embedded lab", "C1", [passed("C1"), skipped("C1", NOT_ON_CONTAINERS)], "not shown", NOT_ON_CONTAINERS),
        ("live", "A1", [passed("A1", kind="fact"), skipped("A1", ONLY_LAB)], "met", "not carried out here"),
        ("live", "A1", [passed("A1", kind="fact"), skipped("A1", NOT_ALLOWED)], "met", "not carried out here"),
        ("live", "A1", [skipped("A1", ONLY_LAB)], "not shown", ONLY_LAB),
        ("live", "C4", [skipped("C4", ONLY_LAB), skipped("C4", NOT_ALLOWED)], "not shown", NOT_ALLOWED),
        ("live", "C4", [passed("C4"), skipped("C4", ONLY_LAB)], "met", "1 example shown"),
        ("live", "C4", [passed("C4"), skipped("C4", NOT_ALLOWED)], "not shown", NOT_ALLOWED),
        ("live", "E5", [passed("E5", kind="fact"), skipped("E5", ONLY_LAB)], "not shown", "has to happen"),
        ("live", "A4", [passed("A4", kind="fact"), skipped("A4", "is only asked at the switch")], "not shown", "at the switch"),
        ("live", "A1", [passed("A1", kind="fact"), failed("A1", "no room")], "not met", "no room"),
    ],
)
def test_a_verdict(place: Place, criterion: str, evidence: list[Evidence], verdict: str, said: str) -> None:
    found, reason = judge(place, criterion, evidence)
    assert (found, said in reason) == (verdict, True), reason


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_criterion_broken_turns_exactly_itself_with_the_cause_named(criterion: str, tmp_path: Path) -> None:
    whole = everything()
    for one in whole.evidence:
        if one.criterion == criterion:
            one.outcome, one.sentence, one.reason = "failed", "Then the thing holds", f"because of <{criterion}|cause>"
    made = report(whole)
    assert [r.criterion.id for r in made.rows() if r.verdict != "met"] == [criterion]
    assert made.headline() == f"One of {len(CRITERIA)} criteria is not met: {criterion}."
    write(made, tmp_path)
    row = next(r for r in json.loads((tmp_path / "acceptance.json").read_text())["criteria"] if r["id"] == criterion)
    assert (row["verdict"], f"because of <{criterion}|cause>" in row["reason"]) == ("not met", True)
    html, text = (tmp_path / "acceptance.html").read_text(), (tmp_path / "acceptance.md").read_text()
    assert f"because of &lt;{criterion}|cause&gt;" in html
    assert html.count("✘</span> not met") == 2  # the row, and its place
    assert f"because of &lt;{criterion}\\|cause&gt;" in text


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_criterion_without_a_scenario_is_listed_as_not_shown(criterion: str) -> None:
    whole = everything()
    whole.evidence = [e for e in whole.evidence if e.criterion != criterion]
    made = report(whole)
    assert made.headline() == f"Nothing failed; 1 of {len(CRITERIA)} criteria is not shown yet: {criterion}."
    assert criterion in markdown(made)
    assert f"id='{criterion}'>" in page(made)


def test_scenarios_that_did_not_run_leave_their_criterion_open() -> None:
    part = run("embedded lab", "2026-11-24T10:00:00Z", passed("A1", "One"))
    complete(part, {("a.feature", 3)}, [Known("A1", "One", "a.feature", 3), Known("A1", "Two", "a.feature", 9)])
    row = next(r for r in report(part).rows() if r.criterion.id == "A1")
    assert (row.verdict, row.reason) == ("not shown", "Two: it did not run")


def test_of_what_is_not_shown_anywhere_the_place_speaks_that_showed_most_of_it() -> None:
    live = run("live", "2026-11-24T10:00:00Z", skipped("F4", ONLY_LAB))
    lab = run("embedded lab", "2026-11-24T10:00:00Z", passed("F4"), skipped("F4", "it takes long"))
    row = next(r for r in report(live, lab).rows() if r.criterion.id == "F4")
    assert (row.verdict, "it takes long" in row.reason) == ("not shown", True), row.reason


def test_a_scenario_that_takes_long_is_known_as_such() -> None:
    slow = [one for one in known(ROOT / "features") if one.slow]
    assert {one.criterion for one in slow} >= {"G2"}
    assert [one for one in slow if "<" in one.name]
    left_out = run("embedded lab", "2026-11-24T10:00:00Z")
    complete(left_out, set(), slow)
    assert {one.reason for one in left_out.evidence} == {OF_THE_NIGHT}
    assert not [one for one in left_out.evidence if "<" in one.name], "no row of it is meant"


def test_the_scenarios_of_the_features_are_known() -> None:
    found = list(known(ROOT / "features"))
    assert len({(k.file, k.line) for k in found}) == len(found) > 20


# -- merging ----------------------------------------------------------------------------------------------------------
def test_a_lab_never_hides_what_the_live_site_showed() -> None:
    live = run("live", "2026-11-23T10:00:00Z", failed("A2", "two machines answer"))
    merged = merge([report(live), report(everything(at="2026-11-24T10:00:00Z"))])
    merged.today = TODAY
    row = next(r for r in merged.rows() if r.criterion.id == "A2")
    assert (row.verdict, row.where) == ("not met", "live")
    assert row.places["embedded lab"].verdict == "met"
    assert f"{len(CRITERIA) - 1} met in the embedded lab only, 1 not met" in merged.summary()


def test_a_later_run_that_did_not_ask_hides_nothing() -> None:
    first = run("live", "2026-11-20T10:00:00Z", passed("A1", kind="fact"), failed("A2"))
    later = run("live", "2026-11-24T10:00:00Z", skipped("A1", "is only asked before the move"), passed("A2", kind="fact"))
    rows = {r.criterion.id: r for r in merge([report(later), report(first)]).rows()}
    assert (rows["A1"].verdict, rows["A1"].places["live"].at) == ("met", "2026-11-20T10:00:00Z")
    assert rows["A2"].verdict == "met"


def test_a_later_failure_is_never_hidden_by_an_earlier_pass() -> None:
    rows = merge([report(everything("live", "2026-11-20T10:00:00Z")), report(run("live", "2026-11-21T10:00:00Z", failed("D1")))])
    assert [r.criterion.id for r in rows.rows() if r.verdict == "not met"] == ["D1"]


def test_a_written_report_is_read_again(tmp_path: Path) -> None:
    made = report(everything(), waivers=(Waiver("A1", "agreed", date(2027, 1, 1), "ann"),))
    write(made, tmp_path)
    again = read(tmp_path)
    assert (again.runs, again.waivers, list(again.criteria)) == (made.runs, list(made.waivers), CATALOGUE)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not a report"), ("[]", "not a report"), ('{"format": 9}', "format 9"), ('{"format": 1}', "not a report")],
)
def test_what_is_not_a_report_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "acceptance.json").write_text(text)
    with pytest.raises(WrongUsage, match=said):
        read(tmp_path)
    with pytest.raises(WrongUsage, match="no report at"):
        read(tmp_path / "elsewhere")


def test_reports_of_two_sites_are_not_merged() -> None:
    two = run("live", "2026-11-24T10:00:00Z", passed("A1"), site="office")
    with pytest.raises(WrongUsage, match="home-lab, office"):
        merge([report(everything("live")), report(two)])


def _command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cutover.cli.app import app; app()", "report", *words],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_merges_folders(tmp_path: Path) -> None:
    write(report(everything()), tmp_path / "lab")
    write(report(run("live", "2026-11-24T12:00:00Z", failed("A2"))), tmp_path / "live")
    (tmp_path / "waivers.yaml").write_text("- {criterion: A2, reason: agreed, until: 2999-01-01}\n")
    said = _command("lab", "live", "--into", "both", "--site", "elsewhere/site.yaml", cwd=tmp_path)
    assert (said.returncode, said.stdout.splitlines()[0]) == (1, f"One of {len(CRITERIA)} criteria is not met: A2.")
    said = _command("lab", "live", "--into", "both", "--waivers", "waivers.yaml", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert {f.name for f in (tmp_path / "both").iterdir()} == {"acceptance.html", "acceptance.md", "acceptance.json"}
    assert len(read(tmp_path / "both").runs) == 2


def test_the_command_says_what_is_not_a_report(tmp_path: Path) -> None:
    said = _command("nowhere", cwd=tmp_path)
    assert (said.returncode, "There is no report at nowhere" in said.stderr) == (2, True)
    assert "Traceback" not in said.stderr


# -- waivers ----------------------------------------------------------------------------------------------------------
def test_a_waiver_is_said_and_changes_no_verdict() -> None:
    made = report(run("live", "2026-11-24T10:00:00Z", failed("A1")), waivers=(Waiver("A1", "agreed", TODAY, "ann"),))
    row = made.rows()[0]
    assert (row.verdict, row.waived) == ("not met", True)
    assert "A1 is waived" in made.headline() and f"{len(CRITERIA) - 1} of {len(CRITERIA)}" in made.headline(), made.headline()
    assert "Waived until 2026-11-24 by ann: agreed" in page(made)


def test_a_waiver_that_ran_out_counts_no_more() -> None:
    made = report(run("live", "2026-11-24T10:00:00Z", failed("A1")), waivers=(Waiver("A1", "agreed", date(2026, 11, 23)),))
    assert made.headline().startswith(f"One of {len(CRITERIA)} criteria is not met: A1")
    assert "ran out on 2026-11-23" in markdown(made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {criterion: A1, reason: r}", ":1: a waiver has"),
        ("- {criterion: A1, reason: r, until: 2027-01-01}\n- {criterion: Z9, reason: r, until: 2027-01-01}", ":2: there is no"),
        ("- {criterion: A1, reason: r, until: soon}", "has to be a day"),
        ("- {criterion: A1, reason: '', until: 2027-01-01}", "needs a reason"),
        ("- {criterion: [A1], reason: r, until: 2027-01-01}", r":1: there is no criterion \['A1'\]"),
        ("criterion: A1", "expected a list"),
        ("[" * 3000, "not YAML"),
        ("- {criterion: A1", "not YAML"),
        ("- {criterion: A1, reason: r, until: 2027-01-01}\n- {criterion: A1, reason: r, until: 2027-01-01}", "waived twice"),
    ],
)
def test_a_mistake_in_the_waivers_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "waivers.yaml").write_text(text)
    with pytest.raises(WrongUsage, match=said):
        waivers_of(tmp_path / "waivers.yaml", CRITERIA)


def test_waivers_are_read(tmp_path: Path) -> None:
    assert waivers_of(tmp_path / "waivers.yaml", CRITERIA) == []
    (tmp_path / "waivers.yaml").write_text("- {criterion: A1, reason: agreed, until: 2027-01-01, by: ann}\n")
    assert waivers_of(tmp_path / "waivers.yaml", CRITERIA) == [Waiver("A1", "agreed", date(2027, 1, 1), "ann")]


# -- the picture ------------------------------------------------------------------------------------------------------
AT = 1_800_000_000.0


def _entry(act: str, at: float) -> Entry:
    from datetime import UTC, datetime

    return Entry(1, datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"), "done", act, act, of=1)


def _end(at: float, side: str, name: str = "x") -> Line:
    return Line(1, "end", name, at, write=Write(1, at, "PUT", "/", 200, side, ""))


def moved() -> chart.Move:
    entries = [_entry("switch.hold", AT), _entry("switch.point", AT + 0.3), _entry("switch.release", AT + 0.32)]
    lines = [_end(AT - 1.05, "old"), _end(AT - 0.95, "old"), Line(1, "held", "w", AT + 0.1), Line(1, "passed", "w", AT + 0.45),
             _end(AT + 0.5, "new", "w"), _end(AT + 1.05, "new")]  # fmt: skip
    samples = [chart.Sample(AT - 1, 5, 1, 0), chart.Sample(AT + 1, 7, 1, 0, 0.4)]
    (made,) = chart.moves(entries, lines, samples)
    return made


def test_the_picture_counts_each_server_and_what_waited() -> None:
    made = moved()
    assert (sum(made.old), sum(made.new), max(made.waiting)) == (2 + 5, 2 + 7, 1)
    assert made.release - made.hold == pytest.approx(0.32, abs=0.002)
    assert sum(made.waiting) in {4, 5}  # of 0.35 s
    assert (made.failed, made.longest) == (0, 0.4)
    assert chart.Move.from_json(json.loads(json.dumps(made.as_json()))).as_json() == json.loads(json.dumps(made.as_json()))


def test_a_hold_that_moved_nothing_is_no_move() -> None:
    entries = [_entry("switch.hold", AT), _entry("switch.release", AT + 0.3)]
    assert chart.moves(entries, [_end(AT, "old")]) == []


def test_without_an_application_the_picture_says_that_reads_are_missing() -> None:
    entries = [_entry("back.hold", AT), _entry("back.point", AT + 0.3), _entry("back.release", AT + 0.32)]
    (made,) = chart.moves(entries, [_end(AT - 1, "new")])
    assert "Reads are not recorded" in chart.describe(made)
    assert made.title == "The traffic goes back to the old server"


# -- the page ---------------------------------------------------------------------------------------------------------
def rich() -> Report:
    """A report with everything that a page can have."""
    live = run(
        "live", "2026-11-24T12:00:00Z", *(passed(c, f"{c} holds", "fact") for c in ("A1", "A3", "D1", "D3")),
        failed("A2", "two machines answer at the address of VM 1001: <one> & another"), skipped("C4", NOT_ALLOWED),
    )  # fmt: skip
    lab = everything()
    lab.moves = [moved().as_json()]
    lab.facts = {"ground": "embedded"}
    return report(live, everything("container lab", "2026-11-24T09:00:00Z"), lab, waivers=(Waiver("A2", "known", TODAY),))


def test_the_page_needs_nothing_else_and_no_script() -> None:
    html = page(rich())
    assert not re.search(r"<script|<link|<img|@import|url\(|https?:", html)
    assert html.count("<svg") == 1


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    return found


def _axe() -> str:
    places = [os.environ.get("AXE_CORE", ""), str(ROOT / "node_modules" / "axe-core" / "axe.min.js")]
    found = next((p for p in places if p and Path(p).is_file()), None)
    if found is None:
        pytest.skip("there is no axe-core: `npm install --no-save axe-core` here, or name axe.min.js in AXE_CORE")
    return Path(found).read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_is_accessible(tmp_path: Path, scheme: str, width: int) -> None:
    chromium, axe = _chromium(), _axe()
    ask = (
        "axe.run({runOnly:['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa','best-practice']}).then(r=>{document.body.innerHTML="
        "'<pre id=found></pre>';document.getElementById('found').textContent=JSON.stringify({passes:r.passes.length,violations:"
        "r.violations.map(v=>({id:v.id,nodes:v.nodes.map(n=>n.html.slice(0,120))}))})})"
    )
    html = page(rich()).replace("<details>", "<details open>")
    (tmp_path / "page.html").write_text(html.replace("</body>", f"<script>{axe}</script><script>{ask}</script></body>"))
    words = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1600", "--virtual-time-budget=60000", "--dump-dom", str(tmp_path / "page.html"),
    ]  # fmt: skip
    if scheme == "dark":
        words.insert(1, "--blink-settings=preferredColorScheme=0")
    seen = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', seen, re.DOTALL)
    assert found, seen[-500:]
    said = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert said["passes"] > 15
    assert said["violations"] == []
