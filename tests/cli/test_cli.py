"""The command line as a stranger meets it: every mistake is one clear sentence with the right exit code, never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cutover.cli.app import app
from cutover.core.credentials import NAMES
from cutover.core.journal import Journal
from cutover.phases.phase import Operation, Outcome, Plan, Sentence
from lab import forkserver

ROOT = Path(__file__).resolve().parents[2]
KEY = "hush-hush-0123"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of which nothing can be reached: addresses of this machine only, and a shell that ends at once."""
    text = (ROOT / "site.yaml").read_text(encoding="utf-8")
    for name, here in (
        ("10.0.0.152", "127.9.0.152"), ("10.0.0.101", "127.9.0.101"), ("pve.home.arpa", "127.9.0.1"), ("ns.home.arpa", "127.9.0.4"),
        ("nginx.home.arpa", "127.9.0.2"), ("vllm.home.arpa", "127.9.0.3"), ("https://git.home.arpa", "http://127.9.0.5:1"),
        ("[ssh, root@127.9.0.2]", "['false']"),
    ):  # fmt: skip
        assert name in text, name
        text = text.replace(name, here)
    file = tmp_path / "site.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def cutover(site: Path, *words: str, errors_to: int | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in {*NAMES, "CUTOVER_STATE_DIR"}} | more
    env |= {"CUTOVER_SITE": str(site), "PYTHONPATH": str(ROOT / "src")}
    if errors_to is None:
        return forkserver.carried_out("cutover", *words, env=env, cwd=site.parent, timeout=60)
    return subprocess.run(
        [sys.executable, "-m", "cutover", *words], cwd=site.parent, env=env, stdout=subprocess.PIPE, stderr=errors_to, text=True,
        timeout=60, check=False,
    )  # fmt: skip


class TestTheStateFolder:
    @pytest.mark.parametrize("words", [["status"], ["plan"], ["history"], ["gate", "--execute"]], ids=lambda words: words[0])
    def test_that_is_a_file_is_named(self, site: Path, words: list[str]) -> None:
        (site.parent / "state").write_text("")
        ended = cutover(site, *words, "--state-dir", "state")
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert ended.stderr.startswith("Not started: The state folder state cannot be used: it is not a folder."), ended.stderr

    @pytest.mark.parametrize("place", ["/proc/none", "/dev/null/none"])
    def test_that_cannot_be_made_stops_a_change_before_anything_is_contacted(self, site: Path, place: str) -> None:
        ended = cutover(site, "gate", "--execute", "--state-dir", place)
        assert ended.returncode == 2, ended
        assert ended.stderr.startswith(f"Not started: The state folder {place} cannot be"), ended.stderr
        assert "--state-dir" in ended.stderr

    def test_is_not_made_by_looking(self, site: Path) -> None:
        assert cutover(site, "plan", "--state-dir", "state").returncode == 0
        assert not (site.parent / "state").exists()

    @pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o701, 0o777, 0o1777])
    @pytest.mark.parametrize("words", [["status"], ["copy", "--execute"]], ids=lambda words: words[0])
    def test_that_others_can_enter_is_refused(self, site: Path, words: list[str], mode: int) -> None:
        (site.parent / "state").mkdir()
        (site.parent / "state").chmod(mode)
        ended = cutover(site, *words, "--state-dir", "state")
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert "The state folder state cannot be used: others can enter it." in ended.stderr
        assert "chmod 700 state" in ended.stderr
        assert list((site.parent / "state").iterdir()) == []

    def test_with_something_unexpected_in_it_is_a_sentence_and_a_note_of_where(self, site: Path) -> None:
        (site.parent / "state").mkdir(mode=0o700)
        (site.parent / "state" / "follow.json").mkdir()
        ended = cutover(site, "status", "--state-dir", "state", "--json")
        assert ended.returncode == 1, ended
        assert "Traceback" not in ended.stderr
        assert "IsADirectoryError" in ended.stderr
        assert json.loads(ended.stdout)["exit_code"] == 1
        kept = site.parent / "state" / "crash.log"
        assert "Traceback" in kept.read_text(encoding="utf-8")
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_a_key_is_in_neither(self, site: Path) -> None:
        (site.parent / "state" / KEY).mkdir(mode=0o700, parents=True)
        (site.parent / "state" / KEY / "follow.json").mkdir()
        ended = cutover(site, "status", "--state-dir", f"state/{KEY}", QDRANT_API_KEY=KEY)
        assert ended.returncode == 1, ended
        assert KEY not in ended.stdout + ended.stderr
        assert KEY not in (site.parent / "state" / KEY / "crash.log").read_text(encoding="utf-8")


class TestStatus:
    def test_says_only_what_was_seen_where_nginx_cannot_be_asked(self, site: Path) -> None:
        ended = cutover(site, "status")
        assert ended.stdout.startswith("planned: nothing was copied yet, says the journal in .state"), ended.stdout
        assert "Now:         Nginx could not be asked which server serves" in ended.stdout


class TestCheck:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--criterion", "Z9"], "There is no check of Z9. There are checks of A1, A2"),
            (["--criterion", "B4", "--moment", "at-switch"], "Nothing is asked about B4 at the moment at-switch."),
        ],
    )
    def test_of_nothing_is_a_mistake(self, site: Path, words: list[str], said: str) -> None:
        ended = cutover(site, "check", *words)
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert said in ended.stderr

    def test_takes_small_letters_and_prints_a_line_a_fact_into_a_pipe(self, site: Path) -> None:
        ended = cutover(site, "check", "--criterion", "e5", COLUMNS="40")
        assert ended.returncode == 1
        first = ended.stdout.splitlines()[0]
        assert first.startswith("? E5 There is no shell on the Nginx host"), ended.stdout
        assert first == first.rstrip()
        assert "See nginx.shell in site.yaml." in first


def test_what_nobody_reads_does_not_end_what_is_done(site: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = cutover(site, "check", "--criterion", "e5", errors_to=writer)
    os.close(writer)
    assert (ended.returncode, ended.stdout[:4]) == (1, "? E5")


class TestUndo:
    @pytest.mark.parametrize("step", ["backup", "switch", "follow", "back", "finish", "settle", "restore", "rollback"])
    def test_of_a_step_without_undo_says_what_there_is_instead(self, site: Path, step: str) -> None:
        ended = cutover(site, "undo", step)
        assert ended.returncode == 2
        first, _, hint = ended.stderr.partition("\n")
        assert first == f"Not started: `{step}` has no undo of its own."
        assert hint.strip()

    def test_of_no_step_names_those_that_can_be_undone(self, site: Path) -> None:
        ended = cutover(site, "undo", "moon")
        assert ended.returncode == 2
        assert "Steps that can be undone are resize, deploy, gate, copy, decommission." in ended.stderr


@pytest.mark.parametrize("words", [["history"], ["history", "--json"]])
def test_a_terminal_that_cannot_show_a_mark_or_a_name_ends_no_command(site: Path, words: list[str]) -> None:
    journal = Journal(site.parent / "state", "home-lab")
    journal.note("said.nothing", "")
    journal.note("x", "conf.d/caf\udce9.conf – ✔")
    journal.unlock()
    ended = CliRunner(charset="ascii").invoke(app, [*words, "--site", str(site), "--state-dir", str(site.parent / "state")])
    assert ended.exit_code == 0, ended.output
    if "--json" in words:
        assert json.loads(ended.stdout_bytes)["entries"][-1]["what"] == "conf.d/caf\udce9.conf – ✔"


def test_every_command_speaks_json(site: Path) -> None:
    keys = json.loads(cutover(site, "keys", "--json", QDRANT_API_KEY=KEY).stdout)
    assert keys["keys"]["QDRANT_API_KEY"] == {
        "set": True,
        "from": "the environment",
        "meaning": NAMES["QDRANT_API_KEY"],
    }
    assert keys["keys"]["GIT_TOKEN"]["set"] is False
    report = cutover(site, "report", "nowhere", "--json")
    assert report.returncode == 2
    assert "There is no report at nowhere" in json.loads(report.stdout)["error"]["sentence"]
    for words in (["plan"], ["status"], ["history"], ["rights"], ["resize"], ["undo", "moon"]):
        assert json.loads(cutover(site, *words, "--json").stdout)["exit_code"] in {0, 2}, words


@pytest.mark.parametrize("step", ["resize", "decommission"])
def test_a_step_as_a_script_of_its_own_needs_no_packages_to_begin_with(site: Path, step: str) -> None:
    """The Python that starts it has none of ours: the launcher finds them."""
    env = {name: value for name, value in os.environ.items() if name not in NAMES} | {"CUTOVER_VENV": sys.prefix}
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / f"scripts/{step}.py"), "--site", str(site), "--state-dir", "state"],
        cwd=site.parent, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2, ended
    assert ended.stderr.startswith("Not started: PROXMOX_TOKEN_ID is not set"), ended.stderr


def test_without_its_key_a_deployment_asks_nobody(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as git:
        git.settimeout(0)
        here = f"http://127.0.0.1:{git.getsockname()[1]}"
        site.write_text(site.read_text(encoding="utf-8").replace("http://127.9.0.5:1", here), encoding="utf-8")
        ended = cutover(site, "deploy", "--state-dir", "state")
        assert ended.returncode == 2, ended
        assert ended.stderr.startswith("Not started: PORTAINER_API_KEY is not set"), ended.stderr
        with pytest.raises(BlockingIOError):
            git.accept()


def test_names_are_whole_on_a_narrow_terminal(site: Path) -> None:
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "40", "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "GIT_TOKEN": "x"}
        os.execv(sys.executable, [sys.executable, "-c", "from cutover.cli.app import app; app()", "keys"])
    said = b""
    with contextlib.suppress(OSError), os.fdopen(terminal, "rb") as screen:  # EIO is how a terminal says that it ended
        while piece := screen.read1():
            said += piece
    os.waitpid(child, 0)
    assert [text for text in (*NAMES, "set (from the environment)") if text not in said.decode()] == []


def test_the_rights_can_be_pasted(site: Path) -> None:
    lines = cutover(site, "rights").stdout.splitlines()
    assert lines[0].startswith("#")
    assert lines.count("pveum user add cutover@pve") == 1
    assert lines.count("pveum pool add cutover-scratch") == 1
    assert len(lines) == len(set(lines))


def test_a_plan_is_made_once_and_carried_out_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutover.phases import registry

    made: list[Plan] = []
    done: list[Plan] = []

    def plan(_context: object) -> Plan:
        made.append(Plan(sentences=[Sentence("Save it")]))
        return made[-1]

    def do(_context: object, planned: Plan) -> Outcome:
        done.append(planned)
        return Outcome(True, ["Saved."])

    shutil.copy(ROOT / "site.yaml", tmp_path / "site.yaml")
    monkeypatch.setattr(registry, "operation", lambda name, undo=False: Operation(plan, do))
    words = ["backup", "--site", str(tmp_path / "site.yaml"), "--state-dir", str(tmp_path / "state")]
    shown = CliRunner().invoke(app, words)
    assert (shown.exit_code, len(made), done) == (0, 1, []), shown.output
    carried_out = CliRunner().invoke(app, [*words, "--execute"])
    assert carried_out.exit_code == 0, carried_out.output
    assert len(made) == 2 and len(done) == 1 and done[0] is made[1]


def test_a_plan_that_would_be_refused_ends_like_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole plan is shown, with what stands in its way, and the exit code says that it would not be carried out."""
    from cutover.phases import registry

    shutil.copy(ROOT / "site.yaml", tmp_path / "site.yaml")
    words = ["settle", "--site", str(tmp_path / "site.yaml"), "--state-dir", str(tmp_path / "state")]
    for refusals, code, said in ((["It is Friday."], 1, "Refused: It is Friday."), ([], 0, "Add --execute to do it.")):
        planned = Plan(sentences=[Sentence("Take it out")], refusals=refusals)
        planning = Operation(lambda _, planned=planned: planned, lambda _context, _planned: Outcome(False))  # type: ignore[misc]
        monkeypatch.setattr(registry, "operation", lambda name, undo=False, planning=planning: planning)
        told = CliRunner().invoke(app, words)
        assert (told.exit_code, said in told.output, "1. Take it out." in told.output) == (code, True, True), told.output
