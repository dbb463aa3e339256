"""The HTTP front: routes, keys, limits and the words of a Qdrant server's answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pydantic_core
from aiohttp import BodyPartReader, web
from aiohttp.web_request import BaseRequest

from . import operations, queries, settings, strict, translate
from .errors import (
    BadName,
    BadQuery,
    BadRequest,
    BodyError,
    ChecksumMismatch,
    Forbidden,
    FormatError,
    NotFound,
    ServiceError,
    TooLarge,
    ValidationError,
    WrongInput,
    from_engine,
)
from .snapshots import Snapshots, listed, sha256, stored
from .store import Collection, Storage, write_json
from .telemetry import Telemetry

Json = Any
DEEPEST = 128
#: The real server closes a connection that was idle for 5 seconds.
KEEP_ALIVE_SECONDS = 5.0
COMMIT = "db8fa43fcb6aedec1e739487e17a99731b74590a"
_C = "/collections/{collection_name}"


@dataclass
class Options:
    """How one server is configured: the real server's environment variables, and LAB_QDRANT_* for what only a lab needs."""

    host: str = "127.0.0.1"
    port: int = 6333
    api_key: str = ""
    read_only_api_key: str = ""
    alt_api_key: str = ""
    jwt_rbac: bool = False
    storage_path: Path = Path("./storage")
    snapshots_path: Path = Path("./snapshots")
    max_request_mb: int = 32
    version: str = "1.18.3"
    apply_delay: float = 0.003
    switches: Path | None = None

    @classmethod
    def from_env(cls, env: dict[str, str] | None = None) -> Options:
        """Read the environment. An empty key counts as unset, as in the real server."""
        get = (os.environ if env is None else env).get
        switches = get("LAB_QDRANT_SWITCHES")
        return cls(
            host=get("QDRANT__SERVICE__HOST") or "127.0.0.1",
            port=int(get("QDRANT__SERVICE__HTTP_PORT") or 6333),
            api_key=get("QDRANT__SERVICE__API_KEY") or "",
            read_only_api_key=get("QDRANT__SERVICE__READ_ONLY_API_KEY") or "",
            alt_api_key=get("QDRANT__SERVICE__ALT_API_KEY") or "",
            jwt_rbac=(get("QDRANT__SERVICE__JWT_RBAC") or "").lower() == "true",
            storage_path=Path(get("QDRANT__STORAGE__STORAGE_PATH") or "./storage"),
            snapshots_path=Path(get("QDRANT__STORAGE__SNAPSHOTS_PATH") or "./snapshots"),
            max_request_mb=int(get("QDRANT__SERVICE__MAX_REQUEST_SIZE_MB") or 32),
            version=get("LAB_QDRANT_VERSION") or "1.18.3",
            apply_delay=float(get("LAB_QDRANT_APPLY_DELAY_MS") or 3) / 1000,
            switches=Path(switches) if switches else None,
        )


class Switches:
    """Faults that a test turns on while the server runs: a JSON file, read again whenever it changes.

    `apply_delay_ms`: how long a write with `wait=false` waits before it is applied.
    `latency_ms`: how long every request waits before it is looked at.
    `grpc`: requests that `/telemetry` counts as gRPC, {"/qdrant.Points/Upsert": {"0": 3}} (there is no gRPC here).
    `grpc_per_second`: gRPC requests that go on coming, {"/qdrant.Points/Search": 20}: so many a second since the start.
    `distributed`: true = shard keys can be created, which a real server that stands alone refuses. (Its storage can
    still have them, when it comes from a cluster; that is what this is for.)
    `lose_writes`: true = writes to points are acknowledged and thrown away.
    `fail`: a list of {"method", "endpoint" (a route's template), "status", "text", "drop"}; `drop` "before" closes the
    connection instead of doing the work, "after" does the work and closes the connection instead of answering.
    """

    def __init__(self, path: Path | None, apply_delay: float) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._apply_delay = apply_delay
        self.values: dict[str, Json] = {}

    def read(self) -> dict[str, Json]:
        """What is switched on now."""
        if self.path is None:
            return self.values
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            self._stamp, self.values = None, {}
            return self.values
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            with contextlib.suppress(ValueError):  # half written: read again at the next request
                self.values = json.loads(self.path.read_text() or "{}")
                self._stamp = stamp
        return self.values

    def apply_delay(self) -> float:
        """Seconds that a write with `wait=false` waits."""
        delay = self.values.get("apply_delay_ms")
        return self._apply_delay if delay is None else float(delay) / 1000

    def failure(self, method: str, endpoint: str) -> dict[str, Json] | None:
        """The fault that is switched on for a route."""
        for one in self.values.get("fail") or ():
            if one.get("method", method) == method and one.get("endpoint", endpoint) == endpoint:
                return dict(one)
        return None


class Plain(web.Response):
    """An answer without a Content-Type, as the real server sends its 401 and its 404 of an unknown route."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Content-Type", None)


@dataclass
class Call:
    """One request, as a route's function sees it."""

    request: BaseRequest
    names: tuple[str, ...]
    query: dict[str, str]
    started: float
    raw: bytes = b""
    body: Json = None
    extra: dict[str, Json] = field(default_factory=dict)

    @property
    def wait(self) -> bool:
        """`wait` of a write: false unless asked for."""
        return self.flag("wait", default=False)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean of the query string."""
        value = self.query.get(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise BadQuery("provided string was not `true` or `false`")
        return value == "true"


_FORBIDDEN_SIGNS = frozenset('<>:"/\\|?*\0\x1f')

Answer = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """One endpoint: its template (for the counters), what it does, and what it needs."""

    template: str
    answer: Answer
    writes: bool = False
    json: bool = False
    open: bool = False


class Server:
    """One Qdrant server: storage, keys, counters, routes."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.switches = Switches(options.switches, options.apply_delay)
        self.storage = Storage(options.storage_path, options.snapshots_path, self.switches.apply_delay)
        self.telemetry = Telemetry(options.version)
        self.peer = _peer_id(options.storage_path)
        self.snapshots = Snapshots(self.storage, self.peer)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.fixed: dict[tuple[str, ...], dict[str, Route]] = {}
        self.one_name: dict[tuple[str, ...], dict[str, Route]] = {}
        self.two_names: dict[tuple[str, ...], dict[str, Route]] = {}
        self.three_names: dict[tuple[str, ...], dict[str, Route]] = {}
        self._add_routes()

    # --- routes ---

    def route(self, method: str, template: str, answer: Answer, **needs: bool) -> None:
        """Serve `method template`. Templates have no name, the collection's, its and a last one or a shard's, or all three."""
        parts = tuple(template.strip("/").split("/")) if template != "/" else ()
        made = Route(template, answer, **needs)
        names = sum(part.startswith("{") for part in parts)
        table = (self.fixed, self.one_name, self.two_names, self.three_names)[names]
        key = tuple(part for part in parts if not part.startswith("{"))
        table.setdefault((*key, str(len(parts))), {})[method] = made

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]] | None:
        """The route of a request and the names in its path. Doubled and trailing slashes do not matter."""
        parts = [unquote(part) for part in path.split("/") if part]
        size = str(len(parts))
        routes = self.fixed.get((*parts, size))
        if routes and method in routes:
            return routes[method], ()
        if not parts:
            return None
        if parts[0] == "collections" and len(parts) > 1:
            routes = self.one_name.get(("collections", *parts[2:], size))
            if routes and method in routes:
                return routes[method], (parts[1],)
            if len(parts) > 3:
                routes = self.two_names.get(("collections", *parts[2:-1], size))
                if routes and method in routes:
                    return routes[method], (parts[1], parts[-1])
            if len(parts) > 4 and parts[2] == "shards":
                routes = self.two_names.get(("collections", "shards", *parts[4:], size))
                if routes and method in routes:
                    return routes[method], (parts[1], parts[3])
                routes = self.three_names.get(("collections", "shards", *parts[4:-1], size))
                if routes and method in routes:
                    return routes[method], (parts[1], parts[3], parts[-1])
        elif len(parts) == 2:
            routes = self.one_name.get((parts[0], size))
            if routes and method in routes:
                return routes[method], (parts[1],)
        return None

    def _add_routes(self) -> None:
        add = self.route
        add("GET", "/", self.root, open=True)
        for probe, text in (
            ("/healthz", "healthz check passed"),
            ("/livez", "healthz check passed"),
            ("/readyz", "all shards are ready"),
        ):
            add("GET", probe, _text(text), open=True)
        add("GET", "/telemetry", self.get_telemetry)
        add("GET", "/metrics", self.get_metrics)
        add("GET", "/cluster", _value({"status": "disabled"}))
        add("GET", "/issues", _value({"issues": []}))
        add("GET", "/aliases", self.list_aliases)
        add("POST", "/collections/aliases", self.change_aliases, writes=True, json=True)
        add("GET", "/collections", self.list_collections)
        add("GET", _C, self.get_collection)
        add("PUT", _C, self.create_collection, writes=True, json=True)
        add("PATCH", _C, self.patch_collection, writes=True, json=True)
        add("DELETE", _C, self.delete_collection, writes=True)
        add("GET", f"{_C}/exists", self.collection_exists)
        add("GET", f"{_C}/aliases", self.collection_aliases)
        add("GET", f"{_C}/cluster", self.collection_cluster)
        add("GET", f"{_C}/shards", self.list_shard_keys)
        add("PUT", f"{_C}/shards", self.create_shard_key, writes=True, json=True)
        add("PUT", f"{_C}/index", self.create_index, writes=True, json=True)
        add("DELETE", f"{_C}/index/{{field_name}}", self.delete_index, writes=True)
        add("PUT", f"{_C}/vectors/{{vector_name}}", self.create_vector, writes=True, json=True)
        add("DELETE", f"{_C}/vectors/{{vector_name}}", self.delete_vector, writes=True)
        for method, path, kind in (
            ("PUT", "points", "upsert"),
            ("POST", "points/delete", "delete"),
            ("PUT", "points/vectors", "update_vectors"),
            ("POST", "points/vectors/delete", "delete_vectors"),
            ("POST", "points/payload", "set_payload"),
            ("PUT", "points/payload", "overwrite_payload"),
            ("POST", "points/payload/delete", "delete_payload"),
            ("POST", "points/payload/clear", "clear_payload"),
        ):
            add(method, f"{_C}/{path}", self.write(kind), writes=True, json=True)
        add("POST", f"{_C}/points/batch", self.batch, writes=True, json=True)
        add("POST", f"{_C}/points", self.retrieve, json=True)
        add("GET", f"{_C}/points/{{id}}", self.get_point)
        add("POST", f"{_C}/points/scroll", self.scroll, json=True)
        add("POST", f"{_C}/points/count", self.count, json=True)
        add("POST", f"{_C}/points/query", self.query, json=True)
        add("POST", f"{_C}/points/query/batch", self.query_batch, json=True)
        add("POST", f"{_C}/points/query/groups", self.query_groups, json=True)
        add("POST", f"{_C}/points/search", self.search, json=True)
        add("POST", f"{_C}/points/search/batch", self.search_batch, json=True)
        add("POST", f"{_C}/points/search/groups", self.search_groups, json=True)
        add("POST", f"{_C}/points/recommend", self.recommend, json=True)
        add("POST", f"{_C}/facet", self.facet, json=True)

        add("GET", f"{_C}/snapshots", self.list_snapshots)
        add("POST", f"{_C}/snapshots", self.create_snapshot, writes=True)
        add("POST", f"{_C}/snapshots/upload", self.upload_snapshot, writes=True)
        add("PUT", f"{_C}/snapshots/recover", self.recover_snapshot, writes=True, json=True)
        add("GET", f"{_C}/snapshots/{{snapshot_name}}", self.download_snapshot)
        add("DELETE", f"{_C}/snapshots/{{snapshot_name}}", self.delete_snapshot, writes=True)
        add("GET", "/snapshots", self.list_full_snapshots)
        add("POST", "/snapshots", self.create_full_snapshot, writes=True)
        add("GET", "/snapshots/{snapshot_name}", self.download_full_snapshot)
        add("DELETE", "/snapshots/{snapshot_name}", self.delete_full_snapshot, writes=True)
        add("GET", f"{_C}/shards/{{shard_id}}/snapshot/partial/manifest", self.shard_manifest)
        add("GET", f"{_C}/shards/{{shard}}/snapshot", self.stream_shard, writes=True)
        of_shard = f"{_C}/shards/{{shard}}/snapshots"
        add("GET", of_shard, self.list_shard_snapshots)
        add("POST", of_shard, self.create_shard_snapshot, writes=True)
        add("PUT", f"{of_shard}/recover", self.recover_shard_snapshot, writes=True, json=True)
        add("GET", f"{of_shard}/{{snapshot}}", self.download_shard_snapshot)
        add("DELETE", f"{of_shard}/{{snapshot}}", self.delete_shard_snapshot, writes=True)

    # --- one request ---

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        """Answer one request and count it."""
        started = time.perf_counter()
        target = request.rel_url.raw_path
        found = self.find(request.method, target)
        values = self.switches.read()
        if values.get("latency_ms"):
            await asyncio.sleep(float(values["latency_ms"]) / 1000)
        fault = self.switches.failure(request.method, found[0].template) if found else None
        try:
            if fault and fault.get("drop") == "before":
                return _dropped(request)
            if fault and not fault.get("drop"):
                raise _Switched(str(fault.get("text") or "switched off by the lab"), int(fault.get("status") or 500))
            answer = await self._answer(request, found, started)
        except ServiceError as error:
            answer = _refusal(error, started)
        except web.HTTPException as error:
            answer = _refusal(ServiceError(error.reason, status=error.status), started)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = _refusal(from_engine(error), started)
        if fault and fault.get("drop") == "after":
            answer = _dropped(request)
        if found:
            self.telemetry.add(request.method, found[0].template, answer.status, time.perf_counter() - started)
        return answer

    async def _answer(
        self, request: BaseRequest, found: tuple[Route, tuple[str, ...]] | None, started: float
    ) -> web.StreamResponse:
        may_write = self._check_key(request, opened=bool(found and found[0].open))
        if found is None:
            await request.read()
            return Plain(status=404)
        route, names = found
        text = request.rel_url.raw_query_string
        call = Call(request, names, dict(parse_qsl(text)) if text else {}, started)
        if route.json:
            call.raw = await self._read(request)
            call.body = _parse(call.raw)
        if route.writes and not may_write:
            # As in the real server: what is no JSON, and a write to a collection that is not there, is told first.
            if "/points" in route.template:
                self.storage.get(names[0])
                if call.body == {"operations": []}:
                    return _ok([], started)
            await _swallow(request)
            refusal = Forbidden("Global manage access is required")
            refusal.plain = route.template.endswith("/upload")
            raise refusal
        if names and "/points" in route.template:
            strict.check(request.method, route.template, call.body, self.storage.get(names[0]))
        try:
            result = await route.answer(call)
        except BodyError as error:
            raise error.placed(call.raw) from error
        if isinstance(result, web.StreamResponse):
            return result
        return _ok(result, started)

    def _check_key(self, request: BaseRequest, opened: bool) -> bool:
        """Whether the key may write; raises the 401 of a missing or wrong key."""
        options = self.options
        full = [key for key in (options.api_key, options.alt_api_key) if key]
        if opened or not (full or options.read_only_api_key):
            return True
        key = request.headers.get("api-key")
        if key is None:
            bearer = request.headers.get("Authorization", "")
            if not bearer.startswith("Bearer "):
                raise _Unauthorized("Must provide an API key or an Authorization bearer token")
            key = bearer[7:]
        if any(hmac.compare_digest(key.encode(), one.encode()) for one in full):
            return True
        if options.read_only_api_key and hmac.compare_digest(key.encode(), options.read_only_api_key.encode()):
            return False
        if options.jwt_rbac and (claims := _claims(key, full)) is not None:
            return bool(claims.get("access") == "m")
        raise _Unauthorized("Invalid API key or JWT")

    async def _read(self, request: BaseRequest) -> bytes:
        most = self.options.max_request_mb * 1024 * 1024
        length = request.content_length or 0
        if length > most:
            raise TooLarge(f"Payload error: JSON payload ({length} bytes) is larger than allowed (limit: {most} bytes).")
        await _go_on(request)
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise TooLarge(f"Payload error: JSON payload is larger than allowed (limit: {most} bytes).") from error

    # --- service ---

    async def root(self, call: Call) -> Any:
        version = self.options.version
        body = pydantic_core.to_json({"title": "qdrant - vector search engine", "version": version, "commit": COMMIT})
        return web.Response(body=body, content_type="application/json")

    async def get_telemetry(self, call: Call) -> Any:
        return self.telemetry.report(self.storage, self._grpc())

    def _grpc(self) -> dict[str, dict[str, int]]:
        found = {method: dict(by_code) for method, by_code in (self.switches.values.get("grpc") or {}).items()}
        for method, rate in (self.switches.values.get("grpc_per_second") or {}).items():
            by_code = found.setdefault(method, {})
            by_code["0"] = by_code.get("0", 0) + int(rate * self.telemetry.age())
        return found

    async def get_metrics(self, call: Call) -> Any:
        return web.Response(text=self.telemetry.metrics(self.storage), charset="utf-8")

    # --- collections ---

    async def list_collections(self, call: Call) -> Any:
        return {"collections": [{"name": name} for name in sorted(self.storage.collections)]}

    async def get_collection(self, call: Call) -> Any:
        return self.storage.get(call.names[0]).info()

    async def create_collection(self, call: Call) -> Any:
        name = call.names[0]
        config = settings.new(call.body)
        if not 1 <= len(name) <= 255 or _FORBIDDEN_SIGNS & set(name):
            raise BadName(name)
        self.storage.create(name, config)
        return True

    async def patch_collection(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        collection.config = settings.patched(collection.config, call.body)
        collection.save()
        return True

    async def delete_collection(self, call: Call) -> Any:
        return self.storage.drop(call.names[0])

    async def collection_exists(self, call: Call) -> Any:
        try:
            self.storage.get(call.names[0])
        except NotFound:
            return {"exists": False}
        return {"exists": True}

    async def collection_cluster(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        shards: list[dict[str, Json]] = []
        for shard in collection.shards:
            one: dict[str, Json] = {"shard_id": shard.number}
            if collection.shard_keys:
                one["shard_key"] = collection.shard_keys[shard.number]
            shards.append(one | {"points_count": shard.engine.info().points_count, "state": "Active"})
        return {
            "peer_id": self.peer,
            "shard_count": len(shards),
            "local_shards": shards,
            "remote_shards": [],
            "shard_transfers": [],
        }

    async def list_shard_keys(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        if not settings.custom_sharding(collection.config):
            return {}
        return {"shard_keys": [{"key": key} for key in collection.shard_keys]}

    async def create_shard_key(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        key = call.body.get("shard_key") if isinstance(call.body, dict) else None
        if not self.switches.values.get("distributed"):
            raise BadRequest("Distributed mode disabled")
        if not settings.custom_sharding(collection.config):
            raise BadRequest(f"Shard Key {key} cannot be created with Auto sharding method")
        if key in collection.shard_keys:
            raise BadRequest(f"Shard key {key} already exists")
        collection.add_shard_key(key, self.storage.delay)
        return True

    async def list_aliases(self, call: Call) -> Any:
        return {"aliases": _aliases(self.storage.aliases)}

    async def collection_aliases(self, call: Call) -> Any:
        name = call.names[0]
        return {"aliases": _aliases({alias: of for alias, of in self.storage.aliases.items() if of == name})}

    async def change_aliases(self, call: Call) -> Any:
        if not isinstance(call.body, dict) or not isinstance(call.body.get("actions"), list):
            raise BodyError("missing field `actions`")
        try:
            self.storage.change_aliases(call.body["actions"])
        except (KeyError, TypeError) as error:
            raise BodyError(f"missing field `{error}`") from error
        return True

    # --- writes ---

    async def _write(self, collection: Collection, kind: str, body: Json, raw: bytes | None, wait: bool) -> Any:
        if self.switches.values.get("lose_writes") and kind in operations.KINDS:
            collection.parts(kind, body)
            return {"operation_id": 1, "status": "completed" if wait else "acknowledged"}
        number, outcomes = collection.submit(kind, body, raw, wait)
        refused: list[ServiceError] = []
        for outcome in outcomes:
            try:
                if isinstance(outcome, asyncio.Future):
                    await outcome
                elif outcome is not None:
                    refused.append(outcome)
            except ServiceError as error:
                refused.append(error)
        if wait and refused:
            raise _of_shards(refused, len(outcomes))
        return {"operation_id": number, "status": "completed" if wait else "acknowledged"}

    def write(self, kind: str) -> Answer:
        """The route's function of one kind of write."""

        async def answer(call: Call) -> Any:
            return await self._write(self.storage.get(call.names[0]), kind, call.body, call.raw, call.wait)

        return answer

    async def batch(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        if not isinstance(call.body, dict) or not isinstance(call.body.get("operations"), list):
            raise BodyError("missing field `operations`")
        results = []
        for one in call.body["operations"]:
            kind = next(iter(one), "") if isinstance(one, dict) else ""
            if kind not in operations.KINDS:
                raise BodyError("data did not match any variant of untagged enum UpdateOperation")
            results.append(await self._write(collection, kind, one[kind], None, call.wait))
        return results

    async def create_index(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        if isinstance(call.body, dict) and call.body.get("field_schema") is None:
            raise BadRequest("Can't auto-detect field type, please specify `field_schema` in the request")
        result = await self._write(collection, "create_index", call.body, call.raw, call.wait)
        collection.schema[call.body["field_name"]] = settings.index_params(call.body["field_schema"])
        collection.save()
        return result

    async def delete_index(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        body = {"field_name": call.names[1]}
        result = await self._write(collection, "delete_index", body, None, call.wait)
        if collection.schema.pop(call.names[1], None) is not None:
            collection.save()
        return result

    async def create_vector(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        name = call.names[1]
        params = collection.config["params"]
        kind = next((one for one in ("dense", "sparse") if isinstance(call.body, dict) and one in call.body), None)
        if kind is None:
            raise FormatError("data did not match any variant of untagged enum VectorNameConfig")
        given = settings.without_nulls(call.body[kind])
        if name in collection.vector_names():
            known = settings.dense(collection.config).get(name) or settings.sparse(collection.config).get(name)
            if any((known or {}).get(field) != value for field, value in given.items()):
                raise WrongInput(f"Vector `{name}` already exists with a different configuration")
        result = await self._write(collection, "create_vector", {"name": name} | call.body, None, call.wait)
        if name not in collection.vector_names():
            group = "vectors" if kind == "dense" else "sparse_vectors"
            params[group] = params.get(group, {}) | {name: given}
            collection.save()
        return result

    async def delete_vector(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        name = call.names[1]
        result = await self._write(collection, "delete_vector", {"name": name}, None, call.wait)
        for group in ("vectors", "sparse_vectors"):
            if name in settings.dense(collection.config) or name in settings.sparse(collection.config):
                collection.config["params"].get(group, {}).pop(name, None)
        collection.save()
        return result

    # --- reads ---

    async def retrieve(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        body = call.body
        if not isinstance(body, dict) or "ids" not in body:
            raise BodyError("missing field `ids`")
        with_payload = translate.payload_selector(body.get("with_payload"), default=False)
        with_vector = translate.vector_selector(body.get("with_vector", body.get("with_vectors")))
        records = collection.retrieve(translate.point_ids(body["ids"]), with_payload, with_vector)
        return translate.records_out(records, with_payload is not False, with_vector is not False)

    async def get_point(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        text = call.names[1]
        try:
            identifier = translate.point_id(int(text) if text.isdigit() else text)
        except BodyError as error:
            raise WrongInput(f'Can not recognize "{text}" as point id') from error
        records = collection.retrieve([identifier], True, True)
        if not records:
            raise NotFound(f"Point with id {text} does not exists!")
        return translate.records_out(records, with_payload=True, with_vector=True)[0]

    async def scroll(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        body = call.body
        if not isinstance(body, dict):
            raise BodyError("invalid type: expected struct ScrollRequest")
        limit = 10 if body.get("limit") is None else body["limit"]
        if not isinstance(limit, int) or limit < 0:
            raise BodyError(f"invalid value: integer `{limit}`, expected usize")
        if limit < 1:
            raise ValidationError(f"[scroll_request.limit: value {limit} invalid, must be 1 or larger]")
        offset = translate.point_id(body["offset"]) if body.get("offset") is not None else None
        with_payload = translate.payload_selector(body.get("with_payload"), default=True)
        with_vector = translate.vector_selector(body.get("with_vector", body.get("with_vectors")))
        filter_ = translate.filter_in(body.get("filter"))
        order = translate.order_by(body.get("order_by"))
        try:
            records, following = collection.scroll(limit, offset, filter_, with_payload, with_vector, order)
        except Exception as error:
            raise from_engine(error) from error
        return {
            "points": translate.records_out(records, with_payload is not False, with_vector is not False),
            "next_page_offset": None if following is None else translate.id_out(following),
        }

    async def count(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        body = call.body if isinstance(call.body, dict) else {}
        exact = body.get("exact")
        filter_ = translate.filter_in(body.get("filter"))
        return {"count": collection.count(filter_, True if exact is None else bool(exact))}

    def _query(self, call: Call, body: Json) -> list[Json]:
        return queries.run(self.storage, self.storage.get(call.names[0]), body)

    async def query(self, call: Call) -> Any:
        return {"points": self._query(call, call.body)}

    async def query_batch(self, call: Call) -> Any:
        return [{"points": self._query(call, one)} for one in call.body["searches"]]

    async def query_groups(self, call: Call) -> Any:
        return queries.groups(self.storage, self.storage.get(call.names[0]), call.body)

    async def search(self, call: Call) -> Any:
        body = queries.search_as_query(call.body)
        return queries.run(self.storage, self.storage.get(call.names[0]), body, request_name="search_request")

    async def search_batch(self, call: Call) -> Any:
        return [self._query(call, queries.search_as_query(one)) for one in call.body["searches"]]

    async def search_groups(self, call: Call) -> Any:
        body = queries.search_as_query({"limit": 10} | call.body)
        return queries.groups(self.storage, self.storage.get(call.names[0]), body)

    async def recommend(self, call: Call) -> Any:
        return self._query(call, queries.recommend_as_query(call.body))

    async def facet(self, call: Call) -> Any:
        return queries.facet(self.storage.get(call.names[0]), call.body)

    # --- snapshots ---

    async def _in_time(self, call: Call, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for the work, or with `wait=false` accept it (202) and go on. A client that leaves does not stop it."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._finished)
        if call.flag("wait", default=True):
            return await asyncio.shield(task)
        return web.Response(status=202, body=b'{"status":"accepted","time":0.0}', content_type="application/json")

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: with wait=false nobody asks for it

    def _folder(self, call: Call) -> Path:
        return self.snapshots.folder(self.storage.get(call.names[0]).name)

    def _folder_of_shard(self, call: Call) -> Path:
        collection = self.storage.get(call.names[0])
        return self.snapshots.folder(collection.name, collection.shard(call.names[1]).number)

    async def list_snapshots(self, call: Call) -> Any:
        return listed(self._folder(call))

    async def create_snapshot(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])

        async def work() -> Any:
            result = await self.snapshots.create(collection)
            created = self.telemetry.snapshots_created
            created[collection.name] = created.get(collection.name, 0) + 1
            return result

        return await self._in_time(call, work())

    async def list_shard_snapshots(self, call: Call) -> Any:
        return listed(self._folder_of_shard(call))

    async def create_shard_snapshot(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        return await self._in_time(call, self.snapshots.create_of_shard(collection, collection.shard(call.names[1])))

    async def recover_shard_snapshot(self, call: Call) -> Any:
        body = call.body
        if not isinstance(body, dict) or not isinstance(body.get("location"), str):
            raise BodyError("missing field `location`")
        collection = self.storage.get(call.names[0])
        shard = collection.shard(call.names[1])
        work = self.snapshots.recover_shard(collection, shard, body["location"], body.get("checksum"), body.get("api_key"))
        return await self._in_time(call, self._recovering(collection.name, work))

    async def download_shard_snapshot(self, call: Call) -> Any:
        try:
            return _file(lambda: stored(self._folder_of_shard(call), call.names[2]))
        except NotFound:
            return web.Response(status=404)

    async def delete_shard_snapshot(self, call: Call) -> Any:
        folder, name = self._folder_of_shard(call), call.names[2]
        try:
            self.snapshots.delete(folder, name)
        except NotFound:
            raise NotFound(f'Snapshot "{folder / name}" not found') from None
        return True

    async def upload_snapshot(self, call: Call) -> Any:
        name = call.names[0]
        await _go_on(call.request)
        kind = call.request.headers.get("Content-Type")
        if kind is None:
            return web.Response(status=400, text="Could not find Content-Type header", charset="utf-8")
        if not kind.startswith("multipart/"):
            return web.Response(status=415, text="ContentTypeIncompatible", charset="utf-8")
        try:
            reader = await call.request.multipart()
            part = await reader.next()
        except (AssertionError, ValueError) as error:
            raise BadRequest(f"Multipart error: {error}") from error
        if not isinstance(part, BodyPartReader) or part.name != "snapshot":
            raise BadRequest("Field with name `snapshot` is required")
        file_name = Path(part.filename or f"{uuid.uuid4()}.snapshot").name
        folder = self.snapshots.temporary(self.storage.snapshots)
        try:
            spooled = folder / file_name
            with spooled.open("wb") as file:
                while chunk := await part.read_chunk(1 << 20):
                    file.write(chunk)
            checksum = call.query.get("checksum")
            if checksum is not None:
                found = await asyncio.to_thread(sha256, spooled)
                if found != checksum.lower():
                    raise ChecksumMismatch(f"expected {found}, actual {checksum}")  # in this order, so the real one
            path = self.snapshots.folder(name) / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            spooled.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return await self._in_time(call, self._recovering(name, self.snapshots.recover_file(name, path, None)))

    async def recover_snapshot(self, call: Call) -> Any:
        body = call.body
        if not isinstance(body, dict) or not isinstance(body.get("location"), str):
            raise BodyError("missing field `location`")
        name = call.names[0]
        work = self.snapshots.recover(name, body["location"], body.get("checksum"), body.get("api_key"))
        return await self._in_time(call, self._recovering(name, work))

    async def _recovering(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        collection = self.storage.collections.get(name)
        if collection is not None:
            collection.recovering = True
        try:
            await work
        finally:
            if collection is not None:
                collection.recovering = False
        return True

    async def download_snapshot(self, call: Call) -> Any:
        return _file(lambda: stored(self._folder(call), call.names[1]))

    async def delete_snapshot(self, call: Call) -> Any:
        self.snapshots.delete(self._folder(call), call.names[1])
        return True

    async def list_full_snapshots(self, call: Call) -> Any:
        return listed(self.storage.snapshots)

    async def create_full_snapshot(self, call: Call) -> Any:
        return await self._in_time(call, self.snapshots.create_full())

    async def download_full_snapshot(self, call: Call) -> Any:
        return _file(lambda: stored(self.storage.snapshots, call.names[0]))

    async def delete_full_snapshot(self, call: Call) -> Any:
        self.snapshots.delete(self.storage.snapshots, call.names[0])
        return True

    async def shard_manifest(self, call: Call) -> Any:
        collection = self.storage.get(call.names[0])
        return collection.shard(call.names[1]).engine.snapshot_manifest()

    async def stream_shard(self, call: Call) -> Any:
        """Only what comes before the file: the right to write, and that the collection exists."""
        self.storage.get(call.names[0])
        raise ServiceError("snapshots of single shards are not modelled by the lab")

    # --- life ---

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT; then finish what runs, apply what waits, flush and return."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        most = self.options.max_request_mb * 1024 * 1024 + 1024

        def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> BaseRequest:
            return BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=most)

        runner = web.ServerRunner(
            web.Server(
                self.handle, request_factory=make, keepalive_timeout=KEEP_ALIVE_SECONDS, lingering_time=1.0, access_log=None
            )
        )
        await runner.setup()
        site = web.TCPSite(runner, self.options.host, self.options.port, shutdown_timeout=30, backlog=1024)
        await site.start()
        flushing = loop.create_task(self._flush_now_and_then())
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        if ready is not None:
            ready()
        await stop.wait()
        flushing.cancel()
        await runner.cleanup()
        for task in self.tasks:
            with contextlib.suppress(Exception):
                await task
        self.storage.close()

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.storage.flush()


class _Unauthorized(ServiceError):
    status = 401
    prefix = ""


class _Switched(ServiceError):
    prefix = ""


def _of_shards(refused: list[ServiceError], shards: int) -> ServiceError:
    """The refusal of a write: the shards' own where all refused, else one that says how many did."""
    first = refused[0]
    if len(refused) == shards:
        return first
    text = f"{len(refused)} out of {shards} shards failed to apply operation. First error captured: {first}"
    return type(first)(text)


def _aliases(aliases: dict[str, str]) -> list[dict[str, str]]:
    return [{"alias_name": alias, "collection_name": name} for alias, name in sorted(aliases.items())]


def _text(text: str) -> Answer:
    async def answer(call: Call) -> Any:
        return web.Response(text=text, charset="utf-8")

    return answer


def _value(value: Json) -> Answer:
    async def answer(call: Call) -> Any:
        return value

    return answer


def _parse(raw: bytes) -> Json:
    if not raw:
        raise FormatError("EOF while parsing a value at line 1 column 0")
    _refuse_too_deep(raw)
    try:
        return pydantic_core.from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise FormatError(str(error)) from error


def _refuse_too_deep(raw: bytes) -> None:
    """The real server's JSON reader gives up at the 128th bracket that is open (seen on 1.18.3)."""
    if raw.count(b"{") + raw.count(b"[") < DEEPEST:
        return
    depth = 0
    for found in re.finditer(rb'"(?:\\.|[^"\\])*"|[\[\]{}]', raw):
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(found[0], 0)
        if depth == DEEPEST:
            line, column = raw.count(b"\n", 0, found.start()) + 1, found.end() - (raw.rfind(b"\n", 0, found.start()) + 1)
            raise FormatError(f"recursion limit exceeded at line {line} column {column}")


def _claims(token: str, keys: list[str]) -> dict[str, Any] | None:
    """The claims of a token (JWT, HS256) that one of the keys signed and that has not ended; None: not such a one."""
    said, _, signature = token.rpartition(".")
    for key in keys:
        right = base64.urlsafe_b64encode(hmac.digest(key.encode(), said.encode(), "sha256")).rstrip(b"=").decode()
        if hmac.compare_digest(right, signature):
            claims = json.loads(base64.urlsafe_b64decode(said.partition(".")[2] + "=="))
            return dict(claims) if claims.get("exp", time.time() + 1) > time.time() else None
    return None


async def _go_on(request: BaseRequest) -> None:
    """Tell a client that waits for it to send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _file(find: Callable[[], Path]) -> web.StreamResponse:
    """A stored file, with Range; a refusal of this endpoint is plain text."""
    try:
        path = find()
    except NotFound as error:
        error.plain = True
        raise
    headers = {"Content-Disposition": f'attachment; filename="{path.name}"', "Content-Type": "application/octet-stream"}
    return web.FileResponse(path, headers=headers, chunk_size=1 << 20)


def _peer_id(storage: Path) -> int:
    """The id by which a server names itself in its snapshots; it stays the same over restarts."""
    path = storage / "raft_state.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(json.loads(path.read_text())["this_peer_id"])
    peer = secrets.randbelow(2**52)
    write_json(path, {"this_peer_id": peer})
    return peer


async def _swallow(request: BaseRequest) -> None:
    with contextlib.suppress(Exception):
        await request.read()


def _ok(result: Json, started: float) -> web.Response:
    body = pydantic_core.to_json(result, inf_nan_mode="null")  # a vector may hold what JSON has no word for
    tail = f',"status":"ok","time":{time.perf_counter() - started:.9f}}}'.encode()
    return web.Response(body=b"".join((b'{"result":', body, tail)), content_type="application/json")


def _refusal(error: ServiceError, started: float) -> web.Response:
    if isinstance(error, _Unauthorized):
        return Plain(status=401, text=error.text)
    if error.plain:
        return web.Response(status=error.status, text=error.text, charset="utf-8")
    seconds = 0.0 if isinstance(error, (FormatError, ValidationError)) else time.perf_counter() - started
    body = pydantic_core.to_json({"status": {"error": error.text}, "time": round(seconds, 9)})
    return web.Response(status=error.status, body=body, content_type="application/json", headers=error.headers)


def _dropped(request: BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def die_with_parent() -> None:
    """Kill this process when the one that started it is gone, however that ended.

    PR_SET_PDEATHSIG alone follows the *thread* that started the process; waiting for the parent's pidfd does not.
    """
    parent = os.getppid()
    try:
        handle = os.pidfd_open(parent)
    except OSError:
        return

    def watch() -> None:
        import select

        select.select([handle], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent").start()
