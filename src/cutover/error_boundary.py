"""What an operator is told is true, whatever went wrong inside: the one place where every error of a verb ends.

Clients know what became of one request; only here it is known what was done before it. So a refusal or a lost connection after
something was changed is *failed on the way*, whoever raised it and whatever he thought of it. And what nobody expected - an
answer of another shape than the API's, a disk that is full - is a sentence like everything else; the rest of it stands in
``crash.log``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cutover.core import crash_log
from cutover.core.errors import CutoverError, Failed, Refused, Unreachable
from cutover.core.write_guard import WriteGuard

if TYPE_CHECKING:
    from cutover.context import Context


@contextmanager
def error_boundary(context: Context) -> Iterator[None]:
    """Let nothing but a :class:`CutoverError` out, with the exit code that fits what was done until then."""
    try:
        yield
    except CutoverError as error:
        truth = _after_what_was_done(context, error)
        if truth is error:
            raise
        raise truth from error
    except BrokenPipeError:
        raise  # nobody reads what is printed any more
    except Exception as error:
        raise _after_what_was_done(context, _in_words(context, error)) from error


def _after_what_was_done(context: Context, error: CutoverError) -> CutoverError:
    """*Nothing was changed* only where nothing was."""
    changed = _guard(context).changed or _held(context)
    if not changed or error.exit_code not in {1, 2}:
        return error
    done = f"Before that, something was changed ({changed}); it is in the journal."
    return Failed(error.sentence, f"{error.hint} {done} Run the same command again: it looks, and goes on.".strip())


def _held(context: Context) -> str:
    """A hold that could not be ended from here. It passes by itself; until then "nothing was changed" is not true."""
    gate = context.__dict__.get("gate")  # only one that was needed can have begun a hold
    return "writes may still be held, until the Nginx host ends that by itself" if gate is not None and gate.holding else ""


def _in_words(context: Context, error: Exception) -> CutoverError:
    if isinstance(error, OSError) and (error.filename or error.errno):
        where = f"{error.filename}" if error.filename else f"A file in {context.state_dir}"
        return Refused(
            f"{where} cannot be read or written: {(error.strerror or str(error)).lower()}.", "Make room, or look at its rights."
        )
    kept = crash_log.keep(context.state_dir, context.credentials, error)
    asked = _guard(context).heard or ["a question"]
    return Unreachable(
        f"Unexpected response to {' or '.join(asked)}: {_missing(error)}.",
        f"Look whether that address in site.yaml is the right server. If it is, this is a mistake in this tool; {kept}.",
    )


def _guard(context: Context) -> WriteGuard:
    """The guard of this context; one that lets nothing through where it was not made yet."""
    made = context.__dict__.get("guard")
    return made if isinstance(made, WriteGuard) else WriteGuard()


def _missing(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args:
        return f"it lacks {error.args[0]!r}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it has another shape than it should have"
