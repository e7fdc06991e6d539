"""The arrows between the rooms, what a room may load, and that nothing comes from the user's current folder."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import house

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "pipelines", "trainer", "dags", "lavabeam")
MAY_IMPORT = {
    "schemas": set(),
    "pipelines": {"schemas"},
    "trainer": {"schemas"},
    "dags": set(),
    "lavabeam": {"schemas", "pipelines", "trainer"},
}
LAYERS = ("pipelines.engine", "pipelines.llm", "pipelines.models")
"""Rooms of pipelines that know no step: each may import only the ones before it."""


def modules() -> dict[str, Path]:
    found = {}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


@cache
def imports(file: Path) -> frozenset[str]:
    """Names of all modules that a file imports, at its top or later, but for the type checker alone."""
    names, unused = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            unused |= set(ast.walk(node))
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inside}
    return frozenset(names)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_the_rooms_below_it(room):
    for name, file in MODULES.items():
        if name.split(".")[0] == room:
            rooms = {imported.split(".")[0] for imported in imports(file)} & set(ROOMS)
            assert rooms - {room} <= MAY_IMPORT[room], file


@pytest.mark.parametrize("layer", LAYERS)
def test_engine_requests_and_models_know_no_step(layer):
    below = (*LAYERS[: LAYERS.index(layer) + 1], "schemas")
    for name, file in MODULES.items():
        if name.startswith(layer):
            ours = {imported for imported in imports(file) if imported in MODULES}
            assert all(imported.startswith(below) for imported in ours), (name, ours)


def test_no_step_imports_another_step():
    """What two steps share lies below both. Catalog and recipes name every step; they are files, not rooms."""
    rooms = {name.split(".")[1] for name in MODULES if name.startswith("pipelines.") and name.count(".") > 1}
    steps = rooms - {layer.split(".")[1] for layer in LAYERS}
    assert {"caption", "dedupe", "download", "generate", "importers", "judge", "mix", "report"} <= steps
    for name, file in MODULES.items():
        own = name.split(".")[1] if name.startswith("pipelines.") else ""
        if own in steps:
            others = {imported for imported in imports(file) for step in steps - {own} if _inside(imported, step)}
            assert not others, (name, others)


def _inside(imported: str, step: str) -> bool:
    return imported == f"pipelines.{step}" or imported.startswith(f"pipelines.{step}.")


def test_no_file_imports_itself_by_way_of_others():
    graph = {name: imports(file) & MODULES.keys() - {name} for name, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_picture_of_the_house_shows_no_circle_of_rooms():
    assert house.backward(house.arrows(house.files(ROOT))) == set()
    drawing = ElementTree.fromstring(house.svg(ROOT, "A & B"))
    words = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"A & B", "schemas", "trainer", "pipelines/engine", "pipelines/llm"} <= words


def test_a_circle_of_rooms_is_an_arrow_that_points_up(tmp_path):
    lines = {"a/x": "import b.y", "b/y": "import a.x, c.z", "c/z": "import a.x"}
    for name, line in lines.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.py").write_text(line)
    edges = house.arrows(house.files(tmp_path))
    assert edges == {("a", "b"): 1, ("b", "a"): 1, ("b", "c"): 1, ("c", "a"): 1}
    assert house.backward(edges) == {("a", "b")}
    assert house.svg(tmp_path, "").count("url(#red)") == 1


def test_what_is_imported_is_declared():
    """A package that comes along with another one today may not tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {re.split(r"[^A-Za-z0-9_-]", name)[0].lower().replace("_", "-") for name in listed}
    owners = importlib.metadata.packages_distributions()
    for name, file in outside_dags():
        for package in {imported.split(".")[0] for imported in imports(file)} - set(ROOMS) - sys.stdlib_module_names:
            owner = {one.lower().replace("_", "-") for one in owners.get(package, [package])}
            assert owner & declared, f"{name} imports {package}, which pyproject.toml does not name"


def outside_dags():
    """Modules and files of all rooms but dags/, which runs in Airflow's own environment."""
    return [(name, file) for name, file in MODULES.items() if name.split(".")[0] != "dags"]


def test_dag_files_need_airflow_alone_and_their_helpers_not_even_that():
    """They run where lavabeam is not installed; yaml and fsspec come with Airflow."""
    siblings = {file.stem for file in (ROOT / "dags").glob("_*.py")}
    assert {"_lavabeam", "_lavabeam_settings", "_lavabeam_command", "_lavabeam_airflow"} == siblings
    for name, file in MODULES.items():
        if name.split(".")[0] != "dags":
            continue
        others = {imported.split(".")[0] for imported in imports(file)} - siblings - sys.stdlib_module_names
        plain = file.stem in siblings - {"_lavabeam_airflow"}
        assert others <= ({"yaml"} if plain else {"airflow", "yaml", "fsspec"}), name


def loaded_by(statement: str, folder: Path = ROOT, **environment: str) -> set[str]:
    code = f"import sys; sys.argv = ['lavabeam', '--help']\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_schemas_load_neither_beam_nor_torch():
    loaded = loaded_by("import schemas, schemas.dataset, schemas.commit, schemas.chat")
    assert "pyarrow" in loaded
    assert loaded.isdisjoint({"apache_beam", "torch", "transformers"})


def test_pipelines_load_no_torch():
    loaded = loaded_by("import pipelines, pipelines.engine.job, pipelines.recipes, pipelines.mix")
    assert "apache_beam" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "tensorflow"})


def test_worker_processes_load_no_beam():
    loaded = loaded_by("import pipelines.engine.processes, pipelines.download, pipelines.dedupe, pipelines.mix.maker")
    assert loaded.isdisjoint({"apache_beam", "torch", "transformers"})


def test_help_loads_nothing_heavy_so_that_it_answers_at_once():
    loaded = loaded_by("from lavabeam.cli.main import main\ntry: main()\nexcept SystemExit: pass")
    assert loaded.isdisjoint({"apache_beam", "torch", "transformers", "pyarrow", "pydantic", "numpy", "datasets"})


def test_no_command_imports_from_the_current_folder(tmp_path):
    """A user's own trainer/, schemas.py or numpy.py beside the data is never executed."""
    trap = "raise SystemExit('imported from the current folder')"
    for name in ("schemas.py", "numpy.py", "pyarrow.py", "lavabeam.py", "click.py", "torch.py"):
        (tmp_path / name).write_text(trap)
    for name in ("trainer", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(trap)
    lines = ["a\thttp://127.0.0.1:9/a.jpg", "b\thttp://127.0.0.1:9/b.jpg"]
    (tmp_path / "urls.tsv").write_text("key\turl\n" + "\n".join(lines * 1) + "\n")
    environment = {**os.environ, "PYTHONPATH": ""}
    script = Path(sys.executable).parent / "lavabeam"
    imported = [script, "import", "url_list", "photos", "--path", "urls.tsv", "--rows-per-slice", "1", "--workers", "2"]
    for command in (imported, [script, "show", "photos"], [script, "train", "v1.5-7b-finetune", "--dry-run"]):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "imported from the current folder" not in done.stdout + done.stderr, command
    assert "work/mix-665k: no dataset here" in done.stderr
