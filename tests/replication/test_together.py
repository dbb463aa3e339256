"""Writes sent again together lead to the state that they lead to one after the other."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.qdrant.affected import affected_by
from cutover.qdrant.routes import path_of
from cutover.replication.again import Step
from cutover.replication.together import MOST_RECORDS, Named, layers, named, requests_of

ALIASES = {"now": "docs"}
State = dict[tuple[str, int], dict[str, Any]]


def _step(dice: random.Random, number: int) -> Step:
    """One write of any kind that only names records; ``number`` makes each a different one."""
    at = f"/collections/{dice.choice(['docs', 'now', 'other'])}"
    ids = [dice.randint(0, 9) for _ in range(dice.randint(1, 3))]
    payload = {dice.choice("ab"): number}
    operations: dict[str, tuple[str, str, Any]] = {
        "upsert": ("PUT", "points", {"points": [{"id": i, "vector": [number], "payload": payload} for i in ids]}),
        "delete": ("POST", "points/delete", {"points": ids}),
        "set_payload": ("POST", "points/payload", {"payload": payload, "points": ids}),
        "overwrite_payload": ("PUT", "points/payload", {"payload": payload, "points": ids}),
        "clear_payload": ("POST", "points/payload/clear", {"points": ids}),
    }
    kind = dice.choice(list(operations))
    method, rest, body = operations[kind]
    if dice.random() < 0.2:
        method, rest, body = "POST", "points/batch", {"operations": [{kind: body}]}
    return Step(method, f"{at}/{rest}", {"wait": "true"}, json.dumps(body).encode(), looks=False)


def _apply(state: State, step: Step) -> None:
    """What Qdrant does, as far as it matters here: upserts replace, payloads are only set where a record is."""
    path = path_of(step.path)
    name, document = ALIASES.get(path.collection, path.collection), json.loads(step.body or b"")
    kinds = {"PUT points": "upsert", "POST points/delete": "delete", "POST points/payload": "set_payload"}
    kinds |= {"PUT points/payload": "overwrite_payload", "POST points/payload/clear": "clear_payload"}
    several = document["operations"] if path.rest == "points/batch" else [{kinds[f"{step.method} {path.rest}"]: document}]
    for kind, content in (pair for one in several for pair in one.items()):
        for point in content["points"]:
            if kind == "upsert":
                state[name, point["id"]] = {"vector": point["vector"], "payload": dict(point["payload"])}
            elif kind == "delete":
                state.pop((name, point), None)
            elif (name, point) in state:
                before = state[name, point]["payload"] if kind == "set_payload" else {}
                state[name, point]["payload"] = before | content.get("payload", {})


def _named(step: Step) -> Named | None:
    what = affected_by(step.method, step.path, step.body or b"")
    return named(step, what, ALIASES.get(what.collection, what.collection))


def _known(steps: Iterable[Step]) -> list[Named]:
    found = [_named(step) for step in steps]
    assert None not in found
    return [one for one in found if one is not None]


@given(seed=st.integers(0, 10**9), count=st.integers(1, 60))
def test_in_layers_and_in_any_order_within_one_the_state_is_the_same(seed: int, count: int) -> None:
    dice = random.Random(seed)
    run = _known(_step(dice, number) for number in range(count))
    one_by_one: State = {}
    for one in run:
        _apply(one_by_one, one.step)
    together: State = {}
    for layer in layers(run):
        requests = requests_of(layer)
        assert sum(len(request.steps) for request in requests) == len(layer)
        for request in dice.sample(requests, len(requests)):
            _apply(together, request.step)
    assert together == one_by_one


@pytest.mark.parametrize(
    ("path", "body", "looks"),
    [
        ("/collections/docs/points/delete", {"filter": {}}, False),
        ("/collections/docs/points/delete", {"points": [1]}, True),
        ("/collections/docs/points/delete", {"nothing": "known"}, False),
        ("/collections/aliases", {"actions": []}, False),
    ],
)
def test_what_does_not_only_name_records_is_sent_alone(path: str, body: Any, looks: bool) -> None:
    assert _named(Step("POST", path, {}, json.dumps(body).encode(), looks=looks)) is None


def test_writes_of_other_records_are_few_requests_that_keep_their_size() -> None:
    def upsert(number: int) -> Step:
        return Step("PUT", "/collections/docs/points", {}, json.dumps({"points": [{"id": number, "vector": []}]}).encode(), False)

    found = layers(_known(upsert(number) for number in range(2 * MOST_RECORDS)))
    assert [len(layer) for layer in found] == [2 * MOST_RECORDS]
    requests = requests_of(found[0])
    assert [len(json.loads(r.step.body or b"")["operations"][0]["upsert"]["points"]) for r in requests] == [MOST_RECORDS] * 2
    assert len(layers(_known(upsert(7) for _ in range(5)))) == 5
