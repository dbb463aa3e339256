"""What a word of a configuration can be with its variables put in, as far as files say it (``set``, ``map``, ``geo`` and others).

A value keeps where each part of it stands, so that it can be replaced there. What a program, a module or a request puts into a
variable no file says. Nothing here touches a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cutover.core.errors import Refused
from cutover.gate.nginx_conf import Directive, Word

#: Blocks that give a variable one of several values.
SETS = {"map", "geo", "split_clients"}
#: Give a variable a value that no file says.
_ELSEWHERE = re.compile(r"auth_request_set|js_set|js_var|perl_set|set_by_lua\w*|set_\w+|keyval")
#: What a regular expression takes out of a request and gives a name.
_CAPTURED = re.compile(r"\(\?P?[<'](\w+)[>']")
_MOST = 400  # alternatives of one word


@dataclass(frozen=True)
class Piece:
    """A part of a value: text with the place it stands at, or a variable that no file sets (``unknown``)."""

    text: str
    word: Word | None = None
    at: int = 0
    owner: Directive | None = None
    unknown: str = ""


Value = tuple[Piece, ...]


def _name(text: str) -> str:
    """A variable's name; nginx knows no capitals in it."""
    return text.lstrip("$").lower()


def _server(one: Directive) -> Directive | None:
    """The `server` block that a directive stands in."""
    return next((outer for outer in one.chain() if outer.name == "server"), None)


class Values:
    """The values that these directives give to variables."""

    def __init__(self, directives: Iterable[Directive]) -> None:
        self._maps: dict[tuple[str, str], list[Directive]] = {}
        self._sets: dict[str, list[Directive]] = {}
        self._elsewhere: set[str] = set()
        self._captured: dict[str, list[Directive | None]] = {}
        for one in directives:
            for name in (name for word in one.words for name in _CAPTURED.findall(word.text)):
                self._captured.setdefault(_name(name), []).append(_server(one))
            if one.name in SETS and one.block is not None:
                self._maps.setdefault((one.context, _name(one.words[-1].text)), []).append(one)
            elif one.name == "set" and len(one.words) == 3:
                self._sets.setdefault(_name(one.words[1].text), []).append(one)
            elif _ELSEWHERE.fullmatch(one.name):
                self._elsewhere |= {_name(word.text) for word in one.words[1:] if re.fullmatch(r"\$\w+", word.text)}

    def of(self, word: Word, one: Directive, seen: tuple[str, ...] = (), at: Directive | None = None) -> list[Value]:
        """Everything that a word of a directive can be, variables put in; ``at`` is the directive that uses it."""
        found: list[Value] = [()]
        last = 0
        for variable in re.finditer(r"\$(?:\{(\w+)\}|(\d|[A-Za-z_]\w*))", word.text):
            name = _name(variable[1] or variable[2])
            literal = Piece(word.text[last : variable.start()], word, last, one)
            last = variable.end()
            found = [
                (*value, literal, *more)
                for value in found
                for more in self._variable(name, at or one, seen)
            ]  # fmt: skip
            if len(found) > _MOST:
                raise Refused(f"{one.where} has too many possible targets to look at each.", "Write the addresses out.")
        rest = Piece(word.text[last:], word, last, one)
        return [(*value, rest) for value in found]

    def _variable(self, name: str, at: Directive, seen: tuple[str, ...]) -> list[Value]:
        unknown: list[Value] = [(Piece("", unknown=name),)]
        if name in seen or len(seen) > 8:
            return unknown
        found: list[Value] = []
        for block in self._maps.get((at.context, name), []):
            for entry in block.block or []:
                if len(entry.words) > 1 and entry.name not in {"include", "proxy"}:
                    found += self.of(entry.words[1], entry, (*seen, name), at)
        for one in self._sets_for(name, at):
            found += self.of(one.words[2], one, (*seen, name), at)
        if found and (name in self._elsewhere or self._is_captured(name, at)):
            found += unknown
        return [value for value in found if any(p.text or p.unknown for p in value)] or (unknown if not found else [])

    def _is_captured(self, name: str, at: Directive) -> bool:
        """Whether a regular expression that counts there, the server's own or one outside servers, gives the variable a value."""
        return any(server is None or server is _server(at) for server in self._captured.get(name, []))

    def _sets_for(self, name: str, at: Directive) -> list[Directive]:
        """The `set`s of a variable that a directive can meet; the innermost block around it that always sets it decides."""
        everywhere = self._sets.get(name, [])
        if not everywhere:
            return []
        found: list[Directive] = []
        for outer in at.chain():
            level = [one for one in everywhere if one.parent is outer]
            nested = [
                one for one in everywhere if one.parent is not None and one.parent.name == "if" and one.parent.parent is outer
            ]
            found += level + nested
            if level and outer.name != "if":
                return [*level[-1:], *nested] if outer is at.parent or not found else found
        if found:
            return found
        server = _server(at)
        return [one for one in everywhere if server in list(one.chain())] or everywhere
