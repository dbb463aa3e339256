"""Reading back what this tool stored as JSON: every field is of the kind that its dataclass says, or none of it counts.

A file may be of another version, cut off, or edited: what is half understood would decide which writes are still to be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter

Kind = TypeVar("Kind")
#: Made once: that takes longer than reading.
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}

#: What such a dataclass says of itself as ``__pydantic_config__``.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
#: Seconds since 1970 that are a date; and how far into a file.
Time = Annotated[float, Field(ge=0, lt=2e11)]
Offset = Annotated[int, Field(ge=0)]


def read(kind: type[Kind], path: Path) -> Kind:
    """The dataclass ``kind`` that a file holds. ValueError where a field is unknown or of another kind, or it is no JSON."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    found: Kind = _ADAPTERS[kind].validate_json(path.read_bytes())
    return found
