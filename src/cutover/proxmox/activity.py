"""Was a guest used since a moment? Proxmox' own list of what was done with it says so, also when it is stopped again by now.

A backup holds what was there when it began. Whoever started the guest afterwards may have written to it, and a stopped guest
does not show that: so before anything is deleted its tasks are asked for. What the list cannot tell is said instead of assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused
from cutover.core.journal import utc
from cutover.proxmox import privileges

if TYPE_CHECKING:
    from cutover.proxmox.client import ProxmoxSession
    from cutover.site.schema import Guest

#: What is done with a guest without anything inside it running or being replaced.
_QUIET = frozenset({
    "vzdump", "vzsnapshot", "vzdelsnapshot", "qmsnapshot", "qmdelsnapshot", "vzdestroy", "qmdestroy", "vncproxy", "vncshell",
    "termproxy", "spiceproxy",
})  # fmt: skip
#: What ends a guest: it ran until then.
_ENDS = frozenset({"vzstop", "vzshutdown", "qmstop", "qmshutdown", "hastop"})


def unchanged_from(tasks: Iterable[Mapping[str, Any]]) -> float:
    """From when on nothing in a guest can have changed, by Proxmox' clock (seconds since 1970); 0 where no task tells. Pure.

    A backup that began then or later holds everything. The clock has whole seconds, so a start counts to the end of its second;
    a kind of task that is not known counts as one that may have changed something.
    """
    moments = [0.0]
    for task in tasks:
        kind = str(task.get("type"))
        if kind in _QUIET:
            continue
        start, end = float(task.get("starttime") or 0), float(task.get("endtime") or 0)
        if kind in _ENDS:
            moments.append(end or float("inf"))
        else:
            moments.append(max(start + 1, end))
    return max(moments)


def was_stopped(tasks: Iterable[Mapping[str, Any]], after: float) -> bool:
    """Whether Proxmox itself lists that it stopped the guest after this moment. Pure."""
    return any(task.get("type") in _ENDS and float(task.get("endtime") or 0) >= after for task in tasks)


def reaches_back(tasks: Iterable[Mapping[str, Any]], to: float) -> bool:
    """Whether the list of a guest's tasks still has the backup that began ``to``, and so everything after it. Pure."""
    return any(
        task.get("type") == "vzdump"
        and float(task.get("starttime") or 0) <= to + 1
        and float(task.get("endtime") or float("inf")) >= to
        for task in tasks
    )


def may_see(session: ProxmoxSession, vmid: int) -> None:
    """:class:`Refused` where the token sees only its own tasks, so that nobody else's start of a guest would be seen."""
    path = f"/nodes/{session.proxmox.node_of(vmid)}"
    if "Sys.Audit" not in privileges.held_by(session)(path):
        raise Refused(
            f"The token {session.proxmox.token} lacks Sys.Audit on {path}, so it cannot be seen whether somebody used a guest.",
            "`cutover rights` has the commands that give it.",
        )


def since(session: ProxmoxSession, guest: Guest, moment: float) -> str:
    """How the guest was used, or may have been, after a backup that began at ``moment``; empty where it was not."""
    may_see(session, guest.vmid)
    tasks = session.proxmox.tasks(vmid=guest.vmid)
    last = unchanged_from(tasks)
    if last > moment:
        at = "still is" if last == float("inf") else f"was last at {utc(last)}"
        return f"{guest} was used after its backup of {utc(moment)} had begun (it {at})"
    if not reaches_back(tasks, moment):
        return f"Proxmox does not list what was done with {guest} since its backup of {utc(moment)}, so it may have been used"
    return ""
