"""From three addresses to a whole ``site.yaml``: asks what no server can tell, finds out the rest, and writes with comments.

Nothing on a server is changed: every client here has a guard that lets no write through. No key is sent to a server that did
not prove who it is, by an authority that this machine knows, by what an earlier file says, or by a fingerprint that the operator
compared.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cutover.core.credentials import Credentials
from cutover.core.errors import CutoverError, Unreachable, WrongUsage
from cutover.core.http import Tls
from cutover.core.shell import Shell, words
from cutover.core.write_guard import WriteGuard
from cutover.discovery import edit, guests, names, nginx, portainer, trust
from cutover.discovery.facts import Found, at, differences
from cutover.portainer.client import Portainer
from cutover.proxmox.client import Proxmox
from cutover.site import schema

if TYPE_CHECKING:
    from cutover.context import Context
    from cutover.discovery.guests import Guests


#: What tells a release's digest.
_DIGEST = "docker buildx imagetools inspect qdrant/qdrant:vX.Y.Z"


class Answers(Protocol):
    """The operator, or what was said in advance."""

    def text(self, name: str, question: str, suggestion: str) -> str:
        """One answer; ``suggestion`` where the operator only agrees, empty where there is none."""

    def trust(self, url: str, fingerprint: str, tell: str) -> None:
        """Whether the certificate at an address is the server's own; ``tell`` shows it there. :class:`Refused` on no."""

    def say(self, sentence: str) -> None:
        """What is being looked at."""


@dataclass(frozen=True)
class Wishes:
    """What the operator said on the command line, or an earlier ``site.yaml`` says (``tree``)."""

    guests: Mapping[str, str] = field(default_factory=dict)
    name_servers: Sequence[str] = ()
    repository: str = ""
    tree: Mapping[str, Any] = field(default_factory=dict)

    def said(self, *where: str) -> Any:
        """What the earlier file says at a place, or None."""
        return at(self.tree, where)

    def wished_guests(self) -> dict[str, str]:
        """Ids or names by part: of the command line, else of the earlier file."""
        wished = {role: str(vmid) for role in guests.PLAN if (vmid := self.said("guests", role, "vmid")) is not None}
        legacy = self.said("guests", "legacy")
        if isinstance(legacy, list):
            wished["legacy"] = ",".join(str(row.get("vmid")) for row in legacy if isinstance(row, Mapping))
        return wished | dict(self.guests)


def survey(answers: Answers, wishes: Wishes, credentials: Credentials, folder: Path) -> Found:
    """Ask and find out; ``folder`` is where the file will be, a checkout of the repository that Portainer reads."""
    found, guard = Found(), WriteGuard()
    api = _proxmox(answers, wishes, credentials, guard, found)
    answers.say("Asking Proxmox for its guests.")
    known = guests.look(api, wishes.wished_guests())
    shell = _shell(answers, wishes, known, guard, found)
    try:
        answers.say("Asking Nginx where it passes requests to.")
        running = nginx.look(shell, known)
        known = _with_qdrant(known, running, wishes)
        guests.say(known, api, found)
        _without_growth(found, wishes.said("resize", "after"))
        _say_nginx(running, known, shell, found, str(wishes.said("qdrant", "old_url") or ""))
        resolv = [shell.read("cat /etc/resolv.conf 2>/dev/null").text, names.own()]
    finally:
        shell.close()
    _say_qdrant(known, found)
    settings = _portainer(answers, wishes, credentials, known, found)
    if settings is not None:
        answers.say("Asking Portainer, and the registry through its Docker engine.")
        _say_portainer(settings, wishes, credentials, guard, found, folder)
    answers.say("Asking name servers for the guests that leave.")
    _say_names(api, wishes, known, resolv, credentials, found)
    return found


def of_site(context: Context) -> Found:
    """The same about the site that a command works with, with its own clients; what cannot be reached is left out and noted."""
    found, site = Found(), context.site
    wished = {role: str(getattr(site.guests, role).vmid) for role in guests.PLAN}
    wished["legacy"] = ",".join(str(guest.vmid) for guest in site.guests.legacy)
    known = guests.look(context.proxmox, wished)
    guests.say(known, context.proxmox, found)
    _without_growth(found, site.resize.after.model_dump())
    running = [nginx.read(context.gate.shell, site.nginx, context.gate.installer.host, known)]
    _say_nginx(running, known, context.gate.shell, found, site.qdrant.old_url)
    _say_qdrant(known, found)
    with suppress(CutoverError):
        environments = [str(one["Name"]) for one in context.portainer.environments()]
        if site.portainer.environment in environments:
            stack = context.portainer.stack(site.portainer.stack)
            portainer.say_repository(stack, found, context.credentials, context.state_dir, site.portainer.repository)
    return found


def _without_growth(found: Found, planned: Any) -> None:
    """A VM that has grown as planned says nothing about what it had before, nor about what it is to have."""
    if planned and found.get("resize.before") == planned:
        for name in ("before", "after"):
            found.facts.pop(("resize", name), None)


# -- Proxmox --------------------------------------------------------------------------------------------------------------------


def _proxmox(answers: Answers, wishes: Wishes, credentials: Credentials, guard: WriteGuard, found: Found) -> Proxmox:
    said = answers.text("proxmox", "Address of Proxmox", wishes.said("proxmox", "url") or "")
    url = with_scheme(said, 8006)
    found.add("proxmox.url", url, "you")
    pem = "/etc/pve/local/pve-ssl.pem"
    tell = f"openssl x509 -noout -sha256 -fingerprint -in {pem} (or pveproxy-ssl.pem beside it), in Proxmox' own shell"
    part = _trusted(answers, wishes, "proxmox", url, tell, found)
    settings = schema.Proxmox(
        url=url, node="pve", storages=schema.Storages(backup="local", restore="local"), scratch_vmid=guests.SCRATCH, **part
    )
    return Proxmox(settings, credentials, guard)


def with_scheme(said: str, port: int) -> str:
    """An address as typed, with ``https://`` and a port where they were left out, without the page that a browser shows. Pure."""
    typed = said.strip().split("#")[0]
    typed = schema.in_url(typed) if schema.is_ip(typed) else typed
    url = typed if "://" in typed else f"https://{typed}"
    if not schema.is_url(url):
        shown = said.rpartition("@")[2]  # a password may stand before it
        raise WrongUsage(f"{shown} is not the address of a server.", "Write a name or an address, with :PORT where it needs one.")
    url = url.rstrip("/")
    parts = urlsplit(url)
    return f"{url}:{port}" if parts.port is None and not parts.path and "://" not in typed else url


def _trusted(answers: Answers, wishes: Wishes, part: str, url: str, tell: str, found: Found) -> dict[str, Any]:
    """How the server proves who it is: as the earlier file says, by this machine's authorities, or by what the operator sees."""
    before = {key: wishes.said(part, key) for key in ("ca_file", "fingerprint")}
    if any(before.values()) and wishes.said(part, "url") == url:
        return before
    if trust.known(url, Tls()):
        return {}
    fingerprint = trust.fingerprint(url)
    answers.trust(url, fingerprint, tell)
    found.add(f"{part}.fingerprint", fingerprint, "its certificate, which you compared")
    if before["ca_file"]:
        found.add(f"{part}.ca_file", None, "the fingerprint stands for it now")
    return {"fingerprint": fingerprint}


# -- Nginx ----------------------------------------------------------------------------------------------------------------------


def _shell(answers: Answers, wishes: Wishes, known: Guests, guard: WriteGuard, found: Found) -> Shell:
    address = known.address("nginx")
    before = wishes.said("nginx", "shell")
    suggestion = f"ssh root@{address}" if address else ""
    if isinstance(before, list):
        suggestion = shlex.join(before) or "here"
    said = answers.text("nginx", "How to get a shell on the Nginx host ('here' is this machine)", suggestion)
    prefix = [] if said.strip() in {"", "here"} else words(said, "How to get a shell on the Nginx host")
    found.add("nginx.shell", prefix, "you")
    shell = Shell(prefix, guard)
    try:
        shell.read("true")
    except Unreachable as error:
        shell.close()
        raise Unreachable(error.sentence, "Try that command by hand, then name what works with --nginx-shell.") from None
    return shell


def _with_qdrant(known: Guests, running: Sequence[nginx.Running], wishes: Wishes) -> Guests:
    """The guests, the old server being the one whose Qdrant Nginx passes requests to, unless the operator says which it is.

    Nobody is, where there are several of them and none is the one of the plan: it is deleted in the end.
    """
    there = {qdrant.guest.vmid: qdrant.guest for one in running for qdrant in one.qdrants if qdrant.guest.kind == "lxc"}
    now = known.roles["old"][0].vmid if "old" in known.roles else None
    if not there or now in there or "old" in wishes.wished_guests():
        return known
    if len(there) > 1:
        others = {role: row for role, row in known.roles.items() if role != "old"}
        return replace(known, roles=others, undecided={"old": list(there.values())})
    (guest,) = there.values()
    roles = {role: row for role, row in known.roles.items() if row[0].vmid != guest.vmid}
    legacy = [row for row in known.legacy if row[0].vmid != guest.vmid]
    roles["old"] = (guest, "the Qdrant that Nginx passes requests to")
    return replace(known, roles=roles, legacy=legacy)


def _say_nginx(running: Sequence[nginx.Running], known: Guests, shell: Shell, found: Found, written: str) -> None:
    """``written``: the old server's address in an earlier file, which counts where its guest has several Qdrants."""
    old = known.roles["old"][0].vmid if "old" in known.roles else None
    port = urlsplit(written).port if schema.is_url(written) else None
    ours = [(one, qdrant) for one in running for qdrant in one.qdrants if qdrant.guest.vmid == old]
    meant = [pair for pair in ours if urlsplit(f"//{pair[1].netloc}").port == (port or 80)] if written else []
    for one, qdrant in (meant or ours)[:1]:
        nginx.say(one, known, qdrant, found)
        found.add("qdrant.version", qdrant.version, f"the Qdrant at {qdrant.netloc}")
        if len(ours) > 1 and not meant:
            found.notes.append(
                f"Nginx passes requests to several Qdrants of {qdrant.guest}: {', '.join(each.netloc for _, each in ours)}. The "
                "first was taken; write another one's address into qdrant.old_url where that is meant, and run this again."
            )
        return
    if len(running) == 1:
        nginx.say(running[0], known, None, found)
    tell = "nginx -T | grep -n proxy_pass"
    why = f"no Nginx on {shell.where} passes requests to a Qdrant of the guest"
    for name in ("nginx.main_config", "nginx.http_folder", "nginx.worker_user", "qdrant.old_url", "qdrant.public_url"):
        found.gap(name, why, tell)


def _say_qdrant(known: Guests, found: Found) -> None:
    old = found.get("qdrant.old_url")
    if old is None:
        found.gap("qdrant.version", "the old server is not known", "curl http://ADDRESS:6333/")
        found.gap("qdrant.image", "the release is not known", _DIGEST)
    else:
        from cutover.qdrant.client import Qdrant

        open_to_all = False
        with suppress(CutoverError):
            open_to_all = Qdrant(old, WriteGuard(), timeout=(2.0, 5.0)).raw("GET", "/collections").status_code == 200
        found.add("qdrant.access", "open" if open_to_all else "keys", "a question to it without a key")
    new = known.address("new")
    if new:
        port = urlsplit(old).port if old else 6333
        found.add(
            "qdrant.new_url",
            f"http://{schema.in_url(new)}:{port or 6333}",
            "the VM's address, and the old server's port",
            chosen=True,
        )
    else:
        found.gap("qdrant.new_url", "the VM's address is not known", guests.LIST)


# -- Portainer ------------------------------------------------------------------------------------------------------------------


def _portainer(
    answers: Answers, wishes: Wishes, credentials: Credentials, known: Guests, found: Found
) -> schema.Portainer | None:
    address = known.address("new")
    suggestion = wishes.said("portainer", "url") or ""
    if not suggestion and address:
        guess = f"https://{schema.in_url(address)}:9443"
        with suppress(Unreachable):
            trust.fingerprint(guess)
            suggestion = guess
    url = with_scheme(answers.text("portainer", "Address of Portainer", suggestion), 9443)
    found.add("portainer.url", url, "you")
    tell = "openssl x509 -noout -sha256 -fingerprint -in /var/lib/docker/volumes/portainer_data/_data/certs/cert.pem, in its VM"
    part = _trusted(answers, wishes, "portainer", url, tell, found)
    if credentials.get("PORTAINER_API_KEY") is None:
        found.gap("portainer.environment", "PORTAINER_API_KEY is not set", "Portainer, My account, Access tokens")
        found.gap("qdrant.image", "nobody could ask the registry", _DIGEST)
        return None
    return schema.Portainer(
        url=url, environment="?", stack=portainer.STACK, repository="https://git.invalid/none", reference="refs/heads/main",
        compose_file=portainer.COMPOSE_FILE, auto_update=schema.AutoUpdate(mode="none"), **part,
    )  # fmt: skip


def _say_portainer(
    settings: schema.Portainer, wishes: Wishes, credentials: Credentials, guard: WriteGuard, found: Found, folder: Path
) -> None:
    def client(environment: str) -> Portainer:
        return Portainer(settings.model_copy(update={"environment": environment}), credentials, guard)

    try:
        portainer.say(client, found, credentials, folder, wishes.repository or wishes.said("portainer", "repository") or "")
    except CutoverError as error:
        found.gap("portainer.environment", error.sentence.rstrip("."), "Portainer, Environments")
        found.gap("qdrant.image", "nobody could ask the registry", _DIGEST)


# -- names ----------------------------------------------------------------------------------------------------------------------


def _say_names(
    api: Proxmox, wishes: Wishes, known: Guests, resolv: Sequence[str], credentials: Credentials, found: Found
) -> None:
    before = wishes.said("dns")
    if isinstance(before, list) and before and not wishes.name_servers:
        return  # how a server is reached is not to be seen from outside; what the operator wrote stays
    asked, domains = list(wishes.name_servers), []
    for text in resolv:
        servers, searched = names.servers_in(text)
        asked += servers
        domains += searched
    with suppress(CutoverError):
        said = api.record(f"nodes/{found.get('proxmox.node')}/dns")
        servers = [str(said[key]) for key in ("dns1", "dns2", "dns3") if said.get(key)]
        asked += names.servers_in("".join(f"nameserver {one}\n" for one in servers))[0]
        domains += [str(said["search"])] if said.get("search") else []
    leaving = [guest for guest, _ in ([known.roles["old"]] if "old" in known.roles else []) + list(known.legacy)]
    names.say(asked, domains, [(one.name, known.address_of(one)[0]) for one in leaving], credentials, found)


# -- the file -------------------------------------------------------------------------------------------------------------------


def template() -> str:
    """The ``site.yaml`` that ships, into which the values are put. (The one of a clone is the operator's, and may be edited.)"""
    return Path(__file__).with_name("template.yaml").read_text(encoding="utf-8")


def fresh(found: Found, at: str) -> str:
    """A whole new file: the one that ships with what was found in place of its values."""
    text = template()
    begin = re.search(r"(?m)^name:", text)
    head = (
        f"# Every fact of the site, once. Written by `cutover init` on {at}.\n"
        "# `found:` says who told the value below it. `GAP:` is what nobody told, with the command that would; fill it in.\n"
        "# What has neither is a default of the plan. Secrets come from the environment (`cutover keys`).\n"
        "\n"
    )
    return head + edit.change(text[begin.start() if begin else 0 :], found.facts.values())


def changed(text: str, found: Found, tree: Mapping[str, Any]) -> str:
    """An existing file with what is otherwise by now, and everything else as it stands there."""
    return edit.change(text, [one.fact for one in differences(found, tree)])
