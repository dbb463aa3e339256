"""The operator's files on the Nginx host: reading and writing them, and the copies from before the gate.

The copies lie in ``before/`` of the gate's folder, with mode, owner and times; ``list`` there says which is which. What this tool
wrote is known by its digest (``installed``), so that somebody's change is told from it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cutover.core.errors import Refused
from cutover.core.shell import written
from cutover.gate import doorway
from cutover.gate.addresses import as_text

if TYPE_CHECKING:
    from cutover.gate.bodies import Bodies
    from cutover.gate.folder import Folder

q = shlex.quote
_SECONDS = 60.0


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Copies:
    """Files of the operator, and their copies in the gate's folder."""

    def __init__(self, folder: Folder, bodies: Bodies) -> None:
        self._folder, self._bodies = folder, bodies

    def listed(self) -> list[tuple[str, str]]:
        """What is in ``before/``: (``kept`` or ``absent``, path), in order."""
        listed = f"{self._folder.path}/before/list"
        found = self._folder.shell.output(f"cat {q(listed)}", f"{listed} on {self._folder.shell.where} cannot be read")
        lines = [line.partition(" ") for line in as_text(found).splitlines()]
        if not lines or any(kind not in {"kept", "absent"} for kind, _, _ in lines):
            raise Refused(
                f"{listed} on {self._folder.shell.where} is not the list of what was there before the gate.",
                "Look at that folder.",
            )
        return [(kind, path) for kind, _, path in lines]

    def read(self, path: str) -> bytes | None:
        """A file's content; None where there is none."""
        shell = self._folder.shell
        if not shell.holds(f"[ -f {q(path)} ]", f"{path} on {shell.where} cannot be seen"):
            return None
        return shell.output(f"cat {q(path)}", f"{path} on {shell.where} cannot be read")

    def copy(self, number: int) -> bytes | None:
        """A file as it was before the gate; None where somebody removed the copy."""
        return self.read(f"{self._folder.path}/before/{number}")

    def keep(self, wanted: Iterable[str], *, more: bool) -> None:
        """Copy what will be changed. ``more``: there are copies, and a file keeps its first one, from before the gate."""
        listed = self.listed() if more else []
        fresh = [path for path in wanted if path not in {known for _, known in listed}]
        if any("\n" in path for path in fresh):
            raise Refused(f"{fresh!r} is not usable as paths.")
        folder = "before" if more else "before.new"
        script = "" if more else "rm -rf before.new && mkdir before.new && chmod 700 before.new || exit 1\n"
        for number, path in enumerate(fresh, len(listed)):
            script += (
                f"if [ -e {q(path)} ]; then cp -p {q(path)} {folder}/{number} && cmp -s {q(path)} {folder}/{number} "
                f"&& printf 'kept %s\\n' {q(path)} >> {folder}/list || exit 1\n"
                f"else printf 'absent %s\\n' {q(path)} >> {folder}/list; fi\n"
            )
        if not more:
            script += "sync; mv before.new before"
        if script:
            self._folder.change(script, "copy the files that will be changed", _SECONDS)

    def make_again(self, before: Mapping[str, bytes], absent: str) -> None:
        """Somebody removed copies: these contents take their place, made of what is there now. ``absent``: the gate's file."""
        script = "rm -rf before.new && mkdir before.new && chmod 700 before.new || exit 1\n"
        for number, (path, content) in enumerate(before.items()):
            script += (
                f"cp -p {q(path)} before.new/{number} && {written(content)} > before.new/{number} "
                f"&& printf 'kept %s\\n' {q(path)} >> before.new/list || exit 1\n"
            )
        digests = "".join(f"{_digest(self.read(path) or b'')} {path}\n" for path in before)
        script += (
            f"printf 'absent %s\\n' {q(absent)} >> before.new/list && printf %s {q(digests)} > installed && sync || exit 1\n"
            "rm -rf before && mv before.new before"
        )
        self._folder.change(script, "make the copies of Nginx's files again", _SECONDS)

    def write(self, path: str, content: bytes, *, private: bool = False) -> None:
        """Replace a file in one step, keeping mode and owner; where that cannot be, write it in place.

        ``private``: for its owner alone, also where it was for others before.
        """
        mode = 600 if private else 644
        self._folder.change(
            f'r=$(readlink -f {q(path)} 2>/dev/null || echo {q(path)})\nd=$(dirname "$r")\n'
            # A name with a dot in front is not taken in by `include *.conf`.
            f'f="$d/.$(basename "$r").gate-new"; g={q(self._folder.path)}/.writing\n'
            f'{{ {written(content)}; }} > "$g" || {{ rm -f "$g"; exit 1; }}\n'
            f'if [ -e "$r" ]; then cp -p "$r" "$f" 2>/dev/null; else {{ true > "$f" && chmod {mode} "$f"; }} 2>/dev/null; fi\n'
            + ('chmod 600 "$f" "$r" 2>/dev/null\n' if private else "")
            # Where there is no room for a second one, the file is not touched: written in place it would be lost.
            + 'if [ -e "$f" ]; then cat "$g" > "$f" || { rm -f "$f" "$g"; exit 1; }; fi\n'
            'if [ -e "$f" ] && mv -f "$f" "$r" 2>/dev/null; then :\n'
            'else rm -f "$f" 2>/dev/null; cat "$g" > "$r" || { rm -f "$g"; exit 1; }; fi\n'
            'cmp -s "$g" "$r" && rm -f "$g"',
            f"write {path}",
            _SECONDS,
        )

    def unchanged(self) -> dict[str, tuple[int, bytes]]:
        """The files that nobody changed since this tool did, each with the number of its copy and what that holds."""
        noted = self.read(f"{self._folder.path}/installed") or b""
        ours = {line.split(" ", 1)[0] for line in as_text(noted).splitlines() if line}
        found: dict[str, tuple[int, bytes]] = {}
        for number, (kind, path) in enumerate(self.listed()):
            if kind != "kept" or (copy := self.copy(number)) is None:
                continue  # somebody removed the copy; the address can be put back all the same
            now = self.read(path)
            # An interrupted `gate` leaves what was there before in some of them.
            if now is not None and (_digest(now) in ours or now == copy):
                found[path] = number, copy
        return found

    def note(self, wanted: Mapping[str, bytes]) -> None:
        """Note what is installed, and that it is not proved."""
        digests = "".join(f"{_digest(content)} {path}\n" for path, content in wanted.items())
        note = f"printf %s {q(digests)} >> installed && true > flags/probe"
        self._folder.change(note, "note what was installed, and that it is not proved", _SECONDS)

    def put_back(self, numbers: Mapping[str, int]) -> None:
        """The copies with these numbers go back to these paths, and are compared."""
        script = ""
        for path, number in numbers.items():
            script += (
                f"r=$(readlink -f {q(path)} 2>/dev/null || echo {q(path)})\n"
                'd=$(dirname "$r"); f="$d/.$(basename "$r").gate-old"\n'
                # Nothing to do where it was never changed, and may not be (`chattr +i`).
                f'if ! cmp -s before/{number} "$r" || [ "$r" -nt before/{number} ]; then\n'
                # Where there is no room for a second one, the file is not touched: written in place it would be lost.
                f'if ! cp -p before/{number} "$f" 2>/dev/null && [ -w "$d" ] && ! cmp -s before/{number} "$f"\n'
                'then rm -f "$f"; exit 1; fi\n'
                '[ -e "$f" ] && mv -f "$f" "$r" 2>/dev/null '
                f'|| {{ rm -f "$f" 2>/dev/null; cat before/{number} > "$r" && touch -r before/{number} "$r"; }} || exit 1\nfi\n'
                f'cmp -s before/{number} "$r" || exit 1\n'
            )
        self._folder.change(script or "true", "put the files back as they were", _SECONDS)

    def door(self) -> dict[str, doorway.Answer]:
        """How users were answered before the gate, as it was noted."""
        return doorway.kept(as_text(self.read(f"{self._folder.path}/door") or b""))

    def note_door(self, answers: Mapping[str, doorway.Answer]) -> None:
        """Note how users are answered before the gate; the first note stays."""
        script = f"[ -f door ] || printf %s {q(doorway.written(answers))} > door"
        self._folder.change(script, "note how Nginx answered before", _SECONDS)

    def remove_folder(self) -> None:
        """Only what the gate made; a folder that holds something else stays, with that."""
        folder = q(self._folder.path)
        self._folder.shell.change(
            f"cd {folder} || exit 1\n{self._bodies.gone()}\n"
            "rm -rf flags log installed door token token.new turn.* before before.new was .writing && cd / || exit 1\n"
            f"rmdir {folder} 2>/dev/null || true",
            f"remove the folder {self._folder.path}",
        )
