"""A backup counts when it was restored; a restore happens when it is necessary."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutover.checks import new_resources
from cutover.core.errors import CutoverError, Failed, Refused, WritesRefused
from cutover.core.ui import ConfirmedInAdvance, SilentUi
from cutover.error_boundary import error_boundary
from cutover.phases import backup, restore
from cutover.proxmox import privileges, scratch, vzdump
from cutover.proxmox.client import Proxmox
from cutover.proxmox.tasks import TaskEnd
from cutover.qdrant import snapshots
from cutover.site.load import load
from cutover.state import backup_manifest
from lab.proxmox_host import SITE, Host, host
from tests.support.asked_before import read_later
from tests.support.night import every_nth_by_day
from tests.support.phases import done, planned


def quick(made: Host) -> Host:
    limits = made.site.limits.model_copy(update={"reboot_seconds": 15.0})
    made.site = made.site.model_copy(update={"limits": limits})
    return made


@pytest.fixture(scope="module")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One old server with records, for the tests that only read it."""
    with host(tmp_path_factory.mktemp("old"), qdrant=True) as made:
        fill(made)
        yield made


@pytest.fixture
def lab(tmp_path: Path, old_server: Host) -> Iterator[Host]:
    """A host of its own; its old server is the one that all share."""
    with host(tmp_path) as made:
        made.site = made.site.model_copy(update={"qdrant": old_server.site.qdrant})
        made.keys = old_server.keys
        yield quick(made)
    # A snapshot that is to stay would be found by the next test.
    run = old_server.run(execute=True, state="clearing")
    with run.guard.act("clear", "Remove every snapshot"):
        for name in run.old.collections():
            for one in run.old.snapshots(name):
                run.old.delete_snapshot(name, one["name"])
    run.close()


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Host]:
    """A host whose old server is its own and can be lost."""
    with host(tmp_path, qdrant=True) as made:
        fill(made)
        yield quick(made)


def fill(lab: Host) -> None:
    run = lab.run(execute=True, state="filling")
    with run.guard.act("fill", "Put records in"):
        for name in ("digits", "näh/me"[:3]):
            run.old.ask("PUT", f"/collections/{name}", {"vectors": {"size": 2, "distance": "Cosine"}})
            run.old.upsert(name, [{"id": n, "vector": [1.0, n], "payload": {"n": n}} for n in range(20)])
        run.old.change_aliases([{"create_alias": {"collection_name": "digits", "alias_name": "numbers"}}])


def archives(lab: Host) -> list[str]:
    return sorted(lab.pve.storages["local"]["volumes"])


def on_the_server(lab: Host) -> list[str]:
    old = lab.run().old
    return [one["name"] for name in old.collections() for one in old.snapshots(name)]


def test_without_execute_nothing_is_saved(lab: Host) -> None:
    run = lab.run()
    before = len(lab.pve.writes())
    said = " ".join(sentence.text for sentence in planned(backup.PHASE, run))
    assert "2 collections" in said
    assert "Restore it as LXC 9952" in said
    with pytest.raises(WritesRefused):
        done(backup.PHASE, run)
    assert len(lab.pve.writes()) == before
    assert not backup_manifest.folder(run).exists()


def test_everything_is_saved_and_proved_and_a_second_run_adds_nothing(lab: Host) -> None:
    outcome = done(backup.PHASE, lab.run(execute=True))
    assert outcome.changed
    assert read_later(lab.pve) == []
    assert len(archives(lab)) == 1
    assert lab.pve.storages["local"]["volumes"][archives(lab)[0]]["protected"] is True
    assert lab.pve.ct(9952) is None, "the scratch guest is removed again"
    assert any(task["type"] == "vzrestore" and task["exitstatus"] == "OK" for task in lab.pve.tasklog)
    kept = json.loads((backup_manifest.folder(lab.run()) / "manifest.json").read_text())
    assert {one["collection"]: one["points"] for one in kept["collections"]} == {"digits": 20, "näh": 20}
    assert kept["aliases"] == {"numbers": "digits"}
    for one in kept["collections"]:
        file = backup_manifest.folder(lab.run()) / one["file"]
        assert file.stat().st_mode & 0o077 == 0
        assert one["sha256"] == one["checksum"]
    assert on_the_server(lab) == [], "a snapshot takes the room of records"
    record = json.loads((backup_manifest.folder(lab.run()) / "record.json").read_text())
    assert record["pools"] == ["legacy"]
    assert [job["id"] for job in record["backup_jobs"]] == ["nightly"]
    assert "before_move" in lab.pve.ct(952).snapshots
    writes = len(lab.pve.writes())
    assert not done(backup.PHASE, lab.run(execute=True)).changed
    assert (len(lab.pve.writes()), len(archives(lab))) == (writes, 1)


def test_what_was_cut_off_in_the_folder_afterwards_is_no_backup(lab: Host) -> None:
    done(backup.PHASE, lab.run(execute=True))
    kept = json.loads((backup_manifest.folder(lab.run()) / "manifest.json").read_text())
    file = backup_manifest.folder(lab.run()) / kept["collections"][0]["file"]
    file.write_bytes(file.read_bytes()[:100])
    finding = new_resources.saved(lab.run())
    assert (finding.ok, "The snapshots of digits are gone" in finding.sentence) == (False, True)
    assert done(backup.PHASE, lab.run(execute=True)).changed
    assert new_resources.saved(lab.run()).ok
    assert len(archives(lab)) == 1


def test_a_file_of_the_backup_that_says_something_else_is_named(lab: Host) -> None:
    place = backup_manifest.folder(lab.run())
    place.mkdir(parents=True)
    for text in ("[]", "{}", "null", '{"archive": null, "collections": []}', '{"archive": {"volid": "x"}, "collections": [1]}'):
        (place / "manifest.json").write_text(text)
        for ask in (lambda: planned(backup.PHASE, lab.run()), lambda: new_resources.saved(lab.run())):
            with pytest.raises(Refused, match=r"manifest\.json is not readable"):
                ask()
    (place / "manifest.json").unlink()
    for text in ("{", "[1]", "null"):
        (place / "record.json").write_text(text)
        (said,) = restore._compared(lab.run())
        assert "record.json is not readable, so nobody knows what a restore did not bring back" in said


def test_other_backups_are_not_pruned(lab: Host) -> None:
    for n in range(4):
        lab.pve.storages["local"]["volumes"][f"backup/vzdump-lxc-952-2026_01_0{n + 1}-00_00_00.tar.zst"] = {
            "content": "backup", "format": "tar.zst", "size": 10, "vmid": 952, "ctime": 1000 + n,
        }  # fmt: skip
    done(backup.PHASE, lab.run(execute=True))
    assert len(archives(lab)) == 5


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda lab: lab.pve.ct(952).config.update(mp0="local-lvm:vm-952-disk-1,mp=/data,size=8G"), "mp0 .* not marked for backup"),
        (lambda lab: lab.pve.ct(952).config.update(mp0="/srv/data,mp=/data"), "mp0 is a folder or device of the host"),
        (lambda lab: lab.pve.snapshot_lock(952, "backup"), r"is locked \(backup\)"),
        (lambda lab: lab.pve.ct(952).config.pop("unprivileged"), "is privileged"),
        (lambda lab: lab.pve.storages["local"].update(avail=2**30), r"Storage local has 1\.0 GB free, and .* needs more than the reserve of 16 GB"),
        (lambda lab: lab.pve.storages["local-lvm"].update(allocated=799 * 2**30), r"Storage local-lvm has 1\.0 GB free"),
    ],
)  # fmt: skip
def test_what_a_backup_would_not_hold_is_refused_before_anything_is_done(
    lab: Host, break_it: Callable[[Host], Any], said: str
) -> None:
    break_it(lab)
    before = len(lab.pve.writes())
    with pytest.raises(Refused) as refused:
        done(backup.PHASE, lab.run(execute=True))
    assert re.search(said, refused.value.sentence), refused.value.sentence
    assert len(lab.pve.writes()) == before


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda lab: lab.pve.end_next("vzdump", "WARNINGS: 1"), "warnings"),
        (lambda lab: lab.pve.end_next("vzdump", "job errors"), "Backing up LXC 952"),
        (lambda lab: lab.pve.end_next("vzrestore", "command 'tar' failed: exit code 2"), "could not be restored"),
        (lambda lab: lab.pve.add_ct(9952, "somebody-else"), "scratch id 9952 is taken"),
    ],
)
def test_a_backup_that_is_none_is_not_called_one(lab: Host, break_it: Callable[[Host], Any], said: str) -> None:
    break_it(lab)
    with pytest.raises(CutoverError, match=said):
        done(backup.PHASE, lab.run(execute=True))
    assert backup_manifest.manifest(lab.run()) is None


def test_a_snapshot_that_arrives_damaged_is_not_kept(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutover.qdrant.client import Qdrant

    original = Qdrant.download
    monkeypatch.setattr(Qdrant, "download", lambda *words, **named: iter([*original(*words, **named), b"x"]))
    with pytest.raises(Failed, match="checksum"):
        done(backup.PHASE, lab.run(execute=True))
    assert backup_manifest.manifest(lab.run()) is None
    assert on_the_server(lab) == []


def test_a_snapshot_that_has_no_room_at_home_stays_on_the_server_for_good(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SimpleNamespace(free=1 << 20)
    monkeypatch.setattr("cutover.phases.backup.shutil.disk_usage", lambda path: few)
    run = lab.run(execute=True)
    done(backup.PHASE, run)
    kept = on_the_server(lab)
    assert len(kept) == 2
    snapshots.remove_left(run, "copy", run.old)
    assert on_the_server(lab) == kept
    # A backup that begins anew takes new ones, and removes these when it is complete; not before.
    (backup_manifest.folder(run) / "manifest.json").unlink()
    lab.pve.end_next("vzrestore", "command 'tar' failed: exit code 2")
    with pytest.raises(CutoverError):
        done(backup.PHASE, lab.run(execute=True))
    assert set(kept) < set(on_the_server(lab))
    done(backup.PHASE, lab.run(execute=True))
    assert len(on_the_server(lab)) == 2
    assert not set(kept) & set(on_the_server(lab))


@pytest.mark.parametrize(
    "which",
    every_nth_by_day(
        [["POST", "/vzdump"], ["POST", "/snapshot"], ["POST", "/nodes/pve/lxc"], ["DELETE", "/lxc/9952"], ["GET", "/content"]], 3
    ),
    ids=lambda one: one[1].rsplit("/", 1)[-1],
)
@pytest.mark.parametrize("after", [True, False], ids=["answer-lost", "request-lost"])
def test_cut_off_anywhere_the_next_run_completes_it_once(lab: Host, which: list[str], after: bool) -> None:
    lab.pve.cut(*which, after=after)
    try:
        done(backup.PHASE, lab.run(execute=True))
    except CutoverError:
        done(backup.PHASE, lab.run(execute=True))
    assert len(archives(lab)) == 1
    assert lab.pve.ct(9952) is None
    assert backup_manifest.manifest(lab.run()) is not None


#: Settings that Proxmox hands to LXC as they are, and restores for root alone.
RAW = [["lxc.mount.entry", "/dev/net dev/net none bind,create=dir"], ["lxc.cgroup2.devices.allow", "c 10:200 rwm"]]


def test_a_task_that_did_its_work_and_warns_is_no_failure(lab: Host) -> None:
    """Proxmox warns at every start of a container whose systemd would like nesting, or whose release it does not know."""
    ui = SilentUi()
    lab.pve.ct(952).config["lxc"] = RAW
    lab.pve.end_next("vzstart", "WARNINGS: 1", "WARN: Systemd 257 detected. You may need to enable nesting.")
    done(backup.PHASE, lab.run(execute=True, ui=ui))
    assert backup_manifest.manifest(lab.run()) is not None
    raw = "skipping custom lxc options, restore manually as root: " + ", ".join(f"{key}: {value}" for key, value in RAW)
    assert any(one.endswith(f"is done; Proxmox warns: {raw}.") for one in ui.sentences), ui.sentences
    assert "Mounting LXC 9952 is done; Proxmox warns: Systemd 257 detected. You may need to enable nesting." in ui.sentences


# -- restore -------------------------------------------------------------------------------------


def test_a_server_that_answers_is_not_restored(lab: Host) -> None:
    done(backup.PHASE, lab.run(execute=True))
    before = len(lab.pve.writes())
    with pytest.raises(Refused, match="nothing has to be restored"):
        done(restore.PHASE, lab.run(execute=True, confirm=ConfirmedInAdvance("qdrant")))
    assert len(lab.pve.writes()) == before


def test_a_stopped_server_is_only_started(whole: Host) -> None:
    done(backup.PHASE, whole.run(execute=True))
    whole.pve.ct(952).status = "stopped"
    whole.machines[952].stop()
    outcome = done(restore.PHASE, whole.run(execute=True))
    assert "nothing was restored" in outcome.sentences[0]
    assert not [task for task in whole.pve.tasklog if task["type"] == "vzrestore" and task["id"] == "952"]


def test_a_deleted_server_comes_back_with_its_records(whole: Host) -> None:
    whole.pve.ct(952).config["lxc"] = RAW
    done(backup.PHASE, whole.run(execute=True))
    run = whole.run(execute=True, token=whole.root)
    with run.guard.act("test", "lose the old server"):
        api = run.proxmox
        api.do_task("POST", f"{api.of(('lxc', 952))}/status/stop", kind="vzstop", vmid=952, what="x", deadline=10)
        api.do_task("DELETE", api.of(("lxc", 952)), kind="vzdestroy", vmid=952, what="x", deadline=10, purge=1)
    # With the guest went the access rules on its id, and with them the right to see its backups.
    with pytest.raises(Refused, match=r"lacks .*VM.Backup.* on /vms/952"):
        done(restore.PHASE, whole.run(execute=True))
    for command in privileges.commands(whole.site, "restore"):
        whole.pve.pveum(command)
    by_hand = "By hand afterwards: put lxc.cgroup2.devices.allow, lxc.mount.entry back into /etc/pve/lxc/952.conf: "
    assert any(sentence.text.startswith(by_hand) for sentence in planned(restore.PHASE, whole.run()))
    outcome = done(restore.PHASE, whole.run(execute=True))
    run = whole.run()
    assert run.old.count("digits") == 20
    assert run.old.aliases() == {"numbers": "digits"}
    assert any("backup jobs" in sentence and "pools" in sentence for sentence in outcome.sentences)


def test_a_server_that_does_not_come_up_is_overwritten_only_by_name(whole: Host) -> None:
    """What it needs to start is broken on its disk; the backup's disk is not."""
    machine, service = whole.machines[952], whole.machines[952].services[0]

    class NeedsItsFiles:
        def start(self) -> None:
            if (machine.root / "storage" / "collections").is_dir():
                service.start()

        def stop(self, grace: float = 5.0) -> None:
            service.stop(grace)

        def kill(self) -> None:
            service.kill()

    done(backup.PHASE, whole.run(execute=True))
    machine.stop()
    whole.pve.ct(952).status = "stopped"
    machine.services[:] = [NeedsItsFiles()]
    (machine.root / "storage" / "collections").rename(machine.root / "storage" / "lost")
    limits = whole.site.limits.model_copy(update={"reboot_seconds": 1.0})
    site = whole.site.model_copy(update={"limits": limits})
    run = whole.run(execute=True, site=site)
    with (
        pytest.raises(Failed, match=r"confirm by typing the name qdrant\. LXC 952 \(qdrant\) would be overwritten"),
        error_boundary(run),
    ):
        done(restore.PHASE, run)
    assert (machine.root / "storage" / "lost").is_dir()
    done(restore.PHASE, whole.run(execute=True, confirm=ConfirmedInAdvance("qdrant"), site=site))
    assert whole.run().old.count("digits") == 20


def test_an_id_that_belongs_to_another_guest_now_is_left_alone(whole: Host) -> None:
    done(backup.PHASE, whole.run(execute=True))
    whole.pve.ct(952).config["hostname"] = "new-owner"
    whole.machines[952].stop()
    whole.pve.ct(952).status = "stopped"
    with pytest.raises(Refused, match="belongs to lxc new-owner now"):
        done(restore.PHASE, whole.run(execute=True, confirm=ConfirmedInAdvance("qdrant", "new-owner")))


def test_without_a_backup_there_is_nothing_to_restore(whole: Host) -> None:
    whole.machines[952].stop()
    whole.pve.ct(952).status = "stopped"
    with pytest.raises(Refused, match="no backup"):
        done(restore.PHASE, whole.run(execute=True))


# -- a trial restore worth its name ----------------------------------------------------------------


def test_what_is_restored_on_trial_is_mounted_without_network_and_without_starting_with_the_host(lab: Host) -> None:
    seen: list[dict[str, Any]] = []
    start = lab.pve._follow

    async def follow(vmid: int, *, hard: bool) -> None:
        if vmid == 9952 and (ct := lab.pve.ct(9952)) is not None and ct.wanted == "running":
            seen.append(dict(ct.config))
        await start(vmid, hard=hard)

    lab.pve._follow = follow  # type: ignore[method-assign]
    done(backup.PHASE, lab.run(execute=True))
    assert seen, "the file system was never mounted"
    assert all("link_down=1" in str(config["net0"]) and not int(config["onboot"]) for config in seen)
    kept = backup_manifest.manifest(lab.run())
    assert kept is not None
    assert any("its file system was mounted" in proof for proof in kept["proofs"])


def test_a_protected_server_is_tried_and_its_scratch_guest_removed(lab: Host) -> None:
    """The archive says that it is protected, so the guest that is restored on trial is."""
    lab.pve.ct(952).config["protection"] = 1
    done(backup.PHASE, lab.run(execute=True))
    assert lab.pve.ct(9952) is None
    assert lab.pve.ct(952).config["protection"] == 1


def test_the_hook_script_of_what_is_restored_on_trial_does_not_run_on_the_host(lab: Host) -> None:
    lab.pve.ct(952).config["hookscript"] = "local:snippets/announce.sh"
    outcome = done(backup.PHASE, lab.run(execute=True))
    assert not [path for _, path in lab.pve.writes() if path.endswith("/9952/status/start")]
    assert any("was not mounted, because starting it would run its hook script" in said for said in outcome.sentences)


def test_a_snapshot_that_was_never_completed_is_named_before_anything_is_saved(lab: Host) -> None:
    """Its name is taken, and Proxmox says so only when the next one is asked for."""
    lab.pve.ct(952).snapshots["before_move"] = {**lab.pve.ct(952).config, "snapstate": "prepare"}
    for execute in (False, True):
        with pytest.raises(Refused, match=r"was begun and never completed: .*`pct delsnapshot 952 before_move --force`"):
            (done if execute else planned)(backup.PHASE, lab.run(execute=execute))
    assert lab.pve.writes() == []


def test_a_snapshot_that_ends_while_it_is_looked_at_is_waited_for(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    on_its_way = {"snapstate": "prepare", "description": backup.TAKEN_FOR}
    lab.pve.ct(952).snapshots["before_move"] = {**lab.pve.ct(952).config, **on_its_way}
    looks = iter([["UPID:pve:0"]])
    monkeypatch.setattr(backup, "_begun", lambda _run: next(looks, []))
    (only,) = planned(backup.PHASE, lab.run(execute=False))
    assert only.text == "Wait for the backup of LXC 952 (qdrant) that was begun, then go on"


@pytest.mark.parametrize(
    ("more", "said"), [({"description": "by hand"}, "its description is 'by hand'"), ({}, "it has no description")]
)
def test_a_snapshot_of_somebody_else_is_not_taken_for_ours(lab: Host, more: dict[str, Any], said: str) -> None:
    """It may be a year old; a way back that leads there loses everything since."""
    lab.pve.ct(952).snapshots["before_move"] = {**lab.pve.ct(952).config, **more}
    with pytest.raises(Refused, match=rf"has a snapshot before_move that this tool did not take \({said}\)"):
        planned(backup.PHASE, lab.run(execute=False))


def test_a_restore_onto_a_storage_that_ran_full_proves_nothing(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxmox says TASK OK, and the kernel "potential data loss"."""
    unpack = lab.pve._unpack

    def full(*words: Any) -> None:
        unpack(*words)
        lab.pve.storages["local-lvm"]["allocated"] = lab.pve.storages["local-lvm"]["total"]

    monkeypatch.setattr(lab.pve, "_unpack", full)
    with pytest.raises(Failed, match=r"could not be restored: storage local-lvm is full .* although the restore ended well"):
        done(backup.PHASE, lab.run(execute=True))
    assert backup_manifest.manifest(lab.run()) is None
    assert lab.pve.ct(9952) is None


def test_what_came_out_of_an_archive_is_compared_with_what_went_in() -> None:
    log = ["INFO: creating vzdump archive '/x/vzdump-lxc-952.tar.zst'", "INFO: Total bytes written: 107622400 (103MiB, 20MiB/s)"]
    assert vzdump.read_log(log, "local").written == 107622400
    assert vzdump.restored_bytes(["restoring 'x' now..", "Total bytes read: 107622400 (103MiB, 4.0MiB/s)"]) == 107622400
    end = TaskEnd("UPID", "ok", "OK", ("Total bytes read: 9 (9B, 1B/s)",))
    context = SimpleNamespace(
        site=SimpleNamespace(proxmox=SimpleNamespace(node="pve", storages=SimpleNamespace(restore="x"))),
        proxmox=SimpleNamespace(record=lambda _path: {"avail": 50, "total": 100}, node_of=lambda _vmid: "pve"),
    )
    guest = load(SITE).guests.old
    assert scratch._whole(context, guest, end, 9) == ["9 bytes went into the archive and came out of it"]
    with pytest.raises(Failed, match="9 bytes came out of the archive, and 10 went in"):
        scratch._whole(context, guest, end, 10)


def without_snapshots(lab: Host) -> None:
    lab.pve.storages["local-lvm"]["type"] = "dir"


def test_a_backup_that_would_freeze_the_old_server_is_said_and_asked_for(lab: Host) -> None:
    """Somebody's snapshot from before the storage was another one stands in nobody's way: none is taken, and that is none of ours."""
    lab.pve.ct(952).snapshots["before_move"] = {**lab.pve.ct(952).config, "description": "by hand"}
    without_snapshots(lab)
    assert any(
        "takes no snapshots" in sentence.text and "frozen" in sentence.text for sentence in planned(backup.PHASE, lab.run())
    )
    run = lab.run(execute=True, confirm=ConfirmedInAdvance(yes=False))
    before = len(lab.pve.writes())
    with pytest.raises(Refused, match="frozen"):
        done(backup.PHASE, run)
    assert len(lab.pve.writes()) == before
    done(backup.PHASE, lab.run(execute=True))
    (made,) = [task for task in lab.pve.tasklog if task["type"] == "vzdump"]
    assert any("--mode suspend" in line for line in made["log"])
    kept = backup_manifest.manifest(lab.run())
    assert kept is not None
    assert kept["snapshot"] is None


def test_mode_suspend_needs_the_room_twice(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    without_snapshots(lab)
    real = Proxmox.status
    monkeypatch.setattr(Proxmox, "status", lambda self, guest: {**real(self, guest), "disk": 20 * 2**30})
    lab.pve.storages["local"]["avail"] = 45 * 2**30
    with pytest.raises(Refused, match=r"LXC 952 .*, copied once beside it, needs up to 40\.0 GB"):
        planned(backup.PHASE, lab.run())


# -- ended while Proxmox works ---------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def killed_in(monkeypatch: pytest.MonkeyPatch, kind: str, vmid: int, act: Callable[[], Any]) -> None:
    """The process ends when Proxmox has just begun a task of this kind."""
    real = Proxmox.start_task

    def start_task(self: Proxmox, *words: Any, **values: Any) -> str:
        upid = real(self, *words, **values)
        if (values["kind"], values["vmid"]) == (kind, vmid):
            raise Killed
        return upid

    with monkeypatch.context() as patch:
        patch.setattr(Proxmox, "start_task", start_task)
        with pytest.raises(Killed):
            act()


@pytest.mark.parametrize(
    ("kind", "vmid"),
    every_nth_by_day(
        [("vzdump", 952), ("vzsnapshot", 952), ("vzrestore", 9952), ("vzstart", 9952), ("vzstop", 9952), ("vzdestroy", 9952)], 6
    ),
)
def test_a_backup_that_is_killed_while_proxmox_works_is_gone_on_with(
    lab: Host, monkeypatch: pytest.MonkeyPatch, kind: str, vmid: int
) -> None:
    lab.pve.time_scale = 0.1
    killed_in(monkeypatch, kind, vmid, lambda: done(backup.PHASE, lab.run(execute=True)))
    done(backup.PHASE, lab.run(execute=True))
    assert len(archives(lab)) == 1
    assert lab.pve.ct(9952) is None
    assert backup_manifest.manifest(lab.run()) is not None


def test_a_test_restore_that_was_killed_on_the_host_names_the_commands_that_remove_what_it_left(lab: Host) -> None:
    lab.pve.end_next("vzrestore", "unexpected status")
    with pytest.raises(CutoverError):
        done(backup.PHASE, lab.run(execute=True))
    ct = lab.pve.ct(9952)
    assert ct is not None
    ct.config = {"lock": "create"}
    with pytest.raises(Failed, match=r"left a guest that is locked \(create\).*`pct unlock 9952`, then `pct destroy 9952`"):
        done(backup.PHASE, lab.run(execute=True))


@pytest.mark.parametrize("over", [False, True], ids=["a lost server", "over a broken one"])
def test_a_restore_that_is_killed_while_proxmox_works_is_gone_on_with(
    whole: Host, monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    done(backup.PHASE, whole.run(execute=True))
    limits = whole.site.limits.model_copy(update={"reboot_seconds": 20.0})
    site = whole.site.model_copy(update={"limits": limits})
    whole.machines[952].stop()
    whole.pve.ct(952).status = "stopped"
    if over:
        monkeypatch.setattr(restore, "_came_up", lambda _run: False)  # until it is overwritten
    else:
        run = whole.run(execute=True, token=whole.root)
        with run.guard.act("test", "lose the old server"):
            api = run.proxmox
            api.do_task("DELETE", api.of(("lxc", 952)), kind="vzdestroy", vmid=952, what="x", deadline=10)
        for command in privileges.commands(whole.site, "restore"):
            whole.pve.pveum(command)
    whole.pve.time_scale = 0.1
    agreed = ConfirmedInAdvance("qdrant")
    killed_in(monkeypatch, "vzrestore", 952, lambda: done(restore.PHASE, whole.run(execute=True, confirm=agreed, site=site)))
    monkeypatch.undo()
    outcome = done(restore.PHASE, whole.run(execute=True, site=site))
    said = " ".join(outcome.sentences)
    assert "was restored from local:backup/vzdump-lxc-952" in said
    assert "what was written to it since is lost" in said
    assert "nothing was restored" not in said
    assert whole.run().old.count("digits") == 20
    assert len([task for task in whole.pve.tasklog if task["type"] == "vzrestore" and task["id"] == "952"]) == 1
