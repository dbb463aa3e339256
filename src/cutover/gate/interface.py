"""What moving traffic needs of the gate in Nginx, as an interface.

The gate holds writes for a moment, decides per request which server is asked, and records every write. This module says
exactly what :mod:`cutover.replication.follower` and the phases rely on, so that they can be read (and proved) without
knowing how Nginx does it; :class:`cutover.gate.controller.Gate` is the one that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol

Side = Literal["old", "new"]
OTHER: dict[Side, Side] = {"old": "new", "new": "old"}

#: A body of more bytes is not fetched. Qdrant itself takes 32 MB unless it was told otherwise.
BODY_MOST = 64 << 20
#: Stands for a body that is not fetched; nobody can read anything from it.
TOO_LARGE = b"\0too large to be fetched"


class Written(Protocol):
    """One recorded write: one line of the gate's log, written when the request had ended."""

    @property
    def offset(self) -> int:
        """Position in the log just after this line; reading on from here gives the next."""

    @property
    def at(self) -> float:
        """When the request ended, seconds since 1970, by the Nginx host's clock."""

    @property
    def method(self) -> str: ...

    @property
    def uri(self) -> str:
        """As the client sent it, with its query."""

    @property
    def status(self) -> int: ...

    @property
    def side(self) -> str:
        """Which server was asked: ``old``, ``new``, empty when the request reached none (refused while held), ``unknown``
        when the nginx process died with it.
        """

    @property
    def began(self) -> int:
        """Position in the log just after the line that it had arrived; 0 where that was not read."""

    @property
    def body(self) -> str:
        """Name of the recorded body; empty when the request had none."""


class Flags(Protocol):
    """What the gate is doing now, seen on the Nginx host."""

    @property
    def side(self) -> Side: ...

    @property
    def held(self) -> bool: ...

    @property
    def recording(self) -> bool: ...

    @property
    def lost(self) -> str:
        """Why writes are not recorded although they were to be, a sentence without its full stop; empty otherwise."""


class Gate(Protocol):
    """The gate. Changing methods need an open act; they are safe to repeat."""

    def state(self) -> Flags: ...

    def start_recording(self) -> None:
        """Every write that begins after this returns is recorded."""

    def stop_recording(self) -> None:
        """Stop, and remove log and bodies."""

    def hold(self, seconds: float) -> None:
        """Hold writes. The Nginx host itself ends the hold after ``seconds``, also when this tool was killed."""

    holding: bool
    """Whether this process began a hold and does not know of its end."""

    def release(self) -> None:
        """End the hold; fine when there is none."""

    def point_to_new(self) -> None:
        """Ask the new server from now on. Refused, with nothing changed, when the hold is no longer in force: checked
        and done in one step on the Nginx host, so that no write can slip between.
        """

    def point_to_old(self) -> None:
        """The same in the other direction."""

    def drain(self, deadline: float) -> None:
        """Wait until every write that had passed before the hold has its line in the log; TimedOut otherwise."""

    def log_end(self) -> int:
        """Position just after the last complete line."""

    def read_parts(self, from_offset: int) -> Iterator[Sequence[Written]]:
        """The complete lines from a position on, as many at a time as some megabytes of the log hold."""

    def read_log(self, from_offset: int) -> Sequence[Written]:
        """The same all at once."""

    def bodies(self, entries: Iterable[Written]) -> Iterator[tuple[Written, bytes]]:
        """The recorded bodies, one at a time, in the given order; empty bytes for a write that had none.

        :data:`TOO_LARGE` in place of one that is larger than :data:`BODY_MOST`: it is no reason to stop, only to compare.

        An entry whose body is gone is an error, never silence.
        """

    def forget_bodies(self, entries: Iterable[Written]) -> None:
        """Remove bodies that both servers have; makes room on the Nginx host."""
