"""A name server that is changed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import dns.message
import dns.query

from cutover.core.credentials import Credentials
from cutover.core.errors import Refused, Unreachable
from cutover.core.write_guard import WriteGuard
from cutover.dns import asking
from cutover.dns.asking import NO_ANSWER, must_know, reason, records_of, resolve
from cutover.dns.records import Record, absolute, pointer
from cutover.site import schema as settings


class ReportOnly:
    """A name server that is changed by hand: it is only asked."""

    by_hand = True

    def __init__(self, place: settings.ReportOnly, credentials: Credentials, guard: WriteGuard) -> None:
        del credentials, guard
        self.title = f"name server {place.server}"
        self._place = place

    def records(self, addresses: Sequence[str], names: Sequence[str]) -> list[Record]:
        found = [r for a in addresses for r in self._ask(pointer(a), "PTR")]
        asked = {absolute(r.value) for r in found} | {absolute(n) for n in names}
        return sorted({*found, *(r for name in asked for kind in ("A", "AAAA", "CNAME") for r in self._ask(name, kind))})

    def cautions(self) -> list[str]:
        return [f"{self.title} can only be asked: names that nobody named cannot be seen there"]

    def delete(self, records: Sequence[Record]) -> None:
        raise Refused(f"{self.title} is changed by hand: {', '.join(map(str, records))}.")

    def put_back(self, records: Sequence[Record]) -> None:
        self.delete(records)

    def _ask(self, name: str, kind: str) -> list[Record]:
        server = resolve(self._place.server)
        try:
            answer = dns.query.tcp(
                dns.message.make_query(name, kind), server, port=self._place.port, timeout=asking.ANSWER_SECONDS
            )
        except NO_ANSWER as error:
            raise Unreachable(f"{self.title} did not answer for {name}: {reason(error)}.") from None
        # A server of a few zones refuses questions about all others, such as those for addresses.
        must_know(answer, self.title, name, may_refuse=True)
        return records_of(answer, kind)
