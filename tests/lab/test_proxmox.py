"""The lab's Proxmox host behaves as the real one where the plan depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.core.errors import Failed, OutcomeUnknown, Unreachable
from cutover.core.wait import Not, wait_until
from cutover.proxmox import agent, power
from cutover.proxmox.answers import ProxmoxRefused
from cutover.proxmox.client import Proxmox
from cutover.proxmox.tasks import TaskEnd
from lab.guestos import GIB
from lab.proxmox_host import Host, host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


def vm(lab: Host) -> Any:
    return lab.pve.vm(1001)


def change(lab: Host, method: Any, path: str, **parameters: Any) -> Any:
    run = lab.run(execute=True, token=lab.root)
    with run.guard.act("test", "a test"):
        return run.proxmox.change(method, path, **parameters)


def task(lab: Host, method: Any, path: str, **parameters: Any) -> TaskEnd:
    upid = change(lab, method, path, **parameters)
    return lab.runs[-1].proxmox.wait_task(upid, deadline=10)


QEMU, LXC = "nodes/pve/qemu/1001", "nodes/pve/lxc/952"


def test_cores_and_memory_wait_for_the_next_start(lab: Host) -> None:
    change(lab, "PUT", f"{QEMU}/config", cores=6, memory=10240)
    api = lab.runs[-1].proxmox
    assert int(api.get(f"{QEMU}/config", current=1)["cores"]) == 4
    assert int(api.get(f"{QEMU}/config")["cores"]) == 6
    assert {row["key"] for row in api.pending(lab.site.guests.new)} == {"cores", "memory"}
    assert vm(lab).guest_os.cores == 4


def test_pending_changes_can_be_reverted_without_a_reboot(lab: Host) -> None:
    change(lab, "PUT", f"{QEMU}/config", cores=6, memory=10240)
    change(lab, "PUT", f"{QEMU}/config", revert="cores,memory")
    assert lab.runs[-1].proxmox.pending(lab.site.guests.new) == []


def test_setting_the_running_value_is_no_pending_change(lab: Host) -> None:
    change(lab, "PUT", f"{QEMU}/config", cores=4)
    assert lab.runs[-1].proxmox.pending(lab.site.guests.new) == []


def test_a_digest_covers_pending_changes(lab: Host) -> None:
    digest = lab.run().proxmox.config(lab.site.guests.new)["digest"]
    change(lab, "PUT", f"{QEMU}/config", cores=6)
    with pytest.raises(ProxmoxRefused) as refused:
        change(lab, "PUT", f"{QEMU}/config", memory=10240, digest=digest)
    assert refused.value.kind == "changed"


@pytest.mark.parametrize(
    ("size", "end"), [("132G", "OK"), ("100G", "OK"), ("32G", "shrinking disks is not supported"), ("+32G", "OK")]
)
def test_a_disk_resize_is_a_task(lab: Host, size: str, end: str) -> None:
    assert task(lab, "PUT", f"{QEMU}/resize", disk="scsi0", size=size).exitstatus == end


def test_a_reboot_ends_with_a_start_of_its_own(lab: Host) -> None:
    change(lab, "PUT", f"{QEMU}/config", cores=6, memory=10240)
    boots, pid = lab.machines[1001].boots, vm(lab).qemu_pid
    run = lab.run(execute=True)
    with run.guard.act("reboot", "Reboot"):
        power.reboot(run.proxmox, lab.site.guests.new, deadline=20)
    assert lab.machines[1001].boots == boots + 1
    assert vm(lab).qemu_pid != pid
    assert (vm(lab).guest_os.cores, vm(lab).guest_os.memory) == (6, 10240 * 1024**2)
    kinds = [entry["type"] for entry in lab.pve.tasklog]
    assert kinds.index("qmreboot") < kinds.index("qmstart")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("numa0", "cpus=0-3,memory=8192", "NUMA"), ("cores", 64, "MAX 16 vcpus")],
)
def test_a_start_that_cannot_be_fails_and_is_said(lab: Host, key: str, value: Any, said: str) -> None:
    vm(lab).config[key] = value
    vm(lab).pending["memory"] = 10240
    run = lab.run(execute=True)
    with pytest.raises(Failed, match=said), run.guard.act("reboot", "Reboot"):
        power.reboot(run.proxmox, lab.site.guests.new, deadline=20)


def test_a_balloon_target_takes_the_memory_back(lab: Host) -> None:
    vm(lab).config["balloon"] = 8192
    change(lab, "PUT", f"{QEMU}/config", memory=10240)
    run = lab.run(execute=True)
    with run.guard.act("reboot", "Reboot"):
        power.reboot(run.proxmox, lab.site.guests.new, deadline=20)
    assert run.proxmox.status(lab.site.guests.new)["balloon"] == 8192 * 1024**2


def test_stopping_a_container_stops_its_machine(lab: Host) -> None:
    assert lab.machines[952].running
    assert task(lab, "POST", f"{LXC}/status/shutdown").state == "ok"
    assert not lab.machines[952].running
    assert task(lab, "POST", f"{LXC}/status/start").state == "ok"
    assert lab.machines[952].running


def test_rolling_back_brings_the_files_and_the_disk_size_back(lab: Host) -> None:
    assert task(lab, "POST", f"{QEMU}/snapshot", snapname="before").state == "ok"
    task(lab, "PUT", f"{QEMU}/resize", disk="scsi0", size="132G")
    records = lab.machines[1001].root / "data" / "records"
    records.write_text("newer")
    assert task(lab, "POST", f"{QEMU}/snapshot/before/rollback", start=1).state == "ok"
    assert records.read_text() == "records of portainer\n"
    assert vm(lab).drive_size("scsi0") == 100 * GIB
    # The task ends before the start, which is a task of its own.
    assert wait_until(lambda: lab.machines[1001].running or Not("it is down"), deadline=10, what="The start", every=0.01)


def test_a_backup_of_a_guest_elsewhere_answers_ok_and_makes_nothing(lab: Host) -> None:
    lab.pve.add_node("other")
    lab.pve.ct(952).node = "other"
    assert change(lab, "POST", "nodes/pve/vzdump", vmid=952, storage="local") == "OK"
    assert lab.pve.storages["local"]["volumes"] == {}


def backup(lab: Host, vmid: int = 952, **parameters: Any) -> tuple[TaskEnd, str]:
    end = task(lab, "POST", "nodes/pve/vzdump", vmid=vmid, storage="local", protected=1, remove=0, **parameters)
    names = sorted(lab.pve.storages["local"]["volumes"])
    return end, f"local:{names[-1]}" if names else ""


def test_a_deleted_container_comes_back_from_its_backup_with_its_files(lab: Host) -> None:
    end, volid = backup(lab)
    assert end.state == "ok"
    assert task(lab, "POST", f"{LXC}/status/stop").state == "ok"
    assert task(lab, "DELETE", LXC, purge=1).state == "ok"
    assert 952 not in lab.machines
    assert not any(lab.folder.glob("guests/952/*"))
    made = {"vmid": 952, "ostemplate": volid, "restore": 1, "storage": "local-lvm", "start": 1}
    assert task(lab, "POST", "nodes/pve/lxc", **made).state == "ok"
    assert (lab.machines[952].root / "data" / "records").read_text() == "records of qdrant\n"
    assert lab.machines[952].running
    assert int(lab.pve.ct(952).config["memory"]) == 2048


def test_a_mount_point_not_marked_for_backup_is_not_in_the_archive(lab: Host) -> None:
    lab.pve.ct(952).config["mp0"] = "local-lvm:vm-952-disk-1,mp=/data,size=8G"
    end, volid = backup(lab)
    assert any("excluding volume mount point mp0 ('/data') from backup" in line for line in end.log)
    made = {"vmid": 9952, "ostemplate": volid, "restore": 1, "storage": "local-lvm", "unique": 1}
    assert task(lab, "POST", "nodes/pve/lxc", **made).state == "ok"
    assert not (lab.machines[9952].root / "data").exists()


def test_a_broken_archive_cannot_be_restored(lab: Host) -> None:
    _, volid = backup(lab)
    path = lab.pve.archive(volid)
    path.write_bytes(path.read_bytes()[:700])
    made = {"vmid": 9952, "ostemplate": volid, "restore": 1, "storage": "local-lvm"}
    assert task(lab, "POST", "nodes/pve/lxc", **made).state == "error"
    assert lab.pve.ct(9952) is None


def test_purge_deletes_a_job_whose_only_guest_it_was(lab: Host) -> None:
    lab.pve.backup_jobs["only-952"] = {"vmid": "952", "storage": "local"}
    lab.pve.acl_rows.append({"path": "/vms/952", "type": "user", "ugid": "a@pve", "roleid": "PVEAuditor", "propagate": 1})
    lab.pve._fw()["guests"][952] = lab.pve.firewall_config("ct", vmid=952)
    task(lab, "POST", f"{LXC}/status/stop")
    assert task(lab, "DELETE", LXC, purge=1).state == "ok"
    assert "only-952" not in lab.pve.backup_jobs
    assert "952" not in lab.pve.backup_jobs["nightly"]["vmid"].split(",")
    assert not [row for row in lab.pve.acl_rows if row["path"] == "/vms/952"]
    assert 952 not in lab.pve._fw()["guests"]
    assert 952 not in lab.pve.pools["legacy"]


def test_a_deeper_access_rule_replaces_those_above(lab: Host) -> None:
    lab.pve.add_token("cutover@pve!x", "s")
    lab.pve.pveum("pveum role add Cpu --privs 'VM.Config.CPU'")
    lab.pve.pveum("pveum acl modify / --users cutover@pve --tokens 'cutover@pve!x' --roles PVEAuditor")
    assert lab.pve.allowed("cutover@pve!x", "/vms/1001", "VM.Audit")
    lab.pve.pveum("pveum acl modify /vms/1001 --tokens 'cutover@pve!x' --roles Cpu")
    assert not lab.pve.allowed("cutover@pve!x", "/vms/1001", "VM.Audit")
    assert lab.pve.allowed("cutover@pve!x", "/vms/1001", "VM.Config.CPU")


def test_a_lost_answer_after_the_work_is_found_again_in_the_task_list(lab: Host) -> None:
    run = lab.run(execute=True)
    lab.pve.cut("POST", "/nodes/pve/vzdump")
    with run.guard.act("backup", "Back up"):
        run.proxmox.do_task(
            "POST", "nodes/pve/vzdump", kind="vzdump", vmid=952, what="Backing up", deadline=10, storage="local", remove=0
        )
    assert len(lab.pve.storages["local"]["volumes"]) == 1


def test_a_lost_answer_before_the_work_is_unknown_and_not_repeated(lab: Host) -> None:
    run = lab.run(execute=True)
    lab.pve.cut("POST", "/nodes/pve/vzdump", after=False)
    with pytest.raises(OutcomeUnknown, match="no task"), run.guard.act("backup", "Back up"):
        run.proxmox.start_task("POST", "nodes/pve/vzdump", kind="vzdump", vmid=952, what="Backing up", storage="local")
    assert [entry for entry in lab.pve.writes() if entry[1].endswith("/vzdump")] == [("POST", "/api2/json/nodes/pve/vzdump")]


@pytest.mark.parametrize(
    ("status", "state"),
    [("WARNINGS: 1", "warnings"), ("unexpected status", "unknown"), ("job errors", "error")],
)
def test_tasks_end_in_more_ways_than_good_and_bad(lab: Host, status: str, state: str) -> None:
    lab.pve.end_next("vzdump", status)
    end, _ = backup(lab)
    assert end.state == state
    with pytest.raises((Failed, OutcomeUnknown)):
        end.must("Backing up")


def test_a_task_that_does_not_end_is_a_timeout_with_its_name(lab: Host) -> None:
    lab.pve.time_scale = 1.0
    upid = change(lab, "POST", "nodes/pve/vzdump", vmid=952, storage="local")
    end = lab.runs[-1].proxmox.wait_task(upid, deadline=0.2)
    assert (end.state, end.upid) == ("timeout", upid)


def test_a_task_that_is_gone_from_the_list_is_an_unknown_end(lab: Host) -> None:
    """Neither a refusal nor a failure: it was begun, and nobody tells any more how it went."""
    gone = "UPID:pve:00000ABC:00000ABC:5E0BE100:vzdump:952:cutover@pve!check:"
    with pytest.raises(OutcomeUnknown, match=f"The task {gone} was begun, and Proxmox does not tell any more how it went"):
        lab.run().proxmox.wait_task(gone, deadline=5)


def test_how_a_program_ended_is_told_once_and_a_lost_answer_is_an_unknown_end(lab: Host) -> None:
    """Asked again, by whomever, Proxmox knows no such program any more; that is no refusal."""
    run = lab.run(execute=True)
    lab.pve.cut("GET", "/agent/exec-status")
    with (
        pytest.raises(OutcomeUnknown, match=r"`lsblk` inside VM 1001 .* was run, and how it ended is not known"),
        run.guard.act("ask", "Ask inside"),
    ):
        agent.run(run.proxmox, lab.site.guests.new, ["lsblk"])


def test_connections_lost_while_looking_are_only_lost_looks(lab: Host) -> None:
    upid = change(lab, "POST", "nodes/pve/vzdump", vmid=952, storage="local")
    lab.pve.cut("GET", f"{upid}/status", times=3)
    assert lab.runs[-1].proxmox.wait_task(upid, deadline=10).state == "ok"


def test_every_line_of_a_long_log_is_read(lab: Host) -> None:
    upid = change(lab, "POST", "nodes/pve/vzdump", vmid=952, storage="local")
    lab.runs[-1].proxmox.wait_task(upid, deadline=10)
    lab.pve.tasks[upid]["log"] = [str(n) for n in range(120)]
    assert len(lab.runs[-1].proxmox.task_log(upid)) == 120


@pytest.mark.parametrize(
    ("set_up", "kind"),
    [
        (lambda lab: lab.pve.ct(952).config.update(protection=1), "protected"),
        (lambda lab: lab.pve.snapshot_lock(952, "backup"), "locked"),
        (lambda lab: lab.pve.lose_quorum(), "no-quorum"),
    ],
)
def test_permanent_refusals_are_told_apart_by_their_text(lab: Host, set_up: Any, kind: str) -> None:
    set_up(lab)
    with pytest.raises(ProxmoxRefused) as refused:
        if kind == "no-quorum":
            change(lab, "PUT", f"{LXC}/config", description="x")
        else:
            change(lab, "DELETE", LXC)
    assert refused.value.kind == kind


def test_the_pinned_fingerprint_and_the_ca_are_both_enough_and_neither_is_not(lab: Host) -> None:
    import hashlib
    import ssl

    assert lab.pve.certificate is not None
    der = ssl.PEM_cert_to_DER_cert(lab.pve.certificate.read_text())
    proxmox = lab.site.proxmox

    def version(**settings: Any) -> Any:
        run = lab.run()
        site = proxmox.model_copy(update={"ca_file": None, "fingerprint": None, **settings})
        return Proxmox(site, run.credentials, run.guard, poll=0.01).get("version")

    assert version(fingerprint=hashlib.sha256(der).hexdigest())
    assert version(ca_file=str(lab.pve.certificate))
    for wrong in ({"fingerprint": "0" * 64}, {}):
        with pytest.raises(Unreachable):
            version(**wrong)


def test_a_wrong_token_is_said_to_be_one(lab: Host) -> None:
    from cutover.core.errors import Refused

    run = lab.run()
    object.__setattr__(run.credentials, "values", {**run.credentials.values, "PROXMOX_TOKEN_SECRET": "nonsense"})
    with pytest.raises(Refused, match="does not accept the token") as refused:
        Proxmox(lab.site.proxmox, run.credentials, run.guard).get("version")
    assert "expired or is disabled" in refused.value.hint, "Proxmox answers the same to a token that is no good any more"


def test_a_running_task_is_listed_as_running_and_is_no_failure(lab: Host) -> None:
    """A start that takes its time during a reboot must not be taken for one that failed."""
    vm(lab).start_secs = 30
    change(lab, "PUT", f"{QEMU}/config", cores=6)
    run = lab.run(execute=True)
    with run.guard.act("reboot", "Reboot"):
        power.reboot(run.proxmox, lab.site.guests.new, deadline=20)
    assert vm(lab).guest_os.cores == 6
    lab.pve.time_scale = 1.0
    upid = change(lab, "POST", "nodes/pve/vzdump", vmid=952, storage="local")
    listed = next(one for one in lab.runs[-1].proxmox.tasks("vzdump", 952) if one["upid"] == upid)
    assert listed["status"] == "RUNNING"
    assert "endtime" not in listed
