"""The move: how it finds its way after it was interrupted, and that its hold keeps its promise. Against the whole lab."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from cutover import runner
from cutover.core.errors import CutoverError, Refused
from cutover.core.ui import ConfirmedInAdvance
from cutover.core.wait import Not, wait_until
from cutover.qdrant.compare import Difference
from cutover.replication import follower, hold, proof, switchover
from cutover.replication.position import Position
from cutover.replication.watch import last_seen
from cutover.state import status as state
from lab.lab import ROOT, Lab, new_folder


@pytest.fixture(scope="module")
def lab(lab_parent: Path) -> Any:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        new = lab.new_qdrant()
        new.start()
        for verb in ("gate", "copy"):
            does(lab, verb)
        yield lab
        new.kill()


def does(lab: Lab, verb: str) -> Any:
    run = lab.run(execute=True, confirm=ConfirmedInAdvance(lab.site.name))
    try:
        return runner.carry_out(verb, run).outcome
    finally:
        run.close()


def test_a_hold_that_a_dead_operator_left_is_seen_and_ended(lab: Lab) -> None:
    run = lab.run(execute=True)
    with run.guard.act("switch.hold", "Hold writes"):
        run.gate.hold(1.2)
    assert state.status(run).state == "moving"
    hold.end_abandoned(run, "switch")
    assert not run.gate.state().held
    assert state.status(run).state == "ready"
    run.close()


def test_there_and_back_says_how_long_writes_were_held(lab: Lab) -> None:
    there, back = does(lab, "switch"), does(lab, "back")
    for outcome in (there, back):
        assert 0 < outcome.facts["held_seconds"] <= lab.site.limits.hold_seconds
        assert list(outcome.facts["steps"]) == ["drained", "followed", "proved", "pointed", "released"]
    assert "The new server serves" in there.sentences[0]
    run = lab.run()
    assert [one.text for one in runner.plan("back", run).sentences] == ["Bring what the old server received to the new server"]
    run.close()
    assert does(lab, "back").changed is False


def test_what_differs_when_the_hold_is_over_by_then_is_looked_at_once_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine it was said that the copy is damaged, while the one server only went on being written to."""
    seconds, quickly, asked, late = hold.Hold.seconds, proof.prove_quickly, list[hold.Hold](), list[hold.Hold]()

    def counted(self: hold.Hold) -> float:
        asked.append(self)
        return seconds(self) + (99.0 if any(one is self for one in late) else 0.0)

    def slowly(*args: Any, **rest: Any) -> list[Difference]:
        found = quickly(*args, **rest)
        if late:
            return found
        late.append(asked[-1])
        return [Difference("collection", "", "digits", "554 records and 558 records")]

    monkeypatch.setattr(hold.Hold, "seconds", counted)
    monkeypatch.setattr(proof, "prove_quickly", slowly)
    assert does(lab, "switch").changed
    assert does(lab, "back").changed
    assert len(late) == 1


def test_more_than_a_hold_compares_is_compared_before_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was brought over after everything was compared, and is altered then, on the server that nobody uses yet."""

    def change(url: str, ids: list[int], word: str) -> None:
        changed = {"payload": {"word": word}, "points": ids}
        answer = requests.post(
            f"{url}/collections/digits/points/payload?wait=true", json=changed, headers={"api-key": lab.keys.qdrant}, timeout=10
        )
        assert answer.status_code == 200, answer.text

    shorten, seen = proof.shorten_the_hold, list[int]()

    def altered(following: Any) -> Any:
        if not seen:
            change(lab.site.qdrant.public_url, [*range(1, 11)], "from users")
        done = shorten(following)
        if not seen:
            change(lab.site.qdrant.new_url, [1], "altered")
        seen.append(len(done.ids))
        return done

    monkeypatch.setattr(follower, "RECENT", 3)
    monkeypatch.setattr(proof, "shorten_the_hold", altered)
    with pytest.raises(CutoverError, match=r"1 record differs in its payload|did not pass Nginx|without going through Nginx"):
        does(lab, "switch")
    run = lab.run()
    assert run.gate.state().side == "old"
    run.close()
    change(lab.site.qdrant.new_url, [1], "from users")


def test_a_flag_that_was_set_just_before_the_tool_died_is_found_by_looking(lab: Lab) -> None:
    """The position still says that the old server is followed; the gate says that the new one serves."""
    does(lab, "switch")
    run = lab.run(execute=True)
    saved = Position.load(switchover.position_path(run))
    assert saved is not None
    saved.side = "old"
    saved.moved = {"digits": [1]}
    saved.save(switchover.position_path(run))
    turned = switchover.position(run, "new")
    assert (turned.side, turned.moved, turned.offset) == ("new", {}, saved.offset)
    run.close()
    assert does(lab, "back").changed


def test_a_switch_without_a_position_asks_for_a_copy(lab: Lab) -> None:
    run = lab.run(execute=True)
    path = switchover.position_path(run)
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(Refused, match="Begin with `copy`"):
        switchover.follower(run, "old", "switch")
    path.write_bytes(kept)
    run.close()


# -- the watch as a process ---------------------------------------------------------------------------
def _watch(lab: Lab) -> subprocess.Popen[str]:
    words = ["-m", "cutover", "follow", "--watch", "--execute", "--site", str(lab.site_file), "--state-dir", str(lab.state_dir)]
    env = {**os.environ, **lab.env, "PYTHONPATH": str(ROOT / "src")}
    watch = subprocess.Popen(
        [sys.executable, *words], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def watches() -> bool | Not:
        run = lab.run()
        try:
            seen = last_seen(run)
        finally:
            run.close()
        assert watch.poll() is None, watch.communicate()[0]
        return (seen is not None and seen.proved == 1.0) or Not("it has not told anything yet")

    wait_until(watches, deadline=120, what="A round of the watch")
    return watch


def test_a_watch_that_is_stopped_or_killed_leaves_everything_for_the_next_command(lab: Lab) -> None:
    does(lab, "back")
    does(lab, "copy")
    watch = _watch(lab)
    watch.terminate()
    said = watch.communicate(timeout=120)[0]
    assert watch.returncode == 0, said
    assert "the new server is 0 writes" in said and "Stopped after" in said
    run = lab.run()
    assert state.status(run).watch == ""
    run.close()

    watch = _watch(lab)
    os.kill(watch.pid, signal.SIGKILL)
    watch.communicate(timeout=60)
    outcome = does(lab, "switch")
    assert outcome.changed and "The new server serves" in outcome.sentences[0]


def test_everything_is_compared_where_that_is_asked_for(lab: Lab) -> None:
    run = lab.run(execute=True)
    run.prove_all = True
    outcome = runner.carry_out("back", run).outcome
    run.close()
    assert outcome is not None
    assert any("were compared as a whole, because that was asked for" in one for one in outcome.sentences), outcome.sentences
