"""A shell on the Nginx host, kept open for as long as the tool runs.

How one gets there is an argument prefix from site.yaml: nothing (this machine), ``ssh root@nginx``, or ``ssh root@pve
pct exec 101 --``. The prefix is run once with ``sh`` behind it, and every command goes through that one session, because
flags have to flip in milliseconds and a new ssh connection takes a hundred. The far side needs only a POSIX shell and
the usual small tools (coreutils or busybox); no Python, no agent.

Reading and changing are different methods. A change asks the guard first. When the session is lost or a deadline passes,
a read is asked again on a new session; of a change nobody knows whether it happened, and the error says so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cutover.core import children, trace
from cutover.core.errors import CutoverError, OutcomeUnknown, Unreachable, WrongUsage
from cutover.core.write_guard import WriteGuard

DEADLINE = 20.0
CONNECT_DEADLINE = 20.0
MOST = 256 << 20


@dataclass(frozen=True)
class Answer:
    """What a script printed, and its exit code."""

    out: bytes
    err: str
    code: int

    @property
    def text(self) -> str:
        """The output as text, without the newline at its end."""
        return self.out.decode(errors="replace").rstrip("\n")

    @property
    def reason(self) -> str:
        """Its last error line, or its exit code; for a sentence."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def words(line: str, what: str) -> list[str]:
    """The words of a command line as a shell splits them. :class:`WrongUsage` names ``what`` it is where a quote is open."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise WrongUsage(f"{what} cannot be read: {str(error).lower()}.", "Close the quote there.") from None


class _LostError(Exception):
    """The session ended, or did not answer in time. ``sent``: the whole command had been handed over."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class _Session:
    """One running ``sh``. Output ends with a line that carries a random word, so it may hold any bytes."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.used = 0
        try:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the tool; it decides what becomes of the session
                bufsize=0,
                env=children.environment(),
            )
        except OSError as error:
            raise _LostError(f"{argv[0]} cannot be run ({error.strerror})", sent=False) from None
        pipes = (self._child.stdin, self._child.stdout, self._child.stderr)
        self._in, self._out, self._err = (pipe.fileno() for pipe in pipes if pipe is not None)
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe, False)

    def ask(self, script: str, deadline: float) -> Answer:
        word = secrets.token_hex(16)
        # In a subshell, so that neither `exit` nor a mistake in a script ends the session. The command is complete only
        # with its last quote: half of it, cut off by a lost connection, is never run.
        rest = (
            f"( eval {shlex.quote(script)} ) </dev/null\nprintf '\\n%s %d\\n' {word} $?; printf '\\n%s\\n' {word} >&2\n".encode(
                errors="surrogateescape"  # a file's name may be any bytes
            )
        )
        end = time.monotonic() + deadline
        got = {self._out: bytearray(), self._err: bytearray()}
        marks = {self._out: f"\n{word} ".encode(), self._err: f"\n{word}\n".encode()}
        missing = {self._out, self._err}
        with selectors.DefaultSelector() as ready:
            ready.register(self._in, selectors.EVENT_WRITE)
            for pipe in missing:
                ready.register(pipe, selectors.EVENT_READ)
            while missing:
                left = end - time.monotonic()
                if left <= 0:
                    raise _LostError(f"no answer within {deadline:g} s", sent=not rest)
                for key, _ in ready.select(left):
                    pipe = int(key.fd)
                    if pipe == self._in:
                        try:
                            rest = rest[os.write(pipe, rest) :]
                        except BlockingIOError:
                            continue
                        except OSError:
                            raise _LostError(self._why(got[self._err]), sent=False) from None
                        if not rest:
                            ready.unregister(pipe)
                        continue
                    try:
                        piece = os.read(pipe, 1 << 20)
                    except BlockingIOError:
                        continue
                    if not piece:
                        raise _LostError(self._why(got[self._err]), sent=not rest)
                    got[pipe] += piece
                    if len(got[pipe]) > MOST:
                        raise _LostError(f"more than {MOST >> 20} MB of output", sent=True)
                    seen = got[pipe].rfind(marks[pipe], max(0, len(got[pipe]) - len(piece) - 64))
                    if seen >= 0 and got[pipe].endswith(b"\n"):
                        missing.discard(pipe)
                        ready.unregister(pipe)
        self.used += 1
        out, err = bytes(got[self._out]), bytes(got[self._err])
        at = out.rfind(marks[self._out])
        code = int(out[at + len(marks[self._out]) :])
        return Answer(out[:at], err[: err.rfind(marks[self._err])].decode(errors="replace"), code)

    def _why(self, err: bytes | bytearray) -> str:
        """Why the session ended: the last thing that ssh (or whatever leads there) said."""
        with contextlib.suppress(OSError):
            while piece := os.read(self._err, 65536):
                err = bytes(err) + piece
        said = [line.strip() for line in bytes(err).decode(errors="replace").splitlines() if line.strip()]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        return said[-1].rstrip(".") if said else f"it ended with exit code {self._child.returncode}"

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def end(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._child.wait(0.5)
        except subprocess.TimeoutExpired:
            # The session's leader only: what a script left running on purpose (the end of a hold) goes on.
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(1)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait(5)


class Shell:
    """Runs POSIX shell scripts on one host. ``prefix`` leads there; ``where`` names it in sentences.

    ``longest`` (seconds) bounds what any caller is willing to wait; None: as long as the caller says.
    """

    longest: ClassVar[float | None] = None

    def __init__(self, prefix: Sequence[str], guard: WriteGuard, *, where: str = "the Nginx host") -> None:
        self._argv = [*prefix, "sh"]
        self._guard = guard
        self.where = where
        self._session: _Session | None = None
        self._lock = threading.RLock()

    def _connected(self) -> _Session:
        if self._session is not None and not self._session.alive:
            self._drop()
        if self._session is None:
            session = _Session(self._argv)
            self._session = session
            try:
                hello = session.ask("printf hello", self._bounded(CONNECT_DEADLINE))
                if hello.out != b"hello":
                    raise _LostError("it is not a POSIX shell", sent=False)
                session.ask("umask 022", self._bounded(CONNECT_DEADLINE))
            except _LostError:
                self._drop()
                raise
        return self._session

    def _bounded(self, seconds: float) -> float:
        return seconds if self.longest is None else min(seconds, self.longest)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.end()
            self._session = None

    def _unreachable(self, reason: str) -> Unreachable:
        way = " ".join(self._argv[:-1]) or "sh"
        return Unreachable(f"There is no shell on {self.where} through `{way}`: {reason}.", "See nginx.shell in site.yaml.")

    def read(self, script: str, *, deadline: float = DEADLINE) -> Answer:
        """Run a script that changes nothing. A lost session is opened again, once; :class:`Unreachable` otherwise."""
        with self._lock:
            for attempt in (1, 2):
                try:
                    return self._asked(self._connected(), script, deadline)
                except _LostError as lost:
                    used = self._session is not None and self._session.used > 0
                    self._drop()
                    if attempt == 2 or not used:
                        raise self._unreachable(lost.reason) from None
            raise AssertionError

    def change(self, script: str, what: str, *, deadline: float = DEADLINE) -> Answer:
        """Run a script that changes something; ``what`` names it for the guard and for errors.

        :class:`cutover.core.errors.WritesRefused` outside an act; :class:`Unreachable` when it was never sent;
        :class:`OutcomeUnknown` when it was sent and its end was not seen.
        """
        self._guard.require(f"{what} on {self.where}")
        with self._lock:
            try:
                session = self._connected()
            except _LostError as lost:
                raise self._unreachable(lost.reason) from None
            try:
                answer = self._asked(session, script, deadline)
                if answer.code == 0:
                    self._guard.happened(f"{what} on {self.where}")
                return answer
            except _LostError as lost:
                self._drop()
                if not lost.sent:
                    raise self._unreachable(lost.reason) from None
                self._guard.happened(f"{what} on {self.where}")
                raise OutcomeUnknown(
                    f"{what} on {self.where}: {lost.reason}; nobody knows whether it was done.",
                    "Look before doing it again: `status` reads what is there.",
                ) from None

    def _asked(self, session: _Session, script: str, deadline: float) -> Answer:
        first = next((line for line in script.splitlines() if not line.startswith("PATH=")), "")
        asked = trace.Asked(f"sh on {self.where}: {first[:100]}{'' if first == script and len(first) <= 100 else ' ...'}")
        try:
            answer = session.ask(f"export LC_ALL=C\n{script}", self._bounded(deadline))
        except _LostError as lost:
            asked.answered(f"no answer: {lost.reason}")
            raise
        asked.answered(f"exit code {answer.code}")
        self._guard.hears(f"a command on {self.where}", self.where)
        return answer

    def output(self, script: str, error: str, *, deadline: float = DEADLINE) -> bytes:
        """The output of a reading script that must succeed; ``error`` begins the sentence when it does not."""
        answer = self.read(script, deadline=deadline)
        if answer.code != 0:
            raise CutoverError(f"{error}: {answer.reason}.")
        return answer.out

    def holds(self, test: str, error: str) -> bool:
        """Whether a test such as ``[ -f file ]`` holds there. It says yes or no in words: a command that fails is no "no"."""
        said = self.output(f"if {test}; then echo yes; else echo no; fi", error).strip()
        if said not in {b"yes", b"no"}:
            raise Unreachable(f"{error}: {self.where} does not answer like a shell.", "See nginx.shell in site.yaml.")
        return said == b"yes"

    def close(self) -> None:
        """End the session; the next call would open a new one."""
        with self._lock:
            self._drop()


def written(content: bytes) -> str:
    """A ``printf`` that prints exactly these bytes, for a script that writes a small file."""
    plain = frozenset(b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _-+=:;,./@#(){}[]<>|^~*?!&$"\n')
    shown = "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in content)
    return f"printf -- '{shown}'" if not content.startswith(b"-") else f"printf '\\{content[0]:03o}'; {written(content[1:])}"
