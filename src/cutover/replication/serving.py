"""Who serves: what has to be known before anything on the new server is taken away.

The gate's flags decide which server Nginx asks, but reading them in a folder is not enough: a folder that is missing, or not
the right one, looks like flags that are not set, and after ``settle`` there are none. So a worker of Nginx is asked as well, and
where there is no gate, Nginx's own configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import CutoverError, Refused
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.context import Context


def need_old_serves(context: Context) -> None:
    """:class:`Refused` where users are, or may be, on the new server."""
    if reason := why_new_may_serve(context):
        raise Refused(f"{reason} Nothing was removed.", "Go `back` first, so that nothing is lost that was written since.")


def why_new_may_serve(context: Context) -> str:
    """Why users have to be taken to be on the new server, a sentence; empty where they are not.

    Where Nginx cannot be asked at all, the journal's last move decides, if it is the journal of the deployment.
    """
    if events.given_up(context.journal.entries()):
        return "The way back was given up: the new server has the only data that is up to date."
    try:
        if context.gate.state().side == "new":
            return "Nginx sends its users to the new server."
        loaded = context.gate.loaded()
        if loaded is not None:
            asks_new = "new" in str(loaded.get("flags", "")).split()
            return "Nginx asks the new server, whatever the folder nginx.gate_folder of site.yaml says." if asks_new else ""
        new = netloc(context.site.qdrant.new_url)
        installer = context.gate.installer
        seen = installer.addresses.ways(installer.host.configuration(), new)
        if seen.places or seen.refused:
            return f"Nginx's configuration names {new}, and there is no gate that says which server it asks."
    except CutoverError as error:
        entries = context.journal.entries()
        if not events.deployed(entries):
            return (
                f"Nginx cannot be asked which server it uses ({error.sentence.rstrip('.')}), and the journal in "
                f"{context.state_dir} does not know of the deployment: the stack may be in use."
            )
        if events.last_move(entries) == "new":
            return f"The traffic was moved to the new server, and Nginx cannot be asked now ({error.sentence.rstrip('.')})."
    return ""
