"""Records that no other server takes one by one stand in the way of no step: they are brought by snapshot, in parts, or left out and
named. Every kind of them goes through the same evening, each in a collection of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cutover import runner
from cutover.checks.qdrant import movable_data
from cutover.core.ui import ConfirmedInAdvance
from cutover.qdrant import compare
from lab.lab import Lab, new_folder


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"end": True}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


@dataclass(frozen=True)
class Kind:
    """A collection with such records. ``settings`` of it; ``records``: vector and payload of each."""

    settings: dict[str, Any]
    records: list[tuple[Any, dict[str, Any]]]
    named: int = 0
    """So many of them, the first, no request takes; they are left out where no snapshot may be made."""
    strict: dict[str, Any] = field(default_factory=dict)
    parts: int = 0
    """So many times 8 MB of payload, each written by itself, because no request holds them together."""


DOT = {"size": 2, "distance": "Dot"}
SEVERAL = DOT | {"multivector_config": {"comparator": "max_sim"}}
KINDS = {
    "infinite": Kind(
        {"vectors": {"": DOT, "v": DOT, "m": SEVERAL}, "sparse_vectors": {"s": {}}},
        [
            ({"": [1e39, 1]}, {}),
            ({"": [1, 2], "v": [-1e39, 1]}, {"n": 1}),
            ({"m": [[1, 2], [1e39, 1]]}, {}),
            ({"s": {"indices": [1, 2], "values": [1e39, 1]}}, {}),
            ({"": [1, 2], "v": [3, 4]}, {}),
        ],
        named=4,
    ),
    "half": Kind(
        {"vectors": {"cosine": DOT | {"distance": "Cosine", "datatype": "float16"}, "dot": DOT | {"datatype": "float16"}}},
        [({"dot": [1e6, 1]}, {}), ({"cosine": [0.123, 0.987]}, {})],
        named=1,
    ),
    "odd-payload": Kind({"vectors": DOT}, [([1, 1], nested(120)), ([1, 1], {"p": 9.693e-29, "q": [1.5e300, -0.0]})]),
    "huge": Kind({"vectors": DOT}, [([1, 1], {})], parts=5),
    "strict": Kind(
        {"vectors": DOT},
        [([1, 1], {"a": 1})],
        strict={
            "max_query_limit": 2,
            "upsert_max_batchsize": 1,
            "search_allow_exact": False,
            "filter_max_conditions": 1,
            "condition_max_size": 2,
            "unindexed_filtering_retrieve": False,
        },
    ),
}


@pytest.fixture(scope="module")
def lab(lab_parent: Any) -> Iterator[Lab]:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        new = lab.new_qdrant()
        new.start()
        does(lab, "gate")
        for name, kind in KINDS.items():
            write(lab, "PUT", f"/collections/{name}", kind.settings)
            put(lab, name, 7)
            if kind.strict:
                write(lab, "PATCH", f"/collections/{name}", {"strict_mode_config": {"enabled": True, **kind.strict}})
        yield lab
        new.kill()


def does(lab: Lab, verb: str) -> Any:
    run = lab.run(execute=True, confirm=ConfirmedInAdvance(lab.site.name))
    try:
        return runner.carry_out(verb, run).outcome
    finally:
        run.close()


def write(lab: Lab, method: str, path: str, body: Any) -> None:
    """As an application does, through Nginx."""
    run = lab.run(execute=True)
    with run.guard.act("test", "An application writes"):
        where, _, query = path.partition("?")
        run.public.raw(method, where, json.dumps(body).encode(), params={"wait": "true"} if query else None)
    run.close()


def put(lab: Lab, name: str, number: int) -> None:
    """The records of the kind; their ids are ``number`` tens and counted on."""
    kind = KINDS[name]
    records = [{"id": 10 * number + i, "vector": v, "payload": p} for i, (v, p) in enumerate(kind.records)]
    write(lab, "PUT", f"/collections/{name}/points?wait=true", {"points": records})
    for part in range(kind.parts if number == 11 else 0):
        large = {"payload": {f"field {part}": "ü" * (4 << 20)}, "points": [10 * number]}
        write(lab, "POST", f"/collections/{name}/points/payload?wait=true", large)


def put_all(lab: Lab, number: int) -> None:
    for name in KINDS:
        put(lab, name, number)


def left_out(number: int) -> dict[str, list[int]]:
    """What is left out of the records of this number."""
    return {name: [10 * number + i for i in range(kind.named)] for name, kind in KINDS.items() if kind.named}


def unnamed(said: str, number: int) -> list[str]:
    """Collections of which a text does not name these records; of many it names three."""
    return [
        name
        for name, several in left_out(number).items()
        if f"of {name}" not in said or sum(f"{one} (" in said for one in several) < min(3, len(several))
    ]


def differing(lab: Lab) -> dict[str, list[Any]]:
    run = lab.run()
    try:
        found = {name: [d.where for d in compare.compare_collection(run.old, run.new, name).differences] for name in KINDS}
    finally:
        run.close()
    return {name: where for name, where in found.items() if where}


@pytest.mark.slow
def test_from_the_check_to_giving_up_the_way_back(lab: Lab) -> None:
    run = lab.run()
    found = movable_data(run)
    run.close()
    assert found.ok, found.sentence
    for name in left_out(7):
        assert f"of {name}" in found.sentence, found.sentence

    said = " ".join(does(lab, "copy").sentences)
    for name in left_out(7):
        assert f"of {name}" in said, said
    assert differing(lab) == {}
    # A payload is followed; new ones of these are brought by a snapshot.
    write(lab, "POST", "/collections/infinite/points/payload?wait=true", {"payload": {"n": 2}, "points": [70]})
    put_all(lab, 9)
    assert does(lab, "switch").changed
    assert differing(lab) == {}

    # On the way back nothing may be replaced.
    put_all(lab, 11)
    assert unnamed(" ".join(does(lab, "follow").sentences), 11) == []
    assert differing(lab) == left_out(11)
    back = does(lab, "back")
    assert back.changed
    assert unnamed(" ".join(back.sentences), 11) == []
    # From now on the old server's word counts: what it does not have goes.
    assert differing(lab) == {}
    write(lab, "POST", "/collections/huge/points/delete?wait=true", {"points": [110]})  # reading it once more takes its time
    does(lab, "switch")
    put(lab, "infinite", 13)
    put(lab, "half", 13)
    finish = does(lab, "finish")
    assert finish.changed
    assert unnamed(" ".join(finish.sentences), 13) == []
