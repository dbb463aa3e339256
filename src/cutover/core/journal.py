"""The journal: what was intended, what came of it, and what was there before.

One JSON object per line, appended and flushed to the disk before anything is done (``intent``) and after it (``done``,
``failed`` or ``unknown``). After a crash the journal plus a look at the world say where the move is. A last line that
was torn by the crash is tolerated; any other broken line is an error, because silence about it would hide an act.

A journal belongs to one site and one format. Only one operator can hold it at a time; `follow --watch` holds it and gives it to
any other command that asks, for as long as that one runs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from cutover.core import files
from cutover.core.credentials import in_texts
from cutover.core.errors import Refused, WrongUsage
from cutover.core.wait import Not, TimedOut, wait_until

FORMAT = 1
#: The parts of a line that come from elsewhere.
_TOLD = ("what", "before", "after", "reason", "extra")
Kind = Literal["opened", "intent", "done", "failed", "unknown", "note"]

#: In the lock file of a process that gives the journal to whoever asks, and how long that is waited for; seconds.
_GIVES_WAY = ", gives way to other commands"
_LONG_ENOUGH = 100
GIVEN_WITHIN = 120.0


def _taken(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(opened: Callable[[], int]) -> bool:
    """Whether another process has the lock on a file; one that cannot be opened nobody has."""
    try:
        handle = opened()
    except OSError:
        return False
    try:
        return not _taken(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def now() -> str:
    """UTC, RFC 3339, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc(at: float) -> str:
    """Seconds since 1970 as people read them: UTC, RFC 3339, seconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def seconds(at: str) -> float:
    """Such a time in seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()


def usable(folder: Path, *, writing: bool) -> None:
    """Whether a state folder can be read, and made and written where ``writing``; :class:`WrongUsage` with the reason."""
    try:
        if writing:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if why := files.open_to_others(folder):
            raise PermissionError(errno.EACCES, why)
        if folder.exists():
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            if writing and not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it cannot be written")
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        hint = f"Say `chmod 700 {folder}`: ids and payloads are kept there. Or name another one with --state-dir."
        raise WrongUsage(
            f"The state folder {folder} cannot be used: {reason}.",
            hint if reason == "others can enter it" else "Name another one with --state-dir.",
        ) from None


@dataclass(frozen=True)
class Entry:
    """One line. ``seq`` counts from 1; an outcome names its intent by ``of``."""

    seq: int
    at: str
    kind: Kind
    act: str
    what: str
    of: int | None = None
    before: Any = None
    after: Any = None
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


class Journal:
    """Append-only file ``journal.jsonl`` in the state folder.

    ``redact`` is applied to every text of a line before it is written, so that no secret can reach the file.
    """

    def __init__(self, folder: Path, site: str, *, redact: Callable[[str], str] = lambda text: text) -> None:
        self.path = folder / "journal.jsonl"
        self._site = site
        self._redact = redact
        self._lock_file: int | None = None
        self._ask_file: int | None = None
        self._entries: list[Entry] = self._read()
        #: Told of every line when it is on the disk; returns at once and raises nothing.
        self.heard: Callable[[Entry], None] = lambda _: None

    def _read(self) -> list[Entry]:
        try:
            return list(read(self.path, self._site)) if self.path.exists() else []
        except OSError as error:
            raise Refused(
                f"The state folder {self.path.parent} cannot be used: {error.strerror or error}.",
                "Name another one with --state-dir, or make it a folder of yours with room in it.",
            ) from None

    # -- reading ----------------------------------------------------------------------------------
    def entries(self) -> list[Entry]:
        """Every line so far, oldest first."""
        return list(self._entries)

    def acts(self, prefix: str) -> list[Entry]:
        """The lines whose act is ``prefix`` or begins with ``prefix.``."""
        return [e for e in self._entries if e.act == prefix or e.act.startswith(prefix + ".")]

    # -- writing ----------------------------------------------------------------------------------
    def lock(self, *, gives_way: bool = False) -> None:
        """Take the journal for this process; :class:`Refused` where another one holds it. Ends with the process.

        ``gives_way``: this process gives the journal back when another one asks for it (:meth:`wanted`). So where such a one
        holds it, this waits until it has ended what it is about.
        """
        if self._lock_file is not None:
            self._say_who(self._lock_file, gives_way)
            return
        try:
            files.private_folder(self.path.parent)
            handle = self._open(".lock")
        except OSError as error:
            raise self._unwritable(error, "nothing was done") from None
        if not _taken(handle, fcntl.LOCK_EX):
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            if gives_way or _GIVES_WAY not in holder or not self._asked_for(handle):
                os.close(handle)
                self._ask_no_more()
                wait = "One watch is enough" if gives_way and _GIVES_WAY in holder else "Wait until it has ended"
                raise Refused(
                    f"Another command is working on this site ({holder or 'unknown process'}).",
                    f"{wait}, or look at `status`.",
                ) from None
        self._say_who(handle, gives_way)
        self._lock_file = handle
        try:
            files.mend(self.path)
        except OSError as error:
            raise self._unwritable(error, "nothing was done") from None
        # Somebody may have written between our reading and our lock.
        self._entries = self._read()
        if not self._entries:
            self._write("opened", "journal", f"Journal of site {self._site}", extra={"site": self._site, "format": FORMAT})

    @staticmethod
    def _say_who(handle: int, gives_way: bool) -> None:
        with suppress(OSError):  # for people; a full disk does not make the lock less of one
            said = f"process {os.getpid()} since {now()}{_GIVES_WAY if gives_way else ''}"
            os.pwrite(handle, f"{said:<{_LONG_ENOUGH}}\n".encode(), 0)  # in one step: it is read by whoever asks meanwhile

    def _open(self, suffix: str) -> int:
        return os.open(self.path.with_suffix(suffix), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _asked_for(self, handle: int) -> bool:
        """Ask who holds the journal and gives way for it; whether it was given. Asked for as long as this process has it."""
        self._ask_file = self._open(".wanted")
        if not _taken(self._ask_file, fcntl.LOCK_EX):
            return False  # somebody else asked before
        with suppress(TimedOut):
            return wait_until(
                lambda: _taken(handle, fcntl.LOCK_EX) or Not("it is held"), deadline=GIVEN_WITHIN, what="The journal", every=0.05
            )
        return False

    def _ask_no_more(self) -> None:
        if self._ask_file is not None:
            os.close(self._ask_file)
            self._ask_file = None

    def wanted(self) -> bool:
        """Whether another process waits for the journal, or has it because it asked."""
        return _held(lambda: self._open(".wanted"))

    def held_by_another(self) -> bool:
        """Whether another command is working on this site right now."""
        lock = self.path.with_suffix(".lock")
        return self._lock_file is None and _held(lambda: os.open(lock, os.O_RDONLY | os.O_CLOEXEC))

    def unlock(self) -> None:
        """Give the journal back."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
        self._ask_no_more()

    def intent(self, act: str, what: str, before: Any = None) -> Entry:
        """Say what is about to be done and what is there now. On the disk when this returns."""
        return self._write("intent", act, what, before=before)

    def done(self, of: Entry, after: Any = None) -> Entry:
        """The act happened, and ``after`` is what was seen."""
        return self._write("done", of.act, of.what, of=of.seq, after=after)

    def failed(self, of: Entry, reason: str, after: Any = None) -> Entry:
        """The act did not happen, or not wholly; ``reason`` says so."""
        return self._write("failed", of.act, of.what, of=of.seq, reason=reason, after=after)

    def unknown(self, of: Entry, reason: str) -> Entry:
        """Nobody knows whether the act happened."""
        return self._write("unknown", of.act, of.what, of=of.seq, reason=reason)

    def note(self, act: str, what: str, **extra: Any) -> Entry:
        """A fact worth keeping that changed nothing (a proof, an approval, a measurement)."""
        return self._write("note", act, what, extra=extra)

    def _write(self, kind: Kind, act: str, what: str, **rest: Any) -> Entry:
        if self._lock_file is None:
            self.lock()
        seq = self._entries[-1].seq + 1 if self._entries else 1
        entry = Entry(seq=seq, at=now(), kind=kind, act=act, what=what, **rest)
        fields = {k: v for k, v in vars(entry).items() if v not in (None, "", {})}
        # Through JSON first, so that every text in it is one; our own words (time, kind, act) are no secrets.
        told = json.loads(json.dumps({k: fields[k] for k in _TOLD if k in fields}, default=str))
        line = json.dumps(fields | in_texts(told, self._redact), ensure_ascii=False) + "\n"
        try:
            files.append(self.path, line)
        except OSError as error:
            raise self._unwritable(error, f"the line is: {what}") from None
        # What later readers see is what is on the disk, redacted and through JSON.
        entry = _entry(json.loads(line))
        self._entries.append(entry)
        self.heard(entry)
        return entry

    def _unwritable(self, error: OSError, what: str) -> Refused:
        return Refused(
            f"The journal {self.path} cannot be written ({(error.strerror or str(error)).lower()}); {what}.",
            "Nothing is done that cannot be written down first: make room there, or give another --state-dir.",
        )


def _entry(fields: dict[str, Any]) -> Entry:
    entry = Entry(**{"what": "", "act": "", **fields})
    texts = (entry.at, entry.act, entry.what, entry.reason)
    numbers = (entry.seq, entry.seq if entry.of is None else entry.of)
    if entry.kind not in get_args(Kind) or not all(isinstance(one, str) for one in texts) or not isinstance(entry.extra, dict):
        raise ValueError
    if any(type(one) is not int or one < 1 for one in numbers) or datetime.fromisoformat(entry.at).utcoffset() is None:
        raise ValueError
    return entry


def read(path: Path, site: str | None = None) -> Iterator[Entry]:
    """The lines of a journal. :class:`Refused` where it is of another site, a newer format, or broken inside."""
    try:
        *lines, _torn = path.read_bytes().split(b"\n")  # empty where the file ends as it should
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.", "The journal is the record of what was done.") from None
    for number, line in enumerate(lines, start=1):
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            raise Refused(
                f"{path}:{number}: this line of the journal is not readable.",
                "The journal is the record of what was done; restore the file before going on.",
            ) from None
        if entry.kind == "opened":
            if entry.extra.get("format") != FORMAT:
                raise Refused(
                    f"{path}: the journal has format {entry.extra.get('format')}, this version reads format {FORMAT}.",
                    "Use the version that wrote it.",
                )
            if site is not None and entry.extra.get("site") != site:
                raise Refused(
                    f"{path}: the journal belongs to site {entry.extra.get('site')!r}, site.yaml says {site!r}.",
                    "Give each site its own --state-dir.",
                )
        yield entry
