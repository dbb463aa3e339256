"""What the journal's lines are called that another module looks for, and what they say together.

Whoever writes such a line and whoever looks for it name it by the constant here, so that a search finds both. The questions are
pure: they take lines, oldest first, as :meth:`cutover.core.journal.Journal.entries` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cutover.core.journal import Entry

COPY_BEGUN = "copy.begun"
COPY_RECORDS = "copy.record"
COPY_STOPS_RECORDING = "copy.stop-recording"
COPY_UNDONE = "copy.undone"
COPIED = "copy.copied"
SWITCHED = "switch.finished"
WENT_BACK = "back.finished"
POINTED_TO_NEW = "switch.point"
#: The old server was brought up to date from the records alone, because the new one was gone.
BACK_FROM_RECORDS = "back.alone"
GIVEN_UP = "finish.given-up"
STACK_DEPLOYED = "deploy.stack"
PORTAINER_BEFORE = "portainer.before"
REBOOTED = "resize.reboot"
COMPARED_AFTER_REBOOT = "resize.compared"
NEIGHBOUR_WRONG = "meanwhile.wrong"
#: Ends of names that any move writes, behind the step's own name.
PROVED, DIFFERED = ".proved", ".differences"


def proved_by(step: str) -> str:
    """The note of ``step`` that both servers hold the same."""
    return step + PROVED


def differed_in(step: str) -> str:
    """The note of ``step`` that they do not."""
    return step + DIFFERED


def finished(entries: Sequence[Entry], step: str) -> str | None:
    """When a step of the plan was last completed; None where it was not, or was undone since."""
    for entry in reversed(entries):
        # A gate that was put in since has to be taken out again.
        if entry.act == f"{step}.undone" or (step, entry.act) == ("settle", "gate.finished"):
            return None
        if entry.act == f"{step}.finished":
            return entry.at
    return None


def waits_until(entries: Sequence[Entry], step: str) -> str:
    """Until when a step that was carried out as far as is allowed has to wait; empty where it does not."""
    ends = [e for e in entries if e.act in {f"{step}.waiting", f"{step}.finished", f"{step}.undone"}]
    return str(ends[-1].extra.get("waiting_until") or "") if ends else ""


def all_finished(entries: Sequence[Entry]) -> list[str]:
    """The steps that are completed, and not undone since."""
    names = {e.act.removesuffix(".finished") for e in entries if e.act.endswith(".finished")}
    return sorted(name for name in names if finished(entries, name) is not None)


def probed(entries: Sequence[Entry]) -> list[str]:
    """The completed steps that changed something, and during which the neighbours had to be seen answering."""
    found = [e for e in entries if e.act.endswith(".finished") and e.extra.get("changed") and e.extra.get("probed")]
    return list(dict.fromkeys(e.act.removesuffix(".finished") for e in found))


def given_up(entries: Sequence[Entry]) -> bool:
    """Whether the way back was given up on purpose, and nothing was copied since."""
    return [e.act for e in entries if e.act in {GIVEN_UP, COPY_BEGUN}][-1:] == [GIVEN_UP]


def last_move(entries: Sequence[Entry]) -> Literal["old", "new"] | None:
    """Where the last completed move sent the traffic; None where there was none."""
    moves = [e.act for e in entries if e.act in {SWITCHED, WENT_BACK}]
    return None if not moves else "new" if moves[-1] == SWITCHED else "old"


def lost_with_the_gate(entries: Sequence[Entry], side: str, recording: bool) -> str:
    """What is lost when files of the gate were removed, a sentence; empty where nothing is. ``side``, ``recording``: as left."""
    if last_move(entries) == "new" and side == "old":
        return (
            "the traffic was moved to the new server, and the flag that says so is gone, so users are on the old server: "
            "what was written to the new one since is missing there. Stop writes, and decide which server has what counts."
        )
    if recording or not copy_begun(entries):
        return ""
    again = "`follow` compares everything anew" if side == "new" else "`undo copy`, then `copy`, begin anew"
    return f"the record of writes is gone, and the other server misses what was not brought over; {again}."


def copy_begun(entries: Sequence[Entry]) -> bool:
    """Whether a copy was begun that is neither undone nor ended."""
    for entry in reversed(entries):
        if entry.act in {COPY_UNDONE, BACK_FROM_RECORDS} or (entry.act == COPY_STOPS_RECORDING and entry.kind == "done"):
            return False
        if entry.act == COPY_BEGUN:
            return True
    return False


def went_back_from_records(entries: Sequence[Entry]) -> bool:
    """Whether the last move went back without the new server, and nothing was copied or undone since."""
    marks = [e.act for e in entries if e.act in {COPY_BEGUN, COPY_UNDONE, BACK_FROM_RECORDS}]
    return marks[-1:] == [BACK_FROM_RECORDS]


def proved_at(entries: Sequence[Entry]) -> str:
    """When both servers were last proved the same since the copy began; empty where a later look found a difference."""
    for entry in reversed(entries):
        if entry.act in {COPY_BEGUN, COPY_UNDONE} or entry.act.endswith(DIFFERED):
            return ""
        if entry.act.endswith(PROVED):
            return entry.at
    return ""


def last_comparison_differed(entries: Sequence[Entry]) -> bool:
    """Whether the last comparison of everything found a difference."""
    marks = [e.act for e in entries if e.act.endswith((DIFFERED, PROVED, GIVEN_UP))]
    return bool(marks) and marks[-1].endswith(DIFFERED)


def deployed(entries: Sequence[Entry]) -> bool:
    """Whether this journal knows of a deployment of the stack."""
    return any(e.act == STACK_DEPLOYED and e.kind == "done" for e in entries)


def last_at(entries: Sequence[Entry], act: str) -> str:
    """When ``act`` was last begun or done; empty where it never was."""
    return next((e.at for e in reversed(entries) if e.act == act and e.kind in {"done", "intent"}), "")


def open_intents(entries: Sequence[Entry]) -> list[Entry]:
    """The intents without an outcome: acts that go on, or in which the tool was ended."""
    closed = {e.of for e in entries if e.of is not None}
    return [e for e in entries if e.kind == "intent" and e.seq not in closed]


def last_open(entries: Sequence[Entry]) -> Entry | None:
    """The newest of them, where nothing was begun after it: the act in which the tool was interrupted."""
    newest = next((e for e in reversed(entries) if e.kind == "intent"), None)
    return newest if newest in open_intents(entries) else None


def not_seen_done(lines: Sequence[Entry]) -> Entry | None:
    """The newest intent among the lines of one act, where nobody saw it done, so that it may still go on elsewhere; else None.

    Whoever stops the tool while it waits leaves a "failed", and Proxmox goes on all the same.
    """
    last = next((e for e in reversed(lines) if e.kind == "intent"), None)
    return None if last is None or any(e.of == last.seq and e.kind == "done" for e in lines) else last
