"""The one reboot of the VM: announced, asked for, waited for, and what runs on it compared with before (criterion B3).

Also what a run that was ended leaves of it: a reboot that Proxmox still carries out, a start that nobody begins any more, and a
comparison that was not made.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import CutoverError, Failed
from cutover.core.text import counted
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.portainer.picture import Picture, differences
from cutover.proxmox import agent, power
from cutover.proxmox import vm as vm_state
from cutover.proxmox.power import GIVES_UP_SECONDS

if TYPE_CHECKING:
    from cutover.context import Context

#: How long a task of the VM is waited for.
TASK_SECONDS = 600.0


def reboot(context: Context) -> list[str]:
    """One reboot, announced and asked for, with a look at what runs on the VM before and after (criterion B3)."""
    vm, limit = context.site.guests.new, context.site.limits.reboot_seconds
    before = _picture(context)
    blind = "" if before is not None else " Portainer could not be asked what runs there, so nobody compares it afterwards."
    context.confirm.to(f"Reboot {vm} now? Every container on it is away meanwhile, at most {limit:g} s.{blind}")
    facts = None if before is None else before.as_facts()
    with context.guard.act(events.REBOOTED, f"Reboot {vm}", before={"picture": facts}) as act:
        power.reboot(context.proxmox, vm, deadline=limit)
        act.after = "up"
    return [f"{vm} was rebooted.", *compared(context, before)]


def reboot_begun(context: Context) -> bool:
    """Whether this tool was ended during a reboot, so that Proxmox may still be at it."""
    return events.not_seen_done(context.journal.acts(events.REBOOTED)) is not None


def coming_up(context: Context, state: vm_state.State) -> bool:
    """Whether the VM goes down or comes up right now: a task of it runs, or it is off, or its agent does not answer yet."""
    vm, api = context.site.guests.new, context.proxmox
    if api.running_tasks(("qmreboot", "qmstart", "qmshutdown"), vm.vmid):
        return True
    if not state.running:
        # What could not be started does not come up by itself.
        return not power.start_failed(api, vm)
    try:
        api.get(f"{api.of(vm)}/agent/info")
    except CutoverError:
        return True
    return False


def await_begun(context: Context) -> bool:
    """Wait for what an earlier run began and Proxmox still carries out: a disk that grows, a reboot. Whether there was any."""
    vm, api, limit = context.site.guests.new, context.proxmox, context.site.limits.reboot_seconds
    growing = api.running_tasks(("resize",), vm.vmid)
    for upid in growing:
        context.ui.say(f"The disk of {vm} is being grown already; waiting for that.")
        api.wait_task(upid, deadline=TASK_SECONDS)
    if reboot_begun(context) and coming_up(context, vm_state.look(context)):
        context.ui.say(f"{vm} is being rebooted already; waiting for that.")
        with context.guard.act("resize.reboot-awaited", f"Wait for the reboot of {vm} that was begun", passing=True) as act:
            for upid in api.running_tasks(("qmreboot", "qmshutdown"), vm.vmid):
                api.wait_task(upid, deadline=limit + GIVES_UP_SECONDS)
            if not power.start_failed(api, vm):
                up(context)  # it is started by Proxmox, or by nobody where that was cut off, too
            power.await_reboot(api, vm, deadline=limit)
            act.after = "up"
        return True
    return bool(growing)


#: How long a start that Proxmox begins by itself is waited for.
OWN_START_SECONDS = 10.0


def up(context: Context) -> None:
    """Wait for a start that is under way; where nothing starts the VM, start it. Needs an open act."""
    vm, api, limit = context.site.guests.new, context.proxmox, context.site.limits.reboot_seconds

    def begun() -> bool | Not:
        if api.status(vm).get("status") == "running" or api.running_tasks(("qmstart",), vm.vmid):
            return True
        return Not("nothing starts it")

    with suppress(TimedOut):
        wait_until(begun, deadline=min(limit, OWN_START_SECONDS), what=f"A start of {vm}", every=api.poll)
    for upid in api.running_tasks(("qmstart",), vm.vmid):
        api.wait_task(upid, deadline=limit)
    if api.status(vm).get("status") == "running":
        agent.wait_for(api, vm, limit)
    else:
        power.start(api, vm, deadline=limit)


def start(context: Context) -> list[str]:
    """Start a VM that did not come up, and look whether what ran on it before runs again."""
    vm = context.site.guests.new
    with context.guard.act("resize.start", f"Start {vm}") as act:
        up(context)
        act.after = "up"
    return [f"{vm} was started.", *compared(context, left_to_compare(context))]


def _picture(context: Context) -> Picture | None:
    """What runs on the VM; None where Portainer cannot be asked."""
    try:
        return context.portainer.picture()
    except CutoverError as error:
        context.ui.say(f"Portainer could not be asked what runs on {context.site.guests.new}: {error.sentence}")
        return None


def compared(context: Context, before: Picture | None) -> list[str]:
    """Wait until everything that ran before runs again as it was; :class:`Failed` names what does not."""
    vm, limit = context.site.guests.new, context.site.limits.reboot_seconds
    if before is None:
        return ["What runs on it could not be compared: look at it in Portainer."]

    def all_back() -> bool | Not:
        try:
            # No stack is left out of the comparison: a name that no stack can have.
            changed = differences(before, context.portainer.picture(), ours="/", restarted=True)
        except CutoverError as error:
            return Not(error.sentence)
        return Not(" ".join(changed).rstrip(".")) if changed else True

    try:
        wait_until(all_back, deadline=limit, what=f"Everything on {vm} being back as it was", every=0.5)
    except TimedOut as late:
        raise Failed(late.sentence, "Look at it in Portainer; then run the command again.") from None
    context.journal.note(events.COMPARED_AFTER_REBOOT, f"Everything on {vm} is back as it was")
    containers, stacks = counted(len(before.containers), "container"), counted(len(before.stacks), "stack")
    return [f"Everything on it is back as it was: {containers}, {stacks}."]


def left_to_compare(context: Context) -> Picture | None:
    """The picture from before a reboot, where an earlier run was ended before it could compare."""
    for entry in reversed(context.journal.entries()):
        if entry.act == events.COMPARED_AFTER_REBOOT:
            return None
        if entry.act == events.REBOOTED and entry.kind == "intent":
            facts = (entry.before or {}).get("picture")
            return None if facts is None else Picture.from_facts(facts)
    return None
