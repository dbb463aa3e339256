"""What counts as another answer at the door, and what only looks like one."""

from __future__ import annotations

from itertools import permutations

from cutover.gate.doorway import Answer, differences, foreseen


def answer(methods: str, **more: str) -> dict[str, Answer]:
    return {"a question of a browser": Answer(200, {"access-control-allow-methods": methods, **more}, "")}


def test_the_order_of_a_list_is_no_difference() -> None:
    """The real Qdrant's methods come in another order from each of its processes and threads."""
    orders = [", ".join(one) for one in permutations(["GET", "PUT", "POST"])]
    for old in orders:
        for new in orders:
            assert foreseen(answer(old), answer(old), answer(new)) == []
            assert differences(answer(old), answer(old), answer(new)) == []


def test_a_method_that_is_missing_is_one() -> None:
    old, new = answer("GET, PUT"), answer("PUT")
    assert "access-control-allow-methods PUT; now it is GET, PUT" in foreseen(old, old, new)[0]
    assert differences(old, old, new)


def test_the_order_of_what_is_no_list_is_one() -> None:
    old, new = answer("GET", location="/a, b"), answer("GET", location="/b, a")
    assert foreseen(old, old, new) and differences(old, old, new)


def test_the_address_of_what_is_behind_and_how_long_it_took_is_no_difference() -> None:
    """As `add_header X-Backend "$upstream_addr $upstream_response_time"` says them."""
    old, gate = answer("GET", **{"x-backend": "10.0.0.152:6333 0.001"}), answer("GET", **{"x-backend": "127.0.0.1:6339 0.014"})
    assert differences(old, old, gate, ["10.0.0.152:6333", "127.0.0.1:6339"]) == []
    assert differences(old, old, gate, ["10.0.0.152:6333"])
    assert differences(old, old, answer("GET"), ["10.0.0.152:6333"])
