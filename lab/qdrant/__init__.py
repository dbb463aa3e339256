"""A Qdrant server for the lab: the real engine (qdrant-edge-py) behind the REST API of Qdrant 1.18.3.

Start it with `python -m lab.qdrant`, with the repository's root as working folder (or on PYTHONPATH), one process
per server. It is configured by the real server's variables: QDRANT__SERVICE__HOST, QDRANT__SERVICE__HTTP_PORT,
QDRANT__SERVICE__API_KEY, QDRANT__SERVICE__ALT_API_KEY, QDRANT__SERVICE__READ_ONLY_API_KEY, QDRANT__SERVICE__JWT_RBAC,
QDRANT__SERVICE__MAX_REQUEST_SIZE_MB,
QDRANT__STORAGE__STORAGE_PATH, QDRANT__STORAGE__SNAPSHOTS_PATH, QDRANT__STORAGE__WAL__WAL_CAPACITY_MB. Only for the lab:
LAB_QDRANT_APPLY_DELAY_MS (how long a write with `wait=false` waits after it was acknowledged, 3 ms unless set),
LAB_QDRANT_VERSION (the version it says it is), LAB_QDRANT_SWITCHES (a JSON file of faults, see `server.Switches`) and
LAB_QDRANT_OUTLIVE_PARENT=1 (otherwise it is killed when the process that started it ends).

What it does as the real one does: collections and their reported settings, points, vectors (dense, named, sparse,
multi-vectors, float16, uint8, quantized), payload, filters, searches, payload indexes, aliases, collection snapshots and
their recovery, keys, error words, the order of scrolling, writes acknowledged before they are applied, counters of
requests, SIGTERM and SIGKILL without loss of what was acknowledged.

What it does not model: gRPC; TLS; claims of a JWT beyond r and m; cluster mode and replicas; shard keys in reads (all shards are read); a real
server's snapshot of several shards (refused: ids are spread otherwise); the background optimizer (no HNSW index is ever
built, so searches are exact, and `indexed_vectors_count` and `segments_count` are the engine's own); of
strict mode all but what `strict` names; snapshots of single shards and partial snapshots; formulas in queries, discovery batches,
distance matrices, inference; compressed answers. Its engine is newer than 1.18: normalised vectors can differ from a real
server's in the last bit when both are sent the same (not when copied), and a snapshot made here is not for a real one.

Other modules start one with `launch.server(...)`, turn faults on with `launch.switch(...)`, and copy a storage folder with
`sparse.copy_tree(...)`.
"""
