"""The gate's log: which writes there were, and which are under way.

nginx writes a line when a write has arrived completely (``begin``), when it has to wait (``held``) and goes on
(``passed``), and when it is over (``end``). ``begin`` is written before nginx looks whether writes are held. So, of
everything that the log names after a hold was set, a write is either over, or waiting, or on its way to Qdrant; one that
the log does not name yet will find the hold. That makes "is a write still under way?" a question with an exact answer.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from cutover.core.errors import Failed

#: What to do where the records do not say everything, whoever serves.
BEGIN_ANEW = "While the old server serves: `undo copy`, then `copy`. After the switch: `follow` compares everything anew."


class Damaged(Failed):
    """The records do not say everything, so nobody can be brought up to date from them."""


_ESCAPED = "cutover-escaped"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """The bytes that are not ASCII as an address escapes them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_ESCAPED, _escaped)


@dataclass(frozen=True, slots=True)
class Write:
    """One recorded write that is over; satisfies :class:`cutover.gate.interface.Written`.

    ``status`` is 0 and ``side`` is ``unknown`` where an nginx process died with it: nobody knows whether it happened.
    ``began`` is the position just after the line that it had arrived, 0 where that was not read: who ended before it was over
    when this one began.
    """

    offset: int
    at: float
    method: str
    uri: str
    status: int
    side: str
    body: str
    began: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log; ``offset`` is the position just after it."""

    offset: int
    kind: Literal["begin", "held", "passed", "end"]
    id: str
    at: float
    pid: int = 0
    write: Write | None = None


def lines(data: bytes, start: int) -> Iterator[Line]:
    """The complete lines of a piece of the log that begins at position ``start``.

    :class:`Damaged` for a line that is not one of nginx's: a full disk cuts lines off. What a client sent is no reason: nginx
    passes on any byte in an address and writes it as it came, so what is not ASCII is read as the same address in its escaped
    form.
    """
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        text, at = data[at:end], end + 1
        if not text:
            continue
        try:
            yield _line(json.loads(text.decode("ascii", _ESCAPED), strict=False), start + at)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Damaged(
                f"The gate's log has a damaged line just before position {start + at}, so it does not say everything.",
                "Usually the disk of the Nginx host was full. Make room. " + BEGIN_ANEW,
            ) from None


def _line(said: dict[str, Any], offset: int) -> Line:
    kind, at = said["n"], float(said["at"])
    if kind in {"held", "passed"}:
        return Line(offset, kind, said["id"], at)
    if kind not in {"begin", "end"}:
        raise ValueError(kind)
    body = str(said["body"]).rsplit("/", 1)[-1]
    if kind == "begin":
        write = Write(offset, at, said["method"], said["uri"], 0, "unknown", body)
        return Line(offset, "begin", said["id"], at, int(said["pid"]), write)
    write = Write(offset, at, said["method"], said["uri"], int(said["status"]), said["side"], body)
    return Line(offset, "end", said["id"], at, write=write)


class Ended:
    """The writes that are over, each with the position at which it began. Fed with the lines in order."""

    def __init__(self, began: Mapping[str, int] = MappingProxyType({})) -> None:
        """``began``: the writes that were under way where the lines begin."""
        self._began = dict(began)

    def of(self, read: Iterable[Line]) -> Iterator[Write]:
        """The writes that end in these lines."""
        for line in read:
            if line.kind == "begin":
                self._began[line.id] = line.offset
            elif line.kind == "end" and line.write is not None:
                yield replace(line.write, began=self._began.pop(line.id, 0))


@dataclass(slots=True)
class _Open:
    pid: int
    waiting: bool
    write: Write


class UnderWay:
    """Which writes have begun and are not over, as far as the log was read (``offset``)."""

    def __init__(self) -> None:
        self.offset = 0
        self._open: dict[str, _Open] = {}

    def feed(self, read: Iterable[Line]) -> None:
        """Take in lines, in order. Lines that were fed before are passed over."""
        for line in read:
            if line.offset <= self.offset:
                continue
            self.offset = line.offset
            if line.kind == "begin" and line.write is not None:
                self._open[line.id] = _Open(line.pid, waiting=False, write=line.write)
            elif line.kind == "end":
                self._open.pop(line.id, None)
            elif line.id in self._open:
                self._open[line.id].waiting = line.kind == "held"

    @property
    def passed(self) -> list[Write]:
        """Writes on their way: begun, not waiting, not over."""
        return [one.write for one in self._open.values() if not one.waiting]

    @property
    def waiting(self) -> list[Write]:
        """Writes that were held when they last looked, and have not looked again."""
        return [one.write for one in self._open.values() if one.waiting]

    @property
    def open(self) -> list[Write]:
        """Writes that are not over, waiting or not."""
        return [one.write for one in self._open.values()]

    def began(self, before: int) -> dict[str, int]:
        """Where the writes that are not over began, by id; those that did so before a position."""
        return {key: one.write.offset for key, one in self._open.items() if one.write.offset <= before}

    @property
    def processes(self) -> set[int]:
        """The nginx processes that carry them."""
        return {one.pid for one in self._open.values()}

    def died(self, began: Mapping[int, int | None]) -> list[Write]:
        """Take out the writes of processes that are gone, and return those that may have been sent.

        ``began`` says when each process began, in whole seconds since 1970; None where there is none. One that began after
        the write is another one with the same number. A write that was waiting was never sent.
        """

        def gone(one: _Open) -> bool:
            if one.pid not in began:
                return False
            then = began[one.pid]
            return then is None or then > one.write.at + 2  # it is counted in whole seconds

        lost = [one.write for one in self._open.values() if gone(one) and not one.waiting]
        self._open = {key: one for key, one in self._open.items() if not gone(one)}
        return lost
