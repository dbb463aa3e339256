"""The shell on the Nginx host: exact bytes, exit codes, deadlines, and what is said when the session is lost."""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutover.core.errors import CutoverError, OutcomeUnknown, Unreachable, WritesRefused
from cutover.core.journal import Journal
from cutover.core.shell import Shell, written
from cutover.core.write_guard import WriteGuard


@pytest.fixture
def guard(tmp_path: Path) -> WriteGuard:
    return WriteGuard(Journal(tmp_path / "state", "test"))


@pytest.fixture(params=["sh", "busybox"])
def shell(request: pytest.FixtureRequest, guard: WriteGuard, tmp_path: Path) -> Iterator[Shell]:
    prefix: list[str] = []
    if request.param == "busybox":
        if not any(os.access(f"{folder}/busybox", os.X_OK) for folder in os.get_exec_path()):
            pytest.skip("busybox is not installed here")
        prefix = ["busybox"]
    made = Shell(prefix, guard)
    yield made
    made.close()


def test_output_errors_and_exit_code_arrive(shell: Shell) -> None:
    answer = shell.read("echo out; echo bad >&2; exit 7")
    assert (answer.out, answer.err, answer.code, answer.reason) == (b"out\n", "bad\n", 7, "bad")


def test_any_bytes_arrive_as_they_are(shell: Shell, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000 + b"no newline at the end"
    file = tmp_path / "a file with 'quotes'"
    file.write_bytes(content)
    assert shell.read(f"cat {shlex.quote(str(file))}").out == content
    assert shell.read("true").out == b""


@pytest.mark.parametrize("content", [bytes(range(256)), b"-n %s \\n 'x' $HOME `id`\n", b"", b"--", "ä\n".encode() * 2000])
def test_files_are_written_byte_for_byte(shell: Shell, guard: WriteGuard, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    with guard.act("test", "Write a file"):
        shell.change(f"{{ {written(content)}; }} > {shlex.quote(str(file))}", "write")
    assert file.read_bytes() == content


def test_one_session_serves_many_commands(shell: Shell) -> None:
    first = shell.read("echo $PPID $$").out
    for _ in range(20):
        assert shell.read("echo $PPID $$").out == first


@pytest.mark.parametrize("script", ["exit 3", "if then", "unset PATH; nothing-like-it", "cd /; exec false", "cat"])
def test_no_script_ends_the_session_or_disturbs_the_next(shell: Shell, script: str) -> None:
    before = shell.read("pwd; echo $$").out
    shell.read(script)
    assert shell.read("pwd; echo $$").out == before


def test_a_change_needs_an_open_act(shell: Shell, guard: WriteGuard, tmp_path: Path) -> None:
    file = tmp_path / "made"
    with pytest.raises(WritesRefused):
        shell.change(f"touch {file}", "touch")
    closed = Shell([], WriteGuard(None))
    with pytest.raises(WritesRefused):
        closed.change(f"touch {file}", "touch")
    assert not file.exists()
    with guard.act("test", "Touch a file"):
        shell.change(f"touch {file}", "touch")
    assert file.exists()


def test_a_read_whose_session_was_lost_is_asked_again(shell: Shell) -> None:
    first = shell.read("echo $$").out
    shell.read("echo fine")
    os.kill(int(first), 9)
    assert shell.read("echo $$").out != first


def test_a_change_whose_session_is_lost_has_an_unknown_outcome(shell: Shell, guard: WriteGuard, tmp_path: Path) -> None:
    file = tmp_path / "count"
    script = f"echo once >> {file}; kill -9 $PPID; kill -9 $$; sleep 5"
    sh = int(shell.read("echo $$").out)
    with pytest.raises(OutcomeUnknown, match="nobody knows"), guard.act("test", "Count"):
        shell.change(script.replace("$PPID", str(sh)), "count")
    assert file.read_text() == "once\n", "it was not sent again"
    assert shell.read("echo back").out == b"back\n"


def test_a_deadline_ends_the_wait(shell: Shell, guard: WriteGuard) -> None:
    shell.read("true")
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.3 s"), guard.act("test", "Sleep"):
        shell.change("sleep 30", "sleep", deadline=0.3)
    assert time.monotonic() - began < 25, "the command takes 30 s"
    assert shell.read("echo back").out == b"back\n"


def test_what_a_script_leaves_running_outlives_the_session(shell: Shell, guard: WriteGuard, tmp_path: Path) -> None:
    file = tmp_path / "later"
    with guard.act("test", "Leave"):
        shell.change(f"(trap '' HUP; sleep 0.5; touch {file}) </dev/null >/dev/null 2>&1 &", "leave")
    shell.close()
    end = time.monotonic() + 5
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert file.exists()


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        (["no-such-program"], "no-such-program cannot be run"),
        (["/bin/sh", "-c", "echo Permission denied '(publickey).' >&2; exit 255"], "Permission denied"),
        (["/bin/false"], "exit code 1"),
        (["/bin/cat"], "cat: sh"),
    ],
)
def test_a_way_that_leads_nowhere_is_named(guard: WriteGuard, prefix: list[str], words: str) -> None:
    with pytest.raises(Unreachable, match=words):
        Shell(prefix, guard).read("true")
    with pytest.raises(Unreachable, match=words), guard.act("test", "Change"):
        Shell(prefix, guard).change("true", "nothing")


def test_a_failing_read_says_why(shell: Shell) -> None:
    with pytest.raises(CutoverError, match=r"The list: .*o such file"):
        shell.output("ls /no/such/folder", "The list")


def test_a_prefix_with_more_words_is_run_as_it_is(guard: WriteGuard, tmp_path: Path) -> None:
    through = tmp_path / "through"
    through.write_text('#!/bin/sh\necho "$@" >> "$0.said"\nshift 2\nexec "$@"\n')
    through.chmod(stat.S_IRWXU)
    shell = Shell([str(through), "exec", "--"], guard)
    assert shell.read("echo there").out == b"there\n"
    shell.close()
    assert Path(f"{through}.said").read_text() == "exec -- sh\n"
