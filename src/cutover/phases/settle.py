"""Settle: take the gate out for good, when the way back was given up.

The operator's own server file comes back as it was, with one difference: it names the new server. Nginx then passes requests on
by itself, and nothing depends on flags in a folder any more. Costs one reload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cutover.phases.phase import Outcome, Phase, Sentence, Step

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site


def plan(context: Context) -> Sequence[Sentence]:
    """What would be done; nothing where there is no gate."""
    if not context.gate.state().installed:
        return []
    file = context.site.nginx.server_file
    return [
        Sentence(f"Put {file} back as it was before the gate, with the new server's address", file),
        Sentence("Test the configuration, reload Nginx, and prove that the new server answers"),
        Sentence("Remove the gate's files; the copy of the configuration from before stays", context.site.nginx.gate_folder),
    ]


def do(context: Context) -> Outcome:
    """Take it out. Refused while the way back is open, or the old server serves."""
    if not context.gate.state().installed:
        return Outcome(changed=False, sentences=["There is no gate in Nginx."])
    with context.guard.act(
        "settle.gate", "Take the gate out for good", before={"server_file": context.site.nginx.server_file}
    ) as act:
        act.after = asdict(context.gate.settle())
    return Outcome(changed=True, sentences=[act.after["sentence"]], facts=act.after)


def _step(site: Site) -> Step:
    return Step(
        title="Take the gate out for good",
        does=f"Puts {site.nginx.server_file} back as it was before the gate, with the new server's address.",
        needs="`finish` was done; one reload.",
        changes="Nginx's configuration.",
        undo="Edit the address by hand, as before.",
        criteria=("D1",),
    )


PHASE = Phase(
    name="settle",
    help="Take the gate out for good, after finish: Nginx asks the new server by itself.",
    plan=plan,
    do=do,
    step=_step,
    instead_of_undo="Edit the address in Nginx's configuration by hand, as before the gate.",
    probed=True,
)
