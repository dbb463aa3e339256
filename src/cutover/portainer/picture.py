"""Portainer and its VM at two moments: what was there before a change, and what is not as it was. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cutover.portainer.stack import STATUS_NAMES


@dataclass(frozen=True)
class Picture:
    """Portainer and its VM at one moment: what a change must leave as it was."""

    version: str
    instance: str
    environments: Mapping[str, int]
    stacks: Mapping[str, Mapping[str, Any]]
    containers: Mapping[str, Mapping[str, Any]]
    volumes: tuple[str, ...]

    def as_facts(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Picture:
        """From the journal."""
        return cls(**{**facts, "volumes": tuple(facts["volumes"])})


def differences(
    before: Picture, after: Picture, *, ours: str, our_volumes: Iterable[str] = (), restarted: bool = False
) -> list[str]:
    """What is not as it was, apart from the stack ``ours`` and its volumes; a sentence each.

    ``restarted`` allows new start times: the VM was restarted in between. New stacks, containers and volumes of others
    count as a change too, because whoever compares wants to know of them.
    """
    found: list[str] = []
    if before.version != after.version:
        found.append(f"Portainer was {before.version} and is {after.version}.")
    if before.instance != after.instance:
        found.append("Portainer's instance id changed: it was set up anew, or has another data volume.")
    for name, status in before.environments.items():
        if name not in after.environments:
            found.append(f"The environment {name} is gone.")
        elif after.environments[name] != status:
            found.append(f"The environment {name} is {'up' if after.environments[name] == 1 else 'down'} now.")
    found += _changed("stack", _without(before.stacks, ours), _without(after.stacks, ours), restarted=restarted)
    mine = {n for picture in (before, after) for n, c in picture.containers.items() if c.get("project") == ours}
    found += _changed("container", _without(before.containers, *mine), _without(after.containers, *mine), restarted=restarted)
    kept = set(our_volumes)
    found += [f"The volume {name} is gone." for name in before.volumes if name not in after.volumes and name not in kept]
    found += [f"The volume {name} is new." for name in after.volumes if name not in before.volumes and name not in kept]
    return found


def all_restarted(before: Picture, after: Picture) -> bool:
    """Whether every container that is in both pictures has a new start time, Portainer's own included: the VM was rebooted."""
    both = [(was, after.containers[name]) for name, was in before.containers.items() if name in after.containers]
    return bool(both) and all(was.get("started") != now.get("started") for was, now in both)


def _without(facts: Mapping[str, Mapping[str, Any]], *names: str) -> dict[str, Mapping[str, Any]]:
    return {name: value for name, value in facts.items() if name not in names}


def _changed(
    what: str, before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], *, restarted: bool
) -> list[str]:
    found = [f"The {what} {name} is gone." for name in before if name not in after]
    found += [f"The {what} {name} is new." for name in after if name not in before]
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            continue
        for key, said in (("id", "was made anew"), ("image", "has another image"), ("commit", "is at another commit")):
            if was.get(key) != now.get(key):
                found.append(f"The {what} {name} {said}.")
                break
        else:
            if was.get("status") != now.get("status"):
                then, after_it = (STATUS_NAMES.get(v, str(v)) for v in (was.get("status"), now.get("status")))
                found.append(f"The {what} {name} was {then} and is {after_it}.")
            elif was.get("health") == "healthy" and now.get("health") != "healthy":
                found.append(f"The {what} {name} was healthy and is {now.get('health') or 'without a health check'}.")
            elif not restarted and was.get("started") != now.get("started"):
                found.append(f"The {what} {name} was restarted.")
    return found
