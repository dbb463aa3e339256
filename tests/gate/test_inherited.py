"""What `http` may say for every server does not reach the gate: it counts, holds, records and passes on as ever."""

from __future__ import annotations

import concurrent.futures
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from lab.nginx import nginx_binary
from tests.support.gateway import Gateway, gateway, session, until
from tests.support.night import every_nth_by_day

UPSERT = "/collections/docs/points?wait=true"

#: Directives that may stand in `http`, each with a value that would hurt a server that took it over.
NASTY = [
    "limit_conn_zone $binary_remote_addr zone=perip:1m; limit_conn perip 50;",
    "limit_conn_zone $server_name zone=persrv:1m; limit_conn persrv 1;",
    "limit_conn_dry_run on;",
    "limit_conn_status 429;",
    "limit_req_zone $server_name zone=one:1m rate=1r/m; limit_req zone=one;",
    "limit_req_zone $server_name zone=two:1m rate=1r/m; limit_req zone=two; limit_req_dry_run on;",
    "limit_rate 10;",
    "satisfy any;",
    "deny all;",
    "allow 10.99.0.0/16; deny all;",
    "auth_basic closed; auth_basic_user_file /nowhere;",
    "auth_request /in;",
    "auth_delay 5s;",
    "error_page 401 403 404 405 418 419 502 503 /error.html;",
    "error_page 401 =200 /ok;",
    "recursive_error_pages off;",
    "mirror /m; mirror_request_body off;",
    "access_log /dev/null; log_subrequest on;",
    "open_file_cache max=100 inactive=60s; open_file_cache_valid 60s; open_file_cache_errors on;",
    "disable_symlinks on;",
    "client_body_in_file_only on;",
    "client_body_in_single_buffer on; client_body_buffer_size 1k;",
    "client_max_body_size 1k;",
    "client_body_timeout 1s; client_header_timeout 1s; send_timeout 1s;",
    "large_client_header_buffers 2 1k; client_header_buffer_size 512;",
    "underscores_in_headers off; ignore_invalid_headers on;",
    "keepalive_timeout 0;",
    "keepalive_requests 1;",
    "chunked_transfer_encoding off;",
    "sendfile off; tcp_nopush off;",
    "aio threads; directio 512;",
    "lingering_close off; reset_timedout_connection on;",
    "postpone_output 0;",
    "add_header X-Everywhere 1 always;",
    "add_trailer X-Trailer 1;",
    "expires 1h;",
    "charset utf-8;",
    "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;",
    "ssi on; ssi_types *;",
    "userid on; userid_name u;",
    "sub_filter old OLD; sub_filter_types *; sub_filter_once off;",
    "add_before_body /b; addition_types *;",
    "gunzip on;",
    "slice 1k;",
    "proxy_intercept_errors on; error_page 400 404 /e;",
    "proxy_buffering off; proxy_request_buffering off;",
    "proxy_buffer_size 1k; proxy_buffers 2 1k; proxy_busy_buffers_size 1k; proxy_temp_file_write_size 2k;",
    "proxy_http_version 1.0; proxy_set_header X-Mine 1;",
    "proxy_pass_request_headers off;",
    "proxy_pass_request_body off;",
    "proxy_method GET;",
    "proxy_connect_timeout 1ms;",
    "proxy_read_timeout 1s; proxy_send_timeout 1s;",
    "proxy_ignore_client_abort off;",
    "proxy_next_upstream error timeout http_500 http_503 non_idempotent;",
    "proxy_hide_header Content-Type; proxy_ignore_headers X-Accel-Redirect;",
    "proxy_redirect http:// https://;",
    "proxy_store on;",
    "proxy_cache_path CACHE keys_zone=c:1m; proxy_cache c; proxy_cache_valid any 1h; proxy_cache_methods GET POST;",
    "proxy_limit_rate 10;",
    "proxy_force_ranges on;",
    "proxy_bind 127.0.0.77;",
    "set_real_ip_from 0.0.0.0/0; real_ip_header X-Forwarded-For;",
    "etag off; if_modified_since before;",
    "server_tokens off; msie_padding on; merge_slashes off;",
    "root /nowhere; index none; default_type text/x;",
    "map_hash_max_size 64; variables_hash_max_size 512; types_hash_max_size 64;",
    "add_header_inherit merge; add_header X-Everywhere 1;",
    "keepalive_time 1s;",
    "keepalive_min_timeout 10s;",
    "max_ranges 0; http2 on;",
    "max_headers 2;",
]


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with gateway() as made:
        yield made


@pytest.mark.parametrize("nasty", every_nth_by_day(NASTY, 3), ids=lambda text: text.split(";")[0][:50])
def test_it_does_not_reach_the_gate(running: Gateway, nasty: str) -> None:
    way, file = running, running.host.http_folder / "00-nasty.conf"
    way.clear()
    text = nasty.replace("CACHE", str(way.host.root / "cache"))
    file.write_text(text + "\n")
    try:
        tried = subprocess.run(
            [nginx_binary() or "", "-t", "-c", str(way.host.main_config)], capture_output=True, text=True, timeout=10, check=False
        )
        if tried.returncode != 0 and ("unknown directive" in tried.stderr or "is duplicate" in tried.stderr):
            pytest.skip(f"this nginx does not know it: {tried.stderr.splitlines()[0]}")
        way.put_gate(again=True, said=[line.split()[0] for line in text.split(";") if line.strip()])
        tried = subprocess.run(
            [nginx_binary() or "", "-t", "-c", str(way.host.main_config)], capture_output=True, text=True, timeout=10, check=False
        )
        assert tried.returncode == 0, tried.stderr
        pid = way.state()["pid"]
        way.reload()
        until(lambda: _another(way, pid) and _another(way, pid), "The reload")
        _works(way, trailers="add_trailer" in text)
    finally:
        file.unlink()


def _another(way: Gateway, pid: str) -> bool:
    """Whether a worker answers that is not this one; the kept connection of one that ends may break under the question."""
    try:
        return bool(way.state()["pid"] != pid)
    except requests.ConnectionError:
        return False


def _works(way: Gateway, *, trailers: bool) -> None:
    url = way.url
    read = way.http.get(f"{url}/collections", headers={"api-key": "k", "X_Low": "1", "X-Long": "x" * 3000}, timeout=10)
    assert (read.status_code, read.json()["side"]) == (200, "old")
    seen = {name.lower(): value for name, value in way.old.asked[-1].headers.items()}
    assert (seen["api-key"], seen["x_low"], len(seen["x-long"])) == ("k", "1", 3000)
    assert "x-mine" not in seen
    assert {name.lower() for name in read.headers} <= {
        *("server", "date", "content-type", "content-length", "connection"),
        *(["transfer-encoding"] if trailers else []),
    }
    assert way.http.get(f"{url}/collections/none", headers={"X-Lab-Status": "404"}, timeout=5).json()["status"] == 404
    assert way.http.post(f"{url}/collections/docs/points/scroll", json={}, timeout=5).json()["method"] == "POST"
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        slow = pool.submit(lambda: session().put(url + UPSERT, data=b"x" * 4000, headers={"X-Lab-Delay": "0.4"}, timeout=5))
        until(lambda: way.old.under_way == 1, "The write reaching the server")
        way.set("record")
        assert way.ask("unrecorded", url).status_code == 503, "one is under way that is not recorded"
        assert slow.result().json()["length"] == 4000
        until(lambda: way.ask("unrecorded", url).status_code == 200, "Its end")
        assert way.http.put(url + UPSERT, data=b"y" * 4000, timeout=5).json()["length"] == 4000
        ended = way.logged(1)
        assert [(line["status"], line["side"]) for line in ended] == [("200", "old")]
        assert Path(ended[0]["body"]).read_bytes() == b"y" * 4000
        (way.flags / "real").touch()
        (way.flags / "hold").symlink_to(way.flags / "real")  # as the tool sets it
        held = [pool.submit(lambda: session().put(url + UPSERT, data=b"z", timeout=5).json()["side"]) for _ in range(2)]
        way.logged(2, "held")
        assert way.http.get(f"{url}/collections", timeout=5).json()["side"] == "old", "reads do not wait"
        way.set("new")
        way.unset("hold")
        assert [one.result() for one in held] == ["new", "new"]
    assert way.state()["flags"].split() == ["new", "record"]
    (way.flags / "real").unlink()
    way.unset("record")
