"""Giving four guests back among neighbours: exactly these, nothing else, whatever gets in the way."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.name
import dns.query
import dns.tsigkeyring
import dns.update
import pytest

from cutover import runner
from cutover.checks.registry import Check, Finding
from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused
from cutover.core.journal import Journal, seconds, utc
from cutover.core.ui import ConfirmedInAdvance, SilentUi
from cutover.dns import rfc2136
from cutover.dns.records import Record
from cutover.phases import decommission, decommission_guest, decommission_survey, decommission_undo, departing
from cutover.proxmox import activity, firewall, vzdump
from cutover.proxmox.client import Proxmox
from cutover.proxmox.firewall import changing as firewall_changes
from cutover.site.schema import Rfc2136
from cutover.state import soak
from lab.dns import NameServer, NotInstalled, program, reverse_zone
from lab.firewall_fixtures import ALONE, furnish_firewall, rule
from lab.proxmox_host import Host, host
from tests.support.asked_before import read_later
from tests.support.night import every_nth_by_day
from tests.support.own_network import address
from tests.support.phases import done, planned, undone

try:
    program()
except NotInstalled as missing:
    pytestmark = pytest.mark.skip(reason=str(missing))

NETWORK = address(0).removesuffix(".0")
FOUR = (950, 951, 952, 953)
NAMES = ("legacy-950", "legacy-951", "qdrant", "legacy-953")


class Killed(BaseException):
    """The process ends here."""


class World:
    """A host with guests, neighbours, firewall entries and names, and an operator."""

    def __init__(self, lab: Host, names: NameServer) -> None:
        self.lab, self.names, self.pve = lab, names, lab.pve
        self.works: Callable[[Context], None] = lambda _run: None
        self.runs: list[Context] = []

    def not_met(self, run: Context) -> list[tuple[Check, Finding]]:
        """What the checks of the site would say."""
        try:
            self.works(run)
        except Refused as refused:
            finding = Finding(False, refused.sentence, refused.hint)
            return [(Check("D1", "The site works", frozenset(), lambda _: finding), finding)]
        return []

    def run(self, *, confirm: ConfirmedInAdvance | None = None, execute: bool = True) -> Context:
        for run in self.runs:
            run.close()
        token = self.lab.token
        credentials = Credentials(
            {
                "PROXMOX_TOKEN_ID": token,
                "PROXMOX_TOKEN_SECRET": self.pve.apitokens[token],
                "DNS_TSIG_NAME": self.names.key_name,
                "DNS_TSIG_SECRET": self.names.key_secret,
            }
        )
        given = confirm or ConfirmedInAdvance(*NAMES)
        made = Context(self.lab.site, credentials, self.lab.folder / "state", execute=execute, ui=SilentUi(), confirm=given)
        made.proxmox.poll = 0.01
        self.runs.append(made)
        return made

    def decommission(self, **options: Any) -> runner.Result:
        return runner.carry_out("decommission", self.run(**options))

    def config(self, vmid: int) -> dict[str, Any]:
        config: dict[str, Any] = self.pve.ct(vmid).config
        return config

    def soak(self, hours: float) -> None:
        limits = self.lab.site.limits.model_copy(update={"soak_hours": hours})
        self.lab.site = self.lab.site.model_copy(update={"limits": limits})

    def firewall(self) -> firewall.Firewall:
        return firewall.read(self.run(execute=False).proxmox)

    def everything(self) -> dict[str, Any]:
        """All that could be different afterwards."""
        pve = self.pve
        return copy.deepcopy(
            {
                "guests": {g.vmid: dict(g.config) for g in (*pve.cts, *pve.vms)},
                "running": {m.vmid: m.running for m in self.lab.machines},
                "volumes": {name: dict(s.get("volumes", {})) for name, s in pve.storages.items()},
                "firewall": self.firewall().as_json(),
                "jobs": pve.backup_jobs,
                "pools": {name: sorted(ids) for name, ids in pve.pools.items()},
                "acl": pve.acl_rows,
                "ha": pve.ha_rules,
                "names": self.names.entries(),
            }
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with host(tmp_path) as lab:
        site = lab.site
        at = {guest.vmid: f"{NETWORK}.{guest.vmid % 200}" for guest in site.guests.all()}
        moved = {
            r: getattr(site.guests, r).model_copy(update={"address": at[getattr(site.guests, r).vmid]})
            for r in ("nginx", "vllm", "old", "new")
        }
        legacy = [g.model_copy(update={"address": at[g.vmid]}) for g in site.guests.legacy]
        dns = [
            Rfc2136(
                kind="rfc2136",
                server=f"{NETWORK}.53",
                port=5353,
                zones=["home.arpa", reverse_zone(f"{NETWORK}.0/24").rstrip(".")],
            )
        ]
        limits = site.limits.model_copy(update={"soak_hours": 0.0})
        guests = site.guests.model_copy(update={**moved, "legacy": legacy})
        lab.site = site.model_copy(update={"guests": guests, "dns": dns, "limits": limits})
        for guest in guests.all():
            if guest.kind == "lxc":
                config = lab.pve.ct(guest.vmid).config
                config["net0"] = re.sub(r"ip=[^,]+", f"ip={guest.address}/24", config["net0"])
        furnish_firewall(lab.pve, lab.site)
        names = NameServer(
            tmp_path / "dns",
            f"{NETWORK}.53",
            entries=[*((g.name, "A", g.address) for g in guests.all()), ("vectors", "CNAME", "qdrant"), ("llm", "CNAME", "vllm")],
            reverse=[(g.address, g.name) for g in guests.all()],
        )
        names.start()
        world = World(lab, names)
        monkeypatch.setattr(decommission_survey, "not_validated", lambda _run: [])
        monkeypatch.setattr(decommission_survey, "not_met", world.not_met)
        try:
            yield world
        finally:
            names.kill()


def test_exactly_the_four_are_gone_and_nothing_else_differs(world: World) -> None:
    older = {
        f"backup/vzdump-lxc-952-2026_01_0{day}-02_00_00.tar.zst": {
            "content": "backup",
            "format": "tar.zst",
            "size": 1,
            "vmid": 952,
            "ctime": day,
        }
        for day in range(1, 7)
    }
    world.pve.storages["local"]["volumes"].update(older)
    before = world.everything()
    plan = world.decommission(execute=False)
    data = decommission.plan(world.run(execute=False)).overview
    assert json.loads(json.dumps(data)) == data
    assert plan.plan.refusals == []
    assert len(data["firewall"]["removed"]) == sum(ALONE.values())
    assert world.everything() == before, "planning changed something"
    result = world.decommission()
    # What is left behind is only told at the end; that it cannot be seen stops nothing.
    assert [path for path in read_later(world.pve, gone=FOUR) if "/storage" not in path] == []
    after = world.everything()

    assert result.outcome is not None
    assert set(before["guests"]) - set(after["guests"]) == set(FOUR)
    assert {v: c for v, c in before["guests"].items() if v not in FOUR} == after["guests"]
    assert {v: r for v, r in before["running"].items() if v not in FOUR} == after["running"]
    announced = firewall.put_back(world.firewall(), data["firewall"]["undo"]).as_json()
    without_own = {k: v for k, v in before["firewall"]["rules"].items() if not re.search(r"/lxc/95[0-3]/", k)}
    assert announced["rules"] == without_own
    assert announced["groups"] == before["firewall"]["groups"]
    assert announced["aliases"] == before["firewall"]["aliases"]
    assert announced["ipsets"] == before["firewall"]["ipsets"]
    gone = {(r["name"], r["type"], r["value"]) for r in data["names"]["records"]}
    assert len(gone) == 9
    assert after["names"] == [n for n in before["names"] if n not in gone]
    assert before["jobs"]["nightly"]["vmid"] == "101,950,951,952,953"
    assert after["jobs"] == {"nightly": {**before["jobs"]["nightly"], "vmid": "101"}}
    assert "backup job nightly no longer names it" in " ".join(s.text for s in plan.plan.sentences)
    assert after["ha"] == before["ha"]
    assert after["acl"] == [row for row in before["acl"] if not re.fullmatch(r"/vms/95[0-3]", row["path"])]
    added = {n: v for n, v in after["volumes"]["local"].items() if n not in before["volumes"]["local"]}
    assert set(older) <= set(after["volumes"]["local"]), "an older backup was pruned"
    assert sorted(v["vmid"] for v in added.values()) == list(FOUR)
    assert all(v["protected"] for v in added.values())
    assert 9952 not in after["guests"]
    one_at_a_time(world)
    again = world.decommission()
    assert not again.plan.sentences
    assert again.outcome is not None and not again.outcome.changed
    undo = json.loads((world.lab.folder / "state" / "undo-decommission.json").read_text())
    assert [g["vmid"] for g in undo["guests"]] == list(FOUR)

    back = runner.carry_out("decommission", world.run(), undo=True)
    assert back.outcome is not None
    assert sum("was deleted: restore it from local:backup/vzdump-lxc-95" in s for s in back.outcome.sentences) == 4
    restored = world.firewall().as_json()
    assert restored["rules"] == without_own
    assert {k: restored[k] for k in ("groups", "aliases", "ipsets")} == {
        k: before["firewall"][k] for k in ("groups", "aliases", "ipsets")
    }
    assert world.names.entries() == before["names"]


def one_at_a_time(world: World) -> None:
    """Rules before guests, and each is backed up and restored on trial before its own deletion."""
    acts = [
        (e.act, (e.before or {}).get("vmid") if isinstance(e.before, dict) else None)
        for e in world.run(execute=False).journal.entries()
        if e.kind == "intent"
    ]
    stops = [v for a, v in acts if a == "decommission.stop"]
    deletes = [v for a, v in acts if a == "decommission.delete"]
    assert stops == deletes == list(FOUR)
    order = [a for a, _ in acts]
    first = order.index("decommission.delete")
    assert order[:first].count("vzdump.make") == 1
    second = order[first + 1 : order.index("decommission.delete", first + 1)]
    marks = (
        "vzdump.make",
        "vzdump.test-restore",
        "decommission.firewall.disable",
        "decommission.firewall.delete",
        "decommission.dns.delete",
    )
    assert [second.index(mark) for mark in marks] == sorted(second.index(mark) for mark in marks)


# -- refusals: nothing is changed -------------------------------------------------------------------


def five_protected(world: World) -> None:
    for day in range(1, 6):
        entry = {"content": "backup", "format": "tar.zst", "size": 1, "vmid": 953, "ctime": day, "protected": True}
        world.pve.storages["local"]["volumes"][f"backup/vzdump-lxc-953-2026_01_0{day}-02_00_00.tar.zst"] = entry


Change = Callable[[World], Any]
REFUSALS: dict[str, tuple[Change, str]] = {
    "protected by somebody": (lambda w: w.config(951).update(protection=1), "LXC 951 .* somebody protected it"),
    "locked": (lambda w: w.config(951).update(lock="backup"), r"LXC 951 .* it is locked \(backup\)"),
    "a template": (lambda w: w.config(953).update(template=1), "LXC 953 .* it is a template"),
    "its id was reused": (
        lambda w: w.config(950).update(hostname="nas"),
        "LXC 950 .* is not the guest of site.yaml: its name is nas",
    ),
    "another address": (
        lambda w: w.config(950).update(net0=w.config(950)["net0"].replace(f"{NETWORK}.150", f"{NETWORK}.77")),
        f"its address is {NETWORK}.77, not {NETWORK}.150",
    ),
    "a linked clone": (
        lambda w: w.pve.add_ct(200 + 7, "clone", config={"rootfs": "local-lvm:base-952-disk-0/vm-207-disk-0,size=8G"}),
        "LXC 952 .* guest 207 is a linked clone of it",
    ),
    "its volume is used by another": (
        lambda w: w.pve.ct(101).config.update(mp3="local-lvm:vm-952-disk-3,mp=/data,size=8G"),
        "guest 101 uses a volume of it",
    ),
    "managed by HA": (lambda w: setattr(w.pve.ct(952), "ha_state", "started"), "HA manages it"),
    "a mount point without backup": (
        lambda w: w.config(952).update(mp0="local-lvm:vm-952-disk-1,mp=/data,size=8G"),
        "mp0 .* is not marked for backup",
    ),
    "a folder of the host": (lambda w: w.config(952).update(mp0="/tank/data,mp=/data"), "mp0 is a folder or device of the host"),
    "an unused volume": (lambda w: w.config(952).update(unused0="local-lvm:vm-952-disk-9"), "unused0 .* no backup holds it"),
    "a volume that waits for its next start": (
        lambda w: w.pve.ct(952).pending.update(mp1="local-lvm:vm-952-disk-4,mp=/data,size=8G,backup=1"),
        r"LXC 952 .* mp1 \(local-lvm:vm-952-disk-4.* would be deleted with it, and no backup holds it",
    ),
    "somebody else's volume": (
        lambda w: w.config(952).update(rootfs="local-lvm:vm-300-disk-0,size=8G"),
        "rootfs is a volume of guest 300",
    ),
    "its address is shared": (
        lambda w: w.pve.ct(101).config.update(net1=f"name=eth1,bridge=vmbr0,ip={NETWORK}.152/24"),
        f"guest 101 has its address {NETWORK}.152 too",
    ),
    "an alias that others use": (
        lambda w: w.pve.firewall_config("cluster")["ipset"]["databases"].append({"cidr": "dc/qdrant-old"}),
        "Alias qdrant-old .* IP set databases of the datacenter uses it together with others",
    ),
    "gone already": (lambda w: w.pve.cts.remove(w.pve.ct(953)), "LXC 953 .* does not exist, and this tool did not delete it"),
    "another node": (lambda w: setattr(w.pve.ct(953), "node", "pve2"), "it is on node pve2"),
    "as many protected backups as there may be": (
        five_protected,
        r"Storage local keeps at most 5 protected backups of LXC 953 .* and has 5",
    ),
    "a storage that takes no backups": (
        lambda w: w.pve.storages["local"].update(content="iso"),
        "Storage local takes no backups",
    ),
}


@pytest.mark.parametrize("case", every_nth_by_day(REFUSALS, 2))
def test_refused_with_the_reason_and_nothing_changed(world: World, case: str) -> None:
    change, said = REFUSALS[case]
    if case == "another node":
        world.pve.nodes["pve2"] = {"online": True}
    change(world)
    names = world.names.entries()
    with pytest.raises(Refused, match=said):
        done(decommission.PHASE, world.run())
    assert world.pve.writes() == []
    assert world.names.entries() == names
    assert any(re.search(said, one) for one in decommission.plan(world.run(execute=False)).refusals), "the plan does not say it"


def test_a_key_that_may_not_delete_is_refused_before_anything_is_stopped(world: World) -> None:
    world.lab.token = "cutover@pve!check"
    with pytest.raises(Refused, match=r"The token lacks .*VM.Allocate.* on /vms/950"):
        done(decommission.PHASE, world.run())
    assert world.pve.writes() == []
    assert any("VM.Allocate" in said for said in decommission.plan(world.run(execute=False)).refusals)


def test_without_the_typed_names_nothing_happens(world: World) -> None:
    before = world.everything()
    with pytest.raises(Refused, match="confirm by typing the name qdrant"):
        world.decommission(confirm=ConfirmedInAdvance("legacy-950", "legacy-951", "legacy-953"))
    assert world.everything() == before


# -- soaking -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_lives_without_them_for_the_agreed_time(world: World) -> None:
    world.soak(1.0)
    result = world.decommission()
    assert result.outcome is not None
    assert re.fullmatch(r"20\d\d-.*Z", result.outcome.facts["waiting_until"])
    assert not any(world.lab.machines[v].running for v in FOUR)
    assert all(int(world.config(v)["onboot"]) == 0 for v in FOUR)
    again = world.decommission()
    assert again.outcome is not None and not again.outcome.changed
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)
    world.soak(0.0)
    world.decommission()
    assert not {g.vmid for g in world.pve.cts} & set(FOUR)


def test_one_that_was_started_again_is_a_surprise(world: World) -> None:
    world.soak(1.0)
    world.decommission()
    world.pve.ct(951).status = "running"
    world.lab.machines[951].start()
    world.soak(0.0)
    with pytest.raises(
        Refused, match=r"LXC 951 \(legacy-951\) is running again, although it was stopped on .*: somebody needs it"
    ):
        world.decommission()
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


def test_a_guest_that_is_needed_is_started_again(world: World) -> None:
    def works(_run: Context) -> None:
        if not world.lab.machines[952].running:
            raise Refused("D1: Qdrant does not answer.")

    world.works = works
    with pytest.raises(Failed, match=r"does not work without LXC 952 \(qdrant\): D1: .* It was started again"):
        world.decommission()
    assert world.lab.machines[952].running
    assert world.lab.machines[953].running, "the next one was stopped after a surprise"


def test_undo_gives_them_back_while_they_exist(world: World) -> None:
    before = world.everything()
    world.soak(1.0)
    world.decommission()
    runner.carry_out("decommission", world.run(), undo=True)
    assert world.everything() == before


#: What keeps a guest from being started again, what takes that away, and what is said.
NOT_STARTABLE: list[tuple[Change, Change, str]] = [
    (
        lambda w: w.config(951).update(lock="migrate"), lambda w: w.config(951).pop("lock"),
        r"LXC 951 \(legacy-951\) is locked \(migrate\)",
    ),
    (
        lambda w: setattr(w.pve.ct(951), "ha_state", "stopped"), lambda w: setattr(w.pve.ct(951), "ha_state", None),
        "LXC 951 .* is managed by HA",
    ),
    (
        lambda w: w.config(101).update(net1=f"name=eth1,bridge=vmbr0,ip={NETWORK}.151/24"), lambda w: w.config(101).pop("net1"),
        f"LXC 101 .* runs with the address {NETWORK}.151 of LXC 951",
    ),
]  # fmt: skip


def test_an_undo_starts_the_approved_guests_and_only_where_all_of_them_can_start(world: World) -> None:
    world.soak(1.0)
    world.decommission()
    writes = len(world.pve.writes())
    for change, back, said in NOT_STARTABLE:
        change(world)
        for execute in (False, True):
            with pytest.raises(Refused, match=said):
                (done if execute else planned)(decommission.PHASE, world.run(execute=execute), undo=True)
        back(world)
    assert len(world.pve.writes()) == writes
    # Another guest has one of the ids by now.
    world.config(951).update(net0="name=eth0,bridge=vmbr0,hwaddr=BC:24:11:99:99:99", onboot=0)
    sentences = planned(decommission.PHASE, world.run(), undo=True)
    assert any("Leave LXC 951" in s.text and "its MAC address" in s.text for s in sentences)
    outcome = undone(decommission.PHASE, world.run())
    assert world.pve.ct(951).status == "stopped" and not world.config(951)["onboot"]
    assert world.pve.ct(950).status == "running"
    assert any("Left LXC 951" in said for said in outcome.sentences)


def restored_by_hand(world: World, *vmids: int) -> None:
    """The operator restores final backups in Proxmox, as the end of `decommission` says."""
    backups = {row["vmid"]: row["backup"] for row in decommission_undo.undo_record(world.run())["guests"]}
    by_hand = world.lab.run(execute=True, token=world.lab.root, state="by-hand")
    for vmid in vmids:
        with by_hand.guard.act("test", f"Restore LXC {vmid}"):
            by_hand.proxmox.do_task(
                "POST", "nodes/pve/lxc", kind="vzrestore", vmid=vmid, what="x", deadline=30,
                ostemplate=backups[vmid], restore=1, storage="local-lvm",
            )  # fmt: skip


@pytest.mark.parametrize("undone_before", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_undo_gives_back_what_was_restored_from_its_final_backup(world: World, undone_before: bool) -> None:
    """The backup holds a guest that does not start with the host and is down; the rights on it went with the guest."""
    world.pve._pool_join("legacy", 952)
    rules = [dict(row) for row in world.pve.acl_rows if row["path"] == "/vms/952"]
    world.decommission()
    if undone_before:
        undone(decommission.PHASE, world.run())
    restored_by_hand(world, 952)
    assert not world.config(952).get("onboot")
    writes = len(world.pve.writes())
    for execute in (False, True):
        with pytest.raises(Refused, match=r"The token lacks .*VM.PowerMgmt.* on /vms/952 .*`cutover rights`"):
            (done if execute else planned)(decommission.PHASE, world.run(execute=execute), undo=True)
    assert len(world.pve.writes()) == writes
    world.pve.acl_rows += rules
    sentences = [s.text for s in planned(decommission.PHASE, world.run(execute=False), undo=True)]
    assert "Start LXC 952 (qdrant) again" in sentences and not any("restore LXC 952" in one for one in sentences)
    said = undone(decommission.PHASE, world.run()).sentences
    assert world.pve.ct(952).status == "running" and world.config(952)["onboot"]
    along = next(
        one for one in said if one.startswith("LXC 952 (qdrant) is as it was, except for what its deletion took along: ")
    )
    assert "backup job nightly" in along and "pool legacy" in along
    assert sum("was deleted: restore it" in one for one in said) == 3
    assert not any("LXC 952" in one for one in undone(decommission.PHASE, world.run()).sentences)


def test_undo_puts_rules_and_names_back(world: World) -> None:
    before = world.everything()
    world.pve.fail("DELETE", "/nodes/{node}/lxc/{vmid}", 500, "boom", times=1)
    with pytest.raises(CutoverError):
        world.decommission()
    # The scratch guest's removal hit the fault; go on to the real deletion and cut that off.
    run = world.run()
    with run.guard.act("test", "Remove the scratch guest"):
        run.proxmox.do_task("DELETE", "nodes/pve/lxc/9952", kind="vzdestroy", vmid=9952, what="x", deadline=10)
    guest = run.site.guests.to_decommission()[0]
    decommission_guest._forget(run, guest, departing.scope(run, decommission_survey.take(run)[0]))
    assert world.everything()["names"] != before["names"]
    runner.carry_out("decommission", world.run(), undo=True)
    after = world.everything()
    assert after["firewall"] == before["firewall"]
    assert after["names"] == before["names"]
    assert after["running"] == before["running"]


def test_an_undo_that_is_killed_again_and_again_and_done_twice_is_done_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.everything()
    world.decommission()
    real = Proxmox.change
    left: Iterator[str] = iter([])

    def change(self: Proxmox, *words: Any, **values: Any) -> Any:
        answer = real(self, *words, **values)
        if next(left, "lives") == "dies":
            raise Killed
        return answer

    monkeypatch.setattr(Proxmox, "change", change)
    for lives in (0, 3, 1, 2, 5, 4, 7):
        left = iter([*["lives"] * lives, "dies"])
        with contextlib.suppress(Killed):
            runner.carry_out("decommission", world.run(), undo=True)
    left = iter([])
    runner.carry_out("decommission", world.run(), undo=True)
    kept = {k: v for k, v in before["firewall"]["rules"].items() if not re.search(r"/lxc/95[0-3]/", k)}
    restored = world.firewall().as_json()
    assert restored["rules"] == kept
    for part in ("groups", "aliases", "ipsets"):
        assert restored[part] == before["firewall"][part]
    # What others do afterwards is theirs, also where it looks like what was put back.
    world.pve.firewall_config("cluster")["rules"].insert(0, rule("in", comment="somebody's, later"))
    del world.pve.firewall_config("cluster")["rules"][2]
    now, names = world.firewall(), world.names.entries()
    writes = len(world.pve.writes())
    again = runner.carry_out("decommission", world.run(), undo=True)
    assert again.outcome is not None and not again.outcome.changed
    assert (world.firewall(), world.names.entries(), len(world.pve.writes())) == (now, names, writes)


@pytest.mark.parametrize(
    ("kind", "vmid"),
    [
        ("vzdestroy", 951),
        *(
            pytest.param(kind, vmid, marks=pytest.mark.slow)
            for kind, vmid in (("vzshutdown", 951), ("vzdump", 951), ("vzrestore", 9952), ("vzdestroy", 9952))
        ),
    ],
)
def test_a_run_that_is_killed_while_proxmox_works_is_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str, vmid: int
) -> None:
    real = Proxmox.start_task

    def start_task(self: Proxmox, *words: Any, **values: Any) -> str:
        upid = real(self, *words, **values)
        if (values["kind"], values["vmid"]) == (kind, vmid):
            raise Killed
        return upid

    world.pve.time_scale = 0.1
    with monkeypatch.context() as patch:
        patch.setattr(Proxmox, "start_task", start_task)
        with pytest.raises(Killed):
            world.decommission()
    world.decommission()
    assert not {g.vmid for g in world.pve.cts} & {*FOUR, 9952}
    began = [task["id"] for task in world.pve.tasklog if task["type"] == "vzdestroy" and task["id"] in map(str, FOUR)]
    assert sorted(began) == sorted(map(str, FOUR)), "one was deleted twice"


@pytest.mark.slow
def test_what_begins_while_another_task_is_waited_for_is_waited_for_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True, True])
    monkeypatch.setattr(
        decommission, "tasks_begun", lambda _run, guest: [guest] if guest.vmid == 951 and next(looks, False) else []
    )
    result = world.decommission()
    assert next(looks, False) is False
    assert result.outcome is not None and "were given back already" not in " ".join(result.outcome.sentences)
    assert not {g.vmid for g in world.pve.cts} & {*FOUR}


# -- nothing that was written is deleted --------------------------------------------------------------


def used(world: World, vmid: int, word: str) -> None:
    """Somebody starts a guest in Proxmox, it writes something, and it is stopped again."""
    root = Context(
        world.lab.site, Credentials({"PROXMOX_TOKEN_ID": world.lab.root, "PROXMOX_TOKEN_SECRET": world.pve.apitokens[world.lab.root]}),
        world.lab.folder / "somebody", execute=True, ui=SilentUi(), confirm=ConfirmedInAdvance(),
    )  # fmt: skip
    root.proxmox.poll = 0.01
    with root.guard.act("somebody", "Use it"):
        for what, kind in (("start", "vzstart"), ("shutdown", "vzshutdown")):
            root.proxmox.do_task("POST", f"nodes/pve/lxc/{vmid}/status/{what}", kind=kind, vmid=vmid, what=what, deadline=20)
            (world.lab.machines[vmid].root / "data" / word).write_text(word)
    root.close()


def once_after(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None]) -> None:
    """Let something happen when this part of the decommission has been carried out for the third guest, LXC 952."""
    real = getattr(decommission_guest, name)
    done: list[Any] = []

    def then(run: Context, guest: Any, *rest: Any) -> Any:
        answer = real(run, guest, *rest)
        if guest.vmid == 952 and not done:
            done.append(guest)
            act()
        return answer

    monkeypatch.setattr(decommission_guest, name, then)


def in_final_backup(world: World, vmid: int, word: str) -> bool:
    lines = world.run(execute=False).journal.acts("decommission.backup")
    volid = next(e.extra["archive"]["volid"] for e in reversed(lines) if e.extra["vmid"] == vmid)
    with tarfile.open(world.pve.archive(volid)) as tar:
        return f"./data/{word}" in tar.getnames()


@pytest.mark.parametrize("part", ["_final_backup", pytest.param("_forget", marks=pytest.mark.slow)])
def test_a_guest_that_was_used_after_its_final_backup_is_backed_up_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    once_after(monkeypatch, part, lambda: used(world, 952, "written-late"))
    result = world.decommission()
    assert world.pve.ct(952) is None
    assert in_final_backup(world, 952, "written-late"), "what was written after the backup was deleted with the guest"
    assert result.outcome is not None
    assert any("LXC 952 (qdrant) was used after its backup of" in sentence for sentence in result.outcome.sentences)


@pytest.mark.slow
def test_the_soak_time_begins_anew_where_somebody_needed_one_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    soaked = True
    monkeypatch.setattr(soak, "soak_left", lambda down, seconds, ours, theirs: 0.0 if soaked else seconds)
    world.soak(1.0)

    def somebody() -> None:
        nonlocal soaked
        used(world, 952, "written-late")
        soaked = False

    once_after(monkeypatch, "_final_backup", somebody)
    result = world.decommission()
    assert result.outcome is not None
    assert re.fullmatch(r"20\d\d-.*Z", result.outcome.facts["waiting_until"])
    assert world.pve.ct(952) is not None and world.pve.ct(953) is not None
    soaked = True
    world.decommission()
    assert world.pve.ct(952) is None
    assert in_final_backup(world, 952, "written-late")


@pytest.mark.slow
def test_one_that_is_used_again_and_again_is_not_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decommission_guest._forget

    def forget(run: Context, guest: Any, within: Any) -> Any:
        used(world, guest.vmid, "again")
        return real(run, guest, within)

    monkeypatch.setattr(decommission_guest, "_forget", forget)
    with pytest.raises(Failed, match=r"LXC 950 .* was not deleted: it was used again after each of 3 final backups"):
        world.decommission()
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


def test_a_key_that_cannot_see_others_tasks_deletes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody used a guest cannot be seen then, and absence is only claimed where one may see."""
    monkeypatch.setattr("cutover.proxmox.privileges.held_by", lambda _run: lambda _path: frozenset({"Datastore.Allocate"}))
    monkeypatch.setattr("cutover.proxmox.privileges.missing", lambda _run, _step: [])
    with pytest.raises(CutoverError, match="cannot be seen whether somebody used a guest"):
        world.decommission()
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


def test_a_volume_that_came_after_the_approval_is_not_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    once_after(
        monkeypatch, "_final_backup", lambda: world.config(952).update(mp1="local-lvm:vm-952-disk-7,mp=/new,size=8G,backup=1")
    )
    with pytest.raises(CutoverError, match="it has the volume local-lvm:vm-952-disk-7"):
        world.decommission()
    assert world.pve.ct(952) is not None


def task(kind: str, start: float, end: float | None = None) -> dict[str, Any]:
    return {"type": kind, "starttime": start, **({"endtime": end} if end is not None else {"status": "RUNNING"})}


@pytest.mark.parametrize(
    ("tasks", "moment"),
    [
        ([], 0),
        ([task("vzdump", 100, 110), task("vzsnapshot", 120, 121)], 0),
        ([task("vzstart", 100, 101)], 101),
        ([task("vzstart", 100, 101), task("vzshutdown", 200, 203)], 203),
        ([task("vzshutdown", 100)], float("inf")),
        ([task("vzrollback", 100, 160)], 160),
        ([task("vzrestore", 100, 160)], 160),
        ([task("vzreboot", 100, 160)], 160),
        ([task("something-new", 100, 160)], 160),
    ],
)  # fmt: skip
def test_from_when_on_a_guest_is_unchanged(tasks: list[dict[str, Any]], moment: float) -> None:
    assert activity.unchanged_from(tasks) == moment


def test_a_list_of_tasks_that_was_cut_off_tells_nothing() -> None:
    assert activity.reaches_back([task("vzdump", 90, 120)], 100)
    assert activity.reaches_back([task("vzdump", 90)], 100)
    assert not activity.reaches_back([task("vzdump", 10, 20), task("vzstart", 90, 120)], 100)
    assert not activity.reaches_back([], 100)


# -- backups ---------------------------------------------------------------------------------------


def test_an_unreadable_backup_stops_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.pve._write_archive

    def broken(*arguments: Any) -> int:
        size = real(*arguments)
        arguments[1].write_bytes(b"\0" * size)
        return int(size)

    monkeypatch.setattr(world.pve, "_write_archive", broken)
    with pytest.raises(Failed, match=r"The backup local:backup/vzdump-lxc-950-\S+ of LXC 950 .* cannot be read"):
        world.decommission()
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)
    assert world.names.entries() and ALONE["rules"]


@pytest.mark.parametrize(
    ("exitstatus", "said"),
    every_nth_by_day(
        [("WARNINGS: 1", "ended with warnings"), ("job errors", "failed"), ("unexpected status", "without saying how")], 3
    ),
)
def test_a_backup_that_did_not_end_well_does_not_count_now_or_later(world: World, exitstatus: str, said: str) -> None:
    world.pve.end_next("vzdump", exitstatus)
    for _ in range(2):
        with pytest.raises((Failed, OutcomeUnknown), match=said):
            world.decommission()
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


def test_a_backup_that_is_gone_before_the_deletion_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(decommission_guest, "_delete", cut)
        with pytest.raises(Killed):
            world.decommission()
    world.pve.storages["local"]["volumes"].clear()
    world.decommission()
    backups = world.pve.storages["local"]["volumes"].values()
    assert sorted(b["vmid"] for b in backups) == list(FOUR)
    made = [e for e in world.run(execute=False).journal.acts("vzdump.make") if e.kind == "done"]
    assert len(made) == 5


# -- changed meanwhile -------------------------------------------------------------------------------


def test_a_rule_changed_meanwhile_is_not_touched(world: World) -> None:
    run = world.run()
    rules = firewall.read(run.proxmox)
    going = firewall.Going(frozenset(FOUR), frozenset(g.address for g in run.site.guests.to_decommission()))
    removal = firewall.resolve(rules, going).removal
    world.pve.firewall_config("cluster")["rules"].insert(
        0, {"type": "in", "action": "DROP", "enable": 1, "source": "198.51.100.7"}
    )
    before = world.everything()
    run = world.run()
    with pytest.raises(Refused, match="rules of the datacenter were changed since they were read"):
        firewall.carry_out(run.proxmox, run.guard, rules, removal)
    assert world.everything() == before


def test_a_guest_renamed_after_the_approval_is_not_deleted(world: World) -> None:
    world.soak(1.0)
    world.decommission()
    world.soak(0.0)
    world.config(952)["hostname"] = "somebody-elses"
    before = world.everything()
    with pytest.raises(
        Refused, match=r"LXC 952 \(qdrant\) is not the guest that was approved on .*: its name is somebody-elses and was qdrant"
    ):
        world.decommission()
    assert world.everything() == before


def test_a_guest_swapped_right_before_its_deletion_is_not_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decommission_guest._forget

    def swap(run: Context, guest: Any, within: Any) -> list[str]:
        said = real(run, guest, within)
        if guest.vmid == 951:
            world.config(951)["rootfs"] = "local-lvm:vm-951-disk-7,size=8G"
        return said

    monkeypatch.setattr(decommission_guest, "_forget", swap)
    with pytest.raises(Failed, match=r"LXC 951 .* was not deleted: its root volume is local-lvm:vm-951-disk-7"):
        world.decommission()
    assert {g.vmid for g in world.pve.cts} & set(FOUR) == {951, 952, 953}


# -- what a real site has, and a tidy one has not --------------------------------------------------------


def by_hand(world: World, vmid: int, *does: str) -> None:
    """What somebody does to a guest in Proxmox, outside this tool."""
    run = world.run()
    with run.guard.act("test", "Somebody works in Proxmox"):
        for word in does:
            kind = f"vz{word}"
            path = f"nodes/pve/lxc/{vmid}/status/{word}"
            run.proxmox.do_task("POST", path, kind=kind, vmid=vmid, what=word, deadline=20)


def hours_pass(world: World, hours: float, *, but_for: str = "") -> None:
    """Everything in journal and task list was so much earlier, except for tasks of the kind ``but_for``."""
    for task in world.pve.tasklog:
        if task["type"] != but_for:
            task["starttime"] -= int(hours * 3600)
            task["endtime"] -= int(hours * 3600)
    journal_ages(world, hours)


def journal_ages(world: World, hours: float) -> None:
    """The journal alone says that everything was so much earlier."""
    file = world.lab.folder / "state" / "journal.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["at"] = utc(seconds(line["at"]) - hours * 3600)
        place = line.get("after") or line.get("extra") or {}
        for clock in {"started", "there"} & set(place):
            place[clock] -= int(hours * 3600) if place[clock] else 0
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def add_name(world: World, name: str, address: str) -> tuple[str, str, str]:
    server = world.names
    keyring = dns.tsigkeyring.from_text({server.key_name: ("hmac-sha256", server.key_secret)})
    message = dns.update.UpdateMessage(server.zone, keyring=keyring, keyname=dns.name.from_text(server.key_name))
    message.add(name, 300, "A", address)
    assert dns.query.tcp(message, server.address, port=server.port, timeout=5).rcode() == 0
    return (f"{name}.{server.zone}", "A", address)


def cut_before_the_deletion(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(decommission_guest, "_delete", cut)
        with pytest.raises(Killed):
            world.decommission()


def in_the_archives(world: World, vmid: int) -> list[tarfile.TarFile]:
    volumes = world.pve.storages["local"]["volumes"]
    return [tarfile.open(world.pve.archive(f"local:{name}")) for name, v in volumes.items() if v["vmid"] == vmid]


def test_what_was_written_after_the_final_backup_is_in_a_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_before_the_deletion(world, monkeypatch)
    hours_pass(world, 1)
    for volume in world.pve.storages["local"]["volumes"].values():
        volume["ctime"] -= 3600
    by_hand(world, 950, "start")
    (world.lab.machines[950].root / "data" / "late").write_text("written after the final backup")
    by_hand(world, 950, "shutdown")
    world.decommission()
    assert any(name.endswith("data/late") for archive in in_the_archives(world, 950) for name in archive.getnames())


def test_the_soak_time_begins_anew_when_somebody_used_a_guest(world: World) -> None:
    world.soak(1.0)
    world.decommission()
    by_hand(world, 951, "start")
    hours_pass(world, 2)
    with pytest.raises(Refused, match=r"LXC 951 .* is running again"):
        world.decommission()
    by_hand(world, 951, "shutdown")
    result = world.decommission()
    assert result.outcome is not None and result.outcome.facts.get("waiting_until")
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


@pytest.mark.parametrize("claimed", every_nth_by_day([0, 2**40], 2))
def test_a_journal_that_says_too_early_a_time_does_not_shorten_the_soak_time(world: World, claimed: int) -> None:
    world.soak(1.0)
    world.decommission()
    journal_ages(world, 48)
    file = world.lab.folder / "state" / "journal.jsonl"
    if claimed:  # so that no start after it is seen
        file.write_text(re.sub(r'"started": -?\d+', f'"started": {claimed}', file.read_text()))
    result = world.decommission()
    assert result.outcome is not None and result.outcome.facts.get("waiting_until")
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


def test_that_a_guest_is_down_which_only_the_journal_says_stands_in_the_question(world: World) -> None:
    asked: dict[str, str] = {}

    class Noting(ConfirmedInAdvance):
        def by_name(self, name: str, what_is_lost: str) -> None:
            asked[name] = what_is_lost
            super().by_name(name, what_is_lost)

    world.pve.ct(951).status = "stopped"  # from inside: Proxmox has no task of it
    world.lab.machines[951].stop()
    world.soak(1.0)
    world.decommission()
    world.decommission(confirm=Noting(*NAMES))
    alone = "says this tool's journal alone, Proxmox lists no stop"
    assert {name for name, said in asked.items() if alone in said} == {"legacy-951"}


def test_only_what_proxmox_itself_restored_counts_as_restored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def restores() -> int:
        scratch = world.lab.site.proxmox.scratch_vmid
        return sum(task["type"] == "vzrestore" and task["id"] == str(scratch) for task in world.pve.tasklog)

    cut_before_the_deletion(world, monkeypatch)
    assert restores() == 1
    cut_before_the_deletion(world, monkeypatch)
    assert restores() == 1, "the same archive was restored on trial once more"
    for task in [one for one in world.pve.tasklog if one["type"] == "vzrestore"]:
        world.pve.tasklog.remove(task)  # as if a journal only said so
    cut_before_the_deletion(world, monkeypatch)
    assert restores() == 1, "it counted as restored because the journal says so"


@pytest.mark.parametrize("clock", every_nth_by_day(["ours", "theirs"], 2))
def test_a_clock_that_is_set_forward_does_not_shorten_the_soak_time(
    world: World, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    world.soak(1.0)
    world.decommission()
    now = time.time
    if clock == "ours":
        monkeypatch.setattr(soak, "time", SimpleNamespace(time=lambda: now() + 7200))
    else:
        monkeypatch.setattr(world.pve, "clock", lambda: now() + 7200)
    result = world.decommission()
    assert result.outcome is not None and result.outcome.facts.get("waiting_until")
    assert {g.vmid for g in world.pve.cts} >= set(FOUR)


@pytest.mark.parametrize(
    ("ours", "theirs", "left"),
    [(1000, 5000, 2600), (1000, 0, 2600), (3700, 5100, 2500), (3700, 8700, 0), (-3600, 5000, 3600), (9000, 9000, 0)],
)
def test_the_clock_by_which_less_time_has_passed_counts(ours: float, theirs: float, left: float) -> None:
    down = soak.Down(0.0, 4000.0 if theirs else 0.0)
    assert max(0, soak.soak_left([down], 3600, ours, theirs)) == left
    assert soak.soak_left([], 3600, ours, theirs) == 0


def test_one_that_was_down_already_and_is_started_is_a_surprise_too(world: World) -> None:
    by_hand(world, 951, "shutdown")
    world.soak(1.0)
    world.decommission()
    by_hand(world, 951, "start")
    with pytest.raises(Refused, match=r"LXC 951 .* is running again"):
        world.decommission()
    assert world.lab.machines[951].running


def test_one_whose_address_nobody_knows_is_refused(world: World) -> None:
    """Stopped, its address from DHCP, its name in site.yaml somebody else's by now (a wildcard, a reused address)."""
    site, theirs = world.lab.site, f"{NETWORK}.77"
    cluster = world.pve.firewall_config("cluster")
    cluster["ipset"]["old-ones"] = [m for m in cluster["ipset"]["old-ones"] if m["cidr"] != f"{NETWORK}.150"]
    by_hand(world, 950, "shutdown")
    world.config(950)["net0"] = re.sub(r"ip=[^,]+", "ip=dhcp", world.config(950)["net0"])
    legacy = [g.model_copy(update={"address": theirs}) if g.vmid == 950 else g for g in site.guests.legacy]
    world.lab.site = site.model_copy(update={"guests": site.guests.model_copy(update={"legacy": legacy})})
    cluster["rules"].append(rule("in", source=theirs, comment="the proxy"))
    add_name(world, "proxy", theirs)
    before = world.everything()
    with pytest.raises(Refused, match=r"LXC 950 .* knows no address of it"):
        world.decommission()
    assert world.everything() == before


def test_an_address_that_every_docker_host_has_is_nobodys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Proxmox.get

    def get(self: Proxmox, path: str, /, **parameters: Any) -> Any:
        found = real(self, path, **parameters)
        if path.endswith("/interfaces") and found is not None:
            found.append({"name": "docker0", "hwaddr": "02:42:aa:bb:cc:dd", "inet": "172.17.0.1/16"})
            # The first of two global ones, as `inet6` has room for the last only.
            found[1]["ip-addresses"].append({"ip-address-type": "inet6", "ip-address": "fd00::950", "prefix": "64"})
        return found

    monkeypatch.setattr(Proxmox, "get", get)
    world.pve.firewall_config("vm", vmid=1001)["rules"].append(rule("in", source="172.17.0.1", comment="its own containers"))
    data = decommission.plan(world.run(execute=False)).overview
    assert data["guests"][0]["addresses"] == [f"{NETWORK}.150", "fd00::950"]
    world.pve.firewall_config("vm", vmid=200)["rules"].append(rule("in", source="172.17.0.1"))
    assert not any("172.17.0.1" in sentence for sentence in data["firewall"]["removed"])


@pytest.mark.parametrize("how", ["cloud-init", "agent"])
def test_a_vm_that_has_the_address_is_a_reason_to_refuse(world: World, how: str) -> None:
    if how == "agent":
        world.pve.vm(200).guest_os.address = f"{NETWORK}.150"
    else:
        world.pve.vm(200).config["ipconfig0"] = f"ip={NETWORK}.150/24,gw={NETWORK}.1"
    with pytest.raises(Refused, match=rf"guest 200 has its address {NETWORK}\.150 too"):
        world.decommission()


def test_who_gets_the_address_while_its_guest_is_down_keeps_name_and_rule(world: World) -> None:
    world.soak(1.0)
    world.decommission()
    world.soak(0.0)
    add_name(world, "printer", f"{NETWORK}.151")
    world.pve.firewall_config("vm", vmid=1001)["rules"].append(rule("in", source=f"{NETWORK}.151", comment="the printer"))
    before = world.everything()
    with pytest.raises(Refused, match="not there when the old servers were approved") as refused:
        world.decommission()
    assert "record printer.home.arpa A" in str(refused.value) and "the printer" in str(refused.value)
    assert world.everything() == before
    assert any("printer" in s.text for s in decommission.plan(world.run(execute=False)).sentences)


def test_a_backup_job_of_the_four_alone_is_said_to_disappear(world: World) -> None:
    world.pve.backup_jobs["weekly"] = {"enabled": 1, "schedule": "03:00", "storage": "local", "vmid": "950,951,952,953"}
    said = " ".join(s.text for s in decommission.plan(world.run(execute=False)).sentences)
    assert "backup job weekly disappears" in said
    assert "backup job nightly no longer names it" in said


@pytest.mark.slow
def test_a_list_of_guests_that_is_ten_seconds_old_deceives_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `cluster/resources` says of a guest's state is broadcast every ten seconds; that it exists is known at once."""
    real = Proxmox.guests
    known: dict[int, str] = {}

    def guests(self: Proxmox) -> Any:
        return [row | {"status": known.setdefault(row["vmid"], row["status"])} for row in real(self)]

    monkeypatch.setattr(Proxmox, "guests", guests)
    world.decommission()
    assert not {g.vmid for g in world.pve.cts} & set(FOUR)


def test_a_firewall_name_that_somebody_began_to_use_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = firewall_changes._remove_set

    def first(*arguments: Any, **named: Any) -> None:
        world.pve.firewall_config("vm", vmid=1001)["rules"].append(rule("in", source="dc/qdrant-old", comment="new"))
        real(*arguments, **named)

    monkeypatch.setattr(firewall_changes, "_remove_set", first)
    with pytest.raises(Failed, match=r"Alias qdrant-old .* is in use by now \(a rule of VM 1001"):
        world.decommission()
    assert "qdrant-old" in world.pve.firewall_config("cluster")["aliases"]


def test_a_linked_clone_owns_its_own_volume(world: World) -> None:
    world.config(950)["rootfs"] = "vm-7-pool:basevol-900-disk-0/subvol-950-disk-0,size=8G"
    assert decommission.plan(world.run(execute=False)).refusals == []


@pytest.mark.slow
def test_the_final_backup_has_the_guests_own_rules_also_about_those_that_went_before(world: World) -> None:
    own = world.pve.firewall_config("ct", vmid=952)["rules"]
    own.append(rule("in", source=f"{NETWORK}.150", comment="950 may"))
    world.decommission()
    (archive,) = in_the_archives(world, 952)
    rules = archive.extractfile("./etc/vzdump/pct.fw")
    assert rules is not None and b"950 may" in rules.read()


def test_a_name_server_that_accepts_and_does_nothing_is_no_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rfc2136, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(rfc2136.Rfc2136, "_carry_out", lambda self, *_: self._guard.require("an update"))
    with pytest.raises(Failed, match="are still served"):
        world.decommission()


def test_names_that_could_not_be_seen_are_spoken_of_at_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: rfc2136.Rfc2136, _zone: str) -> list[Record]:
        raise rfc2136.TransferRefused("it says REFUSED")

    monkeypatch.setattr(rfc2136.Rfc2136, "_transfer", refuse)
    result = world.decommission()
    assert result.outcome is not None and result.outcome.changed
    assert "refuses a zone transfer (AXFR) of home.arpa: aliases" in " ".join(result.outcome.warnings)
    assert [entry for entry in world.names.entries() if entry[0].startswith("vectors.")], "nobody named the alias"


def test_a_zone_that_was_seen_and_is_refused_now_is_not_taken_for_an_empty_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its aliases would be left behind, and nobody would say so."""
    transfer, asked = rfc2136.Rfc2136._transfer, list[str]()

    def refuse_later(self: rfc2136.Rfc2136, zone: str) -> list[Record]:
        asked.append(zone)
        if len(asked) > 4:
            raise rfc2136.TransferRefused("it says REFUSED")
        return transfer(self, zone)

    monkeypatch.setattr(rfc2136.Rfc2136, "_transfer", refuse_later)
    with pytest.raises(Failed, match=r"gave zone home\.arpa\. a moment ago, and now refuses it \(it says REFUSED\)"):
        world.decommission()


# -- cut off anywhere ----------------------------------------------------------------------------------


def finished(world: World, before: dict[str, Any]) -> None:
    after = world.everything()
    assert set(before["guests"]) - set(after["guests"]) == set(FOUR)
    assert {v: c for v, c in before["guests"].items() if v not in FOUR} == after["guests"]
    assert len(before["names"]) - len(after["names"]) == 9
    rules = sum(len(r) for p, r in before["firewall"]["rules"].items() if not re.search(r"/lxc/95[0-3]/", p))
    assert rules - sum(len(r) for r in after["firewall"]["rules"].values()) == ALONE["rules"]
    assert set(before["firewall"]["groups"]) - set(after["firewall"]["groups"]) == {"to-qdrant"}
    assert "old-ones" not in after["firewall"]["ipsets"]["cluster/firewall"]
    assert "databases" in after["firewall"]["ipsets"]["cluster/firewall"]
    assert set(after["firewall"]["aliases"]["cluster/firewall"]) == {"vllm", "lan"}
    backups = [v for n, v in after["volumes"]["local"].items() if n not in before["volumes"]["local"]]
    assert sorted(v["vmid"] for v in backups) == list(FOUR), "a backup was made twice, or not at all"
    deletes = [path for method, path in world.pve.writes() if method == "DELETE" and re.fullmatch(r".*/lxc/95[0-3]", path)]
    assert len(deletes) == 4, "something was deleted twice"


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "points", "least"), [pytest.param(7, 11, 4, id="fewer"), pytest.param(3, 7, 8, marks=pytest.mark.slow, id="often")]
)
def test_killed_again_and_again_it_completes_and_does_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, first: int, points: int, least: int
) -> None:
    """Runs are killed at their 7th, 8th, ... 17th write to Proxmox, by turns before it is sent and after it was answered."""
    before = world.everything()
    real = Proxmox.change
    left = [0]
    killed: list[str] = []

    def change(self: Proxmox, method: Any, path: str, **parameters: Any) -> Any:
        left[0] -= 1
        after = len(killed) % 2 == 1
        if left[0] == 0 and not after:
            killed.append(f"before {method} {path}")
            raise Killed
        answer = real(self, method, path, **parameters)
        if left[0] == 0:
            if isinstance(answer, str) and answer.startswith("UPID"):
                self.wait_task(answer, deadline=20)
            killed.append(f"after {method} {path}")
            raise Killed
        return answer

    monkeypatch.setattr(Proxmox, "change", change)
    for number in range(60):
        left[0] = first + number % points
        try:
            world.decommission()
            break
        except Killed:
            continue
    assert len(killed) > least, killed
    finished(world, before)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "points", "least"), [pytest.param(13, 17, 4, id="fewer"), pytest.param(6, 9, 8, id="often")])
def test_a_computer_that_dies_at_lines_of_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch, first: int, points: int, least: int
) -> None:
    """Dead is dead: after the line at which it dies nothing more is written, not even that an act failed."""
    before = world.everything()
    write = Journal._write
    left, deaths = [0], 0

    def counted(self: Journal, *arguments: Any, **rest: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 or (left[0] == 0 and deaths % 2):
            raise Killed  # died just before the line would have been written
        entry = write(self, *arguments, **rest)
        if left[0] == 0:
            raise Killed
        return entry

    monkeypatch.setattr(Journal, "_write", counted)
    for number in range(60):
        left[0] = first + number % points
        try:
            world.decommission()
            break
        except Killed:
            deaths += 1
    assert deaths > least
    finished(world, before)


@pytest.mark.parametrize("after", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_lost_answers_are_looked_up_and_nothing_is_done_twice(world: World, after: bool) -> None:
    before = world.everything()
    world.pve.cut("DELETE", "/lxc/951", after=after)
    world.pve.cut("POST", "/vzdump", after=after)
    world.pve.cut("POST", "/lxc/953/status/shutdown", after=after)
    world.pve.cut("DELETE", "/cluster/firewall/groups/to-qdrant", after=after)
    for _ in range(6):
        try:
            world.decommission()
            break
        except OutcomeUnknown:
            continue
    after_all = world.everything()
    assert set(before["guests"]) - set(after_all["guests"]) == set(FOUR)
    assert {v: c for v, c in before["guests"].items() if v not in FOUR} == after_all["guests"]


# -- pure parts -----------------------------------------------------------------------------------------


def test_a_vzdump_log_is_read() -> None:
    log = [
        "INFO: including mount point rootfs ('/') in backup",
        "INFO: excluding bind mount point mp0 ('/data') from backup (not a volume)",
        "INFO: excluding volume mount point mp1 ('/x') from backup (disabled)",
        "INFO: creating vzdump archive '/var/lib/vz/dump/vzdump-lxc-952-2026_11_24-12_00_00.tar.zst'",
        "ERROR: Backup of VM 952 failed - no space left",
    ]
    report = vzdump.read_log(log, "local")
    assert report.archive == "local:backup/vzdump-lxc-952-2026_11_24-12_00_00.tar.zst"
    assert (report.included, report.excluded) == (("rootfs",), ("mp0", "mp1"))
    assert report.errors == ("Backup of VM 952 failed - no space left",)
    pbs = vzdump.read_log(["INFO: creating Proxmox Backup Server archive 'ct/952/2026-11-24T12:00:00Z'"], "pbs")
    assert pbs.archive == "pbs:backup/ct/952/2026-11-24T12:00:00Z"


def test_the_clock_of_the_soak_time() -> None:
    assert abs(seconds(utc(time.time())) - time.time()) < 2
