"""What an Nginx host is like, read from what it says."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from cutover.core.errors import Refused
from cutover.core.shell import Shell
from cutover.core.write_guard import WriteGuard
from cutover.gate import ways
from cutover.gate.nginx_conf import assembled, read_dump
from cutover.gate.nginx_host import Facts, Inspector, _open_to_all, pid_file
from cutover.gate.obstacles import obstacles
from cutover.gate.servers import Server
from cutover.site import load as sites
from cutover.site.schema import Nginx

MAIN = "/etc/nginx/nginx.conf"
GATE = "/etc/nginx/conf.d/qdrant-gate.conf"


@pytest.fixture(scope="module")
def nginx() -> Nginx:
    return sites.load(Path(__file__).resolve().parents[2] / "site.yaml").nginx


def _said(nginx: Nginx, text: str, **more: object) -> list[str]:
    facts = Facts("nginx/1.22.1", "--with-http_auth_request_module", assembled(MAIN, {MAIN: text}), False, False)
    return obstacles(replace(facts, **more), nginx, GATE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "said", "file"),
    [
        ("--prefix=/etc/nginx --pid-path=/run/nginx.pid", "", "/run/nginx.pid"),
        ("--prefix=/etc/nginx --pid-path=/run/nginx.pid", "/var/run/n.pid", "/var/run/n.pid"),
        ("configure arguments:", "", "/usr/local/nginx/logs/nginx.pid"),
        ("--prefix=/opt/nginx", "", "/opt/nginx/logs/nginx.pid"),
        ("--prefix=/opt/nginx", "run/n.pid", "/opt/nginx/run/n.pid"),
    ],
)
def test_the_process_is_found_where_this_build_writes_it(build: str, said: str, file: str) -> None:
    assert pid_file(build, said) == file


@pytest.mark.parametrize("text", ["http { }", "http { }\n# include conf.d/*.conf;\n"])
def test_a_configuration_that_includes_nothing_is_no_obstacle_where_it_may_be_edited(nginx: Nginx, text: str) -> None:
    assert _said(nginx, text) == []
    by_hand = _said(nginx.model_copy(update={"edit": False}), text)
    assert len(by_hand) == 1 and f"add `include {GATE};` to the `http` block of {MAIN}" in by_hand[0]


def test_a_program_that_names_the_old_server_is_found_beside_the_configuration(nginx: Nginx, tmp_path: Path) -> None:
    (tmp_path / "q.js").write_text("ngx.fetch('http://10.0.0.152:6333/')")
    host = Inspector(Shell([], WriteGuard()), nginx)
    main = str(tmp_path / "nginx.conf")
    for path, named in (("q.js", True), (str(tmp_path / "q.js"), True), ("none.js", False)):
        assert host.naming(path, main, "10.0.0.152") is named
    text = "http { js_path /njs/; js_import q from q.js; server { location / { content_by_lua_file a.lua; } } }"
    found = ways.find(assembled(MAIN, {MAIN: text}), Server.of("10.0.0.152:6333"))
    assert found.programs == [(f"{MAIN}:1", "q.js"), (f"{MAIN}:1", "/njs/q.js"), (f"{MAIN}:1", "a.lua")]


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("events { }", {}, f"{MAIN} has no `http` block."),
        ("master_process off; http { }", {}, "It runs without a master process (`master_process off`)"),
        ("http { }", {"no_folder": "/etc/nginx/conf.d"}, "There is no folder /etc/nginx/conf.d."),
        (
            "stream { include conf.d/*.conf; } http { }",
            {},
            "in `stream` would take in the gate's file, which belongs into `http`",
        ),
        ("http { server { include conf.d/q*; } }", {}, "in `server` in `http` would take in the gate's file"),
        ("http { include conf.d/*.conf; include conf.d/*; }", {}, "/etc/nginx/conf.d is included 2 times (`/etc/nginx/conf.d/*"),
        ("http { include conf.d/*; map_hash_max_size 9; map_hash_bucket_size 64; }", {}, f"{MAIN}:1 sets `map_hash_max_size`"),
        (
            "http { }",
            {"version": "nginx version: openresty/1.21.4", "build": "--prefix=/opt/nginx/1.24.0 --with-http_auth_request_module"},
            "It is not nginx but nginx version: openresty/1.21.4.",
        ),
        ("http { }", {"runs": False, "pid_file": "/run/nginx.pid"}, "nginx does not run, as far as /run/nginx.pid says."),
        ("http { }", {"started": "/etc/other.conf"}, "The nginx that runs there reads /etc/other.conf (`-c`)."),
        ("http { }", {"stuck_as_root": True}, "Root cannot become www-data there by `su` or `setpriv`"),
        ("http { }", {"master_user": "web"}, "nginx's master process runs as web, and could not read"),
        ("http { }", {"open_folder": "/srv/x"}, "Everybody on that host can write in /srv/x, and could set the gate's flags."),
        ("http { }", {"other_names": ["/opt/conf.d/*"]}, "`include /opt/conf.d/*` takes in /etc/nginx/conf.d by another name."),
    ],
)
def test_what_stands_against_it_is_said(nginx: Nginx, text: str, more: dict[str, object], sentence: str) -> None:
    assert any(sentence in one for one in _said(nginx, text, **more))


def test_a_size_of_maps_that_comes_before_the_gate_or_after_another_map_is_no_obstacle(nginx: Nginx) -> None:
    assert _said(nginx, "http { map $a $b { default 1; } map_hash_max_size 9; include conf.d/*; }") == []
    assert _said(nginx, "http { map_hash_max_size 9; include conf.d/*; }") == []


@pytest.mark.parametrize(("time", "refused"), [("1", True), ("1s500ms", True), ("2900ms", True), ("1m1s", False), ("1d", False)])
def test_a_patience_is_read_as_nginx_reads_a_time(time: str, refused: bool) -> None:
    text = f"http {{ proxy_read_timeout {time}; server {{ location / {{ proxy_pass http://10.0.0.152:6333; }} }} }}"
    found = ways.find(assembled(MAIN, {MAIN: text}), Server.of("10.0.0.152:6333"))
    assert bool(found.refused) is refused


def test_an_nginx_that_cannot_be_run_is_told_of_in_the_words_of_its_host(nginx: Nginx) -> None:
    host = Inspector(Shell([], WriteGuard()), nginx.model_copy(update={"binary": "/none/nginx"}))
    with pytest.raises(Refused) as refused:
        host.facts()
    assert re.fullmatch(r"nginx cannot be run on the Nginx host: sh: .*/none/nginx: .*\w\.", refused.value.sentence)


def test_a_master_of_root_runs_also_for_a_shell_of_somebody_else(nginx: Nginx) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    host = Inspector(Shell(nobody, WriteGuard()), nginx)
    with NamedTemporaryFile("w") as file:
        file.write("1\n")
        file.flush()
        Path(file.name).chmod(0o644)
        facts = Facts("nginx/1.22.1", f"--pid-path={file.name}", assembled(MAIN, {MAIN: "http { }"}), False, False)
        assert host.with_preflight(facts, []).runs


@pytest.mark.parametrize(
    ("modes", "there", "found"),
    [
        ("755 /a/b\nmode 755 /a\nmode 755 /", True, ""),
        ("755 /tmp/g\nmode 1777 /tmp\nmode 755 /", True, ""),
        ("1777 /tmp\nmode 755 /", False, ""),
        ("1777 /a/b\nmode 755 /a", True, "/a/b"),
        ("755 /a/b\nmode 777 /a", True, "/a"),
        ("775 /a/b\nmode 755 /a", True, ""),
    ],
)
def test_a_folder_in_which_everybody_could_set_flags_is_found(modes: str, there: bool, found: str) -> None:
    assert _open_to_all(f"mode {modes}\nat /a\n", there=there) == found


COMMENT = "# configuration file {}:\n"


@pytest.mark.parametrize(
    "files",
    [
        {"a": "include b; include c;\n", "b": COMMENT.format("/n/b") + "x 1;\n", "c": "y 2;"},
        {"a": "include b; include c;\n", "b": "x 1;\n" + COMMENT.format("/n/c") + "# z\n", "c": "y 2;\n"},
        {"a": COMMENT.format("/n/a") + "include b;\n" + COMMENT.format("/none"), "b": "x {\n" + COMMENT.format("/n/b") + "}"},
    ],
)
def test_a_comment_that_looks_like_the_beginning_of_a_file_is_none(files: dict[str, str]) -> None:
    whole = {f"/n/{name}": text for name, text in files.items()}
    dump = "".join(f"{COMMENT.format(name)}{text}\n" for name, text in whole.items())
    assert read_dump(dump, lambda name: whole.get(name, "")).files == whole


def test_bytes_that_are_no_text_reach_the_host_in_a_script() -> None:
    assert Shell([], WriteGuard()).read("printf %s caf\udce9").out == b"caf\xe9"
