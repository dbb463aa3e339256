"""Steps about the stack: what is merged, what Portainer makes of it, and what else is on its server."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import requests
from pytest_bdd import given, parsers, then, when

from cutover.context import Context
from cutover.core.credentials import Credentials
from cutover.core.wait import Not, wait_until
from cutover.phases import deploy_proof
from cutover.portainer.stack import Stack
from cutover.state import deployment as state_of
from lab.lab import ROOT, Lab
from lab.operator import Operator

FILE = "stacks/qdrant/docker-compose.yml"
PINNED = "v1.18.3@sha256:0bd98fa7977f1e75694779359ca4e212822e5a71334e28421182f72f209d5286"
KEY = "${QDRANT_API_KEY:?set QDRANT_API_KEY in the environment variables of this stack in Portainer}"
COLLECTION = "kept"
#: A key that Compose would read in its own way.
ODD = "odd$$key 'of' \"the\" lab #1"

#: What a merge can do to the file: the sentence of a feature, and what is replaced by what.
MERGES: dict[str, tuple[tuple[str, str], ...]] = {
    "changes nothing of importance": (("max-size: 10m", "max-size: 11m"),),
    "gives Qdrant more time to stop": (("stop_grace_period: 60s", "stop_grace_period: 90s"),),
    "makes Qdrant unhealthy": (("/readyz", "/nothing"), ("start_period: 5m", "start_period: 1s")),
    "is not readable": (("services:", "services: ["),),
    "has a word that Compose does not know": (("    pids_limit:", "    pid_limits:"),),
    "names its image without a digest": ((f"v1.18.3@{PINNED.split('@')[1]}", "v1.18.3"),),
    "names an image that does not exist": ((PINNED, "v1.18.3@sha256:" + "d" * 64),),
    "publishes the database everywhere": (("10.0.0.101:6333:6333", "6333:6333"),),
    "opens the database when Portainer forgets its key": (("${QDRANT_API_KEY:?", "${QDRANT_API_KEY:-"),),
    "has a key in it": ((KEY, "hunter2"),),
    "keeps the data in the container": (("qdrant_storage:/qdrant/storage", "qdrant_storage:/elsewhere"),),
    "lets the container change its own programs": (("read_only: true", "read_only: false"),),
    "cuts Qdrant off when it is stopped": (("stop_grace_period: 60s", "stop_grace_period: 1s"),),
    "asks for its health with a tool that is not there": (("        - bash\n", "        - curl\n"),),
    "mounts the disk of the VM": (
        ("    name: qdrant_storage\n", "    name: qdrant_storage\n    driver_opts: {type: none, o: bind, device: /}\n"),
    ),
    "switches the filter of system calls off": (('"no-new-privileges:true"', '"no-new-privileges:true", "seccomp:unconfined"'),),
    "reads another file of the runner": (("services:\n", "include: [/etc/shadow]\nservices:\n"),),
    "wants a key of this tool": (("cpus: 2", "cpus: ${PROXMOX_TOKEN_SECRET:-2}"),),
    "forgets to restart the container": (("restart: unless-stopped", 'restart: "no"'),),
    "needs a variable that nobody has set": (("${QDRANT_API_KEY:?", "${QDRANT_NEW_KEY:?"),),
    "asks for more cores than there are": (("cpus: 2", "cpus: 64"),),
    "asks for more memory than there is": (("mem_limit: 3072m", "mem_limit: 10239m"),),
}


def merge(lab: Lab, what: str) -> str:
    """Merge a change of the file that ships; the commit."""
    text = (ROOT / FILE).read_text(encoding="utf-8")
    for was, becomes in MERGES[what]:
        assert was in text, f"The file has no {was!r} any more."
        text = text.replace(was, becomes)
    return lab.repository.commit({FILE: lab.network.replace(text)}, f"A change that {what}")


def ask(lab: Lab, method: str, path: str, body: Any = None) -> requests.Response:
    """A bare request to the lab's Portainer, not through the tool."""
    return requests.request(
        method, f"{lab.site.portainer.url}/api{path}", json=body, timeout=60, verify=str(lab.site.portainer.ca_file),
        headers={"X-API-Key": lab.keys.portainer},
    )  # fmt: skip


def stack(lab: Lab) -> dict[str, Any]:
    """The stack as Portainer shows it."""
    return next((s for s in ask(lab, "GET", "/stacks").json() if s["Name"] == lab.site.portainer.stack), {})


def container(lab: Lab) -> dict[str, Any]:
    """The stack's container as Docker shows it."""
    found = ask(lab, "GET", "/endpoints/1/docker/containers/qdrant-qdrant-1/json")
    return found.json() if found.status_code == 200 else {}


def qdrant(lab: Lab, method: str, path: str, body: Any = None, *, key: str | None = "") -> requests.Response:
    """A request to the new server; with its key unless ``key`` is None."""
    headers = {} if key is None else {"api-key": key or lab.keys.qdrant}
    return requests.request(method, lab.site.qdrant.new_url + path, json=body, headers=headers, timeout=10)


def answers(lab: Lab) -> bool:
    try:
        return qdrant(lab, "GET", "/readyz", key=None).ok
    except requests.ConnectionError:
        return False


def healthy(lab: Lab) -> bool | Not:
    status = ((container(lab).get("State") or {}).get("Health") or {}).get("Status", "not there")
    return status == "healthy" or Not(f"the container is {status}")


@pytest.fixture
def container_before() -> dict[str, str]:
    """The container that ran before the merge."""
    return {}


# -- the stage ----------------------------------------------------------------------------------------


@given(parsers.parse("a merge that {what}"))
def _a_merge(lab: Lab, what: str) -> None:
    merge(lab, what)


@given("the stack is deployed")
def _stack_is_deployed(operator: Operator) -> None:
    operator.does("deploy")


@given("the stack is deployed from a tagged commit")
def _deployed_from_a_tag(lab: Lab, operator: Operator) -> None:
    lab.repository.point("refs/tags/release-1", lab.repository.head())
    operator.does("deploy")


@given("it holds a collection")
def _holds_a_collection(lab: Lab) -> None:
    made = qdrant(lab, "PUT", f"/collections/{COLLECTION}", {"vectors": {"size": 4, "distance": "Dot"}})
    assert made.ok, made.text


@given("users are served by it")
def _users_are_served(operator: Operator) -> None:
    for verb in ("gate", "copy", "switch"):
        operator.does(verb)


@given(parsers.parse("Portainer has version {version}"))
def _portainer_has_version(lab: Lab, version: str) -> None:
    lab.knobs(version=version)


@given("Portainer looks for merges every second")
def _polls_every_second(lab: Lab) -> None:
    lab.change_site(portainer={"auto_update": {"mode": "polling", "interval": "1s"}})


@given("the container turns out unhealthy")
def _turns_out_unhealthy(lab: Lab) -> None:
    lab.knobs(unhealthy="qdrant")


@given("the container ends again and again")
def _ends_again_and_again(lab: Lab) -> None:
    lab.knobs(crash="qdrant")


@given("Portainer never finishes")
def _never_finishes(lab: Lab) -> None:
    lab.knobs(version="2.45.1", stuck_deploying=True)
    lab.change_site(limits={"deploy_seconds": 2.0})


def _has_key(operator: Operator, key: str) -> None:
    def prepare(run: Context) -> None:
        run.credentials = Credentials({**run.credentials.values, "QDRANT_API_KEY": key})

    operator.prepare = prepare


@given("applications have a key with a dollar, quotes and a hash in it")
def _odd_key(operator: Operator) -> None:
    _has_key(operator, ODD)


@given("applications have a key of two lines")
def _key_of_two_lines(operator: Operator) -> None:
    _has_key(operator, "one-line\nanother-line")


@given("the operator has another key than the one in use")
def _another_key(operator: Operator) -> None:
    _has_key(operator, "another-key-than-the-one-in-use")


@given("somebody else made a stack of the same name")
def _somebody_elses_stack(lab: Lab) -> None:
    lab.repository.commit({"other.yml": lab.idle_stack("web")}, "Another", branch="other")
    body = {
        "Name": lab.site.portainer.stack, "RepositoryURL": lab.site.portainer.repository, "ComposeFile": "other.yml",
        "RepositoryReferenceName": "refs/heads/other", "Env": [],
    }  # fmt: skip
    made = ask(lab, "POST", "/stacks/create/standalone/repository?endpointId=1", body)
    assert made.ok, made.text


@given("somebody lowered its memory in Portainer")
def _lowered_memory(lab: Lab) -> None:
    body = {"Memory": 1 << 30, "MemorySwap": 2 << 30}
    edited = ask(lab, "POST", f"/endpoints/1/docker/containers/{container(lab)['Id']}/update", body)
    assert edited.ok, edited.text


def number_of(lab: Lab, name: str) -> int:
    return int(next(s["Id"] for s in ask(lab, "GET", "/stacks").json() if s["Name"] == name))


@given("meanwhile somebody stopped another stack")
def _another_stack_stopped(lab: Lab) -> None:
    assert ask(lab, "POST", f"/stacks/{number_of(lab, 'monitoring')}/stop?endpointId=1").ok


@given("meanwhile somebody removed another stack")
def _another_stack_removed(lab: Lab) -> None:
    assert ask(lab, "DELETE", f"/stacks/{number_of(lab, 'monitoring')}?endpointId=1").ok


@given("meanwhile somebody restarted the server")
def _server_restarted(lab: Lab) -> None:
    lab.machines[1001].stop()
    lab.machines[1001].start()


@given("meanwhile somebody upgraded Portainer")
def _portainer_upgraded(lab: Lab) -> None:
    lab.knobs(version="2.45.1")


# -- what is done -------------------------------------------------------------------------------------


@given("Portainer shows the operator's key only what everybody may see")
def _key_of_no_administrator(lab: Lab) -> None:
    lab.keys = replace(lab.keys, portainer=lab.keys.portainer_viewer)


@when("the operator deploys the stack")
def _deploys(operator: Operator) -> None:
    operator.tries("deploy")


@when(parsers.re(r"a change is merged that (?P<what>[^,]+)"))
def _a_change_is_merged(lab: Lab, what: str) -> None:
    merge(lab, what)


@when(parsers.re(r"a change is merged that (?P<what>.+), and it is deployed"))
def _merged_and_deployed(lab: Lab, operator: Operator, container_before: dict[str, str], what: str) -> None:
    container_before["id"] = container(lab).get("Id", "")
    merge(lab, what)
    operator.tries("deploy")


@when(parsers.parse("a change that {what} is sent to Portainer without a look"))
def _sent_without_a_look(lab: Lab, what: str) -> None:
    merge(lab, what)
    now = stack(lab)
    body = {"Env": now["Env"], "RepositoryReferenceName": now["GitConfig"]["ReferenceName"]}
    assert ask(lab, "PUT", f"/stacks/{now['Id']}/git/redeploy?endpointId=1", body).status_code == 500


@when("its server has a restart")
def _has_a_restart(lab: Lab) -> None:
    lab.machines[1001].stop()
    lab.machines[1001].start()


@when("its server has a power cut")
def _has_a_power_cut(lab: Lab) -> None:
    lab.machines[1001].stop(hard=True)
    lab.machines[1001].start()


@when("the operator takes the container away")
def _takes_away(operator: Operator) -> None:
    operator.tries("deploy", undo=True)


@when("the operator takes the container away and names its data")
def _takes_away_with_data(operator: Operator) -> None:
    operator.agrees_to = {"qdrant_storage", "qdrant_snapshots"}
    operator.tries("deploy", undo=True)


@when("the operator takes the container away and misspells the name of its data")
def _takes_away_misspelt(operator: Operator) -> None:
    operator.agrees_to = {"qdrant_storage", "qdrant_snapshot"}
    operator.tries("deploy", undo=True)


# -- what is seen -------------------------------------------------------------------------------------


@then("Portainer runs the merged commit with the pinned image")
def _runs_the_merged_commit(lab: Lab, operator: Operator) -> None:
    assert operator.error is None, str(operator.error)
    assert stack(lab)["GitConfig"]["ConfigHash"] == lab.repository.head()
    assert container(lab)["Config"]["Image"] == lab.site.qdrant.image
    assert healthy(lab) is True


@then(parsers.parse("Portainer runs the merged commit within {seconds:d} seconds"))
def _runs_it_within(lab: Lab, operator: Operator, seconds: int) -> None:
    with closing(operator.run(execute=False)) as run:
        deploy_proof.prove(run, state_of.wanted(run), deadline=seconds)


@then("Qdrant answers with its key and not without it")
def _answers_with_its_key(lab: Lab) -> None:
    assert qdrant(lab, "GET", "/").json()["version"] == lab.site.qdrant.version
    assert qdrant(lab, "GET", "/collections").status_code == 200
    assert qdrant(lab, "GET", "/collections", key=None).status_code in {401, 403}


@then("Qdrant answers with that key and not with what others would read in it")
def _answers_with_the_odd_key(lab: Lab) -> None:
    assert qdrant(lab, "GET", "/collections", key=ODD).status_code == 200
    for near in ("odd", "odd$key", ODD.replace("$$", "$"), f"'{ODD}'", ODD.split(" ", maxsplit=1)[0]):
        assert qdrant(lab, "GET", "/collections", key=near).status_code in {401, 403}, near


@then("the stack of somebody else is still there")
def _somebody_elses_is_there(lab: Lab) -> None:
    assert Stack.of(stack(lab)).file == "other.yml"


@then("deploying again changes nothing")
def _deploying_again(lab: Lab, operator: Operator) -> None:
    was = container(lab)["Id"]
    result = operator.does("deploy")
    assert result.outcome is None or not result.outcome.changed
    assert container(lab)["Id"] == was


@then("after deploying once more the container has what the file says")
def _as_the_file_says(lab: Lab, operator: Operator) -> None:
    assert operator.does("deploy").outcome is not None
    assert container(lab)["HostConfig"]["Memory"] == 3072 << 20


@then(parsers.parse("Qdrant is healthy again within {seconds:d} seconds"))
def _healthy_again(lab: Lab, seconds: int) -> None:
    wait_until(lambda: healthy(lab), deadline=seconds, what="A healthy container")


@then("the collection is still there")
def _collection_is_there(lab: Lab) -> None:
    assert qdrant(lab, "GET", f"/collections/{COLLECTION}").ok


@then("after deploying it again the collection is back")
def _collection_is_back(lab: Lab, operator: Operator) -> None:
    operator.does("deploy")
    assert qdrant(lab, "GET", f"/collections/{COLLECTION}").ok


@then("nothing of the stack runs any more")
def _nothing_runs(lab: Lab, operator: Operator) -> None:
    assert operator.error is None, str(operator.error)
    assert stack(lab) == {}
    assert container(lab) == {}
    assert not answers(lab)


@then("nothing answers on the new server")
def _nothing_answers(lab: Lab) -> None:
    assert not answers(lab)


@then("its data is still there")
def _data_is_there(lab: Lab) -> None:
    for name in ("qdrant_storage", "qdrant_snapshots"):
        assert ask(lab, "GET", f"/endpoints/1/docker/volumes/{name}").status_code == 200


@then("its data is gone")
def _data_is_gone(lab: Lab) -> None:
    for name in ("qdrant_storage", "qdrant_snapshots"):
        assert ask(lab, "GET", f"/endpoints/1/docker/volumes/{name}").status_code == 404


@then("the stack is at the tagged commit")
def _at_the_tagged_commit(lab: Lab) -> None:
    now = Stack.of(stack(lab))
    assert (now.reference, now.auto_update) == ("refs/tags/release-1", None)
    assert ask(lab, "GET", f"/stacks/{now.id}/file").status_code == 200


@then("the running container was not touched")
def _not_touched(lab: Lab, container_before: dict[str, str]) -> None:
    assert container(lab)["Id"] == container_before["id"]
    assert answers(lab)
