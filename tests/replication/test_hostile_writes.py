"""What comes in without a key is no input: whatever Nginx let through is read, and what was refused decides nothing."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutover.core.shell import Shell
from cutover.core.write_guard import WriteGuard
from cutover.gate import write_log
from cutover.gate.bodies import Bodies
from cutover.gate.folder import Folder
from cutover.gate.interface import TOO_LARGE
from cutover.gate.records import Records
from cutover.gate.write_log import Damaged, Write
from cutover.qdrant.affected import UNPACKED_MOST, Depth, affected_by, had_no_effect, unpacked
from cutover.qdrant.routes import path_of
from cutover.replication.position import CannotFollow, Position
from cutover.replication.work import Reading, happened

#: How many times the random input; every night more than a change waits for.
TIMES = int(os.environ.get("CUTOVER_ATTACKS", "1"))
WRITE = "/collections/a/points"


def escaped(raw: bytes) -> bytes:
    """As nginx's ``escape=json`` writes a variable: quotes, backslashes and control characters are escaped, all else is raw."""
    short = {8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
    return b"".join(short.get(b) or (b"\\u%04X" % b if b < 32 else bytes([b])) for b in raw)


def logged(uri: bytes, method: bytes = b"PUT", status: int = 401) -> bytes:
    begin = b'{"n":"begin","id":"x","at":"1.5","pid":"7","method":"%s","uri":"%s","body":"/b/0000000001"}\n'
    end = b'{"n":"end","id":"x","at":"1.6","took":"0.1","method":"%s","uri":"%s","status":"%d","side":"old","to":"1:1","answered":"401","body":"/b/0000000001"}\n'
    return begin % (escaped(method), escaped(uri)) + end % (escaped(method), escaped(uri), status)


@pytest.mark.parametrize(
    "uri",
    [b"/collections/a\xff/points", b"/collections/\x80\x81/points", b"/\xc3\xa4", b"/\xed\xa0\x80", b"/\xf0\x9f\x98\x80?x=\xfe", b"/\x7f",
     b'/"\\', b"/\x01\x1f", b"//..%2f%00", b"/" + b"\xff" * 8000],
)  # fmt: skip
def test_a_raw_byte_in_an_address_damages_nothing(uri: bytes) -> None:
    read = list(write_log.lines(logged(uri), 0))
    assert [line.kind for line in read] == ["begin", "end"]
    assert all(line.write is not None and line.write.uri.isascii() for line in read)
    assert json.dumps(read[1].write.uri, ensure_ascii=False).encode()  # type: ignore[union-attr]


def test_a_raw_name_is_the_name_that_its_escaped_form_is() -> None:
    (_, end) = write_log.lines(logged("/collections/größe/points".encode(), status=200), 0)
    assert end.write is not None
    assert path_of(end.write.uri).collection == "größe"


@settings(max_examples=1000 * TIMES, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=20), st.integers(0, 999))
@example(b"/collections/a\xff/points", b"PUT", 401)
def test_any_byte_is_read(uri: bytes, method: bytes, status: int) -> None:
    (begin, end) = write_log.lines(logged(uri, method, status), 0)
    assert begin.kind, end.write is not None
    assert end.write is not None
    assert affected_by(end.write.method, end.write.uri, b"") is not None
    assert had_no_effect(end.write.method, end.write.uri, end.write.status) in {True, False}


def test_a_line_that_was_cut_off_is_still_damage() -> None:
    for size in range(1, len(logged(b"/x")) - 1):
        cut = logged(b"/x")[:size].rsplit(b"\n", 1)[-1]
        if cut and not cut.endswith(b"}"):
            with pytest.raises(Damaged):
                list(write_log.lines(cut + b"\n", 0))


# -- what was refused ------------------------------------------------------------------------------------

ROUTES = [
    ("PUT", WRITE), ("POST", WRITE + "/delete"), ("POST", WRITE + "/payload"), ("PUT", WRITE + "/vectors"), ("PATCH", "/collections/a"),
    ("POST", WRITE + "/batch"), ("PUT", "/collections/a"), ("DELETE", "/collections/a"), ("POST", "/collections/aliases"),
    ("PUT", "/collections/a/index"), ("POST", "/collections/a/snapshots/upload"), ("PUT", "/nothing"), ("BREW", "/pot"),
]  # fmt: skip


@pytest.mark.parametrize("status", [401, 405, 411, 413, 415])
@pytest.mark.parametrize(("method", "uri"), ROUTES)
def test_what_was_refused_in_front_is_nothing(method: str, uri: str, status: int) -> None:
    assert had_no_effect(method, uri, status)


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(("method", "uri"), ROUTES)
def test_what_was_refused_is_nothing_unless_it_has_steps(method: str, uri: str, status: int) -> None:
    assert had_no_effect(method, uri, status) is not affected_by(method, uri, b"").in_steps


@pytest.mark.parametrize("status", [0, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 499, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("method", "uri"),
    [("PUT", "/nothing"), ("PUT", "/"), ("POST", "/healthz"), ("DELETE", "/collections"), ("PUT", "/dashboard/x"), ("BREW", "/pot"), ("DELETE", "/metrics"),
     ("POST", "/collections/a/nothing"), ("PUT", "/collections/a/points/1/2/3"), ("PUT", "/%ff"), ("PROPFIND", "/collections/a/points")],
)  # fmt: skip
def test_a_route_that_qdrant_does_not_have_ends_nothing(method: str, uri: str, status: int) -> None:
    assert had_no_effect(method, uri, status)


@pytest.mark.parametrize("status", [200, 202, 0, 500, 502, 503, 504, 408, 499])
@pytest.mark.parametrize(
    ("method", "uri"),
    [one for one in ROUTES if one not in {("PUT", "/nothing"), ("BREW", "/pot")}]
    + [("POST", "/collections/a/cluster"), ("DELETE", "/cluster/peer/1"), ("PUT", "/collections/a/shards"), ("POST", "/locks")],
)
def test_what_may_have_happened_is_never_nothing(method: str, uri: str, status: int) -> None:
    assert not had_no_effect(method, uri, status)


@pytest.mark.parametrize("uri", ["/nothing", "/collections", "/collections/a/nothing"])
def test_a_route_that_a_newer_release_may_have_counts_where_it_was_done(uri: str) -> None:
    assert not had_no_effect("PUT", uri, 200)


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_write_that_names_records_may_have_been_done_in_part(status: int) -> None:
    body = b'{"points":[{"id":1,"vector":[1.0]}]}'
    assert not had_no_effect("PUT", WRITE, status)
    assert happened(Write(1, 1.0, "PUT", WRITE, status, "old", "b"), affected_by("PUT", WRITE, body))


class _Source:
    def collections(self) -> list[str]:
        return ["a", "b"]


@pytest.mark.parametrize("status", [0, 408, 499, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("method", "uri", "names"),
    [("DELETE", "/cluster/peer/1", {"a", "b"}), ("POST", "/locks", {"a", "b"}), ("POST", "/collections/a/cluster", {"a"}),
     ("PUT", "/collections/a/shards", {"a"}), ("PUT", "/storage/x", {"a", "b"})],
)  # fmt: skip
def test_what_is_not_followed_and_may_have_happened_means_look_and_not_over(
    method: str, uri: str, names: set[str], status: int
) -> None:
    reading = Reading(cast("Any", _Gate()), cast("Any", _Source()), Position(holders={"a": ["a"]}))
    work = reading.of([Write(1, 1.0, method, uri, status, "old", "")])
    assert set(work.whole) == names and set(work.whole.values()) == {Depth.EVERYTHING}
    assert work.schema == names and work.aliases


def test_what_is_not_followed_and_did_happen_ends_the_following() -> None:
    reading = Reading(cast("Any", _Gate()), cast("Any", _Source()), Position())
    with pytest.raises(CannotFollow, match="changes the server itself"):
        reading.of([Write(1, 1.0, "DELETE", "/cluster/peer/1", 200, "old", "")])


class _Gate:
    """Only counts whose bodies are fetched."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def bodies(self, entries: Iterable[Any]) -> Iterator[tuple[Any, bytes]]:
        for entry in entries:
            self.fetched.append(entry.status)
            yield entry, b'{"points":[1]}'


def test_the_body_of_what_was_refused_is_not_fetched() -> None:
    gate = _Gate()
    reading = Reading(cast("Any", gate), cast("Any", None), Position(holders={"a": ["a"]}))
    entries = [
        Write(n, 1.0, "PUT", WRITE, status, "old", "b") for n, status in enumerate((401, 403, 405, 411, 413, 415, 429, 200, 400))
    ]
    reading.of(entries)
    assert gate.fetched == [200, 400]


# -- what a body may be ----------------------------------------------------------------------------------


#: Made when they are needed: a quarter of a gigabyte takes seconds to pack, and each process of a run reads this file.
BOMBS: dict[str, Callable[[], bytes]] = {
    "many numbers": lambda: gzip.compress(b"[" + b"0," * (UNPACKED_MOST * 2) + b"0]", 9),
    "zeros": lambda: zlib.compress(bytes(UNPACKED_MOST * 4), 9),
    "many parts": lambda: gzip.compress(bytes(UNPACKED_MOST // 8)) * 16,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_body_that_means_gigabytes_takes_bounded_memory(bomb: str) -> None:
    packed = BOMBS[bomb]()
    tracemalloc.start()
    found = affected_by("PUT", WRITE, packed)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.whole == Depth.EVERYTHING
    assert not found.refuse
    assert most < 3 * UNPACKED_MOST


def test_a_body_that_is_too_large_means_compare_and_not_never() -> None:
    for method, uri in ROUTES[:6]:
        found = affected_by(method, uri, TOO_LARGE)
        assert not found.refuse
        assert found.whole or found.schema


@settings(max_examples=100 * TIMES, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["gzip", "zlib", "none", "twice", "cut"]))
def test_what_can_be_unpacked_is_what_was_sent(body: bytes, how: str) -> None:
    if how == "gzip":
        assert unpacked(gzip.compress(body)) == body
    elif how == "zlib":
        assert unpacked(zlib.compress(body)) == body
    elif how == "twice":
        assert unpacked(gzip.compress(body) + gzip.compress(body)) == body + body
    else:
        found = affected_by("PUT", WRITE, gzip.compress(body)[:-9] if how == "cut" else body)
        assert not found.refuse


def test_a_long_record_is_read_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").mkdir()
    begun = b'{"n":"begin","id":"long","at":"1.5","pid":"7","method":"PUT","uri":"/collections/a/points","body":""}\n'
    over = (
        b'{"n":"end","id":"long","at":"9.5","method":"PUT","uri":"/collections/a/points","status":"200","side":"old","body":""}\n'
    )
    lines = [logged(b"/collections/a/points?n=%d" % number) for number in range(200)]
    (tmp_path / "log/writes.jsonl").write_bytes(begun + b"".join(lines) + over)
    shell = Shell([], WriteGuard())
    folder = Folder(str(tmp_path), shell)
    monkeypatch.setattr("cutover.gate.records.PIECE", 4096)
    try:
        parts = list(Records(folder, Bodies(folder, "nobody")).read_parts(0))
        whole = Records(folder, Bodies(folder, "nobody")).read_log(0)
    finally:
        shell.close()
    assert len(parts) > 10 and max(map(len, parts)) < 20
    assert [write for part in parts for write in part] == whole
    assert len(whole) == 201
    assert whole[-1].began == len(begun), "one that began in the first part and ended in the last"
