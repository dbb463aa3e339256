"""A server that answers what it was asked, for looking at a proxy from behind.

It keeps a list of what arrived and closes idle connections after 5 s, as Qdrant does. A request chooses the answer:
``X-Lab-Status`` the status, ``X-Lab-Delay`` the seconds before it, ``X-Lab-Break`` closes the connection without one.
``X-Lab-Leave`` is answered, and the next request on its connection finds that closed: it is not answered, and no list has it
(Qdrant closes so after it has refused a body that it had not read; there the next one seldom comes early enough).
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; times are seconds since 1970."""

    method: str
    path: str
    headers: dict[str, str]
    length: int
    sha256: str
    arrived: float
    answered: float


class Echo:
    """The server; runs in a thread of its own between ``start`` and ``stop``."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name, self.host, self.port = name, host, port
        self.asked: list[Asked] = []
        self.under_way = 0
        self.headers: dict[str, str] = {}  # of every answer
        self._left: set[asyncio.BaseTransport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.transport in self._left and request.transport is not None:
            request.transport.abort()
            self._left.remove(request.transport)
            return web.Response()
        arrived = time.time()
        self.under_way += 1
        try:
            digest, length = hashlib.sha256(), 0
            async for chunk in request.content.iter_chunked(1 << 20):
                digest.update(chunk)
                length += len(chunk)
            await asyncio.sleep(float(request.headers.get("X-Lab-Delay", "0")))
        finally:
            self.under_way -= 1
        headers = dict(request.headers.items())
        self.asked.append(Asked(request.method, request.raw_path, headers, length, digest.hexdigest(), arrived, time.time()))
        if "X-Lab-Break" in request.headers and request.transport is not None:
            request.transport.abort()
        if "X-Lab-Leave" in request.headers and request.transport is not None:
            self._left.add(request.transport)
        status = int(request.headers.get("X-Lab-Status", "200"))
        body = {"side": self.name, "method": request.method, "path": request.raw_path, "length": length, "status": status}
        return web.json_response(body, status=status, headers=self.headers)

    def start(self) -> None:
        """Listen; returns when it does."""
        ready = threading.Event()

        async def listen() -> None:
            app = web.Application(client_max_size=0)
            app.router.add_route("*", "/{tail:.*}", self._answer)
            self._runner = web.AppRunner(app, keepalive_timeout=5.0, shutdown_timeout=1, access_log=None)
            await self._runner.setup()
            await web.TCPSite(self._runner, self.host, self.port).start()
            ready.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.create_task(listen())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True, name=f"echo-{self.name}")
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError(f"The echo server {self.name} did not start on {self.address}.")

    def stop(self) -> None:
        if self._thread is None:
            return
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._thread = None
