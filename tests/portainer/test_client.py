"""What the Portainer client makes of answers, and the comparison of before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePath

import pytest

from cutover.core.credentials import Credentials
from cutover.core.errors import Refused, Unreachable, WritesRefused, WrongUsage
from cutover.core.write_guard import WriteGuard
from cutover.portainer.client import Answered, Behaviour, Portainer
from cutover.portainer.git import Repository
from cutover.portainer.picture import Picture, differences
from cutover.portainer.stack import Stack
from cutover.site import load as sites
from lab.portainer import Git as GitOfPortainer
from tests.support.vm1001 import KEY, ROOT, Vm1001


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    made = Vm1001(tmp_path_factory.mktemp("vm"))
    with made.up():
        made.merge()
        yield made


def client(vm: Vm1001, key: str = KEY, **settings: object) -> Portainer:
    return Portainer(vm.site.portainer.model_copy(update=settings), Credentials({"PORTAINER_API_KEY": key}), WriteGuard())


# -- versions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "teardown", "sources"),
    [
        ("2.14.2", False, False),
        ("2.23.0", True, False),
        ("2.33.7", True, False),
        ("2.38.1", True, False),  # not known: the dangerous one is assumed
        ("2.39.0", False, False),
        ("2.41.0", False, False),
        ("2.45.1", False, True),
        ("nonsense", True, False),
    ],
)
def test_what_a_version_does(version: str, teardown: bool, sources: bool) -> None:
    assert Behaviour.of(version) == Behaviour(teardown, sources)


# -- answers ----------------------------------------------------------------------------------------


def test_reading_works_with_a_closed_door_and_writing_does_not(vm: Vm1001) -> None:
    server = client(vm)
    assert server.version == "2.23.0"
    assert server.user()["Role"] == 1
    assert [s.name for s in server.stacks()] == ["monitoring"]
    assert server.info()["NCPU"] == 6
    server.ping()
    with pytest.raises(WritesRefused, match="Not sent without --execute: PUT"):
        server.redeploy(server.stacks()[0], reference="refs/heads/main", variables={}, seconds=5)
    with pytest.raises(WritesRefused):
        server.pull("qdrant/qdrant", "sha256:" + "0" * 64, seconds=5)


def test_a_wrong_key_is_said_with_what_to_do(vm: Vm1001) -> None:
    with pytest.raises(Answered, match=r"401 to GET /stacks: Invalid JWT token: Unauthorized.*access token") as told:
        client(vm, key="wrong-and-secret").stacks()
    assert "wrong-and-secret" not in str(told.value)


def test_a_missing_key_is_wrong_usage() -> None:
    with pytest.raises(WrongUsage, match="PORTAINER_API_KEY is not set"):
        Portainer(sites.load(ROOT / "site.yaml").portainer, Credentials({}), WriteGuard())


def test_an_unknown_environment_is_said_with_the_known_ones(vm: Vm1001) -> None:
    with pytest.raises(Refused, match=r"no environment 'production'. It has: 'local'"):
        _ = client(vm, environment="production").endpoint


def test_an_environment_without_a_docker_engine_is_said(vm: Vm1001, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Portainer, "environments", lambda _: [{"Id": 3, "Name": "local", "Type": 5}])
    with pytest.raises(Refused, match="The environment 'local' of Portainer is Kubernetes, and has no Docker engine"):
        _ = client(vm).endpoint


def test_a_certificate_that_is_not_trusted_stops_everything(vm: Vm1001) -> None:
    with pytest.raises(Unreachable, match="the certificate was not accepted"):
        _ = client(vm, ca_file=None).version
    with pytest.raises(Unreachable, match="not the pinned one"):
        _ = client(vm, ca_file=None, fingerprint="00" * 32).version


def test_a_server_that_is_not_portainer_is_named(vm: Vm1001) -> None:
    with pytest.raises((Unreachable, Answered), match=r"8418.*|404"):
        _ = client(vm, url=f"http://{vm.git_address}:8418").version


def test_a_missing_image_says_why(vm: Vm1001) -> None:
    server = client(vm)
    assert server.image("qdrant/qdrant:nope") is None
    assert server.in_registry(vm.site.qdrant.image) is None
    assert "manifest unknown" in (server.in_registry("qdrant/qdrant:nope") or "")


def test_a_stack_is_read_with_all_its_nulls() -> None:
    stack = Stack.of({"Id": 1, "Name": "x", "Status": 1, "Env": None, "AutoUpdate": None, "GitConfig": None})
    assert not stack.from_git
    assert stack.variables == {}
    assert "secret" not in repr(replace(stack, variables={"K": "secret"}))
    failed = Stack.of({"Id": 1, "Name": "x", "DeploymentStatus": [{"Message": ""}, {"Message": "why"}]})
    assert failed.message == "why"


# -- the repository ---------------------------------------------------------------------------------


def test_a_file_is_read_as_a_branch_has_it(vm: Vm1001) -> None:
    repository = Repository(vm.site.portainer.repository, Credentials({}))
    at = repository.file_at("refs/heads/main", "stacks/qdrant/docker-compose.yml")
    commit, text = at.commit, at.text
    assert (commit, text) == (vm.repository.head(), vm.compose())
    assert repository.commit_of("refs/heads/main") == commit
    with pytest.raises(Refused, match=r"has no refs/heads/nope. Its branches: refs/heads/main"):
        repository.commit_of("refs/heads/nope")
    with pytest.raises(Refused, match=r"is not in .* Merge it first"):
        repository.file_at("refs/heads/main", "nope.yml")
    with pytest.raises(Unreachable, match="could not use"):
        Repository(vm.site.portainer.repository.replace("site", "nope"), Credentials({})).references()
    with pytest.raises(WritesRefused):
        repository.tag("x", commit, WriteGuard())


def test_a_file_keeps_its_line_ends_and_one_that_is_not_utf_8_is_refused(vm: Vm1001) -> None:
    """Portainer shows the file as it is; with other line ends it would be another file, and no deployment were ever done."""
    repository = Repository(vm.site.portainer.repository, Credentials({}))
    path, text = "stacks/windows.yml", "services:\r\n  qdrant: {image: caf\u00e9}\r\n"
    vm.repository.commit({path: text}, "From Windows")
    assert repository.file_at("refs/heads/main", path).text == text
    vm.repository.commit({path: text.encode("latin-1")}, "In Latin-1")
    with pytest.raises(Refused, match=r"stacks/windows.yml in .* at \w{8} \(refs/heads/main\) is not UTF-8 text"):
        repository.file_at("refs/heads/main", path)


@pytest.mark.parametrize("path", ["stacks/linked/docker-compose.yml", "stacks/linked/.env"])
def test_a_link_in_the_place_of_a_file_is_refused(vm: Vm1001, path: str) -> None:
    """Portainer follows it; the text that Git has of a link is the name of what it leads to, which nobody looked at."""
    repository = Repository(vm.site.portainer.repository, Credentials({}))
    plain = {"stacks/linked/docker-compose.yml": "services: {}\n", "stacks/linked/.env": "", "stacks/linked/other": "A=b\n"}
    vm.repository.commit(plain | {path: PurePath("other")}, "A link")
    with pytest.raises(Refused, match=rf"{path} in .* is a link and no file"):
        repository.file_at("refs/heads/main", "stacks/linked/docker-compose.yml")


def test_a_branch_that_is_gone_is_said_with_those_that_are_there(vm: Vm1001) -> None:
    repository = Repository(vm.site.portainer.repository, Credentials({}))
    with pytest.raises(Refused, match=r"has no refs/heads/renamed\. Its branches: .*refs/heads/main"):
        repository.file_at("refs/heads/renamed", "stacks/qdrant/docker-compose.yml")


def test_an_annotated_tag_has_the_commit_and_an_id_of_its_own_which_portainer_shows(vm: Vm1001) -> None:
    commit = vm.repository.head()
    vm.repository.annotate("noted", commit)
    repository = Repository(vm.site.portainer.repository, Credentials({}))
    at = repository.file_at("refs/tags/noted", "stacks/qdrant/docker-compose.yml")
    assert (at.commit, at.shown) == (commit, GitOfPortainer.hash_of(vm.site.portainer.repository, "refs/tags/noted", None))
    references = repository.references()
    assert references["refs/tags/noted"] == commit != at.shown
    assert "refs/tags/noted" in references.at(at.shown)


def test_a_token_is_not_in_gits_arguments_or_errors(vm: Vm1001, tmp_path: Path) -> None:
    private = Vm1001(tmp_path)
    private.git.argv.append("--private")
    private.git.start()
    try:
        private.merge()
        url = private.site.portainer.repository
        with pytest.raises(Unreachable, match="Set GIT_USERNAME and GIT_TOKEN"):
            Repository(url, Credentials({})).references()
        with pytest.raises(Unreachable) as told:
            Repository(url, Credentials({"GIT_TOKEN": "a-wrong-token"})).references()
        assert "a-wrong-token" not in str(told.value)
        good = Repository(url, Credentials({"GIT_TOKEN": "git-token-of-the-lab"}))
        assert "refs/heads/main" in good.references()
    finally:
        private.git.stop()


# -- before and after -------------------------------------------------------------------------------

BEFORE = Picture(
    version="2.23.0",
    instance="one",
    environments={"local": 1},
    stacks={"monitoring": {"id": 1, "status": 1, "commit": "abc"}},
    containers={
        "node": {
            "id": "n1",
            "image": "node:1",
            "status": "running",
            "started": "t0",
            "health": "healthy",
            "project": "monitoring",
        }
    },
    volumes=("metrics",),
)
NODE = BEFORE.containers["node"]


def test_nothing_changed() -> None:
    assert differences(BEFORE, BEFORE, ours="qdrant") == []
    assert differences(BEFORE, Picture.from_facts(BEFORE.as_facts()), ours="qdrant") == []


def test_our_own_stack_may_come_and_go() -> None:
    after = replace(
        BEFORE,
        stacks={**BEFORE.stacks, "qdrant": {"id": 2, "status": 1, "commit": "x"}},
        containers={**BEFORE.containers, "qdrant-qdrant-1": {"id": "q", "status": "running", "project": "qdrant"}},
        volumes=("metrics", "qdrant_storage"),
    )
    assert differences(BEFORE, after, ours="qdrant", our_volumes=["qdrant_storage"]) == []
    assert differences(after, BEFORE, ours="qdrant", our_volumes=["qdrant_storage"]) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2.45.1"}, "Portainer was 2.23.0 and is 2.45.1."),
        ({"instance": "two"}, "Portainer's instance id changed: it was set up anew, or has another data volume."),
        ({"environments": {}}, "The environment local is gone."),
        ({"environments": {"local": 2}}, "The environment local is down now."),
        ({"stacks": {}}, "The stack monitoring is gone."),
        ({"stacks": {"monitoring": {"id": 1, "status": 2, "commit": "abc"}}}, "The stack monitoring was active and is stopped."),
        ({"stacks": {"monitoring": {"id": 1, "status": 1, "commit": "d"}}}, "The stack monitoring is at another commit."),
        ({"stacks": {**BEFORE.stacks, "x": {}}}, "The stack x is new."),
        ({"containers": {}}, "The container node is gone."),
        ({"containers": {"node": {**NODE, "id": "n2"}}}, "The container node was made anew."),
        ({"containers": {"node": {**NODE, "image": "node:2"}}}, "The container node has another image."),
        ({"containers": {"node": {**NODE, "status": "exited"}}}, "The container node was running and is exited."),
        ({"containers": {"node": {**NODE, "health": "unhealthy"}}}, "The container node was healthy and is unhealthy."),
        ({"containers": {"node": {**NODE, "started": "t1"}}}, "The container node was restarted."),
        ({"volumes": ()}, "The volume metrics is gone."),
        ({"volumes": ("metrics", "x")}, "The volume x is new."),
    ],
)
def test_a_change_of_someone_elses_is_named(change: dict[str, object], said: str) -> None:
    assert differences(BEFORE, replace(BEFORE, **change), ours="qdrant") == [said]  # type: ignore[arg-type]


def test_a_reboot_may_restart_but_nothing_else() -> None:
    after = replace(BEFORE, containers={"node": {**NODE, "started": "t1"}})
    assert differences(BEFORE, after, ours="qdrant", restarted=True) == []
    after = replace(BEFORE, containers={"node": {**NODE, "started": "t1", "status": "exited"}})
    assert differences(BEFORE, after, ours="qdrant", restarted=True) == ["The container node was running and is exited."]


def test_a_picture_of_a_living_server_survives_its_reboot(vm: Vm1001) -> None:
    server = client(vm)
    before = server.picture()
    assert set(before.containers) == {"portainer", "monitoring-node-1"}
    vm.reboot()
    after = server.picture()
    assert differences(before, after, ours="qdrant", restarted=True) == []
    assert len(differences(before, after, ours="qdrant")) == 2


def test_a_stack_of_the_same_name_elsewhere_is_another_one(vm: Vm1001, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vm.run(execute=False)
    here = run.portainer.stacks()
    there = [replace(stack, id=stack.id + 100, endpoint=stack.endpoint + 1, commit="theirs") for stack in here]
    monkeypatch.setattr(run.portainer, "stacks", lambda: here + there)
    before = run.portainer.picture()
    assert len(before.stacks) == 2 * len(here)
    monkeypatch.setattr(run.portainer, "stacks", lambda: there + here)
    assert differences(before, run.portainer.picture(), ours="qdrant") == []
    monkeypatch.setattr(run.portainer, "stacks", lambda: here)
    assert "(environment 2) is gone" in " ".join(differences(before, run.portainer.picture(), ours="monitoring"))
