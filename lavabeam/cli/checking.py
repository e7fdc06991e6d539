"""`--checked`: verify the sha256 of a command's input files before it reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

HELP = "First verify the sha256 of every file of the input datasets."
CHECKED = click.Option(["--checked"], is_flag=True, help=HELP)
checked_option = click.option("--checked", is_flag=True, help=HELP)


def check_datasets(checked: bool, paths: Iterable[Any]) -> None:
    """Hash the files of all datasets that exist at `paths`, if `checked`. Raises CorruptError for the first damage."""
    if not checked:
        return
    from schemas import Dataset
    from schemas.verifying import check_bytes

    for path in dict.fromkeys(str(one) for one in paths if one is not None):
        if Dataset.exists(path):
            check_bytes(Dataset.open(path))
