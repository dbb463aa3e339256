"""Keys from where they lie on this machine: an ``--env-file``, and the folder that systemd gives a service (``LoadCredential=``).

A file with keys that others can read is refused, because then they are others' keys as well. What the environment says comes
first, then the file, then systemd's folder. Nothing here is ever printed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cutover.core import files
from cutover.core.credentials import NAMES, Credentials
from cutover.core.errors import WrongUsage


@dataclass(frozen=True)
class Gathered:
    """The keys of a command, and for each where it came from."""

    credentials: Credentials
    origin: Mapping[str, str]


def gather(env_file: Path | None = None, environ: Mapping[str, str] | None = None) -> Gathered:
    """Every known key. :class:`WrongUsage` for a file that cannot be used."""
    env = os.environ if environ is None else environ
    sources = [("the environment", {name: env[name] for name in NAMES if env.get(name)})]
    if env_file is not None:
        sources.append((str(env_file), of_env_file(env_file)))
    if folder := env.get("CREDENTIALS_DIRECTORY"):
        sources.append(("systemd", of_folder(Path(folder))))
    values: dict[str, str] = {}
    origin: dict[str, str] = {}
    for where, found in sources:
        for name, value in found.items():
            if name not in values:
                values[name], origin[name] = value, where
    for name, value in values.items():
        usable(name, value, origin[name])
    return Gathered(Credentials(values), origin)


def usable(name: str, value: str, where: str) -> None:
    """:class:`WrongUsage` for what no server can be sent: a line's end, and in a header also what is not ASCII."""
    header = name.startswith(("PROXMOX_", "PORTAINER_", "QDRANT_", "VLLM_"))
    if not value.isprintable() or (header and (not value.isascii() or value != value.strip())):
        raise WrongUsage(
            f"{name} (from {where}) holds a character that no such key has: a line's end, a space at an end, no ASCII.",
            "Copy it anew; a file from Windows ends its lines with one character more.",
        )


#: A piece of a value as a shell reads it: plain (`#` within a word is a letter), quoted, or one protected character.
_PIECE = re.compile(r"""[^\s'"\\]+|'[^']*'|"(?:[^"\\]|\\.)*"|\\.""")


def of_env_file(path: Path) -> dict[str, str]:
    """``NAME=value`` lines, ``export`` before them or not, quoted as in a shell; nothing is expanded."""
    found: dict[str, str] = {}
    for number, line in enumerate(_private_text(path).split("\n"), start=1):
        words = re.sub(r"^export\s+", "", line.strip())
        if not words or words.startswith("#"):
            continue
        name, equals, quoted = words.partition("=")
        value, rest = _unquoted(quoted)
        if rest[:1] in {"'", '"', "\\"}:
            raise WrongUsage(f"{path}:{number} cannot be read: a quote is open, or a backslash stands last.", "Close the quote.")
        if not equals or re.search(r"\s", name) or re.match(r"\s+[^\s#]", rest):
            raise WrongUsage(
                f"{path}:{number} is not NAME=value.", "Write no space around =, and quotes around a value with spaces."
            )
        if name not in NAMES:
            shown = f": {name}" if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) else ""  # a key may stand there
            raise WrongUsage(f"{path}:{number} has a name that is no key{shown}.", "`cutover keys` lists the names.")
        found[name] = value
    return {name: value for name, value in found.items() if value}


def _unquoted(text: str) -> tuple[str, str]:
    """The value that stands first in ``text``, without its quotes, and what follows it."""
    value, at = "", 0
    while piece := _PIECE.match(text, at):
        at, one = piece.end(), piece[0]
        if one[0] == '"':
            value += re.sub(r'\\([\\"$`])', r"\1", one[1:-1])
        else:
            value += one[1:-1] if one[0] == "'" else one.removeprefix("\\")
    return value, text[at:]


def of_folder(folder: Path) -> dict[str, str]:
    """One file for each key, named like it; the newline at its end is not part of it."""
    found = {}
    for name in NAMES:
        try:
            value = (folder / name).read_text(encoding="utf-8").rstrip("\n")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8 text"
            raise WrongUsage(f"The credential {folder / name} cannot be read: {why}.") from None
        if value:
            found[name] = value
    return found


def _private_text(path: Path) -> str:
    """The text of a file that is its owner's alone. What was looked at is what is read: one open file, no link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, encoding="utf-8-sig") as file:
            seen = os.fstat(handle)
            if why := _unfit(seen):
                raise WrongUsage(f"{path} is not used: {why}.", f"Say `chmod 600 {path}` as its owner, or name another file.")
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = files.why(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WrongUsage(f"{path} cannot be read: {reason}.", "Name a file of your own after --env-file.") from None


def _unfit(seen: os.stat_result) -> str:
    if not stat.S_ISREG(seen.st_mode):
        return "it is no file"
    if seen.st_uid != os.geteuid():
        return "it belongs to somebody else"
    return "others can read it" if stat.S_IMODE(seen.st_mode) & 0o077 else ""
