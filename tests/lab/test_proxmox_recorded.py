"""Every exchange recorded from a genuine Proxmox VE 9.2.11 is put to the lab's host, in order, and the answers are compared.

Compared are the status, the reason phrase, every word of a refusal, the shape of the answer (keys, types) and the values of what
is read; of a task how it ended and every line of its log. What cannot be the same (times, ids, digests, sizes of a disk, what a
CPU is called) is put aside by name. What was done to the genuine host between two exchanges, past its API (a lock written into a
file, time that went by), is in `BETWEEN`. What
the lab's host answers otherwise, or cannot be asked in the same state, is in `OTHERWISE`, by name and with the reason.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab.proxmox import LabPve
from tests.lab import recorded_host as stage

Json = Any
FILE = "pve-9.2.11.jsonl"

#: Values that differ by nature. Their presence and their type are compared all the same.
ASIDE = frozenset({
    "digest", "ssl_fingerprint", "fingerprint", "pid", "pstart", "upid", "starttime", "endtime", "ctime", "time", "localtime",
    "uptime", "cpu", "mem", "memhost", "disk", "diskread", "diskwrite", "netin", "netout", "used", "avail", "total",
    "used_fraction", "size", "loadavg", "free", "available", "swap", "value", "next-run", "snaptime", "used-bytes", "msg", "uid",
    "tag", "level", "smbios1", "vmgenid", "meta", "maxdisk", "nics", "sid-uid", "statistics", "total-bytes", "kernel-version",
    "kernel-release", "saved", "timezone", "machine", "release", "version", "kversion", "pveversion", "flags", "model", "mhz",
    "cpus-model", "hvm", "vendor", "family", "rootfs-free", "repoid", "maxmem", "maxcpu", "id", "pem", "notafter", "notbefore",
    "issuer", "subject", "san", "wait", "idle", "descr", "cpuinfo",
})  # fmt: skip


#: What the recording's QEMU 7.2 did not say and a newer one says; what its container had no network for.
HERE_ONLY = frozenset(
    {"balloon", "clipboard", "serial", "running-qemu", "running-machine", "diskread", "diskwrite", "inet", "inet6"}
)
#: What only some hosts say: when a job runs next, the cards of a VM.
THERE_ONLY = frozenset({"next-run", "nics"})


def scrubbed(line: str) -> str:
    """A line of a log without what differs by nature: times, sizes, speeds, paths of storages, the order of options."""
    if line.startswith("INFO: starting new backup job: "):
        head, *options = re.split(r" (?=--)", line)
        return " ".join([head, *sorted(o for o in options)])
    line = re.sub(r"\d{4}[-_]\d\d[-_]\d\d[ -]\d\d[:_]\d\d[:_]\d\d", "<time>", line)
    line = re.sub(r"\(\d\d:\d\d:\d\d\)", "(<span>)", line)
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>", line)
    line = re.sub(r"(Total bytes (?:written|read)): .*", r"\1", line)
    line = re.sub(r"(archive file size): .*", r"\1", line)
    line = re.sub(r"/proc/\d+/", "/proc/<pid>/", line)
    line = re.sub(r"/var/lib/[^\s']*/", "<storage>/", line)
    return re.sub(r"\d+(?:\.\d+)? ?[KMG]i?B(?:/s)?", "<size>", line)


def is_noise(line: str) -> bool:
    """Lines of the recording host alone: it ran in a virtual machine without nested start-up, and its Perl was older."""
    return bool(re.match(r"failed to connect to monitor socket|unable to get PID for CT|for my \(\.\.\.\) is experimental", line))


@dataclass
class Replay:
    """The lab's host and what the names of the recording are called here."""

    pve: LabPve
    here: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    pids: dict[str, str] = field(default_factory=dict)

    def local(self, text: str) -> str:
        for recorded, ours in {**self.here, **self.digests}.items():
            text = text.replace(recorded, ours)
        return text

    def ask(self, one: Json) -> tuple[int, str, Json]:
        headers = {}
        if one["token"]:
            secret = self.pve.apitokens.get(one["token"], "00000000-0000-0000-0000-000000000000")
            headers["Authorization"] = f"PVEAPIToken={one['token']}={'x' if one['what'] == 'wrong secret' else secret}"
        path = "/api2/json" + self.local(one["path"])
        if one.get("query"):
            asked = {k: self.local(v) for k, v in one["query"].items()}
            if "pid" in asked:  # of a program that was begun in a guest
                asked["pid"] = self.pids.get(asked["pid"], asked["pid"])
            path += "?" + urllib.parse.urlencode(asked)
        body = None
        if one.get("form") is not None:
            pairs = [(k, self.local(x)) for k, v in one["form"].items() for x in (v if isinstance(v, list) else [v])]
            body = urllib.parse.urlencode(pairs)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(self.pve.host, self.pve._plain_port, timeout=20)
        try:
            connection.request(one["method"], urllib.parse.quote(path, safe="/:?=&%@!+,~*'()"), body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, answer.reason, json.loads(text) if text[:1] in ("{", "[") else text

    def settle(self, upid: str) -> None:
        """Wait until one of our tasks has ended."""
        deadline = time.monotonic() + 20
        while self.pve.tasks.get(upid, {}).get("status") == "running":
            assert time.monotonic() < deadline, f"{upid} does not end"
            time.sleep(0.002)

    def learn(self, real: Json, ours: Json) -> None:
        """Take notice of what something of the recording is called here: tasks, digests, backups, secrets."""
        if isinstance(real, dict) and isinstance(ours, dict):
            if real.keys() == {"pid"} == ours.keys():
                self.pids[str(real["pid"])] = str(ours["pid"])
            for key in real.keys() & ours.keys():
                if key == "digest" and isinstance(real[key], str) and isinstance(ours[key], str):
                    self.digests[real[key]] = ours[key]
                elif key == "value" and "full-tokenid" in real:
                    self.pve.apitokens[real["full-tokenid"]] = ours[key]
                else:
                    self.learn(real[key], ours[key])
        elif isinstance(real, list) and isinstance(ours, list):
            for a, b in pairs(real, ours):
                self.learn(a, b)
        elif isinstance(real, str) and isinstance(ours, str):
            if real.startswith("UPID:") and ours.startswith("UPID:"):
                self.here[real] = ours
            made = re.compile(r"vzdump-(?:lxc|qemu)-\d+-[0-9_-]+")
            if (a := made.search(real)) and (b := made.search(ours)) and a[0].split("-20")[0] == b[0].split("-20")[0]:
                self.here[a[0]] = b[0]


def key_of(row: Json) -> Json:
    if not isinstance(row, dict):
        return json.dumps(row, sort_keys=True)
    for name in ("volid", "upid", "vmid", "id", "pos", "poolid", "roleid", "vnet", "userid", "tokenid", "key", "name", "n",
                 "cidr", "storage", "node", "iface", "macro", "sid", "group", "logical-id", "phys-index", "mountpoint"):  # fmt: skip
        if name == "roleid":
            if name in row and "ugid" in row:
                return (row["roleid"], row["ugid"], row["path"])
            continue
        if name == "vmid" and row.get("type") not in ("lxc", "qemu", "openvz"):
            continue
        if name in row:
            return (name, row[name])
    return json.dumps(row, sort_keys=True)


def pairs(real: list[Json], ours: list[Json]) -> list[tuple[Json, Json]]:
    """Rows of two lists that are about the same thing; rows without a name in their order."""
    theirs = {json.dumps(key_of(row)): row for row in ours}
    if len(theirs) == len(ours) and all(json.dumps(key_of(row)) in theirs for row in real):
        return [(row, theirs[json.dumps(key_of(row))]) for row in real]
    return list(zip(real, ours, strict=False))


#: Lists of which the lab has as many as it needs: only what the rows look like is compared.
SAMPLES = re.compile(
    r"/macros$|/agent/get-memory-blocks$|/agent/info$|/cluster/log$|/cluster/tasks$|/certificates/info$|/tasks$|/network$"
)


def kind(value: Json) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def differences(real: Json, ours: Json, where: str = "", *, sample: bool = False) -> Iterator[str]:
    """What differs, one sentence each."""
    name = where.rsplit(".", 1)[-1].split("[", maxsplit=1)[0]
    if isinstance(real, dict) and isinstance(ours, dict):
        for key in sorted(real.keys() - ours.keys() - THERE_ONLY):
            yield f"{where}: {key} is missing ({real[key]!r:.60})"
        for key in sorted(ours.keys() - real.keys() - HERE_ONLY):
            yield f"{where}: {key} is not in the recording ({ours[key]!r:.60})"
        for key in sorted(real.keys() & ours.keys()):
            yield from differences(real[key], ours[key], f"{where}.{key}", sample=sample)
    elif isinstance(real, list) and isinstance(ours, list):
        if sample:
            if bool(real) != bool(ours):
                yield f"{where}: {len(real)} rows recorded, {len(ours)} here"
            elif real and isinstance(real[0], dict):
                seen = {k for row in real for k in row}
                for row in ours[:50]:
                    for key in sorted(set(row) - seen):
                        yield f"{where}: {key} is not in the recording"
                always = set.intersection(*(set(row) for row in real))
                for key in sorted(always - set(ours[0])):
                    yield f"{where}: {key} is missing"
            return
        if len(real) != len(ours):
            yield f"{where}: {len(real)} rows recorded, {len(ours)} here ({[key_of(r) for r in real]!s:.150} / {[key_of(r) for r in ours]!s:.150})"
        for n, (a, b) in enumerate(pairs(real, ours)):
            yield from differences(a, b, f"{where}[{n}]", sample=sample)
    elif kind(real) != kind(ours):
        yield f"{where}: {real!r:.80} recorded, {ours!r:.80} here"
    elif name == "content" and isinstance(real, str) and sorted(real.split(",")) == sorted(ours.split(",")):
        return  # in the order of a hash
    elif name == "net0" and re.sub(r"hwaddr=[^,]+", "", str(real)) == re.sub(r"hwaddr=[^,]+", "", str(ours)):
        return  # a restored guest gets a new address of its card
    elif name not in ASIDE and not sample and real != ours:
        yield f"{where}: {real!r:.120} recorded, {ours!r:.120} here"


def log_differences(real: list[Json], ours: list[Json], local: Callable[[str], str]) -> Iterator[str]:
    a = [scrubbed(local(row["t"])) for row in real if not is_noise(row["t"])]
    b = [scrubbed(row["t"]) for row in ours]
    for line in a:
        if line not in b:
            yield f"log: {line!r:.200} is missing"
    for line in b:
        if line not in a:
            yield f"log: {line!r:.200} is not in the recording"
    if sorted(a) == sorted(b) and a != b:
        yield "log: other order"


def compared(replay: Replay, one: Json) -> list[str]:
    """Put one exchange to the lab's host; what differs."""
    upid = re.search(r"UPID:[^/]+", one["path"])
    still = (
        isinstance(one["response"], dict)
        and isinstance(one["response"].get("data"), dict)
        and one["response"]["data"].get("status") == "running"
    )
    waiting = one["what"].startswith(("log of the second while",))
    if upid and not still and not waiting:
        replay.settle(replay.local(upid[0]))
    status, reason, response = replay.ask(one)
    found = []
    if status != one["status"]:
        found.append(f"status {one['status']} recorded, {status} here ({reason}; {response!s:.200})")
        return found
    if replay.local(one["reason"]) != reason:
        found.append(f"reason {one['reason']!r} recorded, {reason!r} here")
    real = one["response"]
    if status >= 300 or not isinstance(real, dict) or not isinstance(response, dict):
        real, response = (
            ({k: v for k, v in x.items() if k != "message"} if isinstance(x, dict) else x) for x in (real, response)
        )
        if isinstance(real, dict):
            real = json.loads(replay.local(json.dumps(real)))
        return found + list(differences(real, response))
    data, mine = real.get("data"), response.get("data")
    replay.learn(data, mine)
    if isinstance(data, str) and data.startswith("UPID:"):
        a, b = data.split(":"), str(mine).split(":")
        return found if a[5:] == b[5:] and len(b) == len(a) else [*found, f"task {data} recorded, {mine} here"]
    if one["path"].endswith("/log") and upid:
        replay.learn(data, mine)
        return found + list(log_differences(data or [], mine or [], replay.local))
    data = json.loads(replay.local(json.dumps(data)))
    return found + list(differences(data, mine, sample=bool(SAMPLES.search(one["path"]))))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, recorded: Callable[[str], list[Json]]) -> Iterator[dict[int, list[str]]]:
    """Everything put once, in order: what differs, by the number of the exchange."""
    pve = stage.host(tmp_path_factory.mktemp("recorded"))
    pve.serve()
    replay = Replay(pve)
    found: dict[int, list[str]] = {}
    try:
        for number, one in enumerate(recorded(FILE)):
            stage.between(pve, number, one["what"], replay.here)
            try:
                found[number] = compared(replay, one)
            except (AssertionError, OSError, ValueError) as error:
                found[number] = [repr(error)]
        yield found
    finally:
        pve.close()


def test_every_exchange_that_is_served_is_answered_as_the_genuine_host_did(
    replayed: dict[int, list[str]], recorded: Callable[[str], list[Json]]
) -> None:
    rows = recorded(FILE)
    wrong = {n: said for n, said in replayed.items() if said and n not in stage.OTHERWISE}
    text = "\n".join(
        f"{n} {rows[n]['what']} ({rows[n]['method']} {rows[n]['path']}): {'; '.join(said)}" for n, said in wrong.items()
    )
    assert not wrong, f"{len(wrong)} of {len(replayed)} exchanges are answered otherwise:\n{text}"


def test_what_is_answered_otherwise_is_named_with_a_reason(
    replayed: dict[int, list[str]], recorded: Callable[[str], list[Json]]
) -> None:
    rows = recorded(FILE)
    assert len(replayed) == len(rows) == 802
    assert {n: what for n, (what, _) in stage.OTHERWISE.items()} == {n: rows[n]["what"] for n in stage.OTHERWISE}
    assert all(reason for _, reason in stage.OTHERWISE.values())
