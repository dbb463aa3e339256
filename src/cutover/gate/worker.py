"""What a worker process of Nginx says about the gate, and how users are answered through the operator's own server.

What only a worker can know (which files are loaded, whether it sees the flags, whether an unrecorded write is under way) is asked
over HTTP, by a header (``X-Qdrant-Gate``), the way users come in.
"""

from __future__ import annotations

import base64
import json
import secrets as randomness
from collections.abc import Mapping
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
    from cutover.gate.nginx_conf import Configuration
    from cutover.gate.nginx_host import Inspector
    from cutover.site.schema import Site


#: After so many looks Nginx's files are read again although none of them changed.
EVERY = 60


def door_of(site: Site, credentials: Credentials) -> tuple[http.Tls, dict[str, str]]:
    """How one comes in by ``public_url``: what proves the server and us, and the headers for Nginx itself (auth_basic)."""
    place = site.qdrant
    tls = http.Tls(place.ca_file, place.fingerprint, place.client_certificate)
    user, password = credentials.get("NGINX_USER"), credentials.get("NGINX_PASSWORD")
    if not user or not password:
        return tls, {}
    return tls, {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class Worker:
    """Asks the Nginx of one site over HTTP."""

    def __init__(
        self, site: Site, credentials: Credentials, guard: WriteGuard, folder: Folder, host: Inspector, addresses: Addresses
    ) -> None:
        self._site, self._credentials, self._guard = site, credentials, guard
        self._folder, self._host, self.addresses = folder, host, addresses
        self._read: Configuration | None = None
        self._fingerprint, self._passed_over, self._leads = "", 0, False
        self._tls, self._door = door_of(site, credentials)
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
        for path, question in [(path, question) for question in self._questions("state") for path in ("/", "/collections")]:
            answer = self._ask(path, question)
            if (said := _gate_says(answer.content)) is not None and answer.status_code == 200:
                return said
            closed = closed or answer.status_code in {301, 302, 303, 307, 308, 400, 401, 403, 407}
        if not closed or not self._folder.state().installed:
            return None
        said = self.listening()
        if said is None:
            return None
        leads, around = self._led()
        return said if leads and not around else None

    def contradiction(self) -> str:
        """Why what Nginx does is not what the flags on its host say, a sentence; empty where it is.

        A worker is asked, through the operator's own server; and Nginx's files are read, because a tool that rewrote one of them
        may have led one of several ways past the gate.
        """
        public = self._site.qdrant.public_url
        said, state = self.loaded(), self._folder.state()
        if state.missing and (self._led()[0] or not self._site.nginx.edit):
            return (
                f"{self._folder.gone(state)}, and requests are still passed to the gate on {self.addresses.gate}. "
                "`cutover gate` puts it in again; `cutover undo gate` puts the old server's address back."
            )
        if said is None:
            return f"{public} does not pass its requests to the gate any more: something rewrote Nginx's configuration."
        flags = set(said["flags"].split())
        if ("new" in flags, "record" in flags) != (state.side == "new", state.recording):
            return f"Nginx's workers do not see the flags in {self._folder.path} as they are."
        _, around = self._led()
        return f"Nginx's configuration leads past the gate: {' '.join(around)}" if around else ""

    def _led(self) -> tuple[bool, list[str]]:
        """Whether Nginx's files lead to the gate, and where they lead past it.

        Asked every second by `follow`, so the whole configuration is read only where one of its files or folders is another than
        when it was read last, and every :data:`EVERY` times: a name may have got another address.
        """
        now = self._host.fingerprint(self._read) if self._read is not None else ""
        if now and now == self._fingerprint and self._passed_over < EVERY:
            self._passed_over += 1
            return self._leads, []
        found, before = self._host.configuration(), self._read
        self._leads = bool(self.addresses.ways(found, self.addresses.gate).passing)
        around = self.addresses.around(found)
        self._read, self._passed_over = found, 0
        # The files were looked at before they were read, so what changed in between is seen the next time.
        same = before is not None and (found.files.keys(), found.includes) == (before.files.keys(), before.includes)
        self._fingerprint = now if same and not around else ""
        return self._leads, around

    def _questions(self, what: str) -> list[str]:
        """How the gate is asked: with its word; and without, as one is that an earlier version put in."""
        token = self._folder.token()
        return [f"{what} {token}", what] if token else [what]

    def _ask(self, path: str, question: str) -> requests.Response:
        """Ask the gate something by a header, with a request that the operator's own server lets through."""
        key = self._credentials.get("QDRANT_READ_ONLY_API_KEY") or self._credentials.get("QDRANT_API_KEY")
        headers = {**self._door, "X-Qdrant-Gate": question} | ({"api-key": key} if key else {})
        url = f"{self._site.qdrant.public_url}{path}?gate={randomness.token_hex(8)}"  # a cache in between knows no answer to it
        return self._http.get(url, headers=headers)

    def listening(self) -> dict[str, Any] | None:
        """What the gate says on its own address, asked from its host, whoever passes requests there; None where there is none."""
        answers = (_gate_says(self._host.ask_gate(question)) for question in self._questions("state"))
        return next((said for said in answers if said is not None), None)

    def nothing_unrecorded(self) -> bool:
        """Whether the gate says so; asked by the way by which it says its state."""
        question = self._questions("unrecorded")[0]
        for path in ("/", "/collections"):
            answer = self._ask(path, question)
            if answer.headers.get("X-Qdrant-Gate") == "unrecorded":
                return answer.status_code == 200
        return b"GIF89a" in self._host.ask_gate(question)

    def answers_to_users(self, *, writes: bool) -> dict[str, doorway.Answer]:
        """How users are answered now; ``writes``: also to a write that can change nothing."""
        return self._look(self._site.qdrant.public_url, self._door, writes=writes)

    def foreseen(self) -> list[str]:
        """What users would be answered otherwise by the new server than by the old one, as sentences. Reads only."""
        door = self.answers_to_users(writes=False)
        old, new = (self._look(url, {}, writes=False) for url in (self._site.qdrant.old_url, self._site.qdrant.new_url))
        return doorway.foreseen(door, old, new)

    def _look(self, url: str, headers: Mapping[str, str], *, writes: bool) -> dict[str, doorway.Answer]:
        try:
            return doorway.look(self._http, url, self._key(), self._tls, headers, writes=writes)
        except requests.RequestException as error:
            raise Unreachable(f"{url} does not answer: {error}.") from None

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
