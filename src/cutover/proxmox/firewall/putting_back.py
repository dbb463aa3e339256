"""The undo record of a removal, and how a list becomes again what it was, whatever others did to it since. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cutover.proxmox.firewall.removal import Removal
from cutover.proxmox.firewall.rules import Firewall, Key, Rule, keys_of, plain, same


def undo_record(firewall: Firewall, removal: Removal) -> dict[str, Any]:
    """Everything that is needed to put the removal back, as JSON: rules with their positions, names with their content."""
    taken: dict[str, list[dict[str, Any]]] = {}
    for path, removed in removal.rules.items():
        doomed = {same(rule) for rule in removed}
        taken[path] = [{"pos": pos, "rule": dict(rule)} for pos, rule in enumerate(firewall.rules[path]) if same(rule) in doomed]
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
        rules[path] = rules_put_back(now, list_before(now, record, path), keys_of(taken))
    groups = {**firewall.groups, **record["groups"]}
    aliases = {b: dict(of) for b, of in firewall.aliases.items()}
    for alias in record["aliases"]:
        content = {k: v for k, v in alias.items() if k != "base"}
        aliases.setdefault(alias["base"], {}).setdefault(str(alias["name"]).lower(), content)  # one that is there stays as it is
    sets = {b: dict(of) for b, of in firewall.sets.items()}
    for content in record["ipsets"]:
        kept = {k: v for k, v in content.items() if k not in {"base", "name"}}
        sets.setdefault(content["base"], {})[content["name"]] = kept
    return Firewall(rules, groups, aliases, sets)


def list_before(now: Sequence[Rule], record: Mapping[str, Any], path: str) -> list[Rule]:
    """A list as it was when the record was taken. Pure. Records of older versions only have positions: those are filled in."""
    known = record.get("lists", {}).get(path)
    if known is not None:
        return [dict(rule) for rule in known]
    taken = sorted(record["rules"][path], key=lambda one: int(one["pos"]))
    gone = keys_of(taken)
    before = [dict(rule) for rule in now if same(rule) not in gone]
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
    was, here = [same(rule) for rule in before], [same(rule) for rule in now]
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
        at = next((pos for pos, rule in enumerate(now) if same(rule) == key), None)
        if at is None or key not in removed:
            continue
        others = [*now[:at], *now[at + 1 :]]
        wanted = rules_put_back(others, before, removed)
        place = _inserted(others, wanted, key)
        if place is not None and place != at:
            return Put("move", dict(now[at]), at, place if place < at else place + 1)
    wanted = rules_put_back(now, before, removed)
    here = [same(rule) for rule in now]
    for pos, rule in enumerate(wanted):
        if pos >= len(now) or same(rule) != here[pos]:
            return Put("add", dict(rule), pos)
        if plain(rule)["enable"] != plain(now[pos])["enable"]:
            return Put("switch", dict(rule), pos)
    return None


def _inserted(now: Sequence[Rule], wanted: Sequence[Rule], key: Key) -> int | None:
    """Where in ``now`` the first rule with this key goes that ``wanted`` has more, or None."""
    at = 0
    for rule in wanted:
        if at < len(now) and same(now[at]) == same(rule):
            at += 1
        elif same(rule) == key:
            return at
    return None


def interrupted(lines: Iterable[Any]) -> frozenset[tuple[str, Key]]:
    """The rules of which the journal's lines say that putting them back was begun and not seen to be done: (list, rule). Pure."""
    last: dict[tuple[str, Key], bool] = {}
    about: dict[int, tuple[str, Key]] = {}
    for entry in lines:
        if entry.act != "undo.firewall.rule":
            continue
        if entry.kind == "intent" and isinstance(entry.before, dict):
            about[entry.seq] = (str(entry.before["path"]), same(entry.before["rule"]))
            last[about[entry.seq]] = True
        elif entry.kind == "done" and entry.of in about:
            last[about[entry.of]] = False
    return frozenset(key for key, still in last.items() if still)
