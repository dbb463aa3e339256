"""Inside a VM through its guest agent: whether it answers, what is in a file, and running a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Failed, OutcomeUnknown, Refused, Unreachable
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.proxmox.answers import ProxmoxRefused

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox
    from cutover.proxmox.guest_disk import Reader
    from cutover.site.schema import Guest

#: Where programs may lie: an agent's own path often lacks the second half, and older systems have them in the last two.
_FIND = 'PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin" exec "$@"'
#: The shell's exit code for a program that is not there.
NOT_FOUND = 127


@dataclass(frozen=True)
class Ended:
    """How a program inside a VM ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The first line that says something, for a sentence."""
        lines = (line.strip() for line in (*self.err.splitlines(), *self.out.splitlines()))
        return next(filter(None, lines), f"code {self.code}")


def wait_for(api: Proxmox, vm: Guest, deadline: float) -> None:
    """Wait until the agent of a VM that runs answers."""

    def answers() -> bool | Not:
        try:
            api.get(f"{api.of(vm)}/agent/info")
        except (ProxmoxRefused, Unreachable) as error:
            return Not(error.sentence)
        return True

    try:
        wait_until(answers, deadline=deadline, what=f"{vm}'s guest agent answering", every=api.poll)
    except TimedOut as late:
        raise Failed(late.sentence, f"Look at {vm} in Proxmox, then run the command again.") from None


def reader(api: Proxmox, vm: Guest) -> Reader:
    """Reads files inside, which changes nothing. :class:`Refused` where the agent does not read them."""

    def read(path: str) -> str | None:
        try:
            return str(dict(api.get(f"{api.of(vm)}/agent/file-read", file=path)).get("content") or "")
        except ProxmoxRefused as error:
            if "No such file" in error.sentence:
                return None
            raise Refused(f"The guest agent of {vm} does not read files: {error.sentence}") from None

    return read


def run(api: Proxmox, vm: Guest, argv: Sequence[str], *, deadline: float = 120.0) -> Ended:
    """Run a program inside, and wait for its end. Needs an open act.

    Through the shell there, which finds it, and says plainly where it is not there (:data:`NOT_FOUND`; the agent does not).
    """
    shown = f"`{' '.join(argv)}` inside {vm}"
    pid = api.change("POST", f"{api.of(vm)}/agent/exec", command=["/bin/sh", "-c", _FIND, "sh", *argv])["pid"]

    def ended() -> dict[str, Any] | Not:
        # How a program ended is told once: where that answer is lost, asking again finds no such program.
        try:
            found: dict[str, Any] = api.get_once(f"{api.of(vm)}/agent/exec-status", pid=pid)
        except (Unreachable, ProxmoxRefused) as error:
            raise OutcomeUnknown(
                f"{shown} was run, and how it ended is not known: {error.sentence}",
                "Look inside the VM; running the command again is safe.",
            ) from None
        return found if found.get("exited") else Not("it runs")

    try:
        found = wait_until(ended, deadline=deadline, what=shown, every=api.poll)
    except TimedOut as late:
        raise OutcomeUnknown(late.sentence) from None
    return Ended(int(found.get("exitcode") or 0), str(found.get("out-data") or ""), str(found.get("err-data") or ""))
