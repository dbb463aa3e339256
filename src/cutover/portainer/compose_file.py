"""The compose file that Portainer deploys, read before Portainer reads it.

Portainer answers "deployed" before anything runs, and some of its versions take the running service down when a
deployment fails. So what can be known from the file is known first: that the real Compose accepts it, that it is
pinned and hardened, that it says what site.yaml says, and which variables it cannot do without. The same functions
check a change before it is merged and a commit before it is deployed.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from cutover.core import yaml_aliases
from cutover.core.errors import Refused
from cutover.core.units import size_bytes
from cutover.portainer import compose, compose_policy
from cutover.site.schema import Site, netloc

SERVICE = "qdrant"
STORAGE, SNAPSHOTS = "/qdrant/storage", "/qdrant/snapshots"
#: Qdrant finishes requests and closes its shards after SIGTERM; less than this cuts it off.
GRACE_SECONDS = 30
NOT_ACCEPTED = "Compose does not accept the file"
#: A stack file is some kilobytes; one that is much larger is not one.
MOST_BYTES = 256 << 10

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?:(?P<how>:?[-?+])(?P<rest>[^}]*))?\}|\$(?P<bare>[A-Za-z_]\w*)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|us|h|m|s)")
_NO_NEW_PRIVILEGES = frozenset({"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"})
_TIMES = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001}

#: What has to be of one kind to be read here. Compose refuses another kind as well.
_MAPPINGS = ("deploy", "deploy.resources", "deploy.resources.limits", "healthcheck", "logging", "logging.options")
_LISTS = ("ports", "volumes", "security_opt", "cap_drop")


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
    read_only: bool = False


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
    tree: Mapping[str, Any] = field(repr=False)
    """The file as it stands, as YAML reads it."""
    where: str = "the compose file"

    def at(self, path: str) -> str:
        """Where ``services.qdrant.ports[0]`` stands: the file with the line, as far as the file itself says it."""
        line = _line(self.text, path)
        return f"{self.where}, line {line}" if line else self.where

    def missing(self, given: Mapping[str, str]) -> list[str]:
        """Required variables that ``given`` does not set (empty counts as not set)."""
        return [name for name in self.required if not given.get(name)]


def read(text: str, where: str = "the compose file") -> StackFile:
    """The facts of a compose file; :class:`Refused` with the line where it cannot be read."""
    if len(text) > MOST_BYTES:
        raise Refused(f"{where} has {len(text) >> 10} KB; a stack file has at most {MOST_BYTES >> 10}.")
    if yaml_aliases.say_too_much(text):
        raise Refused(f"{where} cannot be read: {yaml_aliases.SAID}.", "Write out what they stand for.")
    try:
        tree = YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise Refused(f"{where} is nested too deeply to be a stack file.") from None
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
    if wrong := next(_misshapen(tree, service), None):
        path, kind = wrong
        line = f", line {number}" if (number := _line(text, path)) else ""
        raise Refused(f"{where}{line}: `{path}` has to be {kind}.", "Compose would not accept the file either.")
    volumes = tree.get("volumes") or {}
    return StackFile(
        text=text,
        service=service,
        services=tuple(map(str, services)),
        image=Image.parse(str(service.get("image", ""))),
        ports=tuple(_port(entry) for entry in service.get("ports") or []),
        mounts=tuple(_mount(entry, volumes) for entry in service.get("volumes") or []),
        required=dict(_required(tree)),
        memory=_memory(service),
        tree=tree,
        where=where,
    )


def _misshapen(tree: Mapping[str, Any], service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is of another kind than it has to be: its path, and which kind that is."""
    kinds: list[tuple[str, type, str]] = [(f"services.{SERVICE}.{path}", dict, "a mapping") for path in _MAPPINGS]
    kinds += [(f"services.{SERVICE}.{path}", list, "a list") for path in _LISTS]
    kinds += [("volumes", dict, "a mapping")]
    if isinstance(tree.get("volumes"), dict):
        kinds += [(f"volumes.{name}", dict, "a mapping") for name in tree["volumes"]]
    for path, kind, said in kinds:
        node: Any = tree
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node and not isinstance(node, kind):
            yield path, said
    if isinstance(service.get("environment"), str | int | float):
        yield f"services.{SERVICE}.environment", "a mapping"
    test = (service.get("healthcheck") or {}).get("test")
    if isinstance(test, list) and not all(isinstance(word, str) for word in test):
        yield f"services.{SERVICE}.healthcheck.test", "a list of texts"


def _line(text: str, path: str) -> int | None:
    """The line (from 1) of the deepest part of ``path`` that the file has."""
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, ValueError, RecursionError):
        return None
    line = None
    for part in re.findall(r"[^.\[\]]+|\[\d+\]", path):
        if part.startswith("[") and isinstance(node, SequenceNode) and int(part[1:-1]) < len(node.value):
            node = node.value[int(part[1:-1])]
            line = node.start_mark.line + 1
        elif isinstance(node, MappingNode) and (pair := next((p for p in node.value if p[0].value == part), None)):
            line, node = pair[0].start_mark.line + 1, pair[1]
        else:
            break
    return line


def _strings(node: Any) -> Iterator[str]:
    """Every text in the tree, each once: with aliases a small file can mean millions."""
    seen: set[int] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict | list) and id(node) not in seen:
            seen.add(id(node))
            todo += node.values() if isinstance(node, dict) else node


def _unknown(path: str, project: str) -> str:
    """That Compose itself does not know a key, asked with the key alone; empty where it may know it."""
    parts = path.split(".")
    key = {parts[-1]: None}
    probe = {"services": {SERVICE: {"image": "none", **(key if len(parts) == 3 else {})}}, **(key if len(parts) == 1 else {})}
    answer = _compose(json.dumps(probe), {}, project)
    known = answer.code == 0 or f"additional properties '{parts[-1]}' not allowed" not in answer.said
    return "" if known else f"{NOT_ACCEPTED}: `{path}` is no key that it knows"


def _variables(tree: Any) -> Iterator[str]:
    for text in _strings(tree):
        for found in _VARIABLE.finditer(text):
            if name := found["name"] or found["bare"]:
                yield name


def _required(tree: Any) -> Iterator[tuple[str, str]]:
    for text in _strings(tree):
        for found in _VARIABLE.finditer(text):
            if (found["how"] or "").endswith("?"):
                yield found["name"], found["rest"]


def _port(entry: Any) -> Port:
    if isinstance(entry, dict):
        return Port(str(entry.get("host_ip", "")), str(entry.get("published", "")), str(entry.get("target", "")))
    parts = str(entry).split("/")[0].rsplit(":", 2)
    address, published, target = [""] * (3 - len(parts)) + parts
    return Port(address.removeprefix("[").removesuffix("]"), published, target)


def _mount(entry: Any, volumes: Mapping[str, Any]) -> Mount:
    if isinstance(entry, dict):
        source, target, kind = str(entry.get("source", "")), str(entry.get("target", "")), str(entry.get("type", ""))
        read_only = entry.get("read_only") in {True, "true"}
    else:
        parts = str(entry).split(":")
        source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
        kind = "bind" if source.startswith((".", "/", "~")) else "volume"
        read_only = "ro" in ",".join(parts[2:]).split(",")
    said = volumes.get(source) or {}
    return Mount(source, posixpath.normpath(target), kind, str(said.get("name") or "") if kind == "volume" else "", read_only)


def _memory(service: Mapping[str, Any]) -> int | None:
    limits = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    said = service.get("mem_limit", limits.get("memory"))
    return None if said is None else size(str(said))


def size(text: str) -> int:
    """Bytes of a Compose size such as ``3072m``; 0 where it is not one."""
    return size_bytes(text) or 0


def seconds(text: str) -> float:
    """Seconds of a Compose duration such as ``1m30s``; 0 where it is not one."""
    return sum(float(amount) * _TIMES[unit] for amount, unit in _TIME.findall(str(text)))


# -- what is wrong with it --------------------------------------------------------------------------


def mistakes(file: StackFile, site: Site) -> list[str]:
    """Everything in the file that would hurt in production or contradicts site.yaml; a sentence each.

    First our own reading of it, with a reason for each mistake; then, by the list of :mod:`~cutover.portainer.compose_policy`,
    what the real Compose makes of it. :class:`Refused` where there is no Compose on this machine.
    """
    said = list(_mistakes(file, site))
    for path, wrong in _policy(file, site):
        if not any(f"`{path.rsplit('.', 1)[-1]}`" in one for one in said):
            sentence = wrong if wrong.startswith(NOT_ACCEPTED) else f"`{path}` {wrong}"
            said.append(f"{sentence} ({file.at(path)}).")
    return said


def _policy(file: StackFile, site: Site) -> list[compose_policy.Wrong]:
    """Compose is asked only about a file in which nothing makes it read another one."""
    outside = sorted({name for name in _variables(file.tree) if name not in compose_policy.VARIABLES})
    project = site.portainer.stack
    found = [(path, _unknown(path, project) or wrong) for path, wrong in compose_policy.unread(file.tree)]
    found += [(f"${{{name}}}", "decides after the review what runs: only the two keys may be variables") for name in outside]
    if found:
        return found
    wanted = urlsplit(site.qdrant.new_url)
    expected = compose_policy.Expected(
        project=project, service=SERVICE, image=site.qdrant.image, address=wanted.hostname or "",
        port=str(wanted.port or 80),
    )  # fmt: skip
    answer = _compose(file.text, compose_policy.PLACEHOLDERS, project)
    if answer.code != 0:
        return [("services", f"{NOT_ACCEPTED}: {_reason(answer.said, file)}")]
    try:
        return compose_policy.unlisted(json.loads(answer.config), expected)
    except ValueError:
        return [(file.where, "is resolved by Compose to something that is not JSON")]


def _mistakes(file: StackFile, site: Site) -> Iterator[str]:
    service = file.service
    others = [name for name in file.services if name != SERVICE]
    if others:
        yield (f"The file runs {', '.join(others)} as well: a failure of one takes the other down. Use another stack.")
    yield from _image_mistakes(file, site)
    yield from _port_mistakes(file, site)
    yield from _volume_mistakes(file)
    yield from _key_mistakes(file, open_to_all=site.qdrant.access == "open")
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
        elif found.read_only:
            yield f"The volume at {target} is mounted read-only, and Qdrant does not start where it cannot write there."
        for inside in file.mounts:
            if inside.target.startswith(f"{target}/"):
                yield f"Something is mounted at {inside.target}: Qdrant would not see what it has in its volume there."
    for mount in file.mounts:
        if mount.kind == "bind":
            yield (
                f"{mount.source} is mounted from the host. Portainer keeps the repository in its own container, "
                "so Docker would mount an empty folder. Use a named volume."
            )


def _key_mistakes(file: StackFile, *, open_to_all: bool) -> Iterator[str]:
    environment = file.service.get("environment") or {}
    if isinstance(environment, list):
        environment = dict(str(entry).partition("=")[::2] for entry in environment)
    for name in ("API_KEY", "READ_ONLY_API_KEY", "ALT_API_KEY"):
        variable = f"QDRANT_{name}"
        value = str(environment.get(f"QDRANT__SERVICE__{name}") or "")
        found = _VARIABLE.fullmatch(value)
        if open_to_all:
            if value:
                yield (
                    f"QDRANT__SERVICE__{name} is set, but site.yaml lets everybody in (`access: open`). Take it out, "
                    "or write `access: keys`: with a key every application without one is turned away."
                )
        elif not value and name == "ALT_API_KEY":
            continue
        elif not value:
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
    if not any(str(option) in _NO_NEW_PRIVILEGES for option in service.get("security_opt") or []):
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


def compose_says(text: str, variables: Mapping[str, str], project: str = SERVICE) -> str | None:
    """What the real Compose has against the file with these variables; None where it accepts it.

    :class:`Refused` where there is no Compose on this machine: an unchecked file is not a good file. Values of
    ``variables`` reach Compose by its environment and are not in the answer, and neither is anything else that Compose
    read: its sentences repeat what it stumbled over, which need not be from this file.
    """
    file = read(text)
    if unread := compose_policy.unread(file.tree):
        return f"it was not asked, because `{unread[0][0]}` {unread[0][1]}"
    answer = _compose(text, variables, project)
    return None if answer.code == 0 else _reason(answer.said, file)


def _compose(text: str, variables: Mapping[str, str], project: str) -> compose.Answer:
    return compose.config(text, project, variables={n: v for n, v in variables.items() if n in compose_policy.VARIABLES})


def _reason(said: str, file: StackFile) -> str:
    """Compose's reason in our words: which variable or which key, if the file itself names it."""
    if missing := re.search(r"required variable (\w+) is missing a value", said):
        name = missing[1] if missing[1] in file.required else "of the file"
        return f"required variable {name} is missing a value: {file.required.get(name) or 'it has to be set'}"
    for path in re.findall(r"(?:services|volumes|networks)\.[\w.\[\]-]+", said):
        if place := _line(file.text, path):
            key = re.search(r"additional propert\w+ '([\w.-]{1,60})'", said)
            unknown = f": it has a key {key[1]!r} that Compose does not know" if key and key[1] in file.text else ""
            return f"`{path.rstrip('.')}` (line {place}) is not as Compose wants it{unknown}"
    if line := re.search(r"\bline (\d{1,6})\b", said):
        return f"it cannot be read at line {line[1]}"
    return "it gives no reason that is safe to show; run `docker compose config --quiet` on the file to see it"
