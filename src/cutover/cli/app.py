"""The command line: thin on purpose. It loads the site, makes a run, calls one function, prints, and exits.

Exit codes: 0 done or nothing to do; 1 a check failed or was refused, nothing changed; 2 wrong usage or site.yaml; 3 something
changed, then it failed (run it again); 4 the outcome is unknown (look first).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cutover import __version__, plan
from cutover.checks import registry as checks
from cutover.checks.registry import Check, Finding, Moment
from cutover.cli import steps
from cutover.cli.command import end, with_site
from cutover.cli.options import SITE, STATE, AsJson, Execute, SiteFile, StateDir, Yes, flag
from cutover.cli.output import Output
from cutover.cli.settings import Settings, exports
from cutover.context import Context
from cutover.core import files
from cutover.core.credentials import NAMES
from cutover.core.errors import Refused, WrongUsage
from cutover.core.journal import Journal, usable
from cutover.error_boundary import error_boundary
from cutover.proxmox import privileges
from cutover.site.load import load

app = typer.Typer(
    name="cutover",
    cls=steps.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Move Qdrant to another host behind Nginx, prove it, and be able to go back. Nothing changes without --execute.",
    epilog="Exit codes: 0 done or nothing to do; 1 refused or not met, nothing changed; 2 wrong usage or site.yaml; "
    "3 something changed, then it failed: run it again; 4 outcome unknown: look first.",
)

steps.add_undo(app)


@app.command("init", help="Find the site out and write site.yaml: asks for at most three addresses, changes no server.")
def init_command(
    site: SiteFile = SITE,
    proxmox: Annotated[
        str, typer.Option("--proxmox", metavar="ADDRESS", envvar="CUTOVER_PROXMOX", help="The address of Proxmox.")
    ] = "",
    nginx_shell: Annotated[
        str,
        typer.Option(
            "--nginx-shell",
            metavar="WORDS",
            envvar="CUTOVER_NGINX_SHELL",
            help="What opens a shell on the Nginx host, such as 'ssh root@nginx', or 'here'.",
        ),
    ] = "",
    portainer: Annotated[
        str, typer.Option("--portainer", metavar="ADDRESS", envvar="CUTOVER_PORTAINER", help="The address of Portainer.")
    ] = "",
    trust: Annotated[
        list[str] | None,
        typer.Option("--trust", metavar="SHA256", help="A certificate's fingerprint that you compared. Can be repeated."),
    ] = None,
    guest: Annotated[
        list[str] | None,
        typer.Option(
            "--guest", metavar="PART=ID", help="Which guest is nginx, vllm, old, new or legacy (legacy=950,951). Can be repeated."
        ),
    ] = None,
    name_server: Annotated[
        list[str] | None,
        typer.Option("--name-server", metavar="HOST[:PORT]", help="A name server that knows the guests. Can be repeated."),
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", metavar="URL", help="What Portainer pulls; default: `git remote` here.")
    ] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Reads everywhere; writes one file."""
    from cutover.cli import init

    said = {"proxmox": proxmox, "nginx": nginx_shell, "portainer": portainer, "repository": repository}
    work = lambda output: init.run(output, site, said, trust or [], guest or [], name_server or [], yes=yes)  # noqa: E731
    end("init", as_json, work)


@app.command("plan", help="Show the whole move as numbered steps, and which are done.")
def plan_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Print the plan of the site. Contacts nothing."""

    def work(context: Context, output: Output) -> int:
        where = plan.progress(context.site, Journal(context.state_dir, context.site.name))
        output.data["steps"] = [{"verb": name, **asdict(step), "done": at} for name, step, at in where]
        output.line(f"The plan for {context.site.name}", "b")
        for number, (name, step, at) in enumerate(where, start=1):
            output.line()
            done = f"  ✔ done {at}" if at else ""
            output.line(f"{step.title}  (cutover {name}){done}", "b green" if at else "b", mark=f"{number:>2}.")
            output.line(step.does, indent=4)
            for mark, text in (("needs:  ", step.needs), ("changes:", step.changes), ("undone: ", step.undo)):
                output.line(text, "dim", indent=4, mark=mark)
        return 0

    with_site("plan", site, state_dir, as_json, work)


@app.command("check", help="Ask whether the criteria hold; changes nothing.")
def check_command(
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    moment: Annotated[Moment | None, typer.Option("--moment", help="Only the checks of this moment.")] = None,
    criterion: Annotated[list[str] | None, typer.Option("--criterion", help="Only this criterion; can be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the registered checks."""

    def work(context: Context, output: Output) -> int:
        found: list[tuple[Check, Finding]] = []
        with context.ui.looking() as at:
            for one in checks.chosen(moment, criterion or ()):
                at(f"{one.criterion} {one.title}")
                found.append((one, checks.ask(one, context)))
        if not criterion:
            found += _baseline(context, output, moment)
        rows = []
        for one, finding in found:
            said = finding.sentence + (f"\n{finding.hint}" if finding.hint and finding.ok is not True else "")
            mark = {True: ("✔", "green"), False: ("✘", "red"), None: ("?", "yellow")}[finding.ok]
            rows.append((mark, (one.criterion, ""), (said, "")))
        output.data["checks"] = [{"criterion": one.criterion, "title": one.title, **asdict(finding)} for one, finding in found]
        output.rows(rows)
        unmet = sum(f.ok is False for _, f in found)
        open_ = sum(f.ok is None for _, f in found)
        output.line()
        output.line(f"{len(found) - unmet - open_} met, {unmet} not met, {open_} could not be evaluated.", "b")
        if "baseline" in output.data:
            output.line(output.data["baseline"])
        return 0 if found and not unmet and not open_ and not output.data.get("baseline_missing") else 1

    with_site("check", site, state_dir, as_json, work)


def _baseline(context: Context, output: Output, moment: Moment | None) -> list[tuple[Check, Finding]]:
    """Before the move, keep what there is; after it, compare with that."""
    from cutover.checks import baseline

    if moment is Moment.BEFORE:
        try:
            usable(context.state_dir, writing=True)
            kept = baseline.take(context)
        except (Refused, WrongUsage) as error:
            output.data["baseline"] = f"No baseline was kept: {error}"
            # Where the move has begun the one from before it stays. Where nothing can be written there will be none.
            output.data["baseline_missing"] = baseline.load(context) is None
        else:
            left_out = "".join(f" Without {name}: {why}" for name, why in kept.missing.items())
            output.data["baseline"] = (
                f"What there is was kept in {baseline.path_of(context)}, to compare with afterwards.{left_out}"
            )
        return []
    if moment not in {Moment.AFTER, Moment.BEFORE_DELETING}:
        return []
    before = baseline.load(context)
    if before is None:
        output.data["baseline"] = "There is no baseline to compare with: run `check --moment before` before the move."
        return []
    output.data["baseline"] = f"Compared with {before.at}."
    return [(_compared(criterion, title, finding), finding) for criterion, title, finding in baseline.compare(context, before)]


def _compared(criterion: str, title: str, finding: Finding) -> Check:
    return Check(criterion, title, frozenset({Moment.AFTER}), lambda _: finding)


@app.command("report", help="Merge acceptance reports, and make evening.html, a page about the move for those who decide.")
def report_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders with an acceptance.json; none: the journal alone.")
    ] = None,
    into: Annotated[Path, typer.Option("--into", help="Where acceptance.html, .md and .json are written.")] = Path("acceptance"),
    waivers: Annotated[
        Path | None, typer.Option("--waivers", help="The waivers; default: waivers.yaml beside the site file.")
    ] = None,
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    as_json: AsJson = False,
) -> None:
    """Contacts nothing."""

    def work(output: Output) -> int:
        from cutover.report import files as reports_of
        from cutover.report import model

        if not folders:
            said = _evening(site, state_dir, into, "")
            output.data["files"] = [said]
            output.line(f"Written: {said}")
            return 0

        reports = [reports_of.read(folder) for folder in folders]
        known = {c.id for report in reports for c in report.criteria}
        merged = model.merge(reports, reports_of.waivers_of(waivers or site.parent / "waivers.yaml", known))
        written = [str(file) for file in reports_of.write(merged, into)]
        if site.exists() and (state_dir / "journal.jsonl").exists():
            written.append(_evening(site, state_dir, into, f"{merged.headline()} {merged.summary()}"))
        output.data |= {"headline": merged.headline(), "summary": merged.summary(), "files": written}
        for said in (merged.headline(), merged.summary(), f"Written: {', '.join(written)}"):
            output.line(said)
        return 1 if any(row.verdict == "not met" and not row.waived for row in merged.rows()) else 0

    end("report", as_json, work)


def _evening(site_file: Path, state_dir: Path, into: Path, criteria: str) -> str:
    """The page of the evening, from the journal; where it was written."""
    from cutover.report import evening

    site = load(site_file)
    usable(state_dir, writing=False)
    entries = Journal(state_dir, site.name).entries()
    made = evening.of(site.name, entries, [(name, step.title) for name, step in plan.steps(site)], criteria)
    into.mkdir(parents=True, exist_ok=True)
    files.replace(into / "evening.html", evening.page(made), mode=files.PUBLIC)
    return str(into / "evening.html")


@app.command("status", help="Show where the move is, what it waits for, and what you can do.")
def status_command(
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=1, max=86400, help="Look again every so many seconds, until Ctrl-C."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Journal and a look at the world."""

    def look(context: Context, output: Output) -> list[str]:
        from cutover.state import status as state

        status = state.status(context, glance=True)
        output.data["status"] = asdict(status)
        output.notices.way_back(
            status.behind_seconds if status.state == "watching" else None, Settings.current().way_back_minutes
        )
        return status.lines()

    def work(context: Context, output: Output) -> int:
        def again() -> list[str]:
            with error_boundary(context.anew()):  # one answer that nobody understands does not end the night
                return look(context, output)

        if watch is not None:
            if as_json:
                raise WrongUsage("--watch is for people, --json for one look.", "Leave one of them out.")
            with suppress(KeyboardInterrupt):
                output.again_and_again(again, watch)
            return 0
        for line in look(context, output):
            output.line(line)
        return 0

    with_site("status", site, state_dir, as_json, work)


@app.command("pin", help="Pin a release of Qdrant: version, tag and digest, in site.yaml and the compose file.")
def pin_command(
    version: Annotated[str, typer.Argument(help="The release, such as 1.18.3.")],
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    execute: Execute = False,
    as_json: AsJson = False,
) -> None:
    """Changes two files of this checkout and no server; commit them together."""

    def work(context: Context, output: Output) -> int:
        from cutover.portainer import pin

        found = pin.prepare(context.site, site, version, context.portainer)
        output.data |= {"image": found.image, "files": [str(path) for path in found.files], "warning": found.warning}
        output.data["executed"] = execute
        if execute:
            pin.write(found)
        done = "Written" if execute else "Would be written"
        output.line(f"{done}: {found.image}, to {', '.join(map(str, found.files))}." if found.files else "It is pinned already.")
        if found.warning:
            output.line(found.warning)
        return 0

    with_site("pin", site, state_dir, as_json, work)


@app.command("stack", help="Print the stack's compose file for this site: commit it where Portainer reads it.")
def stack_command(site: SiteFile = SITE, as_json: AsJson = False) -> None:
    """Contacts nothing."""

    def work(output: Output) -> int:
        from cutover.portainer import shipped

        output.data["compose_file"] = shipped.compose_file(load(site))
        output.whole(output.data["compose_file"].rstrip("\n"))
        return 0

    end("stack", as_json, work)


@app.command("history", help="Show what was done, from the journal.")
def history_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Every act with its outcome."""

    def work(context: Context, output: Output) -> int:
        entries = Journal(context.state_dir, context.site.name).entries()
        output.data["entries"] = [asdict(e) for e in entries]
        words = {"intent": "…", "done": "✔", "failed": "✘", "unknown": "?", "note": "·", "opened": "·"}
        for e in entries:
            first, *more = (e.what + (f" ({e.reason})" if e.reason else "")).splitlines() or [e.act]
            output.line(first, mark=f"{e.at}  {words[e.kind]}")
            for line in more:
                output.line(line, indent=len(e.at) + 4)
        if not entries:
            output.line("Nothing has been done yet.")
        return 0

    with_site("history", site, state_dir, as_json, work)


@app.command("rights", help="Print the commands that make one Proxmox token per step, with exactly the rights that it needs.")
def rights_command(site: SiteFile = SITE, state_dir: StateDir = STATE, as_json: AsJson = False) -> None:
    """Prints commands for the Proxmox host's shell; runs nothing."""

    def work(context: Context, output: Output) -> int:
        more = privileges.on_site_if_asked(context)
        output.data["commands"] = {
            step: privileges.commands(context.site, step, more=(more or {}).get(step, ())) for step in privileges.STEPS
        }
        output.line(
            "# For the shell of the Proxmox host, as root. `token add` shows a token's secret once: it is PROXMOX_TOKEN_SECRET,"
        )
        output.line("# and cutover@pve!STEP is PROXMOX_TOKEN_ID. Version 8 has VM.Monitor where these have VM.GuestAgent.*")
        output.line("# Pasted again they mend: what is there is kept, and what the plan no longer knows is deleted.")
        if more is None:
            output.line("# Proxmox could not be asked: run this again with the token of `check`, for your bridges and VNets.")
        shown: set[str] = set()
        for step, commands in output.data["commands"].items():
            output.line(f"# {step}", "b")
            for command in commands:
                if command not in shown:  # the user and the pool are those of several steps
                    output.whole(command)
            shown |= set(commands)
        return 0

    with_site("rights", site, state_dir, as_json, work)


@app.command("keys", help="Show which keys this tool reads, and where each was found; never what they are.")
def keys_command(
    shell: Annotated[bool, flag("--shell", help="Print the lines to fill in, for a shell or an --env-file.")] = False,
    step: Annotated[
        str, typer.Option("--step", help="With --shell: the step whose Proxmox token is filled in; `rights` makes one for each.")
    ] = "check",
    as_json: AsJson = False,
) -> None:
    """Names only, never values."""

    def work(output: Output) -> int:
        keys = Settings.current().keys()
        if step not in privileges.STEPS:
            raise WrongUsage(f"No token is made for {step}.", f"`rights` makes one for {', '.join(privileges.STEPS)}.")
        if shell:
            output.data["lines"] = list(exports(keys, step))
            for line in output.data["lines"]:
                output.whole(line)
            return 0
        from_ = {name: keys.origin.get(name, "") for name in NAMES}
        output.data["keys"] = {
            name: {"set": bool(from_[name]), "from": from_[name], "meaning": meaning} for name, meaning in NAMES.items()
        }
        words = {name: (f"set (from {where})", "green") if where else ("not set", "dim") for name, where in from_.items()}
        output.rows([((name, ""), words[name], (meaning, "")) for name, meaning in NAMES.items()])
        return 0

    end("keys", as_json, work)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit(0)


@app.callback()
def main(
    version: Annotated[bool, flag("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", envvar="CUTOVER_ENV_FILE", help="A file with keys (NAME=value) that only you can read."),
    ] = None,
    verbose: Annotated[bool, flag("--verbose", "-v", help="Show every request in a line.")] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", envvar="CUTOVER_LOG", help="Write every request and every sentence into this file."
        ),
    ] = None,
    plain: Annotated[bool, flag("--plain", help="No colours, bars or moving lines.")] = False,
    notify_command: Annotated[
        str,
        typer.Option(
            "--notify-command",
            envvar="CUTOVER_NOTIFY_COMMAND",
            help="A command that gets every notification as JSON on its input.",
        ),
    ] = "",
    way_back_minutes: Annotated[
        float,
        typer.Option(
            "--way-back-minutes",
            envvar="CUTOVER_WAY_BACK_MINUTES",
            help="`status` notifies when the old server is further behind.",
        ),
    ] = 10.0,
) -> None:
    """Options before the verb."""
    del version
    Settings(env_file, verbose, log, plain, notify_command, way_back_minutes).apply()
