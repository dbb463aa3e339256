"""The proof that a gate is loaded, sees its flags and changes nothing for users; and afterwards, that it is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate import doorway
from cutover.gate.obstacles import blind_sentence
from cutover.gate.reload import BY_HAND_SECONDS

if TYPE_CHECKING:
    from cutover.core.write_guard import WriteGuard
    from cutover.gate.folder import Folder
    from cutover.gate.worker import Worker
    from cutover.site.schema import Site

Answers = Mapping[str, doorway.Answer]


class Proof:
    """Asks a worker, and through the operator's own server. ``tell``: how somebody who waits hears of it."""

    def __init__(self, site: Site, guard: WriteGuard, folder: Folder, worker: Worker) -> None:
        self._site, self._nginx, self._guard = site, site.nginx, guard
        self._folder, self._worker = folder, worker
        self.by_hand_seconds = BY_HAND_SECONDS
        self.tell: Callable[[str], None] = lambda _: None

    def say(self, sentence: str) -> None:
        """Tell somebody who waits."""
        self.tell(sentence)

    def look(self) -> dict[str, doorway.Answer]:
        """How users are answered now, through the operator's own server."""
        return self._worker.answers_to_users(writes=self._guard.is_open)

    def is_loaded(self, checksum: str) -> bool:
        """Whether exactly this gate is loaded, and its proof was not broken off (that leaves its flag)."""
        seen = self._said()
        return seen is not None and seen["files"] == checksum and "probe" not in seen["flags"].split()

    def _said(self) -> dict[str, str] | None:
        return self._worker.loaded() if self._nginx.edit else self._worker.listening()

    def prove(self, checksum: str, before: Answers, again: Answers) -> None:
        """That this gate is loaded and sees its flags, and that users are answered as before."""

        def loaded() -> bool | Not:
            seen = self._said()
            if seen is None:
                return Not(
                    f"{self._site.qdrant.public_url if self._nginx.edit else self._nginx.gate_address} answers without a gate"
                )
            return True if seen["files"] == checksum else Not("it has other files of the gate loaded")

        wait_until(loaded, deadline=10, what="Loading the gate", every=0.05)
        self._folder.change("true > flags/probe", "set the flag probe")
        try:
            wait_until(self._sees_probe, deadline=2, what="Seeing a flag", every=0.05)
        except TimedOut:
            raise self.blind() from None
        if self._nginx.edit:
            self.same(before, again)
        # Last: where it stays, the proof was broken off, and is made again.
        self._folder.change("rm -f flags/probe", "remove the flag probe")

    def _sees_probe(self) -> bool | Not:
        seen = self._said() or {}
        return True if "probe" in str(seen.get("flags")).split() else Not("nginx does not see it")

    def blind(self) -> Refused:
        """That the workers cannot see the flags."""
        return Refused(blind_sentence(self._nginx, f"{self._folder.path}/flags"))

    def same(self, before: Answers, again: Answers) -> None:
        """That users are answered as before; :class:`Refused` with every difference."""
        kept = all(not answer.body for answer in before.values())
        found = self._differences(before, again, self._bodiless() if kept else self.look())
        if found:
            raise Refused(f"With the gate users would be answered otherwise: {' '.join(found)}")

    def arrive(self, before: Answers, again: Answers) -> None:
        """Where the address is put in by hand: wait until it is, and prove that users are answered as before."""
        if self._nginx.edit:
            return
        address, public, old = self._nginx.gate_address, self._site.qdrant.public_url, self._site.qdrant.old_url
        old = old.partition("//")[2]
        self.tell(f"Let {public} pass its requests to http://{address} instead of http://{old} now. Waiting for it.")

        by_gate = False

        def through() -> bool | Not:
            # Twice: right after a reload processes from before still answer, so one request says nothing of the next.
            nonlocal by_gate
            before_it, by_gate = by_gate, self._worker.loaded() is not None
            return (before_it and by_gate) or Not(f"{public} does not pass the gate")

        try:
            wait_until(through, deadline=self.by_hand_seconds, what="A request that comes by the gate", every=0.5)
        except TimedOut:
            raise Failed(
                f"The gate listens on {address}, and {public} does not pass its requests there.",
                f"Put {address} in place of {old} where that server is told where to pass them, then run `gate` again. "
                "`undo gate` takes it out.",
            ) from None
        self.same(before, again)

    def left(self, noted: Answers) -> str:
        """That nobody comes by the gate any more, and users are answered as before it; a remark where they are not."""

        def unloaded() -> bool | Not:
            return True if self._worker.loaded() is None else Not("nginx still answers with the gate")

        wait_until(unloaded, deadline=10, what="Loading the configuration from before", every=0.05)
        try:
            found = self._differences(noted, noted, self._bodiless())
        except CutoverError as error:
            return f" But {self._site.qdrant.public_url} could not be asked: {error.sentence}"
        return f" But look: {' '.join(found)}" if found else ""

    def _differences(self, before: Answers, again: Answers, now: Answers) -> list[str]:
        return doorway.differences(before, again, now, self._worker.addresses.behind)

    def _bodiless(self) -> dict[str, doorway.Answer]:
        return {name: doorway.Answer(a.status, a.headers, "") for name, a in self.look().items()}
