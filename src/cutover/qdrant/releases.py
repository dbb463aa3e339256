"""Which releases of Qdrant can be moved, from measurements; what was only read is called unmeasured. Pure.

Both servers run the same release while data moves. A release is *measured* when copy, follow, switch and back were run on real
servers of it, under load, with 0 failed requests, 0 lost writes and an equal proof.
"""

from __future__ import annotations

import re
from typing import Any

from cutover.core.errors import WrongUsage

#: Release -> what was run on real servers of it.
MEASURED = {
    "1.18.3": "copies, moves there and back under load, kills inside the hold, and who is let in",
    "1.15.5": "a copy, moves there, back and there again under load, writes by filter with kills, and who is let in",
}
#: Older ones lack a route that the move needs.
OLDEST, OLDEST_REASON = (1, 12, 0), "before 1.12.0 there is no route by which a server says whether a key may write"


def said(root: Any) -> str:
    """The release that a server's answer to ``GET /`` names; empty where something else answers."""
    fits = isinstance(root, dict) and "qdrant" in str(root.get("title", "")).lower() and isinstance(root.get("version"), str)
    return str(root["version"]) if fits else ""


def parts(version: str) -> tuple[int, int, int]:
    """``1.18.3`` as numbers."""
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        raise WrongUsage(f"{version!r} is not a release of Qdrant.", "Write it like 1.18.3.")
    return int(found[1]), int(found[2]), int(found[3])


def known_bad(version: str) -> str:
    """Why this release cannot be moved, a sentence; empty where nothing is known against it."""
    if parts(version.partition("-")[0]) < OLDEST:
        return f"Qdrant {version} cannot be moved by this tool: {OLDEST_REASON}."
    return ""


def warning(version: str) -> str:
    """Why to be careful with this release, a sentence; empty where it was measured."""
    if version in MEASURED:
        return ""
    return (
        f"Qdrant {version} was not measured on real servers ({' and '.join(MEASURED)} were); rehearse the move on a copy first."
    )
