"""What a deployment of the stack is: what is wanted, what is there, and whether it is done.

Nothing here asks anybody. What was seen comes in as data (a container is the JSON of Docker's inspection), sentences come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cutover.portainer.compose_file import StackFile
from cutover.portainer.stack import ACTIVE, DEPLOYING, ERROR, STATUS_NAMES, Stack

if TYPE_CHECKING:
    from cutover.portainer.git import References

#: How what a Qdrant answers begins that is not the version which the file's tag promises.
ANOTHER_VERSION = "Qdrant is version"
#: A container that was restarted this often does not come up by waiting.
RESTARTS = 3


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


def all_variables(want: Wanted, stack: Stack | None) -> dict[str, str]:
    """What to send: ours, and what somebody set in Portainer besides, because Portainer forgets what is not sent. Pure."""
    kept = stack.variables if stack and not want.alone else {}
    return {**kept, **{n: want.encoded.get(n, value) for n, value in want.variables.items()}}


def runs_as_wanted(want: Wanted, seen: Deployed) -> bool:
    """Whether the container needs nothing: it is the merged commit's, proved, with these variables. Pure."""
    stack = seen.stack
    return stack is not None and not shortfalls(want, seen) and all_variables(want, stack) == dict(stack.variables)


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
