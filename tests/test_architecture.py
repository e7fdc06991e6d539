"""The four arrows: schemas knows nobody, pipelines and trainer know schemas alone, dags know the command line alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "pipelines", "trainer", "dags", "demo", "commands", "lavabeam")
MAY_IMPORT = {
    "schemas": set(),
    "pipelines": {"schemas"},
    "trainer": {"schemas"},
    "dags": set(),
    "demo": {"schemas", "pipelines", "trainer"},
    "commands": {"schemas", "pipelines", "trainer", "demo"},
}


def imported_rooms(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names & set(ROOMS)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_the_rooms_below_it(room):
    for file in sorted((ROOT / room).rglob("*.py")):
        assert imported_rooms(file) - {room} <= MAY_IMPORT[room], file


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; sys.argv = ['lavabeam', '--help']\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_schemas_load_neither_beam_nor_torch():
    loaded = loaded_by("import schemas, schemas.dataset, schemas.commit, schemas.chat")
    assert "pyarrow" in loaded
    assert loaded.isdisjoint({"apache_beam", "torch", "transformers"})


def test_pipelines_load_no_torch():
    loaded = loaded_by("import pipelines, pipelines.engine.job, pipelines.recipes, pipelines.mix")
    assert "apache_beam" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "tensorflow"})


def test_help_loads_nothing_heavy_so_that_it_answers_at_once():
    loaded = loaded_by("import lavabeam\ntry: lavabeam.main()\nexcept SystemExit: pass")
    assert loaded.isdisjoint({"apache_beam", "torch", "transformers", "pyarrow", "pydantic", "numpy", "datasets"})
