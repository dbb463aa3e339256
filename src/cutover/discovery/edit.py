"""Changing single values of a YAML file and leaving every other character as it is, comments and columns included.

Where a value stands is asked of the YAML parser (its marks), so that flow and block style, quotes and indentation are whatever
the operator wrote. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from cutover.discovery.facts import Fact, Path

_MARK = re.compile(r"\s*# (found|GAP): ")


@dataclass(frozen=True)
class _Span:
    """A value's characters, and where its key stands. ``flow``: it is written in one line, as ``{...}``, ``[...]`` or a word."""

    start: int
    end: int
    key: int
    flow: bool
    node: Node


def change(text: str, facts: Iterable[Fact]) -> str:
    """``text`` with each fact's value at its place, and above it where it came from (in place of an earlier such line)."""
    for fact in facts:
        text = _set(text, fact.where, fact.value)
        text = _remark(text, fact)
    return text


def _set(text: str, where: Path, value: Any) -> str:
    spans = _spans(text)
    span = spans.get(where)
    if span is None:
        return _insert(text, spans, where, value)
    if isinstance(span.node, SequenceNode) and not span.flow and isinstance(value, list) and value:
        indent = " " * (span.start - text.rfind("\n", 0, span.start) - 1)
        made = f"\n{indent}".join(f"- {written(one)}" for one in value)
    else:
        made = written(value)
    if text[span.start - 1 : span.start] == ":":  # a key without any value
        made = f" {made}"
    return text[: span.start] + made + _kept_column(text[span.end :], len(text[span.start : span.end]) - len(made))


def _kept_column(rest: str, shorter: int) -> str:
    """What follows a value; a comment behind it stays in its column, or two spaces away."""
    comment = re.match(r" +(?=#)", rest)
    return rest if comment is None else " " * max(2, len(comment[0]) + shorter) + rest[comment.end() :]


def _insert(text: str, spans: Mapping[Path, _Span], where: Path, value: Any) -> str:
    """Put a key that is missing after the last one of its parent."""
    parent = spans.get(where[:-1])
    if parent is None:
        return text if len(where) < 2 else _insert(text, spans, where[:-1], {where[-1]: value})
    if parent.flow:
        inner = text[parent.start + 1 : parent.end - 1].strip()
        return f"{text[: parent.end - 1].rstrip()}{', ' if inner else ''}{where[-1]}: {written(value)}}}{text[parent.end :]}"
    end = text.find("\n", parent.end)
    end = len(text) if end < 0 else end
    indent = " " * (parent.start - text.rfind("\n", 0, parent.start) - 1)
    return f"{text[:end]}\n{indent}{where[-1]}: {written(value)}{text[end:]}"


def _remark(text: str, fact: Fact) -> str:
    span = _spans(text)[fact.where]
    begin = text.rfind("\n", 0, span.key) + 1
    indent = re.match(r" *", text[begin:])
    line = f"{indent[0] if indent else ''}# {fact.comment}\n"
    above = text.rfind("\n", 0, max(begin - 1, 0)) + 1
    if begin and _MARK.match(text[above:begin]):
        return text[:above] + line + text[begin:]
    return text[:begin] + line + text[begin:]


def _spans(text: str) -> dict[Path, _Span]:
    found: dict[Path, _Span] = {}

    def end(node: Node) -> int:
        if isinstance(node, MappingNode) and not node.flow_style and node.value:
            return end(node.value[-1][1])
        if isinstance(node, SequenceNode) and not node.flow_style and node.value:
            return end(node.value[-1])
        return int(node.end_mark.index)

    def walk(node: Node, where: Path) -> None:
        if isinstance(node, MappingNode):
            for key, value in node.value:
                path = (*where, str(key.value))
                block = isinstance(value, (MappingNode, SequenceNode)) and not value.flow_style
                found[path] = _Span(value.start_mark.index, end(value), key.start_mark.index, not block, value)
                walk(value, path)

    root = YAML().compose(text)
    found[()] = _Span(root.start_mark.index, end(root), root.start_mark.index, flow=False, node=root)
    walk(root, ())
    return found


def written(value: Any) -> str:
    """A value in YAML, in one line."""
    if value is None:
        return "null"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./@:+-]*[A-Za-z0-9/_]|[A-Za-z/]|\d+\.\d+\.\d+[\d.:]*\d?", text)
    if plain and ": " not in text and text.lower() not in {"null", "true", "false", "yes", "no", "on", "off"}:
        return text
    return json.dumps(text, ensure_ascii=False)
