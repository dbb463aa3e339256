"""The client tells a refusal from a lost answer, and never sends a change that nobody ordered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cutover.core.credentials import Credentials
from cutover.core.errors import Failed, OutcomeUnknown, Refused, Unreachable, WritesRefused, WrongUsage
from cutover.proxmox.answers import ProxmoxRefused, error_of, kind_of
from cutover.proxmox.client import Proxmox
from cutover.proxmox.tasks import UPID, TaskEnd, task_state, why
from lab.proxmox_host import Host, host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("can't remove CT 952 - protection mode enabled", "protected"),
        ("cannot remove protected volume 'backup/x' on 'local'", "protected"),
        ("VM is locked (backup)", "locked"),
        ("CT is locked (snapshot-delete)", "locked"),
        ("can't lock file '/var/lock/qemu-server/lock-1001.conf' - got timeout", "busy"),
        ("checksum mismatch (file change by other user?)", "changed"),
        ("detected modified configuration - file changed by other user? Try again.", "changed"),
        ("Configuration file 'nodes/pve/lxc/952.conf' does not exist", "gone"),
        ("Permission check failed (/vms/952, VM.Backup)", "denied"),
        ("cluster not ready - no quorum?", "no-quorum"),
        ("shrinking disks is not supported", "refused"),
    ],
)
def test_refusals_are_told_apart_by_their_text(text: str, kind: str) -> None:
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    ("exitstatus", "state"),
    [
        ("OK", "ok"), ("WARNINGS: 2", "warnings"), ("WARNINGS: many", "error"), ("job errors", "error"),
        ("unexpected status", "unknown"), ("", "unknown"), (None, "unknown"),
    ],
)  # fmt: skip
def test_how_a_task_ended(exitstatus: str | None, state: str) -> None:
    assert task_state(exitstatus) == state


def test_the_reason_of_a_failed_job_is_read_from_its_log() -> None:
    log = ("INFO: starting", "ERROR: Backup of VM 952 failed - no space left on device", "INFO: done")
    end = TaskEnd("UPID:x", "error", "job errors", log)
    with pytest.raises(Failed, match=r"Backing up failed: Backup of VM 952 failed - no space left on device\."):
        end.must("Backing up")
    warned = TaskEnd("UPID:x", "warnings", "WARNINGS: 1", ("WARN: a volume was skipped",))
    assert warned.must("Backing up", warnings=True) is warned
    with pytest.raises(Failed, match="with warnings: a volume was skipped"):
        warned.must("Backing up")
    for state in ("unknown", "timeout"):
        with pytest.raises(OutcomeUnknown):
            TaskEnd("UPID:x", state, "").must("Backing up")


def test_without_an_act_nothing_is_sent(lab: Host) -> None:
    for execute in (False, True):
        with pytest.raises(WritesRefused):
            lab.run(execute=execute).proxmox.change("PUT", "nodes/pve/lxc/952/config", description="x")
    assert lab.pve.writes() == []


def test_an_offline_node_is_unreachable_and_was_asked_again(lab: Host) -> None:
    lab.pve.set_node_offline("pve")
    api = lab.run().proxmox
    with pytest.raises(Unreachable, match="595"):
        api.get("nodes/pve/status")
    assert len([path for _, path, _ in lab.pve.requests if path.endswith("/nodes/pve/status")]) == 4


def test_a_change_that_an_offline_node_did_not_get_did_not_happen(lab: Host) -> None:
    lab.pve.set_node_offline("pve")
    run = lab.run(execute=True)
    with pytest.raises(Unreachable), run.guard.act("test", "Change something"):
        run.proxmox.change("PUT", "nodes/pve/lxc/952/config", description="x")


@pytest.mark.parametrize("status", [502, 504, 596, 599])
def test_a_proxy_that_gives_up_on_a_change_leaves_its_outcome_unknown(lab: Host, status: int) -> None:
    lab.pve.fail("PUT", "/nodes/pve/lxc/952/config", status, "proxy gave up", times=1)
    run = lab.run(execute=True, token=lab.root)
    with pytest.raises(OutcomeUnknown), run.guard.act("test", "Change something"):
        run.proxmox.change("PUT", "nodes/pve/lxc/952/config", description="x")


def test_what_is_not_the_api_is_said_to_be_none(lab: Host) -> None:
    lab.pve.fail("GET", "/version", 200, "<html>a login page</html>", html=True)
    with pytest.raises(Unreachable, match="not the Proxmox API"):
        lab.run().proxmox.get("version")


def test_an_error_names_the_parameter(lab: Host) -> None:
    run = lab.run(execute=True, token=lab.root)
    with pytest.raises(ProxmoxRefused, match="cores") as refused, run.guard.act("test", "Change something"):
        run.proxmox.change("PUT", "nodes/pve/qemu/1001/config", cores="many")
    assert refused.value.status == 400


def test_a_thing_that_is_gone_is_none_where_that_is_fine(lab: Host) -> None:
    api = lab.run(token=lab.root).proxmox
    assert api.find("nodes/pve/lxc/12345/config") is None
    with pytest.raises(ProxmoxRefused):
        api.get("nodes/pve/lxc/12345/config")


@pytest.mark.parametrize(
    ("token", "url", "said"),
    [("root", "https://127.0.0.1:8006", "user@realm!name"), ("a@pve!t", "http://127.0.0.1:8006", "https")],
)
def test_wrong_settings_are_named_before_anything_is_contacted(lab: Host, token: str, url: str, said: str) -> None:
    settings = lab.site.proxmox.model_copy(update={"url": url})
    credentials = Credentials.from_env({"PROXMOX_TOKEN_ID": token, "PROXMOX_TOKEN_SECRET": "x"})
    with pytest.raises(WrongUsage, match=said):
        Proxmox(settings, credentials, lab.run().guard)
    assert not lab.pve.requests


def test_the_secret_is_never_in_an_error(lab: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    secret: Any = lab.pve.apitokens[lab.token]
    run = lab.run()
    breaks: tuple[Any, ...] = (lambda: lab.pve.set_node_offline("pve"), lambda: lab.pve.apitokens.update({lab.token: "other"}))
    for broken in breaks:
        broken()
        with pytest.raises((Unreachable, Refused)) as error:
            run.proxmox.get("nodes/pve/status")
        assert secret not in str(error.value)


def test_the_page_of_a_proxy_is_said_without_its_markup() -> None:
    from proxmoxer.core import ResourceException

    page = "<html><head><title>502 Bad Gateway</title></head><body><hr>proxy/1.0</body></html>"
    said = str(
        error_of(ResourceException(502, "Bad Gateway", page, {"errors": page.encode()}), "POST x", "POST", "cutover@pve!a")
    )
    assert "502 Bad Gateway proxy/1.0" in said and "<" not in said and "b'" not in said


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("UPID:pve:0003F5A1:00E2B4C9:66A1B2C3:vzdump:952:cutover@pve!backup:", True),
        ("UPID:pve-2.lab:0003F5A1:00E2B4C9:66A1B2C3:qmreboot:1001:root@pam:", True),
        ("UPID:pve:0003F5A1:00E2B4C9:66A1B2C3:vzdump::cutover@pve!backup:", True),
        ("UPID:pve:0003F5A1:00E2B4C9:66A1B2C3:vzdump:952:cutover@pve!backup:\x1b[2J", False),
        ("UPID:pve:0003F5A1:00E2B4C9:66A1B2C3:vzdump:952:a@pve:/../../access/users", False),
        ("UPID:", False),
        ("OK", False),
    ],
)
def test_only_a_tasks_name_is_followed(name: str, is_one: bool) -> None:
    """A hostile name was asked about again and again until the task's deadline."""

    assert bool(UPID.fullmatch(name)) is is_one


def test_the_reason_of_a_failed_task_is_found_wherever_it_stands(recorded: Callable[[str], list[dict[str, Any]]]) -> None:
    """A dump folder that ran full: the reason is an INFO line, the error line a command as long as a page."""
    exchanges = recorded("pve-9.2.11.jsonl")
    (log,) = [e["response"]["data"] for e in exchanges if e["what"] == "back up to a folder that runs full : its log"]
    said = why([line["t"] for line in log], "job errors")
    assert said.startswith("zstd: error 70 : Write error : cannot write block : No space left on device")
    assert "Backup of VM 952 failed" in said
    assert len(said) < 300, said


@pytest.mark.parametrize(
    ("log", "exitstatus", "said"),
    [
        ([], "job errors", "job errors"),
        (["ERROR: Backup of VM 9 failed - unable to find VM '9'"], "job errors", "Backup of VM 9 failed - unable to find VM '9'"),
        (["WARN: two files changed"], "WARNINGS: 1", "two files changed"),
        (
            [
                "WARN: skipping these, restore as root:",
                "------",
                "lxc.mount.entry: /srv srv",
                "lxc.apparmor: x",
                "------",
                "done",
            ],
            "WARNINGS: 1",
            "skipping these, restore as root: lxc.mount.entry: /srv srv, lxc.apparmor: x",
        ),
        (["WARN: nothing follows:", "TASK WARNINGS: 1"], "WARNINGS: 1", "nothing follows"),
        (["TASK ERROR: CT is locked (create)"], "CT is locked (create)", "CT is locked (create)"),
        (
            ["tar: ./db: Cannot write: No space left on device", "TASK ERROR: x"],
            "unable to restore CT 9 - command 'tar xpf - --zstd --totals' failed: exit code 2",
            "tar: ./db: Cannot write: No space left on device; unable to restore CT 9 - command 'tar xpf - --zstd --total...' failed: exit",
        ),
        (["WARN: Read-only file system", "ERROR: it ended"], "job errors", "Read-only file system; it ended"),
    ],
)
def test_why_a_task_failed(log: list[str], exitstatus: str, said: str) -> None:
    assert why(log, exitstatus).startswith(said)
