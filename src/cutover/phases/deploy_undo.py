"""Taking the stack away again: the way back of ``deploy``.

Only what is this tool's is touched: the stack of the site's name that follows the site's repository and file. Its container and
network go; its data stays until every volume of it is named. The plan and the act look at the same things and refuse alike.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import Failed, OutcomeUnknown, Refused, WritesRefused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases.phase import Outcome, Plan, Sentence
from cutover.portainer.client import Answered
from cutover.portainer.obstacles import not_ours
from cutover.portainer.stack import PROJECT, Stack, name_of
from cutover.replication import serving
from cutover.state import deployment as state_of

if TYPE_CHECKING:
    from cutover.context import Context

#: Asked that often while the removal is waited for.
EVERY_SECONDS = 0.25
#: A network that is there for so long after its last container of the stack is used by somebody else; Compose leaves it.
NETWORK_SECONDS = 10.0


@dataclass(frozen=True)
class Left:
    """What there is to take away. ``volumes``: all that belong to the stack; ``going``: those whose names were given."""

    stack: Stack | None
    mounted: tuple[str, ...]
    volumes: tuple[str, ...]
    going: tuple[str, ...]


def look(context: Context) -> Left:
    """What there is. :class:`Refused` where it is not this tool's, may be in use, or a name was given that is none of its."""
    server, name = context.portainer, context.site.portainer.stack
    server.need_sight()
    stack, rows, volumes = server.stack(name), server.containers(name), state_of.our_volumes(context)
    if stack is None and rows:
        raise Refused(
            f"There is a container of a Compose project {name!r} ({name_of(rows[0])}), but Portainer has no such stack: it is "
            "not this tool's. Nothing was removed.",
            "Find out whose it is, and remove it by hand.",
        )
    if stack is not None and (reason := not_ours(stack, context.site)):
        raise Refused(
            f"{reason} It is not this tool's. Nothing was removed.",
            "Correct portainer.stack in site.yaml, or remove it in Portainer.",
        )
    going = _going(context, volumes)
    if stack is not None or going:
        serving.need_old_serves(context)
    mounted = {m["Name"] for row in rows for m in row.get("Mounts") or [] if m.get("Name")}
    return Left(stack, tuple(sorted(mounted)), tuple(volumes), tuple(going))


def _going(context: Context, volumes: Sequence[str]) -> list[str]:
    """The volumes whose loss was agreed to in advance: all of them or none."""
    named = _named(context)
    gone = {
        str(entry.before.get("volume"))
        for entry in context.journal.entries()
        if entry.act == "deploy.remove-data" and isinstance(entry.before, dict)
    }
    unknown = sorted(named - set(volumes) - gone)
    listed = ", ".join(volumes) or "none"
    if unknown and (volumes or not gone):
        raise Refused(
            f"{' and '.join(unknown)} is no volume of the stack {context.site.portainer.stack}. Its volumes: {listed}. Nothing "
            "was removed.",
            "Correct the name that follows --yes-destroy.",
        )
    missing = [volume for volume in volumes if volume not in named]
    if named & set(volumes) and missing:
        raise Refused(
            f"The data is in {listed}, and only {', '.join(sorted(named & set(volumes)))} was named. Nothing was removed.",
            f"Name all of them or none: {' '.join(f'--yes-destroy {volume}' for volume in volumes)}.",
        )
    return [volume for volume in volumes if volume in named]


def _named(context: Context) -> set[str]:
    """The names whose loss was agreed to in advance."""
    return set(getattr(context.confirm, "names", ()))


@dataclass(frozen=True, kw_only=True)
class UndoPlan(Plan):
    """``left``: what there is to take away."""

    left: Left


def plan_undo(context: Context) -> UndoPlan:
    """What removing the stack would do. Volumes are only named where their names were given (``--yes-destroy``)."""
    left = look(context)
    sentences = []
    if left.stack is not None:
        sentences.append(
            Sentence(
                f"Remove the stack {left.stack.name}: its container and network.",
                f"nothing answers on the new server any more; {'its data goes, too' if left.going else 'the volumes stay'}",
                "None: the data is gone." if left.going else "`cutover deploy` makes it again, with the same data.",
            )
        )
    sentences += [
        Sentence(f"Delete the volume {volume} and everything in it.", "the data is gone", "There is no way back.")
        for volume in left.going
    ]
    return UndoPlan(sentences=sentences, left=left)


def undo(context: Context, planned: UndoPlan) -> Outcome:
    """Remove the stack. Its volumes stay, unless all of them were named (``--yes-destroy NAME``)."""
    left = planned.left
    outcome = _remove(context, left)
    if not left.going:
        return outcome
    deleted = remove_data(context, only=left.going)
    return Outcome(True, [*outcome.sentences, *deleted.sentences], "None: the data is gone.")


def remember(context: Context, when: str) -> None:
    """Keep a picture of Portainer and its VM in the journal, for the comparison afterwards."""
    if not context.guard.is_open:
        raise WritesRefused(f"Not done without --execute: what comes after the picture of Portainer {when}.")
    context.journal.note(events.PORTAINER_BEFORE, f"Portainer {when}", picture=context.portainer.picture().as_facts())


def _remove(context: Context, left: Left) -> Outcome:
    server, stack, name = context.portainer, left.stack, context.site.portainer.stack
    if stack is None:
        return Outcome(False, ["There is no such stack, and no container of it."])
    remember(context, "before the stack was removed")
    volumes = sorted({*left.mounted, *left.volumes})  # a stack that was stopped has no container that would mount them
    before = {"stack": stack.id, "commit": stack.commit, "reference": stack.reference, "volumes": volumes}
    with context.guard.act("deploy.remove", f"Remove the stack {name}", before=before) as act:
        try:
            server.remove(stack, seconds=context.site.limits.deploy_seconds)
        except OutcomeUnknown:
            context.ui.say("Portainer's answer was lost. Looking at what it did.")
        except Answered as error:
            now = server.stack(name) if error.status == 404 else stack
            if now is not None and now.id == stack.id:
                raise Failed(f"Portainer could not remove the stack {name}: {error.reason}.", error.hint) from None
            if now is not None:
                raise Failed(
                    f"Somebody removed the stack {name} and made it again meanwhile. The new one was not touched.",
                    "Ask who did, then run it again.",
                ) from None
            context.ui.say(f"Somebody else removed the stack {name} meanwhile.")

        empty_since: float | None = None

        def gone() -> list[str] | Not:
            """The networks that stay."""
            nonlocal empty_since
            if server.stack(name) is not None:
                return Not("Portainer still has the stack")
            if rows := server.containers(name):
                return Not(f"the container {name_of(rows[0])} is still there")
            empty_since = time.monotonic() if empty_since is None else empty_since
            networks = [n["Name"] for n in server.networks() if (n.get("Labels") or {}).get(PROJECT) == name]
            if networks and time.monotonic() - empty_since < NETWORK_SECONDS:
                return Not(f"the network {networks[0]} is still there")
            return networks

        limit = context.site.limits.deploy_seconds
        try:
            stays = wait_until(gone, deadline=limit, what=f"Removing the stack {name}", every=EVERY_SECONDS)
        except TimedOut as error:
            raise Failed(error.sentence, "Run it again.") from None
        lost = [volume for volume in volumes if server.volume(volume) is None]
        act.after = {"volumes": [volume for volume in volumes if volume not in lost]}
        if lost:
            raise Failed(
                f"Removing the stack {name} also removed {', '.join(lost)}, which it should not have.",
                "The old server has everything: `deploy`, then `copy`.",
            )
    kept = f"Its data stays in {' and '.join(volumes)}, until --yes-destroy names them." if volumes else "It had no volumes."
    if left.going:
        kept = "Its data goes next."
    went = "container and network are gone"
    if stays:
        went = f"its container is gone; the network {stays[0]} stays, because a container that is not the stack's uses it"
    return Outcome(True, [f"The stack {name} is removed: {went}. {kept}"], "`deploy` makes it again.")


def remove_data(context: Context, only: Collection[str] | None = None) -> Outcome:
    """Delete the volumes that a removed stack has left (``only`` these), each after its name was typed.

    :class:`Refused` while there is a container, or where a name was not typed.
    """
    server, name = context.portainer, context.site.portainer.stack
    if server.containers(name):
        raise Refused(f"The stack {name} still has a container. Remove it first (`cutover undo deploy`).")
    ours = [volume for volume in state_of.our_volumes(context) if only is None or volume in only]
    if not ours:
        return Outcome(False, ["There are no volumes of it."])
    serving.need_old_serves(context)
    for volume in ours:
        context.confirm.by_name(volume, f"The volume {volume} and everything in it is deleted. There is no way back.")
    for volume in ours:
        with context.guard.act("deploy.remove-data", f"Delete the volume {volume}", before={"volume": volume}):
            try:
                server.remove_volume(volume)
            except Answered as error:
                raise Failed(
                    f"The volume {volume} could not be deleted: {error.reason}.",
                    "Remove what uses it, then run the command again.",
                ) from None
    return Outcome(True, [f"Deleted: {', '.join(ours)}."], "None.")
