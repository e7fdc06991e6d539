"""Read-only inspection of datasets: show, log, files, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lavabeam.cli.output import one_line, print_json, print_table, say, statuses_text

at_option = click.option("--at", type=int, help="The manifest number to show; by default the newest.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("dataset")
@at_option
@click.option("--row", type=int, help="Show this row with all its columns.")
@click.option("--status", help="Show rows with this status, as step=status.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, help="How many rows --status shows.", show_default=True
)
@click.option("--images", type=Path, help="Write the images of the shown rows to this folder.")
@click.option("--checked", is_flag=True, help="Verify the sha256 of each file before reading it.")
@json_option
def show(
    dataset: str,
    at: int | None,
    row: int | None,
    status: str | None,
    limit: int,
    images: Path | None,
    checked: bool,
    as_json: bool,
) -> None:
    """Show a summary of DATASET, or single rows of it.

    Rows, columns and the statuses of every step, and which statuses exclude a row from later steps.
    """
    from lavabeam.cli.rows import left_out_by_step, rows_with, show_rows, statuses_of_steps
    from schemas import Dataset as Opened

    opened = Opened.open(dataset, at, checked=checked)
    if row is not None:
        return show_rows(opened, [row], images, as_json)
    if status is not None:
        return show_rows(opened, rows_with(opened, status, limit), images, as_json)
    facts: dict[str, Any] = {
        "path": opened.path,
        "schema": opened.schema_version,
        "manifest": opened.manifest.number,
        "created": opened.manifest.created,
        "rows": opened.rows,
        "fragments": len(opened.fragments),
        "bytes": opened.manifest.totals.bytes,
        "columns": opened.columns,
        "statuses": opened.manifest.statuses(),
        "left_out": left_out_by_step(opened),
        "parents": [parent.model_dump() for parent in opened.manifest.parents],
        "info": opened.manifest.info,
    }
    if as_json:
        return print_json(facts)
    say(
        f"{facts['path']}: {facts['schema']}, manifest {facts['manifest']} of {facts['created']}\n"
        f"{facts['rows']} rows in {facts['fragments']} fragments, {facts['bytes'] / 1e6:.1f} MB"
    )
    for parent in opened.manifest.parents:
        say(f"made from {parent.path} at manifest {parent.manifest}")
    if facts["statuses"]:
        print_table(("step", "statuses", "leaves out"), statuses_of_steps(opened))
    say(f"columns: {', '.join(facts['columns'])}")
    return None


@click.command()
@click.argument("dataset")
@json_option
def log(dataset: str, as_json: bool) -> None:
    """List the versions of DATASET, newest first. `lavabeam show --at N` shows one."""
    from schemas import manifest
    from schemas.store import Store

    store = Store(dataset)
    newest = manifest.read(store)
    older = [manifest.read(store, number) for number in reversed(manifest.numbers(store)) if number < newest.number]
    facts = [
        {"manifest": one.number, "created": one.created, "what": one.message, "rows": one.rows, "run": one.run}
        for one in [newest, *older]
    ]
    if as_json:
        return print_json(facts)
    return print_table(
        ("manifest", "created", "what", "rows", "run"), [tuple(map(_line, one.values())) for one in facts]
    )


@click.command()
@click.argument("dataset")
@click.option("--step", help="Only the files of this step; `base` for those of an import or a derived step.")
@at_option
@json_option
def files(dataset: str, step: str | None, at: int | None, as_json: bool) -> None:
    """List the column files of DATASET.

    Columns: path, step, fragment, rows, bytes, sha256. A glob over the folder would also find replaced files.
    """
    from schemas import Dataset as Opened

    opened = Opened.open(dataset, at)
    listed = opened.files(step)
    names = ("path", "step", "fragment", "rows", "bytes", "sha256")
    if as_json:
        return print_json([dict(zip(names, one, strict=True)) for one in listed])
    say("\t".join(names))
    for path, *others in listed:
        say("\t".join(one_line(str(word)) for word in (path, *others)))
    return None


@click.command()
@click.argument("dataset")
@at_option
@json_option
def verify(dataset: str, at: int | None, as_json: bool) -> None:
    """Read every byte of DATASET and name each file that is damaged.

    Length and sha256 are compared with the manifest before anything is parsed, rows and columns afterwards. Exits with
    code 2 if there is damage.
    """
    from schemas import Dataset as Opened
    from schemas.verifying import KINDS, damages

    opened = Opened.open(dataset, at)
    found = []
    for damage in damages(opened):
        found.append(damage)
        if not as_json:
            say(one_line(f"{damage.kind}: {damage.message}"))
    counts = {kind: number for kind in KINDS if (number := sum(one.kind == kind for one in found))}
    if as_json:
        problems = [damage.message for damage in found]
        facts = {"path": opened.path, "manifest": opened.manifest.number, "problems": problems, "counts": counts}
        print_json({**facts, "damaged": [asdict(damage) for damage in found]})
    else:
        files = sum(one.files for part in opened.manifest.ranges for one in part.files.values())
        kinds = f" ({statuses_text(counts)})" if counts else ""
        say(f"{opened.path}: {files} files, {opened.rows} rows, {len(found)} problems{kinds}")
    if found:
        click.get_current_context().exit(2)


def _line(value: Any) -> Any:
    return one_line(value) if isinstance(value, str) else value


@click.group(invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> None:
    """Inspect, export and import cached LLM responses. Without a command: the default cache."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(cache_show, folder=None, as_json=False)


@cache.command("show")
@click.argument("folder", required=False)
@json_option
def cache_show(folder: str | None, as_json: bool) -> None:
    """Size, hits, cost and money saved of the answer cache in FOLDER (the default one if none is given)."""
    from pipelines.llm.cache import summary
    from pipelines.llm.settings import DEFAULT_CACHE

    facts = summary(folder or DEFAULT_CACHE)
    if as_json:
        return print_json(facts)
    groups, budgets = facts.pop("by_prompt"), facts.pop("budgets")
    print_table(("what", "value"), list(facts.items()))
    names = ("answers", "hits", "input_tokens", "output_tokens", "cost", "saved")
    rows = [(f"{one['provider']}/{one['model']}", one["prompt"], *(one[name] for name in names)) for one in groups]
    columns = ("model", "prompt", "answers", "hits", "tokens in", "tokens out", "USD", "USD saved")
    print_table(columns, rows, title="\nBy model and prompt")
    spent = [(dataset, *amounts.values()) for dataset, amounts in budgets.items()]
    kept = ("dataset", "requests", "tokens", "USD", "lost requests", "lost tokens", "lost USD")
    return print_table(
        kept, spent, title="\nSpend per dataset; lost: requests that failed in transit and may have been billed"
    )


@cache.command("export")
@click.argument("folder")
@click.argument("target")
def cache_export(folder: str, target: str) -> None:
    """Write the answers of FOLDER into the file TARGET."""
    from pipelines.llm.cache import export_answers

    say(f"{export_answers(folder, target)} answers exported")


@cache.command("import")
@click.argument("folder")
@click.argument("source")
def cache_import(folder: str, source: str) -> None:
    """Add the answers of the file SOURCE to FOLDER."""
    from pipelines.llm.cache import import_answers

    say(f"{import_answers(folder, source)} answers added")


@click.command()
@click.argument("name", required=False)
@click.option("--keys", is_flag=True, help="Print what every key of a recipe means, as Markdown: docs/recipes.md.")
def recipes(name: str | None, keys: bool) -> None:
    """List the published recipes, or print the one called NAME.

    `lavabeam recipes NAME > my.yaml` is a starting point for your own. If a data recipe and a mix have the same name,
    give data/NAME or mixes/NAME. `--keys`, or docs/recipes.md, explains every key of all kinds of recipes.
    """
    from lavabeam.recipes import KINDS, published
    from schemas.config import nearest
    from schemas.errors import InputError

    if keys:
        from lavabeam.recipes.keys import page

        return say(page(), nl=False)
    known = list(published())
    if name is None:
        return print_table(
            ("recipe", "used by", ""), [(one.name, KINDS[one.kind], one.summary) for one in known], title=None
        )
    found = [one for one in known if name in (one.name, f"{one.kind}/{one.name}")]
    if not found:
        raise InputError(f"{name}: no such recipe. {nearest(name, [one.name for one in known])}")
    if len(found) > 1:
        names = " or ".join(f"{one.kind}/{one.name}" for one in found)
        raise InputError(f"{name}: several recipes have this name. Give {names}.")
    return say(found[0].path.read_text(encoding="utf-8"), nl=False)
