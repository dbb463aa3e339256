"""Meanwhile: whether vLLM and Portainer answered, all the time, while a step was carried out (criteria D3 and D2).

vLLM shares Nginx with Qdrant, and Portainer shares the new server. While a step may change something, both are asked about once
a second, in the background and read-only. Every answer is a line of ``meanwhile.jsonl`` in the state folder, so what was seen
before the tool was killed is kept. A wrong answer never stops a step: it is said at its end, noted in the journal, and held
against the criterion by the checks.

vLLM is asked through Nginx on a new connection each time, as a new user would come. The restart of the new server, which was
asked for and announced, is a gap that is expected of Portainer and not of vLLM. Not promised: that a failure is seen which is
shorter than the time between two questions.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cutover.core import events, files
from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.core.journal import now, seconds
from cutover.core.text import listed
from cutover.core.write_guard import WriteGuard

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.core.journal import Entry

#: Seconds between two questions, and how long a connection and an answer may take.
EVERY = 1.0
PATIENCE = (3.0, 10.0)
#: How long the end of a step waits for the last answer.
LAST_WORD = 15.0
VLLM, PORTAINER = "vLLM", "Portainer"
#: Acts during which the new server is away, as was announced; it is expected back with its first right answer after them.
_REBOOTS = {events.REBOOTED, "resize.reboot-awaited", "resize.start", "resize.rollback"}


@dataclass(frozen=True)
class Answer:
    """One question and what came of it. ``since`` is when the step began; ``wrong`` is empty where the answer was right."""

    at: str
    step: str
    since: str
    who: str
    ms: int
    wrong: str = ""


# -- asking -----------------------------------------------------------------------------------------------------------
class Neighbour(Protocol):
    """Who is asked. ``ask`` raises with a sentence where the answer is wrong; ``ends``: a step's first or last question."""

    def ask(self, *, ends: bool) -> None: ...


class _Vllm:
    """The models through Nginx, which have to stay the same; one word of an answer at the ends."""

    def __init__(self, context: Context) -> None:
        from cutover.vllm import Vllm

        self._client = Vllm(context.site.vllm, context.credentials, WriteGuard(), timeout=PATIENCE, keep_connection=False)
        self._models: list[str] | None = None

    def ask(self, *, ends: bool) -> None:
        models = self._client.models()
        if self._models is not None and models != self._models:
            raise Unreachable(f"It served {', '.join(self._models)} and serves {', '.join(models)} now.")
        self._models = models
        if ends:
            self._client.complete(tokens=1)


class _Portainer:
    """Its environments, and every stack and container of others that was there when the step began."""

    def __init__(self, context: Context) -> None:
        from cutover.portainer.client import Portainer

        self._client = Portainer(context.site.portainer, context.credentials, WriteGuard(), timeout=PATIENCE)
        self._ours = context.site.portainer.stack
        self._before: Any = None

    def ask(self, *, ends: bool) -> None:
        from cutover.portainer.picture import differences

        del ends
        seen = self._client.glance()
        if self._before is None:
            self._before = seen
        # What comes and goes by itself (somebody's nightly job) is not ours to judge.
        stacks = {name: value for name, value in seen.stacks.items() if name in self._before.stacks}
        containers = {name: value for name, value in seen.containers.items() if name in self._before.containers}
        found = differences(self._before, replace(seen, stacks=stacks, containers=containers), ours=self._ours, restarted=True)
        if found:
            raise Unreachable(" ".join(found))


_WHO: dict[str, Callable[[Context], Neighbour]] = {VLLM: _Vllm, PORTAINER: _Portainer}


@dataclass
class Watch:
    """What was seen during one step; complete when the step is over. ``not_asked``: who could not be asked at all, and why."""

    step: str
    since: str
    answers: list[Answer] = field(default_factory=list)
    not_asked: dict[str, str] = field(default_factory=dict)
    expected: Sequence[Answer] = ()
    trouble: str = ""

    def wrong(self, who: str) -> list[Answer]:
        """Wrong answers that nobody had announced."""
        return [a for a in self.answers if a.who == who and a.wrong and a not in self.expected]

    def said(self) -> list[str]:
        """That all is well, in a sentence; nothing where it is not."""
        counts = {who: self._count(who) for who in _WHO}
        if not all(counts.values()) or any(self.wrong(who) for who in _WHO):
            return []
        asked = {who: f"asked {count} times" if count != 1 else "asked once" for who, count in counts.items()}
        if self.expected:
            asked[PORTAINER] += f", away for at most {_length(self.expected)} with the announced restart"
        return ["Meanwhile " + " and ".join(f"{who} ({how})" for who, how in asked.items()) + " were as before."]

    def warnings(self) -> list[str]:
        """What was wrong, in sentences."""
        wrong = [(who, found) for who in _WHO if (found := self.wrong(who))]
        return [f"{who} did not answer as before throughout this step: {_blame(found, self._count(who))}" for who, found in wrong]

    def gaps(self) -> list[str]:
        """What was not seen, in sentences."""
        found = [f"{who} was not asked meanwhile: {why}" for who, why in self.not_asked.items()]
        return found + ([self.trouble] if self.trouble else [])

    def _count(self, who: str) -> int:
        return sum(a.who == who for a in self.answers)

    def facts(self) -> dict[str, Any]:
        """For machines."""
        return {
            who: {
                "asked": self._count(who),
                "wrong": len(self.wrong(who)),
                "slowest_ms": max((a.ms for a in self.answers if a.who == who), default=None),
            }
            for who in _WHO
        }


@contextmanager
def watching(context: Context, step: str) -> Iterator[Watch]:
    """Ask all the time until the block ends, however it ends; the yielded watch is complete afterwards."""
    context.journal.lock()  # makes the folder
    watch = Watch(step, now())
    over = threading.Event()
    threads = []
    for who, make in _WHO.items():
        try:
            neighbour = make(context)
        except CutoverError as error:
            watch.not_asked[who] = error.sentence
            continue
        threads.append(
            threading.Thread(target=_ask, args=(context, watch, who, neighbour, over), daemon=True, name=f"asks {who}")
        )
    _mend(path_of(context))
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        over.set()
        late = time.monotonic() + LAST_WORD
        for thread in threads:
            thread.join(max(0.0, late - time.monotonic()))
        _conclude(context, watch)


def _ask(context: Context, watch: Watch, who: str, neighbour: Neighbour, over: threading.Event) -> None:
    first = True
    while True:
        last = over.is_set()
        at, began, wrong = now(), time.monotonic(), ""
        try:
            neighbour.ask(ends=first or last)
        except CutoverError as error:
            wrong = error.sentence
        except Exception as error:  # an answer that nobody expected is a wrong one; the step must not notice
            wrong = f"{type(error).__name__}: {error}"
        answer = Answer(
            at, watch.step, watch.since, who, round((time.monotonic() - began) * 1000), context.credentials.redact(wrong)
        )
        watch.answers.append(answer)
        try:
            _write(path_of(context), answer)
        except OSError as error:
            watch.trouble = f"What vLLM and Portainer answered meanwhile could not be written down: {error}."
        if last:
            return
        first = False
        over.wait(EVERY)


def _conclude(context: Context, watch: Watch) -> None:
    """Tell the journal where an answer was wrong. Reads the journal for what was announced."""
    watch.expected = announced(watch.answers, context.journal.entries())
    for who in _WHO:
        if wrong := watch.wrong(who):
            said = f"{who} did not answer as before throughout `{watch.step}`"
            with suppress(CutoverError):  # a full disk is told by the step itself
                context.journal.note(events.NEIGHBOUR_WRONG, said, who=who, wrong=len(wrong), first=vars(wrong[0]))


# -- the record -------------------------------------------------------------------------------------------------------
def path_of(context: Context) -> Path:
    """Where the answers are."""
    return context.state_dir / "meanwhile.jsonl"


def _write(path: Path, answer: Answer) -> None:
    files.append(path, json.dumps({k: v for k, v in vars(answer).items() if v != ""}, ensure_ascii=False) + "\n", sync=False)


def _mend(path: Path) -> None:
    with suppress(OSError):
        files.mend(path)


def load(context: Context) -> list[Answer]:
    """Every answer so far, oldest first. :class:`Refused` where a line inside cannot be read, because silence would hide it."""
    path = path_of(context)
    try:
        *whole, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(whole, start=1):
        try:
            found.append(Answer(**json.loads(line)))
        except (ValueError, TypeError):
            raise Refused(f"{path}:{number}: this line of the record is not readable.", "Restore the file.") from None
    return sorted(found, key=lambda a: a.at)


# -- judging: pure ----------------------------------------------------------------------------------------------------
def announced(answers: Sequence[Answer], entries: Sequence[Entry]) -> list[Answer]:
    """Portainer's wrong answers that belong to a reboot of the new server: from its intent to the first right answer after it."""
    acts = [(seconds(e.at), e.kind) for e in entries if e.act in _REBOOTS and e.kind != "note"]
    found, away, step = [], "", ""
    for answer in sorted((a for a in answers if a.who == PORTAINER), key=lambda a: a.at):
        if answer.since != step and away == "rebooting":
            away = "coming back"  # the tool died in the reboot; the next step looks on
        step = answer.since
        asked, answered = seconds(answer.at), seconds(answer.at) + answer.ms / 1000
        while acts and acts[0][0] <= (answered if answer.wrong else asked):
            away = "rebooting" if acts.pop(0)[1] == "intent" else "coming back"
        if answer.wrong and away:
            found.append(answer)
        elif away == "coming back":
            away = ""
    return found


def _length(gaps: Sequence[Answer]) -> str:
    """How long Portainer was away at most, step by step: as long as no right answer came, and the second before that."""
    away = 0.0
    for step in {a.since for a in gaps}:
        gap = [a for a in gaps if a.since == step]
        away += seconds(gap[-1].at) + gap[-1].ms / 1000 - seconds(gap[0].at) + EVERY
    return f"{math.ceil(away)} s"


def _clock(at: str) -> str:
    """To the second; UTC, as everywhere."""
    return f"{at[:19]}Z"


def _blame(wrong: Sequence[Answer], asked: int) -> str:
    many = f"{len(wrong)} of {asked} answers were wrong" if len(wrong) > 1 else f"1 of {asked} answers was wrong"
    first = wrong[0]
    last = f", the last at {_clock(wrong[-1].at)}" if len(wrong) > 1 else ""
    return f"{many}, the first at {_clock(first.at)} in `{first.step}`{last}: {first.wrong}"


@dataclass(frozen=True)
class Judgement:
    """Of one neighbour over the whole move. ``ok`` None: not enough was asked."""

    ok: bool | None
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


def judge(who: str, answers: Sequence[Answer], entries: Sequence[Entry]) -> Judgement:
    """Whether ``who`` answered right all the time in the steps that the journal names."""
    mine = [a for a in answers if a.who == who]
    gap = announced(mine, entries)
    wrong = [a for a in mine if a.wrong and a not in gap]
    facts: dict[str, Any] = {"asked": len(mine), "wrong": len(wrong), "announced": len(gap)}
    if wrong:
        return Judgement(False, f"{who} did not answer as before throughout: {_blame(wrong, len(mine))}", facts)
    moved = events.probed(entries)
    if not moved:
        return Judgement(None, f"No step was carried out yet during which {who} could be asked.", facts)
    if silent := [f"`{step}`" for step in moved if not any(a.step == step for a in mine)]:
        return Judgement(None, f"Nobody asked {who} during {listed(silent)}, so it is not known whether it answered.", facts)
    slowest = max(a.ms for a in mine if not a.wrong)
    but = f" It was away for at most {_length(gap)} with the announced restart of its server." if gap else ""
    said = (
        f"{who} was asked {len(mine)} times between {_clock(mine[0].at)} and {_clock(mine[-1].at)}, during "
        f"{listed(list(dict.fromkeys(f'`{a.step}`' for a in mine)))}; every answer was right, the slowest took {slowest} ms.{but}"
    )
    return Judgement(True, said, {**facts, "slowest_ms": slowest})
