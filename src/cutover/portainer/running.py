"""The container that runs, compared with what the compose file says.

Digest and health say that the right program runs. With which keys, ports, volumes and limits it runs is what Docker was told when
the container was made, and whoever may edit a container in Portainer can make it anew with others, or change its limits while it
runs. So what the real Compose makes of the commit's file is compared with Docker's inspection. Pure; values of variables, which
may be secrets, are not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cutover.portainer.compose_file import seconds, size

Facts = dict[str, Any]
#: What is too long for a sentence.
_LONG = frozenset({"command", "health check", "log"})
#: What the image or the engine decides where the file does not.
_NOT_ASKED = frozenset({"log", "log driver", "user"})


def differences(
    config: Mapping[str, Any], service: str, container: Mapping[str, Any], image: Mapping[str, Any] | None
) -> list[str]:
    """Where a container (Docker's inspection) is not what a file says (Compose's resolved ``config``), a clause each."""
    said = config["services"][service]
    written, runs = _of_file(said, config), _of_container(container)
    found = [
        f"its {what} is not the one in the file"
        if what in _LONG
        else f"its {what} is {_shown(runs[what])}, and {_shown(should)} in the file"
        for what, should in written.items()
        if runs[what] != should
    ]
    config_of_image = (image or {}).get("Config")
    entrypoint = (container.get("Config") or {}).get("Entrypoint")
    if (
        config_of_image is not None
        and not said.get("entrypoint")
        and (entrypoint or []) != (config_of_image.get("Entrypoint") or [])
    ):
        found.append("its entrypoint is not the image's")
    return [*found, *_environment(said, container, config_of_image)]


def _environment(said: Mapping[str, Any], container: Mapping[str, Any], image: Mapping[str, Any] | None) -> Iterable[str]:
    """``image``: the image's own configuration, where it is known."""
    # A variable without a value is not set: Docker shows none, or its bare name.
    should = {name: _text(value) for name, value in (said.get("environment") or {}).items() if value is not None}
    has = dict(entry.split("=", 1) for entry in (container.get("Config") or {}).get("Env") or [] if "=" in entry)
    for name, value in should.items():
        if name not in has:
            yield f"its variable {name} is not set, and it is in the file"
        elif has[name] != value:
            yield f"its variable {name} has another value than the file gives it"
    if image is not None:
        own = {entry.partition("=")[0] for entry in image.get("Env") or ()}
        for name in sorted(set(has) - set(should) - own):
            yield f"its variable {name} is set, and not in the file"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _of_file(said: Mapping[str, Any], config: Mapping[str, Any]) -> Facts:
    limits = ((said.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    volumes, networks = config.get("volumes") or {}, config.get("networks") or {}
    logging = said.get("logging") or {}
    facts: Facts = {
        "command": tuple(said.get("command") or ()),
        "restart policy": said.get("restart") or "no",
        "memory limit": _megabytes(size(str(said.get("mem_limit") or limits.get("memory") or 0))),
        "reserved memory": _megabytes(size(str(said.get("mem_reservation") or 0))),
        "share of the cores": _number(said.get("cpus") or limits.get("cpus")),
        "limit of processes": int(said.get("pids_limit") or limits.get("pids") or 0) or None,
        "root file system": "read-only" if said.get("read_only") else "writable",
        "list of dropped capabilities": _capabilities(said.get("cap_drop")),
        "list of added capabilities": _capabilities(said.get("cap_add")),
        "list of security options": _sorted(str(option).replace("=", ":", 1) for option in said.get("security_opt") or ()),
        "privilege": bool(said.get("privileged")),
        "published port": _sorted(
            f"{port.get('host_ip') or 'every address'}:{port['published']} for {port['target']}"
            for port in said.get("ports") or () if port.get("published")
        ),
        "volume": _sorted(
            f"{(volumes.get(mount['source']) or {}).get('name') or mount['source']} at {mount['target']}"
            for mount in said.get("volumes") or () if mount["type"] == "volume" and mount.get("source")
        ),
        "folder of the host": _sorted(
            f"{mount['source']} at {mount['target']}" for mount in said.get("volumes") or () if mount["type"] == "bind"
        ),
        "folder in memory": _sorted(str(entry).partition(":")[0] for entry in said.get("tmpfs") or ()),
        "device": _sorted(said.get("devices")),
        "network": _sorted((networks.get(name) or {}).get("name") or name for name in said.get("networks") or ()),
        "user": str(said.get("user") or "") or None,
        "log driver": logging.get("driver"),
        "log": _log(logging.get("options")) if logging else None,
        "health check": _check(said.get("healthcheck") or {}),
    }  # fmt: skip
    if said.get("stop_grace_period"):
        facts["time to stop"] = f"{int(seconds(said['stop_grace_period']))} s"  # Compose tells Docker whole seconds
    for name, value in (said.get("ulimits") or {}).items():
        pair = value if isinstance(value, Mapping) else {"soft": value, "hard": value}
        facts[f"limit {name}"] = f"{pair.get('soft')} to {pair.get('hard')}"
    return _only_said(facts)


def _of_container(found: Mapping[str, Any]) -> Facts:
    host, config = found.get("HostConfig") or {}, found.get("Config") or {}
    mounts, health = found.get("Mounts") or [], config.get("Healthcheck") or {}
    logging = host.get("LogConfig") or {}
    facts: Facts = {
        "command": tuple(config.get("Cmd") or ()),
        "restart policy": (host.get("RestartPolicy") or {}).get("Name") or "no",
        "memory limit": _megabytes(host.get("Memory")),
        "reserved memory": _megabytes(host.get("MemoryReservation")),
        "share of the cores": _number((host.get("NanoCpus") or 0) / 1e9),
        "limit of processes": max(0, host.get("PidsLimit") or 0) or None,
        "root file system": "read-only" if host.get("ReadonlyRootfs") else "writable",
        "list of dropped capabilities": _capabilities(host.get("CapDrop")),
        "list of added capabilities": _capabilities(host.get("CapAdd")),
        "list of security options": _sorted(str(option).replace("=", ":", 1) for option in host.get("SecurityOpt") or ()),
        "privilege": bool(host.get("Privileged")),
        "published port": _sorted(
            f"{binding.get('HostIp') or 'every address'}:{binding.get('HostPort')} for {inside.partition('/')[0]}"
            for inside, bindings in (host.get("PortBindings") or {}).items() for binding in bindings or ()
        ),
        # What the image itself declares has no name of its own: Docker gives it one of 64 digits.
        "volume": _sorted(
            f"{m['Name']} at {m['Destination']}" for m in mounts if m.get("Type") == "volume" and len(m.get("Name") or "") != 64
        ),
        "folder of the host": _sorted(f"{m.get('Source')} at {m['Destination']}" for m in mounts if m.get("Type") == "bind"),
        "folder in memory": _sorted(host.get("Tmpfs")),
        "device": _sorted(device.get("PathOnHost") for device in host.get("Devices") or ()),
        "network": _sorted((found.get("NetworkSettings") or {}).get("Networks") or ()),
        "user": config.get("User") or None,
        "log driver": logging.get("Type"),
        "log": _log(logging.get("Config")),
        "health check": _check({
            "test": health.get("Test"), **{
                name: f"{health[docker] / 1e9}s" for name, docker in _TIMES if health.get(docker)
            }, "retries": health.get("Retries"),
        }),
        "time to stop": None if config.get("StopTimeout") is None else f"{config['StopTimeout']:g} s",
    }  # fmt: skip
    for limit in host.get("Ulimits") or ():
        facts[f"limit {limit['Name']}"] = f"{limit.get('Soft')} to {limit.get('Hard')}"
    return _Unsaid(facts)


#: Compose's name of a time, and Docker's.
_TIMES = (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod"), ("start_interval", "StartInterval"))


def _check(said: Mapping[str, Any]) -> str | None:
    """All that a health check is made of."""
    test = said.get("test")
    if not test:
        return None
    times = {name: seconds(said[name]) for name, _ in _TIMES if said.get(name)}
    return json.dumps([test if isinstance(test, list) else ["CMD-SHELL", test], times, said.get("retries")])


def _capabilities(names: Iterable[Any] | None) -> tuple[str, ...]:
    return _sorted(str(name).upper().removeprefix("CAP_") for name in names or ())


def _log(options: Mapping[str, str] | None) -> tuple[str, ...]:
    return _sorted(f"{name}={value}" for name, value in (options or {}).items())


def _megabytes(count: int | None) -> str | None:
    return f"{count / 2**20:g} MB" if count else None


def _number(value: Any) -> str | None:
    return f"{float(value):g}" if value and float(value) else None


def _sorted(values: Iterable[Any] | None) -> tuple[str, ...]:
    return tuple(sorted(str(value) for value in values or ()))


def _only_said(facts: Facts) -> Facts:
    return {what: value for what, value in facts.items() if not (what in _NOT_ASKED and value is None)}


class _Unsaid(dict[str, Any]):
    """What Docker does not say is nothing."""

    def __missing__(self, key: str) -> None:
        return None
