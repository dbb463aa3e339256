"""Putting the gate into an Nginx and taking it out again, byte for byte.

The gate is one file of its own. In the operator's files only the old server's address is replaced by the gate's, wherever one of
them passes requests there (:mod:`cutover.gate.ways`). Putting it in: everything that can fail is looked at first
(:mod:`cutover.gate.nginx_host`); every file that changes is copied into ``before/`` in the gate's folder, with mode, owner and
times; the files are written; ``nginx -t`` has to like them; Nginx is reloaded; and then it is proved through the operator's own
server that the gate is loaded, sees its flags, and that everything is answered as before (:mod:`cutover.gate.doorway`). Where any
of this fails, the copies go back, and the sentence says what was wrong.

Taking it out is the same replacement backwards: a file that nobody changed since comes back byte for byte from its copy; in one
that somebody changed, only the address is replaced, and the change stays.

A reload is not free: a request that an application sends on a kept-alive connection just while the old process closes it is lost
(measured: a handful in tens of thousands under full load). Moving the traffic itself never reloads.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.shell import written
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate import doorway, ways
from cutover.gate.nginx_conf import Configuration
from cutover.gate.nginx_host import PATH, Facts, Inspector, blind_sentence, emerg, obstacles
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutover.core.shell import Shell
    from cutover.core.write_guard import WriteGuard
    from cutover.gate import templates
    from cutover.gate.interface import Flags
    from cutover.site.schema import Site

#: The first nginx that keeps connections for a while when it is reloaded (`keepalive_min_timeout`).
KEEPS_CONNECTIONS = (1, 27, 4)
BY_HAND_SECONDS = 600.0

q = shlex.quote


@dataclass(frozen=True)
class Installed:
    """What came of installing or removing. ``changed``: files and reload; ``files``: paths that were written or put back."""

    changed: bool
    files: Sequence[str]
    sentence: str


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class InPlace(Protocol):
    """What installing needs of the gate: its host, its file, and what a worker and users are told.

    The controller of the gate is the one that has it.
    """

    @property
    def site(self) -> Site: ...

    @property
    def guard(self) -> WriteGuard: ...

    shell: Shell
    tell: Callable[[str], None]
    by_hand_seconds: float

    def state(self) -> Flags: ...

    def files(self, facts: Facts | None = None) -> templates.Gatefile: ...

    def loaded(self) -> dict[str, Any] | None: ...

    def listening(self) -> dict[str, Any] | None: ...

    def through_the_door(self, *, writes: bool) -> dict[str, doorway.Answer]: ...


class Installer:
    """Installs and removes the gate of one site."""

    def __init__(self, gate: InPlace) -> None:
        self._gate = gate
        nginx = gate.site.nginx
        self._nginx = nginx
        self._folder = nginx.gate_folder
        self._old, self._new = netloc(gate.site.qdrant.old_url), netloc(gate.site.qdrant.new_url)
        self.host = Inspector(gate.shell, nginx)
        self.facts = self.host.facts
        self.workers, self.processes_ending = self.host.workers, self.host.processes_ending

    # --- Looking -----------------------------------------------------------------------------------------------------

    def _backed_up(self) -> bool:
        return self._gate.shell.holds(
            f"[ -f {q(self._folder)}/before/list ]", f"{self._folder} on {self._gate.shell.where} cannot be read"
        )

    def ways(self, configuration: Configuration, netloc_: str) -> ways.Ways:
        """Every way to a server (``host:port``) in the operator's files."""
        server = ways.Server.of(netloc_, self.host.resolve)
        return ways.find(configuration, server, resolve=self.host.resolve, ours={self.host.gate_file})

    def pointed(self, configuration: Configuration, source: str, target: str) -> dict[str, bytes]:
        """The operator's files that change when what led to ``source`` leads to ``target``; :class:`Refused` where it cannot."""
        server = ways.Server.of(source, self.host.resolve)
        found = ways.redirected(configuration, server, target, resolve=self.host.resolve, ours={self.host.gate_file})
        return {path: _bytes(text) for path, text in found.items()}

    def refusals(self, facts: Facts) -> list[str]:
        """Why the gate cannot be installed here; empty when it can."""
        found = obstacles(self.host.with_preflight(facts, self._changing(facts)), self._nginx, self.host.gate_file)
        listening = [one for one in found if one.startswith("Something listens")]
        if listening and self._gate.listening() is not None:
            found.remove(listening[0])  # a gate that was taken out stays loaded until the next reload
        if self._nginx.edit:
            seen = self.ways(facts.configuration, self._old)
            found += seen.refused
            if not seen.places and not seen.refused and not self.ways(facts.configuration, self._nginx.gate_address).places:
                found.append(
                    f"No file of Nginx's configuration passes requests to http://{self._old}, so there is nothing "
                    f"that could be led "
                    "through the gate. Where another proxy does, or a file that this tool must not edit, set `nginx.edit: false`."
                )
            elif not seen.refused:
                try:
                    self.pointed(facts.configuration, self._old, self._nginx.gate_address)
                except Refused as refused:
                    found.append(str(refused))
        return found

    def cost_of_a_reload(self, facts: Facts) -> str:
        """What a reload of this nginx costs users, as a sentence."""
        version = facts.built().version
        if version >= KEEPS_CONNECTIONS and any(d.name == "keepalive_min_timeout" for d in facts.configuration.walk()):
            return "No request is lost: this nginx keeps connections for a while (`keepalive_min_timeout`)."
        known = "" if version < KEEPS_CONNECTIONS else " `keepalive_min_timeout 3s;` in your server block avoids it."
        return f"A request on a connection that an old process closes in that moment is lost: a handful under full load.{known}"

    def _changing(self, facts: Facts) -> list[str]:
        return self.ways(facts.configuration, self._old).files if self._nginx.edit else []

    def wanted(self, facts: Facts) -> dict[str, bytes]:
        """Path to content of every file that the gate still changes or adds: its own first, so that what names it finds it."""
        found = {self.host.gate_file: _bytes(self._gate.files(facts).text)}
        if self._nginx.edit:
            found |= self.pointed(facts.configuration, self._old, self._nginx.gate_address)
        return found

    def around(self, configuration: Configuration | None = None) -> list[str]:
        """Where Nginx's configuration passes requests to the old server and not to the gate, or may: ``file:line`` sentences."""
        found = self.ways(configuration or self.host.configuration(), self._old)
        return [*(f"{where} passes requests to http://{self._old}." for where in dict.fromkeys(found.passing)), *found.refused]

    def as_before(self, configuration: Configuration) -> dict[str, str]:
        """The operator's files with the old server's address wherever the gate's or the new server's stands."""
        for address in (self._nginx.gate_address, self._new):
            with suppress(Refused):
                found = self.pointed(configuration, address, self._old)
                configuration = configuration.with_files({path: _text(content) for path, content in found.items()})
        return {path: text for path, text in configuration.files.items() if path != self.host.gate_file}

    def _list(self) -> list[tuple[str, str]]:
        """What is in ``before/``: (``kept`` or ``absent``, path), in order."""
        listed = f"{self._folder}/before/list"
        found = self._gate.shell.output(f"cat {q(listed)}", f"{listed} on {self._gate.shell.where} cannot be read")
        lines = [line.partition(" ") for line in _text(found).splitlines()]
        if not lines or any(kind not in {"kept", "absent"} for kind, _, _ in lines):
            raise Refused(
                f"{listed} on {self._gate.shell.where} is not the list of what was there before the gate.", "Look at that folder."
            )
        return [(kind, path) for kind, _, path in lines]

    def _read(self, path: str) -> bytes | None:
        """A file's content; None where there is none."""
        shell = self._gate.shell
        if not shell.holds(f"[ -f {q(path)} ]", f"{path} on {shell.where} cannot be seen"):
            return None
        return shell.output(f"cat {q(path)}", f"{path} on {shell.where} cannot be read")

    def before(self, path: str) -> bytes:
        """A file as it was before the gate."""
        for number, line in enumerate(self._list()):
            if line == ("kept", path):
                found = self._read(f"{self._folder}/before/{number}")
                if found is not None:
                    return found
        raise Failed(
            f"There is no copy of {path} in {self._folder}/before.", "Put the file right by hand, then remove that folder."
        )

    # --- Putting in --------------------------------------------------------------------------------------------------

    def install(self) -> Installed:
        facts = self.facts()
        wrong = self.refusals(facts)
        if wrong:
            raise Refused(f"The gate cannot be installed: {' '.join(wrong)}", "Nothing was changed.")
        wanted = {path: content for path, content in self.wanted(facts).items() if self._read(path) != content}
        before, again = self._look(), self._look()
        state = self._gate.state()
        in_use = facts.backed_up and (state.side == "new" or state.recording)
        if in_use:
            # A way that somebody led past the gate is led back: what is behind may be another server now.
            before = again = doorway.kept(_text(self._read(f"{self._folder}/door") or b""))
        if not wanted and facts.backed_up and self._is_loaded():
            self._prove(before, again)
            self._arrive(before, again)
            return Installed(False, [], "The gate is installed already, and works.")
        self._prepare_folder(facts)
        self._back_up(wanted, facts)
        loaded = facts.backed_up
        try:
            for path, content in wanted.items():
                self._write(path, content)
            digests = "".join(f"{_digest(content)} {path}\n" for path, content in wanted.items())
            note = f"printf %s {q(digests)} >> installed && true > flags/probe"
            self._change(note, "note what was installed, and that it is not proved")
            self._change(f"[ -f door ] || printf %s {q(doorway.written(before))} > door", "note how Nginx answered before")
            self._test()
            loaded = True
            self._reload()
            self._prove(before, again)
        except CutoverError as error:
            if in_use:  # without the gate users would be on the old server, or write unrecorded
                raise Failed(f"The gate was put in again, but: {error.sentence}", "It stays in. " + error.hint) from None
            raise self._put_back_after(error, loaded=loaded) from None
        self._wait_for_old_processes()
        self._arrive(before, again)
        edited = [path for path in wanted if path != self.host.gate_file]
        return Installed(
            True,
            [*edited, self.host.gate_file],
            f"The gate is in {self.host.gate_file}, requests pass it from "
            f"{', '.join(edited) or 'where you pointed them'}, and the old "
            "server is asked as before.",
        )

    def _is_loaded(self) -> bool:
        seen = self._gate.loaded() if self._nginx.edit else self._gate.listening()
        return seen is not None and seen["files"] == self._gate.files().checksum and "probe" not in seen["flags"].split()

    def _prepare_folder(self, facts: Facts) -> None:
        shell, user = self._gate.shell, self._nginx.worker_user
        existed = shell.holds(f"[ -d {q(self._folder)} ]", f"{self._folder} on {shell.where} cannot be read")
        made = shell.change(
            f"mkdir -p {q(self._folder)}/flags {q(self._folder)}/log && cd {q(self._folder)} "
            "&& chmod 755 . flags && chmod 700 log",
            f"make the folder {self._folder}",
        )
        if made.code != 0:
            raise Failed(f"The folder {self._folder} on {shell.where} cannot be made: {made.reason}.")
        if not facts.is_root:
            return
        # Ask before Nginx is touched. Where `su` cannot answer, the proof after the reload does.
        asked = shell.read(
            f"su -s /bin/sh {q(user)} -c {q(f'if [ -d {q(self._folder)}/flags/. ]; then echo sees; else echo blind; fi')}"
        )
        if asked.text != "blind":
            return
        if not existed:
            self._remove_folder()
            self._gate.guard.taken_back()
        raise self._blind()

    def _blind(self) -> Refused:
        return Refused(blind_sentence(self._nginx, f"{self._folder}/flags"))

    def _back_up(self, wanted: Mapping[str, bytes], facts: Facts) -> None:
        """Copy what will be changed. A file that is there already keeps the copy from before the gate."""
        listed = self._list() if facts.backed_up else []
        fresh = [path for path in wanted if path not in {known for _, known in listed}]
        if any("\n" in path for path in fresh):
            raise Refused(f"{fresh!r} is not usable as paths.")
        folder = "before" if facts.backed_up else "before.new"
        script = "" if facts.backed_up else "rm -rf before.new && mkdir before.new && chmod 700 before.new || exit 1\n"
        for number, path in enumerate(fresh, len(listed)):
            script += (
                f"if [ -e {q(path)} ]; then cp -p {q(path)} {folder}/{number} && cmp -s {q(path)} {folder}/{number} "
                f"&& printf 'kept %s\\n' {q(path)} >> {folder}/list || exit 1\n"
                f"else printf 'absent %s\\n' {q(path)} >> {folder}/list; fi\n"
            )
        if not facts.backed_up:
            script += "sync; mv before.new before"
        if script:
            self._change(script, "copy the files that will be changed")

    def _write(self, path: str, content: bytes) -> None:
        """Replace a file in one step, keeping mode and owner; where that cannot be, write it in place."""
        self._change(
            f'r=$(readlink -f {q(path)} 2>/dev/null || echo {q(path)})\nd=$(dirname "$r")\n'
            # A name with a dot in front is not taken in by `include *.conf`.
            f'f="$d/.$(basename "$r").gate-new"; g={q(self._folder)}/.writing\n'
            f'{{ {written(content)}; }} > "$g" || {{ rm -f "$g"; exit 1; }}\n'
            'if [ -e "$r" ]; then cp -p "$r" "$f" 2>/dev/null; else { true > "$f" && chmod 644 "$f"; } 2>/dev/null; fi\n'
            'if [ -e "$f" ] && cat "$g" > "$f" && mv -f "$f" "$r" 2>/dev/null; then :\n'
            'else rm -f "$f" 2>/dev/null; cat "$g" > "$r" || { rm -f "$g"; exit 1; }; fi\n'
            'cmp -s "$g" "$r" && rm -f "$g"',
            f"write {path}",
        )

    def _test(self) -> None:
        tested = self._gate.shell.read(f"{PATH}{self.host.command} -t")
        if tested.code != 0:
            raise Refused(f"nginx does not accept the configuration: {emerg(tested)}.")

    def _reload(self) -> None:
        """Reload, and wait until no process takes in requests with the configuration from before.

        For about 0.1 s old and new workers both do, so one answer of a new one does not show that it is over.
        """
        before = {pid for pid, ending in self.workers().items() if not ending}
        words = " ".join(map(q, self._nginx.reload))
        self._change(f"{PATH}{words} >&2", "reload nginx")

        def taken_over() -> bool | Not:
            old = before & {pid for pid, ending in self.workers().items() if not ending}
            return Not(f"processes {sorted(old)} still work with the configuration from before") if old else True

        wait_until(taken_over, deadline=15, what="The reload of nginx")

    # --- The proof -----------------------------------------------------------------------------------------------------------

    def _look(self) -> dict[str, doorway.Answer]:
        """How users are answered now, through the operator's own server."""
        return self._gate.through_the_door(writes=self._gate.guard.is_open)

    def _prove(self, before: Mapping[str, doorway.Answer], again: Mapping[str, doorway.Answer]) -> None:
        """That this gate is loaded and sees its flags, and that users are answered as before."""
        gate, checksum = self._gate, self._gate.files().checksum

        def loaded() -> bool | Not:
            seen = gate.loaded() if self._nginx.edit else gate.listening()
            if seen is None:
                return Not(
                    f"{gate.site.qdrant.public_url if self._nginx.edit else self._nginx.gate_address} answers without a gate"
                )
            return True if seen["files"] == checksum else Not("it has other files of the gate loaded")

        wait_until(loaded, deadline=10, what="Loading the gate", every=0.05)
        self._change("true > flags/probe", "set the flag probe")
        try:
            wait_until(self._sees_probe, deadline=2, what="Seeing a flag", every=0.05)
        except TimedOut:
            raise self._blind() from None
        if self._nginx.edit:
            self._same(before, again)
        # Last: where it stays, the proof was broken off, and is made again.
        self._change("rm -f flags/probe", "remove the flag probe")

    def _sees_probe(self) -> bool | Not:
        seen = (self._gate.loaded() if self._nginx.edit else self._gate.listening()) or {}
        return True if "probe" in str(seen.get("flags")).split() else Not("nginx does not see it")

    def _same(self, before: Mapping[str, doorway.Answer], again: Mapping[str, doorway.Answer]) -> None:
        kept = all(not answer.body for answer in before.values())
        found = doorway.differences(before, again, self._bodiless() if kept else self._look())
        if found:
            raise Refused(f"With the gate users would be answered otherwise: {' '.join(found)}")

    def _arrive(self, before: Mapping[str, doorway.Answer], again: Mapping[str, doorway.Answer]) -> None:
        """Where the address is put in by hand: wait until it is, and prove that users are answered as before."""
        if self._nginx.edit:
            return
        address, public = self._nginx.gate_address, self._gate.site.qdrant.public_url
        self._gate.tell(f"Let {public} pass its requests to http://{address} instead of http://{self._old} now. Waiting for it.")

        def through() -> bool | Not:
            return Not(f"{public} does not pass the gate") if self._gate.loaded() is None else True

        try:
            wait_until(through, deadline=self._gate.by_hand_seconds, what="A request that comes by the gate", every=0.5)
        except TimedOut:
            raise Failed(
                f"The gate listens on {address}, and {public} does not pass its requests there.",
                f"Put {address} in place of {self._old} where that server is told where to pass them, then run `gate` again. "
                "`undo gate` takes it out.",
            ) from None
        self._same(before, again)

    def _wait_for_old_processes(self, deadline: float = 3.0) -> bool:
        """Processes from before end with their last request; a slow one is left, recording waits for it."""

        def gone() -> bool | Not:
            older = [pid for pid, ending in self.workers().items() if ending]
            return Not(f"processes {older} still serve") if older else True

        with suppress(TimedOut):
            return bool(wait_until(gone, deadline=deadline, what="The end of the processes from before"))
        return False

    def _put_back_after(self, error: CutoverError, *, loaded: bool) -> CutoverError:
        try:
            self._put_back(loaded=loaded)
        except CutoverError as again:
            return Failed(
                f"{error.sentence} Putting the files back failed as well: {again.sentence}",
                "Run `undo gate` once that is right; until then the files in Nginx's folders may be the gate's.",
            )
        self._gate.guard.taken_back()
        if isinstance(error, Refused):
            return Refused(error.sentence, f"{error.hint} Everything was put back as it was.".strip())
        return Failed(f"The gate was not installed: {error.sentence}", "Everything was put back as it was.")

    # --- Taking out --------------------------------------------------------------------------------------------------

    def remove(self) -> Installed:
        if not self._backed_up():
            return self._nothing_to_take_out()
        paths, changed, remark = self._put_back()
        shown = ", ".join(paths) or "Nginx's configuration"
        kept = f" In {', '.join(changed)} somebody changed something since; that stays." if changed else ""
        return Installed(True, paths, f"{shown} is byte for byte what it was before the gate, and is loaded.{kept}{remark}")

    def _nothing_to_take_out(self) -> Installed:
        if self._gate.loaded() is None:
            return Installed(False, [], "There is no gate.")
        raise Refused(
            "There is a gate that this tool did not install, so it does not know what was there before.", "Take it out by hand."
        )

    def _installed(self) -> set[str]:
        """Digests of what this tool wrote."""
        noted = self._read(f"{self._folder}/installed") or b""
        return {line.split(" ", 1)[0] for line in _text(noted).splitlines() if line}

    def undoing(self) -> tuple[dict[str, int], dict[str, bytes]]:
        """What taking the gate out does: files that come back from their copies (path to number), and others that somebody
        changed since, with the address put back. Reads only; :class:`Refused` where an address cannot be put back.
        """
        listed, ours = self._list(), self._installed()
        kept = {path: number for number, (kind, path) in enumerate(listed) if kind == "kept"}
        back: dict[str, int] = {}
        for path, number in kept.items():
            now = self._read(path)
            # An interrupted `gate` leaves what was there before in some of them.
            if now is not None and (_digest(now) in ours or now == self.before(path)):
                back[path] = number
        configuration = self.host.configuration()
        originals = {path: _text(self.before(path)) for path in back}
        rest = self.pointed(configuration.with_files(originals), self._nginx.gate_address, self._old)
        foreign = [path for path in rest if path not in kept]
        if foreign and not self._nginx.edit:
            raise Refused(
                f"{', '.join(foreign)} still passes requests to the gate.", f"Put http://{self._old} there again, then try again."
            )
        return back, {path: content for path, content in rest.items() if path not in back}

    def _put_back(self, *, loaded: bool = True) -> tuple[list[str], list[str], str]:
        """The copies go back, the gate's file goes; tested, loaded and compared. Safe to repeat.

        ``loaded``: nginx may have read the gate's files; where it has not, there is nothing to reload.
        Returns the paths that are as before, those in which only the address was put back, and a remark.
        """
        if not self._nginx.edit and self._gate.loaded() is not None:
            raise Refused(
                f"{self._gate.site.qdrant.public_url} still passes its requests to the gate.",
                f"Let it pass them to http://{self._old} again, then try again.",
            )
        listed = self._list()
        try:
            back, changed = self.undoing()
        except Refused as error:
            if "already wrong" not in error.sentence:
                raise
            back, changed = {path: n for n, (kind, path) in enumerate(listed) if kind == "kept"}, {}
        for path, content in changed.items():
            self._write(path, content)
        script = ""
        for path, number in back.items():
            script += (
                f'r=$(readlink -f {q(path)} 2>/dev/null || echo {q(path)}); f="$(dirname "$r")/.$(basename "$r").gate-old"\n'
                f'cp -p before/{number} "$f" 2>/dev/null && mv -f "$f" "$r" 2>/dev/null '
                f'|| {{ rm -f "$f" 2>/dev/null; cat before/{number} > "$r" && touch -r before/{number} "$r"; }} || exit 1\n'
                f'cmp -s before/{number} "$r" || exit 1\n'
            )
        self._change(script or "true", "put the files back as they were")
        remark = ""
        absent = " ".join(q(path) for kind, path in listed if kind == "absent")
        remove = f"rm -f {absent}" if absent else "true"
        if not loaded:
            self._change(remove, "remove the gate's file")
        self._test()
        if loaded and self._runs():
            # The gate still listens while requests end that came by it; it is taken out of the folder when they have.
            self._reload()
            remark = self._left()
            self._wait_for_old_processes()
        self._change(remove, "remove the gate's file")
        self._test()
        self._remove_folder()
        return list(back), list(changed), remark

    def _runs(self) -> bool:
        try:
            return bool(self.workers())
        except Refused:
            return False

    def _left(self) -> str:
        """That nobody comes by the gate any more, and users are answered as before it; a remark where they are not."""

        def unloaded() -> bool | Not:
            return True if self._gate.loaded() is None else Not("nginx still answers with the gate")

        wait_until(unloaded, deadline=10, what="Loading the configuration from before", every=0.05)
        noted = doorway.kept(_text(self._read(f"{self._folder}/door") or b""))
        try:
            found = doorway.differences(noted, noted, self._bodiless())
        except CutoverError as error:
            return f" But {self._gate.site.qdrant.public_url} could not be asked: {error.sentence}"
        return f" But look: {' '.join(found)}" if found else ""

    def _bodiless(self) -> dict[str, doorway.Answer]:
        return {name: doorway.Answer(a.status, a.headers, "") for name, a in self._look().items()}

    def _remove_folder(self) -> None:
        """Only what the gate made; a folder that holds something else stays, with that."""
        folder = q(self._folder)
        self._gate.shell.change(
            f"cd {folder} && rm -rf flags log bodies installed door turn.* before before.new was .writing && cd / || exit 1\n"
            f"rmdir {folder} 2>/dev/null || true",
            f"remove the folder {self._folder}",
        )

    # --- Staying with the new server ---------------------------------------------------------------------------------

    def settled(self, configuration: Configuration) -> dict[str, bytes]:
        """The operator's files, naming the new server where they name the gate."""
        return self.pointed(configuration, self._nginx.gate_address, self._new)

    def settle(self) -> Installed:
        """Take the gate out while the new server serves: what passed requests to it passes them to the new server."""
        facts = self.facts()
        if not facts.backed_up:
            return self._nothing_to_take_out()
        if not self._nginx.edit and self._gate.loaded() is not None:
            raise Refused(
                f"{self._gate.site.qdrant.public_url} still passes its requests to the gate.",
                f"Let it pass them to http://{self._new} now, then try again.",
            )
        texts = self.settled(facts.configuration) if self._nginx.edit else {}
        gated = {path: _bytes(facts.configuration.files[path]) for path in texts}
        before, again = self._look(), self._look()
        try:
            for path, content in texts.items():
                self._write(path, content)
            self._test()
            self._reload()
            if self._gate.loaded() is not None:
                raise Failed("nginx still answers with the gate.")
            self._same(before, again)
        except CutoverError as error:
            for path, content in gated.items():
                self._write(path, content)
            self._reload()
            raise Failed(
                f"The gate was not taken out: {error.sentence}", "It is in place again, and the new server serves."
            ) from None
        self._wait_for_old_processes(10)
        names = " ".join(q(path) for kind, path in self._list() if kind == "absent")
        # The copy from before stays, as `was/`: it says what was there, and nothing else does. So does the flag `new`: until
        # nginx is reloaded next, the gate is still loaded, and whoever asked it would have to be sent to the new server.
        self._change(f"rm -f {names}\nrm -rf log bodies installed door turn.* was && mv before was", "remove the gate's files")
        self._test()
        paths = sorted(texts) or [path for kind, path in self._list_of("was") if kind == "kept"]
        shown = ", ".join(paths) or "Your proxy"
        return Installed(True, paths, f"{shown} passes requests to the new server by itself; the gate is gone.")

    def _list_of(self, folder: str) -> list[tuple[str, str]]:
        said = _text(self._read(f"{self._folder}/{folder}/list") or b"")
        return [(kind, path) for kind, _, path in (line.partition(" ") for line in said.splitlines())]

    def _change(self, script: str, what: str) -> None:
        answer = self._gate.shell.change(f"cd {q(self._folder)} || exit 1\n{script}", what, deadline=60)
        if answer.code != 0:
            raise Failed(f"The Nginx host could not {what}: {answer.reason}.")
