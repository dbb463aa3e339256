"""Keys go only where they are meant: in no text in any form, in no child's environment, to no server that was not named."""

from __future__ import annotations

import ast
import base64
import html
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cutover.cli.app import app
from cutover.core import children, http
from cutover.core.credentials import Credentials, cut
from cutover.core.errors import Refused, Unreachable
from cutover.core.shell import Shell
from cutover.core.write_guard import WriteGuard
from cutover.portainer.git import Repository
from cutover.report import model
from cutover.report.html import page as html_page
from cutover.report.markdown import markdown
from cutover.site import load as site_load

ROOT = Path(__file__).parents[2]
#: How many times the random input; every night more than a change waits for.
TIMES = int(os.environ.get("CUTOVER_ATTACKS", "1"))
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda v: v,
    "JSON": json.dumps,
    "JSON, with its letters": lambda v: json.dumps(v, ensure_ascii=False),
    "JSON in JSON": lambda v: json.dumps(json.dumps(v)),
    "repr": repr,
    "repr of bytes": lambda v: repr(v.encode()),
    "in a path": lambda v: quote(v, safe=""),
    "in a path, small letters": lambda v: quote(v, safe="").replace("%2B", "%2b").replace("%2F", "%2f"),
    "in a query": quote_plus,
    "base64": lambda v: base64.b64encode(v.encode()).decode(),
    "base64 for URLs": lambda v: base64.urlsafe_b64encode(v.encode()).decode(),
    "log-in of HTTP": lambda v: base64.b64encode(f"user:{v}".encode()).decode(),
    "log-in of HTTP, another user": lambda v: base64.b64encode(f"token:{v}:x".encode()).decode(),
    "on a page": html.escape,
    "hex": lambda v: v.encode().hex(),
}
KEYS = ("Abc+def/ghi=12345", "pa\"ss\\w'ord<&>ü", "ptr_0123456789abcdef0123456789", "correct horse battery staple", "ключ-секрет")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_in_no_text_in_any_form(form: str, key: str) -> None:
    written = FORMS[form](key)
    shown = Credentials({"PORTAINER_API_KEY": key}).redact(f"before {written} after")
    assert key not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert "<secret>" in shown
    # What is left of an encoded form beside the key's own characters does not give it back.
    assert len(shown) < len("before <secret> after") + 16


@pytest.mark.parametrize("key", KEYS)
def test_no_half_of_a_key_stays_where_an_answer_is_cut(key: str) -> None:
    held = Credentials({"QDRANT_API_KEY": key})
    for filler in range(270, 310):
        shown = cut("x" * filler + key + "y" * 100, 300)
        assert all(key[:n] not in shown for n in range(5, len(key) + 1)), shown[-40:]
    del held


@pytest.mark.parametrize("key", KEYS)
def test_a_half_that_somebody_else_cut_is_taken_out(key: str) -> None:
    held = Credentials({"QDRANT_API_KEY": key})
    for size in range(max(8, len(key) // 2), len(key)):
        assert key[:size] not in held.redact(f"said: {key[:size]}...")
        assert key[-size:] not in held.redact(f"said: ...{key[-size:]}")


@pytest.mark.parametrize("key", ["<secret>1", "1<secret>"])
def test_a_key_that_reads_like_what_hides_it_is_taken_out_once(key: str) -> None:
    held = Credentials({"QDRANT_API_KEY": key})
    assert held.redact(f"{key} and {key[:8]}, {key[1:]}").count("<secret>") == 3


@settings(max_examples=60 * TIMES, deadline=None)
@given(st.text(min_size=8, max_size=40), st.sampled_from(sorted(FORMS)), st.text(max_size=20))
def test_any_key_in_any_form(key: str, form: str, around: str) -> None:
    try:
        written = FORMS[form](key)
    except UnicodeEncodeError:
        return
    held = Credentials({"GIT_TOKEN": key})
    assert key not in held.redact(around + written + around) or key in "<secret>"


def test_a_key_that_names_a_field_is_taken_out() -> None:
    held = Credentials({"GIT_TOKEN": "hunter2-hunter2"})
    assert "hunter2" not in json.dumps(held.redact_tree({"hunter2-hunter2": ["hunter2-hunter2", {"a": "hunter2-hunter2"}]}))


# -- children -------------------------------------------------------------------------------------------


def test_no_child_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROXMOX_TOKEN_SECRET", "QDRANT_API_KEY", "GIT_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "hunter2-hunter2")
    monkeypatch.setenv("LC_TIME", "C")
    assert "hunter2" not in str(children.environment())
    assert children.environment()["LC_TIME"] == "C"
    shell = Shell([], WriteGuard())
    try:
        # What is started from there, and what goes on when the shell has ended, have no more than it has.
        assert "hunter2" not in shell.read("env; (setsid env) ; cat /proc/self/environ | tr '\\0' '\\n'").text
    finally:
        shell.close()


def test_no_program_is_started_with_the_environment_as_it_is() -> None:
    forgotten = [
        f"{file.name}:{node.lineno}"
        for file in sorted((Path(__file__).parents[2] / "src").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"subprocess.run", "subprocess.Popen"}
        if "env" not in {word.arg for word in node.keywords}
    ]
    assert not forgotten


# -- Git -------------------------------------------------------------------------------------------------


class _Listening:
    """A server that notes the headers it is sent, and redirects where ``to`` is set."""

    def __init__(self, to: str = "") -> None:
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers.append(dict(self.headers))
                self.send_response(302 if to else 404)
                if to:
                    self.send_header("Location", to + self.path)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listening() -> Iterator[type[_Listening]]:
    made: list[_Listening] = []

    class Made(_Listening):
        def __init__(self, to: str = "") -> None:
            super().__init__(to)
            made.append(self)

    yield Made
    for one in made:
        one.server.shutdown()
        one.server.server_close()


TOKEN = Credentials({"GIT_TOKEN": "hunter2-hunter2"})


def test_git_follows_no_redirect_so_the_token_stays(listening: type[_Listening]) -> None:
    thief = listening()
    git = listening(to=thief.url)
    with pytest.raises(Unreachable, match="a redirect of Git is not followed"):
        Repository(f"{git.url}/site.git", TOKEN).references()
    assert any("Authorization" in headers for headers in git.headers)
    assert thief.headers == []


def test_the_token_is_bound_to_its_server() -> None:
    login = Repository("https://git.home.arpa/infra/x.git", TOKEN)._login()
    assert list(login) == ["http.https://git.home.arpa/.extraHeader"]


def test_the_token_is_not_sent_in_the_clear() -> None:
    for url in ("http://git.home.arpa/x.git", "http://192.0.2.1/x.git"):
        with pytest.raises(Refused, match="GIT_TOKEN was not sent"):
            Repository(url, TOKEN).references()


def test_no_key_of_a_netrc_is_used(listening: type[_Listening], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login evil password evil\n")
    (tmp_path / ".netrc").chmod(0o600)
    for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    git = listening()
    with pytest.raises(Unreachable):
        Repository(f"{git.url}/site.git", Credentials({})).references()
    with pytest.raises(Unreachable):
        Repository(f"{git.url}/site.git", TOKEN).references()
    http.session(WriteGuard()).get(f"{git.url}/x")
    sent = [headers.get("Authorization", "") for headers in git.headers]
    assert sent
    assert base64.b64encode(b"evil:evil").decode() not in str(sent)


def test_an_error_of_a_server_shows_no_half_of_the_key_it_repeats(listening: type[_Listening]) -> None:
    key = "hunter2-hunter2-hunter2"
    held = Credentials({"QDRANT_API_KEY": key})
    answer = requests.Response()
    answer.status_code = 400
    for filler in range(270, 305):
        answer._content = b"x" * filler + key.encode()
        assert "hunter" not in http.words_of(answer)
    del held, listening


# -- https, or said on purpose ----------------------------------------------------------------------------


SERVERS = {
    "Portainer": ("  url: https://10.0.0.101:9443", "  url: http://10.0.0.101:9000"),
    "Proxmox": ("  url: https://pve.home.arpa:8006", "  url: http://pve.home.arpa:8006"),
    "Pi-hole": ("  - {kind: rfc2136,", "  - {kind: pihole, url: 'http://10.0.0.5'}\n  - {kind: rfc2136,"),
    "AdGuard": ("  - {kind: rfc2136,", "  - {kind: adguard, url: 'http://10.0.0.5'}\n  - {kind: rfc2136,"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_key_goes_over_https_or_the_file_says_that_it_does_not(server: str) -> None:
    text = (ROOT / "site.yaml").read_text()
    was, becomes = SERVERS[server]
    assert was in text
    with pytest.raises(site_load.WrongSite, match="is not https, so everybody on the way could read its key"):
        site_load.parse(text.replace(was, becomes, 1))
    meant = becomes.replace("'}", "', insecure: true}") if "{" in becomes else becomes + "\n  insecure: true"
    site = site_load.parse(text.replace(was, meant, 1))
    assert len(site.insecure()) == 1
    assert "is sent unencrypted" in site.insecure()[0]


def test_the_site_that_ships_sends_no_key_in_the_clear() -> None:
    assert site_load.load(ROOT / "site.yaml").insecure() == []


def test_every_command_and_report_repeats_what_is_insecure_on_purpose(tmp_path: Path) -> None:
    text = (ROOT / "site.yaml").read_text()
    was, becomes = SERVERS["Portainer"]
    (tmp_path / "site.yaml").write_text(text.replace(was, becomes + "\n  insecure: true", 1))
    words = ["status", "--site", str(tmp_path / "site.yaml"), "--state-dir", str(tmp_path / "state")]
    said = CliRunner().invoke(app, words)
    assert "http://10.0.0.101:9000 is sent unencrypted" in said.output
    told = CliRunner().invoke(app, [*words, "--json"])
    assert "is sent unencrypted" in json.loads(told.stdout)["insecure"][0]
    run = model.Run("live", "home-lab", "abc", facts={"insecure": "The key for x is sent unencrypted."})
    report = model.Report([], [run])
    for written in (markdown(report), html_page(report), json.dumps(report.data())):
        assert "is sent unencrypted" in written
