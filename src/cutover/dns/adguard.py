"""AdGuard Home."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cutover.core.credentials import Credentials, cut
from cutover.core.errors import Refused
from cutover.core.http import Tls, session
from cutover.core.write_guard import WriteGuard
from cutover.dns.records import ADDRESS_TYPES, Record, absolute, kind_of
from cutover.site import schema as settings


class Adguard:
    """AdGuard Home's DNS rewrites: domain and answer, where an answer is an address or another name."""

    by_hand = False

    def __init__(self, place: settings.Adguard, credentials: Credentials, guard: WriteGuard) -> None:
        self.title = f"AdGuard Home {place.url}"
        self._url = place.url
        self._credentials = credentials
        self._http = session(guard, tls=Tls(place.ca_file))

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        del addresses, names
        found = []
        for entry in self._call("GET", "/control/rewrite/list"):
            answer, raw = str(entry["answer"]), json.dumps(entry, sort_keys=True)
            if answer in ADDRESS_TYPES:
                continue  # "keep the upstream's answer of this type"
            kind = kind_of(answer)
            found.append(Record(absolute(entry["domain"]), kind, absolute(answer) if kind == "CNAME" else answer, raw=raw))
        return sorted(found)

    def cautions(self) -> list[str]:
        return []

    def delete(self, records: Sequence[Record]) -> None:
        for record in records:
            entry = json.loads(record.raw)
            self._call("POST", "/control/rewrite/delete", {"domain": entry["domain"], "answer": entry["answer"]})

    def put_back(self, records: Sequence[Record]) -> None:
        there = {r.key() for r in self.records((), ())}
        for record in records:
            if record.key() not in there:
                self._call("POST", "/control/rewrite/add", json.loads(record.raw))

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        self._http.auth = (self._credentials.need("ADGUARD_USER"), self._credentials.need("ADGUARD_PASSWORD"))
        answer = self._http.request(method, self._url + path, json=body)
        if answer.status_code in {401, 403}:
            raise Refused(f"{self.title} did not accept the user or password.", "Check ADGUARD_USER and ADGUARD_PASSWORD.")
        if answer.status_code >= 400:
            raise Refused(f"{self.title} answered {answer.status_code} to {method} {path}: {cut(answer.text.strip(), 200)}.")
        return answer.json() if "json" in answer.headers.get("Content-Type", "") else None
