"""`lavabeam decontaminate-index`: hash evaluation sets into one file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from lavabeam.cli.checking import check_datasets, checked_option
from lavabeam.cli.output import print_json, print_table, say


@click.command("decontaminate-index")
@click.argument("index")
@click.option("--set", "sets", multiple=True, metavar="NAME=DATASET", help="An evaluation set. Repeatable.")
@click.option("--ngram", type=click.IntRange(min=2), help="Words per n-gram.  [default: 13]")
@click.option(
    "--question-words", type=click.IntRange(min=1), help="Leave out questions with fewer words.  [default: 8]"
)
@click.option(
    "--common-rows",
    type=click.IntRange(min=1),
    help="Leave out questions and n-grams that occur in more rows of a set.  [default: 10]",
)
@click.option(
    "--min-side", type=click.IntRange(min=1), help="Compare smaller images by their bytes only.  [default: 96]"
)
@click.option("--embedding", default="", metavar="COLUMN", help="Index embeddings too, in this column of every set.")
@checked_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def decontaminate_index(
    index: str, sets: tuple[str, ...], embedding: str, checked: bool, as_json: bool, **given: Any
) -> None:
    """Write INDEX (a .npz file of hashes) of evaluation sets, for `lavabeam decontaminate --index INDEX`.

    A set is a dataset of any kind. Only hashes of its images, questions and texts and the keys of its rows are stored.
    The datasets with a set's questions and its images may have the same NAME.
    """
    from lavabeam.cli.data import pairs_of
    from pipelines.decontaminate import Settings, build_index
    from schemas.config import parse

    named = pairs_of("--set", sets, "NAME=DATASET")
    values = {name: value for name, value in given.items() if value is not None}
    settings = parse(values, Settings, "lavabeam decontaminate-index")
    check_datasets(checked, [path for _, path in named])
    made, reports = build_index(named, settings, embedding)
    made.write(index)
    if as_json:
        return print_json({"index": index, "settings": settings.model_dump(), "sets": [asdict(one) for one in reports]})
    columns = (
        "name",
        "rows",
        "pictures",
        "by_bytes_only",
        "undecodable",
        "questions",
        "ngrams",
        "common",
        "embeddings",
    )
    print_table(columns, [tuple(getattr(report, column) for column in columns) for report in reports])
    return say(f"{index}: hashes of {', '.join(made.kinds)}")
