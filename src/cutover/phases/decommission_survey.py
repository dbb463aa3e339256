"""Before an old guest is stopped or deleted: who it is, what goes with it, and everything that speaks against it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cutover.checks import registry
from cutover.checks.registry import Moment
from cutover.core import events
from cutover.core.errors import Refused, Unreachable
from cutover.phases import departing
from cutover.proxmox import activity, firewall, identity, privileges, references, storages, vzdump
from cutover.state import approvals, soak

if TYPE_CHECKING:
    from cutover.checks.registry import Check, Finding
    from cutover.context import Context
    from cutover.dns.names import Found
    from cutover.proxmox.firewall.removal import Resolution
    from cutover.proxmox.references import Facts
    from cutover.site.schema import Guest


@dataclass(frozen=True)
class Survey:
    """What there is of the old guests: the ``facts`` of each that is still there, by VMID, and what goes with them.

    ``unproved``: firewall entries that stay because only the journal says whose their address was. ``unsure``: what the storages
    did not tell beforehand.
    """

    facts: Mapping[int, Facts]
    within: departing.Scope
    going: firewall.Going
    rules: firewall.Firewall
    verdict: Resolution
    names: Found
    unproved: Sequence[str]
    unsure: Sequence[str]

    @property
    def along(self) -> departing.Along:
        """Firewall entries and names that go with the guests."""
        return departing.Along.of(self.verdict.removal, self.names)


def survey(context: Context) -> tuple[Survey, list[str]]:
    """What there is, and everything that speaks against going on, as sentences. Reads only."""
    guests, removing = context.site.guests.to_decommission(), begun(context)
    facts, against = take(context)
    rules, within = firewall.read(context.proxmox), departing.scope(context, facts)
    going = departing.going(context, guests, within)
    verdict = firewall.resolve(rules, going, removing)
    names = context.dns.find(sorted(going.addresses), [g.name for g in guests])
    unproved = departing.unproved(context, rules, within, removing)
    found = Survey(facts, within, going, rules, verdict, names, unproved, ())
    against += [*verdict.in_the_way, *departing.unasked(context, found.along, within)]
    if not against:
        seen = room(context, facts)
        found, against = replace(found, unsure=seen.unsure), [*seen.against]
    works = [f"{check.criterion}: {finding.sentence} {finding.hint}".strip() for check, finding in not_met(context)]
    return found, [*not_validated(context), *against, *works]


def not_validated(context: Context) -> list[str]:
    """F1: why nothing may be deleted yet, as sentences: the way back was not given up on purpose, or the old server serves."""
    if events.finished(context.journal.entries(), "finish") is None:
        not_finished = "Nothing is deleted while the way back is open: the move was not finished."
        return [f"{not_finished} Watch the new server, then `cutover finish`."]
    if context.gate.state().side != "new":
        return ["Nginx still sends traffic to the old server; it must not be deleted. `cutover switch`, then `cutover finish`."]
    return []


def not_met(context: Context) -> list[tuple[Check, Finding]]:
    """The checks that have to hold before something is deleted and do not. What cannot be evaluated is not good."""
    asked = registry.ask_all(context, moment=Moment.BEFORE_DELETING)
    return [(check, finding) for check, finding in asked if finding.ok is not True]


def site_works(context: Context) -> None:
    """:class:`Refused` where one of these checks does not hold."""
    for check, finding in not_met(context):
        raise Refused(f"{check.criterion}: {finding.sentence}", finding.hint)


def take(context: Context) -> tuple[dict[int, Facts], list[str]]:
    """(facts of every guest that is still there, everything that speaks against going on). Reads only."""
    found: dict[int, Facts] = {}
    against: list[str] = []
    seen = references.look(context)
    against += [*context.proxmox.no_quorum(), *_unseen(context)]
    for guest in context.site.guests.to_decommission():
        facts, agreed = references.collect(context, guest, seen), approvals.approval(context, guest)
        if facts is not None and approvals.deleted(context, guest):
            if agreed is not None and agreed.identity.differences(facts.identity):
                continue  # somebody made another guest with this id since
            against.append(f"The journal says that {guest} was deleted, and it is there. Whose is {context.journal.path}?")
        if facts is None:
            if not approvals.deletion_begun(context, guest):
                against.append(f"{guest} does not exist, and this tool did not delete it.")
            continue
        found[guest.vmid] = facts
        wrong = departing.not_meant(context, guest, facts, agreed)
        reason = f"{guest} is not the guest " + (f"that was approved on {agreed.at}" if agreed is not None else "of site.yaml")
        if agreed is None and not wrong and not facts.addresses and identity.networks(facts.config):
            against.append(
                f"{guest}: Proxmox knows no address of it, so its firewall rules and DNS names cannot be found: start "
                "it, or write its address into its configuration."
            )
        against += [f"{reason}: {'; '.join(wrong)}."] if wrong else []
        against += [f"{guest}: {sentence}." for sentence in speaks_against(context, guest, facts, agreed)]
        against += _running_again(context, guest, facts)
    if not any(approvals.deletion_begun(context, guest) for guest in context.site.guests.to_decommission()):
        # Deleting a guest takes the rights on its id along, so this can only be asked before the first one.
        against += [f"The token lacks {sentence}." for sentence in privileges.missing(context, "decommission")]
    return found, against


def _unseen(context: Context) -> list[str]:
    """What Proxmox would not tell later, in the middle: the time on it, and who used a guest."""
    found: list[str] = []
    for guest in context.site.guests.to_decommission():
        try:
            soak.their_time(context)
            activity.may_see(context, guest.vmid)
            context.proxmox.tasks(vmid=guest.vmid, limit=1)
        except (Refused, Unreachable) as error:
            found.append(error.sentence)
    return list(dict.fromkeys(found))


def room(context: Context, facts: Mapping[int, Facts]) -> storages.Verdict:
    """Whether the storages can take the final backups that are still to be made, all of them before the first deletion."""
    left = [g for g in context.site.guests.to_decommission() if g.vmid in facts and facts[g.vmid].identity.kind == "lxc"]
    new = []
    for guest in left:
        agreed = approvals.approval(context, guest)
        if agreed is None or vzdump.find(context, guest, agreed.purpose) is None:
            new.append(guest)
    return storages.judge(context, left, new)


def speaks_against(context: Context, guest: Guest, facts: Facts, agreed: approvals.Approval | None) -> list[str]:
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


def begun(context: Context) -> list[Mapping[str, Any]]:
    """The undo records of firewall removals that were begun."""
    return [e.extra["undo"] for e in context.journal.acts("decommission.firewall.planned")]
