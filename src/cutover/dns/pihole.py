"""Pi-hole v6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

from cutover.core.credentials import Credentials, cut
from cutover.core.errors import CutoverError, Refused
from cutover.core.http import Tls, session
from cutover.core.write_guard import WriteGuard
from cutover.dns.records import Record, absolute, kind_of
from cutover.site import schema as settings


class Pihole:
    """Pi-hole v6. Its lists are lines: ``10.0.0.5 name alias`` and ``alias,target``; pointers follow from them."""

    by_hand = False

    def __init__(self, place: settings.Pihole, credentials: Credentials, guard: WriteGuard) -> None:
        self.title = f"Pi-hole {place.url}"
        self._url = place.url
        self._credentials = credentials
        # Logging in and out changes nothing but the list of sessions.
        self._http = session(
            guard,
            is_read=lambda method, path: method == "GET" or path.split("?")[0] == "/api/auth",
            tls=Tls(place.ca_file),
        )

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        del addresses, names
        with self._signed_in():
            hosts = self._call("GET", "/api/config/dns/hosts")["config"]["dns"]["hosts"]
            aliases = self._call("GET", "/api/config/dns/cnameRecords")["config"]["dns"]["cnameRecords"]
        found = []
        for line in hosts:
            address, *called = line.split("#")[0].split() or [""]
            found += [Record(absolute(name), kind_of(address), address, raw=line) for name in called]
        for line in aliases:
            parts = [part.strip() for part in line.split(",")]
            ttl = int(parts.pop()) if len(parts) > 2 and parts[-1].isdigit() else 0
            found += [Record(absolute(alias), "CNAME", absolute(parts[-1]), ttl, raw=line) for alias in parts[:-1]]
        return sorted(found)

    def cautions(self) -> list[str]:
        return []

    def delete(self, records: Sequence[Record]) -> None:
        self._each("DELETE", records)

    def put_back(self, records: Sequence[Record]) -> None:
        there = {r.raw for r in self.records((), ())}
        self._each("PUT", [r for r in records if r.raw not in there])

    def _each(self, method: str, records: Sequence[Record]) -> None:
        with self._signed_in():
            for raw in dict.fromkeys(r.raw for r in records):
                part = "cnameRecords" if any(r.type == "CNAME" for r in records if r.raw == raw) else "hosts"
                self._call(method, f"/api/config/dns/{part}/{quote(raw, safe='')}")

    @contextmanager
    def _signed_in(self) -> Iterator[None]:
        """Pi-hole has few seats for sessions: this one is given back."""
        granted = self._call("POST", "/api/auth", {"password": self._credentials.need("PIHOLE_PASSWORD")})["session"]
        if not granted.get("valid"):
            raise Refused(f"{self.title} did not accept the password.", "Check PIHOLE_PASSWORD.")
        if granted.get("sid"):
            self._http.headers["X-FTL-SID"] = granted["sid"]
        try:
            yield
        finally:
            with suppress(CutoverError):  # it ends by itself; what was done is done
                self._call("DELETE", "/api/auth")
            self._http.headers.pop("X-FTL-SID", None)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, self._url + path, json=body)
        if answer.status_code == 401:
            raise Refused(f"{self.title} did not accept the password.", "Check PIHOLE_PASSWORD (an app password works).")
        if answer.status_code >= 400:
            raise Refused(
                f"{self.title} answered {answer.status_code} to {method} {path}: {_error_of(answer)}.",
                "An app password may change settings only where webserver.api.app_sudo is on."
                if answer.status_code == 403
                else "",
            )
        return answer.json() if answer.content else None


def _error_of(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return cut(answer.text.strip(), 200)
