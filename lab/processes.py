"""The lab's processes: started until they answer, stopped with everything they started, and never left behind.

Each process leads its own process group, so that stopping it also ends its children (nginx workers, a shell's commands).
When the lab's own process ends in the ordinary way, everything still running is stopped; when it is killed, a small
reaper process notices that its pipe was closed and kills every group that was still registered. (The kernel's "parent
death signal" is not used: it fires when the *thread* that started the child ends, and it never reaches grandchildren.)

Nothing of the tool is imported here: the container images of the lab have this module, and not the tool.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

Ready = Callable[[], str | None]
"""Answers None when the process is ready, else the reason why it is not yet."""

_REAPER = """
import os, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
groups = set()
for line in sys.stdin.buffer:
    sign, group = line[:1], int(line[1:])
    groups.add(group) if sign == b"+" else groups.discard(group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
"""


class Child(Protocol):
    """A started program, as :class:`subprocess.Popen` and :class:`lab.forkserver.Forked` are asked."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""


class DidNotStart(Exception):
    """A process of the lab ended, or did not become ready in time; the sentence ends with the tail of its log."""


class _Reaper:
    """One per lab: kills the registered process groups when the process that registered them is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def _tell(self, sign: str, group: int) -> None:
        with self._lock:
            if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
                self._owner = os.getpid()
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _REAPER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            assert self._child.stdin is not None
            self._child.stdin.write(f"{sign}{group}\n".encode())
            self._child.stdin.flush()

    def watch(self, group: int) -> None:
        self._tell("+", group)

    def forget(self, group: int) -> None:
        self._tell("-", group)

    def close(self) -> None:
        with self._lock:
            if self._child is not None and self._owner == os.getpid() and self._child.stdin is not None:
                with contextlib.suppress(OSError):
                    self._child.stdin.close()
                self._child.wait(timeout=10)
                self._child = None


_reaper = _Reaper()
_alive: set[Process] = set()


class Process:
    """One program of the lab.

    `argv`, `env` (added to a small clean environment) and `cwd` say what is run, `log` is where its output is
    appended, `ready` says when it answers and `ready_within` (seconds) how long that may take. `stop_signal` is what
    asks it to end (nginx: SIGQUIT). Secrets belong into `env`, never into `argv`, which every user can read.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Ready | None = None,
        ready_within: float = 30.0,
        name: str = "",
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.argv = [str(word) for word in argv]
        self.log = log
        self.env = dict(env or {})
        self.cwd = cwd
        self.ready = ready
        self.ready_within = ready_within
        self.name = name or Path(self.argv[0]).name
        self.stop_signal = stop_signal
        self.starts = 0
        self._child: Child | None = None
        self._lock = threading.RLock()

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self.alive else None

    @property
    def exit_code(self) -> int | None:
        """How the last run ended; None while it runs or before the first."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Run the program and return when it is ready; does nothing when it runs. Raises DidNotStart."""
        with self._lock:
            if self.alive:
                return
            self.log.parent.mkdir(parents=True, exist_ok=True)
            base = {
                key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "LAB_FORKSERVER") if key in os.environ
            }
            self._child = self._spawn({**base, **self.env})
            _alive.add(self)
            _reaper.watch(self._child.pid)
            self.starts += 1
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def _spawn(self, env: Mapping[str, str]) -> Child:
        with contextlib.suppress(ImportError):  # an image of the lab has this module alone
            from lab import forkserver

            if forkserver.forks(self.argv):
                return forkserver.Forked(self.argv, env=env, cwd=self.cwd, log=self.log)
        with self.log.open("ab") as out:
            return subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.cwd,
                env=env,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until `ready` says so. Raises DidNotStart with the last reason when the process ends or time is up."""
        if self.ready is None:
            return
        deadline = time.monotonic() + self.ready_within
        while True:
            if not self.alive:
                raise DidNotStart(f"{self.name} ended with code {self.exit_code} while starting.\n{self.tail()}")
            reason = self.ready()
            if reason is None:
                return
            if time.monotonic() > deadline:
                raise DidNotStart(f"{self.name} was not ready within {self.ready_within:g} s: {reason}\n{self.tail()}")
            time.sleep(0.02)

    def stop(self, grace: float = 10.0) -> None:
        """Ask the process to end, give it `grace` seconds, then kill its whole group. Does nothing when it is down."""
        with self._lock:
            child = self._child
            if child is None:
                return
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGCONT)
                    child.send_signal(self.stop_signal)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=grace)
            self._end_group(child)

    def kill(self) -> None:
        """End the whole group at once, as a power cut would."""
        with self._lock:
            if self._child is not None:
                self._end_group(self._child)

    def _end_group(self, child: Child) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
        if self in _alive:
            _alive.discard(self)
            _reaper.forget(child.pid)

    def pause(self) -> None:
        """Stop the group's clocks (SIGSTOP), so that its files can be copied as they are at one moment."""
        if self.alive and self._child is not None:
            os.killpg(self._child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.alive and self._child is not None:
            os.killpg(self._child.pid, signal.SIGCONT)

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log, for a person."""
        if not self.log.exists():
            return "(no output)"
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:]) or "(no output)"


def listening(host: str, port: int) -> Ready:
    """Ready when something accepts connections at host:port."""

    def ready() -> str | None:
        try:
            with socket.create_connection((host, port), timeout=1):
                return None
        except OSError as error:
            return f"{host}:{port} does not accept connections ({error})"

    return ready


def who_listens(host: str, port: int) -> set[int]:
    """The processes of this machine that have a socket which listens at host:port; those of others only as root."""
    at = "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + f":{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == at and row[3] == "0A"}
    found: set[int] = set()
    for file in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):  # it ended, or closed it, meanwhile
            if str(file.readlink()) in sockets:
                found.add(int(file.parts[2]))
    return found


@contextlib.contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Run the processes for the length of a block; they are stopped in reverse order whatever happens."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in reversed(processes):
            process.stop()


def stop_everything(grace: float = 3.0) -> None:
    """Stop every process of this lab that is still running: all are asked first, then waited for together."""
    children = [(process, process._child) for process in list(_alive)]
    for process, child in children:
        if child is not None and child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)
                child.send_signal(process.stop_signal)
    deadline = time.monotonic() + grace
    for process, _ in children:
        process.stop(grace=max(0.0, deadline - time.monotonic()))


@atexit.register
def _at_exit() -> None:
    stop_everything()
    _reaper.close()
