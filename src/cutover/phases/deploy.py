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

import socket
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cutover.core import events, http
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused, Unreachable, WritesRefused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases.phase import Outcome, Phase, Sentence, Step
from cutover.portainer import compose_file, compose_policy
from cutover.portainer.client import PROJECT, SERVICE, Answered, Stack
from cutover.portainer.deployment import (
    Seen,
    Situation,
    Wanted,
    all_variables,
    auto_update,
    healthy,
    hopeless,
    make_a_tag,
    reference_for,
    refusals,
    runs_as_wanted,
    shortfalls,
    untouched,
    updates_as_wanted,
)
from cutover.portainer.git import Repository
from cutover.replication import serving

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site

#: Asked that often while a deployment is waited for.
EVERY_SECONDS = 0.25
#: Portainer's answer while a deployment of the stack is under way (2.4x).
BUSY = 409
#: The service of the stack that is Qdrant.
SERVICE_NAME = compose_file.SERVICE


# -- what is wanted -----------------------------------------------------------------------------------


def wanted(context: Context, reference: str | None = None) -> Wanted:
    """The stack at a branch or tag (default: the one of site.yaml). :class:`Refused` where it cannot be read."""
    settings = context.site.portainer
    reference = reference or settings.reference
    commit, text = Repository(settings.repository, context.credentials).file_at(reference, settings.compose_file)
    file = compose_file.read(text, f"{settings.compose_file} at {commit[:8]}")
    # Only Qdrant's own keys: a file that names another one would otherwise get it.
    ours = [name for name in file.required if name in compose_policy.VARIABLES]
    variables = {name: value for name in ours if (value := context.credentials.get(name))}
    return Wanted(commit, reference, file, variables)


# -- what is there ------------------------------------------------------------------------------------


def look(context: Context, want: Wanted) -> Situation:
    """Look at everything; changes nothing."""
    server, site = context.portainer, context.site
    name = site.portainer.stack
    up = True
    try:
        server.ping()
    except (Answered, Unreachable):
        up = False
    rows = server.containers() if up else []
    own = [row for row in rows if (row.get("Labels") or {}).get(PROJECT) == name]
    others = [row for row in rows if row not in own]
    container = next((row for row in own if (row.get("Labels") or {}).get(SERVICE) == SERVICE_NAME), None)
    image = want.file.image
    ask = up and image.is_pinned  # an engine answers 400 to a digest that cannot be one; the file's mistakes name it
    here = ask and server.image(str(image)) is not None
    info = server.info() if up else {}
    running = container is not None and container.get("State") == "running"
    stack = server.stack(name)
    found = server.container(container["Id"]) if container else None
    way_back = _way_back(context, want, stack, found)
    return Situation(
        version=server.version,
        role=int(server.user().get("Role") or 0),
        environment_up=up,
        stack=stack,
        container=found,
        others=[row for row in (*others, *own) if container is None or row["Id"] != container["Id"]],
        others_memory=sum(server.memory_used(row["Id"]) for row in others if row.get("State") == "running"),
        volumes={m.volume: server.volume(m.volume) for m in want.file.mounts if m.volume} if up else {},
        image_here=here,
        image_problem=None if here or not ask else server.in_registry(f"{image.name}@{image.digest}"),
        port_answers=not running and _answers(site.qdrant.new_url),
        cores=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        compose_says=compose_file.compose_says(want.file.text, want.variables, name),
        way_back=way_back,
        users="" if way_back else serving.why_new_may_serve(context),
    )


def _way_back(context: Context, want: Wanted, stack: Stack | None, container: Mapping[str, Any] | None) -> bool:
    """Whether a deployment that fails can be taken back to what runs healthily now; True where nothing does."""
    if stack is None or not healthy(container) or stack.commit in {"", want.commit} or context.credentials.get("GIT_TOKEN"):
        return True
    references = Repository(context.site.portainer.repository, context.credentials).references()
    return reference_for(references, stack.commit, preferred=stack.reference) is not None


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=2):
            return True
    except OSError:
        return False


# -- whether it runs as wanted ------------------------------------------------------------------------


def see(context: Context, want: Wanted) -> Seen:
    """Look at the stack, its container and Qdrant itself; changes nothing."""
    server, name = context.portainer, context.site.portainer.stack
    stack = server.stack(name)
    if stack is None:
        return Seen(None, None, None, (), "there is no stack")
    text = None
    try:
        text = server.stack_file(stack)
    except Answered:
        text = None  # Portainer has not fetched it yet
    container = server.service(name, SERVICE_NAME)
    digests: Sequence[str] = ()
    if container is not None:
        digests = tuple((server.image(container["Image"]) or {}).get("RepoDigests") or ())
    return Seen(
        stack,
        text,
        container,
        digests,
        qdrant_answers(context, want.version) if container is not None else "there is no container",
    )


def qdrant_answers(context: Context, version: str) -> str:
    """Empty where Qdrant answers with this version, with its key, and not without; else what is wrong."""
    url = context.site.qdrant.new_url
    key = context.credentials.get("QDRANT_READ_ONLY_API_KEY") or context.credentials.need("QDRANT_API_KEY")
    session = http.session(context.guard, timeout=(3.0, 5.0), pool=1)
    try:
        told = session.get(f"{url}/").json()
        if told.get("version") != version:
            return f"Qdrant is version {told.get('version')}, not {version}"
        status = session.get(f"{url}/collections", headers={"api-key": key}).status_code
        if status != 200:
            return f"Qdrant answers {status} to its key"
        if session.get(f"{url}/collections").status_code not in {401, 403}:
            return "Qdrant answers without a key"
    except Unreachable as error:
        return f"Qdrant does not answer ({error.sentence.rstrip('.')})"
    except (ValueError, AttributeError):
        return f"{url} does not answer like Qdrant"
    finally:
        session.close()
    return ""


def prove(context: Context, want: Wanted, *, not_this_container: str = "", deadline: float | None = None) -> Seen:
    """Wait until the deployment is done; :class:`Failed` with what is missing when it is not within the limit."""

    def done() -> Seen | Not:
        try:
            seen = see(context, want)
        except (Unreachable, Answered) as error:
            if isinstance(error, Answered) and error.status < 500:
                raise  # a wrong key does not become right by waiting
            return Not(error.sentence.rstrip("."))
        missing = shortfalls(want, seen, not_this_container=not_this_container)
        if missing and (why := hopeless(seen, not_this_container=not_this_container)):
            raise Failed(f"The deployment of {want.commit[:8]} failed: {why}.")
        return seen if not missing else Not("; ".join(missing))

    limit = context.site.limits.deploy_seconds if deadline is None else deadline
    try:
        return wait_until(done, deadline=limit, what=f"The deployment of {want.commit[:8]}", every=EVERY_SECONDS)
    except TimedOut as error:
        raise Failed(error.sentence) from None


# -- automatic updates --------------------------------------------------------------------------------


# -- the phase ----------------------------------------------------------------------------------------


def follows_as_wanted(context: Context, want: Wanted, seen: Seen) -> bool:
    """Whether the stack follows the branch and its new commits as it should."""
    return seen.stack is not None and seen.stack.reference == want.reference and updates_as_wanted(context.site, seen.stack)


def plan(context: Context) -> Sequence[Sentence]:
    """What would be done. :class:`Refused` where the deployment would fail; empty where it is done already."""
    context.credentials.need("PORTAINER_API_KEY")  # before Git is asked: without a key nobody is
    want = wanted(context)
    seen = see(context, want)
    if runs_as_wanted(want, seen):
        return [] if follows_as_wanted(context, want, seen) else [_following(context)]
    situation = look(context, want)
    refuse(refusals(want, situation, context.site))
    name, image = context.site.portainer.stack, want.file.image
    sentences = []
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
                f"Redeploy the stack {name} from {want.reference} at {want.commit[:8]} (now {was}).",
                "the container is made anew; requests to it fail for some seconds",
                f"If the proof fails the stack goes back to {was}."
                if situation.way_back
                else f"None by itself: no branch or tag is at {was}. {make_a_tag(was)} first to have one.",
            )
        )
    sentences.append(_following(context))
    return sentences


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
    """Deploy what the reference is at, and prove it; go back to the commit before it where the proof fails."""
    want = wanted(context)
    seen = see(context, want)
    if runs_as_wanted(want, seen):
        return _let_follow(context, want, seen)
    if by_itself := _deployed_by_itself(context, want, seen):
        return by_itself
    situation = look(context, want)
    refuse(refusals(want, situation, context.site))
    before = situation.stack
    _remember(context, "before the deployment")
    _pull(context, want, situation)
    try:
        seen = submit(context, want, before, situation.container)
    except (Failed, OutcomeUnknown) as error:
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
        "its digest as pinned, healthy, answering with its key."
    )
    return Outcome(True, [sentence], "`cutover undo deploy` removes the container; its volumes stay.", _facts(want, seen))


def _let_follow(context: Context, want: Wanted, seen: Seen) -> Outcome:
    """What runs stays as it is, and is not restarted; only what the stack follows is set, where it is not as wanted."""
    facts, sentence = _facts(want, seen), f"The stack runs as wanted, at {want.commit[:8]}."
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


def _remember(context: Context, when: str) -> None:
    """Keep a picture of Portainer and its VM in the journal, for the comparison afterwards."""
    if not context.guard.is_open:
        raise WritesRefused(f"Not done without --execute: what comes after the picture of Portainer {when}.")
    context.journal.note(events.PORTAINER_BEFORE, f"Portainer {when}", picture=context.portainer.picture().as_facts())


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
        try:
            if stack is None:
                source = _source(context, None) if follow and follow["Interval"] and server.behaviour.sources else None
                server.create(
                    name=site.portainer.stack, repository=site.portainer.repository, reference=want.reference,
                    file=site.portainer.compose_file, variables=want.variables, auto_update=follow, source=source,
                    seconds=site.limits.deploy_seconds,
                )  # fmt: skip
            else:
                _follow(context, want, stack, follow)
                given = all_variables(want, stack)
                server.redeploy(stack, reference=want.reference, variables=given, seconds=site.limits.deploy_seconds)
        except OutcomeUnknown as error:
            lost = error
            context.ui.say("Portainer's answer was lost. Looking at what it did.")
        except Answered as error:
            if error.status != BUSY or stack is None:
                raise Failed(f"Portainer could not deploy {want.commit[:8]}: {error.reason}.", error.hint) from None
            context.ui.say("Portainer has begun a deployment by itself. Waiting for what comes of it.")
        try:
            seen = prove(context, want, not_this_container=old_container)
        except Failed as error:
            if lost is not None:
                raise OutcomeUnknown(
                    f"{lost.sentence} After that: {error.sentence}", "Run `deploy` again: it looks first."
                ) from None
            raise
        act.after = _facts(want, seen)
        return seen


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
    if stack is not None and healthy(situation.container) and stack.commit and stack.commit != want.commit:
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
    want = wanted(context, reference)
    try:
        stack = context.portainer.stack(before.name)
        if stack is not None and untouched(want, see(context, want), old_container):
            _set_following(context, want, stack, None)
            return f"The container of {short} was not touched and still serves; the stack follows that commit again."
        submit(context, want, stack, context.portainer.service(before.name, SERVICE_NAME), updates=False)
    except (Failed, OutcomeUnknown) as error:
        raise Failed(
            f"{because} Going back to {short} did not work either: {error.sentence}",
            "Qdrant on the new server may be down. Its data is in its volumes. Look at the stack in Portainer.",
        ) from None
    return f"The stack went back to {short}, which was proved: Qdrant answers as before."


# -- the way back of the plan -------------------------------------------------------------------------


def plan_undo(context: Context) -> Sequence[Sentence]:
    """What removing the stack would do. Volumes are only named where their names were given (``--yes-destroy``)."""
    server, name = context.portainer, context.site.portainer.stack
    sentences = []
    if server.stack(name) is not None or server.service(name, SERVICE_NAME) is not None:
        sentences.append(
            Sentence(
                f"Remove the stack {name}: its container and network.",
                "nothing answers on the new server any more; the volumes stay",
                "`cutover deploy` makes it again, with the same data.",
            )
        )
    sentences += [
        Sentence(f"Delete the volume {volume} and everything in it.", "the data is gone", "There is no way back.")
        for volume in our_volumes(context)
        if volume in _named(context)
    ]
    return sentences


def our_volumes(context: Context) -> list[str]:
    """The volumes that belong to the stack, whether or not it is there."""
    name = context.site.portainer.stack
    return sorted(v["Name"] for v in context.portainer.volumes() if (v.get("Labels") or {}).get(PROJECT) == name)


def _named(context: Context) -> set[str]:
    """The names whose loss was agreed to in advance."""
    return set(getattr(context.confirm, "names", ()))


def undo(context: Context) -> Outcome:
    """Remove the stack. Its volumes stay, except those whose names were given (``--yes-destroy NAME``).

    :class:`Refused` while Nginx sends traffic to it.
    """
    outcome = _remove(context)
    if not _named(context) & set(our_volumes(context)):
        return outcome
    deleted = remove_data(context, only=_named(context))
    return Outcome(True, [*outcome.sentences, *deleted.sentences], "None: the data is gone.")


def _remove(context: Context) -> Outcome:
    server, name = context.portainer, context.site.portainer.stack
    stack = server.stack(name)
    left = server.containers(name)
    if stack is None and not left:
        return Outcome(False, ["There is no such stack, and no container of it."])
    if stack is None:
        raise Refused(f"There are containers of {name!r}, but Portainer has no such stack. Remove them by hand.")
    serving.need_old_serves(context)
    _remember(context, "before the stack was removed")
    volumes = sorted({m["Name"] for row in left for m in row.get("Mounts") or [] if m.get("Name")})
    before = {"stack": stack.id, "commit": stack.commit, "reference": stack.reference, "volumes": volumes}
    with context.guard.act("deploy.remove", f"Remove the stack {name}", before=before) as act:
        try:
            server.remove(stack, seconds=context.site.limits.deploy_seconds)
        except OutcomeUnknown:
            context.ui.say("Portainer's answer was lost. Looking at what it did.")
        except Answered as error:
            raise Failed(f"Portainer could not remove the stack {name}: {error.reason}.", error.hint) from None

        def gone() -> bool | Not:
            if server.stack(name) is not None:
                return Not("Portainer still has the stack")
            if rows := server.containers(name):
                return Not(f"the container {rows[0]['Names'][0].lstrip('/')} is still there")
            networks = [n["Name"] for n in server.networks() if (n.get("Labels") or {}).get(PROJECT) == name]
            return Not(f"the network {networks[0]} is still there") if networks else True

        try:
            wait_until(gone, deadline=context.site.limits.deploy_seconds, what=f"Removing the stack {name}", every=EVERY_SECONDS)
        except TimedOut as error:
            raise Failed(error.sentence, "Run it again.") from None
        lost = [volume for volume in volumes if server.volume(volume) is None]
        act.after = {"volumes": [volume for volume in volumes if volume not in lost]}
        if lost:
            raise Failed(f"Removing the stack {name} also removed {', '.join(lost)}, which it should not have.")
    kept = f"Its data stays in {' and '.join(volumes)}, until --yes-destroy names them." if volumes else "It had no volumes."
    return Outcome(True, [f"The stack {name} is removed: container and network are gone. {kept}"], "`deploy` makes it again.")


def remove_data(context: Context, only: Collection[str] | None = None) -> Outcome:
    """Delete the volumes that a removed stack has left (``only`` these), each after its name was typed.

    :class:`Refused` while there is a container, or where a name was not typed.
    """
    server, name = context.portainer, context.site.portainer.stack
    if server.containers(name):
        raise Refused(f"The stack {name} still has a container. Remove it first (`cutover undo deploy`).")
    ours = [volume for volume in our_volumes(context) if only is None or volume in only]
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
                raise Failed(f"The volume {volume} could not be deleted: {error.reason}.") from None
    return Outcome(True, [f"Deleted: {', '.join(ours)}."], "None.")


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
