"""Waiting for a deployment and proving it: what is done, what will never be, and what was interrupted.

Portainer's answer is not asked here. The stack, its container and Qdrant itself are looked at until nothing is missing, until
waiting longer cannot help, or until it is clear that nobody goes on with the deployment.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cutover.core.errors import CutoverError, Failed, Unreachable
from cutover.core.text import listed
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.portainer.client import Answered
from cutover.portainer.deployment import Deployed, Wanted, fetched, hopeless, shortfalls
from cutover.state import deployment as state_of

if TYPE_CHECKING:
    from cutover.context import Context

#: Asked that often while a deployment is waited for.
EVERY_SECONDS = 0.25
#: For so long Portainer or Docker may be away in the middle of a deployment; a restart of either takes less.
AWAY_SECONDS = 60.0
#: When nothing happened for so long after one of them was away, or after an answer that was lost, nobody goes on with it.
QUIET_SECONDS, LOST_SECONDS = 5.0, 20.0
#: After so long in which two containers were there and none ran, nobody goes on with the replacement: Docker ended in it.
HALTED_SECONDS = 10.0
#: For so long a deployment that Portainer may have begun by itself is waited for until it shows.
FETCHED_SECONDS = 3.0
AGAIN = "When they all answer, run `cutover deploy --execute`: it looks, and goes on."


class Interrupted(Failed):
    """Portainer or Docker stopped in the middle, and does not go on with the deployment: the change itself may be good."""


def prove(
    context: Context,
    want: Wanted,
    *,
    not_this_container: str = "",
    deadline: float | None = None,
    lost: bool = False,
) -> Deployed:
    """Wait until the deployment is done; :class:`Failed` with what is missing when it is not within the limit.

    ``lost``: nobody knows whether Portainer is still at work. Then, and where it or Docker was away meanwhile, a deployment that
    nothing goes on with is not waited for.
    """
    limit = context.site.limits.deploy_seconds if deadline is None else deadline
    begun = f"The deployment of {want.commit[:8]}"
    away_since: float | None = None
    was_away = False
    quiet_since = time.monotonic()
    last: tuple[str, ...] = ()

    def done() -> Deployed | Not:
        nonlocal away_since, was_away, quiet_since, last
        try:
            seen = state_of.see(context, want)
        except (Unreachable, Answered) as error:
            if isinstance(error, Answered) and error.status < 500:
                raise  # a wrong key does not become right by waiting
            now = time.monotonic()
            if away_since is None:
                away_since = now
                context.ui.say(f"{what_answers(context)} Waiting up to {AWAY_SECONDS:g} s for it.")
            was_away, quiet_since = True, now
            if now - away_since > AWAY_SECONDS:
                raise Interrupted(f"{begun} was interrupted: {what_answers(context)}", AGAIN) from None
            return Not(error.sentence.rstrip("."))
        away_since = None
        missing = tuple(shortfalls(want, seen, not_this_container=not_this_container))
        if missing and (why := hopeless(want, seen, not_this_container=not_this_container)):
            raise Failed(f"{begun} failed: {why}.")
        if not missing:
            return seen
        if missing != last or (seen.under_way and not seen.halted) or _starting(seen):
            quiet_since, last = time.monotonic(), missing
        if (was_away or lost) and time.monotonic() - quiet_since > (QUIET_SECONDS if was_away else LOST_SECONDS):
            raise Interrupted(
                f"{begun} was interrupted, and Portainer does not go on with it: {'; '.join(missing)}. {what_answers(context)}",
                AGAIN,
            )
        return Not("; ".join(missing))

    try:
        return wait_until(done, deadline=limit, what=begun, every=EVERY_SECONDS)
    except TimedOut as error:
        raise Failed(error.sentence) from None


def _starting(seen: Deployed) -> bool:
    """Whether the container is on its way up: a large database takes its time, and says nothing meanwhile."""
    state = (seen.container or {}).get("State") or {}
    return state.get("Status") == "running" and (state.get("Health") or {}).get("Status") == "starting"


def what_answers(context: Context) -> str:
    """What is up and what is down: Portainer, its Docker, and Qdrant on the new server; a sentence."""
    answers = {"Portainer": False, "Docker": False, "Qdrant on the new server": False}
    try:
        context.portainer.user()
        answers["Portainer"] = True
        context.portainer.ping()
        answers["Docker"] = True
    except (Answered, Unreachable):
        pass
    with suppress(CutoverError):
        answers["Qdrant on the new server"] = (
            state_of.new_server(context).answer_to("GET", "/readyz", key=None).status_code == 200
        )
    if not answers["Portainer"]:
        del answers["Docker"]
    up = [name for name, there in answers.items() if there]
    away = [name for name, there in answers.items() if not there]
    told = [f"{listed(up)} answer{'s' if len(up) == 1 else ''}"] if up else []
    told += [f"{listed(away)} {'does' if len(away) == 1 else 'do'} not"] if away and up else []
    told += [f"{listed(away)} {'does' if len(away) == 1 else 'do'} not answer"] if away and not up else []
    return ", ".join(told) + "."


def settled(context: Context, want: Wanted) -> tuple[Deployed, bool]:
    """What there is once Portainer is not deploying the stack by itself any more (or the limit has passed); whether it was.

    Where it has the commit's file on its disk and not yet the commit in its books it may have begun, or be about to end: one
    deployment is better than two.
    """
    follows = context.site.portainer.auto_update.mode != "none"
    last = time.monotonic()
    waited = False
    halted_since: float | None = None

    def settled() -> Deployed | Not:
        nonlocal last, waited, halted_since
        seen = state_of.see(context, want)
        halted_since = (halted_since or time.monotonic()) if seen.halted else None
        if halted_since is not None and time.monotonic() - halted_since > HALTED_SECONDS:
            return seen
        if seen.under_way:
            if not waited:
                name = context.site.portainer.stack
                context.ui.say(f"Portainer is deploying the stack {name} by itself. Waiting for what comes of it.")
            last, waited = time.monotonic(), True
            return Not("Portainer is deploying")
        if follows and fetched(want, seen) and time.monotonic() - last < FETCHED_SECONDS:
            return Not("Portainer has the file, and not yet the commit")
        return seen

    limit = context.site.limits.deploy_seconds
    with suppress(TimedOut):
        return wait_until(settled, deadline=limit, what="Portainer's own deployment", every=EVERY_SECONDS), waited
    return state_of.see(context, want), waited
