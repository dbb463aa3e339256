"""The gate's configuration, through a real nginx: which requests wait, where they go, and what is recorded of them."""

from __future__ import annotations

import concurrent.futures
import csv
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutover.qdrant import routes
from lab.network import Authority
from tests.support.gateway import ADDRESS, Gateway, gateway, session, until

ROUTES = Path(__file__).parents[1] / "data" / "qdrant_routes.tsv"
UPSERT = "/collections/docs/points?wait=true"
# While a hold lasts, nginx looks again every 0.2 s and gives up after seven waits.
ROUND = 0.2
LONGEST = 7 * ROUND


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway() as made:
        yield made


@pytest.fixture
def gate(running: Gateway) -> Iterator[Gateway]:
    running.clear()
    yield running
    running.clear()


def route_table() -> list[tuple[str, str, bool]]:
    with ROUTES.open() as file:
        return [(row["method"], row["path"], row["held"] == "waits") for row in csv.DictReader(file, delimiter="\t")]


def variants(path: str) -> list[str]:
    """The same route in the spellings that Qdrant accepts: it merges slashes, drops a trailing one and decodes."""
    found = [path, path + "?wait=true&x=/points/scroll"]
    if path != "/":
        encoded = re.sub(r"[a-z](?=[a-z]*$)", lambda m: f"%{ord(m.group()):02x}", path, count=1)
        found += [path + "/", path.replace("/", "//"), encoded, path + "//"]
    return found


class TestTheRouteTable:
    def test_is_whole(self) -> None:
        table = route_table()
        assert len(table) == 101
        assert sum(held for _, _, held in table) == 45

    def test_every_route_in_every_spelling_is_a_write_or_a_read_as_the_table_says(self, gate: Gateway) -> None:
        gate.set("record")
        wrong: list[tuple[str, ...]] = []
        asked = written = 0
        line = http.client.HTTPConnection(ADDRESS, gate.port, timeout=10)
        for method, path, held in route_table():
            for spelling in variants(path):
                before = gate.log.stat().st_size if gate.log.exists() else 0
                line.request(method, spelling, body=b"{}" if method != "GET" else None)
                answer = line.getresponse()
                answer.read()
                asked += 1
                assert answer.status == 200, (method, spelling, answer.status)
                if held:
                    written += 1
                    until(lambda n=written: gate.log.read_bytes().count(b'{"n":"end"') == n, "The line")
                seen = gate.log.stat().st_size > before
                if seen != held:
                    wrong.append((method, spelling))
                if held != (not routes.is_read(method, spelling)):
                    wrong.append(("the tool's own table", method, spelling))
                if gate.old.asked[-1].path != spelling:
                    wrong.append(("changed on the way", spelling, gate.old.asked[-1].path))
        line.close()
        assert not wrong
        assert asked > 550

    def test_every_write_waits_and_no_read_does(self, gate: Gateway) -> None:
        gate.set("hold")
        reads = [(m, p) for m, p, held in route_table() if not held]
        for method, path in reads:  # one that was held would end with 503, as the hold lasts
            assert gate.http.request(method, gate.url + path, timeout=5).status_code == 200, (method, path)
        writes = [(m, p) for m, p, held in route_table() if held]

        def one(what: tuple[str, str]) -> tuple[str, str, int, float]:
            began = time.monotonic()
            with session() as client:
                status = client.request(what[0], gate.url + what[1], json={}, timeout=10).status_code
            return (*what, status, time.monotonic() - began)

        with concurrent.futures.ThreadPoolExecutor(len(writes)) as pool:
            answers = list(pool.map(one, writes))
        assert [a for a in answers if a[2] != 503 or a[3] < LONGEST * 0.9] == []
        assert {a.method for a in gate.old.asked} <= {"GET", "POST"}
        assert len(gate.old.asked) == len(reads)

    @pytest.mark.parametrize(
        "path",
        [
            "/collections/docs/points/scroll/../delete",
            "/collections/docs/points/%64elete",
            "/collections/docs/points%2Fdelete",
            "/collections/docs/points/query/../batch",
            "/collections/docs%2Fpoints%2Fquery/points/batch",
            "/collections/docs/points/scroll%3F/../delete",
            "//collections///docs//points//delete//",
            "/collections/docs/points/delete?/points/scroll",
            "/collections/docs/points/scrolls",
            "/collections/docs/points/payload",
            "/collections/a/b/points/scroll",
            "/collections/docs/points/delete/%2e%2e/scroll",
            "/collections/docs/points/delete/%2E./scroll",
            "/collections/docs/points/./scroll",
            "/collections/docs/points/delete/../scroll",
            "/collections/docs%2fpoints%2fscroll",
        ],
    )
    def test_a_disguised_write_is_still_a_write(self, gate: Gateway, path: str) -> None:
        gate.set("record")
        gate.raw(f"POST {path} HTTP/1.1\r\nHost: q\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        assert len(gate.logged(1)) == 1

    @pytest.mark.parametrize(
        "path", ["/collections/docs%20x/points/scroll", "/collections/%C3%A4/points/", "/collections/a.b/facet"]
    )
    def test_unusual_names_of_collections_do_not_make_a_read_wait(self, gate: Gateway, path: str) -> None:
        gate.set("hold")  # one that waited would end with 503, as the hold lasts
        assert gate.http.post(gate.url + path, json={}, timeout=5).json()["path"] == path


class TestTheHold:
    def test_a_held_write_goes_through_when_the_hold_ends(self, gate: Gateway) -> None:
        gate.set("hold")
        threading.Timer(0.3, gate.unset, ["hold"]).start()
        began = time.monotonic()
        answer = gate.http.put(gate.url + UPSERT, json={"points": []}, timeout=20)
        assert answer.json()["side"] == "old", "one that waits to the end of the longest hold is answered by Nginx"
        assert time.monotonic() - began >= 0.3

    @pytest.mark.parametrize("record", [True, False])
    def test_a_hold_that_lasts_too_long_is_answered_in_qdrants_form(self, gate: Gateway, record: bool) -> None:
        if record:
            gate.set("record")
        gate.set("hold")
        began = time.monotonic()
        answer = gate.http.put(gate.url + UPSERT, json={"points": []}, timeout=5)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.headers["Content-Type"] == "application/json"
        assert "try again" in answer.json()["status"]["error"]
        assert answer.json()["time"] == 0.0
        assert time.monotonic() - began > LONGEST * 0.9
        assert gate.old.asked == []
        if record:
            assert gate.logged(1)[0]["side"] == ""
        gate.unset("hold")
        assert gate.http.put(gate.url + UPSERT, json={}, timeout=5).status_code == 200, "the connection lives on"

    def test_a_held_write_goes_where_the_switch_says(self, gate: Gateway) -> None:
        gate.set("record")
        gate.set("hold")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(lambda: session().put(gate.url + UPSERT, json={}, timeout=5).json()["side"]) for _ in range(8)]
            gate.logged(8, "held")
            gate.set("new")
            gate.unset("hold")
            assert {w.result() for w in waiting} == {"new"}
        assert gate.old.asked == []
        assert len(gate.lines("passed")) == 8

    def test_the_client_of_a_held_write_may_go_away(self, gate: Gateway) -> None:
        gate.set("record")
        gate.set("hold")
        with socket.create_connection((ADDRESS, gate.port)) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q\r\nContent-Length: 2\r\n\r\n{}")
            gate.logged(1, "held")
        ended = gate.logged(1)[0]
        assert (ended["status"], ended["side"]) == ("499", "")
        gate.unset("hold")
        assert gate.old.asked == []


class TestTheSwitch:
    def test_under_load_fails_nothing_and_sends_nothing_to_the_wrong_server(self, gate: Gateway) -> None:
        gate.set("record")
        stop, failed, slowest, done = threading.Event(), [], [0.0], [0]

        def load(number: int) -> None:
            with session() as client:
                while not stop.is_set():
                    began = time.monotonic()
                    method, path = ("POST", "/collections/docs/points/scroll") if number % 2 else ("PUT", UPSERT)
                    try:
                        answer = client.request(method, gate.url + path, json={"n": number}, timeout=10)
                        if answer.status_code != 200:
                            failed.append((method, answer.status_code, answer.text[:80]))
                    except Exception as error:
                        failed.append((method, 0, repr(error)))
                    done[0] += 1
                    if method == "PUT":
                        slowest[0] = max(slowest[0], time.monotonic() - began)

        threads = [threading.Thread(target=load, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            time.sleep(0.05)
            self.move(gate, to_new=turn % 2 == 0)
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert done[0] > 500
        assert slowest[0] < 2
        print(f"{done[0]} requests, 20 switches, slowest write {slowest[0]:.3f} s")

    def move(self, gate: Gateway, *, to_new: bool) -> None:
        source = gate.old if to_new else gate.new
        gate.set("hold")
        until(lambda: source.under_way == 0 and not self.under_way(gate), "The drain", 3)
        before = sum(a.method == "PUT" for a in source.asked)
        (gate.set if to_new else gate.unset)("new")
        gate.unset("hold")
        gate.logged(len(gate.lines("end")) + 3)
        assert sum(a.method == "PUT" for a in source.asked) == before, "a write reached the server that was left"

    @staticmethod
    def under_way(gate: Gateway) -> set[str]:
        open_: dict[str, str] = {}
        for line in gate.lines():
            if line["n"] == "end":
                open_.pop(line["id"], None)
            else:
                open_[line["id"]] = line["n"]
        return {key for key, what in open_.items() if what != "held"}

    def test_flags_hold_over_a_restart(self, gate: Gateway) -> None:
        gate.set("new")
        gate.host.stop()
        gate.host.start()
        assert gate.http.put(gate.url + UPSERT, json={}, timeout=5).json()["side"] == "new"
        assert gate.http.get(gate.url + "/collections", timeout=5).json()["side"] == "new"


class TestRecording:
    def test_happens_only_when_asked_for(self, gate: Gateway) -> None:
        gate.http.put(gate.url + UPSERT, data=b"x" * 100_000, timeout=5)
        assert gate.lines() == []
        assert list(gate.bodies.iterdir()) == []
        gate.set("record")
        gate.http.post(gate.url + "/collections/docs/points/scroll", json={}, timeout=5)
        gate.http.put(gate.url + UPSERT, data=b"second", timeout=5)
        assert len(gate.logged(1)) == 1
        assert [b.read_bytes() for b in gate.bodies.iterdir()] == [b"second"]

    def test_a_line_says_what_was_asked_and_what_came_of_it(self, gate: Gateway) -> None:
        gate.set("record")
        gate.set("new")
        gate.http.put(gate.url + UPSERT, data=b"{}", headers={"X-Lab-Status": "400"}, timeout=5)
        line = gate.logged(1)[0]
        assert (line["method"], line["uri"], line["status"], line["side"]) == ("PUT", UPSERT, "400", "new")
        assert line["to"] == gate.new.address
        assert Path(line["body"]).read_bytes() == b"{}"
        assert abs(float(line["at"]) - time.time()) < 5
        begun = gate.lines("begin")[0]
        assert begun["id"] == line["id"]
        assert int(begun["pid"]) > 1

    def test_bodies_are_for_the_workers_eyes_only(self, gate: Gateway) -> None:
        gate.set("record")
        gate.http.put(gate.url + UPSERT, data=b"{}", timeout=5)
        body = Path(gate.logged(1)[0]["body"])
        assert stat.S_IMODE(body.stat().st_mode) == 0o600
        assert stat.S_IMODE(body.parent.stat().st_mode) == 0o700

    def test_a_write_without_body_is_recorded(self, gate: Gateway) -> None:
        gate.set("record")
        answer = gate.raw(b"DELETE /collections/docs HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n")
        assert b'"length": 0' in answer
        assert gate.logged(1)[0]["body"] == ""
        assert gate.lines("begin")[0]["method"] == "DELETE"

    @pytest.mark.parametrize("record", [True, False])
    def test_a_large_upload_arrives_whole(self, gate: Gateway, record: bool) -> None:
        if record:
            gate.set("record")
        body = os.urandom(1 << 20) * 50
        began = time.monotonic()
        answer = gate.http.put(gate.url + UPSERT, data=body, timeout=60)
        assert answer.json()["length"] == len(body)
        assert gate.old.asked[-1].sha256 == hashlib.sha256(body).hexdigest()
        if record:
            assert Path(gate.logged(1)[0]["body"]).stat().st_size == len(body)
        print(f"50 MB in {time.monotonic() - began:.2f} s")

    @pytest.mark.parametrize("record", [True, False])
    def test_a_chunked_upload_arrives_whole(self, gate: Gateway, record: bool) -> None:
        if record:
            gate.set("record")
        parts = [os.urandom(70_000) for _ in range(5)]
        gate.http.put(gate.url + UPSERT, data=iter(parts), timeout=10)
        assert gate.old.asked[-1].sha256 == hashlib.sha256(b"".join(parts)).hexdigest()
        if record:
            assert Path(gate.logged(1)[0]["body"]).read_bytes() == b"".join(parts)

    @pytest.mark.parametrize("record", [True, False])
    def test_an_old_client_without_keep_alive_and_host(self, gate: Gateway, record: bool) -> None:
        if record:
            gate.set("record")
        answer = gate.raw(b"PUT /collections/docs/points HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        assert b" 200 " in answer.split(b"\r\n")[0]
        assert b'"side": "old"' in answer

    def test_a_client_that_waits_for_100_continue(self, gate: Gateway) -> None:
        gate.set("record")
        with socket.create_connection((ADDRESS, gate.port), timeout=5) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert b"100 Continue" in line.recv(1024)
            line.sendall(b"{}")
            assert b"200 OK" in line.recv(1024)

    def test_one_connection_carries_many_writes(self, gate: Gateway) -> None:
        gate.set("record")
        line = http.client.HTTPConnection(ADDRESS, gate.port, timeout=5)
        took = []
        for number in range(100):
            began = time.monotonic()
            line.connect() if line.sock is None else None
            line.sock.sendall(f"PUT {UPSERT} HTTP/1.1\r\nHost: q\r\nContent-Length: 2000\r\n\r\n".encode() + b"x" * 2000)
            answer = http.client.HTTPResponse(line.sock)
            answer.begin()
            answer.read()
            took.append(time.monotonic() - began)
            assert not answer.will_close, f"closed after {number}"
        took.sort()
        assert took[50] < 0.03, "header and body leave in two packets: 40 ms each (sendfile, tcp_nopush)"
        assert len({a["id"] for a in gate.logged(100)}) == 100


class TestInFlight:
    def test_a_slow_upload_is_not_under_way_until_it_is_complete(self, gate: Gateway) -> None:
        """It has no line, delays no drain, and goes where the switch says when it is complete."""
        gate.set("record")
        with socket.create_connection((ADDRESS, gate.port), timeout=5) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q\r\nContent-Length: 4\r\n\r\nab")
            until(lambda: list(gate.bodies.iterdir()) or True, "The first bytes")
            gate.set("hold")
            assert gate.lines() == []
            gate.set("new")
            gate.unset("hold")
            line.sendall(b"cd")
            assert b'"side": "new"' in line.recv(4096)
        assert gate.old.asked == []

    def test_an_upload_that_breaks_off_is_never_sent(self, gate: Gateway) -> None:
        gate.set("record")
        with socket.create_connection((ADDRESS, gate.port), timeout=5) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q\r\nContent-Length: 400\r\n\r\nab")
            time.sleep(0.05)
        ended = gate.logged(1)[0]
        assert (ended["side"], gate.lines("begin"), gate.old.asked) == ("", [], [])

    def test_a_write_is_over_only_when_qdrant_has_answered_even_if_the_client_went_away(self, gate: Gateway) -> None:
        gate.set("record")
        with socket.create_connection((ADDRESS, gate.port), timeout=5) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q\r\nX-Lab-Delay: 0.5\r\nContent-Length: 2\r\n\r\n{}")
            gate.logged(1, "begin")
            until(lambda: gate.old.under_way == 1, "The write reaching the server")
        assert gate.lines("end") == []
        ended = gate.logged(1)[0]
        assert (ended["answered"], ended["side"]) == ("200", "old")
        assert float(ended["at"]) >= gate.old.asked[0].answered - 0.002

    def test_a_write_whose_connection_to_qdrant_broke_says_so(self, gate: Gateway) -> None:
        """To the operator's server as if it had asked Qdrant itself: no answer, and it says what it says then."""
        gate.set("record")
        answer = gate.http.post(
            gate.host.url + "/collections/docs/points/delete", json={}, headers={"X-Lab-Break": "1"}, timeout=5
        )
        assert answer.status_code == 502
        assert len(gate.old.asked) == 1, "a write that may have been done is not tried again"
        ended = gate.logged(1)[0]
        assert (ended["status"], ended["side"]) == ("502", "old")

    @pytest.mark.parametrize("record", [True, False])
    def test_a_connection_that_somebody_else_left_behind_costs_nobody_a_request(self, gate: Gateway, record: bool) -> None:
        if record:
            gate.set("record")
        line = http.client.HTTPConnection(ADDRESS, gate.port, timeout=10)  # one connection: one worker, one pool

        def ask(method: str, path: str, **headers: str) -> int:
            line.request(method, path, body=b"{}", headers=headers)
            answer = line.getresponse()
            answer.read()
            return answer.status

        wanted = [
            ("POST", "/collections/docs/points/scroll"), ("GET", "/collections"), ("POST", "/collections/docs/points/delete"),
            ("PUT", UPSERT), ("DELETE", "/collections/docs"), ("PATCH", "/collections/docs"),
        ]  # fmt: skip
        hostile = [("POST", "/collections/docs/points/scroll"), ("POST", "/collections/docs/points/batch"), ("PUT", UPSERT)]
        answers = []
        for method, path in wanted:
            for ill in hostile:
                assert ask(*ill, **{"X-Lab-Leave": "1", "X-Lab-Status": "401"}) == 401
                answers.append(ask(method, path))
        line.close()
        assert set(answers) == {200}
        sent = [(one.method, one.path) for one in gate.old.asked if "X-Lab-Leave" not in one.headers]
        assert sent == [one for one in wanted for _ in hostile], "each arrives, and once"

    def test_unrecorded_writes_are_seen_until_they_have_ended(self, gate: Gateway) -> None:
        assert gate.ask("unrecorded").status_code == 200
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            slow = pool.submit(
                lambda: session().delete(gate.url + "/collections/docs", headers={"X-Lab-Delay": "0.5"}, timeout=5)
            )
            until(lambda: gate.old.under_way == 1, "The write reaching the server")
            gate.set("record")
            recorded = pool.submit(
                lambda: session().put(gate.url + UPSERT, headers={"X-Lab-Delay": "1.5"}, data=b"{}", timeout=5)
            )
            assert gate.ask("unrecorded").status_code == 503
            slow.result()
            until(lambda: gate.ask("unrecorded").status_code == 200, "The end of the unrecorded write")
            assert not recorded.done(), "a recorded write does not count"
            recorded.result()

    def test_an_upload_that_began_before_recording_is_recorded(self, gate: Gateway) -> None:
        with socket.create_connection((ADDRESS, gate.port), timeout=5) as line:
            line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q.example\r\nContent-Length: 4\r\n\r\nab")
            time.sleep(0.05)
            gate.set("record")
            assert gate.ask("unrecorded").status_code == 200
            line.sendall(b"cd")
            assert b'"side": "old"' in line.recv(4096)
        ended = gate.logged(1)
        assert [Path(e["body"]).read_bytes() for e in ended] == [b"abcd"]
        assert len(gate.old.asked) == 1
        assert gate.old.asked[0].headers["Host"] == "q.example"


class TestWhatPassesUnchanged:
    @pytest.mark.parametrize("status", ["400", "401", "403", "404", "405", "409", "413", "500", "503", "507"])
    @pytest.mark.parametrize("record", [True, False])
    def test_qdrants_own_errors(self, gate: Gateway, status: str, record: bool) -> None:
        if record:
            gate.set("record")
        for method, path in (("PUT", UPSERT), ("GET", "/collections")):
            answer = gate.http.request(method, gate.url + path, headers={"X-Lab-Status": status}, timeout=5)
            assert (answer.status_code, answer.json()["status"]) == (int(status), int(status))
        assert len(gate.old.asked) == 2, "asked once each, and not again"

    def test_headers(self, gate: Gateway) -> None:
        gate.set("record")
        for method, path in (("PUT", UPSERT), ("GET", "/collections")):
            gate.http.request(method, gate.url + path, headers={"api-key": "k", "Host": "qdrant.example:6333"}, timeout=5)
            seen = gate.old.asked[-1].headers
            assert (seen["api-key"], seen["Host"]) == ("k", "qdrant.example:6333")
            assert "X-Forwarded-For" not in seen, "the operator's server says who asks; the gate adds nothing"


def test_the_state_names_the_flags_as_a_worker_sees_them(gate: Gateway) -> None:
    assert gate.state()["flags"].split() == []
    for flag in ("new", "hold", "record", "probe"):
        gate.set(flag)
    state = gate.state()
    assert state["flags"].split() == ["new", "hold", "record", "probe"]
    assert re.fullmatch(r"[0-9a-f]{16}", state["files"])


def test_the_inner_doors_are_closed_to_users(gate: Gateway) -> None:
    for inner in ("begin", "decide", "decide-unrecorded", "nothing"):
        assert gate.http.get(f"{gate.url}/qdrant-gate/{inner}", timeout=5).status_code == 404
    assert gate.lines() == [], "nobody can write lines into the log from outside"


class TestOtherKindsOfServers:
    """The operator's server block stays the operator's: TLS and HTTP/2 are there, not in the gate."""

    def test_tls_with_an_upload_that_began_before_recording(self, tmp_path: Path) -> None:
        """The write comes in a second time through the same TLS server, found by its name."""
        certificate, key = Authority.make(tmp_path).issue("nginx", ADDRESS)
        with gateway() as way:
            for file in (certificate, key):
                shutil.copy(file, way.host.root / file.name)
            names = [way.host.root / file.name for file in (certificate, key)]
            self.listen(way, f"ssl; ssl_certificate {names[0]}; ssl_certificate_key {names[1]}; server_name q.example")
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with (
                socket.create_connection((ADDRESS, way.host.port), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname="q.example") as line,
            ):
                line.sendall(b"PUT /collections/docs/points HTTP/1.1\r\nHost: q.example\r\nContent-Length: 4\r\n\r\nab")
                time.sleep(0.1)
                way.set("record")
                line.sendall(b"cd")
                assert b'"side": "old"' in line.recv(4096)
            assert Path(way.logged(1)[0]["body"]).read_bytes() == b"abcd"
            assert [(a.method, a.headers["Host"]) for a in way.old.asked] == [("PUT", "q.example")]

    def test_http_2(self) -> None:
        curl = shutil.which("curl")
        if curl is None or "HTTP2" not in subprocess.run([curl, "-V"], capture_output=True, text=True, check=True).stdout:
            pytest.skip("curl with HTTP/2 is not installed here")
        with gateway() as way:
            self.listen(way, "http2")
            (body := way.host.root / "body").write_bytes(os.urandom(3 << 20))
            put = [curl, "-sS", "--http2-prior-knowledge", "-X", "PUT", "--data-binary", f"@{body}", way.host.url + UPSERT]
            for flags in ([], ["record"], ["record", "hold"]):
                for flag in flags:
                    way.set(flag)
                timer = threading.Timer(0.3, way.unset, ["hold"])
                timer.start()
                said = subprocess.run(put, capture_output=True, text=True, timeout=10, check=True).stdout
                timer.join()
                assert '"length": 3145728' in said
            assert [Path(line["body"]).stat().st_size for line in way.logged(2)] == [3 << 20] * 2

    @staticmethod
    def listen(way: Gateway, more: str) -> None:
        file = way.host.server_file
        file.write_text(file.read_text().replace(f":{way.host.port};", f":{way.host.port} {more};"))
        way.host.stop()
        way.host.start()
