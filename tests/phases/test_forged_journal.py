"""A journal that was edited, is old or another's deletes nothing that is not the plan's, and puts nothing back that never was."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutover import runner
from cutover.core.errors import CutoverError, Refused
from cutover.core.journal import Entry
from cutover.phases import decommission
from cutover.proxmox import firewall as fw
from cutover.proxmox import identity, scratch, vzdump
from cutover.proxmox.firewall.rules import CLUSTER
from lab.firewall_fixtures import rule
from lab.proxmox_host import Host
from tests.phases import test_backup, test_decommission
from tests.phases.test_decommission import FOUR, NETWORK, World
from tests.proxmox.test_firewall import FOUR as GOING
from tests.proxmox.test_firewall import made
from tests.proxmox.test_firewall import rule as plain_rule

#: How many times the random input; every night more than a change waits for.
TIMES = int(os.environ.get("CUTOVER_ATTACKS", "1"))
world, lab, old_server = test_decommission.world, test_backup.lab, test_backup.old_server
MARK = "cutover homelab trial restore " + "ab" * 16
#: What somebody keeps under the scratch id.
FOREIGN = {
    "hostname": "qdrant",
    "net0": "name=eth0,hwaddr=BC:24:11:00:00:01,ip=dhcp",
    "rootfs": "local-lvm:vm-9952-disk-0,size=8G",
}


def forge(folder: Any, *lines: dict[str, Any]) -> None:
    """Write lines by hand behind those that are there."""
    file = folder / "state" / "journal.jsonl"
    there = file.read_text().splitlines() if file.exists() else []
    at = "2026-01-01T00:00:00.000Z"
    more = [json.dumps({"seq": len(there) + n, "at": at, "what": "", **line}) for n, line in enumerate(lines, start=1)]
    file.write_text("".join(line + "\n" for line in [*there, *more]))


def restored(**before: Any) -> list[dict[str, Any]]:
    """The two lines that say that a trial restore was begun and done."""
    about = {"scratch": 9952, "archive": "local:backup/x", "hostname": "qdrant", **before}
    return [
        {"kind": "intent", "act": "vzdump.test-restore", "before": about},
        {"kind": "done", "act": "vzdump.test-restore", "of": 2},
    ]


# -- the scratch guest ----------------------------------------------------------------------------


@pytest.mark.parametrize("about", [{}, {"mark": MARK}, {"mark": ""}, {"mark": "somebody's notes"}])
def test_lines_written_by_hand_make_no_guest_the_scratch_guest(lab: Host, about: dict[str, Any]) -> None:
    lab.pve.add_ct(9952, "qdrant")
    lab.pve.ct(9952).config["description"] = "somebody's notes\n"
    lab.run(execute=True).journal.lock()
    forge(lab.folder, *restored(**about))
    context = lab.run(execute=True)
    archive = vzdump.Archive("local:backup/x", 1, 1, "", True)
    with pytest.raises(Refused, match=r"scratch id 9952 is taken by lxc qdrant, which this tool did not make"):
        scratch.try_restore(context, context.site.guests.old, archive, {})
    assert scratch.left_over(context) is None
    assert lab.pve.ct(9952) is not None


def trial(*more: Entry, mark: str = MARK, vmid: int = 9952) -> list[Entry]:
    begun = Entry(1, "", "intent", "vzdump.test-restore", "", before={"scratch": vmid, "hostname": "qdrant", "mark": mark})
    return [begun, *more]


def seen(config: dict[str, Any], mark: str = MARK) -> Entry:
    who = identity.of({"type": "lxc", "vmid": 9952, "node": "pve"}, config)
    return Entry(2, "", "note", "vzdump.scratch-seen", "", extra={"mark": mark, "identity": who.as_json()})


def ours(lines: list[Entry], **config: str) -> bool:
    there = {"type": "lxc", "vmid": 9952, "node": "pve", "config": {**FOREIGN, **config}}
    return not scratch.not_ours(scratch.last_trial(lines, 9952), there)


def test_the_guest_with_the_mark_is_ours_as_long_as_it_is_the_one_that_was_seen() -> None:
    marked = {**FOREIGN, "description": MARK + "\n"}
    assert ours(trial(), description=MARK + "\n"), "killed before it was seen"
    assert ours(trial(seen(marked)), description=MARK)
    assert not ours(trial(seen(marked)), description=MARK, rootfs="local-lvm:vm-9952-disk-1,size=8G")
    assert not ours(trial(seen(marked)), description=MARK, net0="name=eth0,hwaddr=BC:24:11:00:00:02")
    assert not ours(trial(), description=MARK, hostname="another")
    assert not ours(trial(Entry(3, "", "done", "vzdump.scratch-removed", "")), description=MARK)


_values = st.sampled_from([None, "", 9952, 952, "qdrant", MARK, MARK[:-1], "x\n" + MARK, [], {}, [MARK], {"mark": MARK}])
_fields = st.dictionaries(st.sampled_from(["scratch", "hostname", "mark", "identity", "archive", "vmid"]), _values)
_lines = st.lists(
    st.builds(
        Entry, st.integers(1, 9), st.just(""), st.sampled_from(["intent", "done", "note", "failed", "unknown"]),
        st.sampled_from(["vzdump.test-restore", "vzdump.scratch-removed", "vzdump.scratch-seen"]), st.just(""),
        st.none() | st.integers(1, 9), _fields | st.none(), _fields | st.none(), st.just(""), _fields,
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=200 * TIMES, deadline=None)
@given(_lines, st.sampled_from(["", "somebody's notes", MARK[:-1], "x " + MARK, MARK.upper()]))
def test_no_lines_make_a_guest_without_the_mark_ours(lines: list[Entry], notes: str) -> None:
    assert not ours(lines, description=notes)


# -- firewall entries that would be put back, or count as half removed -----------------------------

_paths = st.sampled_from(
    ["cluster/firewall/rules", "nodes/pve/lxc/101/firewall/rules", "cluster/firewall/groups/web", "nodes/pve/x"]
)
_hosts = st.sampled_from(["10.0.0.81", "0.0.0.0/0", "dc/vllm", "+dc/mixed", "10.0.0.152,10.0.0.81", "dc/nobody", ""])
_rules = st.builds(plain_rule, _hosts, _hosts)
_records = st.fixed_dictionaries(
    {
        "rules": st.dictionaries(_paths, st.lists(st.builds(lambda r, p: {"pos": p, "rule": r}, _rules, st.integers(0, 5)), min_size=1, max_size=2), max_size=2),
        "groups": st.dictionaries(st.sampled_from(["web", "empty"]), st.just(""), max_size=1),
        "ipsets": st.lists(st.builds(lambda n, m: {"base": CLUSTER, "name": n, "comment": "", "members": [{"cidr": c} for c in m]},
                           st.sampled_from(["mixed", "lan", "new"]), st.lists(_hosts.filter(bool), min_size=1, max_size=2)), max_size=1),
        "aliases": st.lists(st.builds(lambda n, c: {"base": CLUSTER, "name": n, "cidr": c},
                            st.sampled_from(["vllm", "other"]), st.sampled_from(["10.0.0.81", "10.0.0.99"])), max_size=1),
    }
)  # fmt: skip


@settings(max_examples=60 * TIMES, deadline=None)
@given(_records)
def test_a_record_about_others_is_never_theirs(record: dict[str, Any]) -> None:
    """Rules, sets, groups and aliases that speak of somebody who stays are named, and nothing is removed because of them."""
    there = made(
        plain_rule("10.0.0.152"), plain_rule("10.0.0.81"), aliases={"vllm": "10.0.0.81", "old": "10.0.0.152"},
        sets={"mixed": ["10.0.0.152", "10.0.0.81"], "lan": ["10.0.0.0/24"]}, groups={"web": [plain_rule("10.0.0.81")], "empty": []},
    )  # fmt: skip
    foreign = fw.not_theirs(there, GOING, record, [record])
    assert bool(foreign) == any(record.values())
    assert fw.resolve(there, GOING, [record]) == fw.resolve(there, GOING)


def test_an_alias_of_the_record_does_not_make_somebody_elses_theirs() -> None:
    there = made(plain_rule("dc/vllm"), aliases={"vllm": "10.0.0.81"}, sets={"hosts": ["dc/vllm"]})
    record = fw.undo_record(there, fw.Removal({}, (), ((CLUSTER, "hosts"),), ()))
    record["aliases"] = [{"base": CLUSTER, "name": "vllm", "cidr": "10.0.0.152"}]
    assert fw.not_theirs(there, GOING, record, [])
    assert not fw.resolve(there, GOING, [record]).removal


# -- a whole decommission -------------------------------------------------------------------------


@pytest.fixture
def approved(world: World) -> World:
    """The four are approved and stopped, and have to soak; another machine's rule and name are beside theirs."""
    test_decommission.add_name(world, "printer", f"{NETWORK}.77")
    world.pve.firewall_config("cluster")["rules"].append(rule("in", source=f"{NETWORK}.77", comment="the printer"))
    world.soak(1.0)
    world.decommission()
    return world


def edited(world: World, edit: Any) -> None:
    file = world.lab.folder / "state" / "journal.jsonl"
    file.write_text("".join(json.dumps(edit(json.loads(line))) + "\n" for line in file.read_text().splitlines()))


def test_an_approval_cannot_name_another_machines_address(approved: World) -> None:
    """Red before: its rule was removed and its record deleted without a word."""

    def widen(line: dict[str, Any]) -> dict[str, Any]:
        if line["act"] == "decommission.approved":
            line["extra"]["facts"]["addresses"].append(f"{NETWORK}.77")
            line["extra"]["shown"]["firewall"].append("rule of the datacenter: in ACCEPT from {NETWORK}.77 (the printer)")
            line["extra"].pop("shown")
        return line

    edited(approved, widen)
    said = " ".join(s.text for s in decommission.plan(approved.run(execute=False)).sentences)
    assert "Leave: rule of the datacenter: in ACCEPT" in said and "only the journal says that its address was theirs" in said
    approved.soak(0.0)
    run = approved.run()
    runner.carry_out("decommission", run)
    asked = run.confirm.asked  # type: ignore[attr-defined]
    assert any("record legacy-950" in question or "rule of the datacenter" in question for question in asked)
    assert not {g.vmid for g in approved.pve.cts} & set(FOUR)
    assert any(r.get("comment") == "the printer" for r in approved.pve.firewall_config("cluster")["rules"])
    assert any("printer" in name for name, _, _ in approved.everything()["names"])
    # What it would put back is looked at as well.
    forge(
        approved.lab.folder,
        {"kind": "note", "act": "decommission.firewall.planned", "extra": {"vmid": 952, "undo": {
            "rules": {"cluster/firewall/rules": [{"pos": 0, "rule": rule("in", source="0.0.0.0/0", comment="everybody")}]},
            "lists": {}, "groups": {}, "ipsets": [], "aliases": []}}},
    )  # fmt: skip
    before = approved.everything()
    with pytest.raises(Refused, match=r"would put back what never was the old servers': rule of the datacenter: .*everybody"):
        runner.carry_out("decommission", approved.run(), undo=True)
    assert approved.everything() == before


def mangled(chance: random.Random, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A journal after a few edits of the kinds that people, tools and broken disks make."""
    lines = json.loads(json.dumps(lines))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(1, len(lines))
        what = chance.choice(["drop", "double", "swap", "cut", "text", "text", "text", "kind"])
        if what == "drop" and len(lines) > 2:
            del lines[at]
        elif what == "double":
            lines.insert(chance.randrange(1, len(lines)), lines[at])
        elif what == "swap":
            other = chance.randrange(1, len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif what == "cut" and at > 1:
            lines = lines[:at]
        elif what == "kind":
            lines[at]["kind"] = chance.choice(["intent", "done", "note", "failed"])
        else:
            pairs = [("950", "101"), ("952", "9952"), ("953", "952"), (f"{NETWORK}.150", f"{NETWORK}.77"), ("qdrant", "nginx"),
                     ("decommission.stop", "decommission.delete"), ("decommission.delete", "decommission.gone"), (".approved", ".gone"),
                     (f"{NETWORK}.152", f"{NETWORK}.101"), ("datacenter", "node pve"), ("lxc", "qemu")]  # fmt: skip
            one, other_text = chance.choice(pairs)
            lines[at] = json.loads(json.dumps(lines[at]).replace(one, other_text))
    return lines


def test_random_edits_of_the_journal_widen_nothing(approved: World) -> None:
    file = approved.lab.folder / "state" / "journal.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    planned = decommission.plan(approved.run(execute=False)).overview
    removed, names = set(planned["firewall"]["removed"]), {str(r) for r in planned["names"]["records"]}
    refused = 0
    for seed in range(2 * TIMES):
        edited_lines = mangled(random.Random(seed), lines)
        file.write_text("".join(json.dumps(line) + "\n" for line in edited_lines))
        try:
            now = decommission.plan(approved.run(execute=False)).overview
        except CutoverError:
            refused += 1
            continue
        assert set(now["firewall"]["removed"]) <= removed, (seed, set(now["firewall"]["removed"]) - removed)
        assert {str(r) for r in now["names"]["records"]} <= names, seed
        assert {g["vmid"] for g in now["guests"]} == set(FOUR)
    print(f"{2 * TIMES} edited journals, {refused} of them refused, none removes more")
