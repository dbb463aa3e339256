"""What works in a disk of the lab ends with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab import disks


@pytest.mark.parametrize("left", ["writable", "read-only"])
def test_a_loop_that_works_in_it_ends_with_it(tmp_path: Path, left: str) -> None:
    at = tmp_path / "gate"
    try:
        with disks.disk(at, 1 << 20) as disk:
            (at / "flags").mkdir()
            (at / "flags" / "record").touch()
            loop = subprocess.Popen(["sh", "-c", "while [ -f flags/record ]; do sleep 0.05; done"], cwd=at)
            if left == "read-only":
                disk.read_only()
    except disks.NoMount as error:
        pytest.skip(str(error))
    try:
        assert loop.wait(timeout=20) == 0
    finally:
        loop.kill()
