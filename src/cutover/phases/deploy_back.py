"""Going back to the commit that ran before, where a deployment was not proved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutover.core import events
from cutover.core.errors import Failed, OutcomeUnknown
from cutover.phases.deploy_submit import set_following, submit
from cutover.portainer import compose_file
from cutover.portainer.deployment import Wanted, all_variables, healthy, reference_for, untouched
from cutover.portainer.git import Repository
from cutover.portainer.obstacles import Situation, make_a_tag
from cutover.portainer.stack import Stack
from cutover.state import deployment as state_of

if TYPE_CHECKING:
    from cutover.context import Context


def before_it(context: Context, want: Wanted, situation: Situation) -> str | None:
    """The commit to go back to: what ran healthily until now, else the last one that was proved. None where neither is."""
    stack = situation.stack
    changed = stack is not None and (not want.is_at(stack) or all_variables(want, stack) != dict(stack.variables))
    if stack is not None and healthy(situation.container) and stack.commit and changed:
        return stack.commit
    for entry in reversed(context.journal.entries()):
        if entry.act == events.STACK_DEPLOYED and entry.kind == "done" and isinstance(entry.after, dict):
            commit = str(entry.after.get("commit", ""))
            if commit not in {"", want.commit, want.shown}:
                return commit
    return None


def roll_back(
    context: Context, before: Stack, commit: str, container: Mapping[str, Any] | None, *, because: str, same_keys: bool = True
) -> str:
    """Let the stack follow the commit that ran before, deploy it unless it still runs, and prove it; what was done.

    New commits are not followed until the next ``deploy``. Portainer only takes branches and tags: where none is at that
    commit, a tag is made, which needs GIT_TOKEN. It goes back to the variables that Portainer had;
    ``same_keys``: whether those are the ones of the server that ran.
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
    want = state_of.as_stored(context, state_of.wanted(context, reference), before)
    try:
        stack = context.portainer.stack(before.name)
        if stack is not None and untouched(want, state_of.see(context, want), old_container):
            set_following(context, want, stack, None)
            return f"The container of {short} was not touched and still serves; the stack follows that commit again."
        submit(context, want, stack, context.portainer.service(before.name, compose_file.SERVICE), updates=False)
    except (Failed, OutcomeUnknown) as error:
        raise Failed(
            f"{because} Going back to {short} did not work either: {error.sentence}",
            "Qdrant on the new server may be down. Its data is in its volumes. Look at the stack in Portainer.",
        ) from None
    went = f"The stack went back to {short}, which was proved"
    if commit != before.commit or not healthy(container):
        return f"{went} with the keys that Portainer has now; those with which it ran before may have been others."
    if same_keys:
        return f"{went}: Qdrant answers as before."
    return f"{went} with the keys that Portainer had. The server that ran before took others: whoever uses those is refused now."
