"""What a container gets of a stack's variables, by the real Compose and a real environment file."""

from __future__ import annotations

import random
import string

import pytest

from cutover.core.errors import Refused
from cutover.portainer.variables import arriving, env_file, resolve, to_send, unfit, without_parts

#: What the wire makes of a value that is sent as it is; None where Compose refuses the file, "" where nothing is left.
RAW = {
    "pa$word": "pa",
    "a$$b": "a$b",
    "abc #def": "abc",
    '"quoted"': "quoted",
    "'quoted'": "quoted",
    "$abc": "",
    "it's $5": "it's $5",
    "${": None,
    "x\\$y": "x\\",
    "plain": "plain",
}
FILE = "services:\n  qdrant:\n    image: x\n    environment:\n      KEY: ${KEY:?set KEY}\n"


@pytest.mark.parametrize("value", RAW)
def test_a_value_arrives_as_it_was_meant(value: str) -> None:
    got = arriving({"KEY": value})
    assert (got and got["KEY"]) == RAW[value]
    assert arriving({"KEY": to_send("KEY", value), "B": "x"}) == {"KEY": value, "B": "x"}


def test_a_plain_value_is_sent_as_it_is() -> None:
    assert to_send("KEY", "aB3+/=_-.@%:,") == "aB3+/=_-.@%:,"


def test_values_of_every_printable_character_arrive() -> None:
    some = random.Random(7)
    letters = string.punctuation * 3 + string.ascii_letters + " "
    values = {f"KEY_{n}": "".join(some.choices(letters, k=12)).strip() for n in range(25)}
    assert arriving({name: to_send(name, value) for name, value in values.items()}) == values


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("a\nb", "a line break"),
        ("a\rb", "a carriage return"),
        ("a\tb", "a tab"),
        ("clé", r"U\+00E9 \(latin small letter e with acute\)"),
        ("a\u200bb", r"U\+200B"),
        (" lead", "begins or ends with a space"),
        ("trail ", "begins or ends with a space"),
        ("x" * 4097, "has 4097 characters"),
    ],
)
def test_a_value_that_no_request_can_carry_is_refused_with_its_character(value: str, named: str) -> None:
    with pytest.raises(Refused, match=named):
        to_send("QDRANT_API_KEY", value)
    assert unfit("QDRANT_API_KEY", value).startswith("QDRANT_API_KEY ")


def test_the_repositorys_own_env_file_comes_first() -> None:
    assert env_file({"A": "1"}, "B=2\n") == "B=2\nA=1\n"
    assert arriving({"A": "$B"}, "B=2\n") == {"A": "2"}
    assert resolve("services: {q: {image: '${B:?}'}}", {}, default="B=two\n").config["services"]["q"]["image"] == "two"


def test_what_compose_refuses_is_told_without_the_key() -> None:
    assert "required variable KEY is missing a value: set KEY" in resolve(FILE, {"KEY": "$hunter"}).problem
    for sent in ("${hunter", "one\n$hunter2 three", "'un'hunter2 $x", '"hunter2'):
        said = resolve(FILE, {"KEY": sent}).problem
        assert said, sent
        assert "hunter" not in said, said
        assert str(resolve(FILE, {"KEY": sent})).count("hunter") == 0


def test_parts_of_a_value_are_taken_out_of_what_is_said() -> None:
    said = 'time="x" msg="The \\"word\\" variable is not set" invalid template: "s3cr$word" near s3cr$wo-longer-key'
    shown = without_parts(said, ["s3cr$word", "my-s3cr$wo-longer-key"])
    assert "word" not in shown
    assert "longer" not in shown
    assert without_parts("no such tag or digest", ["tag"]) != ""
    assert without_parts("failed to read the file", ["the-read-key-of-the-lab"]) == "failed to read the file"
