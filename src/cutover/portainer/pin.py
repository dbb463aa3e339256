"""Pin a release of Qdrant: its version, tag and digest in site.yaml and in the compose file, which have to agree.

The digest is asked from the registry, through the Docker engine that will pull the image, so that a private registry, a mirror or
its credentials are those of the engine. Nothing else in the two files changes, comments included.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cutover.core import files
from cutover.core.errors import Refused
from cutover.portainer.client import Answered
from cutover.portainer.compose_file import Image
from cutover.qdrant import releases

if TYPE_CHECKING:
    from cutover.portainer.client import Portainer
    from cutover.site.schema import Site


@dataclass(frozen=True)
class Pin:
    """What pinning would write. ``files``: new text by path, only of files that change."""

    image: str
    files: Mapping[Path, str]
    warning: str


def prepare(site: Site, site_file: Path, version: str, portainer: Portainer) -> Pin:
    """Ask for the digest and make the new texts; writes nothing. :class:`Refused` where the release cannot be pinned."""
    if bad := releases.known_bad(version):
        raise Refused(bad, "Pin a newer one.")
    number = ".".join(map(str, releases.parts(version)))
    was = Image.parse(site.qdrant.image)
    tag = f"v{number}" + ("-unprivileged" if was.tag.endswith("-unprivileged") else "")
    try:
        digest = portainer.digest_of(f"{was.name}:{tag}")
    except Answered as error:
        raise Refused(f"The registry has no {was.name}:{tag}: {error.reason}.", "Pin a release that is published.") from None
    image = f"{was.name}:{tag}@{digest}"
    compose_file = site_file.resolve().parent / site.portainer.compose_file
    texts = {path: _read(path) for path in (site_file, compose_file)}
    changed = {
        site_file: _with_version(_with_image(texts[site_file], site_file, was.name, image), site_file, number),
        compose_file: _with_image(texts[compose_file], compose_file, was.name, image),
    }
    return Pin(image, {path: text for path, text in changed.items() if text != texts[path]}, releases.warning(number))


def write(pin: Pin) -> None:
    """Write both files, each whole or not at all. Killed in between, the same command again writes the other one."""
    for path, text in pin.files.items():
        files.replace(path.resolve(), text, mode=stat.S_IMODE(path.stat().st_mode))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # with the line ends that it has
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.", "Run this in a checkout that has both files.") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from None


def _with_image(text: str, path: Path, name: str, image: str) -> str:
    return _once(
        text, path, rf"(?m)^(\s*image:\s*)([\"']?){re.escape(name)}[:@][^\s\"'#]+", rf"\g<1>\g<2>{image}", f"image: {name}:..."
    )


def _with_version(text: str, path: Path, number: str) -> str:
    return _once(text, path, r"(?m)^(\s+version:\s*)([\"']?)\d+\.\d+\.\d+", rf"\g<1>\g<2>{number}", "version: ...")


def _once(text: str, path: Path, pattern: str, becomes: str, what: str) -> str:
    """Replace what has to be there once; :class:`Refused` where it is not."""
    found = len(re.findall(pattern, text))
    if found != 1:
        raise Refused(
            f"{path} has {'no line' if not found else f'{found} lines'} `{what}`, so it is not known which to change.",
            "Write version, tag and digest there by hand.",
        )
    return re.sub(pattern, becomes, text)
