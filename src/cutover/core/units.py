"""Sizes in bytes. Proxmox and Compose count in powers of 1024, whichever letter they write."""

from __future__ import annotations

import re

MIB = 1024**2
GIB = 1024**3

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)i?b?", re.IGNORECASE)
_FACTORS = {"": 1, "b": 1, "k": 1024, "m": MIB, "g": GIB, "t": 1024 * GIB}


def size_bytes(text: str) -> int | None:
    """``100G`` or ``512m`` in bytes; None where it is no size."""
    found = _SIZE.fullmatch(text.strip())
    return int(float(found[1]) * _FACTORS[found[2].lower()]) if found else None
