"""What the move needs of Nginx: that it can hold, switch and record writes, and that what was there before can come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import Refused
from cutover.gate import templates
from cutover.gate.controller import ROOM_TO_RECORD_MB
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.gate.installer import Facts


@check("A7", "Nginx can hold, switch and record writes")
def able(context: Context) -> Finding:
    """Version, modules, worker user, includes, no gRPC beside it, and a server file that the gate can be put into."""
    installer = context.gate.installer
    facts = installer.facts()
    wrong = installer.refusals(facts)
    try:
        installer.wanted(facts)
    except Refused as refused:
        wrong.append(str(refused))
    if wrong:
        return Finding(False, f"Nginx cannot be the gate: {' '.join(wrong)}")
    version = facts.version.removeprefix("nginx version: ")
    where = "with the gate in" if facts.backed_up else "the gate can be put into"
    return Finding(True, f"{version}, {where} {facts.server_file}.", facts={"version": version, "server_file": facts.server_file})


@check("A7", "The gate that Nginx has loaded is this site's, and its workers see the flags", moments={Moment.AT_SWITCH})
def loaded(context: Context) -> Finding:
    """Asked of a worker process; compared with what is on the host."""
    seen, state = context.gate.loaded(), context.gate.state()
    if seen is None:
        return Finding(False, f"There is no gate at {context.site.qdrant.public_url}.", "Put it in: `cutover gate`.")
    if seen["files"] != context.gate.files().checksum:
        return Finding(False, "Nginx has other files of the gate loaded than this site's.", "Run `cutover gate` again.")
    flags = set(seen["flags"].split())
    if ("new" in flags, "record" in flags) != (state.side == "new", state.recording):
        return Finding(False, "Nginx's workers do not see the flags as they are on its host.", "Look at Nginx's error log.")
    return Finding(True, f"The gate is loaded; requests go to the {state.side} server.", facts={"side": state.side})


def _refusal(facts: Facts, server: str) -> Refused | None:
    """Why the operator's file does not pass requests to this server in the one way that a gate needs; None where it does."""
    try:
        templates.with_gate(facts.server_text, old=server, where=facts.server_file, around=facts.configuration)
    except Refused as refused:
        return refused
    return None


@check(
    "E1",
    "Nginx's configuration from before is there, or can be put back byte for byte",
    moments=set(Moment) - {Moment.BEFORE_DELETING},
)
def restorable(context: Context) -> Finding:
    """Without a gate: the operator's own file leads to the old server. With it: the kept copy leads to the file that is there."""
    installer = context.gate.installer
    facts = installer.facts()
    old = netloc(context.site.qdrant.old_url)
    if not facts.backed_up:
        if context.gate.loaded() is not None:
            return Finding(False, "There is a gate that this tool did not put in, so what was there before is not known.")
        refused = _refusal(facts, old)
        if refused is None:
            return Finding(True, f"{facts.server_file} is the operator's own, and passes requests to the old server.")
        if facts.settled:
            kept = f"{context.site.nginx.gate_folder}/was"
            unlike = _refusal(facts, netloc(context.site.qdrant.new_url))
            if unlike is None:
                return Finding(True, f"The gate was taken out for good; the Nginx host keeps the files from before it in {kept}.")
            return Finding(
                False,
                f"The gate was taken out for good, and what it left was changed since: {unlike.sentence}",
                f"Put the address of the new server into that file again; the files from before the gate are in {kept}.",
            )
        return Finding(False, refused.sentence, refused.hint)
    *_, (path, content) = installer.wanted(facts).items()
    if facts.server_text.encode("utf-8", errors="surrogateescape") != content:
        return Finding(
            False,
            f"{path} is not what the gate made of the kept copy: somebody changed it since.",
            "Put that change into the kept copy as well, or put the file right by hand.",
        )
    return Finding(True, f"The file from before is kept on the Nginx host and differs from {path} only in the gate.")


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
