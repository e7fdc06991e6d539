"""What remote workers install: our wheel, and its requirements pinned to the versions installed here."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from pipelines.engine.dataflow import check_packages, is_wheel
from schemas.errors import InputError

ROOT = Path(__file__).parents[2]
_ALSO = ("gcsfs",)
"""What a worker needs of our extras: gs:// is read through it."""
_OF_THE_INSTALLER = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def package(folder: Path, more: Sequence[str] = (), ours: bool = True) -> list[str]:
    """Beam's flags that make workers install `more` (wheels, or names for pip) and, if `ours`, what this machine runs.

    Files are made in `folder`, which must last until the job was submitted. Raises InputError when no wheel can be
    made.
    """
    check_packages(tuple(more))
    names = [*(requirements() if ours else ()), *(one for one in more if not is_wheel(one))]
    wheels = [*([str(wheel(folder))] if ours else []), *filter(is_wheel, more)]
    flags = [f"--extra_package={path}" for path in wheels]
    if names:
        listed = folder / "requirements.txt"
        listed.write_text("".join(f"{name}\n" for name in names))
        # The list alone is staged: pip finds what it names when a worker starts, as it does for our wheel.
        flags += [f"--requirements_file={listed}", "--requirements_cache=skip"]
    return flags


def requirements() -> list[str]:
    """Our requirements at the versions that are installed here, so that workers make what this machine would."""
    asked = [line for line in importlib.metadata.requires("lavabeam") or () if "extra ==" not in line]
    names = [found[0] for line in (*asked, *_ALSO) if (found := re.match(r"[A-Za-z0-9._-]+(\[[^\]]*\])?", line))]
    return [f"{name}=={importlib.metadata.version(name.partition('[')[0])}" for name in names]


def wheel(folder: Path) -> Path:
    """Our wheel in `folder`: built where the code that runs is a checkout, else put together from what is installed."""
    return build(ROOT, folder) if (ROOT / "pyproject.toml").is_file() else repack(_installed(), folder)


def build(root: Path, folder: Path) -> Path:
    """The wheel of a checkout. Built from a copy: what an earlier build left beside the sources stays out of it."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    with tempfile.TemporaryDirectory() as copied:
        for file in ("pyproject.toml", project["project"]["readme"]):
            shutil.copy(root / file, copied)
        for part in root.iterdir():
            if (part / "__init__.py").is_file() and any(fnmatch(part.name, pattern) for pattern in patterns):
                shutil.copytree(part, Path(copied) / part.name, ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), copied]
        if _can_build(project["build-system"]["requires"]):
            command.append("--no-build-isolation")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
        raise InputError(
            f"{root}: no wheel can be built of this checkout: {' '.join(said)[:300] or 'pip says nothing'}. "
            "Install pip and setuptools beside lavabeam, or give an image that has lavabeam: --image."
        )
    return next(folder.glob("lavabeam-*.whl"))


def _can_build(required: list[str]) -> bool:
    """Whether the build system is installed here; otherwise pip fetches it for the build."""
    for line in required:
        name, _, least = line.partition(">=")
        try:
            if int(importlib.metadata.version(name).split(".")[0]) < int(least):
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def repack(installed: importlib.metadata.Distribution, folder: Path) -> Path:
    """The wheel that `installed` came from, put together of the files that it brought."""
    path = folder / f"lavabeam-{installed.version}-py3-none-any.whl"
    lines: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _own_files(installed):
            content = Path(str(installed.locate_file(file))).read_bytes()
            archive.writestr(str(file), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append((str(file), f"sha256={digest}", str(len(content))))
        record = f"lavabeam-{installed.version}.dist-info/RECORD"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*lines, (record, "", "")])
        archive.writestr(record, text.getvalue())
    return path


def _own_files(installed: importlib.metadata.Distribution) -> Iterator[importlib.metadata.PackagePath]:
    """The files of a wheel: not scripts, which lie elsewhere, nor what the installer or the interpreter added."""
    for file in sorted(installed.files or ()):
        added = file.parent.name.endswith(".dist-info") and file.name in _OF_THE_INSTALLER
        if not added and ".." not in file.parts and "__pycache__" not in file.parts:
            yield file


def _installed() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("lavabeam")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{ROOT}: this code is neither a checkout nor installed. pip install lavabeam, or give an image: --image."
        ) from None
