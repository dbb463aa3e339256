"""Checks of the stack: the file that is merged, what Portainer made of it, and whether Portainer itself is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover import availability
from cutover.checks.registry import Finding, Moment, check
from cutover.core import events
from cutover.core.errors import Refused
from cutover.portainer import client, compose_file, deployment, obstacles, picture, updates
from cutover.portainer.picture import Picture
from cutover.qdrant import access
from cutover.state import deployment as state_of

if TYPE_CHECKING:
    from cutover.context import Context


def _told(mistakes: list[str]) -> str:
    return " ".join(mistake if mistake.endswith(".") else f"{mistake[0].upper()}{mistake[1:]}." for mistake in mistakes)


@check("B4", "The merged compose file is valid, pinned and hardened", moments={Moment.BEFORE, Moment.AFTER})
def merged_file(context: Context) -> Finding:
    """The file as the branch has it, by our rules and by the real Compose."""
    try:
        want = state_of.wanted(context)
    except Refused as error:
        return Finding(False, error.sentence, error.hint)
    found = compose_file.mistakes(want.file, context.site)
    where = f"{context.site.portainer.compose_file} at {want.commit[:8]}"
    if found:
        return Finding(False, _told(found), "Correct it in a change and merge that.", {"commit": want.commit})
    return Finding(True, f"{where} is accepted by Compose, pinned to a digest and hardened.", facts={"commit": want.commit})


@check("H2", "Portainer could deploy the merged commit now", moments={Moment.BEFORE})
def deployable(context: Context) -> Finding:
    """Everything that would make a deployment fail, without deploying."""
    try:
        want = state_of.wanted(context)
    except Refused as error:
        return Finding(False, error.sentence, error.hint)
    reasons = obstacles.refusals(want, state_of.look(context, want), context.site)
    unset = [f"{name} is not set" for name in want.file.missing(want.variables)]
    if unset and not context.execute and all(any(reason.startswith(one) for one in unset) for reason in reasons):
        # Who only looks need not have the keys that a deployment puts into the stack.
        return Finding(
            None, f"Nothing else speaks against deploying {want.commit[:8]}, but {', '.join(unset)}.", "Give the keys."
        )
    if reasons:
        return Finding(False, _told(reasons), "Correct it before anything is deployed.", {"commit": want.commit})
    return Finding(True, f"Nothing speaks against deploying {want.commit[:8]}.", facts={"commit": want.commit})


@check("C1", "Portainer runs the merged commit: pinned image, healthy, answering", moments={Moment.AT_SWITCH, Moment.AFTER})
def runs_as_merged(context: Context) -> Finding:
    """Commit, file, image digest, health, and Qdrant's own answer."""
    want = state_of.wanted(context)
    missing = deployment.shortfalls(want, state_of.see(context, want))
    if missing:
        return Finding(False, _told(missing), "Run `cutover deploy`.", {"commit": want.commit})
    image = f"{want.file.image.name} {want.file.image.tag}"
    return Finding(
        True, f"The stack runs {image} at {want.commit[:8]}, healthy, {access.let_in(context.site)}.",
        facts={"commit": want.commit, "image": str(want.file.image)},
    )  # fmt: skip


@check("C2", "The container comes back after a restart of its server, with its data", moments={Moment.AFTER})
def comes_back(context: Context) -> Finding:
    """The restart policy and the volumes of the container that runs, not of the file."""
    found = context.portainer.service(context.site.portainer.stack, compose_file.SERVICE)
    if found is None:
        return Finding(False, "There is no container.", "Run `cutover deploy`.")
    policy = ((found.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name", "")
    kept = {m.get("Destination"): m.get("Name") for m in found.get("Mounts") or [] if m.get("Type") == "volume"}
    wrong = []
    if policy not in {"always", "unless-stopped"}:
        wrong.append(f"its restart policy is {policy or 'empty'}, so nothing starts it after a reboot")
    wrong += [f"{p} is not on a volume" for p in (compose_file.STORAGE, compose_file.SNAPSHOTS) if not kept.get(p)]
    if wrong:
        return Finding(False, f"The container would not come back as it is: {'; '.join(wrong)}.", "Correct the compose file.")
    return Finding(True, f"The container restarts by itself ({policy}), and its data is on {kept[compose_file.STORAGE]}.")


@check("D2", "Portainer works as before, and can still deploy", moments={Moment.AFTER})
def portainer_as_before(context: Context) -> Finding:
    """Compared with the picture that was taken before the deployment; the deployment's own stack does not count."""
    server, name = context.portainer, context.site.portainer.stack
    taken = next((e for e in reversed(context.journal.entries()) if e.act == events.PORTAINER_BEFORE), None)
    if taken is None:
        return Finding(None, "There is no picture of Portainer from before the deployment.", "`cutover deploy` takes one.")
    before = Picture.from_facts(taken.extra["picture"])
    now = server.picture()
    # A reboot of the VM, by this tool or by anyone, restarts everything at once; one container alone is a surprise.
    restarted = picture.all_restarted(before, now)
    volumes = [v for v in {*before.volumes, *state_of.our_volumes(context)} if v.startswith(f"{name}_")]
    found = picture.differences(before, now, ours=name, our_volumes=volumes, restarted=restarted)
    server.ping()
    if server.user().get("Role") != client.ADMINISTRATOR:
        found.append("The access token's user may not deploy any more.")
    if found:
        return Finding(False, _told(found), "Find out who changed it before going on.", {"since": taken.at})
    others = len([s for s in before.stacks if s != name])
    counted = "1 other stack" if others == 1 else f"{others} other stacks"
    rebooted = " All of them were restarted together since." if restarted else ""
    said = f"Portainer {before.version} has the same environments, {counted} and containers as at {taken.at}.{rebooted}"
    return Finding(True, said)


@check("D2", "Portainer answered all the time while the tool worked", moments={Moment.AFTER})
def answered_meanwhile(context: Context) -> Finding:
    """What was recorded while steps were carried out; the announced restart of its server does not count."""
    found = availability.judge(availability.PORTAINER, availability.load(context), context.journal.entries())
    hint = "Look at Portainer's log and at its server, at that moment." if found.ok is False else ""
    return Finding(found.ok, found.sentence, hint, found.facts)


@check("H1", "The stack follows new commits as site.yaml says", moments={Moment.AFTER})
def follows(context: Context) -> Finding:
    """Mode of the automatic updates, and where new versions poll by."""
    settings = context.site.portainer
    stack = context.portainer.stack(settings.stack)
    if stack is None:
        return Finding(False, f"There is no stack {settings.stack}.", "Run `cutover deploy`.")
    mode = settings.auto_update.mode
    if stack.reference != settings.reference:
        said = f"The stack follows {stack.reference}, not {settings.reference}: a deployment was taken back."
        return Finding(False, said, "Merge the correction and run `cutover deploy`.")
    if updates.restarts_unasked(stack.auto_update or {}):
        said = (
            "Portainer may make the container anew without a new commit: re-pulling or forced redeployment is on for the stack."
        )
        return Finding(False, said, "Run `cutover deploy`: it switches that off, and does not touch the container.")
    if mode == "polling" and context.portainer.behaviour.sources and stack.source is None:
        said = "This Portainer polls by the interval of a source, and the stack has none: new commits do not arrive."
        return Finding(False, said, "Make the stack again (its volumes stay), or use a webhook.")
    if reason := updates.shared_source(context.site, stack):
        return Finding(False, reason)
    if not updates.updates_as_wanted(context.site, stack):
        said = f"{updates.how_it_polls(stack)} of the stack, and site.yaml says {updates.in_site_yaml(context.site)}."
        if updates.polls_as(stack, updates.auto_update(context.site, stack) or {}):
            said = f"The stack does not follow new commits by {mode}, as site.yaml says."
        return Finding(False, said, "Run `cutover deploy`.")
    how = {"polling": f"every {settings.auto_update.interval}", "webhook": "when its webhook is called", "none": "only by hand"}[
        mode
    ]
    return Finding(True, f"The stack follows {settings.reference} {how}.")
