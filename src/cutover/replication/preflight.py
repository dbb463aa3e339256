"""What speaks against copying and moving, found before anything starts; every reason at once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import Refused, Unreachable
from cutover.core.http import NotLike
from cutover.core.threads import side_by_side
from cutover.qdrant import access, limits, releases
from cutover.qdrant.client import NotThere, Qdrant
from cutover.replication import left_behind

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.core.journal import Entry


def refuse_unsafe(context: Context) -> None:
    """Refused, with every reason, where something cannot be moved safely."""
    if events.finished(context.journal.entries(), "deploy") is None:
        _refuse_undeployed(context.new)
    version = _need_same_version(context.old, context.new)
    if bad := releases.known_bad(version):
        raise Refused(bad, "Upgrade both servers one minor release at a time first.")
    if careful := releases.warning(version):
        context.ui.say(careful)
    refuse_other_access(context)
    reasons = unsafe(context)
    if reasons:
        raise Refused(f"Not begun: {'; '.join(reasons)}.", "Remove these reasons first; nothing was changed.")


def _refuse_undeployed(new: Qdrant) -> None:
    """Refused where nobody answers at the new server's address, or something that is no Qdrant; it was not deployed yet."""
    try:
        new.version()
    except NotLike as error:
        raise Refused(
            f"{error.sentence.rstrip('.')}, and it was not deployed yet.",
            f"Find out what answers at {new.url}: `cutover deploy` does not begin while it is there.",
        ) from None
    except Unreachable:
        raise Refused(
            f"{new.name.capitalize()} does not answer at {new.url}, and it was not deployed yet.", "`cutover deploy` starts it."
        ) from None


def refuse_other_access(context: Context) -> None:
    """Refused where applications would not be let in by the new server as by the old one."""
    found = access.objections_now(context.old, context.new, context.site, context.credentials)
    access.refuse(found, doing="Nothing was copied")


def unsafe(context: Context) -> list[str]:
    """Every reason against moving, in words."""
    reasons: list[str] = []
    if context.site.qdrant.access == "keys" and context.credentials.get("QDRANT_READ_ONLY_API_KEY") is None:
        reasons.append("there is no read-only key (QDRANT_READ_ONLY_API_KEY), with which the new server fetches the snapshots")
    servers = [context.old, *([context.new] if _answers(context.new) else [])]
    clustered = [s.name for s in servers if (s.ask("GET", "/cluster") or {}).get("status") == "enabled"]
    reasons += [f"{name} is part of a cluster, which this tool does not move" for name in clustered]
    for found in side_by_side([partial(_unmovable, context.old, name) for name in context.old.collections()]):
        reasons += found
    grpc = left_behind.watch_grpc(context.old, context.site.limits.bypass_watch_seconds, writes=True)
    if grpc.uses:
        counted = ", ".join(map(str, grpc.uses))
        reasons.append(f"applications write to {context.old.name} through gRPC ({counted} within {grpc.seconds:.0f} s)")
    strangers = sorted(set(context.new.collections()) - ours(context)) if context.new in servers else []
    if strangers:
        reasons.append(f"{context.new.name} already has data that this tool did not copy: {', '.join(strangers)}")
    return reasons


def _unmovable(server: Qdrant, name: str) -> list[str]:
    with suppress(NotThere):  # deleted meanwhile
        return limits.reasons_against(name, server.info(name), server.shard_keys(name))
    return []


def _answers(server: Qdrant) -> bool:
    """Whether the server runs; before the deployment the new one does not."""
    try:
        server.version()
    except Unreachable:
        return False
    return True


#: How the acts end that bring a collection to the new server.
_COPIES = (".make-empty", ".recover")


def ours(context: Context) -> set[str]:
    """Collections on the new server that this tool made there, finished or not, and has not removed again."""
    found: set[str] = set()
    begun: dict[int | None, Entry] = {}
    for entry in context.journal.entries():
        if entry.kind == "intent":
            begun[entry.seq] = entry
            if entry.act.endswith(_COPIES):
                found.add(entry.before["collection"])
        elif entry.of in begun and _left_nothing(begun[entry.of], entry, context.new.name):
            # Whatever has this name from now on is somebody else's.
            found.discard(begun[entry.of].before["collection"])
    return found


def _left_nothing(intent: Entry, outcome: Entry, server: str) -> bool:
    """Whether an act ended with a collection not being on a server, as was seen."""
    if intent.act == "copy.remove":
        return outcome.kind == "done"
    if not isinstance(intent.before, dict) or intent.before.get("on") != server:
        return False
    if intent.act.endswith(".remove-part"):
        return outcome.kind == "done"
    return intent.act.endswith(_COPIES) and outcome.kind == "failed" and (outcome.after or {}).get("absent") is True


def copied(context: Context) -> set[str]:
    """Collections whose copy is complete and was begun after recording."""
    found: set[str] = set()
    for entry in context.journal.entries():
        if entry.act in {events.COPY_BEGUN, events.COPY_UNDONE}:
            found.clear()
        elif entry.act == events.COPIED:
            found.add(entry.extra["collection"])
    return found


def _need_same_version(old: Qdrant, new: Qdrant) -> str:
    """The release both servers run; Refused when they differ: a snapshot of one may not be readable by the other."""
    mine, theirs = old.version(), new.version()
    if mine != theirs:
        raise Refused(
            f"{old.name} runs Qdrant {mine}, {new.name} runs {theirs}.",
            "Run the same release on both, move, and upgrade afterwards.",
        )
    return mine
