"""The fault matrix: every call of every step, broken in every way, and what the tool says, leaves and does next.

Nothing here is a list of calls. A step is carried out once through the wires (:mod:`lab.faults.proxy`), which write down the calls that
it makes; then it is carried out again for each of them and each fault, with exactly that call broken. A new call is in the matrix by
the day it is made. What every cell must show is :func:`judge`.

``python -m tools.faults`` runs it and writes ``docs/faults.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, cycle
from multiprocessing import get_context
from pathlib import Path
from queue import Empty, Queue

import requests
from pydantic import TypeAdapter, ValidationError

from acceptance.counters import BROKEN, tried
from cutover.checks import registry
from cutover.checks.registry import Moment
from cutover.core.errors import Refused
from cutover.core.http import GuardedAdapter
from cutover.core.shell import Shell
from cutover.core.text import plain
from cutover.core.wait import Not, wait_until
from cutover.dns import asking
from cutover.portainer import git
from lab.faults.lab import WiredLab, keep
from lab.faults.proxy import (  # fmt: skip
    AFTER,
    DNS_AFTER,
    DNS_FAULTS,
    EVERY_FAULT,
    FAULTS,
    MOST_HITS,
    MOST_SECONDS,
    SERVER_FAULTS,
    SHELL_AFTER,
    SHELL_FAULTS,
    Broken,
    Call,
    kinds,
)
from lab.lab import ROOT, new_folder
from lab.operator import Operator
from lab.state_snapshot import Picture, differences, picture

#: What is true by the exit code.
CODES = {0: "done", 1: "refused, nothing changed", 3: "changed, run it again", 4: "outcome unknown"}
#: Not one of them: the lab could not be brought back to where it was.
DID_NOT_COME_BACK = -2
#: Faults after which nobody can know whether a write happened.
MAY_BE_UNKNOWN = {
    "reset", "lost", "hang", "500", "502", "rcode SERVFAIL", *AFTER, *DNS_AFTER, *SHELL_AFTER, *SERVER_FAULTS,
}  # fmt: skip
#: No answer is waited for longer than this where one hangs; the slowest answer of the lab that is in order takes a third of it.
HANG_SECONDS = 3.0
#: In the lab nothing is larger; the real bound only keeps the tool alive.
MOST_BYTES = 8 << 20


@dataclass(frozen=True)
class Step:
    """A step of the plan as the matrix carries it out: ``verb`` or its undo; ``check C1`` asks the checks of a criterion."""

    verb: str
    undo: bool = False
    moment: Moment = Moment.BEFORE

    @property
    def name(self) -> str:
        """As people call it."""
        return f"undo {self.verb}" if self.undo else self.verb


#: In the order of an evening; each is broken where it stands, and then carried out unbroken.
EVENING = (
    Step("check D3"), Step("check E1"), Step("check F5", moment=Moment.BEFORE_DELETING),
    Step("backup"), Step("resize"), Step("deploy"), Step("gate"), Step("copy"), Step("switch"), Step("follow"), Step("back"),
    Step("copy", undo=True), Step("gate", undo=True), Step("deploy", undo=True), Step("resize", undo=True),
)  # fmt: skip
#: The evening of those who do not come back. Its first four steps only lead there; the others have no way back.
LAST = (Step("deploy"), Step("gate"), Step("copy"), Step("switch"), Step("finish"), Step("settle"), Step("decommission"))
NO_WAY_BACK = LAST[4:]
#: How the site gets back to before a step, where the step has a way back.
OPPOSITE = {
    Step("deploy"): Step("deploy", undo=True), Step("gate"): Step("gate", undo=True), Step("copy"): Step("copy", undo=True),
    Step("switch"): Step("back"), Step("back"): Step("switch"), Step("resize"): Step("resize", undo=True),
}  # fmt: skip
OPPOSITE |= {back: step for step, back in OPPOSITE.items()}


@dataclass(frozen=True)
class Cell:
    """One call of one step, and one fault; ``nth`` is the time (of that call) from which on it is broken."""

    step: Step
    call: Call
    fault: str
    nth: int
    after: int

    def __str__(self) -> str:
        return f"{self.step.name} / {self.call} (from number {self.nth}) / {self.fault}"


@dataclass
class Shown:
    """What a cell showed. ``wrong``: what should not be so, a sentence each."""

    cell: Cell
    code: int = 0
    sentence: str = ""
    #: What was said beside "done": what could not be seen, for example.
    warned: str = ""
    met: bool = True
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Learned:
    """What a step does unbroken: its calls in order, and the site after it."""

    calls: list[Call]
    after: Picture


# -- which cells ------------------------------------------------------------------------------------


def faults_of(call: Call) -> Iterable[str]:
    """What can go wrong with a call, by the language that its server speaks."""
    if call.server == "the name server":
        return DNS_FAULTS
    if call.server == "the Nginx host":
        return SHELL_FAULTS
    if call.server == "Portainer":  # a pinned certificate is the one that was pinned, whatever its date
        return [fault for fault in FAULTS if fault != "expired certificate"]
    if call.server == "Proxmox":
        return FAULTS
    without = [fault for fault in FAULTS if "certificate" not in fault]
    return [*without, *SERVER_FAULTS] if call.server in {"the old server", "the new server"} else without


def cells(step: Step, calls: Sequence[Call]) -> Iterator[Cell]:
    """Every kind of call with every fault that it can have. A call that is made often is broken from its first time on, or from its
    last: turn by turn, so that every kind and every fault meets both."""
    late = cycle([True, False])
    for call in kinds(calls):
        times = [at for at, made in enumerate(calls) if made == call]
        for fault in faults_of(call):
            nth = len(times) if next(late) else 1
            same = [made for made in calls[: times[nth - 1]] if made.server == call.server]
            yield Cell(step, call, fault, nth, len(same))


def covering(every: Iterable[Cell]) -> list[Cell]:
    """A choice in which every server meets every fault once, at reads and at writes, and every kind of call is broken once."""
    chosen: list[Cell] = []
    met: set[tuple[str, bool, str]] = set()
    broken: set[Call] = set()
    rest = list(every)
    for cell in rest:
        key = (cell.call.server, cell.call.reads, cell.fault)
        if key not in met and cell.call not in broken:
            met.add(key)
            broken.add(cell.call)
            chosen.append(cell)
    for cell in rest:
        key = (cell.call.server, cell.call.reads, cell.fault)
        if key not in met:
            met.add(key)
            chosen.append(cell)
    return chosen


# -- one cell ---------------------------------------------------------------------------------------


@contextmanager
def impatient(fault: str) -> Iterator[None]:
    """Do not wait for what hangs as long as a person would; and call large what is large for the lab."""
    before = GuardedAdapter.longest, GuardedAdapter.most, Shell.longest, git.GIT_SECONDS, asking.ANSWER_SECONDS
    GuardedAdapter.most = MOST_BYTES
    if fault == "hang":
        GuardedAdapter.longest = Shell.longest = git.GIT_SECONDS = asking.ANSWER_SECONDS = HANG_SECONDS
    try:
        yield
    finally:
        GuardedAdapter.longest, GuardedAdapter.most, Shell.longest, git.GIT_SECONDS, asking.ANSWER_SECONDS = before


class Matrix:
    """Carries out cells in one lab."""

    def __init__(self, lab: WiredLab) -> None:
        self.lab = lab
        self.operator = Operator(lab)
        guests = lab.site.guests.to_decommission()
        #: What is typed by who gives everything up on purpose.
        self.names = {lab.site.name, *(guest.name for guest in guests)}
        self.learned: dict[Step, Learned] = {}
        #: Everything that was said since the cell began.
        self.told: list[str] = []
        self._back: Callable[[], None] | None = None
        self._credentials = [v for k, v in lab.env.items() if k not in {"PROXMOX_TOKEN_ID", "DNS_TSIG_NAME"}]

    def tries(self, step: Step) -> None:
        """Carry a step out; what goes wrong is kept in the operator's ``error``."""
        self.operator.agrees_to = self.names if step in NO_WAY_BACK else set()
        if step.verb.startswith("check "):
            with closing(self.operator.run(execute=False)) as run:
                found = [f for _, f in registry.ask_all(run, moment=step.moment, criteria=step.verb.split()[1:])]
            unmet = next((f for f in found if f.ok is not True), None)
            self.operator.error = None if unmet is None else Refused(unmet.sentence, unmet.hint)
        else:
            self.operator.tries(step.verb, undo=step.undo)
            self.told += self.operator.said

    def do(self, step: Step) -> None:
        """Carry a step out unbroken."""
        self.lab.wires.forget()
        self.tries(step)
        assert self.operator.error is None, f"{step.name}: {self.operator.error}"

    def arrive(self, step: Step) -> Learned:
        """The site stands before ``step``: learn what it does, and be before it again."""
        self._back = keep(self.lab, whole=step in NO_WAY_BACK)
        before = picture(self.lab)
        self.do(step)
        self.learned[step] = Learned(list(self.lab.wires.seen), picture(self.lab))
        self.rewind(step, before)
        return self.learned[step]

    def leave(self, step: Step) -> list[str]:
        """Carry the step out at last, on the site that was refused so often: what is left of that, a sentence each."""
        self.lab.wires.forget()
        self.tries(step)
        if self.operator.error is not None:
            return [f"after all that was refused, it does not work any more: {self.operator.error}"]
        return _same(self.learned[step].after, picture(self.lab))

    def rewind(self, step: Step, before: Picture) -> None:
        """Back to before the step, whatever came of it."""
        self.lab.wires.forget()
        if step in OPPOSITE:
            ours = {"qdrant_storage", "qdrant_snapshots"} if step == Step("deploy") else set()
            operator = Operator(self.lab, agrees_to=ours)
            operator.does(OPPOSITE[step].verb, undo=OPPOSITE[step].undo)
            self.told += operator.said
            left = self._not_named(differences(before, picture(self.lab)))
            assert not any(".snapshots: " in one for one in left), f"the way back of {step.name} leaves snapshots: {left}"
        assert self._back is not None
        self._back()
        left = differences(before, picture(self.lab))
        assert not left, f"the stage of {step.name} is not as it was: {left}"

    def show(self, cell: Cell) -> Shown:
        """Break one call, look, mend it, and go on."""
        began = time.monotonic()
        shown = Shown(cell)
        self.told.clear()
        before = picture(self.lab)
        broken = Broken(cell.call, cell.fault, cell.nth, cell.after)
        self.lab.wires.arm(broken)
        try:
            with impatient(cell.fault):
                self.tries(cell.step)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            shown.code, shown.sentence = -1, f"{type(error).__name__}: {error}"
            shown.wrong.append(
                f"a traceback: {type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {error}"[:300]
            )
        else:
            error_ = self.operator.error
            shown.code = 0 if error_ is None else error_.exit_code
            shown.sentence = "" if error_ is None else str(error_)
            outcome = self.operator.result.outcome if self.operator.result is not None else None
            shown.warned = " ".join(outcome.warnings) if outcome is not None and error_ is None else ""
        shown.met = bool(broken.hits or broken.since)
        tried(BROKEN, shown.met)
        self.lab.wires.mend()
        after = self._picture()
        changed = differences(before, after)
        shown.wrong += judge(shown, changed, self._credentials)
        if changed or shown.code != 1:
            shown.wrong += self._goes_on(cell, shown, after)
            self.rewind(cell.step, before)
        shown.seconds = time.monotonic() - began
        return shown

    def _picture(self) -> Picture:
        """What there is, once a reboot that was begun and not waited for is over."""

        def seen() -> Picture | Not:
            try:
                return picture(self.lab)
            except requests.ConnectionError as error:
                return Not(str(error))

        return wait_until(seen, deadline=30, what="A picture of the site", every=0.5)

    def _goes_on(self, cell: Cell, shown: Shown, after: Picture) -> list[str]:
        """With the fault gone the same command completes, and the site is as after an unbroken run."""
        wanted = self.learned[cell.step].after
        if shown.code == 0:
            left = _same(wanted, after)
            if left and shown.warned and _names(shown.warned, cell):
                return []  # it said what it could not see, and left that
            if left:
                return [f"it said that it was done, but {left}"]
        self.tries(cell.step)
        if self.operator.error is not None:
            return [f"it does not go on when the fault is gone: {self.operator.error}"]
        left = self._not_named(_same(wanted, picture(self.lab)))
        return [f"afterwards the site is not as after an unbroken run: {left}"] if left else []

    def _not_named(self, left: Sequence[str]) -> list[str]:
        """Without the snapshots of which the tool said by name that they may be another's."""
        named = " ".join(said for said in self.told if "they can be deleted" in said)

        def all_named(difference: str) -> bool:
            names = re.findall(r"[\w-]+\.snapshot\b", difference.partition(": ")[2])
            return ".snapshots: " in difference and bool(names) and all(name in named for name in names)

        return [difference for difference in left if not all_named(difference)]


def _same(wanted: Picture, found: Picture) -> list[str]:
    """What differs, apart from names that carry a time or chance."""
    return differences(_timeless(wanted), _timeless(found))[:5]


def _timeless(picture_: Picture) -> Picture:
    firewall = {
        **picture_["firewall"],
        "backups": [re.sub(r"\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d", "TIME", b) for b in picture_["firewall"]["backups"]],
    }
    return {**picture_, "firewall": firewall}


def judge(shown: Shown, changed: Sequence[str], credentials: Iterable[str] = ()) -> list[str]:
    """What is not true of what was said, given what changed in the world. Pure."""
    wrong: list[str] = []
    code, said, cell = shown.code, shown.sentence, shown.cell
    if code == -1:
        return wrong
    if code not in CODES:
        wrong.append(f"exit code {code}")
    if code == 1 and changed:
        wrong.append(f"exit code 1 says that nothing was changed, but {list(changed)[:3]}; said: {said}")
    # A shell is one long connection: whoever loses it does not know what became of the last command.
    unknown = MAY_BE_UNKNOWN | ({"refused", "not there"} if cell.call.server == "the Nginx host" else set())
    if code == 4 and (cell.fault not in unknown or not shown.met):
        wrong.append(f"exit code 4, but nothing was unknown; said: {said}")
    if code != 0:
        if re.search(r"<(html|head|body|center|h1)", said, re.IGNORECASE):
            wrong.append(f"it shows HTML: {said[:200]}")
        if re.search(r"Traceback|object at 0x|HTTPConnection|urllib3|requests\.|<class|\bNone\b|Error\(|line \d+ column", said):
            wrong.append(f"it shows the inside of a program: {said[:300]}")
        if any(secret in said for secret in credentials):
            wrong.append("it shows a secret")
        if len(plain(said)) > 900:
            wrong.append(f"its sentence has {len(said)} characters")
        if not re.search(r"[A-Za-z]{3,} [a-z]{2,}", said):
            wrong.append(f"it is no sentence: {said!r}")
        if not _names(said, cell):
            wrong.append(f"it does not name what failed ({cell.call}): {said}")
    return wrong


_CALLED = {
    "the old server": ("old server", ".152:6333"), "the new server": ("new server", ".101:6333", "container"),
    "Qdrant through Nginx": ("Nginx", ".111:6333", "gate"), "vLLM": ("vLLM", ".181:8000"), "Git": ("Git", ".170:8418", "repository"),
    "Proxmox": ("Proxmox", ".172:8006", "/nodes/", "cluster/", "nodes/", "access/", "VM ", "LXC "),
    "Portainer": ("Portainer", ".171:9443", "stack", "container"),
    "the name server": ("name server", ".173"), "the Nginx host": ("Nginx",),
}  # fmt: skip


def _names(said: str, cell: Cell) -> bool:
    """Whether a sentence says who it was."""
    return any(name.lower() in said.lower() for name in _CALLED[cell.call.server])


# -- the whole of it ----------------------------------------------------------------------------------

_REFUSALS = ("401", "403", "404", "409", "429", "exit code 1")
#: Faults that are much alike, by what they mean to whoever asked.
FAMILIES: dict[str, tuple[str, ...]] = {
    "no connection": ("refused", "not there", "expired certificate", "another's certificate"),
    "no": (*_REFUSALS, "rcode REFUSED", "rcode NOTAUTH", "TSIG BADKEY", "TSIG BADSIG", "TSIG BADTIME"),
    "a server's error": ("500", "502", "rcode SERVFAIL", "failed afterwards"),
    "no answer": ("reset", "lost", "hang"),
    "half an answer": ("half a body", "wrong type", "huge"),
    "the server itself": ("slow", *SERVER_FAULTS),
    "a lie": ("null", "other shape", "empty", "deep", "escapes", "unsigned", "bad signature", "garbage"),
}


def family(fault: str) -> str:
    """What sort of fault it is."""
    return next(name for name, faults in FAMILIES.items() if fault in faults)


@dataclass
class Quick:
    """A choice for every day, over several steps: each server is met at a read, early and late, after something was changed; each
    family of faults is met at a read and at a write; and no fault is left out. Early ones first, because most end early.
    """

    met: set[tuple[str, str, str]] = field(default_factory=set)
    faults: set[str] = field(default_factory=set)

    def choose(self, every: Iterable[Cell]) -> list[Cell]:
        """What is still to be met, of these."""
        chosen: list[Cell] = []
        # What only few servers can have comes first, or another fault of its family takes its place.
        rest = sorted(every, key=lambda cell: (cell.nth > 1, "certificate" not in cell.fault, EVERY_FAULT.index(cell.fault)))
        for cell in chain((c for c in rest if c.fault not in self.faults), rest):
            kind = ("late read" if cell.nth > 1 else "read") if cell.call.reads else "write"
            keys = {("any", kind, family(cell.fault))} if kind != "late read" else set()
            keys |= {(cell.call.server, kind, "any")} if cell.call.reads else set()
            if cell.fault not in self.faults or keys - self.met:
                self.met |= keys
                self.faults.add(cell.fault)
                chosen.append(cell)
        return chosen


Choose = Callable[[Step, list[Cell]], Iterable[Cell]]


def carry_out(lab: WiredLab, choose: Choose, say: Callable[[Shown], None], steps: Sequence[Step]) -> list[str]:
    """An evening, as far as the last of ``steps`` (all of one evening), which are broken in the chosen ways before they are carried
    out. Answers what is wrong at the end of a step.
    """
    matrix, wrong = Matrix(lab), []
    evening = EVENING if set(steps) <= set(EVENING) else LAST
    for step in evening[: 1 + max(evening.index(step) for step in steps)]:
        if step not in steps:
            matrix.do(step)
            continue
        every = [cell for cell in cells(step, matrix.arrive(step).calls) if lab.wires.can(cell.call.server, cell.fault)]
        for cell in choose(step, every):
            say(matrix.show(cell))
        wrong += [f"{step.name}: {said}" for said in matrix.leave(step)]
    return wrong


def table(shown: Sequence[Shown], every: Sequence[Cell]) -> str:
    """The result for people: a row a fault, with what the tool said of it. ``every``: the cells that there are."""
    met = [one for one in shown if one.met]
    lines = [
        "# What the tool says when something breaks",
        "",
        "Generated by `python -m tools.faults`; do not edit.",
        "",
        "Each step of the plan was carried out on a lab whose servers stand behind wires, which learned its calls; then again with",
        f"exactly one call broken, for {MOST_SECONDS:g} seconds or {MOST_HITS} times, from its first time on or from its last. Each time",
        "it was looked whether the exit code is true of the servers as they then were, whether a sentence says who and why, and whether",
        "with the fault gone the same command completes and leaves the site as an unbroken run does. A server that was killed is away",
        "for every call until it has started again; a disk that is full or read-only is so until the end, and the latter until its host",
        "has been started again.",
        "",
        *_counts(shown, every),
        "",
        "| fault | cells | ended with | an example of what is said |",
        "|---|---:|---|---|",
    ]
    for fault in EVERY_FAULT:
        mine = [one for one in met if one.cell.fault == fault]
        if mine:
            example = next((one for one in mine if one.sentence and not one.wrong), mine[0])
            said = (
                f"`{example.cell.step.name}`, {example.cell.call.server}: {_neutral(example.sentence)}"
                if example.sentence
                else "goes on by itself"
            )
            lines.append(f"| {fault} | {len(mine)} | {_codes(mine)} | {said} |")
    lines += ["", "| server | calls | cells | ended with |", "|---|---:|---:|---|"]
    for server in dict.fromkeys(one.cell.call.server for one in met):
        mine = [one for one in met if one.cell.call.server == server]
        lines.append(f"| {server} | {len({one.cell.call for one in mine})} | {len(mine)} | {_codes(mine)} |")
    wrong = [one for one in shown if one.wrong]
    if wrong:
        lines += ["", "## Not as it should be", "", *(f"* {one.cell}: {'; '.join(one.wrong)}" for one in wrong)]
    return "\n".join(lines) + "\n"


def _counts(shown: Sequence[Shown], every: Sequence[Cell]) -> list[str]:
    met = [one for one in shown if one.met]
    kinds_, steps = len({(cell.step, cell.call) for cell in every}), len({cell.step for cell in every})
    return [
        f"* {kinds_:,} kinds of calls in {steps} steps make {len(every):,} cells. {len(shown):,} were carried out; in {len(met):,} of",
        "  them the call was made, and broken.",
        (
            f"* {sum(one.code == -1 for one in shown)} tracebacks, {sum(bool(one.wrong) for one in shown)} cells in which something "
            "was wrong."
        ),
        f"* Exit codes: {_codes(met)} (0 it went on by itself, 1 refused and nothing changed, 3 run it again, 4 outcome unknown).",
    ]


def _codes(shown: Sequence[Shown]) -> str:
    counted = Counter(one.code for one in shown)
    return ", ".join(f"{counted[code]} x {code}" for code in sorted(counted))


def _neutral(said: str) -> str:
    """A sentence without what differs from run to run, as one cell of a table."""
    for pattern, word in (
        (r"127\.\d+\.0\.", "10.0.0."),
        (r"UPID:[^ )]+", "UPID:..."),
        (r"/tmp/\S+", "..."),
        (r"\b[0-9a-f]{8,64}\b", "..."),
    ):
        said = re.sub(pattern, word, said)
    said = plain(" ".join(said.split())).replace("|", "/")
    return said if len(said) <= 260 else said[:257] + "..."


# -- all of it, by several at once ---------------------------------------------------------------------

#: So many cells share a lab, which costs as much as five of them.
CELLS_A_LAB = 60
_KEPT = TypeAdapter(tuple[str, Shown])


def version() -> str:
    """Of the tool and its lab, as they are in this checkout: what was shown of another one is not shown of this."""
    digest = hashlib.sha256()
    for folder in ("src", "lab", "tools", "nginx"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def kept(file: Path | None) -> list[Shown]:
    """What a file keeps of this version; of a run that was killed the last line may be cut off, and is left out."""
    if file is None or not file.exists():
        return []
    found, this = list[Shown](), version()
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValidationError):
            of, shown = _KEPT.validate_json(line)
            if of == this and shown.code != DID_NOT_COME_BACK:
                found.append(shown)
    return found


def planned(folder: Path, steps: Sequence[Step]) -> list[Cell]:
    """Every cell of these steps, from evenings in which nothing is broken: those that meet every fault and every call come
    first, then writes, then reads that meet another family of faults.
    """
    first: list[Cell] = []
    rest: list[Cell] = []

    def choose(_: Step, every: list[Cell]) -> list[Cell]:
        chosen = covering(every)
        first.extend(chosen)
        rest.extend(cell for cell in every if cell not in set(chosen))
        return []

    for evening in (EVENING, NO_WAY_BACK):
        if mine := [step for step in evening if step in steps]:
            with WiredLab(new_folder(folder), seed=folder / "seed") as lab:
                wrong = carry_out(lab, choose, lambda _: None, mine)
            assert not wrong, wrong
    met: set[tuple[Step, Call, str]] = set()
    groups: tuple[list[Cell], ...] = (first, [], [], [])
    for cell in rest:
        key = (cell.step, cell.call, family(cell.fault))
        groups[1 if not cell.call.reads else 3 if key in met else 2].append(cell)
        met.add(key)
    return [cell for group in groups for cell in group]


def break_these(wanted: Sequence[Cell], folder: Path, until: float, say: Callable[[Shown], None]) -> list[str]:
    """Break these cells, all of one step, in labs of our own, as many as come before ``until``. A lab that does not come back to where
    it was is left, and the next cell has another. Answers what was wrong at the end of the step.
    """
    step, left, wrong = wanted[0].step, list(wanted), list[str]()
    under_way: Cell | None = None

    def the_rest(_: Step, __: list[Cell]) -> Iterator[Cell]:
        nonlocal under_way
        while left and time.time() < until:
            under_way = left.pop(0)
            yield under_way
        under_way = None

    while left and time.time() < until:
        failed = ""
        try:
            with WiredLab(new_folder(folder), seed=folder / "seed") as lab:
                wrong += carry_out(lab, the_rest, say, [step])
        except Exception as error:
            failed = f"the lab did not come back: {type(error).__name__}: {error}"[:400]
        if failed and under_way is None:  # not by a cell: another lab would not do better
            return [*wrong, f"{step.name}: {failed}"]
        if failed and under_way is not None:
            say(Shown(under_way, DID_NOT_COME_BACK, wrong=[failed]))
            under_way = None
    return wrong


def break_all(wanted: Sequence[Cell], folder: Path, jobs: int, until: float, say: Callable[[Shown], None]) -> list[str]:
    """The same of any cells, in ``jobs`` processes at once."""
    chunks: list[list[Cell]] = []
    for cell in wanted:
        mine = next((c for c in reversed(chunks) if c[0].step == cell.step), None)
        if mine is None or len(mine) == CELLS_A_LAB:
            chunks.append(mine := [])
        mine.append(cell)
    new = get_context("spawn")
    with new.Manager() as manager:
        tasks, shown, wrong = manager.Queue(), manager.Queue(), manager.list()
        for chunk in chunks:
            tasks.put(chunk)
        workers = [new.Process(target=_work, args=(tasks, shown, wrong, folder, until)) for _ in range(jobs)]
        for worker in workers:
            worker.start()
        try:
            while not (ended := not any(worker.is_alive() for worker in workers)) or not shown.empty():
                with suppress(Empty):
                    say(shown.get(timeout=0 if ended else 1))
        finally:  # also of a signal: each takes its lab down
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join(60)
        return [*wrong, *(f"A process ended with {worker.exitcode}." for worker in workers if worker.exitcode)]


def _work(tasks: Queue[list[Cell]], shown: Queue[Shown], wrong: list[str], folder: Path, until: float) -> None:
    """Take chunks of cells until there are none."""
    end_by_a_signal()
    while True:
        try:
            chunk = tasks.get_nowait()
        except Empty:
            return
        wrong += break_these(chunk, folder, until, shown.put)


def end_by_a_signal() -> None:
    """Let a signal end the process as an error does, so that its lab is taken down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> int:
    """Run the matrix and write the page; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "faults.md")
    parser.add_argument("--quick", action="store_true", help="only the choice of every day")
    parser.add_argument("--covering", action="store_true", help="only so many that in each step every server meets every fault")
    parser.add_argument("--step", action="append", help="only this step (can be repeated), for example: backup, 'undo gate'")
    parser.add_argument("--only", default="", help="only cells with these words, for example: 'the name server: UPDATE', or lost")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no cell after so long")
    parser.add_argument(
        "--jobs", type=int, default=2, help="so many labs at once; they are in each other's way where cores are few"
    )
    parser.add_argument("--keep", type=Path, help="a file that keeps what was shown; what is in it already is not done again")
    options = parser.parse_args()
    end_by_a_signal()
    steps = [step for step in (*EVENING, *NO_WAY_BACK) if not options.step or step.name in options.step]
    until = time.time() + options.minutes * 60
    shown, of = kept(options.keep), version()

    def say(one: Shown) -> None:
        shown.append(one)
        print(f"{'X' if one.wrong else '.'} {one.cell} -> {one.code} ({one.seconds:.1f} s)", *one.wrong, sep="\n    ", flush=True)
        if options.keep:
            with options.keep.open("ab") as file:
                file.write(_KEPT.dump_json((of, one)) + b"\n")

    with tempfile.TemporaryDirectory(prefix="cutover-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        every = planned(folder, steps)
        chosen = [cell for cell in every if options.only in str(cell)]
        if options.quick:
            quick = Quick()
            chosen = [one for step in steps for one in quick.choose([cell for cell in chosen if cell.step == step])]
        if options.covering:
            chosen = [one for step in steps for one in covering(cell for cell in chosen if cell.step == step)]
        there = {(cell.step, cell.call, cell.fault) for cell in every}
        shown = [one for one in shown if (one.cell.step, one.cell.call, one.cell.fault) in there]
        done = {(one.cell.step, one.cell.call, one.cell.fault) for one in shown}
        wanted = [cell for cell in chosen if (cell.step, cell.call, cell.fault) not in done]
        print(f"{len(every)} cells in {len(steps)} steps, {len(chosen)} of them chosen, {len(wanted)} to be done", flush=True)
        wrong = ["The matrix did not come to its end."]
        try:
            wrong = break_all(wanted, folder, options.jobs, until, say)
        finally:  # also of a run that was stopped: what was shown was shown
            options.into.write_text(table(shown, every), encoding="utf-8")
            print(*wrong, f"{len(shown)} cells; written: {options.into}", sep="\n")
    return 1 if wrong or any(one.wrong for one in shown) else 0


if __name__ == "__main__":
    sys.exit(main())
