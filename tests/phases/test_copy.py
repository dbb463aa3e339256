"""Copying one collection: what it leaves behind when it ends, when it fails, and when it was interrupted."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cutover.context import Context
from cutover.core import events
from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.ui import SilentUi
from cutover.qdrant import compare, schema
from cutover.qdrant import snapshots as left
from cutover.qdrant.client import NotThere
from cutover.replication import preflight
from cutover.replication.base_copy import base_copy
from tests.support.qdrant_pair import operating, pair_of_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: Any) -> Any:
    with pair_of_servers(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def run(servers: Any, tmp_path: Any) -> Any:
    with operating(servers, tmp_path) as made:
        with made.guard.act("test", "Fill"):
            made.old.ask("PUT", "/collections/docs", {"vectors": {"size": 2, "distance": "Dot"}})
            made.old.create_index("docs", "n", "integer")
            made.old.upsert("docs", [{"id": i, "vector": [i, 1], "payload": {"n": i}} for i in range(100)])
        yield made


def same(run: Any) -> Any:
    assert compare.compare_collection(run.old, run.new, "docs").differences == []
    assert schema.compare_schemas(schema.schema_of(run.old), schema.schema_of(run.new)) == []


def snapshots(run: Any) -> Any:
    """Of the collection and of its shard."""
    return {one["name"] for shard in (None, 0) for one in run.old.snapshots("docs", shard)}


def test_a_copy_is_complete_and_leaves_no_snapshot(run: Any) -> None:
    before = snapshots(run)
    base_copy(run, "copy", run.old, run.new, "docs")
    same(run)
    assert snapshots(run) == before
    assert events.open_intents(run.journal.entries()) == []


def test_a_new_server_that_was_not_deployed_is_said_to_be_missing(run: Any, free_tcp_port: int) -> None:
    """Not only that a connection was refused, which tells nobody what comes first."""
    facts = run.site.qdrant.model_copy(update={"new_url": f"http://127.0.0.1:{free_tcp_port}"})
    before = Context(run.site.model_copy(update={"qdrant": facts}), run.credentials, run.state_dir, execute=False, ui=SilentUi())
    with pytest.raises(Refused, match=r"The new server does not answer at .*, and it was not deployed yet") as told:
        preflight.refuse_unsafe(before)
    before.close()
    assert told.value.hint == "`cutover deploy` starts it."


@pytest.mark.parametrize("says", ["<html>Welcome</html>", '{"version": "8.1.0", "tagline": "You Know, for Search"}'])
def test_something_else_at_the_new_address_is_not_called_silent(run: Any, says: str) -> None:
    """`deploy`, which would be the advice, refuses while it is there."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(says.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        facts = run.site.qdrant.model_copy(update={"new_url": f"http://127.0.0.1:{page.server_port}"})
        site = run.site.model_copy(update={"qdrant": facts})
        before = Context(site, run.credentials, run.state_dir, execute=False, ui=SilentUi())
        try:
            with pytest.raises(Refused, match=r"does not answer like Qdrant .*, and it was not deployed yet") as told:
                preflight.refuse_unsafe(before)
        finally:
            before.close()
            page.shutdown()
            thread.join()
    assert "Find out what answers at" in told.value.hint


def test_a_copy_waits_for_applications_between_its_snapshot_and_fetching_it(run: Any) -> None:
    before, seen = snapshots(run), []
    base_copy(run, "copy", run.old, run.new, "docs", lambda: seen.append((len(snapshots(run) - before), run.new.count("docs"))))
    assert seen == [(1, 0)], "asked once, with the snapshot taken and nothing of it fetched"
    same(run)


def test_each_shard_is_copied_by_a_snapshot_of_its_own(run: Any) -> None:
    with run.guard.act("test", "Fill"):
        run.old.delete_collection("docs")
        vectors = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 3}
        run.old.create_collection("docs", vectors)
        run.old.upsert("docs", [{"id": i, "vector": [i, 1], "payload": {"n": i}} for i in range(100)])
    base_copy(run, "copy", run.old, run.new, "docs")
    same(run)
    taken = [entry.before["shard"] for entry in run.journal.acts("copy.snapshot") if entry.kind == "intent"]
    assert taken == [0, 1, 2]
    assert all(run.old.snapshots("docs", shard) == [] for shard in (None, 0, 1, 2))


@pytest.mark.parametrize(
    ("method", "status", "why"), [("PUT", 400, "no such thing"), ("PATCH", 400, "strict_mode_config"), ("PUT", 500, "")]
)
def test_what_cannot_be_made_the_same_is_copied_by_a_snapshot_of_all_of_it(
    run: Any, servers: Any, method: str, status: int, why: str
) -> None:
    """It brings the settings that it has. Of a server that stumbles nothing is concluded."""
    with run.guard.act("test", "A limit"):
        run.old.patch("docs", {"strict_mode_config": {"enabled": True, "max_query_limit": 99}})
    before, route = snapshots(run), "/collections/{collection_name}"
    words = "Bad request: no such thing"
    servers.switch("new", fail=[{"method": method, "endpoint": route, "status": status, "text": words}])
    if not why:
        with pytest.raises(Failed, match=words):
            base_copy(run, "copy", run.old, run.new, "docs")
        return
    base_copy(run, "copy", run.old, run.new, "docs")
    servers.switch("new")
    said = next(said for said in run.ui.sentences if "one snapshot of all of it" in said)
    assert why in said
    same(run)
    assert snapshots(run) == before
    assert events.open_intents(run.journal.entries()) == []


def test_what_an_interrupted_copy_left_on_the_target_is_replaced(run: Any) -> None:
    with run.guard.act("test", "An unfinished copy"):
        run.new.ask("PUT", "/collections/docs", {"vectors": {"size": 9, "distance": "Dot"}})
    base_copy(run, "copy", run.old, run.new, "docs")
    same(run)


def test_a_recovery_that_fails_is_said_and_the_snapshot_is_removed(run: Any, servers: Any) -> None:
    before = snapshots(run)
    words = "Service internal error: No space left on device (os error 28)"
    route = "/collections/{collection_name}/shards/{shard}/snapshots/recover"
    servers.switch("new", fail=[{"method": "PUT", "endpoint": route, "status": 500, "text": words}])
    with pytest.raises(Failed, match="No space left on device") as failed:
        base_copy(run, "copy", run.old, run.new, "docs")
    assert failed.value.exit_code == 3
    assert "run `copy` again" in failed.value.hint
    assert snapshots(run) == before
    servers.switch("new")
    assert preflight.ours(run) == {"docs"}, "what was made for it is there, and `undo copy` removes it"
    base_copy(run, "copy", run.old, run.new, "docs")
    same(run)


@pytest.mark.parametrize("shard", [None, 0])
def test_a_snapshot_that_an_interrupted_copy_left_is_removed(run: Any, shard: int | None) -> None:
    known: dict[str, Any] = {"collection": "docs", "shard": shard, "snapshots": []}
    with run.guard.act("copy.snapshot", left._words("docs", run.old, shard), before=known) as act:
        made = run.old.create_snapshot("docs", shard)
        act.after = {"collection": "docs", "snapshot": made["name"], "size": made["size"]}
    assert made["name"] in snapshots(run)
    left.remove_left(run, "copy", run.old)
    assert made["name"] not in snapshots(run)
    left.remove_left(run, "copy", run.old)


def test_a_snapshot_that_could_not_be_removed_is_removed_by_the_next_run(run: Any, servers: Any) -> None:
    before = snapshots(run)
    route = "/collections/{collection_name}/shards/{shard}/snapshots/{snapshot}"
    servers.switch("old", fail=[{"method": "DELETE", "endpoint": route, "status": 500, "text": "Service internal error"}])
    with pytest.raises(CutoverError, match="Service internal error"):
        base_copy(run, "copy", run.old, run.new, "docs")
    servers.switch("old")
    assert len(snapshots(run) - before) == 1
    left.remove_left(run, "copy", run.old)
    assert snapshots(run) == before


def test_a_snapshot_that_may_be_somebody_elses_is_named_and_kept(run: Any) -> None:
    run.journal.intent("copy.snapshot", left._words("docs", run.old), {"collection": "docs", "snapshots": list(snapshots(run))})
    with run.guard.act("test", "The snapshot that was under way"):
        made = run.old.create_snapshot("docs")
    for _ in range(2):
        left.remove_left(run, "copy", run.old)
    assert made["name"] in snapshots(run)
    assert "".join(run.ui.sentences).count(made["name"]) == 1, "once is enough"


@pytest.mark.parametrize("removed_before", [True, False])
def test_a_name_that_was_removed_before_may_have_come_again(run: Any, removed_before: bool) -> None:
    """Qdrant names them by the second, and within one a copy is killed, begun anew and killed again."""
    with run.guard.act("test", "The snapshot that was under way"):
        made = run.old.create_snapshot("docs")

    def removed() -> None:
        with run.guard.act("copy.remove-snapshot", f"Remove the snapshot {made['name']} on {run.old.name}"):
            """It was there for the first time."""

    if removed_before:
        removed()
    run.journal.intent("copy.snapshot", left._words("docs", run.old), {"collection": "docs", "snapshots": []})
    if not removed_before:
        removed()
    left.remove_left(run, "copy", run.old)
    assert (made["name"] in "".join(run.ui.sentences)) == removed_before


def test_a_snapshot_of_the_same_second_is_not_taken_for_ours(run: Any) -> None:
    """Qdrant names them by the second."""
    before = snapshots(run)
    with run.guard.act("test", "Somebody else's"):
        made = run.old.create_snapshot("docs")
    with left.taken(run, "copy", run.old, "docs") as ours:
        assert ours.name != made["name"]
    # The server keeps the snapshots of a collection of this name that was deleted.
    assert snapshots(run) == {*before, made["name"]}


def test_where_no_snapshot_was_taken_nobody_elses_is_named(run: Any, servers: Any) -> None:
    route = "/collections/{collection_name}/shards/{shard}/snapshots"
    servers.switch("old", fail=[{"method": "POST", "endpoint": route, "status": 500, "text": "Service internal error"}])
    with pytest.raises(CutoverError, match="Service internal error"):
        base_copy(run, "copy", run.old, run.new, "docs")
    servers.switch("old")
    with run.guard.act("test", "Somebody else's, every night"):
        run.old.create_snapshot("docs")
    left.remove_left(run, "copy", run.old)
    assert run.ui.sentences == []


def test_with_a_collection_its_snapshots_are_out_of_reach(run: Any) -> None:
    with pytest.raises(NotThere), left.taken(run, "copy", run.old, "docs") as made, run.guard.act("test", "A user removes it"):
        run.old.delete_collection("docs")
        run.old.info("docs")
    with run.guard.act("test", "Look"):
        run.old.delete_snapshot("docs", made.name)
    left.remove_left(run, "copy", run.old)


def test_a_collection_that_is_deleted_while_it_is_copied_is_gone_on_the_target_too(
    run: Any, servers: Any, monkeypatch: Any
) -> None:
    """Wherever in the copy that happens: nothing is claimed of a server, and nothing stays."""
    for method in ("create_snapshot", "snapshot_names", "snapshot_url"):
        for again in (False, True):
            with run.guard.act("test", "Fill"):
                run.old.delete_collection("docs")
                run.old.ask("PUT", "/collections/docs", {"vectors": {"size": 2, "distance": "Dot"}})
            with monkeypatch.context() as patch:
                _deleted_at(run, servers, patch, method, again=again)
                done = base_copy(run, "copy", run.old, run.new, "docs")
            if again:
                assert done is not None
                same(run)
            else:
                assert done is None
                assert "docs" not in run.new.collections()
                assert preflight.ours(run) == set()
            assert events.open_intents(run.journal.entries()) == []


def _deleted_at(run: Any, servers: Any, patch: Any, method: str, *, again: bool) -> None:
    """Somebody deletes the collection just before this is asked of the server for the first time, and may make it anew."""
    plain, left = getattr(run.old, method), ["once"]

    def deleted(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()
            with servers.guard.act("test", "A user"):
                for name in servers.old.snapshot_names("docs", 0):
                    servers.old.delete_snapshot("docs", name, 0)
                servers.old.delete_collection("docs")
                if again:
                    servers.old.ask("PUT", "/collections/docs", {"vectors": {"size": 3, "distance": "Dot"}})
        return plain(*args, **kwargs)

    patch.setattr(run.old, method, deleted)


def test_an_alias_of_the_same_name_on_the_target_does_not_turn_the_copy_to_another_collection(run: Any) -> None:
    """Recovering follows an alias: the collection it points to would be overwritten."""
    with run.guard.act("test", "An alias from before"):
        run.new.ask("PUT", "/collections/other", {"vectors": {"size": 2, "distance": "Dot"}})
        run.new.upsert("other", [{"id": 7, "vector": [7, 7]}])
        run.new.change_aliases([{"create_alias": {"alias_name": "docs", "collection_name": "other"}}])
    base_copy(run, "copy", run.old, run.new, "docs")
    assert preflight.ours(run) == {"docs"}
    assert run.new.count("other") == 1
    assert compare.compare_collection(run.old, run.new, "docs").differences == []
