"""The guide's evening, as a stranger would do it: every numbered command of the page, in its order, as a command of its own.

The site is a lab; nothing but ``site.yaml`` and the keys in the environment is different from a real one.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cutover.discovery import trust
from cutover.site.load import load
from cutover.site.schema import netloc
from lab import forkserver
from lab.lab import ROOT, Lab, new_folder


def numbered() -> list[list[str]]:
    """The first command of every numbered line of the evening."""
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    evening = text.split("## The evening of the move")[1].split("\n## ")[0]
    found = re.findall(r"(?m)^\d+\. \*\*[^*]+\*\* `\./scripts/cutover ([^`]+)`", evening)
    return [command.split() for command in found]


def test_the_page_has_the_whole_plan_in_order() -> None:
    verbs = [words[0] for words in numbered()]
    assert verbs == [
        "check", "backup", "resize", "deploy", "gate", "copy", "status", "switch", "check", "finish", "decommission", "settle",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_stranger_carries_out_the_page(lab_parent: Path) -> None:
    with Lab(new_folder(lab_parent), seed=lab_parent / "seed") as lab:
        names = [lab.site.name, *(guest.name for guest in lab.site.guests.to_decommission())]
        confirm = ["--yes", *(word for name in names for word in ("--yes-destroy", name))]
        env = os.environ | lab.env | {"CUTOVER_SITE": str(lab.site_file), "CUTOVER_STATE_DIR": str(lab.state_dir)}

        def carry_out(words: list[str]) -> subprocess.CompletedProcess[str]:
            more = confirm if "--execute" in words else []
            if words[0] == "check":  # as the page has it; the others are the same program, begun at less cost
                command = [str(ROOT / "scripts/cutover"), *words, *more]
                return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=240, check=False)
            return forkserver.carried_out("cutover", *words, *more, env=env, cwd=Path("/"), timeout=240)

        fresh = lab.folder / "fresh.yaml"
        ways = ["--proxmox", lab.network.address(2), "--nginx-shell", "here", "--repository", lab.site.portainer.repository]
        servers = (lab.site.proxmox.url, lab.site.portainer.url)
        trusted = [word for url in servers for word in ("--trust", trust.fingerprint(url))]
        names_at = ["--name-server", f"{lab.names.address}:{lab.names.port}"]
        begun = carry_out(["init", "--site", str(fresh), *ways, *trusted, *names_at])
        assert begun.returncode == 0, begun.stderr
        assert "# GAP:" not in fresh.read_text(encoding="utf-8")
        assert load(fresh).guests == lab.site.guests
        for words in numbered():
            ended = carry_out(words)
            assert ended.returncode == 0, f"{' '.join(words)}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
            if words == ["status"]:
                assert ended.stdout.startswith("ready"), ended.stdout
            if words[0] == "switch":
                assert "Writes were held for" in ended.stdout
        assert "finished" in carry_out(["status"]).stdout
        at_the_end = carry_out(["check", "--moment", "after"]).stdout
        assert "✘" not in at_the_end, at_the_end
        assert "The gate was taken out for good" in at_the_end
        assert "LXC 952 (qdrant) is deleted" in at_the_end
        settled = Path(lab.nginx.server_file)
        right = settled.read_text(encoding="utf-8")
        settled.write_text(right.replace(netloc(lab.site.qdrant.new_url), "127.0.0.1:9"), encoding="utf-8")
        said = carry_out(["check", "--criterion", "E1"]).stdout
        assert "✘" in said and "changed since" in said and netloc(lab.site.qdrant.new_url) in said, said
        settled.write_text(right, encoding="utf-8")
        told = carry_out(["history"]).stdout.splitlines()
        assert any(line.strip().startswith("Removed: record qdrant.home.arpa") for line in told), told
        credentials = [value for name, value in lab.env.items() if name not in {"PROXMOX_TOKEN_ID", "DNS_TSIG_NAME"}]
        journal = (lab.state_dir / "journal.jsonl").read_text(encoding="utf-8")
        assert not [value for value in credentials if value in journal]
