"""Pinning a release: the registry's digest, in both files, and nothing else changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutover.core.credentials import Credentials
from cutover.core.errors import Refused
from cutover.core.write_guard import WriteGuard
from cutover.portainer import compose_file, pin
from cutover.portainer.client import Portainer
from cutover.site import load as site_load
from tests.portainer.test_client import client
from tests.support.vm1001 import NEWER, Vm1001

ROOT = Path(__file__).resolve().parents[2]
STACK = "stacks/qdrant/docker-compose.yml"
VERSION = NEWER.split(":v")[1].split("@")[0]


@pytest.fixture(scope="module")
def portainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portainer]:
    vm = Vm1001(tmp_path_factory.mktemp("vm"))
    with vm.up():
        yield client(vm)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / STACK).parent.mkdir(parents=True)
    shutil.copy(ROOT / "site.yaml", tmp_path)
    shutil.copy(ROOT / STACK, tmp_path / STACK)
    return tmp_path


def prepare(checkout: Path, version: str, portainer: Portainer) -> pin.Pin:
    return pin.prepare(site_load.load(checkout / "site.yaml"), checkout / "site.yaml", version, portainer)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_version_tag_and_digest_are_written_into_both_files_and_nothing_else(checkout: Path, portainer: Portainer) -> None:
    was = {name: lines(checkout / name) for name in ("site.yaml", STACK)}
    found = prepare(checkout, VERSION, portainer)
    assert {name: lines(checkout / name) for name in was} == was, "nothing is written before it is said"
    pin.write(found)
    site = site_load.load(checkout / "site.yaml")
    assert (site.qdrant.version, site.qdrant.image) == (VERSION, NEWER)
    assert str(compose_file.read((checkout / STACK).read_text(encoding="utf-8")).image) == NEWER
    changed = {name: sum(a != b for a, b in zip(was[name], lines(checkout / name), strict=True)) for name in was}
    assert changed == {"site.yaml": 2, STACK: 1}


def test_line_ends_stay_as_they_are(checkout: Path, portainer: Portainer) -> None:
    for name in ("site.yaml", STACK):
        text = (checkout / name).read_text(encoding="utf-8")
        (checkout / name).write_bytes(text.replace("\n", "\r\n").encode())
    pin.write(prepare(checkout, VERSION, portainer))
    for name in ("site.yaml", STACK):
        content = (checkout / name).read_bytes()
        assert NEWER.encode() in content
        assert content.count(b"\n") == content.count(b"\r\n")


def test_pinned_twice_changes_nothing_and_a_killed_one_is_finished(checkout: Path, portainer: Portainer) -> None:
    found = prepare(checkout, VERSION, portainer)
    first, *_ = found.files
    pin.write(pin.Pin(found.image, {first: found.files[first]}, ""))
    again = prepare(checkout, VERSION, portainer)
    assert set(again.files) == set(found.files) - {first}
    pin.write(again)
    assert prepare(checkout, VERSION, portainer).files == {}


def test_a_release_that_the_registry_does_not_have_is_refused(checkout: Path, portainer: Portainer) -> None:
    with pytest.raises(Refused, match=r"has no qdrant/qdrant:v9\.9\.9"):
        prepare(checkout, "9.9.9", portainer)


def test_a_release_that_cannot_be_moved_is_refused_before_anybody_is_asked(checkout: Path) -> None:
    nobody = Portainer(
        site_load.load(checkout / "site.yaml").portainer, Credentials({"PORTAINER_API_KEY": "nobody"}), WriteGuard(None)
    )
    with pytest.raises(Refused, match="cannot be moved"):
        prepare(checkout, "1.9.0", nobody)


def test_a_file_with_two_such_lines_is_left_alone(checkout: Path, portainer: Portainer) -> None:
    file = checkout / STACK
    file.write_text(file.read_text(encoding="utf-8") + "    # no:\n    image: qdrant/qdrant:v1.0.0\n", encoding="utf-8")
    with pytest.raises(Refused, match="2 lines"):
        prepare(checkout, VERSION, portainer)


def test_an_unmeasured_release_is_pinned_with_a_warning(checkout: Path, portainer: Portainer) -> None:
    assert "was not measured" in prepare(checkout, VERSION, portainer).warning
