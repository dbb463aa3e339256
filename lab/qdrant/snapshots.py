"""Snapshots: of a collection, a tar of settings, payload indexes and every shard's files; of one shard its files alone; and how
one is put back.

The layout is the real server's, and snapshots of the real one (1.18, one shard) can be restored here. Files are sparse:
an empty segment has tens of megabytes of holes, so the tar is written by GNU tar, which stores none of them. Every write
that was acknowledged before the request is in the snapshot. Aliases are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from . import settings
from .errors import BadRequest, BodyError, Forbidden, Internal, NotFound, WrongInput
from .sparse import copy_sparse, copy_tree
from .store import Collection, Shard, Storage, load_engine, write_json

Json = Any
#: The real server gives up a download after 60 seconds without a byte.
SILENCE_SECONDS = 60
_CHUNK = 1 << 20


def describe(path: Path) -> Json:
    """One stored snapshot as the API lists it. Uploaded files have no checksum beside them."""
    stat = path.stat()
    created = datetime.fromtimestamp(stat.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    out = {"name": path.name, "creation_time": created, "size": stat.st_size}
    with contextlib.suppress(FileNotFoundError):
        out["checksum"] = path.with_name(path.name + ".checksum").read_text().strip()
    return out


def listed(folder: Path) -> list[Json]:
    """The snapshots in a folder."""
    return [describe(path) for path in sorted(folder.glob("*.snapshot"))] if folder.is_dir() else []


def stored(folder: Path, name: str) -> Path:
    """The file of a stored snapshot."""
    path = folder / name
    if "/" in name or name in ("", ".", "..") or not path.is_file():
        raise NotFound(f"Snapshot {name} not found")
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stage(collection: Collection, peer: int, folder: Path) -> None:
    """Lay out what a snapshot holds. Runs without a pause for other requests, so it is one moment of the collection."""
    for shard in collection.shards:
        _stage_shard(shard, peer, folder / str(shard.number))
    write_json(folder / "config.json", {**collection.config, "uuid": None})
    write_json(folder / "payload_index.json", {"schema": collection.schema})
    write_json(folder / "shard_key_mapping.json", collection.key_mapping())
    (folder / "version.info").write_text("0.4.2")


def _stage_shard(shard: Shard, peer: int, target: Path) -> None:
    shard.apply_all()
    shard.engine.flush()
    for segment in (shard.path / "segments").iterdir():
        copy_tree(segment, target / "segments" / segment.name / "files")
    copy_tree(shard.path / "wal", target / "wal")
    copy_sparse(shard.path / "edge_config.json", target / "edge_config.json")
    state = {"is_local": True, "this_peer_id": peer, "peers": {str(peer): "Active"}}
    write_json(target / "replica_state.json", state)
    write_json(target / "shard_config.json", {"type": "ReplicaSet"})


def _tar(folder: Path, target: Path) -> str:
    """Pack a folder into `target` and its checksum beside it; returns the checksum."""
    temporary = target.with_name(f".{uuid.uuid4().hex}")  # a name as long as the file's own may not fit
    try:
        names = sorted(entry.name for entry in folder.iterdir())
        command = ["tar", "--format=gnu", "--sparse", "-cf", str(temporary), "-C", str(folder), "--", *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Internal(f"File IO error: {done.stderr.strip()}")
        checksum = sha256(temporary)
        target.with_name(target.name + ".checksum").write_text(checksum)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return checksum


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d-%H-%M-%S")


@dataclass
class Snapshots:
    """The snapshots of one server."""

    storage: Storage
    peer: int

    def folder(self, collection: str, shard: int | None = None) -> Path:
        """Where the snapshots of a collection, or of one of its shards, lie."""
        place = self.storage.snapshots / collection
        return place if shard is None else place / "shards" / str(shard)

    def temporary(self, inside: Path) -> Path:
        """A new folder for work in progress; such folders are emptied at start."""
        path = inside / "tmp" / uuid.uuid4().hex
        path.mkdir(parents=True)
        return path

    async def create(self, collection: Collection) -> Json:
        """Take a snapshot; returns its description."""
        target = self.folder(collection.name) / f"{collection.name}-{self.peer}-{_now()}.snapshot"
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = self.temporary(self.storage.snapshots)
        _stage(collection, self.peer, stage)
        await asyncio.to_thread(_tar, stage, target)
        return describe(target)

    async def create_of_shard(self, collection: Collection, shard: Shard) -> Json:
        """Take a snapshot of one shard; returns its description."""
        target = self.folder(collection.name, shard.number) / f"{collection.name}-shard-{shard.number}-{_now()}.snapshot"
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = self.temporary(self.storage.snapshots)
        _stage_shard(shard, self.peer, stage)
        await asyncio.to_thread(_tar, stage, target)
        return describe(target)

    async def create_full(self) -> Json:
        """Take a snapshot of every collection, one after the other, and of the aliases; returns its description."""
        stage = self.temporary(self.storage.snapshots)
        mapping: dict[str, str] = {}
        for name in sorted(self.storage.collections):
            inner = self.temporary(self.storage.snapshots)
            _stage(self.storage.collections[name], self.peer, inner)
            mapping[name] = f"{name}-{self.peer}-{_now()}.snapshot"
            await asyncio.to_thread(_tar, inner, stage / mapping[name])
        write_json(stage / "config.json", {"collections_mapping": mapping, "collections_aliases": self.storage.aliases})
        target = self.storage.snapshots / f"full-snapshot-{_now()}.snapshot"
        await asyncio.to_thread(_tar, stage, target)
        return describe(target)

    def delete(self, folder: Path, name: str) -> None:
        """Delete a stored snapshot and its checksum."""
        path = stored(folder, name)
        path.unlink()
        path.with_name(path.name + ".checksum").unlink(missing_ok=True)

    # --- recovery ---

    async def recover(self, name: str, location: str, checksum: str | None, api_key: str | None) -> None:
        """Put the snapshot at `location` (http, https or file) into the collection `name`."""
        if urlsplit(location).scheme == "file":
            await self.recover_file(name, self._local(location), checksum)
            return
        async with self._fetched(location, api_key) as path:
            try:
                await self.recover_file(name, path, checksum)
            except MalformedTar as error:
                raise Internal(f"Failed to unpack tar archive: {error}") from error

    async def recover_shard(
        self, collection: Collection, shard: Shard, location: str, checksum: str | None, key: str | None
    ) -> None:
        """Put the snapshot of a shard in the place of a collection's shard; like the real one without a look whether it fits."""
        async with self._fetched(location, key) as path:
            await _check_sum(path, checksum)
            folder = path.with_name("shard")
            await asyncio.to_thread(_unpack_shard_of, path, folder)
            await asyncio.to_thread(_open_once, folder, collection.config)
            collection.replace_shard(shard, folder, self.storage.delay)

    @contextlib.asynccontextmanager
    async def _fetched(self, location: str, api_key: str | None) -> AsyncIterator[Path]:
        scheme = urlsplit(location).scheme
        if not scheme:
            raise BodyError(f"relative URL without a base: {json.dumps(location)}")
        if scheme not in ("http", "https"):
            raise BadRequest(f"URL {location} with scheme {scheme} is not supported")
        folder = self.temporary(self.storage.path)
        try:
            await _download(location, api_key, folder / "download")
            yield folder / "download"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _local(self, location: str) -> Path:
        path = Path(unquote(urlsplit(location).path))
        if not path.exists():
            raise BadRequest(f"Snapshot file {json.dumps(str(path))} does not exist")
        inside = self.storage.snapshots.resolve()
        if not path.resolve().is_relative_to(inside):
            raise Forbidden(f'Snapshot file path must be inside the snapshots directory "{inside}"')
        return path

    async def recover_file(self, name: str, path: Path, checksum: str | None) -> None:
        """Put a snapshot file into the collection `name`, which is created when it is absent.

        The collection stays as it was until the new files were unpacked and opened once.
        """
        await _check_sum(path, checksum)
        folder = self.temporary(self.storage.path)
        try:
            config, schema = await asyncio.to_thread(_unpack, path, folder)
            name = self.storage.aliases.get(name, name)
            self._check(name, config)
            if name not in self.storage.collections:  # listed from now on, as in the real server, and not readable yet
                self.storage.create(name, config)
                self.storage.collections[name].arriving = True
            if settings.custom_sharding(config):
                # Restored through the API, the real server leaves such a collection empty (its issue 10135).
                (folder / "shard_key_mapping.json").unlink(missing_ok=True)
            for number in range(0 if settings.custom_sharding(config) else config["params"]["shard_number"]):
                await asyncio.to_thread(_open_once, folder / str(number), config)
            self._replace(name, folder, config, schema)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check(self, name: str, config: settings.Config) -> None:
        existing = self.storage.collections.get(name)
        if existing is None:
            return
        params, ours = config["params"], existing.config["params"]
        if params["vectors"] != ours["vectors"]:
            raise WrongInput(
                "Snapshot is not compatible with existing collection: "
                f"Collection vectors: {_debug(ours['vectors'])} Snapshot Vectors: {_debug(params['vectors'])}"
            )
        if params["shard_number"] != ours["shard_number"]:
            raise WrongInput(
                f"Snapshot is not compatible with existing collection: Collection shard number: {ours['shard_number']} "
                f"Snapshot shard number: {params['shard_number']}"
            )

    def _replace(self, name: str, folder: Path, config: settings.Config, schema: dict[str, Json]) -> None:
        existing = self.storage.collections.pop(name, None)
        target = self.storage.folder / name
        old = self.storage.folder / f".{uuid.uuid4()}"
        if existing is not None:
            config = existing.config
            existing.close()
            target.rename(old)
        write_json(folder / "config.json", config)
        write_json(folder / "payload_index.json", {"schema": schema})
        folder.rename(target)
        self.storage.collections[name] = Collection.load(name, target, self.storage.delay)
        shutil.rmtree(old, ignore_errors=True)


async def _check_sum(path: Path, checksum: str | None) -> None:
    if checksum is not None and (found := await asyncio.to_thread(sha256, path)) != checksum.lower():
        raise WrongInput(f"Snapshot checksum mismatch: expected {checksum}, got {found}")


class MalformedTar(Internal):
    """500: the file is no tar. A downloaded one is unpacked on the way, and its refusal says so."""

    def __str__(self) -> str:
        return super().__str__().removeprefix("File IO error: ")


async def _download(url: str, api_key: str | None, target: Path) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
    headers = {"Accept-Encoding": "identity"}  # the real server would compress the tar, and its checksum is of the tar
    if api_key:
        headers["api-key"] = api_key
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, headers=headers) as answer,
        ):
            if answer.status != 200:
                text = f"status - {answer.status} {answer.reason}"
                raise WrongInput(f"Failed to download tar from {url}: {text}")
            with target.open("wb") as file:
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    file.write(chunk)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Internal(f"Http request error: error sending request for url ({url})") from error


def _extract(archive: Path, folder: Path) -> None:
    with tarfile.open(archive, "r:") as tar:
        # The argument `filter` came with Python 3.11.4; Debian 12 has 3.11.2. Only the lab's own servers make these archives.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = staticmethod(tarfile.data_filter)
        tar.extractall(folder)


def _unpack_segments(shard: Path) -> None:
    for entry in list((shard / "segments").iterdir()):
        target = entry.with_suffix("")
        inner = entry / "files"
        if entry.suffix == ".tar":
            unpacked = entry.with_suffix(".unpacked")
            _extract(entry, unpacked)
            entry.unlink()
            inner = unpacked / "snapshot" / "files"
            inner.rename(target)
            shutil.rmtree(unpacked)
        elif inner.is_dir():
            moved = entry.with_suffix(".moved")
            inner.rename(moved)
            shutil.rmtree(entry)
            moved.rename(target)


def _unpack_shard_of(path: Path, folder: Path) -> None:
    """Lay out the snapshot of a shard as a shard's folder."""
    try:
        _extract(path, folder)
        _unpack_segments(folder)
    except (tarfile.TarError, EOFError) as error:
        raise MalformedTar("File IO error: Malformed tar archive, reached unknown entry") from error


def _unpack(path: Path, folder: Path) -> tuple[settings.Config, dict[str, Json]]:
    """Lay out a snapshot as the storage of a collection; returns its settings and its index schema."""
    try:
        _extract(path, folder)
        for number in [entry for entry in folder.iterdir() if entry.is_dir() and entry.name.isdigit()]:
            _unpack_segments(number)
    except (tarfile.TarError, EOFError) as error:
        raise MalformedTar("File IO error: Malformed tar archive, reached unknown entry") from error
    try:
        config = json.loads((folder / "config.json").read_text())
        schema = json.loads((folder / "payload_index.json").read_text())["schema"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise Internal(f"File IO error: {error}") from error
    config.pop("uuid", None)
    if config["params"]["shard_number"] > 1 and (folder / "0").is_dir() and not (folder / "0" / "edge_config.json").is_file():
        raise Internal("this stand-in spreads ids otherwise: it cannot restore a real server's snapshot of several shards")
    return config, schema


def _open_once(path: Path, config: settings.Config) -> None:
    try:
        shard = load_engine(path, config)
        shard.flush()
        shard.close()
    except Exception as error:
        raise Internal(f"Failed to load local shard {path.name}: {error}") from error


def _debug(vectors: dict[str, Json]) -> str:
    """Vector settings in the words in which the real server shows them in its refusal."""

    def one(value: dict[str, Json]) -> str:
        shown = [f"size: {value['size']}", f"distance: {value['distance']}"]
        for field in ("hnsw_config", "quantization_config", "on_disk", "datatype", "multivector_config"):
            given = value.get(field)
            shown.append(f"{field}: {'None' if given is None else f'Some({json.dumps(given)})'}")
        return f"VectorParams {{ {', '.join(shown)} }}"

    if isinstance(vectors.get("size"), int):
        return f"Single({one(vectors)})"
    return "Multi({" + ", ".join(f'"{name}": {one(value)}' for name, value in vectors.items()) + "})"
