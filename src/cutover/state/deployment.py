"""The deployment as it is and as it is wanted: what Git, Portainer, Docker and the server itself say. Reads only."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cutover.core.credentials import Credentials
from cutover.core.errors import Refused, Unreachable
from cutover.portainer import compose_file, compose_policy, running, variables
from cutover.portainer.client import Answered
from cutover.portainer.deployment import Deployed, Wanted, all_variables, healthy, left_over, reference_for, seconds_at
from cutover.portainer.git import Repository
from cutover.portainer.obstacles import Situation
from cutover.portainer.stack import PROJECT, Stack, name_of, of_service
from cutover.qdrant import access
from cutover.qdrant.client import Qdrant
from cutover.replication import serving

if TYPE_CHECKING:
    from cutover.context import Context


def wanted(context: Context, reference: str | None = None) -> Wanted:
    """The stack at a branch or tag (default: the one of site.yaml). :class:`Refused` where it cannot be read."""
    settings = context.site.portainer
    reference = reference or settings.reference
    repository = Repository(settings.repository, context.credentials)
    at = repository.file_at(reference, settings.compose_file)
    file = compose_file.read(at.text, f"{settings.compose_file} at {at.commit[:8]}")
    # Only Qdrant's own keys: a file that names another one would otherwise get it.
    ours = [name for name in file.required if name in compose_policy.VARIABLES]
    given = {name: value for name in ours if (value := context.credentials.get(name))}
    stack = context.portainer.stack(settings.stack)
    return with_variables(context, Wanted(at.commit, reference, file, given, default=at.env, shown=at.shown), stack)


def with_variables(context: Context, want: Wanted, stack: Stack | None) -> Wanted:
    """``want`` with what has to be sent for its variables, and with those that only Portainer has, which count as set.

    What Portainer has stays as it is written there where the same value arrives of it.
    """
    stored = dict(stack.variables) if stack else {}
    arrives = variables.arriving(stored, want.default) if stored else {}
    values, encoded, unfit, replaced = dict(want.variables), {}, [], []
    for name, value in want.variables.items():
        if arrives is not None and arrives.get(name) == value:
            encoded[name] = stored[name]
            continue
        if name in stored:
            replaced.append(name)
        try:
            encoded[name] = variables.to_send(name, value)
        except Refused as error:
            unfit.append(error.sentence)
    for name in want.file.required:
        if name not in values and (had := (arrives or {}).get(name)):
            values[name], encoded[name] = had, stored[name]
    want = replace(want, variables=values, encoded=encoded, unfit=tuple(unfit), replaced=tuple(replaced))
    return _read(context, want, all_variables(want, stack))


def _read(context: Context, want: Wanted, sent: Mapping[str, str]) -> Wanted:
    """``want`` with what Compose makes of the file with the very environment file that Portainer will write.

    Not asked about a file that the policy does not let it read, nor with values that are refused anyhow.
    """
    if compose_policy.unread(want.file.tree) or want.unfit:
        return replace(want, config={}, problem="")
    read = variables.resolve(want.file.text, sent, context.site.portainer.stack, want.default)
    return replace(want, config=read.config, problem=read.problem)


def as_stored(context: Context, want: Wanted, stack: Stack) -> Wanted:
    """``want`` with the variables that a stack had: what going back goes back to."""
    values = _stored(want, stack)
    return _read(
        context,
        replace(want, variables=values, encoded=dict(stack.variables), unfit=(), replaced=(), alone=True),
        stack.variables,
    )


def _stored(want: Wanted, stack: Stack) -> dict[str, str]:
    """The value that a container gets of each variable that a stack has."""
    arrives = variables.arriving(stack.variables, want.default) or {}
    return {name: arrives.get(name, raw) for name, raw in stack.variables.items()}


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
    own = of_service(rows, name, compose_file.SERVICE)
    others = [row for row in rows if row not in own]
    container = own[0] if own else None
    image = want.file.image
    ask = up and image.is_pinned  # an engine answers 400 to a digest that cannot be one; the file's mistakes name it
    here = ask and server.image(str(image)) is not None
    info = server.info() if up else {}
    is_running = container is not None and container.get("State") == "running"
    stack = server.stack(name)
    found = server.container(container["Id"]) if container else None
    way_back = _way_back(context, stack, found)
    left = name_of(own[1]) if len(own) > 1 and left_over(found, own[1], seconds_at(info.get("SystemTime"))) else ""
    refused, stored_in_use = _keys_in_use(context, want, stack) if is_running and stack is not None else ((), True)
    return Situation(
        version=server.version,
        role=int(server.user().get("Role") or 0),
        environment_up=up,
        stack=stack,
        container=found,
        others=others,
        others_memory=sum(server.memory_used(row["Id"]) for row in others if row.get("State") == "running"),
        volumes={m.volume: server.volume(m.volume) for m in want.file.mounts if m.volume} if up else {},
        image_here=here,
        image_problem=None if here or not ask else server.in_registry(f"{image.name}@{image.digest}"),
        port_answers=not is_running and _answers(site.qdrant.new_url),
        cores=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        compose_says=_compose_says(want, name),
        way_back=way_back,
        users="" if way_back else serving.why_new_may_serve(context),
        replacing=name_of(own[1]) if len(own) > 1 and is_running and not left else "",
        left_over=left,
        refused=refused,
        stored_in_use=stored_in_use,
    )


def _compose_says(want: Wanted, project: str) -> str | None:
    """What Compose has against the file with what Portainer will be sent; None where it accepts it."""
    if not want.config:
        return want.problem or compose_file.compose_says(want.file.text, compose_policy.PLACEHOLDERS, project)
    gets = (want.config["services"].get(compose_file.SERVICE) or {}).get("environment") or {}
    for caller, setting in access.SETTINGS.items():
        name = access.KEYS[caller]
        if setting in gets and name in want.variables and gets[setting] != want.variables[name]:
            return f"the container would not get {name} as it is"
    return None


def _keys_in_use(context: Context, want: Wanted, stack: Stack) -> tuple[tuple[str, ...], bool]:
    """(variables whose wanted value is not the running server's, whether it takes those that Portainer has).

    Keys that change places open it as well, but not with the same right, or in the place of one that Portainer has. A server that
    does not answer takes none, which says nothing about its keys: then what Portainer has is taken for it.
    """
    stored = _stored(want, stack)
    server = new_server(context)
    refused, in_use = [], True
    try:
        for caller, name in access.KEYS.items():
            meant = access.Right.READS if caller is access.Caller.READ_ONLY else access.Right.WRITES
            value, had = want.variables.get(name), stored.get(name)
            now = _right(server, name, value)
            was = now if had == value else _right(server, name, had)
            if value and (now not in {meant, access.Right.WRITES} or (had != value and was is meant)):
                refused.append(name)
            in_use = in_use and (not had or was in {meant, access.Right.WRITES})
    except (Unreachable, access.CannotTell):
        return want.replaced, True
    return tuple(refused), in_use


def _right(server: Qdrant, name: str, value: str | None) -> access.Right:
    return access.right_of(server, value) if value and not variables.unfit(name, value) else access.Right.OUT


def new_server(context: Context) -> Qdrant:
    """The new server, asked without waiting long: it may just be starting."""
    return Qdrant(context.site.qdrant.new_url, context.guard, name="Qdrant", timeout=(3.0, 5.0))


def _way_back(context: Context, stack: Stack | None, container: Mapping[str, Any] | None) -> bool:
    """Whether a deployment that fails can be taken back to what runs healthily now; True where nothing does."""
    if stack is None or not healthy(container) or not stack.commit or context.credentials.get("GIT_TOKEN"):
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


def see(context: Context, want: Wanted) -> Deployed:
    """Look at the stack, its container and Qdrant itself; changes nothing."""
    server, name = context.portainer, context.site.portainer.stack
    stack = server.stack(name)
    if stack is None:
        return Deployed(None, None, None, (), "there is no stack", "")
    try:
        text = server.stack_file(stack)
    except Answered:
        text = None  # Portainer has not fetched it yet
    rows = of_service(server.containers(name), name, compose_file.SERVICE)
    container = server.container(rows[0]["Id"]) if rows else None
    digests: Sequence[str] = ()
    differs: Sequence[str] = ()
    if container is not None:
        image = server.image(container["Image"]) or {}
        digests = tuple(image.get("RepoDigests") or ())
        differs = running.differences(want.config, compose_file.SERVICE, container, image) if want.config else ()
    return Deployed(
        stack,
        text,
        container,
        digests,
        qdrant_answers(context, want.version, want.variables) if container is not None else "there is no container",
        name_of(rows[1]) if len(rows) > 1 and not _left_over(context, container, rows[1]) else "",
        tuple(differs),
    )


def _left_over(context: Context, container: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    return left_over(container, other, seconds_at(context.portainer.info().get("SystemTime")))


def qdrant_answers(context: Context, version: str, given: Mapping[str, str] | None = None) -> str:
    """Empty where Qdrant answers with this version and lets in exactly who is meant; else what is wrong, a clause.

    Every key is tried, and what a key becomes when somebody reads it in his own way. ``given``: keys by variable, where they are
    not those of this command's environment.
    """
    url = context.site.qdrant.new_url
    keys = Credentials({name: value for name in access.KEYS.values() if (value := _key(context, given, name))})
    server = new_server(context)
    try:
        told = server.answer_to("GET", "/", key=None).json()
        if told.get("version") != version:
            return f"Qdrant is version {told.get('version')}, not {version}"
        if context.site.qdrant.access == "keys":
            key = keys.get("QDRANT_READ_ONLY_API_KEY") or keys.need("QDRANT_API_KEY")
            status = server.answer_to("GET", "/collections", key=key).status_code
            if status != 200:
                return f"Qdrant answers {status} to its key"
            if server.answer_to("GET", "/collections", key=None).status_code not in {401, 403}:
                return "Qdrant answers without a key"
        return access.shortfall(server, context.site, keys)
    except Unreachable as error:
        return f"Qdrant does not answer ({error.sentence.rstrip('.')})"
    except access.CannotTell as error:
        return error.sentence.rstrip(".")
    except (ValueError, AttributeError):
        return f"{url} does not answer like Qdrant"


def _key(context: Context, given: Mapping[str, str] | None, name: str) -> str | None:
    return (given or {}).get(name) or (context.credentials.get(name) if not given else None)


def our_volumes(context: Context) -> list[str]:
    """The volumes that belong to the stack, whether or not it is there."""
    name = context.site.portainer.stack
    return sorted(v["Name"] for v in context.portainer.volumes() if (v.get("Labels") or {}).get(PROJECT) == name)
