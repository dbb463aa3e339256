"""Sending the odd forms of :mod:`tools.hostile_forms`, and seeing whether the gate's record has all that the server did of them."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from cutover.gate.interface import Gate
from cutover.qdrant.affected import affected_by, had_no_effect
from cutover.replication.work import happened
from tools.hostile_forms import BEFORE, COLLECTION, IDS, LEAVING, POINTS, Form

#: Seconds that a hold lasts; and after which whatever was held has looked again.
HELD, LOOKS_AGAIN = 0.8, 0.5


@dataclass(frozen=True)
class Tried:
    """What came of one form: ``refused`` (nothing was changed), ``recorded``, ``compared`` (a recorded write does not say which
    records it meant), or what must not be: ``lost``, ``in the hold``.
    """

    form: str
    came: str
    said: str


def send(form: Form, host: str, port: int, patience: float) -> str:
    """Send one form and say what came back: the statuses, or how it ended. ``patience``: seconds without a word."""
    came = b""
    try:
        with socket.create_connection((host, port), timeout=10) as line:
            line.settimeout(patience)
            for piece in form.pieces:
                if isinstance(piece, float):
                    time.sleep(piece)
                else:
                    line.sendall(piece)
            if form.leaves == LEAVING[0]:
                return form.leaves
            if form.leaves == LEAVING[1]:
                time.sleep(0.1)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return form.leaves
            if form.leaves == LEAVING[2]:
                line.shutdown(socket.SHUT_WR)
            while part := line.recv(65536):
                came += part
    except TimeoutError:
        pass
    except OSError as error:
        came += type(error).__name__.encode()
    if form.http2 and not came.startswith(b"HTTP/1"):
        return f"{len(came)} bytes of HTTP/2" if came else "closed"
    return " ".join(one.decode() for one in re.findall(rb"HTTP/1\.[01] (\d{3})", came)) or came[:40].decode("latin-1") or "closed"


#: (method, path, body) -> what the server answers, as data.
Ask = Callable[[str, str, Any], Any]


class Trying:
    """Sends forms through Nginx and looks at the server that serves."""

    def __init__(self, gate: Gate, ask: Ask, user: Ask, doors: Mapping[bool, tuple[str, int]]) -> None:
        """``ask`` asks the server itself, ``user`` through Nginx. ``doors``: where HTTP/1 (False) and HTTP/2 (True) are heard."""
        self.gate, self.ask, self.user, self.doors = gate, ask, user, doors

    def prepare(self, made: Sequence[Form]) -> None:
        """The collection, its other name, and the records that are there before; written through Nginx as by an application."""
        if COLLECTION not in {one["name"] for one in self.ask("GET", "/collections", None)["collections"]}:
            self.user("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": 4, "distance": "Dot"}})
            other = {"create_alias": {"collection_name": COLLECTION, "alias_name": f"{COLLECTION}-now"}}
            self.user("POST", "/collections/aliases", {"actions": [other]})
        ids = [form.at + n for form in made for n in range(BEFORE, IDS)]
        points = [{"id": one, "vector": [0.25] * 4, "payload": {"by": "nobody", "at": one}} for one in ids]
        for at in range(0, len(points), 500):
            self.user("PUT", f"{POINTS}?wait=true", {"points": points[at : at + 500]})

    def seen(self, made: Sequence[Form]) -> dict[int, Any]:
        """The records of these forms, as the server has them now."""
        ids = [form.at + n for form in made for n in range(IDS)]
        asked = {"with_payload": True, "with_vector": True}
        found = [self.ask("POST", POINTS, {"ids": ids[at : at + 1000], **asked}) for at in range(0, len(ids), 1000)]
        return {one["id"]: (one.get("vector"), one.get("payload")) for part in found for one in part}

    def named(self, since: int) -> tuple[set[Any], int]:
        """(the records that are named by what was recorded since a position, how many writes mean to look wherever it may be)."""
        ids: set[Any] = set()
        unnamed = 0
        # The bodies of what was refused in front may be gone by now, and nobody reads them.
        written = [e for e in self.gate.read_log(since) if e.side and not had_no_effect(e.method, e.uri, e.status)]
        for entry, body in self.gate.bodies(written):
            found = affected_by(entry.method, entry.uri, body)
            if found.collection in {COLLECTION, f"{COLLECTION}-now"} and happened(entry, found):
                chosen = {one for part in found.filters for one in _ids_in(json.loads(part.filter))}
                ids |= found.ids | chosen
                unnamed += bool(found.whole or (found.filters and not chosen))
        return ids, unnamed

    def each(self, made: Sequence[Form], *, hold: Callable[[], AbstractContextManager[None]] | None = None) -> list[Tried]:
        """Send these, all at once; with ``hold`` while that lasts, which begins and ends a hold."""
        before, since = self.seen(made), self.gate.log_end()
        early: dict[int, Any] = {}
        patience = 0.7 if hold is None else 2.5

        def one(form: Form) -> str:
            return send(form, *self.doors[form.http2], patience)

        with ThreadPoolExecutor(len(made)) as pool:
            if hold is None:
                said = list(pool.map(one, made))
            else:
                with hold():
                    waiting = [pool.submit(one, form) for form in made]
                    time.sleep(HELD)
                    early = self.seen(made)
                said = [answer.result() for answer in waiting]
        time.sleep(LOOKS_AGAIN)  # what was held looks again, also where its client is gone
        self.gate.drain(20)
        after = self.seen(made)
        ids, unnamed = self.named(since)
        found = []
        for form, answer in zip(made, said, strict=True):
            mine = range(form.at, form.at + IDS)
            changed = {n for n in mine if before.get(n) != after.get(n)}
            if hold is not None and any(before.get(n) != early.get(n) for n in mine):
                came = "in the hold"
            elif not changed:
                came = "refused"
            elif changed <= ids:
                came = "recorded"
            else:
                came, unnamed = ("compared" if unnamed > 0 else "lost"), unnamed - 1
            found.append(Tried(form.name, came, answer))
        return found


def _ids_in(chosen: Any) -> set[Any]:
    """The ids that conditions of a filter name, however deep."""
    if isinstance(chosen, dict):
        return {*chosen.get("has_id", ()), *(one for part in chosen.values() for one in _ids_in(part))}
    return {one for part in chosen for one in _ids_in(part)} if isinstance(chosen, list) else set()
