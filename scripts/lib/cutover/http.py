"""HTTP with rails: every request of every client passes :class:`DoorAdapter`.

* A request that writes needs an open act (see :mod:`cutover.door`), whatever library sends it.
* TLS is verified against the system's authorities, against a given CA file, or pinned to a fingerprint. There is no
  way to
  switch it off.
* An error says what can be believed: *unreachable* (the request never got there, or it only read), or *outcome
  unknown* (a
  change was sent and its answer did not come).
* No cookies are kept: Portainer's log-in cookie switches its CSRF protection on and makes the next write fail.
* Redirects are not followed: a redirect of a write would silently become a read.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError
from urllib3.exceptions import SSLError as Urllib3SSLError

from cutover.door import Door
from cutover.errors import OutcomeUnknown, Unreachable, WrongUsage

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
    """How a server proves who it is: the system's CAs, ``ca_file``, or its certificate's SHA-256 ``fingerprint``."""

    ca_file: Path | None = None
    fingerprint: str | None = None

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
            return context
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise WrongUsage(f"The CA file {self.ca_file} cannot be used: {error}.") from None
        if self.ca_file is not None:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class DoorAdapter(HTTPAdapter):
    """Sends a request only when it reads or when an act is open."""

    def __init__(self, door: Door, is_read: IsRead, tls: Tls, timeout: tuple[float, float], pool: int = 16) -> None:
        self._door = door
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
            self._door.require(shown)
        # proxmoxer gives 5 s, requests gives none: ours holds unless a caller asks for longer.
        given = kwargs.get("timeout")
        if not isinstance(given, tuple):
            kwargs["timeout"] = (self._timeout[0], max(self._timeout[1], given or 0))
        try:
            answer = self._sent(request, shown, reads, *args, **kwargs)
        except Unreachable:
            if not reads:
                self._door.refused()
            raise
        if not reads and answer.status_code >= 400:
            self._door.refused()
        return answer

    def _sent(self, request: requests.PreparedRequest, shown: str, reads: bool, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            return super().send(request, *args, **kwargs)
        except requests.exceptions.SSLError as error:
            raise Unreachable(f"{shown}: {_tls_sentence(error)}") from None
        except requests.exceptions.ConnectTimeout:
            raise Unreachable(f"{shown}: no connection within {kwargs['timeout'][0]:g} s.") from None
        except requests.exceptions.ConnectionError as error:
            if reads or _never_sent(error):
                raise Unreachable(f"{shown}: {_plain(error)}") from None
            raise OutcomeUnknown(
                f"{shown}: the connection was lost after the request was sent ({_plain(error)})",
                "Look whether it happened before doing it again.",
            ) from None
        except requests.exceptions.Timeout:
            waited = f"no answer within {kwargs['timeout'][1]:g} s"
            if reads:
                raise Unreachable(f"{shown}: {waited}.") from None
            raise OutcomeUnknown(
                f"{shown}: {waited}, and the request was sent.", "Look whether it happened before doing it again."
            ) from None


def _never_sent(error: Exception) -> bool:
    """Whether a connection error proves that the request never left: there was no connection."""
    cause: Any = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    return isinstance(cause, NewConnectionError)


def _plain(error: Exception) -> str:
    """The innermost reason in a few words."""
    text = str(error)
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
    cause: Any = error.args[0] if error.args else error
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, Urllib3SSLError) and cause.args:
        cause = cause.args[0]
    reason = getattr(cause, "verify_message", "") or str(cause)
    return f"the certificate was not accepted ({reason}). Name its CA file or pin its fingerprint in site.yaml."


class _Session(requests.Session):
    """Answers a redirect as it is."""

    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return iter(())


def session(
    door: Door,
    *,
    is_read: IsRead = reads_by_method,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    pool: int = 16,
) -> requests.Session:
    """A session on which every request passes the door. It ignores proxies and .netrc of the environment."""
    made = _Session()
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = DoorAdapter(door, is_read, tls or Tls(), timeout, pool)
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    made.headers.update(headers or {})
    return made
