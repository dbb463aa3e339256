"""One Qdrant server, over its REST interface.

The client is thin on purpose. It speaks raw JSON instead of using the typed client library, because the proof must see every
field a server answers, also those that a library of another version would drop, and must see numbers as they were sent. What
reads and what writes is decided by the table in :mod:`cutover.qdrant.routes`; writes need an open act like everywhere else.

Facts it is built on (Qdrant 1.18): idle connections are closed by the server after 5 s; a write without ``wait=true`` is
acknowledged before it is applied; a snapshot of a collection holds every write acknowledged before it; ``points_count`` is an
estimate, only an exact count is a count; a snapshot contains no aliases.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from cutover.core import http
from cutover.core.credentials import cut
from cutover.core.errors import CutoverError, OutcomeUnknown, Unreachable
from cutover.core.threads import side_by_side
from cutover.core.write_guard import WriteGuard
from cutover.qdrant import releases
from cutover.qdrant.affected import PointId
from cutover.qdrant.routes import is_read, route

#: Qdrant closes a connection that was idle for 5 s; one that old is not used again.
IDLE_SECONDS = 4.0
#: Snapshots and their recovery take as long as the data takes; Qdrant itself gives up after 60 s without a byte.
LONG = (5.0, 6 * 3600.0)
#: Qdrant refuses JSON bodies above 32 MiB unless it was configured otherwise.
MAX_BODY = 24 * 1024 * 1024
#: How long a request is tried again that a collection's limit of requests a minute refuses; seconds.
RATE_LIMITED = 120.0
#: An answer with several records that grows beyond this is broken off; of a single record more is taken. Bytes.
MOST_BYTES, MOST_OF_ONE = 32 << 20, 512 << 20
#: A delete of this many ids that do not exist reaches every shard and so waits for every write before it (measured: with one
#: id, 2 of 150 reads on four shards were stale; with 64, none).
BARRIER_IDS = 64
#: Ids that are asked for at a time where records cannot be counted otherwise.
IDS_OF_A_PAGE = 10_000
#: The alias that is made and removed at once to see whether a server can write a file.
TRIED = "cutover-can-write"
#: The collections into whose logs is written for that; others the next time.
TRIED_AT_MOST = 16


class Answered(CutoverError):
    """Qdrant answered with an error. ``status`` is the HTTP status, ``reason`` Qdrant's own words."""

    def __init__(self, status: int, sentence: str, reason: str, hint: str = "") -> None:
        super().__init__(sentence, hint)
        self.status = status
        self.reason = reason


def _again_in(answer: requests.Response) -> float:
    """Seconds after which a server that was asked too often wants to be asked again."""
    try:
        return max(0.1, float(answer.headers.get("Retry-After", 1)))
    except ValueError:
        return 1.0


class NotThere(Answered):
    """404: the collection, snapshot or record does not exist."""


class TooLarge(CutoverError):
    """An answer was broken off because it is larger than is taken at a time."""


class Qdrant:
    """A server at ``url``. ``name`` is what people call it ("the old server").

    ``sent`` counts the requests this object sent, by route as Qdrant's telemetry names it, so that our own can be told from those
    of somebody who goes round Nginx.
    """

    def __init__(
        self,
        url: str,
        guard: WriteGuard,
        *,
        key: str | None = None,
        name: str = "Qdrant",
        timeout: tuple[float, float] | None = None,
        tls: http.Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        prefix = urlsplit(self.url).path  # Nginx may have Qdrant under a path
        self.name = name
        self.sent: Counter[str] = Counter()
        self.accounted: Counter[str] = Counter()
        """What of it stands in the saved replication position, as ours."""
        self.patient = True
        """Whether a request waits that came too soon after others for the strict mode of its collection."""
        self._lock = threading.Lock()
        self._last_used = time.monotonic()
        # Without identity Qdrant compresses every page, which costs more than the local network saves.
        headers = {"Accept-Encoding": "identity", **(headers or {})} | ({"api-key": key} if key else {})
        self._session = http.session(
            guard,
            is_read=lambda method, path: is_read(method, path.removeprefix(prefix)),
            tls=tls,
            headers=headers,
            timeout=timeout or (5.0, 60.0),
            pool=32,
        )

    # -- one request ------------------------------------------------------------------------------
    def raw(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: tuple[float, float] | None = None,
        stream: bool = False,
        until: float | None = None,
    ) -> requests.Response:
        """The answer to one request, successful or an :class:`Answered`.

        Where the collection allows only so many requests a minute this waits, at most ``RATE_LIMITED`` seconds, or ``until``.
        Raises Unreachable when nothing happened, OutcomeUnknown when a write was sent and its answer was lost.
        """
        until = time.monotonic() + RATE_LIMITED if until is None else until
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        answer = self._send(method, path, data, params=params, headers=headers, timeout=timeout, stream=stream)
        if answer.status_code == 429 and self.patient and until > time.monotonic() + (again := _again_in(answer)):
            answer.close()
            time.sleep(again)  # the server's own word for when it will answer
            return self.raw(method, path, data, params=params, timeout=timeout, stream=stream, until=until)
        if answer.status_code >= 300:
            raise self._error(method, path, answer)
        return answer

    def answer_to(self, method: str, path: str, *, key: str | None) -> requests.Response:
        """The answer, whatever its status, that somebody with another key gets, or without one (None)."""
        answer = self._send(method, path, None, headers={"api-key": key})
        if answer.status_code in {401, 403}:
            with self._lock:
                self.sent[route(method, path)] -= 1  # whoever is turned away is nobody's use of the server
        return answer

    def _send(self, method: str, path: str, data: bytes | None, **rest: Any) -> requests.Response:
        with self._lock:
            if time.monotonic() - self._last_used > IDLE_SECONDS:
                self._session.close()  # only drops pooled connections; the next request opens a new one
            self._last_used = time.monotonic()
            self.sent[route(method, path)] += 1
        try:
            answer = self._session.request(method, self.url + path, data=data, allow_redirects=False, **rest)
        except (Unreachable, OutcomeUnknown) as error:
            raise type(error)(f"{self.name.capitalize()} does not answer: {error.sentence}", error.hint) from None
        self._last_used = time.monotonic()
        return answer

    def ask(self, method: str, path: str, body: Any = None, *, needs: str = "", **rest: Any) -> Any:
        """The ``result`` of one request; ``needs`` is a text that has to be in it."""
        answer = self.raw(method, path, body, **rest)
        told = http.json_of(answer, f"Qdrant ({self.name})")
        if not isinstance(told, dict) or told.get("result") is None:
            raise http.not_like(answer, f"Qdrant ({self.name})")
        if needs and not (isinstance(told["result"], dict) and isinstance(told["result"].get(needs), str)):
            raise http.not_like(answer, f"Qdrant ({self.name})")
        return told["result"]

    def _idempotent(self, method: str, path: str, body: Any, **rest: Any) -> Any:
        """A write that may be repeated without harm: sent once more when its answer was lost."""
        try:
            return self.ask(method, path, body, **rest)
        except OutcomeUnknown:
            return self.ask(method, path, body, **rest)

    def _error(self, method: str, path: str, answer: requests.Response) -> CutoverError:
        try:
            told = cut(str(answer.json()["status"]["error"]), 500)
        except (ValueError, KeyError, TypeError, RecursionError):
            told = http.words_of(answer)
        if http.gateway(answer):
            return OutcomeUnknown(
                f"{self.name} ({urlsplit(self.url).netloc}): a proxy answered {answer.status_code} to {method} {path}: {told}",
                "Look whether it happened before doing it again.",
            )
        said = f"{self.name} ({urlsplit(self.url).netloc}) answered {answer.status_code} to {method} {path}: {told}"
        if answer.status_code in {401, 403}:
            if "basic" in answer.headers.get("WWW-Authenticate", "").lower():
                hint = "Nginx asks for a user and a password in front of it: give them in NGINX_USER and NGINX_PASSWORD."
                return Answered(answer.status_code, said, told, hint)
            hint = "Give the server's key in QDRANT_API_KEY (or, for reading only, QDRANT_READ_ONLY_API_KEY)."
            return Answered(answer.status_code, said, told, hint)
        # A name that no collection can have is asked about as well: whoever may only read can write it into an address.
        nobody = answer.status_code == 422 and "collection name cannot" in answer.text[:400]
        kind = NotThere if answer.status_code == 404 or nobody else Answered
        return kind(answer.status_code, said, told)

    # -- the server -------------------------------------------------------------------------------
    def version(self) -> str:
        """The release, for example ``1.18.3``. Needs no key."""
        answer = self.raw("GET", "/")
        release = releases.said(http.json_of(answer, f"Qdrant ({self.name})"))
        if not release:
            raise http.not_like(answer, f"Qdrant ({self.name})")
        return release

    def largest_body(self) -> int | None:
        """Bytes of JSON that the server takes in one request (``max_request_size_mb``); None where it does not say.

        A request that only announces a body is refused with the limit, before any of it is sent (seen on 1.18.3).
        """
        path = f"/collections/cutover-{uuid.uuid4().hex}/points/scroll"
        asked = requests.Request("POST", self.url + path, headers={"Content-Type": "application/json"})
        request = self._session.prepare_request(asked)
        request.headers["Content-Length"] = str(1 << 40)
        with self._lock:
            self.sent[route("POST", path)] += 1
        try:
            answer = self._session.send(request, timeout=(5.0, 10.0), allow_redirects=False)
        except (CutoverError, requests.RequestException):
            return None
        found = re.search(r"limit: (\d+) bytes", answer.text)
        return int(found[1]) if found else None

    def telemetry(self, details: int = 1) -> dict[str, Any]:
        """Request counters per route and status, since the server started.

        ``details`` 0 leaves out when a route was answered last, and all that takes longer the more collections there are (seen on
        1.15 and 1.18: 1 ms instead of 250 with 1,000 of them).
        """
        found: dict[str, Any] = self.ask("GET", "/telemetry", params={"details_level": details})
        return found

    # -- collections ------------------------------------------------------------------------------
    def collections(self) -> list[str]:
        """The names of all collections, sorted."""
        return sorted(c["name"] for c in self.ask("GET", "/collections")["collections"])

    def info(self, collection: str) -> dict[str, Any]:
        """Settings, payload indexes and state of a collection. NotThere when it does not exist."""
        found: dict[str, Any] = self.ask("GET", f"/collections/{_q(collection)}")
        return found

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        return {a["alias_name"]: a["collection_name"] for a in self.ask("GET", "/aliases")["aliases"]}

    def change_aliases(self, actions: Sequence[Mapping[str, Any]]) -> None:
        """All actions in one request, which Qdrant applies together."""
        self.ask("POST", "/collections/aliases", {"actions": list(actions)})

    def free_name(self, name: str) -> None:
        """Remove an alias of this name. Recovering a collection would follow it, and overwrite what it points to."""
        if name in self.aliases():
            self.change_aliases([{"delete_alias": {"alias_name": name}}])

    def create_index(self, collection: str, field: str, schema: Any) -> None:
        """Create a payload index and wait for it."""
        path = f"/collections/{_q(collection)}/index"
        self._idempotent("PUT", path, {"field_name": field, "field_schema": schema}, params=_WAIT, timeout=LONG)

    def delete_index(self, collection: str, field: str) -> None:
        """Remove a payload index."""
        self._idempotent("DELETE", f"/collections/{_q(collection)}/index/{_q(field)}", None, params=_WAIT, timeout=LONG)

    def try_writing(self) -> None:
        """Write what leaves nothing: into the logs of some collections (:meth:`barrier`), and a file, by an alias that is made
        and removed in one request.

        A disk that is full refuses the first. One that has become read-only refuses only the second: into the files that it has
        mapped a server goes on writing, and says yes to what no disk will hold (seen with the engine on ext4).
        """
        collections = self.collections()
        self.barrier(random.sample(collections, min(len(collections), TRIED_AT_MOST)))  # they share a disk
        remove = {"delete_alias": {"alias_name": TRIED}}
        for collection in collections[:1]:
            actions = [{"create_alias": {"alias_name": TRIED, "collection_name": collection}}, remove]
            try:
                self._idempotent("POST", "/collections/aliases", {"actions": actions})
            except CutoverError:
                with suppress(CutoverError):  # Qdrant keeps in memory what it could not save
                    self.change_aliases([remove])
                raise

    def patch(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Change settings of a collection."""
        self._idempotent("PATCH", f"/collections/{_q(collection)}", dict(changes))

    def create_collection(self, collection: str, settings: Mapping[str, Any]) -> None:
        """Make a collection without records."""
        self.ask("PUT", f"/collections/{_q(collection)}", dict(settings), timeout=LONG)

    def delete_collection(self, collection: str) -> None:
        """Remove a collection and its data; fine when it is not there."""
        self._idempotent("DELETE", f"/collections/{_q(collection)}", None, timeout=LONG)

    def shards(self, collection: str) -> list[int]:
        """The numbers of the collection's shards on this server, ascending."""
        return sorted(one["shard_id"] for one in self._local_shards(collection))

    def shard_keys(self, collection: str) -> list[Any]:
        """Custom shard keys of the collection's local shards; empty with automatic sharding."""
        return [s["shard_key"] for s in self._local_shards(collection) if s.get("shard_key") is not None]

    def _local_shards(self, collection: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", f"/collections/{_q(collection)}/cluster").get("local_shards", [])
        return found

    # -- records ----------------------------------------------------------------------------------
    def count(self, collection: str, *, timeout: tuple[float, float] | None = None) -> int:
        """The exact number of records: 10 to 20 ms for 100,000, and 0.4 s where strict mode allows no exact count."""
        path = f"/collections/{_q(collection)}/points/count"
        try:
            return int(self.ask("POST", path, {"exact": True}, timeout=timeout)["count"])
        except Answered as error:
            if error.status not in {400, 403}:
                raise
        return self._count_by_pages(collection, timeout)

    def _count_by_pages(self, collection: str, timeout: tuple[float, float] | None) -> int:
        ends = time.monotonic() + timeout[1] if timeout else float("inf")
        count, offset, limit = 0, None, IDS_OF_A_PAGE
        while time.monotonic() < ends:
            try:
                told = json.loads(self.page(collection, offset, limit, payload=False, vectors=False, timeout=timeout))["result"]
            except Answered as error:
                if limit == 1 or error.status not in {400, 403}:
                    raise
                limit //= 2  # strict mode, again
                continue
            count, offset = count + len(told["points"]), told["next_page_offset"]
            if offset is None:
                return count
        raise Unreachable(f"{self.name.capitalize()}: the records of {collection} were not counted in time.")

    def page(
        self,
        collection: str,
        offset: PointId | None,
        limit: int,
        *,
        payload: bool = True,
        vectors: bool = True,
        filter_: Any = None,
        timeout: tuple[float, float] | None = None,
    ) -> bytes:
        """One page of records in order of id, as the bytes Qdrant sent; :class:`TooLarge` where that is more than is taken."""
        body: dict[str, Any] = {"limit": limit, "with_payload": payload, "with_vector": vectors}
        body |= {"offset": offset} if offset is not None else {}
        body |= {"filter": filter_} if filter_ is not None else {}
        return self._records(f"/collections/{_q(collection)}/points/scroll", body, limit, timeout)

    def _records(self, path: str, body: Any, records: int, timeout: tuple[float, float] | None) -> bytes:
        """An answer made of ``records`` records. Of a single one all is taken, of several only so much that halves are better."""
        most = MOST_BYTES if records > 1 else MOST_OF_ONE
        answer, found, size = self.raw("POST", path, body, timeout=timeout, stream=True), list[bytes](), 0
        try:
            for piece in answer.iter_content(1 << 20):
                found.append(piece)
                size += len(piece)
                if size > most:
                    raise TooLarge(f"{self.name.capitalize()}: {path} answers more than {most >> 20} MB for {records} records.")
        except requests.RequestException as error:
            raise Unreachable(f"{self.name.capitalize()}: the answer to POST {path} ends in the middle ({error}).") from None
        finally:
            answer.close()
        return b"".join(found)  # a page is megabytes, and each copy of it is felt

    def records(
        self,
        collection: str,
        ids: Sequence[PointId],
        *,
        payload: bool = True,
        timeout: tuple[float, float] | None = None,
    ) -> bytes:
        """These records with their vectors, as the bytes Qdrant sent; absent ones are left out."""
        body = {"ids": list(ids), "with_payload": payload, "with_vector": True}
        return self._records(f"/collections/{_q(collection)}/points", body, len(ids), timeout)

    def query(self, collection: str, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The hits of a search."""
        found: list[dict[str, Any]] = self.ask("POST", f"/collections/{_q(collection)}/points/query", dict(question))["points"]
        return found

    def sample(self, collection: str, how_many: int) -> list[PointId]:
        """Ids spread over the collection, in no order; empty where the server cannot sample."""
        body = {"query": {"sample": "random"}, "limit": how_many, "with_payload": False, "with_vector": False}
        try:
            return [p["id"] for p in self.ask("POST", f"/collections/{_q(collection)}/points/query", body)["points"]]
        except Answered:
            return []

    def upsert(self, collection: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Write whole records and wait until they are applied. Split where the body would be too large for Qdrant."""
        if not records:
            return
        body = _json({"points": list(records)})
        if len(body) > MAX_BODY and len(records) > 1:
            half = len(records) // 2
            self.upsert(collection, records[:half])
            self.upsert(collection, records[half:])
            return
        self._idempotent("PUT", f"/collections/{_q(collection)}/points", body, params=_WAIT)

    def update_vectors(self, collection: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace these vectors (``id``, ``vector`` by name) of records that are there, and wait."""
        body = _json({"points": list(records)})
        self._idempotent("PUT", f"/collections/{_q(collection)}/points/vectors", body, params=_WAIT)

    def overwrite_payload(self, collection: str, record: PointId, payload: Mapping[str, Any]) -> None:
        """Make this the payload of a record that is there, and wait."""
        body = _json({"payload": payload, "points": [record]})
        self._idempotent("PUT", f"/collections/{_q(collection)}/points/payload", body, params=_WAIT)

    def set_payload(self, collection: str, record: PointId, payload: Mapping[str, Any]) -> None:
        """Set these fields of the payload of a record that is there, and wait."""
        body = _json({"payload": payload, "points": [record]})
        self._idempotent("POST", f"/collections/{_q(collection)}/points/payload", body, params=_WAIT)

    def delete(self, collection: str, ids: Iterable[PointId]) -> None:
        """Delete records by id and wait; ids that do not exist are fine."""
        chosen = list(ids)
        if chosen:
            self._idempotent("POST", f"/collections/{_q(collection)}/points/delete", {"points": chosen}, params=_WAIT)

    def barrier(self, collections: Iterable[str]) -> None:
        """Return only when every write acknowledged before this call is applied.

        Done by deleting ids that do not exist, with ``wait=true``: an operation queued behind all others, on every shard. An
        empty update queue or a green status is no barrier (measured: 10 and 16 of 150 reads were stale).
        """

        def pass_through(collection: str) -> None:
            with suppress(NotThere):  # the collection was deleted meanwhile: nothing to wait for
                self.delete(collection, [str(uuid.uuid4()) for _ in range(BARRIER_IDS)])

        side_by_side([lambda c=c: pass_through(c) for c in collections])

    # -- snapshots --------------------------------------------------------------------------------
    # Of a collection, with its settings, payload indexes and log; or of one shard of it, with records and built indexes alone.
    def snapshots(self, collection: str, shard: int | None = None) -> list[dict[str, Any]]:
        """Stored snapshots: ``name``, ``creation_time``, ``size`` in bytes, ``checksum`` (SHA-256, may be absent)."""
        found: list[dict[str, Any]] = self.ask("GET", _snapshots(collection, shard))
        return found

    def snapshot_names(self, collection: str, shard: int | None = None) -> set[str]:
        """The names of its stored snapshots; none where the collection is gone, because they cannot be reached any more."""
        return set(self.snapshot_sizes(collection, shard))

    def snapshot_sizes(self, collection: str, shard: int | None = None) -> dict[str, int | None]:
        """Size in bytes by name of its stored snapshots (None: not told); see :meth:`snapshot_names`."""
        try:
            return {str(one["name"]): one.get("size") for one in self.snapshots(collection, shard)}
        except NotThere:
            return {}

    def create_snapshot(self, collection: str, shard: int | None = None) -> dict[str, Any]:
        """Take a snapshot and wait for it: it holds every write that was acknowledged before this call."""
        found: dict[str, Any] = self.ask("POST", _snapshots(collection, shard), needs="name", params=_WAIT, timeout=LONG)
        return found

    def delete_snapshot(self, collection: str, name: str, shard: int | None = None) -> None:
        """Remove a stored snapshot; fine when it is gone already."""
        try:
            self._idempotent("DELETE", f"{_snapshots(collection, shard)}/{_q(name)}", None, params=_WAIT)
        except NotThere:
            if name in self.snapshot_names(collection, shard):
                raise

    def snapshot_url(self, collection: str, name: str, shard: int | None = None) -> str:
        """Where another server fetches the snapshot."""
        return f"{self.url}{_snapshots(collection, shard)}/{_q(name)}"

    def download(self, collection: str, name: str, *, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The snapshot's bytes, in chunks."""
        path = f"/collections/{_q(collection)}/snapshots/{_q(name)}"
        answer = self.raw("GET", path, stream=True, timeout=LONG)
        try:
            yield from answer.iter_content(chunk)
        except requests.RequestException:
            raise Unreachable(f"{self.name.capitalize()}: the snapshot of {collection} ends in the middle.") from None
        finally:
            answer.close()

    def recover(
        self, collection: str, location: str, *, shard: int | None = None, checksum: str | None, source_key: str | None
    ) -> None:
        """Make the collection from a snapshot that this server fetches itself, and wait. With ``shard``: fill that one of it.

        A whole one only where none is: over an existing one Qdrant keeps its settings and indexes. The source's
        read-only key is enough for ``source_key``. A wrong checksum is refused by Qdrant and leaves nothing behind.
        """
        body = {"location": location, "priority": "snapshot"}
        body |= {"checksum": checksum} if checksum else {}
        body |= {"api_key": source_key} if source_key else {}
        self.ask("PUT", f"{_snapshots(collection, shard)}/recover", body, params=_WAIT, timeout=LONG)


def _snapshots(collection: str, shard: int | None) -> str:
    return f"/collections/{_q(collection)}{'' if shard is None else f'/shards/{shard}'}/snapshots"


_WAIT = {"wait": "true"}


def _json(value: Any) -> bytes:
    """As small as it came: what Qdrant took from somebody may not be too large when it is written back."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _q(part: str) -> str:
    return quote(part, safe="")


def vectors_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The dense vectors of a collection's ``params`` by name; one without a name as ``""``. A vector may be called `size`."""
    vectors = params.get("vectors") or {}
    return {"": vectors} if isinstance(vectors.get("size"), int) else dict(vectors)


def points_of(answer: bytes) -> list[dict[str, Any]]:
    """The records of a page or of a list of records."""
    found = json.loads(answer)["result"]
    points: list[dict[str, Any]] = found["points"] if isinstance(found, dict) else found
    return points
