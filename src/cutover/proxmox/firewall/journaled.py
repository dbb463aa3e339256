"""Undo records as the journal has them: believed as far as they hold what a removal of the departing guests takes away. Pure.

The journal is a file. It may be old, of another site, or edited; what it says may neither widen what is removed nor put back what
never was there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cutover.proxmox.firewall import removal
from cutover.proxmox.firewall.names import Going
from cutover.proxmox.firewall.putting_back import put_back
from cutover.proxmox.firewall.removal import Removal, Resolution, sentences
from cutover.proxmox.firewall.rules import Firewall, plain, same


def resolve(firewall: Firewall, going: Going, begun: Sequence[Mapping[str, Any]] = ()) -> Resolution:
    """:func:`.removal.resolve`; of ``begun``, the records of interrupted removals, only those count that hold what is theirs."""
    return removal.resolve(firewall, going, [one for one in begun if not not_theirs(firewall, going, one, begun)])


def not_theirs(firewall: Firewall, going: Going, record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an undo record holds and a removal of these guests would not have taken away, as sentences.

    ``others`` are the records that belong to it: a rule that went first may use a name that went later.
    """
    try:
        before = put_back(firewall, record)
        for one in others:
            before = put_back(before, one)
        mine = removal.resolve(before, replace(going, later=frozenset())).removal
        held = {path: [plain(one["rule"]) for one in taken] for path, taken in record["rules"].items()}
        sets = tuple((str(s["base"]), str(s["name"])) for s in record["ipsets"])
        aliases = tuple((str(a["base"]), str(a["name"]).lower()) for a in record["aliases"])
        groups = tuple(str(name) for name in record["groups"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):  # also a set that is its own member
        return ["a record of firewall entries that cannot be read"]
    known = {path: {same(rule) for rule in rules} for path, rules in mine.rules.items()}
    return sentences(
        Removal(
            {path: tuple(r for r in rules if same(r) not in known.get(path, ())) for path, rules in held.items()},
            tuple(name for name in groups if name not in mine.groups),
            tuple(one for one in sets if one not in mine.sets),
            tuple(one for one in aliases if one not in mine.aliases),
        )
    )
