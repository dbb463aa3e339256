"""The gate as the tool works it, on a real nginx: put in, taken out, held, switched, recorded, and killed in between."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ruamel.yaml import YAML

from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, Failed, Refused, Unreachable, WritesRefused
from cutover.core.journal import Journal
from cutover.core.shell import Answer, Shell
from cutover.core.wait import TimedOut
from cutover.core.write_guard import WriteGuard
from cutover.gate import controller, doorway, nginx_conf, records, write_log
from cutover.gate.controller import Gate
from cutover.gate.interface import Written
from cutover.gate.nginx_host import Facts
from cutover.gate.obstacles import obstacles
from cutover.phases import gate as gate_phase
from cutover.site import load as sites
from cutover.site.schema import Site
from tests.support.gateway import ADDRESS, Gateway, gateway, session, until
from tests.support.night import every_nth_by_day
from tests.support.phases import done

ROOT = Path(__file__).resolve().parents[2]
UPSERT = "/collections/docs/points?wait=true"


def site_of(way: Gateway, *, public: str = "", qdrant: dict[str, str] | None = None, **controller: Any) -> Site:
    """The repository's site with this gateway's addresses."""
    import io

    yaml = YAML(typ="rt")
    tree = yaml.load((ROOT / "site.yaml").read_text())
    tree["guests"]["old"]["address"], tree["guests"]["new"]["address"] = way.old.host, way.new.host
    tree["qdrant"] |= {
        "old_url": f"http://{way.old.address}",
        "new_url": f"http://{way.new.address}",
        "public_url": public or way.url,
    } | (qdrant or {})
    tree["nginx"] |= way.host.facts() | controller
    text = io.StringIO()
    yaml.dump(tree, text)
    return sites.parse(text.getvalue())


def _works_in(process: Path) -> str:
    """The working directory of a process that may end meanwhile."""
    try:
        return str((process / "cwd").readlink())
    except OSError:
        return ""


class Stage:
    """A gateway without the gate, and the tool's client for it with an act open."""

    def __init__(self, way: Gateway, folder: Path, *, public: str = "", qdrant: dict[str, str] | None = None) -> None:
        self.way, self.public, self.qdrant = way, public, qdrant
        self.folder = folder
        self.environment = {"QDRANT_API_KEY": "key"}
        self.stack = ExitStack()
        self.guard = WriteGuard(Journal(folder / "state", "home-lab"))
        self.stack.enter_context(self.guard.act("test", "Try the gate"))
        self.gate = self.client()

    def client(self, **controller: Any) -> Gate:
        gate = Gate(
            site_of(self.way, public=self.public, qdrant=self.qdrant, **controller),
            Credentials.from_env(self.environment),
            self.guard,
        )
        self.stack.callback(gate.close)
        return gate

    def files(self) -> dict[str, tuple[bytes, int, int, int, int]]:
        """Every file under etc/nginx: content, mode, owner, group, time of change."""
        found = {}
        for file in sorted(self.way.host.etc.rglob("*")):
            if file.is_file():
                s = file.stat()
                found[str(file)] = (file.read_bytes(), stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns)
        return found

    def body(self, entry: Written) -> bytes:
        """One recorded body."""
        ((_, body),) = self.gate.bodies([entry])
        return body

    def put(self, body: bytes = b"{}", *, path: str = UPSERT, **headers: str) -> Any:
        with session() as client:
            return client.put(
                self.way.url + path, data=body, headers={k.replace("_", "-"): v for k, v in headers.items()}, timeout=10
            )


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Stage]:
    with gateway(with_gate=False) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            yield stage


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with gateway(with_gate=False) as way:
        stage = Stage(way, tmp_path_factory.mktemp("gate"))
        with stage.stack:
            stage.gate.install()
            yield stage


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    yield shared
    shared.gate.release()
    shared.gate.stop_recording()
    shared.way.clear()


class TestInstall:
    def test_proves_itself_and_users_notice_nothing(self, bare: Stage) -> None:
        before = bare.put().json()
        said = bare.gate.install()
        assert said.changed
        assert bare.put().json() == before
        loaded = bare.gate.loaded()
        assert loaded is not None
        assert loaded["files"] == bare.gate.files().checksum
        state = bare.gate.state()
        assert (state.installed, state.side, state.held, state.recording) == (True, "old", False, False)
        assert bare.way.flags.exists()
        assert not (bare.way.flags / "probe").exists()
        assert [a.path for a in bare.way.old.asked if "gate-proof" in a.path], "a write was tried"
        assert bare.way.new.asked == []

    def test_twice_changes_nothing(self, bare: Stage) -> None:
        bare.gate.install()
        before = bare.files()
        assert bare.gate.install().changed is False
        assert bare.files() == before

    def test_an_interrupted_one_is_finished_by_the_next_and_still_removed_byte_for_byte(self, bare: Stage) -> None:
        before = bare.files()
        bare.gate.install()
        (bare.way.host.http_folder / "qdrant-gate.conf").write_text("# torn")
        bare.way.host.server_file.write_text(bare.way.host.server_file.read_text())
        assert bare.client().install().changed
        assert bare.put().status_code == 200
        bare.client().remove()
        assert bare.files() == before

    def test_only_the_address_changes_in_the_operators_file(self, bare: Stage) -> None:
        before = bare.way.host.server_file.read_text()
        bare.gate.install()
        after = bare.way.host.server_file.read_text()
        assert after == before.replace(bare.way.old.address, bare.way.host.gate_address)
        assert after != before

    def test_and_remove_leave_every_byte_mode_owner_and_time_as_they_were(self, bare: Stage) -> None:
        file = bare.way.host.server_file
        file.write_bytes(file.read_bytes() + b"# \xff\xfe caf\xe9, no newline at the end")
        file.chmod(0o640)
        if os.getuid() == 0:
            os.chown(file, 33, 33)
        before = bare.files()
        bare.gate.install()
        assert bare.files() != before
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        said = bare.gate.remove()
        assert said.changed
        assert bare.files() == before
        assert not bare.way.host.gate_folder.exists()
        assert bare.put().json()["side"] == "old"
        assert bare.gate.loaded() is None
        assert bare.gate.remove().changed is False

    def test_a_link_to_the_server_file_stays_a_link(self, bare: Stage) -> None:
        link = bare.way.host.server_file
        real = bare.way.host.etc / "sites-available" / "qdrant"
        real.parent.mkdir()
        link.rename(real)
        link.symlink_to(real)
        before = bare.files()
        bare.gate.install()
        assert link.is_symlink()
        bare.gate.remove()
        assert bare.files() == before
        assert link.is_symlink()

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can take the flags from another user's sight")
    def test_is_refused_when_the_workers_cannot_see_the_flags(self, bare: Stage) -> None:
        before = bare.files()
        with bare.way.host.blind():
            with pytest.raises(Refused, match=rf"worker processes \(user {bare.way.host.worker_user}\) cannot look into"):
                bare.gate.install()
            assert not bare.way.host.gate_folder.exists()
        assert bare.files() == before
        assert bare.put().status_code == 200

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can take the flags from another user's sight")
    def test_is_taken_out_again_when_only_nginx_itself_shows_that_they_cannot(self, bare: Stage, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tools.mkdir()
        for folder in ("/usr/bin", "/bin", "/usr/sbin"):
            for tool in Path(folder).iterdir():
                if tool.name != "su" and not (tools / tool.name).exists():
                    (tools / tool.name).symlink_to(tool)
        before = bare.files()
        reload = bare.way.host.reload
        with bare.way.host.blind():
            without_su = ["/usr/bin/env", f"PATH={tools}", "/usr/bin/env"]
            gate = bare.client(shell=without_su, reload=reload)
            gate.installer.host.command = f"PATH={tools} {gate.installer.host.command}"
            with pytest.raises(Refused, match=r"cannot look into .* Everything was put back|passable .* put back"):
                gate.install()
        assert bare.files() == before
        assert bare.gate.loaded() is None
        assert bare.put().json()["side"] == "old"

    def test_is_refused_in_a_folder_that_holds_what_is_not_the_gates(self, bare: Stage) -> None:
        folder = bare.way.host.gate_folder
        folder.mkdir()
        folder.chmod(0o700)
        (folder / "data.db").write_text("dear")
        with pytest.raises(Refused, match=r"holds what is not the gate's: data\.db"):
            bare.gate.install()
        assert [file.name for file in folder.iterdir()] == ["data.db"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_removing_it_leaves_what_somebody_else_put_into_its_folder(self, bare: Stage) -> None:
        bare.gate.install()
        folder = bare.way.host.gate_folder
        (folder / "data.db").write_text("dear")
        assert bare.gate.remove().changed
        assert [file.name for file in folder.iterdir()] == ["data.db"]

    def test_a_configuration_that_nginx_refuses_is_put_back(self, bare: Stage) -> None:
        (bare.way.host.http_folder / "00.conf").write_text("map_hash_max_size 0;\n")  # no map fits into it
        bare.way.reload()
        before, worker = bare.files(), set(bare.gate.installer.host.workers())
        with pytest.raises(Refused, match=r"map_hash_max_size.* put back as it was"):
            bare.gate.install()
        assert bare.files() == before
        assert set(bare.gate.installer.host.workers()) <= worker, "nothing was loaded, so nothing is reloaded"
        assert bare.put().status_code == 200

    def test_names_of_the_gate_that_somebody_has_already_are_refused(self, bare: Stage) -> None:
        (bare.way.host.http_folder / "zz.conf").write_text("upstream qdrant_gate_old { server 127.0.0.1:1; }\n")
        with pytest.raises(Refused, match=r"zz.conf:1 names something `qdrant_gate_"):
            bare.gate.install()
        assert not bare.way.host.gate_folder.exists()

    def test_a_configuration_that_was_wrong_before_is_not_touched(self, bare: Stage) -> None:
        (bare.way.host.http_folder / "zz.conf").write_text("nonsense;\n")
        with pytest.raises(Refused, match=r"already wrong before .* unknown directive .nonsense"):
            bare.gate.install()
        assert not bare.way.host.gate_folder.exists()

    def test_a_server_that_answers_otherwise_through_nginx_stops_it(self, bare: Stage) -> None:
        before = bare.files()
        gate = bare.client()
        real, asked = gate.worker.answers_to_users, 0

        def door(*, writes: bool) -> dict[str, doorway.Answer]:
            nonlocal asked
            asked += 1
            seen = real(writes=writes)
            return seen if asked < 3 else seen | {"a read": doorway.Answer(403, {}, "")}

        gate.worker.answers_to_users = door  # type: ignore[method-assign]
        with pytest.raises((Refused, Failed), match="A read through Nginx is answered with 403; before it was 200"):
            gate.install()
        assert bare.files() == before

    def test_remove_keeps_what_somebody_changed_since(self, bare: Stage) -> None:
        file = bare.way.host.server_file
        before = file.read_text()
        bare.gate.install()
        with file.open("a") as changed:
            changed.write("# mine\n")
        said = bare.gate.remove()
        assert "somebody changed something since; that stays" in said.sentence
        assert file.read_text() == before + "# mine\n"
        assert bare.put().json()["side"] == "old"
        assert bare.gate.loaded() is None

    def test_remove_is_refused_while_the_new_server_serves(self, bare: Stage) -> None:
        bare.gate.install()
        bare.way.set("new")
        with pytest.raises(Refused, match="The new server serves"):
            bare.gate.remove()
        assert bare.put().json()["side"] == "new"

    def test_settling_leaves_the_operators_file_with_the_new_address(self, bare: Stage) -> None:
        before = bare.way.host.server_file.read_text()
        bare.gate.install()
        with pytest.raises(Refused, match="the old server serves"):
            bare.gate.settle()
        bare.gate.hold(1.4)
        bare.gate.point_to_new()
        bare.way.set("record")
        with pytest.raises(Refused, match="way back is kept open"):
            bare.gate.settle()
        bare.way.unset("record")
        assert bare.gate.settle().changed
        assert bare.way.host.server_file.read_text() == before.replace(bare.way.old.address, bare.way.new.address)
        assert bare.put().json()["side"] == "new"
        assert bare.gate.loaded() is None
        assert [f.name for f in bare.way.host.etc.rglob("*gate*")] == []
        assert (bare.way.host.gate_folder / "was" / "1").read_text() == before
        assert bare.gate.state().installed is False

    @pytest.mark.parametrize(
        "after", every_nth_by_day(["write", "copy the files that will be changed", "reload nginx", "set the flag probe"], 2)
    )
    def test_putting_in_that_lost_its_host_half_way_is_completed_by_the_next(
        self, bare: Stage, monkeypatch: pytest.MonkeyPatch, after: str
    ) -> None:
        change, gone = Shell.change, False

        def change_until(self: Shell, script: str, what: str, **rest: Any) -> Answer:
            nonlocal gone
            if gone:
                raise Unreachable("There is no shell on the Nginx host any more.")
            gone = what.startswith(after)
            return change(self, script, what, **rest)

        journal = Journal(bare.folder / "state", "home-lab")
        run: Any = SimpleNamespace(gate=bare.client(), guard=bare.guard, site=site_of(bare.way), journal=journal)
        with monkeypatch.context() as patched, pytest.raises(CutoverError):
            patched.setattr(Shell, "change", change_until)
            done(gate_phase.PHASE, run)
        run.gate = bare.client()
        assert done(gate_phase.PHASE, run).changed
        seen = bare.gate.loaded()
        assert seen is not None and seen["flags"].split() == []
        assert bare.put().json()["side"] == "old"

    def test_settling_that_fails_leaves_the_gate(self, bare: Stage) -> None:
        bare.gate.install()
        bare.way.set("new")
        gate = bare.client()
        real, asked = gate.worker.answers_to_users, 0

        def door(*, writes: bool) -> dict[str, doorway.Answer]:
            nonlocal asked
            asked += 1
            return real(writes=writes) | ({"a read": doorway.Answer(502, {}, "")} if asked > 2 else {})

        gate.worker.answers_to_users = door  # type: ignore[method-assign]
        with pytest.raises(Failed, match="in place again"):
            gate.settle()
        assert bare.put().json()["side"] == "new"
        assert bare.gate.loaded() is not None
        reload = gate.installer.reload
        now, reloads, asked = reload.now, 0, 0

        def broken() -> None:
            nonlocal reloads
            reloads += 1
            if reloads == 2:
                raise Failed("The host is away.")
            now()

        reload.now = broken  # type: ignore[method-assign]
        with pytest.raises(Failed, match=r"answered with 502; .* Putting it in again failed as well: The host is away\."):
            gate.settle()

    def test_a_header_that_is_missing_after_settling_stops_it(self, bare: Stage) -> None:
        bare.way.new.headers = {"Access-Control-Allow-Origin": "*"}
        bare.gate.install()
        bare.way.set("new")
        reload = bare.gate.installer.reload.now

        def reload_and_lose_it() -> None:
            bare.way.new.headers = {}
            reload()

        bare.gate.installer.reload.now = reload_and_lose_it  # type: ignore[method-assign]
        with pytest.raises(Failed, match=r"has the header access-control-allow-origin no more; before it was \*\."):
            bare.gate.settle()
        assert bare.gate.loaded() is not None

    def test_what_the_new_server_would_answer_otherwise_is_known_before_it_serves(self, bare: Stage) -> None:
        assert bare.gate.worker.foreseen() == []
        bare.way.old.headers = {"Access-Control-Allow-Origin": "*", "X-Release": "1"}
        said = bare.gate.worker.foreseen()
        assert "A read would have the header access-control-allow-origin no more; now it is *." in said
        assert not any("x-release" in one for one in said)

    @pytest.mark.parametrize("lost", every_nth_by_day(["reload nginx", "remove the gate's files"], 2))
    def test_settling_that_lost_its_host_half_way_is_completed_by_the_next(
        self, bare: Stage, monkeypatch: pytest.MonkeyPatch, lost: str
    ) -> None:
        """Its own half of the work is not somebody else's change."""
        bare.gate.install()
        bare.way.set("new")
        gate, gone = bare.client(), False
        change = Shell.change

        def change_until(self: Shell, script: str, what: str, **rest: Any) -> Answer:
            nonlocal gone
            gone = gone or what == lost
            if gone:
                raise Unreachable("There is no shell on the Nginx host any more.")
            return change(self, script, what, **rest)

        with monkeypatch.context() as patched, pytest.raises(CutoverError):
            patched.setattr(Shell, "change", change_until)
            gate.settle()
        assert bare.client().settle().changed
        assert bare.gate.loaded() is None
        assert bare.put().json()["side"] == "new"

    @pytest.mark.parametrize("answer", [Answer(b"", "sh: Permission denied", 1), Answer(b"", "", 0), Answer(b"garbage\n", "", 0)])
    def test_a_shell_that_answers_nothing_is_no_host_without_a_gate(
        self, bare: Stage, monkeypatch: pytest.MonkeyPatch, answer: Answer
    ) -> None:
        bare.gate.install()
        monkeypatch.setattr(Shell, "read", lambda *_, **__: answer)
        for ask in (bare.gate.state, bare.gate.installer.remove, bare.gate.installer.copies.listed):
            with pytest.raises(CutoverError, match=r"Nginx host|qdrant-gate"):
                ask()

    def test_nothing_is_done_with_a_closed_door(self, bare: Stage) -> None:
        before = bare.files()
        gate = Gate(site_of(bare.way), Credentials.from_env({}), WriteGuard(None))
        for attempt in (gate.install, gate.start_recording, gate.stop_recording, gate.release, lambda: gate.hold(1)):
            with pytest.raises((WritesRefused, Refused)):
                attempt()
        gate.close()
        assert bare.files() == before
        assert not bare.way.host.gate_folder.exists()

    @pytest.mark.slow
    def test_what_a_reload_costs(self, bare: Stage, capsys: pytest.CaptureFixture[str]) -> None:
        """Not a promise, a measurement: the installer reloads under load, and what fails is counted."""
        stop, done, failed = threading.Event(), [0] * 6, [0] * 6

        def load(number: int) -> None:
            line = http.client.HTTPConnection(ADDRESS, bare.way.host.port, timeout=5)
            while not stop.is_set():
                done[number] += 1
                try:
                    line.request("PUT", UPSERT, body=b"{}")
                    failed[number] += line.getresponse().read() == b""
                except (OSError, http.client.HTTPException):
                    failed[number] += 1
                    line.close()
            line.close()

        threads = [threading.Thread(target=load, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                bare.gate.install()
                bare.gate.remove()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        with capsys.disabled():
            print(f"\n  6 reloads under load: {sum(failed)} of {sum(done)} requests failed")
        assert sum(failed) <= 6 * 6


MAIN = "/etc/nginx/nginx.conf"


def configuration(text: str) -> nginx_conf.Configuration:
    return nginx_conf.assembled(MAIN, {MAIN: text})


class TestObstacles:
    good = Facts(
        "nginx version: nginx/1.22.1",
        "--with-http_auth_request_module",
        configuration("user www-data;\nhttp { include conf.d/*.conf; }"),
        False,
        True,
    )

    def told(self, **other: Any) -> list[str]:
        facts = Facts(**{**{k: getattr(self.good, k) for k in Facts.__dataclass_fields__}, **other})
        site = sites.load(ROOT / "site.yaml")
        return obstacles(facts, site.nginx, "/etc/nginx/conf.d/qdrant-gate.conf")

    def test_none_on_an_ordinary_nginx(self) -> None:
        assert self.told() == []
        assert self.told(version="nginx version: nginx/1.29.3 (Ubuntu)") == []
        assert self.told(configuration=configuration("#user x;\nhttp { include /etc/nginx/conf.d/*; }")) == []

    @pytest.mark.parametrize(
        ("facts", "words"),
        [
            ({"version": "nginx version: nginx/1.14.2"}, "1.14.2 is too old"),
            ({"version": "Apache/2.4"}, "not nginx"),
            ({"foreign": ["lib", "log.1"]}, "/var/lib/qdrant-gate holds what is not the gate's: lib, log.1"),
            ({"build": ""}, "without the module auth_request"),
            ({"build": "--with-http_auth_request_module --without-http_mirror_module"}, "without the module mirror"),
            ({"configuration": configuration("user nginx; http { include conf.d/*.conf; }")}, "run as nginx, but site.yaml"),
            ({"configuration": configuration("http { include conf.d/*.conf; proxy_set_body x; }")}, ":1 sets `proxy_set_body`"),
            ({"configuration": configuration("http { include conf.d/*.conf; new_thing on; }")}, ":1 sets `new_thing`"),
            ({"configuration": configuration("http { include conf.d/*.conf; server { listen 127.0.0.1:6339; } }")}, "listens on"),
            ({"listening": True}, "Something listens on 127.0.0.1:6339"),
            ({"unwritable": ["/etc/nginx/conf.d/q.conf"]}, "/etc/nginx/conf.d/q.conf cannot be written"),
            ({"blind": "/var/lib"}, "cannot look into /var/lib"),
            ({"free_mb": 3}, "only 3 MB free"),
            ({"newer": ["/etc/nginx/conf.d/q.conf"]}, "/etc/nginx/conf.d/q.conf changed after nginx last read"),
            ({"runs": False}, "nginx does not run"),
        ],
    )
    def test_each_is_named(self, facts: dict[str, Any], words: str) -> None:
        (sentence,) = self.told(**facts)
        assert words in sentence


class TestRecording:
    def test_every_write_from_its_start_is_in_the_log_with_its_body(self, stage: Stage) -> None:
        stage.gate.start_recording()
        for number in range(30):
            stage.put(b"body %d" % number)
        stage.put(b"", path="/collections/docs/index")
        until(lambda: len(stage.gate.read_log(0)) == 31, "31 lines")
        entries = stage.gate.read_log(0)
        assert {(e.method, e.status, e.side) for e in entries} == {("PUT", 200, "old")}
        assert [body for _, body in stage.gate.bodies(entries)] == [b"body %d" % n for n in range(30)] + [b""]
        assert stage.gate.read_log(entries[-1].offset) == []
        assert stage.gate.read_log(entries[9].offset) == entries[10:]
        assert stage.gate.log_end() == entries[-1].offset

    def test_it_waits_for_a_write_that_began_before(self, stage: Stage) -> None:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(stage.put, X_Lab_Delay="0.7")
            until(lambda: stage.way.old.under_way == 1, "The write reaching the server")
            stage.gate.start_recording()
            assert slow.done() or stage.way.old.under_way == 0
        assert stage.gate.read_log(0) == []

    def test_it_is_refused_and_undone_when_such_a_write_does_not_end(self, stage: Stage) -> None:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(stage.put, X_Lab_Delay="1.5")
            until(lambda: stage.way.old.under_way == 1, "The write reaching the server")
            with pytest.raises(Refused, match="a write that began before is still under way"):
                stage.gate.start_recording(deadline=0.3)
            assert not stage.gate.state().recording
            slow.result()

    def test_under_load_not_one_write_is_missed(self, stage: Stage) -> None:
        """Every write that was answered after recording had begun is in the log, while it is switched on under load."""
        stop, acknowledged = threading.Event(), []

        def load(number: int) -> None:
            with session() as client:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    name = f"w{number}-{turn}"
                    began = time.monotonic()
                    assert client.put(f"{stage.way.url}/collections/{name}/points", data=b"{}", timeout=5).status_code == 200
                    acknowledged.append((name, began))

        threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) > 100, "Some load")
        stage.gate.start_recording()
        on = time.monotonic()
        until(lambda: len([1 for _, began in acknowledged if began > on]) > 200, "More load")
        stop.set()
        for thread in threads:
            thread.join()
        must = {name for name, began in acknowledged if began > on}
        got = {e.uri.split("/")[2] for e in stage.gate.read_log(0)}
        until(lambda: must <= {e.uri.split("/")[2] for e in stage.gate.read_log(0)}, f"{len(must - got)} lines")

    def test_a_body_that_is_gone_is_an_error(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stage.put()
        stage.put()
        until(lambda: len(stage.gate.read_log(0)) == 2, "two lines")
        entries = stage.gate.read_log(0)
        stage.gate.forget_bodies(entries[:1])
        assert stage.body(entries[1]) == b"{}"
        with pytest.raises(Failed, match="recorded body is gone"):
            list(stage.gate.bodies(entries))

    def test_many_and_large_bodies_come_in_order(self, stage: Stage) -> None:
        """Each with its own write, in the order that is asked for. The log's lines need not be in the order of the requests:
        a worker writes "end" after the answer is sent, and another worker may have answered the next request by then.
        """
        stage.gate.start_recording()
        bodies = [os.urandom(size) for size in (1, 3 << 20, 0, 6 << 20, 100, 9 << 20, 7)]
        sent = {f"{UPSERT}&n={n}": bodies[n] if n < len(bodies) else b"%d" % n for n in range(450)}
        line = http.client.HTTPConnection(ADDRESS, stage.way.host.port, timeout=20)
        for uri, body in sent.items():
            line.request("PUT", uri, body=body)
            line.getresponse().read()
        line.close()
        until(lambda: len(stage.gate.read_log(0)) == 450, "450 lines")
        entries = list(stage.gate.read_log(0))
        got = list(stage.gate.bodies(entries))
        assert [entry for entry, _ in got] == entries
        assert {entry.uri: body for entry, body in got} == sent
        stage.gate.forget_bodies(entries)
        assert list(stage.way.bodies.iterdir()) == []

    def test_stopping_removes_everything_that_was_recorded(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stage.put()
        stage.gate.stop_recording()
        assert list(stage.way.bodies.iterdir()) == []
        assert stage.way.log.read_bytes() == b""
        assert not stage.gate.state().recording
        stage.put()
        assert stage.gate.read_log(0) == []

    def test_a_long_log_gives_its_beginning_back_to_the_disk(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(records, "TRIM", 65536)
        stage.gate.start_recording()
        line = http.client.HTTPConnection(ADDRESS, stage.way.host.port, timeout=20)

        def write(count: int) -> None:
            for _ in range(count):
                line.request("PUT", f"/collections/{'c' * 200}/points", body=b"{}")
                line.getresponse().read()

        write(300)
        until(lambda: len(stage.gate.read_log(0)) == 300, "300 lines")
        entries = stage.gate.read_log(0)
        before = stage.way.log.stat()
        stage.gate.forget_bodies(entries[:250])
        after = stage.way.log.stat()
        assert after.st_size == before.st_size, "positions stay"
        if not (stage.way.log.parent / "start").exists():
            pytest.skip("this file system cannot make holes in files")
        assert after.st_blocks < before.st_blocks / 3
        write(20)
        until(lambda: len(stage.gate.read_log(entries[249].offset)) == 70, "70 lines")
        line.close()
        second = stage.client()
        second.hold(1.2)
        second.drain(0.5)
        assert [e.offset for e in second.read_log(entries[249].offset)][:50] == [e.offset for e in entries[250:]]
        assert len(list(second.bodies(second.read_log(entries[249].offset)))) == 70

    def test_too_little_room_is_refused(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(controller, "ROOM_TO_RECORD_MB", stage.gate.state().free_mb + 10_000)
        with pytest.raises(Refused, match="MB free for recorded writes"):
            stage.gate.start_recording()
        monkeypatch.undo()
        stage.gate.start_recording()
        monkeypatch.setattr(records, "LEAST_FREE_MB", stage.gate.state().free_mb + 10_000)
        stage.gate.hold(1.0)
        with pytest.raises(Refused, match="is full"):
            stage.gate.drain(0.5)

    def test_a_damaged_line_is_never_passed_over(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stage.put()
        with stage.way.log.open("a") as file:
            file.write('{"n":"end","id":"4\n')
        with pytest.raises(Failed, match="damaged line"):
            stage.gate.read_log(0)


class TestHold:
    def test_ends_by_itself_when_the_tool_is_killed(self, stage: Stage) -> None:
        began = time.monotonic()
        stage.gate.hold(0.5)
        stage.gate.shell._session._child.kill()  # type: ignore[union-attr]
        assert stage.put().status_code == 200, "a write that waits to the end of the longest hold is answered with 503"
        assert time.monotonic() - began > 0.4
        assert not stage.gate.state().held

    def test_killed_with_its_whole_process_it_ends_by_itself(self, stage: Stage, tmp_path: Path) -> None:
        script = tmp_path / "hold.py"
        site = tmp_path / "site.yaml"
        YAML(typ="rt").dump(site_of(stage.way).model_dump(mode="json"), site.open("w"))
        script.write_text(
            "import os, signal, sys\nfrom pathlib import Path\nfrom cutover.site import load as sites\nfrom cutover.core.write_guard import WriteGuard\n"
            "from cutover.core.journal import Journal\nfrom cutover.gate.controller import Gate\nfrom cutover.core.credentials import Credentials\n"
            f"guard = WriteGuard(Journal(Path({str(tmp_path / 's')!r}), 'x'))\n"
            f"gate = Gate(sites.load(Path({str(site)!r})), Credentials.from_env({{}}), guard)\n"
            "with guard.act('t', 'Hold'):\n    gate.hold(0.8)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run(
            [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, timeout=20, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert stage.gate.state().held
        answer = stage.put()
        assert answer.status_code == 200
        assert not stage.gate.state().held

    def test_after_its_end_nothing_can_be_switched(self, stage: Stage) -> None:
        stage.gate.hold(0.2)
        until(lambda: not stage.gate.state().held, "The end of the hold")
        with pytest.raises(Refused, match="over before traffic could be moved"):
            stage.gate.point_to_new()
        assert stage.gate.state().side == "old"

    def test_without_one_nothing_can_be_switched(self, stage: Stage) -> None:
        with pytest.raises(Refused, match="over before"):
            stage.gate.point_to_new()
        stage.way.set("hold")
        with pytest.raises(Refused, match="over before"):
            stage.gate.point_to_new()
        assert stage.gate.state().side == "old"

    def test_its_end_and_the_switch_never_both_happen(self, stage: Stage) -> None:
        """The clock and the switch race on purpose; either the switch is refused, or the hold lasted until the flag was set."""
        seen = {True: 0, False: 0}
        for turn in range(24):
            try:
                began = time.monotonic()
                stage.gate.hold(0.15)
                time.sleep(max(0.0, 0.13 + 0.0015 * turn - (time.monotonic() - began)))
                stage.gate.point_to_new()
                moved = True
            except Refused:
                moved = False
            until(lambda: not stage.gate.state().held, "The end of the hold")
            assert (stage.gate.state().side == "new") == moved
            seen[moved] += 1
            stage.way.unset("new")
        print(seen)

    def test_a_new_hold_is_not_ended_by_the_clock_of_the_one_before(self, stage: Stage) -> None:
        stage.gate.hold(0.4)
        stage.gate.release()
        stage.gate.hold(1.2)
        time.sleep(0.5)  # past the first one's time
        assert stage.gate.state().held
        stage.gate.point_to_new()
        assert stage.gate.state().side == "new"

    def test_that_nginx_does_not_see_is_refused(self, stage: Stage) -> None:
        if os.getuid() != 0:
            pytest.skip("only root can take the flags from another user's sight")
        with stage.way.host.blind(), pytest.raises(Refused, match="worker processes do not see the flag"):
            stage.gate.hold(1.0)
        assert not stage.gate.state().held

    def test_does_not_outlive_a_restart_of_the_host(self, stage: Stage) -> None:
        """Then nobody is left who would end it: the clock is gone, and the folder of the flags survives on purpose."""
        stage.gate.hold(1.2)
        clock = [p for p in Path("/proc").glob("[0-9]*") if _works_in(p) == str(stage.way.host.gate_folder)]
        assert clock
        for process in clock:
            with contextlib.suppress(ProcessLookupError):  # what it waits with ends and begins anew
                os.kill(int(process.name), signal.SIGKILL)
        (stage.way.flags / "hold").readlink().unlink()  # what a restart empties is in memory
        assert not stage.gate.state().held
        assert "hold" not in stage.way.state()["flags"].split()
        until(lambda: stage.put().elapsed.total_seconds() < 0.2, "A write that does not wait", deadline=20)

    def test_one_after_the_other_keeps_no_write_longer_than_one(self, stage: Stage) -> None:
        """A held write looks again every 200 ms, so it could sleep from one hold into the next, and be answered with 503."""
        stage.gate.start_recording()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            stage.gate.hold(1.3)
            held = pool.submit(stage.put)
            until(lambda: len(stage.way.lines("held")) >= 5, "A write that was held for 0.8 s")
            stage.gate.release()
            stage.gate.hold(1.0)
            assert held.result().status_code == 200

    def test_longer_than_clients_wait_is_refused(self, stage: Stage) -> None:
        with pytest.raises(Refused, match="not possible"):
            stage.gate.hold(1.5)

    def test_release_without_hold_is_fine(self, stage: Stage) -> None:
        stage.gate.release()
        stage.way.set("hold")  # by an operator's hand
        stage.gate.release()
        assert not stage.gate.state().held


def _without_answer(lost: concurrent.futures.Future[requests.Response]) -> None:
    """The client is told that there was no answer, or loses its connection where it talked to the worker that was killed."""
    with suppress(requests.ConnectionError):
        assert lost.result().status_code == 502


class TestSwitch:
    def test_there_and_back_under_load_loses_and_fails_nothing(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stop, sides, failed = threading.Event(), [], []
        slowest = [0.0]

        def load(number: int) -> None:
            with session() as client:
                turn = 0
                while not stop.is_set():
                    turn += 1
                    write = bool((number + turn) % 3)
                    began = time.monotonic()
                    try:
                        answer = client.request(
                            "PUT" if write else "POST",
                            f"{stage.way.url}/collections/w{number}-{turn}/points",
                            data=b"{}",
                            timeout=5,
                        )
                        if answer.status_code != 200:
                            failed.append((answer.status_code, answer.text))
                        elif write:
                            sides.append((f"w{number}-{turn}", answer.json()["side"]))
                    except OSError as error:
                        failed.append((0, repr(error)))
                    if write:
                        slowest[0] = max(slowest[0], time.monotonic() - began)

        threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        held: list[float] = []
        offsets: list[tuple[int, str]] = []
        try:
            for turn in range(10):
                until(lambda n=20 * (turn + 1): len(sides) > n, "Load")
                began = time.monotonic()
                stage.gate.hold(1.0)
                stage.gate.drain(0.8)
                offsets.append((stage.gate.log_end(), "new" if turn % 2 == 0 else "old"))
                (stage.gate.point_to_new if turn % 2 == 0 else stage.gate.point_to_old)()
                held.append(time.monotonic() - began)
                assert not stage.gate.state().held
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failed == []
        until(lambda: len(stage.gate.read_log(0)) == len(sides), "All lines")
        entries = stage.gate.read_log(0)
        assert sorted((e.uri.split("/")[2], e.side) for e in entries) == sorted(sides)
        for (start, side), (end, _) in zip(offsets, [*offsets[1:], (10**12, "")], strict=True):
            wrong = [e for e in entries if start < e.offset <= end and e.side != side]
            assert wrong == [], "a write reached the server that was left"
        with_print = sorted(held)
        print(
            f"10 moves, {len(sides)} writes, held {with_print[0] * 1e3:.0f} to {with_print[-1] * 1e3:.0f} ms, slowest write {slowest[0]:.3f} s"
        )

    def test_a_slow_write_is_waited_for_and_then_the_drain_is_over(self, stage: Stage) -> None:
        stage.gate.start_recording()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(stage.put, X_Lab_Delay="0.5")
            until(lambda: stage.way.old.under_way == 1, "The write reaching the server")
            stage.gate.hold(1.2)
            with pytest.raises(TimedOut, match=r"1 under way, the oldest is PUT /collections/docs/points"):
                stage.gate.drain(0.1)
            stage.gate.drain(1.0)
            assert stage.way.old.under_way == 0
            slow.result()
        assert len(stage.gate.read_log(0)) == 1

    def test_a_slow_upload_delays_no_drain(self, stage: Stage) -> None:
        stage.gate.start_recording()
        with socket.create_connection((ADDRESS, stage.way.host.port), timeout=5) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q\r\nContent-Length: 4\r\n\r\nab")
            stage.gate.hold(1.0)
            stage.gate.drain(0.5)
            stage.gate.point_to_new()
            line.sendall(b"cd")
            assert b'"side": "new"' in line.recv(4096)
        until(lambda: len(stage.gate.read_log(0)) == 1, "its line")
        assert [write.side for write in stage.gate.read_log(0)] == ["new"]
        assert stage.body(stage.gate.read_log(0)[0]) == b"abcd"

    def test_held_writes_are_not_waited_for(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stage.gate.hold(1.2)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            held = [pool.submit(stage.put) for _ in range(5)]
            until(lambda: len(stage.way.lines("held")) >= 5, "Five held writes")
            stage.gate.drain(0.3)
            stage.gate.point_to_new()
            assert {h.result().json()["side"] for h in held} == {"new"}

    def test_a_killed_worker_is_not_waited_for_and_its_write_is_named(self, stage: Stage) -> None:
        stage.gate.start_recording()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            lost = pool.submit(stage.put, b"lost", X_Lab_Delay="2")
            until(lambda: stage.way.old.under_way == 1, "The write reaching the server")
            os.kill(int(stage.way.lines("begin")[0]["pid"]), signal.SIGKILL)
            _without_answer(lost)
            stage.gate.hold(1.2)
            stage.gate.drain(1.0)
            (entry,) = stage.gate.read_log(0)
            assert (entry.status, entry.side) == (0, "unknown")
            assert stage.body(entry) == b"lost"

    def test_the_write_of_a_killed_worker_is_named_to_every_round_until_it_was_followed(self, stage: Stage) -> None:
        stage.gate.start_recording()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            lost = pool.submit(stage.put, b"lost", X_Lab_Delay="2")
            os.kill(int(stage.way.logged(1, "begin")[0]["pid"]), signal.SIGKILL)
            _without_answer(lost)
        (entry,) = stage.gate.read_log(0)  # nothing is held: a round while applications go on
        assert (entry.side, entry.uri) == ("unknown", UPSERT)
        assert stage.gate.read_log(entry.offset) == [entry]  # the round was interrupted: it is done again
        stage.gate.forget_bodies([entry])
        assert stage.gate.read_log(entry.offset) == []
        (again,) = stage.client().read_log(0)  # another run cannot know that, and needs the body
        assert stage.body(again) == b"lost"
        until(lambda: stage.way.old.under_way == 0, "The end of the write on the server")

    def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(self, stage: Stage) -> None:
        """After a restart of the host numbers come again, and the worker may well have the one from before."""
        stage.gate.start_recording()
        stage.put()
        worker = stage.way.lines("begin")[0]["pid"]
        line = {"n": "begin", "id": "f" * 32, "at": "1000.000", "pid": worker, "method": "PUT", "uri": UPSERT, "body": ""}
        with stage.way.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        stage.gate.hold(1.2)
        stage.gate.drain(1.0)
        assert [entry.side for entry in stage.gate.read_log(0)] == ["old", "unknown"]

    def test_a_log_that_was_cut_is_never_taken_for_a_quiet_one(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stage.put()
        stage.put()  # so that one write afterwards is shorter, however many digits its times have
        end = stage.way.log.stat().st_size
        stage.way.log.write_text("")  # as logrotate does with `copytruncate`
        stage.put()
        with pytest.raises(Failed, match="shorter than what was read of it"):
            stage.gate.read_log(2 * end)
        with pytest.raises(Failed, match="shorter than what was read of it"):
            stage.client().read_log(2 * end)

    def test_another_run_of_the_tool_sees_what_is_under_way(self, stage: Stage) -> None:
        stage.gate.start_recording()
        stage.put()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(stage.put, X_Lab_Delay="1.2")
            until(lambda: stage.way.old.under_way == 1, "The write reaching the server")
            second = stage.client()
            second.hold(1.4)
            with pytest.raises(TimedOut):
                second.drain(0.1)
            second.drain(3.0)
            slow.result()
        assert len(second.read_log(0)) == 2

    def test_a_full_disk_ends_the_hold_where_it_was(self, stage: Stage) -> None:
        shutil.rmtree(stage.way.flags / "new", ignore_errors=True)
        stage.gate.hold(1.2)
        (stage.way.flags / "new").mkdir()  # the flag cannot be written
        try:
            with pytest.raises(Failed, match="could not set the flag new"):
                stage.gate.point_to_new()
            assert not stage.gate.state().held
            assert stage.put().json()["side"] == "old"
        finally:
            (stage.way.flags / "new").rmdir()


def test_lines_of_the_log_come_apart_and_join_as_they_should() -> None:
    begin = '{"n":"begin","id":"%s","at":"1.5","pid":"7","method":"PUT","uri":"/c","body":"/x/0001"}'
    end = '{"n":"end","id":"%s","at":"2.5","method":"PUT","uri":"/c","status":"200","side":"old","body":"/x/0001"}'
    note = '{"n":"%s","id":"b","at":"2"}'
    text = "\n".join([begin % "a", begin % "b", note % ("held",), end % "a", note % ("passed",), ""]).encode()
    way = write_log.UnderWay()
    seen = []
    for line in write_log.lines(text, 0):
        way.feed([line])
        seen.append(len(way.passed))
    assert seen == [1, 2, 1, 0, 1]
    assert way.offset == len(text)
    way.feed(write_log.lines(text, 0))
    assert len(way.passed) == 1, "lines that were fed before change nothing"
    assert list(write_log.lines(text[:-30], 0))[-1].kind == "end", "a line that is still being written waits"
    assert way.died({7: None})[0].body == "0001"
    assert way.open == []
