"""Which of the operator's files name a server, and what they say when another address stands there. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from cutover.core.errors import Refused
from cutover.gate import ways
from cutover.gate.servers import Server
from cutover.site.schema import netloc

if TYPE_CHECKING:
    from cutover.gate.nginx_conf import Configuration
    from cutover.gate.nginx_host import Inspector
    from cutover.site.schema import Site


def as_text(content: bytes) -> str:
    """A file of Nginx's as text; any byte in it stays."""
    return content.decode("utf-8", errors="surrogateescape")


def as_bytes(text: str) -> bytes:
    """The bytes of such a text."""
    return text.encode("utf-8", errors="surrogateescape")


class Addresses:
    """The old server's, the new one's and the gate's address in the files of one Nginx."""

    def __init__(self, site: Site, host: Inspector) -> None:
        self._host = host
        self.gate = site.nginx.gate_address
        self.old, self.new = netloc(site.qdrant.old_url), netloc(site.qdrant.new_url)

    @property
    def behind(self) -> list[str]:
        """Every ``host:port`` of the old server, the new one and the gate."""
        servers = [(Server.of(one, self._host.resolve), one) for one in (self.old, self.new, self.gate)]
        return [address for server, one in servers for address in (one, *(f"{host}:{server.port}" for host in server.hosts))]

    def ways(self, configuration: Configuration, netloc_: str) -> ways.Ways:
        """Every way to a server (``host:port``) in the operator's files."""
        server = Server.of(netloc_, self._host.resolve)
        return ways.find(configuration, server, resolve=self._host.resolve, ours={self._host.gate_file})

    def pointed(self, configuration: Configuration, source: str, target: str) -> dict[str, bytes]:
        """The operator's files that change when what led to ``source`` leads to ``target``; :class:`Refused` where it cannot."""
        server = Server.of(source, self._host.resolve)
        found = ways.redirected(configuration, server, target, resolve=self._host.resolve, ours={self._host.gate_file})
        return {path: as_bytes(text) for path, text in found.items()}

    def _line(self) -> str:
        return f"    include {self._host.gate_file};  # the gate of Qdrant\n"

    def included(self, configuration: Configuration) -> dict[str, str]:
        """The file of the `http` block with a line that includes the gate's file; none where a folder of it is included."""
        if any(one.context == ("http",) and one.takes(self._host.gate_file) for one in configuration.includes):
            return {}
        for one in configuration.top:
            if one.name == "http" and one.block is not None:
                text, at = configuration.files[one.file], one.end - 1
                return {one.file: text[:at] + self._line() + text[at:]}
        return {}

    def not_included(self, files: Mapping[str, str]) -> dict[str, str]:
        """Those of these files that have such a line, without it."""
        return {path: text.replace(self._line(), "") for path, text in files.items() if self._line() in text}

    def led_to_the_gate(self, configuration: Configuration, gate: str) -> dict[str, bytes]:
        """The operator's files that change when the gate is put in; ``gate``: the text of its own file."""
        added = self.included(configuration)
        with_gate = configuration.with_files({**added, self._host.gate_file: gate})
        found = self.pointed(with_gate, self.old, self.gate)
        return {path: as_bytes(text) for path, text in added.items()} | found

    def away_from_the_gate(self, configuration: Configuration, target: str) -> dict[str, bytes]:
        """The operator's files that change when the gate is taken out; what passed requests to it passes them to ``target``."""
        found = self.pointed(configuration, self.gate, target)
        texts = {**configuration.files, **{path: as_text(content) for path, content in found.items()}}
        texts.pop(self._host.gate_file, None)
        return found | {path: as_bytes(text) for path, text in self.not_included(texts).items()}

    def around(self, configuration: Configuration) -> list[str]:
        """Where Nginx's configuration passes requests to the old server and not to the gate, or may: ``file:line`` sentences."""
        found = self.ways(configuration, self.old)
        return [*(f"{where} passes requests to http://{self.old}." for where in dict.fromkeys(found.passing)), *found.refused]

    def as_before(self, configuration: Configuration) -> dict[str, str]:
        """The operator's files with the old server's address wherever the gate's or the new server's stands."""
        for address in (self.gate, self.new):
            with suppress(Refused):
                found = self.pointed(configuration, address, self.old)
                configuration = configuration.with_files({path: as_text(content) for path, content in found.items()})
        files = {path: text for path, text in configuration.files.items() if path != self._host.gate_file}
        return files | self.not_included(files)

    def settled(self, configuration: Configuration) -> dict[str, bytes]:
        """The operator's files, naming the new server where they name the gate."""
        return self.away_from_the_gate(configuration, self.new)
