"""Files: whole or not at all, for their owner alone, and never through a link that others may have put there."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from cutover.core import files
from cutover.core.errors import WrongUsage

SRC = Path(__file__).parents[2] / "src/cutover"


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [files.PRIVATE, files.PUBLIC])
def test_the_mode_is_set_and_not_inherited(tmp_path: Path, mode: int) -> None:
    there = tmp_path / "there"
    there.write_text("before\n")
    there.chmod(0o666)
    files.append(there, "after\n", mode=mode)
    assert there.read_text() == "before\nafter\n"
    assert there.stat().st_mode & 0o777 == mode
    there.chmod(0o666)
    files.replace(there, "new", mode)
    assert there.stat().st_mode & 0o777 == mode
    files.append(tmp_path / "fresh", "x", mode=mode)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["kept", ".kept.new"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_not_written_through(tmp_path: Path, name: str, dangling: bool) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_text("somebody else's")
    (tmp_path / name).symlink_to(target)
    files.replace(tmp_path / "kept", "ours")
    assert (tmp_path / "kept").read_text() == "ours"
    assert not (tmp_path / "kept").is_symlink()
    assert not target.exists() if dangling else target.read_text() == "somebody else's"


def test_nothing_is_added_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("somebody else's")
    (tmp_path / "kept").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        files.append(tmp_path / "kept", "ours")
    with pytest.raises(OSError, match="symbolic links"):
        files.mend(tmp_path / "kept")
    assert target.read_text() == "somebody else's"


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o705, 0o701, 0o710, 0o777, 0o1777])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(WrongUsage, match="others can enter it"):
        files.private_folder(folder)
    folder.chmod(0o700)
    files.private_folder(folder)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(WrongUsage, match="belongs to somebody else"):
        files.private_folder(tmp_path)


@pytest.mark.usefixtures("_umask")
def test_a_folder_that_is_made_is_private(tmp_path: Path) -> None:
    files.private_folder(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    path = tmp_path / "kept"
    path.write_text("before\n")
    real, room = os.write, [after]

    def until_it_is_full(handle: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return real(handle, data[:1])

    monkeypatch.setattr("os.write", until_it_is_full)
    with pytest.raises(OSError, match="No space"):
        files.append(path, "after what is there\n")
    assert path.read_text() == "before\n"


def test_nobody_writes_past_these_functions() -> None:
    """The only other places: Compose's temporary folders, which are private and gone afterwards, and the journal's lock."""
    found = {
        str(file.relative_to(SRC))
        for file in SRC.rglob("*.py")
        if re.search(r"\.write_(text|bytes)\(|\.open\(\"[wax]|O_CREAT|\bopen\([^)]*[\"'][wax]", file.read_text(encoding="utf-8"))
    }
    assert found <= {"core/files.py", "core/journal.py", "portainer/compose.py"}
