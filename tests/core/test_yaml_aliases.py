"""A few lines of YAML that mean billions of values are refused at once, wherever this tool reads YAML that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cutover.cli import init
from cutover.core import yaml_aliases
from cutover.core.errors import CutoverError
from cutover.portainer import compose_file
from cutover.report import files
from cutover.site import load

ROOT = Path(__file__).parents[2]
LAUGHS = "x-a0: &a0 [x, x]\n" + "".join(f"x-a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
MERGED = "x-a0: &a0 {k0: 1}\n" + "".join(
    f"x-a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 20)}], k{n}: 1}}\n" for n in range(1, 30)
)
BOMBS = [LAUGHS, MERGED, "x: &a [*a]\n", "x: &a {b: *a}\n", "x: &a\n  ? *a\n  : 1\n", "&all\nname: *all\n"]
READ: dict[str, Callable[[Path], object]] = {
    "site": load.load,
    "stack": lambda file: compose_file.read(file.read_text(encoding="utf-8")),
    "waivers": lambda file: files.waivers_of(file, ["A1"]),
    "init": init.earlier,
}


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
@pytest.mark.parametrize("read", READ)
def test_a_bomb_is_a_sentence(bomb: str, read: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    shipped = {"site": "site.yaml", "init": "site.yaml", "stack": "stacks/qdrant/docker-compose.yml"}.get(read)
    file.write_text(bomb + ((ROOT / shipped).read_text(encoding="utf-8") if shipped else ""), encoding="utf-8")
    with pytest.raises(CutoverError, match="aliases"):
        READ[read](file)


@pytest.mark.parametrize(
    "text",
    ["a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}}\n", "a: &a {b: 1}\nc:\n  <<: *a\n  d: *a\n", "# *stars* in a comment\na: '*b'\n", "a: *nobody\n",
     "[" * 5000, "a: [\n", "", "a: &a x\nb: [" + ", ".join(["*a"] * 5000) + "]\n"],
)  # fmt: skip
def test_what_says_no_more_than_it_shows_is_read(text: str) -> None:
    assert not yaml_aliases.say_too_much(text)
