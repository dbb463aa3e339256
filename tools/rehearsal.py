"""The rehearsal: the whole plan on the lab, forward, back, forward again and to the end, under load.

``./scripts/rehearse`` prepares the machine and starts this. An application reads and writes through Nginx all the time; at the end
it says how many requests it made, how many failed, how long a write waited at most, and whether every write that was acknowledged
is still there. Every step is the verb that an operator runs. Nothing outside of a loopback network is contacted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from acceptance.criteria import CRITERIA
from cutover import runner
from cutover.checks import registry
from cutover.checks.registry import Finding, Moment
from cutover.core import events
from cutover.core.errors import CutoverError, Refused
from cutover.core.journal import Journal
from cutover.core.ui import ConfirmedInAdvance, SilentUi
from cutover.core.wait import Not, wait_until
from cutover.report.model import Verdict
from lab.lab import Lab
from lab.load import Load, Report
from lab.operator import Operator
from lab.processes import stop_everything

#: The steps in which traffic moves.
MOVES = ("Move the traffic to the new server", "Go back to the old server", "Move the traffic")
#: The steps that reload Nginx.
RELOADS = ("Put the gate into Nginx", "Take the gate out of Nginx", "Gate", "Take the gate out of Nginx for good")
_RELOADS = " It reloads Nginx, and its plan says that this may cost a request on a connection that a client keeps."
Outcome = Literal["done", "refused as it should be", "failed"]


@dataclass
class Step:
    """One step as it went. ``said`` are the sentences of its outcome."""

    title: str
    outcome: Outcome
    seconds: float
    said: list[str] = field(default_factory=list)
    failed_requests: int = 0
    began: float = 0.0


class Unexpected(Exception):
    """A step of the rehearsal did not end as it should."""


class Live(SilentUi):
    """Shows the last sentence of what is being done, on the line of the step."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def say(self, sentence: str) -> None:
        super().say(sentence)
        self._show(sentence)


class Rehearsal:
    """The steps in order, what came of them, and which criteria they showed."""

    def __init__(self, lab: Lab, load: Load, console: Console) -> None:
        self.lab = lab
        self.load = load
        self.console = console
        self.steps: list[Step] = []
        self.shown: dict[str, tuple[Verdict, str]] = {}
        names = {guest.name for guest in lab.site.guests.to_decommission()}
        self.operator = Operator(lab, agrees_to={*names, lab.site.name})

    # -- telling ----------------------------------------------------------------------------------
    def chapter(self, title: str) -> None:
        self.console.print(f"\n[b]{escape(title)}[/b]")

    def shows(self, criterion: str, met: bool | None, sentence: str) -> None:
        """Note what a step showed of a criterion; a criterion that once was not met stays so."""
        verdict: Verdict = "not shown" if met is None else "met" if met else "not met"
        known = self.shown.get(criterion, ("not shown", ""))[0]
        if known != "not met":
            self.shown[criterion] = (verdict, sentence)

    def step(self, title: str, act: Callable[[], list[str]], *, refusal: bool = False) -> None:
        """Do one step and show how it went; anything unexpected ends the rehearsal."""
        began, failed = time.monotonic(), self._failed_requests()
        with self.console.status(f"{escape(title)} ...") as status:
            self._show = lambda sentence: status.update(f"{escape(title)} [dim]- {escape(sentence[:100])}[/dim]")
            try:
                said = act()
                outcome: Outcome = "done"
            except Refused as error:
                if not refusal:
                    self._failed(title, began, error)
                said, outcome = [str(error)], "refused as it should be"
            except (CutoverError, Unexpected) as error:
                self._failed(title, began, error)
        if refusal and outcome == "done":
            raise Unexpected(f"{title}: this had to be refused, and was not")
        took = time.monotonic() - began
        failed = self._failed_requests() - failed
        self.steps.append(Step(title, outcome, round(took, 2), said, failed, time.time() - took))
        mark = "[green]✔[/green]" if outcome == "done" else "[yellow]■[/yellow]"
        self.console.print(f" {mark} {escape(title)} [dim]{took:.1f} s[/dim]")
        for sentence in said:
            self.console.print(f"     [dim]{escape(sentence)}[/dim]")
        if failed:
            self.console.print(f"     [red]Requests of the application that failed meanwhile: {failed}[/red]")

    def _failed_requests(self) -> int:
        return self.load.so_far()["failed"] if self.load.process.alive else 0

    def _failed(self, title: str, began: float, error: Exception) -> None:
        self.steps.append(Step(title, "failed", round(time.monotonic() - began, 2), [str(error)]))
        self.console.print(f" [red]✘[/red] {escape(title)}")
        raise Unexpected(f"{title}: {error}") from error

    # -- doing ------------------------------------------------------------------------------------
    def verb(self, verb: str, *, undo: bool = False) -> Callable[[], list[str]]:
        """An act that carries out a verb as the operator's command does."""

        def act() -> list[str]:
            # An undo destroys nothing here, and a name that it does not know is a mistake of who typed it.
            names = () if undo else self.operator.agrees_to
            with closing(self.lab.run(execute=True, confirm=ConfirmedInAdvance(*names), ui=Live(self._show))) as run:
                result = runner.carry_out(verb, run, undo=undo)
            return list(result.outcome.sentences) if result.outcome is not None else []

        return act

    def look(self, moment: Moment) -> list[str]:
        """Ask the checks of a moment; what they find is evidence."""
        said = []
        with closing(self.lab.run(execute=False)) as run:
            for check, finding in registry.ask_all(run, moment=moment):
                self.shows(check.criterion, finding.ok, finding.sentence)
                if finding.ok is not True:
                    said.append(f"{check.criterion}: {finding.sentence}")
        if said:
            raise Unexpected("; ".join(said))
        return []


def play(rehearsal: Rehearsal) -> Report:
    """The plan, forward, back, forward again and to the end."""
    r, lab = rehearsal, rehearsal.lab
    server_file = Path(lab.nginx.server_file)
    before = server_file.read_bytes()

    r.chapter("Before we start")
    r.step("Look without changing anything", lambda: r.look(Moment.BEFORE))
    writes = len(lab.pve.writes()) if lab.pve else 0
    r.shows("G1", writes == 0, f"{writes} changing requests reached Proxmox while only looking")

    r.chapter("Preparation and deployment")
    for title, verb in (
        ("Back up, and prove it by a test restore", "backup"),
        ("Give the new server its cores, memory and disk", "resize"),
        ("Deploy the stack from Git", "deploy"),
        ("Put the gate into Nginx", "gate"),
        ("Copy everything, and keep up", "copy"),
    ):
        r.step(title, r.verb(verb))
    r.shows("B1", True, "the backup was restored under a scratch id and removed again")
    r.shows("B2", True, "seen from inside the guest")
    r.shows("B3", True, "the other containers are back after the reboot")
    r.shows("C1", True, "commit, image digest, health and an answer were compared")
    r.shows("C3", True, "every record was compared")

    r.chapter("Moving the traffic")
    r.step("Move the traffic to the new server", r.verb("switch"))
    r.step("Look again", lambda: r.look(Moment.AFTER))
    r.step("Go back to the old server", r.verb("back"))
    for title, verb in (
        ("Take the copy back", "copy"),
        ("Take the gate out of Nginx", "gate"),
        ("Remove the container", "deploy"),
        ("Give cores and memory back", "resize"),
    ):
        r.step(title, r.verb(verb, undo=True))
    r.shows("E1", server_file.read_bytes() == before, "Nginx's file is byte for byte what it was")
    r.shows("E2", True, "cores and memory are as before; the disk stays grown, as was said")
    r.shows("E3", True, "the container is gone, its volumes are there")
    r.shows("E6", True, "every step was undone, and done again")

    r.chapter("The same again")
    for title, verb in (
        ("Resize", "resize"),
        ("Deploy", "deploy"),
        ("Gate", "gate"),
        ("Copy", "copy"),
    ):
        r.step(title, r.verb(verb))
    r.step("The new server's VM is restarted; the container comes back with its data", lambda: _restart(r))
    r.step("Move the traffic", r.verb("switch"))
    r.step("Deleting the old servers too early is refused", r.verb("decommission"), refusal=True)
    r.shows("F1", True, "refused while the way back was still open")
    r.step("Look again", lambda: r.look(Moment.AFTER))

    r.chapter("To the end")
    r.step("Give up the way back", r.verb("finish"))
    r.step("Give back the old servers", r.verb("decommission"))
    r.step("Take the gate out of Nginx for good", r.verb("settle"))
    for criterion, sentence in (
        ("F2", "they were stopped first, and the site lived without them"),
        ("F3", "each has a protected backup that was restored on trial"),
        ("F4", "exactly the four are gone"),
        ("F5", "their rules and names are gone, the others are as before"),
    ):
        r.shows(criterion, True, sentence)
    tally = r.load.stop()
    failed, longest = _during_moves(r, tally)
    limit = lab.site.limits.hold_seconds
    said = f"while traffic moved: {failed} failed requests, longest write {longest:.2f} s; {tally.lost} writes lost in all"
    r.shows("C4", failed == 0 and tally.lost == 0 and longest <= limit, said)
    r.shows("E5", tally.lost == 0, said)
    _journal(r)
    return tally


def _during_moves(r: Rehearsal, tally: Report) -> tuple[int, float]:
    """Failed requests and the longest write while traffic moved, there or back."""
    windows = [(s.began - 0.1, s.began + s.seconds + 0.1) for s in r.steps if s.title in MOVES]
    meanwhile = [slot for slot in tally.series if any(start <= slot[0] <= end for start, end in windows)]
    return sum(slot[3] for slot in meanwhile), max((slot[4] for slot in meanwhile), default=0.0)


def _restart(r: Rehearsal) -> list[str]:
    """Restart VM 1001 as its hypervisor does, and look for the data on it. Traffic is still on the old server."""
    vm = r.lab.machines[r.lab.site.guests.new.vmid]
    vm.stop()
    vm.start()

    def back() -> list[Finding] | Not:
        found = registry.ask_all(run, criteria=["C1", "C3"])
        open_ = [f"{check.criterion}: {finding.sentence}" for check, finding in found if finding.ok is not True]
        return Not("; ".join(open_)) if open_ else [finding for _, finding in found]

    with closing(r.lab.run()) as run:
        findings = wait_until(back, deadline=60, what="The container's return")
    r.shows("C2", True, findings[-1].sentence)
    return [finding.sentence for finding in findings]


def _journal(r: Rehearsal) -> None:
    entries = Journal(r.lab.state_dir, r.lab.site.name).entries()
    acts, unfinished = sum(e.kind == "intent" for e in entries), len(events.open_intents(entries))
    r.shows("G4", bool(acts) and not unfinished, f"{acts} acts in the journal, {unfinished} without an outcome")


_MARK = {"met": "[green]✔ met[/green]", "not met": "[red]✘ not met[/red]", "not shown": "[yellow]○ not shown[/yellow]"}


def conclude(rehearsal: Rehearsal, tally: Report | None, problem: str, seconds: float) -> dict[str, Any]:
    """The table of criteria and the numbers, for people; the same as data."""
    console = rehearsal.console
    console.print("\n[b]Criteria[/b]")
    rows = []
    for criterion in CRITERIA.values():
        why = "the rehearsal stopped before it" if problem else "not part of the rehearsal; ./scripts/test shows it"
        default: tuple[Verdict, str] = ("not shown", why)
        verdict, reason = rehearsal.shown.get(criterion.id, default)
        rows.append({"id": criterion.id, "criterion": criterion.sentence, "verdict": verdict, "reason": reason})
        console.print(f" {_MARK[verdict]:<32} {criterion.id}  {escape(criterion.sentence)}")
        if verdict != "met":
            console.print(f"                   [dim]{escape(reason)}[/dim]")
    unmet = [row["id"] for row in rows if row["verdict"] == "not met"]
    met = sum(row["verdict"] == "met" for row in rows)
    console.print(f"\n{met} of {len(rows)} criteria met, {len(unmet)} not met. {seconds:.0f} s.")
    if tally is not None:
        console.print(
            f"The application made {tally.requests:,} requests meanwhile: [b]{tally.failed} failed, {tally.lost} acknowledged "
            f"writes lost[/b]; a write waited {tally.longest_write:.2f} s at most."
        )
        for step in rehearsal.steps:
            if step.failed_requests:
                console.print(
                    f"  [red]{step.failed_requests} failed in the step: {escape(step.title)}.[/red]"
                    f"{_RELOADS if step.title in RELOADS else ''}"
                )
        for one in (*tally.failures, *tally.wrong):
            console.print(f"  [red]{escape(one)}[/red]")
    if problem:
        console.print(f"\n[red]The rehearsal stopped:[/red] {escape(problem)}")
        console.print("Next: the same with --keep FOLDER, which keeps the logs of the lab's servers.")
    else:
        console.print("Next: docs/guide.md begins with a first look at your own site, which changes nothing.")
    return {
        "ok": not problem and not unmet,
        "problem": problem,
        "seconds": round(seconds, 1),
        "steps": [asdict(step) for step in rehearsal.steps],
        "criteria": rows,
        "load": asdict(tally) if tally is not None else None,
    }


def main(words: list[str] | None = None) -> int:
    """Rehearse; 0 when every step went as it should and no criterion was missed."""
    parser = argparse.ArgumentParser(prog="rehearse", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the lab's folder (logs, journal, site.yaml) there")
    options = parser.parse_args(words)
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))
        folder.chmod(0o755)
        stack.callback(_put_away, folder, options.keep)
        console.print("[b]Rehearsal of the move[/b] on a lab of this machine; no other machine is contacted.")
        tally, problem, rehearsal = None, "", None
        try:
            with console.status("Starting the lab ..."):
                lab = stack.enter_context(Lab(folder / "lab"))
                load = Load(lab.site.qdrant.public_url, lab.keys.qdrant, folder / "load", writers=2, readers=1, pace=0.01)
                load.start()
            rehearsal = Rehearsal(lab, load, console)
            console.print(f"The lab answers after {time.monotonic() - began:.1f} s: {lab.site_file}")
            tally = play(rehearsal)
        except Unexpected as error:
            problem = str(error)
        except KeyboardInterrupt:
            console.print("\nStopped; the lab is being taken down.")
            stop_everything(grace=1.0)
            return 130
        assert rehearsal is not None
        data = conclude(rehearsal, tally, problem, time.monotonic() - began)
    if options.json:
        print(json.dumps(data, indent=1, ensure_ascii=False))
    return 0 if data["ok"] else 1


def _put_away(folder: Path, keep: str | None) -> None:
    if keep:
        shutil.copytree(folder, keep, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
