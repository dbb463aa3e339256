"""Steps about the watch (`follow --watch`), and about what a move stands on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import requests
from pytest_bdd import given, parsers, then, when

from cutover import runner
from cutover.core.ui import SilentUi
from cutover.core.wait import Not, wait_until
from cutover.replication import watch as watching
from cutover.replication.watch import WatchState
from cutover.state import status as state
from lab.lab import Lab
from lab.operator import Operator
from lab.processes import Process


class Watch:
    """`follow --watch` in another process of the operator: here a thread with a run of its own."""

    def __init__(self, lab: Lab) -> None:
        self.ui = SilentUi()
        self.run = lab.run(execute=True, ui=self.ui)
        self.seen: WatchState | None = None
        self.rounds = 0
        self.problem: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch")

    def _follow(self) -> None:
        try:
            runner.watch(self.run, tell=self._tell, wait=lambda seconds: self._stop.wait(min(seconds, 0.2)))
        except BaseException as error:  # told by whoever asks
            self.problem = error
        finally:
            self.run.close()

    def _tell(self, seen: WatchState) -> None:
        self.seen, self.rounds = seen, self.rounds + 1

    def start(self) -> None:
        self._thread.start()

    def after_rounds(self, count: int) -> WatchState:
        """What it knows when it has gone round so often once more."""
        goal = self.rounds + count
        self._until(lambda: self.rounds >= goal, "A round of the watch")
        assert self.seen is not None
        return self.seen

    def says(self, words: str) -> None:
        """It says so, or has said so."""
        self._until(lambda: any(words in one for one in self.ui.sentences), f"The sentence {words!r}")

    def _until(self, fact: Callable[[], bool], what: str) -> None:
        def so() -> bool | Not:
            assert self.problem is None, repr(self.problem)
            return fact() or Not("; ".join(self.ui.sentences[-3:]))

        wait_until(so, deadline=60, what=what, every=0.05)

    def end(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(60)


@pytest.fixture
def watch(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    # Looked for every few seconds in earnest; here nobody wants to wait.
    for name in ("LOOK_AT_COUNTERS", "LOOK_AT_NGINX", "LOOK_AT_DISK", "AGAIN_AFTER", "UNREACHABLE"):
        monkeypatch.setattr(watching, name, 0.1 if name == "UNREACHABLE" else 0.0)
    made = Watch(lab)
    yield made
    made.end()
    assert made.problem is None, repr(made.problem)


@given("a watch keeps the old server up to date")
def _watch_begins(watch: Watch) -> None:
    watch.start()
    watch.after_rounds(3)


@then("the watch says that nothing is behind and all is compared")
def _nothing_behind(watch: Watch, operator: Operator) -> None:
    seen = watch.after_rounds(3)
    assert (seen.behind_writes, seen.wrong, seen.proved, seen.target) == (0, {}, 1.0, "the old server")
    with closing(operator.run(execute=False)) as run:
        said = state.status(run)
    assert said.behind_writes == 0
    assert "all compared, the oldest part" in said.watch, said


@then("the operator can go back, and the watch keeps the new server up to date from then on")
def _goes_back_meanwhile(watch: Watch, operator: Operator, lab: Lab) -> None:
    result = operator.does("back")
    assert result.outcome is not None
    assert result.outcome.facts["proved"].get("stood_on"), result.outcome.sentences
    _set_payload(lab, lab.site.qdrant.public_url, 42)
    seen = watch.after_rounds(3)
    assert (seen.side, seen.target, seen.behind_writes) == ("old", "the new server", 0)


# -- what is wrong ------------------------------------------------------------------------------------
def _set_payload(lab: Lab, url: str, mark: int) -> None:
    body = {"payload": {"label": mark}, "points": [7]}
    path = "/collections/digits/points/payload?wait=true"
    answer = requests.post(url + path, json=body, headers={"api-key": lab.keys.qdrant}, timeout=10)
    assert answer.status_code == 200, answer.text


@when("somebody changes a record of the old server without Nginx, and then it dies and comes back")
def _much_goes_wrong(lab: Lab, watch: Watch) -> None:
    _set_payload(lab, lab.site.qdrant.old_url, 99)
    watch.says("Both servers differ")
    machine = lab.machines[952]
    machine.stop()
    watch.says("The old server does not answer")
    machine.start()


@then(parsers.parse('the watch has said "{reason}"'))
def _watch_has_said(watch: Watch, reason: str) -> None:
    watch.says(reason)


# -- on what a move stands ----------------------------------------------------------------------------
@given("the new server was restarted")
def _new_server_restarted(new_server: Process) -> None:
    new_server.kill()
    new_server.start()


@then(parsers.parse("only the {count:d} records written since the copy were compared"))
def _only_what_was_written(operator: Operator, count: int) -> None:
    assert operator.result is not None and operator.result.outcome is not None
    proved = operator.result.outcome.facts["proved"]
    assert (proved["records"], proved["compared_since"]) == (0, count), proved
    assert any("It stood on the comparison begun at" in one for one in operator.result.outcome.sentences)


@then(parsers.parse('everything was compared because "{reason}"'))
def _everything_compared(operator: Operator, reason: str) -> None:
    assert operator.result is not None and operator.result.outcome is not None
    proved = operator.result.outcome.facts["proved"]
    assert proved["records"] > 1000 and reason in proved["why_compared"], proved
