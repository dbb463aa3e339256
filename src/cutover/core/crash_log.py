"""Where the tool itself failed, for whoever mends it: ``crash.log`` in the state folder. The operator gets a sentence."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cutover.core import files
from cutover.core.journal import now

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials

_LOG = "crash.log"
_MOST = 8000


def keep(folder: Path | None, credentials: Credentials, error: BaseException) -> str:
    """Write the whole story down, without secrets; where it stands, as a part of a sentence."""
    story = "".join(traceback.format_exception(error))
    if folder is not None:
        path = folder / _LOG
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.append(path, f"{now()}\n{credentials.redact(story)[-_MOST:]}\n")
            return f"its details are in {path}"
    where = next((line.strip() for line in reversed(story.splitlines()) if line.lstrip().startswith("File ")), "somewhere")
    return f"it is at {credentials.redact(where)}"
