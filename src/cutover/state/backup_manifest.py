"""What the last complete `backup` kept: the files' folder and the list of what is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = bool(found["archive"]["volid"]) and all(one["collection"] and "file" in one for one in found["collections"])
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise Refused(f"{path} is not readable.", "Move it away and run `cutover backup` again.")
    manifest: dict[str, Any] = found
    return manifest


def lost(context: Context, kept: Mapping[str, Any]) -> list[str]:
    """The collections whose snapshot is not in the folder any more, or not with the size that it had."""
    return [one["collection"] for one in kept["collections"] if one["file"] and not _is_whole(folder(context) / one["file"], one)]


def _is_whole(file: Path, kept: Mapping[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == (kept.get("size") or file.stat().st_size)
