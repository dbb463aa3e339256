"""Steps about what the tool does when nobody told it to act, when it is interrupted, and when answers get lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_bdd import given, parsers, then, when

from acceptance.counters import DIED, POWER, tried
from cutover.core import events
from cutover.core.journal import Journal
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.phases.registry import NAMES
from cutover.qdrant.snapshots import NAMED
from lab import forkserver
from lab.lab import QDRANT_PORT, ROOT, Lab
from lab.operator import Operator
from lab.power_loss import PowerCut
from lab.state_snapshot import Picture, differences, picture, records

#: The steps of the plan that have to be done before each one.
FORWARD = ("backup", "resize", "deploy", "gate", "copy", "switch", "back")
#: More deaths than any step has points; a test that gets here goes in circles.
MOST_DEATHS = 200


@pytest.fixture
def before(lab: Lab) -> Picture:
    """The whole site when the scenario began."""
    return picture(lab)


@given("the site before the move")
def _site_before_the_move(before: Picture) -> None:
    assert before["old"]["digits"]["records"]


@given(parsers.parse("the site right before the {step}"))
def _site_right_before(lab: Lab, before: Picture, operator: Operator, step: str) -> None:
    del lab, before
    for verb in FORWARD[: FORWARD.index(step)]:
        operator.does(verb)


@when(parsers.parse("the operator looks at what the {step} would do"))
def _operator_looks(operator: Operator, step: str) -> None:
    operator.tries(step, execute=False)


@when(parsers.parse("the operator carries out the {step}"))
def _operator_carries_out(operator: Operator, before: Picture, step: str) -> None:
    del before
    operator.tries(step)


@when("a faulty command deletes a collection without the word to execute")
def _faulty_command(operator: Operator) -> None:
    run = operator.run(execute=False)
    try:
        run.old.delete_collection("digits")
    except Exception as error:
        operator.error = error  # type: ignore[assignment]
    finally:
        run.close()


@then("every server is as it was")
def _every_server_as_it_was(lab: Lab, before: Picture) -> None:
    assert differences(before, picture(lab)) == []


@then("the journal is empty")
def _journal_is_empty(lab: Lab) -> None:
    assert Journal(lab.state_dir, lab.site.name).entries() == []


@then(parsers.parse('it is refused because "{reason}"'))
def _refused_because(operator: Operator, reason: str) -> None:
    refusal = operator.was_refused()
    assert reason in str(refusal), str(refusal)


# -- interrupted ----------------------------------------------------------------------------------


@when(parsers.parse("the operator's computer dies at every point of the {step}, and each time the operator starts again"))
def _dies_at_every_point(lab: Lab, operator: Operator, step: str) -> None:
    deaths = 0
    for line in range(1, MOST_DEATHS):
        ended = _run_and_die(lab, operator, step, line, before=line % 2 == 0)
        if ended.returncode == 0:
            break
        assert ended.returncode == -9, f"after {deaths} deaths: exit code {ended.returncode}\n{ended.stderr}"
        deaths += 1
        tried(DIED)
    else:
        raise AssertionError(f"{step} did not end after {MOST_DEATHS} starts")
    assert deaths, f"{step} has no journaled point at which it could be interrupted"


#: For each step the act that must not happen twice.
ONCE = {
    "backup": "vzdump.make", "resize": "resize.disk", "deploy": events.STACK_DEPLOYED, "gate": "gate.install",
    "copy": "copy.recover", "switch": "switch.point", "back": "back.point", "decommission": "vzdump.make",
}  # fmt: skip


@when("the operator's computer dies twice during each step of the plan, and each time the operator starts again")
def _dies_during_each_step(lab: Lab, operator: Operator, before: Picture) -> None:
    del before
    for step in FORWARD:
        dies_and_starts_again(lab, operator, step, intent=1)


@when(parsers.parse("the operator's computer dies twice during the {step}, and each time the operator starts again"))
def _dies_twice(lab: Lab, operator: Operator, step: str) -> None:
    dies_and_starts_again(lab, operator, step, intent=3)


def dies_and_starts_again(lab: Lab, operator: Operator, step: str, *, intent: int) -> None:
    """Two deaths: once that line is on disk and before its act, and once :data:`ONCE` is done and its outcome is not on disk."""
    for line, before, act in ((intent, False, ""), (2, True, ONCE[step])):
        ended = _run_and_die(lab, operator, step, line, before=before, act=act)
        assert ended.returncode == -9, f"{step}: exit code {ended.returncode}\n{ended.stderr}"
        tried(DIED)
    operator.does(step)


#: For each step a server that it needs.
NEEDED = {
    "backup": "old server", "resize": "new VM", "deploy": "new VM", "gate": "Nginx host",
    "copy": "old server", "switch": "new VM", "back": "old server",
}  # fmt: skip


@when("a server that it needs loses its power during each step of the plan, and each time the operator starts again")
def _power_lost_during_each_step(lab: Lab, operator: Operator, before: Picture) -> None:
    del before
    for step in FORWARD:
        assert _power_lost_at(lab, operator, NEEDED[step], step, line=3), f"{step} has no third line in the journal"
        operator.does(step)


@when(parsers.parse("the {server} loses its power at every point of the {step}, and each time the operator starts again"))
def _power_lost_at_every_point(lab: Lab, operator: Operator, server: str, step: str) -> None:
    cuts = 0
    for line in range(1, MOST_DEATHS):
        if not _power_lost_at(lab, operator, server, step, line):
            assert operator.error is None, f"after {cuts} cuts, with the power on: {operator.error}"
            break
        cuts += 1
    else:
        raise AssertionError(f"{step} did not end after {MOST_DEATHS} starts")
    assert cuts, f"{step} has no journaled point at which the power could go"


def _power_lost_at(lab: Lab, operator: Operator, server: str, step: str, line: int) -> bool:
    """Cut a server's power at a line of the journal; False where the step had ended before that line."""
    guests = lab.site.guests
    machine = lab.machines[{"old server": guests.old, "new VM": guests.new, "Nginx host": guests.nginx}[server].vmid]
    was = picture(lab)
    cut = PowerCut(machine, line, ports=[QDRANT_PORT])
    operator.prepare = cut.prepare
    try:
        operator.tries(step)
    finally:
        cut.wait()
        operator.prepare = lambda run: None
    code = operator.error.exit_code if operator.error is not None else 0
    assert code in {0, 1, 3, 4}, f"{step}, cut at line {line}: {operator.error}"
    if code == 1:
        assert (left := _changed(was, lab)) == [], f"{operator.error} Nothing was changed, it says, but: {left}"
    tried(POWER, cut.happened)
    return cut.happened


def _changed(was: Picture, lab: Lab) -> list[str]:
    """What differs, once what was started with the machine is as far as it was."""

    def same() -> bool | Not:
        left = differences(was, picture(lab))
        return Not("; ".join(left)) if left else True

    try:
        wait_until(same, deadline=10, what="The site being as it was", every=0.2)
    except TimedOut as late:
        return [late.sentence]
    return []


def _run_and_die(
    lab: Lab, operator: Operator, verb: str, line: int, *, before: bool, act: str = ""
) -> subprocess.CompletedProcess[str]:
    words = [verb, "--site", str(lab.site_file), "--state-dir", str(lab.state_dir)]
    words += [word for name in operator.agrees_to for word in ("--agree", name)]
    words += ["--at", str(line), *(["--before"] if before else []), *(["--act", act] if act else [])]
    return forkserver.carried_out("lab.crash", *words, env={**os.environ, **lab.env}, cwd=ROOT, timeout=180)


@then(parsers.parse("the {step} is complete"))
def _step_is_complete(lab: Lab, operator: Operator, step: str) -> None:
    ended = picture(lab)
    operator.does(step)
    assert differences(ended, picture(lab)) == [], f"{step} still had something to do"


@then("nothing was done twice")
def _nothing_done_twice(lab: Lab) -> None:
    now = picture(lab)
    backups = [name for name in now["firewall"]["backups"] if str(lab.site.guests.old.vmid) in name]
    assert len(backups) <= 1, backups
    assert len(now["docker"]["stacks"]) == len(set(now["docker"]["stacks"]))
    assert str(lab.site.proxmox.scratch_vmid) not in now["guests"], "the scratch guest was left behind"


@then("applications still find every record")
def _applications_find_every_record(lab: Lab, before: Picture) -> None:
    found = records(lab, lab.site.qdrant.public_url)
    assert [one for one in differences(before["old"], found) if ".snapshots: " not in one] == []
    # Of a snapshot during which the operator's computer died nobody knows whose it is: it may be left, and then it is named.
    named = " ".join(entry.what for entry in Journal(lab.state_dir, lab.site.name).entries() if entry.act == NAMED)
    left = [name for what in found.values() if isinstance(what, dict) for name in what["snapshots"]]
    assert [name for name in left if name not in named] == []


@pytest.fixture
def other_operator(lab: Lab) -> Iterator[Journal]:
    """Someone who holds the journal."""
    journal = Journal(lab.state_dir, lab.site.name)
    journal.lock()
    yield journal
    journal.unlock()


@given("an operator is at work on the site")
def _operator_at_work(other_operator: Journal) -> None:
    assert other_operator.path.exists()


@when(parsers.parse("a second operator starts the {step}"))
def _second_operator(operator: Operator, step: str) -> None:
    operator.tries(step)


# -- lost answers ---------------------------------------------------------------------------------


@given("the answer to the backup request gets lost on its way")
def _answer_lost(lab: Lab) -> None:
    assert lab.pve is not None
    lab.pve.cut("POST", "/vzdump", after=True)


@when("the operator makes the backup until it succeeds")
def _backup_until_it_succeeds(operator: Operator) -> None:
    for _ in range(3):
        operator.tries("backup")
        if operator.error is None:
            return
    raise AssertionError(f"the backup never succeeded: {operator.error}")


@when("the operator makes the backup")
def _makes_the_backup(operator: Operator) -> None:
    operator.tries("backup")


@then("there is exactly one backup of the old server")
def _exactly_one_backup(lab: Lab) -> None:
    backups = [name for name in picture(lab)["firewall"]["backups"] if f"-{lab.site.guests.old.vmid}-" in name]
    assert len(backups) == 1, backups


@then("the tool says what it found, or that the outcome is unknown")
def _says_what_it_found(operator: Operator) -> None:
    assert operator.error is None or operator.error.exit_code == 4, operator.error


# -- the journal ----------------------------------------------------------------------------------


@then("every change in the journal has an outcome")
def _every_change_has_an_outcome(lab: Lab) -> None:
    entries = Journal(lab.state_dir, lab.site.name).entries()
    assert [e for e in entries if e.kind == "intent"], "nothing was journaled"
    assert events.open_intents(entries) == []


@then("the journal has the cores and the memory that were there before")
def _journal_has_the_old_sizes(lab: Lab) -> None:
    old: dict[str, Any] = {}
    for entry in Journal(lab.state_dir, lab.site.name).entries():
        if entry.kind == "intent" and isinstance(entry.before, dict):
            old |= entry.before
    sizes = lab.site.resize.before
    known = str(sizes.cores) in str(old) and str(sizes.memory_mb) in str(old)
    assert known, f"of what was there before, the journal has only {old}"


@given("a journal with a line that cannot be read")
def _damaged_journal(lab: Lab, before: Picture) -> None:
    del before
    journal = Journal(lab.state_dir, lab.site.name)
    journal.note("test", "A line")
    journal.unlock()
    lines = journal.path.read_text().splitlines()
    journal.path.write_text("\n".join([lines[0], "{not a line", *lines[1:]]) + "\n")


# -- all the way back -----------------------------------------------------------------------------


@when("the operator takes back every step")
def _takes_back_every_step(operator: Operator) -> None:
    for verb in ("copy", "gate", "deploy", "resize"):
        assert verb in NAMES
        operator.does(verb, undo=True)


@then("the site is as it began, except for the disk that cannot shrink and the backup that is kept")
def _as_it_began(lab: Lab, before: Picture) -> None:
    kept = ("guests.1001.config.scsi0", "guests.952.snapshots", "firewall.backups", "docker.volumes", "flags")
    left = [d for d in differences(before, picture(lab)) if not d.startswith(kept)]
    assert left == []


@given("the image of the stack cannot be had")
def _image_cannot_be_had(lab: Lab, before: Picture) -> None:
    del before
    lab.knobs(registry_down=True)
