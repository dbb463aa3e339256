"""Disks that are full or read-only for real: the operator's, with the journal, and the Nginx host's, with the gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cutover.core.errors import Refused
from cutover.core.journal import Journal, read
from cutover.core.wait import Not, wait_until
from lab.disks import PAGE, Disk, NoMount, disk
from lab.lab import Lab, new_folder
from lab.operator import Operator
from lab.state_snapshot import differences, picture
from tests.support.night import every_nth_by_day

MB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 64 KB."""
    try:
        with disk(tmp_path / "disk", 64 << 10) as made:
            yield made
    except NoMount as reason:
        pytest.skip(f"no file system can be mounted here: {reason}")


# -- the journal ------------------------------------------------------------------------------------


def test_a_full_disk_never_tears_the_journal(small: Disk) -> None:
    """Whatever part of a line still fits: the line is there whole or not at all, and the next one begins on its own."""
    folder = small.path / "state"
    journal = Journal(folder, "home")
    for length in range(1, PAGE, PAGE // 7):
        journal.note("fill", "x" * length)
        small.fill()
        before = len(list(read(journal.path)))
        with pytest.raises(Refused, match=r"cannot be written .no space left on device.*Nothing is done") as error:
            while True:
                journal.intent("copy.record", "Record every write")
                before += 1
        assert error.value.exit_code == 1
        assert len(list(read(journal.path, "home"))) == before
        assert journal.path.read_bytes().endswith(b"\n")
        small.clear()
    journal.intent("copy.record", "Record every write")
    seqs = [entry.seq for entry in read(journal.path, "home")]
    assert seqs == list(range(1, len(seqs) + 1))


def test_a_read_only_disk_is_said_to_be_one(small: Disk) -> None:
    small.read_only()
    with pytest.raises(Refused, match=r"read-only file system.*nothing was done"):
        Journal(small.path / "state", "home").lock()


def _fill_last_page(lab: Lab) -> None:
    """Let the journal take what its file has already been given."""
    journal = Journal(lab.state_dir, lab.site.name)
    try:
        while True:
            journal.note("fill", "A line")
    except Refused:
        journal.unlock()


# -- a step whose journal finds no room ---------------------------------------------------------------


@pytest.fixture
def stage(lab_parent: Path) -> Iterator[tuple[Lab, Operator, Disk]]:
    """A lab with the gate in, whose state folder is a small disk of its own."""
    try:
        with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab, disk(lab.state_dir, 256 << 10) as made:
            lab.state_dir.chmod(0o700)  # a new file system's own folder is open to everybody
            operator = Operator(lab)
            for verb in ("deploy", "gate"):
                operator.does(verb)
            yield lab, operator, made
    except NoMount as reason:
        pytest.skip(f"no file system can be mounted here: {reason}")


def test_what_cannot_be_written_down_first_is_not_done(stage: tuple[Lab, Operator, Disk]) -> None:
    """However much room is left: *refused* only where nothing was changed, and with room the same command goes on."""
    lab, operator, small = stage
    before, codes = picture(lab), []
    for pages in range(12):
        small.fill()
        _fill_last_page(lab)
        small.fill(pages * PAGE)
        last = picture(lab)
        operator.tries("copy")
        code = operator.error.exit_code if operator.error else 0
        codes.append(code)
        assert code in {0, 1, 3}, operator.error
        if operator.error is not None:
            assert "no space left on device" in str(operator.error), operator.error
        if code == 1:
            assert differences(last, picture(lab)) == [], operator.error
        if code == 0:
            break
    small.clear()
    operator.does("copy")
    after = picture(lab)
    assert codes[0] == 1 and 3 in codes, codes
    assert after["old"] == before["old"] == after["new"]
    assert Journal(lab.state_dir, lab.site.name).entries()


# -- the Nginx host -----------------------------------------------------------------------------------


@pytest.fixture
def host(lab_parent: Path) -> Iterator[tuple[Lab, Operator, Disk]]:
    """A lab whose Nginx host has a small disk of its own for the gate."""
    try:
        lab = Lab(new_folder(lab_parent), seed=lab_parent / "seed")
        with disk(lab.nginx.gate_folder.parent, 700 * MB) as made, lab:
            operator = Operator(lab)
            operator.does("deploy")
            yield lab, operator, made
    except NoMount as reason:
        pytest.skip(f"no file system can be mounted here: {reason}")


def _reads(lab: Lab) -> None:
    """Applications read as ever."""
    session = requests.Session()
    session.trust_env = False
    url = f"{lab.site.qdrant.public_url}/collections/digits/points/1"
    assert session.get(url, headers={"api-key": lab.keys.qdrant}, timeout=10).status_code == 200


def _served(lab: Lab) -> None:
    """Applications read and write as ever, and nothing is held."""
    _reads(lab)
    headers = {"api-key": lab.keys.qdrant}
    session = requests.Session()
    session.trust_env = False
    point = {"id": 900_001, "vector": [0.5] * _size(session, lab, headers), "payload": {"written": "while the disk is full"}}
    url = f"{lab.site.qdrant.public_url}/collections/digits/points"
    put = session.put(url, json={"points": [point]}, params={"wait": "true"}, headers=headers, timeout=10)
    assert put.status_code == 200, put.text
    assert session.get(f"{url}/900001", headers=headers, timeout=10).json()["result"]["payload"] == point["payload"]
    gone = session.post(f"{url}/delete", json={"points": [900_001]}, params={"wait": "true"}, headers=headers, timeout=10)
    assert gone.status_code == 200, gone.text


def _size(session: requests.Session, lab: Lab, headers: dict[str, str]) -> int:
    info = session.get(f"{lab.site.qdrant.old_url}/collections/digits", headers=headers, timeout=10).json()["result"]
    return int(info["config"]["params"]["vectors"]["size"])


@pytest.mark.parametrize("read_only", every_nth_by_day([False, True], 2), ids=["full", "read-only"])
def test_the_gate_does_not_get_in_where_the_disk_takes_nothing(host: tuple[Lab, Operator, Disk], read_only: bool) -> None:
    lab, operator, small = host
    before = picture(lab)
    small.read_only() if read_only else small.fill()
    operator.tries("gate")
    said = operator.was_refused()
    assert said.exit_code in {1, 3}, said
    assert ("cannot be written" if read_only else "MB free") in str(said), said
    after = picture(lab)
    assert after["nginx"] == before["nginx"], differences(before, after)
    _served(lab)
    small.read_only(yes=False) if read_only else small.clear()
    operator.does("gate")
    operator.does("gate", undo=True)
    assert picture(lab)["nginx"] == before["nginx"]


def test_no_traffic_moves_where_the_gate_has_no_room(host: tuple[Lab, Operator, Disk]) -> None:
    """(Read-only is not tried here: a kernel does not let a disk become it while Nginx writes its log there.)"""
    lab, operator, small = host
    for verb in ("gate", "copy"):
        operator.does(verb)
    before = picture(lab)
    small.fill()
    operator.tries("switch")
    said = operator.was_refused()
    assert said.exit_code in {1, 3} and re.search("disk( of the Nginx host)? (is|ran) full", str(said)), said
    after = picture(lab)
    # The watch on the Nginx host ends the recording then, before an application's write would fail for want of room.
    assert set(after["flags"]) - {"record"} == set(before["flags"]) - {"record"}, "a hold was left behind"
    assert after["old"] == before["old"]
    _reads(lab)

    def ended() -> bool | Not:
        return Not("it goes on") if lab.run().gate.state().recording else True

    wait_until(ended, deadline=60, what="The end of the recording")
    small.clear()
    operator.does("copy")
    operator.does("switch")
    assert differences(before["old"], picture(lab)["new"]) == []
    operator.does("back")
    _served(lab)
