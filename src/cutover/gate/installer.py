"""Putting the gate into an Nginx and taking it out again, byte for byte.

The gate is one file of its own. In the operator's files only the old server's address is replaced by the gate's, wherever one of
them passes requests there (:mod:`cutover.gate.ways`). Putting it in: everything that can fail is looked at first
(:mod:`cutover.gate.nginx_host`); every file that changes is copied (:mod:`cutover.gate.copies`) and written; ``nginx -t``
has to like them; Nginx is reloaded; and then it is proved through the operator's own server that the gate is loaded, sees its
flags, and that everything is answered as before (:mod:`cutover.gate.proof`). Where any of this fails, the copies go back, and the
sentence says what was wrong.

Taking it out is the same replacement backwards: a file that nobody changed since comes back byte for byte from its copy; in one
that somebody changed, only the address is replaced, and the change stays.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.gate.addresses import Addresses, as_bytes, as_text
from cutover.gate.bodies import Bodies
from cutover.gate.copies import Copies
from cutover.gate.nginx_host import Facts, Inspector, WrongConfiguration
from cutover.gate.obstacles import obstacles
from cutover.gate.reload import Reload
from cutover.gate.servers import split

if TYPE_CHECKING:
    from cutover.core.write_guard import WriteGuard
    from cutover.gate import templates
    from cutover.gate.folder import Folder, State
    from cutover.gate.nginx_conf import Configuration
    from cutover.gate.proof import Proof
    from cutover.gate.worker import Worker
    from cutover.site.schema import Site

q = shlex.quote
_SECONDS = 60.0


@dataclass(frozen=True)
class Installed:
    """What came of installing or removing. ``changed``: files and reload; ``files``: paths that were written or put back."""

    changed: bool
    files: Sequence[str]
    sentence: str


class Installer:
    """Installs and removes the gate of one site. ``file``: the gate's file for an nginx."""

    def __init__(
        self,
        site: Site,
        guard: WriteGuard,
        folder: Folder,
        host: Inspector,
        addresses: Addresses,
        worker: Worker,
        proof: Proof,
        file: Callable[[Facts | None], templates.Gatefile],
    ) -> None:
        self._site, self._guard, self._folder = site, guard, folder
        self._nginx = site.nginx
        self.host, self.addresses, self._worker, self._proof, self._file = host, addresses, worker, proof, file
        self._bodies = Bodies(folder, site.nginx.worker_user)
        self.copies, self.reload = Copies(folder, self._bodies), Reload(site.nginx, folder, host, proof.say)

    # --- Looking -----------------------------------------------------------------------------------------------------

    def refusals(self, facts: Facts) -> list[str]:
        """Why the gate cannot be installed here; empty when it can."""
        if self.leads_here(facts.configuration):
            facts = replace(facts, backed_up=True)  # a gate is put in again, or taken out; what is there now is the gate's
        seen_there = self.host.with_preflight(facts, self._changing(facts))
        if seen_there.listening and not facts.backed_up and self._worker.listening() is not None:
            seen_there = replace(seen_there, listening=False)  # a gate that was taken out stays loaded until the next reload
        found = obstacles(seen_there, self._nginx, self.host.gate_file)
        if self._nginx.edit:
            seen = self.addresses.ways(facts.configuration, self.addresses.old)
            found += seen.refused
            host = split(self.addresses.old)[0]
            found += [
                f"{where} loads the program {path}, which names the old server; what comes of it cannot be seen here. Take it "
                "out of there, or pass requests on by `proxy_pass`."
                for where, path in seen.programs
                if self.host.naming(path, facts.configuration.main, host)
            ]
            if not seen.places and not seen.refused and not self.addresses.ways(facts.configuration, self.addresses.gate).places:
                found.append(
                    f"No file of Nginx's configuration passes requests to http://{self.addresses.old}, so there is nothing "
                    f"that could be led "
                    "through the gate. Where another proxy does, or a file that this tool must not edit, set `nginx.edit: false`."
                )
            elif not seen.refused:
                try:
                    self.addresses.pointed(facts.configuration, self.addresses.old, self.addresses.gate)
                except Refused as refused:
                    found.append(str(refused))
        return found

    def cost_of_a_reload(self, facts: Facts) -> str:
        """What the reload of this step costs users, as a sentence."""
        address = self.addresses.gate if facts.backed_up else self.addresses.old
        return self.reload.cost(facts, self.addresses.ways(facts.configuration, address))

    def _changing(self, facts: Facts) -> list[str]:
        if not self._nginx.edit:
            return []
        files = self.addresses.ways(facts.configuration, self.addresses.old).files
        return [*files, *(path for path in self.addresses.included(facts.configuration) if path not in files)]

    def wanted(self, facts: Facts) -> dict[str, bytes]:
        """Path to content of every file that the gate still changes or adds: its own first, so that what names it finds it."""
        found = {self.host.gate_file: as_bytes(self._file(facts).text)}
        if self._nginx.edit:
            found |= self.addresses.led_to_the_gate(facts.configuration, self._file(facts).text)
        return found

    # --- Putting in --------------------------------------------------------------------------------------------------

    def install(self) -> Installed:
        state = self._folder.state()
        facts = self.host.facts()
        wrong = self.refusals(facts)
        if wrong:
            raise Refused(f"The gate cannot be installed: {' '.join(wrong)}", "Nothing was changed.")
        missing = state.missing if self.leads_here(facts.configuration) else ()
        wanted = {path: content for path, content in self.wanted(facts).items() if self.copies.read(path) != content}
        before, again = self._proof.look(), self._proof.look()
        if missing:
            self._prepare_folder(facts)
            self._make_whole(facts.configuration, state)
            facts = replace(facts, backed_up=True)
        state = self._folder.state()
        in_use = facts.backed_up and (state.side == "new" or state.recording)
        if in_use or missing:
            # A way that somebody led past the gate is led back: what is behind may be another server now, or nothing.
            before = again = self.copies.door() or {name: a for name, a in before.items() if a.status not in {502, 504}}
        if not wanted and facts.backed_up and not missing and self._proof.is_loaded(self._file(None).checksum):
            self._proof.prove(self._file(None).checksum, before, again)
            self._proof.arrive(before, again)
            return Installed(False, [], "The gate is installed already, and works.")
        self._prepare_folder(facts)
        self.copies.keep(wanted, more=facts.backed_up)
        loaded = facts.backed_up
        try:
            for path, content in wanted.items():
                self.copies.write(path, content, private=path == self.host.gate_file)
            self.copies.note(wanted)
            self.copies.note_door(before)
            self.reload.test()
            loaded = loaded or not self.reload.by_hand  # who does not reload by hand has loaded nothing
            self.reload.now()
            loaded = True
            self._proof.prove(self._file(None).checksum, before, again)
        except CutoverError as error:
            if in_use:  # without the gate users would be on the old server, or write unrecorded
                raise Failed(f"The gate was put in again, but: {error.sentence}", "It stays in. " + error.hint) from None
            raise self._put_back_after(error, loaded=loaded) from None
        self.reload.wait_for_old_processes()
        self._proof.arrive(before, again)
        edited = [path for path in wanted if path != self.host.gate_file]
        return Installed(
            True,
            [*edited, self.host.gate_file],
            f"The gate is in {self.host.gate_file}, requests pass it from "
            f"{', '.join(edited) or 'where you pointed them'}, and the old "
            "server is asked as before.",
        )

    def _prepare_folder(self, facts: Facts) -> None:
        shell, user = self._folder.shell, self._nginx.worker_user
        existed = shell.holds(f"[ -d {q(self._folder.path)} ]", f"{self._folder.path} on {shell.where} cannot be read")
        made = shell.change(
            f"mkdir -p {q(self._folder.path)}/flags {q(self._folder.path)}/log && cd {q(self._folder.path)} "
            f"&& chmod 755 . flags && chmod 700 log && {self._folder.token_kept()}",
            f"make the folder {self._folder.path}",
        )
        if made.code != 0:
            raise Failed(f"The folder {self._folder.path} on {shell.where} cannot be made: {made.reason}.")
        if not facts.is_root:
            return
        # Ask before Nginx is touched. Where `su` cannot answer, the proof after the reload does.
        asked = shell.read(
            f"su -s /bin/sh {q(user)} -c {q(f'if [ -d {q(self._folder.path)}/flags/. ]; then echo sees; else echo blind; fi')}"
        )
        if asked.text != "blind":
            return
        if not existed:
            self.copies.remove_folder()
            self._guard.taken_back()
        raise self._proof.blind()

    def _put_back_after(self, error: CutoverError, *, loaded: bool) -> CutoverError:
        try:
            self._put_back(loaded=loaded)
        except CutoverError as again:
            return Failed(
                f"{error.sentence} Putting the files back failed as well: {again.sentence}",
                "Run `undo gate` once that is right; until then the files in Nginx's folders may be the gate's.",
            )
        self._guard.taken_back()
        if isinstance(error, Refused):
            return Refused(error.sentence, f"{error.hint} Everything was put back as it was.".strip())
        return Failed(f"The gate was not installed: {error.sentence}", "Everything was put back as it was.")

    # --- What somebody removed ---------------------------------------------------------------------------------------

    def leads_here(self, configuration: Configuration | None = None) -> bool:
        """Whether Nginx's files pass requests to the gate, or hold its file, whatever became of the gate's folder."""
        found = configuration or self.host.configuration()
        return (
            self.host.gate_file in found.files
            or bool(self.addresses.ways(found, self.addresses.gate).places)
            or bool(self.addresses.not_included(found.files))
        )

    def _make_whole(self, configuration: Configuration, state: State) -> None:
        """Make folders and copies again that somebody removed from the gate's folder; ``state``: as it was found."""
        made = self._folder.shell.change(
            f"mkdir -p {q(self._folder.path)}/log && chmod 700 {q(self._folder.path)}/log", f"make {self._folder.path}/log"
        )
        if made.code != 0:
            raise Failed(f"The folder {self._folder.path} on {self._folder.shell.where} cannot be made: {made.reason}.")
        if state.lacks("log", "bodies"):  # what was recorded is gone; a record that goes on would hide that
            self._folder.change("rm -f flags/record", "remove the flag record")
        if state.lacks("before"):
            self.copies.make_again(self.without_copies(configuration), self.host.gate_file)

    def without_copies(self, configuration: Configuration | None = None) -> dict[str, bytes]:
        """The operator's files that come back without their copies: what is there now, with the old server's address."""
        found = configuration or self.host.configuration()
        return self.addresses.away_from_the_gate(found, self.addresses.old) if self._nginx.edit else {}

    # --- Taking out --------------------------------------------------------------------------------------------------

    def remove(self) -> Installed:
        state = self._folder.state()
        if state.missing:
            configuration = self.host.configuration()
            if self.leads_here(configuration):
                self._make_whole(configuration, state)
            elif not state.installed:
                return self._nothing_to_take_out()
        paths, changed, remark = self._put_back()
        shown = ", ".join(paths) or "Nginx's configuration"
        kept = f" In {', '.join(changed)} somebody changed something since; that stays." if changed else ""
        return Installed(True, paths, f"{shown} is byte for byte what it was before the gate, and is loaded.{kept}{remark}")

    def _nothing_to_take_out(self) -> Installed:
        if self._worker.loaded() is None:
            return Installed(False, [], "There is no gate.")
        raise Refused(
            "There is a gate that this tool did not install, so it does not know what was there before.", "Take it out by hand."
        )

    def undoing(self) -> tuple[dict[str, int], dict[str, bytes]]:
        """What taking the gate out does: files that come back from their copies (path to number), and others that somebody
        changed since, with the address put back. Reads only; :class:`Refused` where an address cannot be put back.
        """
        kept = {path for kind, path in self.copies.listed() if kind == "kept"}
        unchanged = self.copies.unchanged()
        configuration = self.host.configuration()
        originals = {path: as_text(copy) for path, (_, copy) in unchanged.items()}
        back = {path: number for path, (number, _) in unchanged.items()}
        rest = self.addresses.away_from_the_gate(configuration.with_files(originals), self.addresses.old)
        foreign = [path for path in rest if path not in kept]
        if foreign and not self._nginx.edit:
            raise Refused(
                f"{', '.join(foreign)} still passes requests to the gate.",
                f"Put http://{self.addresses.old} there again, then try again.",
            )
        for number, (kind, path) in enumerate(self.copies.listed()):
            if kind == "kept" and path in rest and self.copies.copy(number) == rest[path]:
                back[path] = number
        return back, {path: content for path, content in rest.items() if path not in back}

    def _put_back(self, *, loaded: bool = True) -> tuple[list[str], list[str], str]:
        """The copies go back, the gate's file goes; tested, loaded and compared. Safe to repeat.

        ``loaded``: nginx may have read the gate's files; where it has not, there is nothing to reload.
        Returns the paths that are as before, those in which only the address was put back, and a remark.
        """
        if not self._nginx.edit and self._worker.loaded() is not None:
            raise Refused(
                f"{self._site.qdrant.public_url} still passes its requests to the gate.",
                f"Let it pass them to http://{self.addresses.old} again, then try again.",
            )
        listed = self.copies.listed()
        try:
            back, changed = self.undoing()
        except WrongConfiguration:
            back, changed = {path: n for n, (kind, path) in enumerate(listed) if kind == "kept"}, {}
        for path, content in changed.items():
            self.copies.write(path, content)
        self.copies.put_back(back)
        remark = ""
        absent = " ".join(q(path) for kind, path in listed if kind == "absent")
        remove = f"rm -f {absent}" if absent else "true"
        if not loaded:
            self._folder.change(remove, "remove the gate's file", _SECONDS)
        self.reload.test()
        if loaded and self.reload.runs():
            # The gate still listens while requests end that came by it; it is taken out of the folder when they have.
            try:
                self.reload.now()
                remark = self._proof.left(self.copies.door())
                self.reload.wait_for_old_processes()
            except CutoverError as error:
                # Nginx may not have taken the gate in, and does not take this in for the same reason. Nobody comes by it then.
                if self._worker.loaded() is not None or self._worker.listening() is not None:
                    raise
                remark = f" But nginx could not be told so: {error.sentence}"
        self._folder.change(remove, "remove the gate's file", _SECONDS)
        self.reload.test()
        self.copies.remove_folder()
        return list(back), list(changed), remark

    # --- Staying with the new server ---------------------------------------------------------------------------------

    def settle(self) -> Installed:
        """Take the gate out while the new server serves: what passed requests to it passes them to the new server."""
        facts = self.host.facts()
        if not facts.backed_up:
            return self._nothing_to_take_out()
        if not self._nginx.edit and self._worker.loaded() is not None:
            raise Refused(
                f"{self._site.qdrant.public_url} still passes its requests to the gate.",
                f"Let it pass them to http://{self.addresses.new} now, then try again.",
            )
        loaded = False
        texts = self.addresses.settled(facts.configuration) if self._nginx.edit else {}
        gated = {path: as_bytes(facts.configuration.files[path]) for path in texts}
        before, again = self._proof.look(), self._proof.look()
        try:
            for path, content in texts.items():
                self.copies.write(path, content)
            self.reload.test()
            loaded = not self.reload.by_hand
            self.reload.now()
            loaded = True
            if self._worker.loaded() is not None:
                raise Failed("nginx still answers with the gate.")
            self._proof.same(before, again)
        except CutoverError as error:
            try:
                for path, content in gated.items():
                    self.copies.write(path, content)
                if loaded:
                    self.reload.now()
            except CutoverError as again:
                raise Failed(
                    f"The gate was not taken out: {error.sentence} Putting it in again failed as well: {again.sentence}",
                    "Run `settle` again once that is right; until then some of Nginx's files may name the new server.",
                ) from None
            raise Failed(
                f"The gate was not taken out: {error.sentence}", "It is in place again, and the new server serves."
            ) from None
        self.reload.wait_for_old_processes(10)
        listed = self.copies.listed()
        names = " ".join(q(path) for kind, path in listed if kind == "absent")
        # The copy from before stays, as `was/`: it says what was there, and nothing else does. So does the flag `new`: until
        # nginx is reloaded next, the gate is still loaded, and whoever asked it would have to be sent to the new server.
        self._folder.change(
            f"rm -f {names}\n{self._bodies.gone()}\nrm -rf log installed door turn.* was && mv before was",
            "remove the gate's files",
            _SECONDS,
        )
        self.reload.test()
        paths = sorted(texts) or [path for kind, path in listed if kind == "kept"]
        shown = ", ".join(paths) or "Your proxy"
        return Installed(True, paths, f"{shown} passes requests to the new server by itself; the gate is gone.")
