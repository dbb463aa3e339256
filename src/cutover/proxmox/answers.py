"""What an answer of Proxmox that is no "yes" means.

It says HTTP 500 for permanent refusals as well as for passing ones, so what kind of refusal an answer is, is read from its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from proxmoxer.core import ResourceException

from cutover.core import http
from cutover.core.errors import CutoverError, OutcomeUnknown, Refused, Unreachable

#: Answers of a proxy between us and the API: the request may have gone no further (595) or have been carried out (the rest).
PROXY_STATUS = frozenset({502, 503, 504, 595, 596, 599})

Kind = Literal["gone", "locked", "busy", "changed", "protected", "denied", "no-quorum", "stays-up", "refused"]

#: How Proxmox says that there is no such thing.
_GONE = (
    r"Configuration file '.*' does not exist|no such (resource|rule|alias|(?i:ipset)|security group)|unable to find VM"
    r"|no rule at position|pool '.*' does not exist"
)
#: What a refusal means, by its text: Proxmox uses status 500 for all of them. The first that matches counts.
_KINDS: tuple[tuple[str, Kind], ...] = (
    (r"protection mode enabled|cannot remove protected", "protected"),
    (r"(VM|CT) is locked \(", "locked"),
    (r"can't lock file .* - got timeout", "busy"),
    (r"checksum mismatch \(file change by other user\?\)|detected modified configuration", "changed"),
    (_GONE, "gone"),
    (r"Permission check failed", "denied"),
    (r"no quorum", "no-quorum"),
    (r"VM quit/powerdown failed|container did not stop", "stays-up"),
)


def kind_of(text: str) -> Kind:
    """What kind of refusal a message is. Pure."""
    return next((kind for pattern, kind in _KINDS if re.search(pattern, text)), "refused")


#: What to do about each kind.
HINTS: Mapping[Kind, str] = {
    "protected": "Somebody protected it on purpose. Ask them, then take the protection away in Proxmox.",
    "locked": "Something else is working on it (a backup, a snapshot, a migration). Wait until it has ended.",
    "busy": "Something else holds its configuration. Try again in a minute.",
    "changed": "Somebody changed it in the meantime. Run the command again: it looks at what is there now.",
    "gone": "Compare site.yaml with what Proxmox shows.",
    "denied": "`cutover check` says which rights the token lacks, `cutover rights` has the commands that give them.",
    "no-quorum": "The cluster has no majority and refuses every change. Bring its nodes back first.",
    "stays-up": "It was asked to go down and did not. Look inside it at what keeps it up, or shut it down there; then run again.",
    "refused": "",
}


class ProxmoxRefused(Refused):
    """Proxmox said no. ``kind`` tells what sort of no it is, ``status`` is the HTTP status."""

    def __init__(self, sentence: str, kind: Kind, status: int) -> None:
        super().__init__(sentence, HINTS[kind])
        self.kind = kind
        self.status = status


def error_of(error: ResourceException, shown: str, method: str, token: str) -> CutoverError:
    """The error of this project that an answer of Proxmox is."""
    status, text = int(error.status_code), http.without_markup(str(error.content or error.status_message or ""))
    # Bytes are what proxmoxer makes of a body that is not Proxmox' JSON: a page of something in between.
    told = error.errors if isinstance(error.errors, dict) else {}
    errors = {name: said for name, said in told.items() if not isinstance(said, bytes)}
    if errors:
        text = "; ".join(f"{name}: {' '.join(str(said).split())}" for name, said in errors.items())
    if status == 401:
        return Refused(
            f"Proxmox does not accept the token {token}.",
            "Compare PROXMOX_TOKEN_ID and PROXMOX_TOKEN_SECRET with Proxmox, and look there whether the token or its user has "
            "expired or is disabled: it answers the same to all of these.",
        )
    if status in PROXY_STATUS:
        if method == "GET" or status == 595:
            return Unreachable(f"{shown}: {status} {text}.")
        return OutcomeUnknown(f"{shown}: {status} {text}", "Look whether it happened before doing it again.")
    return ProxmoxRefused(f"{shown}: {text or status}.", kind_of(text), status)
