"""Deploying as Portainer really does it: what a variable becomes, who may come in, and what goes on beside the tool."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cutover.core.errors import CutoverError, Failed, Refused
from cutover.core.ui import ConfirmedInAdvance, SilentUi
from cutover.core.wait import Not, wait_until
from cutover.phases import deploy
from cutover.portainer import deployment, obstacles
from cutover.portainer.client import Portainer
from cutover.portainer.stack import Stack
from cutover.site import schema as sites
from cutover.state import deployment as state_of
from tests.support.night import every_nth_by_day
from tests.support.phases import done, undone
from tests.support.phases import planned as planned_of
from tests.support.vm1001 import QDRANT_KEY, QDRANT_READ_KEY, VIEWER, Vm1001

TOKEN = {"GIT_TOKEN": "git-token-of-the-lab"}
HARMLESS = ("max-size: 10m", "max-size: 20m")


@pytest.fixture(scope="module")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    made = Vm1001(tmp_path_factory.mktemp("one"))
    with made.up():
        yield made


@pytest.fixture
def one(_one: Vm1001) -> Vm1001:
    _one.close_runs()
    _one.knobs()
    for shown in _one.ask("GET", "/api/stacks").json():
        if shown["Name"] != "monitoring":
            assert _one.ask("DELETE", f"/api/stacks/{shown['Id']}?endpointId=1").status_code == 204
    for volume in ("qdrant_storage", "qdrant_snapshots"):
        _one.ask("DELETE", f"/api/endpoints/1/docker/volumes/{volume}")
    _one.merge()
    (_one.folder / "state/journal.jsonl").unlink(missing_ok=True)
    return _one


def deployed(vm: Vm1001, **rest: Any) -> Any:
    context = vm.run(**rest)
    try:
        return done(deploy.PHASE, context)
    finally:
        context.close()


def fails(vm: Vm1001, error: type[CutoverError] = Failed, **rest: Any) -> str:
    with pytest.raises(error) as told:
        deployed(vm, **rest)
    assert type(told.value) is error
    return str(told.value)


def planned(vm: Vm1001, **rest: Any) -> str:
    context = vm.run(execute=False, **rest)
    try:
        return " ".join(f"{one.text} {one.changes} {one.undo}" for one in planned_of(deploy.PHASE, context))
    finally:
        context.close()


def stack(vm: Vm1001) -> dict[str, Any]:
    return next((s for s in vm.ask("GET", "/api/stacks").json() if s["Name"] == "qdrant"), {})


def container(vm: Vm1001) -> dict[str, Any]:
    found: dict[str, Any] = vm.ask("GET", "/api/endpoints/1/docker/containers/qdrant-qdrant-1/json").json()
    return found


def answer(vm: Vm1001, key: str) -> int:
    return requests.get(f"http://{vm.address}:6333/collections", headers={"api-key": key}, timeout=5).status_code


def with_keys(vm: Vm1001, write: str, read: str, wanted: str = "healthy") -> None:
    """What somebody typed into Portainer, and deployed there."""
    env = [{"name": "QDRANT_API_KEY", "value": write}, {"name": "QDRANT_READ_ONLY_API_KEY", "value": read}]
    body = {"Env": env, "RepositoryReferenceName": "refs/heads/main"}
    assert vm.ask("PUT", f"/api/stacks/{stack(vm)['Id']}/git/redeploy?endpointId=1", body).status_code == 200
    wait_until(lambda: healthy(vm, wanted), deadline=60, what="Qdrant")


def healthy(vm: Vm1001, wanted: str = "healthy") -> bool | Not:
    health = (container(vm).get("State") or {}).get("Health", {}).get("Status")
    return health == wanted or Not(f"it is {health}")


# -- 1: a value arrives as it was meant -------------------------------------------------------------


@pytest.mark.parametrize(
    "key", every_nth_by_day(["x${HOME}y", "pa$word", "a$$b", "abc #def", '"quoted"', "$abc", "it's $5", "a=b\\c${"], 4)
)
def test_a_key_arrives_as_it_was_meant(one: Vm1001, key: str) -> None:
    given = {"QDRANT_API_KEY": key, "QDRANT_READ_ONLY_API_KEY": f"r{key}"}
    assert deployed(one, credentials=given).changed
    assert f"QDRANT__SERVICE__API_KEY={key}" in container(one)["Config"]["Env"]
    assert f"QDRANT__SERVICE__READ_ONLY_API_KEY=r{key}" in container(one)["Config"]["Env"]
    assert not deployed(one, credentials=given).changed
    journal = (one.folder / "state/journal.jsonl").read_text()
    assert key not in journal


@pytest.mark.parametrize(
    ("key", "named"),
    every_nth_by_day([("one\ntwo", "a line break"), (" edge", "a space"), ("clé", "U+00E9"), ("a\tb", "a tab")], 2),
)
@pytest.mark.parametrize("name", every_nth_by_day(["QDRANT_API_KEY", "QDRANT_READ_ONLY_API_KEY"], 2))
def test_a_key_that_cannot_arrive_is_refused_before_anything_is_sent(one: Vm1001, key: str, named: str, name: str) -> None:
    said = fails(one, Refused, credentials={name: key})
    assert f"{name} " in said
    assert named in said
    with pytest.raises(Refused, match=name):
        planned(one, credentials={name: key})
    assert stack(one) == {}


def test_a_key_that_arrived_as_another_is_not_taken_for_deployed(one: Vm1001) -> None:
    """What Portainer has is read by Compose in its own way: the tool looks at what came of it, not at what is stored."""
    deployed(one)
    with_keys(one, "pa$word-of-the-lab", QDRANT_READ_KEY)
    assert answer(one, "pa-of-the-lab") == 200
    said = planned(one, credentials={"QDRANT_API_KEY": "pa$word-of-the-lab"})
    assert "Change who may come in: the running server does not take the QDRANT_API_KEY" in said


# -- 2: who may come in -----------------------------------------------------------------------------


def test_another_key_is_shown_and_has_to_be_typed(one: Vm1001) -> None:
    deployed(one)
    was = container(one)["Id"]
    other = {"QDRANT_API_KEY": "another-key-of-the-lab"}
    assert "Change who may come in" in planned(one, credentials=other)
    assert "QDRANT_API_KEY" in fails(one, Refused, credentials=other)
    assert container(one)["Id"] == was
    assert deployed(one, credentials=other, confirm=ConfirmedInAdvance("QDRANT_API_KEY")).changed
    assert (answer(one, "another-key-of-the-lab"), answer(one, QDRANT_KEY)) == (200, 401)
    assert "Change who" not in planned(one, credentials=other)


def test_keys_that_change_places_are_a_change_although_both_open_the_server(one: Vm1001) -> None:
    """Whoever could only read could write, and the applications could not any more."""
    deployed(one)
    was = container(one)["Id"]
    swapped = {"QDRANT_API_KEY": QDRANT_READ_KEY, "QDRANT_READ_ONLY_API_KEY": QDRANT_KEY}
    assert "Change who may come in" in planned(one, credentials=swapped)
    assert "QDRANT_API_KEY" in fails(one, Refused, credentials=swapped)
    assert container(one)["Id"] == was
    now = stack(one)
    env = [{"name": name, "value": value} for name, value in swapped.items()]
    body = {"Env": env, "RepositoryReferenceName": "refs/heads/main", "AutoUpdate": now["AutoUpdate"]}
    assert one.ask("POST", f"/api/stacks/{now['Id']}/git?endpointId=1", body).status_code == 200
    assert "Change who may come in" not in planned(one)  # they changed places in Portainer only


def test_going_back_goes_back_to_the_old_key(one: Vm1001) -> None:
    deployed(one)
    one.repository.point("refs/tags/good", one.repository.head())
    one.merge(("/readyz", "/reedyz"), ("start_period: 5m", "start_period: 1s"))
    other = {"QDRANT_API_KEY": "another-key-of-the-lab"}
    said = fails(one, credentials=other, confirm=ConfirmedInAdvance("QDRANT_API_KEY"))
    one.repository._git("update-ref", "-d", "refs/tags/good")
    assert "The stack went back to" in said
    assert (answer(one, QDRANT_KEY), answer(one, "another-key-of-the-lab")) == (200, 401)


def test_a_key_that_was_stored_but_never_deployed_is_no_key_in_use(one: Vm1001) -> None:
    deployed(one)
    now = stack(one)
    env = [{"name": "QDRANT_API_KEY", "value": "stored-only"}, {"name": "QDRANT_READ_ONLY_API_KEY", "value": QDRANT_READ_KEY}]
    body = {"Env": env, "RepositoryReferenceName": "refs/heads/main", "AutoUpdate": now["AutoUpdate"]}
    assert one.ask("POST", f"/api/stacks/{now['Id']}/git?endpointId=1", body).status_code == 200
    assert "Change who may come in" not in planned(one)  # the running server takes our key
    said = planned(one, credentials={"QDRANT_API_KEY": "stored-only"})
    assert "Change who may come in" in said
    assert "Portainer does not have the key that the running server takes" in said


def test_a_death_before_the_deployment_leaves_portainer_the_key_that_is_in_use(
    one: Vm1001, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(one)
    one.merge(HARMLESS)
    other = {"QDRANT_API_KEY": "another-key-of-the-lab"}

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Portainer, "redeploy", dies)
        deployed(one, credentials=other, confirm=ConfirmedInAdvance("QDRANT_API_KEY"))
    one.close_runs()
    assert Stack.of(stack(one)).variables["QDRANT_API_KEY"] == QDRANT_KEY
    assert "goes back to the key that Portainer has" in planned(one, credentials=other)


@pytest.mark.slow
def test_going_back_after_a_death_does_not_claim_the_keys_of_before(one: Vm1001) -> None:
    deployed(one)
    good = one.repository.head()
    one.repository.point("refs/tags/good", good)
    one.merge(("/readyz", "/reedyz"), ("start_period: 5m", "start_period: 1s"))
    with_keys(one, "another-key-of-the-lab", QDRANT_READ_KEY, wanted="unhealthy")  # what is there when a run died in its proof
    other = {"QDRANT_API_KEY": "another-key-of-the-lab"}
    assert f"goes back to {good[:8]}, with the variables that it has now" in planned(one, credentials=other)
    said = fails(one, credentials=other)
    one.repository._git("update-ref", "-d", "refs/tags/good")
    assert "which was proved with the keys that Portainer has now; those with which it ran before may have been others" in said
    assert answer(one, "another-key-of-the-lab") == 200


# -- 3: what would take the service down ------------------------------------------------------------


def test_what_compose_would_refuse_is_refused_here(one: Vm1001) -> None:
    """A variable that somebody added in Portainer and that no environment file may have."""
    deployed(one)
    was, now = container(one)["Id"], stack(one)
    env = [*now["Env"], {"name": "NOTE", "value": "${never-closed-secret"}]
    body = {"Env": env, "RepositoryReferenceName": "refs/heads/main", "AutoUpdate": now["AutoUpdate"]}
    assert one.ask("POST", f"/api/stacks/{now['Id']}/git?endpointId=1", body).status_code == 200
    one.merge(HARMLESS)
    said = fails(one, Refused)
    assert "stack.env" in said
    assert "never-closed" not in said
    assert container(one)["Id"] == was


def test_the_repositorys_env_file_is_read_as_portainer_reads_it(one: Vm1001) -> None:
    one.repository.commit({"stacks/qdrant/.env": "QDRANT_API_KEY='unclosed\n"}, "A .env")
    said = fails(one, Refused)
    one.repository.commit({"stacks/qdrant/.env": "\n"}, "An empty .env")
    assert "stack.env" in said
    assert stack(one) == {}
    assert deployed(one).changed


# -- 4: while Portainer deploys by itself -----------------------------------------------------------


def slow_to_stop(vm: Vm1001) -> None:
    """A server that does not end before the knob is taken back, so that both containers are there meanwhile."""
    vm.knobs(stop_held=True)


def begun_by_itself(vm: Vm1001) -> threading.Thread:
    body = {"Env": stack(vm)["Env"], "RepositoryReferenceName": "refs/heads/main"}
    number = stack(vm)["Id"]
    work = threading.Thread(target=vm.ask, args=("PUT", f"/api/stacks/{number}/git/redeploy?endpointId=1", body))
    work.start()

    def two() -> bool | Not:
        rows = vm.ask("GET", "/api/endpoints/1/docker/containers/json?all=1").json()
        return sum(r["Labels"].get("com.docker.compose.project") == "qdrant" for r in rows) == 2 or Not("there is one container")

    wait_until(two, deadline=10, what="The replacement of the container", every=0.02)
    return work


def test_its_own_container_is_no_stranger_while_it_is_replaced(one: Vm1001) -> None:
    deployed(one)
    slow_to_stop(one)
    commit = one.merge(HARMLESS)
    work = begun_by_itself(one)
    assert "Wait for the deployment of the stack qdrant that Portainer makes by itself" in planned(one)

    class LetsItEnd(SilentUi):
        def say(self, sentence: str) -> None:
            super().say(sentence)
            one.knobs()

    context = one.run()
    context.ui = LetsItEnd()
    outcome = done(deploy.PHASE, context)
    context.close()
    work.join()
    assert not outcome.changed
    assert "Portainer had deployed" in outcome.sentences[0]
    assert [s for s in context.ui.sentences if "deploying the stack qdrant by itself" in s]
    assert stack(one)["GitConfig"]["ConfigHash"] == commit
    assert [e.act for e in context.journal.entries()].count("deploy.stack") == 2  # intent and outcome of the first one


def test_two_deployments_at_once_end_in_one(one: Vm1001) -> None:
    deployed(one)

    class PollsToo(SilentUi):
        def say(self, sentence: str) -> None:
            super().say(sentence)
            if sentence.startswith("Redeploying") and not self.begun:
                self.begun = True
                body = {"Env": stack(one)["Env"], "RepositoryReferenceName": "refs/heads/main"}
                path = f"/api/stacks/{stack(one)['Id']}/git/redeploy?endpointId=1"
                threading.Thread(target=one.ask, args=("PUT", path, body)).start()
                time.sleep(0.05)

        begun = False

    commit = one.merge(HARMLESS)
    context = one.run(credentials=TOKEN)
    context.ui = PollsToo()
    outcome = done(deploy.PHASE, context)
    context.close()
    assert outcome.facts["commit"] == commit
    rows = one.ask("GET", "/api/endpoints/1/docker/containers/json?all=1").json()
    assert [r["Names"] for r in rows if r["Labels"].get("com.docker.compose.project") == "qdrant"] == [["/qdrant-qdrant-1"]]


@pytest.mark.parametrize(
    ("said", "met"),
    [
        ("failed to clone git repository: mkdir /data/compose/2/.git/objects/pack: no such file or directory", True),
        ("failed to deploy a stack: open /data/compose/2/stacks/qdrant/docker-compose.yml: no such file or directory", True),
        ('Error response from daemon: Conflict. The container name "/a_qdrant-qdrant-1" is already in use by container "b"', True),
        ("manifest for x not found: manifest unknown", False),
        ("required variable QDRANT_API_KEY is missing a value", False),
    ],
)  # fmt: skip
def test_what_two_deployments_do_to_each_other_is_known(said: str, met: bool) -> None:
    assert obstacles.collided(said) is met


def test_two_deployments_at_once_are_known_although_a_variable_is_a_word_of_the_answer(
    one: Vm1001, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of variables are taken out of what is said, and any stack may have ``/data`` for one."""
    deployed(one)
    commit = one.merge(HARMLESS)
    context = one.run(credentials=TOKEN)
    server, answers = context.portainer, [deployment_without_its_file()]
    redeploy = server.redeploy

    def first_fails(of: Stack, **rest: Any) -> Stack:
        server._pairs({"DATA": "/data"})
        if answers:
            raise server._error("PUT", f"/stacks/{of.id}/git/redeploy", answers.pop())
        return redeploy(of, **rest)

    monkeypatch.setattr(server, "redeploy", first_fails)
    assert done(deploy.PHASE, context).facts["commit"] == commit
    context.close()


def deployment_without_its_file() -> requests.Response:
    said = "failed to deploy a stack: open /data/compose/2/stacks/qdrant/docker-compose.yml: no such file or directory"
    answer = requests.Response()
    answer.status_code, answer._content = 500, json.dumps({"message": said, "details": said}).encode()
    return answer


# -- 5: undo ----------------------------------------------------------------------------------------


def web_editor_stack(vm: Vm1001) -> int:
    """A stack of the same name that somebody typed into Portainer."""
    vm.repository.commit({"other.yml": "services:\n  web:\n    image: prom/node-exporter:v1.8.2\n"}, "Other", branch="other")
    body = {
        "Name": "qdrant", "RepositoryURL": vm.site.portainer.repository, "RepositoryReferenceName": "refs/heads/other",
        "ComposeFile": "other.yml", "Env": [],
    }  # fmt: skip
    made = vm.ask("POST", "/api/stacks/create/standalone/repository?endpointId=1", body)
    assert made.status_code == 200, made.text
    return int(made.json()["Id"])


def test_a_strangers_stack_of_the_same_name_is_not_removed(one: Vm1001) -> None:
    web_editor_stack(one)
    with pytest.raises(Refused, match=r"reads other\.yml, site\.yaml says"):
        planned_of(deploy.PHASE, one.run(), undo=True)
    assert stack(one)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("qdrant_storag", "qdrant_snapshots"),
            "qdrant_storag is no volume of the stack qdrant. Its volumes: qdrant_snapshots, q",
        ),
        (("qdrant_storage",), "only qdrant_storage was named"),
        (("portainer_data",), "portainer_data is no volume of the stack"),
    ],
)
def test_a_name_that_is_not_its_volume_is_refused_before_anything_goes(one: Vm1001, names: tuple[str, ...], said: str) -> None:
    deployed(one)
    with pytest.raises(Refused, match=said):
        planned_of(deploy.PHASE, one.run(confirm=ConfirmedInAdvance(*names)), undo=True)
    assert answer(one, QDRANT_KEY) == 200


def test_data_that_went_is_undone_once(one: Vm1001) -> None:
    deployed(one)
    both = ("qdrant_storage", "qdrant_snapshots")
    for changed in (True, False):
        context = one.run(confirm=ConfirmedInAdvance(*both))
        assert undone(deploy.PHASE, context).changed is changed
        assert planned_of(deploy.PHASE, context, undo=True) == []
        context.close()


# -- 6: a token that cannot see ---------------------------------------------------------------------


@pytest.mark.parametrize("environment", [True, False])
def test_who_cannot_see_does_not_say_that_there_is_nothing(tmp_path: Path, environment: bool) -> None:
    keys = [
        {"key": "ptr_" + "k" * 40, "user": "cutover", "role": 1},
        {"key": VIEWER, "user": "viewer", "role": 2, "environment": environment},
    ]
    vm = Vm1001(tmp_path, api_keys=keys)
    with vm.up():
        vm.merge()
        deployed(vm)
        for look in (deploy.plan, deploy.plan_undo, state_of.our_volumes):
            context = vm.run(credentials={"PORTAINER_API_KEY": VIEWER})
            with pytest.raises(Refused, match="'viewer' is not an administrator of Portainer"):
                look(context)
            context.close()
        server = vm.run(credentials={"PORTAINER_API_KEY": VIEWER}).portainer
        for listed in (server.stacks, server.containers, server.volumes, server.networks, server.picture):
            with pytest.raises(CutoverError, match=r"not an administrator|403"):
                listed()
        assert answer(vm, QDRANT_KEY) == 200
        vm.close_runs()


# -- 7: restarted in the middle, and down before ----------------------------------------------------


def test_a_service_that_is_down_is_said_first(one: Vm1001) -> None:
    deployed(one)
    bad = one.merge(("v1.18.3@sha256:", "v1.18.3@sha256:ffff"))
    assert bad
    body = {"Env": stack(one)["Env"], "RepositoryReferenceName": "refs/heads/main"}
    assert one.ask("PUT", f"/api/stacks/{stack(one)['Id']}/git/redeploy?endpointId=1", body).status_code == 500
    said = fails(one, Refused)
    first = said.split("\n")[1]
    assert "Qdrant on the new server is down: Portainer has the stack qdrant" in first
    one.repository.revert()
    assert "Qdrant on the new server is down" in planned(one)
    assert deployed(one).changed


def test_portainer_that_is_restarted_in_the_middle_is_noticed_within_seconds(tmp_path: Path) -> None:
    vm = Vm1001(tmp_path)
    vm.site = vm.site.model_copy(update={"limits": vm.site.limits.model_copy(update={"deploy_seconds": 300.0})})

    class Dies(SilentUi):
        def say(self, sentence: str) -> None:
            super().say(sentence)
            if sentence.startswith("Redeploying"):
                threading.Timer(0.5, lambda: vm.reboot(power_cut=True)).start()

    with vm.up():
        vm.merge()
        deployed(vm)
        vm.merge(HARMLESS)
        vm.knobs(deploy_seconds=30)
        context = vm.run(credentials=TOKEN)
        context.ui = Dies()
        begun = time.monotonic()
        with pytest.raises(CutoverError) as told:
            done(deploy.PHASE, context)
        took = time.monotonic() - begun
        context.close()
        said = str(told.value)
        assert took < 60
        assert "interrupted" in said
        assert "answer" in said
        assert "deploy" in said
        vm.knobs()
        assert deployed(vm).changed


def test_docker_that_is_gone_is_said_with_what_is_up(one: Vm1001) -> None:
    deployed(one)
    one.merge(HARMLESS)
    one.knobs(docker_down=True)
    said = fails(one, Refused)
    assert "does not reach the Docker engine" in said
    assert "Portainer and Qdrant on the new server answer, Docker does not." in said


def test_what_a_restart_of_docker_left_of_a_replacement_is_removed(one: Vm1001) -> None:
    """Docker ends when the new container is made and the old one still runs: the old one comes back, the new one never starts."""
    deployed(one)
    one.merge(HARMLESS)
    was = container(one)["Id"]
    one.knobs(docker_ends="created")
    said = fails(one)
    assert "(Docker does not run on the VM)" in said
    assert "run `cutover deploy --execute`: it looks, and goes on." in said
    one.knobs()

    def back() -> bool | Not:
        rows = one.ask("GET", "/api/endpoints/1/docker/containers/json?all=1").json()
        own = sorted(row["State"] for row in rows if "qdrant" in row["Names"][0]) if isinstance(rows, list) else []
        return own == ["created", "running"] or Not(f"there is {own}")

    wait_until(back, deadline=60, what="Docker")
    assert container(one)["Id"] == was
    left = f"{was[:12]}_qdrant-qdrant-1"
    assert f"Remove the container {left}: it was to replace the one that runs" in planned(one)
    assert deployed(one).changed
    assert container(one)["Id"] != was
    assert one.ask("GET", f"/api/endpoints/1/docker/containers/{left}/json").status_code == 404


@pytest.mark.parametrize(
    ("other", "started", "grace", "now", "left"),
    [
        ({"State": "created", "Created": 1000}, "1970-01-01T00:20:00Z", 60, 1210, True),  # started after it
        ({"State": "created", "Created": 1000}, "1970-01-01T00:15:00.5Z", 60, 1010, False),  # being replaced
        ({"State": "created", "Created": 1000}, "1970-01-01T00:16:40.9Z", 60, 1010, False),  # within a second: nobody knows
        ({"State": "created", "Created": 1000}, "1970-01-01T00:15:00Z", 60, 1119, False),  # it may take its time to end
        ({"State": "created", "Created": 1000}, "1970-01-01T00:15:00Z", 60, 1121, True),
        ({"State": "created", "Created": 1000}, "1970-01-01T00:15:00Z", None, 1071, True),
        ({"State": "created", "Created": 1000}, "1970-01-01T00:15:00Z", 60, 0, False),  # no clock
        ({"State": "exited", "Created": 1000}, "1970-01-01T00:20:00Z", 60, 9999, False),
        ({"State": "created"}, "", 60, 0, False),
    ],
)
def test_a_replacement_that_nobody_goes_on_with(
    other: dict[str, Any], started: str, grace: int | None, now: float, left: bool
) -> None:
    runs = {"State": {"Status": "running", "StartedAt": started}, "Config": {"StopTimeout": grace} if grace else {}}
    assert deployment.left_over(runs, other, now) is left
    assert not deployment.left_over(None, other, now)
    assert not deployment.left_over({**runs, "State": {"Status": "exited", "StartedAt": started}}, other, now)


# -- 9: what only Portainer knows -------------------------------------------------------------------


def test_a_key_that_only_portainer_has_counts_as_set(one: Vm1001) -> None:
    deployed(one)
    one.merge(HARMLESS)
    context = one.run()
    context.credentials = type(context.credentials)(
        {k: v for k, v in context.credentials.values.items() if k != "QDRANT_READ_ONLY_API_KEY"}
    )
    assert done(deploy.PHASE, context).changed
    context.close()
    assert Stack.of(stack(one)).variables["QDRANT_READ_ONLY_API_KEY"] == QDRANT_READ_KEY
    assert answer(one, QDRANT_READ_KEY) == 200


def test_where_the_webhook_is_read_is_said_and_not_the_webhook(one: Vm1001) -> None:
    old = one.site
    settings = {**old.portainer.model_dump(), "auto_update": {"mode": "webhook", "interval": "5m"}}
    one.site = sites.Site.model_validate({**old.model_dump(), "portainer": settings})
    try:
        said = " ".join(deployed(one).sentences)
    finally:
        one.site = old
    assert "Stacks > qdrant > GitOps updates" in said
    assert stack(one)["AutoUpdate"]["Webhook"] not in said


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("unable to clone git repository: authentication required", "a user and a token"),
        ("failed to clone git repository: repository not found", "no such repository, or it is private"),
        ("manifest for q@sha256:d not found: manifest unknown: manifest unknown", "no such tag or digest"),
        ("pull access denied for q, repository does not exist or may require 'docker login'", "a user and a token"),
        ("something else", "something else"),
    ],
)
def test_errors_of_git_and_registry_are_in_words(said: str, means: str) -> None:
    assert means in obstacles.in_words(said)
    assert said in obstacles.in_words(said)
