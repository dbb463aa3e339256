"""What somebody without a key could do to the gate: fill its disk, ask its questions. Recording ends before the disk does."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutover.core.errors import Refused
from cutover.core.shell import Shell
from cutover.core.write_guard import WriteGuard
from cutover.gate import templates
from cutover.gate.bodies import Bodies
from cutover.gate.folder import Folder
from cutover.gate.watch import Watch
from cutover.gate.write_log import Damaged
from tests.gate import test_controller
from tests.gate.test_controller import UPSERT, Stage
from tests.support.gateway import session, until

shared, bare = test_controller.shared, test_controller.bare


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    yield shared
    shared.gate.watch.reserve_mb = 0
    shared.gate.stop_recording()
    shared.way.clear()


def bodies(stage: Stage) -> set[bytes]:
    return {file.read_bytes() for file in stage.way.bodies.glob("*")}


# -- room -----------------------------------------------------------------------------------------


def test_recording_ends_loudly_before_the_disk_is_full_and_writes_go_on(stage: Stage) -> None:
    stage.gate.start_recording()
    assert stage.put(b'{"points":[]}').status_code == 200
    stage.gate.stop_recording()
    stage.gate.watch.reserve_mb = 1 << 30  # more than any disk has
    stage.gate.start_recording()
    until(lambda: stage.gate.state().ended.startswith("20"), "The end of the recording", deadline=60)
    state = stage.gate.state()
    assert not state.recording
    assert stage.put(b'{"points":[1]}').status_code == 200, "applications do not notice"
    with pytest.raises(Damaged, match=r"Recording was ended at 20.*, because the disk of the Nginx host ran full") as said:
        stage.gate.read_log(0)
    assert "follow" in said.value.hint
    until(lambda: bodies(stage) == set(), "The bodies' room being given back", deadline=60)
    # Begun anew it records as ever.
    stage.gate.watch.reserve_mb = 0
    stage.gate.start_recording()
    assert stage.gate.state().ended == ""
    assert stage.put(b'{"points":[2]}').status_code == 200
    (write,) = stage.gate.read_log(0)
    assert stage.body(write) == b'{"points":[2]}'


def test_bodies_of_refused_writes_do_not_stay(stage: Stage) -> None:
    stage.gate.start_recording()
    for status in ("401", "405", "411", "413", "415", "200", "403", "404", "500"):
        stage.put(f"body of {status}".encode(), X_Lab_Status=status)
    # What a client writes into its address cannot make a good write look refused.
    forged = '"status":"401","side":"old","to":"1:1","answered":"401","body":"/bodies/0000000001"}'
    stage.put(b"said to be refused", path=f"/collections/docs/points?{forged}")
    kept = {b"body of 200", b"body of 403", b"body of 404", b"body of 500", b"said to be refused"}
    until(lambda: bodies(stage) == kept, "The end of the refused ones", deadline=60)
    assert [write.status for write in stage.gate.read_log(0)] == [401, 405, 411, 413, 415, 200, 403, 404, 500, 200]


def test_a_watch_that_is_gone_is_begun_again(stage: Stage) -> None:
    stage.gate.start_recording()
    folder = stage.way.host.gate_folder
    (folder / "log/watch").write_text("another")  # ends it
    (folder / "log/watched").write_text("1")
    until(lambda: stage.gate.state().unwatched, "Nobody watching", deadline=60)
    stage.gate.watch._looked = 0.0
    stage.gate.forget_bodies([])
    until(lambda: not stage.gate.state().unwatched, "Somebody watching again", deadline=60)


def _folder(tmp_path: Path) -> Path:
    """A gate's folder without nginx; its records belong to nobody in particular."""
    gate = tmp_path / "gate"
    for name in ("flags", "log", "bodies"):
        (gate / name).mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    (gate / "bodies").chmod(0o777)
    (gate / "flags/record").touch()
    return gate


@pytest.fixture(params=[["busybox"], []], ids=["busybox", "this machine's"])
def shell(request: pytest.FixtureRequest) -> list[str]:
    """What leads to a shell."""
    words: list[str] = request.param
    if words and not Path("/usr/bin/busybox").exists():
        pytest.skip("busybox is not installed here")
    return words


def test_the_watch_is_understood_by_every_shell(tmp_path: Path, shell: list[str]) -> None:
    """A log with a refused and a good write, and room enough."""
    gate = _folder(tmp_path)
    end = '{"n":"end","id":"%s","uri":"/x","status":"%d","side":"old","to":"1:1","answered":"%d","body":"%s/bodies/%010d"}\n'
    (gate / "log/writes.jsonl").write_text("".join(end % ("i", s, s, gate, n) for n, s in enumerate((401, 200), start=1)))
    for number in (1, 2):
        (gate / f"bodies/{number:010d}").write_text("x")
    there = Folder(str(gate), Shell(shell, WriteGuard()))
    watch = Watch(there, Bodies(there, "nobody"))
    watch.reserve_mb = 0
    run = subprocess.Popen([*shell, "sh"], stdin=subprocess.PIPE, cwd=gate)
    assert run.stdin is not None
    # The log is looked at from its end on; what stands in it now is near enough to it.
    run.stdin.write(watch.begun().replace("from=$at\n", "at=0; from=0\n", 1).encode())
    run.stdin.close()
    try:
        until(lambda: [f.name for f in (gate / "bodies").iterdir()] == ["0000000002"], "The refused body's end", deadline=60)
    finally:
        (gate / "flags/record").unlink()
        run.wait(10)
        there.shell.close()


@pytest.mark.parametrize("at", ["rm -f flags/record; ", "sleep 2; "], ids=["while it ends", "when it has ended"])
def test_a_recording_that_was_begun_meanwhile_loses_nothing_to_the_watch_of_the_one_before(
    tmp_path: Path, shell: list[str], at: str
) -> None:
    """Somebody made room and began to record anew at once: bodies of then are none that the full disk left behind."""
    gate = _folder(tmp_path)
    there = Folder(str(gate), Shell(shell, WriteGuard()))
    watch = Watch(there, Bodies(there, "nobody"))
    watch.reserve_mb = 1 << 30
    (gate / "bodies/0000000001").write_text("x")
    anew = "rm -f log/ended bodies/*; printf another > log/watch; true > flags/record; echo x > bodies/0000000002; "
    script = watch.begun()
    assert at in script
    run = subprocess.Popen([*shell, "sh"], stdin=subprocess.PIPE, cwd=gate)
    run.communicate((script.replace(at, f"{at.replace('sleep 2; ', '')}{anew}", 1) + "wait\n").encode(), timeout=60)
    there.shell.close()
    assert [file.name for file in (gate / "bodies").iterdir()] == ["0000000002"]
    assert ((gate / "flags/record").exists(), (gate / "log/ended").exists()) == (True, False)


# -- the gate's questions -------------------------------------------------------------------------


def test_only_who_knows_the_word_is_told_anything(stage: Stage) -> None:
    url, word = stage.way.url, (stage.way.host.gate_folder / "token").read_text()
    assert re.fullmatch("[0-9a-f]{32}", word)
    with session() as client:
        said = client.get(f"{url}/", headers={"X-Qdrant-Gate": f"state {word}"}, timeout=5).json()
        assert said["gate"] == 1
        for question in ("state", "unrecorded", f"state {word[:-1]}", f"state {word}x", "state no-token", word, "unrecorded "):
            answer = client.get(f"{url}/", headers={"X-Qdrant-Gate": question}, timeout=5)
            assert answer.json()["side"] == "old", f"{question} is passed on like any other header"
        for path in ("state", "unrecorded", "begin", "decide"):
            assert client.get(f"{url}/qdrant-gate/{path}", timeout=5).status_code == 404


def test_nobody_can_keep_the_recording_from_beginning(stage: Stage) -> None:
    """Whoever held the question busy from outside made it look as if an unrecorded write were under way."""
    with session() as client:
        for _ in range(20):
            answer = client.get(f"{stage.way.url}/", headers={"X-Qdrant-Gate": "unrecorded"}, stream=True, timeout=5)
            assert "X-Qdrant-Gate" not in answer.headers
    stage.gate.start_recording()
    assert stage.gate.state().recording


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose file it is")
def test_the_word_is_roots_alone_and_in_no_argument(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stage.way.host.gate_folder
    word = (folder / "token").read_text()
    for file in (folder / "token", stage.way.host.http_folder / templates.NAME):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for name in ("curl", "nc", "wget"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/arguments\ncat >/dev/null\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asking = stage.client()
    asking.worker.listening()
    assert "curl" in (tmp_path / "arguments").read_text()
    assert word not in (tmp_path / "arguments").read_text()


def test_a_gate_of_an_earlier_version_is_named_and_put_in_anew(bare: Stage) -> None:
    bare.gate.install()
    file = bare.way.host.http_folder / templates.NAME
    word = (bare.way.host.gate_folder / "token").read_text()
    file.write_text(
        file.read_text().replace(f'"~^state {word}$"', '"~^state$"').replace(f'"~^unrecorded {word}$"', '"~^unrecorded$"')
    )
    (bare.way.host.gate_folder / "token").unlink()
    bare.way.reload()
    gate = bare.client()
    until(lambda: (gate.loaded() or {}).get("gate") == 1, "The older gate's answer")
    file.write_text(file.read_text() + "# older\n")
    with pytest.raises(Refused, match="other files of the gate loaded") as said:
        bare.client().start_recording()
    assert "Install the gate again" in said.value.hint
    assert bare.client().install().changed
    renewed = bare.client()
    assert (bare.way.host.gate_folder / "token").read_text() != word
    renewed.start_recording()
    assert bare.put(b"{}", path=UPSERT).status_code == 200
    renewed.stop_recording()
    assert renewed.remove().changed
    assert not bare.way.host.gate_folder.exists()
