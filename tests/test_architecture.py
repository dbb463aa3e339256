"""The house is as ``docs/architecture.md`` says: its picture is drawn from today's imports, and no files import each other in a circle."""

from __future__ import annotations

from tools import architecture


def test_the_picture_is_of_today() -> None:
    text = architecture.PAGE.read_text(encoding="utf-8")
    assert architecture.page(text) == text, "run `python -m tools.architecture`"


def test_no_files_import_each_other_in_a_circle() -> None:
    assert architecture.circles() == []


def test_every_room_is_explained() -> None:
    text = architecture.PAGE.read_text(encoding="utf-8")
    table = text[text.index("## Rooms of") : text.index(architecture.BEGIN)]
    assert [room for room in architecture.edges() if f"`{room}`" not in table and not room.startswith("_")] == []
