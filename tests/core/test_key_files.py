"""Keys from files: of their owner alone, by known names, and never before what the environment says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cutover.core.errors import WrongUsage
from cutover.core.key_files import gather


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_is_read_as_a_shell_would_read_it(tmp_path: Path) -> None:
    text = '# keys\n\nexport PORTAINER_API_KEY=\'ptr_a b#c\'\nQDRANT_API_KEY=plain # why\nVLLM_API_KEY=\nGIT_TOKEN="a\\"$HOME"\n'
    found = gather(written(tmp_path / "keys.env", text), {})
    assert found.credentials.values == {"PORTAINER_API_KEY": "ptr_a b#c", "QDRANT_API_KEY": "plain", "GIT_TOKEN": 'a"$HOME'}


@pytest.mark.parametrize(
    ("written_as", "value"),
    [
        ("a#b", "a#b"), ("'a'#b # why", "a#b"), (r'"a\$b\`c"', "a$b`c"), (r'"a\nb"', r"a\nb"), (r"a\ b\#c", "a b#c"), ("a=b==", "a=b=="),
        (r"'it'\''s'", "it's"), ("pa$word", "pa$word"), (r"\\", "\\"), ("a;b&c", "a;b&c"),
    ],
)  # fmt: skip
def test_a_key_arrives_as_it_was_quoted_for_a_shell(tmp_path: Path, written_as: str, value: str) -> None:
    assert gather(written(tmp_path / "keys.env", f"GIT_TOKEN={written_as}\n"), {}).credentials.values == {"GIT_TOKEN": value}


def test_the_environment_comes_first_then_the_file_then_systemd(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    for name in ("PORTAINER_API_KEY", "QDRANT_API_KEY", "VLLM_API_KEY"):
        (folder / name).write_text("systemd\n")
    file = written(tmp_path / "keys.env", "PORTAINER_API_KEY=file\nQDRANT_API_KEY=file\n")
    found = gather(file, {"PORTAINER_API_KEY": "environment", "CREDENTIALS_DIRECTORY": str(folder)})
    assert found.credentials.values == {"PORTAINER_API_KEY": "environment", "QDRANT_API_KEY": "file", "VLLM_API_KEY": "systemd"}
    assert found.origin == {"PORTAINER_API_KEY": "the environment", "QDRANT_API_KEY": str(file), "VLLM_API_KEY": "systemd"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(WrongUsage, match=r"keys\.env is not used: others can read it") as refused:
        gather(written(tmp_path / "keys.env", "QDRANT_API_KEY=x\n", mode), {})
    assert "chmod 600" in refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(written(tmp_path / "keys.env", "QDRANT_API_KEY=x\n"), 65534, 65534)
    with pytest.raises(WrongUsage, match="it belongs to somebody else"):
        gather(tmp_path / "keys.env", {})


def test_a_link_a_folder_a_pipe_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path / "keys.env", "QDRANT_API_KEY=x\n"))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", ".", "pipe", "none"):
        with pytest.raises(WrongUsage, match=r"cannot be read|it is no file"):
            gather(tmp_path / name, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("QDRANT_API_KEY=a\nQDRANT_APIKEY=hush\n", "keys.env:2 has a name that is no key: QDRANT_APIKEY"),
        ("QDRANT_API_KEY='hush\n", "keys.env:1 cannot be read: a quote is open"),
        ("QDRANT_API_KEY=hush\\\n", "keys.env:1 cannot be read: a quote is open, or a backslash stands last"),
        ("QDRANT_API_KEY = hush\n", "keys.env:1 is not NAME=value"),
        ("QDRANT_API_KEY=hush hush\n", "keys.env:1 is not NAME=value"),
        ("QDRANT_API_KEY=\udcff", "it is not UTF-8 text"),
    ],
)
def test_a_mistake_is_said_with_its_line_and_without_the_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "keys.env").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "keys.env").chmod(0o600)
    with pytest.raises(WrongUsage) as refused:
        gather(tmp_path / "keys.env", {})
    assert said in refused.value.sentence
    assert "hush" not in f"{refused.value.sentence}{refused.value.hint}"


def test_a_file_of_another_system_is_read_and_what_stands_last_counts(tmp_path: Path) -> None:
    file = tmp_path / "keys.env"
    file.write_bytes(b"\xef\xbb\xbfexport QDRANT_API_KEY=plain\r\nVLLM_API_KEY='a b'\r\nGIT_TOKEN=x\r\nGIT_TOKEN=\r\n")
    file.chmod(0o600)
    assert gather(file, {}).credentials.values == {"QDRANT_API_KEY": "plain", "VLLM_API_KEY": "a b"}


def test_a_link_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "keys.env")
    with pytest.raises(WrongUsage, match="link cannot be read: it is a link"):
        gather(tmp_path / "link", {})


def test_a_line_that_may_be_the_rest_of_a_key_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"keys\.env:1 has a name that is no key\.") as refused:
        gather(written(tmp_path / "keys.env", "aHVzaC1odXNo==\n"), {})
    assert "aHVzaC" not in str(refused.value)


@pytest.mark.parametrize("value", ["hush\r", "hu\nsh", "hush\xa0", " hush", "hüsh"])
def test_what_no_server_can_be_sent_is_said_before_anything_is_asked(value: str) -> None:
    with pytest.raises(WrongUsage, match=r"PORTAINER_API_KEY \(from the environment\) holds a character that no") as refused:
        gather(None, {"PORTAINER_API_KEY": value})
    assert value.strip() not in str(refused.value)


def test_a_password_may_have_any_letter() -> None:
    assert gather(None, {"PIHOLE_PASSWORD": "hüsh hush"}).credentials.values == {"PIHOLE_PASSWORD": "hüsh hush"}
