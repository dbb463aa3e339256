"""What a process and a folder take, looked at from outside. MB are 2^20 bytes."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

MB = 1 << 20


def memory(pid: int | None, *, children: bool = False) -> float:
    """Memory of a process, or of it and its children, MB; 0 where there is none."""
    total = 0.0
    with suppress(OSError):
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / MB
        if children:
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                total += memory(int(child), children=True)
    return total


def processor(pid: int | None) -> float:
    """Seconds of processor that a process took; 0 where there is none."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def disk(folder: Path) -> tuple[float, int]:
    """(MB, number of recorded bodies) of what is in a folder; what goes meanwhile does not count."""
    size = bodies = 0
    with suppress(OSError):
        for file in folder.rglob("*"):
            with suppress(OSError):
                found = file.lstat()
                size += found.st_blocks * 512
                bodies += file.parent.name == "bodies"
    return size / MB, bodies
