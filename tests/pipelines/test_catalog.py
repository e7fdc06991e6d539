"""Steps of installed packages: found without importing them, refused by name, and no harm to others."""

import subprocess
import sys

import pytest

from lavabeam.cli.main import app
from pipelines import catalog
from pipelines.llm.asks import AsksLlm
from schemas.errors import InputError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes packages installed: install(name, entry points by group, modules by name)."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(package, points, **modules):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        groups = [f"[{group}]\n" + "\n".join(lines) for group, lines in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(groups))
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        catalog._installed.cache_clear()

    yield installed
    monkeypatch.undo()
    catalog._installed.cache_clear()


def test_names_that_are_taken_are_left_out_with_a_line_each(install):
    names = ["download = x:y", "base = x:y", "show = x:y", "Good-Name = x:y", "twice = x:y"]
    install("acme", {"lavabeam.steps": names, "lavabeam.importers": ["url_list = x:y"]})
    install("zeta", {"lavabeam.steps": ["twice = z:z"]})
    assert catalog.steps()["download"] == catalog.STEPS["download"]
    assert set(catalog.steps()) == {*catalog.STEPS, "twice"} and catalog.steps()["twice"].package == "acme"
    assert set(catalog.importers()) == set(catalog.IMPORTERS)
    lines = catalog.refused()
    assert len(lines) == 6
    assert "step 'download' of the package acme is left out: LavaBeam has that name already." in lines
    assert "step 'twice' of the package zeta is left out: the package acme has that name already." in lines
    assert any("'Good-Name'" in line and "lower-case" in line for line in lines)


def test_a_broken_package_is_one_line_that_names_it_and_only_when_it_is_used(install):
    install("acme", {"lavabeam.steps": ["broken = acme_broken:Broken"]}, acme_broken="1 / 0")
    assert "broken" in catalog.steps()
    with pytest.raises(InputError, match="package acme cannot be loaded: ZeroDivisionError: division by zero"):
        catalog.step("broken")


@pytest.mark.parametrize("text", ["Thing = 3", "from tests.pipelines.steps import Shout as Thing"])
def test_what_is_no_step_of_that_name_is_refused(install, text):
    install("acme", {"lavabeam.steps": ["thing = acme_thing:Thing"]}, acme_thing=text)
    with pytest.raises(InputError, match="package acme: acme_thing:Thing is not a Step named 'thing'"):
        catalog.step("thing")


def test_no_step_hides_a_command():
    assert set(app.commands) == catalog.COMMANDS


def test_which_steps_ask_an_llm_is_said_by_their_classes():
    asking = {name for name in catalog.STEPS if catalog.asks_llm(name)}
    assert asking == {name for name in catalog.STEPS if issubclass(catalog.step(name), AsksLlm)}
    assert asking == {"caption", "generate", "judge"} and not catalog.asks_llm("mix")


def test_listing_commands_imports_no_package(tmp_path):
    folder = tmp_path / "acme-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[lavabeam.steps]\nbroken = acme_broken:Broken\ndownload = a:b\n")
    (tmp_path / "acme_broken.py").write_text("raise SystemExit('imported')")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); sys.argv[1:] = ['--help']; import lavabeam.__main__"
    code = f"{code}; from lavabeam.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "broken" in done.stdout
    assert done.stderr == "lavabeam: step 'download' of the package acme is left out: LavaBeam has that name already.\n"
