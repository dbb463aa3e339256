"""What the last complete `backup` kept: the files' folder and the list of what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused

if TYPE_CHECKING:
    from cutover.context import Context

#: Names the archive for good: whoever backs up again gets this one, not a second.
PURPOSE = "before-move"


def folder(context: Context) -> Path:
    """Where the backup's files are kept."""
    return context.state_dir / "backup"


def manifest(context: Context) -> dict[str, Any] | None:
    """What the last complete run kept: times, collections with counts and checksums, the archive. None where there is none."""
    path = folder(context) / "manifest.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise Refused(f"{path} is not readable.", "Move it away and run `cutover backup` again.") from None
    return found
