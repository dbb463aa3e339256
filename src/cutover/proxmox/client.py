"""Proxmox VE: a small client that waits for tasks properly and tells "no" from "not yet" from "nobody knows".

Proxmox answers most changes with the name of a task that goes on alone, says HTTP 500 for permanent refusals as well as for
passing ones, and reports a failure only in the task's last line. So: a change is sent once; its task is followed until it
ends, also through lost connections; how it ended is one of *ok*, *warnings*, *error*, *unknown* or *timeout*; and what kind
of refusal an answer is, is read from its text. Where the answer to a change was lost, the task list says whether it began.

What others call::

    context.proxmox.get("nodes/pve/qemu/1001/config", current=1)         # any read; retried, because a read can be
    context.proxmox.list("cluster/backup")                               # the same, for answers that are lists
    context.proxmox.guests()                                             # every guest, asked on its own node
    context.proxmox.change("PUT", "nodes/pve/qemu/1001/config", cores=6)     # any write, inside `guard.act(...)`
    end = context.proxmox.wait_task(upid, deadline=600)                  # TaskEnd; end.must("Backing up LXC 952") raises
    context.proxmox.do_task("POST", path, kind="vzdump", vmid=952, what="Backing up LXC 952", deadline=600, **parameters)
    context.proxmox.of(guest)                                            # "nodes/pve/lxc/952"
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from proxmoxer import ProxmoxAPI
from proxmoxer.core import ResourceException
from requests.exceptions import RequestException

from cutover.core import http
from cutover.core.errors import CutoverError, Failed, OutcomeUnknown, Unreachable, WrongUsage
from cutover.core.session import Session
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.proxmox.answers import PROXY_STATUS, ProxmoxRefused, error_of
from cutover.proxmox.tasks import UPID, TaskEnd, task_state

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials
    from cutover.core.write_guard import WriteGuard
    from cutover.site.schema import Guest, Site
    from cutover.site.schema import Proxmox as Settings

#: pveproxy gives up on a worker after 30 s and says 596; we wait longer, so that we hear that and not our own timeout.
READ_SECONDS = 40.0
_READ_TRIES = 4
#: For how long it is believed that a guest is still on the node where it was.
PLACES_SECONDS = 2.0

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """That there is a guest, and where: all that is true at once in ``cluster/resources``."""

    kind: Literal["lxc", "qemu"]
    vmid: int
    node: str

    @property
    def path(self) -> str:
        """The API's folder of the guest."""
        return f"nodes/{self.node}/{self.kind}/{self.vmid}"

    def __str__(self) -> str:
        return f"{'LXC' if self.kind == 'lxc' else 'VM'} {self.vmid}"


class Proxmox:
    """The API of one Proxmox host or cluster, as one token sees it.

    ``settings`` is site.yaml's part; the token comes from ``PROXMOX_TOKEN_ID`` (user@realm!name) and
    ``PROXMOX_TOKEN_SECRET``. Nothing is contacted until the first call. ``poll`` is the pause between two looks at a task.
    ``tell`` gets what Proxmox warns of in tasks that did their work.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        guard: WriteGuard,
        *,
        poll: float = 0.5,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.node = settings.node
        self.poll = poll
        self._tell = tell
        self._guard = guard
        self._places: list[Place] = []
        self._placed_at = -PLACES_SECONDS - 1
        token = credentials.need("PROXMOX_TOKEN_ID")
        match = re.fullmatch(r"([^\s!]+@[^\s!]+)!([A-Za-z][A-Za-z0-9._-]*)", token)
        if match is None:
            raise WrongUsage("PROXMOX_TOKEN_ID is not of the form user@realm!name.", "`pveum user token list USER` shows it.")
        self.token = token
        parts = urlsplit(settings.url)
        if parts.scheme != "https":
            raise WrongUsage(f"{settings.url}: Proxmox only answers https.", "Correct proxmox.url in site.yaml.")
        self._api = ProxmoxAPI(
            parts.hostname,
            port=parts.port or 8006,
            user=match[1],
            token_name=match[2],
            token_value=credentials.need("PROXMOX_TOKEN_SECRET"),
            timeout=READ_SECONDS,
            path_prefix=parts.path.strip("/") or None,
        )
        # proxmoxer makes its own session; every one of its requests has to pass our guard and our TLS all the same.
        ours = http.session(
            guard, tls=http.Tls(settings.ca_file, settings.fingerprint), timeout=(http.CONNECT_SECONDS, READ_SECONDS),
            # Its 500 is a refusal; only a proxy's answer leaves open what happened.
            no=lambda status: status >= 300 and (status == 595 or status not in PROXY_STATUS),
        )  # fmt: skip
        session = self._api._store["session"]
        session.trust_env = False
        session.max_redirects = 0
        session.cookies.set_policy(ours.cookies.get_policy())
        adapter = ours.get_adapter(settings.url)
        session.mount("https://", adapter)
        session.mount("http://", adapter)

    # -- paths -----------------------------------------------------------------------------------------------------

    def of(self, guest: Guest | tuple[str, int]) -> str:
        """The API's folder of a guest, on the node where it is now; of a pair such as ``("lxc", 9952)`` as well."""
        kind, vmid = guest if isinstance(guest, tuple) else (guest.kind, guest.vmid)
        return f"nodes/{self.node_of(vmid)}/{'lxc' if kind == 'lxc' else 'qemu'}/{vmid}"

    def node_of(self, vmid: int) -> str:
        """The node on which a guest is; the site's node for an id that nobody has, or that the token may not see."""
        for fresh in (False, True):
            for place in self.places(fresh=fresh):
                if place.vmid == vmid:
                    return place.node
        return self.node

    def places(self, *, fresh: bool = True) -> list[Place]:
        """Every guest of the cluster that the token may see, by id. ``fresh`` False: as of at most :data:`PLACES_SECONDS` ago.

        ``cluster/resources`` is a sample that is seconds old: names, states and numbers in it are not of now, and missing where
        nobody has looked. Which guests there are, and on which node, is always true, so nothing else is taken from it.
        """
        if fresh or time.monotonic() - self._placed_at > PLACES_SECONDS:
            rows = self.list("cluster/resources", type="vm")
            self._places = sorted(
                (Place("lxc" if row["type"] == "lxc" else "qemu", int(row["vmid"]), str(row["node"])) for row in rows),
                key=lambda place: place.vmid,
            )
            self._placed_at = time.monotonic()
        return self._places

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, path: str, /, **parameters: Any) -> Any:
        """Read. Asked again a few times when a connection or a proxy fails, because reading twice harms nobody."""
        for left in range(_READ_TRIES - 1, -1, -1):
            try:
                return self.get_once(path, **parameters)
            except Unreachable:
                if left == 0:
                    raise
                time.sleep(self.poll)
        raise AssertionError("not reached")

    def get_once(self, path: str, /, **parameters: Any) -> Any:
        """Read without asking again: for who looks again anyway, and for what is told once only."""
        return self._send("GET", path, parameters)

    def list(self, path: str, /, **parameters: Any) -> Rows:
        """Read a list; an answer of ``null`` is an empty one."""
        found = self.get(path, **parameters)
        if found is not None and not (isinstance(found, list) and all(isinstance(row, dict) for row in found)):
            raise Unreachable(f"GET {path}: Proxmox answered something else than the list that was asked for.")
        return found or []

    def record(self, path: str, /, **parameters: Any) -> dict[str, Any]:
        """Read one thing with its fields."""
        found = self.get(path, **parameters)
        if not isinstance(found, dict):
            raise Unreachable(f"GET {path}: Proxmox answered something else than the fields that were asked for.")
        return found

    def find(self, path: str, /, **parameters: Any) -> Any | None:
        """Read what may be absent: None where Proxmox says that there is no such thing."""
        try:
            return self.get(path, **parameters)
        except ProxmoxRefused as error:
            if error.kind == "gone":
                return None
            raise

    # -- changing --------------------------------------------------------------------------------------------------

    def change(self, method: Literal["POST", "PUT", "DELETE"], path: str, /, **parameters: Any) -> Any:
        """Send one change, once, and return its answer (often a task's UPID). Needs an open act of the guard.

        :class:`ProxmoxRefused`: it did not happen (except that a refused hotplug leaves its value pending);
        :class:`Unreachable`: it was not delivered; :class:`OutcomeUnknown`: it may have happened.
        A parameter that is None is left out; ``_`` in names stands for ``-``.
        """
        return self._send(method, path, {k.replace("_", "-"): v for k, v in parameters.items() if v is not None})

    def do_task(
        self,
        method: Literal["POST", "PUT", "DELETE"],
        path: str,
        /,
        *,
        kind: str,
        vmid: int | None,
        what: str,
        deadline: float,
        warnings: bool = True,
        **parameters: Any,
    ) -> TaskEnd:
        """Send a change that becomes a task of type ``kind``, follow it, and return its good end.

        A task with warnings did its work (a container whose systemd would like nesting warns at every start): they are told.
        ``warnings`` False: such an end is a failure, because what it warns of may be missing in what was made.

        Where the answer to the change was lost, the task list says whether it began; if it did, that task is followed.
        :class:`Failed`, :class:`OutcomeUnknown` with a sentence that begins with ``what``.
        """
        upid = self.start_task(method, path, kind=kind, vmid=vmid, what=what, **parameters)
        end = self.wait_task(upid, deadline=deadline).must(what, warnings=warnings)
        if end.state == "warnings":
            self._tell(f"{what} is done; Proxmox warns: {end.reason().rstrip('.')}.")
        return end

    def start_task(
        self, method: Literal["POST", "PUT", "DELETE"], path: str, /, *, kind: str, vmid: int | None, what: str, **parameters: Any
    ) -> str:
        """Send a change that becomes a task, and return the task's UPID, also when the answer was lost on the way."""
        # What is made anew is on no node yet: its task is on the node that is asked to make it.
        node = path.strip("/").split("/")[1]
        before = {task["upid"] for task in self.tasks(kind, vmid, node=node)}
        if kind in {"vzdump", "vzrestore", "qmrestore"}:
            parameters["vmid"] = vmid  # these name their guest in the body, not in the path
        try:
            upid = self.change(method, path, **parameters)
            if isinstance(upid, str) and UPID.fullmatch(upid):
                return upid
            # What is no task's name cannot be followed; whether a task began is asked of the list.
            lost: CutoverError = Failed(f"{what}: Proxmox answered something else instead of a task, and lists none.")
        except OutcomeUnknown as error:
            lost = OutcomeUnknown(f"{what}: {error.sentence.rstrip('.')}; no task for it can be found.", error.hint)
        begun = self._begun(kind, vmid, before, node)
        if begun is None:
            raise lost
        return begun

    def _begun(self, kind: str, vmid: int | None, before: set[str], node: str) -> str | None:
        """The task that a lost answer would have named, waited for during a few seconds."""

        def look() -> str | Not:
            new = [task["upid"] for task in self.tasks(kind, vmid, node=node) if task["upid"] not in before]
            return new[0] if new else Not("no such task")

        try:
            return wait_until(look, deadline=6 * self.poll, what="The task", every=self.poll)
        except TimedOut:
            return None

    def _send(self, method: str, path: str, parameters: Mapping[str, Any]) -> Any:
        resource = self._api(path.strip("/"))
        shown = f"{method} {path}"
        sent = {key: int(value) if isinstance(value, bool) else value for key, value in parameters.items()}
        try:
            call: Callable[..., Any] = getattr(resource, {"GET": "get", "POST": "post", "PUT": "put", "DELETE": "delete"}[method])
            answer = call(**sent)
        except ResourceException as error:
            raise error_of(error, shown, method, self.token) from None
        except (KeyError, TypeError, AttributeError, RecursionError):
            answer = {"errors": b""}  # JSON, but not Proxmox' envelope
        except RequestException as error:
            if method == "GET":
                raise Unreachable(f"{shown}: {error}.") from None
            raise OutcomeUnknown(f"{shown}: {error}", "Look whether it happened before doing it again.") from None
        if isinstance(answer, dict) and set(answer) == {"errors"} and isinstance(answer["errors"], bytes):
            said = f"{shown}: what answered is not the Proxmox API."
            if method == "GET":
                raise Unreachable(said, f"Look at {self.settings.url} in a browser.")
            raise OutcomeUnknown(f"{said} The request was sent.", "Look whether it happened before doing it again.")
        return http.fields(answer, f"Proxmox, asked {shown},")

    # -- tasks -----------------------------------------------------------------------------------------------------

    def tasks(self, kind: str | None = None, vmid: int | None = None, *, limit: int = 200, node: str = "") -> Rows:
        """Finished and running tasks of a node (a guest's, unless one is named), newest first.

        A token without Sys.Audit on the node sees only its own.
        """
        node = node or (self.node if vmid is None else self.node_of(vmid))
        found = self.list(f"nodes/{node}/tasks", source="all", limit=limit, **({"vmid": vmid} if vmid else {}))
        return [task for task in found if kind is None or task.get("type") == kind]

    def wait_task(self, upid: str, *, deadline: float) -> TaskEnd:
        """Follow a task until it ends, at most ``deadline`` seconds. Lost connections while looking are only lost looks.

        The task is asked about once more after the deadline, so an end in the last pause counts.
        """
        path = self._task(upid)

        def ended() -> dict[str, Any] | Not:
            try:
                status = self.get_once(f"{path}/status")
            except Unreachable as error:
                return Not(error.sentence)
            except ProxmoxRefused as error:
                # It is gone from the list, or we may not look any more: that says nothing about what became of it.
                said = f"The task {upid} was begun, and Proxmox does not tell any more how it went: {error.sentence}"
                raise OutcomeUnknown(said, "Look in Proxmox what became of it, then run the command again.") from None
            if isinstance(status, dict) and status.get("status") == "stopped":
                return status
            return Not("the task runs")

        try:
            status = wait_until(ended, deadline=deadline, what="The task", every=self.poll)
        except TimedOut:
            return TaskEnd(upid, "timeout", "")
        exitstatus = str(status.get("exitstatus") or "")
        return TaskEnd(upid, task_state(exitstatus), exitstatus, self.task_log(upid))

    def _task(self, upid: str) -> str:
        """The API's folder of a task, on the node that its name says."""
        return f"nodes/{upid.split(':')[1] if upid.count(':') >= 8 else self.node}/tasks/{upid}"

    def task_log(self, upid: str) -> tuple[str, ...]:
        """Every line of a task's log. (Without ``limit=0`` Proxmox sends only the first 50.)"""
        lines = self.list(f"{self._task(upid)}/log", limit=0)
        return tuple(str(line.get("t", "")) for line in sorted(lines, key=lambda line: int(line.get("n", 0))))

    # -- what several phases need ----------------------------------------------------------------------------------

    def guests(self) -> Rows:
        """Every guest of the cluster that the token may see, asked on its own node: type, vmid, node, name, status, config...

        ``name`` is of the configuration, ``status`` and the numbers (``maxmem`` in bytes, ``cpus``, ``uptime``) of now. Where a
        guest's node does not answer, ``status`` is ``unknown``, the numbers are missing, and ``unread`` says why.
        """
        return [row for place in self.places() if (row := self._look_at(place)) is not None]

    def guest(self, vmid: int) -> dict[str, Any] | None:
        """The same about one guest; None where nothing has this id."""
        place = next((one for one in self.places() if one.vmid == vmid), None)
        return None if place is None else self._look_at(place)

    def _look_at(self, place: Place) -> dict[str, Any] | None:
        row: dict[str, Any] = {"type": place.kind, "vmid": place.vmid, "node": place.node, "name": "", "status": "unknown"}
        try:
            config = self.record(f"{place.path}/config", current=1)
            row |= {"config": config, "name": str(config.get("hostname") or config.get("name") or "")}
            now = self.record(f"{place.path}/status/current")
        except (ProxmoxRefused, Unreachable) as error:
            if isinstance(error, ProxmoxRefused) and error.kind == "gone":
                # It left between the list and the question: to another node, or for good.
                again = next((one for one in self.places() if one.vmid == place.vmid), None)
                return self._look_at(again) if again is not None and again != place else None
            return row | {"unread": error.sentence}
        # A guest without a name of its own has the one that Proxmox makes of its id.
        row["name"] = row["name"] or str(now.get("name") or "")
        kept = ("status", "maxmem", "cpus", "uptime", "template", "lock", "ha", "pid")
        return row | {key: now[key] for key in kept if key in now}

    def no_quorum(self) -> tuple[str, ...]:
        """That the cluster refuses every change now, as a sentence; empty where it does not, as on a host alone."""
        lost = any(row.get("type") == "cluster" and not int(row.get("quorate", 1)) for row in self.list("cluster/status"))
        said = "The Proxmox cluster has no majority of its nodes and refuses every change: bring its nodes back first."
        return (said,) if lost else ()

    def config(self, guest: Guest | tuple[str, int]) -> dict[str, Any]:
        """What the guest runs with now. (Without ``current`` Proxmox shows the configuration with pending changes applied.)"""
        return self.record(f"{self.of(guest)}/config", current=1)

    def pending(self, guest: Guest | tuple[str, int]) -> Rows:
        """The rows that wait for the next start: key, value, and ``pending`` or ``delete``."""
        return [row for row in self.list(f"{self.of(guest)}/pending") if "pending" in row or row.get("delete")]

    def status(self, guest: Guest | tuple[str, int]) -> dict[str, Any]:
        """``status/current`` of a guest."""
        return self.record(f"{self.of(guest)}/status/current")

    def retry_while_locked(self, act: Callable[[], Any], *, deadline: float, what: str) -> Any:
        """Do ``act`` again, for at most ``deadline`` seconds, while Proxmox says that the guest is locked or busy."""

        def once() -> Any:
            try:
                return (act(),)
            except ProxmoxRefused as error:
                if error.kind in {"locked", "busy"}:
                    return Not(error.sentence)
                raise

        return wait_until(once, deadline=deadline, what=what, every=max(self.poll, 0.2))[0]

    def running_tasks(self, kinds: Iterable[str], vmid: int) -> tuple[str, ...]:
        """The tasks of these kinds that work on a guest right now, whoever began them."""
        wanted = set(kinds)
        return tuple(
            str(task["upid"])
            for task in self.tasks(vmid=vmid)
            # What runs is listed with the status RUNNING and without an end.
            if task.get("type") in wanted and not task.get("endtime") and task.get("status") in {None, "", "running", "RUNNING"}
        )


class ProxmoxSession(Session, Protocol):
    """One command at work on Proxmox."""

    @property
    def site(self) -> Site: ...

    @property
    def proxmox(self) -> Proxmox: ...
