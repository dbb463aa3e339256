"""Fixtures that steps share: the lab, and the operator who runs commands against it.

A scenario that changes or breaks something (``@changes``, ``@lab``) gets a lab of its own; the others share one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutover.site import load
from steps.lab.lab import Lab, new_folder
from steps.operator import Operator
from steps.targets.live import LiveSite


@pytest.fixture(scope="session")
def lab_parent() -> Iterator[Path]:
    """Where labs put their folders: short, because of the paths of Unix sockets, and readable for Nginx's workers."""
    with tempfile.TemporaryDirectory(prefix="cutover-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def _shared_lab(lab_parent: Path) -> Iterator[Lab]:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        yield lab


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_parent: Path) -> Iterator[Lab | LiveSite]:
    """The plan's site: in the lab, or - read-only - the live one."""
    config = request.config
    if config.getoption("--target") == "live":
        yield LiveSite(
            load(Path(config.getoption("--site"))), Path(config.getoption("--state-dir")), config.getoption("--allow-changes")
        )
        return
    if not any(request.node.get_closest_marker(name) for name in ("changes", "lab")):
        yield request.getfixturevalue("_shared_lab")
        return
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        yield lab


@pytest.fixture
def operator(lab: Lab) -> Operator:
    """The operator, who has not done anything yet."""
    return Operator(lab)
