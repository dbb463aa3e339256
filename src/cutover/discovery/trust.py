"""Whom to believe before anything is known: the certificate of a server whose authority this machine does not know.

Nothing is sent to a server that did not prove who it is. Its certificate is fetched by a handshake alone, and the operator
compares its fingerprint with what the server itself shows on its own screen.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from urllib.parse import urlsplit

from cutover.core.errors import Unreachable
from cutover.core.http import CONNECT_SECONDS, Tls


def known(url: str, tls: Tls) -> bool:
    """Whether the server proves who it is by ``tls``. :class:`Unreachable` where nobody answers with TLS."""
    return _handshake(url, tls.context()) is not None


def fingerprint(url: str) -> str:
    """The SHA-256 of the server's certificate, in hexadecimal digits with colons."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    digest = hashlib.sha256(_handshake(url, context) or b"").hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _handshake(url: str, context: ssl.SSLContext) -> bytes | None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        with (
            socket.create_connection((host, port), CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError:
        return None
    except ssl.SSLError as error:
        raise Unreachable(f"{url} does not speak TLS: {error.reason or error}.", "Look at its address and port.") from None
    except (OSError, UnicodeError) as error:  # the latter: a name that DNS cannot have
        why = str(getattr(error, "strerror", None) or error).lower().rstrip(".")
        raise Unreachable(f"{url} cannot be reached: {why}.", "Look at its address, and at the way to it.") from None
