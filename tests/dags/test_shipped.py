"""`lavabeam dags` writes the DAG files, which the wheel has inside the package."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.cli.scheduling import shipped
from schemas.errors import InputError
from tests.dags.conftest import ROOT

ROOMS = {"lavabeam", "pipelines", "schemas", "trainer"}


def write(folder, *more):
    return CliRunner().invoke(app, ["dags", "--out", str(folder), *more])


def test_the_files_are_written_once(tmp_path):
    assert write(tmp_path / "new").exit_code == 0
    written = {
        path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()
    }
    assert written == set(shipped())
    assert {"ingest.py", "_lavabeam.py", "pools.json", ".airflowignore", "examples/verify.py"} <= written
    assert (tmp_path / "new/up.sh").stat().st_mode & 0o100
    assert "holds these files already" in write(tmp_path / "new").output


def test_changed_files_are_refused_and_settings_stay(tmp_path):
    write(tmp_path)
    (tmp_path / "mix.py").write_text("mine")
    (tmp_path / "lavabeam.yaml").write_text("folder: /data\n")
    (tmp_path / "gc.py").unlink()
    refused = write(tmp_path).exception
    assert isinstance(refused, InputError) and "mix.py differ" in str(refused) and "--replace" in str(refused)
    assert not (tmp_path / "gc.py").exists()
    assert write(tmp_path, "--replace").output.split() == [str(tmp_path / "gc.py"), str(tmp_path / "mix.py")]
    assert (tmp_path / "mix.py").read_text() != "mine"
    assert (tmp_path / "lavabeam.yaml").read_text() == "folder: /data\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*ROOMS, "dags"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_has_the_dags_inside_the_package(wheel):
    inside = {name.removeprefix("lavabeam/dags/") for name in wheel if name.startswith("lavabeam/dags/")}
    assert inside == set(shipped())


def test_site_packages_get_no_other_name(wheel):
    assert {name.split("/")[0] for name in wheel if ".dist-info" not in name} == ROOMS
