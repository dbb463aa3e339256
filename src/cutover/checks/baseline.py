"""The site as it was before the move, kept to compare with: what changed afterwards must be what the plan said, and nothing else.

``check --moment before`` takes it, read-only: what Qdrant answers to real queries (taken from its own records), whom it lets in,
its collections, Portainer's state, vLLM's portrait, Nginx's configuration, the guests, names, firewall. ``check --moment after``
asks the same again. It lies in the state folder and holds vectors of the sample, so only its owner can read it. Once something
was changed it is not taken again: then it would no longer be the site from before.

Records that applications changed meanwhile are left out and counted; whether those are right is for the checks of the move, which
compare both servers. What could not be read when it was taken cannot be compared, and is said to be so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutover.checks import vllm
from cutover.checks.qdrant import questions, same_answer
from cutover.checks.registry import Finding
from cutover.core import files
from cutover.core.errors import CutoverError, Refused, Unreachable
from cutover.core.journal import Journal, now
from cutover.core.threads import side_by_side
from cutover.portainer import picture
from cutover.portainer.picture import Picture
from cutover.proxmox import firewall, identity
from cutover.qdrant import access
from cutover.qdrant.access import Caller, Right
from cutover.qdrant.client import points_of
from cutover.qdrant.looking import some
from cutover.qdrant.pages import Limits
from cutover.vllm import Portrait

if TYPE_CHECKING:
    from cutover.context import Context

FORMAT = 1
#: Records of each collection that are asked for.
SAMPLE = 20


@dataclass(frozen=True)
class Baseline:
    """What was there. ``parts`` by name; ``missing`` says why a part could not be read."""

    site: str
    at: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def path_of(context: Context) -> Path:
    """Where it is kept."""
    return context.state_dir / "baseline.json"


def load(context: Context) -> Baseline | None:
    """The baseline of this site, or None where none was taken. :class:`Refused` where the file is of another site or broken."""
    path = path_of(context)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != FORMAT:
            raise Refused(f"{path} is of another version of this tool.", "Use that version, or remove the file.")
        baseline = Baseline(**found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise Refused(f"{path} cannot be read.", "Restore it, or remove it; then nothing is compared.") from None
    if baseline.site != context.site.name:
        raise Refused(f"{path} is of site {baseline.site!r}.", "Give each site its own --state-dir.")
    return baseline


def begun(context: Context) -> str:
    """When the first change of this site was made; empty where none was."""
    entries = Journal(context.state_dir, context.site.name).entries()
    return next((e.at for e in entries if e.kind == "intent"), "")


def take(context: Context) -> Baseline:
    """Read everything and keep it. Contacts every system, changes none. Refused once something was changed."""
    if since := begun(context):
        raise Refused(
            f"The site was changed at {since}, so this is not what it was before.",
            "The baseline that was taken before stays; it is removed by hand where a new move begins.",
        )
    parts: dict[str, Any] = {}
    missing: dict[str, str] = {}
    with context.ui.looking() as at:
        for name, read in _PARTS.items():
            at(f"Keeping what there is: {name}")
            try:
                parts[name] = json.loads(json.dumps(read(context), default=str))
            except CutoverError as error:
                missing[name] = context.credentials.redact(error.sentence)
    made = Baseline(context.site.name, now(), parts, missing)
    told = context.credentials.redact_tree(json.loads(json.dumps(vars(made), default=str)))
    text = json.dumps({"format": FORMAT, **told}, ensure_ascii=False, indent=1)
    path = path_of(context)
    files.private_folder(path.parent)
    files.replace(path, text)
    return made


def compare(context: Context, before: Baseline) -> list[tuple[str, str, Finding]]:
    """(criterion, title, finding) of every part. Reads only."""
    found = []
    with context.ui.looking() as at:
        for name, (criterion, title, judge) in _COMPARED.items():
            if name not in before.parts:
                why = before.missing.get(name, "it was not read")
                found.append((criterion, title, Finding(None, f"{title}: not in the baseline of {before.at}, because {why}")))
                continue
            at(f"Comparing with {before.at}: {name}")
            try:
                found.append((criterion, title, judge(context, before.parts[name])))
            except CutoverError as error:
                found.append((criterion, title, Finding(None, error.sentence, error.hint)))
    return found


# -- Qdrant -----------------------------------------------------------------------------------------------------------
def _qdrant(context: Context) -> dict[str, Any]:
    server = context.public

    def one(name: str) -> dict[str, Any]:
        ids = server.sample(name, SAMPLE) or [r["id"] for r in points_of(some(server, name, SAMPLE))]
        records = points_of(server.records(name, ids)) if ids else []
        info = server.info(name)
        asked = questions(records, ids, Limits.of(info), most=len(ids))
        return {
            "count": server.count(name),
            "config": info["config"],
            "records": [[r["id"], _digest(r)] for r in records],
            "questions": [{"ask": q, "answer": _scores(context, name, q)} for q in asked],
        }

    names = sorted(server.collections())
    found = side_by_side([partial(one, name) for name in names])
    return {"aliases": server.aliases(), "collections": dict(zip(names, found, strict=True))}


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]


def _scores(context: Context, name: str, question: Mapping[str, Any]) -> list[tuple[Any, float | None]]:
    return [(p["id"], p["score"]) for p in context.public.query(name, question)]


def _same_answers(context: Context, before: Any) -> Finding:
    wrong, same, changed, asked = [], 0, 0, 0
    there = set(context.public.collections())
    for name, was in before["collections"].items():
        if name not in there:
            wrong.append(f"the collection {name} is gone")
            continue
        if (config := context.public.info(name)["config"]) != was["config"]:
            parts = [k for k in {*config, *was["config"]} if config.get(k) != was["config"].get(k)]
            wrong.append(f"{name} has other settings ({', '.join(sorted(parts))})")
        ids = [one for one, _ in was["records"]]
        now_ = {r["id"]: _digest(r) for r in points_of(context.public.records(name, ids))} if ids else {}
        kept = [one for one, digest in was["records"] if now_.get(one) == digest]
        same, changed = same + len(kept), changed + len(ids) - len(kept)
        for question in was["questions"] if kept else []:
            among = [one for one in question["ask"]["filter"]["must"][0]["has_id"] if one in kept]
            ask = question["ask"] | {"filter": {"must": [{"has_id": among}]}}
            asked += 1
            was_ranked = [(record, score) for record, score in question["answer"] if record in kept]
            now_ranked, limit = _scores(context, name, ask), None
            if len(question["answer"]) == ask["limit"]:  # of what was cut off then, some may have come up since
                limit = len(was_ranked)
                now_ranked = now_ranked[:limit]
            if not same_answer(ask, was_ranked, now_ranked, Limits.of(was), limit=limit):
                wrong.append(f"a search in {name} ranks differently")
    aliases = context.public.aliases()
    gone = {a: c for a, c in before["aliases"].items() if aliases.get(a) != c}
    wrong += [f"the alias {a} does not name {c} any more" for a, c in gone.items()]
    if wrong:
        return Finding(False, f"Qdrant does not answer through Nginx as before: {'; '.join(wrong)}.", "Look at C3 and D1.")
    if not same and changed:
        return Finding(None, f"All {changed} records of the sample were changed meanwhile, so nothing can be compared.")
    meanwhile = f"; {changed} others were changed meanwhile and left out" if changed else ""
    return Finding(True, f"{same} records and {asked} searches give through Nginx what they gave before{meanwhile}.")


def _access(context: Context) -> Mapping[Caller, Right]:
    return access.access_of(context.public, context.credentials)


def _same_access(context: Context, before: Any) -> Finding:
    was = {Caller(caller): Right(right) for caller, right in before.items()}
    now_ = _access(context)
    if found := access.differences(was, now_):
        said = "; ".join(f"{one.caller} {one.here} before, and {one.there} now" for one in found)
        return Finding(False, f"Qdrant does not let in through Nginx whom it let in before: {said}.", "Look at A5.")
    both = {caller: right for caller, right in now_.items() if caller in was}
    untried = sorted({*was, *now_} - {*both})
    left = f" Not compared, because the key was not given both times: {', '.join(untried)}." if untried else ""
    return Finding(True, f"Qdrant lets in through Nginx whom it let in before: {access.as_said(both)}.{left}")


# -- Portainer, vLLM --------------------------------------------------------------------------------------------------
def _same_portainer(context: Context, before: Any) -> Finding:
    name = context.site.portainer.stack
    now_ = context.portainer.picture()
    volumes = [v for v in {*before["volumes"], *now_.volumes} if v.startswith(f"{name}_")]
    found = picture.differences(
        Picture.from_facts(before), now_, ours=name, our_volumes=volumes, restarted=_ever(context, "resize")
    )
    if found:
        return Finding(False, " ".join(found), "Find out who changed it before going on.")
    return Finding(True, "Portainer has the same environments, and all other stacks and containers as before.")


def _same_vllm(context: Context, before: Any) -> Finding:
    now_ = context.vllm.portrait()
    return vllm.changed(Portrait.from_json(before), now_) or Finding(True, f"vLLM serves {', '.join(now_.models)} as before.")


# -- Nginx ------------------------------------------------------------------------------------------------------------
def _nginx(context: Context) -> dict[str, str]:
    """Checksums of Nginx's files, with the old server's address wherever the plan has put another."""
    installer = context.gate.installer
    return {
        path: hashlib.sha256(text.strip().encode("utf-8", errors="surrogateescape")).hexdigest()
        for path, text in installer.addresses.as_before(installer.host.configuration()).items()
    }


def _same_nginx(context: Context, before: Any) -> Finding:
    now_ = _nginx(context)
    changed = sorted(path for path in {*before, *now_} if before.get(path) != now_.get(path))
    if changed:
        return Finding(
            False, f"Nginx's configuration changed where the plan changes nothing: {', '.join(changed)}.", "Find out who did it."
        )
    return Finding(
        True, f"Nginx's {len(now_)} files are as before, but for the address that leads to Qdrant where the gate is in."
    )


# -- Proxmox, names ---------------------------------------------------------------------------------------------------
def _guests(context: Context) -> dict[str, Any]:
    found = {}
    for guest in context.site.guests.all():
        row = context.proxmox.guest(guest.vmid)
        if row is None:
            continue
        if "unread" in row:
            raise Unreachable(f"{guest} on node {row['node']} cannot be looked at: {row['unread']}")
        kept = {k: v for k, v in row["config"].items() if k not in {"digest", "meta", "parent", "pending"}}
        found[str(guest.vmid)] = {"status": row["status"], **kept}
    return found


def _same_guests(context: Context, before: Any) -> Finding:
    site = context.site
    allowed: dict[str, set[str]] = {}
    if _ever(context, "resize"):
        allowed[str(site.guests.new.vmid)] = {"cores", "memory", "balloon", site.resize.disk, "status"}
    going = {str(g.vmid) for g in site.guests.to_decommission()}
    now_ = json.loads(json.dumps(_guests(context), default=str))
    wrong, planned = [], 0
    for vmid, was in before.items():
        is_ = now_.get(vmid, {})
        for key in sorted(k for k in {*was, *is_} if was.get(k) != is_.get(k)):
            if key in allowed.get(vmid, set()) or (vmid in going and _giving_back(context)):
                planned += 1
            else:
                wrong.append(f"{vmid}.{key}: {was.get(key, 'absent')} before, {is_.get(key, 'absent')} now")
    if wrong:
        return Finding(False, f"Guests changed where the plan changes nothing: {'; '.join(wrong[:6])}.", "Find out who did it.")
    return Finding(True, f"{len(before)} guests are as before" + (f"; {planned} settings differ as planned." if planned else "."))


def _giving_back(context: Context) -> bool:
    return _ever(context, "decommission")


def _ever(context: Context, verb: str) -> bool:
    """Whether a step was ever begun, undone or not: an undo does not give everything back (a disk cannot shrink)."""
    return any(e.act.startswith(f"{verb}.") for e in Journal(context.state_dir, context.site.name).entries())


def _firewall(context: Context) -> dict[str, Any]:
    return firewall.read(context.proxmox).as_json()


def _names(context: Context) -> list[str]:
    guests = context.site.guests.all()
    addresses = sorted({address for g in guests for address in identity.resolved(g.address)})
    listed = (p.records(addresses, [g.name for g in guests]) for p in context.dns.providers)
    return sorted({str(record) for records in listed for record in records})


def _same(what: str, read: Callable[[Context], Any]) -> Callable[[Context, Any], Finding]:
    def judge(context: Context, before: Any) -> Finding:
        found = list(_differ("", before, json.loads(json.dumps(read(context), default=str))))
        if not found:
            return Finding(True, f"{what} are as before.")
        if _giving_back(context):
            return Finding(None, f"{what} changed, as giving back the old servers does; F5 says whether rightly.")
        return Finding(False, f"{what} changed where the plan changes nothing: {'; '.join(found[:6])}.", "Find out who did it.")

    return judge


def _differ(where: str, one: Any, other: Any) -> Iterable[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _differ(f"{where} {key}".strip(), one.get(key, "absent"), other.get(key, "absent"))
    elif isinstance(one, list) and isinstance(other, list):
        before, after = ([json.dumps(x, sort_keys=True) for x in side] for side in (one, other))
        yield from (f"{where} lost {x}".strip() for x in before if x not in after)
        yield from (f"{where} has new {x}".strip() for x in after if x not in before)
        if before != after and sorted(before) == sorted(after):
            yield f"{where} has another order".strip()
    elif one != other:
        yield f"{where}: {one} before, {other} now".strip(": ")


_PARTS: Mapping[str, Callable[[Context], Any]] = {
    "Qdrant's answers": _qdrant,
    "who is let in": _access,
    "Portainer": lambda context: context.portainer.picture().as_facts(),
    "vLLM": lambda context: context.vllm.portrait().as_json(),
    "Nginx's configuration": _nginx,
    "guests": _guests,
    "firewall": _firewall,
    "names": _names,
}

_COMPARED: Mapping[str, tuple[str, str, Callable[[Context, Any], Finding]]] = {
    "Qdrant's answers": ("D1", "Qdrant gives the answers of before the move", _same_answers),
    "who is let in": ("D1", "Qdrant lets in whom it let in before the move", _same_access),
    "Portainer": ("D2", "Portainer is as before the move", _same_portainer),
    "vLLM": ("D3", "vLLM is as before the move", _same_vllm),
    "Nginx's configuration": ("E1", "Nginx differs from before only by the gate", _same_nginx),
    "guests": ("A3", "The guests differ from before only by the plan", _same_guests),
    "firewall": ("F5", "The firewall is as before the move", _same("The firewall's rules", _firewall)),
    "names": ("F5", "The names are as before the move", _same("The names", _names)),
}
