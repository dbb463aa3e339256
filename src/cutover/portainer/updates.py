"""How a stack follows new commits: what site.yaml wants, what Portainer has, and what other stacks share. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutover.portainer import compose_file

if TYPE_CHECKING:
    from cutover.portainer.stack import Stack
    from cutover.site.schema import Site


def auto_update(site: Site, stack: Stack | None) -> dict[str, Any] | None:
    """What Portainer should do about new commits, in its own words. A webhook that exists keeps its address."""
    mode = site.portainer.auto_update.mode
    if mode == "none":
        return None
    known = ((stack.auto_update or {}) if stack else {}).get("Webhook") or ""
    return {
        "Interval": site.portainer.auto_update.interval if mode == "polling" else "",
        "Webhook": (known or str(uuid.uuid4())) if mode == "webhook" else "",
        "ForceUpdate": False,
        "ForcePullImage": False,
    }


def updates_as_wanted(site: Site, stack: Stack) -> bool:
    """Whether the stack follows new commits as site.yaml says."""
    now, should = stack.auto_update or {}, auto_update(site, stack) or {}
    return polls_as(stack, should) and bool(now.get("Webhook")) == bool(should.get("Webhook")) and not restarts_unasked(now)


def polls_as(stack: Stack, should: Mapping[str, Any]) -> bool:
    """Whether the stack is polled as often as ``should`` says. As lengths of time: Go writes ``5m`` back as ``5m0s``. Pure."""
    now = (stack.auto_update or {}).get("Interval") or ""
    return compose_file.seconds(now) == compose_file.seconds(should.get("Interval") or "")


def how_it_polls(stack: Stack) -> str:
    """How often Portainer looks for new commits of a stack, a clause. Pure."""
    every = (stack.auto_update or {}).get("Interval")
    return f"Portainer looks for new commits every {every}" if every else "Portainer never looks for new commits"


def shared_source(site: Site, stack: Stack | None) -> str:
    """Why the stack cannot be polled as site.yaml says without changing other stacks, a sentence; empty where it can. Pure."""
    if stack is None or stack.source is None or stack.source.used_by < 2 or polls_as(stack, auto_update(site, stack) or {}):
        return ""
    return (
        f"{how_it_polls(stack)} of the stack {stack.name}, and site.yaml says {in_site_yaml(site)}. That is a setting of its Git "
        f"source, which {stack.source.used_by} stacks of this repository share: change it in Portainer (GitOps > Sources) for "
        "all of them, or write what it is into site.yaml (portainer.auto_update)."
    )


def in_site_yaml(site: Site) -> str:
    """What site.yaml says about new commits, in its words."""
    update = site.portainer.auto_update
    return f"{update.mode} every {update.interval}" if update.mode == "polling" else update.mode


def restarts_unasked(update: Mapping[str, Any]) -> bool:
    """Whether automatic updates make the container anew at every poll, or pull an image by themselves, with no commit. Pure."""
    return bool(update.get("ForceUpdate") or update.get("ForcePullImage"))
