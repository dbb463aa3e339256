"""Proxmox' firewall as it is: lists of rules, groups, aliases and sets, and how a rule is known again.

Rules have no ids in Proxmox, and a position is only the index in a list, so a rule is recognised by its content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Rule = dict[str, Any]
Key = tuple[tuple[str, str], ...]
"""What a rule is recognised by."""
CLUSTER = "cluster/firewall"
_GUEST_BASE = re.compile(r"^nodes/(?P<node>[^/]+)/(?P<kind>lxc|qemu)/(?P<vmid>\d+)/firewall$")


@dataclass(frozen=True)
class Firewall:
    """The whole configuration. A *base* is an API path such as ``cluster/firewall`` or ``nodes/pve/lxc/101/firewall``.

    ``rules`` is keyed by the list's API path (``<base>/rules`` or ``cluster/firewall/groups/<name>``); a rule is what the API
    says, without position and digest. Alias names are kept in lower case, as Proxmox compares them.
    """

    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    sets: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain lists and objects, for a record or a comparison."""
        return {
            "rules": {path: [dict(rule) for rule in rules] for path, rules in sorted(self.rules.items())},
            "groups": dict(sorted(self.groups.items())),
            "aliases": {b: {n: dict(a) for n, a in sorted(of.items())} for b, of in sorted(self.aliases.items()) if of},
            "ipsets": {
                b: {n: {**s, "members": [dict(m) for m in s["members"]]} for n, s in sorted(of.items())}
                for b, of in sorted(self.sets.items())
                if of
            },
        }


def plain(rule: Mapping[str, Any]) -> Rule:
    """A rule's content: without position, digest and derived fields, ``enable`` as 0 or 1."""
    kept = {k: v for k, v in rule.items() if k not in {"pos", "digest", "ipversion", "errors"} and v is not None}
    kept["enable"] = int(kept.get("enable") or 0)
    return kept


def same(rule: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a rule is recognised by. Not by ``enable``: our own first step switches it off."""
    return tuple(sorted((k, str(v)) for k, v in plain(rule).items() if k != "enable"))


def keys_of(taken: Iterable[Mapping[str, Any]]) -> frozenset[Key]:
    """What the rules of an undo record are recognised by."""
    return frozenset(same(one["rule"]) for one in taken)


def member_key(member: Mapping[str, Any]) -> tuple[str, int]:
    return str(member["cidr"]), int(member.get("nomatch") or 0)


def base_of(path: str) -> str:
    """The base of a rule list's path."""
    return CLUSTER if path.startswith(f"{CLUSTER}/groups/") else path.removesuffix("/rules")


def group_of(path: str) -> str | None:
    prefix = f"{CLUSTER}/groups/"
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def owner(base: str) -> int | None:
    """The guest whose own configuration this base is, or None."""
    found = _GUEST_BASE.match(base)
    return int(found["vmid"]) if found else None


def title(path: str) -> str:
    """A path of the API as people say it."""
    group = group_of(path)
    if group is not None:
        return f"security group {group}"
    base = base_of(path)
    found = _GUEST_BASE.match(base)
    if found:
        return f"{'LXC' if found['kind'] == 'lxc' else 'VM'} {found['vmid']}"
    parts = base.split("/")
    if base == CLUSTER:
        return "the datacenter"
    return f"VNet {parts[3]}" if parts[:2] == ["cluster", "sdn"] else f"node {parts[1]}"


def describe(rule: Mapping[str, Any]) -> str:
    """One rule in one line."""
    if rule.get("type") == "group":
        words = [f"use of group {rule.get('action')}"]
    else:
        words = [f"{rule.get('type', '?')} {rule.get('action', '?')}"]
    ports = "/".join(str(rule[k]) for k in ("macro", "proto", "dport") if rule.get(k))
    words += [ports] if ports else []
    words += [f"{word} {rule[key]}" for key, word in (("source", "from"), ("dest", "to"), ("iface", "on")) if rule.get(key)]
    words += [f"({rule['comment']})"] if rule.get("comment") else []
    return " ".join(words)
