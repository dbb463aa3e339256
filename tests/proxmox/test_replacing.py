"""Putting a guest back as a backup or a snapshot holds it: what speaks against it is said while everything still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cutover.core.errors import Refused
from cutover.core.ui import ConfirmedInAdvance
from cutover.phases import restore, rollback
from cutover.proxmox import replacing, vzdump
from cutover.site.load import load
from cutover.state import backup_manifest
from lab.proxmox_host import SITE, Host, host
from tests.support.phases import done, planned

OLD = load(SITE).guests.old
ROOT = {"rootfs": "local-lvm:vm-952-disk-0,size=32G"}


@pytest.mark.parametrize(
    ("config", "later", "archived", "lost"),
    [
        ({}, {}, {}, []),
        ({"mp0": "s:vm-952-disk-1,mp=/data,backup=1"}, {}, {"mp0": "s:vm-952-disk-1,mp=/data,backup=1,size=8G"}, []),
        # After an earlier restore the volumes have other names, and a mount point may have another number.
        ({"mp1": "s:vm-952-disk-7,mp=/data"}, {}, {"mp0": "s:vm-952-disk-1,mp=/data,backup=1"}, []),
        ({"mp0": "s:vm-952-disk-1,mp=/data,backup=1"}, {}, {}, ["mp0"]),
        ({"mp0": "s:vm-952-disk-1,mp=/data"}, {}, {"mp0": "s:vm-952-disk-1,mp=/data"}, ["mp0"]),
        ({"mp0": "s:vm-952-disk-2,mp=/other"}, {}, {"mp0": "s:vm-952-disk-1,mp=/data,backup=1"}, ["mp0"]),
        ({"unused0": "s:vm-952-disk-9", "unused1": "s:vm-952-disk-10"}, {}, {}, ["unused0", "unused1"]),
        ({}, {"mp3": "s:vm-952-disk-4,mp=/later,backup=1"}, {}, ["mp3"]),
        ({"mp0": "/tank/data,mp=/data"}, {}, {}, []),
        # What waits to take the place of another volume has its key.
        (
            {"mp0": "s:vm-952-disk-1,mp=/data,backup=1"},
            {"mp0": "s:vm-952-disk-2,mp=/data,backup=1"},
            {"mp0": "s:vm-952-disk-1,mp=/data,backup=1"},
            ["pending mp0"],
        ),
        ({"mp0": "/tank/data,mp=/data"}, {"mp0": "s:vm-952-disk-2,mp=/data"}, {}, ["pending mp0"]),
        ({"mp0": "s:vm-952-disk-2,mp=/b"}, {"mp0": "s:vm-952-disk-2,mp=/c"}, {}, ["mp0"]),
    ],
)
def test_which_volumes_a_restore_would_delete_for_good(
    config: dict[str, Any], later: dict[str, Any], archived: dict[str, Any], lost: list[str]
) -> None:
    there = ROOT | config
    assert sorted(replacing.not_in_backup(there, there | later, ROOT | archived)) == lost


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with a backup of its old server, which runs and does not answer."""
    with host(tmp_path_factory.mktemp("replacing")) as made:
        qdrant = made.site.qdrant.model_copy(update={"old_url": "http://127.0.0.1:9"})
        made.site = made.site.model_copy(update={"qdrant": qdrant})
        run = made.run(execute=True, token=made.root)
        vzdump.make(run, OLD, purpose=backup_manifest.PURPOSE, mode="snapshot")
        vm = made.site.guests.new
        with run.guard.act("test", "a snapshot from before the disk grew"):
            path = f"{run.proxmox.of(vm)}/snapshot"
            run.proxmox.do_task("POST", path, kind="qmsnapshot", vmid=vm.vmid, what="x", deadline=5, snapname="before")
        made.pve.vm(1001).config["scsi0"] = "local-lvm:vm-1001-disk-0,size=132G"
        yield made


def config(lab: Host) -> dict[str, Any]:
    found: dict[str, Any] = lab.pve.ct(952).config
    return found


def store(lab: Host) -> dict[str, Any]:
    found: dict[str, Any] = lab.pve.storages["local-lvm"]
    return found


Change = Callable[[Host], Any]
#: What the host is given, what takes it away again, and what is said.
RESTORE: dict[str, tuple[Change, Change, str]] = {
    "protected": (lambda h: config(h).update(protection=1), lambda h: config(h).pop("protection"), "Somebody protected LXC 952"),
    "locked by a backup": (lambda h: config(h).update(lock="backup"), lambda h: config(h).pop("lock"), r"is locked \(backup\)"),
    "locked by a migration": (
        lambda h: config(h).update(lock="migrate"), lambda h: config(h).pop("lock"), r"is locked \(migrate\)"
    ),
    "a template": (lambda h: config(h).update(template=1), lambda h: config(h).pop("template"), "is a template"),
    "under HA": (
        lambda h: setattr(h.pve.ct(952), "ha_state", "started"),
        lambda h: setattr(h.pve.ct(952), "ha_state", None),
        "managed by HA.*`ha-manager remove ct:952`",
    ),
    "data on a mount point that came later": (
        lambda h: config(h).update(mp0="local-lvm:vm-952-disk-1,mp=/data,size=8G,backup=1"), lambda h: config(h).pop("mp0"),
        r"mp0 of LXC 952 \(qdrant\) \(local-lvm:vm-952-disk-1\) would be deleted, and the backup of .* does not hold it",
    ),
    "an unused volume": (
        lambda h: config(h).update(unused0="local-lvm:vm-952-disk-9"), lambda h: config(h).pop("unused0"), "unused0 of LXC 952"
    ),
    "a volume that waits for its next start": (
        lambda h: h.pve.ct(952).pending.update(mp1="local-lvm:vm-952-disk-4,mp=/x,size=8G,backup=1"),
        lambda h: h.pve.ct(952).pending.clear(), "mp1 of LXC 952",
    ),
    "a storage that is disabled": (
        lambda h: store(h).update(disable=1), lambda h: store(h).pop("disable"), "Storage local-lvm is disabled"
    ),
    "a storage that is on other nodes only": (
        lambda h: store(h).update(nodes="other"), lambda h: store(h).pop("nodes"), "leave node pve out"
    ),
    "a storage that cannot be reached": (
        lambda h: store(h).update(active=0), lambda h: store(h).update(active=1), "Storage local-lvm is not active on node pve"
    ),
    "a storage that takes no containers": (
        lambda h: store(h).update(content="images"), lambda h: store(h).update(content="images,rootdir"),
        "Storage local-lvm takes no volumes of containers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RESTORE)
def test_a_restore_that_cannot_or_must_not_be_is_refused_before_the_server_is_stopped(broken: Host, case: str) -> None:
    change, back, said = RESTORE[case]
    writes = len(broken.pve.writes())
    change(broken)
    try:
        with pytest.raises(Refused, match=said):
            planned(restore.PHASE, broken.run())
        with pytest.raises(Refused, match=said):
            done(restore.PHASE, broken.run(execute=True, confirm=ConfirmedInAdvance("qdrant")))
    finally:
        back(broken)
    assert len(broken.pve.writes()) == writes
    assert broken.pve.ct(952).status == "running"
    assert planned(restore.PHASE, broken.run()), "nothing speaks against it"


def test_a_stopped_server_that_must_not_be_overwritten_is_started_all_the_same(broken: Host) -> None:
    """It may only have been stopped; the plan says what will not happen where it does not answer then."""
    config(broken)["unused0"] = "local-lvm:vm-952-disk-9"
    broken.machines[952].stop()
    broken.pve.ct(952).status = "stopped"
    try:
        said = [sentence.text for sentence in planned(restore.PHASE, broken.run())]
    finally:
        broken.pve.ct(952).status = "running"
        broken.machines[952].start()
        config(broken).pop("unused0")
    assert said[0].startswith("Start LXC 952")
    assert "It will not be restored: unused0 of LXC 952" in said[1]


def vm(lab: Host) -> Any:
    return lab.pve.vm(1001)


def locked(lab: Host, lock: str | None) -> None:
    vm(lab).lock = lock
    vm(lab).config.pop("lock", None)
    if lock:
        vm(lab).config["lock"] = lock


ROLLBACK: dict[str, tuple[Change, Change, str]] = {
    "locked by a deletion of a snapshot": (
        lambda h: locked(h, "snapshot-delete"),
        lambda h: locked(h, None),
        r"VM 1001 \(portainer\) is locked \(snapshot-delete\)",
    ),
    "under HA": (
        lambda h: setattr(vm(h), "ha_state", "started"), lambda h: setattr(vm(h), "ha_state", None), "`ha-manager remove vm:1001`"
    ),
    "a template": (lambda h: vm(h).config.update(template=1), lambda h: vm(h).config.pop("template"), "is a template"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROLLBACK)
def test_a_rollback_that_cannot_be_is_refused_before_the_vm_is_cut_off(broken: Host, case: str) -> None:
    change, back, said = ROLLBACK[case]
    writes = len(broken.pve.writes())
    change(broken)
    try:
        with pytest.raises(Refused, match=said):
            planned(rollback.PHASE, broken.run())
        with pytest.raises(Refused, match=said):
            done(rollback.PHASE, broken.run(execute=True, confirm=ConfirmedInAdvance("portainer")))
    finally:
        back(broken)
    assert len(broken.pve.writes()) == writes
    assert planned(rollback.PHASE, broken.run())
