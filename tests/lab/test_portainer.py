"""The stand-in for VM 1001 answers as a real Portainer 2.23.0 did, and behaves as the other versions are known to."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cutover.core.wait import Not, wait_until
from lab.portainer import Behaviour, idle_image
from tests.support.vm1001 import KEY, NEWER, VIEWER, Vm1001

CREATE = "/api/stacks/create/standalone/repository"
#: Recorded, not served: the path, and why.
NOT_SERVED = {
    "/api/auth": "sessions: its cookie makes Portainer demand CSRF tokens; the tool uses access tokens",
    "/api/users/1/tokens": "needs a session; the lab's access tokens stand in its configuration",
}
#: Parts of served answers that are left out.
LEFT_OUT = {
    "Kubernetes": "not modelled", "PostInitMigrations": "not modelled", "Edge": "not modelled", "Agent": "not modelled",
    "DockerSnapshotRaw": "a copy of what the Docker routes say", "GpuUseAll": "no GPUs", "GpuUseList": "no GPUs",
    "NodeCount": "no Swarm", "DiagnosticsData": "Edge only",
}  # fmt: skip


@pytest.fixture(scope="module")
def _old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    vm = Vm1001(tmp_path_factory.mktemp("old"))
    with vm.up():
        yield vm


@pytest.fixture(scope="module")
def _new(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    vm = Vm1001(tmp_path_factory.mktemp("new"), version="2.45.1")
    with vm.up():
        yield vm


def cleared(vm: Vm1001) -> Vm1001:
    """The VM without the stack and its volumes, and with a good commit to deploy."""
    vm.knobs()
    for stack in vm.ask("GET", "/api/stacks").json():
        if stack["Name"] == "qdrant":
            wait_until(lambda s=stack: settled(vm, s["Id"]), deadline=10, what="the last deployment")  # type: ignore[misc]
            assert vm.ask("DELETE", f"/api/stacks/{stack['Id']}?endpointId=1").status_code == 204
    for name in ("qdrant_storage", "qdrant_snapshots"):
        vm.ask("DELETE", f"/api/endpoints/1/docker/volumes/{name}")
    vm.merge()
    return vm


@pytest.fixture
def old(_old: Vm1001) -> Vm1001:
    return cleared(_old)


@pytest.fixture
def new(_new: Vm1001) -> Vm1001:
    return cleared(_new)


def body(vm: Vm1001, **changes: Any) -> dict[str, Any]:
    return {
        "Name": "qdrant", "RepositoryURL": vm.site.portainer.repository, "RepositoryReferenceName": "refs/heads/main",
        "ComposeFile": "stacks/qdrant/docker-compose.yml",
        "Env": [{"name": "QDRANT_API_KEY", "value": "k1"}, {"name": "QDRANT_READ_ONLY_API_KEY", "value": "k2"}], **changes,
    }  # fmt: skip


def created(vm: Vm1001, **changes: Any) -> dict[str, Any]:
    answer = vm.ask("POST", f"{CREATE}?endpointId=1", body(vm, **changes))
    assert answer.status_code == 200, answer.text
    stack: dict[str, Any] = answer.json()
    return stack


def redeployed(vm: Vm1001, number: int, **changes: Any) -> requests.Response:
    sent = {k: v for k, v in body(vm, **changes).items() if v is not None}
    return vm.ask("PUT", f"/api/stacks/{number}/git/redeploy?endpointId=1", sent)


def container(vm: Vm1001) -> dict[str, Any] | None:
    answer = vm.ask("GET", "/api/endpoints/1/docker/containers/qdrant-qdrant-1/json")
    return answer.json() if answer.status_code == 200 else None


def settled(vm: Vm1001, number: int) -> dict[str, Any] | Not:
    stack: dict[str, Any] = vm.ask("GET", f"/api/stacks/{number}").json()
    return Not("it is deploying") if stack.get("Status") == 3 else stack


def healthy(vm: Vm1001) -> dict[str, Any] | Not:
    found = container(vm)
    if found is None:
        return Not("there is no container")
    status = found["State"]["Health"]["Status"]
    return found if status == "healthy" else Not(f"it is {status}")


def collections(vm: Vm1001) -> Any:
    return requests.get(f"http://{vm.address}:6333/collections", timeout=5, headers={"api-key": "k1"}).json()["result"]


def names_running(vm: Vm1001) -> dict[str, str]:
    return {c["Names"][0]: c["Id"] for c in vm.ask("GET", "/api/endpoints/1/docker/containers/json").json()}


def stack_names(vm: Vm1001) -> list[str]:
    return [s["Name"] for s in vm.ask("GET", "/api/stacks").json()]


# -- as recorded ------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def differences(real: Any, ours: Any, path: str = "") -> list[str]:
    """Where our shape is not the recorded one; what is left out on purpose does not count."""
    if isinstance(real, dict) and isinstance(ours, dict):
        found = [f"{path}.{key} is made up" for key in ours.keys() - real.keys()]
        for key in real.keys() - LEFT_OUT.keys():
            found += differences(real[key], ours[key], f"{path}.{key}") if key in ours else [f"{path}.{key} is missing"]
        return found
    if isinstance(real, list) and isinstance(ours, list):
        return differences(real[0], ours[0], f"{path}[]") if real and ours else []
    return [] if real == ours or "NoneType" in {real, ours} else [f"{path} is {ours}, recorded {real}"]


def plain(text: str) -> str:
    """An error text without the ids that differ between runs."""
    return re.sub(r"key=\d+", "key=N", re.sub(r"/data/compose/\d+", "/data/compose/N", text))


def failed_by_itself(vm: Vm1001) -> bool | Not:
    return "webhook failed to redeploy" in (vm.folder / "vm.log").read_text() or Not("Portainer's log does not say so")


def test_recorded_exchanges_are_answered_alike(tmp_path: Path, recorded: Callable[[str], list[dict[str, Any]]]) -> None:
    exchanges = recorded("portainer-2.23.0.jsonl")
    file = next(e for e in exchanges if e["path"].endswith("/file"))["answer"]["StackFileContent"]
    image = {**Vm1001._tiny("site/qdrant:1@sha256:" + "1" * 64)}
    vm = Vm1001(tmp_path, images=[image], pulled=["site/qdrant:1"], containers={}, stacks={}, environment="primary")
    good = file.replace("127.0.0.1}:6333", f"{vm.address}}}:6333").replace("GET / HTTP", "GET /readyz HTTP")
    bad = good.replace("site/qdrant:1", "registry.example/site/qdrant:2")
    compared, left = 0, []
    with vm.up():
        vm.repository.commit({"stacks/qdrant/compose.yaml": good}, "First")
        number = 0
        for exchange in exchanges:
            note, path = exchange["note"], exchange["path"]
            if path in NOT_SERVED:
                left.append(path)
                continue
            if note.startswith("webhook after a commit"):
                vm.repository.commit({"stacks/qdrant/compose.yaml": bad}, "An image that does not exist")
            if note == "redeploy good":
                vm.repository.commit({"stacks/qdrant/compose.yaml": good + "\n"}, "Back")
            sent = exchange["body"]
            if sent and "RepositoryURL" in sent:
                sent = {**sent, "RepositoryURL": vm.site.portainer.repository}
            ours = vm.ask(
                exchange["method"], re.sub(r"/stacks/5\b", f"/stacks/{number}", path), sent,
                key="wrong" if note == "wrong key" else KEY,
            )  # fmt: skip
            assert ours.status_code == exchange["status"], f"{note or path}: {ours.status_code} {ours.text}"
            said: Any = ours.json() if ours.content else ""
            if note == "create":
                number = said["Id"]
            if note.startswith("webhook after a commit"):  # nothing keeps it apart from what comes next
                wait_until(lambda: failed_by_itself(vm), deadline=15, what="the update that the webhook began")
            real = exchange["answer"]
            if exchange["status"] >= 400:
                assert {k: plain(v) for k, v in said.items()} == {k: plain(v) for k, v in real.items()}, note
            elif path.endswith("/docker/info"):
                assert differences(shape({k: real[k] for k in said}), shape({**said, "Swarm": real["Swarm"]})) == []
            elif isinstance(real, dict) and "Labels" in real:
                assert differences(shape(real), shape(said)) == []
                assert said["Labels"].keys() == real["Labels"].keys()
            else:
                assert differences(shape(real), shape(said)) == [], note or path
            compared += 1
    assert compared == len(exchanges) - len(left)
    assert set(left) == set(NOT_SERVED)
    assert compared >= 30


# -- the same on every version ----------------------------------------------------------------------


def test_who_has_no_key_learns_only_the_version(old: Vm1001) -> None:
    assert old.ask("GET", "/api/system/status", key=None).json()["Version"] == "2.23.0"
    said = old.ask("GET", "/api/stacks", key=None)
    assert (said.status_code, said.json()["message"]) == (401, "A valid authorization token is missing")
    assert old.ask("POST", f"{CREATE}?endpointId=1", body(old), key=VIEWER).status_code == 403
    unknown = old.ask("GET", "/api/nothing")
    assert (unknown.status_code, unknown.text) == (404, "404 page not found\n")


def test_the_file_is_what_runs(old: Vm1001) -> None:
    commit = old.repository.head()
    stack = created(old)
    assert stack["GitConfig"]["ConfigHash"] == commit
    assert old.ask("GET", f"/api/stacks/{stack['Id']}/file").json()["StackFileContent"] == old.compose()
    found = wait_until(lambda: healthy(old), deadline=10, what="a healthy container")
    assert found["Config"]["Image"] == old.site.qdrant.image
    assert found["HostConfig"]["Memory"] == 3072 << 20
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["PortBindings"] == {"6333/tcp": [{"HostIp": old.address, "HostPort": "6333"}]}
    assert "QDRANT__SERVICE__API_KEY=k1" in found["Config"]["Env"]
    where = f"http://{old.address}:6333"
    assert requests.get(f"{where}/", timeout=5).json()["version"] == "1.18.3"
    assert requests.get(f"{where}/collections", timeout=5).status_code == 401
    assert requests.get(f"{where}/collections", timeout=5, headers={"api-key": "k2"}).status_code == 200
    named = old.ask("GET", f"/api/endpoints/1/docker/images/{found['Image']}/json").json()
    assert named["RepoDigests"] == [old.site.qdrant.image.replace(":v1.18.3", "")]


def test_the_data_survives_redeploy_stop_reboot_power_cut_and_delete(old: Vm1001) -> None:
    stack = created(old)
    wait_until(lambda: healthy(old), deadline=10, what="healthy")
    requests.put(f"http://{old.address}:6333/collections/kept", timeout=5)
    first = container(old)
    assert first
    for what in (
        lambda: redeployed(old, stack["Id"]),
        lambda: [old.ask("POST", f"/api/stacks/{stack['Id']}/{verb}?endpointId=1") for verb in ("stop", "start")],
        old.reboot,
        lambda: old.reboot(power_cut=True),
    ):
        what()
        wait_until(lambda: healthy(old), deadline=10, what="healthy")
        assert collections(old) == {"collections": [{"name": "kept"}]}
    again = container(old)
    assert again and again["Id"] != first["Id"]
    assert old.ask("DELETE", "/api/endpoints/1/docker/volumes/qdrant_storage").status_code == 409
    assert old.ask("DELETE", f"/api/stacks/{stack['Id']}?endpointId=1").status_code == 204
    assert container(old) is None
    assert old.ask("GET", "/api/endpoints/1/docker/volumes/qdrant_storage").status_code == 200
    assert old.ask("DELETE", "/api/endpoints/1/docker/volumes/qdrant_storage").status_code == 204


def test_a_reboot_keeps_the_rest(old: Vm1001) -> None:
    before = old.ask("GET", "/api/system/status").json(), old.ask("GET", "/api/stacks").json()
    running = names_running(old)
    assert set(running) == {"/portainer", "/monitoring-node-1"}
    old.reboot()
    assert (old.ask("GET", "/api/system/status").json(), old.ask("GET", "/api/stacks").json()) == before
    assert names_running(old) == running


def test_a_container_without_restart_policy_stays_down_after_a_reboot(old: Vm1001) -> None:
    old.merge(("restart: unless-stopped", 'restart: "no"'))
    created(old)
    wait_until(lambda: healthy(old), deadline=10, what="healthy")
    old.reboot()
    found = container(old)
    assert found and found["State"]["Status"] == "exited"


def test_a_taken_port_fails_the_deployment(old: Vm1001) -> None:
    import socket

    with socket.create_server((old.address, 6333)):
        said = old.ask("POST", f"{CREATE}?endpointId=1", body(old))
    assert said.status_code == 500
    assert "address already in use" in said.json()["message"]


def test_more_cpus_than_the_vm_has_fail_the_deployment(old: Vm1001) -> None:
    old.merge(("cpus: 2", "cpus: 8"))
    assert "as there are only 6 CPUs" in old.ask("POST", f"{CREATE}?endpointId=1", body(old)).json()["message"]


def test_an_address_that_is_not_the_vms_fails_the_deployment(old: Vm1001) -> None:
    old.merge((f'"{old.address}:6333:6333"', '"127.1.2.3:6333:6333"'))
    assert "cannot assign requested address" in old.ask("POST", f"{CREATE}?endpointId=1", body(old)).json()["message"]


def test_a_crashing_container_is_restarted_and_never_healthy(old: Vm1001) -> None:
    old.knobs(crash="qdrant")
    stack = created(old)
    assert stack["Status"] == 1  # Portainer is content: `up` returned

    def restarted() -> bool | Not:
        found = container(old)
        return (found is not None and found["RestartCount"] >= 2) or Not("it has not been restarted twice")

    wait_until(restarted, deadline=10, what="two restarts")
    assert isinstance(healthy(old), Not)


@pytest.mark.parametrize("how", ["webhook", "polling"])
def test_automatic_updates_really_pull(old: Vm1001, how: str) -> None:
    hook = str(uuid.uuid4())
    stack = created(old, AutoUpdate={"Webhook": hook} if how == "webhook" else {"Interval": "300ms"})
    first = wait_until(lambda: healthy(old), deadline=10, what="healthy")
    commit = old.merge(
        ("v1.18.3@sha256:0bd98fa7977f1e75694779359ca4e212822e5a71334e28421182f72f209d5286", NEWER.split(":", 1)[1])
    )
    if how == "webhook":
        assert old.ask("POST", f"/api/stacks/webhooks/{hook}", key=None).status_code == 204

    def moved() -> bool | Not:
        now = old.ask("GET", f"/api/stacks/{stack['Id']}").json()["GitConfig"]["ConfigHash"]
        return now == commit or Not(f"it is at {now}")

    wait_until(moved, deadline=10, what="the update")
    second = wait_until(lambda: healthy(old), deadline=10, what="healthy")
    assert second["Id"] != first["Id"]
    assert second["Config"]["Image"] == NEWER


@pytest.mark.parametrize(
    ("change", "survives"),
    [
        (("qdrant/qdrant:v1.18.3@sha256:0bd9", "qdrant/qdrant:v1.18.3@sha256:dead"), True),  # pulling comes first, and fails
        (("cpus: 2", "cpus: 8"), False),  # `up` fails, and takes down what ran
    ],
)
def test_an_automatic_update_that_fails_is_an_outage_unless_the_pull_failed(
    old: Vm1001, change: tuple[str, str], survives: bool
) -> None:
    hook = str(uuid.uuid4())
    stack = created(old, AutoUpdate={"Webhook": hook})
    wait_until(lambda: healthy(old), deadline=10, what="healthy")
    commit = stack["GitConfig"]["ConfigHash"]
    old.merge(change)
    told = old.vm.log.read_text().count("webhook failed")
    assert old.ask("POST", f"/api/stacks/webhooks/{hook}", key=None).status_code == 204

    def failed() -> bool | Not:
        return old.vm.log.read_text().count("webhook failed") > told or Not("nothing in the log")

    wait_until(failed, deadline=10, what="the failure")
    assert (container(old) is not None) == survives
    now = old.ask("GET", f"/api/stacks/{stack['Id']}").json()
    assert (now["Status"], now["GitConfig"]["ConfigHash"]) == (1, commit)  # Portainer shows nothing of it


def test_a_webhook_without_a_new_commit_restarts_nothing(old: Vm1001) -> None:
    hook = str(uuid.uuid4())
    created(old, AutoUpdate={"Webhook": hook})
    first = wait_until(lambda: healthy(old), deadline=10, what="healthy")
    assert old.ask("POST", f"/api/stacks/webhooks/{hook}").status_code == 204
    time.sleep(0.5)  # nothing is awaited here: the promise is that nothing happens
    assert (container(old) or {})["Id"] == first["Id"]
    assert old.ask("POST", f"/api/stacks/webhooks/{uuid.uuid4()}").status_code == 404
    assert old.ask("POST", "/api/stacks/webhooks/nonsense").status_code == 400


def test_a_private_repository_needs_its_token(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path)
    vm.git.argv.append("--private")
    with vm.up():
        vm.merge()
        said = vm.ask("POST", f"{CREATE}?endpointId=1", body(vm)).json()["message"]
        assert "authentication failed, please ensure that the git credentials are correct" in said
        login = {"RepositoryAuthentication": True, "RepositoryUsername": "x", "RepositoryPassword": "git-token-of-the-lab"}
        stack = created(vm, **login)
        assert stack["GitConfig"]["Authentication"] == {"Username": "x", "Password": ""}
        assert "git-token-of-the-lab" not in vm.vm.log.read_text()


# -- what versions do differently -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "traits"),
    [
        ("2.14.2", "webhook_waits"),
        ("2.19.5", "teardown webhook_waits"),
        ("2.23.0", "teardown"),
        ("2.33.6", "teardown"),
        ("2.39.1", ""),
        ("2.42.0", "asynchronous keeps_failed keeps_variables"),
        ("2.43.0", "asynchronous keeps_failed keeps_variables sources"),
        ("2.45.1", "asynchronous keeps_failed keeps_variables sources interval_ignored"),
    ],
)
def test_versions_behave_as_they_are_known_to(version: str, traits: str) -> None:
    assert {name for name, on in vars(Behaviour.of(version)).items() if on} == set(traits.split())


def test_a_failed_redeploy_takes_the_running_container_down_up_to_2_33(old: Vm1001) -> None:
    stack = created(old)
    old.merge(("qdrant/qdrant:v1.18.3@sha256:0bd9", "qdrant/qdrant:v1.18.3@sha256:dead"))
    said = redeployed(old, stack["Id"])
    assert said.status_code == 500
    assert "manifest unknown" in said.json()["message"]
    assert container(old) is None
    assert old.ask("GET", "/api/endpoints/1/docker/volumes/qdrant_storage").status_code == 200
    assert old.ask("GET", f"/api/stacks/{stack['Id']}").json()["Status"] == 1


def test_a_failed_redeploy_leaves_the_running_container_on_newer_versions(new: Vm1001) -> None:
    stack = created(new)
    assert stack["Status"] == 3
    wait_until(lambda: settled(new, stack["Id"]), deadline=10, what="deployed")
    was = wait_until(lambda: healthy(new), deadline=10, what="healthy")
    commit = new.repository.head()
    new.merge(("qdrant/qdrant:v1.18.3@sha256:0bd9", "qdrant/qdrant:v1.18.3@sha256:dead"))
    assert redeployed(new, stack["Id"]).status_code == 200
    after = wait_until(lambda: settled(new, stack["Id"]), deadline=10, what="settled")
    assert after["Status"] == 4
    assert "manifest unknown" in after["DeploymentStatus"][0]["Message"]
    assert after["GitConfig"]["ConfigHash"] == commit
    assert (container(new) or {})["Id"] == was["Id"]


def test_a_failed_create_leaves_no_record_on_old_versions_and_one_on_new(old: Vm1001, new: Vm1001) -> None:
    # One of the two only: where both are missing, Compose names whichever it comes upon first.
    other = [{"name": "QDRANT_READ_ONLY_API_KEY", "value": "k2"}]
    assert old.ask("POST", f"{CREATE}?endpointId=1", body(old, Env=other)).status_code == 500
    assert stack_names(old) == ["monitoring"]
    stack = created(new, Env=other)
    failed = wait_until(lambda: settled(new, stack["Id"]), deadline=10, what="settled")
    assert failed["Status"] == 4
    assert "QDRANT_API_KEY is missing a value" in failed["DeploymentStatus"][0]["Message"]
    assert stack_names(new) == ["monitoring", "qdrant"]


def test_a_redeploy_without_variables_wipes_them_on_old_versions_only(old: Vm1001, new: Vm1001) -> None:
    stack = created(old)
    said = redeployed(old, stack["Id"], Env=None)
    # Compose names whichever of the two it comes upon first.
    assert re.search(r"QDRANT_(READ_ONLY_)?API_KEY is missing a value", said.json()["message"])
    assert container(old) is None
    stack = created(new)
    wait_until(lambda: settled(new, stack["Id"]), deadline=10, what="deployed")
    assert redeployed(new, stack["Id"], Env=None).status_code == 200
    assert settled_status(new, stack["Id"]) == 1


def settled_status(vm: Vm1001, number: int) -> int:
    return int(wait_until(lambda: settled(vm, number), deadline=10, what="settled")["Status"])


def test_2_44_shows_an_interval_that_it_does_not_use(new: Vm1001) -> None:
    stack = created(new, AutoUpdate={"Interval": "200ms"})
    wait_until(lambda: settled(new, stack["Id"]), deadline=10, what="deployed")
    first = new.repository.head()
    new.merge(("max-size: 10m", "max-size: 11m"))
    time.sleep(1.0)  # five intervals: nothing is awaited, the promise is that nothing happens
    now = new.ask("GET", f"/api/stacks/{stack['Id']}").json()
    assert now["AutoUpdate"]["Interval"] == "200ms"
    assert now["GitConfig"]["ConfigHash"] == first
    assert not now["GitConfig"]["URL"].endswith(".git")


def test_a_source_has_the_interval_that_counts(new: Vm1001) -> None:
    stack = created(new)
    wait_until(lambda: settled(new, stack["Id"]), deadline=10, what="deployed")
    source = new.ask("GET", f"/api/stacks/{stack['Id']}").json()["GitSourceId"]
    assert new.ask("PUT", f"/api/gitops/sources/{source}", {"interval": "200ms"}).status_code == 200
    commit = new.merge(("max-size: 10m", "max-size: 12m"))

    def moved() -> bool | Not:
        now = new.ask("GET", f"/api/stacks/{stack['Id']}").json()["GitConfig"]["ConfigHash"]
        return now == commit or Not(f"it is at {now}")

    wait_until(moved, deadline=10, what="the update")
    assert new.ask("PUT", f"/api/gitops/sources/{source}", {"interval": ""}).status_code == 200  # it stays when the stack goes


# -- knobs ------------------------------------------------------------------------------------------


def test_stuck_deploying_is_busy_for_everybody(new: Vm1001) -> None:
    new.knobs(stuck_deploying=True)
    stack = created(new)
    assert new.ask("GET", f"/api/stacks/{stack['Id']}").json()["Status"] == 3
    assert redeployed(new, stack["Id"]).status_code == 409
    new.knobs()
    kept = json.loads((new.folder / "vm/portainer.json").read_text())
    kept["stacks"][str(stack["Id"])]["Status"] = 4
    new.vm.stop()
    (new.folder / "vm/portainer.json").write_text(json.dumps(kept))
    new.vm.start()


def test_old_containers_behind_a_200(old: Vm1001) -> None:
    stack = created(old)
    was = wait_until(lambda: healthy(old), deadline=10, what="healthy")
    old.knobs(keeps_old_containers=True)
    commit = old.merge(
        ("v1.18.3@sha256:0bd98fa7977f1e75694779359ca4e212822e5a71334e28421182f72f209d5286", NEWER.split(":", 1)[1])
    )
    said = redeployed(old, stack["Id"]).json()
    assert (said["Status"], said["GitConfig"]["ConfigHash"]) == (1, commit)
    assert (container(old) or {})["Id"] == was["Id"]


def test_a_hash_that_is_ahead_of_the_file(old: Vm1001) -> None:
    stack = created(old)
    old.knobs(hash_ahead_of_file=True)
    commit = old.merge(("max-size: 10m", "max-size: 13m"))
    assert redeployed(old, stack["Id"]).json()["GitConfig"]["ConfigHash"] == commit
    assert "max-size: 13m" not in old.ask("GET", f"/api/stacks/{stack['Id']}/file").json()["StackFileContent"]


def test_an_unhealthy_container_in_an_active_stack(old: Vm1001) -> None:
    old.knobs(unhealthy="qdrant")
    assert created(old)["Status"] == 1

    def ill() -> bool | Not:
        found = container(old)
        return (found is not None and found["State"]["Health"]["Status"] == "unhealthy") or Not("it is not unhealthy yet")

    wait_until(ill, deadline=10, what="unhealthy")


def test_images_are_here_only_after_a_pull(old: Vm1001) -> None:
    extra = idle_image("prom/node-exporter", "v1.8.2")
    there = old.ask("GET", f"/api/endpoints/1/docker/distribution/{NEWER}/json")
    assert there.json()["Descriptor"]["digest"] == NEWER.split("@")[1]
    assert old.ask("GET", f"/api/endpoints/1/docker/images/{extra['name']}:{extra['tag']}/json").status_code == 200
    missing = old.ask("GET", "/api/endpoints/1/docker/distribution/qdrant/qdrant:nope/json")
    assert (missing.status_code, "manifest unknown" in missing.json()["message"]) == (404, True)
    old.knobs(registry_down=True)
    assert old.ask("GET", f"/api/endpoints/1/docker/distribution/{NEWER}/json").status_code == 500
