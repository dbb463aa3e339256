"""The recorded bodies on the Nginx host: reading and removing them, with no more rights than who can write there."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from cutover.core.errors import Failed
from cutover.gate.folder import Folder
from cutover.gate.interface import BODY_MOST, TOO_LARGE, Written
from cutover.gate.write_log import BEGIN_ANEW, Damaged

#: Bytes of bodies fetched in one go.
PIECE = 8 << 20
NAMES_AT_ONCE = 1000


def as_user(user: str, script: str) -> str:
    """A script that runs another one as this user, where root runs it; as whoever runs it otherwise."""
    user, quoted = shlex.quote(user), shlex.quote(script)
    return (
        f'if [ "$(id -u)" = 0 ] && [ "$(id -u {user} 2>/dev/null || echo 0)" != 0 ]; then\n'
        f"if command -v su >/dev/null; then su -s /bin/sh {user} -c {quoted}\n"  # small containers have only the other
        f'else setpriv --reuid {user} --regid "$(id -g {user})" --clear-groups sh -c {quoted}; fi\n'
        f"else sh -c {quoted}; fi"
    )


class Bodies:
    """What lies in ``bodies/`` of the gate's folder. ``user``: who Nginx's workers are."""

    def __init__(self, folder: Folder, user: str) -> None:
        self._folder, self._user = folder, user

    def of(self, entries: Iterable[Written]) -> Iterator[tuple[Written, bytes]]:
        """The recorded bodies in the given order, fetched in batches of some megabytes."""
        rest = iter(entries)
        while batch := list(islice(rest, NAMES_AT_ONCE)):
            sizes, data = self._sizes([_safe(entry.body) for entry in batch if entry.body])
            if data is not None:
                yield from self._shared_out(batch, sizes, data)
                continue
            large = {name for name, size in sizes.items() if size > BODY_MOST}
            sizes = {name: 0 if name in large else size for name, size in sizes.items()}
            group: list[Written] = []
            size = 0
            for entry in batch:
                mine = sizes.get(entry.body, 0)
                if group and size + mine > PIECE:
                    yield from self._fetch(group, sizes, large)
                    group, size = [], 0
                group.append(entry)
                size += mine
            yield from self._fetch(group, sizes, large)

    def _in_bodies(self, script: str) -> str:
        """A script that works in `bodies` with the rights of the user that can write there, and no more.

        That user can put a link in the place of a body or a folder at any moment, between looking and doing as well; so nothing
        is read or removed there that it could not read or remove by itself.
        """
        return as_user(self._user, f"cd bodies || exit 9\n{script}")

    def emptied(self) -> str:
        """A script for the gate's folder that removes all of them; by `find`: a million names are too many for a command line."""
        remove = self._in_bodies("find . -mindepth 1 ! -type d -exec rm -f {} +")
        return f"{{ [ ! -d bodies ] || {{ {remove}; }} ; }}"

    def names(self) -> str:
        """A script for the gate's folder that prints the names of all of them, one a line."""
        find = self._in_bodies("find . -mindepth 1 ! -type d -name '[0-9]*'")
        return f"{{ [ ! -d bodies ] || {{ {find}; }} ; }}"

    def removed_by_name(self) -> str:
        """A script for the gate's folder that removes the bodies whose names it reads, one a line."""
        return self._in_bodies("xargs rm -f")

    def gone(self) -> str:
        """A script for the gate's folder that removes `bodies` itself.

        Not by root's `rm -r`: between looking at a folder and opening it the worker user can put a link in its place, and not
        every `rm` notices.
        """
        inside = self._in_bodies('find . -mindepth 1 ! -type d -exec rm -f {} +; for d in ./* ./.[!.]*; do rm -rf "$d"; done')
        return f"if [ -d bodies ]; then {{ {inside}; }}; rmdir bodies; fi"

    def _sizes(self, names: list[str]) -> tuple[dict[str, int], bytes | None]:
        """How large these are; and all of them one after the other, where that is little: within a hold each question counts."""
        if not names:
            return {}, b""
        several = " ".join(names)
        script = (
            f"s=$(wc -c {several}) || exit 1\nprintf '%s\\n\\n' \"$s\"\n"
            f'set -- $s; shift $(($# - 2)); [ "$1" -gt {PIECE} ] || exec cat {several}'  # the last number is of all
        )
        answer = self._folder.shell.read(self._folder.cd + self._in_bodies(script), deadline=120)
        if answer.code != 0:
            raise Damaged(f"A recorded body is gone from {self._folder.path}/bodies: {answer.reason}.", BEGIN_ANEW)
        told, _, data = answer.out.partition(b"\n\n")
        found = (line.split() for line in told.decode().splitlines())
        sizes = {words[1]: int(words[0]) for words in found if len(words) == 2 and words[1] != "total"}
        return sizes, data if sum(sizes[name] for name in names) <= PIECE else None

    def _fetch(self, group: list[Written], sizes: Mapping[str, int], large: Collection[str]) -> Iterator[tuple[Written, bytes]]:
        names = [entry.body for entry in group if entry.body and entry.body not in large]
        data = b""
        if names:
            answer = self._folder.shell.read(self._folder.cd + self._in_bodies(f"cat {' '.join(names)}"), deadline=120)
            data = answer.out
            if answer.code != 0:
                raise self._not_whole(answer.reason)
        yield from self._shared_out(group, sizes, data, large)

    def _shared_out(
        self, group: list[Written], sizes: Mapping[str, int], data: bytes, large: Collection[str] = ()
    ) -> Iterator[tuple[Written, bytes]]:
        if len(data) != sum(sizes[entry.body] for entry in group if entry.body):
            raise self._not_whole("they have another length")
        at = 0
        for entry in group:
            size = sizes[entry.body] if entry.body else 0
            yield entry, TOO_LARGE if entry.body in large else data[at : at + size]
            at += size

    def _not_whole(self, why: str) -> Damaged:
        return Damaged(f"Recorded bodies in {self._folder.path}/bodies could not be read whole: {why}.", BEGIN_ANEW)

    def remove(self, names: Iterable[str]) -> None:
        """Remove these; what is gone already is fine."""
        rest = iter(names)
        while batch := list(islice(rest, NAMES_AT_ONCE)):
            self._folder.change(self._in_bodies(f"rm -f {' '.join(map(_safe, batch))}"), f"remove {len(batch)} recorded bodies")


def _safe(name: str) -> str:
    if not name.isalnum():
        raise Failed(f"The gate's log names a body {name!r}, which is none of nginx's.")
    return name
