"""A move may stand on an earlier comparison only as long as each of its conditions holds. Against two servers; the gate is a list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.qdrant.client import Qdrant
from cutover.replication.position import Position
from cutover.replication.proof import prove_everything
from cutover.replication.standing import Following
from tests.replication.test_follower import Application, Record
from tests.support.qdrant_pair import KEY, Pair, pair_of_servers

DOCS = "/collections/docs/points"


class Log(Record):
    def log_end(self) -> int:
        return self.lines[-1].offset if self.lines else 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


class Stage:
    """Two servers that hold the same, compared; ``command()`` is what a new process of the tool would begin with."""

    def __init__(self, servers: Pair, folder: Path) -> None:
        self.servers, self.path, self.log = servers, folder / "follow.json", Log()
        for one in (servers.old, servers.new):
            one.ask("PUT", "/collections/docs", {"vectors": {"size": 1, "distance": "Dot"}})
            one.upsert("docs", [{"id": i, "vector": [i]} for i in range(20)])
        Position().save(self.path)
        self.write = Application(servers.old, self.log, "old")
        following = self.command()
        at = time.time()
        following.standing.begin()
        following.standing.expect(["docs"])
        assert prove_everything(following)[1] == []
        following.standing.proved(["docs"], at)
        assert following.standing.look() == ""
        assert self.since() == {"docs": set()}

    def command(self) -> Following:
        position = Position.load(self.path)
        assert position is not None
        old, new = (Qdrant(s.url, self.servers.guard, key=KEY, name=s.name) for s in (self.servers.old, self.servers.new))
        return Following(self.log, old, new, position, self.path, copy_collection=lambda _name: None, may_replace=True)

    def since(self, hours: float = 24.0) -> dict[str, set[Any]]:
        """What a new command would compare of each collection; a collection that is missing is compared as a whole."""
        following = self.command()
        following.round()
        self.said = following.standing.look(patience=0.0)
        found, self.why = following.standing.since(hours)
        return found


@pytest.fixture
def stage(servers: Pair, tmp_path: Path) -> Iterator[Stage]:
    servers.clear()
    with servers.guard.act("test", "Fill and follow"):
        yield Stage(servers, tmp_path)


def test_what_passed_nginx_since_is_all_that_is_compared_from_one_command_to_the_next(stage: Stage) -> None:
    stage.write("PUT", f"{DOCS}?wait=true", {"points": [{"id": 3, "vector": [9]}]})
    stage.write("POST", f"{DOCS}/delete?wait=true", {"points": [4]})
    assert stage.since() == {"docs": {3, 4}}
    stage.write("PUT", f"{DOCS}?wait=true", {"points": [{"id": 5, "vector": [9]}]})
    assert stage.since() == {"docs": {3, 4, 5}}
    assert (stage.said, stage.why) == ("", "")


def _round_nginx(name: str) -> Callable[[Stage], None]:
    return lambda stage: getattr(stage.servers, name).upsert("docs", [{"id": 1, "vector": [1]}])


def _restarted(stage: Stage) -> None:
    saved = Position.load(stage.path)
    assert saved is not None
    saved.proofs.servers["new"].startup = "another day"
    saved.save(stage.path)


def _killed(stage: Stage) -> None:
    """Between bringing a write over and saving that it was."""
    before = stage.path.read_bytes()
    stage.write("PUT", f"{DOCS}?wait=true", {"points": [{"id": 3, "vector": [9]}]})
    stage.command().round()
    stage.path.write_bytes(before)


def _unknown_counters(stage: Stage) -> None:
    saved = Position.load(stage.path)
    assert saved is not None
    saved.proofs.servers = {}
    saved.save(stage.path)


def _no_names(stage: Stage) -> None:
    """A body that cannot be read: which records it named is not known."""
    stage.log.add("old", "PUT", f"{DOCS}?wait=true", b"not JSON", 200)
    stage.servers.old.upsert("docs", [{"id": 1, "vector": [1]}])


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (_round_nginx("old"), "The old server counted writes that did not pass Nginx: PUT"),
        (_round_nginx("new"), "The new server counted writes that did not pass Nginx: PUT"),
        (_restarted, "The new server was restarted"),
        (_killed, "counted writes that did not pass Nginx"),
        (_unknown_counters, "It is not known what both servers had counted"),
        (_no_names, "it was written in a way that names no records"),
    ],
)
def test_each_condition_that_is_broken_brings_the_comparison_of_everything_back(
    stage: Stage, breaks: Callable[[Stage], None], reason: str
) -> None:
    breaks(stage)
    assert stage.since() == {}
    assert reason in stage.why


def test_a_comparison_that_is_too_old_does_not_count(stage: Stage) -> None:
    assert stage.since(hours=0.0) == {}
    assert "limits.proof_hours is 0" in stage.why


def test_a_line_of_the_log_explains_one_write_and_not_a_later_one_past_nginx(stage: Stage) -> None:
    """A write that a client broke off has its line and was counted by nobody; after the look it is no excuse for another."""
    stage.log.add("old", "PUT", f"{DOCS}?wait=true", {"points": [{"id": 1, "vector": [1]}]}, 499)
    assert stage.since() == {"docs": {1}}
    _round_nginx("old")(stage)
    assert stage.since() == {}


def test_a_look_at_the_counters_asks_nothing_about_each_collection(stage: Stage) -> None:
    following, asked = stage.command(), list[Any]()
    for server in (following.source, following.target):
        plain = server.raw

        def seen(method: str, path: str, *rest: Any, _plain: Any = plain, **more: Any) -> Any:
            asked.extend([more["params"]] if path == "/telemetry" else [])
            return _plain(method, path, *rest, **more)

        server.raw = seen  # type: ignore[method-assign]
    assert following.standing.look() == ""
    assert asked == [{"details_level": 0}] * 2


def settings_asked(stage: Stage) -> list[str]:
    """Whose settings a new command asks for when it proves that both are the same, and nothing was found."""
    following, asked = stage.command(), list[str]()
    following.round()
    assert following.standing.look(patience=0.0) == ""
    since, _ = following.standing.since(24.0)
    plain = following.target.raw

    def seen(method: str, path: str, *rest: Any, **more: Any) -> Any:
        asked.extend([path.removeprefix("/collections/")] if path.startswith("/collections/") and method == "GET" else [])
        return plain(method, path, *rest, **more)

    following.target.raw = seen  # type: ignore[method-assign]
    assert prove_everything(following, since=since)[1] == []
    following.save()
    return asked


def test_settings_that_were_compared_are_compared_again_only_where_somebody_changed_them(stage: Stage) -> None:
    assert settings_asked(stage) == []
    stage.write("PUT", "/collections/docs/index?wait=true", {"field_name": "n", "field_schema": "integer"})
    assert "docs" in settings_asked(stage)
    assert settings_asked(stage) == []
    # Round Nginx nothing counts any more: not what was compared of records, and not of settings.
    Qdrant(stage.servers.old.url, stage.servers.guard, key=KEY).delete_index("docs", "n")
    assert stage.since() == {}
    assert stage.command().position.proofs.settled == set()
