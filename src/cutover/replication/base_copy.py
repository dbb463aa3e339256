"""The copy of one collection as it is, with its built search index: what following then goes on from.

Copied record by record a collection would lose its search index, which takes longest to build; so it is copied by snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError, Failed
from cutover.qdrant import snapshots
from cutover.qdrant.client import Answered, NotThere, Qdrant
from cutover.replication import schema

if TYPE_CHECKING:
    from cutover.context import Context

#: How often a collection is copied that is made anew, or gets other settings, while it is copied.
ATTEMPTS = 5


def base_copy(
    context: Context, verb: str, source: Qdrant, target: Qdrant, name: str, give_way: Callable[[], None] = lambda: None
) -> dict[str, Any] | None:
    """Copy one collection by snapshots into an absent collection; a part that an interrupted copy left is removed first.

    The collection is made empty, with its settings and payload indexes, and each of its shards is filled from a snapshot of that
    shard: while one of the whole collection is taken, Qdrant lets nobody write (seen for 70 ms). Only where it cannot be made the
    same in that way the whole one is taken, which brings what it has. The target fetches each snapshot itself, with the source's
    read-only key; Qdrant checks the checksum. The snapshots are removed from the source afterwards. None where the collection was
    deleted meanwhile: then it is gone on the target as well. Where it was deleted and made anew the new one is copied.

    ``give_way`` waits while applications are served too slowly: between taking a snapshot and fetching it, the two parts of a
    copy that are work for the source. Within each of them the servers work by themselves, and nobody can tell them to wait.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _base_copy(context, verb, source, target, name, give_way)
        except CutoverError as error:
            if name not in source.collections():
                _remove_part(context, verb, source, target, name)
                context.ui.say(f"{name} was deleted on {source.name} meanwhile.")
                return None
            if attempt == ATTEMPTS or not isinstance(error, (NotThere, _Otherwise)):
                raise
    raise AssertionError


class _Otherwise(Failed):
    """The collection is not any more what it was when its copy was begun."""


def _remove_part(context: Context, verb: str, source: Qdrant, target: Qdrant, name: str) -> None:
    if name in target.collections():
        before = {"collection": name, "on": target.name}
        with context.guard.act(f"{verb}.remove-part", f"Remove the unfinished copy of {name} on {target.name}", before=before):
            target.delete_collection(name)
    elif name in target.aliases():
        with context.guard.act(
            f"{verb}.remove-alias", f"Remove the alias {name} on {target.name}; {source.name} has a collection"
        ):
            target.free_name(name)


def _base_copy(
    context: Context, verb: str, source: Qdrant, target: Qdrant, name: str, give_way: Callable[[], None]
) -> dict[str, Any]:
    _remove_part(context, verb, source, target, name)
    began, taking, size = time.monotonic(), 0.0, 0
    mine, shards = source.info(name), source.shards(name)
    with _copying(context, f"{verb}.make-empty", f"Make {name} on {target.name}, empty", source, target, name):
        why = schema.make_alike(mine, shards, target, name)
    parts: list[int | None] = [*shards]
    if why:
        context.ui.say(f"{name} is copied by one snapshot of all of it, which delays writes to it for a moment: {why}.")
        _remove_part(context, verb, source, target, name)
        parts = [None]
    for shard in parts:
        at = time.monotonic()
        with snapshots.taken(context, verb, source, name, shard) as taken:
            taking += time.monotonic() - at
            size += taken.size
            give_way()
            what = f"Recover {taken} on {target.name}"
            try:
                if source.info(name)["config"] != mine["config"]:
                    raise _Otherwise(f"The settings of {name} were changed while it was copied.", "Run `copy` again.")
                with _copying(context, f"{verb}.recover", what, source, target, name):
                    target.recover(
                        name,
                        source.snapshot_url(name, taken.name, shard),
                        shard=shard,
                        checksum=taken.checksum,
                        source_key=context.credentials.get("QDRANT_READ_ONLY_API_KEY"),
                    )
            except Failed as error:
                # With the collection its snapshots go; whoever lists this one no more was made anew.
                if taken.name not in source.snapshot_names(name, shard):
                    raise _Otherwise(error.sentence, error.hint) from error
                raise
    seconds = time.monotonic() - began
    context.ui.say(f"{name} was copied ({size / 1e6:.1f} MB in {seconds:.1f} s).")
    return {"bytes": size, "snapshot_seconds": round(taking, 3), "seconds": round(seconds, 3)}


@contextmanager
def _copying(context: Context, act: str, what: str, source: Qdrant, target: Qdrant, name: str) -> Iterator[None]:
    """A step of the copy of a collection, which is ours from here on unless it is seen that it left nothing."""
    with context.guard.act(act, what, before={"collection": name, "absent": True, "on": target.name}) as done:
        try:
            yield
        except CutoverError as error:
            if isinstance(error, Answered):  # else it may still be at work
                with suppress(CutoverError):
                    done.after = {"collection": name, "absent": name not in target.collections()}
            raise Failed(
                f"{name} could not be copied to {target.name}: {error.sentence}",
                f"{source.name} serves, nothing was moved. Remove the reason and run `copy` again.",
            ) from error
        done.after = {"collection": name}
