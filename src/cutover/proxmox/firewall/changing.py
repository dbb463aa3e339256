"""Carry a removal out, and put it back: one call after the other, each with the list's fresh digest.

The highest position goes first, and before and after each call the rest of the list is compared with what was planned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Failed, Refused
from cutover.core.write_guard import WriteGuard
from cutover.proxmox.firewall.names import Name, named
from cutover.proxmox.firewall.putting_back import list_before, next_put
from cutover.proxmox.firewall.reading import content_of, read, read_list
from cutover.proxmox.firewall.removal import Removal, rest, users
from cutover.proxmox.firewall.rules import (
    CLUSTER,
    Firewall,
    Key,
    Rule,
    describe,
    group_of,
    keys_of,
    member_key,
    plain,
    same,
    title,
)

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox

_AGAIN = "Look at the change, then run the command again: it plans anew."


def _guarded(
    proxmox: Proxmox, path: str, planned_rest: Sequence[Rule], doomed: set[Any]
) -> tuple[list[int], str | None, list[Any]]:
    """Positions of the doomed rules now, and the fresh digest. :class:`Refused` where the rest is not the planned rest."""
    entries, digest = read_list(proxmox, path)
    now = [plain(e) for e in entries if same(e) not in doomed]
    if now != list(planned_rest):
        raise Refused(
            f"The firewall rules of {title(path)} were changed since they were read; nothing was removed from them.",
            _AGAIN,
        )
    return [pos for pos, e in enumerate(entries) if same(e) in doomed], digest, entries


def carry_out(proxmox: Proxmox, guard: WriteGuard, planned: Firewall, removal: Removal) -> None:
    """Remove what was planned: rules switched off first, then deleted from the highest position down, then names.

    ``planned`` is the configuration for which ``removal`` was resolved. Everything that is already gone is skipped, so this can
    be run again after an interruption. Names that have to wait for the guest (``removal.late``) stay: they are resolved anew, and
    no longer late, when it is gone. Raises :class:`Refused` where a list is no longer the planned one (nothing of that list was
    touched), and :class:`Failed` where Proxmox' answer afterwards is not the planned list.
    """
    for disable in (True, False):
        for path, removed in removal.rules.items():
            _remove_rules(proxmox, guard, path, planned.rules[path], removed, disable=disable)
    known = _groups(proxmox) if removal.groups else set()
    for group in removal.groups:
        if group in known:
            with guard.act("decommission.firewall.group", f"Delete the empty security group {group}"):
                proxmox.change("DELETE", f"{CLUSTER}/groups/{group}")
    for base, name in removal.sets:
        if ("set", base, name) not in removal.late:
            _nobody_uses(proxmox, ("set", base, name), removal)
            _remove_set(proxmox, guard, base, name, planned.sets[base][name])
    for base, name in removal.aliases:
        if ("alias", base, name) not in removal.late:
            _nobody_uses(proxmox, ("alias", base, name), removal)
            _remove_alias(proxmox, guard, base, name, planned.aliases[base][name])


def _groups(proxmox: Proxmox) -> set[str]:
    """The names of the security groups."""
    return {str(group["group"]) for group in proxmox.list(f"{CLUSTER}/groups")}


def _nobody_uses(proxmox: Proxmox, name: Name, removal: Removal) -> None:
    """Asked right before a name goes: Proxmox deletes one that is in use, and then compiles no rule set at all any more."""
    if found := users(read(proxmox), name, removal):
        raise Refused(f"{named(name)} was to go and is in use by now ({'; '.join(found)}), so it stays.", _AGAIN)


def _remove_rules(
    proxmox: Proxmox, guard: WriteGuard, path: str, before: Sequence[Rule], removed: Sequence[Rule], *, disable: bool
) -> None:
    group = group_of(path)
    if group is not None and group not in _groups(proxmox):
        return
    doomed = {same(rule) for rule in removed}
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
            if disable:
                proxmox.change("PUT", f"{path}/{pos}", enable=0, digest=digest)
            else:
                proxmox.change("DELETE", f"{path}/{pos}", digest=digest)
            left = sum(1 for e in _doomed_after(proxmox, path, kept, doomed) if not disable or int(e.get("enable") or 0))
            if left != len(positions) - 1:
                raise Failed(
                    f"Rule {pos} of {title(path)} was to go, but {left} such rules are there instead of {len(positions) - 1}."
                )


def _doomed_after(proxmox: Proxmox, path: str, kept: Sequence[Rule], doomed: set[Any]) -> list[dict[str, Any]]:
    """The doomed rules that are left after our change. :class:`Failed` where the rest is not the planned rest."""
    entries, _ = read_list(proxmox, path)
    if [plain(e) for e in entries if same(e) not in doomed] != list(kept):
        raise Failed(
            f"The firewall rules of {title(path)} are not the planned ones after our change; somebody else changed them too.",
            "Look at them before going on; the journal holds what was there.",
        )
    return [e for e in entries if same(e) in doomed]


def _remove_set(proxmox: Proxmox, guard: WriteGuard, base: str, name: str, planned: Mapping[str, Any]) -> None:
    if name not in _sets(proxmox, base):
        return
    path = f"{base}/ipset/{name}"
    expected = {member_key(m) for m in planned["members"]}
    now = [content_of(m) for m in proxmox.list(path)]
    if not {member_key(m) for m in now} <= expected:
        raise Refused(f"IP set {name} of {title(base)} got other members since it was read; it was not touched.", _AGAIN)
    with guard.act(
        "decommission.firewall.ipset", f"Delete IP set {name} of {title(base)}", before={"base": base, "name": name, **planned}
    ):
        for member in now:
            # One by one and never with force: whatever somebody adds meanwhile makes the deletion of the set fail.
            digest = next((m.get("digest") for m in proxmox.list(path)), None)
            proxmox.change("DELETE", f"{path}/{str(member['cidr']).replace('/', '%2F')}", digest=digest)
        proxmox.change("DELETE", path)


def _remove_alias(proxmox: Proxmox, guard: WriteGuard, base: str, name: str, planned: Mapping[str, Any]) -> None:
    found = _aliases(proxmox, base)
    if name not in found:
        return
    if content_of(found[name]) != dict(planned):
        raise Refused(f"Alias {name} of {title(base)} was changed since it was read; it was not touched.", _AGAIN)
    with guard.act("decommission.firewall.alias", f"Delete alias {name} of {title(base)}", before={"base": base, **planned}):
        proxmox.change("DELETE", f"{base}/aliases/{found[name]['name']}", digest=found[name].get("digest"))


def _sets(proxmox: Proxmox, base: str) -> set[str]:
    return {str(one["name"]) for one in proxmox.list(f"{base}/ipset")}


def _aliases(proxmox: Proxmox, base: str) -> dict[str, dict[str, Any]]:
    """By their names in lower case, as Proxmox compares them."""
    return {str(one["name"]).lower(): one for one in proxmox.list(f"{base}/aliases")}


def restore(proxmox: Proxmox, guard: WriteGuard, record: Mapping[str, Any], begun: Collection[tuple[str, Key]] = ()) -> None:
    """Put an undo record back: aliases, sets, groups, then rules at their places. What is there already is skipped.

    So doing it twice is doing it once, and what others changed since stays. ``begun``: see :func:`interrupted`.
    """
    for alias in record["aliases"]:
        base = alias["base"]
        if str(alias["name"]).lower() not in _aliases(proxmox, base):
            with guard.act("undo.firewall.alias", f"Put back alias {alias['name']} of {title(base)}"):
                proxmox.change("POST", f"{base}/aliases", **{k: v for k, v in alias.items() if k != "base"})
    for content in record["ipsets"]:
        base, name = content["base"], content["name"]
        with guard.act("undo.firewall.ipset", f"Put back IP set {name} of {title(base)}"):
            if name not in _sets(proxmox, base):
                proxmox.change("POST", f"{base}/ipset", name=name, comment=content.get("comment") or None)
            there = {str(m["cidr"]) for m in proxmox.list(f"{base}/ipset/{name}")}
            # New members are put in front, so the last one is added first.
            for member in reversed(content["members"]):
                if str(member["cidr"]) not in there:
                    proxmox.change("POST", f"{base}/ipset/{name}", **member)
    for group, comment in record["groups"].items():
        if group not in _groups(proxmox):
            with guard.act("undo.firewall.group", f"Put back security group {group}"):
                proxmox.change("POST", f"{CLUSTER}/groups", group=group, comment=comment or None)
    for path in record["rules"]:
        _put_rules(proxmox, guard, path, record, begun)


def _put_rules(
    proxmox: Proxmox, guard: WriteGuard, path: str, record: Mapping[str, Any], begun: Collection[tuple[str, Key]]
) -> None:
    """Put the rules of one list back, one call after the other, each with the list as it is then."""
    removed = keys_of(record["rules"][path])
    waiting = {key for where, key in begun if where == path}
    for _ in range(4 * len(record["rules"][path]) + 4):
        entries, digest = read_list(proxmox, path)
        now = [plain(entry) for entry in entries]
        put = next_put(now, list_before(now, record, path), removed, waiting)
        if put is None:
            return
        about = {"path": path, "rule": put.rule}
        if put.kind == "add":
            with guard.act("undo.firewall.rule", f"Put back rule {put.pos} of {title(path)}: {describe(put.rule)}", before=about):
                proxmox.change("POST", path, **{**plain(put.rule), "enable": 0})
                waiting.add(same(put.rule))
                _settle_rule(proxmox, path, record, put.rule)
            waiting.discard(same(put.rule))
        elif put.kind == "move":
            with guard.act(
                "undo.firewall.rule", f"Move a rule of {title(path)} to its place: {describe(put.rule)}", before=about
            ):
                proxmox.change("PUT", f"{path}/{put.pos}", moveto=put.to, digest=digest)
            waiting.discard(same(put.rule))
        else:
            word = "on" if plain(put.rule)["enable"] else "off"
            with guard.act("undo.firewall.enable", f"Switch rule {put.pos} of {title(path)} {word}: {describe(put.rule)}"):
                proxmox.change("PUT", f"{path}/{put.pos}", enable=plain(put.rule)["enable"], digest=digest)
    raise Failed(
        f"The firewall rules of {title(path)} were changed again and again while they were put back.",
        "Run the command again when nobody else works on them.",
    )


def _settle_rule(proxmox: Proxmox, path: str, record: Mapping[str, Any], rule: Rule) -> None:
    """Move the rule that was just added from the top to its place."""
    entries, digest = read_list(proxmox, path)
    now = [plain(entry) for entry in entries]
    removed = keys_of(record["rules"][path])
    put = next_put(now, list_before(now, record, path), removed, [same(rule)])
    if put is not None and put.kind == "move":
        # "moveto" means in front of the rule that has this index before the move.
        proxmox.change("PUT", f"{path}/{put.pos}", moveto=put.to, digest=digest)
