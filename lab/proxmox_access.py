# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may do what on the lab's Proxmox host: users, tokens, roles, access rules and the rights that follow, and `pveum`.

As Proxmox VE 9.2 evaluates them: a rule on a deeper path replaces those above it, rules on one path add up, a token has at most
its user's rights, a pool gives its rights on its members. Adding what is there already is a refusal that changes nothing.
"""

from __future__ import annotations

import re
import shlex
import uuid
from typing import Any

from aiohttp import web
from fakepve import FakePve, PveError
from fakepve.server import error

Values = dict[str, Any]

#: Built-in roles as far as the lab uses them; the privileges are Proxmox VE 9's.
ROLES: dict[str, set[str]] = {
    "NoAccess": set(),
    "PVEAuditor": {
        "Datastore.Audit", "Mapping.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit", "VM.Audit", "VM.GuestAgent.Audit",
    },
    "Administrator": set(),  # filled from the schema's list of privileges
}  # fmt: skip

#: A path that no kind of object has gives no rights to anybody.
_PATH = re.compile(
    r"/|/access(/groups(/[^/]+)?|/realm(/[^/]+)?)?|/nodes(/[^/]+)?|/pool(/[^/]+){0,3}|/sdn(/(zones(/[^/]+){0,3}|controllers|dns|ipams)(/[^/]+)?)?"
    r"|/storage(/[^/]+)?|/vms(/\d+)?|/mapping(/.*)?"
)
#: What Proxmox lists when no path is asked for, besides the paths of rules.
_SHOWN = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/sdn/zones", "/storage", "/vms")

#: The privileges of which a change of a VM's configuration needs one before the parameters are looked at.
VM_CONFIG = ("Disk", "CDROM", "CPU", "Memory", "Network", "HWType", "Options", "Cloudinit")


class Access(FakePve):  # type: ignore[misc]
    """The part of the lab's host that knows users and rights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.acl: dict[str, Any] | None = {}
        self.acl_rows: list[Values] = []
        self.roles = {name: set(privileges) for name, privileges in ROLES.items()}
        self.token_privsep: dict[str, bool] = {}
        from fakepve import shapes

        self.roles["Administrator"] = set(shapes.PRIVILEGES)

    # -- who asks ----------------------------------------------------------------------------------------------------

    def _authenticate(self, request: web.Request) -> Any:
        if request.headers.get("Authorization", "").startswith("PVEAPIToken="):
            try:
                return super()._authenticate(request)
            except PveError:
                raise PveError(401, "Authentication failed!") from None
        if not request.cookies.get("PVEAuthCookie") and not request.path.endswith("/access/ticket"):
            raise PveError(401, "No ticket")
        return super()._authenticate(request)

    @web.middleware
    async def _extjs(self, request: web.Request, handler: Any) -> Any:
        """A refused key has no body; what the API does not know is not implemented."""
        try:
            answer = await super()._extjs(request, handler)
        except web.HTTPNotFound:
            path = re.sub(r"^/api2/(json|extjs)", "", request.path)
            return error(501, f"Method '{request.method} {path}' not implemented")
        if answer.status == 401:
            return web.Response(status=401, reason=answer.reason, body=b"")
        return answer

    # -- rights ------------------------------------------------------------------------------------------------------

    def _rights(self, who: str, path: str) -> set[str]:
        """What one user or one token has on a path: of all rules on the way down, the deepest replaces the others."""
        if who == "root@pam":
            return set(self.roles["Administrator"])
        parts = [part for part in path.split("/") if part]
        steps = ["/"] + ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]
        held: set[str] = set()
        for step in steps:
            rows = [
                row for row in self.acl_rows
                if row["ugid"] == who and row["path"] == step and (row["propagate"] or step == steps[-1])
            ]  # fmt: skip
            if rows:
                held = set().union(*(self.roles.get(row["roleid"], set()) for row in rows))
        return held

    def _by_pool(self, path: str) -> list[str]:
        """The pools whose rights hold on a guest or a storage as well."""
        if match := re.fullmatch(r"/vms/(\d+)", path):
            return ["/pool/" + name for name, ids in self.pools.items() if int(match[1]) in ids]
        return []

    def rights(self, user: str, path: str) -> set[str]:
        """What a user or token can do on a path, through pools as well."""
        if not _PATH.fullmatch(path):
            return set()
        paths = [path, *self._by_pool(path)]
        owner, is_token = user.split("!", maxsplit=1)[0], "!" in user
        held: set[str] = set().union(*(self._rights(owner, p) for p in paths))
        if is_token and self.token_privsep.get(user, True):
            held &= set().union(*(self._rights(user, p) for p in paths))
        return held

    def _own_rights(self, user: str, path: str) -> set[str]:
        """Without what a pool gives: that is shown as 0, because it is not handed on."""
        owner, is_token = user.split("!", maxsplit=1)[0], "!" in user
        held = self._rights(owner, path)
        return held & self._rights(user, path) if is_token and self.token_privsep.get(user, True) else held

    def allowed(self, user: str | None, path: str, priv: str) -> bool:
        return user is not None and priv in self.rights(user, path.rstrip("/") or "/")

    def check_permissions(self, user: str | None, perms: Any, values: Values, declared: Any = None) -> None:
        """As fakepve's, but only root itself passes everything: a token of root's has the rights it was given."""
        if user == "root@pam" or (perms or {}).get("user") in ("all", "world"):
            return
        if perms is None or "check" not in perms:
            raise PveError(403, "Permission check failed (user != root@pam)")
        good, why = self._check(user, perms["check"], values, declared)
        if not good:
            raise PveError(403, f"Permission check failed ({why})" if why else "Permission check failed")

    # -- the API -----------------------------------------------------------------------------------------------------

    def _routes_access(self) -> list[tuple[str, str, Any]]:
        return [
            ("GET", "/access/permissions", self._permissions),
            ("GET", "/access/acl", self._acl_list),
            ("PUT", "/access/acl", self._acl_update),
            ("GET", "/access/roles", self._role_list),
            ("POST", "/access/roles", self._role_create),
            ("PUT", "/access/roles/{roleid}", self._role_update),
            ("GET", "/access/roles/{roleid}", self._role_read),
            ("GET", "/access/users", self._user_list),
            ("POST", "/access/users", self._user_create),
            ("GET", "/access/users/{userid}/token", self._token_list),
            ("GET", "/access/users/{userid}/token/{tokenid}", self._token_read),
            ("POST", "/access/users/{userid}/token/{tokenid}", self._token_create),
        ]

    async def _permissions(self, v: Values, user: str) -> Values:
        who = v.get("userid") or user
        if v.get("path"):
            own = self._own_rights(who, v["path"]) if _PATH.fullmatch(v["path"]) else set()
            return {v["path"]: {priv: int(priv in own) for priv in sorted(self.rights(who, v["path"]))}}
        paths = sorted({*_SHOWN, *(row["path"] for row in self.acl_rows)})
        return {path: dict.fromkeys(sorted(held), 1) for path in paths if (held := self.rights(who, path))}

    async def _acl_list(self, v: Values, user: str) -> list[Values]:
        if not self.allowed(user, "/access", "Sys.Audit") and not self.allowed(user, "/", "Sys.Audit"):
            return []
        return [dict(row) for row in self.acl_rows]

    async def _acl_update(self, v: Values, user: str) -> None:
        who = [("user", x) for x in re.split(r"[,; ]+", v.get("users") or "") if x]
        who += [("token", x) for x in re.split(r"[,; ]+", v.get("tokens") or "") if x]
        for role in re.split(r"[,; ]+", v["roles"]):
            if role not in self.roles:
                raise PveError(500, f"ACL update failed: role '{role}' does not exist")
            for kind, name in who:
                row = {
                    "path": v["path"], "type": kind, "ugid": name, "roleid": role, "propagate": int(v.get("propagate", 1))
                }  # fmt: skip
                same = [old for old in self.acl_rows if {**old, "propagate": row["propagate"]} == row]
                for old in same:
                    self.acl_rows.remove(old)
                if not v.get("delete"):
                    self.acl_rows.append(row)

    async def _role_list(self, v: Values, user: str) -> list[Values]:
        return [{"roleid": name, "privs": ",".join(sorted(privs)), "special": 1 if name in ROLES else 0}
                for name, privs in sorted(self.roles.items())]  # fmt: skip

    def _privileges(self, text: str) -> set[str]:
        privileges = {p for p in re.split(r"[\s,;]+", text) if p}
        for name in sorted(privileges - self.roles["Administrator"]):
            raise PveError(400, "Parameter verification failed.", {"privs": f"invalid privilege '{name}'"})
        return privileges

    async def _role_create(self, v: Values, user: str) -> None:
        if v["roleid"] in self.roles:
            raise PveError(500, f"create role failed: role '{v['roleid']}' already exists")
        self.roles[v["roleid"]] = self._privileges(v.get("privs") or "")

    async def _role_update(self, v: Values, user: str) -> None:
        if v["roleid"] not in self.roles or v["roleid"] in ROLES:
            raise PveError(500, f"modify role failed: role '{v['roleid']}' does not exist")
        kept = self.roles[v["roleid"]] if v.get("append") else set()
        self.roles[v["roleid"]] = kept | self._privileges(v.get("privs") or "")

    async def _role_read(self, v: Values, user: str) -> Values:
        if v["roleid"] not in self.roles:
            raise PveError(500, f"role '{v['roleid']}' does not exist")
        return dict.fromkeys(sorted(self.roles[v["roleid"]]), 1)

    async def _user_list(self, v: Values, user: str) -> list[Values]:
        return [{"userid": name, "enable": 1, "expire": 0, "realm-type": name.rsplit("@", 1)[-1]}
                for name in sorted({"root@pam", *self.users})]  # fmt: skip

    async def _user_create(self, v: Values, user: str) -> None:
        if v["userid"] in self.users or v["userid"] == "root@pam":
            raise PveError(500, f"create user failed: user '{v['userid']}' already exists")
        self.users[v["userid"]] = v.get("password") or ""

    def _tokens_of(self, user: str) -> list[str]:
        return [name.split("!", 1)[1] for name in self.apitokens if name.split("!", 1)[0] == user]

    def _token(self, user: str, name: str) -> Values:
        return {"privsep": int(self.token_privsep.get(f"{user}!{name}", True)), "expire": 0}

    async def _token_list(self, v: Values, user: str) -> list[Values]:
        return [{"tokenid": name, **self._token(v["userid"], name)} for name in self._tokens_of(v["userid"])]

    async def _token_read(self, v: Values, user: str) -> Values:
        if v["tokenid"] not in self._tokens_of(v["userid"]):
            raise PveError(500, f"no such token '{v['tokenid']}' for user '{v['userid']}'")
        return self._token(v["userid"], v["tokenid"])

    async def _token_create(self, v: Values, user: str) -> Values:
        if v["tokenid"] in self._tokens_of(v["userid"]):
            raise PveError(400, "Parameter verification failed.", {"tokenid": "Token already exists."})
        name = f"{v['userid']}!{v['tokenid']}"
        self.add_token(name, str(uuid.uuid4()), privsep=bool(v.get("privsep", 1)))
        return {"full-tokenid": name, "value": self.apitokens[name], "info": {"privsep": str(int(self.token_privsep[name]))}}

    def add_token(self, token: str, secret: str, *, privsep: bool = True) -> None:
        """A token with a known secret; its rights come from `pveum`."""
        self.apitokens[token] = secret
        self.token_privsep[token] = privsep

    # -- the host's shell ----------------------------------------------------------------------------------------------

    def pveum(self, command: str) -> None:
        """Carry out one `pveum` command as an operator would paste it: role, pool, user, token and acl. ValueError where it fails.

        A command may say what is to become of its failure, as a shell does: ``command || other``. A user, token or pool that is there
        already stays as it is, with a message that a shell goes on after.
        """
        if match := re.fullmatch(
            r"""pveum role list .*grep -oE '"(\w+)\[.*grep -vxE '(.*)' \| xargs -r -n1 pveum role delete""", command
        ):
            for name in [name for name in self.roles if name.startswith(match[1]) and not re.fullmatch(match[2], name)]:
                self._pveum(f"pveum role delete {name}")
            return
        first, _, other = command.partition("||")
        try:
            self._pveum(re.sub(r"\s+[12]?>\s*/dev/null.*$", "", first.strip()))
        except ValueError:
            if not other.strip():
                raise
            if other.strip() != "true":
                self.pveum(other.strip())

    def _pveum(self, command: str) -> None:
        words = [word for word in shlex.split(command, comments=True) if word]
        if not words:
            return
        if words[0] == "pveum":
            words = words[1:]
        options = {w.lstrip("-"): words[n + 1] for n, w in enumerate(words[:-1]) if re.match(r"--?[a-z]", w)}
        plain = [
            w for n, w in enumerate(words) if not re.match(r"--?[a-z]", w) and not (n and re.match(r"--?[a-z]", words[n - 1]))
        ]
        match plain:
            case ["role", "add" | "modify" as verb, name]:
                if (verb == "add") == (name in self.roles):
                    raise ValueError(f"role '{name}' already exists" if verb == "add" else f"role '{name}' does not exist")
                unknown = {p for p in re.split(r"[\s,;]+", options.get("privs", "")) if p} - self.roles["Administrator"]
                if unknown:
                    raise ValueError(f"invalid privilege {sorted(unknown)}")
                self.roles[name] = {p for p in re.split(r"[\s,;]+", options.get("privs", "")) if p}
            case ["role", "delete", name]:
                if name not in self.roles:
                    raise ValueError(f"role '{name}' does not exist")
                del self.roles[name]
                self.acl_rows = [row for row in self.acl_rows if row["roleid"] != name]
            case ["pool", "add", name]:
                self.pools.setdefault(name, set())
            case ["user", "add", name]:
                self.users.setdefault(name, "")
            case ["user", "token", "add", user, name]:
                token = f"{user}!{name}"
                if token not in self.apitokens:
                    self.add_token(token, str(uuid.uuid5(uuid.NAMESPACE_URL, token)), privsep=options.get("privsep", "1") == "1")
            case ["acl", "modify" | "delete" as verb, path]:
                for role in re.split(r"[,;]", options.get("roles") or options["role"]):
                    if role not in self.roles:
                        raise ValueError(f"role '{role}' does not exist")
                    for kind, key in (("user", "users"), ("user", "user"), ("token", "tokens"), ("token", "token")):
                        for who in re.split(r"[,;]", options.get(key, "")):
                            if who:
                                self._rule(verb, path, kind, who, role, int(options.get("propagate", "1")))
            case _:
                raise ValueError(f"not a command that the lab's pveum knows: {command}")

    def _rule(self, verb: str, path: str, kind: str, who: str, role: str, propagate: int) -> None:
        row = {"path": path, "type": kind, "ugid": who, "roleid": role, "propagate": propagate}
        self.acl_rows = [old for old in self.acl_rows if {**old, "propagate": propagate} != row]
        if verb == "modify":
            self.acl_rows.append(row)
