"""YAML that says more than it shows: a few lines of aliases of aliases mean billions of values, and one may hold itself."""

from __future__ import annotations

import re

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

#: Values that a file for this tool may say; the longest of them has a few hundred.
MOST = 20_000
SAID = f"its aliases (`*name`) make more than {MOST:,} values of it, or one holds itself"
_ALIAS = re.compile(r"(?:^|[\s\[{,:?-])\*[^\s,\[\]{}*]", re.MULTILINE)


def say_too_much(text: str) -> bool:
    """Whether a YAML text says more than :data:`MOST` values when its aliases are written out, or something in it holds itself.

    Its work grows with the length of the text alone. What is no YAML is not judged here.
    """
    if not _ALIAS.search(text):
        return False
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, ValueError, TypeError, RecursionError):
        return False
    sizes: dict[int, int] = {}
    inside: set[int] = set()
    todo = [(root, False)] if root is not None else []
    while todo:
        node, whole = todo.pop()
        if whole:
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in _parts(node))
            inside.discard(id(node))
            if sizes[id(node)] > MOST:
                return True
        elif id(node) in inside:
            return True
        elif id(node) not in sizes:
            inside.add(id(node))
            todo += [(node, True), *((part, False) for part in _parts(node))]
    return False


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []
