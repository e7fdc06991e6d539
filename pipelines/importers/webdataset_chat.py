"""Import conversations out of WebDataset archives: a sample's json file is a row of LLaVA's JSON, or a list of turns.

`webdataset` imports the pictures of the same archives. Both call a sample by its archive and name, so a mix joins them.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipelines.importers.base import ImportStatus, conversation_table
from pipelines.importers.conversation_rows import SOURCES, conversation_row
from pipelines.importers.tars import Sample, picture_endings
from pipelines.importers.webdataset import SampleImporter, SamplesConfig, json_values, read
from schemas.chat.shapes import KEPT_KEYS, MEDIA_KEYS, PICTURE_KEYS, image_paths
from schemas.errors import InputError


class WebDatasetChatConfig(SamplesConfig):
    """Where the archives are, and what their conversations are called."""

    kind: str = Field("conversation", description="written into `kind`")
    source: str | None = Field(None, description="written into `source`; by default what the json says")


class WebDatasetChat(SampleImporter[WebDatasetChatConfig]):
    """One conversation per sample, about the sample's own pictures, whatever path its json names.

    Of several pictures the json's names say the order where they are the files' names, else the archive does.
    """

    name = "webdataset_chat"
    version = 1
    makes = "conversations"
    Config = WebDatasetChatConfig

    def rows_of(self, sample: Sample) -> int:
        return 1

    def reads(self, sample: Sample) -> set[str]:
        return {"json", *picture_endings(sample, self.endings)}

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        return conversation_table(rows)

    def notes(self) -> list[str]:
        others = [name for name in self._keys if name not in {*KEPT_KEYS, *SOURCES, *MEDIA_KEYS, *PICTURE_KEYS}]
        return super().notes() + ([f"ignored keys of json files: {', '.join(others)}."] if others else [])

    def made(self, archive: tarfile.TarFile, sample: Sample, path: str) -> list[dict[str, Any]]:
        key = self.key(path, sample)
        pictures = self.pictures(sample, path)
        values, problems = json_values(read(archive, sample, "json"))
        if "json" not in sample.files:
            problems = [f"the sample has no json file, but {', '.join(sample.files)}"]
        row = {
            "key": key,
            "kind": self.config.kind,
            "source": self.config.source,
            "image_keys": list(pictures.values()),
        }
        if problems:
            return [{**row, "status": ImportStatus.bad_conversation, "detail": f"row {key}: {problems[0]}"}]
        try:
            named = image_paths(values, f"row {key}")
        except InputError:
            named = []  # a struct of bytes, a data URL: the sample's file is the picture
        if named and not pictures:
            lost = f"the sample holds no picture, and its json names {named[0]}"
            return [{**row, "status": ImportStatus.no_image, "detail": lost}]
        keys = _in_order(named, pictures, sample)
        said = {name: value for name, value in values.items() if name not in ("image", "images")}
        return [conversation_row(said, keys, key, self.config.kind, self.config.source)]


def _in_order(named: list[str], pictures: dict[str, str], sample: Sample) -> list[str]:
    """The keys of the pictures, in the order of their names in the json where those are the files' names."""
    by_name: dict[str, str] = {}
    for ending, key in pictures.items():
        file = sample.files[ending].name.removeprefix("./")
        by_name |= {file: key, file.rsplit("/", 1)[-1]: key, ending: key}
    found = [by_name.get(name.removeprefix("./")) for name in named]
    keys = [key for key in found if key is not None]
    return keys if keys and len(keys) == len(found) else list(pictures.values())
