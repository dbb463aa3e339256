"""The gate's file for a site and its nginx."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cutover.core.errors import Refused
from cutover.gate import templates
from cutover.gate.templates import render
from cutover.site import load as site_load
from lab.nginx import nginx_binary
from tests.support.own_network import address

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = templates.SHIPPED / templates.NAME
OLD = "10.0.0.152:6333"


class TestTheShippedFile:
    def test_holds_the_values_of_the_shipped_site(self) -> None:
        facts = site_load.load(ROOT / "site.yaml")
        assert urlsplit(facts.qdrant.old_url).netloc == templates.OLD
        assert urlsplit(facts.qdrant.new_url).netloc == templates.NEW
        assert facts.nginx.gate_folder == templates.FOLDER
        assert facts.nginx.gate_address == templates.ADDRESS
        text = SHIPPED.read_text()
        assert f"server {templates.OLD};" in text
        assert f"server {templates.NEW};" in text
        assert f"listen {templates.ADDRESS};" in text

    def test_rendered_with_its_own_values_is_the_file_as_it_is_read(self) -> None:
        file = render(folder=templates.FOLDER, old=templates.OLD, new=templates.NEW)
        assert file.text.replace(file.checksum, templates.UNKNOWN_FILES) == SHIPPED.read_text()

    def test_rendered_for_a_site_holds_only_its_values(self) -> None:
        file = render(folder="/srv/gate", old="10.0.0.101:6333", new="10.1.1.1:6333", address="127.0.0.2:7000")
        assert "/var/lib/qdrant-gate" not in file.text
        assert file.text.index("10.0.0.101:6333") < file.text.index("10.1.1.1")
        assert "10.0.0.152" not in file.text
        assert "127.0.0.1" not in file.text
        other = render(folder="/srv/gate", old="10.0.0.102:6333", new="10.1.1.1:6333", address="127.0.0.2:7000")
        assert file.checksum != other.checksum

    def test_what_only_some_nginx_know_is_put_in_where_it_is_known(self) -> None:
        def lines(options: str, said: Collection[str] = ()) -> str:
            build = templates.Build.read(options, said)
            return render(folder="/srv/gate", old=OLD, new=OLD, build=build).text

        old = lines("nginx version: nginx/1.18.0\nconfigure arguments: --without-http_ssi_module")
        new = lines("nginx version: nginx/1.29.3\nconfigure arguments: --with-http_sub_module", {"brotli"})
        for line in ("add_header_inherit off;", "keepalive_time 24h;", "brotli off;", "sub_filter "):
            assert f"\n    {line}" in new
            assert f"\n    {line}" not in old
        assert "\n    ssi off;" in new
        assert "ssi off;" not in old

    def test_a_folder_that_nginx_would_misread_is_refused(self) -> None:
        with pytest.raises(Refused, match="plain letters"):
            render(folder="/srv/a folder;", old=OLD, new=OLD)

    def test_nginx_accepts_the_whole_server_that_ships(self, tmp_path: Path) -> None:
        nginx = nginx_binary()
        if nginx is None:
            pytest.skip("nginx is not installed here (apt-get install nginx)")
        folder = tmp_path / "conf.d"
        (tmp_path / "gate" / "log").mkdir(parents=True)
        folder.mkdir()
        built = subprocess.run([nginx, "-V"], capture_output=True, text=True, timeout=10, check=True).stderr
        gate = address(112) + ":6339"
        file = render(
            folder=str(tmp_path / "gate"), old=OLD, new="10.0.0.101:6333", address=gate, build=templates.Build.read(built)
        )
        (folder / templates.NAME).write_text(file.text)
        server = (templates.SHIPPED / "qdrant-server.conf").read_text().replace("listen 6333", f"listen {address(111)}:6333")
        (folder / "qdrant.conf").write_text(server.replace(templates.ADDRESS, gate))
        main = tmp_path / "nginx.conf"
        main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ access_log off; include conf.d/*.conf; }}\n")
        tested = subprocess.run([nginx, "-t", "-c", str(main)], capture_output=True, text=True, timeout=10, check=False)
        assert tested.returncode == 0, tested.stderr
        assert "warn" not in tested.stderr


def test_the_files_are_part_of_the_bundle() -> None:
    assert {f.name for f in templates.SHIPPED.glob("*.conf")} == {templates.NAME, "qdrant-server.conf"}
    assert shutil.which("sh")
