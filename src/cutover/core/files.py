"""Writing files, in one place: whole or not at all, for the owner alone, and never through a link.

What this tool keeps holds ids, payloads and vectors of other people's data. So the mode of a file is set and not inherited from
whoever made the folder or from the umask; a name that is a link is never followed, because somebody else may have put it there;
and a folder that others can enter is refused instead of trusted. What was written is on the disk when a function returns.

A name on the Nginx host may be any bytes; those that are no UTF-8 are surrogates here, and are written as JSON escapes them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cutover.core.errors import WrongUsage

#: For the owner alone, and for everybody to read.
PRIVATE, PUBLIC = 0o600, 0o644
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MORE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def why(error: OSError) -> str:
    """Why a file cannot be opened, in a few words. The system's own words for what is refused here on purpose are riddles."""
    known = {errno.ELOOP: "it is a link", errno.ENXIO: "it is not a file"}
    return known.get(error.errno or 0) or error.strerror or str(error)


def open_to_others(folder: Path) -> str:
    """Why a folder is not its owner's alone, in a few words; empty where it is, and where there is none."""
    try:
        seen = folder.stat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISDIR(seen.st_mode):
        return "it is not a folder"
    if seen.st_uid != os.geteuid():
        return "it belongs to somebody else"
    return "others can enter it" if stat.S_IMODE(seen.st_mode) & 0o077 else ""


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter, or see that it is one; :class:`WrongUsage` where it is not."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if why := open_to_others(folder):
        raise WrongUsage(
            f"The folder {folder} cannot be used: {why}, and what is kept there is not for everybody.",
            f"Say `chmod 700 {folder}`, or name another folder.",
        )


@contextmanager
def fresh(path: Path, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """A new file in place of whatever has that name; a link of that name goes, and what it leads to stays as it is."""
    with suppress(FileNotFoundError):
        path.unlink()
    handle = os.open(path, _NEW, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        yield file
        file.flush()
        os.fsync(handle)


def replace(path: Path, content: str | bytes, mode: int = PRIVATE) -> None:
    """The whole content under this name, or what was there before, whenever this process ends."""
    unfinished = path.with_name(f".{path.name}.new")
    try:
        with fresh(unfinished, mode) as file:
            file.write(_bytes(content))
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    _on_disk(path.parent)


def _bytes(content: str | bytes) -> bytes:
    return content.encode(errors="backslashreplace") if isinstance(content, str) else content


def append(path: Path, content: str | bytes, *, mode: int = PRIVATE, sync: bool = True) -> None:
    """Add to a file in one piece; where it does not fit, none of it is added, so that the next line begins on its own."""
    rest = _bytes(content)
    handle = os.open(path, _MORE, mode)
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(0, "it is not a file", str(path))
        if seen.st_uid == os.geteuid() and stat.S_IMODE(seen.st_mode) != mode:
            os.fchmod(handle, mode)
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
            if sync:
                os.fsync(handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, seen.st_size)
            raise
    finally:
        os.close(handle)


def mend(path: Path) -> None:
    """Cut off a last line that a crash tore, so that the next one begins on its own. Fine where there is no file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(handle, "rb+") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def _on_disk(folder: Path) -> None:
    """The new name as well: a power cut must not bring the old one back."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
