"""The whole move as numbered steps: what each needs, what it changes, and how it is undone.

This is the page an operator reads before the evening of the move; ``cutover plan`` prints it with the site's own
numbers and marks what the journal says is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cutover.core.journal import Journal
from cutover.site.schema import Site


@dataclass(frozen=True)
class Step:
    """One step of the plan. ``verb`` is the command that does it; ``criteria`` are the ids that show it worked."""

    verb: str
    title: str
    does: str
    needs: str
    changes: str
    undo: str
    criteria: tuple[str, ...]


def steps(site: Site) -> list[Step]:
    """The plan for a site, in order."""
    guests, sizes, limits = site.guests, site.resize, site.limits
    before, after = sizes.before, sizes.after
    gone = ", ".join(str(guest.vmid) for guest in guests.to_decommission())
    return [
        Step(
            verb="check",
            title="Look before anything is touched",
            does=f"Asks whether the host has room, whether {guests.new.address} is {guests.new} and nothing else, whether every "
            "write goes through Nginx, whether both servers are alike, and what could not be moved safely.",
            needs="Read-only keys.",
            changes="Nothing.",
            undo="Nothing to undo.",
            criteria=("A1", "A2", "A3", "A4", "A5", "A6", "A7", "D1", "D2", "D3"),
        ),
        Step(
            verb="backup",
            title="Save what is there",
            does=f"Takes a checked snapshot of every collection and a protected backup of {guests.old}, and proves that it can "
            "be restored by restoring it under a scratch id.",
            needs=f"Room on storage {site.proxmox.storages.backup}; the free id {site.proxmox.scratch_vmid}.",
            changes="Adds snapshots and one backup. The scratch guest is removed again.",
            undo="The backup is kept; delete it by hand when it is no longer wanted.",
            criteria=("B1", "E4"),
        ),
        Step(
            verb="resize",
            title=f"Make room on {guests.new}",
            does=f"{before.cores} to {after.cores} cores, {before.memory_mb} to {after.memory_mb} MB, "
            f"{before.disk_gb} to {after.disk_gb} GB, grown inside the guest and proved from there.",
            needs=f"One reboot of {guests.new}: everything on it is away for that time.",
            changes="Cores, memory and disk of the VM.",
            undo="`cutover undo resize` gives cores and memory back with a second reboot; a disk cannot shrink and stays.",
            criteria=("B2", "B3", "E2"),
        ),
        Step(
            verb="deploy",
            title="Run Qdrant from Git",
            does=f"Portainer runs stack {site.portainer.stack} from {site.portainer.reference}; proved by commit, image digest, "
            "health and an answer.",
            needs=f"The merged commit with {site.portainer.compose_file}; QDRANT_API_KEY and QDRANT_READ_ONLY_API_KEY.",
            changes=f"One stack, one container and its volumes on {guests.new}.",
            undo="`cutover undo deploy` removes the container; its volumes stay until they are named.",
            criteria=("B4", "C1", "C2", "D2", "E3", "H1", "H2"),
        ),
        Step(
            verb="gate",
            title="Teach Nginx to hold and record",
            does=f"Replaces {site.nginx.server_file} by the gate, which still asks the old server, and proves it.",
            needs="A shell on the Nginx host; one reload.",
            changes=f"Nginx's configuration and {site.nginx.gate_folder}.",
            undo="`cutover undo gate` restores the configuration byte for byte.",
            criteria=("E1",),
        ),
        Step(
            verb="copy",
            title="Copy, and keep up",
            does="Records every write, copies every collection by snapshot, brings over what was written meanwhile, and compares "
            "everything bit by bit. Applications notice nothing.",
            needs="Room on the new server; the read-only key.",
            changes="Collections and aliases on the new server; recorded writes on the Nginx host.",
            undo="`cutover undo copy` empties the new server again and stops recording.",
            criteria=("A7", "C3"),
        ),
        Step(
            verb="switch",
            title="Move the traffic",
            does=f"Holds writes (at most {limits.hold_seconds:g} s), brings over the last ones, proves that both servers are the "
            "same, and lets Nginx ask the new one. If the proof is not there in time, nothing has happened.",
            needs="A finished copy.",
            changes="One flag file on the Nginx host. From then on the old server is fed.",
            undo="`cutover back` moves the traffic back and loses nothing.",
            criteria=("C4", "C5", "D1", "D3", "E5"),
        ),
        Step(
            verb="finish",
            title="Give up the way back",
            does="Compares everything once more, then stops feeding the old server. Asks for the site's name.",
            needs="Days of watching, as many as you like.",
            changes="Recording stops; recorded writes are removed.",
            undo=f"None that keeps new writes; {guests.old} can still be restored from its backup.",
            criteria=("F1",),
        ),
        Step(
            verb="decommission",
            title=f"Give back {gone}",
            does=f"Stops them, waits {limits.soak_hours:g} hours, takes a final proved backup of each, removes the firewall "
            "rules and DNS entries that are theirs alone, and deletes exactly them, one at a time.",
            needs="`finish` was done; the name of each guest, typed.",
            changes=f"Guests {gone}, their firewall rules and DNS entries.",
            undo="Each from its final backup; the undo record says what a restore does not bring back.",
            criteria=("F1", "F2", "F3", "F4", "F5"),
        ),
        Step(
            verb="settle",
            title="Take the gate out for good",
            does=f"Puts {site.nginx.server_file} back as it was before the gate, with the new server's address.",
            needs="`finish` was done; one reload.",
            changes="Nginx's configuration.",
            undo="Edit the address by hand, as before.",
            criteria=("D1",),
        ),
    ]


def done(journal: Journal, verb: str) -> str | None:
    """When the journal says that a step was last completed, or None where it was not or was undone since."""
    for entry in reversed(journal.entries()):
        if entry.act == f"{verb}.undone":
            return None
        if entry.act == f"{verb}.finished":
            return entry.at
    return None


def position(site: Site, journal: Journal) -> Sequence[tuple[Step, str | None]]:
    """Every step with the time at which it was completed."""
    return [(step, done(journal, step.verb)) for step in steps(site)]
