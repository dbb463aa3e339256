# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lab's Proxmox host: fakepve's API with real machines behind it.

fakepve answers the whole API schema with Proxmox's own words but keeps only part of the state. This stand-in adds what
the plan's steps depend on, and gives guests a body: starting, stopping, rebooting, rolling back, restoring and deleting a
guest does the same to the lab's machine of that id, its processes and its folder.

Added here, each after Proxmox VE 9's own sources:

* the configuration is shown with pending changes unless ``current`` is asked for, the digest covers pending changes and
  snapshots, ``revert`` drops them, an entry equal to the running value is no pending change;
* a disk resize is a task; shrinking and a stale digest end that task with an error, the same size is a success;
* cores and memory of a running VM always wait for the next start; ``status/reboot`` ends with the shutdown and the host
  begins a separate ``qmstart``; a balloon target below the memory takes effect right after the start; numa nodes that do
  not add up to the memory, and more virtual CPUs than the host has threads, make the start fail;
* vzdump: answers the word OK where the guest is on another node, writes an archive with the guest's configuration inside,
  leaves out mount points without ``backup=1`` and everything that is not a volume, prunes unless told not to, warns, locks;
* restore unpacks the archive and takes its configuration, puts every volume on one storage, deletes the old volumes;
* deleting a container removes its firewall file, access rules and pool membership; ``purge`` also removes it from backup
  jobs (a job with no other guest disappears), replication and HA;
* access rules as Proxmox evaluates them: a rule on a deeper path replaces those above it, a token has at most its user's
  rights; and the checks that the API's code makes beyond its schema (vzdump, restore, resize);
* backup jobs, HA, replication, node and thin pool figures, task filters, the guest agent on a modelled disk layout.

Not modelled: clusters of more than one live node, CPU and memory load, full disks, restoring VMs, hook scripts, the compression
that an archive's name promises (archives are plain tar).

Believed, and not in any recording: a Proxmox Backup Server (its volume ids, log lines and `verification`, after pve-storage's and
vzdump's sources), HA's and replication's part of an answer, volumes on LVM-thin, a VM's live snapshot; inside a guest
`zpool online -e` and what the agent's `file-read` answers, also that it says "No such file" where there is none.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import hashlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from fakepve import FakeCt, FakePve, FakeVm, PveError, TaskError, settle
from fakepve.certs import make_cert
from fakepve.lxc import format_size, mount_type, parse_mount, parse_size, print_mount, random_mac
from fakepve.qemu import join_drive, split_drive
from fakepve.server import USER, ok, params

from lab.guestos import GIB, MIB, GuestOs, plain_root
from lab.machines import Machine, Machines
from lab.proxmox_access import VM_CONFIG
from lab.proxmox_cluster import Cluster

if TYPE_CHECKING:
    from cutover.site.schema import Site

Values = dict[str, Any]

#: What a note of a backup may name.
NOTE_WORDS = frozenset({"cluster", "guestname", "node", "vmid"})
#: How Proxmox says that a dump could not be written: the command it ran, whatever the reason.
_TAR = (
    "command 'set -o pipefail && lxc-usernsexec -m u:0:100000:65536 -m g:0:100000:65536 -- tar cpf - --totals "
    "--one-file-system -p --sparse --numeric-owner --acls --xattrs '--xattrs-include=user.*' "
    "'--xattrs-include=security.capability' '--warning=no-file-ignored' '--warning=no-xattr-write' --one-file-system "
    "'--warning=no-file-ignored' '--directory={temporary}' ./etc/vzdump/pct.conf ./etc/vzdump/pct.fw "
    "'--directory={temporary}' --no-anchored '--exclude=lost+found' --anchored '--exclude=./tmp/?*' '--exclude=./var/tmp/?*' "
    "'--exclude=./var/run/?*.pid' . | zstd '--threads=1' >{archive}' failed: exit code 70"
)

#: The same for a container.
CT_CONFIG = ("Disk", "CPU", "Memory", "Network", "Options")


#: Wraps the body of the next task that this request starts.
_WRAPPER: contextvars.ContextVar[Callable[[Any], Any] | None] = contextvars.ContextVar("wrapper", default=None)


def _body(guest: Any) -> Machine | None:
    pve: LabPve | None = getattr(guest, "pve", None)
    return None if pve is None else pve.machines.get(guest.vmid)


class _Bodied:
    """A guest whose status is "running" until its machine is really off."""

    pve: LabPve | None = None
    _status = "stopped"

    @property
    def status(self) -> str:
        machine = _body(self)
        return "running" if machine is not None and machine.running else self._status

    @status.setter
    def status(self, value: str) -> None:
        self._status = value

    @property
    def wanted(self) -> str:
        """What the API made of it; the machine follows when the task ends."""
        return self._status


class LabVm(_Bodied, FakeVm):  # type: ignore[misc]
    """A virtual machine with an inside (`guest_os`, None: no guest agent installed)."""

    guest_os: GuestOs | None = None
    guest_snapshots: dict[str, Any]
    qemu_pid = 0
    powered_at = -1e9
    starts_after: str | None = None
    ballooned: int | None = None

    def digest(self) -> str:
        """Of the whole file: pending changes and snapshots count."""
        blob = json.dumps([self.config, self.pending, self.snapshots], sort_keys=True)
        return hashlib.sha1(blob.encode()).hexdigest()

    def drive_size(self, drive: str) -> int:
        return parse_size(split_drive(self.config[drive])[1].get("size", "0")) or 0

    def refresh(self) -> GuestOs | None:
        """The inside, told what the running machine has."""
        if self.guest_os is not None:
            self.guest_os.sizes = {disk.drive: self.drive_size(disk.drive) for disk in self.guest_os.disks}
        return self.guest_os


class LabCt(_Bodied, FakeCt):  # type: ignore[misc]
    """A container."""


class LabPve(Cluster):
    """The Proxmox host of one lab.

    `folder` keeps archives, snapshots and the certificate; `machines` are the bodies of the guests. ``serve()`` and
    ``close()`` run it in a thread of its own. ``requests`` has every request as (method, path, body), ``writes()`` those
    that could have changed something.
    """

    def __init__(
        self,
        folder: Path,
        machines: Machines,
        *,
        host: str = "127.0.0.1",
        port: int = 8006,
        node: str = "pve",
        certificate: tuple[Path, Path] | None = None,
        plain_port: int | None = None,
    ) -> None:
        """``certificate`` is (certificate, key) in PEM; without one the host makes its own, as Proxmox does. ``plain_port``: where
        it is heard without TLS as well."""
        super().__init__(host=host, port=port)
        self.folder = folder
        self.machines = machines
        self.node = node
        self.nodes = {node: {"online": True}}
        self.cluster_name = "lab"
        self.version, self.release_version = "9.0.10", "9.0"
        # Tasks run on after the answer, as real ones do; a second of Proxmox is ten milliseconds here.
        self.time_scale = 0.01
        self.max_requests = 100_000
        self.threads = 16
        self.memory_total = 32 * GIB
        self.memory_used_by_host = 2 * GIB
        #: A VM with more memory does not start (whatever the figures of the host say).
        self.largest_start_mb = 2**30
        self.thin: dict[str, Values] = {}
        self.task_outcomes: dict[str, list[tuple[str, ...]]] = {}
        self._cuts: list[Values] = []
        self._shelf: dict[int, Machine] = {}
        self._qemu_pids = itertools.count(4000)
        self._vzdump_lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._given, self._plain_port = certificate, plain_port
        self.certificate: Path | None = certificate[0] if certificate else None
        #: What a machine's services may ask about their hardware: a JSON file per guest, written before each start.
        self.hardware: dict[int, Path] = {}
        #: What time it is for the host.
        self.clock: Callable[[], float] = time.time
        self.operator_token = ("", "")
        #: Addresses that the host itself has.
        self.addresses: list[str] = [host]
        self.storages: dict[str, Values] = {}
        self._background: set[asyncio.Future[Any]] = set()

    # -- running it ------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Listen in a thread of its own. Its certificate (its own CA) is `certificate`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._given is not None:
            cert, key = map(str, self._given)
        else:
            cert, key, _ = make_cert(str(self.folder), name="pve", hosts=(self.host,))
            self.certificate = Path(cert)
        loop = self._loop = asyncio.new_event_loop()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.run_forever()

        self._thread = threading.Thread(target=run, name="lab-proxmox", daemon=True)
        self._thread.start()
        self.call(self.start(cert, key))

    async def start(self, certfile: str, keyfile: str) -> None:
        """As the real one; and without TLS for who stands between (:mod:`lab.faults.proxy`)."""
        await super().start(certfile, keyfile)
        if self._plain_port is not None:
            await web.TCPSite(self.runner, self.host, self._plain_port).start()

    def close(self) -> None:
        """Stop listening and end the thread. The machines stay as they are."""
        if self._loop is None or self._thread is None:
            return
        self.call(settle())
        self.call(self.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._thread.is_alive():
            self._loop.close()
        self._loop = None

    def call(self, coroutine: Any, timeout: float = 30.0) -> Any:
        """Run something of this stand-in on its own loop, from another thread."""
        assert self._loop is not None, "serve() first"
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def writes(self) -> list[tuple[str, str]]:
        """Every request so far that was not a read: (method, path)."""
        return [(method, path) for method, path, _ in self.requests if method not in ("GET", "HEAD")]

    def cut(self, method: str, suffix: str, *, after: bool = True, times: int = 1, skip: int = 0) -> None:
        """Cut the connection of the next `times` matching requests (after `skip` good ones): when they were carried out, or before."""
        self._cuts.append({"method": method, "suffix": suffix, "after": after, "times": times, "skip": skip})

    def end_next(self, kind: str, exitstatus: str, *lines: str) -> None:
        """Let the next task of this kind do its work, log these lines and end with another status (``WARNINGS: 1``, ...)."""
        self.task_outcomes.setdefault(kind, []).append((exitstatus, *lines))

    async def _answer(self, request: web.Request, handler: Any, generic: Any, path_node: Any) -> Any:
        rule = next(
            (r for r in self._cuts if r["method"] == request.method and request.path.endswith(r["suffix"]) and r["times"] > 0),
            None,
        )
        if rule is None:
            return await super()._answer(request, handler, generic, path_node)
        if rule["skip"] > 0:
            rule["skip"] -= 1
            return await super()._answer(request, handler, generic, path_node)
        rule["times"] -= 1
        if rule["after"]:
            await super()._answer(request, handler, generic, path_node)
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError

    # -- guests and their bodies -----------------------------------------------------------------------------------

    def add_vm(self, vmid: int, name: str, **kwargs: Any) -> LabVm:
        kwargs.setdefault("node", self.node)
        vm = LabVm(vmid, name, **kwargs)
        vm.pve, vm.guest_snapshots = self, {}
        vm.qemu_pid = next(self._qemu_pids)
        self.vms.append(vm)
        if vm.pool:
            self._pool_join(vm.pool, vmid)
        return vm

    def add_ct(self, vmid: int, name: str, **kwargs: Any) -> LabCt:
        kwargs.setdefault("node", self.node)
        ct = LabCt(vmid, name, **kwargs)
        ct.pve = self
        self.cts.append(ct)
        ct.pid = next(self._ct_pids) if ct.wanted == "running" else None
        if ct.pool:
            self._pool_join(ct.pool, vmid)
        return ct

    def guest_folder(self, vmid: int, name: str) -> Path:
        return self.folder / "snapshots" / str(vmid) / name

    async def _elsewhere(self, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run what blocks in a thread, so that the API answers meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(None, lambda: work(*arguments, **options))

    async def _follow(self, vmid: int, *, hard: bool) -> None:
        """Make the machine what the API says the guest is."""
        guest, machine = self.guest(vmid), self.machines.get(vmid)
        if guest is None or machine is None:
            return
        if guest.wanted == "running" and not machine.running:
            self.write_hardware(vmid)
            await self._elsewhere(machine.start)
        elif guest.wanted != "running" and machine.running:
            await self._elsewhere(machine.stop, hard=hard)

    def write_hardware(self, vmid: int) -> None:
        """Tell the guest's services what they run on."""
        guest, file = self.guest(vmid), self.hardware.get(vmid)
        if guest is not None and file is not None:
            cores = int(guest.config.get("cores", 1)) * int(guest.config.get("sockets", 1))
            file.write_text(json.dumps({"cores": cores, "memory_mb": int(guest.config.get("memory", 512))}))

    #: Tasks that cut a guest off instead of asking it to end.
    _HARD = frozenset({"vzstop", "qmstop", "qmrollback", "vzrollback", "vzdestroy", "qmdestroy", "hastop"})

    async def task(
        self, node: str, ttype: str, tid: Any, user: str, body: Any, vm: Any = None, lock: bool = True, log: Iterable[str] = ()
    ) -> str:
        """As fakepve's, and the guest's machine follows before the task ends. A task may end with warnings."""
        upid, pid, start = self._upid(node, ttype, tid, user)
        record: Values = {
            "upid": upid, "node": node, "pid": pid, "pstart": pid * 7, "starttime": start, "type": ttype,
            "id": str(tid), "user": user, "status": "running", "log": list(log),
        }  # fmt: skip
        self.tasks[upid] = record
        self.tasklog.append(record)
        vmid = int(tid) if str(tid).isdigit() else None
        wrapper = _WRAPPER.get()
        _WRAPPER.set(None)

        async def work() -> None:
            try:
                if vm is not None and lock:
                    await self.acquire(vm, upid)
                try:
                    note = await (body() if wrapper is None else wrapper(body))
                    if note:
                        record["log"].append(note)
                finally:
                    if vm is not None and lock:
                        self.release(vm, upid)
                    if vmid is not None and ttype != "vzdump":
                        await self._follow(vmid, hard=ttype in self._HARD)
                await self._after_task(ttype, vmid)
                status = "OK"
            except TaskError as error:
                status = str(error)
            except asyncio.CancelledError:
                if not record.get("killed"):
                    raise
                status = "unexpected status"
            except Exception as error:  # a broken body of a machine must not hang the task
                status = f"{type(error).__name__}: {error}"
            outcomes = self.task_outcomes.get(ttype)
            if status == "OK" and outcomes:
                status, *lines = outcomes.pop(0)
                record["log"] += lines
            record["exitstatus"] = status
            record["endtime"] = int(time.time())
            if status == "OK":
                record["log"].append("TASK OK")
            elif re.fullmatch(r"WARNINGS: \d+", status):
                record["log"].append("TASK " + status)
            elif status != "unexpected status":
                record["log"].append("TASK ERROR: " + status)
            record["status"] = "stopped"
            if ttype == "qmreboot" and status == "OK" and vm.wanted != "running":
                # qmeventd sees the guest end and starts it again.
                await self._do_start(vm, "root@pam", {})
            if ttype == "qmrollback" and vm is not None and vm.starts_after:
                starter, vm.starts_after = vm.starts_after, None
                await self.pause(1)
                await self._do_start(vm, starter, {})

        if self.time_scale:
            record["worker"] = self._later(work())
        else:
            await work()
        return str(upid)

    async def pause(self, seconds: float) -> None:
        """What takes this long on the host. Whoever lets the lab's time go faster shortens what is under way, too."""
        begun = time.monotonic()
        while (left := begun + seconds * self.time_scale - time.monotonic()) > 0:  # noqa: ASYNC110 - the end may come nearer
            await asyncio.sleep(min(left, 0.02))

    def _later(self, coroutine: Any) -> asyncio.Future[Any]:
        """Run something on, and keep hold of it, or Python may drop it half way."""
        future: asyncio.Future[Any] = asyncio.ensure_future(coroutine)
        self._background.add(future)
        future.add_done_callback(self._background.discard)
        return future

    async def _after_task(self, ttype: str, vmid: int | None) -> None:
        """The host's own second step after some tasks."""
        guest = None if vmid is None else self.guest(vmid)
        if guest is None:
            return
        if ttype in ("qmreboot", "qmshutdown", "qmstop") and guest.wanted != "running":
            # A VM that goes down takes what was waiting, whether or not it comes up again.
            guest.apply_pending()
        if ttype in ("qmstart", "qmrollback") and guest.wanted == "running":
            self._powered_on(guest)

    def _powered_on(self, vm: LabVm) -> None:
        """A new process, with what the configuration says; a balloon target pulls the memory down at once."""
        vm.qemu_pid = next(self._qemu_pids)
        vm.started_at, vm.powered_at = time.time(), time.monotonic()
        balloon = int(vm.config.get("balloon") or 0)
        vm.ballooned = balloon if balloon and balloon < int(vm.config.get("memory", 512)) else None
        if vm.guest_os is not None:
            vm.guest_os.cores = int(vm.config.get("vcpus") or int(vm.config.get("cores", 1)) * int(vm.config.get("sockets", 1)))
            vm.guest_os.memory = int(vm.config.get("memory", 512)) * MIB

    def _task_view(self, task: Values, listing: bool = False) -> Values:
        """A running task is listed under the token's whole name and without its own field for it; everywhere else they are two."""
        shown: Values = super()._task_view({k: x for k, x in task.items() if k not in ("worker", "killed")}, listing)
        if not (listing and task["status"] == "running"):
            shown["user"] = shown["user"].partition("!")[0]
            return shown
        shown.pop("tokenid", None)
        return {**shown, "status": "RUNNING", "saved": "0"}

    async def _task_list(self, request: web.Request) -> web.Response:
        """With the filters that the real list has: source, typefilter, since, until, errors."""
        node, user = request.match_info["node"], request[USER]
        p = self._verify(request, await params(request))
        audit = self.allowed(user, "/nodes/" + node, "Sys.Audit")
        source = p.get("source", "archive")
        found = []
        for task in self.tasklog:
            running = task["status"] == "running"
            if task["node"] != node or not (audit or self._task_owner(user, task)):
                continue
            if (source == "archive" and running) or (source == "active" and not running):
                continue
            if p.get("vmid") is not None and task["id"] != str(p["vmid"]):
                continue
            if p.get("typefilter") and task["type"] != p["typefilter"]:
                continue
            if task["starttime"] < int(p.get("since") or 0) or task["starttime"] > int(p.get("until") or 2**40):
                continue
            if p.get("errors") and task.get("exitstatus") in (None, "OK"):
                continue
            found.append(self._task_view(task, True))
        found.sort(key=lambda task: (-task["starttime"], -task["pid"]))
        start = int(p.get("start") or 0)
        return web.json_response({"data": found[start : start + int(p.get("limit") or 50)], "total": len(found)})

    def _get_task(self, request: web.Request) -> Values:
        """Whose task it is comes before whether there is one."""
        upid = request.match_info["upid"]
        match = re.fullmatch(r"UPID:([^:/]+):[0-9A-F]{8}:[0-9A-F]{8}:[0-9A-F]{8}:([^:\s]+):([^:\s/]*):([^:\s]+):", upid)
        if match is None:
            raise PveError(400, "Parameter verification failed.", {"upid": "unable to parse worker upid"})
        if not self._task_owner(request[USER], {"user": match[4]}):
            self.require(request[USER], "/nodes/" + match[1], "Sys.Audit")
        task: Values | None = self.tasks.get(upid)
        if task is None:
            raise PveError(400, "Parameter verification failed.", {"upid": "no such task"})
        return task

    async def _task_log(self, request: web.Request) -> web.Response:
        """``limit=0`` means all lines. A task that never was has a log of one line."""
        p = self._verify(request, await params(request))
        try:
            lines = self._get_task(request)["log"]
        except PveError as wrong:
            if (wrong.errors or {}).get("upid") != "no such task":
                raise
            lines = ["unable to open file - No such file or directory"]
        start, limit = int(p.get("start") or 0), int(p["limit"]) if p.get("limit") is not None else 50
        numbered = [{"n": n + 1, "t": line} for n, line in enumerate(lines)]
        shown = numbered[start:] if limit == 0 else numbered[start : start + limit]
        return web.json_response({"data": shown, "total": len(lines)})

    def kill_worker(self, upid: str) -> None:
        """The worker of a running task dies: what it had done stays, and nobody says how far it got."""
        record = self.tasks[upid]
        record["killed"] = True
        assert self._loop is not None
        self._loop.call_soon_threadsafe(record["worker"].cancel)

    # -- status, configuration, resize, power of VMs -----------------------------------------------------------------

    def _vm_status(self, vm: LabVm, listing: bool = False) -> Values:
        data: Values = super()._vm_status(vm, listing)
        if vm.status == "running":
            data["pid"] = vm.qemu_pid
            if not listing:
                data["balloon"] = (vm.ballooned * MIB) if vm.ballooned else data["maxmem"]
        return data

    async def _config_get(self, request: web.Request) -> web.Response:
        vm = self._vm(request, "VM.Audit")
        p = self._verify(request, await params(request))
        if p.get("snapshot"):
            if p["snapshot"] not in vm.snapshots:
                raise PveError(500, f"snapshot '{p['snapshot']}' does not exist")
            shown = dict(vm.snapshots[p["snapshot"]])
        else:
            shown = dict(vm.config)
            if not p.get("current"):
                for key, value in vm.pending.items():
                    if value is None:
                        shown.pop(key, None)
                    else:
                        shown[key] = value
        if "memory" in shown:
            shown["memory"] = str(shown["memory"])
        shown["digest"] = vm.digest()
        return ok(shown)  # type: ignore[no-any-return]

    async def _apply_config(self, vm: LabVm, user: str, p: Values) -> None:
        updates = dict(p)
        updates.pop("background_delay", None)
        reverts = [key for key in re.split(r"[,; ]+", str(updates.pop("revert", "") or "")) if key]
        self._check_update(vm, user, {k: x for k, x in updates.items() if k not in ("node", "vmid")}, reverts)
        if updates.get("digest") and updates["digest"] != vm.digest():
            raise PveError(500, "checksum mismatch (file change by other user?)")
        updates.pop("digest", None)
        deletes = [key for key in re.split(r"[,; ]+", str(updates.get("delete") or "")) if key]
        for key in [*reverts, *deletes, *(k for k in updates if k not in ("delete", "skiplock"))]:
            priv = self._config_priv(key)
            if priv != "root" and "media=cdrom" not in str(updates.get(key, "")):
                self.require(user, f"/vms/{vm.vmid}", priv)
        self._check_lock(vm)
        for key in {"cores", "sockets", "vcpus"} & set(updates):
            updates[key] = int(updates[key])
        memory = int(updates.get("memory") or vm.pending.get("memory") or vm.config.get("memory", 512))
        if updates.get("balloon") and int(updates["balloon"]) > memory:
            raise PveError(500, "balloon value too large (must be smaller than assigned memory)")
        for key in reverts:
            vm.pending.pop(key, None)
        if updates:
            await super()._apply_config(vm, user, updates)
        if vm.status == "running" and "balloon" in vm.pending:
            # A target for memory that the machine has already is set at once, and taken away at once.
            target = vm.pending.pop("balloon")
            if target is None:
                vm.config.pop("balloon", None)
                vm.ballooned = None
            else:
                vm.config["balloon"] = target
                vm.ballooned = int(target) if int(target) < int(vm.config.get("memory", 512)) else None
        for key, value in list(vm.pending.items()):
            same = key not in vm.config if value is None else key in vm.config and str(vm.config[key]) == str(value)
            if same:
                del vm.pending[key]

    def _check_update(self, vm: LabVm, user: str, updates: Values, reverts: list[str]) -> None:
        """What is refused whoever asks: nothing at all, what only root may set, an option that there is not."""
        if updates.get("skiplock") and user != "root@pam":
            raise PveError(400, "Parameter verification failed.", {"skiplock": "Only root may use this option."})
        if not set(updates) - {"digest"} and not reverts:
            raise PveError(500, "no options specified")
        for key in ("affinity", "hugepages", "lock", "args", "hookscript"):
            if key in updates and user != "root@pam":
                raise PveError(500, f"only root can set '{key}' config")
        from fakepve import schema

        known = schema.load().paths["/nodes/{node}/qemu/{vmid}/config"]["PUT"]["parameters"]["properties"]
        for key in reverts:
            if key not in known and re.sub(r"\d+$", "[n]", key) not in known:
                raise PveError(400, "Parameter verification failed.", {"revert": f"unknown option '{key}'"})

    def _may_configure(self, user: str, vmid: int, *privileges: str) -> None:
        """Before anything else is looked at, one of these rights is needed."""
        wanted = [f"VM.Config.{name}" for name in privileges]
        if user != "root@pam" and not self.rights(user, f"/vms/{vmid}") & set(wanted):
            raise PveError(403, f"Permission check failed (/vms/{vmid}, {'|'.join(wanted)})")

    async def _config_put(self, request: web.Request) -> web.Response:
        self._may_configure(request[USER], int(request.match_info["vmid"]), *VM_CONFIG)
        shown: web.Response = await super()._config_put(request)
        return shown

    async def _config_post(self, request: web.Request) -> web.Response:
        """As a task, whose log says what was asked for."""
        self._may_configure(request[USER], int(request.match_info["vmid"]), *VM_CONFIG)
        p = self._verify(request, await params(request))
        shown: web.Response = await super()._config_post(request)
        asked = " ".join(f"-{k} {x}" for k, x in p.items() if k not in ("node", "vmid", "digest", "background_delay"))
        upid = json.loads(shown.text or "{}")["data"]
        self.tasks[upid]["log"].insert(0, f"update VM {request.match_info['vmid']}: {asked}")
        return shown

    async def _pending(self, request: web.Request) -> web.Response:
        """With the digest, as a row of its own."""
        vm = self._vm(request, "VM.Audit")
        shown = json.loads((await super()._pending(request)).text or "{}")["data"]
        for row in shown:
            if row["key"] == "memory":
                row |= {key: str(row[key]) for key in ("value", "pending") if key in row}
        return ok([*shown, {"key": "digest", "value": vm.digest()}])  # type: ignore[no-any-return]

    async def _lxc_config_put(self, user: str, v: Values) -> Any:
        if user != "root@pam" and not self.rights(user, f"/vms/{v['vmid']}") & {f"VM.Config.{x}" for x in CT_CONFIG}:
            wanted = "|".join(f"VM.Config.{x}" for x in CT_CONFIG)
            raise PveError(403, f"Permission check failed (/vms/{v['vmid']}, {wanted})")
        return await super()._lxc_config_put(user, v)

    async def _lxc_pending(self, user: str, v: Values) -> Any:
        rows = await super()._lxc_pending(user, v)
        return [*rows, {"key": "digest", "value": self._find_ct(v["node"], v["vmid"]).digest()}]

    def _routes_lab(self) -> list[tuple[str, str, Any]]:
        qemu, lxc, node = "/nodes/{node}/qemu/{vmid}", "/nodes/{node}/lxc/{vmid}", "/nodes/{node}"
        return [
            ("PUT", qemu + "/resize", self._qm_resize),
            ("GET", qemu + "/feature", self._feature),
            ("GET", lxc + "/feature", self._feature),
            ("POST", node + "/vzdump", self._vzdump),
            ("GET", node + "/vzdump/extractconfig", self._extract_config),
            ("GET", node + "/status", self._node_status),
            ("GET", node + "/disks/lvmthin", self._lvmthin),
            ("GET", node + "/time", self._node_time),
            ("GET", node + "/dns", self._node_dns),
            ("GET", node + "/vzdump/defaults", self._vzdump_defaults),
            ("GET", node + "/network", self._network),
        ]

    async def _qm_resize(self, v: Values, user: str) -> str:
        self.need_quorum()

        async def body() -> str | None:
            vm = self.vm(int(v["vmid"]))
            if vm is None or vm.node != v["node"]:
                raise TaskError(f"Configuration file 'nodes/{v['node']}/qemu-server/{v['vmid']}.conf' does not exist")
            if v.get("digest") and v["digest"] != vm.digest():
                raise TaskError("checksum mismatch (file change by other user?)")
            if vm.lock:
                raise TaskError(f"VM is locked ({vm.lock})")
            if v["disk"] not in vm.config:
                raise TaskError(f"disk '{v['disk']}' does not exist")
            volume, options = split_drive(vm.config[v["disk"]])
            if options.get("media") == "cdrom":
                raise TaskError("you can't resize a cdrom")
            storage = volume.split(":")[0]
            if not self.allowed(user, "/storage/" + storage, "Datastore.AllocateSpace"):
                raise TaskError(f"403 Permission check failed (/storage/{storage}, Datastore.AllocateSpace)")
            old = parse_size(options.get("size", "0")) or 0
            text = str(v["size"])
            new = (parse_size(text.lstrip("+")) or 0) + (old if text.startswith("+") else 0)
            if new < old:
                raise TaskError("shrinking disks is not supported")
            if new == old:
                return None
            options["size"] = format_size(new)
            vm.config[v["disk"]] = join_drive(volume, options)
            return "Image resized." if vm.wanted != "running" and volume.endswith(".qcow2") else None

        return await self.task(v["node"], "resize", v["vmid"], user, body, vm=self.vm(int(v["vmid"])))

    async def _feature(self, v: Values, user: str) -> Values:
        guest = self.guest(int(v["vmid"]))
        if guest is None:
            raise PveError(500, f"Configuration file 'nodes/{v['node']}/lxc/{v['vmid']}.conf' does not exist")
        has = self._can_snapshot(guest) if v["feature"] == "snapshot" else False
        return {"hasFeature": int(has), **({"nodes": [guest.node]} if isinstance(guest, LabVm) else {})}

    def _can_snapshot(self, guest: Any) -> bool:
        """Every mount point's volume has to support it, so one folder of the host forbids it."""
        if isinstance(guest, LabVm):
            return bool(self._qm_can_snapshot(guest.config))
        for key, value in guest.config.items():
            if re.fullmatch(r"rootfs|mp\d+", key):
                volume = parse_mount(value).get("volume", "")
                store = self.storages.get(volume.split(":")[0], {})
                if mount_type(volume) != "volume" or store.get("type") not in ("lvmthin", "zfspool", "rbd", "btrfs"):
                    return False
        return True

    def _check_start(self, vm: LabVm) -> None:
        """What kvm's command line is refused for."""
        wanted = {**vm.config, **{k: x for k, x in vm.pending.items() if x is not None}}
        for key in [k for k, x in vm.pending.items() if x is None]:
            wanted.pop(key, None)
        cores = int(wanted.get("cores", 1)) * int(wanted.get("sockets", 1))
        memory = int(wanted.get("memory", 512))
        if memory > self.largest_start_mb:
            raise TaskError("start failed: QEMU exited with code 1: cannot set up guest memory 'pc.ram': Cannot allocate memory")
        if cores > self.threads:
            raise TaskError(f"MAX {self.threads} vcpus allowed per VM on this node")
        if int(wanted.get("vcpus") or 0) > cores:
            raise TaskError(f"you can't add more vcpus than maxcpus ({cores})")
        nodes = [str(x) for k, x in wanted.items() if re.fullmatch(r"numa\d+", k)]
        total = sum(int(m[1]) for x in nodes if (m := re.search(r"memory=(\d+)", x)))
        if nodes and total != memory:
            raise TaskError("total memory for NUMA nodes must be equal to vm static memory")

    async def _do_start(self, vm: LabVm, user: str, p: Values) -> Any:
        async def inner(body: Any) -> Any:
            self._check_start(vm)
            return await body()

        return await self._with_body(lambda: FakePve._do_start(self, vm, user, p), inner)

    async def _powerdown(self, vm: LabVm, p: Values) -> Any:
        """Whoever gives up after a number of seconds counts looks that take a little longer than that."""
        timeout = int(p.get("timeout") or self.shutdown_default_timeout)
        if not vm.acpi or vm.shutdown_secs > timeout:
            await self.pause(max(0.5, timeout / 150))
        return await super()._powerdown(vm, p)

    async def _do_reboot(self, vm: LabVm, user: str, p: Values) -> Any:
        """Ends when the guest is down; the host then starts it again by itself, as a task of its own."""
        self._need_running(vm)

        async def body() -> Any:
            if vm.lock:
                raise TaskError(f"VM is locked ({vm.lock})")
            if vm.wanted != "running":
                return None
            return await self._powerdown(vm, p)

        return await self.task(vm.node, "qmreboot", vm.vmid, user, body, vm=vm)

    async def _ha_request(self, vm: Any, user: str, state: str) -> Any:
        upid = await super()._ha_request(vm, user, state)
        self._later(self._ha_follow(vm, state))
        return upid

    async def _ct_ha(self, ct: Any, user: str, state: str, timeout: Any = None) -> Any:  # noqa: ASYNC109
        upid = await super()._ct_ha(ct, user, state, timeout)
        self._later(self._ha_follow(ct, state))
        return upid

    async def _ha_follow(self, guest: Any, state: str) -> None:
        """HA acts after its request's task has ended."""
        want = "running" if state == "started" else "stopped"
        for _ in range(1000):
            if guest.wanted == want:
                break
            await asyncio.sleep(0.01)
        await self._follow(guest.vmid, hard=False)

    #: Seconds (of the lab's time) in which a VM that was started has no agent that answers.
    agent_boot_seconds = 15.0

    def _still_boots(self, vm: LabVm) -> bool:
        return time.monotonic() - vm.powered_at < self.agent_boot_seconds * self.time_scale

    # -- the guest agent ---------------------------------------------------------------------------------------------

    async def _agent_call(self, match: Any, values: Values) -> Any:
        vm = self.find(values["node"], values["vmid"])
        command = match.template.rsplit("/", 1)[1]
        if vm.status != "running":
            raise PveError(500, f"VM {vm.vmid} is not running")
        if str(vm.config.get("agent", "0")).split(",")[0].split("=")[-1] != "1":
            raise PveError(500, "No QEMU guest agent configured")
        inside, machine = vm.refresh(), self.machines.get(vm.vmid)
        if inside is None or (machine is not None and not machine.running) or self._still_boots(vm):
            raise PveError(500, "QEMU guest agent is not running")
        vm.agent = vm.agent if vm.agent is not None else {}
        if command == "info" and inside.exec_blocked:
            answer = await super()._agent_call(match, values)
            for entry in answer["result"]["supported_commands"]:
                entry["enabled"] = not entry["name"].startswith("guest-exec")
            return answer
        if command in ("exec", "exec-status") and inside.exec_blocked:
            raise PveError(500, f"VM {vm.vmid} qmp command 'guest-{command}' failed - Command guest-{command} has been disabled")
        if command == "file-read":
            if inside.files_blocked:
                raise PveError(
                    500, f"VM {vm.vmid} qmp command 'guest-file-open' failed - Command guest-file-open has been disabled"
                )
            text = inside.read_file(str(values["file"]))
            if text is None:
                said = f"failed to open file '{values['file']}' (mode: 'r'): No such file or directory"
                raise PveError(500, f"Agent error: {said}")
            return {"content": text}
        if command == "exec":
            argv = [str(word) for word in ([values["command"]] if isinstance(values["command"], str) else values["command"])]
            code, out, err = inside.run(argv)
            if code == 127 and err.startswith("Failed to execute child process"):
                # The agent's message has quotation marks that the proxy in front of it breaks on.
                raise PveError(596, "Broken pipe")
            vm.agent_pid += 1
            told: Values = {"exited": 1, "exitcode": code}
            for name, text in (("out", out), ("err", err)):
                told |= {f"{name}-data": text, f"{name}-truncated": 0} if text else {}
            # What changes a disk takes a moment; who asks at once hears that it runs.
            slow = any(word.endswith("growpart") for word in argv[:5]) and "--dry-run" not in argv
            vm.agent_execs[vm.agent_pid] = [{"exited": 0}, told] if slow else [told]
            return {"pid": vm.agent_pid}
        if command == "exec-status":
            # How a program ended is told once; then its number means nothing any more.
            left = vm.agent_execs.get(values["pid"])
            if not left:
                raise PveError(500, "Agent error: Invalid parameter 'pid'")
            return left.pop(0)
        own = {
            "get-vcpus": inside.vcpus,
            "get-memory-blocks": inside.memory_blocks,
            "get-memory-block-info": lambda: {"size": inside.memory_block_size()},
            "get-fsinfo": inside.filesystems,
            "network-get-interfaces": inside.interfaces,
        }.get(command)
        return {"result": own()} if own is not None else await super()._agent_call(match, values)

    # -- snapshots: the machine's folder and the inside come along --------------------------------------------------

    @staticmethod
    async def _with_body(start: Callable[[], Any], inner: Callable[[Any], Any]) -> Any:
        """Start a task of the base class whose body is wrapped by `inner`."""
        mark = _WRAPPER.set(inner)
        try:
            return await start()
        finally:
            _WRAPPER.reset(mark)

    async def _save(self, vmid: int, name: str) -> None:
        machine, guest = self.machines.get(vmid), self.guest(vmid)
        if machine is not None:
            await self._elsewhere(machine.save, self.guest_folder(vmid, name))
        if isinstance(guest, LabVm):
            guest.guest_snapshots[name] = copy.deepcopy(guest.guest_os)

    async def _qm_snapshot(self, v: Values, user: str) -> Any:
        async def inner(body: Any) -> Any:
            await body()
            await self._save(int(v["vmid"]), v["snapname"])
            vm = self.find(v["node"], v["vmid"])
            drives = [key for key in sorted(vm.config) if re.fullmatch(r"(scsi|virtio|sata|ide)\d+", key)]
            return "\n".join(f"snapshotting 'drive-{key}' ({split_drive(vm.config[key])[0]})" for key in drives)

        return await self._with_body(lambda: FakePve._qm_snapshot(self, v, user), inner)

    async def _lxc_snapshot(self, user: str, v: Values) -> Any:
        ct = self._find_ct(v["node"], v["vmid"])

        async def inner(body: Any) -> Any:
            if not self._can_snapshot(ct):
                raise TaskError("snapshot feature is not available")
            note = await body()
            await self._save(ct.vmid, v["snapname"])
            return note

        return await self._with_body(lambda: FakePve._lxc_snapshot(self, user, v), inner)

    async def _roll(self, vmid: int, name: str, body: Any) -> Any:
        """The guest is cut off first; its files become the snapshot's; then it may start."""
        guest, machine = self.guest(vmid), self.machines.get(vmid)
        if name in guest.snapshots and not guest.lock and machine is not None:
            guest.status = "stopped"
            await self._elsewhere(machine.stop, hard=True)
        note = await body()
        saved = self.guest_folder(vmid, name)
        if machine is not None and saved.exists():
            await self._elsewhere(machine.restore, saved)
        if isinstance(guest, LabVm) and name in guest.guest_snapshots:
            guest.guest_os = copy.deepcopy(guest.guest_snapshots[name])
        return note

    async def _qm_rollback(self, v: Values, user: str) -> Any:
        """Ends when the disks are back; the start is a task of its own, which may fail."""
        vmid = int(v["vmid"])
        vm = self.find(v["node"], vmid)
        if v.get("start"):
            self.require(user, f"/vms/{vmid}", "VM.PowerMgmt")

        async def inner(body: Any) -> Any:
            note = await self._roll(vmid, v["snapname"], body)
            vm.starts_after = user if v.get("start") else None
            return note

        return await self._with_body(lambda: FakePve._qm_rollback(self, {**v, "start": 0}, user), inner)

    async def _lxc_rollback(self, user: str, v: Values) -> Any:
        vmid = int(v["vmid"])
        self._find_ct(v["node"], vmid)
        return await self._with_body(
            lambda: FakePve._lxc_rollback(self, user, v), lambda body: self._roll(vmid, v["snapname"], body)
        )

    # -- vzdump, archives, restore -----------------------------------------------------------------------------------

    def archive(self, volid: str) -> Path:
        """The file of a backup volume."""
        storage, _, name = volid.partition(":")
        return self.folder / "storage" / storage / name

    async def _vzdump(self, v: Values, user: str) -> str:
        wanted = [int(x) for x in re.split(r"[,; ]+", str(v.get("vmid") or "")) if x]
        if not wanted and not v.get("all") and not v.get("pool"):
            raise PveError(400, "Parameter verification failed.", {"vmid": "property is missing"})
        storage = v.get("storage") or "local"
        path = "/storage/" + storage
        if user != "root@pam":
            for name in ("dumpdir", "tmpdir", "script", "job-id"):
                if v.get(name):
                    raise PveError(400, "Parameter verification failed.", {name: "Only root may set this option."})
            for name in ("bwlimit", "performance", "ionice"):
                if v.get(name) and not self.allowed(user, "/", "Sys.Modify"):
                    raise PveError(403, "Permission check failed (/, Sys.Modify)")
        if v.get("prune-backups") and not self.allowed(user, path, "Datastore.Allocate"):
            raise PveError(403, f"Permission check failed ({path}, Datastore.Allocate)")
        if not self.allowed(user, path, "Datastore.AllocateSpace"):
            raise PveError(403, f"Permission check failed ({path}, Datastore.AllocateSpace)")
        named = [(m[1], m.start()) for m in re.finditer(r"{{(.*?)}}", v.get("notes-template") or "")]
        if unknown := [f"variable '{word}' at char {at + 4}\n" for word, at in named if word not in NOTE_WORDS]:
            raise PveError(400, "Parameter verification failed.", {"notes-template": f"found unknown: {''.join(unknown)}"})
        self.need_quorum()
        here = [x for x in wanted if (g := self.guest(x)) is None or g.node == v["node"]]
        if not here:
            return "OK"
        asked = {"node": v["node"], "storage": storage} | {
            k: x for k, x in v.items() if k in ("mode", "remove", "compress", "protected", "notes-template", "bwlimit")
        }  # fmt: skip
        words = " ".join(f"--{k} {shlex.quote(str(x))}" for k, x in asked.items())
        upid = ""

        async def body() -> None:
            record = self.tasks[upid]
            log = record["log"]
            store = self.storages.get(storage)
            if store is None:
                raise TaskError(f"could not get storage information for '{storage}': storage '{storage}' does not exist")
            if "backup" not in str(store.get("content", "")).split(","):
                why = f"can't use storage '{storage}' for backups - wrong content type"
                raise TaskError(f"could not get storage information for '{storage}': {why}")
            if self._vzdump_lock.locked():
                log.append("INFO: trying to get global lock - waiting...")
            async with self._vzdump_lock:
                if log:
                    log.append("INFO: got global lock")
                log.append(f"INFO: starting new backup job: vzdump {' '.join(map(str, here))} {words}")
                # Whether the guests may be backed up is looked at by the worker only.
                for vmid in here:
                    if self.guest(vmid) is not None and not self.allowed(user, f"/vms/{vmid}", "VM.Backup"):
                        raise TaskError(f"403 Permission check failed (/vms/{vmid}, VM.Backup)")
                failed = [vmid for vmid in here if not await self._dump_one(vmid, v, storage, log, user)]
            log.append("INFO: Backup job finished " + ("with errors" if failed else "successfully"))
            if failed:
                raise TaskError("job errors")

        upid = await self.task(v["node"], "vzdump", here[0] if len(here) == 1 else "", user, body)
        return upid

    def _kept(self, storage: str, vmid: int, *, protected: bool) -> list[Values]:
        return [
            entry for entry in self.storages[storage].get("volumes", {}).values()
            if entry.get("content") == "backup" and entry.get("vmid") == vmid and bool(entry.get("protected")) == protected
        ]  # fmt: skip

    def _too_many(self, vmid: int, v: Values, storage: str, user: str) -> str | None:
        """Why a storage takes no more backups of a guest; None where it does."""
        store, unlimited = self.storages[storage], self.allowed(user, f"/storage/{storage}", "Datastore.Allocate")
        if v.get("protected"):
            most = int(store.get("max-protected-backups", -1 if unlimited else 5))
            if 0 <= most <= len(self._kept(storage, vmid, protected=True)):
                return f"The number of protected backups per guest is limited to {most} on storage '{storage}'"
            return None
        keep = re.search(r"keep-last=(\d+)", str(store.get("prune-backups", "")))
        if keep and not int(v.get("remove", 1)) and len(self._kept(storage, vmid, protected=False)) >= int(keep[1]):
            return (
                f"There is a max backup limit of {keep[1]} enforced by the target storage or the vzdump parameters. "
                "Either increase the limit or delete old backups."
            )
        return None

    async def _dump_one(self, vmid: int, v: Values, storage: str, log: list[str], user: str) -> bool:
        def now() -> str:
            return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.clock()))

        def failed(why: str) -> bool:
            log.append(f"ERROR: Backup of VM {vmid} failed - {why}")
            log.append(f"INFO: Failed at {now()}")
            return False

        guest = self.guest(vmid)
        if guest is None:
            return failed(f"unable to find VM '{vmid}'")
        if why := self._too_many(vmid, v, storage, user):
            return failed(why)
        container = not isinstance(guest, LabVm)
        kind = "CT" if container else "VM"
        log.append(f"INFO: Starting Backup of VM {vmid} ({'lxc' if container else 'qemu'})")
        log.append(f"INFO: Backup started at {now()}")
        was_running = guest.wanted == "running"
        log.append(f"INFO: status = {'running' if was_running else 'stopped'}")
        if guest.lock:
            return failed(f"{kind} is locked ({guest.lock})")
        mode = v.get("mode") or "snapshot"
        if mode == "stop" and guest.ha_managed and was_running:
            return failed("Cannot execute a backup with stop mode on a HA managed guest")
        mode = mode if was_running else "stop"
        left_out, named = self._mounts_of(guest)
        if mode == "snapshot" and container and not self._can_snapshot(guest):
            log += [f"INFO: {kind} Name: {guest.name}", *(line for line in named if "excluding" not in line)]
            log += ["INFO: mode failure - some volumes do not support snapshots", "INFO: trying 'suspend' mode instead"]
            mode = "suspend"
        log.append(f"INFO: backup mode: {mode}")
        if v.get("bwlimit"):
            log.append(f"INFO: bandwidth limit: {v['bwlimit']} KiB/s")
        log += ["INFO: ionice priority: 7", f"INFO: {kind} Name: {guest.name}", *named]
        stamp, used = int(self.clock()), self.storages[storage].get("volumes", {})
        pbs = self.storages[storage].get("type") == "pbs"
        ending = {"zstd": ".zst", "gzip": ".gz", "1": ".lzo", "lzo": ".lzo"}.get(str(v.get("compress") or "0"), "")
        while True:
            if pbs:
                name = f"backup/{'ct' if container else 'vm'}/{vmid}/{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(stamp))}"
            else:
                day = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(stamp))
                name = f"backup/vzdump-{'lxc' if container else 'qemu'}-{vmid}-{day}.{'tar' if container else 'vma'}{ending}"
            if name not in used:
                break
            stamp += 1
        made = f"/var/lib/vz/dump/{name.split('/', 1)[1]}"
        guest.lock = "backup"
        guest.config["lock"] = "backup"
        machine = self.machines.get(vmid)
        try:
            if mode == "stop" and was_running:
                log.append("INFO: stopping virtual guest")
                if machine is not None:
                    await self._elsewhere(machine.stop)
            if mode == "suspend":
                await self._first_sync(guest, log, made)
            log.append(f"INFO: creating {'Proxmox Backup Server' if pbs else 'vzdump'} archive '{name[7:] if pbs else made}'")
            await self.pause(5)
            size = await self._elsewhere(self._write_archive, guest, self.archive(f"{storage}:{name}"), left_out)
            size = (size + 511) // 512 * 512
            room = self.storages[storage].get("room")
            if room is not None and size > room:
                self.archive(f"{storage}:{name}").unlink(missing_ok=True)
                log.append("INFO: zstd: error 70 : Write error : cannot write block : No space left on device ")
                return failed(
                    _TAR.format(temporary=made.split(".", maxsplit=1)[0] + ".tmp", archive=made.replace(ending, ".dat"))
                )
        finally:
            guest.lock = None
            guest.config.pop("lock", None)
            if mode == "stop" and was_running and machine is not None:
                await self._elsewhere(machine.start)
        if pbs:
            log += [
                f"INFO: root.pxar: had to backup {size / MIB:.3f} MiB of {size / MIB:.3f} MiB (compressed {size / MIB:.3f} MiB) in 0.5s",
                "INFO: Duration: 0.6s",
            ]  # fmt: skip
        else:
            log.append(f"INFO: Total bytes written: {size} ({size / MIB:.1f}MiB, 400MiB/s)")
            log.append(f"INFO: archive file size: {max(1, size // MIB)}MB")
        note = str(v.get("notes-template") or "").replace("\\n", "\n")
        for key, value in {"vmid": vmid, "guestname": guest.name, "node": guest.node, "cluster": self.cluster_name}.items():
            note = note.replace("{{" + key + "}}", str(value))
        entry: Values = {
            "content": "backup", "format": f"pbs-{'ct' if container else 'vm'}" if pbs else name.split(".", 1)[1], "size": size,
            "vmid": vmid, "ctime": stamp, "subtype": "lxc" if container else "qemu",
        }  # fmt: skip
        if note:
            entry["notes"] = note
            log.append("INFO: adding notes to backup")
        if v.get("protected"):
            entry["protected"] = True
            log.append("INFO: marking backup as protected")
        self.storages[storage].setdefault("volumes", {})[name] = entry
        if int(v.get("remove", 1)):
            self._prune(storage, vmid, log)
        if mode == "stop" and was_running:
            log.append("INFO: restarting vm")
        log += [f"INFO: Finished Backup of VM {vmid} (00:00:01)", f"INFO: Backup finished at {now()}"]
        return True

    def _mounts_of(self, guest: Any) -> tuple[list[str], list[str]]:
        """(paths that a backup leaves out, lines of the log about every mount point)."""
        left_out, said = [], []
        mounts = [k for k in guest.config if not isinstance(guest, LabVm) and re.fullmatch(r"rootfs|mp\d+", k)]
        for key in sorted(mounts, key=lambda k: (k != "rootfs", k)):
            mount = parse_mount(guest.config[key])
            kind, where = mount_type(mount.get("volume", "")), mount.get("mp", "/")
            if key == "rootfs" or (kind == "volume" and str(mount.get("backup", "0")) == "1"):
                said.append(f"INFO: including mount point {key} ('{where}') in backup")
            else:
                why = "disabled" if kind == "volume" else "not a volume"
                said.append(f"INFO: excluding {kind} mount point {key} ('{where}') from backup ({why})")
                left_out.append(where)
        return left_out, said

    async def _first_sync(self, guest: Any, log: list[str], made: str) -> None:
        """Mode suspend: copied while it runs, then frozen for the rest."""
        folder, pid = made.split(".", maxsplit=1)[0] + ".tmp", getattr(guest, "pid", None) or 4242
        log.append(f"INFO: starting first sync /proc/{pid}/root/ to {folder}")
        await self.pause(5)
        log += [
            "INFO: first sync finished - transferred 2.28M bytes in 0s", "INFO: suspending guest",
            f"INFO: starting final sync /proc/{pid}/root/ to {folder}",
            "INFO: final sync finished - transferred 0 bytes in 0s", "INFO: resuming guest",
            "INFO: guest is online again after <1 seconds",
        ]  # fmt: skip

    def _prune(self, storage: str, vmid: int, log: list[str]) -> None:
        """`remove` is on unless switched off: older unprotected backups go by the storage's keep-last."""
        keep = re.search(r"keep-last=(\d+)", str(self.storages[storage].get("prune-backups", "")))
        if keep is None:
            return
        log.append(f"INFO: prune older backups with retention: keep-last={keep[1]}")
        mine = [
            (entry["ctime"], name)
            for name, entry in self.storages[storage]["volumes"].items()
            if entry.get("content") == "backup" and entry.get("vmid") == vmid and not entry.get("protected")
        ]
        gone = sorted(mine)[: -int(keep[1]) or None]
        for _, name in gone:
            del self.storages[storage]["volumes"][name]
            self.archive(f"{storage}:{name}").unlink(missing_ok=True)
            log.append(f"INFO: removing backup '{storage}:{name}'")
        log.append(f"INFO: pruned {len(gone)} backup(s)" + (" not covered by keep-retention policy" if gone else ""))

    def _write_archive(self, guest: Any, path: Path, left_out: list[str]) -> int:
        """A tar of the machine's folder with the configuration (and the firewall rules) inside, as vzdump does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = self.machines.get(guest.vmid)
        conf = {k: x for k, x in guest.config.items() if k not in ("lock", "parent")}
        head = self.folder / "dumping" / str(guest.vmid)
        kept = head / "etc" / "vzdump"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "pct.conf").write_text(_as_conf(conf))
        (kept / "pct.fw").write_text(json.dumps(self._fw()["guests"].get(guest.vmid) or {}))
        # Holes stay holes: what a database has reserved and not written would make every archive hundreds of megabytes.
        words = ["tar", "--sparse", "-cf", str(path), "-C", str(head), "./etc/vzdump"]
        try:
            if machine is None or not machine.root.exists():
                subprocess.run(words, check=True, capture_output=True, timeout=120)
            else:
                skipped = [f"--exclude=./{where.strip('/')}" for where in [*left_out, "etc/vzdump"] if where.strip("/")]
                with machine.frozen():
                    subprocess.run(
                        [*words, "--anchored", *skipped, "-C", str(machine.root), "."],
                        check=True,
                        capture_output=True,
                        timeout=120,
                    )
        finally:
            shutil.rmtree(head, ignore_errors=True)
        return path.stat().st_size

    def _read_archive(self, volid: str) -> tuple[Values, Values]:
        """(configuration, firewall) in an archive; TaskError where it cannot be read."""
        try:
            with tarfile.open(self.archive(volid)) as tar:
                conf = tar.extractfile("./etc/vzdump/pct.conf")
                rules = tar.extractfile("./etc/vzdump/pct.fw")
                assert conf is not None and rules is not None
                return _from_conf(conf.read().decode()), json.loads(rules.read())
        except (tarfile.TarError, OSError, KeyError, EOFError, ValueError) as error:
            raise TaskError(f"unable to extract config from archive '{volid}' - {error}") from error

    def _parse_volname(self, store: Values, volname: str) -> Any:
        """A Proxmox Backup Server names a snapshot by kind, guest and time."""
        made = re.fullmatch(r"backup/(vm|ct)/(\d+)/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", volname)
        if store.get("type") != "pbs":
            return super()._parse_volname(store, volname)
        if made is None:
            raise PveError(500, f"unable to parse PBS volume name '{volname}'")
        return "backup", int(made[2]), f"pbs-{made[1]}"

    async def _extract_config(self, v: Values, user: str) -> str:
        sid, _volname, volid, _store, vtype, owner, _fmt = self._volume_target({"volume": v["volume"]})
        self._check_access(user, sid, vtype, owner, volid)
        if _volname not in self.storages[sid].get("volumes", {}):
            raise PveError(500, f"volume '{volid}' does not exist")
        try:
            config, _ = self._read_archive(volid)
        except TaskError as error:
            raise PveError(500, str(error)) from error
        return _as_conf(config)

    async def _content_info(self, v: Values, user: str) -> Any:
        found = await super()._content_info(v, user)
        if not found["size"]:
            raise PveError(500, f"volume '{v['volume']}' has size zero")
        if "format" in found and str(found["path"]).endswith((".tar", ".zst", ".gz", ".lzo")):
            found["format"] = "raw"
        return found

    def _item(self, name: str, volname: str, vol: Values) -> Values:
        """With the kind of guest; a note's first line; whether it is protected only where it is."""
        shown: Values = super()._item(name, volname, vol)
        if vol.get("content") == "backup":
            shown["subtype"] = vol.get("subtype", "qemu" if "qemu" in volname else "lxc")
        if shown.get("notes"):
            shown["notes"] = str(shown["notes"]).split("\n")[0]
        if not shown.get("protected"):
            shown.pop("protected", None)
        return shown

    async def _content_delete(self, v: Values, user: str) -> Any:
        sid, volname, volid, *_ = self._volume_target(v)

        async def inner(body: Any) -> Any:
            note = await body()
            if volname not in self.storages[sid].get("volumes", {}):
                self.archive(volid).unlink(missing_ok=True)
            return note

        return await self._with_body(lambda: FakePve._content_delete(self, v, user), inner)

    async def _lxc_create(self, user: str, v: Values) -> Any:
        """A restore takes the archive's configuration; anything else is fakepve's."""
        if not v.get("restore"):
            return await FakePve._lxc_create(self, user, v)
        node, vmid, volid = v["node"], int(v["vmid"]), v["ostemplate"]
        self.need_quorum()
        existing = self.ct(vmid)
        if existing is not None and v.get("force"):
            if existing.status == "running":
                raise PveError(500, "can't overwrite running container")
            self._check_protection(existing, f"unable to restore CT {vmid}")
        else:
            self._check_vmid_unused(vmid)
        pool = v.get("pool")
        if pool and pool not in self.pools:
            raise PveError(403, f"Permission check failed (pool '{pool}' does not exist)")
        mine = self.allowed(user, f"/vms/{vmid}", "VM.Allocate")
        mine = mine or bool(pool and self.allowed(user, f"/pool/{pool}", "VM.Allocate"))
        if not (mine or (existing is not None and v.get("force") and self.allowed(user, f"/vms/{vmid}", "VM.Backup"))):
            raise PveError(403, "Permission check failed")
        storage = v.get("storage") or "local"
        self._check_template(user, volid, True)
        self._storage_for(storage, user, vmid)
        sid, _volname, _volid, _store, vtype, owner, _fmt = self._volume_target({"volume": volid})
        self._check_access(user, sid, vtype, owner, volid)
        what = f"unable to restore CT {vmid} -"
        placeholder = LabCt(vmid, f"CT{vmid}", node=node, defaults=False, config={"lock": "create"})
        placeholder.pve = self
        old = existing
        if old is None:
            self.cts.append(placeholder)
        guest = old or placeholder

        async def body() -> None:
            log = self.tasks[upid]["log"]
            log.append(f"recovering backed-up configuration from '{volid}'")
            try:
                if self.volume_exists(volid) is False or not self.archive(volid).exists():
                    raise TaskError(f"volume '{volid}' does not exist")
                config, rules = self._read_archive(volid)
                for key, value in config.items():
                    if re.fullmatch(r"mp\d+", key) and mount_type(parse_mount(value).get("volume", "")) != "volume":
                        raise TaskError(f"restoring '{key}' to bind mount is only possible for root")
                if not config.get("unprivileged") and not self.allowed(user, "/", "Sys.Modify"):
                    raise TaskError("403 Permission check failed (/, Sys.Modify)")
                bridges = re.findall(r"bridge=([\w.-]+)", " ".join(str(x) for k, x in config.items() if k.startswith("net")))
                for bridge in bridges:
                    if not self.allowed(user, f"/sdn/zones/localnetwork/{bridge}", "SDN.Use"):
                        raise TaskError(f"403 Permission check failed (/sdn/zones/localnetwork/{bridge}, SDN.Use)")
                self._log_of_formatting(log, vmid, storage, config)
                log.append(f"restoring '{volid}' now..")
                pbs = self.storages[sid].get("type") == "pbs"
                log += [] if pbs else [f"extracting archive '/var/lib/vz/dump/{volid.rsplit('/', 1)[-1]}'"]
                await self.pause(self.restore_seconds)
                await self._elsewhere(self._unpack, vmid, volid)
            except TaskError as error:
                if old is None:
                    self._drop(placeholder)
                raise TaskError(f"{what} {error}") from error
            size = self.archive(volid).stat().st_size
            log += [] if pbs else [f"Total bytes read: {size} ({size / MIB:.1f}MiB, 400MiB/s)"]
            log.append("merging backed-up and given configuration..")
            taken = self._taken_volumes()
            final: Values = {}
            for key, value in config.items():
                if re.fullmatch(r"rootfs|mp\d+", key):
                    mount = parse_mount(value)
                    mount["volume"] = self._allocate(vmid, storage, taken)
                    final[key] = print_mount(mount, key == "rootfs")
                elif re.fullmatch(r"net\d+", key) and v.get("unique"):
                    final[key] = re.sub(r"hwaddr=[0-9A-Fa-f:]+", "hwaddr=" + random_mac(), str(value))
                elif key == "lxc":
                    # Whoever has a token is not root@pam, also where it is root's.
                    shown = [f"{name}: {what}" for name, what in value]
                    said = "WARN: skipping custom lxc options, restore manually as root:"
                    self.end_next("vzrestore", "WARNINGS: 1", said, "-" * 32, *shown, "-" * 32)
                else:
                    final[key] = value
            final.update({k: x for k, x in v.items() if k in ("hostname", "memory", "cores", "onboot", "description", "net0")})
            guest.config, guest.pending, guest.snapshots = final, {}, {}
            shutil.rmtree(self.folder / "snapshots" / str(vmid), ignore_errors=True)
            if rules:
                self._fw()["guests"][vmid] = rules
            if pool:
                self._pool_join(pool, vmid)
            if v.get("start"):
                await self._start_steps(guest, user)

        upid: str = await self.task(node, "vzrestore", vmid, user, body, vm=guest)
        return upid

    #: How long unpacking an archive takes, in seconds of the lab's time.
    restore_seconds = 5.0

    def _log_of_formatting(self, log: list[str], vmid: int, storage: str, config: Values) -> None:
        """What allocating the volumes says, on a storage of files."""
        if self.storages[storage].get("type") != "dir":
            return
        taken = self._taken_volumes()
        for key, value in config.items():
            if re.fullmatch(r"rootfs|mp\d+", key):
                size = parse_size(parse_mount(value).get("size", "")) or GIB
                name = self._allocate(vmid, storage, taken).split("/")[-1]
                where = self.storages[storage].get("path", "/var/lib/vz")
                log += [
                    f"Formatting '{where}/images/{vmid}/{name}', fmt=raw size={size} preallocation=off",
                    f"Creating filesystem with {size // 4096} 4k blocks and {size // 16384} inodes",
                    f"Filesystem UUID: {uuid.uuid4()}", "Superblock backups stored on blocks: ", "\t32768, 98304, 163840, 229376",
                ]  # fmt: skip

    def _unpack(self, vmid: int, volid: str) -> None:
        """Make the archive's files the machine's: the one that is there, the one that was deleted, or a new one."""
        machine = self.machines.get(vmid) or self._shelf.get(vmid)
        if machine is None:
            machine = Machine(vmid, "lxc", f"restored-{vmid}", "", self.folder / "guests" / str(vmid))
        # New volumes are filled before old ones are freed, so a broken archive costs nothing.
        fresh = self.folder / "restoring" / str(vmid)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            words = ["tar", "--sparse", "-xf", str(self.archive(volid)), "--anchored", "--exclude=./etc/vzdump", "-C", str(fresh)]
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
            if done.returncode:
                raise TaskError(f"command 'tar' failed: exit code {done.returncode} ({done.stderr.strip().splitlines()[-1:]})")
            machine.root.mkdir(parents=True, exist_ok=True)
            machine.erase()
            for entry in fresh.iterdir():
                shutil.move(entry, machine.root / entry.name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        self._shelf.pop(vmid, None)
        if vmid not in self.machines:
            self.machines.add(machine)

    # -- deleting ----------------------------------------------------------------------------------------------------

    async def _lxc_destroy(self, user: str, v: Values) -> Any:
        ct = self._find_ct(v["node"], v["vmid"])
        vmid = ct.vmid
        for job in self.replication.values():
            if int(job["guest"]) == vmid and not v.get("purge"):
                raise PveError(500, f"There is a replication job '{job['id']}' for guest '{vmid}' - Please remove that first.")

        async def inner(body: Any) -> Any:
            for volume in self._owned(ct):
                clone = next((c.vmid for c in self.cts if c is not ct and f"/{volume}/" in f"/{json.dumps(c.config)}/"), None)
                if clone is not None and ct.template:
                    raise TaskError(f"base volume '{volume}' is still in use by linked clones")
            if v.get("purge"):
                log = current["log"]
                log.append(f"purging CT {vmid} from related configurations..")
                log += self._purge(vmid)
            ct.status = "stopped"
            await body()
            if vmid in self.machines:
                machine = self.machines[vmid]
                await self._elsewhere(self.machines.remove, vmid)
                self._shelf[vmid] = machine
            shutil.rmtree(self.folder / "snapshots" / str(vmid), ignore_errors=True)
            self._fw()["guests"].pop(vmid, None)
            self.acl_rows = [row for row in self.acl_rows if row["path"] != f"/vms/{vmid}"]
            if v.get("destroy-unreferenced-disks"):
                for store in self.storages.values():
                    for name, volume in list(store.get("volumes", {}).items()):
                        if volume.get("vmid") == vmid and volume.get("content") in ("images", "rootdir"):
                            del store["volumes"][name]
            self._pool_leave(vmid)
            return None

        if self._sid(ct) in self.ha and not v.get("purge"):
            raise PveError(500, f"unable to remove CT {vmid} - used in HA resources and purge parameter not set.")
        upid = await self._with_body(lambda: FakePve._lxc_destroy(self, user, v), inner)
        current = self.tasks[upid]
        return upid

    @staticmethod
    def _owned(ct: Any) -> list[str]:
        return [mount["volume"].split(":", 1)[-1] for _, mount in ct.volumes()]

    # -- figures of the host -----------------------------------------------------------------------------------------

    def _memory_used(self) -> int:
        running = [guest for guest in self._guests() if guest.wanted == "running"]
        return self.memory_used_by_host + sum(
            int((guest.ballooned if isinstance(guest, LabVm) else None) or guest.config.get("memory", 512)) * MIB
            for guest in running
        )

    def _node_stats(self, online: bool) -> Values:
        if not online:
            return {}
        return {
            "cpu": 0.05, "maxcpu": self.threads, "mem": self._memory_used(), "maxmem": self.memory_total,
            "disk": 8 * GIB, "maxdisk": 64 * GIB, "uptime": 864000,
        }  # fmt: skip

    async def _node_status(self, v: Values, user: str) -> Values:
        used = min(self._memory_used(), self.memory_total)
        available = self.memory_total - used
        return {
            "memory": {"total": self.memory_total, "used": used, "free": available // 2, "available": available},
            "swap": {"total": 8 * GIB, "used": 0, "free": 8 * GIB},
            "ksm": {"shared": 0},
            "cpuinfo": {"cpus": self.threads, "cores": self.threads // 2, "sockets": 1, "model": "lab", "mhz": "3000"},
            "loadavg": ["0.42", "0.40", "0.35"], "cpu": 0.05, "wait": 0.0, "idle": 0, "uptime": 864000,
            "rootfs": {"total": 64 * GIB, "used": 8 * GIB, "avail": 56 * GIB, "free": 56 * GIB},
            "kversion": "Linux 6.14.0-lab", "pveversion": "pve-manager/9.0.10/lab",
            "boot-info": {"mode": "efi"}, "current-kernel": {"sysname": "Linux", "release": "6.14.0-lab"},
        }  # fmt: skip

    async def _network(self, v: Values, user: str) -> list[Values]:
        return [
            {"iface": f"vmbr{n}", "type": "bridge", "active": 1, "autostart": 1, "method": "static", "method6": "manual",
             "families": ["inet"], "address": address, "netmask": "24", "cidr": f"{address}/24", "priority": n}
            for n, address in enumerate(self.addresses)
        ]  # fmt: skip

    async def _node_dns(self, v: Values, user: str) -> Values:
        return {"dns1": self.resolver}

    #: The name server that the node itself asks.
    resolver = "10.255.255.53"

    async def _vzdump_defaults(self, v: Values, user: str) -> Values:
        """What vzdump does unless told otherwise."""
        store = self.storages.get(v.get("storage") or "local", {})
        return {
            "all": 0, "bwlimit": 0, "compress": "0", "dumpdir": f"{store.get('path', '/var/lib/vz')}/dump",
            "fleecing": {"enabled": 0}, "ionice": 7, "lockwait": 180, "mailnotification": "always", "mode": "snapshot",
            "notification-mode": "auto", "storage": v.get("storage") or "local", "performance": {"max-workers": 16,
            "pbs-entries-max": 1048576}, "pigz": 0, "prune-backups": store.get("prune-backups", "keep-all=1"), "quiet": 0,
            "remove": 1, "stdexcludes": 1, "stop": 0, "stopwait": 10, "zstd": 1,
        }  # fmt: skip

    async def _node_time(self, v: Values, user: str) -> Values:
        now = int(self.clock())
        return {"time": now, "localtime": now, "timezone": "UTC"}

    def _space(self, store: Values) -> Any:
        """A thin pool counts what is allocated, not what is promised."""
        if store.get("type") == "lvmthin":
            total, used = store.get("total", 500 * GIB), store.get("allocated", 100 * GIB)
            return total, used, max(total - used, 0)
        return super()._space(store)

    async def _lvmthin(self, v: Values, user: str) -> list[Values]:
        return [
            {"lv": store.get("thinpool", "data"), "vg": store.get("vgname", "pve"), "lv_size": self._space(store)[0],
             "used": self._space(store)[1], "metadata_size": store.get("metadata_size", 4 * GIB),
             "metadata_used": store.get("metadata_used", GIB // 8)}
            for store in self.storages.values() if store.get("type") == "lvmthin"
        ]  # fmt: skip


def _as_conf(config: Values) -> str:
    """A configuration as Proxmox writes it to a file: one `key: value` a line."""
    lines = [(key, value) for key, value in sorted(config.items()) if key != "lxc"]
    return "".join(f"{key}: {str(value).replace(chr(10), '%0A')}\n" for key, value in [*lines, *config.get("lxc", ())])


def _from_conf(text: str) -> Values:
    """The other way round; numbers come back as numbers."""
    found: Values = {}
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        value = value.replace("%0A", "\n")
        if key.startswith("lxc."):
            found.setdefault("lxc", []).append([key, value])
            continue
        found[key] = int(value) if value.isdigit() else value
    return found


def inside(address: str, disk_bytes: int, *, drive: str = "scsi0", cores: int = 4, memory_mb: int = 8192) -> GuestOs:
    """The usual inside of the plan's VM: one disk whose root file system is ext4 and last."""
    return GuestOs([plain_root(disk_bytes, drive=drive)], address=address, cores=cores, memory=memory_mb * MIB)


#: Guests that have nothing to do with the plan and must come out of it as they went in.
NEIGHBOURS = (
    ("lxc", 110, "paperless", 20),
    ("lxc", 954, "archive", 21),
    ("qemu", 200, "homeassistant", 22),
)


def furnish(pve: LabPve, site: Site, *, bridge: str = "vmbr0", user: str = "cutover@pve") -> str:
    """The plan's site on this host: its guests, some neighbours, storages, a job, a pool, and one token per step.

    Sizes are those of site.yaml. Guests whose id has a machine in `pve.machines` have that body; start the machines
    yourself, before or after. Returns the name of a token (its secret is in `pve.apitokens`) that may do every step.
    """
    from cutover.proxmox import privileges

    storages = site.proxmox.storages
    pve.storages.update({
        storages.backup: {"type": "dir", "path": "/var/lib/vz", "content": "backup,iso,vztmpl", "active": 1, "files": set(),
                          "volumes": {}, "total": 400 * GIB, "prune-backups": "keep-last=3"},
        storages.restore: {"type": "lvmthin", "vgname": "pve", "thinpool": "data", "content": "images,rootdir", "active": 1,
                           "files": set(), "volumes": {}, "total": 800 * GIB, "allocated": 120 * GIB},
    })  # fmt: skip

    def net(vmid: int, address: str) -> str:
        where = f"ip={address}/24" if re.fullmatch(r"[0-9.]+", address) else "ip=dhcp"
        return f"name=eth0,bridge={bridge},hwaddr=BC:24:11:00:{vmid // 100:02X}:{vmid % 100:02X},{where},type=veth"

    def container(vmid: int, name: str, address: str, cores: int, memory: int, disk: int, **extra: Any) -> None:
        config = {"cores": cores, "memory": memory, "swap": 512, "onboot": 1,
                  "rootfs": f"{storages.restore}:vm-{vmid}-disk-0,size={disk}G", "net0": net(vmid, address), **extra}  # fmt: skip
        pve.add_ct(vmid, name, status="running", config=config)

    guests = site.guests
    container(guests.nginx.vmid, guests.nginx.name, guests.nginx.address, 2, 1024, 8)
    container(guests.vllm.vmid, guests.vllm.name, guests.vllm.address, 4, 4096, 64)
    container(guests.old.vmid, guests.old.name, guests.old.address, 2, 2048, 32)
    for guest in guests.legacy:
        container(guest.vmid, guest.name, guest.address, 1, 512, 8)
    before = site.resize.before
    vm = pve.add_vm(guests.new.vmid, guests.new.name, status="running", config={
        "cores": before.cores, "sockets": 1, "memory": before.memory_mb, "agent": "1", "boot": f"order={site.resize.disk}",
        "scsihw": "virtio-scsi-single", "ostype": "l26", "onboot": 1, "numa": 0,
        site.resize.disk: f"{storages.restore}:vm-{guests.new.vmid}-disk-0,size={before.disk_gb}G",
        "net0": f"virtio=BC:24:11:00:10:01,bridge={bridge}",
    })  # fmt: skip
    vm.guest_os = inside(
        guests.new.address, before.disk_gb * GIB, drive=site.resize.disk, cores=before.cores, memory_mb=before.memory_mb
    )
    prefix = guests.new.address.rsplit(".", 1)[0]
    for kind, vmid, name, host in NEIGHBOURS:
        if kind == "lxc":
            container(vmid, name, f"{prefix}.{host}", 1, 1024, 8)
        else:
            other = pve.add_vm(vmid, name, status="running", config={
                "cores": 2, "memory": 2048, "agent": "1", "scsi0": f"{storages.restore}:vm-{vmid}-disk-0,size=32G",
                "net0": f"virtio=BC:24:11:00:02:00,bridge={bridge}",
            })  # fmt: skip
            other.guest_os = inside(f"{prefix}.{host}", 32 * GIB, cores=2, memory_mb=2048)
    pve.backup_jobs["nightly"] = {
        "enabled": 1, "schedule": "02:00", "storage": storages.backup, "mode": "snapshot",
        "vmid": ",".join(str(x) for x in sorted([guests.nginx.vmid, *(g.vmid for g in guests.to_decommission())])),
    }  # fmt: skip
    pve._pool_join("legacy", guests.old.vmid)
    for step in privileges.STEPS:
        for command in privileges.commands(site, step, user):
            pve.pveum(command)
    everything = f"{user}!everything"
    pve.add_token(everything, str(uuid.uuid4()), privsep=False)
    pve.operator_token = (everything, pve.apitokens[everything])
    pve.write_hardware(guests.new.vmid)
    return everything
