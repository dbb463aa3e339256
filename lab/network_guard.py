"""Nothing that the lab's tests do leaves this machine: no connection, no question about a name, no shell elsewhere.

``site.yaml`` ships with the names and addresses of the plan. Where a test forgot to replace one, it would be asked for on the network
that the tests run in, and there it may exist. So the process of the tests itself refuses, by Python's audit events, whatever library
it is, and does not start ``ssh``. What other programs do that it starts is not covered: the lab gives them addresses of this machine.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

#: This machine; and the networks that the container ground makes, which cannot exist outside (RFC 2544).
HERE = tuple(ipaddress.ip_network(one) for one in ("127.0.0.0/8", "::1/128", "198.18.0.0/15"))
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def here(host: Any) -> bool:
    """Whether a host, as sockets take it, is this machine: no name but localhost, whose address nobody has to be asked for."""
    text = host.decode(errors="replace") if isinstance(host, bytes) else host
    if text in {None, "", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return False
    return address.is_unspecified or any(address in network for network in HERE)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _LOOKUPS and not here(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, f"a test asked for {arguments[0]!r}, which is not of this machine")
    if event in _SENDS and isinstance(arguments[1], tuple) and not here(arguments[1][0]):
        raise OSError(errno.ENETUNREACH, f"a test wanted to reach {arguments[1][0]}, which is not of this machine")
    if event == "socket.getnameinfo" and not here(arguments[0][0]):
        raise socket.gaierror(socket.EAI_NONAME, f"a test asked for {arguments[0][0]!r}, which is not of this machine")
    if event == "subprocess.Popen" and _program(arguments) == "ssh":
        raise OSError(errno.ENETUNREACH, f"a test wanted a shell elsewhere: {_words(arguments[1])}")


def _program(arguments: tuple[Any, ...]) -> str:
    return Path(os.fsdecode(arguments[0] or arguments[1][0])).name


def _words(words: Any) -> str:
    return words if isinstance(words, str) else " ".join(os.fsdecode(word) for word in words)


def keep_inside() -> None:
    """Refuse from now on, in this process; it cannot be taken back."""
    sys.addaudithook(_refuse)
