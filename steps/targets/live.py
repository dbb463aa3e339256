"""The live site as a target: the hosts of ``site.yaml``, read-only by construction.

Runs are made with a closed door, and with the read-only keys where there are any, so nothing that a step does can change a
server. Only where the site's name was given with ``--allow-changes`` can a scenario that changes something run at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cutover.errors import WrongUsage
from cutover.run import Run
from cutover.secrets import Secrets
from cutover.site import Site
from cutover.voice import Consent, Given, Silent, Voice


@dataclass
class LiveSite:
    """What a step may ask of the live site; there are no machines to break here."""

    site: Site
    state_dir: Path
    allowed: str = ""
    secrets: Secrets = field(default_factory=Secrets.from_env)

    def __getattr__(self, name: str) -> Any:
        """What only the lab has: a scenario that needs it cannot be shown here, and says so."""
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"needs something of the lab ({name}), so it cannot be shown on a live site")

    def run(self, *, execute: bool = False, consent: Consent | None = None, voice: Voice | None = None) -> Run:
        """A run of a command; :class:`WrongUsage` for one that would change something without being allowed to."""
        if execute and self.allowed != self.site.name:
            raise WrongUsage(
                f"This would change {self.site.name}, and that was not allowed.",
                f"Give --allow-changes {self.site.name} if it should.",
            )
        return Run(
            self.site, self.secrets, self.state_dir, execute=execute, consent=consent or Given(yes=False), voice=voice or Silent()
        )
