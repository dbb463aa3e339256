"""Whatever Qdrant takes for a name is one: of a collection, an alias, a vector, a field. From the copy to the report."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cutover.checks import baseline
from cutover.checks.qdrant import _answers_differ
from cutover.context import Context
from cutover.gate.write_log import Write
from cutover.qdrant import compare, limits, snapshots
from cutover.qdrant.affected import Depth
from cutover.replication.base_copy import base_copy
from cutover.replication.follower import Follower
from cutover.replication.position import Position
from cutover.replication.proof import prove_everything, prove_quickly
from tests.replication.test_follower import Record
from tests.support.night import every_nth_by_day
from tests.support.qdrant_pair import Pair, operating, pair_of_servers

#: Rounds of random names on top of those below.
ROUNDS = int(os.environ.get("CUTOVER_NAME_ROUNDS") or 4)
COLLECTIONS = [
    "docs c#", "100% sure", "a b  c", "aliases", "snapshots", "points", "collections", "index", "ü" * 40, "é🙂日本", "-rf", "~", "$(id)",
    "`id`", "'", "a;b&c", "a=b+c", "name on the new server", "%2e%2e", "%23", ".hidden", "[x](y)", "tab\there", "x" * 180, "{collection_name}",
    "__proto__", "null", "0",
]  # fmt: skip
VECTORS = [
    "size",
    "distance",
    "indices",
    "values",
    "vectors",
    "on_disk",
    "",
    "a b#%",
    "🙂",
    "multivector_config",
    "datatype",
    "x" * 120,
]
FIELDS = [
    "size",
    "points",
    "status",
    "result",
    "next_page_offset",
    "id",
    "vector",
    "payload",
    "ü b",
    "a#",
    "%41",
    "ids",
    "🙂",
    "data_type",
]
SIGNS = "abzÄß日🙂 #%&=+;,.~!$'()[]{}^`@-_\t\u200b\u0301"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def context(servers: Pair, tmp_path: Path) -> Iterator[Context]:
    with operating(servers, tmp_path) as made:
        yield made


def rounds() -> list[tuple[str, str, list[str], list[str]]]:
    """(collection, alias, vectors, fields)."""
    dice = random.Random(5)
    found = [
        (name, f"{name}'s", [VECTORS[i % len(VECTORS)], VECTORS[(i + 5) % len(VECTORS)]], FIELDS)
        for i, name in enumerate(COLLECTIONS)
    ]

    def any_name(most: int) -> str:
        return "".join(dice.choices(SIGNS, k=dice.randrange(1, most)))

    for _ in range(ROUNDS):
        name = any_name(40).strip(".") or "x"
        found.append((name, any_name(30) + "!", [any_name(20), any_name(20)], [any_name(20) for _ in range(5)]))
    return found


@pytest.mark.parametrize(("name", "alias", "vectors", "fields"), every_nth_by_day(rounds(), 3))
def test_a_name_is_a_name(context: Context, name: str, alias: str, vectors: list[str], fields: list[str]) -> None:
    old, new = context.old, context.new
    if "" in vectors:
        vectors = ["", *(v for v in vectors if v)]
    made = {v: {"size": 2, "distance": "Dot"} for v in vectors}
    sparse: dict[str, Any] = {"sparse " + vectors[-1]: {}}
    # A field's name is a path where it is indexed; its signs mean something there.
    indexed = next((f for f in fields if f.isidentifier()), "plain")
    with context.guard.act("test", "Fill"):
        old.ask("PUT", f"/collections/{quote(name, safe='')}", {"vectors": made, "sparse_vectors": sparse})
        old.ask("PUT", f"/collections/{quote(name, safe='')}/index", {"field_name": indexed, "field_schema": "keyword"})
        old.change_aliases([{"create_alias": {"alias_name": alias, "collection_name": name}}])
        old.upsert(name, [_record(i, vectors, fields) for i in range(30)])
    assert limits.reasons_against(name, old.info(name)) == []
    assert limits.bytes_needed(old.info(name), 30, 100) > 0

    # copy, and what it leaves
    assert base_copy(context, "copy", old, new, name)
    snapshots.remove_left(context, "copy", old)
    assert old.snapshot_names(name) == old.snapshot_names(name, 0) == set()
    assert context.ui.sentences[-1].startswith(f"{name} was copied")  # type: ignore[attr-defined]

    # follow: by id, by filter, through the alias, by column, and a setting
    record = Record()
    gate: Any = record
    follower = Follower(gate, old, new, Position(), context.state_dir / "follow.json", copy_collection=print, may_replace=True)
    where, other = (f"/collections/{quote(one, safe='')}" for one in (name, alias))
    with context.guard.act("test", "Write and follow"):
        follower.round()
        for method, uri, body in (
            ("PUT", f"{where}/points", {"points": [_record(100, vectors, fields)]}),
            ("POST", f"{other}/points/payload", {"payload": {fields[-1]: "new"}, "points": [3]}),
            ("POST", f"{where}/points/delete", {"filter": {"must": [{"has_id": [4, 5]}]}}),
            ("DELETE", f"{where}/index/{quote(indexed, safe='')}", None),
            (
                "POST",
                "/collections/aliases",
                {"actions": [{"create_alias": {"alias_name": alias + "2", "collection_name": name}}]},
            ),
        ):
            old.raw(method, uri, body, params={"wait": "true"} if "aliases" not in uri else None)
            record.add("old", method, uri + "?wait=true", body)
            assert isinstance(record.lines[-1], Write)
        done = follower.round()
        assert done.ids[name] >= {100, 3}

        # the proof, outside and inside a hold
        compared, differences = prove_everything(follower)
        assert differences == []
        assert sum(c.records for c in compared) == 29
        assert prove_quickly(follower, {name: {100, 3}}, counts=True, timeout=5) == []
        new.set_payload(name, 7, {fields[0]: "other"})
    (found,) = compare.compare_collection(old, new, name).differences
    assert (found.kind, found.where) == ("payload", 7)
    assert fields[0] in str(found)
    with context.guard.act("test", "Mend"):
        follower.mend(name, Depth.EVERYTHING)

    # the baseline and D1
    told = baseline._qdrant(context)
    assert baseline._same_answers(context, told).ok
    assert _answers_differ(old, new, name, lambda _name: set()) == ""
    assert _answers_differ(old, new, alias, lambda _name: set()) == ""


def test_a_name_that_leaves_no_room_for_that_of_a_snapshot_is_refused_beforehand(context: Context) -> None:
    with context.guard.act("test", "Fill"):
        context.old.ask("PUT", f"/collections/{'ü' * 100}", {"vectors": {"size": 2, "distance": "Dot"}})
    (reason,) = limits.reasons_against("ü" * 100, context.old.info("ü" * 100))
    assert "200 bytes" in reason
    assert "snapshot" in reason


def _record(one: int, vectors: list[str], fields: list[str]) -> dict[str, Any]:
    vector: dict[str, Any] = {v: [one + 1.0, float(i)] for i, v in enumerate(vectors)}
    vector["sparse " + vectors[-1]] = {"indices": [one + 1], "values": [0.5]}
    return {"id": one, "vector": vector, "payload": {f: f"{f} {one}" for f in fields}}
