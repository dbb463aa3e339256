"""Reading an Nginx configuration as Nginx reads it.

What ``nginx -T`` prints is split into files again and put together in the order in which nginx reads it: every ``include`` is
replaced by what it includes, where it stands. Every word keeps the file and the position it came from, so that a single address
can be replaced and every other byte stays. Nothing here touches a host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cutover.core.errors import Refused

_HEADER = re.compile(r"^# configuration file (/.+):\n", re.MULTILINE)
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", '"': '"', "'": "'", "\\": "\\"}


@dataclass(frozen=True)
class Word:
    """One word of a directive: its ``text`` as nginx understands it, and ``raw`` as it stands in the file from ``start`` on."""

    text: str
    raw: str
    start: int


@dataclass
class Directive:
    """One directive: its words, its place, what it stands in (``parent``), and its block where it has one."""

    words: list[Word]
    file: str
    line: int
    start: int
    parent: Directive | None = None
    block: list[Directive] | None = None
    end: int = 0

    @property
    def name(self) -> str:
        return self.words[0].text

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"

    def chain(self) -> Iterator[Directive]:
        """What it stands in, from the inside out."""
        one = self.parent
        while one is not None:
            yield one
            one = one.parent

    def inherited(self, name: str) -> list[Directive]:
        """The directives of a name that hold for this one: those of the innermost block around it that has any."""
        levels = ([d for d in outer.block or [] if d.name == name and len(d.words) > 1] for outer in self.chain())
        return next(filter(None, levels), [])

    def inherited_word(self, name: str) -> str:
        """The first word behind such a directive's name; empty where none is said."""
        return next((d.words[1].text for d in self.inherited(name)), "")

    @property
    def context(self) -> str:
        """``http``, ``stream``, ``mail``, or empty: the outermost block that it stands in."""
        outer = [one.name for one in self.chain()]
        return outer[-1] if outer else ""


@dataclass(frozen=True)
class Include:
    """One ``include``: the pattern with its whole path, and the names of the blocks that it stands in, from the outside in."""

    pattern: str
    context: tuple[str, ...]

    def takes(self, path: str) -> bool:
        """Whether a file of this name would be included."""
        return bool(_glob(self.pattern).fullmatch(path))


@dataclass
class Configuration:
    """A whole configuration: its files as texts, its directives with includes in place, and the includes."""

    main: str
    files: Mapping[str, str]
    top: list[Directive] = field(default_factory=list)
    includes: list[Include] = field(default_factory=list)

    def walk(self) -> Iterator[Directive]:
        """Every directive, in the order in which nginx reads them."""
        yield from walk(self.top)

    def said(self, name: str, context: str = "") -> list[Directive]:
        """The directives of this name that stand directly in a context; ``""`` is the top of the file."""
        level = self.top if not context else [d for one in self.top if one.name == context for d in one.block or []]
        return [d for d in level if d.name == name]

    def with_files(self, changed: Mapping[str, str]) -> Configuration:
        """The same with other texts of some files; files that are included only then are taken in."""
        return assembled(self.main, {**self.files, **changed})


def walk(directives: Sequence[Directive]) -> Iterator[Directive]:
    """These directives and all within them."""
    for one in directives:
        yield one
        yield from walk(one.block or [])


def read_dump(dump: str, read: Callable[[str], str]) -> Configuration:
    """The configuration that ``nginx -T`` printed; :class:`Refused` where it cannot be read. ``read``: what is in a file."""
    headers = list(_HEADER.finditer(dump))
    if not headers:
        raise Refused("`nginx -T` does not print the configuration.", "Look at nginx.binary in site.yaml.")
    main = headers[0][1]
    while True:
        ends = [one.start() for one in headers[1:]] + [len(dump)]
        files = {one[1]: dump[one.end() : end].removesuffix("\n") for one, end in zip(headers, ends, strict=True)}
        if len(files) < len(headers):
            # Nginx prints every file once: a comment looks like what stands before one, and which does is not to be seen here.
            return assembled(main, {name: read(name) for name in files})
        found = assembled(main, files)
        # What looks like the beginning of a file and is included by none is a comment in the file before.
        kept = [one for one in headers if one[1] in found.files]
        if len(kept) == len(headers):
            return found
        headers = kept


def assembled(main: str, files: Mapping[str, str]) -> Configuration:
    """Files put together from the main one on. ``files`` of the result are those that are reached."""
    found = Configuration(main, {})
    reached: dict[str, str] = {}

    def take(path: str, parent: Directive | None, depth: int) -> list[Directive]:
        if depth > 20:
            raise Refused(f"{path} includes itself.")
        reached[path] = files[path]
        return place(parse(files[path], path), parent, depth)

    def place(directives: list[Directive], parent: Directive | None, depth: int) -> list[Directive]:
        placed: list[Directive] = []
        for one in directives:
            one.parent = parent
            if one.name == "include" and one.block is None and len(one.words) == 2:
                pattern = one.words[1].text
                if not pattern.startswith("/"):
                    pattern = f"{main.rpartition('/')[0]}/{pattern}"
                context = tuple(reversed([outer.name for outer in one.chain()]))
                include = Include(pattern, context)
                found.includes.append(include)
                for path in sorted(filter(include.takes, files), key=lambda p: p.encode("utf-8", "surrogateescape")):
                    placed += take(path, parent, depth + 1)
                continue
            if one.block is not None:
                one.block = place(one.block, one, depth)
            placed.append(one)
        return placed

    found.top = take(main, None, 0)
    found.files = reached
    return found


def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern as glob(3) understands it: ``*`` and ``?`` match no slash and no dot at the beginning of a name."""
    found, at = "", 0
    while at < len(pattern):
        c = pattern[at]
        first = at == 0 or pattern[at - 1] == "/"
        if c in "*?":
            found += ("(?!\\.)" if first else "") + ("[^/]*" if c == "*" else "[^/]")
        elif c == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            found += f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]"
            at = end
        else:
            found += re.escape(c)
        at += 1
    return re.compile(found, re.DOTALL)


# --- One file -----------------------------------------------------------------------------------------------------------------


def parse(text: str, file: str = "") -> list[Directive]:
    """The directives of one file, includes as they stand; :class:`Refused` where its braces do not match."""
    top: list[Directive] = []
    stack: list[tuple[list[Directive], Directive]] = []
    here: list[Directive] = top
    words: list[Word] = []
    reader = _Reader(text)
    for kind, word in reader.tokens():
        if kind == "word":
            words.append(word)
        elif kind == "}":
            if not stack or words:
                raise Refused(f"{file}:{_line(text, word.start)} has a closing brace where none is expected.".lstrip(":"))
            here, owner = stack.pop()
            owner.end = word.start + 1
        elif not words:
            raise Refused(f"{file}:{_line(text, word.start)} has {kind!r} where a directive is expected.".lstrip(":"))
        else:
            one = Directive(words, file, _line(text, words[0].start), words[0].start, stack[-1][1] if stack else None)
            here.append(one)
            words = []
            if kind == "{" and one.name.endswith("_by_lua_block"):
                start = reader.at
                one.words.append(Word(lua := reader.lua(), lua, start))
                one.end = reader.at
            elif kind == "{":
                one.block = []
                stack.append((here, one))
                here = one.block
            else:
                one.end = word.start + 1
    if stack or words:
        raise Refused(f"{file} ends in the middle of a block or directive.".strip())
    return top


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


@dataclass
class _Reader:
    text: str
    at: int = 0

    def tokens(self) -> Iterator[tuple[str, Word]]:
        """(kind, word): kind is ``word``, ``{``, ``}`` or ``;``."""
        text, n = self.text, len(self.text)
        while self.at < n:
            c = text[self.at]
            if c in " \t\r\n" or (self.at == 0 and c == "\ufeff"):
                self.at += 1
            elif c == "#":
                end = text.find("\n", self.at)
                self.at = n if end < 0 else end
            elif c in "{};":
                self.at += 1
                yield c, Word(c, c, self.at - 1)
            else:
                yield "word", self._word()

    def _word(self) -> Word:
        text, n = self.text, len(self.text)
        quote = text[self.at] if text[self.at] in "\"'" else ""
        self.at += len(quote)
        start = self.at
        while self.at < n:
            c = text[self.at]
            if c == "\\":
                self.at += 1
            elif quote:
                if c == quote:
                    break
            elif c == "$" and text.startswith("${", self.at):
                self.at += 1
            elif c in " \t\r\n;{":
                break
            self.at += 1
        raw = text[start : min(self.at, n)]
        self.at = min(self.at + len(quote), n)
        plain = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), raw, flags=re.DOTALL)
        return Word(plain, raw, start)

    def lua(self) -> str:
        """The code up to the brace that closes it, past it; braces in Lua's texts and comments do not count."""
        token = re.compile(
            r"--\[(=*)\[.*?\]\1\]|--[^\n]*|\[(=*)\[.*?\]\2\]|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[{}]", re.DOTALL
        )
        start, depth = self.at, 1
        for one in token.finditer(self.text, self.at):
            depth += {"{": 1, "}": -1}.get(one[0], 0)
            if depth == 0:
                self.at = one.end()
                return self.text[start : one.start()]
        raise Refused("A block of Lua is not closed.")
