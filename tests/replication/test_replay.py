"""Going back without the new server: what the records say, and that sending them again leads to the same state."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cutover.core.errors import Failed
from cutover.core.ui import SilentUi
from cutover.gate.write_log import Ended, Write, lines
from cutover.qdrant import compare, schema
from cutover.qdrant.affected import NotUnderstood, affected_by
from cutover.qdrant.client import Answered, Qdrant
from cutover.replication import account, again, replay, resend, switchover
from cutover.replication.again import Step
from cutover.replication.position import Position
from tests.replication.test_follower import Record
from tests.support.qdrant_pair import Pair, pair_of_servers, scroll

DOCS = "/collections/docs"


# -- what a write is, sent again ----------------------------------------------------------------------
def steps_of(method: str, uri: str, body: bytes) -> list[Step]:
    return again.steps_of(method, uri, body, affected_by(method, uri, body))


def test_a_write_is_sent_again_as_it_was_and_waited_for() -> None:
    body = b'{"points": [{"id": 1, "vector": [-0.0, 1e-40]}]}'
    found = steps_of("put", f"{DOCS}//points/?ordering=strong&wait=false&timeout=1", body)
    assert found == [Step("PUT", f"{DOCS}/points", {"ordering": "strong", "wait": "true"}, body, looks=False)]
    assert steps_of("PUT", f"{DOCS}/points", gzip.compress(body))[0].body == body


@pytest.mark.parametrize(
    ("method", "uri", "body", "looks"),
    [
        ("POST", f"{DOCS}/points/delete", {"points": [1]}, [False]),
        ("POST", f"{DOCS}/points/delete", {"filter": {}}, [True]),
        ("PUT", f"{DOCS}/points", {"points": [{"id": 1, "vector": [1]}], "update_filter": {"must": []}}, [True]),
        ("PUT", f"{DOCS}/points", {"points": [{"id": 1, "vector": [1]}], "update_mode": "insert_only"}, [True]),
        (
            "POST",
            f"{DOCS}/points/batch",
            {"operations": [{"delete": {"points": [1]}}, {"delete": {"filter": {}}}]},
            [False, True],
        ),
        ("DELETE", DOCS, None, [True]),
        ("PUT", f"{DOCS}/index", {"field_name": "a", "field_schema": "keyword"}, [True]),
        ("POST", "/collections/aliases", {"actions": [{"delete_alias": {}}, {"rename_alias": {}}]}, [True, True]),
        ("POST", f"{DOCS}/snapshots", None, []),
    ],
)
def test_what_looks_at_the_state_first_is_known_by_it(method: str, uri: str, body: Any, looks: list[bool]) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    assert [step.looks for step in steps_of(method, uri, content)] == looks


@pytest.mark.parametrize(
    ("method", "uri", "body"),
    [
        ("PUT", f"{DOCS}/snapshots/recover?wait=true", b'{"location": "http://gone/1.snapshot"}'),
        ("POST", f"{DOCS}/snapshots/upload", b"--x"),
        ("POST", f"{DOCS}/shards/0/snapshots/upload", b"--x"),
        ("POST", f"{DOCS}/cluster", b"{}"),
        ("PUT", f"{DOCS}/points", b"\x0b\x02not any form that is known"),
    ],
)
def test_what_would_not_do_the_same_again_is_named(method: str, uri: str, body: bytes) -> None:
    with pytest.raises(NotUnderstood, match="docs"):
        steps_of(method, uri, body)


# -- what the records say -----------------------------------------------------------------------------
def _write(
    began: int,
    ended: int,
    body: Any,
    uri: str = f"{DOCS}/points/delete",
    status: int = 200,
    side: str = "new",
    method: str = "POST",
) -> Any:
    return Write(ended, 0.0, method, uri, status, side, "x", began), json.dumps(body).encode()


def test_writes_by_filter_that_may_meet_a_later_state_are_named() -> None:
    early, late = _write(1, 4, {"filter": {"must": []}}), _write(8, 9, {"filter": {"must": []}})
    plain = _write(1, 5, {"points": [1]})
    found = account.account([early, plain, late], {}, since=0.0, ahead=7)
    assert found.unsure == [early[0]]
    assert any("may mean other records" in one for one in found.sentences("the old server", "the new server"))
    assert account.account([early, plain, late], {}, since=0.0, ahead=None).unsure == [early[0], late[0]]
    assert account.account([early, plain, late], {}, since=0.0).unsure == []
    assert account.account([early, plain, late], {}, since=0.0, ahead=7, ahead_of={"docs": [1]}).unsure == []


NOW, SET, INDEX = "/collections/now/points/payload", f"{DOCS}/points/payload", f"{DOCS}/index"


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (_write(1, 4, {"points": [1, 2]}), _write(3, 6, {"points": [2, 3]}, SET), ["docs 2"]),
        (_write(1, 3, {"points": [1, 2]}), _write(3, 6, {"points": [2, 3]}, SET), []),
        (_write(1, 4, {"points": [1]}), _write(3, 6, {"points": [2]}, SET), []),
        (_write(1, 4, {"points": [1]}), _write(0, 6, {"points": [1]}, SET), ["docs 1"]),
        (_write(1, 4, {"points": [1]}), _write(3, 6, {"points": [1]}, NOW), ["docs 1"]),
        (_write(1, 4, {"points": [1]}), _write(3, 6, {"points": [1]}, "/collections/others/points/payload"), []),
        (_write(1, 4, {"points": [1]}, status=502), _write(3, 6, {"points": [1]}, SET), []),
        (_write(1, 4, {"points": [1]}, side="old"), _write(3, 6, {"points": [1]}, SET), ["docs 1"]),
        # Two that delete, or ask for the same, lead to the same in either order; a client that tries again sends such.
        (_write(1, 4, {"points": [1]}), _write(3, 6, {"points": [1, 2]}), []),
        (_write(1, 4, {"points": [1], "payload": {}}, SET), _write(3, 6, {"points": [1], "payload": {}}, SET), []),
        # An index changes no record, but it may change which ones a filter chooses.
        (_write(1, 4, {"field_name": "a"}, INDEX, method="PUT"), _write(3, 6, {"points": [1]}), []),
        (
            _write(1, 4, {"field_name": "a"}, INDEX, method="PUT"),
            _write(3, 6, {"filter": {}}),
            ["docs records chosen by what they hold"],
        ),
    ],
)
def test_writes_that_overlapped_on_the_same_records_are_named(first: Any, second: Any, names: list[str]) -> None:
    found = account.account([first, second], {"now": ["docs"]}, since=0.0)
    assert found.overlaps == names
    assert len(found.overlapping) == 2 * len(names)
    assert found.seen.asked() == 0


@pytest.mark.parametrize(
    ("first", "second", "around"),
    [
        (_write(1, 4, {"points": [1]}, SET), _write(3, 6, {"filter": {}}), [4]),
        (_write(1, 4, {"filter": {}}), _write(3, 6, {"points": [1]}, SET), [6]),
        (_write(1, 4, {"filter": {}}), _write(4, 6, {"points": [1]}, SET), []),
        (_write(1, 4, {"filter": {}}), _write(3, 6, {"filter": {"must": []}}, SET), [4, 6]),
        (_write(1, 4, {"filter": {}}), _write(3, 6, {"filter": {"must": []}}), []),
        (_write(1, 4, {"filter": {}}), _write(3, 6, {"points": [1]}, "/collections/others/points/payload"), []),
    ],
)
def test_around_which_writes_the_old_server_is_asked(first: Any, second: Any, around: list[int]) -> None:
    found = account.account([first, second], {}, since=0.0)
    assert found.overlapping == [] and sorted(found.seen.rivals) == around
    assert any("is asked whether the order matters" in one for one in found.sentences("the old server", "the new")) is bool(
        around
    )
    assert f"{2 if around else 0} writes" in f"{found.seen.asked()} writes"


def test_overlaps_are_found_across_two_looks_and_across_two_runs() -> None:
    """The second write began before the first look and ended after it; or a run before this one has sent the first already."""
    first, second, third = (_write(b, e, {"points": [1], "payload": {"n": e}}, SET) for b, e in ((2, 4), (1, 6), (7, 8)))
    begun = account.account([first], {}, since=0.0)
    assert begun.overlapping == []
    rest = account.account([second, third], {}, since=0.0, seen=begun.seen)
    assert [w.offset for w in rest.overlapping] == [4, 6] and [w.offset for w in rest.writes] == [6, 8]
    once_more = account.account([second, third], {}, since=0.0, seen=begun.seen)  # they did not fit into a hold
    assert [w.offset for w in once_more.overlapping] == [4, 6] and [w.offset for w in once_more.writes] == [6, 8]
    again = account.account([first, second, third], {}, since=0.0, replayed=4)
    assert [w.offset for w in again.overlapping] == [4, 6] and [w.offset for w in again.writes] == [6, 8]


def test_only_what_was_acknowledged_by_the_lost_server_is_sent_again() -> None:
    written = [
        _write(1, 2, {"points": [1]}),
        _write(3, 4, {"points": [2]}, status=502),
        _write(5, 6, {"points": [3]}, side="old"),
        _write(7, 8, {"points": [4]}, status=503, side=""),
        _write(9, 10, {"points": [5]}, status=0, side="unknown"),
    ]
    found = account.account(written, {}, since=1e9)
    assert [one.offset for one in found.writes] == [2]
    assert (found.unacknowledged, found.end) == (2, 10)
    said = ". ".join(found.sentences("the old server", "the new server"))
    assert "1 recorded write that the new server acknowledged since 2001-09-09T01:46:40Z is sent to the old server" in said
    assert "2 writes left out" in said and "Nothing can be compared" in said


def test_when_a_write_began_is_read_from_the_log() -> None:
    def line(kind: str, name: str) -> str:
        said = {"n": kind, "id": name, "at": "1.0", "pid": "7", "method": "PUT", "uri": "/", "status": "200", "side": "new"}
        return json.dumps(said | {"body": ""}) + "\n"

    text = [line("end", "a"), line("begin", "b"), line("begin", "c"), line("end", "c"), line("end", "b")]
    ends = [len("".join(text[: i + 1])) for i in range(len(text))]
    found = list(Ended().of(lines("".join(text).encode(), 0)))
    assert [(w.began, w.offset) for w in found] == [(0, ends[0]), (ends[2], ends[3]), (ends[1], ends[4])]


# -- acting -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


class Log(Record):
    """The gate's log; every write ends before the next one begins."""

    def add(self, side: Any, method: Any, uri: Any, body: Any = None, status: Any = 200) -> Any:
        super().add(side, method, uri, body, status)
        last = self.lines.pop()
        self.lines.append(Write(last.offset, last.at, method, uri, status, side, last.body, last.offset - 50))


def a_run(servers: Pair, log: Log, folder: Path) -> Any:
    return SimpleNamespace(gate=log, old=servers.old, new=servers.new, state_dir=folder, ui=SilentUi())


@pytest.mark.parametrize(
    ("fault", "is_gone"), [({}, False), ({"status": 500, "text": "broken"}, False), ({"drop": "before"}, True)]
)
def test_a_server_that_answers_anything_is_not_gone(servers: Pair, fault: dict[str, Any], is_gone: bool) -> None:
    servers.switch("new", **({"fail": [{"method": "GET", "endpoint": "/", **fault}]} if fault else {}))
    try:
        assert bool(replay.gone(servers.new, 0.3)) is is_gone
    finally:
        servers.switch("new")
    nobody = Qdrant("http://127.0.0.1:1", servers.guard, name="the new server")
    assert "The new server does not answer" in replay.gone(nobody, 0.0)


def test_what_the_old_server_refuses_is_kept_and_what_it_cannot_do_stops_the_replay(servers: Pair, tmp_path: Path) -> None:
    servers.clear()
    log = Log()
    run = a_run(servers, log, tmp_path)
    with servers.guard.act("test", "Fill"):
        servers.old.ask("PUT", DOCS, {"vectors": {"size": 1, "distance": "Dot"}})
        for number in range(3):
            log.add("new", "PUT", f"{DOCS}/points", {"points": [{"id": number, "vector": [1]}]})
        log.add("new", "POST", f"{DOCS}/points/payload", {"payload": {"a": 1}, "points": [77]})
        position = Position("new")
        assert resend.resend(run, position, account.look(run, position)) == 1
        kept = [json.loads(line) for line in (tmp_path / resend.REFUSED).read_text().splitlines()]
        assert [(one["uri"], "77" in one["answered"]) for one in kept] == [(f"{DOCS}/points/payload", True)]
        assert servers.old.count("docs") == 3

        log.add("new", "PUT", f"{DOCS}/points", {"points": [{"id": 9, "vector": [1]}]})
        servers.switch("old", fail=[{"method": "PUT", "endpoint": "/collections/{collection_name}/points", "drop": "after"}])
        saved = Position.load(switchover.position_path(run))
        assert saved is not None
        with pytest.raises(Failed, match="lost"):
            resend.resend(run, saved, account.look(run, saved))
        servers.switch("old")
        assert resend.resend(run, saved, account.look(run, saved)) == 0
        assert servers.old.count("docs") == 4


def test_a_batch_of_which_one_operation_is_refused_the_second_time_is_done_all_the_same(servers: Pair, tmp_path: Path) -> None:
    servers.clear()
    log = Log()
    run = a_run(servers, log, tmp_path)
    mark = {"set_payload": {"payload": {"seen": True}, "points": [2]}}
    log.add("new", "PUT", f"{DOCS}/points", {"points": [{"id": 1, "vector": [1]}]})
    log.add("new", "POST", f"{DOCS}/points/batch", {"operations": [mark, {"upsert": {"points": [{"id": 1, "vector": [5]}]}}]})
    log.add("new", "POST", f"{DOCS}/points/delete", {"points": [2]})
    with servers.guard.act("test", "Fill and replay"):
        servers.old.ask("PUT", DOCS, {"vectors": {"size": 1, "distance": "Dot"}})
        servers.old.upsert("docs", [{"id": 2, "vector": [1]}])
        for _ in range(2):  # killed at the end, and begun again from the start
            position = Position("new")
            resend.resend(run, position, account.look(run, position))
            assert [(r["id"], r["vector"]) for r in scroll(servers.old, "docs")] == [(1, [5.0])]


class Killed(BaseException):
    """The operator's computer died."""


def test_what_chose_by_the_state_is_not_done_again_in_a_later_state(servers: Pair, tmp_path: Path) -> None:
    servers.clear()
    log = Log()
    run = a_run(servers, log, tmp_path)
    by = {"filter": {"must": [{"key": "k", "match": {"value": "x"}}]}}
    log.add("new", "POST", f"{DOCS}/points/payload", {"payload": {"chosen": True}, **by})
    log.add("new", "POST", f"{DOCS}/points/payload", {"payload": {"k": "x"}, "points": [2]})
    with servers.guard.act("test", "Fill and replay"):
        servers.old.ask("PUT", DOCS, {"vectors": {"size": 1, "distance": "Dot"}})
        servers.old.upsert("docs", [{"id": 1, "vector": [1], "payload": {"k": "x"}}, {"id": 2, "vector": [1]}])
        Position("new").save(switchover.position_path(run))
        _replay_and_die(run, [2], random.Random(0))
        assert [r["payload"] for r in scroll(servers.old, "docs")] == [{"k": "x", "chosen": True}, {"k": "x"}]


@given(seed=st.integers(0, 10**9), count=st.integers(1, 40), deaths=st.lists(st.integers(1, 30), max_size=4))
@settings(
    max_examples=settings().max_examples // 7, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # a seed cannot be made smaller
def test_any_writes_sent_again_lead_to_the_same_state_however_often_it_dies(
    servers: Pair, tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, deaths: list[int]
) -> None:
    servers.clear()
    log, dice = Log(), random.Random(seed)
    with servers.guard.act("test", "Fill, write and replay"):
        for one in (servers.old, servers.new):
            one.ask("PUT", DOCS, {"vectors": {"a": {"size": 2, "distance": "Dot"}, "b": {"size": 1, "distance": "Dot"}}})
            one.upsert("docs", [_record(i, random.Random(i)) for i in range(8)])
            one.change_aliases([{"create_alias": {"alias_name": "now", "collection_name": "docs"}}])
        for _ in range(count):
            _one_write(servers.new, log, dice)
        run = a_run(servers, log, tmp_path_factory.mktemp("state"))
        Position("new").save(switchover.position_path(run))
        _replay_and_die(run, deaths, dice)
        servers.new.barrier(servers.new.collections())
    assert schema.compare_schemas(schema.schema_of(servers.new), schema.schema_of(servers.old)) == []
    for name in servers.new.collections():
        assert compare.compare_collection(servers.new, servers.old, name).differences == []


def _replay_and_die(run: Any, deaths: list[int], dice: random.Random) -> None:
    send = resend._send
    for death in [*deaths, 0]:
        sent = 0

        def sends_and_dies(context: Any, step: Any, death: int = death) -> Any:
            nonlocal sent
            sent += 1
            if sent == death and dice.random() < 0.5:
                raise Killed
            answer = send(context, step)
            if sent == death:
                raise Killed
            return answer

        resend._send = sends_and_dies
        try:
            position = Position.load(switchover.position_path(run))
            assert position is not None
            resend.resend(run, position, account.look(run, position))
        except Killed:
            continue
        finally:
            resend._send = send
        if death == 0:
            return


def _record(number: int, dice: random.Random) -> dict[str, Any]:
    vector: dict[str, Any] = {name: [dice.randint(-9, 9) for _ in range(n)] for name, n in (("a", 2), ("b", 1))}
    return {"id": number, "vector": vector, "payload": {"n": number, "k": dice.choice("xyz"), "in": {"m": dice.randint(0, 2)}}}


def _one_write(new: Qdrant, log: Log, dice: random.Random) -> None:
    """One write of any kind to the new server, written down with its answer as Nginx does."""
    new.barrier(["docs"])
    there = [r["id"] for r in scroll(new, "docs", payload=False, vectors=False)] if "docs" in new.collections() else []
    some = dice.sample(there, min(len(there), dice.randint(1, 3)))
    by = {"filter": {"must": [{"key": "k", "match": {"value": dice.choice("xyz")}}]}}
    chosen: dict[str, Any] = {"points": some} if some and dice.random() < 0.6 else by
    payload = {dice.choice(["k", "q"]): dice.choice("xyz")}
    records = [_record(dice.randint(0, 11), dice) for _ in range(dice.randint(1, 3))]
    condition: dict[str, Any] = dice.choice([{}, {}, {"update_filter": by["filter"]}, {"update_mode": "insert_only"}])
    operations: list[tuple[str, dict[str, Any]]] = [
        ("upsert", {"points": records, **condition}),
        ("delete", chosen),
        ("set_payload", {"payload": payload, **chosen}),
        ("set_payload", {"payload": {"m": dice.randint(0, 2)}, "key": "in", **chosen}),
        ("overwrite_payload", {"payload": payload, **chosen}),
        ("delete_payload", {"keys": ["k"], **chosen}),
        ("clear_payload", chosen),
        ("delete_vectors", {"vector": ["b"], **chosen}),
    ]
    ways = {
        "upsert": ("PUT", "points"),
        "delete": ("POST", "points/delete"),
        "set_payload": ("POST", "points/payload"),
        "overwrite_payload": ("PUT", "points/payload"),
        "delete_payload": ("POST", "points/payload/delete"),
        "clear_payload": ("POST", "points/payload/clear"),
        "delete_vectors": ("POST", "points/vectors/delete"),
    }
    at = f"/collections/{dice.choice(['docs', 'docs', 'now'])}"
    kind, body = dice.choice(operations)
    method, rest = ways[kind]
    simple: tuple[str, str, Any] = (method, f"{at}/{rest}?wait={dice.choice(['true', 'false'])}", body)
    # First what names records, while they are there: a batch that is answered with an error was done in part.
    several: list[dict[str, Any]] = [{"set_payload": {"payload": payload, "points": some}}] if some else []
    several += [{"upsert": {"points": records}}, *({k: b} for k, b in dice.sample(operations, 2) if "points" not in b)]
    aliases = [
        {"create_alias": {"alias_name": dice.choice(["now", "then"]), "collection_name": "docs"}},
        {"rename_alias": {"old_alias_name": "then", "new_alias_name": "later"}},
        {"delete_alias": {"alias_name": "later"}},
    ]
    other: list[tuple[str, str, Any]] = [
        ("POST", f"{at}/points/batch?wait=true", {"operations": several}),
        ("POST", f"{at}/points/batch?wait=true", {"operations": several}),
        ("PUT", f"{at}/index?wait=true", {"field_name": "k", "field_schema": "keyword"}),
        ("DELETE", f"{at}/index/k?wait=true", None),
        ("POST", "/collections/aliases", {"actions": [aliases[0], aliases[1]]}),
        ("POST", "/collections/aliases", {"actions": [dice.choice(aliases)]}),
        ("PATCH", "/collections/docs", {"optimizers_config": {"indexing_threshold": dice.randint(1, 9) * 1000}}),
        ("PUT", "/collections/more", {"vectors": {"size": 1, "distance": "Dot"}}),
        ("DELETE", "/collections/more", None),
    ]
    method, uri, content = simple if dice.random() < 0.6 else dice.choice(other)
    path, _, query = uri.partition("?")
    try:
        new.raw(method, path, content, params=dict([query.split("=")]) if query else None)
        status = 200
    except Answered as error:
        status = error.status
    log.add("new", method, uri, content, status)
