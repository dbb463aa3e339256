"""What speaks against a deployment, from what was seen before it: it would fail, or hurt what runs beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.text import without_login
from cutover.portainer import client, compose_file
from cutover.portainer.deployment import Wanted, ended
from cutover.portainer.stack import ACTIVE, COMPOSE, DEPLOYING, ERROR, KINDS, PROJECT, Stack, name_of

if TYPE_CHECKING:
    from cutover.site.schema import Site

#: What the VM's own system needs beside its containers.
SYSTEM_MB = 512


@dataclass(frozen=True)
class Situation:
    """Everything that decides whether a deployment can work, seen before it."""

    version: str
    role: int
    environment_up: bool
    stack: Stack | None
    container: Mapping[str, Any] | None
    others: Sequence[Mapping[str, Any]]
    others_memory: int
    volumes: Mapping[str, Mapping[str, Any] | None]
    image_here: bool
    image_problem: str | None
    port_answers: bool
    cores: int
    memory: int
    compose_says: str | None
    way_back: bool = True
    """Whether Portainer can go back to the commit that runs now; it takes branches and tags only."""
    users: str = ""
    """Why users are, or may be, on the service that runs now; only asked where there is no way back."""
    replacing: str = ""
    """The container that Compose is replacing, or the one that replaces it; empty where none is."""
    left_over: str = ""
    """The container that was to replace the one that runs, and that nobody goes on with; empty where none is."""
    refused: tuple[str, ...] = ()
    """Variables whose wanted value the running server does not take as that key: with the deployment somebody else comes in."""
    stored_in_use: bool = True
    """Whether the variables that Portainer has are those of the running server: going back can only go back to them."""

    def mounts(self, volume: str) -> bool:
        """Whether the container of the stack uses a volume."""
        return any(mount.get("Name") == volume for mount in (self.container or {}).get("Mounts") or [])


def lets_in_others(want: Wanted, seen: Situation) -> list[str]:
    """Variables with which other keys would open the database than now: those that the running server does not take.

    What counts is what the server does; what Portainer has stored only where it does not run. Pure.
    """
    if seen.stack is None:
        return []
    running = seen.container is not None and seen.container["State"].get("Status") == "running"
    return sorted(set(seen.refused) if running else set(want.replaced))


def refusals(want: Wanted, seen: Situation, site: Site) -> list[str]:
    """Why deploying now would fail or hurt, a sentence each; empty where nothing speaks against it. Pure."""
    name = site.portainer.stack
    if not seen.environment_up:
        return [f"Portainer does not reach the Docker engine of {site.portainer.environment!r}: nothing can be deployed."]
    found = list(compose_file.mistakes(want.file, site))
    found += want.unfit
    reads = want.variables.get("QDRANT_READ_ONLY_API_KEY")
    found += [
        f"QDRANT_READ_ONLY_API_KEY is the same as {name}: whoever may read could write."
        for name in ("QDRANT_API_KEY", "QDRANT_ALT_API_KEY")
        if reads and reads == want.variables.get(name)
    ]
    found += [f"{variable} is not set, and the stack cannot run without it." for variable in want.file.missing(want.variables)]
    accepted = not any(mistake.startswith(compose_file.NOT_ACCEPTED) for mistake in found)
    if seen.compose_says and accepted and not want.unfit and not want.file.missing(want.variables):
        found.append(f"{compose_file.NOT_ACCEPTED}: {seen.compose_says}.")
    if seen.role != client.ADMINISTRATOR:
        found.append("The access token's user is not an administrator of Portainer, so the stack would not belong to it.")
    if seen.image_problem:
        found.append(f"The image {want.file.image} is not on the VM and cannot be pulled: {in_words(seen.image_problem)}.")
    found += _stack_refusals(seen, site)
    found += _port_refusals(want, seen, site)
    found += _volume_refusals(want, seen, name)
    found += _room_refusals(want, seen)
    if seen.users and seen.stack is not None:
        short = seen.stack.commit[:8]
        found.append(
            f"{seen.users} It runs at {short}, and nothing would lead back to it if the deployment failed: Portainer goes to "
            f"branches and tags only, and none is at that commit. {make_a_tag(short)}, or set a GIT_TOKEN that may push one."
        )
    fallen = down(seen.stack, seen.container) if seen.stack is not None and not not_ours(seen.stack, site) else ""
    return [fallen, *found] if found and fallen else found


def down(stack: Stack | None, container: Mapping[str, Any] | None) -> str:
    """That the service is down although Portainer takes the stack for running: that comes first, whatever else is wrong. Pure."""
    if stack is None or stack.status not in {ACTIVE, ERROR}:
        return ""
    state = container["State"] if container is not None else {}
    if state.get("Status") == "running":
        return ""
    how = f"its container is {state['Status']} ({ended(state)})" if state else "there is no container of it"
    return (
        f"Qdrant on the new server is down: Portainer has the stack {stack.name} at {stack.commit[:8] or 'no commit'}, and {how}."
        " An update that Portainer made by itself may have failed; its data is in its volumes."
    )


#: What is said by Git, a registry or Docker -> what it means.
_WORDS = (
    (r"authentication required|authentication failed|invalid credentials|could not read Username",
     "the Git host wants a user and a token, or does not accept those it got; set GIT_USERNAME and GIT_TOKEN"),
    (r"repository (could )?not (be )?found", "there is no such repository, or it is private and needs a user and a token"),
    (r"reference not found", "the repository has no such branch or tag"),
    (r"manifest unknown|manifest for \S+ not found", "the registry has no such tag or digest"),
    (r"pull access denied|unauthorized|no basic auth credentials|denied: requested access",
     "the registry wants a user and a token, or there is no such image"),
    (r"toomanyrequests|rate limit", "the registry gives out no more for now; it has a limit on pulls"),
    (r"no such host|server misbehaving", "the name of the host is not known there"),
    (r"Cannot connect to the Docker daemon|docker\.sock: connect", "Docker does not run on the VM"),
)  # fmt: skip


def in_words(said: str) -> str:
    """What Git, a registry or Docker said, with what it means. Pure."""
    for pattern, means in _WORDS:
        if re.search(pattern, said, re.IGNORECASE):
            return f"{said.rstrip('.')} ({means})"
    return said


#: What Portainer answers where two deployments of one stack got into each other's way: nothing keeps them apart.
_COLLIDED = re.compile(
    r"/data/compose/\S+: no such file or directory|compose/\d+/\S+: no such file or directory|move git repository directory"
    r"|removal of container \S+ is already in progress|No such container|container name \S+ is already in use"
    r"|is already in use by container|marked for removal|destination path .* already exists|port is already allocated",
    re.IGNORECASE,
)


def collided(reason: str) -> bool:
    """Whether a deployment failed because Portainer made another one of the same stack at the same time. Pure."""
    return _COLLIDED.search(reason) is not None


def make_a_tag(short: str) -> str:
    """The command that lets Portainer go to a commit."""
    return f"Make one (git tag rollback-{short} {short} && git push origin rollback-{short})"


def _stack_refusals(seen: Situation, site: Site) -> Iterable[str]:
    settings, stack = site.portainer, seen.stack
    if stack is None:
        if seen.container is not None or any((r.get("Labels") or {}).get(PROJECT) == settings.stack for r in seen.others):
            yield (
                f"There are containers of a Compose project {settings.stack!r} that Portainer did not make. It would take "
                "them over. Remove them, or choose another name for the stack."
            )
        taken = f"{settings.stack}-{compose_file.SERVICE}-1"
        if any(name_of(row) == taken and (row.get("Labels") or {}).get(PROJECT) != settings.stack for row in seen.others):
            yield f"A container {taken} is there already, and is not the stack's: Docker gives a name once. Remove or rename it."
        return
    if reason := not_ours(stack, site):
        yield f"{reason} Delete it in Portainer (its volumes stay) and deploy again, or choose another name for the stack."
    if stack.status == DEPLOYING:
        yield f"Portainer is deploying the stack {stack.name} right now. Look again when it has finished."
    elif seen.replacing:
        yield f"Portainer is replacing the container of {stack.name} right now ({seen.replacing}). Look again afterwards."


def not_ours(stack: Stack, site: Site) -> str:
    """Why a stack of the site's name is not the one that this tool makes, a sentence; empty where it is. Pure."""
    settings = site.portainer
    if stack.kind != COMPOSE:
        return f"The stack {stack.name} is one of {KINDS.get(stack.kind, 'another kind')}, not of Compose."
    if not stack.from_git:
        return f"The stack {stack.name} is not one from Git."
    if _same_repository(stack.repository) != _same_repository(settings.repository):
        follows = without_login(stack.repository)
        beside = "" if follows == stack.repository else ", with a user or a password in that address"
        said = f"The stack {stack.name} follows {follows}{beside}, site.yaml says {settings.repository}."
        return f"{said} Portainer cannot change that."
    if stack.file != settings.compose_file:
        return f"The stack {stack.name} reads {stack.file}, site.yaml says {settings.compose_file}."
    if stack.more_files:
        return f"The stack {stack.name} reads {', '.join(stack.more_files)} as well, which nobody has looked at."
    return ""


def _same_repository(url: str) -> str:
    """2.44 shows repositories without ``.git``."""
    return url.rstrip("/").removesuffix(".git")


def _port_refusals(want: Wanted, seen: Situation, site: Site) -> Iterable[str]:
    for port in want.file.ports:
        for row in seen.others:
            for taken in row.get("Ports") or []:
                same_address = taken.get("IP") in {port.address, "0.0.0.0", "::"} or not port.address  # noqa: S104
                if str(taken.get("PublicPort") or "") == port.published and same_address:
                    who = (row.get("Names") or ["?"])[0].lstrip("/")
                    yield f"Port {port.published} is already published by the container {who}. Docker could not start ours."
                    return
    if seen.port_answers:
        yield f"Something already answers at {site.qdrant.new_url}, and it is not our container. Find out what it is."


def _volume_refusals(want: Wanted, seen: Situation, name: str) -> Iterable[str]:
    has = {mount.get("Destination"): mount.get("Name") for mount in (seen.container or {}).get("Mounts") or []}
    for mount in want.file.mounts:
        if mount.volume and (had := has.get(mount.target)) and had != mount.volume:
            yield (
                f"The file puts the volume {mount.volume} at {mount.target}, where the container has {had}: Qdrant would begin "
                f"without the data in {had}. Write `name: {had}`. Where an empty server is meant, `cutover undo deploy` first."
            )
    for volume, found in seen.volumes.items():
        if found is None:
            if seen.mounts(volume):
                yield f"The volume {volume} of the running container is gone. A new container would start empty."
            continue
        owner = (found.get("Labels") or {}).get(PROJECT)
        if owner is None and not seen.mounts(volume) and volume not in want.external:
            yield (
                f"The volume {volume} is there, and no stack made it: it may hold somebody else's data, and Qdrant would write "
                "into it. Look at it and delete it, or, where its data is meant, write `external: true` for it into the file."
            )
        if owner not in {None, name}:
            yield f"The volume {volume} belongs to the stack {owner}. Two servers on one volume destroy it."
        for row in seen.others:
            if any(mount.get("Name") == volume for mount in row.get("Mounts") or []):
                who = (row.get("Names") or ["?"])[0].lstrip("/")
                yield f"The container {who} uses the volume {volume}. Two servers on one volume destroy it."


def _room_refusals(want: Wanted, seen: Situation) -> Iterable[str]:
    limit = want.file.memory or 0
    free = seen.memory - seen.others_memory - SYSTEM_MB * 2**20
    if seen.memory and limit > free:
        yield (
            f"Qdrant may take {limit >> 20} MB, and the VM has {max(free, 0) >> 20} MB beside its other containers and "
            f"{SYSTEM_MB} MB for its own system. Resize the VM first, or lower mem_limit."
        )
    cpus = float(want.file.service.get("cpus") or 0)
    if seen.cores and cpus > seen.cores:
        yield f"The file asks for {cpus:g} cores, the VM has {seen.cores}. Docker refuses that. Resize the VM first."
