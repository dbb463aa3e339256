"""The command line: thin on purpose. It loads the site, makes a run, calls one function, prints, and exits.

Exit codes: 0 done or nothing to do; 1 a check failed or was refused, nothing changed; 2 wrong usage or site.yaml; 3 something
changed, then it failed (run it again); 4 the outcome is unknown (look first).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cutover import __version__, checks, plan, rights, verbs
from cutover.checks import Check, Finding, Moment
from cutover.console import Asking, Terminal
from cutover.errors import CutoverError, Refused
from cutover.journal import Journal
from cutover.phases import Sentence
from cutover.run import Run
from cutover.secrets import NAMES, Secrets
from cutover.site import load

app = typer.Typer(
    name="cutover",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Move Qdrant to another host behind Nginx, prove it, and be able to go back. Nothing changes without --execute.",
    epilog="Exit codes: 0 done or nothing to do; 1 refused or not met, nothing changed; 2 wrong usage or site.yaml; "
    "3 something changed, then it failed: run it again; 4 outcome unknown: look first.",
)

SiteFile = Annotated[Path, typer.Option("--site", help="The site file.", envvar="CUTOVER_SITE", show_default=True)]
StateDir = Annotated[
    Path, typer.Option("--state-dir", help="Where the journal and records of this site are kept.", envvar="CUTOVER_STATE_DIR")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Execute = Annotated[bool, typer.Option("--execute", help="Really do it. Without this, the plan is shown.")]
Yes = Annotated[bool, typer.Option("--yes", help="Agree in advance to what is only asked with yes or no.")]
YesDestroy = Annotated[
    list[str] | None,
    typer.Option("--yes-destroy", metavar="NAME", help="Agree in advance to lose what has this name. Can be repeated."),
]
SITE = Path("site.yaml")
STATE = Path(".state")


@dataclass
class Page:
    """What one command prints: for people on stdout, or everything as one JSON object."""

    terminal: Terminal
    as_json: bool
    out: Console
    data: dict[str, Any]

    def line(self, text: str = "", style: str = "", *, indent: int = 0, mark: str = "") -> None:
        """One line for people, after a ``mark``; on a terminal what wraps stays indented, in a pipe a line is a line."""
        if self.as_json:
            return
        shown = Text.from_markup(self.terminal.shown(text), style=style)
        if self.out.is_terminal and mark:
            hanging = Table.grid(padding=(0, 1, 0, 0))
            hanging.add_column(no_wrap=True)
            hanging.add_column(overflow="fold")  # a digest is shown whole
            hanging.add_row(Text(mark, style=style), shown)
            self.out.print(Padding(hanging, (0, 0, 0, indent)))
        elif self.out.is_terminal:
            self.out.print(Padding(shown, (0, 0, 0, indent)))
        else:
            self.out.print(" " * indent, f"{mark} " if mark else "", shown, sep="")


def _guarded(
    verb: str,
    site_file: Path,
    state_dir: Path,
    as_json: bool,
    work: Callable[[Run, Page], int],
    *,
    execute: bool = False,
    yes: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Run ``work`` with a run for the site; every outcome becomes a sentence and an exit code, never a traceback."""
    secrets = Secrets.from_env()
    terminal = Terminal(secrets, quiet=as_json)
    page = Page(
        terminal, as_json, Console(highlight=False, soft_wrap=not sys.stdout.isatty()), {"verb": verb, "executed": execute}
    )
    run: Run | None = None
    try:
        site = load(site_file)
        page.data["site"] = site.name
        consent = Asking(terminal, *names, yes=yes)
        run = Run(site, secrets, state_dir, execute=execute, voice=terminal, consent=consent)
        code = work(run, page)
    except CutoverError as error:
        code = error.exit_code
        page.data["error"] = {"sentence": secrets.redact(error.sentence), "hint": secrets.redact(error.hint)}
        terminal.err.print(f"[b red]{_word(code)}[/b red] {terminal.shown(error.sentence)}")
        if error.hint:
            terminal.err.print(terminal.shown(error.hint))
    except KeyboardInterrupt:
        code = 3 if execute else 1
        said = "Stopped. What was being done is in the journal; run the same command again to go on, or look at `status`."
        page.data["error"] = {"sentence": said if execute else "Stopped; nothing was changed.", "hint": ""}
        terminal.err.print(page.data["error"]["sentence"])
    finally:
        if run is not None:
            with suppress(CutoverError):
                run.close()
    if as_json:
        page.data["exit_code"] = code
        data = secrets.redact_tree(json.loads(json.dumps(page.data, default=str)))
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
    raise typer.Exit(code)


def _word(code: int) -> str:
    return {1: "Refused:", 2: "Not started:", 3: "Failed on the way:", 4: "Outcome unknown:"}.get(code, "Failed:")


def _show_plan(page: Page, sentences: Sequence[Sentence]) -> None:
    page.data["plan"] = [asdict(s) for s in sentences]
    if not sentences:
        page.line("Nothing to do: it is already so.")
        return
    for number, sentence in enumerate(sentences, start=1):
        page.line(sentence.text, indent=2, mark=f"{number}.")
        if sentence.changes:
            page.line(sentence.changes, "yellow", indent=5, mark="changes:")
        if sentence.undo:
            page.line(sentence.undo, "dim", indent=5, mark="undone: ")


def _do(verb: str, run: Run, page: Page, *, undo: bool = False) -> int:
    name = f"undo {verb}" if undo else verb
    if not run.execute:
        module = verbs.phase(verb)
        if not undo and hasattr(module, "overview"):
            page.data["overview"] = module.overview(run)
            for row in page.data["overview"].get("table", ()):
                waits = f", {row['pending']} waits for the next start" if row["pending"] != row["now"] else ""
                page.line(f"{row['what']:<18} now {row['now']:>6}   wanted {row['wanted']:>6}{waits}", indent=2)
        sentences = verbs.plan(verb, run, undo=undo)
        page.line(f"What `{name}` would do on {run.site.name}:", "b")
        _show_plan(page, sentences)
        if sentences:
            page.line()
            page.line("Nothing was changed. Add --execute to do it.")
        return 0
    result = verbs.carry_out(verb, run, undo=undo)
    page.data["plan"] = [asdict(s) for s in result.plan]
    if result.outcome is not None:
        page.data["outcome"] = asdict(result.outcome)
        for sentence in result.outcome.sentences:
            page.line(f"✔ {sentence}", "green")
        if result.outcome.undo:
            page.line(f"Way back: {result.outcome.undo}", "dim")
    return 0


def _phase_command(verb: str) -> Callable[..., None]:
    def command(
        site: SiteFile = SITE,
        state_dir: StateDir = STATE,
        execute: Execute = False,
        yes: Yes = False,
        yes_destroy: YesDestroy = None,
        as_json: AsJson = False,
    ) -> None:
        names = yes_destroy or []
        work = lambda run, page: _do(verb, run, page)  # noqa: E731
        _guarded(verb, site, state_dir, as_json, work, execute=execute, yes=yes, names=names)

    return command


_HELP = {
    "backup": "Snapshots of the data and a backup of the old guest, proved by a test restore.",
    "resize": "Give the new VM its cores, memory and disk, and prove it from inside the guest.",
    "deploy": "Let Portainer run the stack from Git, and prove what runs.",
    "gate": "Put the gate into Nginx: traffic stays where it is.",
    "copy": "Copy everything to the new server and keep up with what is written.",
    "switch": "Move the traffic to the new server.",
    "follow": "Bring the server that does not serve up to date, once; every move does it by itself.",
    "back": "Move the traffic back to the old server, with everything written since.",
    "finish": "Give up the way back on purpose; the old server is no longer fed.",
    "settle": "Take the gate out for good, after finish: Nginx asks the new server by itself.",
    "decommission": "Give back the old guests with their firewall rules and DNS entries.",
    "restore": "Bring the old guest back from its backup, where nothing else helps: what was written since is lost.",
    "rollback": "Roll the new VM back to a snapshot from before its disk grew: what was written since is lost.",
}

for _verb in verbs.PHASES:
    app.command(_verb, help=_HELP[_verb])(_phase_command(_verb))


@app.command("undo", help="Undo a step: resize, deploy, gate, copy, or what decommission took out of firewall and DNS.")
def undo_command(
    step: Annotated[str, typer.Argument(help="The step to undo.")],
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    execute: Execute = False,
    yes: Yes = False,
    yes_destroy: YesDestroy = None,
    as_json: AsJson = False,
) -> None:
    """Undo one step."""
    work = lambda run, page: _do(step, run, page, undo=True)  # noqa: E731
    _guarded(f"undo {step}", site, state_dir, as_json, work, execute=execute, yes=yes, names=yes_destroy or [])


@app.command("plan", help="The whole move as numbered steps, with what is done.")
def plan_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Print the plan of the site. Contacts nothing."""

    def work(run: Run, page: Page) -> int:
        where = plan.position(run.site, Journal(run.state_dir, run.site.name))
        page.data["steps"] = [{**asdict(step), "done": at} for step, at in where]
        page.line(f"The plan for {run.site.name}", "b")
        for number, (step, at) in enumerate(where, start=1):
            page.line()
            page.line(
                f"{number:>2}. {step.title}  (cutover {step.verb})" + (f"  done {at}" if at else ""), "b green" if at else "b"
            )
            for name, text in (("", step.does), ("needs", step.needs), ("changes", step.changes), ("undone", step.undo)):
                page.line(f"{name + ': ' if name else ''}{text}", "" if not name else "dim", indent=4)
        return 0

    _guarded("plan", site, state_dir, as_json, work)


@app.command("check", help="Ask whether the criteria hold; changes nothing.")
def check_command(
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    moment: Annotated[Moment | None, typer.Option("--moment", help="Only the checks of this moment.")] = None,
    criterion: Annotated[list[str] | None, typer.Option("--criterion", help="Only this criterion; can be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the registered checks."""

    def work(run: Run, page: Page) -> int:
        found: list[tuple[Check, Finding]] = []
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for one in checks.registered():
            if (moment is not None and moment not in one.moments) or (criterion and one.criterion not in criterion):
                continue
            run.voice.say(f"{one.criterion} {one.title}")
            found.append((one, checks.ask(one, run)))
        if not criterion:
            found += _baseline(run, page, moment)
        for one, finding in found:
            mark, style = {True: ("✔", "green"), False: ("✘", "red"), None: ("?", "yellow")}[finding.ok]
            said = finding.sentence + (f"\n{finding.hint}" if finding.hint and finding.ok is not True else "")
            table.add_row(f"[{style}]{mark}[/{style}]", one.criterion, page.terminal.shown(said))
        page.data["checks"] = [{"criterion": one.criterion, "title": one.title, **asdict(finding)} for one, finding in found]
        if not as_json:
            page.out.print(table)
        unmet = sum(f.ok is False for _, f in found)
        open_ = sum(f.ok is None for _, f in found)
        page.line()
        page.line(f"{len(found) - unmet - open_} met, {unmet} not met, {open_} could not be evaluated.", "b")
        if "baseline" in page.data:
            page.line(page.data["baseline"])
        return 0 if found and not unmet and not open_ else 1

    _guarded("check", site, state_dir, as_json, work)


def _baseline(run: Run, page: Page, moment: Moment | None) -> list[tuple[Check, Finding]]:
    """Before the move, keep what there is; after it, compare with that."""
    from cutover import baseline

    if moment is Moment.BEFORE:
        try:
            kept = baseline.take(run)
        except Refused as error:
            page.data["baseline"] = f"No baseline was kept: {error}"
        else:
            left_out = "".join(f" Without {name}: {why}" for name, why in kept.missing.items())
            page.data["baseline"] = f"What there is was kept in {baseline.path_of(run)}, to compare with afterwards.{left_out}"
        return []
    if moment not in {Moment.AFTER, Moment.BEFORE_DELETING}:
        return []
    before = baseline.load(run)
    if before is None:
        page.data["baseline"] = "There is no baseline to compare with: `check --moment before` was not run on this state folder."
        return []
    page.data["baseline"] = f"Compared with {before.at}."
    return [(_compared(criterion, title, finding), finding) for criterion, title, finding in baseline.compare(run, before)]


def _compared(criterion: str, title: str, finding: Finding) -> Check:
    return Check(criterion, title, frozenset({Moment.AFTER}), lambda _: finding)


@app.command("report", help="Merge acceptance reports: the latest of the live site, the container lab and the embedded lab.")
def report_command(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders with an acceptance.json.")],
    into: Annotated[Path, typer.Option("--into", help="Where acceptance.html, .md and .json are written.")] = Path("acceptance"),
    waivers: Annotated[
        Path | None, typer.Option("--waivers", help="The waivers; default: waivers.yaml beside the site file.")
    ] = None,
    site: SiteFile = SITE,
    as_json: AsJson = False,
) -> None:
    """Contacts nothing."""
    from cutover import acceptance

    try:
        reports = [acceptance.read(folder) for folder in folders]
        known = {c.id for report in reports for c in report.criteria}
        merged = acceptance.merge(reports, acceptance.waivers_of(waivers or site.parent / "waivers.yaml", known))
        files = merged.write(into)
    except CutoverError as error:
        Console(stderr=True, highlight=False).print(f"[b red]{_word(error.exit_code)}[/b red] {escape(str(error))}")
        raise typer.Exit(error.exit_code) from None
    if as_json:
        typer.echo(json.dumps({"headline": merged.headline(), "summary": merged.summary(), "files": [str(f) for f in files]}))
    else:
        typer.echo(merged.headline())
        typer.echo(merged.summary())
        typer.echo(f"Written: {', '.join(map(str, files))}")
    unmet = any(row.verdict == "not met" and not row.waived for row in merged.rows())
    raise typer.Exit(1 if unmet else 0)


@app.command("status", help="Where the move is, what it waits for, and what you can do.")
def status_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Journal and a look at the world."""

    def work(run: Run, page: Page) -> int:
        from cutover import state

        status = state.status(run)
        page.data["status"] = asdict(status)
        for line in status.lines():
            page.line(line)
        return 0

    _guarded("status", site, state_dir, as_json, work)


@app.command("history", help="The journal, readable.")
def history_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Every act with its outcome."""

    def work(run: Run, page: Page) -> int:
        entries = Journal(run.state_dir, run.site.name).entries()
        page.data["entries"] = [asdict(e) for e in entries]
        words = {"intent": "…", "done": "✔", "failed": "✘", "unknown": "?", "note": "·", "opened": "·"}
        for e in entries:
            page.line(f"{e.at}  {words[e.kind]} {e.what}" + (f" ({e.reason})" if e.reason else ""))
        if not entries:
            page.line("Nothing has been done yet.")
        return 0

    _guarded("history", site, state_dir, as_json, work)


@app.command("rights", help="The commands that make one Proxmox token per step, with exactly the rights that it needs.")
def rights_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Prints commands for the Proxmox host's shell; runs nothing."""

    def work(run: Run, page: Page) -> int:
        page.data["commands"] = {step: rights.commands(run.site, step) for step in rights.STEPS}
        for step, commands in page.data["commands"].items():
            page.line(f"# {step}", "b")
            for command in commands:
                page.line(command)
        return 0

    _guarded("rights", site, state_dir, as_json, work)


@app.command("keys", help="Which keys this tool reads from the environment, and which are set.")
def keys_command() -> None:
    """Names only, never values."""
    secrets = Secrets.from_env()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, meaning in NAMES.items():
        table.add_row(name, "[green]set[/green]" if secrets.get(name) else "[dim]not set[/dim]", meaning)
    Console(highlight=False).print(table)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit(0)


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options before the verb."""
    del version
