"""A record that no other server takes one by one stands in the way of no step: it is brought by snapshot, or left out and named."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutover import runner
from cutover.checks.qdrant import movable_data
from cutover.core.ui import ConfirmedInAdvance
from cutover.qdrant import compare
from lab.lab import Lab, new_folder

INF = {"id": 7, "vector": [1e39, 1], "payload": {"n": 1}}


@pytest.fixture(scope="module")
def lab(lab_parent: Path) -> Any:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        new = lab.new_qdrant()
        new.start()
        does(lab, "gate")
        write(lab, "PUT", "/collections/odd", {"vectors": {"size": 2, "distance": "Dot"}})
        write(lab, "PUT", "/collections/odd/points?wait=true", {"points": [INF, {"id": 8, "vector": [1, 1]}]})
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


def differing(lab: Lab) -> Any:
    run = lab.run()
    try:
        return [d.where for d in compare.compare_collection(run.old, run.new, "odd").differences]
    finally:
        run.close()


def test_from_the_check_to_giving_up_the_way_back(lab: Lab) -> None:
    run = lab.run()
    found = movable_data(run)
    run.close()
    assert found.ok
    assert "record 7 of odd" in found.sentence

    said = " ".join(does(lab, "copy").sentences)
    assert "Record 7 of odd" in said
    assert differing(lab) == []
    # Its payload is followed; a new one is brought by a snapshot.
    write(lab, "POST", "/collections/odd/points/payload?wait=true", {"payload": {"n": 2}, "points": [7]})
    write(lab, "PUT", "/collections/odd/points?wait=true", {"points": [INF | {"id": 9}]})
    does(lab, "follow")
    assert differing(lab) == []
    write(lab, "PUT", "/collections/odd/points?wait=true", {"points": [INF | {"id": 10}]})
    assert does(lab, "switch").changed
    assert differing(lab) == []

    # On the way back nothing may be replaced.
    write(lab, "PUT", "/collections/odd/points?wait=true", {"points": [INF | {"id": 11}, {"id": 12, "vector": [3, 3]}]})
    assert "record 11 (" in " ".join(does(lab, "follow").sentences)
    assert differing(lab) == [11]
    back = does(lab, "back")
    assert back.changed
    assert "record 11 (" in " ".join(back.sentences)
    # From now on the old server's word counts: what it does not have goes.
    assert differing(lab) == []
    does(lab, "switch")
    write(lab, "PUT", "/collections/odd/points?wait=true", {"points": [INF | {"id": 13}]})
    finish = does(lab, "finish")
    assert finish.changed
    assert "record 13 (" in " ".join(finish.sentences)
