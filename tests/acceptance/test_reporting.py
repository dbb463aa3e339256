"""What the suite tells the report of scenarios that pass, fail, are skipped, never begin, have no meaning, or cannot be tidied up.

Each test lets pytest run a small feature of its own with the suite's plugin, and reads the report that it writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from acceptance.reporting import in_words
from lab.lab import ROOT

FEATURE = """\
Feature: A chapter
  It matters.

  @A1
  Rule: The first

    Scenario: All is well
      Given a stage
      When somebody acts
      Then it holds

  @A2
  Rule: The second

    Scenario: Something is wrong
      Given a stage
      When somebody acts
      Then it does not hold

  @A3
  Rule: The third

    Scenario: Nobody knows the sentence
      Given a stage
      When somebody does what nobody described
      Then it holds

  @A4
  Rule: The fourth

    Scenario: There is no stage
      Given a stage that cannot be set
      When somebody acts
      Then it holds

  @A5
  Rule: The fifth

    Scenario: It cannot be shown here
      Given a stage that is not here
      When somebody acts
      Then it holds

  @A6 @lab
  Rule: The sixth

    Scenario: It leaves something behind
      Given a stage that cannot be cleared
      When somebody acts
      Then it holds

  @A7
  Rule: The seventh

    Scenario Outline: The <thing> is looked at
      Given a stage
      When somebody acts
      Then the <thing> holds

      Examples:
        | thing |
        | door  |
        | roof  |
"""

STEPS = """\
import hypothesis
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

scenarios("small.feature")

@hypothesis.settings(max_examples=20, database=None)
@hypothesis.given(hypothesis.strategies.integers())
def test_a_property(number): pass

@pytest.fixture
def unset():
    raise RuntimeError("the stage broke with s3cret-key")

@pytest.fixture
def uncleared():
    yield
    raise RuntimeError("it is still there")

@given("a stage")
def _stage(): pass

@given("a stage that cannot be set")
def _unset(unset): pass

@given("a stage that is not here")
def _not_here(): pytest.skip("there is no Docker here")

@given("a stage that cannot be cleared")
def _uncleared(uncleared): pass

@when("somebody acts")
def _acts(): pass

@then("it holds")
def _holds(): pass

@then("it does not hold")
def _holds_not(): assert False, "3 records differ"

@then(parsers.parse("the {thing} holds"))
def _thing_holds(thing): assert thing != "roof", "the roof leaks"
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.feature").write_text(FEATURE)
    (folder / "test_small.py").write_text(STEPS)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p acceptance.plugin\n")
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "QDRANT_API_KEY": "s3cret-key",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n1", "-p", "no:cacheprovider", "--report", "out", "test_small.py"],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (folder / "out" / "acceptance.json").exists(), run.stdout[-3000:] + run.stderr[-2000:]
    data: dict[str, Any] = json.loads((folder / "out" / "acceptance.json").read_text())
    return data | {"output": run.stdout}


def of(told: dict[str, Any], criterion: str, name: str) -> dict[str, Any]:
    found = [e for e in told["runs"][0]["evidence"] if e["criterion"] == criterion and e["name"] == name]
    assert len(found) == 1, [e["name"] for e in told["runs"][0]["evidence"] if e["criterion"] == criterion]
    one: dict[str, Any] = found[0]
    return one


def row(told: dict[str, Any], criterion: str) -> dict[str, Any]:
    found: dict[str, Any] = next(r for r in told["criteria"] if r["id"] == criterion)
    return found


def test_what_passed_has_its_steps(told: dict[str, Any]) -> None:
    one = of(told, "A1", "All is well")
    assert one["outcome"] == "passed"
    assert one["steps"] == ["Given a stage", "When somebody acts", "Then it holds"]


def test_what_failed_names_the_sentence_and_the_reason(told: dict[str, Any]) -> None:
    one = of(told, "A2", "Something is wrong")
    assert (one["outcome"], one["sentence"], one["reason"]) == ("failed", "Then it does not hold", "3 records differ")
    assert one["steps"] == ["Given a stage", "When somebody acts"]
    assert row(told, "A2")["reason"] == "Something is wrong: Then it does not hold – 3 records differ."


def test_a_sentence_without_a_meaning_is_not_met(told: dict[str, Any]) -> None:
    one = of(told, "A3", "Nobody knows the sentence")
    assert (one["outcome"], one["sentence"]) == ("failed", "When somebody does what nobody described")
    assert "nobody has said yet" in row(told, "A3")["reason"]


def test_a_stage_that_broke_is_not_met_and_no_secret_is_shown(told: dict[str, Any]) -> None:
    assert row(told, "A4")["verdict"] == "not met"
    assert "the stage broke with <secret>" in row(told, "A4")["reason"]


def test_the_random_cases_are_counted(told: dict[str, Any]) -> None:
    assert told["runs"][0]["facts"]["tried"] == "20 random cases"
    assert "Tried: 20 random cases." in told["output"]


def test_a_skip_is_never_a_pass(told: dict[str, Any]) -> None:
    one = of(told, "A5", "It cannot be shown here")
    assert (one["outcome"], one["reason"]) == ("skipped", "there is no Docker here")
    assert row(told, "A5")["verdict"] == "not shown"


def test_what_cannot_be_tidied_up_is_not_met(told: dict[str, Any]) -> None:
    assert row(told, "A6")["verdict"] == "not met"
    assert "it is still there" in row(told, "A6")["reason"]


def test_one_row_of_an_outline_is_enough(told: dict[str, Any]) -> None:
    assert of(told, "A7", "The door is looked at")["outcome"] == "passed"
    assert of(told, "A7", "The roof is looked at")["reason"] == "the roof leaks"
    assert row(told, "A7")["verdict"] == "not met"


def test_criteria_that_were_not_part_of_the_run_are_not_shown(told: dict[str, Any]) -> None:
    assert {r["verdict"] for r in told["criteria"] if not r["id"].startswith("A")} == {"not shown"}
    assert row(told, "D1")["reason"].endswith(": it did not run")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("3 records differ", "3 records differ"),
        ("assert False", "it is not so"),
        ("AssertionError", "it is not so"),
        ("assert 6 == 4", "found 6, expected 4"),
        ("assert 'gone' in 'all is well'", "'gone' is not in 'all is well'"),
        ("assert 1 > 2", "it is not so: 1 > 2"),
    ],
)
def test_an_assertion_without_words_is_put_into_words(said: str, words: str) -> None:
    assert in_words(said) == words


def test_the_terminal_says_what_is_not_met(told: dict[str, Any]) -> None:
    assert "are not met: A2, A3, A4, A6 and A7" in told["output"]
    assert "A2 not met: Something is wrong" in told["output"]
