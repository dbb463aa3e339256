"""Settle: take the gate out for good, when the way back was given up.

What passed requests to the gate passes them to the new server: only that address is replaced. Nginx then needs no flags in a
folder any more. Costs one reload.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site


def plan(context: Context) -> Plan:
    """What would be done; nothing where there is no gate.

    :class:`cutover.core.errors.Refused` while the way back is open, or the old server serves.
    """
    if not context.gate.state().installed:
        return Plan()
    context.gate.need_unneeded()
    installer = context.gate.installer
    new = netloc(context.site.qdrant.new_url)
    facts = installer.host.facts()
    files = installer.addresses.settled(facts.configuration) if context.site.nginx.edit else {}
    sentences = [
        *(Sentence(f"Replace the gate's address in {path} by {new}, and nothing else", path) for path in files),
        Sentence(
            "Test the configuration, reload Nginx, and prove that users are answered as before",
            installer.cost_of_a_reload(facts),
        ),
        Sentence("Remove the gate's files; the copy of the configuration from before stays", context.site.nginx.gate_folder),
    ]
    return Plan(sentences=sentences)


def do(context: Context, planned: Plan) -> Outcome:
    """Take it out."""
    if not planned.sentences:
        return Outcome(changed=False, sentences=["There is no gate in Nginx."])
    with context.guard.act(
        "settle.gate", "Take the gate out for good", before={"gate": context.gate.installer.host.gate_file}
    ) as act:
        act.after = asdict(context.gate.settle())
    return Outcome(changed=True, sentences=[act.after["sentence"]], facts=act.after)


def _step(_site: Site) -> Step:
    return Step(
        title="Take the gate out for good",
        does="Lets Nginx pass requests to the new server by itself, and takes the gate out.",
        needs="`finish` was done; one reload.",
        changes="Nginx's configuration.",
        undo="Edit the address by hand, as before.",
        criteria=("D1",),
    )


PHASE = Phase(
    name="settle",
    help="Take the gate out for good, after finish: Nginx asks the new server by itself.",
    operation=Operation(plan, do),
    step=_step,
    instead_of_undo="Edit the address in Nginx's configuration by hand, as before the gate.",
    probed=True,
)
