"""What the move needs of Nginx: that it can hold, switch and record writes, and that what was there before can come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import Refused
from cutover.gate.controller import ROOM_TO_RECORD_MB
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.context import Context


@check("A7", "Nginx can hold, switch and record writes")
def able(context: Context) -> Finding:
    """Version, modules, worker user, includes, room, and every way to the old server: each can be led through the gate."""
    installer = context.gate.installer
    facts = installer.host.facts()
    if wrong := installer.refusals(facts):
        return Finding(False, f"Nginx cannot be the gate: {' '.join(wrong)}")
    version = facts.version.removeprefix("nginx version: ")
    files = [path for path in installer.wanted(facts) if path != installer.host.gate_file]
    where = (
        "the gate is in" if facts.backed_up else f"the gate can be put in, with the address in {', '.join(files) or 'your proxy'}"
    )
    return Finding(True, f"{version}, {where}.", facts={"version": version, "files": files})


@check("A7", "The gate that Nginx has loaded is this site's, and its workers see the flags", moments={Moment.AT_SWITCH})
def loaded(context: Context) -> Finding:
    """Asked of a worker process; compared with what is on the host."""
    seen, state = context.gate.loaded(), context.gate.state()
    if state.missing and context.gate.installer.leads_here() and (why := context.gate.contradiction()):
        return Finding(False, why, "See `cutover status` for what was lost with it.")
    if seen is None:
        return Finding(False, f"There is no gate at {context.site.qdrant.public_url}.", "Put it in: `cutover gate`.")
    if seen["files"] != context.gate.files().checksum:
        return Finding(False, "Nginx has other files of the gate loaded than this site's.", "Run `cutover gate` again.")
    flags = set(seen["flags"].split())
    if ("new" in flags, "record" in flags) != (state.side == "new", state.recording):
        return Finding(False, "Nginx's workers do not see the flags as they are on its host.", "Look at Nginx's error log.")
    return Finding(True, f"The gate is loaded; requests go to the {state.side} server.", facts={"side": state.side})


@check("D5", "No way leads round the gate, or to the server that was left behind", moments={Moment.AT_SWITCH, Moment.AFTER})
def around(context: Context) -> Finding:
    """Nginx's files as they are now: whoever rewrote one since (a tool, a colleague) may send users past the gate."""
    old, new = netloc(context.site.qdrant.old_url), netloc(context.site.qdrant.new_url)
    installer = context.gate.installer
    facts = installer.host.facts()
    found = installer.addresses.around(facts.configuration)
    if not found:
        return Finding(True, f"Nothing in Nginx's configuration passes requests to http://{old} past the gate.")
    state = context.gate.state()
    if not state.installed:
        return Finding(False, f"There is no gate: {' '.join(found)}", "Put it in: `cutover gate`.")
    serves = f"Users there are on the old server while {new} serves" if state.side == "new" else "The gate misses it"
    return Finding(
        False, f"{serves}: {' '.join(found)}", "Run `cutover gate` again, which leads it through the gate, or take it out."
    )


@check(
    "E1",
    "Nginx's configuration from before is there, or can be put back byte for byte",
    moments=set(Moment) - {Moment.BEFORE_DELETING},
)
def restorable(context: Context) -> Finding:
    """Without a gate: the operator's own files lead to the old server. With it: the kept copies lead to what is there."""
    installer = context.gate.installer
    facts = installer.host.facts()
    old = netloc(context.site.qdrant.old_url)
    if context.gate.state().lacks("before") and installer.leads_here(facts.configuration):
        return Finding(
            False,
            f"Requests are passed to the gate, and copies from before it are gone from {context.site.nginx.gate_folder}.",
            "`cutover gate` makes them again, with the old server's address in place of the gate's.",
        )
    if not facts.backed_up:
        if context.gate.loaded() is not None:
            return Finding(False, "There is a gate that this tool did not put in, so what was there before is not known.")
        files = installer.addresses.ways(facts.configuration, old).files
        if files or not context.site.nginx.edit:
            return Finding(
                True, f"{', '.join(files) or 'The proxy'} is the operator's own, and passes requests to the old server."
            )
        if facts.settled:
            kept = f"{context.site.nginx.gate_folder}/was"
            if installer.addresses.ways(facts.configuration, netloc(context.site.qdrant.new_url)).places:
                return Finding(True, f"The gate was taken out for good; the Nginx host keeps the files from before it in {kept}.")
            return Finding(
                False,
                "The gate was taken out for good, and what it left was changed since: nothing passes requests to "
                f"{netloc(context.site.qdrant.new_url)}.",
                f"Put the address of the new server in again; the files from before the gate are in {kept}.",
            )
        return Finding(False, f"No file of Nginx's configuration passes requests to http://{old}.")
    try:
        back, changed = installer.undoing()
    except Refused as refused:
        return Finding(False, refused.sentence, refused.hint)
    if changed:
        return Finding(
            True,
            f"In {', '.join(changed)} somebody changed something since the gate was put in; that will stay, and the "
            f"address come back.",
        )
    return Finding(
        True, f"The files from before are kept on the Nginx host and differ from {', '.join(back)} only in the address."
    )


@check("E5", "The Nginx host has room for the writes that are recorded", moments={Moment.AT_SWITCH, Moment.AFTER})
def room(context: Context) -> Finding:
    """Recorded bodies stay on the Nginx host until the other server has them; on a full disk nginx refuses writes."""
    state = context.gate.state()
    facts = {"free_mb": state.free_mb, "log_bytes": state.log_bytes}
    if not state.recording:
        return Finding(True, "No writes are recorded.", facts=facts)
    if state.free_mb < 0:
        return Finding(None, "The Nginx host does not say how much room it has.", facts=facts)
    if state.free_mb < ROOM_TO_RECORD_MB:
        return Finding(
            False,
            f"There are only {state.free_mb} MB left for recorded writes on the Nginx host.",
            "Run `cutover follow`, which brings them over and removes them, or give up the way back with `cutover finish`.",
            facts,
        )
    return Finding(True, f"There are {state.free_mb} MB left for recorded writes on the Nginx host.", facts=facts)
