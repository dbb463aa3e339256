"""VM 1001 of the lab: Portainer and the Docker engine it manages, in one process.

``python -m lab.portainer --config FILE.json`` serves Portainer's API for Git stacks over TLS. A deployment really
clones from the Git server, is really read by Compose, and its containers are real processes (see
:mod:`lab.fake_docker`); webhooks and polling really pull. Ending this process with SIGTERM is the VM shutting down,
killing it is a power cut, starting it again is the VM coming up: containers return by their restart policy, stacks,
volumes and the instance id are as before.

Field shapes and error texts are those of Portainer 2.23.0, recorded from a real one; what other versions do differently
is :class:`Behaviour`. Faults are *knobs* in ``knobs.json`` of the state folder, read before every request.

Not modelled, because the tool uses none of it: users, teams, sessions and CSRF (access tokens only), Kubernetes, Swarm
and Edge, registries with credentials, editing stacks in place (it would detach them from Git), relative-path volumes,
templates, restoring a backup.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from lab import fake_docker as docker
from lab.fake_docker import Engine, EngineError, Image
from lab.git import GIT_SECONDS, quiet_environment
from lab.http_server import HttpServer

ENDPOINT = 1
#: The home of Portainer's process, which Compose puts where a variable says ``${HOME}``.
PORTAINERS_HOME = "/root"
ADMINISTRATOR = 1
MANIFEST = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Behaviour:
    """What differs between Portainer's versions."""

    asynchronous: bool
    """Create and redeploy answer at once with status 3; failure is status 4."""
    teardown: bool
    """A deployment that fails takes the whole project down."""
    keeps_failed: bool
    """A stack whose creation failed stays."""
    webhook_waits: bool
    """The webhook answers when the deployment has ended."""
    keeps_variables: bool
    """A redeploy without Env keeps the stored variables."""
    sources: bool
    """Git sources are objects of their own, which stacks of one repository and login share."""
    interval_ignored: bool
    """A polling interval that is set on the stack is stored, shown, and not used: the source's counts."""

    @classmethod
    def of(cls, version: str) -> Behaviour:
        """What a version does, as far as it is known; the exact releases of some changes are not."""
        number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        modern = number >= (2, 42)
        return cls(
            asynchronous=modern,
            teardown=(2, 15) <= number < (2, 34),
            keeps_failed=modern,
            webhook_waits=number < (2, 23),
            keeps_variables=modern,
            sources=number >= (2, 43),
            interval_ignored=number >= (2, 44),
        )


class Answer(Exception):
    """An error answer: status, and the message in Portainer's two spellings."""

    def __init__(self, status: int, message: str, details: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.details = status, message, message if details is None else details


def deploy_error(said: str) -> Answer:
    return Answer(500, f"failed to deploy a stack: {said}", f"Failed to deploy a stack: {said}")


def git_error(said: str, *, again: bool = False) -> Answer:
    """What cannot be cloned; ``again``: for a stack that is there already."""
    message = "Unable to clone git repository directory" if again else f"unable to clone git repository: {said}"
    return Answer(500, message, f"Unable to clone git repository: {said}")


def normal(name: str) -> str:
    """The Compose project's name."""
    return re.sub(r"[^-_a-z0-9]", "", name.lower())


def duration(text: str) -> float | None:
    """Seconds of a Go duration, None where it is none."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s))+", text):
        return None
    return docker.seconds(text, 0.0)


def unescaped(node: Any) -> Any:
    """Compose's printed configuration with its ``$$`` as the ``$`` that a container gets."""
    if isinstance(node, str):
        return node.replace("$$", "$")
    if isinstance(node, dict):
        return {key: unescaped(value) for key, value in node.items()}
    return [unescaped(value) for value in node] if isinstance(node, list) else node


def qdrant_image(reference: str, **environment: str) -> dict[str, Any]:
    """The image ``name:tag@digest`` as a process of the lab; ``environment`` is what the image brings."""
    rest, _, digest = reference.partition("@")
    name, _, tag = rest.rpartition(":")
    return {
        "name": name, "tag": tag, "digest": digest, "command": ["{python}", "-m", "lab.qdrant"],
        "environment": {"LAB_QDRANT_VERSION": tag.removeprefix("v"), **environment},
        "volumes": {"/qdrant/storage": "QDRANT__STORAGE__STORAGE_PATH", "/qdrant/snapshots": "QDRANT__STORAGE__SNAPSHOTS_PATH"},
        "listen": ["QDRANT__SERVICE__HOST", "QDRANT__SERVICE__HTTP_PORT"],
    }  # fmt: skip


def idle_image(name: str, tag: str) -> dict[str, Any]:
    """An image whose program does nothing: what the other containers of the VM are made of."""
    digest = "sha256:" + hashlib.sha256(f"{name}:{tag}".encode()).hexdigest()
    return {"name": name, "tag": tag, "digest": digest, "command": ["sleep", "infinity"]}


def compose_binary() -> str:
    import compose

    return str(Path(compose.__path__[0]) / "docker-compose")


#: Stands for the folder of a stack in an answer that is kept.
_FOLDER = "<the folder of the stack>"


def _kept_answer(words: Sequence[str], folder: Path) -> Path | None:
    """Where Compose's answer to these words about these very files is kept for the labs of one process; None: nowhere.

    Each lab begins with the same stacks, and asking Compose costs 30 ms of a processor.
    """
    if "LAB_FORKSERVER" not in os.environ:
        return None
    asked = hashlib.sha256(repr([word.replace(str(folder), _FOLDER) for word in words]).encode())
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_symlink():
            return None
        if name.parts[0] != ".git" and file.is_file():
            asked.update(repr((str(name), file.read_bytes())).encode())
    return Path(os.environ["LAB_FORKSERVER"]).with_name("compose") / asked.hexdigest()


def _keep(file: Path, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # the labs end
        file.parent.mkdir(exist_ok=True)
        building = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
        building.write_text(text, encoding="utf-8")
        building.replace(file)


class Git:
    """Git as Portainer uses it: the hash of a reference, and a shallow clone."""

    @staticmethod
    def _run(words: list[str], login: Mapping[str, Any] | None) -> str:
        extra = {}
        if login:
            # Not in the arguments: every user of a machine can read those.
            extra = {
                "GIT_ASKPASS": str(Path(__file__).with_name("askpass.sh")),
                "LAB_GIT_USERNAME": login.get("Username") or "token",
                "LAB_GIT_PASSWORD": login.get("Password") or "",
            }
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, check=False, timeout=GIT_SECONDS,
            env=quiet_environment(extra),
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout
        said = done.stderr
        if "Authentication failed" in said or "could not read Username" in said or "terminal prompts" in said:
            raise ValueError("authentication failed, please ensure that the git credentials are correct")
        if "not found" in said and "repository" in said:
            raise ValueError("git repository could not be found, please ensure that the URL is correct")
        if "Remote branch" in said:
            raise ValueError("failed to clone git repository: reference not found")
        raise ValueError(f"failed to clone git repository: {said.strip().splitlines()[-1] if said.strip() else 'failed'}")

    @classmethod
    def hash_of(cls, url: str, reference: str, login: Mapping[str, Any] | None) -> str:
        listed = cls._run(["ls-remote", url], login)
        found: dict[str, str] = {}
        for line in listed.splitlines():
            commit, _, name = line.partition("\t")
            found[name] = commit
        wanted = reference or "HEAD"
        if wanted not in found:
            raise ValueError("failed to clone git repository: reference not found")
        return found[wanted]

    @classmethod
    def clone(cls, url: str, reference: str, login: Mapping[str, Any] | None, folder: Path) -> None:
        cls.hash_of(url, reference, login)
        short = re.sub(r"^refs/(heads|tags)/", "", reference)
        words = ["clone", "--quiet", "--depth", "1", "--single-branch", *(["--branch", short] if short else [])]
        folder.parent.mkdir(parents=True, exist_ok=True)
        cls._run([*words, url, str(folder)], login)
        shutil.rmtree(folder / ".git")


class Portainer:
    """The server's state and what its routes do; stacks are kept in the shape that the API shows."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.folder = Path(config["state"])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.version: str = config.get("version", "2.23.0")
        self.edition: str = config.get("edition", "CE")
        self.environment: str = config.get("environment", "local")
        self.keys: dict[str, dict[str, Any]] = {key["key"]: key for key in config["api_keys"]}
        self.knobs: dict[str, Any] = {}
        self.behaviour = Behaviour.of(self.version)
        machine = config.get("machine") or {}
        if isinstance(machine, str):  # the hypervisor's view of this VM, read at every start as a boot does
            machine = json.loads(Path(machine).read_text()) if Path(machine).exists() else {}
        cores, memory = int(machine.get("cores", 4)), int(machine.get("memory_mb", 8192))
        self.engine: Any
        if config.get("docker"):  # the engine of this machine is the VM's
            from lab.containers.docker_engine import DockerEngine

            os.environ.update(config["docker"]["environment"])
            self.engine = DockerEngine(
                self.folder / "compose", owner=config["docker"]["owner"], compose=compose_binary(), cores=cores, memory_mb=memory,
                knobs=self.knobs,
            )  # fmt: skip
        else:
            self.engine = Engine(
                self.folder / "docker",
                address=config["address"],
                images=[Image.of(facts) for facts in config["images"]],
                pulled=config.get("pulled", []),
                cores=cores,
                memory_mb=memory,
                patience=float(config.get("patience", 0.5)),
                knobs=self.knobs,
                behind=config.get("behind"),
            )
        self.instance = str(uuid.uuid4())
        self.stacks: dict[int, dict[str, Any]] = {}
        self.sources: dict[int, dict[str, Any]] = {}
        self.logins: dict[str, dict[str, str]] = {}
        self.next = 1
        self.status = 1
        self._pollers: dict[int, threading.Event] = {}
        self._snapshot: dict[str, Any] = {}
        self._save_lock = threading.RLock()
        #: By stack: how often its files were fetched, and by how many at this moment.
        self._fetches: dict[int, tuple[int, int]] = {}
        fresh = not (self.folder / "portainer.json").exists()
        if not fresh:
            self._load()
        self.read_knobs()
        self.engine.boot()
        if fresh:
            self._seed(config)
        self._take_snapshot()
        self.save()
        for stack in self.stacks.values():
            self._schedule(stack)

    # -- state ------------------------------------------------------------------------------------
    def _load(self) -> None:
        kept = json.loads((self.folder / "portainer.json").read_text())
        self.instance, self.next, self.logins = kept["instance"], kept["next"], kept["logins"]
        self.stacks = {int(key): stack for key, stack in kept["stacks"].items()}
        self.sources = {int(key): source for key, source in kept["sources"].items()}

    def save(self) -> None:
        with self._save_lock:
            file = self.folder / "portainer.json"
            file.with_suffix(".new").write_text(
                json.dumps(
                    {"instance": self.instance, "next": self.next, "stacks": self.stacks, "sources": self.sources,
                     "logins": self.logins}
                )
            )  # fmt: skip
            file.with_suffix(".new").replace(file)

    def read_knobs(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            given = json.loads((self.folder / "knobs.json").read_text())
            for name in [name for name in self.knobs if name not in given]:
                del self.knobs[name]
            self.knobs.update(given)
            fields = Behaviour.__dataclass_fields__
            changed = {k: v for k, v in given.items() if k in fields}
            self.behaviour = Behaviour(**{**vars(Behaviour.of(given.get("version", self.version))), **changed})

    @property
    def shown_version(self) -> str:
        return str(self.knobs.get("version", self.version))

    def _seed(self, config: Mapping[str, Any]) -> None:
        """What was on the VM before the plan: other stacks, and containers of no stack."""
        for name, image in (config.get("containers") or {}).items():
            self.engine.run(name, image, volumes={"/data": f"{name}_data"})
        for name, text in (config.get("stacks") or {}).items():
            stack = self._record({"Name": name, "Env": []}, None, "docker-compose.yml")
            folder = self._clone_folder(stack["Id"])
            folder.mkdir(parents=True)
            (folder / "docker-compose.yml").write_text(text)
            self._up(stack, force=False, pull=False)
            self.stacks[stack["Id"]] = stack

    def _clone_folder(self, number: int) -> Path:
        return self.folder / "compose" / str(number)

    # -- deploying --------------------------------------------------------------------------------
    @property
    def _docker_away(self) -> bool:
        return bool(self.knobs.get("docker_down")) or (isinstance(self.engine, Engine) and self.engine.away)

    def _config(self, stack: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The compose file as Compose reads it, with the stack's variables; what it prints when it cannot."""
        words = [compose_binary(), "-f", str(folder / stack["EntryPoint"]), "--project-name", normal(stack["Name"])]
        if stack["Env"]:
            beside = (folder / stack["EntryPoint"]).with_name(".env")
            lines = beside.read_text() if beside.exists() else ""
            lines += "".join(f"{pair['name']}={pair['value']}\n" for pair in stack["Env"])
            (folder / "stack.env").write_text(lines)
            words += ["--env-file", str(folder / "stack.env")]
        kept = _kept_answer(words, folder)
        if kept is not None and kept.exists():
            said = kept.read_text(encoding="utf-8").replace(_FOLDER, str(folder))
        else:
            done = subprocess.run(
                [*words, "config", "--format", "json"], capture_output=True, text=True, check=False, timeout=30,
                env={"PATH": os.environ.get("PATH", ""), "HOME": PORTAINERS_HOME}, cwd=folder,
            )  # fmt: skip
            if done.returncode != 0:
                raise EngineError(500, done.stderr.replace(str(folder), f"/data/compose/{stack['Id']}"))
            said = done.stdout
            if kept is not None:
                _keep(kept, said.replace(str(folder), _FOLDER))
        made: dict[str, Any] = unescaped(json.loads(said))
        return made

    def _up(self, stack: Mapping[str, Any], *, force: bool, pull: bool) -> None:
        """``docker-compose up``; on the versions that do, a failure takes the project down."""
        project = normal(stack["Name"])
        number = stack["Id"]
        try:
            config = self._config(stack, self._clone_folder(number))
            if pull:
                self.engine.pull_all(config)
        except EngineError as error:
            if not pull and self.behaviour.teardown:
                self.engine.down(project)
            raise deploy_error(error.message) from None
        time.sleep(float(self.knobs.get("deploy_seconds", 0)))
        if self.knobs.get("keeps_old_containers"):
            return
        try:
            self.engine.up(config, project=project, folder=f"/data/compose/{number}", file=stack["EntryPoint"], force=force)
        except EngineError as error:
            if self.behaviour.teardown and not self._docker_away:
                self.engine.down(project)
            raise deploy_error(error.message) from None

    def _login(self, body: Mapping[str, Any], stack: Mapping[str, Any] | None) -> dict[str, str] | None:
        if not body.get("repositoryauthentication"):
            return None
        kept = self.logins.get(str(stack["Id"])) if stack else None
        password = body.get("repositorypassword") or (kept or {}).get("Password", "")
        return {"Username": body.get("repositoryusername") or (kept or {}).get("Username", ""), "Password": password}

    @contextlib.contextmanager
    def _fetching(self, number: int) -> Iterator[Callable[[], bool]]:
        """Yields what tells whether nobody else fetched the files of this stack meanwhile."""
        with self._save_lock:
            before, at_work = self._fetches.get(number, (0, 0))
            self._fetches[number] = before + 1, at_work + 1
        try:
            yield lambda: at_work == 0 and self._fetches[number][0] == before + 1
        finally:
            with self._save_lock:
                begun, left = self._fetches[number]
                self._fetches[number] = begun, left - 1

    def _fetch(self, stack: Mapping[str, Any], login: Mapping[str, Any] | None) -> str:
        """Move the old files aside and clone; they come back where that fails. Answers the hash, asked for separately.

        As in the real one nothing keeps two deployments apart: while one clones, the other finds no file.
        """
        target, git = self._clone_folder(stack["Id"]), stack["GitConfig"]
        old = target.with_name(f"{target.name}-old")
        if self.knobs.get("hash_ahead_of_file") and target.exists():
            return Git.hash_of(git["URL"], git["ReferenceName"], login)
        with self._fetching(stack["Id"]) as alone:
            try:
                moved = target.exists()
                if moved:
                    shutil.rmtree(old, ignore_errors=True)  # what one that was killed has left
                    target.rename(old)
            except OSError as error:
                said = f"unable to move git repository directory: rename {old}: {error.strerror}"
                raise Answer(500, "Unable to move git repository directory", said) from None
            try:
                if self.knobs.get("git_down"):
                    raise ValueError("failed to clone git repository: dial tcp: connect: connection refused")
                Git.clone(git["URL"], git["ReferenceName"], login, target)
                found = Git.hash_of(git["URL"], git["ReferenceName"], login)
            except (ValueError, OSError, subprocess.TimeoutExpired) as error:
                if not alone() and not re.search("reference not found|authentication|connection refused", str(error)):
                    # Another deployment took the folder away meanwhile. What it then could not do git says in a dozen ways;
                    # these are the real one's words, as recorded.
                    pack = f"/data/compose/{stack['Id']}/.git/objects/pack"
                    error = ValueError(f"failed to clone git repository: mkdir {pack}: no such file or directory")
                shutil.rmtree(target, ignore_errors=True)
                with contextlib.suppress(OSError):
                    old.rename(target)
                raise git_error(str(error), again=moved) from None
            shutil.rmtree(old, ignore_errors=True)
            return found

    def _record(self, body: Mapping[str, Any], git: dict[str, Any] | None, file: str) -> dict[str, Any]:
        with self._save_lock:
            number, self.next = self.next, self.next + 1
        return {
            "Id": number, "Name": body["Name"], "Type": 2, "EndpointId": ENDPOINT, "SwarmId": "", "EntryPoint": file,
            "Env": body.get("Env") or [],
            "ResourceControl": {
                "Id": number, "ResourceId": f"{ENDPOINT}_{body['Name']}", "SubResourceIds": [], "Type": 6, "UserAccesses": [],
                "TeamAccesses": [], "Public": False, "AdministratorsOnly": True, "System": False,
            },
            "Status": 1, "ProjectPath": f"/data/compose/{number}", "CreationDate": int(time.time()), "CreatedBy": "admin",
            "UpdateDate": 0, "UpdatedBy": "", "AdditionalFiles": None, "AutoUpdate": None, "Option": None, "GitConfig": git,
            "FromAppTemplate": False, "Namespace": "",
        }  # fmt: skip

    def _auto_update(self, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if not given:
            return None
        lower = {key.lower(): value for key, value in given.items()}
        interval, webhook = lower.get("interval") or "", lower.get("webhook") or ""
        if not interval and not webhook:
            raise Answer(400, "Invalid request payload", "Webhook or Interval must be provided")
        if webhook:
            try:
                uuid.UUID(webhook)
            except ValueError:
                raise Answer(400, "Invalid request payload", "invalid Webhook format") from None
        if interval and duration(interval) is None:
            raise Answer(400, "Invalid request payload", "invalid Interval format")
        return {"Interval": interval, "Webhook": webhook, "JobID": "", "ForceUpdate": bool(lower.get("forceupdate")),
                "ForcePullImage": bool(lower.get("forcepullimage"))}  # fmt: skip

    def create(self, body: dict[str, Any], user: str) -> dict[str, Any]:
        lower = {key.lower(): value for key, value in body.items()}
        for needed in ("name", "repositoryurl"):
            if not lower.get(needed) and not (needed == "repositoryurl" and lower.get("sourceid")):
                raise Answer(400, "Invalid request payload", f"Invalid {needed}")
        source = self.sources.get(int(lower.get("sourceid") or 0))
        url = f"{source['url']}.git" if source else lower["repositoryurl"]
        if not re.match(r"https?://", url):
            raise Answer(400, "Invalid request payload", "Invalid repository URL. Must correspond to a valid URL format")
        auto = self._auto_update(lower.get("autoupdate"))
        name = normal(lower["name"])
        if any(normal(stack["Name"]) == name for stack in self.stacks.values()):
            raise Answer(409, f"A stack with the normalized name '{name}' already exists")
        if auto and auto["Webhook"] and self._by_webhook(auto["Webhook"]):
            raise Answer(409, f"Webhook ID: {auto['Webhook']} already exists")
        login = source["login"] if source else self._login(lower, None)
        git: dict[str, Any] = {
            "URL": url, "ReferenceName": lower.get("repositoryreferencename") or "",
            "ConfigFilePath": lower.get("composefile") or "docker-compose.yml",
            "Authentication": {"Username": login["Username"], "Password": ""} if login else None,
            "ConfigHash": "", "TLSSkipVerify": bool(lower.get("tlsskipverify")),
        }  # fmt: skip
        stack = self._record({"Name": lower["name"], "Env": lower.get("env")}, git, git["ConfigFilePath"])
        stack["AutoUpdate"], stack["CreatedBy"] = auto, user
        if self.behaviour.sources:
            stack["GitSourceId"] = (source or self._source_of(url, login))["id"]
        if login:
            self.logins[str(stack["Id"])] = login

        def work() -> None:
            git["ConfigHash"] = self._fetch(stack, login)
            self._up(stack, force=False, pull=False)

        def undo() -> None:
            shutil.rmtree(self._clone_folder(stack["Id"]), ignore_errors=True)

        self._carry_out(stack, work, new=True, undo=undo)
        return stack

    def _carry_out(self, stack: dict[str, Any], work: Callable[[], None], *, new: bool, undo: Callable[[], None]) -> None:
        """Do the work as the version does: before the answer, or behind it."""
        if not self.behaviour.asynchronous:
            try:
                work()
            except Answer:
                undo()
                raise
            stack["Status"] = 1
            self.stacks[stack["Id"]] = stack
            self._schedule(stack)
            self.save()
            return
        before = copy.deepcopy(self.stacks.get(stack["Id"]))
        stack["Status"], stack["DeploymentStatus"] = 3, []
        self.stacks[stack["Id"]] = stack
        self.save()

        def behind() -> None:
            if self.knobs.get("stuck_deploying"):
                return
            try:
                work()
            except Answer as error:
                if before and stack["GitConfig"] and before["GitConfig"]:
                    stack["GitConfig"]["ConfigHash"] = before["GitConfig"]["ConfigHash"]
                stack["Status"] = 4
                stack["DeploymentStatus"] = [{"Status": 4, "Time": int(time.time()), "Message": error.message}]
                if new and not self.behaviour.keeps_failed:
                    self.stacks.pop(stack["Id"], None)
                    undo()
            else:
                stack["Status"] = 1
                stack["DeploymentStatus"] = [{"Status": 1, "Time": int(time.time()), "Message": ""}]
            self._schedule(stack)
            self.save()

        threading.Thread(target=behind, daemon=True).start()

    def redeploy(self, number: int, body: dict[str, Any], user: str) -> dict[str, Any]:
        stack = copy.deepcopy(self.stack(number))
        git = stack["GitConfig"]
        if git is None:
            raise Answer(400, "Stack is not created from git")
        if stack["Status"] == 3:
            raise Answer(409, "Unable to update stack", "Stack deployment is already in progress")
        lower = {key.lower(): value for key, value in body.items()}
        if not self.behaviour.keeps_variables or lower.get("env") is not None:
            stack["Env"] = lower.get("env") or []
        if not self.behaviour.keeps_variables or lower.get("repositoryreferencename"):
            git["ReferenceName"] = lower.get("repositoryreferencename") or ""
        login = self._login(lower, stack)
        git["Authentication"] = {"Username": login["Username"], "Password": ""} if login else None
        pull = bool(lower.get("pullimage") or lower.get("repullimageandredeploy"))

        def work() -> None:
            git["ConfigHash"] = self._fetch(stack, login)
            self._up(stack, force=True, pull=pull)
            stack["UpdateDate"], stack["UpdatedBy"] = int(time.time()), user

        self._carry_out(stack, work, new=False, undo=lambda: None)
        return {**stack, "ResourceControl": None}

    def update_git(self, number: int, body: dict[str, Any], user: str) -> dict[str, Any]:
        stack = copy.deepcopy(self.stack(number))
        lower = {key.lower(): value for key, value in body.items()}
        if stack["GitConfig"] is None:
            raise Answer(400, "No Git config in the found stack")
        auto = self._auto_update(lower.get("autoupdate"))
        if auto and auto["Webhook"]:
            owner = self._by_webhook(auto["Webhook"])
            if owner and owner["Id"] != number:
                raise Answer(409, f"Webhook ID: {auto['Webhook']} already exists")
        login = self._login(lower, stack)
        reference = lower.get("repositoryreferencename") or ""
        try:
            Git.hash_of(stack["GitConfig"]["URL"], reference, login)
        except ValueError as error:
            raise Answer(500, "Unable to fetch git repository", str(error)) from None
        stack["AutoUpdate"], stack["Env"] = auto, lower.get("env") or []
        stack["GitConfig"]["ReferenceName"] = reference
        stack["GitConfig"]["Authentication"] = {"Username": login["Username"], "Password": ""} if login else None
        self.logins.pop(str(number), None)
        if login:
            self.logins[str(number)] = login
        stack["UpdatedBy"], stack["UpdateDate"] = user, int(time.time())
        self.stacks[number] = stack
        self._schedule(stack)
        self.save()
        return stack

    # -- automatic updates ------------------------------------------------------------------------
    def _by_webhook(self, given: str) -> dict[str, Any] | None:
        return next((s for s in self.stacks.values() if (s["AutoUpdate"] or {}).get("Webhook") == given), None)

    def _interval(self, stack: Mapping[str, Any]) -> float | None:
        said = (stack["AutoUpdate"] or {}).get("Interval") or ""
        if self.behaviour.interval_ignored:
            said = (self.sources.get(stack.get("GitSourceId", 0)) or {}).get("interval") or ""
        return duration(said) if said else None

    def _schedule(self, stack: Mapping[str, Any]) -> None:
        """One polling job per stack; also for a stopped one, which is how stopped stacks come back."""
        number = stack["Id"]
        if old := self._pollers.pop(number, None):
            old.set()
        every = self._interval(stack)
        if every is None:
            return
        stop = self._pollers[number] = threading.Event()

        def job() -> None:
            while not stop.wait(every):
                if number not in self.stacks:
                    return
                self.read_knobs()
                self.update_if_changed(number)

        threading.Thread(target=job, daemon=True).start()

    def update_if_changed(self, number: int) -> None:
        """What polling and webhook do: pull, then ``up`` without forcing, when the reference moved. Nobody is told."""
        stack = self.stacks.get(number)
        if stack is None or stack["GitConfig"] is None or stack["Status"] == 3:
            return
        git = stack["GitConfig"]
        login = self.logins.get(str(number))
        try:
            if Git.hash_of(git["URL"], git["ReferenceName"], login) == git["ConfigHash"]:
                return
            found = self._fetch(stack, login)
            self._up(stack, force=False, pull=True)
        except (Answer, ValueError, subprocess.TimeoutExpired) as error:
            print(f"webhook failed to redeploy a stack | {getattr(error, 'message', error)}", file=sys.stderr, flush=True)
            if self.behaviour.asynchronous:
                stack["Status"] = 4
                stack["DeploymentStatus"] = [{"Status": 4, "Time": int(time.time()), "Message": str(error)}]
                self.save()
            return
        git["ConfigHash"] = found
        stack["Status"], stack["UpdateDate"] = 1, int(time.time())
        self.save()

    def webhook(self, given: str) -> None:
        try:
            uuid.UUID(given)
        except ValueError:
            raise Answer(400, "Invalid stack identifier route variable", "invalid UUID format") from None
        stack = self._by_webhook(given)
        if stack is None:
            raise Answer(
                404, "Unable to find a stack with the specified webhook",
                "Object not found inside the database (bucket=stacks)",
            )  # fmt: skip
        if stack["Status"] == 3:
            raise Answer(409, "Stack deployment is already in progress")
        if self.behaviour.webhook_waits:
            self.update_if_changed(stack["Id"])
        else:
            threading.Thread(target=self.update_if_changed, args=(stack["Id"],), daemon=True).start()

    # -- the rest of a stack's life ---------------------------------------------------------------
    def stack(self, number: int) -> dict[str, Any]:
        if number not in self.stacks:
            raise Answer(
                404, "Unable to find a stack with the specified identifier inside the database",
                f"Object not found inside the database (bucket=stacks, key={number})",
            )  # fmt: skip
        return self.stacks[number]

    def file(self, number: int) -> str:
        stack = self.stack(number)
        try:
            return (self._clone_folder(number) / str(stack["EntryPoint"])).read_bytes().decode()
        except OSError:
            raise Answer(500, "Unable to retrieve Compose file from disk") from None

    def stop(self, number: int) -> dict[str, Any]:
        stack = self.stack(number)
        if stack["Status"] == 2:
            raise Answer(400, "Stack is already inactive")
        self.engine.down(normal(stack["Name"]))
        if job := self._pollers.pop(number, None):
            job.set()
        stack["Status"] = 2
        self.save()
        return {**stack, "ResourceControl": None}

    def start(self, number: int) -> dict[str, Any]:
        stack = self.stack(number)
        if stack["Status"] != 2:
            raise Answer(409 if self.behaviour.asynchronous else 400, "Stack is already active")
        if self.engine.of_project(normal(stack["Name"])):
            raise Answer(409, f"A stack with the normalized name '{normal(stack['Name'])}' is already running")
        self._up(stack, force=False, pull=False)
        stack["Status"] = 1
        self._schedule(stack)
        self.save()
        return {**stack, "ResourceControl": None}

    def delete(self, number: int) -> None:
        stack = self.stack(number)
        if stack["Status"] == 3:
            raise Answer(409, "Unable to delete stack", "Stack deployment is already in progress")
        if self.knobs.get("down_fails"):
            raise Answer(500, "failed to remove a stack: Error response from daemon: cannot stop container")
        self.engine.down(normal(stack["Name"]))
        if job := self._pollers.pop(number, None):
            job.set()
        del self.stacks[number]
        self.logins.pop(str(number), None)
        shutil.rmtree(self._clone_folder(number), ignore_errors=True)
        self.save()

    # -- Git sources (2.43 and newer) -------------------------------------------------------------
    def _find_source(self, url: str, login: Mapping[str, str] | None) -> dict[str, Any] | None:
        """Of one repository and login there is one; stacks of both share it."""
        return next((s for s in self.sources.values() if (s["url"], s["login"]) == (url.removesuffix(".git"), login)), None)

    def _source_of(self, url: str, login: Mapping[str, str] | None) -> dict[str, Any]:
        return self._find_source(url, login) or self._add_source(url, login, url.removesuffix(".git").rpartition("/")[2], "")

    def _add_source(self, url: str, login: Mapping[str, str] | None, name: str, interval: str) -> dict[str, Any]:
        with self._save_lock:
            number = max(self.sources, default=0) + 1
            self.sources[number] = {
                "id": number,
                "name": name,
                "url": url.removesuffix(".git"),
                "login": login,
                "interval": interval,
            }
            return self.sources[number]

    def make_source(self, body: Mapping[str, Any]) -> dict[str, Any]:
        url, interval, login = str(body.get("url") or ""), str(body.get("interval") or ""), body.get("authentication")
        if not re.match(r"https?://", url):
            raise Answer(400, "Invalid request payload", "invalid repository URL. Must correspond to a valid URL format")
        self._valid_interval(interval)
        kept = {"Username": login.get("username", ""), "Password": login.get("password", "")} if login else None
        if self._find_source(url, kept):
            raise Answer(409, "A source with this URL and credentials already exists")
        made = self._add_source(url, kept, str(body.get("name") or ""), interval if self.behaviour.interval_ignored else "")
        self.save()
        return self._bare(made)

    def change_source(self, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """What is not given stays. Versions before 2.44 do not know an interval."""
        if number not in self.sources:
            said = f"Object not found inside the database (bucket=sources, key={number})"
            raise Answer(404, "Unable to find a source with the specified identifier", said)
        given = {key: body[key] for key in ("name", "interval") if body.get(key) is not None}
        self._valid_interval(given.get("interval", ""))
        if not self.behaviour.interval_ignored:
            given.pop("interval", None)
        self.sources[number] |= given
        for stack in list(self.stacks.values()):
            if stack.get("GitSourceId") == number:
                self._schedule(stack)
        self.save()
        return self._bare(self.sources[number])

    @staticmethod
    def _valid_interval(interval: str) -> None:
        if interval and duration(interval) is None:
            raise Answer(400, "Invalid request payload", "invalid Interval format")

    @staticmethod
    def _bare(source: Mapping[str, Any]) -> dict[str, Any]:
        """A source as it is stored; so it is answered to what writes."""
        git: dict[str, Any] = {"URL": source["url"], "TLSSkipVerify": False}
        if source["login"]:
            git["Authentication"] = {"Username": source["login"]["Username"], "Password": ""}
        return {
            "id": source["id"], "name": source["name"], "type": 1, "git": git, "public": False, "administratorsOnly": True,
            "userAccesses": [], "teamAccesses": [],
        }  # fmt: skip

    def source(self, number: int) -> dict[str, Any]:
        if number not in self.sources:
            raise Answer(404, "Source not found", f"Object not found inside the database (bucket=sources, key={number})")
        source = self.sources[number]
        used = sum(1 for stack in self.stacks.values() if stack.get("GitSourceId") == number)
        shown = {
            "id": number, "name": source["name"], "type": "git", "url": source["url"], "status": "healthy", "usedBy": used,
            "environments": min(used, 1), "lastSync": 0, "connection": {"tlsSkipVerify": False}, "workflows": [], "access": {},
        }  # fmt: skip
        return {**shown, "interval": source["interval"]} if source["interval"] else shown

    # -- the environment --------------------------------------------------------------------------
    def _take_snapshot(self) -> None:
        self.status = 2 if self.knobs.get("docker_down") else 1
        if self.status == 2:
            return
        rows = list(self.engine.containers.values())
        running = [c for c in rows if c.state == "running"]
        self._snapshot = {
            "Time": int(time.time()), "DockerVersion": docker.SERVER_VERSION, "Swarm": False, "TotalCPU": self.engine.cores,
            "TotalMemory": self.engine.memory, "ContainerCount": len(rows), "RunningContainerCount": len(running),
            "StoppedContainerCount": len(rows) - len(running),
            "HealthyContainerCount": sum(c.health_status == "healthy" for c in running),
            "UnhealthyContainerCount": sum(c.health_status == "unhealthy" for c in running),
            "VolumeCount": len(self.engine.volumes), "ImageCount": len(self.engine.here), "ServiceCount": 0, "IsPodman": False,
            "StackCount": len({c.labels.get("com.docker.compose.project") for c in rows} - {None}),
        }  # fmt: skip

    def endpoint(self, *, snapshots: bool) -> dict[str, Any]:
        return {
            "Id": ENDPOINT, "Name": self.environment, "Type": 1, "ContainerEngine": "", "URL": "unix:///var/run/docker.sock",
            "GroupId": 1, "PublicURL": "", "Gpus": None, "TLSConfig": {"TLS": False, "TLSSkipVerify": False},
            "AzureCredentials": {"ApplicationID": "", "TenantID": "", "AuthenticationKey": ""}, "TagIds": [],
            "Status": self.status, "Snapshots": [self._snapshot] if snapshots and self._snapshot else [],
            "UserAccessPolicies": {}, "TeamAccessPolicies": {}, "EdgeKey": "", "EdgeCheckinInterval": 5,
            "ComposeSyntaxMaxVersion": "3.9",
            "SecuritySettings": {
                "allowBindMountsForRegularUsers": True, "allowPrivilegedModeForRegularUsers": True,
                "allowVolumeBrowserForRegularUsers": False, "allowHostNamespaceForRegularUsers": True,
                "allowDeviceMappingForRegularUsers": True, "allowStackManagementForRegularUsers": True,
                "allowContainerCapabilitiesForRegularUsers": True, "allowSysctlSettingForRegularUsers": True,
                "enableHostManagementFeatures": False,
            },
            "LastCheckInDate": 0, "QueryDate": 0, "Heartbeat": False, "AuthorizedUsers": None, "AuthorizedTeams": None,
            "Tags": None,
        }  # fmt: skip

    def shown(self, stack: Mapping[str, Any], *, source: bool = False) -> dict[str, Any]:
        """A stack in an answer; ``source``: whether it names its Git source, as few answers do."""
        made = copy.deepcopy(dict(stack))
        number = made.pop("GitSourceId", 0)
        if self.behaviour.sources and made.get("GitConfig"):
            made["GitConfig"]["URL"] = made["GitConfig"]["URL"].removesuffix(".git")
            if source:
                made["GitSourceId"] = number
            if polls := (self.sources.get(number) or {}).get("interval"):  # old clients are shown the source's
                made["AutoUpdate"] = {**(made["AutoUpdate"] or self._auto_update({"Interval": polls}) or {}), "Interval": polls}
        return made


class _Handler(BaseHTTPRequestHandler):
    """Portainer's routes."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _serve(self) -> None:
        portainer = self.server.portainer
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        portainer.read_knobs()
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        try:
            status, answer = self._route(portainer, parts.path, query, raw)
        except Answer as error:
            status, answer = error.status, {"message": error.message, "details": error.details}
        except EngineError as error:
            status, answer = error.status, {"message": error.message}
        if portainer.knobs.get("hang_up") and self.command in {"POST", "PUT", "DELETE"}:
            self.close_connection = True
            return
        self._send(status, answer)

    def _send(self, status: int, answer: Any) -> None:
        plain = isinstance(answer, (bytes, str))
        body = (answer.encode() if isinstance(answer, str) else answer) if plain else json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8" if plain else "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204 and self.command != "HEAD":
            self.wfile.write(body)

    def _user(self, portainer: Portainer) -> dict[str, Any]:
        given = self.headers.get("X-API-Key")
        if not given:
            raise Answer(401, "A valid authorization token is missing", "Unauthorized")
        for key, user in portainer.keys.items():
            if hmac.compare_digest(key, given):
                return user
        raise Answer(401, "Invalid JWT token", "Unauthorized")

    def _body(self, raw: bytes) -> dict[str, Any]:
        if not raw:
            raise Answer(400, "Invalid request payload", "EOF")
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise Answer(400, "Invalid request payload", str(error)) from None
        if not isinstance(body, dict):
            raise Answer(400, "Invalid request payload", "json: cannot unmarshal into Go value")
        return body

    def _environment(self, query: Mapping[str, str], what: str) -> None:
        """``endpointId`` is documented as optional; without it the environment 0 is looked for."""
        if query.get("endpointId") != str(ENDPOINT):
            raise Answer(
                404, f"Unable to find the {what} associated to the stack inside the database",
                f"Object not found inside the database (bucket=endpoints, key={query.get('endpointId', 0)})",
            )  # fmt: skip

    def _route(self, portainer: Portainer, path: str, query: Mapping[str, str], raw: bytes) -> tuple[int, Any]:
        method = "GET" if self.command == "HEAD" else self.command
        what = f"{method} {path}"
        if what == "GET /api/system/status":
            return 200, {"Version": portainer.shown_version, "InstanceID": portainer.instance}
        if method == "POST" and (found := re.fullmatch(r"/api/stacks/webhooks/([^/]+)", path)):
            portainer.webhook(found[1])
            return 204, ""
        user = self._user(portainer)
        name = user.get("user", "admin")
        if user.get("role", ADMINISTRATOR) != ADMINISTRATOR and (seen := self._as_shown_to_others(portainer, user, method, path)):
            return seen
        if what == "GET /api/system/version":
            return 200, {
                "UpdateAvailable": False, "LatestVersion": portainer.shown_version, "ServerVersion": portainer.shown_version,
                "ServerEdition": portainer.edition, "DatabaseVersion": portainer.shown_version,
                "VersionSupport": "STS", "Build": {}, "Dependencies": {}, "Runtime": {},
            }  # fmt: skip
        if what == "GET /api/users/me":
            return 200, {
                "Id": user.get("id", 1), "Username": name, "Role": user.get("role", 1), "TokenIssueAt": 0,
                "ThemeSettings": {"color": ""}, "UseCache": False, "PortainerAuthorizations": None,
                "EndpointAuthorizations": None, "forceChangePassword": False,
            }  # fmt: skip
        if what == "GET /api/endpoints":
            listed = [portainer.endpoint(snapshots=query.get("excludeSnapshots") != "true")]
            return 200, [e for e in listed if query.get("name") in {None, e["Name"]}]
        if found := re.fullmatch(r"/api/endpoints/(\d+)(/.*)?", path):
            if int(found[1]) != ENDPOINT:
                raise Answer(
                    404, "Unable to find an environment with the specified identifier inside the database",
                    f"Object not found inside the database (bucket=endpoints, key={found[1]})",
                )  # fmt: skip
            rest = found[2] or ""
            if method == "GET" and not rest:
                return 200, portainer.endpoint(snapshots=query.get("excludeSnapshot") != "true")
            if method == "POST" and rest == "/snapshot":
                portainer._take_snapshot()
                return 204, ""
            if rest.startswith("/docker/"):
                return self._docker(portainer, method, unquote(rest.removeprefix("/docker")), query, raw)
        if what == "POST /api/backup":
            self._body(raw)
            return 200, b"\x1f\x8b" + os.urandom(64)
        if path.startswith("/api/gitops/sources") and portainer.behaviour.sources:
            return self._sources(portainer, method, path, raw)
        if path == "/api/stacks" or path.startswith("/api/stacks/"):
            if method != "GET" and user.get("role", 1) != 1:
                raise Answer(403, "Access denied to resource", "Access denied to resource")
            return self._stacks(portainer, method, path, query, raw, name)
        return 404, "404 page not found\n"

    def _as_shown_to_others(
        self, portainer: Portainer, user: Mapping[str, Any], method: str, path: str
    ) -> tuple[int, Any] | None:
        """What a user gets who is no administrator; None where it is what everybody gets.

        ``environment`` of an access token says whether its user may use the environment. What others made is hidden from him: left
        out of lists without a word, and refused where it is asked for by name.
        """
        stack = re.match(r"/api/stacks/\d+", path)
        if not user.get("environment", True):
            if path in {"/api/endpoints", "/api/stacks"} and method == "GET":
                return 200, []
            if stack or path.startswith(f"/api/endpoints/{ENDPOINT}"):
                raise Answer(403, "Permission denied to access environment", "Access denied to environment")
            return None
        if stack:
            raise Answer(403, "Access denied to resource", "Access denied to resource")
        if path == "/api/stacks" and method == "GET":
            return 200, []
        docker = path.removeprefix(f"/api/endpoints/{ENDPOINT}/docker")
        if docker == path or portainer.knobs.get("docker_down"):
            return None
        if docker == "/containers/json":
            return 200, []
        if docker == "/volumes":
            return 200, {"Volumes": [], "Warnings": None}
        if docker == "/networks":
            return 200, [n for n in portainer.engine.networks.values() if n["Name"] in {"bridge", "host", "none"}]
        if found := re.fullmatch(r"/(containers|volumes)/([^/]+)(/.*)?", unquote(docker)):
            portainer.engine.find(found[2]) if found[1] == "containers" else portainer.engine.volume(found[2])
            raise EngineError(403, "access denied to resource")
        return None

    def _sources(self, portainer: Portainer, method: str, path: str, raw: bytes) -> tuple[int, Any]:
        if method == "GET" and path == "/api/gitops/sources":
            return 200, [portainer.source(number) for number in sorted(portainer.sources)]
        if method == "POST" and path == "/api/gitops/sources/git":
            return 201, portainer.make_source(self._body(raw))
        if found := re.fullmatch(r"/api/gitops/sources/(\d+)", path):
            if method == "PUT":
                return 200, portainer.change_source(int(found[1]), self._body(raw))
            if method == "GET":
                return 200, portainer.source(int(found[1]))
        return 404, "404 page not found\n"

    def _stacks(
        self, portainer: Portainer, method: str, path: str, query: Mapping[str, str], raw: bytes, user: str
    ) -> tuple[int, Any]:
        if method == "GET" and path == "/api/stacks":
            return 200, [portainer.shown(stack) for _, stack in sorted(portainer.stacks.items())]
        if method == "POST" and path == "/api/stacks/create/standalone/repository":
            if "endpointId" not in query:
                raise Answer(400, "Invalid query parameter: endpointId", "Missing query parameter")
            body = self._body(raw)
            self._environment(query, "environment")
            return 200, portainer.shown(portainer.create(body, user))
        found = re.fullmatch(r"/api/stacks/(\d+)(/file|/git|/git/redeploy|/stop|/start)?", path)
        if not found:
            return 404, "404 page not found\n"
        number, verb = int(found[1]), found[2] or ""
        match method, verb:
            case "GET", "":
                return 200, portainer.shown(portainer.stack(number), source=True)
            case "GET", "/file":
                return 200, {"StackFileContent": portainer.file(number)}
            case "POST", "/git":
                body = self._body(raw)
                portainer.stack(number)
                self._environment(query, "environment")
                return 200, portainer.shown(portainer.update_git(number, body, user), source=True)
            case "PUT", "/git/redeploy":
                portainer.stack(number)
                self._environment(query, "environment")
                return 200, portainer.shown(portainer.redeploy(number, self._body(raw), user))
            case "POST", "/stop":
                self._environment(query, "endpoint")
                return 200, portainer.shown(portainer.stop(number))
            case "POST", "/start":
                self._environment(query, "endpoint")
                return 200, portainer.shown(portainer.start(number))
            case "DELETE", "":
                portainer.stack(number)
                self._environment(query, "endpoint")
                portainer.delete(number)
                return 204, ""
        return 405, "Method Not Allowed\n"

    def _docker(self, portainer: Portainer, method: str, path: str, query: Mapping[str, str], raw: bytes) -> tuple[int, Any]:
        engine = portainer.engine
        if portainer._docker_away:
            raise Answer(
                500,
                "Unable to proxy the request via the Docker socket",
                "dial unix /var/run/docker.sock: connect: connection refused",
            )
        if method == "GET":
            match path:
                case "/_ping":
                    return 200, "OK"
                case "/info":
                    return 200, engine.info()
                case "/version" if not isinstance(engine, Engine):
                    return 200, engine.version()
                case "/version":
                    return 200, {
                        "Version": docker.SERVER_VERSION,
                        "ApiVersion": docker.API_VERSION,
                        "MinAPIVersion": docker.MIN_API_VERSION,
                    }
                case "/containers/json":
                    wanted = json.loads(query.get("filters") or "{}").get("label") or []
                    wanted = list(wanted) if isinstance(wanted, (list, dict)) else [wanted]
                    pairs = [entry.partition("=") for entry in wanted]
                    rows = [
                        c for c in reversed(list(engine.containers.values()))  # the newest first
                        if (query.get("all") in {"1", "true"} or c.state == "running")
                        and all(k in c.labels and (not eq or c.labels[k] == v) for k, eq, v in pairs)
                    ]  # fmt: skip
                    listed = []
                    for container in rows:
                        with contextlib.suppress(EngineError):  # a deployment removed it meanwhile
                            listed.append(engine.row(container))
                    return 200, listed
                case "/volumes":
                    return 200, {"Volumes": [self._owned(v) for v in engine.volumes.values()], "Warnings": None}
                case "/networks":
                    return 200, list(engine.networks.values())
                case "/images/json":
                    return 200, [engine.shown_image(image) for image in engine.known if image.id in engine.here]
        if found := re.fullmatch(r"/containers/([^/]+)/(json|stats|logs)", path):
            container = engine.find(found[1])
            if found[2] == "json":
                return 200, engine.inspect(container)
            if found[2] == "stats":
                return 200, engine.stats(container)
            return 200, engine.log(container, int(query.get("tail") or 200))
        if (found := re.fullmatch(r"/containers/([^/]+)/update", path)) and method == "POST":
            engine.update(engine.find(found[1]), self._body(raw))
            return 200, {"Warnings": None}
        if (found := re.fullmatch(r"/containers/([^/]+)", path)) and method == "DELETE":
            container = engine.find(found[1])
            if container.state == "running":
                said = "container is running: stop the container before removing or force remove"
                raise EngineError(409, f'cannot remove container "/{container.name}": {said}')
            engine.remove(container)
            return 204, ""
        if found := re.fullmatch(r"/volumes/([^/]+)", path):
            if method == "DELETE":
                engine.remove_volume(found[1])
                return 204, ""
            return 200, self._owned(engine.volume(found[1]))
        if (found := re.fullmatch(r"/images/(.+)/json", path)) and method == "GET":
            return 200, engine.shown_image(engine.image(found[1]))
        if (found := re.fullmatch(r"/distribution/(.+)/json", path)) and method == "GET":
            image = engine.in_registry(found[1])
            return 200, {
                "Descriptor": {"mediaType": MANIFEST, "digest": image.digest, "size": 1610},
                "Platforms": [{"architecture": "amd64", "os": "linux"}],
            }  # fmt: skip
        if path == "/images/create" and method == "POST":
            tag = query.get("tag", "")
            name = query.get("fromImage", "")
            reference = f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}" if tag else name
            image = engine.pull(reference)
            lines = [{"status": f"Pulling from {image.name}", "id": tag}, {"status": f"Digest: {image.digest}"}]
            return 200, "".join(json.dumps(line) + "\r\n" for line in lines)
        raise EngineError(404, "page not found")

    @staticmethod
    def _owned(volume: Mapping[str, Any]) -> dict[str, Any]:
        """Portainer adds an id of its own to what Docker says."""
        return {**volume, "ResourceID": f"{volume['Name']}_{docker.ENGINE_ID}"}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        status = args[1] if len(args) > 1 else ""
        sys.stderr.write(f"{docker.now()} {self.command} {urlsplit(self.path).path} {status}\n")


class _Server(HttpServer):
    request_queue_size = 64

    def __init__(self, where: tuple[str, int], portainer: Portainer, tls: ssl.SSLContext | None) -> None:
        self.portainer, self.tls = portainer, tls
        super().__init__(where, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The TLS handshake happens in the request's own thread, so that a stuck client stops nobody else."""
        if self.tls is not None:
            request.settimeout(10)
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError):
                return
            request.settimeout(None)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError, TimeoutError)):
            super().handle_error(request, client_address)


def main(argv: list[str] | None = None) -> int:
    """Be the VM until SIGTERM."""
    parser = argparse.ArgumentParser(description="The lab's Portainer VM.")
    parser.add_argument("--config", type=Path, required=True)
    config = json.loads(parser.parse_args(argv).config.read_text())
    if not str(config["host"]).startswith(("127.", "198.18.")):  # the second is set aside for tests, and a bridge of this machine
        raise SystemExit(f"The lab's Portainer only listens on this machine, not on {config['host']}.")
    tls = None
    if config.get("certificate"):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(config["certificate"], config.get("key"))
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    portainer = Portainer(config)
    servers = [_Server((config["host"], int(config.get("port", 9443))), portainer, tls)]
    if config.get("plain_port"):  # without TLS, for who stands between (lab.faults.proxy)
        servers.append(_Server((config["host"], int(config["plain_port"])), portainer, None))
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
    print(f"Portainer {portainer.shown_version} on {config['host']}:{config.get('port', 9443)}", flush=True)
    ended.wait()
    for server in servers:
        server.shutdown()
    portainer.engine.shut_down()
    portainer.save()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
