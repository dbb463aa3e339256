"""The worker user of Nginx can put anything in the place of a body, at any moment: it reads and removes nothing that is root's."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from cutover.core.shell import Answer, Shell
from cutover.core.write_guard import WriteGuard
from cutover.gate.bodies import Bodies
from cutover.gate.folder import Folder
from cutover.gate.write_log import Damaged, Write
from tests.gate.test_small_hosts import BUSYBOX, only_busybox

WORKER = "nobody"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose files are to stay root's")


def _small_shell(folder: Path) -> list[str]:
    """Busybox alone, also for the worker user: as Alpine's `su` does, which Debian's busybox leaves out."""
    prefix = only_busybox(folder)
    (folder / "su").unlink()
    (folder / "su").write_text(
        f'#!{folder}/sh\nset -- "$3" "$5"\n'
        f'exec /usr/bin/setpriv --reuid "$1" --regid "$(id -g "$1")" --clear-groups {folder}/sh -c "$2"\n'
    )
    (folder / "su").chmod(0o755)
    return prefix


@pytest.fixture(
    params=["sh", pytest.param("busybox", marks=pytest.mark.skipif(BUSYBOX is None, reason="busybox is not installed"))]
)
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Folder:
    for folder in (tmp_path, *tmp_path.parents[:3]):  # where only root may pass, nothing would be shown
        folder.chmod(folder.stat().st_mode | 0o011)
    (tmp_path / "gate" / "bodies").mkdir(parents=True)
    (tmp_path / "gate" / "bodies").chmod(0o700)
    subprocess.run(["chown", WORKER, str(tmp_path / "gate" / "bodies")], check=True)
    prefix = _small_shell(tmp_path / "busybox") if request.param == "busybox" else []
    return Folder(str(tmp_path / "gate"), Shell(prefix, WriteGuard()))


@pytest.fixture
def bodies(folder: Folder) -> Bodies:
    return Bodies(folder, WORKER)


def _write(body: str) -> Write:
    return Write(1, 1.0, "PUT", "/collections/a/points", 200, "old", body)


def test_bodies_are_read_with_one_question(folder: Folder, bodies: Bodies, tmp_path: Path) -> None:
    several = {"0000000001": b"body", "0000000002": b"\n\n2 total\n", "0000000003": b""}
    for name, content in several.items():
        file = tmp_path / "gate/bodies" / name
        file.write_bytes(content)
        os.chown(file, 65534, 65534)
        file.chmod(0o600)
    asked, plain = list[str](), folder.shell.read

    def read(script: str, **more: float) -> Answer:
        asked.append(script)
        return plain(script, **more)

    folder.shell.read = read  # type: ignore[method-assign]
    assert [content for _, content in bodies.of([_write(""), *map(_write, several)])] == [b"", *several.values()]
    assert len(asked) == 1, "each takes its time within a hold"


def test_a_link_in_the_place_of_a_body_leads_nowhere(bodies: Bodies, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (tmp_path / "gate/bodies/0000000001").symlink_to(secret)
    with pytest.raises(Damaged) as told:
        list(bodies.of([_write("0000000001")]))
    assert "root's" not in str(told.value)


def test_what_is_swapped_while_it_is_removed_stays_roots(folder: Folder, bodies: Bodies, tmp_path: Path) -> None:
    """A folder of the worker user's is exchanged for a link to one of root's, all the time, while everything is removed."""
    precious, there = tmp_path / "precious", tmp_path / "gate/bodies"
    precious.mkdir(mode=0o755)
    kept = [precious / f"{number:010}" for number in range(200)]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            # Any of it may be gone already: removing it is what the other side does all the time.
            with contextlib.suppress(FileNotFoundError):
                (there / "swapped").mkdir(exist_ok=True)
                for file in kept[:50]:
                    (there / "swapped" / file.name).touch()
                os.chown(there / "swapped", 65534, 65534)
                (there / "swapped").rename(there / "aside")
                (there / "swapped").symlink_to(precious)
            with contextlib.suppress(FileNotFoundError):
                (there / "swapped").unlink()
            subprocess.run(["rm", "-rf", str(there / "aside")], check=False)

    for file in kept:
        file.touch()
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(15):
            folder.shell.read(folder.cd + bodies.emptied())
    finally:
        stop.set()
        thread.join()
    assert all(file.exists() for file in kept)


def test_everything_is_removed(folder: Folder, bodies: Bodies, tmp_path: Path) -> None:
    there = tmp_path / "gate/bodies"
    for number in range(5):
        (there / f"{number:010}").write_text("x")
    (there / "link").symlink_to("/etc/passwd")
    (tmp_path / "gate/log").mkdir()
    answer = folder.shell.read(folder.cd + bodies.emptied())
    assert answer.code == 0, answer.err
    assert list(there.iterdir()) == []
    assert Path("/etc/passwd").exists()
