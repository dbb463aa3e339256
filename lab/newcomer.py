"""Somebody who has a clone, the keys and three addresses, and nothing else: the first minutes with the tool."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from cutover.core.credentials import Credentials
from cutover.discovery import survey
from cutover.discovery.facts import Found
from cutover.site.load import load

if TYPE_CHECKING:
    from lab.lab import Lab


class Newcomer:
    """Answers what `cutover init` asks. ``typed``: what had to be typed because nothing was suggested; ``agreed``: the rest."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.typed: list[str] = []
        self.agreed: list[str] = []
        self.clone = lab.folder / "clone"

    def text(self, name: str, question: str, suggestion: str) -> str:
        """The lab's Nginx is a process of this machine, so its shell is here."""
        del question
        known = {"proxmox": self.lab.network.address(2), "nginx": "here"}
        (self.typed if name in known else self.agreed).append(name)
        return known.get(name) or suggestion

    def trust(self, url: str, fingerprint: str, tell: str) -> None:
        """Compares, and agrees."""
        del fingerprint, tell
        self.agreed.append(url)

    def say(self, sentence: str) -> None:
        """Does not listen."""

    def finds_out(self) -> Found:
        """Clone, answer, write. The name server of the lab is not on port 53, which no server can tell."""
        lab = self.lab
        lab.need_own_nginx()
        subprocess.run(["git", "clone", "--quiet", lab.site.portainer.repository, self.clone], check=True, timeout=60)
        wishes = survey.Wishes(name_servers=[f"{lab.names.address}:{lab.names.port}"])
        found = survey.survey(self, wishes, Credentials.from_env(lab.env), self.clone)
        lab.site_file = self.clone / "site.yaml"
        lab.site_file.write_text(survey.fresh(found, "2026-01-01"), encoding="utf-8")
        lab.site = load(lab.site_file)
        return found
