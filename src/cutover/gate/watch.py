"""The watch on the Nginx host: room for what is recorded, also while this tool does not run.

It is a small loop in the host's own shell, begun with the recording and ended with it, as the clock of a hold is. Every second it

* removes the bodies of writes that Qdrant refused before it looked at them: whoever has no key must not fill a disk;
* looks how much room is left. Below :data:`RESERVE_MB` it ends the recording, before nginx would have to answer an application's
  write with an error: the flag goes, the recorded bodies go, and ``log/ended`` says when. Applications notice nothing. What was
  written since then is known to nobody, so the way back then needs a comparison of everything, which `follow` makes.

A restart of the host ends the loop; the next round of following begins it again.
"""

from __future__ import annotations

import secrets as randomness
import time

from cutover.gate.bodies import Bodies
from cutover.gate.folder import SILENT_SECONDS, Folder, synced

#: Below so much free room recording ends.
RESERVE_MB = 256
#: Refused in front of everything else: who asks, in what form, how much of it. Nothing can have been done.
REFUSED = "401|405|411|413|415"


class Watch:
    """The loop of one gate's folder. ``reserve_mb``: below so much free room recording ends."""

    def __init__(self, folder: Folder, bodies: Bodies) -> None:
        self._folder, self._bodies = folder, bodies
        self.reserve_mb = RESERVE_MB
        self._looked = 0.0

    def begun(self) -> str:
        """A script for the gate's folder that begins the loop; one that ran before ends by it."""
        token = randomness.token_hex(8)
        removed = self._bodies.removed_by_name()
        line = (
            rf's/.*"status":"({REFUSED})","side":"[a-z]*","to":"[^"]*","answered":"({REFUSED})",'
            rf'"body":"[^"]*\/([0-9]+)"\}}$/\3/p'
        )
        return (
            f"printf %s {token} > log/watch && date +%s > log/watched || exit 1\n"
            "(trap '' HUP\n"
            "at=$(wc -c 2>/dev/null < log/writes.jsonl || echo 0); at=$((at > 1048576 ? at - 1048576 : 0)); from=$at\n"
            f'mine() {{ [ "$(cat log/watch 2>/dev/null)" = {token} ]; }}\n'
            # What is listed before it is asked whose they are cannot be of a recording that was begun meanwhile.
            f'empty() {{ left=$({self._bodies.names()}); mine && [ -n "$left" ] && '
            f"printf '%s\\n' \"$left\" | {{ {removed}; }}; }}\n"
            "while [ -f flags/record ] && mine; do\n"
            "  set -- $(df -Pk . | tail -n 1)\n"
            f'  if [ "${{4:-x}}" -lt {self.reserve_mb * 1024} ] 2>/dev/null; then\n'
            # First that it ended, so that nobody takes the log for a whole one; then the room.
            "    true > log/ended; rm -f flags/record; empty\n"
            f"    mine || break; date -u +%Y-%m-%dT%H:%M:%SZ > log/ended; {synced('log/ended')}\n"
            "    sleep 2; empty; break\n"
            "  fi\n"
            "  s=$(wc -c 2>/dev/null < log/writes.jsonl || echo 0)\n"
            "  if [ $s -lt $at ]; then at=0; from=0; fi\n"
            "  if [ $s -gt $from ]; then\n"
            # From where the last but one look ended: its last line may not have been whole.
            f"    names=$(tail -c +$((from + 1)) log/writes.jsonl | head -c $((s - from)) | sed -n -E '{line}')\n"
            f'    if [ -n "$names" ]; then printf "%s\\n" "$names" | {{ {removed}; }}; fi\n'
            "  fi\n"
            "  from=$at; at=$s\n"
            "  date +%s > log/watched.new && mv -f log/watched.new log/watched; sleep 1\n"
            "done) </dev/null >/dev/null 2>&1 &\n"
        )

    def keep(self) -> None:
        """Begin the loop again where it is not there any more; asks the host rarely."""
        if time.monotonic() - self._looked < SILENT_SECONDS:
            return
        self._looked = time.monotonic()
        if self._folder.state().unwatched:
            self._folder.change(self.begun(), "watch the room for recorded writes")
