"""Giving back the old servers: the stage for it, what may go wrong, and what is left afterwards.

Refusals change nothing, so they share one lab whose move is finished; scenarios that only look at what is left when all went well
share another. What stops or starts servers gets a lab of its own.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pytest_bdd import given, then, when

from cutover.phases import decommission_guest
from lab.lab import Lab, new_folder
from lab.operator import Operator
from lab.state_snapshot import records
from steps.dns_firewall import own, picture
from steps.proxmox import PowerCut

MOVE = ("deploy", "gate", "copy", "switch", "finish")


# -- the stage ----------------------------------------------------------------------------------------
@contextmanager
def finished(parent: Path, *, soak_hours: float = 0.0, settled: bool = False) -> Iterator[Lab]:
    """A lab whose traffic moved, whose way back was given up, and whose firewall knows the old servers."""
    with Lab(new_folder(parent), seed=parent / "seed") as lab:
        lab.change_site(limits={"soak_hours": soak_hours})
        operator = Operator(lab, agrees_to=names(lab))
        for verb in (*MOVE, "settle") if settled else MOVE:
            operator.does(verb)
        yield lab


def names(lab: Lab) -> set[str]:
    """What an operator has to type who agrees to everything."""
    return {lab.site.name, *(guest.name for guest in lab.site.guests.to_decommission())}


def old_ones(lab: Lab) -> list[int]:
    """The ids of the old servers."""
    return [guest.vmid for guest in lab.site.guests.to_decommission()]


@pytest.fixture(scope="session")
def shared_finished(lab_parent: Path) -> Iterator[Lab]:
    """A finished move, for scenarios that end in a refusal."""
    with finished(lab_parent) as lab:
        yield lab


@dataclass
class GivenBack:
    """A site that gave its old servers back, with a picture of before and after."""

    lab: Lab
    before: dict[str, Any]
    after: dict[str, Any]
    undo: dict[str, Any]


@pytest.fixture(scope="session")
def given_back(lab_parent: Path) -> Iterator[GivenBack]:
    """A site that gave its old servers back once, with Nginx without a gate already; nothing is changed there any more."""
    with finished(lab_parent, settled=True) as lab:
        before = picture(lab)
        Operator(lab, agrees_to=names(lab)).does("decommission")
        undo = json.loads((lab.state_dir / "undo-decommission.json").read_text(encoding="utf-8"))
        yield GivenBack(lab, before, picture(lab), undo)


@given("the move is finished", target_fixture="lab")
def _move_is_finished(shared_finished: Lab) -> Lab:
    return shared_finished


@pytest.fixture
def own_finished(lab_parent: Path, soak_time: list[float]) -> Iterator[Lab]:
    """A finished move of this scenario's own."""
    with finished(lab_parent, soak_hours=soak_time[0] if soak_time else 0.0) as lab:
        yield lab


@pytest.fixture
def soak_time() -> list[float]:
    """The soak time, where a scenario sets one."""
    return []


@given("a finished move, and an hour to live without the old servers", target_fixture="lab")
def _an_hour(soak_time: list[float], request: pytest.FixtureRequest) -> Lab:
    soak_time.append(1.0)
    lab: Lab = request.getfixturevalue("own_finished")
    return lab


@given("a finished move, with no time to live without the old servers", target_fixture="lab")
def _no_time(own_finished: Lab) -> Lab:
    return own_finished


@pytest.fixture
def was_here(lab: Lab) -> dict[str, Any]:
    """The site when the scenario began."""
    return picture(lab)


# -- what may be wrong ---------------------------------------------------------------------------------
@pytest.fixture
def without_vllm(lab: Lab) -> Iterator[None]:
    """vLLM is down for the length of a scenario."""
    machine = lab.machines[lab.site.guests.vllm.vmid]
    machine.stop()
    yield
    machine.start()


@given("vLLM does not answer")
def _vllm_does_not_answer(without_vllm: None) -> None:
    del without_vllm


@given("vLLM needs one of the old servers", target_fixture="needed")
def _vllm_needs(lab: Lab) -> int:
    vmid = lab.site.guests.legacy[1].vmid
    needed, vllm = lab.machines[vmid], lab.machines[lab.site.guests.vllm.vmid]
    stop, start = needed.stop, needed.start

    def stop_both(**how: Any) -> None:
        vllm.stop()
        stop(**how)

    def start_both() -> None:
        start()
        vllm.start()

    needed.stop, needed.start = stop_both, start_both  # type: ignore[method-assign]
    return vmid


@given("the old servers were stopped, and somebody started one again", target_fixture="needed")
def _somebody_started(lab: Lab) -> int:
    Operator(lab, agrees_to=names(lab)).does("decommission")
    vmid = lab.site.guests.legacy[1].vmid
    with closing(lab.run(execute=True)) as run, run.guard.act("somebody", "Start it in Proxmox"):
        path = f"nodes/{run.proxmox.node}/lxc/{vmid}/status/start"
        run.proxmox.do_task("POST", path, kind="vzstart", vmid=vmid, what="Starting it", deadline=20)
    return vmid


@given("the backups of the old servers turn out unreadable")
def _unreadable(lab: Lab) -> None:
    assert lab.pve is not None
    write = lab.pve._write_archive

    def broken(guest: Any, path: Path, left_out: list[str]) -> int:
        size = write(guest, path, left_out)
        path.write_bytes(bytes(size))
        return size

    lab.pve._write_archive = broken  # type: ignore[method-assign]


@given("the operator types the names of only three old servers", target_fixture="names_typed")
def _three_names(lab: Lab) -> set[str]:
    return names(lab) - {lab.site.guests.old.name}


@given("the operator types every name")
def _every_name(lab: Lab, operator: Operator, was_here: dict[str, Any]) -> None:
    del was_here
    operator.agrees_to = names(lab)


@pytest.fixture
def names_typed() -> set[str] | None:
    """The names that the operator types; None: all."""
    return None


# -- used after its backup (F6), and undone (G5) --------------------------------------------------------
def _use(lab: Lab, vmid: int) -> None:
    """Somebody starts a guest in Proxmox, writes into it and stops it again."""
    assert lab.pve is not None
    with closing(lab.run(execute=True)) as run:
        run.state_dir = lab.state_dir.with_name("somebody")  # they have a journal of their own, if any
        with run.guard.act("somebody", "Use it"):
            for what, kind in (("start", "vzstart"), ("shutdown", "vzshutdown")):
                path = f"nodes/{lab.pve.node}/lxc/{vmid}/status/{what}"
                run.proxmox.do_task("POST", path, kind=kind, vmid=vmid, what=what, deadline=60)
                (lab.machines[vmid].root / "written-late").write_text("what was written last")


def _used_after_backup(lab: Lab, monkeypatch: pytest.MonkeyPatch, times: int) -> int:
    vmid, left, forget = lab.site.guests.legacy[0].vmid, [times], decommission_guest._forget

    def then(context: Any, guest: Any, within: Any) -> Any:
        if guest.vmid == vmid and left[0]:
            left[0] -= 1
            _use(lab, vmid)
        return forget(context, guest, within)

    monkeypatch.setattr(decommission_guest, "_forget", then)
    return vmid


@given("somebody uses an old server after its final backup", target_fixture="needed")
def _used_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> int:
    return _used_after_backup(lab, monkeypatch, 1)


@given("somebody uses an old server after each of its final backups", target_fixture="needed")
def _used_always(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> int:
    return _used_after_backup(lab, monkeypatch, 99)


@then("all old servers are gone, and the operator is told that one was used")
def _gone_and_told(lab: Lab, operator: Operator) -> None:
    assert lab.pve is not None
    assert operator.error is None, operator.error
    assert not {ct.vmid for ct in lab.pve.cts} & set(old_ones(lab))
    assert operator.result is not None and operator.result.outcome is not None
    assert any("was used after its backup" in sentence for sentence in operator.result.outcome.sentences)


@then("what was written last is in the backup that is kept")
def _kept_last(lab: Lab, needed: int) -> None:
    assert lab.pve is not None
    undo = json.loads((lab.state_dir / "undo-decommission.json").read_text(encoding="utf-8"))
    volid = next(guest["backup"] for guest in undo["guests"] if guest["vmid"] == needed)
    with tarfile.open(lab.pve.archive(volid)) as tar:
        assert "./written-late" in tar.getnames()


@then("that old server is not deleted")
def _not_deleted(lab: Lab, needed: int) -> None:
    assert lab.pve is not None
    assert lab.pve.ct(needed) is not None


@given("the old servers are gone")
def _are_gone(lab: Lab, operator: Operator, was_here: dict[str, Any]) -> None:
    del was_here
    operator.agrees_to = names(lab)
    operator.does("decommission")


@when("the operator's computer dies again and again while the decommission is undone")
def _dies_while_undoing(operator: Operator) -> None:
    def dying_after(changes: int) -> Callable[[Any], None]:
        def prepare(run: Any) -> None:
            change, left = run.proxmox.change, [changes]

            def counted(*words: Any, **values: Any) -> Any:
                answer = change(*words, **values)
                left[0] -= 1
                if left[0] < 0:
                    raise PowerCut
                return answer

            run.proxmox.change = counted

        return prepare

    for changes in (0, 2, 5, 1, 4):
        operator.prepare = dying_after(changes)
        with contextlib.suppress(PowerCut):
            operator.tries("decommission", undo=True)
    operator.prepare = lambda _run: None
    operator.does("decommission", undo=True)
    operator.does("decommission", undo=True)


@then("every rule and name is back in its place, once")
def _back_once(lab: Lab, was_here: dict[str, Any]) -> None:
    now = picture(lab)
    assert now["firewall"]["rules"] == {
        path: rules for path, rules in was_here["firewall"]["rules"].items() if not own(lab, path)
    }
    assert now["names"] == was_here["names"]


@given("their rules and names were put back, and somebody changed the firewall since")
def _put_back_and_changed(lab: Lab, operator: Operator) -> None:
    assert lab.pve is not None
    operator.does("decommission", undo=True)
    rules = lab.pve.firewall_config("cluster")["rules"]
    rules.insert(0, {"type": "in", "action": "DROP", "enable": 1, "comment": "somebody's"})
    del rules[2]


# -- doing ----------------------------------------------------------------------------------------------
@when("the operator gives back the old servers")
def _gives_back(lab: Lab, operator: Operator, was_here: dict[str, Any], names_typed: set[str] | None) -> None:
    del was_here
    operator.agrees_to = names(lab) if names_typed is None else names_typed
    operator.tries("decommission")


@when("the old servers are given back", target_fixture="lab")
def _are_given_back(given_back: GivenBack) -> Lab:
    return given_back.lab


@pytest.fixture
def site_before(given_back: GivenBack) -> dict[str, Any]:
    """The site before the old servers were given back."""
    return given_back.before


def _config(vmid: int, **changes: Any) -> Callable[[Lab], Any]:
    return lambda lab: lab.pve.ct(vmid).config.update(changes)  # type: ignore[union-attr]


def _elsewhere(lab: Lab) -> None:
    assert lab.pve is not None
    config = lab.pve.ct(950).config
    config["net0"] = re.sub(r"ip=[\d.]+\.", "ip=192.0.2.", config["net0"])


def _shares(lab: Lab) -> None:
    assert lab.pve is not None
    lab.pve.ct(101).config["net1"] = f"name=eth1,bridge=vmbr0,ip={lab.site.guests.old.address}/24"


_WRONG: dict[str, Callable[[Lab], Any]] = {
    "protected by somebody": _config(951, protection=1),
    "locked by a backup": _config(953, lock="backup"),
    "a template": _config(953, template=1),
    "the origin of a linked clone": _config(110, mp5="local-lvm:base-952-disk-0/vm-110-disk-5,mp=/x,size=8G"),
    "managed for high availability": lambda lab: setattr(lab.pve.ct(952), "ha_state", "started"),  # type: ignore[union-attr]
    "another server under the same id": _config(950, hostname="nas"),
    "at another address": _elsewhere,
    "holding data that no backup would hold": _config(952, mp0="local-lvm:vm-952-disk-1,mp=/data,size=8G"),
    "holding a folder of the host": _config(952, mp0="/srv/data,mp=/data"),
    "sharing its address with another server": _shares,
    "gone already": lambda lab: lab.pve.cts.remove(lab.pve.ct(953)),  # type: ignore[union-attr]
}


@dataclass
class Attempts:
    """What was tried, what was said, and what had changed afterwards."""

    rows: list[tuple[str, str, str, bool]] = field(default_factory=list)


@when("the operator gives back the old servers while one of them", target_fixture="attempts")
def _gives_back_while(lab: Lab, operator: Operator, datatable: list[list[str]]) -> Attempts:
    assert lab.pve is not None
    attempts = Attempts()
    operator.agrees_to = names(lab)
    for trouble, reason in datatable[1:]:
        cts, kept = list(lab.pve.cts), {ct.vmid: copy.deepcopy(ct.config) for ct in lab.pve.cts}
        _WRONG[trouble](lab)
        was = len(lab.pve.writes()), lab.names.entries()
        operator.tries("decommission")
        unchanged = (len(lab.pve.writes()), lab.names.entries()) == was
        attempts.rows.append((trouble, reason, str(operator.error or "nothing was refused"), unchanged))
        lab.pve.cts[:] = cts
        for ct in cts:
            ct.config, ct.ha_state = kept[ct.vmid], None
    return attempts


# -- what is seen ---------------------------------------------------------------------------------------
@then("each time it was refused for that reason, and nothing was changed")
def _each_time(attempts: Attempts) -> None:
    assert len(attempts.rows) == len(_WRONG)
    for trouble, reason, said, unchanged in attempts.rows:
        assert reason in said, f"{trouble}: {said}"
        assert unchanged, f"{trouble}: something was changed"


@then("nothing speaks against it")
def _nothing_against(operator: Operator) -> None:
    assert operator.error is None, operator.error
    assert operator.result is not None
    assert operator.result.plan.sentences
    assert not operator.result.plan.refusals


@then("all old servers run")
def _all_run(lab: Lab, was_here: dict[str, Any]) -> None:
    assert all(lab.machines[vmid].running for vmid in old_ones(lab))
    assert picture(lab) == was_here


@then("all old servers are stopped, and none of them is deleted")
def _all_stopped(lab: Lab) -> None:
    assert lab.pve is not None
    assert [lab.pve.ct(vmid).status for vmid in old_ones(lab)] == ["stopped"] * 4
    assert not any(lab.machines[vmid].running for vmid in old_ones(lab))


@then("none of the old servers is deleted")
def _none_deleted(lab: Lab) -> None:
    assert lab.pve is not None
    assert {ct.vmid for ct in lab.pve.cts} >= set(old_ones(lab))


@then("that old server runs")
def _that_one_runs(lab: Lab, needed: int) -> None:
    assert lab.machines[needed].running


@then("the operator is told until when to wait")
def _told_until(operator: Operator) -> None:
    assert operator.error is None, operator.error
    assert operator.result is not None
    assert operator.result.outcome is not None
    assert re.search(r"until 20\d\d-\d\d-\d\dT[\d:]+Z", " ".join(operator.result.outcome.sentences))


@then("Qdrant answers as before without them")
def _answers_without(lab: Lab) -> None:
    assert records(lab, lab.site.qdrant.public_url)["digits"]["records"] > 1000


@then("they can be started again as they were")
def _started_again(lab: Lab, operator: Operator, was_here: dict[str, Any]) -> None:
    operator.does("decommission", undo=True)
    assert picture(lab) == was_here


@pytest.fixture
def site_after(given_back: GivenBack) -> dict[str, Any]:
    """The site after the old servers were given back."""
    return given_back.after


@pytest.fixture
def written_down(given_back: GivenBack) -> dict[str, Any]:
    """The record of everything that was removed."""
    return given_back.undo


@then("one protected backup of each old server is kept")
def _backups_kept(lab: Lab, given_back: GivenBack) -> None:
    was, now = given_back.before["backups"], given_back.after["backups"]
    new = [entry for name, entry in now.items() if name not in was]
    assert sorted(entry["vmid"] for entry in new) == old_ones(lab)
    assert all(entry["protected"] for entry in new)
    assert set(was) <= set(now), "an older backup was pruned"


@then("each was restored on trial before its server was deleted")
def _restored_first(lab: Lab) -> None:
    with closing(lab.run()) as run:
        acts = [e.act for e in run.journal.entries() if e.kind == "done"]
    wanted = ["vzdump.test-restore", "vzdump.scratch-removed", "decommission.delete"] * 4
    assert [act for act in acts if act in set(wanted)] == wanted


@then("each old server was backed up once and deleted once")
def _once(lab: Lab, was_here: dict[str, Any]) -> None:
    assert lab.pve is not None
    now = picture(lab)
    assert set(was_here["guests"]) - set(now["guests"]) == set(old_ones(lab))
    new = [entry["vmid"] for name, entry in now["backups"].items() if name not in was_here["backups"]]
    assert sorted(new) == old_ones(lab)
    ids = "|".join(map(str, old_ones(lab)))
    deletions = [path for method, path in lab.pve.writes() if method == "DELETE" and re.fullmatch(rf".*/lxc/(?:{ids})", path)]
    assert len(deletions) == len(old_ones(lab)), deletions


@then("every rule and name that went can be put back in its place")
def _can_be_put_back(lab: Lab, operator: Operator, was_here: dict[str, Any]) -> None:
    operator.does("decommission", undo=True)
    now = picture(lab)
    kept = {path: rules for path, rules in was_here["firewall"]["rules"].items() if not own(lab, path)}
    assert now["firewall"]["rules"] == kept
    assert now["names"] == was_here["names"]


@then("exactly the approved servers are gone")
def _exactly_these(lab: Lab, given_back: GivenBack) -> None:
    was, now = given_back.before, given_back.after
    assert set(was["guests"]) - set(now["guests"]) == set(old_ones(lab))
    assert set(now["guests"]) <= set(was["guests"])


@then("every other server, backup job and access rule is as it was, except for what was announced")
def _everything_else(lab: Lab, given_back: GivenBack) -> None:
    was, now, gone = given_back.before, given_back.after, set(old_ones(lab))
    for part in ("guests", "running"):
        assert {v: x for v, x in was[part].items() if v not in gone} == now[part]
    paths = {f"/vms/{vmid}" for vmid in gone}
    assert [row for row in was["acl"] if row["path"] not in paths] == [r for r in now["acl"] if r["path"] not in paths]
    left = ",".join(v for v in was["jobs"]["nightly"]["vmid"].split(",") if int(v) not in gone)
    assert now["jobs"] == {**was["jobs"], "nightly": {**was["jobs"]["nightly"], "vmid": left}}
    pools = {name: [v for v in ids if v not in gone] for name, ids in was["pools"].items()}
    assert pools == {name: now["pools"].get(name, []) for name in pools}
