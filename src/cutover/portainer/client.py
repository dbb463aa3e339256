"""Portainer: the stacks that it runs from Git, and through it the Docker engine of its VM.

Portainer's answers are taken for what they are. "200" means *submitted*: what runs is only known from the stack's commit,
the container's image and health, and from asking the service itself. What its versions do differently (take a service down
when a deployment fails, answer before the work is done, forget variables, ignore an interval) is :class:`Behaviour`, found
out before anything is changed. Every write sends everything, because Portainer replaces what is left out by nothing.

Only access tokens are used. A session's cookie would make Portainer demand CSRF tokens for every write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

import requests

from cutover.core import http
from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, OutcomeUnknown, Refused, Unreachable
from cutover.core.write_guard import WriteGuard
from cutover.portainer.picture import Picture
from cutover.portainer.stack import PROJECT, Source, Stack, name_of, of_service
from cutover.portainer.variables import without_parts
from cutover.site.schema import Portainer as Settings

ADMINISTRATOR = 1
#: Kinds of environments that have no Docker engine to run Compose with.
_NO_DOCKER: Mapping[int, str] = {3: "Azure", 5: "Kubernetes", 6: "Kubernetes", 7: "Kubernetes"}


class Answered(CutoverError):
    """Portainer answered with an error. ``status`` is the HTTP status, ``reason`` its own words.

    ``untold`` are the words as they came: for decisions only, because they may hold a part of a key.
    """

    def __init__(self, status: int, sentence: str, reason: str, hint: str = "", untold: str = "") -> None:
        super().__init__(sentence, hint)
        self.status, self.reason, self.untold = status, reason, untold or reason


@dataclass(frozen=True)
class Behaviour:
    """What a version of Portainer does. Sources: its code up to 2.23, release notes and reports for later ones."""

    teardown: bool
    """A deployment that fails takes the running service down (2.15 up to 2.33; unclear, so assumed, up to 2.38)."""
    sources: bool
    """Git repositories are objects of their own, and the polling interval is theirs (the stack's is ignored)."""

    @classmethod
    def of(cls, version: str) -> Behaviour:
        """The behaviour of a version such as ``2.23.0``; where it is not known, the more dangerous one is assumed."""
        numbers = re.findall(r"\d+", version)
        number = (int(numbers[0]), int(numbers[1])) if len(numbers) >= 2 else (2, 23)
        return cls(teardown=(2, 15) <= number < (2, 39), sources=number >= (2, 44))


class Portainer:
    """One Portainer server and the environment (Docker engine) that site.yaml names."""

    def __init__(
        self, settings: Settings, credentials: Credentials, guard: WriteGuard, *,
        timeout: tuple[float, float] = (http.CONNECT_SECONDS, http.READ_SECONDS),
    ) -> None:  # fmt: skip
        self._settings = settings
        self._credentials = credentials
        tls = http.Tls(settings.ca_file, settings.fingerprint)
        headers = {"X-API-Key": credentials.need("PORTAINER_API_KEY")}
        self._session = http.session(guard, tls=tls, headers=headers, timeout=timeout)
        self._hidden: set[str] = set()
        self.url = settings.url

    # -- one request ------------------------------------------------------------------------------
    def ask(
        self, method: str, path: str, body: Any = None, *, params: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> requests.Response:  # fmt: skip
        """A successful answer, or :class:`Answered`. ``seconds`` is how long an answer may take."""
        answer = self._session.request(
            method, f"{self.url}/api{path}", json=body, params=params, allow_redirects=False,
            timeout=(http.CONNECT_SECONDS, seconds) if seconds else None,
        )  # fmt: skip
        if answer.status_code >= 300:
            raise self._error(method, path, answer)
        return answer

    def _error(self, method: str, path: str, answer: requests.Response) -> CutoverError:
        status = answer.status_code
        try:
            told = answer.json()
            message, details = str(told.get("message", "")), str(told.get("details", ""))
        except (ValueError, AttributeError, RecursionError):
            message, details = http.words_of(answer), ""
        # Its two spellings are mostly the same sentence; where they are not, the second is the reason.
        same = details.lower() == message.lower()
        said = " ".join((message if same or not details else f"{message}: {details}").split())
        # Portainer passes on what Compose stumbled over, which may be the middle of a key.
        reason = without_parts(self._credentials.redact(said), self._hidden)
        hint = {
            401: "Make an access token in Portainer (My account) and set PORTAINER_API_KEY.",
            403: "The access token's user may not do this; deploying needs an administrator of the environment.",
        }.get(status, "")
        if http.gateway(answer):
            said = f"A proxy in front of Portainer answered {status} to {method} {path}: {reason}."
            return OutcomeUnknown(self._credentials.redact(said), "Look in Portainer whether it happened before doing it again.")
        return Answered(
            status, self._credentials.redact(f"Portainer answered {status} to {method} {path}: {reason}."), reason, hint, said
        )

    def _stack_of(self, shown: Mapping[str, Any]) -> Stack:
        stack = Stack.of(shown)
        self._hidden |= set(stack.variables.values())
        return stack

    def _pairs(self, variables: Mapping[str, str]) -> list[dict[str, str]]:
        self._hidden |= set(variables.values())
        return [{"name": name, "value": value} for name, value in variables.items()]

    def _json(self, method: str, path: str, body: Any = None, **rest: Any) -> Any:
        answer = self.ask(method, path, body, **rest)
        if answer.status_code == 204 or not answer.content:
            return None
        return http.json_of(answer, "Portainer")

    # -- Portainer itself -------------------------------------------------------------------------
    @cached_property
    def version(self) -> str:
        """Its version, from a route that needs no key."""
        return str(self._status["Version"])

    @cached_property
    def _status(self) -> dict[str, Any]:
        told = self._json("GET", "/system/status")
        if not isinstance(told, dict) or "Version" not in told:
            raise Unreachable(f"{self.url} does not answer like Portainer.", "Look at portainer.url in site.yaml.")
        return told

    @property
    def instance(self) -> str:
        """The id of its database: another one means that Portainer was set up anew."""
        return str(self._status.get("InstanceID", ""))

    @cached_property
    def behaviour(self) -> Behaviour:
        """What this version does."""
        return Behaviour.of(self.version)

    def user(self) -> dict[str, Any]:
        """Whose access token it is; ``Role`` 1 is an administrator."""
        told: dict[str, Any] = self._json("GET", "/users/me")
        return told

    def need_sight(self) -> None:
        """:class:`Refused` where the token's user is not shown everything: then what is not shown may be there all the same.

        Portainer leaves out of its lists, without a word, what a user may not see.
        """
        user = self.user()
        if user.get("Role") != ADMINISTRATOR:
            raise Refused(
                f"The access token's user {user.get('Username', '')!r} is not an administrator of Portainer, so stacks, "
                "containers and volumes of others are hidden from it, and nobody can say what is not there.",
                "Make the access token as an administrator (My account) and set PORTAINER_API_KEY.",
            )

    @cached_property
    def _sight(self) -> bool:
        self.need_sight()
        return True

    def _all(self, listed: Iterable[dict[str, Any]] | None) -> list[dict[str, Any]]:
        """A list as it was answered, where it can be taken for all that there is."""
        return list(listed or []) if self._sight else []

    def environments(self) -> list[dict[str, Any]]:
        """Every environment."""
        return list(self._json("GET", "/endpoints", params={"excludeSnapshots": "true"}) or [])

    @cached_property
    def endpoint(self) -> int:
        """The id of the environment that site.yaml names; :class:`Refused` with the known names."""
        known = self.environments()
        for environment in known:
            if environment["Name"] == self._settings.environment:
                if kind := _NO_DOCKER.get(int(environment.get("Type") or 0)):
                    raise Refused(
                        f"The environment {self._settings.environment!r} of Portainer is {kind}, and has no Docker engine.",
                        "Correct portainer.environment in site.yaml.",
                    )
                return int(environment["Id"])
        self.need_sight()
        names = ", ".join(repr(e["Name"]) for e in known) or "none"
        raise Refused(
            f"Portainer has no environment {self._settings.environment!r}. It has: {names}.",
            "Correct portainer.environment in site.yaml.",
        )

    # -- stacks -----------------------------------------------------------------------------------
    def stacks(self) -> list[Stack]:
        """Every stack, of every environment. Like every list here, :class:`Refused` where it may be incomplete."""
        return [self._stack_of(shown) for shown in self._all(self._json("GET", "/stacks"))]

    def stack(self, name: str) -> Stack | None:
        """The stack of this name in the environment, or None. Portainer compares names without case."""
        found = next((s for s in self.stacks() if s.name.lower() == name.lower() and s.endpoint == self.endpoint), None)
        if found is None:
            self.need_sight()  # once more: a role can be taken away between two requests
            return None
        return self._with_source(found)

    def stack_file(self, stack: Stack) -> str:
        """The compose file as Portainer has it on its disk."""
        return str(self._json("GET", f"/stacks/{stack.id}/file")["StackFileContent"])

    def _git(self, stack: Stack | None = None) -> dict[str, Any]:
        """How the repository is read. Without a token of ours, a stack keeps the password that Portainer has for it."""
        token = self._credentials.get("GIT_TOKEN")
        if not token and (stack is None or stack.login is None):
            return {"RepositoryAuthentication": False}
        return {
            "RepositoryAuthentication": True,
            "RepositoryUsername": (self._credentials.get("GIT_USERNAME") or "token") if token else stack and stack.login,
            "RepositoryPassword": token or "",
        }

    def create(
        self, *, name: str, repository: str, reference: str, file: str, variables: Mapping[str, str],
        auto_update: Mapping[str, Any] | None, seconds: float,
    ) -> Stack:  # fmt: skip
        """Make a stack from Git. The answer only means that Portainer has taken it (see :class:`Behaviour`)."""
        body = {
            "Name": name, "RepositoryURL": repository, "RepositoryReferenceName": reference, "ComposeFile": file,
            "AdditionalFiles": [], "TLSSkipVerify": False, "Env": self._pairs(variables), **self._git(),
        }  # fmt: skip
        if auto_update:
            body["AutoUpdate"] = dict(auto_update)
        path = "/stacks/create/standalone/repository"
        return self._stack_of(self._json("POST", path, body, params={"endpointId": self.endpoint}, seconds=seconds))

    def set_git(
        self, stack: Stack, *, reference: str, variables: Mapping[str, str], auto_update: Mapping[str, Any] | None
    ) -> Stack:
        """Set what the stack follows and how. Deploys nothing; what is not given is gone."""
        body = {
            "RepositoryReferenceName": reference,
            "Env": self._pairs(variables),
            "TLSSkipVerify": stack.skip_tls,
            "Prune": False,
            **self._git(stack),
        }
        if auto_update:
            body["AutoUpdate"] = dict(auto_update)
        return self._stack_of(
            self._json("POST", f"/stacks/{stack.id}/git", body, params={"endpointId": self.endpoint}, seconds=120)
        )

    def redeploy(self, stack: Stack, *, reference: str, variables: Mapping[str, str], seconds: float) -> Stack:
        """Fetch the reference and recreate the containers, also when nothing is new (that is: restart the service).

        The image is not pulled: :meth:`pull` did that before, so that a registry cannot fail a deployment half-way.
        """
        body = {
            "RepositoryReferenceName": reference, "Env": self._pairs(variables), "Prune": False, "PullImage": False,
            "RepullImageAndRedeploy": False, **self._git(stack),
        }  # fmt: skip
        path = f"/stacks/{stack.id}/git/redeploy"
        return self._stack_of(self._json("PUT", path, body, params={"endpointId": self.endpoint}, seconds=seconds))

    def remove(self, stack: Stack, *, seconds: float) -> None:
        """Delete the stack: its containers and network go, its volumes stay."""
        self._json("DELETE", f"/stacks/{stack.id}", params={"endpointId": self.endpoint}, seconds=seconds)

    def set_interval(self, source: Source, interval: str) -> None:
        """Set a Git source's polling interval, for every stack that shares it; empty ends polling."""
        self._json("PUT", f"/gitops/sources/{source.id}", {"interval": interval})

    def _with_source(self, stack: Stack) -> Stack:
        """The stack with its source. Of its own interval, which Portainer shows and does not go by, it has the source's instead.

        Only a stack's own page names its source, lists do not. Portainer makes one, or takes the one that there is.
        """
        if not self.behaviour.sources or not stack.from_git:
            return stack
        number = self._json("GET", f"/stacks/{stack.id}").get("GitSourceId")
        told = self._json("GET", f"/gitops/sources/{number}") if number else {}
        source = Source(int(number), str(told.get("interval") or ""), int(told.get("usedBy") or 0)) if number else None
        update = {**(stack.auto_update or {}), "Interval": source.interval if source else ""}
        return replace(stack, source=source, auto_update=update if any(update.values()) else None)

    # -- Docker -----------------------------------------------------------------------------------
    def docker(self, method: str, path: str, **rest: Any) -> Any:
        """A route of the Docker engine, through Portainer."""
        return self._json(method, f"/endpoints/{self.endpoint}/docker{path}", **rest)

    def _docker_or_none(self, path: str) -> Any:
        try:
            return self.docker("GET", path)
        except Answered as error:
            if error.status == 404:
                return None
            raise

    def ping(self) -> None:
        """Raises where Portainer does not reach its Docker engine."""
        self.ask("GET", f"/endpoints/{self.endpoint}/docker/_ping")

    def info(self) -> dict[str, Any]:
        """The engine: ``NCPU``, ``MemTotal`` (bytes), ``ServerVersion``."""
        told: dict[str, Any] = self.docker("GET", "/info")
        return told

    def containers(self, project: str | None = None) -> list[dict[str, Any]]:
        """Every container, stopped ones too; of one Compose project only where it is named."""
        params: dict[str, Any] = {"all": "1"}
        if project is not None:
            params["filters"] = json.dumps({"label": [f"{PROJECT}={project}"]})
        return self._all(self.docker("GET", "/containers/json", params=params))

    def container(self, container: str) -> dict[str, Any] | None:
        """One container in full."""
        found: dict[str, Any] | None = self._docker_or_none(f"/containers/{container}/json")
        return found

    def remove_container(self, container: str) -> None:
        """Remove a container that does not run; Docker refuses where it does. Volumes stay."""
        self.docker("DELETE", f"/containers/{container}")

    def service(self, project: str, service: str) -> dict[str, Any] | None:
        """The container of a stack's service, in full; None where there is none. Of two the one that runs."""
        rows = of_service(self.containers(project), project, service)
        return self.container(rows[0]["Id"]) if rows else None

    def memory_used(self, container: str) -> int:
        """Bytes that a running container uses, without the page cache that it would give back."""
        told = self.docker("GET", f"/containers/{container}/stats", params={"stream": "false", "one-shot": "true"})
        memory = (told or {}).get("memory_stats") or {}
        return max(0, int(memory.get("usage") or 0) - int((memory.get("stats") or {}).get("inactive_file") or 0))

    def image(self, reference: str) -> dict[str, Any] | None:
        """An image that the engine has; by name, digest or id."""
        found: dict[str, Any] | None = self._docker_or_none(f"/images/{quote(reference, safe=':@/')}/json")
        return found

    def in_registry(self, reference: str) -> str | None:
        """None where the engine could pull the image, else the reason why it cannot. Pulls nothing."""
        try:
            self.docker("GET", f"/distribution/{quote(reference, safe=':@/')}/json", seconds=60)
        except Answered as error:
            return error.reason
        return None

    def digest_of(self, reference: str) -> str:
        """The digest (``sha256:...``) that a tag has in the registry now, asked by the engine. Raises :class:`Answered`."""
        found = self.docker("GET", f"/distribution/{quote(reference, safe=':@/')}/json", seconds=60)
        digest = str(((found if isinstance(found, dict) else {}).get("Descriptor") or {}).get("digest") or "")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise Answered(502, f"The Docker engine did not say which digest {reference} has.", "the engine named no digest")
        return digest

    def pull(self, name: str, digest: str, *, seconds: float) -> None:
        """Pull an image by digest. :class:`Answered` with the registry's words where it cannot be pulled."""
        params = {"fromImage": name, "tag": digest}
        answer = self.ask("POST", f"/endpoints/{self.endpoint}/docker/images/create", params=params, seconds=seconds)
        for line in answer.text.splitlines():
            # The engine answers 200 and then tells of errors in the stream.
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("error"):
                raise Answered(500, f"The image {name}@{digest} could not be pulled: {said['error']}.", str(said["error"]))

    def volume(self, name: str) -> dict[str, Any] | None:
        """A volume, or None."""
        found: dict[str, Any] | None = self._docker_or_none(f"/volumes/{quote(name, safe='')}")
        return found

    def volumes(self) -> list[dict[str, Any]]:
        """Every volume."""
        return self._all((self.docker("GET", "/volumes") or {}).get("Volumes"))

    def networks(self) -> list[dict[str, Any]]:
        """Every network."""
        return self._all(self.docker("GET", "/networks"))

    def remove_volume(self, name: str) -> None:
        """Delete a volume and what is in it."""
        self.docker("DELETE", f"/volumes/{quote(name, safe='')}")

    # -- before and after -------------------------------------------------------------------------
    def picture(self) -> Picture:
        """Portainer and its VM as they are now."""
        rows = {}
        for row in self.containers():
            found = self.container(row["Id"])
            if found is not None:
                state = found["State"]
                rows[found["Name"].lstrip("/")] = {
                    "id": found["Id"], "image": found["Config"]["Image"], "status": state["Status"],
                    "started": state["StartedAt"], "health": (state.get("Health") or {}).get("Status", ""),
                    "project": (found["Config"].get("Labels") or {}).get(PROJECT, ""),
                }  # fmt: skip
        return self._with_stacks(rows, tuple(sorted(v["Name"] for v in self.volumes())))

    def glance(self) -> Picture:
        """The same in four cheap requests, for who asks all the time: of containers only which there are and whether they run."""
        rows = {
            name_of(row): {"id": row["Id"], "status": row["State"], "project": (row.get("Labels") or {}).get(PROJECT, "")}
            for row in self.containers()
            if row.get("Names")
        }
        return self._with_stacks(rows, ())

    def _with_stacks(self, containers: Mapping[str, Mapping[str, Any]], volumes: tuple[str, ...]) -> Picture:
        for name in ("_status", "version"):  # asked anew: a restart may have changed them
            self.__dict__.pop(name, None)
        return Picture(
            version=self.version,
            instance=self.instance,
            environments={e["Name"]: int(e.get("Status") or 0) for e in self.environments()},
            stacks={self._called(s): {"id": s.id, "status": s.status, "commit": s.commit} for s in self.stacks()},
            containers=containers,
            volumes=volumes,
        )

    def _called(self, stack: Stack) -> str:
        """A stack's name; names are only unique within an environment, so one of another environment says which."""
        return stack.name if stack.endpoint == self.endpoint else f"{stack.name} (environment {stack.endpoint})"
