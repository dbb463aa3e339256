"""One run of a command: the site, the door, the journal, and a client for every system.

Clients are made when they are first needed, so a command contacts only what it uses. With a closed door (no
``--execute``) they are given the read-only keys where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cutover.door import Door
from cutover.journal import Journal
from cutover.voice import Consent, Given, Silent, Voice

if TYPE_CHECKING:
    from cutover.dns import Names
    from cutover.nginx import Gate
    from cutover.portainer import Portainer
    from cutover.proxmox import Proxmox
    from cutover.qdrant import Qdrant
    from cutover.secrets import Secrets
    from cutover.site import Site
    from cutover.vllm import Vllm


@dataclass
class Run:
    """Everything a phase or a check needs."""

    site: Site
    secrets: Secrets
    state_dir: Path
    execute: bool = False
    voice: Voice = field(default_factory=Silent)
    consent: Consent = field(default_factory=lambda: Given(yes=False))

    @cached_property
    def journal(self) -> Journal:
        """The journal of this site; locked for this process when the run may change something."""
        journal = Journal(self.state_dir, self.site.name, redact=self.secrets.redact)
        if self.execute:
            journal.lock()
        return journal

    @cached_property
    def door(self) -> Door:
        """Open with ``--execute``, closed without."""
        return Door(self.journal if self.execute else None)

    def close(self) -> None:
        """Give back the journal and the shell."""
        if "gate" in self.__dict__:
            self.gate.close()
        if "journal" in self.__dict__:
            self.journal.unlock()

    def _qdrant(self, url: str, name: str) -> Qdrant:
        from cutover.qdrant import Qdrant

        read_only = self.secrets.get("QDRANT_READ_ONLY_API_KEY")
        key = self.secrets.get("QDRANT_API_KEY") if self.execute or read_only is None else read_only
        return Qdrant(url, self.door, key=key, name=name)

    @cached_property
    def old(self) -> Qdrant:
        """The server that is left behind (LXC 952)."""
        return self._qdrant(self.site.qdrant.old_url, "the old server")

    @cached_property
    def new(self) -> Qdrant:
        """The server that is moved to (the container on VM 1001)."""
        return self._qdrant(self.site.qdrant.new_url, "the new server")

    @cached_property
    def public(self) -> Qdrant:
        """Qdrant as the applications see it, through Nginx."""
        return self._qdrant(self.site.qdrant.public_url, "Qdrant through Nginx")

    @cached_property
    def proxmox(self) -> Proxmox:
        """The Proxmox host."""
        from cutover.proxmox import Proxmox

        return Proxmox(self.site.proxmox, self.secrets, self.door)

    @cached_property
    def portainer(self) -> Portainer:
        """Portainer and the Docker engine behind it."""
        from cutover.portainer import Portainer

        return Portainer(self.site.portainer, self.secrets, self.door)

    @cached_property
    def gate(self) -> Gate:
        """Nginx: the gate that holds, switches and records."""
        from cutover.nginx import Gate

        return Gate(self.site, self.secrets, self.door)

    @cached_property
    def vllm(self) -> Vllm:
        """vLLM as users reach it."""
        from cutover.vllm import Vllm

        return Vllm(self.site.vllm, self.secrets, self.door)

    @cached_property
    def dns(self) -> Names:
        """The name servers."""
        from cutover.dns import Names

        return Names(self.site.dns, self.secrets, self.door)
