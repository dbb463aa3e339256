"""What stands before the verb: keys from files, every request in a line, a log, and plain output."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cutover.cli import init, terminal
from cutover.cli.app import app
from cutover.cli.output import Output
from cutover.cli.terminal import Terminal
from cutover.core import trace, wait
from cutover.core.credentials import NAMES, Credentials
from cutover.core.errors import Refused, Unreachable, WrongUsage
from cutover.core.key_files import of_env_file
from cutover.core.write_guard import WriteGuard
from cutover.discovery import guests, survey
from cutover.discovery.facts import Found
from cutover.phases import registry as phases
from cutover.proxmox import privileges
from cutover.site.load import load

ROOT = Path(__file__).resolve().parents[2]
KEY = "hush-hush-0123"
EMPTY = dict.fromkeys(NAMES, "") | {"CREDENTIALS_DIRECTORY": "", "CUTOVER_STATE_DIR": ""}


def run(*words: str, **env: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, list(words), env=EMPTY | env)
    return ended.exit_code, ended.output


class TestKeys:
    def test_the_lines_for_a_shell_are_a_file_that_is_read(self, tmp_path: Path) -> None:
        code, lines = run("keys", "--shell", "--step", "resize", QDRANT_API_KEY=KEY)
        assert code == 0
        assert KEY not in lines
        file = tmp_path / "keys.env"
        file.write_text(lines.replace("PORTAINER_API_KEY=''", "PORTAINER_API_KEY='ptr_x'"))
        file.chmod(0o600)
        assert of_env_file(file) == {"PROXMOX_TOKEN_ID": "cutover@pve!resize", "PORTAINER_API_KEY": "ptr_x"}
        done = subprocess.run(["sh", "-euc", f". {file}; echo $PROXMOX_TOKEN_ID"], capture_output=True, text=True, check=True)
        assert done.stdout == "cutover@pve!resize\n"

    @pytest.mark.parametrize("step", privileges.STEPS)
    def test_keys_and_rights_name_the_same_token(self, step: privileges.Step) -> None:
        _, lines = run("keys", "--shell", "--step", step)
        (token,) = re.findall(r"PROXMOX_TOKEN_ID='([^']+)'", lines)
        user, _, name = token.partition("!")
        assert f"pveum user token add {user} {name} --privsep 1" in privileges.commands(load(ROOT / "site.yaml"), step)

    def test_every_step_that_acts_on_proxmox_has_such_a_token(self) -> None:
        assert {one.privileges for one in phases.phases() if one.privileges is not None} <= set(privileges.STEPS)
        assert run("keys", "--step", "switch")[0] == 2

    def test_a_file_that_others_can_read_stops_every_command(self, tmp_path: Path) -> None:
        file = tmp_path / "keys.env"
        file.write_text(f"QDRANT_API_KEY={KEY}\n")
        file.chmod(0o644)
        code, said = run("--env-file", str(file), "keys")
        assert code == 2
        assert "is not used: others can read it" in said
        file.chmod(0o600)
        code, said = run("--env-file", str(file), "keys")
        assert f"set (from {file})" in said.replace("\n", "")
        assert KEY not in said


class TestWhatIsSent:
    def test_every_request_is_a_line_without_keys_and_the_log_is_the_operators_alone(self, tmp_path: Path) -> None:
        site = tmp_path / "site.yaml"
        text = (ROOT / "site.yaml").read_text(encoding="utf-8")
        site.write_text(text.replace("http://nginx.home.arpa:8000", f"http://127.0.0.1:9/{KEY}"))
        log = tmp_path / "log"
        words = ["--verbose", "--log", str(log), "check", "--criterion", "D3", "--site", str(site)]
        _, said = run(*words, "--state-dir", str(tmp_path / "state"), VLLM_API_KEY=KEY)
        (line,) = re.findall(r"GET http://127\.0\.0\.1:9/\S+ -> no answer: connection refused", said)[:1]
        kept = log.read_text(encoding="utf-8")
        assert line in kept
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z D3 ", kept)
        assert log.stat().st_mode & 0o777 == 0o600
        assert KEY not in said + kept

    def test_a_log_that_cannot_be_written_is_said_before_anything_is_asked(self) -> None:
        code, said = run("--log", "/proc/none/log", "keys")
        assert code == 2
        assert "The log /proc/none/log cannot be written" in said

    def test_a_log_that_is_a_pipe_or_a_link_is_said_and_waited_for_by_nobody(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to(tmp_path / "pipe")
        for name, why in (("link", "it is a link"), ("pipe", "it is not a file")):
            code, said = run("--log", str(tmp_path / name), "keys")
            assert (code, f"cannot be written: {why}." in " ".join(said.split())) == (2, True), said

    def test_a_command_to_be_told_with_an_open_quote_is_said(self) -> None:
        code, said = run("--notify-command", "mail 'me", "keys")
        assert code == 2
        assert "--notify-command cannot be read: no closing quotation." in said

    def test_nobody_hears_after_the_end(self) -> None:
        heard: list[str] = []
        with trace.listening(heard.append):
            trace.Asked("GET a").answered("200")
        trace.Asked("GET b").answered("200")
        assert [re.sub(r"\d+ ms", "0 ms", one) for one in heard] == ["GET a -> 200 (0 ms)"]


@pytest.mark.parametrize("words", [["--plain"], []])
def test_plain_and_no_color_leave_no_colours(words: list[str]) -> None:
    env = os.environ | EMPTY | {"PYTHONPATH": str(ROOT / "src"), "FORCE_COLOR": "1"} | ({} if words else {"NO_COLOR": "1"})
    done = subprocess.run(
        [sys.executable, "-m", "cutover", *words, "keys"], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", done.stdout)


@pytest.mark.parametrize(("typed", "offered"), [("cutover de", {"deploy", "decommission"}), ("cutover undo c", {"copy"})])
def test_a_shell_completes_commands_and_the_steps_that_can_be_undone(typed: str, offered: set[str]) -> None:
    asked = {"_CUTOVER_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    ended = CliRunner().invoke(app, [], prog_name="cutover", env=EMPTY | asked)
    assert set(ended.output.split()) == offered


class TestText:
    PRINT = "53:A5:AB:EF:CD:00 at fd00:ab:cd::1 [b]"

    @pytest.mark.parametrize("tty", [True, False])
    def test_a_fingerprint_and_an_address_stay_what_they_are(self, capsys: pytest.CaptureFixture[str], tty: bool) -> None:
        output = Output.of("init", as_json=False)
        output.out._force_terminal = output.terminal.err._force_terminal = tty
        output.line(self.PRINT, mark="?")
        output.line(self.PRINT)
        output.whole(self.PRINT)
        output.rows([(("name", ""), (self.PRINT, ""))])
        output.table([[self.PRINT]], [""])
        output.terminal.say(self.PRINT)
        output.terminal.err.print(output.terminal.shown(self.PRINT))
        shown = capsys.readouterr()
        assert (shown.out + shown.err).count(self.PRINT) == 7, shown


class TestProgress:
    @pytest.fixture
    def shown(self, monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, io.StringIO]:
        monkeypatch.setattr(terminal, "PATIENCE", 0.0)
        made, out = Terminal(Credentials({})), io.StringIO()
        made.err = Console(file=out, force_terminal=True, width=100)  # type: ignore[assignment]
        return made, out

    def test_long_work_shows_how_far_it_is_and_what_is_left(self, shown: tuple[Terminal, io.StringIO]) -> None:
        with shown[0].progress("Comparing digits", 1000, "records") as advance:
            advance(500)
        assert "Comparing digits" in shown[1].getvalue()
        assert "left" in shown[1].getvalue()

    def test_short_work_shows_nothing(self, shown: tuple[Terminal, io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(terminal, "PATIENCE", 60.0)
        with shown[0].progress("Comparing digits", 1000, "records") as advance:
            advance(500)
        assert shown[1].getvalue() == ""

    def test_a_wait_says_for_what_why_and_how_long_it_may_take(self, shown: tuple[Terminal, io.StringIO]) -> None:
        answers = [wait.Not("the task runs"), wait.Not("the task runs"), 7]
        with wait.observed(shown[0].waits):
            assert wait.wait_until(lambda: answers.pop(0), deadline=60, what="The backup", every=0.001) == 7
        assert "The backup: the task runs (0 s so far, 60 s at most)" in shown[1].getvalue()
        assert shown[0]._moving is None

    def test_a_wait_inside_of_a_bar_does_not_disturb_it(self, shown: tuple[Terminal, io.StringIO]) -> None:
        answers = [wait.Not("not yet"), 7]
        with wait.observed(shown[0].waits), shown[0].progress("Copying", 10, "records") as advance:
            advance(1)
            wait.wait_until(lambda: answers.pop(0), deadline=60, what="A snapshot", every=0.001)
        assert "Copying" in shown[1].getvalue()


class TestInit:
    def test_without_a_token_nothing_is_asked(self, tmp_path: Path) -> None:
        code, said = run("init", "--proxmox", "127.0.0.1", "--site", str(tmp_path / "site.yaml"))
        assert code == 2
        assert "PROXMOX_TOKEN_ID is not set" in said
        assert not (tmp_path / "site.yaml").exists()

    def test_an_address_that_nobody_says_is_asked_for_by_its_option(self, tmp_path: Path) -> None:
        code, said = run("init", "--site", str(tmp_path / "site.yaml"), PROXMOX_TOKEN_ID="a@pve!b", PROXMOX_TOKEN_SECRET=KEY)
        assert code == 2
        assert "Give --proxmox" in said

    @pytest.mark.parametrize("trusted", [["AA:BB"], []])
    def test_a_certificate_that_is_none_of_the_trusted_ones_is_said_to_be_none(
        self, trusted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO())
        asks = init.AtTerminal(terminal.Terminal(Credentials({})), {}, trusted)
        if trusted:
            asks.trust("https://pve:8006", "aabb", "openssl")
        with pytest.raises(Refused, match="with the fingerprint CC:DD") as refused:
            asks.trust("https://pve:8006", "CC:DD", "openssl")
        assert ("CC:DD, which is none of those after --trust" in str(refused.value)) is bool(trusted)

    def test_a_shell_that_is_none_is_said_with_the_option(self) -> None:
        known = guests.Guests([], {}, [], {}, [])
        asks = init.AtTerminal(terminal.Terminal(Credentials({})), {"nginx": "false"}, [])
        with pytest.raises(Unreachable, match="There is no shell on the Nginx host") as refused:
            survey._shell(asks, survey.Wishes(), known, WriteGuard(), Found())
        assert "--nginx-shell" in refused.value.hint

    @pytest.mark.parametrize("said", ["elsewhere=1", "old=", "old"])
    def test_a_part_that_the_plan_does_not_have_is_a_mistake(self, said: str) -> None:
        with pytest.raises(WrongUsage, match="is not PART=ID or PART=NAME"):
            init.of_guests([said])

    @pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\x00", "[" * 3000])
    def test_a_file_that_is_no_site_file_is_left_alone(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "site.yaml").write_text(text)
        with pytest.raises(WrongUsage, match="is there and"):
            init.earlier(tmp_path / "site.yaml")

    def test_another_file_is_shown_as_a_difference_and_written_only_after_a_yes(self, tmp_path: Path) -> None:
        file = tmp_path / "site.yaml"
        text = (ROOT / "site.yaml").read_text(encoding="utf-8")
        file.write_text(text)
        file.chmod(0o640)
        found = Found()
        found.add("resize.before", {"cores": 5, "memory_mb": 8192, "disk_gb": 100}, "what VM 1001 has now")
        output = Output.of("init", as_json=False)
        tree = init.earlier(file)[1]
        with pytest.raises(Refused, match="Write that into"):
            init._over(output, file, text, found, tree, yes=False)
        assert file.read_text(encoding="utf-8") == text
        assert init._over(output, file, text, found, tree, yes=True) == 0
        assert load(file).resize.before.cores == 5
        assert file.stat().st_mode & 0o777 == 0o640
        assert init._over(output, file, file.read_text(), found, init.earlier(file)[1], yes=False) == 0

    def test_a_file_of_windows_behind_a_link_keeps_its_line_ends_and_the_link(self, tmp_path: Path) -> None:
        file, link = tmp_path / "mine.yaml", tmp_path / "site.yaml"
        file.write_text((ROOT / "site.yaml").read_text(encoding="utf-8"), encoding="utf-8", newline="\r\n")
        link.symlink_to(file)
        found = Found()
        found.add("resize.disk", "scsi1", "the disk from which it boots")
        text, tree = init.earlier(link)
        assert init._over(Output.of("init", as_json=False), link, text, found, tree, yes=True) == 0
        assert link.is_symlink()
        assert load(link).resize.disk == "scsi1"
        assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n") > 80

    def test_the_file_of_a_clone_as_it_ships_says_nothing_about_this_site(self, tmp_path: Path) -> None:
        file = tmp_path / "site.yaml"
        file.write_text(survey.template(), encoding="utf-8")
        found = Found()
        found.add("name", "mine", "the cluster's name", chosen=True)
        text, tree = init.earlier(file)
        fresh = survey.fresh(found, "2026-01-01")
        with pytest.raises(Refused):
            init._over(Output.of("init", as_json=False), file, text, found, tree, fresh, yes=False)
        assert init._over(Output.of("init", as_json=False), file, text, found, tree, fresh, yes=True) == 0
        assert load(file).name == "mine"
