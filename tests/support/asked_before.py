"""What a step read of Proxmox before its first change, and what only afterwards."""

from __future__ import annotations

import re
from collections.abc import Collection

from lab.proxmox import LabPve

#: What there is only once a step has begun something: its own tasks, programs, backups and the guest of its test restore.
OWN = r"/tasks/UPID:|/agent/exec-status$|/(lxc|qemu)/9952/|/vzdump/extractconfig$"


def read_later(pve: LabPve, *, gone: Collection[int] = ()) -> list[str]:
    """The paths that were read after the first change and not before it, without what the step itself made or deleted.

    Whatever can stop a step can be asked before, so this has to be empty.
    """
    sent = [(method, path.removeprefix("/api2/json")) for method, path, _ in pve.requests]
    first = next(n for n, (method, _) in enumerate(sent) if method not in ("GET", "HEAD"))
    before = {path for method, path in sent[:first] if method == "GET"}
    theirs = "|".join([OWN, *(rf"/(lxc|qemu)/{vmid}/" for vmid in gone)])
    return sorted({path for method, path in sent[first:] if method == "GET" and not re.search(theirs, path)} - before)
