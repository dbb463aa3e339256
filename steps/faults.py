"""The fault matrix: every call of every step, broken in every way, and what the tool says, leaves and does next.

Nothing here is a list of calls. A step is carried out once through the wires (:mod:`steps.lab.wires`), which write down the calls that
it makes; then it is carried out again for each of them and each fault, with exactly that call broken. A new call is in the matrix by
the day it is made. What every cell must show is :func:`judge`.

``python -m steps.faults`` runs it and writes ``docs/faults.md``.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from cutover import repository
from cutover.console import plain
from cutover.http import DoorAdapter
from steps.lab.wired import WiredLab, keep
from steps.lab.wires import AFTER, FAULTS, Broken, Call, kinds
from steps.lab.world import Picture, differences, picture
from steps.operator import Operator

#: What is true by the exit code.
CODES = {0: "done", 1: "refused, nothing changed", 3: "changed, run it again", 4: "outcome unknown"}
#: Faults after which nobody can know whether a write happened.
MAY_BE_UNKNOWN = {"reset", "lost", "hang", "500", "502", *AFTER}
#: No answer is waited for longer than this where one hangs; the slowest honest answer of the lab takes a third of it.
HANG_SECONDS = 3.0
#: In the lab nothing is larger; the real bound only keeps the tool alive.
MOST_BYTES = 8 << 20


@dataclass(frozen=True)
class Step:
    """A step of the plan as the matrix carries it out: ``verb`` or its undo, and how the site gets back to before it."""

    verb: str
    undo: bool = False

    @property
    def name(self) -> str:
        """As people call it."""
        return f"undo {self.verb}" if self.undo else self.verb


#: In the order of an evening; each is broken where it stands, and then carried out unbroken.
EVENING = (
    Step("backup"), Step("resize"), Step("deploy"), Step("gate"), Step("copy"), Step("switch"), Step("follow"), Step("back"),
    Step("copy", undo=True), Step("gate", undo=True), Step("deploy", undo=True), Step("resize", undo=True),
)  # fmt: skip
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
    met: bool = True
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Learned:
    """What a step does unbroken: its calls in order, and the site after it."""

    calls: list[Call]
    after: Picture


# -- which cells ------------------------------------------------------------------------------------


def cells(step: Step, calls: Sequence[Call], faults: Iterable[str] = FAULTS) -> Iterator[Cell]:
    """Every kind of call with every fault that it can have. A call that is made often is broken from its first time on, or from its
    last: turn by turn, so that every kind and every fault meets both."""
    late = cycle([True, False])
    for call in kinds(calls):
        times = [at for at, made in enumerate(calls) if made == call]
        for fault in faults:
            if "certificate" in fault and call.server not in {"Proxmox", "Portainer"}:
                continue
            if fault == "expired certificate" and call.server == "Portainer":
                continue  # a pinned certificate is the one that was pinned, whatever its date
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
    before = DoorAdapter.longest, DoorAdapter.most, repository.GIT_SECONDS
    DoorAdapter.most = MOST_BYTES
    if fault == "hang":
        DoorAdapter.longest, repository.GIT_SECONDS = HANG_SECONDS, HANG_SECONDS
    try:
        yield
    finally:
        DoorAdapter.longest, DoorAdapter.most, repository.GIT_SECONDS = before


class Matrix:
    """Carries out cells in one lab."""

    def __init__(self, lab: WiredLab) -> None:
        self.lab = lab
        self.operator = Operator(lab)
        self.learned: dict[Step, Learned] = {}
        self._back: Callable[[], None] | None = None
        self._secrets = [v for k, v in lab.env.items() if k not in {"PROXMOX_TOKEN_ID", "DNS_TSIG_NAME"}]

    def do(self, step: Step) -> None:
        """Carry a step out unbroken."""
        self.lab.wires.forget()
        self.operator.does(step.verb, undo=step.undo)

    def arrive(self, step: Step) -> Learned:
        """The site stands before ``step``: learn what it does, and be before it again."""
        self._back = keep(self.lab)
        before = picture(self.lab)
        self.do(step)
        self.learned[step] = Learned(list(self.lab.wires.seen), picture(self.lab))
        self.rewind(step, before)
        return self.learned[step]

    def leave(self, step: Step) -> list[str]:
        """Carry the step out at last, on the site that was refused so often: what is left of that, a sentence each."""
        self.lab.wires.forget()
        self.operator.tries(step.verb, undo=step.undo)
        if self.operator.error is not None:
            return [f"after all that was refused, it does not work any more: {self.operator.error}"]
        return _same(self.learned[step].after, picture(self.lab))

    def rewind(self, step: Step, before: Picture) -> None:
        """Back to before the step, whatever came of it."""
        self.lab.wires.forget()
        if step in OPPOSITE:
            ours = {"qdrant_storage", "qdrant_snapshots"} if step == Step("deploy") else set()
            Operator(self.lab, agrees_to=ours).does(OPPOSITE[step].verb, undo=OPPOSITE[step].undo)
        assert self._back is not None
        self._back()
        left = differences(before, picture(self.lab))
        assert not left, f"the stage of {step.name} is not as it was: {left}"

    def show(self, cell: Cell) -> Shown:
        """Break one call, look, mend it, and go on."""
        began = time.monotonic()
        shown = Shown(cell)
        before = picture(self.lab)
        broken = Broken(cell.call, cell.fault, cell.nth, cell.after)
        self.lab.wires.arm(broken)
        try:
            with impatient(cell.fault):
                self.operator.tries(cell.step.verb, undo=cell.step.undo)
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
        shown.met = bool(broken.hits or broken.since)
        self.lab.wires.mend()
        after = picture(self.lab)
        changed = differences(before, after)
        shown.wrong += judge(shown, changed, self._secrets)
        if changed or shown.code != 1:
            shown.wrong += self._goes_on(cell, shown, after)
            self.rewind(cell.step, before)
        shown.seconds = time.monotonic() - began
        return shown

    def _goes_on(self, cell: Cell, shown: Shown, after: Picture) -> list[str]:
        """With the fault gone the same command completes, and the site is as after an unbroken run."""
        wanted = self.learned[cell.step].after
        if shown.code == 0:
            left = _same(wanted, after)
            if left:
                return [f"it said that it was done, but {left}"]
        self.operator.tries(cell.step.verb, undo=cell.step.undo)
        if self.operator.error is not None:
            return [f"it does not go on when the fault is gone: {self.operator.error}"]
        left = _same(wanted, picture(self.lab))
        return [f"afterwards the site is not as after an unbroken run: {left}"] if left else []


def _same(wanted: Picture, found: Picture) -> list[str]:
    """What differs, apart from names that carry a time or chance."""
    return differences(_timeless(wanted), _timeless(found))[:5]


def _timeless(picture_: Picture) -> Picture:
    firewall = {
        **picture_["firewall"],
        "backups": [re.sub(r"\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d", "TIME", b) for b in picture_["firewall"]["backups"]],
    }
    return {**picture_, "firewall": firewall}


def judge(shown: Shown, changed: Sequence[str], secrets: Iterable[str] = ()) -> list[str]:
    """What is not true of what was said, given what changed in the world. Pure."""
    wrong: list[str] = []
    code, said, cell = shown.code, shown.sentence, shown.cell
    if code == -1:
        return wrong
    if code not in CODES:
        wrong.append(f"exit code {code}")
    if code == 1 and changed:
        wrong.append(f"exit code 1 says that nothing was changed, but {list(changed)[:3]}; said: {said}")
    if code == 4 and (cell.fault not in MAY_BE_UNKNOWN or not shown.met):
        wrong.append(f"exit code 4, but nothing was unknown; said: {said}")
    if code != 0:
        if re.search(r"<(html|head|body|center|h1)", said, re.IGNORECASE):
            wrong.append(f"it shows HTML: {said[:200]}")
        if re.search(r"Traceback|object at 0x|HTTPConnection|urllib3|requests\.|<class|\bNone\b|Error\(|line \d+ column", said):
            wrong.append(f"it shows the inside of a program: {said[:300]}")
        if any(secret in said for secret in secrets):
            wrong.append("it shows a secret")
        if len(plain(said)) > 900:
            wrong.append(f"its sentence has {len(said)} characters")
        if not re.search(r"[A-Za-z]{3,} [a-z]{2,}", said):
            wrong.append(f"it is no sentence: {said!r}")
        if not _names(said, cell):
            wrong.append(f"it does not name what failed ({cell.call}): {said}")
    return wrong


_CALLED = {
    "the old server": ("old server", ".152:6333"), "the new server": ("new server", ".101:6333"),
    "Qdrant through Nginx": ("Nginx", ".111:6333", "gate"), "vLLM": ("vLLM", ".181:8000"), "Git": ("Git", ".170:8418", "repository"),
    "Proxmox": ("Proxmox", ".172:8006", "/nodes/", "cluster/", "nodes/", "access/", "VM ", "LXC "),
    "Portainer": ("Portainer", ".171:9443", "stack", "container"),
}  # fmt: skip


def _names(said: str, cell: Cell) -> bool:
    """Whether a sentence says who it was."""
    return any(name.lower() in said.lower() for name in _CALLED[cell.call.server])
