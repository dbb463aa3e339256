"""The recorded terminal of the README: real commands against a lab, as an SVG: ``PYTHONPATH=.:src python -m tools.picture``.

What is shown is what the commands printed; only the lab's addresses and folders are those of that run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lab.lab import ROOT, Lab, new_folder
from lab.operator import Operator

PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS = 110
#: What is shown, and between them what is done without being shown.
SHOWN: Sequence[Sequence[str]] = (["switch"], ["switch", "--execute"], ["status"], ["back", "--execute"])
BEFORE = ("deploy", "gate", "copy")


def said(lab: Lab, words: Sequence[str]) -> str:
    """What a command printed, with its colours, as on a terminal of this width."""
    env = os.environ | lab.env | {
        "CUTOVER_SITE": str(lab.site_file), "CUTOVER_STATE_DIR": str(lab.state_dir), "PYTHONPATH": str(ROOT / "src"),
        "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "cutover", *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"cutover {' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def main() -> int:
    """Write the picture."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w", encoding="utf-8"), force_terminal=True)  # noqa: SIM115
    with tempfile.TemporaryDirectory(prefix="cutover-") as parent:
        Path(parent).chmod(0o755)
        with Lab(new_folder(Path(parent))) as lab:
            operator = Operator(lab)
            for step in BEFORE:
                operator.does(step)
            for words in SHOWN:
                console.print(Text.assemble(("$ ", "green"), (f"cutover {' '.join(words)}", "bold")))
                console.print(Text.from_ansi(said(lab, words)))
    svg = console.export_svg(title="cutover", unique_id="terminal")
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")  # it fetches nothing
    print(f"Written: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
