"""After the switch following has become impossible: the way back is opened again, or given up. Against the whole lab."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from cutover.core.errors import Refused
from cutover.core.ui import ConfirmedInAdvance
from cutover.core.wait import Not, wait_until
from cutover.gate.controller import Gate
from cutover.replication import switchover
from cutover.replication.position import Position
from cutover.state import status as state
from lab.lab import Lab, new_folder
from lab.operator import Operator
from lab.processes import Process
from lab.state_snapshot import differences, records


@pytest.fixture
def lab(lab_parent: Path) -> Iterator[Lab]:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        new = lab.new_qdrant(LAB_QDRANT_SWITCHES=str(lab.folder / "new-switches.json"))
        new.start()
        operator = Operator(lab)
        for verb in ("gate", "copy", "switch"):
            operator.does(verb)
        lab.new = new  # type: ignore[attr-defined]
        yield lab
        new.kill()


def writes(lab: Lab, method: str, path: str, body: object, url: str = "") -> None:
    headers = {"api-key": lab.keys.qdrant}
    answer = requests.request(method, (url or lab.site.qdrant.public_url) + path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


def damage(lab: Lab) -> None:
    """A line that a full disk cut off, after a write that only the new server has."""
    writes(lab, "PUT", "/collections/digits/points?wait=true", {"points": [{"id": 900_000, "vector": [1.0] * 64}]})
    log = Path(lab.site.nginx.gate_folder) / "log" / "writes.jsonl"
    log.write_bytes(log.read_bytes()[:-40] + b"\n")


def same(lab: Lab) -> bool:
    return differences(records(lab, lab.site.qdrant.old_url), records(lab, lab.site.qdrant.new_url)) == []


@pytest.mark.slow
def test_a_damaged_record_is_begun_anew_with_the_name_and_the_way_back_is_open_again(lab: Lab) -> None:
    damage(lab)
    writes(lab, "PUT", "/collections/fresh", {"vectors": {"size": 1, "distance": "Dot"}})
    operator = Operator(lab)
    operator.tries("back")
    assert "`follow` compares everything anew" in str(operator.was_refused()), operator.error
    operator.tries("follow", execute=False)
    assert operator.result is not None and "Record every write anew" in operator.result.plan.sentences[0].text
    before = records(lab, lab.site.qdrant.old_url)
    operator.tries("follow")
    assert "confirm by typing the name" in str(operator.was_refused())
    assert operator.error is not None and operator.error.exit_code == 1
    assert differences(before, records(lab, lab.site.qdrant.old_url)) == []

    operator.agrees_to.add(lab.site.name)
    operator.does("follow")
    assert same(lab)
    writes(lab, "PUT", "/collections/digits/points?wait=true", {"points": [{"id": 900_001, "vector": [1.0] * 64}]})
    operator.does("back")
    assert same(lab)


@pytest.mark.slow
def test_a_beginning_that_was_interrupted_is_not_taken_for_a_copy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(lab)
    operator = Operator(lab, agrees_to={lab.site.name})
    start = Gate.start_recording

    class Killed(BaseException):
        pass

    for dies_after in (False, True):

        def dies(self: Gate, deadline: float = 30.0, after: bool = dies_after) -> None:
            if after:
                start(self, deadline)
            else:
                self.stop_recording()
            raise Killed

        monkeypatch.setattr(Gate, "start_recording", dies)
        with pytest.raises(Killed):
            operator.tries("follow")
        monkeypatch.undo()
        operator.tries("back")
        assert operator.error is not None, "the way back looked open"
        found = state.status(lab.run())
        assert not found.can_go_back, found
        operator.agrees_to.clear()
        operator.tries("finish")
        assert "is NOT up to date" in str(operator.was_refused())
        operator.agrees_to.add(lab.site.name)
    operator.does("follow")
    assert same(lab)
    operator.does("back")


@pytest.mark.slow
def test_a_collection_with_other_settings_is_copied_anew_and_what_is_in_excess_goes(lab: Lab) -> None:
    """A change that cannot be followed: a collection of that name is on the old server already, and is another one."""
    for name in ("stray", "odd"):
        writes(lab, "PUT", f"/collections/{name}", {"vectors": {"size": 1, "distance": "Dot"}}, lab.site.qdrant.old_url)
    writes(lab, "PUT", "/collections/odd", {"vectors": {"size": 2, "distance": "Dot"}})
    operator = Operator(lab, agrees_to={lab.site.name})
    operator.tries("back")
    assert "cannot be brought to record by record" in str(operator.was_refused())
    operator.agrees_to.clear()
    operator.tries("follow")
    assert "odd" in str(operator.was_refused()) and "stray" in str(operator.was_refused()), operator.error
    operator.agrees_to.add(lab.site.name)
    operator.does("follow")
    assert same(lab)
    operator.does("back")


@pytest.mark.slow
def test_a_difference_that_nothing_explains_can_be_ended_after_the_switch_as_well(lab: Lab) -> None:
    writes(lab, "POST", "/collections/digits/points/delete?wait=true", {"points": [1]}, lab.site.qdrant.old_url)
    operator = Operator(lab, agrees_to={lab.site.name})
    operator.tries("back")
    assert "do not hold the same data" in str(operator.was_refused())
    assert "`follow` compares everything anew, and asks" in str(operator.was_refused())
    operator.does("follow")
    assert same(lab)
    operator.does("back")


@pytest.mark.slow
def test_a_broken_way_back_can_be_given_up_by_name(lab: Lab) -> None:
    damage(lab)
    operator = Operator(lab)
    operator.tries("finish")
    refused = str(operator.was_refused())
    assert (
        "The old server is NOT up to date: The gate's log has a damaged line" in refused
        and "confirm by typing the name" in refused
    )
    operator.agrees_to.add(lab.site.name)
    assert "NOT up to date" in " ".join(operator.does("finish").outcome.sentences)  # type: ignore[union-attr]
    run = lab.run()
    assert state.status(run).state == "finished"
    assert [e.what for e in run.journal.entries() if e.act == "finish.given-up" and "NOT up to date" in e.what]
    operator.tries("follow")
    assert "not recorded" in str(operator.was_refused())  # on purpose: it is not opened again


def test_a_position_that_is_gone_or_damaged_names_a_command_that_works(lab: Lab) -> None:
    run = lab.run(execute=True)
    path = switchover.position_path(run)
    path.write_text("{")
    with pytest.raises(Refused, match="`follow` compares everything anew"):
        switchover.position(run, "new")
    path.unlink()
    with pytest.raises(Refused, match="`follow` compares everything anew"):
        switchover.position(run, "new")
    run.close()
    operator = Operator(lab, agrees_to={lab.site.name})
    operator.does("follow")
    found = Position.load(path)
    assert found is not None and not found.doubt
    operator.does("back")


@pytest.mark.slow
def test_writes_that_wait_for_a_server_that_has_fallen_silent_do_not_keep_the_operator_there(lab: Lab) -> None:
    """A machine without power does not even refuse a connection: what was sent to it waits in Nginx for an hour."""
    new: Process = lab.new  # type: ignore[attr-defined]
    writes(lab, "PUT", "/collections/digits/points?wait=true", {"points": [{"id": 900_000, "vector": [1.0] * 64}]})
    new.pause()
    try:
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(writes, lab, "POST", "/collections/digits/points/delete", {"points": [900_000]})
            wait_until(lambda: bool(_begun(lab)) or Not("nothing is under way"), deadline=10, what="The write")
            operator = Operator(lab, agrees_to={lab.site.name})
            outcome = operator.does("back").outcome
            assert outcome is not None
            assert outcome.facts["under_way"] == 1, outcome
            assert outcome.facts["held"] <= lab.site.limits.hold_seconds
            assert "1 write still waited" in " ".join(outcome.sentences)
            assert state.status(lab.run()).now == "The old server serves; the new one is not followed."
            found = requests.get(
                f"{lab.site.qdrant.public_url}/collections/digits/points/900000", headers={"api-key": lab.keys.qdrant}, timeout=10
            )
            assert found.status_code == 200, found.text
            assert isinstance(waiting.exception(timeout=60), requests.Timeout)
    finally:
        new.resume()


def _begun(lab: Lab) -> list[str]:
    log = (Path(lab.site.nginx.gate_folder) / "log" / "writes.jsonl").read_text().splitlines()
    return [line for line in log if '"begin"' in line and "points/delete" in line]


# -- without the new server ---------------------------------------------------------------------------


class ReadsFirst(ConfirmedInAdvance):
    """Types the name after something has happened."""

    def __init__(self, name: str, happens: Callable[[], None]) -> None:
        super().__init__(name)
        self._happens = happens

    def by_name(self, name: str, what_is_lost: str) -> None:
        super().by_name(name, what_is_lost)
        self._happens()


@pytest.mark.slow
def test_what_the_new_server_acknowledged_while_the_operator_was_asked_arrives_as_well(lab: Lab) -> None:
    """It answers for a moment, is gone again, and the writes of that moment are only in what Nginx recorded last."""
    new: Process = lab.new  # type: ignore[attr-defined]
    put, marks = "/collections/digits/points?wait=true", range(5)

    def write(number: int, by: int = 0) -> None:
        writes(lab, "PUT", put, {"points": [{"id": number, "vector": [1.0] * 64, "payload": {"mark": number, "by": by}}]})

    write(900_000)
    new.kill()

    def answers_for_a_moment() -> None:
        new.start()
        for mark in marks:
            write(900_001 + mark)
        # Two at once on one record: which came last, nobody knows.
        with ThreadPoolExecutor(2) as both:
            (lab.folder / "new-switches.json").write_text(json.dumps({"latency_ms": 500}))
            list(both.map(write, [900_777, 900_777], [1, 2]))
        new.kill()

    operator = Operator(lab, prepare=lambda run: setattr(run, "confirm", ReadsFirst(lab.site.name, answers_for_a_moment)))
    said = operator.does("back").outcome
    assert said is not None
    brought = {"limit": 100, "filter": {"must": [{"key": "mark", "range": {"gte": 900_000}}]}}
    headers = {"api-key": lab.keys.qdrant}
    url = f"{lab.site.qdrant.old_url}/collections/digits/points/scroll"
    found = requests.post(url, json=brought, headers=headers, timeout=10).json()["result"]["points"]
    assert {one["id"] for one in found} == {900_000, *(900_001 + mark for mark in marks), 900_777}
    assert "8 acknowledged writes sent to it once more" in " ".join(said.sentences), said.sentences
    assert "The order of 2 writes was not known" in " ".join(said.sentences), said.sentences
    kept = [json.loads(line)["body"] for line in (lab.state_dir / "replay-overlaps.jsonl").read_text().splitlines()]
    assert len(kept) == 2 and all('"id": 900777' in body for body in kept)
