"""The gate's files: what is written on the Nginx host, and what becomes of the operator's own server file.

The folder ``nginx/`` of this repository holds the files as they are read and reviewed. For a site only three things in
them are replaced: the two addresses of Qdrant, the folder of the flags, and a checksum by which the installer
recognises that exactly these files are loaded. In the operator's server file one ``location / { ... }``, the one that
proxies to the old Qdrant, becomes an ``include``; every other byte of it stays. Nothing here touches a host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cutover.core.errors import Refused

_PACKAGE = Path(__file__).resolve().parents[1]
#: Where the files are read from: ``nginx/`` of the repository, or what an installed package has of it.
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parents[1] / "nginx"
#: The values that stand in the shipped files.
FOLDER = "/var/lib/qdrant-gate"
OLD = "10.0.0.152:6333"
NEW = "10.0.0.101:6333"
UNKNOWN_FILES = "by-hand"

HTTP_FILES = ("qdrant-upstreams.conf", "qdrant-gate-http.conf")
SNIPPETS = ("qdrant-gate-server.conf", "qdrant-gate-proxy.conf")
INCLUDE = "include snippets/qdrant-gate-server.conf;"


@dataclass(frozen=True)
class Gatefiles:
    """The gate's files for one site: name to content, and the checksum that the loaded gate reports."""

    http: dict[str, str]
    snippets: dict[str, str]
    checksum: str


def render(*, folder: str, old: str, new: str, shipped: Path = SHIPPED) -> Gatefiles:
    """The shipped files with this site's flag folder and addresses (``host:port``)."""
    texts = {name: (shipped / name).read_text(encoding="utf-8") for name in (*HTTP_FILES, *SNIPPETS)}
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", folder):
        raise Refused(f"The gate's folder {folder} cannot stand in an Nginx configuration; use plain letters and digits.")
    values = {FOLDER: folder, OLD: old, NEW: new}
    # One pass: an address that is put in must not be taken for one that is to be replaced.
    shown = re.compile("|".join(re.escape(value) for value in values))
    texts = {name: shown.sub(lambda m: values[m.group()], text) for name, text in texts.items()}
    checksum = hashlib.sha256("".join(f"{name}\0{texts[name]}\0" for name in sorted(texts)).encode()).hexdigest()[:16]
    texts = {name: text.replace(f'"{UNKNOWN_FILES}"', f'"{checksum}"') for name, text in texts.items()}
    return Gatefiles({n: texts[n] for n in HTTP_FILES}, {n: texts[n] for n in SNIPPETS}, checksum)


# --- The operator's server file ---------------------------------------------------------------------------------------


@dataclass
class Directive:
    """One directive of an Nginx configuration: its words, where it stands in the text, and its block if it has one."""

    words: list[str]
    start: int
    line: int
    end: int = 0
    block: list[Directive] | None = None

    @property
    def name(self) -> str:
        return self.words[0]


@dataclass
class _Reader:
    text: str
    at: int = 0
    open: list[int] = field(default_factory=list)

    def tokens(self) -> Iterator[tuple[str, str, int]]:
        """(kind, word, start): kind is ``word``, ``{``, ``}`` or ``;``."""
        text, n = self.text, len(self.text)
        while self.at < n:
            c = text[self.at]
            if c.isspace():
                self.at += 1
            elif c == "#":
                end = text.find("\n", self.at)
                self.at = n if end < 0 else end
            elif c in "{};":
                self.at += 1
                yield c, c, self.at - 1
            elif c in "\"'":
                start, word = self.at, ""
                self.at += 1
                while self.at < n and text[self.at] != c:
                    if text[self.at] == "\\" and self.at + 1 < n:
                        self.at += 1
                    word += text[self.at]
                    self.at += 1
                self.at += 1
                yield "word", word, start
            else:
                start = self.at
                while self.at < n and not text[self.at].isspace() and text[self.at] not in "{;":
                    if text.startswith("${", self.at):
                        self.at = max(self.at, text.find("}", self.at))
                    self.at += 2 if text[self.at] == "\\" else 1
                if self.at == start:  # a word cannot start with what ends it
                    self.at += 1
                yield "word", text[start : self.at], start


def parse(text: str) -> list[Directive]:
    """The directives of a configuration file; :class:`Refused` where its braces do not match."""
    top: list[Directive] = []
    stack: list[tuple[list[Directive], Directive]] = []
    here, start = top, 0
    words: list[str] = []
    for kind, word, at in _Reader(text).tokens():
        if kind == "word":
            if not words:
                start = at
            words.append(word)
        elif kind == "}":
            if not stack or words:
                raise Refused(f"Line {_line(text, at)} has a closing brace where none is expected.")
            here, owner = stack.pop()
            owner.end = at + 1
        elif not words:
            raise Refused(f"Line {_line(text, at)} has {kind!r} where a directive is expected.")
        else:
            one = Directive(words, start, _line(text, start))
            here.append(one)
            words = []
            if kind == "{":
                one.block = []
                stack.append((here, one))
                here = one.block
            else:
                one.end = at + 1
    if stack or words:
        raise Refused("The file ends in the middle of a block or directive.")
    return top


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _walk(directives: Sequence[Directive]) -> Iterator[Directive]:
    for one in directives:
        yield one
        yield from _walk(one.block or [])


# What a location that only passes requests on may contain: the gate says the same, or better. Anything else would be lost.
_REPLACED = {
    "proxy_pass", "proxy_set_header", "proxy_http_version", "proxy_connect_timeout", "proxy_send_timeout", "proxy_read_timeout",
    "proxy_request_buffering", "proxy_buffering", "proxy_max_temp_file_size", "proxy_buffers", "proxy_buffer_size",
    "proxy_redirect", "client_max_body_size", "client_body_buffer_size", "sendfile", "tcp_nopush", "tcp_nodelay",
}  # fmt: skip

#: Headers that say who asks and how; Qdrant does not look at them.
_FOR_INFORMATION = re.compile(r"(?i)upgrade|connection|host|x-real-ip|x-forwarded-.+|x-request-id|x-scheme")


def with_gate(text: str, *, old: str, where: str, around: str = "") -> str:
    """The operator's server file with its ``location /`` to the old Qdrant replaced by the gate's include.

    ``old`` is the old server's ``host:port``, ``where`` the file's path for sentences, ``around`` the whole configuration
    as ``nginx -T`` prints it. Refused, naming the line, where there is no such location, more than one, or one that holds
    what the gate would lose.
    """
    try:
        tree = parse(text)
    except Refused as error:
        raise Refused(f"{where} cannot be read as an Nginx configuration: {error.sentence}") from None
    location = _location(tree, old, where)
    lost = [d for d in location.block or [] if d.name not in _REPLACED]
    if lost:
        named = ", ".join(f"`{d.name}` (line {d.line})" for d in lost)
        raise Refused(
            f"The location at {where}:{location.line} holds more than the gate replaces: {named}.",
            "Move it into the server block around it, where it stays in force, and try again.",
        )
    _refuse_headers(tree, location, where, around)
    return text[: location.start] + INCLUDE + text[location.end :]


def _refuse_headers(tree: Sequence[Directive], location: Directive, where: str, around: str) -> None:
    """A header that Nginx adds, such as Qdrant's key, would be lost: the gate sets its own, and Nginx takes those of one level.

    In force are those of the innermost level that sets any: the location, the blocks around it, `http` (also from another file).
    """
    blocks = [one for one in _walk(tree) if one.block is not None and one.start <= location.start and location.end <= one.end]
    levels = [one.block or [] for one in reversed(blocks)] + [list(tree)]
    inside = next((set_ for level in levels if (set_ := _headers(level))), [])
    if inside:
        said = [(d, f" (line {d.line})") for d in inside]
    else:
        whole = []
        with suppress(Refused):  # what other modules write (Lua) need not be readable here; Nginx has accepted it
            whole = parse(around)
        said = [(d, "") for level in (whole, *(d.block or [] for d in whole if d.name == "http")) for d in _headers(level)]
    ours = {d.words[1].lower() for d in _headers(parse((SHIPPED / "qdrant-gate-proxy.conf").read_text(encoding="utf-8")))}
    for header, line in said:
        name = header.words[1]
        if name.lower() not in ours and not _FOR_INFORMATION.fullmatch(name):
            raise Refused(
                f"{where}: Nginx sets the header `{name}`{line} for Qdrant, and the gate would drop it.",
                "Write the line into nginx/qdrant-gate-proxy.conf of this repository; a secret as a variable that a `map` in a "
                "file on the Nginx host gives.",
            )


def _headers(level: Sequence[Directive]) -> list[Directive]:
    return [d for d in level if d.name == "proxy_set_header" and len(d.words) > 1]


def with_new_address(text: str, *, old: str, new: str, where: str) -> str:
    """The operator's own server file as it has to be when the new server serves for good: ``old`` becomes ``new``.

    ``host:port`` both. Refused where the file does not name the old server.
    """
    found = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w.-])")
    if not found.search(text):
        raise Refused(f"{where} does not name {old}, so it cannot be made to name {new}.")
    return found.sub(new, text)


def _targets(tree: Sequence[Directive], old: str) -> set[str]:
    """The ``proxy_pass`` addresses that mean the old server, by address or through an upstream of the same file."""
    names = {old}
    for one in _walk(tree):
        if one.name == "upstream" and one.block:
            servers = [d.words[1] for d in one.block if d.name == "server" and len(d.words) > 1]
            if servers == [old]:
                names.add(one.words[1])
    return {f"http://{name}{tail}" for name in names for tail in ("", "/")}


def _location(tree: Sequence[Directive], old: str, where: str) -> Directive:
    targets = _targets(tree, old)
    passing = [
        one
        for one in _walk(tree)
        if one.name == "location"
        and any(d.name == "proxy_pass" and d.words[1:2] and d.words[1] in targets for d in one.block or [])
    ]
    if not passing:
        raise Refused(
            f"{where} has no location that passes requests to http://{old}.",
            "Name the file that proxies Qdrant today as nginx.server_file in site.yaml.",
        )
    if len(passing) > 1:
        lines = ", ".join(str(one.line) for one in passing)
        raise Refused(f"{where} passes requests to http://{old} in several locations (lines {lines}).", "Leave one `location /`.")
    if passing[0].words != ["location", "/"]:
        shown = " ".join(passing[0].words)
        raise Refused(
            f"{where}:{passing[0].line} passes Qdrant on under `{shown}`; the gate needs it under `location /`.",
            "Give Qdrant a server block or a name of its own.",
        )
    return passing[0]
