"""The picture of the rooms in ``docs/architecture.md``, drawn from the imports.

``python -m tools.architecture`` writes it anew; a test compares. An arrow is an import of one room by another, those that only
types need included. Where an arrow can be left out because two others say the same, it is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: written by `python -m tools.architecture`, compared by a test -->", "<!-- end of rooms -->"
PACKAGES = ("cutover", "acceptance", "lab", "steps", "tests", "tools")


def edges(package: str = "cutover") -> dict[str, set[str]]:
    """room -> rooms that it imports, of the rooms (modules and packages) right below ``package``."""
    graph = grimp.build_graph(package, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        room = _room(module)
        found.setdefault(room, set())
        found[room] |= {_room(other) for other in graph.find_modules_directly_imported_by(module)} - {room}
    found.pop(package, None)
    return {room: others - {package} for room, others in found.items()}


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that go the same way by another room."""

    def reach(room: str, seen: frozenset[str] = frozenset()) -> set[str]:
        found: set[str] = set()
        for other in arrows.get(room, ()):
            if other not in seen:
                found |= {other} | reach(other, seen | {room})
        return found

    return {
        room: {other for other in others if not any(other in reach(between) for between in others - {other})}
        for room, others in arrows.items()
    }


def circles() -> list[str]:
    """Every pair of files of the project that import each other, by any number of steps, as a line each."""
    graph = grimp.build_graph(PACKAGES[0], *PACKAGES[1:], cache_dir=None)
    return [
        f"{module} -> {other} -> ... -> {module}"
        for module in sorted(graph.modules)
        for other in sorted(graph.find_modules_directly_imported_by(module))
        if graph.chain_exists(importer=other, imported=module)
    ]


def drawing() -> str:
    """The Mermaid graph."""
    arrows = reduced(edges())
    lines = [f"    {room} --> {other}" for room in sorted(arrows) for other in sorted(arrows[room])]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def page(text: str) -> str:
    """``text`` of the page with the picture drawn anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing()}\n{END}{after}"


def main() -> int:
    """Write the picture into the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
