"""Since when the old guests are down, and how long the site still has to live without them.

Two clocks tell it, ours and that of Proxmox; the one by which less time has passed is believed. The journal says since when, and
Proxmox' own list of tasks has to agree: a guest is down no longer than since the last task that started, stopped or changed it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.journal import seconds, utc
from cutover.proxmox import activity
from cutover.state import approvals

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Guest


def started(context: Context, guest: Guest) -> float:
    """When the guest was last started, or its disk replaced, by whomever, by Proxmox' own clock; 0 where nothing is known."""
    return _last_start(context.proxmox.tasks(vmid=guest.vmid))


def _last_start(tasks: Iterable[Mapping[str, Any]]) -> float:
    starts = {"vzstart", "vzrollback", "vzrestore"}
    return max((float(task.get("starttime") or 0) for task in tasks if task.get("type") in starts), default=0.0)


def their_time(context: Context) -> float:
    """What time it is for Proxmox, seconds since 1970."""
    return float(context.proxmox.record(f"nodes/{context.site.proxmox.node}/time")["time"])


@dataclass(frozen=True)
class Down:
    """When a guest was first seen stopped: by our clock, and by Proxmox' (0: not written down)."""

    ours: float
    theirs: float


def stopped_since(context: Context, guest: Guest) -> Down | None:
    """Since when the guest is known to be down, or None: the first time that this tool saw it so after its last start, and not
    before the last task by which Proxmox did anything to it. A journal that is old, copied or written by hand shortens nothing.
    """
    return _stopped_since(context, guest, context.proxmox.tasks(vmid=guest.vmid))


def _stopped_since(context: Context, guest: Guest, tasks: Sequence[Mapping[str, Any]]) -> Down | None:
    last = _last_start(tasks)
    lines = [e for e in approvals.lines(context, guest.vmid) if e.act in approvals.DOWN and e.kind in {"done", "note"}]
    for entry in lines:
        said = entry.after or entry.extra
        # Each line has the start that was known then, because our clock and Proxmox' may differ.
        if float(said.get("started", -1)) >= last:
            return Down(seconds(entry.at), max(float(said.get("there") or 0), activity.unchanged_from(tasks)))
    return None


def only_here(context: Context, guest: Guest) -> str:
    """Since when this tool's journal says that a guest is down of which Proxmox lists no stop after its last start; or empty."""
    tasks = context.proxmox.tasks(vmid=guest.vmid)
    down = _stopped_since(context, guest, tasks)
    return "" if down is None or activity.was_stopped(tasks, _last_start(tasks)) else utc(down.ours)


def see_stopped(context: Context, guest: Guest) -> None:
    """Write down that the guest is down where we did not stop it ourselves: the soak time begins when that is known."""
    if stopped_since(context, guest) is None:
        facts = {"vmid": guest.vmid, "started": started(context, guest), "there": their_time(context)}
        context.journal.note("decommission.seen-stopped", f"{guest} is stopped", **facts)


def soak_left(down: Sequence[Down], soak: float, ours: float, theirs: float) -> float:
    """How many seconds the site still has to live without guests that are down since then. Pure.

    A clock may have been set meanwhile, ours or Proxmox'. The one by which less time has passed is believed: waiting too long
    deletes nothing.
    """
    passed = [min(ours - one.ours, theirs - one.theirs if one.theirs else ours - one.ours) for one in down]
    return max((soak - max(0.0, one) for one in passed), default=0.0)


def soaking(context: Context, guests: Sequence[Guest]) -> str | None:
    """Until when the site still has to live without these guests, or None."""
    soak = context.site.limits.soak_hours * 3600
    if soak <= 0:
        return None
    ours, theirs = time.time(), their_time(context)
    left = soak_left([stopped_since(context, guest) or Down(ours, theirs) for guest in guests], soak, ours, theirs)
    return utc(ours + left) if left > 0 else None
