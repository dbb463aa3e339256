"""How far the server that does not serve is up to date; saved, so that a killed run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cutover.core import files, stored
from cutover.core.errors import Refused
from cutover.core.stored import Offset, Time
from cutover.gate.interface import Side
from cutover.gate.write_log import BEGIN_ANEW
from cutover.qdrant.affected import PointId
from cutover.replication.proofs import Proofs

#: Records of a collection that are named.
SHOWN = 3


class CannotFollow(Refused):
    """A change was made that this tool does not follow; the sentence names it."""


@dataclass
class Position:
    """How far the other server is up to date. Saved after every round, so that a killed run goes on from there.

    ``offset`` is the position in the gate's log; ``holders`` remembers every collection an alias has pointed to, because a
    recorded write may have used the alias before it moved. ``moved`` holds ids written since the last switch.
    """

    __pydantic_config__: ClassVar = stored.STRICT

    side: Side = "old"
    offset: Offset = 0
    holders: dict[str, list[str]] = field(default_factory=dict)
    at: Time = 0.0
    """When everything recorded so far was last on both servers; seconds since 1970."""
    moved: dict[str, list[PointId]] = field(default_factory=dict)
    moved_overflow: bool = False
    late: int = 0
    conflicts: int = 0
    replayed: Offset = 0
    """Up to where writes were sent once more, without the server that had them; see :mod:`cutover.replication.replay`.
    Following does not count that, because what was never acknowledged may have happened as well."""
    part: Offset = 0
    """How many steps of the first write after ``replayed`` were sent as well."""
    alone: bool = False
    """The server that serves from then on was brought up to date from the records, without the other one."""
    doubt: str = ""
    """Why the other server is not the copy that this position takes it for; empty where it is."""
    ahead: Offset | None = 0
    """Up to where in the log the other server may hold what ``offset`` does not cover yet, because records are read as they are
    and not as a line left them; None while a round is under way, when nobody knows.
    """
    ahead_ids: dict[str, list[PointId]] | None = None
    """Of which records that is; None where nobody knows."""
    schema_at: dict[str, Offset] = field(default_factory=dict)
    """Up to where in the log indexes or settings of a collection were changed: a write that began before may have chosen its
    records by other indexes than the other server has now."""
    left_out: dict[str, list[tuple[PointId, str]]] = field(default_factory=dict)
    """Records that the other server does not take, with the reason; it holds what it had. By collection."""
    unfinished: list[str] = field(default_factory=list)
    """Collections whose copy was begun, so that the other server may have them with their settings and without their records."""
    proofs: Proofs = field(default_factory=Proofs)
    """What was compared, and when; it speaks of exactly this position."""

    @classmethod
    def load(cls, path: Path) -> Position | None:
        """The saved position; None where there is none."""
        try:
            return stored.read(cls, path)
        except FileNotFoundError:
            return None
        except ValueError:
            raise CannotFollow(f"{path} is not readable.", f"Delete it. {BEGIN_ANEW}") from None

    def save(self, path: Path) -> None:
        """Replace the file in one step; on the disk when this returns."""
        files.private_folder(path.parent)
        # Without a copy of all that is in it: this is also done while writes are held.
        files.replace(path, json.dumps(vars(self), default=vars))


def left_out(position: Position, names: Iterable[str] | None = None) -> list[str]:
    """What the server that does not serve does not have as the other one has it, and why; a sentence a collection."""
    said = []
    for name in sorted(position.left_out if names is None else names):
        several = sorted(position.left_out.get(name, []), key=lambda one: (isinstance(one[0], str), one[0]))
        named = ", ".join(f"{one} ({why})" for one, why in several[:SHOWN])
        more = f" and {len(several) - SHOWN} more" if len(several) > SHOWN else ""
        if several:
            said.append(f"record{'s' if len(several) > 1 else ''} {named}{more} of {name}")
    return said
