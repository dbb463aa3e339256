"""The rehearsal needs the lab's packages and none of the tests'."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_starts_without_the_packages_of_the_tests() -> None:
    script = (
        "import sys\n"
        "for name in ('pytest', 'pytest_bdd', 'gherkin', 'hypothesis', 'xdist'): sys.modules[name] = None\n"
        "import tools.rehearsal\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
