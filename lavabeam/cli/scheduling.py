"""`lavabeam dags`: write the Airflow files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from lavabeam.cli.output import say

DAGS = Path(__file__).parent.parent / "dags"
SETTINGS = "lavabeam.yaml"
"""Its owner changes it: it is written once and never replaced."""


@click.command()
@click.option("--out", type=Path, required=True, help="The folder to write into: Airflow's DAG folder.")
@click.option("--replace", is_flag=True, help="Overwrite files that differ; lavabeam.yaml is kept.")
def dags(out: Path, replace: bool) -> None:
    """Write the Airflow DAGs.

    Ingest, generate, mix, train, retry_failed and gc, and lavabeam.yaml with their settings.
    """
    from schemas.errors import InputError

    ours = {name: (DAGS / name).read_bytes() for name in shipped()}
    missing = [name for name in ours if not (out / name).exists()]
    differing = [
        name for name in ours if name not in missing and name != SETTINGS and (out / name).read_bytes() != ours[name]
    ]
    if differing and not replace:
        raise InputError(
            f"{out}: {', '.join(differing)} differ from the files of this release. --replace overwrites them; changes "
            f"of your own belong in {SETTINGS}, which is never replaced, or in files with other names."
        )
    for name in [*missing, *differing]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(ours[name])
        if name.endswith(".sh"):
            (out / name).chmod(0o755)
        say(str(out / name))
    if not missing and not differing:
        say(f"{out} holds these files already.")


def shipped() -> Iterator[str]:
    """The names of the files, below their folder."""
    for path in sorted(DAGS.glob("*")) + sorted((DAGS / "examples").glob("*.py")):
        if path.is_file():
            yield str(path.relative_to(DAGS))
