"""Deploying: refused before it hurts, proved, and taken back; against a lab Portainer of the old and the new kind."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from cutover.checks.portainer import follows
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Refused, Unreachable, WritesRefused
from cutover.core.ui import ConfirmedInAdvance, SilentUi
from cutover.core.wait import Not, wait_until
from cutover.gate.controller import Gate
from cutover.phases import deploy, deploy_back, deploy_submit, deploy_undo
from cutover.portainer import compose_file, deployment, obstacles
from cutover.portainer.git import References
from cutover.portainer.stack import Stack
from cutover.site import schema as sites
from cutover.state import deployment as state_of
from lab.processes import Process, listening, running
from tests.support.night import every_nth_by_day
from tests.support.phases import done, planned, undone
from tests.support.vm1001 import NEWER, ROOT, VIEWER, Vm1001

TOKEN = {"GIT_TOKEN": "git-token-of-the-lab"}
PINNED = "v1.18.3@sha256:0bd98fa7977f1e75694779359ca4e212822e5a71334e28421182f72f209d5286"
#: Changes that pass every check before a merge and still make a Qdrant that does not work.
ILL = (("/readyz", "/reedyz"), ("start_period: 5m", "start_period: 1s"))
CRASHING = (('QDRANT__TELEMETRY_DISABLED: "true"', "QDRANT__SERVICE__MAX_REQUEST_SIZE_MB: many"),)


@pytest.fixture(scope="module")
def _calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    made = Vm1001(tmp_path_factory.mktemp("calm"), version="2.39.1")
    with made.up():
        yield made


@pytest.fixture
def calm(_calm: Vm1001) -> Vm1001:
    """A Portainer that answers when it is done, and leaves the running service alone when a deployment fails."""
    return cleared(_calm)


@pytest.fixture(scope="module", params=every_nth_by_day(["2.23.0", "2.45.1"], 2))
def _vm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    made = Vm1001(tmp_path_factory.mktemp("vm"), version=request.param)
    with made.up():
        yield made


def cleared(vm: Vm1001) -> Vm1001:
    vm.close_runs()
    vm.knobs()
    for stack in vm.ask("GET", "/api/stacks").json():
        if stack["Name"] != "monitoring":
            assert vm.ask("DELETE", f"/api/stacks/{stack['Id']}?endpointId=1").status_code == 204
    for volume in ("qdrant_storage", "qdrant_snapshots"):
        vm.ask("DELETE", f"/api/endpoints/1/docker/volumes/{volume}")
    vm.merge()
    (vm.folder / "state/journal.jsonl").unlink(missing_ok=True)
    return vm


@pytest.fixture
def vm(_vm: Vm1001) -> Vm1001:
    return cleared(_vm)


@pytest.fixture(scope="module")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    made = Vm1001(tmp_path_factory.mktemp("one"))
    with made.up():
        yield made


@pytest.fixture
def one(_one: Vm1001) -> Vm1001:
    """A Portainer of the kind that takes a service down when a deployment fails."""
    return cleared(_one)


def deployed(vm: Vm1001, **rest: Any) -> Any:
    run = vm.run(**rest)
    try:
        return done(deploy.PHASE, run)
    finally:
        run.close()


def fails(vm: Vm1001, error: type[CutoverError] = Failed, **rest: Any) -> str:
    with pytest.raises(error) as told:
        deployed(vm, **rest)
    assert type(told.value) is error
    return str(told.value)


def container(vm: Vm1001) -> dict[str, Any]:
    found: dict[str, Any] = vm.ask("GET", "/api/endpoints/1/docker/containers/qdrant-qdrant-1/json").json()
    return found


def serves(vm: Vm1001) -> bool:
    try:
        return requests.get(f"http://{vm.address}:6333/readyz", timeout=3).status_code == 200
    except requests.ConnectionError:
        return False


def stack(vm: Vm1001) -> dict[str, Any]:
    return next((s for s in vm.ask("GET", "/api/stacks").json() if s["Name"] == "qdrant"), {})


# -- done -------------------------------------------------------------------------------------------


def test_a_first_deployment_is_proved_and_repeating_it_changes_nothing(vm: Vm1001) -> None:
    commit = vm.repository.head()
    outcome = deployed(vm)
    assert outcome.changed
    assert outcome.facts["commit"] == commit
    assert serves(vm)
    first = container(vm)["Id"]
    again = deployed(vm)
    assert not again.changed
    assert container(vm)["Id"] == first
    run = vm.run(execute=False)
    assert planned(deploy.PHASE, run) == []


def test_the_journal_has_every_change_and_no_key(vm: Vm1001) -> None:
    deployed(vm)
    text = (vm.folder / "state/journal.jsonl").read_text()
    assert [k for k in ("deploy.pull", "deploy.stack", "portainer.before") if k not in text] in ([], ["deploy.pull"])
    assert "-key-of-the-lab" not in text


def test_without_execute_the_plan_is_shown_and_nothing_happens(vm: Vm1001) -> None:
    run = vm.run(execute=False)
    texts = " ".join(sentence.text for sentence in planned(deploy.PHASE, run))
    assert f"Make the stack qdrant in Portainer {vm.config['version']} from refs/heads/main" in texts
    with pytest.raises(WritesRefused):
        done(deploy.PHASE, run)
    assert stack(vm) == {}
    assert not (vm.folder / "state/journal.jsonl").exists()


def test_a_merge_is_deployed_with_all_variables(vm: Vm1001) -> None:
    deployed(vm)
    commit = vm.merge(("max-size: 10m", "max-size: 20m"))
    run = vm.run(execute=False)
    assert "Redeploy the stack qdrant" in planned(deploy.PHASE, run)[0].text
    assert deployed(vm).facts["commit"] == commit
    assert {pair["name"] for pair in stack(vm)["Env"]} == {"QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY"}
    assert serves(vm)


def test_another_version_needs_site_yaml_to_say_so(one: Vm1001) -> None:
    deployed(one)
    one.merge((PINNED, NEWER.split(":", 1)[1]))
    assert "site.yaml says" in fails(one, Refused)
    old = one.site
    try:
        text = (ROOT / "site.yaml").read_text()
        changed = old.model_dump()
        changed["qdrant"] |= {"image": NEWER, "version": "1.18.4"}
        assert text
        one.site = sites.Site.model_validate(changed)
        deployed(one)
        assert requests.get(f"http://{one.address}:6333/", timeout=3).json()["version"] == "1.18.4"
    finally:
        one.site = old


def test_polling_brings_a_merge_by_itself(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path)
    vm.site = sites.Site.model_validate(
        {**vm.site.model_dump(), "portainer": {**vm.site.portainer.model_dump(), "auto_update": {"mode": "polling", "interval": "1s"}}}
    )  # fmt: skip
    with vm.up():
        vm.merge()
        deployed(vm)
        commit = vm.merge(("max-size: 10m", "max-size: 20m"))

        def there() -> bool | Not:
            return stack(vm)["GitConfig"]["ConfigHash"] == commit or Not("it is at the old commit")

        wait_until(there, deadline=15, what="the merge")
        run = vm.run()
        outcome = done(deploy.PHASE, run)
        run.close()
        assert outcome.changed is False
        assert ("by itself" in outcome.sentences[0]) or ("runs as wanted" in outcome.sentences[0])


def test_on_2_44_the_interval_is_set_where_it_counts(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path, version="2.45.1")
    vm.site = sites.Site.model_validate(
        {**vm.site.model_dump(), "portainer": {**vm.site.portainer.model_dump(), "auto_update": {"mode": "polling", "interval": "1s"}}}
    )  # fmt: skip
    with vm.up():
        vm.merge()
        deployed(vm)
        assert vm.ask("GET", "/api/gitops/sources/1").json()["interval"] == "1s"
        commit = vm.merge(("max-size: 10m", "max-size: 20m"))

        def there() -> bool | Not:
            return stack(vm)["GitConfig"]["ConfigHash"] == commit or Not("it is at the old commit")

        wait_until(there, deadline=15, what="the merge")
        run = vm.run()
        undone(deploy.PHASE, run)
        run.close()
        vm.ask("PUT", "/api/gitops/sources/1", {"interval": "9h"})  # the source stays, and is taken again
        deployed(vm)
        assert vm.ask("GET", "/api/gitops/sources/1").json()["interval"] == "1s"


def test_on_2_44_a_source_that_other_stacks_share_is_left_as_it_is(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path, version="2.45.1")
    with vm.up():
        vm.merge()
        vm.repository.commit(
            {"other.yml": "services:\n  web:\n    image: prom/node-exporter:v1.8.2\n"}, "Another", branch="other"
        )
        body = {
            "Name": "other", "RepositoryURL": vm.site.portainer.repository, "ComposeFile": "other.yml",
            "RepositoryReferenceName": "refs/heads/other", "Env": [],
        }  # fmt: skip
        assert vm.ask("POST", "/api/stacks/create/standalone/repository?endpointId=1", body).ok
        vm.ask("PUT", "/api/gitops/sources/1", {"interval": "9h"})
        deployed(vm)
        run = vm.run()
        said = r"every 9h of the stack qdrant, and site.yaml says \w+.* which 2 stacks of this repository share"
        assert re.search(said, follows(run).sentence)
        vm.merge(("max-size: 10m", "max-size: 20m"))
        with pytest.raises(Refused, match=said):
            planned(deploy.PHASE, run)
        run.close()
        assert vm.ask("GET", "/api/gitops/sources/1").json()["interval"] == "9h"


@pytest.mark.parametrize(
    ("mode", "set_to", "said"), [("none", "1h", "looks for new commits every 1h"), ("polling", "", "never looks")]
)
def test_on_2_44_a_source_that_somebody_set_otherwise_is_named_and_set_back(
    tmp_path: Path, mode: str, set_to: str, said: str
) -> None:
    """The stack itself shows what site.yaml says, and Portainer does not go by it."""
    vm = Vm1001(tmp_path, version="2.45.1")
    polling = {**vm.site.portainer.model_dump(), "auto_update": {"mode": "polling", "interval": "1h"}}
    vm.site = sites.Site.model_validate({**vm.site.model_dump(), "portainer": polling})
    with vm.up():
        vm.merge()
        deployed(vm)
        settings = {**polling, "auto_update": {"mode": mode, "interval": "1h"}}
        vm.site = sites.Site.model_validate({**vm.site.model_dump(), "portainer": settings})
        deployed(vm)
        wanted = "1h" if mode == "polling" else None
        assert vm.ask("GET", "/api/gitops/sources/1").json().get("interval") == wanted
        assert vm.ask("PUT", "/api/gitops/sources/1", {"interval": set_to}).status_code == 200
        run = vm.run()
        finding = follows(run)
        assert (finding.ok, said in finding.sentence, finding.hint) == (False, True, "Run `cutover deploy`.")
        assert len(planned(deploy.PHASE, run)) == 1
        run.close()
        assert "the container was not touched" in deployed(vm).sentences[0]
        assert vm.ask("GET", "/api/gitops/sources/1").json().get("interval") == wanted
        if mode == "polling":  # the same length, as Go writes it
            vm.ask("PUT", "/api/gitops/sources/1", {"interval": "1h0m0s"})
        assert not deployed(vm).changed


def test_a_webhook_keeps_its_address(one: Vm1001) -> None:
    old = one.site
    try:
        one.site = sites.Site.model_validate(
            {**old.model_dump(), "portainer": {**old.portainer.model_dump(), "auto_update": {"mode": "webhook", "interval": "5m"}}}
        )  # fmt: skip
        deployed(one)
        hook = stack(one)["AutoUpdate"]["Webhook"]
        one.merge(("max-size: 10m", "max-size: 20m"))
        deployed(one)
        assert stack(one)["AutoUpdate"] == {
            "Interval": "", "Webhook": hook, "JobID": "", "ForceUpdate": False, "ForcePullImage": False
        }  # fmt: skip
        assert hook not in (one.folder / "state/journal.jsonl").read_text()
    finally:
        one.site = old


def test_what_the_stack_follows_is_set_without_touching_the_container(vm: Vm1001) -> None:
    deployed(vm)
    running, old = container(vm), vm.site
    none = {**old.portainer.model_dump(), "auto_update": {"mode": "none", "interval": "5m"}}
    try:
        vm.site = sites.Site.model_validate({**old.model_dump(), "portainer": none})
        run = vm.run()
        assert [sentence.text for sentence in planned(deploy.PHASE, run)] == [
            "Let no commit deploy itself: only `cutover deploy` does, which looks first."
        ]
        run.close()
        assert "the container was not touched" in deployed(vm).sentences[0]
        assert not (stack(vm)["AutoUpdate"] or {}).get("Interval")
        now = container(vm)
        assert (now["Id"], now["State"]["StartedAt"]) == (running["Id"], running["State"]["StartedAt"])
        assert not deployed(vm).changed
    finally:
        vm.site = old


def test_what_somebody_set_in_portainer_besides_stays_and_restarts_nothing(one: Vm1001) -> None:
    deployed(one)
    first, was = container(one)["Id"], stack(one)
    body = {
        "Env": [*was["Env"], {"name": "LOG_LEVEL", "value": "DEBUG"}], "RepositoryReferenceName": "refs/heads/main",
        "AutoUpdate": was["AutoUpdate"],
    }  # fmt: skip
    assert one.ask("POST", f"/api/stacks/{was['Id']}/git?endpointId=1", body).status_code == 200
    assert not deployed(one).changed
    assert container(one)["Id"] == first
    one.merge(("max-size: 10m", "max-size: 20m"))
    deployed(one)
    assert {pair["name"] for pair in stack(one)["Env"]} == {"QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY", "LOG_LEVEL"}


# -- refused before it hurts ------------------------------------------------------------------------


REFUSED = {
    ("services:", "services: ["): "is not valid YAML",
    ("restart: unless-stopped", "restart: sometimes"): "reboot",
    ("stop_grace_period: 60s", "stop_grace_period: 60s\n    nonsense: 1"): "Compose does not accept the file",
    (PINNED, "v1.18.3@sha256:" + "d" * 60): "no digest that can be one",
    (PINNED, "v1.18.3@sha256:" + "d" * 64): "cannot be pulled: manifest for .* not found",
    ("${QDRANT_API_KEY:?", "${QDRANT_OTHER_KEY:?"): "QDRANT_OTHER_KEY is not set",
    ("mem_limit: 3072m", "mem_limit: 10230m"): "Qdrant may take 10230 MB, and the VM has",
    ("cpus: 2", "cpus: 8"): "asks for 8 cores, the VM has 6",
    (":6333:6333", ":6334:6333"): "site.yaml expects",
}


def test_a_merge_that_would_fail_never_reaches_portainer(vm: Vm1001) -> None:
    deployed(vm)
    before, was = stack(vm), container(vm)["Id"]
    for change, said in REFUSED.items():
        vm.merge(change)
        assert re.search(said, fails(vm, Refused)), change
        assert stack(vm) == before
        assert container(vm)["Id"] == was
    assert serves(vm)


def test_without_the_checks_the_same_merge_is_an_outage(one: Vm1001) -> None:
    """The counter-proof: what the refusals keep away does take the service down."""
    deployed(one)
    one.merge((PINNED, "v1.18.3@sha256:" + "d" * 64))
    number = stack(one)["Id"]
    body = {"Env": stack(one)["Env"], "RepositoryReferenceName": "refs/heads/main"}
    assert one.ask("PUT", f"/api/stacks/{number}/git/redeploy?endpointId=1", body).status_code == 500
    assert not serves(one)


def another_stack(one: Vm1001, text: str) -> None:
    """Somebody else's stack, made in Portainer from a file of its own."""
    one.repository.commit({"other.yml": text}, "Another stack", branch="other")
    env = [{"name": n, "value": "x"} for n in ("QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY")]
    body = {
        "Name": "other", "RepositoryURL": one.site.portainer.repository, "RepositoryReferenceName": "refs/heads/other",
        "ComposeFile": "other.yml", "Env": env,
    }  # fmt: skip
    assert one.ask("POST", "/api/stacks/create/standalone/repository?endpointId=1", body).status_code == 200


def test_a_taken_port_is_named_with_its_owner(one: Vm1001) -> None:
    with socket.create_server((one.address, 6333)):
        assert "Something already answers at" in fails(one, Refused)
    text = one.compose().replace("qdrant_storage", "other_storage").replace("qdrant_snapshots", "other_snapshots")
    another_stack(one, text)
    assert "already published by the container other-qdrant-1" in fails(one, Refused)


def test_a_volume_of_another_stack_is_not_taken(one: Vm1001) -> None:
    text = one.compose().replace(":6333:6333", ":7333:6333")
    another_stack(one, text)
    said = fails(one, Refused)
    assert "The volume qdrant_storage belongs to the stack other" in said
    assert "The container other-qdrant-1 uses the volume qdrant_snapshots" in said


def test_a_volume_of_another_name_would_be_an_empty_server(one: Vm1001) -> None:
    deployed(one)
    one.merge(("qdrant_storage", "qdrant_data"))
    with pytest.raises(Refused) as refused:
        deploy.plan(one.run(execute=False))
    assert "puts the volume qdrant_data at /qdrant/storage, where the container has qdrant_storage" in str(refused.value)
    assert "Write `name: qdrant_storage`" in str(refused.value)
    assert serves(one)


def test_a_stack_of_that_name_that_is_not_ours_is_not_taken(one: Vm1001) -> None:
    old = one.site
    try:
        one.site = sites.Site.model_validate(
            {**old.model_dump(), "portainer": {**old.portainer.model_dump(), "stack": "monitoring"}}
        )  # fmt: skip
        said = fails(one, Refused)
        assert "The stack monitoring is not one from Git" in said
        assert "is down" not in said  # that stack is no Qdrant
    finally:
        one.site = old
    deployed(one)
    one.repository.create(one.folder / "git" / "other.git")
    moved = one.site.portainer.repository.replace("site.git", "other.git")
    try:
        settings = {**old.portainer.model_dump(), "repository": moved}
        one.site = sites.Site.model_validate({**old.model_dump(), "portainer": settings})
        from lab.git import Repository

        Repository(one.folder / "git" / "other.git").commit({"stacks/qdrant/docker-compose.yml": one.compose()}, "Copy")
        assert "Portainer cannot change that" in fails(one, Refused)
    finally:
        one.site = old


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"docker_down": True}, "does not reach the Docker engine"),
        ({"unpullable": ["qdrant/qdrant:v1.18.3"]}, "cannot be pulled"),
        ({"registry_down": True}, "no such host"),
    ],
)
def test_a_vm_that_cannot_take_it_is_named(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    vm = Vm1001(tmp_path)
    with vm.up():
        vm.merge()
        vm.knobs(**knobs)
        assert said in fails(vm, Refused)
        assert stack(vm) == {}


def test_a_key_without_rights_is_named(one: Vm1001) -> None:
    assert "is not an administrator" in fails(one, Refused, credentials={"PORTAINER_API_KEY": VIEWER})


def test_a_deployment_under_way_is_left_alone(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path, version="2.45.1")
    with vm.up():
        vm.merge()
        vm.knobs(stuck_deploying=True)
        site = vm.site.model_copy(update={"limits": vm.site.limits.model_copy(update={"deploy_seconds": 1.0})})
        vm.site = site
        assert "the stack is deploying" in fails(vm)
        assert "is deploying the stack qdrant right now" in fails(vm, Refused)


def test_a_stack_that_may_be_in_use_is_not_removed_blindly(one: Vm1001, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another computer, whose journal knows nothing, and Nginx cannot be asked."""
    deployed(one)
    one.close_runs()
    (one.folder / "state/journal.jsonl").unlink()

    def away(_: Any) -> Any:
        raise Unreachable("ssh: no route to host.")

    monkeypatch.setattr(Gate, "state", away)
    with pytest.raises(Refused, match="the stack may be in use"):
        undone(deploy.PHASE, one.run())
    assert serves(one)


def test_a_deployment_that_portainer_began_meanwhile_is_waited_for(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path, version="2.45.1")

    class PollsFirst(SilentUi):
        def say(self, sentence: str) -> None:
            super().say(sentence)
            if sentence.startswith("Redeploy"):
                began = vm.ask("PUT", f"/api/stacks/{stack(vm)['Id']}/git/redeploy?endpointId=1", {"Env": stack(vm)["Env"]})
                assert began.status_code == 200

    with vm.up():
        vm.merge()
        deployed(vm)
        commit = vm.merge(("max-size: 10m", "max-size: 20m"))
        vm.knobs(deploy_seconds=1.0)
        run = vm.run()
        run.ui = PollsFirst()
        outcome = done(deploy.PHASE, run)
        run.close()
        assert "Portainer has begun a deployment by itself. Waiting for what comes of it." in run.ui.sentences
        assert outcome.facts["commit"] == commit
        assert stack(vm)["GitConfig"]["ConfigHash"] == commit


# -- proved or taken back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"), every_nth_by_day([(ILL, "the container is unhealthy"), (CRASHING, "ends again and again")], 2)
)
def test_a_bad_merge_that_no_check_sees_is_taken_back(vm: Vm1001, change: tuple[Any, ...], said: str) -> None:
    deployed(vm)
    good = stack(vm)["GitConfig"]["ConfigHash"]
    vm.merge(*change)
    text = fails(vm, credentials=TOKEN)
    assert said in text
    assert f"The stack went back to {good[:8]}, which was proved" in text
    assert serves(vm)
    now = stack(vm)
    assert now["GitConfig"]["ConfigHash"] == good
    assert now["GitConfig"]["ReferenceName"] == f"refs/tags/rollback-{good[:8]}"
    assert now["AutoUpdate"] is None
    # Reverted and merged, the next deployment follows the branch again.
    commit = vm.repository.revert()
    assert deployed(vm).facts["commit"] == commit
    assert stack(vm)["GitConfig"]["ReferenceName"] == "refs/heads/main"
    assert stack(vm)["AutoUpdate"]["Interval"] == "5m"


def test_an_existing_tag_is_enough_to_go_back(one: Vm1001) -> None:
    deployed(one)
    good = one.repository.head()
    one.repository.point("refs/tags/good", good)
    one.merge(*ILL)
    assert "The stack went back to" in fails(one)
    assert stack(one)["GitConfig"]["ReferenceName"] == "refs/tags/good"
    one.repository._git("update-ref", "-d", "refs/tags/good")


@pytest.mark.slow
def test_without_a_way_back_the_operator_is_told_the_commands(one: Vm1001) -> None:
    deployed(one)
    one.merge(*ILL)
    said = fails(one)
    assert "git push origin rollback-" in said
    # The commit that failed is not what a second try goes back to.
    good = stack(one)["GitConfig"]["ConfigHash"]
    assert good == one.repository.head()
    assert "The stack went back to" in fails(one, credentials=TOKEN)
    assert serves(one)


def test_users_are_not_put_on_a_deployment_that_could_not_be_taken_back(one: Vm1001) -> None:
    deployed(one)
    good = one.repository.head()
    one.merge(("start_period: 5m", "start_period: 4m"))
    run = one.run()
    assert any("None by itself" in sentence.undo for sentence in planned(deploy.PHASE, run))  # nobody is on it: it is only said
    run.journal.note("switch.finished", "The new server serves")
    run.close()
    refusal = fails(one, Refused)
    assert "nothing would lead back to it" in refusal
    assert f"git push origin rollback-{good[:8]}" in refusal
    assert stack(one)["GitConfig"]["ConfigHash"] == good
    assert serves(one)
    one.repository.point("refs/tags/good", good)
    assert deployed(one).changed
    one.repository._git("update-ref", "-d", "refs/tags/good")


def test_a_first_deployment_that_fails_says_what_is_left(vm: Vm1001) -> None:
    vm.merge(*ILL)
    assert "The stack stays as it is for you to look at" in fails(vm)
    vm.repository.revert()
    assert deployed(vm).changed


def test_portainers_own_failure_leaves_the_container_of_a_calm_version(calm: Vm1001) -> None:
    own_failure(calm)


def test_portainers_own_failure_is_taken_back_or_leaves_the_container(vm: Vm1001) -> None:
    own_failure(vm)


def own_failure(vm: Vm1001) -> None:
    """A failure that shows only while Portainer works: the variables are lost between the look and the deployment."""
    deployed(vm)
    ran, good = container(vm), stack(vm)["GitConfig"]["ConfigHash"]
    was = ran["Id"]
    vm.merge(("stop_grace_period: 60s", "stop_grace_period: 61s"))
    run = vm.run(credentials=TOKEN)
    want = state_of.wanted(run)
    broken = replace(want, variables={})
    before = run.portainer.stack("qdrant")
    assert before
    with pytest.raises(Failed) as told:
        deploy_submit.submit(run, broken, replace(before, variables={}), container(vm))
    assert "API_KEY is missing a value" in str(told.value)
    said = deploy_back.roll_back(run, before, good, ran, because="It failed.")
    run.close()
    if vm.config["version"] == "2.23.0":
        assert "went back" in said
        assert container(vm)["Id"] != was
    else:
        assert "was not touched" in said
        assert container(vm)["Id"] == was
    assert serves(vm)


def test_a_200_with_the_old_container_is_not_done(one: Vm1001) -> None:
    deployed(one)
    one.knobs(keeps_old_containers=True)
    one.merge(("max-size: 10m", "max-size: 20m"))
    one.site = one.site.model_copy(update={"limits": one.site.limits.model_copy(update={"deploy_seconds": 1.5})})
    assert "the container is still the one from before" in fails(one, credentials=TOKEN)


def test_a_lost_answer_is_looked_at(one: Vm1001) -> None:
    run = one.run()
    want = state_of.wanted(run)
    deploy_submit.pull(run, want, state_of.look(run, want))
    one.knobs(hang_up=True)
    seen = deploy_submit.submit(run, want, None, None)  # the answer is lost, the stack is there
    run.close()
    assert seen.stack is not None
    assert deployment.shortfalls(want, seen) == []


def test_a_lost_answer_of_something_that_failed_is_unknown(one: Vm1001) -> None:
    run = one.run()
    want = state_of.wanted(run)
    one.knobs(hang_up=True, unpullable=["qdrant/qdrant:v1.18.3"], registry_down=True)
    broken = replace(want, variables={})
    run.site = run.site.model_copy(update={"limits": run.site.limits.model_copy(update={"deploy_seconds": 1.0})})
    with pytest.raises(OutcomeUnknown, match="no such stack"):
        deploy_submit.submit(run, broken, None, None)
    assert run.journal.entries()[-1].kind == "unknown"
    run.close()


def test_a_stack_keeps_the_login_that_portainer_has(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path)
    vm.git.argv.append("--private")
    with vm.up():
        vm.merge()
        deployed(vm, credentials=TOKEN)
        vm.merge(("max-size: 10m", "max-size: 20m"))
        vm.git.argv.remove("--private")
        vm.git.stop()
        vm.git.start()
        deployed(vm)
        assert stack(vm)["GitConfig"]["Authentication"] == {"Username": "token", "Password": ""}


def test_the_plan_says_what_automatic_updates_risk_on_this_version(vm: Vm1001) -> None:
    last = planned(deploy.PHASE, vm.run(execute=False))[-1]
    assert last.text == "Let the stack follow new commits by polling."
    assert ("takes the service down" in last.changes) == (vm.config["version"] == "2.23.0")


# -- removed ----------------------------------------------------------------------------------------


def test_removing_keeps_the_data_until_its_name_is_typed(vm: Vm1001) -> None:
    deployed(vm)
    requests.put(f"http://{vm.address}:6333/collections/kept", timeout=3)
    run = vm.run(confirm=ConfirmedInAdvance(yes=True))
    assert planned(deploy.PHASE, run, undo=True)
    outcome = undone(deploy.PHASE, run)
    assert "Its data stays in qdrant_snapshots and qdrant_storage" in outcome.sentences[0]
    assert not serves(vm)
    assert stack(vm) == {}
    assert not [n for n in run.portainer.networks() if n["Name"].startswith("qdrant")]
    assert undone(deploy.PHASE, run).changed is False
    assert planned(deploy.PHASE, run, undo=True) == []
    with pytest.raises(Refused, match="confirm by typing the name qdrant_"):
        deploy_undo.remove_data(run)
    assert run.portainer.volume("qdrant_storage") is not None
    # Made again, it has its data.
    done(deploy.PHASE, run)
    key = {"api-key": "the-read-key-of-the-lab"}
    told = requests.get(f"http://{vm.address}:6333/collections", headers=key, timeout=3).json()
    assert told["result"]["collections"] == [{"name": "kept"}]
    with pytest.raises(Refused, match="still has a container"):
        deploy_undo.remove_data(run)
    undone(deploy.PHASE, run)
    run.confirm = ConfirmedInAdvance("qdrant_storage", "qdrant_snapshots")
    assert len(planned(deploy.PHASE, run, undo=True)) == 2
    assert "Deleted: qdrant_snapshots, qdrant_storage." in undone(deploy.PHASE, run).sentences
    assert run.portainer.volume("qdrant_storage") is None
    run.close()


def test_a_removal_that_fails_says_so(one: Vm1001) -> None:
    deployed(one)
    one.knobs(down_fails=True)
    run = one.run()
    with pytest.raises(Failed, match="could not remove the stack qdrant: failed to remove a stack"):
        undone(deploy.PHASE, run)
    run.close()
    assert stack(one)


def test_a_network_that_somebody_else_uses_stays_and_is_named(one: Vm1001, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the real one: the stack is deleted, Compose leaves the network, and it would be waited for until the limit."""
    deployed(one)
    monkeypatch.setattr(deploy_undo, "NETWORK_SECONDS", 0.0)
    one.knobs(network_used=True)
    run = one.run()
    assert "the network qdrant_default stays, because" in undone(deploy.PHASE, run).sentences[0]
    assert "There is no such stack" in undone(deploy.PHASE, run).sentences[0]
    run.close()


def test_a_stack_that_somebody_stopped_by_hand_still_has_its_data(one: Vm1001) -> None:
    """Portainer takes a stopped stack's containers away, so nothing mounts the volumes any more."""
    deployed(one)
    assert one.ask("POST", f"/api/stacks/{stack(one)['Id']}/stop?endpointId=1").status_code == 200
    run = one.run()
    outcome = undone(deploy.PHASE, run)
    assert "Its data stays in qdrant_snapshots and qdrant_storage" in outcome.sentences[0]
    run.close()


def test_a_stack_that_somebody_removed_after_the_plan_is_gone_and_one_made_again_is_not_touched(one: Vm1001) -> None:
    deployed(one)

    def remove() -> None:
        assert one.ask("DELETE", f"/api/stacks/{stack(one)['Id']}?endpointId=1").status_code == 204

    run = one.run()
    plan = deploy_undo.plan_undo(run)
    remove()
    assert "The stack qdrant is removed" in deploy_undo.undo(run, plan).sentences[0]
    done(deploy.PHASE, run)
    plan = deploy_undo.plan_undo(run)
    remove()
    done(deploy.PHASE, run)
    with pytest.raises(Failed, match=r"made it again meanwhile\. The new one was not touched"):
        deploy_undo.undo(run, plan)
    run.close()
    assert serves(one)


# -- Qdrant's own answer ----------------------------------------------------------------------------


def test_qdrant_is_asked_for_its_version_and_its_keys(one: Vm1001) -> None:
    run = one.run(execute=False)
    assert "Qdrant does not answer" in state_of.qdrant_answers(run, "1.18.3")
    deployed(one)
    assert state_of.qdrant_answers(run, "1.18.3") == ""
    assert state_of.qdrant_answers(run, "1.19.0") == "Qdrant is version 1.18.3, not 1.19.0"
    wrong = one.run(execute=False, credentials={"QDRANT_READ_ONLY_API_KEY": "another-key"})
    assert state_of.qdrant_answers(wrong, "1.18.3") == "Qdrant answers 401 to its key"


def test_a_qdrant_without_keys_is_found_out(one: Vm1001, tmp_path: Path) -> None:
    environment = {
        "QDRANT__SERVICE__HOST": one.address, "QDRANT__SERVICE__HTTP_PORT": "6333", "LAB_QDRANT_VERSION": "1.18.3",
        "QDRANT__STORAGE__STORAGE_PATH": str(tmp_path),
    }  # fmt: skip
    tiny = [sys.executable, str(ROOT / "tests/support/tiny_qdrant.py")]
    open_to_all = Process(tiny, log=tmp_path / "log", env=environment, ready=listening(one.address, 6333))
    with running(open_to_all):
        assert state_of.qdrant_answers(one.run(execute=False), "1.18.3") == "Qdrant answers without a key"


# -- pure decisions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "found"),
    [
        ({"refs/heads/main": "b"}, None),
        ({"refs/heads/main": "a"}, "refs/heads/main"),
        ({"refs/heads/x": "a", "refs/tags/y": "a"}, "refs/tags/y"),
        ({"refs/heads/x": "a", "refs/heads/follow": "a", "refs/tags/y": "a"}, "refs/heads/follow"),
    ],
)
def test_a_commit_is_found_by_its_references(references: dict[str, str], found: str | None) -> None:
    assert deployment.reference_for(References(references, {"refs/tags/noted": "t"}), "a", preferred="refs/heads/follow") == found


@pytest.mark.parametrize(
    ("proved", "deploying", "health", "at", "back"),
    [
        ([], "c", "healthy", "b", "b"),  # what runs healthily, whoever deployed it
        (["a"], "c", "healthy", "b", "b"),
        (["a"], "c", "unhealthy", "b", "a"),  # what does not run is nothing to go back to
        (["a", "b"], "b", "unhealthy", "b", "a"),  # the commit that fails is not, either
        (["a"], "a", "healthy", "a", None),
        ([], "c", "unhealthy", "b", None),
    ],
)
def test_what_is_gone_back_to(
    one: Vm1001, want: deployment.Wanted, proved: list[str], deploying: str, health: str, at: str, back: str | None
) -> None:
    run = one.run()
    for commit in proved:
        with run.guard.act("deploy.stack", "Deploy") as act:
            act.after = {"commit": commit}
    there = Stack.of({"Id": 1, "Name": "qdrant", "Status": 1, "GitConfig": {"URL": "u", "ConfigHash": at}})
    situation = obstacles.Situation(
        version="2.23.0", role=1, environment_up=True, stack=there,
        container={"Id": "c", "State": {"Status": "running", "Health": {"Status": health}}}, others=[], others_memory=0,
        volumes={}, image_here=True, image_problem=None, port_answers=False, cores=6, memory=1 << 33, compose_says=None,
    )  # fmt: skip
    assert deploy_back.before_it(run, replace(want, commit=deploying), situation) == back
    run.close()


def good_seen(want: deployment.Wanted) -> deployment.Deployed:
    shown = {"Id": 1, "Name": "qdrant", "Status": 1, "GitConfig": {"URL": "u", "ReferenceName": "r", "ConfigHash": want.commit}}
    made = {
        "Id": "c2",
        "Config": {"Image": str(want.file.image)},
        "State": {"Status": "running", "Health": {"Status": "healthy"}},
    }
    return deployment.Deployed(Stack.of(shown), want.file.text, made, [want.file.image.pinned], "")


@pytest.fixture(scope="module")
def want() -> deployment.Wanted:
    return deployment.Wanted(
        "a" * 40, "refs/heads/main", compose_file.read((ROOT / "stacks/qdrant/docker-compose.yml").read_text()), {}
    )


def test_done_means_all_of_it(want: deployment.Wanted) -> None:
    good = good_seen(want)
    assert good.stack and good.container
    assert deployment.shortfalls(want, good) == []
    assert deployment.shortfalls(want, replace(good, stack=None)) == ["Portainer has no such stack"]
    for seen, said in (
        (replace(good, stack=replace(good.stack, status=3)), "the stack is deploying"),
        (replace(good, stack=replace(good.stack, status=4, message="why")), "the stack is in error: why"),
        (replace(good, stack=replace(good.stack, commit="b" * 40)), "the stack is at commit bbbbbbbb, not aaaaaaaa"),
        (replace(good, file_text="x"), "Portainer has another compose file than the commit"),
        (replace(good, container=None), "there is no container"),
        (replace(good, digests=[]), f"the container runs {want.file.image}, not {want.file.image}"),
        (replace(good, container={**good.container, "State": {"Status": "exited", "ExitCode": 1}}), "the container is exited (exit code 1)"),
        (replace(good, container={**good.container, "State": {"Status": "running"}}), "the container is without a health check"),
        (replace(good, answers="Qdrant answers without a key"), "Qdrant answers without a key"),
    ):  # fmt: skip
        assert deployment.shortfalls(want, seen) == [said]
    assert deployment.shortfalls(want, good, not_this_container="c2") == ["the container is still the one from before"]


@pytest.mark.parametrize(
    ("status", "replacing", "stack_status", "ended"),
    [
        ("exited", "", 1, True),
        ("exited", "0123456789ab_qdrant-qdrant-1", 1, True),
        ("created", "0123456789ab_qdrant-qdrant-1", 1, True),
        ("exited", "", 3, False),
        ("restarting", "", 1, False),
        ("running", "", 1, False),
        ("running", "0123456789ab_qdrant-qdrant-1", 1, False),
    ],
)
def test_a_container_that_ended_is_not_waited_for(status: str, replacing: str, stack_status: int, ended: bool) -> None:
    """Docker starts no container that somebody stopped; the whole limit was waited for it, and users were without Qdrant."""
    stack = Stack.of({"Id": 1, "Name": "qdrant", "Status": stack_status})
    seen = deployment.Deployed(stack, None, {"Id": "1", "State": {"Status": status}}, (), "", replacing)
    assert seen.ended is ended


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"Status": "restarting", "ExitCode": 137, "OOMKilled": True}, "(exit code 137: it was killed because its memory was not enough"),
        ({"Status": "restarting", "ExitCode": 137, "OOMKilled": False}, "(exit code 137: it was killed, by a person or because"),
        ({"Status": "restarting", "ExitCode": 101, "OOMKilled": False}, "(exit code 101)"),
        ({"Status": "running", "ExitCode": 0, "OOMKilled": False}, "ends again and again"),
    ],
)  # fmt: skip
def test_how_a_container_ended_is_what_docker_knows(want: deployment.Wanted, state: dict[str, Any], said: str) -> None:
    """A memory limit, somebody's SIGKILL and a program's own end are three things; of one that runs again nobody knows."""
    seen = replace(good_seen(want), container={"Id": "c2", "RestartCount": 9, "State": state})
    assert said in deployment.hopeless(want, seen)
    assert ("exit code" in deployment.hopeless(want, seen)) is (state["Status"] != "running")
    if state["Status"] != "running":
        assert said in " ".join(deployment.shortfalls(want, seen))


def test_an_old_container_says_nothing_about_a_new_deployment(want: deployment.Wanted) -> None:
    good = good_seen(want)
    ill = replace(
        good, container={"Id": "c1", "RestartCount": 9, "State": {"Status": "running", "Health": {"Status": "unhealthy"}}}
    )
    assert "again and again" in deployment.hopeless(want, ill)
    assert deployment.hopeless(want, ill, not_this_container="c1") == ""
