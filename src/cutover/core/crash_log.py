"""Where the tool itself failed, for whoever mends it: ``defects.log`` in the state folder. The operator gets a sentence."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cutover.core.journal import now

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials

_LOG = "defects.log"
_MOST = 8000


def keep(folder: Path | None, credentials: Credentials, error: BaseException) -> str:
    """Write the whole story down, without secrets; where it stands, as a part of a sentence."""
    story = "".join(traceback.format_exception(error))
    if folder is not None:
        path = folder / _LOG
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "a", encoding="utf-8") as file:
                file.write(f"{now()}\n{credentials.redact(story)[-_MOST:]}\n")
            return f"its details are in {path}"
    where = next((line.strip() for line in reversed(story.splitlines()) if line.lstrip().startswith("File ")), "somewhere")
    return f"it is at {credentials.redact(where)}"
