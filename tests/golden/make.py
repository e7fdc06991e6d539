"""Write the golden dataset of the current version of every schema: `python tests/golden/make.py`, once per release."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.records import BASE, CURRENT, STORED_IMAGE
from schemas.writing import write_dataset

HERE = Path(__file__).parent
# A 1x1 PNG, written out so that no image library can change it.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
MESSAGES = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "One red pixel."}]},
]
GENERATOR = {
    "provider": "example",
    "model": "teacher-1",
    "prompt_id": "detail",
    "prompt_version": "1",
    "prompt_hash": "ab12",
    "parameters": '{"temperature": 0}',
    "request_id": "r-1",
    "input_tokens": 12,
    "output_tokens": 5,
    "cost": 0.0001,
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "images": [
        {
            "key": "a",
            "url": "https://example.com/a.png",
            "alt_text": "a pixel",
            "captions": ["red"],
            "boxes": [{"label": "pixel", "x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0}],
            "facts": [{"name": "color", "value": "red"}],
            "source": "golden",
            "license": "CC0",
            "image": {"bytes": PNG, "path": None},
            "width": 1,
            "height": 1,
            "sha256": "00" * 32,
            "phash": "0" * 16,
        },
        {"key": "b", "url": "https://example.com/b.png"},
    ],
    "conversations": [
        {
            "key": "a/detail",
            "image_keys": ["a"],
            "messages": MESSAGES,
            "kind": "detail",
            "source": "golden",
            "generator": GENERATOR,
            "status": "ok",
        },
        {"key": "b/detail", "image_keys": ["b"], "messages": [], "status": "no_answer", "detail": "empty choices"},
    ],
    "samples": [
        {
            "key": "talks/a/detail",
            "images": [{"bytes": PNG, "path": None}],
            "widths": [1],
            "heights": [1],
            "messages": MESSAGES,
            "kind": "detail",
            "source": "golden",
            "image_count": 1,
            "image_tokens": 16,
            "tokens": 29,
            "supervised_tokens": 5,
        },
        {
            "key": "talks/text",
            "images": [],
            "widths": [],
            "heights": [],
            "messages": MESSAGES[1:],
            "image_count": 0,
            "image_tokens": 0,
            "tokens": 9,
            "supervised_tokens": 5,
        },
    ],
}


def main() -> None:
    for name, (major, minor) in CURRENT.items():
        schema = pa.schema([*BASE[name], *STORED_IMAGE]) if name == "images" else BASE[name]
        release = f"{name}-{major}.{minor}"
        write_dataset(HERE / release, name, [pa.Table.from_pylist(ROWS[name], schema)], info={"golden": release})
        (HERE / f"{release}.schema.txt").write_text(schema.to_string(show_schema_metadata=False) + "\n")


if __name__ == "__main__":
    main()
