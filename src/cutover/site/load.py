"""Reading ``site.yaml``: every mistake at once, each with its line, before anything is contacted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cutover.core import yaml_aliases
from cutover.core.errors import WrongUsage
from cutover.core.text import without_login
from cutover.site.schema import Site, Where, host, is_ip, netloc


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
        raise WrongUsage(
            f"{path} cannot be read: {reason}.", "Name your site file with --site, or let `cutover init` write one."
        ) from None
    return parse(text, path)


def parse(text: str, path: Path = Path("site.yaml")) -> Site:
    """Check the text of a site file; ``path`` is what mistakes are reported against."""
    if yaml_aliases.say_too_much(text):
        raise WrongSite(path, [Mistake(path, 1, "YAML", f"{yaml_aliases.SAID}: write out what they stand for")])
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        said = " ".join(str(error.problem or error).split("\n")[0].split())
        if said.startswith("but ") and error.context:  # its context is the first half of the sentence
            said = f"{error.context}, {said}"
        if r"'\t'" in said:
            said = "a tab stands where YAML takes only spaces"
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
        site = Site.model_validate(_plain(tree), context={"folder": path.absolute().parent})
    except ValidationError as error:
        for problem in error.errors():
            where = [part for part in problem["loc"] if part not in {"rfc2136", "pihole", "adguard", "report"}]
            mistakes.append(Mistake(path, _line(tree, where), _dotted(where) or "file", _sentence(problem)))
    # Facts that need several fields are looked at even when others are wrong, so that all mistakes come at once.
    between = _contradictions_in(tree) if site is None else contradictions(site)
    mistakes += [Mistake(path, _line(tree, where), _dotted(where), said) for where, said in between]
    if site is None or mistakes:
        raise WrongSite(path, sorted(mistakes, key=lambda m: m.line))
    return site


def contradictions(site: Site) -> Iterable[tuple[Where, str]]:
    """Mistakes that only show when fields are compared: (where, sentence)."""
    yield from _shrinks(site.resize.before.model_dump(), site.resize.after.model_dump())
    guests = [(("guests", role), getattr(site.guests, role)) for role in ("nginx", "vllm", "old", "new")]
    guests += [(("guests", "legacy", i), guest) for i, guest in enumerate(site.guests.legacy)]  # type: ignore[misc]
    yield from _twice([((*where, "vmid"), guest.vmid, f"the id {guest.vmid}") for where, guest in guests])
    yield from _twice([((*where, "address"), guest.address, f"the address {guest.address}") for where, guest in guests])
    going = {guest.name for guest in site.guests.to_decommission()}  # typed before a guest is deleted
    yield from _twice(
        [((*where, "name"), guest.name, f"the name {guest.name}") for where, guest in guests if guest.name in going]
    )
    if site.proxmox.scratch_vmid in {guest.vmid for _, guest in guests}:
        yield (
            ("proxmox", "scratch_vmid"),
            f"{site.proxmox.scratch_vmid} is a guest of the plan; the test restore needs a free id",
        )
    for role, url in (("old", site.qdrant.old_url), ("new", site.qdrant.new_url)):
        guest = getattr(site.guests, role)
        if host(urlsplit(url).hostname or "") != guest.address:
            yield ("qdrant", f"{role}_url"), f"{url} is not on {guest}, whose address is {guest.address}"
        if netloc(url) == netloc(site.qdrant.public_url):
            yield ("qdrant", "public_url"), f"{url} is the {role} server's own; what applications use has to go through Nginx"
    if site.guests.old.kind != "lxc":
        yield ("guests", "old", "kind"), "the old server has to be an LXC"
    if site.guests.new.kind != "vm":
        yield ("guests", "new", "kind"), "the new server has to be a VM"
    if not is_ip(site.guests.new.address):
        yield ("guests", "new", "address"), "expected an IP address: the stack publishes Qdrant's port on it, and that needs one"
    tag = site.qdrant.image.split("@")[0].rsplit(":", 1)[1]
    if tag.removeprefix("v").removesuffix("-unprivileged") != site.qdrant.version:
        yield ("qdrant", "image"), f"the tag {tag} is not version {site.qdrant.version}"
    for part in ("proxmox", "portainer", "qdrant"):
        settings = getattr(site, part)
        if settings.ca_file and settings.fingerprint:
            yield (part, "fingerprint"), "give either ca_file or fingerprint, not both"
    for where, server in site.keyed():
        if server.in_the_clear and not server.insecure:
            said = f"{server.url} is not https, so everybody on the way could read its key"
            yield (*where, "url"), f"{said}; write https, or beside it insecure: true where that is meant"
        if server.insecure and not server.in_the_clear:
            yield (*where, "insecure"), f"{server.url} is https; leave `insecure` out"
    nginx = site.nginx
    if nginx.gate_address in {netloc(site.qdrant.old_url), netloc(site.qdrant.new_url)}:
        yield ("nginx", "gate_address"), f"{nginx.gate_address} is a server of the plan; the gate needs an address of its own"
    for name in ("http_folder", "main_config"):
        path = getattr(nginx, name)
        if nginx.gate_folder in {path, *map(str, Path(path).parents)}:
            is_ = "is" if nginx.gate_folder == path else "holds"
            yield ("nginx", "gate_folder"), f"{nginx.gate_folder} {is_} nginx.{name}; the gate needs a folder of its own"
            break


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
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "too_short": "expected at least one entry",
    "model_type": "expected a group of fields",
    "model_attributes_type": "expected a group of fields",
    "union_tag_not_found": "is missing its `kind`",
}


def _sentence(problem: Any) -> str:
    kind, found, context = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"is not a field of site.yaml; {_near(str(problem['loc'][-1]))}"
    if kind in {"missing", "union_tag_not_found"}:
        return _EXPECTED[kind]
    shown = _shown(found)
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, found {shown}{_instead(kind, found)}"
    if kind == "value_error":
        return f"expected {context['error']}, found {shown}"
    if kind == "union_tag_invalid":
        return f"expected `kind` to be one of {context['expected_tags']}, found {context['tag']!r}"
    said = str(problem["msg"]).removeprefix("Input should be ")
    if kind.startswith(("greater_than", "less_than")):
        said = f"a number {said}"
    return f"expected {said}, found {shown}"


def _near(name: str) -> str:
    """What may have been meant by a name that no field has."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), sorted(_fields(Site)), n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else "look for a typing mistake"


def _fields(part: type[BaseModel]) -> set[str]:
    """The names of all fields in a part and those below it."""
    below = {one for field in part.model_fields.values() for one in _parts(field.annotation)}
    return {*part.model_fields}.union(*map(_fields, below))


def _parts(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _instead(kind: str, found: object) -> str:
    """How the same value is written so that it is taken."""
    if kind in {"int_type", "float_type"} and isinstance(found, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", found):
        return ": write it without quotes"
    if kind == "string_type" and isinstance(found, bool | int | float):
        return ": write it in quotes"
    if kind == "list_type" and isinstance(found, str):
        return f": write [{', '.join(without_login(found).split())}]"
    if found is None:
        return ": fill it in, or let `cutover init` find it out"
    return ""


def _shown(found: object) -> str:
    if found is None:
        return "nothing"
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, TaggedScalar):
        return f"a value with the tag {found.tag.value}"
    text = without_login(repr(found))  # a password in an address is a mistake, and the sentence may go into a log
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
