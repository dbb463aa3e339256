"""The position and what a watch knows are read back whole or refused in words, whatever somebody or a broken disk made of the file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cutover.replication.position import CannotFollow, Position, left_out
from cutover.replication.proofs import Counted, Proofs, Proved
from cutover.replication.watch import WatchState, last_seen

ODD: list[Any] = [
    None,
    True,
    -1,
    7,
    1.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [[]],
    [1],
    [[1]],
    {"a": 1},
    {"a": []},
    "\u202e",
]
GONE = object()
UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"


def position() -> Position:
    return Position(
        side="new", offset=7, holders={"a": ["b"]}, at=1.7e9, moved={"a": [1, UUID]}, ahead_ids={"a": [1]}, schema_at={"a": 3},
        left_out={"a": [(1, "why"), (UUID, "why")]},
        proofs=Proofs({"a": Proved([(None, 1.7e9), (5, None)], [1, UUID])}, {"old": Counted("x", {"PUT": 1}, {"PUT": 1}, {})}, "why"),
    )  # fmt: skip


def broken(tree: Any) -> Iterator[Any]:
    """The same with one part of it replaced, or gone, or one more."""
    ways: list[tuple[Any, ...]] = []

    def walk(node: Any, way: tuple[Any, ...]) -> None:
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            ways.append((*way, key))
            walk(inner, (*way, key))

    walk(tree, ())

    for way in ways:
        for odd in [*ODD, GONE]:
            made = deepcopy(tree)
            node = made
            for key in way[:-1]:
                node = node[key]
            if odd is GONE:
                del node[way[-1]]
            else:
                node[way[-1]] = odd
            yield made
    yield {**tree, "more": 1}
    yield from ODD


def test_a_position_is_what_was_saved_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "position.json"
    position().save(file)
    assert Position.load(file) == position()
    read = 0
    for tree in broken(json.loads(file.read_text())):
        file.write_text(json.dumps(tree))
        try:
            found = Position.load(file)
        except CannotFollow as error:
            assert "is not readable" in error.sentence
            continue
        # Whatever was taken for a position can be used like one.
        assert found is not None
        read += 1
        found.proofs.oldest(["a", "b"])
        found.proofs.next(["a", "b"])
        found.proofs.missing(["a"], time.time(), 1.0)
        found.proofs.compared("a", 1, 3, 1.0)
        found.proofs.wrote("a", [1])
        assert all(isinstance(text, str) for text in left_out(found))
        time.gmtime(found.at)
    assert read > 20


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000, b'{"offset":1,"offset":"x"}', b"\0" * 10])
def test_what_is_no_position_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "position.json").write_bytes(content)
    with pytest.raises(CannotFollow):
        Position.load(file)


def test_what_a_watch_knows_is_a_line_or_nothing(tmp_path: Path) -> None:
    state = WatchState(
        time.time(), "new", "old Qdrant", 3, 1.0, 2.0, 0.5, time.time() - 9, "writes", {"nginx": "It leads past the gate."}
    )
    context = cast("Any", SimpleNamespace(state_dir=tmp_path, journal=SimpleNamespace(held_by_another=lambda: True)))
    seen = 0
    for tree in [vars(state), *broken(vars(state))]:
        (tmp_path / "watch.json").write_text(json.dumps(tree))
        if (found := last_seen(context)) is not None:
            seen += 1
            assert isinstance(found.line(), str)
    assert seen > 10
