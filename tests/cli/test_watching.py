"""The unit file of the watch, and what the service manager is told."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cutover.cli import terminal, watching
from cutover.cli.app import app
from cutover.cli.output import Output
from cutover.core.errors import Unreachable
from cutover.state import status


def test_the_unit_names_this_installation_and_what_it_may_write(tmp_path: Path) -> None:
    odd = tmp_path / "a site" / "100%"
    text = watching.unit(odd / "site.yaml", odd / ".state")
    assert f"ExecStart={sys.executable} -m cutover follow --watch --execute --site '" in text
    assert "100%%" in text and "ReadWritePaths=" in text and "\\x20site" in text
    assert "KEY=" not in text
    assert "\nKillMode=mixed\n" in text, "the shell on the Nginx host is not ended in the middle of a round"


def test_the_unit_starts_this_tool_with_what_the_unit_says_alone(tmp_path: Path) -> None:
    """A clone finds its source by a variable that its launcher sets, which a service manager does not have."""
    text = watching.unit(tmp_path / "a site/site.yaml", tmp_path / "a state")
    env = dict(one.split("=", 1) for line in re.findall("^Environment=(.+)$", text, re.MULTILINE) for one in shlex.split(line))
    (command,) = re.findall("^ExecStart=(.+)$", text, re.MULTILINE)
    said = subprocess.run([*shlex.split(command), "--help"], env=env, cwd="/", capture_output=True, text=True, check=False)
    assert (said.returncode, "--watch" in said.stdout) == (0, True), said.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "qdrant-cutover.service"
    file.write_text(watching.unit(tmp_path / "site.yaml", tmp_path / ".state"))
    said = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, file.name in said.stderr) == (0, False), said.stderr


def test_the_service_manager_is_told_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching.to_systemd("READY=1")  # nobody started this as a service
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        watching.to_systemd("READY=1\nSTATUS=all is well")
        assert manager.recv(200) == b"READY=1\nSTATUS=all is well"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    watching.to_systemd("STOPPING=1")


def test_what_is_wrong_wakes_somebody_once_and_a_server_only_when_it_stays_away() -> None:
    told: list[tuple[str, ...]] = []
    attention = watching.Attention(lambda *words: told.append(words))
    away, full = {"server": "The new server does not answer."}, {"room": "300 MB are left."}
    for now, wrong in (
        (0.0, away),
        (10.0, {}),
        (20.0, away),
        (49.0, away | full),
        (51.0, away | {"room": "299 MB are left."}),
        (60.0, {}),
    ):
        attention.see(wrong, now)
    assert [said for _, said, _ in told] == [
        "300 MB are left.",
        "The new server does not answer.",
        *sorted(["Over: The new server does not answer.", "Over: 300 MB are left."], key=[one[1] for one in told[2:]].index),
    ]
    assert {(event, step) for event, _, step in told} == {("attention", "follow")}


def test_progress_without_a_terminal_is_a_line_now_and_then_with_what_is_left() -> None:
    at = [0.0]
    said: list[str] = []
    advance = terminal.Lines(said.append, "Comparing docs", 1000, "records", clock=lambda: at[0])
    for now, done in ((1.0, 100), (40.0, 300), (41.0, 100), (100.0, 500)):
        at[0] = now
        advance(done)
    assert said == [
        "Comparing docs: 400 of 1000 records, 10 a second, about 60 s left.",
        "Comparing docs: 1000 of 1000 records, 10 a second.",
    ]


class TestStatusAgainAndAgain:
    """`status --watch`: until Ctrl-C, whatever the servers do meanwhile."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> list[str]:
        """A site whose Nginx host gives no shell; what it has besides is not asked."""
        text = (Path(__file__).resolve().parents[2] / "site.yaml").read_text(encoding="utf-8")
        assert "[ssh, root@nginx.home.arpa]" in text
        (tmp_path / "site.yaml").write_text(text.replace("[ssh, root@nginx.home.arpa]", "['false']"), encoding="utf-8")
        return ["--site", str(tmp_path / "site.yaml"), "--state-dir", str(tmp_path / "state")]

    @pytest.fixture
    def ended_after(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Ctrl-C comes in the so many-th pause; pauses take no time."""

        def after(count: int) -> None:
            waits, really = iter(range(count)), time.sleep

            def pause(seconds: float) -> None:
                if seconds < 1:
                    really(seconds)  # somebody waits for a process
                elif next(waits) == count - 1:
                    raise KeyboardInterrupt

            monkeypatch.setattr("time.sleep", pause)

        return after

    @pytest.mark.parametrize("tty", [True, False])
    def test_a_terminal_shows_every_look_and_a_pipe_what_is_new(
        self, capsys: pytest.CaptureFixture[str], ended_after: Callable[[int], None], tty: bool
    ) -> None:
        answers: Iterator[list[str] | Exception] = iter(
            [["ready"], ["ready"], Unreachable("Nginx is away.", "Start it."), ["moving"]]
        )

        def look() -> list[str]:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        ended_after(4)
        made = Output.of("status", as_json=False)
        made.out._force_terminal = tty
        with pytest.raises(KeyboardInterrupt):
            made.again_and_again(look, 10)
        shown = [line.strip() for line in capsys.readouterr().out.splitlines() if "until Ctrl-C" not in line]
        assert shown == ["ready", *(["ready"] if tty else []), "Nginx is away. Start it.", "moving"]

    def test_an_answer_that_nobody_understands_does_not_end_it(
        self, site: list[str], ended_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([KeyError("result")])
        really = status.status

        def odd_at_first(*words: object, **more: object) -> status.Status:
            for answer in answers:
                raise answer
            return really(*words, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(status, "status", odd_at_first)
        ended_after(2)
        ended = CliRunner().invoke(app, ["status", "--watch", "1", *site])
        assert ended.exit_code == 0, ended.output
        assert "it lacks 'result'" in ended.output
        assert "Now:         Nginx could not be asked which server serves" in ended.output

    @pytest.mark.parametrize("words", [["inf"], ["nan"], ["0"], ["1", "--json"]])
    def test_what_cannot_be_done_is_wrong_usage(
        self, site: list[str], ended_after: Callable[[int], None], words: list[str]
    ) -> None:
        ended_after(1)
        assert CliRunner().invoke(app, ["status", "--watch", *words, *site]).exit_code == 2

    def test_ctrl_c_ends_it_well_where_somebody_reads_a_pipe(self, site: list[str]) -> None:
        root = Path(__file__).resolve().parents[2]
        # A shell that starts the tests in the background lets its children ignore Ctrl-C.
        heard = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from cutover.cli.app import app; app(prog_name='cutover')"
        )
        with subprocess.Popen(
            [sys.executable, "-c", heard, "status", "--watch", "60", *site],
            env={"PYTHONPATH": str(root / "src")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as watched:  # fmt: skip
            assert watched.stdout is not None and watched.stderr is not None
            lines = [watched.stdout.readline() for _ in range(4)]
            watched.send_signal(signal.SIGINT)
            try:
                assert (watched.wait(60), watched.stdout.read(), watched.stderr.read()) == (0, "", "")
            finally:
                watched.kill()
        assert lines[0].startswith("planned: ")
        assert lines[-1].startswith("You can:     ")
