"""Handing a deployment to Portainer: the image first, then what the stack follows, then the deployment itself.

What was sent and what came of it are two things. An answer that was lost leads to a look at what is there, never to sending
again; so does one that tells of a deployment which Portainer made at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import Failed, OutcomeUnknown, Unreachable
from cutover.phases.deploy_proof import AGAIN, Interrupted, prove, settled, what_answers
from cutover.portainer.client import Answered
from cutover.portainer.deployment import Deployed, Wanted, all_variables
from cutover.portainer.obstacles import Situation, collided, in_words
from cutover.portainer.stack import Stack
from cutover.portainer.updates import auto_update, how_it_polls, polls_as, restarts_unasked, shared_source

if TYPE_CHECKING:
    from cutover.context import Context

#: That often a deployment that met one of Portainer's own is sent again.
TRIES = 3
#: Portainer's answer while a deployment of the stack is under way (2.4x).
BUSY = 409


def pull(context: Context, want: Wanted, situation: Situation) -> None:
    """Pull first: a registry that fails in the middle of a deployment is an outage on some versions."""
    image = want.file.image
    if situation.image_here:
        return
    with context.guard.act("deploy.pull", f"Pull {image}", before={"image": None}) as act:
        context.ui.say(f"Pulling {image}.")
        context.portainer.pull(image.name, image.digest, seconds=context.site.limits.deploy_seconds)
        if context.portainer.image(str(image)) is None:
            raise Failed(
                f"The image {image} was pulled, but the VM does not have it.",
                "Look at the disk and at Docker on the VM, then run `deploy` again.",
            )
        act.after = {"image": str(image)}


def clear(context: Context, situation: Situation) -> None:
    """Remove what an interrupted replacement left, because Compose stumbles over its name."""
    if situation.left_over:
        what = f"Remove the container {situation.left_over}, which never ran"
        with context.guard.act("deploy.clear", what, before={"container": situation.left_over}):
            context.portainer.remove_container(situation.left_over)


def submit(
    context: Context, want: Wanted, stack: Stack | None, container: Mapping[str, Any] | None, *, updates: bool = True
) -> Deployed:
    """Create or redeploy, then prove. Where the answer is lost, the proof decides: it looks at what is there."""
    site, server = context.site, context.portainer
    old_container = str((container or {}).get("Id", ""))
    before = {"stack": stack.id, "commit": stack.commit, "reference": stack.reference} if stack else None
    follow = auto_update(site, stack) if updates else None
    what = f"{'Redeploy' if stack else 'Make'} the stack {site.portainer.stack} at {want.commit[:8]}"
    with context.guard.act(events.STACK_DEPLOYED, what, before=before) as act:
        context.ui.say(f"{'Redeploying' if stack else 'Making'} the stack {site.portainer.stack} at {want.commit[:8]}.")
        lost: OutcomeUnknown | None = None
        for attempt in range(1, TRIES + 1):
            try:
                _send(context, want, stack, follow)
                break
            except OutcomeUnknown as error:
                lost = error
                context.ui.say("Portainer's answer was lost. Looking at what it did.")
                break
            except Answered as error:
                if error.status == BUSY and stack is not None:
                    context.ui.say("Portainer has begun a deployment by itself. Waiting for what comes of it.")
                    break
                if attempt == TRIES or stack is None or not collided(error.untold):
                    raise _not_deployed(context, want, error) from None
                context.ui.say("Portainer has deployed the stack by itself at the same time. Waiting, then asking once more.")
                settled(context, want)
                stack = server.stack(site.portainer.stack) or stack
        try:
            seen = prove(context, want, not_this_container=old_container, lost=lost is not None)
        except Failed as error:
            if lost is not None:
                raise OutcomeUnknown(
                    f"{lost.sentence} After that: {error.sentence}", "Run `deploy` again: it looks first."
                ) from error
            raise
        act.after = facts_of(want, seen)
        return seen


def _send(context: Context, want: Wanted, stack: Stack | None, follow: Mapping[str, Any] | None) -> None:
    site, server = context.site, context.portainer
    given = all_variables(want, stack)
    if stack is not None:
        _follow(context, want, stack, follow, stack.variables)  # those of the server that runs, until another one does
        server.redeploy(stack, reference=want.reference, variables=given, seconds=site.limits.deploy_seconds)
        return
    server.create(
        name=site.portainer.stack, repository=site.portainer.repository, reference=want.reference,
        file=site.portainer.compose_file, variables=given, auto_update=follow,
        seconds=site.limits.deploy_seconds,
    )  # fmt: skip
    if server.behaviour.sources and (made := server.stack(site.portainer.stack)):
        _poll(context, made, follow or {})


def _not_deployed(context: Context, want: Wanted, error: Answered) -> Failed:
    """Portainer's error; an interruption where Docker is gone, because then the change itself may be good."""
    said = f"Portainer could not deploy {want.commit[:8]}: {in_words(error.reason)}."
    try:
        context.portainer.ping()
    except (Answered, Unreachable):
        return Interrupted(f"{said} {what_answers(context)}", AGAIN)
    return Failed(said, error.hint)


def set_following(context: Context, want: Wanted, stack: Stack, follow: Mapping[str, Any] | None) -> None:
    before = {"commit": stack.commit, "reference": stack.reference}
    with context.guard.act("deploy.follow", f"Let the stack follow {want.reference}", before=before) as act:
        try:
            _follow(context, want, stack, follow, all_variables(want, stack))
        except Answered as error:
            raise Failed(f"Portainer could not set what the stack follows: {error.reason}.", error.hint) from None
        act.after = {"commit": want.commit, "reference": want.reference}


def _follow(context: Context, want: Wanted, stack: Stack, follow: Mapping[str, Any] | None, given: Mapping[str, str]) -> None:
    """Set reference, variables (``given``, as sent) and automatic updates where they are not as wanted."""
    now, should = stack.auto_update or {}, follow or {}
    same = polls_as(stack, should) and (now.get("Webhook") or "") == (should.get("Webhook") or "")
    if not same or restarts_unasked(now) or stack.reference != want.reference or dict(given) != dict(stack.variables):
        context.portainer.set_git(stack, reference=want.reference, variables=given, auto_update=follow)
    if context.portainer.behaviour.sources:
        _poll(context, stack, should)


def _poll(context: Context, stack: Stack, should: Mapping[str, Any]) -> None:
    """Portainer 2.44 and newer poll by the interval of the stack's Git source: set it where it is not as it should be.

    Not where other stacks share the source: theirs would be polled otherwise.
    """
    if polls_as(stack, should):
        return
    if stack.source is None:
        context.ui.say("This Portainer polls by the interval of a Git source, and the stack has none: set it in Portainer.")
    elif stack.source.used_by > 1:
        context.ui.say(
            shared_source(context.site, stack) or f"{how_it_polls(stack)} of {stack.name}: other stacks share its source."
        )
    else:
        context.portainer.set_interval(stack.source, str(should.get("Interval") or ""))


def facts_of(want: Wanted, seen: Deployed) -> dict[str, Any]:
    container = seen.container or {}
    return {
        "commit": want.commit, "reference": want.reference, "image": str(want.file.image),
        "container": str(container.get("Id", ""))[:12], "started": (container.get("State") or {}).get("StartedAt", ""),
    }  # fmt: skip
