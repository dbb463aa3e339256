"""Sabotage: each criterion's promise broken in the tool's own code, once, to see that the features notice.

A feature that stays green while the tool no longer keeps its promise is worth nothing. Every :class:`Fault` takes away one thing
that the tool does for one criterion, and names the scenario that has to turn red and the cause that the report has to give.
As a pytest plugin (``-p tools.sabotage --sabotage C3``) it breaks the code and runs that scenario, and with it the scenarios
that only look, which have to stay green: a fault turns exactly its criterion to *not met*.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from acceptance.reporting import criterion_of


def _none(*_: Any, **__: Any) -> None:
    return None


def _nothing(*_: Any, **__: Any) -> list[Any]:
    return []


@dataclass(frozen=True)
class Fault:
    """``breaks`` are places (``module:name``) and what stands there instead; ``scenario``: words of the name of its scenario."""

    criterion: str
    what: str
    breaks: dict[str, Callable[..., Any]]
    scenario: str
    cause: str
    row: str = field(default="")
    """The row of the outline, by a part of its id; empty where it does not matter."""


def _lossy() -> dict[str, Callable[..., Any]]:
    """Nothing is brought over any more, and nobody compares."""
    return {
        "cutover.replication.follower:Follower._bring_ids": _none,
        "cutover.replication.follower:Follower.mend": _mended,
        "cutover.replication.proof:prove_everything": lambda *_, **__: ([], []),
        "cutover.replication.proof:prove_quickly": _nothing,
    }


def _mended(self: Any, collection: str, *_: Any, **__: Any) -> Any:
    from cutover.qdrant.compare import Compared

    del self
    return Compared(collection)


def _forgets_what_was_there(self: Any, act: str, what: str, before: Any = None) -> Any:
    # A scratch server is known by it as well, and without one there is no backup to begin with.
    return self._write("intent", act, what, before=None if act.startswith("resize.") else before)


def _all_copies_back(self: Any) -> tuple[dict[str, int], dict[str, bytes]]:
    return {path: number for number, (kind, path) in enumerate(self.copies.listed()) if kind == "kept"}, {}


def _put_back_again(context: Any) -> list[tuple[Any, list[Any], list[Any]]]:
    from cutover.state import approvals

    found = []
    for guest in context.site.guests.to_decommission():
        lines = approvals.lines(context, guest.vmid)
        rules = [e.extra["undo"] for e in lines if e.act == "decommission.firewall.planned"]
        found.append((guest, rules, [e.extra["undo"] for e in lines if e.act == "decommission.dns.planned"]))
    return found


FAULTS = [
    Fault("A1", "a host without room is called roomy", {"cutover.checks.host:strains": _nothing},
          "a host with shortage is found out", "has room", "hardly any free memory"),
    Fault("A2", "a second owner of the address is not seen", {"cutover.checks.guests:owner_trouble": _nothing},
          "traffic is not pointed to an address", "only VM 1001 (portainer) has", "another server has the address"),
    Fault("A3", "a server that is not the plan's is accepted", {"cutover.proxmox.identity:not_as_planned": _nothing},
          "a plan for a site in which", "Not every server could be compared", "is on another node"),
    Fault("A4", "writes that go round Nginx are not counted", {"cutover.replication.bypass:unexplained": _nothing},
          "a writer that goes round nginx is named", "without going through Nginx"),
    Fault("A5", "the releases are not compared", {"cutover.qdrant.client:Qdrant.version": lambda _self: "1.18.3"},
          "a new server of another release is refused", "runs 1.17.0"),
    Fault("A6", "a key that may do everything is accepted", {"cutover.proxmox.privileges:too_much": _nothing},
          "a key that trouble is found out", "none beyond the plan", "may do everything"),
    Fault("A7", "collections that cannot be moved are not named", {"cutover.qdrant.limits:reasons_against": _nothing},
          "the copy is not begun with", "custom shards", "custom shards"),
    Fault("B1", "nobody tries whether the backup can be restored", {"cutover.proxmox.scratch:try_restore": _nothing},
          "a backup that trouble is not called one", "Nothing was refused", "cannot be restored"),
    Fault("B2", "what the server itself sees does not count", {"cutover.proxmox.vm:not_yet": _nothing},
          "before the resize the check says what is missing", "sees"),
    Fault("B3", "nobody compares after the restart", {"cutover.phases.vm_restart:differences": _nothing},
          "a container that does not come back is named", "Nothing was refused"),
    Fault("B4", "the rules for the file are gone", {"cutover.portainer.compose_file:mistakes": _nothing},
          "a file that fault is found out", "accepted by Compose", "without a digest"),
    Fault("C1", "Portainer's word is taken for what runs", {"cutover.phases.deploy_proof:shortfalls": _nothing},
          "a container of the old image is noticed", "healthy and answering"),
    Fault("C2", "a container that nothing would start again is accepted", {"cutover.portainer.compose_file:_life_mistakes": _nothing},
          "a container that nothing would start again is refused", "Nothing was refused"),
    Fault("C3", "records are not compared bit by bit", {"cutover.qdrant.compare:compare_record": _nothing},
          "a copy with damage is found out", "Nothing was refused", "altered vector"),
    Fault("C4", "the last writes are not brought over", _lossy(),
          "there back and there again under load", "lost"),
    Fault("C5", "traffic moves without the proof",
          {"cutover.replication.proof:prove_everything": lambda *_, **__: ([], []), "cutover.replication.proof:prove_quickly": _nothing},
          "damage stops the move", "Nothing was refused", "missing record"),
    Fault("C6", "how users are answered is not compared", {"cutover.gate.doorway:differences": _nothing},
          "a gate that users would notice is taken out again", "Nothing was refused"),
    Fault("D1", "answers through Nginx are not compared", {"cutover.checks.qdrant:_answers_differ": lambda *_: ""},
          "another answer through nginx is noticed", "same"),
    Fault("D2", "Portainer is not compared with before", {"cutover.portainer.picture:differences": _nothing},
          "it is noticed when event", "the same environments", "stopped another stack"),
    Fault("D3", "vLLM is not compared with before", {"cutover.vllm:Portrait.differences": _nothing},
          "it is noticed when vllm event", "as before", "was restarted"),
    Fault("D4", "who is let in is not compared", {"cutover.qdrant.access:differences": _nothing},
          "traffic does not move to a server that meanwhile lets in", "Nothing was refused"),
    Fault("D5", "what the old server counts does not grow", {"cutover.qdrant.counters:grown": _nothing},
          "somebody who does the old server without nginx is named", "nobody but this tool"),
    Fault("E1", "somebody's change is overwritten", {"cutover.gate.installer:Installer.undoing": _all_copies_back},
          "a configuration that somebody changed since is not overwritten", "that change is still there"),
    Fault("E2", "nobody says that the disk stays", {"cutover.phases.resize:_disk_stays": lambda *_: "All is as before."},
          "cores and memory are given back and the disk stays", "All is as before"),
    Fault("E3", "nobody looks whether the container is used", {"cutover.replication.serving:need_old_serves": _none},
          "a container that serves users is not taken away", "Nothing was refused"),
    Fault("E4", "a living server is restored over", {"cutover.phases.restore:_answers": lambda _run: False},
          "an old server that answers is not restored", "nothing has to be restored"),
    Fault("E5", "the old server gets nothing of what is written", _lossy(),
          "what was written on the new server is there after going back", "lost"),
    Fault("E6", "the way back leaves the gate in Nginx", {"cutover.gate.controller:Gate.remove": _none},
          "everything up to the copy is taken back", "nginx"),
    Fault("F1", "the site is not looked at before it is given back", {"cutover.checks.registry:ask_all": _nothing},
          "nothing is stopped while another service is broken", "Nothing was refused"),
    Fault("F2", "a server that somebody started again is deleted", {"cutover.phases.decommission_survey:_running_again": _nothing},
          "a server that somebody started again is not deleted", "Nothing was refused"),
    Fault("F3", "the last backup is not read", {"cutover.proxmox.vzdump:verify": _nothing},
          "a server whose backup cannot be read is not deleted", "could not be restored"),
    Fault("F4", "nobody has to type the name", {"cutover.core.ui:ConfirmedInAdvance.by_name": _none},
          "nothing is deleted that nobody named", "Nothing was refused"),
    Fault("F5", "the names stay", {"cutover.dns.names:Names.delete": _nothing},
          "only their own rules and names are gone", "still there"),
    Fault("F6", "nobody asks whether a server was used after its backup", {"cutover.proxmox.activity:since": lambda *_: ""},
          "an old server that is used after each of its backups is not deleted", "Nothing was refused"),
    Fault("G1", "the guard lets everything through", {"cutover.core.write_guard:WriteGuard.require": _none},
          "a faulty command is stopped before anything is sent", "answered 403"),
    Fault("G2", "two operators may work at once", {"cutover.core.journal:fcntl.flock": _none},
          "a second operator is told to wait", "Nothing was refused"),
    Fault("G3", "nobody looks for the backup whose answer was lost",
          {"cutover.proxmox.client:Proxmox._begun": _none, "cutover.proxmox.vzdump:find": _none, "cutover.proxmox.client:Proxmox.running_tasks": _nothing},
          "a backup whose answer was lost is not made twice", "vzdump-lxc-952"),
    Fault("G4", "the journal forgets what was there", {"cutover.core.journal:Journal.intent": _forgets_what_was_there},
          "the journal of the resize has the old sizes", "the journal has only"),
    Fault("G5", "an undo does not know that it was done", {"cutover.phases.decommission_undo:_not_put_back": _put_back_again},
          "what others changed after an undo is left to them", ""),
    Fault("G6", "a key that sees little is believed", {"cutover.portainer.client:Portainer.need_sight": _none},
          "a stack that the key may not see is not called absent", "Nothing was refused"),
    Fault("H1", "a merge that fails is not taken back", {"cutover.phases.deploy:roll_back": lambda *_, **__: "It stays as it is."},
          "a merge that makes qdrant ill is taken back", "went back to", "2.23.0"),
    Fault("H2", "a merge is not looked at", {"cutover.phases.deploy:refusals": _nothing},
          "a merge that fault is stopped", "Portainer could not deploy", "more cores than there are"),
]  # fmt: skip


def put_in(fault: Fault, patch: pytest.MonkeyPatch) -> None:
    """Break the code. A place that does not exist any more is an error: then the fault would test nothing."""
    for place, instead in fault.breaks.items():
        module, _, name = place.partition(":")
        owner: Any = importlib.import_module(module)
        *parts, last = name.split(".")
        for part in parts:
            owner = getattr(owner, part)
        patch.setattr(owner, last, property(instead) if isinstance(vars(owner).get(last), property) else instead)


# -- the plugin -------------------------------------------------------------------------------------------------------
def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sabotage", metavar="CRITERION", default="", help="break the tool's code for this criterion")


def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--sabotage")
    if wanted:
        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        put_in(next(fault for fault in FAULTS if fault.criterion == wanted), patch)


def _meant(fault: Fault, item: pytest.Item) -> bool:
    words = fault.scenario.replace(" ", "_")
    return criterion_of(item) == fault.criterion and item.name.startswith(f"test_{words}") and fault.row in item.name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Its own scenario, and those of the others that only look."""
    fault = next((fault for fault in FAULTS if fault.criterion == config.getoption("--sabotage")), None)
    if fault is None:
        return
    mine = [item for item in items if _meant(fault, item)]
    if not mine:
        raise pytest.UsageError(f"{fault.criterion} has no scenario {fault.scenario!r} ({fault.row}) any more.")
    changing = ("changes", "lab", "slow", "fact")
    others = [
        item for item in items
        if (c := criterion_of(item)) and c != fault.criterion and not any(item.get_closest_marker(m) for m in changing)
    ]  # fmt: skip
    items[:] = [*mine, *others]
