"""Options that more than one command has; the others are declared where the command is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def flag(*names: str, help: str, **more: Any) -> Any:  # noqa: A002 - as Typer calls it
    """An option that stands alone; Typer shows ``<bool>`` behind one that it is not told otherwise of."""
    return typer.Option(*names, help=help, metavar="", **more)


SiteFile = Annotated[Path, typer.Option("--site", help="The site file.", envvar="CUTOVER_SITE", show_default=True)]
StateDir = Annotated[
    Path, typer.Option("--state-dir", help="Where the journal and records of this site are kept.", envvar="CUTOVER_STATE_DIR")
]
AsJson = Annotated[bool, flag("--json", help="Print the result as JSON.")]
Execute = Annotated[bool, flag("--execute", help="Do it. Without this option only the plan is shown.")]
Yes = Annotated[bool, flag("--yes", help="Confirm in advance what is asked with yes or no.")]
YesDestroy = Annotated[
    list[str] | None,
    typer.Option("--yes-destroy", metavar="NAME", help="Confirm in advance the loss of what has this name. Can be repeated."),
]
SITE = Path("site.yaml")
STATE = Path(".state")
