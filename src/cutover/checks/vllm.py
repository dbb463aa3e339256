"""vLLM, the other service behind the same Nginx: untouched, and answering all the time (criterion D3).

The first time it is asked by a command that may change things, its portrait goes into the journal; every later time it is
compared with that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutover import availability
from cutover.checks.registry import Finding, Moment, check
from cutover.vllm import Portrait

if TYPE_CHECKING:
    from cutover.context import Context

NOTE = "vllm.portrait"
_HINT = "Nothing of this plan changes vLLM: look at Nginx's configuration first, then at vLLM itself."


def remembered(context: Context) -> Portrait | None:
    """vLLM as it was when it was first looked at, or None."""
    found = [entry for entry in context.journal.entries() if entry.act == NOTE and entry.kind == "note"]
    return Portrait.from_json(found[0].extra["portrait"]) if found else None


def changed(before: Portrait, now: Portrait) -> Finding | None:
    """What vLLM is not any more; None where it is what it was."""
    wrong = before.differences(now)
    return Finding(False, f"vLLM is not what it was: {'; '.join(wrong)}.", _HINT, now.as_json()) if wrong else None


@check(
    "D3",
    "vLLM is untouched and answers through Nginx",
    moments={Moment.BEFORE, Moment.AT_SWITCH, Moment.AFTER, Moment.BEFORE_DELETING},
)
def untouched(context: Context) -> Finding:
    """vLLM answers a question through Nginx, and is the one that was there at the beginning."""
    if not context.vllm.healthy():
        return Finding(False, f"vLLM does not say through Nginx that it is healthy ({context.site.vllm.public_url}).", _HINT)
    now = context.vllm.portrait()
    before = remembered(context)
    if before is None:
        if context.execute:
            context.journal.note(NOTE, "vLLM as it was at the beginning", portrait=now.as_json())
        return Finding(True, f"vLLM answers through Nginx with {', '.join(now.models)}.", facts=now.as_json())
    if found := changed(before, now):
        return found
    same = "the same answer" if now.answer and before.answer else "an answer"
    return Finding(True, f"vLLM answers through Nginx as before: {', '.join(now.models)}, {same}.", facts=now.as_json())


@check("D3", "vLLM answered through Nginx all the time while the tool worked", moments={Moment.AFTER})
def answered_meanwhile(context: Context) -> Finding:
    """What was recorded while steps were carried out."""
    found = availability.judge(availability.VLLM, availability.load(context), context.journal.entries())
    hint = "Look at Nginx's error log of that moment, and at vLLM's own." if found.ok is False else ""
    return Finding(found.ok, found.sentence, hint, found.facts)
