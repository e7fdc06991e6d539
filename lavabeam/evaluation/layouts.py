"""Benchmark files as published: JSON lists and lines, objects by id, TSV, xlsx. Yields one row at a time, with its
location for error messages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.jsonfile import json_values
from schemas.streams import open_text, plain_suffix

Row = tuple[str, dict[str, Any]]
"""(file and row, for messages; the row)"""

_LISTS = ("questions", "annotations", "data")
"""What official files call their list of rows."""

EMPTY = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Cells of a table that mean nothing: those that pandas reads as NaN by default, as MMBench's official scripts do."""


def rows_of(path: Path, values: list[Any] | None = None) -> Iterator[Row]:
    """The objects of a JSON list or of JSON lines, compressed or not; those in the list of `{"questions": [...]}` and
    the like. values: the file's own, if read. Raises InputError naming the row that is none."""
    values = values_of(path) if values is None else values
    if len(values) == 1 and isinstance(values[0], dict):
        values = next((values[0][name] for name in _LISTS if isinstance(values[0].get(name), list)), values)
    yield from rows_in(values, path)


def values_of(path: Path) -> list[Any]:
    """The values of a JSON list or of JSON lines; those of a bad line are InputErrors. A file of one object is read
    once: VQAv2's annotations have 160 MB."""
    check_file(path)
    if plain_suffix(path.name) == ".json":
        with open_text(str(path)) as file:
            try:
                whole = json.load(file)
                return whole if isinstance(whole, list) else [whole]
            except (ValueError, RecursionError):
                pass  # JSON lines, or not JSON at all: the next line tells which
    return list(json_values(path))


def rows_in(values: Iterable[Any], path: Path) -> Iterator[Row]:
    """`values` as rows of `path`. Raises InputError naming one that is no object."""
    name = str(path)
    for number, value in enumerate(values, 1):
        where = f"{name}, row {number}"
        if isinstance(value, InputError):
            raise InputError(f"{where}: {value}")
        if not isinstance(value, dict):
            raise InputError(f"{where}: is {value!r:.60}; expected an object.")
        yield where, value


def json_object(path: Path) -> dict[str, Any]:
    """The file's one JSON object. Raises InputError for anything else."""
    check_file(path)
    with open_text(str(path)) as file:
        try:
            value = json.load(file)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}; expected one JSON object.")
    return value


def table_rows(path: Path, verbatim: str = "") -> Iterator[Row]:
    """Rows of a .tsv, .csv or .xlsx file by the names in its first line; cells that mean nothing are None. In
    the column `verbatim` only blank ones do: "None" is what a model said."""
    check_file(path)
    lines = _sheet(path) if plain_suffix(path.name) == ".xlsx" else _delimited(path)
    names = [str(cell).strip() for cell in next(lines, [])]
    for number, cells in enumerate(lines, 2):
        row = dict(zip(names, cells, strict=False))
        filled = {name: None if _is_empty(cell, name == verbatim) else cell for name, cell in row.items()}
        if any(cell is not None for cell in filled.values()):
            yield f"{path}, line {number}", filled


def _is_empty(cell: Any, verbatim: bool) -> bool:
    return cell is None or cell == "" or (not verbatim and str(cell) in EMPTY)


def is_table(path: Path) -> bool:
    return plain_suffix(path.name) in (".tsv", ".csv", ".xlsx")


def field(row: dict[str, Any], name: str, where: str, *others: str) -> Any:
    """The first of the fields that the row has. Raises InputError naming them all."""
    for one in (name, *others):
        if row.get(one) is not None:
            return row[one]
    listed = " or ".join(repr(one) for one in (name, *others))
    raise InputError(f"{where}: has no {listed}; its fields are {', '.join(map(repr, list(row)[:12])) or 'none'}.")


def check_file(path: Path) -> None:
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {kind}. Expected a file.")


def identity(value: Any, where: str) -> str:
    """An id as text: 7, 7.0 and "7" are the same. Raises InputError for what is none."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise InputError(f"{where}: the id is {value!r:.60}; expected a number or a word.")
    return str(value).strip()


def _delimited(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 30)  # a picture stands in a cell
    with open_text(str(path)) as content, io.TextIOWrapper(content, encoding="utf-8", newline="") as file:
        try:
            yield from csv.reader(file, delimiter="," if plain_suffix(path.name) == ".csv" else "\t")
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read as a table ({error}).") from error


def _sheet(path: Path) -> Iterator[tuple[Any, ...]]:
    import zipfile

    openpyxl = _openpyxl(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable xlsx file ({error}).") from error
    try:
        # Of several sheets the one whose first line names most columns: others are notes.
        yield from max(book.worksheets, key=_named).iter_rows(values_only=True)
    finally:
        book.close()


def _named(sheet: Any) -> int:
    first = next(sheet.iter_rows(max_row=1, values_only=True), ())
    return sum(cell is not None for cell in first)


def write_sheet(path: Path, columns: list[str], rows: Iterable[list[Any]]) -> None:
    """An xlsx file of one sheet. Text stays text: a cell that begins with `=` is no formula."""
    openpyxl = _openpyxl(path)
    book = openpyxl.Workbook()
    sheet = book.active
    for number, row in enumerate([columns, *rows], 1):
        for place, value in enumerate(row, 1):
            if value is None:
                continue
            cell = sheet.cell(number, place)
            is_text = isinstance(value, str)
            cell.value = openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE.sub("", value) if is_text else value
            if is_text:
                cell.data_type = "s"
    book.save(path)


def _openpyxl(path: Path) -> Any:
    try:
        import openpyxl
    except ImportError as error:
        raise InputError(f"{path}: xlsx files need openpyxl: pip install 'lavabeam[evaluate]'.") from error
    return openpyxl
