"""Which of the operator's files name a server, and what they say when another address stands there. Reads only."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cutover.core.errors import Refused
from cutover.gate import ways
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

    def ways(self, configuration: Configuration, netloc_: str) -> ways.Ways:
        """Every way to a server (``host:port``) in the operator's files."""
        server = ways.Server.of(netloc_, self._host.resolve)
        return ways.find(configuration, server, resolve=self._host.resolve, ours={self._host.gate_file})

    def pointed(self, configuration: Configuration, source: str, target: str) -> dict[str, bytes]:
        """The operator's files that change when what led to ``source`` leads to ``target``; :class:`Refused` where it cannot."""
        server = ways.Server.of(source, self._host.resolve)
        found = ways.redirected(configuration, server, target, resolve=self._host.resolve, ours={self._host.gate_file})
        return {path: as_bytes(text) for path, text in found.items()}

    def around(self, configuration: Configuration | None = None) -> list[str]:
        """Where Nginx's configuration passes requests to the old server and not to the gate, or may: ``file:line`` sentences."""
        found = self.ways(configuration or self._host.configuration(), self.old)
        return [*(f"{where} passes requests to http://{self.old}." for where in dict.fromkeys(found.passing)), *found.refused]

    def as_before(self, configuration: Configuration) -> dict[str, str]:
        """The operator's files with the old server's address wherever the gate's or the new server's stands."""
        for address in (self.gate, self.new):
            with suppress(Refused):
                found = self.pointed(configuration, address, self.old)
                configuration = configuration.with_files({path: as_text(content) for path, content in found.items()})
        return {path: text for path, text in configuration.files.items() if path != self._host.gate_file}

    def settled(self, configuration: Configuration) -> dict[str, bytes]:
        """The operator's files, naming the new server where they name the gate."""
        return self.pointed(configuration, self.gate, self.new)
