"""What of the firewall goes with the departing guests, what is shared, and what is in the way. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutover.proxmox.firewall.names import Going, Name, meaning, named, prefix_of, span
from cutover.proxmox.firewall.rules import CLUSTER, Firewall, Rule, base_of, describe, member_key, owner, same, title

#: Sets that Proxmox itself gives a meaning to; they are never deleted.
STANDARD_SETS = re.compile(r"^(ipfilter-net\d+|management|blacklist)$")
#: Real interfaces of a guest on the host: veth952i0, tap952i0, fwbr952i0, fwln952i0, fwpr952p0.
_GUEST_INTERFACE = re.compile(r"^(?:veth|tap|fwbr|fwln|fwpr)(\d+)[ip]\d+$")


@dataclass(frozen=True)
class Removal:
    """What goes: rules per list (content), whole groups, sets and aliases. ``late`` names go after the guest itself."""

    rules: Mapping[str, tuple[Rule, ...]]
    groups: tuple[str, ...]
    sets: tuple[tuple[str, str], ...]
    aliases: tuple[tuple[str, str], ...]
    late: frozenset[Name] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.rules or self.groups or self.sets or self.aliases)


@dataclass(frozen=True)
class Resolution:
    """``removal``; ``shared`` and ``in_the_way`` as sentences."""

    removal: Removal
    shared: tuple[str, ...]
    in_the_way: tuple[str, ...]


def resolve(firewall: Firewall, going: Going, begun: Sequence[Mapping[str, Any]] = ()) -> Resolution:
    """Sort every mention of the departing guests into exclusive, shared and in the way. Pure.

    ``begun`` are the undo records of removals that were interrupted: a set or group that is by now empty, or has lost members
    since, no longer tells whose it was, but the record does (see ``journaled``).
    """
    half_groups = {str(name) for record in begun for name in record["groups"]}
    half_sets = {(str(s["base"]), str(s["name"])): {member_key(m) for m in s["members"]} for r in begun for s in r["ipsets"]}

    def own(base: str) -> bool:
        return owner(base) in going.vmids | going.later

    def exclusive(rule: Rule, base: str) -> bool:
        if rule.get("type") == "group":
            return False
        found = _GUEST_INTERFACE.match(str(rule.get("iface", "")))
        if found and int(found[1]) in going.vmids:
            return True
        sides = [meaning(firewall, base, str(rule[side])) for side in ("source", "dest") if rule.get(side)]
        # A packet has to match both sides, so one side that can never occur again makes the whole rule idle.
        return any(going.only(side.spans) or side.guest in going.vmids for side in sides)

    others = {path: rules for path, rules in firewall.rules.items() if not own(base_of(path))}
    gone: dict[str, list[Rule]] = {}
    for path, rules in others.items():
        gone[path] = [rule for rule in rules if exclusive(rule, base_of(path))]
    groups = {
        name
        for name in firewall.groups
        for path in [f"{CLUSTER}/groups/{name}"]
        if len(gone[path]) == len(others.get(path, ())) and (others.get(path) or name in half_groups)
    }
    for path, rules in others.items():
        gone[path] += [r for r in rules if r.get("type") == "group" and r.get("action") in groups]

    aliases = {
        ("alias", base, name)
        for base, known in firewall.aliases.items()
        if not own(base)
        for name, alias in known.items()
        if going.only([s] if (s := span(str(alias["cidr"]))) else None)
    }
    sets = {
        ("set", base, name)
        for base, known in firewall.sets.items()
        if not own(base)
        for name in known
        if not STANDARD_SETS.match(name)
        and (
            going.only(meaning(firewall, base, f"+{prefix_of(base)}{name}").spans)
            or ((base, name) in half_sets and {member_key(m) for m in known[name]["members"]} <= half_sets[base, name])
        )
    }

    removed_rules = {path: {same(r) for r in rules} for path, rules in gone.items()}
    in_the_way: list[str] = []
    shared: list[str] = []
    late: set[Name] = set()
    names: set[Name] = aliases | sets
    blocked: set[Name] = set()

    def used(through: frozenset[Name], where: str, base: str) -> None:
        for name in sorted(through & names):
            if owner(base) in going.later:
                blocked.add(name)
            elif own(base):
                late.add(name)
            else:
                blocked.add(name)
                in_the_way.append(
                    f"{named(name)} stands only for servers that are to be deleted, but {where} uses it together "
                    f"with others; take it out there first."
                )

    for path, rules in firewall.rules.items():
        base = base_of(path)
        for rule in rules:
            if same(rule) in removed_rules.get(path, ()):
                continue
            for side in ("source", "dest"):
                if not rule.get(side):
                    continue
                meant = meaning(firewall, base, str(rule[side]))
                used(meant.through, f"a rule of {title(path)} ({describe(rule)})", base)
                if not own(base) and (going.touched(meant.spans)):
                    shared.append(f"{title(path)}: {describe(rule)}")
    for base, known in firewall.sets.items():
        for name, content in known.items():
            if ("set", base, name) in sets:
                continue
            for member in content["members"]:
                meant = meaning(firewall, base, str(member["cidr"]))
                used(meant.through, f"IP set {name} of {title(base)}", base)
                if not own(base) and going.touched(meant.spans):
                    shared.append(f"{title(base)}: IP set {name} holds {member['cidr']}")

    # What stays because it is in the way keeps what it is made of.
    for kind, base, kept in list(blocked):
        if kind == "set":
            blocked |= meaning(firewall, base, f"+{prefix_of(base)}{kept}").through & names
    removal = Removal(
        rules={path: tuple(rules) for path, rules in gone.items() if rules},
        groups=tuple(sorted(groups)),
        sets=tuple(sorted((base, name) for _, base, name in sets - blocked)),
        aliases=tuple(sorted((base, name) for _, base, name in aliases - blocked)),
        late=frozenset(late - blocked),
    )
    return Resolution(removal, tuple(dict.fromkeys(shared)), tuple(dict.fromkeys(in_the_way)))


def users(firewall: Firewall, name: Name, going: Removal) -> list[str]:
    """Who uses a name, apart from the sets that go with it. Pure."""
    found = []
    for path, rules in firewall.rules.items():
        for rule in rules:
            texts = [str(rule[side]) for side in ("source", "dest") if rule.get(side)]
            if any(name in meaning(firewall, base_of(path), text).through for text in texts):
                found.append(f"a rule of {title(path)} ({describe(rule)})")
    for base, known in firewall.sets.items():
        for called, content in known.items():
            members = [str(member["cidr"]) for member in content["members"]]
            if (base, called) not in going.sets and any(name in meaning(firewall, base, m).through for m in members):
                found.append(f"IP set {called} of {title(base)}")
    return found


def sentences(removal: Removal) -> list[str]:
    """What goes, one line each, in the order in which it goes."""
    lines = [f"rule of {title(path)}: {describe(rule)}" for path, rules in removal.rules.items() for rule in rules]
    lines += [f"security group {name}, which is empty then" for name in removal.groups]
    lines += [f"IP set {name} of {title(base)}" for base, name in removal.sets]
    lines += [f"alias {name} of {title(base)}" for base, name in removal.aliases]
    return lines


def rest(rules: Sequence[Rule], removed: Sequence[Rule]) -> tuple[Rule, ...]:
    """A list without the removed rules. Rules of the same content had the same verdict, so content decides."""
    doomed = {same(rule) for rule in removed}
    return tuple(rule for rule in rules if same(rule) not in doomed)
