"""The lab leaves nothing behind, and a machine is really on or off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.machines import Machine, Machines
from lab.processes import DidNotStart, Process

ROOT = Path(__file__).parents[2]


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def within(seconds: float, fact: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def family(folder: Path) -> Process:
    """A process with a child of its own; both write their ids."""
    script = "sleep 300 & echo $! > child; echo $$ > parent; wait"
    return Process(
        ["sh", "-c", script],
        cwd=folder,
        log=folder / "log",
        # The file is there before its content is.
        ready=lambda: None if (folder / "parent").exists() and (folder / "parent").read_text() else "not written yet",
    )


def pids(folder: Path) -> list[int]:
    return [int((folder / name).read_text()) for name in ("parent", "child")]


def test_stop_ends_the_whole_family(tmp_path: Path) -> None:
    process = family(tmp_path)
    process.start()
    both = pids(tmp_path)
    assert not any(map(gone, both))
    process.stop(grace=1)
    assert within(2, lambda: all(map(gone, both)))


def test_a_process_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo no room; exit 4"], log=tmp_path / "log", ready=lambda: "not yet")
    with pytest.raises(DidNotStart, match=r"code 4(.|\n)*no room"):
        process.start()


def test_a_process_that_never_answers_is_ended(tmp_path: Path) -> None:
    process = Process(["sleep", "60"], log=tmp_path / "log", ready=lambda: "still deaf", ready_within=0.2)
    with pytest.raises(DidNotStart, match="still deaf"):
        process.start()
    assert not process.alive


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_nothing_outlives_the_lab(tmp_path: Path, how: signal.Signals | None) -> None:
    """Also when a short-lived thread started the process, and when the lab is killed outright."""
    code = textwrap.dedent(f"""
        import sys, threading, time
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from tests.lab.test_processes import family
        thread = threading.Thread(target=lambda: family(Path({str(tmp_path)!r})).start())
        thread.start(); thread.join()
        print("up", flush=True)
        sys.stdin.read()
    """)
    lab = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert lab.stdout is not None and lab.stdin is not None
    assert lab.stdout.readline() == b"up\n"
    both = pids(tmp_path)
    assert not any(map(gone, both)), "the family must survive the end of the thread that started it"
    if how is None:
        lab.stdin.close()
    else:
        os.kill(lab.pid, how)
    lab.wait(timeout=10)
    assert within(5, lambda: all(map(gone, both)))


def test_a_machine_is_on_and_off_with_its_services(tmp_path: Path) -> None:
    process = family(tmp_path)
    machines = Machines()
    machine = machines.add(Machine(952, "lxc", "qdrant", "127.0.0.2", tmp_path / "root", [process]))
    machines.start()
    assert machine.running and process.alive
    machine.stop(hard=True)
    assert not machine.running and not process.alive
    machine.start()
    assert machine.boots == 2
    machines.stop()


def test_a_disk_is_saved_and_restored(tmp_path: Path) -> None:
    machine = Machine(952, "lxc", "qdrant", "127.0.0.2", tmp_path / "root")
    machine.root.mkdir()
    (machine.root / "data").write_text("before")
    machine.save(tmp_path / "saved")
    (machine.root / "data").write_text("after")
    (machine.root / "new").write_text("x")
    machine.restore(tmp_path / "saved")
    assert [(file.name, file.read_text()) for file in machine.root.iterdir()] == [("data", "before")]


def test_a_saved_disk_is_of_one_moment(tmp_path: Path) -> None:
    """Two files written one after the other by a running service never differ by more than one step in the copy."""
    root = tmp_path / "root"
    root.mkdir()
    script = "i=0; while :; do i=$((i+1)); echo $i > a; echo $i > b; done"
    service = Process(["sh", "-c", script], cwd=root, log=tmp_path / "log")
    machine = Machine(952, "lxc", "qdrant", "127.0.0.2", root, [service])
    machine.start()
    try:
        assert within(5, (root / "b").exists)
        for attempt in range(5):
            saved = tmp_path / f"saved{attempt}"
            machine.save(saved)
            words = [(saved / name).read_text().strip() or "0" for name in "ab"]
            assert "0" in words or abs(int(words[0]) - int(words[1])) <= 1
    finally:
        machine.stop()
