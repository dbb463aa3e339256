"""Fixtures that steps share: the lab, and the operator who runs commands against it.

A scenario that changes or breaks something (``@changes``, ``@lab``) gets a lab of its own; the others share one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.live_site import LiveSite
from acceptance.report import GROUND
from acceptance.reporting import RUN
from cutover.site.load import load
from lab.lab import Lab, new_folder
from lab.operator import Operator


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


@pytest.fixture(scope="session")
def _container_turns(lab_parent: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    from lab.containers.lab import Turns

    turns = Turns(lab_parent)
    yield turns
    turns.close()


@contextlib.contextmanager
def _on_containers(request: pytest.FixtureRequest, own: bool) -> Iterator[Lab]:
    """The lab on real containers: one at a time on one Docker engine."""
    turns = request.getfixturevalue("_container_turns")
    lab = turns.own() if own else turns.shared()
    request.config.stash[GROUND].update(turns.facts)
    request.config.stash[RUN].image = lab.site.qdrant.image  # where it had to be made here, that is not the one that ships
    try:
        yield lab
    finally:
        if own:
            lab.stop()


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_parent: Path) -> Iterator[Lab | LiveSite]:
    """The plan's site: in the lab, or - read-only - the live one."""
    config = request.config
    if config.getoption("--target") == "live":
        yield LiveSite(
            load(Path(config.getoption("--site"))), Path(config.getoption("--state-dir")), config.getoption("--allow-changes")
        )
        return
    own = any(request.node.get_closest_marker(name) for name in ("changes", "lab"))
    if config.stash[GROUND].get("ground", "").startswith("containers"):
        with _on_containers(request, own) as lab:
            yield lab
        return
    if not own:
        yield request.getfixturevalue("_shared_lab")
        return
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        yield lab


@pytest.fixture
def operator(lab: Lab) -> Operator:
    """The operator, who has not done anything yet."""
    return Operator(lab)
