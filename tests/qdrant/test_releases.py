"""Which releases can be moved is said from measurements."""

from __future__ import annotations

import pytest

from cutover.core.errors import WrongUsage
from cutover.qdrant import releases
from cutover.site.load import load
from tests.support.qdrant_pair import ROOT


def test_the_release_that_ships_was_measured() -> None:
    assert releases.warning(load(ROOT / "site.yaml").qdrant.version) == ""


@pytest.mark.parametrize("version", ["1.12.0", "1.18.2", "1.18.4", "1.19.0", "2.0.0"])
def test_an_unmeasured_release_is_a_warning_and_no_refusal(version: str) -> None:
    assert releases.known_bad(version) == ""
    assert f"Qdrant {version} was not measured" in releases.warning(version)


@pytest.mark.parametrize("version", ["0.11.0", "1.7.4", "1.9.7", "1.11.5"])
def test_a_release_that_lacks_what_the_move_needs_is_refused_with_the_reason(version: str) -> None:
    assert "cannot be moved" in releases.known_bad(version)
    assert "whether a key may write" in releases.known_bad(version)


@pytest.mark.parametrize("version", ["1.18", "latest", "", "1.18.3; rm", "v1"])
def test_what_is_no_release_is_wrong_usage(version: str) -> None:
    with pytest.raises(WrongUsage):
        releases.parts(version)
