"""Checks of who is let in: the same keys open the new server as the old one, and what was closed stays closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, Moment, check
from cutover.core.errors import Unreachable
from cutover.qdrant import access
from cutover.qdrant.access import Access, Caller

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.qdrant.client import Qdrant


@check("D4", "Applications are let in as before", moments={Moment.BEFORE, Moment.AT_SWITCH, Moment.AFTER})
def let_in_as_before(context: Context) -> Finding:
    """Asks both servers, and Nginx, with every key, without one, with one that nobody has, and with a token."""
    site, keys = context.site, context.credentials
    if wrong := access.unusable(keys):
        return Finding(False, " ".join(wrong))
    old, new = _asked(context, context.old), _asked(context, context.new)
    if old is None and new is None:
        raise Unreachable("Neither Qdrant server answers.")
    should = access.meant(site, keys)
    found = access.objections(old, new, should, names=(context.old.name, context.new.name))
    if not found and (public := _asked(context, context.public)) is not None:
        serving = new if context.gate.state().side == "new" else old
        found = access.objections(public, serving, {}, names=("Qdrant through Nginx", "the server behind it")) if serving else []
    if found:
        sentence = "; ".join(one.sentence for one in found)
        return Finding(False, f"{sentence[0].upper()}{sentence[1:]}.", " ".join(dict.fromkeys(one.way_out for one in found)))
    who = [server.name for server, rights in ((context.old, old), (context.new, new)) if rights is not None]
    told = access.as_said(new or old or {})
    if site.qdrant.access == "open":
        said = f"{' and '.join(who).capitalize()} let in everybody, without keys, as site.yaml says (access: open)."
        return Finding(True, said, facts={"who": told})
    if Caller.FULL not in (new or old or {}):
        return Finding(
            None,
            f"{' and '.join(who).capitalize()} let in the same callers as far as that was tried, without QDRANT_API_KEY.",
            "Set QDRANT_API_KEY, the key that applications use, and it is tried as well.",
            {"who": told},
        )
    return Finding(True, f"{' and '.join(who).capitalize()} let in as it is meant: {told}.", facts={"who": told})


def _asked(context: Context, server: Qdrant) -> Access | None:
    try:
        return access.access_of(server, context.credentials)
    except Unreachable:
        return None
