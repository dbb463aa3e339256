"""One command from its beginning to its exit code: every outcome becomes a sentence, never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import typer

from cutover.cli.output import Output
from cutover.cli.settings import Settings, plain_asked
from cutover.cli.terminal import AskingTerminal
from cutover.context import Context
from cutover.core import crash_log
from cutover.core.errors import CutoverError
from cutover.core.journal import usable
from cutover.site.load import load


def with_site(
    verb: str,
    site_file: Path,
    state_dir: Path,
    as_json: bool,
    work: Callable[[Context, Output], int],
    *,
    execute: bool = False,
    yes: bool = False,
    names: Sequence[str] = (),
) -> None:
    """Run ``work`` with a run for the site."""

    def with_a_run(output: Output) -> int:
        site = load(site_file)
        output.data["site"] = site.name
        if insecure := site.insecure():
            output.data["insecure"] = insecure
            for sentence in insecure:
                output.terminal.say(sentence)
        usable(state_dir, writing=execute)
        confirm = AskingTerminal(output.terminal, *names, yes=yes)
        told = output.notices
        told.site = site.name
        context = Context(
            site, output.credentials, state_dir, execute=execute, ui=output.terminal, confirm=confirm, heard=told.heard
        )
        try:
            return work(context, output)
        except CutoverError as error:
            if execute:
                told.tell(_EVENTS[error.exit_code], f"{error.sentence} {error.hint}".strip(), verb)
            raise
        finally:
            with suppress(CutoverError):
                context.close()

    end(verb, as_json, with_a_run, execute=execute, state_dir=state_dir)


_EVENTS = {1: "refused", 2: "refused", 3: "failed", 4: "outcome unknown"}


def end(verb: str, as_json: bool, work: Callable[[Output], int], *, execute: bool = False, state_dir: Path | None = None) -> None:
    """Every outcome becomes a sentence and an exit code, never a traceback."""
    output = Output.of(verb, as_json, execute, plain=plain_asked())
    shown = output.terminal.shown
    try:
        settings = Settings.current()
        output.use(settings.keys().credentials)
        with settings.told(output), settings.notices(output) as output.notices:
            code = work(output)
    except CutoverError as error:
        code = error.exit_code
        output.data["error"] = {
            "sentence": output.credentials.redact(error.sentence),
            "hint": output.credentials.redact(error.hint),
        }
        output.terminal.err.print(f"[b red]{_word(code)}[/b red] {shown(error.sentence)}")
        if error.hint:
            output.terminal.err.print(shown(error.hint))
    except KeyboardInterrupt:
        code = 3 if execute else 1
        said = "Stopped. What was being done is in the journal; run the same command again to go on, or look at `status`."
        output.data["error"] = {"sentence": said if execute else "Stopped; nothing was changed.", "hint": ""}
        output.terminal.err.print(output.data["error"]["sentence"])
    except BrokenPipeError:  # nobody reads what is printed any more
        raise
    except Exception as error:
        code = 4 if execute else 1
        said = output.credentials.redact(f"{type(error).__name__}: {error}")
        hint = f"It is a mistake in this tool; {crash_log.keep(state_dir, output.credentials, error)}."
        if execute:
            hint = f"Look at `status` before anything is repeated. {hint}"
        output.data["error"] = {"sentence": f"This should not happen: {said}", "hint": output.credentials.redact(hint)}
        output.terminal.err.print(f"[b red]This should not happen:[/b red] {shown(said)}")
        output.terminal.err.print(shown(hint))
    if as_json:
        output.data["exit_code"] = code
        data = output.credentials.redact_tree(json.loads(json.dumps(output.data, default=str)))
        # All that is not ASCII as an escape: a terminal acts on some of it, and no encoding of it can fail. A runner takes `##[`
        # for a command.
        told = json.dumps(data, indent=2).replace("\x7f", "\\u007f").replace("##[", "#\\u0023[")
        sys.stdout.write(told + "\n")
    raise typer.Exit(code)


def _word(code: int) -> str:
    return {1: "Refused:", 2: "Not started:", 3: "Failed on the way:", 4: "Outcome unknown:"}.get(code, "Failed:")
