"""Real disks that are full or read-only: a small file system of its own, mounted where a folder of the lab is to be.

Needs the right to mount (root, outside an unprivileged container); :class:`NoMount` says so where it is not given.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


class NoMount(Exception):
    """This user may not mount a file system here."""


@dataclass(frozen=True)
class Disk:
    """A file system of its own at ``path``."""

    path: Path

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Write until only ``leave`` bytes are free."""
        self.clear()
        size = self.free - leave
        with (self.path / ".filler").open("wb") as file, contextlib.suppress(OSError):
            while size > 0:
                size -= file.write(b"\0" * min(size, 1 << 20))
                file.flush()
        assert self.free <= leave + PAGE, f"{self.free} bytes are still free"

    def clear(self) -> None:
        """Make room again."""
        (self.path / ".filler").unlink(missing_ok=True)

    def read_only(self, yes: bool = True) -> None:
        """Take the right to write from everybody, as a kernel does with a disk that has errors."""
        _mount("-o", f"remount,{'ro' if yes else 'rw'}", str(self.path))


@contextlib.contextmanager
def disk(path: Path, size: int) -> Iterator[Disk]:
    """A file system of ``size`` bytes at ``path``, with what was in the folder."""
    path.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o7777
    _mount("-t", "tmpfs", "-o", f"size={size},mode={mode:o}", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        # Lazily: a process of the lab that is being ended may still have a file open.
        subprocess.run(["umount", "--lazy", str(path)], check=False, timeout=20, capture_output=True)


def _mount(*words: str) -> None:
    try:
        done = subprocess.run(["mount", *words], check=False, timeout=20, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoMount(f"there is no {error.filename}") from None
    if done.returncode != 0:
        raise NoMount(done.stderr.strip() or os.strerror(errno.EPERM))
