"""HTTP with rails: every request of every client passes :class:`GuardedAdapter`.

* A request that writes needs an open act (see :mod:`cutover.core.write_guard`), whatever library sends it.
* TLS is verified against the system's authorities, against a given CA file, or pinned to a fingerprint. There is no way to
  switch it off.
* An error says what can be believed: *unreachable* (the request never got there, or it only read), or *outcome unknown* (a
  change was sent and its answer did not come).
* No cookies are kept: Portainer's log-in cookie switches its CSRF protection on and makes the next write fail.
* Redirects are not followed: a redirect of a write would silently become a read.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError
from urllib3.exceptions import SSLError as Urllib3SSLError

from cutover.core import trace
from cutover.core.credentials import cut
from cutover.core.errors import CutoverError, OutcomeUnknown, Unreachable, WrongUsage
from cutover.core.write_guard import WriteGuard

IsRead = Callable[[str, str], bool]
"""(method, path with query) -> whether the request only reads."""

CONNECT_SECONDS = 5.0
#: Longer than the 30 s after which a Proxmox proxy gives up on a worker: we want its answer, not our own timeout.
READ_SECONDS = 40.0


def reads_by_method(method: str, path: str) -> bool:
    """The rule for an API whose GET, HEAD and OPTIONS never change anything and whose other methods always may."""
    del path
    return method in {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True)
class Tls:
    """How a server proves who it is: the system's CAs, ``ca_file``, or its certificate's SHA-256 ``fingerprint``.

    ``client``: a file with our own certificate and its key, where the server asks for one.
    """

    ca_file: str | None = None
    fingerprint: str | None = None
    client: str | None = None

    def context(self) -> ssl.SSLContext:
        """An SSL context that verifies.

        Python 3.13 and newer verify strictly by default and then refuse the CA that Proxmox clusters made before
        pve-cluster 9.1.2 (no key usage extension); for a CA that the operator names, that flag is taken back.
        """
        if self.fingerprint is not None:
            # The fingerprint is compared by urllib3 after the handshake and before the request is sent.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return self._with_our_own(context)
        try:
            if self.client is not None:
                return self._with_our_own(_verifying.__wrapped__(self.ca_file, 0))
            return _verifying(self.ca_file, Path(self.ca_file).stat().st_mtime_ns if self.ca_file is not None else 0)
        except (OSError, ssl.SSLError) as error:
            raise WrongUsage(f"The CA file {self.ca_file} cannot be used: {error}.") from None

    def _with_our_own(self, context: ssl.SSLContext) -> ssl.SSLContext:
        if self.client is not None:
            try:
                context.load_cert_chain(self.client)
            except (OSError, ssl.SSLError) as error:
                raise WrongUsage(f"The client certificate {self.client} cannot be used: {error}.") from None
        return context


@lru_cache(maxsize=8)
def _verifying(ca_file: str | None, changed: int) -> ssl.SSLContext:
    """One for all clients of a process while the file is the same: reading the system's authorities takes 50 ms each time."""
    del changed
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class GuardedAdapter(HTTPAdapter):
    """Sends a request only when it reads or when an act is open.

    ``longest`` (seconds) bounds what any caller is willing to wait; None: as long as the caller says. ``most`` (bytes) bounds an
    answer that is read whole, so that a server that never ends cannot take all memory.
    """

    longest: ClassVar[float | None] = None
    most: ClassVar[int] = 256 << 20

    def __init__(
        self, guard: WriteGuard, is_read: IsRead, tls: Tls, timeout: tuple[float, float], pool: int = 16,
        no: Callable[[int], bool] | None = None,
    ) -> None:  # fmt: skip
        self._guard = guard
        self._says_no = no or says_no
        self._is_read = is_read
        self._tls = tls
        self._timeout = timeout
        super().__init__(max_retries=0, pool_maxsize=pool)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs["ssl_context"] = self._tls.context()
        if self._tls.fingerprint is not None:
            kwargs["assert_fingerprint"] = self._tls.fingerprint.replace(":", "").lower()
            kwargs["assert_hostname"] = False
        super().init_poolmanager(*args, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Keep our own context: requests would replace its CA by certifi's, or by nothing with ``verify=False``."""
        del url, verify, cert
        conn.cert_reqs = "CERT_NONE" if self._tls.fingerprint is not None else "CERT_REQUIRED"
        conn.ca_certs = None

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, pool = super().build_connection_pool_key_attributes(request, True, cert)
        for name in ("ca_certs", "ca_cert_dir", "cert_reqs", "ssl_context"):
            pool.pop(name, None)  # type: ignore[misc]
        if self._tls.fingerprint is not None:
            pool["cert_reqs"] = "CERT_NONE"
        return host, pool

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        method, url = request.method or "GET", request.url or ""
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        shown = f"{method} {parts.scheme}://{parts.netloc}{parts.path}"
        reads = self._is_read(method, path)
        if not reads:
            self._guard.require(shown)
        # proxmoxer gives 5 s, requests gives none: ours holds unless a caller asks for longer.
        given = kwargs.get("timeout")
        if not isinstance(given, tuple):
            kwargs["timeout"] = (self._timeout[0], max(self._timeout[1], given or 0))
        if self.longest is not None:
            kwargs["timeout"] = (self._timeout[0], min(kwargs["timeout"][1], self.longest))
        asked = trace.Asked(shown)
        try:
            kept = request.headers.get("Connection", "").lower() != "close"
            answer = self._sent(request, args, kwargs, again=reads and kept)
            if not reads and not self._says_no(answer.status_code):
                self._guard.happened(shown)
            if not kwargs.get("stream"):
                self._read_whole(answer)
        except (requests.exceptions.RequestException, _TooMuchError) as error:
            sorted_ = _sorted(error, shown, reads=reads, timeout=kwargs["timeout"])
            if isinstance(sorted_, OutcomeUnknown):
                self._guard.happened(shown)
            asked.answered(f"no answer: {sorted_.sentence.removeprefix(shown).lstrip(': ')}")
            raise sorted_ from None
        asked.answered(str(answer.status_code))
        self._guard.hears(shown, parts.netloc)
        answer.cutover_reads = reads  # type: ignore[attr-defined]
        return answer

    def _sent(
        self, request: requests.PreparedRequest, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, again: bool
    ) -> requests.Response:
        try:
            return super().send(request, *args, **kwargs)
        except requests.exceptions.ConnectionError as error:
            # Qdrant closes a kept connection after 5 s of silence, even while it is asked. Who only reads may ask again.
            cause = error.args[0] if error.args else None
            if not again or not isinstance(cause, ProtocolError) or not isinstance(cause.args[-1], ConnectionError):
                raise
            return super().send(request, *args, **kwargs)

    def _read_whole(self, answer: requests.Response) -> None:
        """Read the body here, where it is known whether what goes wrong with it is that of a change."""
        body = bytearray()
        for piece in answer.iter_content(1 << 16):
            body += piece
            if len(body) > self.most:
                answer.close()
                raise _TooMuchError(f"its answer is larger than {self.most >> 20} MB")
        answer._content = bytes(body)


class _TooMuchError(Exception):
    """An answer that does not end."""


#: What to do where nobody listens.
NOBODY = "Look whether that address is the right one, the server runs, and this machine may reach it."


def _sorted(error: Exception, shown: str, *, reads: bool, timeout: tuple[float, float]) -> CutoverError:
    """The error of this project that a failed request is: it never got there, it only read, or nobody knows."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unreachable(f"{shown}: no connection within {timeout[0]:g} s.", NOBODY)
    if isinstance(error, requests.exceptions.SSLError) and _before_the_request(error):
        return Unreachable(f"{shown}: {_tls_sentence(error)}")
    if _never_sent(error):
        return Unreachable(f"{shown}: {_plain(error)}", NOBODY)
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in str(error):
        reason = f"no answer within {timeout[1]:g} s."
    else:
        reason = _plain(error)
    if reads:
        return Unreachable(f"{shown}: {reason}")
    return OutcomeUnknown(
        f"{shown}: the request was sent, and its answer was lost: {reason}", "Look whether it happened before doing it again."
    )


def says_no(status: int) -> bool:
    """Whether a status says that a change was not made. A server's own error (5xx) says nothing about that."""
    return 300 <= status < 500


def json_of(answer: requests.Response, who: str) -> Any:
    """The JSON of a successful answer. What is not JSON was not said by ``who``; nobody knows then what became of a change."""
    try:
        return fields(answer.json(), f"{who}, asked {answer.request.method} {(answer.request.url or '').split('?')[0]},")
    except (ValueError, RecursionError):
        raise not_like(answer, who) from None


class Lacks(Unreachable, KeyError):
    """An answer without a field that it must have. (A :class:`KeyError` too, for whoever can do without it.)"""


class Fields(dict[str, Any]):
    """The fields of an answer. One that is not there is missed in words: a liar's answer ends like a lost one."""

    def __init__(self, found: Mapping[str, Any] | Iterable[tuple[str, Any]], who: str = "The answer") -> None:
        # Without a name as well: that is how dataclasses.asdict makes the copy that --json prints.
        super().__init__(found)
        self._who = who

    def __missing__(self, key: str) -> Any:
        raise Lacks(
            f"{self._who} did not include {key!r} in its response.",
            "Look whether that is the right server, and at what stands between.",
        )


def fields(value: Any, who: str) -> Any:
    """An answer's JSON, every object in it :class:`Fields`."""
    if isinstance(value, dict):
        return Fields({key: fields(inner, who) for key, inner in value.items()}, who)
    return [fields(inner, who) for inner in value] if isinstance(value, list) else value


class NotLike(Unreachable):
    """Something answered that is not what is meant."""


def not_like(answer: requests.Response, who: str) -> CutoverError:
    """The error of an answer that ``who`` would not give."""
    request = answer.request
    said = f"What answered {request.method} {(request.url or '').split('?')[0]} does not answer like {who}."
    if getattr(answer, "cutover_reads", True):
        return NotLike(said, "Look at its address in site.yaml, and at what stands between.")
    return OutcomeUnknown(f"{said} The request was sent.", "Look whether it happened before doing it again.")


def gateway(answer: requests.Response) -> bool:
    """Whether a change was answered by something in front of the server: then nobody knows what became of it."""
    return answer.status_code in {502, 503, 504} and not getattr(answer, "cutover_reads", True)


def words_of(answer: requests.Response) -> str:
    """What an error says, in a line: a page of a proxy without its markup."""
    return cut(without_markup(answer.text), 300) or cut(str(answer.reason or "no reason"), 300)


def without_markup(text: str) -> str:
    """The words of a page. A text that is no page stays as it is."""
    if not re.search(r"<(html|!doctype|head|body)", text, re.IGNORECASE):
        return " ".join(text.split())
    return " ".join(re.sub(r"<(style|script)[^>]*>.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE).split())


def _never_sent(error: Exception) -> bool:
    """Whether a connection error proves that the request never left: there was no connection."""
    return isinstance(_cause(error), NewConnectionError)


def _cause(error: Exception) -> Any:
    """What urllib3 says that requests has wrapped."""
    cause: Any = error.args[0] if error.args else None
    return cause.reason if isinstance(cause, MaxRetryError) else cause


def _before_the_request(error: Exception) -> bool:
    """Whether a TLS error is one of the handshake: a request is only sent after it."""
    return isinstance(error.args[0] if error.args else None, MaxRetryError)


def _plain(error: Exception) -> str:
    """The innermost reason in a few words."""
    text = str(error)
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return "its answer cannot be unpacked."
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in text:
        return "its answer ends in the middle."
    for words in ("Connection refused", "Connection reset by peer", "Name or service not known", "No route to host",
                  "Network is unreachable", "Temporary failure in name resolution", "Broken pipe"):  # fmt: skip
        if words in text:
            return words.lower() + "."
    if "RemoteDisconnected" in text or "without response" in text:
        return "the server closed the connection without an answer."
    return text.rsplit(":", 1)[-1].strip(" )'\"") + "."


def _tls_sentence(error: Exception) -> str:
    text = str(error)
    if "Fingerprints did not match" in text:
        return "the certificate is not the pinned one (its fingerprint differs). Nothing was sent."
    cause = _cause(error)
    if isinstance(cause, Urllib3SSLError) and cause.args:
        cause = cause.args[0]
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLCertVerificationError):
        why = getattr(cause, "reason", None)  # only errors that OpenSSL made have it
        if why == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS there. Write its http address, or its https port."
        # Both say that the connection ended; which one comes depends on the moment.
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return "the server ended the connection before TLS was agreed on."
        return f"no TLS was agreed on with the server ({str(why or cause).lower().replace('_', ' ')})."
    reason = getattr(cause, "verify_message", "") or str(cause)
    if "expired" in reason or "not yet valid" in reason:
        return f"the certificate was not accepted ({reason}). Look at its dates, and at the clock of this computer."
    if "mismatch" in reason or "not valid for" in reason:
        told = reason.rstrip(".")
        return f"the certificate was not accepted ({told}). Write the name that it is for into site.yaml, or pin its fingerprint."
    return f"the certificate was not accepted ({reason}). Name its CA file or pin its fingerprint in site.yaml."


class _Session(requests.Session):
    """Answers a redirect as it is."""

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return iter(())


def session(
    guard: WriteGuard,
    *,
    is_read: IsRead = reads_by_method,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    pool: int = 16,
    no: Callable[[int], bool] | None = None,
) -> requests.Session:
    """A session on which every request passes the guard. It ignores proxies and .netrc of the environment.

    ``no`` (status -> bool): which answers say that a change was not made; default: :func:`says_no`.
    """
    made = _Session()
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = GuardedAdapter(guard, is_read, tls or Tls(), timeout, pool, no)
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    made.headers.update(headers or {})
    return made
