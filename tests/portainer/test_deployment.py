"""What speaks against a deployment, and what is not done, decided from what was seen; nobody is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutover.core.ui import SilentUi
from cutover.phases import deploy_proof
from cutover.portainer import compose_file, deployment, obstacles, updates
from cutover.portainer.deployment import Deployed, Wanted
from cutover.portainer.git import References
from cutover.portainer.obstacles import Situation
from cutover.portainer.stack import Stack
from cutover.site.load import parse
from cutover.site.schema import Site
from cutover.state import deployment as state_of

ROOT = Path(__file__).resolve().parents[2]
HEALTHY = {"Status": "running", "Health": {"Status": "healthy"}}
KEYS = {"QDRANT_API_KEY": "w", "QDRANT_READ_ONLY_API_KEY": "r"}


@pytest.fixture(scope="module")
def site() -> Site:
    return parse((ROOT / "site.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def want() -> Wanted:
    return Wanted(
        "a" * 40,
        "refs/heads/main",
        compose_file.read((ROOT / "stacks/qdrant/docker-compose.yml").read_text(encoding="utf-8")),
        KEYS,
    )


def stack(site: Site, **changes: Any) -> Stack:
    """The stack as Portainer shows it where it is this tool's."""
    settings = site.portainer
    git = {
        "URL": settings.repository,
        "ReferenceName": settings.reference,
        "ConfigFilePath": settings.compose_file,
        "ConfigHash": "a" * 40,
    }
    update = {"Interval": "5m", "Webhook": "", "ForceUpdate": False, "ForcePullImage": False}
    return Stack.of({"Id": 1, "Name": "qdrant", "Status": 1, "Type": 2, "GitConfig": git, "AutoUpdate": update, **changes})


def situation(**changes: Any) -> Situation:
    """A Portainer where nothing speaks against the first deployment."""
    nothing: dict[str, Any] = {
        "version": "2.23.0", "role": 1, "environment_up": True, "stack": None, "container": None, "others": [], "others_memory": 0,
        "volumes": {"qdrant_storage": None, "qdrant_snapshots": None}, "image_here": True, "image_problem": None,
        "port_answers": False, "cores": 6, "memory": 10 << 30, "compose_says": None,
    }  # fmt: skip
    return Situation(**{**nothing, **changes})


def row(name: str, **labels: str) -> dict[str, Any]:
    return {"Id": name, "Names": [f"/{name}"], "Labels": labels, "State": "running"}


def test_nothing_speaks_against_what_is_as_it_should_be(want: Wanted, site: Site) -> None:
    assert obstacles.refusals(want, situation(), site) == []
    assert obstacles.refusals(want, situation(stack=stack(site)), site) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Type": 1}, "The stack qdrant is one of Swarm, not of Compose."),
        ({"Type": 3}, "The stack qdrant is one of Kubernetes, not of Compose."),
        ({"AdditionalFiles": ["more.yml"]}, "The stack qdrant reads more.yml as well, which nobody has looked at."),
        ({"GitConfig": None}, "The stack qdrant is not one from Git."),
    ],
)
def test_a_stack_of_another_kind_is_not_this_tools(want: Wanted, site: Site, changes: dict[str, Any], said: str) -> None:
    other = stack(site, **changes)
    assert obstacles.not_ours(other, site) == said
    assert any(reason.startswith(said) for reason in obstacles.refusals(want, situation(stack=other), site))


def test_a_volume_that_no_stack_made_is_only_used_where_the_file_says_so(want: Wanted, site: Site) -> None:
    found: dict[str, Any] = {"qdrant_storage": {"Name": "qdrant_storage", "Labels": None}, "qdrant_snapshots": None}
    (said,) = obstacles.refusals(want, situation(volumes=found), site)
    assert said.startswith("The volume qdrant_storage is there, and no stack made it")
    mounted = {"Id": "c", "State": HEALTHY, "Mounts": [{"Name": "qdrant_storage"}]}
    assert (
        obstacles.refusals(
            want, situation(volumes={"qdrant_storage": found["qdrant_storage"]}, stack=stack(site), container=mounted), site
        )
        == []
    )
    text = want.file.text.replace("    name: qdrant_storage\n", "    name: qdrant_storage\n    external: true\n")
    assert obstacles.refusals(replace(want, file=compose_file.read(text)), situation(volumes=found), site) == []


def test_a_name_that_another_container_has_is_found_before_docker_does(want: Wanted, site: Site) -> None:
    (said,) = obstacles.refusals(want, situation(others=[row("qdrant-qdrant-1")]), site)
    assert said.startswith("A container qdrant-qdrant-1 is there already, and is not the stack's")


@pytest.mark.parametrize("forced", ["ForceUpdate", "ForcePullImage"])
def test_updates_that_restart_the_container_unasked_are_not_as_wanted(site: Site, forced: str) -> None:
    update = {"Interval": "5m", "Webhook": "", "ForceUpdate": False, "ForcePullImage": False}
    assert updates.updates_as_wanted(site, stack(site, AutoUpdate=update))
    assert not updates.updates_as_wanted(site, stack(site, AutoUpdate=update | {forced: True}))
    assert not updates.updates_as_wanted(
        site, stack(site, AutoUpdate=update | {"Webhook": "05de31a2-79fa-4644-9c12-faa67e5c49f0"})
    )


def test_an_annotated_tag_is_known_by_its_own_id_too(want: Wanted, site: Site) -> None:
    """Portainer shows the tag's own id for it, not the commit's."""
    tagged = stack(
        site, GitConfig={"URL": site.portainer.repository, "ConfigHash": "t" * 40, "ConfigFilePath": site.portainer.compose_file}
    )
    assert not want.is_at(tagged)
    assert replace(want, shown="t" * 40).is_at(tagged)
    references = References({"refs/heads/main": "b" * 40, "refs/tags/v1": "a" * 40}, {"refs/tags/v1": "t" * 40})
    for shown in ("a" * 40, "t" * 40):
        assert deployment.reference_for(references, shown, preferred="refs/heads/main") == "refs/tags/v1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"differs": ("its memory limit is 1024 MB, and 3072 MB in the file",)},
            "the container does not run as the file says: its memory",
        ),
        ({"answers": "Qdrant is version 1.18.2, not 1.18.3"}, "Qdrant is version 1.18.2, not 1.18.3"),
    ],
)
def test_what_waiting_does_not_mend_is_not_waited_for(want: Wanted, site: Site, changes: dict[str, Any], said: str) -> None:
    """A healthy container keeps its version and what it was made with."""
    seen = Deployed(stack(site), want.file.text, {"Id": "new", "State": HEALTHY}, [want.file.image.pinned], "")
    assert deployment.shortfalls(want, seen) == []
    other = replace(seen, **changes)
    assert any(missing.startswith(said) for missing in deployment.shortfalls(want, other))
    assert deployment.hopeless(want, other).startswith(said)
    assert deployment.hopeless(want, other, not_this_container="new") == ""
    assert deployment.hopeless(want, replace(other, stack=stack(site, Status=3))) == ""
    starting = {"Id": "new", "State": {"Status": "running", "Health": {"Status": "starting"}}}
    assert deployment.hopeless(want, replace(other, container=starting)) == ""


def test_going_back_sends_what_was_there_and_nothing_else(want: Wanted, site: Site) -> None:
    now = stack(site, Env=[{"name": "QDRANT_API_KEY", "value": "new"}, {"name": "SINCE", "value": "x"}])
    assert deployment.all_variables(want, now) == {"SINCE": "x", **KEYS}
    assert deployment.all_variables(replace(want, alone=True), now) == KEYS


def test_one_key_for_reading_and_writing_is_refused(want: Wanted, site: Site) -> None:
    (said,) = obstacles.refusals(replace(want, variables=dict.fromkeys(KEYS, "same")), situation(), site)
    assert said == "QDRANT_READ_ONLY_API_KEY is the same as QDRANT_API_KEY: whoever may read could write."
    second = {**KEYS, "QDRANT_ALT_API_KEY": KEYS["QDRANT_READ_ONLY_API_KEY"]}
    (said,) = obstacles.refusals(replace(want, variables=second), situation(), site)
    assert said == "QDRANT_READ_ONLY_API_KEY is the same as QDRANT_ALT_API_KEY: whoever may read could write."


# -- a replacement that Docker's restart ended -------------------------------------------------------------------------
@pytest.fixture
def halted(want: Wanted, site: Site, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    """The old container has ended, the new one was never started: seen on a real Docker that was restarted in between."""
    gone = {"Id": "old", "State": {"Status": "exited", "ExitCode": 0}}
    seen = Deployed(stack(site, GitConfig=None), None, gone, [], "Qdrant does not answer", "0123456789ab_qdrant-qdrant-1")
    monkeypatch.setattr(state_of, "see", lambda *_: seen)
    monkeypatch.setattr(deploy_proof, "what_answers", lambda _: "Portainer and Docker answer, Qdrant on the new server does not.")
    return seen


def test_a_replacement_that_nobody_goes_on_with_is_not_waited_for(
    want: Wanted, site: Site, halted: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    context: Any = SimpleNamespace(site=site, ui=SilentUi())
    monkeypatch.setattr(deploy_proof, "LOST_SECONDS", 0.1)
    with pytest.raises(
        deploy_proof.Interrupted, match=r"was interrupted, and Portainer does not go on .* Qdrant on the new server does not"
    ):
        deploy_proof.prove(context, want, not_this_container="old", lost=True)
    monkeypatch.setattr(deploy_proof, "HALTED_SECONDS", 0.1)
    assert deploy_proof.settled(context, want) == (halted, True)


def test_a_replacement_is_under_way_while_the_old_container_runs(halted: Deployed) -> None:
    assert halted.under_way
    assert halted.halted
    assert not replace(halted, container={"Id": "old", "State": HEALTHY}).halted
    assert not replace(halted, replacing="").halted
