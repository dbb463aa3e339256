"""A picture of everything the lab's servers hold, to compare before and after.

Taken from the servers themselves and from their disks, never from the tool's journal: what the tool believes is what is being
tested. Times, counters and identifiers that change by themselves are left out.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from fakepve.firewall import empty_conf

if TYPE_CHECKING:
    from lab.lab import Lab

Picture = dict[str, Any]


def picture(lab: Lab) -> Picture:
    """Guests, firewall, jobs, names, Nginx's files, stacks and containers, and every record of both Qdrants."""
    return {
        "guests": _guests(lab),
        "firewall": _proxmox(lab),
        "names": sorted(map(str, lab.names.entries())),
        "nginx": _files(Path(lab.site.nginx.main_config).parent),
        "flags": _files(lab.nginx.gate_folder / "flags"),  # a site file that somebody just wrote may name another folder
        "old": records(lab, lab.site.qdrant.old_url),
        "new": records(lab, lab.site.qdrant.new_url),
        "docker": _docker(lab),
    }


def differences(before: Picture, after: Picture) -> list[str]:
    """What differs, as paths: ``guests.952.config.memory: 2048 -> 4096``."""
    return list(_differ("", before, after))


def _differ(where: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        found: list[str] = []
        for key in sorted({*one, *other}, key=str):
            found += _differ(f"{where}.{key}".lstrip("."), one.get(key, "(absent)"), other.get(key, "(absent)"))
        return found
    return [] if one == other else [f"{where}: {_short(one)} -> {_short(other)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 160 else text[:157] + "..."


def _guests(lab: Lab) -> dict[str, Any]:
    pve = lab.pve
    assert pve is not None
    return {
        str(guest.vmid): {
            "name": guest.name,
            "status": guest.status,
            "config": {k: str(v) for k, v in dict(guest.config).items() if k not in {"digest", "meta", "parent"}},
            "pending": dict(getattr(guest, "pending", {}) or {}),
            "snapshots": sorted(map(str, getattr(guest, "guest_snapshots", {}) or {})),
        }
        for guest in (*pve.vms, *pve.cts)
    }


def _proxmox(lab: Lab) -> dict[str, Any]:
    pve = lab.pve
    assert pve is not None
    return {
        "jobs": copy.deepcopy(pve.backup_jobs),
        "acl": sorted(map(str, pve.acl_rows)),
        "rules": _rules(pve._fw()),
        "backups": sorted(name for store in pve.storages.values() for name in store.get("volumes", {}) if "backup/" in name),
    }


def _rules(kept: dict[str, Any]) -> dict[str, Any]:
    """Every firewall that says something; asking for one makes an empty one."""
    named = {"cluster": kept["cluster"]}
    named |= {f"{kind} {key}": one for kind in ("nodes", "guests") for key, one in kept[kind].items()}
    return {name: copy.deepcopy(one) for name, one in named.items() if one != empty_conf()}


def _files(folder: Path) -> dict[str, str]:
    if not folder.exists():
        return {}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records(lab: Lab, url: str) -> dict[str, Any]:
    """Every collection of a server: settings, indexes, snapshots, a digest of every record; empty where nothing answers."""
    session = requests.Session()
    session.headers["api-key"] = lab.keys.qdrant

    def get(path: str) -> Any:
        answer = session.get(url + path, timeout=20)
        answer.raise_for_status()
        return answer.json()["result"]

    try:
        names = [c["name"] for c in get("/collections")["collections"]]
    except requests.ConnectionError:
        return {}
    found: dict[str, Any] = {"aliases": sorted(map(str, get("/aliases")["aliases"]))}
    for name in names:
        info = get(f"/collections/{name}")
        digest, count, offset = hashlib.sha256(), 0, None
        while True:
            body = {"limit": 1000, "with_payload": True, "with_vector": True, "offset": offset}
            answer = session.post(f"{url}/collections/{name}/points/scroll", json=body, timeout=60)
            answer.raise_for_status()
            page = answer.json()["result"]
            for point in page["points"]:
                digest.update(json.dumps(point, sort_keys=True).encode())
                count += 1
            offset = page.get("next_page_offset")
            if offset is None:
                break
        indexes = {field: {k: v for k, v in index.items() if k != "points"} for field, index in info["payload_schema"].items()}
        found[name] = {"config": info["config"], "indexes": indexes, "records": count, "digest": digest.hexdigest()}
        shards = (f"/shards/{number}" for number in range(info["config"]["params"]["shard_number"]))
        kept = (one for of in ("", *shards) for one in get(f"/collections/{name}{of}/snapshots"))
        found[name]["snapshots"] = sorted(one["name"] for one in kept)
    return found


def _docker(lab: Lab) -> dict[str, Any]:
    url = lab.site.portainer.url
    session = requests.Session()
    session.trust_env = False  # or a CA bundle of this machine's environment would win
    session.verify = str(lab.authority.file)
    session.headers["X-API-Key"] = lab.keys.portainer
    stacks = session.get(f"{url}/api/stacks", timeout=20).json() or []
    base = f"{url}/api/endpoints/{session.get(f'{url}/api/endpoints', timeout=20).json()[0]['Id']}/docker"
    containers = session.get(f"{base}/containers/json", params={"all": "1"}, timeout=20).json()
    volumes = session.get(f"{base}/volumes", timeout=20).json()["Volumes"]
    return {
        "stacks": sorted(s["Name"] for s in stacks),
        "containers": sorted((c["Names"][0], c["Image"], c["State"]) for c in containers),
        "volumes": sorted(v["Name"] for v in volumes),
    }
