"""How `follow --watch` runs in a terminal and under systemd: one status line, a clean end, and the unit that starts it."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cutover import runner
from cutover.cli.output import Output
from cutover.context import Context
from cutover.replication.watch import WatchState

#: Seconds between two lines where nobody looks at a terminal and nothing changes.
EVERY = 60.0
#: Seconds for which something has to be wrong, by its kind, until somebody is woken for it: what restarts is back by then.
LASTS = {"server": 30.0}


class Attention:
    """Tells who does not look at the terminal what is wrong: once, and once more when it is over."""

    def __init__(self, tell: Callable[[str, str, str], None]) -> None:
        self._tell = tell
        self._since: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def see(self, wrong: Mapping[str, str], now: float) -> None:
        """``wrong`` at ``now`` (seconds): a sentence by kind."""
        for kind in self._since.keys() - wrong.keys():
            del self._since[kind]
            if said := self._told.pop(kind, ""):
                self._tell("attention", f"Over: {said}", "follow")
        for kind, sentence in wrong.items():
            if now - self._since.setdefault(kind, now) >= LASTS.get(kind, 0.0) and kind not in self._told:
                self._told[kind] = sentence
                self._tell("attention", sentence, "follow")


def watch(context: Context, output: Output) -> int:
    """Follow until Ctrl-C, or until systemd stops it; a second Ctrl-C does not wait for the end of the round."""
    stop = threading.Event()

    def stops(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        output.terminal.say("Stopping when this round has ended.")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stops)
    with _shown(output) as tell:
        outcome = runner.watch(context, tell=tell, wait=stop.wait)
    output.data["outcome"] = {"changed": outcome.changed, "sentences": list(outcome.sentences)}
    for sentence in outcome.sentences:
        output.line(sentence, "green", mark="✔")
    return 0


@contextmanager
def _shown(output: Output) -> Iterator[Callable[[WatchState], None]]:
    """On a terminal a line that stays in its place; otherwise a line when something changes, and once a minute."""
    terminal, last_at, last_wrong, first = output.terminal, 0.0, "", True
    live = terminal.err.is_terminal and not output.as_json
    attention = Attention(output.notices.tell)
    to_systemd("READY=1")  # not after the first round: with a long backlog that takes longer than a service may take to start
    with terminal.looking() as at:

        def tell(seen: WatchState) -> None:
            nonlocal last_at, last_wrong, first
            line = output.credentials.redact(seen.line())
            to_systemd(f"STATUS={line}")
            attention.see(seen.wrong, seen.at)
            wrong = " ".join(seen.wrong.values())
            if live:
                at(line)
            elif wrong != last_wrong or first or time.monotonic() - last_at >= EVERY:
                terminal.say(line)
                last_at = time.monotonic()
            last_wrong, first = wrong, False

        yield tell
    to_systemd("STOPPING=1")


def to_systemd(message: str) -> None:
    """Tell the service manager, where one started this (see sd_notify(3)); nobody is told otherwise."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.send(message.encode())


def unit(site: Path, state: Path) -> str:
    """The unit file that watches this site, with the paths of this installation."""
    options = ["--site", str(site.resolve()), "--state-dir", str(state.resolve())]
    words = [sys.executable, "-m", "cutover", "follow", "--watch", "--execute", *options]
    command = " ".join(shlex.quote(word).replace("%", "%%") for word in words)
    source = Path(__file__).resolve().parents[2]
    installed = str(source) in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    found_in = "" if installed else f'Environment="PYTHONPATH={str(source).replace("%", "%%")}"\n'
    return f"""\
# Keeps the Qdrant server that does not serve up to date, and proves all the time that both are the same.
#   sudo cp qdrant-cutover.service /etc/systemd/system/ && sudo systemctl enable --now qdrant-cutover
# The keys: a file that only root can read, lines of NAME=value (`cutover keys` lists the names).
[Unit]
Description=Qdrant cutover: follow and prove
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
User={os.environ.get("SUDO_USER") or os.environ.get("USER") or "root"}
EnvironmentFile=/etc/qdrant-cutover.env
WorkingDirectory={_word(site.resolve().parent)}
{found_in}ExecStart={command}
# What it waits for it waits for itself. A mistake in site.yaml (2) does not go away by starting again.
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=30
# Stopped, it ends its round; the shell on the Nginx host is needed until then.
KillMode=mixed
TimeoutStopSec=120
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths={_word(state.resolve())}

[Install]
WantedBy=multi-user.target
"""


def _word(path: Path) -> str:
    return str(path).replace("%", "%%").replace(" ", "\\x20")
