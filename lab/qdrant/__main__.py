"""Start one server: `python -m lab.qdrant`, in the repository's root or with it on PYTHONPATH."""

from __future__ import annotations

import asyncio
import os
import sys

from .server import Options, Server, die_with_parent


def main() -> None:
    """Serve until told to stop."""
    if os.environ.get("LAB_QDRANT_OUTLIVE_PARENT") != "1":
        die_with_parent()
    options = Options.from_env()
    server = Server(options)

    def ready() -> None:
        print(f"Qdrant HTTP listening on {options.host}:{options.port}", file=sys.stderr, flush=True)

    asyncio.run(server.run(ready))


if __name__ == "__main__":
    main()
