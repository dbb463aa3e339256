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

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cutover.checks import registry
from cutover.checks.registry import Moment
from cutover.core import events, files
from cutover.core.errors import Failed, Refused
from cutover.core.wait import Not, TimedOut, wait_until
from cutover.dns.names import Found
from cutover.phases.phase import Outcome, Phase, Sentence, Step
from cutover.proxmox import activity, firewall, identity, privileges, references, vzdump
from cutover.replication import left_behind
from cutover.state import approvals

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.proxmox.references import Facts
    from cutover.site.schema import Guest, Site

STOP_SECONDS = 180
DELETE_SECONDS = 1800.0
#: How often a guest that is used again and again is backed up anew in one run.
BACKUPS = 3


# -- what the journal knows -----------------------------------------------------------------------


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# -- before anything is changed -------------------------------------------------------------------


def validated(context: Context) -> None:
    """F1: the way back was given up on purpose, and traffic goes to the new server; :class:`Refused` otherwise."""
    if events.finished(context.journal.entries(), "finish") is None:
        raise Refused(
            "Nothing is deleted while the way back is open: the move was not finished.",
            "Watch the new server, then `cutover finish`.",
        )
    if context.gate.state().side != "new":
        raise Refused(
            "Nginx still sends traffic to the old server; it must not be deleted.", "`cutover switch`, then `cutover finish`."
        )


def site_works(context: Context) -> None:
    """Ask the checks that have to hold before something is deleted. What cannot be evaluated is not good."""
    for check, finding in registry.ask_all(context, moment=Moment.BEFORE_DELETING):
        if finding.ok is not True:
            raise Refused(f"{check.criterion}: {finding.sentence}", finding.hint)


def survey(context: Context) -> tuple[dict[int, Facts], list[str]]:
    """(facts of every guest that is still there, everything that speaks against going on). Reads only."""
    found: dict[int, Facts] = {}
    against: list[str] = []
    seen = references.look(context)
    for guest in context.site.guests.to_decommission():
        facts = None if approvals.deleted(context, guest) else references.collect(context, guest, seen)
        agreed = approvals.approval(context, guest)
        if facts is None:
            if not approvals.deletion_begun(context, guest):
                against.append(f"{guest} does not exist, and this tool did not delete it.")
            continue
        found[guest.vmid] = facts
        if agreed is not None:
            wrong = agreed.identity.differences(facts.identity)
            reason = f"{guest} is not the guest that was approved on {agreed.at}"
        else:
            named = identity.resolved(guest.address)
            wrong = identity.not_as_planned(guest, context.site.proxmox.node, facts.identity, facts.addresses, named)
            reason = f"{guest} is not the guest of site.yaml"
            if not wrong and not facts.addresses and identity.networks(facts.config):
                against.append(
                    f"{guest}: Proxmox knows no address of it, so its firewall rules and DNS names cannot be found: start "
                    "it, or write its address into its configuration."
                )
        against += [f"{reason}: {references.in_words(wrong)}."] if wrong else []
        against += [f"{guest}: {sentence}." for sentence in _speaks_against(context, guest, facts, agreed)]
        against += _running_again(context, guest, facts)
    return found, against


def _speaks_against(context: Context, guest: Guest, facts: Facts, agreed: approvals.Approval | None) -> list[str]:
    addresses = agreed.addresses if agreed is not None else ()
    return references.refusals(facts, deleting=approvals.deletion_begun(context, guest), addresses=addresses)


def _running_again(context: Context, guest: Guest, facts: Facts) -> list[str]:
    if facts.status != "running":
        return []
    acts = [
        e
        for e in approvals.lines(context, guest.vmid)
        if e.act in {*approvals.DOWN, "decommission.start-again"} and e.kind in {"done", "note"}
    ]
    if not acts or acts[-1].act not in approvals.DOWN:
        return []
    since = f"{guest} is running again, although it was stopped on {acts[-1].at}: somebody needs it."
    return [f"{since} Find out who. Stopping it in Proxmox begins the soak time anew; `cutover undo decommission` gives it back."]


def _going(context: Context, guests: Sequence[Guest], facts: Mapping[int, Facts]) -> firewall.Going:
    addresses: set[str] = set()
    for guest in guests:
        agreed = approvals.approval(context, guest)
        addresses |= set(agreed.addresses) if agreed is not None else set()
        if agreed is None and guest.vmid in facts:
            addresses |= set(facts[guest.vmid].addresses)
    vmids = frozenset(g.vmid for g in guests)
    later = frozenset(g.vmid for g in context.site.guests.to_decommission() if not approvals.completed(context, g)) - vmids
    scratch = vzdump.left_over(context)  # a copy of one of them, with its rules, from an interrupted test restore
    return firewall.Going(vmids | ({scratch} if scratch else set()), frozenset(addresses), later)


def _keys(names: Found) -> list[list[str]]:
    """Records as the journal keeps them for a comparison: where, name, type and value."""
    return [[where, *record.key()] for where, record in names.records]


def _unasked(context: Context, removal: firewall.Removal, names: Found) -> list[str]:
    """Firewall entries and names that would go now and were not there when the guests were approved, one sentence each.

    An address is free while its guest is down, and whoever gets it brings rules and names of his own.
    """
    notes = [approvals.last(context, g.vmid, "decommission.approved", "note") for g in context.site.guests.to_decommission()]
    shown = [note.extra["shown"] for note in notes if note is not None and "shown" in note.extra]
    if not shown:
        return []
    rules = {sentence for one in shown for sentence in one["firewall"]}
    records = {tuple(key) for one in shown for key in one["names"]}
    new = [sentence for sentence in firewall.sentences(removal) if sentence not in rules]
    new += [f"record {record} at {where}" for where, record in names.records if (where, *record.key()) not in records]
    return [
        f"It was not there when the old servers were approved, so another machine may have one of their addresses "
        f"now: {sentence}. "
        "Look whose it is; if it is nobody's, remove it by hand."
        for sentence in new
    ]


def _begun(context: Context) -> list[Mapping[str, Any]]:
    """The undo records of firewall removals that were begun."""
    return [e.extra["undo"] for e in context.journal.acts("decommission.firewall.planned")]


# -- the plan -------------------------------------------------------------------------------------


def overview(context: Context) -> dict[str, Any]:
    """Everything that would be done, as data: guests, what speaks against it, firewall, names. Reads only."""
    guests = context.site.guests.to_decommission()
    facts, against = survey(context)
    rules = firewall.read(context.proxmox)
    going = _going(context, guests, facts)
    verdict = firewall.resolve(rules, going, _begun(context))
    names = context.dns.find(sorted(going.addresses), [g.name for g in guests])
    against += _unasked(context, verdict.removal, names)
    states = {guest.vmid: _state(context, guest, facts.get(guest.vmid)) for guest in guests}
    return {
        "table": [
            *(_row(str(guest), states[guest.vmid], "gone") for guest in guests),
            _row("firewall entries", str(len(firewall.sentences(verdict.removal))), "0"),
            _row("names", str(len(names.records)), "0"),
        ],
        "against": [*against, *verdict.in_the_way],
        "guests": [
            {
                "guest": str(guest),
                "vmid": guest.vmid,
                "state": states[guest.vmid],
                "addresses": list(facts[guest.vmid].addresses) if guest.vmid in facts else [],
                "volumes": vzdump.volumes(facts[guest.vmid].config) if guest.vmid in facts else {},
                "goes_along": references.goes_along(facts[guest.vmid], going.vmids) if guest.vmid in facts else [],
                "stays": references.stays(facts[guest.vmid]) if guest.vmid in facts else [],
            }
            for guest in guests
        ],
        "firewall": {
            "removed": firewall.sentences(verdict.removal),
            "shared": list(verdict.shared),
            "undo": firewall.undo_record(rules, verdict.removal),
        },
        "names": names.as_json(),
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
    since = _stopped_since(context, guest)
    return f"stopped since {_utc(since.ours)}" if since is not None else facts.status


def plan(context: Context) -> Sequence[Sentence]:
    """What would be done now, and what speaks against it; empty when all of it was done. Reads only."""
    guests = context.site.guests.to_decommission()
    if all(approvals.completed(context, guest) for guest in guests):
        return []
    data = overview(context)
    undo = "`cutover undo decommission` starts it again"
    lines = [Sentence(f"Not yet: {sentence}", refused=True) for sentence in data["against"]]
    if events.finished(context.journal.entries(), "finish") is None:
        lines.append(Sentence("Not yet: the way back is still open; `cutover finish` gives it up.", refused=True))
    if used := left_behind.glance(context):
        lines.append(Sentence(f"Not yet: {used}. {left_behind.HOW_TO_FIND}", refused=True))
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
        volumes = ", ".join(vzdump.options(v)["volume"] for v in row["volumes"].values())
        lines.append(Sentence(f"Delete {guest} with {volumes}{along}", f"{guest} is gone", "Restore its final backup"))
    put_back = "The undo record puts it back in its place"
    for guest, row in zip(guests, data["guests"], strict=True):
        lines += [Sentence(f"Left behind by {guest}, for you to judge: {sentence}") for sentence in row["stays"]]
    lines += [Sentence(f"Remove {sentence}", "Firewall", put_back) for sentence in data["firewall"]["removed"]]
    lines += [Sentence(f"Leave: {sentence} (it speaks of others too)") for sentence in data["firewall"]["shared"]]
    for record in data["names"]["records"]:
        said = f"{record['name'].rstrip('.')} {record['type']} {record['value'].rstrip('.')}"
        lines.append(Sentence(f"Delete the record {said} at {record['provider']}", "Names", "The undo record puts it back"))
    lines += [Sentence(f"By hand: delete {sentence}") for sentence in data["names"]["by_hand"]]
    lines += [Sentence(f"Leave: {sentence}") for sentence in data["names"]["mentions"]]
    return lines


# -- doing ----------------------------------------------------------------------------------------


def do(context: Context) -> Outcome:
    """Go as far as is allowed now: stop, soak, or delete. :class:`Refused` before anything is changed, :class:`Failed` after."""
    guests = context.site.guests.to_decommission()
    if all(approvals.completed(context, guest) for guest in guests):
        return Outcome(False, ["They were given back already."])
    validated(context)
    _await_begun(context, guests)
    facts, against = survey(context)
    rules = firewall.read(context.proxmox)
    going = _going(context, guests, facts)
    verdict = firewall.resolve(rules, going, _begun(context))
    names = context.dns.find(sorted(going.addresses), [g.name for g in guests])
    against += [*verdict.in_the_way, *_unasked(context, verdict.removal, names)]
    if not any(approvals.deletion_begun(context, guest) for guest in guests):
        # Deleting a guest takes the rights on its id along, so this can only be asked before the first one.
        against += [f"The token lacks {sentence}." for sentence in privileges.missing(context, "decommission")]
    if against:
        raise Refused("\n".join(against), "Nothing was changed.")
    site_works(context)
    there = [(guest, facts[guest.vmid]) for guest in guests if guest.vmid in facts]
    for guest, known in there:
        _ask(context, guest, known, going.vmids)
    shown = {"firewall": firewall.sentences(verdict.removal), "names": _keys(names)}
    for guest, known in there:
        if approvals.approval(context, guest) is None:
            agreed_to = {"vmid": guest.vmid, "facts": known.as_json(), "shown": shown}
            context.journal.note("decommission.approved", f"{guest} may be deleted", **agreed_to)
    stopped = [_stop(context, guest) for guest in guests if guest.vmid in facts]
    waiting = _soaking(context, [g for g in guests if g.vmid in facts])
    if waiting is not None:
        return Outcome(
            any(stopped),
            [
                f"{', '.join(str(g) for g in guests if g.vmid in facts)} are stopped.",
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
        said, waiting = _give_back(context, guest)
        sentences += said
        if waiting is not None:
            _write_undo(context)
            return Outcome(
                True,
                [
                    *sentences,
                    f"{guest} is not deleted; the site has to live without it until {waiting}; run the command again then.",
                ],
                undo="`cutover undo decommission` starts it again.",
                facts={"waiting_until": waiting},
            )
        site_works(context)
    _write_undo(context)
    table = [{"what": str(guest), "before": before[guest.vmid], "after": "gone"} for guest in guests]
    record = context.state_dir / "undo-decommission.json"
    way = f"Restore the final backups, then `cutover undo decommission`; {record} says what was there."
    unseen = [f"{caution}." for provider in context.dns.providers for caution in provider.cautions()]
    return Outcome(True, sentences, undo=way, facts={"table": table, "undo_record": str(record)}, warnings=unseen)


def _await_begun(context: Context, guests: Sequence[Guest]) -> None:
    """Wait for what an earlier run began with these guests and Proxmox still carries out: its locks are no foreign ones."""
    for guest in guests:
        if approvals.approval(context, guest) is None or approvals.completed(context, guest):
            continue
        for upid in context.proxmox.running_tasks(("vzshutdown", "vzstart", "vzdump", "vzdestroy"), guest.vmid):
            context.ui.say(f"A task of an earlier run still works on {guest}; waiting for it.")
            context.proxmox.wait_task(upid, deadline=vzdump.DUMP_SECONDS)


def _ask(context: Context, guest: Guest, facts: Facts, going: frozenset[int]) -> None:
    """Ask for the guest's name, typed, after saying what goes with it."""
    volumes = ", ".join(vzdump.options(value)["volume"] for value in vzdump.volumes(facts.config).values())
    along = "".join(f"; {sentence}" for sentence in references.goes_along(facts, going))
    context.confirm.by_name(guest.name, f"{guest} with {volumes} will be deleted{along}")


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
        _see_stopped(context, guest)
        return changed
    context.ui.say(f"Stopping {guest}, and looking at the site without it.")
    with context.guard.act("decommission.stop", f"Stop {guest}", before={"vmid": guest.vmid, "status": "running"}) as act:
        context.proxmox.do_task(
            "POST",
            f"{context.proxmox.of(guest)}/status/shutdown",
            kind="vzshutdown",
            vmid=guest.vmid,
            what=f"Stopping {guest}",
            deadline=STOP_SECONDS + 30.0,
            timeout=STOP_SECONDS,
        )
        _wait_for(context, guest, "stopped")
        act.after = {"vmid": guest.vmid, "status": "stopped", "started": _started(context, guest), "there": _their_time(context)}
    try:
        site_works(context)
    except Refused as error:
        _start(context, guest, "decommission.start-again")
        raise Failed(f"The site does not work without {guest}: {error.sentence} It was started again.", error.hint) from None
    return True


def _wait_for(context: Context, guest: Guest, status: str) -> None:
    def fact() -> bool | Not:
        now = str(context.proxmox.status(guest).get("status"))
        return True if now == status else Not(f"it is {now}")

    wait_until(fact, deadline=60, what=f"{guest} being {status}", every=context.proxmox.poll)


def _start(context: Context, guest: Guest, act: str) -> None:
    with context.guard.act(act, f"Start {guest} again", before={"vmid": guest.vmid}):
        context.proxmox.do_task(
            "POST",
            f"{context.proxmox.of(guest)}/status/start",
            kind="vzstart",
            vmid=guest.vmid,
            what=f"Starting {guest}",
            deadline=STOP_SECONDS,
        )
        _wait_for(context, guest, "running")


def _started(context: Context, guest: Guest) -> float:
    """When the guest was last started, or its disk replaced, by whomever, by Proxmox' own clock; 0 where nothing is known."""
    tasks = [
        task for task in context.proxmox.tasks(vmid=guest.vmid) if task.get("type") in {"vzstart", "vzrollback", "vzrestore"}
    ]
    return max((float(task.get("starttime") or 0) for task in tasks), default=0.0)


def _their_time(context: Context) -> float:
    """What time it is for Proxmox, seconds since 1970."""
    return float(context.proxmox.record(f"nodes/{context.site.proxmox.node}/time")["time"])


@dataclass(frozen=True)
class Down:
    """When a guest was first seen stopped: by our clock, and by Proxmox' (0: not written down)."""

    ours: float
    theirs: float


def _stopped_since(context: Context, guest: Guest) -> Down | None:
    """Since when the guest is known to be down: the first time that this tool saw it so after its last start, or None."""
    started = _started(context, guest)
    lines = [e for e in approvals.lines(context, guest.vmid) if e.act in approvals.DOWN and e.kind in {"done", "note"}]
    for entry in lines:
        said = entry.after or entry.extra
        # Each line has the start that was known then, because our clock and Proxmox' may differ.
        if float(said.get("started", -1)) >= started:
            return Down(_seconds(entry.at), float(said.get("there") or 0))
    return None


def _see_stopped(context: Context, guest: Guest) -> None:
    """Write down that the guest is down where we did not stop it ourselves: the soak time begins when that is known."""
    if _stopped_since(context, guest) is None:
        facts = {"vmid": guest.vmid, "started": _started(context, guest), "there": _their_time(context)}
        context.journal.note("decommission.seen-stopped", f"{guest} is stopped", **facts)


def soak_left(down: Sequence[Down], soak: float, ours: float, theirs: float) -> float:
    """How many seconds the site still has to live without guests that are down since then. Pure.

    A clock may have been set meanwhile, ours or Proxmox'. The one by which less time has passed is believed: waiting too long
    deletes nothing.
    """
    passed = [min(ours - one.ours, theirs - one.theirs if one.theirs else ours - one.ours) for one in down]
    return max((soak - max(0.0, seconds) for seconds in passed), default=0.0)


def _soaking(context: Context, guests: Sequence[Guest]) -> str | None:
    """Until when the site still has to live without these guests, or None."""
    soak = context.site.limits.soak_hours * 3600
    if soak <= 0:
        return None
    ours, theirs = time.time(), _their_time(context)
    left = soak_left([_stopped_since(context, guest) or Down(ours, theirs) for guest in guests], soak, ours, theirs)
    return _utc(ours + left) if left > 0 else None


# -- deleting one guest ---------------------------------------------------------------------------


def _give_back(context: Context, guest: Guest) -> tuple[list[str], str | None]:
    """Sentences, and until when to wait where somebody used the guest meanwhile (nothing of it is deleted then), else None."""
    agreed = approvals.approval(context, guest)
    if agreed is None:
        raise Refused(f"{guest} was not approved; nothing of it was deleted.")
    said: list[str] = []
    if identity.read(context, guest) is not None and not approvals.deleted(context, guest):
        waiting = _delete_as_backed_up(context, guest, agreed, said)
        if waiting is not None:
            return said, waiting
    else:
        _see_deleted(context, guest)
    _forget_names_that_waited(context, guest)
    left = references.left_behind(context, guest.vmid)
    note = approvals.last(context, guest.vmid, "decommission.backup", "note")
    kept = note.extra["archive"]["volid"] if note is not None else "unknown"
    context.journal.note("decommission.gone", f"{guest} is given back", vmid=guest.vmid, left_behind=left, backup=kept)
    _write_undo(context)
    sentence = f"{guest} is deleted; its final backup is {kept}."
    return [sentence, *said, *(f"Left behind, for you to judge: {volume}." for volume in left)], None


def _delete_as_backed_up(context: Context, guest: Guest, agreed: approvals.Approval, said: list[str]) -> str | None:
    """F6: delete the guest as its final backup holds it. Until when to wait, where somebody needed it meanwhile; else None.

    Whether it was used since is asked last of all, right before the deletion: backing up, restoring on trial and putting rules
    and names away take as long as they take, and somebody may have started it in that time.
    """
    for _ in range(BACKUPS):
        _unchanged(context, guest, agreed)
        archive = _final_backup(context, guest, agreed)
        said += _forget(context, guest)
        _unchanged(context, guest, agreed)
        vzdump.verify(context, guest, archive, agreed.facts["config"])
        used = activity.since(context, guest, archive.ctime)
        if not used:
            _delete(context, guest, agreed, archive)
            return None
        context.ui.say(f"{used}; it is backed up anew.")
        said.append(f"{used}, so that backup is not its final one.")
        _see_stopped(context, guest)
        waiting = _soaking(context, [guest])
        if waiting is not None:
            return waiting
    raise Failed(
        f"{guest} was not deleted: it was used again after each of {BACKUPS} final backups.",
        "Find out who starts it; `cutover undo decommission` gives it back.",
    )


def _unchanged(context: Context, guest: Guest, agreed: approvals.Approval) -> None:
    """F4: the guest is the approved one, stopped, and nothing new speaks against deleting it."""
    here = references.collect(context, guest)
    if here is None:
        raise Failed(f"{guest} disappeared while it was being given back.", "Look in Proxmox who deleted it.")
    wrong = agreed.identity.differences(here.identity)
    wrong += _speaks_against(context, guest, here, agreed)
    wrong += [f"it is {here.status}"] if here.status != "stopped" else []
    if not approvals.deletion_begun(context, guest):
        wrong += _other_volumes(agreed.facts["config"], here.config)
    if wrong:
        raise Refused(f"{guest} was not deleted: {references.in_words(wrong)}.", "Look at it, then run the command again.")


def _other_volumes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Volumes that the guest got since it was approved: they would be deleted, and nobody agreed to that."""
    was, there = vzdump.volumes(then), vzdump.volumes(now)
    return [f"it has the volume {there[key]} as {key} since" for key in sorted(set(there) - set(was))]


def _final_backup(context: Context, guest: Guest, agreed: approvals.Approval) -> vzdump.Archive:
    """F3: a protected backup of the guest as it is now, that was restored on trial once."""
    # One that was made before somebody started the guest once more lacks what was written then.
    fresh = activity.unchanged_from(context.proxmox.tasks(vmid=guest.vmid))
    _let_pass(context, fresh)
    archive = vzdump.make(context, guest, purpose=agreed.purpose, mode="stop", after=fresh)
    proofs = vzdump.verify(context, guest, archive, agreed.facts["config"])
    known = approvals.last(context, guest.vmid, "decommission.backup", "note")
    if known is not None and known.extra["archive"] == archive.as_json():
        return archive
    proofs += vzdump.try_restore(context, guest, archive, agreed.facts["config"])
    context.journal.note("decommission.backup", f"{guest}: {'; '.join(proofs)}", vmid=guest.vmid, archive=archive.as_json())
    return archive


def _let_pass(context: Context, moment: float) -> None:
    """Wait until Proxmox' clock, which has whole seconds, is past the second in which the guest was used last."""

    def passed() -> bool | Not:
        return True if _their_time(context) >= moment else Not("that second is not over")

    with suppress(TimedOut):  # a clock that was set back; then the backup does not count and that is said
        wait_until(passed, deadline=1.5, what="The second", every=context.proxmox.poll)


def _up_to(context: Context, guest: Guest) -> list[Guest]:
    """The guest and those that are gone already: a rule about two of them goes with the second."""
    return [g for g in context.site.guests.to_decommission() if approvals.completed(context, g) or g.vmid == guest.vmid]


def _forget(context: Context, guest: Guest) -> list[str]:
    """F5: remove the firewall rules and names that are this guest's alone. Rules before the guest; see the firewall module."""
    going = _going(context, _up_to(context, guest), {})
    rules = firewall.read(context.proxmox)
    removal = firewall.resolve(rules, going, _begun(context)).removal
    names = [g.name for g in _up_to(context, guest)]
    found = context.dns.find(sorted(going.addresses), names)
    if unasked := _unasked(context, removal, found):
        raise Refused(references.in_words(unasked))
    if removal:
        context.journal.note(
            "decommission.firewall.planned",
            f"{guest}: {len(firewall.sentences(removal))} firewall entries go",
            vmid=guest.vmid,
            undo=firewall.undo_record(rules, removal),
        )
        _write_undo(context)
        firewall.carry_out(context.proxmox, context.guard, rules, removal)
    if found.records:
        count = f"{guest}: {len(found.records)} records go"
        context.journal.note("decommission.dns.planned", count, vmid=guest.vmid, undo=found.as_json())
        _write_undo(context)
        context.dns.delete(found, names)
    said = [f"Removed: {sentence}." for sentence in firewall.sentences(removal)]
    return said + [f"Removed: record {record}." for _, record in found.records]


def _forget_names_that_waited(context: Context, guest: Guest) -> None:
    """Aliases and sets that the guest's own rules used; they could not go before it."""
    rules = firewall.read(context.proxmox)
    removal = firewall.resolve(rules, _going(context, _up_to(context, guest), {}), _begun(context)).removal
    if unasked := _unasked(context, removal, Found((), (), (), ())):
        raise Refused(references.in_words(unasked))
    if removal:
        undo = firewall.undo_record(rules, removal)
        context.journal.note("decommission.firewall.planned", f"{guest}: names that had to wait", vmid=guest.vmid, undo=undo)
        firewall.carry_out(context.proxmox, context.guard, rules, removal)


def _delete(context: Context, guest: Guest, agreed: approvals.Approval, archive: vzdump.Archive) -> None:
    before = {"vmid": guest.vmid, "identity": agreed.identity.as_json(), "backup": archive.volid}
    context.ui.say(f"Deleting {guest}.")
    with context.guard.act("decommission.delete", f"Delete {guest}", before=before) as act:
        # Not "destroy-unreferenced-disks": on storage that two clusters share it would free somebody else's volumes.
        context.proxmox.do_task(
            "DELETE",
            context.proxmox.of(guest),
            kind="vzdestroy",
            vmid=guest.vmid,
            what=f"Deleting {guest}",
            deadline=DELETE_SECONDS,
            purge=1,
        )
        if identity.read(context, guest) is not None:
            raise Failed(f"Proxmox says that {guest} was deleted, and still lists it.")
        act.after = {"vmid": guest.vmid, "gone": True}


def _see_deleted(context: Context, guest: Guest) -> None:
    """The deletion was interrupted after it happened: write down that it was seen."""
    if not approvals.deleted(context, guest):
        with context.guard.act("decommission.delete", f"See that {guest} is deleted", before={"vmid": guest.vmid}) as act:
            act.after = {"vmid": guest.vmid, "gone": True}


# -- the way back ---------------------------------------------------------------------------------


def undo_record(context: Context) -> dict[str, Any]:
    """Everything that was there before, per guest: facts, firewall, names, final backup. JSON."""
    found = []
    for guest in context.site.guests.to_decommission():
        agreed = approvals.approval(context, guest)
        lines = approvals.lines(context, guest.vmid)
        backup = approvals.last(context, guest.vmid, "decommission.backup", "note")
        found.append(
            {
                "guest": str(guest),
                "vmid": guest.vmid,
                "before": agreed.facts if agreed is not None else None,
                "backup": backup.extra["archive"]["volid"] if backup is not None else None,
                "firewall": [e.extra["undo"] for e in lines if e.act == "decommission.firewall.planned"],
                "names": [e.extra["undo"] for e in lines if e.act == "decommission.dns.planned"],
                "gone": approvals.completed(context, guest),
            }
        )
    return {"site": context.site.name, "guests": found}


def _write_undo(context: Context) -> None:
    told = json.dumps(context.credentials.redact_tree(undo_record(context)), indent=1, ensure_ascii=False)
    files.replace(context.state_dir / "undo-decommission.json", told + "\n")  # the computer may die here, too


def _not_put_back(context: Context) -> list[tuple[Guest, list[Mapping[str, Any]], list[Mapping[str, Any]]]]:
    """Of each guest the undo records of firewall entries and of names that were not put back since, newest guest first."""
    last = max((e.seq for e in context.journal.acts("decommission.put-back") if e.kind == "note"), default=0)
    found = []
    for guest in reversed(context.site.guests.to_decommission()):
        lines = [e for e in approvals.lines(context, guest.vmid) if e.seq > last]
        rules = [e.extra["undo"] for e in reversed(lines) if e.act == "decommission.firewall.planned"]
        names = [e.extra["undo"] for e in lines if e.act == "decommission.dns.planned"]
        if rules or names:
            found.append((guest, rules, names))
    return found


def _gone_ones(context: Context) -> list[tuple[Guest, str]]:
    """The guests that were deleted, each with its final backup."""
    rows = {row["vmid"]: row for row in undo_record(context)["guests"]}
    return [(g, str(rows[g.vmid]["backup"])) for g in context.site.guests.to_decommission() if rows[g.vmid]["gone"]]


def plan_undo(context: Context) -> Sequence[Sentence]:
    """What giving them back to their users would do. Reads only."""
    found = [Sentence(f"Start {guest} again") for guest in _still_there(context)]
    for guest, rules, names in _not_put_back(context):
        if rules:
            found.append(Sentence(f"Put the firewall entries of {guest} back in their places"))
        if names:
            found.append(Sentence(f"Put the names of {guest} back"))
    return found + [Sentence(f"By hand: restore {guest} from {backup}") for guest, backup in _gone_ones(context)]


def _still_there(context: Context) -> list[Guest]:
    guests = context.site.guests.to_decommission()
    return [
        g
        for g in guests
        if approvals.approval(context, g) is not None
        and identity.read(context, g) is not None
        and not approvals.deleted(context, g)
    ]


def undo(context: Context) -> Outcome:
    """Put names and firewall entries back, start what still exists, withdraw its approval; name the backups of deleted ones.

    Done twice it is done once: what is there is not made again, and what was put back and changed by others since is theirs.
    """
    said: list[str] = []
    waiting = _not_put_back(context)
    begun = firewall.interrupted(context.journal.entries())
    for guest, rules, names in waiting:
        for entry in rules:
            firewall.restore(context.proxmox, context.guard, entry, begun)
        for entry in names:
            context.dns.put_back(entry)
        said.append(f"Firewall entries and names of {guest} are back.")
    if waiting:
        context.journal.note("decommission.put-back", "The firewall entries and names that were removed are back")
    for guest in _still_there(context):
        _as_before(context, guest)
        said.append(f"{guest} is as it was.")
    changed = bool(said)
    said += [f"{guest} was deleted: restore it from {backup}." for guest, backup in _gone_ones(context)]
    return Outcome(changed, said or ["There is nothing to undo."])


def _as_before(context: Context, guest: Guest) -> None:
    """Let a guest start with the host again and start it, where it did and ran; withdraw its approvals.approval."""
    agreed = approvals.approval(context, guest)
    if agreed is None:
        return
    if agreed.facts["config"].get("onboot") and not int(context.proxmox.config(guest).get("onboot") or 0):
        with context.guard.act("decommission.autostart", f"Let {guest} start with the host again", before={"vmid": guest.vmid}):
            context.proxmox.change("PUT", f"{context.proxmox.of(guest)}/config", onboot=1)
    if agreed.facts["status"] == "running" and context.proxmox.status(guest).get("status") != "running":
        _start(context, guest, "decommission.start-again")
    context.journal.note("decommission.withdrawn", f"{guest} is not to be deleted", vmid=guest.vmid)


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
    plan=plan,
    do=do,
    step=_step,
    undo=undo,
    plan_undo=plan_undo,
    overview=overview,
    privileges="decommission",
)
