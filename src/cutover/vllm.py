"""vLLM, which the move must not touch: asked through Nginx, as its users ask it.

It shares the proxy with Qdrant, so a mistake in Nginx's configuration would show here first. What "untouched" means is a
:class:`Portrait`: which models are served, which version answers, since when, and what it says to one fixed question at
temperature 0. A server that batches may answer a question differently from time to time; such an answer is left out of the
comparison, and the portrait says so. Asking changes nothing, so it needs no act.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Refused, Unreachable
from cutover.core.http import CONNECT_SECONDS, READ_SECONDS, session, words_of

if TYPE_CHECKING:
    from cutover.core.credentials import Credentials
    from cutover.core.write_guard import WriteGuard
    from cutover.site.schema import Vllm as Settings

QUESTION = "Name the first three prime numbers."
_ASKS = ("/v1/completions", "/v1/chat/completions")


@dataclass(frozen=True)
class Portrait:
    """What vLLM is. ``answer`` is a fingerprint of its answer, None where it varies; ``since`` is None where it is not shown."""

    models: tuple[str, ...]
    version: str | None
    since: float | None
    answer: str | None

    def as_json(self) -> dict[str, Any]:
        """For the journal."""
        return {**asdict(self), "models": list(self.models)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Portrait:
        """From the journal."""
        return cls(tuple(data.get("models") or ()), data.get("version"), data.get("since"), data.get("answer"))

    def differences(self, now: Portrait) -> list[str]:
        """What is no longer as it was, in sentences. What one of the two does not know is not compared. Pure."""
        found = []
        if self.models != now.models:
            found.append(f"it served {', '.join(self.models)} and serves {', '.join(now.models)} now")
        if self.version and now.version and self.version != now.version:
            found.append(f"it was version {self.version} and is {now.version} now")
        if self.since is not None and now.since is not None and abs(self.since - now.since) > 0.05:
            found.append("it was restarted")
        if self.answer and now.answer and self.answer != now.answer:
            found.append("it answers the same question differently")
        return found


class Vllm:
    """The public address of vLLM. Every method raises :class:`Unreachable` or :class:`Refused` with what it said."""

    def __init__(
        self, settings: Settings, credentials: Credentials, guard: WriteGuard, *,
        timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS), keep_connection: bool = True,
    ) -> None:  # fmt: skip
        self.url = settings.public_url
        self._model = settings.model
        key = credentials.get("VLLM_API_KEY")
        self._http = session(
            guard,
            is_read=lambda method, path: method == "GET" or (method == "POST" and path in _ASKS),
            headers=({"Authorization": f"Bearer {key}"} if key else {}) | ({} if keep_connection else {"Connection": "close"}),
            timeout=timeout,
        )

    def healthy(self) -> bool:
        """Whether ``/health`` says so."""
        return self._http.get(f"{self.url}/health").status_code == 200

    def models(self) -> list[str]:
        """The ids of the served models, in the server's order."""
        data = self._json("GET", "/v1/models").get("data")
        if not isinstance(data, list) or not data:
            raise Unreachable(f"{self.url}/v1/models names no model.")
        return [str(card["id"]) for card in data]

    def version(self) -> str | None:
        """vLLM's version, or None where Nginx does not pass that page on."""
        answer = self._http.get(f"{self.url}/version")
        if answer.status_code != 200:
            return None
        try:
            return str(answer.json()["version"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def since(self) -> float | None:
        """When its process was started (seconds since 1970), or None where Nginx does not pass the metrics on."""
        answer = self._http.get(f"{self.url}/metrics")
        found = re.search(r"^process_start_time_seconds ([0-9.e+]+)", answer.text, re.MULTILINE)
        return float(found[1]) if answer.status_code == 200 and found else None

    def complete(self, question: str = QUESTION, *, tokens: int = 16) -> str:
        """The answer to one question, at temperature 0."""
        model = self._model or self.models()[0]
        body = {"model": model, "prompt": question, "max_tokens": tokens, "temperature": 0, "seed": 1}
        choices = self._json("POST", "/v1/completions", body).get("choices") or []
        text = choices[0].get("text") if choices else None
        if not isinstance(text, str) or not text:
            raise Unreachable(f"{self.url} answered a question without a text.")
        return text

    def portrait(self) -> Portrait:
        """What it is now. Asks the question twice, to know whether its answer can be compared at all."""
        answers = {hashlib.sha256(self.complete().encode()).hexdigest()[:16] for _ in range(2)}
        return Portrait(tuple(self.models()), self.version(), self.since(), answers.pop() if len(answers) == 1 else None)

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._http.request(method, self.url + path, json=body)
        if answer.status_code == 401:
            raise Refused(f"vLLM at {self.url} did not accept the key.", "Check VLLM_API_KEY.")
        if answer.status_code != 200:
            raise Unreachable(f"vLLM at {self.url} answered {answer.status_code} to {method} {path}: {_said(answer)}.")
        try:
            found = answer.json()
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Unreachable(f"What answers at {self.url}{path} is not vLLM.")
        return found


def _said(answer: Any) -> str:
    try:
        error = answer.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error).rstrip(".")
    except (ValueError, KeyError, TypeError, RecursionError):
        return words_of(answer)
