"""Steps about Nginx: what the operator wrote there, the gate, and giving it back."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pytest
from pytest_bdd import given, parsers, then, when

from cutover.gate import doorway
from lab.lab import Lab
from lab.operator import Operator

Files = dict[str, str]
MINE = "# A change by somebody else.\n"


@pytest.fixture
def undoing() -> Iterator[ExitStack]:
    """What a scenario broke is mended at its end."""
    with ExitStack() as stack:
        yield stack


def configuration(operator: Operator) -> Files:
    """Every file of Nginx's configuration: checksum, mode, owner, group, size and time of change, as its host says."""
    with closing(operator.run(execute=False)) as run:
        folder = shlex.quote(str(PurePosixPath(run.site.nginx.main_config).parent))
        said = run.gate.shell.output(
            f'find {folder} -type f -exec sh -c \'for f; do stat -c "%n %a %u %g %s %Y" "$f"; cksum < "$f"; done\' - {{}} +',
            "Nginx's configuration cannot be read",
        )
    lines = said.decode().splitlines()
    return {one.split(" ", 1)[0]: f"{one} {check}" for one, check in zip(lines[::2], lines[1::2], strict=True)}


@given("Nginx as the operator wrote it", target_fixture="as_written")
def _as_written(operator: Operator) -> Files:
    return configuration(operator)


@given("the answers that users get through Nginx", target_fixture="answers")
def _answers(operator: Operator) -> dict[str, doorway.Answer]:
    return through_nginx(operator)


@then("users get the same answers through Nginx")
def _same_answers(operator: Operator, answers: dict[str, doorway.Answer]) -> None:
    assert doorway.differences(answers, answers, through_nginx(operator)) == []


def through_nginx(operator: Operator) -> dict[str, doorway.Answer]:
    """What is answered through the operator's own server, to reads that need no data."""
    with closing(operator.run(execute=False)) as context:
        return context.gate.answers_to_users(writes=False)


@given("the operator put the gate into Nginx")
def _gate_is_in(operator: Operator) -> None:
    operator.does("gate")


@when("the operator puts the gate into Nginx")
def _puts_the_gate_in(operator: Operator) -> None:
    operator.tries("gate")


@when("the operator takes the gate out of Nginx")
def _takes_the_gate_out(operator: Operator) -> None:
    operator.tries("gate", undo=True)


@when("the operator goes back, undoes the copy and takes the gate out of Nginx")
def _back_to_the_beginning(operator: Operator) -> None:
    operator.does("back")
    operator.does("copy", undo=True)
    operator.does("gate", undo=True)


@then("Nginx's configuration is byte for byte as the operator wrote it")
def _byte_for_byte(operator: Operator, as_written: Files) -> None:
    now = configuration(operator)
    changed = sorted(name for name in {*now, *as_written} if now.get(name) != as_written.get(name))
    assert not changed, f"These files are not as they were: {', '.join(changed)}"


@then("Nginx passes requests to the old server")
def _passes_to_the_old(operator: Operator) -> None:
    with closing(operator.run(execute=False)) as run:
        public, old = run.public, run.old
        assert run.gate.loaded() is None, "Nginx still answers with the gate."
        assert run.gate.state().side == "old"
        assert public.collections() == old.collections()


def reload(lab: Lab) -> None:
    """Let Nginx read its configuration again."""
    subprocess.run([*lab.nginx.shell, *lab.nginx.reload], check=True, timeout=10, capture_output=True)


# -- trouble -----------------------------------------------------------------------------------------------------------
@given(parsers.parse("an Nginx that {trouble}"))
def _trouble(lab: Lab, undoing: ExitStack, trouble: str) -> None:
    nginx = lab.nginx
    if trouble == "cannot see the flags":
        if not nginx.can_be_blinded:
            pytest.skip("only root can take the flags from the sight of Nginx's workers")
        undoing.enter_context(nginx.blind())
    elif trouble == "passes gRPC on as well":
        old = lab.site.guests.old.address
        text = f"server {{ listen {nginx.listen(6334)}; http2 on; location / {{ grpc_pass grpc://{old}:6334; }} }}\n"
        (nginx.http_folder / "grpc.conf").write_text(text.replace("; http2 on;", " http2;"))
    elif trouble == "sends clients to the old server itself":
        old = urlsplit(lab.site.qdrant.old_url).netloc
        (nginx.http_folder / "old.conf").write_text(
            f"server {{ listen {nginx.listen(6336)}; return 307 http://{old}$request_uri; }}\n"
        )
    elif trouble == "asks a server that no file names":
        (nginx.http_folder / "any.conf").write_text(
            f"server {{ listen {nginx.listen(6336)}; location / {{ proxy_pass http://$http_x_server; }} }}\n"
        )
    elif trouble == "shows its users whom it asks":
        old = urlsplit(lab.site.qdrant.old_url).netloc
        whom = f"map $upstream_addr $whom {{ {old} Qdrant; default nobody; }}\n"
        text = nginx.server_file.read_text().replace("proxy_pass", "add_header X-Asked $whom always;\n        proxy_pass")
        nginx.server_file.write_text(whom + text)
        reload(lab)
    elif trouble == "would be broken by the file of the gate":
        (nginx.http_folder / "00.conf").write_text("map_hash_max_size 0;\n")  # no map fits into it
        nginx.stop()  # so that no worker began before the file changed
        nginx.start()
    else:
        raise ValueError(trouble)


@given("somebody changed Nginx's server file since")
def _somebody_changed_it(lab: Lab) -> None:
    with lab.nginx.server_file.open("a") as file:
        file.write(MINE)


@then("that change is still there")
def _change_is_there(lab: Lab) -> None:
    assert lab.nginx.server_file.read_text().endswith(MINE)
