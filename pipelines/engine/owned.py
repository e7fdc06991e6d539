"""Column ownership: no step may hide a column of the base rows or of another step."""

from __future__ import annotations

import pyarrow as pa

from pipelines.engine.step import Step
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE


def check_columns(step: Step, dataset: Dataset) -> None:
    """Raises InputError, before any work, where a column of `step` has the name of one that is not its own.

    A later file's column hides an earlier one's, so the other would be there and nobody could read it. Only what stores
    pictures may write the columns of stored pictures anew: `download` of what was imported with pictures.
    """
    names = step.output_schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{step.name}: it would make the column {twice!r} twice. {_rename(twice)}")
    stored = {field.name for field in STORED_IMAGE} if dataset.schema_name == "images" else set()
    anew = stored if "image" in names else set()
    schema: pa.Schema = BASE[dataset.schema_name]
    for name in names:
        if name in schema.names or (name in stored and name not in anew):
            raise InputError(
                f"{step.name}: {name!r} is a column of every {dataset.schema_name} dataset, expected a name that is "
                f"free in {dataset.path}. {_rename(name)}"
            )
    others = _others(step.name, dataset)
    for name in names:
        file = others.get(name)
        if file is not None and not (file == "base" and name in anew):
            raise InputError(_covered(step.name, name, file, dataset.path))


def _others(step: str, dataset: Dataset) -> dict[str, str]:
    """Column -> its file, of all files that are not the step's own; hidden columns too."""
    found: dict[str, str] = {}
    for fragment in dataset.fragments:
        for file in fragment.entry.files:
            if file != step:
                found |= dict.fromkeys(fragment.columns_of(file), file)
    return found


def _covered(step: str, name: str, file: str, path: str) -> str:
    whose = "was imported with the rows" if file == "base" else f"is the step {file}'s"
    remedy = (
        f"Import it under another name (--extra '{{{name}_of_list: ...}}'), or give this step's another name, where it "
        "has the option `column`."
        if file == "base"
        else f"Name one of them otherwise: `column: {name}_2` of {step} or {file}, whichever has that option."
    )
    return f"{step}: the column {name!r} of {path} {whose}, and this step's column of that name would hide it. {remedy}"


def _rename(name: str) -> str:
    return f"Give this step's column another name, such as `column: {name}_2`, where it has that option."
