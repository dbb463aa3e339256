"""What the exit code says is true: 1 only where nothing was changed. And what a copy takes for its own. Against the whole lab."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover import runner
from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.journal import Journal
from cutover.core.ui import ConfirmedInAdvance
from cutover.qdrant.client import Answered, Qdrant
from cutover.replication import hold, switchover
from lab.lab import Lab, new_folder
from lab.processes import Process
from tests.support.gateway import session


@pytest.fixture(scope="module")
def lab(lab_parent: Path) -> Iterator[Lab]:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        does(lab, "gate")
        yield lab


@pytest.fixture
def new(lab: Lab) -> Iterator[Process]:
    """The new server, empty."""
    server = lab.new_qdrant(new_folder(lab.folder))
    server.start()
    yield server
    server.kill()


def does(lab: Lab, verb: str, *, undo: bool = False) -> Any:
    run = lab.run(execute=True, confirm=ConfirmedInAdvance(lab.site.name))
    try:
        return runner.carry_out(verb, run, undo=undo).outcome
    finally:
        run.close()


def write(lab: Lab, url: str, path: str, body: Any) -> None:
    with session() as client:
        answer = client.put(f"{url}{path}?wait=true", json=body, headers={"api-key": lab.keys.qdrant}, timeout=10)
    assert answer.status_code == 200, answer.text


def serving(lab: Lab) -> str:
    run = lab.run()
    try:
        return run.gate.state().side
    finally:
        run.close()


def test_a_copy_that_finds_a_difference_at_its_end_has_changed_something(
    lab: Lab, new: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove = switchover.prove

    def disturbed(*args: Any) -> Any:
        where = "/collections/digits/points/payload"
        write(lab, lab.site.qdrant.new_url, where, {"payload": {"by": "somebody"}, "points": [0]})
        return prove(*args)

    monkeypatch.setattr(switchover, "prove", disturbed)
    with pytest.raises(Failed, match="do not hold the same data") as failed:
        does(lab, "copy")
    assert failed.value.exit_code == 3
    monkeypatch.undo()
    monkeypatch.setattr(Qdrant, "delete_collection", _refuses)
    with pytest.raises(CutoverError, match="Recording was stopped") as stopped:
        does(lab, "copy", undo=True)
    assert stopped.value.exit_code == 3
    monkeypatch.undo()
    does(lab, "copy", undo=True)


def _refuses(*_: Any) -> None:
    raise Answered(500, "It does not.", "no")


def test_what_has_the_name_of_a_removed_copy_is_somebody_elses(lab: Lab, new: Process) -> None:
    does(lab, "copy")
    does(lab, "copy", undo=True)
    write(lab, lab.site.qdrant.new_url, "/collections/digits", {"vectors": {"size": 2, "distance": "Dot"}})
    with pytest.raises(Refused, match="already has data that this tool did not copy: digits"):
        does(lab, "copy")


def test_killed_while_it_begins_anew_a_copy_trusts_nothing_from_before(
    lab: Lab, new: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    does(lab, "copy")
    (lab.state_dir / "follow.json").unlink()
    write(lab, lab.site.qdrant.public_url, "/collections/digits/points/payload", {"payload": {"meanwhile": 1}, "points": [0]})
    note = Journal.note

    def killed(self: Journal, act: str, *args: Any, **rest: Any) -> Any:
        if act == "copy.begun":
            raise KeyboardInterrupt
        return note(self, act, *args, **rest)

    monkeypatch.setattr(Journal, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        does(lab, "copy")
    monkeypatch.undo()
    assert does(lab, "copy").changed
    does(lab, "copy", undo=True)


def test_a_move_that_is_done_is_never_reported_as_refused(lab: Lab, new: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    does(lab, "copy")
    release = hold.release

    def dies(*args: Any) -> None:
        release(*args)
        new.kill()

    monkeypatch.setattr(hold, "release", dies)
    with pytest.raises(CutoverError, match="The new server serves, but the other server could not be brought up") as failed:
        does(lab, "switch")
    assert failed.value.exit_code == 3
    assert serving(lab) == "new"
