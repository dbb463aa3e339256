"""Every fact that can be looked at on the live site, as evidence for the acceptance report. Only runs with ``--target live``.

These are the same checks as ``cutover check`` asks. Which of them can be asked depends on where the move is; one that is only
asked later is left out with that reason, and one that was asked before needs no answer any more.
"""

from __future__ import annotations

from typing import Any

import pytest

from acceptance.criteria import CRITERIA
from cutover.checks import registry
from cutover.checks.registry import Check, Moment
from cutover.core.errors import CutoverError
from cutover.core.ui import SilentUi
from cutover.report.model import Evidence
from cutover.state import status as state

_ORDER = [Moment.BEFORE, Moment.AT_SWITCH, Moment.AFTER, Moment.BEFORE_DELETING]
_MOMENT_OF = {"planned": Moment.BEFORE, "copying": Moment.AT_SWITCH, "ready": Moment.AT_SWITCH, "moving": Moment.AT_SWITCH,
              "watching": Moment.AFTER, "finished": Moment.BEFORE_DELETING, "unknown": Moment.BEFORE}  # fmt: skip


_MOMENTS: dict[str, Moment] = {}


def _moment(site: Any) -> Moment:
    """The moment that fits where the move is; looked at once."""
    if site.site.name not in _MOMENTS:
        _MOMENTS[site.site.name] = _look(site)
    return _MOMENTS[site.site.name]


def _look(site: Any) -> Moment:
    run = site.run(ui=SilentUi())
    try:
        return _MOMENT_OF[state.status(run).state]
    except CutoverError:
        return Moment.BEFORE
    finally:
        run.close()


_FACTS = [
    pytest.param(one, id=one.title, marks=[getattr(pytest.mark, one.criterion), pytest.mark.fact])
    for one in registry.registered()
    if one.criterion in CRITERIA
]


@pytest.fixture(scope="session")
def moment(request: pytest.FixtureRequest) -> Moment | None:
    asked = request.config.getoption("--moment")
    return Moment(asked) if asked else None


@pytest.mark.parametrize("one", _FACTS)
def test_fact(one: Check, lab: Any, moment: Moment | None, evidence: Evidence) -> None:
    now = moment or _moment(lab)
    evidence.name = one.title
    if now not in one.moments:
        later = [m for m in _ORDER if m in one.moments and _ORDER.index(m) > _ORDER.index(now)]
        evidence.criterion = evidence.criterion if later else ""
        pytest.skip(f"is only asked {_WORDS[later[0]]}" if later else "was only asked before")
    run = lab.run(ui=SilentUi())
    try:
        finding = registry.ask(one, run)
    finally:
        run.close()
    evidence.sentence = finding.sentence
    if finding.ok is None:
        evidence.outcome, evidence.reason = "unclear", finding.hint
        pytest.skip(finding.sentence)
    evidence.reason = finding.hint
    assert finding.ok, finding.sentence


_WORDS = {Moment.BEFORE: "before the move", Moment.AT_SWITCH: "at the switch", Moment.AFTER: "after the move",
          Moment.BEFORE_DELETING: "before the old servers are deleted"}  # fmt: skip
