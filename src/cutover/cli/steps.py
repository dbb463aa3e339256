"""The commands that carry out a step of the plan, or undo it, and how a plan is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from inspect import Signature, signature
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cutover import runner
from cutover.cli.command import end, with_site
from cutover.cli.options import SITE, STATE, AsJson, Execute, SiteFile, StateDir, Yes, YesDestroy, flag
from cutover.cli.output import Output
from cutover.context import Context
from cutover.phases import registry as phases
from cutover.phases.phase import Plan


def _show_plan(output: Output, planned: Plan) -> None:
    if planned.overview:
        output.data["overview"] = dict(planned.overview)
    if rows := planned.overview.get("table"):
        waits = [row["pending"] if row["pending"] != row["now"] else "" for row in rows]
        titles = ["", "now", "wanted"] + (["waits for the next start"] if any(waits) else [])
        cells = [[row["what"], row["now"], row["wanted"], wait][: len(titles)] for row, wait in zip(rows, waits, strict=True)]
        output.table([[str(cell) for cell in row] for row in cells], titles)
    wide = len(str(len(planned.sentences)))
    for number, sentence in enumerate(planned.sentences, start=1):
        output.line(_ended(sentence.text), indent=2, mark=f"{number:>{wide}}.")
        if sentence.changes:
            output.line(_ended(sentence.changes), "yellow", indent=4 + wide, mark="changes:")
        if sentence.undo:
            undo = "It cannot be undone." if sentence.undo == "None" else _ended(sentence.undo)
            output.line(undo, "dim", indent=4 + wide, mark="undone: ")


def _ended(text: str) -> str:
    """A sentence ends with its period."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _do(verb: str, context: Context, output: Output, *, undo: bool = False) -> int:
    name = f"undo {verb}" if undo else verb
    if not context.execute:
        planned = runner.plan(verb, context, undo=undo)
        output.data["plan"] = [asdict(s) for s in planned.sentences]
        output.data["refusals"] = list(planned.refusals)
        output.line(f"What `{name}` would do on {context.site.name}:", "b")
        _show_plan(output, planned)
        planned.need_no_refusal()
        if planned.sentences:
            output.line()
        output.line("Nothing was changed. Add --execute to do it." if planned.sentences else "Nothing to do: it is already so.")
        return 0
    result = runner.carry_out(verb, context, undo=undo)
    output.data["plan"] = [asdict(s) for s in result.plan.sentences]
    if result.outcome is not None:
        output.data["outcome"] = asdict(result.outcome)
        for sentence in result.outcome.sentences:
            output.line(sentence, "green", mark="✔")
        for warning in result.outcome.warnings:
            output.line(warning, "yellow", mark="!")
        if result.outcome.undo:
            output.line(_ended(result.outcome.undo), "dim", mark="Way back:")
    return 0


def _step(
    step: Annotated[str, typer.Argument(help="The step to undo.", autocompletion=phases.undoable)],
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    execute: Execute = False,
    prove: Annotated[bool, flag("--prove", help="Compare everything, also where an earlier comparison would be enough.")] = False,
    yes: Yes = False,
    yes_destroy: YesDestroy = None,
    as_json: AsJson = False,
    undo: bool = False,
) -> None:
    def work(context: Context, output: Output) -> int:
        context.prove_all = prove
        return _do(step, context, output, undo=undo)

    name = f"undo {step}" if undo else step
    with_site(name, site, state_dir, as_json, work, execute=execute, yes=yes, names=yes_destroy or [])


def _step_command(**fixed: Any) -> Callable[..., None]:
    """A command with the parameters of :func:`_step` but those that are fixed."""

    def command(**given: Any) -> None:
        _step(**fixed, **given)

    parameters = [one for one in signature(_step, eval_str=True).parameters.values() if one.name not in fixed]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _follow_command(
    site: SiteFile = SITE,
    state_dir: StateDir = STATE,
    execute: Execute = False,
    watch: Annotated[
        bool, flag("--watch", help="Go on until stopped: follow, compare a little all the time, and say what is wrong.")
    ] = False,
    unit: Annotated[bool, flag("--unit", help="Print the systemd unit that watches this site, and do nothing else.")] = False,
    yes: Yes = False,
    yes_destroy: YesDestroy = None,
    as_json: AsJson = False,
) -> None:
    from cutover.cli import watching

    def work(context: Context, output: Output) -> int:
        if watch and context.execute:
            context.gives_way = True  # from the first moment on
            return watching.watch(context, output)
        code = _do("follow", context, output)
        if watch:
            output.line("With --watch it goes on until it is stopped, and compares a little all the time.")
        return code

    def prints(output: Output) -> int:
        output.data["unit"] = watching.unit(site, state_dir)
        if not as_json:
            sys.stdout.write(output.data["unit"])
        return 0

    if unit:
        end("follow", as_json, prints)
    with_site("follow", site, state_dir, as_json, work, execute=execute, yes=yes, names=yes_destroy or [])


def _command(name: str) -> Any:
    """A step of the plan as a command."""
    proving = {} if name in {"switch", "back"} else {"prove": False}
    app = typer.Typer(add_completion=False)
    app.command(name, help=phases.phase(name).help)(
        _follow_command if name == "follow" else _step_command(step=name, undo=False, **proving)
    )
    return typer.main.get_command(app)


class Commands(TyperGroup):
    """The steps of the plan, each made when it is asked for, before the commands that are declared elsewhere."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        steps: dict[str, Any] = dict.fromkeys(phases.NAMES)
        self.commands = steps | dict(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in phases.NAMES and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _command(cmd_name)
        return super().get_command(ctx, cmd_name)


def add_undo(app: typer.Typer) -> None:
    """The command that undoes a step."""
    undo = "Undo a step: resize, deploy, gate, copy, or decommission: start what still exists, put firewall and DNS back."
    app.command("undo", help=undo)(_step_command(undo=True, prove=False))
