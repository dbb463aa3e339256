"""Keys and passwords: from the environment only, never from a file in Git, never printed.

A :class:`Secrets` object shows ``<set>`` or ``<not set>`` instead of values wherever it is printed, and
:meth:`Secrets.redact` takes every known value out of a text before it reaches a person, the journal or a report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cutover.core.errors import WrongUsage

NAMES: Mapping[str, str] = {
    "PROXMOX_TOKEN_ID": "the Proxmox API token's id, user@realm!name",
    "PROXMOX_TOKEN_SECRET": "the Proxmox API token's secret",
    "PORTAINER_API_KEY": "a Portainer access token, ptr_...",
    "QDRANT_API_KEY": "Qdrant's key; the applications keep the one they have, so both servers share it",
    "QDRANT_READ_ONLY_API_KEY": "Qdrant's read-only key",
    "QDRANT_ALT_API_KEY": "Qdrant's second key, where applications use one while keys are changed (alt_api_key)",
    "VLLM_API_KEY": "vLLM's key, where it has one",
    "DNS_TSIG_NAME": "name of the TSIG key for dynamic DNS updates",
    "DNS_TSIG_SECRET": "the TSIG key, base64",
    "PIHOLE_PASSWORD": "Pi-hole's application password",
    "ADGUARD_USER": "AdGuard Home's user",
    "ADGUARD_PASSWORD": "AdGuard Home's password",
    "GIT_USERNAME": "user for a private Git repository",
    "GIT_TOKEN": "token for a private Git repository",
}

#: Names whose value is an identity, not a secret: they may be shown.
_SHOWN = {"PROXMOX_TOKEN_ID", "DNS_TSIG_NAME", "ADGUARD_USER", "GIT_USERNAME"}


@dataclass(frozen=True)
class Credentials:
    """The secrets of one run. Missing ones are only an error where they are needed (:meth:`need`)."""

    values: Mapping[str, str] = field(repr=False)

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
            raise WrongUsage(f"{name} is not set: {NAMES[name]}.", "Put it into the environment of this command.")
        return value

    def redact(self, text: str) -> str:
        """``text`` without any secret value, so that it can be shown."""
        hidden = [v for k, v in self.values.items() if k not in _SHOWN and len(v) >= 4]
        for value in sorted(hidden, key=len, reverse=True):
            text = text.replace(value, "<secret>")
        return text

    def redact_tree(self, node: Any) -> Any:
        """Something made of JSON with :meth:`redact` done to all of its texts."""
        return in_texts(node, self.redact)

    def __repr__(self) -> str:
        return "Secrets(" + ", ".join(f"{n}=<{'set' if n in self.values else 'not set'}>" for n in NAMES) + ")"


def in_texts(node: Any, change: Callable[[str], str]) -> Any:
    """Something made of JSON, with every text in it changed.

    For secrets this has to come before it is written as JSON: there quotes look different, and a key made of digits would be
    taken out of the middle of numbers.
    """
    if isinstance(node, str):
        return change(node)
    if isinstance(node, Mapping):
        return {key: in_texts(value, change) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [in_texts(value, change) for value in node]
    return node
