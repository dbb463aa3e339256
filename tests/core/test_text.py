"""What a server says stays text: no escape of a terminal, no command to a runner, no link or picture in the report."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from cutover.cli.command import end
from cutover.cli.output import Output
from cutover.cli.terminal import Terminal
from cutover.core.credentials import Credentials
from cutover.core.text import for_log, for_markdown, plain
from cutover.report import model
from cutover.report.html import page
from cutover.report.markdown import markdown

ROOT = Path(__file__).parents[2]
#: How many times the random input; every night more than a change waits for.
TIMES = int(os.environ.get("CUTOVER_ATTACKS", "1"))
#: How a runner recognises a command: at the beginning of a line after blanks, and the old form anywhere in it.
COMMAND = re.compile(r"^\s*::|##\[", re.MULTILINE)
ANY = st.text(alphabet=st.one_of(st.characters(), st.sampled_from(":#[]`!()<>|\n\r\t\x1b\u2028 @/.w")), max_size=80)
SAID = [
    "::error::stop", "fine\n::error file=a::stop", "fine\r::add-mask::a", "fine\u2028::error::x", "  \t::set-env name=PATH::/x",
    "##[error]stop", "a ##[group]x", "\x1b[2J\x1b]0;title\x07", "fine\n```\n# headline\n", "~~~", "![x](https://192.0.2.1/x.png)",
    "[x](javascript:alert(1))", "<img src=x onerror=alert(1)>", "https://192.0.2.1/phish", "www.example.org", "me@example.org",
    "@everyone", "see #1", "a | b | c", "`code`", "\u202egnp.exe", "<!-- x -->", "[x]: https://192.0.2.1", "$x$", "&lt;",
]  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_no_line_of_it_is_a_command_to_the_runner(said: str) -> None:
    terminal = Terminal(Credentials({}))
    shown = terminal.shown(f"Portainer answered: {said}")
    assert not COMMAND.search(shown.replace("\\[", "["))
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@settings(max_examples=400 * TIMES, deadline=None)
@given(ANY)
@example("\n ::error::")
def test_whatever_is_said_is_no_command(said: str) -> None:
    assert not COMMAND.search(for_log(said))
    assert all(sign.isprintable() or sign in "\n\t" for sign in for_log(said))


@settings(max_examples=400 * TIMES, deadline=None)
@given(ANY)
@example("![x](https://192.0.2.1/x.png)")
@example("\\![x](y)")
def test_whatever_is_said_is_nothing_but_text_in_the_report(said: str) -> None:
    written = for_markdown(said)
    assert "\n" not in written
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]{}~|!$]", written)
    assert not re.search(r"[<>@]|://|www\.", written)


@pytest.mark.parametrize("said", [*SAID, "\x9b31m", "a\x7fb", "caf\udce9", "\u2028"])
def test_what_json_is_printed_holds_it_and_no_terminal_acts_on_it(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work(output: Output) -> int:
        output.data["said"] = {said: said}
        return 0

    with pytest.raises(typer.Exit):
        end("status", as_json=True, work=work)
    told = capsys.readouterr().out
    assert told.isascii() and all(sign.isprintable() or sign == "\n" for sign in told)
    assert not COMMAND.search(told)
    assert json.loads(told)["said"] == {said: said}


def _report(said: str) -> model.Report:
    seen = model.Evidence("A1", said, "failed", sentence=said, reason=said)
    run = model.Run("live", said, said, image=said, by=said, facts={"fact": said}, evidence=[seen])
    return model.Report([model.Criterion("A1", "before", "The host can give", True)], [run])


@pytest.mark.parametrize("said", SAID)
def test_the_report_shows_it_as_text(said: str) -> None:
    written = markdown(_report(said))
    for line in written.splitlines():
        assert not COMMAND.search(line)
        assert not line.startswith(("```", "~~~"))
    written = re.sub(r"`[^`]*`", "", written)  # a commit or an image: in code nothing is a link
    assert not re.search(r"(?<!\\)\](\(|\[|:)", written)
    assert "<img" not in written
    assert "://192" not in written
    html = page(_report(said))
    assert "<img src" not in html
    assert "href='http" not in html


def test_the_signs_of_a_text_are_all_there() -> None:
    assert plain("Größe 5 µs – «ja»") == "Größe 5 µs – «ja»"
    assert for_markdown("Größe 5 µs, 10.0.0.101:6333 (it is)") == "Größe 5 µs, 10.0.0.101:6333 (it is)"


def _steps(workflow: str) -> list[str]:
    read = YAML(typ="safe", pure=True).load((ROOT / ".github/workflows" / workflow).read_text())
    return [step["run"] for job in read["jobs"].values() for step in job.get("steps", []) if "run" in step]


@pytest.mark.parametrize(("workflow", "program"), [("deploy.yml", "./scripts/cutover"), ("acceptance.yml", "./scripts/test")])
def test_commands_are_off_while_servers_speak(workflow: str, program: str, tmp_path: Path) -> None:
    step = next(run for run in _steps(workflow) if program in run)
    (tmp_path / "scripts").mkdir()
    (tmp_path / program).write_text("#!/bin/sh\necho '::error::a server said this'\nexit 1\n")
    (tmp_path / program).chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path), "CHANGES": ""},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    word = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", lines[0])
    assert word
    assert lines[-1] == f"::{word[1]}::"
    assert "::error::a server said this" in lines[1:-1]
    assert done.returncode == 1


def test_no_line_of_a_deployment_ends_the_code_of_the_summary(tmp_path: Path) -> None:
    step = next(run for run in _steps("deploy.yml") if "### Deployment" in run)
    (tmp_path / "deployment.txt").write_text("one\n```\n\n# headline\r![x](y)\n")
    subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step], check=True,
        env={"PATH": "/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path), "GITHUB_STEP_SUMMARY": str(tmp_path / "s"), "GITHUB_SHA": "a"},
    )  # fmt: skip
    head, _, rest = io.StringIO((tmp_path / "s").read_text()).read().partition("\n\n")
    assert head == "### Deployment of a"
    assert all(line.startswith("    ") for line in rest.splitlines())
