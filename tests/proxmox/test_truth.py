"""Decisions rest on what is true now: each guest asked on its own node, never on the cluster's list, which is a sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.checks import guests as guest_checks
from cutover.checks import host as host_checks
from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.phases import decommission_survey, resize
from cutover.proxmox import identity, privileges, references, vzdump
from lab.proxmox_host import Host, host
from tests.support.phases import planned

SOURCES = Path(privileges.__file__).resolve().parents[1]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


def lie(lab: Host) -> None:
    """The cluster's list says the opposite of everything that it can be wrong about."""
    lab.pve.sample()
    lab.pve.samples_itself = False
    for row in lab.pve._sampled.values():
        row |= {
            "name": "wrong", "status": "stopped" if row["status"] == "running" else "running", "maxmem": 2**50, "maxcpu": 999,
            "maxdisk": 2**50, "template": 1, "uptime": 0, "mem": 2**50,
        }  # fmt: skip
    for row in lab.pve._sampled_nodes.values():
        row |= {"maxmem": 1, "mem": 1}


def everything(lab: Host) -> dict[str, Any]:
    """What every part of the tool that looks at guests makes of the host."""
    run = lab.run()
    facts, against = decommission_survey.take(run)
    return {
        "A1": host_checks.room(run).sentence,
        "A2": guest_checks.one_owner(run).sentence,
        "A3": guest_checks.as_named(run).sentence,
        "guests": [(g["vmid"], g["name"], g["status"], g["maxmem"]) for g in run.proxmox.guests()],
        "decommission": (against, {vmid: f.as_json() for vmid, f in facts.items()}),
        "resize": [str(line) for line in planned(resize.PHASE, run)],
        "identity": [identity.of(g, g["config"]).as_json() for g in run.proxmox.guests()],
        "facts": [f.as_json() for g in lab.site.guests.to_decommission() if (f := references.collect(run, g))],
    }


@pytest.mark.parametrize("change", [lie, lambda lab: lab.pve.forget_samples()], ids=["wrong in everything", "unknown"])
def test_nothing_that_the_cluster_s_list_says_of_a_guest_decides_anything(lab: Host, change: Any) -> None:
    before = everything(lab)
    change(lab)
    assert everything(lab) == before


def test_only_the_client_reads_the_cluster_s_list_and_keeps_ids_and_nodes_of_it() -> None:
    readers = [path.name for path in SOURCES.rglob("*.py") if re.search(r"""["']/?cluster/resources""", path.read_text())]
    assert readers == ["client.py"]


def gone_quiet(lab: Host, vmid: int, node: str = "other") -> None:
    lab.pve.add_node(node)
    lab.pve.guest(vmid).node = node
    lab.pve.set_node_offline(node)


def test_room_that_nobody_can_tell_is_no_room(lab: Host) -> None:
    """A row without numbers is unknown, and not a guest without memory."""
    real = lab.pve._status

    def without_numbers(ct: Any) -> Any:
        row = real(ct)
        return {k: v for k, v in row.items() if k != "maxmem"} if ct.vmid == 110 else row

    lab.pve._status = without_numbers
    finding = host_checks.room(lab.run())
    assert finding.ok is None
    assert "guest 110" in finding.sentence


def test_guests_on_another_node_are_found_there_and_not_assumed(lab: Host) -> None:
    lab.pve.add_node("other")
    for vmid in (952, 1001, 110):
        lab.pve.guest(vmid).node = "other"
    assert guest_checks.as_named(lab.run()).sentence.count("it is on node other, not on pve") == 2
    guests = lab.site.guests
    said = {name: getattr(guests, name).model_copy(update={"node": "other"}) for name in ("old", "new")}
    lab.site = lab.site.model_copy(update={"guests": guests.model_copy(update=said)})
    run = lab.run()
    assert run.proxmox.of(lab.site.guests.new) == "nodes/other/qemu/1001"
    assert guest_checks.as_named(run).ok is not False  # their names stand for nothing on this computer
    assert host_checks.room(run).ok is True
    assert not [said for said in decommission_survey.take(run)[1] if "node" in said]


def test_a_guest_that_moves_between_two_looks_is_found_again(lab: Host) -> None:
    lab.pve.add_node("other")
    run = lab.run()
    assert (run.proxmox.guest(952) or {})["node"] == "pve"
    lab.pve.guest(952).node = "other"
    assert (run.proxmox.guest(952) or {})["node"] == "other"
    assert identity.read(run, lab.site.guests.old) is not None


def test_a_backup_of_a_guest_on_another_node_is_made_and_tried_there(lab: Host) -> None:
    lab.pve.add_node("other")
    lab.pve.ct(952).node = "other"
    run = lab.run(execute=True)
    old = lab.site.guests.old
    archive = vzdump.make(run, old, purpose="test", mode="snapshot")
    assert vzdump.verify(run, old, archive, run.proxmox.config(old))
    assert [path for _, path in lab.pve.writes() if path.endswith("/vzdump")] == ["/api2/json/nodes/other/vzdump"]


@pytest.mark.parametrize("vmid", [110, 952])
def test_a_guest_on_a_node_that_does_not_answer_is_named(lab: Host, vmid: int) -> None:
    gone_quiet(lab, vmid)
    run = lab.run()
    owner = guest_checks.one_owner(run)
    assert owner.ok is None
    assert f"{vmid} on node other" in owner.sentence
    with pytest.raises(CutoverError, match="node other"):
        decommission_survey.take(run)
    if vmid == 952:
        assert guest_checks.as_named(run).ok is None
        with pytest.raises(Unreachable, match="node other"):
            identity.read(run, lab.site.guests.old)


def test_an_empty_list_of_backups_that_the_token_may_not_see_is_no_answer(lab: Host) -> None:
    run = lab.run(execute=True)
    vzdump.make(run, lab.site.guests.old, purpose="test", mode="snapshot")
    assert vzdump.find(run, lab.site.guests.old, "test") is not None
    run = lab.run(token="cutover@pve!check")
    with pytest.raises(Refused, match=r"Nobody knows whether there is a backup of guest 952 .* VM.Backup on /vms/952"):
        vzdump.find(run, lab.site.guests.old, "test")


def test_volumes_that_the_token_may_not_see_are_not_said_to_be_gone(lab: Host) -> None:
    left = references.left_behind(lab.run(token="cutover@pve!decommission"), 952)
    assert left
    assert all("nobody knows" in sentence and "pvesm list" in sentence for sentence in left)


def test_storages_that_cannot_be_looked_at_at_the_end_stop_nothing(lab: Host) -> None:
    lab.pve.fail("GET", "/nodes/pve/storage", 500, "boom")
    (said,) = references.left_behind(lab.run(), 952)
    assert "nobody knows what of it is left" in said


def test_purge_is_said_to_take_a_guest_out_of_what_a_job_excludes(lab: Host) -> None:
    lab.pve.backup_jobs["allbut"] = {"all": 1, "exclude": "950,110", "storage": "local"}
    facts = references.collect(lab.run(), next(g for g in lab.site.guests.legacy if g.vmid == 950))
    assert facts is not None
    assert "backup job allbut no longer excludes it" in references.goes_along(facts)
