"""Reports as files: ``acceptance.json``, ``.md`` and ``.html`` of a folder, and the waivers of a site."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cutover.core import files, yaml_aliases
from cutover.core.errors import WrongUsage
from cutover.report.html import page
from cutover.report.markdown import markdown
from cutover.report.model import FORMAT, PLACES, Criterion, Evidence, Report, Run, Waiver


def write(report: Report, folder: Path) -> list[Path]:
    """Write the three files into a folder, which is made where it is missing; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "acceptance.json": json.dumps(report.data(), indent=1, ensure_ascii=False) + "\n",
        "acceptance.md": markdown(report),
        "acceptance.html": page(report),
    }
    for name, text in texts.items():
        files.replace(folder / name, text, files.PUBLIC)
    return [folder / name for name in texts]


def read(path: Path) -> Report:
    """The report of a folder, or of an ``acceptance.json``. :class:`WrongUsage` where it is not one."""
    file = path / "acceptance.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise WrongUsage(f"{file} has format {data['format']}; this version reads format {FORMAT}.")
        criteria = [Criterion(c["id"], c["chapter"], c["sentence"], c["of_plan"]) for c in data["criteria"]]
        runs = [Run(**(r | {"evidence": [Evidence(**e) for e in r["evidence"]]})) for r in data["runs"]]
        waivers = [Waiver(**(w | {"until": date.fromisoformat(w["until"])})) for w in data["waivers"]]
    except OSError as error:
        raise WrongUsage(
            f"There is no report at {path}: {error.strerror}.", "Name folders that --report or `report` wrote."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise WrongUsage(f"{file} is not a report of this tool ({type(error).__name__}: {error}).") from None
    if any(r.place not in PLACES for r in runs):
        raise WrongUsage(f"{file} names a place that is not one of {', '.join(PLACES)}.")
    return Report(criteria, runs, waivers)


def waivers_of(path: Path, criteria: Iterable[str]) -> list[Waiver]:
    """The waivers of a file; none where there is no file. :class:`WrongUsage` names the line of a mistake.

    A list of ``{criterion, reason, until, by}``: the day as ``2027-01-31``; ``by`` may be left out.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{path} cannot be read: {error}.") from None
    if yaml_aliases.say_too_much(text):
        raise WrongUsage(f"{path}:1: {yaml_aliases.SAID}.", "Write out what they stand for.")
    try:
        tree = YAML(typ="rt").load(text)
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise WrongUsage(f"{path}:{mark.line + 1 if mark else 1}: this is not YAML.") from None
    if tree is None:
        return []
    if not isinstance(tree, list):
        raise WrongUsage(f"{path}:1: expected a list of waivers, each with criterion, reason and until.")
    known = list(criteria)
    found: list[Waiver] = []
    for at, one in enumerate(tree):
        line = f"{path}:{tree.lc.item(at)[0] + 1}"  # type: ignore[attr-defined]
        needed = {"criterion", "reason", "until"}
        if not isinstance(one, dict) or not needed <= set(one) <= needed | {"by"}:
            raise WrongUsage(f"{line}: a waiver has criterion, reason, until and, where wanted, by; nothing else.")
        if one["criterion"] not in known:
            raise WrongUsage(f"{line}: there is no criterion {one['criterion']!r}.")
        if not isinstance(one["until"], date) or isinstance(one["until"], datetime):
            raise WrongUsage(f"{line}: until has to be a day, as 2027-01-31; a waiver without an end would be forgotten.")
        if not str(one["reason"] or "").strip():
            raise WrongUsage(f"{line}: a waiver needs a reason.")
        if any(w.criterion == one["criterion"] for w in found):
            raise WrongUsage(f"{line}: {one['criterion']} is waived twice.")
        found.append(Waiver(str(one["criterion"]), str(one["reason"]).strip(), one["until"], str(one.get("by") or "").strip()))
    return found
