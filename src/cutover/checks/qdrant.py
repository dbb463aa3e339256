"""Checks about the records: that nobody writes past Nginx, that both servers are alike, that nothing stands against the move,
and that both hold, and answer, the same. They only read; where a comparison finds records that are being written at this moment
it asks again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import CutoverError, Unreachable
from cutover.core.threads import side_by_side
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate.interface import OTHER, Side
from cutover.qdrant import compare, limits, releases, schema
from cutover.qdrant.affected import PointId, affected_by
from cutover.qdrant.client import Answered, NotThere, Qdrant, points_of
from cutover.qdrant.looking import look_through, some
from cutover.qdrant.pages import Limits
from cutover.qdrant.ranking import Scored, same_ranking
from cutover.qdrant.records import NO_NUMBER
from cutover.replication import bypass, left_behind, switchover, watch
from cutover.replication.position import Position
from cutover.replication.preflight import unsafe
from cutover.state import status as state

if TYPE_CHECKING:
    from cutover.context import Context

#: Records of each collection that are looked up and searched through Nginx.
SAMPLE = 20
#: Seconds within which a record that is being written must have become the same.
SETTLE = 5.0
#: How long a check looks through the records for such as cannot be written back one by one.
LOOK_SECONDS = 20.0


def _restarted(name: str) -> Finding:
    return Finding(None, f"{name.capitalize()} was restarted during the watch.", "Ask again.")


# -- A4 ---------------------------------------------------------------------------------------------------------------
@check("A4", "No application uses gRPC, which Nginx cannot record and does not pass on", moments={Moment.BEFORE})
def no_grpc(context: Context) -> Finding:
    """Watches the old server's gRPC counters for ``limits.bypass_watch_seconds``, where there ever was a gRPC request."""
    since = context.old.telemetry()["app"].get("startup", "its start")
    try:
        seen = left_behind.watch_grpc(context.old, context.site.limits.bypass_watch_seconds)
    except bypass.Restarted:
        return _restarted(context.old.name)
    limit = "Who reads the old server by its own address is seen after the switch only: `status` and D5 look for that."
    if not seen.seconds:
        return Finding(True, f"{context.old.name.capitalize()} has answered no gRPC request since {since}. {limit}")
    if not seen.uses:
        last = f"; the last one was answered at {seen.last}" if seen.last else ""
        return Finding(
            True,
            f"Nobody used gRPC on {context.old.name} within {seen.seconds:.0f} s; it was used since {since}{last}. {limit}",
        )
    return Finding(
        False,
        f"Within {seen.seconds:.0f} s applications used gRPC on {context.old.name}: {', '.join(map(str, seen.uses))}.",
        "Move them to REST through Nginx, or stop them: what they write is not recorded, and after the switch they would go on "
        "reading the old data.",
        facts={use.route: use.count for use in seen.uses},
    )


@check("A4", "Every write passes the gate", moments={Moment.AT_SWITCH, Moment.AFTER})
def no_bypass(context: Context) -> Finding:
    """Watches both servers' request counters for ``limits.bypass_watch_seconds``."""
    if not context.gate.state().recording:
        return Finding(None, "Writes are not recorded, so nobody can say which of them passed Nginx.", "`copy` turns that on.")
    if (watched := watch.last_seen(context)) is not None:  # what that writes would be taken for somebody's
        said = watched.wrong.get("bypass", "")
        return Finding(not said, said or "`follow --watch`, which is running, finds that every write had passed Nginx.")
    watches = [
        (bypass.Watch(context.gate, switchover.server(context, side), side), switchover.server(context, side).name)
        for side in _SIDES
    ]
    seconds = context.site.limits.bypass_watch_seconds
    time.sleep(seconds)  # the length of the watch is the fact
    found = []
    for one_watch, name in watches:
        try:
            found += [f"{name}: {one}" for one in one_watch.look()]
        except bypass.Restarted:
            return _restarted(name)
    if found:
        return Finding(
            False,
            f"Within {seconds:g} s somebody wrote without going through Nginx: {'; '.join(found)}.",
            "Point these writers to Nginx, or stop them.",
        )
    return Finding(True, f"Within {seconds:g} s every write on both servers had passed Nginx.")


_SIDES: tuple[Side, Side] = ("old", "new")


# -- D5 ---------------------------------------------------------------------------------------------------------------
@check("D5", "Nobody uses the server that was left behind", moments={Moment.AFTER, Moment.BEFORE_DELETING})
def left_alone(context: Context) -> Finding:
    """Watches the old server's counters for ``limits.bypass_watch_seconds``; monitoring, and who is turned away, do not count."""
    old = context.old
    if context.gate.state().side != "new":
        return Finding(
            None, f"{old.name.capitalize()} serves: whoever uses it by its own address cannot be told from the others."
        )
    if (watched := watch.last_seen(context)) is not None:  # what that reads would be taken for somebody's
        said = watched.wrong.get("used", "")
        return Finding(
            not said, said or f"`follow --watch`, which is running, sees nobody use {old.name}.", left_behind.HOW_TO_FIND
        )
    try:
        seen = left_behind.watch(old, context.site.limits.bypass_watch_seconds)
    except bypass.Restarted:
        return _restarted(old.name)
    if seen.silent:
        return Finding(True, f"{old.name.capitalize()} does not answer, so nobody uses it.")
    if said := left_behind.sentence(old.name, seen):
        return Finding(False, f"{said}.", left_behind.HOW_TO_FIND, {use.route: use.count for use in seen.uses})
    return Finding(True, f"Within {seen.seconds:.0f} s nobody but this tool used {old.name}, neither by REST nor by gRPC.")


# -- A5, A7 -----------------------------------------------------------------------------------------------------------
@check("A5", "Both servers are the same release and configured alike", moments={Moment.BEFORE, Moment.AT_SWITCH})
def alike(context: Context) -> Finding:
    """Compares releases and what telemetry shows of the configuration."""
    old, pinned = context.old.version(), context.site.qdrant.version
    if bad := releases.known_bad(old):
        return Finding(False, bad, "Upgrade the old server one minor release at a time first.")
    careful = f" {said}" if (said := releases.warning(old)) else ""
    try:
        new = context.new.version()
    except Unreachable:
        if old != pinned:
            return Finding(
                False,
                f"{context.old.name.capitalize()} runs Qdrant {old}; the stack would run {pinned}.",
                "Pin the release of the old server, move, and upgrade afterwards.",
            )
        return Finding(
            True,
            f"{context.old.name.capitalize()} runs Qdrant {old}, which the stack pins; the new one does not run yet.{careful}",
        )
    if old != new:
        return Finding(
            False,
            f"{context.old.name.capitalize()} runs Qdrant {old}, {context.new.name} runs {new}.",
            "Run the same release on both, move, and upgrade afterwards.",
        )
    differing = limits.defaults_differ(context.old.telemetry(), context.new.telemetry())
    most = [server.largest_body() for server in (context.old, context.new)]
    if None not in most and most[0] != most[1]:
        differing.append(f"largest request (max_request_size_mb): {most[0]} and {most[1]} bytes")
    if differing:
        return Finding(
            False, f"The servers are configured differently: {'; '.join(differing)}.", "Give both the same configuration."
        )
    unseen = "what new collections get where they leave it open (strict mode, storage), keys that this tool was not given"
    if None in most:
        unseen += ", the largest request"
    return Finding(
        True, f"Both servers run Qdrant {old} and are configured alike, as far as they say. Not compared: {unseen}.{careful}"
    )


@check("A7", "Nothing stands against the move", moments={Moment.BEFORE})
def movable_data(context: Context) -> Finding:
    """Names everything that cannot be moved safely."""
    reasons = unsafe(context) + no_room(context)
    if reasons:
        return Finding(False, f"This cannot be moved safely: {'; '.join(reasons)}.", "Remove these reasons before beginning.")
    names = context.old.collections()
    odd, unreadable, seen = odd_records(context.old, names)
    if unreadable:
        hint = f"Delete those records, or overwrite their payload; a restart of {context.old.name} may fail because of them, too."
        return Finding(False, " ".join(unreadable), hint)
    said = f"All {len(names)} collections of {context.old.name} can be moved: {_named(names) or 'none'}."
    return Finding(True, " ".join([said, *odd, seen]).strip(), facts={"only_by_snapshot": odd} if odd else {})


def odd_records(server: Qdrant, names: Sequence[str], seconds: float = LOOK_SECONDS) -> tuple[list[str], list[str], str]:
    """Records that can be brought only by a snapshot, or only in parts; those that nothing brings, because the server cannot read
    them; a sentence a collection. And how far was looked.
    """
    end, said, unreadable, cut = time.monotonic() + seconds, [], [], []
    for name in names:
        with suppress(NotThere):
            found = look_through(server, name, end)
            if found.unsayable:
                said.append(f"Only a snapshot brings {_ids(found.unsayable)} of {name}: {NO_NUMBER}.")
            if found.unreadable:
                unreadable.append(f"{server.name.capitalize()} cannot read the payload of {_ids(found.unreadable)} of {name}.")
            if found.large:
                shown = _ids(found.large)
                said.append(f"Larger than a request may be, and written in parts: {shown} of {name}.")
            if not found.whole:
                cut.append(f"{found.records} of {name}")
    seen = f"Within {seconds:g} s only these records were looked at: {_named(cut)}; `copy` looks at all of them." if cut else ""
    return said, unreadable, seen


def _named(names: Sequence[str], shown: int = 20) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def _ids(ids: Sequence[PointId], shown: int = 5) -> str:
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return f"record{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:shown]))}{more}"


def no_room(context: Context) -> list[str]:
    """That the new server's file system has too little room, as its guest agent sees it; empty where nobody can say."""
    try:
        vm, mount = context.site.guests.new, context.site.resize.mount_point
        answer = dict(context.proxmox.get(f"{context.proxmox.of(vm)}/agent/get-fsinfo")).get("result") or []
        system = next(fs for fs in answer if fs.get("mountpoint") == mount)
        free = int(system["total-bytes"]) - int(system["used-bytes"])
    except (CutoverError, StopIteration, KeyError, TypeError, ValueError):
        return []
    needed = sum(side_by_side([partial(_bytes_needed, context.old, name) for name in context.old.collections()]))
    if needed < free:
        return []
    return [f"{context.new.name} has {free / 1e9:.1f} GB free and the records need about {needed / 1e9:.1f} GB"]


def _bytes_needed(server: Qdrant, name: str) -> int:
    with suppress(NotThere):  # deleted meanwhile
        page = some(server, name, 100)
        return limits.bytes_needed(server.info(name), server.count(name), len(page) / 100)
    return 0


# -- C3, C5, E5 -------------------------------------------------------------------------------------------------------
@check("C3", "Both servers hold the same data, bit by bit", moments={Moment.AT_SWITCH, Moment.AFTER})
def same_data(context: Context) -> Finding:
    """Compares everything; what differs must be among the recorded writes that are still to be brought over."""
    side = context.gate.state().side
    source, target = switchover.server(context, side), switchover.server(context, OTHER[side])
    if not context.gate.state().recording:
        return Finding(None, f"Writes are not recorded, so nobody can say in what {target.name} may differ.")
    position = switchover.position(context, side)
    compared: list[compare.Compared] = []
    open_: dict[str, set[PointId]] = {}
    # One that lives for a moment is left out; the comparison of the schemas names it where that is not so.
    for one in compare.compare_collections(source, target, compare.counts_of(source, source.collections())):
        compared.append(one)
        open_[one.collection] = {d.where for d in one.differences}
    rest: list[compare.Difference] = []
    pending = 0

    def explained() -> bool | Not:
        nonlocal rest, pending
        due, anything = _due(context, position, side, source.aliases())
        rest = [
            d
            for name, ids in open_.items()
            for d in compare.compare_ids(source, target, name, ids)
            if d.where not in due.get(name, set()) and d.where not in {o for o, _ in position.left_out.get(name, [])}
        ]
        pending = sum(len(ids & due.get(name, set())) for name, ids in open_.items())
        if not anything:
            rest += schema.compare_schemas(schema.schema_of(source), schema.schema_of(target))
        return Not(compare.summary(rest)) if rest and not anything else True

    records = sum(c.records for c in compared)
    try:
        wait_until(explained, deadline=SETTLE, what="The same data on both servers", every=0.5)
    except TimedOut:
        return Finding(
            False,
            f"{source.name.capitalize()} and {target.name} differ: {compare.summary(rest)}.",
            "These differences are not among the recorded writes: somebody changed one server directly.",
        )
    waiting = f", but for {pending} with a recorded write that is still to be brought over" if pending else ""
    return Finding(True, f"{records} records in {len(compared)} collections are the same, bit by bit{waiting}.")


def _due(context: Context, position: Position, side: Side, aliases: Mapping[str, str]) -> tuple[dict[str, set[PointId]], bool]:
    """Ids of recorded writes that were not brought over yet; and whether one of them may have touched anything at all."""
    saved = Position.load(switchover.position_path(context)) or position  # another command may have followed meanwhile
    due: dict[str, set[PointId]] = {}
    anything = False
    lines = [e for e in context.gate.read_log(saved.offset) if e.side == side]
    for entry, body in context.gate.bodies(lines) if lines else ():
        found = affected_by(entry.method, entry.uri, body)
        due.setdefault(aliases.get(found.collection, found.collection), set()).update(found.ids)
        anything = anything or bool(found.filters or found.whole or found.schema or found.aliases)
    return due, anything


@check("C5", "The proof holds", moments={Moment.AT_SWITCH})
def proof_holds(context: Context) -> Finding:
    """The last comparison of everything found no difference, and the copy is being followed."""
    now = state.status(context)
    if now.state == "ready":
        return Finding(True, f"{now.reason.capitalize()}; the move compares everything once more.")
    return Finding(False, f"There is no proof: {now.state}, {now.reason}.", "Run `copy` until it ends with a proof.")


@check("E5", "The way back loses nothing", moments={Moment.AFTER})
def way_back(context: Context) -> Finding:
    """Everything written since the switch is on the old server or recorded."""
    now = state.status(context)
    if now.state != "watching":
        return Finding(None, f"There is no way back to look at: {now.state}, {now.reason}.")
    return Finding(True, now.now, facts={"behind_writes": now.behind_writes, "behind_seconds": now.behind_seconds})


# -- D1 ---------------------------------------------------------------------------------------------------------------
@check("D1", "Qdrant answers through Nginx with the same results", moments={Moment.BEFORE, Moment.AFTER})
def same_answers(context: Context) -> Finding:
    """Looks up and searches a sample of every collection through Nginx and at the servers that hold the same data."""
    direct = [context.old]
    try:
        context.new.version()
    except CutoverError:
        pass
    else:
        if context.gate.state().side == "new":
            direct = [context.new, context.old]
    names: dict[str, str] = {name: name for name in direct[0].collections()} | direct[0].aliases()

    def late(name: str) -> set[PointId] | None:
        """Records whose newest write the old server has yet to get; None: any may be among them."""
        due, anything = _due(context, switchover.position(context, "new"), "new", direct[0].aliases())
        return None if anything else due.get(names[name], set())

    recording = len(direct) > 1 and context.gate.state().recording

    def one(name: str) -> None:
        for server in direct:
            behind = server is context.old and recording
            if why := _answers_differ(context.public, server, name, late if behind else lambda _name: set()):
                raise _AnswersDiffer(why)  # and no other is begun

    try:
        side_by_side([partial(one, name) for name in sorted(names)])
    except _AnswersDiffer as found:
        return Finding(False, str(found), "Look which server Nginx asks, and whether both hold the same data (C3).")
    who = " and ".join(server.name for server in direct)
    return Finding(True, f"{len(names)} collections and aliases gave the same records and search results through Nginx as {who}.")


class _AnswersDiffer(Exception):
    """How, in a sentence."""


def _answers_differ(public: Qdrant, server: Qdrant, name: str, late: Callable[[str], set[PointId] | None]) -> str:
    """A sentence where the two answer differently and do not agree within SETTLE seconds; empty where they agree.

    Records that ``late`` names are left out: the server that does not serve gets them with the next round.
    """
    ids = server.sample(name, SAMPLE) or [r["id"] for r in points_of(some(server, name, SAMPLE))]
    if not ids:
        return ""
    random.shuffle(ids)
    allowed = Limits.of(server.info(name))

    def otherwise(mine: bytes, theirs: bytes, left_out: set[PointId]) -> str:
        if found := [d for d in compare.compare_answers(name, theirs, mine, ids) if d.where not in left_out]:
            return compare.summary(found, 3)
        asked = [i for i in ids if i not in left_out]
        for question in questions([r for r in points_of(theirs) if r["id"] in asked], asked, allowed):
            mine_ranked, theirs_ranked = (_scored(s.query(name, question)) for s in (public, server))
            if not same_answer(question, mine_ranked, theirs_ranked, allowed, limit=question["limit"]):
                return f"a search in {question.get('using') or 'its vectors'} ranks differently"
        return ""

    def same() -> bool | Not:
        mine, theirs = public.records(name, ids), server.records(name, ids)
        if not otherwise(mine, theirs, set()):
            return True
        # Asked after reading: a write that came in between is among the late ones. And of what differs only, because it is
        # found by reading all that was recorded.
        left_out = late(name)
        why = "" if left_out is None else otherwise(mine, theirs, left_out)
        return Not(why) if why else True

    try:
        wait_until(same, deadline=SETTLE, what="The same answer", every=0.25)
    except (TimedOut, Answered) as error:
        return f"{name} answers differently through Nginx than {server.name}: {error.sentence}"
    return ""


def same_answer(
    question: Mapping[str, Any], one: Sequence[Scored], other: Sequence[Scored], allowed: Limits, *, limit: int | None = None
) -> bool:
    """Whether two answers to a question are the same. ``limit``: how many were asked for; None where none could be cut off."""
    if question.get("using") not in allowed.idf:
        return same_ranking(one, other, limit=limit)
    # Two servers with the same records may count words of deleted ones differently; what is found is the same all the same.
    found = [{str(record) for record, _ in answer} for answer in (one, other)]
    return found[0] == found[1] or len(one) == len(other) == limit


def questions(records: list[dict[str, Any]], ids: list[PointId], allowed: Limits, most: int = 10) -> list[dict[str, Any]]:
    """One search per vector name, among these ids, for the first record that has that vector; as the collection's strict mode
    allows. Exact where it does: so few records are looked through one by one without it as well.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        vector = record.get("vector") or {}
        for name, one in vector.items() if isinstance(vector, dict) else [("", vector)]:
            question: dict[str, Any] = {
                "query": one,
                "filter": {"must": [{"has_id": ids[: allowed.condition]}]},
                "limit": min(most, allowed.query or most),
            }
            question |= {"params": {"exact": True}} if allowed.exact else {}
            found.setdefault(name, question | ({"using": name} if name else {}))
    return list(found.values())


def _scored(points: list[dict[str, Any]]) -> list[Scored]:
    return [(p["id"], p["score"]) for p in points]
