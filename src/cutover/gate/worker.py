"""What a worker process of Nginx says about the gate, and how users are answered through the operator's own server.

What only a worker can know (which files are loaded, whether it sees the flags, whether an unrecorded write is under way) is asked
over HTTP, by a header (``X-Qdrant-Gate``), the way users come in.
"""

from __future__ import annotations

import json
import secrets as randomness
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from cutover.core import http
from cutover.core.errors import Unreachable
from cutover.gate import doorway

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials
    from cutover.core.write_guard import WriteGuard
    from cutover.gate.addresses import Addresses
    from cutover.gate.folder import Folder
    from cutover.gate.nginx_host import Inspector
    from cutover.site.schema import Site


class Worker:
    """Asks the Nginx of one site over HTTP."""

    def __init__(
        self, site: Site, credentials: Credentials, guard: WriteGuard, folder: Folder, host: Inspector, addresses: Addresses
    ) -> None:
        self._site, self._credentials, self._guard = site, credentials, guard
        self._folder, self._host, self._addresses = folder, host, addresses
        place = site.qdrant
        self._tls = http.Tls(Path(place.ca_file) if place.ca_file else None, place.fingerprint)
        self._http = http.session(guard, tls=self._tls, headers={"Connection": "close"}, timeout=(5.0, 10.0))

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def loaded(self) -> dict[str, Any] | None:
        """What a worker process says about the gate: ``files`` (checksum), ``flags`` as it sees them, ``pid``.

        Asked through the operator's own server, as users come in. None where what they reach passes no gate. Where that server
        lets nobody in without credentials that this tool has not, the gate is asked itself, and counts where Nginx's files
        lead to it and nowhere else.
        """
        closed = False
        for path in ("/", "/collections"):
            answer = self._ask(path, "state")
            if (said := _gate_says(answer.content)) is not None and answer.status_code == 200:
                return said
            closed = closed or answer.status_code in {301, 302, 303, 307, 308, 401, 403, 407}
        if not closed or not self._folder.state().installed:
            return None
        said = self.listening()
        if said is None:
            return None
        configuration = self._host.configuration()
        leads = self._addresses.ways(configuration, self._site.nginx.gate_address).passing
        return said if leads and not self._addresses.around(configuration) else None

    def contradiction(self) -> str:
        """Why what Nginx does is not what the flags on its host say, a sentence; empty where it is.

        A worker is asked, through the operator's own server; and Nginx's files are read, because a tool that rewrote one of them
        may have led one of several ways past the gate.
        """
        public = self._site.qdrant.public_url
        said, state = self.loaded(), self._folder.state()
        if said is None:
            return f"{public} does not pass its requests to the gate any more: something rewrote Nginx's configuration."
        flags = set(said["flags"].split())
        if ("new" in flags, "record" in flags) != (state.side == "new", state.recording):
            return f"Nginx's workers do not see the flags in {self._folder.path} as they are."
        around = self._addresses.around()
        return f"Nginx's configuration leads past the gate: {' '.join(around)}" if around else ""

    def _ask(self, path: str, question: str) -> requests.Response:
        """Ask the gate something by a header, with a request that the operator's own server lets through."""
        key = self._credentials.get("QDRANT_READ_ONLY_API_KEY") or self._credentials.get("QDRANT_API_KEY")
        headers = {"X-Qdrant-Gate": question} | ({"api-key": key} if key else {})
        url = f"{self._site.qdrant.public_url}{path}?gate={randomness.token_hex(8)}"  # a cache in between knows no answer to it
        return self._http.get(url, headers=headers)

    def listening(self) -> dict[str, Any] | None:
        """What the gate says on its own address, asked from its host, whoever passes requests there; None where there is none."""
        return _gate_says(self._host.ask_gate("state"))

    def nothing_unrecorded(self) -> bool:
        """Whether the gate says so; asked by the way by which it says its state."""
        for path in ("/", "/collections"):
            answer = self._ask(path, "unrecorded")
            if answer.headers.get("X-Qdrant-Gate") == "unrecorded":
                return answer.status_code == 200
        return b"GIF89a" in self._host.ask_gate("unrecorded")

    def through_the_door(self, *, writes: bool) -> dict[str, doorway.Answer]:
        """How users are answered now; ``writes``: also to a write that can change nothing."""
        try:
            return doorway.look(self._http, self._site.qdrant.public_url, self._key(), self._tls, writes=writes)
        except requests.RequestException as error:
            raise Unreachable(f"{self._site.qdrant.public_url} does not answer: {error}.") from None

    def _key(self) -> str | None:
        return (
            self._credentials.get("QDRANT_API_KEY") if self._guard.is_open else self._credentials.get("QDRANT_READ_ONLY_API_KEY")
        )


def _gate_says(body: bytes) -> dict[str, Any] | None:
    """The gate's answer to the question for its state; None where it is none. Headers before it are passed over."""
    try:
        said = json.loads(body[max(body.find(b'{"gate"'), 0) :])
        if said["gate"] == 1 and isinstance(said["files"], str) and isinstance(said["flags"], str) and int(said["pid"]) > 0:
            return dict(said)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None
