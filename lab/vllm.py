"""A stand-in for vLLM: the OpenAI-compatible API, with answers that are always the same for the same question.

Run as ``python -m lab.vllm --host H --port P [--model NAME]``; the API key comes from ``VLLM_API_KEY``. As in the real
server the key guards everything below ``/v1`` and nothing else, ``created`` of a model is the moment of the question, an unknown
model is a 404 with an error object, and streams are server-sent events that end with ``[DONE]``. Not modelled: a language model,
logprobs, tools, embeddings, several choices, and everything about batches and speed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

VERSION = "0.11.2"
MODEL = "lab/parrot-1b"
MAX_MODEL_LEN = 4096
_WORDS = [
    "a",
    "vector",
    "is",
    "found",
    "by",
    "those",
    "near",
    "it",
    "and",
    "moved",
    "with",
    "all",
    "it",
    "holds",
    "so",
    "nothing",
    "is",
    "lost",
    "between",
    "here",
    "and",
    "there",
]


def words(question: str, count: int, seed: str) -> list[str]:
    """The answer to a question: always the same words for the same question, model and number."""
    numbers = hashlib.shake_256(f"{seed}\n{question}".encode()).digest(max(count, 1))
    return [_WORDS[n % len(_WORDS)] for n in numbers[:count]]


class Vllm:
    """One served model. ``started`` is the process's start, as ``/metrics`` shows it."""

    def __init__(self, model: str = MODEL, key: str | None = None, version: str = VERSION) -> None:
        self.model = model
        self.version = version
        self._key = key
        self.started = time.time()

    def app(self) -> web.Application:
        """The application; run it with aiohttp."""
        app = web.Application(middlewares=[self._guard], client_max_size=16 * 2**20)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        if self._key and request.path.startswith("/v1") and not hmac.compare_digest(given, f"Bearer {self._key}".encode()):
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.json_response({"detail": "Not Found"}, status=404)
        except web.HTTPMethodNotAllowed:
            return web.json_response({"detail": "Method Not Allowed"}, status=405)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _metrics(self, _: web.Request) -> web.Response:
        text = f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {self.started:.2f}\n"
        return web.Response(text=text, content_type="text/plain")

    async def _models(self, _: web.Request) -> web.Response:
        card = {
            "id": self.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self.model,
            "parent": None,
            "max_model_len": MAX_MODEL_LEN,
        }
        return web.json_response({"object": "list", "data": [card]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            body = await request.json()
            question = json.dumps(body["messages"]) if chat else str(body["prompt"])
        except (ValueError, KeyError, TypeError) as error:
            return _error(
                400, "BadRequestError", f"the request has no {'messages' if chat else 'prompt'} ({type(error).__name__})"
            )
        if body.get("model", self.model) != self.model:
            return _error(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        count = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        if not 0 < count <= MAX_MODEL_LEN:
            return _error(400, "BadRequestError", f"max_tokens must be at least 1 and at most {MAX_MODEL_LEN}, got {count}.")
        said = words(question, count, self.model)
        head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.model,
        }
        if body.get("stream"):
            return await _stream(request, head, said, chat=chat)
        text = " ".join(said)
        part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        asked = len(question.split())
        return web.json_response(
            {
                **head,
                "object": "chat.completion" if chat else "text_completion",
                "choices": [{"index": 0, **part, "logprobs": None, "finish_reason": "length"}],
                "usage": {"prompt_tokens": asked, "completion_tokens": count, "total_tokens": asked + count},
            }
        )


async def _stream(request: web.Request, head: dict[str, Any], said: list[str], *, chat: bool) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await answer.prepare(request)
    async for event in _events(head, said, chat=chat):
        await answer.write(f"data: {event}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


async def _events(head: dict[str, Any], said: list[str], *, chat: bool) -> AsyncIterator[str]:
    kind = "chat.completion.chunk" if chat else "text_completion"
    for number, word in enumerate(said):
        text = word if number == 0 else f" {word}"
        part: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
        last = "length" if number == len(said) - 1 else None
        yield json.dumps({**head, "object": kind, "choices": [{"index": 0, **part, "logprobs": None, "finish_reason": last}]})
        await asyncio.sleep(0)


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": status}}, status=status)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A stand-in for vLLM.")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default=MODEL)
    given = parser.parse_args()
    app = Vllm(given.model, os.environ.get("VLLM_API_KEY")).app()
    web.run_app(app, host=given.host, port=given.port, print=None, access_log=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
