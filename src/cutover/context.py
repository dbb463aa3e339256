"""One run of a command: the site, the guard of writes, the journal, and a client for every system.

Clients are made when they are first needed, so a command contacts only what it uses. With a guard that lets nothing through (no
``--execute``) they are given the read-only keys where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cutover.core.journal import Journal
from cutover.core.ui import Confirmation, ConfirmedInAdvance, SilentUi, Ui
from cutover.core.write_guard import WriteGuard

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials
    from cutover.core.http import Tls
    from cutover.core.journal import Entry
    from cutover.dns.names import Names
    from cutover.gate.controller import Gate
    from cutover.portainer.client import Portainer
    from cutover.proxmox.client import Proxmox
    from cutover.qdrant.client import Qdrant
    from cutover.site.schema import Site
    from cutover.vllm import Vllm


@dataclass
class Context:
    """Everything a phase or a check needs."""

    site: Site
    credentials: Credentials
    state_dir: Path
    execute: bool = False
    ui: Ui = field(default_factory=SilentUi)
    confirm: Confirmation = field(default_factory=lambda: ConfirmedInAdvance(yes=False))
    #: Told of every line of the journal (notifications).
    heard: Callable[[Entry], None] = field(default=lambda _: None)
    prove_all: bool = False
    """Whether a move compares everything, also where an earlier comparison would be enough (``--prove``)."""

    gives_way: bool = False
    """Whether this command gives the journal to any other that asks for it (``follow --watch``)."""

    @cached_property
    def journal(self) -> Journal:
        """The journal of this site; locked for this process when the run may change something."""
        journal = Journal(self.state_dir, self.site.name, redact=self.credentials.redact)
        journal.heard = self.heard
        if self.execute:
            journal.lock(gives_way=self.gives_way)
        return journal

    @cached_property
    def guard(self) -> WriteGuard:
        """Open with ``--execute``, closed without."""
        return WriteGuard(self.journal if self.execute else None)

    def anew(self) -> Context:
        """The same, and its journal is read again when it is asked next; for who looks again and again."""
        self.__dict__.pop("journal", None)
        return self

    def close(self) -> None:
        """Give back the journal and the shell. Who goes on all the same locks the journal again, and gets another shell."""
        if (gate := self.__dict__.pop("gate", None)) is not None:
            gate.close()
        if "journal" in self.__dict__:
            self.journal.unlock()

    def _qdrant(self, url: str, name: str, tls: Tls | None = None, headers: Mapping[str, str] | None = None) -> Qdrant:
        from cutover.qdrant.client import Qdrant

        read_only = self.credentials.get("QDRANT_READ_ONLY_API_KEY")
        key = self.credentials.get("QDRANT_API_KEY") if self.execute or read_only is None else read_only
        return Qdrant(url, self.guard, key=key, name=name, tls=tls, headers=headers)

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
        from cutover.gate.worker import door_of

        return self._qdrant(self.site.qdrant.public_url, "Qdrant through Nginx", *door_of(self.site, self.credentials))

    @cached_property
    def proxmox(self) -> Proxmox:
        """The Proxmox host."""
        from cutover.proxmox.client import Proxmox

        return Proxmox(self.site.proxmox, self.credentials, self.guard, tell=self.ui.say)

    @cached_property
    def portainer(self) -> Portainer:
        """Portainer and the Docker engine behind it."""
        from cutover.portainer.client import Portainer

        return Portainer(self.site.portainer, self.credentials, self.guard)

    @cached_property
    def gate(self) -> Gate:
        """Nginx: the gate that holds, switches and records."""
        from cutover.gate.controller import Gate

        gate = Gate(self.site, self.credentials, self.guard)
        gate.proof.tell = self.ui.say
        return gate

    @cached_property
    def vllm(self) -> Vllm:
        """vLLM as users reach it."""
        from cutover.vllm import Vllm

        return Vllm(self.site.vllm, self.credentials, self.guard)

    @cached_property
    def dns(self) -> Names:
        """The name servers."""
        from cutover.dns.names import Names

        return Names(self.site.dns, self.credentials, self.guard)
