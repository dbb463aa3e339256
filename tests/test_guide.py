"""The operator's guide says what the tool says: states, commands, keys and exit codes are compared with the code."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cutover.core import errors
from cutover.core.credentials import NAMES
from cutover.phases import registry
from cutover.state.status import YOU_CAN

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
PAGES = [ROOT / "docs" / "guide.md", ROOT / "docs" / "threat-model.md"]
#: Commands that are not a step of the plan.
OTHERS = {"plan", "check", "report", "status", "history", "rights", "keys", "undo", "pin", "init", "stack"}


def test_every_state_is_listed_with_what_can_be_done() -> None:
    rows = re.findall(r"(?m)^\| `([a-z]+)` \| .+ \| (.+) \|$", GUIDE)
    assert {state: cell.replace("`", "") for state, cell in rows} == {s: ", ".join(can) for s, can in YOU_CAN.items()}


def test_every_command_of_the_pages_exists() -> None:
    for page in PAGES:
        named = set(re.findall(r"\./scripts/cutover (?:--\S+ \S+ )?([a-z]+)", page.read_text(encoding="utf-8")))
        assert named <= OTHERS | set(registry.NAMES), named - OTHERS - set(registry.NAMES)


@pytest.mark.parametrize("verb", sorted(registry.NAMES))
def test_every_step_is_in_the_guide(verb: str) -> None:
    assert re.search(rf"\./scripts/cutover {verb}\b", GUIDE), verb


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_key_is_in_the_guide(name: str) -> None:
    assert f"`{name}`" in GUIDE


def test_every_exit_code_is_explained() -> None:
    codes = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.CutoverError)}
    assert {int(code) for code in re.findall(r"\*\*(\d)\*\*", GUIDE)} == codes | {0}


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        heads = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"(?m)^#+ (.+)$", text)}
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in heads, target
            elif not target.startswith("http"):
                assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize(
    "page",
    [
        *(p.relative_to(ROOT) for p in ROOT.glob("*.md")),
        *(
            p.relative_to(ROOT)
            for folder in ("docs", "features", "nginx", "stacks", ".github")
            for p in (ROOT / folder).rglob("*.md")
        ),
        *(p.relative_to(ROOT) for p in (ROOT / ".github/workflows").glob("*.yml")),
    ],
    ids=str,
)
def test_every_program_that_a_page_starts_is_there(page: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])\./([\w./-]*\w)", (ROOT / page).read_text(encoding="utf-8")))
    named = {name for name in named if not name.endswith((".yml", ".conf"))}
    missing = [name for name in sorted(named) if not ((ROOT / name).is_file() and os.access(ROOT / name, os.X_OK))]
    assert missing == [], missing
