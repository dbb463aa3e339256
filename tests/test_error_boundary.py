"""The one place where every error of a verb ends: what is said about what was changed is true, and nothing is a traceback."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutover.context import Context
from cutover.core import events
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused, Unreachable, WritesRefused, WrongUsage
from cutover.core.http import fields
from cutover.core.journal import Journal
from cutover.core.ui import SilentUi
from cutover.core.write_guard import WriteGuard
from cutover.error_boundary import error_boundary
from cutover.replication import hold
from cutover.site.load import load
from lab.lab import ROOT

SITE = load(ROOT / "site.yaml")


@pytest.fixture
def run(tmp_path: Path) -> Context:
    return Context(SITE, Credentials.from_env({"QDRANT_API_KEY": "hush-hush"}), tmp_path, execute=True)


def ended(run: Context, error: Exception, *, changed: str = "") -> CutoverError:
    run.guard.changed = changed
    with pytest.raises(CutoverError) as found, error_boundary(run):
        raise error
    return found.value


@pytest.mark.parametrize("error", [Refused("No."), Unreachable("Gone."), WrongUsage("Wrong key."), WritesRefused("Closed.")])
def test_nothing_was_changed_is_only_said_where_nothing_was(run: Context, error: CutoverError) -> None:
    assert ended(run, error) is error
    later = ended(run, error, changed="PUT https://pve/config")
    assert isinstance(later, Failed) and later.exit_code == 3
    assert later.sentence == error.sentence and "PUT https://pve/config" in later.hint and "again" in later.hint


@pytest.mark.parametrize("error", [Failed("Half."), OutcomeUnknown("Who knows.")])
def test_what_is_true_already_stays_as_it_is(run: Context, error: CutoverError) -> None:
    assert ended(run, error, changed="x") is error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("pid"), "it lacks 'pid'"),
        (TypeError("list indices must be integers"), "another shape"),
        (AttributeError("'NoneType' object has no attribute 'get'"), "another shape"),
        (RecursionError(), "nested too deeply"),
    ],
)
def test_what_nobody_expected_is_a_sentence_and_its_story_is_kept(run: Context, error: Exception, said: str) -> None:
    run.guard.hears("GET https://pve/agent/exec", "pve")
    found = ended(run, error)
    assert said in found.sentence and "GET https://pve/agent/exec" in found.sentence and found.exit_code == 1
    assert "NoneType" not in str(found) and "Error" not in str(found)
    kept = run.state_dir / "crash.log"
    assert type(error).__name__ in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
    assert ended(run, error, changed="x").exit_code == 3


def test_where_two_are_asked_at_once_both_are_named(run: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([1.0, 5.0, 5.3])
    monkeypatch.setattr("cutover.core.write_guard.time.monotonic", lambda: next(now))
    for server in ("pve", "old", "new"):
        run.guard.hears(f"GET https://{server}/collections", server)
    found = ended(run, TypeError("list indices must be integers"))
    assert "Unexpected response to GET https://new/collections or GET https://old/collections: it" in found.sentence


def test_nobody_is_told_that_nothing_was_changed_while_writes_may_still_be_held(run: Context) -> None:
    """And nobody that they are, once the hold was ended."""

    class Gate:
        holding, there = True, False

        def release(self) -> None:
            if not self.there:
                raise Unreachable("There is no shell.")
            self.holding = False

    stage: Any = SimpleNamespace(guard=WriteGuard(Journal(run.state_dir, "home")), gate=Gate(), ui=SilentUi())
    run.__dict__.update(guard=stage.guard, gate=stage.gate)
    hold.release(stage, "switch")
    held = ended(run, Refused("No."))
    assert held.exit_code == 3 and "writes may still be held" in held.hint
    stage.gate.there = True
    hold.release(stage, "switch")
    assert ended(run, Refused("No.")).exit_code == 1


def test_the_kept_story_holds_no_secret(run: Context) -> None:
    ended(run, KeyError("hush-hush"))
    assert "hush-hush" not in (run.state_dir / "crash.log").read_text()


def test_a_file_that_cannot_be_written_is_named(run: Context) -> None:
    found = ended(run, OSError(errno.ENOSPC, "No space left on device", "/state/follow.json"))
    assert "/state/follow.json cannot be read or written: no space left on device" in found.sentence


def test_who_stops_reading_is_not_told_about_it(run: Context) -> None:
    with pytest.raises(BrokenPipeError), error_boundary(run):
        raise BrokenPipeError


def test_a_passing_act_changes_nothing_that_stays(run: Context) -> None:
    with run.guard.act("switch.hold", "Hold writes", passing=True):
        run.guard.happened("set the flag hold")
    assert run.guard.changed == ""
    with run.guard.act("switch.hold", "Hold writes", passing=True), run.guard.act("copy.recover", "Recover"):
        run.guard.happened("PUT recover")
    assert run.guard.changed == "PUT recover"


@pytest.mark.parametrize("error", [OutcomeUnknown("The answer was lost."), Failed("It failed.")])
def test_a_journal_that_cannot_be_written_does_not_hide_what_happened(
    run: Context, error: CutoverError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: object) -> None:
        raise Refused("The journal cannot be written.")

    with pytest.raises(type(error)) as found, run.guard.act("x", "X"):
        for name in ("failed", "unknown"):
            monkeypatch.setattr(Journal, name, full)
        raise error
    assert found.value is error
    assert len(events.open_intents(Journal(run.state_dir, SITE.name).entries())) == 1


def test_what_was_taken_back_was_not_changed(run: Context) -> None:
    with pytest.raises(Refused), error_boundary(run), run.guard.act("gate.install", "Put the gate in"):
        run.guard.happened("write qdrant.conf")
        run.guard.taken_back()
        raise Refused("It does not work; everything was put back.")
    with run.guard.act("copy.recover", "Recover"):
        run.guard.happened("PUT recover")
    with pytest.raises(Failed), error_boundary(run), run.guard.act("gate.install", "Put the gate in"):
        run.guard.happened("write qdrant.conf")
        run.guard.taken_back()
        raise Refused("It does not work; everything was put back.")


def test_a_field_that_an_answer_lacks_is_missed_in_words() -> None:
    told = fields({"data": [{"vmid": 952}]}, "Proxmox, asked GET cluster/resources,")
    assert told == {"data": [{"vmid": 952}]} and told["data"][0]["vmid"] == 952 and told.get("other") is None
    with pytest.raises(
        Unreachable, match=r"^Proxmox, asked GET cluster/resources, did not include 'status' in its response\."
    ) as missed:
        told["data"][0]["status"]
    assert isinstance(missed.value, KeyError)
