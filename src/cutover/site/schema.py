"""The site: every fact of ``site.yaml``, checked before anything is contacted.

All mistakes are reported at once, each with file and line, what was expected and what was found. Addresses, ports,
ids, sizes, paths and limits come from here and from nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo


def is_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return good and not ("@" in parts.netloc or parts.query or parts.fragment) and value.isprintable() and " " not in value


def _url(value: str) -> str:
    if not is_url(value):
        raise ValueError("an address such as http://10.0.0.152:6333, without user, query or fragment")
    return value.rstrip("/")


def _server_url(value: str) -> str:
    url = _url(value)
    if urlsplit(url).scheme != "http" or urlsplit(url).path:
        raise ValueError("an address such as http://10.0.0.152:6333: Nginx passes requests on by plain HTTP to a host and port")
    return url


def _repository(value: str) -> str:
    if not is_url(value):
        raise ValueError("the address of a Git repository, such as https://git.home.arpa/infra/qdrant-cutover.git, without user")
    return value.rstrip("/")


def stays_here(url: str) -> bool:
    """Whether what is sent to an address does not leave this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: str) -> str:
    found = re.fullmatch(r"(\d+\.\d+\.\d+\.\d+):(\d+)", value)
    if not found or not is_ip(found[1]) or not 0 < int(found[2]) < 65536:
        raise ValueError("an address of this machine with a port that is free, such as 127.0.0.1:6339")
    return value


def in_url(address: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{address}]" if ":" in address else address


def netloc(url: str) -> str:
    """``host:port`` of an address, as Nginx writes it."""
    parts = urlsplit(url)
    return f"{in_url(parts.hostname or '')}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _absolute(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError("an absolute path")
    return value.rstrip("/") or "/"


def _gate_folder(value: str) -> str:
    path = _absolute(value)
    if path.count("/") < 2:
        raise ValueError("a folder of its own, such as /var/lib/qdrant-gate")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", path) or {"..", "."} & set(path.split("/")):
        raise ValueError("an absolute path of plain letters and digits")
    if path.startswith(("/run/", "/var/run/", "/dev/")):
        raise ValueError("a folder that survives a reboot, such as /var/lib/qdrant-gate")
    return path


def _beside_the_site(value: str, info: ValidationInfo) -> str:
    """A relative path is meant beside site.yaml, wherever the command is started."""
    folder = (info.context or {}).get("folder", Path())
    return str(folder / Path(value).expanduser())


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("some text on one line")
    return value


def _like(pattern: str, expected: str) -> AfterValidator:
    """Text of this form; ``expected`` says in words which."""

    def test(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return AfterValidator(test)


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("a SHA-256 fingerprint: 64 hexadecimal digits, colons allowed")
    return plain


def is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def host(value: str) -> str:
    """Written in one way, so that the same address is recognised."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", value) or re.fullmatch(r"[0-9.]+", value):  # fmt: skip # noqa: E501
            raise ValueError("an IP address or a host name") from None
    return value.lower()


Url = Annotated[str, AfterValidator(_url)]
ServerUrl = Annotated[str, AfterValidator(_server_url)]
Repository = Annotated[str, AfterValidator(_repository)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
GateFolder = Annotated[str, AfterValidator(_gate_folder)]
File = Annotated[str, AfterValidator(_text), AfterValidator(_beside_the_site)]
Text = Annotated[str, AfterValidator(_text)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
PinnedImage = Annotated[
    str,
    _like(r"[^\s@]+:[^\s@:/]+@sha256:[0-9a-f]{64}", "an image pinned by tag and digest: name:tag@sha256:<64 hexadecimal digits>"),
]
Host = Annotated[str, AfterValidator(host)]
Name = Annotated[
    str,
    _like(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a name of letters, digits, '.', '_' and '-', beginning with a letter or digit"),
]
Vmid = Annotated[int, Field(ge=100, le=999_999_999)]
Duration = Annotated[str, _like(r"(?=.*[1-9])(\d+h)?(\d+m)?(\d+s)?", "a time such as 5m, 30s or 1h30m")]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Part(BaseModel):
    """A part of site.yaml: unknown fields are mistakes, values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


#: A place in the file: keys and positions in lists.
Where = Sequence[str | int]


class Keyed(Part):
    """A server that is sent a key. ``insecure`` says that it goes over plain HTTP on purpose."""

    url: Url
    ca_file: File | None = None
    insecure: bool = False

    @property
    def in_the_clear(self) -> bool:
        """Whether the key is sent unencrypted, on a network or because the file says so."""
        return urlsplit(self.url).scheme != "https" and (self.insecure or not stays_here(self.url))


class Storages(Part):
    """Proxmox storages by what they are used for."""

    backup: Name
    restore: Name


class Proxmox(Keyed):
    """The Proxmox host."""

    node: Name
    fingerprint: Fingerprint | None = None
    storages: Storages
    scratch_vmid: Vmid


class Guest(Part):
    """A guest of the Proxmox host."""

    vmid: Vmid
    kind: Literal["lxc", "vm"]
    name: Name
    address: Host
    node: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")] | None = None
    """The node of the cluster on which it is, where that is another than ``proxmox.node``."""

    def __str__(self) -> str:
        return f"{'LXC' if self.kind == 'lxc' else 'VM'} {self.vmid} ({self.name})"


class Guests(Part):
    """The guests that the plan names, by their part in it."""

    nginx: Guest
    vllm: Guest
    old: Guest
    new: Guest
    legacy: list[Guest]

    def all(self) -> list[Guest]:
        """Every guest of the plan."""
        return [self.nginx, self.vllm, self.old, self.new, *self.legacy]

    def to_decommission(self) -> list[Guest]:
        """The guests that are given back in the end, in order of their ids."""
        return sorted([self.old, *self.legacy], key=lambda guest: guest.vmid)


class Sizes(Part):
    """Cores, memory in MiB, disk in GiB."""

    cores: Annotated[int, Field(ge=1, le=512)]
    memory_mb: Annotated[int, Field(ge=64)]
    disk_gb: Annotated[int, Field(ge=1)]


class Resize(Part):
    """The resize of the new server's VM."""

    disk: Annotated[str, _like(r"(scsi|virtio|sata|ide)\d+", "a disk of the VM, such as scsi0")]
    mount_point: AbsolutePath
    before: Sizes
    after: Sizes


class Qdrant(Part):
    """Both Qdrant servers, and the address that applications use."""

    version: Annotated[str, _like(r"\d+\.\d+\.\d+", "a version such as 1.18.3")]
    image: PinnedImage
    old_url: ServerUrl
    new_url: ServerUrl
    public_url: Url
    ca_file: File | None = None
    fingerprint: Fingerprint | None = None
    client_certificate: File | None = None
    """PEM with certificate and key that is shown to ``public_url``, where Nginx asks clients for one."""
    access: Literal["keys", "open"] = "keys"
    """``open``: no keys on purpose, so everybody who reaches the server reads and writes."""


class Nginx(Part):
    """Nginx on its host. ``shell`` is the argument prefix that gives a shell there; empty means this machine.

    ``edit``: the tool replaces the old server's address in Nginx's files; False where the operator puts in ``gate_address``
    himself. ``reload``: the command; empty where he reloads Nginx himself. ``server_file`` was needed by earlier versions and
    says nothing any more.
    """

    shell: list[Text]
    binary: Text
    main_config: AbsolutePath
    http_folder: AbsolutePath
    edit: bool = True
    server_file: AbsolutePath | None = None
    gate_folder: GateFolder
    gate_address: Annotated[str, AfterValidator(_address)] = "127.0.0.1:6339"
    worker_user: Name
    reload: list[Text]


class AutoUpdate(Part):
    """How Portainer learns of a merge."""

    mode: Literal["polling", "webhook", "none"]
    interval: Duration = "5m"


class Portainer(Keyed):
    """Portainer and the Git stack that it runs."""

    fingerprint: Fingerprint | None = None
    environment: Text
    stack: Annotated[str, _like(r"[a-z0-9][a-z0-9_-]*", "a name of small letters, digits, '_' and '-'")]
    repository: Repository
    reference: Annotated[str, _like(r"refs/(heads|tags)/\S+", "refs/heads/<branch> or refs/tags/<tag>")]
    compose_file: Annotated[
        str, _like(r"(?!.*(^|/)\.\.(/|$))[^/].*\.ya?ml", "a path inside the repository that ends in .yml or .yaml")
    ]
    auto_update: AutoUpdate


class Vllm(Part):
    """vLLM, as users reach it."""

    public_url: Url
    model: str | None = None


class Rfc2136(Part):
    """A name server that takes signed dynamic updates (BIND, Knot, PowerDNS, Technitium, Windows)."""

    kind: Literal["rfc2136"]
    server: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 53
    zones: Annotated[list[Host], Field(min_length=1)]


class Pihole(Keyed):
    """Pi-hole v6 through its API."""

    kind: Literal["pihole"]


class Adguard(Keyed):
    """AdGuard Home through its API."""

    kind: Literal["adguard"]


class ReportOnly(Part):
    """A name server that is changed by hand; the tool only says what should go."""

    kind: Literal["report"]
    server: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 53


DnsProvider = Annotated[Rfc2136 | Pihole | Adguard | ReportOnly, Field(discriminator="kind")]


class Limits(Part):
    """Numbers that both the commands and the criteria use. Seconds, MiB, GiB and hours, as the names say."""

    hold_seconds: Annotated[float, Field(ge=0.5, le=1.4)]  # the gate answers 503 after about 1.4 s itself
    round_seconds: Seconds
    memory_reserve_mb: Annotated[int, Field(ge=0)]
    disk_reserve_gb: Annotated[int, Field(ge=0)]
    overcommit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    bypass_watch_seconds: Seconds
    soak_hours: Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)]
    reboot_seconds: Seconds
    deploy_seconds: Seconds
    proof_hours: Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)] = 24.0
    """A move stands on a comparison of everything that is at most so old; 0: it always compares everything."""
    slow_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 50.0
    """Copying, comparing and following give way while the serving server takes longer than this for a small read, and longer than
    twice what it took before they began."""


class Site(Part):
    """The whole site."""

    name: Name
    proxmox: Proxmox
    guests: Guests
    resize: Resize
    qdrant: Qdrant
    nginx: Nginx
    portainer: Portainer
    vllm: Vllm
    dns: list[DnsProvider]
    limits: Limits

    def keyed(self) -> list[tuple[Where, Keyed]]:
        """Every server that is sent a key of this tool's own, and where it stands in the file."""
        found: list[tuple[Where, Keyed]] = [(("proxmox",), self.proxmox), (("portainer",), self.portainer)]
        return found + [(("dns", number), one) for number, one in enumerate(self.dns) if isinstance(one, Keyed)]

    def insecure(self) -> list[str]:
        """What is insecure on purpose, a sentence each; every report repeats it."""
        return [
            f"The key for {one.url} is sent unencrypted (insecure: true in site.yaml)."
            for _, one in self.keyed()
            if one.in_the_clear
        ]
