"""Starting, stopping and rebooting guests, and waiting until a VM is really up again.

That a task ended says little of a VM: the task of a reboot ends when it has shut down, that of a rollback well before its start,
and both starts are tasks of their own, which Proxmox begins by itself and which may fail.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from cutover.core.errors import Failed
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.proxmox import agent
from cutover.proxmox.tasks import TaskEnd, task_state

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox
    from cutover.site.schema import Guest

#: A task that gives up after so many seconds ends later than that, because it counts looks of a second and more: 302 s for 300.
GIVES_UP_SECONDS = 30.0
_DOING = {"start": "Starting", "stop": "Stopping", "shutdown": "Stopping"}


def turn(api: Proxmox, guest: Guest, to: Literal["start", "stop", "shutdown"], *, deadline: float, **parameters: Any) -> TaskEnd:
    """Start or stop a guest, and follow the task to its good end, at most ``deadline`` seconds."""
    kind = f"{'vz' if guest.kind == 'lxc' else 'qm'}{to}"
    what = f"{_DOING[to]} {guest}"
    return api.do_task(
        "POST", f"{api.of(guest)}/status/{to}", kind=kind, vmid=guest.vmid, what=what, deadline=deadline, **parameters
    )


def start(api: Proxmox, guest: Guest, *, deadline: float) -> None:
    """Start a VM that is down, and return when its agent answers."""
    turn(api, guest, "start", deadline=deadline)
    agent.wait_for(api, guest, deadline)


def start_failed(api: Proxmox, guest: Guest) -> bool:
    """Whether the last attempt to start a VM failed."""
    last = next(iter(api.tasks("qmstart", guest.vmid)), None)
    return last is not None and bool(last.get("endtime")) and task_state(last.get("status")) == "error"


def reboot(api: Proxmox, guest: Guest, *, deadline: float) -> None:
    """Reboot a VM so that pending changes apply, and return when it runs again and its agent answers.

    :class:`Failed` with the last reason where it does not within ``deadline`` seconds.
    """
    end = time.monotonic() + deadline
    before = api.status(guest).get("pid")
    known = _starts(api, guest)
    api.do_task(
        "POST", f"{api.of(guest)}/status/reboot", kind="qmreboot", vmid=guest.vmid, what=f"Rebooting {guest}",
        deadline=deadline + GIVES_UP_SECONDS, timeout=max(1, int(deadline)),
    )  # fmt: skip
    _wait_until_up(api, guest, known, before, end, "its reboot")


def await_reboot(api: Proxmox, guest: Guest, *, deadline: float) -> None:
    """Wait for a reboot that somebody began: its tasks, and until the VM runs and its agent answers."""
    end = time.monotonic() + deadline
    for upid in api.running_tasks(("qmreboot", "qmshutdown", "qmstart"), guest.vmid):
        api.wait_task(upid, deadline=max(1.0, end - time.monotonic()))
    newest = next((t for t in api.tasks(vmid=guest.vmid) if t.get("type") in {"qmreboot", "qmshutdown"}), {})
    since = float(newest.get("starttime") or 0)
    known = {t["upid"] for t in api.tasks("qmstart", guest.vmid) if float(t.get("starttime") or 0) < since}
    _wait_until_up(api, guest, known, None, end, "its reboot")


def roll_back(api: Proxmox, guest: Guest, snapshot: str, *, deadline: float, start_deadline: float) -> None:
    """Roll a VM back to a snapshot and start it; return when it runs and its agent answers."""
    known = _starts(api, guest)
    before = api.status(guest).get("pid")
    api.do_task(
        "POST", f"{api.of(guest)}/snapshot/{snapshot}/rollback", kind="qmrollback", vmid=guest.vmid,
        what=f"Rolling {guest} back to {snapshot}", deadline=deadline, start=1,
    )  # fmt: skip
    _wait_until_up(api, guest, known, before, time.monotonic() + start_deadline, "its rollback")


def _starts(api: Proxmox, guest: Guest) -> set[str]:
    """The starts of a VM that Proxmox lists already."""
    return {task["upid"] for task in api.tasks("qmstart", guest.vmid)}


def _wait_until_up(api: Proxmox, guest: Guest, known: set[str], with_pid: Any, end: float, after: str) -> None:
    """Wait until a VM runs with another process than ``with_pid`` and its agent answers; ``known`` are earlier starts."""

    def again() -> bool | Not:
        for task in api.tasks("qmstart", guest.vmid):
            if task["upid"] not in known and task.get("endtime") and task_state(task.get("status")) == "error":
                raise Failed(f"{guest} shut down for {after} and could not be started: {task['status']}.",
                             f"Look at {guest} in Proxmox; `cutover undo resize` gives it its old sizes.")  # fmt: skip
        now = api.status(guest)
        if now.get("status") != "running":
            return Not(f"it is {now.get('status')}")
        if now.get("pid") is not None and now.get("pid") == with_pid:
            return Not(f"it is still the machine from before {after}")
        return True

    try:
        wait_until(again, deadline=max(1.0, end - time.monotonic()), what=f"{guest} running again", every=api.poll)
    except TimedOut as late:
        raise Failed(late.sentence, f"Look at {guest} in Proxmox, then run the command again.") from None
    agent.wait_for(api, guest, max(1.0, end - time.monotonic()))
