"""`lavabeam export`: write a dataset as files for other tools."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from lavabeam.cli.checking import check_datasets, checked_option
from lavabeam.cli.outcome import UNUSABLE
from lavabeam.cli.output import print_json, print_table, say, statuses_text

FORMATS = ("llava_json", "parquet", "webdataset", "energon")


@click.command()
@click.argument("dataset")
@click.argument("folder")
@click.option("--to", type=click.Choice(FORMATS), required=True, help="The format.")
@click.option("--images", metavar="DATASET", help="For conversations: the images dataset with their images.")
@click.option("--shard-size", metavar="SIZE", help="Start a new file after this size: 500MB, 2GB.")
@click.option(
    "--duplicates",
    type=click.Choice(("keep", "drop")),
    default="keep",
    help="Drop rows whose image `dedupe` marks as a copy.",
    show_default=True,
)
@click.option("--left-out", is_flag=True, help="parquet: also write unusable rows, with the reason.")
@checked_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(dataset: str, folder: str, to: str, checked: bool, as_json: bool, **given: Any) -> None:
    """Write DATASET into FOLDER for other tools.

    \b
    llava_json   llava.json and a folder of images, as imported
    parquet      for Hugging Face datasets, with a card and a Croissant file
    webdataset   tar files: a json and the images of each row
    energon      the same with metadata for Megatron-Energon

    Unusable rows are left out and counted by reason. After a kill the same command resumes.
    """
    from pipelines.exporters import ExportConfig, run_export
    from schemas.config import parse

    values = {name: value for name, value in given.items() if value is not None}
    config = parse({"to": to, **values}, ExportConfig, "lavabeam export")
    check_datasets(checked, [dataset, config.images])
    done = run_export(dataset, config, folder)
    for note in done.notes:
        say(f"lavabeam: {note}", err=True)
    if as_json:
        print_json(asdict(done))
    else:
        left = f"; left out: {statuses_text(done.left_out)}" if done.left_out else ""
        print_table(
            ("dataset", "to", "rows", "exported", "files", "MB", "made", "reused"),
            [(dataset, folder, done.rows, done.exported, len(done.files), done.bytes / 1e6, done.made, done.reused)],
        )
        say(f"{done.exported} of {done.rows} rows written{left}.")
    if not done.exported:
        say(f"lavabeam: export: no row of {dataset} could be written.", err=True)
        click.get_current_context().exit(UNUSABLE)
