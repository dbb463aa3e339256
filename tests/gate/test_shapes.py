"""Every shape of the table on a real nginx: users are answered as before, what Qdrant is sent is as before, and it comes out again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cutover.core.errors import Refused
from cutover.gate import nginx_conf, ways
from cutover.gate.servers import Server
from lab.network import Authority
from lab.nginx import MAIN
from tests.gate import shapes
from tests.gate.shapes import SHAPES, Door, Shape
from tests.gate.test_controller import Stage
from tests.support.gateway import ADDRESS, Gateway, free_port, gateway, session
from tests.support.night import every_nth_by_day

ROOT = Path(__file__).resolve().parents[2]
UPSERT = "/collections/docs/points?wait=true"
#: Belong to one connection or one answer.
OF_ONE = {"date", "content-length", "connection", "keep-alive", "transfer-encoding"}


def values_for(way: Gateway) -> dict[str, str]:
    host = way.old.host
    other = next(port for port in iter(free_port, None) if port not in {way.host.port, way.host.gate_port})
    return {
        "OLD": way.old.address,
        "OLDHOST": host,
        "OLDPORT": way.old.address.rpartition(":")[2],
        "OLDNET": host.rpartition(".")[0],
        "OLDLAST": host.rpartition(".")[2],
        "ROOT": str(way.host.root),
        "A": f"{ADDRESS}:{way.host.port}",
        "B": f"{ADDRESS}:{other}",
    }


def write(way: Gateway, shape: Shape) -> dict[str, str]:
    """Give the host this configuration in place of the lab's; returns the addresses in it."""
    values = values_for(way)
    way.host.prepare()
    user = next((line for line in way.host.main_config.read_text().splitlines() if line.startswith("user ")), "")
    main = MAIN.format(user=f"{user}\n" if user else "", workers=2, root=way.host.root)
    inside = shapes.filled(shape.main, values)
    way.host.main_config.write_text(main.replace("    include conf.d/*.conf;", inside) + shapes.filled(shape.top, values) + "\n")
    way.host.server_file.unlink()
    for name, text in shape.files.items():
        file = way.host.etc / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(shapes.filled(text, values).encode())
    if any(door.tls for door in shape.doors):
        certificate, key = Authority.make(way.host.root / "tls").issue("nginx", ADDRESS)
        shutil.copy(certificate, way.host.root / "c.pem")
        shutil.copy(key, way.host.root / "k.pem")
    told = subprocess.run(
        [way.host.binary, "-t", "-c", str(way.host.main_config)], capture_output=True, text=True, timeout=10, check=False
    )
    if told.returncode and "unknown directive" in told.stderr:
        pytest.skip(f"this nginx does not know it: {told.stderr.splitlines()[0]}")
    return values


def asked(way: Gateway, door: Door, values: Mapping[str, str]) -> list[dict[str, Any]]:
    """What comes back through a door, and what the server behind it was sent."""
    url = f"http{'s' if door.tls else ''}://{values[door.at]}{door.path}"
    headers = {"Host": door.host} if door.host else {}
    found = []
    with session() as client:
        client.verify = False
        client.auth = door.auth
        for method, path, body, more in (
            ("GET", "/collections", None, {"api-key": "k"}),
            ("GET", "/collections/none", None, {"X-Lab-Status": "404"}),
            ("GET", "/", None, {"X-Lab-Status": "401"}),
            ("PUT", UPSERT, b"{}", {"api-key": "k", "X_Under_Score": "1"}),
            ("POST", "/collections/docs/points/scroll?a=%2F&b=//", b"{}", {"Accept-Encoding": "identity"}),
            ("DELETE", "/collections/docs", None, {"X-Lab-Status": "400"}),
            ("PUT", UPSERT, b"x" * (3 << 20), {}),
            ("OPTIONS", "/collections", None, {"Origin": "http://x"}),
            ("POST", "/collections/docs/points/delete", b"{}", {"X-Lab-Break": "1"}),
        ):
            way.old.asked.clear()
            way.new.asked.clear()
            answer = client.request(method, url + path, data=body, headers={**headers, **more}, timeout=10)
            behind = [
                (one.method, one.path, one.length, {k.lower(): v for k, v in one.headers.items() if k.lower() not in OF_ONE})
                for one in [*way.old.asked, *way.new.asked]
            ]
            found.append(
                {
                    "asked": f"{method} {path}",
                    "status": answer.status_code,
                    "headers": {k.lower(): v for k, v in answer.headers.items() if k.lower() not in OF_ONE},
                    "body": answer.text,
                    "behind": behind,
                    "sides": [*("old" for _ in way.old.asked), *("new" for _ in way.new.asked)],
                }
            )
    return found


def without_sides(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = json.dumps([{k: v for k, v in one.items() if k != "sides"} for one in seen])
    return list(json.loads(text.replace('\\"side\\": \\"new\\"', '\\"side\\": \\"old\\"').replace("elder", "old")))


TRIED = [shape for shape in SHAPES if shape.real]


@pytest.mark.parametrize(
    "shape", every_nth_by_day([shape for shape in TRIED if not shape.refused], 5), ids=lambda shape: shape.name
)
def test_users_and_qdrant_notice_nothing(shape: Shape, tmp_path: Path) -> None:
    with gateway(with_gate=False, write=lambda way: write(way, shape)) as way:
        values = way.values
        door = shape.doors[0]
        trust = {"ca_file": str(next((way.host.root / "tls").glob("ca*.pem")))} if door.tls else {}
        stage = Stage(way, tmp_path, public=f"http{'s' if door.tls else ''}://{values[door.at]}{door.path}", qdrant=trust)
        with stage.stack:
            files = stage.files()
            before = [asked(way, one, values) for one in shape.doors]
            assert {side for seen in before for one in seen for side in one["sides"]} == {"old"}
            stage.gate.install()
            assert [asked(way, one, values) for one in shape.doors] == before
            changed = [name for name, (content, *_) in stage.files().items() if files.get(name, (b"",))[0] != content]
            for name in (name for name in changed if name in files):
                assert stage.files()[name][0].replace(way.host.gate_address.encode(), b"") != files[name][0]
            way.set("new")
            after = [asked(way, one, values) for one in shape.doors]
            assert {side for seen in after for one in seen for side in one["sides"]} == {"new"}, (
                "nobody is left on the old server"
            )
            assert [without_sides(seen) for seen in after] == [without_sides(seen) for seen in before]
            way.unset("new")
            stage.gate.remove()
            assert stage.files() == files
            assert [asked(way, one, values) for one in shape.doors] == before


@pytest.mark.parametrize("shape", [shape for shape in TRIED if shape.refused], ids=lambda shape: shape.name)
def test_what_cannot_be_led_is_named_and_nothing_is_touched(shape: Shape, tmp_path: Path) -> None:
    with gateway(with_gate=False, write=lambda way: write(way, shape), wait=False) as way:
        stage = Stage(way, tmp_path)
        with stage.stack:
            files = stage.files()
            with pytest.raises(Refused, match=r"cannot be installed") as refused:
                stage.gate.install()
            assert shape.refused in refused.value.sentence
            assert stage.files() == files
            assert not way.host.gate_folder.exists()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if not shape.real], ids=lambda shape: shape.name)
def test_what_this_nginx_cannot_be_tried_with_is_read(shape: Shape) -> None:
    said = shapes.sentence(shape)
    assert bool(said) == bool(shape.refused)
    assert shape.refused in said


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if not shape.refused], ids=lambda shape: shape.name)
def test_nothing_but_the_address_is_replaced_and_back_it_is_byte_for_byte(shape: Shape) -> None:
    values = shapes.SHOWN
    main = f"events {{}}\nhttp {{ {shapes.filled(shape.main, values)} }}\n{shapes.filled(shape.top, values)}\n"
    files = {f"/etc/nginx/{name}": shapes.filled(text, values) for name, text in shape.files.items()}
    before = nginx_conf.assembled("/etc/nginx/nginx.conf", {"/etc/nginx/nginx.conf": main, **files})
    names = {name: [shapes.filled(value, values)] for name, value in shape.resolves.items()}
    old, gate, new = values["OLD"], "127.0.0.1:6339", "10.0.0.101:6333"

    def led(configuration: nginx_conf.Configuration, source: str, target: str) -> nginx_conf.Configuration:
        changed = ways.redirected(configuration, Server.of(source), target, resolve=lambda name: names.get(name, ()))
        return configuration.with_files(changed)

    gated = led(before, old, gate)
    assert ways.find(gated, Server.of(old), resolve=lambda name: names.get(name, ())).passing == []
    settled = led(gated, gate, new)
    assert ways.find(settled, Server.of(gate)).passing == []
    assert len(ways.find(settled, Server.of(new)).passing) == len(
        ways.find(before, Server.of(old), resolve=lambda n: names.get(n, ())).passing
    )
    if not names:  # a name comes back as the address that site.yaml has; the copy has the name
        assert led(gated, gate, old).files == before.files


def test_the_document_is_made_of_the_table() -> None:
    assert (ROOT / "docs" / "nginx-shapes.md").read_text() == shapes.report(), (
        "python -m tests.gate.shapes > docs/nginx-shapes.md"
    )
