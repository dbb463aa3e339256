"""Git sources of Portainer 2.43 and newer: the stand-in answers as a real 2.43.0 did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cutover.core.wait import Not, wait_until
from lab.portainer import idle_image
from tests.support.vm1001 import Vm1001

RECORDED = "portainer-2.43.0-sources.jsonl"
WEB = "services:\n  web:\n    image: example/web:1\n"
#: Of a source: when it was last fetched, and what was not asked for.
NOT_COMPARED = {"lastSync", "workflows", "environments", "autoUpdate", "userAccesses", "teamAccesses"}


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm1001]:
    made = Vm1001(
        tmp_path_factory.mktemp("vm"), version="2.43.0", stacks={}, containers={}, images=[idle_image("example/web", "1")]
    )
    with made.up():
        made.repository.commit({"web.yml": WEB}, "one")
        made.repository.point("refs/heads/other", made.repository.head())
        yield made


def told(answer: Any) -> Any:
    """What of an answer has to be the same: of a stack how it is followed, of a source everything but when."""
    if isinstance(answer, list):
        return [told(one) for one in answer]
    if not isinstance(answer, dict) or "message" in answer:
        return answer
    if "GitConfig" in answer:
        git, update = answer["GitConfig"], answer["AutoUpdate"]
        follows = {key: git[key] for key in ("URL", "ReferenceName", "ConfigFilePath")}
        status = "settled" if answer["Status"] in {1, 3} else answer["Status"]
        return follows, status, update and update["Interval"], answer["Env"], answer.get("GitSourceId")
    return {key: value for key, value in answer.items() if key not in NOT_COMPARED}


def test_sources_are_made_found_shared_and_kept_as_by_the_real_one(
    vm: Vm1001, recorded: Callable[[str], list[dict[str, Any]]]
) -> None:
    site = vm.site.portainer.repository.removesuffix("/site.git")

    def done(number: str) -> bool | Not:
        return vm.ask("GET", f"/api/stacks/{number}").json().get("Status") != 3 or Not("it is deploying")

    compared = 0
    for one in recorded(RECORDED):
        if one["path"] in {"/api/system/status", "/api/gitops/sources"} and one["method"] == "GET":
            continue  # its list is up to half a minute old
        if one["note"] == "at once again":
            continue  # a race of the recording
        if one["note"] == "a bad image":
            vm.repository.commit({"web.yml": WEB.replace("image: ", "image: no-such/")}, "bad")
        here = json.loads(json.dumps(one).replace("http://127.0.0.44:8418", site))
        if "/stacks/" in one["path"] and (number := one["path"].split("/")[3].partition("?")[0]).isdigit():
            wait_until(lambda number=number: done(number), deadline=10, what="the stack")  # type: ignore[misc]
        ours = vm.ask(here["method"], here["path"], here["body"])
        assert ours.status_code == one["status"], (one["method"], one["path"], one["note"], ours.text)
        if one["status"] < 300 and one["status"] != 204:
            assert told(ours.json()) == told(here["answer"]), (one["method"], one["path"], one["note"])
        elif one["status"] != 204:
            assert ours.json() == here["answer"]
        compared += 1
    assert compared == 25
