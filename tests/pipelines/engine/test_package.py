"""What workers on other machines install is what this machine runs."""

import importlib.metadata
import zipfile

import pytest

from pipelines.engine.package import ROOT, build, package, repack, requirements
from schemas.errors import InputError

VERSION = importlib.metadata.version("lavabeam")


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


def test_a_checkout_that_cannot_be_built_is_one_message_and_stays_as_it_was(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\n[project]\nname = "lavabeam"\nversion = "not one"\n'
        'readme = "R.md"\n[tool.setuptools.packages.find]\ninclude = ["rooms*"]\n'
    )
    (tmp_path / "R.md").write_text("x")
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "__init__.py").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"no wheel can be built of this checkout: .*version.*give an image"):
        build(tmp_path, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_wheel_of_an_installation_is_put_together_again(built, tmp_path):
    site = tmp_path / "lib" / "site"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    own = site / f"lavabeam-{VERSION}.dist-info"
    added = {
        own / "INSTALLER": f"lavabeam-{VERSION}.dist-info/INSTALLER",
        site / "schemas/__pycache__/store.cpython-311.pyc": "schemas/__pycache__/store.cpython-311.pyc",
        tmp_path / "bin/lavabeam": "../../bin/lavabeam",
    }
    for file, name in added.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text("pip")
        with (own / "RECORD").open("a") as record:
            record.write(f"{name},,\n")
    (installed,) = importlib.metadata.distributions(name="lavabeam", path=[str(site)])
    again = repack(installed, tmp_path)
    assert again.name == built.name
    assert _contents(again) == _contents(built)
    with zipfile.ZipFile(again) as archive:
        listed = [
            line.rsplit(",", 2) for line in archive.read(f"lavabeam-{VERSION}.dist-info/RECORD").decode().splitlines()
        ]
        assert sorted(name for name, _, _ in listed) == sorted(archive.namelist())
        assert all(int(size) == archive.getinfo(name).file_size for name, _, size in listed if size)


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
