"""Decommission: give back the old guests, their firewall rules and their names, and nothing else.

Nothing is deleted before the move was finished on purpose and the site works. Then, for all of them: look at everything that
knows them, and refuse where anything speaks against it, before anything is changed; ask for each guest's name, typed; keep its
identity. Stop them one at a time, the first one as a canary, and look at the site after each. Let the site live without them for
the agreed time. Then one guest at a time: a final backup that was read and restored on trial, the firewall rules that are its
alone, its names, its identity once more, and only then the deletion.

Every run looks at the world and at the journal and goes on from there, so it can be interrupted anywhere. What was there before
is in the journal and in ``undo-decommission.json`` beside it. Until a guest is deleted, ``undo`` starts it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cutover.core.errors import Failed, Refused
from cutover.core.journal import utc
from cutover.phases import decommission_survey as survey
from cutover.phases.decommission_guest import give_back
from cutover.phases.decommission_survey import Survey
from cutover.phases.decommission_undo import (
    STOP_SECONDS,
    await_begun,
    plan_undo,
    restart,
    tasks_begun,
    undo,
    wait_for,
    write_undo,
)
from cutover.phases.departing import Along
from cutover.phases.phase import Operation, Outcome, Phase, Plan, Sentence, Step
from cutover.proxmox import drives, firewall, power, references, vzdump
from cutover.state import approvals, soak

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox.references import Facts
    from cutover.site.schema import Guest, Site


# -- the plan -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DecommissionPlan(Plan):
    """``survey``: what would be deleted; None where nothing is left to do, or Proxmox still works on what was begun."""

    survey: Survey | None = None


def _overview(context: Context, found: Survey) -> dict[str, Any]:
    """Everything that would be done, as data: guests, firewall, names."""
    guests, facts, verdict = context.site.guests.to_decommission(), found.facts, found.verdict
    states = {guest.vmid: _state(context, guest, facts.get(guest.vmid)) for guest in guests}
    return {
        "table": [
            *(_row(str(guest), states[guest.vmid], "gone") for guest in guests),
            _row("firewall entries", str(len(firewall.sentences(verdict.removal))), "0"),
            _row("names", str(len(found.names.records)), "0"),
        ],
        "unsure": list(found.unsure),
        "guests": [
            {
                "guest": str(guest),
                "vmid": guest.vmid,
                "state": states[guest.vmid],
                "addresses": list(facts[guest.vmid].addresses) if guest.vmid in facts else [],
                "volumes": vzdump.volumes(facts[guest.vmid].config) if guest.vmid in facts else {},
                "goes_along": references.goes_along(facts[guest.vmid], found.going.vmids) if guest.vmid in facts else [],
                "stays": references.stays(facts[guest.vmid]) if guest.vmid in facts else [],
            }
            for guest in guests
        ],
        "firewall": {
            "removed": firewall.sentences(verdict.removal),
            "shared": list(verdict.shared),
            "unproved": list(found.unproved),
            "undo": firewall.undo_record(found.rules, verdict.removal),
        },
        "names": found.names.as_json(),
    }


def _row(what: str, now: str, wanted: str) -> dict[str, str]:
    return {"what": what, "now": now, "wanted": wanted, "pending": now}


def _state(context: Context, guest: Guest, facts: Facts | None) -> str:
    if approvals.completed(context, guest):
        return "gone"
    if facts is None:
        return "deleted"
    if facts.status == "running" or approvals.approval(context, guest) is None:
        return facts.status
    since = soak.stopped_since(context, guest)
    return f"stopped since {utc(since.ours)}" if since is not None else facts.status


def plan(context: Context) -> DecommissionPlan:
    """What would be done now, and everything that speaks against it; empty when all of it was done. Reads only."""
    guests = context.site.guests.to_decommission()
    if all(approvals.completed(context, guest) for guest in guests):
        return DecommissionPlan()
    if begun := [str(guest) for guest in guests if tasks_begun(context, guest)]:
        return DecommissionPlan(sentences=[Sentence(f"Wait for what Proxmox still does with {', '.join(begun)}, then go on")])
    found, against = survey.survey(context)
    data = _overview(context, found)
    told = _sentences(context, data)
    return DecommissionPlan(sentences=told, refusals=against, hint="Nothing was changed.", overview=data, survey=found)


def _sentences(context: Context, data: Mapping[str, Any]) -> list[Sentence]:
    guests = context.site.guests.to_decommission()
    undo = "`cutover undo decommission` starts it again"
    lines: list[Sentence] = []
    for guest, row in zip(guests, data["guests"], strict=True):
        if row["state"] == "running":
            lines.append(Sentence(f"Stop {guest}, and look at the site without it", f"{guest} is down", undo))
    hours = context.site.limits.soak_hours
    lines.append(Sentence(f"Wait until the site has lived without them for {hours:g} hours", "Nothing", ""))
    for guest, row in zip(guests, data["guests"], strict=True):
        if row["state"] in {"gone", "deleted"}:
            continue
        lines.append(
            Sentence(f"Back up {guest} for good, and restore that on trial", "Adds one protected backup", "Delete the backup")
        )
        along = "".join(f"; {sentence}" for sentence in row["goes_along"])
        volumes = ", ".join(drives.options(v)["volume"] for v in row["volumes"].values())
        lines.append(Sentence(f"Delete {guest} with {volumes}{along}", f"{guest} is gone", "Restore its final backup"))
    lines += [Sentence(f"Not seen beforehand: {one}; a storage that runs full is noticed") for one in data["unsure"]]
    put_back = "The undo record puts it back in its place"
    for guest, row in zip(guests, data["guests"], strict=True):
        lines += [Sentence(f"Left behind by {guest}, for you to judge: {sentence}") for sentence in row["stays"]]
    lines += [Sentence(f"Remove {sentence}", "Firewall", put_back) for sentence in data["firewall"]["removed"]]
    lines += [Sentence(f"Leave: {sentence} (it speaks of others too)") for sentence in data["firewall"]["shared"]]
    lines += [Sentence(f"Leave: {sentence}") for sentence in data["firewall"]["unproved"]]
    for record in data["names"]["records"]:
        said = f"{record['name'].rstrip('.')} {record['type']} {record['value'].rstrip('.')}"
        lines.append(Sentence(f"Delete the record {said} at {record['provider']}", "Names", "The undo record puts it back"))
    lines += [Sentence(f"By hand: delete {sentence}") for sentence in data["names"]["by_hand"]]
    lines += [Sentence(f"Leave: {sentence}") for sentence in data["names"]["mentions"]]
    return lines


# -- doing ----------------------------------------------------------------------------------------


def do(context: Context, planned: DecommissionPlan) -> Outcome:
    """Go as far as is allowed now: stop, soak, or delete. :class:`Refused` before anything is changed, :class:`Failed` after."""
    guests = context.site.guests.to_decommission()
    while planned.survey is None and planned.sentences:  # Proxmox still works on what was begun
        await_begun(context, guests)
        planned = plan(context)
        planned.need_no_refusal()
    if planned.survey is None:
        return Outcome(False, ["They were given back already."])
    found = planned.survey
    facts, along = found.facts, found.along
    there = [guest for guest in guests if guest.vmid in facts]
    _ask(context, facts, found.going.vmids, along)
    within = replace(found.within, shown=along)
    for guest in there:
        if approvals.approval(context, guest) is None:
            agreed_to = {"vmid": guest.vmid, "facts": facts[guest.vmid].as_json(), "shown": along.as_json()}
            context.journal.note("decommission.approved", f"{guest} may be deleted", **agreed_to)
    stopped = [_stop(context, guest) for guest in there]
    waiting = soak.soaking(context, there)
    if waiting is not None:
        return Outcome(
            any(stopped),
            [
                f"{', '.join(map(str, there))} are stopped.",
                f"The site has to live without them until {waiting}; run the command again then.",
            ],
            undo="`cutover undo decommission` starts them again.",
            facts={"waiting_until": waiting},
        )
    sentences: list[str] = []
    before = {guest.vmid: facts[guest.vmid].status if guest.vmid in facts else "deleted" for guest in guests}
    for guest in guests:
        if approvals.completed(context, guest):
            continue
        said, waiting = give_back(context, guest, within)
        sentences += said
        if waiting is not None:
            write_undo(context)
            return Outcome(
                True,
                [
                    *sentences,
                    f"{guest} is not deleted; the site has to live without it until {waiting}; run the command again then.",
                ],
                undo="`cutover undo decommission` starts it again.",
                facts={"waiting_until": waiting},
            )
        survey.site_works(context)
    write_undo(context)
    table = [{"what": str(guest), "before": before[guest.vmid], "after": "gone"} for guest in guests]
    record = context.state_dir / "undo-decommission.json"
    way = f"Restore the final backups, then `cutover undo decommission`; {record} says what was there."
    unseen = [f"{caution}." for provider in context.dns.providers for caution in provider.cautions()]
    return Outcome(True, sentences, undo=way, facts={"table": table, "undo_record": str(record)}, warnings=unseen)


def _ask(context: Context, facts: Mapping[int, Facts], going: frozenset[int], along: Along) -> None:
    """Ask for each guest's name, typed, after saying what goes with it; the first question says what goes with all of them.

    Where all of them are deleted and rules or names of theirs are left, the last one's name is asked for.
    """
    left = [guest for guest in context.site.guests.to_decommission() if not approvals.completed(context, guest)]
    there = [guest for guest in left if guest.vmid in facts]
    others = f"; with them goes: {'; '.join(along.sentences())}" if along.sentences() else ""
    for guest in there:
        known = facts[guest.vmid]
        volumes = ", ".join(drives.options(value)["volume"] for value in vzdump.volumes(known.config).values())
        own = "".join(f"; {sentence}" for sentence in references.goes_along(known, going))
        since = soak.only_here(context, guest) if known.status == "stopped" else ""
        own += f"; that it is down since {since} says this tool's journal alone, Proxmox lists no stop" if since else ""
        context.confirm.by_name(guest.name, f"{guest} with {volumes} will be deleted{own}{others}")
        others = ""
    if not there and others:
        context.confirm.by_name(left[-1].name, f"{left[-1]} is deleted{others}")


# -- stopping and soaking -------------------------------------------------------------------------


def _stop(context: Context, guest: Guest) -> bool:
    """Stop a guest and keep it from starting with the host; look at the site without it. Whether anything was done."""
    config = context.proxmox.get(f"{context.proxmox.of(guest)}/config")
    changed = False
    if int(config.get("onboot") or 0):
        # A reboot of the host during the soak time would start it again.
        with context.guard.act(
            "decommission.no-autostart", f"Keep {guest} from starting with the host", before={"vmid": guest.vmid, "onboot": 1}
        ):
            context.proxmox.change("PUT", f"{context.proxmox.of(guest)}/config", onboot=0, digest=config.get("digest"))
        changed = True
    if context.proxmox.status(guest).get("status") != "running":
        soak.see_stopped(context, guest)
        return changed
    context.ui.say(f"Stopping {guest}, and looking at the site without it.")
    with context.guard.act("decommission.stop", f"Stop {guest}", before={"vmid": guest.vmid, "status": "running"}) as act:
        limit = STOP_SECONDS + power.GIVES_UP_SECONDS
        power.turn(context.proxmox, guest, "shutdown", deadline=limit, timeout=STOP_SECONDS)
        wait_for(context, guest, "stopped")
        act.after = {
            "vmid": guest.vmid,
            "status": "stopped",
            "started": soak.started(context, guest),
            "there": soak.their_time(context),
        }
    try:
        survey.site_works(context)
    except Refused as error:
        restart(context, guest, "decommission.start-again")
        raise Failed(f"The site does not work without {guest}: {error.sentence} It was started again.", error.hint) from None
    return True


def _step(site: Site) -> Step:
    limits = site.limits
    gone = ", ".join(str(guest.vmid) for guest in site.guests.to_decommission())
    return Step(
        title=f"Give back {gone}",
        does=f"Stops them, waits {limits.soak_hours:g} hours, takes a final proved backup of each, removes the firewall "
        "rules and DNS entries that are theirs alone, and deletes exactly them, one at a time.",
        needs="`finish` was done; the name of each guest, typed.",
        changes=f"Guests {gone}, their firewall rules and DNS entries.",
        undo="Each from its final backup; the undo record says what a restore does not bring back.",
        criteria=("F1", "F2", "F3", "F4", "F5", "F6"),
    )


PHASE = Phase(
    name="decommission",
    help="Give back the old guests with their firewall rules and DNS entries.",
    operation=Operation(plan, do),
    step=_step,
    undo=Operation(plan_undo, undo),
    privileges="decommission",
)
