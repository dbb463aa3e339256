"""What the installer knows of an Nginx host before it touches it: the configuration, the processes, and what would go wrong.

Everything here reads. Whatever can fail when the gate is put in is looked at first, so that a refusal comes before the first
byte is written, and is shown without ``--execute`` as well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Refused
from cutover.core.shell import Answer
from cutover.gate import nginx_conf, templates
from cutover.gate.bodies import as_user
from cutover.gate.folder import free_mb
from cutover.gate.nginx_conf import Configuration, Include
from cutover.gate.servers import split

if TYPE_CHECKING:
    from cutover.core.shell import Shell
    from cutover.site.schema import Nginx

#: What the gate makes in its folder; everything else there is somebody else's and stays.
_OURS = re.compile(r"flags|log|bodies|before|before\.new|installed|was|door|token|token\.new|turn\.[0-9a-f]+|\.writing")
#: Where the tools of an administrator are, also for who logs in without them.
PATH = "PATH=$PATH:/usr/sbin:/usr/local/sbin:/sbin\n"
#: Begins a script: `began PID` prints when a process began, in seconds since 1970, and nothing where there is none. Ages are
#: counted from a process that begins now, because a container's uptime is not in the same measure as these.
BEGAN = """ticks() { sed 's/.*) //' /proc/$1/stat 2>/dev/null | cut -d' ' -f20; }
now=$(date +%s); mine=$(ticks self); hz=$(getconf CLK_TCK 2>/dev/null || echo 100)
began() { then=$(ticks $1); if [ -n "$then" ]; then echo $((now - (mine - then) / hz)); fi; }
"""

#: Prints its number `n` where a file `p` can neither be replaced in one step nor be written in place. One that is mounted by
#: itself (Docker) cannot be renamed over, nor one that root may not write (`chattr +i`).
_UNWRITABLE = """r=$(readlink -f "$p" 2>/dev/null || echo "$p")
if [ -f "$r" ] && [ -w "$r" ]; then :
elif [ "$(id -u)" = 0 ] && [ -e "$r" ] && [ ! -w "$r" ]; then echo $n
elif [ -w "$(dirname "$r")" ] && ! grep -qF " $r " /proc/self/mountinfo 2>/dev/null; then :
else echo $n; fi
"""

q = shlex.quote


class WrongConfiguration(Refused):
    """Nginx does not accept its own configuration."""


@dataclass(frozen=True)
class Facts:
    """An Nginx host as it is."""

    version: str
    build: str
    configuration: Configuration
    backed_up: bool
    is_root: bool
    foreign: Sequence[str] = ()  # what is in the gate's folder and not the gate's
    settled: bool = False  # the gate was taken out for good; its folder has the files from before as `was/`
    newer: Sequence[str] = ()  # files that changed after nginx last read its configuration
    listening: bool = False  # somebody has the gate's address
    free_mb: int = -1
    unwritable: Sequence[str] = ()
    blind: str = ""  # a folder on the way to the gate's that the workers cannot pass
    runs: bool = True
    open_folder: str = ""  # a folder on the way to the gate's in which everybody may put another in its place
    stuck_as_root: bool = False  # nobody can become the workers' user, who may put anything in the place of a recorded body
    no_folder: str = ""  # the folder of the gate's file, where there is none
    master_user: str = ""  # who the master process is, where that is neither root nor who the shell is
    started: str = ""  # the file that the running nginx reads, where it is another than site.yaml's
    pid_file: str = ""
    other_names: Sequence[str] = ()  # patterns of includes that name that folder in another way than site.yaml

    def built(self) -> templates.Build:
        """What the gate's file has to know of this nginx."""
        blocks = [one.block or [] for one in self.configuration.top if one.name == "http"]
        http = [d.name for block in blocks for d in block if not d.file.endswith(f"/{templates.NAME}")]
        return templates.Build.read(f"{self.version}\n{self.build}", frozenset(http))


class Inspector:
    """Asks an Nginx host through its shell."""

    def __init__(self, shell: Shell, nginx: Nginx) -> None:
        self._shell, self._nginx = shell, nginx
        self._folder = nginx.gate_folder
        self.command = f"{q(nginx.binary)} -c {q(nginx.main_config)}"
        self.gate_file = f"{nginx.http_folder}/{templates.NAME}"
        self._pid_path = ""
        self._names: dict[str, frozenset[str]] = {}

    def facts(self) -> Facts:
        """Everything the installer has to know; reads only. :class:`CutoverError` when nginx itself is unwell."""
        shell = self._shell
        build = shell.read(f"{PATH}{q(self._nginx.binary)} -V 2>&1")
        if build.code != 0:
            raise Refused(
                f"nginx cannot be run on {shell.where}: {next(reversed(build.text.splitlines()), build.reason)}.",
                "See nginx.binary in site.yaml.",
            )
        configuration = self.configuration()
        there = shell.output(
            f"[ ! -d {q(self._folder)} ] || ls -A {q(self._folder)}", f"{self._folder} on {shell.where} cannot be read"
        )
        names = there.decode(errors="replace").splitlines()
        backed_up = shell.holds(f"[ -f {q(self._folder)}/before/list ]", f"{self._folder} on {shell.where} cannot be read")
        return Facts(
            version=build.text.splitlines()[0] if build.text else "",
            build=build.text,
            configuration=configuration,
            backed_up=backed_up,
            is_root=shell.output("id -u", f"Who one is on {shell.where} cannot be seen").strip() == b"0",
            foreign=[name for name in names if not _OURS.fullmatch(name) and name != "lost+found"],
            settled="was" in names,
        )

    def configuration(self) -> Configuration:
        """What is on the disk now, as nginx reads it."""
        tested = self._shell.read(self._with_what_is_gone())
        if tested.code != 0 and self.gate_file in emerg(tested):
            tested = self._shell.read(
                f"c={q(self.gate_file)}; true > $c || exit 1\n({self._with_what_is_gone()}); r=$?; rm -f $c; exit $r"
            )
        if tested.code != 0:
            raise WrongConfiguration(
                f"The Nginx configuration was already wrong before anything was changed: {emerg(tested)}.",
                "Correct it first. Where nginx was started with `-p` or `-g`, name a script as nginx.binary that adds them.",
            )
        return nginx_conf.read_dump(tested.out.decode("utf-8", errors="surrogateescape"), self._content)

    def _content(self, path: str) -> str:
        """What is in a file; empty where there is none."""
        return self._shell.read(f"cat {q(path)}").out.decode("utf-8", errors="surrogateescape")

    def _with_what_is_gone(self) -> str:
        """A script that lets nginx show its configuration, with a folder where somebody removed the gate's, and as it was after.

        Nginx does not read a configuration whose log it cannot open. It would make what it can, and hide that it was gone.
        """
        return (
            f"{PATH}f={q(self._folder)}; a=; l=1\n"
            f"if [ -e {q(self.gate_file)} ]; then\n"
            'for d in "$f" "$f/log" "$f/bodies"; do [ -d "$d" ] || a="$d $a"; done\n'
            '[ -e "$f/log/writes.jsonl" ] || l=; mkdir -p "$f/log"\nfi\n'
            f"{self.command} -T; r=$?\n"
            '[ -n "$l" ] || [ -s "$f/log/writes.jsonl" ] || rm -f "$f/log/writes.jsonl"\n'
            'for d in $a; do rmdir "$d" 2>/dev/null; done\nexit $r'
        )

    def fingerprint(self, configuration: Configuration) -> str:
        """What changes when one of its files does, or another file comes into a folder that is included; empty where the host
        cannot say.
        """
        included = {_folder_of(one.pattern) for one in configuration.includes}
        folders = included | {str(PurePosixPath(path).parent) for path in configuration.files}
        paths = " ".join(map(q, sorted({*configuration.files, *folders})))
        # A folder that is not there yet may come.
        return self._shell.read(f"stat -L -c '%n %i %s %Y %Z %z' {paths} 2>/dev/null; true").text

    def with_preflight(self, facts: Facts, changing: Sequence[str]) -> Facts:
        """The same with what would go wrong when these files are changed."""
        folder = str(PurePosixPath(self.gate_file).parent)
        there = self._shell.holds(f"[ -d {q(folder)} ]", f"{folder} on {self._shell.where} cannot be seen")
        unwritable = self._unwritable([*changing, *([self.gate_file] if there else [])])
        script = self._preflight(facts, folder, there=there)
        said = self._shell.output(script, f"The host {self._shell.where} cannot be looked at").decode(errors="replace")

        def told(word: str) -> list[str]:
            return [line.removeprefix(f"{word} ") for line in said.splitlines() if line.startswith(f"{word} ")]

        at = next(iter(told("at")), self._folder)
        if "\nwritable" not in said:
            unwritable.append(self._folder)
        running = "\nruns\n" in said
        return replace(
            facts,
            unwritable=unwritable,
            listening=_listens(said, self._nginx.gate_address),
            free_mb=free_mb(said),
            blind=at if facts.is_root and "\nblind" in said else "",
            newer=self._newer(facts) if running else (),
            runs=running,
            open_folder=_open_to_all(said, there=at == self._folder),
            stuck_as_root="\nstuck\n" in said,
            no_folder="" if there else folder,
            other_names=told("named"),
            master_user=next(iter(told("master")), ""),
            started=next(iter(told("started")), ""),
            pid_file=self._pid_file(facts),
        )

    def _preflight(self, facts: Facts, folder: str, *, there: bool) -> str:
        """A script that prints what :meth:`with_preflight` has to know, mostly behind a word. ``folder`` is the gate's file's."""
        patterns = {one.pattern for one in facts.configuration.includes if not one.takes(self.gate_file)}
        return (
            f"g=$(readlink -f {q(folder)})\n"
            + "".join(
                f'[ "$(readlink -f {q(_folder_of(pattern))})" != "$g" ] || printf "named %s\\n" {q(pattern)}\n'
                for pattern in sorted(patterns)
                if there and Include(f"{folder}/{pattern.rpartition('/')[2]}", ()).takes(self.gate_file)
            )
            + f'd={q(self._folder)}; while [ ! -d "$d" ]; do d=$(dirname "$d"); done\n'
            'p=$(readlink -f "$d"); while [ "${p#/}" != "$p" ]; do stat -c "mode %a %n" "$p"; '
            '[ "$p" != / ] || break; p=$(dirname "$p"); done\n'
            'echo "at $d"; [ -w "$d" ] && echo writable; df -Pk "$d" | sed 1d\n'
            f"su -s /bin/sh {q(self._nginx.worker_user)} -c \"[ -x '$d' ] && echo sees || echo blind\" 2>/dev/null "
            f"</dev/null || true\n"
            f"{{ {as_user(self._nginx.worker_user, 'true')}; }} </dev/null >/dev/null 2>&1 || echo stuck\n"
            "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null\n"
            f"ls -l /proc/$(cat {q(self._pid_file(facts))})/fd 2>/dev/null || true\n"
            f'm=$(cat {q(self._pid_file(facts))} 2>/dev/null); [ -n "$m" ] && [ -d /proc/$m ] || exit 0\necho runs\n'
            'o=$(stat -c %u /proc/$m); [ "$o" = 0 ] || [ "$o" = "$(id -u)" ] || stat -c "master %U" /proc/$m\n'
            "c=$(tr '\\0' ' ' < /proc/$m/cmdline | sed -n 's/.* -c *\\(\\/[^ ]*\\).*/\\1/p')\n"
            f'[ -z "$c" ] || [ "$(readlink -f "$c")" = "$(readlink -f {q(self._nginx.main_config)})" ] '
            '|| printf "started %s\\n" "$c"\n'
        )

    def _unwritable(self, paths: Sequence[str]) -> list[str]:
        """Those of these files that can neither be replaced in one step nor be written in place. Reads only."""
        script = "".join(f"n={number} p={q(path)}\n{_UNWRITABLE}" for number, path in enumerate(paths))
        said = self._shell.output(script or "true", "The files of nginx cannot be looked at")
        return [paths[int(number)] for number in said.split()]

    def naming(self, path: str, main: str, host: str) -> bool:
        """Whether a program that Nginx loads names this host. ``main``: beside which a path that is not whole begins."""
        whole = PurePosixPath(main).parent / path
        return self._shell.read(f"grep -qF -e {q(host)} {q(str(whole))}").code == 0

    def resolve(self, name: str) -> frozenset[str]:
        """The addresses of a host name, as the Nginx host knows them; empty where it knows none."""
        if name not in self._names:
            asked = self._shell.read(
                f"if command -v getent >/dev/null 2>&1; then getent ahosts {q(name)} || getent hosts {q(name)}; "
                f"else nslookup {q(name)} | sed -n '/^Name/,$p' | sed -n 's/^Address[^:]*: *//p'; "
                f"awk -v n={q(name)} '{{ for (i = 2; i <= NF; i++) if ($i == n) print $1 }}' /etc/hosts; fi"
            )
            self._names[name] = frozenset(line.split()[0] for line in asked.text.splitlines() if line.split())
        return self._names[name]

    def _newer(self, facts: Facts) -> list[str]:
        """Files of the configuration that changed after the workers began."""
        paths = " ".join(q(path) for path in facts.configuration.files)
        pids = [pid for pid, ending in self.workers(facts).items() if not ending]
        if not pids:
            return []
        script = (
            f'{BEGAN}began=$(began {min(pids)}); [ -n "$began" ] || exit 0\n'
            f'for f in {paths}; do c=$(stat -L -c %Z "$f" 2>/dev/null || echo 0)\n'
            "[ $c -le $((began + 1)) ] || printf '%s\\n' \"$f\"; done"
        )
        said = self._shell.read(script)
        return said.text.splitlines() if said.code == 0 else []

    def connections(self, ports: Collection[int]) -> int:
        """How many connections clients have open to these ports of this machine now."""
        said = self._shell.read("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; true").text
        return sum(1 for state, _, port, _ in _sockets(said) if state == "01" and port in ports)

    # --- Processes ------------------------------------------------------------------------------------------------------------

    def workers(self, facts: Facts | None = None) -> dict[int, bool]:
        """Process to "serves on, but only what it had begun before a reload", of every worker of this nginx."""
        path = self._pid_file(facts)
        found = self._shell.read(
            f'master=$(cat {q(path)}) && [ -n "$master" ] || exit 7\n'
            "for f in $(grep -l 'nginx: worker process' /proc/[0-9]*/cmdline 2>/dev/null); do\n"
            "  d=${f%/cmdline}\n"
            '  grep -q "^PPid:[[:space:]]*$master\\$" $d/status 2>/dev/null || continue\n'
            "  if grep -q 'is shutting down' $f 2>/dev/null; then echo ${d#/proc/} ending; else echo ${d#/proc/}; fi\n"
            "done; true"
        )
        if found.code == 7:
            raise Refused(f"nginx does not run on {self._shell.where}: {found.reason}.", "Start it first.")
        if found.code != 0:
            raise Refused(f"The processes of nginx on {self._shell.where} cannot be seen: {found.reason}.")
        return {int(line.split()[0]): "ending" in line for line in found.text.splitlines()}

    def _pid_file(self, facts: Facts | None = None) -> str:
        if not self._pid_path:
            facts = facts or self.facts()
            said = [d.words[1].text for d in facts.configuration.said("pid") if len(d.words) > 1]
            self._pid_path = pid_file(facts.build, said[0] if said else "")
        return self._pid_path

    def complaints(self, since: int | None = None) -> tuple[int, str]:
        """How long nginx's log is, and what it says last since then about why a configuration could not be taken in."""
        said: list[str] = []
        with suppress(CutoverError):  # without its configuration it may be where it mostly is
            said = [d.words[1].text for d in self.configuration().said("error_log") if len(d.words) > 1]
        path = next((one for one in said if one.startswith("/")), "/var/log/nginx/error.log")
        found = self._shell.read(
            f"wc -c < {q(path)} 2>/dev/null || echo 0\n"
            + (f"tail -c +{since + 1} {q(path)} 2>/dev/null | grep -F '[emerg]' | tail -n 1" if since is not None else "true")
        )
        size, _, last = found.text.partition("\n")
        return int(size) if size.strip().isdigit() else 0, last.partition("[emerg]")[2].partition(": ")[2].strip()

    def processes_ending(self, worker: int) -> list[int]:
        """nginx processes that still serve requests begun before a reload; ``worker`` is one that was asked over HTTP."""
        found = self.workers()
        if worker not in found:
            raise Refused(
                f"Users reach an nginx whose process {worker} is none of those on {self._shell.where}.",
                "nginx.shell in site.yaml has to lead to the machine that users come in by.",
            )
        return [pid for pid, ending in found.items() if ending]

    def ask_gate(self, question: str) -> bytes:
        """What the gate answers on its own address, asked from its host by whatever client is there; empty where none is.

        The question holds the gate's word, so it goes to the client by its standard input: arguments are for everybody to see.
        """
        host, port = split(self._nginx.gate_address)
        url = f"http://{self._nginx.gate_address}/"
        head = f"X-Qdrant-Gate: {question}"
        raw = f"GET / HTTP/1.0\\r\\nHost: gate\\r\\n{head}\\r\\n\\r\\n"
        bash = f"exec 3<>/dev/tcp/{host}/{port}; printf {q(raw)} >&3; cat <&3"
        perl = f'use IO::Socket::INET; $s=IO::Socket::INET->new("{host}:{port}") or exit 1; print $s "{raw}"; print while <$s>;'
        asked = self._shell.read(
            f"if command -v curl >/dev/null 2>&1; then printf 'header = \"%s\"\\n' {q(head)} | "
            f"curl -s -m 5 --noproxy '*' -K - {q(url)}\n"
            f"elif command -v nc >/dev/null 2>&1; then printf {q(raw)} | nc -w 5 {q(host)} {port}\n"
            f"elif command -v bash >/dev/null 2>&1; then printf '%s\\n' {q(bash)} | bash\n"
            f"elif command -v perl >/dev/null 2>&1; then printf '%s\\n' {q(perl)} | perl\n"
            f"elif command -v wget >/dev/null 2>&1; then printf 'header = %s\\n' {q(head)} | "
            f"http_proxy= wget --config=/dev/stdin -q -T 5 -O - {q(url)}\n"
            "fi 2>/dev/null; true",
            deadline=10,
        )
        return asked.out


def _listens(tables: str, address: str) -> bool:
    """Whether /proc/net/tcp and tcp6 show that somebody listens where the gate would.

    Not this nginx itself, whose open files are listed there too: it keeps a gate that was taken out until it is reloaded next.
    """
    own = set(re.findall(r"socket:\[(\d+)\]", tables))
    host, port = split(address)
    wanted = {"0" * 8, "0" * 32}
    if re.fullmatch(r"[\d.]+", host):
        wanted.add("".join(f"{int(part):02X}" for part in reversed(host.split("."))))
    return any(
        state == "0A" and there == port and at in wanted and inode not in own for state, at, there, inode in _sockets(tables)
    )


def _sockets(tables: str) -> Iterator[tuple[str, str, int, str]]:
    """State, own address, own port and inode of every line of /proc/net/tcp and tcp6."""
    for line in tables.splitlines():
        words = line.split()
        if len(words) > 9 and ":" in words[1] and words[0] != "sl" and not line.startswith(("l", "-")):
            at, _, port = words[1].rpartition(":")
            yield words[3], at.upper(), int(port, 16), words[9]


def _open_to_all(said: str, *, there: bool) -> str:
    """The first folder in which everybody may put something of theirs in the place of the gate's; ``there``: its own is there.

    Where only who owns a thing may move it (`/tmp`), what is below is safe, but not what is in it.
    """
    for number, (mode, path) in enumerate(re.findall(r"^mode (\d+) (/.*)$", said, re.MULTILINE)):
        bits = int(mode, 8)
        if bits & 0o002 and (not bits & 0o1000 or (there and number == 0)):
            return str(path)
    return ""


def _folder_of(pattern: str) -> str:
    """The last folder of an include's pattern that has one name."""
    return re.split(r"[*?\[]", pattern)[0].rpartition("/")[0] or "/"


def pid_file(build: str, said: str) -> str:
    """Where an nginx writes its process: as ``pid`` says, or as it was built; below its prefix where that is no whole path."""
    options = {name: re.search(rf"--{name}=(\S+)", build) for name in ("prefix", "pid-path")}
    prefix, built = (found[1] if (found := options[name]) else "" for name in ("prefix", "pid-path"))
    return str(PurePosixPath(prefix or "/usr/local/nginx") / (said or built or "logs/nginx.pid"))


def emerg(answer: Answer) -> str:
    """What nginx complained about first."""
    lines = [line for line in answer.err.splitlines() if "[emerg]" in line] or answer.err.strip().splitlines()[-1:]
    return re.sub(r"^nginx: \[emerg\] ", "", lines[0]).rstrip(".") if lines else answer.reason
