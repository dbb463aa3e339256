"""The Nginx that users come in by: which process it is, which Qdrant it passes requests to, and every way that leads there.

The running master process says with which program and configuration it was started, so nothing is guessed from where a
distribution puts its files. Where several run on one machine, it is the one that passes requests to a guest's Qdrant.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import requests

from cutover.core import http
from cutover.core.errors import CutoverError
from cutover.core.write_guard import WriteGuard
from cutover.discovery.facts import Found
from cutover.gate import templates, ways
from cutover.gate.nginx_conf import Configuration, Directive
from cutover.gate.nginx_host import PATH, Inspector
from cutover.gate.servers import Server, split
from cutover.proxmox.inventory import FoundGuest
from cutover.qdrant import releases
from cutover.site.schema import Nginx, in_url

if TYPE_CHECKING:
    from cutover.core.shell import Shell
    from cutover.discovery.guests import Guests

_NOBODY = Server(frozenset(), 0)


@dataclass(frozen=True)
class Qdrant:
    """A Qdrant that answered: its address (``host:port``), the guest that it is in, its release."""

    netloc: str
    guest: FoundGuest
    version: str


@dataclass(frozen=True)
class Running:
    """One Nginx: how to call it, what it reads, and the Qdrants that it passes requests to."""

    settings: Nginx
    shell: Shell
    inspector: Inspector
    configuration: Configuration
    qdrants: Sequence[Qdrant]


def asked(url: str, tls: http.Tls | None = None) -> str:
    """The release of the Qdrant at an address; empty where none answers. Needs no key."""
    try:
        with http.session(WriteGuard(), tls=tls, timeout=(2.0, 5.0)) as session:
            return releases.said(session.get(f"{url}/").json())
    except (CutoverError, requests.RequestException, ValueError):
        return ""


def look(shell: Shell, guests: Guests) -> list[Running]:
    """Every Nginx that runs there and whose configuration can be read; those that pass requests to a guest's Qdrant first."""
    found = []
    for binary, main, prefix in _masters(shell):
        settings = _settings(shell, binary, main, prefix)
        inspector = Inspector(shell, settings)
        try:
            found.append(read(shell, settings, inspector, guests))
        except CutoverError:
            continue
    return sorted(found, key=lambda one: not one.qdrants)


def read(shell: Shell, settings: Nginx, inspector: Inspector, guests: Guests) -> Running:
    """One Nginx, by its configuration; :class:`CutoverError` where that cannot be read."""
    configuration = inspector.configuration()
    return Running(settings, shell, inspector, configuration, list(_qdrants(configuration, inspector.resolve, guests)))


def _masters(shell: Shell) -> list[tuple[str, str, str]]:
    """(program, ``-c``, ``-p``) of every master process; the usual one where none can be seen."""
    script = (
        "for f in $(grep -l '^nginx: master process' /proc/[0-9]*/cmdline 2>/dev/null); do tr '\\0' ' ' < $f; echo; done; true"
    )
    found = []
    for line in shell.read(script).text.splitlines():
        words = line.removeprefix("nginx: master process").split()
        options = dict(pairwise(words))
        if words:
            found.append((words[0], options.get("-c", ""), options.get("-p", "")))
    return list(dict.fromkeys(found)) or [("nginx", "", "")]


def _settings(shell: Shell, binary: str, said: str, prefix: str) -> Nginx:
    """How to call an nginx that was started so. What is no whole path is below its prefix, as it was built or started."""
    build = dict(re.findall(r"--(prefix|conf-path)=(\S+)", shell.read(f"{PATH}{shlex.quote(binary)} -V 2>&1").text))
    built, file = PurePosixPath(build.get("prefix", "/usr/local/nginx")), build.get("conf-path", "conf/nginx.conf")
    main = PurePosixPath(prefix or built) / (said or file)
    given = ["-c", str(main)] if main != built / file else []
    return Nginx(
        shell=[], binary=binary, main_config=str(main), http_folder=str(main.parent),
        gate_folder=templates.FOLDER, worker_user="nobody", reload=[binary, *given, "-s", "reload"],
    )  # fmt: skip


def _targets(configuration: Configuration) -> Iterator[str]:
    """Everything that requests are passed to, as ``host:port``."""
    for _, to in ways.find(configuration, _NOBODY).targets:
        yield from sorted(to)
    for one in configuration.walk():
        if one.name == "server" and len(one.words) > 1 and one.parent is not None and one.parent.name == "upstream":
            yield one.words[1].text


def _qdrants(configuration: Configuration, resolve: Callable[[str], Any], guests: Guests) -> Iterator[Qdrant]:
    for netloc in dict.fromkeys(_targets(configuration)):
        host, port = split(netloc)
        if not re.fullmatch(r"[\w.:\[\]-]+", host) or netloc.startswith("upstream "):
            continue
        plain = host.strip("[]")
        addresses = {plain, *(resolve(plain) if re.search(r"[A-Za-z]", plain) and ":" not in plain else ())}
        guest = guests.owner(addresses)
        if guest is not None and (version := asked(f"http://{host}:{port or 80}")):
            at = next(address for address in guest.addresses if address in addresses)
            yield Qdrant(f"{in_url(at)}:{port or 80}", guest, version)


def say(running: Running, guests: Guests, old: Qdrant | None, found: Found) -> None:
    """Everything of ``site.yaml`` that this Nginx knows."""
    configuration, settings = running.configuration, running.settings
    found.add("nginx.binary", settings.binary, "its master process", also=["nginx"])
    found.add("nginx.main_config", settings.main_config, "its master process")
    found.add("nginx.reload", settings.reload, "its master process", chosen=True)
    _say_worker(running, found)
    to_old = ways_to(old.netloc, configuration, running.inspector.resolve) if old else []
    passing = [where for one in to_old for where in one.passing]
    folders = [
        str(PurePosixPath(one.pattern).parent)
        for one in configuration.includes
        if one.context == ("http",) and one.takes(str(PurePosixPath(one.pattern).parent / templates.NAME))
    ]
    beside = [str(PurePosixPath(file).parent) for one in to_old for file in one.files]
    first = next((folder for folder in folders if folder in beside), folders[0] if folders else "")
    if first:
        found.add("nginx.http_folder", first, "an `include` in `http` of its configuration", also=folders)
    else:
        tell = f"grep -n include {settings.main_config}"
        found.gap("nginx.http_folder", "no folder whose *.conf are included in `http` was found", tell)
    if old:
        found.add("qdrant.old_url", f"http://{old.netloc}", f"Nginx passes requests to it in {', '.join(dict.fromkeys(passing))}")
        found.notes += to_old[0].refused + to_old[0].notes
        _say_public("qdrant.public_url", running, passing, guests, found, asked)
    vllm = guests.address("vllm")
    if vllm:
        to_vllm = [
            where
            for where, targets in ways.find(configuration, _NOBODY).targets
            if any(_host(running, one) == vllm for one in targets)
        ]
        _say_public("vllm.public_url", running, to_vllm, guests, found, None)


def ways_to(netloc: str, configuration: Configuration, resolve: Callable[[str], Any]) -> list[ways.Ways]:
    """Every way to a server, also through the gate where that is in Nginx already; what stands in the gate's own file is none."""
    gate = {file for file in configuration.files if PurePosixPath(file).name == templates.NAME}
    listens = [one for one in configuration.walk() if one.name == "listen" and one.where.rpartition(":")[0] in gate]
    servers = [netloc, *(one.words[1].text for one in listens)]
    return [ways.find(configuration, Server.of(to, resolve), resolve=resolve, ours=gate) for to in servers]


def _host(running: Running, target: str) -> str:
    """The address that a target of ``proxy_pass`` leads to; of an upstream its first server's."""
    if target.startswith("upstream "):
        for one in running.configuration.walk():
            if one.name == "upstream" and one.words[1].text.lower() == target.removeprefix("upstream "):
                servers = [inner.words[1].text for inner in one.block or [] if inner.name == "server"]
                return _host(running, servers[0]) if servers else ""
    host = split(target)[0].strip("[]")
    return next(iter(running.inspector.resolve(host)), host) if re.search("[A-Za-z]", host) and ":" not in host else host


def _say_worker(running: Running, found: Found) -> None:
    said = [d.words[1].text for d in running.configuration.said("user") if len(d.words) > 1]
    try:
        pids = " ".join(map(str, running.inspector.workers()))
    except CutoverError:
        pids = ""
    users = running.shell.read(f"for p in {pids}; do stat -c %U /proc/$p; done").text.split() if pids else []
    if users:
        found.add("nginx.worker_user", users[0], "its worker processes")
    elif said:
        found.add("nginx.worker_user", said[0], "`user` in its configuration")
    else:
        found.gap("nginx.worker_user", "no worker process was seen", "ps -o user= -C nginx")


def _say_public(
    name: str, running: Running, passing: Sequence[str], guests: Guests, found: Found, answers: Callable[[str], str] | None
) -> None:
    """The address that users have: of the server block that passes their requests on, tried where something answers there."""
    urls = list(dict.fromkeys(_urls(running.configuration, passing, guests.address("nginx"))))
    proved = [url for url in urls if answers is not None and answers(url)]
    if not urls:
        found.gap(name, "no server block of Nginx passes requests there", f"{running.settings.binary} -T")
        return
    best, tried = (proved or urls)[0], "; it answers there" if proved else ""
    where = passing[0] if passing else ""
    # Users may have another name for it, which no file here knows.
    found.add(name, best, f"the server block of {where}{tried}", chosen=True)


def _urls(configuration: Configuration, passing: Sequence[str], address: str) -> Iterator[str]:
    for one in configuration.walk():
        if one.where not in passing or one.name != "proxy_pass":
            continue
        server = next((above for above in one.chain() if above.name == "server"), None)
        if server is not None:
            yield from _of_server(server, _path(one), address)


def _path(one: Directive) -> str:
    """What users write before Qdrant's own path: the location's prefix, where it is taken away on the way."""
    location = next((above for above in one.chain() if above.name == "location"), None)
    words = [word.text for word in location.words[1:]] if location is not None else []
    prefix = words[-1] if words and words[0] not in {"~", "~*", "="} else "/"
    stripped = re.match(r"https?://[^/]+/", one.words[1].text)
    return prefix.rstrip("/") if stripped or prefix == "/" else ""


def _of_server(server: Directive, path: str, address: str) -> Iterator[str]:
    inner = server.block or []
    names = [word.text for one in inner if one.name == "server_name" for word in one.words[1:]]
    real = [name for name in names if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name)]
    listens = [[word.text for word in one.words[1:]] for one in inner if one.name == "listen"] or [["80"]]
    for at, *options in listens:
        if at.startswith("unix:"):
            continue
        host, port = split(at if ":" in at or not at.isdigit() else f"*:{at}")
        scheme = "https" if "ssl" in options else "http"
        own = "" if host in {"*", "", "0.0.0.0", "[::]"} else host  # noqa: S104
        usual = {"http": 80, "https": 443}[scheme]
        shown = "" if (port or 80) == usual else f":{port or 80}"
        for one in [*(real if scheme == "https" else []), own or address, *(real if scheme == "http" else [])]:
            if one:
                yield f"{scheme}://{one}{shown}{path}"
