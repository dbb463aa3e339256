"""The stack's compose file as it ships, with a site's address and image: what is committed to the site's repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cutover.site.schema import in_url

if TYPE_CHECKING:
    from cutover.site.schema import Site

_PACKAGE = Path(__file__).resolve().parents[1]
#: In the repository it stands where Portainer reads it; an installed package has a copy.
FILE = _PACKAGE / "shipped/docker-compose.yml"
FILE = FILE if FILE.is_file() else _PACKAGE.parents[1] / "stacks/qdrant/docker-compose.yml"


def compose_file(site: Site) -> str:
    """The file for this site. Only what ``site.yaml`` says is put in; comments and everything else stay."""
    address = in_url(site.guests.new.address)
    port = urlsplit(site.qdrant.new_url).port or 6333
    text = FILE.read_text(encoding="utf-8")
    text = re.sub(r'(?m)^(\s+- ")[\d.]+:\d+:6333"$', rf'\g<1>{address}:{port}:6333"', text, count=1)
    return re.sub(r"(?m)^(\s+image: )\S+$", rf"\g<1>{site.qdrant.image}", text, count=1)
