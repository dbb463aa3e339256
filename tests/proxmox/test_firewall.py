"""Mentions of departing guests in the firewall: what goes, what stays, and that undoing is exact."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutover.core.journal import Journal
from cutover.core.write_guard import WriteGuard
from cutover.proxmox import firewall as fw
from cutover.proxmox.firewall import Firewall, Going, names
from cutover.proxmox.firewall.changing import _remove_set
from cutover.proxmox.firewall.putting_back import next_put
from cutover.proxmox.firewall.reading import content_of
from cutover.proxmox.firewall.removal import Removal, rest
from cutover.proxmox.firewall.rules import CLUSTER, Rule, keys_of, owner, plain, same

OURS = "10.0.0.152"
LXC101 = "nodes/pve/lxc/101/firewall"
GOING = Going(frozenset({952}), frozenset({OURS}))
FOUR = Going(frozenset({950, 951, 952, 953}), frozenset({"10.0.0.150", "10.0.0.151", OURS, "10.0.0.153"}))


def rule(source: str = "", dest: str = "", **more: object) -> dict[str, object]:
    sides = {k: v for k, v in (("source", source), ("dest", dest)) if v}
    return {"type": "in", "action": "ACCEPT", "enable": 1, **sides, **more}


def made(
    *rules: dict[str, object],
    at: str = f"{LXC101}/rules",
    aliases: dict[str, str] | None = None,
    sets: dict[str, list[str]] | None = None,
    groups: dict[str, list[dict[str, object]]] | None = None,
) -> Firewall:
    lists = {f"{CLUSTER}/rules": (), f"{LXC101}/rules": (), "nodes/pve/lxc/952/firewall/rules": ()}
    lists[at] = tuple(rules)  # type: ignore[assignment]
    for name, content in (groups or {}).items():
        lists[f"{CLUSTER}/groups/{name}"] = tuple(content)  # type: ignore[assignment]
    return Firewall(
        lists,
        dict.fromkeys(groups or {}, ""),
        {CLUSTER: {n: {"name": n, "cidr": c} for n, c in (aliases or {}).items()}},
        {CLUSTER: {n: {"comment": "", "members": [{"cidr": m} for m in ms]} for n, ms in (sets or {}).items()}},
    )


def without(config: Firewall, removal: Removal) -> Firewall:
    """The configuration after a removal."""
    rules = {path: rest(known, removal.rules.get(path, ())) for path, known in config.rules.items()}
    for name in removal.groups:
        rules.pop(f"{CLUSTER}/groups/{name}", None)
    return Firewall(
        rules=rules,
        groups={n: c for n, c in config.groups.items() if n not in removal.groups},
        aliases={b: {n: a for n, a in of.items() if (b, n) not in removal.aliases} for b, of in config.aliases.items()},
        sets={b: {n: s for n, s in of.items() if (b, n) not in removal.sets} for b, of in config.sets.items()},
    )


ALIASES = {"old": OURS, "vllm": "10.0.0.81"}
SETS = {"only": ["old"], "mixed": [OURS, "10.0.0.81"], "lan": ["10.0.0.0/24"]}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (OURS, "exclusive"),
        (f"{OURS}/32", "exclusive"),
        (f"{OURS}-{OURS}", "exclusive"),
        ("dc/old", "exclusive"),
        ("OLD", "exclusive"),
        ("+dc/only", "exclusive"),
        ("+only", "exclusive"),
        ("+sdn/guest-ipam-952", "exclusive"),
        (f"{OURS},10.0.0.81", "shared"),
        ("10.0.0.0/24", "shared"),
        ("10.0.0.150-10.0.0.153", "shared"),
        ("+mixed", "shared"),
        ("+lan", "shared"),
        ("10.0.0.81", "none"),
        ("vllm", "none"),
        ("+sdn/guest-ipam-9520", "none"),
        ("+sdn/other-all", "none"),
        ("10.0.0.15", "none"),
    ],
)
def test_a_rule_goes_only_when_it_speaks_of_departing_guests_alone(text: str, verdict: str) -> None:
    config = made(rule(source=text), aliases=ALIASES, sets={k: v for k, v in SETS.items() if f"+{k}" in text.replace("dc/", "")})
    found = fw.resolve(config, GOING)
    assert (f"{LXC101}/rules" in found.removal.rules) == (verdict == "exclusive")
    assert any("LXC 101" in s for s in found.shared) == (verdict == "shared")
    assert not found.in_the_way


def test_ranges_and_lists_of_departing_guests_go_when_all_of_them_do() -> None:
    config = made(rule(source="10.0.0.150-10.0.0.153"), rule(dest=f"10.0.0.150,{OURS}"), rule(source="10.0.0.152/31"))
    assert len(fw.resolve(config, FOUR).removal.rules[f"{LXC101}/rules"]) == 3
    assert not fw.resolve(config, GOING).removal


def test_one_idle_side_is_enough_and_the_host_interface_counts() -> None:
    config = made(rule(source="10.0.0.0/24", dest=OURS), rule(iface="veth952i0"), rule(iface="veth9520i0"), rule(iface="vmbr0"))
    assert [r.get("iface") for r in fw.resolve(config, GOING).removal.rules[f"{LXC101}/rules"]] == [None, "veth952i0"]


def test_a_group_goes_with_its_uses_when_every_rule_of_it_goes() -> None:
    use = {"type": "group", "action": "to-old", "enable": 1}
    other = {"type": "group", "action": "web", "enable": 1}
    config = made(use, other, groups={"to-old": [rule(dest=OURS)], "web": [rule(dest="10.0.0.81"), rule(dest=OURS)], "empty": []})
    removal = fw.resolve(config, GOING).removal
    assert removal.groups == ("to-old",)
    assert removal.rules[f"{LXC101}/rules"] == (use,)
    assert removal.rules[f"{CLUSTER}/groups/web"] == (rule(dest=OURS),)
    after = without(config, removal)
    assert after.rules[f"{LXC101}/rules"] == (other,)
    assert set(after.groups) == {"web", "empty"}


def test_rules_of_nodes_and_vnets_count_too() -> None:
    for path, said in (("nodes/pve/firewall/rules", "node pve"), ("cluster/sdn/vnets/blue/firewall/rules", "VNet blue")):
        config = made({"type": "forward", "action": "ACCEPT", "enable": 1, "dest": "dc/old"}, at=path, aliases=ALIASES)
        removal = fw.resolve(config, GOING).removal
        assert fw.sentences(removal)[0] == f"rule of {said}: forward ACCEPT to dc/old"


def test_an_alias_that_somebody_else_uses_is_in_the_way_and_stays() -> None:
    config = made(aliases=ALIASES, sets={"mixed": ["old", "10.0.0.81"]})
    found = fw.resolve(config, GOING)
    assert found.removal.aliases == ()
    (said,) = found.in_the_way
    assert said.startswith(
        "Alias old of the datacenter stands only for servers that are to be deleted, but IP set mixed of the datacenter uses it"
    )
    assert "the datacenter: IP set mixed holds old" in found.shared


def test_a_name_that_only_the_guest_itself_uses_waits_until_the_guest_is_gone() -> None:
    config = made(rule(source="dc/old"), at="nodes/pve/lxc/952/firewall/rules", aliases={"old": OURS})
    removal = fw.resolve(config, GOING).removal
    assert removal.rules == {}
    assert removal.aliases == ((CLUSTER, "old"),)
    assert removal.late == {("alias", CLUSTER, "old")}


def test_standard_sets_are_never_deleted() -> None:
    found = fw.resolve(made(sets={"management": [OURS], "blacklist": [OURS], "ipfilter-net0": [OURS], "mine": [OURS]}), GOING)
    assert found.removal.sets == ((CLUSTER, "mine"),)
    assert len(found.shared) == 3


def test_names_of_another_guest_shadow_those_of_the_datacenter() -> None:
    config = made(rule(source="old"), rule(source="dc/old"), aliases={"old": OURS})
    shadowed = Firewall(
        config.rules, config.groups, {**config.aliases, LXC101: {"old": {"name": "old", "cidr": "10.0.0.7"}}}, config.sets
    )
    assert fw.resolve(shadowed, GOING).removal.rules == {f"{LXC101}/rules": (rule(source="dc/old"),)}


def test_an_interrupted_removal_of_a_set_or_group_is_finished() -> None:
    config = made(sets={"only": [OURS], "else": []}, groups={"to-old": [rule(dest=OURS)], "blank": []})
    record = fw.undo_record(config, fw.resolve(config, GOING).removal)
    half = made(sets={"only": [], "else": []}, groups={"to-old": [], "blank": []})
    assert not fw.resolve(half, GOING).removal
    again = fw.resolve(half, GOING, [record]).removal
    assert again.sets == ((CLUSTER, "only"),)
    assert again.groups == ("to-old",)


# -- properties -----------------------------------------------------------------------------------

ADDRESSES = st.sampled_from([OURS, "10.0.0.153", "10.0.0.81", "10.0.0.7", "10.0.0.0/24", "10.0.0.152/31", f"{OURS}-10.0.0.153"])
SIDE = st.one_of(
    st.none(),
    ADDRESSES,
    st.lists(st.sampled_from([OURS, "10.0.0.153", "10.0.0.81"]), min_size=2, max_size=3).map(",".join),
    st.sampled_from(["a-one", "dc/a-two", "+s-one", "+dc/s-two", "guest/a-one", "+guest/s-one", "+sdn/guest-ipam-952"]),
)
RULE = st.builds(
    lambda s, d, e, c: {
        "type": "in",
        "action": "ACCEPT",
        "enable": e,
        **({"source": s} if s else {}),
        **({"dest": d} if d else {}),
        **({"comment": c} if c else {}),
    },
    SIDE,
    SIDE,
    st.integers(0, 1),
    st.sampled_from(["", "x", "y"]),
)
USE = st.sampled_from(["g-one", "g-two"]).map(lambda g: {"type": "group", "action": g, "enable": 1})
ALIAS_MAP = st.dictionaries(st.sampled_from(["a-one", "a-two"]), ADDRESSES.filter(lambda a: "-" not in a)).map(
    lambda d: {n: {"name": n.title(), "cidr": c} for n, c in d.items()}
)
MEMBERS = st.lists(
    st.sampled_from([OURS, "10.0.0.153", "10.0.0.81", "10.0.0.0/24", "dc/a-one", "a-two"]), max_size=3, unique=True
)
SET_MAP = st.dictionaries(st.sampled_from(["s-one", "s-two", "management"]), MEMBERS).map(
    lambda d: {n: {"comment": "", "members": [{"cidr": m} for m in ms]} for n, ms in d.items()}
)
BASES = [CLUSTER, LXC101, "nodes/pve/qemu/1001/firewall", "nodes/pve/lxc/952/firewall"]


@st.composite
def firewalls(draw: st.DrawFn) -> Firewall:
    rules = {f"{b}/rules": tuple(draw(st.lists(st.one_of(RULE, USE), max_size=5))) for b in [*BASES, "nodes/pve/firewall"]}
    groups = draw(st.sets(st.sampled_from(["g-one", "g-two"])))
    rules |= {f"{CLUSTER}/groups/{g}": tuple(draw(st.lists(RULE, max_size=3))) for g in groups}
    return Firewall(rules, dict.fromkeys(groups, ""), {b: draw(ALIAS_MAP) for b in BASES}, {b: draw(SET_MAP) for b in BASES})


@settings(max_examples=300, deadline=None)
@given(firewalls(), st.sampled_from([GOING, FOUR]))
def test_removing_and_undoing_gives_the_same_configuration_however_often(config: Firewall, going: Going) -> None:
    before = copy.deepcopy(config)
    removal = fw.resolve(config, going).removal
    record = fw.undo_record(config, removal)
    once = fw.put_back(without(config, removal), record)
    assert once == before
    assert fw.put_back(once, record) == before
    assert fw.put_back(before, record) == before, "what was never removed was put back all the same"
    del record["lists"]  # as an older version wrote it
    assert fw.put_back(without(config, removal), record) == before
    assert fw.put_back(before, record) == before


# -- undoing, one call at a time ------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


Rows = list[Rule]


class Rules:
    """Proxmox' lists of rules, as far as a list is changed: a new rule lands at the top, a move is in front of an index."""

    def __init__(self, lists: dict[str, Rows], lives: int = 10**6, *, lost: bool = False) -> None:
        self.lists, self.lives, self.lost = lists, lives, lost
        self.changes = 0

    def list(self, path: str) -> Rows:
        stamp = hashlib.sha1(repr(self.lists[path]).encode()).hexdigest()
        return [{**rule, "pos": pos, "digest": stamp} for pos, rule in enumerate(self.lists[path])]

    def change(self, method: str, path: str, **values: Any) -> None:
        if self.lives == 0 and not self.lost:
            raise Killed
        self.changes += 1
        if method == "POST":
            self.lists[path].insert(0, {"enable": 0, **values})
        else:
            where, _, pos = path.rpartition("/")
            rules = self.lists[where]
            assert "digest" not in values or values["digest"] == self.list(where)[0]["digest"]
            if "moveto" in values:
                to = values["moveto"]
                rule = rules.pop(int(pos))
                rules.insert(to if to <= int(pos) else to - 1, rule)
            else:
                rules[int(pos)] = {**rules[int(pos)], "enable": values["enable"]}
        if self.lives == 0:
            raise Killed
        self.lives -= 1


def undone(rules: Rules, record: dict[str, Any], folder: Path) -> None:
    """One run of the undo, with the journal of those before it."""
    journal = Journal(folder, "lab")
    try:
        fw.restore(rules, WriteGuard(journal), record, fw.interrupted(journal.entries()))  # type: ignore[arg-type]
    finally:
        journal.unlock()


LISTED = st.lists(st.tuples(st.sampled_from("abcxyz"), st.integers(0, 1)), max_size=9)


def listed(marks: list[tuple[str, int]]) -> list[Rule]:
    """Rules that are told apart by a letter; those of x, y and z are the departing guest's."""
    return [rule(OURS if mark in "xyz" else "10.0.0.81", enable=on, comment=mark) for mark, on in marks]


@settings(max_examples=200, deadline=None)
@given(LISTED, st.lists(st.integers(0, 30), max_size=4), st.booleans(), st.data())
def test_an_undo_that_is_killed_anywhere_and_done_again_is_done_once(
    marks: list[tuple[str, int]], lives: list[int], lost: bool, data: st.DataObject
) -> None:
    path = f"{LXC101}/rules"
    config = made(*listed(marks), at=path)
    removal = fw.resolve(config, GOING).removal
    record = json.loads(json.dumps(fw.undo_record(config, removal)))
    # The removal itself may have been interrupted: some are gone, some are only switched off.
    state = [data.draw(st.sampled_from(["gone", "off", "there"])) if same(r) in keys_of(
        [{"rule": one} for one in removal.rules.get(path, ())]) else "there" for r in config.rules[path]]  # fmt: skip
    left = [
        {**r, "enable": 0} if how == "off" else dict(r) for r, how in zip(config.rules[path], state, strict=True) if how != "gone"
    ]
    rules = Rules({path: left})
    with tempfile.TemporaryDirectory() as folder:
        for life in lives:
            rules.lives, rules.lost = life, lost
            with contextlib.suppress(Killed):
                undone(rules, record, Path(folder))
        rules.lives = 10**6
        undone(rules, record, Path(folder))
        assert rules.lists[path] == list(config.rules[path])
        changes = rules.changes
        undone(rules, record, Path(folder))
        assert rules.changes == changes, "the second undo changed something"


@settings(max_examples=200, deadline=None)
@given(LISTED, LISTED, st.data())
def test_what_others_changed_since_stays_when_rules_are_put_back(
    marks: list[tuple[str, int]], foreign: list[tuple[str, int]], data: st.DataObject
) -> None:
    path = f"{LXC101}/rules"
    config = made(*listed(marks), at=path)
    removal = fw.resolve(config, GOING).removal
    record = fw.undo_record(config, removal)
    now = list(without(config, removal).rules[path])
    for other in listed([(mark.upper(), on) for mark, on in foreign]):
        now.insert(data.draw(st.integers(0, len(now))), other)
    if data.draw(st.booleans()) and now:
        now.pop(data.draw(st.integers(0, len(now) - 1)))
    rules = Rules({path: list(now)})
    with tempfile.TemporaryDirectory() as folder:
        undone(rules, record, Path(folder))
        after = list(rules.lists[path])
        undone(rules, record, Path(folder))
        assert rules.lists[path] == after
    ours = keys_of([{"rule": one} for one in removal.rules.get(path, ())])
    assert [r for r in after if same(r) not in ours] == now, "the others' rules or their order changed"
    assert [r for r in after if same(r) in ours] == [r for r in config.rules[path] if same(r) in ours]


def test_rules_are_never_in_force_in_the_wrong_place() -> None:
    """A rule is added at the top; switched on there it would let through, or keep out, what it never did."""
    path = f"{LXC101}/rules"
    config = made(*listed([("a", 1), ("x", 1), ("b", 1), ("y", 1)]), at=path)
    removal = fw.resolve(config, GOING).removal
    record = fw.undo_record(config, removal)
    seen: list[list[str]] = []

    class Watched(Rules):
        def change(self, method: str, path: str, **values: Any) -> None:
            super().change(method, path, **values)
            listed_path = path if path in self.lists else path.rpartition("/")[0]
            seen.append([str(r["comment"]) for r in self.lists[listed_path] if r["enable"]])

    with tempfile.TemporaryDirectory() as folder:
        undone(Watched({path: list(without(config, removal).rules[path])}), record, Path(folder))
    assert all(marks == [m for m in "axby" if m in marks] for marks in seen), seen


def test_what_proxmox_says_about_an_entry_is_not_put_back_with_it() -> None:
    """Where an alias is gone, a rule and a set's member carry `errors` besides what somebody wrote."""
    said = {"errors": {"source": "no such alias"}, "digest": "d", "ipversion": 4}
    assert plain({"pos": 3, "type": "in", "source": "dc/gone", "enable": 1, **said}) == {
        "type": "in",
        "source": "dc/gone",
        "enable": 1,
    }
    assert content_of({"cidr": "dc/gone", "comment": "", **said}) == {"cidr": "dc/gone"}


def test_a_set_whose_last_member_somebody_removes_meanwhile_goes_all_the_same(tmp_path: Path) -> None:
    members, sent = [{"cidr": "10.0.0.150"}, {"cidr": OURS}], list[str]()

    class Emptied:
        def list(self, path: str) -> Rows:
            return [{"name": "two"}] if path.endswith("/ipset") else members if not sent else []

        def change(self, method: str, path: str, **_: Any) -> None:
            sent.append(f"{method} {path.rpartition('/')[2]}")

    planned = {"comment": "", "members": members}
    _remove_set(Emptied(), WriteGuard(Journal(tmp_path, "lab")), CLUSTER, "two", planned)  # type: ignore[arg-type]
    assert sent == ["DELETE 10.0.0.150", f"DELETE {OURS}", "DELETE two"]


def test_a_rule_that_somebody_put_back_by_hand_is_not_put_back_again() -> None:
    before, removed = listed([("a", 1), ("x", 1), ("b", 1)]), frozenset({same(listed([("x", 1)])[0])})
    by_hand = listed([("x", 1), ("a", 1), ("b", 1)])
    assert next_put(by_hand, before, removed) is None


def denoted(config: Firewall, base: str, text: str) -> set[str] | None:
    """An independent, slow reading of a reference: the named sample addresses it covers; None if it cannot be known."""
    sample = ["10.0.0.150", "10.0.0.151", OURS, "10.0.0.153", "10.0.0.81", "10.0.0.7", "10.0.0.200"]
    meant = names.meaning(config, base, text)
    if meant.spans is None:
        return {OURS} if meant.guest == 952 else None
    return {a for a in sample if any(s.first <= names.span(a).first <= s.last for s in meant.spans)}  # type: ignore[union-attr]


@settings(max_examples=300, deadline=None)
@given(firewalls(), st.sampled_from([GOING, FOUR]))
def test_nothing_shared_is_ever_removed_and_no_name_in_use_disappears(config: Firewall, going: Going) -> None:
    removal = fw.resolve(config, going).removal
    for path, removed in removal.rules.items():
        base = CLUSTER if "/groups/" in path else path.removesuffix("/rules")
        assert owner(base) not in going.vmids
        for one in removed:
            if one["type"] == "group":
                assert one["action"] in removal.groups
                continue
            sides = [denoted(config, base, one[s]) for s in ("source", "dest") if s in one]
            assert any(s and s <= going.addresses for s in sides), one
    after = without(config, removal)
    assert set(removal.groups) <= {g for g in config.groups if config.rules[f"{CLUSTER}/groups/{g}"]}
    for base, name in removal.sets:
        assert name != "management"
        assert denoted(config, base, f"+{'dc/' if base == CLUSTER else 'guest/'}{name}") <= set(going.addresses)  # type: ignore[operator]
    gone = {("set", *s) for s in removal.sets} | {("alias", *a) for a in removal.aliases}
    for path, rules in after.rules.items():
        base = CLUSTER if "/groups/" in path else path.removesuffix("/rules")
        if owner(base) in going.vmids:
            continue
        for one in rules:
            for side in ("source", "dest"):
                if side in one:
                    assert not names.meaning(config, base, one[side]).through & gone
            assert not (one["type"] == "group" and one["action"] in removal.groups)
    for base, sets in after.sets.items():
        if owner(base) not in going.vmids:
            for content in sets.values():
                for member in content["members"]:
                    assert not names.meaning(config, base, member["cidr"]).through & gone


@settings(max_examples=100, deadline=None)
@given(firewalls())
def test_after_a_removal_there_is_nothing_left_to_remove(config: Firewall) -> None:
    after = without(config, fw.resolve(config, GOING).removal)
    second = fw.resolve(after, GOING)
    assert not second.removal.rules
    assert not second.removal.groups
