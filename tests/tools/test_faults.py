"""The fault matrix (:mod:`tools.faults`): a call or two of it every day, all of it with ``--thorough``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, OutcomeUnknown, Unreachable
from cutover.core.http import GuardedAdapter, session
from cutover.core.journal import Journal
from cutover.core.shell import Shell
from cutover.core.wait import Not, wait_until
from cutover.core.write_guard import WriteGuard
from cutover.dns.names import Names
from lab.faults.lab import NEW, WiredLab
from lab.faults.proxy import DNS_AFTER, DNS_FAULTS, EVERY_FAULT, FAULTS, SHELL_FAULTS, SLOW_SECONDS, Broken, Call
from lab.lab import QDRANT_PORT, ROOT, new_folder, python_process
from lab.processes import running
from tools import faults
from tools.faults import (  # fmt: skip
    EVENING,
    FAMILIES,
    NO_WAY_BACK,
    Cell,
    Choose,
    Quick,
    Shown,
    Step,
    carry_out,
    cells,
    covering,
    family,
    judge,
    table,
)

READ = Call("Proxmox", "GET", "/api2/json/cluster/resources", reads=True)
WRITE = Call("Proxmox", "POST", "/api2/json/nodes/pve/vzdump", reads=False)
STEP = Step("backup")


@pytest.fixture
def lab(lab_parent: Path) -> Iterator[WiredLab]:
    with WiredLab(new_folder(lab_parent), seed=lab_parent / "seed-of-few") as made:
        yield made


@pytest.fixture(scope="module")
def shared(lab_parent: Path) -> Iterator[WiredLab]:
    """One that is as it was after each test."""
    with WiredLab(new_folder(lab_parent), seed=lab_parent / "seed-of-few") as made:
        yield made


# -- which cells --------------------------------------------------------------------------------------


def test_every_kind_of_call_meets_every_fault_early_or_late() -> None:
    made = list(cells(STEP, [READ, WRITE, READ, READ]))
    assert {(cell.call, cell.fault) for cell in made} == {(call, fault) for call in (READ, WRITE) for fault in FAULTS}
    assert {cell.nth for cell in made if cell.call == READ} == {1, 3}
    assert {cell.after for cell in made if cell.call == READ} == {0, 3}, "the server's requests before it"


def test_a_certificate_is_only_wrong_where_there_is_one() -> None:
    plain = Call("vLLM", "GET", "/health", reads=True)
    assert not [cell for cell in cells(STEP, [plain]) if "certificate" in cell.fault]


def test_the_choices_leave_no_fault_out() -> None:
    made = list(cells(STEP, [READ, WRITE]))
    assert {(c.call.reads, c.fault) for c in covering(made)} == {(reads, fault) for reads in (True, False) for fault in FAULTS}
    quick = Quick()
    chosen = quick.choose(made)
    for reads in (True, False):
        assert {family(c.fault) for c in chosen if c.call.reads is reads} == set(FAMILIES)
    assert {fault for faults in FAMILIES.values() for fault in faults} == set(EVERY_FAULT)
    assert quick.choose(made) == []
    several = [
        cell
        for name in (
            "Proxmox",
            "Portainer",
            "Git",
            "vLLM",
            "the old server",
            "the new server",
            "the name server",
            "the Nginx host",
        )
        for cell in cells(STEP, [replace(READ, server=name)])
    ]
    assert {c.fault for c in Quick().choose(several)} == set(EVERY_FAULT)


# -- what a cell must show ----------------------------------------------------------------------------

SAID = "GET https://10.0.0.172:8006/api2/json/cluster/resources: connection refused."


@pytest.mark.parametrize(
    ("code", "said", "changed", "fault", "wrong"),
    [
        (1, SAID, [], "refused", ""),
        (3, SAID, ["guests.1001.pending: {} -> {}"], "refused", ""),
        (4, SAID, [], "lost", ""),
        (1, SAID, ["guests.1001.pending: {} -> {}"], "refused", "says that nothing was changed"),
        (4, SAID, [], "403", "nothing was unknown"),
        (2, SAID, [], "401", "exit code 2"),
        (1, "Proxmox: <html><body>Bad Gateway</body></html>", [], "502", "HTML"),
        (1, "Proxmox: HTTPConnectionPool(host='x'): Max retries", [], "reset", "inside of a program"),
        (1, "Proxmox does not accept the token hush-hush.", [], "401", "a secret"),
        (1, "Something went wrong.", [], "500", "does not name what failed"),
        (1, "Proxmox: 500", [], "500", "no sentence"),
        (1, f"Proxmox says {'x' * 1000} at last.", [], "huge", "characters"),
    ],
)
def test_the_judge_sees(code: int, said: str, changed: list[str], fault: str, wrong: str) -> None:
    shown = Shown(Cell(STEP, READ, fault, 1, 0), code, said)
    found = judge(shown, changed, ["hush-hush"])
    assert (wrong in " ".join(found)) if wrong else found == []


def test_the_page_says_what_was_wrong() -> None:
    good = Shown(Cell(STEP, READ, "refused", 1, 0), 1, SAID)
    bad = Shown(Cell(STEP, WRITE, "lost", 1, 0), 1, "Proxmox is gone now.", wrong=["it lies"])
    text = table([good, bad], [*cells(STEP, [READ, WRITE])])
    assert (
        f"2 kinds of calls in 1 steps make {2 * len(FAULTS)} cells. 2 were carried out" in text
        and "1 cells in which something was wrong" in text
    )
    assert "| refused | 1 | 1 x 1 |" in text and "it lies" in text


def test_what_is_kept_of_a_run_is_of_the_same_tool_and_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "ROOT", tmp_path)
    seen = {faults.version()}
    for file in ("src/cutover/gate/ways.py", "lab/nginx.py", "nginx/qdrant-gate.conf"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
        seen.add(faults.version())
    assert len(seen) == 4


def test_the_page_that_ships_is_of_this_matrix() -> None:
    """Its numbers are of the day on which it was made; its rows are the faults that there are, and it has nothing to hide."""
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row in EVERY_FAULT] == list(EVERY_FAULT)
    assert "* 0 tracebacks, 0 cells in which something was wrong." in page


# -- the wires ----------------------------------------------------------------------------------------


def test_a_wire_breaks_the_call_that_it_is_told_to_and_no_other(lab: WiredLab, tmp_path: Path) -> None:
    journal = Journal(tmp_path, "wires")
    guard = WriteGuard(journal)
    # Arming a wire ends kept connections; a read that meets that is asked once more, and would be counted twice.
    http = session(guard, headers={"api-key": lab.keys.qdrant, "Connection": "close"}, timeout=(2.0, 2.0))
    url = lab.site.qdrant.old_url
    http.get(f"{url}/collections").json()
    call = lab.wires.seen[-1]
    assert (call.server, call.path, call.reads) == ("the old server", "/collections", True)
    lab.wires.arm(Broken(call, "lost", nth=2))
    assert http.get(f"{url}/collections").status_code == 200
    assert http.get(f"{url}/aliases").status_code == 200
    with pytest.raises(Unreachable):
        http.get(f"{url}/collections")
    assert http.get(f"{url}/aliases").status_code == 200
    put = f"{url}/collections/made-through-a-wire"
    lab.wires.forget()
    lab.wires.arm(Broken(Call("the old server", "PUT", "/collections/{collection}", reads=False), "lost"))
    with pytest.raises(OutcomeUnknown), guard.act("x", "X"):
        http.put(put, json={"vectors": {"size": 2, "distance": "Dot"}})
    assert guard.changed, "nobody knows, so nobody may say that nothing was changed"
    lab.wires.mend()
    assert http.get(put).status_code == 200, "the answer was lost, not the request"
    with guard.act("x", "X"):
        assert http.delete(put).json()["result"] is True


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reset", "closed the connection|reset by peer"),
        ("half a body", "ends in the middle"),
        ("huge", "larger than 1 MB"),
        ("hang", "no answer within 1 s"),
        ("lost", "closed the connection|reset by peer"),
    ],
)
def test_a_lost_answer_is_unreachable_to_who_read_and_unknown_to_who_wrote(
    lab: WiredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setattr(GuardedAdapter, "most", 1 << 20)
    monkeypatch.setattr(GuardedAdapter, "longest", 1.0)
    guard = WriteGuard(Journal(tmp_path, "wires"))
    http = session(guard, headers={"api-key": lab.keys.qdrant})
    url, old = f"{lab.site.qdrant.old_url}/collections/digits", "the old server"
    lab.wires.arm(Broken(Call(old, "GET", "/collections/{collection}", reads=True), fault))
    with pytest.raises(Unreachable, match=said):
        http.get(url)
    assert guard.changed == ""
    lab.wires.arm(Broken(Call(old, "PATCH", "/collections/{collection}", reads=False), fault))
    with pytest.raises(OutcomeUnknown, match=said), guard.act("x", "X"):
        http.patch(url, json={})
    assert guard.changed.startswith("PATCH ")


@pytest.mark.parametrize(
    ("fault", "said"), [("expired certificate", "the clock of this computer"), ("another's certificate", "CA file")]
)
def test_a_certificate_that_is_refused_says_where_to_look(shared: WiredLab, fault: str, said: str) -> None:
    """A clock that is wrong makes every certificate wrong, and no CA file helps."""
    shared.wires.forget()
    shared.wires.arm(Broken(Call("Proxmox", "GET", "/api2/json/version", reads=True), fault))
    run = shared.run()
    with pytest.raises(Unreachable, match=said):
        run.proxmox.get("version")
    shared.wires.mend()


# -- the name server's wire, and the shell's ------------------------------------------------------------

ZONE = "home.arpa."


def _names(lab: WiredLab, state: Path) -> Names:
    credentials = Credentials({"DNS_TSIG_NAME": lab.names.key_name, "DNS_TSIG_SECRET": lab.names.key_secret})
    return Names(lab.site.dns, credentials, WriteGuard(Journal(state, "wires")))


@pytest.mark.parametrize("fault", DNS_FAULTS)
def test_an_update_that_is_broken_is_not_done_or_nobody_knows(
    shared: WiredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """And when the fault is gone the same deletion is completed, whatever came of the first."""
    monkeypatch.setattr("cutover.dns.asking.ANSWER_SECONDS", 1.0)
    lab = shared
    before, names = lab.names.entries(), _names(lab, tmp_path / "first")
    planned = names.find([lab.site.guests.old.address])
    assert len(planned.records) == 3, planned
    update = Call("the name server", "UPDATE", ZONE, reads=False)
    lab.wires.forget()
    earlier = 5 if fault == "refused" else 0  # the questions of a deletion before its first update
    lab.wires.arm(Broken(update, fault, after=earlier))
    with pytest.raises(CutoverError) as caught:
        names.delete(planned)
    left = lab.names.entries()
    if fault in DNS_AFTER:
        assert isinstance(caught.value, OutcomeUnknown), caught.value
        assert left != before
    elif fault in {"rcode SERVFAIL", "hang", "reset"}:
        assert isinstance(caught.value, OutcomeUnknown), caught.value
    else:
        assert not isinstance(caught.value, OutcomeUnknown), caught.value
        assert [one for one in left if one[0].endswith(ZONE)] == [one for one in before if one[0].endswith(ZONE)]
    assert "name server" in str(caught.value)
    lab.wires.mend()
    names = _names(lab, tmp_path / "again")
    names.delete(names.find([lab.site.guests.old.address]))
    assert len(lab.names.entries()) == len(before) - 3
    lab.names.make(before)
    assert lab.names.entries() == before


@pytest.mark.parametrize("fault", DNS_FAULTS)
def test_a_name_server_that_cannot_be_read_is_not_taken_for_an_empty_one(
    shared: WiredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """One that says no to a transfer is asked for each name; of any other answer nobody says that there is nothing."""
    if fault == "failed afterwards":
        pytest.skip("nothing was to be done")
    monkeypatch.setattr("cutover.dns.asking.ANSWER_SECONDS", 1.0)
    lab, names = shared, _names(shared, tmp_path)
    lab.wires.forget()
    lab.wires.arm(Broken(Call("the name server", "AXFR", ZONE, reads=True), fault))
    old = lab.site.guests.old
    if fault in {"rcode REFUSED", "rcode NOTAUTH", "TSIG BADKEY"}:
        found = names.find([old.address], [old.name])
        assert len(found.records) == 2, "the address and its pointer; nobody named the alias"
        assert "refuses a zone transfer" in " ".join(found.mentions)
        return
    with pytest.raises(CutoverError, match="name server"):
        names.find([old.address], [old.name])


@pytest.mark.parametrize("fault", SHELL_FAULTS)
def test_a_command_on_another_host_that_is_broken_is_not_done_or_nobody_knows(
    shared: WiredLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(Shell, "longest", 1.0)
    lab, guard = shared, WriteGuard(Journal(tmp_path, "wires"))
    lab.wires.forget()
    shell = Shell(lab.site.nginx.shell, guard)
    made = lab.folder / "made"
    assert shell.read("echo there").text == "there"
    call = next(call for call in lab.wires.seen if "echo there" in call.path)
    assert call.reads
    with guard.act("x", "X"):
        shell.change(f"mkdir {made}", "make a folder")
    make = lab.wires.seen[-1]
    assert (make.server, make.path, make.reads) == ("the Nginx host", "mkdir /made", False)
    made.rmdir()
    lab.wires.arm(Broken(make, fault))
    try:
        with guard.act("x", "X"):
            answer = shell.change(f"mkdir {made}", "make a folder")
    except OutcomeUnknown as error:
        assert fault in {"refused", "not there", "reset", "hang", "lost", "half a body"}, error
        assert "; nobody knows" in str(error) and ".;" not in str(error)
    else:
        assert fault in {"exit code 1", "empty", "garbage"} and (answer.code == 0) is (fault != "exit code 1")
    assert made.exists() is (fault in {"lost", "half a body", "empty", "garbage"})
    made.rmdir() if made.exists() else None
    if fault in {"refused", "not there"}:
        with pytest.raises(Unreachable, match="Connection refused" if fault == "refused" else "No such file"):
            shell.read("echo there")
    lab.wires.mend()
    assert shell.read("echo there").text == "there"
    shell.close()


# -- the servers themselves -----------------------------------------------------------------------------

PUT = Call("the old server", "PUT", "/collections/{collection}/points", reads=False)


def _put(lab: WiredLab, number: int) -> int:
    """Write a record to the old server; the status, or 0 where the connection ended without one."""
    url = f"{lab.site.qdrant.old_url}/collections/digits/points?wait=true"
    body = {"points": [{"id": number, "vector": [0.5] * 64, "payload": {"large": "x" * (1 << 20)}}]}
    try:
        return requests.put(url, json=body, headers={"api-key": lab.keys.qdrant}, timeout=20).status_code
    except requests.ConnectionError:
        return 0


def _has(lab: WiredLab, number: int) -> bool:
    url = f"{lab.site.qdrant.old_url}/collections/digits/points/{number}"
    return requests.get(url, headers={"api-key": lab.keys.qdrant}, timeout=20).status_code == 200


def test_the_new_server_is_found_and_killed_though_it_was_forked(shared: WiredLab, tmp_path: Path) -> None:
    """What it was given as its environment stands in no file of the system's then."""
    host = shared.network.address(NEW)
    env = shared.qdrant_env(host, tmp_path / "qdrant")
    server = python_process("lab.qdrant", folder=tmp_path, name="new", env=env, host=host, port=QDRANT_PORT)
    with running(server):
        back = shared.wires.happenings["the new server", "killed"]()
        wait_until(lambda: Not("it runs") if server.alive else True, deadline=30, what="Its end")
        server.start()
        back()


@pytest.mark.parametrize(("fault", "done"), [("killed", False), ("killed afterwards", True)])
def test_a_server_is_killed_before_its_work_or_after_it_and_comes_back(shared: WiredLab, fault: str, done: bool) -> None:
    before = shared.machines[952].services[0].starts  # type: ignore[attr-defined]
    shared.wires.arm(Broken(PUT, fault))
    assert _put(shared, number := 900_001 + done) == 0
    shared.wires.mend()
    assert shared.machines[952].services[0].starts == before + 1  # type: ignore[attr-defined]
    assert _has(shared, number) is done


def test_a_slow_server_answers_late_and_a_full_disk_takes_nothing_until_there_is_room(shared: WiredLab) -> None:
    shared.wires.arm(Broken(PUT, "slow"))
    began = time.monotonic()
    assert _put(shared, 900_003) == 200
    assert time.monotonic() - began >= SLOW_SECONDS
    if not shared.wires.can("the old server", "disk full"):
        pytest.skip("no file system can be mounted here")
    shared.wires.arm(Broken(PUT, "disk full"))
    answers = [_put(shared, 900_100 + n) for n in range(40)]
    assert answers[-1] != 200, "the log that was made beforehand is used up"
    shared.wires.mend()
    missing = [n for n, answer in enumerate(answers) if answer == 200 and not _has(shared, 900_100 + n)]
    assert not missing, "what was acknowledged is there"


def test_a_server_whose_disk_became_read_only_reads_on_and_makes_nothing_new_until_it_is_started_again(shared: WiredLab) -> None:
    """(It also says yes to writes that fit into the files that it has mapped, and they are gone afterwards: so does a real one.)"""
    if not shared.wires.can("the old server", "disk read-only"):
        pytest.skip("no file system that can fail can be mounted here")

    def makes_a_snapshot() -> bool:
        url = f"{shared.site.qdrant.old_url}/collections/digits/snapshots"
        return requests.post(url, headers={"api-key": shared.keys.qdrant}, timeout=20).status_code == 200

    assert _put(shared, 900_200) == 200
    boots = shared.machines[952].boots
    shared.wires.arm(Broken(Call("the old server", "POST", "/collections/{collection}/snapshots", reads=False), "disk read-only"))
    assert not makes_a_snapshot()
    assert _has(shared, 900_200), "it is still read"
    shared.wires.mend()
    assert shared.machines[952].boots == boots + 1
    assert _has(shared, 900_200), "what was on the disk is there"
    assert makes_a_snapshot()


# -- the matrix ---------------------------------------------------------------------------------------


def _wrong(lab: WiredLab, choose: Choose, steps: Sequence[Step]) -> list[str]:
    wrong: list[str] = []

    def say(shown: Shown) -> None:
        wrong.extend(f"{shown.cell}: {said}" for said in shown.wrong)

    return [*carry_out(lab, choose, say, steps=steps), *wrong]


def test_one_call_of_every_day(lab: WiredLab) -> None:
    """Reads that meet each family of faults, and a write whose answer is lost."""
    quick, chosen = Quick(faults=set(EVERY_FAULT)), list[Cell]()

    def choose(step: Step, every: list[Cell]) -> list[Cell]:
        looks = step.verb.startswith("check")
        mine = quick.choose(cell for cell in every if cell.call.reads is looks and (looks or cell.fault == "lost"))
        chosen.extend(mine)
        return mine

    wrong = _wrong(lab, choose, [step for step in EVENING if step.name in {"check D3", "resize"}])
    assert not wrong, "\n".join(wrong)
    assert {family(cell.fault) for cell in chosen if cell.call.reads} >= set(FAMILIES) - {"the server itself"}
    assert {cell.fault for cell in chosen if not cell.call.reads} == {"lost"}


@pytest.mark.slow
def test_a_choice(lab: WiredLab) -> None:
    quick, chosen = Quick(), list[Cell]()

    def choose(step: Step, every: list[Cell]) -> list[Cell]:
        # A backup takes long, so only its reads are broken here.
        mine = quick.choose(cell for cell in every if cell.call.reads or step.verb != "backup")
        chosen.extend(mine)
        return mine

    names = {"check D3", "check E1", "check F5", "backup", "deploy", "copy"}
    wrong = _wrong(lab, choose, [step for step in EVENING if step.name in names])
    assert not wrong, "\n".join(wrong)
    possible = {
        fault for fault in EVERY_FAULT if lab.wires.can("the old server", fault)
    }  # a disk is full where one can be mounted
    assert {cell.fault for cell in chosen} == possible
    assert {cell.call.server for cell in chosen} == {
        "vLLM", "Proxmox", "Portainer", "Git", "the old server", "the new server", "Qdrant through Nginx", "the name server",
        "the Nginx host",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("step", [*EVENING, *NO_WAY_BACK], ids=lambda step: step.name)
def test_every_call_of(lab: WiredLab, step: Step) -> None:
    """Every server meets every fault, at a read and at a write, and every call is broken once; all of it takes hours (README)."""
    wrong = _wrong(lab, lambda _, every: covering(every), [step])
    assert not wrong, "\n".join(wrong)
