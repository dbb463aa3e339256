"""Nginx as the tool works it: the gate's flags, its log and its bodies, and putting the gate in and taking it out.

Everything happens on the Nginx host through one open shell (:mod:`cutover.core.shell`); what only a worker process can know
(which files are loaded, whether it sees the flags, whether an unrecorded write is under way) is asked over HTTP, by a header
(``X-Qdrant-Gate``). How the gate itself works is said in ``nginx/qdrant-gate.conf``.

A hold cannot outlive this tool. The Nginx host starts a clock before it sets the flag, and takes the flag away when the
time is over. Ending a hold and switching both begin by making the same folder, which only one can: so either the switch
happens wholly inside the hold, or it is refused because the hold was over.
"""

from __future__ import annotations

import json
import secrets as randomness
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from cutover.core import http
from cutover.core.errors import CutoverError, Failed, Refused, Unreachable
from cutover.core.shell import Shell
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate import doorway, templates, write_log
from cutover.gate.installer import BY_HAND_SECONDS, Installed, Installer
from cutover.gate.interface import BODY_MOST, TOO_LARGE, Side, Written
from cutover.gate.write_log import BEGIN_ANEW, Damaged, Write
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials
    from cutover.core.write_guard import WriteGuard
    from cutover.gate.nginx_host import Facts
    from cutover.site.schema import Site

#: After this many seconds the gate itself answers held writes with 503.
LONGEST_HOLD = 1.4
#: Bytes of log or bodies fetched in one go.
PIECE = 8 << 20
NAMES_AT_ONCE = 400
#: Free room below which lines of the log may be missing: nginx drops them when the disk is full.
LEAST_FREE_MB = 16
#: Free room for beginning to record.
ROOM_TO_RECORD_MB = 512
#: Where so much of the log is not needed any more, its room is given back.
TRIM = 16 << 20
#: Seconds for removing what may be a million files.
MANY = 600.0


@dataclass(frozen=True)
class State:
    """What the gate is doing now; satisfies :class:`cutover.gate.interface.Flags`.

    ``installed``: the gate's files were put in by this tool and not yet taken out. ``free_mb``: room for bodies on the
    Nginx host, -1 where it does not say. ``log_bytes``: size of the log.
    """

    side: Side
    held: bool
    recording: bool
    installed: bool
    log_bytes: int
    free_mb: int


class Gate:
    """The gate of one site; satisfies :class:`cutover.gate.interface.Gate`. Changing methods need an open act."""

    def __init__(self, site: Site, credentials: Credentials, guard: WriteGuard) -> None:
        self._site = site
        self._credentials = credentials
        self._guard = guard
        self.shell = Shell(site.nginx.shell, guard)
        place = site.qdrant
        self._tls = http.Tls(Path(place.ca_file) if place.ca_file else None, place.fingerprint)
        self._http = http.session(guard, tls=self._tls, headers={"Connection": "close"}, timeout=(5.0, 10.0))
        self._build: templates.Build | None = None
        self.by_hand_seconds = BY_HAND_SECONDS
        self.tell: Callable[[str], None] = lambda _: None
        self._folder = site.nginx.gate_folder
        self._cd = f"cd {shlex.quote(self._folder)} || exit 9\n"
        self._hold, self.holding = "", False
        self._under_way = write_log.UnderWay()
        self._lost: list[Write] = []
        self._trimmed = 0
        self.installer = Installer(self)

    def close(self) -> None:
        """Give the shell back. A hold that is in force ends on the host by itself."""
        self.shell.close()
        self._http.close()

    # --- What is there -----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """What the flags say now. Without a gate: nothing is held or recorded, and the old server is asked."""
        answer = self.shell.read(
            f"cd {shlex.quote(self._folder)} 2>/dev/null || {{ echo end; exit 0; }}\n"
            "for f in hold new record; do if [ -f flags/$f ]; then echo $f; fi; done\n"
            "if [ -f before/list ]; then echo installed; fi\n"
            # Settled: the operator's own file names the new server, and there are no flags any more.
            "if [ ! -f before/list ] && [ -d was ]; then echo new; fi\n"
            "if [ -f log/writes.jsonl ]; then printf 'log '; wc -c < log/writes.jsonl; fi\n"
            "df -Pk .\n"
            "echo end"
        )
        lines = [line.split() for line in answer.text.splitlines() if line.strip()]
        if answer.code != 0 or lines[-1:] != [["end"]]:  # silence would look like a host without a gate
            why = answer.reason if answer.code else "its shell answers something else"
            raise Unreachable(f"The gate's flags on {self.shell.where} cannot be read: {why}.", "See nginx.shell in site.yaml.")
        words = {line[0]: line[1] if len(line) == 2 else "" for line in lines if len(line) <= 2}
        return State(
            side="new" if "new" in words else "old",
            held="hold" in words,
            recording="record" in words,
            installed="installed" in words,
            log_bytes=int(words.get("log") or 0),
            free_mb=_free_mb(lines),
        )

    def loaded(self) -> dict[str, Any] | None:
        """What a worker process says about the gate: ``files`` (checksum), ``flags`` as it sees them, ``pid``.

        Asked through the operator's own server, as users come in. None where what they reach passes no gate. Where that server
        lets nobody in without credentials that this tool has not, the gate is asked itself, and counts where Nginx's files
        lead to it and nowhere else.
        """
        closed = False
        for path in ("/", "/collections"):
            answer = self._ask(path, "state")
            if (said := _gate_says(answer.content)) is not None and answer.status_code == 200:
                return said
            closed = closed or answer.status_code in {301, 302, 303, 307, 308, 401, 403, 407}
        if not closed or not self.state().installed:
            return None
        said = self.listening()
        if said is None:
            return None
        configuration = self.installer.host.configuration()
        leads = self.installer.ways(configuration, self._site.nginx.gate_address).passing
        return said if leads and not self.installer.around(configuration) else None

    def contradiction(self) -> str:
        """Why what Nginx does is not what the flags on its host say, a sentence; empty where it is.

        A worker is asked, through the operator's own server; and Nginx's files are read, because a tool that rewrote one of them
        may have led one of several ways past the gate.
        """
        public = self._site.qdrant.public_url
        said, state = self.loaded(), self.state()
        if said is None:
            return f"{public} does not pass its requests to the gate any more: something rewrote Nginx's configuration."
        flags = set(said["flags"].split())
        if ("new" in flags, "record" in flags) != (state.side == "new", state.recording):
            return f"Nginx's workers do not see the flags in {self._folder} as they are."
        around = self.installer.around()
        return f"Nginx's configuration leads past the gate: {' '.join(around)}" if around else ""

    def _ask(self, path: str, question: str) -> requests.Response:
        """Ask the gate something by a header, with a request that the operator's own server lets through."""
        key = self._credentials.get("QDRANT_READ_ONLY_API_KEY") or self._credentials.get("QDRANT_API_KEY")
        headers = {"X-Qdrant-Gate": question} | ({"api-key": key} if key else {})
        url = f"{self._site.qdrant.public_url}{path}?gate={randomness.token_hex(8)}"  # a cache in between knows no answer to it
        return self._http.get(url, headers=headers)

    def listening(self) -> dict[str, Any] | None:
        """What the gate says on its own address, asked from its host, whoever passes requests there; None where there is none."""
        return _gate_says(self.installer.host.ask_gate("state"))

    def files(self, facts: Facts | None = None) -> templates.Gatefile:
        """The gate's file for this site and its nginx."""
        if self._build is None or facts is not None:
            self._build = (facts or self.installer.facts()).built()
        return templates.render(
            folder=self._folder,
            old=netloc(self._site.qdrant.old_url),
            new=netloc(self._site.qdrant.new_url),
            address=self._site.nginx.gate_address,
            build=self._build,
        )

    def through_the_door(self, *, writes: bool) -> dict[str, doorway.Answer]:
        """How users are answered now; ``writes``: also to a write that can change nothing."""
        try:
            return doorway.look(self._http, self._site.qdrant.public_url, self._key(), self._tls, writes=writes)
        except requests.RequestException as error:
            raise Unreachable(f"{self._site.qdrant.public_url} does not answer: {error}.") from None

    # --- Putting it in and taking it out -----------------------------------------------------------------------------

    def install(self) -> Installed:
        """Put the gate in, prove it, and take it out again where a proof fails; see :mod:`cutover.gate.installer`."""
        return self.installer.install()

    def remove(self, *, although_new_serves: bool = False) -> Installed:
        """Put the operator's files back byte for byte and prove that the old server is asked again."""
        state = self.state()
        if state.side == "new" and not although_new_serves:
            raise Refused(
                "The new server serves, and the configuration from before sends users to the old one.",
                "Go `back` first, so that nothing is lost that was written since.",
            )
        if state.held:
            raise Refused("Writes are held at this moment.", "Let the move end, or run it again, before the gate is taken out.")
        return self.installer.remove()

    def settle(self) -> Installed:
        """Take the gate out for good while the new server serves: your own server file comes back, with the new address."""
        state = self.state()
        if state.side != "new" or state.held or state.recording:
            raise Refused(
                "The gate is still needed: "
                + ("the old server serves." if state.side != "new" else "the way back is kept open."),
                "It can go when the way back was given up (`finish`).",
            )
        return self.installer.settle()

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
        free = self.state().free_mb
        if 0 <= free < ROOM_TO_RECORD_MB:
            raise Refused(
                f"There are only {free} MB free for recorded writes in {self._folder} on {self.shell.where}.",
                f"Make room for at least {ROOM_TO_RECORD_MB} MB.",
            )
        begin = f"{self._empty()} && true >> log/writes.jsonl && true > log/writes.jsonl && true > flags/record && "
        self._change(begin + _synced("flags/record"), "set the flag record", MANY)
        self._under_way, self._lost, self._trimmed = write_log.UnderWay(), [], 0
        try:
            wait_until(self._all_recorded, deadline=deadline, what="The end of the last unrecorded write", every=0.05)
        except CutoverError as error:
            self._change("rm -f flags/record && " + _synced("flags"), "remove the flag record")
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
        older = self.installer.processes_ending(int(seen["pid"]))
        if older:
            shown = ", ".join(map(str, older))
            return Not(f"nginx processes from before the last reload still serve requests (process {shown})")
        if self._nothing_unrecorded():
            return True
        return Not("a write that began before is still under way")

    def _nothing_unrecorded(self) -> bool:
        """Whether the gate says so; asked by the way by which it says its state."""
        for path in ("/", "/collections"):
            answer = self._ask(path, "unrecorded")
            if answer.headers.get("X-Qdrant-Gate") == "unrecorded":
                return answer.status_code == 200
        return b"GIF89a" in self.installer.host.ask_gate("unrecorded")

    def _need_loaded(self) -> None:
        seen = self.loaded()
        if seen is None:
            raise Refused(f"There is no gate at {self._site.qdrant.public_url}.", "Install it first.")
        if seen["files"] != self.files().checksum:
            raise Refused("Nginx has other files of the gate loaded than this site's.", "Install the gate again.")

    def stop_recording(self, deadline: float = 30.0) -> None:
        """Record no more, wait for the writes that are being recorded, and remove log and bodies."""
        self._change("rm -f flags/record && " + _synced("flags"), "remove the flag record")
        with suppress(TimedOut, Failed):  # what takes longer, or is damaged, is not needed any more
            wait_until(self._nothing_open, deadline=deadline, what="The end of the writes being recorded", every=0.05)
        self._change(
            f"{self._empty()}; if [ -f log/writes.jsonl ]; then true > log/writes.jsonl; fi", "remove what was recorded", MANY
        )
        self._under_way, self._lost, self._trimmed = write_log.UnderWay(), [], 0

    def _nothing_open(self) -> bool | Not:
        self._catch_up()
        self._bury()
        return Not(f"{len(self._under_way.open)} are not over") if self._under_way.open else True

    # --- Hold and switch ---------------------------------------------------------------------------------------------

    def hold(self, seconds: float) -> None:
        """Hold writes for at most ``seconds``; see :class:`cutover.gate.interface.Gate`. Repeated: the hold begins anew."""
        if not 0 < seconds <= LONGEST_HOLD:
            raise Refused(f"A hold of {seconds:g} s is not possible; the gate answers held writes after {LONGEST_HOLD} s.")
        if self.state().held:
            self.release()
        # Also so that reading the log inside the hold is short.
        wait_until(self._nobody_waits, deadline=2.0, what="The end of the waiting of writes that were held before", every=0.01)
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
        self._change(f"[ ! -f flags/hold ] || exit 8\n{clock}{flag}", "set the flag hold")
        self._hold, self.holding = token, True
        self._need_held()

    def _nobody_waits(self) -> bool | Not:
        """A write that was held looks again every 200 ms. Held once more before it does, it would wait for two holds."""
        self._catch_up()
        if self._under_way.waiting:
            self._bury()
        waiting = len(self._under_way.waiting)
        return Not(f"{waiting} have not looked again") if waiting else True

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
        self._change(
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
        self._point(f"true > flags/new && {_synced('flags/new')}", "rm -f flags/new", "set the flag new")

    def point_to_old(self) -> None:
        """Ask the old server from now on, and end the hold."""
        self._point(f"rm -f flags/new && {_synced('flags')}", "true > flags/new", "remove the flag new")

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
            f"{self._cd}"
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

    # --- The log -----------------------------------------------------------------------------------------------------

    def drain(self, deadline: float) -> None:
        """Wait until every write that had passed before the hold has its line in the log; TimedOut otherwise.

        A write of an nginx process that died is not waited for; :meth:`read_log` then says that nobody knows of it.
        """
        began = time.monotonic()

        def drained() -> bool | Not:
            self._catch_up()
            passed = self._under_way.passed
            if passed and time.monotonic() - began > 0.2:
                self._bury()
                passed = self._under_way.passed
            if not passed:
                return True
            oldest = passed[0]
            return Not(f"{len(passed)} under way, the oldest is {oldest.method} {oldest.uri.split('?')[0]}")

        wait_until(drained, deadline=deadline, what="The end of the writes that had passed before the hold", every=0.005)
        free = _free_mb([line.split() for line in self.shell.read(f"{self._cd}df -Pk .").text.splitlines()])
        if 0 <= free < LEAST_FREE_MB:
            raise Refused(
                f"The disk of {self.shell.where} is full ({free} MB left), so the log may lack writes.", "Make room there."
            )

    def under_way(self) -> Sequence[Written]:
        """Writes that had passed and were not over when the log was last read."""
        return self._under_way.passed

    def _catch_up(self) -> None:
        if self._under_way.offset == 0:
            self._under_way.offset = self._trimmed = self._log_start()
        for start, data in self._pieces(self._under_way.offset):
            self._under_way.feed(write_log.lines(data, start))

    def _bury(self) -> None:
        """Take the writes of dead nginx processes out of those under way."""
        found = self._under_way.processes
        if not found:
            return
        # Numbers come again, at the latest when the host was restarted; when a process began tells them apart. Ages are
        # counted from a process that begins now, because a container's uptime is not in the same measure as these.
        script = (
            "[ -d /proc/self ] || exit 1\n"
            "began() { sed 's/.*) //' /proc/$1/stat 2>/dev/null | cut -d' ' -f20; }\n"
            "now=$(date +%s); mine=$(began self); hz=$(getconf CLK_TCK 2>/dev/null || echo 100)\n"
            f"for pid in {' '.join(map(str, sorted(found)))}; do\n"
            "  then=$(began $pid)\n"
            '  if [ -n "$then" ]; then echo $pid $((now - (mine - then) / hz)); else echo $pid; fi\n'
            "done"
        )
        said = (line.split() for line in self.shell.output(script, "The processes of nginx cannot be seen").decode().splitlines())
        began = {int(words[0]): int(words[1]) if len(words) > 1 else None for words in said if words}
        self._lost += self._under_way.died(began)

    def _pieces(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """(position, complete lines) from a position to the end of the log."""
        while True:
            answer = self.shell.read(
                f"{self._cd}s=$(wc -c 2>/dev/null < log/writes.jsonl); [ ${{s:-0}} -ge {offset} ] || exit 7\n"
                f"[ -f log/writes.jsonl ] || exit 0\ntail -c +{offset + 1} log/writes.jsonl | head -c {PIECE}"
            )
            if answer.code == 7:
                raise Damaged(
                    "The gate's log is shorter than what was read of it: it was cut or replaced, so it does not say everything.",
                    BEGIN_ANEW,
                )
            if answer.code not in {0, 9}:
                raise CutoverError(f"The gate's log on {self.shell.where} cannot be read: {answer.reason}.")
            data = answer.out[: answer.out.rfind(b"\n") + 1]
            if not data:
                return
            yield offset, data
            offset += len(data)
            if len(answer.out) < PIECE:
                return

    def log_end(self) -> int:
        """Position just after the last complete line."""
        read = self.shell.output(
            f"{self._cd}[ -f log/writes.jsonl ] || exit 0\ns=$(wc -c < log/writes.jsonl); b=$((s > 65536 ? s - 65536 : 0))\n"
            "echo $b; tail -c +$((b + 1)) log/writes.jsonl",
            f"The gate's log on {self.shell.where} cannot be read",
        )
        start, _, data = read.partition(b"\n")
        return int(start or 0) + data.rfind(b"\n") + 1

    def read_log(self, from_offset: int) -> Sequence[Written]:
        """The writes that ended, from a position on. Last come those whose nginx process died with them, until forgotten."""
        if self._under_way.offset < from_offset:
            self._catch_up()
        found: list[Write] = []
        ended = write_log.Ended(self._under_way.began(from_offset))
        for start, data in self._pieces(from_offset):
            read = list(write_log.lines(data, start))
            if start <= self._under_way.offset:
                self._under_way.feed(read)
            found += ended.of(read)
        if self._under_way.passed:
            self._bury()
        end = found[-1].offset if found else from_offset
        return [*found, *(replace(lost, offset=end) for lost in self._lost)]

    def stragglers(self, from_offset: int, side: Side) -> Sequence[Written]:
        """Writes since a position that reached another server than ``side``. After a move there should be none."""
        return [write for write in self.read_log(from_offset) if write.side and write.side != side]

    # --- Bodies ------------------------------------------------------------------------------------------------------

    def body(self, entry: Written) -> bytes:
        """One recorded body."""
        return next(iter(self.bodies([entry])))[1]

    def bodies(self, entries: Iterable[Written]) -> Iterator[tuple[Written, bytes]]:
        """The recorded bodies in the given order, fetched in batches of some megabytes."""
        rest = iter(entries)
        while batch := list(islice(rest, NAMES_AT_ONCE)):
            sizes = self._sizes([_safe(entry.body) for entry in batch if entry.body])
            large = {name for name, size in sizes.items() if size > BODY_MOST}
            sizes = {name: 0 if name in large else size for name, size in sizes.items()}
            group: list[Written] = []
            size = 0
            for entry in batch:
                mine = sizes.get(entry.body, 0)
                if group and size + mine > PIECE:
                    yield from self._fetch(group, sizes, large)
                    group, size = [], 0
                group.append(entry)
                size += mine
            yield from self._fetch(group, sizes, large)

    def _in_bodies(self, script: str) -> str:
        """A script that works in `bodies` with the rights of the user that can write there, and no more.

        That user can put a link in the place of a body or a folder at any moment, between looking and doing as well; so nothing
        is read or removed there that it could not read or remove by itself.
        """
        user, quoted = shlex.quote(self._site.nginx.worker_user), shlex.quote(f"cd bodies || exit 9\n{script}")
        return (
            f'if [ "$(id -u)" = 0 ] && [ "$(id -u {user} 2>/dev/null || echo 0)" != 0 ]; then\n'
            f"if command -v su >/dev/null; then su -s /bin/sh {user} -c {quoted}\n"  # small containers have only the other
            f'else setpriv --reuid {user} --regid "$(id -g {user})" --clear-groups sh -c {quoted}; fi\n'
            f"else sh -c {quoted}; fi"
        )

    def _empty(self) -> str:
        """A part of a script that removes what was recorded; by `find`: a million names are too many for a command line."""
        remove = self._in_bodies("find . -mindepth 1 ! -type d -exec rm -f {} +")
        return f"{{ [ ! -d bodies ] || {{ {remove}; }} ; }} && rm -f log/start"

    def _sizes(self, names: list[str]) -> dict[str, int]:
        if not names:
            return {}
        answer = self.shell.read(self._cd + self._in_bodies(f"wc -c {' '.join(names)}"))
        if answer.code != 0:
            raise Damaged(f"A recorded body is gone from {self._folder}/bodies: {answer.reason}.", BEGIN_ANEW)
        found = (line.split() for line in answer.text.splitlines())
        return {words[1]: int(words[0]) for words in found if len(words) == 2 and words[1] != "total"}

    def _fetch(self, group: list[Written], sizes: Mapping[str, int], large: Collection[str]) -> Iterator[tuple[Written, bytes]]:
        names = [entry.body for entry in group if entry.body and entry.body not in large]
        data = b""
        if names:
            answer = self.shell.read(self._cd + self._in_bodies(f"cat {' '.join(names)}"), deadline=120)
            data = answer.out
            if answer.code != 0 or len(data) != sum(sizes[name] for name in names):
                raise Damaged(f"Recorded bodies in {self._folder}/bodies could not be read whole: {answer.reason}.", BEGIN_ANEW)
        at = 0
        for entry in group:
            size = sizes[entry.body] if entry.body else 0
            yield entry, TOO_LARGE if entry.body in large else data[at : at + size]
            at += size

    def forget_bodies(self, entries: Iterable[Written]) -> None:
        """Remove bodies that both servers have."""
        entries = list(entries)
        # Another run of this tool finds a lost write again, and then needs its body.
        names = (_safe(entry.body) for entry in entries if entry.body and entry.side != "unknown")
        followed = {replace(entry, offset=0) for entry in entries if isinstance(entry, Write) and entry.side == "unknown"}
        self._lost = [lost for lost in self._lost if replace(lost, offset=0) not in followed]
        while batch := list(islice(names, NAMES_AT_ONCE)):
            self._change(self._in_bodies(f"rm -f {' '.join(batch)}"), f"remove {len(batch)} recorded bodies")

        if entries:
            self._trim(max(entry.offset for entry in entries))

    def _log_start(self) -> int:
        """Where the log begins: what stood before has been given back to the disk."""
        script = f"cat {shlex.quote(self._folder)}/log/start 2>/dev/null || echo 0"
        return int(self.shell.output(script, f"The gate's log on {self.shell.where} cannot be read") or 0)

    def _trim(self, needed_from: int) -> None:
        """Give back the room of the log's beginning. Positions stay: the file gets a hole, and nginx goes on appending.

        A write that is still under way keeps its line. Where the file system cannot make holes, the log just grows.
        """
        if needed_from - self._trimmed < TRIM:
            return
        self._catch_up()
        if any(write.offset <= needed_from for write in self._under_way.open):
            return
        # First say it, then do it: the other way round an interruption would leave a log that begins with nothing.
        self._change(
            f"command -v fallocate >/dev/null 2>&1 || exit 0\n"
            f"echo {needed_from} > log/.start && mv log/.start log/start && {_synced('log/start')} "
            f"&& {{ fallocate -p -o 0 -l {needed_from // 4096 * 4096} log/writes.jsonl 2>/dev/null || rm -f log/start; }}",
            "give back the beginning of the log",
        )
        self._trimmed = needed_from

    def _change(self, script: str, what: str, deadline: float = 20.0) -> None:
        answer = self.shell.change(self._cd + script, what, deadline=deadline)
        if answer.code == 9:
            raise Refused(f"There is no folder {self._folder} on {self.shell.where}.", "Install the gate first.")
        if answer.code != 0:
            raise Failed(f"The Nginx host could not {what}: {answer.reason}.", self._no_room())

    def _no_room(self) -> str:
        """That the disk is full, where it is: a shell's own words for it are often "I/O error"."""
        free = self.state().free_mb
        return f"Its disk is full ({free} MB left): make room there." if 0 <= free < LEAST_FREE_MB else ""

    # --- What the installer needs ------------------------------------------------------------------------------------

    @property
    def site(self) -> Site:
        return self._site

    @property
    def guard(self) -> WriteGuard:
        return self._guard

    def _key(self) -> str | None:
        return (
            self._credentials.get("QDRANT_API_KEY") if self._guard.is_open else self._credentials.get("QDRANT_READ_ONLY_API_KEY")
        )


def _gate_says(body: bytes) -> dict[str, Any] | None:
    """The gate's answer to the question for its state; None where it is none. Headers before it are passed over."""
    try:
        said = json.loads(body[max(body.find(b'{"gate"'), 0) :])
        if said["gate"] == 1 and isinstance(said["files"], str) and isinstance(said["flags"], str) and int(said["pid"]) > 0:
            return dict(said)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _free_mb(lines: Sequence[Sequence[str]]) -> int:
    """Free megabytes in the output of ``df -Pk``; -1 where there is none."""
    found = [line[3] for line in lines if len(line) >= 6 and line[4].endswith("%") and line[3].isdigit()]
    return int(found[-1]) // 1024 if found else -1


def _synced(path: str) -> str:
    """On the disk, so that a power cut cannot take it back. The folder as well; where `sync` takes no names, everything."""
    return f"{{ sync {path} flags 2>/dev/null || sync; }}"


def _safe(name: str) -> str:
    if not name.isalnum():
        raise Failed(f"The gate's log names a body {name!r}, which is none of nginx's.")
    return name
