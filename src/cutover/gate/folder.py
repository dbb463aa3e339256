"""The gate's folder on the Nginx host: what its flags say, how much room there is, and changing something in it."""

from __future__ import annotations

import re
import secrets as randomness
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutover.core.errors import Failed, Refused, Unreachable
from cutover.gate.interface import Side

if TYPE_CHECKING:
    from cutover.core.shell import Shell

#: Free room below which lines of the log may be missing: nginx drops them when the disk is full.
LEAST_FREE_MB = 16
#: A watch (:mod:`cutover.gate.watch`) that has not looked for so many seconds is none.
SILENT_SECONDS = 15
#: When recording was ended, as long as the host has not written it down.
JUST_NOW = "just now"
#: What is in the folder as long as the gate is in Nginx.
_NEEDED = "before/list flags bodies log/writes.jsonl"


def _named(missing: Sequence[str], folder: str) -> str:
    whole = set(_NEEDED.split())
    names = [folder, *(path for path in missing if path not in whole)] if whole <= set(missing) else missing
    return ", ".join(path if path.startswith("/") else f"{folder}/{path}" for path in names)


@dataclass(frozen=True)
class State:
    """What the gate is doing now; satisfies :class:`cutover.gate.interface.Flags`.

    ``installed``: the gate's files were put in by this tool and not yet taken out. ``free_mb``: room for bodies on the
    Nginx host, -1 where it does not say. ``log_bytes``: size of the log. ``ended``: when recording was ended because the disk
    ran full, empty where it was not. ``unwatched``: writes are recorded, and nobody looks whether there is room for them.
    ``missing``: what a gate needs and is not there, by its path in the folder, and the path of the gate's file; all of it, where
    no gate was ever put in.
    """

    side: Side
    held: bool
    recording: bool
    installed: bool
    log_bytes: int
    free_mb: int
    ended: str = ""
    unwatched: bool = False
    missing: Sequence[str] = ()

    @property
    def lost(self) -> str:
        """Why writes are not recorded although they were to be, without a full stop; empty where nothing is wrong."""
        if not self.ended:
            return ""
        at = self.ended if self.ended == JUST_NOW else f"at {self.ended}"
        return f"recording was ended {at}, because the disk of the Nginx host ran full; applications did not notice"

    def lacks(self, *names: str) -> bool:
        """Whether one of these files or folders of the gate's folder is missing."""
        return any(path.split("/")[0] in names for path in self.missing)


class Folder:
    """The folder ``path``, reached through a shell. ``cd``: how a script begins that works in it."""

    def __init__(self, path: str, shell: Shell, gate_file: str = "") -> None:
        self.path, self.shell, self._gate_file = path, shell, gate_file
        self.cd = f"cd {shlex.quote(path)} || exit 9\n"
        self._token, self._made = "", ""

    def state(self) -> State:
        """What the flags say now. Without a gate: nothing is held or recorded, and the old server is asked."""
        answer = self.shell.read(
            f"[ -e {shlex.quote(self._gate_file)} ] || echo missing {shlex.quote(self._gate_file)}\n"
            f"cd {shlex.quote(self.path)} 2>/dev/null || {{ for f in {_NEEDED}; do echo missing $f; done; echo end; exit 0; }}\n"
            "for f in hold new record; do if [ -f flags/$f ]; then echo $f; fi; done\n"
            "if [ -f before/list ]; then echo installed; fi\n"
            # Settled: the operator's own file names the new server, and there are no flags any more.
            "if [ ! -f before/list ] && [ -d was ]; then echo new; fi\n"
            f"for f in {_NEEDED}; do [ -e $f ] || echo missing $f; done\n"
            "if [ -f before/list ]; then n=0; while read -r kind _; do\n"
            "[ $kind = absent ] || [ -f before/$n ] || echo missing before/$n; n=$((n+1)); done < before/list; fi\n"
            "if [ -f log/writes.jsonl ]; then printf 'log '; wc -c < log/writes.jsonl; fi\n"
            'if [ -f log/ended ]; then echo "ended $(cat log/ended)"; fi\n'
            'echo "watched $(date +%s) $(cat log/watched 2>/dev/null)"\n'
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
            free_mb=free_mb(answer.text),
            ended=(words["ended"] or JUST_NOW) if "ended" in words else "",
            unwatched="record" in words and _silent_for(lines) > SILENT_SECONDS,
            missing=[line[1] for line in lines if line[0] == "missing" and len(line) == 2],
        )

    def gone(self, state: State) -> str:
        """What is missing there, as the beginning of a sentence."""
        named = _named(state.missing, self.path)
        return f"{named} {'are' if ',' in named else 'is'} gone from {self.shell.where}"

    def token(self) -> str:
        """The word with which the gate is asked something, of the gate that is in; empty where that has none, or none is in."""
        if not self._token:
            path, file = f"{shlex.quote(self.path)}/token", shlex.quote(self._gate_file)
            # Where somebody removed it, the gate's own file still has it.
            found = self.shell.output(
                f"if [ -f {path} ]; then cat {path}; elif [ -f {file} ]; then "
                f"sed -n 's/^.*~^state \\([0-9a-f]\\{{32\\}}\\)\\$.*/\\1/p' {file}; fi",
                f"{path} on {self.shell.where} cannot be read",
            )
            word = found.decode(errors="replace").strip()
            self._token = word if re.fullmatch(r"[0-9a-f]{32}", word) else ""
        return self._token

    def wanted_token(self) -> str:
        """The same, or a new one for a gate that is still to be put in."""
        self._made = self._made or randomness.token_hex(16)
        return self.token() or self._made

    def token_kept(self) -> str:
        """A script that keeps the word in the folder, for root alone."""
        return f"[ -s token ] || {{ (umask 077 && printf %s {self.wanted_token()} > token.new) && mv token.new token; }}"

    def change(self, script: str, what: str, deadline: float = 20.0) -> None:
        """Run a script in the folder; :class:`Failed` with ``what`` it could not do. ``deadline`` in seconds."""
        answer = self.shell.change(self.cd + script, what, deadline=deadline)
        if answer.code == 9:
            raise Refused(f"There is no folder {self.path} on {self.shell.where}.", "Install the gate first.")
        if answer.code != 0:
            raise Failed(f"The Nginx host could not {what}: {answer.reason}.", self._no_room())

    def _no_room(self) -> str:
        """That the disk is full, where it is: a shell's own words for it are often "I/O error"."""
        free = self.state().free_mb
        return f"Its disk is full ({free} MB left): make room there." if 0 <= free < LEAST_FREE_MB else ""

    def free_mb(self) -> int:
        """Free megabytes there; -1 where the host does not say."""
        return free_mb(self.shell.read(f"{self.cd}df -Pk .").text)


def free_mb(said: str) -> int:
    """Free megabytes in what ``df -Pk`` printed, also among other lines; -1 where there is none."""
    found = re.findall(r"^\S.*?\s(\d+)\s+\d+%\s", said, re.MULTILINE)
    return int(found[-1]) // 1024 if found else -1


def _silent_for(lines: Sequence[Sequence[str]]) -> int:
    """Seconds since the loop that watches the room last wrote the time; very many where it never did, or wrote no time."""
    found = next((line[1:] for line in lines if line[0] == "watched"), [])
    now, at = [int(word) if word.isdigit() else 0 for word in [*found, "", ""][:2]]
    return now - at


def synced(path: str) -> str:
    """On the disk, so that a power cut cannot take it back. The folder as well; where `sync` takes no names, everything."""
    return f"{{ sync {path} flags 2>/dev/null || sync; }}"
