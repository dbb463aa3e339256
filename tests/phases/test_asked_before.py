"""Whatever can stop a step is asked before its first change.

That all which a step reads of Proxmox after its first change was read before it as well is asked where the step is carried out
(:mod:`tests.support.asked_before`); here each of these reads is refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cutover.core.errors import CutoverError, Refused
from cutover.phases import backup, decommission_survey, resize
from lab.proxmox_host import host
from tests.support.asked_before import read_later
from tests.support.phases import done

VM = "/nodes/pve/qemu/1001"
#: Without these the resize cannot know whether it may go on.
NEEDED = [
    "/access/permissions", "/cluster/resources", "/nodes/pve/disks/lvmthin", "/nodes/pve/lxc/110/config", "/nodes/pve/status",
    "/nodes/pve/storage/local-lvm/status", "/nodes/pve/tasks", "/storage", f"{VM}/agent/get-fsinfo", f"{VM}/agent/get-vcpus",
    f"{VM}/agent/get-memory-block-info", f"{VM}/agent/get-memory-blocks", f"{VM}/agent/info", f"{VM}/config", f"{VM}/pending",
    f"{VM}/snapshot", f"{VM}/status/current",
]  # fmt: skip


def test_a_read_that_is_refused_stops_the_resize_before_anything_is_changed(tmp_path: Path) -> None:
    with host(tmp_path) as made:
        for path in NEEDED:
            made.pve.fail("GET", path, 403, "Permission check failed")
            with pytest.raises(CutoverError):
                done(resize.PHASE, made.run(execute=True))
            assert made.pve.writes() == [], path
            made.pve.failures.clear()
        done(resize.PHASE, made.run(execute=True))
        assert read_later(made.pve) == []


def test_a_cluster_without_majority_is_known_before_anything_is_changed(tmp_path: Path) -> None:
    with host(tmp_path) as made:
        made.pve.add_node("other")
        made.pve.lose_quorum()
        run = made.run(execute=True)
        with pytest.raises(Refused, match="no majority"):
            done(resize.PHASE, run)
        with pytest.raises(Refused, match="no majority"):
            done(backup.PHASE, run)
        assert any("no majority" in one for one in decommission_survey.take(run)[1])
        assert made.pve.writes() == []
