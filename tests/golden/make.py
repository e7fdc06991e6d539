"""Write the golden datasets that are missing: `python -m tests.golden.make`, once per release.

One of the current version of every schema, and one of the current folder format. What is there stays as it was written.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.columnfile import column_path, write_column_file
from schemas.commit import Change, commit
from schemas.manifest import FORMAT, Parent, StepEntry
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
            "id": "5",
            "extra": '{"model":"","id":5}',
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
            "id": "5",
            "extra": '{"model":"","id":5}',
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
        if not (HERE / release).exists():
            write_dataset(HERE / release, name, [pa.Table.from_pylist(ROWS[name], schema)], info={"golden": release})
            (HERE / f"{release}.schema.txt").write_text(schema.to_string(show_schema_metadata=False) + "\n")
    if not (HERE / f"format-{FORMAT}").exists():
        write_format(HERE / f"format-{FORMAT}")


def write_format(folder: Path) -> None:
    """Two fragments and two versions; a column file that was retried, with statuses, groups and inputs."""
    table = pa.Table.from_pylist(ROWS["images"], pa.schema([*BASE["images"], *STORED_IMAGE]))
    dataset = write_dataset(folder, "images", [table.slice(0, 1), table.slice(1)], info={"golden": folder.name})
    fragment = dataset.manifest.fragments[1]
    batch = pa.record_batch({"look_status": ["late"], "look_host": ["example.com"]})
    made = write_column_file(
        dataset.store,
        column_path(fragment.id, "look", "11" * 32),
        [batch],
        batch.schema,
        "images",
        fingerprint="11" * 32,
        plan="22" * 32,
        inputs={"base": fragment.files["base"].fingerprint},
        status_column="look_status",
        counted_by="look_host",
    )
    steps = {"look": StepEntry(version=3, config={"closely": True})}
    parents = [Parent(path="elsewhere", manifest=4, sha256="33" * 32)]
    change = Change(1, dataset.schema_version, run="r-2", message="look", files={fragment.id: {"look": made}})
    commit(dataset.store, replace(change, steps=steps, parents=parents, versions={"lavabeam": "0.2.0"}))


if __name__ == "__main__":
    main()
