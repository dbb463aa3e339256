"""What the records on the Nginx host say of a server that is gone: what can be brought back, and what cannot be known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutover.core.journal import utc
from cutover.core.text import counted
from cutover.gate.write_log import Write
from cutover.qdrant.affected import Affected, NotUnderstood, affected_by
from cutover.replication.again import steps_of
from cutover.replication.late_writes import keep_lines
from cutover.replication.overlaps import Overlaps
from cutover.replication.position import Position, left_out
from cutover.replication.work import alias_moves

if TYPE_CHECKING:
    from cutover.context import Context

#: In the state folder: writes whose order nobody knows.
OVERLAPS = "replay-overlaps.jsonl"


@dataclass
class Account:
    """What can be brought back from the records, and what cannot be known of it. ``overlaps`` are (collection, id) in words."""

    writes: list[Write] = field(default_factory=list)
    since: float = 0.0
    unacknowledged: int = 0
    end: int = 0
    cannot: list[str] = field(default_factory=list)
    unsure: list[Write] = field(default_factory=list)
    """Writes that chose records by what they hold, where the old server may hold a later state of some records already, and it
    is not known of which."""
    left_out: list[str] = field(default_factory=list)
    """Records of which the old server never took the state that it should have, a phrase a collection."""
    #: What later looks go on with, so that overlaps across looks are found.
    seen: Overlaps = field(default_factory=Overlaps)

    @property
    def overlapping(self) -> list[Write]:
        """Writes whose order nobody knows, of this look and of those before it."""
        return self.seen.writes()

    @property
    def doubtful(self) -> list[Write]:
        """These, and the writes that may mean other records on the old server."""
        several = {write.offset: write for write in [*self.overlapping, *self.unsure]}
        return [several[offset] for offset in sorted(several)]

    @property
    def overlaps(self) -> list[str]:
        """What they overlap on."""
        return self.seen.names()

    @property
    def overlaps_shown(self) -> str:
        """The first of these, and how many there are more."""
        names = self.overlaps
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    def sentences(self, old: str, new: str) -> list[str]:
        """What an operator has to know before it is begun."""
        count = len(self.writes)
        are = "are" if count != 1 else "is"
        what = f"{counted(count, 'recorded write')} that {new} acknowledged since {utc(self.since)}"
        said = [f"{what} {are} sent to {old} once more, in the order in which they ended"]
        if self.overlapping:
            said.append(
                f"{len(self.overlapping)} of them were in flight at the same time as another on the same records, so their order "
                f"is not known: {self.overlaps_shown}"
            )
        if asked := self.seen.asked():
            said.append(
                f"{counted(asked, 'write')} were in flight together, and some of them chose their records by what they hold. "
                f"Around each {old} is asked whether the order matters; where it does, that in which they ended is kept, and "
                "the records are named"
            )
        if self.unsure:
            said.append(
                f"{counted(len(self.unsure), 'write')} chose records by what they hold, and {old} may hold a later state of some "
                "of them already, so they may mean other records there"
            )
        if self.left_out:
            never = "; ".join(self.left_out)
            said.append(f"{old.capitalize()} never took {never}, so of these it gets only what was written since")
        if self.unacknowledged:
            said.append(f"{counted(self.unacknowledged, 'write')} left out, because they were never acknowledged")
        said.append(f"Nothing can be compared with {new}")
        return said


def acknowledged(entry: Write) -> bool:
    """Whether an application was told that this write succeeded."""
    return 200 <= entry.status < 300


def account(
    entries: Iterable[tuple[Write, bytes]],
    holders: Mapping[str, Sequence[str]],
    since: float,
    *,
    replayed: int = 0,
    ahead: int | None = 0,
    ahead_of: Mapping[str, Sequence[Any]] | None = None,
    seen: Overlaps | None = None,
) -> Account:
    """Read the records, in the order of the log. Changes nothing but ``seen``. ``holders`` is what every alias has pointed to.

    What ended before the position ``replayed`` was sent by a run before this one; it counts only where another overlaps with it.
    ``ahead``: what began before it may be on the old server already, of single records (:class:`Position`); ``ahead_of`` these
    are, None where nobody knows.
    """
    found = Account(since=since, seen=seen or Overlaps())
    known = {alias: set(names) for alias, names in holders.items()}
    for entry, body in entries:
        found.end = max(found.end, entry.offset)
        what = affected_by(entry.method, entry.uri, body)
        if what.nothing or entry.side not in {"old", "new", "unknown"}:
            continue
        if not acknowledged(entry):
            found.unacknowledged += entry.offset > replayed
            continue
        found.seen.add(entry, what, body, _meant(what, body, known))
        if entry.side != "new" or entry.offset <= replayed:
            continue  # it is on the old server already
        try:
            steps_of(entry.method, entry.uri, body, what)
        except NotUnderstood as error:
            found.cannot.append(f"{error} (recorded {utc(entry.at)})")
        found.writes.append(entry)
        unknown = what.whole or (what.filters and ahead_of is None)
        if unknown and (ahead is None or entry.began < ahead):
            found.unsure.append(entry)
    found.since = since or (found.writes[0].at if found.writes else 0.0)
    return found


def _meant(what: Affected, body: bytes, known: dict[str, set[str]]) -> set[str]:
    """The collections a write may have meant; aliases that it makes are remembered."""
    if what.collection:
        return {what.collection, *known.get(what.collection, ())}
    meant: set[str] = set()
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        for alias, took in alias_moves(body):
            known.setdefault(alias, set()).update({took, *known.get(took, ())})
            meant |= {alias, *known[alias]}
    return meant


def look(context: Context, position: Position, seen: Overlaps | None = None) -> Account:
    """What the records say since a position. Reads only. ``seen``: of a look before this one, of which this is the rest."""
    # Without it also what was replayed before is read: another write may have been under way at the same time.
    start = position.offset if seen is None else max(position.offset, position.replayed)
    entries = [e for e in context.gate.read_log(start) if e.side]
    holders = {alias: [name] for alias, name in context.old.aliases().items()}
    for alias, names in position.holders.items():
        holders[alias] = [*holders.get(alias, []), *names]
    replayed = max(position.offset, position.replayed)
    found = account(
        _only_acknowledged_have_bodies(context, entries),
        holders,
        position.at,
        replayed=replayed,
        ahead=position.ahead,
        ahead_of=position.ahead_ids,
        seen=seen,
    )
    found.left_out = left_out(position)
    return found


def _only_acknowledged_have_bodies(context: Context, entries: Sequence[Any]) -> Iterator[tuple[Any, bytes]]:
    """The entries with the bodies of those that count; the others are only counted, so theirs are not fetched."""
    chosen = iter(context.gate.bodies([e for e in entries if acknowledged(e)]))
    for entry in entries:
        yield next(chosen) if acknowledged(entry) else (entry, b"")


def keep_doubt(context: Context, writes: Sequence[Write], records: Sequence[str] = (), *, anew: bool = False) -> Path:
    """Write down writes of which nobody knows whether they did the same on the old server, one a line, in the state folder; what
    is there already is not said again. ``records`` in words, where they are known. ``anew``: instead of what is there.
    """
    path = context.state_dir / OVERLAPS
    if anew:
        path.unlink(missing_ok=True)
    known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    more = {"records": list(records)} if records else {}
    found = [described(entry, body) | more for entry, body in context.gate.bodies(writes)]
    keep_lines(path, [one for one in found if json.dumps(one) not in known])
    return path


def described(entry: Any, body: bytes) -> dict[str, Any]:
    return {
        "at": utc(entry.at),
        "method": entry.method,
        "uri": entry.uri,
        "body": body.decode(errors="replace"),
    }
