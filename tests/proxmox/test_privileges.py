"""The rights table is neither too small nor too large, and its commands are ones that Proxmox takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.checks.host import key
from cutover.core.errors import CutoverError, Refused
from cutover.phases import backup, resize
from cutover.proxmox import privileges
from cutover.site.load import load
from lab.proxmox_host import SITE, Host, host
from tests.support.phases import done

PLAN = load(SITE)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        # Only the token under test: what the other steps' rules would add is taken away.
        made.pve.acl_rows.clear()
        yield made


def give(lab: Host, step: privileges.Step, without: tuple[str, str] | None = None) -> str:
    """A token with exactly the rights of a step, or with one fewer: (path, privilege)."""
    for command in privileges.commands(lab.site, step):
        lab.pve.pveum(command)
    if without is not None:
        path, privilege = without
        for row in lab.pve.acl_rows:
            if row["path"] == path:
                lab.pve.roles[row["roleid"]] = lab.pve.roles[row["roleid"]] - {privilege}
    return f"cutover@pve!{step}"


def own(step: privileges.Step) -> list[tuple[str, str]]:
    """What a step needs beyond looking."""
    return [
        (need.path, privilege)
        for need in privileges.needs(PLAN, step)
        for privilege in sorted(need.privileges - privileges.AUDIT)
        # What stands on a path above is repeated below; it is tried where it belongs.
        if not any(
            privilege in other.privileges and privileges._above(other.path, need.path) for other in privileges.needs(PLAN, step)
        )
    ]


def test_the_resize_works_with_exactly_its_rights(lab: Host) -> None:
    token = give(lab, "resize")
    assert done(resize.PHASE, lab.run(execute=True, token=token)).changed


@pytest.mark.parametrize("without", own("resize"), ids=lambda one: f"{one[1]}{one[0].replace('/', '-')}")
def test_with_one_fewer_the_resize_is_refused_before_it_begins_and_would_have_failed(
    lab: Host, without: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = give(lab, "resize", without)
    with pytest.raises(Refused, match=f"lacks {without[1]} on {without[0]}"):
        done(resize.PHASE, lab.run(execute=True, token=token))
    assert lab.pve.writes() == []
    # The table is no larger than it has to be: without the check the step fails.
    monkeypatch.setattr(privileges, "missing", lambda run, step: [])
    with pytest.raises(CutoverError):
        done(resize.PHASE, lab.run(execute=True, token=token))


@pytest.mark.parametrize("step", privileges.STEPS)
def test_the_commands_of_a_step_give_what_it_needs_and_nothing_beyond_the_plan(lab: Host, step: privileges.Step) -> None:
    token = give(lab, step)
    run = lab.run(token=token)
    assert privileges.missing(run, step) == []
    finding = key(run)
    assert finding.ok is True, finding.sentence
    assert step in finding.facts["can"]


@pytest.mark.parametrize("privilege", sorted(privileges.AUDIT))
def test_a_key_that_cannot_look_everywhere_is_named(lab: Host, privilege: str) -> None:
    token = give(lab, "check", ("/", privilege))
    finding = key(lab.run(token=token))
    assert finding.ok is False
    assert privilege in finding.sentence
    assert "pveum" in finding.hint


@pytest.mark.parametrize("role", ["Administrator", "Handy"])
def test_a_key_that_may_do_more_is_named(lab: Host, role: str) -> None:
    lab.pve.roles["Handy"] = set(privileges.AUDIT) | {"VM.Console", "Permissions.Modify"}
    lab.pve.pveum(f"pveum acl modify / --users cutover@pve --tokens cutover@pve!check --roles {role}")
    lab.pve.add_token("cutover@pve!check", "44444444-4444-4444-8444-444444444444")
    finding = key(lab.run(token="cutover@pve!check"))
    assert finding.ok is False
    assert "Permissions.Modify" in finding.sentence


def test_rights_that_belong_to_another_step_are_not_called_too_much(lab: Host) -> None:
    for step in privileges.STEPS:
        give(lab, step)
    assert key(lab.run(token="cutover@pve!decommission")).ok is True


def test_deleting_a_guest_takes_the_rights_on_its_id_but_not_those_of_the_trial(lab: Host) -> None:
    token = give(lab, "backup")
    run = lab.run(execute=True, token=token)
    assert privileges.missing(run, "backup") == []
    lab.pve.acl_rows = [row for row in lab.pve.acl_rows if row["path"] != f"/vms/{lab.site.proxmox.scratch_vmid}"]
    assert privileges.missing(lab.run(token=token), "backup") == []


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("data"), qdrant=True) as made:
        run = made.run(execute=True, state="filling")
        with run.guard.act("fill", "Put a record in"):
            run.old.ask("PUT", "/collections/one", {"vectors": {"size": 2, "distance": "Dot"}})
        run.close()
        yield made


@pytest.mark.parametrize(
    "without", [None, *own("backup")], ids=lambda one: "all" if one is None else f"{one[1]}{one[0].replace('/', '-')}"
)
def test_the_backup_works_with_exactly_its_rights_and_fails_with_one_fewer(
    lab: Host, with_data: Host, without: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.site = lab.site.model_copy(update={"qdrant": with_data.site.qdrant})
    lab.keys = with_data.keys
    token = give(lab, "backup", without)
    if without is None:
        assert done(backup.PHASE, lab.run(execute=True, token=token)).changed
        return
    with pytest.raises(Refused, match=f"lacks {without[1]} on {without[0]}"):
        done(backup.PHASE, lab.run(execute=True, token=token))
    monkeypatch.setattr(privileges, "missing", lambda run, step: [])
    with pytest.raises(CutoverError):
        done(backup.PHASE, lab.run(execute=True, token=token))


def test_the_lab_s_pveum_refuses_what_proxmox_would() -> Any:
    from lab.machines import Machines
    from lab.proxmox import LabPve

    pve = LabPve(Path("unused"), Machines())
    for wrong in ("pveum role add X --privs 'VM.Fly'", "pveum acl modify / --users a@pve --roles Nonesuch", "rm -rf x"):
        with pytest.raises(ValueError, match=r"."):
            pve.pveum(wrong)


@pytest.mark.parametrize(
    ("path", "role", "said"),
    [
        ("/vms", "Deleter", "VM.Allocate on /vms"),
        ("/", "Deleter", "VM.Allocate on /"),
        ("/vms/110", "Deleter", "VM.Allocate on /vms/110"),
        ("/pool/others", "Deleter", "VM.Allocate on /pool/others"),
        ("/storage/local", "Stores", "Datastore.Allocate on /storage/local"),
        ("/vms/200", "Runs", "VM.PowerMgmt on /vms/200"),
        ("/access", "Grants", "Permissions.Modify on /access"),
        ("/nodes/pve", "Shell", "Sys.Console on /nodes/pve"),
    ],
)
def test_everything_that_a_key_can_do_beyond_the_plan_is_named_with_its_place(lab: Host, path: str, role: str, said: str) -> None:
    """It was called good while it could delete every guest."""
    token = give(lab, "check")
    lab.pve.roles |= {
        "Deleter": {"VM.Audit", "VM.Allocate"}, "Stores": {"Datastore.Audit", "Datastore.Allocate"}, "Runs": {"VM.PowerMgmt"},
        "Grants": {"Permissions.Modify"}, "Shell": {"Sys.Console", "Sys.Audit"},
    }  # fmt: skip
    lab.pve.pools["others"] = {110, 200}
    lab.pve.pveum(f"pveum acl modify {path} --users cutover@pve --tokens '{token}' --roles {role}")
    finding = key(lab.run(token=token))
    assert finding.ok is False
    assert said in finding.sentence + finding.hint or role == "Deleter"
    if privileges.lacking(lab.site, "check", privileges.held_by(lab.run(token=token))):
        return  # a rule on / replaces the audit's, and that is said first
    assert said in finding.sentence
    for command in re.findall(r"pveum acl delete [^;]+", finding.hint):
        lab.pve.pveum(command)
    assert key(lab.run(token=token)).ok is True, "the hint leads to the end"


@pytest.mark.parametrize("step", privileges.STEPS)
def test_the_commands_can_be_pasted_again_and_mend(lab: Host, step: privileges.Step) -> None:
    token = give(lab, step)
    before = (dict(lab.pve.roles), sorted(map(str, lab.pve.acl_rows)))
    give(lab, step)
    assert (dict(lab.pve.roles), sorted(map(str, lab.pve.acl_rows))) == before
    # A role that became too small, one that became too large, and those of an earlier version or an earlier site.yaml.
    own_roles = sorted(name for name in lab.pve.roles if name.startswith(f"Cutover{step.capitalize()}"))
    lab.pve.roles[own_roles[0]] = {"VM.Audit"}
    lab.pve.roles[own_roles[-1]] = lab.pve.roles[own_roles[-1]] | {"Permissions.Modify"}
    for number, path in enumerate(("/vms", "/vms/777")):
        old = f"Cutover{step.capitalize()}{number or '.vms.777'}"
        lab.pve.roles[old] = {"VM.Audit", "VM.Allocate", "Permissions.Modify"}
        lab.pve.pveum(f"pveum acl modify {path} --users cutover@pve --tokens '{token}' --roles {old}")
    give(lab, step)
    run = lab.run(token=token)
    assert privileges.missing(run, step) == []
    assert key(run).ok is True, key(run).sentence


def test_the_names_of_roles_do_not_shift_when_the_plan_changes(lab: Host) -> None:
    fewer = lab.site.model_copy(update={"guests": lab.site.guests.model_copy(update={"legacy": lab.site.guests.legacy[:1]})})
    names = {need.path: privileges.role_of("decommission", need.path) for need in privileges.needs(lab.site, "decommission")}
    for need in privileges.needs(fewer, "decommission"):
        assert privileges.role_of("decommission", need.path) == names[need.path]


def test_the_rules_of_a_vnet_need_a_right_of_their_own_which_is_missed_before_anything_changes(lab: Host) -> None:
    """Proxmox said so only after two guests had been deleted."""
    token = give(lab, "decommission")
    lab.pve.add_vnet("vn1")
    lab.pve.add_vnet("vn2", applied=False)
    rule = {"type": "forward", "action": "ACCEPT", "source": "10.0.0.0/8", "enable": 1}
    lab.pve.firewall_config("vnet", vmid="vn1")["rules"].append(rule)
    assert privileges.missing(lab.run(token=token), "decommission") == []
    rule["source"] = lab.site.guests.old.address
    lacks = privileges.missing(lab.run(token=token), "decommission")
    assert lacks == ["SDN.Allocate on /sdn/zones/z1/vn1 (to change the firewall rules of VNet vn1)"]
    for command in privileges.commands(lab.site, "decommission", more=privileges.on_site(lab.run(token=token), "decommission")):
        lab.pve.pveum(command)
    run = lab.run(token=token)
    assert privileges.missing(run, "decommission") == []
    assert key(run).ok is True, key(run).sentence


@pytest.mark.parametrize(
    ("step", "change", "lacks"),
    [
        ("resize", lambda lab: lab.pve.vm(1001).config.update(scsi0="local:1001/vm-1001-disk-0.raw,size=100G"), "/storage/local"),
        ("backup", lambda lab: lab.pve.ct(952).config.pop("unprivileged", None), "Sys.Modify on /"),
        ("backup", lambda lab: lab.pve.add_vnet("vmbr0", "z9"), "SDN.Use on /sdn/zones/z9/vmbr0"),
        ("restore", lambda lab: lab.pve.add_vnet("vmbr0", "z9"), "SDN.Use on /sdn/zones/z9/vmbr0"),
    ],
)
def test_what_only_a_task_would_say_is_missed_before(lab: Host, step: privileges.Step, change: Any, lacks: str) -> None:
    lab.pve.ct(952).config["unprivileged"] = 1
    token = give(lab, step)
    assert privileges.missing(lab.run(token=token), step) == []
    change(lab)
    assert lacks in "; ".join(privileges.missing(lab.run(token=token), step))
