"""Telling somebody who does not look at the terminal: a webhook that takes JSON, or a command that reads it from its input.

Off unless the operator names one. What is told is what the terminal says, without any key; the webhook's address is itself a key
(`NOTIFY_URL`). Sending happens beside the work, in its own thread: a message that does not arrive is said once and stops nothing.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import requests

from cutover import __version__
from cutover.core import children
from cutover.core.credentials import Credentials
from cutover.core.errors import WrongUsage
from cutover.core.journal import Entry, now

SECONDS = 10.0
#: How long a command that has ended waits for its last messages.
LAST_SECONDS = 15.0


@dataclass(frozen=True)
class Message:
    """One thing that happened: ``event`` is one of the words of :data:`EVENTS`, ``sentence`` is what a person reads."""

    event: str
    sentence: str
    step: str = ""


#: What is told.
EVENTS = (
    "step finished", "step undone", "refused", "failed", "outcome unknown", "hold taken", "follow stopped", "way back old",
    "attention",
)  # fmt: skip


class Notifier:
    """Sends messages about one site. ``say`` shows a sentence to the operator."""

    def __init__(
        self, url: str | None = None, command: Sequence[str] = (), credentials: Credentials | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        if url and not _is_webhook(url):
            raise WrongUsage("NOTIFY_URL is no http or https address.", "Set it to the webhook's whole address, or unset it.")
        self.site = ""
        self._url, self._command, self._credentials, self._say = url, list(command), credentials or Credentials({}), say
        self._queue: queue.Queue[Message | None] = queue.Queue()
        self._failed = False
        self._worker: threading.Thread | None = None
        self._old = False

    @property
    def on(self) -> bool:
        """Whether anybody is told."""
        return bool(self._url or self._command)

    def tell(self, event: str, sentence: str, step: str = "") -> None:
        """Send a message soon; returns at once."""
        if not self.on:
            return
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="notifications", daemon=True)
            self._worker.start()
        self._queue.put(Message(event, sentence, step))

    def heard(self, entry: Entry) -> None:
        """A line was added to the journal; some of them are news."""
        step = entry.act.partition(".")[0]
        if entry.kind == "done" and entry.act.endswith(".hold"):
            self.tell("hold taken", f"`{step}` holds writes for a moment.", step)
        elif entry.kind == "note" and entry.act.endswith((".finished", ".undone")):
            self.tell("step finished" if entry.act.endswith(".finished") else "step undone", entry.what, step)
        elif entry.act == "follow.rounds" and entry.kind in {"failed", "unknown"}:
            self.tell("follow stopped", entry.reason, step)

    def way_back(self, seconds: float | None, most_minutes: float) -> None:
        """How old the way back is, in seconds; told once until it is young again. None: it is not known, or there is none."""
        old = seconds is not None and seconds > most_minutes * 60
        if old and not self._old:
            self.tell(
                "way back old", f"The old server is {(seconds or 0) / 60:.0f} minutes behind; `follow` brings it up to date."
            )
        self._old = old

    def close(self) -> None:
        """Wait for what is still to be sent, for a while."""
        if self._worker is None:
            return
        self._queue.put(None)
        self._worker.join(LAST_SECONDS)
        if self._worker.is_alive():
            self._say_once(f"not all were taken within {LAST_SECONDS:g} s")

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                self._send(message)
            except Exception as error:
                self._say_once(_why(error))

    def _say_once(self, why: str) -> None:
        if not self._failed:
            self._failed = True
            self._say(f"A notification could not be sent ({why}); the work goes on.")

    def _send(self, message: Message) -> None:
        told = {"tool": "qdrant-cutover", "version": __version__, "site": self.site, "at": now(), "event": message.event,
                "step": message.step, "sentence": message.sentence}  # fmt: skip
        body = json.dumps(self._credentials.redact_tree(told), ensure_ascii=False).encode(errors="backslashreplace")
        if self._url:
            status = _within(SECONDS, partial(_post, self._url, body))
            if status >= 300:
                raise _RefusedError(f"the webhook answered {status}")
        if self._command:
            done = subprocess.run(
                self._command, input=body, env=children.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=SECONDS, check=False,
            )  # fmt: skip
            if done.returncode:
                raise _RefusedError(f"{self._command[0]} ended with exit code {done.returncode}")


def _post(url: str, body: bytes) -> int:
    """The status that a webhook answers; what else it says is not read, because it may never end."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Content-Type": "application/json"}
        with session.post(url, data=body, headers=headers, timeout=SECONDS, allow_redirects=False, stream=True) as answer:
            return answer.status_code


def _within(seconds: float, work: Callable[[], int]) -> int:
    """What ``work`` gives, or :class:`requests.Timeout`: the timeout of a request begins anew with every byte that comes."""
    given: queue.Queue[int | Exception] = queue.Queue()

    def run() -> None:
        try:
            given.put(work())
        except Exception as error:
            given.put(error)

    threading.Thread(target=run, name="notification", daemon=True).start()
    try:
        got = given.get(timeout=seconds)
    except queue.Empty:
        raise requests.Timeout from None
    if isinstance(got, Exception):
        raise got
    return got


def _is_webhook(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _RefusedError(Exception):
    """Whoever should be told does not take it."""


def _why(error: Exception) -> str:
    """In a few words, and without the address, which is a key."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, (requests.Timeout, subprocess.TimeoutExpired)):
        return f"no answer within {SECONDS:g} s"
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return str(error.strerror or "it cannot be run").lower()
    return "it cannot be reached"
