"""The lab's second ground: the same site, with its servers in real containers.

Nginx (LXC 101) and the old Qdrant (LXC 952) are a container each; the Docker engine of this machine is the one of VM 1001, where
Portainer itself brings up the shipped stack (:mod:`lab.containers.portainer`), or, where its image cannot be had, the stand-in for
its API with the real Compose. Health checks, volumes, limits, capabilities and the read-only file system are Docker's own. Proxmox,
vLLM, DNS and Git are the same processes as on the embedded ground.

Addresses are those of 198.18.0.0/15, which is set aside for tests of networks and stands on no real one. Each machine is a bridge
of its own whose host side has the machine's address, so that every container and this machine reach it by the address that
``site.yaml`` names. This needs Linux and a Docker engine on the same machine.

Not modelled: the volumes of the VM are in the engine, not on the VM's disk, so rolling the VM back to a snapshot does not bring
back their content; the engine has this machine's cores and memory, whatever the VM was given.
"""

from __future__ import annotations

import os

# testcontainers' own reaper is an image that has to be pulled, and cannot tell our labs apart; ours is `keeper`.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
