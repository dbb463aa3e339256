"""What a server says stays text, wherever it is shown.

A container's name, an error of a proxy, a record of a name server: whoever writes them writes into our terminal, into the log
of a CI job and into its report. Each of these reads some of it as more than text: control characters move a cursor, a line that
begins with ``::`` is a command to the runner, a bracket is a link and a picture is fetched. So each has a function here that
leaves words.

Beside them: how people say a length of time, a number of things, and several of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What Markdown reads as more than a letter. The line is one already, so what begins a line is none of it.
_MARKDOWN = re.compile(r"[\\`*_\[\]{}~|!$]")
#: What stands before the host in an address.
_LOGIN = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#]*@")
#: What a page makes a link of by itself: addresses, mail, people, issues, commits.
_LINKED = re.compile(r"(?i)(:)(?=//)|\b(www)(\.)|(@)|(#)(?=\w)|\b(mailto|xmpp)(:)")


def plain(text: str) -> str:
    """``text`` without control characters: a hostile name could carry escapes of a terminal, or turn the direction of writing."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def for_log(text: str) -> str:
    """``text`` in which no line is a command to the runner of a workflow (``::error::``, ``##[group]``)."""
    lines = [f"{line[: len(line) - len(line.lstrip())]}: {line.lstrip()[1:]}" if _commands(line) else line
             for line in plain(text).split("\n")]  # fmt: skip
    return "\n".join(lines).replace("##[", "## [")


def _commands(line: str) -> bool:
    return line.lstrip().startswith("::")


def for_markdown(text: str) -> str:
    """``text`` as one line of Markdown that is nothing but text: no link, picture, mention, code, table cell or tag."""
    line = " ".join(plain(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\g<0>", line)
    return _LINKED.sub(lambda found: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in found[0]), line)


def without_login(text: str) -> str:
    """``text`` without the user and the password that may stand in the addresses in it."""
    return _LOGIN.sub(r"\1", text)


def spoken(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def listed(words: Sequence[str]) -> str:
    """Several words as people say them: ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count: int, what: str) -> str:
    """A number of things as people say it: ``1 write``, ``2 writes``."""
    return f"{count} {what}{'' if count == 1 else 's'}"
