"""A stack and its containers, as Portainer and Docker show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ACTIVE, INACTIVE, DEPLOYING, ERROR = 1, 2, 3, 4
STATUS_NAMES: Mapping[Any, str] = {ACTIVE: "active", INACTIVE: "stopped", DEPLOYING: "deploying", ERROR: "in error"}
SWARM, COMPOSE, KUBERNETES = 1, 2, 3
KINDS: Mapping[int, str] = {SWARM: "Swarm", KUBERNETES: "Kubernetes"}
PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"


@dataclass(frozen=True)
class Source:
    """A Git source of Portainer 2.44 and newer. Of one repository and login there is one; ``used_by`` stacks share it.

    ``interval`` is how often Portainer looks for new commits, in Go's words (``5m``); empty where it does not.
    """

    id: int
    interval: str
    used_by: int


@dataclass(frozen=True)
class Stack:
    """A stack as Portainer shows it. ``variables`` holds secrets and is never printed."""

    id: int
    name: str
    status: int
    endpoint: int
    commit: str
    repository: str
    reference: str
    file: str
    auto_update: Mapping[str, Any] | None
    variables: Mapping[str, str] = field(repr=False)
    message: str = ""
    source: Source | None = None
    """Where its repository is kept and how it is polled (2.44 and newer); None where it has none, or nobody asked."""
    login: str | None = None
    """The user that Portainer has a password for; None where the repository is read without."""
    skip_tls: bool = False
    kind: int = COMPOSE
    more_files: tuple[str, ...] = ()
    """Compose files that are read beside ``file``."""

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> Stack:
        """From the API's JSON, in which much can be null."""
        git = shown.get("GitConfig") or {}
        told = [entry.get("Message", "") for entry in shown.get("DeploymentStatus") or [] if entry.get("Message")]
        return cls(
            id=int(shown["Id"]), name=str(shown["Name"]), status=int(shown.get("Status") or 0),
            endpoint=int(shown.get("EndpointId") or 0), commit=git.get("ConfigHash") or "",
            repository=git.get("URL") or "", reference=git.get("ReferenceName") or "",
            file=git.get("ConfigFilePath") or shown.get("EntryPoint") or "",
            auto_update=shown.get("AutoUpdate") or None,
            variables={pair["name"]: pair.get("value", "") for pair in shown.get("Env") or []},
            message=told[-1] if told else "",
            login=(git.get("Authentication") or {}).get("Username"), skip_tls=bool(git.get("TLSSkipVerify")),
            kind=int(shown.get("Type") or COMPOSE), more_files=tuple(shown.get("AdditionalFiles") or ()),
        )  # fmt: skip

    @property
    def from_git(self) -> bool:
        """Whether Portainer follows a repository for it."""
        return bool(self.repository)


def of_service(rows: Iterable[Mapping[str, Any]], project: str, service: str) -> list[Mapping[str, Any]]:
    """The containers of a project's service, the one that counts first: the one that runs, else the one with the service's name.

    While Compose replaces a container there are two: it makes ``<old id>_<name>``, stops and removes the old one, and gives the
    new one its name. Which belong together is in their labels.
    """
    own = [row for row in rows if (row.get("Labels") or {}).get(PROJECT) == project and row["Labels"].get(SERVICE) == service]
    return sorted(own, key=lambda row: (row.get("State") != "running", name_of(row) != f"{project}-{service}-1"))


def name_of(row: Mapping[str, Any]) -> str:
    """What a container is called."""
    return str((row.get("Names") or ["?"])[0]).lstrip("/")
