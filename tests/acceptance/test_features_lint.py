"""The features keep the house's rules, and the linter finds what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.criteria import table
from acceptance.lint import lint

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
Feature: Before we start
  Nothing is moved before these hold.

  @A1
  Rule: The host can give the new server its resources without strain

    Scenario: A host with room
      Given a host with room
      When the operator looks
      Then the host has room
"""


def faults(folder: Path, text: str) -> list[str]:
    (folder / "x.feature").write_text(text)
    return [str(f) for f in lint(folder) if f.line]


def test_a_good_feature_has_no_faults(tmp_path: Path) -> None:
    assert faults(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("      Given a host with room\n      When the operator looks\n      Then the host has room\n", "", "no steps"),
        ("  Nothing is moved before these hold.\n", "", "why it matters"),
        ("@A1", "@A9", "no meaning"),
        ("without strain", "easily", "not the sentence of A1"),
        ("      Then the host has room\n", "", "shows nothing"),
        ("When the operator looks", "And the operator looks", "0 Whens"),
        ("Then the host has room", "Then the host has room\n      When I look", "2 Whens"),
        ("a host with room", "a host at 10.0.0.2", "an address"),
        ("a host with room", 'a host with {"cores": 6}', "JSON"),
        ("a host with room", "a host where I sleep", "first person"),
        ("Scenario: A host with room", "@wip\n    Scenario: A host with room", "no meaning here"),
        ("Then the host has room", "Then the host has room\n" + "      And it has\n" * 6, "at most 7"),
        ("Scenario: A host with room", "Scenario: A host with room\n    Scenario: A host with room", "stands in"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert GOOD.replace(old, new, 1) != GOOD
    assert any(said in fault for fault in faults(tmp_path, GOOD.replace(old, new, 1))), faults(
        tmp_path, GOOD.replace(old, new, 1)
    )


def test_the_features_of_this_repository() -> None:
    assert [str(f) for f in lint(ROOT / "features")] == []


def test_the_readers_page_lists_the_criteria() -> None:
    assert table() in (ROOT / "features" / "README.md").read_text(encoding="utf-8")
