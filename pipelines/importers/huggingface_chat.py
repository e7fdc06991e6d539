"""Import conversations out of Hugging Face datasets that hold pictures too: OneVision, LLaVA-NeXT-Data, the_cauldron.

`huggingface` imports the pictures of the same files. Both call a row by its file and number, so a mix joins them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.engine.step import Later
from pipelines.importers.base import Slice, conversation_table
from pipelines.importers.cells import is_address, is_list, key_of
from pipelines.importers.conversation_rows import SOURCES, conversation_row, without_picture
from pipelines.importers.huggingface_files import (
    PICTURES,
    DataFile,
    DataSource,
    HuggingFaceFilesConfig,
    HuggingFaceImporter,
    opened,
    picture_keys,
    rows_in,
)
from pipelines.importers.mapping import key_text, match
from schemas.chat.shapes import KEPT_KEYS, MEDIA_KEYS, PICTURE_KEYS, shape_of
from schemas.errors import InputError

Turns = Literal[
    "key", "conversations", "messages", "conversation", "prompt", "completion", "texts", "query", "response", "history",
    "instruction", "input", "output", "question", "answer", "answers", "system", "source",
]  # fmt: skip


class HuggingFaceChatConfig(HuggingFaceFilesConfig):
    """Where the dataset is and what its columns mean."""

    columns: dict[Turns, str | None] = Field(
        {},
        description="the name that a column would have (conversations, system, ...): the dataset's column; null leaves "
        "one out. key names rows and pictures as `huggingface` does when it is given the same",
    )
    keys: Literal["row", "path"] = Field(
        "row",
        description="the pictures' keys: the row's, as `huggingface` makes them, or the paths that cells name, as "
        "`image_folder` makes them; addresses are always keys themselves, as `url_list` makes them of `key: COLUMN`",
    )
    answers: Annotated[Literal["most_common", "first"], Later()] = Field(
        "most_common",
        description="which element of a list `answers` to use in a file without a column `answer`: the most frequent "
        "(among equals the first), or the first",
    )
    kind: str = Field("conversation", description="written into `kind`")
    source: Annotated[str | None, Later()] = Field(
        None, description="written into `source`; by default what the column source or data_source says"
    )


class HuggingFaceChat(HuggingFaceImporter[HuggingFaceChatConfig]):
    """One conversation per row. Ids repeat in published files: without a `key` column a row is called by its number."""

    name = "huggingface_chat"
    version = 1
    makes = "conversations"
    Config = HuggingFaceChatConfig

    def __init__(self, config: HuggingFaceChatConfig):
        super().__init__(config)
        self._others: list[str] = []

    def check(self, source: DataSource, file: DataFile) -> None:
        names = {self._renamed().get(name, name) for name in source.columns} - self._left_out()
        names |= {"answer"} if "answers" in names else set()
        given = (*self.config.columns.values(), self.config.image)
        missing = next((name for name in given if name is not None and name not in source.columns), None)
        if missing is not None:
            raise InputError(f"{file.path}: no column {missing!r}. Columns found: {', '.join(source.columns)}.")
        if shape_of(dict.fromkeys(names, True)) is None:
            raise InputError(
                f"{file.path}: no column with conversations. Columns found: {', '.join(source.columns)}. Select it "
                "with `columns`, such as `{conversations: NAME}`."
            )
        self.check_pictures(source, file)
        self._others += [name for name in source.columns if name not in {*self._read(source.columns), *self._others}]

    def key_column(self, columns: Iterable[str]) -> str | None:
        return match(self.config.columns, columns).get("key")

    def sizes(self, source: DataSource) -> Iterable[int]:
        return (1 for _ in range(source.rows))

    def notes(self) -> list[str]:
        return [f"ignored columns: {', '.join(self._others)}."] if self._others else []

    def rows(self, slice: Slice) -> pa.Table:
        where = slice.location
        source = opened(where["path"])
        column = self.picture_column(source.columns)
        several = column is not None and is_list(source.schema.field(column).type)
        found = rows_in(source, where["row"], where["rows"], self._read(source.columns), [column] if column else [])
        return conversation_table(
            self._row(values, self._cells(values, column, several), several, where["name"], number)
            for number, values in enumerate(found, where["row"])
        )

    def _cells(self, values: dict[str, Any], column: str | None, several: bool) -> list[Any] | None:
        """Take the row's pictures out of its values; None in a file without a column for them."""
        if column is None:
            return None
        cell = values.pop(column)
        return (cell or []) if several else [] if cell in (None, "") else [cell]

    def _row(
        self, values: dict[str, Any], cells: list[Any] | None, several: bool, file: str, number: int
    ) -> dict[str, Any]:
        """`cells` are the row's pictures without their bytes; None in a file without a column for them."""
        given = key_text(values.get(self.key_column(values) or ""))
        key = self.key(file, number, given)
        renamed = self._renamed()
        named = {renamed.get(name, name): value for name, value in values.items()}
        if "answer" not in named and "answers" in named:
            named["answer"] = answer_of(named.pop("answers"), self.config.answers)
        keys = picture_keys(key, len(cells or [])) if several else [key]
        keys = [self._picture_key(*picture) for picture in zip(cells or [], keys, strict=False)]
        own_id = named.get("id")
        name = key if given or own_id in (None, "") else f"{key}/{own_id}"
        row = conversation_row(named, keys, name, self.config.kind, self.config.source)
        return row if cells is None else without_picture(row, shape_of(named))

    def _picture_key(self, cell: Any, key: str) -> str:
        path = key_of(cell)
        if path is not None and (self.config.keys == "path" or is_address(path)):
            return path
        return key

    def _renamed(self) -> dict[str, str]:
        """The dataset's column: what it is called here."""
        return {column: name for name, column in self.config.columns.items() if name != "key" and column is not None}

    def _left_out(self) -> set[str]:
        """The columns that null leaves out."""
        return {name for name, column in self.config.columns.items() if column is None}

    def _read(self, columns: Iterable[str]) -> list[str]:
        """The columns that conversations are made of."""
        known = {*SOURCES, "answers", *KEPT_KEYS, *MEDIA_KEYS, *PICTURE_KEYS} - {*PICTURES} - self._left_out()
        wanted = {*known, *self.config.columns.values(), self.key_column(columns)}
        return [name for name in columns if name in wanted or name == self.picture_column(columns)]


def answer_of(answers: Any, rule: Literal["most_common", "first"]) -> Any:
    """One of several people's answers: texts, or objects with `answer` (VQAv2). None where there is none."""
    texts = [one.get("answer") if isinstance(one, dict) else one for one in answers or ()]
    texts = [one for one in texts if isinstance(one, str) and one.strip()]
    if not texts:
        return None
    return texts[0] if rule == "first" else Counter(texts).most_common(1)[0][0]
