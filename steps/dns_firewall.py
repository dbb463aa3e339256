"""Names and firewall entries: what of them speaks of the old servers, and what speaks of others."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pytest_bdd import given, then

from cutover.proxmox import firewall
from lab.lab import Lab

#: What the lab's firewall has of the old servers alone, and of them together with others (see lab.firewall_fixtures).
THEIR_NAMES = {"to-qdrant", "old-ones", "qdrant-old"}


def picture(lab: Lab) -> dict[str, Any]:
    """Firewall, names, guests, jobs, access rules, pools and backups, as they are."""
    assert lab.pve is not None
    with closing(lab.run()) as run:
        rules = firewall.read(run.proxmox).as_json()
    return copy.deepcopy(
        {
            "firewall": rules,
            "names": lab.names.entries(),
            "guests": {g.vmid: {k: v for k, v in g.config.items() if k != "digest"} for g in (*lab.pve.cts, *lab.pve.vms)},
            "running": {m.vmid: m.running for m in lab.machines},
            "jobs": lab.pve.backup_jobs,
            "acl": lab.pve.acl_rows,
            "pools": {name: sorted(ids) for name, ids in lab.pve.pools.items()},
            "backups": {n: v for s in lab.pve.storages.values() for n, v in s.get("volumes", {}).items() if "backup/" in n},
        }
    )


def own(lab: Lab, path: str) -> bool:
    """Whether a rule list is one that goes with an old server."""
    gone = "|".join(str(guest.vmid) for guest in lab.site.guests.to_decommission())
    return re.search(rf"/(?:lxc|qemu)/(?:{gone})/", path) is not None


@pytest.fixture
def borrowed(lab: Lab) -> Iterator[None]:
    """Another server's set uses an old server's alias, for the length of a scenario."""
    assert lab.pve is not None
    members = lab.pve.firewall_config("cluster")["ipset"]["databases"]
    members.append({"cidr": "dc/qdrant-old"})
    yield
    members.remove({"cidr": "dc/qdrant-old"})


@given("somebody else uses the firewall name of an old server")
def _somebody_uses_it(borrowed: None) -> None:
    del borrowed


@then("the firewall is as it was, except for what spoke of the old servers alone")
def _firewall_as_before(lab: Lab, site_before: dict[str, Any], site_after: dict[str, Any], written_down: dict[str, Any]) -> None:
    was, now = site_before["firewall"], site_after["firewall"]
    assert {b: s for b, s in was["groups"].items() if b not in THEIR_NAMES} == now["groups"]
    for kind in ("ipsets", "aliases"):
        kept = {b: {n: c for n, c in of.items() if n not in THEIR_NAMES} for b, of in was[kind].items() if not own(lab, b)}
        assert {b: of for b, of in kept.items() if of} == now[kind]
    removed = [one for guest in written_down["guests"] for record in guest["firewall"] for one in record["rules"].items()]
    assert removed
    for path, rules in was["rules"].items():
        if own(lab, path):
            continue
        taken = [t["rule"] for where, some in removed if where == path for t in some]
        assert [rule for rule in rules if rule not in taken] == now["rules"].get(path, []), path
        assert all(not re.search("vllm|databases|HTTP$", f"{r.get('source', '')}") for r in taken), taken


@then("the names are as they were, except for those of the old servers")
def _names_as_before(lab: Lab, site_before: dict[str, Any], site_after: dict[str, Any]) -> None:
    theirs = {f"{guest.name}.home.arpa." for guest in lab.site.guests.to_decommission()} | {"vectors.home.arpa."}
    gone = [entry for entry in site_before["names"] if entry[0] in theirs or entry[2] in theirs]
    assert len(gone) == 9, gone
    left = [entry for entry in site_after["names"] if entry in gone]
    assert not left, f"names of the old servers are still there: {left}"
    assert site_after["names"] == [entry for entry in site_before["names"] if entry not in gone]


@then("everything that was removed is written down with its place")
def _written_down(site_before: dict[str, Any], site_after: dict[str, Any], written_down: dict[str, Any]) -> None:
    known = [firewall.Firewall({p: tuple(r) for p, r in site_after["firewall"]["rules"].items()}, {}, {}, {})]
    for guest in reversed(written_down["guests"]):
        for record in reversed(guest["firewall"]):
            known.append(firewall.put_back(known[-1], record))
    restored = known[-1].as_json()["rules"]
    assert {p: restored.get(p) for p in restored if restored[p]} == {
        p: r for p, r in site_before["firewall"]["rules"].items() if r and p in restored
    }
    names = {
        (r["name"], r["type"], r["value"])
        for guest in written_down["guests"]
        for found in guest["names"]
        for r in found["records"]
    }
    assert names == set(map(tuple, site_before["names"])) - set(map(tuple, site_after["names"]))
