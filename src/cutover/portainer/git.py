"""The Git repository that Portainer follows: which commit a branch or tag is at, and a file as that commit has it.

Read with the ``git`` program, so that every kind of host works. The token of a private repository reaches Git through its
environment, never through arguments, which every user of a machine can read. It goes to the repository's own server and only
over https: Git follows no redirect, and asks no helper and no file of the user for another key.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cutover.core import trace
from cutover.core.credentials import Credentials, cut
from cutover.core.errors import Failed, Refused, Unreachable
from cutover.core.write_guard import WriteGuard
from cutover.site.schema import stays_here

GIT_SECONDS = 60.0


def _settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of Git by its environment, where they are in no file and no argument."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


class References(dict[str, str]):
    """Every branch and tag with its commit. ``tags``: of an annotated tag, its own id, which is what Portainer shows for it."""

    def __init__(self, found: Mapping[str, str], tags: Mapping[str, str]) -> None:
        super().__init__(found)
        self.tags = dict(tags)

    def at(self, shown: str) -> list[str]:
        """The branches and tags for which Portainer shows this."""
        return [name for name, commit in self.items() if shown in {commit, self.tags.get(name)}]


@dataclass(frozen=True)
class At:
    """A file as a branch or tag has it. ``shown``: what Portainer calls the commit; ``env``: the ``.env`` beside it, or empty."""

    commit: str
    shown: str
    text: str
    env: str


@dataclass(frozen=True)
class Repository:
    """The repository at ``url``; ``secrets`` may hold a user and a token for it."""

    url: str
    credentials: Credentials

    def _git(self, *words: str, folder: Path | None = None) -> bytes:
        with tempfile.TemporaryDirectory(prefix="git-home-") as home:  # our own: in a shared one anybody can leave a .netrc
            environment = {
                "PATH": os.environ.get("PATH", ""),
                "HOME": home,
                "XDG_CONFIG_HOME": home,
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_ASKPASS": "true",
                "GIT_ALLOW_PROTOCOL": "https:http",
                "LC_ALL": "C",
            } | _settings({"http.followRedirects": "false", "credential.helper": "", **self._login()})
            return self._run(words, environment, folder)

    def _login(self) -> dict[str, str]:
        """The header with the token, for this repository's server; :class:`Refused` where anybody on the way could read it."""
        token = self.credentials.get("GIT_TOKEN")
        if not token:
            return {}
        where = urlsplit(self.url)
        if where.scheme != "https" and not stays_here(self.url):
            raise Refused(
                f"{self.url} is not https, so GIT_TOKEN was not sent: everybody on the way could read it.",
                "Write the https address into portainer.repository in site.yaml.",
            )
        login = f"{self.credentials.get('GIT_USERNAME') or 'token'}:{token}".encode()
        header = f"Authorization: Basic {base64.b64encode(login).decode()}"
        return {f"http.{where.scheme}://{where.netloc}/.extraHeader": header}

    def _run(self, words: Sequence[str], environment: Mapping[str, str], folder: Path | None) -> bytes:
        asked = trace.Asked(f"git {' '.join(words)}")
        try:
            done = subprocess.run(
                ["git", *words], capture_output=True, check=False, timeout=GIT_SECONDS, env=environment,
                cwd=folder, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError:
            raise Refused("There is no `git` on this machine.", "Install it.") from None
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.url} did not answer Git within {GIT_SECONDS:g} s.") from None
        asked.answered(f"exit code {done.returncode}")
        if done.returncode == 0:
            return done.stdout
        told = self.credentials.redact(done.stderr.decode(errors="replace")).strip()
        said = cut((told.splitlines() or ["no reason given"])[-1].removeprefix("fatal: "), 300)
        if "redirect" in told or re.search(r"\b30[1278]\b", said):
            raise Unreachable(
                f"{self.url} sends elsewhere, and a redirect of Git is not followed: a key could go with it.",
                "Write the address that it leads to into portainer.repository in site.yaml.",
            )
        raise Unreachable(f"Git could not use {self.url}: {said}.", self._hint(said))

    def _hint(self, said: str) -> str:
        if any(words in said for words in ("could not read", "Authentication failed", "terminal prompts", "401", "403")):
            held = "It does not accept the token" if self.credentials.get("GIT_TOKEN") else "It needs a user and a token"
            return f"{held}. Set GIT_USERNAME and GIT_TOKEN for a private repository, or renew the token."
        return "Compare portainer.repository in site.yaml with the address that your Git host shows."

    def references(self) -> References:
        """Every branch and tag with its commit (an annotated tag with the commit that it stands for)."""
        found: dict[str, str] = {}
        own: dict[str, str] = {}
        for line in self._git("ls-remote", "--", self.url).decode(errors="replace").splitlines():
            commit, _, name = line.partition("\t")
            if name.endswith("^{}"):
                own[name[:-3]], found[name[:-3]] = found[name[:-3]], commit
            elif name.startswith("refs/"):
                found[name] = commit
        return References(found, own)

    def commit_of(self, reference: str) -> str:
        """The commit that a branch or tag is at; :class:`Refused` where the repository has no such reference."""
        found = self.references()
        if reference not in found:
            known = ", ".join(sorted(name for name in found if name.startswith("refs/heads/"))) or "none"
            raise Refused(f"{self.url} has no {reference}. Its branches: {known}.", "Correct portainer.reference in site.yaml.")
        return found[reference]

    def file_at(self, reference: str, path: str) -> At:
        """A file as a branch or tag has it; :class:`Refused` where there is no such reference, or no such file at it."""
        with tempfile.TemporaryDirectory(prefix="git-") as name:
            folder = Path(name)
            self._git("init", "--quiet", "--bare", name)
            try:
                self._git("fetch", "--quiet", "--depth", "1", "--no-tags", "--", self.url, reference, folder=folder)
            except Unreachable:
                self.commit_of(reference)
                raise
            shown, commit = self._git("rev-parse", "FETCH_HEAD", "FETCH_HEAD^{commit}", folder=folder).decode().split()

            def text(name: str) -> str:
                """As it is, line ends included: Portainer shows it so."""
                try:
                    return self._git("show", f"{commit}:{name}", folder=folder).decode()
                except UnicodeDecodeError:
                    said = f"{name} in {self.url} at {commit[:8]} ({reference}) is not UTF-8 text."
                    raise Refused(said, "Save it as UTF-8 and merge that.") from None

            if not self._has(commit, path, folder):
                raise Refused(f"{path} is not in {self.url} at {commit[:8]} ({reference}).", "Merge it first.")
            env = str(PurePosixPath(path).with_name(".env"))
            return At(commit, shown, text(path), text(env) if self._has(commit, env, folder) else "")

    def _has(self, commit: str, path: str, folder: Path) -> bool:
        """Whether it is there; :class:`Refused` where it is no file: Portainer follows a link, to what nobody looked at."""
        mode = self._git("ls-tree", commit, "--", path, folder=folder).decode().partition(" ")[0]
        if mode and not mode.startswith("100"):
            kind = {"120000": "a link", "160000": "another repository"}.get(mode, "a folder")
            raise Refused(f"{path} in {self.url} at {commit[:8]} is {kind} and no file.", "Merge the file itself in its place.")
        return bool(mode)

    def tag(self, name: str, commit: str, guard: WriteGuard) -> None:
        """Push a tag for a commit that the repository has. Needs an open act; :class:`Failed` where it is not allowed."""
        guard.require(f"git push {self.url} {name}")
        with tempfile.TemporaryDirectory(prefix="git-") as folder_name:
            folder = Path(folder_name)
            self._git("init", "--quiet", "--bare", folder_name)
            try:
                self._git("fetch", "--quiet", "--depth", "1", "--no-tags", "--", self.url, commit, folder=folder)
                self._git("push", "--quiet", "--", self.url, f"{commit}:refs/tags/{name}", folder=folder)
            except Unreachable as error:
                raise Failed(f"The tag {name} for {commit[:8]} could not be made: {error.sentence}", error.hint) from None
