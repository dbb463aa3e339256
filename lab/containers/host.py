"""The Docker engine that answers here: whether there is one, what of a lab is on it, and how that goes away again.

Everything that a lab makes carries a label with the lab's owner, a process of this machine. What a dead owner left is removed by
whoever comes next; while it lives, a keeper beside it waits for its end (:mod:`lab.containers.reaper`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.types import Ulimit

LABEL = "qdrant-cutover.lab"
MACHINE = "qdrant-cutover.machine"
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


def client() -> docker.DockerClient:
    """The engine that the environment names (DOCKER_HOST), or the usual socket."""
    return docker.from_env(timeout=SECONDS)


def where() -> dict[str, str]:
    """What of the environment leads to the engine, for a process that gets nothing else of it."""
    return {name: os.environ[name] for name in ("DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY") if name in os.environ}


def socket() -> str:
    """The path of the engine's socket; empty where it is reached by another way."""
    kind, _, path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    return path if kind == "unix" else ""


@cache
def why_not() -> str:
    """Empty when containers can be had here, else the reason in plain words."""
    if not sys.platform.startswith("linux"):
        return "the container ground needs Linux: it uses the addresses of Docker's bridges"
    if shutil.which("docker") is None:
        return "there is no docker command here"
    try:
        with contextlib.closing(docker.from_env(timeout=5)) as engine:
            engine.ping()
    except (DockerException, OSError):
        return "no Docker engine answers here (scripts/with-docker starts one for a command)"
    return ""


def owner(pid: int | None = None) -> str:
    """A process of this machine, named so that a later one with the same number is another."""
    pid = pid or os.getpid()
    return f"{pid}-{_began(pid)}"


def _began(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "gone"


def alive(name: str) -> bool:
    pid, _, began = name.partition("-")
    return pid.isdecimal() and began.isdecimal() and _began(int(pid)) == began


def made_by(engine: docker.DockerClient, name: str | None = None) -> dict[str, list[Any]]:
    """Containers, networks and volumes of one owner, or of every lab."""
    wanted: dict[str, Any] = {"label": f"{LABEL}={name}" if name else LABEL}
    return {
        "containers": engine.containers.list(all=True, filters=wanted, ignore_removed=True),
        "networks": engine.networks.list(filters=wanted),
        "volumes": engine.volumes.list(filters=wanted),
    }


def owner_of(thing: Any) -> str:
    """The label, wherever this kind of thing has it."""
    labels = thing.attrs.get("Labels") or (thing.attrs.get("Config") or {}).get("Labels") or {}
    return str(labels.get(LABEL, ""))


def remove_all(engine: docker.DockerClient, name: str) -> None:
    """Remove everything of one owner; what is gone already is fine."""

    def remove(kind: str, thing: Any) -> None:
        words: dict[str, Any] = {"containers": {"force": True, "v": True}, "volumes": {"force": True}}.get(kind, {})
        with contextlib.suppress(NotFound, APIError):
            thing.remove(**words)

    for kind, things in made_by(engine, name).items():  # in this order: a network or volume in use cannot be removed
        with ThreadPoolExecutor(8) as together:
            list(together.map(partial(remove, kind), things))


def most_files(engine: docker.DockerClient, image: str, wanted: int = 65536) -> int | None:
    """None where a container can have ``wanted`` open files, else how many it can have here."""
    words: dict[str, Any] = {"ulimits": [Ulimit(name="nofile", soft=wanted, hard=wanted)], "labels": {LABEL: owner()}}
    try:
        engine.containers.run(image, ["true"], remove=True, network_mode="none", **words)
    except APIError:
        remove_all(engine, owner())
        return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None


def sweep(engine: docker.DockerClient) -> None:
    """Remove what labs left whose process is gone."""
    owners = {owner_of(thing) for things in made_by(engine).values() for thing in things}
    for name in owners - {""}:
        if not alive(name):
            remove_all(engine, name)


def inventory(engine: docker.DockerClient) -> dict[str, list[str]]:
    """Everything on the engine, by id: what has to be the same before and after."""
    return {
        "containers": sorted(str(c["Id"]) for c in engine.api.containers(all=True)),
        "networks": sorted(str(n["Id"]) for n in engine.api.networks()),
        "volumes": sorted(str(v["Name"]) for v in (engine.api.volumes()["Volumes"] or [])),
    }


def in_the_way(engine: docker.DockerClient, names: set[str], projects: set[str]) -> list[str]:
    """What is on the engine under a name that the stack will use; the lab never touches what it did not make."""
    found = []
    for kind, things in (
        ("container", engine.api.containers(all=True)),
        ("volume", engine.api.volumes()["Volumes"] or []),
        ("network", engine.api.networks()),
    ):
        for thing in things:
            labels = thing.get("Labels") or {}
            name = str(thing.get("Name") or (thing.get("Names") or ["?"])[0]).lstrip("/")
            if name in names or labels.get("com.docker.compose.project") in projects:
                found.append(f"{kind} {name}")
    return sorted(found)


class Keeper:
    """A process that outlives its owner for as long as it takes to remove what the owner left."""

    def __init__(self, name: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "lab.containers.reaper", name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """Let it look once and go."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(SECONDS)
