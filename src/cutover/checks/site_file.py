"""Whether ``site.yaml`` still says what the servers say: the discovery of `cutover init`, compared with the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover.checks.registry import Finding, check

if TYPE_CHECKING:
    from cutover.context import Context


@check("A3", "site.yaml says what the servers say")
def as_found(context: Context) -> Finding:
    """Every value that a server tells, and that is not a choice of the operator."""
    from cutover.discovery import survey  # with its own client of name servers: no other check needs one
    from cutover.discovery.facts import differences

    found = survey.of_site(context)
    apart = differences(found, context.site.model_dump(exclude_none=True))
    told = sum(not fact.gap and not fact.chosen for fact in found.facts.values())
    facts = {"found": {fact.name: fact.value for fact in found.facts.values() if not fact.gap}}
    if apart:
        said = "; ".join(map(str, apart))
        return Finding(
            False, f"site.yaml and the site have come apart: {said}.", "`cutover init` shows what it would change.", facts
        )
    return Finding(True, f"site.yaml says what the servers say, in {told} values.", facts=facts)
