"""The proof that both servers hold the same: of everything while applications write, and of what was touched inside a hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

from cutover.core.threads import side_by_side
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.qdrant import compare, schema
from cutover.qdrant.affected import PointId
from cutover.qdrant.client import NotThere
from cutover.qdrant.compare import Difference
from cutover.replication.follower import Follower, Round

#: So long it is waited for what is only being written, seconds.
SETTLE = 5.0
#: After this many rounds without a recorded write a difference is real.
QUIET_ROUNDS = 4
#: Of more collections that were written to while writes were held, settings are not read once more, because a change of them is
#: recorded, and records are not counted, because all were compared and what was written since is.
FEW = 8
#: It goes on while a round is about at most this share of the collections that the one before was about.
SHRINKING = 0.8


def prove_everything(
    following: Follower,
    *,
    since: Mapping[str, set[PointId]] | None = None,
    progress: Callable[[str, int], Any] = lambda _name, _count: nullcontext(lambda _done: None),
    give_way: Callable[[], None] = lambda: None,
) -> tuple[list[compare.Compared], list[Difference]]:
    """Compare everything bit by bit while applications go on writing.

    Records that differ because they are being written at this moment are among the recorded ones and are brought over by
    the next rounds; what still differs after :data:`SETTLE` seconds without being written is a real difference. Returns what
    was compared and the real differences; nothing is repaired except by following. ``progress(what, records)`` is
    a context manager that gives a function to call with the number of records compared; ``give_way`` is called between pages.

    ``since``: collections that were compared before, so of their records only these are; names and aliases all the same, and
    settings and indexes of those where they were changed since, or never compared.
    """
    source, target, proofs = following.source, following.target, following.position.proofs
    names = [name for name in source.collections() if name not in (since or {})]
    there = compare.counts_of(source, names)
    compared: list[compare.Compared] = []
    # What has to be seen to be the same. Of records that were only written no difference is known yet.
    open_: dict[str, dict[PointId, Difference]] = {
        name: {one: Difference("payload", name, one) for one in several} for name, several in (since or {}).items()
    }
    with progress(names[0] if len(names) == 1 else f"{len(names)} collections", sum(there.values())) as advance:

        def go_on(records: int) -> None:
            advance(records)
            give_way()

        # One that is gone by now is named by the comparison of the schemas.
        for one in compare.compare_collections(source, target, there, advance=go_on):
            compared.append(one)
            if one.count > len(one.differences):
                return compared, one.differences
            open_[one.collection] = {d.where: d for d in one.differences}

    quiet = 0
    seen: list[Difference] | None = None
    rest: list[Difference] = []

    def settled() -> list[Difference] | Not:
        nonlocal quiet, seen, rest
        followed = following.round()
        quiet = 0 if followed.lines else quiet + 1
        for name, wrong in open_.items():
            if seen is not None or name not in (since or {}):
                for one in followed.ids.get(name, set()):
                    wrong.pop(one, None)
        waiting = [name for name, wrong in open_.items() if wrong]
        looks = [partial(compare.compare_ids, source, target, n, list(open_[n]), size=following.learnt(n)) for n in waiting]
        for name, left in zip(waiting, side_by_side(looks), strict=True):
            # Where the collection is gone by now, the comparison of the schemas names it.
            open_[name] = {d.where: d for d in not_left_out(following, left) if d.kind != "collection"}
        # After the first look only what differed then, or was changed since, can differ.
        known = proofs.settled & {*(since or {})}
        again = {*_about(seen or ()), *followed.changed}
        now = _compare_schemas(following, lambda name: name not in known if seen is None else name in again)
        # A collection that lives for a moment is on one server only, and at every look another one: what was changed
        # since the look before is no difference yet.
        lasting = [d for d in now if seen is None or (d in seen and not _explained(d, followed))]
        first, seen = seen is None, now
        rest = [d for wrong in open_.values() for d in wrong.values()] + lasting
        # Where nobody writes, a difference does not go away by waiting.
        return Not(compare.summary(rest)) if rest and (first or quiet < QUIET_ROUNDS) else rest

    with suppress(TimedOut):
        # Where nothing differs there is nothing to wait for: the first look ends it.
        wait_until(settled, deadline=SETTLE, what="The same data on both servers", every=0.3)
    if not rest:
        following.changed.clear()
        proofs.same_settings({*there, *(since or {})} - {*_about(seen or ())})
    return compared, rest


def prove_quickly(following: Follower, ids: Mapping[str, set[PointId]], *, counts: bool, timeout: float) -> list[Difference]:
    """The proof inside a hold: the touched records bit by bit, names, aliases, and of what was touched since everything was
    compared the settings and (``counts``) exact counts. How many collections or records there are does not matter. Where many
    collections were written to (:data:`FEW`), only such settings are compared as were changed since everything was.
    """
    limit = (2.0, timeout)
    chosen = {name: set(several) for name, several in ids.items() if several}
    for name, several in following.recent.items():
        chosen.setdefault(name, set()).update(several)

    def names() -> list[Difference]:
        return _compare_names(following)[0]

    def records(name: str) -> list[Difference]:
        found = compare.compare_ids(
            following.source, following.target, name, chosen[name], size=following.learnt(name), timeout=limit
        )
        return not_left_out(following, found)

    def numbers(name: str) -> list[Difference]:
        return compare.compare_counts(following.source, following.target, [name], timeout=limit)

    tasks: list[Callable[[], list[Difference]]] = [names]
    settings = {*following.changed, *(ids if len(ids) <= FEW else ())}
    tasks += [partial(compare_settings, following, [name]) for name in sorted(settings)]
    tasks += [partial(records, name) for name in chosen]
    # What is left out may be missing, and then it counts.
    tasks += [partial(numbers, name) for name in chosen if counts and name not in following.position.left_out]
    return [d for found in side_by_side(tasks) for d in found]


def few(following: Follower, ids: Mapping[str, set[PointId]]) -> bool:
    """Whether what a hold is about, these records and what was brought over right before it, is in few collections."""
    return len({*ids, *following.recent}) <= FEW


def shorten_the_hold(following: Follower) -> Round:
    """Compare what was brought over lately, and bring over what was written meanwhile, so that neither need be in the hold.

    Once is enough where few collections are written to. Each of many costs its questions, so it is done again as long as fewer
    were written to meanwhile. Returns the last round, which the hold compares, and what is written in it.
    """
    before = float("inf")
    while True:
        prove_recent(following)
        last = following.round()
        if len(last.ids) <= FEW or len(last.ids) > SHRINKING * before:
            return last
        before = len(last.ids)


def prove_recent(following: Follower) -> None:
    """Compare what was brought over lately before a hold begins, so that it need not be in it: a hold is short for large records.

    What differs stays; whatever is written from now on is recorded, and is looked at in the hold.
    """

    def one(name: str, several: set[PointId]) -> set[PointId]:
        try:
            found = compare.compare_ids(following.source, following.target, name, several, size=following.learnt(name))
        except NotThere:  # it was deleted meanwhile; the log will say so
            return set()
        return several - {d.where for d in found}

    recent = following.recent
    same = side_by_side([partial(one, name, several) for name, several in recent.items()])
    for name, ids in zip(recent, same, strict=True):
        following.proved(name, ids)


def _compare_names(following: Follower) -> tuple[list[Difference], list[str]]:
    """How names and aliases differ; and the collections that both have."""
    both = side_by_side([ask for s in (following.source, following.target) for ask in (s.collections, s.aliases)])
    (mine, my_aliases), (theirs, their_aliases) = both[:2], both[2:]
    return schema.compare_names(mine, my_aliases, theirs, their_aliases), sorted({*mine} & {*theirs})


def compare_settings(following: Follower, names: Sequence[str]) -> list[Difference]:
    """How the settings and payload indexes of collections differ now."""
    servers = (following.source, following.target)
    mine, theirs = side_by_side([partial(schema.schema_of, s, names, aliases=False) for s in servers])
    for name, config in mine.config.items():
        following.learn(name, config)
    return schema.compare_schemas(mine, theirs)


def _compare_schemas(following: Follower, asked: Callable[[str], bool]) -> list[Difference]:
    """How both differ in names and aliases, and in settings and indexes of the collections that are ``asked`` for."""
    differences, both = _compare_names(following)
    return differences + compare_settings(following, [name for name in both if asked(name)])


def not_left_out(following: Follower, differences: Iterable[Difference]) -> list[Difference]:
    left = {(name, one) for name, several in following.position.left_out.items() for one, _ in several}
    return [d for d in differences if (d.collection, d.where) not in left]


def _about(differences: Iterable[Difference]) -> Iterator[str]:
    """The collections whose settings differ, or that are on one server only."""
    return (d.collection or str(d.where) for d in differences)


def _explained(difference: Difference, followed: Round) -> bool:
    """Whether a round brought over a change of what differs in settings, indexes, aliases, or in being there at all."""
    if difference.kind == "alias":
        return followed.schema
    name = difference.collection if difference.kind != "collection" else difference.where
    return name in followed.changed
