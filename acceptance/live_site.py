"""The live site as a target: the hosts of ``site.yaml``, read-only by construction.

Runs have a guard that lets no write through, and the read-only keys where there are any, so nothing that a step does can change
a server. Only where the site's name was given with ``--allow-changes`` can a scenario that changes something run at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.errors import WrongUsage
from cutover.core.ui import Confirmation, ConfirmedInAdvance, SilentUi, Ui
from cutover.site.schema import Site


@dataclass
class LiveSite:
    """What a step may ask of the live site; there are no machines to break here."""

    site: Site
    state_dir: Path
    allowed: str = ""
    credentials: Credentials = field(default_factory=Credentials.from_env)

    def __getattr__(self, name: str) -> Any:
        """What only the lab has: a scenario that needs it cannot be shown here, and says so."""
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"needs something of the lab ({name}), so it cannot be shown on a live site")

    def run(self, *, execute: bool = False, confirm: Confirmation | None = None, ui: Ui | None = None) -> Context:
        """A run of a command; :class:`WrongUsage` for one that would change something without being allowed to."""
        if execute and self.allowed != self.site.name:
            raise WrongUsage(
                f"This would change {self.site.name}, and that was not allowed.",
                f"Give --allow-changes {self.site.name} if it should.",
            )
        return Context(
            self.site,
            self.credentials,
            self.state_dir,
            execute=execute,
            confirm=confirm or ConfirmedInAdvance(yes=False),
            ui=ui or SilentUi(),
        )
