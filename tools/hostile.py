"""Somebody who has no key, or only reads, sends whatever can be sent, while writes are recorded and the traffic moves there and back.

``./scripts/hostile --minutes 60`` brings its own two servers (``--qdrant PROGRAM``: real ones) and an application that reads and
writes all the time through Nginx (:mod:`lab.load`). First every odd form of a request is sent once with an application's key
(:mod:`tools.hostile_forms`), by the operator's server and to the gate itself, while writes are recorded and during a hold: what
the server did of it has to be on record. Then processes send what a client should not: random methods, paths, bytes, sizes and encodings,
without a key, with a wrong one and with the one that may only read; HTTP/1.0 and older, pipelines, the forms of smuggling, bodies
that come slowly or never, HTTP/2, the odd forms, and the gate's own questions. Meanwhile the traffic is moved to the new server and back, again and
again. Nothing outside of a loopback network is contacted.

It ends with 0 when no request of the application failed, no acknowledged write was lost, the way back was open after every move,
and neither the gate's folder nor the memory of this tool and of Nginx's processes outgrew what ``--disk`` and ``--memory`` say (MB).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from cutover import runner
from cutover.core.errors import CutoverError
from cutover.core.ui import ConfirmedInAdvance
from cutover.qdrant import compare
from cutover.qdrant.affected import Depth
from lab.lab import ROOT, Lab, new_folder
from lab.load import COLLECTION, Load, Report
from lab.processes import Process
from tools import hostile_forms, hostile_trying, usage

HTTP2_PORT = 6343
#: Odd forms that are sent together.
AT_ONCE = 60
METHODS = (
    "PUT",
    "POST",
    "PATCH",
    "DELETE",
    "GET",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "put",
    "",
    "X" * 300,
    "P\xffUT",
)
PATHS = (
    f"/collections/{COLLECTION}/points", f"/collections/{COLLECTION}/points?wait=true", f"/collections/{COLLECTION}",
    f"/collections/{COLLECTION}/points/delete", f"/collections/{COLLECTION}/points/batch", f"/collections/{COLLECTION}/index",
    f"/collections/{COLLECTION}/points/payload", f"/collections/{COLLECTION}/snapshots/upload", "/collections/aliases",
    f"/collections/{COLLECTION}/./points", f"//collections//{COLLECTION}//points", f"/collections/{COLLECTION}%2fpoints",
    f"/collections/x/../{COLLECTION}/points", f"/collections/{COLLECTION}/points/%2e%2e/%2e%2e", "/collections/a\xff/points",
    "/collections/%00/points", "/", "/telemetry", "/metrics", "/nothing", "/qdrant-gate/state", "/qdrant-gate/unrecorded",
    "/qdrant-gate/begin", "/qdrant-gate/decide", "*", "http://other/collections", "/" + "a" * 9000, "/collections/" + "\xfe" * 200,
)  # fmt: skip


# -- what is sent -----------------------------------------------------------------------------------------


@cache
def _bomb() -> bytes:
    """A few hundred kilobytes that unpack to a hundred megabytes."""
    return zlib.compress(b"[" * (100 << 20), 1)


def body(dice: random.Random) -> tuple[bytes, str]:
    """(content, what Content-Encoding says): small mostly, large at times, and what unpacks to far more."""
    kind = dice.choices(["none", "noise", "json", "large", "packed", "bomb", "cut", "lie"], [4, 4, 6, 0.15, 2, 0.3, 2, 2])[0]
    points = json.dumps({"points": [{"id": dice.randrange(10**6), "vector": [0.5] * 16, "payload": {"evil": kind}}]}).encode()
    if kind == "none":
        return b"", ""
    if kind == "noise":
        return dice.randbytes(dice.choice([1, 10, 1000, 20_000])), dice.choice(["", "gzip", "zstd", "br", "\xff"])
    if kind == "large":
        return b'{"points":[' + b" " * dice.choice([1 << 20, 8 << 20, 40 << 20, 70 << 20]), ""
    if kind == "packed":
        return gzip.compress(points), "gzip"
    if kind == "bomb":
        return _bomb()[: dice.choice([1000, 300_000])], "deflate"
    if kind == "lie":
        return points, dice.choice(["gzip", "deflate", "compress, gzip", "identity"])
    return points[: dice.randrange(len(points))] if kind == "cut" else points, ""


def request(dice: random.Random, keys: list[str]) -> tuple[bytes, str]:
    """(the bytes of one request, its kind)."""
    method, path = dice.choice(METHODS[:4] * 3 + METHODS), dice.choice(PATHS)
    if dice.random() < 0.1:
        at = dice.randrange(len(path) + 1)
        path = path[:at] + dice.randbytes(dice.randint(1, 5)).decode("latin-1") + path[at:]
    content, encoding = body(dice)
    version = dice.choices(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", ""], [20, 3, 1, 1, 1])[0]
    headers = [("Host", dice.choice(["qdrant", "", "a\xffb", "127.0.0.1:6339"]))]
    key = dice.choice(["", "wrong", *keys, "\xff" * 40])
    headers += [("api-key", key)] if key else []
    headers += [("Content-Encoding", encoding)] if encoding else []
    headers += [("X-Qdrant-Gate", dice.choice(["state", "unrecorded", "begin", "\xff"]))] if dice.random() < 0.05 else []
    headers += [(f"X-{n}", "v" * 500) for n in range(dice.choice([0, 0, 0, 10, 100]))]
    kind = dice.choices(["length", "chunked", "both", "twice", "wrong", "odd chunked"], [12, 4, 1, 1, 2, 1])[0]
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"
    if kind == "length":
        headers.append(("Content-Length", str(len(content))))
    elif kind == "wrong":
        headers.append(
            ("Content-Length", dice.choice(["-1", "1e3", "+5", str(len(content) + 5), "99999999999999999999", "0x10"]))
        )
    elif kind == "twice":
        headers += [("Content-Length", str(len(content))), ("Content-Length", "0")]
    else:
        odd = dice.choice(["chunked\x0b", "xchunked", "chunked, chunked", " chunked", "identity, chunked"])
        headers.append(("Transfer-Encoding", odd if kind == "odd chunked" else "chunked"))
        if kind == "both":
            headers.append(("Content-Length", str(dice.choice([0, 4, len(content)]))))
            chunks = b"0\r\n\r\nPUT /collections/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        content = chunks
    head = f"{method} {path} {version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    return head.encode("latin-1") + content, kind


def send(host: str, port: int, dice: random.Random, keys: list[str]) -> str:
    """Send one thing and say what came back: a status, or how it ended."""
    way = dice.choices(["one", "pipeline", "slow", "silent", "cut", "noise"], [20, 3, 2, 1, 2, 1])[0]
    with socket.create_connection((host, port), timeout=5) as line:
        line.settimeout(2.0)
        if way == "noise":
            line.sendall(dice.randbytes(dice.randint(1, 3000)))
        elif way == "pipeline":
            line.sendall(b"".join(request(dice, keys)[0] for _ in range(dice.randint(2, 6))))
        else:
            data, _ = request(dice, keys)
            if way == "one":
                line.sendall(data)
            elif way == "cut":
                line.sendall(data[: dice.randrange(len(data))])
                return "cut off"
            else:
                for at in range(0, min(len(data), 4000), 200):
                    line.sendall(data[at : at + 200])
                    time.sleep(dice.choice([0.01, 0.1, 0.3]))
                if way == "silent":
                    time.sleep(2)
                    return "never finished"
        answer = line.recv(4096)
        line.close()
    return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1") else "something else" if answer else "closed"


def send_http2(host: str, dice: random.Random, keys: list[str]) -> str:
    """The same kinds as HTTP/2 allows them, by curl."""
    content, encoding = body(dice)
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", "--noproxy", "*", "--http2-prior-knowledge"]
    words += ["--path-as-is", "-X", dice.choice(METHODS[:8]), "--data-binary", "@-"]
    words += ["-H", f"api-key: {dice.choice(['wrong', *keys])}"] if dice.random() < 0.6 else []
    words += ["-H", f"content-encoding: {encoding}"] if encoding.isascii() and encoding else []
    path = dice.choice([p for p in PATHS if p.startswith("/") and p.isascii()])
    done = subprocess.run([*words, f"http://{host}:{HTTP2_PORT}{path}"], input=content, capture_output=True, check=False)
    return f"h2 {done.stdout.decode(errors='replace') or done.returncode}"


def send_form(settings: dict[str, Any], dice: random.Random, key: str) -> str:
    """One of the odd forms, as an application would send it that has the key."""
    made = hostile_forms.any_form(dice, key, dice.randrange(10**9, 10**12) * hostile_forms.IDS, http2=settings["http2"])
    hostile_trying.send(made, settings["host"], HTTP2_PORT if made.http2 else settings["port"], 0.5)
    return "odd form"


def sender(settings: dict[str, Any]) -> None:
    """One process of senders, until it is ended; counts what came back in a file."""
    counts: Counter[str] = Counter()
    key, whole_key = os.environ.get("HOSTILE_KEY", ""), os.environ.get("HOSTILE_WHOLE_KEY", "")

    def work(seed: int) -> None:
        dice = random.Random(seed)
        while True:
            try:
                if dice.random() < settings["forms"]:
                    counts[send_form(settings, dice, whole_key)] += 1
                elif settings["http2"] and dice.random() < 0.03:
                    counts[send_http2(settings["host"], dice, [key])] += 1
                else:
                    counts[send(settings["host"], settings["port"], dice, [key])] += 1
            except OSError as error:
                counts[type(error).__name__] += 1
            time.sleep(settings["pace"] * dice.random() * 2)

    for number in range(settings["threads"]):
        threading.Thread(target=work, args=(settings["seed"] * 1000 + number,), daemon=True).start()
    while True:
        part = Path(settings["file"] + ".part")
        part.write_text(json.dumps(dict(counts)))
        part.replace(settings["file"])
        time.sleep(0.5)


# -- what is watched --------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was seen. Sizes in MB, times in seconds."""

    minutes: float = 0.0
    hostile: dict[str, int] = field(default_factory=dict)
    moves: int = 0
    held: list[float] = field(default_factory=list)
    rounds: int = 0
    anew: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    forms: dict[str, dict[str, int]] = field(default_factory=dict)
    """How it went with the odd forms: what came of how many, by where and when they were sent."""
    forms_wrong: list[str] = field(default_factory=list)
    forms_differ: int = 0
    """Records and collections of the odd forms that the two servers do not have alike in the end."""
    folder_most: float = 0.0
    bodies_most: int = 0
    tool_memory: float = 0.0
    nginx_memory: float = 0.0
    load: Report | None = None

    def wrong(self, disk: float, memory: float) -> list[str]:
        """What is not as it should be, as sentences."""
        load = self.load or Report()
        found = [f"a step failed: {one}" for one in self.errors] + [f"the way back was not open: {one}" for one in self.anew]
        found += [f"{load.failed} requests of the application failed"] if load.failed else []
        found += [f"{load.lost} acknowledged writes were lost"] if load.lost else []
        found += [f"the gate's folder had {self.folder_most:.0f} MB"] if self.folder_most > disk else []
        found += [f"the tool had {self.tool_memory:.0f} MB of memory"] if self.tool_memory > memory else []
        found += [f"Nginx's processes had {self.nginx_memory:.0f} MB of memory"] if self.nginx_memory > memory else []
        found += [f"an odd form: {one}" for one in self.forms_wrong]
        found += [f"{self.forms_differ} of what odd forms wrote is not the same on both servers"] if self.forms_differ else []
        found += ["nobody was hostile"] if not sum(self.hostile.values()) else []
        return found + ([] if self.moves else ["the traffic was not moved"])


@contextmanager
def watched(lab: Lab, result: Result) -> Iterator[None]:
    """Look at disk and memory every second."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            size, number = usage.disk(lab.nginx.gate_folder)
            result.folder_most, result.bodies_most = max(result.folder_most, size), max(result.bodies_most, number)
            result.nginx_memory = max(result.nginx_memory, usage.memory(lab.nginx.process.pid, children=True))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        result.tool_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _asked(url: str, key: str, method: str, path: str, body: Any) -> Any:
    """What a server answers, as data."""
    answer = requests.request(method, url + path, json=body, headers={"api-key": key}, timeout=60, proxies={"http": ""})
    answer.raise_for_status()
    return answer.json()["result"]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A hold, as the flag alone makes it."""
    flag = folder / "flags" / "hold"
    flag.touch()
    try:
        yield
    finally:
        flag.unlink()


def _begun(file: Path) -> str | None:
    return None if file.exists() else "it has not begun"


# -- the run ----------------------------------------------------------------------------------------------


class Hostile:
    """The lab, the application, those who send what they should not, and the operator."""

    def __init__(self, lab: Lab, options: argparse.Namespace, say: Callable[[str], None]) -> None:
        self.lab, self.options, self.say = lab, options, say
        self.result = Result(minutes=options.minutes)
        self.http2 = shutil.which("curl") is not None

    def does(self, verb: str, **more: Any) -> dict[str, Any]:
        """One verb with ``--execute``; its facts."""
        with closing(self.lab.run(execute=True, confirm=ConfirmedInAdvance(self.lab.site.name))) as run:
            done = runner.carry_out(verb, run, **more).outcome
            if done is not None and verb == "follow" and "rounds" not in done.facts:
                self.result.anew.append(" ".join(done.sentences))
            return dict(done.facts) if done is not None else {}

    def also_http2(self) -> None:
        """Let the operator's server speak HTTP/2 on a port of its own as well."""
        file, at = self.lab.nginx.server_file, self.lab.nginx.address
        line = f"    listen {at}:{self.lab.nginx.port};\n"
        file.write_text(file.read_text().replace(line, f"{line}    listen {at}:{HTTP2_PORT} http2;\n"))

    @contextmanager
    def senders(self) -> Iterator[None]:
        """Those who send, as processes of their own."""
        parts = urlsplit(self.lab.site.qdrant.public_url)
        files = [self.lab.folder / f"hostile-{n}.json" for n in range(self.options.processes)]
        started = [
            Process(
                [sys.executable, "-m", "tools.hostile", "--send"],
                env={
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
                    "HOSTILE_KEY": self.lab.keys.qdrant_read_only,
                    "HOSTILE_WHOLE_KEY": self.lab.keys.qdrant,
                    "HOSTILE": json.dumps(
                        {"host": parts.hostname, "port": parts.port, "threads": self.options.threads, "seed": number,
                         "pace": self.options.pace, "file": str(file), "http2": self.http2,
                         "forms": self.options.forms}
                    ),
                },
                cwd=ROOT, log=self.lab.folder / f"hostile-{number}.log", name=f"hostile {number}",
                ready=partial(_begun, file),
            )
            for number, file in enumerate(files)
        ]  # fmt: skip
        try:
            for one in started:
                one.start()
            yield
        finally:
            for one in started:
                one.stop(grace=5)
            for file in files:
                self.result.hostile = dict(Counter(self.result.hostile) + Counter(json.loads(file.read_text())))

    def moves(self, until: float) -> None:
        """There and back until the time is over; each way is followed for a while before the next move."""
        verbs = ["switch", "back"]
        while time.monotonic() < until or self.result.moves % 2:
            pause = time.monotonic() + self.options.every
            while time.monotonic() < pause:
                self.result.rounds += int(self.does("follow").get("rounds") or 0)
                time.sleep(1.0)
            verb = verbs[self.result.moves % 2]
            self.result.held.append(float(self.does(verb)["held_seconds"]))
            self.result.moves += 1
            sent = self.lab.nginx.gate_folder
            self.say(f"{verb}: held {self.result.held[-1]:.2f} s; {self.result.folder_most:.1f} MB in {sent.name}")
        self.result.rounds += int(self.does("follow").get("rounds") or 0)

    def odd_forms(self) -> None:
        """Every odd form once: by the operator's server and to the gate itself, while writes are recorded and while they are held."""
        lab, at = self.lab, self.lab.nginx.address
        user = partial(_asked, lab.site.qdrant.public_url, lab.keys.qdrant)
        run = lab.run(execute=True)
        try:
            for door, port in (("the operator's server", lab.nginx.port), ("the gate", lab.nginx.gate_port)):
                doors = {False: (at, port), True: (at, HTTP2_PORT)}
                trying = hostile_trying.Trying(run.gate, partial(_asked, lab.site.qdrant.old_url, lab.keys.qdrant), user, doors)
                for when, hold in (("recorded", None), ("held", partial(_held, lab.nginx.gate_folder))):
                    first = 10**6 * (1 + len(self.result.forms))
                    made = hostile_forms.forms(lab.keys.qdrant, first)
                    if not (self.http2 and door == "the operator's server"):
                        made = [form for form in made if not form.http2]
                    trying.prepare(made)
                    found = [one for n in range(0, len(made), AT_ONCE) for one in trying.each(made[n : n + AT_ONCE], hold=hold)]
                    self.result.forms[f"{door}, {when}"] = dict(Counter(one.came for one in found))
                    bad = [one for one in found if one.came in {"lost", "in the hold"}]
                    self.result.forms_wrong += [f"{door}, {when}: {one.form}: {one.came} ({one.said})" for one in bad]
                    self.say(f"Odd forms, {door}, {when}: {self.result.forms[f'{door}, {when}']}")
                    for one in found if self.options.tell else ():
                        self.say(f"  {one.came:9} {one.form}: {one.said}")
        finally:
            run.close()

    def compare_forms(self) -> None:
        """What odd forms wrote is the same on both servers, now that the last round of following is over."""
        run = self.lab.run(execute=True)
        try:
            mine, theirs = ({*server.collections()} - {COLLECTION} for server in (run.old, run.new))
            self.result.forms_differ += len(mine ^ theirs)
            with run.guard.act("hostile.compare", "Pass what is under way"):
                for server in (run.old, run.new):
                    server.barrier(mine & theirs)
            for name in mine & theirs:
                found = compare.compare_collection(run.old, run.new, name, depth=Depth.EVERYTHING)
                self.result.forms_differ += found.count
        finally:
            run.close()

    def run(self) -> Result:
        """All of it."""
        self.does("gate")
        # Two servers, an application and those who attack share this machine: a round takes longer than on a site.
        self.lab.change_site(limits={"round_seconds": self.options.round_seconds})
        load = Load(
            self.lab.site.qdrant.public_url, self.lab.keys.qdrant, self.lab.folder / "load",
            writers=2, pace=self.options.load_pace, library=True,
        )  # fmt: skip
        load.start()
        try:
            self.does("copy")
            load.wait_for(50)
            if self.options.forms:
                self.odd_forms()
            with watched(self.lab, self.result), self.senders():
                try:
                    self.moves(time.monotonic() + self.options.minutes * 60)
                except CutoverError as error:
                    self.result.errors.append(str(error))
            self.does("follow")
            self.compare_forms()
        finally:
            self.result.load = load.stop(within=120)
        return self.result


def main(argv: list[str] | None = None) -> int:
    """Attack for a while and say what came of it; 0 when nothing did."""
    if argv is None and sys.argv[1:] == ["--send"]:
        sender(json.loads(os.environ["HOSTILE"]))
    parser = argparse.ArgumentParser(prog="hostile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: %(default)s)")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two moves (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that send (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=8, help="of each of them (default: %(default)s)")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two requests of a thread (default: %(default)s)")
    parser.add_argument("--disk", type=float, default=600.0, help="MB that the gate's folder may have (default: %(default)s)")
    parser.add_argument(
        "--memory", type=float, default=600.0, help="MB of memory, the tool and Nginx each (default: %(default)s)"
    )
    parser.add_argument("--load-pace", type=float, default=0.05, help="the same of the application (default: %(default)s)")
    parser.add_argument(
        "--round-seconds", type=float, default=2.0, help="limits.round_seconds of the site (default: %(default)s)"
    )
    parser.add_argument("--forms", type=float, default=0.05, help="share of odd forms with a key; 0: none (default: %(default)s)")
    parser.add_argument("--tell", action="store_true", help="what came of each odd form")
    parser.add_argument("--qdrant", type=Path, help="Qdrant's own program, for both servers; otherwise they are the lab's")
    parser.add_argument("--json", action="store_true", help="the numbers as data")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        Path(folder).chmod(0o755)
        lab = Lab(new_folder(Path(folder)), records=False, qdrant=options.qdrant)
        made = Hostile(lab, options, lambda line: print(line, file=sys.stderr))
        own = lab.new_qdrant()
        if made.http2:
            made.also_http2()
        with lab:
            own.start()
            try:
                result = made.run()
            finally:
                own.kill()
    wrong = result.wrong(options.disk, options.memory)
    if options.json:
        print(json.dumps(asdict(result) | {"wrong": wrong}, indent=1))
        return int(bool(wrong))
    counted = sum(result.hostile.values())
    print(f"{options.minutes:g} min: {counted:,} hostile requests, {result.moves} moves, {result.rounds} rounds of following.")
    print("  " + ", ".join(f"{name} {number:,}" for name, number in sorted(result.hostile.items(), key=lambda one: -one[1])))
    for where, came in result.forms.items():
        print(f"  odd forms, {where}: " + ", ".join(f"{name} {number}" for name, number in sorted(came.items())))
    print(f"  the application: {result.load}")
    print(f"  holds {min(result.held, default=0):.2f} to {max(result.held, default=0):.2f} s")
    print(f"  the gate's folder at most {result.folder_most:.1f} MB and {result.bodies_most} bodies")
    print(f"  memory at most: the tool {result.tool_memory:.0f} MB, all processes of Nginx {result.nginx_memory:.0f} MB")
    print("\n".join(f"WRONG: {one}" for one in wrong) or "Nothing came of it.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
