"""Every way by which an Nginx passes requests to one server, and the same configuration with another address in their place.

A target is followed as nginx works it out: through variables (``set``, ``map``, ``geo``, ``split_clients``), upstreams and host
names, in ``http`` and in ``stream``. What is found is an address at a place in a file. What names the server in a way that cannot
be pointed elsewhere by replacing an address, or may lead to it by a value that no file sets, is said with file and line.
Nothing here touches a host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from cutover.core.errors import Refused
from cutover.gate.nginx_conf import Configuration, Directive
from cutover.gate.servers import Resolve, Server, is_ip, plain, split
from cutover.gate.values import SETS, Piece, Value, Values

_GRPC_PORT = 6334

#: Variables that begin with a slash or stand behind the path: the address has ended where one of them stands.
_PATH = re.compile(r"request_uri|uri|document_uri|is_args|args|query_string")
_PASSES = {"proxy_pass", "grpc_pass"}
_OTHER_PASSES = {"fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"}
#: Load programs from files; what those do, nobody sees here.
_PROGRAMS = re.compile(r"js_import|js_include|\w+_by_lua_file|perl_require")
_SENDS_AWAY = {"return", "rewrite", "error_page"}
#: May name a server without leading anybody to it.
_HARMLESS = {
    "allow", "deny", "server_name", "set_real_ip_from", "add_header", "add_trailer", "log_format", "access_log", "error_log",
    "if", "proxy_set_header",
    "grpc_set_header", "proxy_redirect", "proxy_cookie_domain", "valid_referers", "resolver", "proxy_bind",
    "listen", "sub_filter", "more_set_headers", "more_set_input_headers", "limit_req_zone", "limit_conn_zone", "proxy_cache_key",
    "proxy_ssl_name", "real_ip_header", "secure_link_md5",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Place:
    """Some characters of a file that say where to pass to: ``part`` is ``address`` (host:port), ``host`` or ``port``."""

    file: str
    start: int
    end: int
    part: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Ways:
    """What was found of one server. ``places``: the addresses that lead to it; ``refused``: what cannot be pointed elsewhere;
    ``notes``: what only names it; ``targets``: for every directive that passes requests on, where to; ``programs``: files of
    programs that Nginx runs (``file:line``, path).
    """

    places: set[Place] = field(default_factory=set)
    passing: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    targets: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    programs: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """The files in which an address stands."""
        return sorted({place.file for place in self.places})


def find(configuration: Configuration, server: Server, *, resolve: Resolve = lambda _: (), ours: Collection[str] = ()) -> Ways:
    """Every way to ``server``. ``ours``: files that are not looked at (the gate's own)."""
    return _Search(configuration, server, resolve, frozenset(ours)).found()


def redirected(
    configuration: Configuration,
    source: Server,
    target: str,
    *,
    resolve: Resolve = lambda _: (),
    ours: Collection[str] = (),
) -> dict[str, str]:
    """The files that change when every way to ``source`` leads to ``target`` (``host:port``), with their new texts.

    Only the characters of the addresses differ. The result is read and searched again: every directive that led to ``source``
    leads to ``target`` and every other one where it led before, otherwise it is :class:`Refused`.
    """
    ways = find(configuration, source, resolve=resolve, ours=ours)
    if ways.refused:
        raise Refused(" ".join(ways.refused))
    host, _, port = target.rpartition(":")
    values = {"address": target, "host": host, "port": port}
    changed: dict[str, str] = {}
    for file in ways.files:
        text, at, made = configuration.files[file], 0, ""
        for place in sorted(p for p in ways.places if p.file == file):
            if place.start < at:
                raise Refused(f"{place.where} names an address in two ways at once.", "Write the address in one piece.")
            made += text[at : place.start] + values[place.part]
            at = place.end
        changed[file] = made + text[at:]
    after = find(configuration.with_files(changed), Server.of(target), resolve=resolve, ours=ours)
    for (where, before), (_, now) in zip(ways.targets, after.targets, strict=True):
        expected = frozenset(target if one == _TO else one for one in before)
        if expected != frozenset(target if one == _TO else one for one in now):
            raise Refused(
                f"{where} would not lead where it should: the variables that it uses are shared with other servers.",
                "Write the address into that `proxy_pass` itself.",
            )
    return changed


_TO = "->"  # in `targets`: the server that is looked for


class _Search:
    def __init__(self, configuration: Configuration, server: Server, resolve: Resolve, ours: frozenset[str]) -> None:
        self._server, self._resolve = server, resolve
        self._all = [one for one in configuration.walk() if one.file not in ours]
        self._ways = Ways()
        self._covered: set[tuple[str, int]] = set()
        self._known: dict[str, bool] = {}
        implied = {80: r"|\bhttp://([\w.-]+)(?![\w.:-])", 443: r"|\bhttps://([\w.-]+)(?![\w.:-])"}.get(server.port, "|(?!)()")
        self._name = re.compile(rf"([\w.-]+):(?:{server.port}|{_GRPC_PORT})(?!\d){implied}", re.IGNORECASE)
        self._values = Values(self._all)
        self._upstreams: dict[tuple[str, str], Directive] = {}
        beside = [one.words[1].text.rstrip("/") for one in self._all if one.name == "js_path" and len(one.words) > 1]
        for one in self._all:
            if _PROGRAMS.fullmatch(one.name):
                path = one.words[-1].text
                folders = beside if one.name.startswith("js_") and not path.startswith("/") else []
                self._ways.programs += [(one.where, whole) for whole in [path, *(f"{folder}/{path}" for folder in folders)]]
            elif one.name == "upstream" and len(one.words) > 1:
                self._upstreams[one.context, one.words[1].text.lower()] = one

    def found(self) -> Ways:
        used: set[int] = set()
        for one in self._all:
            if one.name in _PASSES and len(one.words) > 1 and one.context in {"http", "stream"}:
                self._pass(one, used)
        for upstream in self._upstreams.values():
            self._upstream(upstream, used=id(upstream) in used)
        for one in self._all:
            self._names(one)
        for kind in (self._ways.refused, self._ways.notes):
            kind[:] = dict.fromkeys(kind)
        return self._ways

    # --- Is it this server? -------------------------------------------------------------------------------------------

    def _is_host(self, host: str) -> bool:
        host = plain(host)
        if host not in self._known:
            same = host in self._server.hosts
            if not same and host and not is_ip(host) and re.fullmatch(r"[\w.-]+", host):
                same = bool({*map(plain, self._resolve(host))} & self._server.hosts)
            self._known[host] = same
        return self._known[host]

    def _need_known(self, one: Directive, host: str, port: int) -> None:
        """Refuse a name that only Nginx's own `resolver` knows, where it may be the server's."""
        if port in {self._server.port, _GRPC_PORT} and host and not is_ip(host) and not self._resolve(host):
            self._refuse(
                one.where,
                f"passes requests to {host}:{port}, and the Nginx host does not know who that is: it may be the old Qdrant. "
                "Write an address there, or put the name into /etc/hosts.",
            )

    def _refuse(self, where: str, why: str) -> None:
        self._ways.refused.append(f"{where} {why}")

    # --- What passes requests on --------------------------------------------------------------------------------------

    def _pass(self, one: Directive, used: set[int]) -> None:
        targets = frozenset(self._target(one, value, used) for value in self._values.of(one.words[1], one))
        self._ways.targets.append((one.where, targets))

    def _target(self, one: Directive, value: Value, used: set[int]) -> str:
        text = _text(value)
        scheme, start = "http", 0
        if one.context == "http":
            begins = re.match(r"(\0|[A-Za-z]+)://", text)
            if begins:
                scheme, start = begins[1].lower(), begins.end()
            elif one.name == "proxy_pass":
                if text == "" or text.startswith("\0"):
                    return self._dynamic(one, value)
                return text
            if one.name == "grpc_pass":
                scheme = "grpc"
        if text.startswith("unix:", start):
            return text
        end = self._authority_end(one, value, text, start)
        authority = text[start:end]
        upstream = self._upstreams.get((one.context, authority.lower()))
        if upstream is not None:
            used.add(id(upstream))
            return self._through(one, upstream, scheme)
        host, port = split(authority)
        if "\0" in authority:
            return self._half_known(one, value, host, authority)
        port = port or (443 if scheme == "https" else 80)
        if not self._is_host(host):
            self._need_known(one, host, port)
            return f"{plain(host)}:{port}"
        return self._to_host(one, value, (start, end), scheme, host, port)

    def _to_host(self, one: Directive, value: Value, span: tuple[int, int], scheme: str, host: str, port: int) -> str:
        if one.name == "grpc_pass" or port == _GRPC_PORT != self._server.port:
            self._refuse(
                one.where,
                f"also passes gRPC to the old Qdrant (`{_shown(one)}`); the gate cannot hold or record gRPC. Move those clients "
                "to REST and take it out first.",
            )
        elif port != self._server.port:
            self._ways.notes.append(f"{one.where} passes requests to port {port} of the old server's machine (`{_shown(one)}`).")
            return f"{plain(host)}:{port}"
        elif why := self._unfit(one, scheme):
            self._refuse(one.where, why)
        else:
            self._take(one, value, span)
            self._ways.passing.append(one.where)
        return _TO

    def _unfit(self, one: Directive, scheme: str) -> str:
        """Why the gate cannot stand in for the old server there."""
        if scheme == "https":
            return f"speaks TLS to the old Qdrant (`{_shown(one)}`), and site.yaml says that it listens without."
        patience = "proxy_timeout" if one.context == "stream" else "proxy_read_timeout"
        if (seconds := _seconds(one.inherited_word(patience))) is not None and seconds < 3:
            return f"waits only {seconds:g} s for an answer (`{patience}`); writes may be held for 1.4 s."
        if one.context == "stream":
            for name in ("proxy_ssl", "proxy_protocol"):
                if one.inherited_word(name) == "on":
                    return (
                        f"passes connections on with `{name} on`, which the gate does not understand. Take that out, or this way."
                    )
        elif any(d.words[-1].text == "transparent" for d in one.inherited("proxy_bind")):
            return "binds to the clients' addresses (`proxy_bind ... transparent`), which no gate on this machine can answer."
        elif one.inherited_word("proxy_http_version") == "2":
            return "speaks HTTP/2 to it (`proxy_http_version 2`), which the gate does not understand."
        return ""

    def _through(self, one: Directive, upstream: Directive, scheme: str) -> str:
        servers = [d for d in upstream.block or [] if d.name == "server" and len(d.words) > 1]
        ours = _TO in {self._server_of(d) for d in servers}
        theirs = [port for host, port in (split(d.words[1].text) for d in servers) if self._is_host(host)]
        if theirs and (one.name == "grpc_pass" or (not ours and _GRPC_PORT in theirs)):
            self._refuse(
                one.where,
                "also passes gRPC to the old Qdrant; the gate cannot hold or record gRPC. Move those clients to REST first.",
            )
        elif ours and (why := self._unfit(one, scheme)):
            self._refuse(one.where, why)
        elif ours:
            self._ways.passing.append(one.where)
        if chosen := next((d for d in upstream.block or [] if _chosen_elsewhere(d)), None if servers else upstream):
            self._refuse(
                one.where,
                f"passes requests to the upstream `{upstream.words[1].text}`, whose servers no file says ({chosen.where}: "
                f"`{_shown(chosen)}`): one may be the old Qdrant. Write their addresses out, or set "
                "`nginx.edit: false` and put the gate's address in yourself.",
            )
        return f"upstream {upstream.words[1].text.lower()}"

    def _server_of(self, one: Directive) -> str:
        host, port = split(one.words[1].text)
        port = port or 80
        if one.words[1].text.startswith("unix:"):
            return one.words[1].text
        return _TO if port == self._server.port and self._is_host(host) else f"{plain(host)}:{port}"

    def _upstream(self, upstream: Directive, *, used: bool) -> None:
        servers = [d for d in upstream.block or [] if d.name == "server" and len(d.words) > 1]
        ours = [d for d in servers if self._server_of(d) == _TO]
        others = [d for d in servers if d not in ours and "down" not in [w.text for w in d.words]]
        for one in others:
            self._need_known(one, split(one.words[1].text)[0], split(one.words[1].text)[1] or 80)
        for one in ours:
            word = one.words[1]
            self._take(one, (Piece(word.text, word, 0, one),), (0, len(word.text)))
        if ours and others and used:
            self._refuse(
                others[0].where,
                f"lets the upstream `{upstream.words[1].text}` also ask {others[0].words[1].text}: what goes there "
                "passes no gate. Leave the old Qdrant alone in that upstream.",
            )
        self._ways.targets.append((upstream.where, frozenset(map(self._server_of, servers))))

    def _half_known(self, one: Directive, value: Value, host: str, authority: str) -> str:
        """A part of the address is a value that no file sets."""
        if "\0" not in host and host and not self._is_host(host) and (is_ip(host) or self._resolve(host)):
            return f"{plain(host)}:?"
        ends = authority.rpartition("\0")[2]
        if re.match(r"\.[^:]*[A-Za-z]", ends) and self._server.port not in {80, 443}:
            return f"?{ends}"  # the end of a name, and so the port of its scheme
        begins = authority.partition("\0")[0]
        if re.match(r"\d+\.", begins) and not any(
            f"{known}:{self._server.port}".startswith(begins) for known in self._server.hosts
        ):
            return f"{begins}?"
        if (port := re.search(r":(\d+)$", authority)) and int(port[1]) not in {self._server.port, _GRPC_PORT}:
            return f"?:{port[1]}"
        return self._dynamic(one, value)

    def _dynamic(self, one: Directive, value: Value) -> str:
        unknown = next((piece.unknown for piece in value if piece.unknown), "")
        self._refuse(
            one.where,
            f"passes requests to where ${unknown} says (`{_shown(one)}`), and no file sets that: it may be the old "
            "Qdrant. Write the addresses into a `map`, or take it out.",
        )
        return f"${unknown}"

    def _authority_end(self, one: Directive, value: Value, text: str, start: int) -> int:
        at = 0
        for piece in value:
            length = len(_text([piece]))
            if piece.unknown and at > start and (_PATH.fullmatch(piece.unknown) or self._is_whole(one, text[start:at])):
                return at
            if not piece.unknown:
                for n in range(max(start - at, 0), length):
                    if piece.text[n] in "/?":
                        return at + n
            at += length
        return len(text)

    def _is_whole(self, one: Directive, authority: str) -> bool:
        """Whether what follows an address is its path: it has a port, or is an upstream that no other's name begins with."""
        names = [name for context, name in self._upstreams if context == one.context and name.startswith(authority.lower())]
        return bool(re.search(r":\d+$", authority)) or names == [authority.lower()]

    # --- Where the address stands -------------------------------------------------------------------------------------

    def _take(self, one: Directive, value: Value, span: tuple[int, int]) -> None:
        """Note the places of host and port between two positions of a value."""
        start, end = span
        host, port = split(_text(value)[start:end])
        between = start + len(host)
        found = {"address": self._spot(value, start, end)}
        if found["address"] is None and port:
            found = {"host": self._spot(value, start, between), "port": self._spot(value, between + 1, end)}
        if None in found.values():
            self._refuse(
                one.where, f"puts the old server's address together from parts (`{_shown(one)}`). Write it in one piece."
            )
            return
        for part, spot in found.items():
            assert spot is not None
            piece, first, last = spot
            assert piece.word is not None
            assert piece.owner is not None
            self._covered.add((piece.owner.file, piece.word.start))
            begins = piece.word.start + first
            self._ways.places.add(Place(piece.owner.file, begins, begins + last - first, part, piece.owner.line))

    @staticmethod
    def _spot(value: Value, start: int, end: int) -> tuple[Piece, int, int] | None:
        """The one piece in which a part of a value stands, and where in its word; None where it is more than one."""
        at = 0
        for piece in value:
            length = len(_text([piece]))
            if at <= start and end <= at + length:
                if piece.word is None or piece.word.raw != piece.word.text:
                    return None
                return piece, piece.at + start - at, piece.at + end - at
            at += length
        return None

    # --- What names it otherwise --------------------------------------------------------------------------------------

    def _names(self, one: Directive) -> None:
        if one.name in _PASSES or (one.name == "server" and one.parent is not None and one.parent.name == "upstream"):
            return
        is_entry = one.parent is not None and one.parent.name in SETS
        for number, word in enumerate(one.words):
            if one.name not in _HARMLESS:
                for names in self._name.findall(word.text):
                    self._is_host("".join(names))  # known from here on, as what passes requests there made it known
            ports = list(self._ports_named(word.text))
            if not ports or (one.file, word.start) in self._covered:
                continue
            if is_entry and number == 0:
                continue  # what is compared, not where to
            if not is_entry and one.name in _HARMLESS:
                self._ways.notes.append(f"{one.where} names the old server (`{one.name}`) without leading there.")
            elif not {0, self._server.port, _GRPC_PORT} & set(ports):
                self._ways.notes.append(f"{one.where} names another port of the old server's machine (`{one.name}`).")
            elif one.name in _SENDS_AWAY:
                does = (
                    "tells clients of"
                    if re.fullmatch(r"[245]\d\d", one.words[1].text) and one.name == "return"
                    else "sends clients to"
                )
                self._refuse(one.where, f"{does} the old Qdrant itself (`{_shown(one)}`), past any gate. Take it out first.")
            elif one.name in _OTHER_PASSES:
                self._refuse(one.where, f"passes requests to the old server by `{one.name}`, which is not HTTP.")
            else:
                self._refuse(
                    one.where,
                    f"names the old server where this tool cannot see what comes of it (`{_shown(one)}`). Take it "
                    "out, or pass requests on by `proxy_pass`.",
                )

    def _ports_named(self, text: str) -> Iterator[int]:
        """The ports with which a text names the server; 0 for none."""
        hosts = {*self._server.hosts, *(host for host, same in self._known.items() if same)}
        for host in hosts:
            for found in re.finditer(rf"(?<![\w.-]){re.escape(host)}\]?(?![\w-]|\.\w)(?::(\d+))?", text, re.IGNORECASE):
                yield int(found[1] or 0)


def _chosen_elsewhere(one: Directive) -> bool:
    """Whether a directive of an upstream lets a program or DNS say which servers it has."""
    by_dns = one.name == "server" and any(word.text.startswith("service=") for word in one.words)
    return by_dns or one.name.startswith("balancer_by_lua") or one.name == "jdomain"


def _text(value: Iterable[Piece]) -> str:
    """A value as text; a zero byte stands for each variable that no file sets."""
    return "".join("\0" if piece.unknown else piece.text for piece in value)


def _seconds(said: str) -> float | None:
    """A time as nginx writes it (`1s500ms`); days and more are as many as a day. None where it is none."""
    units = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+)(ms|[a-zA-Z])?", said)
    return sum(int(number) * units.get(unit, 86400.0) for number, unit in parts) if parts else None


def _shown(one: Directive) -> str:
    text = re.sub(r"\s+", " ", " ".join(word.raw for word in one.words))
    return text if len(text) < 100 else f"{text[:97]}..."
