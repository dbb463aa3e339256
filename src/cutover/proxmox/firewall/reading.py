"""Read everything of Proxmox' firewall that can hold a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cutover.core.errors import CutoverError
from cutover.proxmox.firewall.rules import CLUSTER, Firewall, Rule, owner, plain

if TYPE_CHECKING:
    from cutover.proxmox.client import Proxmox


def read(proxmox: Proxmox) -> Firewall:
    """Read everything that can hold a reference. Sites without SDN have no VNets to read."""
    bases = [CLUSTER]
    bases += [f"nodes/{node}/firewall" for node in sorted(n["node"] for n in proxmox.list("nodes"))]
    bases += [f"{place.path}/firewall" for place in proxmox.places()]
    bases += [f"cluster/sdn/vnets/{vnet}/firewall" for vnet in _vnets(proxmox)]
    rules: dict[str, tuple[Rule, ...]] = {}
    aliases: dict[str, dict[str, dict[str, Any]]] = {}
    sets: dict[str, dict[str, dict[str, Any]]] = {}
    for base in bases:
        rules[f"{base}/rules"] = tuple(plain(r) for r in _rules(proxmox, base))
        if base != CLUSTER and owner(base) is None:
            continue  # nodes and VNets have rules only
        aliases[base] = {str(a["name"]).lower(): content_of(a) for a in proxmox.list(f"{base}/aliases")}
        sets[base] = {
            str(s["name"]): {
                "comment": str(s.get("comment") or ""),
                "members": [content_of(m) for m in proxmox.list(f"{base}/ipset/{s['name']}")],
            }
            for s in proxmox.list(f"{base}/ipset")
        }
    groups = {str(g["group"]): str(g.get("comment") or "") for g in proxmox.list(f"{CLUSTER}/groups")}
    for name in groups:
        rules[f"{CLUSTER}/groups/{name}"] = tuple(plain(r) for r in proxmox.list(f"{CLUSTER}/groups/{name}"))
    return Firewall(rules, groups, aliases, sets)


def content_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in {"digest", "ipversion", "errors"} and v not in (None, "")}


def _rules(proxmox: Proxmox, base: str) -> list[dict[str, Any]]:
    """A rule list; VNets got theirs with Proxmox VE 8.3, and answer "not implemented" before."""
    try:
        return proxmox.list(f"{base}/rules")
    except CutoverError as error:
        if "/sdn/" in base and _not_implemented(error):
            return []
        raise


def _not_implemented(error: CutoverError) -> bool:
    return getattr(error, "status", 0) == 501 or "not implemented" in str(error).lower()


def _vnets(proxmox: Proxmox) -> Iterator[str]:
    try:
        # VNets that are not applied yet are listed too, and have no rules that could be read.
        found = proxmox.list("cluster/sdn/vnets", running=1)
    except CutoverError as error:
        if _not_implemented(error):
            return
        raise
    yield from (str(vnet["vnet"]) for vnet in found if vnet.get("vnet"))


def read_list(proxmox: Proxmox, path: str) -> tuple[list[dict[str, Any]], str | None]:
    entries = sorted(proxmox.list(path), key=lambda r: int(r.get("pos", 0)))
    return entries, (str(entries[0]["digest"]) if entries and entries[0].get("digest") else None)
