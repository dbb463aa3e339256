"""What comes back through the operator's own server, before and after: the proof that the gate changes nothing else.

The same few requests are sent the way applications come in: with a key and without, reads and a write that can change nothing,
to what is not there, from another origin, and too large. Status, headers and body have to be the same whether the gate is in or
not, and whichever server is behind it. What varies by itself (a date, the time a request took) is found by asking twice.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets as randomness
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cutover.core.errors import Unreachable

if TYPE_CHECKING:
    from requests import Session

    from cutover.core.http import Tls

#: Above nginx's own default for bodies, and below what Qdrant takes.
_SIZES = ((1 << 20) + 1, 24 << 20)
#: Headers of one answer or one connection, and the last proxy's name: HAProxy passes nginx's on.
_OF_ONE = {"server", "date", "content-length", "connection", "keep-alive", "transfer-encoding", "x-request-id", "age", "etag"}


#: Headers that decide whether an application, or a browser, takes an answer. Others differ between releases and harm nobody.
_MATTERS = re.compile(r"access-control-.*|content-(type|encoding)|www-authenticate|location|set-cookie|retry-after")
#: Their values are lists without an order; each process and thread of Qdrant has an order of its own.
_LISTS = re.compile(r"access-control-(allow|expose)-(methods|headers)|allow|vary")


@dataclass(frozen=True)
class Answer:
    """What came back: ``status`` 0 where an upload was not refused. ``varies``: headers whose values differ by themselves."""

    status: int
    headers: Mapping[str, str]
    body: str

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Answer:
        return cls(int(data["status"]), dict(data["headers"]), str(data["body"]))


@dataclass(frozen=True)
class _Probe:
    name: str
    method: str
    path: str
    key: bool = True
    body: Any = None
    headers: Mapping[str, str] | None = None
    stable: bool = True  # what Qdrant answers does not depend on its data


def _probes(*, writes: bool) -> list[_Probe]:
    none = f"/collections/gate-proof-{randomness.token_hex(8)}"
    found = [
        _Probe("a read", "GET", "/"),
        _Probe("a read without a key", "GET", "/", key=False),
        _Probe("the list of collections", "GET", "/collections", stable=False),
        _Probe("the list of collections without a key", "GET", "/collections", key=False, stable=False),
        _Probe("a read of a collection that is none", "GET", none),
        _Probe("a path that is none", "GET", "/gate-proof/none"),
        _Probe(
            "a question of a browser",
            "OPTIONS",
            "/collections",
            key=False,
            headers={"Origin": "http://gate-proof.invalid", "Access-Control-Request-Method": "PUT"},
        ),
        _Probe("a read from another origin", "GET", none, headers={"Origin": "http://gate-proof.invalid"}),
    ]
    if writes:
        found += [
            _Probe("a write", "POST", f"{none}/points/delete?wait=true", body={"points": []}),
            _Probe("a write without a key", "POST", f"{none}/points/delete?wait=true", key=False, body={"points": []}),
        ]
    return found


def look(session: Session, url: str, key: str | None, tls: Tls, door: Mapping[str, str], *, writes: bool) -> dict[str, Answer]:
    """The answers to all probes through ``url``, by name. Writes name a collection that is none. ``door``: headers for Nginx."""
    found: dict[str, Answer] = {}
    for probe in _probes(writes=writes):
        headers = {**door, **(probe.headers or {}), **({"api-key": key} if probe.key and key else {})}
        answer = session.request(probe.method, url + probe.path, json=probe.body, headers=headers)
        found[probe.name] = Answer(
            answer.status_code,
            {name.lower(): value for name, value in answer.headers.items() if name.lower() not in _OF_ONE},
            _plain(answer.content, probe.path) if probe.stable else "",
        )
    if writes:
        with ThreadPoolExecutor(len(_SIZES)) as pool:
            found |= zip(
                (f"a body of {size >> 20} MiB" for size in _SIZES),
                pool.map(lambda size: _too_large(url, size, {**door, "api-key": key or ""}, tls), _SIZES),
                strict=True,
            )
    return found


def _plain(content: bytes, path: str) -> str:
    """A body without what is of this one request: times, and the name that was asked for."""
    text = content[:20_000].decode(errors="replace")
    name = re.search(r"gate-proof-[0-9a-f]+", path)
    if name:
        text = text.replace(name[0], "gate-proof")
    with suppress(ValueError, TypeError):
        said = json.loads(text)
        if isinstance(said, dict):
            said.pop("time", None)
            return json.dumps(said, sort_keys=True)
    return text


def _too_large(url: str, size: int, headers: Mapping[str, str], tls: Tls) -> Answer:
    """Announce a body of this size and send its first bytes: who has a limit says so at once. Nothing arrives anywhere."""
    parts = urlsplit(url)
    host, seconds = parts.hostname or "", 0.5
    made: http.client.HTTPConnection
    if parts.scheme == "https":
        made = http.client.HTTPSConnection(host, parts.port or 443, timeout=seconds, context=tls.context())
    else:
        made = http.client.HTTPConnection(host, parts.port or 80, timeout=seconds)
    with closing(made) as line:
        try:
            line.putrequest("PUT", f"{parts.path}/collections/gate-proof-{randomness.token_hex(8)}/points?wait=true")
            for name, value in {"Content-Length": str(size), "Content-Type": "application/json", **headers}.items():
                if value:
                    line.putheader(name, value)
            line.endheaders()
            line.send(b'{"points":[')
            answer = line.getresponse()
            return Answer(answer.status, {}, "")
        except TimeoutError:
            return Answer(0, {}, "")
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{url} does not answer: {error}.") from None


def differences(
    before: Mapping[str, Answer], again: Mapping[str, Answer], now: Mapping[str, Answer], addresses: Collection[str] = ()
) -> list[str]:
    """What is answered otherwise now, as sentences. ``again``: what was answered before to the same, asked once more.

    ``addresses``: those of what is behind Nginx, with and without the gate. A header of Nginx's may name whichever it passed the
    request to (`$upstream_addr`), or say how long that took.
    """
    varying = re.compile("|".join([*(rf"(?<![\d.]){re.escape(one)}(?!\d)" for one in addresses), r"\b\d+\.\d{3}\b"]))

    def same(old: str | None, new: str | None) -> bool:
        return varying.sub("", old or "") == varying.sub("", new or "") and (old is None) == (new is None)

    found = []
    for name, was in before.items():
        if name not in now:
            continue
        twin, is_ = again.get(name, was), now[name]
        if was.status != is_.status:
            if was.status == twin.status:
                found.append(f"{name} through Nginx is answered with {_said(is_)}; before it was {_said(was)}.")
            continue
        for header in sorted({*was.headers, *is_.headers}):
            old, new = _value(was, header), _value(is_, header)
            if not same(old, new) and _value(twin, header) == old:
                found.append(
                    f"{name} through Nginx has the header {header} {new or 'no more'}; before it was {old or 'not there'}."
                )
        if not same(was.body, is_.body) and twin.body == was.body:
            found.append(f"{name} through Nginx has another body than before.")
    return [sentence[0].upper() + sentence[1:] for sentence in found]


def _value(answer: Answer, header: str) -> str | None:
    """What a header says, lists in order; None where it is not there."""
    said = answer.headers.get(header)
    if said is None or not _LISTS.fullmatch(header):
        return said
    return ", ".join(sorted(part.strip() for part in said.split(",")))


def mattering(answers: Mapping[str, Answer]) -> dict[str, Answer]:
    """Of these answers what has to be the same whichever server is behind: the status, and headers that applications go by."""
    return {
        name: Answer(answer.status, {h: v for h, v in answer.headers.items() if _MATTERS.fullmatch(h)}, "")
        for name, answer in answers.items()
    }


def foreseen(door: Mapping[str, Answer], serving: Mapping[str, Answer], other: Mapping[str, Answer]) -> list[str]:
    """What users would be answered otherwise if ``other`` served, as sentences. Pure.

    What Nginx itself answers, or says in place of the server, is no matter of the server's.
    """
    found = []
    for name, now in mattering(door).items():
        was, would = mattering(serving).get(name), mattering(other).get(name)
        if was is None or would is None or now.status != was.status:
            continue
        shown = name[0].upper() + name[1:]
        if was.status != would.status:
            found.append(f"{shown} would be answered with {_said(would)}; now it is {_said(was)}.")
            continue
        for header in sorted({*was.headers, *would.headers}):
            old, new = _value(was, header), _value(would, header)
            if old != new and _value(now, header) == old:
                found.append(f"{shown} would have the header {header} {new or 'no more'}; now it is {old or 'not there'}.")
    return found


def _said(answer: Answer) -> str:
    return str(answer.status) if answer.status else "nothing that refuses it"


def written(before: Mapping[str, Answer]) -> str:
    """The answers as JSON, to be kept; without bodies, which hold what users have."""
    return json.dumps({name: asdict(answer) | {"body": ""} for name, answer in before.items()}, sort_keys=True)


def kept(text: str) -> dict[str, Answer]:
    """Answers that were kept; none where they cannot be read."""
    try:
        return {str(name): Answer.read(answer) for name, answer in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
