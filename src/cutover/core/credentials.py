"""Keys and passwords: from the environment only, never from a file in Git, never printed.

A :class:`Credentials` object shows ``<set>`` or ``<not set>`` instead of values wherever it is printed, and
:meth:`Credentials.redact` takes every known value out of a text before it reaches a person, the journal or a report.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any
from urllib.parse import quote, quote_plus
from weakref import WeakValueDictionary

from cutover.core.errors import WrongUsage

NAMES: Mapping[str, str] = {
    "PROXMOX_TOKEN_ID": "the Proxmox API token's id, user@realm!name",
    "PROXMOX_TOKEN_SECRET": "the Proxmox API token's secret",
    "PORTAINER_API_KEY": "a Portainer access token, ptr_...",
    "QDRANT_API_KEY": "Qdrant's key; the applications keep the one they have, so both servers share it",
    "QDRANT_READ_ONLY_API_KEY": "Qdrant's read-only key",
    "QDRANT_ALT_API_KEY": "Qdrant's second key, where applications use one while keys are changed (alt_api_key)",
    "NGINX_USER": "the user that Nginx asks for in front of Qdrant (auth_basic), where it does",
    "NGINX_PASSWORD": "that user's password",
    "VLLM_API_KEY": "vLLM's key, where it has one",
    "DNS_TSIG_NAME": "name of the TSIG key for dynamic DNS updates",
    "DNS_TSIG_SECRET": "the TSIG key, base64",
    "PIHOLE_PASSWORD": "Pi-hole's application password",
    "ADGUARD_USER": "AdGuard Home's user",
    "ADGUARD_PASSWORD": "AdGuard Home's password",
    "GIT_USERNAME": "user for a private Git repository",
    "GIT_TOKEN": "token for a private Git repository",
    "NOTIFY_URL": "webhook that is told what happens, JSON by POST; whoever has the address can send to it",
}

#: Names whose value is an identity, not a secret: they may be shown.
_SHOWN = {"PROXMOX_TOKEN_ID", "DNS_TSIG_NAME", "ADGUARD_USER", "GIT_USERNAME", "NGINX_USER"}

_HIDDEN = "<secret>"
#: Shorter values are words: taking them out would tell where they stood.
_SHORTEST = 4
_SHORTEST_ENCODED = 6
_SHORTEST_HALF = 8
#: The keys of this process, for texts that are cut before they reach somebody who knows them.
_IN_USE: WeakValueDictionary[int, Credentials] = WeakValueDictionary()


@dataclass(frozen=True)
class Credentials:
    """The secrets of one run. Missing ones are only an error where they are needed (:meth:`need`)."""

    values: Mapping[str, str]

    def __post_init__(self) -> None:
        _IN_USE[id(self)] = self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Credentials:
        """Read the known names from ``environ`` (default: the process's environment). Empty means not set."""
        env = os.environ if environ is None else environ
        return cls({name: env[name] for name in NAMES if env.get(name)})

    def get(self, name: str) -> str | None:
        """The value, or None where it is not set."""
        if name not in NAMES:
            raise KeyError(name)
        return self.values.get(name)

    def need(self, name: str) -> str:
        """The value; :class:`WrongUsage` with the name and its meaning where it is not set."""
        value = self.get(name)
        if value is None:
            raise WrongUsage(
                f"{name} is not set: {NAMES[name]}.",
                "Put it into the environment, or into a file of your own and name that with --env-file.",
            )
        return value

    def redact(self, text: str) -> str:
        """``text`` without any secret value, so that it can be shown.

        In no form that a value takes on its way (JSON, ``repr``, a URL, base64, a page), and not the half of one that somebody
        else cut off.
        """
        hidden = {v for k, v in self.values.items() if k not in _SHOWN and len(v) >= _SHORTEST}
        for value in sorted(hidden, key=len, reverse=True):
            text = _without_halves(_forms(value).sub(_HIDDEN, text), value)
        return text

    def redact_tree(self, node: Any) -> Any:
        """Something made of JSON with :meth:`redact` done to all of its texts."""
        return in_texts(node, self.redact)

    def __repr__(self) -> str:
        return "Credentials(" + ", ".join(f"{n}=<{'set' if n in self.values else 'not set'}>" for n in NAMES) + ")"


def cut(text: str, most: int) -> str:
    """At most ``most`` characters of what a server said, without the secrets of this process.

    First they are taken out, then it is cut: the other way round half of a key could stay.
    """
    for held in list(_IN_USE.values()):
        text = held.redact(text)
    return text if len(text) <= most else text[:most].rstrip() + "…"


@lru_cache(maxsize=64)
def _forms(value: str) -> re.Pattern[str]:
    """Every form in which a value may stand in a text, the longest first."""
    raw = value.encode("utf-8", "surrogateescape")
    found = {
        value, repr(value)[1:-1], repr(raw)[2:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(value)[1:-1])[1:-1], html.escape(value), html.escape(value, quote=False),
        shlex.quote(value), raw.hex(), raw.hex().upper(),
    }  # fmt: skip
    for safe in ("", "/", "!'()*", "!'()*/"):
        found |= {quote(raw, safe=safe), quote_plus(raw, safe=safe)}
    if len(raw) >= _SHORTEST_ENCODED:
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # What stands before it moves its bits; the characters in the middle are its own.
            for before in range(3):
                encoded = encode(b"\0" * before + raw).decode()
                found.add(encoded[-(-before * 4 // 3) : (before + len(raw)) * 4 // 3])
    known = sorted((re.escape(form) for form in found if len(form) >= _SHORTEST), key=len, reverse=True)
    # Escapes of a URL are written in large or small letters.
    return re.compile("|".join(re.sub(r"%[0-9A-F]{2}", r"(?i:\g<0>)", form) for form in known))


def _without_halves(text: str, value: str) -> str:
    """``text`` without the beginning or the end of a value, where that is half of it and long enough to be no word."""
    half = max(len(value) // 2, _SHORTEST_HALF)
    if half >= len(value):
        return text
    text = _without_beginning(text, value, half, _HIDDEN)
    return _without_beginning(text[::-1], value[::-1], half, _HIDDEN[::-1])[::-1]


def _without_beginning(text: str, value: str, half: int, hidden: str) -> str:
    at = 0
    while (at := text.find(value[:half], at)) >= 0:
        alike = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(value, text[at:], strict=False)))
        text = f"{text[:at]}{hidden}{text[at + alike :]}"
        at += len(hidden)
    return text


def in_texts(node: Any, change: Callable[[str], str]) -> Any:
    """Something made of JSON, with every text in it changed.

    For secrets this has to come before it is written as JSON: there quotes look different, and a key made of digits would be
    taken out of the middle of numbers.
    """
    if isinstance(node, str):
        return change(node)
    if isinstance(node, Mapping):
        return {change(key) if isinstance(key, str) else key: in_texts(value, change) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [in_texts(value, change) for value in node]
    return node
