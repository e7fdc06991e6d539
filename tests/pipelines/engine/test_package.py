"""What workers on other machines install is what this machine runs."""

import importlib.metadata
import subprocess
import sys
import zipfile

import pytest

from pipelines.engine.package import ROOT, build, package, repack, requirements
from schemas.errors import InputError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("built"))


def test_the_wheel_of_a_checkout_holds_the_code_that_runs(built):
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        assert archive.read("pipelines/engine/package.py") == (ROOT / "pipelines/engine/package.py").read_bytes()
    assert {"lavabeam/cli/main.py", "schemas/store.py", "trainer/__init__.py"} <= set(names)
    assert "pipelines/llm/prompts/detail.yaml" in names and "pipelines/llm/prompts/context.j2" in names
    assert not any(name.startswith(("tests", "bench", "build")) or "__pycache__" in name for name in names)


def test_building_leaves_nothing_in_the_checkout(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\n[project]\nname = "lavabeam"\nversion = "9"\nreadme = "R.md"\n'
        '[tool.setuptools.packages.find]\ninclude = ["rooms*"]\n'
    )
    (tmp_path / "R.md").write_text("x")
    for room in ("rooms", "others"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    made = build(tmp_path, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, made])
    assert {name.split("/")[0] for name in zipfile.ZipFile(made).namelist()} == {"rooms", "lavabeam-9.dist-info"}
    (tmp_path / "pyproject.toml").write_text((tmp_path / "pyproject.toml").read_text().replace("9", "not a version"))
    with pytest.raises(InputError, match=r"no wheel can be built of this checkout: .*give an image"):
        build(tmp_path, tmp_path / "out")


def test_the_wheel_of_an_installation_is_put_together_again(built, tmp_path):
    installer = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*installer, str(built)], check=True, capture_output=True)
    (installed,) = importlib.metadata.distributions(name="lavabeam", path=[str(tmp_path / "site")])
    again = repack(installed, tmp_path)
    assert again.name == built.name
    assert _contents(again) == _contents(built)
    subprocess.run([*installer[:-1], str(tmp_path / "other"), str(again)], check=True, capture_output=True)
    assert (tmp_path / "other/schemas/store.py").read_bytes() == (ROOT / "schemas/store.py").read_bytes()


def _contents(wheel) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_requirements_are_pinned_to_what_is_installed(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "7" if name == "gcsfs" else version(name))
    listed = requirements()
    assert f"pyarrow=={version('pyarrow')}" in listed and f"openai[aiohttp]=={version('openai')}" in listed
    assert "gcsfs==7" in listed
    assert not any(line.startswith(("torch", "dask", "pytest")) for line in listed)


def test_an_image_has_our_code_and_the_rest_is_installed(tmp_path):
    (tmp_path / "steps-1-py3-none-any.whl").touch()
    flags = package(tmp_path, (str(tmp_path / "steps-1-py3-none-any.whl"), "torch==2.9.0"), ours=False)
    assert f"--extra_package={tmp_path}/steps-1-py3-none-any.whl" in flags
    assert f"--requirements_file={tmp_path}/requirements.txt" in flags and "--requirements_cache=skip" in flags
    assert (tmp_path / "requirements.txt").read_text() == "torch==2.9.0\n"
    assert package(tmp_path, (), ours=False) == []
    with pytest.raises(InputError, match=r"--packages gone\.whl: no such file"):
        package(tmp_path, ("gone.whl",), ours=False)
