"""The lab's host as the genuine one was when its exchanges were recorded, and what was done to it past its API meanwhile."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.guestos import GIB, GuestOs, plain_root
from lab.machines import Machines
from lab.proxmox import LabPve

#: The roles of the recording, with the path on which each was given: those that an earlier version of this tool asked for.
ROLES: Mapping[str, tuple[str, list[str]]] = {
    name: (path, privileges)
    for name, (path, privileges) in json.loads(
        (Path(__file__).parents[1] / "recorded" / "pve-9.2.11-roles.json").read_text()
    ).items()
}

#: Why some are answered otherwise although the state is the same.
BACKUP_FOLDER = "/var/lib/vz"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def host(folder: Path) -> LabPve:
    """The host before the first exchange."""
    pve = LabPve(folder, Machines(), host="127.0.0.1", port=0, plain_port=_free_port())
    pve.time_scale = 0.001
    pve.threads = 2
    pve.version, pve.release_version = "9.2.11", "9.2"
    pve.samples_itself = False
    pve.storages.clear()
    pve.storages["local"] = {"type": "dir", "path": BACKUP_FOLDER, "content": "vztmpl,backup,iso,snippets,images,rootdir", "active": 1,
                             "files": set(), "volumes": {}, "total": 270553174016, "prune-backups": "keep-last=3"}  # fmt: skip
    pve.storages["local-lvm"] = {"type": "dir", "path": "/var/lib/vz2", "content": "images,rootdir", "active": 1, "files": set(),
                                 "volumes": {}, "total": 270553174016}  # fmt: skip
    pve.storages["local"]["volumes"]["vztmpl/alpine-3.20-tiny_1_amd64.tar.zst"] = {
        "content": "vztmpl", "format": "tzst", "size": 1382083, "ctime": 1796006764}  # fmt: skip
    for vmid, name in (
        (101, "nginx"),
        (801, "vllm"),
        (950, "legacy-950"),
        (951, "legacy-951"),
        (952, "qdrant"),
        (953, "legacy-953"),
    ):
        big = vmid == 952
        pve.add_ct(vmid, name, status="running" if big else "stopped", config={
            "hostname": name, "arch": "amd64", "cores": 2 if big else 1, "memory": 2048 if big else 512, "swap": 512, "onboot": 1,
            "ostype": "alpine", "unprivileged": 1, "rootfs": f"local-lvm:{vmid}/vm-{vmid}-disk-0.raw,size=1G",
            "net0": f"name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:{vmid // 100:02d}:{vmid % 100:02d},ip=10.0.0.{vmid % 800}/24,type=veth",
        }, defaults=False)  # fmt: skip
    vm = pve.add_vm(1001, "portainer", status="stopped", config={
        "agent": "1", "scsi0": "local-lvm:1001/vm-1001-disk-0.qcow2,size=100G", "onboot": 1, "ostype": "l26", "boot": "order=scsi0",
        "net0": "virtio=BC:24:11:00:10:01,bridge=vmbr0", "name": "portainer", "memory": "8192", "sockets": 1, "cores": 4, "numa": 0,
        "scsihw": "virtio-scsi-single", "smbios1": "uuid=00000000-0000-4000-8000-000000000006",
        "vmgenid": "00000000-0000-4000-8000-000000000010", "meta": "creation-qemu=7.2.22,ctime=1796006839"})  # fmt: skip
    vm.guest_os = GuestOs([plain_root(100 * GIB)], name="portainer", cores=4, memory=8 * GIB)
    pve.pools["cutover-scratch"] = set()
    pve.users.setdefault("cutover@pve", "")
    pve.add_token("root@pam!lab", "22222222-2222-4222-8222-222222222222", privsep=False)
    for name, (path, privileges) in ROLES.items():
        pve.roles[name] = set(privileges)
        step = re.sub(r"Cutover|\d+", "", name).lower()
        pve.acl_rows.append({"path": path, "type": "user", "ugid": "cutover@pve", "roleid": name, "propagate": 1})
        pve.acl_rows.append({"path": path, "type": "token", "ugid": f"cutover@pve!{step}", "roleid": name, "propagate": 1})
        if f"cutover@pve!{step}" not in pve.apitokens:
            pve.add_token(f"cutover@pve!{step}", f"33333333-3333-4333-8333-{len(pve.apitokens):012d}")
    return pve


def lock(vmid: int, word: str | None) -> Callable[[LabPve, dict[str, str]], None]:
    def act(pve: LabPve, here: dict[str, str]) -> None:
        guest = pve.guest(vmid)
        guest.lock = word
        guest.config.pop("lock", None)
        if word:
            guest.config["lock"] = word

    return act


def _running(pve: LabPve, here: dict[str, str]) -> None:
    """The VM runs on a host with more threads, and its agent answers."""
    pve.threads = 16
    vm = pve.vm(1001)
    vm.status, vm.qmpstatus, vm.started_at, vm.powered_at = "running", "running", 1.0, -1e9
    pve.agent_boot_seconds = 0.0


def _stopped(pve: LabPve, here: dict[str, str]) -> None:
    pve.vm(1001).status = pve.vm(1001).qmpstatus = "stopped"


def _silent(pve: LabPve, here: dict[str, str]) -> None:
    pve.agent_boot_seconds, pve.vm(1001).powered_at = 1e9, time.monotonic()


def _config(vmid: int, **values: Any) -> Callable[[LabPve, dict[str, str]], None]:
    def act(pve: LabPve, here: dict[str, str]) -> None:
        for key, value in values.items():
            if value is None:
                pve.guest(vmid).config.pop(key, None)
            else:
                pve.guest(vmid).config[key] = value

    return act


def _slowly(scale: float) -> Callable[[LabPve, dict[str, str]], None]:
    return lambda pve, here: setattr(pve, "time_scale", scale)


def _sample(pve: LabPve, here: dict[str, str]) -> None:
    pve.sample()


def _archive(vmid: int, at: str, *without: str) -> Callable[[LabPve, dict[str, str]], None]:
    """A backup that was made past the API, of the container without these settings."""

    def act(pve: LabPve, here: dict[str, str]) -> None:
        name, guest = f"vzdump-lxc-{vmid}-{at}", pve.guest(vmid)
        here.pop(name, None)
        kept = dict(guest.config)
        guest.config = {key: value for key, value in kept.items() if key not in without}
        size = pve._write_archive(guest, pve.archive(f"local:backup/{name}.tar.zst"), [])
        guest.config = kept
        entry = {"content": "backup", "format": "tar.zst", "size": size, "vmid": vmid, "ctime": 1796006839, "subtype": "lxc"}
        pve.storages["local"]["volumes"][f"backup/{name}.tar.zst"] = entry

    return act


def _killed(pve: LabPve, here: dict[str, str]) -> None:
    """Somebody kills the worker of the restore that runs."""
    running = [task for task in pve.tasklog if task["type"] == "vzrestore" and task["status"] == "running"]
    if running:
        pve.kill_worker(running[-1]["upid"])


def _backups(vmid: int, count: int, *, protected: bool) -> Callable[[LabPve, dict[str, str]], None]:
    """There are as many backups of a guest as the genuine host had."""

    def act(pve: LabPve, here: dict[str, str]) -> None:
        there = pve._kept("local", vmid, protected=protected)
        for day in range(count - len(there)):
            name = f"backup/vzdump-lxc-{vmid}-2026_10_0{day + 1}-01_00_00.tar.zst"
            entry = {"content": "backup", "format": "tar.zst", "size": 512, "vmid": vmid, "ctime": day, "subtype": "lxc"}
            pve.storages["local"]["volumes"][name] = entry | ({"protected": True} if protected else {})

    return act


def _without_those(pve: LabPve, here: dict[str, str]) -> None:
    volumes = pve.storages["local"]["volumes"]
    for name in [name for name in volumes if "-2026_10_0" in name]:
        del volumes[name]


def _scratch_gone(pve: LabPve, here: dict[str, str]) -> None:
    """Unlocked and destroyed in the host's shell."""
    pve.cts[:] = [ct for ct in pve.cts if ct.vmid != 9952]


def _other_jobs(pve: LabPve, here: dict[str, str]) -> None:
    pve.backup_jobs.pop("allbut", None)
    pve.backup_jobs["nightly"]["vmid"] = "101"


def _unarchived(pve: LabPve, here: dict[str, str]) -> None:
    for name in ("953-2026_11_30-03_07_30", "952-2026_11_30-03_22_16"):
        pve.storages["local"]["volumes"].pop(f"backup/vzdump-lxc-{name}.tar.zst", None)


def _vnet(pve: LabPve, here: dict[str, str]) -> None:
    pve.add_vnet("vn1")


def _pools(pve: LabPve, here: dict[str, str]) -> None:
    pve.pools |= {"p1": {801}, "p2": set()}


#: What was done past the API before the exchange of this number.
BETWEEN: dict[int, list[Callable[[LabPve, dict[str, str]], None]]] = {
    0: [_sample],
    283: [_config(953, mp1="/tmp,mp=/host")],
    378: [lock(950, "backup")],
    390: [lock(950, None)],
    393: [_config(950, template=1)],
    396: [_config(950, template=None)],
    466: [_running],
    545: [lock(1001, "backup")],
    553: [lock(1001, None), _silent],
    562: [_running, _sample, _archive(953, "2026_11_30-03_07_30", "mp1")],
    566: [_sample],
    573: [_archive(952, "2026_11_30-03_22_16"), _slowly(100)],  # its restore is looked at while it runs
    574: [_sample],
    581: [_slowly(0.001)],
    583: [_sample],
    599: [_unarchived],
    600: [_stopped, _config(1001, scsi0="local-lvm:1001/vm-1001-disk-0.qcow2,size=132G")],
    633: [_backups(801, 3, protected=False)],
    651: [_backups(952, 5, protected=True)],
    657: [_without_those, _slowly(100)],
    658: [_killed, _slowly(0.001)],
    664: [_running],
    678: [_silent],
    682: [lambda pve, here: pve.firewall_config("cluster")["groups"].update(oldgroup=[])],
    688: [lambda pve, here: pve.forget_samples()],
    690: [_sample],
    692: [_running],
    715: [_scratch_gone, _pools],
    716: [_vnet],
    733: [_other_jobs],
    743: [_slowly(0.1)],  # two backups at a time are looked at
    751: [_slowly(0.001)],
    756: [_silent],
    759: [_running],
}

#: What the lab's host answers otherwise: number, what was asked, and the reason. The file has the exchanges by reason.
OTHERWISE: dict[int, tuple[str, str]] = {
    int(number): (what, reason)
    for reason, some in json.loads(
        (Path(__file__).parents[1] / "recorded" / "pve-9.2.11-otherwise.json").read_text(encoding="utf-8")
    ).items()
    for number, what in some.items()
}


def between(pve: LabPve, number: int, what: str, here: dict[str, str]) -> None:
    """Do what was done past the API before this exchange."""
    for act in BETWEEN.get(number, ()):
        act(pve, here)
