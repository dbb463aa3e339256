"""Portainer's environment and repository, and the digest of the image: what Portainer, its Docker engine and Git say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutover.core import children
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError
from cutover.core.text import without_login
from cutover.discovery.facts import Found
from cutover.portainer.git import Repository

if TYPE_CHECKING:
    from cutover.portainer.client import Portainer
    from cutover.portainer.stack import Stack

STACK = "qdrant"
COMPOSE_FILE = "stacks/qdrant/docker-compose.yml"
IMAGE = "qdrant/qdrant"


def say(client: Callable[[str], Portainer], found: Found, credentials: Credentials, folder: Path, repository: str) -> None:
    """Everything of ``site.yaml`` that Portainer knows. ``client`` makes one for an environment; ``folder``: a checkout."""
    server = client("")
    known = server.environments()
    names = [str(one["Name"]) for one in known]
    local = [str(one["Name"]) for one in known if str(one.get("URL", "")).startswith("unix:")]
    choice = names if len(names) == 1 else local if len(local) == 1 else []
    if choice:
        source = "Portainer has no other" if len(names) == 1 else "Portainer's own Docker engine"
        found.add("portainer.environment", choice[0], source, also=names)
    else:
        try:
            server.need_sight()
            why = f"Portainer has {', '.join(names) or 'none'}"
        except CutoverError as error:  # a list says nothing of what it leaves out
            why = error.sentence.rstrip(".")
        found.gap("portainer.environment", why, "Portainer, Environments")
    stack = None
    if choice:
        try:
            stack = client(choice[0]).stack(STACK)
        except CutoverError as error:
            found.notes.append(error.sentence)
        _say_image(client(choice[0]), found)
    say_repository(stack, found, credentials, folder, repository)


def _say_image(portainer: Portainer, found: Found) -> None:
    version = found.get("qdrant.version")
    if not version:
        return
    tag = f"{IMAGE}:v{version}"
    try:
        digest = portainer.digest_of(tag)
    except CutoverError as error:
        tell = f"docker buildx imagetools inspect {tag}"
        found.gap("qdrant.image", f"the registry did not say which digest {tag} has ({error.sentence.rstrip('.')})", tell)
    else:
        source = f"the registry, asked by the Docker engine of {found.get('portainer.environment')}"
        found.add("qdrant.image", f"{tag}@{digest}", source, chosen=True)


def say_repository(stack: Stack | None, found: Found, credentials: Credentials, folder: Path, repository: str) -> None:
    if stack is not None and stack.from_git:
        found.add("portainer.repository", without_login(stack.repository), f"Portainer's stack {stack.name}")
        found.add("portainer.reference", stack.reference, f"Portainer's stack {stack.name}")
        found.add("portainer.compose_file", stack.file, f"Portainer's stack {stack.name}")
        found.add("portainer.auto_update", _auto_update(stack.auto_update), f"Portainer's stack {stack.name}")
        return
    origin = _origin(folder)
    url = without_login(repository) or over_https(origin)
    source = "you" if repository else f"`git remote` of {folder}"
    if not url:
        cannot = f"Portainer cannot pull from {without_login(origin)}, where the clone in {folder} is from"
        why = cannot if origin else f"{folder} is no clone of a repository"
        found.gap("portainer.repository", why, "git remote get-url origin, where Portainer's repository was cloned")
        return
    found.add("portainer.repository", url, source, chosen=True)
    try:
        references = Repository(url, credentials).references()
    except CutoverError as error:
        found.notes.append(f"{error.sentence} {error.hint}".strip())
        return
    heads = sorted(name for name in references if name.startswith("refs/heads/"))
    branches = sorted(heads, key=lambda name: name not in {"refs/heads/main", "refs/heads/master"})
    if branches:
        found.add("portainer.reference", branches[0], "a branch of that repository", chosen=True)


def _auto_update(told: Any) -> dict[str, str]:
    if not told or not (told.get("Interval") or told.get("Webhook")):
        return {"mode": "none"}
    return {"mode": "polling", "interval": str(told["Interval"])} if told.get("Interval") else {"mode": "webhook"}


def over_https(remote: str) -> str:
    """The address that Portainer can use of a Git remote, which may be one for SSH. Pure; user and password are left out."""
    remote = remote.strip()
    ssh = r"ssh://(?:[^@/]*@)?([\w.-]+)(?::\d+)?/(.+)", r"[\w.-]+@([\w.-]+)[:/](.+)"
    if match := next(filter(None, (re.fullmatch(form, remote) for form in ssh)), None):
        return f"https://{match[1]}/{match[2].lstrip('/')}"
    return re.sub(r"^(https?://)[^@/]+@", r"\1", remote) if remote.startswith(("https://", "http://")) else ""


def _origin(folder: Path) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "remote", "get-url", "origin"], capture_output=True, text=True, check=False, timeout=10,
            env=children.environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
