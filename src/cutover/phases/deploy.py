"""Deploy the Qdrant stack through Portainer, prove it, or go back to what ran before.

Before anything is sent, everything that would make Portainer fail is looked at: the commit's compose file, Compose's own
opinion of it, the variables, the image, the port, the volumes, the name, memory and cores. On many versions a deployment
that fails takes the running service down, so a refusal here is worth more than an error there.

Done means: the stack is active at the expected commit and holds that commit's file, its container is the new one, runs
the pinned digest and is healthy, and Qdrant answers with the expected version, with the key and only with it. If that
does not come true, the stack goes back to the commit before it, which is proved in the same way.

``undo`` is the plan's way back: the container and its network are removed, the data stays until someone types its name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused, Unreachable
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases.deploy_undo import plan_undo, remember, remove_data, undo
from cutover.phases.phase import Outcome, Phase, Sentence, Step
from cutover.portainer.client import Answered, Stack
from cutover.portainer.deployment import (
    Seen,
    Situation,
    Wanted,
    all_variables,
    auto_update,
    collided,
    down,
    fetched,
    healthy,
    hopeless,
    in_words,
    lets_in_others,
    make_a_tag,
    reference_for,
    refusals,
    runs_as_wanted,
    shortfalls,
    untouched,
    updates_as_wanted,
)
from cutover.portainer.git import Repository
from cutover.state import deployment as state_of

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site

__all__ = ["do", "plan", "plan_undo", "remove_data", "undo"]

#: Asked that often while a deployment is waited for.
EVERY_SECONDS = 0.25
#: For so long Portainer or Docker may be away in the middle of a deployment; a restart of either takes less.
AWAY_SECONDS = 60.0
#: When nothing happened for so long after one of them was away, or after an answer that was lost, nobody goes on with it.
QUIET_SECONDS, LOST_SECONDS = 5.0, 20.0
#: For so long a deployment that Portainer may have begun by itself is waited for until it shows.
FETCHED_SECONDS = 3.0
#: That often a deployment that met one of Portainer's own is sent again.
TRIES = 3
_AGAIN = "When they all answer, run `cutover deploy --execute`: it looks, and goes on."
#: Portainer's answer while a deployment of the stack is under way (2.4x).
BUSY = 409


# -- what is wanted -----------------------------------------------------------------------------------


# -- what is there ------------------------------------------------------------------------------------


# -- whether it runs as wanted ------------------------------------------------------------------------


class _InterruptedError(Failed):
    """Portainer or Docker stopped in the middle, and does not go on with the deployment: the change itself may be good."""


def prove(
    context: Context,
    want: Wanted,
    *,
    not_this_container: str = "",
    deadline: float | None = None,
    lost: bool = False,
) -> Seen:
    """Wait until the deployment is done; :class:`Failed` with what is missing when it is not within the limit.

    ``lost``: nobody knows whether Portainer is still at work. Then, and where it or Docker was away meanwhile, a deployment that
    nothing goes on with is not waited for.
    """
    limit = context.site.limits.deploy_seconds if deadline is None else deadline
    begun = f"The deployment of {want.commit[:8]}"
    away_since: float | None = None
    was_away = False
    quiet_since = time.monotonic()
    last: tuple[str, ...] = ()

    def done() -> Seen | Not:
        nonlocal away_since, was_away, quiet_since, last
        try:
            seen = state_of.see(context, want)
        except (Unreachable, Answered) as error:
            if isinstance(error, Answered) and error.status < 500:
                raise  # a wrong key does not become right by waiting
            now = time.monotonic()
            if away_since is None:
                away_since = now
                context.ui.say(f"{what_answers(context)} Waiting up to {AWAY_SECONDS:g} s for it.")
            was_away, quiet_since = True, now
            if now - away_since > AWAY_SECONDS:
                raise _InterruptedError(f"{begun} was interrupted: {what_answers(context)}", _AGAIN) from None
            return Not(error.sentence.rstrip("."))
        away_since = None
        missing = tuple(shortfalls(want, seen, not_this_container=not_this_container))
        if missing and (why := hopeless(seen, not_this_container=not_this_container)):
            raise Failed(f"{begun} failed: {why}.")
        if not missing:
            return seen
        if missing != last or seen.under_way or _starting(seen):
            quiet_since, last = time.monotonic(), missing
        if (was_away or lost) and time.monotonic() - quiet_since > (QUIET_SECONDS if was_away else LOST_SECONDS):
            raise _InterruptedError(
                f"{begun} was interrupted, and Portainer does not go on with it: {'; '.join(missing)}. {what_answers(context)}",
                _AGAIN,
            )
        return Not("; ".join(missing))

    try:
        return wait_until(done, deadline=limit, what=begun, every=EVERY_SECONDS)
    except TimedOut as error:
        raise Failed(error.sentence) from None


def _starting(seen: Seen) -> bool:
    """Whether the container is on its way up: a large database takes its time, and says nothing meanwhile."""
    state = (seen.container or {}).get("State") or {}
    return state.get("Status") == "running" and (state.get("Health") or {}).get("Status") == "starting"


def what_answers(context: Context) -> str:
    """What is up and what is down: Portainer, its Docker, and Qdrant on the new server; a sentence."""
    answers = {"Portainer": False, "Docker": False, "Qdrant on the new server": False}
    try:
        context.portainer.user()
        answers["Portainer"] = True
        context.portainer.ping()
        answers["Docker"] = True
    except (Answered, Unreachable):
        pass
    with suppress(CutoverError):
        answers["Qdrant on the new server"] = (
            state_of.new_server(context).answer_to("GET", "/readyz", key=None).status_code == 200
        )
    if not answers["Portainer"]:
        del answers["Docker"]
    up = [name for name, there in answers.items() if there]
    away = [name for name, there in answers.items() if not there]
    told = [f"{' and '.join(up)} answer{'s' if len(up) == 1 else ''}"] if up else []
    told += [f"{' and '.join(away)} {'does' if len(away) == 1 else 'do'} not"] if away and up else []
    told += [f"{' and '.join(away)} {'does' if len(away) == 1 else 'do'} not answer"] if away and not up else []
    return ", ".join(told) + "."


# -- the phase ----------------------------------------------------------------------------------------


def follows_as_wanted(context: Context, want: Wanted, seen: Seen) -> bool:
    """Whether the stack follows the branch and its new commits as it should."""
    return seen.stack is not None and seen.stack.reference == want.reference and updates_as_wanted(context.site, seen.stack)


def plan(context: Context) -> Sequence[Sentence]:
    """What would be done. :class:`Refused` where the deployment would fail; empty where it is done already."""
    context.credentials.need("PORTAINER_API_KEY")  # before Git is asked: without a key nobody is
    want = state_of.wanted(context)
    _need_docker(context)
    seen = state_of.see(context, want)
    if runs_as_wanted(want, seen):
        return [] if follows_as_wanted(context, want, seen) else [_following(context)]
    if seen.under_way and not want.unfit:
        return [
            Sentence(
                f"Wait for the deployment of the stack {context.site.portainer.stack} that Portainer makes by itself right now, "
                "and prove it. Deploy once more only where it fails."
            )
        ]
    situation = state_of.look(context, want)
    refuse(refusals(want, situation, context.site))
    name, image = context.site.portainer.stack, want.file.image
    sentences = [
        Sentence(
            f"Change who may come in: the running server does not take the {variable} of this command.",
            f"whoever uses the key that is in use now is refused; --execute asks for {variable} to be typed",
            "If the proof fails the stack goes back to the key that Portainer has."
            if situation.stored_in_use
            else "None: Portainer does not have the key that the running server takes.",
        )
        for variable in lets_in_others(want, situation)
    ]
    if not situation.image_here:
        sentences.append(
            Sentence(f"Pull {image} on the VM.", f"the VM gets the image {image.name}", "It stays; it does no harm.")
        )
    if situation.stack is None:
        sentences.append(
            Sentence(
                f"Make the stack {name} in Portainer {situation.version} from {want.reference} at {want.commit[:8]}.",
                f"a container of {image}, the volumes {', '.join(situation.volumes)} where they are not there",
                "`cutover undo deploy` removes the container; the volumes stay.",
            )
        )
    else:
        was = situation.stack.commit[:8] or "nothing"
        sentences.append(
            Sentence(
                f"Redeploy the stack {name} from {want.reference} at {want.commit[:8]} (now {was})."
                + (f" {fallen}" if (fallen := down(situation.stack, situation.container)) else ""),
                "the container is made anew; requests to it fail for some seconds",
                f"If the proof fails the stack goes back to {was}, with the variables that it has now."
                if situation.way_back
                else f"None by itself: no branch or tag is at {was}. {make_a_tag(was)} first to have one.",
            )
        )
    sentences.append(_following(context))
    return sentences


def _need_docker(context: Context) -> None:
    """:class:`Refused` where Portainer does not reach its Docker: nothing that runs can be seen then."""
    try:
        context.portainer.ping()
    except Answered as error:
        if error.status < 500:
            raise
        name = context.site.portainer.environment
        raise Refused(
            f"Portainer does not reach the Docker engine of {name!r}: nothing can be deployed. {what_answers(context)}",
            "Look at Docker on the VM (`systemctl status docker`), then run it again.",
        ) from None


def _following(context: Context) -> Sentence:
    mode, server = context.site.portainer.auto_update.mode, context.portainer
    if mode == "none":
        return Sentence("Let no commit deploy itself: only `cutover deploy` does, which looks first.")
    danger = ""
    if server.behaviour.teardown:
        danger = (
            f"Portainer {server.version} takes the service down when an update that it makes by itself fails, and "
            "does not ask first: merge nothing that the checks have not passed, or let auto_update be none"
        )
    return Sentence(f"Let the stack follow new commits by {mode}.", danger)


def refuse(reasons: Sequence[str]) -> None:
    """:class:`Refused` with every reason, where there is one."""
    if reasons:
        listed = reasons[0] if len(reasons) == 1 else "".join(f"\n  - {reason}" for reason in reasons)
        raise Refused(f"Nothing was deployed, because it would fail: {listed}")


def do(context: Context) -> Outcome:
    """Deploy what the reference is at, and prove it; go back to what ran before where the proof fails."""
    return _do(context, TRIES)


def _do(context: Context, once_more: int) -> Outcome:
    want = state_of.wanted(context)
    _need_docker(context)
    seen, waited = _settled(context, want)
    if waited:
        want = state_of.with_variables(want, seen.stack)
    if runs_as_wanted(want, seen):
        return _let_follow(context, want, seen, by_itself=waited)
    if by_itself := _deployed_by_itself(context, want, seen):
        return by_itself
    situation = state_of.look(context, want)
    if situation.replacing and once_more:  # Portainer has begun between two looks
        return _do(context, once_more - 1)
    refuse(refusals(want, situation, context.site))
    for variable in lets_in_others(want, situation):
        context.confirm.by_name(
            variable,
            f"The running server does not take the {variable} of this command: whoever uses the key that is in use now would be "
            "refused after the deployment."
            + ("" if situation.stored_in_use else " Portainer does not have that key either, so nothing leads back to it."),
        )
    before = situation.stack
    remember(context, "before the deployment")
    _pull(context, want, situation)
    try:
        seen = submit(context, want, before, situation.container)
    except _InterruptedError as error:
        raise Failed(error.sentence, error.hint) from None
    except (Failed, OutcomeUnknown) as error:
        if isinstance(error.__cause__, _InterruptedError):
            raise
        target = before_it(context, want, situation)
        if before is None or target is None:
            raise _nothing_before(context, error) from None
        went_back = roll_back(context, before, target, situation.container, because=error.sentence)
        raise Failed(
            f"{error.sentence} {went_back}",
            "Correct the change and merge again, or revert it; until then new commits are not deployed by themselves.",
        ) from None
    sentence = (
        f"The stack {context.site.portainer.stack} runs at {want.commit[:8]}: {want.file.image.name} {want.file.image.tag}, "
        "its digest as pinned, healthy, answering with its key, each of them proved, and to nothing near them."
    )
    sentences = [sentence]
    if context.site.portainer.auto_update.mode == "webhook":
        sentences.append(_WEBHOOK.format(context.site.portainer.stack))
    return Outcome(True, sentences, "`cutover undo deploy` removes the container; its volumes stay.", _facts(want, seen))


_WEBHOOK = (
    "Give your Git host the webhook's address: it stands in Portainer under Stacks > {} > GitOps updates. It is a secret and is "
    "not shown here."
)


def _settled(context: Context, want: Wanted) -> tuple[Seen, bool]:
    """What there is once Portainer is not deploying the stack by itself any more (or the limit has passed); whether it was.

    Where it has the commit's file on its disk and not yet the commit in its books it may have begun, or be about to end: one
    deployment is better than two.
    """
    follows = context.site.portainer.auto_update.mode != "none"
    last = time.monotonic()
    waited = False

    def settled() -> Seen | Not:
        nonlocal last, waited
        seen = state_of.see(context, want)
        if seen.under_way:
            if not waited:
                name = context.site.portainer.stack
                context.ui.say(f"Portainer is deploying the stack {name} by itself. Waiting for what comes of it.")
            last, waited = time.monotonic(), True
            return Not("Portainer is deploying")
        if follows and fetched(want, seen) and time.monotonic() - last < FETCHED_SECONDS:
            return Not("Portainer has the file, and not yet the commit")
        return seen

    limit = context.site.limits.deploy_seconds
    with suppress(TimedOut):
        return wait_until(settled, deadline=limit, what="Portainer's own deployment", every=EVERY_SECONDS), waited
    return state_of.see(context, want), waited


def _let_follow(context: Context, want: Wanted, seen: Seen, *, by_itself: bool = False) -> Outcome:
    """What runs stays as it is, and is not restarted; only what the stack follows is set, where it is not as wanted."""
    facts, sentence = _facts(want, seen), f"The stack runs as wanted, at {want.commit[:8]}."
    if by_itself:
        sentence = f"Portainer had deployed {want.commit[:8]} by itself; it was proved."
    if seen.stack is None or follows_as_wanted(context, want, seen):
        return Outcome(False, [sentence], facts=facts)
    _set_following(context, want, seen.stack, auto_update(context.site, seen.stack))
    return Outcome(True, [f"{sentence} What it follows was set; the container was not touched."], facts=facts)


def _set_following(context: Context, want: Wanted, stack: Stack, follow: Mapping[str, Any] | None) -> None:
    before = {"commit": stack.commit, "reference": stack.reference}
    with context.guard.act("deploy.follow", f"Let the stack follow {want.reference}", before=before) as act:
        try:
            _follow(context, want, stack, follow)
        except Answered as error:
            raise Failed(f"Portainer could not set what the stack follows: {error.reason}.", error.hint) from None
        act.after = {"commit": want.commit, "reference": want.reference}


def _deployed_by_itself(context: Context, want: Wanted, seen: Seen) -> Outcome | None:
    """Where Portainer has taken the commit already (it polls, or a webhook called it), only the proof is left.

    None where it has not, or where the proof fails: then it is deployed again, and taken back if that fails too.
    """
    stack = seen.stack
    if stack is None or seen.container is None or hopeless(seen):
        return None
    as_wanted = stack.reference == want.reference and all_variables(want, stack) == dict(stack.variables)
    if stack.commit != want.commit or not as_wanted or not updates_as_wanted(context.site, stack):
        return None
    try:
        seen = prove(context, want)
    except Failed:
        return None
    return Outcome(False, [f"Portainer had deployed {want.commit[:8]} by itself; it was proved."], facts=_facts(want, seen))


def _facts(want: Wanted, seen: Seen) -> dict[str, Any]:
    container = seen.container or {}
    return {
        "commit": want.commit, "reference": want.reference, "image": str(want.file.image),
        "container": str(container.get("Id", ""))[:12], "started": (container.get("State") or {}).get("StartedAt", ""),
    }  # fmt: skip


def _pull(context: Context, want: Wanted, situation: Situation) -> None:
    """Pull first: a registry that fails in the middle of a deployment is an outage on some versions."""
    image = want.file.image
    if situation.image_here:
        return
    with context.guard.act("deploy.pull", f"Pull {image}", before={"image": None}) as act:
        context.ui.say(f"Pulling {image}.")
        context.portainer.pull(image.name, image.digest, seconds=context.site.limits.deploy_seconds)
        if context.portainer.image(str(image)) is None:
            raise Failed(f"The image {image} was pulled, but the VM does not have it.")
        act.after = {"image": str(image)}


def submit(
    context: Context, want: Wanted, stack: Stack | None, container: Mapping[str, Any] | None, *, updates: bool = True
) -> Seen:
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
                if attempt == TRIES or stack is None or not collided(error.reason):
                    raise _not_deployed(context, want, error) from None
                context.ui.say("Portainer has deployed the stack by itself at the same time. Waiting, then asking once more.")
                _settled(context, want)
                stack = server.stack(site.portainer.stack) or stack
        try:
            seen = prove(context, want, not_this_container=old_container, lost=lost is not None)
        except Failed as error:
            if lost is not None:
                raise OutcomeUnknown(
                    f"{lost.sentence} After that: {error.sentence}", "Run `deploy` again: it looks first."
                ) from error
            raise
        act.after = _facts(want, seen)
        return seen


def _send(context: Context, want: Wanted, stack: Stack | None, follow: Mapping[str, Any] | None) -> None:
    site, server = context.site, context.portainer
    given = all_variables(want, stack)
    if stack is not None:
        _follow(context, want, stack, follow)
        server.redeploy(stack, reference=want.reference, variables=given, seconds=site.limits.deploy_seconds)
        return
    source = _source(context, None) if follow and follow["Interval"] and server.behaviour.sources else None
    server.create(
        name=site.portainer.stack, repository=site.portainer.repository, reference=want.reference,
        file=site.portainer.compose_file, variables=given, auto_update=follow, source=source,
        seconds=site.limits.deploy_seconds,
    )  # fmt: skip


def _not_deployed(context: Context, want: Wanted, error: Answered) -> Failed:
    """Portainer's error; an interruption where Docker is gone, because then the change itself may be good."""
    said = f"Portainer could not deploy {want.commit[:8]}: {in_words(error.reason)}."
    try:
        context.portainer.ping()
    except (Answered, Unreachable):
        return _InterruptedError(f"{said} {what_answers(context)}", _AGAIN)
    return Failed(said, error.hint)


def _follow(context: Context, want: Wanted, stack: Stack, follow: Mapping[str, Any] | None) -> None:
    """Set reference, variables and automatic updates where they are not as wanted."""
    now = stack.auto_update or {}
    should = follow or {}
    same = all((now.get(key) or "") == (should.get(key) or "") for key in ("Interval", "Webhook"))
    if not same or stack.reference != want.reference or all_variables(want, stack) != dict(stack.variables):
        given = all_variables(want, stack)
        context.portainer.set_git(stack, reference=want.reference, variables=given, auto_update=follow)
    if context.portainer.behaviour.sources:
        _source(context, stack, interval=str(should.get("Interval") or ""))


def _source(context: Context, stack: Stack | None, interval: str | None = None) -> int | None:
    """Portainer 2.44 and newer poll by the interval of the *source*: make or set it."""
    settings = context.site.portainer
    if stack is None:
        return context.portainer.make_source(
            name=settings.stack, repository=settings.repository, interval=settings.auto_update.interval
        )
    if stack.source is None:
        if interval:
            context.ui.say("This Portainer polls by a source's interval, and the stack has no source: set it in Portainer.")
        return None
    if context.portainer.source(stack.source).get("interval") != interval:
        context.portainer.set_interval(stack.source, interval or "")
    return stack.source


def _nothing_before(context: Context, error: CutoverError) -> CutoverError:
    """There is no commit to go back to; say what there is now."""
    stack = context.portainer.stack(context.site.portainer.stack)
    left = "No stack was left behind" if stack is None else "The stack stays as it is for you to look at"
    return type(error)(error.sentence, f"{error.hint} {left}; correct the cause and run `deploy` again.".strip())


# -- going back to the commit before ------------------------------------------------------------------


def before_it(context: Context, want: Wanted, situation: Situation) -> str | None:
    """The commit to go back to: what ran healthily until now, else the last one that was proved. None where neither is."""
    stack = situation.stack
    changed = stack is not None and (stack.commit != want.commit or all_variables(want, stack) != dict(stack.variables))
    if stack is not None and healthy(situation.container) and stack.commit and changed:
        return stack.commit
    for entry in reversed(context.journal.entries()):
        if entry.act == events.STACK_DEPLOYED and entry.kind == "done" and isinstance(entry.after, dict):
            commit = str(entry.after.get("commit", ""))
            if commit and commit != want.commit:
                return commit
    return None


def roll_back(context: Context, before: Stack, commit: str, container: Mapping[str, Any] | None, *, because: str) -> str:
    """Let the stack follow the commit that ran before, deploy it unless it still runs, and prove it; what was done.

    New commits are not followed until the next ``deploy``. Portainer only takes branches and tags: where none is at that
    commit, a tag is made, which needs GIT_TOKEN.
    """
    repository = Repository(context.site.portainer.repository, context.credentials)
    short, old_container = commit[:8], str((container or {}).get("Id", ""))
    context.ui.say(f"Going back to {short}: {because}")
    reference = reference_for(repository.references(), commit, preferred=before.reference)
    if reference is None:
        if context.credentials.get("GIT_TOKEN") is None:
            raise Failed(
                f"{because} Going back to {short} needs a branch or tag at that commit, and there is none.",
                f"{make_a_tag(short)} or revert the change, then run `deploy` again. Or set GIT_TOKEN so that this is done for "
                "you.",
            )
        with context.guard.act("deploy.tag", f"Tag {short} to go back to it", before={"tag": None}) as act:
            repository.tag(f"rollback-{short}", commit, context.guard)
            act.after = {"tag": f"rollback-{short}"}
        reference = f"refs/tags/rollback-{short}"
    want = state_of.as_stored(state_of.wanted(context, reference), before)
    try:
        stack = context.portainer.stack(before.name)
        if stack is not None and untouched(want, state_of.see(context, want), old_container):
            _set_following(context, want, stack, None)
            return f"The container of {short} was not touched and still serves; the stack follows that commit again."
        submit(context, want, stack, context.portainer.service(before.name, state_of.SERVICE_NAME), updates=False)
    except (Failed, OutcomeUnknown) as error:
        raise Failed(
            f"{because} Going back to {short} did not work either: {error.sentence}",
            "Qdrant on the new server may be down. Its data is in its volumes. Look at the stack in Portainer.",
        ) from None
    return f"The stack went back to {short}, which was proved: Qdrant answers as before."


def _step(site: Site) -> Step:
    guests = site.guests
    return Step(
        title="Run Qdrant from Git",
        does=f"Portainer runs stack {site.portainer.stack} from {site.portainer.reference}; proved by commit, image digest, "
        "health and an answer.",
        needs=f"The merged commit with {site.portainer.compose_file}; QDRANT_API_KEY and QDRANT_READ_ONLY_API_KEY.",
        changes=f"One stack, one container and its volumes on {guests.new}.",
        undo="`cutover undo deploy` removes the container; its volumes stay until they are named.",
        criteria=("B4", "C1", "C2", "D2", "E3", "H1", "H2"),
    )


PHASE = Phase(
    name="deploy",
    help="Let Portainer run the stack from Git, and prove what runs.",
    plan=plan,
    do=do,
    step=_step,
    undo=undo,
    plan_undo=plan_undo,
    probed=True,
)
