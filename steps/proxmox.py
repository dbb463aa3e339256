"""The Proxmox host and the servers on it: room, names, addresses, keys, sizes, backups.

Most scenarios about these need no records and no traffic, only the host; they get one of their own (`lab.proxmox_host`),
which starts in a moment. What concerns the containers on the new server needs the whole lab.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_bdd import given, parsers, then, when

from cutover.core.ui import ConfirmedInAdvance
from cutover.phases import registry
from cutover.portainer.picture import Picture, differences
from cutover.proxmox import vm as vm_state
from cutover.state import backup_manifest
from lab.guestos import GIB, Disk, encrypted_root, lvm_root, plain_root, swap_behind_root, zfs_root
from lab.operator import Operator
from lab.proxmox_host import Host, host
from steps.data import Checked

if TYPE_CHECKING:
    from cutover.context import Context
    from lab.lab import Lab

OLD, NEW, NGINX = 952, 1001, 101


@pytest.fixture
def host_alone(tmp_path: Path) -> Iterator[Host]:
    """A Proxmox host with the plan's guests, and nothing else of the site."""
    with host(tmp_path) as made:
        yield _patient(made)


@pytest.fixture
def host_with_data(tmp_path: Path) -> Iterator[Host]:
    """The same, and the old server really serves records."""
    with host(tmp_path, qdrant=True) as made:
        run = made.run(execute=True, state="before-the-story")
        with run.guard.act("fill", "Put records into the old server"):
            run.old.ask("PUT", "/collections/digits", {"vectors": {"size": 2, "distance": "Cosine"}})
            run.old.upsert("digits", [{"id": n, "vector": [1.0, float(n)], "payload": {"n": n}} for n in range(50)])
            run.old.change_aliases([{"create_alias": {"collection_name": "digits", "alias_name": "numbers"}}])
        yield _patient(made)


def _patient(made: Host) -> Host:
    limits = made.site.limits.model_copy(update={"reboot_seconds": 15.0})
    made.site = made.site.model_copy(update={"limits": limits})
    return made


@given("the plan's servers on a host of their own", target_fixture="lab")
def _host_of_their_own(host_alone: Host) -> Host:
    return host_alone


@given("the plan's servers with data on a host of their own", target_fixture="lab")
def _host_with_data(host_with_data: Host) -> Host:
    return host_with_data


# -- the host (A1) ------------------------------------------------------------------------------------
def _promised_memory(lab: Host) -> None:
    lab.pve.memory_total = 64 * GIB
    lab.pve.vm(200).config["memory"], lab.pve.vm(200).ballooned = 50 * 1024, 2048


_SHORTAGES: dict[str, Callable[[Host], Any]] = {
    "hardly any free memory": lambda lab: setattr(lab.pve, "memory_total", 22 * GIB),
    "promised its memory to others": _promised_memory,
    "fewer processors than the plan wants": lambda lab: setattr(lab.pve, "threads", 5),
    "a full disk storage": lambda lab: lab.pve.storages["local-lvm"].update(allocated=790 * GIB),
    "promised more disk than there is": lambda lab: lab.pve.vm(200).config.update(scsi1="local-lvm:vm-200-disk-1,size=700G"),
    "full bookkeeping of its disk storage": lambda lab: lab.pve.storages["local-lvm"].update(metadata_used=int(3.9 * GIB)),
}


@given(parsers.parse("the host has {shortage}"))
def _host_has(lab: Host, shortage: str) -> None:
    _SHORTAGES[shortage](lab)


@then("nothing was changed on the host")
def _nothing_was_changed(lab: Host) -> None:
    assert lab.pve.writes() == []


# -- the servers (A2, A3) -----------------------------------------------------------------------------
def _address(lab: Host, vmid: int, address: str) -> None:
    config = lab.pve.ct(vmid).config
    config["net0"] = re.sub(r"ip=[^,]+", f"ip={address}/24", config["net0"])


def _host_has_address(lab: Host) -> None:
    lab.pve.addresses = [lab.site.guests.new.address]


def _swap_kinds(lab: Host) -> None:
    lab.pve.cts.remove(lab.pve.ct(951))
    lab.pve.add_vm(951, "legacy-951", status="running", config={"memory": 512})


def _other_address(lab: Host) -> None:
    lab.pve.vm(NEW).guest_os.address = "10.0.0.77"


def _moved(lab: Host) -> None:
    lab.pve.add_node("elsewhere")
    lab.pve.ct(950).node = "elsewhere"


_TROUBLES: dict[str, Callable[[Host], Any]] = {
    "another server has the address as well": lambda lab: _address(lab, 110, lab.site.guests.new.address),
    "the Nginx server has the new server's address": lambda lab: _address(lab, NGINX, lab.site.guests.new.address),
    "the new server has another address": _other_address,
    "the host itself has the address": _host_has_address,
    "the new server does not say its address": lambda lab: setattr(lab.pve.vm(NEW), "guest_os", None),
    "an old server's id was given to another": lambda lab: lab.pve.ct(950).config.update(hostname="new-owner"),
    "an old server is on another node": _moved,
    "an old server does not exist": lambda lab: lab.pve.cts.remove(lab.pve.ct(953)),
    "a virtual machine has an old server's id": _swap_kinds,
    "an old server moved to another address": lambda lab: _address(lab, OLD, "10.0.0.99"),
}


@given(parsers.parse("it turns out that {trouble}"))
def _turns_out(lab: Host, trouble: str) -> None:
    _TROUBLES[trouble](lab)


@then(parsers.parse('nobody can say whether it is met, because "{reason}"'))
def _nobody_can_say(checked: Checked, reason: str) -> None:
    assert checked.finding is not None
    assert checked.finding.ok is None, checked.finding.sentence
    assert reason in checked.finding.sentence


# -- the keys (A6) ------------------------------------------------------------------------------------
@given("the operator has a key that cannot see servers")
def _blind_key(lab: Host) -> None:
    lab.pve.pveum("pveum role add Blind --privs 'Sys.Audit Datastore.Audit'")
    _new_key(lab, "blind", "Blind")


@given("the operator has a key that may do everything")
def _almighty_key(lab: Host) -> None:
    _new_key(lab, "almighty", "Administrator")


def _new_key(lab: Host, name: str, role: str) -> None:
    lab.token = f"{name}@pve!key"
    lab.pve.add_token(lab.token, "33333333-3333-4333-8333-333333333333")
    lab.pve.pveum(f"pveum acl modify / --users {name}@pve --tokens {lab.token} --roles {role}")


@given(parsers.parse("the operator has the key for the {step}"))
def _key_for(lab: Host, step: str) -> None:
    lab.token = f"cutover@pve!{step}"


# -- carrying out -------------------------------------------------------------------------------------
@given("the operator does not agree to anything")
def _does_not_agree(operator: Operator) -> None:
    operator.says_yes = False


@when(parsers.parse("the operator begins the {step}"))
def _begins(operator: Operator, step: str) -> None:
    operator.tries(step)


@then(parsers.parse('it fails because "{reason}"'))
def _fails_because(operator: Operator, reason: str) -> None:
    error = operator.was_refused()
    assert error.exit_code == 3, f"{error.exit_code}: {error}"
    assert reason in str(error), str(error)


# -- backup (B1) --------------------------------------------------------------------------------------
_CONTAINER: dict[str, Callable[[Any], Any]] = {
    "a disk that is not backed up": lambda ct: ct.config.update(mp0="local-lvm:vm-952-disk-1,mp=/data,size=8G"),
    "a folder of the host in it": lambda ct: ct.config.update(mp0="/srv/data,mp=/data"),
    "a lock by another task": lambda ct: ct.config.update(lock="migrate"),
    "rights that forbid a restore": lambda ct: ct.config.pop("unprivileged"),
}


@given(parsers.parse("the old server's container has {trouble}"))
def _container_has(lab: Host, trouble: str) -> None:
    _CONTAINER[trouble](lab.pve.ct(OLD))


def _other_node(lab: Host) -> None:
    """Proxmox answers the word OK to a backup of a guest that is elsewhere."""
    original = lab.pve.guest

    def guest(vmid: int) -> Any:
        found = original(vmid)
        if vmid == OLD and any(method == "POST" and path.endswith("/vzdump") for method, path, _ in lab.pve.requests):
            found.node = "elsewhere"
        return found

    lab.pve.add_node("elsewhere")
    lab.pve.guest = guest


_BACKUPS: dict[str, Callable[[Host], Any]] = {
    "ends with warnings": lambda lab: lab.pve.end_next("vzdump", "WARNINGS: 1"),
    "cannot be restored": lambda lab: lab.pve.end_next("vzrestore", "command 'tar' failed: exit code 2"),
    "makes nothing": _other_node,
}


@given(parsers.parse("the next backup {trouble}"))
def _next_backup(lab: Host, trouble: str) -> None:
    _BACKUPS[trouble](lab)


@then("no backup is called complete")
def _no_backup_complete(operator: Operator) -> None:
    assert backup_manifest.manifest(operator.run(execute=False)) is None


@then("a backup of the old server is kept that nothing removes by itself")
def _backup_is_kept(lab: Lab) -> None:
    assert lab.pve is not None
    volumes = lab.pve.storages[lab.site.proxmox.storages.backup]["volumes"]
    kept = [entry for entry in volumes.values() if entry.get("vmid") == OLD and entry.get("content") == "backup"]
    assert len(kept) == 1
    assert kept[0]["protected"] and kept[0]["size"] > 0


@then("it was restored on trial, and the trial was removed again")
def _restored_on_trial(lab: Lab) -> None:
    assert lab.pve is not None
    trials = [task for task in lab.pve.tasklog if task["type"] == "vzrestore"]
    assert [task["exitstatus"] for task in trials] == ["OK"]
    assert lab.pve.guest(lab.site.proxmox.scratch_vmid) is None


@then("a snapshot of every collection is kept with its checksum, and none is left on the old server")
def _snapshots_are_kept(operator: Operator) -> None:
    with closing(operator.run(execute=False)) as run:
        kept = backup_manifest.manifest(run)
        assert kept is not None
        assert {one["collection"] for one in kept["collections"]} == set(run.old.collections())
        for one in kept["collections"]:
            assert one["sha256"] == one["checksum"]
            assert (backup_manifest.folder(run) / one["file"]).stat().st_size > 0
            assert run.old.snapshots(one["collection"]) == []


@then("what a restore does not bring back is written down")
def _written_down(operator: Operator) -> None:
    with closing(operator.run(execute=False)) as run:
        record = json.loads((backup_manifest.folder(run) / "record.json").read_text())
    assert record["backup_jobs"] and record["pools"]


# -- resize (B2, B3) ----------------------------------------------------------------------------------
_LAYOUTS: dict[str, Callable[[int], Disk]] = {
    "a plain file system": plain_root,
    "an XFS file system": lambda size: plain_root(size, fs="xfs"),
    "logical volumes": lvm_root,
    "a btrfs file system": lambda size: plain_root(size, fs="btrfs"),
    "a ZFS pool": zfs_root,
    "swap behind the file system": swap_behind_root,
    "an encrypted file system": encrypted_root,
    "a file system of another kind": lambda size: plain_root(size, fs="ntfs"),
    "no program that grows a partition": plain_root,
}


@given(parsers.parse("the new server's disk has {layout}"))
def _disk_has(lab: Host, layout: str) -> None:
    inside = lab.pve.vm(NEW).guest_os
    inside.disks = [_LAYOUTS[layout](lab.site.resize.before.disk_gb * GIB)]
    if layout.startswith("no program"):
        inside.missing.add("growpart")


_VM: dict[str, Callable[[Any], Any]] = {
    "has a change that waits already": lambda vm: vm.pending.update(scsi1="local-lvm:vm-1001-disk-1,size=8G"),
    "is locked by a backup": lambda vm: vm.config.update(lock="backup"),
    "is managed by the cluster": lambda vm: setattr(vm, "ha_state", "started"),
    "has two sockets": lambda vm: vm.config.update(sockets=2),
    "has its memory divided by hand": lambda vm: vm.config.update(numa=1, numa0="cpus=0-3,memory=8192"),
    "gives memory back to the host": lambda vm: vm.config.update(balloon=8192),
    "starts with fewer processors": lambda vm: vm.config.update(vcpus=4),
    "has huge pages": lambda vm: vm.config.update(hugepages="1024"),
    "has a snapshot in the way": lambda vm: vm.snapshots.update(before=dict(vm.config, snaptime=1)),
    "has a larger disk already": lambda vm: vm.config.update(scsi0="local-lvm:vm-1001-disk-0,size=200G"),
    "is a template": lambda vm: vm.config.update(template=1),
    "has no agent": lambda vm: vm.config.pop("agent"),
    "has another name": lambda vm: vm.config.update(name="nas"),
}


class PowerCut(BaseException):
    """The operator's computer is off."""


def dies_while(operator: Operator, verb: str, kind: str) -> None:
    """Carry out a verb with a computer that dies when Proxmox has begun a task of this kind."""

    def prepare(run: Context) -> None:
        start = run.proxmox.start_task

        def start_and_die(*words: Any, **values: Any) -> str:
            upid = start(*words, **values)
            if values["kind"] == kind:
                raise PowerCut
            return upid

        run.proxmox.start_task = start_and_die  # type: ignore[method-assign]

    operator.prepare = prepare
    with pytest.raises(PowerCut):
        operator.tries(verb)
    operator.prepare = lambda _run: None


@given("the operator's computer dies while the new server restarts")
def _dies_while_restarting(operator: Operator) -> None:
    dies_while(operator, "resize", "qmreboot")


@given(parsers.re(f"the new server (?P<trouble>{'|'.join(_VM)})"))
def _new_server_trouble(lab: Host, trouble: str) -> None:
    _VM[trouble](lab.pve.vm(NEW))


def _inside(operator: Operator) -> vm_state.Inside:
    with closing(operator.run(execute=False)) as run:
        return vm_state.seen_inside(run)


@then(parsers.re("the new server itself sees its (?P<which>new|old) cores and memory"))
def _sees_cores_and_memory(lab: Host, operator: Operator, which: str) -> None:
    assert operator.error is None, operator.error
    wanted = lab.site.resize.after if which == "new" else lab.site.resize.before
    seen = _inside(operator)
    assert (seen.cores, seen.memory_mb) == (wanted.cores, wanted.memory_mb)


@then("its file system has grown by what the disk has grown")
def _file_system_has_grown(lab: Host, operator: Operator) -> None:
    sizes = lab.site.resize
    more = sizes.after.disk_gb - sizes.before.disk_gb
    inside = _inside(operator)
    assert inside.disk_bytes == sizes.after.disk_gb * GIB
    assert inside.unused < GIB // 16
    assert inside.fs.size >= 0.92 * sizes.after.disk_gb * GIB  # ext4 does not tell what it keeps for root and its tables
    assert more == 32
    assert lab.pve.vm(NEW).drive_size(sizes.disk) == sizes.after.disk_gb * GIB


@then("it was restarted once, and a second resize does nothing")
def _restarted_once(lab: Host, operator: Operator) -> None:
    assert lab.machines[NEW].boots == 2
    writes = len(lab.pve.writes())
    assert operator.does("resize").outcome is not None
    assert len(lab.pve.writes()) == writes


@then("the new server was not restarted")
def _not_restarted(lab: Host) -> None:
    assert lab.machines[NEW].boots == 1


@given("the containers of the new server run", target_fixture="as_before")
def _containers_run(operator: Operator) -> Picture:
    with closing(operator.run(execute=False)) as run:
        picture = run.portainer.picture()
    assert len(picture.containers) >= 2
    return picture


@then("the new server was restarted once")
def _was_restarted_once(lab: Lab, operator: Operator) -> None:
    assert operator.error is None, operator.error
    assert lab.machines[NEW].boots == 2


@then("its containers and stacks are as they were")
def _as_they_were(operator: Operator, as_before: Picture) -> None:
    with closing(operator.run(execute=False)) as run:
        assert differences(as_before, run.portainer.picture(), ours="/", restarted=True) == []


@given("a container of the new server that does not survive a restart")
def _fragile_container(lab: Lab) -> None:
    """Somebody changed its restart policy; it shows at the next boot only."""
    lab.change_site(limits={"reboot_seconds": 8.0})
    lab.machines[NEW].on_start = lambda machine: lab.forget_restart(machine, "monitoring")


# -- the way back (E2) --------------------------------------------------------------------------------
@given("the new server was resized")
def _was_resized(operator: Operator) -> None:
    operator.does("resize")


@given("the new server did not start again after its resize")
def _did_not_start_again(lab: Host, operator: Operator) -> None:
    lab.pve.largest_start_mb = lab.site.resize.before.memory_mb
    operator.tries("resize")
    assert "could not be started" in str(operator.was_refused())
    assert lab.pve.vm(NEW).status == "stopped"


@given("the new size waits for a restart")
def _size_waits(operator: Operator) -> None:
    operator.says_yes = False
    operator.tries("resize")
    operator.was_refused()
    operator.says_yes = True


@given("the resize was undone")
def _resize_was_undone(operator: Operator) -> None:
    operator.does("resize", undo=True)


@when(parsers.parse("the operator undoes the {verb} once more"), target_fixture="writes_before")
def _undoes_once_more(lab: Host, operator: Operator, verb: str) -> int:
    writes = len(lab.pve.writes())
    operator.tries(verb, undo=True)
    return writes


@then("nothing more is changed on the host")
def _nothing_more(lab: Host, operator: Operator, writes_before: int) -> None:
    assert operator.error is None, operator.error
    assert operator.result is not None and operator.result.outcome is not None
    assert not operator.result.outcome.changed
    assert len(lab.pve.writes()) == writes_before


@when("the operator undoes the resize")
def _undoes_the_resize(operator: Operator) -> None:
    operator.tries("resize", undo=True)


@then("the operator is told that the disk stays grown")
def _told_that_the_disk_stays(operator: Operator) -> None:
    assert operator.result is not None and operator.result.outcome is not None
    told = " ".join(operator.result.outcome.sentences)
    assert "a disk cannot shrink" in told, f"the operator was only told: {told}"


@then("nothing waits for a restart any more")
def _nothing_waits(lab: Host, operator: Operator) -> None:
    assert operator.error is None, operator.error
    assert lab.pve.vm(NEW).pending == {}


@given("a snapshot of the new server from before its resize")
def _snapshot_from_before(lab: Host) -> None:
    with (
        closing(lab.run(execute=True, token=lab.root)) as run,
        run.guard.act("story", "Somebody takes a snapshot, and the disk grows later"),
    ):
        api = run.proxmox
        path = api.of(lab.site.guests.new)
        api.do_task("POST", f"{path}/snapshot", kind="qmsnapshot", vmid=NEW, what="Snapshot", deadline=20, snapname="before")
        api.do_task("PUT", f"{path}/resize", kind="resize", vmid=NEW, what="Resize", deadline=20, disk="scsi0", size="132G")


@given("the operator agrees to lose what is on the new server")
def _agrees_to_lose(lab: Host, operator: Operator) -> None:
    operator.agrees_to.add(lab.site.guests.new.name)


@when("the operator rolls the new server back")
def _rolls_back(operator: Operator) -> None:
    operator.tries("rollback")


@then("the disk is still grown")
def _still_grown(lab: Host) -> None:
    assert lab.pve.vm(NEW).drive_size(lab.site.resize.disk) == lab.site.resize.after.disk_gb * GIB


@then("the disk has its old size")
def _old_size(lab: Host, operator: Operator) -> None:
    assert operator.error is None, operator.error
    assert lab.pve.vm(NEW).drive_size(lab.site.resize.disk) == lab.site.resize.before.disk_gb * GIB


# -- restore (E4) -------------------------------------------------------------------------------------
@given("a backup of the old server was made")
def _backup_was_made(operator: Operator) -> None:
    operator.does("backup")


def _as_root(lab: Host, method: Any, path: str, kind: str) -> None:
    with (
        closing(lab.run(execute=True, token=lab.root, state="somebody-else")) as run,
        run.guard.act("story", "Somebody does something in Proxmox"),
    ):
        run.proxmox.do_task(method, path, kind=kind, vmid=OLD, what=kind, deadline=30)


@given("the old server was stopped")
def _was_stopped(lab: Host) -> None:
    _as_root(lab, "POST", f"nodes/pve/lxc/{OLD}/status/shutdown", "vzshutdown")


@given("the old server was deleted by accident")
def _was_deleted(lab: Host) -> None:
    _as_root(lab, "POST", f"nodes/pve/lxc/{OLD}/status/stop", "vzstop")
    _as_root(lab, "DELETE", f"nodes/pve/lxc/{OLD}", "vzdestroy")
    # The rights on the id went with the guest; the operator gives them again, as the tool says.
    from cutover.proxmox import privileges

    for command in privileges.commands(lab.site, "restore"):
        lab.pve.pveum(command)


@given("the old server's id belongs to another server now")
def _id_belongs_to_another(lab: Host) -> None:
    _was_stopped(lab)
    lab.pve.ct(OLD).config["hostname"] = "new-owner"


@when("the operator restores the old server")
def _restores(operator: Operator) -> None:
    operator.tries("restore")


@then("the old server answers with every record of the backup")
def _answers_with_every_record(lab: Host, operator: Operator) -> None:
    assert operator.error is None, operator.error
    with closing(lab.run(confirm=ConfirmedInAdvance())) as run:
        assert run.old.count("digits") == 50
        assert run.old.aliases() == {"numbers": "digits"}


@then("the operator is told what a restore does not bring back")
def _told_what_is_not_back(operator: Operator) -> None:
    assert operator.result is not None and operator.result.outcome is not None
    told = " ".join(operator.result.outcome.sentences)
    assert "does not bring back" in told, f"the operator was only told: {told}"
    assert operator.result.verb in registry.NAMES


@then("no restore was begun")
def _no_restore(lab: Host) -> None:
    assert not [task for task in lab.pve.tasklog if task["type"] == "vzrestore" and task["id"] == str(OLD)]
