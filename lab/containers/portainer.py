"""VM 1001 with Portainer itself: a container of its image, set up through its API as an operator sets it up.

It reaches Docker by :mod:`lab.containers.docker_view`, and Git by the address that ``site.yaml`` names. What the stand-in can be
told to do wrong (another version, answers that are lost, a deployment that never ends) it cannot: a scenario that needs such a
thing is not shown on this ground, and says so.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound

from cutover.core.wait import Not, wait_until
from lab.containers import host
from lab.containers.docker_engine import DockerEngine
from lab.containers.docker_view import KNOBS
from lab.containers.service import ContainerService
from lab.lab import NotShownHere
from lab.processes import Process

#: The image that is run where a registry answers: the version that the stand-in's recordings are from.
IMAGE = "portainer/portainer-ce:2.23.0-alpine@sha256:97342cf8a821d64d59880bdede8f45ea9c869fea702dd56128a67d552dc632ab"
PORT = 9443
SECONDS = 120.0
#: Where the container finds its sockets and files.
SOCKETS, CERTIFICATES = "/var/run", "/certs"


#: Knobs of the stand-in in words.
_CANNOT = {
    "version": "be of another version",
    "stuck_deploying": "never finish",
    "hang_up": "lose its answers",
    "keeps_old_containers": "say that it has deployed what it has not",
}


def need_possible(knobs: Mapping[str, Any], image: str) -> None:
    """:class:`NotShownHere` where only the stand-in can be broken like that; ``image`` is Portainer's, which has its version."""
    wanted = {name for name, value in knobs.items() if name != "version" or not re.search(rf":{re.escape(str(value))}\b", image)}
    if others := [_CANNOT.get(name, name.replace("_", " ")) for name in knobs if name in wanted - KNOBS]:
        raise NotShownHere(f"Portainer itself cannot be told to {' and '.join(others)}; the stand-in for its API can")


class PortainerVm:
    """VM 1001; a :class:`lab.machines.Service`. ``furnished`` is called once, with both access tokens."""

    def __init__(
        self, service: ContainerService, view: Process, engine: DockerEngine, *, url: str, authority: Path, password: str,
        stacks: Mapping[str, str], environment: str, furnished: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self._service, self._view, self._engine = service, view, engine
        self._url, self._authority, self._password = url, authority, password
        self._stacks, self._environment, self._furnished = dict(stacks), environment, furnished
        self._done = False

    def start(self) -> None:
        """The first time Portainer is set up; later what has a restart policy comes back, as after a boot."""
        self._view.start()
        if self._done:
            self._engine.boot()
        self._service.start()
        wait_until(self._answers, deadline=SECONDS, what="Portainer's answer")
        if not self._done:
            self._furnished(*self._furnish())
            self._done = True

    def stop(self, grace: float = 30.0) -> None:
        """Shut down: every container gets its own time."""
        self._engine.shut_down()

    def kill(self) -> None:
        """A power cut."""
        self._each("kill", "running")

    def pause(self) -> None:
        self._each("pause", "running")

    def resume(self) -> None:
        self._each("unpause", "paused")

    def _each(self, verb: str, state: str) -> None:
        labels = [f"{name}={value}" for name, value in self._engine.labels.items()]
        with contextlib.suppress(DockerException), contextlib.closing(host.client()) as engine:
            for container in engine.containers.list(filters={"label": labels, "status": state}):
                with contextlib.suppress(APIError):
                    getattr(container, verb)()

    # -- its API, as its own pages use it ---------------------------------------------------------
    def _answers(self) -> bool | Not:
        try:
            self._ask("GET", "/system/status")
        except requests.RequestException as error:
            return Not(str(error))
        return True

    def _ask(self, method: str, path: str, body: Any = None, *, token: str = "", **words: Any) -> Any:
        answer = requests.request(
            method, f"{self._url}/api{path}", json=body, verify=str(self._authority), timeout=SECONDS,
            headers={"Authorization": f"Bearer {token}"} if token else {}, **words,
        )  # fmt: skip
        if not answer.ok:
            raise RuntimeError(f"Portainer answered {answer.status_code} to {method} {path}: {answer.text[:300]}")
        return answer.json() if answer.content else None

    def _log_in(self, user: str, password: str) -> str:
        return str(self._ask("POST", "/auth", {"Username": user, "Password": password})["jwt"])

    def _key(self, number: int, password: str, token: str) -> str:
        body = {"description": "lab", "password": password}
        return str(self._ask("POST", f"/users/{number}/tokens", body, token=token)["rawAPIKey"])

    def _furnish(self) -> tuple[str, str]:
        """Environment, users, and the stack of somebody else; (administrator's token, token of a user who is none)."""
        admin = self._log_in("admin", self._password)
        form = {"Name": self._environment, "EndpointCreationType": "1", "URL": "unix:///var/run/docker.sock"}
        files = {name: (None, value) for name, value in form.items()}
        endpoint = self._ask("POST", "/endpoints", token=admin, files=files)["Id"]
        password = secrets.token_hex(16)
        viewer = self._ask("POST", "/users", {"Username": "viewer", "Password": password, "Role": 2}, token=admin)["Id"]
        access = {"UserAccessPolicies": {str(viewer): {"RoleId": 0}}}
        self._ask("PUT", f"/endpoints/{endpoint}", access, token=admin)
        for name, text in self._stacks.items():
            body = {"Name": name, "StackFileContent": text, "Env": []}
            self._ask("POST", f"/stacks/create/standalone/string?endpointId={endpoint}", body, token=admin)
        return self._key(1, self._password, admin), self._key(viewer, password, self._log_in("viewer", password))


def available(engine: docker.DockerClient, wanted: str) -> tuple[str, str]:
    """(the image, or empty where it cannot be had; a sentence that says which Portainer this ground has, and why)."""
    if not host.socket():
        return "", "the stand-in for its API, because Portainer itself needs a socket of Docker on this machine"
    try:
        try:
            engine.images.get(wanted)
        except ImageNotFound:
            engine.images.pull(wanted)
    except (APIError, DockerException, OSError) as error:
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())[:200]
        return "", f"the stand-in for its API, because {wanted} could not be pulled: {reason}"
    return wanted, f"Portainer itself, {wanted}"


def view_config(file: Path, *, sockets: Path, engine: str, labels: Mapping[str, str], knobs: Path, machine: Path) -> Path:
    """What :mod:`lab.containers.docker_view` is told, in a file."""
    told = {
        "socket": str(sockets / "docker.sock"),
        "engine": engine,
        "labels": dict(labels),
        "knobs": str(knobs),
        "machine": str(machine),
    }
    file.write_text(json.dumps(told))
    return file
