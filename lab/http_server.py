"""A server of the standard library that asks nobody: the usual one looks up the name of its own address when it binds."""

from __future__ import annotations

import socketserver
from http.server import ThreadingHTTPServer


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection. It ends with its process, whoever is still connected."""

    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
