"""A stack's variables: what Portainer is sent, and what a container gets of it.

Portainer writes each variable as ``NAME=VALUE`` into an environment file, as it is, and Compose reads that file by its own rules:
a dollar begins a variable, quotes and spaces at the edges go, ``#`` after a space begins a comment, a line ends a value. So a
value and what is *sent* for it are two things. What a container gets is not guessed here: the real Compose reads a real file.

Values are secrets. They reach Compose in a file that only this user can read, and no sentence here repeats a part of one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cutover.core.errors import Refused
from cutover.portainer import compose
from cutover.portainer.compose_file import SERVICE

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
#: What no version of Compose changes in an environment file.
_PLAIN = re.compile(r"[A-Za-z0-9_.@%+=:,/-]+")
#: Nginx reads a line of a request's head into 8 KB, unless it is told otherwise; other lines need room as well.
MOST_CHARACTERS = 4096
#: A run of a secret's characters that a sentence may share with it by chance: beside quotes, and in them.
_LONG, _SHORT = 8, 3

#: Ways to send a value, the most usual first. Nothing in single quotes is read; in double ones a backslash protects.
_WAYS: tuple[Callable[[str], str], ...] = (
    lambda value: value,
    lambda value: f"'{value}'",
    lambda value: '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"',
)


@dataclass(frozen=True)
class Read:
    """What Compose made of a file: its resolved configuration, or why it does not accept it (without a part of a value)."""

    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    problem: str = ""


def env_file(sent: Mapping[str, str], default: str) -> str:
    """The environment file that Portainer writes. ``default`` is the repository's own ``.env`` beside the compose file."""
    return default + "".join(f"{name}={value}\n" for name, value in sent.items())


def resolve(text: str, sent: Mapping[str, str], project: str = SERVICE, default: str = "") -> Read:
    """What the real Compose makes of a compose file with these variables, sent as Portainer sends them.

    :class:`Refused` where there is no Compose on this machine: an unchecked file is not a good file.
    """
    try:
        answer = compose.config(text, project, env_file=env_file(sent, default) if sent else None, dot_env=default)
    except compose.DidNotEnd as error:
        return Read(problem=error.sentence)
    if answer.code == 0:
        return Read(unescaped(json.loads(answer.config)))
    said = " ".join(" ".join(line for line in answer.said.splitlines() if "level=warning" not in line).split())
    return Read(problem=without_parts(said or f"Compose ended with code {answer.code}", [*sent.values(), *default.splitlines()]))


def unescaped(node: Any) -> Any:
    """Compose's printed configuration with its ``$$`` as the ``$`` that a container gets."""
    if isinstance(node, str):
        return node.replace("$$", "$")
    if isinstance(node, dict):
        return {key: unescaped(value) for key, value in node.items()}
    return [unescaped(value) for value in node] if isinstance(node, list) else node


def arriving(sent: Mapping[str, str], default: str = "") -> dict[str, str] | None:
    """The value that a container gets of each variable; None where Compose cannot read the file that they make."""
    names = [name for name in sent if _NAME.fullmatch(name)]
    if not names:
        return {}
    probe = {"services": {SERVICE: {"image": "probe", "environment": {name: f"${{{name}-}}" for name in names}}}}
    read = resolve(json.dumps(probe), sent, SERVICE, default)
    if read.problem:
        return None
    return {name: str(value) for name, value in read.config["services"][SERVICE]["environment"].items()}


def to_send(name: str, value: str) -> str:
    """What to send so that a container gets ``value``: itself or quoted. :class:`Refused` names the character in the way."""
    if reason := unfit(name, value):
        raise Refused(reason)
    for way in _WAYS:
        sent = way(value)
        if _PLAIN.fullmatch(sent) or arriving({name: sent, f"{name}_AFTER": "x"}) == {name: value, f"{name}_AFTER": "x"}:
            return sent
    odd = sorted({character for character in value if not _PLAIN.fullmatch(character)})
    raise Refused(f"{name} does not arrive as it is: Portainer and Compose change {_listed(odd)} in it. Use a key without.")


def unfit(name: str, value: str) -> str:
    """Why no client could send this value as a key, a sentence that names the character; empty where one can."""
    for character in value:
        if not " " <= character <= "~":
            return f"{name} contains {_called(character)}, which a request cannot carry in its header: nobody could use that key."
    if len(value) > MOST_CHARACTERS:
        return (
            f"{name} has {len(value)} characters; Nginx takes a header of {MOST_CHARACTERS} and little more: use a shorter key."
        )
    if value != value.strip():
        return f"{name} begins or ends with a space, which a request's header loses: nobody could use that key."
    return ""


def _called(character: str) -> str:
    names = {"\n": "a line break", "\r": "a carriage return", "\t": "a tab", "\0": "a zero byte"}
    named = unicodedata.name(character, "").lower()
    return names.get(character) or (f"U+{ord(character):04X}" + (f" ({named})" if named else ""))


def _listed(characters: Iterable[str]) -> str:
    return ", ".join("a space" if character == " " else character for character in characters) or "something"


def without_parts(text: str, values: Iterable[str]) -> str:
    """``text`` without what it shares with a secret value.

    Compose quotes what it stumbles over, which may be the middle of a key: in quotes a few characters in common are enough,
    elsewhere a run that no sentence has by chance.
    """
    credentials = [value for value in values if value]
    for value in sorted({form for one in credentials for form in (one, one.strip("'\" "))}, key=len, reverse=True):
        if len(value) >= _SHORT:
            text = text.replace(value, "<secret>")

    def quoted(found: re.Match[str]) -> str:
        inside = found[2]
        least = min(_SHORT, len(inside.strip()) or 1)
        return f"{found[1]}<secret>{found[1]}" if any(_shared(inside, one, least) for one in credentials) else found[0]

    text = re.sub(r"([\"'`])(.+?)\1(?!\w)", quoted, text)
    for one in credentials:
        for start in range(len(one) - _LONG + 1):
            text = text.replace(one[start : start + _LONG], "<secret>")
    return re.sub(r"(?:[^\s\"'`]*<secret>)+[^\s\"'`.,;:]*", "<secret>", text)


def _shared(text: str, value: str, least: int) -> bool:
    """Whether both have ``least`` characters in a row in common."""
    return any(value[start : start + least] in text for start in range(len(value) - least + 1))
