"""Looking at datasets: show, log, verify. They read and never write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lavabeam.cli.output import print_json, print_table, told_statuses

at_option = click.option("--at", type=int, help="The manifest number to look at; the newest by default.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("dataset")
@at_option
@click.option("--row", type=int, help="Show this row with all its columns.")
@click.option("--status", help="Show rows with this status, as step=status.")
@click.option("--limit", default=10, help="How many rows --status shows.", show_default=True)
@click.option("--images", type=Path, help="Write the shown rows' pictures into this folder.")
@json_option
def show(
    dataset: str, at: int | None, row: int | None, status: str | None, limit: int, images: Path | None, as_json: bool
) -> None:
    """What DATASET holds, or single rows of it.

    Rows, columns and the statuses of every step.
    """
    from schemas import Dataset as Opened

    opened = Opened.open(dataset, at)
    if row is not None:
        return _show_rows(opened, [row], images, as_json)
    if status is not None:
        return _show_rows(opened, _rows_with(opened, status, limit), images, as_json)
    told: dict[str, Any] = {
        "path": opened.path,
        "schema": opened.schema_version,
        "manifest": opened.manifest.number,
        "created": opened.manifest.created,
        "rows": opened.rows,
        "fragments": len(opened.fragments),
        "bytes": sum(file.bytes for part in opened.fragments for file in part.entry.files.values()),
        "columns": opened.columns,
        "statuses": opened.manifest.statuses(),
        "parents": [parent.model_dump() for parent in opened.manifest.parents],
        "info": opened.manifest.info,
    }
    if as_json:
        return print_json(told)
    click.echo(
        f"{told['path']}: {told['schema']}, manifest {told['manifest']} of {told['created']}\n"
        f"{told['rows']} rows in {told['fragments']} fragments, {told['bytes'] / 1e6:.1f} MB"
    )
    for parent in opened.manifest.parents:
        click.echo(f"made from {parent.path} at manifest {parent.manifest}")
    steps = [(name, told_statuses(counts)) for name, counts in told["statuses"].items()]
    if steps:
        print_table(("step", "statuses"), steps)
    click.echo(f"columns: {', '.join(told['columns'])}")
    return None


@click.command()
@click.argument("dataset")
@json_option
def log(dataset: str, as_json: bool) -> None:
    """The history of DATASET, newest version first. `lavabeam show --at N` looks into one."""
    from schemas import manifest
    from schemas.store import Store

    store = Store(dataset)
    newest = manifest.read(store)
    older = [manifest.read(store, number) for number in reversed(manifest.numbers(store)) if number < newest.number]
    told = [
        {"manifest": one.number, "created": one.created, "what": one.message, "rows": one.rows, "run": one.run}
        for one in [newest, *older]
    ]
    if as_json:
        return print_json(told)
    return print_table(("manifest", "created", "what", "rows", "run"), [tuple(one.values()) for one in told])


@click.command()
@click.argument("dataset")
@at_option
@json_option
def verify(dataset: str, at: int | None, as_json: bool) -> None:
    """Read every byte of DATASET and check it.

    Rows and sha256 are compared with the manifest. Exit code 2 when something is wrong.
    """
    from schemas import Dataset as Opened

    opened = Opened.open(dataset, at)
    problems = opened.verify()
    if as_json:
        print_json({"path": opened.path, "manifest": opened.manifest.number, "problems": problems})
    else:
        for problem in problems:
            click.echo(problem)
        files = sum(len(part.entry.files) for part in opened.fragments)
        click.echo(f"{opened.path}: {files} files, {opened.rows} rows, {len(problems)} problems")
    if problems:
        click.get_current_context().exit(2)


def _rows_with(opened: Any, wanted: str, limit: int) -> list[int]:
    from schemas.config import nearest
    from schemas.errors import InputError

    step, _, status = wanted.partition("=")
    # The table of `show` calls what an import wrote `base`, as its column file is called.
    names = ("import_status", "status") if step == "base" else (step, f"{step}_status")
    column = next((name for name in names if name in opened.columns), None)
    if column is None or not status:
        known = [name.removesuffix("_status") for name in opened.columns if name.endswith("status")]
        raise InputError(f"--status {wanted}: expected step=status. {nearest(step, known)}")
    found, start = [], 0
    for batch in opened.batches([column], 4096):
        found += [start + place for place, value in enumerate(batch.column(0).to_pylist()) if value == status]
        start += batch.num_rows
        if len(found) >= limit:
            break
    if not found:
        counts = opened.manifest.statuses().get(step)
        told = f" There are: {told_statuses(counts)}." if counts else ""
        raise InputError(f"--status {wanted}: no row of {opened.path} has it.{told}")
    return found[:limit]


def _show_rows(opened: Any, rows: list[int], images: Path | None, as_json: bool) -> None:
    from schemas.errors import InputError

    for place, number in enumerate(rows):
        if not 0 <= number < opened.rows:
            raise InputError(f"{opened.path}: there is no row {number}; rows are 0 to {opened.rows - 1}.")
        row = opened[number]
        if images is not None:
            _write_pictures(row, images)
        told = {"row": number, **_readable(row)}
        if as_json:
            print_json(told)
        else:
            if place:
                click.echo()
            print_table(("column", "value"), [(name, str(value)) for name, value in told.items() if value is not None])


def _write_pictures(row: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = row.get("images") or ([row["image"]] if row.get("image") else [])
    for number, picture in enumerate(pictures):
        if picture["bytes"]:
            path = folder / f"{str(row['key']).replace('/', '_')}-{number}"
            path.write_bytes(picture["bytes"])
            click.echo(f"wrote {path}", err=True)


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {key: _readable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return value


@click.group(invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> None:
    """Answers paid for once: their cost, moving them. Without a command: what the default cache holds."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(cache_show, folder=None, as_json=False)


@cache.command("show")
@click.argument("folder", required=False)
@json_option
def cache_show(folder: str | None, as_json: bool) -> None:
    """Size, hits, cost and money saved of the answer cache in FOLDER (the default one if none is given)."""
    from pipelines.llm.cache import summary
    from pipelines.llm.settings import DEFAULT_CACHE

    told = summary(folder or DEFAULT_CACHE)
    if as_json:
        return print_json(told)
    groups, budgets = told.pop("by_prompt"), told.pop("budgets")
    print_table(("what", "value"), list(told.items()))
    names = ("answers", "hits", "input_tokens", "output_tokens", "cost", "saved")
    rows = [(f"{one['provider']}/{one['model']}", one["prompt"], *(one[name] for name in names)) for one in groups]
    columns = ("model", "prompt", "answers", "hits", "tokens in", "tokens out", "USD", "USD saved")
    print_table(columns, rows, title="\nBy model and prompt")
    spent = [(dataset, *amounts.values()) for dataset, amounts in budgets.items()]
    kept = ("dataset", "requests", "tokens", "USD", "lost requests", "lost tokens", "lost USD")
    return print_table(kept, spent, title="\nSpent by dataset; lost is what failed on its way and may be billed")


@cache.command("export")
@click.argument("folder")
@click.argument("target")
def cache_export(folder: str, target: str) -> None:
    """Write the answers of FOLDER into the file TARGET."""
    from pipelines.llm.cache import export_answers

    click.echo(f"{export_answers(folder, target)} answers exported")


@cache.command("import")
@click.argument("folder")
@click.argument("source")
def cache_import(folder: str, source: str) -> None:
    """Add the answers of the file SOURCE to FOLDER."""
    from pipelines.llm.cache import import_answers

    click.echo(f"{import_answers(folder, source)} answers added")


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the published recipes, or print the one called NAME.

    `lavabeam recipes NAME > my.yaml` is a start for one of your own.
    """
    from lavabeam.recipes import KINDS, published
    from schemas.config import nearest
    from schemas.errors import InputError

    known = list(published())
    if name is None:
        return print_table(
            ("recipe", "used by", ""), [(one.name, KINDS[one.kind], one.summary) for one in known], title=None
        )
    found = [one for one in known if one.name == name]
    if not found:
        raise InputError(f"{name}: there is no such recipe. {nearest(name, [one.name for one in known])}")
    for one in found:
        click.echo(one.path.read_text(encoding="utf-8"), nl=False)
    return None
