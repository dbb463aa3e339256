"""Who is let in: what a Qdrant server lets each kind of caller do, found by asking it.

Applications notice a key that changed at once: every request is answered 401, while health checks, versions and counts stay as
they were. So nothing is concluded from settings. Each caller (without a key, with one that nobody has, with the key, with the
read-only key, with a second key, with a token) asks the server, and what it may do there is compared with what it may do on the
other server, or with what the site means. Both questions are GETs: the second asks for a file of a collection that does not
exist, for which Qdrant wants the right to write and says so before it looks for the collection.

What this cannot see: keys that the tool was not given, and tokens whose claims differ from the one that it signs itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets as random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cutover.core.errors import CutoverError, Refused, Unreachable

if TYPE_CHECKING:
    import requests

    from cutover.core.credentials import Credentials
    from cutover.qdrant.client import Qdrant
    from cutover.site.schema import Site

TOKEN_SECONDS = 3600


class Right(StrEnum):
    """What a caller may do, as it is said."""

    WRITES = "may read and write"
    READS = "may only read"
    OUT = "is not let in"


class Caller(StrEnum):
    """Who asks, as it is said."""

    KEYLESS = "a caller without a key"
    STRANGER = "a caller with a key that nobody has"
    FULL = "a caller with QDRANT_API_KEY"
    ALT = "a caller with QDRANT_ALT_API_KEY"
    READ_ONLY = "a caller with QDRANT_READ_ONLY_API_KEY"
    TOKEN = "a caller with a token (JWT) signed with QDRANT_API_KEY"  # noqa: S105


#: Callers with a key of their own, and the name under which the tool has it.
KEYS: Mapping[Caller, str] = {
    Caller.FULL: "QDRANT_API_KEY",
    Caller.ALT: "QDRANT_ALT_API_KEY",
    Caller.READ_ONLY: "QDRANT_READ_ONLY_API_KEY",
}
#: What the compose file calls them.
SETTINGS: Mapping[Caller, str] = {
    Caller.FULL: "QDRANT__SERVICE__API_KEY",
    Caller.ALT: "QDRANT__SERVICE__ALT_API_KEY",
    Caller.READ_ONLY: "QDRANT__SERVICE__READ_ONLY_API_KEY",
}

Access = Mapping[Caller, Right]
"""What every caller that was tried may do. Callers whose key the tool does not have are left out."""


class CannotTell(CutoverError):
    """The server's answer does not say what the caller may do."""


# -- asking -----------------------------------------------------------------------------------------------------------
def access_of(server: Qdrant, keys: Credentials) -> Access:
    """What each caller may do on this server. Raises Unreachable, or CannotTell where an answer fits no Qdrant."""
    found: dict[Caller, Right] = {}
    for caller, key in _callers(keys).items():
        found[caller] = right_of(server, key)
        if caller is Caller.FULL and found[caller] is Right.OUT and Caller.TOKEN in found:
            del found[Caller.TOKEN]
    return found


def _callers(keys: Credentials) -> dict[Caller, str | None]:
    callers: dict[Caller, str | None] = {Caller.KEYLESS: None, Caller.STRANGER: random.token_hex(16)}
    callers |= {caller: value for caller, name in KEYS.items() if (value := keys.get(name)) and _sendable(value)}
    if full := callers.get(Caller.FULL):
        callers[Caller.TOKEN] = token(full)
    return callers


def right_of(server: Qdrant, key: str | None) -> Right:
    """What somebody with this key may do."""
    answer = server.answer_to("GET", "/collections", key=key)
    if answer.status_code in {401, 403}:
        return Right.OUT
    if answer.status_code != 200:
        raise _cannot_tell(server, answer)
    # A file of a collection that does not exist needs the right to write, which is looked at first.
    answer = server.answer_to("GET", f"/collections/cutover-{random.token_hex(8)}/shards/0/snapshot", key=key)
    if answer.status_code in {401, 403}:
        return Right.READS
    if answer.status_code == 404 and answer.content:  # an unknown route is answered without a word
        return Right.WRITES
    raise _cannot_tell(server, answer)


def _cannot_tell(server: Qdrant, answer: requests.Response) -> CutoverError:
    kind = Unreachable if answer.status_code >= 500 else CannotTell
    return kind(
        f"{server.name.capitalize()} answered {answer.status_code} when it was asked what a caller may do.",
        "Qdrant answers that from release 1.12 on." if answer.status_code == 404 else "",
    )


def token(key: str) -> str:
    """A token (JWT, HS256) that may read, signed with the key."""
    parts = [{"alg": "HS256", "typ": "JWT"}, {"access": "r", "exp": int(time.time()) + TOKEN_SECONDS}]
    said = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{said}.{_base64(hmac.digest(key.encode(), said.encode(), hashlib.sha256))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# -- what is meant ----------------------------------------------------------------------------------------------------
def meant(site: Site, keys: Credentials) -> Access:
    """What the site means each caller to be able to do; of tokens (JWT) it says nothing."""
    callers = _callers(keys)
    if site.qdrant.access == "open":
        return dict.fromkeys(callers, Right.WRITES)
    rights = {
        Caller.KEYLESS: Right.OUT,
        Caller.STRANGER: Right.OUT,
        Caller.FULL: Right.WRITES,
        Caller.ALT: Right.WRITES,
        Caller.READ_ONLY: Right.READS,
    }
    if callers.get(Caller.READ_ONLY) == callers.get(Caller.FULL):
        rights[Caller.READ_ONLY] = Right.WRITES
    return {caller: right for caller, right in rights.items() if caller in callers}


def unusable(keys: Credentials) -> list[str]:
    """Keys with which no application can come in, a sentence each: Qdrant compares header values, which are visible ASCII."""
    return [
        f"{name} has characters that cannot be sent in a header (a blank at an end, a line break, or no ASCII), so nobody could "
        "use it. Choose a key of letters and digits."
        for name in KEYS.values()
        if (value := keys.get(name)) and not _sendable(value)
    ]


def _sendable(key: str) -> bool:
    return key.isascii() and key.isprintable() and key == key.strip()


# -- comparing, pure --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Difference:
    """One caller that may do something else here than there."""

    caller: Caller
    here: Right
    there: Right

    def sentence(self, here: str, there: str) -> str:
        """``here`` and ``there``: what the servers are called."""
        return f"{self.caller} {self.here} on {here}, and {self.there} on {there}"


def differences(here: Access, there: Access) -> list[Difference]:
    """Callers that were tried on both and may do something else."""
    return [Difference(c, here[c], there[c]) for c in Caller if c in here and c in there and here[c] is not there[c]]


def way_out(one: Difference) -> str:
    """What to do where callers may do on the old server (here) what they may not on the new one (there), or the other way."""
    if one.caller in {Caller.KEYLESS, Caller.STRANGER}:
        if one.there is Right.OUT:
            return (
                "Either give the old server both keys first (QDRANT__SERVICE__API_KEY and QDRANT__SERVICE__READ_ONLY_API_KEY; it "
                "takes them when it is restarted) and the applications theirs; or move without keys: write `access: open` under "
                "`qdrant:` in site.yaml and take both keys out of the compose file."
            )
        return (
            "Either keep the database closed: write `access: keys` under `qdrant:` in site.yaml and both keys into the compose "
            "file; or take the keys off the old server first, if everybody may come in."
        )
    if one.caller is Caller.TOKEN:
        if one.there is Right.OUT:
            return (
                'Either write QDRANT__SERVICE__JWT_RBAC: "true" into the compose file; or give those applications a key and '
                "switch tokens off on the old server."
            )
        return "Either take QDRANT__SERVICE__JWT_RBAC out of the compose file; or switch tokens on on the old server."
    name, setting = KEYS[one.caller], SETTINGS[one.caller]
    if one.caller is Caller.ALT and one.there is Right.OUT:
        return (
            f"Either write {setting}: ${{{name}:?...}} into the compose file; or end the rotation: give every application the "
            f"first key and unset {name}."
        )
    return f"Either start the old server with {setting} set to the value of {name}; or set {name} to the key that it has."


def as_said(found: Access) -> str:
    """One line for a person: who may do what."""
    by_right: dict[Right, list[str]] = {}
    for caller, right in found.items():
        by_right.setdefault(right, []).append(str(caller))
    return "; ".join(f"{', '.join(callers)}: {right}" for right, callers in by_right.items())


# -- keys that arrived as something else ------------------------------------------------------------------------------
_MANGLED: Sequence[Callable[[str], str]] = (
    lambda key: re.sub(r"\$\$|\$\{\w+[^}]*\}|\$\w+", lambda m: "$" if m[0] == "$$" else "", key),  # Compose's variables
    lambda key: key.replace("$$", "$"),
    lambda key: key.replace("$", "$$"),
    lambda key: key.split("$", 1)[0],
    lambda key: key.split(" #", 1)[0].rstrip(),  # a comment of an env file
    lambda key: key.split("#", 1)[0].rstrip(),
    lambda key: key.split(" ", 1)[0],
    lambda key: key.split("=", 1)[0],
    lambda key: key.strip("\"'` "),
    lambda key: f'"{key}"',
    lambda key: f"'{key}'",
    lambda key: key.replace("\\\\", "\\"),
    lambda key: key.replace("\\", ""),
    lambda key: key.replace("\\", "\\\\"),
    unquote,
    lambda key: key.lower(),
    lambda key: key.upper(),
)


def neighbours(key: str) -> list[str]:
    """What Compose, an env file or a shell makes of a key that they read in their own way; never the key itself."""
    return [one for one in dict.fromkeys(change(key) for change in _MANGLED) if one and one != key and _sendable(one)]


def shortfall(server: Qdrant, site: Site, keys: Credentials) -> str:
    """Why this server does not let in exactly who is meant, one clause without secrets; empty where it does.

    Asked with every key, without one, with one that nobody has, and with what a key becomes when Compose reads it in its own
    way. Raises as :func:`access_of` does.
    """
    if wrong := unusable(keys):
        return wrong[0].rstrip(".")
    should = meant(site, keys)
    found = access_of(server, keys)
    wanted = [Difference(c, should[c], found[c]) for c in should if found[c] is not should[c]]
    for name in KEYS.values():
        key = keys.get(name)
        if key is None or site.qdrant.access == "open" or found[Caller.STRANGER] is not Right.OUT:
            continue
        others = {keys.get(other) for other in KEYS.values()}
        for near in neighbours(key):
            if near not in others and right_of(server, near) is not Right.OUT:
                return (
                    f"{server.name} did not get {name} as it is: it lets in what was made of it by a program that read $, #, "
                    "quotes or \\ in its own way"
                )
    return "; ".join(f"{one.caller} {one.there}, and {_should(one.here)}" for one in wanted)


def let_in(site: Site) -> str:
    """Whom a server lets in of which :func:`shortfall` found nothing, a clause that goes on with a sentence about it."""
    if site.qdrant.access == "open":
        return "letting in everybody without a key, as site.yaml says"
    return "letting in whoever has one of its keys, and nobody else"


def _should(right: Right) -> str:
    return {Right.WRITES: "should read and write", Right.READS: "should only read", Right.OUT: "should not be let in"}[right]


# -- what stands against moving applications from one server to the other ---------------------------------------------------
@dataclass(frozen=True)
class Objection:
    """Why applications would not be let in as before: a sentence without its full stop, and both ways out."""

    sentence: str
    way_out: str


def objections(old: Access | None, new: Access | None, should: Access, *, names: tuple[str, str]) -> list[Objection]:
    """What applications would notice. ``old`` or ``new`` None: that server does not run. Pure.

    The old server is compared with the new one, or with what the site means where that does not run yet; the new one with what
    the site means as well, so that a database that is open everywhere is open because somebody wrote so.
    """
    found: list[Objection] = []
    said: set[Caller] = set()
    target = should if new is None else new
    there = "the new one as site.yaml means it" if new is None else names[1]
    if old is not None:
        for one in differences(old, target):
            if {Caller.KEYLESS, Caller.STRANGER} == said | {one.caller}:
                continue  # an open server is open to both: once is enough
            said.add(one.caller)
            if one.caller is Caller.READ_ONLY and one.here is Right.OUT:
                found.append(Objection(_no_read_only_key(names[0]), way_out(one)))
            else:
                found.append(Objection(one.sentence(names[0], there), way_out(one)))
    for one in differences(new if new is not None else {}, should):
        if one.caller in said or (one.caller is Caller.STRANGER and Caller.KEYLESS in said):
            continue
        said.add(one.caller)
        if one.caller is Caller.READ_ONLY and old is not None and old.get(one.caller) is Right.OUT:
            found.append(Objection(_no_read_only_key(names[0]), way_out(one)))
        else:
            found.append(
                Objection(f"{one.caller} {one.here} on {names[1]}, and {_should(one.there)}, says site.yaml", way_out(one))
            )
    return found


def _no_read_only_key(name: str) -> str:
    return (
        f"{name} does not know the read-only key in QDRANT_READ_ONLY_API_KEY (it has none, or another); with it the new server "
        "fetches the snapshots"
    )


def lost(here: Access, there: Access, *, names: tuple[str, str]) -> list[Objection]:
    """Who may do less on the server that applications are to go back to (there) than on the one that serves (here). Pure."""
    rank = [Right.OUT, Right.READS, Right.WRITES]
    return [
        Objection(one.sentence(*names), _way_back(one, names))
        for one in differences(here, there)
        if rank.index(one.there) < rank.index(one.here)
    ]


def _way_back(one: Difference, names: tuple[str, str]) -> str:
    here, there = names
    if one.caller in {Caller.KEYLESS, Caller.STRANGER}:
        return f"Either take the keys off {there}; or give every application its key first, and then {here} the same ones."
    if one.caller is Caller.TOKEN:
        return f"Either start {there} with QDRANT__SERVICE__JWT_RBAC=true; or give those applications a key."
    return (
        f"Either start {there} with {SETTINGS[one.caller]} set to the value of {KEYS[one.caller]}; or deploy on {here} the key "
        f"that {there} has, and give it to the applications."
    )


def objections_now(old: Qdrant, new: Qdrant, site: Site, keys: Credentials) -> list[Objection]:
    """:func:`objections`, asked of both servers now. The old one has to answer; the new one may not run yet."""
    wrong = [Objection(one.rstrip("."), "Give every server and application the new key.") for one in unusable(keys)]
    try:
        theirs = access_of(new, keys)
    except Unreachable:
        theirs = None
    return wrong + objections(access_of(old, keys), theirs, meant(site, keys), names=(old.name, new.name))


def refuse(found: Sequence[Objection], *, doing: str) -> None:
    """:class:`Refused` with every objection and its ways out, where there is one. ``doing``: "Not copied"."""
    if found:
        hints = " ".join(dict.fromkeys(one.way_out for one in found))
        said = "; ".join(one.sentence for one in found)
        raise Refused(f"{doing}, because applications would not be let in as before: {said}.", hints)
