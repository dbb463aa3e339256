"""What broke on configurations that people have: each input that was told, on a real nginx. The shapes are in `shapes.py`."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from cutover.checks import nginx as nginx_checks
from cutover.core.errors import CutoverError, Failed, Refused, Unreachable
from cutover.core.journal import Journal
from cutover.core.shell import Answer, Shell
from cutover.core.wait import Not, wait_until
from cutover.phases import gate as gate_phase
from cutover.state.status import status
from tests.gate.shapes import Door, Shape, conf
from tests.gate.test_controller import Stage, site_of
from tests.gate.test_shapes import write
from tests.support.gateway import Gateway, gateway, until
from tests.support.night import every_nth_by_day
from tests.support.phases import done, planned, undone

TLS = "server { listen A ssl; ssl_certificate ROOT/c.pem; ssl_certificate_key ROOT/k.pem; location / { proxy_pass http://OLD; } }"


def shaped(text: str, tmp_path: Path, **more: Any) -> Any:
    shape = Shape("told", conf(text), **more)
    return gateway(with_gate=False, write=lambda way: write(way, shape))


def test_3_a_limit_of_the_operators_does_not_stop_the_count_of_unrecorded_writes(tmp_path: Path) -> None:
    text = "limit_conn_zone $binary_remote_addr zone=perip:1m; limit_conn perip 50; server { listen A; limit_conn perip 50; location / { proxy_pass http://OLD; } }"
    with shaped(text, tmp_path) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            stage.gate.install()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                slow = pool.submit(stage.put, b"{}", X_Lab_Delay="0.7")
                until(lambda: way.old.under_way == 1, "The write reaching the server")
                stage.gate.start_recording()
                assert slow.done(), "recording is complete only when the last unrecorded write has ended"
            stage.gate.stop_recording()


class Test5AFileThatIsRewrittenWhileTheNewServerServes:
    @pytest.mark.parametrize("second", [False, True], ids=["the only way", "one of two"])
    def test_is_said_and_led_through_the_gate_again(self, tmp_path: Path, second: bool) -> None:
        text = "server { listen A; location / { proxy_pass http://OLD; } }"
        other = text.replace("listen A", "listen B")
        shape = Shape("two", conf(text, conf_dot_d__z_dot_conf=other))
        with gateway(with_gate=False, write=lambda way: write(way, shape)) as way:
            stage = Stage(way, tmp_path)
            with stage.stack:
                file = way.host.http_folder / ("z.conf" if second else "q.conf")
                original = file.read_text()
                stage.gate.install()
                stage.gate.hold(1.4)
                stage.gate.point_to_new()
                assert stage.gate.contradiction() == ""
                file.write_text(original)
                way.reload()
                self.seen(stage)
                said = stage.gate.contradiction()
                assert said
                assert second is (f"{file}:1 passes requests to http://{way.old.address}" in said) or not second
                stage.client().install()
                assert stage.gate.contradiction() == ""
                at = way.values["B" if second else "A"]
                assert requests.put(f"http://{at}/collections/docs/points", data=b"{}", timeout=5).json()["side"] == "new"

    @staticmethod
    def seen(stage: Stage) -> None:
        wait_until(lambda: True if stage.gate.contradiction() else Not("not yet"), deadline=10, what="The reload", every=0.1)


def test_following_reads_nginxs_whole_configuration_only_where_a_file_of_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, dumps = Shell.read, 0

    def counted(self: Shell, script: str, *, deadline: float = 20.0) -> Answer:
        nonlocal dumps
        dumps += " -T; r=" in script
        return read(self, script, deadline=deadline)

    with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            stage.gate.install()
            monkeypatch.setattr(Shell, "read", counted)
            for _ in range(8):
                assert stage.gate.contradiction() == ""
            assert dumps == 2, "once, and once more for what changed while it was read"
            (way.host.http_folder / "z.conf").write_text(f"server {{ listen {way.values['B']}; }}")
            for _ in range(8):
                assert stage.gate.contradiction() == ""
            assert dumps == 4
            (way.host.http_folder / "z.conf").write_text(
                f"server {{ listen {way.values['B']}; location / {{ proxy_pass http://{way.old.address}; }} }}"
            )
            assert all("leads past the gate" in stage.gate.contradiction() for _ in range(2))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_7_a_file_that_is_mounted_by_itself_is_written_in_place(tmp_path: Path) -> None:
    with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
        file = way.host.http_folder / "q.conf"
        shutil.copy(file, tmp_path / "q.conf")
        if subprocess.run(["mount", "--bind", tmp_path / "q.conf", file], check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            stage = Stage(way, tmp_path)
            with stage.stack:
                before = stage.files()
                stage.gate.install()
                assert way.host.gate_address in file.read_text()
                stage.gate.remove()
                assert {k: v[:4] for k, v in stage.files().items()} == {k: v[:4] for k, v in before.items()}
                assert stage.gate.state().installed is False
        finally:
            subprocess.run(["umount", file], check=True)


def test_8_a_private_authority_is_asked_for_before_anything_is_changed(tmp_path: Path) -> None:
    with shaped(TLS, tmp_path, doors=(Door(tls=True),)) as way:
        url = way.host.url.replace("http:", "https:")
        stage = Stage(way, tmp_path, public=url)
        with stage.stack:
            files = stage.files()
            with pytest.raises(Unreachable, match=r"Name its CA file or pin its fingerprint in site\.yaml"):
                stage.gate.install()
            assert stage.files() == files
            assert not way.host.gate_folder.exists()
            stage.qdrant = {"ca_file": str(next((way.host.root / "tls").glob("ca*.pem")))}
            assert stage.client().install().changed


def test_8_a_door_that_asks_for_a_certificate_is_entered_with_one(tmp_path: Path) -> None:
    asks = "ssl_client_certificate ROOT/tls/ca.pem; ssl_verify_client on; location"
    with shaped(TLS.replace("location", asks), tmp_path, doors=(Door(tls=True),)) as way:
        trust = {"ca_file": str(way.host.root / "tls/ca.pem")}
        stage = Stage(way, tmp_path, public=way.host.url.replace("http:", "https:"), qdrant=trust)
        with stage.stack:
            files = stage.files()
            stage.gate.install()
            assert stage.gate.answers_to_users(writes=False)["a read"].status == 400, (
                "nobody came in without one, and nobody does"
            )
            certificate, key = shutil.copy(way.host.root / "c.pem", tmp_path), way.host.root / "k.pem"
            Path(certificate).write_bytes(Path(certificate).read_bytes() + key.read_bytes())
            stage.qdrant = trust | {"client_certificate": str(certificate)}
            let_in = stage.client()
            assert (let_in.loaded() or {})["files"] == let_in.files().checksum
            assert let_in.answers_to_users(writes=True)["a read"].status == 200
            let_in.remove()
            assert stage.files() == files


class TestAnOperatorWhoReloadsHimself:
    """`reload: []`."""

    def test_is_asked_and_waited_for(self, tmp_path: Path) -> None:
        with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
            stage = Stage(way, tmp_path)
            with stage.stack:
                files, gate, told = stage.files(), stage.client(reload=[]), []

                def reloads(said: str) -> None:
                    told.append(said)
                    way.reload()

                gate.proof.tell = reloads
                assert gate.install().changed
                assert stage.put().json()["side"] == "old"
                assert gate.contradiction() == ""
                gate.remove()
                assert told == ["Reload Nginx now, when it suits you. Waiting for it."] * 2
                assert stage.files() == files
                assert stage.put().json()["side"] == "old"

    def test_a_reload_that_nginx_does_not_take_leaves_everything_as_it_was(self, tmp_path: Path) -> None:
        """Its master may not read what root wrote, or not listen there (SELinux): then it does not take the way back either."""
        with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
            stage, log = Stage(way, tmp_path), way.host.root / "var/log/nginx/error.log"
            with stage.stack:
                files, gate = stage.files(), stage.client(reload=["sh", "-c", f"echo '1#1: [emerg] 1#1: bind() failed' >> {log}"])
                gate.installer.reload.seconds = 0.3
                with pytest.raises(Failed, match=r"The gate was not installed: .* Nginx says: bind\(\) failed\.") as said:
                    gate.install()
                assert said.value.hint == "Everything was put back as it was."
                assert stage.files() == files
                assert not way.host.gate_folder.exists()

    def test_who_does_not_is_left_as_he_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cutover.gate.reload.BY_HAND_SECONDS", 0.3)
        with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
            stage = Stage(way, tmp_path)
            with stage.stack:
                files, gate = stage.files(), stage.client(reload=[])
                with pytest.raises(Failed, match=r"The gate was not installed: The reload of nginx .*") as said:
                    gate.install()
                assert said.value.hint == "Everything was put back as it was."
                assert stage.files() == files
                assert not way.host.gate_folder.exists()
                assert stage.put().json()["side"] == "old"


def test_9_a_door_that_lets_nobody_in_is_compared_as_it_is(tmp_path: Path) -> None:
    text = "server { listen A; auth_basic q; auth_basic_user_file ROOT/etc/nginx/users; location / { proxy_pass http://OLD; } }"
    shape = Shape("closed", conf(text, users="u:{PLAIN}p\n"))
    with gateway(with_gate=False, write=lambda way: write(way, shape)) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            files = stage.files()
            stage.gate.install()
            assert stage.gate.loaded() is not None
            assert stage.gate.answers_to_users(writes=False)["a read"].status == 401
            stage.environment |= {"NGINX_USER": "u", "NGINX_PASSWORD": "p"}
            let_in = stage.client()
            assert (let_in.loaded() or {})["files"] == let_in.files().checksum
            assert let_in.answers_to_users(writes=True)["a read"].status == 200
            let_in.remove()
            assert stage.files() == files
            assert stage.gate.state().installed is False


@pytest.mark.parametrize(
    "text",
    [
        "server { listen A; location / { proxy_pass http://OLD; } location /g { return 307 http://OLD; } }",
        "server { listen A; location / { proxy_pass http://127.0.0.1:9; } }",
    ],
)
def test_10_every_refusal_is_shown_before_anything_is_done(tmp_path: Path, text: str) -> None:
    with shaped(text, tmp_path) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            context: Any = SimpleNamespace(gate=stage.client(), site=site_of(way))
            with pytest.raises(Refused, match="cannot be installed") as refused:
                planned(gate_phase.PHASE, context)
            assert refused.value.exit_code == 1


def test_an_undo_whose_reload_fails_is_completed_by_the_next(tmp_path: Path) -> None:
    with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            files = stage.files()
            stage.gate.install()
            with pytest.raises(CutoverError, match="reload nginx"):
                stage.client(reload=["false"]).remove()
            stage.client().remove()
            assert stage.files() == files


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("removed")
    with shaped("server { listen A; location / { proxy_pass http://OLD; } }", folder) as way:
        stage = Stage(way, folder)
        with stage.stack:
            yield stage


class TestWhatSomebodyRemoved:
    """Traffic is passed to a gate that is gone: it is said, and `undo gate` as well as `gate` leads out."""

    @pytest.mark.parametrize(
        ("names", "gate_again"),
        every_nth_by_day([
            ("folder", False), ("folder conf", False), ("conf", False), ("before/[0-9]*", False), ("log", False),
            ("folder", True), ("folder conf", True), ("before", True), ("flags", True), ("bodies log/writes.jsonl", True),
            ("token conf", True),
        ], 5),
    )  # fmt: skip
    def test_is_said_and_one_command_leads_out(self, plain: Stage, tmp_path: Path, names: str, gate_again: bool) -> None:
        stage, way, folder = plain, plain.way, plain.way.host.gate_folder
        before = {path: content for path, (content, *_) in stage.files().items()}
        stage.client().install()
        for name in names.split():
            gone = {"folder": folder, "conf": way.host.http_folder / "qdrant-gate.conf"}.get(name, folder / name)
            subprocess.run(["sh", "-c", f"rm -r {gone}"], check=True)
        if "conf" in names:  # users get 502 then
            way.reload()
            until(lambda: stage.put().status_code == 502, "The reload")
        left = sorted(folder.rglob("*")) if folder.exists() else []
        context: Any = SimpleNamespace(
            gate=stage.client(), site=site_of(way), journal=Journal(tmp_path, "home-lab"), state_dir=tmp_path, guard=stage.guard
        )
        assert f"requests are still passed to the gate on {way.host.gate_address}" in context.gate.contradiction()
        assert "EMERGENCY" in "".join(status(context).lines())
        assert not nginx_checks.loaded(context).ok
        assert planned(gate_phase.PHASE, context)
        assert planned(gate_phase.PHASE, context, undo=True)
        assert (sorted(folder.rglob("*")) if folder.exists() else []) == left, "looking changes nothing"
        if gate_again:
            done(gate_phase.PHASE, context)
            context.gate = stage.client()
            assert context.gate.contradiction() == ""
            assert not planned(gate_phase.PHASE, context)
            context.gate.start_recording()
            assert stage.put().json()["side"] == "old"
            way.logged(1)
            context.gate.stop_recording()
        assert undone(gate_phase.PHASE, context).changed
        assert {path: content for path, (content, *_) in stage.files().items()} == before
        assert not folder.exists()
        assert stage.put().json()["side"] == "old"
        assert not planned(gate_phase.PHASE, context, undo=True)

    def test_also_where_a_line_of_the_operators_includes_the_file_that_is_gone(self, tmp_path: Path) -> None:
        alone = Shape("alone", {}, main="server { listen A; location / { proxy_pass http://OLD; } }")
        with gateway(with_gate=False, write=lambda way: write(way, alone)) as way:
            stage = Stage(way, tmp_path)
            with stage.stack:
                before = stage.files()
                stage.gate.install()
                (way.host.http_folder / "qdrant-gate.conf").unlink()
                context: Any = SimpleNamespace(
                    gate=stage.client(), site=site_of(way), journal=Journal(tmp_path, "home-lab"), guard=stage.guard
                )
                assert planned(gate_phase.PHASE, context, undo=True)
                done(gate_phase.PHASE, context)
                assert stage.client().contradiction() == ""
                (way.host.http_folder / "qdrant-gate.conf").unlink()
                undone(gate_phase.PHASE, context)
                assert stage.files() == before

    def test_what_was_written_to_the_new_server_is_said_to_be_missing(self, plain: Stage, tmp_path: Path) -> None:
        context: Any = SimpleNamespace(
            gate=plain.client(),
            site=site_of(plain.way),
            guard=plain.guard,
            journal=Journal(tmp_path, "home-lab"),
            state_dir=tmp_path,
        )
        context.gate.install()
        context.gate.hold(1.2)
        context.gate.point_to_new()
        context.journal.note("switch.finished", "Moved")
        shutil.rmtree(plain.way.host.gate_folder)
        for said in (
            status(context).lines(),
            [one.text for one in planned(gate_phase.PHASE, context, undo=True)],
            undone(gate_phase.PHASE, context).sentences,
        ):
            assert "what was written to the new one since is missing there" in " ".join(said)


class TestByHand:
    """`nginx.edit: false`: the tool writes its own file, says the address, and waits until requests come by it."""

    def test_it_waits_for_the_address_and_goes_when_it_is_gone(self, tmp_path: Path) -> None:
        with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
            stage = Stage(way, tmp_path)
            with stage.stack:
                file = way.host.http_folder / "q.conf"
                files, original = stage.files(), file.read_text()
                gate = stage.client(edit=False)
                told: list[str] = []

                def put(said: str) -> None:
                    told.append(said)
                    assert file.read_text() == original
                    file.write_text(original.replace(way.old.address, way.host.gate_address))
                    way.reload()

                gate.proof.tell = put
                assert gate.install().changed
                assert way.host.gate_address in told[0]
                assert gate.loaded() is not None
                with pytest.raises(Refused, match="still passes its requests to the gate"):
                    gate.remove()
                file.write_text(original)
                way.reload()
                self.gone(way, gate)
                gate.remove()
                assert {k: v[0] for k, v in stage.files().items()} == {k: v[0] for k, v in files.items()}

    def test_where_nobody_puts_it_in_it_says_so_and_can_be_taken_out(self, tmp_path: Path) -> None:
        with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
            stage = Stage(way, tmp_path)
            with stage.stack:
                files = stage.files()
                gate = stage.client(edit=False)
                gate.proof.by_hand_seconds = 0.5
                with pytest.raises(CutoverError, match="does not pass its requests there"):
                    gate.install()
                stage.client(edit=False).remove()
                assert stage.files() == files

    @staticmethod
    def gone(way: Gateway, gate: Any) -> None:
        del way
        wait_until(lambda: Not("it is there") if gate.loaded() else True, deadline=10, what="The reload", every=0.1)


def test_a_file_that_not_even_root_may_write_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    with shaped("server { listen A; location / { proxy_pass http://OLD; } }", tmp_path) as way:
        file = next(way.host.http_folder.glob("*.conf"))
        if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", file], capture_output=True, check=False).returncode:
            pytest.skip("a file cannot be made immutable here")
        try:
            stage = Stage(way, tmp_path)
            with stage.stack:
                files = stage.files()
                with pytest.raises(Refused, match=f"{file} cannot be written"):
                    stage.gate.install()
                assert stage.files() == files and not way.host.gate_folder.exists()
        finally:
            subprocess.run(["chattr", "-i", file], check=True)
