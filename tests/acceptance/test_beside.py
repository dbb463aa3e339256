"""What runs beside the tests counts as one of the run's processes, and what it said stands before the last line."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from cutover.core.wait import Not, wait_until
from lab.lab import ROOT

SMALL = """
import os, pathlib, pytest
@pytest.mark.parametrize("number", range(8))
def test_small(number):
    with open("ran", "a") as ran:
        ran.write(os.environ["PYTEST_XDIST_WORKER"] + " " + os.environ.get("TESTS_BESIDE", "-") + "\\n")
"""


def test_the_last_process_begins_when_what_runs_beside_has_ended(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from acceptance import beside\npytest_configure = beside.share\n")
    (tmp_path / "test_small.py").write_text(SMALL)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    said, ran = tmp_path / "said", tmp_path / "ran"
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    env |= {"TESTS_BESIDE": str(said), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    words = ["-n2", "--dist=worksteal", "-p", "no:cacheprovider", "test_small.py"]
    with said.open("w") as beside:
        fcntl.flock(beside, fcntl.LOCK_EX)
        run = subprocess.Popen([sys.executable, "-m", "pytest", *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
        try:

            def six() -> bool | Not:
                assert run.poll() is None, run.communicate()
                return (ran.exists() and len(ran.read_text().splitlines()) >= 6) or Not("less than six tests have run")

            wait_until(six, deadline=120, what="one process to do what two were to do")
            assert set(ran.read_text().splitlines()) == {"gw0 -"}, "the other waits, and no test knows of it"
            assert run.poll() is None, "nothing is ended while something is shown beside"
            beside.write("16 were shown beside\n")
            beside.flush()
        finally:
            fcntl.flock(beside, fcntl.LOCK_UN)
    *_, before, last = [line for line in run.communicate(timeout=120)[0].splitlines() if line]
    assert run.returncode == 0
    assert before == "16 were shown beside"
    assert "8 passed" in last
