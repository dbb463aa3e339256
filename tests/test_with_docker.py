"""``with-docker`` leaves the firewall of the machine as it was, also where it is killed, and begins with an empty engine.

Tried in a network of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutover.core.wait import Not, wait_until

ROOT = Path(__file__).resolve().parents[1]
#: What dockerd does to a firewall, without dockerd.
DOCKERD = """#!/bin/bash
while [ $# -gt 0 ]; do [ "$1" = --pidfile ] && echo $$ >"$2"; shift; done
iptables -P FORWARD DROP; iptables -N DOCKER; iptables -A FORWARD -j DOCKER; iptables -t nat -N DOCKER; touch "$LAB_MARK"
exec sleep 60
"""
DOCKER = """#!/bin/bash
case "$1" in
    ps) cat "$LAB_MARK.left" 2>/dev/null; exit 0 ;;
    rm) [ "${*: -1}" != "$(cat "$LAB_MARK.left")" ] || rm "$LAB_MARK.left"; exit 0 ;;
    info) ;;
    *) exit 0 ;;
esac
[ -n "${DOCKER_HOST:-}" ] && [ -e "$LAB_MARK" ]
"""
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("iptables", "unshare", "docker-registry"))),
    reason="needs root, iptables, unshare",
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[list[str]]:
    """A network of its own that stands for the machine's: the words that run something in it."""
    for name, text in (("dockerd", DOCKERD), ("docker", DOCKER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    holder = subprocess.Popen(["unshare", "--net", "sleep", "120"])
    try:
        own = Path("/proc/self/ns/net").readlink()
        wait_until(
            lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != own or Not("it is ours"), deadline=5, what="A network"
        )
        yield ["nsenter", "--net", f"--target={holder.pid}"]
    finally:
        holder.kill()
        holder.wait()


def firewall(machine: list[str]) -> str:
    said = [
        subprocess.run([*machine, "iptables", "-t", t, "-S"], capture_output=True, text=True, check=True).stdout
        for t in ("filter", "nat")
    ]
    return "".join(said)


def begun(machine: list[str], folder: Path, *command: str, network: str) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"),
        "LAB_MARK": str(folder / "mark"), "CUTOVER_VENV": os.environ.get("CUTOVER_VENV", ""),
    }  # fmt: skip
    if network == "the machine's":
        environment["WITH_DOCKER_NETWORK"] = ""
        (folder / "unshare").write_text("#!/bin/bash\nexit 1\n")  # where none can be made
        (folder / "unshare").chmod(0o755)
    return subprocess.Popen([*machine, str(ROOT / "scripts/with-docker"), *command], env=environment, start_new_session=True)


@pytest.mark.parametrize("network", ["its own", "the machine's"])
@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_the_firewall_is_as_it_was(machine: list[str], tmp_path: Path, network: str, end: str) -> None:
    subprocess.run([*machine, "iptables", "-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP"], check=True)
    before = firewall(machine)
    seen = tmp_path / "seen"
    left = tmp_path / "mark.left"
    left.write_text("5f1ca30f00e4")  # a container that somebody made by hand in the engine of an earlier run
    wait = "sleep 30" if end == "killed" else "true"
    work = begun(machine, tmp_path, "bash", "-c", f"iptables -S FORWARD >{seen}; {wait}", network=network)
    try:
        wait_until(lambda: (seen.exists() and bool(seen.read_text())) or Not("it has not begun"), deadline=30, what="The command")
        assert "-P FORWARD DROP" in seen.read_text()
        assert not left.exists(), "the command began beside what an earlier run left in the engine"
        assert (firewall(machine) == before) is (network == "its own") or end == "by itself"
        if end == "killed":
            work.send_signal(signal.SIGKILL)
        code = work.wait(timeout=30)
        assert (code == 0) is (end == "by itself")
        wait_until(lambda: firewall(machine) == before or Not(firewall(machine)), deadline=20, what="The firewall as it was")
    finally:
        if work.poll() is None:
            os.killpg(work.pid, signal.SIGKILL)
            work.wait()
