"""Gate: put into Nginx what holds, switches and records writes. Traffic stays where it is.

The operator's own server file is kept on the Nginx host byte for byte; only the place that passes requests on to the old server
becomes ours. The gate proves itself before this step is called done, and takes itself out again where it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from cutover.phases.phase import Outcome, Phase, Sentence, Step

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.site.schema import Site

_UNDO = "`cutover undo gate` restores Nginx's configuration byte for byte"


def _is_in(context: Context) -> bool:
    """Whether exactly this gate is on the host and loaded, and its proof was not broken off (that leaves its flag)."""
    if not context.gate.state().installed:
        return False
    loaded = context.gate.loaded()
    return loaded is not None and loaded["files"] == context.gate.files().checksum and "probe" not in loaded["flags"].split()


def plan(context: Context) -> Sequence[Sentence]:
    """What would be put in; nothing where it is there already."""
    if _is_in(context):
        return []
    nginx = context.site.nginx
    return [
        Sentence(
            f"Make {nginx.gate_folder} for flags and recorded writes, readable for {nginx.worker_user}", nginx.gate_folder, _UNDO
        ),
        Sentence(
            f"Keep {nginx.server_file} as it is, and let it pass Qdrant's requests through the gate", nginx.server_file, _UNDO
        ),
        Sentence(
            "Test the configuration, then reload Nginx once", "Nginx's workers are replaced; requests under way end normally"
        ),
        Sentence("Prove it: these files are loaded, the workers see the flags, reads and writes still pass"),
    ]


def do(context: Context) -> Outcome:
    """Put the gate in and prove it. Safe to repeat: a gate that is there and loaded is left alone."""
    if _is_in(context):
        return Outcome(changed=False, sentences=["The gate is in Nginx, and loaded."], undo=_UNDO)
    with context.guard.act(
        "gate.install", "Put the gate into Nginx", before={"server_file": context.site.nginx.server_file}
    ) as act:
        act.after = _facts(context.gate.install())
    return Outcome(
        changed=True,
        sentences=["The gate is in Nginx and proved; every request still goes to the old server."],
        undo=_UNDO,
        facts=act.after,
    )


def plan_undo(context: Context) -> Sequence[Sentence]:
    """What taking it out would do."""
    if not context.gate.state().installed:
        return []
    return [
        Sentence(f"Restore {context.site.nginx.server_file} byte for byte", context.site.nginx.server_file),
        Sentence("Test the configuration, reload Nginx, and prove that the old server answers"),
    ]


def undo(context: Context) -> Outcome:
    """Take the gate out. Refused while the new server serves, or while writes are held."""
    state = context.gate.state()
    if not state.installed:
        return Outcome(changed=False, sentences=["There is no gate in Nginx."])
    with context.guard.act("gate.remove", "Take the gate out of Nginx", before={"side": state.side}) as act:
        act.after = _facts(context.gate.remove())
    return Outcome(changed=True, sentences=["Nginx's configuration is byte for byte what it was, and the old server answers."])


def _facts(found: Any) -> dict[str, Any]:
    return asdict(found) if is_dataclass(found) and not isinstance(found, type) else {}


def _step(site: Site) -> Step:
    return Step(
        title="Teach Nginx to hold and record",
        does=f"Replaces {site.nginx.server_file} by the gate, which still asks the old server, and proves it.",
        needs="A shell on the Nginx host; one reload.",
        changes=f"Nginx's configuration and {site.nginx.gate_folder}.",
        undo="`cutover undo gate` restores the configuration byte for byte.",
        criteria=("E1",),
    )


PHASE = Phase(
    name="gate",
    help="Put the gate into Nginx: traffic stays where it is.",
    plan=plan,
    do=do,
    step=_step,
    undo=undo,
    plan_undo=plan_undo,
    probed=True,
)
