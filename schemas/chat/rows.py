"""Rows to display, from LLaVA's JSON or from a dataset of samples or conversations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.chat.images import ImageRule, Size
from schemas.chat.llava_json import from_llava, mismatch
from schemas.chat.shapes import loose
from schemas.chat.templates import Message
from schemas.errors import InputError
from schemas.jsonfile import json_values
from schemas.picturefolder import PictureFolder
from schemas.streams import plain_suffix


@dataclass(frozen=True)
class Row:
    """A row to display: `sizes` of its pictures if they are known, `has_image` as its source says.

    warning: why `mix` would refuse it, or what may be a mistake.
    """

    key: str
    messages: list[Message]
    sizes: list[Size] | None
    has_image: bool
    warning: str | None = None


def open_rows(
    path: Path, rule: ImageRule | None, images: str | None, any_speaker: bool
) -> tuple[ImageRule, Iterator[Row | InputError]]:
    """The image rule, and the rows. An invalid row is an InputError that names its number.

    rule: replaces the dataset's own, or LLaVA-1.5's. images: the folder with the pictures of LLaVA's rows, to read
    their sizes. any_speaker: see `from_llava`. Raises InputError for a file that cannot be read.
    """
    if plain_suffix(path.name) in (".json", ".jsonl") and path.is_file():
        return rule or ImageRule(), _llava_rows(path, images, any_speaker)
    if path.is_dir():
        return _open_dataset(path, rule)
    found = "no such file" if not path.exists() else "unknown kind of file"
    raise InputError(
        f"{path}: {found}; expected a .json or .jsonl file of LLaVA rows (also compressed, as .json.gz), or the folder "
        "of a samples dataset."
    )


def _open_dataset(path: Path, rule: ImageRule | None) -> tuple[ImageRule, Iterator[Row | InputError]]:
    from schemas.dataset import Dataset

    dataset = Dataset.open(str(path))
    if dataset.schema_name not in ("samples", "conversations"):
        raise InputError(f"{path}: a dataset of {dataset.schema_name}; expected samples or conversations.")
    recorded = dataset.manifest.info.get("image")
    if rule is None:
        rule = ImageRule.from_dict(recorded) if isinstance(recorded, dict) else ImageRule()
    return rule, _dataset_rows(dataset)


def _dataset_rows(dataset: Any) -> Iterator[Row | InputError]:
    columns = [
        "key",
        "messages",
        *(name for name in ("widths", "heights", "status", "detail") if name in dataset.columns),
    ]
    for fragment in dataset.fragments:
        for batch in fragment.batches(columns):
            for values in batch.to_pylist():
                yield _dataset_row(values)


def _dataset_row(values: dict[str, Any]) -> Row | InputError:
    messages, status = values["messages"], values.get("status") or "ok"
    detail = f" ({values['detail']})" if values.get("detail") else ""
    if not messages:
        return InputError(f"row {values['key']!r}: no messages, status {status}{detail}.")
    sizes = list(zip(values["widths"], values["heights"], strict=True)) if "widths" in values else None
    shows = any(part["type"] == "image" for message in messages for part in message["content"])
    warning = None if shows else loose(messages)
    if status != "ok":
        warning = f"status {status}{detail}; no mix takes it"
    return Row(values["key"], messages, sizes, shows, warning)


def _llava_rows(path: Path, images: str | None, any_speaker: bool) -> Iterator[Row | InputError]:
    folder = None if images is None else PictureFolder(images)
    for number, content in enumerate(json_values(path)):
        try:
            if isinstance(content, InputError):
                raise InputError(f"row {number}: {content}")
            messages, paths = from_llava(content, f"row {number}", strict=False, any_speaker=any_speaker)
            sizes = None if folder is None else [_size(folder, name) for name in paths]
            yield Row(_key(content, number), messages, sizes, bool(paths), _warning(messages, paths))
        except InputError as error:
            yield error


def _key(content: dict[str, Any], number: int) -> str:
    """The row's id, or its number. An unpaired surrogate, which no terminal can print, is escaped."""
    found = content.get("id")
    return str(number if found is None else found).encode(errors="backslashreplace").decode()


def _warning(messages: list[Message], paths: list[str]) -> str | None:
    """Why an import would not take the row, which is shown as it is."""
    return loose(messages) or mismatch(messages, paths)


def _size(folder: PictureFolder, name: str) -> Size:
    from schemas.pictures import PictureError, read

    found = folder.find(name)
    if found.problem:
        raise InputError(f"{folder.path}: {found.problem}.")
    try:
        return read(folder.content(found)).size
    except (OSError, PictureError) as error:
        raise InputError(f"{found.path}: not a readable image ({error}).") from error
