"""Small datasets to export, and what an export folder holds."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
from PIL import Image

from pipelines.exporters import ExportConfig, ExportSummary, run_export
from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig
from schemas import Dataset
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

GENERATOR = {
    **{"provider": "openai", "model": "gpt", "prompt_id": "detail", "prompt_version": "2", "prompt_hash": "ab"},
    **{"input_tokens": 100, "output_tokens": 20, "cost": 0.25},
}


def picture(number: int, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number % 5, 6), (number * 37 % 256, number * 11 % 256, 9)).save(buffer, format)
    return buffer.getvalue()


def photos(path: Path, pictures: dict[str, bytes | None], **columns: list) -> Dataset:
    """An images dataset with these pictures, in fragments of three; `columns` are added to the rows."""
    extra = [pa.field("download_status", pa.string()), pa.field("caption", pa.string())]
    rows = [
        {
            **{"key": key, "source": "coco", "license": "CC0", "download_status": "ok" if content else "timeout"},
            **{"image": {"bytes": content, "path": None} if content else None},
            **{name: values[number] for name, values in columns.items()},
        }
        for number, (key, content) in enumerate(pictures.items())
    ]
    table = pa.Table.from_pylist(rows, pa.schema([*BASE["images"], *STORED_IMAGE, *extra]))
    return write_dataset(path, "images", [table.slice(start, 3) for start in range(0, len(rows), 3)])


def talks(path: Path, file: Path, rows_per_slice: int = 4) -> Dataset:
    """A dataset with the rows of a JSON file of LLaVA's."""
    importer = LlavaJson(LlavaJsonConfig(path=str(file), rows_per_slice=rows_per_slice))
    return write_dataset(path, "conversations", [importer.rows(part) for part in importer.slices()])


def export(dataset: Dataset, folder: Path, to: str, images: Dataset | None = None, **options) -> ExportSummary:
    config = ExportConfig(to=to, images=images.path if images else None, **options)
    return run_export(dataset.path, config, folder)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
