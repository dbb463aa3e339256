"""Nginx as the tool works it: the gate's flags, and putting the gate in and taking it out.

Everything happens on the Nginx host through one open shell (:mod:`cutover.core.shell`); what only a worker process can know is
asked over HTTP (:mod:`cutover.gate.worker`); what was recorded is read by :mod:`cutover.gate.records`. How the gate itself works
is said in ``nginx/qdrant-gate.conf``.

A hold cannot outlive this tool. The Nginx host starts a clock before it sets the flag, and takes the flag away when the
time is over. Ending a hold and switching both begin by making the same folder, which only one can: so either the switch
happens wholly inside the hold, or it is refused because the hold was over.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.shell import Shell
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate import doorway, templates
from cutover.gate.addresses import Addresses
from cutover.gate.bodies import Bodies
from cutover.gate.folder import Folder, State, synced
from cutover.gate.installer import Installed, Installer
from cutover.gate.interface import Written
from cutover.gate.nginx_host import Inspector
from cutover.gate.proof import Proof
from cutover.gate.records import Records
from cutover.gate.watch import Watch
from cutover.gate.worker import Worker
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials
    from cutover.core.write_guard import WriteGuard
    from cutover.gate.nginx_host import Facts
    from cutover.site.schema import Site

#: After this many seconds the gate itself answers held writes with 503.
LONGEST_HOLD = 1.4
#: Free room for beginning to record.
ROOM_TO_RECORD_MB = 512
#: Seconds for removing what may be a million files.
MANY = 600.0


class Gate:
    """The gate of one site; satisfies :class:`cutover.gate.interface.Gate`. Changing methods need an open act."""

    def __init__(self, site: Site, credentials: Credentials, guard: WriteGuard) -> None:
        self._site, self._guard = site, guard
        self.shell = Shell(site.nginx.shell, guard)
        self._host = Inspector(self.shell, site.nginx)
        self._folder = Folder(site.nginx.gate_folder, self.shell, self._host.gate_file)
        addresses = Addresses(site, self._host)
        self.worker = Worker(site, credentials, guard, self._folder, self._host, addresses)
        self.proof = Proof(site, guard, self._folder, self.worker)
        bodies = Bodies(self._folder, site.nginx.worker_user)
        self.records, self.watch = Records(self._folder, bodies), Watch(self._folder, bodies)
        self.installer = Installer(site, guard, self._folder, self._host, addresses, self.worker, self.proof, self.files)
        self._build: templates.Build | None = None
        self._hold, self.holding = "", False

    def close(self) -> None:
        """Give the shell back. A hold that is in force ends on the host by itself."""
        self.shell.close()
        self.worker.close()

    # --- What is there -----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """What the flags say now. Without a gate: nothing is held or recorded, and the old server is asked."""
        return self._folder.state()

    def loaded(self) -> dict[str, Any] | None:
        """What a worker process says about the gate; see :meth:`cutover.gate.worker.Worker.loaded`."""
        return self.worker.loaded()

    def contradiction(self) -> str:
        """Why what Nginx does is not what the flags on its host say, a sentence; empty where it is."""
        return self.worker.contradiction()

    def answers_to_users(self, *, writes: bool) -> dict[str, doorway.Answer]:
        """How users are answered now; ``writes``: also to a write that can change nothing."""
        return self.worker.answers_to_users(writes=writes)

    def files(self, facts: Facts | None = None) -> templates.Gatefile:
        """The gate's file for this site and its nginx."""
        if self._build is None or facts is not None:
            self._build = (facts or self._host.facts()).built()
        return templates.render(
            folder=self._folder.path,
            old=netloc(self._site.qdrant.old_url),
            new=netloc(self._site.qdrant.new_url),
            address=self._site.nginx.gate_address,
            build=self._build,
            token=self._folder.wanted_token(),
        )

    # --- Putting it in and taking it out -----------------------------------------------------------------------------

    def install(self) -> Installed:
        """Put the gate in, prove it, and take it out again where a proof fails; see :mod:`cutover.gate.installer`."""
        return self.installer.install()

    def remove(self) -> Installed:
        """Put the operator's files back byte for byte and prove that the old server is asked again."""
        self.need_removable()
        return self.installer.remove()

    def need_removable(self) -> None:
        """:class:`Refused` while the new server serves, or while writes are held."""
        state = self.state()
        if state.side == "new":
            raise Refused(
                "The new server serves, and the configuration from before sends users to the old one.",
                "Go `back` first, so that nothing is lost that was written since.",
            )
        if state.held:
            raise Refused("Writes are held at this moment.", "Let the move end, or run it again, before the gate is taken out.")

    def settle(self) -> Installed:
        """Take the gate out for good while the new server serves: your own server file comes back, with the new address."""
        self.need_unneeded()
        return self.installer.settle()

    def need_unneeded(self) -> None:
        """:class:`Refused` while the old server serves, or the way back is kept open."""
        state = self.state()
        if state.side != "new" or state.held or state.recording:
            raise Refused(
                "The gate is still needed: "
                + ("the old server serves." if state.side != "new" else "the way back is kept open."),
                "It can go when the way back was given up (`finish`).",
            )

    # --- Recording ---------------------------------------------------------------------------------------------------

    def start_recording(self, deadline: float = 30.0) -> None:
        """Record every write from now on, beginning with an empty log.

        When this returns, no write that began unrecorded is still under way: a snapshot taken now holds those, and the
        log holds the others. :class:`Refused` (and not recording) when one takes longer than ``deadline`` seconds, or
        when an nginx process from before the gate still serves somebody.
        """
        if self.state().recording:
            self.stop_recording(deadline)
        self._need_loaded()
        free = self._folder.free_mb()
        if 0 <= free < ROOM_TO_RECORD_MB:
            raise Refused(
                f"There are only {free} MB free for recorded writes in {self._folder.path} on {self.shell.where}.",
                f"Make room for at least {ROOM_TO_RECORD_MB} MB.",
            )
        begin = f"{self.records.emptied()} && true >> log/writes.jsonl && true > log/writes.jsonl && true > flags/record && "
        self._folder.change(f"{begin}{synced('flags/record')} || exit 1\n{self.watch.begun()}", "set the flag record", MANY)
        self.records.anew()
        try:
            wait_until(self._all_recorded, deadline=deadline, what="The end of the last unrecorded write", every=0.05)
        except CutoverError as error:
            self._folder.change("rm -f flags/record && " + synced("flags"), "remove the flag record")
            self._guard.taken_back()
            if isinstance(error, TimedOut):
                raise Refused(
                    f"Recording was not begun: {error.sentence}",
                    "Let that write end, and try again. If there is none, an nginx process was killed with one: restart nginx.",
                ) from None
            raise

    def _all_recorded(self) -> bool | Not:
        seen = self.loaded()
        if seen is None or "record" not in seen["flags"].split():
            return Not("nginx does not see the flag")
        older = self._host.processes_ending(int(seen["pid"]))
        if older:
            shown = ", ".join(map(str, older))
            return Not(f"nginx processes from before the last reload still serve requests (process {shown})")
        if self.worker.nothing_unrecorded():
            return True
        return Not("a write that began before is still under way")

    def _need_loaded(self) -> None:
        seen = self.loaded()
        if seen is None:
            raise Refused(f"There is no gate at {self._site.qdrant.public_url}.", "Install it first.")
        if seen["files"] != self.files().checksum:
            raise Refused("Nginx has other files of the gate loaded than this site's.", "Install the gate again.")

    def stop_recording(self, deadline: float = 30.0) -> None:
        """Record no more, wait for the writes that are being recorded, and remove log and bodies."""
        self._folder.change("rm -f flags/record && " + synced("flags"), "remove the flag record")
        with suppress(TimedOut, Failed):  # what takes longer, or is damaged, is not needed any more
            wait_until(self.records.nothing_open, deadline=deadline, what="The end of the writes being recorded", every=0.05)
        self._folder.change(
            f"{self.records.emptied()}; if [ -f log/writes.jsonl ]; then true > log/writes.jsonl; fi",
            "remove what was recorded",
            MANY,
        )
        self.records.anew()

    # --- Hold and switch ---------------------------------------------------------------------------------------------

    def hold(self, seconds: float) -> None:
        """Hold writes for at most ``seconds``; see :class:`cutover.gate.interface.Gate`. Repeated: the hold begins anew."""
        if not 0 < seconds <= LONGEST_HOLD:
            raise Refused(f"A hold of {seconds:g} s is not possible; the gate answers held writes after {LONGEST_HOLD} s.")
        if self.state().held:
            self.release()
        # Also so that reading the log inside the hold is short.
        wait_until(
            self.records.nobody_waits, deadline=2.0, what="The end of the waiting of writes that were held before", every=0.01
        )
        token = randomness.token_hex(8)
        # The clock first: a hold without a clock could outlive a killed tool.
        clock = (
            f"(trap '' HUP; sleep {seconds:g} 2>/dev/null || sleep {max(1, round(seconds))}; "
            f'if mkdir turn.{token} 2>/dev/null && [ "$(cat flags/hold)" = {token} ]; then rm -f flags/hold; fi; '
            f'sleep 5; rm -rf turn.{token} "$m"/qdrant-gate-hold.{token}) '
            "</dev/null >/dev/null 2>&1 &\n"
        )
        # The flag is a link into memory, so that it does not survive a restart of the host, as its clock does not.
        memory = "for m in /run /dev/shm flags; do if [ -d $m ] && [ -w $m ]; then break; fi; done\n"
        clock = memory + 'case $m in /*) ;; *) m="$PWD/flags" ;; esac\n' + clock
        flag = (
            f'printf %s {token} > "$m"/qdrant-gate-hold.{token} && rm -f flags/.hold '
            f'&& ln -s "$m"/qdrant-gate-hold.{token} flags/.hold && mv -f flags/.hold flags/hold '
            "|| { rm -f flags/.hold; exit 1; }"
        )
        self._folder.change(f"[ ! -f flags/hold ] || exit 8\n{clock}{flag}", "set the flag hold")
        self._hold, self.holding = token, True
        self._need_held()

    def _need_held(self) -> None:
        """Ask nginx itself: a folder that was closed, or a configuration that was replaced, since the gate was put in."""
        seen = self.loaded()
        if seen is None or "hold" not in seen["flags"].split():
            if seen is not None and not self.state().held:
                raise Refused("The hold was over before it could be used; nothing was changed.", "A hold has to be longer.")
            self.release()
            why = "there is no gate any more" if seen is None else "its worker processes do not see the flag"
            raise Refused(f"Nginx does not hold writes: {why}. Nothing was changed.", "Put the gate in again: `cutover gate`.")

    def release(self) -> None:
        """End the hold; fine when there is none. Returns when it has ended."""
        self._hold = ""
        self._folder.change(
            "[ -f flags/hold ] || exit 0\n"
            "token=$(cat flags/hold 2>/dev/null)\n"
            # The clock has its turn: let it finish, so that it cannot remove a hold that comes later.
            'if [ -n "$token" ] && ! mkdir "turn.$token" 2>/dev/null; then\n'
            "  n=0; while [ -f flags/hold ] && [ $n -lt 20 ]; do n=$((n+1)); sleep 0.05 2>/dev/null || sleep 1; done\n"
            "fi\n"
            "rm -f flags/hold",
            "remove the flag hold",
        )
        self.holding = False

    def point_to_new(self) -> None:
        """Ask the new server from now on, and end the hold. See :class:`cutover.gate.interface.Gate`."""
        self._point(f"true > flags/new && {synced('flags/new')}", "rm -f flags/new", "set the flag new")

    def point_to_old(self) -> None:
        """Ask the old server from now on, and end the hold."""
        self._point(f"rm -f flags/new && {synced('flags')}", "true > flags/new", "remove the flag new")

    def _point(self, do: str, undo: str, what: str) -> None:
        token, self._hold = self._hold, ""
        gone = Refused(
            "The hold was over before traffic could be moved; nothing was changed.", "Try again; a hold has to be shorter."
        )
        if not token:
            raise gone
        # `true >` and not `: >`: where the disk is full, a failing `:` would end the script, and nobody would end the hold.
        # First the flag that says where, on the disk; then the hold ends. nginx looks in the opposite order.
        answer = self.shell.change(
            f"{self._folder.cd}"
            f'[ "$(cat flags/hold 2>/dev/null)" = {token} ] && mkdir turn.{token} 2>/dev/null || exit 3\n'
            f"if {do}; then rm -f flags/hold; else {undo}; rm -f flags/hold; exit 4; fi",
            what,
        )
        self.holding = False
        if answer.code == 3:
            raise gone
        if answer.code != 0:
            raise Failed(
                f"The Nginx host could not {what}: {answer.reason}. The hold was ended where it was.", "Make room on its disk."
            )

    # --- What was recorded: see :mod:`cutover.gate.records` ----------------------------------------------------------

    def drain(self, deadline: float) -> None:
        """Wait until every write that had passed before the hold has its line in the log; TimedOut otherwise."""
        self.records.drain(deadline)

    def under_way(self) -> Sequence[Written]:
        """Writes that had passed and were not over when the log was last read."""
        return self.records.under_way()

    def log_end(self) -> int:
        """Position just after the last complete line."""
        return self.records.log_end()

    def read_parts(self, from_offset: int) -> Iterator[Sequence[Written]]:
        """The writes that ended, from a position on, some megabytes of the log at a time."""
        return self.records.read_parts(from_offset)

    def read_log(self, from_offset: int) -> Sequence[Written]:
        """The writes that ended, from a position on. Last come those whose nginx process died with them, until forgotten."""
        return self.records.read_log(from_offset)

    def bodies(self, entries: Iterable[Written]) -> Iterator[tuple[Written, bytes]]:
        """The recorded bodies in the given order, fetched in batches of some megabytes."""
        return self.records.bodies.of(entries)

    def forget_bodies(self, entries: Iterable[Written]) -> None:
        """Remove bodies that both servers have."""
        self.watch.keep()
        self.records.forget_bodies(entries)
