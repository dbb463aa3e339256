"""The criteria of the plan: the list that features, checks and reports are measured against.

A criterion without a scenario is a gap, and the report says so. The ids are fixed; the sentences are what a reader sees.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """One acceptance criterion. ``of_plan`` is False where this project goes beyond the plan."""

    id: str
    chapter: str
    sentence: str
    of_plan: bool


_CHAPTERS = {
    "A": "Before we start",
    "B": "Preparation",
    "C": "Deployment",
    "D": "Verification",
    "E": "The way back",
    "F": "Giving back the old servers",
    "G": "Trust",
    "H": "GitOps",
}

_LIST = """
A1 P The host can give the new server its resources without strain
A2 P Exactly one machine has the address that Nginx will be pointed to, and it is the new server
A3 + Every server is the one the plan names: id, kind, name and address
A4 + Every write goes through Nginx
A5 P Both Qdrant servers are the same version and configured alike
A6 + The keys can do what the plan needs, and no more
A7 + What cannot be moved safely is named before anything starts
B1 P A snapshot of the old server's data exists and was proved restorable
B2 P The new server itself sees its new cores, memory and a disk that its file system uses
B3 + The rest of the new server comes back after its reboot as it was
B4 P The compose file is valid, pinned, hardened, and passes the checks that a merge must pass
C1 P Portainer runs the stack from Git at the merged commit: the pinned image, healthy and answering
C2 + The container survives a restart of its server with its data
C3 P The new server holds the same data: every record bit by bit, indexes, settings and aliases
C4 P Traffic moves without one failed request and without one lost write; writes wait at most a second
C5 + Traffic moves only while the proof holds; a difference stops it and changes nothing
C6 + The gate changes nothing else for users: same answers, errors, headers, limits and doors as before it
D1 P Qdrant answers through Nginx with the same results as before
D2 P Portainer works as before: same environments, stacks and containers, and it can still deploy
D3 P vLLM is untouched and answers through Nginx all the time
D4 + Applications are let in as before: the same keys open, and what was closed stays closed, also after a merge
D5 + Nobody reads from or writes to the server that was left behind without anybody knowing
E1 P Nginx's configuration is restored byte for byte and serves the old server
E2 P The new server has its old cores and memory again; what happens to the disk is said and chosen
E3 P The container is stopped and removed; its data stays until someone says otherwise
E4 P The old server can be restored from its backup, and is only restored when necessary
E5 + Going back loses nothing that was written since the switch
E6 P From a failure in any step there is a way back to where it began
F1 P Nothing is deleted before the migration is validated and the way back was given up on purpose
F2 P The old servers are stopped, and the site lives without them for the agreed time
F3 P Each old server has a final backup that was proved restorable and cannot be pruned
F4 P Exactly the approved servers are deleted: same id, name and address; anything else is refused
F5 P Their DNS entries and firewall rules are gone, and everyone else's are as before
F6 + Nothing that was written after its final backup is deleted
G1 + Without the word to execute nothing changes anywhere
G2 + Interrupted at any step, a run continues where it was or goes back; nothing is done twice
G3 + When a call's outcome is unknown the tool looks before it acts
G4 + Every change is in the journal with what was there before
G5 + Every undo done twice, or again after a kill, is done once
G6 + What the tool says of a server was asked of that server, not assumed, sampled or hidden from its key
H1 + A merge deploys, and the deploy is proved or rolled back
H2 + A merge that Portainer would turn into an outage never reaches it
"""

CRITERIA: dict[str, Criterion] = {
    line[:2]: Criterion(line[:2], _CHAPTERS[line[0]], line[5:], line[3] == "P") for line in _LIST.strip().splitlines()
}


def table() -> str:
    """The criteria as a Markdown table, as it stands in ``features/README.md``."""
    lines = ["| id | chapter | criterion | |", "|---|---|---|---|"]
    lines += [f"| {c.id} | {c.chapter} | {c.sentence} | {'P' if c.of_plan else ''} |" for c in CRITERIA.values()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
