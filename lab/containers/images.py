"""The images of the container ground: the real Qdrant where a registry answers, otherwise one that is made here.

What is made here needs no network: a file system of this machine's own programs (shell, small tools, nginx, Python with the lab's
packages and the libraries they load), and on top of it what stands for Qdrant (``lab/images/``). A registry of our own gives
it a real digest, so the stack is pinned and pulled as it is on the site. Images and the registry's files are kept in
``~/.cache/qdrant-cutover`` and made again when what they are made of has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import docker
from docker.errors import APIError, ImageNotFound

from lab.nginx import nginx_binary
from lab.processes import Process, listening

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "lab/images"
BASE = "qdrant-cutover-lab/base"
PROGRAMS = tuple(
    word
    for line in (
        "bash sh cat ls mkdir rm mv cp ln stat test chmod chown sleep touch sync sha256sum md5sum head tail wc env id readlink",
        "realpath mktemp install find grep sed awk tar gzip date printf echo true false tr cut sort uniq xargs ps kill df du od dd",
        "tee seq dirname basename uname setpriv setsid nohup timeout flock getent cmp diff comm chgrp expr nice pgrep ss mkfifo split fold nl",
        "cksum",
    )
    for word in line.split()
)
PACKAGES = ("aiohttp", "numpy", "qdrant-edge-py", "pydantic-core")
PACKAGES_AT = "/opt/lab/packages"
SECONDS = 300


@dataclass(frozen=True)
class Images:
    """What the ground's containers are made of. ``sentence`` says which of the two ways it was, for header and report."""

    kind: Literal["registry", "built"]
    qdrant: str
    base: str
    sentence: str
    registry: Process | None = None
    made: str = ""


def pinned(site: str) -> str:
    """The image that a site file names."""
    from ruamel.yaml import YAML

    return str(YAML(typ="safe").load(site)["qdrant"]["image"])


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qdrant-cutover"


def prepare(engine: docker.DockerClient, reference: str, folder: Path, address: str) -> Images:
    """Images for a lab whose stack pins ``reference``; ``address`` is where our own registry may listen."""
    base = base_image(engine)
    try:
        engine.api.inspect_distribution(reference)  # type: ignore[no-untyped-call]
    except (APIError, OSError) as error:
        reason = str(getattr(error, "explanation", None) or error)
    else:
        return Images("registry", reference, base, f"the real image {reference}")
    return _built(engine, reference, base, folder, address, reason)


def _built(engine: docker.DockerClient, reference: str, base: str, folder: Path, address: str, reason: str) -> Images:
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        raise RuntimeError(
            f"The image of the stack cannot be pulled ({reason.strip()[:200]}), and there is no docker-registry to serve one made "
            "here: apt-get install docker-registry."
        )
    name, _, tag = reference.partition("@")[0].rpartition(":")
    made = _stand_in(engine, base, tag.removeprefix("v"))
    files = cache_folder() / "registry"
    files.mkdir(parents=True, exist_ok=True)
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {files}}}, delete: {{enabled: false}}}}\n"
        f"http: {{addr: '{address}:5000'}}\n"
    )
    registry = Process(
        [program, "serve", str(config)], env={"OTEL_TRACES_EXPORTER": "none"}, log=folder / "registry.log",
        ready=listening(address, 5000), name="registry",
    )  # fmt: skip
    registry.start()
    try:
        short = str(engine.images.get(made).id).removeprefix("sha256:")[:12]
        repository = f"{address}:5000/{name}"
        engine.api.tag(made, repository, tag)
        for line in engine.api.push(repository, tag, stream=True, decode=True):
            if "error" in line:
                raise RuntimeError(f"The image could not be pushed to the lab's registry: {line['error']}")
        digest = next(
            entry.partition("@")[2] for entry in engine.images.get(f"{repository}:{tag}").attrs["RepoDigests"]
            if entry.startswith(f"{repository}@")
        )  # fmt: skip
        # What a deployment uses is pulled, as on the site; the layers stay under the name that they were built with.
        engine.images.remove(f"{repository}:{tag}", noprune=True)
    except BaseException:
        registry.kill()
        raise
    said = f"an image made here (the real engine behind the lab's REST front, {short}); {name} could not be pulled"
    return Images("built", f"{repository}:{tag}@{digest}", base, said, registry, made)


def forget(engine: docker.DockerClient, images: Images) -> None:
    """Let go of the name that only this lab's registry knew, and of images made from what is no longer so."""
    stale = [images.qdrant] if images.kind == "built" else []
    for image in engine.images.list(filters={"reference": "qdrant-cutover-lab/*"}):
        stale += [tag for tag in image.tags if tag not in {images.base, images.made}]
    for name in stale:
        with contextlib.suppress(APIError):  # another checkout's lab may be using it
            engine.images.remove(name)


def _stand_in(engine: docker.DockerClient, base: str, version: str) -> str:
    recipe = (RECIPES / "qdrant.Dockerfile").read_text()
    files = {name: (RECIPES / name).read_bytes() for name in ("qdrant", "entrypoint.sh")}
    code = [ROOT / "steps/__init__.py", ROOT / "lab/__init__.py", ROOT / "lab/processes.py"]
    code += sorted((ROOT / "lab/qdrant").glob("*.py"))
    files |= {f"lab/{file.relative_to(ROOT)}": file.read_bytes() for file in code}
    stamp = hashlib.sha256(repr([base, version, recipe, sorted(files.items())]).encode()).hexdigest()[:16]
    name = f"qdrant-cutover-lab/qdrant:{version}-{stamp}"
    try:
        engine.images.get(name)
    except ImageNotFound:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for path, content in {"Dockerfile": recipe.encode(), **files}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        context.seek(0)
        engine.images.build(
            fileobj=context,
            custom_context=True,
            tag=name,
            buildargs={"BASE": base, "VERSION": version},
            rm=True,
            forcerm=True,
            network_mode="none",
        )
    return name


# -- the base image -------------------------------------------------------------------------------------------------------


def base_image(engine: docker.DockerClient) -> str:
    """This machine's programs as an image; made when what goes in has changed."""
    content, stamp = _programs()
    name = f"{BASE}:{stamp}"
    try:
        engine.images.get(name)
        return name
    except ImageNotFound:
        pass
    archive = cache_folder() / f"base-{os.getpid()}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(archive, content)
        variables = f"PYTHONPATH=/opt/lab:{PACKAGES_AT} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1"
        changes = [f"ENV PATH=/opt/lab/bin:/usr/sbin:/usr/bin {variables}"]
        engine.api.import_image_from_file(str(archive), repository=BASE, tag=stamp, changes=changes)
        engine.images.get(name)
    finally:
        archive.unlink(missing_ok=True)
    return name


@cache
def _programs() -> tuple[dict[str, Path], str]:
    """What goes into the base image, and its stamp; asked once a process, because looking for the libraries takes two seconds."""
    content = dict(sorted(_content()))
    said = "\n".join(f"{to} {(facts := at.stat()).st_size} {facts.st_mtime_ns}" for to, at in content.items())
    return content, hashlib.sha256(said.encode()).hexdigest()[:16]


def _site() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _content() -> Iterator[tuple[str, Path]]:
    """(path in the image, file here)."""
    nginx = nginx_binary()
    programs = [Path(found) for name in PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin"))]
    if nginx is not None:
        programs.append(Path(nginx))
    python = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    files = [*_below(standard, {"test", "tests", "site-packages", "idlelib", "ensurepip", "tkinter", "lib2to3", "turtledemo"})]
    files += _packages()
    for file in (*programs, python, *files):
        yield _inside(file), file
    for library in _libraries([*programs, python, *(f for f in files if ".so" in f.name)]):
        yield _inside(library), library


def _below(folder: Path, without: set[str]) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f not in without and f != "__pycache__" and not f.startswith("config-")]
        yield from (Path(here) / f for f in files if not f.endswith((".pyc", ".a")))


def _packages() -> Iterator[Path]:
    """The files of the stand-in's packages and of what those need."""
    waiting, seen = list(PACKAGES), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = (re.match(r"[\w.-]+", line) for line in found.requires or () if "extra ==" not in line)
        waiting.extend(match[0] for match in needs if match)
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if path.is_file() and path.suffix != ".pyc" and not {"..", "tests", "test"} & set(file.parts):
                yield path


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that these load, the loader included."""
    found: set[Path] = set()
    names = [str(file) for file in files]
    done = subprocess.run(["ldd", *names], capture_output=True, text=True, check=False, timeout=SECONDS)
    for line in done.stdout.splitlines():
        if match := re.match(r"\s+(?:\S+ => )?(/\S+) \(0x", line):
            found.add(Path(match[1]))
    return {library for library in found if _site() not in library.parents}


def _inside(file: Path) -> str:
    """Where a file of this machine stands in the image: /bin, /lib and so on are links into /usr.

    Packages get a place of their own: a checkout in /tmp must not be one that a container with its own /tmp cannot see.
    """
    if _site() in file.parents:
        return f"{PACKAGES_AT}/{file.relative_to(_site())}"
    return re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", str(file.absolute()))


def _write(archive: Path, content: dict[str, Path]) -> None:
    text = {
        "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:::\n",
        "/etc/group": "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    with tarfile.open(archive, "w") as tar:
        for folder, mode in (
            ("tmp", 0o1777),
            ("root", 0o700),
            ("var/tmp", 0o1777),
            ("run", 0o755),
            ("proc", 0o755),
            ("sys", 0o755),
        ):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name in ("bin", "sbin", "lib", "lib64"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)
        for path, said in text.items():
            entry = tarfile.TarInfo(path[1:])
            entry.size = len(said)
            tar.addfile(entry, io.BytesIO(said.encode()))
        for path, file in content.items():
            entry = tarfile.TarInfo(path[1:])
            facts = file.stat()
            entry.size, entry.mode = facts.st_size, 0o755 if facts.st_mode & 0o111 else 0o644
            with file.open("rb") as opened:
                tar.addfile(entry, opened)
        link = tarfile.TarInfo("opt/lab/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, _inside(Path(sys.executable).resolve())
        tar.addfile(link)
