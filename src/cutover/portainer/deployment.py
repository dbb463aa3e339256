"""What a deployment of the stack is: what is wanted, what is there, what speaks against it, and whether it is done.

Nothing here asks anybody. What was seen comes in as data (a container is the JSON of Docker's inspection), sentences come out.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cutover.core.text import without_login
from cutover.portainer import client, compose_file
from cutover.portainer.compose_file import StackFile
from cutover.portainer.stack import ACTIVE, COMPOSE, DEPLOYING, ERROR, KINDS, PROJECT, STATUS_NAMES, Stack, name_of

if TYPE_CHECKING:
    from cutover.portainer.git import References
    from cutover.site.schema import Site

#: How what a Qdrant answers begins that is not the version which the file's tag promises.
ANOTHER_VERSION = "Qdrant is version"
#: A container that was restarted this often does not come up by waiting.
RESTARTS = 3
#: What the VM's own system needs beside its containers.
SYSTEM_MB = 512


@dataclass(frozen=True)
class Wanted:
    """A commit's stack, as it should run. ``variables`` are what a container should get, by name; secrets."""

    commit: str
    reference: str
    file: StackFile
    variables: Mapping[str, str] = field(repr=False)
    encoded: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What Portainer is sent for a variable so that its value arrives; one that is not in here is sent as it is."""
    default: str = field(default="", repr=False)
    """The repository's own ``.env`` beside the compose file, which Portainer puts before the variables."""
    unfit: tuple[str, ...] = ()
    """Why a variable cannot arrive as it is meant, a sentence each."""
    alone: bool = False
    """Whether nothing else that Portainer has is sent with the variables: so it is on the way back."""
    shown: str = ""
    """What Portainer shows for the commit, where that is another id: an annotated tag's own."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What Compose makes of the file with what Portainer is sent; empty where it was not asked."""
    problem: str = ""
    """What Compose has against the file with what Portainer is sent."""
    replaced: tuple[str, ...] = ()
    """Variables for which Portainer has another value than the one that is wanted."""

    def is_at(self, stack: Stack) -> bool:
        """Whether Portainer has the stack at this commit."""
        return bool(stack.commit) and stack.commit in {self.commit, self.shown}

    @property
    def external(self) -> set[str]:
        """The volumes that the file takes as they are."""
        volumes = (self.file.tree.get("volumes") or {}).values()
        return {str(volume.get("name")) for volume in volumes if isinstance(volume, Mapping) and volume.get("external")}

    @property
    def version(self) -> str:
        """The Qdrant version that the image's tag promises."""
        return self.file.image.tag.removeprefix("v").removesuffix("-unprivileged")


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


# -- what speaks against it ---------------------------------------------------------------------------


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


# -- whether it runs as wanted ------------------------------------------------------------------------


@dataclass(frozen=True)
class Deployed:
    """What there is after a deployment. ``answers`` is empty where Qdrant answers as it should."""

    stack: Stack | None
    file_text: str | None
    container: Mapping[str, Any] | None
    digests: Sequence[str]
    answers: str
    replacing: str = ""
    """The container that Compose is replacing, or the one that replaces it; empty where none is."""
    differs: tuple[str, ...] = ()
    """Where the container is not what the commit's file says, a clause each."""

    @property
    def under_way(self) -> bool:
        """Whether Portainer is deploying the stack: it says so, or there are two containers of its service."""
        return bool(self.replacing) or (self.stack is not None and self.stack.status == DEPLOYING)

    @property
    def halted(self) -> bool:
        """Whether the service has two containers and none runs: for a moment, or for good where Docker ended in between."""
        return bool(self.replacing) and self.container is not None and self.container["State"].get("Status") != "running"

    @property
    def ended(self) -> bool:
        """Whether the container has ended and nobody replaces it: somebody stopped it, or Docker did. It does not come back."""
        status = self.container["State"].get("Status") if self.container is not None else ""
        return self.halted or (status in {"exited", "dead"} and not self.under_way)


#: A container that is to replace another waits that much longer than that one may take to end, at most.
LEFT_SECONDS = 60.0


def left_over(running: Mapping[str, Any] | None, other: Mapping[str, Any], now: float) -> bool:
    """Whether a row of Docker's list was made to replace a container and nobody goes on with it. Pure.

    Docker or Portainer ended in between: then the one that runs was started after it, as no replacement does, or it waits for
    longer than the other may take to end. ``now`` is the engine's clock, seconds since 1970; 0 where it does not say.
    """
    state = (running or {}).get("State") or {}
    if other.get("State") != "created" or state.get("Status") != "running":
        return False
    made, grace = float(other.get("Created") or 0), float((running or {}).get("Config", {}).get("StopTimeout") or 10)
    return int(seconds_at(state.get("StartedAt"))) > made > 0 or now - made > grace + LEFT_SECONDS


def seconds_at(said: str | None) -> float:
    """A time of Docker's (``2026-01-01T20:00:00.123456789Z``) in seconds since 1970; 0 where it is none. Pure."""
    try:
        return datetime.fromisoformat(said or "").timestamp()
    except ValueError:
        return 0.0


def shortfalls(want: Wanted, seen: Deployed, *, not_this_container: str = "") -> list[str]:
    """What is missing until the deployment is done, in the order in which it comes true; empty means done. Pure.

    ``not_this_container`` is the container of before: a redeployment makes a new one, so the old one is not a result.
    """
    if seen.stack is None:
        return ["Portainer has no such stack"]
    stack, found = seen.stack, []
    if stack.status != ACTIVE:
        status = STATUS_NAMES.get(stack.status, str(stack.status))
        found.append(f"the stack is {status}" + (f": {' '.join(stack.message.split())}" if stack.message else ""))
    if not want.is_at(stack):
        found.append(f"the stack is at commit {stack.commit[:8] or 'none'}, not {want.commit[:8]}")
    if seen.file_text is not None and seen.file_text != want.file.text:
        found.append("Portainer has another compose file than the commit")
    if seen.container is None:
        return [*found, "there is no container"]
    state = seen.container["State"]
    if seen.container["Id"] == not_this_container:
        found.append("the container is still the one from before")
    if want.file.image.pinned not in seen.digests:
        runs = (seen.container.get("Config") or {}).get("Image", "unknown")
        found.append(f"the container runs {runs}, not {want.file.image}")
    health = (state.get("Health") or {}).get("Status", "")
    if state["Status"] != "running":
        found.append(f"the container is {state['Status']} ({ended(state)})")
    elif health != "healthy":
        found.append(f"the container is {health or 'without a health check'}")
    if seen.differs and seen.container["Id"] != not_this_container:
        found.append(f"the container does not run as the file says: {', '.join(seen.differs)}")
    if seen.replacing:
        found.append(f"Portainer is still replacing a container ({seen.replacing})")
    if seen.answers:
        found.append(seen.answers)
    return found


def ended(state: Mapping[str, Any]) -> str:
    """How a container ended, no more than Docker knows: 137 is any SIGKILL."""
    code = f"exit code {state.get('ExitCode')}"
    if state.get("OOMKilled"):
        return f"{code}: it was killed because its memory was not enough; see its limit in the stack's file"
    return f"{code}: it was killed, by a person or because memory was short" if state.get("ExitCode") == 137 else code


def hopeless(want: Wanted, seen: Deployed, *, not_this_container: str = "") -> str:
    """Why waiting longer will not help; empty while it may. The container of before says nothing about it. Pure."""
    if seen.stack is not None and seen.stack.status == ERROR:
        return "Portainer reports: " + (" ".join(seen.stack.message.split()) or "an error without a reason")
    if seen.container is not None and seen.container["Id"] != not_this_container:
        state = seen.container["State"]
        if int(seen.container.get("RestartCount") or 0) >= RESTARTS:
            # While it runs once more, Docker shows 0.
            how = "" if state.get("Status") == "running" else f" ({ended(state)})"
            return f"the container ends again and again{how}"
        if state.get("Status") == "running" and (state.get("Health") or {}).get("Status") == "unhealthy":
            return "the container is unhealthy"
        if seen.stack is not None and want.is_at(seen.stack) and healthy(seen.container) and not seen.under_way:
            if seen.differs:
                return f"the container does not run as the file says: {', '.join(seen.differs)}"
            if seen.answers.startswith(ANOTHER_VERSION):
                return seen.answers
    return ""


def fetched(want: Wanted, seen: Deployed) -> bool:
    """Whether Portainer has the commit's file on its disk, and another commit in its books: so it is while it deploys. Pure."""
    return seen.stack is not None and not want.is_at(seen.stack) and seen.file_text == want.file.text


def runs_as_wanted(want: Wanted, seen: Deployed) -> bool:
    """Whether the container needs nothing: it is the merged commit's, proved, with these variables. Pure."""
    stack = seen.stack
    return stack is not None and not shortfalls(want, seen) and all_variables(want, stack) == dict(stack.variables)


# -- automatic updates --------------------------------------------------------------------------------


def auto_update(site: Site, stack: Stack | None) -> dict[str, Any] | None:
    """What Portainer should do about new commits, in its own words. A webhook that exists keeps its address."""
    mode = site.portainer.auto_update.mode
    if mode == "none":
        return None
    known = ((stack.auto_update or {}) if stack else {}).get("Webhook") or ""
    return {
        "Interval": site.portainer.auto_update.interval if mode == "polling" else "",
        "Webhook": (known or str(uuid.uuid4())) if mode == "webhook" else "",
        "ForceUpdate": False,
        "ForcePullImage": False,
    }


def all_variables(want: Wanted, stack: Stack | None) -> dict[str, str]:
    """What to send: ours, and what somebody set in Portainer besides, because Portainer forgets what is not sent. Pure."""
    kept = stack.variables if stack and not want.alone else {}
    return {**kept, **{n: want.encoded.get(n, value) for n, value in want.variables.items()}}


def updates_as_wanted(site: Site, stack: Stack) -> bool:
    """Whether the stack follows new commits as site.yaml says."""
    now, should = stack.auto_update or {}, auto_update(site, stack) or {}
    return polls_as(stack, should) and bool(now.get("Webhook")) == bool(should.get("Webhook")) and not restarts_unasked(now)


def polls_as(stack: Stack, should: Mapping[str, Any]) -> bool:
    """Whether the stack is polled as often as ``should`` says. As lengths of time: Go writes ``5m`` back as ``5m0s``. Pure."""
    now = (stack.auto_update or {}).get("Interval") or ""
    return compose_file.seconds(now) == compose_file.seconds(should.get("Interval") or "")


def how_it_polls(stack: Stack) -> str:
    """How often Portainer looks for new commits of a stack, a clause. Pure."""
    every = (stack.auto_update or {}).get("Interval")
    return f"Portainer looks for new commits every {every}" if every else "Portainer never looks for new commits"


def shared_source(site: Site, stack: Stack | None) -> str:
    """Why the stack cannot be polled as site.yaml says without changing other stacks, a sentence; empty where it can. Pure."""
    if stack is None or stack.source is None or stack.source.used_by < 2 or polls_as(stack, auto_update(site, stack) or {}):
        return ""
    return (
        f"{how_it_polls(stack)} of the stack {stack.name}, and site.yaml says {in_site_yaml(site)}. That is a setting of its Git "
        f"source, which {stack.source.used_by} stacks of this repository share: change it in Portainer (GitOps > Sources) for "
        "all of them, or write what it is into site.yaml (portainer.auto_update)."
    )


def in_site_yaml(site: Site) -> str:
    """What site.yaml says about new commits, in its words."""
    update = site.portainer.auto_update
    return f"{update.mode} every {update.interval}" if update.mode == "polling" else update.mode


def restarts_unasked(update: Mapping[str, Any]) -> bool:
    """Whether automatic updates make the container anew at every poll, or pull an image by themselves, with no commit. Pure."""
    return bool(update.get("ForceUpdate") or update.get("ForcePullImage"))


# -- the way back -------------------------------------------------------------------------------------


def lets_in_others(want: Wanted, seen: Situation) -> list[str]:
    """Variables with which other keys would open the database than now: those that the running server does not take.

    What counts is what the server does; what Portainer has stored only where it does not run. Pure.
    """
    if seen.stack is None:
        return []
    running = seen.container is not None and seen.container["State"].get("Status") == "running"
    return sorted(set(seen.refused) if running else set(want.replaced))


def reference_for(references: References, commit: str, *, preferred: str) -> str | None:
    """A branch or tag that is at ``commit``: Portainer takes no commits. Tags first, because they do not move. Pure."""
    at = references.at(commit)
    if preferred in at:
        return preferred
    return min(at, key=lambda name: (not name.startswith("refs/tags/"), name), default=None)


def untouched(want: Wanted, seen: Deployed, container: str) -> bool:
    """Whether the container of before still runs and serves as ``want`` says, whatever Portainer thinks of it. Pure."""
    if seen.stack is None or seen.container is None or seen.container["Id"] != container:
        return False
    calm = replace(seen, stack=replace(seen.stack, status=ACTIVE), file_text=want.file.text)
    return not shortfalls(want, calm)


def healthy(container: Mapping[str, Any] | None) -> bool:
    return container is not None and (container["State"].get("Health") or {}).get("Status") == "healthy"
