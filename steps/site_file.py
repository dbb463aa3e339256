"""Steps about ``site.yaml``: finding a site out, and whether the file still says what the servers say."""

from __future__ import annotations

from contextlib import closing

import pytest
from pytest_bdd import given, parsers, then, when

from cutover.checks import registry
from cutover.discovery.facts import Found
from cutover.site.schema import Site
from lab.lab import Lab
from lab.newcomer import Newcomer
from lab.operator import Operator
from lab.state_snapshot import Picture


@pytest.fixture
def newcomer(lab: Lab) -> Newcomer:
    """Who has keys and a clone, and knows three addresses."""
    return Newcomer(lab)


@given("a site that nobody has written down", target_fixture="written_down")
def _written_down(lab: Lab, before: Picture) -> Site:
    del before
    return lab.site


@given("the operator answers the questions about it", target_fixture="found")
@when("the operator answers the questions about it", target_fixture="found")
def _answers(newcomer: Newcomer) -> Found:
    return newcomer.finds_out()


@then("the site file says what the lab's own says, and who told it")
def _says_the_same(lab: Lab, written_down: Site, found: Found, newcomer: Newcomer) -> None:
    #: What is the operator's choice, or how one proves who one is.
    free = {"name": True, "limits": True, "nginx": {"server_file", "gate_folder", "gate_address"}, "dns": True}
    ways = {"proxmox": {"ca_file", "fingerprint"}, "portainer": {"ca_file", "fingerprint"}, "qdrant": {"ca_file"}}
    left_out = {**free, **ways}
    assert lab.site.model_dump(exclude=left_out) == written_down.model_dump(exclude=left_out)  # type: ignore[arg-type]
    assert {zone for row in lab.site.dns for zone in row.zones} == {zone for row in written_down.dns for zone in row.zones}  # type: ignore[union-attr]
    assert found.gaps == []
    text = lab.site_file.read_text(encoding="utf-8")
    assert all(f"# {fact.comment}\n" in text for fact in found.facts.values())
    assert newcomer.typed == ["proxmox", "nginx"]


@then("every line of the first check is evaluated")
def _every_line(operator: Operator) -> None:
    with closing(operator.run(execute=False)) as run:
        found = registry.ask_all(run, moment=registry.Moment.BEFORE)
    assert [f"{one.criterion} {finding.sentence}" for one, finding in found if finding.ok is not True] == []


@given(parsers.parse("after that {trouble}"))
def _after_that(lab: Lab, trouble: str) -> None:
    assert trouble == "the new server's machine has shrunk"
    assert lab.pve is not None
    vm = lab.pve.vm(lab.site.guests.new.vmid)
    assert vm is not None
    vm.config["cores"] = 3
