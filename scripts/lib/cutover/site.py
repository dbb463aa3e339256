"""The site: every fact of ``site.yaml``, checked before anything is contacted.

All mistakes are reported at once, each with file and line, what was expected and what was found. Addresses, ports,
ids, sizes, paths and limits come from here and from nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cutover.errors import WrongUsage


def _url(value: str) -> str:
    parts = urlsplit(value)
    try:
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        raise ValueError("an address such as http://10.0.0.152:6333, without user, query or fragment")
    return value.rstrip("/")


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path")
    return value


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("a SHA-256 fingerprint: 64 hexadecimal digits, colons allowed")
    return plain


def _pinned(value: str) -> str:
    if not re.fullmatch(r"[^\s@]+:[^\s@:/]+@sha256:[0-9a-f]{64}", value):
        raise ValueError("an image pinned by tag and digest: name:tag@sha256:<64 hexadecimal digits>")
    return value


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", value) or re.fullmatch(r"[0-9.]+", value):  # fmt: skip # noqa: E501
            raise ValueError("an IP address or a host name") from None
    return value


Url = Annotated[str, AfterValidator(_url)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
PinnedImage = Annotated[str, AfterValidator(_pinned)]
Host = Annotated[str, AfterValidator(_host)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62})$")]
Vmid = Annotated[int, Field(ge=100, le=999_999_999)]
Duration = Annotated[str, Field(pattern=r"^(\d+h)?(\d+m)?(\d+s)?$", min_length=2)]


class Part(BaseModel):
    """A part of site.yaml: unknown fields are mistakes, values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Storages(Part):
    """Proxmox storages by what they are used for."""

    backup: Name
    restore: Name


class Proxmox(Part):
    """The Proxmox host."""

    url: Url
    node: Name
    ca_file: str | None = None
    fingerprint: Fingerprint | None = None
    storages: Storages
    scratch_vmid: Vmid


class Guest(Part):
    """A guest of the Proxmox host."""

    vmid: Vmid
    kind: Literal["lxc", "vm"]
    name: Name
    address: Host

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

    disk: Annotated[str, Field(pattern=r"^(scsi|virtio|sata|ide)\d+$")]
    mount_point: AbsolutePath
    before: Sizes
    after: Sizes


class Qdrant(Part):
    """Both Qdrant servers, and the address that applications use."""

    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    image: PinnedImage
    old_url: Url
    new_url: Url
    public_url: Url


class Nginx(Part):
    """Nginx on its host. ``shell`` is the argument prefix that gives a shell there; empty means this machine."""

    shell: list[str]
    binary: str
    main_config: AbsolutePath
    http_folder: AbsolutePath
    server_file: AbsolutePath
    gate_folder: AbsolutePath
    worker_user: Name
    reload: Annotated[list[str], Field(min_length=1)]


class AutoUpdate(Part):
    """How Portainer learns of a merge."""

    mode: Literal["polling", "webhook", "none"]
    interval: Duration = "5m"


class Portainer(Part):
    """Portainer and the Git stack that it runs."""

    url: Url
    ca_file: str | None = None
    fingerprint: Fingerprint | None = None
    environment: str
    stack: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    repository: Url
    reference: Annotated[str, Field(pattern=r"^refs/(heads|tags)/.+$")]
    compose_file: Annotated[str, Field(pattern=r"^[^/].*\.ya?ml$")]
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


class Pihole(Part):
    """Pi-hole v6 through its API."""

    kind: Literal["pihole"]
    url: Url
    ca_file: str | None = None


class Adguard(Part):
    """AdGuard Home through its API."""

    kind: Literal["adguard"]
    url: Url
    ca_file: str | None = None


class ReportOnly(Part):
    """A name server that is changed by hand; the tool only says what should go."""

    kind: Literal["report"]
    server: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 53


DnsProvider = Annotated[Rfc2136 | Pihole | Adguard | ReportOnly, Field(discriminator="kind")]


class Limits(Part):
    """Numbers that both the commands and the criteria use. Seconds, MiB, GiB and hours, as the names say."""

    hold_seconds: Annotated[float, Field(gt=0, le=1.4)]  # the gate itself answers 503 after about 1.4 s
    round_seconds: Annotated[float, Field(gt=0)]
    memory_reserve_mb: Annotated[int, Field(ge=0)]
    disk_reserve_gb: Annotated[int, Field(ge=0)]
    overcommit: Annotated[float, Field(gt=0)]
    bypass_watch_seconds: Annotated[float, Field(gt=0)]
    soak_hours: Annotated[float, Field(ge=0)]
    reboot_seconds: Annotated[float, Field(gt=0)]
    deploy_seconds: Annotated[float, Field(gt=0)]


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


@dataclass(frozen=True)
class Mistake:
    """One mistake in a site file."""

    file: Path
    line: int
    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.where}: {self.sentence}"


class WrongSite(WrongUsage):
    """site.yaml has mistakes; ``mistakes`` lists all of them."""

    def __init__(self, file: Path, mistakes: Sequence[Mistake]) -> None:
        count = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{file} has {count}:\n" + "\n".join(f"  {m}" for m in mistakes))
        self.mistakes = list(mistakes)


def load(path: Path) -> Site:
    """Read and check a site file. :class:`WrongSite` with every mistake; nothing is contacted."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WrongUsage(f"{path} cannot be read: {reason}.", "Name your site file with --site.") from None
    return parse(text, path)


def parse(text: str, path: Path = Path("site.yaml")) -> Site:
    """Check the text of a site file; ``path`` is what mistakes are reported against."""
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        said = " ".join(str(error.problem or error).split("\n")[0].split())
        raise WrongSite(path, [Mistake(path, line, "YAML", said)]) from None
    except TypeError:  # ruamel says that a mapping or list is not hashable, and not where
        raise WrongSite(path, [Mistake(path, 1, "YAML", "a list or a group of fields stands where a name should")]) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise WrongSite(path, [Mistake(path, 1, "YAML", str(error).split("\n")[0])]) from None
    if not isinstance(tree, CommentedMap):
        raise WrongSite(path, [Mistake(path, 1, "file", "expected the parts of a site (name, proxmox, guests, ...)")])
    mistakes: list[Mistake] = []
    site: Site | None = None
    try:
        site = Site.model_validate(_plain(tree))
    except ValidationError as error:
        for problem in error.errors():
            where = [part for part in problem["loc"] if part not in {"rfc2136", "pihole", "adguard", "report"}]
            mistakes.append(Mistake(path, _line(tree, where), _dotted(where) or "file", _sentence(problem)))
    if site is None:
        # Facts that need several fields are looked at even when others are wrong, so that all mistakes come at once.
        mistakes += [Mistake(path, _line(tree, w), _dotted(w), s) for w, s in _contradictions_in(tree)]
    else:
        mistakes += [Mistake(path, _line(tree, w), _dotted(w), s) for w, s in contradictions(site)]
    if site is None or mistakes:
        raise WrongSite(path, sorted(mistakes, key=lambda m: m.line))
    return site


Where = Sequence[str | int]


def contradictions(site: Site) -> Iterable[tuple[Where, str]]:
    """Mistakes that only show when fields are compared: (where, sentence)."""
    yield from _shrinks(site.resize.before.model_dump(), site.resize.after.model_dump())
    guests = [(("guests", role), getattr(site.guests, role)) for role in ("nginx", "vllm", "old", "new")]
    guests += [(("guests", "legacy", i), guest) for i, guest in enumerate(site.guests.legacy)]  # type: ignore[misc]
    yield from _twice([((*where, "vmid"), guest.vmid, f"the id {guest.vmid}") for where, guest in guests])
    yield from _twice([((*where, "address"), guest.address, f"the address {guest.address}") for where, guest in guests])
    if site.proxmox.scratch_vmid in {guest.vmid for _, guest in guests}:
        yield (
            ("proxmox", "scratch_vmid"),
            f"{site.proxmox.scratch_vmid} is a guest of the plan; the test restore needs a free id",
        )
    for role, url in (("old", site.qdrant.old_url), ("new", site.qdrant.new_url)):
        guest = getattr(site.guests, role)
        if urlsplit(url).hostname != guest.address:
            yield ("qdrant", f"{role}_url"), f"{url} is not on {guest}, whose address is {guest.address}"
    if site.guests.old.kind != "lxc":
        yield ("guests", "old", "kind"), "the old server has to be an LXC"
    if site.guests.new.kind != "vm":
        yield ("guests", "new", "kind"), "the new server has to be a VM"
    tag = site.qdrant.image.split("@")[0].rsplit(":", 1)[1]
    if tag.removeprefix("v").removesuffix("-unprivileged") != site.qdrant.version:
        yield ("qdrant", "image"), f"the tag {tag} is not version {site.qdrant.version}"
    for part in ("proxmox", "portainer"):
        settings = getattr(site, part)
        if settings.ca_file and settings.fingerprint:
            yield (part, "fingerprint"), "give either ca_file or fingerprint, not both"
    if not Path(site.nginx.server_file).suffix:
        yield ("nginx", "server_file"), "expected a file, such as /etc/nginx/conf.d/qdrant.conf"


def _shrinks(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[tuple[Where, str]]:
    for size, unit in (("cores", "cores"), ("memory_mb", "MB"), ("disk_gb", "GB")):
        old, new = before.get(size), after.get(size)
        if isinstance(old, int) and isinstance(new, int) and new < old:
            why = " (a disk can only grow)" if size == "disk_gb" else ""
            yield ("resize", "after", size), f"{new} {unit} is less than the {old} {unit} of `before`{why}"


def _twice(facts: Iterable[tuple[Where, object, str]]) -> Iterable[tuple[Where, str]]:
    seen: dict[object, Where] = {}
    for where, value, said in facts:
        if value in seen:
            yield where, f"{said} is already that of {_dotted(seen[value][:-1])}"
        else:
            seen[value] = where


def _contradictions_in(tree: CommentedMap) -> Iterable[tuple[Where, str]]:
    """As much of :func:`contradictions` as a broken file allows."""
    sizes = [tree.get("resize", {}).get(k) if isinstance(tree.get("resize"), CommentedMap) else None for k in ("before", "after")]
    if all(isinstance(size, CommentedMap) for size in sizes):
        yield from _shrinks(sizes[0], sizes[1])  # type: ignore[arg-type]
    guests = tree.get("guests")
    if not isinstance(guests, CommentedMap):
        return
    found: list[tuple[Where, CommentedMap]] = [
        (("guests", role), guest) for role, guest in guests.items() if isinstance(guest, CommentedMap)
    ]
    legacy = guests.get("legacy")
    if isinstance(legacy, CommentedSeq):
        found += [(("guests", "legacy", i), guest) for i, guest in enumerate(legacy) if isinstance(guest, CommentedMap)]
    for key, said in (("vmid", "the id"), ("address", "the address")):
        values = [((*w, key), g[key], f"{said} {g[key]}") for w, g in found if isinstance(g.get(key), (int, str))]
        yield from _twice(values)


_EXPECTED = {
    "missing": "is missing",
    "extra_forbidden": "is not a field of site.yaml; look for a typing mistake",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "model_type": "expected a group of fields",
    "model_attributes_type": "expected a group of fields",
    "union_tag_not_found": "is missing its `kind`",
}


def _sentence(problem: Any) -> str:
    kind, found, context = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind in {"missing", "extra_forbidden", "union_tag_not_found"}:
        return _EXPECTED[kind]
    shown = _shown(found)
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, found {shown}"
    if kind == "value_error":
        return f"expected {context['error']}, found {shown}"
    if kind == "union_tag_invalid":
        return f"expected `kind` to be one of {context['expected_tags']}, found {context['tag']!r}"
    said = str(problem["msg"]).removeprefix("Input should be ").removeprefix("String should ").removeprefix("List should ")
    return f"expected {said}, found {shown}"


def _shown(found: object) -> str:
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(where: Where) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")


def _line(tree: Any, where: Where) -> int:
    """The 1-based line of a field; of the group it should be in, where the field is missing."""
    line = 1
    node = tree
    for part in where:
        try:
            if isinstance(node, CommentedMap) and part in node:
                line = node.lc.key(part)[0] + 1
            elif isinstance(node, CommentedSeq) and isinstance(part, int):
                line = node.lc.item(part)[0] + 1
            else:
                break
            node = node[part]
        except (KeyError, IndexError, TypeError, AttributeError):
            break
    return line


def _plain(node: Any) -> Any:
    """The tree as plain Python values: ruamel's number and text types would fail pydantic's strict mode."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int):
        return int(node)
    if isinstance(node, float):
        return float(node)
    return str(node) if isinstance(node, str) else node
