"""Steps about traffic: an application that reads and writes all the time, and who serves it."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from pytest_bdd import given, parsers, then, when

from acceptance.counters import DIED, tried
from cutover.core.journal import Journal
from cutover.core.wait import Not, wait_until
from cutover.state import status as state
from lab.lab import Lab
from lab.load import Load, Report
from lab.operator import Operator
from steps.trust import _run_and_die

#: Requests the application makes before and after each act, so that there is traffic on both sides of it.
SOME = 150


@dataclass
class Application:
    """The application of a scenario and, when it has ended, what it saw."""

    load: Load
    running: bool = False
    report: Report | None = None

    def begin(self) -> None:
        self.load.start()
        self.running = True
        self.load.wait_for(SOME)

    def goes_on(self) -> None:
        """Wait until it has been answered some more."""
        if self.running:
            self.load.wait_for(SOME)

    def end(self) -> Report:
        if self.report is None:
            self.report = self.load.stop()
            self.running = False
        return self.report


@pytest.fixture
def application(lab: Lab) -> Iterator[Application]:
    """An application that has not begun yet."""
    made = Application(Load(lab.site.qdrant.public_url, lab.keys.qdrant, lab.folder / "application", pace=0.03, library=True))
    yield made
    made.load.process.kill()


@given("an application reads and writes through Nginx")
def _application_begins(application: Application) -> None:
    application.begin()


@when("the application has ended")
def _application_has_ended(application: Application) -> None:
    application.goes_on()
    application.end()


@then("no request failed and no write was lost")
def _nothing_failed_nothing_lost(application: Application) -> None:
    report = application.end()
    assert report.requests > SOME and report.audited > 0, str(report)
    assert (report.failed, report.lost) == (0, 0), str(report)


@then("nothing that was acknowledged was lost")
def _nothing_lost(application: Application) -> None:
    report = application.end()
    assert report.audited > SOME and not report.lost, str(report)


@then(parsers.parse("no write waited longer than {seconds:d} second"))
def _no_write_waited(application: Application, seconds: int) -> None:
    report = application.end()
    assert report.longest_write <= seconds, str(report)


# -- moving -------------------------------------------------------------------------------------------
@given("traffic moved to the new server")
def _traffic_moved(both_same: None, operator: Operator) -> None:
    del both_same
    operator.does("switch")


@when("the operator moves the traffic")
def _moves_the_traffic(operator: Operator) -> None:
    operator.tries("switch")


@when("the operator goes back")
def _goes_back(operator: Operator, application: Application) -> None:
    operator.tries("back")
    application.goes_on()


@when("the operator moves the traffic, goes back, and moves it again")
def _there_and_back(operator: Operator, application: Application) -> None:
    for verb in ("switch", "back", "switch"):
        operator.does(verb)
        application.goes_on()


@when("the operator's computer dies while writes wait, and the operator starts again")
def _dies_while_writes_wait(lab: Lab, operator: Operator, application: Application) -> None:
    ended = _run_and_die(lab, operator, "switch", 1, before=False, act="switch.hold")
    assert ended.returncode == -9, f"exit code {ended.returncode}\n{ended.stderr}"
    tried(DIED)
    _somebody_serves(lab)
    application.goes_on()
    operator.does("switch")


@when("the operator's computer dies at every point of the move, and each time the operator starts again")
def _dies_at_every_point(lab: Lab, operator: Operator, application: Application) -> None:
    lines = _lines_of_a_move(operator)
    hold, end = lines.index("switch.hold") + 1, len(lines) - lines[::-1].index("switch.release")
    # Before the hold nothing is changed, so one death there is as good as another.
    for line in [hold // 2, *range(hold, end + 2)]:
        ended = _run_and_die(lab, operator, "switch", line, before=line % 2 == 0)
        _somebody_serves(lab)
        application.goes_on()
        assert ended.returncode in {-9, 0}, f"exit code {ended.returncode}\n{ended.stderr}"
        tried(DIED, ended.returncode == -9)
        assert _status(operator).state in {"ready", "watching"}, _status(operator)
        if _side(operator) == "new":
            operator.does("switch")
            operator.does("back")
    operator.does("switch")


def _lines_of_a_move(operator: Operator) -> list[str]:
    """The acts of a whole move, one for each line of the journal; afterwards the old server serves again."""
    lab = operator.lab
    before = len(Journal(lab.state_dir, lab.site.name).entries())
    operator.does("switch")
    acts = [entry.act for entry in Journal(lab.state_dir, lab.site.name).entries()[before:]]
    operator.does("back")
    return acts


def _somebody_serves(lab: Lab) -> None:
    """Reads are answered at once; writes as soon as a hold that was left behind has ended by itself."""
    session = requests.Session()
    session.headers["api-key"] = lab.keys.qdrant
    url = lab.site.qdrant.public_url
    assert session.get(f"{url}/collections", timeout=5).status_code == 200

    def written() -> bool | Not:
        body = {"payload": {"seen": True}, "points": [0]}
        answer = session.post(f"{url}/collections/digits/points/payload?wait=true", json=body, timeout=5)
        return True if answer.status_code == 200 else Not(f"{answer.status_code} {answer.text[:100]}")

    wait_until(written, deadline=5.0, what="A write after the operator's computer died")


@when("the new server dies while the traffic is being moved")
def _new_server_dies(operator: Operator, new_server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed when the hold begins, which is when it is needed most."""
    from cutover.gate.controller import Gate

    hold = Gate.hold

    def hold_and_kill(self: Gate, seconds: float) -> None:
        hold(self, seconds)
        new_server.kill()  # type: ignore[attr-defined]

    monkeypatch.setattr(Gate, "hold", hold_and_kill)
    operator.tries("switch")


@given("writes may be held for less time than the proof needs")
def _short_hold(lab: Lab) -> None:
    lab.change_site(limits={"hold_seconds": 0.5})
    (lab.folder / "new-switches.json").write_text(json.dumps({"latency_ms": 400}))


def _side(operator: Operator) -> str:
    with closing(operator.run(execute=False)) as run:
        return run.gate.state().side


@then(parsers.parse("the {side} server serves"))
def _serves(lab: Lab, operator: Operator, side: str) -> None:
    """Seen by writing through Nginx and looking where it arrived; the gate's own flag must say the same."""
    assert _side(operator) == side
    url = {"old": lab.site.qdrant.old_url, "new": lab.site.qdrant.new_url}[side]
    session = requests.Session()
    session.headers["api-key"] = lab.keys.qdrant
    mark = f"seen-{next(_marks)}"
    body = {"payload": {"mark": mark}, "points": [1]}
    answer = session.post(f"{lab.site.qdrant.public_url}/collections/digits/points/payload?wait=true", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    found = session.get(f"{url}/collections/digits/points/1", timeout=10).json()["result"]
    assert found["payload"]["mark"] == mark


_marks = itertools.count()


# -- the way back -------------------------------------------------------------------------------------
@when(parsers.parse("applications write {count:d} records"))
def _applications_write(lab: Lab, count: int) -> None:
    session = requests.Session()
    session.headers["api-key"] = lab.keys.qdrant
    for number in range(count):
        body = {"points": [{"id": 5_000_000 + number, "vector": [0.5] * 64, "payload": {"n": number}}]}
        answer = session.put(f"{lab.site.qdrant.public_url}/collections/digits/points?wait=true", json=body, timeout=10)
        assert answer.status_code == 200, answer.text


def _status(operator: Operator) -> state.Status:
    with closing(operator.run(execute=False)) as run:
        return state.status(run)


@then(parsers.parse("the status says that the old one is {count:d} writes behind"))
def _status_says_behind(operator: Operator, count: int) -> None:
    found = _status(operator)
    assert found.behind_writes == count, found
    assert f"the old one is {count} writes and" in "\n".join(found.lines()), found.lines()


@then("it says that nothing is behind once they were brought over")
def _nothing_behind(operator: Operator) -> None:
    operator.does("follow")
    found = _status(operator)
    assert (found.behind_writes, found.behind_seconds) == (0, 0.0), found
    assert "the old one has everything that was written" in "\n".join(found.lines())


@then(parsers.parse("the status is {name}"))
def _status_is(operator: Operator, name: str) -> None:
    assert _status(operator).state == name


@given("the way back was given up")
def _way_back_given_up(lab: Lab, operator: Operator) -> None:
    operator.agrees_to.add(lab.site.name)
    operator.does("finish")


@when("the operator gives up the way back without typing the site's name")
def _gives_up_without_the_name(operator: Operator) -> None:
    operator.agrees_to.clear()
    operator.tries("finish")


# -- the new server is lost ---------------------------------------------------------------------------
@given("the new server is lost for good")
def _new_server_lost(new_server: object, application: Application) -> None:
    """Killed, not stopped: what it was doing is cut off, and what it had not said nobody will hear."""
    application.goes_on()
    new_server.kill()  # type: ignore[attr-defined]


@given(parsers.parse("applications wrote {count:d} records"))
def _applications_wrote(lab: Lab, count: int) -> None:
    _applications_write(lab, count)


@given(parsers.parse("two applications wrote record {number:d} at the same time"))
def _wrote_at_the_same_time(lab: Lab, number: int) -> None:
    """The new server takes its time, so that the second write has begun before the first is over."""
    slow = lab.folder / "new-switches.json"
    slow.write_text(json.dumps({"latency_ms": 1000}))
    both = threading.Barrier(2)

    def write(mark: int) -> int:
        both.wait(timeout=10)
        body = {"payload": {"mark": mark}, "points": [number]}
        url = f"{lab.site.qdrant.public_url}/collections/digits/points/payload?wait=true"
        return requests.post(url, json=body, headers={"api-key": lab.keys.qdrant}, timeout=20).status_code

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(write, range(2))) == [200, 200]
    slow.unlink()


@given("an application wrote through Nginx for a while")
def _application_wrote(application: Application, operator: Operator, lab: Lab) -> None:
    application.begin()
    operator.agrees_to.add(lab.site.name)


@given("a collection was restored on the new server from a file there")
def _restored(lab: Lab) -> None:
    session = requests.Session()
    session.headers["api-key"] = lab.keys.qdrant
    new = f"{lab.site.qdrant.new_url}/collections/digits/snapshots"
    name = session.post(new, timeout=30).json()["result"]["name"]
    body = {"location": f"{new}/{name}", "api_key": lab.keys.qdrant}
    url = f"{lab.site.qdrant.public_url}/collections/digits/snapshots/recover?wait=true"
    answer = session.put(url, json=body, timeout=60)
    assert answer.status_code == 200, answer.text


@when("the operator goes back and types the site's name")
def _goes_back_by_name(lab: Lab, operator: Operator, application: Application) -> None:
    operator.agrees_to.add(lab.site.name)
    operator.tries("back")
    application.goes_on()


@then("the status says that the new one is not followed")
def _not_followed(operator: Operator) -> None:
    assert operator.error is None, operator.error
    found = _status(operator)
    assert found.state == "planned", found
    assert "The old server serves; the new one is not followed." in found.now


@then("the copy can be undone and made again when the new server is back")
def _copy_again(new_server: object, operator: Operator) -> None:
    new_server.start()  # type: ignore[attr-defined]
    operator.does("copy", undo=True)
    operator.does("copy")
    assert _status(operator).state == "ready", _status(operator)


# -- the record is damaged ----------------------------------------------------------------------------
@given("the record of what applications wrote is damaged")
def _record_damaged(lab: Lab) -> None:
    """A line that a full disk cut off."""
    _applications_write(lab, 3)
    log = Path(lab.site.nginx.gate_folder) / "log" / "writes.jsonl"
    log.write_bytes(log.read_bytes()[:-40] + b"\n")


@when("the operator brings the old server up to date")
def _brings_up_to_date(operator: Operator) -> None:
    operator.tries("follow")


@when("the operator has everything compared anew and types the site's name")
def _compares_anew(lab: Lab, operator: Operator) -> None:
    operator.agrees_to.add(lab.site.name)
    operator.does("follow")
