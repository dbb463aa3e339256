"""Options that more than one command has; the others are declared where the command is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SiteFile = Annotated[Path, typer.Option("--site", help="The site file.", envvar="CUTOVER_SITE", show_default=True)]
StateDir = Annotated[
    Path, typer.Option("--state-dir", help="Where the journal and records of this site are kept.", envvar="CUTOVER_STATE_DIR")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this option only the plan is shown.")]
Yes = Annotated[bool, typer.Option("--yes", help="Confirm in advance what is asked with yes or no.")]
YesDestroy = Annotated[
    list[str] | None,
    typer.Option("--yes-destroy", metavar="NAME", help="Confirm in advance the loss of what has this name. Can be repeated."),
]
SITE = Path("site.yaml")
STATE = Path(".state")
