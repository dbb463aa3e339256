"""The acceptance report: what is known of every criterion of the plan, where it was last shown, and why not where it was not.

A criterion is **met**, **not met** or **not shown**, separately for each place (the live site, the lab in containers, the
embedded lab). *Not shown* is an answer of its own and never counts as met. A report is made of runs; the latest run in which a
criterion was really asked speaks for its place, and no place speaks for another: what the lab showed never hides what the live
site showed. A waiver (``waivers.yaml`` beside ``site.yaml``) says who accepts a gap, why and until when; the verdict stays.

Everything in this module decides and writes text; nothing is contacted. The pages are made by :mod:`cutover.report.html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

from cutover import __version__
from cutover.core.errors import WrongUsage
from cutover.core.text import counted, listed

FORMAT = 1
Verdict = Literal["met", "not met", "not shown"]
Outcome = Literal["passed", "failed", "skipped", "unclear"]
Place = Literal["live", "container lab", "embedded lab"]

#: From the one that counts most. What a place shows is only ever shown beside the others.
PLACES: tuple[Place, ...] = ("live", "container lab", "embedded lab")

#: Why a scenario was left out on the live site: nothing may be broken there, or changing was not allowed.
ONLY_LAB = "can only be shown in the lab, because something has to be broken for it"
NOT_ALLOWED = "changes things, and --allow-changes was not given"

#: Why a scenario was left out on containers: nothing in it is of Docker, and its faults are made in processes.
NOT_ON_CONTAINERS = "is shown on the embedded ground; containers would add nothing to it"

#: Why a scenario was left out of a lab's run: it repeats at every point what others of its rule show at some.
OF_THE_NIGHT = "it is carried out every night, with --thorough"

#: Criteria that a look at the site can show. The others speak of something that has to happen.
BY_LOOKING = frozenset({"A1", "A2", "A3", "A4", "A5", "A6", "A7", "B1", "B2", "B4", "C1", "C3", "D1", "D2", "D3"})


@dataclass(frozen=True)
class Criterion:
    """A criterion as the report lists it."""

    id: str
    chapter: str
    sentence: str
    of_plan: bool = False


@dataclass
class Evidence:
    """One scenario, or one fact that was looked at, and what came of it.

    ``outcome`` *unclear*: it was asked and could not be answered. ``sentence`` is the step that failed, ``reason`` why it failed
    or was left out. Times in seconds.
    """

    criterion: str
    name: str
    outcome: Outcome = "skipped"
    kind: Literal["scenario", "fact"] = "scenario"
    sentence: str = ""
    reason: str = ""
    steps: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Run:
    """One run: where, of what, when, by whom, and everything that it saw. Times are UTC, RFC 3339."""

    place: Place
    site: str
    commit: str
    image: str = ""
    started: str = ""
    ended: str = ""
    by: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    moves: list[dict[str, Any]] = field(default_factory=list)

    def of(self, criterion: str) -> list[Evidence]:
        """Its evidence of one criterion."""
        return [e for e in self.evidence if e.criterion == criterion]

    def asked(self, criterion: str) -> bool:
        """Whether anything of a criterion was really tried, so that this run knows something new."""
        return any(e.outcome != "skipped" for e in self.of(criterion))


@dataclass(frozen=True)
class Waiver:
    """Somebody accepts that a criterion is not met or not shown, for a reason and until the end of a day (UTC)."""

    criterion: str
    reason: str
    until: date
    by: str = ""

    def holds(self, today: date) -> bool:
        """Whether it has not run out."""
        return today <= self.until

    def as_json(self) -> dict[str, Any]:
        """For ``acceptance.json``."""
        return asdict(self) | {"until": self.until.isoformat()}


@dataclass(frozen=True)
class Shown:
    """What one place says of one criterion; ``at`` and ``commit`` are those of the run that speaks for it."""

    verdict: Verdict
    reason: str
    at: str = ""
    commit: str = ""
    site: str = ""


@dataclass(frozen=True)
class Row:
    """Everything about one criterion."""

    criterion: Criterion
    verdict: Verdict
    reason: str
    where: Place | None
    places: Mapping[Place, Shown]
    evidence: Mapping[Place, Sequence[Evidence]]
    waiver: Waiver | None = None
    waived: bool = False


# -- deciding ---------------------------------------------------------------------------------------------------------
def judge(place: Place, criterion: str, evidence: Sequence[Evidence]) -> tuple[Verdict, str]:
    """What the evidence of one run says of one criterion, with the reason. Pure.

    In a lab everything can be shown, so one scenario that was left out leaves the criterion open - but not one that takes
    long, of which others show a part, nor, on containers, one to which containers would add nothing. On the live site what
    can only be shown in a lab is left out on purpose; and a criterion that a look can show is not left open by examples that
    would change something.
    """
    if not evidence:
        return "not shown", "no scenario of it ran"
    for one in evidence:
        if one.outcome == "failed":
            return "not met", _said(one)
    for one in evidence:
        if one.outcome == "unclear":
            return "not shown", _said(one)
    passed = [e for e in evidence if e.outcome == "passed"]
    left_out = [e for e in evidence if e.outcome == "skipped"]
    if place == "live":
        looked = criterion in BY_LOOKING
        rest = [e for e in left_out if e.reason != ONLY_LAB and not (looked and e.reason == NOT_ALLOWED)]
        if passed and not rest and (looked or any(e.kind == "scenario" for e in passed)):
            return "met", _counted(passed, left_out)
        if passed and not rest:
            return (
                "not shown",
                f"{passed[0].sentence or passed[0].name} But that was only looked at; it has to happen to be shown",
            )
        left_out = rest or left_out
    of_the_night = [e for e in left_out if passed and e.reason == OF_THE_NIGHT]
    left_out = [e for e in left_out if e not in of_the_night]
    if place == "container lab" and passed:
        left_out = [e for e in left_out if e.reason != NOT_ON_CONTAINERS]
    if left_out:
        one = next((e for e in left_out if e.reason != ONLY_LAB), left_out[0])
        return "not shown", f"{one.name}: {one.reason or 'it was left out'}"
    return "met", _counted(passed, of_the_night)


def _said(one: Evidence) -> str:
    words = " – ".join(text.strip().rstrip(".") for text in (one.sentence, one.reason) if text)
    return f"{one.name.rstrip('.')}: {words}." if one.kind == "scenario" else f"{words or one.name}."


def _counted(passed: Sequence[Evidence], left_out: Sequence[Evidence]) -> str:
    facts = [e for e in passed if e.kind == "fact"]
    scenarios = len(passed) - len(facts)
    words = [e.sentence or e.name for e in facts]
    if scenarios:
        words.append(f"{counted(scenarios, 'example')} shown.")
    night = sum(e.reason == OF_THE_NIGHT for e in left_out)
    if night:
        words.append(f"{counted(night, 'example')} left for the night.")
    if len(left_out) > night:
        words.append(f"{counted(len(left_out) - night, 'example')} not carried out here.")
    return " ".join(words)


def rows(
    criteria: Iterable[Criterion], runs: Sequence[Run], waivers: Iterable[Waiver] = (), today: date | None = None
) -> list[Row]:
    """One row per criterion, from every run. Pure but for the default of ``today``."""
    day = today or datetime.now(UTC).date()
    waived = {w.criterion: w for w in waivers}
    return [_row(criterion, runs, waived.get(criterion.id), day) for criterion in criteria]


def _row(criterion: Criterion, runs: Sequence[Run], waiver: Waiver | None, today: date) -> Row:
    places: dict[Place, Shown] = {}
    evidence: dict[Place, Sequence[Evidence]] = {}
    for place in PLACES:
        here = sorted((r for r in runs if r.place == place), key=lambda r: r.started)
        if not here:
            continue
        speaks = next((r for r in reversed(here) if r.asked(criterion.id)), None)
        # A criterion that was never asked here: the newest run that at least knows why.
        chosen = speaks or next((r for r in reversed(here) if r.of(criterion.id)), here[-1])
        verdict, reason = judge(place, criterion.id, chosen.of(criterion.id))
        known = Shown(verdict, reason, chosen.started, chosen.commit, chosen.site)
        places[place], evidence[place] = known, chosen.of(criterion.id)
    verdict, reason, where = _overall(places, {place: sum(e.outcome == "passed" for e in evidence[place]) for place in places})
    return Row(
        criterion, verdict, reason, where, places, evidence, waiver,
        waived=verdict != "met" and waiver is not None and waiver.holds(today),
    )  # fmt: skip


def _overall(places: Mapping[Place, Shown], passed: Mapping[Place, int]) -> tuple[Verdict, str, Place | None]:
    """Not met anywhere is not met; else met where it counts most; else not shown, as the place says that showed most of it."""
    for wanted in ("not met", "met"):
        for place in PLACES:
            if place in places and places[place].verdict == wanted:
                return places[place].verdict, places[place].reason, place
    closest = max((place for place in PLACES if place in places), key=lambda place: passed[place], default=None)
    return "not shown", places[closest].reason if closest else "there was no run", None


# -- the report -------------------------------------------------------------------------------------------------------
@dataclass
class Report:
    """What the three files say."""

    criteria: Sequence[Criterion]
    runs: list[Run]
    waivers: Sequence[Waiver] = ()
    today: date | None = None

    def rows(self) -> list[Row]:
        """One row per criterion."""
        return rows(self.criteria, self.runs, self.waivers, self.today)

    def headline(self) -> str:
        """The verdict in one sentence."""
        return headline(self.rows())

    def summary(self) -> str:
        """Where what was shown, in one sentence."""
        return summary(self.rows(), self.site)

    @property
    def site(self) -> str:
        """The live site of the newest run; a word for it where there is none."""
        return next((r.site for r in sorted(self.runs, key=lambda r: r.started, reverse=True) if r.place == "live"), "the site")

    def data(self) -> dict[str, Any]:
        """The report for machines; :func:`cutover.report.files.read` makes it again from the runs alone."""
        found = self.rows()
        return {
            "format": FORMAT,
            "tool": f"cutover {__version__}",
            "headline": headline(found),
            "summary": summary(found, self.site),
            "criteria": [_plain(row) for row in found],
            "waivers": [w.as_json() for w in self.waivers],
            "runs": [asdict(run) for run in self.runs],
        }


def headline(found: Sequence[Row]) -> str:
    """What decides: which criteria are not met, which are not shown; accepted gaps are named as such. Pure."""
    unmet = [r.criterion.id for r in found if r.verdict == "not met" and not r.waived]
    open_ = [r.criterion.id for r in found if r.verdict == "not shown" and not r.waived]
    waived = [r.criterion.id for r in found if r.waived]
    accepted = f" {_listed(waived)} {'is' if len(waived) == 1 else 'are'} waived." if waived else ""
    if unmet:
        return f"{_number(len(unmet))} of {len(found)} criteria {_is(unmet)} not met: {_listed(unmet)}.{accepted}"
    if open_:
        return f"Nothing failed; {len(open_)} of {len(found)} criteria {_is(open_)} not shown yet: {_listed(open_)}.{accepted}"
    lab = [r for r in found if r.verdict == "met" and r.where != "live"] if any("live" in r.places for r in found) else []
    only = f", {len(lab)} of them only in a lab" if lab else ""
    return f"All {len(found)} criteria are met{only}." if not waived else f"All other criteria are met{only}.{accepted}"


def _is(of: Sequence[str]) -> str:
    return "is" if len(of) == 1 else "are"


def _number(count: int) -> str:
    return {1: "One", 2: "Two", 3: "Three"}.get(count, str(count))


def _listed(ids: Sequence[str], most: int = 8) -> str:
    return listed([*ids[:most], f"{len(ids) - most} more"] if len(ids) > most else ids)


def summary(found: Sequence[Row], site: str) -> str:
    """How many were shown where; a lab's share is never added to the live site's. Pure."""
    names = {"live": f"on {site}", "container lab": "in the container lab only", "embedded lab": "in the embedded lab only"}
    words = []
    asked = any("live" in r.places for r in found)
    for place in PLACES:
        count = sum(r.verdict == "met" and r.where == place for r in found)
        if count or (place == "live" and asked):
            words.append(f"{count} met {names[place]}")
    unmet = sum(r.verdict == "not met" for r in found)
    open_ = sum(r.verdict == "not shown" for r in found)
    said = ", ".join([*words, f"{unmet} not met", f"{open_} not shown"]) + "."
    return said if asked else f"{said} The live site was not asked."


def _plain(row: Row) -> dict[str, Any]:
    return asdict(row.criterion) | {
        "verdict": row.verdict,
        "reason": row.reason,
        "where": row.where,
        "waived": row.waived,
        "waiver": row.waiver.as_json() if row.waiver else None,
        "places": {place: asdict(shown) for place, shown in row.places.items()},
    }


def merge(reports: Sequence[Report], waivers: Sequence[Waiver] = ()) -> Report:
    """One report of all their runs. The criteria are those of the report with the newest run. Pure.

    Where the reports are of several live sites that is refused: a report is about one.
    """
    runs: list[Run] = []
    for run in (r for report in reports for r in report.runs):
        if run not in runs:
            runs.append(run)
    sites = sorted({r.site for r in runs if r.place == "live"})
    if len(sites) > 1:
        raise WrongUsage(f"These reports are of different sites: {', '.join(sites)}.", "Merge the reports of one site.")
    newest = max(reports, key=lambda report: max((r.started for r in report.runs), default=""))
    known = {w.criterion: w for report in reports for w in report.waivers} | {w.criterion: w for w in waivers}
    return Report(newest.criteria, sorted(runs, key=lambda r: r.started), list(known.values()))


MARK: Mapping[Verdict, str] = {"met": "✔", "not met": "✘", "not shown": "○"}


def said_of_waiver(row: Row, today: date | None = None) -> str:
    """What a reader has to know of a row's waiver; empty where there is none."""
    waiver = row.waiver
    if waiver is None:
        return ""
    who = f" by {waiver.by}" if waiver.by else ""
    if row.verdict == "met":
        return f"Waived until {waiver.until}{who}, which is not needed any more: {waiver.reason}"
    if not waiver.holds(today or datetime.now(UTC).date()):
        return f"The waiver ran out on {waiver.until}: {waiver.reason}"
    return f"Waived until {waiver.until}{who}: {waiver.reason}"
