"""How a task of Proxmox ended, and why: from its last line and its log. Nothing is asked here."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cutover.core.errors import Failed, OutcomeUnknown
from cutover.proxmox.answers import HINTS, kind_of

#: A task's name: node, process, start, type, guest, user.
UPID = re.compile(r"UPID:[A-Za-z0-9.-]+:[0-9A-Fa-f]+:[0-9A-Fa-f]+:[0-9A-Fa-f]+:[\w-]+:[^\s:/]*:[^\s:/]+:")


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended. ``exitstatus`` is Proxmox's own word for it, ``log`` its whole log.

    *warnings*: it did its work and has something to say. *unknown*: its worker died or its node restarted, so nobody knows
    how far it got. *timeout*: it still runs; ``upid`` finds it again.
    """

    upid: str
    state: Literal["ok", "warnings", "error", "unknown", "timeout"]
    exitstatus: str
    log: tuple[str, ...] = field(default=(), repr=False)

    def must(self, what: str, *, warnings: bool = False) -> TaskEnd:
        """The task, where it is ok (or has warnings and those are allowed); :class:`Failed` or :class:`OutcomeUnknown`."""
        if self.state == "ok" or (warnings and self.state == "warnings"):
            return self
        reason = self.reason()
        if self.state == "timeout":
            raise OutcomeUnknown(f"{what}: the task still runs ({self.upid}).", "Wait for it in Proxmox, then run again.")
        if self.state == "unknown":
            raise OutcomeUnknown(f"{what}: the task's worker ended without saying how ({self.upid}).", "Look in Proxmox.")
        if self.state == "warnings":
            raise Failed(f"{what} ended with warnings: {reason}.", "Read the task's log and decide whether they matter.")
        raise Failed(f"{what} failed: {reason}.", HINTS[kind_of(reason)])

    def reason(self) -> str:
        """The sentence that says why; see :func:`why`."""
        return why(self.log, self.exitstatus)


#: What the kernel says when something cannot be done, in the words of the C library.
_KERNEL = tuple(sorted({os.strerror(number) for number in errno.errorcode}, key=len, reverse=True))
_LEVEL = re.compile(r"^(ERROR|WARN(ING)?S?|INFO): ")


def why(log: Iterable[str], exitstatus: str = "") -> str:
    """Why a task failed or warns, from its log. Pure.

    Proxmox' own last word is often only that it failed, or a long command with an exit code; the reason ("No space left on
    device") then stands in some line before it, whatever that line's level is. It comes first.
    """
    lines = [line.strip() for line in log]
    said = [_with_its_list(lines, at) for at, line in enumerate(lines) if re.match(r"(ERROR|WARN(ING)?S?): ", line)]
    own = exitstatus if exitstatus and exitstatus != "job errors" and not exitstatus.startswith("WARNINGS") else ""
    told = [_shortened(one) for one in ([own] if own else said[:3])] or [exitstatus]
    kernel = [_LEVEL.sub("", line) for line in lines if any(word in line for word in _KERNEL) and not line.startswith("TASK ")]
    causes = [line for line in dict.fromkeys(map(_shortened, kernel)) if not any(line in one for one in told)]
    return "; ".join([*causes[:2], *told])


def _with_its_list(lines: Sequence[str], at: int) -> str:
    """A line without its level; one that ends in a colon with the lines that it announces, which Proxmox puts between rules."""
    text = _LEVEL.sub("", lines[at])
    if not text.endswith(":"):
        return text
    listed = []
    for line in lines[at + 1 :]:
        if _LEVEL.match(line) or line.startswith("TASK "):
            break
        if line.strip("-"):
            listed.append(line)
        elif listed:
            break
    return f"{text} {', '.join(listed)}".rstrip(": ")


def _shortened(text: str) -> str:
    """A sentence whose commands are cut after their first words: they can be as long as a page."""
    return re.sub(r"command '([^']{0,24})(?:[^']|'(?!\s+failed))*'(?=\s+failed)", r"command '\1...'", text)


def task_state(exitstatus: str | None) -> Literal["ok", "warnings", "error", "unknown"]:
    """What a finished task's exit status means. Pure. (``WARNINGS: 2`` is no failure, ``unexpected status`` is neither.)"""
    if exitstatus == "OK":
        return "ok"
    if exitstatus is None or exitstatus in {"", "unexpected status", "unknown"}:
        return "unknown"
    return "warnings" if re.fullmatch(r"WARNINGS: \d+", exitstatus) else "error"
