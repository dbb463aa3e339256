"""The criteria of the plan: the list that features, checks and reports are measured against.

A criterion without a scenario is a gap, and the report says so. The ids are fixed; the sentences are what a reader sees.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """One acceptance criterion. ``plan``: the number of the plan's sentence; empty where this project goes beyond the plan."""

    id: str
    chapter: str
    sentence: str
    plan: str


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
A1 4.1 The host can give the new server its resources without strain
A2 4.2 Exactly one machine has the address that Nginx will be pointed to, and it is the new server
A3 + Every server is the one the plan names: id, kind, name and address
A4 + Every write goes through Nginx
A5 4.3 Both Qdrant servers are the same version and configured alike
A6 + The keys can do what the plan needs, and no more
A7 + What cannot be moved safely is named before anything starts
B1 5.1.1 A snapshot of the old server's data exists and was proved restorable
B2 5.1.2 The new server itself sees its new cores, memory and a disk that its file system uses
B3 + The rest of the new server comes back after its reboot as it was
B4 5.1.3 The compose file is valid, pinned, hardened, and passes the checks that a merge must pass
C1 5.2.1 Portainer runs the stack from Git at the merged commit: the pinned image, healthy and answering
C2 + The container survives a restart of its server with its data
C3 5.2.2 The new server holds the same data: every record bit by bit, indexes, settings and aliases
C4 5.2.3 Traffic moves without one failed request and without one lost write; writes wait at most a second
C5 + Traffic moves only while the proof holds; a difference stops it and changes nothing
C6 + The gate changes nothing else for users: same answers, errors, headers, limits and doors as before it
D1 5.3.1 Qdrant answers through Nginx with the same results as before
D2 5.3.2 Portainer works as before: same environments, stacks and containers, and it can still deploy
D3 5.3.3 vLLM is untouched and answers through Nginx all the time
D4 + Applications are let in as before: the same keys open, and what was closed stays closed, also after a merge
D5 + Nobody reads from or writes to the server that was left behind without anybody knowing
E1 7.1 Nginx's configuration is restored byte for byte and serves the old server
E2 7.2 The new server has its old cores and memory again; what happens to the disk is said and chosen
E3 7.3 The container is stopped and removed; its data stays until someone says otherwise
E4 7.4 The old server can be restored from its backup, and is only restored when necessary
E5 + Going back loses nothing that was written since the switch
E6 7 From a failure in any step there is a way back to where it began
F1 6 Nothing is deleted before the migration is validated and the way back was given up on purpose
F2 6.1 The old servers are stopped, and the site lives without them for the agreed time
F3 6.2 Each old server has a final backup that was proved restorable and cannot be pruned
F4 6.3 Exactly the approved servers are deleted: same id, name and address; anything else is refused
F5 6.4 Their DNS entries and firewall rules are gone, and everyone else's are as before
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
    name: Criterion(name, _CHAPTERS[name[0]], sentence, plan.strip("+"))
    for name, plan, sentence in (line.split(" ", 2) for line in _LIST.strip().splitlines())
}


def table() -> str:
    """The criteria as a Markdown table, as it stands in ``features/README.md``."""
    lines = ["| id | chapter | criterion | plan |", "|---|---|---|---|"]
    lines += [f"| {c.id} | {c.chapter} | {c.sentence} | {c.plan} |" for c in CRITERIA.values()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
