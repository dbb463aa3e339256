"""Who is let in: asked of servers with every kind of key, compared, and what a container got against what was meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.core.credentials import Credentials
from cutover.core.write_guard import WriteGuard
from cutover.qdrant import access
from cutover.qdrant.access import Caller, Right
from cutover.qdrant.client import Qdrant
from cutover.site.load import load
from cutover.site.schema import Site
from lab.processes import running
from tests.support.qdrant_pair import KEY, READ_KEY, ROOT, server

KEYS = Credentials({"QDRANT_API_KEY": KEY, "QDRANT_READ_ONLY_API_KEY": READ_KEY})
PORTS = iter(range(17100, 17900))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Qdrant]]:
    """Starts a server with these settings (``api_key``, ``read_only_api_key``, ``alt_api_key``, ``jwt_rbac``)."""
    with ExitStack() as stack:

        def begin(name: str = "the new server", **settings: str) -> Qdrant:
            port = next(PORTS)
            folder = tmp_path / str(port)
            folder.mkdir()
            env = {"QDRANT__SERVICE__API_KEY": "", "QDRANT__SERVICE__READ_ONLY_API_KEY": ""}
            env |= {f"QDRANT__SERVICE__{key.upper()}": value for key, value in settings.items()}
            stack.enter_context(running(server(folder, "127.0.0.1", port, **env)))
            return Qdrant(f"http://127.0.0.1:{port}", WriteGuard(None), key=settings.get("api_key"), name=name)

        yield begin


def site(access_: str = "keys") -> Site:
    found = load(ROOT / "site.yaml")
    return found.model_copy(update={"qdrant": found.qdrant.model_copy(update={"access": access_})})


CLOSED = {
    Caller.KEYLESS: Right.OUT,
    Caller.STRANGER: Right.OUT,
    Caller.FULL: Right.WRITES,
    Caller.READ_ONLY: Right.READS,
    Caller.TOKEN: Right.OUT,
}


def test_each_caller_is_told_apart_by_asking(start: Any) -> None:
    closed = start(api_key=KEY, read_only_api_key=READ_KEY)
    before = closed.sent.copy()
    assert access.access_of(closed, KEYS) == CLOSED
    assert sum((closed.sent - before).values()) == 3, "answers to the two who are let in"


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, dict.fromkeys(CLOSED, Right.WRITES)),
        ({"api_key": KEY}, {Caller.READ_ONLY: Right.OUT}),
        ({"read_only_api_key": READ_KEY}, {Caller.FULL: Right.OUT}),
        ({"api_key": KEY, "read_only_api_key": READ_KEY, "jwt_rbac": "true"}, {Caller.TOKEN: Right.READS}),
        ({"api_key": READ_KEY, "read_only_api_key": KEY}, {Caller.FULL: Right.READS, Caller.READ_ONLY: Right.WRITES}),
    ],
    ids=["open", "no read-only key", "no full key", "tokens", "exchanged"],
)
def test_every_way_to_set_keys_is_seen(start: Any, settings: dict[str, str], changed: dict[Caller, Right]) -> None:
    found = dict(access.access_of(start(**settings), KEYS))
    expected = CLOSED | changed
    if expected[Caller.FULL] is Right.OUT:
        del found[Caller.TOKEN], expected[Caller.TOKEN]
    assert found == expected


def test_a_second_key_is_compared_where_the_tool_has_it(start: Any) -> None:
    keys = Credentials({**KEYS.values, "QDRANT_ALT_API_KEY": "the-second-one"})
    old = access.access_of(start(api_key=KEY, read_only_api_key=READ_KEY, alt_api_key="the-second-one"), keys)
    new = access.access_of(start(api_key=KEY, read_only_api_key=READ_KEY), keys)
    (found,) = access.differences(old, new)
    assert found.caller is Caller.ALT
    assert "QDRANT__SERVICE__ALT_API_KEY" in access.way_out(found)


@pytest.mark.parametrize(
    ("old", "new", "said", "out"),
    [
        ({}, {"api_key": KEY, "read_only_api_key": READ_KEY}, "a caller without a key", "access: open"),
        ({"api_key": KEY, "read_only_api_key": READ_KEY}, {}, "a caller without a key", "access: keys"),
        ({"api_key": KEY}, {"api_key": KEY, "read_only_api_key": READ_KEY}, "QDRANT_READ_ONLY_API_KEY", "READ_ONLY_API_KEY set to"),
        (
            {"api_key": KEY, "read_only_api_key": READ_KEY, "jwt_rbac": "true"},
            {"api_key": KEY, "read_only_api_key": READ_KEY},
            "a token (JWT)",
            "JWT_RBAC",
        ),
        ({"api_key": KEY, "read_only_api_key": READ_KEY}, {"api_key": "another", "read_only_api_key": READ_KEY}, "QDRANT_API_KEY", "set QDRANT_API_KEY"),
    ],
    ids=["open to closed", "closed to open", "no read-only key", "tokens", "another key"],
)  # fmt: skip
def test_a_difference_is_said_with_both_ways_out(
    start: Any, old: dict[str, str], new: dict[str, str], said: str, out: str
) -> None:
    one, other = (access.access_of(start(**settings), KEYS) for settings in (old, new))
    found = access.differences(one, other)
    assert said in "; ".join(d.sentence("the old server", "the new server") for d in found)
    ways = [access.way_out(one) for one in found]
    assert any(out in one for one in ways)
    assert all(one.startswith("Either ") and KEY not in one for one in ways)


def test_two_servers_with_the_same_keys_do_not_differ(start: Any) -> None:
    both = [access.access_of(start(api_key=KEY, read_only_api_key=READ_KEY), KEYS) for _ in range(2)]
    assert access.differences(*both) == []


# -- what the container got -------------------------------------------------------------------------------------------
def test_a_server_that_got_its_keys_lacks_nothing(start: Any) -> None:
    assert access.shortfall(start(api_key=KEY, read_only_api_key=READ_KEY), site(), KEYS) == ""


@pytest.mark.parametrize(
    ("meant", "got"),
    [
        ("pa$word-of-it", "pa-of-it"),
        ("pa$word", "pa"),
        ("a$$b-c", "a$b-c"),
        ("x${HOME}y", "xy"),
        ("abc #def", "abc"),
        ('"quoted"', "quoted"),
        ("back\\\\slash", "back\\slash"),
        ("half%20way", "half way"),
        ("UpperCase", "uppercase"),
    ],
)
def test_a_key_that_arrived_as_something_else_is_found_and_not_shown(start: Any, meant: str, got: str) -> None:
    keys = Credentials({"QDRANT_API_KEY": meant, "QDRANT_READ_ONLY_API_KEY": READ_KEY})
    found = access.shortfall(start(api_key=got, read_only_api_key=READ_KEY), site(), keys)
    assert "did not get QDRANT_API_KEY as it is" in found
    assert meant not in found and got not in found.replace("not get", "").split()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"api_key": "entirely-another", "read_only_api_key": READ_KEY},
            "QDRANT_API_KEY is not let in, and should read and write",
        ),
        ({"api_key": KEY}, "QDRANT_READ_ONLY_API_KEY is not let in, and should only read"),
        ({}, "a caller without a key may read and write, and should not be let in"),
    ],
    ids=["another key", "no read-only key", "open"],
)
def test_a_server_that_lets_in_others_than_meant_says_whom(start: Any, settings: dict[str, str], said: str) -> None:
    assert said in access.shortfall(start(**settings), site(), KEYS)


def test_a_site_without_keys_is_right_when_it_is_meant(start: Any) -> None:
    assert access.shortfall(start(), site("open"), KEYS) == ""
    assert access.shortfall(start(), site("open"), Credentials({})) == ""
    assert "everybody" in access.let_in(site("open"))
    assert "nobody else" in access.let_in(site())
    assert "should read and write" in access.shortfall(start(api_key=KEY, read_only_api_key=READ_KEY), site("open"), KEYS)


@pytest.mark.parametrize("key", [" edge", "edge ", "two\nlines", "schlüssel", "tab\tkey"])
def test_a_key_that_no_application_could_send_is_named_by_its_variable(key: str) -> None:
    (found,) = access.unusable(Credentials({"QDRANT_API_KEY": key}))
    assert found.startswith("QDRANT_API_KEY ")
    assert key not in found


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_a_neighbour_is_never_the_key_itself_and_always_one_that_can_be_sent(key: str) -> None:
    assert key not in access.neighbours(key)
    assert all(one.isascii() and one.isprintable() and one == one.strip() and one for one in access.neighbours(key))


@pytest.mark.parametrize(
    ("caller", "here", "there", "way"),
    [
        (Caller.FULL, Right.WRITES, Right.OUT, "QDRANT__SERVICE__API_KEY"),
        (Caller.READ_ONLY, Right.READS, Right.OUT, "QDRANT__SERVICE__READ_ONLY_API_KEY"),
        (Caller.ALT, Right.WRITES, Right.OUT, "QDRANT__SERVICE__ALT_API_KEY"),
        (Caller.TOKEN, Right.READS, Right.OUT, "JWT_RBAC"),
        (Caller.KEYLESS, Right.WRITES, Right.OUT, "take the keys off the old server"),
    ],
)
def test_who_may_do_less_after_going_back_is_named_with_both_ways_out(caller: Any, here: Any, there: Any, way: str) -> None:
    (found,) = access.lost({caller: here}, {caller: there}, names=("the new server", "the old server"))
    assert str(caller) in found.sentence
    assert way in found.way_out
    assert "; or " in found.way_out
    assert access.lost({caller: there}, {caller: here}, names=("the new server", "the old server")) == []
