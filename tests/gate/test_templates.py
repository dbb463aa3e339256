"""The gate's files for a site, and what becomes of the operator's own server file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutover.core.errors import Refused
from cutover.gate import templates
from cutover.gate.templates import INCLUDE, parse, render, with_gate
from cutover.site import schema
from lab.nginx import nginx_binary
from tests.support.own_network import address

ROOT = Path(__file__).resolve().parents[2]
OLD = "10.0.0.152:6333"
PLAIN = f"server {{\n    listen 6333;\n    location / {{\n        proxy_pass http://{OLD};\n    }}\n}}\n"


def gated(text: str) -> str:
    return with_gate(text, old=OLD, where="qdrant.conf")


class TestTheShippedFiles:
    def test_hold_the_values_of_the_shipped_site(self) -> None:
        facts = schema.load(ROOT / "site.yaml")
        assert urlsplit(facts.qdrant.old_url).netloc == templates.OLD
        assert urlsplit(facts.qdrant.new_url).netloc == templates.NEW
        assert facts.nginx.gate_folder == templates.FOLDER
        text = (templates.SHIPPED / "qdrant-upstreams.conf").read_text()
        assert f"server {templates.OLD};" in text
        assert f"server {templates.NEW};" in text

    def test_only_the_upstreams_have_addresses(self) -> None:
        for file in templates.SHIPPED.glob("*.conf"):
            assert ("10.0.0." in file.read_text()) == (file.name == "qdrant-upstreams.conf"), file

    def test_rendered_with_their_own_values_are_the_files_as_they_are_read(self) -> None:
        files = render(folder=templates.FOLDER, old=templates.OLD, new=templates.NEW)
        for name, text in (files.http | files.snippets).items():
            assert text.replace(files.checksum, templates.UNKNOWN_FILES) == (templates.SHIPPED / name).read_text()

    def test_rendered_for_a_site_hold_only_its_values(self) -> None:
        files = render(folder="/srv/gate", old="10.0.0.101:6333", new="10.1.1.1:6333")
        text = "".join((files.http | files.snippets).values())
        assert "/var/lib/qdrant-gate" not in text
        assert files.http["qdrant-upstreams.conf"].index("10.0.0.101:6333") < files.http["qdrant-upstreams.conf"].index(
            "10.1.1.1"
        )
        assert "10.0.0.152" not in text
        assert files.checksum != render(folder="/srv/gate", old="10.0.0.102:6333", new="10.1.1.1:6333").checksum

    def test_a_folder_that_nginx_would_misread_is_refused(self) -> None:
        with pytest.raises(Refused, match="plain letters"):
            render(folder="/srv/a folder;", old=OLD, new=OLD)

    def test_nginx_accepts_the_whole_server_that_ships(self, tmp_path: Path) -> None:
        nginx = nginx_binary()
        if nginx is None:
            pytest.skip("nginx is not installed here (apt-get install nginx)")
        files = render(folder=str(tmp_path / "gate"), old=OLD, new="10.0.0.101:6333")
        for folder in ("gate/log", "conf.d", "snippets"):
            (tmp_path / folder).mkdir(parents=True)
        for name, text in files.http.items():
            (tmp_path / "conf.d" / name).write_text(text)
        for name, text in files.snippets.items():
            (tmp_path / "snippets" / name).write_text(text)
        server = (templates.SHIPPED / "qdrant-server.conf").read_text().replace("listen 6333", f"listen {address(111)}:6333")
        (tmp_path / "conf.d" / "qdrant.conf").write_text(server)
        main = tmp_path / "nginx.conf"
        main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ access_log off; include conf.d/*.conf; }}\n")
        tested = subprocess.run([nginx, "-t", "-c", str(main)], capture_output=True, text=True, timeout=10, check=False)
        assert tested.returncode == 0, tested.stderr
        assert "warn" not in tested.stderr
        (tmp_path / "conf.d" / "qdrant.conf").unlink()  # who puts the files in one by one is not stopped half-way
        subprocess.run([nginx, "-t", "-c", str(main)], capture_output=True, timeout=10, check=True)


class TestTheOperatorsFile:
    def test_only_the_location_becomes_an_include(self) -> None:
        assert gated(PLAIN) == f"server {{\n    listen 6333;\n    {INCLUDE}\n}}\n"

    @pytest.mark.parametrize(
        "text",
        [
            "# location / { }\n" + PLAIN,
            PLAIN.replace("listen 6333;", 'listen 6333; # }\n set $x \'}\';\n set $y "{ \\" }";\n return 200 a${z}b;'),
            PLAIN.replace(f"{OLD};", f"{OLD}/;"),
            PLAIN.replace(f"http://{OLD}", "http://vectors") + f"upstream vectors {{ server {OLD}; keepalive 8; }}",
            PLAIN + "server { listen 8000; location / { proxy_pass http://10.0.0.81:8000; } }\n",
            PLAIN.replace("    location /", "    location = /status { return 200; }\n    location /"),
            PLAIN.replace("\n", "\r\n"),
            PLAIN.replace(
                f"proxy_pass http://{OLD};", f"proxy_pass http://{OLD};\n proxy_set_header Host $host; client_max_body_size 64m;"
            ),
        ],
    )
    def test_whatever_stands_around_it_stays(self, text: str) -> None:
        after = gated(text)
        start = after.index(INCLUDE)
        rest = after[start + len(INCLUDE) :]
        assert text.startswith(after[:start])
        assert text.endswith(rest)
        assert text[start:].startswith("location / {")
        parse(after)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("server { listen 6333; }", "has no location that passes requests to http://10.0.0.152:6333"),
            (PLAIN.replace("152", "153"), "has no location"),
            (PLAIN.replace("http://", "https://"), "has no location"),
            (PLAIN + PLAIN, r"several locations \(lines 3, 9\)"),
            (PLAIN.replace("location /", "location /qdrant/"), "qdrant.conf:3 passes Qdrant on under `location /qdrant/`"),
            (PLAIN.replace("location /", "location ^~ /"), "under `location"),
            (PLAIN.replace("proxy_pass", "allow 10.0.0.0/8; deny all; proxy_pass"), r"`allow` \(line 4\), `deny` \(line 4\)"),
            (PLAIN.replace("proxy_pass", "if ($x) { return 403; } proxy_pass"), r"`if` \(line 4\)"),
            (PLAIN.rstrip("}\n"), "ends in the middle"),
            (PLAIN + "}", "Line 7 has a closing brace"),
            ("server { ; }", "where a directive is expected"),
            (gated(PLAIN), "has no location"),
            (PLAIN.replace("proxy_pass", "proxy_set_header api-key x; proxy_pass"), r"sets the header `api-key` \(line 4\)"),
            (PLAIN.replace("listen", "proxy_set_header api-key x;\n listen"), r"sets the header `api-key` \(line 2\)"),
            (f"http {{ proxy_set_header Authorization x; {PLAIN} }}", r"sets the header `Authorization` \(line 1\)"),
        ],
    )
    def test_what_the_gate_cannot_replace_is_refused_by_line(self, text: str, words: str) -> None:
        with pytest.raises(Refused, match=words):
            gated(text)

    def test_a_header_from_outside_the_file_is_refused_where_it_is_in_force(self) -> None:
        around = "# configuration file /etc/nginx/nginx.conf:\nevents {}\nhttp {\n  proxy_set_header api-key x;\n}\n"
        with pytest.raises(Refused, match=r"sets the header `api-key`"):
            with_gate(PLAIN, old=OLD, where="qdrant.conf", around=around)
        # nginx takes headers from outside only where the location has none of its own.
        own = PLAIN.replace("proxy_pass", "proxy_set_header Host $host; proxy_pass")
        assert INCLUDE in with_gate(own, old=OLD, where="qdrant.conf", around=around)
        other = around.replace("http {", "http { server { listen 1; ").replace("x;", "x; }")
        assert INCLUDE in with_gate(PLAIN, old=OLD, where="qdrant.conf", around=other)

    @pytest.mark.parametrize("name", ["Host", "x-real-ip", "X-Forwarded-Host", "Upgrade", "Connection"])
    def test_headers_that_qdrant_does_not_look_at_are_no_obstacle(self, name: str) -> None:
        assert INCLUDE in gated(PLAIN.replace("proxy_pass", f"proxy_set_header {name} x; proxy_pass"))

    @given(st.text(alphabet="ab/;{}#'\"\\$ \n", max_size=60))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            parse(text)
        except Refused:
            return


def test_the_snippets_are_part_of_the_bundle() -> None:
    assert {f.name for f in templates.SHIPPED.glob("*.conf")} == {
        *templates.HTTP_FILES,
        *templates.SNIPPETS,
        "qdrant-server.conf",
    }
    assert shutil.which("sh")
