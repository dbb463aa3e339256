"""site.yaml: every mistake in one go, each with its line, and nothing is ever contacted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.core.errors import WrongUsage
from cutover.site.load import WrongSite, load, parse
from cutover.site.schema import Site, netloc

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "site.yaml").read_text(encoding="utf-8")


def changed(*pairs: tuple[str, str]) -> str:
    text = TEXT
    for old, new in pairs:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def mistakes(text: str) -> dict[str, tuple[int, str]]:
    with pytest.raises(WrongSite) as error:
        parse(text)
    assert error.value.exit_code == 2
    return {m.where: (m.line, m.sentence) for m in error.value.mistakes}


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), start=1) if part in line)


def test_the_shipped_site_is_the_plan() -> None:
    site = load(ROOT / "site.yaml")
    assert (site.guests.old.vmid, site.guests.old.address) == (952, "10.0.0.152")
    assert (site.guests.new.vmid, site.guests.new.address) == (1001, "10.0.0.101")
    assert (site.guests.nginx.vmid, site.guests.vllm.vmid) == (101, 801)
    assert [g.vmid for g in site.guests.to_decommission()] == [950, 951, 952, 953]
    assert site.resize.before.model_dump() == {"cores": 4, "memory_mb": 8192, "disk_gb": 100}
    assert site.resize.after.model_dump() == {"cores": 6, "memory_mb": 10240, "disk_gb": 132}


def test_all_mistakes_come_at_once_with_their_lines() -> None:
    text = changed(
        ("name: home-lab", "nam: home-lab"),
        ("vmid: 801", "vmid: '801'"),
        ("disk_gb: 132", "disk_gb: 32"),
        ("address: 10.0.0.101", "address: 10.0.0.152"),
        ("vmid: 951", "vmid: 950"),
    )
    found = mistakes(text)
    assert found["name"] == (1, "is missing")
    assert found["nam"][0] == line_of(text, "nam: home-lab")
    assert found["guests.vllm.vmid"] == (line_of(text, "'801'"), "expected a whole number, found '801': write it without quotes")
    assert "less than the 100 GB" in found["resize.after.disk_gb"][1]
    assert found["guests.new.address"] == (line_of(text, "vmid: 1001"), "the address 10.0.0.152 is already that of guests.old")
    assert "already that of guests.legacy[0]" in found["guests.legacy[1].vmid"][1]


@pytest.mark.parametrize(
    ("old", "new", "where", "said"),
    [
        ("url: https://pve.home.arpa:8006", "url: pve.home.arpa", "proxmox.url", "an address such as"),
        ("name: home-lab", "name: 'home lab'", "name", "expected a name of letters, digits"),
        ("name: home-lab", "name: !our lab", "name", "expected text, found a value with the tag !our"),
        ("name: home-lab", "name: true", "name", "expected text, found true"),
        ("version: 1.18.3", "version: 1.19.0", "qdrant.image", "is not version 1.19.0"),
        ("@sha256:0bd9", "", "qdrant.image", "pinned by tag and digest"),
        ("old_url: http://10.0.0.152:6333", "old_url: http://10.0.0.101:6333", "qdrant.old_url", "is not on LXC 952"),
        ("scratch_vmid: 9952", "scratch_vmid: 952", "proxmox.scratch_vmid", "is a guest of the plan"),
        ("hold_seconds: 1.0", "hold_seconds: 30", "limits.hold_seconds", "less than or equal to 1.4"),
        ("hold_seconds: 1.0", "hold_seconds: 0.4", "limits.hold_seconds", "greater than or equal to 0.5"),
        ("kind: rfc2136", "kind: bind", "dns[0]", "expected `kind` to be one of"),
        ("  binary: nginx", "  binary: nginx\n  bogus: 1", "nginx.bogus", "not a field"),
        ("hold_seconds: 1.0", "hold_second: 1.0", "limits.hold_second", "did you mean hold_seconds?"),
        ("public_url: http://nginx", "Public-Url: http://nginx", "qdrant.Public-Url", "did you mean public_url?"),
        ("interval: 5m", "intervall: 5m", "portainer.auto_update.intervall", "did you mean interval?"),
        ("  binary: nginx", "  binary: null", "nginx.binary", "found nothing: fill it in, or let `cutover init` find it out"),
        ("  binary: nginx", "  binary: 7", "nginx.binary", "expected text, found 7: write it in quotes"),
        ("[ssh, root@nginx.home.arpa]", "ssh root@nginx", "nginx.shell", "expected a list, found 'ssh root@nginx': write [ssh, "),
        ("  node: pve", "\tnode: pve", "YAML", "a tab stands where YAML takes only spaces"),
        ("node: pve", "node: [", "YAML", ""),
        ("address: vllm.home.arpa", "address: 10.0.0.300", "guests.vllm.address", "an IP address or a host name"),
        ("address: vllm.home.arpa", "address: NGINX.home.arpa", "guests.vllm.address", "already that of guests.nginx"),
        (
            "name: legacy-951",
            "name: legacy-950",
            "guests.legacy[1].name",
            "the name legacy-950 is already that of guests.legacy[0]",
        ),
        ("name: legacy-951", "name: portainer", "guests.legacy[1].name", "already that of guests.new"),
        ("address: 10.0.0.101}", "address: portainer.home.arpa}", "guests.new.address", "expected an IP address"),
        ("old_url: http://10.0.0.152:6333", "old_url: http://10.0.0.152:0", "qdrant.old_url", "an address such as"),
        ("old_url: http://10.0.0.152:6333", "old_url: https://10.0.0.152:6333", "qdrant.old_url", "plain HTTP"),
        ("new_url: http://10.0.0.101:6333", "new_url: http://10.0.0.101:6333/q", "qdrant.new_url", "plain HTTP"),
        ("http://nginx.home.arpa:6333", "http://nginx.home.arpa:6333/q?x", "qdrant.public_url", "without user, query"),
        ("http://nginx.home.arpa:6333", "http://10.0.0.152:6333/", "qdrant.public_url", "has to go through Nginx"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /", "nginx.gate_folder", "a folder of its own"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /srv", "nginx.gate_folder", "a folder of its own"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /run/qdrant-gate", "nginx.gate_folder", "survives a reboot"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /var/lib/../etc", "nginx.gate_folder", "plain letters"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /var/lib/a gate;", "nginx.gate_folder", "plain letters"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /etc/nginx/conf.d", "nginx.gate_folder", "is nginx.http_folder"),
        ("gate_address: 127.0.0.1:6339", "gate_address: localhost:6339", "nginx.gate_address", "an address of this machine"),
        ("gate_address: 127.0.0.1:6339", "gate_address: 127.0.0.1", "nginx.gate_address", "with a port that is free"),
        ("gate_address: 127.0.0.1:6339", "gate_address: 10.0.0.101:6333", "nginx.gate_address", "is a server of the plan"),
        ("main_config: /etc/nginx/nginx.conf", 'main_config: "/etc/nginx/a\\nb"', "nginx.main_config", "an absolute path"),
        ("binary: nginx", "binary: ''", "nginx.binary", "expected some text"),
        ("shell: [ssh, root@nginx.home.arpa]", "shell: ['']", "nginx.shell[0]", "expected some text"),
        ("reference: refs/heads/main", "reference: main", "portainer.reference", "refs/heads/<branch>"),
        ("compose_file: stacks/", "compose_file: ../stacks/", "portainer.compose_file", "inside the repository"),
        (
            "https://git.home.arpa/infra/qdrant-cutover.git",
            "git@git.home.arpa:infra/q.git",
            "portainer.repository",
            "such as https://",
        ),
        ("interval: 5m", "interval: 0s", "portainer.auto_update.interval", "a time such as 5m"),
        ("interval: 5m", "interval: 5 min", "portainer.auto_update.interval", "a time such as 5m"),
        ("soak_hours: 168", "soak_hours: .inf", "limits.soak_hours", "a finite number"),
        ("soak_hours: 168", "soak_hours: 1.0e+300", "limits.soak_hours", "expected a number less than or equal to 8760"),
        ("vmid: 801", "vmid: 1", "guests.vllm.vmid", "expected a number greater than or equal to 100, found 1"),
    ],
)
def test_each_mistake_says_what_to_write(old: str, new: str, where: str, said: str) -> None:
    found = mistakes(changed((old, new)))
    assert where in found, found
    assert said in found[where][1]


def test_two_documents_are_one_too_many() -> None:
    assert mistakes(TEXT + "\n---\nname: other\n")["YAML"][1].startswith("expected a single document")


def test_debians_own_layout_and_addresses_of_version_6_are_fine() -> None:
    site = parse(changed(
        ("http_folder: /etc/nginx/conf.d", "http_folder: /etc/nginx/sites-enabled"),
        ("address: 10.0.0.101}", "address: 'FD00:0::1'}"), ("new_url: http://10.0.0.101:6333", "new_url: 'http://[fd00::1]:6333'"),
        ("address: 10.0.0.152}", "address: Qdrant.home.arpa}"), ("http://10.0.0.152:6333", "http://QDRANT.home.arpa"),
        ("gate_folder: /var/lib/qdrant-gate", "gate_folder: /var/lib/qdrant-gate/"),
    ))  # fmt: skip
    assert site.guests.new.address == "fd00::1"
    assert (netloc(site.qdrant.new_url), netloc(site.qdrant.old_url)) == ("[fd00::1]:6333", "qdrant.home.arpa:80")
    assert site.nginx.gate_folder == "/var/lib/qdrant-gate"


def test_a_ca_file_is_meant_beside_the_site_file() -> None:
    site = parse(changed(("ca_file: null ", "ca_file: keys/root.pem ")), Path("/srv/site/site.yaml"))
    assert site.proxmox.ca_file == "/srv/site/keys/root.pem"
    assert parse(changed(("ca_file: null ", "ca_file: /etc/root.pem "))).proxmox.ca_file == "/etc/root.pem"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="cannot be read"):
        load(tmp_path / "site.yml")


LINES = TEXT.splitlines()


@given(
    cut=st.lists(st.integers(0, len(LINES) - 1), max_size=3),
    junk=st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.text(max_size=12)), max_size=3),
)
def test_a_damaged_file_is_a_valid_site_or_clear_mistakes(cut: list[int], junk: list[tuple[int, str]]) -> None:
    lines = [line for i, line in enumerate(LINES) if i not in cut]
    for at, text in junk:
        lines.insert(min(at, len(lines)), text)
    try:
        assert isinstance(parse("\n".join(lines)), Site)
    except WrongSite as error:
        assert all(m.line >= 1 and m.sentence for m in error.mistakes)


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e400"])
def test_a_limit_without_an_end_is_a_mistake(number: str) -> None:
    assert "limits.soak_hours" in mistakes(changed(("soak_hours: 168", f"soak_hours: {number}")))


@pytest.mark.parametrize("odd", ["[1, [2]]:\n  a: 1", "{a: {b: 1}}:\n  a: 1"])
def test_names_that_are_no_text_are_a_mistake(odd: str) -> None:
    assert "YAML" in mistakes(odd)
