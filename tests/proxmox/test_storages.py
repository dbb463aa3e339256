"""Backups go where site.yaml says, whatever kind of storage that is; why one cannot is known before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.checks.host import Room, strains
from cutover.core.errors import Refused
from cutover.proxmox import scratch, storages, vzdump
from cutover.site.load import load
from cutover.site.schema import Guest
from lab.proxmox_host import SITE, Host, host

GIB = 2**30
#: Kinds of storages for volumes, and whether each takes snapshots.
VOLUMES = {"lvmthin": True, "zfspool": True, "dir": False, "lvm": False}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


def backed_up(lab: Host, guest: Guest) -> tuple[vzdump.Archive, list[str]]:
    """The archive of a guest, and everything that was proved of it."""
    run = lab.run(execute=True)
    config = run.proxmox.config(guest)
    archive = vzdump.make(run, guest, purpose="shown", mode="snapshot")
    proofs = vzdump.verify(run, guest, archive, config)
    return archive, proofs + scratch.try_restore(run, guest, archive, config)


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_guest_on_any_kind_of_storage_is_backed_up_and_restored_on_trial(lab: Host, kind: str) -> None:
    lab.pve.storages["local-lvm"]["type"] = kind
    archive, proofs = backed_up(lab, lab.site.guests.old)
    assert re.fullmatch(r"local:backup/vzdump-lxc-952-20[0-9_-]+\.tar\.zst", archive.volid)
    assert any("came out of it" in proof for proof in proofs), proofs
    assert ("suspend" in " ".join(archive.log)) is not VOLUMES[kind]
    assert lab.pve.ct(9952) is None


@pytest.fixture
def pbs(lab: Host) -> Host:
    """The backups go to a Proxmox Backup Server."""
    lab.pve.storages["local"]["type"] = "pbs"
    return lab


def test_a_backup_on_a_backup_server_is_found_read_and_restored(pbs: Host) -> None:
    archive, proofs = backed_up(pbs, pbs.site.guests.old)
    assert re.fullmatch(r"local:backup/ct/952/20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", archive.volid)
    assert any("nobody compared how many bytes" in proof for proof in proofs), "what was not seen is said"
    again = vzdump.make(pbs.run(execute=True), pbs.site.guests.old, purpose="shown", mode="snapshot")
    assert again.volid == archive.volid, "it is not made twice"


def test_data_on_a_mount_point_is_in_the_backup_and_comes_back(lab: Host) -> None:
    old = lab.site.guests.old
    lab.pve.ct(952).config["mp0"] = "local-lvm:vm-952-disk-1,mp=/data,backup=1,size=100G"
    archive, proofs = backed_up(lab, old)
    assert "INFO: including mount point mp0 ('/data') in backup" in archive.log
    assert any("mp0, rootfs of the same size" in proof for proof in proofs), proofs
    assert lab.machines[952].root.joinpath("data", "records").is_file()


# -- what is known beforehand ----------------------------------------------------------------------


def test_what_a_container_holds_is_known_of_its_root_while_it_runs_and_never_of_mount_points() -> None:
    config = {"rootfs": "a:b,size=32G", "mp0": "a:c,mp=/d,backup=1,size=100G", "mp1": "a:d,mp=/e,size=7G", "mp2": "/srv,mp=/f"}
    assert storages.held({"status": "running", "disk": 5 * GIB}, config) == storages.Held(5 * GIB, 105 * GIB)
    assert storages.held({"status": "stopped", "disk": 0}, config) == storages.Held(0, 132 * GIB)
    assert storages.held({"status": "stopped"}, {"rootfs": "a:b"}) == storages.Held(0, None)


@pytest.mark.parametrize(
    ("free", "wanted", "against", "unsure"),
    [
        (100, storages.Held(10, 20), "", ""),
        (25, storages.Held(10, 20), "", r"whether the backup \(up to 20\.0 GB\) fits into the 25\.0 GB that storage s has free"),
        (
            15,
            storages.Held(10, 20),
            r"Storage s has 15\.0 GB free, and the backup needs up to 10\.0 GB plus the reserve of 8 GB",
            "",
        ),
        (100, storages.Held(0, None), "", "a size that nobody knows"),
        (None, storages.Held(0, 0), "", "how much storage s has free"),
    ],
)
def test_room_that_is_not_there_refuses_and_room_that_nobody_knows_is_said(
    free: int | None, wanted: storages.Held, against: str, unsure: str
) -> None:
    verdict = storages.Verdict()
    held = storages.Held(wanted.least * GIB, None if wanted.most is None else wanted.most * GIB)
    verdict.room("s", None if free is None else free * GIB, held, 8 * GIB, "the backup")
    for found, said in ((verdict.against, against), (verdict.unsure, unsure)):
        assert len(found) == bool(said)
        assert all(re.search(said, one) for one in found), found


def protected(lab: Host, count: int, limit: int | None = None) -> None:
    if limit is not None:
        lab.pve.storages["local"]["max-protected-backups"] = limit
    for day in range(count):
        name = f"backup/vzdump-lxc-952-2026_01_0{day + 1}-02_00_00.tar.zst"
        entry = {"content": "backup", "format": "tar.zst", "size": 1, "vmid": 952, "ctime": day, "protected": True}
        lab.pve.storages["local"]["volumes"][name] = entry


WITHOUT: list[tuple[Callable[[Host], Any], str]] = [
    (lambda lab: protected(lab, 5), r"keeps at most 5 protected backups of LXC 952 \(qdrant\) and has 5"),
    (lambda lab: protected(lab, 2, limit=2), "keeps at most 2"),
    (lambda lab: lab.pve.storages["local"].update(content="iso"), r"Storage local takes no backups \(its content is iso\)"),
    (lambda lab: lab.pve.storages["local-lvm"].update(content="images"), "Storage local-lvm takes no volumes of containers"),
    (lambda lab: lab.pve.storages["local"].update(active=0), "Storage local is not active on node pve"),
    (lambda lab: lab.pve.storages.pop("local-lvm"), "Storage local-lvm cannot be used on node pve: .*No such storage"),
    (lambda lab: lab.pve.storages["local"].update(avail=GIB), r"Storage local has 1\.0 GB free"),
]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"enabled": 0, "active": 0, "total": 0, "avail": 0}, "storage fast is disabled, or its settings leave node pve out"),
        ({"enabled": 1, "active": 0, "total": 0, "avail": 0}, "storage fast is not active on node pve"),
        ({"enabled": 1, "active": 1, "total": 9, "avail": 0}, ""),
        ({}, ""),
    ],
)
def test_a_storage_that_is_away_is_not_called_full(status: dict[str, Any], said: str) -> None:
    assert storages.away(status, "fast", "pve").startswith(said) and bool(storages.away(status, "fast", "pve")) == bool(said)
    room = Room(16, 64 * GIB, 32 * GIB, 20 * GIB, "fast", "dir", 0, 0, 0, storage_away=storages.away(status, "fast", "pve"))
    site = load(SITE)
    named = " ".join(strains(room, (4, 8192, 100), site.resize.after, site.limits))
    assert (said or "has 0 GB free") in named and ("GB free" in named) == (not said)


@pytest.mark.parametrize(("break_it", "said"), WITHOUT, ids=[said for _, said in WITHOUT])
def test_why_a_storage_cannot_take_a_backup_is_known_beforehand(lab: Host, break_it: Callable[[Host], Any], said: str) -> None:
    break_it(lab)
    old = lab.site.guests.old
    found = storages.judge(lab.run(), [old], [old]).against
    assert any(re.search(said, sentence) for sentence in found), found
    assert lab.pve.writes() == []


def test_a_limit_of_protected_backups_does_not_forbid_to_try_one_that_is_there(lab: Host) -> None:
    protected(lab, 5)
    assert storages.judge(lab.run(), [lab.site.guests.old], []).against == []


def test_a_key_that_may_do_more_keeps_as_many_as_it_likes(lab: Host) -> None:
    protected(lab, 5)
    assert storages.judge(lab.run(token=lab.root), [lab.site.guests.old], [lab.site.guests.old]).against == []


def test_a_copy_that_is_made_on_the_node_needs_no_room_on_a_backup_server(pbs: Host) -> None:
    old = pbs.site.guests.old
    unsure = storages.judge(pbs.run(), [old], [old], twice=True).unsure
    assert any("/var/tmp of node pve" in one for one in unsure), unsure
    assert not any("copied once beside it" in one for one in unsure)


def test_the_room_for_all_that_go_is_asked_before_the_first(lab: Host) -> None:
    """Each alone would fit."""
    for guest in lab.site.guests.to_decommission():
        lab.pve.ct(guest.vmid).config["rootfs"] = f"local-lvm:vm-{guest.vmid}-disk-0,size=8G"
    lab.pve.storages["local"]["avail"] = 30 * GIB
    going = lab.site.guests.to_decommission()
    (unsure,) = storages.judge(lab.run(), going, going).unsure
    assert re.match(r"whether the backup of LXC 950 .*, LXC 953 .* fits into the 30\.0 GB", unsure)


def test_the_test_restore_looks_at_the_node_of_the_guest(lab: Host) -> None:
    """Storages of one name are of another size on each node."""
    run = lab.run()
    asked: list[str] = []
    real = run.proxmox.record
    run.proxmox.record = lambda path, **more: asked.append(path) or real(path, **more)  # type: ignore[method-assign,func-returns-value]
    lab.pve.nodes["other"] = {"online": True}
    lab.pve.ct(952).node = "other"
    storages.judge(run, [lab.site.guests.old], [lab.site.guests.old])
    assert {path for path in asked if "/storage/" in path} == {
        "nodes/other/storage/local/status", "nodes/other/storage/local-lvm/status"
    }  # fmt: skip


def test_backups_of_a_guest_that_is_gone_are_found_on_the_node_that_has_them(lab: Host) -> None:
    lab.pve.nodes["other"] = {"online": True}
    lab.pve.ct(952).node = "other"
    archive, _ = backed_up(lab, lab.site.guests.old)
    assert archive.node == "other"
    lab.pve.storages["local"]["nodes"] = "other"
    lab.pve.cts.remove(lab.pve.ct(952))
    (found,) = vzdump.listed(lab.run(), 952)
    assert (found.volid, found.node) == (archive.volid, "other")
    lab.pve.nodes["other"]["online"] = False
    with pytest.raises(Refused, match="Nobody knows whether there is a backup of guest 952 on local: node other does not answer"):
        vzdump.listed(lab.run(), 952)
