"""The resize does what it says, refuses what it must, and can be run again from anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cutover.context import Context
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused, WritesRefused
from cutover.core.ui import ConfirmedInAdvance
from cutover.core.wait import Not, wait_until
from cutover.error_boundary import error_boundary
from cutover.phases import resize, rollback, vm_restart
from cutover.proxmox import agent, guest_disk, vm_sizes
from cutover.proxmox import vm as vm_state
from cutover.proxmox.client import Proxmox
from cutover.site.schema import Guest, Sizes
from lab.guestos import (
    GIB,
    LAST,
    MIB,
    Disk,
    GuestOs,
    Partition,
    debian_lvm,
    encrypted_root,
    lvm_root,
    plain_root,
    swap_behind_root,
    zfs_root,
)
from lab.proxmox_host import Host, host
from tests.support.night import every_nth_by_day
from tests.support.phases import done, planned, undone

VM = Guest(vmid=1001, kind="vm", name="portainer", address="10.0.0.101")
WANTED = Sizes(cores=6, memory_mb=10240, disk_gb=132)
GOOD = {
    "cores": 4, "memory": "8192", "agent": "1", "scsi0": "local-lvm:vm-1001-disk-0,size=100G", "digest": "d", "balloon": 0,
}  # fmt: skip


def state(
    pending: dict[str, Any] | None = None, snapshots: tuple[str, ...] = (), ha: bool = False, drop: str = "", **config: Any
) -> vm_state.State:
    merged = {key: value for key, value in {**GOOD, **config}.items() if key != drop}
    return vm_state.State(merged, pending or {}, {"status": "running", "ha": {"managed": int(ha)}}, snapshots)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (state(lock="backup"), "is locked \\(backup\\)"),
        (state(template=1), "is a template"),
        (state(ha=True), "managed by HA"),
        (state(pending={"scsi1": "local-lvm:8"}), "change of scsi1 .* waits"),
        (state(pending={"cores": 8}), "change of cores \\(8\\) waits"),
        (state(pending={"net1": None}), "its removal"),
        (state(sockets=2), "2 sockets, so 6 cores are 12 CPUs"),
        (state(vcpus=4), "vcpus=4"),
        (state(numa0="cpus=0-3,memory=8192"), "numa0 divide the memory"),
        (state(hugepages="1024"), "hugepages=1024"),
        (state(balloon=8192), "pulled down to 8192 MB"),
        (state(args="-smp 4"), "args of its own"),
        (state(cpulimit="4"), "cpulimit=4"),
        (state(affinity="0-3"), "bound to CPUs 0-3"),
        (state(snapshots=("before",)), "has the snapshot before"),
        (state(scsi0="local-lvm:vm-1001-disk-0,size=200G"), "a disk cannot shrink"),
        (state(scsi0="/dev/sdb,size=100G"), "not a disk that Proxmox can grow"),
        (state(drop="scsi0"), "has no disk scsi0"),
        (state(scsi0="local-lvm:vm-1001-disk-0"), "does not say how large scsi0 .*qm disk rescan --vmid 1001"),
        (state(agent="fstrim_cloned_disks=1"), "no guest agent configured"),
        (state(cores=8), "more than wanted"),
        (state(drop="agent"), "no guest agent configured"),
    ],
)  # fmt: skip
def test_every_reason_against_it_is_named(found: vm_state.State, said: str) -> None:
    sentences = vm_sizes.refusals(VM, found, WANTED, "scsi0")
    assert len(sentences) >= 1
    assert any(re.search(said, sentence) for sentence in sentences), sentences


def test_the_plan_s_vm_and_one_half_way_there_have_nothing_against_them() -> None:
    assert vm_sizes.refusals(VM, state(), WANTED, "scsi0") == []
    assert vm_sizes.refusals(VM, state(pending={"cores": 6, "memory": "10240"}), WANTED, "scsi0") == []
    assert vm_sizes.refusals(VM, state(scsi0="local-lvm:vm-1001-disk-0,size=132G", snapshots=("later",)), WANTED, "scsi0") == []


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        limits = made.site.limits.model_copy(update={"reboot_seconds": 20.0})
        made.site = made.site.model_copy(update={"limits": limits})
        yield made


def test_without_execute_nothing_is_changed(lab: Host) -> None:
    run = lab.run()
    sentences = planned(resize.PHASE, run)
    assert [s.text.split(" of ")[0] for s in sentences[:3]] == ["Set cores", "Set memory", "Set disk scsi0"]
    assert any("Reboot VM 1001 (portainer) once" in s.text for s in sentences)
    with pytest.raises(WritesRefused):
        done(resize.PHASE, run)
    assert lab.pve.writes() == []


def test_the_plan_is_a_table_for_people_and_data_for_tools(lab: Host) -> None:
    import json

    lab.pve.vm(1001).pending["cores"] = 6
    found = json.loads(json.dumps(resize.plan(lab.run()).overview))
    assert found["table"] == [
        {"what": "cores", "now": "4", "pending": "6", "wanted": "6"},
        {"what": "memory (MB)", "now": "8192", "pending": "8192", "wanted": "10240"},
        {"what": "disk scsi0 (GB)", "now": "100", "pending": "100", "wanted": "132"},
    ]
    assert found["inside"]["cores"] == 4


def inside(lab: Host) -> Any:
    return lab.pve.vm(1001).refresh()


def root_bytes(lab: Host) -> int:
    found = vm_state.seen_inside(lab.run())
    return found.fs.size


def large_boot(size: int) -> Disk:
    boot = Partition(2, MIB, 9 * GIB, "ext4", "/boot")
    return Disk("sda", "scsi0", [boot, Partition(3, boot.end, size - boot.end - LAST, "ext4", "/")])


def keeping(disk: Disk, part: float) -> Disk:
    """The root file system shows this part less than it has: a larger reserve for root, other datasets of its pool."""
    disk.partitions[-1].keeps = part
    return disk


@pytest.mark.parametrize(
    "layout",
    [
        plain_root(100 * GIB), plain_root(100 * GIB, fs="xfs"), lvm_root(100 * GIB), lvm_root(100 * GIB, fs="xfs"),
        plain_root(100 * GIB, fs="btrfs"), zfs_root(100 * GIB), debian_lvm(100 * GIB), keeping(plain_root(100 * GIB), 0.12),
        keeping(zfs_root(100 * GIB), 0.2), large_boot(100 * GIB),
    ],
    ids=["ext4", "xfs", "lvm-ext4", "lvm-xfs", "btrfs", "zfs", "lvm-with-swap", "ext4-reserve", "zfs-datasets", "large-boot"],
)  # fmt: skip
def test_the_plan_s_resize(lab: Host, layout: Disk) -> None:
    inside(lab).disks = [layout]
    before = root_bytes(lab)
    outcome = done(resize.PHASE, lab.run(execute=True))
    assert outcome.changed
    found = vm_state.seen_inside(lab.run())
    assert (found.cores, found.memory_mb) == (6, 10240)
    assert found.fs.size - before >= 25 * GIB
    assert (found.disk_bytes, found.unused) == (132 * GIB, LAST)
    assert lab.pve.vm(1001).drive_size("scsi0") == 132 * GIB
    assert lab.machines[1001].boots == 2, "one reboot"
    writes = len(lab.pve.writes())
    again = done(resize.PHASE, lab.run(execute=True))
    assert not again.changed
    assert len(lab.pve.writes()) == writes, "the second run does nothing"


def logical_root(size: int) -> Disk:
    """An old table: root is a logical partition inside an extended one, of which the kernel shows two sectors."""
    boot = Partition(1, MIB, GIB, "ext4", "/boot")
    extended = Partition(2, boot.end, 1024, "")
    return Disk("sda", "scsi0", [boot, extended, Partition(5, boot.end + MIB, size - boot.end - 2 * MIB, "ext4", "/")])


def data_behind_root() -> Disk:
    root = Partition(1, MIB, 60 * GIB, "ext4", "/")
    return Disk("sda", "scsi0", [root, Partition(2, root.end, 39 * GIB, "ext4", "/data")])


def two_disks(lab: Host) -> None:
    lab.pve.vm(1001).config["scsi1"] = "local-lvm:vm-1001-disk-1,size=50G"
    inside(lab).disks = [Disk("sdb", "scsi0", [Partition(1, MIB, 99 * GIB, "ext4", "/srv")]), plain_root(50 * GIB, drive="scsi1")]


#: What is inside, and why it cannot be given a larger disk.
NOT_GROWABLE: dict[str, tuple[Callable[[Host], Any], str]] = {
    "swap behind": (
        lambda lab: setattr(inside(lab), "disks", [swap_behind_root(100 * GIB)]),
        r"sda5 \(swap\) stands behind sda1",
    ),
    "a partition behind": (
        lambda lab: setattr(inside(lab), "disks", [data_behind_root()]),
        r"sda2 \(another partition\) stands behind sda1",
    ),
    "another file system": (
        lambda lab: setattr(inside(lab), "disks", [plain_root(100 * GIB, fs="ntfs")]),
        "is ntfs; this tool grows",
    ),
    "encrypted": (lambda lab: setattr(inside(lab), "disks", [encrypted_root(100 * GIB)]), "lies on an encrypted device"),
    "btrfs on LVM": (lambda lab: setattr(inside(lab), "disks", [lvm_root(100 * GIB, fs="btrfs")]), "is btrfs on LVM"),
    "inside an extended partition": (
        lambda lab: setattr(inside(lab), "disks", [logical_root(100 * GIB)]),
        "inside an extended part",
    ),
    "another disk": (two_disks, "lies on disk scsi1, and it is scsi0 that would grow"),
    "no growpart": (lambda lab: inside(lab).missing.add("growpart"), "growpart is not installed inside it .* cloud-guest-utils"),
    "no programs": (lambda lab: setattr(inside(lab), "exec_blocked", True), "does not run programs"),
    "no agent": (lambda lab: setattr(lab.pve.vm(1001), "guest_os", None), "cannot be asked from inside"),
}


@pytest.mark.parametrize("case", NOT_GROWABLE)
def test_what_cannot_be_grown_inside_is_refused_before_the_disk_grows(lab: Host, case: str) -> None:
    break_it, said = NOT_GROWABLE[case]
    break_it(lab)
    for attempt in (lambda: planned(resize.PHASE, lab.run()), lambda: done(resize.PHASE, lab.run(execute=True))):
        with pytest.raises(Refused) as refused:
            attempt()
        assert re.search(said, str(refused.value)), str(refused.value)
    assert lab.pve.writes() == []


#: The same where the agent does not read files: then programs that change nothing are asked, before anything is changed.
NOT_GROWABLE_BY_PROGRAMS: dict[str, tuple[Callable[[Host], Any], str]] = {
    **{case: NOT_GROWABLE[case] for case in ("another file system", "another disk", "no programs")},
    "swap behind": (NOT_GROWABLE["swap behind"][0], r"sda5 \(swap\) stands behind"),
    "no growpart": (NOT_GROWABLE["no growpart"][0], "growpart is not installed inside it"),
    "no lsblk": (lambda lab: inside(lab).missing.add("lsblk"), "lsblk is not installed inside it"),
    "no xfs_growfs": (
        lambda lab: inside(lab).__dict__.update(disks=[plain_root(100 * GIB, fs="xfs")], missing={"xfs_growfs"}),
        "xfs_growfs is not installed inside it .* xfsprogs",
    ),
    "encrypted": NOT_GROWABLE["encrypted"],
}


@pytest.mark.parametrize("case", NOT_GROWABLE_BY_PROGRAMS)
def test_an_agent_that_reads_no_files_is_asked_by_programs_before_the_disk_grows(lab: Host, case: str) -> None:
    break_it, said = NOT_GROWABLE_BY_PROGRAMS[case]
    break_it(lab)
    inside(lab).files_blocked = True
    run = lab.run(execute=True)
    with pytest.raises(Refused) as refused, error_boundary(run):
        done(resize.PHASE, run)
    assert re.search(said, str(refused.value)), str(refused.value)
    assert {path.rsplit("/", 1)[-1] for _, path in lab.pve.writes()} <= {"exec"}
    assert lab.machines[1001].boots == 1


def test_an_agent_that_reads_no_files_does_not_keep_a_good_resize_from_being_done(lab: Host) -> None:
    inside(lab).files_blocked = True
    assert any("Not seen beforehand: how the disk" in sentence.text for sentence in planned(resize.PHASE, lab.run()))
    assert done(resize.PHASE, lab.run(execute=True)).changed
    assert not done(resize.PHASE, lab.run(execute=True)).changed


def test_a_file_system_that_stayed_small_on_a_grown_disk_is_not_called_resized(
    lab: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ext4 that fills 132 GB says 123, so what it says proves little: what counts is what its disk got and it got of that."""
    monkeypatch.setattr(type(inside(lab)), "_resize2fs", lambda self, arguments: (0, "", ""))
    with pytest.raises(Failed, match="the file system"):
        done(resize.PHASE, lab.run(execute=True))
    assert planned(resize.PHASE, lab.run()) != []


# -- the guest that is meant ----------------------------------------------------------------------

OTHER: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another name": (lambda config: config.update(name="somebody-elses"), "its name is somebody-elses, not portainer"),
    "another network card": (lambda config: config.update(net0="virtio=BC:24:11:99:99:99,bridge=vmbr0"), "its MAC address is"),
    "another root volume": (lambda config: config.update(scsi0="local-lvm:vm-1001-disk-9,size=132G"), "its root volume is"),
}


@pytest.mark.parametrize("case", OTHER)
@pytest.mark.parametrize("undo", [False, True], ids=["resize", "undo"])
def test_another_vm_under_the_same_id_is_not_changed(lab: Host, case: str, undo: bool) -> None:
    if case != "another name":
        done(resize.PHASE, lab.run(execute=True))
        lab.pve.vm(1001).config["cores"] = 5
    change, said = OTHER[case]
    change(lab.pve.vm(1001).config)
    writes, boots = len(lab.pve.writes()), lab.machines[1001].boots
    for execute in (False, True):
        with pytest.raises(Refused, match=said):
            planned(resize.PHASE, lab.run(execute=execute), undo=undo)
    assert (len(lab.pve.writes()), lab.machines[1001].boots) == (writes, boots)


# -- ended while Proxmox works ---------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def killed_at(lab: Host, monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[Context], Any]) -> None:
    """The process ends when Proxmox has just begun a task of this kind."""
    real = Proxmox.start_task

    def start_task(self: Proxmox, *words: Any, **values: Any) -> str:
        upid = real(self, *words, **values)
        if values["kind"] == kind:
            raise Killed
        return upid

    with monkeypatch.context() as patch:
        patch.setattr(Proxmox, "start_task", start_task)
        with pytest.raises(Killed):
            act(lab.run(execute=True, confirm=ConfirmedInAdvance("portainer")))


@pytest.mark.parametrize("kind", ["qmreboot", "resize"])
def test_a_run_that_is_killed_while_proxmox_works_is_gone_on_with(lab: Host, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lab.pve.time_scale = 0.2
    killed_at(lab, monkeypatch, kind, partial(done, resize.PHASE))
    again = planned(resize.PHASE, lab.run())
    assert again, "there is nothing left to do"
    outcome = done(resize.PHASE, lab.run(execute=True))
    assert outcome.changed
    found = vm_state.seen_inside(lab.run())
    assert (found.cores, found.memory_mb, found.unused) == (6, 10240, LAST)
    assert lab.machines[1001].boots == 2, "rebooted once, not twice"
    grown = [task for task in lab.pve.tasklog if task["type"] == "resize"]
    assert len(grown) == 1, "the disk was grown once"


def test_a_volume_that_a_killed_run_extended_gets_its_file_system_grown(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(lab).disks = [lvm_root(100 * GIB)]
    real = agent.run

    def run(api: Proxmox, guest: Guest, argv: Any, **more: Any) -> Any:
        result = real(api, guest, argv, **more)
        if "lvextend" in argv:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(agent, "run", run)
        with pytest.raises(Killed):
            done(resize.PHASE, lab.run(execute=True))
    done(resize.PHASE, lab.run(execute=True))
    assert root_bytes(lab) > 120 * GIB


def test_a_file_system_that_does_not_grow_with_its_disk_is_not_called_grown(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuestOs, "_resize2fs", lambda _self, _words: (0, "", ""))
    for _ in range(2):
        with pytest.raises(Failed, match=r"the file system at / has 93\.5 GB of the 132 GB disk"):
            done(resize.PHASE, lab.run(execute=True))


def test_a_reboot_that_nobody_agreed_to_does_not_happen(lab: Host) -> None:
    run = lab.run(execute=True, confirm=ConfirmedInAdvance(yes=False))
    with pytest.raises(Failed, match="Reboot VM 1001"), error_boundary(run):
        done(resize.PHASE, run)
    assert lab.machines[1001].boots == 1
    outcome = done(resize.PHASE, lab.run(execute=True))
    assert outcome.changed
    assert vm_state.seen_inside(lab.run()).cores == 6


def test_somebody_else_s_change_in_between_stops_it(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    original, looks = vm_state.look, iter(range(100))

    def look(run: Any) -> vm_state.State:
        found = original(run)
        lab.pve.vm(1001).config["description"] = f"changed meanwhile, {next(looks)}"
        return found

    monkeypatch.setattr(vm_state, "look", look)
    with pytest.raises(Refused, match="checksum mismatch"):
        done(resize.PHASE, lab.run(execute=True))
    assert lab.pve.vm(1001).pending == {}


CUTS: list[list[Any]] = [
    ["PUT", "/qemu/1001/config"],
    ["PUT", "/qemu/1001/resize"],
    ["POST", "/status/reboot"],
    ["POST", "/agent/exec"],
    ["POST", "/agent/exec", 1],
    ["POST", "/agent/exec", 2],
    ["GET", "/pending"],
]


@pytest.mark.parametrize("after", [True, False], ids=["answer-lost", "request-lost"])
@pytest.mark.parametrize("which", every_nth_by_day(CUTS, 3), ids=["-".join(map(str, one)).rsplit("/", 1)[-1] for one in CUTS])
def test_cut_off_anywhere_the_next_run_completes_it(lab: Host, which: Any, after: bool) -> None:
    method, path, *skip = which
    lab.pve.cut(method, path, after=after, skip=skip[0] if skip else 0)
    try:
        done(resize.PHASE, lab.run(execute=True))
    except CutoverError:
        done(resize.PHASE, lab.run(execute=True))
    found = vm_state.seen_inside(lab.run())
    assert (found.cores, found.memory_mb) == (6, 10240)
    assert found.unused == LAST
    assert found.fs.size > 120 * GIB
    assert lab.machines[1001].boots == 2, "rebooted once, not twice"
    assert lab.pve.vm(1001).drive_size("scsi0") == 132 * GIB


def test_undo_while_it_only_waits_needs_no_reboot(lab: Host) -> None:
    run = lab.run(execute=True, confirm=ConfirmedInAdvance(yes=False))
    with pytest.raises(Failed), error_boundary(run):
        done(resize.PHASE, run)
    assert set(lab.pve.vm(1001).pending) == {"cores", "memory"}
    outcome = undone(resize.PHASE, lab.run(execute=True))
    assert "no reboot was needed" in outcome.sentences[0]
    assert lab.pve.vm(1001).pending == {}
    assert lab.machines[1001].boots == 1


def test_undo_gives_cores_and_memory_back_and_says_that_the_disk_stays(lab: Host) -> None:
    done(resize.PHASE, lab.run(execute=True))
    outcome = undone(resize.PHASE, lab.run(execute=True))
    found = vm_state.seen_inside(lab.run())
    assert (found.cores, found.memory_mb) == (4, 8192)
    assert lab.machines[1001].boots == 3
    assert any("stays at 132 GB: a disk cannot shrink" in sentence for sentence in outcome.sentences)
    assert not undone(resize.PHASE, lab.run(execute=True)).changed


def snapshot_from_before(lab: Host) -> None:
    """The VM has a snapshot from before its disk grew."""
    vm = lab.site.guests.new
    run = lab.run(execute=True, token=lab.root)
    with run.guard.act("test", "a snapshot"):
        run.proxmox.do_task(
            "POST", f"{run.proxmox.of(vm)}/snapshot", kind="qmsnapshot", vmid=1001, what="x", deadline=5, snapname="before"
        )
    lab.pve.vm(1001).config["scsi0"] = "local-lvm:vm-1001-disk-0,size=132G"


def test_a_rollback_of_the_disk_is_asked_for_by_name_and_says_what_is_lost(lab: Host) -> None:
    snapshot_from_before(lab)
    with pytest.raises(
        Refused, match=r"confirm by typing the name portainer\. Everything written to VM 1001 \(portainer\) since 20"
    ):
        done(rollback.PHASE, lab.run(execute=True))
    assert lab.pve.vm(1001).drive_size("scsi0") == 132 * GIB
    outcome = done(rollback.PHASE, lab.run(execute=True, confirm=ConfirmedInAdvance("portainer")))
    assert lab.pve.vm(1001).drive_size("scsi0") == 100 * GIB
    assert "is lost" in outcome.sentences[0]


def test_a_rollback_that_is_killed_while_proxmox_works_is_gone_on_with(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_from_before(lab)
    lab.pve.time_scale = 0.2
    killed_at(lab, monkeypatch, "qmrollback", partial(done, rollback.PHASE))
    assert "Wait for the rollback" in planned(rollback.PHASE, lab.run())[0].text
    outcome = done(rollback.PHASE, lab.run(execute=True))
    assert outcome.changed
    assert lab.pve.vm(1001).drive_size("scsi0") == 100 * GIB
    assert lab.pve.vm(1001).status == "running"
    assert len([task for task in lab.pve.tasklog if task["type"] == "qmrollback"]) == 1
    assert len([task for task in lab.pve.tasklog if task["type"] == "qmstart"]) == 1
    assert planned(rollback.PHASE, lab.run()) == [] and not done(rollback.PHASE, lab.run(execute=True)).changed


def test_a_vm_that_a_cut_off_reboot_left_down_is_started(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host died between the shutdown and the start that belongs to it."""
    lab.pve.end_next("qmreboot", "unexpected status")
    with pytest.raises(OutcomeUnknown):
        done(resize.PHASE, lab.run(execute=True))
    assert lab.pve.vm(1001).status == "stopped"
    monkeypatch.setattr(vm_restart, "OWN_START_SECONDS", 0.1)
    assert done(resize.PHASE, lab.run(execute=True)).changed
    assert vm_state.seen_inside(lab.run()).cores == 6


def test_an_undo_that_is_killed_while_proxmox_works_is_gone_on_with(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    done(resize.PHASE, lab.run(execute=True))
    lab.pve.time_scale = 0.2
    killed_at(lab, monkeypatch, "qmreboot", partial(undone, resize.PHASE))
    undone(resize.PHASE, lab.run(execute=True))
    assert vm_state.seen_inside(lab.run()).cores == 4
    assert lab.machines[1001].boots == 3, "restarted once for the resize and once for its undo"
    assert not undone(resize.PHASE, lab.run(execute=True)).changed


def test_a_rollback_whose_start_fails_is_not_called_done(lab: Host) -> None:
    """Its task ends well before the VM is started; the start is a task of its own."""
    snapshot_from_before(lab)
    lab.pve.vm(1001).start_error = "start failed: out of memory"
    with pytest.raises(Failed, match="could not be started: start failed: out of memory"):
        done(rollback.PHASE, lab.run(execute=True, confirm=ConfirmedInAdvance("portainer")))


def test_a_host_without_room_is_refused_before_anything_is_changed(lab: Host) -> None:
    lab.pve.memory_total = 22 * GIB
    with pytest.raises(Refused, match="no room for the larger VM"):
        done(resize.PHASE, lab.run(execute=True))
    assert lab.pve.writes() == []


def test_a_guest_that_does_not_go_down_in_time_is_a_failure_and_no_unknown_end(lab: Host) -> None:
    """Proxmox counts its timeout in looks of a second and more, so the task that gives up ends later than that."""
    lab.pve.vm(1001).shutdown_secs, lab.pve.time_scale = 1e6, 1.0
    limits = lab.site.limits.model_copy(update={"reboot_seconds": 1.0})
    lab.site = lab.site.model_copy(update={"limits": limits})
    with pytest.raises(Failed, match=r"Rebooting VM 1001 .* failed: VM quit/powerdown failed - got timeout") as said:
        done(resize.PHASE, lab.run(execute=True))
    assert "inside" in said.value.hint


def test_a_start_that_fails_is_said_with_its_reason(lab: Host) -> None:
    lab.pve.vm(1001).start_error = "start failed: out of memory"
    with pytest.raises(Failed, match="could not be started: start failed: out of memory"):
        done(resize.PHASE, lab.run(execute=True))


def test_the_memory_that_a_vm_sees_is_counted_in_blocks() -> None:
    seen = vm_state.Inside(6, 10240 - 128, guest_disk.Mounted("/", "ext4", "sda1", 130 * GIB))
    assert vm_state.not_yet(seen, WANTED, "/") == []
    small = vm_state.Inside(4, 8192, guest_disk.Mounted("/", "ext4", "sda1", 98 * GIB))
    assert len(vm_state.not_yet(small, WANTED, "/")) == 3
    assert MIB * 1024 == GIB


def test_a_short_hold_on_the_configuration_is_waited_for(lab: Host) -> None:
    def tried() -> int:
        return len([path for method, path in lab.pve.writes() if method == "PUT" and path.endswith("/1001/config")])

    async def release() -> None:
        lab.pve.release_config_lock(1001)

    def release_after_the_second_try() -> None:
        wait_until(lambda: tried() > 1 or Not("it was tried once"), deadline=60, what="the second try")
        lab.pve.call(release())

    lab.pve.call(lab.pve.hold_config_lock(1001, None))
    with ThreadPoolExecutor(1) as somebody:
        released = somebody.submit(release_after_the_second_try)
        assert done(resize.PHASE, lab.run(execute=True)).changed
        released.result(60)


def test_a_vm_that_ha_may_start_elsewhere_needs_room_there_too() -> None:
    from cutover.checks.host import Room, strains
    from cutover.site.load import load
    from lab.proxmox_host import SITE

    limits = load(SITE).limits
    here = Room(16, 64 * GIB, 32 * GIB, 20 * GIB, "local-lvm", "lvmthin", 800 * GIB, 600 * GIB, 200 * GIB)
    assert strains(here, (4, 8192, 100), WANTED, limits) == []
    import dataclasses

    said = strains(dataclasses.replace(here, elsewhere=8 * GIB), (4, 8192, 100), WANTED, limits)
    assert len(said) == 1
    assert "another node" in said[0]
    assert strains(dataclasses.replace(here, elsewhere=16 * GIB), (4, 8192, 100), WANTED, limits) == []
