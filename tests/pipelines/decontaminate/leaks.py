"""Small datasets with leaks, made up."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from schemas.records import BASE, CONVERSATIONS, STORED_IMAGE
from schemas.writing import write_dataset


def landscape(seed, size=256):
    """A smooth random picture, uint8, shape (size, size, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def png(pixels):
    return encoded(pixels, "PNG")


def encoded(pixels, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def images_of(path, pictures, **columns):
    """An images dataset of key -> bytes or None, in fragments of three rows; `columns`: name -> (type, values)."""
    schema = pa.schema(
        [*BASE["images"], STORED_IMAGE[0], *(pa.field(name, kind) for name, (kind, _) in columns.items())]
    )
    rows = [{"key": key, "image": {"bytes": data} if data else None} for key, data in pictures.items()]
    for name, (_, values) in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    parts = [pa.Table.from_pylist(rows[start : start + 3], schema) for start in range(0, len(rows), 3)]
    return write_dataset(path, "images", parts)


def talks_of(path, talks):
    """A conversations dataset of key -> (question, answer)."""
    rows = [
        {
            "key": key,
            "status": "ok",
            "messages": [
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": question}]},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ],
        }
        for key, (question, answer) in talks.items()
    ]
    return write_dataset(path, "conversations", [pa.Table.from_pylist(rows, CONVERSATIONS)])
