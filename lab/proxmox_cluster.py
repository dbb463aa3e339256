# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the lab's Proxmox host says about the whole cluster: the list of resources, nodes, pools, jobs, HA, replication, VNets.

``cluster/resources`` is a sample, as on a genuine host: pvestatd looks every ten seconds (of the lab's time), and between two
looks the list shows names, states and numbers of the last one. A guest that is newer than the last look, and every guest when
nobody has looked for five minutes, is there with its id and node alone and the status ``unknown``. Who is in which pool, and
which guests there are at all, is always true.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from typing import Any

from aiohttp import web
from fakepve import PveError
from fakepve.server import USER, ok

from lab.proxmox_access import Access

Values = dict[str, Any]
GIB = 1024**3

#: Seconds between two looks of pvestatd, and after how many a look is too old to be shown.
LOOK, STALE = 10.0, 300.0


class Cluster(Access):
    """The part of the lab's host that speaks for all guests and nodes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.backup_jobs: dict[str, Values] = {}
        self.replication: dict[str, Values] = {}
        self.ha: dict[str, Values] = {}
        self.ha_rules: list[Values] = []
        #: VNets with their zone; those in `applied` are in force and have rules.
        self.vnets: dict[str, Values] = {}
        self.applied_vnets: set[str] = set()
        #: pvestatd looks by itself; a test that has to know when sets this to False and calls :meth:`sample`.
        self.samples_itself = True
        self._sampled: dict[int, Values] = {}
        self._sampled_nodes: dict[str, Values] = {}
        self._sampled_at = -STALE

    # -- samples -------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """What pvestatd does every ten seconds: look at everything that is on a node which answers."""
        online = {name for name, state in self.nodes.items() if state.get("online", True)}
        # What was seen of a guest that is gone stays until it is stale: whoever gets its id next is shown with it.
        for guest in self._guests():
            if guest.node in online:
                self._sampled[guest.vmid] = self._sample_of(guest)
        self._sampled_nodes = {name: self._node_stats(name in online) for name in self.nodes}
        self._sampled_at = time.monotonic()

    def forget_samples(self) -> None:
        """pvestatd has been down for five minutes: nobody knows a number, a name or a state."""
        self._sampled, self._sampled_nodes, self.samples_itself = {}, {}, False

    async def _look_on(self) -> None:
        while True:
            if self.samples_itself:
                self.sample()
            await asyncio.sleep(max(0.01, LOOK * self.time_scale))

    async def start(self, certfile: str, keyfile: str) -> None:
        self.sample()
        await super().start(certfile, keyfile)
        self._statd = asyncio.ensure_future(self._look_on())

    async def stop(self) -> None:
        self._statd.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._statd
        await super().stop()

    def _sample_of(self, guest: Any) -> Values:
        if guest.guest.startswith("lxc"):
            found = self._status(guest)
            found["maxcpu"] = found.pop("cpus")
        else:
            found = {"name": guest.name, "status": guest.status, **self._vm_usage(guest)}
        keys = ("name", "status", "maxcpu", "maxmem", "maxdisk", "cpu", "mem", "disk", "uptime", "netin", "netout", "diskread",
                "diskwrite")  # fmt: skip
        row = {key: found[key] for key in keys if key in found}
        row["template"] = 1 if guest.template else 0
        return row

    def _row(self, guest: Any) -> Values:
        """A guest as lists of the cluster show it."""
        row: Values = {
            "id": guest.guest, "type": guest.guest.split("/")[0], "node": guest.node, "vmid": guest.vmid, "status": "unknown"
        }  # fmt: skip
        seen = self._sampled.get(guest.vmid)
        if seen:
            # Locks and tags are read from the configuration, everything else from the sample.
            live = {"lock": guest.config.get("lock") or guest.lock, "tags": guest.config.get("tags")}
            row |= seen | {key: value for key, value in live.items() if value}
        if not self.nodes.get(guest.node, {}).get("online", True):
            row["status"] = "unknown"
        return row

    async def _resources(self, request: web.Request) -> web.Response:
        kind, user = request.query.get("type"), request[USER]
        found: list[Values] = []
        if kind in (None, "pool"):
            found += [
                {"id": f"/pool/{name}", "pool": name, "type": "pool"} | self._pool_sum(name)
                for name in sorted(self.pools) if self.allowed(user, f"/pool/{name}", "Pool.Audit")
            ]  # fmt: skip
        if kind in (None, "vm"):
            for guest in sorted(self._guests(), key=lambda one: (one.guest.startswith("lxc"), one.vmid)):
                if not self.allowed(user, f"/vms/{guest.vmid}", "VM.Audit"):
                    continue
                row = self._row(guest)
                if pool := self._pool_of_vm(guest.vmid):
                    row["pool"] = pool
                if (sid := self._sid(guest)) in self.ha or guest.ha_managed:
                    row["hastate"] = self.ha[sid]["state"] if sid in self.ha else guest.ha_state
                found.append(row)
        if kind in (None, "node"):
            found += [self._node_row(name, {"cgroup-mode": 1}) for name in sorted(self.nodes)]
        if kind in (None, "storage"):
            for node in sorted(self.nodes):
                found += [row for name in self.storages if (row := self._storage_resource(node, name))]
        if kind in (None, "sdn"):
            found.append({"id": f"sdn/{self.node}/localnetwork", "node": self.node, "sdn": "localnetwork", "status": "ok",
                          "type": "sdn"})  # fmt: skip
        if kind is None:
            found.append({"id": f"network/{self.node}/zone/localnetwork", "network": "localnetwork", "network-type": "zone",
                          "node": self.node, "status": "ok", "type": "network", "zone-type": ""})  # fmt: skip
        shown: web.Response = ok(found)
        return shown

    def _pool_sum(self, name: str) -> Values:
        """The numbers of a pool's running members together; a pool without any has none."""
        rows = [row for vmid in self.pools[name] if (row := self._sampled.get(vmid)) and row["status"] == "running"]
        return {key: sum(row[key] for row in rows) for key in ("cpu", "mem", "maxcpu", "maxmem", "uptime")} if rows else {}

    def _node_row(self, name: str, extra: Values) -> Values:
        online = self.nodes[name].get("online", True)
        stats = self._sampled_nodes.get(name)
        state = "offline" if not online else "online" if stats else "unknown"
        return {"id": f"node/{name}", "type": "node", "node": name, "status": state, "level": "", **(stats or {}),
                **(extra if stats else {})}  # fmt: skip

    async def _nodes(self, request: web.Request) -> web.Response:
        from fakepve import shapes

        rows = []
        for name in sorted(self.nodes):
            row = self._node_row(name, {})
            if not self.allowed(request[USER], f"/nodes/{name}", "Sys.Audit"):
                row = {key: row[key] for key in ("id", "type", "node", "status", "level")}
            if row["status"] == "unknown":
                row.pop("level")
                row["level"] = ""
            rows.append(row | {"ssl_fingerprint": shapes.FINGERPRINT})
        shown: web.Response = ok(rows)
        return shown

    async def _cluster_status(self, request: web.Request) -> web.Response:
        """A host that is no cluster names itself alone."""
        alone = len(self.nodes) == 1
        rows: list[Values] = []
        if not alone:
            rows.append({"type": "cluster", "id": "cluster", "name": self.cluster_name, "nodes": len(self.nodes),
                         "quorate": 1 if self.quorate else 0, "version": 1})  # fmt: skip
        for number, (name, state) in enumerate(sorted(self.nodes.items())):
            rows.append({"type": "node", "id": f"node/{name}", "name": name, "nodeid": 0 if alone else number + 1, "level": "",
                         "ip": f"192.0.2.{number + 2}", "online": 1 if state.get("online", True) else 0,
                         "local": 1 if name == self.node else 0})  # fmt: skip
        shown: web.Response = ok(rows)
        return shown

    def _members(self, name: str, kind: str | None) -> list[Values]:
        """Members with what the last sample says of them."""
        rows = [self._row(guest) for vmid in sorted(self.pools.get(name, ())) if (guest := self._guest_of(vmid)) is not None]
        return [row for row in rows if kind in (None, row["type"])]

    # -- routes --------------------------------------------------------------------------------------------------------

    def _routes_of_cluster(self) -> list[tuple[str, str, Any]]:
        vnet = "/cluster/sdn/vnets/{vnet}/firewall/rules"
        return [
            ("GET", "/cluster/backup", self._jobs),
            ("POST", "/cluster/backup", self._job_create),
            ("GET", "/cluster/backup/{id}", self._job),
            ("PUT", "/cluster/backup/{id}", self._job_update),
            ("DELETE", "/cluster/backup/{id}", self._job_delete),
            ("GET", "/cluster/backup/{id}/included_volumes", self._job_volumes),
            ("GET", "/cluster/backup-info/not-backed-up", self._in_no_job),
            ("GET", "/cluster/ha/resources", self._ha_list),
            ("POST", "/cluster/ha/resources", self._ha_create),
            ("GET", "/cluster/ha/resources/{sid}", self._ha_read),
            ("GET", "/cluster/ha/rules", self._ha_rule_list),
            ("GET", "/cluster/ha/groups", self._ha_groups),
            ("GET", "/cluster/ha/status/current", self._ha_status),
            ("GET", "/cluster/replication", self._replication_list),
            ("POST", "/cluster/replication", self._replication_create),
            ("GET", "/nodes/{node}/replication", self._replication_list),
            ("GET", "/cluster/sdn/vnets", self._vnet_list),
            ("POST", "/cluster/sdn/vnets", self._vnet_create),
            ("GET", vnet, self._vnet_rules),
            ("POST", vnet, self._vnet_rule_create),
            ("PUT", vnet + "/{pos}", self._vnet_rule_update),
            ("DELETE", vnet + "/{pos}", self._vnet_rule_delete),
        ]

    # -- backup jobs -----------------------------------------------------------------------------------------------------

    def _job_view(self, name: str) -> Values:
        job = {"id": name, "type": "vzdump", "enabled": 1, **self.backup_jobs[name]}
        if job.get("schedule") and re.fullmatch(r"\*/\d+", str(job["schedule"])):
            job["next-run"] = int(self.clock()) // 1800 * 1800 + 1800
        return job

    async def _jobs(self, v: Values, user: str) -> list[Values]:
        return [self._job_view(name) for name in sorted(self.backup_jobs)]

    async def _job(self, v: Values, user: str) -> Values:
        if v["id"] not in self.backup_jobs:
            raise PveError(400, "Parameter verification failed.", {"id": f"No such job '{v['id']}'"})
        return self._job_view(v["id"])

    async def _job_create(self, v: Values, user: str) -> None:
        name = v.get("id") or f"backup-{len(self.backup_jobs):08x}"
        if v.get("schedule") == "never":
            text = "invalid format - invalid calendar event 'never' - unable to parse calendar event at 'never'\n\n"
            raise PveError(400, "Parameter verification failed.", {"schedule": text})
        if name in self.backup_jobs:
            raise PveError(500, f"Job '{name}' already exists")
        self.backup_jobs[name] = {k: x for k, x in v.items() if k != "id"}

    async def _job_update(self, v: Values, user: str) -> None:
        await self._job(v, user)
        self.backup_jobs[v["id"]].update({k: x for k, x in v.items() if k not in ("id", "delete")})

    async def _job_delete(self, v: Values, user: str) -> None:
        await self._job(v, user)
        del self.backup_jobs[v["id"]]

    def _covered(self, job: Values) -> list[int]:
        """The guests of a job: those it names, those of its pool, or all but those it excludes."""

        def ids(key: str) -> set[int]:
            return {int(x) for x in re.split(r"[,; ]+", str(job.get(key) or "")) if x}

        if job.get("all"):
            return sorted({guest.vmid for guest in self._guests()} - ids("exclude"))
        if job.get("pool"):
            return sorted(self.pools.get(job["pool"], ()))
        return sorted(ids("vmid"))

    async def _job_volumes(self, v: Values, user: str) -> Values:
        await self._job(v, user)
        found = []
        for vmid in self._covered(self.backup_jobs[v["id"]]):
            guest = self.guest(vmid)
            if guest is None:
                continue
            kind = guest.guest.split("/")[0]
            volumes = [
                {"id": f"{vmid}:{key}", "name": str(value).split(",")[0], "reason": key, "leaf": 1, "included": 1}
                for key, value in sorted(guest.config.items()) if re.fullmatch(r"rootfs|(mp|scsi|virtio|sata|ide)\d+", key)
            ]  # fmt: skip
            found.append({"id": vmid, "name": guest.name, "type": kind, "leaf": 0, "children": volumes})
        return {"children": found}

    async def _in_no_job(self, v: Values, user: str) -> list[Values]:
        covered = {vmid for job in self.backup_jobs.values() for vmid in self._covered(job)}
        return [{"vmid": guest.vmid, "name": guest.name, "type": guest.guest.split("/")[0]}
                for guest in self._guests() if guest.vmid not in covered]  # fmt: skip

    # -- HA and replication ----------------------------------------------------------------------------------------------

    @staticmethod
    def _sid(guest: Any) -> str:
        return f"{'ct' if guest.guest.startswith('lxc') else 'vm'}:{guest.vmid}"

    def _ha_rows(self) -> list[Values]:
        digest = hashlib.sha1(repr(sorted(self.ha.items())).encode()).hexdigest()
        rows = {sid: {"sid": sid, "type": sid.split(":")[0], "digest": digest, **row} for sid, row in self.ha.items()}
        for guest in self._guests():
            if guest.ha_managed:
                sid = self._sid(guest)
                rows.setdefault(sid, {"sid": sid, "type": sid.split(":")[0], "digest": digest, "state": guest.ha_state})
        return list(rows.values())

    async def _ha_list(self, v: Values, user: str) -> list[Values]:
        return self._ha_rows()

    async def _ha_create(self, v: Values, user: str) -> None:
        guest = self.guest(int(str(v["sid"]).split(":")[-1]))
        if guest is None:
            raise PveError(500, f"unable to add {v['sid']} - no such guest")
        self.ha[v["sid"]] = {"state": v.get("state") or "started"}
        if self.ha[v["sid"]]["state"] != "ignored":
            guest.ha_state = self.ha[v["sid"]]["state"]

    async def _ha_read(self, v: Values, user: str) -> Values:
        found = [row for row in self._ha_rows() if row["sid"] == v["sid"]]
        if not found:
            raise PveError(500, f"no such resource '{v['sid']}'")
        return found[0]

    async def _ha_rule_list(self, v: Values, user: str) -> list[Values]:
        return [dict(rule) for rule in self.ha_rules]

    async def _ha_groups(self, v: Values, user: str) -> Any:
        raise PveError(500, "cannot index groups: ha groups have been migrated to rules")

    async def _ha_status(self, v: Values, user: str) -> list[Values]:
        return [
            {"id": "quorum", "type": "quorum", "status": "OK" if self.quorate else "No quorum!", "node": self.node,
             "quorate": 1 if self.quorate else 0},
            {"id": "fencing", "type": "fencing", "node": self.node, "status": "standby (CRM watchdog standby)",
             "armed-state": "standby"},
        ]  # fmt: skip

    async def _replication_list(self, v: Values, user: str) -> list[Values]:
        return [dict(job) for job in self.replication.values() if self.allowed(user, f"/vms/{job['guest']}", "VM.Audit")]

    async def _replication_create(self, v: Values, user: str) -> None:
        if v["target"] not in self.nodes:
            raise PveError(500, f"Target '{v['target']}' does not exist.")
        guest, number = str(v["id"]).split("-")
        self.replication[v["id"]] = {**v, "guest": int(guest), "jobnum": int(number)}

    # -- VNets -----------------------------------------------------------------------------------------------------------

    def firewall_config(self, scope: str, node: str | None = None, vmid: Any = None) -> Any:
        if scope == "vnet":
            from fakepve.firewall import empty_conf

            return self._fw().setdefault("vnets", {}).setdefault(vmid, empty_conf())
        return super().firewall_config(scope, node, vmid)

    def add_vnet(self, name: str, zone: str = "z1", *, applied: bool = True) -> None:
        """A VNet; one that is not applied is listed all the same, and has no rules that could be read."""
        self.vnets[name] = {"vnet": name, "zone": zone, "type": "vnet"}
        if applied:
            self.applied_vnets.add(name)

    async def _vnet_list(self, v: Values, user: str) -> list[Values]:
        seen = [row for name, row in sorted(self.vnets.items())
                if {"SDN.Audit", "SDN.Allocate"} & self.rights(user, f"/sdn/zones/{row['zone']}/{name}")]  # fmt: skip
        digest = hashlib.sha1(repr(sorted(self.vnets.items())).encode()).hexdigest()
        if v.get("running"):
            return [{**row, "digest": None} for row in seen if row["vnet"] in self.applied_vnets]
        if v.get("pending"):
            return [
                {**row, "digest": None} if row["vnet"] in self.applied_vnets
                else {"vnet": row["vnet"], "type": "vnet", "digest": None, "state": "new", "pending": {"zone": row["zone"]}}
                for row in seen
            ]  # fmt: skip
        return [{**row, "digest": digest} for row in seen]

    async def _vnet_create(self, v: Values, user: str) -> None:
        self.add_vnet(v["vnet"], v["zone"], applied=False)

    def _vnet(self, v: Values, user: str, *, change: bool) -> Values:
        if v["vnet"] not in self.applied_vnets:
            raise PveError(500, "invalid vnet specified at /usr/share/perl5/PVE/API2/Firewall/Helpers.pm line 54.")
        path = f"/sdn/zones/{self.vnets[v['vnet']]['zone']}/{v['vnet']}"
        wanted = ["SDN.Allocate"] if change else ["SDN.Audit", "SDN.Allocate"]
        if not set(wanted) & self.rights(user, path):
            raise PveError(403, f"Permission check failed ({path}, {'|'.join(wanted)})")
        return {**v, "vmid": v["vnet"]}

    def _check_rule(self, scope: str, rule: Values, conf: Any) -> Any:
        return super()._check_rule("cluster" if scope == "vnet" else scope, rule, conf)

    async def _vnet_rules(self, v: Values, user: str) -> Any:
        return await self._fw_rules_get("vnet", self._vnet(v, user, change=False), user)

    async def _vnet_rule_create(self, v: Values, user: str) -> Any:
        return await self._fw_rule_create("vnet", self._vnet(v, user, change=True), user)

    async def _vnet_rule_update(self, v: Values, user: str) -> Any:
        return await self._fw_rule_update("vnet", self._vnet(v, user, change=True), user)

    async def _vnet_rule_delete(self, v: Values, user: str) -> Any:
        return await self._fw_rule_delete("vnet", self._vnet(v, user, change=True), user)

    # -- what of the firewall differs from fakepve's ---------------------------------------------------------------------

    def _broken(self, scope: str, v: Values, text: str) -> str | None:
        """Why a reference means nothing any more; None where it does."""
        conf = self.firewall_config(scope, v.get("node"), v.get("vmid"))
        cluster = self.firewall_config("cluster")
        for word in text.split(","):
            if match := re.fullmatch(r"\+(?:(dc|guest|sdn)/)?([\w-]+)", word):
                if match[1] != "sdn" and match[2] not in cluster["ipset"] and match[2] not in conf["ipset"]:
                    return f"no such ipset '{match[2]}'"
            elif (match := re.fullmatch(r"(?:(dc|guest)/)?([A-Za-z][\w-]+)", word)) and match[2].lower() not in {
                *cluster["aliases"], *conf["aliases"]
            }:  # fmt: skip
                return f"no such alias '{match[2]}'"
        return None

    async def _fw_rules_get(self, scope: str, v: Values, user: str) -> Any:
        rules = await super()._fw_rules_get(scope, v, user)
        for rule in rules:
            wrong = {key: said for key in ("source", "dest") if (said := self._broken(scope, v, str(rule.get(key) or "")))}
            if wrong:
                rule["errors"] = wrong
        return rules

    async def _fw_rule_get(self, scope: str, v: Values, user: str) -> Any:
        found = await super()._fw_rule_get(scope, v, user)
        return {**found, "pos": str(found["pos"])}

    async def _fw_ipset_get(self, scope: str, v: Values, user: str) -> Any:
        entries = await super()._fw_ipset_get(scope, v, user)
        for entry in entries:
            if said := self._broken(scope, v, entry["cidr"]):
                entry["errors"] = {"cidr": said}
        return entries

    async def _fw_alias_create(self, scope: str, v: Values, user: str) -> Any:
        """A single host is kept without its prefix."""
        return await super()._fw_alias_create(scope, {**v, "cidr": re.sub(r"(?<=\d)/32$", "", v["cidr"])}, user)

    # -- small things ----------------------------------------------------------------------------------------------------

    def _purge(self, vmid: int) -> list[str]:
        """What `purge` does: jobs lose the guest (also where they exclude it), replication jobs and HA too. Lines of the log."""
        said = [
            f"NOTE: removed CT {vmid} from HA resource configuration."
            for guest in self._guests() if guest.vmid == vmid and self.ha.pop(self._sid(guest), None)
        ]  # fmt: skip
        for name, job in list(self.backup_jobs.items()):
            for key in ("vmid", "exclude"):
                listed = [x for x in str(job.get(key) or "").split(",") if x]
                if str(vmid) not in listed:
                    continue
                left = [x for x in listed if x != str(vmid)]
                if left:
                    job[key] = ",".join(left)
                elif key == "exclude":
                    del job[key]
                else:
                    del self.backup_jobs[name]
        self.replication = {k: j for k, j in self.replication.items() if int(j["guest"]) != vmid}
        for rule in self.ha_rules:
            members = [x for x in str(rule.get("resources", "")).split(",") if x and x.split(":")[-1] != str(vmid)]
            rule["resources"] = ",".join(members)
        self.ha_rules = [rule for rule in self.ha_rules if rule["resources"]]
        return said
