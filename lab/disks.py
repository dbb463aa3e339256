"""Real disks that are full or read-only: a small file system of its own, mounted where a folder of the lab is to be.

Needs the right to mount (root, outside an unprivileged container); :class:`NoMount` says so where it is not given.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cutover.core.wait import Not, wait_until

PAGE = os.sysconf("SC_PAGE_SIZE")


class NoMount(Exception):
    """This user may not mount a file system here."""


@dataclass(frozen=True)
class Disk:
    """A file system of its own at ``path``; ``image`` is the file that it is in, of one that can fail."""

    path: Path
    image: Path | None = None

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Write until only ``leave`` bytes are free."""
        self.clear()
        handle = os.open(self.path / ".filler", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            at, size = 0, self.free - leave
            while size >= PAGE:
                try:
                    os.posix_fallocate(handle, at, size)
                    at, size = at + size, self.free - leave
                except OSError:  # what keeps account of it takes room as well
                    size //= 2
        finally:
            os.close(handle)
        assert self.free <= leave + PAGE, f"{self.free} bytes are still free"

    def clear(self) -> None:
        """Make room again."""
        (self.path / ".filler").unlink(missing_ok=True)

    def read_only(self, yes: bool = True) -> None:
        """Take the right to write from everybody; the kernel does not while somebody writes."""
        _mount("-o", f"remount,{'ro' if yes else 'rw'}", str(self.path))

    def fail(self) -> None:
        """As after an error of the disk: the kernel lets nobody write any more, whoever has a file open, until :meth:`repair`.

        What was written until then is on the disk (what was not is another fault: a power cut).
        """
        _run("sync", "-f", str(self.path))
        _mount("-o", "remount,abort", str(self.path))

    def repair(self) -> None:
        """Mount it anew, as a start of its host does; nobody may be using it."""
        umount = ["umount", str(self.path)]

        def gone() -> bool | Not:
            done = subprocess.run(umount, check=False, timeout=20, capture_output=True, text=True)
            return done.returncode == 0 or Not(done.stderr.strip())

        wait_until(gone, deadline=10, what="The end of what uses the disk")
        _mount("-o", "loop", str(self.image), str(self.path))


@contextlib.contextmanager
def disk(path: Path, size: int) -> Iterator[Disk]:
    """A file system of ``size`` bytes at ``path``."""
    path.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o7777
    with _mounted("-t", "tmpfs", "-o", f"size={size},mode={mode:o}", "tmpfs", str(path)):
        yield Disk(path)


@contextlib.contextmanager
def failing_disk(path: Path, size: int) -> Iterator[Disk]:
    """The same, and it can fail: ext4 in a file that is in memory."""
    path.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o7777
    with disk(path.with_name(f"{path.name}.image"), size + (64 << 20)) as around:
        image = around.path / "ext4"
        with image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", str(image))
        with _mounted("-o", "loop", str(image), str(path)):
            path.chmod(mode)
            yield Disk(path, image)


@contextlib.contextmanager
def _mounted(*words: str) -> Iterator[None]:
    _mount(*words)
    try:
        yield
    finally:
        _empty(Path(words[-1]))
        # Lazily: a process of the lab that is being ended may still have a file open.
        subprocess.run(["umount", "--lazy", words[-1]], check=False, timeout=20, capture_output=True)


def _empty(path: Path) -> None:
    """Remove what is in it. A file system that is let go lazily lives as long as a loop of the lab that works in it, and that ends
    where it finds its files gone."""
    with contextlib.suppress(NoMount):
        _mount("-o", "remount,rw", str(path))
    for inside in path.iterdir():
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                inside.unlink()


def _mount(*words: str) -> None:
    _run("mount", *words)


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, check=False, timeout=20, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoMount(f"there is no {error.filename}") from None
    if done.returncode != 0:
        raise NoMount(done.stderr.strip() or os.strerror(errno.EPERM))
