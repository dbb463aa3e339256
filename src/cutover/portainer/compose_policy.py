"""What a stack file may say, key by key and value by value, after Compose has resolved it.

Whoever may merge decides what runs on the VM, beside everything else that runs there. A list of what is dangerous is never
complete: Compose gains a key with every release, and a volume can be the host's root without saying "bind". So this is a list of
what is *allowed*, at every level of what Compose made of the file; everything else is refused, whatever it is.

Two passes, both pure. :func:`unread` looks at the file as it stands, before Compose sees it: what is named there would let
Compose read other files or fetch something, and it does so while it resolves. :func:`unlisted` looks at the result.

Values of the file are not repeated in the sentences: what Compose read may come from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Wrong = tuple[str, str]
"""(path such as ``services.qdrant.runtime``, what is wrong with what stands there)"""
Rule = Callable[[Any, str], Iterator[Wrong]]

#: The only values that may come from outside the file: a variable that decides anything else would decide it after the review.
VARIABLES = frozenset({"QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY", "QDRANT_ALT_API_KEY"})
#: What the variables are while the file is looked at, so that it can be seen where they go.
PLACEHOLDERS = {name: f"placeholder-of-{name.lower().replace('_', '-')}" for name in sorted(VARIABLES)}

NOT_LISTED = "is not on the list of what a stack file may say"

#: The health check as it ships, of any path of Qdrant itself, and the shorter ones that people write.
_ASKS = re.compile(
    r"exec 3<>/dev/tcp/127\.0\.0\.1/6333 && "
    r"printf 'GET /[a-z]* HTTP/1\.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n'"
    r" >&3 && IFS= read -r -t [1-9] l <&3 && \[\[ \$l == \*' 200 '\* \]\]"
    r"|: ?> ?/dev/tcp/127\.0\.0\.1/6333( \|\| exit 1)?"
)
_SHELL = re.compile(r"bash -c '(?P<text>[^']*)'( \|\| exit 1)?")
_SETTINGS = (
    r"QDRANT_INIT_FILE_PATH|QDRANT__LOG_LEVEL|QDRANT__TELEMETRY_DISABLED|RUST_BACKTRACE|RUST_LOG|TZ"
    r"|QDRANT__LOGGER__[A-Z0-9_]+"
    r"|QDRANT__SERVICE__(API_KEY|READ_ONLY_API_KEY|ALT_API_KEY|JWT_RBAC|MAX_REQUEST_SIZE_MB|MAX_WORKERS|ENABLE_CORS|SLOW_QUERY_SECS"
    r"|ENABLE_SNAPSHOT_URL_RECOVERY|HARDWARE_REPORTING|METRICS_PREFIX)"
    r"|QDRANT__STORAGE__(ON_DISK_PAYLOAD|UPDATE_CONCURRENCY|NODE_TYPE|UPDATE_RATE_LIMIT|MAX_COLLECTIONS|MMAP_ADVICE"
    r"|SHARD_TRANSFER_METHOD|(WAL|PERFORMANCE|OPTIMIZERS|HNSW_INDEX|COLLECTION|QUANTIZATION)(__[A-Z0-9_]+)?)"
)
#: Folders that are memory in the container and hold nothing that has to last.
_PASSING = r"/tmp(/[\w.-]+)*|/var/tmp|/run"  # noqa: S108 -- the container's
_PASSING_SAID = "/tmp, /var/tmp or /run"  # noqa: S108
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_TIME = r"(\d+(\.\d+)?(h|m|s|ms|us))+"
_BYTES = r"\d+(\.\d+)?([bkmgtBKMGT][bB]?)?"


@dataclass(frozen=True)
class Expected:
    """What is decided by the site and not by the file."""

    project: str
    service: str
    image: str
    address: str
    """Where the port may be published: an address of the VM, and the port there."""
    port: str


# -- rules ---------------------------------------------------------------------------------------------


def _shown(key: Any) -> str:
    return str(key) if re.fullmatch(_NAME, str(key)) else "(a name with signs in it)"


def _text(pattern: str, expected: str) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Wrong]:
        if isinstance(value, bool | dict | list) or value is None or not re.fullmatch(pattern, str(value)):
            yield path, f"may only be {expected}"

    return rule


def _one_of(*values: Any) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Wrong]:
        if not any(type(value) is type(known) and value == known for known in values):
            yield path, f"may only be {' or '.join(map(_written, values))}"

    return rule


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_written(entry) for entry in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "left out" if value is None else "empty" if value == {} else str(value)


def _keys(known: Mapping[str, Rule], *, extensions: bool = False) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Wrong]:
        if not isinstance(value, dict):
            yield path, "may only be a mapping"
            return
        for key, content in value.items():
            where = f"{path}.{_shown(key)}" if path else _shown(key)
            if key in known:
                yield from known[key](content, where)
            elif not (extensions and str(key).startswith("x-")):
                yield where, NOT_LISTED

    return rule


def _named(name: str, expected: str, content: Rule) -> Rule:
    """A mapping with names of the author's choice."""

    def rule(value: Any, path: str) -> Iterator[Wrong]:
        if not isinstance(value, dict):
            yield path, "may only be a mapping"
            return
        for key, inner in value.items():
            if not re.fullmatch(name, str(key)):
                yield f"{path}.{_shown(key)}", f"{NOT_LISTED} ({expected})"
            else:
                yield from content(inner, f"{path}.{_shown(key)}")

    return rule


def _list(entry: Rule) -> Rule:
    def rule(value: Any, path: str) -> Iterator[Wrong]:
        if not isinstance(value, list):
            yield path, "may only be a list"
            return
        for at, one in enumerate(value):
            yield from entry(one, f"{path}[{at}]")

    return rule


def _maybe(rule: Rule) -> Rule:
    def inner(value: Any, path: str) -> Iterator[Wrong]:
        if value is not None:
            yield from rule(value, path)

    return inner


def _either(**kinds: Rule) -> Rule:
    """By what stands under ``type``."""

    def rule(value: Any, path: str) -> Iterator[Wrong]:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in kinds:
            yield path, f"may only be of type {' or '.join(kinds)}"
        else:
            yield from kinds[kind](value, path)

    return rule


def _environment(value: Any, path: str) -> Iterator[Wrong]:
    yield from _named(_SETTINGS, "settings of Qdrant that neither move its data nor let others in", lambda _v, _p: iter(()))(
        value, path
    )
    for name, content in value.items() if isinstance(value, dict) else ():
        where = f"{path}.{_shown(name)}"
        wanted = PLACEHOLDERS.get("QDRANT_" + name.removeprefix("QDRANT__SERVICE__")) if name.endswith("API_KEY") else None
        if wanted is not None and content != wanted:
            yield where, f"may only be the variable QDRANT_{name.removeprefix('QDRANT__SERVICE__')}"
        elif wanted is None and any(key in str(content) for key in PLACEHOLDERS.values()):
            yield where, "would give a key away"
        elif name == "QDRANT_INIT_FILE_PATH" and not re.fullmatch(r"/tmp/[\w.-]+", str(content)):  # noqa: S108
            yield where, "may only be a file in /tmp"


def _tmpfs(value: Any, path: str) -> Iterator[Wrong]:
    where, _, options = str(value).partition(":")
    if not re.fullmatch(_PASSING, where):
        yield path, f"may only be {_PASSING_SAID}"
    known = r"size=\d+[kmgKMG]?|mode=[0-7]{3,4}|uid=\d+|gid=\d+|rw|noexec|nosuid|nodev"
    if not all(re.fullmatch(known, option) for option in options.split(",") if options):
        yield path, "has an option that is not on the list (size, mode, uid, gid, noexec, nosuid, nodev)"


_YES_NO = _one_of(True, False)
_COUNT = _text(r"[1-9]\d{0,9}", "a number above 0")
_SIZE = _text(_BYTES, "a size such as 512m")
_SHARE = _text(r"\d+(\.\d+)?", "a number")
_DURATION = _text(_TIME, "a time such as 30s")


def _test(value: Any, path: str) -> Iterator[Wrong]:
    """A health check is a program that runs with the keys in its environment."""
    said = (
        [word.replace("$$", "$") for word in value] if isinstance(value, list) and all(isinstance(w, str) for w in value) else []
    )
    text = said[3] if len(said) == 4 and said[:3] == ["CMD", "bash", "-c"] else ""
    if len(said) == 2 and said[0] == "CMD-SHELL" and (found := _SHELL.fullmatch(said[1])):
        text = found["text"]
    if not _ASKS.fullmatch(text):
        yield path, "is a program that can read the keys, and may only be the health check that this repository ships"


def _ulimit(value: Any, path: str) -> Iterator[Wrong]:
    yield from (_keys({"soft": _COUNT, "hard": _COUNT}) if isinstance(value, dict) else _COUNT)(value, path)


def _service(expected: Expected) -> Mapping[str, Rule]:
    volume = {
        "type": _one_of("volume"), "source": _text(_NAME, "a volume that the file names"),
        "target": _text(r"/qdrant/[\w./-]+", "a folder under /qdrant"), "read_only": _YES_NO,
        "volume": _keys({"nocopy": _YES_NO}),
    }  # fmt: skip
    tmpfs = {
        "type": _one_of("tmpfs"), "target": _text(_PASSING, _PASSING_SAID),
        "tmpfs": _keys({"size": _SIZE, "mode": _COUNT}), "read_only": _YES_NO,
    }  # fmt: skip
    resources = {"cpus": _SHARE, "memory": _SIZE, "pids": _COUNT}
    return {
        "image": _one_of(expected.image),
        "command": _one_of(["./qdrant"]),
        "entrypoint": _one_of(None),
        "environment": _environment,
        "healthcheck": _keys({
            "test": _test, "interval": _DURATION, "timeout": _DURATION, "retries": _COUNT, "start_period": _DURATION,
            "start_interval": _DURATION,
        }),
        "ports": _list(_keys({
            "mode": _one_of("ingress"), "host_ip": _one_of(expected.address), "target": _one_of(6333),
            "published": _one_of(expected.port), "protocol": _one_of("tcp"), "name": _text(_NAME, "a plain name"),
            "app_protocol": _one_of("http"),
        })),
        "volumes": _list(_either(volume=_keys(volume), tmpfs=_keys(tmpfs))),
        "tmpfs": _list(_tmpfs),
        "networks": _named(_NAME, "a plain name", _maybe(_keys({"aliases": _list(_text(_NAME, "a plain name"))}))),
        "restart": _one_of("unless-stopped", "always"),
        "stop_grace_period": _DURATION,
        "stop_signal": _one_of("SIGTERM"),
        "init": _YES_NO,
        "read_only": _one_of(True),
        "cap_drop": _one_of(["ALL"]),
        "security_opt": _list(_one_of("no-new-privileges:true", "no-new-privileges=true", "no-new-privileges")),
        "user": _text(r"\d{1,9}(:\d{1,9})?", "numbers, user:group"),
        "hostname": _text(r"[a-z0-9][a-z0-9-]{0,62}", "a plain name"),
        "pids_limit": _COUNT,
        "ulimits": _keys({"nofile": _ulimit, "nproc": _ulimit}),
        "cpus": _SHARE, "cpu_shares": _COUNT, "mem_limit": _SIZE, "mem_reservation": _SIZE, "memswap_limit": _SIZE,
        "mem_swappiness": _text(r"\d{1,3}", "a number up to 100"), "shm_size": _SIZE,
        "logging": _keys({
            "driver": _one_of("json-file", "local"),
            "options": _keys({"max-size": _SIZE, "max-file": _COUNT, "compress": _one_of("true", "false")}),
        }),
        "deploy": _keys({
            "replicas": _one_of(1), "placement": _one_of({}),
            "resources": _keys({"limits": _keys(resources), "reservations": _keys(resources)}),
        }),
        "scale": _one_of(1),
        "expose": _list(_text(r"6333", "6333")),
        "labels": _named(r"org\.(opencontainers\.|label-schema\.).*", "a label can steer other containers",
                         _text(r"[^\x00-\x1f]*", "text on one line")),
        "platform": _text(r"linux/(amd64|arm64)", "linux/amd64 or linux/arm64"),
        "pull_policy": _one_of("missing", "always", "if_not_present"),
        "attach": _YES_NO,
    }  # fmt: skip


def _own_name(expected: Expected) -> Rule:
    """Volumes and networks are shared by all stacks of an engine: another stack's name would be another stack's data."""
    ours = "|".join({re.escape(expected.project), re.escape(expected.service)})
    return _text(rf"({ours})([_-]{_NAME})?", f"a name that begins with {expected.service}_: the other names are other stacks'")


def _document(expected: Expected) -> Rule:
    name = _own_name(expected)
    return _keys({
        "name": _one_of(expected.project),
        "version": _text(r"[\d.]+", "a version"),
        "services": _keys({expected.service: _keys(_service(expected), extensions=True)}),
        "volumes": _named(_NAME, "a plain name", _keys({"name": name, "driver": _one_of("local"), "external": _YES_NO})),
        "networks": _named(_NAME, "a plain name", _keys({
            "name": name, "driver": _one_of("bridge"), "internal": _YES_NO, "external": _one_of(False),
            "ipam": _one_of({}), "enable_ipv6": _YES_NO,
        })),
    }, extensions=True)  # fmt: skip


# -- the two passes --------------------------------------------------------------------------------------

_TOP = frozenset({"name", "version", "services", "volumes", "networks"})
_NOWHERE = Expected("", "", "", "", "")


def unread(tree: Mapping[str, Any]) -> list[Wrong]:
    """What in the file as it stands Compose must not even read: keys that are not listed may name other files or addresses."""
    found = [(_shown(key), NOT_LISTED) for key in tree if key not in _TOP and not str(key).startswith("x-")]
    known = _service(_NOWHERE)
    services = tree.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        found += [
            (f"services.{_shown(name)}.{_shown(key)}", NOT_LISTED)
            for key in (service if isinstance(service, dict) else ())
            if key not in known and not str(key).startswith("x-")
        ]
    return found


def unlisted(resolved: Any, expected: Expected) -> list[Wrong]:
    """What in Compose's resolved output (its JSON) is not on the list. ``resolved`` was made with :data:`PLACEHOLDERS`."""
    found = list(_document(expected)(resolved, ""))
    services = resolved.get("services") if isinstance(resolved, dict) else None
    service = services.get(expected.service) if isinstance(services, dict) else None
    if isinstance(service, dict):
        here = f"services.{expected.service}"
        needed = ("image", "command", "read_only", "cap_drop", "security_opt", "ports", "healthcheck", "restart")
        found += [(f"{here}.{key}", "is missing") for key in needed if not service.get(key)]
        found += [
            (f"{here}.{_shown(key)}", "would give a key away")
            for key, value in service.items()
            if key != "environment" and any(secret in str(value) for secret in PLACEHOLDERS.values())
        ]
    return found
