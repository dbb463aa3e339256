"""What was found out about a site, each with where it came from; and where a ``site.yaml`` says something else."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cutover.proxmox import identity

Path = tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A value of ``site.yaml``: its place in the file, and in a few words who says so.

    ``gap``: nobody does; ``source`` is then why, and ``tell`` a command that would. ``chosen``: one of several that would do, so
    another one in a file is no contradiction. ``also``: other values that are as true.
    """

    where: Path
    value: Any
    source: str
    chosen: bool = False
    gap: bool = False
    tell: str = ""
    also: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The place as it is written in sentences."""
        return ".".join(self.where)

    @property
    def comment(self) -> str:
        """What stands above the value in the file."""
        if self.gap:
            return f"GAP: {self.source}. This would tell: {self.tell}"
        return f"found: {self.source}"


@dataclass
class Found:
    """Everything that was found out so far, in the order of the file. ``notes`` are sentences for the operator."""

    facts: dict[Path, Fact] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, where: str, value: Any, source: str, *, chosen: bool = False, also: Iterable[Any] = ()) -> None:
        """A value and who says so."""
        path = tuple(where.split("."))
        self.facts[path] = Fact(path, value, source, chosen=chosen, also=tuple(also))

    def gap(self, where: str, why: str, tell: str) -> None:
        """What could not be found, and the command that would tell."""
        path = tuple(where.split("."))
        self.facts.setdefault(path, Fact(path, None, why, gap=True, tell=tell))

    def get(self, where: str) -> Any:
        """The value at a place, or None."""
        fact = self.facts.get(tuple(where.split(".")))
        return None if fact is None else fact.value

    @property
    def gaps(self) -> list[Fact]:
        """What nobody could tell."""
        return [fact for fact in self.facts.values() if fact.gap]


@dataclass(frozen=True)
class Difference:
    """Where a file and the world have come apart."""

    fact: Fact
    written: Any

    def __str__(self) -> str:
        value, written = self.fact.value, self.written
        if isinstance(value, Mapping) and isinstance(written, Mapping):
            odd = [key for key in value if not same(written.get(key), value[key])]
            value, written = {key: value[key] for key in odd}, {key: written.get(key) for key in odd}
        return f"{self.fact.name} is {shown(written)} in site.yaml and {shown(value)} by {self.fact.source}"


def shown(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(shown, value)) or "empty"
    return "not there" if value is None else str(value)


def at(tree: Any, where: Iterable[str]) -> Any:
    """What a parsed file says at a place, or None."""
    for key in where:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def differences(found: Found, tree: Mapping[str, Any], *, chosen: bool = False) -> list[Difference]:
    """Where the parsed file ``tree`` says something else than was found, or nothing. ``chosen``: choices count as well."""
    result = []
    for fact in found.facts.values():
        written = at(tree, fact.where)
        if fact.gap or (fact.chosen and not chosen and written is not None):
            continue
        if not any(same(written, value) for value in (fact.value, *fact.also)):
            result.append(Difference(fact, written))
    return result


def same(written: Any, value: Any) -> bool:
    """Whether a file says this, in whichever spelling: a name for its address, keys that were not found out left aside.

    A name that stands for no address here contradicts nothing; that it cannot be resolved is what another check says.
    """
    if isinstance(value, Mapping):
        return isinstance(written, Mapping) and all(same(written.get(key), inner) for key, inner in value.items())
    if isinstance(value, list):
        fits = isinstance(written, list) and len(written) == len(value)
        if fits and all(isinstance(inner, Mapping) for inner in value):  # guests, in whichever order
            return all(any(same(one, inner) for one in written) for inner in value)
        return fits and all(map(same, written, value))
    if written == value or str(written).rstrip("/") == str(value).rstrip("/"):
        return True
    try:
        address = str(ipaddress.ip_address(str(value)))  # of a number it would make one
    except ValueError:
        return False
    means = identity.resolved(written) if isinstance(written, str) else (None,)
    return not means or address in means
