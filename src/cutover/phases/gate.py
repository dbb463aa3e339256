"""Gate: put into Nginx what holds, switches and records writes. Traffic stays where it is.

The gate is a small server of its own inside the same Nginx. In the operator's files only the old server's address becomes the
gate's, wherever one of them passes requests there; what the tool must not edit is pointed there by hand. The gate proves itself
before this step is called done, and takes itself out again where it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cutover.core import events
from cutover.core.errors import Refused
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site

_UNDO = "`cutover undo gate` restores Nginx's configuration byte for byte"


def _is_in(context: Context) -> bool:
    """Whether exactly this gate is on the host and loaded, and its proof was not broken off (that leaves its flag)."""
    state = context.gate.state()
    if not state.installed or state.missing:
        return False
    loaded = context.gate.loaded()
    return loaded is not None and loaded["files"] == context.gate.files().checksum and "probe" not in loaded["flags"].split()


@dataclass(frozen=True, kw_only=True)
class GatePlan(Plan):
    """``emergency``: what was lost with what somebody removed of the gate."""

    emergency: Sequence[Sentence] = ()


def plan(context: Context) -> GatePlan:
    """What would be put in; nothing where it is there already. :class:`Refused` with everything that stands against it."""
    if _is_in(context):
        return GatePlan()
    nginx, installer = context.site.nginx, context.gate.installer
    facts = installer.host.facts()
    if wrong := installer.refusals(facts):
        raise Refused(f"The gate cannot be installed: {' '.join(wrong)}", "Nothing was changed.")
    context.gate.answers_to_users(writes=False)  # whoever cannot be asked before cannot prove anything afterwards
    emergency = _emergency(context)
    sentences = [
        *emergency,
        Sentence(
            f"Make {nginx.gate_folder} for flags and recorded writes, readable for {nginx.worker_user}", nginx.gate_folder, _UNDO
        ),
        Sentence(f"Write the gate, a server on {nginx.gate_address}", installer.host.gate_file, _UNDO),
    ]
    old = netloc(context.site.qdrant.old_url)
    if nginx.edit:
        sentences += [
            Sentence(f"Add one line to `http` in {path}, which includes that file", path, _UNDO)
            for path in installer.addresses.included(facts.configuration)
        ] + [
            Sentence(f"Replace the address {old} in {path} by the gate's, and nothing else", path, _UNDO)
            for path in installer.addresses.ways(facts.configuration, old).files
        ]
    reload = f"Nginx's workers are replaced; requests under way end normally. {installer.cost_of_a_reload(facts)}"
    sentences.append(Sentence("Test the configuration, then reload Nginx once", reload))
    if not nginx.edit:
        sentences.append(
            Sentence(f"Wait until you let {context.site.qdrant.public_url} pass its requests to {nginx.gate_address}")
        )
    proof = "Prove it: the gate is loaded, the workers see the flags, and users are answered as before, with a key and without"
    return GatePlan(sentences=[*sentences, Sentence(proof)], emergency=emergency)


def do(context: Context, planned: GatePlan) -> Outcome:
    """Put the gate in and prove it. Safe to repeat: a gate that is there and loaded is left alone."""
    if not planned.sentences:
        return Outcome(changed=False, sentences=["The gate is in Nginx, and loaded."], undo=_UNDO)
    with context.guard.act(
        "gate.install", "Put the gate into Nginx", before={"gate": context.gate.installer.host.gate_file}
    ) as act:
        act.after = asdict(context.gate.install())
    side = context.gate.state().side
    proved = f"The gate is in Nginx and proved; every request {'still goes' if side == 'old' else 'goes'} to the {side} server."
    return Outcome(
        changed=True,
        sentences=[*(one.text for one in planned.emergency), proved],
        undo=_UNDO,
        facts=act.after,
    )


def plan_undo(context: Context) -> GatePlan:
    """What taking it out would do. :class:`Refused` while the new server serves, or while writes are held."""
    installer, state = context.gate.installer, context.gate.state()
    leads = bool(state.missing) and installer.leads_here()
    if not state.installed and not leads:
        return GatePlan()
    context.gate.need_removable()
    emergency = _emergency(context)
    rebuilt = installer.without_copies() if leads and state.lacks("before") else {}
    back, changed = installer.undoing() if not rebuilt else ({}, {})
    sentences = [
        *emergency,
        *(Sentence(f"Put the old server's address back in {path}, whose copy is gone", path) for path in rebuilt),
        *(Sentence(f"Restore {path} byte for byte", path) for path in back),
        *(Sentence(f"Put the old server's address back in {path}, which somebody changed since", path) for path in changed),
        Sentence(
            "Test the configuration, reload Nginx, and prove that the old server answers",
            installer.cost_of_a_reload(installer.host.facts()),
        ),
    ]
    return GatePlan(sentences=sentences, emergency=emergency)


def undo(context: Context, planned: GatePlan) -> Outcome:
    """Take the gate out."""
    if not planned.sentences:
        return Outcome(changed=False, sentences=["There is no gate in Nginx."])
    with context.guard.act("gate.remove", "Take the gate out of Nginx", before={"side": "old"}) as act:
        act.after = asdict(context.gate.remove())
    return Outcome(
        changed=True, sentences=[*(one.text for one in planned.emergency), str(act.after["sentence"])], facts=act.after
    )


def _emergency(context: Context) -> list[Sentence]:
    """What was lost with what somebody removed of the gate."""
    state = context.gate.state()
    if not state.missing or not context.gate.installer.leads_here():
        return []
    lost = events.lost_with_the_gate(context.journal.entries(), state.side, state.recording and not state.lacks("log", "bodies"))
    return [Sentence(f"EMERGENCY: {lost}")] if lost else []


def _step(site: Site) -> Step:
    return Step(
        title="Teach Nginx to hold and record",
        does="Puts a small server into Nginx and leads Qdrant's requests through it; it still asks the old server, "
        "and is proved.",
        needs="A shell on the Nginx host; one reload.",
        changes=f"Nginx's configuration and {site.nginx.gate_folder}.",
        undo="`cutover undo gate` restores the configuration byte for byte.",
        criteria=("E1",),
    )


PHASE = Phase(
    name="gate",
    help="Put the gate into Nginx: traffic stays where it is.",
    operation=Operation(plan, do),
    step=_step,
    undo=Operation(plan_undo, undo),
    probed=True,
)
