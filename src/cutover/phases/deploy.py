"""Deploy the Qdrant stack through Portainer, prove it, or go back to what ran before.

Before anything is sent, everything that would make Portainer fail is looked at: the commit's compose file, Compose's own
opinion of it, the variables, the image, the port, the volumes, the name, memory and cores. On many versions a deployment
that fails takes the running service down, so a refusal here is worth more than an error there.

Done means: the stack is active at the expected commit and holds that commit's file, its container is the new one, runs
the pinned digest as the file says and is healthy, and Qdrant answers with the expected version, with the key and only with
it. If that does not come true, the stack goes back to the commit before it, which is proved in the same way.

``undo`` is the plan's way back: the container and its network are removed, the data stays until someone types its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused
from cutover.phases.deploy_back import before_it, roll_back
from cutover.phases.deploy_proof import Interrupted, prove, settled, what_answers
from cutover.phases.deploy_submit import TRIES, clear, facts_of, pull, set_following, submit
from cutover.phases.deploy_undo import plan_undo, remember, undo
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.portainer.client import Answered
from cutover.portainer.deployment import Deployed, Wanted, all_variables, hopeless, runs_as_wanted
from cutover.portainer.obstacles import down, lets_in_others, make_a_tag, refusals
from cutover.portainer.updates import auto_update, shared_source, updates_as_wanted
from cutover.qdrant import access
from cutover.state import deployment as state_of

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site

__all__ = ["do", "plan", "plan_undo", "undo"]


def follows_as_wanted(context: Context, want: Wanted, seen: Deployed) -> bool:
    """Whether the stack follows the branch and its new commits as it should."""
    return seen.stack is not None and seen.stack.reference == want.reference and updates_as_wanted(context.site, seen.stack)


@dataclass(frozen=True, kw_only=True)
class DeployPlan(Plan):
    """``want``: the commit, its file and the variables that would be deployed."""

    want: Wanted


def plan(context: Context) -> DeployPlan:
    """What would be done. :class:`Refused` where the deployment would fail; empty where it is done already."""
    context.credentials.need("PORTAINER_API_KEY")  # before Git is asked: without a key nobody is
    want = state_of.wanted(context)
    _need_docker(context)
    seen = state_of.see(context, want)
    if reason := shared_source(context.site, seen.stack):
        raise Refused(f"Nothing was deployed. {reason}")
    if runs_as_wanted(want, seen):
        return DeployPlan(sentences=[] if follows_as_wanted(context, want, seen) else [_following(context)], want=want)
    if seen.under_way and not seen.halted and not want.unfit:
        wait = Sentence(
            f"Wait for the deployment of the stack {context.site.portainer.stack} that Portainer makes by itself right now, "
            "and prove it. Deploy once more only where it fails."
        )
        return DeployPlan(sentences=[wait], want=want)
    situation = state_of.look(context, want)
    refuse(refusals(want, situation, context.site))
    name, image = context.site.portainer.stack, want.file.image
    sentences = [
        Sentence(
            f"Change who may come in: the running server does not take the {variable} of this command as such.",
            "whoever uses the key that is in use now is let in otherwise, or not at all; "
            f"--execute asks for {variable} to be typed",
            "If the proof fails the stack goes back to the key that Portainer has."
            if situation.stored_in_use
            else "None: Portainer does not have the key that the running server takes.",
        )
        for variable in lets_in_others(want, situation)
    ]
    if situation.left_over:
        left = f"Remove the container {situation.left_over}: it was to replace the one that runs, was left behind, and never ran."
        sentences.append(Sentence(left, "the VM loses a container that holds nothing", "None"))
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
        was, target = situation.stack.commit[:8] or "nothing", before_it(context, want, situation)
        sentences.append(
            Sentence(
                f"Redeploy the stack {name} from {want.reference} at {want.commit[:8]} (now {was})."
                + (f" {fallen}" if (fallen := down(situation.stack, situation.container)) else ""),
                "the container is made anew; requests to it fail for some seconds",
                "None by itself: no commit is known that ran before."
                if target is None
                else f"If the proof fails the stack goes back to {target[:8]}, with the variables that it has now."
                if situation.way_back
                else f"None by itself: no branch or tag is at {was}. {make_a_tag(was)} first to have one.",
            )
        )
    sentences.append(_following(context))
    return DeployPlan(sentences=sentences, want=want)


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


def do(context: Context, planned: DeployPlan) -> Outcome:
    """Deploy the commit of the plan, and prove it; go back to what ran before where the proof fails."""
    return _do(context, planned.want, TRIES)


def _do(context: Context, want: Wanted, once_more: int) -> Outcome:
    seen, waited = settled(context, want)
    if waited:
        want = state_of.with_variables(context, want, seen.stack)
    if runs_as_wanted(want, seen):
        return _let_follow(context, want, seen, by_itself=waited)
    if by_itself := _deployed_by_itself(context, want, seen):
        return by_itself
    situation = state_of.look(context, want)
    if situation.replacing and once_more:  # Portainer has begun between two looks
        return _do(context, state_of.wanted(context), once_more - 1)
    refuse(refusals(want, situation, context.site))
    for variable in lets_in_others(want, situation):
        context.confirm.by_name(
            variable,
            f"The running server does not take the {variable} of this command as such: whoever uses the key that is in use now "
            "would be let in otherwise after the deployment, or not at all."
            + ("" if situation.stored_in_use else " Portainer does not have that key either, so nothing leads back to it."),
        )
    before = situation.stack
    remember(context, "before the deployment")
    pull(context, want, situation)
    clear(context, situation)
    try:
        seen = submit(context, want, before, situation.container)
    except Interrupted as error:
        raise Failed(error.sentence, error.hint) from None
    except (Failed, OutcomeUnknown) as error:
        if isinstance(error.__cause__, Interrupted):
            raise
        target = before_it(context, want, situation)
        if before is None or target is None:
            raise _nothing_before(context, error) from None
        went_back = roll_back(
            context, before, target, situation.container, because=error.sentence, same_keys=situation.stored_in_use
        )
        raise Failed(
            f"{error.sentence} {went_back}",
            "Correct the change and merge again, or revert it; until then new commits are not deployed by themselves.",
        ) from None
    sentence = (
        f"The stack {context.site.portainer.stack} runs at {want.commit[:8]}: {want.file.image.name} {want.file.image.tag}, "
        f"its digest as pinned, healthy, {access.let_in(context.site)}."
    )
    sentences = [sentence]
    if context.site.portainer.auto_update.mode == "webhook":
        sentences.append(_WEBHOOK.format(context.site.portainer.stack))
    return Outcome(True, sentences, "`cutover undo deploy` removes the container; its volumes stay.", facts_of(want, seen))


_WEBHOOK = (
    "Give your Git host the webhook's address: it stands in Portainer under Stacks > {} > GitOps updates. It is a secret and is "
    "not shown here."
)


def _let_follow(context: Context, want: Wanted, seen: Deployed, *, by_itself: bool = False) -> Outcome:
    """What runs stays as it is, and is not restarted; only what the stack follows is set, where it is not as wanted."""
    facts, sentence = facts_of(want, seen), f"The stack runs as wanted, at {want.commit[:8]}."
    if by_itself:
        sentence = f"Portainer had deployed {want.commit[:8]} by itself; it was proved."
    if seen.stack is None or follows_as_wanted(context, want, seen):
        return Outcome(False, [sentence], facts=facts)
    set_following(context, want, seen.stack, auto_update(context.site, seen.stack))
    return Outcome(True, [f"{sentence} What it follows was set; the container was not touched."], facts=facts)


def _deployed_by_itself(context: Context, want: Wanted, seen: Deployed) -> Outcome | None:
    """Where Portainer has taken the commit already (it polls, or a webhook called it), only the proof is left.

    None where it has not, or where the proof fails: then it is deployed again, and taken back if that fails too.
    """
    stack = seen.stack
    if stack is None or seen.container is None or seen.ended or hopeless(want, seen):
        return None
    as_wanted = stack.reference == want.reference and all_variables(want, stack) == dict(stack.variables)
    if not want.is_at(stack) or not as_wanted or not updates_as_wanted(context.site, stack):
        return None
    try:
        seen = prove(context, want)
    except Failed:
        return None
    return Outcome(False, [f"Portainer had deployed {want.commit[:8]} by itself; it was proved."], facts=facts_of(want, seen))


def _nothing_before(context: Context, error: CutoverError) -> CutoverError:
    """There is no commit to go back to; say what there is now."""
    stack = context.portainer.stack(context.site.portainer.stack)
    left = "No stack was left behind" if stack is None else "The stack stays as it is for you to look at"
    return type(error)(error.sentence, f"{error.hint} {left}; correct the cause and run `deploy` again.".strip())


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
    operation=Operation(plan, do),
    step=_step,
    undo=Operation(plan_undo, undo),
    probed=True,
)
