"""Python servers of the lab, forked from one process that has imported what they need.

Importing costs such a server half a second of a processor, more than all else until it answers, and a run of the tests starts
hundreds of them. So the first one asked for starts a process that imports each program once and forks itself for every start: a
forked server has an environment, a folder, a log and a session of its own, as if it had been started alone.

Whoever starts a server keeps a connection: it brings the server's process id, and later how it ended. The forking process ends with
the one that started it; others of the same lab (the stand-in for Docker) find it by ``LAB_FORKSERVER``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: The variable that holds the socket's path; the servers of a lab inherit it.
WHERE = "LAB_FORKSERVER"
#: The programs that are forked: each is a module with a ``main()``; it may have a ``before_fork(env)`` that imports what it will need.
PROGRAMS = {
    "lab.qdrant": "lab.qdrant.__main__",
    "lab.vllm": "lab.vllm",
    "lab.portainer": "lab.portainer",
    "lab.git": "lab.git",
    "lab.load": "lab.load",
    "lab.crash": "lab.crash",
    "cutover": "cutover.__main__",
}


def forks(argv: Sequence[str]) -> bool:
    """Whether this command is one of the lab's Python programs, run by this Python."""
    return len(argv) > 2 and argv[0] == sys.executable and argv[1] == "-m" and argv[2] in PROGRAMS


class Forked:
    """A program that was forked; asked as a :class:`subprocess.Popen` is asked. Of an ended one ``poll`` gives the exit code."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, log: Path, errors: Path | None = None
    ) -> None:
        self._connection = _server.connect()
        wanted = {"program": argv[2], "words": list(argv[3:]), "env": dict(env), "cwd": str(cwd or Path.cwd()), "log": str(log)}
        wanted["errors"] = str(errors or log)
        self._connection.sendall(json.dumps(wanted).encode() + b"\n")
        self._answers = self._connection.makefile("r")
        self.returncode: int | None = None
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises :class:`subprocess.TimeoutExpired` after ``timeout`` seconds."""
        if self.returncode is None:
            answered = select.poll()  # not select(), which knows the first 1024 files of a process only
            answered.register(self._connection, select.POLLIN)
            if not answered.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout or 0.0)
            # Nothing: the forking process is gone, and what it forked was killed with it.
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
            self._answers.close()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        """Send a signal to the program alone; nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def carried_out(program: str, *words: str, env: Mapping[str, str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """What came of one of the programs, as :func:`subprocess.run` says it; ``env`` is all of its environment.

    Starting ``cutover`` costs 0.7 s of a processor, and tests start it a hundred times; a few still start it as its users do.
    """
    with tempfile.TemporaryDirectory(prefix="lab-said-") as folder:
        log, errors = Path(folder, "out"), Path(folder, "errors")
        begun = Forked([sys.executable, "-m", program, *words], env=env, cwd=cwd, log=log, errors=errors)
        try:
            code = begun.wait(timeout)
        except subprocess.TimeoutExpired:
            begun.send_signal(signal.SIGKILL)
            begun.wait()
            raise
        said, wrong = (file.read_text(encoding="utf-8") for file in (log, errors))
    return subprocess.CompletedProcess([program, *words], code, said, wrong)


class _Server:
    """This process's way to the forking process; started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def connect(self) -> socket.socket:
        with self._lock:
            if WHERE not in os.environ or (self._owner and self._owner != os.getpid()):
                self._start()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(os.environ[WHERE])
        return connection

    def _start(self) -> None:
        root = Path(__file__).resolve().parents[1]
        self._folder = tempfile.TemporaryDirectory(prefix="lab-fork-")
        path = f"{self._folder.name}/socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.forkserver", path],
            stdin=subprocess.PIPE,  # it ends when this process does, however that ends
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "PYTHONUNBUFFERED": "1",
                 # aiohttp reads the system's authorities when it is imported (0.1 s); no stand-in talks to anybody they vouch for.
                 "SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull,
                 "OPENBLAS_NUM_THREADS": "1"},  # numpy's threads would wait for work by turning round
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("The process that forks the lab's servers did not start; its reason stands above.")
        os.environ[WHERE], self._owner = path, os.getpid()


_server = _Server()


# -- the forking process ----------------------------------------------------------------------------------------------
def main() -> int:
    """Fork whatever is asked for until the starter is gone. In a forked process: be that program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(50_000, 20, 50)  # a forked server lives for seconds, and has all of these modules to look through
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(sys.argv[1])
    listener.listen(64)
    print("ready", flush=True)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready == sys.stdin.fileno():
                return 0
            if ready == listener.fileno():
                connection, _ = listener.accept()
                wanted = json.loads(connection.makefile("r").readline())
                program = importlib.import_module(PROGRAMS[wanted["program"]])
                getattr(program, "before_fork", lambda env: None)(wanted["env"])
                if steps := sys.modules.get("cutover.phases.registry"):
                    steps.phases()  # imported when they are asked for, which each fork would do anew
                gc.freeze()
                pid = os.fork()
                if pid == 0:
                    _become(wanted, [listener, connection, *(one for _, one in children.values())])
                    return int(program.main() or 0)
                watched = os.pidfd_open(pid)
                children[watched] = pid, connection
                poll.register(watched, select.POLLIN)
                _tell(connection, pid)
                continue
            pid, connection = children.pop(ready)
            poll.unregister(ready)
            os.close(ready)
            _tell(connection, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            connection.close()


def _tell(connection: socket.socket, number: int) -> None:
    """The starter may be gone meanwhile; then nobody needs to know."""
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % number)


def _become(wanted: Mapping[str, Any], others: Sequence[socket.socket]) -> None:
    """Be a process of its own: session, folder, log, environment, words, signals and chance. ``others`` are not its sockets."""
    for one in others:
        one.detach()  # else it would be closed with this program's end, and whatever has its number by then
    os.setsid()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    errors = os.open(wanted["errors"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, target in ((nothing, 0), (log, 1), (errors, 2)):
        os.dup2(source, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    sys.argv = [wanted["program"], *wanted["words"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()


if __name__ == "__main__":
    sys.exit(main())
