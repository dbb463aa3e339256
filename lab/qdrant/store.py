"""Collections, their shards and the queue through which every write goes; all of it survives a kill.

A write is acknowledged before it is applied: that is the real server's `wait=false`, and the reason why a copy that
reads too early copies an old state. Here each shard has its own queue, applied strictly in order. A write with
`wait=true` goes through the same queue and is answered when it was applied; what it reaches is only the shards of its
ids, so one id is no barrier for a collection of several shards.

An acknowledged write is on disk: applied ones in the engine's write-ahead log, waiting ones in the file `waiting` of
their shard, from which they are applied after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import struct
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic_core
import qdrant_edge as edge

from . import operations, settings
from .errors import AlreadyExists, BodyError, Internal, NotFound, ServiceError, WrongInput, from_engine
from .sparse import copy_tree
from .translate import id_order

Json = Any

#: The real server blocks a writer when so many operations wait; here the oldest are applied at once instead.
QUEUE_BOUND = 200
_HEADER = struct.Struct("<Q")
_RECORD = struct.Struct("<QII")


def write_json(path: Path, value: Json) -> None:
    """Replace a small JSON file so that a kill leaves the old or the new one."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(value, ensure_ascii=False))
    temporary.replace(path)


#: How a write on one shard ended: not yet (to be awaited), refused, or well.
Outcome = asyncio.Future[None] | ServiceError | None


@dataclass
class Waiting:
    """One write in a shard's queue."""

    number: int
    ready_at: float
    engine_operations: list[Any]
    done: asyncio.Future[None] | None
    recorded: bool


class Shard:
    """One shard: the engine, the queue in front of it, and the file of acknowledged writes that wait."""

    def __init__(self, number: int, path: Path, engine: edge.EdgeShard, delay: Callable[[], float]) -> None:
        self.number = number
        self.path = path
        self.engine = engine
        self.delay = delay
        self.queue: deque[Waiting] = deque()
        self.operation = 0
        self.dirty = False
        self._timer: asyncio.TimerHandle | None = None
        self._file = os.open(path / "waiting", os.O_RDWR | os.O_CREAT, 0o644)
        self._size = os.fstat(self._file).st_size

    # --- the file of waiting writes ---

    def records(self) -> list[tuple[int, str, bytes]]:
        """Acknowledged writes that were not applied when the server was killed: (number, kind, body)."""
        data = os.pread(self._file, self._size, 0)
        if len(data) < _HEADER.size:
            return []
        (applied,) = _HEADER.unpack_from(data)
        self.operation = max(self.operation, applied)
        found, at = [], _HEADER.size
        while at + _RECORD.size <= len(data):
            number, kind_size, body_size = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size + kind_size + body_size
            if end > len(data):
                break  # torn by a kill before it was acknowledged
            kind = data[at + _RECORD.size : at + _RECORD.size + kind_size].decode()
            if number > applied:
                found.append((number, kind, data[at + _RECORD.size + kind_size : end]))
            at = end
        return found

    def _record(self, number: int, kind: str, body: bytes) -> None:
        if self._size < _HEADER.size:
            os.pwrite(self._file, _HEADER.pack(number - 1), 0)
            self._size = _HEADER.size
        name = kind.encode()
        data = _RECORD.pack(number, len(name), len(body)) + name + body
        os.pwrite(self._file, data, self._size)
        self._size += len(data)

    def _applied(self, number: int) -> None:
        os.pwrite(self._file, _HEADER.pack(number), 0)
        if not any(one.recorded for one in self.queue) and self._size > _HEADER.size:
            os.ftruncate(self._file, _HEADER.size)
            self._size = _HEADER.size

    # --- the queue ---

    def submit(self, kind: str, body: bytes, engine_operations: list[Any], wait: bool) -> tuple[int, Outcome]:
        """Queue a write; returns its number and, with `wait`, what to await, or how it ended if it is applied already."""
        self.operation += len(engine_operations)
        number = self.operation
        if len(self.queue) >= QUEUE_BOUND:
            self.apply_all()
        if wait and not self.queue:
            try:
                self._apply(engine_operations)
            except ServiceError as error:
                return number, error
            return number, None
        now = time.monotonic()
        if not wait:
            self._record(number, kind, body)
        done = asyncio.get_running_loop().create_future() if wait else None
        ready_at = now if wait else now + self.delay()
        self.queue.append(Waiting(number, ready_at, engine_operations, done, not wait))
        self._arm()
        return number, done

    def _arm(self) -> None:
        if self._timer is None and self.queue:
            wait = max(0.0, self.queue[0].ready_at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self._fire)

    def _fire(self) -> None:
        self._timer = None
        started = time.monotonic()
        while self.queue and self.queue[0].ready_at <= time.monotonic() + 0.0005:
            self._apply_first()
            if time.monotonic() - started > 0.02:  # let requests through
                break
        self._arm()

    def _apply_first(self) -> None:
        one = self.queue.popleft()
        try:
            self._apply(one.engine_operations)
        except Exception as error:  # a write that was acknowledged and cannot be applied is lost without a word
            if one.done is not None and not one.done.done():
                one.done.set_exception(error)
        else:
            if one.done is not None and not one.done.done():
                one.done.set_result(None)
        if one.recorded:
            self._applied(one.number)

    def _apply(self, engine_operations: list[Any]) -> None:
        self.dirty = True
        try:
            for operation in engine_operations:
                self.engine.update(operation)
        except Exception as error:
            raise from_engine(error) from error

    def apply_all(self) -> None:
        """Apply everything that waits, now."""
        while self.queue:
            self._apply_first()

    def length(self) -> int:
        """`update_queue.length` of this shard: like the real one it does not count the write being applied."""
        return max(0, len(self.queue) - 1)

    def flush(self) -> None:
        """Bring what was applied from the write-ahead log into the segments."""
        if self.dirty:
            self.engine.flush()
            self.dirty = False

    def close(self) -> None:
        """Apply what waits, flush and release the files."""
        if self._timer is not None:
            self._timer.cancel()
        self.apply_all()
        self.engine.close()
        os.close(self._file)


def create_shard(path: Path, config: settings.Config) -> None:
    """The files of a new, empty shard.

    The engine takes four times as long to make them as it takes to copy them (two dozen times it waits for the disk), so the servers
    that one process forks copy what the first of them made with the same settings. The segment's name stays its own.
    """
    path.mkdir()  # fails where there is one
    kept = _kept_for(config)
    if kept is None:
        _make_shard(path, config)
        return
    copy_tree(kept, path)
    for segment in (path / "segments").iterdir():
        segment.rename(segment.with_name(str(uuid.uuid4())))


def _make_shard(path: Path, config: settings.Config) -> None:
    edge.EdgeShard.create(str(path), settings.engine_config(config)).close()


def _kept_for(config: settings.Config) -> Path | None:
    """An empty shard with these settings, made where there is none; None where no folder is shared, or no longer."""
    if "LAB_FORKSERVER" not in os.environ:
        return None
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    kept = Path(os.environ["LAB_FORKSERVER"]).with_name("shards") / name
    if kept.exists():
        return kept
    building = kept.with_name(f".{uuid.uuid4()}")
    try:
        kept.parent.mkdir(exist_ok=True)
        building.mkdir()
    except FileNotFoundError:
        return None
    _make_shard(building, config)
    with contextlib.suppress(OSError):  # another was first
        building.rename(kept)
    return kept


def load_engine(path: Path, config: settings.Config) -> edge.EdgeShard:
    """Open a shard's files. The engine keeps a shard's own settings beside them; those of a real server it has to be told."""
    told = (path / "edge_config.json").is_file()
    return edge.EdgeShard.load(str(path)) if told else edge.EdgeShard.load(str(path), settings.engine_config(config))


class Collection:
    """One collection: settings, payload indexes and shards."""

    def __init__(self, name: str, path: Path, config: settings.Config, schema: dict[str, Json]) -> None:
        self.name = name
        self.path = path
        self.config = config
        self.schema = schema
        self.shards: list[Shard] = []
        self.shard_keys: list[Json] = []
        self.recovering = False
        self.arriving = False
        #: Of strict mode: requests that may still be answered at once, and when that was counted, by kind.
        self.rates: dict[str, tuple[float, float]] = {}

    @classmethod
    def create(cls, name: str, path: Path, config: settings.Config, delay: Callable[[], float]) -> Collection:
        """A new, empty collection in `path` (which must not exist)."""
        building = path.with_name(f".{uuid.uuid4()}")
        building.mkdir(parents=True)
        for number in range(0 if settings.custom_sharding(config) else config["params"]["shard_number"]):
            create_shard(building / str(number), config)
        write_json(building / "config.json", config)
        write_json(building / "payload_index.json", {"schema": {}})
        building.rename(path)
        return cls.load(name, path, delay)

    @classmethod
    def load(cls, name: str, path: Path, delay: Callable[[], float]) -> Collection:
        """Open a collection; acknowledged writes that waited when the server was killed are applied first."""
        config = json.loads((path / "config.json").read_text())
        schema = json.loads((path / "payload_index.json").read_text())["schema"]
        collection = cls(name, path, config, schema)
        with contextlib.suppress(FileNotFoundError):
            mapping = json.loads((path / "shard_key_mapping.json").read_text())
            collection.shard_keys = [one["key"] for one in mapping]
        count = len(collection.shard_keys) if settings.custom_sharding(config) else config["params"]["shard_number"]
        for number in range(count):
            collection.open_shard(number, delay)
        for shard in collection.shards:
            for _, kind, body in shard.records():
                with contextlib.suppress(Exception):
                    parts = collection.parts(kind, pydantic_core.from_json(body))
                    for operation in parts.get(shard.number, []):
                        shard.engine.update(operation)
                        shard.dirty = True
            shard.flush()
            os.ftruncate(shard._file, 0)
            shard._size = 0
        return collection

    def open_shard(self, number: int, delay: Callable[[], float]) -> None:
        """Open one shard's files."""
        path = self.path / str(number)
        engine = load_engine(path, self.config)
        self.shards.append(Shard(number, path, engine, delay))

    def shard(self, number: str) -> Shard:
        """The shard that a path names."""
        if not number.isdigit() or int(number) >= len(self.shards):
            raise NotFound(f"shard {number} not found")
        return self.shards[int(number)]

    def replace_shard(self, shard: Shard, folder: Path, delay: Callable[[], float]) -> None:
        """Put the files in `folder` in the place of a shard's, and open them."""
        shard.close()
        shutil.rmtree(shard.path)
        folder.rename(shard.path)
        self.shards[shard.number] = Shard(shard.number, shard.path, load_engine(shard.path, self.config), delay)

    def add_shard_key(self, key: Json, delay: Callable[[], float]) -> None:
        """A new shard for the records of one shard key."""
        number = len(self.shards)
        create_shard(self.path / str(number), self.config)
        self.open_shard(number, delay)
        self.shard_keys.append(key)
        self.save()

    def parts(self, kind: str, body: Json) -> operations.ByShard:
        """One write by shard."""
        if not settings.custom_sharding(self.config):
            return operations.build(kind, body, self.config, len(self.shards))
        if kind not in operations.KINDS:
            parts = operations.build(kind, body, self.config, 1)
            return {shard.number: parts[0] for shard in self.shards}
        key = body.get("shard_key") if isinstance(body, dict) else None
        if key is None:
            raise WrongInput("Shard key not specified")
        if key not in self.shard_keys:
            raise WrongInput(f"Shard key {json.dumps(key)} not found")
        return {self.shard_keys.index(key): operations.build(kind, body, self.config, 1)[0]}

    def save(self) -> None:
        """Write settings, index schema and shard keys."""
        write_json(self.path / "shard_key_mapping.json", self.key_mapping())
        write_json(self.path / "config.json", self.config)
        write_json(self.path / "payload_index.json", {"schema": self.schema})

    def key_mapping(self) -> Json:
        """Custom shard keys as they are stored: the shard of each."""
        return [{"key": key, "shard_ids": [number]} for number, key in enumerate(self.shard_keys)]

    def submit(self, kind: str, body: Json, raw: bytes | None, wait: bool) -> tuple[int, list[Outcome]]:
        """Queue one write; returns its operation id and what to await."""
        parts = self.parts(kind, body)
        if raw is None and not wait:
            raw = pydantic_core.to_json(body)
        highest = 0
        outcomes: list[Outcome] = []
        for number, engine_operations in parts.items():
            operation, done = self.shards[number].submit(kind, raw or b"", engine_operations, wait)
            highest = max(highest, operation)
            outcomes.append(done)
        return highest, outcomes

    # --- reads ---

    def must_be_there(self) -> None:
        """Refuse to read a collection whose first recovery is under way: it is listed already, its shards are not there."""
        if self.arriving:
            count = len(self.shards)
            raise Internal(f"{count} of {count} read operations failed:\n  Service internal error: Local shard 0 not found")

    def count(self, filter_: Any, exact: bool) -> int:
        """How many points a filter selects."""
        self.must_be_there()
        request = edge.CountRequest(exact, filter_)
        return sum(shard.engine.count(request) for shard in self.shards)

    def retrieve(self, identifiers: Sequence[int | str], with_payload: Any, with_vector: Any) -> list[Any]:
        """Records by id, in the order of the request; absent ones are left out."""
        self.must_be_there()
        wanted: list[Any] = list(identifiers)
        if len(self.shards) == 1:
            return self.shards[0].engine.retrieve(wanted, with_payload, with_vector)
        found: dict[Any, Any] = {}
        for shard in self.shards:
            for record in shard.engine.retrieve(wanted, with_payload, with_vector):
                found[str(record.id)] = record
        return [found[str(one)] for one in identifiers if str(one) in found]

    def scroll(
        self,
        limit: int,
        offset: int | str | None,
        filter_: Any,
        with_payload: Any,
        with_vector: Any,
        order: Any = None,
    ) -> tuple[list[Any], Any]:
        """A page of records in id order (numbers, then UUIDs) and the id at which the next page begins."""
        self.must_be_there()
        request = edge.ScrollRequest(offset, limit, filter_, with_payload, with_vector, order)
        if len(self.shards) == 1:
            return self.shards[0].engine.scroll(request)
        records: list[Any] = []
        following: list[Any] = []
        for shard in self.shards:
            some, after = shard.engine.scroll(request)
            records += some
            if after is not None:
                following.append(after)
        if order is not None:
            records.sort(key=lambda one: one.order_value, reverse=order.direction == edge.Direction.Desc)
            return records[:limit], None
        records.sort(key=_record_order)
        page, rest = records[:limit], records[limit:]
        candidates = [one.id for one in rest[:1]] + following
        return page, min(candidates, key=_order) if candidates else None

    def points_count(self) -> int:
        """How many points there are, by the engine's own count."""
        return int(sum(shard.engine.info().points_count for shard in self.shards))

    def info(self) -> Json:
        """`GET /collections/{name}`."""
        infos = [shard.engine.info() for shard in self.shards]
        schema = {}
        for field, declared in sorted(self.schema.items()):
            indexed = [info.payload_schema[field] for info in infos if field in info.payload_schema]
            if not indexed:
                continue  # acknowledged and still waiting: the real server, too, lists what its segments have
            points = sum(one.points for one in indexed)
            if isinstance(declared, str):
                schema[field] = {"data_type": declared, "points": points}
            else:
                schema[field] = {"data_type": declared["type"], "params": declared, "points": points}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": sum(info.indexed_vectors_count for info in infos),
            "points_count": sum(info.points_count for info in infos),
            "segments_count": sum(info.segments_count for info in infos),
            "config": self.config,
            "payload_schema": schema,
            "update_queue": {"length": self.queue_length()},
        }

    def vector_names(self) -> list[str]:
        """All vectors of a point, dense ones first; the unnamed one is `""`."""
        return [*settings.dense(self.config), *settings.sparse(self.config)]

    def queue_length(self) -> int:
        """`update_queue.length`."""
        return sum(shard.length() for shard in self.shards)

    def close(self) -> None:
        """Apply what waits and close the shards."""
        for shard in self.shards:
            shard.close()
        self.shards = []


def _order(value: Any) -> tuple[int, Any]:
    return id_order(value if isinstance(value, int) else str(value))


def _record_order(record: Any) -> tuple[int, Any]:
    return _order(record.id)


class Storage:
    """All collections and aliases of one server, in one folder."""

    def __init__(self, path: Path, snapshots: Path, delay: Callable[[], float]) -> None:
        self.path = path
        self.snapshots = snapshots
        self.delay = delay
        self.folder = path / "collections"
        self.folder.mkdir(parents=True, exist_ok=True)
        snapshots.mkdir(parents=True, exist_ok=True)
        (path / "aliases").mkdir(exist_ok=True)
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for temporary in (path / "tmp", snapshots / "tmp"):  # downloads and unpacked snapshots that a kill left behind
            shutil.rmtree(temporary, ignore_errors=True)
        for folder in sorted(self.folder.iterdir()):
            self.collections[folder.name] = Collection.load(folder.name, folder, delay)
        with contextlib.suppress(FileNotFoundError):
            self.aliases = json.loads((path / "aliases" / "data.json").read_text())

    def get(self, name: str) -> Collection:
        """The collection of that name or alias."""
        collection = self.collections.get(name) or self.collections.get(self.aliases.get(name, ""))
        if collection is None:
            raise NotFound(f"Collection `{name}` doesn't exist!")
        return collection

    def create(self, name: str, config: settings.Config) -> None:
        """Create a collection; refused when the name is taken by a collection or an alias."""
        if name in self.collections:
            raise AlreadyExists(f"Collection `{name}` already exists!")
        if name in self.aliases:
            raise WrongInput(f"Can't create collection with name {name}. Alias with the same name already exists")
        self.collections[name] = Collection.create(name, self.folder / name, config, self.delay)

    def drop(self, name: str) -> bool:
        """Delete a collection and its aliases; False when there is none."""
        collection = self.collections.pop(name, None)
        if collection is None:
            return False
        collection.close()
        gone = self.folder / f".{uuid.uuid4()}"
        collection.path.rename(gone)
        shutil.rmtree(gone)
        self.set_aliases({alias: target for alias, target in self.aliases.items() if target != name})
        return True

    def set_aliases(self, aliases: dict[str, str]) -> None:
        """Replace all aliases at once."""
        if aliases != self.aliases:
            write_json(self.path / "aliases" / "data.json", aliases)
            self.aliases = aliases

    def change_aliases(self, actions: list[Json]) -> None:
        """`POST /collections/aliases`. No reader sees a state in between, but an action that is refused ends the
        request, and what the actions before it did stays done (so the real 1.18)."""
        aliases = dict(self.aliases)
        try:
            self._apply_aliases(aliases, actions)
        finally:
            self.set_aliases(aliases)

    def _apply_aliases(self, aliases: dict[str, str], actions: list[Json]) -> None:
        for action in actions:
            if "create_alias" in action:
                one = action["create_alias"]
                if one["collection_name"] not in self.collections:
                    raise NotFound(f"Collection `{one['collection_name']}` doesn't exist!")
                if one["alias_name"] in self.collections:
                    raise AlreadyExists(f"Collection `{one['alias_name']}` already exists!")
                aliases[one["alias_name"]] = one["collection_name"]
            elif "delete_alias" in action:
                aliases.pop(action["delete_alias"]["alias_name"], None)
            elif "rename_alias" in action:
                one = action["rename_alias"]
                if one["old_alias_name"] not in aliases:
                    raise NotFound(f"Alias {one['old_alias_name']} does not exists!")
                aliases[one["new_alias_name"]] = aliases.pop(one["old_alias_name"])
            else:
                raise BodyError("data did not match any variant of untagged enum AliasOperations")

    def flush(self) -> None:
        """Flush every shard that was written to."""
        for collection in self.collections.values():
            for shard in collection.shards:
                shard.flush()

    def close(self) -> None:
        """Apply what waits in every collection and close it."""
        for collection in self.collections.values():
            collection.close()
