"""Putting the gate into an Nginx and taking it out again, byte for byte.

Putting it in: every file that is about to change is copied into ``before/`` in the gate's folder, with mode, owner and
times; the new files are written; ``nginx -t`` has to like them; Nginx is reloaded; and then it is proved from outside that
a worker process has exactly these files loaded, sees the flags, and passes a read and a write to the old Qdrant as before.
Where any of this fails, the copies go back, Nginx is reloaded once more, and the sentence says what was wrong.

A reload is not free: a request that an application sends on a kept-alive connection just while the old process closes it
is lost (measured: a handful in tens of thousands under full load). Moving the traffic itself never reloads.
"""

from __future__ import annotations

import hashlib
import re
import secrets as randomness
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.shell import Answer, written
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.gate import templates
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.gate.controller import Gate

#: `auth_delay` came with 1.17.10.
OLDEST_NGINX = (1, 17, 10)
#: What the gate makes in its folder; everything else there is somebody else's and stays.
_OURS = re.compile(r"flags|log|bodies|before|before\.new|installed|was|turn\.[0-9a-f]+")
#: Part of every ordinary build, unless it was left out on purpose.
_NEEDED = ("rewrite", "map", "proxy", "mirror", "empty_gif", "limit_conn", "access", "auth_basic", "upstream_keepalive")

q = shlex.quote


@dataclass(frozen=True)
class Installed:
    """What came of installing or removing. ``changed``: files and reload; ``files``: paths that were written or put back."""

    changed: bool
    files: Sequence[str]
    sentence: str


@dataclass(frozen=True)
class Facts:
    """What the installer knows of an Nginx before it touches it."""

    version: str
    build: str
    configuration: str
    server_file: str
    server_text: str
    backed_up: bool
    is_root: bool
    foreign: Sequence[str] = ()  # what is in the gate's folder and not the gate's
    settled: bool = False  # the gate was taken out for good; its folder has the files from before as `was/`


def obstacles(facts: Facts, *, worker_user: str, http_folder: str, folder: str, old: str) -> list[str]:
    """Why the gate could not work there, as sentences; empty when it can. Pure."""
    found = []
    number = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", facts.version)
    if number is None:
        found.append(f"It is not nginx but {facts.version or 'something that does not say its version'}.")
    elif tuple(map(int, number.groups())) < OLDEST_NGINX:
        needed = ".".join(map(str, OLDEST_NGINX))
        found.append(f"nginx {'.'.join(number.groups())} is too old: the gate needs {needed} (`auth_delay`).")
    if "--with-http_auth_request_module" not in facts.build:
        found.append("This nginx was built without the module auth_request, with which the gate holds writes.")
    found += [
        f"This nginx was built without the module {name}, which the gate needs."
        for name in _NEEDED
        if f"--without-http_{name}_module" in facts.build
    ]
    user = _said(facts.configuration, "user")
    if facts.is_root and user and user[0] != worker_user:
        found.append(f"Its workers run as {user[0]}, but site.yaml says nginx.worker_user: {worker_user}.")
    if not any(f"{PurePosixPath(http_folder).name}/" in name for name in _said(facts.configuration, "include")):
        found.append(f"Nothing from {http_folder} is included in its configuration (`include {http_folder}/*.conf;` in `http`).")
    if facts.foreign:
        found.append(
            f"{folder} holds what is not the gate's: {', '.join(facts.foreign[:3])}{', ...' if len(facts.foreign) > 3 else ''}. "
            "The gate needs a folder of its own (nginx.gate_folder in site.yaml)."
        )
    if _passes_grpc(facts.configuration, old.rsplit(":", 1)[0]):
        found.append(
            "It also passes gRPC to the old Qdrant; the gate cannot hold or record gRPC. Move those clients to REST first."
        )
    found += [
        f"{where} passes requests to the old Qdrant, too; the gate could neither hold nor record them, and after the switch they "
        "would still go there. Let it pass them to the server that gets the gate, or take it out."
        for where in _other_ways(facts, old)
    ]
    return found


def _other_ways(facts: Facts, old: str) -> list[str]:
    """Where else requests are passed to the old server: other files, or the server file beside the place that gets the gate."""
    plain = uncommented(facts.configuration)
    servers = re.findall(r"upstream\s+(\S+)\s*\{([^}]*)\}", plain)
    names = {old} | {name for name, inside in servers if re.search(rf"\bserver\s+{re.escape(old)}[\s;]", inside)}
    ours = facts.server_text.encode("utf-8", errors="surrogateescape").decode(errors="replace").strip()
    # `nginx -T` says of every file where it begins.
    parts = re.split(r"(?m)^# configuration file (.+):\n", facts.configuration)
    found = []
    for path, text in zip(parts[1::2], parts[2::2], strict=True):
        here = [t for t in _said(text, "proxy_pass") if re.sub(r"^https?://", "", t).split("/")[0] in names]
        is_ours = bool(ours) and text.strip() == ours
        # Not by the copies: a run that was interrupted may have made them, and nothing else.
        if len(here) > (1 if is_ours and templates.INCLUDE not in facts.server_text else 0):
            found.append(f"{path}, beside the place that gets the gate," if is_ours else path)
    return found


def _said(configuration: str, name: str) -> list[str]:
    """The first words after every directive of this name."""
    found = re.findall(rf"(?:^|[;{{}}])\s*{name}\s+([^\s;]+)", uncommented(configuration), re.MULTILINE)
    return [word.strip("\"'") for word in found]


def _passes_grpc(configuration: str, old: str) -> bool:
    """Whether gRPC is passed to the old server's address, directly or through an upstream."""
    for target in _said(configuration, "grpc_pass"):
        host = re.sub(r"^grpcs?://", "", target).rsplit(":", 1)[0]
        upstream = rf"upstream\s+{re.escape(host)}\s*\{{[^}}]*\b{re.escape(old)}[:;]"
        if host == old or re.search(upstream, uncommented(configuration)):
            return True
    return False


def uncommented(configuration: str) -> str:
    """Without the lines that are comments."""
    return re.sub(r"(?m)^\s*#.*$", "", configuration)


class Installer:
    """Installs and removes the gate of one site."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        nginx = gate.site.nginx
        self._nginx = nginx
        self._folder = nginx.gate_folder
        self._command = f"{q(nginx.binary)} -c {q(nginx.main_config)}"
        self._snippets = str(PurePosixPath(nginx.main_config).parent / "snippets")
        self._old = netloc(gate.site.qdrant.old_url)
        self._pid_path = ""

    # --- Looking -----------------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Everything the installer has to know; reads only. :class:`CutoverError` when nginx itself is unwell."""
        shell = self._gate.shell
        path = "PATH=$PATH:/usr/sbin:/usr/local/sbin:/sbin\n"
        build = shell.read(f"{path}{q(self._nginx.binary)} -V 2>&1")
        if build.code != 0:
            raise Refused(
                f"nginx cannot be run on {shell.where}: {build.text.splitlines()[-1:] or build.reason}.",
                "See nginx.binary in site.yaml.",
            )
        tested = shell.read(f"{path}{self._command} -T")
        if tested.code != 0:
            raise Refused(
                f"The Nginx configuration was already wrong before anything was changed: {_emerg(tested)}.", "Correct it first."
            )
        text = shell.read(f"cat {q(self._nginx.server_file)}")
        if text.code != 0:
            raise Refused(
                f"nginx.server_file cannot be read: {text.reason}.", "Name the file that proxies Qdrant today in site.yaml."
            )
        # Where a link leads is what is written: the link itself is not replaced.
        real = shell.output(f"readlink -f {q(self._nginx.server_file)}", f"Where {self._nginx.server_file} leads cannot be seen")
        there = shell.output(
            f"[ ! -d {q(self._folder)} ] || ls -A {q(self._folder)}", f"{self._folder} on {shell.where} cannot be read"
        )
        return Facts(
            version=build.text.splitlines()[0] if build.text else "",
            build=build.text,
            configuration=tested.out.decode(errors="replace"),
            server_file=real.decode("utf-8", errors="surrogateescape").rstrip("\n") or self._nginx.server_file,
            server_text=text.out.decode("utf-8", errors="surrogateescape"),
            backed_up=self._backed_up(),
            is_root=shell.output("id -u", f"Who one is on {shell.where} cannot be seen").strip() == b"0",
            foreign=[
                name for name in there.decode(errors="replace").splitlines() if not _OURS.fullmatch(name) and name != "lost+found"
            ],
            settled=b"was" in there.split(),
        )

    def _backed_up(self) -> bool:
        return self._gate.shell.holds(
            f"[ -f {q(self._folder)}/before/list ]", f"{self._folder} on {self._gate.shell.where} cannot be read"
        )

    def refusals(self, facts: Facts) -> list[str]:
        """Why the gate cannot be installed here; empty when it can."""
        nginx = self._nginx
        return obstacles(facts, worker_user=nginx.worker_user, http_folder=nginx.http_folder, folder=self._folder, old=self._old)

    def wanted(self, facts: Facts) -> dict[str, bytes]:
        """Path to content of every file that the gate changes or adds, the server file last."""
        files = self._gate.files()
        found = {f"{self._nginx.http_folder}/{name}": text.encode() for name, text in files.http.items()}
        found |= {f"{self._snippets}/{name}": text.encode() for name, text in files.snippets.items()}
        original = self._before(facts.server_file) if facts.backed_up else facts.server_text
        if not facts.backed_up and templates.INCLUDE in facts.server_text:
            raise Refused(
                f"{facts.server_file} includes the gate already, and this tool did not put it there.",
                "Take it out by hand (README in nginx/), so that the tool knows what was there before.",
            )
        text = templates.with_gate(original, old=self._old, where=facts.server_file, around=facts.configuration)
        return found | {facts.server_file: text.encode("utf-8", errors="surrogateescape")}

    def _before(self, path: str) -> str:
        """A file as it was before the gate."""
        for number, line in enumerate(self._list()):
            if line == ("kept", path):
                found = self._gate.shell.read(f"cat {q(self._folder)}/before/{number}")
                if found.code == 0:
                    return found.out.decode("utf-8", errors="surrogateescape")
        raise Failed(
            f"There is no copy of {path} in {self._folder}/before.", "Put the file right by hand, then remove that folder."
        )

    def _list(self) -> list[tuple[str, str]]:
        """What is in ``before/``: (``kept`` or ``absent``, path), in order."""
        listed = f"{self._folder}/before/list"
        found = self._gate.shell.output(f"cat {q(listed)}", f"{listed} on {self._gate.shell.where} cannot be read")
        lines = [line.partition(" ") for line in found.decode(errors="replace").splitlines()]
        if not lines or any(kind not in {"kept", "absent"} for kind, _, _ in lines):
            raise Refused(
                f"{listed} on {self._gate.shell.where} is not the list of what was there before the gate.", "Look at that folder."
            )
        return [(kind, path) for kind, _, path in lines]

    def workers(self) -> dict[int, bool]:
        """Process to "serves on, but only what it had begun before a reload", of every worker of this nginx."""
        path = self._pid_file()
        found = self._gate.shell.read(
            f'master=$(cat {q(path)}) && [ -n "$master" ] || exit 7\n'
            "for f in $(grep -l 'nginx: worker process' /proc/[0-9]*/cmdline 2>/dev/null); do\n"
            "  d=${f%/cmdline}\n"
            '  grep -q "^PPid:[[:space:]]*$master\\$" $d/status 2>/dev/null || continue\n'
            "  if grep -q 'is shutting down' $f 2>/dev/null; then echo ${d#/proc/} ending; else echo ${d#/proc/}; fi\n"
            "done; true"
        )
        if found.code == 7:
            raise Refused(f"nginx does not run on {self._gate.shell.where}: {found.reason}.", "Start it first.")
        if found.code != 0:
            raise Refused(f"The processes of nginx on {self._gate.shell.where} cannot be seen: {found.reason}.")
        return {int(line.split()[0]): "ending" in line for line in found.text.splitlines()}

    def _pid_file(self) -> str:
        if not self._pid_path:
            facts = self.facts()
            said = _said(facts.configuration, "pid")
            built = re.search(r"--pid-path=(\S+)", facts.build)
            self._pid_path = said[0] if said else built[1] if built else "/run/nginx.pid"
        return self._pid_path

    def processes_ending(self, worker: int) -> list[int]:
        """nginx processes that still serve requests begun before a reload; ``worker`` is one that was asked over HTTP."""
        found = self.workers()
        if worker not in found:
            raise Refused(
                f"Users reach an nginx whose process {worker} is none of those on {self._gate.shell.where}.",
                "nginx.shell in site.yaml has to lead to the machine that users come in by.",
            )
        return [pid for pid, ending in found.items() if ending]

    # --- Putting in --------------------------------------------------------------------------------------------------

    def install(self) -> Installed:
        facts = self.facts()
        wrong = self.refusals(facts)
        if wrong:
            raise Refused(f"The gate cannot be installed: {' '.join(wrong)}", "Nothing was changed.")
        wanted = self.wanted(facts)
        before = self._gate.answers(self._gate.site.qdrant.old_url, "GET", "/")
        if self._complete(wanted):
            self._prove(before)
            return Installed(False, [], "The gate is installed already, and works.")
        self._prepare_folder(facts)
        if not facts.backed_up:
            self._back_up(wanted)
        try:
            for path, content in wanted.items():
                self._write(path, content)
            note = f"printf '%s\\n' {q(self._digest(wanted))} > installed && true > flags/probe"
            self._change(note, "note what was installed, and that it is not proved")
            self._test()
            self._reload()
            self._prove(before)
        except CutoverError as error:
            raise self._put_back_after(error) from None
        self._wait_for_old_processes()
        return Installed(True, list(wanted), f"The gate is in {facts.server_file}, and the old server is asked as before.")

    def _complete(self, wanted: dict[str, bytes]) -> bool:
        """Whether exactly these files are there and loaded."""
        for path, content in wanted.items():
            found = self._gate.shell.read(f"cat {q(path)}")
            if found.code != 0 or found.out != content:
                return False
        seen = self._gate.loaded()
        return seen is not None and seen["files"] == self._gate.files().checksum

    @staticmethod
    def _digest(wanted: dict[str, bytes]) -> str:
        return hashlib.sha256(list(wanted.values())[-1]).hexdigest()

    def _prepare_folder(self, facts: Facts) -> None:
        shell, user = self._gate.shell, self._nginx.worker_user
        existed = shell.holds(f"[ -d {q(self._folder)} ]", f"{self._folder} on {shell.where} cannot be read")
        made = shell.change(
            f"mkdir -p {q(self._folder)}/flags {q(self._folder)}/log {q(self._snippets)} && cd {q(self._folder)} "
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
        return Refused(
            f"nginx's worker processes (user {self._nginx.worker_user}) cannot look into {self._folder}/flags: they would act as "
            f"if no flag were set, and hold and switch would do nothing.",
            "Make every folder on the way to it passable for that user (chmod o+x), then try again.",
        )

    def _back_up(self, wanted: dict[str, bytes]) -> None:
        script = "rm -rf before.new && mkdir before.new && chmod 700 before.new || exit 1\n"
        for number, path in enumerate(wanted):
            if "\n" in path:
                raise Refused(f"{path!r} is not a usable path.")
            script += (
                f"if [ -e {q(path)} ]; then cp -p {q(path)} before.new/{number} && cmp -s {q(path)} before.new/{number} "
                f"&& printf 'kept %s\\n' {q(path)} >> before.new/list || exit 1\n"
                f"else printf 'absent %s\\n' {q(path)} >> before.new/list; fi\n"
            )
        self._change(f"{script}sync; mv before.new before", "copy the files that will be changed")

    def _write(self, path: str, content: bytes) -> None:
        """Replace a file in one step, keeping mode and owner where it existed."""
        folder, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
        # A name with a dot in front is not taken in by `include *.conf`.
        fresh = f"{folder}/.{name}.gate-new"
        self._change(
            f"if [ -e {q(path)} ]; then cp -p {q(path)} {q(fresh)} || exit 1\n"
            f"else true > {q(fresh)} && chmod 644 {q(fresh)} || exit 1; fi\n"
            f"{{ {written(content)}; }} > {q(fresh)} && mv -f {q(fresh)} {q(path)} || {{ rm -f {q(fresh)}; exit 1; }}",
            f"write {path}",
        )

    def _test(self) -> None:
        tested = self._gate.shell.read(f"PATH=$PATH:/usr/sbin:/usr/local/sbin:/sbin\n{self._command} -t")
        if tested.code != 0:
            raise Refused(f"nginx does not accept the configuration with the gate: {_emerg(tested)}.")

    def _reload(self) -> None:
        """Reload, and wait until no process takes in requests with the configuration from before.

        For about 0.1 s old and new workers both do, so one answer of a new one does not show that it is over.
        """
        before = {pid for pid, ending in self.workers().items() if not ending}
        words = " ".join(map(q, self._nginx.reload))
        self._change(f"PATH=$PATH:/usr/sbin:/usr/local/sbin:/sbin\n{words} >&2", "reload nginx")

        def taken_over() -> bool | Not:
            old = before & {pid for pid, ending in self.workers().items() if not ending}
            return Not(f"processes {sorted(old)} still work with the configuration from before") if old else True

        wait_until(taken_over, deadline=15, what="The reload of nginx")

    def _prove(self, before: tuple[int, bytes]) -> None:
        """That this gate is loaded, sees its flags, and passes reads and writes as the old server answers them."""
        gate, checksum = self._gate, self._gate.files().checksum

        def loaded() -> bool | Not:
            seen = gate.loaded()
            if seen is None:
                return Not(f"{gate.site.qdrant.public_url} answers without a gate")
            return True if seen["files"] == checksum else Not("it has other files of the gate loaded")

        wait_until(loaded, deadline=10, what="Loading the gate", every=0.05)
        self._change("true > flags/probe", "set the flag probe")
        try:
            wait_until(self._sees_probe, deadline=2, what="Seeing a flag", every=0.05)
        except TimedOut:
            raise self._blind() from None
        if gate.state().side == "old":
            self._prove_ways(before)
        # Last: where it stays, the proof was broken off, and is made again.
        self._change("rm -f flags/probe", "remove the flag probe")

    def _sees_probe(self) -> bool | Not:
        seen = self._gate.loaded() or {}
        return True if "probe" in str(seen.get("flags")).split() else Not("nginx does not see it")

    def _prove_ways(self, before: tuple[int, bytes]) -> None:
        """Reads and writes through Nginx are answered as by the old server, and as it answered before."""
        read = self._same_answers(self._gate.site.qdrant.public_url, self._gate.site.qdrant.old_url, "the old server")
        if read != before[0]:
            raise Refused(f"A read through Nginx is answered with {read}; before the gate it was {before[0]}.")

    def _same_answers(self, public: str, server: str, name: str) -> int:
        """A read and a write are answered alike through Nginx and directly; the write names a collection that is none."""
        path = f"/collections/gate-proof-{randomness.token_hex(8)}/points/delete?wait=true"
        for what, method, where, body in (("write", "POST", path, {"points": []}), ("read", "GET", "/", None)):
            direct = self._gate.answers(server, method, where, body)[0]
            through = self._gate.answers(public, method, where, body)[0]
            if through != direct or through >= 500:
                raise Refused(f"A {what} through Nginx is answered with {through}, by {name} itself with {direct}.")
        return through

    def _wait_for_old_processes(self) -> None:
        """Processes from before the gate end with their last request; a slow one is left, recording waits for it."""

        def gone() -> bool | Not:
            seen = self._gate.loaded()
            older = self.processes_ending(int(seen["pid"])) if seen else []
            return Not(f"processes {older} still serve") if older else True

        with suppress(TimedOut):
            wait_until(gone, deadline=3, what="The end of the processes from before")

    def _put_back_after(self, error: CutoverError) -> CutoverError:
        try:
            self._put_back()
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
        self._refuse_foreign_changes()
        paths = self._put_back()
        return Installed(True, paths, f"{paths[-1]} is byte for byte what it was before the gate, and is loaded.")

    def _nothing_to_take_out(self) -> Installed:
        if self._gate.loaded() is None:
            return Installed(False, [], "There is no gate.")
        raise Refused(
            "There is a gate that this tool did not install, so it does not know what was there before.", "Take it out by hand."
        )

    def _refuse_foreign_changes(self) -> None:
        kind, path = self._list()[-1]
        found = self._gate.shell.read(f"cat {q(path)}")
        note = self._gate.shell.read(f"cat {q(self._folder)}/installed")
        # An interrupted `gate` or `settle` leaves what was there before, or what `settle` makes of it.
        ours = [self._before(path)]
        with suppress(Refused):
            ours.append(self._settled(path))
        digests = {note.text, *(hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest() for text in ours)}
        if kind == "kept" and note.code == 0 and (found.code != 0 or hashlib.sha256(found.out).hexdigest() not in digests):
            raise Refused(
                f"{path} was changed by somebody since the gate was installed; putting the old one back would lose that.",
                f"The one from before is {self._folder}/before/{len(self._list()) - 1}; put the file right by hand.",
            )

    def _put_back(self) -> list[str]:
        """The copies go back, ours go; tested, loaded and compared. Safe to repeat. Returns the paths, server file last."""
        listed = self._list()
        script = ""
        # The server file first: it names the others.
        for number, (kind, path) in reversed(list(enumerate(listed))):
            fresh = f"{PurePosixPath(path).parent}/.{PurePosixPath(path).name}.gate-old"
            if kind == "kept":
                script += f"cp -p before/{number} {q(fresh)} && mv -f {q(fresh)} {q(path)} || exit 1\n"
                script += f"cmp -s before/{number} {q(path)} || exit 1\n"
            else:
                script += f"rm -f {q(path)} || exit 1\n"
        self._change(script, "put the files back as they were")
        self._test()
        self._reload()

        def unloaded() -> bool | Not:
            return True if self._gate.loaded() is None else Not("nginx still answers with the gate")

        wait_until(unloaded, deadline=10, what="Loading the configuration from before", every=0.05)
        direct = self._gate.answers(self._gate.site.qdrant.old_url, "GET", "/")[0]
        through = self._gate.answers(self._gate.site.qdrant.public_url, "GET", "/")[0]
        if direct != through:
            raise Failed(
                f"The files are as before, but a read through Nginx is answered with {through}, by the old server with {direct}."
            )
        self._remove_folder()
        return [path for _, path in listed]

    def _remove_folder(self) -> None:
        """Only what the gate made; a folder that holds something else stays, with that."""
        folder = q(self._folder)
        self._gate.shell.change(
            f"cd {folder} && rm -rf flags log bodies installed turn.* before before.new was && cd / || exit 1\n"
            f"rmdir {folder} 2>/dev/null || true",
            f"remove the folder {self._folder}",
        )

    # --- Staying with the new server ---------------------------------------------------------------------------------

    def settle(self) -> Installed:
        """Take the gate out while the new server serves: the operator's own file comes back, naming the new server."""
        facts = self.facts()
        if not facts.backed_up:
            return self._nothing_to_take_out()
        self._refuse_foreign_changes()
        path, public, new_url = facts.server_file, self._gate.site.qdrant.public_url, self._gate.site.qdrant.new_url
        text = self._settled(path)
        gated, others = self.wanted(facts), [other for kind, other in self._list() if kind == "absent"]
        try:
            self._write(path, text.encode("utf-8", errors="surrogateescape"))
            self._test()
            self._reload()
            if self._gate.loaded() is not None:
                raise Failed("nginx still answers with the gate.")
            self._same_answers(public, new_url, "the new server")
        except CutoverError as error:
            self._write(path, gated[path])
            self._reload()
            raise Failed(
                f"The gate was not taken out: {error.sentence}", "It is in place again, and the new server serves."
            ) from None
        names = " ".join(q(other) for other in others)
        # The copy from before stays, as `was/`: it says what was there, and nothing else does.
        self._change(f"rm -f {names}\nrm -rf flags log bodies installed turn.* was && mv before was", "remove the gate's files")
        return Installed(True, [path], f"{path} passes requests to the new server by itself; the gate is gone.")

    def _settled(self, path: str) -> str:
        """The operator's own file, naming the new server."""
        new = netloc(self._gate.site.qdrant.new_url)
        return templates.with_new_address(self._before(path), old=self._old, new=new, where=path)

    def _change(self, script: str, what: str) -> None:
        answer = self._gate.shell.change(f"cd {q(self._folder)} || exit 1\n{script}", what, deadline=60)
        if answer.code != 0:
            raise Failed(f"The Nginx host could not {what}: {answer.reason}.")


def _emerg(answer: Answer) -> str:
    """What nginx complained about first."""
    lines = [line for line in answer.err.splitlines() if "[emerg]" in line] or answer.err.strip().splitlines()[-1:]
    return re.sub(r"^nginx: \[emerg\] ", "", lines[0]).rstrip(".") if lines else answer.reason
