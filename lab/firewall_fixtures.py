"""What else is on the lab's site: firewall entries that name the old servers, alone and together with others.

The plan's own facts do not fill a firewall; without neighbours "everyone else's rules are as before" would show nothing. So every
kind of mention is here: rules of the datacenter, the node and other guests, a security group, aliases and IP sets, some of them
the old servers' alone (listed in `ALONE`), some shared, some about others only.
"""

from __future__ import annotations

from typing import Any

from cutover.site.schema import Site
from lab.proxmox import LabPve

Rule = dict[str, Any]

#: How many entries are the old servers' alone: rules, groups, sets, aliases.
ALONE = {"rules": 11, "groups": 1, "sets": 1, "aliases": 1}


def rule(direction: str, **fields: Any) -> Rule:
    """A rule as the API keeps it."""
    return {"type": direction, "action": "ACCEPT", "enable": 1, **fields}


def furnish_firewall(pve: LabPve, site: Site) -> None:
    """Write the firewall of a site where the old servers are mentioned everywhere."""
    guests = site.guests
    old = guests.old.address
    prefix = old.rsplit(".", 1)[0]
    one, two, four = (guest.address for guest in guests.legacy)
    use: Rule = {"type": "group", "action": "to-qdrant", "enable": 1}

    cluster = pve.firewall_config("cluster")
    cluster["options"] = {"enable": 1}
    for name, cidr in (("qdrant-old", old), ("vllm", guests.vllm.address), ("lan", f"{prefix}.0/24")):
        cluster["aliases"][name] = {"name": name, "cidr": cidr, "ipversion": 4}
    cluster["ipset"]["old-ones"] = [
        {"cidr": one},
        {"cidr": two},
        {"cidr": "dc/qdrant-old", "comment": "the one with data"},
        {"cidr": four},
    ]
    cluster["ipset"]["databases"] = [{"cidr": old}, {"cidr": guests.new.address}]
    cluster["ipset_comments"]["old-ones"] = "all that goes"
    cluster["groups"]["to-qdrant"] = [rule("in", dest=old, proto="tcp", dport="6333", comment="REST")]
    cluster["groups"]["web"] = [
        rule("in", macro="HTTP"),
        rule("in", source="dc/qdrant-old", macro="HTTPS"),
        rule("in", macro="SSH"),
    ]
    cluster["group_comments"]["to-qdrant"] = "who may ask Qdrant"
    cluster["rules"] += [
        rule("in", source="dc/lan", macro="SSH"),
        rule("in", source="+dc/old-ones", macro="Ping", comment="all four"),
        rule("in", source="dc/lan", dest=f"{one},{old}", comment="two of them"),
        rule("in", source=f"{one},{guests.vllm.address}", comment="one that goes, one that stays"),
        rule("in", source="+dc/databases", proto="tcp", dport="9000"),
        dict(use, type="group"),
        rule("in", source="dc/qdrant-old", dest=guests.vllm.address, enable=0, comment="was switched off before"),
    ]
    node = pve.firewall_config("host", site.proxmox.node)
    node["rules"] += [rule("in", source=two), rule("in", source="dc/lan"), rule("in", iface="veth953i0")]
    nginx = pve.firewall_config("ct", vmid=guests.nginx.vmid)
    nginx["rules"] += [
        rule("out", dest=old, proto="tcp", dport="6333", comment="proxy to Qdrant"),
        rule("out", dest=guests.vllm.address, proto="tcp", dport="8000"),
        dict(use),
        rule("in", macro="HTTP"),
    ]
    pve.firewall_config("vm", vmid=guests.new.vmid)["rules"] += [
        rule("in", source=four, macro="SSH"),
        rule("in", source="dc/lan"),
    ]
    own = pve.firewall_config("ct", vmid=guests.old.vmid)
    own["options"] = {"enable": 1}
    own["rules"] += [rule("in", source="dc/lan", proto="tcp", dport="6333"), rule("in", source="dc/vllm")]
    pve.firewall_config("ct", vmid=guests.legacy[0].vmid)["rules"] += [rule("in", source="+dc/old-ones")]
