"""Waits for the end of a lab's process, however it ends, and removes the containers, networks and volumes that it left.

``python -m lab.containers.reaper OWNER``: its standard input is a pipe from the owner that is never written to. The pipe
closes with the owner, also when that is killed.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time

from docker.errors import DockerException

from lab.containers import host

ROUNDS = 20


def main() -> int:
    """Wait, then remove until there is nothing twice: the engine may still be finishing what it was told before."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    owner = sys.argv[1]
    sys.stdin.buffer.read()
    clean = 0
    for _ in range(ROUNDS):
        with contextlib.suppress(DockerException, OSError), contextlib.closing(host.client()) as engine:
            host.remove_all(engine, owner)
            clean = clean + 1 if not any(host.made_by(engine, owner).values()) else 0
        if clean == 2:
            return 0
        time.sleep(0.3)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
