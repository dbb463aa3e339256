"""What the tool says keeps to ``docs/strings.md``: words that were riddles do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[1] / "src" / "cutover").rglob("*.py"))

#: word or phrase -> what to say instead.
RIDDLES = {
    r"nobody (typed|agreed)": "confirm",
    r"cannot be understood": "Unexpected response to ...",
    r"gives no transfer": "refuses a zone transfer (AXFR)",
    r"told of (its|their) success": "acknowledged",
    r"holds? otherwise": "differs",
    r"names what goes": "points to a server that is to be deleted",
    r"[Nn]obody knows how far": "the replication position",
    r"as before all the time": "did not answer as before",
    r"\b(honest|movable|wires)\b": "a word of the field",
}


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_sentence_is_a_riddle(path: Path) -> None:
    found = [
        f"{path.name}:{line}: {text!r}: say {instead!r}"
        for line, text in sentences(path)
        for riddle, instead in RIDDLES.items()
        if re.search(riddle, text)
    ]
    assert not found, "\n".join(found)
