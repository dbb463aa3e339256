"""``cutover init``: asks three addresses at most, finds out the rest, and writes ``site.yaml``; never over another unasked."""

from __future__ import annotations

import difflib
import getpass
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cutover.cli.output import Output
from cutover.cli.terminal import AskingTerminal, Terminal
from cutover.core import files, yaml_aliases
from cutover.core.credentials import NAMES, Credentials
from cutover.core.errors import Refused, WrongUsage
from cutover.core.key_files import usable
from cutover.discovery import guests, survey
from cutover.discovery.facts import Found, differences, shown
from cutover.site.schema import in_url

OPTIONS = {"proxmox": "--proxmox", "nginx": "--nginx-shell", "portainer": "--portainer"}
#: Asked for at a terminal where the environment has none; Portainer's may be left out.
_ASKED = ("PROXMOX_TOKEN_ID", "PROXMOX_TOKEN_SECRET", "PORTAINER_API_KEY")


class AtTerminal:
    """The operator at the terminal; what the command line said is not asked again."""

    def __init__(self, terminal: Terminal, said: Mapping[str, str], trusted: Sequence[str]) -> None:
        self._terminal, self._said = terminal, said
        self._trusted = {one.replace(":", "").lower() for one in trusted}
        self.say = terminal.say

    def text(self, name: str, question: str, suggestion: str) -> str:
        """The option, the answer, or the suggestion where nobody is asked."""
        if self._said.get(name):
            return self._said[name]
        if sys.stdin.isatty():
            hint = f" [{suggestion}]" if suggestion else ""
            self._terminal.err.print(f"{self._terminal.shown(question + hint)}: ", end="")
            answer = sys.stdin.readline().strip() or suggestion
        else:
            answer = suggestion
        if not answer:
            raise WrongUsage(f"{question} was not said.", f"Give {OPTIONS[name]}, or answer at a terminal.")
        return answer

    def trust(self, url: str, fingerprint: str, tell: str) -> None:
        """Yes or no to a fingerprint, unless the command line has it."""
        if fingerprint.replace(":", "").lower() in self._trusted:
            return
        none = ", which is none of those after --trust" if self._trusted else ""
        unknown = f"{url} shows a certificate that no authority of this machine vouches for"
        said = f"{unknown}, with the fingerprint {fingerprint}{none}."
        if not sys.stdin.isatty():
            raise Refused(said, f"Compare it with {tell}, then give --trust {fingerprint}.")
        AskingTerminal(self._terminal, yes=False).to(f"{said} Compare it with: {tell}. Is it the same?")


def with_keys(output: Output) -> Credentials:
    """The keys of the environment, and at a terminal those that are missing there."""
    values = dict(output.credentials.values)
    for name in _ASKED:
        if not values.get(name) and sys.stdin.isatty():
            output.terminal.err.print(f"{output.terminal.shown(NAMES[name])} ({name}): ", end="")
            typed = ""
            with suppress(EOFError):
                typed = sys.stdin.readline().strip() if name.endswith("_ID") else getpass.getpass("")
            usable(name, typed, "the terminal")
            values |= {name: typed} if typed else {}
    return Credentials(values)


def earlier(file: Path) -> tuple[str, Mapping[str, Any]]:
    """Text and values of a file that is there; empty where none is. :class:`WrongUsage` where it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        if yaml_aliases.say_too_much(text):
            raise ValueError(yaml_aliases.SAID)
        tree = YAML(typ="safe").load(text)
    except FileNotFoundError:
        return "", {}
    except (OSError, UnicodeDecodeError, YAMLError, ValueError, TypeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise WrongUsage(f"{file} is there and cannot be read: {why}.", "Mend it, or name another with --site.") from None
    if not isinstance(tree, Mapping):
        raise WrongUsage(f"{file} is there and is no site file.", "Name another with --site.")
    return text, tree


def of_guests(said: Sequence[str]) -> dict[str, str]:
    """``old=952`` and the like. :class:`WrongUsage` for a part that the plan does not have."""
    roles = [*guests.PLAN, "legacy"]
    pairs = [one.partition("=") for one in said]
    for role, _, value in pairs:
        if role not in roles or (not value and role != "legacy"):
            raise WrongUsage(f"--guest {role} is not PART=ID or PART=NAME with one of {', '.join(roles)}.")
    return {role: value for role, _, value in pairs}


def run(
    output: Output,
    file: Path,
    said: Mapping[str, str],
    trusted: Sequence[str],
    named: Sequence[str],
    name_servers: Sequence[str],
    *,
    yes: bool,
) -> int:
    """Find out, show, write. 0 where it is written or was right, 1 where the operator does not want it."""
    text, tree = earlier(file)
    untouched = text == survey.template()  # of the plan's site, whose ids and addresses say nothing about this one
    wished = of_guests(named)
    output.use(with_keys(output))
    for name in ("PROXMOX_TOKEN_ID", "PROXMOX_TOKEN_SECRET"):
        output.credentials.need(name)
    wishes = survey.Wishes(wished, name_servers, said.get("repository", ""), {} if untouched else tree)
    answers = AtTerminal(output.terminal, said, trusted)
    found = survey.survey(answers, wishes, output.credentials, file.absolute().parent)
    output.data["found"] = [asdict(one) | {"where": one.name} for one in found.facts.values()]
    fresh = survey.fresh(found, f"{datetime.now(UTC):%Y-%m-%d}")
    if text:
        code = _over(output, file, text, found, tree, fresh if untouched else "", yes=yes)
    else:
        files.replace(file, fresh, mode=files.PUBLIC)
        told = [one for one in found.facts.values() if not one.gap]
        output.line(f"{file} is written: {len(told)} values were found out.", "b")
        code = 0
    _say_rest(output, file, found, wishes)
    return code


def _over(output: Output, file: Path, text: str, found: Found, tree: Mapping[str, Any], fresh: str = "", *, yes: bool) -> int:
    """Show the difference to a file that is there, and write it after a yes. ``fresh``: a whole new text in its place."""
    apart = differences(found, tree)
    output.data["differences"] = [{"where": one.fact.name, "written": one.written, "found": one.fact.value} for one in apart]
    if not apart and not fresh:
        output.line(f"{file} says what the servers say.", "green", mark="✔")
        return 0
    new = fresh or survey.changed(text, found, tree)
    for line in difflib.unified_diff(text.splitlines(), new.splitlines(), str(file), f"{file} (found)", lineterm="", n=1):
        output.line(line, {"+": "green", "-": "red"}.get(line[:1], "dim"))
    AskingTerminal(output.terminal, yes=yes).to(f"Write that into {file}?")
    there = file.read_bytes().decode(errors="replace")
    if there.replace("\r\n", "\n") != text:
        raise Refused(f"{file} was changed meanwhile.", "Run this again.")
    new = new.replace("\n", "\r\n") if "\r\n" in there else new
    files.replace(file.resolve(), new, mode=stat.S_IMODE(file.stat().st_mode))
    output.line(f"{file} is written.", "b")
    return 0


def _say_rest(output: Output, file: Path, found: Found, wishes: survey.Wishes) -> None:
    for note in found.notes:
        output.line(note, "yellow", mark="!")
    gaps = [gap for gap in found.gaps if wishes.said(*gap.where) is None]  # the operator may have filled them in
    for gap in gaps:
        output.line(f"{gap.name}: {gap.source}. This would tell: {gap.tell}", "yellow", mark="?")
    compose = file.absolute().parent / "stacks/qdrant/docker-compose.yml"
    new = found.get("guests.new")
    stack = compose.read_text(encoding="utf-8", errors="replace") if compose.is_file() else ""
    published = re.findall(r'- "?([\w.\[\]:]+):\d+:6333"?', stack)
    if new and published and in_url(new["address"]) not in published:
        said = f"{compose} publishes Qdrant on {shown(published)}; replace it by what `cutover stack` prints, and commit that."
        output.line(said, "yellow", mark="!")
    first = f"fill in what {file} marks with `GAP:`, then " if gaps else ""
    output.line(f"Next: {first}`cutover check --moment before`.")
