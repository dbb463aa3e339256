"""The gate's one file for a site, made of the one that ships in ``nginx/``.

The shipped file is what an operator can read and copy by hand; here the flag folder and the addresses of a site are put into
it, the lines that this nginx knows beside those that every nginx knows, and a checksum by which the gate later says which
file is loaded. Nothing here touches a host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from cutover.core.errors import Refused

_PACKAGE = Path(__file__).resolve().parents[1]
#: Where the file is read from: ``nginx/`` of the repository, or what an installed package has of it.
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parents[1] / "nginx"
#: The gate's file, there and on the Nginx host.
NAME = "qdrant-gate.conf"
#: The values that stand in the shipped file.
FOLDER = "/var/lib/qdrant-gate"
OLD = "10.0.0.152:6333"
NEW = "10.0.0.101:6333"
ADDRESS = "127.0.0.1:6339"
UNKNOWN_FILES = "by-hand"
#: Stands for the word with which the tool asks the gate.
TOKEN = "no-token"  # noqa: S105 - it stands for one

#: Of a server that does not say that it is nginx.
UNKNOWN_VERSION = (0,)

#: Standard modules that may be left out of a build, and the directives with which the gate keeps them away.
_LEFT_OUT = {
    "charset": {"charset"},
    "gzip": {"gzip"},
    "ssi": {"ssi"},
    "userid": {"userid"},
    "limit_req": {"limit_req", "limit_req_zone"},
}


@dataclass(frozen=True)
class Build:
    """What an nginx is: its version, the modules it was built ``with`` and ``without``, and what ``http`` of its configuration
    says (names of directives).
    """

    version: tuple[int, ...] = (1, 17, 10)
    options: str = ""
    said: Collection[str] = field(default=frozenset())

    @classmethod
    def read(cls, text: str, said: Collection[str] = frozenset()) -> Build:
        """From what ``nginx -V`` prints."""
        number = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", text.partition("\n")[0])  # below it paths may look like one
        return cls(tuple(map(int, number.groups())) if number else UNKNOWN_VERSION, text, said)

    def has(self, condition: str, value: str) -> bool:
        """Whether a marked line of the shipped file is for this nginx."""
        if condition == "since":
            return self.version >= tuple(map(int, value.split(".")))
        if condition == "with":
            return f"--with-{value}" in self.options
        return (value in self.said) == (condition == "if")

    def lacks(self, directive: str) -> bool:
        """Whether the module that knows this directive was left out."""
        return any(directive in names and f"--without-http_{name}_module" in self.options for name, names in _LEFT_OUT.items())


@dataclass(frozen=True)
class Gatefile:
    """The gate's file for one site, and the checksum that the loaded gate reports."""

    text: str
    checksum: str


_MARKED = re.compile(r"^( *)#((?:(?:with|since|if|unless) [\w.]+(?: (?!:))?)+): (.+)$")


def render(
    *, folder: str, old: str, new: str, address: str = ADDRESS, token: str = TOKEN, build: Build | None = None
) -> Gatefile:
    """The shipped file with this site's flag folder, addresses (``host:port``) and word, for this nginx."""
    text = (SHIPPED / NAME).read_text(encoding="utf-8")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", folder):
        raise Refused(f"The gate's folder {folder} cannot stand in an Nginx configuration; use plain letters and digits.")
    values = {FOLDER: folder, OLD: old, NEW: new, ADDRESS: address, TOKEN: token}
    # One pass: an address that is put in must not be taken for one that is to be replaced.
    shown = re.compile("|".join(re.escape(value) for value in values))
    text = shown.sub(lambda m: values[m.group()], text)
    text = "".join(_for(line, build or Build()) for line in text.splitlines(keepends=True))
    checksum = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Gatefile(text.replace(f'"{UNKNOWN_FILES}"', f'"{checksum}"'), checksum)


def _for(line: str, build: Build) -> str:
    """One line of the file as this nginx needs it."""
    marked = _MARKED.match(line)
    if marked:
        words = marked[2].split()
        wanted = all(build.has(*condition) for condition in zip(words[::2], words[1::2], strict=True))
        return f"{marked[1]}{marked[3]}\n" if wanted else line
    name = line.split(maxsplit=1)[0] if line.strip() else ""
    return "" if build.lacks(name) else line
