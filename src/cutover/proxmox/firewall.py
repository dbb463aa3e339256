"""Who mentions a guest in Proxmox' firewall, and what of it may go when the guest goes.

A guest's own rules live in a file that Proxmox deletes together with the guest. Everything else that names it stays: rules of
the datacenter, of nodes, of other guests and of VNets, security groups, aliases and IP sets, and names refer to names. This
module reads all of it, follows the names to addresses, and sorts every mention into three heaps:

* **exclusive**: it speaks of departing guests only. It is removed, and written down so that it can be put back in its place.
* **shared**: it also speaks of somebody who stays (a subnet, a list, a set with other members). It is reported and left alone.
* **in the way**: a name that only means departing guests, but that somebody who stays uses. Proxmox deletes an alias that is in
  use without asking and then fails to compile the whole rule set, so this refuses the decommissioning instead.

Deciding is pure (:func:`resolve`, :func:`without`, :func:`put_back`); reading and carrying out are thin. Rules have no ids in
Proxmox: a position is only the index in a list, so rules are found again by their content, the highest position goes first, each
call carries the list's fresh digest, and before it the rest of the list is compared with what was planned.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.write_guard import WriteGuard

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox

Rule = dict[str, Any]
CLUSTER = "cluster/firewall"
#: Sets that Proxmox itself gives a meaning to; they are never deleted.
STANDARD_SETS = re.compile(r"^(ipfilter-net\d+|management|blacklist)$")
_GUEST_BASE = re.compile(r"^nodes/(?P<node>[^/]+)/(?P<kind>lxc|qemu)/(?P<vmid>\d+)/firewall$")
_ALIAS = re.compile(r"^(?P<scope>dc/|guest/)?(?P<name>[A-Za-z][A-Za-z0-9_-]+)$")
_SET = re.compile(r"^\+(?P<scope>dc/|guest/|sdn/)?(?P<name>[A-Za-z][A-Za-z0-9_-]+)$")
#: Real interfaces of a guest on the host: veth952i0, tap952i0, fwbr952i0, fwln952i0, fwpr952p0.
_GUEST_INTERFACE = re.compile(r"^(?:veth|tap|fwbr|fwln|fwpr)(\d+)[ip]\d+$")


# -- what there is --------------------------------------------------------------------------------


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


def _same(rule: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a rule is recognised by. Not by ``enable``: our own first step switches it off."""
    return tuple(sorted((k, str(v)) for k, v in plain(rule).items() if k != "enable"))


# -- addresses ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """All addresses from ``first`` to ``last`` of one IP version, both included."""

    version: int
    first: int
    last: int


def span(text: str) -> Span | None:
    """An address, network or range as Proxmox writes them; None where it is something else."""
    try:
        if "-" in text:
            one, two = (ipaddress.ip_address(part.strip()) for part in text.split("-", 1))
            return Span(one.version, int(one), int(two)) if one.version == two.version else None
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return None
    return Span(network.version, int(network.network_address), int(network.broadcast_address))


def _hosts(addresses: Iterable[str]) -> frozenset[tuple[int, int]]:
    parsed = (ipaddress.ip_address(address.split("/")[0]) for address in addresses)
    return frozenset((address.version, int(address)) for address in parsed)


@dataclass(frozen=True)
class Going:
    """The guests that leave: their ids and addresses (without prefix length).

    ``later`` are those that leave after them and are still there: their own rules are no concern of anybody who stays, but go
    with their file (and into their final backup before), so nothing is taken out of them and no name that they use goes yet.
    """

    vmids: frozenset[int]
    addresses: frozenset[str]
    later: frozenset[int] = frozenset()

    def only(self, spans: Sequence[Span] | None) -> bool:
        """Whether there is at least one address and every one belongs to a departing guest."""
        hosts = _hosts(self.addresses)
        return bool(spans) and all(self._inside(s, hosts) == s.last - s.first + 1 for s in spans or ())

    def touched(self, spans: Sequence[Span] | None) -> bool:
        """Whether any address belongs to a departing guest."""
        hosts = _hosts(self.addresses)
        return any(self._inside(s, hosts) for s in spans or ())

    @staticmethod
    def _inside(s: Span, hosts: frozenset[tuple[int, int]]) -> int:
        return sum(1 for version, host in hosts if version == s.version and s.first <= host <= s.last)


# -- names ----------------------------------------------------------------------------------------

Name = tuple[str, str, str]
"""("alias" | "set", base, name)"""


@dataclass(frozen=True)
class Meaning:
    """What a reference stands for: its addresses (None = cannot be known here) and the names it goes through."""

    spans: tuple[Span, ...] | None
    through: frozenset[Name] = frozenset()
    guest: int | None = None


def meaning(firewall: Firewall, base: str, text: str) -> Meaning:
    """Follow ``source``, ``dest`` or a set's member, seen from ``base``, to addresses. Bare names: guest, then datacenter."""
    found = _SET.match(text)
    if found:
        if found["scope"] == "sdn/":
            owner = re.match(r"^guest-ipam-(\d+)$", found["name"])
            return Meaning(None, guest=int(owner[1]) if owner else None)
        for where in _scopes(base, found["scope"]):
            known = firewall.sets.get(where, {}).get(found["name"])
            if known is None:
                continue
            parts = [meaning(firewall, where, str(m["cidr"])) for m in known["members"]]
            through = frozenset({("set", where, found["name"])}).union(*(p.through for p in parts))
            positive = [p for p, m in zip(parts, known["members"], strict=True) if not int(m.get("nomatch") or 0)]
            if any(p.spans is None for p in positive):
                return Meaning(None, through)
            return Meaning(tuple(s for p in positive for s in p.spans or ()), through)
        return Meaning(None)
    found = _ALIAS.match(text)
    if found:
        for where in _scopes(base, found["scope"]):
            alias = firewall.aliases.get(where, {}).get(found["name"].lower())
            if alias is not None:
                one = span(str(alias["cidr"]))
                return Meaning((one,) if one else None, frozenset({("alias", where, found["name"].lower())}))
        return Meaning(None)
    spans = [span(part) for part in text.split(",")]
    return Meaning(None) if any(s is None for s in spans) else Meaning(tuple(s for s in spans if s is not None))


def _scopes(base: str, prefix: str | None) -> tuple[str, ...]:
    if prefix == "dc/":
        return (CLUSTER,)
    if prefix == "guest/":
        return (base,)
    return (base,) if base == CLUSTER else (base, CLUSTER)


def _base(path: str) -> str:
    """The base of a rule list's path."""
    return CLUSTER if path.startswith(f"{CLUSTER}/groups/") else path.removesuffix("/rules")


def _group_of(path: str) -> str | None:
    prefix = f"{CLUSTER}/groups/"
    return path.removeprefix(prefix) if path.startswith(prefix) else None


def owner(base: str) -> int | None:
    """The guest whose own configuration this base is, or None."""
    found = _GUEST_BASE.match(base)
    return int(found["vmid"]) if found else None


def title(path: str) -> str:
    """A path of the API as people say it."""
    group = _group_of(path)
    if group is not None:
        return f"security group {group}"
    base = _base(path)
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


# -- deciding -------------------------------------------------------------------------------------


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
    since, no longer tells whose it was, but the record does.
    """
    half_groups = {str(name) for record in begun for name in record["groups"]}
    half_sets = {(str(s["base"]), str(s["name"])): {_member(m) for m in s["members"]} for r in begun for s in r["ipsets"]}

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

    others = {path: rules for path, rules in firewall.rules.items() if not own(_base(path))}
    gone: dict[str, list[Rule]] = {}
    for path, rules in others.items():
        gone[path] = [rule for rule in rules if exclusive(rule, _base(path))]
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
            going.only(meaning(firewall, base, f"+{_prefix(base)}{name}").spans)
            or ((base, name) in half_sets and {_member(m) for m in known[name]["members"]} <= half_sets[base, name])
        )
    }

    removed_rules = {path: {_same(r) for r in rules} for path, rules in gone.items()}
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
                    f"{_named(name)} stands only for servers that are to be deleted, but {where} uses it together "
                    f"with others; take it out there first."
                )

    for path, rules in firewall.rules.items():
        base = _base(path)
        for rule in rules:
            if _same(rule) in removed_rules.get(path, ()):
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
            blocked |= meaning(firewall, base, f"+{_prefix(base)}{kept}").through & names
    removal = Removal(
        rules={path: tuple(rules) for path, rules in gone.items() if rules},
        groups=tuple(sorted(groups)),
        sets=tuple(sorted((base, name) for _, base, name in sets - blocked)),
        aliases=tuple(sorted((base, name) for _, base, name in aliases - blocked)),
        late=frozenset(late - blocked),
    )
    return Resolution(removal, tuple(dict.fromkeys(shared)), tuple(dict.fromkeys(in_the_way)))


def _prefix(base: str) -> str:
    return "dc/" if base == CLUSTER else "guest/"


def _named(name: Name) -> str:
    return f"{'Alias' if name[0] == 'alias' else 'IP set'} {name[2]} of {title(name[1])}"


def users(firewall: Firewall, name: Name, going: Removal) -> list[str]:
    """Who uses a name, apart from the sets that go with it. Pure."""
    found = []
    for path, rules in firewall.rules.items():
        for rule in rules:
            texts = [str(rule[side]) for side in ("source", "dest") if rule.get(side)]
            if any(name in meaning(firewall, _base(path), text).through for text in texts):
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


# -- applying and undoing, on paper ---------------------------------------------------------------


def rest(rules: Sequence[Rule], removed: Sequence[Rule]) -> tuple[Rule, ...]:
    """A list without the removed rules. Rules of the same content had the same verdict, so content decides."""
    doomed = {_same(rule) for rule in removed}
    return tuple(rule for rule in rules if _same(rule) not in doomed)


def without(firewall: Firewall, removal: Removal) -> Firewall:
    """The configuration after the removal. Pure; the act is compared with it."""
    rules = {path: rest(known, removal.rules.get(path, ())) for path, known in firewall.rules.items()}
    for name in removal.groups:
        rules.pop(f"{CLUSTER}/groups/{name}", None)
    return Firewall(
        rules=rules,
        groups={n: c for n, c in firewall.groups.items() if n not in removal.groups},
        aliases={b: {n: a for n, a in of.items() if (b, n) not in removal.aliases} for b, of in firewall.aliases.items()},
        sets={b: {n: s for n, s in of.items() if (b, n) not in removal.sets} for b, of in firewall.sets.items()},
    )


def undo_record(firewall: Firewall, removal: Removal) -> dict[str, Any]:
    """Everything that is needed to put the removal back, as JSON: rules with their positions, names with their content."""
    taken: dict[str, list[dict[str, Any]]] = {}
    for path, removed in removal.rules.items():
        doomed = {_same(rule) for rule in removed}
        taken[path] = [{"pos": pos, "rule": dict(rule)} for pos, rule in enumerate(firewall.rules[path]) if _same(rule) in doomed]
    return {
        "rules": taken,
        # Positions alone say nothing once somebody else has changed the list; its neighbours still do.
        "lists": {path: [dict(rule) for rule in firewall.rules[path]] for path in taken},
        "groups": {name: firewall.groups[name] for name in removal.groups},
        "ipsets": [
            {"base": b, "name": n, **firewall.sets[b][n], "members": [dict(m) for m in firewall.sets[b][n]["members"]]}
            for b, n in removal.sets
        ],
        "aliases": [{"base": b, **firewall.aliases[b][n]} for b, n in removal.aliases],
    }


def put_back(firewall: Firewall, record: Mapping[str, Any]) -> Firewall:
    """The configuration after the undo record was carried out, once or more often. Pure."""
    rules = {path: tuple(known) for path, known in firewall.rules.items()}
    for path, taken in record["rules"].items():
        now = rules.get(path, ())
        rules[path] = rules_put_back(now, list_before(now, record, path), _keys_of(taken))
    groups = {**firewall.groups, **record["groups"]}
    aliases = {b: dict(of) for b, of in firewall.aliases.items()}
    for alias in record["aliases"]:
        aliases.setdefault(alias["base"], {})[str(alias["name"]).lower()] = {k: v for k, v in alias.items() if k != "base"}
    sets = {b: dict(of) for b, of in firewall.sets.items()}
    for content in record["ipsets"]:
        kept = {k: v for k, v in content.items() if k not in {"base", "name"}}
        sets.setdefault(content["base"], {})[content["name"]] = kept
    return Firewall(rules, groups, aliases, sets)


Key = tuple[tuple[str, str], ...]


def _keys_of(taken: Iterable[Mapping[str, Any]]) -> frozenset[Key]:
    """What the rules of an undo record are recognised by."""
    return frozenset(_same(one["rule"]) for one in taken)


def list_before(now: Sequence[Rule], record: Mapping[str, Any], path: str) -> list[Rule]:
    """A list as it was when the record was taken. Pure. Records of older versions only have positions: those are filled in."""
    known = record.get("lists", {}).get(path)
    if known is not None:
        return [dict(rule) for rule in known]
    taken = sorted(record["rules"][path], key=lambda one: int(one["pos"]))
    gone = _keys_of(taken)
    before = [dict(rule) for rule in now if _same(rule) not in gone]
    for one in taken:
        before.insert(min(int(one["pos"]), len(before)), dict(one["rule"]))
    return before


def _common(one: Sequence[Key], two: Sequence[Key]) -> list[tuple[int, int]]:
    """The longest common subsequence of two lists, as pairs of positions."""
    length = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one) - 1, -1, -1):
        for j in range(len(two) - 1, -1, -1):
            length[i][j] = length[i + 1][j + 1] + 1 if one[i] == two[j] else max(length[i + 1][j], length[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(one) and j < len(two):
        if one[i] == two[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def rules_put_back(now: Sequence[Rule], before: Sequence[Rule], removed: frozenset[Key]) -> tuple[Rule, ...]:
    """The list ``now`` with the removed rules of ``before`` in it again, each as often as it was there. Pure.

    A rule that is there already, by whomever, is not put back again, so that doing this twice is doing it once. It goes behind
    the nearest of its old predecessors that is still there, and what others have added, moved or removed since stays as they
    left it. One that is there and was only switched off by us is switched on again.
    """
    was, here = [_same(rule) for rule in before], [_same(rule) for rule in now]
    pairs = _common(was, here)
    aligned = dict(pairs)
    found: list[tuple[int | None, Rule]] = [(None, dict(rule)) for rule in now]
    for i, j in pairs:
        switched = {"enable": plain(before[i])["enable"]} if was[i] in removed else {}
        found[j] = (i, {**now[j], **switched})
    absent = [i for i, key in enumerate(was) if key in removed and i not in aligned]
    for key in {was[i] for i in absent}:
        # Those that somebody has put elsewhere are there as well.
        elsewhere = here.count(key) - sum(1 for i, _ in pairs if was[i] == key)
        for i in [i for i in reversed(absent) if was[i] == key][:elsewhere]:
            absent.remove(i)
    for i in absent:
        places = {origin: at for at, (origin, _) in enumerate(found) if origin is not None}
        above, below = [o for o in places if o < i], [o for o in places if o > i]
        at = places[max(above)] + 1 if above else places[min(below)] if below else min(i, len(found))
        found.insert(at, (i, dict(before[i])))
    return tuple(rule for _, rule in found)


@dataclass(frozen=True)
class Put:
    """One call that brings a list nearer to what it has to become: ``add`` at the top, ``move`` or ``switch`` on or off."""

    kind: Literal["add", "move", "switch"]
    rule: Rule
    pos: int = 0
    to: int = 0


def next_put(now: Sequence[Rule], before: Sequence[Rule], removed: frozenset[Key], begun: Collection[Key] = ()) -> Put | None:
    """The next call that puts the removed rules back, or None where they are. Pure.

    A new rule lands at the top, whatever its position is to be. So it is added switched off, moved, and only then switched on: in
    the wrong place it would let through or keep out what it never did. ``begun`` are rules whose putting back was interrupted:
    the first such rule may be one that still has to be moved.
    """
    for key in begun:
        at = next((pos for pos, rule in enumerate(now) if _same(rule) == key), None)
        if at is None or key not in removed:
            continue
        others = [*now[:at], *now[at + 1 :]]
        wanted = rules_put_back(others, before, removed)
        place = _inserted(others, wanted, key)
        if place is not None and place != at:
            return Put("move", dict(now[at]), at, place if place < at else place + 1)
    wanted = rules_put_back(now, before, removed)
    here = [_same(rule) for rule in now]
    for pos, rule in enumerate(wanted):
        if pos >= len(now) or _same(rule) != here[pos]:
            return Put("add", dict(rule), pos)
        if plain(rule)["enable"] != plain(now[pos])["enable"]:
            return Put("switch", dict(rule), pos)
    return None


def _inserted(now: Sequence[Rule], wanted: Sequence[Rule], key: Key) -> int | None:
    """Where in ``now`` the first rule with this key goes that ``wanted`` has more, or None."""
    at = 0
    for rule in wanted:
        if at < len(now) and _same(now[at]) == _same(rule):
            at += 1
        elif _same(rule) == key:
            return at
    return None


# -- reading --------------------------------------------------------------------------------------


def read(proxmox: Proxmox) -> Firewall:
    """Read everything that can hold a reference. Sites without SDN have no VNets to read."""
    bases = [CLUSTER]
    bases += [f"nodes/{node}/firewall" for node in sorted(n["node"] for n in proxmox.get("nodes"))]
    bases += [f"{place.path}/firewall" for place in proxmox.places()]
    bases += [f"cluster/sdn/vnets/{vnet}/firewall" for vnet in _vnets(proxmox)]
    rules: dict[str, tuple[Rule, ...]] = {}
    aliases: dict[str, dict[str, dict[str, Any]]] = {}
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    for base in bases:
        rules[f"{base}/rules"] = tuple(plain(r) for r in _rules(proxmox, base))
        if base != CLUSTER and owner(base) is None:
            continue  # nodes and VNets have rules only
        aliases[base] = {str(a["name"]).lower(): _content(a) for a in proxmox.get(f"{base}/aliases")}
        sets[base] = {
            str(s["name"]): {
                "comment": str(s.get("comment") or ""),
                "members": [_content(m) for m in proxmox.get(f"{base}/ipset/{s['name']}")],
            }
            for s in proxmox.get(f"{base}/ipset")
        }
    groups = {str(g["group"]): str(g.get("comment") or "") for g in proxmox.get(f"{CLUSTER}/groups")}
    for name in groups:
        rules[f"{CLUSTER}/groups/{name}"] = tuple(plain(r) for r in proxmox.get(f"{CLUSTER}/groups/{name}"))
    return Firewall(rules, groups, aliases, sets)


def _content(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in {"digest", "ipversion", "errors"} and v not in (None, "")}


def _rules(proxmox: Proxmox, base: str) -> list[dict[str, Any]]:
    """A rule list; VNets got theirs with Proxmox VE 8.3, and answer "not implemented" before."""
    try:
        found: list[dict[str, Any]] = proxmox.get(f"{base}/rules") or []
    except CutoverError as error:
        if "/sdn/" in base and _not_implemented(error):
            return []
        raise
    return found


def _not_implemented(error: CutoverError) -> bool:
    return getattr(error, "status", 0) == 501 or "not implemented" in str(error).lower()


def _vnets(proxmox: Proxmox) -> Iterator[str]:
    try:
        # VNets that are not applied yet are listed too, and have no rules that could be read.
        found = proxmox.get("cluster/sdn/vnets", running=1)
    except CutoverError as error:
        if _not_implemented(error):
            return
        raise
    for vnet in found or ():
        if isinstance(vnet, Mapping) and vnet.get("vnet"):
            yield str(vnet["vnet"])


# -- carrying out ---------------------------------------------------------------------------------

_AGAIN = "Look at the change, then run the command again: it plans anew."


def _read_list(proxmox: Proxmox, path: str) -> tuple[list[dict[str, Any]], str | None]:
    entries = sorted(proxmox.get(path), key=lambda r: int(r.get("pos", 0)))
    return entries, (str(entries[0]["digest"]) if entries and entries[0].get("digest") else None)


def _guarded(
    proxmox: Proxmox, path: str, planned_rest: Sequence[Rule], doomed: set[Any]
) -> tuple[list[int], str | None, list[Any]]:
    """Positions of the doomed rules now, and the fresh digest. :class:`Refused` where the rest is not the planned rest."""
    entries, digest = _read_list(proxmox, path)
    now = [plain(e) for e in entries if _same(e) not in doomed]
    if now != list(planned_rest):
        raise Refused(
            f"The firewall rules of {title(path)} were changed since they were read; nothing was removed from them.",
            _AGAIN,
        )
    return [pos for pos, e in enumerate(entries) if _same(e) in doomed], digest, entries


def carry_out(proxmox: Proxmox, guard: WriteGuard, planned: Firewall, removal: Removal, *, late: bool = False) -> None:
    """Remove what was planned: rules switched off first, then deleted from the highest position down, then names.

    ``planned`` is the configuration for which ``removal`` was resolved. Everything that is already gone is skipped, so this can
    be run again after an interruption. ``late=True`` removes only the names that had to wait for the guest to be gone.
    Raises :class:`Refused` where a list is no longer the planned one (nothing of that list was touched), and
    :class:`Failed` where Proxmox' answer afterwards is not the planned list.
    """
    if not late:
        for disable in (True, False):
            for path, removed in removal.rules.items():
                _remove_rules(proxmox, guard, path, planned.rules[path], removed, disable=disable)
        known = {str(g["group"]) for g in proxmox.get(f"{CLUSTER}/groups")} if removal.groups else set()
        for group in removal.groups:
            if group in known:
                with guard.act("decommission.firewall.group", f"Delete the empty security group {group}"):
                    proxmox.change("DELETE", f"{CLUSTER}/groups/{group}")
    for base, name in removal.sets:
        if (("set", base, name) in removal.late) is late:
            _nobody_uses(proxmox, ("set", base, name), removal)
            _remove_set(proxmox, guard, base, name, planned.sets[base][name])
    for base, name in removal.aliases:
        if (("alias", base, name) in removal.late) is late:
            _nobody_uses(proxmox, ("alias", base, name), removal)
            _remove_alias(proxmox, guard, base, name, planned.aliases[base][name])


def _nobody_uses(proxmox: Proxmox, name: Name, removal: Removal) -> None:
    """Asked right before a name goes: Proxmox deletes one that is in use, and then compiles no rule set at all any more."""
    if found := users(read(proxmox), name, removal):
        raise Refused(f"{_named(name)} was to go and is in use by now ({'; '.join(found)}), so it stays.", _AGAIN)


def _remove_rules(
    proxmox: Proxmox, guard: WriteGuard, path: str, before: Sequence[Rule], removed: Sequence[Rule], *, disable: bool
) -> None:
    group = _group_of(path)
    if group is not None and group not in {str(g["group"]) for g in proxmox.get(f"{CLUSTER}/groups")}:
        return
    doomed = {_same(rule) for rule in removed}
    kept = rest(before, removed)
    while True:
        positions, digest, entries = _guarded(proxmox, path, kept, doomed)
        if disable:
            positions = [pos for pos in positions if int(entries[pos].get("enable") or 0)]
        if not positions:
            return
        pos = positions[-1]
        rule = plain(entries[pos])
        verb = "Switch off" if disable else "Delete"
        act = f"decommission.firewall.{'disable' if disable else 'delete'}"
        with guard.act(
            act, f"{verb} rule {pos} of {title(path)}: {describe(rule)}", before={"path": path, "pos": pos, "rule": rule}
        ):
            # Without the digest the call would hit whatever stands at this position by then.
            stamp = {"digest": digest} if digest else {}
            if disable:
                proxmox.change("PUT", f"{path}/{pos}", enable=0, **stamp)
            else:
                proxmox.change("DELETE", f"{path}/{pos}", **stamp)
            after, _, _ = _guarded_after(proxmox, path, kept, doomed)
            left = sum(1 for p in after if not disable or int(p.get("enable") or 0))
            if left != len(positions) - 1:
                raise Failed(
                    f"Rule {pos} of {title(path)} was to go, but {left} such rules are there instead of {len(positions) - 1}."
                )


def _guarded_after(
    proxmox: Proxmox, path: str, kept: Sequence[Rule], doomed: set[Any]
) -> tuple[list[dict[str, Any]], str | None, None]:
    entries, digest = _read_list(proxmox, path)
    if [plain(e) for e in entries if _same(e) not in doomed] != list(kept):
        raise Failed(
            f"The firewall rules of {title(path)} are not the planned ones after our change; somebody else changed them too.",
            "Look at them before going on; the journal holds what was there.",
        )
    return [e for e in entries if _same(e) in doomed], digest, None


def _remove_set(proxmox: Proxmox, guard: WriteGuard, base: str, name: str, planned: Mapping[str, Any]) -> None:
    if name not in {str(s["name"]) for s in proxmox.get(f"{base}/ipset")}:
        return
    path = f"{base}/ipset/{name}"
    expected = {_member(m) for m in planned["members"]}
    now = [_content(m) for m in proxmox.get(path)]
    if not {_member(m) for m in now} <= expected:
        raise Refused(f"IP set {name} of {title(base)} got other members since it was read; it was not touched.", _AGAIN)
    with guard.act(
        "decommission.firewall.ipset", f"Delete IP set {name} of {title(base)}", before={"base": base, "name": name, **planned}
    ):
        for member in now:
            # One by one and never with force: whatever somebody adds meanwhile makes the deletion of the set fail.
            digest = proxmox.get(path)[0].get("digest")
            proxmox.change(
                "DELETE", f"{path}/{str(member['cidr']).replace('/', '%2F')}", **({"digest": digest} if digest else {})
            )
        proxmox.change("DELETE", path)


def _member(member: Mapping[str, Any]) -> tuple[str, int]:
    return str(member["cidr"]), int(member.get("nomatch") or 0)


def _remove_alias(proxmox: Proxmox, guard: WriteGuard, base: str, name: str, planned: Mapping[str, Any]) -> None:
    found = {str(a["name"]).lower(): a for a in proxmox.get(f"{base}/aliases")}
    if name not in found:
        return
    if _content(found[name]) != dict(planned):
        raise Refused(f"Alias {name} of {title(base)} was changed since it was read; it was not touched.", _AGAIN)
    with guard.act("decommission.firewall.alias", f"Delete alias {name} of {title(base)}", before={"base": base, **planned}):
        digest = found[name].get("digest")
        proxmox.change("DELETE", f"{base}/aliases/{found[name]['name']}", **({"digest": digest} if digest else {}))


def interrupted(lines: Iterable[Any]) -> frozenset[tuple[str, Key]]:
    """The rules of which the journal's lines say that putting them back was begun and not seen to be done: (list, rule). Pure."""
    last: dict[tuple[str, Key], bool] = {}
    about: dict[int, tuple[str, Key]] = {}
    for entry in lines:
        if entry.act != "undo.firewall.rule":
            continue
        if entry.kind == "intent" and isinstance(entry.before, dict):
            about[entry.seq] = (str(entry.before["path"]), _same(entry.before["rule"]))
            last[about[entry.seq]] = True
        elif entry.kind == "done" and entry.of in about:
            last[about[entry.of]] = False
    return frozenset(key for key, still in last.items() if still)


def restore(proxmox: Proxmox, guard: WriteGuard, record: Mapping[str, Any], begun: Collection[tuple[str, Key]] = ()) -> None:
    """Put an undo record back: aliases, sets, groups, then rules at their places. What is there already is skipped.

    So doing it twice is doing it once, and what others changed since stays. ``begun``: see :func:`interrupted`.
    """
    for alias in record["aliases"]:
        base = alias["base"]
        if str(alias["name"]).lower() not in {str(a["name"]).lower() for a in proxmox.get(f"{base}/aliases")}:
            with guard.act("undo.firewall.alias", f"Put back alias {alias['name']} of {title(base)}"):
                proxmox.change("POST", f"{base}/aliases", **{k: v for k, v in alias.items() if k != "base"})
    for content in record["ipsets"]:
        base, name = content["base"], content["name"]
        with guard.act("undo.firewall.ipset", f"Put back IP set {name} of {title(base)}"):
            if name not in {str(s["name"]) for s in proxmox.get(f"{base}/ipset")}:
                proxmox.change(
                    "POST", f"{base}/ipset", name=name, **({"comment": content["comment"]} if content.get("comment") else {})
                )
            there = {str(m["cidr"]) for m in proxmox.get(f"{base}/ipset/{name}")}
            # New members are put in front, so the last one is added first.
            for member in reversed(content["members"]):
                if str(member["cidr"]) not in there:
                    proxmox.change("POST", f"{base}/ipset/{name}", **member)
    for group, comment in record["groups"].items():
        if group not in {str(g["group"]) for g in proxmox.get(f"{CLUSTER}/groups")}:
            with guard.act("undo.firewall.group", f"Put back security group {group}"):
                proxmox.change("POST", f"{CLUSTER}/groups", group=group, **({"comment": comment} if comment else {}))
    for path in record["rules"]:
        _put_rules(proxmox, guard, path, record, begun)


def _put_rules(
    proxmox: Proxmox, guard: WriteGuard, path: str, record: Mapping[str, Any], begun: Collection[tuple[str, Key]]
) -> None:
    """Put the rules of one list back, one call after the other, each with the list as it is then."""
    removed = _keys_of(record["rules"][path])
    waiting = {key for where, key in begun if where == path}
    for _ in range(4 * len(record["rules"][path]) + 4):
        entries, digest = _read_list(proxmox, path)
        now = [plain(entry) for entry in entries]
        put = next_put(now, list_before(now, record, path), removed, waiting)
        if put is None:
            return
        stamp = {"digest": digest} if digest else {}
        about = {"path": path, "rule": put.rule}
        if put.kind == "add":
            with guard.act("undo.firewall.rule", f"Put back rule {put.pos} of {title(path)}: {describe(put.rule)}", before=about):
                proxmox.change("POST", path, **{**plain(put.rule), "enable": 0})
                waiting.add(_same(put.rule))
                _settle_rule(proxmox, path, record, put.rule)
            waiting.discard(_same(put.rule))
        elif put.kind == "move":
            with guard.act(
                "undo.firewall.rule", f"Move a rule of {title(path)} to its place: {describe(put.rule)}", before=about
            ):
                proxmox.change("PUT", f"{path}/{put.pos}", moveto=put.to, **stamp)
            waiting.discard(_same(put.rule))
        else:
            word = "on" if plain(put.rule)["enable"] else "off"
            with guard.act("undo.firewall.enable", f"Switch rule {put.pos} of {title(path)} {word}: {describe(put.rule)}"):
                proxmox.change("PUT", f"{path}/{put.pos}", enable=plain(put.rule)["enable"], **stamp)
    raise Failed(
        f"The firewall rules of {title(path)} were changed again and again while they were put back.",
        "Run the command again when nobody else works on them.",
    )


def _settle_rule(proxmox: Proxmox, path: str, record: Mapping[str, Any], rule: Rule) -> None:
    """Move the rule that was just added from the top to its place."""
    entries, digest = _read_list(proxmox, path)
    now = [plain(entry) for entry in entries]
    removed = _keys_of(record["rules"][path])
    put = next_put(now, list_before(now, record, path), removed, [_same(rule)])
    if put is not None and put.kind == "move":
        # "moveto" means in front of the rule that has this index before the move.
        proxmox.change("PUT", f"{path}/{put.pos}", moveto=put.to, **({"digest": digest} if digest else {}))
