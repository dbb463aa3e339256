"""Every odd form of a request that two servers could read differently, one at a time, with the key of an application.

Whatever of it the serving Qdrant understands is done; then the gate's record has to name the records that were changed, also where
one request hides in another's body. A form is the pieces of bytes that go over one connection (a number is a pause in seconds).
It writes only records of its own: ten ids from :attr:`Form.at` on, of which the last five are there before.

:mod:`tools.hostile_trying` sends them and says of each what came of it.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

COLLECTION = "odd"
POINTS = f"/collections/{COLLECTION}/points"
#: Ids of one form; from the fifth on its records are there before it is sent.
IDS, BEFORE = 10, 5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Form:
    """One form. ``http2``: for a port that speaks HTTP/2 without TLS. ``leaves``: its client is gone before it is answered."""

    name: str
    at: int
    pieces: tuple[bytes | float, ...]
    http2: bool = False
    leaves: str = ""


# -- the parts of a request --------------------------------------------------------------------------------


def records(*ids: int) -> bytes:
    """The body of an upsert."""
    return json.dumps({"points": [{"id": one, "vector": [0.5] * 4, "payload": {"by": "form"}} for one in ids]}).encode()


def named(*ids: int) -> bytes:
    """The body of a request that names records: a delete."""
    return json.dumps({"points": list(ids)}).encode()


class Making:
    """Makes the requests of one form."""

    def __init__(self, at: int, key: str) -> None:
        self.at, self.key = at, key

    def head(self, line: str, *headers: str, end: str = "\r\n") -> bytes:
        """A request line and headers, with those that every request here has."""
        usual = ("Host: q", f"api-key: {self.key}", "Content-Type: application/json")
        return (end.join([line, *usual, *headers]) + end * 2).encode("latin-1")

    def put(self, *headers: str, body: bytes | None = None, path: str = f"{POINTS}?wait=true", method: str = "PUT") -> bytes:
        """A whole and usual request."""
        content = records(self.at) if body is None else body
        return self.head(f"{method} {path} HTTP/1.1", *headers, f"Content-Length: {len(content)}") + content

    def hidden(self, number: int = 1) -> bytes:
        """A request that stands behind or inside of another."""
        return self.put(body=records(self.at + number))


def chunked(content: bytes, line: bytes = b"\r\n", extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """A body in two chunks and the last."""
    half = len(content) // 2
    parts = [b"%x" % len(part) + extension + line + part + line for part in (content[:half], content[half:])]
    return b"".join(parts) + b"0" + line + trailer + line


# -- the forms ---------------------------------------------------------------------------------------------


def _lengths(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """Two lengths, an odd length, and both ways of saying where a body ends."""
    body, te = records(m.at), "Transfer-Encoding: chunked"
    whole = chunked(body)
    reading = (f"POST {POINTS}/scroll HTTP/1.1", b"{}")
    for name, line, content in (("write", f"PUT {POINTS}?wait=true HTTP/1.1", body), ("read", *reading)):
        packed = chunked(content)
        for size in (0, 4, len(content), len(packed), len(packed) + len(m.hidden())):
            for order in ((te, f"Content-Length: {size}"), (f"Content-Length: {size}", te)):
                yield f"both, {order[0].split(':')[0]} first, {size} of a {name}", [m.head(line, *order) + packed + m.hidden()]
        inner = b"%x\r\n" % len(m.hidden()) + m.hidden() + b"\r\n0\r\n\r\n"
        yield f"TE.CL of a {name}", [m.head(line, "Content-Length: 4", te) + inner]
        yield f"no length, a request for a body, of a {name}", [m.head(line) + m.hidden()]
    odd = [" chunked", "\tchunked", "\x0bchunked", "\x0cchunked", "chunked\x0b", "xchunked", "CHUNKED", '"chunked"', "chunked, identity",
           "identity, chunked", "chunked, chunked", "gzip, chunked", "identity", "", "chunked,", ",chunked", "chunked;q=1"]  # fmt: skip
    for value in odd:
        for also in (["Content-Length: 0"], [f"Content-Length: {len(whole)}"], []):
            head = m.head(f"PUT {POINTS}?wait=true HTTP/1.1", f"Transfer-Encoding:{value}", *also)
            yield f"Transfer-Encoding:{value!r} {' '.join(also)}", [head + whole + m.hidden()]
    for name in ("Transfer-Encoding :", "Transfer-Encoding\t:", " Transfer-Encoding:", "Transfer_Encoding:", "X:a\r\n\tTransfer-Encoding:",
                 "Transfer-Encoding:\r\n", "X: a\nTransfer-Encoding:", "X: a\rTransfer-Encoding:", "Transfer-Encoding\x00:", "\x01Transfer-Encoding:",
                 "Transfer-Encoding: identity\r\nTransfer-Encoding:", "Foo: bar\r\n\r\nTransfer-Encoding:", ":\r\nTransfer-Encoding:"):  # fmt: skip
        for length in ("0", str(len(whole))):
            head = m.head(f"PUT {POINTS}?wait=true HTTP/1.1", f"{name} chunked", f"Content-Length: {length}")
            yield f"{name!r} and a length of {length}", [head + whole + m.hidden()]
    right = str(len(body))
    for value in (f"{right}, {right}", f"+{right}", f"-{right}", f"0{right}", f"{right} ", f"\t{right}", f"{right}\x0b", f"0x{len(body):x}",
                  f"{right}.0", f"{right}e0", f"{right} 0", f"{right},0", f"{right}\r\nContent-Length: {right}", f"{right}\r\nContent-Length: 0",
                  f"0\r\nContent-Length: {right}", f"{right}\r\n Content-Length: 0", "99999999999999999999", "18446744073709551616",
                  f"{right}\r\nContent_Length: 0", f"{right}\r\nContent-Length : 0", f"{right}\nContent-Length: 0", ""):  # fmt: skip
        head = m.head(f"PUT {POINTS}?wait=true HTTP/1.1", f"Content-Length: {value}")
        yield f"Content-Length: {value!r}", [head + body + m.hidden()]


def _chunks(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """Chunks: their extensions, sizes, ends and trailers."""
    body = records(m.at)
    line = m.head(f"PUT {POINTS}?wait=true HTTP/1.1", "Transfer-Encoding: chunked")
    for extension in (b";a", b";a=b", b';a="b;c"', b";a=\x00", b" ", b"\t", b" ;a", b";a\n", b';a="\r\n0\r\n\r\n"', b";" + b"a" * 9000, b"\r", b",", b"\x0b"):  # fmt: skip
        yield f"a chunk's extension {extension[:12]!r}", [line + chunked(body, extension=extension) + m.hidden()]
    yield "chunks with bare ends of lines", [line + chunked(body, line=b"\n") + m.hidden()]
    yield "chunks with CR alone", [line + chunked(body, line=b"\r") + m.hidden()]
    for trailer in (b"X: 1\r\n", b"Content-Length: 0\r\n", b"api-key: wrong\r\n", b"Transfer-Encoding: identity\r\n", b"X: 1\n", b" folded\r\n", b"X\r\n", b"X: " + b"a" * 9000 + b"\r\n"):  # fmt: skip
        yield f"a trailer {trailer[:20]!r}", [line + chunked(body, trailer=trailer) + m.hidden()]
    size = len(body)
    for text in (b"%X" % size, b"0000%x" % size, b"0x%x" % size, b"+%x" % size, b"-%x" % size, b" %x" % size, b"1%016x" % size, b"%xg" % size, b"%d" % size, b""):  # fmt: skip
        yield f"a chunk's size {text!r}", [line + text + b"\r\n" + body + b"\r\n0\r\n\r\n" + m.hidden()]
    yield "a chunk without its end", [line + b"%x\r\n%s0\r\n\r\n" % (size, body) + m.hidden()]
    yield "a chunk that is longer", [line + b"%x\r\n%sXX\r\n0\r\n\r\n" % (size, body) + m.hidden()]
    yield "the last chunk as 000", [line + b"%x\r\n%s\r\n000\r\n\r\n" % (size, body) + m.hidden()]
    yield "no last chunk, then a request", [line + b"%x\r\n%s\r\n" % (size, body) + m.hidden()]
    yield "chunks of one byte", [line + b"".join(b"1\r\n%c\r\n" % one for one in body) + b"0\r\n\r\n" + m.hidden()]
    yield "chunks to an HTTP/1.0", [line.replace(b"HTTP/1.1", b"HTTP/1.0") + chunked(body) + m.hidden()]


def _lines(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """Request lines and the ends of lines."""
    body = records(m.at)
    length = f"Content-Length: {len(body)}"
    path = f"{POINTS}?wait=true"
    yield "bare ends of lines", [m.head(f"PUT {path} HTTP/1.1", length, end="\n") + body + m.hidden()]
    yield "CR alone", [m.head(f"PUT {path} HTTP/1.1", length, end="\r") + body + m.hidden()]
    for line in (f"\r\n\r\nPUT {path} HTTP/1.1", f"\nPUT {path} HTTP/1.1", f" PUT {path} HTTP/1.1", f"PUT  {path}  HTTP/1.1", f"PUT\t{path}\tHTTP/1.1", f"PUT {path} HTTP/1.1 ",
                 f"PUT {path} http/1.1", f"PUT {path} HTTP/1.10", f"PUT {path} HTTP/01.1", f"PUT {path} HTTP/1.2", f"PUT {path} HTTP/2.0", f"PUT {path} HTTP/1.0", f"PUT {path}",
                 f"PUT {path} HTTP/1.1\x00", f"PUT {path} x HTTP/1.1", f"PUT {POINTS} ?wait=true HTTP/1.1", f"PUT {path} HTTP/1.1 HTTP/1.1", f"PUT {path}\x0bHTTP/1.1",
                 f"PUT {POINTS}?\x01\x7f\xff HTTP/1.1", f"PUT {POINTS}?a\tb HTTP/1.1", f"PUT {path}&{'a' * 7000} HTTP/1.1", f"PUT {path}&{'a' * 40_000} HTTP/1.1", "PUT", "",
                 f"POST {POINTS}/scroll HTTP/1.1\r\nX: y\n\nPUT {path} HTTP/1.1"):  # fmt: skip
        yield f"a line {line[:24]!r} to {line[-24:]!r}, {len(line)} long", [m.head(line, length) + body + m.hidden()]
    for method in ("Put", "pUT", "put", "PUT_", "P-T", "PUT\x00", "PU T", "UPSERT", "HEAD", "OPTIONS", "TRACE", "GET", "POST", "PATCH", "CONNECT", "PROPFIND", "LOCK", "PRI"):  # fmt: skip
        yield f"method {method!r}", [m.put(method=method) + m.hidden()]
        yield (
            f"method {method!r} on delete",
            [m.put(method=method, path=f"{POINTS}/delete?wait=true", body=named(m.at + 5)) + m.hidden()],
        )
    yield (
        "X-HTTP-Method-Override on a read",
        [m.put("X-HTTP-Method-Override: PUT", "X-Method-Override: PUT", method="GET") + m.hidden()],
    )
    yield "a header that is folded", [m.put("X: a\r\n b\r\n\tc") + m.hidden()]
    yield "a key that is folded", [m.put().replace(b"api-key: ", b"api-key:\r\n ") + m.hidden()]
    yield "a host twice", [m.put("Host: other") + m.hidden()]
    yield "no host", [m.put().replace(b"Host: q\r\n", b"") + m.hidden()]
    for host in ("", "a b", "q:99999", "[::1", "q/collections", "127.0.0.1:6339", "\xff", "q, r"):
        yield f"host {host!r}", [m.put().replace(b"Host: q", f"Host: {host}".encode("latin-1")) + m.hidden()]
    yield "headers of 9 kB", [m.put("X: " + "a" * 9000) + m.hidden()]
    yield "headers of 30 kB", [m.put(*(f"X-{n}: {'a' * 1000}" for n in range(30))) + m.hidden()]
    yield "a header of 200 kB", [m.put("X: " + "a" * 200_000) + m.hidden()]
    yield "300 headers", [m.put(*(f"X-{n}: a" for n in range(300))) + m.hidden()]


def _targets(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """Addresses, for a write and for a delete that looks like a read."""
    for target in ("http://q{}", "HTTP://q{}", "https://other{}", "ws://q{}", "http://a:b@q{}", "http://q:1{}", "http://{}", "http:{}", "//q{}", "q:6333", "*", "q{}", "?{}",
                   "http://q?x{}", "http://[::1]{}", "x://q{}", "http://q/..{}"):  # fmt: skip
        yield f"target {target}", [m.put(path=target.replace("{}", f"{POINTS}?wait=true")) + m.hidden()]
    spelt = ("/collections/odd//points", "//collections/odd/points", "/collections/odd/points/", "/collections/odd/points//", "/collections/./odd/points", "/collections/odd/./points",
             "/collections/odd/points/.", "/./collections/odd/points", "/x/../collections/odd/points", "/collections/x/../odd/points", "/collections/odd/x/..//points",
             "/collections/odd/points/x/..", "/collections/odd/%70oints", "/collections/odd/%2570oints", "/%63ollections/odd/points", "/collections%2fodd%2fpoints", "/collections/odd%2fpoints",
             "/collections/odd%2Fpoints", "/collections/odd/points%2f", "/collections/%6fdd/points", "/collections/%256fdd/points", "/collections/%6%46dd/points", "/collections/odd%00/points",
             "/collections/odd%0a/points", "/collections/odd/points%0a", "/collections/odd/points%0d%0aX:%20y", "/collections/odd/points%20", "/collections/odd/points;x=1", "/collections/odd;x=1/points",
             "/collections/odd/points;", "/collections/odd/points%3b", "/collections/odd/points%3fx", "/collections/odd/points%23x", "/collections/odd/points#x", "/collections/odd/points#?x",
             "/collections/odd/points?#/scroll", "/collections/odd/points?/scroll", "/collections\\odd\\points", "/collections/odd/..%5cpoints", "/Collections/odd/points", "/collections/ODD/points",
             "/collections/odd/points%c0%af", "/collections/odd%c0%afpoints", "/collections/odd%ef%bc%8fpoints", "/collections/odd/points%", "/collections/odd/points%z", "/collections/odd/points%2",
             "/collections/odd+/points", "/collections/odd/%2e%2e/odd/points", "/collections/odd/points/%2e", "/collections/odd/.%2e/odd/points", "/collections/odd-now/points",
             "/collections/odd%2dnow/points", "/collections/\xf6dd/points", "/collections/odd/points?wait=true&wait=false", "/collections/odd/points??wait=true", "/collections/odd/points?%00",
             "/collections/%6F%64%64/%70%6F%69%6E%74%73")  # fmt: skip
    for path in spelt:
        yield f"path {path}", [m.put(path=path) + m.hidden()]
    for tail in ("delete", "delete/", "delete//", "/delete", "delete/../scroll", "scroll/../delete", "./delete", "delete/.", "%64elete", "%2564elete", "delete%2f", "delete%2f..%2fscroll", "delete/%2e%2e/scroll",
                 "delete;x", "delete?/scroll", "delete#/../scroll", "scroll#/../delete", "delete%3f/../scroll", "delete%23/../scroll", "delete%0a", "search/../delete", "query%2f..%2fdelete", "delete\\..\\scroll", "DELETE",
                 "delete%20", "delete/x/..", "delete%00", "scroll%0a/delete", "delete?x=/points/scroll", "count/..//delete"):  # fmt: skip
        for method in ("POST", "GET"):
            asked = m.put(path=f"{POINTS}/{tail}", method=method, body=named(m.at + 5, m.at + 6))
            yield f"{method} .../points/{tail}", [asked + m.hidden()]


def _connections(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """What concerns the connection: pipelines, slowness, upgrades, going away."""
    read = m.head(f"GET {POINTS}/{m.at + 5} HTTP/1.1")
    yield "five writes and reads in one", [b"".join(read + m.hidden(n) for n in range(5))]
    yield "five writes, the last cut off", [b"".join(m.hidden(n) for n in range(5)) + m.hidden(5)[:-9]]
    yield "a write of which the end never comes", [m.put()[:-1], 1.0]
    yield "headers byte by byte", [*_slowly(m.put(), 40), m.hidden()]
    yield "a body in pieces", [m.put()[:-50], 0.3, m.put()[-50:-20], 0.3, m.put()[-20:] + m.hidden()]
    yield "headers that never end", [m.put()[:60], 0.5, b"X: a\r\n", 0.5, b"X: a\r\n"]
    body = records(m.at)
    for value in ("100-continue", "100-Continue", "200-ok", "100-continue, x", ""):
        asked = m.head(f"PUT {POINTS}?wait=true HTTP/1.1", f"Expect: {value}", f"Content-Length: {len(body)}")
        yield f"Expect: {value}", [asked, 0.2, body + m.hidden()]
        yield f"Expect: {value}, at once", [asked + body + m.hidden()]
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    inner = PREFACE + frame(4, 0, 0, b"") + h2_write(m, m.at + 1, stream=3)
    yield "h2c with a body", [m.put(*upgrade) + inner]
    yield "h2c on a read", [m.head(f"GET {POINTS}/{m.at + 5} HTTP/1.1", *upgrade), 0.3, inner]
    yield "h2c on a read, then a request", [m.head(f"GET {POINTS}/{m.at + 5} HTTP/1.1", *upgrade) + m.hidden()]
    yield "HTTP/2 at once", [inner]
    socket_ = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    yield "websocket", [m.head(f"GET {POINTS}/{m.at + 5} HTTP/1.1", *socket_), 0.3, m.hidden()]
    yield "websocket with a body", [m.put(*socket_) + m.hidden()]
    for value in ("content-length", "transfer-encoding", "api-key", "content-type", "close, content-length", "keep-alive", "close", "host"):  # fmt: skip
        yield f"Connection: {value}", [m.put(f"Connection: {value}") + m.hidden()]
    yield (
        "Proxy-Connection, Keep-Alive, TE",
        [m.put("Proxy-Connection: keep-alive", "Keep-Alive: timeout=9", "TE: trailers, chunked") + m.hidden()],
    )
    for name in ("X-Accel-Redirect: /collections", "X-Original-URL: /collections/odd", "X-Rewrite-URL: /", "X-Forwarded-Prefix: /x", "Range: bytes=0-1", "If-Match: x", "If-None-Match: *", "Cookie: a=b",
                 "X-Qdrant-Gate: state", "X-Qdrant-Gate: unrecorded", "Max-Forwards: 0", "Trailer: X"):  # fmt: skip
        yield f"header {name}", [m.put(name) + m.hidden()]
    grpc = m.put(
        "Content-Type: application/grpc", "TE: trailers", path="/qdrant.Points/Upsert", method="POST", body=b"\0\0\0\0\5\x0a\3odd"
    )
    yield "gRPC in HTTP/1.1", [grpc + m.hidden()]


def _slowly(data: bytes, pieces: int) -> Iterator[bytes | float]:
    size = max(1, len(data) // pieces)
    for at in range(0, len(data), size):
        yield data[at : at + size]
        yield 0.01


def _bodies(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """Encodings of a body, and what JSON may say in more than one way."""
    body = records(m.at)
    flat = zlib.compressobj(wbits=-15)
    raw = flat.compress(body) + flat.flush()
    # A meta-block that is not compressed, then the last and empty one; and a frame of zstd with one raw block.
    brotli = (0b0 | 0 << 1 | 0 << 2 | (len(body) - 1) << 4 | 1 << 20).to_bytes(3, "little") + body + b"\x03"
    zstd = b"\x28\xb5\x2f\xfd\x20" + bytes([len(body)]) + (1 | len(body) << 3).to_bytes(3, "little") + body
    small = zlib.compressobj(wbits=9)
    packed = {
        "gzip": gzip.compress(body), "GZIP": gzip.compress(body), "x-gzip": gzip.compress(body), "deflate": zlib.compress(body), "br": brotli, "zstd": zstd, "identity": body,
        "gzip, identity": gzip.compress(body), "gzip, gzip": gzip.compress(gzip.compress(body)), "deflate ": raw, "": body, "unknown": body, "gzip\r\nContent-Encoding: gzip": gzip.compress(gzip.compress(body)),
        " gzip": gzip.compress(body[:20]) + gzip.compress(body[20:]), "gzip;q=1": gzip.compress(body), "deflate\t": small.compress(body) + small.flush(), "gzip ": gzip.compress(body) + b"rest",
        "gzip,": gzip.compress(b" " * 200_000 + body, 1), "br ": body, "zstd ": body,
    }  # fmt: skip
    for name, content in packed.items():
        yield f"Content-Encoding:{name!r}", [m.put(f"Content-Encoding: {name}", body=content) + m.hidden()]
    yield "gzip and nobody says so", [m.put(body=gzip.compress(body)) + m.hidden()]
    a, b = m.at, m.at + 1
    one = '{"id":%s,"vector":[1,2,3,4],"payload":{"by":"form"}}'
    texts: dict[str, str | bytes] = {
        "points twice": f'{{"points":[{one % a}],"points":[{one % b}]}}', "an id twice": f'{{"points":[{one.replace("{", "{" + chr(34) + "id" + chr(34) + ":" + str(b) + ",", 1) % a}]}}',
        "points and batch": f'{{"points":[{one % a}],"batch":{{"ids":[{b}],"vectors":[[1,2,3,4]]}}}}', "points null, batch": f'{{"points":null,"batch":{{"ids":[{b}],"vectors":[[1,2,3,4]]}}}}',
        "a BOM": b"\xef\xbb\xbf" + body, "UTF-16": body.decode().encode("utf-16"), "UTF-16 without BOM": body.decode().encode("utf-16-le"), "UTF-32": body.decode().encode("utf-32"),
        "a comma at the end": body.replace(b"]}", b"],}", 1), "a comment": b"/*x*/" + body, "a second document": body + records(b), "a NUL behind it": body + b"\0", "spaces around": b" \r\n\t" + body + b"\n\n",
        "escaped names": body.replace(b'"points"', b'"\\u0070oints"').replace(b'"id"', b'"\\u0069d"'), "names in capitals": body.replace(b"points", b"Points"), "an id as text": f'{{"points":[{one % chr(34)}{a}"]}}',
        "an id as 1.0": f'{{"points":[{one % (str(a) + ".0")}]}}', "an id as 1e0": f'{{"points":[{one % (str(a) + "e0")}]}}', "an id as -0": f'{{"points":[{one % "-0"}]}}', "an id with zeros": f'{{"points":[{one % ("0" + str(a))}]}}',
        "an id above 64 bits": f'{{"points":[{one % str(2**64 + a)}]}}', "an id as a list": f'{{"points":[{one % f"[{a}]"}]}}', "an id as an object": f'{{"points":[{one % (chr(123) + chr(34) + "num" + chr(34) + ":" + str(a) + "}")}]}}',
        "NaN": body.replace(b"0.5", b"NaN", 1), "a huge number": body.replace(b"0.5", b"1e999", 1), "a list at the top": b"[" + body + b"]", "a string at the top": json.dumps(body.decode()).encode(),
        "an unknown field": f'{{"x":1,"points":[{one % a}],"y":[{{}}]}}', "a raw byte in text": body.replace(b"form", b"fo\xff"), "half a pair": body.replace(b"form", b"\\ud800"), "a control character": body.replace(b"form", b"f\x01"),
        "deep": b'{"x":' + b"[" * 200 + b"]" * 200 + b"," + body[1:], "a condition": f'{{"points":[{one % a}],"update_filter":{{"must_not":[{{"has_id":[{b}]}}]}}}}', "nothing": b"", "an empty list": b'{"points":[]}', "null": b"null",
        "a key of a shard": f'{{"points":[{one % a}],"shard_key":"x"}}', "points as an object": f'{{"points":{{"0":{one % a}}}}}', "points twice, one null": f'{{"points":null,"points":[{one % a}]}}',
        "points twice, one escaped": f'{{"points":[{one % a}],"\\u0070oints":[{one % b}]}}', "batch alone": f'{{"batch":{{"ids":[{a},{b}],"vectors":[[1,2,3,4],[1,2,3,4]],"payloads":[null,{{"by":"form"}}]}}}}',
    }  # fmt: skip
    for name, text in texts.items():
        yield f"a body with {name}", [m.put(body=text.encode() if isinstance(text, str) else text) + m.hidden(2)]
    c, d = m.at + 5, m.at + 6
    for name, text in {
        "a filter twice": f'{{"filter":{{"must":[{{"has_id":[{c}]}}]}},"filter":{{"must":[{{"has_id":[{d}]}}]}}}}', "points and filter": f'{{"points":[{c}],"filter":{{"must":[{{"has_id":[{d}]}}]}}}}',
        "points null, filter": f'{{"points":null,"filter":{{"must":[{{"has_id":[{d}]}}]}}}}', "points twice": f'{{"points":[{c}],"points":[{d}]}}', "a list": f"[{c},{d}]", "ids": f'{{"ids":[{c}]}}',
        "a filter by payload": f'{{"filter":{{"must":[{{"key":"at","match":{{"value":{c}}}}}]}}}}', "an unknown condition": f'{{"filter":{{"x":1,"must":[{{"has_id":[{d}]}}]}}}}',
        "a condition twice": f'{{"filter":{{"must":[{{"has_id":[{c}]}}],"must":[{{"has_id":[{d}]}}]}}}}',
    }.items():  # fmt: skip
        yield f"a delete with {name}", [m.put(path=f"{POINTS}/delete?wait=true", method="POST", body=text.encode()) + m.hidden()]
    up, gone = f'"upsert":{{"points":[{one % a}]}}', f'"delete":{{"points":[{c}]}}'
    for name, text in {
        "two in one": f'{{"operations":[{{{up},{gone}}}]}}', "one twice": f'{{"operations":[{{{up},"upsert":{{"points":[{one % b}]}}}}]}}', "operations twice": f'{{"operations":[{{{up}}}],"operations":[{{{gone}}}]}}',
        "an unknown one": f'{{"operations":[{{{up}}},{{"x":{{}}}},{{{gone}}}]}}', "one that fails": f'{{"operations":[{{{up}}},{{"upsert":{{"points":[{{"id":{b},"vector":[1]}}]}}}},{{{gone}}}]}}', "a list": f"[{{{up}}}]",
        "an unknown field": f'{{"x":1,"operations":[{{{gone},"x":1}}]}}',
    }.items():  # fmt: skip
        yield f"a batch with {name}", [m.put(path=f"{POINTS}/batch?wait=true", method="POST", body=text.encode()) + m.hidden(2)]
    yield "set payload by key and filter", [m.put(path=f"{POINTS}/payload?wait=true", method="POST", body=f'{{"payload":{{"x":1}},"key":"deep","filter":{{"must":[{{"has_id":[{c}]}}]}}}}'.encode()) + m.hidden()]  # fmt: skip


# -- HTTP/2 ------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """One frame of HTTP/2."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _text(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, size = len(value) - 127, b"\x7f"
    while rest >= 128:
        size, rest = size + bytes([rest % 128 + 128]), rest // 128
    return size + bytes([rest]) + value


def h2_head(fields: Iterable[tuple[str, str]]) -> bytes:
    """A block of header fields, none of them compressed."""
    return b"".join(b"\x10" + _text(name.encode("latin-1")) + _text(value.encode("latin-1")) for name, value in fields)


def h2_write(
    m: Making, one: int, *more: tuple[str, str], stream: int = 1, ends: bool = True, body: bytes | None = None, **other: str
) -> bytes:
    """An upsert as frames. ``other`` replaces a pseudo header: ``method``, ``path``, ``scheme``, ``authority``."""
    content = records(one) if body is None else body
    usual = {"method": "PUT", "scheme": "http", "path": f"{POINTS}?wait=true", "authority": "q"} | other
    fields = [(f":{name}", value) for name, value in usual.items()]
    fields += [("api-key", m.key), ("content-type", "application/json"), *more]
    return frame(1, 4, stream, h2_head(fields)) + frame(0, int(ends), stream, content)


def _http2(m: Making) -> Iterator[tuple[str, Sequence[bytes | float]]]:
    """What HTTP/2 lets a client say that HTTP/1.1 reads otherwise."""
    begin, body = PREFACE + frame(4, 0, 0, b""), records(m.at)
    hidden = m.hidden()

    def write(name: str, *more: tuple[str, str], **other: Any) -> tuple[str, list[bytes | float]]:
        return name, [begin + h2_write(m, m.at, *more, **other) + h2_write(m, m.at + 2, stream=3)]

    yield write("as it is")
    for value in ("chunked", "identity", "gzip, chunked"):
        yield write(f"transfer-encoding: {value}", ("transfer-encoding", value), body=b"0\r\n\r\n" + hidden)
    for length in (0, 1, len(body) - 1, len(body) + 1, len(body)):
        yield write(f"a length of {length - len(body):+}", ("content-length", str(length)))
    yield write("two lengths", ("content-length", str(len(body))), ("content-length", "0"))
    line = "\r\nContent-Length: 0\r\n\r\n" + hidden.decode("latin-1")
    yield write("a line in a value", ("x", "a" + line))
    yield write("a bare line in a value", ("x", "a\nTransfer-Encoding: chunked"))
    yield write("a line in a name", ("x\r\ntransfer-encoding", "chunked"))
    yield write("a colon in a name", ("transfer-encoding: chunked\r\nx", "y"))
    yield write("a name in capitals", ("Transfer-Encoding", "chunked"))
    yield write("a space in a name", ("transfer-encoding ", "chunked"))
    yield write("connection", ("connection", "upgrade"), ("upgrade", "h2c"))
    yield write("te", ("te", "trailers, chunked"))
    for method in ("put", "PUT / HTTP/1.1\r\nX:", "GET", "PUT ", "", "CONNECT"):
        yield write(f"method {method!r}", method=method)
    for path in (f"{POINTS} HTTP/1.1\r\nX: y", f"{POINTS} x", "", "collections/odd/points", f"http://q{POINTS}", f"{POINTS}#x", f"/x/..{POINTS}", f"{POINTS}/../points", f"{POINTS}\x00", "*"):  # fmt: skip
        yield write(f"path {path!r}", path=path)
    for authority in ("", "a b", "q/x", "q\r\nX: y", "q:1", "a@q"):
        yield write(f"authority {authority!r}", authority=authority)
    yield write("another host", ("host", "other"))
    yield write("a scheme", scheme="https\r\nX: y")
    yield write(
        "gRPC",
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        method="POST",
        path="/qdrant.Points/Upsert",
        body=b"\0\0\0\0\5\x0a\3odd",
    )
    half = frame(
        1, 4, 1, h2_head([(":method", "PUT"), (":scheme", "http"), (":path", POINTS), (":authority", "q"), ("api-key", m.key)])
    )
    yield "trailers", [begin + h2_write(m, m.at, ends=False) + frame(1, 5, 1, h2_head([("content-length", "0"), ("x", "y")]))]
    yield (
        "pseudo header as a trailer",
        [begin + h2_write(m, m.at, ends=False) + frame(1, 5, 1, h2_head([(":path", POINTS + "/delete")]))],
    )
    yield "a path twice", [begin + h2_write(m, m.at, (":path", f"{POINTS}/scroll"))]
    yield (
        "a body that is taken back",
        [begin + half + frame(0, 0, 1, body[:20]), 0.2, frame(3, 0, 1, b"\0\0\0\x08") + h2_write(m, m.at + 2, stream=3)],
    )
    yield "taken back when it was whole", [begin + h2_write(m, m.at) + frame(3, 0, 1, b"\0\0\0\x08")]
    yield (
        "a body that comes slowly",
        [begin + half + frame(0, 0, 1, body[:20]), 0.3, frame(0, 0, 1, body[20:40]), 0.3, frame(0, 1, 1, body[40:])],
    )
    yield (
        "headers in two frames",
        [
            begin
            + frame(1, 0, 1, h2_head([(":method", "PUT"), (":scheme", "http"), (":path", POINTS)]))
            + frame(9, 4, 1, h2_head([("api-key", m.key), (":authority", "q")]))
            + frame(0, 1, 1, body)
        ],
    )


GROUPS = (_lengths, _chunks, _lines, _targets, _connections, _bodies, _http2)
LEAVING = ("closes when it has sent", "resets when it has sent", "says that it sends no more")


@cache
def _size(group: Callable[[Making], Iterator[Any]]) -> int:
    return sum(1 for _ in group(Making(0, "")))


def form(group: Callable[[Making], Iterator[Any]], number: int, key: str, at: int) -> Form:
    """One of them."""
    name, pieces = next(islice(group(Making(at, key)), number, None))
    http2 = group is _http2
    return Form(f"HTTP/2: {name}" if http2 else name, at, tuple(pieces), http2)


def any_form(dice: random.Random, key: str, at: int, *, http2: bool) -> Form:
    """One of them, by lot."""
    group = dice.choice(GROUPS if http2 else GROUPS[:-1])
    return form(group, dice.randrange(_size(group)), key, at)


def forms(key: str, first: int = 0) -> list[Form]:
    """All of them, with ids from ``first`` on."""
    made: list[Form] = []
    for group in GROUPS:
        for number in range(_size(group)):
            made.append(form(group, number, key, first + len(made) * IDS))
    for name in LEAVING:
        m = Making(first + len(made) * IDS, key)
        made.append(Form(f"a client that {name}", m.at, (m.put() + m.hidden(),), leaves=name))
    return made
